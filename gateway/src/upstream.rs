//! [`Upstreams`] delivers the events that plugins emit to HTTP services behind the gateway, and puts questions
//! to them, off the path of messages.
//!
//! An upstream has one or more targets (`targets.rs`): for each request one is chosen by weight among those
//! that are up (`chooser.rs`), and one that keeps failing gets nothing for a while (`breaker.rs`).
//!
//! Each upstream has one bounded queue. A plugin that emits into a full queue gets an error. An accepted
//! event is delivered **at least once** while the process lives: if the endpoint does not answer with success
//! in time, the same event is sent again with the same id. Undeliverable events go to the dead-letter file.
//!
//! With `in_flight_max = 1`, an upstream receives events in queue order, and an event under retry holds up
//! those behind it. Events of one connection enter the queue in the order they were emitted; between
//! connections of different workers there is no order to keep. With more in flight, order is not kept at all.

mod targets;
mod chooser;
mod breaker;
mod health;
mod queue;
mod deliver;
mod sign;
mod dead;
mod ask;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::ask::dispatch::Dispatch;
use self::ask::queue::AskQueue;
pub use self::ask::{AskError, AskRequest};
use self::queue::Queue;
use self::targets::Targets;
pub use self::targets::{TargetStatus, WeightsError};
use crate::clock::Clock;
use crate::config;
use crate::egress::Client;
use crate::mix::{STEP, mix};
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::NodeMetrics;
use crate::telemetry::upstream::UpstreamMetrics;

/// The value of `user-agent`.
const USER_AGENT: &str = concat!("gateway/", env!("CARGO_PKG_VERSION"));

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

/// What an operator sees of an upstream.
#[derive(Debug, Clone)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: Box<str>,
    /// Its targets, in the order of the configuration.
    pub targets: Vec<TargetStatus>,
    /// Its events and questions.
    pub metrics: Arc<UpstreamMetrics>,
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
    targets: Arc<Targets>,
    queue: Queue,
    questions: AskQueue,
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
        let by_name = configured.iter().zip(1..).map(|((name, config), number)| {
            let metrics = metrics.upstream(name, config.targets.len());
            let seed = mix(STEP.wrapping_mul(number).wrapping_add(node));
            let targets = Targets::new(name, config, clock, seed, metrics.targets.clone());
            let queue = Queue::new(config.queue_events_max, config.queue_bytes_max, metrics.clone());
            let questions = AskQueue::new(&config.asks, metrics.clone());
            let (name, config) = (name.clone(), config.clone());
            let upstream = Upstream { name: name.clone(), config, targets, queue, questions, metrics };
            (name, Arc::new(upstream))
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
        let id = self.next_id();
        let Origin { plugin, connection, user } = origin;
        upstream.queue.put(Event { id, plugin, connection, user, at: now, payload });
    }

    /// The id of the next event or question.
    fn next_id(&self) -> Box<str> {
        let count = self.emitted.fetch_add(1, Relaxed);
        format!("msg_{:016x}{count:012x}", self.node).into()
    }

    /// Every upstream, by name.
    pub fn status(&self) -> Vec<UpstreamStatus> {
        let status = |upstream: &Arc<Upstream>| UpstreamStatus {
            name: upstream.name.clone(),
            targets: upstream.targets.status(),
            metrics: upstream.metrics.clone(),
        };
        self.by_name.values().map(status).collect()
    }

    /// Replaces the weights of the targets of an upstream, from the next request on.
    ///
    /// # Errors
    ///
    /// If there is no such upstream, or the weights do not fit its targets.
    pub fn set_weights(&self, name: &str, weights: &[u32]) -> Result<(), WeightsError> {
        self.by_name.get(name).ok_or(WeightsError::Unknown)?.targets.set_weights(weights)
    }

    /// Delivers until `stop` announces the end and everything is delivered, or its time is up. Questions end
    /// at once then.
    ///
    /// Dropping the future leaves events undelivered and unrecorded.
    pub async fn run(self: Arc<Self>, stop: watch::Receiver<Stop>, supervisor: Supervisor) {
        let mut running = JoinSet::new();
        // They go on until all is delivered.
        let mut checks = JoinSet::new();
        for upstream in self.by_name.values() {
            let delivery = deliver::Delivery {
                upstream: upstream.clone(),
                client: self.client.clone(),
                clock: self.clock,
                dead: dead::DeadLetters::of(&upstream.config),
            };
            let part = format!("upstream {}", upstream.name);
            running.spawn(supervisor.until_done(&part, delivery.run(stop.clone())));
            let asking = Dispatch::new(upstream.clone(), self.client.clone(), self.clock).run(stop.clone());
            running.spawn(supervisor.until_done(&format!("{part}, questions"), asking));
            let checking = health::run(upstream.clone(), self.client.clone());
            checks.spawn(supervisor.until_done(&format!("{part}, checks"), checking));
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
