//! What nodes send each other through Redis: one version, strict, bounded.
//!
//! A message is the version, a kind, and what belongs to the kind. The script that numbers a publication puts its number
//! between what stands before and after it, so that number is text: `offset,epoch;`.

use std::sync::Arc;

use bytes::Bytes;

use super::survey::form;
use crate::hub::peer::{Order, Why};
use crate::protocol::channel::Channel;
use crate::protocol::code::Close;
use crate::protocol::push::{Member, Publication};
use crate::survey::{Finding, Question};

const VERSION: u8 = b'1';
const JSON: u8 = 1;
const MEMBER: u8 = 2;
const EPOCH_BYTES_MAX: usize = 64;

/// Bytes of a message beside the payload: names and what is known of the publisher.
pub(super) const OVERHEAD_BYTES_MAX: usize = 64 * 1024;

/// A message, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// To the subscribers of the topic's channel, or of this address.
    Publication { address: Option<Channel>, publication: Arc<Publication>, epoch: Arc<str> },
    /// Somebody came to the topic's channel.
    Join(Arc<Member>),
    /// Somebody left it.
    Leave(Arc<Member>),
    /// For the connections of an address.
    Order { node: u64, address: Channel, order: Order },
    /// A node asks all others.
    Question { node: u64, id: u64, question: Question },
    /// A node answers another one.
    Answer { to: u64, id: u64, from: u64, finding: Finding },
}

/// What stands before the number of a publication.
pub(super) fn head(address: Option<&Channel>) -> Vec<u8> {
    let mut bytes = vec![VERSION, if address.is_some() { b'D' } else { b'P' }];
    if let Some(address) = address {
        put_short(&mut bytes, address.as_str());
    }
    bytes
}

/// What stands after the number: also what is kept.
pub(super) fn body(data: &[u8], json: bool, info: Option<&Member>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len() + 96);
    bytes.push(if json { JSON } else { 0 } | if info.is_some() { MEMBER } else { 0 });
    if let Some(member) = info {
        put_member(&mut bytes, member);
    }
    bytes.extend_from_slice(data);
    bytes
}

/// A publication of a channel without history.
pub(super) fn unnumbered(address: Option<&Channel>, body: &[u8]) -> Vec<u8> {
    let mut bytes = head(address);
    bytes.extend_from_slice(b"0,;");
    bytes.extend_from_slice(body);
    bytes
}

pub(super) fn presence(member: &Member, came: bool) -> Vec<u8> {
    let mut bytes = vec![VERSION, if came { b'J' } else { b'L' }];
    put_member(&mut bytes, member);
    bytes
}

/// A member as it lies in Redis.
pub(super) fn member_bytes(member: &Member) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(member.client.len() + member.user.len() + member.info.len() + 12);
    put_member(&mut bytes, member);
    bytes
}

/// Reads what [`member_bytes`] has made. `None` for anything that is not exactly one.
pub(super) fn read_member(bytes: Bytes) -> Option<Arc<Member>> {
    let mut reader = Reader(bytes);
    let member = reader.member()?;
    reader.0.is_empty().then_some(member)
}

/// `node` is the one that gives the order.
pub(super) fn order(node: u64, address: &Channel, order: &Order) -> Vec<u8> {
    let mut bytes = vec![VERSION, b'O'];
    bytes.extend_from_slice(&node.to_be_bytes());
    put_short(&mut bytes, address.as_str());
    match order {
        Order::Close(close, why) => {
            bytes.push(0);
            bytes.extend_from_slice(&close.code.to_be_bytes());
            bytes.push(match why {
                Why::Shutdown => 0,
                Why::Api => 1,
                Why::Plugin => 2,
            });
            put_short(&mut bytes, &close.reason);
        }
        Order::Subscribe(channel) => {
            bytes.push(1);
            put_short(&mut bytes, channel.as_str());
        }
        Order::Unsubscribe(channel) => {
            bytes.push(2);
            put_short(&mut bytes, channel.as_str());
        }
        Order::Refresh(expires_at) => {
            bytes.extend_from_slice(&[3, u8::from(expires_at.is_some())]);
            bytes.extend_from_slice(&expires_at.unwrap_or_default().to_be_bytes());
        }
    }
    bytes
}

