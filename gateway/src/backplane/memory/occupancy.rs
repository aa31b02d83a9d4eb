//! `Occupancy` notices when a channel of a single node becomes occupied or vacated.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backplane::TICK;
use crate::backplane::occupancy::{Delayed, Teller};
use crate::protocol::channel::Channel;

/// See the module. The lock of a channel's shard is held in each call for this channel, so that an observer
/// is told in the right order.
pub(super) struct Occupancy {
    teller: Arc<Teller>,
    /// Channels that were told to be occupied and have no subscriber any more.
    delayed: Mutex<Delayed>,
    /// The time of the last tick, in milliseconds.
    ticked: AtomicU64,
}

impl Occupancy {
    pub(super) fn new(teller: Arc<Teller>) -> Self {
        let delayed = Mutex::new(Delayed::new(teller.delayed_max()));
        Self { teller, delayed, ticked: AtomicU64::new(0) }
    }

    fn delayed(&self) -> MutexGuard<'_, Delayed> {
        self.delayed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel has its first subscriber.
    pub(super) fn came(&self, channel: &Channel) {
        if !self.teller.wants(channel) {
            return;
        }
        self.teller.metrics().came();
        if !self.delayed().remove(channel) {
            self.teller.occupied(channel);
        }
    }

    /// A channel has lost its last subscriber.
    pub(super) fn left(&self, channel: &Channel) {
        if !self.teller.wants(channel) {
            return;
        }
        self.teller.metrics().left();
        let delay = self.teller.delay();
        // The next tick may come at once, so one is added.
        let due = Duration::from_millis(self.ticked.load(Ordering::Relaxed)) + TICK + delay;
        if delay.is_zero() || !self.delayed().put(channel, due) {
            self.teller.vacated(channel);
        }
    }

    /// The next channel that may be vacated. [`settle`](Self::settle) must follow.
    pub(super) fn next(&self, at: Duration) -> Option<Channel> {
        self.ticked.fetch_max(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.delayed().first_due(at)
    }

    /// Tells that a channel is vacated, unless it has a subscriber again.
    pub(super) fn settle(&self, channel: &Channel, at: Duration) {
        let is_vacated = self.delayed().remove_due(channel, at);
        if is_vacated {
            self.teller.vacated(channel);
        }
    }
}
