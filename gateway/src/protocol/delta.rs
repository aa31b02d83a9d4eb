//! [`Encoder`] describes a payload by the differences from the payload before it, in the delta format of
//! Fossil (<https://fossil-scm.org/home/doc/trunk/www/delta_format.wiki>).
//!
//! A delta is the size of its result, then pieces that are copied from the earlier payload or inserted, and
//! a checksum of the result. Numbers have base 64.
//!
//! If the payload is UTF-8, so is its delta: no inserted piece begins or ends within a character. JSON
//! clients receive the delta as a string.

/// Largest payload with a delta: the work for a larger one would take milliseconds.
pub const BYTES_MAX: usize = 256 * 1024;

/// Smallest payload with a delta: the delta of a smaller one is hardly ever smaller still.
pub const BYTES_MIN: usize = 32;

/// Most bytes of the payloads that a worker keeps to make deltas from them.
pub const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes that are compared as a number to find equal pieces.
const WINDOW: usize = size_of::<u64>();

/// Least bytes of a copied piece: copying a shorter one takes about as many bytes as inserting it.
const COPY_MIN: usize = 10;

/// Most places of the earlier payload that are indexed: of a large one, not every byte begins a window.
const PLACES_MAX: usize = 8 * 1024;

/// How far the next equal piece may be displaced against the one before to be found without the index. A
/// number that gets another digit displaces what follows it.
const NEAR: [isize; 5] = [0, 1, -1, 2, -2];

const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// Makes deltas one after the other, in time that is linear in the size of the payloads.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Places in the earlier payload by the hash of the window that begins there, each plus 1; 0 for none.
    index: Vec<u32>,
}

impl Encoder {
    /// The delta that makes `target` out of `base`. `None` if it would not be smaller than `target`.
    pub fn encode(&mut self, base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
        let sizes = BYTES_MIN..=BYTES_MAX;
        if !sizes.contains(&base.len()) || !sizes.contains(&target.len()) {
            return None;
        }
        let head = common_head(base, target);
        let tail = common_tail(&base[head..], &target[head..]);
        let mut delta = Delta::of(target);
        delta.copy(0, 0, head);
        let (base_end, target_end) = (base.len() - tail, target.len() - tail);
        self.middle(&base[..base_end], head, target_end, &mut delta);
        delta.copy(base_end, target_end, target.len());
        let delta = delta.finish();
        (delta.len() < target.len()).then_some(delta)
    }

    /// Finds equal pieces in what lies between the common head and the common tail: in `base` from `head` to
    /// its end, and in the target from `head` to `end`.
    fn middle(&mut self, base: &[u8], head: usize, end: usize, delta: &mut Delta<'_>) {
        let bits = self.fill(base, head);
        let target = &delta.target[..end];
        let (mut at, mut displaced) = (head, 0_isize);
        while let Some(window) = window(target, at) {
            let near = NEAR.iter().filter_map(|more| at.checked_add_signed(displaced + more));
            let best = near.filter_map(|from| Piece::around(base, from, target, at, delta.done));
            let best = best.max_by_key(Piece::len).or_else(|| {
                let from = *self.index.get(hash(window, bits))? as usize;
                Piece::around(base, from.checked_sub(1)?, target, at, delta.done)
            });
            match best {
                Some(Piece { from, start, end }) if delta.copy(from, start, end) => {
                    displaced = from as isize - start as isize;
                    at = delta.done.max(at + 1);
                }
                _ => at += 1,
            }
        }
    }

    /// Indexes the windows of `base` from `head` on. Returns the number of bits of a hash.
    fn fill(&mut self, base: &[u8], head: usize) -> u32 {
        let step = (base.len() - head).div_ceil(PLACES_MAX).max(1);
        let places = (base.len() - head).div_ceil(step);
        let bits = (2 * places).max(2).next_power_of_two().ilog2();
        self.index.clear();
        self.index.resize(1 << bits, 0);
        // Backwards, so that the first of equal windows counts.
        for place in (head..base.len()).step_by(step).rev() {
            if let Some(window) = window(base, place) {
                self.index[hash(window, bits)] = place as u32 + 1;
            }
        }
        bits
    }
}

