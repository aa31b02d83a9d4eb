//! The events that hooks receive: `Connecting`, `Message`, `Outgoing`, `Disconnected`, `Timer`.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Deref;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gateway::{Gateway, to_json};
use crate::{HostError, Kind, Refusal, host};

/// The part that every event of a client has: properties of the client, and the effects that a hook can
/// request in addition to its answer. Such events dereference to it.
///
/// The gateway copies nothing of this into the plugin in advance: a getter asks the gateway when the plugin
/// calls it, and those that return `&str` ask once per event. Call only the getters that the hook needs.
///
/// Effects are *recorded*. The gateway applies them in the order of the calls, after the hook has returned
/// normally. If the hook panics, the gateway discards them. Getters therefore show the state from before the
/// hook.
#[derive(Debug)]
pub struct Context {
    gateway: Gateway,
    number: u64,
    connection: OnceCell<String>,
    user: OnceCell<String>,
    protocol: OnceCell<String>,
    remote_address: OnceCell<String>,
}

impl Context {
    const fn new(number: u64) -> Self {
        Self {
            gateway: Gateway::new(),
            number,
            connection: OnceCell::new(),
            user: OnceCell::new(),
            protocol: OnceCell::new(),
            remote_address: OnceCell::new(),
        }
    }

    // ---- Who ----

    /// A number of the connection that is the same in every hook: a cheap key for the plugin's own maps.
    /// Clients and other nodes do not know it.
    pub const fn connection_number(&self) -> u64 {
        self.number
    }

    /// The id of the connection, as clients see it.
    pub fn connection(&self) -> &str {
        self.connection.get_or_init(host::connection)
    }

    /// The user; empty for an anonymous client and before a plugin has accepted one.
    pub fn user(&self) -> &str {
        self.user.get_or_init(host::user)
    }

    /// The protocol of the client: `centrifuge-json`, `centrifuge-protobuf`, `centrifuge-unidirectional` or
    /// `raw`.
    pub fn protocol(&self) -> &str {
        self.protocol.get_or_init(host::protocol)
    }

    /// The address of the client, without a port. Behind trusted proxies it is the address that they report.
    pub fn remote_address(&self) -> &str {
        self.remote_address.get_or_init(host::remote_address)
    }

    /// A header of the handshake, if the gateway was configured to keep it. The values of a repeated header
    /// form one text, in their order, joined by `", "` (`"; "` for `Cookie`). A proxy appends its value at
    /// the end; the client may have written the values before it. Bytes that are not UTF-8 appear as U+FFFD.
    pub fn header(&self, name: &str) -> Option<String> {
        let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        host::header(&name)
    }

    /// An attribute of the connection, which any plugin may have set with
    /// [`Connect::attribute`](crate::Connect::attribute) or [`set_attribute`](Self::set_attribute).
    pub fn attribute(&self, name: &str) -> Option<String> {
        host::attribute(name)
    }

    // ---- Effects ----

    /// Subscribes the client of this event to a channel.
    ///
    /// # Errors
    ///
    /// If the channel is not valid, the effect is not granted or not possible in this hook, or the limits of
    /// the plugin are used up.
    pub fn subscribe(&self, channel: impl AsRef<str>) -> Result<(), HostError> {
        host::subscribe(channel.as_ref())
    }

    /// Unsubscribes the client of this event from a channel.
    ///
    /// # Errors
    ///
    /// If the channel is not valid, the effect is not granted or not possible in this hook, or the limits of
    /// the plugin are used up.
    pub fn unsubscribe(&self, channel: impl AsRef<str>) -> Result<(), HostError> {
        host::unsubscribe(channel.as_ref())
    }

    /// Closes the connection of this event after sending its reply. The code must be one of the close codes
    /// in [`code`](crate::code).
    ///
    /// # Errors
    ///
    /// If the code does not close a connection, the effect is not granted or not possible in this hook, or
    /// the limits of the plugin are used up.
    pub fn disconnect(&self, code: u32, reason: impl Into<String>) -> Result<(), HostError> {
        host::disconnect(Refusal { code, reason: reason.into() })
    }

