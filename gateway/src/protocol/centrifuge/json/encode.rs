//! Encodes [`Reply`] and [`Push`] as JSON.
//!
//! Written by hand: payloads are already JSON, validated on arrival, and serde would parse each of them once
//! more to embed it.
//!
//! A field with a zero value (0, "", false, an empty list or map) is left out. Exceptions are the fields that
//! the protocol always sends and that client libraries require: `user` and `client` of a client info,
//! `presence`, `num_clients` and `num_users`, and `publications`, `epoch` and `offset` of a history.

use std::fmt::{Display, Write as _};

use crate::protocol::centrifuge::VERSION;
use crate::protocol::code::ReplyError;
use crate::protocol::json;
use crate::protocol::push::{Member, Publication, Push, PushKind};
use crate::protocol::reply::{Connected, Done, Reply, Subscribed};

/// Writes one object; each field writes its own comma.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

/// Adapter that formats numbers into the buffer without a string in between.
struct Append<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Append<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn object(out: &mut Vec<u8>, fields: impl FnOnce(&mut Object<'_>)) {
    out.push(b'{');
    fields(&mut Object { out, empty: true });
    out.push(b'}');
}

/// A JSON string, escaped.
fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
}

impl Object<'_> {
    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn number<N: Display + Default + PartialEq + Copy>(&mut self, key: &str, value: N) {
        if value != N::default() {
            self.number_always(key, value);
        }
    }

    fn string(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.string_always(key, value);
        }
    }

    /// Also zero.
    fn number_always(&mut self, key: &str, value: impl Display) {
        let out = self.key(key);
        write!(Append(out), "{value}").expect("writing to memory cannot fail");
    }

    /// Also an empty one.
    fn string_always(&mut self, key: &str, value: &str) {
        string(self.key(key), value);
    }

    /// A text under a key from outside.
    fn text(&mut self, key: &str, value: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        string(self.out, key);
        self.out.push(b':');
        string(self.out, value);
    }

    fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.key(key).extend_from_slice(b"true");
        }
    }

    /// JSON that was validated on arrival.
    fn json(&mut self, key: &str, value: &[u8]) {
        if !value.is_empty() {
            self.key(key).extend_from_slice(value);
        }
    }

    fn object(&mut self, key: &str, fields: impl FnOnce(&mut Object<'_>)) {
        object(self.key(key), fields);
    }

    /// A list of objects. Empty lists are written too.
    fn list_always<T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
        each: impl Fn(&mut Object<'_>, T),
    ) {
        let out = self.key(key);
        out.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            object(out, |object| each(object, item));
        }
        out.push(b']');
    }

    /// A map from text to objects. Empty maps are written too: `presence` without members is `{}`.
    fn map<K: AsRef<str>, T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = (K, T)>,
        each: impl Fn(&mut Object<'_>, T),
    ) {
        let out = self.key(key);
        out.push(b'{');
        for (index, (name, item)) in items.into_iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            string(out, name.as_ref());
            out.push(b':');
            object(out, |object| each(object, item));
        }
        out.push(b'}');
    }
}

