//! [`Event`]: everything that can happen to a connection.

use bytes::Bytes;

use super::effect::{About, Ask};
use crate::ask::Answer;
use crate::hub::signal::Signal;
use crate::plugin::verdict::{Admission, Decision, Expiry, Refusal};
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
    /// The client sent a malformed command.
    Malformed(Malformed),
    /// The plugins have decided on a client that connects or refreshes.
    Authenticated {
        /// Id of the command.
        id: u32,
        /// Whether the client is already admitted and refreshes.
        refresh: bool,
        /// Their decision.
        admission: Admission,
        /// Whether the client sent a credential.
        credential: bool,
    },
    /// The plugins have decided on a command.
    Decided {
        /// The command.
        ask: Ask,
        /// Their decision.
        decision: Decision,
        /// When the subscription that the command makes or refreshes expires, if a plugin has set it.
        expiry: Option<Expiry>,
    },
    /// An upstream has answered, or has not.
    Answers {
        /// What it was asked about.
        about: About,
        /// The answer; `None` if there is no usable one.
        answer: Option<Answer>,
    },
    /// A subscription was made or has failed.
    Subscribed {
        /// The channel.
        channel: Channel,
        /// The initiator.
        by: Subscriber,
        /// The result.
        result: Result<Subscribed, ReplyError>,
    },
    /// The hub or the backplane has responded to a command.
    Answered {
        /// Id of the command; 0 if the client expects no reply.
        id: u32,
        /// The reply or the error.
        result: Result<Reply, ReplyError>,
    },
    /// A plugin subscribes the client.
    PluginSubscribes(Channel),
    /// A plugin removes a subscription.
    PluginUnsubscribes(Channel),
    /// A plugin sets when a subscription expires.
    PluginRefreshes {
        /// The channel.
        channel: Channel,
        /// When.
        expiry: Expiry,
    },
    /// A plugin ends the connection.
    PluginDisconnects(Refusal),
    /// The worker has sent a signal.
    Signal(Signal),
    /// The client sent a control frame of the WebSocket protocol.
    Control(ControlFrame),
    /// Bytes were written to the socket, or it accepts none.
    Flushed {
        /// Bytes written since the beginning.
        written: u64,
        /// Whether more bytes are queued.
        pending: bool,
    },
    /// The transport has ended or must end, with the close sent or received.
    TransportEnded {
        /// Code and reason.
        close: Close,
        /// The cause.
        ending: Ending,
    },
    /// A deadline of the core has passed.
    Tick,
}

/// The initiator of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscriber {
    /// The client. `reject_unrecovered` is its request for error 112.
    Client {
        /// Id of the command.
        id: u32,
        /// See [`crate::protocol::command::Subscribe`].
        reject_unrecovered: bool,
    },
    /// The plugin that admitted the client: part of the connect reply.
    Identity,
    /// A plugin, after admission.
    Plugin,
}

/// Why a transport has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client closed.
    Client,
    /// The socket failed or closed without a close frame.
    Transport,
    /// The client broke the WebSocket protocol, and gets a close frame.
    Violation,
    /// The gateway failed, and the client gets a close frame.
    Failure,
}

/// An empty payload.
pub(super) const NOTHING: Bytes = Bytes::new();
