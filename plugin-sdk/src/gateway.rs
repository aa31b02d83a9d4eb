//! `Gateway` gives every event the time and the effects on other connections and channels.

use serde::Serialize;

use crate::error::HostErrorKind;
use crate::{HostError, Refusal, host};

/// The part that events have even without a client: the time, and the effects on the rest of the gateway.
/// Events dereference to it, except [`Outgoing`](crate::Outgoing).
///
/// Effects are *recorded*. The gateway applies them in the order of the calls, after the hook has returned
/// normally. If the hook panics, the gateway discards them.
///
/// Effects reach other connections by user or by connection id, a moment later. In
/// [`on_connect`](crate::Plugin::on_connect) they do not include the client of the event: a plugin that
/// allows one connection per user closes the others with [`disconnect_user`](Self::disconnect_user) and
/// accepts the new one.
#[derive(Debug)]
pub struct Gateway(());

impl Gateway {
    pub(crate) const fn new() -> Self {
        Self(())
    }

    /// Unix time in milliseconds. It does not change during one event. Use it instead of the system clock, so
    /// that tests can set it.
    pub fn now(&self) -> u64 {
        host::now()
    }

    /// Publishes a payload to an [address](crate::address).
    ///
    /// # Errors
    ///
    /// If the address is not valid, the effect is not granted, or the limits of the plugin are used up.
    pub fn publish(&self, address: impl AsRef<str>, payload: &[u8]) -> Result<(), HostError> {
        host::publish(address.as_ref(), payload)
    }

    /// Publishes a value as JSON to an [address](crate::address).
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish), and if JSON cannot express the value.
    pub fn publish_json(
        &self,
        address: impl AsRef<str>,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), HostError> {
        self.publish(address, &to_json(value)?)
    }

    /// Closes every connection of a user. The code must be one of the close codes in [`code`](crate::code).
    ///
    /// # Errors
    ///
    /// If the user is not valid, the code does not close a connection, the effect is not granted, or the
    /// limits of the plugin are used up.
    pub fn disconnect_user(&self, user: &str, code: u32, reason: impl Into<String>) -> Result<(), HostError> {
        host::disconnect_address(&format!("#{user}"), Refusal { code, reason: reason.into() })
    }

    /// Closes the connection with this id. The code must be one of the close codes in [`code`](crate::code).
    ///
    /// # Errors
    ///
    /// If the id is not valid, the code does not close a connection, the effect is not granted, or the limits
    /// of the plugin are used up.
    pub fn disconnect_connection(
        &self,
        id: &str,
        code: u32,
        reason: impl Into<String>,
    ) -> Result<(), HostError> {
        host::disconnect_address(&format!("@{id}"), Refusal { code, reason: reason.into() })
    }

    /// Subscribes every connection of a user to a channel.
    ///
    /// # Errors
    ///
    /// If the user or channel is not valid, the effect is not granted, or the limits of the plugin are used
    /// up.
    pub fn subscribe_user(&self, user: &str, channel: impl AsRef<str>) -> Result<(), HostError> {
        host::subscribe_address(&format!("#{user}"), channel.as_ref())
    }

    /// Subscribes the connection with this id to a channel.
    ///
    /// # Errors
    ///
    /// If the id or channel is not valid, the effect is not granted, or the limits of the plugin are used up.
    pub fn subscribe_connection(&self, id: &str, channel: impl AsRef<str>) -> Result<(), HostError> {
        host::subscribe_address(&format!("@{id}"), channel.as_ref())
    }

    /// Unsubscribes every connection of a user from a channel.
    ///
    /// # Errors
    ///
    /// If the user or channel is not valid, the effect is not granted, or the limits of the plugin are used
    /// up.
    pub fn unsubscribe_user(&self, user: &str, channel: impl AsRef<str>) -> Result<(), HostError> {
        host::unsubscribe_address(&format!("#{user}"), channel.as_ref())
    }

    /// Unsubscribes the connection with this id from a channel.
    ///
    /// # Errors
    ///
    /// If the id or channel is not valid, the effect is not granted, or the limits of the plugin are used up.
    pub fn unsubscribe_connection(&self, id: &str, channel: impl AsRef<str>) -> Result<(), HostError> {
        host::unsubscribe_address(&format!("@{id}"), channel.as_ref())
    }

    /// Sets when every connection of a user expires unless its client refreshes it: Unix time in seconds,
    /// `None` for never. The gateway closes an expired connection.
    ///
    /// # Errors
    ///
    /// If the user is not valid, the effect is not granted, or the limits of the plugin are used up.
    pub fn refresh_user(&self, user: &str, expires_at: Option<u64>) -> Result<(), HostError> {
        host::refresh_address(&format!("#{user}"), expires_at)
    }

    /// Sets when the connection with this id expires unless its client refreshes it: Unix time in seconds,
    /// `None` for never. The gateway closes an expired connection.
    ///
    /// # Errors
    ///
    /// If the id is not valid, the effect is not granted, or the limits of the plugin are used up.
    pub fn refresh_connection(&self, id: &str, expires_at: Option<u64>) -> Result<(), HostError> {
        host::refresh_address(&format!("@{id}"), expires_at)
    }
}

pub(crate) fn to_json(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, HostError> {
    serde_json::to_vec(value).map_err(|e| {
        HostError::new(HostErrorKind::NotJson, format!("the value is not expressible as JSON: {e}"))
    })
}