/// A question of `node`, which knows it by its `id`.
pub(super) fn question(node: u64, id: u64, question: &Question) -> Vec<u8> {
    let mut bytes = vec![VERSION, b'Q'];
    for number in [node, id] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    form::put_question(&mut bytes, question);
    bytes
}

/// An answer of the node `from` to a question of the node `to`.
pub(super) fn answer(to: u64, id: u64, from: u64, finding: &Finding) -> Vec<u8> {
    let mut bytes = vec![VERSION, b'A'];
    for number in [to, id, from] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    form::put_finding(&mut bytes, finding);
    bytes
}

/// Texts of at most 255 bytes: channels and reasons are.
fn put_short(bytes: &mut Vec<u8>, text: &str) {
    let text = &text.as_bytes()[..text.len().min(255)];
    bytes.push(text.len() as u8);
    bytes.extend_from_slice(text);
}

fn put_member(bytes: &mut Vec<u8>, member: &Member) {
    for part in [member.client.as_bytes(), member.user.as_bytes(), &member.info] {
        put_part(bytes, part);
    }
}

/// Bytes with their length, which [`Reader::part`] accepts up to [`OVERHEAD_BYTES_MAX`].
pub(super) fn put_part(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
    bytes.extend_from_slice(part);
}

/// Reads a message. `None` for anything that is not exactly one.
pub(super) fn decode(message: &Bytes) -> Option<Message> {
    let mut reader = Reader(message.clone());
    if reader.byte()? != VERSION {
        return None;
    }
    let decoded = match reader.byte()? {
        kind @ (b'P' | b'D') => {
            let address = if kind == b'D' { Some(reader.channel()?) } else { None };
            let offset = std::str::from_utf8(&reader.until(b',', 20)?).ok()?.parse().ok()?;
            let epoch = std::str::from_utf8(&reader.until(b';', EPOCH_BYTES_MAX)?).ok()?.into();
            return Some(Message::Publication {
                address,
                publication: publication(offset, reader.0)?,
                epoch,
            });
        }
        b'J' => Message::Join(reader.member()?),
        b'L' => Message::Leave(reader.member()?),
        b'O' => {
            let node = reader.number()?;
            let address = reader.channel()?;
            let order = match reader.byte()? {
                0 => {
                    let code = u16::from_be_bytes(reader.take(2)?.as_ref().try_into().ok()?);
                    let why = match reader.byte()? {
                        0 => Why::Shutdown,
                        1 => Why::Api,
                        2 => Why::Plugin,
                        _ => return None,
                    };
                    // A code that cannot close a connection would be a broken frame at the client.
                    let close = Close::custom(code, reader.short()?.as_str());
                    Order::Close(Some(close).filter(|close| (3000..=4999).contains(&close.code))?, why)
                }
                1 => Order::Subscribe(reader.channel()?),
                2 => Order::Unsubscribe(reader.channel()?),
                3 => match (reader.byte()?, reader.number()?) {
                    (0, 0) => Order::Refresh(None),
                    (1, expires_at) => Order::Refresh(Some(expires_at)),
                    _ => return None,
                },
                _ => return None,
            };
            Message::Order { node, address, order }
        }
        b'Q' => {
            let (node, id) = (reader.number()?, reader.number()?);
            Message::Question { node, id, question: form::read_question(&mut reader)? }
        }
        b'A' => {
            let (to, id, from) = (reader.number()?, reader.number()?, reader.number()?);
            Message::Answer { to, id, from, finding: form::read_finding(&mut reader)? }
        }
        _ => return None,
    };
    reader.0.is_empty().then_some(decoded)
}

/// Reads what [`body`] has made.
pub(super) fn publication(offset: u64, body: Bytes) -> Option<Arc<Publication>> {
    let mut reader = Reader(body);
    let flags = reader.byte()?;
    if flags & !(JSON | MEMBER) != 0 {
        return None;
    }
    let info = if flags & MEMBER != 0 { Some(reader.member()?) } else { None };
    Some(Arc::new(Publication { data: reader.0, json: flags & JSON != 0, offset, info }))
}

