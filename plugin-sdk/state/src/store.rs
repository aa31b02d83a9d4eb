//! `Store` keeps entries with an expiry within a bound of bytes.

use hashbrown::HashTable;

use crate::joint::Joint;
use crate::meter::Meter;

/// How far the times of threads that share a store may lie apart, in milliseconds. A clock that goes back by
/// more was set.
const SKEW_MAX: u64 = 1000;
/// What an entry takes beside its key and value, in bytes: its slot, its share of the table, and room to
/// grow.
pub(crate) const ENTRY_BYTES: usize = 112;
/// Entries that every insertion looks at to find some that have expired: more than it adds, so they do not
/// pile up.
const SWEEP: usize = 2;
/// Entries that are looked at for an expired one before one that is in use has to go.
const SWEEP_WHEN_FULL: usize = 8;
/// No neighbour.
pub(crate) const NONE: u32 = u32::MAX;

/// The limits of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Keys.
    pub entries_max: usize,
    /// Keys, values, and what it takes to keep them.
    pub bytes_max: usize,
}

/// The content of a store in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Keys, including expired ones that are not removed yet.
    pub entries: u64,
    /// Keys, values, and what it takes to keep them.
    pub bytes: u64,
    /// Entries that were evicted before they expired.
    pub evictions: u64,
}

/// The key of a value.
#[derive(Debug, Clone, Copy)]
pub struct Key<'k> {
    /// The hash of `space` and `bytes`. Use a good hash with a secret, because clients choose keys.
    pub hash: u64,
    /// Keys of different spaces are different. 0 is the space of values, and each bucket has its own.
    pub space: u32,
    /// The key itself.
    pub bytes: &'k [u8],
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Meter(Meter),
    Joint(Box<Joint>),
    Bytes(Box<[u8]>),
}

impl Value {
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Meter(_) => 0,
            Self::Joint(_) => size_of::<Joint>(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// Meters and values under keys. At its bounds the store evicts the least recently used ones.
#[derive(Debug, Clone)]
pub struct Store {
    bounds: Bounds,
    /// Positions in `slots`.
    table: HashTable<u32>,
    /// Without holes.
    pub(crate) slots: Vec<Slot>,
    /// Positions in `slots`, of joint meters with something to report.
    pub(crate) to_report: Vec<u32>,
    /// More than any joint meter that is gone has ever counted.
    pub(crate) counted: u64,
    pub(crate) newest: u32,
    oldest: u32,
    bytes: usize,
    evictions: u64,
    /// The next entry to look at for being expired.
    sweep: usize,
    time: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Slot {
    hash: u64,
    pub(crate) space: u32,
    pub(crate) key: Box<[u8]>,
    pub(crate) value: Value,
    /// The first moment at which it is not there any more.
    pub(crate) expires: u64,
    newer: u32,
    older: u32,
}

impl Store {
    /// An empty store.
    pub const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            table: HashTable::new(),
            slots: Vec::new(),
            to_report: Vec::new(),
            counted: 0,
            newest: NONE,
            oldest: NONE,
            bytes: 0,
            evictions: 0,
            sweep: 0,
            time: 0,
        }
    }

    /// Changes the bounds and evicts entries that no longer fit.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.make_room(0, 0);
    }

    pub(crate) const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The usage of the store.
    pub fn usage(&self) -> Usage {
        let (entries, bytes) = (self.slots.len() as u64, self.bytes as u64);
        Usage { entries, bytes, evictions: self.evictions }
    }

    /// One time for all threads: the latest that any of them has seen, unless the clock was set back.
    pub(crate) fn now(&mut self, now: u64) -> u64 {
        self.time = if self.time.saturating_sub(now) > SKEW_MAX { now } else { self.time.max(now) };
        self.time
    }

    /// The value of a key that has not expired, which is now the one that was used last.
    pub(crate) fn use_value(&mut self, key: &Key<'_>, now: u64) -> Option<(&mut Value, &mut u64)> {
        let at = self.find(key)?;
        if self.slots[at as usize].expires <= now {
            self.remove_at(at);
            return None;
        }
        if self.newest != at {
            self.unlink(at);
            self.link_newest(at);
        }
        let slot = &mut self.slots[at as usize];
        Some((&mut slot.value, &mut slot.expires))
    }

    /// The same without counting as use.
    pub(crate) fn look(&self, key: &Key<'_>, now: u64) -> Option<&Value> {
        let slot = &self.slots[self.find(key)? as usize];
        (slot.expires > now).then_some(&slot.value)
    }