    /// Sets when the connection of this event expires unless the client refreshes it: Unix time in seconds,
    /// `None` for never. The gateway sends the new time to the client. Works only in
    /// [`on_message`](crate::Plugin::on_message); in [`on_connect`](crate::Plugin::on_connect) the expiry is
    /// a part of the answer.
    ///
    /// # Errors
    ///
    /// If the effect is not granted or not possible in this hook, or the limits of the plugin are used up.
    pub fn refresh(&self, expires_at: Option<u64>) -> Result<(), HostError> {
        host::refresh(expires_at)
    }

    /// Sets when the client's subscription to a channel expires: Unix time in seconds, `None` for never. It
    /// may be one that [`subscribe`](Self::subscribe) makes before in the same hook, or one of
    /// [`Connect::channels`](crate::Connect::channels). Works in
    /// [`on_connect`](crate::Plugin::on_connect) and [`on_message`](crate::Plugin::on_message).
    ///
    /// The client does not learn the new time. When it has passed, with a grace period, the gateway ends a
    /// subscription that the client made, and client libraries subscribe again; for one that the server made
    /// it closes the connection with 3006, and client libraries connect again.
    ///
    /// # Errors
    ///
    /// If the channel is not valid, the effect is not granted (`refresh`) or not possible in this hook, or
    /// the limits of the plugin are used up.
    pub fn refresh_subscription(
        &self,
        channel: impl AsRef<str>,
        expires_at: Option<u64>,
    ) -> Result<(), HostError> {
        host::refresh_subscription(channel.as_ref(), expires_at)
    }

    /// Sends a payload to an upstream of the gateway's configuration, which is an HTTP endpoint. The operator
    /// grants upstreams by name. The gateway delivers the payload in the background and at least once: the
    /// receiver may get an event twice, with the same id.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::HostErrorKind::Busy) if the queue of the upstream is full,
    /// [`NotGranted`](crate::HostErrorKind::NotGranted) and
    /// [`NoSuchUpstream`](crate::HostErrorKind::NoSuchUpstream) until the operator changes a file.
    pub fn emit(&self, upstream: &str, payload: &[u8]) -> Result<(), HostError> {
        host::emit(upstream, payload)
    }

    /// Sends a value as JSON to an upstream, see [`emit`](Self::emit).
    ///
    /// # Errors
    ///
    /// As for [`emit`](Self::emit), and if JSON cannot express the value.
    pub fn emit_json(&self, upstream: &str, value: &(impl Serialize + ?Sized)) -> Result<(), HostError> {
        self.emit(upstream, &to_json(value)?)
    }

    /// Sets an attribute of the connection; an empty value removes it.
    ///
    /// # Errors
    ///
    /// If the name is empty, the effect is not granted or not possible in this hook, or the limits of the
    /// plugin are used up.
    pub fn set_attribute(&self, name: &str, value: &str) -> Result<(), HostError> {
        host::set_attribute(name, value)
    }
}

/// A client that connects, or that refreshes its credential before it expires.
#[derive(Debug)]
pub struct Connecting<'a> {
    context: Context,
    token: &'a str,
    data: &'a [u8],
}

impl<'a> Connecting<'a> {
    pub(crate) const fn new(number: u64, token: &'a str, data: &'a [u8]) -> Self {
        Self { context: Context::new(number), token, data }
    }

    /// The client's credential; empty if it sent none. Never log it.
    pub const fn token(&self) -> &'a str {
        self.token
    }

    /// The JSON that the client sent with its connect; empty for none. From a Protobuf client it is any
    /// bytes.
    pub const fn data(&self) -> &'a [u8] {
        self.data
    }

    /// [`data`](Self::data) as a value.
    ///
    /// # Errors
    ///
    /// If it is not JSON, or not JSON of this type.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.data)
    }
}

