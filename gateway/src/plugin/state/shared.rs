//! [`PluginState`]: state of a plugin that all workers share.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gateway_plugin_state::{Bounds, IncrementError, Key, Room, Rule, Store, TooLarge, Usage};

use crate::sharded::Sharded;

/// Parts of a plugin's state, each with its own lock, held for one operation, and its share of the bounds.
pub(super) const SHARDS: usize = 16;
/// Buckets, by name and rule, whose numbers are remembered. If a plugin is reloaded with new rules many
/// times, the oldest are dropped.
const DECLARED_MAX: usize = 1024;
/// The number of the space for values. Buckets are numbered from 1.
const VALUES: u32 = 0;

/// State of one plugin in the gateway, from its first load to the end of the process.
#[derive(Debug)]
pub struct PluginState {
    pub(super) shards: Sharded<Store, SHARDS>,
    declared: Mutex<Vec<Declared>>,
    /// Whether a cluster-wide bucket was ever declared.
    has_cluster_buckets: AtomicBool,
}

#[derive(Debug)]
struct Declared {
    name: Box<str>,
    bucket: Bucket,
}

/// A rate limit that a plugin has declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Unique among all buckets of all plugins. The same name and rule keep their number; with another rule
    /// it is another, empty bucket.
    pub(super) number: u32,
    pub(super) rule: Rule,
    pub(super) scope: Scope,
}

/// The nodes and workers that share a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All workers of this node.
    Node,
    /// All nodes, as far as the backplane exchanges their usage.
    Cluster,
}

impl Default for PluginState {
    fn default() -> Self {
        Self::new(Self::BOUNDS)
    }
}

impl PluginState {
    /// Default bounds.
    pub const BOUNDS: Bounds = Bounds { entries_max: 100_000, bytes_max: 16 << 20 };

    /// Empty state.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            shards: Sharded::new(|| Store::new(share(bounds))),
            declared: Mutex::default(),
            has_cluster_buckets: AtomicBool::new(false),
        }
    }

    /// Changes the bounds, and evicts entries that no longer fit.
    pub fn set_bounds(&self, bounds: Bounds) {
        for mut shard in self.shards.iter() {
            shard.set_bounds(share(bounds));
        }
    }

    /// Entries and bytes in use.
    pub fn usage(&self) -> Usage {
        self.shards.iter().map(|shard| shard.usage()).fold(Usage::default(), |sum, usage| Usage {
            entries: sum.entries + usage.entries,
            bytes: sum.bytes + usage.bytes,
            evictions: sum.evictions + usage.evictions,
        })
    }

    // ---- Rate limits ----

    /// The bucket of this name, rule and scope.
    pub fn declare(&self, name: &str, rule: Rule, scope: Scope) -> Bucket {
        static NEXT: AtomicU32 = AtomicU32::new(VALUES + 1);
        let mut declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |known: &Declared| {
            *known.name == *name && known.bucket.rule == rule && known.bucket.scope == scope
        };
        let known = declared.iter().position(is_it);
        let known = known.map(|at| declared.remove(at)).unwrap_or_else(|| Declared {
            name: name.into(),
            bucket: Bucket { number: NEXT.fetch_add(1, Relaxed), rule, scope },
        });
        let bucket = known.bucket;
        if declared.len() >= DECLARED_MAX {
            declared.remove(0);
        }
        declared.push(known);
        if scope == Scope::Cluster {
            self.has_cluster_buckets.store(true, Relaxed);
        }
        bucket
    }

    /// The name of a cluster-wide bucket, unless it was dropped.
    pub(super) fn cluster_bucket(&self, number: u32) -> Option<(Bucket, Box<str>)> {
        let declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        let known = declared.iter().find(|known| known.bucket.number == number)?;
        Some((known.bucket, known.name.clone()))
    }

    pub(super) fn has_cluster_buckets(&self) -> bool {
        self.has_cluster_buckets.load(Relaxed)
    }

    /// Takes `cost` for a key at `now`: 0, or the milliseconds until it would be admitted, or
    /// [`NEVER`](super::NEVER).
    pub fn take(&self, bucket: &Bucket, key: &[u8], cost: u32, now: u64) -> u64 {
        let (mut store, key) = self.find(bucket.number, key);
        match bucket.scope {
            Scope::Node => store.take(&key, &bucket.rule, cost, now),
            Scope::Cluster => store.take_joint(&key, &bucket.rule, cost, now),
        }
    }

    /// What would be admitted for a key now.
    pub fn room(&self, bucket: &Bucket, key: &[u8], now: u64) -> Room {
        let (mut store, key) = self.find(bucket.number, key);
        store.room(&key, &bucket.rule, now)
    }

    // ---- Values ----

    /// The value of a key.
    pub fn get(&self, key: &[u8], now: u64) -> Option<Vec<u8>> {
        let (mut store, key) = self.find(VALUES, key);
        store.get(&key, now).map(<[u8]>::to_vec)
    }

    /// Sets a value, for `ttl` milliseconds or until it is evicted.
    ///
    /// # Errors
    ///
    /// If the key or the value is larger than the bounds allow.
    pub fn set(&self, key: &[u8], value: &[u8], ttl: Option<u64>, now: u64) -> Result<(), TooLarge> {
        let (mut store, key) = self.find(VALUES, key);
        store.set(&key, value, ttl, now)
    }

    /// Sets a value if the key has none. True if it did.
    ///
    /// # Errors
    ///
    /// If the key or the value is larger than the bounds allow.
    pub fn add(&self, key: &[u8], value: &[u8], ttl: Option<u64>, now: u64) -> Result<bool, TooLarge> {
        let (mut store, key) = self.find(VALUES, key);
        store.add(&key, value, ttl, now)
    }

    /// Adds to a number and returns the sum, as [`Store::increment`] does.
    ///
    /// # Errors
    ///
    /// If the key is too large, or the value is not a number or would be too large a number.
    pub fn increment(&self, key: &[u8], by: i64, ttl: Option<u64>, now: u64) -> Result<i64, IncrementError> {
        let (mut store, key) = self.find(VALUES, key);
        store.increment(&key, by, ttl, now)
    }

    /// Removes a value. True if there was one.
    pub fn delete(&self, key: &[u8], now: u64) -> bool {
        let (mut store, key) = self.find(VALUES, key);
        store.delete(&key, now)
    }

    pub(super) fn find<'s, 'k>(&'s self, space: u32, bytes: &'k [u8]) -> (MutexGuard<'s, Store>, Key<'k>) {
        let hash = self.shards.hash(&(space, bytes));
        (self.shards.lock_hashed(hash), Key { hash, space, bytes })
    }
}

