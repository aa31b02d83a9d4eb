//! Compressed messages of clients (permessage-deflate, RFC 7692): what the handshake agrees on, and how a
//! message is decompressed.
//!
//! The WebSocket library knows no extensions and refuses a frame with the bit that marks a compressed
//! message. [`Incoming`] reads the headers of the frames before the library does, remembers the bit and
//! clears it. The library then checks and joins the frames as always, and [`Incoming::restore`] decompresses
//! the message.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::code::Close;
use crate::protocol::codec::Inbound;
use crate::protocol::deflate::{Decompressor, Fault, Window};
use crate::telemetry::metrics::Metrics;

/// The name of the extension.
const NAME: &[u8] = b"permessage-deflate";

/// The answer to an offer that the gateway accepts. Neither side uses earlier messages to compress the next
/// one, so that neither keeps memory for the other, and all clients can receive the same bytes.
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const ANSWER_LARGE: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15";
const ANSWER_SMALL: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9";

/// What the handshake agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The window of messages to the client.
    pub window: Window,
    /// The value of `Sec-WebSocket-Extensions` in the response.
    pub answer: &'static str,
}

/// Accepts the first acceptable offer in the lines of `Sec-WebSocket-Extensions`. `None` if there is none;
/// messages are then not compressed.
pub fn agree<'h>(lines: impl Iterator<Item = &'h [u8]>) -> Option<Agreed> {
    lines.flat_map(|line| split(line, b',')).find_map(accept)
}

/// Accepts an offer: its parameters are known, each comes once, and its value is valid (RFC 7692, 7.1).
fn accept(offer: &[u8]) -> Option<Agreed> {
    let mut parts = split(offer, b';');
    if parts.next()? != NAME {
        return None;
    }
    let mut seen = [false; 4];
    let mut window_bits = None;
    for part in parts {
        let (name, value) = match part.iter().position(|byte| *byte == b'=') {
            Some(at) => (part[..at].trim_ascii_end(), Some(part[at + 1..].trim_ascii_start())),
            None => (part, None),
        };
        let parameter = match (name, value) {
            (b"server_no_context_takeover", None) => 0,
            (b"client_no_context_takeover", None) => 1,
            (b"server_max_window_bits", Some(value)) => {
                window_bits = Some(bits(value)?);
                2
            }
            // The decompressor has room for any window.
            (b"client_max_window_bits", None) => 3,
            (b"client_max_window_bits", Some(value)) => {
                bits(value)?;
                3
            }
            _ => return None,
        };
        if std::mem::replace(&mut seen[parameter], true) {
            return None;
        }
    }
    match window_bits {
        None => Some(Agreed { window: Window::Large, answer: ANSWER }),
        Some(15) => Some(Agreed { window: Window::Large, answer: ANSWER_LARGE }),
        // A server may choose a smaller window than it was asked for. One small window for all of these
        // clients, and each publication is compressed at most twice.
        Some(9..=14) => Some(Agreed { window: Window::Small, answer: ANSWER_SMALL }),
        // The library has no window that small.
        Some(_) => None,
    }
}

/// A number from 8 to 15 without leading zeros, maybe in quotes.
fn bits(value: &[u8]) -> Option<u8> {
    let value = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// The parts between separators outside of quotes, without blanks around them.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(move |byte| {
        let is_separator = *byte == separator && !is_quoted;
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_quoted,
            b'"' => is_quoted = !is_quoted,
            _ => (),
        }
        is_separator
    });
    parts.map(<[u8]>::trim_ascii)
}

/// Decompresses the messages of all connections of a worker.
pub struct Decompression {
    decompressor: RefCell<Decompressor>,
    metrics: Arc<Metrics>,
    worker: usize,
}

impl Decompression {
    /// For the worker with this index in the counters.
    pub fn new(metrics: Arc<Metrics>, worker: usize) -> Self {
        Self { decompressor: RefCell::default(), metrics, worker }
    }
}

/// The frames of one client that may compress its messages.
pub(super) struct Incoming {
    decompression: Rc<Decompression>,
    bytes_max: usize,
    next: Next,
    /// Frames of the current message are missing.
    is_unfinished: bool,
    /// The current message is compressed; whether it is text.
    compressed: Option<bool>,
}

