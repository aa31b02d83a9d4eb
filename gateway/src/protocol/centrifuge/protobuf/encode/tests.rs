//! The bytes are read by the library, with structs for what the schema says of replies.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::protocol::channel::Channel;
use crate::protocol::code::Unsubscribe;
use crate::protocol::reply::Emulation;
use crate::protocol::tags::Tags;

#[derive(Clone, PartialEq, prost::Message)]
struct WireReply {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "2")]
    error: Option<WireError>,
    #[prost(message, optional, tag = "4")]
    push: Option<WirePush>,
    #[prost(message, optional, tag = "5")]
    connect: Option<WireConnected>,
    #[prost(message, optional, tag = "6")]
    subscribe: Option<WireSubscribed>,
    #[prost(message, optional, tag = "7")]
    unsubscribe: Option<WireNothing>,
    #[prost(message, optional, tag = "8")]
    publish: Option<WireNothing>,
    #[prost(message, optional, tag = "9")]
    presence: Option<WirePresence>,
    #[prost(message, optional, tag = "10")]
    presence_stats: Option<WireStats>,
    #[prost(message, optional, tag = "11")]
    history: Option<WireHistory>,
    #[prost(message, optional, tag = "13")]
    rpc: Option<WireData>,
    #[prost(message, optional, tag = "14")]
    refresh: Option<WireRefreshed>,
    #[prost(message, optional, tag = "15")]
    sub_refresh: Option<WireRefresh>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireNothing {}

