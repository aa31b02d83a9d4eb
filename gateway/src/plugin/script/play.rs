//! [`Player`] calls a plugin with the events of a script, the way a worker does.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;

use gateway_plugin_script::Who;

use super::{Event, START, Step};
use crate::plugin::Plugin;
use crate::plugin::event::{Client, ConnectEvent, DisconnectEvent, Message, MessageContent, Outgoing, Tick};
use crate::plugin::failure::Failure;
use crate::plugin::interests::Pattern;
use crate::plugin::state::Meters;
use crate::plugin::verdict::{ConnectVerdict, DeliverVerdict, Effect, Verdict};
use crate::protocol::Encoding;
use crate::protocol::push::Member;

/// The outcome of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict of the hook.
    pub answer: Answer,
    /// Effects that it recorded in addition to its verdict. Empty after a failure.
    pub effects: Vec<Effect>,
    /// The new payload of the message, if the hook set it in addition to its verdict.
    pub changed: Option<Bytes>,
}

/// The result of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The plugin lacks the hook, or its interests leave the event out.
    NotCalled,
    /// Verdict on a client that connects or refreshes.
    Connect(ConnectVerdict),
    /// Verdict on a message.
    Message(Verdict),
    /// Verdict on a publication on its way to subscribers.
    Deliver(DeliverVerdict),
    /// A hook without a verdict has returned.
    Done,
    /// The call failed.
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

impl Connection {
    fn of(client: Client, admitted: u64) -> Self {
        Self { client: Arc::new(client), admitted, meters: Meters::default() }
    }
}

impl Default for Player {
    fn default() -> Self {
        Self { connections: HashMap::new(), made: 0, now: START }
    }
}

impl Player {
    /// No connections, and the clock at [`START`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Unix time in milliseconds of the last event.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Calls a plugin with an event. Its verdict changes the client for later events, as in the gateway.
    ///
    /// After a failure that ends the instance, the caller has to continue with another one.
    pub fn play(&mut self, plugin: &mut dyn Plugin, step: &Step) -> Outcome {
        self.now = step.time.since(self.now);
        if !step.event.has_connection() {
            return self.play_without_connection(plugin, step);
        }
        let now = self.now;
        let made = &mut self.made;
        let connection = self.connections.entry(step.connection.clone()).or_insert_with(|| {
            *made += 1;
            Connection::of(stranger(*made, &step.connection), now)
        });
        introduce(Arc::make_mut(&mut connection.client), &step.who);
        if matches!(step.event, Event::Connect { .. }) {
            connection.admitted = now;
        }
        let is_message = matches!(step.event, Event::Message(_));
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

    fn play_without_connection(&self, plugin: &mut dyn Plugin, step: &Step) -> Outcome {
        let nobody = Connection::of(stranger(0, ""), self.now);
        let mut effects = Vec::new();
        let answer = Occurrence::new(&nobody, Meters::default(), step, self.now).meet(plugin, &mut effects);
        if matches!(answer, Answer::Failed(_)) {
            effects.clear();
        }
        Outcome { answer, effects, changed: None }
    }

    /// The event as if it happened again now, for callers that repeat it many times. The clock does not
    /// advance, and verdicts change nothing.
    pub fn again(&self, step: &Step) -> Occurrence {
        let gone;
        let connection = match self.connections.get(&step.connection) {
            Some(connection) => connection,
            None => {
                let mut client = stranger(self.made, &step.connection);
                introduce(&mut client, &step.who);
                gone = Connection::of(client, self.now);
                &gone
            }
        };
        Occurrence::new(connection, Meters::default(), step, self.now)
    }
}

/// An event for a plugin.
#[derive(Debug)]
pub enum Occurrence {
    /// For `on-connect`.
    Connect(ConnectEvent),
    /// For `on-message`.
    Message(Message),
    /// For `on-deliver`, with the value of the class attribute.
    Deliver(Box<str>, Outgoing),
    /// For `on-disconnect`.
    Disconnect(DisconnectEvent),
    /// For `on-timer`.
    Tick(Tick),
}

impl Occurrence {
    fn new(connection: &Connection, meters: Meters, step: &Step, now: u64) -> Self {
        let client = connection.client.clone();
        match &step.event {
            Event::Connect { token, data } => {
                let data = Bytes::copy_from_slice(data);
                Self::Connect(ConnectEvent { client, token: token.clone(), data, now, at: now })
            }
            Event::Refresh { token } => {
                Self::Connect(ConnectEvent { client, token: token.clone(), data: Bytes::new(), now, at: now })
            }
            Event::Message(message) => Self::Message(Message {
                client,
                content: MessageContent {
                    kind: message.kind,
                    channel: message.channel.clone(),
                    method: message.method.clone(),
                    payload: Bytes::copy_from_slice(&message.payload),
                    binary: message.binary,
                    token: message.token.clone(),
                },
                now,
                at: now,
                meters,
            }),
            Event::Deliver { channel, class, publisher, payload } => {
                let member = |(connection, user): &(Box<str>, Box<str>)| {
                    let (client, user) = (connection.as_ref().into(), user.as_ref().into());
                    Arc::new(Member { client, user, info: Bytes::new(), channel_info: Bytes::new() })
                };
                let outgoing = Outgoing {
                    channel: channel.clone(),
                    payload: Bytes::copy_from_slice(payload),
                    publisher: publisher.as_ref().map(member),
                    now,
                    at: now,
                };
                Self::Deliver(class.clone(), outgoing)
            }
            Event::Disconnect { code, reason } => Self::Disconnect(DisconnectEvent {
                client,
                code: *code,
                reason: reason.clone(),
                duration: now.saturating_sub(connection.admitted),
                now,
                at: now,
            }),
            Event::Timer { instance } => Self::Tick(Tick { instance: *instance, now, at: now }),
        }
    }

