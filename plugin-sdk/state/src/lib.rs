//! What the gateway remembers for a plugin: how much of a rate limit is used, and values under a key.
//!
//! The gateway and the test kit of the SDK share this code, so that a limit that a test has seen is the limit
//! that runs. Nothing here knows a lock, a thread or a clock: the time is an argument, in milliseconds since
//! any moment.
//!
//! [`Meter`] is the state of one rate limit for one key, in two words. [`Store`] keeps meters and values
//! within [`Bounds`]; its joint meters are those that several nodes have together.

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

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 512;
