//! Channel names and addresses: the one way to say who receives a message.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest channel name in bytes, as in the reference server of the Centrifuge protocol.
pub const CHANNEL_BYTES_MAX: usize = 255;

/// A valid channel name, cheap to clone and never checked again.
///
/// Visible ASCII without `"`, `\`, `*`, `{` and `}`: such a name needs no escaping in JSON, is no pattern, and carries no
/// Redis hash tag. The first byte tells what the name addresses, see [`Channel::target`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// What an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// All subscribers of a channel.
    Channel,
    /// All connections of one user.
    User(&'a str),
    /// One connection.
    Connection(&'a str),
}

/// Why a text is not a channel name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChannel {
    /// No text at all, or nothing after `#` or `@`.
    #[error("the channel name is empty")]
    Empty,
    /// Longer than [`CHANNEL_BYTES_MAX`].
    #[error("the channel name is longer than {CHANNEL_BYTES_MAX} bytes")]
    TooLong,
    /// A byte outside the allowed set.
    #[error("a channel name is made of visible ASCII characters other than \" \\ * {{ }}")]
    Character,
}

impl Channel {
    /// Checks a name and takes it over.
    pub fn parse(name: &str) -> Result<Self, InvalidChannel> {
        match name.as_bytes() {
            [] | [b'#' | b'@'] => return Err(InvalidChannel::Empty),
            bytes if bytes.len() > CHANNEL_BYTES_MAX => return Err(InvalidChannel::TooLong),
            bytes => {
                let allowed =
                    |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'*' | b'{' | b'}');
                if !bytes.iter().all(allowed) {
                    return Err(InvalidChannel::Character);
                }
            }
        }
        Ok(Self(name.into()))
    }

    /// The address of all connections of a user, if the user id can stand in an address.
    pub fn of_user(user: &str) -> Option<Self> {
        if user.is_empty() { None } else { Self::parse(&format!("#{user}")).ok() }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first colon; `None` if there is no colon.
    pub fn namespace(&self) -> Option<&str> {
        self.0.split_once(':').map(|(namespace, _)| namespace)
    }

    /// Whether a pattern means this name: a name in which a last `*` stands for any rest.
    pub fn is_covered_by(&self, pattern: &str) -> bool {
        match pattern.strip_suffix('*') {
            Some(start) => self.0.starts_with(start),
            None => *self.0 == *pattern,
        }
    }

    /// What this name reaches.
    pub fn target(&self) -> Target<'_> {
        match self.0.as_bytes()[0] {
            b'#' => Target::User(&self.0[1..]),
            b'@' => Target::Connection(&self.0[1..]),
            _ => Target::Channel,
        }
    }
}

impl Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_visible_ascii_of_bounded_length() {
        for good in ["news", "chat:room-7", "#42", "@6c1f", "a", &"x".repeat(255)] {
            assert!(Channel::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", InvalidChannel::Empty),
            ("#", InvalidChannel::Empty),
            ("@", InvalidChannel::Empty),
            (&"x".repeat(256), InvalidChannel::TooLong),
            ("a b", InvalidChannel::Character),
            ("a\n", InvalidChannel::Character),
            ("a\0", InvalidChannel::Character),
            ("{a}", InvalidChannel::Character),
            ("a*", InvalidChannel::Character),
            ("a\"b", InvalidChannel::Character),
            ("Zürich", InvalidChannel::Character),
        ] {
            assert_eq!(Channel::parse(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn the_first_byte_says_what_an_address_reaches() {
        let parse = |name| Channel::parse(name).expect("valid");
        assert_eq!(parse("chat:1").target(), Target::Channel);
        assert_eq!(parse("#42").target(), Target::User("42"));
        assert_eq!(parse("@c1").target(), Target::Connection("c1"));
        assert_eq!(parse("chat:a:b").namespace(), Some("chat"));
        assert_eq!(parse("news").namespace(), None);
        assert_eq!(Channel::of_user(""), None);
        assert_eq!(Channel::of_user("a b"), None);
    }
}
