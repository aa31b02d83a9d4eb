//! [`Command`]: the requests of clients in the vocabulary of the gateway. Codecs make commands; the
//! connection core consumes them.

use bytes::Bytes;

use super::channel::{Channel, InvalidChannel};
use super::code::ReplyError;
use super::json::{NotJson, Unfit};

/// One command of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Chosen by the client, echoed in the reply; 0 where no reply is expected.
    pub id: u32,
    /// What it asks for.
    pub request: Request,
}

/// A channel as the client wrote it, already judged.
pub type NamedChannel = Result<Channel, InvalidChannel>;

/// The closed set of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Be admitted. Must come first and once.
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
        /// Where to.
        channel: NamedChannel,
        /// What.
        data: Bytes,
    },
    /// Who is in a channel.
    Presence {
        /// Which channel.
        channel: NamedChannel,
    },
    /// How many are in a channel.
    PresenceStats {
        /// Which channel.
        channel: NamedChannel,
    },
    /// What was published to a channel.
    History {
        /// Which channel.
        channel: NamedChannel,
        /// Which part of it.
        query: HistoryQuery,
    },
    /// Call a method and wait for its result.
    Rpc {
        /// Which method; may be empty.
        method: Box<str>,
        /// Its argument.
        data: Bytes,
    },
    /// A message that expects no reply.
    Send {
        /// What.
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
    },
    /// The answer to a ping: the empty command.
    Pong,
    /// Something of the protocol that is not offered here, or that nobody could carry out.
    Refused {
        /// Whether it was the request to be admitted.
        connect: bool,
        /// What the client is told.
        why: ReplyError,
    },
    /// A message in raw mode, as it came.
    Raw {
        /// What.
        data: Bytes,
        /// Whether it came as binary.
        binary: bool,
    },
}

/// The request to be admitted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connect {
    /// The credential; empty for none.
    pub token: Box<str>,
    /// JSON for plugins; empty for none.
    pub data: Bytes,
    /// Where the client stands in channels the server subscribed it to before.
    pub positions: Vec<(Channel, Position)>,
}

/// The request to receive a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Which channel.
    pub channel: NamedChannel,
    /// Where the client stands, if it wants what it missed.
    pub recover: Option<Position>,
    /// Whether it wants to hear who joins and leaves.
    pub join_leave: bool,
    /// Whether it prefers error 112 to a subscription that could not be recovered.
    pub reject_unrecovered: bool,
    /// The credential for this channel; empty for none.
    pub token: Box<str>,
    /// JSON for plugins; empty for none.
    pub data: Bytes,
}

/// A place in a channel's stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// Number of the newest publication seen; the first one is 1.
    pub offset: u64,
    /// The stream the number belongs to; empty if unknown.
    pub epoch: Box<str>,
}

/// Which part of a channel's history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryQuery {
    /// 0 only the position, negative as many as the server gives, else at most this many.
    pub limit: i64,
    /// After this place (or before it, in reverse).
    pub since: Option<Position>,
    /// Newest first.
    pub reverse: bool,
}

/// A frame that is no command: the connection is closed with 3501.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Nothing in it.
    #[error("an empty message")]
    Empty,
    /// Not JSON, or not the shape of a command.
    #[error("not a command")]
    Syntax,
    /// An id, but nothing asked for.
    #[error("a command without a request")]
    NoRequest,
    /// More commands in one message than allowed.
    #[error("too many commands in one message")]
    TooMany,
    /// A payload that nobody should have to read, where no reply could say so.
    #[error("a payload is {}", NotJson::from(*.0))]
    Payload(Unfit),
}
