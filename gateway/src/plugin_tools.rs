//! Tools for plugin authors that need no running gateway: they create a crate and build it for WebAssembly.
//! [`testing`](crate::testing) tests the built file.
//!
//! The demo builds the shipped plugins with the same tools.

pub(crate) mod cargo;
pub(crate) mod crates;
pub(crate) mod files;
pub(crate) mod sources;
pub(crate) mod tree;
