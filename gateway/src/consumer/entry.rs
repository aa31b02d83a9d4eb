//! [`Entry`] is one command of a queue, as it was read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config;
use crate::dead_letters;

/// Maximum length of a command, as for a request to the API.
pub(super) const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Bytes of entries after which no more are taken at a time.
pub(super) const BATCH_BYTES_MAX: usize = config::Consumer::BATCH_BYTES_MAX;
/// Bytes that are kept of an entry that is no command, for the dead letters.
pub(super) const KEPT_BYTES_MAX: usize = 64 << 10;

/// Maximum length of the name of a method.
pub(super) const METHOD_BYTES_MAX: usize = 64;
/// Fields that are kept of an entry that is no command.
const FIELDS_KEPT_MAX: usize = 4;

const TOO_LONG: &str = "it has more than the 1048576 bytes that are accepted";

const SHAPE: &str = "an entry has `method`, such as \"publish\", and `payload`, a JSON object";

/// A command, and how the queue names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Unique for the consumer, the same whenever the entry is read.
    pub(super) id: Box<str>,
    /// Unix time in milliseconds at which it was put into the queue.
    pub(super) at: u64,
    pub(super) command: Result<Command, Unreadable>,
}

/// A method of the API and its fields.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) method: Box<str>,
    /// The fields, as JSON.
    pub(super) payload: Box<[u8]>,
}

/// An entry that is no command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) why: Box<str>,
    /// What it is, or its beginning.
    pub(super) content: Box<[u8]>,
}

impl Command {
    /// From the two columns or fields of an entry.
    pub(super) fn of(method: &[u8], payload: &[u8]) -> Result<Self, Unreadable> {
        let fields = || [(&b"method"[..], method), (&b"payload"[..], payload)].into_iter();
        if payload.len() > COMMAND_BYTES_MAX {
            return Err(too_long(fields()));
        }
        let name = std::str::from_utf8(method).ok().filter(|name| name.len() <= METHOD_BYTES_MAX);
        let method = name.ok_or_else(|| Unreadable {
            why: "`method` is not the name of a method".into(),
            content: as_object(fields()),
        })?;
        Ok(Self { method: method.into(), payload: payload.into() })
    }

    /// From a JSON object with both.
    pub(super) fn parse(json: &[u8]) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole<'a> {
            method: Box<str>,
            #[serde(borrow)]
            payload: &'a RawValue,
        }
        let unreadable = |why: String| Unreadable { why: why.into(), content: kept(json) };
        if json.len() > COMMAND_BYTES_MAX {
            return Err(unreadable(TOO_LONG.to_owned()));
        }
        let whole: Whole<'_> =
            serde_json::from_slice(json).map_err(|error| unreadable(format!("{SHAPE}: {error}")))?;
        Self::of(whole.method.as_bytes(), whole.payload.get().as_bytes())
    }

    /// From the fields of an entry, which are `method` and `payload` and no others.
    pub(super) fn of_fields<'a>(
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> Result<Self, Unreadable> {
        let (mut method, mut payload) = (None, None);
        for (name, value) in fields.clone() {
            let field = match name {
                b"method" => &mut method,
                b"payload" => &mut payload,
                other => {
                    let name = String::from_utf8_lossy(&other[..other.len().min(METHOD_BYTES_MAX)]);
                    let why = format!("{SHAPE}: there is no field {name:?}").into();
                    return Err(Unreadable { why, content: as_object(fields) });
                }
            };
            if field.replace(value).is_some() {
                let why = format!("{SHAPE}: a field occurs twice").into();
                return Err(Unreadable { why, content: as_object(fields) });
            }
        }
        let missing = match (method, payload) {
            (Some(method), Some(payload)) => return Self::of(method, payload),
            (None, _) => "method",
            (_, None) => "payload",
        };
        Err(Unreadable { why: format!("{SHAPE}: `{missing}` is missing").into(), content: as_object(fields) })
    }
}

/// An entry of which only the beginning was read.
pub(super) fn too_long<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Unreadable {
    Unreadable { why: TOO_LONG.into(), content: as_object(fields) }
}

/// The fields of an entry that is no command, as a JSON object of texts: what was meant can still be read.
fn as_object<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Box<[u8]> {
    let mut left = KEPT_BYTES_MAX;
    let mut text = |bytes: &[u8]| {
        let kept = &bytes[..bytes.len().min(left)];
        left -= kept.len();
        serde_json::Value::from(String::from_utf8_lossy(kept))
    };
    let object: serde_json::Map<String, serde_json::Value> = fields
        .take(FIELDS_KEPT_MAX)
        .map(|(name, value)| {
            let name = String::from_utf8_lossy(&name[..name.len().min(METHOD_BYTES_MAX)]).into_owned();
            (name, text(value))
        })
        .collect();
    serde_json::to_vec(&object).unwrap_or_default().into()
}

fn kept(bytes: &[u8]) -> Box<[u8]> {
    bytes[..bytes.len().min(KEPT_BYTES_MAX)].into()
}

