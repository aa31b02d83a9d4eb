//! A realtime gateway whose rules are hot-reloadable WebAssembly plugins.
//!
//! A message takes this path through the modules:
//!
//! ```text
//! accept -> transport -> protocol -> connection -> plugin (wasm) -> hub -> backplane
//!                                        ^                           |        |
//! socket <- outbound <-------------------+---------------------------+-- inbox-+
//! ```
//!
//! `gateway/ARCHITECTURE.md` describes the path in full.

#![allow(rustdoc::private_intra_doc_links, reason = "read by those who change it, with private items")]

pub mod accept;
pub mod transport;
pub mod protocol;
pub mod connection;
pub mod plugin;
pub mod wasm;
pub mod watch;
pub mod disk;
pub mod hub;
pub mod connection_id;
pub mod backplane;
pub mod charge;
pub mod outbound;

pub mod egress;
pub mod upstream;

pub mod worker;
pub mod gateway;
pub mod control;
pub mod survey;
pub mod explain;
pub mod command;
mod plugin_tools;
pub mod testing;
pub mod demo;
pub mod admin;
pub mod config;
mod descriptors;
pub mod telemetry;
pub mod shutdown;
pub mod supervisor;
pub mod clock;
pub mod seldom;
pub mod resources;
pub mod budget;
