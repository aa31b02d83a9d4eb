//! [`Reply`]: a message of the gateway to one client. Codecs encode replies; a message to many is a
//! [`super::push::Push`].

use std::sync::Arc;

use bytes::Bytes;

use super::channel::Channel;
use super::code::{Close, ReplyError, Unsubscribe};
use super::push::{Member, Publication};

/// One message to one client. `id` is that of the command it answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The command failed.
    Error {
        /// Which command.
        id: u32,
        /// The error.
        error: ReplyError,
    },
    /// The client is admitted.
    Connected {
        /// Which command.
        id: u32,
        /// The result.
        result: Connected,
    },
    /// The client is subscribed.
    Subscribed {
        /// Which command.
        id: u32,
        /// The result.
        result: Subscribed,
    },
    /// Success without content: unsubscribe, publish.
    Done {
        /// Which command.
        id: u32,
        /// The name of the result field.
        what: Done,
    },
    /// Members of a channel.
    Presence {
        /// Which command.
        id: u32,
        /// All members.
        members: Vec<Arc<Member>>,
    },
    /// Number of members of a channel.
    PresenceStats {
        /// Which command.
        id: u32,
        /// Connections.
        clients: usize,
        /// Different users among them.
        users: usize,
    },
    /// Past publications of a channel.
    History {
        /// Which command.
        id: u32,
        /// In the requested order.
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
    /// The subscription is extended.
    SubRefreshed {
        /// Which command.
        id: u32,
        /// Seconds until it expires again; `None` for never.
        ttl: Option<u32>,
    },
    /// A ping.
    Ping,
    /// A message to this connection alone.
    Message {
        /// JSON.
        data: Bytes,
    },
    /// A message in raw mode.
    Raw {
        /// The payload.
        data: Bytes,
        /// Whether it goes out in a binary frame.
        binary: bool,
    },
    /// The server subscribed the client to a channel.
    SubscribedByServer {
        /// Which channel.
        channel: Channel,
        /// The result.
        result: Subscribed,
    },
    /// The server has set when the connection expires.
    RefreshedByServer {
        /// Seconds until then; `None` for never.
        ttl: Option<u32>,
    },
    /// The connection ends. Only where the framing itself cannot say why.
    Disconnected {
        /// The code and the reason.
        close: Close,
    },
    /// The server removed a subscription.
    UnsubscribedByServer {
        /// Which channel.
        channel: Channel,
        /// Why.
        why: Unsubscribe,
    },
}

impl Reply {
    /// Whether the size of the message on the wire may depend on what it says, as it does when it is
    /// compressed. A secret next to text that an attacker chose could then be guessed, attempt by attempt.
    /// So only what others in the channel receive too may be compressed. What a plugin or the gateway says to
    /// one client may hold a secret, such as a token.
    ///
    /// Raw mode knows no difference between the two, and keeping secrets apart there is up to the plugin.
    pub fn may_be_compressed(&self) -> bool {
        match self {
            Self::Presence { .. } | Self::History { .. } | Self::Raw { .. } => true,
            // Recovered publications.
            Self::Subscribed { result, .. } => result.data.is_empty(),
            Self::SubscribedByServer { channel, result } => result.data.is_empty() && !channel.is_of_one(),
            Self::Error { .. }
            | Self::Connected { .. }
            | Self::Done { .. }
            | Self::PresenceStats { .. }
            | Self::Rpc { .. }
            | Self::Refreshed { .. }
            | Self::SubRefreshed { .. }
            | Self::Ping
            | Self::Message { .. }
            | Self::RefreshedByServer { .. }
            | Self::Disconnected { .. }
            | Self::UnsubscribedByServer { .. } => false,
        }
    }
}

/// Results without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Of `unsubscribe`.
    Unsubscribe,
    /// Of `publish`.
    Publish,
}

/// The result of a connect.
#[derive(Debug, Clone, PartialEq)]
pub struct Connected {
    /// The id of the connection.
    pub client: Arc<str>,
    /// Seconds until it expires; `None` for never.
    pub ttl: Option<u32>,
    /// JSON from a plugin; empty for none.
    pub data: Bytes,
    /// The server-side subscriptions.
    pub subscriptions: Vec<(Channel, Subscribed)>,
    /// Seconds between pings; 0 for none.
    pub ping: u32,
    /// Whether the client has to answer pings.
    pub pong: bool,
    /// Where the client sends further commands, if not on this connection.
    pub emulation: Option<Arc<Emulation>>,
}

/// The address of a connection for commands that come in requests of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulation {
    /// Secret of the client: who has it can send commands.
    pub session: Box<str>,
    /// The gateway that has the connection.
    pub node: Arc<str>,
}

/// The result of a subscribe.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Subscribed {
    /// Seconds until it expires unless the client refreshes it; `None` for never, and for a server-side
    /// subscription, which the client cannot refresh.
    pub ttl: Option<u32>,
    /// Whether the channel can be recovered.
    pub recoverable: bool,
    /// Whether the gateway tracks the client's position.
    pub positioned: bool,
    /// The stream; empty without a position.
    pub epoch: Arc<str>,
    /// The top of the stream, or the client's position if it was recovered.
    pub offset: u64,
    /// Missed publications, oldest first.
    pub publications: Vec<Arc<Publication>>,
    /// Whether nothing is missing; `None` if the client did not request recovery.
    pub recovered: Option<bool>,
    /// JSON from a plugin; empty for none.
    pub data: Bytes,
    /// Whether publications may be deltas, and their payloads are written for that.
    pub delta: bool,
}