/// One reply or one push to a single client.
pub(in crate::protocol) fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    object(out, |o| match reply {
        Reply::Error { id, error } => {
            o.number("id", *id);
            o.object("error", |o| error_fields(o, error));
        }
        Reply::Connected { id, result } => {
            o.number("id", *id);
            o.object("connect", |o| connected(o, result));
        }
        Reply::Subscribed { id, result } => {
            o.number("id", *id);
            o.object("subscribe", |o| subscribed(o, result));
        }
        Reply::Done { id, what } => {
            o.number("id", *id);
            let key = match what {
                Done::Unsubscribe => "unsubscribe",
                Done::Publish => "publish",
            };
            o.object(key, |_| ());
        }
        Reply::Presence { id, members } => {
            o.number("id", *id);
            o.object("presence", |o| {
                o.map("presence", members.iter().map(|member| (&*member.client, &**member)), member_fields);
            });
        }
        Reply::PresenceStats { id, clients, users } => {
            o.number("id", *id);
            o.object("presence_stats", |o| {
                o.number_always("num_clients", *clients);
                o.number_always("num_users", *users);
            });
        }
        Reply::History { id, publications, offset, epoch } => {
            o.number("id", *id);
            o.object("history", |o| {
                o.list_always("publications", publications, |o, publication| {
                    publication_fields(o, publication)
                });
                o.string_always("epoch", epoch);
                o.number_always("offset", *offset);
            });
        }
        Reply::Rpc { id, data } => {
            o.number("id", *id);
            o.object("rpc", |o| o.json("data", data));
        }
        Reply::Refreshed { id, client, ttl } => {
            o.number("id", *id);
            o.object("refresh", |o| {
                o.string("client", client);
                o.string("version", VERSION);
                expiry(o, *ttl);
            });
        }
        Reply::SubRefreshed { id, ttl } => {
            o.number("id", *id);
            o.object("sub_refresh", |o| expiry(o, *ttl));
        }
        Reply::Ping => (),
        Reply::Message { .. }
        | Reply::SubscribedByServer { .. }
        | Reply::RefreshedByServer { .. }
        | Reply::UnsubscribedByServer { .. }
        | Reply::Disconnected { .. } => o.object("push", |o| event_fields(o, reply)),
        // Belongs to the raw protocol: `codec` never passes it to this function.
        Reply::Raw { .. } => (),
    });
}

/// One event for a single client that only listens.
pub(in crate::protocol) fn encode_event(reply: &Reply, out: &mut Vec<u8>) {
    object(out, |o| event_fields(o, reply));
}

/// One event of a channel.
pub(in crate::protocol) fn encode_push(push: &Push, out: &mut Vec<u8>) {
    object(out, |o| o.object("push", |o| push_fields(o, push)));
}

/// One event of a channel, for clients that only listen.
pub(in crate::protocol) fn encode_push_event(push: &Push, out: &mut Vec<u8>) {
    object(out, |o| push_fields(o, push));
}

/// A message to the client itself.
pub(in crate::protocol) fn encode_message(publication: &Publication, out: &mut Vec<u8>) {
    object(out, |o| o.object("push", |o| message_fields(o, publication)));
}

/// A message to the client itself, if it only listens.
pub(in crate::protocol) fn encode_message_event(publication: &Publication, out: &mut Vec<u8>) {
    object(out, |o| message_fields(o, publication));
}

/// The fields of the `push` that tells a client about something that it did not ask for. None for a ping, and
/// for a reply: clients that only listen ask for nothing but to connect.
fn event_fields(o: &mut Object<'_>, reply: &Reply) {
    match reply {
        Reply::Connected { result, .. } => o.object("connect", |o| connected(o, result)),
        Reply::Message { data } => o.object("message", |o| o.json("data", data)),
        Reply::SubscribedByServer { channel, result } => {
            o.string("channel", channel.as_str());
            o.object("subscribe", |o| {
                o.flag("recoverable", result.recoverable);
                o.string("epoch", &result.epoch);
                o.number("offset", result.offset);
                o.flag("positioned", result.positioned);
                o.json("data", &result.data);
            });
        }
        Reply::RefreshedByServer { ttl } => o.object("refresh", |o| expiry(o, *ttl)),
        Reply::UnsubscribedByServer { channel, why } => {
            o.string("channel", channel.as_str());
            o.object("unsubscribe", |o| {
                o.number("code", why.code);
                o.string("reason", &why.reason);
            });
        }
        Reply::Disconnected { close } => o.object("disconnect", |o| {
            o.number("code", close.code);
            o.string("reason", &close.reason);
        }),
        Reply::Ping
        | Reply::Raw { .. }
        | Reply::Error { .. }
        | Reply::Subscribed { .. }
        | Reply::Done { .. }
        | Reply::Presence { .. }
        | Reply::PresenceStats { .. }
        | Reply::History { .. }
        | Reply::Rpc { .. }
        | Reply::Refreshed { .. }
        | Reply::SubRefreshed { .. } => (),
    }
}

