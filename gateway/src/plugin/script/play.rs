//! Events of a script, given to a plugin the way a worker gives them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;

use super::{Event, START, Step, Time, Who};
use crate::plugin::Plugin;
use crate::plugin::event::{Client, Goodbye, Hello, Message};
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
        let now = self.now;
        let made = &mut self.made;
        let connection = self.connections.entry(step.connection.clone()).or_insert_with(|| {
            *made += 1;
            let client = Arc::new(stranger(*made, &step.connection));
            Connection { client, admitted: now, meters: Meters::default() }
        });
        introduce(Arc::make_mut(&mut connection.client), &step.who);
        let client = connection.client.clone();
        let mut effects = Vec::new();
        let mut changed = None;
        let answer = match &step.event {
            Event::Connect { token, data } => {
                connection.admitted = now;
                let hello = Hello { client, token: token.clone(), data: data.clone(), now, at: now };
                if plugin.interests().hooks.on_connect {
                    plugin.on_connect(&hello, &mut effects).map_or_else(Answer::Failed, Answer::Connect)
                } else {
                    Answer::NotCalled
                }
            }
            Event::Message { kind, channel, method, payload, binary } => {
                let mut message = Message {
                    client,
                    kind: *kind,
                    channel: channel.clone(),
                    method: method.clone(),
                    payload: payload.clone(),
                    binary: *binary,
                    now,
                    at: now,
                    meters: std::mem::take(&mut connection.meters),
                };
                let wanted = plugin.interests().wants_message(*kind, channel.as_ref());
                let verdict = wanted.then(|| plugin.on_message(&mut message, &mut effects));
                connection.meters = message.meters;
                if let Some(verdict) = verdict {
                    changed = Some(message.payload).filter(|left| left != payload);
                    verdict.map_or_else(Answer::Failed, Answer::Message)
                } else {
                    Answer::NotCalled
                }
            }
            Event::Disconnect { code, reason } => {
                let duration = now.saturating_sub(connection.admitted);
                let goodbye = Goodbye { client, code: *code, reason: reason.clone(), duration, now, at: now };
                if plugin.interests().hooks.on_disconnect {
                    plugin
                        .on_disconnect(&goodbye, &mut effects)
                        .map_or_else(Answer::Failed, |()| Answer::Done)
                } else {
                    Answer::NotCalled
                }
            }
        };
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
