//! The Centrifuge client protocol, version 2, in its two encodings. [`request`] has the rules for commands
//! that both share.

mod request;
pub(super) mod json;
pub(super) mod protobuf;

/// The version of the server in replies.
const VERSION: &str = concat!("gateway ", env!("CARGO_PKG_VERSION"));
