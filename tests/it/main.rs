//! The gateway from outside: what is promised, tried on the real binary.

#![allow(clippy::unwrap_used, reason = "an unmet expectation is a failed test")]

mod channels;
mod connect;
mod direct;
mod recovery;
mod workers;
