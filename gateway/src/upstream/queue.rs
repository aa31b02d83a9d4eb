//! `Queue` holds the events of one upstream. Workers fill it, one task empties it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Event;
use crate::telemetry::upstream::UpstreamMetrics;

/// Bytes counted for an event in addition to its payload.
const EVENT_BYTES: usize = 256;

/// A queue of events, bounded in number and bytes. An event counts until it is delivered or given up, not
/// only until it is taken out.
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Arc<Event>>>,
    arrived: Notify,
    events_max: u64,
    bytes_max: u64,
    /// Counts the events that are queued or in flight.
    metrics: Arc<UpstreamMetrics>,
}

impl Queue {
    pub(super) fn new(events_max: usize, bytes_max: usize, metrics: Arc<UpstreamMetrics>) -> Self {
        let (events_max, bytes_max) = (events_max as u64, bytes_max as u64);
        Self { waiting: Mutex::default(), arrived: Notify::new(), events_max, bytes_max, metrics }
    }

    /// Whether one more event of this size fits.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let (events, queued) = self.metrics.queued();
        events < self.events_max && queued + (bytes + EVENT_BYTES) as u64 <= self.bytes_max
    }

    pub(super) fn put(&self, event: Event) {
        self.metrics.entered(size(&event));
        self.lock().push_back(Arc::new(event));
        self.arrived.notify_one();
    }

    /// Takes the next event.
    pub(super) fn take(&self) -> Option<Arc<Event>> {
        self.lock().pop_front()
    }

    /// An event that was taken out has been delivered or given up.
    pub(super) fn done(&self, event: &Event) {
        self.metrics.left(size(event));
    }

    /// Waits until an event is queued. Dropping the future loses nothing.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Event>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(event: &Event) -> u64 {
    (event.payload.len() + EVENT_BYTES) as u64
}
