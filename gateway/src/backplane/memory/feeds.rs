//! [`Feeds`]: which workers have subscribers of patterns, by namespace.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use rustc_hash::FxBuildHasher;

use crate::protocol::channel::{Channel, Target};

/// See the module. A publisher reads one number where no worker has any.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    /// Number of namespaces below. Written under the lock.
    namespaces: AtomicUsize,
    /// One bit for each worker.
    workers: RwLock<HashMap<Box<str>, u64, FxBuildHasher>>,
}

impl Feeds {
    /// Adds the interest of a worker in the feed of a namespace.
    pub(super) fn add(&self, worker: usize, feed: &Channel) {
        let Some(namespace) = feed.namespace() else { return };
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        *workers.entry(namespace.into()).or_default() |= 1 << worker;
        self.namespaces.store(workers.len(), Ordering::Release);
    }

    /// Removes the interest of a worker.
    pub(super) fn remove(&self, worker: usize, feed: &Channel) {
        let Some(namespace) = feed.namespace() else { return };
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(interest) = workers.get_mut(namespace) {
            *interest &= !(1 << worker);
            if *interest == 0 {
                workers.remove(namespace);
            }
        }
        self.namespaces.store(workers.len(), Ordering::Release);
    }

    /// The workers that get the publications of a channel for patterns, one bit each.
    pub(super) fn workers(&self, channel: &Channel) -> u64 {
        if self.namespaces.load(Ordering::Acquire) == 0 || channel.target() != Target::Channel {
            return 0;
        }
        let Some(namespace) = channel.namespace() else { return 0 };
        let workers = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        workers.get(namespace).copied().unwrap_or(0)
    }
}
