//! [`Upstreams`] delivers events to HTTP services behind the gateway, and puts questions to them, off the path
//! of messages. Events are those that plugins emit, and those of the gateway itself (see
//! [`events`](crate::events)).
//!
//! An upstream has one or more targets (`targets.rs`): for each request one is chosen by weight among those
//! that are up (`chooser.rs`), and one that keeps failing gets nothing for a while (`breaker.rs`).
//!
//! Each upstream has one bounded queue. A plugin that emits into a full queue gets an error; an event of the
//! gateway that finds it full is given up at once. An accepted event is written to the spool of its upstream,
//! and then delivered **at least once**, also if the process is killed: if the endpoint does not answer with
//! success in time, the same event is sent again with the same id. Undeliverable events go to the dead-letter
//! file.
//!
//! With `in_flight_max = 1`, an upstream receives events in queue order, and an event under retry holds up
//! those behind it. Events of one connection enter the queue in the order they happened; between connections
//! of different workers there is no order to keep. With more in flight, order is not kept at all.

mod targets;
mod chooser;
mod breaker;
mod health;
mod record;
mod spool;
mod handover;
mod queue;
mod batch;
mod deliver;
mod sign;
mod dead;
mod ask;
pub mod replay;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use self::ask::dispatch::Dispatch;
use self::ask::queue::AskQueue;
pub use self::ask::{AskError, AskRequest};
use self::handover::{Handover, Job};
use self::queue::{Queue, Waiting};
use self::spool::{Left, Spool};
use self::targets::Targets;
pub use self::targets::{TargetStatus, WeightsError};
use crate::clock::Clock;
use crate::config;
use crate::dead_letters::DeadLetters;
use crate::egress::Client;
use crate::mix::{STEP, mix};
use crate::seldom::seldom;
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::NodeMetrics;
use crate::telemetry::upstream::UpstreamMetrics;

