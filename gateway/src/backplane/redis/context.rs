//! `Context` is what every part of the backplane reads, and nothing changes after the start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::backplane::inbox::Inbox;
use crate::backplane::occupancy::Teller;
use crate::backplane::redis::format::keys::{Keys, node_name};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::connection_id::ConnectionIds;
use crate::mix::mix;
use crate::revocation::Revocations;
use crate::shutdown::Phase;
use crate::telemetry::backplane::BackplaneMetrics;

/// See the module.
pub(crate) struct Context {
    /// Configuration of the gateway.
    pub(crate) gateway: Arc<Config>,
    /// Its table for Redis.
    pub(crate) config: config::Redis,
    pub(crate) keys: Keys,
    /// Inboxes of all workers.
    pub(crate) inboxes: Arc<[Arc<Inbox>]>,
    pub(crate) ids: ConnectionIds,
    pub(crate) clock: Clock,
    /// Random identifier of this process.
    pub(crate) node: u64,
    /// Name of this gateway for people.
    pub(crate) name: Box<str>,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Tokens that do not count any more, and blocked users.
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) metrics: Arc<BackplaneMetrics>,
    /// Tells of channels that become occupied or vacated; `None` if nobody is told.
    pub(crate) teller: Option<Arc<Teller>>,
    /// Makes the epochs of new streams unique.
    pub(crate) epochs: AtomicU64,
}

impl Context {
    /// Name of this gateway in Redis, in the log and in the API.
    pub(crate) fn node_name(&self) -> String {
        node_name(self.node)
    }

    /// A unique epoch for a new stream, different from those of other nodes.
    pub(crate) fn fresh_epoch(&self) -> String {
        let count = self.epochs.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        format!("{:016x}", mix(count))
    }

    /// The worker of a connection that very probably belongs to this node: ids of other nodes decode to
    /// another value, except for one in many millions.
    pub(crate) fn worker_of(&self, id: &str) -> Option<usize> {
        let number = self.ids.number(id)?;
        let worker = ConnectionIds::worker(number);
        (worker < self.inboxes.len() && ConnectionIds::count(number) < 1 << 32).then_some(worker)
    }
}
