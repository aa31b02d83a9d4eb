//! What an operator sees and does: the HTTP API, logs, signals, restarts, drains, mounted folders, and parts
//! that fail.

mod admin;
mod drain;
mod logging;
mod memory_limits;
mod metrics;
mod publishing;
mod restart;
mod signals;
mod starting;
mod subscribing;
mod supervision;
mod volumes;
