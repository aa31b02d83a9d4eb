//! Decodes lines of JSON into [`Command`]s.
//!
//! A field that is `null` counts as absent at every level, as in the reference server. Fields that the
//! protocol does not know are ignored, so that client libraries may be newer than the gateway. Each field of
//! the protocol is applied, accepted without effect, or refused; a field that would change the meaning of a
//! command is never ignored.
//!
//! | | applied | accepted without effect | refused with error 107 (`type`: 108) unless it has a zero value |
//! |---|---|---|---|
//! | `connect` | `token`, `data`, `subs` | `name`, `version`; `flag`, `profile` and `dict`, which offer compression | `headers` |
//! | `subscribe` and each of `connect.subs` | `channel`, `token`, `recover`, `epoch`, `offset`, `data`, `join_leave`; of `flag` the bit 2 | `positioned` and `recoverable`: the channel decides, and the reply says so; of `flag` the bit 1, which offers numbers for names | `delta`, `tf`, `type`, `phase`, `cursor`, `limit`, `asc` |
//! | `publish` | `channel`, `data` | | `type`, `key`, `removed` |
//! | `history` | `channel`, `limit`, `since`, `reverse` | | |
//! | `rpc`, `send`, `refresh`, `unsubscribe`, `presence`, `presence_stats` | all | | |
//! | `ping` | | | the command, with error 108 |
//! | `sub_refresh` | | | the command, with error 108, or 103 without a subscription: none expires here |

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::command::{Command, Connect, HistoryQuery, Malformed, Position, Request, Subscribe};
use crate::protocol::json::{self, Unfit};

/// Takes the next command from a message; `None` at its end. Payloads are slices of the message.
pub(in crate::protocol) fn next_command(message: &mut Bytes) -> Option<Result<Command, Malformed>> {
    // Empty lines are skipped.
    message.advance(message.len() - message.trim_ascii_start().len());
    if message.is_empty() {
        return None;
    }
    let end = memchr::memchr(b'\n', message).unwrap_or(message.len());
    let command = serde_json::from_slice::<Object<WireCommand<'_>>>(&message[..end])
        .map_err(|_| Malformed::Syntax)
        .and_then(|wire| wire.0.unwrap_or_default().into_command(message));
    message.advance(message.len().min(end + 1));
    Some(command)
}

/// Strings are borrowed from the message unless they contain escapes.
#[derive(serde::Deserialize, Default)]
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
    sub_refresh: Object<WireChannel<'a>>,
}

/// A field that is refused unless it has a zero value.
type Refused<'a> = Option<&'a RawValue>;

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct WireConnect<'a> {
    #[serde(borrow)]
    token: Field<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    subs: Field<BTreeMap<Cow<'a, str>, Object<WireSubscribe<'a>>>>,
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
    delta: Refused<'a>,
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

/// The bit of `subscribe.flag` that requests error 112.
const FLAG_REJECT_UNRECOVERED: i64 = 2;

impl WireCommand<'_> {
    /// If there are several requests, the first in the order of the protocol counts.
    fn into_command(self, message: &Bytes) -> Result<Command, Malformed> {
        let id = self.id.0;
        let request = if let Some(wire) = self.connect.0 {
            wire.into_request(message).unwrap_or_else(|why| Request::Refused { connect: true, why })
        } else {
            self.into_other_request(message)?
        };
        Ok(Command { id, request })
    }

    fn into_other_request(self, message: &Bytes) -> Result<Request, Malformed> {
        let channel = |name: Field<Text<'_>>| Channel::parse(&name.0.0);
        let request = if let Some(wire) = self.subscribe.0 {
            wire.into_request(message)
        } else if let Some(wire) = self.unsubscribe.0 {
            Ok(Request::Unsubscribe { channel: channel(wire.channel) })
        } else if let Some(wire) = self.publish.0 {
            offered("publish", [("type", wire.kind), ("key", wire.key), ("removed", wire.removed)])
                .and_then(|()| payload(wire.data, message).map_err(ReplyError::from))
                .map(|data| Request::Publish { channel: channel(wire.channel), data })
        } else if let Some(wire) = self.presence.0 {
            Ok(Request::Presence { channel: channel(wire.channel) })
        } else if let Some(wire) = self.presence_stats.0 {
            Ok(Request::PresenceStats { channel: channel(wire.channel) })
        } else if let Some(wire) = self.history.0 {
            let query = HistoryQuery {
                limit: wire.limit.0,
                since: wire.since.0.map(|since| position(since.offset, since.epoch)),
                reverse: wire.reverse.0,
            };
            Ok(Request::History { channel: channel(wire.channel), query })
        } else if self.ping.0.is_some() {
            Err(ReplyError::NOT_AVAILABLE)
        } else if let Some(wire) = self.send.0 {
            // There is no reply that could carry an error.
            return payload(wire.data, message)
                .map(|data| Request::Send { data })
                .map_err(Malformed::Payload);
        } else if let Some(wire) = self.rpc.0 {
            payload(wire.data, message)
                .map(|data| Request::Rpc { method: wire.method.0.0.into(), data })
                .map_err(ReplyError::from)
        } else if let Some(wire) = self.refresh.0 {
            Ok(Request::Refresh { token: wire.token.0.0.into() })
        } else if let Some(wire) = self.sub_refresh.0 {
            Ok(Request::SubRefresh { channel: channel(wire.channel) })
        } else if self.id.0 == 0 {
            Ok(Request::Pong)
        } else {
            return Err(Malformed::NoRequest);
        };
        Ok(request.unwrap_or_else(|why| Request::Refused { connect: false, why }))
    }
}

