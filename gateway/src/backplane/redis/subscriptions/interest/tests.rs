//! `Interest` without Redis.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::backplane::redis::subscriptions::interest::*;

const LATER: Duration = Duration::from_secs(1);

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

fn interest(channels_max: usize) -> Interest {
    Interest::new(channels_max, Arc::new(SlotMap::new(&[])), 1)
}

fn announce(interest: &Interest, worker: usize, name: &str, connection: Option<u64>) -> Added {
    interest.add(worker, &channel(name), connection, ReplyTo::Connection(7, 1), LATER)
}

#[test]
fn whoever_comes_before_the_confirmation_waits_for_it_and_whoever_comes_after_does_not() {
    let interest = interest(9);
    assert!(matches!(announce(&interest, 0, "a", Some(1)), Added::Waits));
    assert!(matches!(announce(&interest, 1, "a", Some(1)), Added::Waits));
    assert_eq!(interest.take_changes(0, 1, 9), (vec![channel("a")], vec![]), "subscribed to once");
    let (waiters, again) = interest.confirm(&channel("a"), 1);
    assert_eq!((waiters.len(), again), (2, false));
    assert!(matches!(announce(&interest, 2, "a", Some(1)), Added::Already));
    assert_eq!(interest.workers(&channel("a"), None), 0b111);
}

#[test]
fn the_last_who_goes_ends_the_subscription_and_somebody_who_comes_meanwhile_begins_it_again() {
    let interest = interest(9);
    announce(&interest, 0, "a", Some(1));
    interest.take_changes(0, 1, 9);
    interest.confirm(&channel("a"), 1);
    interest.remove(0, &channel("a"));
    assert_eq!(interest.take_changes(0, 1, 9), (vec![], vec![channel("a")]));
    assert!(matches!(announce(&interest, 0, "a", Some(1)), Added::Waits), "it is being left");
    interest.left(&channel("a"));
    assert_eq!(interest.take_changes(0, 1, 9), (vec![channel("a")], vec![]));
    interest.confirm(&channel("a"), 1);
    interest.remove(0, &channel("a"));
    interest.take_changes(0, 1, 9);
    interest.left(&channel("a"));
    assert_eq!(interest.channels(), 0);
}

#[test]
fn coming_and_going_between_two_batches_costs_nothing() {
    let interest = interest(9);
    for _ in 0..100 {
        announce(&interest, 0, "a", None);
        interest.remove(0, &channel("a"));
    }
    assert_eq!(interest.take_changes(0, 1, 9), (vec![], vec![]));
    assert_eq!(interest.channels(), 0);
}

#[test]
fn a_new_link_subscribes_to_everything_again_and_knows_what_may_have_been_missed() {
    let interest = interest(9);
    for name in ["a", "b", "#42"] {
        announce(&interest, 0, name, Some(1));
    }
    interest.take_changes(0, 1, 9);
    interest.confirm(&channel("a"), 1);
    interest.begin(0);
    let (mut come, _) = interest.take_changes(0, 2, 9);
    come.sort();
    assert_eq!(come, [channel("a"), channel("b")], "an address has no topic of its own");
    assert!(interest.confirm(&channel("a"), 2).1);
    assert!(!interest.confirm(&channel("b"), 2).1);
    assert!(!interest.is_confirmed(&channel("a"), 1) && interest.is_confirmed(&channel("a"), 2));
}

#[test]
fn nobody_waits_for_longer_than_was_said() {
    let interest = interest(9);
    announce(&interest, 0, "a", Some(1));
    assert_eq!(interest.expired(LATER / 2).len(), 0);
    assert_eq!(interest.expired(LATER).len(), 1);
    assert_eq!(interest.confirm(&channel("a"), 1).0.len(), 0);
}

#[test]
fn a_stream_that_went_on_unnoticed_is_told_once() {
    let interest = interest(9);
    announce(&interest, 3, "a", Some(1));
    let top = |offset, epoch: &str| Position { offset, epoch: epoch.into() };
    interest.workers(&channel("a"), Some((5, &"e".into())));
    assert_eq!(interest.compare(&channel("a"), &top(5, "e")), None);
    assert_eq!(interest.compare(&channel("a"), &top(4, "e")), None, "what came is newer than the answer");
    assert_eq!(interest.compare(&channel("a"), &top(6, "e")), Some(1 << 3));
    assert_eq!(interest.compare(&channel("a"), &top(6, "e")), None);
    assert_eq!(interest.compare(&channel("a"), &top(1, "f")), Some(1 << 3));
    // The first publications arrive before the reply that there was none.
    interest.workers(&channel("a"), Some((1, &"o-x".into())));
    assert_eq!(interest.compare(&channel("a"), &top(0, "o.7")), None);
    assert_eq!(interest.top(&channel("a")), Some(top(1, "o-x")));
    assert_eq!(interest.compare(&channel("a"), &top(0, "p.7")), Some(1 << 3), "where another stream was");
    assert_eq!(interest.compare(&channel("a"), &top(0, "p.8")), None, "an hour later");
    assert_eq!(interest.compare(&channel("a"), &top(1, "p-x")), Some(1 << 3), "which did not come");
}

#[test]
fn whoever_goes_while_redis_is_asked_is_not_forgotten_there() {
    let interest = interest(9);
    announce(&interest, 0, "a", None);
    assert_eq!(interest.take_changes(0, 1, 9).0.len(), 1);
    interest.remove(0, &channel("a"));
    interest.confirm(&channel("a"), 1);
    assert_eq!(interest.take_changes(0, 1, 9), (vec![], vec![channel("a")]));
}

#[test]
fn without_a_link_channels_without_subscribers_are_forgotten() {
    let interest = interest(2);
    announce(&interest, 0, "a", None);
    announce(&interest, 0, "b", None);
    interest.remove(0, &channel("a"));
    interest.sweep(0);
    assert_eq!(interest.channels(), 1);
    assert_eq!(interest.take_changes(0, 1, 9), (vec![channel("b")], vec![]));
}

#[test]
fn channels_are_bounded() {
    let interest = interest(1);
    announce(&interest, 0, "a", Some(1));
    assert!(matches!(announce(&interest, 0, "b", Some(1)), Added::Full));
    assert!(matches!(announce(&interest, 1, "a", Some(1)), Added::Waits));
}

#[test]
fn channels_that_are_on_their_way_out_take_no_room_of_those_that_come() {
    let interest = interest(2);
    for name in ["a", "b"] {
        announce(&interest, 0, name, Some(1));
        interest.remove(0, &channel(name));
    }
    assert_eq!(interest.channels(), 2, "redis has not heard of it");
    for name in ["c", "d"] {
        assert!(matches!(announce(&interest, 0, name, Some(1)), Added::Waits));
    }
    assert!(matches!(announce(&interest, 0, "a", Some(1)), Added::Full), "two have subscribers");
    interest.remove(0, &channel("c"));
    assert!(matches!(announce(&interest, 0, "a", Some(1)), Added::Waits));
    assert!(matches!(announce(&interest, 1, "a", Some(1)), Added::Waits));
}
