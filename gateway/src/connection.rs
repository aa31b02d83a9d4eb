//! One client connection: a pure state machine, the session that surrounds it, and the task that drives it.

pub mod event;
pub mod effect;
pub mod core;
pub mod heartbeat;
pub mod worker_state;
pub mod session;
pub mod turn;
mod views;
pub mod driver;
