//! Decodes lines of JSON into [`Command`]s.
//!
//! A field that is `null` counts as absent at every level, as in the reference server. A field that is not
//! offered counts as set unless it has a zero value.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::protocol::centrifuge::request::{
    self, Connect, Fields, History, Payload, Publish, SubRefresh, Subscribe,
};
use crate::protocol::command::{Command, Malformed};
use crate::protocol::emulation::EmulationRequest;
use crate::protocol::filter::{self, InvalidFilter, TagFilter};
use crate::protocol::json;

/// Takes the next command from a message; `None` at its end. Payloads are slices of the message.
pub(in crate::protocol) fn next_command(message: &mut Bytes) -> Option<Result<Command, Malformed>> {
    // Empty lines are skipped.
    message.advance(message.len() - message.trim_ascii_start().len());
    if message.is_empty() {
        return None;
    }
    let end = memchr::memchr(b'\n', message).unwrap_or(message.len());
    let command = serde_json::from_slice::<Object<WireCommand<'_>>>(&message[..end])
        .map_err(|error| malformed(&error))
        .and_then(|wire| request::command(Decoded { wire: wire.0.unwrap_or_default(), message }));
    message.advance(message.len().min(end + 1));
    Some(command)
}

/// The command of a connect request that stands alone: the whole message of a client that only listens.
pub(in crate::protocol) fn connect(message: &Bytes) -> Result<Command, Malformed> {
    let connect = serde_json::from_slice(message).map_err(|error| malformed(&error))?;
    let wire = WireCommand { id: Field(1), connect, ..WireCommand::default() };
    request::command(Decoded { wire, message })
}

/// The fields of an emulation request.
pub(in crate::protocol) fn emulation(body: &Bytes) -> Result<EmulationRequest, Malformed> {
    let wire: Object<WireEmulation<'_>> = serde_json::from_slice(body).map_err(|_| Malformed::Syntax)?;
    let WireEmulation { node, session, data } = wire.0.unwrap_or_default();
    let data = match data.0.0 {
        Cow::Borrowed(text) => body.slice_ref(text.as_bytes()),
        Cow::Owned(text) => text.into(),
    };
    Ok(EmulationRequest { node: node.0.0.into(), session: session.0.0.into(), data })
}

fn malformed(error: &serde_json::Error) -> Malformed {
    // The library has no other sign of it.
    let is_repeated = error.is_data() && error.to_string().starts_with("duplicate field");
    if is_repeated { Malformed::RepeatedField } else { Malformed::Syntax }
}

/// Strings are borrowed from the message unless they contain escapes.
#[derive(serde::Deserialize, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A value; `null` becomes the default.
#[derive(Default)]
struct Field<T>(T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(|value: Option<T>| Self(value.unwrap_or_default()))
    }
}

/// An object. Derived code would also accept a list of its values. `None` if it is `null`.
struct Object<T>(Option<T>);

impl<T> Default for Object<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_none<E>(self) -> Result<Object<T>, E> {
                Ok(Object(None))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Object<T>, D::Error> {
                deserializer.deserialize_map(self)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|fields| Object(Some(fields)))
            }
        }

        deserializer.deserialize_option(Fields(PhantomData))
    }
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireCommand<'a> {
    id: Field<u32>,
    #[serde(borrow)]
    connect: Object<WireConnect<'a>>,
    #[serde(borrow)]
    subscribe: Object<WireSubscribe<'a>>,
    #[serde(borrow)]
    unsubscribe: Object<WireChannel<'a>>,
    #[serde(borrow)]
    publish: Object<WirePublish<'a>>,
    #[serde(borrow)]
    presence: Object<WireChannel<'a>>,
    #[serde(borrow)]
    presence_stats: Object<WireChannel<'a>>,
    #[serde(borrow)]
    history: Object<WireHistory<'a>>,
    ping: Object<IgnoredAny>,
    #[serde(borrow)]
    send: Object<WireData<'a>>,
    #[serde(borrow)]
    rpc: Object<WireRpc<'a>>,
    #[serde(borrow)]
    refresh: Object<WireToken<'a>>,
    #[serde(borrow)]
    sub_refresh: Object<WireSubRefresh<'a>>,
}

