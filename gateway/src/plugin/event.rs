//! Events that plugins receive, and the client they are about.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::state::Meters;
use crate::protocol::channel::Channel;
use crate::protocol::push::Member;

/// A client as plugins see it. Immutable: a changed attribute makes a new one, so that an event keeps the
/// values it began with.
#[derive(Debug, Clone)]
pub struct Client {
    /// Unique in this process; the argument `connection` of hooks.
    pub number: u64,
    /// The id that the client and other clients know, a UUID.
    pub id: Arc<str>,
    /// Empty for an anonymous client and before a plugin has accepted one.
    pub user: Arc<str>,
    /// `centrifuge-json`, `centrifuge-protobuf`, `centrifuge-unidirectional` or `raw`; `unknown` if the
    /// client belonged to a dead gateway of a later version.
    pub protocol: &'static str,
    /// Remote address of the connection.
    pub address: IpAddr,
    /// The headers of the handshake selected by the configuration, names in lower case.
    pub headers: Arc<[(Box<str>, Box<str>)]>,
    /// Set by plugins.
    pub attributes: BTreeMap<Box<str>, Box<str>>,
}

/// Kind of a client's request. The numbers are those of the plugin interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// Publish to a channel.
    Publish = 1,
    /// Subscribe to a channel.
    Subscribe = 2,
    /// Leave a channel.
    Unsubscribe = 3,
    /// Call a method and wait for the result.
    Rpc = 4,
    /// A message without a reply.
    Send = 5,
    /// Members of a channel.
    Presence = 6,
    /// Number of members of a channel.
    PresenceStats = 7,
    /// Past publications of a channel.
    History = 8,
    /// A message in raw mode.
    Raw = 9,
    /// Extend a subscription that expires.
    SubRefresh = 10,
}

impl Kind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Self; 10] = [
        Self::Publish,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Rpc,
        Self::Send,
        Self::Presence,
        Self::PresenceStats,
        Self::History,
        Self::Raw,
        Self::SubRefresh,
    ];

    /// The name in the plugin interface.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Rpc => "rpc",
            Self::Send => "send",
            Self::Presence => "presence",
            Self::PresenceStats => "presence-stats",
            Self::History => "history",
            Self::Raw => "raw",
            Self::SubRefresh => "sub-refresh",
        }
    }
}

/// A hook that is called for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// A client connects or refreshes.
    Connect,
    /// A command of a client.
    Message,
    /// A publication on its way to a class of subscribers.
    Deliver,
    /// A client has disconnected.
    Disconnect,
    /// A timer interval has passed.
    Timer,
}

impl Hook {
    /// Every hook, in the order of the declaration.
    pub const ALL: [Self; 5] = [Self::Connect, Self::Message, Self::Deliver, Self::Disconnect, Self::Timer];

    /// The name in the plugin interface.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "on-connect",
            Self::Message => "on-message",
            Self::Deliver => "on-deliver",
            Self::Disconnect => "on-disconnect",
            Self::Timer => "on-timer",
        }
    }
}

/// A client that connects or refreshes.
#[derive(Debug)]
pub struct ConnectEvent {
    /// The client, as known so far.
    pub client: Arc<Client>,
    /// The credential, empty for none. Never logged.
    pub token: Box<str>,
    /// JSON of the connect command; empty for none.
    pub data: Bytes,
    /// Unix time in milliseconds.
    pub now: u64,
    /// Milliseconds since the process began.
    pub at: u64,
}

/// A command of an admitted client.
#[derive(Debug)]
pub struct Message {
    /// The sender.
    pub client: Arc<Client>,
    /// The command.
    pub content: MessageContent,
    /// Unix time in milliseconds.
    pub now: u64,
    /// Milliseconds since the process began.
    pub at: u64,
    /// Per-connection rate limits. They come with the message and return with it.
    pub meters: Meters,
}

/// The parts of a command that plugins see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageContent {
    /// The kind of request.
    pub kind: Kind,
    /// The channel of the command, if it has one.
    pub channel: Option<Channel>,
    /// The method of an rpc, empty otherwise.
    pub method: Box<str>,
    /// The payload: JSON in the Centrifuge JSON protocol, any bytes in Protobuf and in raw mode, empty where
    /// the command has none.
    pub payload: Bytes,
    /// Whether a raw message came in a binary frame.
    pub binary: bool,
    /// The credential of a subscribe or of the refresh of a subscription, empty otherwise. Never logged.
    pub token: Box<str>,
}

impl MessageContent {
    /// A text message without a method and a credential.
    pub fn new(kind: Kind, channel: Option<Channel>, payload: Bytes) -> Self {
        Self { kind, channel, method: Box::default(), payload, binary: false, token: Box::default() }
    }
}

/// A publication on its way to subscribers.
#[derive(Debug)]
pub struct Outgoing {
    /// The channel.
    pub channel: Channel,
    /// The payload, as earlier plugins left it.
    pub payload: Bytes,
    /// The publisher, if a client published.
    pub publisher: Option<Arc<Member>>,
    /// Unix time in milliseconds.
    pub now: u64,
    /// Milliseconds since the process began.
    pub at: u64,
}

/// A timer interval of a plugin has passed.
#[derive(Debug, Clone, Copy)]
pub struct Tick {
    /// The number of the worker.
    pub instance: u32,
    /// Unix time in milliseconds.
    pub now: u64,
    /// Milliseconds since the process began.
    pub at: u64,
}

/// A client that has disconnected.
#[derive(Debug)]
pub struct DisconnectEvent {
    /// The client.
    pub client: Arc<Client>,
    /// The close code.
    pub code: u16,
    /// The close reason.
    pub reason: Box<str>,
    /// Milliseconds since it was admitted.
    pub duration: u64,
    /// Unix time in milliseconds.
    pub now: u64,
    /// Milliseconds since the process began.
    pub at: u64,
}
