//! [`Question`]s that each gateway answers, and the rules that merge the answers. No I/O, no clock.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};

use rustc_hash::FxHashSet;

use crate::plugin::event::Client;

/// Maximum number of entries in one answer.
pub const ENTRIES_MAX: usize = 10_000;

/// Approximate maximum bytes of names and values in another gateway's answer. The rest is for the next
/// question.
pub const PART_BYTES_MAX: usize = 48 * 1024;

/// The closed set of questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The numbers of a gateway.
    Counts,
    /// Channels with subscribers, and the number of subscribers.
    Channels {
        /// A name, or a prefix and `*`.
        pattern: Box<str>,
        /// The part to return.
        page: Page,
    },
    /// The connections of a user.
    Connections {
        /// The user.
        user: Box<str>,
        /// The part to return.
        page: Page,
    },
}

/// A part of a list in the order of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Only names after this one; empty for all.
    pub after: Box<str>,
    /// Maximum number of entries, from 1 to [`ENTRIES_MAX`].
    pub limit: usize,
}

/// The answer of one gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// To [`Question::Counts`].
    Counts(Counts),
    /// To [`Question::Channels`]: subscriptions by channel.
    Channels(Part<u64>),
    /// To [`Question::Connections`]: by id.
    Connections(Part<Connection>),
}

/// The numbers of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Open connections.
    pub clients: u64,
    /// Users among them, each counted once; every anonymous client counts as one user.
    pub users: u64,
    /// Known channels.
    pub channels: u64,
    /// Subscriptions of all connections.
    pub subscriptions: u64,
    /// Number of workers.
    pub workers: u64,
}

/// A connection of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The gateway that has it.
    pub node: Box<str>,
    /// `centrifuge-json`, `centrifuge-protobuf`, `centrifuge-unidirectional` or `raw`.
    pub protocol: Box<str>,
    /// When it was admitted, in Unix time in milliseconds.
    pub since: u64,
    /// `websocket`, `http_stream` or `sse`; empty if its gateway does not say it.
    pub transport: Box<str>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<T> {
    /// Entries by name.
    pub entries: BTreeMap<Box<str>, T>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// The answer of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Users as numbers; equal users have equal numbers.
    Users(FxHashSet<u64>),
    /// See [`Finding::Channels`].
    Channels(Part<u64>),
    /// See [`Finding::Connections`].
    Connections(Part<Connection>),
}

/// Values of several workers or gateways that can be merged.
pub trait Together {
    /// Merges another value.
    fn add(&mut self, other: Self);
}

impl Together for u64 {
    fn add(&mut self, other: Self) {
        *self = self.saturating_add(other);
    }
}

impl Together for Connection {
    /// A connection exists once.
    fn add(&mut self, _: Self) {}
}

/// A number for a user; every anonymous client counts as one user.
pub fn user_number(client: &Client) -> u64 {
    let mut hasher = DefaultHasher::new();
    if client.user.is_empty() { (1, &client.id) } else { (0, &client.user) }.hash(&mut hasher);
    hasher.finish()
}

impl<T> Part<T> {
    /// Creates a part without entries.
    pub fn empty() -> Self {
        Self { entries: BTreeMap::new(), more: false }
    }

    /// Adds an entry if it is on the page.
    pub fn offer(&mut self, page: &Page, name: &str, value: impl FnOnce() -> T) {
        if *name <= *page.after {
            return;
        }
        if self.entries.len() >= page.limit {
            self.more = true;
            if self.entries.last_key_value().is_none_or(|(last, _)| *name > **last) {
                return;
            }
            self.entries.pop_last();
        }
        self.entries.insert(name.into(), value());
    }
}

impl<T: Together> Part<T> {
    /// Merges several parts of one page. If a part ends and has more, entries beyond its end are unknown.
    pub fn together(parts: Vec<Self>, page: &Page) -> Self {
        let mut all = Self { entries: BTreeMap::new(), more: parts.iter().any(|part| part.more) };
        let ends = parts.iter().filter(|part| part.more).filter_map(|part| part.entries.last_key_value());
        let end = ends.map(|(name, _)| name.clone()).min();
        for (name, value) in parts.into_iter().flat_map(|part| part.entries) {
            if end.as_ref().is_some_and(|end| name > *end) {
                continue;
            }
            match all.entries.entry(name) {
                Entry::Vacant(entry) => drop(entry.insert(value)),
                Entry::Occupied(mut entry) => entry.get_mut().add(value),
            }
        }
        while all.entries.len() > page.limit {
            all.entries.pop_last();
            all.more = true;
        }
        all
    }
}

