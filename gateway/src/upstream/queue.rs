//! `Queue` holds the events of one upstream that are in its spool. The thread of the spools fills it, one
//! task empties it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Event;
use super::batch::{Limits, Next};
use super::spool::Place;
use crate::config;
use crate::telemetry::upstream::UpstreamMetrics;

/// Bytes counted for an event in addition to its payload.
const EVENT_BYTES: usize = 256;

/// Events that found the queue full which are kept until they are given up, whatever the size of the queue.
const REFUSED_EVENTS_MAX: u64 = 1024;
const REFUSED_BYTES_MAX: u64 = 4 << 20;

/// Starts of the gateway that a full queue takes in addition: what the events before them say is not over
/// otherwise.
const STARTS_MAX: u64 = 100;

/// A queue of events, bounded in number and bytes. An event counts from the moment it was accepted until it
/// is delivered or given up.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    arrived: Notify,
    events_max: u64,
    bytes_max: u64,
    spool_bytes_max: u64,
    limits: Limits,
    /// Counts the events that are accepted and neither delivered nor given up.
    metrics: Arc<UpstreamMetrics>,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    /// Events that found the queue full, and their bytes.
    refused: Vec<Arc<Event>>,
    refused_bytes: u64,
}

/// An event that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) event: Arc<Event>,
    /// In the spool; `None` if it could not be written there.
    pub(super) place: Option<Place>,
    /// When it came into the queue, since the start of the process.
    pub(super) since: Duration,
}

/// What [`Queue::take`] gives.
pub(super) enum Taken {
    /// Events of one request.
    Events(Vec<Waiting>),
    /// Nothing before this time.
    WaitUntil(Duration),
    /// Nothing until an event arrives.
    Nothing,
}

impl Queue {
    pub(super) fn new(config: &config::Upstream, metrics: Arc<UpstreamMetrics>) -> Self {
        Self {
            inner: Mutex::default(),
            arrived: Notify::new(),
            events_max: config.queue_events_max as u64,
            bytes_max: config.queue_bytes_max as u64,
            spool_bytes_max: config.spool_bytes_max as u64,
            limits: Limits::of(config),
            metrics,
        }
    }

    /// Whether one more event of this size fits.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let (events, queued) = self.metrics.queued();
        let bytes = (bytes + EVENT_BYTES) as u64;
        events < self.events_max
            && queued + bytes <= self.bytes_max
            && self.metrics.spool_bytes() + bytes <= self.spool_bytes_max
    }

    /// Whether one more event fits that says that a process has started.
    pub(super) fn has_room_for_start(&self) -> bool {
        self.metrics.queued().0 < self.events_max + STARTS_MAX
    }

    /// Counts an event that was accepted. Must be followed by one [`done`](Self::done).
    pub(super) fn accepted(&self, event: &Event) {
        self.metrics.entered(size(event));
    }

    /// Adds accepted events, in order.
    pub(super) fn put(&self, events: impl Iterator<Item = Waiting>) {
        self.lock().waiting.extend(events);
        self.arrived.notify_one();
    }

    /// Keeps an event that found the queue full, until it is given up. As many of them are kept as the queue
    /// may have events and bytes, or [`REFUSED_EVENTS_MAX`], but always one; false if this one is not.
    pub(super) fn refuse(&self, event: Event) -> bool {
        let mut inner = self.lock();
        let (count, bytes) = (inner.refused.len() as u64, inner.refused_bytes + size(&event));
        let is_full =
            count >= self.events_max.max(REFUSED_EVENTS_MAX) || bytes > self.bytes_max.max(REFUSED_BYTES_MAX);
        // One of any size: it may be larger than the whole queue.
        if count > 0 && is_full {
            return false;
        }
        inner.refused_bytes = bytes;
        inner.refused.push(Arc::new(event));
        drop(inner);
        self.arrived.notify_one();
        true
    }

    /// Takes the events that found the queue full.
    pub(super) fn take_refused(&self) -> Vec<Arc<Event>> {
        let mut inner = self.lock();
        inner.refused_bytes = 0;
        std::mem::take(&mut inner.refused)
    }

    /// Takes the events of the next request. See [`Limits::next`].
    pub(super) fn take(&self, at: Duration, hurry: bool) -> Taken {
        let mut inner = self.lock();
        match self.limits.next(&inner.waiting, at, hurry) {
            Next::Send(count) => Taken::Events(inner.waiting.drain(..count).collect()),
            Next::WaitUntil(until) => Taken::WaitUntil(until),
            Next::Nothing => Taken::Nothing,
        }
    }

    /// When the first event that waits happened, in Unix time in milliseconds.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.lock().waiting.front().map(|waiting| waiting.event.at)
    }

    /// Takes everything.
    pub(super) fn take_all(&self) -> Vec<Waiting> {
        self.lock().waiting.drain(..).collect()
    }

    /// Bounds of the requests.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// An event has been delivered or given up.
    pub(super) fn done(&self, event: &Event) {
        self.metrics.left(size(event));
    }

    /// Waits until an event is queued. Dropping the future loses nothing.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(event: &Event) -> u64 {
    (event.payload.len() + EVENT_BYTES) as u64
}
