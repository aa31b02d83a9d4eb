//! `Fields` reads the encoding of everything that gateways write for each other: a sequence of fields, each a
//! tag from 1 to 255, the length of its value, and the value. A reader skips unknown tags, so a later version
//! may add fields without a loss.
//!
//! The length is an LEB128 number. The tag 0 ends the fields if something else follows.

use crate::protocol::channel::Channel;

/// Ends fields if something else follows.
pub(crate) const END: u8 = 0;

/// Bytes reserved for a length that is written after its value.
const PATCHED: usize = 4;

/// Splits bytes into fields.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    left: &'a [u8],
    /// Whether [`END`] must end the fields, instead of the end of the bytes.
    marked: bool,
}

impl<'a> Fields<'a> {
    /// Fields that use up these bytes.
    pub(crate) fn filling(bytes: &'a [u8]) -> Self {
        Self { left: bytes, marked: false }
    }

    /// Fields that end with [`END`]; [`rest`](Self::rest) returns what follows.
    pub(crate) fn until_mark(bytes: &'a [u8]) -> Self {
        Self { left: bytes, marked: true }
    }

    /// The next field, or `Some(None)` at the end. `None` for invalid bytes.
    pub(crate) fn next(&mut self) -> Option<Option<(u8, &'a [u8])>> {
        let Some((tag, left)) = self.left.split_first() else {
            return (!self.marked).then_some(None);
        };
        if *tag == END {
            self.left = left;
            return self.marked.then_some(None);
        }
        let (mut length, mut left) = (0_u32, left);
        for shift in [0, 7, 14, 21] {
            let (byte, behind) = left.split_first()?;
            length |= u32::from(byte & 0x7f) << shift;
            left = behind;
            if byte & 0x80 == 0 {
                let (value, left) = left.split_at_checked(usize::try_from(length).ok()?)?;
                self.left = left;
                return Some(Some((*tag, value)));
            }
        }
        None
    }

    /// The bytes after [`END`].
    pub(crate) fn rest(self) -> &'a [u8] {
        self.left
    }
}

/// Writes one field. Values are shorter than 256 MiB: the limits on messages ensure that.
pub(crate) fn put(bytes: &mut Vec<u8>, tag: u8, value: &[u8]) {
    bytes.push(tag);
    let mut length = value.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(value);
}

/// Writes a field whose value is a number.
pub(crate) fn put_number(bytes: &mut Vec<u8>, tag: u8, number: u64) {
    put(bytes, tag, &number.to_be_bytes());
}

/// Writes a field whose value `write` appends, without a buffer in between.
pub(crate) fn put_nested(bytes: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    bytes.push(tag);
    let at = bytes.len();
    bytes.extend_from_slice(&[0; PATCHED]);
    write(bytes);
    let length = bytes.len() - at - PATCHED;
    for (index, byte) in bytes[at..at + PATCHED].iter_mut().enumerate() {
        let more = if index + 1 < PATCHED { 0x80 } else { 0 };
        *byte = (length >> (7 * index) & 0x7f) as u8 | more;
    }
}

/// Reads a number.
pub(crate) fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// Reads a text.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// Reads the name of a channel.
pub(crate) fn channel(value: &[u8]) -> Option<Channel> {
    Channel::parse(text(value)?).ok()
}

/// Reads the channel or pattern of a subscription.
pub(crate) fn subscription(value: &[u8]) -> Option<Channel> {
    Channel::parse_subscription(text(value)?).ok()
}

#[cfg(test)]
mod tests {
    use crate::backplane::redis::format::wire::fields::*;

    fn read(bytes: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
        let (mut fields, mut all) = (Fields::filling(bytes), Vec::new());
        while let Some((tag, value)) = fields.next()? {
            all.push((tag, value.to_vec()));
        }
        Some(all)
    }

    #[test]
    fn fields_of_every_length_are_read_back() {
        let mut bytes = Vec::new();
        let lengths = [0, 1, 127, 128, 16_383, 16_384, 300_000];
        for length in lengths {
            put(&mut bytes, 7, &vec![1; length]);
            put_nested(&mut bytes, 8, |bytes| bytes.resize(bytes.len() + length, 2));
        }
        let expected: Vec<_> =
            lengths.iter().flat_map(|length| [(7, vec![1; *length]), (8, vec![2; *length])]).collect();
        assert_eq!(read(&bytes), Some(expected));
    }

    #[test]
    fn what_is_cut_off_within_a_field_is_none() {
        let mut bytes = Vec::new();
        put(&mut bytes, 7, b"abc");
        for end in 1..bytes.len() {
            assert_eq!(read(&bytes[..end]), None, "{end}");
        }
        assert_eq!(read(&[7, 0xff, 0xff, 0xff, 0xff, 0x01]), None, "a length of five bytes");
        assert_eq!(read(&[END]), None, "a mark where none belongs");
    }

    #[test]
    fn a_mark_ends_fields_and_is_missed() {
        let mut bytes = Vec::new();
        put(&mut bytes, 7, b"abc");
        assert_eq!(Fields::until_mark(&bytes).next(), Some(Some((7, &b"abc"[..]))));
        bytes.extend_from_slice(&[END, 9]);
        let mut fields = Fields::until_mark(&bytes);
        assert!(fields.next().flatten().is_some());
        assert_eq!(fields.next(), Some(None));
        assert_eq!(fields.rest(), [9]);
        let mut fields = Fields::until_mark(b"");
        assert_eq!(fields.next(), None);
    }
}
