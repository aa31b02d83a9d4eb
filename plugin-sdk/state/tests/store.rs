//! A store keeps what was used last within its bounds, and forgets what has expired.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use gateway_plugin_state::{Bounds, IncrementError, KEY_BYTES_MAX, Key, NEVER, Rule, Store, TooLarge};
use proptest::prelude::*;

fn key(space: u32, name: &str) -> Key<'_> {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((space, name));
    Key { hash, space, bytes: name.as_bytes() }
}

fn value(name: &str) -> Key<'_> {
    key(0, name)
}

fn store(entries_max: usize, bytes_max: usize) -> Store {
    Store::new(Bounds { entries_max, bytes_max })
}

fn one_a_second() -> Rule {
    Rule::new(1, 1, 1000, 1).unwrap()
}

// ---- Values ----

#[test]
fn values_are_set_added_counted_and_deleted() {
    let mut store = store(10, 10_000);
    assert_eq!(store.get(&value("a"), 0), None);
    store.set(&value("a"), b"1", None, 0).unwrap();
    assert_eq!(store.add(&value("a"), b"2", None, 0), Ok(false));
    assert_eq!(store.get(&value("a"), 0), Some(&b"1"[..]));
    assert_eq!(store.increment(&value("a"), -3, None, 0), Ok(-2));
    assert_eq!(store.get(&value("a"), 0), Some(&b"-2"[..]));
    assert!(store.delete(&value("a"), 0) && !store.delete(&value("a"), 0));
    assert_eq!(store.add(&value("a"), b"2", None, 0), Ok(true));
    store.set(&value("a"), b"", None, 0).unwrap();
    assert_eq!(store.increment(&value("a"), 1, None, 0), Err(IncrementError::NotANumber));
    store.set(&value("a"), b"9223372036854775807", None, 0).unwrap();
    assert_eq!(store.increment(&value("a"), 1, None, 0), Err(IncrementError::Overflow));
    assert_eq!(store.increment(&value("a"), i64::MIN, None, 0), Ok(-1));
}

#[test]
fn a_value_expires_at_its_time_and_counting_does_not_prolong_it() {
    let mut store = store(10, 10_000);
    store.set(&value("a"), b"x", Some(100), 50).unwrap();
    assert!(store.get(&value("a"), 149).is_some() && store.get(&value("a"), 150).is_none());
    assert_eq!(store.increment(&value("n"), 5, Some(100), 200), Ok(5));
    assert_eq!(store.increment(&value("n"), 5, Some(100), 299), Ok(10));
    assert_eq!(store.increment(&value("n"), 5, Some(100), 300), Ok(5), "a new one");
    store.set(&value("z"), b"x", Some(0), 300).unwrap();
    assert_eq!(store.get(&value("z"), 300), None);
    store.set(&value("z"), b"x", Some(u64::MAX), 300).unwrap();
    assert!(store.get(&value("z"), u64::MAX - 1).is_some());
    assert!(!store.delete(&value("n"), u64::MAX - 1), "it has expired");
}

#[test]
fn what_can_never_fit_is_refused_and_nothing_gives_way_for_it() {
    let mut store = store(10, 1000);
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    store.set(&value("a"), b"x", None, 0).unwrap();
    assert_eq!(store.set(&value("b"), &[0; 1000], None, 0), Err(TooLarge));
    assert_eq!(store.set(&value("a"), &[0; 1000], None, 0), Err(TooLarge));
    assert_eq!(store.set(&value(&long), b"", None, 0), Err(TooLarge));
    assert_eq!(store.increment(&value(&long), 1, None, 0), Err(IncrementError::TooLarge));
    assert_eq!(store.take(&key(1, &long), &one_a_second(), 1, 0), NEVER);
    assert_eq!(store.get(&value("a"), 0), Some(&b"x"[..]));
    assert_eq!((store.usage().entries, store.usage().evictions), (1, 0));
}

// ---- Rate limits ----

#[test]
fn every_key_of_every_bucket_has_a_limit_of_its_own() {
    let mut store = store(10, 10_000);
    let rule = one_a_second();
    let keys = [(1, "a"), (1, "b"), (2, "a")];
    for (space, name) in keys {
        assert_eq!(store.take(&key(space, name), &rule, 1, 0), 0);
    }
    for (space, name) in keys {
        assert_eq!(store.take(&key(space, name), &rule, 1, 400), 600);
        assert_eq!(store.room(&key(space, name), &rule, 400).full_in, 600);
    }
    assert_eq!(store.get(&key(1, "a"), 400), None, "a limit is no value");
    assert_eq!(store.take(&key(1, "a"), &rule, 1, 1000), 0);
}

#[test]
fn what_takes_nothing_leaves_nothing() {
    let mut store = store(10, 10_000);
    assert_eq!(store.take(&key(1, "a"), &one_a_second(), 0, 0), 0);
    assert_eq!(store.take(&key(1, "a"), &one_a_second(), 2, 0), NEVER);
    assert_eq!(store.room(&key(1, "a"), &one_a_second(), 0).remaining, 1);
    assert_eq!(store.usage().entries, 0);
}

#[test]
fn threads_whose_clocks_differ_a_little_share_one_time() {
    let mut store = store(10, 10_000);
    let rule = one_a_second();
    // One thread is always half a second behind the other. Together they get one a second and not more.
    let times = (0..100_u64).flat_map(|step| [1000 + step * 100, 500 + step * 100]);
    let admitted = times.filter(|now| store.take(&key(1, "a"), &rule, 1, *now) == 0).count();
    assert_eq!(admitted, 10);
    // A clock that was set back by an hour is believed.
    let mut hour = self::store(10, 10_000);
    assert_eq!(hour.take(&key(1, "a"), &rule, 1, 3_600_000), 0);
    assert_eq!(hour.take(&key(1, "a"), &rule, 1, 0), 1000);
    assert_eq!(hour.take(&key(1, "a"), &rule, 1, 1000), 0);
}

