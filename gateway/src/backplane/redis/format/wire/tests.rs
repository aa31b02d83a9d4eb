//! What one gateway writes, the others read: this version, the next one, and what was damaged.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use crate::backplane::input::InputOutcome;
use crate::backplane::redis::format::order::order_tag;
use crate::backplane::redis::format::wire::*;
use crate::backplane::{SubscribeOptions, Why};
use crate::protocol::code::Close;
use crate::survey::{Connection, Counts, Page, Part};

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

fn member() -> Member {
    let (info, channel_info) = ("{\"a\":1}".into(), "[2]".into());
    Member { client: "c1".into(), user: "ann".into(), info, channel_info }
}

fn tags() -> Option<Arc<Tags>> {
    Tags::of(vec![("kind".into(), "h\u{e9}".into()), ("none".into(), "".into())])
}

fn close_others() -> Order {
    Order::CloseOthers { close: Close::custom(4001, "bye"), kept: ["a".into(), "b".into()].into() }
}

fn with_data() -> Order {
    let options = SubscribeOptions { data: "{}".into(), ..SubscribeOptions::default() };
    Order::Subscribe(channel("news"), Some(Arc::new(options)))
}

/// One message of every kind.
fn messages() -> Vec<Vec<u8>> {
    let mut numbered = head(None);
    numbered.extend_from_slice(b"7,e;");
    numbered.extend_from_slice(&body(b"{}", true, Some(&member()), tags().as_deref()));
    let close = Order::Close(Close::custom(4001, "bye"), Why::Api);
    vec![
        numbered,
        unnumbered(Some(&channel("#42")), &body(b"\xff", false, None, None)),
        presence(&member(), true, None),
        presence(&member(), false, Some(&channel("#42"))),
        order(5, &channel("#42"), &close),
        order(5, &channel("@x"), &Order::Subscribe(channel("news"), None)),
        order(5, &channel("@x"), &Order::Unsubscribe(channel("news"))),
        order(5, &channel("@x"), &Order::Refresh(Some(7))),
        order(5, &channel("@x"), &Order::Refresh(None)),
        order(5, &channel("#42"), &close_others()),
        order(5, &channel("#42"), &with_data()),
    ]
    .into_iter()
    .chain(asked().iter().map(|asked| question(5, 6, asked)))
    .chain(found().iter().map(|found| answer(5, 6, 7, found)))
    .chain([input(&remote_input()), input_outcome(&remote_outcome())])
    .collect()
}

fn remote_input() -> RemoteInput {
    let (session, data) = ("secret".into(), Bytes::from_static(b"{}"));
    RemoteInput { from: 5, id: 6, to: 7, session, data }
}

fn remote_outcome() -> RemoteOutcome {
    RemoteOutcome { from: 5, id: 6, outcome: InputOutcome::Full }
}

/// Every question.
fn asked() -> [Question; 3] {
    let page = Page { after: "a".into(), limit: 7 };
    [
        Question::Counts,
        Question::Channels { pattern: "chat:*".into(), page: page.clone() },
        Question::Connections { user: "ann".into(), page },
    ]
}

/// An answer to each.
fn found() -> [Finding; 3] {
    let counts = Counts { clients: 1, users: 2, channels: 3, subscriptions: 4, workers: 5 };
    let channels = BTreeMap::from([("a".into(), 1), ("b".into(), 2)]);
    let (protocol, transport) = ("raw".into(), "websocket".into());
    let connection = Connection { node: Box::default(), protocol, since: 9, transport };
    [
        Finding::Counts(counts),
        Finding::Channels(Part { entries: channels, more: true }),
        Finding::Connections(Part { entries: [("c".into(), connection)].into(), more: false }),
    ]
}

#[test]
fn what_is_written_is_read_back() {
    let decoded: Vec<_> = messages().into_iter().map(|bytes| decode(&bytes.into()).unwrap()).collect();
    let Message::Publication { address, publication, epoch } = &decoded[0] else { panic!() };
    assert_eq!((address, publication.offset, &**epoch), (&None, 7, "e"));
    assert_eq!((&*publication.data, publication.json), (&b"{}"[..], true));
    assert_eq!(publication.info.as_deref(), Some(&member()));
    assert_eq!(publication.tags, tags());
    let Message::Publication { address, publication, .. } = &decoded[1] else { panic!() };
    assert_eq!((address.as_ref().unwrap().as_str(), publication.json), ("#42", false));
    let met = |came, address| Message::Presence { address, member: Arc::new(member()), came };
    assert_eq!((&decoded[2], &decoded[3]), (&met(true, None), &met(false, Some(channel("#42")))));
    let close = Order::Close(Close::custom(4001, "bye"), Why::Api);
    let expected = Message::Order { node: 5, address: channel("#42"), order: close };
    assert_eq!(decoded[4], expected);
    for (shard_index, expires_at) in [(7, Some(7)), (8, None)] {
        let expected = Message::Order { node: 5, address: channel("@x"), order: Order::Refresh(expires_at) };
        assert_eq!(decoded[shard_index], expected);
    }
    let expected = Message::Order { node: 5, address: channel("#42"), order: close_others() };
    assert_eq!(decoded[9], expected);
    let expected = Message::Order { node: 5, address: channel("#42"), order: with_data() };
    assert_eq!(decoded[10], expected);
    for (index, (question, finding)) in asked().into_iter().zip(found()).enumerate() {
        assert_eq!(decoded[11 + index], Message::Question { node: 5, id: 6, question });
        assert_eq!(decoded[14 + index], Message::Answer { to: 5, id: 6, from: 7, finding });
    }
    assert_eq!(decoded[17], Message::Input(remote_input()));
    assert_eq!(decoded[18], Message::InputOutcome(remote_outcome()));
}

