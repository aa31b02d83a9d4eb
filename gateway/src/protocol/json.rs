//! Checks JSON from outside before it is copied unchanged into a frame.
//!
//! The same rules hold for payloads of clients, of plugins and of the HTTP API: one JSON value in UTF-8, at
//! most [`DEPTH_MAX`] levels deep, without an escape of an unpaired surrogate. Duplicate names and numbers of
//! any size pass unchanged; the receivers interpret them.

use std::borrow::Cow;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
pub use gateway_plugin_grammar::json::{DEPTH_MAX, Unfit, check};
use serde::de::IgnoredAny;

/// Why bytes are not accepted as a JSON payload. Completes the sentence "a payload that is ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotJson {
    /// They are not one JSON value in UTF-8.
    #[error("not valid JSON: {0}")]
    Syntax(Box<str>),
    /// They are JSON that many receivers cannot read.
    #[error("JSON {0}")]
    Unfit(#[from] Unfit),
}

/// Whether a value is the default that a library writes for an unused field. Such a field counts as absent.
pub fn says_nothing(json: &str) -> bool {
    matches!(json, "null" | "false" | "0" | "\"\"" | "[]" | "{}")
}

/// Checks that `json` is exactly one JSON value in UTF-8 that receivers can read, and removes line feeds.
///
/// A line feed separates frames of the Centrifuge JSON protocol. In valid JSON it can only stand between
/// tokens, because a string must escape it, so removing it changes nothing. Bytes without line feeds are
/// returned unchanged.
///
/// # Errors
///
/// If it is not JSON, or JSON that receivers cannot read.
pub fn compact(json: Bytes) -> Result<Bytes, NotJson> {
    let syntax = |error: String| NotJson::Syntax(error.into());
    let text = std::str::from_utf8(&json).map_err(|e| syntax(e.to_string()))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|e| syntax(e.to_string()))?;
    check(&json)?;
    if memchr::memchr(b'\n', &json).is_none() {
        return Ok(json);
    }
    Ok(json.iter().copied().filter(|byte| *byte != b'\n').collect())
}

/// The string that stands for a payload that is not JSON: the payload itself if it is UTF-8, otherwise its
/// Base64.
pub fn string_of(payload: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(payload).map_or_else(|_| BASE64_STANDARD.encode(payload).into(), Cow::Borrowed)
}

/// Length in bytes of a text as a JSON string, including quotes.
pub fn string_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum::<usize>() + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_long_as_serde_writes_it() {
        for text in ["", "plain", "a\"b\\c", "\n\r\t\u{8}\u{c}\u{1}\u{1f}\u{7f}", "h\u{e9}\u{1f600}"] {
            let written = serde_json::to_string(text).expect("a text can be written");
            assert_eq!(string_bytes(text), written.len(), "{text:?}");
        }
    }

    #[test]
    fn one_json_value_passes_unchanged_and_uncopied() {
        for good in
            ["null", "0", "\"a\"", r#"{"a":[1,2,{"b":"\n"}]}"#, " [1] ", r#"{"a":1e400,"a":"\ud83d\ude00"}"#]
        {
            let bytes = Bytes::from_static(good.as_bytes());
            let checked = compact(bytes.clone()).expect(good);
            assert_eq!(checked.as_ptr(), bytes.as_ptr(), "{good}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            &b""[..],
            b" ",
            b"{",
            b"{}{}",
            b"nul",
            b"\"a\nb\"",
            b"\"\xff\"",
            b"\xef\xbb\xbf{}",
            b"{\"a\":1,}",
            b"01",
        ] {
            assert!(compact(Bytes::from_static(bad)).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn what_receivers_stumble_over_is_refused() {
        let deep = format!("{}{}", "[".repeat(DEPTH_MAX + 1), "]".repeat(DEPTH_MAX + 1));
        for (bad, why) in [(deep.as_str(), Unfit::TooDeep), (r#"["\ud800"]"#, Unfit::LoneSurrogate)] {
            let refused = compact(Bytes::copy_from_slice(bad.as_bytes()));
            assert_eq!(refused, Err(NotJson::Unfit(why)), "{bad}");
        }
    }

    #[test]
    fn line_feeds_between_tokens_are_left_out_and_escaped_ones_stay() {
        let pretty = Bytes::from_static(b"{\n \"a\": \"x\\ny\",\r\n \"b\": [1,\n2]\n}\n");
        let compacted = compact(pretty).expect("valid");
        assert_eq!(&compacted[..], b"{ \"a\": \"x\\ny\",\r \"b\": [1,2]}");
    }
}
