#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::plugin::breaker::{Breaker, BreakerSettings, Position};
use crate::plugin::counters::{Counts, PluginCounters};
use crate::plugin::failure::Cause;
use crate::plugin::grants::Grants;
use crate::plugin::interests::{DeliverInterest, Hooks, Kinds, Pattern};
use crate::plugin::load::{About, Factory, LoadCode, LoadError};
use crate::plugin::spare::Offload;
use crate::plugin::state::Meters;
use crate::plugin::verdict::Admission;
use crate::plugin::verdict::Refusal;
use crate::protocol::channel::Channel;

/// What a scripted plugin does when it is called.
#[derive(Clone)]
enum Step {
    Connect(ConnectVerdict),
    Message(Verdict),
    Deliver(DeliverVerdict),
    /// Records an effect on this channel first.
    Effect(&'static str, Box<Step>),
    Fail(Cause),
    Nothing,
}

/// What all instances of one scripted plugin share.
#[derive(Default)]
struct Script {
    steps: Mutex<VecDeque<Step>>,
    /// What the plugin saw: hook and payload, or hook and user.
    seen: Mutex<Vec<String>>,
    instances: Mutex<Vec<Result<(), LoadError>>>,
    instantiated: Mutex<usize>,
    interests: Option<Interests>,
}

struct Scripted(Arc<Script>, Interests);

impl Scripted {
    fn step(&mut self, seen: String, effects: &mut Vec<Effect>) -> Result<Step, Failure> {
        self.0.seen.lock().unwrap().push(seen);
        let mut step = self.0.steps.lock().unwrap().pop_front().unwrap_or(Step::Nothing);
        while let Step::Effect(name, next) = step {
            effects.push(Effect::Subscribe(channel(name)));
            step = *next;
        }
        if let Step::Fail(cause) = step { Err(Failure::new(cause, "scripted")) } else { Ok(step) }
    }
}

impl Plugin for Scripted {
    fn interests(&self) -> &Interests {
        &self.1
    }

    fn on_connect(&mut self, hello: &Hello, effects: &mut Vec<Effect>) -> Result<ConnectVerdict, Failure> {
        let attributes = hello.client.attributes.keys().cloned().collect::<Vec<_>>().join(",");
        Ok(match self.step(format!("connect {}[{attributes}]", hello.client.user), effects)? {
            Step::Connect(verdict) => verdict,
            _ => ConnectVerdict::Pass,
        })
    }

    fn on_message(&mut self, message: &mut Message, effects: &mut Vec<Effect>) -> Result<Verdict, Failure> {
        let payload = String::from_utf8_lossy(&message.payload).into_owned();
        Ok(match self.step(format!("message {payload}"), effects)? {
            Step::Message(verdict) => verdict,
            _ => Verdict::Next,
        })
    }

    fn on_disconnect(&mut self, goodbye: &Goodbye, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.step(format!("disconnect {}", goodbye.code), effects).map(|_| ())
    }

    fn on_deliver(&mut self, class: &str, outgoing: &Outgoing) -> Result<DeliverVerdict, Failure> {
        let payload = String::from_utf8_lossy(&outgoing.payload).into_owned();
        Ok(match self.step(format!("deliver {class}: {payload}"), &mut Vec::new())? {
            Step::Deliver(verdict) => verdict,
            _ => DeliverVerdict::Pass,
        })
    }