    /// Adds a key that is not there. False if it could never fit.
    pub(crate) fn insert(&mut self, key: &Key<'_>, value: Value, expires: u64, now: u64) -> bool {
        let size = ENTRY_BYTES + key.bytes.len() + value.heap_bytes();
        if size > self.bounds.bytes_max || self.bounds.entries_max == 0 {
            return false;
        }
        self.sweep(SWEEP, now);
        if !self.has_room(1, size) {
            self.sweep(SWEEP_WHEN_FULL, now);
        }
        self.make_room(1, size);
        let at = self.slots.len() as u32;
        self.slots.push(Slot {
            hash: key.hash,
            space: key.space,
            key: key.bytes.into(),
            value,
            expires,
            newer: NONE,
            older: NONE,
        });
        self.table.insert_unique(key.hash, at, |other| self.slots[*other as usize].hash);
        self.bytes += size;
        self.link_newest(at);
        true
    }

    /// Whether the key was there.
    pub(crate) fn remove(&mut self, key: &Key<'_>, now: u64) -> bool {
        let Some(at) = self.find(key) else { return false };
        let expired = self.slots[at as usize].expires <= now;
        self.remove_at(at);
        !expired
    }

    /// Accounts for a value that has changed in place.
    pub(crate) fn resized(&mut self, before: usize, now: usize) {
        self.bytes = self.bytes - before + now;
        self.make_room(0, 0);
    }

    // ---- Bounds ----

    const fn has_room(&self, entries: usize, bytes: usize) -> bool {
        self.slots.len() + entries <= self.bounds.entries_max && self.bytes + bytes <= self.bounds.bytes_max
    }

    fn make_room(&mut self, entries: usize, bytes: usize) {
        while !self.has_room(entries, bytes) && self.oldest != NONE {
            self.remove_at(self.oldest);
            self.evictions += 1;
        }
    }

    /// Goes round the entries, some at a time.
    fn sweep(&mut self, looks: usize, now: u64) {
        for _ in 0..looks.min(self.slots.len()) {
            if self.sweep >= self.slots.len() {
                self.sweep = 0;
            }
            if self.slots[self.sweep].expires <= now {
                // Another takes its place and is looked at next.
                self.remove_at(self.sweep as u32);
            } else {
                self.sweep += 1;
            }
        }
    }

    // ---- Table, slots and links ----

    pub(crate) fn find(&self, key: &Key<'_>) -> Option<u32> {
        let is_it = |at: &u32| {
            let slot = &self.slots[*at as usize];
            slot.hash == key.hash && slot.space == key.space && *slot.key == *key.bytes
        };
        self.table.find(key.hash, is_it).copied()
    }

    fn remove_at(&mut self, at: u32) {
        self.unlink(at);
        self.forget_report(at);
        self.forget_position(self.slots[at as usize].hash, at);
        let slot = self.slots.swap_remove(at as usize);
        self.bytes -= ENTRY_BYTES + slot.key.len() + slot.value.heap_bytes();
        let from = self.slots.len() as u32;
        if at == from {
            return;
        }
        // The last slot has moved to the one that became free.
        let &Slot { hash, newer, older, .. } = &self.slots[at as usize];
        if let Some(position) = self.table.find_mut(hash, |position| *position == from) {
            *position = at;
        }
        *self.newer_of(older) = at;
        *self.older_of(newer) = at;
        self.move_report(at);
    }

    fn forget_position(&mut self, hash: u64, at: u32) {
        if let Ok(entry) = self.table.find_entry(hash, |position| *position == at) {
            entry.remove();
        }
    }

    fn unlink(&mut self, at: u32) {
        let &Slot { newer, older, .. } = &self.slots[at as usize];
        *self.newer_of(older) = newer;
        *self.older_of(newer) = older;
    }

    fn link_newest(&mut self, at: u32) {
        let older = std::mem::replace(&mut self.newest, at);
        *self.newer_of(older) = at;
        let slot = &mut self.slots[at as usize];
        (slot.newer, slot.older) = (NONE, older);
    }

    /// Where it is said what comes after a slot; after none comes the oldest.
    fn newer_of(&mut self, at: u32) -> &mut u32 {
        if at == NONE { &mut self.oldest } else { &mut self.slots[at as usize].newer }
    }

    /// Where it is said what comes before a slot; before none comes the newest.
    fn older_of(&mut self, at: u32) -> &mut u32 {
        if at == NONE { &mut self.newest } else { &mut self.slots[at as usize].older }
    }
}
