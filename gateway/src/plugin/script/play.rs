//! Events of a script, given to a plugin the way a worker gives them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;

use super::{Event, START, Step, Time, Who};
use crate::plugin::Plugin;
use crate::plugin::event::{Client, Goodbye, Hello, Message, Tick};
use crate::plugin::failure::Failure;
use crate::plugin::state::Meters;
use crate::plugin::verdict::{ConnectVerdict, Effect, Verdict};
use crate::protocol::Protocol;

/// What came of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the hook answered.
    pub answer: Answer,
    /// What it asked for beside its answer. Empty after a failure.
    pub effects: Vec<Effect>,
    /// What the message goes on with, if the hook changed it beside its answer.
    pub changed: Option<Bytes>,
}

/// What a hook answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The plugin lacks the hook, or its interests leave the event out.
    NotCalled,
    /// To a client that wants to be admitted.
    Connect(ConnectVerdict),
    /// To a message.
    Message(Verdict),
    /// A hook without an answer has returned.
    Done,
    /// It did not answer.
    Failed(Failure),
}

/// The connections and the clock of a script.
#[derive(Debug)]
pub struct Player {
    connections: HashMap<Box<str>, Connection>,
    made: u64,
    now: u64,
}

#[derive(Debug)]
struct Connection {
    client: Arc<Client>,
    admitted: u64,
    meters: Meters,
}

impl Default for Player {
    fn default() -> Self {
        Self { connections: HashMap::new(), made: 0, now: START }
    }
}

impl Player {
    /// Nobody is connected, and the clock stands at [`START`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Unix time in milliseconds of the event before.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Gives an event to a plugin. What the plugin answers changes the client for later events, as in the gateway.
    ///
    /// After a failure that ends the instance the caller has to go on with another one.
    pub fn play(&mut self, plugin: &mut dyn Plugin, step: &Step) -> Outcome {
        self.now = match step.time {
            Time::At(now) => now,
            Time::After(passed) => self.now.saturating_add(passed),
        };
        if matches!(step.event, Event::Timer) {
            return self.tick(plugin);
        }
        let now = self.now;
        let made = &mut self.made;
        let connection = self.connections.entry(step.connection.clone()).or_insert_with(|| {
            *made += 1;
            let client = Arc::new(stranger(*made, &step.connection));
            Connection { client, admitted: now, meters: Meters::default() }
        });
        introduce(Arc::make_mut(&mut connection.client), &step.who);
        if matches!(step.event, Event::Connect { .. }) {
            connection.admitted = now;
        }
        let is_message = matches!(step.event, Event::Message { .. });
        let meters = if is_message { std::mem::take(&mut connection.meters) } else { Meters::default() };
        let mut occurrence = Occurrence::new(connection, meters, step, now);
        let mut effects = Vec::new();
        let answer = occurrence.meet(plugin, &mut effects);
        let mut changed = occurrence.end(step, connection);
        if matches!(answer, Answer::Failed(_)) {
            effects.clear();
            changed = None;
        }
        follow(Arc::make_mut(&mut connection.client), &answer, &effects);
        if matches!(step.event, Event::Disconnect { .. }) {
            self.connections.remove(&step.connection);
        }
        Outcome { answer, effects, changed }
    }

    fn tick(&self, plugin: &mut dyn Plugin) -> Outcome {
        let mut effects = Vec::new();
        let answer =
            Occurrence::Tick(Tick { instance: 0, now: self.now, at: self.now }).meet(plugin, &mut effects);
        if matches!(answer, Answer::Failed(_)) {
            effects.clear();
        }
        Outcome { answer, effects, changed: None }
    }

    /// The event as it would be if it happened again now, for whoever meets a plugin with it many times. The clock stands
    /// still, and nothing is changed by answers.
    pub fn again(&self, step: &Step) -> Occurrence {
        let gone;
        let connection = match self.connections.get(&step.connection) {
            Some(connection) => connection,
            None => {
                let mut client = stranger(self.made, &step.connection);
                introduce(&mut client, &step.who);
                gone = Connection { client: Arc::new(client), admitted: self.now, meters: Meters::default() };
                &gone
            }
        };
        Occurrence::new(connection, Meters::default(), step, self.now)
    }
}

