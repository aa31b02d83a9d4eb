//! Addresses: the one way to say who receives a message.
//!
//! An address is a channel (`news`, `chat:room-7`), `#42` for all connections of user 42, or `@` and the id of a
//! connection. It is made of 1 to 255 visible ASCII characters other than `"`, `\`, `*`, `{` and `}`. The gateway refuses
//! anything else; a plugin that builds addresses from what clients sent asks here first and answers in its own words.

/// Longest address in bytes.
pub const BYTES_MAX: usize = 255;

/// Whether the gateway accepts a text as a channel or address.
///
/// ```
/// use gateway_plugin_sdk::address;
/// assert!(address::is_valid("chat:room-7"));
/// assert!(!address::is_valid("chat:room 7"));
/// ```
pub fn is_valid(address: &str) -> bool {
    let bytes = address.as_bytes();
    let allowed = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'*' | b'{' | b'}');
    !matches!(bytes, [] | [b'#' | b'@']) && bytes.len() <= BYTES_MAX && bytes.iter().all(allowed)
}

/// Whether a pattern, a channel name in which a last `*` stands for any rest, covers a channel.
///
/// ```
/// use gateway_plugin_sdk::address;
/// assert!(address::matches("chat:*", "chat:room-7"));
/// assert!(!address::matches("chat", "chat:room-7"));
/// ```
pub fn matches(pattern: &str, channel: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => channel.starts_with(start),
        None => pattern == channel,
    }
}

/// Whether a text can be a pattern for [`matches()`].
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
    fn addresses_are_visible_ascii_of_bounded_length() {
        for good in ["news", "chat:room-7", "#42", "@6c1f", "a", "a#", &"x".repeat(255)] {
            assert!(is_valid(good), "{good}");
        }
        for bad in
            ["", "#", "@", &"x".repeat(256), "a b", "a\n", "a\0", "{a}", "a*", "a\"b", "a\\b", "Zürich"]
        {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_star_stands_for_any_rest_and_only_at_the_end() {
        assert!(matches("*", "news"));
        assert!(matches("chat:*", "chat:"));
        assert!(!matches("chat:*", "chat"));
        for (pattern, valid) in
            [("*", true), ("chat:*", true), ("#*", true), ("a*b", false), ("", false), ("a b*", false)]
        {
            assert_eq!(is_pattern(pattern), valid, "{pattern:?}");
        }
    }
}
