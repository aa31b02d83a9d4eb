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
mod tests {
    use super::*;
    use crate::protocol::channel::Channel;
    use crate::protocol::command::{Position, Request};
    use crate::protocol::tags::Tags;

    fn commands(text: &str) -> Result<Vec<Command>, Malformed> {
        let mut message = Bytes::copy_from_slice(text.as_bytes());
        std::iter::from_fn(|| next_command(&mut message)).collect()
    }

    fn request(text: &str) -> Request {
        commands(text).expect("valid").remove(0).request
    }

    #[test]
    fn one_message_carries_several_commands() {
        let all =
            commands("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"news\"}}\n\n{}\n")
                .expect("valid");
        assert_eq!(all.iter().map(|command| command.id).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(all[2].request, Request::Pong);
    }

    #[test]
    fn payloads_are_slices_of_the_message() {
        let message = Bytes::from_static(br#"{"id":1,"publish":{"channel":"a","data":{"x":[1, 2]}}}"#);
        let seen = next_command(&mut message.clone()).expect("one").expect("valid").request;
        let Request::Publish { data, .. } = seen else { panic!("{seen:?}") };
        assert_eq!(&data[..], br#"{"x":[1, 2]}"#);
        let range = message.as_ptr_range();
        assert!(range.contains(&data.as_ptr()));
    }

    #[test]
    fn a_connect_tells_where_the_client_stands() {
        let Request::Connect(connect) = request(
            r#"{"id":1,"connect":{"token":"t","name":"js","subs":{"a":{"recover":true,"epoch":"e","offset":7},"b":{}}}}"#,
        ) else {
            panic!()
        };
        assert_eq!(&*connect.token, "t");
        let position = Position { offset: 7, epoch: "e".into() };
        assert_eq!(connect.positions, [(Channel::parse("a").expect("valid"), position)]);
    }

    #[test]
    fn a_subscribe_asks_for_what_was_missed_only_with_recover() {
        let Request::Subscribe(subscribe) = request(
            r#"{"id":1,"subscribe":{"channel":"a","token":"t","recover":true,"offset":3,"epoch":"x","flag":3}}"#,
        ) else {
            panic!()
        };
        assert_eq!(subscribe.recover, Some(Position { offset: 3, epoch: "x".into() }));
        assert!(subscribe.reject_unrecovered);
        assert_eq!(&*subscribe.token, "t");
        let Request::Subscribe(subscribe) = request(r#"{"id":1,"subscribe":{"channel":"a","offset":3}}"#)
        else {
            panic!()
        };
        assert_eq!(subscribe.recover, None);
    }

    #[test]
    fn a_client_says_where_it_applies_deltas_and_of_which_format() {
        for (delta, asks) in [("null", false), (r#""""#, false), (r#""fossil""#, true), (r#""x""#, false)] {
            let text = format!(r#"{{"id":1,"subscribe":{{"channel":"a","delta":{delta}}}}}"#);
            let Request::Subscribe(subscribe) = request(&text) else { panic!("{text}") };
            assert_eq!(subscribe.delta, asks, "{text}");
        }
        let Request::Connect(connect) = request(
            r#"{"id":1,"connect":{"subs":{"b":{"delta":"fossil"},"a":{"recover":true,"delta":"fossil"},"c":{"delta":"x"},"d":{}}}}"#,
        ) else {
            panic!()
        };
        let channels = ["a", "b"].map(|name| Channel::parse(name).expect("valid"));
        assert_eq!((connect.positions.len(), &connect.deltas[..]), (1, &channels[..]));
        assert_eq!(commands(r#"{"id":1,"subscribe":{"channel":"a","delta":5}}"#), Err(Malformed::Syntax));
    }

    #[test]
    fn many_positions_cost_at_most_sixteen_times_their_message() {
        for sub in ["{}", "null", r#"{"recover":true,"epoch":"e"}"#] {
            let subs: Vec<_> = (0..4000).map(|number| format!(r#""{number:x}":{sub}"#)).collect();
            let text = format!(r#"{{"id":1,"connect":{{"subs":{{{}}}}}}}"#, subs.join(","));
            let mut message = Bytes::from(text);
            let (bytes, mut next) = (message.len() as u64, None);
            let used = allocation_counter::measure(|| next = next_command(&mut message));
            assert!(matches!(next, Some(Ok(_))), "{sub}");
            assert!(used.bytes_max <= 16 * bytes, "{} bytes for {bytes}: {sub}", used.bytes_max);
        }
        assert_eq!(commands(r#"{"id":1,"connect":{"subs":{"a":5}}}"#), Err(Malformed::Syntax));
    }

    #[test]
    fn null_is_what_is_left_out() {
        for (with_null, without) in [
            ("null", "{}"),
            (r#"{"id":null}"#, "{}"),
            (r#"{"id":1,"connect":null,"rpc":{}}"#, r#"{"id":1,"rpc":{}}"#),
            (
                r#"{"id":1,"connect":{"token":null,"data":null,"subs":null,"name":null,"version":null,"headers":null,
                "flag":null,"dict":null,"profile":null}}"#,
                r#"{"id":1,"connect":{}}"#,
            ),
            (r#"{"id":1,"connect":{"subs":{"a":null,"b":{"recover":null}}}}"#, r#"{"id":1,"connect":{}}"#),
            (
                r#"{"id":1,"connect":{"subs":{"a":{"recover":true,"epoch":null,"offset":null}}}}"#,
                r#"{"id":1,"connect":{"subs":{"a":{"recover":true}}}}"#,
            ),
            (
                r#"{"id":1,"subscribe":{"channel":"a","token":null,"recover":null,"epoch":null,"offset":null,"data":null,
                "positioned":null,"recoverable":null,"join_leave":null,"delta":null,"tf":null,"flag":null,"type":null,
                "phase":null,"cursor":null,"limit":null,"asc":null}}"#,
                r#"{"id":1,"subscribe":{"channel":"a"}}"#,
            ),
            (r#"{"id":1,"subscribe":{"channel":null}}"#, r#"{"id":1,"subscribe":{}}"#),
            (r#"{"id":1,"unsubscribe":{"channel":null}}"#, r#"{"id":1,"unsubscribe":{}}"#),
            (
                r#"{"id":1,"publish":{"channel":"a","data":null,"type":null,"key":null,"removed":null}}"#,
                r#"{"id":1,"publish":{"channel":"a"}}"#,
            ),
            (r#"{"id":1,"presence":{"channel":null}}"#, r#"{"id":1,"presence":{}}"#),
            (r#"{"id":1,"presence_stats":{"channel":null}}"#, r#"{"id":1,"presence_stats":{}}"#),
            (
                r#"{"id":1,"history":{"channel":"a","limit":null,"since":null,"reverse":null}}"#,
                r#"{"id":1,"history":{"channel":"a"}}"#,
            ),
            (
                r#"{"id":1,"history":{"channel":"a","since":{"offset":null,"epoch":null}}}"#,
                r#"{"id":1,"history":{"channel":"a","since":{}}}"#,
            ),
            (r#"{"id":1,"rpc":{"method":null,"data":null}}"#, r#"{"id":1,"rpc":{}}"#),
            (r#"{"send":{"data":null}}"#, r#"{"send":{}}"#),
            (r#"{"id":1,"refresh":{"token":null}}"#, r#"{"id":1,"refresh":{}}"#),
            (
                r#"{"id":1,"sub_refresh":{"channel":"a","token":null,"type":null,"track":null,"untrack":null}}"#,
                r#"{"id":1,"sub_refresh":{"channel":"a"}}"#,
            ),
            (r#"{"id":1,"ping":null,"sub_refresh":null,"rpc":{}}"#, r#"{"id":1,"rpc":{}}"#),
        ] {
            let with_null = with_null.replace('\n', "");
            assert_eq!(commands(&with_null), commands(without), "{with_null}");
        }
    }

    #[track_caller]
    fn refused(text: &str) -> (bool, u32, String) {
        let Request::Refused { connect, why } = request(text) else { panic!("{text} is not refused") };
        (connect, why.code, why.message.into_owned())
    }

    #[test]
    fn a_filter_is_read_and_a_wrong_one_is_refused_with_the_reason() {
        let filter = |tf: &str| request(&format!(r#"{{"id":1,"subscribe":{{"channel":"a","tf":{tf}}}}}"#));
        for tf in [
            r#"{"key":"a","cmp":"eq","val":"b"}"#,
            r#"{"op":null,"key":"a","cmp":"eq","val":"b","vals":null,"nodes":[],"of_tomorrow":[1]}"#,
            r#"{"op":"not","nodes":[{"key":"a","cmp":"neq","val":"\u0062"}]}"#,
        ] {
            let Request::Subscribe(subscribe) = filter(tf) else { panic!("{tf}") };
            let wants = |value: &str| {
                let tags = Tags::of(vec![("a".into(), value.into())]);
                subscribe.filter.as_ref().expect("a filter").wants(tags.as_deref())
            };
            assert_eq!((wants("b"), wants("c")), (true, false), "{tf}");
        }
        let large = format!(r#"{{"key":"a","cmp":"eq","val":"{}"}}"#, "x".repeat(4096));
        for (tf, why) in [
            ("5", "has a node with a field of a wrong type"),
            (r#"[""]"#, "has a node with a field of a wrong type"),
            (r#"{"op":5}"#, "has a node with a field of a wrong type"),
            (r#"{"op":"and","nodes":[null]}"#, "has a node with a field of a wrong type"),
            (r#"{"op":"and","nodes":{}}"#, "has a node with a field of a wrong type"),
            (r#"{"key":"a"}"#, InvalidFilter::Comparison.to_string().as_str()),
            (&large, "has more than 4096 bytes"),
        ] {
            let Request::Refused { connect: false, why: error } = filter(tf) else { panic!("{tf}") };
            assert_eq!((error.code, &*error.message), (107, format!("`tf` of `subscribe` {why}").as_str()));
        }
        let Request::Subscribe(subscribe) = filter("{}") else { panic!("an empty filter counts as absent") };
        assert_eq!(subscribe.filter, None);
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        for (command, field) in [
            ("connect", r#""headers":{"a":"b"}"#),
            ("subscribe", r#""type":1"#),
            ("subscribe", r#""phase":2"#),
            ("subscribe", r#""cursor":"x""#),
            ("subscribe", r#""limit":10"#),
            ("subscribe", r#""asc":true"#),
            ("publish", r#""type":1"#),
            ("publish", r#""key":"k""#),
            ("publish", r#""removed":true"#),
            ("sub_refresh", r#""type":1"#),
            ("sub_refresh", r#""track":[{"key":"k"}]"#),
            ("sub_refresh", r#""untrack":["k"]"#),
        ] {
            let name = field.split('"').nth(1).expect("a name");
            let text = format!(r#"{{"id":1,"{command}":{{"channel":"a","data":1,{field}}}}}"#);
            let message = format!("`{name}` of `{command}` is not offered here");
            let code = if name == "type" { 108 } else { 107 };
            assert_eq!(refused(&text), (command == "connect", code, message));
        }
        let text = r#"{"id":1,"connect":{"subs":{"a":{"recover":true,"tf":{"op":"and"}}}}}"#;
        assert_eq!(refused(text), (true, 107, "`tf` of `connect.subs` is not offered here".to_owned()));
        let (connect, code, _) = refused(r#"{"id":1,"ping":{}}"#);
        assert_eq!((connect, code), (false, 108));
    }

    #[test]
    fn offers_notes_and_fields_of_a_later_protocol_are_accepted() {
        for text in [
            r#"{"id":1,"connect":{"name":"js","version":"1","flag":1,"dict":"d","profile":"p","headers":{},"new":1}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","positioned":true,"recoverable":true,"flag":1,"type":0,"asc":false}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","delta":"of_tomorrow"}}"#,
            r#"{"id":1,"publish":{"channel":"a","data":1,"type":0,"key":"","removed":false,"new":[1]}}"#,
            r#"{"id":1,"sub_refresh":{"channel":"a","token":"t","type":0,"track":[],"untrack":[],"new":1}}"#,
            r#"{"id":1,"rpc":{},"new":{}}"#,
        ] {
            assert!(!matches!(request(text), Request::Refused { .. }), "{text}");
        }
    }

    #[test]
    fn payloads_that_receivers_stumble_over_are_refused() {
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        for (data, words) in
            [(&*deep, "nested deeper than 120 levels"), (r#""\ud800""#, "half of a character")]
        {
            for command in ["connect", "subscribe", "publish", "rpc"] {
                let (_, code, message) =
                    refused(&format!(r#"{{"id":1,"{command}":{{"channel":"a","data":{data}}}}}"#));
                assert_eq!(code, 107, "{command}");
                assert!(message.contains(words), "{message}");
            }
            let closed = commands(&format!(r#"{{"send":{{"data":{data}}}}}"#)).expect_err("closed");
            assert!(closed.to_string().contains(words), "{closed}");
        }
        for text in [r#"{"id":1,"rpc":{"method":"\ud800"}}"#, r#"{"id":1,"subscribe":{"channel":"\udc00"}}"#]
        {
            assert_eq!(commands(text), Err(Malformed::Syntax), "{text}");
        }
    }

    #[test]
    fn escapes_in_strings_are_understood() {
        let Request::Rpc { method, .. } = request(r#"{"id":1,"rpc":{"method":"a\u0062c"}}"#) else {
            panic!()
        };
        assert_eq!(&*method, "abc");
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for (text, why) in [
            ("hello", Malformed::Syntax),
            ("[]", Malformed::Syntax),
            ("{\"id\":-1}", Malformed::Syntax),
            ("{\"id\":4294967296,\"connect\":{}}", Malformed::Syntax),
            ("{\"id\":\"1\",\"connect\":{}}", Malformed::Syntax),
            ("{\"id\":1,\"connect\":[]}", Malformed::Syntax),
            ("{\"id\":1,\"refresh\":[\"t\"]}", Malformed::Syntax),
            ("{\"id\":1,\"history\":{\"channel\":\"a\",\"since\":[1,\"e\"]}}", Malformed::Syntax),
            ("[1]", Malformed::Syntax),
            ("{\"id\":1,\"connect\":{},\"connect\":{}}", Malformed::RepeatedField),
            ("{\"id\":1,\"connect\":{},\"connect\":null}", Malformed::RepeatedField),
            ("{\"id\":1,\"id\":2,\"connect\":{}}", Malformed::RepeatedField),
            ("{\"id\":1,\"subscribe\":{\"channel\":\"a\",\"channel\":\"b\"}}", Malformed::RepeatedField),
            ("{\"id\":1,\"subscribe\":{\"tf\":{\"op\":\"and\"},\"tf\":{}}}", Malformed::RepeatedField),
            ("{\"id\":1,\"connect\":{},\"rpc\":{}}", Malformed::SeveralRequests),
            ("{\"id\":1,\"subscribe\":{},\"unsubscribe\":{}}", Malformed::SeveralRequests),
            ("{\"id\":1,\"history\":{},\"ping\":{}}", Malformed::SeveralRequests),
            (
                "{\"send\":{\"data\":1},\"publish\":{\"channel\":\"a\",\"data\":1}}",
                Malformed::SeveralRequests,
            ),
            ("{\"id\":1}", Malformed::NoRequest),
            ("{\"id\":1,\"other\":{}}", Malformed::NoRequest),
            ("{\"id\":1,\"connect\":{}} x", Malformed::Syntax),
        ] {
            assert_eq!(commands(text).expect_err(text), why, "{text}");
        }
    }
}
