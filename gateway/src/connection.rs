//! One client: a pure state machine, what surrounds it, and the task that drives it.

pub mod core;
pub mod driver;
pub mod effect;
pub mod event;
pub mod heartbeat;
pub mod id;
pub mod local;
pub mod session;
