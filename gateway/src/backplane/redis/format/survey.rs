//! Encodes questions and answers of surveys.

use std::collections::BTreeMap;

use crate::backplane::redis::format::wire::fields::{Fields, number, put, put_nested, put_number, text};
use crate::survey::{Connection, Counts, ENTRIES_MAX, Finding, PART_BYTES_MAX, Page, Part, Question};

/// Tag of the kind of a question or an answer.
const KIND: u8 = 1;

/// Tags of a question.
mod question_tag {
    pub(super) const TEXT: u8 = 2;
    pub(super) const AFTER: u8 = 3;
    pub(super) const LIMIT: u8 = 4;
}

/// Tags of an answer with a list.
mod list_tag {
    pub(super) const ENTRY: u8 = 2;
    /// Empty value: there are more entries.
    pub(super) const MORE: u8 = 3;
}

/// Tags of an entry of a list.
mod entry_tag {
    pub(super) const NAME: u8 = 1;
    pub(super) const COUNT: u8 = 2;
    pub(super) const PROTOCOL: u8 = 3;
    pub(super) const SINCE: u8 = 4;
    pub(super) const TRANSPORT: u8 = 5;
}

/// The first tag of the numbers in an answer with counts.
const COUNTS: u8 = 2;

pub(crate) fn put_question(bytes: &mut Vec<u8>, question: &Question) {
    let (kind, text, page) = match question {
        Question::Counts => return put(bytes, KIND, &[0]),
        Question::Channels { pattern, page } => (1, pattern, page),
        Question::Connections { user, page } => (2, user, page),
    };
    put(bytes, KIND, &[kind]);
    put(bytes, question_tag::TEXT, text.as_bytes());
    put(bytes, question_tag::AFTER, page.after.as_bytes());
    put_number(bytes, question_tag::LIMIT, page.limit as u64);
}

/// `None` for invalid bytes, `Some(None)` for a question unknown to this version.
pub(crate) fn read_question(bytes: &[u8]) -> Option<Option<Question>> {
    let mut fields = Fields::filling(bytes);
    let (mut kind, mut asked, mut after, mut limit) = (None, None, None, None);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            KIND => kind = Some(value),
            question_tag::TEXT => asked = Some(text(value)?.into()),
            question_tag::AFTER => after = Some(text(value)?.into()),
            question_tag::LIMIT => limit = Some(number(value)?),
            _ => (),
        }
    }
    let kind = match kind? {
        [0] => return Some(Some(Question::Counts)),
        [kind @ (1 | 2)] => *kind,
        _ => return Some(None),
    };
    let limit = usize::try_from(limit?).ok().filter(|limit| (1..=ENTRIES_MAX).contains(limit))?;
    let page = Page { after: after?, limit };
    Some(Some(match kind {
        1 => Question::Channels { pattern: asked?, page },
        _ => Question::Connections { user: asked?, page },
    }))
}

pub(crate) fn put_finding(bytes: &mut Vec<u8>, finding: &Finding) {
    match finding {
        Finding::Counts(Counts { clients, users, channels, subscriptions, workers }) => {
            put(bytes, KIND, &[0]);
            for (tag, count) in (COUNTS..).zip([clients, users, channels, subscriptions, workers]) {
                put_number(bytes, tag, *count);
            }
        }
        Finding::Channels(part) => {
            put(bytes, KIND, &[1]);
            put_entries(bytes, part, |bytes, count| put_number(bytes, entry_tag::COUNT, *count));
        }
        Finding::Connections(part) => {
            put(bytes, KIND, &[2]);
            put_entries(bytes, part, |bytes, connection| {
                put(bytes, entry_tag::PROTOCOL, connection.protocol.as_bytes());
                put_number(bytes, entry_tag::SINCE, connection.since);
                put(bytes, entry_tag::TRANSPORT, connection.transport.as_bytes());
            });
        }
    }
}

/// `None` for invalid bytes, `Some(None)` for an answer unknown to this version.
pub(crate) fn read_finding(bytes: &[u8]) -> Option<Option<Finding>> {
    let mut fields = Fields::filling(bytes);
    while let Some((tag, value)) = fields.next()? {
        if tag == KIND {
            return Some(match value {
                [0] => Some(Finding::Counts(read_counts(bytes)?)),
                [1] => Some(Finding::Channels(read_entries(bytes, |entry| entry.count)?)),
                [2] => Some(Finding::Connections(read_entries(bytes, |entry| {
                    let transport = entry.transport.unwrap_or_default();
                    let (protocol, since) = (entry.protocol?, entry.since?);
                    Some(Connection { node: Box::default(), protocol, since, transport })
                })?)),
                _ => None,
            });
        }
    }
    None
}

fn read_counts(bytes: &[u8]) -> Option<Counts> {
    let (mut fields, mut counts) = (Fields::filling(bytes), [None; 5]);
    while let Some((tag, value)) = fields.next()? {
        if let Some(count) = tag.checked_sub(COUNTS).and_then(|index| counts.get_mut(usize::from(index))) {
            *count = Some(number(value)?);
        }
    }
    let [clients, users, channels, subscriptions, workers] = counts;
    Some(Counts {
        clients: clients?,
        users: users?,
        channels: channels?,
        subscriptions: subscriptions?,
        workers: workers?,
    })
}

/// Writes as many entries as fit.
fn put_entries<T>(bytes: &mut Vec<u8>, part: &Part<T>, put_value: impl Fn(&mut Vec<u8>, &T)) {
    let begin = bytes.len();
    let mut more = part.more;
    for (name, value) in &part.entries {
        if bytes.len() - begin > PART_BYTES_MAX {
            more = true;
            break;
        }
        put_nested(bytes, list_tag::ENTRY, |bytes| {
            put(bytes, entry_tag::NAME, name.as_bytes());
            put_value(bytes, value);
        });
    }
    if more {
        put(bytes, list_tag::MORE, b"");
    }
}

/// An entry of any list.
#[derive(Default)]
struct Entry {
    name: Option<Box<str>>,
    count: Option<u64>,
    protocol: Option<Box<str>>,
    since: Option<u64>,
    transport: Option<Box<str>>,
}

fn read_entries<T>(bytes: &[u8], read: impl Fn(Entry) -> Option<T>) -> Option<Part<T>> {
    let (mut fields, mut part) = (Fields::filling(bytes), Part { entries: BTreeMap::new(), more: false });
    while let Some((tag, value)) = fields.next()? {
        match tag {
            list_tag::ENTRY => {
                let mut entry = read_entry(value)?;
                part.entries.insert(entry.name.take()?, read(entry)?);
            }
            list_tag::MORE => part.more = true,
            _ => (),
        }
    }
    Some(part)
}

fn read_entry(bytes: &[u8]) -> Option<Entry> {
    let (mut fields, mut entry) = (Fields::filling(bytes), Entry::default());
    while let Some((tag, value)) = fields.next()? {
        match tag {
            entry_tag::NAME => entry.name = Some(text(value)?.into()),
            entry_tag::COUNT => entry.count = Some(number(value)?),
            entry_tag::PROTOCOL => entry.protocol = Some(text(value)?.into()),
            entry_tag::SINCE => entry.since = Some(number(value)?),
            entry_tag::TRANSPORT => entry.transport = Some(text(value)?.into()),
            _ => (),
        }
    }
    Some(entry)
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
        let Some(Finding::Channels(part)) = read_finding(&bytes).unwrap() else { panic!() };
        assert!(part.more && part.entries.len() > 100);
        let last = part.entries.last_key_value().unwrap();
        assert_eq!(*last.1, part.entries.len() as u64 - 1, "none is left out before the last");
    }
}
