//! Goes through JSON (RFC 8259) without building anything of it.
//!
//! What is let through is what `serde_json` lets through when it ignores a value: names and texts with valid
//! escapes and without control characters, numbers by their grammar whatever their size, and no more than
//! [`DEPTH_MAX`] levels.

use std::borrow::Cow;

/// As deep as `serde_json` follows.
const DEPTH_MAX: usize = 128;

/// How a value begins, and so what it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    Object,
    Array,
    Text,
    Other,
}

/// A place in a text. `None` from any function means that the text is not JSON.
#[derive(Debug)]
pub(super) struct Scan<'m> {
    text: &'m str,
    at: usize,
    depth: usize,
}

impl<'m> Scan<'m> {
    pub(super) const fn new(text: &'m str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'m str {
        &self.text[self.at..]
    }

    /// There is only white space left.
    pub(super) fn end(&mut self) -> Option<()> {
        if self.next().is_none() { Some(()) } else { None }
    }

    /// What the next value is.
    #[inline]
    pub(super) fn begins(&mut self) -> Option<Begins> {
        Some(match self.next()? {
            b'{' => Begins::Object,
            b'[' => Begins::Array,
            b'"' => Begins::Text,
            _ => Begins::Other,
        })
    }

    /// Enters an object or list. Whether there is anything in it.
    #[inline]
    pub(super) fn open(&mut self, open: u8, close: u8) -> Option<bool> {
        self.take(open)?;
        self.depth += 1;
        if self.depth >= DEPTH_MAX {
            return None;
        }
        if self.next()? != close {
            return Some(true);
        }
        self.at += 1;
        self.depth -= 1;
        Some(false)
    }

    /// Goes on to the next item, or leaves the object or list. Whether there is one.
    #[inline]
    pub(super) fn more(&mut self, close: u8) -> Option<bool> {
        match self.next()? {
            b',' => self.at += 1,
            byte if byte == close => {
                self.at += 1;
                self.depth -= 1;
                return Some(false);
            }
            _ => return None,
        }
        Some(true)
    }

    /// The name of a field, and the colon behind it.
    #[inline]
    pub(super) fn name(&mut self) -> Option<Cow<'m, str>> {
        self.next()?;
        let name = self.text()?;
        self.next()?;
        self.take(b':')?;
        Some(name)
    }

    /// A text.
    #[inline]
    pub(super) fn text(&mut self) -> Option<Cow<'m, str>> {
        let from = self.at;
        let escaped = self.skip_text()?;
        let quoted = &self.text[from..self.at];
        if escaped {
            return serde_json::from_str(quoted).ok().map(Cow::Owned);
        }
        Some(Cow::Borrowed(&quoted[1..quoted.len() - 1]))
    }

    /// Goes over a value.
    pub(super) fn skip(&mut self) -> Option<()> {
        match self.next()? {
            b'"' => self.skip_text().map(drop),
            b'{' => {
                let mut more = self.open(b'{', b'}')?;
                while more {
                    self.next()?;
                    self.skip_text()?;
                    self.next()?;
                    self.take(b':')?;
                    self.skip()?;
                    more = self.more(b'}')?;
                }
                Some(())
            }
            b'[' => {
                let mut more = self.open(b'[', b']')?;
                while more {
                    self.skip()?;
                    more = self.more(b']')?;
                }
                Some(())
            }
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    /// The next byte that is no white space, which is not taken.
    #[inline]
    fn next(&mut self) -> Option<u8> {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                _ => return Some(byte),
            }
        }
        None
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Option<()> {
        if self.peek()? != byte {
            return None;
        }
        self.at += 1;
        Some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += word.len();
        rest.starts_with(word.as_bytes()).then_some(())
    }

    /// Goes over a text in quotes. Whether there are escapes in it.
    fn skip_text(&mut self) -> Option<bool> {
        self.take(b'"')?;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        loop {
            // Eight bytes at a time, as long as there is nothing special among them.
            while let Some((eight, _)) = bytes.get(self.at..).and_then(<[u8]>::split_first_chunk) {
                let special = special(u64::from_le_bytes(*eight));
                self.at += (special.trailing_zeros() / 8) as usize;
                if special != 0 {
                    break;
                }
            }
            match *bytes.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return Some(escaped);
                }
                b'\\' => {
                    escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                0..=0x1f => return None,
                _ => self.at += 1,
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Option<()> {
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek()? {
            // No zero comes before another digit.
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }
}

/// Marks the bytes that end the plain part of a text: `"`, `\` and control characters, with the highest bit
/// of each. The lowest mark is exact; those above it need not be.
const fn special(eight: u64) -> u64 {
    const EACH: u64 = u64::MAX / 255;
    const HIGH: u64 = EACH << 7;
    let quote = eight ^ (EACH * b'"' as u64);
    let backslash = eight ^ (EACH * b'\\' as u64);
    let zero = (quote.wrapping_sub(EACH) & !quote) | (backslash.wrapping_sub(EACH) & !backslash);
    let control = eight.wrapping_sub(EACH * 0x20) & !eight;
    (zero | control) & HIGH
}