/// A command of an admitted client.
#[derive(Debug)]
pub struct Message<'a> {
    context: Context,
    kind: Kind,
    payload: &'a [u8],
    channel: OnceCell<String>,
    method: OnceCell<String>,
}

impl<'a> Message<'a> {
    pub(crate) const fn new(number: u64, kind: Kind, payload: &'a [u8]) -> Self {
        Self {
            context: Context::new(number),
            kind,
            payload,
            channel: OnceCell::new(),
            method: OnceCell::new(),
        }
    }

    /// The kind of the command.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The payload that the client sent, or that earlier plugins replaced it with. Empty if the command has
    /// none, and always after [`Interests::without_payload`](crate::Interests::without_payload). From a JSON
    /// client it is JSON; from a Protobuf client and in raw mode it is any bytes.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// [`payload`](Self::payload) as text, if it is UTF-8.
    pub fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.payload).ok()
    }

    /// [`payload`](Self::payload) as a value.
    ///
    /// # Errors
    ///
    /// If it is not JSON, or not JSON of this type.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.payload)
    }

    /// The channel of the command; empty if the command has none.
    pub fn channel(&self) -> &str {
        self.channel.get_or_init(host::channel)
    }

    /// The method of an rpc; empty otherwise.
    pub fn method(&self) -> &str {
        self.method.get_or_init(host::method)
    }

    /// Replaces the payload of the command, whatever the verdict: later plugins see the new payload,
    /// [`Verdict::Allow`](crate::Verdict::Allow) permits it, [`Verdict::Route`](crate::Verdict::Route)
    /// publishes it. This is an effect like the others; the last call counts. [`payload`](Self::payload)
    /// still returns the payload that this plugin received.
    ///
    /// # Errors
    ///
    /// If the payload is not JSON although the client speaks JSON, or the limits of the plugin are used up.
    pub fn set_payload(&self, payload: &[u8]) -> Result<(), HostError> {
        host::set_payload(payload)
    }

    /// [`set_payload`](Self::set_payload) with a value as JSON.
    ///
    /// # Errors
    ///
    /// As for [`set_payload`](Self::set_payload), and if JSON cannot express the value.
    pub fn set_payload_json(&self, value: &(impl Serialize + ?Sized)) -> Result<(), HostError> {
        self.set_payload(&to_json(value)?)
    }

    /// Sets when the subscription that this command makes or refreshes expires: Unix time in seconds, `None`
    /// for never. It is a part of answering and needs no grant; the last call counts, and none if the command
    /// is refused. The gateway tells the client with the reply. Client libraries then send a
    /// [`Kind::SubRefresh`] with a new token in time; the subscription of a client that does not ends after a
    /// grace period.
    ///
    /// Without a call a new subscription does not expire, and a [`Kind::SubRefresh`] gets error 108, whatever
    /// the verdict. A time that has passed is error 110.
    ///
    /// ```
    /// # use gateway_plugin_sdk::prelude::*;
    /// # fn check(_: &str) -> Option<u64> { None }
    /// # struct Pass; impl Pass {
    /// fn on_message(&mut self, event: &Message<'_>) -> Verdict {
    ///     if !matches!(event.kind(), Kind::Subscribe | Kind::SubRefresh) {
    ///         return Verdict::next();
    ///     }
    ///     match check(&event.token()) {
    ///         Some(until) => match event.set_subscription_expiry(Some(until)) {
    ///             Ok(()) => Verdict::allow(),
    ///             Err(error) => Verdict::deny(code::INTERNAL, error.to_string()),
    ///         },
    ///         None => Verdict::deny(code::PERMISSION_DENIED, "permission denied"),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the command is of another kind, or the limits of the plugin are used up.
    pub fn set_subscription_expiry(&self, expires_at: Option<u64>) -> Result<(), HostError> {
        host::set_subscription_expiry(expires_at)
    }

    /// The credential of a subscribe or a sub-refresh, for one channel; empty if the client sent none. Never
    /// log it.
    pub fn token(&self) -> String {
        host::token()
    }

    /// True if a raw message is binary.
    pub fn is_binary(&self) -> bool {
        host::binary()
    }
}

