//! The wire format of the messages between nodes.
//!
//! A message is the version, a kind, and [fields](fields). A reader skips unknown fields and unknown kinds,
//! so the next version may add both. The version changes only when skipping would be wrong;
//! `gateway/REDIS.md`, "Rolling upgrades", has the rules.
//!
//! The script that numbers a publication inserts its position between the head and the body, so the position
//! is text: `offset,epoch;`. More parts may follow the epoch, each after a comma.

pub(crate) mod fields;

use std::sync::Arc;

use bytes::Bytes;

use crate::backplane::Order;
use crate::backplane::redis::format::input::{self, RemoteInput, RemoteOutcome};
use crate::backplane::redis::format::wire::fields::{END, Fields, channel, put, put_nested, put_number};
use crate::backplane::redis::format::{order, survey};
use crate::protocol::channel::Channel;
use crate::protocol::push::{Member, Publication};
use crate::protocol::tags::{Tags, tags_bytes};
use crate::survey::{Finding, Question};

/// Version of every message and record. Gateways with different versions do not serve together.
pub(crate) const VERSION: u8 = b'2';

/// Maximum length of the position of a publication.
const NUMBER_BYTES_MAX: usize = 256;

/// Maximum bytes of a message in addition to payload and tags: names and publisher.
pub(crate) const OVERHEAD_BYTES_MAX: usize = 64 * 1024;

/// Tags of the fields before the number of a publication.
mod head_tag {
    pub(crate) const ADDRESS: u8 = 1;
}

/// Tags of the fields between the position and the payload of a publication.
mod body_tag {
    /// Empty value: the payload is JSON on one line.
    pub(crate) const JSON: u8 = 1;
    pub(crate) const MEMBER: u8 = 2;
    /// The tags of the publication.
    pub(crate) const TAGS: u8 = 3;
}

/// Tags of the tags of a publication: each name is followed by its value.
mod tags_tag {
    pub(crate) const NAME: u8 = 1;
    pub(crate) const VALUE: u8 = 2;
}

/// Tags of a member.
mod member_tag {
    pub(crate) const CLIENT: u8 = 1;
    pub(crate) const USER: u8 = 2;
    pub(crate) const INFO: u8 = 3;
    /// Only where a member has some.
    pub(crate) const CHANNEL_INFO: u8 = 4;
}

/// Tags of a join and of a leave.
mod presence_tag {
    pub(crate) const MEMBER: u8 = 1;
    /// Only of a user or a connection: their messages come by the topic of all nodes.
    pub(crate) const ADDRESS: u8 = 2;
}

/// Tags of a question and of an answer.
mod survey_tag {
    /// The asking node.
    pub(crate) const ASKING: u8 = 1;
    pub(crate) const ID: u8 = 2;
    pub(crate) const ANSWERING: u8 = 3;
    pub(crate) const CONTENT: u8 = 4;
}

/// A decoded message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A publication to the subscribers of the topic's channel, or of this address.
    Publication { address: Option<Channel>, publication: Arc<Publication>, epoch: Arc<str> },
    /// A join (`came`) or a leave; without an address in the topic's channel.
    Presence { address: Option<Channel>, member: Arc<Member>, came: bool },
    /// An order for the connections of an address.
    Order { node: u64, address: Channel, order: Order },
    /// A question of a node to all others.
    Question { node: u64, id: u64, question: Question },
    /// An answer of a node to another one.
    Answer { to: u64, id: u64, from: u64, finding: Finding },
    /// A message of a client for a connection of another node.
    Input(RemoteInput),
    /// What became of it.
    InputOutcome(RemoteOutcome),
    /// A node has changed something that gateways agree on: read it at once.
    Look { node: u64 },
    /// A message of a kind unknown to this version.
    Unknown,
}

/// The part of a publication before its position.
pub(crate) fn head(address: Option<&Channel>) -> Vec<u8> {
    let mut bytes = vec![VERSION, b'P'];
    if let Some(address) = address {
        put(&mut bytes, head_tag::ADDRESS, address.as_str().as_bytes());
    }
    bytes.push(END);
    bytes
}

/// The part of a publication after its position; this is also what is kept.
pub(crate) fn body(data: &[u8], json: bool, info: Option<&Member>, tags: Option<&Tags>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len() + tags_bytes(tags) + 96);
    if json {
        put(&mut bytes, body_tag::JSON, b"");
    }
    if let Some(member) = info {
        put_nested(&mut bytes, body_tag::MEMBER, |bytes| put_member(bytes, member));
    }
    if let Some(tags) = tags {
        put_nested(&mut bytes, body_tag::TAGS, |bytes| {
            for (name, value) in tags.iter() {
                put(bytes, tags_tag::NAME, name.as_bytes());
                put(bytes, tags_tag::VALUE, value.as_bytes());
            }
        });
    }
    bytes.push(END);
    bytes.extend_from_slice(data);
    bytes
}

