//! [`BackplaneMetrics`] counts the events of a networked backplane.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing::{info, warn};

use super::metrics::SharedCounter;
use crate::seldom::seldom;

/// The closed set of problems with Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// There is no connection.
    Unreachable,
    /// There is a connection, but no reply.
    Silent,
    /// User, password or permissions are wrong.
    Refused,
    /// The server is a replica.
    Replica,
    /// The server refuses writes: out of memory, disk full, or too few replicas.
    Writes,
    /// Other gateways divide channels among other servers, or use another version of the wire format.
    Differs,
}

/// The closed set of unfit settings of a Redis server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It evicts kept data when memory is short.
    Eviction,
    /// It has less memory than may be needed.
    Memory,
    /// It loses its data at a restart.
    Persistence,
    /// It has, or requires, too few replicas.
    Replicas,
}

impl Unfit {
    /// Every value.
    pub const ALL: [Self; 4] = [Self::Eviction, Self::Memory, Self::Persistence, Self::Replicas];

    /// The value of the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eviction => "eviction",
            Self::Memory => "memory",
            Self::Persistence => "persistence",
            Self::Replicas => "replicas",
        }
    }
}

/// The closed set of differences between gateways on one Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The version of the wire format.
    Wire,
    /// Limits of sizes.
    Limits,
    /// Rules of channels.
    Rules,
    /// The plugins of the chain.
    Plugins,
    /// The version of the gateway.
    Version,
}

impl Subject {
    /// Every value.
    pub const ALL: [Self; 5] = [Self::Wire, Self::Limits, Self::Rules, Self::Plugins, Self::Version];

    /// The value of the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Limits => "limits",
            Self::Rules => "rules",
            Self::Plugins => "plugins",
            Self::Version => "version",
        }
    }
}

impl Trouble {
    /// Every value.
    pub const ALL: [Self; 6] =
        [Self::Unreachable, Self::Silent, Self::Refused, Self::Replica, Self::Writes, Self::Differs];

    /// The value of the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Replica => "replica",
            Self::Writes => "writes",
            Self::Differs => "differs",
        }
    }

    /// What an operator can do. The gateway itself goes on trying, whatever the problem.
    const fn next_step(self) -> &'static str {
        match self {
            Self::Unreachable => "check that the server runs, and that the addresses in [redis] lead to it",
            Self::Silent => "check the load of the server, and the network to it",
            Self::Refused => "check redis.username and redis.password, and the permissions of this user",
            Self::Replica => "name the master in [redis], or its Sentinels",
            Self::Writes => "check the memory, the disk and the replicas of the server",
            Self::Differs => "run one version, with the same [redis] section, on all gateways",
        }
    }
}

/// The counters of the connection to Redis.
#[derive(Debug, Default)]
pub struct BackplaneMetrics {
    /// 0 for none, else the index in [`Trouble::ALL`] plus one.
    trouble: AtomicU64,
    pub(super) links: SharedCounter,
    pub(super) failed: SharedCounter,
    pub(super) too_few_replicas: SharedCounter,
    pub(super) malformed: SharedCounter,
    pub(super) unknown: SharedCounter,
    pub(super) received: SharedCounter,
    pub(super) checked: SharedCounter,
    pub(super) behind: SharedCounter,
    pub(super) died: SharedCounter,
    waiting: AtomicU64,
    nodes: AtomicU64,
    /// Number of other gateways that differ, in the order of [`Subject::ALL`].
    differing: [AtomicU64; Subject::ALL.len()],
    /// Whether a setting is unfit, in the order of [`Unfit::ALL`].
    unfit: [AtomicU64; Unfit::ALL.len()],
}

impl BackplaneMetrics {
    /// Sets the current problem, with a sentence.
    pub fn trouble(&self, trouble: Option<(Trouble, String)>) {
        let index =
            trouble.as_ref().and_then(|(trouble, _)| Trouble::ALL.iter().position(|one| one == trouble));
        self.trouble.store(index.map_or(0, |index| index as u64 + 1), Relaxed);
        match trouble {
            Some((trouble, cause)) => {
                let next_step = trouble.next_step();
                let trouble = trouble.as_str();
                warn!(trouble, cause, next_step, "backplane degraded; this gateway serves alone");
            }
            None => info!("backplane healthy"),
        }
    }

    /// Whether this is the current problem.
    pub(super) fn is_in(&self, trouble: Trouble) -> bool {
        let index = self.trouble.load(Relaxed) as usize;
        index.checked_sub(1).and_then(|index| Trouble::ALL.get(index)) == Some(&trouble)
    }

    /// Counts a connection to Redis, and logs to which server.
    pub fn linked(&self, server: &str) {
        self.links.inc();
        info!(server, "redis connected");
    }