/// A field that is refused, or read later, unless it has a zero value.
type Refused<'a> = Option<&'a RawValue>;

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireConnect<'a> {
    #[serde(borrow)]
    token: Field<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    /// Each is read later, because a map of structs would take many times the memory of its message.
    #[serde(borrow)]
    subs: Field<BTreeMap<Text<'a>, &'a RawValue>>,
    #[serde(borrow)]
    name: Field<Text<'a>>,
    #[serde(borrow)]
    version: Field<Text<'a>>,
    #[serde(borrow)]
    headers: Refused<'a>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireSubscribe<'a> {
    #[serde(borrow)]
    channel: Field<Text<'a>>,
    #[serde(borrow)]
    token: Field<Text<'a>>,
    recover: Field<bool>,
    #[serde(borrow)]
    epoch: Field<Text<'a>>,
    offset: Field<u64>,
    join_leave: Field<bool>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    flag: Field<i64>,
    #[serde(borrow)]
    delta: Field<Text<'a>>,
    #[serde(borrow)]
    tf: Refused<'a>,
    #[serde(rename = "type", borrow)]
    kind: Refused<'a>,
    #[serde(borrow)]
    phase: Refused<'a>,
    #[serde(borrow)]
    cursor: Refused<'a>,
    #[serde(borrow)]
    limit: Refused<'a>,
    #[serde(borrow)]
    asc: Refused<'a>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WirePosition<'a> {
    #[serde(borrow)]
    epoch: Field<Text<'a>>,
    offset: Field<u64>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireChannel<'a> {
    #[serde(borrow)]
    channel: Field<Text<'a>>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WirePublish<'a> {
    #[serde(borrow)]
    channel: Field<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(rename = "type", borrow)]
    kind: Refused<'a>,
    #[serde(borrow)]
    key: Refused<'a>,
    #[serde(borrow)]
    removed: Refused<'a>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireHistory<'a> {
    #[serde(borrow)]
    channel: Field<Text<'a>>,
    limit: Field<i64>,
    #[serde(borrow)]
    since: Object<WirePosition<'a>>,
    reverse: Field<bool>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireData<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireRpc<'a> {
    #[serde(borrow)]
    method: Field<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireToken<'a> {
    #[serde(borrow)]
    token: Field<Text<'a>>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireEmulation<'a> {
    #[serde(borrow)]
    node: Field<Text<'a>>,
    #[serde(borrow)]
    session: Field<Text<'a>>,
    /// Commands, as text.
    #[serde(borrow)]
    data: Field<Text<'a>>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireSubRefresh<'a> {
    #[serde(borrow)]
    channel: Field<Text<'a>>,
    #[serde(borrow)]
    token: Field<Text<'a>>,
    #[serde(rename = "type", borrow)]
    kind: Refused<'a>,
    #[serde(borrow)]
    track: Refused<'a>,
    #[serde(borrow)]
    untrack: Refused<'a>,
}

/// The fields of a command, and the message that they borrow from.
struct Decoded<'a, 'm> {
    wire: WireCommand<'a>,
    message: &'m Bytes,
}

impl<'a> Fields<'a> for Decoded<'a, '_> {
    fn id(&self) -> u32 {
        self.wire.id.0
    }

    fn requests(&self) -> usize {
        let wire = &self.wire;
        let is_there = [
            wire.connect.0.is_some(),
            wire.subscribe.0.is_some(),
            wire.unsubscribe.0.is_some(),
            wire.publish.0.is_some(),
            wire.presence.0.is_some(),
            wire.presence_stats.0.is_some(),
            wire.history.0.is_some(),
            wire.ping.0.is_some(),
            wire.send.0.is_some(),
            wire.rpc.0.is_some(),
            wire.refresh.0.is_some(),
            wire.sub_refresh.0.is_some(),
        ];
        is_there.into_iter().map(usize::from).sum()
    }

    fn connect(&mut self) -> Option<Connect<'a>> {
        let wire = self.wire.connect.0.take()?;
        let sub = |(name, sub): (Text<'a>, &'a RawValue)| {
            let sub: Object<_> = serde_json::from_str(sub.get()).map_err(|error| malformed(&error))?;
            // Nothing reads the payloads in `subs`.
            Ok((name.0, subscribe(sub.0.unwrap_or_default(), |_| Ok(Bytes::new()))))
        };
        Some(Connect {
            token: wire.token.0.0,
            data: payload(wire.data, self.message),
            name: wire.name.0.0,
            version: wire.version.0.0,
            headers: is_set(wire.headers),
            subs: Box::new(wire.subs.0.into_iter().map(sub)),
        })
    }

    fn subscribe(&mut self) -> Option<Subscribe<'a>> {
        Some(subscribe(self.wire.subscribe.0.take()?, |raw| payload(raw, self.message)))
    }

    fn unsubscribe(&mut self) -> Option<Cow<'a, str>> {
        channel(&mut self.wire.unsubscribe)
    }

    fn publish(&mut self) -> Option<Publish<'a>> {
        let wire = self.wire.publish.0.take()?;
        Some(Publish {
            channel: wire.channel.0.0,
            data: payload(wire.data, self.message),
            kind: is_set(wire.kind),
            key: is_set(wire.key),
            removed: is_set(wire.removed),
        })
    }

    fn presence(&mut self) -> Option<Cow<'a, str>> {
        channel(&mut self.wire.presence)
    }

    fn presence_stats(&mut self) -> Option<Cow<'a, str>> {
        channel(&mut self.wire.presence_stats)
    }

    fn history(&mut self) -> Option<History<'a>> {
        let wire = self.wire.history.0.take()?;
        Some(History {
            channel: wire.channel.0.0,
            limit: wire.limit.0,
            since: wire.since.0.map(|since| (since.offset.0, since.epoch.0.0)),
            reverse: wire.reverse.0,
        })
    }

    fn has_ping(&self) -> bool {
        self.wire.ping.0.is_some()
    }

    fn send(&mut self) -> Option<Payload> {
        Some(payload(self.wire.send.0.take()?.data, self.message))
    }

    fn rpc(&mut self) -> Option<(Cow<'a, str>, Payload)> {
        let wire = self.wire.rpc.0.take()?;
        Some((wire.method.0.0, payload(wire.data, self.message)))
    }

    fn refresh(&mut self) -> Option<Cow<'a, str>> {
        Some(self.wire.refresh.0.take()?.token.0.0)
    }

    fn sub_refresh(&mut self) -> Option<SubRefresh<'a>> {
        let wire = self.wire.sub_refresh.0.take()?;
        Some(SubRefresh {
            channel: wire.channel.0.0,
            token: wire.token.0.0,
            kind: is_set(wire.kind),
            track: is_set(wire.track),
            untrack: is_set(wire.untrack),
        })
    }
}

