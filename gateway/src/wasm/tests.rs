//! Tests refused files and running plugins: real ones, and small ones written for one test.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod guest;
mod support;

mod cache;
mod chart;
mod evolution;
mod load;
mod run;
mod state;
mod wasi;
