//! The chain with native plugins: order, verdicts and failures.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod bench;
mod failing;
mod guarded;
mod timing;
mod delivering;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::plugin::breaker::{Breaker, BreakerSettings, Position};
use crate::plugin::counters::{Counts, PluginCounters};
use crate::plugin::event::MessageContent;
use crate::plugin::failure::Cause;
use crate::plugin::grants::Grants;
use crate::plugin::interests::{DeliverInterest, Hooks, Kinds, Pattern};
use crate::plugin::load::{About, Factory, LoadCode, LoadError};
use crate::plugin::spare::Offload;
use crate::plugin::state::Meters;
use crate::plugin::verdict::Admission;
use crate::plugin::verdict::Refusal;
use crate::protocol::channel::Channel;
use FailurePolicy::{Closed, Open};
use Step::{Effect as Record, Fail};
use bench::{ALL_HOOKS, Bench, Script, Step, channel, client, payload, refusal, say};

#[test]
fn without_plugins_nothing_is_decided_and_nothing_is_wanted() {
    let mut chain = Chain::empty();
    assert_eq!(chain.generation(), 0);
    assert!(Kind::ALL.iter().all(|kind| !chain.wants(*kind)));
    let mut bench = Bench::new(vec![]);
    assert_eq!(bench.publish(), Decision::Undecided(payload("p")));
    assert_eq!(bench.connect(), Admission::Undecided);
    let event = DisconnectEvent { client: client(), code: 1, reason: "".into(), duration: 0, now: 0, at: 0 };
    chain.on_disconnect(&event, &mut Vec::new());
}

#[test]
fn a_verdict_that_ends_the_chain_is_the_decision() {
    let targets = vec![channel("a"), channel("#42")];
    for (verdict, decision) in [
        (Verdict::Deny(refusal(103)), Decision::Denied(refusal(103))),
        (Verdict::Drop, Decision::Dropped),
        (Verdict::Disconnect(refusal(3500)), Decision::Disconnect(refusal(3500))),
        (Verdict::Reply(payload("r")), Decision::Reply(payload("r"))),
        (Verdict::Route(targets.clone()), Decision::Route { targets, payload: payload("p") }),
    ] {
        let mut bench = Bench::new(vec![(Closed, vec![say(verdict.clone())]), (Closed, vec![])]);
        assert_eq!(bench.publish(), decision);
        assert_eq!(bench.seen(1), [""; 0], "{verdict:?} ends the chain");
        let refused = matches!(verdict, Verdict::Deny(_) | Verdict::Disconnect(_));
        assert_eq!(bench.counts(0).refusals, u64::from(refused), "{verdict:?}");
    }
}

#[test]
fn a_verdict_that_goes_on_lets_later_plugins_decide() {
    let mut bench = Bench::new(vec![
        (Closed, vec![say(Verdict::Next), say(Verdict::Allow), say(Verdict::Allow)]),
        (Closed, vec![say(Verdict::Next), say(Verdict::Next), say(Verdict::Deny(refusal(100)))]),
    ]);
    assert_eq!(bench.publish(), Decision::Undecided(payload("p")));
    assert_eq!(bench.publish(), Decision::Allowed(payload("p")));
    assert_eq!(bench.publish(), Decision::Denied(refusal(100)));
}

#[test]
fn later_plugins_and_the_decision_get_the_replaced_payload() {
    let replaced = say(Verdict::Replace(payload("q")));
    let mut bench = Bench::new(vec![
        (Closed, vec![replaced.clone(), replaced]),
        (Closed, vec![say(Verdict::Next), say(Verdict::Route(vec![channel("a")]))]),
    ]);
    assert_eq!(bench.publish(), Decision::Undecided(payload("q")), "to replace is not to allow");
    assert_eq!(bench.publish(), Decision::Route { targets: vec![channel("a")], payload: payload("q") });
    assert_eq!(bench.seen(0), ["message p", "message p"]);
    assert_eq!(bench.seen(1), ["message q", "message q"]);
}

