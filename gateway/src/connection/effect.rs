//! [`Effect`]: everything that a connection can cause.

use bytes::Bytes;

use super::event::Subscriber;
use crate::plugin::event::Kind;
use crate::plugin::verdict::Identity;
use crate::protocol::channel::Channel;
use crate::protocol::code::Close;
use crate::protocol::command::{HistoryQuery, Position};
use crate::protocol::reply::Reply;
use crate::telemetry::metrics::CloseCause;

/// The closed set of effects.
#[derive(Debug)]
pub enum Effect {
    /// Tell the client.
    Reply(Reply),
    /// Let the plugins judge a credential. Answered by `Event::Judged`.
    Authenticate {
        /// Which command it was.
        id: u32,
        /// Whether the client is admitted already.
        refresh: bool,
        /// The credential; empty for none.
        token: Box<str>,
        /// JSON sent along; empty for none.
        data: Bytes,
    },
    /// The client is admitted as this user: make it reachable.
    Admit(Box<Identity>),
    /// Names and values that later hooks read; an empty value removes one.
    SetAttributes(Vec<(Box<str>, Box<str>)>),
    /// Let the plugins judge a command. Answered by `Event::Decided`.
    Ask(Ask),
    /// Make a subscription. Answered by `Event::Subscribed`.
    Subscribe {
        /// To what.
        channel: Channel,
        /// On whose wish.
        by: Subscriber,
        /// Where the client stands, if it wants what it missed.
        recover: Option<Position>,
        /// Whether the client hears who joins and leaves; `None` as the channel has it.
        join_leave: Option<bool>,
    },
    /// Remove a subscription.
    Unsubscribe(Channel),
    /// Publish. Answered by `Event::Answered` for the last target, or for the first that fails.
    Publish {
        /// Which command.
        id: u32,
        /// Where to.
        targets: Vec<Channel>,
        /// What.
        payload: Bytes,
        /// The reply when it worked.
        reply: Option<Reply>,
    },
    /// Find out who is in a channel. Answered by `Event::Answered`.
    Presence {
        /// Which command.
        id: u32,
        /// Where.
        channel: Channel,
        /// Only how many.
        stats: bool,
    },
    /// Read history. Answered by `Event::Answered`.
    History {
        /// Which command.
        id: u32,
        /// Of what.
        channel: Channel,
        /// Which part.
        query: HistoryQuery,
    },
    /// The connection is over. Nothing follows.
    End {
        /// What the client is told, or said.
        close: Close,
        /// For logs and metrics.
        cause: CloseCause,
        /// Whether a close frame goes out.
        tell: bool,
        /// Whether what waits for the client is dropped.
        discard: bool,
    },
}

/// A command on its way through the plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Of the command; 0 if no reply is expected.
    pub id: u32,
    /// What it asks for.
    pub kind: Kind,
    /// Its channel, if it has one.
    pub channel: Option<Channel>,
    /// The method of an rpc.
    pub method: Box<str>,
    /// Its payload.
    pub payload: Bytes,
    /// Whether a raw message came as binary.
    pub binary: bool,
    /// The credential of a subscribe, empty otherwise. Never logged.
    pub token: Box<str>,
    /// What plugins do not see.
    pub details: Details,
}

/// The part of a command that only matters once it is permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Details {
    /// Nothing.
    None,
    /// Of a subscribe.
    Subscribe {
        /// Where the client stands.
        recover: Option<Position>,
        /// Whether it wants to hear who joins and leaves.
        join_leave: bool,
        /// Whether it prefers error 112.
        reject_unrecovered: bool,
    },
    /// Of a history.
    History(HistoryQuery),
}
