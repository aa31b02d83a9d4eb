//! `Outcome` holds the answer, the effects and the log lines of one hook under test.

use crate::Refusal;
use crate::log::Level;

/// The outcome of one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<V> {
    /// The hook's answer; if the hook was not called, the answer of a plugin without an opinion.
    pub verdict: V,
    /// The effects that the hook requested in addition to its answer, in order.
    pub effects: Vec<Effect>,
    /// The new payload, if the hook changed it with [`Message::set_payload`](crate::Message::set_payload) or
    /// [`Verdict::Replace`](crate::Verdict::Replace).
    pub payload: Option<Vec<u8>>,
    /// The log lines of the hook.
    pub log: Vec<LogLine>,
    /// False if the plugin's interests do not cover the event. True also for a message that the plugin
    /// permits by an attribute.
    pub called: bool,
}

impl<V> Outcome<V> {
    /// The log lines as text, for `assert!(outcome.logged().contains("..."))`.
    pub fn logged(&self) -> String {
        self.log.iter().map(|line| line.message.as_str()).collect::<Vec<_>>().join("\n")
    }
}

/// An effect that a hook requested in addition to its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Publish a payload to an address.
    Publish {
        /// The receivers.
        address: String,
        /// What.
        payload: Vec<u8>,
    },
    /// Subscribe the client of the event to a channel.
    Subscribe(String),
    /// Unsubscribe the client of the event from a channel.
    Unsubscribe(String),
    /// Close the connection of the event.
    Disconnect(Refusal),
    /// Set an attribute of the connection; an empty value removes it.
    SetAttribute {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Close the connections of an address.
    DisconnectAddress {
        /// `#` and a user, or `@` and the id of a connection.
        address: String,
        /// With what.
        refusal: Refusal,
    },
    /// Subscribe the connections of an address.
    SubscribeAddress {
        /// `#` and a user, or `@` and the id of a connection.
        address: String,
        /// To what.
        channel: String,
    },
    /// Unsubscribe the connections of an address.
    UnsubscribeAddress {
        /// `#` and a user, or `@` and the id of a connection.
        address: String,
        /// From what.
        channel: String,
    },
    /// Set when the connection of the event expires, in Unix time in seconds; `None` for never.
    Refresh(Option<u64>),
    /// Set when the client's subscription to a channel expires.
    RefreshSubscription {
        /// The channel.
        channel: String,
        /// In Unix time in seconds; `None` for never.
        expires_at: Option<u64>,
    },
    /// Set when the subscription that the event makes or refreshes expires, in Unix time in seconds; `None`
    /// for never.
    SetSubscriptionExpiry(Option<u64>),
    /// Set when the connections of an address expire.
    RefreshAddress {
        /// `#` and a user, or `@` and the id of a connection.
        address: String,
        /// In Unix time in seconds; `None` for never.
        expires_at: Option<u64>,
    },
    /// Send a payload to an upstream.
    Emit {
        /// The name of the upstream.
        upstream: String,
        /// What.
        payload: Vec<u8>,
    },
}

impl Effect {
    /// Short for [`Effect::Publish`].
    pub fn publish(address: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self::Publish { address: address.into(), payload: payload.into() }
    }

    /// Short for [`Effect::DisconnectAddress`].
    pub fn disconnect_address(address: impl Into<String>, code: u32, reason: impl Into<String>) -> Self {
        Self::DisconnectAddress { address: address.into(), refusal: Refusal { code, reason: reason.into() } }
    }

    /// Short for [`Effect::SubscribeAddress`].
    pub fn subscribe_address(address: impl Into<String>, channel: impl Into<String>) -> Self {
        Self::SubscribeAddress { address: address.into(), channel: channel.into() }
    }

    /// Short for [`Effect::UnsubscribeAddress`].
    pub fn unsubscribe_address(address: impl Into<String>, channel: impl Into<String>) -> Self {
        Self::UnsubscribeAddress { address: address.into(), channel: channel.into() }
    }

    /// Short for [`Effect::RefreshSubscription`].
    pub fn refresh_subscription(channel: impl Into<String>, expires_at: Option<u64>) -> Self {
        Self::RefreshSubscription { channel: channel.into(), expires_at }
    }

    /// Short for [`Effect::RefreshAddress`].
    pub fn refresh_address(address: impl Into<String>, expires_at: Option<u64>) -> Self {
        Self::RefreshAddress { address: address.into(), expires_at }
    }

    /// Short for [`Effect::Emit`].
    pub fn emit(upstream: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self::Emit { upstream: upstream.into(), payload: payload.into() }
    }

    /// Short for [`Effect::SetAttribute`].
    pub fn set_attribute(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::SetAttribute { name: name.into(), value: value.into() }
    }
}

/// A line for the gateway's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The level.
    pub level: Level,
    /// The text.
    pub message: String,
}
