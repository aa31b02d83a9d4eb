//! [`FailureLog`] decides which failures of a plugin are written to the log, and [`Scene`] says what the plugin
//! was doing.

use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use rustc_hash::FxHasher;

use super::event::{Client, ConnectEvent, DisconnectEvent, Hook, Message, Outgoing};
use super::failure::Failure;
use crate::protocol::channel::Channel;
use crate::seldom::Seldom;

/// For this long after a line, the same failure of one plugin on one worker is only counted.
const PAUSE: Duration = Duration::from_secs(1);
/// Different failures that are told apart, and lines in one [`PAUSE`]. A client may cause different ones, for
/// example by what it sends.
const DIFFERENT_MAX: usize = 8;

/// The latest failures of one plugin on one worker.
#[derive(Debug, Default)]
pub(super) struct FailureLog {
    /// Fingerprint and rate limit, the latest last.
    seen: Vec<(u64, Seldom)>,
    /// Unix time in milliseconds at which the current pause began, and the lines in it.
    begin: u64,
    lines: usize,
}

impl FailureLog {
    /// Whether to write a failure: `Some` with the number of failures like it since the last line.
    pub(super) fn take(&mut self, now: u64, hook: Hook, failure: &Failure) -> Option<u64> {
        let fingerprint = fingerprint(hook, failure);
        let position = self.seen.iter().position(|(known, _)| *known == fingerprint);
        let (_, known) = match position {
            Some(position) => self.seen.remove(position),
            None => (fingerprint, Seldom::new(PAUSE)),
        };
        if self.seen.len() >= DIFFERENT_MAX {
            self.seen.remove(0);
        }
        // One that finds no room in this pause is written in the next one, with its count.
        let also = if self.has_room(now) { known.take_at(now) } else { known.hold_back() };
        self.lines += usize::from(also.is_some());
        self.seen.push((fingerprint, known));
        also
    }

    fn has_room(&mut self, now: u64) -> bool {
        // Also if the clock was set back.
        if now.abs_diff(self.begin) > PAUSE.as_millis() as u64 {
            (self.begin, self.lines) = (now, 0);
        }
        self.lines < DIFFERENT_MAX
    }
}

/// The same for failures that differ in numbers only, such as lengths and addresses.
fn fingerprint(hook: Hook, failure: &Failure) -> u64 {
    let mut hasher = FxHasher::default();
    (hook, failure.cause).hash(&mut hasher);
    for byte in failure.detail.bytes().filter(|byte| !byte.is_ascii_digit()) {
        hasher.write_u8(byte);
    }
    hasher.finish()
}

/// What a plugin was doing when it failed. It holds no payload and no credential.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    /// The hook.
    pub(super) hook: Hook,
    /// The kind of the message; empty for other hooks.
    pub(super) kind: &'static str,
    /// The channel; `None` if the event has none.
    pub(super) channel: Option<&'a Channel>,
    /// The user; empty for an anonymous client and for events without a client.
    pub(super) user: &'a str,
    /// The id of the connection; empty for events without a client.
    pub(super) connection: &'a str,
}

impl<'a> Scene<'a> {
    fn of_client(hook: Hook, client: &'a Client) -> Self {
        Self { hook, kind: "", channel: None, user: &client.user, connection: &client.id }
    }

    pub(super) fn connect(event: &'a ConnectEvent) -> Self {
        Self::of_client(Hook::Connect, &event.client)
    }

    pub(super) fn disconnect(event: &'a DisconnectEvent) -> Self {
        Self::of_client(Hook::Disconnect, &event.client)
    }

    pub(super) fn message(message: &'a Message) -> Self {
        let (kind, channel) = (message.content.kind.as_str(), message.content.channel.as_ref());
        Self { kind, channel, ..Self::of_client(Hook::Message, &message.client) }
    }

    pub(super) fn delivery(outgoing: &'a Outgoing) -> Self {
        let publisher = outgoing.publisher.as_deref();
        Self {
            hook: Hook::Deliver,
            kind: "",
            channel: Some(&outgoing.channel),
            user: publisher.map_or("", |publisher| &publisher.user),
            connection: publisher.map_or("", |publisher| &publisher.client),
        }
    }

    pub(super) fn timer() -> Self {
        Self { hook: Hook::Timer, kind: "", channel: None, user: "", connection: "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::failure::Cause;

    fn take(log: &mut FailureLog, now: u64, hook: Hook, detail: &str) -> Option<u64> {
        log.take(now, hook, &Failure::new(Cause::Trap, detail))
    }

    #[test]
    fn different_failures_are_written_and_the_same_one_is_counted() {
        let mut log = FailureLog::default();
        assert_eq!(take(&mut log, 1_000, Hook::Message, "index 7 of 3"), Some(0));
        assert_eq!(take(&mut log, 1_001, Hook::Message, "index 9 of 4"), None, "it differs in numbers only");
        assert_eq!(take(&mut log, 1_002, Hook::Message, "no such user"), Some(0));
        assert_eq!(take(&mut log, 1_003, Hook::Connect, "no such user"), Some(0), "another hook");
        assert_eq!(take(&mut log, 2_100, Hook::Message, "index 1 of 1"), Some(1));
    }

    #[test]
    fn whoever_chooses_the_text_of_a_failure_does_not_fill_the_log() {
        let mut log = FailureLog::default();
        let texts: Vec<String> = (b'a'..=b'z').map(|letter| char::from(letter).to_string()).collect();
        let written =
            texts.iter().filter(|text| take(&mut log, 1_000, Hook::Message, text).is_some()).count();
        assert_eq!(written, DIFFERENT_MAX);
        assert!(log.seen.len() <= DIFFERENT_MAX);
        assert_eq!(take(&mut log, 5_000, Hook::Message, "z"), Some(1), "the last one was held back once");
    }
}
