//! Outcomes as JSON, for people, for programs and for comparing.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::{Answer, Outcome};
use crate::plugin::verdict::{Action, ConnectVerdict, Effect, Identity, Refusal, Verdict};
use crate::protocol::channel::Channel;

impl Outcome {
    /// `verdict` and what belongs to it, `effects` if there are any, and `changed` if the message goes on with another
    /// payload. Payloads are `payload` if they are JSON, else `text`, else `base64`.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let verdict = match &self.answer {
            Answer::NotCalled => "not-called",
            Answer::Done => "done",
            Answer::Connect(verdict) => connect(&mut map, verdict),
            Answer::Message(verdict) => message(&mut map, verdict),
            Answer::Failed(failure) => {
                map.insert("cause".to_owned(), failure.cause.as_str().into());
                map.insert("detail".to_owned(), (&*failure.detail).into());
                "failed"
            }
        };
        map.insert("verdict".to_owned(), verdict.into());
        // Always there, so that `"effects": []` can be expected.
        map.insert("effects".to_owned(), self.effects.iter().map(effect).collect());
        if let Some(changed) = &self.changed {
            let mut payload = Map::new();
            show_payload(&mut payload, changed);
            map.insert("changed".to_owned(), payload.into());
        }
        map
    }
}

fn connect(map: &mut Map<String, Value>, verdict: &ConnectVerdict) -> &'static str {
    match verdict {
        ConnectVerdict::Pass => "pass",
        ConnectVerdict::Refuse(why) => {
            refusal(map, why);
            "refuse"
        }
        ConnectVerdict::Accept(identity) => {
            accept(map, identity);
            "accept"
        }
    }
}

fn accept(map: &mut Map<String, Value>, identity: &Identity) {
    let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
    set("user", (&*identity.user).into());
    set("expires_at", identity.expires_at.into());
    for (key, bytes) in [("info", &identity.info), ("data", &identity.data)] {
        set(key, serde_json::from_slice(bytes).unwrap_or_default());
    }
    set("channels", names(&identity.channels));
    let attributes =
        identity.attributes.iter().map(|(name, value)| (name.to_string(), Value::from(&**value)));
    set("attributes", Value::Object(attributes.collect()));
}

fn message(map: &mut Map<String, Value>, verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Next => "next",
        Verdict::Allow => "allow",
        Verdict::Drop => "drop",
        Verdict::Deny(why) => {
            refusal(map, why);
            "deny"
        }
        Verdict::Disconnect(why) => {
            refusal(map, why);
            "disconnect"
        }
        Verdict::Replace(payload) => {
            show_payload(map, payload);
            "replace"
        }
        Verdict::Reply(payload) => {
            show_payload(map, payload);
            "reply"
        }
        Verdict::Route(addresses) => {
            map.insert("addresses".to_owned(), names(addresses));
            "route"
        }
    }
}

fn effect(effect: &Effect) -> Value {
    match effect {
        Effect::Publish { address, payload } => {
            let mut map = Map::new();
            map.insert("effect".to_owned(), "publish".into());
            map.insert("address".to_owned(), address.as_str().into());
            show_payload(&mut map, payload);
            map.into()
        }
        Effect::Subscribe(channel) => json!({"effect": "subscribe", "channel": channel.as_str()}),
        Effect::Unsubscribe(channel) => json!({"effect": "unsubscribe", "channel": channel.as_str()}),
        Effect::Disconnect(why) => {
            json!({"effect": "disconnect", "code": why.code, "reason": &*why.reason})
        }
        Effect::Emit { upstream, payload, .. } => {
            let mut map = Map::new();
            map.insert("effect".to_owned(), "emit".into());
            map.insert("upstream".to_owned(), (&**upstream).into());
            show_payload(&mut map, payload);
            map.into()
        }
        Effect::SetAttribute { name, value } => {
            json!({"effect": "set-attribute", "name": &**name, "value": &**value})
        }
        Effect::Reach { address, action, .. } => reach(address.as_str(), action),
    }
}

/// By the name of the function that records it.
fn reach(address: &str, action: &Action) -> Value {
    match action {
        Action::Subscribe(channel) => {
            json!({"effect": "subscribe-address", "address": address, "channel": channel.as_str()})
        }
        Action::Unsubscribe(channel) => {
            json!({"effect": "unsubscribe-address", "address": address, "channel": channel.as_str()})
        }
        Action::Disconnect(why) => {
            json!({"effect": "disconnect-address", "address": address, "code": why.code, "reason": &*why.reason})
        }
    }
}

fn refusal(map: &mut Map<String, Value>, why: &Refusal) {
    map.insert("code".to_owned(), why.code.into());
    map.insert("reason".to_owned(), (&*why.reason).into());
}

fn names(channels: &[Channel]) -> Value {
    channels.iter().map(Channel::as_str).collect()
}

/// A payload under the key that says how it is written.
pub(super) fn show_payload(map: &mut Map<String, Value>, payload: &[u8]) {
    let (key, value) = match (serde_json::from_slice(payload), std::str::from_utf8(payload)) {
        (Ok(value), _) => ("payload", value),
        (Err(_), Ok(text)) => ("text", text.into()),
        (Err(_), Err(_)) => ("base64", BASE64_STANDARD.encode(payload).into()),
    };
    map.insert(key.to_owned(), value);
}
