//! Encodes WebSocket frames of a server (RFC 6455, 5.2): not masked, never fragmented.
//!
//! The WebSocket library is not used for this, because the bytes of a publication are the same for every
//! subscriber: header and payload are encoded once and shared.

use std::ops::Range;

use bytes::Bytes;

use super::MessageType;
use crate::protocol::code::Close;

/// The type of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Opcode {
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
}

impl From<MessageType> for Opcode {
    fn from(message: MessageType) -> Self {
        match message {
            MessageType::Text => Self::Text,
            MessageType::Binary => Self::Binary,
            MessageType::Ping => Self::Ping,
        }
    }
}

/// The first bits of every frame: it is all of its message.
const FIN: u8 = 0x80;

/// The bit of a compressed message (RFC 7692, 7.2.1).
const COMPRESSED: u8 = 0x40;

/// Longest header of a frame that is not masked.
const HEADER_BYTES_MAX: usize = 10;

/// Appends one frame around the message that `encode` appends. The header needs no second buffer: room for
/// the longest header is left, and the frame begins where the actual header begins.
///
/// Returns the range of the frame inside `out`; `None` if there is no message.
pub(super) fn write(
    out: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>) -> Option<MessageType>,
) -> Option<Range<usize>> {
    write_compressed(out, encode, |_, _| false)
}

/// The same. Where the message is not a ping, `compress` gets the buffer and the beginning of the message in
/// it; it may replace the message by its compressed form, and returns whether it did.
pub(super) fn write_compressed(
    out: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>) -> Option<MessageType>,
    compress: impl FnOnce(&mut Vec<u8>, usize) -> bool,
) -> Option<Range<usize>> {
    out.extend_from_slice(&[0; HEADER_BYTES_MAX]);
    let payload = out.len();
    let message = encode(out)?;
    let is_compressed = message != MessageType::Ping && compress(out, payload);
    let bits = if is_compressed { FIN | COMPRESSED } else { FIN };
    Some(finish(out, payload, bits, message.into()))
}

/// Writes the header into the room before `payload`.
fn finish(out: &mut [u8], payload: usize, bits: u8, opcode: Opcode) -> Range<usize> {
    let len = out.len() - payload;
    let mut header = [0; HEADER_BYTES_MAX];
    header[0] = bits | opcode as u8;
    let header = match len {
        0..=125 => {
            header[1] = len as u8;
            &header[..2]
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            &header[..4]
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(len as u64).to_be_bytes());
            &header[..10]
        }
    };
    let start = payload - header.len();
    out[start..payload].copy_from_slice(header);
    start..out.len()
}

/// The frame that ends a connection (RFC 6455, 5.5.1).
pub(super) fn close(close: &Close) -> Bytes {
    let mut out = vec![0; HEADER_BYTES_MAX];
    out.extend_from_slice(&close.code.to_be_bytes());
    out.extend_from_slice(close.reason.as_bytes());
    let range = finish(&mut out, HEADER_BYTES_MAX, FIN, Opcode::Close);
    Bytes::from(out).slice(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_of(len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let message = |out: &mut Vec<u8>| {
            out.resize(out.len() + len, 7);
            Some(MessageType::Binary)
        };
        let frame = write(&mut out, message).expect("a message");
        assert!(out.ends_with(&vec![7; len.min(1)]));
        out[frame.start..frame.end - len].to_vec()
    }

    #[test]
    fn the_header_has_the_length_in_the_shortest_form() {
        assert_eq!(header_of(0), [0x82, 0]);
        assert_eq!(header_of(125), [0x82, 125]);
        assert_eq!(header_of(126), [0x82, 126, 0, 126]);
        assert_eq!(header_of(0xffff), [0x82, 126, 0xff, 0xff]);
        assert_eq!(header_of(0x1_0000), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn frames_follow_each_other_in_one_buffer() {
        let mut out = Vec::new();
        let mut text = |text: &str| {
            write(&mut out, |out| {
                out.extend_from_slice(text.as_bytes());
                Some(MessageType::Text)
            })
        };
        let (first, second) = (text("one").expect("a message"), text("two").expect("a message"));
        assert_eq!(&out[first], b"\x81\x03one");
        assert_eq!(&out[second], b"\x81\x03two");
        assert_eq!(write(&mut out, |_| None), None);
    }

    #[test]
    fn a_close_carries_code_and_reason() {
        assert_eq!(&close(&Close::SLOW)[..], b"\x88\x06\x0b\xc0slow");
    }
}