    fn on_timer(&mut self, tick: &Tick, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.step(format!("timer {}", tick.instance), effects).map(|_| ())
    }
}

struct ScriptedFactory(Arc<Script>, About);

impl Factory for ScriptedFactory {
    fn instantiate(&self, _: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError> {
        *self.0.instantiated.lock().unwrap() += 1;
        self.0.instances.lock().unwrap().pop().unwrap_or(Ok(()))?;
        let interests = self.0.interests.clone().unwrap_or(Interests::everything(ALL_HOOKS));
        Ok(Box::new(Scripted(self.0.clone(), interests)))
    }

    fn about(&self) -> &About {
        &self.1
    }
}

const ALL_HOOKS: Hooks = Hooks {
    configure: true,
    on_connect: true,
    on_message: true,
    on_deliver: true,
    on_disconnect: true,
    on_timer: true,
};

/// A chain of scripted plugins, and what they saw.
struct Bench {
    chain: Chain,
    scripts: Vec<Arc<Script>>,
    counters: Vec<Arc<PluginCounters>>,
    effects: Vec<Effect>,
    now: u64,
    jobs: Arc<Jobs>,
}

/// Jobs wait until the test runs them.
#[derive(Default)]
struct Jobs(Mutex<Vec<Box<dyn FnOnce() + Send>>>);

impl Offload for Jobs {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().push(job);
    }
}

impl Jobs {
    fn run(&self) -> usize {
        let jobs = std::mem::take(&mut *self.0.lock().unwrap());
        jobs.into_iter().map(|job| job()).count()
    }
}

impl Bench {
    fn new(plugins: Vec<(FailurePolicy, Vec<Step>)>) -> Self {
        Self::with(
            plugins.into_iter().map(|(policy, steps)| {
                (policy, Script { steps: Mutex::new(steps.into()), ..Script::default() })
            }),
        )
    }

    fn with(plugins: impl IntoIterator<Item = (FailurePolicy, Script)>) -> Self {
        let about = About {
            name: None,
            version: None,
            sdk: None,
            interface: "0.1".into(),
            hooks: ALL_HOOKS,
            asks: Grants::default(),
            self_test: None,
        };
        let (mut links, mut scripts, mut all) = (Vec::new(), Vec::new(), Vec::new());
        let jobs = Arc::new(Jobs::default());
        for (number, (policy, script)) in plugins.into_iter().enumerate() {
            let script = Arc::new(script);
            let counters = Arc::new(PluginCounters::new(1));
            let factory = Arc::new(ScriptedFactory(script.clone(), about.clone()));
            let link = Link::new(format!("p{number}").into(), 0, policy, factory, counters.clone()).unwrap();
            links.push(link.with_offload(jobs.clone()));
            scripts.push(script);
            all.push(counters);
        }
        let mut chain = Chain::new(1, links);
        chain.begin();
        jobs.run();
        Self { chain, scripts, counters: all, effects: Vec::new(), now: 1_000_000, jobs }
    }

    /// Makes the instances that were ordered, and counts them.
    fn work(&self) -> usize {
        self.jobs.run()
    }

    fn message(&mut self, kind: Kind, name: &str) -> Decision {
        let channel = (!name.is_empty()).then(|| channel(name));
        let mut message = Message {
            client: client(),
            kind,
            channel,
            method: "".into(),
            payload: Bytes::from_static(b"p"),
            binary: false,
            token: Box::default(),
            now: self.now,
            at: self.now,
            meters: Meters::default(),
        };
        self.effects.clear();
        self.chain.on_message(&mut message, &mut self.effects)
    }

    fn publish(&mut self) -> Decision {
        self.message(Kind::Publish, "news")
    }

    fn connect(&mut self) -> Admission {
        let hello =
            Hello { client: client(), token: "t".into(), data: Bytes::new(), now: self.now, at: self.now };
        let mut judging = Judging::new(hello, Duration::from_secs(1));
        let judged = self.chain.judge(&mut judging);
        self.effects = judging.effects;
        match judged {
            Judged::Done(admission) => admission,
            Judged::Waits(_) => panic!("no plugin is asked elsewhere"),
        }
    }

    fn disconnect(&mut self) {
        let goodbye = Goodbye {
            client: client(),
            code: 3000,
            reason: "".into(),
            duration: 5,
            now: self.now,
            at: self.now,
        };
        self.effects.clear();
        self.chain.on_disconnect(&goodbye, &mut self.effects);
    }

