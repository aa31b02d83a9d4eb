//! [`Picker`] chooses the events to explain; [`Explain`] keeps the latest explanations. [`Trace`] is the
//! content of one.
//!
//! Besides messages, this covers everything else that plugins saw of a client: its connect, refresh and
//! disconnect, and the deliveries of its publications. An event is explained for one of three reasons: it is
//! part of a sample; the operator named its user, an attribute of its connection or its channel for a while,
//! or watches everything; or its client asked and the operator allows that. While all of this is off, a
//! message costs one read of a flag.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_plugin_grammar::address;

use crate::clock::Clock;
use crate::config;
use crate::plugin::event::Client;
use crate::plugin::trace::Trace;
use crate::protocol::channel::Channel;

/// Maximum number of users and attributes that an operator watches at a time.
pub const TAGS_MAX: usize = 16;
/// Maximum time to watch, in seconds.
pub const SECONDS_MAX: u64 = 3_600;
/// The header by which a client asks, in its handshake; the configuration must keep it.
pub const HEADER: &str = "x-gateway-explain";
/// Unit of the sample: messages out of this many.
const SAMPLE_OF: u32 = 10_000;
/// Explanations per second and worker for an operator who watches channels or everything. An explained
/// message costs several times as much as another one.
const WATCHED_PER_SECOND_MAX: u32 = 100;

/// The clients whose messages an operator wants explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// Of this user.
    User(Box<str>),
    /// Of connections with this attribute.
    Attribute(Box<str>, Box<str>),
    /// On channels that match this pattern, as many as [`WATCHED_PER_SECOND_MAX`] allows.
    Channels(Box<str>),
    /// All, as many as [`WATCHED_PER_SECOND_MAX`] allows.
    Everything,
}

impl Whose {
    fn is(&self, client: &Client, channel: Option<&Channel>) -> bool {
        match self {
            Self::User(user) => *client.user == **user,
            Self::Attribute(name, value) => client.attributes.get(name) == Some(value),
            Self::Channels(_) | Self::Everything => self.is_on(channel),
        }
    }

    /// Whether an event with this channel is meant, whoever caused it.
    fn is_on(&self, channel: Option<&Channel>) -> bool {
        match self {
            Self::User(_) | Self::Attribute(..) => false,
            Self::Channels(pattern) => {
                channel.is_some_and(|channel| address::matches(pattern, channel.as_str()))
            }
            Self::Everything => true,
        }
    }

    fn is_limited(&self) -> bool {
        matches!(self, Self::Channels(_) | Self::Everything)
    }
}

#[derive(Debug, Clone)]
struct Tag {
    whose: Whose,
    /// Time since the start of the process.
    until: Duration,
}

/// The explanations of the whole process.
#[derive(Debug)]
pub struct Explain {
    settings: config::Explain,
    clock: Clock,
    /// False while no message can be picked.
    on: AtomicBool,
    tags: Mutex<Vec<Tag>>,
    /// Incremented with every change of the tags.
    tags_version: AtomicU64,
    kept: Mutex<Kept>,
    /// Events that were not explained because too many were watched.
    skipped: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first.
    traces: VecDeque<Arc<Trace>>,
    /// Number of the next one; the first one has number 0.
    next: u64,
}

/// The explanations since a number.
#[derive(Debug)]
pub struct Since {
    /// Oldest first.
    pub traces: Vec<Arc<Trace>>,
    /// The number to go on with.
    pub next: u64,
    /// How many were dropped for newer ones before they were read.
    pub dropped: u64,
    /// Events that were not explained because too many were watched, since the start of the process.
    pub skipped: u64,
}

impl Explain {
    /// Creates it without explanations.
    pub fn new(settings: config::Explain, clock: Clock) -> Self {
        let on = AtomicBool::new(settings.sample > 0 || settings.reply);
        Self {
            settings,
            clock,
            on,
            tags: Mutex::default(),
            tags_version: AtomicU64::new(0),
            kept: Mutex::default(),
            skipped: AtomicU64::new(0),
        }
    }

    /// Watches some connections from now on, for this time. False if the maximum is reached.
    pub fn watch(&self, whose: Whose, time: Duration) -> bool {
        let now = self.clock.now().at;
        let mut tags = lock(&self.tags);
        tags.retain(|tag| tag.until > now && tag.whose != whose);
        if tags.len() >= TAGS_MAX {
            return false;
        }
        tags.push(Tag { whose, until: now + time });
        self.tags_version.fetch_add(1, Relaxed);
        self.on.store(true, Relaxed);
        true
    }

    /// The latest explanations, newest first.
    pub fn last(&self, limit: usize) -> Vec<Arc<Trace>> {
        lock(&self.kept).traces.iter().rev().take(limit).cloned().collect()
    }