impl WireConnect<'_> {
    fn into_request(self, message: &Bytes) -> Result<Request, ReplyError> {
        offered("connect", [("headers", self.headers)])?;
        let mut positions = Vec::new();
        for (name, wire) in self.subs.0 {
            let wire = wire.0.unwrap_or_default();
            wire.is_offered("connect.subs")?;
            // An invalid channel name has no subscribers.
            if wire.recover.0
                && let Ok(channel) = Channel::parse(&name)
            {
                positions.push((channel, position(wire.offset, wire.epoch)));
            }
        }
        let (token, data) = (self.token.0.0.into(), payload(self.data, message)?);
        Ok(Request::Connect(Connect { token, data, positions }))
    }
}

impl WireSubscribe<'_> {
    fn is_offered(&self, command: &str) -> Result<(), ReplyError> {
        offered(
            command,
            [
                ("delta", self.delta),
                ("tf", self.tf),
                ("type", self.kind),
                ("phase", self.phase),
                ("cursor", self.cursor),
                ("limit", self.limit),
                ("asc", self.asc),
            ],
        )
    }

    fn into_request(self, message: &Bytes) -> Result<Request, ReplyError> {
        self.is_offered("subscribe")?;
        Ok(Request::Subscribe(Subscribe {
            channel: Channel::parse(&self.channel.0.0),
            token: self.token.0.0.into(),
            join_leave: self.join_leave.0,
            reject_unrecovered: self.flag.0 & FLAG_REJECT_UNRECOVERED != 0,
            data: payload(self.data, message)?,
            recover: self.recover.0.then(|| position(self.offset, self.epoch)),
        }))
    }
}

fn position(Field(offset): Field<u64>, Field(Text(epoch)): Field<Text<'_>>) -> Position {
    Position { offset, epoch: epoch.into() }
}

/// A payload as a slice of the message; empty if there is none.
fn payload(raw: Option<&RawValue>, message: &Bytes) -> Result<Bytes, Unfit> {
    let Some(raw) = raw.map(RawValue::get) else { return Ok(Bytes::new()) };
    json::check(raw.as_bytes())?;
    Ok(message.slice_ref(raw.as_bytes()))
}

/// Whether none of these fields is set.
fn offered<'a>(
    command: &str,
    fields: impl IntoIterator<Item = (&'static str, Refused<'a>)>,
) -> Result<(), ReplyError> {
    let asked =
        |(_, value): &(&str, Refused<'a>)| value.is_some_and(|value| !json::says_nothing(value.get()));
    fields.into_iter().find(asked).map_or(Ok(()), |(name, _)| {
        // Belongs to another kind of subscription, with its own commands.
        let error = if name == "type" { ReplyError::NOT_AVAILABLE } else { ReplyError::BAD_REQUEST };
        Err(error.because(format!("`{name}` of `{command}` is not offered here")))
    })
}

impl From<Unfit> for ReplyError {
    fn from(unfit: Unfit) -> Self {
        Self::BAD_REQUEST.because(format!("a payload is {}", json::NotJson::from(unfit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_not_offered_is_refused_by_name() {
        for (command, field) in [
            ("connect", r#""headers":{"a":"b"}"#),
            ("subscribe", r#""delta":"fossil""#),
            ("subscribe", r#""tf":{"key":"a","cmp":"eq","val":"b"}"#),
            ("subscribe", r#""type":1"#),
            ("subscribe", r#""phase":2"#),
            ("subscribe", r#""cursor":"x""#),
            ("subscribe", r#""limit":10"#),
            ("subscribe", r#""asc":true"#),
            ("publish", r#""type":1"#),
            ("publish", r#""key":"k""#),
            ("publish", r#""removed":true"#),
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
            r#"{"id":1,"publish":{"channel":"a","data":1,"type":0,"key":"","removed":false,"new":[1]}}"#,
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
            ("{\"id\":1,\"connect\":{},\"connect\":{}}", Malformed::Syntax),
            ("{\"id\":1}", Malformed::NoRequest),
            ("{\"id\":1,\"other\":{}}", Malformed::NoRequest),
            ("{\"id\":1,\"connect\":{}} x", Malformed::Syntax),
        ] {
            assert_eq!(commands(text).expect_err(text), why, "{text}");
        }
    }
}