    fn seen(&self, plugin: usize) -> Vec<String> {
        std::mem::take(&mut *self.scripts[plugin].seen.lock().unwrap())
    }

    fn counts(&self, plugin: usize) -> Counts {
        self.counters[plugin].read()
    }

    fn instantiated(&self, plugin: usize) -> usize {
        *self.scripts[plugin].instantiated.lock().unwrap()
    }
}

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

fn client() -> Arc<Client> {
    Arc::new(Client {
        number: 7,
        id: "c7".into(),
        user: "".into(),
        protocol: "raw",
        address: [127, 0, 0, 1].into(),
        headers: [].into(),
        attributes: BTreeMap::from([("a".into(), "1".into())]),
    })
}

fn refusal(code: u32) -> Refusal {
    Refusal { code, reason: "no".into() }
}

fn payload(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

use FailurePolicy::{Closed, Open};
use Step::{Effect as Record, Fail};

fn say(verdict: Verdict) -> Step {
    Step::Message(verdict)
}

#[test]
fn without_plugins_nothing_is_decided_and_nothing_is_wanted() {
    let mut chain = Chain::empty();
    assert_eq!(chain.generation(), 0);
    assert!(Kind::ALL.iter().all(|kind| !chain.wants(*kind)));
    let mut bench = Bench::new(vec![]);
    assert_eq!(bench.publish(), Decision::Undecided(payload("p")));
    assert_eq!(bench.connect(), Admission::Undecided);
    let goodbye = Goodbye { client: client(), code: 1, reason: "".into(), duration: 0, now: 0, at: 0 };
    chain.on_disconnect(&goodbye, &mut Vec::new());
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
fn a_failure_refuses_the_event_or_counts_as_no_opinion() {
    let fails = || vec![Fail(Cause::Trap)];
    let mut closed = Bench::new(vec![(Closed, fails()), (Closed, vec![])]);
    assert_eq!(closed.publish(), Decision::Failed);
    assert_eq!(closed.seen(1), [""; 0]);
    let mut open = Bench::new(vec![(Open, fails()), (Closed, vec![say(Verdict::Allow)])]);
    assert_eq!(open.publish(), Decision::Allowed(payload("p")));

    assert_eq!(Bench::new(vec![(Closed, fails())]).connect(), Admission::Failed);
    assert_eq!(Bench::new(vec![(Open, fails())]).connect(), Admission::Undecided);
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
    assert_eq!(bench.work(), 1, "ordered once");
    assert_eq!(bench.publish(), Decision::Allowed(payload("p")));
}

#[test]
fn a_plugin_that_cannot_be_replaced_meets_its_policy_and_is_tried_again_after_longer_and_longer_pauses() {
    let refused = || Err(LoadError::new(LoadCode::Instantiate, "no room"));
    // Taken from the end: the first instance and its spare work, the next two do not.
    let script = || Script {
        steps: Mutex::new([Fail(Cause::Trap), Fail(Cause::Trap), say(Verdict::Allow)].into()),
        instances: Mutex::new(vec![refused(), refused(), Ok(()), Ok(())]),
        ..Script::default()
    };
    for (policy, meanwhile) in [(Closed, Decision::Failed), (Open, Decision::Undecided(payload("p")))] {
        let mut bench = Bench::with([(policy, script())]);
        assert_eq!((bench.publish(), bench.work()), (meanwhile.clone(), 1));
        assert_eq!((bench.publish(), bench.work()), (meanwhile.clone(), 0), "the spare has failed as well");
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
fn a_missing_instance_fails_only_what_it_would_have_seen() {
    let interests = Interests { kinds: Kinds::NONE.with(Kind::Rpc), ..Interests::everything(ALL_HOOKS) };
    let script = Script {
        steps: Mutex::new([Fail(Cause::Trap)].into()),
        // The spare cannot be made.
        instances: Mutex::new(vec![Err(LoadError::new(LoadCode::Instantiate, "no room")), Ok(())]),
        interests: Some(interests),
        ..Script::default()
    };
    let mut bench = Bench::with([(Closed, script)]);
    assert_eq!(bench.message(Kind::Rpc, ""), Decision::Failed);
    assert_eq!(bench.publish(), Decision::Undecided(payload("p")));
    assert_eq!(bench.message(Kind::Rpc, ""), Decision::Failed);
}

#[test]
fn what_a_plugin_does_not_want_passes_it_by() {
    let interests = Interests {
        hooks: Hooks { on_connect: false, on_disconnect: false, ..ALL_HOOKS },
        kinds: Kinds::NONE.with(Kind::Publish).with(Kind::Rpc),
        channels: Some([Pattern::parse("chat:*").unwrap()].into()),
        payload: true,
        timer: None,
        deliver: None,
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

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A chain of plugins with these timers, in seconds; 0 for none.
fn with_timers(intervals: &[u64]) -> Bench {
    Bench::with(intervals.iter().map(|interval| {
        let timer = (*interval > 0).then(|| secs(*interval));
        let interests = Interests { timer, ..Interests::everything(ALL_HOOKS) };
        (FailurePolicy::Closed, Script { interests: Some(interests), ..Script::default() })
    }))
}

impl Bench {
    /// Runs what is due and says how often each plugin was called so far.
    fn timers_at(&mut self, at: u64) -> Vec<usize> {
        self.chain.on_timer(secs(at), &Tick { instance: 1, now: self.now, at: self.now }, &mut self.effects);
        self.scripts.iter().map(|script| script.seen.lock().unwrap().len()).collect()
    }
}

#[test]
fn timers_run_when_they_are_due_and_only_for_those_who_asked() {
    let mut bench = with_timers(&[10, 0, 15]);
    assert_eq!(bench.chain.next_timer(), None, "not started");
    bench.chain.start_timers(&Chain::empty(), 0, 1, secs(1));
    assert_eq!(bench.chain.next_timer(), Some(secs(10)));
    assert_eq!(bench.timers_at(9), [0, 0, 0]);
    assert_eq!(bench.timers_at(10), [1, 0, 0]);
    assert_eq!(bench.chain.next_timer(), Some(secs(15)));
    assert_eq!(bench.timers_at(31), [2, 0, 1], "once for all that was missed");
    assert_eq!(bench.chain.next_timer(), Some(secs(40)));
    assert_eq!(*bench.scripts[0].seen.lock().unwrap(), ["timer 1", "timer 1"]);
}

#[test]
fn a_timer_that_fails_does_not_keep_others_from_theirs() {
    let mut bench = with_timers(&[10, 10]);
    bench.chain.start_timers(&Chain::empty(), 0, 1, secs(0));
    *bench.scripts[0].steps.lock().unwrap() = [Step::Fail(Cause::Trap)].into();
    assert_eq!(bench.timers_at(10), [1, 1]);
    assert_eq!(bench.counters[0].read().failures_by(Cause::Trap), 1);
    assert_eq!(bench.timers_at(20), [2, 2], "with another instance");
}

#[test]
fn a_swap_moves_no_timer_but_that_of_a_new_interval() {
    let mut old = with_timers(&[10, 20]);
    old.chain.start_timers(&Chain::empty(), 0, 1, secs(0));
    // Due at 10 and 20, and late.
    let mut new = with_timers(&[10, 30]);
    new.chain.start_timers(&old.chain, 0, 1, secs(12));
    assert_eq!(new.chain.next_timer(), Some(secs(10)), "the swap did not swallow it");
    assert_eq!(new.timers_at(12), [1, 0]);
    assert_eq!(new.timers_at(20), [2, 0]);
    assert_eq!(new.timers_at(30), [3, 1]);
    let mut none = with_timers(&[0, 0]);
    none.chain.start_timers(&new.chain, 0, 1, secs(31));
    assert_eq!(none.chain.next_timer(), None);
}

/// A plugin that wants to see what is published to `chat:*`, in classes by this attribute if it is not empty.
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
