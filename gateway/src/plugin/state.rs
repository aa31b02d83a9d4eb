//! State of one plugin that the gateway keeps: rate limits and values. It outlives every instance and every
//! version of the plugin and ends with the process.

mod connection;
mod shared;
mod cluster;

pub use cluster::{Reports, Taken};
pub use connection::Meters;
pub use gateway_plugin_state::{
    Bounds, IncrementError, KEY_BYTES_MAX, MeterState, NEVER, Room, Rule, TooLarge, Usage,
};
pub use shared::{Bucket, PluginState, Scope};