/// A publication of a channel without history.
pub(crate) fn unnumbered(address: Option<&Channel>, body: &[u8]) -> Vec<u8> {
    let mut bytes = head(address);
    bytes.extend_from_slice(b"0,;");
    bytes.extend_from_slice(body);
    bytes
}

/// The publication of a channel without history, for the subscribers of patterns.
pub(crate) fn for_patterns(channel: &Channel, message: &[u8]) -> Vec<u8> {
    let mut bytes = head(Some(channel));
    bytes.extend_from_slice(split(message).1);
    bytes
}

/// Splits a publication to a channel behind its head.
pub(crate) fn split(message: &[u8]) -> (&[u8], &[u8]) {
    const HEAD: [u8; 3] = [VERSION, b'P', END];
    message.split_at_checked(HEAD.len()).unwrap_or((message, &[]))
}

/// Encodes a join (`came`) or a leave, with the address of the user or connection if it is in none of the
/// channels.
pub(crate) fn presence(member: &Member, came: bool, address: Option<&Channel>) -> Vec<u8> {
    let mut bytes = vec![VERSION, if came { b'J' } else { b'L' }];
    put_nested(&mut bytes, presence_tag::MEMBER, |bytes| put_member(bytes, member));
    if let Some(address) = address {
        put(&mut bytes, presence_tag::ADDRESS, address.as_str().as_bytes());
    }
    bytes
}

/// Encodes a member.
pub(crate) fn member_bytes(member: &Member) -> Vec<u8> {
    let info = member.info.len() + member.channel_info.len();
    let mut bytes = Vec::with_capacity(member.client.len() + member.user.len() + info + 16);
    put_member(&mut bytes, member);
    bytes
}

/// Decodes the result of [`member_bytes`]. `None` for invalid bytes.
pub(crate) fn read_member(bytes: &Bytes) -> Option<Arc<Member>> {
    member(bytes, bytes)
}

/// Encodes an order. `node` is the node that gives it.
pub(crate) fn order(node: u64, address: &Channel, order: &Order) -> Vec<u8> {
    let mut bytes = vec![VERSION, b'O'];
    order::put_order(&mut bytes, node, address, order);
    bytes
}

/// Encodes a question of `node`, which knows it by `id`.
pub(crate) fn question(node: u64, id: u64, question: &Question) -> Vec<u8> {
    let mut bytes = vec![VERSION, b'Q'];
    put_number(&mut bytes, survey_tag::ASKING, node);
    put_number(&mut bytes, survey_tag::ID, id);
    put_nested(&mut bytes, survey_tag::CONTENT, |bytes| survey::put_question(bytes, question));
    bytes
}

/// Encodes an answer of the node `from` to a question of the node `to`.
pub(crate) fn answer(to: u64, id: u64, from: u64, finding: &Finding) -> Vec<u8> {
    let mut bytes = vec![VERSION, b'A'];
    put_number(&mut bytes, survey_tag::ASKING, to);
    put_number(&mut bytes, survey_tag::ID, id);
    put_number(&mut bytes, survey_tag::ANSWERING, from);
    put_nested(&mut bytes, survey_tag::CONTENT, |bytes| survey::put_finding(bytes, finding));
    bytes
}

/// Encodes a message of a client for a connection of another node.
pub(crate) fn input(input: &RemoteInput) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(input.data.len() + 128);
    bytes.extend_from_slice(&[VERSION, b'I']);
    input::put_input(&mut bytes, input);
    bytes
}

/// Encodes what became of it.
pub(crate) fn input_outcome(result: &RemoteOutcome) -> Vec<u8> {
    let mut bytes = vec![VERSION, b'T'];
    input::put_outcome(&mut bytes, result);
    bytes
}

/// Tells the other nodes that `node` has changed something that all must read.
pub(crate) fn look(node: u64) -> Vec<u8> {
    let mut bytes = vec![VERSION, b'R'];
    put_number(&mut bytes, survey_tag::ASKING, node);
    bytes
}

fn put_member(bytes: &mut Vec<u8>, member: &Member) {
    put(bytes, member_tag::CLIENT, member.client.as_bytes());
    put(bytes, member_tag::USER, member.user.as_bytes());
    put(bytes, member_tag::INFO, &member.info);
    if !member.channel_info.is_empty() {
        put(bytes, member_tag::CHANNEL_INFO, &member.channel_info);
    }
}

