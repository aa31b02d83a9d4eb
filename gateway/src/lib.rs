//! A realtime gateway whose rules are hot-reloadable WebAssembly plugins.
//!
//! The path of a message, and the modules in its order:
//!
//! ```text
//! accept -> transport -> protocol -> connection -> plugin (wasm) -> hub -> backplane
//!                                        ^                           |        |
//! socket <- outbound <-------------------+---------------------------+-- inbox-+
//! ```
//!
//! `gateway/ARCHITECTURE.md` describes the same at length, with the levels of the modules: each uses only
//! lower ones.

#![allow(rustdoc::private_intra_doc_links, reason = "read by those who change it, with private items")]

// The path of a message.
pub mod accept;
pub mod transport;
pub mod protocol;
pub mod connection;
pub mod connection_id;
pub mod plugin;
pub mod wasm;
pub mod hub;
pub mod backplane;
pub mod charge;
pub mod outbound;
mod digest;
mod mix;
mod sharded;

// To and from the outside: the plugin folder, the disk, other hosts.
pub mod watch;
pub mod disk;
pub mod egress;
pub mod upstream;
pub mod ask;
pub mod events;
pub mod consumer;
mod backoff;
mod dead_letters;

// The process: threads, wiring, limits of the machine.
pub mod worker;
pub mod gateway;
pub mod config;
pub mod supervisor;
pub mod shutdown;
pub mod clock;
mod descriptors;
pub mod resources;
pub mod budget;

// Operations.
pub mod control;
pub mod revocation;
pub mod admin;
pub mod survey;
pub mod explain;
pub mod telemetry;
pub mod histogram;
pub mod seldom;
pub mod log_users;

// Tools.
pub mod command;
mod plugin_tools;
pub mod testing;
pub mod demo;
