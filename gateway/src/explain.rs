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

/// Connections that an operator watches at a time.
pub const TAGS_MAX: usize = 16;
/// Longest time to watch, in seconds.
pub const SECONDS_MAX: u64 = 3_600;
/// With what a client asks: a header of the handshake that the configuration keeps.
pub const HEADER: &str = "x-gateway-explain";
/// What a sample is counted in.
const SAMPLE_OF: u32 = 10_000;

/// Whose messages an operator wants explained.
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
    /// Since the start of the process.
    until: Duration,
}

/// Of the whole process.
#[derive(Debug)]
pub struct Explain {
    settings: config::Explain,
    clock: Clock,
    /// False while no message can be picked.
    on: AtomicBool,
    tags: Mutex<Vec<Tag>>,
    /// Grows with every change of the tags.
    tags_version: AtomicU64,
    /// The oldest first.
    kept: Mutex<VecDeque<Arc<Trace>>>,
}

impl Explain {
    /// Nothing is explained yet.
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

    /// Watches some connections for a while, from now on. False if as many are watched as may be.
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

    /// The last explanations, the newest first.
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

    /// The tags that are still of use, and their version. Switches off when the last one has passed.
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

/// One worker's view: picks messages without a lock that workers share.
#[derive(Debug)]
pub struct Picker {
    explain: Arc<Explain>,
    /// Grows by the sample with every message; one is picked whenever it passes [`SAMPLE_OF`].
    counted: Cell<u32>,
    /// The tags as they were at a version.
    tags: RefCell<(u64, Vec<Tag>)>,
}

/// A message that is to be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picked {
    /// Whether its client gets the explanation as well.
    pub reply: bool,
}

impl Picker {
    /// For a worker.
    pub fn new(explain: Arc<Explain>) -> Self {
        Self { explain, counted: Cell::new(0), tags: RefCell::default() }
    }

    /// Whether any message can be picked. All that a message costs while none can.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.explain.on.load(Relaxed)
    }

    /// The clock that explanations measure with.
    pub fn clock(&self) -> Clock {
        self.explain.clock
    }

    /// Whether a message of this client is to be explained. `now` is the time since the start of the process.
    pub fn pick(&self, now: Duration, client: &Client) -> Option<Picked> {
        let settings = &self.explain.settings;
        let asks = || client.headers.iter().any(|(name, value)| **name == *HEADER && !value.is_empty());
        let reply = settings.reply && asks();
        let sampled = self.sample(settings.sample);
        (reply || self.is_tagged(now, client) || sampled).then_some(Picked { reply })
    }

    /// Whether an operator watches anybody. A client that connects may turn out to be the one.
    pub fn watches(&self, now: Duration) -> bool {
        self.renew(now);
        !self.tags.borrow().1.is_empty()
    }

    /// Whether what this user published, empty for nobody, is to be explained when it is delivered.
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
