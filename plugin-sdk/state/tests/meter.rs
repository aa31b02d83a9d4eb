//! Rate limits against models that remember everything, and what has to hold for each of them whatever the
//! clock does.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use gateway_plugin_state::{Algorithm, Meter, NEVER, Room, Rule};
use proptest::prelude::*;

fn rule(algorithm: Algorithm, limit: u64, period: u64, burst: u64) -> Rule {
    let windows = matches!(algorithm, Algorithm::FixedWindow | Algorithm::SlidingWindow);
    Rule::new(algorithm as u32, limit, period, if windows { 0 } else { burst }).expect("a valid rule")
}

// ---- Models: slow, with room for any number, and with everything that was admitted ----

/// What has been admitted and when. Before the beginning there is time, too.
#[derive(Default)]
struct Log(Vec<(i128, i128)>);

impl Log {
    fn sum(&self, from: i128, to: i128) -> i128 {
        self.0.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, cost)| cost).sum()
    }
}

enum Model {
    /// Counts what is left, where a meter counts what is used; times the period.
    Tokens {
        left: i128,
        at: i128,
    },
    Fixed {
        log: Log,
        window: i128,
    },
    Sliding {
        log: Log,
        window: i128,
    },
}

impl Model {
    fn new(rule: &Rule) -> Self {
        let (log, window) = (Log::default(), 0);
        match rule.algorithm() {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                Self::Tokens { left: i128::from(rule.burst()) * i128::from(rule.period()), at: 0 }
            }
            Algorithm::FixedWindow => Self::Fixed { log, window },
            Algorithm::SlidingWindow => Self::Sliding { log, window },
        }
    }

    fn take(&mut self, rule: &Rule, cost: u32, now: u64) -> bool {
        // What takes nothing is no event.
        if cost == 0 || u64::from(cost) > rule.burst() {
            return cost == 0;
        }
        let [now, cost, limit, period, burst] =
            [now, cost.into(), rule.limit(), rule.period(), rule.burst()].map(i128::from);
        match self {
            Self::Tokens { left, at } => {
                *left = (*left + (now - *at).max(0) * limit).min(burst * period);
                *at = now;
                let admitted = cost * period <= *left;
                if admitted {
                    *left -= cost * period;
                }
                admitted
            }
            Self::Fixed { log, window } => {
                if now < *window {
                    // The clock was set back: what counts, counts for a period from now.
                    log.0 = vec![(now, log.sum(*window, i128::MAX))];
                    *window = now;
                }
                if now - *window >= period || log.sum(*window, i128::MAX) == 0 {
                    *window = now;
                    log.0.clear();
                }
                let admitted = log.sum(*window, i128::MAX) + cost <= limit;
                if admitted {
                    log.0.push((now, cost));
                }
                admitted
            }
            Self::Sliding { log, window } => {
                if now < *window {
                    // The clock was set back: what counts was admitted just now.
                    let counts = log.sum(*window - period, i128::MAX).min(limit);
                    log.0 = vec![(now - 1, counts)];
                    *window = now;
                }
                *window += (now - *window) / period * period;
                if log.sum(*window - period, i128::MAX) == 0 {
                    *window = now;
                }
                let of_the_window_before = log.sum(*window - period, *window) * (*window + period - now);
                let of_this_one = log.sum(*window, i128::MAX) * period;
                let admitted = of_the_window_before + of_this_one + cost * period <= limit * period;
                if admitted {
                    log.0.push((now, cost));
                }
                admitted
            }
        }
    }
}

// ---- What happens to a meter ----

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Time goes on by this much.
    Wait(u64),
    /// The clock is set to another time.
    Jump(u64),
    Take(u32),
}

fn rules() -> impl Strategy<Value = Rule> {
    let small = (1..20_u64, 1..200_u64, 1..30_u64);
    let any = (1..=u64::from(u32::MAX), 1..=u64::from(u32::MAX), 1..=u64::from(u32::MAX));
    let extreme = prop::sample::select(vec![1, 2, u64::from(u32::MAX) - 1, u64::from(u32::MAX)]);
    let extreme = (extreme.clone(), extreme.clone(), extreme);
    let numbers = prop_oneof![4 => small, 1 => any, 1 => extreme];
    (prop::sample::select(Algorithm::ALL.to_vec()), numbers)
        .prop_map(|(algorithm, (limit, period, burst))| rule(algorithm, limit, period, burst))
}

/// Steps of the size of the rule's period and burst, now and then something else entirely.
fn steps(rule: Rule, jumps: bool) -> impl Strategy<Value = Vec<Step>> {
    let cost = prop_oneof![
        6 => (0..=rule.burst().min(u64::from(u32::MAX))).prop_map(|cost| cost as u32),
        6 => 0..4_u32,
        1 => Just(u32::MAX),
    ];
    let wait = prop_oneof![4 => 0..=rule.period(), 2 => 0..=rule.period().div_ceil(rule.limit()) * 2, 1 => 0..=rule.period() * 3];
    let jump = prop_oneof![2 => 0..=rule.period() * 4, 1 => any::<u64>(), 1 => Just(u64::MAX), 1 => Just(0)];
    let step = prop_oneof![
        8 => cost.prop_map(Step::Take),
        5 => wait.prop_map(Step::Wait),
        u32::from(jumps) => jump.prop_map(Step::Jump),
    ];
    prop::collection::vec(step, 1..120)
}

