//! The vocabulary of the gateway: commands, replies and pushes, and their encoding. No I/O, no clock, no
//! tokio.
//!
//! [`command`] has the requests of clients, [`reply`] the messages to one client, [`push`] the messages to
//! many. [`codec`] translates between them and the bytes of a message in one [`Encoding`]; [`framing`] makes
//! the bytes on the wire of a message, and [`deflate`] compresses them. [`delta`] describes a payload by its
//! differences from the one before. The rest of the gateway passes a
//! [`WireFormat`] on and never asks which framing it has. [`emulation`] reads requests with commands of clients
//! that only receive a stream.

pub mod channel;
pub mod command;
pub mod reply;
pub mod push;
pub mod code;
pub mod codec;
pub mod deflate;
pub mod delta;
mod centrifuge;
pub mod emulation;
pub mod framing;
pub mod json;
pub mod tags;
pub mod filter;

use self::deflate::Window;

/// How the messages of a connection become bytes. Agreed in the handshake for the lifetime of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// The Centrifuge client protocol v2 in JSON: one message carries commands separated by LF.
    Json,
    /// The Centrifuge client protocol v2 in Protobuf: one message carries commands, each after its length.
    Protobuf,
    /// The application's own messages: each goes to the plugins unchanged.
    Raw,
    /// The pushes of the Centrifuge client protocol v2 in JSON, without the reply around them, for clients
    /// that only listen. Their one message is the connect request.
    Unidirectional,
}

impl Encoding {
    /// Every value.
    pub const ALL: [Self; 4] = [Self::Json, Self::Protobuf, Self::Raw, Self::Unidirectional];

    /// The name of the protocol in plugins, logs and the API.
    pub fn protocol_name(self) -> &'static str {
        match self {
            Self::Json => "centrifuge-json",
            Self::Protobuf => "centrifuge-protobuf",
            Self::Raw => "raw",
            Self::Unidirectional => "centrifuge-unidirectional",
        }
    }

    /// The name by which backends know how commands and payloads are encoded.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json | Self::Unidirectional => "json",
            Self::Protobuf => "protobuf",
            Self::Raw => "raw",
        }
    }

    /// Whether payloads must be JSON.
    pub fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Unidirectional)
    }

    /// Whether commands are answered, so that an error can be told without closing the connection.
    pub fn has_replies(self) -> bool {
        matches!(self, Self::Json | Self::Protobuf)
    }

    /// Whether clients answer pings.
    pub fn has_pongs(self) -> bool {
        self != Self::Unidirectional
    }

    /// This encoding in a framing.
    pub fn over(self, framing: Framing) -> WireFormat {
        WireFormat { encoding: self, framing }
    }
}

/// How messages are delimited on their way to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Each message is a frame (RFC 6455).
    WebSocket,
    /// The same, and messages may be compressed with this window (RFC 7692).
    WebSocketDeflate(Window),
    /// The messages follow each other in the body of an HTTP response: a text ends with LF, and a record of
    /// Protobuf begins with its length.
    HttpStream,
    /// Each message is an event in the body of an HTTP response (HTML, 9.2: server-sent events).
    EventStream,
}

/// Everything that determines the bytes of a message on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WireFormat {
    /// How a message becomes bytes.
    pub encoding: Encoding,
    /// How these bytes are delimited.
    pub framing: Framing,
}

impl WireFormat {
    /// The name in the API and for backends of the way in which messages are carried.
    pub fn transport_name(self) -> &'static str {
        match (self.encoding, self.framing) {
            (Encoding::Unidirectional, Framing::WebSocket | Framing::WebSocketDeflate(_)) => "uni_websocket",
            (Encoding::Unidirectional, Framing::HttpStream) => "uni_http_stream",
            (Encoding::Unidirectional, Framing::EventStream) => "uni_sse",
            (_, Framing::WebSocket | Framing::WebSocketDeflate(_)) => "websocket",
            (_, Framing::HttpStream) => "http_stream",
            (_, Framing::EventStream) => "sse",
        }
    }

    /// Whether messages may be compressed, in both directions.
    pub fn is_compressed(self) -> bool {
        matches!(self.framing, Framing::WebSocketDeflate(_))
    }
}
