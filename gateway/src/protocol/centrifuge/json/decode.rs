//! Lines of JSON to commands.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::channel::Channel;
use crate::protocol::command::{Command, Connect, HistoryQuery, Malformed, Position, Request, Subscribe};

/// Takes the next command off a message; `None` at its end. Payloads are slices of the message.
pub(in crate::protocol) fn next_command(message: &mut Bytes) -> Option<Result<Command, Malformed>> {
    // Empty lines count for nothing.
    message.advance(message.len() - message.trim_ascii_start().len());
    if message.is_empty() {
        return None;
    }
    let end = memchr::memchr(b'\n', message).unwrap_or(message.len());
    let command = serde_json::from_slice::<WireCommand<'_>>(&message[..end])
        .map_err(|_| Malformed::Syntax)
        .and_then(|wire| wire.into_command(message));
    message.advance(message.len().min(end + 1));
    Some(command)
}

/// Strings are borrowed from the message unless they contain escapes.
#[derive(Deserialize, Default)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct WireCommand<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    connect: Option<WireConnect<'a>>,
    #[serde(borrow)]
    subscribe: Option<WireSubscribe<'a>>,
    #[serde(borrow)]
    unsubscribe: Option<WireChannel<'a>>,
    #[serde(borrow)]
    publish: Option<WirePublish<'a>>,
    #[serde(borrow)]
    presence: Option<WireChannel<'a>>,
    #[serde(borrow)]
    presence_stats: Option<WireChannel<'a>>,
    #[serde(borrow)]
    history: Option<WireHistory<'a>>,
    #[serde(borrow)]
    send: Option<WireData<'a>>,
    #[serde(borrow)]
    rpc: Option<WireRpc<'a>>,
    #[serde(borrow)]
    refresh: Option<WireToken<'a>>,
    #[serde(borrow)]
    sub_refresh: Option<WireChannel<'a>>,
}

#[derive(Deserialize)]
struct WireConnect<'a> {
    #[serde(borrow, default)]
    token: Text<'a>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    subs: BTreeMap<Cow<'a, str>, WirePosition<'a>>,
}

#[derive(Deserialize)]
struct WireSubscribe<'a> {
    #[serde(borrow, default)]
    channel: Text<'a>,
    #[serde(borrow, default)]
    token: Text<'a>,
    #[serde(default)]
    recover: bool,
    #[serde(borrow, default)]
    epoch: Text<'a>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    join_leave: bool,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    flag: i64,
    #[serde(rename = "type", default)]
    kind: i64,
}

#[derive(Deserialize, Default)]
struct WirePosition<'a> {
    #[serde(default)]
    recover: bool,
    #[serde(borrow, default)]
    epoch: Text<'a>,
    #[serde(default)]
    offset: u64,
}

#[derive(Deserialize)]
struct WireChannel<'a> {
    #[serde(borrow, default)]
    channel: Text<'a>,
}

#[derive(Deserialize)]
struct WirePublish<'a> {
    #[serde(borrow, default)]
    channel: Text<'a>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireHistory<'a> {
    #[serde(borrow, default)]
    channel: Text<'a>,
    #[serde(default)]
    limit: i64,
    #[serde(borrow)]
    since: Option<WirePosition<'a>>,
    #[serde(default)]
    reverse: bool,
}

#[derive(Deserialize)]
struct WireData<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireRpc<'a> {
    #[serde(borrow, default)]
    method: Text<'a>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireToken<'a> {
    #[serde(borrow, default)]
    token: Text<'a>,
}

/// The bit of `subscribe.flag` that asks for error 112.
const FLAG_REJECT_UNRECOVERED: i64 = 2;

impl WireCommand<'_> {
    fn into_command(self, message: &Bytes) -> Result<Command, Malformed> {
        // `null` and a missing field mean the same.
        let payload = |raw: Option<&RawValue>| {
            raw.map(RawValue::get)
                .filter(|raw| *raw != "null")
                .map_or_else(Bytes::new, |raw| message.slice_ref(raw.as_bytes()))
        };
        let channel = |name: Text<'_>| Channel::parse(&name.0);
        let request = if let Some(wire) = self.connect {
            Request::Connect(Connect {
                token: wire.token.0.into(),
                data: payload(wire.data),
                positions: wire
                    .subs
                    .into_iter()
                    .filter(|(_, position)| position.recover)
                    .filter_map(|(name, position)| Some((Channel::parse(&name).ok()?, position.into())))
                    .collect(),
            })
        } else if let Some(wire) = self.subscribe {
            Request::Subscribe(Subscribe {
                channel: channel(wire.channel),
                token: wire.token.0.into(),
                join_leave: wire.join_leave,
                reject_unrecovered: wire.flag & FLAG_REJECT_UNRECOVERED != 0,
                data: payload(wire.data),
                unsupported: wire.kind != 0,
                recover: wire.recover.then(|| Position { offset: wire.offset, epoch: wire.epoch.0.into() }),
            })
        } else if let Some(wire) = self.unsubscribe {
            Request::Unsubscribe { channel: channel(wire.channel) }
        } else if let Some(wire) = self.publish {
            Request::Publish { channel: channel(wire.channel), data: payload(wire.data) }
        } else if let Some(wire) = self.presence {
            Request::Presence { channel: channel(wire.channel) }
        } else if let Some(wire) = self.presence_stats {
            Request::PresenceStats { channel: channel(wire.channel) }
        } else if let Some(wire) = self.history {
            let query = HistoryQuery {
                limit: wire.limit,
                since: wire.since.map(Position::from),
                reverse: wire.reverse,
            };
            Request::History { channel: channel(wire.channel), query }
        } else if let Some(wire) = self.send {
            Request::Send { data: payload(wire.data) }
        } else if let Some(wire) = self.rpc {
            Request::Rpc { method: wire.method.0.into(), data: payload(wire.data) }
        } else if let Some(wire) = self.refresh {
            Request::Refresh { token: wire.token.0.into() }
        } else if let Some(wire) = self.sub_refresh {
            Request::SubRefresh { channel: channel(wire.channel) }
        } else if self.id == 0 {
            Request::Pong
        } else {
            return Err(Malformed::NoRequest);
        };
        Ok(Command { id: self.id, request })
    }
}

impl From<WirePosition<'_>> for Position {
    fn from(wire: WirePosition<'_>) -> Self {
        Self { offset: wire.offset, epoch: wire.epoch.0.into() }
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
            ("{\"id\":1}", Malformed::NoRequest),
            ("{\"id\":1,\"other\":{}}", Malformed::NoRequest),
            ("{\"id\":1,\"connect\":{}} x", Malformed::Syntax),
        ] {
            assert_eq!(commands(text).expect_err(text), why, "{text}");
        }
    }
}
