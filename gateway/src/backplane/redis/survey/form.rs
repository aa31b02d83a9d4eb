//! Questions and answers as bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backplane::redis::wire::{Reader, put_part};
use crate::survey::{Connection, Counts, ENTRIES_MAX, Finding, PART_BYTES_MAX, Page, Part, Question};

pub(in crate::backplane::redis) fn put_question(bytes: &mut Vec<u8>, question: &Question) {
    let (kind, text, page) = match question {
        Question::Counts => return bytes.push(0),
        Question::Channels { pattern, page } => (1, pattern, page),
        Question::Connections { user, page } => (2, user, page),
    };
    bytes.push(kind);
    put_part(bytes, text.as_bytes());
    put_part(bytes, page.after.as_bytes());
    put_number(bytes, page.limit as u64);
}

pub(in crate::backplane::redis) fn read_question(reader: &mut Reader) -> Option<Question> {
    let kind = reader.byte()?;
    if kind == 0 {
        return Some(Question::Counts);
    }
    let (text, after) = (boxed(reader)?, boxed(reader)?);
    let limit = usize::try_from(reader.number()?).ok().filter(|limit| (1..=ENTRIES_MAX).contains(limit))?;
    let page = Page { after, limit };
    match kind {
        1 => Some(Question::Channels { pattern: text, page }),
        2 => Some(Question::Connections { user: text, page }),
        _ => None,
    }
}

pub(in crate::backplane::redis) fn put_finding(bytes: &mut Vec<u8>, finding: &Finding) {
    match finding {
        Finding::Counts(Counts { clients, users, channels, subscriptions, workers }) => {
            bytes.push(0);
            for number in [clients, users, channels, subscriptions, workers] {
                put_number(bytes, *number);
            }
        }
        Finding::Channels(part) => {
            bytes.push(1);
            put_entries(bytes, part, |bytes, count| put_number(bytes, *count));
        }
        Finding::Connections(part) => {
            bytes.push(2);
            put_entries(bytes, part, |bytes, connection| {
                put_part(bytes, connection.protocol.as_bytes());
                put_number(bytes, connection.since);
            });
        }
    }
}

pub(in crate::backplane::redis) fn read_finding(reader: &mut Reader) -> Option<Finding> {
    Some(match reader.byte()? {
        0 => Finding::Counts(Counts {
            clients: reader.number()?,
            users: reader.number()?,
            channels: reader.number()?,
            subscriptions: reader.number()?,
            workers: reader.number()?,
        }),
        1 => Finding::Channels(read_entries(reader, Reader::number)?),
        2 => Finding::Connections(read_entries(reader, |reader| {
            Some(Connection { node: Box::default(), protocol: boxed(reader)?, since: reader.number()? })
        })?),
        _ => return None,
    })
}

/// As many as fit. Each has a mark before it, and what follows the last says whether there are more.
fn put_entries<T>(bytes: &mut Vec<u8>, part: &Part<T>, put: impl Fn(&mut Vec<u8>, &T)) {
    let begin = bytes.len();
    let mut more = part.more;
    for (name, value) in &part.entries {
        if bytes.len() - begin > PART_BYTES_MAX {
            more = true;
            break;
        }
        bytes.push(1);
        put_part(bytes, name.as_bytes());
        put(bytes, value);
    }
    bytes.push(if more { 2 } else { 0 });
}

fn read_entries<T>(reader: &mut Reader, read: impl Fn(&mut Reader) -> Option<T>) -> Option<Part<T>> {
    let mut entries = BTreeMap::new();
    loop {
        match reader.byte()? {
            1 => drop(entries.insert(boxed(reader)?, read(reader)?)),
            mark @ (0 | 2) => return Some(Part { entries, more: mark == 2 }),
            _ => return None,
        }
    }
}

fn put_number(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(&number.to_be_bytes());
}

fn boxed(reader: &mut Reader) -> Option<Box<str>> {
    reader.text().map(|text: Arc<str>| (&*text).into())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_does_not_fit_is_for_the_next_question() {
        let name = |number: u64| Box::from(format!("{number:0200}"));
        let entries = (0..1000).map(|number| (name(number), number)).collect();
        let mut bytes = Vec::new();
        put_finding(&mut bytes, &Finding::Channels(Part { entries, more: false }));
        assert!(bytes.len() < PART_BYTES_MAX + 1000);
        let mut reader = Reader(bytes.into());
        let Finding::Channels(part) = read_finding(&mut reader).unwrap() else { panic!() };
        assert!(part.more && part.entries.len() > 100 && reader.0.is_empty());
        let last = part.entries.last_key_value().unwrap();
        assert_eq!(*last.1, part.entries.len() as u64 - 1, "none is left out before the last");
    }
}
