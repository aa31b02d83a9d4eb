//! What is demanded of each part that takes bytes from outside, whatever the bytes are.
//!
//! The runners of cargo-fuzz call [`Target::check`] with what libFuzzer makes up. The ordinary tests
//! (`it/protocol/fuzz.rs`) include this folder as a module and call it with the files of the corpus and with
//! seeded changes of them; they also measure the memory that [`Target::decode`] takes.

#![allow(unreachable_pub, reason = "the crate of the runners exports it, the tests have it as a module")]

mod addresses;
mod commands;
pub mod encode;
mod filter;
mod http;
mod input;
mod messages;
mod nodes;

/// A part of the gateway that takes bytes from outside.
#[derive(Clone, Copy)]
pub struct Target {
    /// Also the name of its runner and of its folder in the corpus.
    pub name: &'static str,
    /// What the gateway does with the bytes, and nothing else.
    pub decode: fn(&[u8]),
    /// Decodes, and panics if the result is not what it has to be.
    pub check: fn(&[u8]),
    /// Bytes of memory that an input may take besides 16 times its size, such as a buffer of a fixed size.
    pub more_bytes: usize,
}

/// For errors with their texts, and for tables of a fixed size.
const LITTLE: usize = 8 * 1024;

/// Every target.
pub const ALL: [Target; 14] = [
    Target { name: "json", decode: commands::json, check: commands::check_json, more_bytes: LITTLE },
    Target {
        name: "protobuf",
        decode: commands::protobuf,
        check: commands::check_protobuf,
        more_bytes: LITTLE,
    },
    Target {
        name: "websocket",
        decode: messages::websocket,
        check: messages::check_websocket,
        // A frame may announce the largest message.
        more_bytes: LITTLE + 5 * messages::MESSAGE_BYTES_MAX,
    },
    Target { name: "frames", decode: messages::frame, check: messages::check_frame, more_bytes: 600 * 1024 },
    Target {
        name: "deflate",
        decode: messages::inflate,
        check: messages::check_inflate,
        more_bytes: LITTLE + 128 * 1024 + 4 * messages::MESSAGE_BYTES_MAX,
    },
    Target { name: "offers", decode: http::offers, check: http::check_offers, more_bytes: LITTLE },
    Target { name: "cf_connect", decode: http::connect, check: http::check_connect, more_bytes: LITTLE },
    Target { name: "forwarded", decode: http::forwarded, check: http::check_forwarded, more_bytes: LITTLE },
    Target { name: "emulation", decode: input::emulation, check: input::check_emulation, more_bytes: LITTLE },
    Target { name: "session", decode: input::session, check: input::check_session, more_bytes: LITTLE },
    Target { name: "proxy", decode: addresses::proxy, check: addresses::check_proxy, more_bytes: LITTLE },
    Target {
        name: "filter",
        decode: filter::filter,
        check: filter::check_filter,
        // At most 4 KiB of a filter are read.
        more_bytes: 64 * 1024,
    },
    Target {
        name: "channel",
        decode: addresses::channel,
        check: addresses::check_channel,
        more_bytes: LITTLE,
    },
    Target { name: "redis", decode: nodes::message, check: nodes::check_message, more_bytes: LITTLE },
];

/// Checks one input of a target; for the runners.
///
/// # Panics
///
/// If something is not as it has to be, or no target has this name.
pub fn check(name: &str, data: &[u8]) {
    let target = ALL.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target is named {name}")).check)(data);
}
