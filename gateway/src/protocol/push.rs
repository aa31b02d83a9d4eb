//! [`Push`]: a message to many clients, encoded once per protocol, frame header included, and shared.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::channel::Channel;
use super::{Protocol, codec, json};
use crate::charge::Charge;

/// Bytes of what others are told of a client: its user, and what a plugin says of it.
pub const MEMBER_BYTES_MAX: usize = 32 * 1024;

/// A connection as others in a channel see it.
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
    /// How many bytes it takes in an answer at most, with its key in a list of members.
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
    /// Whether the payload is JSON on one line. What is not reaches JSON clients as a string.
    pub json: bool,
    /// Its number in the channel's stream, from 1; 0 in a channel without history.
    pub offset: u64,
    /// Who published it, for publications of clients.
    pub info: Option<Arc<Member>>,
}

impl Publication {
    /// How many bytes it takes in an answer at most.
    pub fn bytes(&self) -> usize {
        const AROUND: usize = r#"{"data":,"info":,"offset":18446744073709551615},"#.len();
        AROUND + payload_bytes(&self.data, self.json) + self.info.as_ref().map_or(0, |info| info.bytes())
    }
}

/// How many bytes a payload has wherever it goes: as it is, or as the string that clients receive if it is no JSON.
pub fn payload_bytes(data: &[u8], is_json: bool) -> usize {
    if is_json {
        return data.len();
    }
    match std::str::from_utf8(data) {
        Ok(text) => json::string_bytes(text),
        Err(_) => data.len().div_ceil(3) * 4 + 2,
    }
}

/// What happened in a channel.
#[derive(Debug)]
pub enum PushKind {
    /// Something was published.
    Publication {
        /// What.
        publication: Arc<Publication>,
        /// The stream its offset belongs to; empty without history.
        epoch: Arc<str>,
    },
    /// Somebody came.
    Join(Arc<Member>),
    /// Somebody went.
    Leave(Arc<Member>),
}

/// Something that happened in a channel, on its way to every subscriber.
#[derive(Debug)]
pub struct Push {
    /// Where.
    pub channel: Channel,
    /// What.
    pub kind: PushKind,
    frames: [OnceLock<Bytes>; Form::COUNT],
    /// Given back when every worker has delivered it.
    _charge: Option<Charge>,
}

/// In which shape a subscriber receives a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As an event of a channel the client is subscribed to.
    Channel(Protocol),
    /// As a message to the client itself: what is addressed to a user or a connection.
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
    /// A push that no one has encoded yet.
    pub fn new(channel: Channel, kind: PushKind) -> Self {
        Self::charged(channel, kind, None)
    }

    /// The same, and somebody pays for it until every worker has delivered it.
    pub fn charged(channel: Channel, kind: PushKind, charge: Option<Charge>) -> Self {
        Self { channel, kind, frames: Default::default(), _charge: charge }
    }

    /// What it takes on its way to a worker, in bytes.
    pub fn bytes(&self) -> usize {
        const AROUND: usize = size_of::<Push>();
        AROUND
            + match &self.kind {
                PushKind::Publication { publication, .. } => publication.data.len(),
                PushKind::Join(member) | PushKind::Leave(member) => member.info.len(),
            }
    }

    /// The complete WebSocket frame for subscribers of one form. The first caller encodes, on whichever worker it runs;
    /// everybody else shares. Empty if the form has no words for it (a join in raw mode).
    pub fn frame(&self, form: Form) -> &Bytes {
        self.frames[form.index()].get_or_init(|| codec::push_frame(self, form))
    }
}
