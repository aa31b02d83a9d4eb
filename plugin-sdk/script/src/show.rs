//! Outcomes as JSON, for people, for programs and for comparing.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

/// The answer of a hook.
#[derive(Debug)]
pub enum Answer<'a> {
    /// The plugin lacks the hook, or its interests do not cover the event.
    NotCalled,
    /// A hook that has no answer has returned.
    Done,
    /// No opinion on a client or a delivery.
    Pass,
    /// A client is admitted.
    Accept(Identity<'a>),
    /// A client is not admitted.
    Refuse(Refusal<'a>),
    /// No opinion on a message.
    Next,
    /// The message is permitted.
    Allow,
    /// The message is discarded, or the publication is not delivered.
    Drop,
    /// The message is refused with an error reply.
    Deny(Refusal<'a>),
    /// The connection is closed.
    Disconnect(Refusal<'a>),
    /// The message or publication continues with this payload.
    Replace(&'a [u8]),
    /// The sender gets this payload as the reply.
    Reply(&'a [u8]),
    /// The payload is published to these addresses.
    Route(Vec<&'a str>),
    /// The hook did not answer.
    Failed {
        /// `trap`, `deadline`, `memory` or `invalid-answer`.
        cause: &'a str,
        /// A description.
        detail: &'a str,
    },
}

/// A refusal.
#[derive(Debug)]
pub struct Refusal<'a> {
    /// As the client gets it.
    pub code: u32,
    /// As the client gets it.
    pub reason: &'a str,
}

/// The identity of a client.
#[derive(Debug)]
pub struct Identity<'a> {
    /// The user; empty for an anonymous client.
    pub user: &'a str,
    /// Unix time in seconds.
    pub expires_at: Option<u64>,
    /// JSON for other clients; empty for none.
    pub info: &'a [u8],
    /// JSON for the client; empty for none.
    pub data: &'a [u8],
    /// Channels to subscribe the client to.
    pub channels: Vec<&'a str>,
    /// Names and values.
    pub attributes: Vec<(&'a str, &'a str)>,
}

/// An effect, by the name of the function that records it.
#[derive(Debug)]
pub enum Effect<'a> {
    /// `publish`: an address and a payload.
    Publish(&'a str, &'a [u8]),
    /// `subscribe`: a channel.
    Subscribe(&'a str),
    /// `unsubscribe`: a channel.
    Unsubscribe(&'a str),
    /// `disconnect`.
    Disconnect(Refusal<'a>),
    /// `set-attribute`: a name and a value.
    SetAttribute(&'a str, &'a str),
    /// `subscribe-address`: an address and a channel.
    SubscribeAddress(&'a str, &'a str),
    /// `unsubscribe-address`: an address and a channel.
    UnsubscribeAddress(&'a str, &'a str),
    /// `disconnect-address`: an address.
    DisconnectAddress(&'a str, Refusal<'a>),
    /// `refresh`: when the connection expires.
    Refresh(Option<u64>),
    /// `refresh-subscription`: a channel, and when the subscription to it expires.
    RefreshSubscription(&'a str, Option<u64>),
    /// `set-subscription-expiry`: when the subscription of the event expires.
    SetSubscriptionExpiry(Option<u64>),
    /// `refresh-address`: an address, and when its connections expire.
    RefreshAddress(&'a str, Option<u64>),
    /// `emit`: an upstream and a payload.
    Emit(&'a str, &'a [u8]),
}

/// Returns `verdict` with its fields, `effects`, and `changed` if the hook replaced the payload in addition
/// to its answer. A payload is in `payload` if it is JSON, else in `text`, else in `base64`.
///
/// | verdict | with |
/// |---|---|
/// | `accept` | `user`, `expires_at`, `info`, `data`, `channels`, `attributes` |
/// | `refuse`, `deny`, `disconnect` | `code`, `reason` |
/// | `replace`, `reply` | the payload |
/// | `route` | `addresses` |
/// | `failed` | `cause`, `detail` |
/// | `pass`, `next`, `allow`, `drop`, `done`, `not-called` | |
pub fn outcome<'a>(
    answer: &Answer<'_>,
    effects: impl IntoIterator<Item = Effect<'a>>,
    changed: Option<&[u8]>,
) -> Map<String, Value> {
    let mut map = Map::new();
    let verdict = match answer {
        Answer::NotCalled => "not-called",
        Answer::Done => "done",
        Answer::Pass => "pass",
        Answer::Next => "next",
        Answer::Allow => "allow",
        Answer::Drop => "drop",
        Answer::Accept(identity) => {
            accept(&mut map, identity);
            "accept"
        }
        Answer::Refuse(why) => {
            refusal(&mut map, why);
            "refuse"
        }
        Answer::Deny(why) => {
            refusal(&mut map, why);
            "deny"
        }
        Answer::Disconnect(why) => {
            refusal(&mut map, why);
            "disconnect"
        }
        Answer::Replace(bytes) => {
            payload(&mut map, bytes);
            "replace"
        }
        Answer::Reply(bytes) => {
            payload(&mut map, bytes);
            "reply"
        }
        Answer::Route(addresses) => {
            map.insert("addresses".to_owned(), addresses.as_slice().into());
            "route"
        }
        Answer::Failed { cause, detail } => {
            map.insert("cause".to_owned(), (*cause).into());
            map.insert("detail".to_owned(), (*detail).into());
            "failed"
        }
    };
    map.insert("verdict".to_owned(), verdict.into());
    // Always there, so that `"effects": []` can be expected.
    map.insert("effects".to_owned(), effects.into_iter().map(|one| effect(&one)).collect());
    if let Some(changed) = changed {
        let mut shown = Map::new();
        payload(&mut shown, changed);
        map.insert("changed".to_owned(), shown.into());
    }
    map
}

/// A payload under the key that says how it is written.
pub(crate) fn payload(map: &mut Map<String, Value>, payload: &[u8]) {
    let (key, value) = match (serde_json::from_slice(payload), std::str::from_utf8(payload)) {
        (Ok(value), _) => ("payload", value),
        (Err(_), Ok(text)) => ("text", text.into()),
        (Err(_), Err(_)) => ("base64", BASE64_STANDARD.encode(payload).into()),
    };
    map.insert(key.to_owned(), value);
}

fn accept(map: &mut Map<String, Value>, identity: &Identity<'_>) {
    let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
    set("user", identity.user.into());
    set("expires_at", identity.expires_at.into());
    for (key, bytes) in [("info", identity.info), ("data", identity.data)] {
        set(key, serde_json::from_slice(bytes).unwrap_or_default());
    }
    set("channels", identity.channels.as_slice().into());
    let attributes = identity.attributes.iter();
    set(
        "attributes",
        Value::Object(attributes.map(|(name, value)| ((*name).to_owned(), (*value).into())).collect()),
    );
}

fn refusal(map: &mut Map<String, Value>, why: &Refusal<'_>) {
    map.insert("code".to_owned(), why.code.into());
    map.insert("reason".to_owned(), why.reason.into());
}

fn effect(effect: &Effect<'_>) -> Value {
    let with_payload = |name: &str, key: &str, to: &str, bytes: &[u8]| {
        let mut map = Map::new();
        map.insert("effect".to_owned(), name.into());
        map.insert(key.to_owned(), to.into());
        payload(&mut map, bytes);
        Value::Object(map)
    };
    match effect {
        Effect::Publish(address, bytes) => with_payload("publish", "address", address, bytes),
        Effect::Emit(upstream, bytes) => with_payload("emit", "upstream", upstream, bytes),
        Effect::Subscribe(channel) => json!({"effect": "subscribe", "channel": channel}),
        Effect::Unsubscribe(channel) => json!({"effect": "unsubscribe", "channel": channel}),
        Effect::Disconnect(why) => json!({"effect": "disconnect", "code": why.code, "reason": why.reason}),
        Effect::SetAttribute(name, value) => {
            json!({"effect": "set-attribute", "name": name, "value": value})
        }
        Effect::SubscribeAddress(address, channel) => {
            json!({"effect": "subscribe-address", "address": address, "channel": channel})
        }
        Effect::UnsubscribeAddress(address, channel) => {
            json!({"effect": "unsubscribe-address", "address": address, "channel": channel})
        }
        Effect::Refresh(expires_at) => json!({"effect": "refresh", "expires_at": expires_at}),
        Effect::RefreshSubscription(channel, expires_at) => {
            json!({"effect": "refresh-subscription", "channel": channel, "expires_at": expires_at})
        }
        Effect::SetSubscriptionExpiry(expires_at) => {
            json!({"effect": "set-subscription-expiry", "expires_at": expires_at})
        }
        Effect::RefreshAddress(address, expires_at) => {
            json!({"effect": "refresh-address", "address": address, "expires_at": expires_at})
        }
        Effect::DisconnectAddress(address, why) => {
            json!({"effect": "disconnect-address", "address": address, "code": why.code, "reason": why.reason})
        }
    }
}
