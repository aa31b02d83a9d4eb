//! Scripts: events in JSON with the expected answers of a plugin. `gateway plugin run` plays them, a plugin
//! can contain one as its self-test, and `cargo test` plays them with the test kit of the SDK.
//!
//! A script is JSON: one event per line, or an array of events. The reader ignores empty lines and lines that
//! begin with `#`.
//!
//! ```json
//! {"event": "connect", "connection": "c1", "token": "secret", "expect": {"verdict": "accept", "user": "42"}}
//! {"event": "message", "connection": "c1", "kind": "publish", "channel": "news", "payload": {"text": "hi"}, "expect": "allow"}
//! {"event": "deliver", "channel": "news", "class": "guest", "payload": {"text": "hi"}, "expect": "drop"}
//! {"event": "disconnect", "connection": "c1", "code": 3000, "reason": "bye"}
//! ```
//!
//! | key | in | meaning |
//! |---|---|---|
//! | `event` | all | `connect`, `refresh`, `message`, `deliver`, `disconnect`, `timer` |
//! | `connection` | all but deliver, timer | any name; events with one name belong to one client. Default `c1` |
//! | `user`, `attributes`, `headers`, `address`, `protocol` | those with a connection | properties of the client from here on |
//! | `now`, `after` | all | Unix time in milliseconds; or milliseconds since the previous event. The clock starts at [`START`] and moves only by these |
//! | `token` | connect, refresh, message | the credential, also that of a subscribe or a sub-refresh |
//! | `data` | connect | the JSON of the connect |
//! | `kind`, `channel`, `method`, `binary` | message | the command; kinds are the words of the plugin interface |
//! | `channel`, `class`, `publisher` | deliver | the target, the class of the subscribers, and the publisher: `{"connection": "c2", "user": "42"}` |
//! | `payload`, `text` or `base64` | message, deliver | the payload as JSON, as text or as bytes |
//! | `code`, `reason` | disconnect | the close code and reason; default 3000 |
//! | `instance` | timer | the number of the worker's instance; default 0 |
//! | `expect` | all | a verdict, or an object with parts of the outcome, see [`outcome()`](show::outcome) |
//!
//! The gateway and the SDK have different types for kinds and channels; a [`Reader`] is generic over both.

mod read;
mod self_test;
pub mod show;

use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value};

pub use self::read::Reader;
pub use self::self_test::{SELF_TEST_BYTES_MAX, SELF_TEST_EVENTS_MAX, SelfTest};

/// The start time of a script: Unix time in milliseconds.
pub const START: u64 = 1_700_000_000_000;
/// The protocol of clients that use the Centrifuge protocol in JSON.
pub const CENTRIFUGE_JSON: &str = "centrifuge-json";
/// The protocol of clients that use the Centrifuge protocol in Protobuf.
pub const CENTRIFUGE_PROTOBUF: &str = "centrifuge-protobuf";
/// The protocol of clients in raw mode.
pub const RAW: &str = "raw";

/// Events in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Script<K, C> {
    /// The events.
    pub steps: Vec<Step<K, C>>,
}

/// One event and its expected outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Step<K, C> {
    /// Its position, such as `line 3` or `event 3`.
    pub place: Box<str>,
    /// The name of its connection.
    pub connection: Box<str>,
    /// Properties of the client from here on.
    pub who: Who,
    /// When it happens.
    pub time: Time,
    /// What happens.
    pub event: Event<K, C>,
    /// The expected parts of the outcome.
    pub expect: Option<Map<String, Value>>,
}

/// When an event happens, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// At this Unix time.
    At(u64),
    /// This long after the previous event.
    After(u64),
}

/// The properties that an event sets on its client. Others stay unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// The user.
    pub user: Option<Box<str>>,
    /// Attributes to set; an empty value removes one.
    pub attributes: Vec<(Box<str>, Box<str>)>,
    /// Headers of the handshake in place of those before, names in lower case. Empty for no change.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The address of the client.
    pub address: Option<IpAddr>,
    /// [`CENTRIFUGE_JSON`], [`CENTRIFUGE_PROTOBUF`] or [`RAW`].
    pub protocol: Option<&'static str>,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<K, C> {
    /// A client connects.
    Connect {
        /// Its credential, empty for none.
        token: Box<str>,
        /// JSON of the connect, empty for none.
        data: Vec<u8>,
    },
    /// An admitted client refreshes its credential.
    Refresh {
        /// The credential.
        token: Box<str>,
    },
    /// A command.
    Message(Message<K, C>),
    /// A publication is on its way to the subscribers of a class.
    Deliver {
        /// The target of the publication.
        channel: C,
        /// The value of the class attribute; empty for none.
        class: Box<str>,
        /// The connection and the user that published it, if a client did.
        publisher: Option<(Box<str>, Box<str>)>,
        /// The payload.
        payload: Vec<u8>,
    },
    /// The client has disconnected.
    Disconnect {
        /// The close code.
        code: u16,
        /// The close reason.
        reason: Box<str>,
    },
    /// The interval of the plugin's timer has passed. The clock of the script does not run timers.
    Timer {
        /// The number of the instance.
        instance: u32,
    },
}

/// A command of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<K, C> {
    /// The kind of the command.
    pub kind: K,
    /// The channel, if it has one.
    pub channel: Option<C>,
    /// The method of an rpc, empty otherwise.
    pub method: Box<str>,
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether a raw message is binary.
    pub binary: bool,
    /// The credential of a subscribe, empty otherwise.
    pub token: Box<str>,
}

/// All errors of a script, each with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(Vec<String>);

impl Errors {
    /// In the order of the script.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Errors {}

impl<K, C> Default for Script<K, C> {
    fn default() -> Self {
        Self { steps: Vec::new() }
    }
}

impl Time {
    /// The Unix time in milliseconds, if the previous event was at `now`.
    pub const fn since(self, now: u64) -> u64 {
        match self {
            Self::At(time) => time,
            Self::After(passed) => now.saturating_add(passed),
        }
    }
}

impl<K, C> Event<K, C> {
    /// The word for it in a script.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Refresh { .. } => "refresh",
            Self::Message(_) => "message",
            Self::Deliver { .. } => "deliver",
            Self::Disconnect { .. } => "disconnect",
            Self::Timer { .. } => "timer",
        }
    }

    /// Whether it is an event of a connection.
    pub const fn has_connection(&self) -> bool {
        !matches!(self, Self::Deliver { .. } | Self::Timer { .. })
    }
}

impl<K, C> Step<K, C> {
    /// Compares the expected outcome with the actual [`outcome()`](show::outcome). Empty if they agree.
    pub fn unmet(&self, outcome: &Map<String, Value>) -> Vec<String> {
        let Some(expect) = &self.expect else { return Vec::new() };
        let differs = expect.iter().filter(|(key, value)| outcome.get(*key) != Some(*value));
        differs
            .map(|(key, value)| match outcome.get(key) {
                Some(found) => format!("`{key}` is {found}{}, expected {value}", reason(key, outcome)),
                None => format!("`{key}` is not there, expected {value}"),
            })
            .collect()
    }
}

/// Why a call failed that was expected to answer.
fn reason(key: &str, outcome: &Map<String, Value>) -> String {
    let text = |key: &str| outcome.get(key).and_then(Value::as_str);
    match (key, text("cause"), text("detail")) {
        ("verdict", Some(cause), Some(detail)) => format!(" ({cause}: {detail})"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
