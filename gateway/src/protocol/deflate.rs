//! [`Compressor`] and [`Decompressor`]: single messages in the format of permessage-deflate (RFC 7692, 7.2),
//! each without what came before it. No other module names the compression library.

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// How far back a compressed message may refer: a client with little memory asks for less.
///
/// There are only two values, because every further one would compress each publication once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    /// 512 bytes.
    Small,
    /// 32 KiB, the most there is.
    Large,
}

impl Window {
    /// The base-2 logarithm of its bytes.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Small => 9,
            Self::Large => 15,
        }
    }
}

/// What the end of a flush looks like. It is the same for each message, so it is not sent (RFC 7692, 7.2.1).
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];

/// Bytes that a result may take besides 9 bits for each byte: headers of blocks, and the flush.
const RESULT_BYTES_MORE: usize = 256;

/// Capacity of buffers kept between two messages.
const BUFFER_BYTES_KEPT: usize = 64 * 1024;

/// Compresses messages one after the other. It takes no memory until the first one, and then about 300 KiB
/// for each window in use.
#[derive(Debug)]
pub struct Compressor {
    level: u32,
    small: Option<Compress>,
    large: Option<Compress>,
    buffer: Vec<u8>,
}

impl Compressor {
    /// A compressor with a level from 1 (fast) to 9 (small).
    pub fn new(level: u32) -> Self {
        Self { level, small: None, large: None, buffer: Vec::new() }
    }

    /// Replaces the message that begins at `start` by its compressed form. False if that would not be
    /// smaller; the message is then unchanged.
    pub fn compress(&mut self, window: Window, message: &mut Vec<u8>, start: usize) -> bool {
        let Some(plain) = message.get(start..) else { return false };
        let compress = match window {
            Window::Small => &mut self.small,
            Window::Large => &mut self.large,
        };
        let compress = compress.get_or_insert_with(|| {
            Compress::new_with_window_bits(Compression::new(self.level), false, window.bits())
        });
        compress.reset();
        self.buffer.clear();
        // Room for the largest result. The library panics if its output is full in the middle of a message.
        self.buffer.reserve(plain.len() + plain.len() / 4 + RESULT_BYTES_MORE);
        let done = compress.compress_vec(plain, &mut self.buffer, FlushCompress::Sync);
        let is_flushed = done.is_ok()
            && compress.total_in() == plain.len() as u64
            && self.buffer.len() < self.buffer.capacity();
        let smaller = match self.buffer.strip_suffix(&FLUSHED) {
            Some(compressed) if is_flushed && compressed.len() < plain.len() => {
                message.truncate(start);
                message.extend_from_slice(compressed);
                true
            }
            _ => false,
        };
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        smaller
    }
}

/// Why a message cannot be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing was decompressed beyond the bound.
    #[error("the message is too large")]
    TooLarge,
    /// The bytes are not in the format, end too early, or go on after the end.
    #[error("the compressed bytes are malformed")]
    Malformed,
}

/// Bytes that are decompressed in one step. The bound is checked after each.
const STEP_BYTES: usize = 16 * 1024;

/// What follows a message: the part that was not sent, and an empty last block, so that the library reports
/// whether the message was complete.
const AFTER_MESSAGE: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// Decompresses messages one after the other. It takes about 64 KiB, from the first message on.
#[derive(Debug, Default)]
pub struct Decompressor {
    stream: Option<Decompress>,
    step: Vec<u8>,
    buffer: Vec<u8>,
}

impl Decompressor {
    /// A message as it was before it was compressed, with any window.
    ///
    /// # Errors
    ///
    /// If it would be larger than `bytes_max`, or is malformed. Never more than one byte above the bound is
    /// decompressed, however little was sent.
    pub fn decompress(&mut self, message: &[u8], bytes_max: usize) -> Result<Bytes, Fault> {
        self.buffer.clear();
        let done = self.fill(message, bytes_max);
        // A copy without free capacity, because payloads of commands keep their whole message in memory.
        let plain = done.map(|()| Bytes::copy_from_slice(&self.buffer));
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        plain
    }