impl Question {
    /// The answer of a gateway with these workers' answers and these numbers. `None` if a worker gave another
    /// kind of answer.
    pub fn answer(&self, seen: Vec<Seen>, counts: Counts) -> Option<Finding> {
        Some(match self {
            Self::Counts => {
                let mut users = FxHashSet::default();
                for seen in seen {
                    let Seen::Users(of_worker) = seen else { return None };
                    users.extend(of_worker);
                }
                Finding::Counts(Counts { users: users.len() as u64, ..counts })
            }
            Self::Channels { page, .. } => {
                let part = |seen| match seen {
                    Seen::Channels(part) => Some(part),
                    _ => None,
                };
                Finding::Channels(Part::together(seen.into_iter().map(part).collect::<Option<_>>()?, page))
            }
            Self::Connections { page, .. } => {
                let part = |seen| match seen {
                    Seen::Connections(part) => Some(part),
                    _ => None,
                };
                Finding::Connections(Part::together(seen.into_iter().map(part).collect::<Option<_>>()?, page))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(after: &str, limit: usize) -> Page {
        Page { after: after.into(), limit }
    }

    fn part(names: &[&str], page: &Page) -> Part<u64> {
        let mut part = Part::empty();
        names.iter().for_each(|name| part.offer(page, name, || 1));
        part
    }

    fn shown(part: &Part<u64>) -> String {
        let entries = part.entries.iter().map(|(name, count)| format!("{name}{count}"));
        entries.collect::<Vec<_>>().join(" ") + if part.more { " ..." } else { "" }
    }

    #[test]
    fn a_part_has_the_first_names_behind_the_cursor_in_whatever_order_they_come() {
        assert_eq!(shown(&part(&["d", "a", "c", "b"], &page("", 2))), "a1 b1 ...");
        assert_eq!(shown(&part(&["d", "a", "c", "b"], &page("b", 2))), "c1 d1");
        assert_eq!(shown(&part(&["d", "a"], &page("d", 2))), "");
    }

    #[test]
    fn parts_add_up_as_far_as_all_of_them_reach() {
        let page = page("", 3);
        let some = part(&["a", "b", "c", "x"], &page);
        let other = part(&["b", "d", "e"], &page);
        // Entries after `c` are unknown for the first part.
        assert_eq!(shown(&Part::together(vec![some, other], &page)), "a1 b2 c1 ...");
    }

    #[test]
    fn page_by_page_everything_is_seen_once() {
        let nodes = [["a", "c", "e", "g"], ["a", "b", "c", "d"], ["f", "g", "h", "i"]];
        for limit in 1..10 {
            let (mut seen, mut after) = (Vec::new(), String::new());
            loop {
                let page = page(&after, limit);
                let all = Part::together(nodes.iter().map(|names| part(names, &page)).collect(), &page);
                assert!(all.entries.len() <= limit);
                seen.extend(all.entries.iter().map(|(name, count)| format!("{name}{count}")));
                after = all.entries.last_key_value().map_or(String::new(), |(name, _)| name.to_string());
                if !all.more {
                    break;
                }
            }
            assert_eq!(seen, ["a2", "b1", "c2", "d1", "e1", "f1", "g2", "h1", "i1"], "limit {limit}");
        }
    }

    #[test]
    fn a_user_at_two_workers_counts_once() {
        let seen = [[1, 2], [2, 3]].map(|users| Seen::Users(users.into_iter().collect()));
        let counts = Question::Counts.answer(seen.into(), Counts { clients: 4, ..Counts::default() });
        assert_eq!(counts, Some(Finding::Counts(Counts { clients: 4, users: 3, ..Counts::default() })));
        assert_eq!(Question::Counts.answer(vec![Seen::Channels(Part::empty())], Counts::default()), None);
    }
}
