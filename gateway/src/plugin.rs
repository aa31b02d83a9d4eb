//! The chain of plugins: it takes events and returns decisions and effects. Nothing here knows how a plugin
//! is executed.

pub mod event;
pub mod verdict;

pub mod chain;
mod deliver;
mod guards;
mod link;
pub mod trace;
pub mod async_pool;
mod timer;
pub mod breaker;
pub mod spare;

pub mod counters;
pub mod state;
pub mod failure;
mod failure_log;
pub mod interests;
pub mod usage;

pub mod grants;
pub mod load;
pub mod registry;
pub mod self_test;
pub mod script;
pub mod settings;

pub use chain::{Chain, Plugin};
pub use link::Link;
