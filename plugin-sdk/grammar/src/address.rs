//! Addresses: they name the receivers of a message.
//!
//! | an address | reaches | is made of |
//! |---|---|---|
//! | `news`, `chat:room-7` | the subscribers of a channel | visible ASCII other than `"`, `\`, `*`, `{`, `}` |
//! | `#42`, `#jane doe`, `#Zürich` | all connections of a user | `#` and the user id: any text without control characters |
//! | `@6c1f…` | one connection | `@` and the id of the connection, of the characters of a channel |
//!
//! An address has at most [`BYTES_MAX`] bytes in UTF-8, so a user id has at most [`USER_BYTES_MAX`]. The
//! gateway compares user ids byte by byte: two encodings of one letter are two users.

use std::fmt;

/// Maximum length of an address in bytes, as in the reference server of the Centrifuge protocol.
pub const BYTES_MAX: usize = 255;

/// Maximum length of a user id in bytes: `#` and the id form an address.
pub const USER_BYTES_MAX: usize = BYTES_MAX - 1;

/// The reason why a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// The text is empty, or has nothing after `#` or `@`.
    Empty,
    /// Longer than [`BYTES_MAX`].
    TooLong,
    /// A channel or a connection with a byte outside the allowed set.
    Character,
    /// A user id with a control character.
    Control,
    /// A text with `*` that is no [pattern](crate::wildcard).
    Pattern,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the channel name is empty"),
            Self::TooLong => write!(f, "the channel name is longer than {BYTES_MAX} bytes"),
            Self::Character => {
                f.write_str("a channel name is made of visible ASCII characters other than \" \\ * { }")
            }
            Self::Control => f.write_str("a user id has no control characters"),
            Self::Pattern => f.write_str(
                "a pattern is a namespace, a colon and 1 to 16 segments between dots: text without `*`, `*`, or \
                 `**` as the last one",
            ),
        }
    }
}

impl std::error::Error for Invalid {}

/// Checks an address of any kind.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn check(address: &str) -> Result<(), Invalid> {
    match address.as_bytes() {
        [] | [b'#' | b'@'] => Err(Invalid::Empty),
        bytes if bytes.len() > BYTES_MAX => Err(Invalid::TooLong),
        [b'#', ..] => {
            if address.chars().any(char::is_control) {
                Err(Invalid::Control)
            } else {
                Ok(())
            }
        }
        bytes if bytes.iter().all(is_plain) => Ok(()),
        _ => Err(Invalid::Character),
    }
}

/// What channels are made of: it needs no escaping in JSON, is no pattern, and carries no hash tag of Redis.
pub(crate) fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'*' | b'{' | b'}')
}

/// Whether a text is a valid address.
///
/// ```
/// # use gateway_plugin_grammar::address;
/// assert!(address::is_valid("chat:room-7") && address::is_valid("#jane doe"));
/// assert!(!address::is_valid("chat:room 7"));
/// ```
pub fn is_valid(address: &str) -> bool {
    check(address).is_ok()
}

/// Whether a text can be a part of a channel, such as a user id in `inbox:{user}`. False for an empty text,
/// and for a text that could change a pattern.
///
/// ```
/// # use gateway_plugin_grammar::address;
/// assert!(address::is_part("42") && address::is_part("a@b.example"));
/// assert!(!address::is_part("jane doe") && !address::is_part("a*") && !address::is_part(""));
/// ```
pub fn is_part(text: &str) -> bool {
    !text.is_empty() && text.len() <= BYTES_MAX && text.bytes().all(|byte| is_plain(&byte))
}

/// The reason why a text is not a user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidUser {
    /// It has this many bytes, which is more than [`USER_BYTES_MAX`].
    TooLong(usize),
    /// It has control characters.
    Control,
}

impl fmt::Display for InvalidUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(bytes) => {
                write!(f, "the user id has {bytes} bytes, at most {USER_BYTES_MAX} are accepted")
            }
            Self::Control => f.write_str("the user id has control characters"),
        }
    }
}

impl std::error::Error for InvalidUser {}

/// Checks a user id. It may be empty, for an anonymous client; every other valid id has an address.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn check_user(user: &str) -> Result<(), InvalidUser> {
    if user.len() > USER_BYTES_MAX {
        return Err(InvalidUser::TooLong(user.len()));
    }
    if user.chars().any(char::is_control) { Err(InvalidUser::Control) } else { Ok(()) }
}

