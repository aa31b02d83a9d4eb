//! The vocabulary of the gateway: commands, replies and pushes, and their encoding. No I/O, no clock, no
//! tokio.
//!
//! [`command`] has the requests of clients, [`reply`] the messages to one client, [`push`] the messages to
//! many. [`codec`] translates between them and the bytes of one [`Protocol`]; the rest of the gateway never
//! sees those bytes.

pub mod channel;
pub mod command;
pub mod reply;
pub mod push;
pub mod code;
pub mod codec;
mod centrifuge;
pub mod frame;
pub mod json;

/// The protocol of a connection, agreed in the handshake for its lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The Centrifuge client protocol v2 in JSON: one message carries commands separated by LF.
    CentrifugeJson = 0,
    /// The application's own messages: each goes to the plugins unchanged.
    Raw = 1,
}

impl Protocol {
    /// Number of protocols.
    pub const COUNT: usize = 2;

    /// Every value.
    pub const ALL: [Self; Self::COUNT] = [Self::CentrifugeJson, Self::Raw];

    /// The name in plugins and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CentrifugeJson => "centrifuge-json",
            Self::Raw => "raw",
        }
    }

    /// Whether payloads must be JSON.
    pub fn is_json(self) -> bool {
        self == Self::CentrifugeJson
    }
}
