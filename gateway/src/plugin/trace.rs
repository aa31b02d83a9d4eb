//! [`Trace`] records what each plugin of the chain did with one event. It holds sizes and counts, never
//! contents, because it may be sent to the client that sent the message.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::event::{Client, DisconnectEvent, Message, Outgoing};
use super::failure::FailurePolicy;
use super::link::Link;
use super::usage::Usage;
use super::verdict::{Admission, ConnectVerdict, Decision, DeliverVerdict, Effect, Refusal, Verdict};
use crate::clock::Clock;

/// Observes an event on its way through the chain. For `()`, which observes nothing, the compiler removes all
/// of it.
pub(super) trait Observer {
    /// The plugin does not want such events.
    fn passed_by(&mut self, _link: &Link) {}

    /// A plugin is about to be called.
    fn begins(&mut self) {}

    /// A plugin was called. `effects` are its own.
    fn answered(&mut self, _link: &mut Link, _effects: &[Effect], _result: HookResult<'_>) {}
}

impl Observer for () {}

/// The verdict of a plugin, by hook.
#[derive(Debug, Clone, Copy)]
pub(super) enum HookResult<'a> {
    /// On a client; with the cost of the call if it ran on the asynchronous pool.
    Connect(&'a Result<ConnectVerdict, FailurePolicy>, Option<Usage>),
    /// On a message.
    Message(&'a Message, &'a Result<Verdict, FailurePolicy>),
    /// On a publication for a class.
    Deliver(&'a str, &'a Outgoing, &'a Result<DeliverVerdict, FailurePolicy>),
    /// Of a hook without a verdict.
    NoVerdict(&'a Result<(), FailurePolicy>),
}

/// One event on its way through the chain.
#[derive(Debug)]
pub struct Trace {
    clock: Clock,
    /// When the call in progress began, since the start of the process.
    begin: Duration,
    /// Unix time in milliseconds.
    at: u64,
    connection: Box<str>,
    user: Box<str>,
    kind: &'static str,
    channel: Box<str>,
    method: Box<str>,
    payload_bytes: usize,
    generation: u64,
    seen: Vec<Seen>,
    /// Decision of the whole chain; empty if there is nothing to decide, or if each class has its own.
    decision: &'static str,
    /// The upstream that is asked, because no plugin has decided.
    asks: Option<Arc<str>>,
}

/// The part of one plugin.
#[derive(Debug)]
struct Seen {
    plugin: Box<str>,
    /// `None` if its interests exclude such events.
    called: Option<Called>,
}

#[derive(Debug, Default)]
struct Called {
    /// The class of subscribers, for deliveries.
    class: Option<Box<str>>,
    answer: &'static str,
    /// Code and reason, as sent to the client.
    refusal: Option<(u32, Box<str>)>,
    /// Bytes of a payload in the verdict.
    answer_bytes: Option<usize>,
    addresses: usize,
    /// Bytes of the payload after this plugin; `None` for events without a payload.
    payload_bytes: Option<usize>,
    effects: Vec<&'static str>,
    took: Duration,
    usage: Usage,
}

impl Trace {
    /// Trace of a message before the first plugin.
    pub fn of(message: &Message, generation: u64, clock: Clock) -> Self {
        Self {
            channel: message
                .content
                .channel
                .as_ref()
                .map(|channel| channel.as_str().into())
                .unwrap_or_default(),
            method: message.content.method.clone(),
            payload_bytes: message.content.payload.len(),
            ..Self::of_client(message.content.kind.as_str(), &message.client, message.now, generation, clock)
        }
    }

    /// Trace of a publication on its way to subscribers.
    pub fn of_delivery(outgoing: &Outgoing, generation: u64, clock: Clock) -> Self {
        let publisher = outgoing.publisher.as_ref();
        Self {
            connection: publisher.map(|publisher| (&*publisher.client).into()).unwrap_or_default(),
            user: publisher.map(|publisher| (&*publisher.user).into()).unwrap_or_default(),
            channel: outgoing.channel.as_str().into(),
            payload_bytes: outgoing.payload.len(),
            ..Self::empty("deliver", outgoing.now, generation, clock)
        }
    }

    /// Trace of a disconnect.
    pub(super) fn of_disconnect(event: &DisconnectEvent, generation: u64, clock: Clock) -> Self {
        Self::of_client("disconnect", &event.client, event.now, generation, clock)
    }

    /// Trace of another event of a client.
    pub(super) fn of_client(
        kind: &'static str,
        client: &Client,
        now: u64,
        generation: u64,
        clock: Clock,
    ) -> Self {
        let (connection, user) = ((&*client.id).into(), (&*client.user).into());
        Self { connection, user, ..Self::empty(kind, now, generation, clock) }
    }

    fn empty(kind: &'static str, at: u64, generation: u64, clock: Clock) -> Self {
        Self {
            clock,
            begin: Duration::ZERO,
            at,
            connection: Box::default(),
            user: Box::default(),
            kind,
            channel: Box::default(),
            asks: None,
            method: Box::default(),
            payload_bytes: 0,
            generation,
            seen: Vec::new(),
            decision: "",
        }
    }

    /// The chain was replaced: the event restarts with this one.
    pub(super) fn begin_again(&mut self, generation: u64) {
        self.generation = generation;
        self.seen.clear();
    }

    /// Whether a plugin was called. Except for messages, an event without calls is not worth storing.
    pub fn was_seen(&self) -> bool {
        self.seen.iter().any(|seen| seen.called.is_some())
    }

    /// Records the decision of the chain.
    pub(super) fn decided(&mut self, decision: &Decision) {
        self.decision = match decision {
            Decision::Undecided(_) => "undecided",
            Decision::Allowed(_) => "allowed",
            Decision::Denied(_) => "denied",
            Decision::Dropped => "dropped",
            Decision::Disconnect(_) => "disconnected",
            Decision::Reply(_) => "replied",
            Decision::Route { .. } => "routed",
            Decision::Failed => "failed",
        };
    }

    /// Records the admission, and the client with its new identity.
    pub(super) fn admitted(&mut self, admission: &Admission) {
        self.decision = match admission {
            Admission::Undecided => "undecided",
            Admission::Accepted(identity) => {
                self.user.clone_from(&identity.user);
                "accepted"
            }
            Admission::Refused(_) => "refused",
            Admission::Failed | Admission::Doubtful => "failed",
        };
    }

    /// An upstream is asked, because no plugin has decided.
    pub fn asks(&mut self, upstream: Arc<str>) {
        self.asks = Some(upstream);
    }

    /// JSON for the API and for the client that requested it.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "at": self.at,
            "client": &*self.connection,
            "user": &*self.user,
            "kind": self.kind,
            "channel": &*self.channel,
            "method": &*self.method,
            "payload_bytes": self.payload_bytes,
            "generation": self.generation,
            "plugins": self.seen.iter().map(Seen::to_json).collect::<Vec<_>>(),
        });
        if !self.decision.is_empty() {
            value["decision"] = self.decision.into();
        }
        if let Some(upstream) = &self.asks {
            value["asks"] = (&**upstream).into();
        }
        value
    }
}

