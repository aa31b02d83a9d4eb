//! [`UpstreamMetrics`] counts the events of one upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tracing::{debug, error, warn};

use super::metrics::SharedCounter;
use super::target::{AskMetrics, TargetMetrics};

/// The counters of one upstream. They include the queue's size, so that the queue and the metric cannot
/// disagree.
#[derive(Debug)]
pub struct UpstreamMetrics {
    name: Box<str>,
    pub(super) sent: SharedCounter,
    pub(super) retried: SharedCounter,
    pub(super) dead: SharedCounter,
    pub(super) refused: SharedCounter,
    queued_events: AtomicU64,
    queued_bytes: AtomicU64,
    /// Its targets, in the order of the configuration.
    pub targets: Arc<[TargetMetrics]>,
    /// The questions to it.
    pub asks: AskMetrics,
}

impl UpstreamMetrics {
    pub(super) fn new(name: &str, targets: usize) -> Self {
        Self {
            targets: (0..targets).map(TargetMetrics::new).collect(),
            asks: AskMetrics::default(),
            name: name.into(),
            sent: SharedCounter::default(),
            retried: SharedCounter::default(),
            dead: SharedCounter::default(),
            refused: SharedCounter::default(),
            queued_events: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
        }
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

    /// Counts a delivered event.
    pub fn sent(&self) {
        self.sent.inc();
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

    /// Counts an event that was given up.
    pub fn dead(&self, id: &str, why: &str) {
        self.dead.inc();
        error!(upstream = &*self.name, id, why, "event given up");
    }
}
