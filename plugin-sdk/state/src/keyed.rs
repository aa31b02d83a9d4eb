//! Rate limits and values by key, over one `Store`.

use crate::KEY_BYTES_MAX;
use crate::meter::{Meter, NEVER, Room};
use crate::rule::Rule;
use crate::store::{Bounds, ENTRY_BYTES, Key, Store, Value};

/// A key or a value that is larger than a store accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// The reason why a number was not increased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncrementError {
    /// The value is not a number.
    NotANumber,
    /// The sum does not fit into 64 bits.
    Overflow,
    /// The key is larger than a store accepts.
    TooLarge,
}

/// Rate limits. The space of a key is the number of its bucket.
impl Store {
    /// [`Meter::take`] for a key. A key that is too large to be kept is never admitted.
    pub fn take(&mut self, key: &Key<'_>, rule: &Rule, cost: u32, now: u64) -> u64 {
        let now = self.now(now);
        let forgotten = now.saturating_add(rule.forgets_after());
        if let Some((value, expires)) = self.use_value(key, now) {
            let Value::Meter(meter) = value else { return NEVER };
            *expires = forgotten;
            return meter.take(rule, cost, now);
        }
        let mut meter = Meter::default();
        let wait = meter.take(rule, cost, now);
        if wait != 0 || cost == 0 {
            return wait;
        }
        let fits = key.bytes.len() <= KEY_BYTES_MAX && self.insert(key, Value::Meter(meter), forgotten, now);
        if fits { 0 } else { NEVER }
    }

    /// [`Meter::room`] for a key.
    pub fn room(&mut self, key: &Key<'_>, rule: &Rule, now: u64) -> Room {
        let now = self.now(now);
        match self.look(key, now) {
            Some(Value::Meter(meter)) => meter.room(rule, now),
            Some(Value::Joint(joint)) => joint.room(rule, now),
            _ => Meter::default().room(rule, now),
        }
    }
}

/// Values. Their space is 0.
impl Store {
    /// The value of a key.
    pub fn get(&mut self, key: &Key<'_>, now: u64) -> Option<&[u8]> {
        let now = self.now(now);
        match self.use_value(key, now)?.0 {
            Value::Bytes(bytes) => Some(bytes),
            Value::Meter(_) | Value::Joint(_) => None,
        }
    }

    /// Sets a value, for `ttl` milliseconds or until the store evicts it.
    ///
    /// # Errors
    ///
    /// If the key or the value is larger than the bounds allow.
    pub fn set(&mut self, key: &Key<'_>, value: &[u8], ttl: Option<u64>, now: u64) -> Result<(), TooLarge> {
        let now = self.now(now);
        if key.bytes.len() > KEY_BYTES_MAX || !self.bounds().take(key, value.len()) {
            return Err(TooLarge);
        }
        self.remove(key, now);
        self.insert(key, Value::Bytes(value.into()), expiry(ttl, now), now);
        Ok(())
    }

    /// Sets a value if the key has none. Returns whether it did.
    ///
    /// # Errors
    ///
    /// If the key or the value is larger than the bounds allow.
    pub fn add(&mut self, key: &Key<'_>, value: &[u8], ttl: Option<u64>, now: u64) -> Result<bool, TooLarge> {
        let now = self.now(now);
        if self.use_value(key, now).is_some() {
            return Ok(false);
        }
        self.set(key, value, ttl, now).map(|()| true)
    }

    /// Adds to a number, kept as decimal text, and returns the sum. A key without a value starts at 0 and
    /// lives for `ttl` milliseconds; a key with a value keeps its expiry.
    ///
    /// # Errors
    ///
    /// If the key is too large, or the value is not a number or would be too large a number.
    pub fn increment(
        &mut self,
        key: &Key<'_>,
        by: i64,
        ttl: Option<u64>,
        now: u64,
    ) -> Result<i64, IncrementError> {
        let now = self.now(now);
        let Some((value, _)) = self.use_value(key, now) else {
            return match self.set(key, by.to_string().as_bytes(), ttl, now) {
                Ok(()) => Ok(by),
                Err(TooLarge) => Err(IncrementError::TooLarge),
            };
        };
        let Value::Bytes(bytes) = value else { return Err(IncrementError::NotANumber) };
        let number = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<i64>().ok());
        let number = number.ok_or(IncrementError::NotANumber)?;
        let sum = number.checked_add(by).ok_or(IncrementError::Overflow)?;
        let before = bytes.len();
        *bytes = sum.to_string().into_bytes().into();
        let after = bytes.len();
        self.resized(before, after);
        Ok(sum)
    }

    /// Removes a value. Returns whether there was one.
    pub fn delete(&mut self, key: &Key<'_>, now: u64) -> bool {
        let now = self.now(now);
        self.remove(key, now)
    }
}

impl Bounds {
    /// Whether an entry can be kept at all.
    const fn take(&self, key: &Key<'_>, value_bytes: usize) -> bool {
        ENTRY_BYTES + key.bytes.len() + value_bytes <= self.bytes_max && self.entries_max > 0
    }
}

fn expiry(ttl: Option<u64>, now: u64) -> u64 {
    ttl.map_or(u64::MAX, |ttl| now.saturating_add(ttl))
}
