//! Events written down, with what a plugin is expected to answer: what `gateway plugin run` plays, and what a plugin can
//! carry inside itself as its self-test.
//!
//! A script is JSON: one event per line, or an array of events. Empty lines and lines that begin with `#` are left out.
//!
//! ```json
//! {"event": "connect", "connection": "c1", "token": "secret", "expect": {"verdict": "accept", "user": "42"}}
//! {"event": "message", "connection": "c1", "kind": "publish", "channel": "news", "payload": {"text": "hi"}, "expect": "allow"}
//! {"event": "disconnect", "connection": "c1", "code": 3000, "reason": "bye"}
//! ```
//!
//! | key | in | meaning |
//! |---|---|---|
//! | `event` | all | `connect`, `message`, `disconnect`, `timer` |
//! | `connection` | all but timer | any name; events of one name are of one client. `c1` if not given |
//! | `user`, `attributes`, `headers`, `address`, `protocol` | all but timer | what the client is from here on |
//! | `now`, `after` | all | Unix time in milliseconds; or milliseconds since the event before. The clock begins at [`START`] and stands still |
//! | `token` | connect, message | the credential, also that of a subscribe |
//! | `data` | connect | the JSON sent along |
//! | `kind`, `channel`, `method`, `binary` | message | the command; kinds are the words of the plugin interface |
//! | `payload`, `text` or `base64` | message | the payload as JSON, as text or as bytes |
//! | `code`, `reason` | disconnect | how the connection ended; 3000 if not given |
//! | `expect` | all | a verdict, or an object with parts of the outcome, see [`Outcome::to_json`] |

mod play;
mod read;
mod show;

use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::event::Kind;
use crate::protocol::channel::Channel;

pub use self::play::{Answer, Occurrence, Outcome, Player};

/// Where the clock of a script begins: Unix time in milliseconds. The test kit of the SDK begins at the same moment.
pub const START: u64 = 1_700_000_000_000;

/// Events in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Script {
    /// The events.
    pub steps: Vec<Step>,
}

/// One event and what should come of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Where it stands, such as `line 3` or `event 3`.
    pub place: Box<str>,
    /// The name of its connection.
    pub connection: Box<str>,
    /// What the client is from here on.
    pub who: Who,
    /// When it happens.
    pub time: Time,
    /// What happens.
    pub event: Event,
    /// Parts of the outcome that have to be so.
    pub expect: Option<Map<String, Value>>,
}

/// When an event happens, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// At this Unix time.
    At(u64),
    /// This long after the event before.
    After(u64),
}

/// What an event says of its client. What is not said stays as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// The user.
    pub user: Option<Box<str>>,
    /// Attributes to set; an empty value removes one.
    pub attributes: Vec<(Box<str>, Box<str>)>,
    /// Headers of the handshake, names in lower case.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// Where it comes from.
    pub address: Option<IpAddr>,
    /// `centrifuge-json` or `raw`.
    pub protocol: Option<&'static str>,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client wants to be admitted, or refreshes.
    Connect {
        /// Its credential, empty for none.
        token: Box<str>,
        /// JSON sent along, empty for none.
        data: Bytes,
    },
    /// A command.
    Message {
        /// What it asks for.
        kind: Kind,
        /// The channel, if it has one.
        channel: Option<Channel>,
        /// The method of an rpc, empty otherwise.
        method: Box<str>,
        /// The payload.
        payload: Bytes,
        /// Whether a raw message came as binary.
        binary: bool,
        /// The credential of a subscribe, empty otherwise.
        token: Box<str>,
    },
    /// The client has gone.
    Disconnect {
        /// The close code.
        code: u16,
        /// The close reason.
        reason: Box<str>,
    },
    /// An interval that the plugin asked for has passed. The clock of the script does not fire timers by itself.
    Timer,
}

/// Everything that is wrong with a script, each with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

impl Mistakes {
    /// In the order of the script.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Mistakes {}

impl Script {
    /// Reads a script. All mistakes are reported together.
    pub fn parse(text: &[u8]) -> Result<Self, Mistakes> {
        read::script(text)
    }
}

impl Event {
    /// The word for it in a script.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Message { .. } => "message",
            Self::Disconnect { .. } => "disconnect",
            Self::Timer => "timer",
        }
    }
}

impl Step {
    /// Compares what is expected with what came. Empty if it holds.
    pub fn unmet(&self, outcome: &Outcome) -> Vec<String> {
        let Some(expect) = &self.expect else { return Vec::new() };
        let found = outcome.to_json();
        let differs = expect.iter().filter(|(key, value)| found.get(*key) != Some(*value));
        differs
            .map(|(key, value)| match found.get(key) {
                Some(found) => format!("`{key}` is {found}, expected {value}"),
                None => format!("`{key}` is not there, expected {value}"),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