    fn fill(&mut self, message: &[u8], bytes_max: usize) -> Result<(), Fault> {
        let stream = self.stream.get_or_insert_with(|| Decompress::new(false));
        stream.reset(false);
        self.step.resize(STEP_BYTES, 0);
        let (mut input, mut sent) = (message, true);
        loop {
            let step_bytes = STEP_BYTES.min(bytes_max.saturating_add(1) - self.buffer.len());
            let (read, written) = (stream.total_in(), stream.total_out());
            let status = stream
                .decompress(input, &mut self.step[..step_bytes], FlushDecompress::Sync)
                .map_err(|_| Fault::Malformed)?;
            let read = (stream.total_in() - read) as usize;
            let written = (stream.total_out() - written) as usize;
            input = &input[read..];
            self.buffer.extend_from_slice(&self.step[..written]);
            if self.buffer.len() > bytes_max {
                return Err(Fault::TooLarge);
            }
            match status {
                // A sender may mark the last block itself. Then nothing follows, or the header of an empty
                // block (RFC 7692, 7.2.3.4).
                Status::StreamEnd if sent => {
                    return if matches!(input, [] | [0]) { Ok(()) } else { Err(Fault::Malformed) };
                }
                Status::StreamEnd => return if input.is_empty() { Ok(()) } else { Err(Fault::Malformed) },
                // There may be more output.
                Status::Ok | Status::BufError if written == step_bytes => (),
                Status::Ok | Status::BufError if sent && input.is_empty() => {
                    (input, sent) = (&AFTER_MESSAGE, false);
                }
                Status::Ok | Status::BufError if read > 0 && !input.is_empty() => (),
                Status::Ok | Status::BufError => return Err(Fault::Malformed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOWS: [Window; 2] = [Window::Small, Window::Large];

    /// The example of RFC 7692, 7.2.3.1: "Hello".
    const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

    fn decompress(message: &[u8]) -> Result<Bytes, Fault> {
        Decompressor::default().decompress(message, 1000)
    }

    #[test]
    fn the_examples_of_the_rfc_are_understood() {
        for message in [
            &HELLO[..],
            // Without compression.
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            // With a block that is marked as the last one.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            // In two blocks.
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(decompress(message), Ok(Bytes::from_static(b"Hello")), "{message:02x?}");
        }
        assert_eq!(decompress(&[0]), Ok(Bytes::new()), "an empty message is one byte");
    }

    #[test]
    fn what_ends_too_early_or_too_late_is_malformed() {
        for end in 0..HELLO.len() {
            assert_eq!(decompress(&HELLO[..end]), Err(Fault::Malformed), "the first {end} bytes");
        }
        let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        for more in [&[0, 0][..], &[1], &HELLO, b"garbage"] {
            assert_eq!(decompress(&[&last[..], more].concat()), Err(Fault::Malformed), "{more:02x?}");
        }
        assert_eq!(decompress(b"{\"id\":1}"), Err(Fault::Malformed), "text");
        assert_eq!(decompress(&[&HELLO[..], b"garbage"].concat()), Err(Fault::Malformed));
        assert_eq!(decompress(&[0x1f, 0x8b, 8, 0]), Err(Fault::Malformed), "gzip");
    }

    #[test]
    fn bytes_without_a_pattern_are_left_as_they_are_whatever_the_level_and_the_size() {
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        let noise: Vec<u8> = noise.take(256 << 10).collect();
        for (level, window) in (1..=9).flat_map(|level| WINDOWS.map(|window| (level, window))) {
            let mut compressor = Compressor::new(level);
            for size in [1, 100, 4 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10] {
                let mut message = noise[..size].to_vec();
                assert!(!compressor.compress(window, &mut message, 0), "level {level}, {size} bytes");
                assert!(message == noise[..size], "level {level}, {size} bytes");
                let half = [&noise[..size / 2], &vec![b'x'; size / 2]].concat();
                let mut message = half.clone();
                if compressor.compress(window, &mut message, 0) {
                    let plain = Decompressor::default().decompress(&message, size);
                    assert!(plain.is_ok_and(|plain| plain == half), "level {level}, {size} bytes");
                }
            }
        }
    }

    #[test]
    fn a_bomb_costs_no_more_than_the_bound() {
        let mut bomb = vec![b'x'; 16 << 20];
        assert!(Compressor::new(9).compress(Window::Large, &mut bomb, 0));
        assert!(bomb.len() < 17_000, "{} bytes for 16 MiB", bomb.len());
        let mut decompressor = Decompressor::default();
        let bytes_max = 64 << 10;
        // Without what is allocated once.
        assert!(decompressor.decompress(&HELLO, bytes_max).is_ok());
        let allocated = allocation_counter::measure(|| {
            assert_eq!(decompressor.decompress(&bomb, bytes_max), Err(Fault::TooLarge));
        });
        // The buffer grows by doubling, and is copied when it does.
        assert!(allocated.bytes_max <= 4 * bytes_max as u64, "{allocated:?}");
        let stream = decompressor.stream.as_ref().expect("it was used");
        assert_eq!(stream.total_out(), bytes_max as u64 + 1);
        assert!(decompressor.decompress(&bomb, 16 << 20).is_ok(), "exactly as large as permitted");
        assert_eq!(decompressor.decompress(&bomb, (16 << 20) - 1), Err(Fault::TooLarge));
        assert!(decompressor.buffer.capacity() <= BUFFER_BYTES_KEPT);
    }

    #[test]
    fn a_fault_leaves_nothing_behind() {
        let mut decompressor = Decompressor::default();
        for bad in [&HELLO[..3], b"nonsense"] {
            assert_eq!(decompressor.decompress(bad, 1000), Err(Fault::Malformed));
            assert_eq!(decompressor.decompress(&HELLO, 5), Ok(Bytes::from_static(b"Hello")));
            assert_eq!(decompressor.decompress(&HELLO, 4), Err(Fault::TooLarge));
        }
        assert_eq!(decompressor.decompress(&HELLO, 0), Err(Fault::TooLarge));
    }

    #[test]
    fn what_does_not_become_smaller_stays_as_it_is() {
        let mut compressor = Compressor::new(6);
        let mut bytes: Vec<u8> = (0..=255).collect();
        for _ in 0..3 {
            assert!(!compressor.compress(Window::Large, &mut bytes, 0));
            assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        }
        assert!(!compressor.compress(Window::Large, &mut Vec::new(), 0), "nothing");
        assert!(!compressor.compress(Window::Large, &mut vec![0], 2), "less than nothing");
    }

    #[test]
    fn a_small_window_looks_no_further_back_than_it_may() {
        // Random bytes (xorshift).
        let mut state = 1_u32;
        let random = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        let part: Vec<u8> = std::iter::repeat_with(random).take(600).collect();
        let compressed = WINDOWS.map(|window| {
            let mut twice = [&part[..], &part].concat();
            Compressor::new(9).compress(window, &mut twice, 0);
            twice.len()
        });
        assert!(compressed[0] >= 1200 && compressed[1] < 700, "{compressed:?}");
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(
            messages in prop::collection::vec(prop::collection::vec(0_u8..4, 0..3000), 1..5),
            before in prop::collection::vec(any::<u8>(), 0..12),
            level in 1_u32..=9,
        ) {
            let (mut compressor, mut decompressor) = (Compressor::new(level), Decompressor::default());
            for (message, window) in messages.iter().flat_map(|message| WINDOWS.map(|window| (message, window))) {
                let mut sent = [&before[..], message].concat();
                let is_compressed = compressor.compress(window, &mut sent, before.len());
                prop_assert!(sent.starts_with(&before));
                let sent = &sent[before.len()..];
                if is_compressed {
                    prop_assert!(sent.len() < message.len());
                    prop_assert_eq!(&decompressor.decompress(sent, message.len()).expect("well-formed")[..], &message[..]);
                } else {
                    prop_assert_eq!(sent, &message[..]);
                }
            }
        }

        #[test]
        fn no_input_is_decompressed_beyond_the_bound(
            message in prop::collection::vec(any::<u8>(), 0..200),
            bytes_max in 0_usize..2000,
        ) {
            if let Ok(plain) = Decompressor::default().decompress(&message, bytes_max) {
                prop_assert!(plain.len() <= bytes_max);
            }
        }
    }
}
