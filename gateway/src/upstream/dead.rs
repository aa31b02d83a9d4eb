//! `Letter` is an undeliverable event as a line of the dead-letter file.

use serde::Serialize;

use super::Event;
use super::record::Record;
use crate::dead_letters;

/// An event that was given up.
pub(super) struct Letter<'a> {
    pub(super) upstream: &'a str,
    pub(super) event: &'a Event,
    pub(super) attempts: u32,
    pub(super) why: &'a str,
    /// Unix time in milliseconds.
    pub(super) at: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    upstream: &'a str,
    #[serde(flatten)]
    event: Record<'a>,
    /// In Unix time in milliseconds.
    given_up_at: u64,
    attempts: u32,
    why: &'a str,
}

impl Letter<'_> {
    /// Encodes it as JSON, with the line end.
    pub(super) fn line(&self) -> Vec<u8> {
        dead_letters::line(&Line {
            upstream: self.upstream,
            event: Record::of(self.event),
            given_up_at: self.at,
            attempts: self.attempts,
            why: self.why,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use bytes::Bytes;

    use super::*;
    use crate::upstream::{Kind, record};

    fn event(payload: &'static [u8]) -> Event {
        Event {
            id: "msg_1".into(),
            kind: Kind::Emitted,
            plugin: "orders".into(),
            connection: "c".into(),
            user: "42".into(),
            at: 1,
            payload: Bytes::from_static(payload),
        }
    }

    fn line(payload: &'static [u8]) -> serde_json::Value {
        let event = event(payload);
        let letter = Letter { upstream: "shop", event: &event, attempts: 3, why: "answered 500", at: 2 };
        let line = letter.line();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn a_line_has_everything_that_sending_again_needs() {
        let json = line(br#"{"order":7}"#);
        assert_eq!(
            json,
            serde_json::json!({
                "id": "msg_1", "upstream": "shop", "plugin": "orders", "connection": "c", "user": "42",
                "emitted_at": 1, "given_up_at": 2, "attempts": 3, "why": "answered 500", "payload": {"order": 7},
            })
        );
        let event = Event { kind: Kind::Vacated, ..event(br#"{"type":"vacated"}"#) };
        let letter = Letter { upstream: "shop", event: &event, attempts: 3, why: "answered 500", at: 2 };
        let stored = record::read(letter.line().trim_ascii_end()).unwrap();
        assert_eq!((stored.event, &*stored.upstream), (event, "shop"), "it can be read again");
        assert_eq!(line(b"\xff")["payload_base64"], "/w==");
        assert_eq!(line(b"{\n}")["payload_base64"], "ewp9", "one event, one line");
    }
}
