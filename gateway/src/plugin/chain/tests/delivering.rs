//! Tests plugins with `on-deliver`.

use super::*;

/// A plugin that sees publications in `chat:*`, in classes by this attribute if it is not empty.
fn deliverer(policy: FailurePolicy, attribute: &str, steps: Vec<Step>) -> (FailurePolicy, Script) {
    let deliver = DeliverInterest {
        channels: Pattern::parse("chat:*").into_iter().collect(),
        class: (!attribute.is_empty()).then(|| attribute.into()),
    };
    let interests = Interests { deliver: Some(deliver), ..Interests::everything(ALL_HOOKS) };
    (policy, Script { interests: Some(interests), steps: Mutex::new(steps.into()), ..Script::default() })
}

fn outgoing(name: &str) -> Outgoing {
    Outgoing { channel: channel(name), payload: "p".into(), publisher: None, now: 1_000_000, at: 0 }
}

#[test]
fn only_those_who_asked_see_what_is_delivered_and_in_their_classes() {
    let plain = (FailurePolicy::Closed, Script::default());
    let by = |attribute| deliverer(FailurePolicy::Closed, attribute, vec![]);
    let bench = Bench::with([plain, by("role"), by(""), by("tier"), by("role")]);
    assert_eq!(**bench.chain.class_attributes(), [Box::<str>::from("role"), "tier".into()]);
    assert!(bench.chain.wants_deliveries(&channel("chat:1")));
    assert!(!bench.chain.wants_deliveries(&channel("news")));
    assert!(!Chain::empty().wants_deliveries(&channel("chat:1")));
    let values = ["mod".into(), "gold".into()];
    let next = |after| bench.chain.next_deliverer(after, &outgoing("chat:1").channel, &values);
    assert_eq!(next(None), Some((1, "mod")));
    assert_eq!(next(Some(1)), Some((2, "")), "it does not tell subscribers apart");
    assert_eq!(next(Some(2)), Some((3, "gold")));
    assert_eq!(next(Some(3)), Some((4, "mod")));
    assert_eq!(next(Some(4)), None);
    let nobody = bench.chain.next_deliverer(None, &channel("chat:1"), &[]);
    assert_eq!(nobody, Some((1, "")), "a connection without attributes");
}

#[test]
fn a_plugin_that_fails_delivers_nothing_or_everything_as_its_policy_says() {
    let failing = |policy| deliverer(policy, "", vec![Step::Fail(Cause::Trap)]);
    let mut bench = Bench::with([failing(FailurePolicy::Closed), failing(FailurePolicy::Open)]);
    assert_eq!(bench.chain.on_deliver(0, "", &outgoing("chat:1")), DeliverVerdict::Drop);
    assert_eq!(bench.chain.on_deliver(1, "", &outgoing("chat:1")), DeliverVerdict::Pass);
    assert_eq!(bench.chain.too_many_classes(0, &outgoing("chat:1")), DeliverVerdict::Drop);
    assert_eq!(bench.chain.too_many_classes(1, &outgoing("chat:1")), DeliverVerdict::Pass);
    let dropped = |plugin: usize| bench.counters[plugin].read().deliveries_dropped;
    assert_eq!((dropped(0), dropped(1)), (2, 0));
    assert_eq!(bench.counters[0].read().failures_by(Cause::Trap), 1);
    assert_eq!(bench.counters[0].read().skipped, 1, "the breaker hears nothing of it");
    let replace = DeliverVerdict::Replace("q".into());
    *bench.scripts[1].steps.lock().unwrap() = [Step::Deliver(replace.clone())].into();
    assert_eq!(bench.chain.on_deliver(1, "mod", &outgoing("chat:1")), replace);
    assert_eq!(bench.counters[1].read().deliveries_replaced, 1);
    assert_eq!(bench.scripts[1].seen.lock().unwrap().last().unwrap(), "deliver mod: p");
}
