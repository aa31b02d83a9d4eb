//! [`Upstreams`] delivers the events that plugins emit to HTTP endpoints behind the gateway, off the path of
//! messages.
//!
//! Each upstream has one bounded queue. A plugin that emits into a full queue gets an error. An accepted
//! event is delivered **at least once** while the process lives: if the endpoint does not answer with success
//! in time, the same event is sent again with the same id. Undeliverable events go to the dead-letter file.
//!
//! With `in_flight_max = 1`, an upstream receives events in queue order, and an event under retry holds up
//! those behind it. Events of one connection enter the queue in the order they were emitted; between
//! connections of different workers there is no order to keep. With more in flight, order is not kept at all.

mod queue;
mod deliver;
mod sign;
mod dead;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::queue::Queue;
use crate::clock::Clock;
use crate::config;
use crate::egress::Client;
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::NodeMetrics;
use crate::telemetry::upstream::UpstreamMetrics;

/// An event on its way to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Unique; the same for every attempt.
    pub id: Box<str>,
    /// The plugin that emitted it.
    pub plugin: Arc<str>,
    /// The id of the connection; empty if there is none.
    pub connection: Arc<str>,
    /// The user; empty for none.
    pub user: Arc<str>,
    /// Unix time in milliseconds at which it was emitted.
    pub at: u64,
    /// Its content.
    pub payload: Bytes,
}

/// The source of an event, for [`Upstreams::put`].
#[derive(Debug, Clone)]
pub struct Origin {
    /// The plugin.
    pub plugin: Arc<str>,
    /// The id of the connection; empty if there is none.
    pub connection: Arc<str>,
    /// The user; empty for none.
    pub user: Arc<str>,
}

/// Why an upstream accepts no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The configuration has no upstream of this name.
    Unknown,
    /// Its queue is full.
    Full,
}

/// Whether the process is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Not yet.
    No,
    /// No more events will be emitted. Events not delivered at this time since the start go to the
    /// dead-letter file.
    At(Duration),
}

/// Every upstream of the configuration.
pub struct Upstreams {
    by_name: BTreeMap<Box<str>, Arc<Upstream>>,
    /// Whether every name exists and accepts everything.
    noop: bool,
    client: Client,
    clock: Clock,
    /// Random, so that ids of two processes differ.
    node: u64,
    emitted: AtomicU64,
}

/// One upstream.
struct Upstream {
    name: Box<str>,
    config: config::Upstream,
    queue: Queue,
    metrics: Arc<UpstreamMetrics>,
}

impl Upstreams {
    /// For tools and tests that run plugins without a gateway: every upstream exists, and its events are
    /// dropped.
    pub fn noop() -> Arc<Self> {
        Arc::new(Self {
            by_name: BTreeMap::new(),
            noop: true,
            client: Client::new(),
            clock: Clock::start(),
            node: 0,
            emitted: AtomicU64::new(0),
        })
    }

    /// The upstreams of a configuration. `node` is random.
    pub fn new(
        configured: &BTreeMap<Box<str>, config::Upstream>,
        client: Client,
        metrics: &NodeMetrics,
        clock: Clock,
        node: u64,
    ) -> Arc<Self> {
        let by_name = configured.iter().map(|(name, config)| {
            let metrics = metrics.upstream(name);
            let queue = Queue::new(config.queue_events_max, config.queue_bytes_max, metrics.clone());
            let upstream = Upstream { name: name.clone(), config: config.clone(), queue, metrics };
            (name.clone(), Arc::new(upstream))
        });
        let by_name = by_name.collect();
        Arc::new(Self { by_name, noop: false, client, clock, node, emitted: AtomicU64::new(0) })
    }

    /// Whether an upstream accepts a payload of this size now.
    ///
    /// # Errors
    ///
    /// If there is no such upstream, or its queue is full.
    pub fn room(&self, name: &str, bytes: usize) -> Result<(), NoRoom> {
        if self.noop {
            return Ok(());
        }
        let upstream = self.by_name.get(name).ok_or(NoRoom::Unknown)?;
        if upstream.queue.has_room(bytes) {
            return Ok(());
        }
        upstream.metrics.refused();
        Err(NoRoom::Full)
    }

    /// Queues a payload for an upstream that had [`room`](Self::room) a moment ago. It is accepted even if
    /// there is none left, because the plugin was promised so; the excess is bounded by what plugins may
    /// record in one event.
    pub fn put(&self, name: &str, origin: Origin, payload: Bytes, now: u64) {
        let Some(upstream) = self.by_name.get(name) else { return };
        let count = self.emitted.fetch_add(1, Relaxed);
        let id = format!("msg_{:016x}{count:012x}", self.node).into();
        let Origin { plugin, connection, user } = origin;
        upstream.queue.put(Event { id, plugin, connection, user, at: now, payload });
    }

    /// Delivers until `stop` announces the end and everything is delivered, or its time is up.
    ///
    /// Dropping the future leaves events undelivered and unrecorded.
    pub async fn run(self: Arc<Self>, stop: watch::Receiver<Stop>, supervisor: Supervisor) {
        let mut running = JoinSet::new();
        for upstream in self.by_name.values() {
            let delivery = deliver::Delivery {
                upstream: upstream.clone(),
                client: self.client.clone(),
                clock: self.clock,
                dead: dead::DeadLetters::of(&upstream.config),
            };
            let part = format!("upstream {}", upstream.name);
            running.spawn(supervisor.until_done(&part, delivery.run(stop.clone())));
        }
        while running.join_next().await.is_some() {}
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

#[cfg(test)]
mod tests;