/// Takes a message apart.
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    fn take(&mut self, count: usize) -> Option<Bytes> {
        (count <= self.0.len()).then(|| self.0.split_to(count))
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.as_ref().try_into().ok()?))
    }

    fn until(&mut self, end: u8, bytes_max: usize) -> Option<Bytes> {
        let at = self.0.iter().take(bytes_max + 1).position(|byte| *byte == end)?;
        let part = self.take(at)?;
        self.take(1)?;
        Some(part)
    }

    fn short(&mut self) -> Option<String> {
        let count = self.byte()?;
        String::from_utf8(self.take(usize::from(count))?.to_vec()).ok()
    }

    fn channel(&mut self) -> Option<Channel> {
        Channel::parse(&self.short()?).ok()
    }

    fn part(&mut self) -> Option<Bytes> {
        let count = u32::from_be_bytes(self.take(4)?.as_ref().try_into().ok()?);
        self.take(usize::try_from(count).ok().filter(|count| *count <= OVERHEAD_BYTES_MAX)?)
    }

    pub(super) fn text(&mut self) -> Option<Arc<str>> {
        std::str::from_utf8(&self.part()?).ok().map(Arc::from)
    }

    fn member(&mut self) -> Option<Arc<Member>> {
        let (client, user, info) = (self.text()?, self.text()?, self.part()?);
        Some(Arc::new(Member { client, user, info }))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeMap;

    use super::*;
    use crate::survey::{Connection, Counts, Page, Part};

    fn channel(name: &str) -> Channel {
        Channel::parse(name).unwrap()
    }

    fn member() -> Member {
        Member { client: "c1".into(), user: "ann".into(), info: "{\"a\":1}".into() }
    }

    /// One message of every kind.
    fn messages() -> Vec<Vec<u8>> {
        let mut numbered = head(None);
        numbered.extend_from_slice(b"7,e;");
        numbered.extend_from_slice(&body(b"{}", true, Some(&member())));
        let close = Order::Close(Close::custom(4001, "bye"), Why::Api);
        vec![
            numbered,
            unnumbered(Some(&channel("#42")), &body(b"\xff", false, None)),
            presence(&member(), true),
            presence(&member(), false),
            order(5, &channel("#42"), &close),
            order(5, &channel("@x"), &Order::Subscribe(channel("news"))),
            order(5, &channel("@x"), &Order::Unsubscribe(channel("news"))),
            order(5, &channel("@x"), &Order::Refresh(Some(7))),
            order(5, &channel("@x"), &Order::Refresh(None)),
        ]
        .into_iter()
        .chain(asked().iter().map(|asked| question(5, 6, asked)))
        .chain(found().iter().map(|found| answer(5, 6, 7, found)))
        .collect()
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
        let Message::Publication { address, publication, .. } = &decoded[1] else { panic!() };
        assert_eq!((address.as_ref().unwrap().as_str(), publication.json), ("#42", false));
        assert_eq!(decoded[2], Message::Join(Arc::new(member())));
        assert_eq!(decoded[3], Message::Leave(Arc::new(member())));
        let close = Order::Close(Close::custom(4001, "bye"), Why::Api);
        let expected = Message::Order { node: 5, address: channel("#42"), order: close };
        assert_eq!(decoded[4], expected);
        for (place, expires_at) in [(7, Some(7)), (8, None)] {
            let expected =
                Message::Order { node: 5, address: channel("@x"), order: Order::Refresh(expires_at) };
            assert_eq!(decoded[place], expected);
        }
        for (index, (question, finding)) in asked().into_iter().zip(found()).enumerate() {
            assert_eq!(decoded[9 + index], Message::Question { node: 5, id: 6, question });
            assert_eq!(decoded[12 + index], Message::Answer { to: 5, id: 6, from: 7, finding });
        }
    }

    #[test]
    fn what_is_cut_off_or_changed_is_never_more_than_wrong_content() {
        for message in messages() {
            for end in 0..message.len() {
                // The payload has no length of its own: only what stands before it can be missing.
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
        for bytes in
            [&b""[..], b"1", b"2P0,;\0", b"1Q", b"1P", b"1P0", b"1P0,", b"1P-1,;\0", b"1P0,;", b"1P0,;\x04"]
        {
            assert_eq!(decode(&Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
        let mut longer = presence(&member(), true);
        longer.push(0);
        assert_eq!(decode(&longer.into()), None, "nothing may follow");
        let mut huge = vec![VERSION, b'J'];
        huge.extend_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(decode(&huge.into()), None);
    }
}
