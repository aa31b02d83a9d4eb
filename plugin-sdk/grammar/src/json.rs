//! Checks for properties of valid JSON that other parsers may reject: deep nesting and lone surrogates.

use std::fmt;

/// Maximum nesting of arrays and objects. The envelope of a message adds at most six levels, so a client
/// receives fewer than 128, which is the limit of many parsers.
pub const DEPTH_MAX: usize = 120;

/// The reason why JSON is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// More than [`DEPTH_MAX`] nested arrays and objects.
    TooDeep,
    /// An escape such as `\ud800` that is half of a character: the text is not Unicode, and strict parsers
    /// refuse it.
    LoneSurrogate,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep => write!(f, "nested deeper than {DEPTH_MAX} levels"),
            Self::LoneSurrogate => {
                f.write_str("with an escape that is half of a character (a lone surrogate)")
            }
        }
    }
}

impl std::error::Error for Unfit {}

/// Checks one value that is known to be JSON. This is very cheap for a value that passes.
///
/// ```
/// # use gateway_plugin_grammar::json::{Unfit, check};
/// assert_eq!(check(br#"{"a":["\ud83d\ude00"]}"#), Ok(()));
/// assert_eq!(check(br#""\ud83d""#), Err(Unfit::LoneSurrogate));
/// ```
///
/// # Errors
///
/// Names the first problem.
pub fn check(json: &[u8]) -> Result<(), Unfit> {
    // Each level takes two bytes, and a bracket: mostly that is all there is to see.
    if json.len() > 2 * DEPTH_MAX && brackets(json) > DEPTH_MAX && depth(json) > DEPTH_MAX {
        return Err(Unfit::TooDeep);
    }
    if has_lone_surrogate(json) { Err(Unfit::LoneSurrogate) } else { Ok(()) }
}

/// Opening brackets, those in strings included.
fn brackets(json: &[u8]) -> usize {
    // One bit tells `[` from `{`.
    json.iter().filter(|byte| *byte | 0x20 == b'{').count()
}

fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string) = (0usize, 0, false);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            // Outside of strings there is none.
            b'\\' => drop(bytes.next()),
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn has_lone_surrogate(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let escape = &rest[at..];
        match unit(escape) {
            Some(0xd800..=0xdbff) => match escape.get(6..).and_then(unit) {
                Some(0xdc00..=0xdfff) => rest = &escape[12..],
                _ => return true,
            },
            Some(0xdc00..=0xdfff) => return true,
            Some(_) => rest = &escape[6..],
            None => rest = escape.get(2..).unwrap_or_default(),
        }
    }
    false
}

/// The number in an escape `\uXXXX` at the beginning.
fn unit(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text.strip_prefix(b"\\u")?.get(..4)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(open: &str, inside: &str, close: &str, depth: usize) -> String {
        [&open.repeat(depth), inside, &close.repeat(depth)].concat()
    }

    #[test]
    fn levels_are_counted_and_brackets_in_strings_are_not() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\\\"[\":", "}]")] {
            let levels = open.matches(['[', '{']).count() - open.matches("\\\"[").count();
            let most = DEPTH_MAX / levels;
            assert_eq!(check(nested(open, "1", close, most).as_bytes()), Ok(()), "{open}");
            assert_eq!(check(nested(open, "1", close, most + 1).as_bytes()), Err(Unfit::TooDeep), "{open}");
        }
        let text = format!("[\"{}\"]", "[{".repeat(1000));
        assert_eq!(check(text.as_bytes()), Ok(()));
        let wide = format!("[{}[]]", "[],".repeat(1000));
        assert_eq!(check(wide.as_bytes()), Ok(()));
        assert_eq!(check(nested("[", "", "]", 20_000).as_bytes()), Err(Unfit::TooDeep));
    }

    #[test]
    fn half_of_a_character_is_refused_and_a_whole_one_is_not() {
        for good in [
            r#""\ud83d\ude00""#,
            r#""\uD83D\uDE00\ud83d\ude00""#,
            r#""\\ud800""#,
            r#""\\\\ud800""#,
            r#""\u0041\n\"\u00e9""#,
            "\"😀\"",
            r#"{"\ud83d\ude00":"\\"}"#,
        ] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in [
            r#""\ud800""#,
            r#""\uDFFF""#,
            r#""\ud800\u0041""#,
            r#""\ud800\ud800\udc00""#,
            r#""\ud83d\ude00\ude00""#,
            r#""\\\ud800x""#,
            r#""\ud800 \udc00""#,
            r#"{"\udc00":1}"#,
        ] {
            assert_eq!(check(bad.as_bytes()), Err(Unfit::LoneSurrogate), "{bad}");
        }
    }
}