impl Observer for Trace {
    fn passed_by(&mut self, link: &Link) {
        self.seen.push(Seen { plugin: link.name().into(), called: None });
    }

    fn begins(&mut self) {
        self.begin = self.clock.now().at;
    }

    fn answered(&mut self, link: &mut Link, effects: &[Effect], result: HookResult<'_>) {
        let took = self.clock.now().at.saturating_sub(self.begin);
        let mut called = Called {
            effects: effects.iter().map(Effect::as_str).collect(),
            took,
            usage: match result {
                HookResult::Connect(_, Some(usage)) => usage,
                _ => link.usage(),
            },
            ..Called::default()
        };
        called.take(result);
        self.seen.push(Seen { plugin: link.name().into(), called: Some(called) });
    }
}

impl Called {
    fn take(&mut self, result: HookResult<'_>) {
        let refused = |why: &Refusal| Some((why.code, why.reason.clone()));
        match result {
            HookResult::Connect(answer, _) => {
                self.answer = answer.as_ref().map_or_else(failed, ConnectVerdict::as_str);
                if let Ok(ConnectVerdict::Refuse(why)) = answer {
                    self.refusal = refused(why);
                }
            }
            HookResult::Message(message, answer) => {
                self.answer = answer.as_ref().map_or_else(failed, Verdict::as_str);
                self.payload_bytes = Some(message.content.payload.len());
                match answer {
                    Ok(Verdict::Deny(why) | Verdict::Disconnect(why)) => self.refusal = refused(why),
                    Ok(Verdict::Reply(payload)) => self.answer_bytes = Some(payload.len()),
                    Ok(Verdict::Replace(payload)) => {
                        self.answer_bytes = Some(payload.len());
                        self.payload_bytes = self.answer_bytes;
                    }
                    Ok(Verdict::Route(addresses)) => self.addresses = addresses.len(),
                    _ => {}
                }
            }
            HookResult::Deliver(class, outgoing, answer) => {
                self.class = Some(class.into());
                self.answer = answer.as_ref().map_or_else(failed, DeliverVerdict::as_str);
                self.payload_bytes = Some(outgoing.payload.len());
                if let Ok(DeliverVerdict::Replace(payload)) = answer {
                    self.answer_bytes = Some(payload.len());
                    self.payload_bytes = self.answer_bytes;
                }
            }
            HookResult::NoVerdict(answer) => self.answer = answer.as_ref().map_or_else(failed, |()| "done"),
        }
    }
}

fn failed(policy: &FailurePolicy) -> &'static str {
    match policy {
        FailurePolicy::Closed => "failed, which refuses",
        FailurePolicy::Open => "failed, which is ignored",
    }
}

impl Seen {
    fn to_json(&self) -> Value {
        let Some(called) = &self.called else {
            return json!({"plugin": &*self.plugin, "answer": "not-called"});
        };
        let mut map = Map::new();
        let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
        set("plugin", (&*self.plugin).into());
        if let Some(class) = &called.class {
            set("class", (&**class).into());
        }
        set("answer", called.answer.into());
        if let Some((code, reason)) = &called.refusal {
            set("code", (*code).into());
            set("reason", (&**reason).into());
        }
        if let Some(bytes) = called.answer_bytes {
            set("answer_bytes", bytes.into());
        }
        if called.addresses > 0 {
            set("addresses", called.addresses.into());
        }
        if let Some(bytes) = called.payload_bytes {
            set("payload_bytes", bytes.into());
        }
        set("effects", called.effects.clone().into());
        set("took_ns", (called.took.as_nanos() as u64).into());
        set("host_calls", called.usage.host_calls.into());
        set("memory_bytes", called.usage.memory.into());
        map.into()
    }
}