fn runs(jumps: bool) -> impl Strategy<Value = (Rule, Vec<Step>)> {
    rules().prop_flat_map(move |rule| (Just(rule), steps(rule, jumps)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_meter_admits_what_its_model_admits((rule, steps) in runs(true)) {
        let (mut meter, mut model, mut now) = (Meter::default(), Model::new(&rule), 0_u64);
        for step in steps {
            match step {
                Step::Wait(by) => now = now.saturating_add(by),
                Step::Jump(to) => now = to,
                Step::Take(cost) => {
                    let admitted = meter.take(&rule, cost, now) == 0;
                    prop_assert_eq!(admitted, model.take(&rule, cost, now), "{} at {}", cost, now);
                }
            }
        }
    }

    /// What is refused is admitted after the time that was said, and not a millisecond before.
    #[test]
    fn the_wait_is_true((rule, steps) in runs(true)) {
        let (mut meter, mut now) = (Meter::default(), 0_u64);
        for step in steps {
            match step {
                Step::Wait(by) => now = now.saturating_add(by),
                // Beyond the end of time nothing can be waited for.
                Step::Jump(to) => now = to.min(u64::MAX >> 8),
                Step::Take(cost) => match meter.take(&rule, cost, now) {
                    0 => {}
                    NEVER => prop_assert!(u64::from(cost) > rule.burst()),
                    wait => {
                        prop_assert!(u64::from(cost) <= rule.burst());
                        // A rule may need longer than there is time left.
                        if let Some(end) = now.checked_add(wait) {
                            prop_assert_eq!({ meter }.take(&rule, cost, end - 1), 1);
                            prop_assert_eq!({ meter }.take(&rule, cost, end), 0);
                        }
                    }
                },
            }
        }
    }

    /// What is left is admitted and not more, and a meter whose time is up is like a new one.
    #[test]
    fn the_room_is_true((rule, steps) in runs(true)) {
        let (mut meter, mut now) = (Meter::default(), 0_u64);
        for step in steps {
            match step {
                Step::Wait(by) => now = now.saturating_add(by),
                Step::Jump(to) => now = to.min(u64::MAX >> 8),
                Step::Take(cost) => {
                    meter.take(&rule, cost, now);
                }
            }
            // Only what is taken makes a meter notice the time.
            meter.take(&rule, 1, now);
            let Room { remaining, full_in } = meter.room(&rule, now);
            prop_assert!(remaining <= rule.burst());
            prop_assert!(full_in <= rule.forgets_after());
            let mut all = meter;
            prop_assert_eq!(all.take(&rule, remaining as u32, now), 0);
            if remaining < rule.burst() {
                prop_assert_ne!(all.take(&rule, 1, now), 0);
            }
            prop_assume!(now.checked_add(full_in).is_some());
            let full = Room { remaining: rule.burst(), full_in: 0 };
            prop_assert_eq!(meter.room(&rule, now + full_in), full);
            if full_in > 0 {
                prop_assert_ne!(meter.room(&rule, now + full_in - 1), full);
            }
        }
    }

    /// However the clock is set, one more is admitted a period later at the latest, plus the time that one
    /// takes.
    #[test]
    fn nobody_is_stuck((rule, steps) in runs(true)) {
        let (mut meter, mut now) = (Meter::default(), 0_u64);
        for step in steps {
            match step {
                Step::Wait(by) => now = now.saturating_add(by),
                Step::Jump(to) => now = to,
                Step::Take(cost) => {
                    meter.take(&rule, cost, now);
                }
            }
            let wait = { meter }.take(&rule, 1, now);
            prop_assert!(wait <= rule.period() + rule.period().div_ceil(rule.limit()), "{wait}");
        }
    }

    /// In no stretch of time is more admitted than a burst and what the rate gives: for windows twice the
    /// limit, which is what the last part of one and the first part of the next let through. Each jump of the
    /// clock adds one burst.
    #[test]
    fn no_stretch_of_time_admits_too_much((rule, steps) in runs(true)) {
        let (mut meter, mut now) = (Meter::default(), 0_u64);
        // Of every stretch that has begun: what was admitted, how long it is, and how often the clock was
        // set.
        let mut stretches: Vec<(u128, u128, u128)> = Vec::new();
        let [limit, period, burst] = [rule.limit(), rule.period(), rule.burst()].map(u128::from);
        for step in steps {
            match step {
                Step::Wait(by) => {
                    let then = now.saturating_add(by);
                    stretches.iter_mut().for_each(|(_, length, _)| *length += u128::from(then - now));
                    now = then;
                }
                Step::Jump(to) => {
                    now = to;
                    stretches.iter_mut().for_each(|(_, _, jumps)| *jumps += 1);
                }
                Step::Take(cost) => {
                    stretches.push((0, 0, 0));
                    if meter.take(&rule, cost, now) == 0 {
                        stretches.iter_mut().for_each(|(sum, _, _)| *sum += u128::from(cost));
                    }
                }
            }
            for &(sum, length, jumps) in &stretches {
                let most = match rule.algorithm() {
                    Algorithm::TokenBucket | Algorithm::LeakyBucket => burst * (jumps + 1) + length * limit / period,
                    Algorithm::FixedWindow | Algorithm::SlidingWindow => limit * (jumps + 2 + length / period),
                };
                prop_assert!(sum <= most, "{sum} in {length} ms with {jumps} jumps; at most {most}");
            }
        }
    }
}

// ---- By example ----

/// What is admitted of one unit in each of these milliseconds.
fn admitted(rule: &Rule, times: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut meter = Meter::default();
    times.into_iter().filter(|now| meter.take(rule, 1, *now) == 0).collect()
}

#[test]
fn a_token_bucket_lets_a_burst_through_and_then_its_rate() {
    let rule = rule(Algorithm::TokenBucket, 10, 1000, 3);
    assert_eq!(admitted(&rule, [0; 5]), [0; 3]);
    assert_eq!(admitted(&rule, [0, 0, 0, 99, 100, 100, 250, 300]), [0, 0, 0, 100, 250, 300]);
    assert_eq!(admitted(&rule, [0, 0, 0, 5000, 5000, 5000, 5000]), [0, 0, 0, 5000, 5000, 5000]);
}

#[test]
fn a_leaky_bucket_spaces_evenly_unless_it_is_given_a_burst() {
    let even = Rule::new(2, 10, 1000, 0).unwrap();
    assert_eq!(admitted(&even, (0..=300).step_by(50)), [0, 100, 200, 300]);
    assert_eq!(even.burst(), 1);
    assert_eq!(admitted(&rule(Algorithm::LeakyBucket, 10, 1000, 2), [0, 0, 0, 50, 100, 100]), [0, 0, 100]);
}

#[test]
fn a_fixed_window_begins_with_the_first_and_ends_a_period_later() {
    let rule = rule(Algorithm::FixedWindow, 2, 1000, 0);
    assert_eq!(admitted(&rule, [700, 1500, 1699, 1700, 1700, 1700]), [700, 1500, 1700, 1700]);
}

#[test]
fn a_sliding_window_gives_back_over_a_period() {
    let rule = rule(Algorithm::SlidingWindow, 4, 1000, 0);
    assert_eq!(admitted(&rule, [0, 0, 0, 0, 999, 1000, 1249, 1250, 1499, 1500]), [0, 0, 0, 0, 1250, 1500]);
}

#[test]
fn rates_that_do_not_divide_a_millisecond_do_not_drift() {
    // Three a second for an hour, asked every millisecond that counts.
    let rule = rule(Algorithm::TokenBucket, 3, 1000, 1);
    let mut meter = Meter::default();
    let hour = 3_600_000_u64;
    let count = (0..hour).filter(|now| meter.take(&rule, 1, *now) == 0).count() as u64;
    // One has to wait for a whole millisecond, so it is not quite three.
    assert_eq!(count, hour.div_ceil(334));
    let mut meter = Meter::default();
    let steady = (0..hour).step_by(1000).filter(|now| meter.take(&rule, 1, *now) == 0).count();
    assert_eq!(steady, 3_600, "below the rate nothing is refused");
}

#[test]
fn what_is_refused_costs_nothing() {
    for algorithm in Algorithm::ALL {
        let rule = rule(algorithm, 5, 1000, 5);
        let mut meter = Meter::default();
        assert_eq!(meter.take(&rule, 6, 0), NEVER);
        assert_eq!(meter.take(&rule, u32::MAX, 0), NEVER);
        assert_eq!(meter.take(&rule, 3, 0), 0);
        for _ in 0..100 {
            assert_ne!(meter.take(&rule, 3, 0), 0);
        }
        assert_eq!(meter.take(&rule, 2, 0), 0, "{algorithm:?}");
        assert_eq!(meter.take(&rule, 0, 0), 0);
    }
}

#[test]
fn a_rule_that_cannot_be_is_refused_in_words() {
    for (numbers, words) in [
        ((0, 1, 1, 0), "there is no algorithm 0; expected 1 to 4"),
        ((5, 1, 1, 0), "there is no algorithm 5"),
        ((1, 0, 1, 0), "the limit is 0; expected 1 to 4294967295"),
        ((1, 1, 0, 0), "the period is 0"),
        ((1, 1 << 32, 1, 0), "the limit is 4294967296"),
        ((2, 1, 1, 1 << 32), "the burst is 4294967296"),
        ((3, 1, 1, 1), "a burst belongs to a token bucket or a leaky bucket"),
    ] {
        let (algorithm, limit, period, burst) = numbers;
        let refused = Rule::new(algorithm, limit, period, burst).unwrap_err().to_string();
        assert!(refused.starts_with(words), "{refused}");
    }
}
