//! [`Effect`]: everything that a connection can cause.

use std::sync::Arc;

use bytes::Bytes;

use super::event::Subscriber;
use crate::ask;
use crate::backplane::SubscribeOptions;
use crate::plugin::event::MessageContent;
use crate::plugin::verdict::{Admission, Expiry, Identity};
use crate::protocol::channel::Channel;
use crate::protocol::code::{Close, Unsubscribe};
use crate::protocol::command::{HistoryQuery, Position, Software};
use crate::protocol::filter::TagFilter;
use crate::protocol::reply::Reply;
use crate::telemetry::metrics::CloseCause;

/// The closed set of effects.
#[derive(Debug)]
pub enum Effect {
    /// Send a reply to the client.
    Reply(Reply),
    /// Run the plugins for a credential. Followed by `Event::Authenticated`.
    Authenticate {
        /// Id of the command.
        id: u32,
        /// Whether the client is already admitted.
        refresh: bool,
        /// The credential; empty for none.
        token: Box<str>,
        /// JSON of the client; empty for none.
        data: Bytes,
    },
    /// Admit the client as this user, and make it reachable.
    Admit(Box<Identity>),
    /// Set attributes for later hooks; an empty value removes one.
    SetAttributes(Vec<(Box<str>, Box<str>)>),
    /// Run the plugins for a command. Followed by `Event::Decided`.
    Ask(Ask),
    /// Ask an upstream about something on which no plugin has decided. Followed by `Event::Answers`.
    AskUpstream {
        /// The name of the upstream.
        upstream: Arc<str>,
        /// What is asked.
        about: About,
    },
    /// Make a subscription. Followed by `Event::Subscribed`.
    Subscribe {
        /// The channel.
        channel: Channel,
        /// The initiator.
        by: Subscriber,
        /// The client's position, if it wants to recover.
        recover: Option<Position>,
        /// Whether the client gets join and leave messages; `None` for the setting of the channel.
        join_leave: Option<bool>,
        /// The publications that the client wants; `None` for all.
        filter: Option<Arc<TagFilter>>,
        /// Whether publications may be deltas.
        delta: bool,
        /// What the server API wants beyond the rules of the channel; `None` for nothing.
        options: Option<Arc<SubscribeOptions>>,
    },
    /// Remove a subscription, for this reason.
    Unsubscribe(Channel, Unsubscribe),
    /// Publish. Followed by `Event::Answered` for the last target, or for the first that fails.
    Publish {
        /// Id of the command.
        id: u32,
        /// The targets.
        targets: Vec<Channel>,
        /// The payload.
        payload: Bytes,
        /// The reply after success.
        reply: Option<Reply>,
        /// Whether it is not kept.
        skip_history: bool,
    },
    /// Read presence. Followed by `Event::Answered`.
    Presence {
        /// Id of the command.
        id: u32,
        /// The channel.
        channel: Channel,
        /// Whether only counts are needed.
        stats: bool,
    },
    /// Read history. Followed by `Event::Answered`.
    History {
        /// Id of the command.
        id: u32,
        /// The channel.
        channel: Channel,
        /// The part to read.
        query: HistoryQuery,
    },
    /// End the connection. No effect follows.
    End {
        /// The close sent to the client, or received from it.
        close: Close,
        /// For logs and metrics.
        cause: CloseCause,
        /// Whether to send a close frame.
        tell: bool,
        /// Whether to drop queued frames.
        discard: bool,
    },
}

/// A command for the plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Id of the command; 0 if no reply is expected.
    pub id: u32,
    /// The parts that plugins see.
    pub content: MessageContent,
    /// Parts that plugins do not see.
    pub details: Details,
}

/// The part of a command that matters only once it is permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Details {
    /// Nothing.
    None,
    /// Of a subscribe.
    Subscribe {
        /// The client's position, if it wants to recover.
        recover: Option<Position>,
        /// Whether it wants join and leave messages.
        join_leave: bool,
        /// Whether it prefers error 112.
        reject_unrecovered: bool,
        /// The publications that it wants; `None` for all.
        filter: Option<Arc<TagFilter>>,
        /// Whether publications may be deltas.
        delta: bool,
    },
    /// Of a history.
    History(HistoryQuery),
}

/// What an upstream is asked about.
#[derive(Debug, PartialEq, Eq)]
pub enum About {
    /// A client that connects or refreshes.
    Client {
        /// Id of the command.
        id: u32,
        /// Whether it has sent a credential.
        credential: bool,
        /// What the plugins have said, which is no decision.
        admission: Admission,
        /// What a client says that connects; `None` of one that is admitted and refreshes.
        connecting: Option<Box<Connecting>>,
    },
    /// A command.
    Command {
        /// The command, without its payload.
        ask: Ask,
        /// The payload after the last plugin.
        payload: Bytes,
        /// When the subscription that the command makes or refreshes expires, if a plugin has set it.
        expiry: Option<Expiry>,
    },
    /// The connection, which has expired.
    Connection,
    /// A subscription that has expired.
    Subscription(Channel),
}

/// What a client says that connects.
#[derive(Debug, PartialEq, Eq)]
pub struct Connecting {
    /// Of itself.
    pub software: Software,
    /// The channels that it wants to recover.
    pub channels: Vec<Channel>,
    /// Unix time in seconds at which the upstream is asked. The upstream may have looked at the client just
    /// then, so what is revoked before the answer comes concerns the client.
    pub asked: u64,
}

impl About {
    /// The kind of the question.
    pub fn kind(&self) -> ask::Kind {
        use crate::plugin::event::Kind;
        match self {
            Self::Client { connecting: Some(_), .. } => ask::Kind::Connect,
            Self::Client { connecting: None, .. } | Self::Connection => ask::Kind::Refresh,
            Self::Subscription(_) => ask::Kind::SubRefresh,
            Self::Command { ask, .. } => match ask.content.kind {
                Kind::Subscribe => ask::Kind::Subscribe,
                Kind::SubRefresh => ask::Kind::SubRefresh,
                Kind::Publish => ask::Kind::Publish,
                Kind::Send => ask::Kind::Send,
                Kind::Raw => ask::Kind::Message,
                // Nothing else is asked.
                _ => ask::Kind::Rpc,
            },
        }
    }
}
