//! [`ConsumerMetrics`] counts the entries of one consumer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::metrics::SharedCounter;
use crate::seldom::Seldom;

/// The counters of one consumer, and the state of what it carries out at the same time.
#[derive(Debug)]
pub struct ConsumerMetrics {
    name: Box<str>,
    pub(super) done: SharedCounter,
    pub(super) retried: SharedCounter,
    pub(super) dead: SharedCounter,
    partitions: Box<[Partition]>,
    lines: Seldom,
}

/// A stream, subject or partition.
#[derive(Debug, Default)]
struct Partition {
    connected: AtomicBool,
    paused: AtomicBool,
    /// Unix time in milliseconds of the entry that is carried out; 0 for none.
    entry_from: AtomicU64,
}

impl ConsumerMetrics {
    pub(super) fn new(name: &str, partitions: usize) -> Self {
        Self {
            name: name.into(),
            done: SharedCounter::default(),
            retried: SharedCounter::default(),
            dead: SharedCounter::default(),
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            lines: Seldom::usual(),
        }
    }

    /// Name of the consumer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Records that the connection of a partition works from now on.
    pub fn connected(&self, partition: usize) {
        if !self.partitions[partition].connected.swap(true, Relaxed) {
            info!(consumer = &*self.name, partition, "consumer connected");
        }
    }

    /// Records that a partition has no connection, and why. Another gateway may have its entries by now.
    pub fn disconnected(&self, partition: usize, why: &str) {
        self.left(partition);
        if let Some(also_since_last_line) = self.lines.take() {
            warn!(
                also_since_last_line,
                consumer = &*self.name,
                partition,
                why,
                "consumer not connected; trying again"
            );
        }
    }

    /// Records that a partition has ended with the process.
    pub fn ended(&self, partition: usize) {
        self.left(partition);
    }

    fn left(&self, partition: usize) {
        self.partitions[partition].connected.store(false, Relaxed);
        self.partitions[partition].paused.store(false, Relaxed);
        self.took(partition, 0);
    }

    /// Records when the entry that a partition carries out was made; 0 if it has none.
    pub fn took(&self, partition: usize, entry_from: u64) {
        self.partitions[partition].entry_from.store(entry_from, Relaxed);
    }

    /// Counts an entry that was carried out.
    pub fn done(&self, partition: usize) {
        self.done.inc();
        self.resumed(partition);
    }

    /// Counts an attempt that was refused for now; the next follows after a pause.
    pub fn retried(&self, partition: usize, id: &str, attempt: u64, why: &str, pause: Duration) {
        self.retried.inc();
        debug!(
            consumer = &*self.name,
            partition,
            id,
            attempt,
            why,
            ?pause,
            "entry not carried out; retrying"
        );
        if !self.partitions[partition].paused.swap(true, Relaxed) {
            warn!(consumer = &*self.name, partition, id, why, "consumer paused; an entry is refused for now");
        }
    }

    /// Counts an entry that was given up.
    pub fn dead(&self, partition: usize, id: &str, why: &str) {
        self.dead.inc();
        error!(consumer = &*self.name, partition, id, why, "entry given up");
        self.resumed(partition);
    }

    fn resumed(&self, partition: usize) {
        if self.partitions[partition].paused.swap(false, Relaxed) {
            info!(consumer = &*self.name, partition, "consumer goes on");
        }
    }

    /// Number of partitions with a connection.
    pub fn connections(&self) -> u64 {
        self.partitions.iter().filter(|partition| partition.connected.load(Relaxed)).count() as u64
    }

    /// Number of partitions.
    pub fn partitions(&self) -> u64 {
        self.partitions.len() as u64
    }

    /// Number of partitions whose entry is refused for now.
    pub fn paused(&self) -> u64 {
        self.partitions.iter().filter(|partition| partition.paused.load(Relaxed)).count() as u64
    }

    /// Age in milliseconds of the oldest entry that is carried out now; 0 if there is none.
    pub fn lag(&self, unix: u64) -> u64 {
        let from = self
            .partitions
            .iter()
            .map(|partition| partition.entry_from.load(Relaxed))
            .filter(|from| *from != 0)
            .min();
        from.map_or(0, |from| unix.saturating_sub(from))
    }

    /// What is wrong with it, as a sentence; `None` if nothing is.
    pub fn trouble(&self) -> Option<Box<str>> {
        let name = &self.name;
        let missing = self.partitions() - self.connections();
        match (missing, self.paused()) {
            (0, 0) => None,
            (0, paused) => Some(format!("consumer {name}: {paused} of {} paused", self.partitions()).into()),
            (missing, _) => {
                Some(format!("consumer {name}: {missing} of {} not connected", self.partitions()).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entry_that_waits_is_the_lag() {
        let metrics = ConsumerMetrics::new("orders", 3);
        assert_eq!(metrics.lag(10_000), 0);
        metrics.took(0, 9_000);
        metrics.took(1, 4_000);
        assert_eq!(metrics.lag(10_000), 6_000);
        metrics.took(1, 0);
        assert_eq!(metrics.lag(10_000), 1_000);
        assert_eq!(metrics.lag(8_000), 0, "the clock of the queue may be ahead");
    }

    #[test]
    fn trouble_is_what_is_not_connected_before_what_is_paused() {
        let metrics = ConsumerMetrics::new("orders", 2);
        assert_eq!(metrics.trouble().as_deref(), Some("consumer orders: 2 of 2 not connected"));
        metrics.connected(0);
        metrics.connected(1);
        assert_eq!(metrics.trouble(), None);
        metrics.retried(1, "7", 1, "busy", Duration::ZERO);
        assert_eq!(metrics.trouble().as_deref(), Some("consumer orders: 1 of 2 paused"));
        metrics.done(1);
        assert_eq!(metrics.trouble(), None);
    }

    #[test]
    fn an_entry_that_another_gateway_may_have_is_neither_paused_nor_late_here() {
        let metrics = ConsumerMetrics::new("orders", 1);
        metrics.connected(0);
        metrics.took(0, 4_000);
        metrics.retried(0, "7", 1, "busy", Duration::ZERO);
        metrics.disconnected(0, "another gateway has taken over");
        assert_eq!((metrics.paused(), metrics.lag(10_000)), (0, 0));
        metrics.connected(0);
        assert_eq!(metrics.trouble(), None);
    }
}
