//! Wildcard patterns: a client that subscribes to one gets the publications of every channel that it matches.
//!
//! A pattern is a namespace, a colon, and at most [`SEGMENTS_MAX`] segments with dots between them:
//!
//! | segment | matches |
//! |---|---|
//! | a text without `*` | itself |
//! | `*` | exactly one segment that is not empty |
//! | `**`, as the last one | one segment or more: every rest that is not empty |
//!
//! `news:eu.*` matches `news:eu.sport`, and neither `news:eu` nor `news:eu.sport.tennis`; `news:**` matches
//! every channel of the namespace `news` whose name goes on after the colon. The namespace is never a
//! pattern, and no pattern matches a channel with a `#` in its name. At least one segment is `*` or `**`, so
//! no pattern is an [address].

use crate::address::{self, Invalid};

/// Maximum number of segments of a pattern.
pub const SEGMENTS_MAX: usize = 16;

/// The segment that stands for one segment.
pub const ONE: &str = "*";

/// The last segment that stands for one segment or more.
pub const REST: &str = "**";

/// Whether a text is meant as a pattern: only patterns, and the ids of users, have a `*`.
pub fn is_wildcard(name: &str) -> bool {
    name.contains('*') && !address::is_direct(name)
}

/// Checks a pattern.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn check(pattern: &str) -> Result<(), Invalid> {
    if pattern.is_empty() {
        return Err(Invalid::Empty);
    }
    if pattern.len() > address::BYTES_MAX {
        return Err(Invalid::TooLong);
    }
    if !pattern.bytes().all(|byte| byte == b'*' || address::is_plain(&byte)) {
        return Err(Invalid::Character);
    }
    let (namespace, segments) = pattern.split_once(':').ok_or(Invalid::Pattern)?;
    let is_segment = |segment: &str| segment == ONE || !segment.is_empty() && !segment.contains('*');
    let mut before = segments.split('.');
    let last = before.next_back().unwrap_or_default();
    let valid = !namespace.is_empty()
        && !address::is_direct(namespace)
        && !namespace.contains('*')
        && segments.contains('*')
        && segments.split('.').count() <= SEGMENTS_MAX
        && before.all(is_segment)
        && (last == REST || is_segment(last));
    if valid { Ok(()) } else { Err(Invalid::Pattern) }
}

/// Checks the name of a subscription: an address or a pattern.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn check_subscription(name: &str) -> Result<(), Invalid> {
    match address::check(name) {
        // Only a text with a character that no address has can be a pattern.
        Err(Invalid::Character) if is_wildcard(name) => check(name),
        checked => checked,
    }
}

/// Whether a valid pattern matches a channel.
///
/// ```
/// # use gateway_plugin_grammar::wildcard;
/// assert!(wildcard::matches("news:eu.*", "news:eu.sport"));
/// assert!(!wildcard::matches("news:eu.*", "news:eu.sport.tennis"));
/// assert!(wildcard::matches("news:eu.**", "news:eu.sport.tennis"));
/// ```
pub fn matches(pattern: &str, channel: &str) -> bool {
    let (Some((space, pattern)), Some((namespace, name))) =
        (pattern.split_once(':'), channel.split_once(':'))
    else {
        return false;
    };
    if space != namespace || channel.contains('#') {
        return false;
    }
    let mut left = Some(name);
    for segment in pattern.split('.') {
        let Some(rest) = left else { return false };
        if segment == REST {
            return !rest.is_empty();
        }
        let (first, after) = first_segment(rest);
        if !(segment == ONE && !first.is_empty() || segment == first) {
            return false;
        }
        left = after;
    }
    left.is_none()
}

/// The first segment of a name, and what follows after its dot, if it has one.
pub fn first_segment(name: &str) -> (&str, Option<&str>) {
    name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)))
}

