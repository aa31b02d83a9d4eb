//! `write` and `read` encode a client for Redis: the version of the wire format, then fields; readers skip
//! unknown fields.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use redis::Value;

use crate::backplane::redis::format::wire::VERSION;
use crate::backplane::redis::format::wire::fields::{Fields, number, put, put_nested, put_number, text};
use crate::plugin::event::Client;
use crate::protocol::Encoding;

/// Tags of a client.
mod tag {
    pub(super) const SINCE: u8 = 1;
    pub(super) const PROTOCOL: u8 = 2;
    pub(super) const ADDRESS: u8 = 3;
    pub(super) const USER: u8 = 4;
    pub(super) const HEADER: u8 = 5;
    pub(super) const ATTRIBUTE: u8 = 6;
}

/// Tags of a header and of an attribute.
mod pair_tag {
    pub(super) const NAME: u8 = 1;
    pub(super) const VALUE: u8 = 2;
}

/// A client of another node and when it connected, in Unix time in milliseconds.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) client: Client,
    pub(crate) since: u64,
}

/// Encodes everything that `on-disconnect` receives of a client, except its id.
pub(super) fn write(client: &Client, since: u64) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    put_number(&mut bytes, tag::SINCE, since);
    put(&mut bytes, tag::PROTOCOL, client.protocol.as_bytes());
    put(&mut bytes, tag::ADDRESS, client.address.to_string().as_bytes());
    put(&mut bytes, tag::USER, client.user.as_bytes());
    for (name, value) in client.headers.iter() {
        put_pair(&mut bytes, tag::HEADER, name, value);
    }
    for (name, value) in &client.attributes {
        put_pair(&mut bytes, tag::ATTRIBUTE, name, value);
    }
    bytes
}

fn put_pair(bytes: &mut Vec<u8>, tag: u8, name: &str, value: &str) {
    put_nested(bytes, tag, |bytes| {
        put(bytes, pair_tag::NAME, name.as_bytes());
        put(bytes, pair_tag::VALUE, value.as_bytes());
    });
}

/// Decodes the record of the client with this id, which gets the number `client_number` here. `None` for
/// invalid bytes.
pub(crate) fn read(id: &str, client_number: u64, bytes: &[u8]) -> Option<Record> {
    let (&VERSION, bytes) = bytes.split_first()? else { return None };
    let mut fields = Fields::filling(bytes);
    let (mut since, mut protocol, mut address, mut user) = (None, None, None, None);
    let (mut headers, mut attributes) = (Vec::new(), BTreeMap::new());
    while let Some((tag, value)) = fields.next()? {
        match tag {
            tag::SINCE => since = Some(number(value)?),
            tag::PROTOCOL => protocol = Some(protocol_named(text(value)?)),
            tag::ADDRESS => address = Some(text(value)?.parse::<IpAddr>().ok()?),
            tag::USER => user = Some(Arc::<str>::from(text(value)?)),
            tag::HEADER => headers.push(pair(value)?),
            tag::ATTRIBUTE => {
                let (name, value) = pair(value)?;
                attributes.insert(name, value);
            }
            _ => (),
        }
    }
    let client = Client {
        number: client_number,
        id: id.into(),
        user: user?,
        protocol: protocol?,
        address: address?,
        headers: headers.into(),
        attributes,
    };
    Some(Record { client, since: since? })
}

/// Protocol passed to plugins for a client whose protocol this version does not know.
const UNKNOWN_PROTOCOL: &str = "unknown";

fn protocol_named(name: &str) -> &'static str {
    let known = Encoding::ALL.into_iter().map(Encoding::protocol_name).find(|known| *known == name);
    known.unwrap_or(UNKNOWN_PROTOCOL)
}

fn pair(bytes: &[u8]) -> Option<(Box<str>, Box<str>)> {
    let mut fields = Fields::filling(bytes);
    let (mut name, mut of_it) = (None, None);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            pair_tag::NAME => name = Some(text(value)?.into()),
            pair_tag::VALUE => of_it = Some(text(value)?.into()),
            _ => (),
        }
    }
    Some((name?, of_it?))
}

/// Ids and records in a response of Redis, which is a list of pairs or a flat list.
pub(crate) fn pairs(listed: Vec<Value>) -> Vec<(Box<str>, Vec<u8>)> {
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
            protocol: Encoding::Json.protocol_name(),
            address: "2001:db8::1".parse().unwrap(),
            headers: Arc::new([("x-a".into(), "1".into())]),
            attributes: BTreeMap::from([("plan".into(), "gold".into()), ("room".into(), "7".into())]),
        }
    }

    #[test]
    fn a_client_is_read_as_it_was_written() {
        let Record { client: read, since } = read("c1", 99, &write(&client(), 1234)).unwrap();
        let written = client();
        assert_eq!((&*read.id, read.number, since), ("c1", 99, 1234));
        assert_eq!(
            (read.user, read.protocol, read.address),
            (written.user, written.protocol, written.address)
        );
        assert_eq!((read.headers, read.attributes), (written.headers, written.attributes));
    }

    #[test]
    fn what_is_cut_off_within_a_field_or_of_another_version_is_no_client() {
        let mut whole = write(&Client { headers: [].into(), attributes: BTreeMap::new(), ..client() }, 1);
        for end in 0..whole.len() {
            assert!(read("c1", 1, &whole[..end]).is_none(), "{end}");
        }
        whole[0] += 1;
        assert!(read("c1", 1, &whole).is_none());
    }

    #[test]
    fn what_the_next_version_adds_is_skipped() {
        let mut bytes = write(&client(), 1234);
        put(&mut bytes, 200, b"of tomorrow");
        put_nested(&mut bytes, tag::ATTRIBUTE, |bytes| {
            put(bytes, 200, b"of tomorrow");
            put(bytes, pair_tag::NAME, b"more");
            put(bytes, pair_tag::VALUE, b"1");
        });
        // If a field is repeated, the last one counts.
        put(&mut bytes, tag::PROTOCOL, b"of-tomorrow");
        let Record { client: read, since } = read("c1", 99, &bytes).unwrap();
        assert_eq!((since, read.protocol, &*read.user), (1234, UNKNOWN_PROTOCOL, "ann"));
        assert_eq!((read.attributes.len(), &*read.attributes["more"]), (3, "1"));
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
