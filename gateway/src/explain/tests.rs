//! Which messages are explained, and how many explanations are kept.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use bytes::Bytes;

use super::*;
use crate::plugin::event::{Kind, Message, MessageContent};

const OFF: config::Explain = config::Explain { sample: 0, kept: 2, reply: false };

fn client(user: &str, attributes: &[(&str, &str)], headers: &[(&str, &str)]) -> Client {
    let boxed = |pairs: &[(&str, &str)]| -> Vec<(Box<str>, Box<str>)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    };
    Client {
        number: 1,
        id: "c".into(),
        user: user.into(),
        protocol: "raw",
        address: [127, 0, 0, 1].into(),
        headers: boxed(headers).into(),
        attributes: boxed(attributes).into_iter().collect(),
    }
}

fn picker(settings: config::Explain) -> (Arc<Explain>, Picker) {
    let explain = Arc::new(Explain::new(settings, Clock::start()));
    (explain.clone(), Picker::new(explain))
}

fn trace(now: u64) -> Arc<Trace> {
    let message = Message {
        client: Arc::new(client("", &[], &[])),
        content: MessageContent::new(Kind::Raw, None, Bytes::new()),
        now,
        at: 0,
        meters: Default::default(),
    };
    Arc::new(Trace::of(&message, 1, Clock::start()))
}

#[test]
fn nothing_is_picked_by_default() {
    let (_, picker) = picker(OFF);
    assert!(!picker.is_on());
    assert_eq!(picker.pick(Duration::ZERO, &client("42", &[], &[(HEADER, "1")]), None), None);
}

#[test]
fn a_sample_is_its_share_of_the_messages() {
    for (sample, expected) in [(10_000, 20_000), (5_000, 10_000), (3, 6), (1, 2)] {
        let (_, picker) = picker(config::Explain { sample, ..OFF });
        assert!(picker.is_on());
        let somebody = client("", &[], &[]);
        let picked = (0..20_000).filter(|_| picker.pick(Duration::ZERO, &somebody, None).is_some()).count();
        assert_eq!(picked, expected, "{sample} of 10,000");
    }
}

#[test]
fn who_is_watched_is_picked_until_the_time_is_over() {
    let (explain, picker) = picker(OFF);
    assert!(explain.watch(Whose::User("42".into()), Duration::from_secs(60)));
    assert!(explain.watch(Whose::Attribute("tenant".into(), "a".into()), Duration::from_secs(600)));
    assert!(picker.is_on());
    let now = explain.clock.now().at;
    let picked =
        |at: u64, client: &Client| picker.pick(now + Duration::from_secs(at), client, None).is_some();
    let (user, tenant) = (client("42", &[], &[]), client("7", &[("tenant", "a")], &[]));
    assert!(picked(0, &user) && picked(0, &tenant));
    assert!(!picked(0, &client("43", &[("tenant", "b")], &[])));
    assert!(!picked(61, &user) && picked(61, &tenant));
    assert!(picker.is_on(), "one is still watched");
    assert!(!picked(601, &tenant));
    assert!(!picker.is_on(), "the last one switches it off");
    assert!(
        explain.watch(Whose::User("42".into()), Duration::from_secs(60)),
        "and it can be switched on again"
    );
    assert!(picked(0, &user));
}

#[test]
fn only_so_many_are_watched_and_nobody_twice() {
    let (explain, _) = picker(OFF);
    let watch = |user: usize| explain.watch(Whose::User(user.to_string().into()), Duration::from_secs(60));
    assert!((0..TAGS_MAX).all(watch));
    assert!(watch(0), "the same again");
    assert!(!watch(TAGS_MAX));
}

#[test]
fn a_client_that_asks_is_answered_only_if_the_operator_allows_it() {
    let asking = client("", &[], &[(HEADER, "1")]);
    let (_, allowed) = picker(config::Explain { reply: true, ..OFF });
    assert_eq!(allowed.pick(Duration::ZERO, &asking, None), Some(Picked { reply: true }));
    assert_eq!(allowed.pick(Duration::ZERO, &client("", &[], &[]), None), None);
    let (_, forbidden) = picker(config::Explain { sample: 10_000, ..OFF });
    assert_eq!(forbidden.pick(Duration::ZERO, &asking, None), Some(Picked { reply: false }));
}

#[test]
fn the_newest_are_kept() {
    let (explain, picker) = picker(OFF);
    for now in 1..=5 {
        picker.keep(trace(now));
    }
    let at: Vec<_> = explain.last(10).iter().map(|trace| trace.to_json()["at"].clone()).collect();
    assert_eq!(at, [5, 4]);
    assert_eq!(explain.last(1).len(), 1);
}
