//! [`FrameMaker`] makes the frames of one thread. It keeps what some of them need for that: a compressor, and an
//! encoder of deltas.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::{MessageType, websocket};
use crate::protocol::Framing;
use crate::protocol::deflate::Compressor;
use crate::protocol::delta::Encoder;

/// Largest message that is compressed: a larger one would take milliseconds, in which the thread does nothing
/// else.
const COMPRESSED_BYTES_MAX: usize = 256 * 1024;

/// Makes frames, and compresses their messages where the framing permits it.
#[derive(Debug)]
pub struct FrameMaker {
    compressor: RefCell<Compressor>,
    is_paused: Cell<bool>,
    bytes_min: usize,
    compressed: Cell<Compressed>,
    encoder: RefCell<Encoder>,
    deltas: Cell<Compressed>,
}

/// The messages that were compressed or became deltas, or would not have become smaller.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Compressed {
    /// Their number.
    pub messages: u64,
    /// Their bytes before.
    pub bytes_before: u64,
    /// Their bytes as they were sent.
    pub bytes_after: u64,
}

impl FrameMaker {
    /// Compresses messages of at least `bytes_min`, at a level from 1 (fast) to 9 (small).
    pub fn new(level: u32, bytes_min: usize) -> Self {
        Self {
            compressor: RefCell::new(Compressor::new(level)),
            is_paused: Cell::new(false),
            bytes_min,
            compressed: Cell::default(),
            encoder: RefCell::default(),
            deltas: Cell::default(),
        }
    }

    /// The same as [`Framing::write`], for a message that may be compressed: its size on the wire then tells
    /// something about its contents.
    pub fn write(
        &self,
        framing: Framing,
        out: &mut Vec<u8>,
        encode: impl FnOnce(&mut Vec<u8>) -> Option<MessageType>,
    ) -> Option<Range<usize>> {
        let Framing::WebSocketDeflate(window) = framing else { return framing.write(out, encode) };
        websocket::write_compressed(out, encode, |out, payload| {
            let bytes_before = out.len() - payload;
            if self.is_paused.get() || !(self.bytes_min..=COMPRESSED_BYTES_MAX).contains(&bytes_before) {
                return false;
            }
            let is_smaller = self.compressor.borrow_mut().compress(window, out, payload);
            self.compressed.set(self.compressed.get().and(bytes_before, out.len() - payload));
            is_smaller
        })
    }

    /// Compresses nothing while `is_paused`: for messages of which there are too many.
    pub fn pause(&self, is_paused: bool) {
        self.is_paused.set(is_paused);
    }

    /// The delta that makes a payload out of the one before it, if it is smaller than the payload.
    pub fn delta(&self, base: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
        let delta = self.encoder.borrow_mut().encode(base, payload);
        let bytes_after = delta.as_ref().map_or(payload.len(), Vec::len);
        self.deltas.set(self.deltas.get().and(payload.len(), bytes_after));
        delta
    }

    /// What was compressed since this was last called.
    pub fn take_compressed(&self) -> Compressed {
        self.compressed.take()
    }

    /// The payloads that became deltas since this was last called.
    pub fn take_deltas(&self) -> Compressed {
        self.deltas.take()
    }
}

impl Compressed {
    /// With one more message.
    fn and(self, bytes_before: usize, bytes_after: usize) -> Self {
        Self {
            messages: self.messages + 1,
            bytes_before: self.bytes_before + bytes_before as u64,
            bytes_after: self.bytes_after + bytes_after as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::deflate::{Decompressor, Window};

    const DEFLATE: Framing = Framing::WebSocketDeflate(Window::Large);

    fn frame(maker: &FrameMaker, framing: Framing, message: MessageType, payload: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        let encode = |out: &mut Vec<u8>| {
            out.extend_from_slice(payload);
            Some(message)
        };
        let range = maker.write(framing, &mut out, encode).expect("a message");
        assert_eq!(range.end, out.len());
        out[range].to_vec()
    }

    #[test]
    fn a_message_is_compressed_in_its_frame_and_marked() {
        let maker = FrameMaker::new(6, 64);
        let text = "a sentence, and the same again. ".repeat(20);
        for (message, first) in [(MessageType::Text, 0xc1), (MessageType::Binary, 0xc2)] {
            let frame = frame(&maker, DEFLATE, message, text.as_bytes());
            assert_eq!((frame[0], usize::from(frame[1])), (first, frame.len() - 2));
            let plain = Decompressor::default().decompress(&frame[2..], 1000).expect("well-formed");
            assert_eq!(plain, text.as_bytes());
            let sent = frame.len() as u64 - 2;
            let compressed = Compressed { messages: 1, bytes_before: 640, bytes_after: sent };
            assert_eq!(maker.take_compressed(), compressed);
            assert_eq!(maker.take_compressed(), Compressed::default());
        }
    }

    #[test]
    fn small_large_and_random_messages_and_pings_are_sent_as_they_are() {
        let maker = FrameMaker::new(1, 64);
        let random: Vec<u8> = (0..=255).collect();
        let large = vec![b'x'; COMPRESSED_BYTES_MAX + 1];
        let cases = [
            (MessageType::Text, &large[..63]),
            (MessageType::Text, &large),
            (MessageType::Binary, &random),
            (MessageType::Ping, &large[..100]),
        ];
        for (message, payload) in cases {
            let compressing = frame(&maker, DEFLATE, message, payload);
            assert_eq!(compressing, frame(&maker, Framing::WebSocket, message, payload));
        }
        let tried = Compressed { messages: 1, bytes_before: 256, bytes_after: 256 };
        assert_eq!(maker.take_compressed(), tried, "only the random one was tried");
    }

    #[test]
    fn no_message_makes_no_frame() {
        let mut out = Vec::new();
        assert_eq!(FrameMaker::new(1, 0).write(DEFLATE, &mut out, |_| None), None);
    }
}
