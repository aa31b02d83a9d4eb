//! [`Picker`] chooses the events to explain; [`Explain`] keeps the latest explanations. [`Trace`] is the
//! content of one.
//!
//! Besides messages, this covers everything else that plugins saw of a client: its connect, refresh and
//! disconnect, and the deliveries of its publications. An event is explained for one of three reasons: it is
//! part of a sample; the operator named its user or an attribute of its connection for a while; or its client
//! asked and the operator allows that. While all of this is off, a message costs one read of a flag.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::config;
use crate::plugin::event::Client;
use crate::plugin::trace::Trace;

/// Maximum number of users and attributes that an operator watches at a time.
pub const TAGS_MAX: usize = 16;
/// Maximum time to watch, in seconds.
pub const SECONDS_MAX: u64 = 3_600;
/// The header by which a client asks, in its handshake; the configuration must keep it.
pub const HEADER: &str = "x-gateway-explain";
/// Unit of the sample: messages out of this many.
const SAMPLE_OF: u32 = 10_000;

/// The clients whose messages an operator wants explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// Of this user.
    User(Box<str>),
    /// Of connections with this attribute.
    Attribute(Box<str>, Box<str>),
}

impl Whose {
    fn is(&self, client: &Client) -> bool {
        match self {
            Self::User(user) => *client.user == **user,
            Self::Attribute(name, value) => client.attributes.get(name) == Some(value),
        }
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
    /// Oldest first.
    kept: Mutex<VecDeque<Arc<Trace>>>,
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
        lock(&self.kept).iter().rev().take(limit).cloned().collect()
    }

    fn keep(&self, trace: Arc<Trace>) {
        let mut kept = lock(&self.kept);
        while kept.len() >= self.settings.kept {
            kept.pop_front();
        }
        kept.push_back(trace);
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
        Self { explain, counted: Cell::new(0), tags: RefCell::default() }
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

    /// Whether to explain a message of this client. `now` is the time since the start of the process.
    pub fn pick(&self, now: Duration, client: &Client) -> Option<Picked> {
        let settings = &self.explain.settings;
        let asks = || client.headers.iter().any(|(name, value)| **name == *HEADER && !value.is_empty());
        let reply = settings.reply && asks();
        let sampled = self.sample(settings.sample);
        (reply || self.is_tagged(now, client) || sampled).then_some(Picked { reply })
    }

    /// Whether an operator watches any client. A connecting client may turn out to be one of them.
    pub fn watches(&self, now: Duration) -> bool {
        self.renew(now);
        !self.tags.borrow().1.is_empty()
    }

    /// Whether to explain the delivery of a publication of this user; an empty user is anonymous.
    pub fn pick_delivery(&self, now: Duration, user: &str) -> bool {
        self.renew(now);
        let is_of_user = |tag: &Tag| matches!(&tag.whose, Whose::User(watched) if **watched == *user);
        let tagged = !user.is_empty() && self.tags.borrow().1.iter().any(is_of_user);
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

    /// Whether an operator watches this client.
    pub fn is_tagged(&self, now: Duration, client: &Client) -> bool {
        self.renew(now);
        self.tags.borrow().1.iter().any(|tag| tag.whose.is(client))
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
