//! Each reply and each push in JSON.

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
    let (info, channel_info) = (Bytes::from_static(b"{\"n\":1}"), Bytes::new());
    Arc::new(Member { client: "c1".into(), user: "42".into(), info, channel_info })
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
    let (info, channel_info) = (Bytes::new(), Bytes::new());
    let nobody = Arc::new(Member { client: "c1".into(), user: "".into(), info, channel_info });
    assert_eq!(
        reply(&Reply::Presence { id: 2, members: vec![nobody] }),
        r#"{"id":2,"presence":{"presence":{"c1":{"user":"","client":"c1"}}}}"#
    );
    assert_eq!(reply(&Reply::Presence { id: 2, members: vec![] }), r#"{"id":2,"presence":{"presence":{}}}"#);
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
        delta: false,
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
    let here = Member { channel_info: Bytes::from_static(b"[7]"), ..Member::clone(&member()) };
    assert_eq!(
        reply(&Reply::Presence { id: 2, members: vec![Arc::new(here)] }),
        r#"{"id":2,"presence":{"presence":{"c1":{"user":"42","client":"c1","conn_info":{"n":1},"chan_info":[7]}}}}"#
    );
    assert_eq!(
        reply(&Reply::History { id: 2, publications: vec![publication(1)], offset: 1, epoch: "e".into() }),
        r#"{"id":2,"history":{"publications":[{"data":{"t":1},"offset":1}],"epoch":"e","offset":1}}"#
    );
    assert_eq!(reply(&Reply::Rpc { id: 2, data: Bytes::from_static(b"7") }), r#"{"id":2,"rpc":{"data":7}}"#);
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
        encode_push(&Push::new(channel(), kind), Data::Value, &mut out);
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
fn subscribers_of_a_pattern_learn_the_channel_and_no_offset() {
    let kind = PushKind::Publication { publication: publication(7), epoch: "e".into() };
    let pattern = Channel::parse_subscription("news:*").expect("a pattern");
    let channel = Channel::parse("news:eu").expect("valid");
    let push = Push::new(channel.clone(), kind).for_pattern(pattern.clone()).expect("a publication");
    let mut out = Vec::new();
    encode_push(&push, Data::Value, &mut out);
    assert_eq!(
        String::from_utf8(out).expect("JSON is UTF-8"),
        r#"{"push":{"channel":"news:*","pub":{"data":{"t":1},"channel":"news:eu"}}}"#
    );
    assert!(Push::new(channel, PushKind::Join(member())).for_pattern(pattern).is_none());
}

#[test]
fn tags_follow_the_offset_and_are_escaped() {
    let tags = Tags::of(vec![("b\"".into(), "".into()), ("a".into(), "h\u{e9}\n".into())]);
    let tagged = Publication { tags, ..Publication::clone(&publication(7)) };
    let mut out = Vec::new();
    let kind = PushKind::Publication { publication: Arc::new(tagged), epoch: "e".into() };
    encode_push(&Push::new(channel(), kind), Data::Value, &mut out);
    assert_eq!(
        String::from_utf8(out).expect("JSON is UTF-8"),
        r#"{"push":{"channel":"news","pub":{"data":{"t":1},"offset":7,"tags":{"a":"hé\n","b\"":""}}}}"#
    );
}

#[test]
fn what_is_not_json_becomes_a_string() {
    let push = |data: &'static [u8]| {
        let publication =
            Publication { data: Bytes::from_static(data), json: false, offset: 0, info: None, tags: None };
        let mut out = Vec::new();
        encode_message(&publication, &mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    };
    assert_eq!(push(b"a\"\nb"), r#"{"push":{"message":{"data":"a\"\nb"}}}"#);
    assert_eq!(push(b"\xff\x00"), r#"{"push":{"message":{"data":"/wA="}}}"#);
}

#[test]
fn text_of_users_is_escaped() {
    let (info, channel_info) = (Bytes::new(), Bytes::new());
    let member = Member { client: "c".into(), user: "a\"\n".into(), info, channel_info };
    assert_eq!(
        reply(&Reply::Presence { id: 1, members: vec![Arc::new(member)] }),
        r#"{"id":1,"presence":{"presence":{"c":{"user":"a\"\n","client":"c"}}}}"#
    );
}

#[test]
fn a_client_that_applies_deltas_gets_every_payload_as_a_string() {
    let push = |data: &'static [u8], json, form: Data<'_>| {
        let publication = Publication { data: data.into(), json, offset: 7, info: None, tags: None };
        let kind = PushKind::Publication { publication: Arc::new(publication), epoch: "e".into() };
        let mut out = Vec::new();
        encode_push_event(&Push::new(channel(), kind), form, &mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    };
    for (data, json, form, expected) in [
        (&b"{\"t\":1}"[..], true, Data::Text, r#"{"data":"{\"t\":1}","offset":7}"#),
        (b"a\"\n", false, Data::Text, r#"{"data":"\"a\\\"\\n\"","offset":7}"#),
        (b"\xff\x00", false, Data::Text, r#"{"data":"\"/wA=\"","offset":7}"#),
        (
            b"{\"t\":1}",
            true,
            Data::Delta(b"v\nq@0,5:after;"),
            r#"{"data":"v\nq@0,5:after;","offset":7,"delta":true}"#,
        ),
    ] {
        assert_eq!(push(data, json, form), format!(r#"{{"channel":"news","pub":{expected}}}"#));
    }
    let publications = vec![publication(5)];
    let result = Subscribed { publications, offset: 4, delta: true, ..Subscribed::default() };
    assert_eq!(
        reply(&Reply::Subscribed { id: 1, result }),
        r#"{"id":1,"subscribe":{"publications":[{"data":"{\"t\":1}","offset":5}],"offset":4,"delta":true}}"#
    );
}