/// A piece of the target that is equal to the piece of the base that begins at `from`.
struct Piece {
    from: usize,
    start: usize,
    end: usize,
}

impl Piece {
    /// The longest piece around these places in which both are equal, not before `done` in the target. `None`
    /// if the windows that begin there differ.
    fn around(base: &[u8], from: usize, target: &[u8], at: usize, done: usize) -> Option<Self> {
        let ahead = common_head(base.get(from..)?, &target[at..]);
        if ahead < WINDOW {
            return None;
        }
        let behind = common_tail(&base[..from], &target[done..at]);
        Some(Self { from: from - behind, start: at - behind, end: at + ahead })
    }

    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// A delta that is being written.
struct Delta<'a> {
    out: Vec<u8>,
    target: &'a [u8],
    /// The target is written up to here.
    done: usize,
}

impl<'a> Delta<'a> {
    fn of(target: &'a [u8]) -> Self {
        let mut delta = Self { out: Vec::with_capacity(64), target, done: 0 };
        delta.number(target.len() as u32);
        delta.out.push(b'\n');
        delta
    }

    /// Copies what is equal in the base from `from` on, without parts of characters at its ends. False if
    /// that would be too short to be worth it; a later insert then covers it.
    fn copy(&mut self, from: usize, start: usize, end: usize) -> bool {
        let first = self.to_character(start, end, |at| at + 1);
        let end = self.to_character(end, first, |at| at - 1);
        if end - first < COPY_MIN {
            return false;
        }
        self.insert(first);
        self.number((end - first) as u32);
        self.out.push(b'@');
        self.number((from + first - start) as u32);
        self.out.push(b',');
        self.done = end;
        true
    }

    /// Moves a place to where a character begins, at most up to `limit`. In UTF-8 that takes three steps;
    /// other bytes may be cut anywhere.
    fn to_character(&self, place: usize, limit: usize, step: impl Fn(usize) -> usize) -> usize {
        let is_within = |at: usize| self.target.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
        let mut at = place;
        for _ in 0..3 {
            if at == limit || !is_within(at) {
                break;
            }
            at = step(at);
        }
        at
    }

    /// Inserts the target up to `end`.
    fn insert(&mut self, end: usize) {
        let piece = &self.target[self.done..end];
        if !piece.is_empty() {
            self.number(piece.len() as u32);
            self.out.push(b':');
            self.out.extend_from_slice(piece);
            self.done = end;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.insert(self.target.len());
        self.number(checksum(self.target));
        self.out.push(b';');
        self.out
    }

    fn number(&mut self, number: u32) {
        let digits = (u32::BITS - number.leading_zeros()).div_ceil(6).max(1);
        for digit in (0..digits).rev() {
            self.out.push(DIGITS[(number >> (6 * digit)) as usize & 0x3f]);
        }
    }
}

/// The sum of all groups of four bytes, each read as a number; zeros fill up the last group.
fn checksum(bytes: &[u8]) -> u32 {
    let (groups, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let numbers = groups.iter().chain([&last]).map(|group| u32::from_be_bytes(*group));
    numbers.fold(0, u32::wrapping_add)
}

/// The window that begins at a place.
fn window(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<WINDOW>().map(|window| u64::from_le_bytes(*window))
}

fn hash(window: u64, bits: u32) -> usize {
    (window.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - bits)) as usize
}

/// Length of the equal beginning of both.
fn common_head(a: &[u8], b: &[u8]) -> usize {
    let (chunks, _) = a.as_chunks::<WINDOW>();
    let (others, _) = b.as_chunks::<WINDOW>();
    let equal = WINDOW * chunks.iter().zip(others).take_while(|(a, b)| a == b).count();
    equal + a[equal..].iter().zip(&b[equal..]).take_while(|(a, b)| a == b).count()
}

/// Length of the equal end of both.
fn common_tail(a: &[u8], b: &[u8]) -> usize {
    let (_, chunks) = a.as_rchunks::<WINDOW>();
    let (_, others) = b.as_rchunks::<WINDOW>();
    let equal = WINDOW * chunks.iter().rev().zip(others.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - equal], &b[..b.len() - equal]);
    equal + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
