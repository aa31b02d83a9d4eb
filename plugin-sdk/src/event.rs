//! The events that hooks receive: `Connecting`, `Message`, `Outgoing`, `Disconnected`, `Timer`.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Deref;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gateway::{Gateway, to_json};
use crate::{HostError, Kind, Refusal, host};

/// What every event of a client has: who it is about, and what a hook may do beside answering. Reach it
/// through the event.
///
/// Nothing here was copied into the plugin beforehand: a getter asks the gateway when it is called, once per
/// event for those that return `&str`. Ask only for what the hook needs.
///
/// Effects are *recorded*. The gateway applies them in the order of the calls, after the hook has returned
/// normally; a hook that panics leaves nothing behind. Getters therefore show the state from before the hook.
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

    /// A number for the connection that is the same in every hook: a cheap key for the plugin's own maps. It
    /// means nothing to clients and other nodes.
    pub const fn connection_number(&self) -> u64 {
        self.number
    }

    /// The id of the connection as the client and other clients know it.
    pub fn connection(&self) -> &str {
        self.connection.get_or_init(host::connection)
    }

    /// The user; empty for an anonymous client and before a plugin has accepted one.
    pub fn user(&self) -> &str {
        self.user.get_or_init(host::user)
    }

    /// How the client speaks: `centrifuge-json` or `raw`.
    pub fn protocol(&self) -> &str {
        self.protocol.get_or_init(host::protocol)
    }

    /// The address the client came from, without a port. Behind proxies that the gateway trusts it is the one
    /// that they tell.
    pub fn remote_address(&self) -> &str {
        self.remote_address.get_or_init(host::remote_address)
    }

    /// A header of the handshake, if the gateway was configured to keep it. The values of one that came more
    /// than once are one text, in their order, with `", "` in between (`"; "` for `Cookie`). A proxy appends
    /// its value at the end: what stands before may have been written by the client. Bytes that are not UTF-8
    /// are U+FFFD.
    pub fn header(&self, name: &str) -> Option<String> {
        let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        host::header(&name)
    }

    /// An attribute of the connection, set by [`Connect::attribute`](crate::Connect::attribute) or
    /// [`set_attribute`](Self::set_attribute) of any plugin.
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

    /// Closes the connection of this event after its reply was sent. The code is one of the closing ones of
    /// [`code`](crate::code).
    ///
    /// # Errors
    ///
    /// If the code does not close a connection, the effect is not granted or not possible in this hook, or
    /// the limits of the plugin are used up.
    pub fn disconnect(&self, code: u32, reason: impl Into<String>) -> Result<(), HostError> {
        host::disconnect(Refusal { code, reason: reason.into() })
    }

    /// Sets when the connection of this event expires unless the client refreshes it: Unix time in seconds,
    /// `None` for never. The client is told. Only in [`on_message`](crate::Plugin::on_message); with
    /// [`on_connect`](crate::Plugin::on_connect) it is a part of the answer.
    ///
    /// # Errors
    ///
    /// If the effect is not granted or not possible in this hook, or the limits of the plugin are used up.
    pub fn refresh(&self, expires_at: Option<u64>) -> Result<(), HostError> {
        host::refresh(expires_at)
    }

    /// Sends a payload to an upstream of the gateway's configuration: an HTTP endpoint behind it. The
    /// operator grants upstreams by name. Delivered off the path of messages and at least once: the receiver
    /// may see an event again, with the same id.
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

/// A client that wants to be admitted, or one that refreshes before it expires.
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

    /// The JSON that the client sent along; empty for none.
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

    /// What the client asks for.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What the client sent, or what the plugins before made of it. Empty where the command has none, and
    /// always after [`Interests::without_payload`](crate::Interests::without_payload).
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

    /// The channel of the command; empty where the command has none.
    pub fn channel(&self) -> &str {
        self.channel.get_or_init(host::channel)
    }

    /// The method of an rpc; empty otherwise.
    pub fn method(&self) -> &str {
        self.method.get_or_init(host::method)
    }

    /// Goes on with this payload, whatever the verdict: later plugins see it,
    /// [`Verdict::Allow`](crate::Verdict::Allow) permits it, [`Verdict::Route`](crate::Verdict::Route)
    /// publishes it. An effect like the others; the last call counts. [`payload`](Self::payload) still shows
    /// what came.
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

    /// The credential that came with a subscribe, for one channel; empty if the client sent none. Never log
    /// it.
    pub fn token(&self) -> String {
        host::token()
    }

    /// True if a raw message came as binary.
    pub fn is_binary(&self) -> bool {
        host::binary()
    }
}

/// A client that was admitted and has gone. Nothing can be done to its connection any more; publishing is
/// possible.
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

    /// How long the client was admitted.
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

    /// The value that the attribute named in [`Interests::deliver_by`](crate::Interests::deliver_by) has at
    /// these subscribers; empty for those without it.
    pub const fn class(&self) -> &'a str {
        self.class
    }

    /// The payload, as the plugins before left it.
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

    /// Where it was published: a channel, or the [address](crate::address) of a user or a connection.
    pub fn channel(&self) -> &str {
        self.channel.get_or_init(host::channel)
    }

    /// The connection that published it; empty if no client did.
    pub fn connection(&self) -> &str {
        self.connection.get_or_init(host::connection)
    }

    /// The user who published it; empty if no client did or if it was an anonymous one.
    pub fn user(&self) -> &str {
        self.user.get_or_init(host::user)
    }

    /// Unix time in milliseconds, of the delivery.
    pub fn now(&self) -> u64 {
        host::now()
    }
}

/// An interval has passed that the plugin asked for with [`Interests::timer`](crate::Interests::timer).
#[derive(Debug)]
pub struct Timer {
    gateway: Gateway,
    instance: u32,
}

impl Timer {
    pub(crate) const fn new(instance: u32) -> Self {
        Self { gateway: Gateway::new(), instance }
    }

    /// The number of this instance among those of the gateway, from 0. There is always an instance 0: it does
    /// what has to happen once.
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
