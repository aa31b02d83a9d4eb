//! The gateway from outside: what is promised, tried on the real binary. One folder per subject.

#![allow(clippy::unwrap_used, reason = "an unmet expectation is a failed test")]
#![allow(clippy::large_futures, reason = "a test has the stack for itself")]

mod protocol;
mod admission;
mod backends;
mod load;
mod plugins;
mod redis;
mod operations;
mod tools;
mod tree;