fn push_fields(o: &mut Object<'_>, push: &Push) {
    o.string("channel", push.channel.as_str());
    match &push.kind {
        PushKind::Publication { publication, .. } => {
            o.object("pub", |o| publication_fields(o, publication));
        }
        PushKind::Join(member) => o.object("join", |o| o.object("info", |o| member_fields(o, member))),
        PushKind::Leave(member) => o.object("leave", |o| o.object("info", |o| member_fields(o, member))),
    }
}

fn message_fields(o: &mut Object<'_>, publication: &Publication) {
    o.object("message", |o| payload(o, publication));
}

/// The payload of a client that does not use JSON may be any bytes. If it is not JSON it is sent as a string.
fn payload(o: &mut Object<'_>, publication: &Publication) {
    if publication.json {
        o.json("data", &publication.data);
    } else {
        o.string_always("data", &json::string_of(&publication.data));
    }
}

fn error_fields(o: &mut Object<'_>, error: &ReplyError) {
    o.number("code", error.code);
    o.string("message", &error.message);
    o.flag("temporary", error.temporary);
}

fn expiry(o: &mut Object<'_>, ttl: Option<u32>) {
    if let Some(ttl) = ttl {
        o.flag("expires", true);
        o.number("ttl", ttl);
    }
}

fn connected(o: &mut Object<'_>, result: &Connected) {
    o.string("client", &result.client);
    o.string("version", VERSION);
    expiry(o, result.ttl);
    o.json("data", &result.data);
    if !result.subscriptions.is_empty() {
        let subscriptions = result.subscriptions.iter().map(|(channel, result)| (channel.as_str(), result));
        o.map("subs", subscriptions, subscribed);
    }
    o.number("ping", result.ping);
    o.flag("pong", result.pong);
    if let Some(emulation) = &result.emulation {
        o.string("session", &emulation.session);
        o.string("node", &emulation.node);
    }
}

fn subscribed(o: &mut Object<'_>, result: &Subscribed) {
    expiry(o, result.ttl);
    o.flag("recoverable", result.recoverable);
    o.string("epoch", &result.epoch);
    if !result.publications.is_empty() {
        o.list_always("publications", &result.publications, |o, publication| {
            publication_fields(o, publication)
        });
    }
    o.flag("recovered", result.recovered == Some(true));
    o.number("offset", result.offset);
    o.flag("positioned", result.positioned);
    o.json("data", &result.data);
    o.flag("was_recovering", result.recovered.is_some());
}

fn publication_fields(o: &mut Object<'_>, publication: &Publication) {
    payload(o, publication);
    if let Some(member) = &publication.info {
        o.object("info", |o| member_fields(o, member));
    }
    o.number("offset", publication.offset);
    if let Some(tags) = &publication.tags {
        o.object("tags", |o| tags.iter().for_each(|(name, value)| o.text(name, value)));
    }
}