/// The value of `user-agent`.
const USER_AGENT: &str = concat!("gateway/", env!("CARGO_PKG_VERSION"));

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plugin has emitted it.
    Emitted,
    /// A process has started: what an earlier one with the same state folder told as open is over.
    GatewayStarted,
    /// A client was admitted.
    Connected,
    /// It has gone.
    Disconnected,
    /// A client has a subscription.
    Subscribed,
    /// It has it no more.
    Unsubscribed,
    /// A publication was accepted.
    Published,
    /// A channel has its first subscriber.
    Occupied,
    /// A channel has no subscriber any more.
    Vacated,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Emitted,
        Self::GatewayStarted,
        Self::Connected,
        Self::Disconnected,
        Self::Subscribed,
        Self::Unsubscribed,
        Self::Published,
        Self::Occupied,
        Self::Vacated,
    ];

    /// Their names, in the same order.
    pub const NAMES: [&str; 9] = [
        "emitted",
        "gateway_started",
        "connected",
        "disconnected",
        "subscribed",
        "unsubscribed",
        "published",
        "occupied",
        "vacated",
    ];

    /// The name in the body of a request.
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The place among [`Kind::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// An event on its way to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Unique; the same for every attempt.
    pub id: Box<str>,
    /// What it is about.
    pub kind: Kind,
    /// The plugin that emitted it; empty for an event of the gateway.
    pub plugin: Arc<str>,
    /// The id of the connection; empty if there is none. An event of the gateway has it in its content.
    pub connection: Arc<str>,
    /// The user; empty for none. An event of the gateway has it in its content.
    pub user: Arc<str>,
    /// Unix time in milliseconds at which it happened.
    pub at: u64,
    /// Its content: what a plugin emitted, or the JSON object of an event of the gateway.
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
    /// No more events will come. Events not delivered at this time since the start stay in the spool.
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
    handover: Arc<Handover>,
    /// One for each upstream, until the thread that writes them has started; `None` keeps events in memory
    /// only.
    spools: Mutex<Vec<Option<Spool>>>,
    client: Client,
    clock: Clock,
    /// Random, so that ids of two processes differ.
    node: u64,
    emitted: AtomicU64,
}

/// One upstream.
struct Upstream {
    /// Its place among all.
    number: usize,
    name: Box<str>,
    config: config::Upstream,
    targets: Arc<Targets>,
    queue: Queue,
    questions: AskQueue,
    metrics: Arc<UpstreamMetrics>,
}

/// Why the spool of an upstream cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the folder {folder} for the events of the upstream `{name}`: {error}")]
pub struct SpoolError {
    name: Box<str>,
    folder: String,
    error: std::io::Error,
}

impl Upstreams {
    /// For tools and tests that run plugins without a gateway: every upstream exists, and its events are
    /// dropped.
    pub fn noop() -> Arc<Self> {
        Arc::new(Self {
            by_name: BTreeMap::new(),
            noop: true,
            handover: Arc::default(),
            spools: Mutex::default(),
            client: Client::new(),
            clock: Clock::start(),
            node: 0,
            emitted: AtomicU64::new(0),
        })
    }

    /// The upstreams of a configuration. `node` is random. `folder` is that of the spools: events that an
    /// earlier process left there are delivered first.
    ///
    /// # Errors
    ///
    /// If a spool cannot be read or made.
    pub fn new(
        configured: &BTreeMap<Box<str>, config::Upstream>,
        folder: &Path,
        client: Client,
        metrics: &NodeMetrics,
        clock: Clock,
        node: u64,
    ) -> Result<Arc<Self>, SpoolError> {
        let (mut by_name, mut spools) = (BTreeMap::new(), Vec::new());
        for (number, (name, config)) in configured.iter().enumerate() {
            let metrics = metrics.upstream(name, config.targets.len(), &Kind::NAMES);
            let seed = mix(STEP.wrapping_mul(number as u64 + 1).wrapping_add(node));
            let upstream = Upstream {
                number,
                name: name.clone(),
                targets: Targets::new(name, config, clock, seed, metrics.targets.clone()),
                queue: Queue::new(config, metrics.clone()),
                questions: AskQueue::new(&config.asks, metrics.clone()),
                config: config.clone(),
                metrics,
            };
            // With an ending: a name may be "..".
            let folder = folder.join(format!("{name}{SPOOL_ENDING}"));
            let (spool, left) = Spool::open(&folder, config.spool_bytes_max as u64).map_err(|error| {
                SpoolError { name: name.clone(), folder: folder.display().to_string(), error }
            })?;
            upstream.take_up(&spool, left);
            spools.push(Some(spool));
            by_name.insert(name.clone(), Arc::new(upstream));
        }
        warn_of_others(folder, &by_name);
        let (handover, spools) = (Arc::default(), Mutex::new(spools));
        let emitted = AtomicU64::new(0);
        Ok(Arc::new(Self { by_name, noop: false, handover, spools, client, clock, node, emitted }))
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
        let Origin { plugin, connection, user } = origin;
        let event =
            Event { id: self.next_id(), kind: Kind::Emitted, plugin, connection, user, at: now, payload };
        self.accept(upstream, event);
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

    /// Queues an event of the gateway. If there is no room, it is given up: it goes to the dead-letter file.
    /// `content` makes its JSON object, for its id.
    pub fn tell(&self, name: &str, kind: Kind, at: u64, content: impl FnOnce(&str) -> Vec<u8>) {
        let Some(upstream) = self.by_name.get(name) else { return };
        let id = self.next_id();
        let payload = content(&id).into();
        let (plugin, connection, user) = Default::default();
        let event = Event { id, kind, plugin, connection, user, at, payload };
        let queue = &upstream.queue;
        if queue.has_room(event.payload.len()) || kind == Kind::GatewayStarted && queue.has_room_for_start() {
            self.accept(upstream, event);
        } else if !upstream.queue.refuse(event) {
            upstream.metrics.lost(kind.index());
            seldom!(
                error,
                upstream = name,
                kind = kind.as_str(),
                "event lost: the queue is full, and so is that of events to give up"
            );
        }
    }

    /// Unix time in milliseconds.
    pub fn now(&self) -> u64 {
        self.clock.now().unix
    }

    /// Whether an accepted event is not in the spool yet.
    pub fn has_unwritten(&self) -> bool {
        self.handover.has_unwritten()
    }

    /// Notifies the sender once every event that was accepted before is in the spool.
    pub fn when_written(&self, sender: oneshot::Sender<()>) {
        if self.handover.has_unwritten() {
            self.handover.when_written(sender);
        } else {
            let _ = sender.send(());
        }
    }

    /// Delivers until `stop` announces the end and everything is delivered, or its time is up. Questions end
    /// at once then. Must run only once.
    ///
    /// Dropping the future leaves events undelivered; they stay in the spool.
    pub async fn run(self: Arc<Self>, stop: watch::Receiver<Stop>, supervisor: Supervisor) {
        if self.by_name.is_empty() {
            return;
        }
        let upstreams: Vec<_> = self.by_name.values().cloned().collect();
        let spools = std::mem::take(&mut *self.spools.lock().unwrap_or_else(PoisonError::into_inner));
        let (handover, clock) = (self.handover.clone(), self.clock);
        let writing = supervisor.thread("spools".to_owned(), move || {
            handover.run(&upstreams, spools, clock);
            Ok::<_, Infallible>(())
        });
        let written = match writing {
            Ok(written) => written,
            Err(error) => return supervisor.report("spools", error),
        };
        let mut running = JoinSet::new();
        // They go on until all is delivered.
        let mut checks = JoinSet::new();
        for upstream in self.by_name.values() {
            let delivery = deliver::Delivery {
                upstream: upstream.clone(),
                handover: self.handover.clone(),
                client: self.client.clone(),
                clock: self.clock,
                dead: DeadLetters::new(
                    upstream.config.dead_letter.as_deref(),
                    upstream.config.dead_letter_bytes_max,
                ),
            };
            let part = format!("upstream {}", upstream.name);
            running.spawn(supervisor.until_done(&part, delivery.run(stop.clone())));
            let asking = Dispatch::new(upstream.clone(), self.client.clone(), self.clock).run(stop.clone());
            running.spawn(supervisor.until_done(&format!("{part}, questions"), asking));
            let checking = health::run(upstream.clone(), self.client.clone());
            checks.spawn(supervisor.until_done(&format!("{part}, checks"), checking));
        }
        while running.join_next().await.is_some() {}
        self.handover.close();
        let _ = written.await;
    }

    fn accept(&self, upstream: &Upstream, event: Event) {
        upstream.queue.accepted(&event);
        self.handover.put(Job::Event(upstream.number, event));
    }

    /// The id of the next event or question.
    fn next_id(&self) -> Box<str> {
        let count = self.emitted.fetch_add(1, Relaxed);
        format!("msg_{:016x}{count:012x}", self.node).into()
    }
}

impl Upstream {
    /// Queues what an earlier process has left.
    fn take_up(&self, spool: &Spool, left: Left) {
        let Left { events, skipped } = left;
        let upstream = &*self.name;
        if !events.is_empty() {
            tracing::info!(
                upstream,
                events = events.len(),
                "sending the events that an earlier process left"
            );
        }
        if skipped > 0 {
            self.metrics.damaged(skipped);
            tracing::error!(
                upstream,
                lines = skipped,
                "lines of the spool could not be read; an event may be lost"
            );
        }
        self.metrics.set_spool_bytes(spool.bytes());
        let waiting = events.into_iter().map(|(place, event)| {
            self.queue.accepted(&event);
            Waiting { event: Arc::new(event), place: Some(place), since: Duration::ZERO }
        });
        self.queue.put(waiting);
    }
}

/// Ending of the names of folders with spools.
const SPOOL_ENDING: &str = ".spool";

/// Says if there are events for upstreams that the configuration does not have any more.
fn warn_of_others(folder: &Path, configured: &BTreeMap<Box<str>, Arc<Upstream>>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(SPOOL_ENDING)) else { continue };
        let has_files = || std::fs::read_dir(entry.path()).is_ok_and(|mut files| files.next().is_some());
        if !configured.contains_key(name) && has_files() {
            tracing::warn!(
                upstream = name,
                folder = %entry.path().display(),
                "there are events for an upstream that the configuration does not have; configure it to have them sent, or \
                 remove the folder"
            );
        }
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

#[cfg(test)]
mod tests;
