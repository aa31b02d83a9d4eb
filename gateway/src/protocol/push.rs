//! What goes to many clients: encoded once per protocol, frame header included, and shared.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::channel::Channel;
use super::{Protocol, codec};

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
        Self { channel, kind, frames: Default::default() }
    }

    /// The complete WebSocket frame for subscribers of one form. The first caller encodes, on whichever worker it runs;
    /// everybody else shares. Empty if the form has no words for it (a join in raw mode).
    pub fn frame(&self, form: Form) -> &Bytes {
        self.frames[form.index()].get_or_init(|| codec::push_frame(self, form))
    }
}
