//! What each plugin of the chain made of one message, for a person who asks why. Sizes and counts, never contents: a trace may
//! go to whoever sent the message.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::event::{Kind, Message};
use super::failure::FailurePolicy;
use super::link::Link;
use super::usage::Usage;
use super::verdict::{Decision, Effect, Verdict};
use crate::clock::Clock;

/// Follows a message through the chain. For `()`, which follows nothing, the compiler leaves all of it out.
pub(super) trait Observer {
    /// The plugin does not see such messages.
    fn passed_by(&mut self, _link: &Link) {}

    /// A plugin is about to be called.
    fn begins(&mut self) {}

    /// A plugin was called. `effects` are its own.
    fn answered(
        &mut self,
        _link: &mut Link,
        _message: &Message,
        _effects: &[Effect],
        _answer: &Result<Verdict, FailurePolicy>,
    ) {
    }
}

impl Observer for () {}

/// One message on its way through the chain.
#[derive(Debug)]
pub struct Trace {
    clock: Clock,
    /// When the call in progress began, since the start of the process.
    begin: Duration,
    /// Unix time in milliseconds.
    at: u64,
    connection: Box<str>,
    user: Box<str>,
    kind: Kind,
    channel: Box<str>,
    method: Box<str>,
    payload_bytes: usize,
    generation: u64,
    seen: Vec<Seen>,
    decision: &'static str,
}

/// What one plugin made of it.
#[derive(Debug)]
struct Seen {
    plugin: Box<str>,
    /// `None` if its interests leave such messages out.
    called: Option<Called>,
}

#[derive(Debug)]
struct Called {
    answer: &'static str,
    /// Code and reason, as the client gets them.
    refusal: Option<(u32, Box<str>)>,
    /// Bytes of a payload in the answer.
    answer_bytes: Option<usize>,
    addresses: usize,
    /// Bytes of the payload that it left to the next plugin.
    payload_bytes: usize,
    effects: Vec<&'static str>,
    took: Duration,
    usage: Usage,
}

impl Trace {
    /// Of a message that has not met a plugin yet.
    pub fn of(message: &Message, generation: u64, clock: Clock) -> Self {
        Self {
            clock,
            begin: Duration::ZERO,
            at: message.now,
            connection: (&*message.client.id).into(),
            user: (&*message.client.user).into(),
            kind: message.kind,
            channel: message.channel.as_ref().map(|channel| channel.as_str().into()).unwrap_or_default(),
            method: message.method.clone(),
            payload_bytes: message.payload.len(),
            generation,
            seen: Vec::new(),
            decision: "",
        }
    }

    /// The chain has ended.
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

    /// For the API and for the client that asked.
    pub fn to_json(&self) -> Value {
        json!({
            "at": self.at,
            "client": &*self.connection,
            "user": &*self.user,
            "kind": self.kind.as_str(),
            "channel": &*self.channel,
            "method": &*self.method,
            "payload_bytes": self.payload_bytes,
            "generation": self.generation,
            "plugins": self.seen.iter().map(Seen::to_json).collect::<Vec<_>>(),
            "decision": self.decision,
        })
    }
}

impl Observer for Trace {
    fn passed_by(&mut self, link: &Link) {
        self.seen.push(Seen { plugin: link.name().into(), called: None });
    }

    fn begins(&mut self) {
        self.begin = self.clock.now().at;
    }

    fn answered(
        &mut self,
        link: &mut Link,
        message: &Message,
        effects: &[Effect],
        answer: &Result<Verdict, FailurePolicy>,
    ) {
        let took = self.clock.now().at.saturating_sub(self.begin);
        let (refusal, payload, addresses) = match answer {
            Ok(Verdict::Deny(refusal) | Verdict::Disconnect(refusal)) => {
                (Some((refusal.code, refusal.reason.clone())), None, 0)
            }
            Ok(Verdict::Replace(payload) | Verdict::Reply(payload)) => (None, Some(payload), 0),
            Ok(Verdict::Route(addresses)) => (None, None, addresses.len()),
            _ => (None, None, 0),
        };
        let left = match answer {
            Ok(Verdict::Replace(payload)) => payload,
            _ => &message.payload,
        };
        let called = Called {
            answer: match answer {
                Ok(verdict) => verdict.as_str(),
                Err(FailurePolicy::Closed) => "failed, which refuses",
                Err(FailurePolicy::Open) => "failed, which is ignored",
            },
            refusal,
            answer_bytes: payload.map(Bytes::len),
            addresses,
            payload_bytes: left.len(),
            effects: effects.iter().map(Effect::as_str).collect(),
            took,
            usage: link.usage(),
        };
        self.seen.push(Seen { plugin: link.name().into(), called: Some(called) });
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
        set("payload_bytes", called.payload_bytes.into());
        set("effects", called.effects.clone().into());
        set("took_ns", (called.took.as_nanos() as u64).into());
        set("host_calls", called.usage.host_calls.into());
        set("memory_bytes", called.usage.memory.into());
        map.into()
    }
}
