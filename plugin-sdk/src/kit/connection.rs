//! `Connection` sends the events of one client to a plugin under test.

use serde::Serialize;

use super::host::{self, Call, Hook};
use super::{Kit, Outcome, as_json, check, client::Client};
use crate::{Connect, Kind, Plugin, Verdict, address, event};

/// A connection of a [`Kit`]: set its properties, then send its events.
#[derive(Debug)]
pub struct Connection<'k, P> {
    kit: &'k mut Kit<P>,
    id: String,
}

impl<'k, P: Plugin> Connection<'k, P> {
    pub(super) fn new(kit: &'k mut Kit<P>, id: &str) -> Self {
        Self { kit, id: id.to_owned() }
    }

    // ---- Who it is ----

    /// Sets the user, as an earlier plugin or connect would.
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.client().user);
        self
    }

    /// Sets an attribute, as an earlier plugin or message would; an empty value removes it.
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.client().set_attribute(name, value);
        self
    }

    /// Sets a header of the handshake that the gateway is configured to keep.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.client().headers.insert(name.to_ascii_lowercase(), value.to_owned());
        self
    }

    /// Sets the address of the client, without a port.
    pub fn remote_address(mut self, address: &str) -> Self {
        address.clone_into(&mut self.client().remote_address);
        self
    }

    /// Sets the protocol: `centrifuge-json`, `centrifuge-protobuf`, `centrifuge-unidirectional` or `raw`.
    pub fn protocol(mut self, protocol: &str) -> Self {
        protocol.clone_into(&mut self.client().protocol);
        self
    }

    // ---- What it does ----

    /// Connects with a token, empty for none.
    pub fn connect(self, token: &str) -> Connecting<'k, P> {
        Connecting { connection: self, token: token.to_owned(), data: Vec::new(), refreshes: false }
    }

    /// Refreshes an admitted client with a new token.
    pub fn refresh(self, token: &str) -> Connecting<'k, P> {
        Connecting { connection: self, token: token.to_owned(), data: Vec::new(), refreshes: true }
    }

    /// Sends a command.
    pub fn message(self, kind: Kind) -> Message<'k, P> {
        let (channel, method, payload) = (String::new(), String::new(), Vec::new());
        Message { connection: self, kind, channel, method, payload, token: String::new(), binary: false }
    }

    /// Sends a text in raw mode.
    #[track_caller]
    pub fn raw(self, text: &str) -> Outcome<Verdict> {
        self.protocol("raw").message(Kind::Raw).payload(text).send()
    }

    /// Disconnects the client, and the kit forgets it. The event counts it as admitted since its connect, or
    /// since the test first named it.
    pub fn disconnect(self, code: u32, reason: &str) -> Outcome<()> {
        let call = self.call(Hook::Disconnect);
        let Some(client) = self.kit.forget(&self.id) else { unreachable!("it was made with the connection") };
        let duration = self.kit.now.saturating_sub(client.admitted);
        let plugin = &mut self.kit.plugin;
        let ((), call) = host::enter(call, || {
            plugin.on_disconnect(&event::Disconnected::new(client.number, code, reason, duration));
        });
        Outcome { verdict: (), effects: call.effects, payload: None, log: call.log, called: true }
    }

    pub(super) fn client(&mut self) -> &mut Client {
        match self.kit.clients.get_mut(&self.id) {
            Some(client) => client,
            None => unreachable!("it was made with the connection"),
        }
    }

    fn call(&self, hook: Hook) -> Call {
        let mut call = Call::new(hook, self.kit.now, self.kit.limits, &self.kit.around);
        call.client = self.kit.clients.get(&self.id).cloned();
        call
    }
}

/// A connect or refresh that is not sent yet.
#[derive(Debug)]
pub struct Connecting<'k, P> {
    connection: Connection<'k, P>,
    token: String,
    data: Vec<u8>,
    refreshes: bool,
}

impl<P: Plugin> Connecting<'_, P> {
    /// Sets the JSON that the client sends with its connect.
    #[must_use]
    pub fn data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data = data.into();
        self
    }

    /// Calls the plugin. An accept gives the connection its user and attributes. If the gateway would refuse
    /// the client because of its input, such as a user without an address, the verdict is that refusal.
    ///
    /// # Panics
    ///
    /// Panics if the gateway could not carry out the answer, for example because of an invalid channel.
    #[track_caller]
    pub fn send(self) -> Outcome<Connect> {
        self.try_send().unwrap_or_else(|why| panic!("{why}"))
    }

    /// What the gateway cannot carry out is an error.
    pub(super) fn try_send(mut self) -> Result<Outcome<Connect>, String> {
        let now = self.connection.kit.now;
        if !self.refreshes {
            self.connection.client().admitted = now;
        }
        let call = self.connection.call(Hook::Connect);
        let number = self.connection.client().number;
        let plugin = &mut self.connection.kit.plugin;
        let (verdict, mut call) =
            host::enter(call, || plugin.on_connect(&event::Connecting::new(number, &self.token, &self.data)));
        let refused = check::connect(&verdict, &mut call)
            .map_err(|why| format!("the gateway cannot carry out {verdict:?}: {why}"))?;
        let verdict = refused.map_or(verdict, Connect::Refuse);
        let client = self.connection.client();
        if let Connect::Accept(identity) = &verdict {
            client.admit(identity);
        }
        client.apply(&call.effects);
        Ok(Outcome { verdict, effects: call.effects, payload: None, log: call.log, called: true })
    }
}

