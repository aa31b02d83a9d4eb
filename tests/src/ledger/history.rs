//! What is written down.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Everything that happened to the channels of a test.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// By all publishers, in the order of the answers.
    pub published: Vec<Published>,
    /// By subscriber, each in the order in which it happened to it.
    pub subscribers: Vec<Vec<Entry>>,
}

impl History {
    /// Publications that were on their way at a moment.
    pub fn in_flight(&self, at: Duration) -> usize {
        self.published
            .iter()
            .filter(|publication| publication.sent <= at && publication.answered > at)
            .count()
    }

    /// How long after a moment the first publication was acknowledged that was sent after it.
    pub fn publishing_again(&self, since: Duration) -> Option<Duration> {
        let new = self.published.iter().filter(|publication| publication.sent >= since);
        let answered = new.filter(|publication| matches!(publication.outcome, Outcome::Acknowledged(_)));
        answered.map(|publication| publication.answered - since).min()
    }

    /// How long after a moment every subscription had got a publication that was sent after it; `None` if one
    /// never did.
    pub fn live_again(&self, since: Duration) -> Option<Duration> {
        let new: HashSet<u64> = (self.published.iter())
            .filter_map(|publication| (publication.sent >= since).then_some(publication.number))
            .collect();
        let mut slowest = Duration::ZERO;
        for entries in &self.subscribers {
            let mut first: HashMap<&str, Option<Duration>> = HashMap::new();
            for entry in entries {
                let live = first.entry(&entry.channel).or_default();
                if let Event::Publication { number, .. } = entry.event
                    && new.contains(&number)
                {
                    live.get_or_insert(entry.at);
                }
            }
            for at in first.into_values() {
                slowest = slowest.max(at? - since);
            }
        }
        Some(slowest)
    }

    /// Everything that publishers and subscribers of a channel saw shortly before and after a moment, a line
    /// each, in order.
    pub fn story(&self, channel: &str, around: Duration) -> Vec<String> {
        let during = around.saturating_sub(STORY)..around + STORY;
        let mut lines = Vec::new();
        for publication in self.published.iter().filter(|publication| &*publication.channel == channel) {
            let Published { number, sent, answered, outcome, .. } = publication;
            lines.push((*sent, format!("{number} is sent, and answered at {answered:?}: {outcome:?}")));
        }
        for (subscriber, entries) in self.subscribers.iter().enumerate() {
            for entry in entries.iter().filter(|entry| &*entry.channel == channel) {
                lines.push((entry.at, format!("subscriber {subscriber}: {:?}", entry.event)));
            }
        }
        lines.retain(|(at, _)| during.contains(at));
        lines.sort();
        lines.into_iter().map(|(at, line)| format!("{at:?} {line}")).collect()
    }
}

/// Time that a story begins before its moment, and ends after it.
const STORY: Duration = Duration::from_millis(400);

/// Where a stream stood.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The stream.
    pub epoch: Arc<str>,
    /// Of the last publication.
    pub offset: u64,
}

impl Position {
    /// Of what is kept nowhere, and of a subscription that promises nothing to who returns.
    pub fn nowhere() -> Self {
        Self { epoch: "".into(), offset: 0 }
    }

    /// Whether it is the place of something in a stream.
    pub fn is_somewhere(&self) -> bool {
        !self.epoch.is_empty()
    }
}

/// One publication, as its publisher knows it.
#[derive(Debug, Clone)]
pub struct Published {
    /// Where to.
    pub channel: Arc<str>,
    /// Its payload: no two publications have the same.
    pub number: u64,
    /// When it was sent, since the ledger was opened.
    pub sent: Duration,
    /// When the answer was there, or given up.
    pub answered: Duration,
    /// What the answer was.
    pub outcome: Outcome,
}

/// What a publisher was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is published, and this is its place.
    Acknowledged(Position),
    /// It is not published.
    Refused {
        /// Of the protocol.
        code: u64,
        /// In words.
        message: String,
    },
    /// It may be published or not: nobody knows.
    Doubtful,
    /// Nothing: it may be published or not.
    Unanswered,
}

/// Something that a subscriber saw of a channel.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Since the ledger was opened.
    pub at: Duration,
    /// The channel.
    pub channel: Arc<str>,
    /// What it was.
    pub event: Event,
}

/// What a subscriber can see of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is subscribed, and is to get what comes after this position.
    Subscribed {
        /// Whether it was told that it has missed nothing since its last position.
        recovered: bool,
        /// Where it goes on from.
        position: Position,
    },
    /// A publication, live or recovered, of the stream it is subscribed to.
    Publication {
        /// Its payload.
        number: u64,
        /// Its place.
        offset: u64,
    },
    /// The subscription was taken away.
    Unsubscribed {
        /// Why.
        code: u64,
    },
    /// The connection ended.
    Disconnected {
        /// Why, if a reason was given.
        code: Option<u16>,
    },
}