#[test]
fn what_is_cut_off_or_changed_is_never_more_than_wrong_content() {
    for message in messages() {
        for end in 0..message.len() {
            // The payload has no length field: only bytes before it can be missing.
            let _ = decode(&Bytes::copy_from_slice(&message[..end]));
        }
        for at in 0..message.len() {
            for bit in 0..8 {
                let mut changed = message.clone();
                changed[at] ^= 1 << bit;
                let _ = decode(&changed.into());
            }
        }
    }
}

#[test]
fn other_versions_and_kinds_are_refused() {
    for bytes in [
        &b""[..],
        b"2",
        b"3P\x000,;\0",
        b"1P\x000,;\0",
        b"2Q",
        b"2O",
        b"2P",
        b"2P0,;\0",
        b"2P\x000",
        b"2P\x000,",
        b"2P\x000;\0",
        b"2P\0-1,;\0",
        b"2P\x000,;",
        b"2P\x000,;\x01",
    ] {
        assert_eq!(decode(&Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
    }
    let mut longer = presence(&member(), true, None);
    longer.push(END);
    assert_eq!(decode(&longer.into()), None, "nothing but fields may follow");
    assert_eq!(decode(&Bytes::from_static(b"2J\xff\xff\xff\xff\x7f")), None, "more than there is");
}

/// Adds an unknown field at every place where the next version may add one.
fn of_the_next_version() -> Vec<Vec<u8>> {
    let unknown = |bytes: &mut Vec<u8>| put(bytes, 200, b"\x02of tomorrow");
    let member = |bytes: &mut Vec<u8>| {
        unknown(bytes);
        put_member(bytes, &member());
    };
    let mut publication = vec![VERSION, b'P'];
    unknown(&mut publication);
    put(&mut publication, head_tag::ADDRESS, b"#42");
    publication.extend_from_slice(b"\x007,e,of tomorrow;");
    unknown(&mut publication);
    put_nested(&mut publication, body_tag::MEMBER, member);
    put_nested(&mut publication, body_tag::TAGS, |bytes| {
        put(bytes, tags_tag::NAME, b"kind");
        unknown(bytes);
        put(bytes, tags_tag::VALUE, b"a");
    });
    put(&mut publication, body_tag::JSON, b"");
    publication.extend_from_slice(b"\0{}");
    let mut join = vec![VERSION, b'J'];
    unknown(&mut join);
    put_nested(&mut join, presence_tag::MEMBER, member);
    let mut controls = vec![
        order(5, &channel("@x"), &Order::Subscribe(channel("news"), None)),
        question(5, 6, &Question::Counts),
        answer(5, 6, 7, &found()[0]),
        look(5),
        input(&remote_input()),
        input_outcome(&remote_outcome()),
    ];
    controls.iter_mut().for_each(unknown);
    [publication, join].into_iter().chain(controls).collect()
}

#[test]
fn what_the_next_version_adds_is_skipped_and_nothing_else_is() {
    let decoded: Vec<_> =
        of_the_next_version().into_iter().map(|bytes| decode(&bytes.into()).unwrap()).collect();
    let Message::Publication { address, publication, epoch } = &decoded[0] else { panic!() };
    assert_eq!((address, publication.offset, &**epoch), (&Some(channel("#42")), 7, "e"));
    assert_eq!((&*publication.data, publication.json), (&b"{}"[..], true));
    assert_eq!(publication.info.as_deref(), Some(&member()));
    assert_eq!(publication.tags, Tags::of(vec![("kind".into(), "a".into())]));
    let joined = Message::Presence { address: None, member: Arc::new(member()), came: true };
    assert_eq!(decoded[1], joined);
    let order = Order::Subscribe(channel("news"), None);
    assert_eq!(decoded[2], Message::Order { node: 5, address: channel("@x"), order });
    assert_eq!(decoded[3], Message::Question { node: 5, id: 6, question: Question::Counts });
    let [finding, ..] = found();
    assert_eq!(decoded[4], Message::Answer { to: 5, id: 6, from: 7, finding });
    assert_eq!(decoded[5], Message::Look { node: 5 });
    assert_eq!(decoded[6], Message::Input(remote_input()));
    assert_eq!(decoded[7], Message::InputOutcome(remote_outcome()));
}

/// A version that knows no tags reads only the fields that it knows, and finds the payload behind them.
#[test]
fn tags_are_one_field_that_a_version_before_them_skips() {
    let body = body(b"{}", true, Some(&member()), tags().as_deref());
    let (mut fields, mut seen) = (Fields::until_mark(&body), Vec::new());
    while let Some((tag, _)) = fields.next().unwrap() {
        seen.push(tag);
    }
    assert_eq!(seen, [body_tag::JSON, body_tag::MEMBER, body_tag::TAGS]);
    assert_eq!(fields.rest(), b"{}");
    let untagged = self::body(b"{}", true, Some(&member()), None);
    assert_eq!(super::publication(1, &untagged.into()).unwrap().tags, None);
}

#[test]
fn kinds_of_the_next_version_are_unknown_and_not_malformed() {
    let mut order = vec![VERSION, b'O'];
    put(&mut order, order_tag::ORDER, &[99]);
    let mut question = vec![VERSION, b'Q'];
    put_nested(&mut question, survey_tag::CONTENT, |bytes| put(bytes, 1, &[99]));
    let mut outcome = input_outcome(&remote_outcome());
    *outcome.last_mut().unwrap() = 99;
    for bytes in [vec![VERSION, b'Z', 1, 2, 3], order, question, outcome] {
        assert_eq!(decode(&bytes.clone().into()), Some(Message::Unknown), "{bytes:?}");
    }
}
