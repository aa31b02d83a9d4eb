//! The state that the gateway keeps for a plugin: the usage of rate limits, and values under a key.
//!
//! The gateway and the test kit of the SDK share this code, so a limit behaves in a test as it does in the
//! gateway. The code uses no locks, threads or clocks: the time is an argument, in milliseconds since any
//! moment.
//!
//! [`Meter`] is the state of one rate limit for one key, in two words. [`Store`] keeps meters and values
//! within [`Bounds`]; its joint meters are shared by several nodes.

mod rule;
mod meter;

mod store;
mod keyed;
mod joint;

pub use joint::Report;
pub use keyed::{IncrementError, TooLarge};
pub use meter::{Meter, MeterState, NEVER, Room};
pub use rule::{Algorithm, InvalidRule, Rule};
pub use store::{Bounds, Key, Store, Usage};

/// Maximum length of a key in bytes.
pub const KEY_BYTES_MAX: usize = 512;
