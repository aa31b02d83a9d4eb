//! Makes the bytes on the wire of a message, whatever its encoding: each [`Framing`] has a module here.
//!
//! A frame is made in the buffer into which its message is encoded, so that no message is copied to frame it.

mod event_stream;
mod http_stream;
mod maker;
mod websocket;

use std::ops::Range;

use bytes::Bytes;

pub use self::maker::{Compressed, FrameMaker};

use super::Framing;
use super::code::Close;

/// The type of a message, for framings that distinguish them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// No message, but a ping of the framing itself.
    Ping,
}

impl Framing {
    /// Appends the frame of the message that `encode` appends to the buffer. Returns the range of the frame
    /// inside `out`; `None` if there is no message. The message is never compressed; [`FrameMaker::write`]
    /// may do that.
    pub fn write(
        self,
        out: &mut Vec<u8>,
        encode: impl FnOnce(&mut Vec<u8>) -> Option<MessageType>,
    ) -> Option<Range<usize>> {
        match self {
            Self::WebSocket | Self::WebSocketDeflate(_) => websocket::write(out, encode),
            Self::HttpStream => http_stream::write(out, encode),
            Self::EventStream => event_stream::write(out, encode),
        }
    }

    /// The bytes that end a connection with a code and a reason. `None` if the framing has none: the last
    /// message says it then.
    pub fn close(self, close: &Close) -> Option<Bytes> {
        match self {
            Self::WebSocket | Self::WebSocketDeflate(_) => Some(websocket::close(close)),
            Self::HttpStream | Self::EventStream => None,
        }
    }
}