    /// At most `limit` explanations from this number on. A number from the future, such as the largest one,
    /// begins with the next explanation.
    pub fn since(&self, number: u64, limit: usize) -> Since {
        let kept = lock(&self.kept);
        let oldest = kept.next - kept.traces.len() as u64;
        let begin = number.clamp(oldest, kept.next);
        let traces: Vec<_> =
            kept.traces.iter().skip((begin - oldest) as usize).take(limit).cloned().collect();
        Since {
            next: begin + traces.len() as u64,
            traces,
            dropped: oldest.saturating_sub(number),
            skipped: self.skipped.load(Relaxed),
        }
    }

    fn keep(&self, trace: Arc<Trace>) {
        let mut kept = lock(&self.kept);
        while kept.traces.len() >= self.settings.kept {
            kept.traces.pop_front();
        }
        kept.traces.push_back(trace);
        kept.next += 1;
    }

    /// The tags still valid, and their version. Turns `on` off when the last one has expired and nothing else
    /// can pick.
    fn tags(&self, now: Duration) -> (u64, Vec<Tag>) {
        let mut tags = lock(&self.tags);
        tags.retain(|tag| tag.until > now);
        if tags.is_empty() && self.settings.sample == 0 && !self.settings.reply {
            self.on.store(false, Relaxed);
        }
        (self.tags_version.load(Relaxed), tags.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The view of one worker: picks messages without a lock shared by workers.
#[derive(Debug)]
pub struct Picker {
    explain: Arc<Explain>,
    /// Increased by the sample with every message; a message is picked whenever this passes [`SAMPLE_OF`].
    counted: Cell<u32>,
    /// The tags of a version.
    tags: RefCell<(u64, Vec<Tag>)>,
    /// The second of [`WATCHED_PER_SECOND_MAX`], and what was explained in it.
    watched: Cell<(u64, u32)>,
}

/// A message to be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picked {
    /// Whether its client also gets the explanation.
    pub reply: bool,
}

impl Picker {
    /// Creates the view of a worker.
    pub fn new(explain: Arc<Explain>) -> Self {
        Self { explain, counted: Cell::new(0), tags: RefCell::default(), watched: Cell::default() }
    }

    /// Whether any message can be picked. This is the only cost of a message while none can.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.explain.on.load(Relaxed)
    }

    /// The clock for the times in explanations.
    pub fn clock(&self) -> Clock {
        self.explain.clock
    }

    /// Whether to explain an event of this client. `now` is the time since the start of the process.
    pub fn pick(&self, now: Duration, client: &Client, channel: Option<&Channel>) -> Option<Picked> {
        let settings = &self.explain.settings;
        let asks = || client.headers.iter().any(|(name, value)| **name == *HEADER && !value.is_empty());
        let reply = settings.reply && asks();
        let sampled = self.sample(settings.sample);
        (reply || self.is_tagged(now, client, channel) || sampled).then_some(Picked { reply })
    }

    /// Whether an operator watches any client. A connecting client may turn out to be one of them.
    pub fn watches(&self, now: Duration) -> bool {
        self.renew(now);
        !self.tags.borrow().1.is_empty()
    }

    /// Whether to explain the delivery of a publication of this user; an empty user is anonymous.
    pub fn pick_delivery(&self, now: Duration, user: &str, channel: &Channel) -> bool {
        let is_meant = |whose: &Whose| match whose {
            Whose::User(watched) => !user.is_empty() && **watched == *user,
            other => other.is_on(Some(channel)),
        };
        let tagged = self.is_watched(now, is_meant);
        self.sample(self.explain.settings.sample) || tagged
    }

    /// Keeps an explanation.
    pub fn keep(&self, trace: Arc<Trace>) {
        self.explain.keep(trace);
    }

    fn sample(&self, sample: u32) -> bool {
        let counted = self.counted.get() + sample;
        self.counted.set(counted % SAMPLE_OF);
        counted >= SAMPLE_OF
    }

    /// Whether an operator watches this client, or this channel.
    pub fn is_tagged(&self, now: Duration, client: &Client, channel: Option<&Channel>) -> bool {
        self.is_watched(now, |whose| whose.is(client, channel))
    }

    fn is_watched(&self, now: Duration, is_meant: impl Fn(&Whose) -> bool) -> bool {
        self.renew(now);
        let tags = self.tags.borrow();
        let mut meant = tags.1.iter().filter(|tag| is_meant(&tag.whose)).peekable();
        meant.peek().is_some() && (meant.any(|tag| !tag.whose.is_limited()) || self.may_watch(now))
    }

    /// Takes one of the explanations of this second.
    fn may_watch(&self, now: Duration) -> bool {
        let (second, count) = self.watched.get();
        let count = if second == now.as_secs() { count } else { 0 };
        let may = count < WATCHED_PER_SECOND_MAX;
        self.watched.set((now.as_secs(), count + u32::from(may)));
        if !may {
            self.explain.skipped.fetch_add(1, Relaxed);
        }
        may
    }

    fn renew(&self, now: Duration) {
        let mut tags = self.tags.borrow_mut();
        let outdated = tags.1.iter().any(|tag| tag.until <= now);
        if outdated || tags.0 != self.explain.tags_version.load(Relaxed) {
            *tags = self.explain.tags(now);
        }
    }
}

#[cfg(test)]
mod tests;
