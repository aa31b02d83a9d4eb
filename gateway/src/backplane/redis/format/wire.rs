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
mod tests;