/// Whether an address, or a channel that a wildcard pattern may match, is among those that a pattern for
/// [`address::matches`] matches: a rule that guards `news:secret*` concerns a subscription to `news:**` too.
///
/// ```
/// # use gateway_plugin_grammar::wildcard;
/// assert!(wildcard::concerns("news:secret*", "news:secret.1"));
/// assert!(wildcard::concerns("news:secret*", "news:**"));
/// assert!(!wildcard::concerns("news:secret*", "news:eu.*"));
/// ```
pub fn concerns(guarded: &str, name: &str) -> bool {
    if address::matches(guarded, name) {
        return true;
    }
    if !is_wildcard(name) {
        return false;
    }
    match guarded.strip_suffix('*') {
        // All that the pattern matches begins like this.
        Some(start) => start.starts_with(name.split('*').next().unwrap_or(name)),
        None => matches(name, guarded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_a_literal_namespace_and_whole_segments() {
        for good in
            ["news:*", "news:**", "news:eu.*", "news:*.eu.**", "news:a:b.*", "a.b:*", "n:*.*", "n:a#.*"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
            assert_eq!(check_subscription(good), Ok(()), "{good}");
            assert!(!address::is_valid(good), "{good}");
        }
        let deep = |segments: usize| format!("n:{}*", "a.".repeat(segments - 1));
        assert_eq!(check(&deep(SEGMENTS_MAX)), Ok(()));
        assert_eq!(check(&deep(SEGMENTS_MAX + 1)), Err(Invalid::Pattern));
        for bad in [
            "*",
            "**",
            "eu.*",
            ":*",
            "*:a",
            "n*:a",
            "news:eu*",
            "news:*eu",
            "news:**.eu",
            "news:***",
            "news:a..*",
            "news:.*",
            "news:*.",
            "news:*:a",
            "#a:*",
            "@a:*",
            "news:**.**",
        ] {
            assert_eq!(check(bad), Err(Invalid::Pattern), "{bad}");
        }
        assert_eq!(check("news:{*}"), Err(Invalid::Character));
        assert_eq!(check("news: *"), Err(Invalid::Character));
        assert_eq!(check(&format!("n:*.{}", "a".repeat(255))), Err(Invalid::TooLong));
        assert_eq!(check("news:eu"), Err(Invalid::Pattern), "a channel is no pattern");
    }

    #[test]
    fn the_name_of_a_subscription_is_an_address_or_a_pattern() {
        for name in ["news", "news:eu", "news:*", "#a*b", "@c1", "news:a>"] {
            assert_eq!(check_subscription(name), Ok(()), "{name}");
        }
        for (name, why) in [
            ("", Invalid::Empty),
            ("a*", Invalid::Pattern),
            ("a b", Invalid::Character),
            ("@a*", Invalid::Character),
            ("#a\n", Invalid::Control),
        ] {
            assert_eq!(check_subscription(name), Err(why), "{name:?}");
        }
        assert!(!is_wildcard("#a*b") && is_wildcard("a*") && !is_wildcard("news:eu"));
    }

    #[test]
    fn a_star_is_one_segment_and_two_are_any_rest() {
        for (pattern, channel, covers) in [
            ("news:*", "news:eu", true),
            ("news:*", "news:eu.sport", false),
            ("news:*", "news:", false),
            ("news:*", "news", false),
            ("news:*", "other:eu", false),
            ("news:*", "new:s", false),
            ("news:eu.*", "news:eu.sport", true),
            ("news:eu.*", "news:eu", false),
            ("news:eu.*", "news:eu.", false),
            ("news:eu.*", "news:us.sport", false),
            ("news:*.sport", "news:eu.sport", true),
            ("news:*.sport", "news:.sport", false),
            ("news:*.*", "news:eu.sport", true),
            ("news:*.*", "news:eu", false),
            ("news:**", "news:eu", true),
            ("news:**", "news:eu.sport.x", true),
            ("news:**", "news:", false),
            ("news:eu.**", "news:eu.a.b", true),
            ("news:eu.**", "news:eu", false),
            ("news:eu.**", "news:eu.", false),
            ("news:*.**", "news:eu.sport", true),
            ("news:*.**", "news:eu", false),
            ("news:a:b.*", "news:a:b.c", true),
            ("news:**", "news:#42", false),
            ("news:*", "news:a#b", false),
        ] {
            assert_eq!(matches(pattern, channel), covers, "{pattern} {channel}");
        }
    }

    #[test]
    fn a_guard_sees_patterns_that_reach_what_it_guards() {
        for (guarded, name, concerned) in [
            ("*", "news:*", true),
            ("#*", "news:*", false),
            ("news:*", "news:eu.*", true),
            ("news:eu.*", "news:eu.*", true),
            ("news:eu.secret*", "news:eu.*", true),
            ("news:eu.secret*", "news:**", true),
            ("news:us.*", "news:eu.*", false),
            ("news:eu.secret", "news:eu.*", true),
            ("news:eu.secret", "news:us.*", false),
            ("news:eu.secret", "news:*", false),
            ("other:*", "news:**", false),
            ("news:eu", "news:eu", true),
            ("news:eu", "news:us", false),
        ] {
            assert_eq!(concerns(guarded, name), concerned, "{guarded} {name}");
        }
    }
}