    /// Calls the hook, if the plugin wants the event.
    pub fn meet(&mut self, plugin: &mut dyn Plugin, effects: &mut Vec<Effect>) -> Answer {
        let interests = plugin.interests();
        match self {
            Self::Connect(event) if interests.hooks.on_connect => {
                plugin.on_connect(event, effects).map_or_else(Answer::Failed, Answer::Connect)
            }
            Self::Message(message)
                if interests.wants_message(message.content.kind, message.content.channel.as_ref()) =>
            {
                plugin.on_message(message, effects).map_or_else(Answer::Failed, Answer::Message)
            }
            Self::Deliver(class, outgoing) => {
                let interest = interests.deliver.as_ref().filter(|_| interests.hooks.on_deliver);
                let wants = |pattern: &Pattern| pattern.matches(&outgoing.channel);
                match interest.filter(|interest| interest.channels.iter().any(wants)) {
                    None => Answer::NotCalled,
                    Some(interest) => {
                        let class = if interest.class.is_some() { &**class } else { "" };
                        plugin.on_deliver(class, outgoing).map_or_else(Answer::Failed, Answer::Deliver)
                    }
                }
            }
            Self::Disconnect(event) if interests.hooks.on_disconnect => {
                plugin.on_disconnect(event, effects).map_or_else(Answer::Failed, |()| Answer::Done)
            }
            Self::Tick(tick) if interests.hooks.on_timer && interests.timer.is_some() => {
                plugin.on_timer(tick, effects).map_or_else(Answer::Failed, |()| Answer::Done)
            }
            _ => Answer::NotCalled,
        }
    }

    /// Returns the rate limits to the connection, and the payload that a plugin set instead of the script's.
    fn end(self, step: &Step, connection: &mut Connection) -> Option<Bytes> {
        match (self, &step.event) {
            (Self::Message(left), Event::Message(message)) => {
                connection.meters = left.meters;
                Some(left.content.payload).filter(|left| *left != message.payload)
            }
            _ => None,
        }
    }
}

/// A client without attributes.
fn stranger(number: u64, name: &str) -> Client {
    Client {
        number,
        id: name.into(),
        user: "".into(),
        protocol: Encoding::Json.protocol_name(),
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

/// Applies to the client what the gateway would change.
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
