//! `Connection` sends the events of one client to a plugin under test.

use serde::Serialize;

use super::host::{self, Call, Hook};
use super::{Kit, Outcome, as_json, check, client::Client};
use crate::{Connect, Kind, Plugin, Verdict, address, event};

/// A connection of a [`Kit`]: says who it is, then what it does.
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

    /// The user that an earlier plugin or connect gave it.
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.client().user);
        self
    }

    /// An attribute that an earlier plugin or message gave it; an empty value removes it.
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.client().set_attribute(name, value);
        self
    }

    /// A header of the handshake that the gateway was configured to keep.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.client().headers.insert(name.to_ascii_lowercase(), value.to_owned());
        self
    }

    /// The address it came from, without a port.
    pub fn remote_address(mut self, address: &str) -> Self {
        address.clone_into(&mut self.client().remote_address);
        self
    }

    /// How it speaks: `centrifuge-json` or `raw`.
    pub fn protocol(mut self, protocol: &str) -> Self {
        protocol.clone_into(&mut self.client().protocol);
        self
    }

    // ---- What it does ----

    /// It connects with a token, empty for none.
    pub fn connect(self, token: &str) -> Connecting<'k, P> {
        Connecting { connection: self, token: token.to_owned(), data: Vec::new(), refreshes: false }
    }

    /// It was admitted before and brings a new token.
    pub fn refresh(self, token: &str) -> Connecting<'k, P> {
        Connecting { connection: self, token: token.to_owned(), data: Vec::new(), refreshes: true }
    }

    /// It sends a command.
    pub fn message(self, kind: Kind) -> Message<'k, P> {
        let (channel, method, payload) = (String::new(), String::new(), Vec::new());
        Message { connection: self, kind, channel, method, payload, token: String::new(), binary: false }
    }

    /// It sends a text in raw mode.
    #[track_caller]
    pub fn raw(self, text: &str) -> Outcome<Verdict> {
        self.protocol("raw").message(Kind::Raw).payload(text).send()
    }

    /// It has gone. The kit forgets it; it was admitted since its connect, or else since it was first named.
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

/// A connect or refresh in the making.
#[derive(Debug)]
pub struct Connecting<'k, P> {
    connection: Connection<'k, P>,
    token: String,
    data: Vec<u8>,
    refreshes: bool,
}

impl<P: Plugin> Connecting<'_, P> {
    /// The JSON that the client sends along.
    #[must_use]
    pub fn data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data = data.into();
        self
    }

    /// Asks the plugin. An accept gives the connection its user and attributes. Where the gateway would
    /// refuse the client because of what others sent, such as a user that has no address, the verdict is that
    /// refusal.
    ///
    /// # Panics
    ///
    /// If the plugin answers with something that the gateway cannot carry out, such as an invalid channel.
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

/// A command in the making.
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
    /// The channel of the command.
    #[must_use]
    pub fn channel(mut self, channel: &str) -> Self {
        channel.clone_into(&mut self.channel);
        self
    }

    /// The method of an rpc.
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

    /// What the client sends, as JSON.
    ///
    /// # Panics
    ///
    /// If JSON cannot express the value.
    #[must_use]
    #[track_caller]
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Self {
        self.payload(as_json(value))
    }

    /// The credential that comes with a subscribe.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    /// A raw message that comes as binary.
    #[must_use]
    pub const fn binary(mut self) -> Self {
        self.binary = true;
        self
    }

    /// Asks the plugin, if its interests cover the command. Where the gateway would refuse the message
    /// because of what others sent, such as JSON that is nested too deeply, the verdict is that refusal.
    ///
    /// # Panics
    ///
    /// If the plugin answers with something that the gateway cannot carry out, such as an invalid address.
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
        call.token = self.token;
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

    /// Whether an attribute allows it, so that the plugin is not asked.
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
                patterns.iter().any(|pattern| address::matches(pattern, &self.channel))
            });
        kind && channel
    }
}
