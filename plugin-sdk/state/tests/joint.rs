//! Rate limits that nodes have together: a simulation of nodes that decide alone, and of a place where they
//! meet, with fed time, lost requests and lost answers.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::BTreeMap;

use gateway_plugin_state::{Algorithm, Bounds, Key, Meter, MeterState, Report, Rule, Store};
use proptest::prelude::*;

const KEY: Key<'static> = Key { hash: 7, space: 1, bytes: b"k" };
/// How often a node reports, in milliseconds.
const ROUND: u64 = 200;
/// The clocks of nodes begin at different times.
const CLOCKS: [u64; 4] = [0, 1_000_000, 77, 123_456];

fn rule(algorithm: Algorithm, limit: u64, period: u64, burst: u64) -> Rule {
    let windows = matches!(algorithm, Algorithm::FixedWindow | Algorithm::SlidingWindow);
    Rule::new(algorithm as u32, limit, period, if windows { 0 } else { burst }).unwrap()
}

/// The server that nodes report to: one meter, and what it knows of every node.
#[derive(Default)]
struct Server {
    meter: Meter,
    known: BTreeMap<usize, u64>,
    charged: u64,
}

impl Server {
    fn receive(&mut self, rule: &Rule, node: usize, report: Report, now: u64) -> MeterState {
        let known = self.known.entry(node).or_default();
        let fresh = report.total.saturating_sub(report.known.max(*known));
        *known = report.total.max(*known);
        self.charged += fresh;
        self.meter.charge(rule, fresh, now);
        self.meter.state(rule, now)
    }
}

struct Node {
    store: Store,
    clock: u64,
    /// A report under way, when its answer comes, and what that is; `None` if nothing comes back.
    under_way: Option<(u64, Report, Option<MeterState>)>,
    /// When it reports next.
    round: u64,
}

impl Node {
    fn new(number: usize) -> Self {
        let store = Store::new(Bounds { entries_max: 100, bytes_max: 1 << 20 });
        // Rounds of nodes lie anywhere.
        Self { store, clock: CLOCKS[number % 4], under_way: None, round: number as u64 * 61 % ROUND }
    }

    fn take(&mut self, rule: &Rule, now: u64) -> bool {
        self.store.take_joint(&KEY, rule, 1, now + self.clock) == 0
    }
}

/// What became of a run.
struct Run {
    /// When something was admitted, at any node.
    admitted: Vec<u64>,
    server: Server,
    nodes: Vec<Node>,
}

/// What the network does with a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    RequestLost,
    AnswerLost,
}

struct Scene<'s> {
    rule: Rule,
    nodes: usize,
    /// Milliseconds there and back.
    trip: u64,
    fates: &'s [Fate],
}

impl Scene<'_> {
    /// Runs for so long; `asks` says how often a node is asked in a millisecond.
    fn run(&self, millis: u64, asks: impl Fn(usize, u64) -> u64) -> Run {
        let mut nodes: Vec<Node> = (0..self.nodes).map(Node::new).collect();
        let (mut server, mut admitted, mut rounds) = (Server::default(), Vec::new(), 0);
        for now in 0..millis {
            for (number, node) in nodes.iter_mut().enumerate() {
                self.answer(node, now);
                if now >= node.round && node.under_way.is_none() {
                    node.round = now + ROUND;
                    self.report(node, number, &mut server, &mut rounds, now);
                }
                for _ in 0..asks(number, now) {
                    if node.take(&self.rule, now) {
                        admitted.push(now);
                    }
                }
            }
        }
        Run { admitted, server, nodes }
    }

    fn report(&self, node: &mut Node, number: usize, server: &mut Server, rounds: &mut usize, now: u64) {
        let mut reported = None;
        node.store.report(1, |_, _, report| reported = Some(report));
        let Some(report) = reported else { return };
        *rounds += 1;
        let state = match self.fates[*rounds % self.fates.len()] {
            Fate::RequestLost => None,
            // The place has a clock of its own, too.
            Fate::AnswerLost => {
                server.receive(&self.rule, number, report, now + 5_000);
                None
            }
            Fate::Arrives => Some(server.receive(&self.rule, number, report, now + 5_000)),
        };
        node.under_way = Some((now + self.trip, report, state));
    }

    fn answer(&self, node: &mut Node, now: u64) {
        let Some((at, report, state)) = node.under_way else { return };
        if now < at {
            return;
        }
        node.under_way = None;
        match state {
            Some(state) => node.store.reconcile(&KEY, &self.rule, report.total, state, now + node.clock),
            None => node.store.report_again(&KEY),
        }
    }

    /// The most that one node admits in two rounds and trips, if it is asked so often.
    fn stale(&self, asked_a_milli: u64) -> u64 {
        let span = 2 * (ROUND + self.trip);
        let rule = &self.rule;
        let by_rule = match rule.algorithm() {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                rule.burst() + (rule.limit() * span).div_ceil(rule.period())
            }
            _ => rule.limit() * (1 + span.div_ceil(rule.period())),
        };
        by_rule.min(asked_a_milli * span)
    }
}