#[test]
fn what_a_plugin_does_not_want_passes_it_by() {
    let hooks = Hooks { on_connect: false, on_disconnect: false, ..ALL_HOOKS };
    let interests = Interests {
        kinds: Kinds::NONE.with(Kind::Publish).with(Kind::Rpc),
        channels: Some([Pattern::parse("chat:*").unwrap()].into()),
        ..Interests::everything(hooks)
    };
    let mut bench = Bench::with([(Closed, Script { interests: Some(interests), ..Script::default() })]);
    assert!(bench.chain.wants(Kind::Publish) && bench.chain.wants(Kind::Rpc));
    assert!(!bench.chain.wants(Kind::Subscribe));
    bench.connect();
    bench.disconnect();
    bench.message(Kind::Publish, "news");
    bench.message(Kind::Subscribe, "chat:1");
    assert_eq!(bench.seen(0), [""; 0]);
    bench.message(Kind::Publish, "chat:1");
    bench.message(Kind::Rpc, "");
    assert_eq!(bench.seen(0).len(), 2);
    assert_eq!(bench.counts(0).calls, 2);
}

#[test]
fn an_allow_of_a_plugin_for_some_channels_opens_no_pattern_that_reaches_others() {
    let interests = Interests {
        channels: Some([Pattern::parse("chat:open.*").unwrap()].into()),
        ..Interests::everything(ALL_HOOKS)
    };
    let steps = [Verdict::Allow, Verdict::Allow, Verdict::Deny(refusal(103))].map(say);
    let script = Script { interests: Some(interests), steps: Mutex::new(steps.into()), ..Script::default() };
    let mut bench = Bench::with([(Closed, script)]);
    assert_eq!(bench.message(Kind::Subscribe, "chat:**"), Decision::Undecided(payload("p")));
    assert_eq!(bench.message(Kind::Subscribe, "chat:open.*"), Decision::Allowed(payload("p")));
    assert_eq!(bench.message(Kind::Subscribe, "chat:**"), Decision::Denied(refusal(103)));
}

#[test]
fn the_last_accept_wins_and_later_plugins_see_the_one_before() {
    let accept = |user: &str| {
        let attributes = vec![("b".into(), user.into())];
        let identity = Identity { user: user.into(), attributes, ..Identity::default() };
        Step::Connect(ConnectVerdict::Accept(Box::new(identity)))
    };
    let mut bench = Bench::new(vec![
        (Closed, vec![accept("1")]),
        (Closed, vec![]),
        (Closed, vec![accept("2")]),
        (Closed, vec![]),
    ]);
    let Admission::Accepted(identity) = bench.connect() else { panic!("accepted") };
    assert_eq!(&*identity.user, "2");
    let seen = [0, 1, 2, 3].map(|plugin| bench.seen(plugin).concat());
    assert_eq!(seen, ["connect [a]", "connect 1[a,b]", "connect 1[a,b]", "connect 2[a,b]"]);
}

#[test]
fn a_refusal_ends_the_admission() {
    let refuse = Step::Connect(ConnectVerdict::Refuse(refusal(3500)));
    let accept = Step::Connect(ConnectVerdict::Accept(Box::default()));
    let mut bench = Bench::new(vec![(Closed, vec![accept]), (Closed, vec![refuse]), (Closed, vec![])]);
    assert_eq!(bench.connect(), Admission::Refused(refusal(3500)));
    assert_eq!(bench.seen(2), [""; 0]);
    assert_eq!(bench.counts(1).refusals, 1);
}

#[test]
fn every_plugin_hears_of_a_disconnect() {
    let mut bench = Bench::new(vec![
        (Closed, vec![Record("lost", Box::new(Fail(Cause::Trap)))]),
        (Closed, vec![Record("kept", Box::new(Step::Nothing))]),
    ]);
    bench.disconnect();
    assert_eq!(bench.seen(1), ["disconnect 3000"]);
    assert_eq!(bench.effects, [Effect::Subscribe(channel("kept"))]);
}
