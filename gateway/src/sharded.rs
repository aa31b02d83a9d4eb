//! [`Sharded`] spreads a table over shards, each with its own lock.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A table in `SHARDS` parts. A key belongs to one part, which is locked alone: threads that use different
/// keys seldom wait for each other.
///
/// The hash is keyed with a secret, because clients choose many of the keys. A key must always be given in
/// the same form: two types with different hashes would find different shards.
#[derive(Debug)]
pub(crate) struct Sharded<T, const SHARDS: usize> {
    shards: [Shard<T>; SHARDS],
    hasher: RandomState,
}

/// On separate cache lines: a lock taken on one core must not slow down its neighbours.
#[derive(Debug)]
#[repr(align(128))]
struct Shard<T>(Mutex<T>);

impl<T> Shard<T> {
    fn lock(&self) -> MutexGuard<'_, T> {
        // A table stays usable after a panic; at worst one entry is wrong.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, const SHARDS: usize> Sharded<T, SHARDS> {
    /// Fills each shard with what `fill` returns.
    pub(crate) fn new(mut fill: impl FnMut() -> T) -> Self {
        Self { shards: std::array::from_fn(|_| Shard(Mutex::new(fill()))), hasher: RandomState::new() }
    }

    /// The hash of a key. Its lower 32 bits do not select the shard, so the table inside may use them.
    pub(crate) fn hash(&self, key: &(impl Hash + ?Sized)) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The shard of a key.
    pub(crate) fn lock(&self, key: &(impl Hash + ?Sized)) -> MutexGuard<'_, T> {
        self.lock_hashed(self.hash(key))
    }

    /// The shard of the key with this hash.
    pub(crate) fn lock_hashed(&self, hash: u64) -> MutexGuard<'_, T> {
        self.lock_index((hash >> 32) as usize)
    }

    /// The shard with this number, which is counted in circles.
    pub(crate) fn lock_index(&self, index: usize) -> MutexGuard<'_, T> {
        self.shards[index % SHARDS].lock()
    }

    /// Locks one shard after the other. A caller that keeps no guard holds one lock at a time.
    pub(crate) fn iter(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.shards.iter().map(Shard::lock)
    }
}

impl<T: Default, const SHARDS: usize> Default for Sharded<T, SHARDS> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;

    type Table = Sharded<HashMap<u64, u64>, 8>;

    fn len(table: &Table) -> usize {
        table.iter().map(|shard| shard.len()).sum()
    }

    #[test]
    fn a_key_is_found_where_it_was_put() {
        let table = Table::default();
        for key in 0..1000 {
            table.lock(&key).insert(key, key + 1);
        }
        for key in 0..1000_u64 {
            assert_eq!(table.lock(&key).get(&key), Some(&(key + 1)));
            assert_eq!(table.lock_hashed(table.hash(&key)).get(&key), Some(&(key + 1)));
        }
        assert_eq!(len(&table), 1000);
    }

    #[test]
    fn keys_are_spread_over_all_shards() {
        let table = Table::default();
        for key in 0..8000 {
            table.lock(&key).insert(key, 0);
        }
        for shard in table.iter() {
            assert!((800..1200).contains(&shard.len()), "{}", shard.len());
        }
    }

    #[test]
    fn shards_are_numbered_in_circles() {
        let table = Table::default();
        table.lock_index(3).insert(1, 1);
        assert_eq!(table.lock_index(11).len(), 1);
        assert_eq!(table.iter().map(|shard| shard.len()).collect::<Vec<_>>(), [0, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn shards_are_filled_and_lie_on_separate_cache_lines() {
        let mut count = 0;
        let table = Sharded::<_, 3>::new(|| {
            count += 1;
            count
        });
        assert_eq!(table.iter().map(|shard| *shard).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(size_of_val(&table.shards), 3 * 128);
    }

    #[test]
    fn one_shard_is_locked_at_a_time() {
        let table = Table::default();
        let guard = table.lock_index(0);
        assert!(table.shards[0].0.try_lock().is_err());
        assert!(table.shards[1..].iter().all(|shard| shard.0.try_lock().is_ok()));
        drop(guard);
        for _shard in table.iter() {
            assert_eq!(table.shards.iter().filter(|shard| shard.0.try_lock().is_err()).count(), 1);
        }
    }

    #[test]
    fn threads_that_count_together_lose_nothing() {
        let table = Table::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for key in 0..1000 {
                        *table.lock(&(key % 10)).entry(key % 10).or_default() += 1;
                    }
                });
            }
        });
        assert_eq!(len(&table), 10);
        assert!((0..10).all(|key| table.lock(&key).get(&key) == Some(&400)));
    }

    #[test]
    fn a_shard_stays_usable_after_a_panic() {
        let table = Table::default();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            table.lock(&1).insert(1, 1);
            let _guard = table.lock(&1);
            panic!("while a shard is locked");
        }));
        assert!(panicked.is_err());
        assert_eq!(table.lock(&1).get(&1), Some(&1));
    }
}
