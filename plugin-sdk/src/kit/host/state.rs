//! Rate limits and values.

use gateway_plugin_state::{IncrementError, KEY_BYTES_MAX, Rule, TooLarge};

use super::ask;
use crate::HostError;
use crate::error::HostErrorKind;
use crate::rate::Rate;

/// As many buckets as the gateway takes.
const BUCKETS_MAX: usize = 64;
const BUCKET_NAME_BYTES_MAX: usize = 256;

pub(crate) fn declare_bucket(name: &str, rate: Rate) -> Result<u32, HostError> {
    ask(|call| {
        call.only_in_configure()?;
        let mut kept = call.around.kept.borrow_mut();
        if kept.count_declared() >= BUCKETS_MAX {
            let message = format!("more than {BUCKETS_MAX} buckets");
            return Err(HostError::new(HostErrorKind::TooManyEffects, message));
        }
        if name.len() > BUCKET_NAME_BYTES_MAX {
            let message = format!("the name of a bucket has more than {BUCKET_NAME_BYTES_MAX} bytes");
            return Err(HostError::new(HostErrorKind::InvalidName, message));
        }
        let rule = Rule::new(rate.algorithm, rate.limit, rate.period, rate.burst)
            .map_err(|invalid| HostError::new(HostErrorKind::InvalidRule, invalid.to_string()))?;
        Ok(kept.declare(name, rule))
    })
}

pub(crate) fn take(bucket: u32, key: &[u8], cost: u32) -> u64 {
    ask(|call| call.around.kept.borrow_mut().take(bucket, key, cost, call.now))
}

pub(crate) fn take_connection(bucket: u32, cost: u32) -> u64 {
    ask(|call| {
        let connection = call.client.as_ref().map(|client| client.number).unwrap_or_default();
        call.around.kept.borrow_mut().take_connection(connection, bucket, cost, call.now)
    })
}

pub(crate) fn peek(bucket: u32, key: &[u8]) -> (u64, u64) {
    ask(|call| call.around.kept.borrow_mut().peek(bucket, key, call.now))
}

/// It is granted.
pub(crate) fn ask_key_value() -> Result<(), HostError> {
    ask(|call| call.only_in_configure())
}

pub(crate) fn get(key: &str) -> Option<Vec<u8>> {
    ask(|call| {
        call.around
            .kept
            .borrow_mut()
            .with_value(key, |store, key| store.get(key, call.now).map(<[u8]>::to_vec))
    })
}

pub(crate) fn set(key: &str, value: &[u8], ttl: Option<u64>) -> Result<(), HostError> {
    ask(|call| {
        call.spend(key.len() + value.len())?;
        let set =
            call.around.kept.borrow_mut().with_value(key, |store, key| store.set(key, value, ttl, call.now));
        set.map_err(|TooLarge| too_large())
    })
}

pub(crate) fn add(key: &str, value: &[u8], ttl: Option<u64>) -> Result<bool, HostError> {
    ask(|call| {
        call.spend(key.len() + value.len())?;
        let added =
            call.around.kept.borrow_mut().with_value(key, |store, key| store.add(key, value, ttl, call.now));
        added.map_err(|TooLarge| too_large())
    })
}

pub(crate) fn increment(key: &str, by: i64, ttl: Option<u64>) -> Result<i64, HostError> {
    ask(|call| {
        call.spend(key.len())?;
        let sum = call
            .around
            .kept
            .borrow_mut()
            .with_value(key, |store, key| store.increment(key, by, ttl, call.now));
        let not_a_number = |message| HostError::new(HostErrorKind::NotANumber, message);
        sum.map_err(|failed| match failed {
            IncrementError::NotANumber => not_a_number("the value is not a number"),
            IncrementError::Overflow => not_a_number("the number would not fit into 64 bits"),
            IncrementError::TooLarge => too_large(),
        })
    })
}

pub(crate) fn delete(key: &str) -> bool {
    ask(|call| call.around.kept.borrow_mut().with_value(key, |store, key| store.delete(key, call.now)))
}

fn too_large() -> HostError {
    let message = format!(
        "larger than the gateway keeps: a key has at most {KEY_BYTES_MAX} bytes, an entry a sixteenth of \
         state.bytes_max"
    );
    HostError::new(HostErrorKind::TooLarge, message)
}