/// What the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The first byte of a frame: FIN, reserved bits and opcode.
    Begin,
    /// Whether the frame is masked, and the begin of its length.
    Length,
    /// The length of this many more bytes, after the part that was read.
    LongLength { left: u8, mask: u8, length: u64 },
    /// The mask and the payload, of which this many bytes are left.
    Rest(u64),
}

/// Reserved bits of the first byte of a frame, and the one that marks a compressed message.
const RESERVED: u8 = 0x70;
const COMPRESSED: u8 = 0x40;
const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
/// Opcodes from here on are those of control frames.
const CONTROL: u8 = 8;
const MASKED: u8 = 0x80;
const MASK_BYTES: u8 = 4;

impl Incoming {
    /// Before the first frame. Messages have at most `bytes_max`, also after they were decompressed.
    pub(super) fn new(decompression: Rc<Decompression>, bytes_max: usize) -> Self {
        Self { decompression, bytes_max, next: Next::Begin, is_unfinished: false, compressed: None }
    }

    /// Looks at bytes on their way to the library, and clears the bit of a compressed message where it is
    /// permitted: in the first frame of a message (RFC 7692, 6.1). Anywhere else it stays, and the library
    /// refuses the frame. Returns how many of the bytes the library may have now: no frame is begun before
    /// the library has all of the previous one, so what is remembered belongs to the message that
    /// the library returns next.
    pub(super) fn look(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while let Some(byte) = bytes.get_mut(at) {
            let step = match self.next {
                Next::Begin => {
                    self.begin(byte);
                    self.next = Next::Length;
                    1
                }
                Next::Length => {
                    let mask = if *byte & MASKED == 0 { 0 } else { MASK_BYTES };
                    self.next = match *byte & !MASKED {
                        126 => Next::LongLength { left: 2, mask, length: 0 },
                        127 => Next::LongLength { left: 8, mask, length: 0 },
                        length => Next::Rest(u64::from(mask) + u64::from(length)),
                    };
                    1
                }
                Next::LongLength { left, mask, length } => {
                    let length = length << 8 | u64::from(*byte);
                    self.next = match left {
                        1 => Next::Rest(length.saturating_add(mask.into())),
                        _ => Next::LongLength { left: left - 1, mask, length },
                    };
                    1
                }
                Next::Rest(left) => {
                    let step = left.min((bytes.len() - at) as u64);
                    self.next = Next::Rest(left - step);
                    step as usize
                }
            };
            at += step;
            if self.next == Next::Rest(0) {
                self.next = Next::Begin;
                break;
            }
        }
        at
    }

    /// Reads the first byte of a frame.
    fn begin(&mut self, byte: &mut u8) {
        let opcode = *byte & OPCODE;
        if opcode >= CONTROL {
            return;
        }
        if matches!(opcode, TEXT | BINARY) && !self.is_unfinished && *byte & RESERVED == COMPRESSED {
            self.compressed = Some(opcode == TEXT);
            // Compressed text is not UTF-8.
            *byte = *byte & FIN | BINARY;
        }
        self.is_unfinished = *byte & FIN == 0;
    }

    /// The message as the client meant it, from the binary message that the library returned.
    ///
    /// # Errors
    ///
    /// With which close frame the connection ends.
    pub(super) fn restore(&mut self, data: Bytes) -> Result<Inbound, Close> {
        let Some(is_text) = self.compressed.take() else { return Ok(Inbound { data, binary: true }) };
        let decompression = &self.decompression;
        let plain = decompression.decompressor.borrow_mut().decompress(&data, self.bytes_max);
        let plain = plain.map_err(|fault| match fault {
            Fault::TooLarge => Close::MESSAGE_TOO_BIG,
            Fault::Malformed => Close::custom(Close::PROTOCOL_ERROR.code, "malformed compressed message"),
        })?;
        decompression.metrics.worker(decompression.worker).decompressed(data.len(), plain.len());
        if is_text && std::str::from_utf8(&plain).is_err() {
            return Err(Close::INVALID_UTF8);
        }
        Ok(Inbound { data: plain, binary: !is_text })
    }
}

#[cfg(test)]
mod tests;