/// Decodes a message. `None` if it is invalid.
pub(crate) fn decode(message: &Bytes) -> Option<Message> {
    let (&[version, kind], rest) = message.split_first_chunk()?;
    if version != VERSION {
        return None;
    }
    match kind {
        b'P' => {
            let (mut fields, mut address) = (Fields::until_mark(rest), None);
            while let Some((tag, value)) = fields.next()? {
                if tag == head_tag::ADDRESS {
                    address = Some(channel(value)?);
                }
            }
            let (offset, epoch, body) = numbered(fields.rest())?;
            let publication = publication(offset, &message.slice_ref(body))?;
            Some(Message::Publication { address, publication, epoch })
        }
        b'J' | b'L' => {
            let (mut fields, mut concerned, mut address) = (Fields::filling(rest), None, None);
            while let Some((tag, value)) = fields.next()? {
                match tag {
                    presence_tag::MEMBER => concerned = Some(member(message, value)?),
                    presence_tag::ADDRESS => address = Some(channel(value)?),
                    _ => (),
                }
            }
            Some(Message::Presence { address, member: concerned?, came: kind == b'J' })
        }
        b'O' => Some(
            order::read_order(message, rest)?
                .map_or(Message::Unknown, |(node, address, order)| Message::Order { node, address, order }),
        ),
        b'Q' | b'A' | b'R' => read_survey(kind, rest),
        b'I' => input::read_input(message, rest).map(Message::Input),
        b'T' => Some(input::read_outcome(rest)?.map_or(Message::Unknown, Message::InputOutcome)),
        _ => Some(Message::Unknown),
    }
}

/// Splits off the offset and the epoch of a publication; returns the rest as well.
fn numbered(bytes: &[u8]) -> Option<(u64, Arc<str>, &[u8])> {
    let end = bytes.iter().take(NUMBER_BYTES_MAX).position(|byte| *byte == b';')?;
    let mut parts = fields::text(&bytes[..end])?.split(',');
    Some((parts.next()?.parse().ok()?, parts.next()?.into(), &bytes[end + 1..]))
}

fn read_survey(kind: u8, bytes: &[u8]) -> Option<Message> {
    let mut fields = Fields::filling(bytes);
    let (mut asking, mut id, mut answering, mut content) = (None, None, None, None);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            survey_tag::ASKING => asking = Some(fields::number(value)?),
            survey_tag::ID => id = Some(fields::number(value)?),
            survey_tag::ANSWERING => answering = Some(fields::number(value)?),
            survey_tag::CONTENT => content = Some(value),
            _ => (),
        }
    }
    Some(match kind {
        b'R' => Message::Look { node: asking? },
        b'Q' => match survey::read_question(content?)? {
            Some(question) => Message::Question { node: asking?, id: id?, question },
            None => Message::Unknown,
        },
        _ => match survey::read_finding(content?)? {
            Some(finding) => Message::Answer { to: asking?, id: id?, from: answering?, finding },
            None => Message::Unknown,
        },
    })
}

/// Decodes the result of [`body`].
pub(crate) fn publication(offset: u64, body: &Bytes) -> Option<Arc<Publication>> {
    let (mut fields, mut json, mut info, mut tags) = (Fields::until_mark(body), false, None, None);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            body_tag::JSON => json = true,
            body_tag::MEMBER => info = Some(member(body, value)?),
            body_tag::TAGS => tags = read_tags(value)?,
            _ => (),
        }
    }
    Some(Arc::new(Publication { data: body.slice_ref(fields.rest()), json, offset, info, tags }))
}

/// Decodes the tags of a publication; the inner `None` for none.
fn read_tags(bytes: &[u8]) -> Option<Option<Arc<Tags>>> {
    let mut fields = Fields::filling(bytes);
    let (mut entries, mut name) = (Vec::new(), None);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            tags_tag::NAME => name = Some(fields::text(value)?),
            tags_tag::VALUE => entries.push((name.take()?.into(), fields::text(value)?.into())),
            _ => (),
        }
    }
    Some(Tags::of(entries))
}

/// Decodes a member, whose bytes are a part of `all`.
fn member(all: &Bytes, bytes: &[u8]) -> Option<Arc<Member>> {
    let mut fields = Fields::filling(bytes);
    let (mut client, mut user, mut info, mut channel_info) = (None, None, None, Bytes::new());
    while let Some((tag, value)) = fields.next()? {
        match tag {
            member_tag::CLIENT => client = Some(fields::text(value)?),
            member_tag::USER => user = Some(fields::text(value)?),
            member_tag::INFO => info = Some(all.slice_ref(value)),
            member_tag::CHANNEL_INFO => channel_info = all.slice_ref(value),
            _ => (),
        }
    }
    let (client, user) = (client?.into(), user?.into());
    Some(Arc::new(Member { client, user, info: info?, channel_info }))
}

#[cfg(test)]
mod tests {
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
        let connection = Connection { node: Box::default(), protocol: "raw".into(), since: 9 };
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
            let expected =
                Message::Order { node: 5, address: channel("@x"), order: Order::Refresh(expires_at) };
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
}
