//! [`Event`]: everything that can happen to a connection.

use bytes::Bytes;

use super::effect::Ask;
use crate::hub::signal::Signal;
use crate::plugin::verdict::{Admission, Decision, Refusal};
use crate::protocol::channel::Channel;
use crate::protocol::code::{Close, ReplyError};
use crate::protocol::command::{Command, Malformed};
use crate::protocol::reply::{Reply, Subscribed};
use crate::telemetry::metrics::ControlFrame;

/// The closed set of events.
#[derive(Debug)]
pub enum Event {
    /// The client sent a command.
    Command(Command),
    /// The client sent something else.
    Malformed(Malformed),
    /// The plugins have judged a client that wants to be admitted or to be refreshed.
    Authenticated {
        /// Which command it was.
        id: u32,
        /// Whether the client is admitted already and refreshes.
        refresh: bool,
        /// What they say.
        admission: Admission,
        /// Whether the client showed a credential.
        credential: bool,
    },
    /// The plugins have judged a command.
    Decided {
        /// The command.
        ask: Ask,
        /// What they say.
        decision: Decision,
    },
    /// A subscription was made, or not.
    Subscribed {
        /// To what.
        channel: Channel,
        /// Who asked for it.
        by: Subscriber,
        /// How it ended.
        result: Result<Subscribed, ReplyError>,
    },
    /// The hub or the backplane has an answer to a command.
    Answered {
        /// Which command; 0 if the client expects no reply.
        id: u32,
        /// The reply to it.
        result: Result<Reply, ReplyError>,
    },
    /// A plugin subscribes the client.
    PluginSubscribes(Channel),
    /// A plugin removes a subscription.
    PluginUnsubscribes(Channel),
    /// A plugin ends the connection.
    PluginDisconnects(Refusal),
    /// The rest of the worker has something to say.
    Signal(Signal),
    /// A control frame of the WebSocket protocol came.
    Control(ControlFrame),
    /// Bytes went out, or did not.
    Flushed {
        /// How many since the beginning.
        written: u64,
        /// Whether more wait.
        pending: bool,
    },
    /// The transport has ended or must end, with what the other side is told or said.
    TransportEnded {
        /// Code and reason.
        close: Close,
        /// Whose doing it is.
        ending: Ending,
    },
    /// The deadline the core asked for has come.
    Tick,
}

/// Who asked for a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscriber {
    /// The client, with this command. `reject_unrecovered` is its wish for error 112.
    Client {
        /// Which command.
        id: u32,
        /// See [`crate::protocol::command::Subscribe`].
        reject_unrecovered: bool,
    },
    /// The plugin that admitted the client: part of the connect reply.
    Identity,
    /// A plugin, later.
    Plugin,
}

/// Whose doing the end of a transport is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client closed.
    Client,
    /// The socket failed or closed without a word.
    Transport,
    /// The client broke the WebSocket protocol: it is told so.
    Violation,
    /// The gateway failed in the middle of something: the client is told so.
    Failure,
}

/// A payload of nothing.
pub(super) const NOTHING: Bytes = Bytes::new();