/// An entry that was given up.
pub(super) struct Letter<'a> {
    pub(super) consumer: &'a str,
    pub(super) entry: &'a Entry,
    pub(super) attempts: u64,
    pub(super) why: &'a str,
    /// Unix time in milliseconds.
    pub(super) at: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    consumer: &'a str,
    /// When it was put into the queue and given up, in Unix time in milliseconds.
    entered_at: u64,
    given_up_at: u64,
    attempts: u64,
    why: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    /// Replaces `payload` if that is not JSON on one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl Letter<'_> {
    /// Encodes it as JSON, with the line end.
    pub(super) fn line(&self) -> Vec<u8> {
        let (method, content) = match &self.entry.command {
            Ok(command) => (Some(&*command.method), &command.payload),
            Err(unreadable) => (None, &unreadable.content),
        };
        let text = std::str::from_utf8(content).ok().filter(|text| !text.contains(['\n', '\r']));
        let payload = text.and_then(|text| serde_json::from_str(text).ok());
        dead_letters::line(&Line {
            id: &self.entry.id,
            consumer: self.consumer,
            entered_at: self.entry.at,
            given_up_at: self.at,
            attempts: self.attempts,
            why: self.why,
            method,
            payload_base64: payload.is_none().then(|| STANDARD.encode(content)),
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    fn fields(fields: &[(&str, &str)]) -> Result<Command, Unreadable> {
        Command::of_fields(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn an_entry_is_a_method_and_its_fields_in_every_queue() {
        let command = Command { method: "publish".into(), payload: (*b"{\"a\":1}").into() };
        assert_eq!(Command::parse(br#"{"method":"publish","payload":{"a":1}}"#).as_ref(), Ok(&command));
        assert_eq!(fields(&[("payload", "{\"a\":1}"), ("method", "publish")]).as_ref(), Ok(&command));
        assert_eq!(Command::of(b"publish", br#"{"a":1}"#), Ok(command));
    }

    #[test]
    fn what_is_no_command_says_what_one_is() {
        for json in
            ["", "{}", "[]", "nonsense", r#"{"method":"publish"}"#, r#"{"method":"p","payload":{},"x":1}"#]
        {
            let unreadable = Command::parse(json.as_bytes()).unwrap_err();
            assert!(unreadable.why.contains("`method`"), "{json}: {}", unreadable.why);
            assert_eq!(&*unreadable.content, json.as_bytes());
        }
        assert!(fields(&[("method", "publish")]).unwrap_err().why.contains("`payload` is missing"));
        assert!(fields(&[("payload", "{}")]).unwrap_err().why.contains("`method` is missing"));
        let other = fields(&[("method", "publish"), ("payload", "{}"), ("data", "1")]).unwrap_err();
        assert!(other.why.contains("no field \"data\""), "{}", other.why);
        let twice = fields(&[("method", "publish"), ("payload", "{}"), ("payload", "{}")]).unwrap_err();
        assert!(twice.why.contains("twice"), "{}", twice.why);
        let long = vec![b' '; COMMAND_BYTES_MAX + 1];
        let accepted = COMMAND_BYTES_MAX.to_string();
        assert!(Command::parse(&long).unwrap_err().why.contains(&accepted));
        let unreadable = Command::of(b"publish", &long).unwrap_err();
        assert!(unreadable.why.contains(&accepted));
        assert!((KEPT_BYTES_MAX..KEPT_BYTES_MAX + 100).contains(&unreadable.content.len()));
    }

    #[test]
    fn all_fields_of_an_entry_that_is_no_command_are_kept() {
        let other = fields(&[("method", "publish"), ("trace", "7"), ("payload", "{\"a\":1}")]).unwrap_err();
        let kept: serde_json::Value = serde_json::from_slice(&other.content).unwrap();
        let expected = serde_json::json!({ "method": "publish", "trace": "7", "payload": "{\"a\":1}" });
        assert_eq!(kept, expected);
        let command = Command::of(b"\xff", b"{}").unwrap_err();
        assert!(command.why.contains("`method`"));
        let long = vec![b'x'; KEPT_BYTES_MAX];
        let many = [(&long[..], &long[..]); 9];
        assert!(as_object(many.into_iter()).len() < 2 * KEPT_BYTES_MAX);
    }

    #[test]
    fn a_dead_letter_is_one_line_with_everything_that_sending_again_needs() {
        let line = |command| {
            let entry = Entry { id: "7".into(), at: 1, command };
            let letter = Letter { consumer: "orders", entry: &entry, attempts: 2, why: "refused", at: 3 };
            let line = letter.line();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            serde_json::from_slice::<serde_json::Value>(&line).unwrap()
        };
        let expected = serde_json::json!({
            "id": "7", "consumer": "orders", "entered_at": 1, "given_up_at": 3, "attempts": 2, "why": "refused",
            "method": "publish", "payload": {"a": 1},
        });
        assert_eq!(line(Command::of(b"publish", br#"{"a":1}"#)), expected);
        let unreadable = line(Command::parse(b"{\n"));
        assert!(unreadable["method"].is_null());
        assert_eq!(unreadable["payload_base64"], "ewo=");
    }
}
