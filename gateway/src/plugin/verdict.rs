//! Verdicts and effects of plugins: closed sets, independent of how a plugin is executed.

use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::channel::Channel;

/// Why an event was refused, as sent to the client.
///
/// Codes 100-1999 become an error reply, codes 3000-4999 close the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// See the ranges above.
    pub code: u32,
    /// Short and without secrets.
    pub reason: Box<str>,
}

/// The identity of a client, set by the plugin that authenticated it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Empty for an anonymous client.
    pub user: Box<str>,
    /// Unix time in seconds.
    pub expires_at: Option<u64>,
    /// JSON shown to other clients; empty for none.
    pub info: Bytes,
    /// JSON returned in the connect reply; empty for none.
    pub data: Bytes,
    /// Channels to subscribe the client to.
    pub channels: Vec<Channel>,
    /// Attributes for later hooks.
    pub attributes: Vec<(Box<str>, Box<str>)>,
}

/// One plugin's verdict on a client that connects or refreshes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectVerdict {
    /// No opinion.
    Pass,
    /// Admit with this identity; later plugins still run.
    Accept(Box<Identity>),
    /// Do not admit; ends the chain.
    Refuse(Refusal),
}

impl ConnectVerdict {
    /// The name in the plugin interface.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Accept(_) => "accept",
            Self::Refuse(_) => "refuse",
        }
    }
}

/// One plugin's verdict on a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No opinion.
    Next,
    /// Permit; later plugins still run.
    Allow,
    /// Refuse with an error reply; ends the chain.
    Deny(Refusal),
    /// Drop the message; ends the chain.
    Drop,
    /// Close the connection; ends the chain.
    Disconnect(Refusal),
    /// Continue with this payload.
    Replace(Bytes),
    /// Reply to the sender; ends the chain.
    Reply(Bytes),
    /// Publish to these addresses; ends the chain.
    Route(Vec<Channel>),
}

impl Verdict {
    /// The name in the plugin interface.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Allow => "allow",
            Self::Deny(_) => "deny",
            Self::Drop => "drop",
            Self::Disconnect(_) => "disconnect",
            Self::Replace(_) => "replace",
            Self::Reply(_) => "reply",
            Self::Route(_) => "route",
        }
    }
}

/// One plugin's verdict on a publication on its way to the subscribers of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliverVerdict {
    /// They receive it unchanged.
    Pass,
    /// They do not receive it; ends the chain.
    Drop,
    /// They receive this payload instead.
    Replace(Bytes),
}

impl DeliverVerdict {
    /// The name in the plugin interface.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Replace(_) => "replace",
        }
    }
}

/// When a subscription expires, as a plugin sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It does not.
    Never,
    /// At this Unix time in seconds.
    At(u64),
}

impl Expiry {
    /// The Unix time in seconds; `None` for never.
    pub const fn at(self) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::At(seconds) => Some(seconds),
        }
    }
}

impl From<Option<u64>> for Expiry {
    fn from(at: Option<u64>) -> Self {
        at.map_or(Self::Never, Self::At)
    }
}

/// An effect of a plugin in addition to its verdict. Recorded in order and applied after the hook returned
/// normally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Publish a payload to an address.
    Publish {
        /// The target.
        address: Channel,
        /// The payload.
        payload: Bytes,
    },
    /// Subscribe the client of the event.
    Subscribe(Channel),
    /// Unsubscribe the client of the event.
    Unsubscribe(Channel),
    /// Close the connection of the event.
    Disconnect(Refusal),
    /// Set when the connection of the event expires, in Unix time in seconds; `None` for never.
    Refresh(Option<u64>),
    /// Set when the client's subscription to a channel expires.
    RefreshSubscription {
        /// The channel.
        channel: Channel,
        /// When.
        expiry: Expiry,
    },
    /// Set when the subscription that the event makes or refreshes expires.
    SetSubscriptionExpiry(Expiry),
    /// Set an attribute; an empty value removes it.
    SetAttribute {
        /// Its name.
        name: Box<str>,
        /// Its value.
        value: Box<str>,
    },
    /// Change the connections of an address.
    Reach {
        /// A user or a connection.
        address: Channel,
        /// The number of an excluded connection.
        except: Option<u64>,
        /// The change.
        action: Action,
    },
    /// Send a payload to an upstream of the configuration.
    Emit {
        /// The name of the upstream, which had room when the effect was recorded.
        upstream: Box<str>,
        /// The plugin that emits.
        plugin: Arc<str>,
        /// The payload.
        payload: Bytes,
    },
}

/// A change that a plugin makes to connections by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Subscribe them to a channel.
    Subscribe(Channel),
    /// Unsubscribe them from a channel.
    Unsubscribe(Channel),
    /// Close them.
    Disconnect(Refusal),
    /// Set their expiry in Unix time in seconds; `None` for never.
    Refresh(Option<u64>),
}

impl Effect {
    /// The name in the plugin interface.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Publish { .. } => "publish",
            Self::Subscribe(_) => "subscribe",
            Self::Unsubscribe(_) => "unsubscribe",
            Self::Disconnect(_) => "disconnect",
            Self::Refresh(_) => "refresh",
            Self::RefreshSubscription { .. } => "refresh-subscription",
            Self::SetSubscriptionExpiry(_) => "set-subscription-expiry",
            Self::SetAttribute { .. } => "set-attribute",
            Self::Emit { .. } => "emit",
            Self::Reach { action: Action::Subscribe(_), .. } => "subscribe-address",
            Self::Reach { action: Action::Unsubscribe(_), .. } => "unsubscribe-address",
            Self::Reach { action: Action::Disconnect(_), .. } => "disconnect-address",
            Self::Reach { action: Action::Refresh(_), .. } => "refresh-address",
        }
    }
}

/// The decision of the whole chain on a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// No plugin decided, so the policy of the channel does. The payload is the one after the last plugin.
    Undecided(Bytes),
    /// A plugin permitted it.
    Allowed(Bytes),
    /// Refuse with an error reply.
    Denied(Refusal),
    /// Drop the message.
    Dropped,
    /// Close the connection.
    Disconnect(Refusal),
    /// Reply to the sender.
    Reply(Bytes),
    /// Publish the payload to these addresses.
    Route {
        /// The targets.
        targets: Vec<Channel>,
        /// The payload after the last plugin.
        payload: Bytes,
    },
    /// A plugin that fails closed failed: refuse with a temporary error.
    Failed,
}

/// The decision of the whole chain on a client that connects or refreshes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// No plugin accepted: the setting for anonymous clients decides.
    Undecided,
    /// The identity of the last accept.
    Accepted(Box<Identity>),
    /// Not admitted.
    Refused(Refusal),
    /// A plugin that fails closed failed: refuse with a temporary error.
    Failed,
    /// No plugin accepted, and one that fails open has failed and might have accepted: a client that needs an
    /// accept has to come back.
    Doubtful,
}
