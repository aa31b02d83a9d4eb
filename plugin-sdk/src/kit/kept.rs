//! `Kept` stores rate limits and values for plugins under test, with the code that the gateway uses.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

use gateway_plugin_state::{Bounds, Key, Meter, Rule, Store};

/// What the gateway keeps for a plugin, with the same code. Outlives an instance.
#[derive(Debug)]
pub(super) struct Kept {
    store: Store,
    hasher: RandomState,
    /// By name and rule. The position is the number of the bucket.
    known: Vec<(String, Rule)>,
    /// Of the instance, in the order of declaration: positions in `known`.
    declared: Vec<usize>,
    /// By the numbers of connection and bucket.
    meters: BTreeMap<(u64, usize), Meter>,
}

/// The space of values; buckets come after it.
const VALUES: u32 = 0;

impl Kept {
    /// With the gateway's default bounds.
    pub(super) fn new() -> Self {
        Self {
            store: Store::new(Bounds { entries_max: 100_000, bytes_max: 16 << 20 }),
            hasher: RandomState::new(),
            known: Vec::new(),
            declared: Vec::new(),
            meters: BTreeMap::new(),
        }
    }

    /// Another instance declares from the beginning. Gives the declarations before, in case it fails.
    pub(super) fn forget_declarations(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.declared)
    }

    pub(super) fn restore_declarations(&mut self, declared: Vec<usize>) {
        self.declared = declared;
    }

    pub(super) fn count_declared(&self) -> usize {
        self.declared.len()
    }

    pub(super) fn declare(&mut self, name: &str, rule: Rule) -> u32 {
        let is_it = |known: &(String, Rule)| known.0 == name && known.1 == rule;
        let number = self.known.iter().position(is_it).unwrap_or_else(|| {
            self.known.push((name.to_owned(), rule));
            self.known.len() - 1
        });
        self.declared.push(number);
        self.declared.len() as u32 - 1
    }

    pub(super) fn take(&mut self, bucket: u32, key: &[u8], cost: u32, now: u64) -> u64 {
        let number = self.bucket(bucket);
        let rule = self.known[number].1;
        self.at(number as u32 + 1, key, |store, key| store.take(key, &rule, cost, now))
    }

    pub(super) fn take_connection(&mut self, connection: u64, bucket: u32, cost: u32, now: u64) -> u64 {
        let number = self.bucket(bucket);
        let rule = self.known[number].1;
        self.meters.entry((connection, number)).or_default().take(&rule, cost, now)
    }

    pub(super) fn peek(&mut self, bucket: u32, key: &[u8], now: u64) -> (u64, u64) {
        let number = self.bucket(bucket);
        let rule = self.known[number].1;
        let room = self.at(number as u32 + 1, key, |store, key| store.room(key, &rule, now));
        (room.remaining, room.full_in)
    }

    pub(super) fn with_value<R>(&mut self, key: &str, run: impl FnOnce(&mut Store, &Key<'_>) -> R) -> R {
        self.at(VALUES, key.as_bytes(), run)
    }

    /// The connection has gone, and what it had used with it.
    pub(super) fn forget_connection(&mut self, connection: u64) {
        self.meters.retain(|(of, _), _| *of != connection);
    }

    fn bucket(&self, bucket: u32) -> usize {
        match self.declared.get(bucket as usize) {
            Some(number) => *number,
            None => panic!("there is no bucket {bucket}: this instance has declared {}", self.declared.len()),
        }
    }

    fn at<R>(&mut self, space: u32, bytes: &[u8], run: impl FnOnce(&mut Store, &Key<'_>) -> R) -> R {
        let hash = self.hasher.hash_one((space, bytes));
        run(&mut self.store, &Key { hash, space, bytes })
    }
}
