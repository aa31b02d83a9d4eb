//! Tests plugins that fail, and the treatment of their events.

use super::*;

#[test]
fn a_failure_refuses_the_event_or_counts_as_no_opinion() {
    let fails = || vec![Fail(Cause::Trap)];
    let mut closed = Bench::new(vec![(Closed, fails()), (Closed, vec![])]);
    assert_eq!(closed.publish(), Decision::Failed);
    assert_eq!(closed.seen(1), [""; 0]);
    let mut open = Bench::new(vec![(Open, fails()), (Closed, vec![say(Verdict::Allow)])]);
    assert_eq!(open.publish(), Decision::Allowed(payload("p")));

    assert_eq!(Bench::new(vec![(Closed, fails())]).connect(), Admission::Failed);
    assert_eq!(Bench::new(vec![(Open, fails())]).connect(), Admission::Doubtful);
}

#[test]
fn effects_of_a_failed_call_are_discarded_and_earlier_ones_stay() {
    let record = |name, then| Record(name, Box::new(then));
    let mut bench = Bench::new(vec![
        (Closed, vec![record("one", say(Verdict::Next))]),
        (Open, vec![record("two", record("three", Fail(Cause::Deadline)))]),
        (Closed, vec![record("four", say(Verdict::Deny(refusal(100))))]),
    ]);
    assert_eq!(bench.publish(), Decision::Denied(refusal(100)));
    assert_eq!(bench.effects, [Effect::Subscribe(channel("one")), Effect::Subscribe(channel("four"))]);
    assert_eq!([0, 1, 2].map(|plugin| bench.counts(plugin).effects), [1, 0, 1]);
}

#[test]
fn the_spare_takes_the_place_of_an_instance_that_failed_at_once() {
    for (cause, ends) in
        [(Cause::Trap, 1), (Cause::Deadline, 1), (Cause::Memory, 1), (Cause::InvalidAnswer, 0)]
    {
        let mut bench = Bench::new(vec![(Closed, vec![Fail(cause), say(Verdict::Allow)])]);
        assert_eq!(bench.instantiated(0), 2, "one that serves and one in reserve");
        assert_eq!(bench.publish(), Decision::Failed);
        assert_eq!(bench.publish(), Decision::Allowed(payload("p")), "{cause}");
        assert_eq!(bench.instantiated(0), 2, "{cause}: nothing was made where events are served");
        assert_eq!(bench.work(), ends, "{cause}: the next spare");
        assert_eq!((bench.counts(0).failures_by(cause), bench.counts(0).calls), (1, 2));
    }
}

#[test]
fn until_a_spare_is_there_events_meet_the_policy_and_nothing_is_configured_in_their_way() {
    let mut bench =
        Bench::new(vec![(Closed, vec![Fail(Cause::Trap), Fail(Cause::Trap), say(Verdict::Allow)])]);
    let seen = [bench.publish(), bench.publish(), bench.publish(), bench.publish()];
    assert_eq!(seen, [Decision::Failed, Decision::Failed, Decision::Failed, Decision::Failed]);
    assert_eq!((bench.instantiated(0), bench.counts(0).calls, bench.counts(0).skipped), (2, 2, 2));
    assert_eq!(bench.alive(0), 2, "nor is an instance ended in their way");
    assert_eq!(bench.work(), 2, "one is ordered, and two come to their end");
    assert_eq!(bench.alive(0), 1);
    assert_eq!(bench.publish(), Decision::Allowed(payload("p")));
}