#[derive(Clone, PartialEq, prost::Message)]
struct WireData {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireError {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(bool, tag = "3")]
    temporary: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePush {
    #[prost(string, tag = "2")]
    channel: String,
    #[prost(message, optional, tag = "4")]
    publication: Option<WirePublication>,
    #[prost(message, optional, tag = "5")]
    join: Option<WireJoin>,
    #[prost(message, optional, tag = "6")]
    leave: Option<WireJoin>,
    #[prost(message, optional, tag = "7")]
    unsubscribe: Option<WireUnsubscribe>,
    #[prost(message, optional, tag = "8")]
    message: Option<WireData>,
    #[prost(message, optional, tag = "9")]
    subscribe: Option<WireSubscribe>,
    #[prost(message, optional, tag = "12")]
    refresh: Option<WireRefresh>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePublication {
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    info: Option<WireMember>,
    #[prost(uint64, tag = "6")]
    offset: u64,
    #[prost(btree_map = "string, string", tag = "7")]
    tags: BTreeMap<String, String>,
    #[prost(bool, tag = "8")]
    delta: bool,
    #[prost(string, tag = "10")]
    channel: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireMember {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    client: String,
    #[prost(bytes = "vec", tag = "3")]
    conn_info: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    chan_info: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireJoin {
    #[prost(message, optional, tag = "1")]
    info: Option<WireMember>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireUnsubscribe {
    #[prost(uint32, tag = "2")]
    code: u32,
    #[prost(string, tag = "3")]
    reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSubscribe {
    #[prost(bool, tag = "1")]
    recoverable: bool,
    #[prost(string, tag = "4")]
    epoch: String,
    #[prost(uint64, tag = "5")]
    offset: u64,
    #[prost(bool, tag = "6")]
    positioned: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRefresh {
    #[prost(bool, tag = "1")]
    expires: bool,
    #[prost(uint32, tag = "2")]
    ttl: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRefreshed {
    #[prost(string, tag = "1")]
    client: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(bool, tag = "3")]
    expires: bool,
    #[prost(uint32, tag = "4")]
    ttl: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireConnected {
    #[prost(string, tag = "1")]
    client: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(bool, tag = "3")]
    expires: bool,
    #[prost(uint32, tag = "4")]
    ttl: u32,
    #[prost(bytes = "vec", tag = "5")]
    data: Vec<u8>,
    #[prost(btree_map = "string, message", tag = "6")]
    subs: BTreeMap<String, WireSubscribed>,
    #[prost(uint32, tag = "7")]
    ping: u32,
    #[prost(bool, tag = "8")]
    pong: bool,
    #[prost(string, tag = "9")]
    session: String,
    #[prost(string, tag = "10")]
    node: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSubscribed {
    #[prost(bool, tag = "1")]
    expires: bool,
    #[prost(uint32, tag = "2")]
    ttl: u32,
    #[prost(bool, tag = "3")]
    recoverable: bool,
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(message, repeated, tag = "7")]
    publications: Vec<WirePublication>,
    #[prost(bool, tag = "8")]
    recovered: bool,
    #[prost(uint64, tag = "9")]
    offset: u64,
    #[prost(bool, tag = "10")]
    positioned: bool,
    #[prost(bool, tag = "12")]
    was_recovering: bool,
    #[prost(bool, tag = "13")]
    delta: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePresence {
    #[prost(btree_map = "string, message", tag = "1")]
    presence: BTreeMap<String, WireMember>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireStats {
    #[prost(uint32, tag = "1")]
    num_clients: u32,
    #[prost(uint32, tag = "2")]
    num_users: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireHistory {
    #[prost(message, repeated, tag = "1")]
    publications: Vec<WirePublication>,
    #[prost(string, tag = "2")]
    epoch: String,
    #[prost(uint64, tag = "3")]
    offset: u64,
}

fn read(record: &[u8]) -> WireReply {
    let reply = WireReply::decode_length_delimited(record).expect("a reply");
    // No field was passed over.
    assert_eq!(reply.encode_length_delimited_to_vec().len(), record.len(), "{reply:?}");
    reply
}

fn reply(reply: &Reply) -> WireReply {
    let mut out = Vec::new();
    encode_reply(reply, &mut out);
    read(&out)
}

fn pushed(reply: &Reply) -> WirePush {
    self::reply(reply).push.expect("a push")
}

fn member() -> Arc<Member> {
    let (info, channel_info) = (Bytes::from_static(b"{\"n\":1}"), Bytes::from_static(b"[7]"));
    Arc::new(Member { client: "c1".into(), user: "42".into(), info, channel_info })
}

fn wire_member() -> WireMember {
    let (conn_info, chan_info) = (b"{\"n\":1}".to_vec(), b"[7]".to_vec());
    WireMember { user: "42".into(), client: "c1".into(), conn_info, chan_info }
}

fn publication(offset: u64) -> Arc<Publication> {
    let data = Bytes::from_static(b"\xff\x00\n");
    let tags = Tags::of(vec![("b".into(), "".into()), ("a".into(), "h\u{e9}".into())]);
    Arc::new(Publication { data, json: false, offset, info: Some(member()), tags })
}

fn wire_publication(offset: u64) -> WirePublication {
    let tags = BTreeMap::from([("a".into(), "h\u{e9}".into()), ("b".into(), String::new())]);
    WirePublication {
        data: b"\xff\x00\n".to_vec(),
        info: Some(wire_member()),
        offset,
        tags,
        delta: false,
        channel: String::new(),
    }
}

fn channel() -> Channel {
    Channel::parse("news").expect("valid")
}

fn subscribed() -> Subscribed {
    Subscribed {
        ttl: Some(30),
        recoverable: true,
        positioned: true,
        epoch: "e".into(),
        offset: u64::MAX,
        publications: vec![publication(5), publication(6)],
        recovered: Some(true),
        data: Bytes::new(),
        delta: true,
    }
}

fn wire_subscribed() -> WireSubscribed {
    WireSubscribed {
        expires: true,
        ttl: 30,
        recoverable: true,
        epoch: "e".into(),
        publications: vec![wire_publication(5), wire_publication(6)],
        recovered: true,
        offset: u64::MAX,
        positioned: true,
        was_recovering: true,
        delta: true,
    }
}

#[test]
fn a_ping_is_a_record_of_nothing() {
    let mut out = Vec::new();
    encode_reply(&Reply::Ping, &mut out);
    assert_eq!(out, [0]);
}

#[test]
fn results_of_nothing_are_there_all_the_same() {
    let done = |what| reply(&Reply::Done { id: 3, what });
    let expected = WireReply { id: 3, ..WireReply::default() };
    assert_eq!(done(Done::Publish), WireReply { publish: Some(WireNothing {}), ..expected.clone() });
    assert_eq!(done(Done::Unsubscribe), WireReply { unsubscribe: Some(WireNothing {}), ..expected });
    let stats = reply(&Reply::PresenceStats { id: 1, clients: 0, users: 0 });
    assert_eq!(stats.presence_stats, Some(WireStats::default()));
    let subscribed = reply(&Reply::Subscribed { id: 1, result: Subscribed::default() });
    assert_eq!(subscribed.subscribe, Some(WireSubscribed::default()));
}

#[test]
fn every_reply_has_its_shape() {
    let error = reply(&Reply::Error { id: 9, error: ReplyError::TOO_MANY_REQUESTS });
    let expected = WireError { code: 111, message: "too many requests".into(), temporary: true };
    assert_eq!((error.id, error.error), (9, Some(expected)));

    let connected = Connected {
        client: "c1".into(),
        ttl: Some(60),
        data: Bytes::from_static(b"[1]"),
        subscriptions: vec![(channel(), subscribed())],
        ping: 25,
        pong: true,
        emulation: Some(Arc::new(Emulation { session: "s".into(), node: "n".into() })),
    };
    let expected = WireConnected {
        client: "c1".into(),
        version: VERSION.into(),
        expires: true,
        ttl: 60,
        data: b"[1]".to_vec(),
        subs: [("news".to_owned(), wire_subscribed())].into(),
        ping: 25,
        pong: true,
        session: "s".into(),
        node: "n".into(),
    };
    assert_eq!(reply(&Reply::Connected { id: 1, result: connected }).connect, Some(expected));
    let result = reply(&Reply::Subscribed { id: 1, result: subscribed() });
    assert_eq!(result.subscribe, Some(wire_subscribed()));

    let presence = reply(&Reply::Presence { id: 2, members: vec![member()] }).presence.expect("a presence");
    assert_eq!(presence.presence, [("c1".to_owned(), wire_member())].into());
    let stats = reply(&Reply::PresenceStats { id: 2, clients: 300, users: 2 }).presence_stats;
    assert_eq!(stats, Some(WireStats { num_clients: 300, num_users: 2 }));
    let publications = vec![publication(1), publication(2)];
    let history = Reply::History { id: 2, publications, offset: 2, epoch: "e".into() };
    let publications = vec![wire_publication(1), wire_publication(2)];
    let expected = WireHistory { publications, epoch: "e".into(), offset: 2 };
    assert_eq!(reply(&history).history, Some(expected));
    let rpc = reply(&Reply::Rpc { id: 2, data: Bytes::from_static(b"\xff") });
    assert_eq!(rpc.rpc, Some(WireData { data: vec![0xff] }));
    let refreshed = reply(&Reply::Refreshed { id: 2, client: "c1".into(), ttl: Some(60) }).refresh;
    let expected = WireRefreshed { client: "c1".into(), version: VERSION.into(), expires: true, ttl: 60 };
    assert_eq!(refreshed, Some(expected));
    let sub_refreshed = |ttl| reply(&Reply::SubRefreshed { id: 2, ttl }).sub_refresh;
    assert_eq!(sub_refreshed(Some(60)), Some(WireRefresh { expires: true, ttl: 60 }));
    assert_eq!(sub_refreshed(None), Some(WireRefresh::default()), "it does not expire any more");
}

#[test]
fn every_push_has_its_shape() {
    let event = |kind| {
        let mut out = Vec::new();
        encode_push(&Push::new(channel(), kind), None, &mut out);
        read(&out).push.expect("a push")
    };
    let expected = WirePush { channel: "news".into(), ..WirePush::default() };
    let publication_push = event(PushKind::Publication { publication: publication(7), epoch: "e".into() });
    let with = WirePush { publication: Some(wire_publication(7)), ..expected.clone() };
    assert_eq!(publication_push, with);
    let pattern = Channel::parse_subscription("news:*").expect("a pattern");
    let kind = PushKind::Publication { publication: publication(7), epoch: "e".into() };
    let mut out = Vec::new();
    encode_push(&Push::new(channel(), kind).for_pattern(pattern).expect("a publication"), None, &mut out);
    let matched = WirePublication { channel: "news".into(), ..wire_publication(0) };
    let with = WirePush { channel: "news:*".into(), publication: Some(matched), ..WirePush::default() };
    assert_eq!(read(&out).push.expect("a push"), with);
    let info = || Some(WireJoin { info: Some(wire_member()) });
    assert_eq!(event(PushKind::Join(member())), WirePush { join: info(), ..expected.clone() });
    assert_eq!(event(PushKind::Leave(member())), WirePush { leave: info(), ..expected.clone() });

    let unsubscribe =
        Reply::UnsubscribedByServer { channel: channel(), why: Unsubscribe::INSUFFICIENT_STATE };
    let why = WireUnsubscribe { code: 2500, reason: "insufficient state".into() };
    assert_eq!(pushed(&unsubscribe), WirePush { unsubscribe: Some(why), ..expected.clone() });
    let subscribe = Reply::SubscribedByServer { channel: channel(), result: subscribed() };
    let result = WireSubscribe { recoverable: true, epoch: "e".into(), offset: u64::MAX, positioned: true };
    assert_eq!(pushed(&subscribe), WirePush { subscribe: Some(result), ..expected });
    let refresh = pushed(&Reply::RefreshedByServer { ttl: Some(60) }).refresh;
    assert_eq!(refresh, Some(WireRefresh { expires: true, ttl: 60 }));
    let never = pushed(&Reply::RefreshedByServer { ttl: None }).refresh;
    assert_eq!(never, Some(WireRefresh::default()));
    let message = pushed(&Reply::Message { data: Bytes::from_static(b"\xff") });
    assert_eq!(message.message, Some(WireData { data: vec![0xff] }));
    let mut out = Vec::new();
    encode_message(&publication(7), &mut out);
    let data = b"\xff\x00\n".to_vec();
    assert_eq!(read(&out).push.expect("a push").message, Some(WireData { data }));
}

#[test]
fn a_delta_takes_the_place_of_the_payload() {
    let mut out = Vec::new();
    let kind = PushKind::Publication { publication: publication(7), epoch: "e".into() };
    encode_push(&Push::new(channel(), kind), Some(b"\xfe;"), &mut out);
    let expected = WirePublication { data: b"\xfe;".to_vec(), delta: true, ..wire_publication(7) };
    assert_eq!(read(&out).push.expect("a push").publication, Some(expected));
}
