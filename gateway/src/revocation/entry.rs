//! [`Entry`]: one revocation, as gateways exchange it and as it is on disk.

use std::fmt;

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The token with this id.
    Token(Box<str>),
    /// The tokens of this user that were issued before a time.
    UserTokens(Box<str>),
    /// The user.
    User(Box<str>),
}

/// The last version that is believed, in the year 9999: Lua compares numbers of this size exactly, and there
/// are later versions.
const VERSION_MAX: u64 = 253_402_300_799_000;

/// How the ids of each kind begin.
const TOKEN: &str = "token";
const USER_TOKENS: &str = "user_tokens";
const USER: &str = "user";

impl Subject {
    /// The subject with this id, as [`Display`](fmt::Display) writes it.
    pub fn parse(id: &str) -> Option<Self> {
        let (kind, name) = id.split_once(':')?;
        let name = (!name.is_empty()).then(|| name.into())?;
        match kind {
            TOKEN => Some(Self::Token(name)),
            USER_TOKENS => Some(Self::UserTokens(name)),
            USER => Some(Self::User(name)),
            _ => None,
        }
    }

    /// The kind: how the id begins.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Token(_) => TOKEN,
            Self::UserTokens(_) => USER_TOKENS,
            Self::User(_) => USER,
        }
    }

    /// The id of the token, or the user.
    pub fn name(&self) -> &str {
        match self {
            Self::Token(name) | Self::UserTokens(name) | Self::User(name) => name,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.name())
    }
}

/// One revocation, or that it was lifted. Of two entries of a subject the one with the higher version counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What is revoked.
    pub subject: Subject,
    /// Unix time in milliseconds of the change, and higher than that of the entry before.
    pub version: u64,
    /// Unix time in seconds of its end, `None` for when it is lifted. If it was lifted: when that may be
    /// forgotten.
    pub expires_at: Option<u64>,
    /// Tokens that were issued before this Unix time in seconds are revoked. 0 for other subjects.
    pub issued_before: u64,
    /// Whether it was lifted. That is kept for a while: a gateway that was cut off may still have it.
    pub lifted: bool,
}

impl Entry {
    /// An entry of this version that does not end by itself.
    pub fn new(subject: Subject, version: u64) -> Self {
        Self { subject, version, expires_at: None, issued_before: 0, lifted: false }
    }

    /// Whether it is over, at this Unix time in milliseconds.
    pub fn has_expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|seconds| seconds.saturating_mul(1000) <= now)
    }

    /// Whether it counts instead of another entry of the same subject: the later one does, and of two changes
    /// in the same millisecond the stricter one. `revoked_write.lua` decides in the same way.
    pub fn outranks(&self, other: &Self) -> bool {
        let rank = |entry: &Self| {
            let until = entry.expires_at.unwrap_or(u64::MAX);
            (entry.version, !entry.lifted, entry.issued_before, until)
        };
        rank(self) > rank(other)
    }

    /// Everything but the subject, in one line: version, end or 0, `issued_before`, and 1 if it was lifted. A
    /// reader skips what a later version appends.
    pub fn to_text(&self) -> String {
        let Self { version, expires_at, issued_before, lifted, .. } = self;
        format!("{version} {} {issued_before} {}", expires_at.unwrap_or(0), u8::from(*lifted))
    }

    /// Reads the result of [`to_text`](Self::to_text). `None` if it is none.
    pub fn of_text(subject: Subject, text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let (version, expires_at, issued_before, lifted) = (next()?, next()?, next()?, next()?);
        let expires_at = (expires_at != 0).then_some(expires_at);
        if version > VERSION_MAX {
            return None;
        }
        Some(Self { subject, version, expires_at, issued_before, lifted: lifted != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_found_by_its_id() {
        for subject in
            [Subject::Token("a:b".into()), Subject::UserTokens("ann".into()), Subject::User("user:1".into())]
        {
            assert_eq!(Subject::parse(&subject.to_string()), Some(subject));
        }
        for id in ["", "token", "token:", "channel:a", ":a"] {
            assert_eq!(Subject::parse(id), None, "{id:?}");
        }
    }

    #[test]
    fn an_entry_comes_back_from_its_text_and_what_is_appended_is_skipped() {
        let ann = || Subject::User("ann".into());
        let all = [
            Entry::new(ann(), 7),
            Entry { expires_at: Some(9), issued_before: 8, lifted: true, ..Entry::new(ann(), 7) },
        ];
        for entry in all {
            let text = entry.to_text();
            assert_eq!(Entry::of_text(ann(), &text).as_ref(), Some(&entry), "{text}");
            assert_eq!(Entry::of_text(ann(), &format!("{text} later")).as_ref(), Some(&entry));
        }
        for text in ["", "1", "1 2 3", "a b c d", "-1 0 0 0", "18446744073709551615 0 0 0"] {
            assert_eq!(Entry::of_text(ann(), text), None, "{text:?}");
        }
    }
}