fn channel<'a>(wire: &mut Object<WireChannel<'a>>) -> Option<Cow<'a, str>> {
    Some(wire.0.take()?.channel.0.0)
}

fn subscribe<'a>(
    wire: WireSubscribe<'a>,
    payload: impl FnOnce(Option<&'a RawValue>) -> Payload,
) -> Subscribe<'a> {
    Subscribe {
        channel: wire.channel.0.0,
        token: wire.token.0.0,
        recover: wire.recover.0,
        epoch: wire.epoch.0.0,
        offset: wire.offset.0,
        join_leave: wire.join_leave.0,
        data: payload(wire.data),
        flag: wire.flag.0,
        delta: wire.delta.0.0,
        tf: wire.tf.filter(|_| is_set(wire.tf)).map(filter),
        kind: is_set(wire.kind),
        phase: is_set(wire.phase),
        cursor: is_set(wire.cursor),
        limit: is_set(wire.limit),
        asc: is_set(wire.asc),
    }
}

/// A node of a filter. Its children are read later: the size and the depth of a filter are bounded.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireFilterNode<'a> {
    #[serde(borrow)]
    op: Field<Text<'a>>,
    #[serde(borrow)]
    key: Field<Text<'a>>,
    #[serde(borrow)]
    cmp: Field<Text<'a>>,
    #[serde(borrow)]
    val: Field<Text<'a>>,
    #[serde(borrow)]
    vals: Field<Vec<Text<'a>>>,
    #[serde(borrow)]
    nodes: Field<Vec<&'a RawValue>>,
}

fn filter<'a>(root: &'a RawValue) -> Result<TagFilter, InvalidFilter> {
    TagFilter::read(root, root.get().len(), |node: &'a RawValue, _| {
        let Object(node) = serde_json::from_str(node.get()).map_err(|_| InvalidFilter::Type)?;
        let WireFilterNode { op, key, cmp, val, vals, nodes } = node.ok_or(InvalidFilter::Type)?;
        let vals = vals.0.into_iter().map(|Text(text)| text).collect();
        Ok(filter::Fields { op: op.0.0, key: key.0.0, cmp: cmp.0.0, val: val.0.0, vals, nodes: nodes.0 })
    })
}

/// A payload as a slice of the message; empty if there is none.
fn payload(raw: Option<&RawValue>, message: &Bytes) -> Payload {
    let Some(raw) = raw.map(RawValue::get) else { return Ok(Bytes::new()) };
    json::check(raw.as_bytes())?;
    Ok(message.slice_ref(raw.as_bytes()))
}

fn is_set(field: Refused<'_>) -> bool {
    field.is_some_and(|value| !json::says_nothing(value.get()))
}

#[cfg(test)]
mod tests;
