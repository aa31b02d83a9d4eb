//! [`Reply`]: a message of the gateway to one client. Codecs encode replies; a message to many is a
//! [`super::push::Push`].

use std::sync::Arc;

use bytes::Bytes;

use super::channel::Channel;
use super::code::{ReplyError, Unsubscribe};
use super::push::{Member, Publication};

/// One thing to say to one client. `id` is that of the command it answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The command failed.
    Error {
        /// Which command.
        id: u32,
        /// Why.
        error: ReplyError,
    },
    /// The client is admitted.
    Connected {
        /// Which command.
        id: u32,
        /// With what.
        result: Connected,
    },
    /// The client is subscribed.
    Subscribed {
        /// Which command.
        id: u32,
        /// With what.
        result: Subscribed,
    },
    /// Done, with nothing to tell: unsubscribe, publish.
    Done {
        /// Which command.
        id: u32,
        /// The name of the result field.
        what: Done,
    },
    /// Who is in a channel.
    Presence {
        /// Which command.
        id: u32,
        /// Everyone.
        members: Vec<Arc<Member>>,
    },
    /// How many are in a channel.
    PresenceStats {
        /// Which command.
        id: u32,
        /// Connections.
        clients: usize,
        /// Different users among them.
        users: usize,
    },
    /// What was published to a channel.
    History {
        /// Which command.
        id: u32,
        /// In the order asked for.
        publications: Vec<Arc<Publication>>,
        /// Newest offset of the stream.
        offset: u64,
        /// The stream.
        epoch: Arc<str>,
    },
    /// The result of a method.
    Rpc {
        /// Which command.
        id: u32,
        /// JSON.
        data: Bytes,
    },
    /// The connection is extended.
    Refreshed {
        /// Which command.
        id: u32,
        /// The client's id.
        client: Arc<str>,
        /// Seconds until it expires again; `None` for never.
        ttl: Option<u32>,
    },
    /// Are you there?
    Ping,
    /// A message to this connection alone.
    Message {
        /// JSON.
        data: Bytes,
    },
    /// A message in raw mode.
    Raw {
        /// What.
        data: Bytes,
        /// Whether it goes out as binary.
        binary: bool,
    },
    /// The server subscribed the client to a channel.
    SubscribedByServer {
        /// Which channel.
        channel: Channel,
        /// With what.
        result: Subscribed,
    },
    /// The server has set when the connection expires.
    RefreshedByServer {
        /// Seconds until then; `None` for never.
        ttl: Option<u32>,
    },
    /// The server removed a subscription.
    UnsubscribedByServer {
        /// Which channel.
        channel: Channel,
        /// Why.
        why: Unsubscribe,
    },
}

/// Results without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Of `unsubscribe`.
    Unsubscribe,
    /// Of `publish`.
    Publish,
}

/// What an admitted client is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Connected {
    /// The id of the connection.
    pub client: Arc<str>,
    /// Seconds until it expires; `None` for never.
    pub ttl: Option<u32>,
    /// JSON from a plugin; empty for none.
    pub data: Bytes,
    /// The server's subscriptions.
    pub subscriptions: Vec<(Channel, Subscribed)>,
    /// Seconds between pings; 0 for none.
    pub ping: u32,
}

/// What a subscribed client is told.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Subscribed {
    /// Whether the channel can be recovered.
    pub recoverable: bool,
    /// Whether the gateway tracks where the client stands.
    pub positioned: bool,
    /// The stream; empty without a position.
    pub epoch: Arc<str>,
    /// Where the stream stands, or where the client stood if it was recovered.
    pub offset: u64,
    /// What the client missed, oldest first.
    pub publications: Vec<Arc<Publication>>,
    /// Whether nothing is missing; `None` if the client did not ask.
    pub recovered: Option<bool>,
    /// JSON from a plugin; empty for none.
    pub data: Bytes,
}