/// What a bucket admits at most in any span of time, beyond what one node would.
fn worst_excess(rule: &Rule, admitted: &[u64]) -> i128 {
    // The most that any span admits above its share: one pass over the times, as a meter without a limit.
    let (mut level, mut at, mut worst) = (0_i128, 0_u64, 0_i128);
    for now in admitted {
        level = (level - i128::from(now - at) * i128::from(rule.limit())).max(0) + i128::from(rule.period());
        (at, worst) = (*now, worst.max(level));
    }
    worst - i128::from(rule.burst()) * i128::from(rule.period())
}

fn any_bucket() -> impl Strategy<Value = Rule> {
    let algorithm = prop_oneof![Just(Algorithm::TokenBucket), Just(Algorithm::LeakyBucket)];
    (algorithm, 1_u64..200, 100_u64..5_000, 1_u64..100)
        .prop_map(|(a, limit, period, burst)| rule(a, limit, period, burst))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The bound: nodes x what one node admits before it has heard of the others, but for the one that is
    /// right.
    #[test]
    fn a_bucket_is_overshot_by_what_the_other_nodes_admit_before_they_hear(
        rule in any_bucket(),
        nodes in 1_usize..5,
        trip in 0_u64..100,
        every in 1_u64..20,
        pause in prop_oneof![Just(0_u64), 500_u64..3_000],
    ) {
        let scene = Scene { rule, nodes, trip, fates: &[Fate::Arrives] };
        // Clients come in bursts, on all nodes at once.
        let asks = |_, now: u64| u64::from(now.is_multiple_of(every) && (pause == 0 || (now / pause).is_multiple_of(2)));
        let run = scene.run(20_000, asks);
        let bound = i128::from((nodes as u64 - 1) * scene.stale(1) * rule.period());
        let excess = worst_excess(&rule, &run.admitted);
        prop_assert!(excess <= bound, "{excess} > {bound}");
        // And in the long run it is no more than one node would admit: the excess is paid back.
        let share = 20_000 * rule.limit() / rule.period();
        let debt = rule.burst() + (nodes as u64 - 1) * scene.stale(1);
        prop_assert!(run.admitted.len() as u64 <= share + debt + 1);
    }

    #[test]
    fn a_window_is_overshot_by_what_the_other_nodes_admit_before_they_hear(
        sliding in any::<bool>(),
        limit in 1_u64..400,
        period in 2_000_u64..5_000,
        nodes in 1_usize..5,
        trip in 0_u64..100,
        every in 1_u64..20,
    ) {
        let algorithm = if sliding { Algorithm::SlidingWindow } else { Algorithm::FixedWindow };
        let scene = Scene { rule: rule(algorithm, limit, period, 0), nodes, trip, fates: &[Fate::Arrives] };
        let run = scene.run(20_000, |_, now| u64::from(now % every == 0));
        let stale = limit.min((2 * (ROUND + trip)).div_ceil(every));
        // Any span of a period touches two windows.
        let bound = 2 * (limit + (nodes as u64 - 1) * stale);
        for (first, from) in run.admitted.iter().enumerate() {
            let until = run.admitted[first..].iter().take_while(|at| **at - from < period).count() as u64;
            prop_assert!(until <= bound, "{until} > {bound}");
        }
    }

    /// Requests and answers get lost; what is admitted counts once all the same.
    #[test]
    fn whatever_is_lost_nothing_counts_twice_or_not_at_all(
        algorithm in prop::sample::select(&Algorithm::ALL[..]),
        limit in 10_u64..500,
        nodes in 1_usize..5,
        trip in 0_u64..150,
        fates in prop::collection::vec(
            prop_oneof![Just(Fate::Arrives), Just(Fate::RequestLost), Just(Fate::AnswerLost)], 1..20),
    ) {
        let mut fates = fates;
        fates.push(Fate::Arrives);
        let scene = Scene { rule: rule(algorithm, limit, 1_000, limit), nodes, trip, fates: &fates };
        // Nobody asks in the end, until the last report has arrived.
        let run = scene.run(25_000, |node, now| u64::from(now < 5_000 && (now + node as u64).is_multiple_of(3)));
        prop_assert_eq!(run.server.charged, run.admitted.len() as u64);
        for mut node in run.nodes {
            let mut left = 0;
            node.store.report(9, |_, _, _| left += 1);
            prop_assert_eq!(left, 0);
        }
    }

    /// Nobody is refused as long as all nodes together stay below the limit.
    #[test]
    fn below_the_limit_nothing_is_refused(
        algorithm in prop_oneof![Just(Algorithm::TokenBucket), Just(Algorithm::SlidingWindow)],
        nodes in 1_usize..5,
        trip in 0_u64..150,
    ) {
        // Each node is asked 50 times a second.
        let limit = 75 * nodes as u64;
        let scene = Scene { rule: rule(algorithm, limit, 1_000, limit), nodes, trip, fates: &[Fate::Arrives] };
        let run = scene.run(10_000, |_, now| u64::from(now % 20 == 0));
        prop_assert_eq!(run.admitted.len(), nodes * 500);
    }
}

