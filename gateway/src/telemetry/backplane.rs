//! What is counted of a backplane over the network.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing::{info, warn};

use super::metrics::SharedCounter;
use crate::backplane::Node;

/// The closed set of what can be wrong with Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No connection.
    Unreachable,
    /// A connection, but no answers.
    Silent,
    /// Wrong user, password or permissions.
    Refused,
    /// A server that follows another one.
    Replica,
    /// Out of memory, disk full, or too few replicas.
    Writes,
}

impl Trouble {
    /// Every value.
    pub const ALL: [Self; 5] = [Self::Unreachable, Self::Silent, Self::Refused, Self::Replica, Self::Writes];

    /// The value of the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Replica => "replica",
            Self::Writes => "writes",
        }
    }
}

/// The numbers of the connection to Redis.
#[derive(Debug, Default)]
pub struct BackplaneMetrics {
    /// 0 for none, else the index in [`Trouble::ALL`] and one.
    trouble: AtomicU64,
    pub(super) links: SharedCounter,
    pub(super) failed: SharedCounter,
    pub(super) too_few_replicas: SharedCounter,
    pub(super) malformed: SharedCounter,
    pub(super) received: SharedCounter,
    pub(super) checked: SharedCounter,
    pub(super) behind: SharedCounter,
    pub(super) died: SharedCounter,
    waiting: AtomicU64,
    nodes: AtomicU64,
}

impl BackplaneMetrics {
    /// What is wrong now, with a sentence.
    pub fn trouble(&self, trouble: Option<(Trouble, String)>) {
        let index =
            trouble.as_ref().and_then(|(trouble, _)| Trouble::ALL.iter().position(|one| one == trouble));
        self.trouble.store(index.map_or(0, |index| index as u64 + 1), Relaxed);
        match trouble {
            Some((trouble, cause)) => {
                warn!(trouble = trouble.as_str(), cause, "the backplane is degraded: this node goes on alone")
            }
            None => info!("the backplane is as it should be"),
        }
    }

    /// Whether this is what is wrong.
    pub(super) fn is_in(&self, trouble: Trouble) -> bool {
        let index = self.trouble.load(Relaxed) as usize;
        index.checked_sub(1).and_then(|index| Trouble::ALL.get(index)) == Some(&trouble)
    }

    /// Connections to Redis were made.
    pub fn linked(&self) {
        self.links.inc();
    }

    /// A question could not be answered.
    pub fn failed(&self, why: &str) {
        self.failed.inc();
        if self.failed.get().is_power_of_two() {
            warn!(
                count = self.failed.get(),
                why, "a question to redis failed: who asked is told to try again"
            );
        }
    }

    /// A publication was made, and only this many replicas had it in time.
    pub fn too_few_replicas(&self, replicas: u64) {
        self.too_few_replicas.inc();
        if self.too_few_replicas.get().is_power_of_two() {
            let count = self.too_few_replicas.get();
            warn!(
                count,
                replicas, "too few replicas of redis have a publication in time: its publisher is told so"
            );
        }
    }

    /// Something that nobody waits for, such as what a plugin published, did not reach Redis.
    pub fn lost(&self, why: &str) {
        warn!(why, "what a plugin or the gateway itself sent to other nodes is lost");
    }

    /// Another node, or somebody else, sent what this version does not understand.
    pub fn malformed(&self) {
        self.malformed.inc();
        if self.malformed.get().is_power_of_two() {
            warn!(
                count = self.malformed.get(),
                "a message from redis was dropped: it is none of this version"
            );
        }
    }

    /// A message came from Redis.
    pub fn received(&self) {
        self.received.inc();
    }

    /// Positions of this many channels were compared with Redis, of which this many had moved on unnoticed.
    pub fn checked(&self, channels: u64, behind: u64) {
        self.checked.add(channels);
        self.behind.add(behind);
        if behind > 0 {
            info!(channels, behind, "channels went on while redis was away: their subscribers are told");
        }
    }

    /// So many gateways are alive, this one included.
    pub fn nodes(&self, alive: u64) {
        self.nodes.store(alive, Relaxed);
    }

    /// Gateways that are alive, this one included; 0 before the first time that they could be counted.
    pub fn alive(&self) -> u64 {
        self.nodes.load(Relaxed)
    }

    /// Another gateway is there.
    pub fn node_came(&self, node: &Node) {
        info!(node = %node.id, name = %node.name, version = %node.version, "another gateway is there");
    }

    /// Another gateway has gone as it should.
    pub fn node_left(&self, node: &Node) {
        info!(node = %node.id, name = %node.name, "another gateway has gone");
    }

    /// Another gateway has gone without a word.
    pub fn node_died(&self, node: &Node) {
        self.died.inc();
        warn!(node = %node.id, name = %node.name, "another gateway is dead: its lease has run out");
    }

    /// Questions that wait for an answer, and one more now.
    pub fn asked(&self) -> u64 {
        self.waiting.fetch_add(1, Relaxed)
    }

    /// A question was answered.
    pub fn answered(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Questions that wait for an answer.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }
}
