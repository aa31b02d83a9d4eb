//! What the gateway keeps for one plugin beside its counters: rate limits and values. They outlive every instance and
//! every version of the plugin; only the end of the process ends them.

mod connection;
mod shared;
mod cluster;

pub use cluster::{Reports, Taken};
pub use connection::Meters;
pub use gateway_plugin_state::{
    Bounds, IncrementError, KEY_BYTES_MAX, NEVER, Room, Rule, Told, TooLarge, Usage,
};
pub use shared::{Bucket, PluginState, Scope};
