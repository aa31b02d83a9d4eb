//! A `Shard` is one server of a topology: its queues, its state, and the server assigned at the moment.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::connection::status::Status;
use crate::backplane::redis::format::slots::SlotMap;
use crate::config::{self, RedisSentinels, RedisServer, RedisTopology};
use crate::telemetry::backplane::{BackplaneMetrics, Unfit};

/// Maximum number of servers of a Cluster with slots.
pub(crate) const CLUSTER_SERVERS_MAX: usize = 64;

/// A server with everything that leads to it. A server that is away does not affect the others.
pub(crate) struct Shard {
    pub(crate) status: Status,
    pub(crate) assignment: watch::Sender<Assignment>,
    /// The connection in use.
    pub(crate) connection: watch::Sender<Option<Arc<ServerConnection>>>,
    /// Triggers a health check before its time.
    pub(crate) doubt: Notify,
    /// Replication id of the server that was used last.
    pub(crate) server: Mutex<Box<str>>,
    /// Time since which streams of the server count, as agreed among the gateways; 0 for no limit.
    pub(crate) since: AtomicU64,
    /// Triggers a comparison of the positions of all channels.
    pub(crate) recheck: Notify,
    /// Time of the last publication, in milliseconds plus one; 0 for never.
    published: AtomicU64,
    /// Time at which the server replaced another one, in the same form.
    replaced: AtomicU64,
    /// Reason why this gateway must not serve, because of other gateways on the server.
    pub(crate) conflict: Mutex<Option<Arc<str>>>,
    /// Number of consecutive registrations with such a reason.
    pub(crate) conflicts: AtomicU32,
    /// Settings of the server that do not fit the configuration.
    pub(crate) unfit: Mutex<Vec<(Unfit, String)>>,
}

impl Shard {
    /// Records a publication.
    pub(crate) fn has_published(&self, at: Duration) {
        self.published.store(stamp(at), Ordering::Relaxed);
    }

    /// Time of the last publication.
    pub(crate) fn published_at(&self) -> Option<Duration> {
        time(&self.published)
    }

    /// Uses the server with this replication id from now on. Returns the previous one, if it was another
    /// server.
    pub(crate) fn comes_to(&self, server: &str) -> Option<Box<str>> {
        let mut known = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, server.into());
        (!before.is_empty() && *before != *server).then_some(before)
    }

    /// Records when the server replaced another one, or when a gateway came late from that one.
    pub(crate) fn replaced(&self, at: Option<Duration>) {
        self.replaced.store(at.map_or(0, stamp), Ordering::Relaxed);
    }

    /// Whether that was at most this long ago.
    pub(crate) fn was_replaced_within(&self, time_of_it: Duration, at: Duration) -> bool {
        time(&self.replaced).is_some_and(|replaced| at.saturating_sub(replaced) < time_of_it)
    }

    /// Whether it has a server, but no connection to it.
    pub(crate) fn is_away(&self) -> bool {
        self.assignment.borrow().assigned != Assigned::Nobody && self.status.connection().is_none()
    }
}

fn stamp(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

fn time(stamp: &AtomicU64) -> Option<Duration> {
    stamp.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis)
}

/// The assignment of a shard. A connection is made for one assignment, and given up when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) assigned: Assigned,
    /// Whether it is the shared server, which holds the keys of all nodes.
    pub(crate) is_shared: bool,
}

/// The assigned server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Assigned {
    /// None: the Cluster has fewer servers.
    Nobody,
    Server(RedisServer),
    /// The master named by these Sentinels.
    Master(RedisSentinels),
}

/// Creates all shards of a topology, with their assignments as far as known.
pub(crate) fn all(redis: &config::Redis, metrics: &Arc<BackplaneMetrics>) -> (Arc<SlotMap>, Box<[Shard]>) {
    let mut names = vec![None];
    let (slot_map, slots_by_server) = match &redis.topology {
        RedisTopology::Server(server) => (SlotMap::new(&[]), vec![Assigned::Server(server.clone())]),
        RedisTopology::Sentinels(sentinels) => (SlotMap::new(&[]), vec![Assigned::Master(sentinels.clone())]),
        RedisTopology::Servers(servers) => {
            names = servers.iter().map(|server| Some(server.to_string())).collect();
            (SlotMap::new(servers), servers.iter().cloned().map(Assigned::Server).collect())
        }
        RedisTopology::Cluster(_) => {
            names = vec![None; CLUSTER_SERVERS_MAX];
            (SlotMap::of_cluster(), vec![Assigned::Nobody; CLUSTER_SERVERS_MAX])
        }
    };
    let slot_map = Arc::new(slot_map);
    let mapped = !slot_map.are_moving();
    let shard = |(shard_index, (status, assigned)): (usize, (Status, Assigned))| {
        if mapped || shard_index == 0 {
            status.begin();
        }
        let assignment = Assignment { assigned, is_shared: mapped && shard_index == slot_map.shared_shard() };
        let (assignment, connection) = (watch::channel(assignment).0, watch::channel(None).0);
        Shard {
            status,
            assignment,
            connection,
            doubt: Notify::new(),
            server: Mutex::default(),
            since: AtomicU64::new(0),
            recheck: Notify::new(),
            published: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            conflict: Mutex::default(),
            conflicts: AtomicU32::new(0),
            unfit: Mutex::default(),
        }
    };
    let each = Status::of(names, metrics).into_iter().zip(slots_by_server).enumerate();
    let shards = each.map(shard).collect();
    (slot_map, shards)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::topology::shard::*;
    use crate::config::Config;

    #[test]
    fn another_server_than_before_is_noticed_and_the_first_one_of_all_is_none() {
        let config = Config::parse("redis.url = 'redis://127.0.0.1:1'", "test").unwrap();
        let (_, shards) = all(&config.redis.unwrap(), &Arc::default());
        let came = ["a", "a", "b", "b"].map(|server| shards[0].comes_to(server));
        assert_eq!(came, [None, None, Some("a".into()), None]);
        let at = Duration::from_secs(7);
        shards[0].replaced(Some(at));
        assert!(shards[0].was_replaced_within(Duration::from_secs(2), at + Duration::from_secs(1)));
        assert!(!shards[0].was_replaced_within(Duration::from_secs(2), at + Duration::from_secs(2)));
    }
}
