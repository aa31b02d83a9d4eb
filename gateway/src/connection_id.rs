//! [`ConnectionIds`] makes and reads connection ids. An id looks random to clients; its own node reads from
//! it the worker and the number of the connection.

use std::hash::Hasher as _;
use std::sync::Arc;

/// Bits of a connection number that hold the count; the bits above them hold the worker.
const COUNT_BITS: u32 = 48;

/// Length of an id.
const ID_LEN: usize = 36;

/// Makes and reads the ids of one node.
///
/// An id is a UUID (RFC 9562, version 8): 62 random bits, and 60 bits of the connection's number masked with
/// a keyed hash of those random bits. Thus `@<id>` finds its connection without a table that all workers
/// share. An attacker that knows the number behind an id learns one value of the hash (SipHash-2-4); to find
/// the key, and with it any other value, the attacker has to try all 2^64 keys.
#[derive(Clone, Copy)]
pub struct ConnectionIds {
    key: u64,
}

impl std::fmt::Debug for ConnectionIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionIds").finish_non_exhaustive()
    }
}

impl ConnectionIds {
    /// Makes ids of a node with this random key.
    pub fn new(key: u64) -> Self {
        Self { key }
    }

    /// The number of a worker's n-th connection.
    pub fn compose(worker: usize, count: u64) -> u64 {
        (worker as u64) << COUNT_BITS | (count & ((1 << COUNT_BITS) - 1))
    }

    /// The number by which plugins know the n-th connection taken over from another node. No connection of
    /// this node has it.
    pub fn taken_over(count: u64) -> u64 {
        Self::compose(usize::from(u16::MAX), count)
    }

    /// The worker a number belongs to.
    pub fn worker(number: u64) -> usize {
        (number >> COUNT_BITS) as usize
    }

    /// The count within its worker.
    pub fn count(number: u64) -> u64 {
        number & ((1 << COUNT_BITS) - 1)
    }

    /// The id of a connection. `random` makes it unguessable.
    pub fn id(self, number: u64, random: u64) -> Arc<str> {
        let random = random & (u64::MAX >> 2);
        let hidden = (number ^ self.mask(random)) & (u64::MAX >> 4);
        // Layout: 48 bits | version 8 | 12 bits | variant 10 | 62 bits.
        let high = (hidden >> 12) << 16 | 0x8000 | (hidden & 0xfff);
        let low = 1 << 63 | random;
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
        .into()
    }

    /// The secret of a connection: an id of its own, which leads to the number, and more random bits.
    pub fn session(self, number: u64, random: [u64; 2]) -> Box<str> {
        format!("{}{:016x}", self.id(number, random[0]), random[1]).into()
    }

    /// The number in the secret of a connection, if the text has the form of one. The caller checks whether
    /// the connection has this secret.
    pub fn number_of_session(self, session: &str) -> Option<u64> {
        self.number(session.get(..ID_LEN)?)
    }

    /// The number in an id, if the text has the form of one. The caller checks whether such a connection
    /// exists.
    pub fn number(self, id: &str) -> Option<u64> {
        let bytes = id.as_bytes();
        if bytes.len() != ID_LEN {
            return None;
        }
        let mut value: u128 = 0;
        for (index, byte) in bytes.iter().enumerate() {
            match (index, byte) {
                (8 | 13 | 18 | 23, b'-') => (),
                (8 | 13 | 18 | 23, _) => return None,
                (_, byte) => value = value << 4 | u128::from(char::from(*byte).to_digit(16)?),
            }
        }
        let (high, low) = ((value >> 64) as u64, value as u64);
        let hidden = (high >> 16) << 12 | (high & 0xfff);
        let random = low & (u64::MAX >> 2);
        Some((hidden ^ self.mask(random)) & (u64::MAX >> 4))
    }

    #[expect(deprecated, reason = "the only keyed hash of the standard library that can be given its key")]
    fn mask(self, random: u64) -> u64 {
        let mut hash = std::hash::SipHasher::new_with_keys(self.key, 0);
        hash.write_u64(random);
        hash.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::{STEP, mix};

    #[test]
    fn an_id_leads_back_to_its_connection() {
        let ids = ConnectionIds::new(0x1234_5678_9abc_def0);
        for (worker, count, random) in
            [(0, 0, 0), (1, 1, u64::MAX), (63, (1 << 48) - 1, 77), (5, 12345, 1 << 61)]
        {
            let number = ConnectionIds::compose(worker, count);
            let id = ids.id(number, random);
            assert_eq!(id.len(), 36);
            assert_eq!(ids.number(&id), Some(number), "{id}");
            assert_eq!(ConnectionIds::worker(number), worker);
        }
    }

    #[test]
    fn a_session_leads_to_its_connection_and_has_nothing_of_its_id() {
        let ids = ConnectionIds::new(7);
        let number = ConnectionIds::compose(3, 99);
        let session = ids.session(number, [5, 6]);
        assert_eq!(session.len(), 52);
        assert_eq!(ids.number_of_session(&session), Some(number));
        assert_ne!(&session[..ID_LEN], &*ids.id(number, 4));
        assert_eq!(ids.number_of_session("short"), None);
    }

    #[test]
    fn ids_of_neighbours_have_nothing_in_common() {
        let ids = ConnectionIds::new(42);
        let (a, b) = (ids.id(1, 0x1111), ids.id(2, 0x2222));
        let same = a.bytes().zip(b.bytes()).filter(|(a, b)| a == b && *a != b'-').count();
        assert!(same < 20, "{a} {b}");
    }

    #[test]
    fn one_id_and_its_number_do_not_tell_the_numbers_of_others() {
        // An attacker that knows or guesses the number of an own id learns one mask, and its random bits.
        let ids = ConnectionIds::new(0x0123_4567_89ab_cdef);
        let known = ids.mask(0x1111);
        // An earlier mask was an invertible function of the key and the random bits; this inverts it.
        let unshift = |value: u64, by: u32| (0..64 / by).fold(value, |z, _| value ^ (z >> by));
        let mut z = unshift(known, 31).wrapping_mul(0x3196_42b2_d24d_8ec3);
        z = unshift(z, 27).wrapping_mul(0x96de_1b17_3f11_9089);
        let key = unshift(z, 30).wrapping_sub(0x1111u64.wrapping_mul(STEP));
        let earlier_mask = |random: u64| mix(key.wrapping_add(random.wrapping_mul(STEP)));
        assert_eq!(earlier_mask(0x1111), known, "the attack is done right");
        assert_ne!(earlier_mask(0x2222), ids.mask(0x2222));
    }

    #[test]
    fn other_texts_have_no_number() {
        let ids = ConnectionIds::new(42);
        for text in ["", "42", "g0000000-0000-8000-8000-000000000000", "000000000000800080000000000000000000"]
        {
            assert_eq!(ids.number(text), None, "{text}");
        }
    }
}
