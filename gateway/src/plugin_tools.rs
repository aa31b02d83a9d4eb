//! What authors of plugins do without a running gateway: begin a crate, and build it for WebAssembly. Trying the file is
//! [`testing`](crate::testing).
//!
//! The demo builds the shipped plugins by the same means.

pub(crate) mod cargo;
pub(crate) mod crates;
pub(crate) mod files;
pub(crate) mod sources;
pub(crate) mod tree;
