//! A realtime gateway whose rules are hot-reloadable WebAssembly plugins.
//!
//! The path of a message, and the modules in its order:
//!
//! ```text
//! accept -> transport -> protocol -> connection -> plugin (wasm) -> hub -> backplane
//!                                        ^                           |        |
//! socket <- outbound <-------------------+---------------------------+--------+  (inbox)
//! ```

pub mod accept;
pub mod admin;
pub mod backplane;
pub mod clock;
pub mod config;
pub mod connection;
pub mod control;
pub mod gateway;
pub mod hub;
pub mod inbox;
pub mod outbound;
pub mod plugin;
pub mod protocol;
pub mod shutdown;
pub mod telemetry;
pub mod transport;
pub mod wasm;
pub mod watch;
pub mod worker;