const fn share(bounds: Bounds) -> Bounds {
    Bounds { entries_max: bounds.entries_max / SHARDS, bytes_max: bounds.bytes_max / SHARDS }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::thread;

    use super::*;
    use crate::plugin::state::NEVER;

    fn rule(limit: u64) -> Rule {
        Rule::new(1, limit, 1000, 0).unwrap()
    }

    #[test]
    fn a_bucket_that_is_declared_again_is_the_same_and_with_another_rule_another() {
        let state = PluginState::default();
        let first = state.declare("a", rule(1), Scope::Node);
        assert_eq!(state.take(&first, b"k", 1, 0), 0);
        assert_eq!(state.take(&state.declare("a", rule(1), Scope::Node), b"k", 1, 0), 1000);
        assert_eq!(
            state.take(&state.declare("a", rule(2), Scope::Node), b"k", 1, 0),
            0,
            "another rule begins anew"
        );
        assert_eq!(state.take(&state.declare("b", rule(1), Scope::Node), b"k", 1, 0), 0, "another name");
        assert_eq!(state.declare("a", rule(1), Scope::Node), first, "and the old rule finds its state again");
        let other_plugin = PluginState::default().declare("a", rule(1), Scope::Node);
        assert_ne!(other_plugin, first, "a connection meets the buckets of many plugins");
    }

    #[test]
    fn old_rules_are_forgotten_and_rules_in_use_are_not() {
        let state = PluginState::default();
        let steady = state.declare("steady", rule(1), Scope::Node);
        for limit in 1..=2 * DECLARED_MAX as u64 {
            state.declare("changing", rule(limit), Scope::Node);
            assert_eq!(state.declare("steady", rule(1), Scope::Node), steady);
        }
        assert_eq!(state.declared.lock().unwrap().len(), DECLARED_MAX);
    }

    #[test]
    fn threads_that_count_together_lose_nothing() {
        let state = PluginState::default();
        let bucket = state.declare("a", rule(1000), Scope::Node);
        let admitted: usize = thread::scope(|scope| {
            let count = || {
                (0..1000)
                    .filter(|n| {
                        state.increment(b"n", 1, None, 0).unwrap();
                        state.increment(format!("n{n}").as_bytes(), 1, None, 0).unwrap();
                        state.take(&bucket, b"k", 1, 0) == 0
                    })
                    .count()
            };
            let threads = [(); 4].map(|()| scope.spawn(count));
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert_eq!(admitted, 1000);
        assert_eq!(state.get(b"n", 0).as_deref(), Some(&b"4000"[..]));
        assert_eq!(state.get(b"n999", 0).as_deref(), Some(&b"4"[..]));
    }

    #[test]
    fn the_bounds_hold_for_all_shards_together_and_can_be_changed() {
        let state = PluginState::new(Bounds { entries_max: 1000, bytes_max: 1 << 20 });
        for n in 0..10_000 {
            state.set(format!("key {n}").as_bytes(), &[0; 100], None, 0).unwrap();
        }
        let usage = state.usage();
        assert!((900..=1000).contains(&usage.entries), "{usage:?}");
        assert_eq!(usage.entries + usage.evictions, 10_000);
        state.set_bounds(Bounds { entries_max: 1000, bytes_max: 64 << 10 });
        assert!(state.usage().bytes <= 64 << 10 && state.usage().entries > 100, "{:?}", state.usage());
        assert_eq!(state.set(b"k", &[0; 8 << 10], None, 0), Err(TooLarge));
        assert_eq!(state.take(&state.declare("a", rule(1), Scope::Node), &[0; 4 << 10], 1, 0), NEVER);
    }
}