// ---- Bounds ----

#[test]
fn the_one_that_was_used_longest_ago_gives_way() {
    let mut store = store(3, 10_000);
    for name in ["a", "b", "c"] {
        store.set(&value(name), b"x", None, 0).unwrap();
    }
    store.get(&value("a"), 0);
    store.set(&value("d"), b"x", None, 0).unwrap();
    let there = ["a", "b", "c", "d"].map(|name| store.get(&value(name), 0).is_some());
    assert_eq!(there, [true, false, true, true]);
    assert_eq!((store.usage().entries, store.usage().evictions), (3, 1));
}

#[test]
fn expired_ones_give_way_first_and_that_is_no_eviction() {
    let mut store = store(3, 10_000);
    store.set(&value("a"), b"x", None, 0).unwrap();
    store.set(&value("b"), b"x", Some(10), 0).unwrap();
    store.set(&value("c"), b"x", None, 0).unwrap();
    store.get(&value("b"), 5);
    store.set(&value("d"), b"x", None, 10).unwrap();
    assert!(["a", "c", "d"].iter().all(|name| store.get(&value(name), 10).is_some()));
    assert_eq!(store.usage().evictions, 0);
}

#[test]
fn limits_that_are_not_used_any_more_go_by_themselves() {
    let mut store = store(100_000, 100 << 20);
    for second in 0..10_u64 {
        for n in 0..1000 {
            assert_eq!(
                store.take(&key(1, &format!("{second}-{n}")), &one_a_second(), 1, second * 1000 + n),
                0
            );
        }
    }
    assert!(store.usage().entries < 3000, "{:?}", store.usage());
    assert_eq!(store.usage().evictions, 0);
}

#[test]
fn smaller_bounds_take_effect_at_once() {
    let mut store = store(100, 100_000);
    for n in 0..100 {
        store.set(&value(&n.to_string()), b"x", None, 0).unwrap();
    }
    store.set_bounds(Bounds { entries_max: 7, bytes_max: 100_000 });
    assert_eq!((store.usage().entries, store.usage().evictions), (7, 93));
    assert!(store.get(&value("99"), 0).is_some());
    store.set_bounds(Bounds { entries_max: 7, bytes_max: 0 });
    assert_eq!((store.usage().entries, store.usage().bytes), (0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Get(u8),
    Set(u8, usize, Option<u64>),
    Add(u8, usize),
    Increment(u8),
    Delete(u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..12_u8;
    let step = prop_oneof![
        name.clone().prop_map(Step::Get),
        (name.clone(), 0..300_usize, prop::option::of(0..50_u64))
            .prop_map(|(n, size, ttl)| Step::Set(n, size, ttl)),
        (name.clone(), 0..300_usize).prop_map(|(n, size)| Step::Add(n, size)),
        name.clone().prop_map(Step::Increment),
        name.prop_map(Step::Delete),
        (0..20_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A value that is there is the one that was set last; the bounds hold after every step; what is not
    /// there any more was deleted, has expired, or was counted as evicted.
    #[test]
    fn a_store_is_a_map_that_forgets(steps in steps(), entries_max in 1..8_usize, bytes_max in 500..3000_usize) {
        let mut store = store(entries_max, bytes_max);
        let mut model: BTreeMap<String, (Vec<u8>, u64)> = BTreeMap::new();
        let mut now = 0;
        for step in steps {
            let evictions = store.usage().evictions;
            match step {
                Step::Wait(by) => now += by,
                Step::Get(n) => {
                    let name = n.to_string();
                    if let Some(value) = store.get(&value(&name), now) {
                        let (expected, expires) = &model[&name];
                        prop_assert!(value == expected && *expires > now);
                    }
                }
                Step::Set(n, size, ttl) => {
                    let name = n.to_string();
                    store.set(&value(&name), &vec![n; size], ttl, now).unwrap();
                    model.insert(name, (vec![n; size], ttl.map_or(u64::MAX, |ttl| now + ttl)));
                }
                Step::Add(n, size) => {
                    let name = n.to_string();
                    if store.add(&value(&name), &vec![n; size], None, now).unwrap() {
                        model.insert(name, (vec![n; size], u64::MAX));
                    }
                }
                Step::Increment(n) => {
                    let name = n.to_string();
                    if let Ok(sum) = store.increment(&value(&name), 99, None, now) {
                        let expires = match model.get(&name) {
                            Some((_, expires)) if sum != 99 => *expires,
                            _ => u64::MAX,
                        };
                        model.insert(name, (sum.to_string().into_bytes(), expires));
                    }
                }
                Step::Delete(n) => {
                    store.delete(&value(&n.to_string()), now);
                    model.remove(&n.to_string());
                }
            }
            let usage = store.usage();
            prop_assert!(usage.entries as usize <= entries_max && usage.bytes as usize <= bytes_max, "{usage:?}");
            model.retain(|_, (_, expires)| *expires > now);
            let evicted = (usage.evictions - evictions) as usize;
            // To look is to use: a copy is asked, so that the order stays as it is.
            let mut copy = store.clone();
            let gone: Vec<_> = model.keys().filter(|name| copy.get(&value(name), now).is_none()).cloned().collect();
            prop_assert_eq!(gone.len(), evicted, "{:?}", gone);
            gone.iter().for_each(|name| drop(model.remove(name)));
        }
    }
}
