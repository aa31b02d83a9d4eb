//! [`Entry`] is one command of a queue, as it was read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Maximum length of a command, as for a request to the API.
pub(super) const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Bytes of an entry that a line of the dead letters has at most.
const KEPT_BYTES_MAX: usize = 64 << 10;

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
    /// From the two columns or fields of an entry; `content` is what is kept of it otherwise.
    pub(super) fn of(method: &[u8], payload: &[u8]) -> Result<Self, Unreadable> {
        let unreadable = |why: String| Unreadable { why: why.into(), content: kept(payload) };
        if payload.len() > COMMAND_BYTES_MAX {
            let bytes = payload.len();
            return Err(unreadable(format!(
                "the payload has {bytes} bytes, at most {COMMAND_BYTES_MAX} are accepted"
            )));
        }
        let method = std::str::from_utf8(method).ok().filter(|name| name.len() <= 64);
        let method = method.ok_or_else(|| unreadable("`method` is not the name of a method".to_owned()))?;
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
            let bytes = json.len();
            return Err(unreadable(format!(
                "it has {bytes} bytes, at most {COMMAND_BYTES_MAX} are accepted"
            )));
        }
        let whole: Whole<'_> =
            serde_json::from_slice(json).map_err(|error| unreadable(format!("{SHAPE}: {error}")))?;
        Self::of(whole.method.as_bytes(), whole.payload.get().as_bytes())
    }

    /// From the fields of an entry, which are `method` and `payload` and no others.
    pub(super) fn of_fields<'a>(
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, Unreadable> {
        let (mut method, mut payload) = (None, None);
        for (name, value) in fields {
            let field = match name {
                b"method" => &mut method,
                b"payload" => &mut payload,
                other => {
                    let name = String::from_utf8_lossy(&other[..other.len().min(64)]);
                    let why = format!("{SHAPE}: there is no field {name:?}");
                    return Err(Unreadable { why: why.into(), content: kept(value) });
                }
            };
            *field = Some(value);
        }
        match (method, payload) {
            (Some(method), Some(payload)) => Self::of(method, payload),
            (method, payload) => {
                let missing = if method.is_none() { "method" } else { "payload" };
                let content = kept(method.or(payload).unwrap_or_default());
                Err(Unreadable { why: format!("{SHAPE}: `{missing}` is missing").into(), content })
            }
        }
    }
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
        let line = Line {
            id: &self.entry.id,
            consumer: self.consumer,
            entered_at: self.entry.at,
            given_up_at: self.at,
            attempts: self.attempts,
            why: self.why,
            method,
            payload_base64: payload.is_none().then(|| STANDARD.encode(content)),
            payload,
        };
        let mut bytes = serde_json::to_vec(&line).expect("texts and numbers have a form in JSON");
        bytes.push(b'\n');
        bytes
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
        let long = vec![b' '; COMMAND_BYTES_MAX + 1];
        assert!(Command::parse(&long).unwrap_err().why.contains("at most 1048576"));
        assert_eq!(Command::of(b"publish", &long).unwrap_err().content.len(), KEPT_BYTES_MAX);
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