    /// Counts a failed request.
    pub fn failed(&self, why: &str) {
        self.failed.inc();
        if self.failed.get().is_power_of_two() {
            warn!(count = self.failed.get(), why, "redis request failed; caller was asked to retry");
        }
    }

    /// Counts a publication that only this many replicas had in time.
    pub fn too_few_replicas(&self, replicas: u64) {
        self.too_few_replicas.inc();
        if self.too_few_replicas.get().is_power_of_two() {
            let count = self.too_few_replicas.get();
            warn!(count, replicas, "publication on too few redis replicas in time; publisher got an error");
        }
    }

    /// Logs the loss of a message without a waiting sender, such as a plugin's publication, which did not
    /// reach Redis.
    pub fn lost(&self, why: &str) {
        seldom!(warn, why, "message from a plugin or the gateway to other gateways lost");
    }

    /// Counts a message that this version cannot decode.
    pub fn malformed(&self) {
        self.malformed.inc();
        if self.malformed.get().is_power_of_two() {
            warn!(count = self.malformed.get(), "message from redis dropped; this version cannot decode it");
        }
    }

    /// Counts a message of a kind unknown to this version, sent by a later version: this is no error.
    pub fn unknown(&self) {
        self.unknown.inc();
    }

    /// Counts a message from Redis.
    pub fn received(&self) {
        self.received.inc();
    }

    /// Counts comparisons of positions with Redis, and the channels that had advanced without this node
    /// noticing.
    pub fn checked(&self, channels: u64, behind: u64) {
        self.checked.add(channels);
        self.behind.add(behind);
        if behind > 0 {
            info!(channels, behind, "channels advanced while redis was away; their subscribers are notified");
        }
    }

    /// Sets the number of live gateways, including this one.
    pub fn nodes(&self, alive: u64) {
        self.nodes.store(alive, Relaxed);
    }

    /// Number of live gateways, including this one; 0 before the first count.
    pub fn alive(&self) -> u64 {
        self.nodes.load(Relaxed)
    }

    /// Sets the number of other gateways that differ, in the order of [`Subject::ALL`].
    pub fn differing(&self, counts: [u64; Subject::ALL.len()]) {
        self.differing.iter().zip(counts).for_each(|(known, count)| known.store(count, Relaxed));
    }

    /// Number of other gateways that differ in this.
    pub(super) fn differing_in(&self, subject: Subject) -> u64 {
        let index = Subject::ALL.iter().position(|one| *one == subject);
        index.map_or(0, |index| self.differing[index].load(Relaxed))
    }

    /// A setting of a server does not fit the configuration.
    pub fn unfit(&self, unfit: Unfit, why: &str) {
        warn!(unfit = unfit.as_str(), why, "redis setting does not fit the guarantees of the configuration");
    }

    /// The settings of a server fit again.
    pub fn fits(&self) {
        info!("redis settings fit the guarantees of the configuration");
    }

    /// Sets what is unfit at any server, in the order of [`Unfit::ALL`].
    pub fn unfits(&self, all: [bool; Unfit::ALL.len()]) {
        self.unfit.iter().zip(all).for_each(|(known, unfit)| known.store(u64::from(unfit), Relaxed));
    }

    /// Whether this does not fit.
    pub(super) fn is_unfit(&self, unfit: Unfit) -> bool {
        let index = Unfit::ALL.iter().position(|one| *one == unfit);
        index.is_some_and(|index| self.unfit[index].load(Relaxed) != 0)
    }

    /// Logs that the differences of another gateway have changed.
    pub fn differs(&self, node: &str, sentences: &[&str]) {
        if sentences.is_empty() {
            info!(node, "another gateway no longer differs");
        } else {
            let differences = sentences.join("; ");
            warn!(node, differences, "another gateway differs; both apply the safer rule");
        }
    }

    /// Logs that another gateway has not applied the rules of this one in the expected time.
    pub fn disagrees(&self, id: &str, name: &str) {
        warn!(node = id, name, "another gateway has not confirmed the rules of this one");
    }

    /// Logs a new gateway.
    pub fn node_came(&self, id: &str, name: &str, version: &str) {
        info!(node = id, name, version, "another gateway has joined");
    }

    /// Logs the orderly end of another gateway.
    pub fn node_left(&self, id: &str, name: &str) {
        info!(node = id, name, "another gateway has gone");
    }

    /// Counts and logs the death of another gateway.
    pub fn node_died(&self, id: &str, name: &str) {
        self.died.inc();
        warn!(node = id, name, "another gateway is dead; its lease has expired");
    }

    /// Counts a pending request and returns the number before it.
    pub fn asked(&self) -> u64 {
        self.waiting.fetch_add(1, Relaxed)
    }

    /// Counts the response to a pending request.
    pub fn answered(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Number of pending requests.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }
}
