//! [`Push`]: a message to many clients, encoded once per protocol, frame header included, and shared.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::channel::Channel;
use super::{Protocol, codec, json};
use crate::charge::Charge;

/// Most bytes of a [`Member`]: its user, and the JSON of a plugin.
pub const MEMBER_BYTES_MAX: usize = 32 * 1024;

/// A connection as other members of a channel see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The id of the connection.
    pub client: Arc<str>,
    /// Empty for an anonymous client.
    pub user: Arc<str>,
    /// JSON from a plugin; empty for none.
    pub info: Bytes,
}

impl Member {
    /// Most bytes it takes in a reply, with its key in a list of members.
    pub fn bytes(&self) -> usize {
        const AROUND: usize = r#""":{"user":,"client":"","conn_info":},"#.len();
        AROUND + 2 * self.client.len() + json::string_bytes(&self.user) + self.info.len()
    }
}

/// One publication in a channel.
#[derive(Debug, PartialEq, Eq)]
pub struct Publication {
    /// The payload.
    pub data: Bytes,
    /// Whether the payload is JSON on one line. Any other payload reaches JSON clients as a string.
    pub json: bool,
    /// Its number in the channel's stream, from 1; 0 in a channel without history.
    pub offset: u64,
    /// The publisher, for publications of clients.
    pub info: Option<Arc<Member>>,
}

impl Publication {
    /// Most bytes it takes in a reply.
    pub fn bytes(&self) -> usize {
        const AROUND: usize = r#"{"data":,"info":,"offset":18446744073709551615},"#.len();
        AROUND + payload_bytes(&self.data, self.json) + self.info.as_ref().map_or(0, |info| info.bytes())
    }
}

/// Bytes of a payload everywhere: unchanged, or as the string that clients receive if it is not JSON.
pub fn payload_bytes(data: &[u8], is_json: bool) -> usize {
    if is_json {
        return data.len();
    }
    match std::str::from_utf8(data) {
        Ok(text) => json::string_bytes(text),
        Err(_) => data.len().div_ceil(3) * 4 + 2,
    }
}

/// An event of a channel.
#[derive(Debug)]
pub enum PushKind {
    /// A publication.
    Publication {
        /// The publication.
        publication: Arc<Publication>,
        /// The stream its offset belongs to; empty without history.
        epoch: Arc<str>,
    },
    /// A member joined.
    Join(Arc<Member>),
    /// A member left.
    Leave(Arc<Member>),
}

/// An event of a channel for every subscriber.
#[derive(Debug)]
pub struct Push {
    /// The channel.
    pub channel: Channel,
    /// The event.
    pub kind: PushKind,
    frames: [OnceLock<Bytes>; Form::COUNT],
    /// Returned when every worker has delivered the push.
    _charge: Option<Charge>,
}

/// The form in which a subscriber receives a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As an event of a channel the client is subscribed to.
    Channel(Protocol),
    /// As a message to the client itself: publications to a user or a connection.
    Direct(Protocol),
}

impl Form {
    const COUNT: usize = Protocol::COUNT * 2;

    fn index(self) -> usize {
        match self {
            Self::Channel(protocol) => protocol as usize,
            Self::Direct(protocol) => Protocol::COUNT + protocol as usize,
        }
    }
}

impl Push {
    /// A push that is not encoded yet.
    pub fn new(channel: Channel, kind: PushKind) -> Self {
        Self::charged(channel, kind, None)
    }

    /// A push that is charged to an account until every worker has delivered it.
    pub fn charged(channel: Channel, kind: PushKind, charge: Option<Charge>) -> Self {
        Self { channel, kind, frames: Default::default(), _charge: charge }
    }

    /// Bytes it takes on its way to a worker.
    pub fn bytes(&self) -> usize {
        const AROUND: usize = size_of::<Push>();
        AROUND
            + match &self.kind {
                PushKind::Publication { publication, .. } => publication.data.len(),
                PushKind::Join(member) | PushKind::Leave(member) => member.info.len(),
            }
    }

    /// The complete WebSocket frame for subscribers with this form. The first caller encodes it, on any
    /// worker; all others share it. Empty if the form cannot express the event (a join in raw mode).
    pub fn frame(&self, form: Form) -> &Bytes {
        self.frames[form.index()].get_or_init(|| codec::push_frame(self, form))
    }
}