#[test]
fn a_plugin_that_cannot_be_replaced_meets_its_policy_and_is_tried_again_after_longer_and_longer_pauses() {
    let refused = || Err(LoadError::new(LoadCode::Instantiate, "no room"));
    // Taken from the end: the first instance and its standby instance work, the next two do not.
    let script = || Script {
        steps: Mutex::new([Fail(Cause::Trap), Fail(Cause::Trap), say(Verdict::Allow)].into()),
        instances: Mutex::new(vec![refused(), refused(), Ok(()), Ok(())]),
        ..Script::default()
    };
    for (policy, meanwhile) in [(Closed, Decision::Failed), (Open, Decision::Undecided(payload("p")))] {
        let mut bench = Bench::with([(policy, script())]);
        assert_eq!((bench.publish(), bench.work()), (meanwhile.clone(), 1));
        assert_eq!(
            (bench.publish(), bench.work()),
            (meanwhile.clone(), 1),
            "the spare has failed as well, and is ended"
        );
        bench.now += 99;
        assert_eq!((bench.publish(), bench.work()), (meanwhile.clone(), 0), "not again so soon");
        bench.now += 1;
        assert_eq!((bench.publish(), bench.work()), (meanwhile.clone(), 1));
        assert_eq!(bench.publish(), meanwhile, "that one could not be made either");
        bench.now += 199;
        assert_eq!((bench.publish(), bench.work()), (meanwhile.clone(), 0), "twice as long");
        bench.now -= 1_000_000;
        assert_eq!((bench.publish(), bench.work()), (meanwhile, 1), "a clock set back prolongs no pause");
        assert_eq!(bench.publish(), Decision::Allowed(payload("p")));
    }
}

#[test]
fn a_plugin_that_keeps_failing_is_left_alone_until_a_probe_goes_well() {
    let fails = || Fail(Cause::InvalidAnswer);
    let steps = vec![fails(), Record("lost", Box::new(fails())), fails(), say(Verdict::Allow)];
    let mut bench = Bench::new(vec![(Closed, steps)]);
    let (within, open_for) = (Duration::from_secs(1), Duration::from_secs(1));
    let breaker = Arc::new(Breaker::new(BreakerSettings { failures: 2, within, open_for }));
    let link = bench.chain.links.remove(0).with_breaker(breaker.clone());
    bench.chain.links.push(link);

    assert_eq!(bench.publish(), Decision::Failed);
    bench.disconnect();
    assert_eq!(breaker.position(), Position::Open, "a failure in any hook counts");
    assert_eq!((bench.publish(), bench.connect()), (Decision::Failed, Admission::Failed));
    bench.disconnect();
    assert_eq!((bench.counts(0).calls, bench.counts(0).skipped), (2, 3), "without a call");
    bench.now += 1000;
    assert_eq!((bench.publish(), breaker.position()), (Decision::Failed, Position::Open), "the probe failed");
    assert_eq!(bench.counts(0).calls, 3);
    bench.now += 1000;
    assert_eq!((bench.publish(), breaker.position()), (Decision::Allowed(payload("p")), Position::Closed));
    assert_eq!((bench.counts(0).calls, bench.counts(0).breaker_opened), (4, 2));
}

#[test]
fn a_deadline_costs_the_worker_its_time_and_counts_as_two_failures() {
    let opened_after = |cause| {
        let mut bench = Bench::new(vec![(Closed, (0..9).map(|_| Fail(cause)).collect())]);
        let breaker = Arc::new(Breaker::new(BreakerSettings::default()));
        let link = bench.chain.links.remove(0).with_breaker(breaker.clone());
        bench.chain.links.push(link);
        while breaker.position() == Position::Closed {
            bench.publish();
            bench.work();
        }
        bench.counts(0).calls
    };
    assert_eq!([Cause::Trap, Cause::InvalidAnswer, Cause::Deadline].map(opened_after), [5, 5, 3]);
}

#[test]
fn a_missing_instance_fails_only_what_it_would_have_seen() {
    let interests = Interests { kinds: Kinds::NONE.with(Kind::Rpc), ..Interests::everything(ALL_HOOKS) };
    let script = Script {
        steps: Mutex::new([Fail(Cause::Trap)].into()),
        // The standby instance cannot be made.
        instances: Mutex::new(vec![Err(LoadError::new(LoadCode::Instantiate, "no room")), Ok(())]),
        interests: Some(interests),
        ..Script::default()
    };
    let mut bench = Bench::with([(Closed, script)]);
    assert_eq!(bench.message(Kind::Rpc, ""), Decision::Failed);
    assert_eq!(bench.publish(), Decision::Undecided(payload("p")));
    assert_eq!(bench.message(Kind::Rpc, ""), Decision::Failed);
}
