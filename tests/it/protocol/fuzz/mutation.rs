//! [`Mutator`] changes files of a corpus, in the ways in which bytes break readers. The same seed makes the
//! same changes.

use gateway_tests::Random;

use super::pick;

/// Most bytes of a changed input that is not meant to be large.
const BYTES_MAX: usize = 4096;

/// One in this many changes becomes large.
const LARGE_ONE_IN: usize = 400;

/// Bytes with a meaning somewhere.
const BYTES: [u8; 20] = [
    0, 1, 2, 0x7f, 0x80, 0x81, 0xc1, 0xfe, 0xff, b'\n', b'\r', b' ', b'"', b'\\', b'{', b'}', b'[', b',',
    b'-', b'9',
];

/// Longer ones.
const WORDS: [&[u8]; 18] = [
    b"null",
    b"{}",
    b"[]",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"\\ud800",
    b"\\u0000",
    b"\xc3\xa9",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x10",
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff",
    b"\r\n\r\n",
    b"%00",
    b"%",
    b"\"id\":1,",
    b"\x00\x00\xff\xff",
];

pub(super) struct Mutator {
    files: Vec<Vec<u8>>,
    random: Random,
}

impl Mutator {
    pub(super) fn new(files: Vec<Vec<u8>>, seed: u64) -> Self {
        assert!(!files.is_empty());
        Self { files, random: Random::new(seed) }
    }

    /// A file with one to five changes.
    pub(super) fn next(&mut self) -> Vec<u8> {
        if self.random.one_in(LARGE_ONE_IN) {
            return self.large(64 * 1024);
        }
        let mut data = self.file();
        for _ in 0..1 + self.random.below(5) {
            self.change(&mut data);
        }
        data.truncate(BYTES_MAX);
        data
    }

    /// A file of which a part is repeated until it has this size.
    pub(super) fn large(&mut self, bytes: usize) -> Vec<u8> {
        let mut data = self.file();
        if data.is_empty() {
            data.push(0);
        }
        let (start, end) = self.range(data.len());
        let part = if start == end { data.clone() } else { data[start..end].to_vec() };
        let missing = bytes.saturating_sub(data.len());
        let repeated = part.iter().copied().cycle().take(missing);
        data.splice(end..end, repeated);
        data.truncate(bytes);
        data
    }

    fn file(&mut self) -> Vec<u8> {
        pick(&mut self.random, &self.files).clone()
    }

    /// A part of so many bytes.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let (one, other) = (self.random.below(length + 1), self.random.below(length + 1));
        (one.min(other), one.max(other))
    }

    fn change(&mut self, data: &mut Vec<u8>) {
        let at = self.random.below(data.len() + 1);
        let (start, end) = self.range(data.len());
        match self.random.below(10) {
            0 if at < data.len() => data[at] ^= 1 << self.random.below(8),
            1 if at < data.len() => data[at] = *pick(&mut self.random, &BYTES),
            2 if at < data.len() => {
                data[at] = data[at].wrapping_add(self.random.below(7) as u8).wrapping_sub(3)
            }
            3 => data.insert(at, *pick(&mut self.random, &BYTES)),
            4 => drop(data.splice(at..at, pick(&mut self.random, &WORDS).iter().copied())),
            5 => drop(data.drain(start..end)),
            6 => {
                let part = data[start..end].to_vec();
                drop(data.splice(at..at, part));
            }
            7 => {
                let other = self.file();
                let (from, to) = self.range(other.len());
                drop(data.splice(start..end, other[from..to].iter().copied()));
            }
            8 => data.truncate(at),
            // A number becomes another one.
            9 => {
                if let Some(digit) = data[start..].iter().position(u8::is_ascii_digit) {
                    data[start + digit] = b'0' + self.random.below(10) as u8;
                }
            }
            _ => data.push(self.random.below(256) as u8),
        }
    }
}