/// Whether an address names a user or a connection, and not a channel.
pub fn is_direct(address: &str) -> bool {
    address.starts_with(['#', '@'])
}

/// Whether a pattern matches an address. A final `*` in a pattern matches any rest of the same kind of
/// address: `*` matches all channels, `#*` all users, `#team-*` some users, and `@*` all connections.
///
/// ```
/// # use gateway_plugin_grammar::address;
/// assert!(address::matches("chat:*", "chat:room-7"));
/// assert!(!address::matches("chat", "chat:room-7"));
/// assert!(!address::matches("*", "#ann"), "what is said to a user has to be named as such");
/// assert!(address::matches("#*", "#ann"));
/// ```
pub fn matches(pattern: &str, address: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => !is_direct(address),
        // Begins with the same `#` or `@`, or with none.
        Some(start) => address.starts_with(start),
        None => pattern == address,
    }
}

/// Whether a pattern matches a user id: the id itself, or its beginning and a final `*`. Here the first
/// character has no special meaning.
pub fn matches_user(pattern: &str, user: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => user.starts_with(start),
        None => pattern == user,
    }
}

/// Whether a text is a valid pattern for [`matches()`].
pub fn is_pattern(pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("" | "#" | "@") => true,
        Some(start) => is_valid(start),
        None => is_valid(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_and_connections_are_visible_ascii_of_bounded_length() {
        for good in ["news", "chat:room-7", "@6c1f", "a", "a#", &"x".repeat(255)] {
            assert!(is_valid(good), "{good}");
        }
        for (bad, why) in [
            ("", Invalid::Empty),
            ("#", Invalid::Empty),
            ("@", Invalid::Empty),
            (&*"x".repeat(256), Invalid::TooLong),
            ("a b", Invalid::Character),
            ("a\n", Invalid::Character),
            ("a\0", Invalid::Character),
            ("{a}", Invalid::Character),
            ("a*", Invalid::Character),
            ("a\"b", Invalid::Character),
            ("a\\b", Invalid::Character),
            ("@a b", Invalid::Character),
            ("Zürich", Invalid::Character),
        ] {
            assert_eq!(check(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn whoever_may_be_a_user_has_an_address() {
        let longest = "x".repeat(USER_BYTES_MAX);
        for user in [
            "42",
            "jane doe",
            "Zürich",
            "a*b",
            "*",
            "{x}",
            "a\"b\\c",
            "auth0|abc",
            "urn:x:y",
            "a@b.example",
            "#42",
            "@c1",
            " ",
            "日本",
            "👩‍👩‍👧",
            &longest,
        ] {
            assert_eq!(check_user(user), Ok(()), "{user:?}");
            assert!(is_valid(&format!("#{user}")), "{user:?}");
        }
        for user in ["a\0", "a\nb", "\u{7f}", "\u{85}", &*"x".repeat(USER_BYTES_MAX + 1), &*"ü".repeat(128)]
        {
            assert!(check_user(user).is_err(), "{user:?}");
            assert!(!is_valid(&format!("#{user}")), "{user:?}");
        }
    }

    #[test]
    fn a_star_stands_for_any_rest_of_the_same_kind() {
        for (pattern, address, covers) in [
            ("news", "news", true),
            ("news", "news2", false),
            ("chat:*", "chat:1", true),
            ("chat:*", "chat:", true),
            ("chat:*", "chat", false),
            ("*", "news", true),
            ("*", "#ann", false),
            ("*", "@c1", false),
            ("#*", "#ann", true),
            ("#*", "@c1", false),
            ("#*", "news", false),
            ("#an*", "#ann", true),
            ("#an*", "#bob", false),
            ("@*", "@c1", true),
            ("#ann", "#ann", true),
            ("ann", "#ann", false),
        ] {
            assert_eq!(matches(pattern, address), covers, "{pattern} {address}");
        }
        assert!(matches_user("*", "#ann") && matches_user("#a*", "#ann") && !matches_user("a*", "#ann"));
    }

    #[test]
    fn a_pattern_is_an_address_that_may_end_in_a_star() {
        for (pattern, valid) in [
            ("*", true),
            ("chat:*", true),
            ("#*", true),
            ("@*", true),
            ("#jane doe", true),
            ("a*b", false),
            ("**", false),
            ("", false),
            ("#", false),
            ("a b*", false),
            ("{x}*", false),
        ] {
            assert_eq!(is_pattern(pattern), valid, "{pattern:?}");
        }
    }
}
