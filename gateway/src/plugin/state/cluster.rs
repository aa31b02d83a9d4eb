//! Exchange between nodes of the usage of cluster-wide rate limits.

use std::collections::BTreeMap;

use gateway_plugin_state::{MeterState, Report, Rule};

use super::shared::SHARDS;
use super::{Bucket, PluginState};

/// A late report counts for at most two bursts plus the amount that the rule admits in this many
/// milliseconds: the clients of all nodes must not pay for a node that was isolated for long.
const LATE: u64 = 2000;

/// Usage of one bucket on this node.
#[derive(Debug)]
pub struct Reports {
    /// Name of the bucket.
    pub name: Box<str>,
    /// The bucket.
    pub bucket: Bucket,
    /// Usage for each key.
    pub keys: Vec<Taken>,
}

/// Usage of one key on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The key.
    pub key: Box<[u8]>,
    /// Total since the beginning, starting from an arbitrary number.
    pub total: u64,
    /// Part of the total that must not be counted: already reported, or too old.
    pub known: u64,
}

impl Bucket {
    /// The rule of the bucket.
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }
}

impl PluginState {
    /// Usage of cluster-wide buckets since the last report, for about this many keys.
    pub fn reports(&self, keys_max: usize) -> Vec<Reports> {
        if !self.has_cluster_buckets() {
            return Vec::new();
        }
        let mut buckets: BTreeMap<u32, Vec<Taken>> = BTreeMap::new();
        for mut shard in self.shards.iter() {
            shard.report(keys_max.div_ceil(SHARDS), |bucket, key, report| {
                let Report { total, known } = report;
                buckets.entry(bucket).or_default().push(Taken { key: key.into(), total, known });
            });
        }
        let named = buckets.into_iter().filter_map(|(number, mut keys)| {
            let (bucket, name) = self.cluster_bucket(number)?;
            let most = most(&bucket.rule);
            for taken in &mut keys {
                taken.known = taken.known.max(taken.total.saturating_sub(most));
            }
            Some(Reports { name, bucket, keys })
        });
        named.collect()
    }

    /// Applies the total usage of a key on all nodes, which is the response to this node's report.
    pub fn reconcile(&self, bucket: &Bucket, taken: &Taken, state: MeterState, now: u64) {
        let (mut store, key) = self.find(bucket.number, &taken.key);
        store.reconcile(&key, &bucket.rule, taken.total, state, now);
    }

    /// A report got no response. It is repeated the next time.
    pub fn report_again(&self, bucket: &Bucket, taken: &Taken) {
        let (mut store, key) = self.find(bucket.number, &taken.key);
        store.report_again(&key);
    }
}

/// Most usage that one report may add.
fn most(rule: &Rule) -> u64 {
    (2 * rule.burst()).saturating_add(rule.limit().saturating_mul(LATE).div_ceil(rule.period()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::plugin::state::Scope;

    fn rule() -> Rule {
        Rule::new(1, 10, 1000, 0).unwrap()
    }

    #[test]
    fn what_a_node_has_taken_is_reported_once_unless_it_was_not_heard() {
        let state = PluginState::default();
        let bucket = state.declare("a", rule(), Scope::Cluster);
        let alone = state.declare("a", rule(), Scope::Node);
        assert_ne!(bucket, alone);
        for key in [b"k", b"k", b"l"] {
            assert_eq!(state.take(&bucket, key, 1, 0), 0);
            assert_eq!(state.take(&alone, key, 1, 0), 0);
        }
        let reports = state.reports(100);
        assert_eq!((reports.len(), &*reports[0].name), (1, "a"));
        let mut keys = reports[0].keys.clone();
        keys.sort_by(|one, other| one.key.cmp(&other.key));
        assert_eq!(
            keys.iter().map(|taken| (&*taken.key, taken.total)).collect::<Vec<_>>(),
            [(&b"k"[..], 2), (b"l", 1)]
        );
        assert!(state.reports(100).is_empty());
        state.report_again(&bucket, &keys[0]);
        assert_eq!(state.reports(100)[0].keys, keys[..1]);
        // Other nodes have used everything.
        state.reconcile(&bucket, &keys[0], MeterState { used: 10 * 1000, before: 0, age: 0 }, 0);
        assert_eq!(state.take(&bucket, b"k", 1, 0), 100);
        assert_eq!(state.room(&bucket, b"k", 0).remaining, 0);
        state.report_again(&bucket, &keys[0]);
        assert!(state.reports(100).is_empty(), "it was heard");
    }

    #[test]
    fn a_node_that_was_alone_for_long_reports_a_bounded_part() {
        let state = PluginState::default();
        let rule = Rule::new(1, 10, 1000, 20).unwrap();
        let bucket = state.declare("a", rule, Scope::Cluster);
        for second in 0..1000 {
            assert_eq!(state.take(&bucket, b"k", 10, second * 1000), 0);
        }
        let reports = state.reports(1);
        let Taken { total, known, .. } = reports[0].keys[0];
        assert_eq!((total, total - known), (10_000, 2 * 20 + 2 * 10));
    }
}
