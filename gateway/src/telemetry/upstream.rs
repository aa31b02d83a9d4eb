//! [`UpstreamMetrics`] counts the events of one upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tracing::{debug, error, warn};

use super::metrics::SharedCounter;
use super::target::{AskMetrics, TargetMetrics};

/// The counters of one upstream. They include the queue's size, so that the queue and the metric cannot
/// disagree. An event has the number of its kind, which is its place among the names.
#[derive(Debug)]
pub struct UpstreamMetrics {
    name: Box<str>,
    kinds: &'static [&'static str],
    sent: Box<[SharedCounter]>,
    dead: Box<[SharedCounter]>,
    lost: Box<[SharedCounter]>,
    pub(super) retried: SharedCounter,
    pub(super) refused: SharedCounter,
    pub(super) requests: SharedCounter,
    pub(super) unspooled: SharedCounter,
    pub(super) damaged: SharedCounter,
    queued_events: AtomicU64,
    queued_bytes: AtomicU64,
    /// Its targets, in the order of the configuration.
    pub targets: Arc<[TargetMetrics]>,
    /// The questions to it.
    pub asks: AskMetrics,
    spool_bytes: AtomicU64,
    oldest: AtomicU64,
}

impl UpstreamMetrics {
    pub(super) fn new(name: &str, targets: usize, kinds: &'static [&'static str]) -> Self {
        let each = || kinds.iter().map(|_| SharedCounter::default()).collect();
        Self {
            targets: (0..targets).map(TargetMetrics::new).collect(),
            asks: AskMetrics::default(),
            name: name.into(),
            kinds,
            sent: each(),
            dead: each(),
            lost: each(),
            retried: SharedCounter::default(),
            refused: SharedCounter::default(),
            requests: SharedCounter::default(),
            unspooled: SharedCounter::default(),
            damaged: SharedCounter::default(),
            queued_events: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            spool_bytes: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
        }
    }

    /// Events by outcome and kind: every combination that has occurred.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let counts = |counters: &[SharedCounter]| Vec::from_iter(counters.iter().map(SharedCounter::get));
        let all = [("sent", counts(&self.sent)), ("dead", counts(&self.dead)), ("lost", counts(&self.lost))];
        let each = |(outcome, counters)| {
            let counts = self.kinds.iter().zip::<Vec<u64>>(counters);
            counts.map(move |(kind, count)| (outcome, *kind, count))
        };
        all.into_iter().flat_map(each).filter(|(_, _, count)| *count > 0)
    }

    /// Events that the upstream has accepted, and those that were given up.
    pub(super) fn totals(&self) -> (u64, u64) {
        let sum = |counters: &[SharedCounter]| counters.iter().map(SharedCounter::get).sum();
        (sum(&self.sent), sum(&self.dead) + sum(&self.lost))
    }

    /// Name of the upstream.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Events and bytes that are queued or in flight.
    pub fn queued(&self) -> (u64, u64) {
        (self.queued_events.load(Relaxed), self.queued_bytes.load(Relaxed))
    }

    /// Counts a queued event of this size. Must be followed by one [`left`](Self::left).
    pub fn entered(&self, bytes: u64) {
        self.queued_events.fetch_add(1, Relaxed);
        self.queued_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts an event of this size that was delivered or given up.
    pub fn left(&self, bytes: u64) {
        self.queued_events.fetch_sub(1, Relaxed);
        self.queued_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Counts a plugin's event that found the queue full.
    pub fn refused(&self) {
        self.refused.inc();
        if self.refused.get().is_power_of_two() {
            let (upstream, count) = (&*self.name, self.refused.get());
            warn!(upstream, count, "upstream queue full; plugins that emit get an error");
        }
    }

    /// Bytes of the files that keep events.
    pub fn spool_bytes(&self) -> u64 {
        self.spool_bytes.load(Relaxed)
    }

    /// Sets the bytes of these files.
    pub fn set_spool_bytes(&self, bytes: u64) {
        self.spool_bytes.store(bytes, Relaxed);
    }

    /// When the oldest event that is queued or in flight happened, in Unix time in milliseconds; 0 if there
    /// is none.
    pub fn oldest(&self) -> u64 {
        self.oldest.load(Relaxed)
    }

    /// Sets that time.
    pub fn set_oldest(&self, at: u64) {
        self.oldest.store(at, Relaxed);
    }

    /// Counts events that could not be written to a file.
    pub fn unspooled(&self, events: u64) {
        self.unspooled.add(events);
    }

    /// Counts lines of these files that could not be read.
    pub fn damaged(&self, lines: u64) {
        self.damaged.add(lines);
    }

    /// Counts a request.
    pub fn requested(&self) {
        self.requests.inc();
    }

    /// Counts a delivered event.
    pub fn sent(&self, kind: usize) {
        self.sent[kind].inc();
    }

    /// Counts an event that was lost: there was no room to give it up.
    pub fn lost(&self, kind: usize) {
        self.lost[kind].inc();
    }

    /// Counts a failed attempt; the next follows after a pause.
    pub fn retried(&self, id: &str, attempt: u32, why: &str, pause: Duration) {
        self.retried.inc();
        debug!(
            upstream = &*self.name,
            id,
            attempt,
            why,
            ?pause,
            "event not delivered; retrying after a pause"
        );
        if attempt == 1 && self.retried.get().is_power_of_two() {
            warn!(upstream = &*self.name, why, "upstream does not accept events; retrying");
        }
    }

    /// Counts an event that was given up and is in no file, although there is one for it.
    pub fn given_up_unwritten(&self, kind: usize, id: &str, why: &str) {
        self.lost(kind);
        error!(
            upstream = &*self.name,
            id, why, "event lost: it was given up and is not in the dead-letter file"
        );
    }

    /// Counts an event that was given up.
    pub fn dead(&self, kind: usize, id: &str, why: &str) {
        self.dead[kind].inc();
        error!(upstream = &*self.name, id, why, "event given up");
    }
}
