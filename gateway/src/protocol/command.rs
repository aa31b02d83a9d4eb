//! [`Command`]: the requests of clients in the vocabulary of the gateway. Codecs make commands; the
//! connection core consumes them.

use std::sync::Arc;

use bytes::Bytes;

use super::channel::{Channel, InvalidChannel};
use super::code::ReplyError;
use super::filter::TagFilter;
use super::json::{NotJson, Unfit};

/// One command of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Chosen by the client, echoed in the reply; 0 where no reply is expected.
    pub id: u32,
    /// The request.
    pub request: Request,
}

/// A channel as the client wrote it, already checked.
pub type NamedChannel = Result<Channel, InvalidChannel>;

/// The closed set of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Authenticate. Must come first and only once.
    Connect(Connect),
    /// Receive what is published to a channel.
    Subscribe(Subscribe),
    /// Stop receiving.
    Unsubscribe {
        /// Which channel.
        channel: NamedChannel,
    },
    /// Publish to a channel.
    Publish {
        /// The target.
        channel: NamedChannel,
        /// The payload.
        data: Bytes,
    },
    /// Members of a channel.
    Presence {
        /// Which channel.
        channel: NamedChannel,
    },
    /// Number of members of a channel.
    PresenceStats {
        /// Which channel.
        channel: NamedChannel,
    },
    /// Past publications of a channel.
    History {
        /// Which channel.
        channel: NamedChannel,
        /// Which part of it.
        query: HistoryQuery,
    },
    /// Call a method and wait for its result.
    Rpc {
        /// The method; may be empty.
        method: Box<str>,
        /// Its argument.
        data: Bytes,
    },
    /// A message that expects no reply.
    Send {
        /// The payload.
        data: Bytes,
    },
    /// Extend an expiring connection.
    Refresh {
        /// The new credential.
        token: Box<str>,
    },
    /// Extend an expiring subscription.
    SubRefresh {
        /// Which channel.
        channel: NamedChannel,
        /// The new credential.
        token: Box<str>,
    },
    /// The response to a ping: the empty command.
    Pong,
    /// A part of the protocol that is not offered, or that is invalid.
    Refused {
        /// Whether it was the connect request.
        connect: bool,
        /// The error for the client.
        why: ReplyError,
    },
    /// A message in raw mode, unchanged.
    Raw {
        /// The payload.
        data: Bytes,
        /// Whether it came in a binary frame.
        binary: bool,
    },
}

/// The connect request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connect {
    /// The credential; empty for none.
    pub token: Box<str>,
    /// JSON for plugins; empty for none.
    pub data: Bytes,
    /// The client's positions in channels that the server subscribed it to before.
    pub positions: Vec<(Channel, Position)>,
    /// Channels in which the client applies deltas if the server subscribes it to them, in order.
    pub deltas: Vec<Channel>,
    /// What the client says of itself.
    pub software: Software,
}

/// The software of a client, as it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Software {
    /// May be empty.
    pub name: Box<str>,
    /// May be empty.
    pub version: Box<str>,
}

/// The subscribe request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Which channel.
    pub channel: NamedChannel,
    /// The client's position, if it wants to recover missed publications.
    pub recover: Option<Position>,
    /// Whether it wants join and leave messages.
    pub join_leave: bool,
    /// Whether it prefers error 112 to a subscription that could not be recovered.
    pub reject_unrecovered: bool,
    /// The credential for this channel; empty for none.
    pub token: Box<str>,
    /// JSON for plugins; empty for none.
    pub data: Bytes,
    /// The publications it wants; `None` for all.
    pub filter: Option<Arc<TagFilter>>,
    /// Whether it applies deltas.
    pub delta: bool,
}

/// A position in a channel's stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// Number of the newest publication seen; the first one is 1.
    pub offset: u64,
    /// The stream the number belongs to; empty if unknown.
    pub epoch: Arc<str>,
}

/// A part of a channel's history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryQuery {
    /// 0 for only the position, negative for as many as the server allows, otherwise at most this many.
    pub limit: i64,
    /// After this position (or before it, in reverse).
    pub since: Option<Position>,
    /// Newest first.
    pub reverse: bool,
}

/// A frame that is not a command: the connection is closed with 3501.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Empty.
    #[error("an empty message")]
    Empty,
    /// Not JSON, or not the shape of a command.
    #[error("not a command")]
    Syntax,
    /// An id without a request.
    #[error("a command without a request")]
    NoRequest,
    /// Several requests, or one of them twice: it is not known which of them the client means.
    #[error("a command with several requests")]
    SeveralRequests,
    /// A field that occurs twice, where the encoding does not say which one counts.
    #[error("a field that occurs twice")]
    RepeatedField,
    /// More commands in one message than allowed.
    #[error("too many commands in one message")]
    TooMany,
    /// A payload that no receiver should have to parse, in a message that has no reply.
    #[error("a payload is {}", NotJson::from(*.0))]
    Payload(Unfit),
}