/// A client that was admitted and has disconnected. Effects on its connection are no longer possible;
/// publishing is.
#[derive(Debug)]
pub struct Disconnected<'a> {
    context: Context,
    code: u32,
    reason: &'a str,
    duration: Duration,
}

impl<'a> Disconnected<'a> {
    pub(crate) const fn new(number: u64, code: u32, reason: &'a str, millis: u64) -> Self {
        Self { context: Context::new(number), code, reason, duration: Duration::from_millis(millis) }
    }

    /// The close code.
    pub const fn code(&self) -> u32 {
        self.code
    }

    /// The close reason.
    pub const fn reason(&self) -> &'a str {
        self.reason
    }

    /// The time since the client was admitted.
    pub const fn duration(&self) -> Duration {
        self.duration
    }
}

/// A publication on its way to subscribers of one class.
#[derive(Debug)]
pub struct Outgoing<'a> {
    class: &'a str,
    payload: &'a [u8],
    channel: OnceCell<String>,
    connection: OnceCell<String>,
    user: OnceCell<String>,
}

impl<'a> Outgoing<'a> {
    pub(crate) const fn new(class: &'a str, payload: &'a [u8]) -> Self {
        Self { class, payload, channel: OnceCell::new(), connection: OnceCell::new(), user: OnceCell::new() }
    }

    /// The value that these subscribers have for the attribute named in
    /// [`Interests::deliver_by`](crate::Interests::deliver_by); empty for subscribers without the attribute.
    pub const fn class(&self) -> &'a str {
        self.class
    }

    /// The payload, with the changes of earlier plugins.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// [`payload`](Self::payload) as text, if it is UTF-8.
    pub fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.payload).ok()
    }

    /// [`payload`](Self::payload) as a value.
    ///
    /// # Errors
    ///
    /// If it is not JSON, or not JSON of this type.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.payload)
    }

    /// The target of the publication: a channel, or the [address](crate::address) of a user or a connection.
    pub fn channel(&self) -> &str {
        self.channel.get_or_init(host::channel)
    }

    /// The connection that published it; empty if no client did.
    pub fn connection(&self) -> &str {
        self.connection.get_or_init(host::connection)
    }

    /// The user that published it; empty if no client did, or an anonymous one.
    pub fn user(&self) -> &str {
        self.user.get_or_init(host::user)
    }

    /// Unix time of the delivery, in milliseconds.
    pub fn now(&self) -> u64 {
        host::now()
    }
}

/// The interval set with [`Interests::timer`](crate::Interests::timer) has passed.
#[derive(Debug)]
pub struct Timer {
    gateway: Gateway,
    instance: u32,
}

impl Timer {
    pub(crate) const fn new(instance: u32) -> Self {
        Self { gateway: Gateway::new(), instance }
    }

    /// The number of this instance in the gateway, from 0. An instance 0 always exists; let it do work that
    /// must happen once.
    pub const fn instance(&self) -> u32 {
        self.instance
    }
}

impl Deref for Context {
    type Target = Gateway;
    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

impl Deref for Timer {
    type Target = Gateway;
    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

impl Deref for Connecting<'_> {
    type Target = Context;
    fn deref(&self) -> &Context {
        &self.context
    }
}

impl Deref for Message<'_> {
    type Target = Context;
    fn deref(&self) -> &Context {
        &self.context
    }
}

impl Deref for Disconnected<'_> {
    type Target = Context;
    fn deref(&self) -> &Context {
        &self.context
    }
}
