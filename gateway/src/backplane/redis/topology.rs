//! `Topology` knows the servers: which one has which slot, which one is assigned to each shard, and the
//! connections to them.

pub(crate) mod shard;
pub(crate) mod poll;
pub(crate) mod sentinel;
pub(crate) mod cluster;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::{Notify, watch};

use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::format::slots::SlotMap;
use crate::backplane::redis::topology::shard::{Shard, all};
use crate::config;
use crate::protocol::channel::Channel;
use crate::telemetry::backplane::{BackplaneMetrics, Unfit};

/// See the module.
pub(crate) struct Topology {
    pub(crate) slot_map: Arc<SlotMap>,
    /// One for each server.
    pub(crate) shards: Box<[Shard]>,
    /// Whether the servers are known.
    pub(crate) mapped: watch::Sender<bool>,
    /// Notified when a slot was found at another server than expected.
    pub(crate) moved: Notify,
    /// Whether there has ever been a usable connection.
    served: AtomicBool,
    /// Number of connections made so far.
    connections: AtomicU64,
}

impl Topology {
    pub(crate) fn new(redis: &config::Redis, metrics: &Arc<BackplaneMetrics>) -> Self {
        let (slot_map, shards) = all(redis, metrics);
        Self {
            mapped: watch::channel(!slot_map.are_moving()).0,
            slot_map,
            shards,
            moved: Notify::new(),
            served: AtomicBool::new(false),
            connections: AtomicU64::new(0),
        }
    }

    /// The shard of a channel.
    pub(crate) fn shard(&self, channel: &Channel) -> &Shard {
        &self.shards[self.slot_map.shard_of(channel)]
    }

    /// The shard of the server that holds the keys of all nodes.
    pub(crate) fn shared_shard(&self) -> &Shard {
        &self.shards[self.slot_map.shared_shard()]
    }

    /// The connection to the shared server, which holds the keys of all nodes, if there is one.
    pub(crate) fn shared_server(&self) -> Option<Arc<ServerConnection>> {
        self.shared_shard().connection.borrow().clone()
    }

    /// Why no channel is served, if a shard other than `but` has found a reason.
    pub(crate) fn conflict(&self, but: Option<usize>) -> Option<Arc<str>> {
        let others = self.shards.iter().enumerate().filter(|(shard_index, _)| Some(*shard_index) != but);
        let mut found =
            others.map(|(_, shard)| shard.conflict.lock().unwrap_or_else(PoisonError::into_inner).clone());
        found.find_map(|conflict| conflict)
    }

    /// A number for the next connection.
    pub(crate) fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// There is a usable connection.
    pub(crate) fn serves(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    /// Whether there has ever been a usable connection.
    pub(crate) fn has_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// The identity of the server whose streams continue over a connection.
    pub(crate) fn identity<'a>(&self, connection: &'a ServerConnection) -> Identity<'a> {
        let since = self.shards[connection.shard].since.load(Ordering::Acquire);
        Identity {
            id: &connection.replication_id,
            since,
            text: with_since(&connection.replication_id, since),
        }
    }

    /// Records the settings of a server that do not fit the configuration.
    pub(crate) fn set_unfit(
        &self,
        shard_index: usize,
        found: Vec<(Unfit, String)>,
        metrics: &BackplaneMetrics,
    ) {
        let shard = &self.shards[shard_index];
        let found: Vec<_> = found.into_iter().map(|(unfit, why)| (unfit, shard.status.named(&why))).collect();
        let mut known = shard.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == found {
            return;
        }
        for (unfit, why) in found.iter().filter(|one| !known.contains(one)) {
            metrics.unfit(*unfit, why);
        }
        if found.is_empty() {
            metrics.fits();
        }
        *known = found;
        drop(known);
        let has = |unfit: Unfit| {
            let has = |shard: &Shard| {
                let unfits = shard.unfit.lock().unwrap_or_else(PoisonError::into_inner);
                unfits.iter().any(|(one, _)| *one == unfit)
            };
            self.shards.iter().any(has)
        };
        metrics.unfits(Unfit::ALL.map(has));
    }
}

/// Identity of a server whose streams continue: its replication id, and the time since which streams count,
/// if limited.
pub(crate) struct Identity<'a> {
    id: &'a str,
    since: u64,
    text: Cow<'a, str>,
}

impl Identity<'_> {
    /// For any channel.
    pub(crate) fn any(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.text)
    }

    /// For a channel whose streams count since this time under the rules in use; 0 for no limit.
    pub(crate) fn counting_since(&self, since: u64) -> Cow<'_, str> {
        if since > self.since { with_since(self.id, since) } else { self.any() }
    }
}

fn with_since(id: &str, since: u64) -> Cow<'_, str> {
    if since == 0 { Cow::Borrowed(id) } else { Cow::Owned(format!("{id}/{since}")) }
}