fn member_fields(o: &mut Object<'_>, member: &Member) {
    o.string_always("user", &member.user);
    o.string_always("client", &member.client);
    o.json("conn_info", &member.info);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::protocol::channel::Channel;
    use crate::protocol::code::{Close, Unsubscribe};
    use crate::protocol::reply::Emulation;
    use crate::protocol::tags::Tags;

    fn reply(reply: &Reply) -> String {
        let mut out = Vec::new();
        encode_reply(reply, &mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    fn member() -> Arc<Member> {
        Arc::new(Member { client: "c1".into(), user: "42".into(), info: Bytes::from_static(b"{\"n\":1}") })
    }

    fn publication(offset: u64) -> Arc<Publication> {
        Arc::new(Publication {
            data: Bytes::from_static(b"{\"t\":1}"),
            json: true,
            offset,
            info: None,
            tags: None,
        })
    }

    fn channel() -> Channel {
        Channel::parse("news").expect("valid")
    }

    #[test]
    fn fields_with_a_zero_value_are_left_out_unless_the_protocol_always_has_them() {
        assert_eq!(reply(&Reply::Ping), "{}");
        assert_eq!(reply(&Reply::Done { id: 3, what: Done::Publish }), r#"{"id":3,"publish":{}}"#);
        assert_eq!(
            reply(&Reply::Subscribed { id: 2, result: Subscribed::default() }),
            r#"{"id":2,"subscribe":{}}"#
        );
        assert_eq!(
            reply(&Reply::PresenceStats { id: 2, clients: 0, users: 0 }),
            r#"{"id":2,"presence_stats":{"num_clients":0,"num_users":0}}"#
        );
        assert_eq!(
            reply(&Reply::History { id: 2, publications: vec![], offset: 0, epoch: "".into() }),
            r#"{"id":2,"history":{"publications":[],"epoch":"","offset":0}}"#
        );
        let nobody = Arc::new(Member { client: "c1".into(), user: "".into(), info: Bytes::new() });
        assert_eq!(
            reply(&Reply::Presence { id: 2, members: vec![nobody] }),
            r#"{"id":2,"presence":{"presence":{"c1":{"user":"","client":"c1"}}}}"#
        );
        assert_eq!(
            reply(&Reply::Presence { id: 2, members: vec![] }),
            r#"{"id":2,"presence":{"presence":{}}}"#
        );
    }

    #[test]
    fn every_reply_has_its_shape() {
        let error = ReplyError::TOO_MANY_REQUESTS;
        assert_eq!(
            reply(&Reply::Error { id: 9, error }),
            r#"{"id":9,"error":{"code":111,"message":"too many requests","temporary":true}}"#
        );
        let result = Subscribed {
            ttl: Some(30),
            recoverable: true,
            positioned: true,
            epoch: "e".into(),
            offset: 4,
            publications: vec![publication(5), publication(6)],
            recovered: Some(true),
            data: Bytes::new(),
        };
        assert_eq!(
            reply(&Reply::Subscribed { id: 1, result: result.clone() }),
            concat!(
                r#"{"id":1,"subscribe":{"expires":true,"ttl":30,"recoverable":true,"epoch":"e","publications":"#,
                r#"[{"data":{"t":1},"offset":5},{"data":{"t":1},"offset":6}],"#,
                r#""recovered":true,"offset":4,"positioned":true,"was_recovering":true}}"#
            )
        );
        let connected = Connected {
            client: "c1".into(),
            ttl: Some(60),
            data: Bytes::from_static(b"[1]"),
            subscriptions: vec![(channel(), Subscribed::default())],
            ping: 25,
            pong: true,
            emulation: None,
        };
        assert_eq!(
            reply(&Reply::Connected { id: 1, result: connected.clone() }),
            format!(
                r#"{{"id":1,"connect":{{"client":"c1","version":"{VERSION}","expires":true,"ttl":60,"data":[1],"subs":{{"news":{{}}}},"ping":25,"pong":true}}}}"#
            )
        );
        let emulation = Emulation { session: "s".into(), node: "n".into() };
        let streamed = Connected { ping: 0, emulation: Some(Arc::new(emulation)), ..connected };
        let streamed = reply(&Reply::Connected { id: 1, result: streamed });
        assert!(streamed.ends_with(r#""pong":true,"session":"s","node":"n"}}"#), "{streamed}");
        assert_eq!(
            reply(&Reply::Disconnected { close: Close::SHUTDOWN }),
            r#"{"push":{"disconnect":{"code":3001,"reason":"shutdown"}}}"#
        );
        assert_eq!(
            reply(&Reply::Presence { id: 2, members: vec![member()] }),
            r#"{"id":2,"presence":{"presence":{"c1":{"user":"42","client":"c1","conn_info":{"n":1}}}}}"#
        );
        assert_eq!(
            reply(&Reply::History {
                id: 2,
                publications: vec![publication(1)],
                offset: 1,
                epoch: "e".into()
            }),
            r#"{"id":2,"history":{"publications":[{"data":{"t":1},"offset":1}],"epoch":"e","offset":1}}"#
        );
        assert_eq!(
            reply(&Reply::Rpc { id: 2, data: Bytes::from_static(b"7") }),
            r#"{"id":2,"rpc":{"data":7}}"#
        );
        assert_eq!(
            reply(&Reply::SubRefreshed { id: 2, ttl: Some(60) }),
            r#"{"id":2,"sub_refresh":{"expires":true,"ttl":60}}"#
        );
        assert_eq!(reply(&Reply::SubRefreshed { id: 2, ttl: None }), r#"{"id":2,"sub_refresh":{}}"#);
        assert_eq!(
            reply(&Reply::Message { data: Bytes::from_static(b"7") }),
            r#"{"push":{"message":{"data":7}}}"#
        );
        assert_eq!(
            reply(&Reply::SubscribedByServer { channel: channel(), result }),
            r#"{"push":{"channel":"news","subscribe":{"recoverable":true,"epoch":"e","offset":4,"positioned":true}}}"#
        );
        assert_eq!(
            reply(&Reply::RefreshedByServer { ttl: Some(60) }),
            r#"{"push":{"refresh":{"expires":true,"ttl":60}}}"#
        );
        assert_eq!(reply(&Reply::RefreshedByServer { ttl: None }), r#"{"push":{"refresh":{}}}"#);
        assert_eq!(
            reply(&Reply::UnsubscribedByServer { channel: channel(), why: Unsubscribe::INSUFFICIENT_STATE }),
            r#"{"push":{"channel":"news","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#
        );
    }

    #[test]
    fn every_push_has_its_shape() {
        let push = |kind| {
            let mut out = Vec::new();
            encode_push(&Push::new(channel(), kind), &mut out);
            String::from_utf8(out).expect("JSON is UTF-8")
        };
        assert_eq!(
            push(PushKind::Publication { publication: publication(7), epoch: "e".into() }),
            r#"{"push":{"channel":"news","pub":{"data":{"t":1},"offset":7}}}"#
        );
        assert_eq!(
            push(PushKind::Join(member())),
            r#"{"push":{"channel":"news","join":{"info":{"user":"42","client":"c1","conn_info":{"n":1}}}}}"#
        );
        assert_eq!(
            push(PushKind::Leave(member())),
            r#"{"push":{"channel":"news","leave":{"info":{"user":"42","client":"c1","conn_info":{"n":1}}}}}"#
        );
    }

    #[test]
    fn tags_follow_the_offset_and_are_escaped() {
        let tags = Tags::of(vec![("b\"".into(), "".into()), ("a".into(), "h\u{e9}\n".into())]);
        let tagged = Publication { tags, ..Publication::clone(&publication(7)) };
        let mut out = Vec::new();
        let kind = PushKind::Publication { publication: Arc::new(tagged), epoch: "e".into() };
        encode_push(&Push::new(channel(), kind), &mut out);
        assert_eq!(
            String::from_utf8(out).expect("JSON is UTF-8"),
            r#"{"push":{"channel":"news","pub":{"data":{"t":1},"offset":7,"tags":{"a":"hé\n","b\"":""}}}}"#
        );
    }

    #[test]
    fn what_is_not_json_becomes_a_string() {
        let push = |data: &'static [u8]| {
            let publication = Publication {
                data: Bytes::from_static(data),
                json: false,
                offset: 0,
                info: None,
                tags: None,
            };
            let mut out = Vec::new();
            encode_message(&publication, &mut out);
            String::from_utf8(out).expect("JSON is UTF-8")
        };
        assert_eq!(push(b"a\"\nb"), r#"{"push":{"message":{"data":"a\"\nb"}}}"#);
        assert_eq!(push(b"\xff\x00"), r#"{"push":{"message":{"data":"/wA="}}}"#);
    }

    #[test]
    fn text_of_users_is_escaped() {
        let member = Member { client: "c".into(), user: "a\"\n".into(), info: Bytes::new() };
        assert_eq!(
            reply(&Reply::Presence { id: 1, members: vec![Arc::new(member)] }),
            r#"{"id":1,"presence":{"presence":{"c":{"user":"a\"\n","client":"c"}}}}"#
        );
    }
}
