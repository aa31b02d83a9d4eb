//! Encodes WebSocket frames of a server (RFC 6455, 5.2): not masked, never fragmented.
//!
//! The WebSocket library is not used for this, because the bytes of a publication are the same for every
//! subscriber: header and payload are encoded once and shared.

use bytes::Bytes;

use super::code::Close;

/// The type of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// UTF-8 text.
    Text = 0x1,
    /// Bytes.
    Binary = 0x2,
    /// The last frame.
    Close = 0x8,
    /// A ping.
    Ping = 0x9,
}

/// Longest header of a frame that is not masked.
const HEADER_BYTES_MAX: usize = 10;

/// Appends one frame whose payload `body` writes. The header needs no second buffer: room for the longest
/// header is left, and the frame begins where the actual header begins.
///
/// Returns the range of the frame inside `out`.
pub fn write(out: &mut Vec<u8>, opcode: Opcode, body: impl FnOnce(&mut Vec<u8>)) -> std::ops::Range<usize> {
    let reserved = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES_MAX]);
    let payload = out.len();
    body(out);
    let len = out.len() - payload;
    let mut header = [0; HEADER_BYTES_MAX];
    header[0] = 0x80 | opcode as u8;
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
    debug_assert!(start >= reserved);
    start..out.len()
}

/// One frame in a buffer of its own.
pub fn frame(opcode: Opcode, body: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(256);
    let range = write(&mut out, opcode, body);
    Bytes::from(out).slice(range)
}

/// The frame that ends a connection (RFC 6455, 5.5.1).
pub fn close(close: &Close) -> Bytes {
    frame(Opcode::Close, |out| {
        out.extend_from_slice(&close.code.to_be_bytes());
        out.extend_from_slice(close.reason.as_bytes());
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_of(len: usize) -> Vec<u8> {
        let frame = frame(Opcode::Binary, |out| out.resize(out.len() + len, 7));
        assert!(frame.ends_with(&vec![7; len.min(1)]));
        frame[..frame.len() - len].to_vec()
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
        let first = write(&mut out, Opcode::Text, |out| out.extend_from_slice(b"one"));
        let second = write(&mut out, Opcode::Text, |out| out.extend_from_slice(b"two"));
        assert_eq!(&out[first], b"\x81\x03one");
        assert_eq!(&out[second], b"\x81\x03two");
    }

    #[test]
    fn a_close_carries_code_and_reason() {
        assert_eq!(&close(&Close::SLOW)[..], b"\x88\x06\x0b\xc0slow");
    }
}