#[test]
fn in_the_long_run_all_nodes_together_admit_what_the_limit_says() {
    for algorithm in Algorithm::ALL {
        let rule = rule(algorithm, 100, 1_000, 100);
        let scene = Scene { rule, nodes: 3, trip: 2, fates: &[Fate::Arrives] };
        // 999 a second are asked for.
        let run = scene.run(30_000, |_, now| u64::from(now % 3 == 0));
        let admitted = run.admitted.len();
        // A window of each second is overshot anew; a bucket has to pay back.
        let most = match algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => 3_000 + 100 + 2 * 100,
            Algorithm::FixedWindow | Algorithm::SlidingWindow => 3_000 * 3,
        };
        assert!((2_400..=most).contains(&admitted), "{algorithm:?}: {admitted}");
    }
}

#[test]
fn a_client_that_goes_to_another_node_finds_what_it_has_used() {
    let rule = rule(Algorithm::FixedWindow, 10, 3_600_000, 0);
    let mut server = Server::default();
    let mut first = Node::new(0);
    for _ in 0..8 {
        assert!(first.take(&rule, 0));
    }
    let mut exchange = |node: &mut Node, number, now: u64| {
        node.store.report(1, |_, _, report| node.under_way = Some((0, report, None)));
        let (_, report, _) = node.under_way.take().unwrap();
        let state = server.receive(&rule, number, report, now);
        node.store.reconcile(&KEY, &rule, report.total, state, now + node.clock);
        state
    };
    exchange(&mut first, 0, 200);
    // A node whose process is younger than the window.
    let mut second = Node::new(0);
    assert!(second.take(&rule, 1_000));
    let state = exchange(&mut second, 1, 3_000_000);
    assert_eq!((state.used, state.age), (9, 2_999_800));
    assert!(second.take(&rule, 3_000_001));
    let wait = second.store.take_joint(&KEY, &rule, 1, 3_000_001);
    assert_eq!(wait, 3_600_000 - 2_999_800 - 1, "until the window ends that began on the other node");
}

#[test]
fn a_key_that_was_forgotten_and_comes_back_goes_on_counting() {
    let rule = rule(Algorithm::TokenBucket, 10, 1_000, 10);
    let mut store = Store::new(Bounds { entries_max: 2, bytes_max: 1 << 20 });
    let mut server = Server::default();
    let mut reported = |store: &mut Store| {
        let mut fresh = Vec::new();
        store.report(9, |_, key, report| {
            if key == KEY.bytes {
                server.receive(&rule, 0, report, 0);
            }
            fresh.push(key.to_vec());
        });
        (fresh, server.charged)
    };
    for _ in 0..5 {
        store.take_joint(&KEY, &rule, 1, 0);
    }
    assert_eq!(reported(&mut store), (vec![b"k".to_vec()], 5));
    for other in [b"l", b"m"] {
        let key = Key { hash: u64::from(other[0]), space: 1, bytes: other };
        assert_eq!(store.take_joint(&key, &rule, 1, 0), 0);
    }
    assert_eq!(store.usage().evictions, 1);
    for _ in 0..3 {
        assert_eq!(store.take_joint(&KEY, &rule, 1, 0), 0);
    }
    // Of the two that were to be reported, one had to go.
    assert_eq!(reported(&mut store), (vec![b"m".to_vec(), b"k".to_vec()], 8));
}

proptest! {
    /// The list of what is to be reported stays right whatever expires, gives way or is reported.
    #[test]
    fn what_was_taken_and_is_kept_is_reported(
        steps in prop::collection::vec((0_u8..12, 0_u8..4, 0_u64..400), 1..200),
    ) {
        let rule = rule(Algorithm::TokenBucket, 1_000, 1_000, 1_000);
        let mut store = Store::new(Bounds { entries_max: 6, bytes_max: 1 << 20 });
        let (mut now, mut heard) = (0, BTreeMap::<u8, u64>::new());
        for (name, what, passes) in steps {
            now += passes;
            let bytes = [name];
            let key = Key { hash: u64::from(name % 3), space: 1, bytes: &bytes };
            match what {
                0 | 1 => prop_assert_eq!(store.take_joint(&key, &rule, 1, now), 0),
                2 => { store.delete(&key, now); },
                _ => {
                    let mut met = Vec::new();
                    store.report(2, |_, key, report| met.push((key[0], report)));
                    for (name, report) in met {
                        let before = heard.insert(name, report.total).unwrap_or(0);
                        prop_assert!(report.total > before.max(report.known), "only what is new");
                        let bytes = [name];
                        let key = Key { hash: u64::from(name % 3), space: 1, bytes: &bytes };
                        store.reconcile(&key, &rule, report.total, MeterState::default(), now);
                    }
                }
            }
        }
    }
}
