//! Tools for plugin authors and operators that need no running gateway: they create a crate, build it for
//! WebAssembly, put plugins into a folder, and sign tokens. [`testing`](crate::testing) tests a built file.
//!
//! The demo builds the shipped plugins with the same tools.

pub(crate) mod bundle;
pub(crate) mod cargo;
pub(crate) mod crates;
pub(crate) mod files;
pub(crate) mod folder;
pub(crate) mod languages;
pub(crate) mod random;
pub(crate) mod shipped;
pub(crate) mod sources;
pub(crate) mod token;
pub(crate) mod tree;
pub(crate) mod workspace;
