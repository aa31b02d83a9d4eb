//! `Cache` keeps responses for plugins that want to reuse them, bounded in number and bytes; the oldest are
//! dropped first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;

use super::fetch::Slot;

/// Maximum number of requests per plugin with a kept or pending response.
const ENTRIES_MAX: usize = 1024;
/// Maximum bytes of these responses.
const BYTES_MAX: usize = 8 << 20;

/// Digest of a request.
pub(super) type Key = [u8; 32];

/// The kept responses of one plugin.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// In the order of the first request, with the size of the response.
    slots: IndexMap<Key, (Slot, usize)>,
    bytes: usize,
}

impl Cache {
    /// The slot of a request, which is created if it is new.
    pub(super) fn slot(&self, key: Key) -> Slot {
        let mut entries = self.lock();
        if let Some((slot, _)) = entries.slots.get(&key) {
            return slot.clone();
        }
        while entries.slots.len() >= ENTRIES_MAX {
            entries.forget_oldest();
        }
        let slot = Slot::default();
        entries.slots.insert(key, (slot.clone(), 0));
        slot
    }

    /// A slot has received a response of this size.
    pub(super) fn grew(&self, slot: &Slot, size: usize) {
        let mut entries = self.lock();
        // A slot dropped meanwhile lives only as long as requests wait for it.
        let Some((_, known)) = entries.slots.values_mut().find(|(other, _)| Arc::ptr_eq(other, slot)) else {
            return;
        };
        let before = std::mem::replace(known, size);
        entries.bytes = entries.bytes - before + size;
        while entries.bytes > BYTES_MAX {
            entries.forget_oldest();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn forget_oldest(&mut self) {
        if let Some((_, (_, size))) = self.slots.shift_remove_index(0) {
            self.bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        let mut key = Key::default();
        key[..8].copy_from_slice(&number.to_le_bytes());
        key
    }

    #[test]
    fn the_oldest_answers_make_room() {
        let cache = Cache::default();
        let first = cache.slot(key(0));
        assert!(Arc::ptr_eq(&first, &cache.slot(key(0))));
        for number in 1..=ENTRIES_MAX {
            cache.slot(key(number));
        }
        assert!(!Arc::ptr_eq(&first, &cache.slot(key(0))));
        assert_eq!(cache.lock().slots.len(), ENTRIES_MAX);
        cache.grew(&first, BYTES_MAX);
        assert_eq!(cache.lock().bytes, 0, "a forgotten one counts no more");
        for number in ENTRIES_MAX - 9..ENTRIES_MAX {
            cache.grew(&cache.slot(key(number)), BYTES_MAX / 4);
            assert!(cache.lock().bytes <= BYTES_MAX);
        }
        cache.grew(&cache.slot(key(ENTRIES_MAX)), BYTES_MAX / 8);
        cache.grew(&cache.slot(key(ENTRIES_MAX)), BYTES_MAX / 16);
        let entries = cache.lock();
        assert_eq!(entries.bytes, entries.slots.values().map(|(_, size)| size).sum::<usize>());
    }
}