/// A command that is not sent yet.
#[derive(Debug)]
pub struct Message<'k, P> {
    connection: Connection<'k, P>,
    kind: Kind,
    channel: String,
    method: String,
    payload: Vec<u8>,
    token: String,
    binary: bool,
}

impl<P: Plugin> Message<'_, P> {
    /// Sets the channel of the command.
    #[must_use]
    pub fn channel(mut self, channel: &str) -> Self {
        channel.clone_into(&mut self.channel);
        self
    }

    /// Sets the method of an rpc.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// What the client sends.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Sets the payload, as JSON.
    ///
    /// # Panics
    ///
    /// If JSON cannot express the value.
    #[must_use]
    #[track_caller]
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Self {
        self.payload(as_json(value))
    }

    /// Sets the credential of a subscribe or a sub-refresh.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    /// Marks a raw message as binary.
    #[must_use]
    pub const fn binary(mut self) -> Self {
        self.binary = true;
        self
    }

    /// Calls the plugin, if its interests cover the command. If the gateway would refuse the message because
    /// of its input, such as JSON that is nested too deeply, the verdict is that refusal.
    ///
    /// # Panics
    ///
    /// Panics if the gateway could not carry out the answer, for example because of an invalid address.
    #[track_caller]
    pub fn send(self) -> Outcome<Verdict> {
        self.try_send().unwrap_or_else(|why| panic!("{why}"))
    }

    /// What the gateway cannot carry out is an error.
    pub(super) fn try_send(mut self) -> Result<Outcome<Verdict>, String> {
        if !self.wanted() {
            return Ok(Outcome {
                verdict: Verdict::Next,
                effects: Vec::new(),
                payload: None,
                log: Vec::new(),
                called: false,
            });
        }
        if self.permitted() {
            let (verdict, effects, log) = (Verdict::Allow, Vec::new(), Vec::new());
            return Ok(Outcome { verdict, effects, payload: None, log, called: true });
        }
        let mut call = self.connection.call(Hook::Message);
        (call.channel, call.method, call.binary) = (self.channel, self.method, self.binary);
        (call.kind, call.token) = (Some(self.kind), self.token);
        let number = self.connection.client().number;
        let kit = &mut *self.connection.kit;
        let payload = if kit.interests.wants_payload() { self.payload } else { Vec::new() };
        let plugin = &mut kit.plugin;
        let (verdict, mut call) =
            host::enter(call, || plugin.on_message(&event::Message::new(number, self.kind, &payload)));
        let refused = check::message(&verdict, &mut call)
            .map_err(|why| format!("the gateway cannot carry out {verdict:?}: {why}"))?;
        let verdict = refused.map_or(verdict, Verdict::Deny);
        self.connection.client().apply(&call.effects);
        let payload = match &verdict {
            Verdict::Replace(payload) => Some(payload.clone()),
            _ => call.payload,
        };
        Ok(Outcome { verdict, effects: call.effects, payload, log: call.log, called: true })
    }

    /// Whether an attribute allows it without a call of the plugin.
    fn permitted(&self) -> bool {
        let Connection { kit, id } = &self.connection;
        let attributes = kit.clients.get(id).map(|client| &client.attributes);
        let permissions = kit.interests.asked_permissions().iter();
        permissions.filter(|(_, kinds)| kinds.contains(&self.kind)).any(|(attribute, _)| {
            let patterns = attributes.and_then(|attributes| attributes.get(attribute));
            !self.channel.is_empty()
                && patterns.is_some_and(|patterns| {
                    patterns.split_ascii_whitespace().any(|pattern| address::matches(pattern, &self.channel))
                })
        })
    }

    fn wanted(&self) -> bool {
        let interests = &self.connection.kit.interests;
        let kind = interests.asked_kinds().is_none_or(|kinds| kinds.contains(&self.kind));
        let channel = self.channel.is_empty()
            || interests.asked_channels().is_none_or(|patterns| {
                let meant = match self.kind {
                    Kind::Subscribe | Kind::SubRefresh => address::concerns,
                    _ => address::matches,
                };
                patterns.iter().any(|pattern| meant(pattern, &self.channel))
            });
        kind && channel
    }
}