/// An event as plugins get it.
#[derive(Debug)]
pub enum Occurrence {
    /// For `on-connect`.
    Hello(Hello),
    /// For `on-message`.
    Message(Message),
    /// For `on-disconnect`.
    Goodbye(Goodbye),
    /// For `on-timer`.
    Tick(Tick),
}

impl Occurrence {
    fn new(connection: &Connection, meters: Meters, step: &Step, now: u64) -> Self {
        let client = connection.client.clone();
        match &step.event {
            Event::Connect { token, data } => {
                Self::Hello(Hello { client, token: token.clone(), data: data.clone(), now, at: now })
            }
            Event::Message { kind, channel, method, payload, binary, token } => Self::Message(Message {
                client,
                kind: *kind,
                channel: channel.clone(),
                method: method.clone(),
                payload: payload.clone(),
                binary: *binary,
                token: token.clone(),
                now,
                at: now,
                meters,
            }),
            Event::Disconnect { code, reason } => Self::Goodbye(Goodbye {
                client,
                code: *code,
                reason: reason.clone(),
                duration: now.saturating_sub(connection.admitted),
                now,
                at: now,
            }),
            Event::Timer => Self::Tick(Tick { instance: 0, now, at: now }),
        }
    }

    /// Calls the hook, if the plugin wants to see the event.
    pub fn meet(&mut self, plugin: &mut dyn Plugin, effects: &mut Vec<Effect>) -> Answer {
        let interests = plugin.interests();
        match self {
            Self::Hello(hello) if interests.hooks.on_connect => {
                plugin.on_connect(hello, effects).map_or_else(Answer::Failed, Answer::Connect)
            }
            Self::Message(message) if interests.wants_message(message.kind, message.channel.as_ref()) => {
                plugin.on_message(message, effects).map_or_else(Answer::Failed, Answer::Message)
            }
            Self::Goodbye(goodbye) if interests.hooks.on_disconnect => {
                plugin.on_disconnect(goodbye, effects).map_or_else(Answer::Failed, |()| Answer::Done)
            }
            Self::Tick(tick) if interests.hooks.on_timer && interests.timer.is_some() => {
                plugin.on_timer(tick, effects).map_or_else(Answer::Failed, |()| Answer::Done)
            }
            _ => Answer::NotCalled,
        }
    }

    /// Gives back what belongs to the connection, and tells the payload that a plugin left in place of the script's.
    fn end(self, step: &Step, connection: &mut Connection) -> Option<Bytes> {
        match (self, &step.event) {
            (Self::Message(message), Event::Message { payload, .. }) => {
                connection.meters = message.meters;
                Some(message.payload).filter(|left| left != payload)
            }
            _ => None,
        }
    }
}

/// A client of whom nothing is known.
fn stranger(number: u64, name: &str) -> Client {
    Client {
        number,
        id: name.into(),
        user: "".into(),
        protocol: Protocol::CentrifugeJson.as_str(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        headers: [].into(),
        attributes: Default::default(),
    }
}

fn introduce(client: &mut Client, who: &Who) {
    if let Some(user) = &who.user {
        client.user = user.as_ref().into();
    }
    for (name, value) in &who.attributes {
        set_attribute(client, name, value);
    }
    if !who.headers.is_empty() {
        client.headers = who.headers.as_slice().into();
    }
    client.address = who.address.unwrap_or(client.address);
    client.protocol = who.protocol.unwrap_or(client.protocol);
}

/// What the gateway would change of the client.
fn follow(client: &mut Client, answer: &Answer, effects: &[Effect]) {
    if let Answer::Connect(ConnectVerdict::Accept(identity)) = answer {
        client.user = identity.user.as_ref().into();
        for (name, value) in &identity.attributes {
            set_attribute(client, name, value);
        }
    }
    for effect in effects {
        if let Effect::SetAttribute { name, value } = effect {
            set_attribute(client, name, value);
        }
    }
}

fn set_attribute(client: &mut Client, name: &str, value: &str) {
    if value.is_empty() {
        client.attributes.remove(name);
    } else {
        client.attributes.insert(name.into(), value.into());
    }
}
