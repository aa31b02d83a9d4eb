//! Verdicts and effects of plugins: closed sets, independent of how a plugin is executed.

use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::channel::Channel;

/// Why something was refused, in the words the client receives.
///
/// Codes 100-1999 become an error reply, codes 3000-4999 close the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// See above.
    pub code: u32,
    /// Short and without secrets.
    pub reason: Box<str>,
}

/// Who a client is, from the plugin that authenticated it.
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
    /// Names and values for later hooks.
    pub attributes: Vec<(Box<str>, Box<str>)>,
}

/// One plugin's answer to a client that wants to be admitted.
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
    /// The word for it in the plugin interface.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Accept(_) => "accept",
            Self::Refuse(_) => "refuse",
        }
    }
}

/// One plugin's answer to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No opinion.
    Next,
    /// Permit; later plugins still run.
    Allow,
    /// Refuse with an error reply; ends the chain.
    Deny(Refusal),
    /// Swallow; ends the chain.
    Drop,
    /// Close the connection; ends the chain.
    Disconnect(Refusal),
    /// Go on with this payload.
    Replace(Bytes),
    /// Answer the sender; ends the chain.
    Reply(Bytes),
    /// Publish to these addresses; ends the chain.
    Route(Vec<Channel>),
}

impl Verdict {
    /// The word for it in the plugin interface.
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

/// One plugin's answer to a publication on its way to the subscribers of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliverVerdict {
    /// They receive it as it is.
    Pass,
    /// They do not receive it; ends the chain.
    Drop,
    /// They receive this payload.
    Replace(Bytes),
}

impl DeliverVerdict {
    /// The word for it in the plugin interface.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Replace(_) => "replace",
        }
    }
}

/// Something a plugin asked for beside its answer. Recorded in order and applied after the hook returned normally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Publish a payload to an address.
    Publish {
        /// Who receives it.
        address: Channel,
        /// What.
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
    /// Set an attribute; an empty value removes it.
    SetAttribute {
        /// Its name.
        name: Box<str>,
        /// Its value.
        value: Box<str>,
    },
    /// Do something to the connections of an address.
    Reach {
        /// A user or a connection.
        address: Channel,
        /// The number of a connection that is left out.
        except: Option<u64>,
        /// What.
        action: Action,
    },
    /// Send a payload to an upstream of the configuration.
    Emit {
        /// The name of the upstream, which had room when this was recorded.
        upstream: Box<str>,
        /// The plugin that emits.
        plugin: Arc<str>,
        /// What.
        payload: Bytes,
    },
}

/// What a plugin does to connections that it reaches by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Subscribe them to a channel.
    Subscribe(Channel),
    /// Unsubscribe them from a channel.
    Unsubscribe(Channel),
    /// Close them.
    Disconnect(Refusal),
    /// Set when they expire, in Unix time in seconds; `None` for never.
    Refresh(Option<u64>),
}

impl Effect {
    /// The word for it in the plugin interface.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Publish { .. } => "publish",
            Self::Subscribe(_) => "subscribe",
            Self::Unsubscribe(_) => "unsubscribe",
            Self::Disconnect(_) => "disconnect",
            Self::Refresh(_) => "refresh",
            Self::SetAttribute { .. } => "set-attribute",
            Self::Emit { .. } => "emit",
            Self::Reach { action: Action::Subscribe(_), .. } => "subscribe-address",
            Self::Reach { action: Action::Unsubscribe(_), .. } => "unsubscribe-address",
            Self::Reach { action: Action::Disconnect(_), .. } => "disconnect-address",
            Self::Reach { action: Action::Refresh(_), .. } => "refresh-address",
        }
    }
}

/// What the whole chain says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// No plugin decided: the policy of the channel does. The payload is the one that left the last plugin.
    Undecided(Bytes),
    /// A plugin permitted it.
    Allowed(Bytes),
    /// Refuse with an error reply.
    Denied(Refusal),
    /// Swallow.
    Dropped,
    /// Close the connection.
    Disconnect(Refusal),
    /// Answer the sender.
    Reply(Bytes),
    /// Publish the payload to these addresses.
    Route {
        /// Who receives it.
        targets: Vec<Channel>,
        /// What: the payload that left the last plugin.
        payload: Bytes,
    },
    /// A plugin that fails closed failed: refuse with a temporary error.
    Failed,
}

/// What the whole chain says of a client that wants to be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// No plugin accepted: the setting for anonymous clients decides.
    Undecided,
    /// The last accept.
    Accepted(Box<Identity>),
    /// Not admitted.
    Refused(Refusal),
    /// A plugin that fails closed failed: refuse with a temporary error.
    Failed,
    /// No plugin accepted, and one that fails open has failed, which might have: a client that needs an accept comes back later.
    Doubtful,
}
