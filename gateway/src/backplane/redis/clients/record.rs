//! A client as it lies in Redis: one version, strict, bounded.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use redis::Value;

use crate::backplane::redis::wire::{Reader, put_part};
use crate::plugin::event::Client;
use crate::protocol::Protocol;

const VERSION: u8 = b'1';

/// A client of another node, and since when it was there, in Unix time in milliseconds.
#[derive(Debug)]
pub(in crate::backplane::redis) struct Record {
    pub(in crate::backplane::redis) client: Client,
    pub(in crate::backplane::redis) since: u64,
}

/// What `on-disconnect` gets to know of a client, but for its id.
pub(super) fn write(client: &Client, since: u64) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&since.to_be_bytes());
    put_part(&mut bytes, client.protocol.as_bytes());
    put_part(&mut bytes, client.address.to_string().as_bytes());
    put_part(&mut bytes, client.user.as_bytes());
    let headers = client.headers.iter().map(|(name, value)| (name, value));
    put_pairs(&mut bytes, client.headers.len(), headers);
    put_pairs(&mut bytes, client.attributes.len(), client.attributes.iter());
    bytes
}

fn put_pairs<'a>(
    bytes: &mut Vec<u8>,
    count: usize,
    pairs: impl Iterator<Item = (&'a Box<str>, &'a Box<str>)>,
) {
    bytes.extend_from_slice(&(count as u64).to_be_bytes());
    for (name, value) in pairs {
        put_part(bytes, name.as_bytes());
        put_part(bytes, value.as_bytes());
    }
}

/// Reads what [`write`] has made of the client with this id, which is `number` here. `None` for anything else.
pub(in crate::backplane::redis) fn read(id: &str, number: u64, bytes: Vec<u8>) -> Option<Record> {
    let mut reader = Reader(Bytes::from(bytes));
    if reader.byte()? != VERSION {
        return None;
    }
    let since = reader.number()?;
    let protocol = reader.text()?;
    let protocol = Protocol::ALL.into_iter().map(Protocol::as_str).find(|known| **known == *protocol)?;
    let address: IpAddr = reader.text()?.parse().ok()?;
    let user = reader.text()?;
    let headers = pairs_of(&mut reader)?;
    let attributes = BTreeMap::from_iter(pairs_of(&mut reader)?);
    let client =
        Client { number, id: id.into(), user, protocol, address, headers: headers.into(), attributes };
    reader.0.is_empty().then_some(Record { client, since })
}

fn pairs_of(reader: &mut Reader) -> Option<Vec<(Box<str>, Box<str>)>> {
    let count = reader.number()?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        let (name, value): (Arc<str>, Arc<str>) = (reader.text()?, reader.text()?);
        pairs.push(((&*name).into(), (&*value).into()));
    }
    Some(pairs)
}

/// Ids and records in an answer of Redis, whether it lists pairs or both in turn.
pub(in crate::backplane::redis) fn pairs(listed: Vec<Value>) -> Vec<(Box<str>, Vec<u8>)> {
    let mut flat = Vec::with_capacity(listed.len() * 2);
    for value in listed {
        match value {
            Value::Array(pair) => flat.extend(pair),
            value => flat.push(value),
        }
    }
    let mut values = flat.into_iter().map(|value| match value {
        Value::BulkString(bytes) => bytes,
        _ => Vec::new(),
    });
    let mut pairs = Vec::new();
    while let (Some(id), Some(record)) = (values.next(), values.next()) {
        if let Ok(id) = String::from_utf8(id) {
            pairs.push((id.into(), record));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn client() -> Client {
        Client {
            number: 7,
            id: "c1".into(),
            user: "ann".into(),
            protocol: Protocol::CentrifugeJson.as_str(),
            address: "2001:db8::1".parse().unwrap(),
            headers: Arc::new([("x-a".into(), "1".into())]),
            attributes: BTreeMap::from([("plan".into(), "gold".into()), ("room".into(), "7".into())]),
        }
    }

    #[test]
    fn a_client_is_read_as_it_was_written() {
        let Record { client: read, since } = read("c1", 99, write(&client(), 1234)).unwrap();
        let written = client();
        assert_eq!((&*read.id, read.number, since), ("c1", 99, 1234));
        assert_eq!(
            (read.user, read.protocol, read.address),
            (written.user, written.protocol, written.address)
        );
        assert_eq!((read.headers, read.attributes), (written.headers, written.attributes));
    }

    #[test]
    fn what_is_cut_off_longer_or_of_another_version_is_no_client() {
        let whole = write(&client(), 1);
        for end in 0..whole.len() {
            assert!(read("c1", 1, whole[..end].to_vec()).is_none(), "{end}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(read("c1", 1, longer).is_none());
        let mut newer = whole;
        newer[0] += 1;
        assert!(read("c1", 1, newer).is_none());
    }

    #[test]
    fn pairs_are_read_in_either_form() {
        let text = |text: &str| Value::BulkString(text.into());
        let flat = pairs(vec![text("a"), text("1"), text("b"), text("2")]);
        let nested =
            pairs(vec![Value::Array(vec![text("a"), text("1")]), Value::Array(vec![text("b"), text("2")])]);
        assert_eq!(flat, nested);
        assert_eq!(flat[1], ("b".into(), b"2".to_vec()));
    }
}
