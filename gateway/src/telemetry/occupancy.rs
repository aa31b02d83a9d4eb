//! [`OccupancyMetrics`] counts channels that become occupied and vacated.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing::debug;

use super::metrics::SharedCounter;
use crate::log_users;

/// The counters of occupied channels, in namespaces whose occupancy is told.
#[derive(Debug, Default)]
pub struct OccupancyMetrics {
    pub(super) occupied: SharedCounter,
    pub(super) vacated: SharedCounter,
    channels: AtomicU64,
}

impl OccupancyMetrics {
    /// Counts a channel that this gateway has told to be occupied.
    pub fn occupied(&self, channel: &str) {
        self.occupied.inc();
        debug!(channel = %log_users::address(channel), "channel occupied");
    }

    /// Counts a channel that this gateway has told to be vacated.
    pub fn vacated(&self, channel: &str) {
        self.vacated.inc();
        debug!(channel = %log_users::address(channel), "channel vacated");
    }

    /// Counts a channel that has its first subscriber at this gateway. One [`left`](Self::left) must follow.
    pub fn came(&self) {
        self.channels.fetch_add(1, Relaxed);
    }

    /// Counts a channel that has lost its last subscriber at this gateway.
    pub fn left(&self) {
        self.channels.fetch_sub(1, Relaxed);
    }

    /// Number of channels with subscribers at this gateway.
    pub fn channels(&self) -> u64 {
        self.channels.load(Relaxed)
    }
}
