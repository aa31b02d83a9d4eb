//! [`Chooser`] decides which target of an upstream gets a request: by weight, among those that are up.
//!
//! It has no clock and no random numbers of its own: both are arguments. So a client cannot influence the
//! choice, and tests repeat it.

use std::time::Duration;

use super::breaker::{Breaker, Pass, Position, Verdict};
use crate::config;
use crate::telemetry::target::TargetState;

/// Checks in a row that a target may fail before it counts as unhealthy.
const CHECKS_FAILED_MAX: u32 = 2;

/// The targets of one upstream.
#[derive(Debug)]
pub(super) struct Chooser {
    entries: Box<[Entry]>,
}

#[derive(Debug)]
struct Entry {
    weight: u32,
    breaker: Breaker,
    /// Checks that failed in a row.
    checks_failed: u32,
}

/// The targets that were tried for one request. There are at most 16.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tried(u16);

impl Tried {
    pub(super) fn add(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    fn has(self, index: usize) -> bool {
        self.0 & 1 << index != 0
    }
}

impl Chooser {
    /// All targets are up.
    pub(super) fn new(weights: impl IntoIterator<Item = u32>, breaker: config::TargetBreaker) -> Self {
        let entry = |weight| Entry { weight, breaker: Breaker::new(breaker), checks_failed: 0 };
        Self { entries: weights.into_iter().map(entry).collect() }
    }

    pub(super) fn weight(&self, index: usize) -> u32 {
        self.entries[index].weight
    }

    /// Replaces the weights, from the next request on. There must be as many as before.
    pub(super) fn set_weights(&mut self, weights: &[u32]) {
        for (entry, weight) in self.entries.iter_mut().zip(weights) {
            entry.weight = *weight;
        }
    }

    pub(super) fn state(&self, index: usize) -> TargetState {
        let entry = &self.entries[index];
        match entry.breaker.position() {
            _ if !entry.is_healthy() => TargetState::Unhealthy,
            Position::Closed => TargetState::Up,
            Position::Open => TargetState::Open,
            Position::HalfOpen => TargetState::HalfOpen,
        }
    }

    /// Whether a request would find a target now.
    pub(super) fn is_any_ready(&self, now: Duration) -> bool {
        self.entries.iter().any(|entry| entry.is_ready(now))
    }

    /// When a request may find a target by the mere passing of time.
    pub(super) fn ready_at(&self) -> Option<Duration> {
        let possible = self.entries.iter().filter(|entry| entry.weight > 0 && entry.is_healthy());
        possible.filter_map(|entry| entry.breaker.opens_at()).min()
    }

    /// Chooses a target by weight among those that are up, and not in `tried` unless all are. `random` has
    /// all 64 bits random.
    pub(super) fn choose(&mut self, now: Duration, random: u64, tried: Tried) -> Option<(usize, Pass)> {
        let index = self.pick(now, random, tried).or_else(|| self.pick(now, random, Tried::default()))?;
        self.entries[index].breaker.admit(now).map(|pass| (index, pass))
    }

    fn pick(&self, now: Duration, random: u64, tried: Tried) -> Option<usize> {
        let weight = |(index, entry): (usize, &Entry)| match entry.is_ready(now) && !tried.has(index) {
            true => u64::from(entry.weight),
            false => 0,
        };
        let weights = self.entries.iter().enumerate().map(weight);
        let sum: u64 = weights.clone().sum();
        // The point is below the sum, so it falls on a target with a weight, if there is one.
        let mut point = ((u128::from(random) * u128::from(sum)) >> 64) as u64;
        for (index, weight) in weights.enumerate() {
            if point < weight {
                return Some(index);
            }
            point -= weight;
        }
        None
    }

    /// Takes the result of a request.
    pub(super) fn settle(&mut self, index: usize, pass: Pass, verdict: Verdict, now: Duration) {
        self.entries[index].breaker.settle(pass, verdict, now);
    }

    /// Takes the result of a check.
    pub(super) fn checked(&mut self, index: usize, works: bool) {
        let failed = &mut self.entries[index].checks_failed;
        *failed = if works { 0 } else { failed.saturating_add(1) };
    }
}

impl Entry {
    fn is_healthy(&self) -> bool {
        self.checks_failed < CHECKS_FAILED_MAX
    }

    fn is_ready(&self, now: Duration) -> bool {
        self.weight > 0 && self.is_healthy() && self.breaker.is_ready(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::{STEP, mix};

    const NOW: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_secs(5);

    fn chooser(weights: &[u32]) -> Chooser {
        let breaker = config::TargetBreaker { failures: 1, pause: PAUSE };
        Chooser::new(weights.iter().copied(), breaker)
    }

    /// How often each target is chosen in this many requests with numbers from this seed.
    fn counts(chooser: &mut Chooser, seed: u64, requests: u64) -> Vec<u64> {
        let mut counts = vec![0; chooser.entries.len()];
        for number in 1..=requests {
            let random = mix(seed.wrapping_add(number.wrapping_mul(STEP)));
            if let Some((index, pass)) = chooser.choose(NOW, random, Tried::default()) {
                chooser.settle(index, pass, Verdict::Works, NOW);
                counts[index] += 1;
            }
        }
        counts
    }

    fn fail(chooser: &mut Chooser, index: usize, now: Duration) {
        let pass = chooser.entries[index].breaker.admit(now).expect("it passes");
        chooser.settle(index, pass, Verdict::Fails, now);
    }

    /// Fails if a count is further from its expectation than five standard deviations.
    fn assert_shares(counts: &[u64], weights: &[u32]) {
        let (n, sum) = (counts.iter().sum::<u64>() as f64, weights.iter().sum::<u32>());
        for (count, weight) in counts.iter().zip(weights) {
            let p = f64::from(*weight) / f64::from(sum);
            let bound = 5.0 * (n * p * (1.0 - p)).sqrt();
            let far = (*count as f64 - n * p).abs();
            assert!(far <= bound, "{counts:?} for {weights:?}: {far} from the expectation, bound {bound}");
        }
    }

    #[test]
    fn the_shares_are_those_of_the_weights_within_binomial_bounds() {
        for weights in [&[80, 20][..], &[1, 1, 1], &[1000, 1, 10], &[0, 7, 3], &[5]] {
            for seed in 0..20 {
                let counts = counts(&mut chooser(weights), seed, 20_000);
                assert_eq!(counts.iter().sum::<u64>(), 20_000, "every request has a target");
                assert_shares(&counts, weights);
            }
        }
    }

    #[test]
    fn moved_weights_count_from_the_next_request_on() {
        let mut chooser = chooser(&[100, 0]);
        assert_eq!(counts(&mut chooser, 1, 1000), [1000, 0]);
        chooser.set_weights(&[20, 80]);
        assert_shares(&counts(&mut chooser, 2, 20_000), &[20, 80]);
        chooser.set_weights(&[0, 1]);
        assert_eq!((counts(&mut chooser, 3, 1000), chooser.weight(1)), (vec![0, 1000], 1));
    }

    #[test]
    fn a_target_that_is_open_or_unhealthy_gets_nothing_and_the_others_its_share() {
        let mut chooser = chooser(&[60, 30, 10]);
        fail(&mut chooser, 0, NOW);
        let shares = counts(&mut chooser, 4, 20_000);
        assert_eq!(shares[0], 0);
        assert_shares(&shares[1..], &[30, 10]);
        chooser.checked(1, false);
        assert_eq!(chooser.state(1), TargetState::Up, "one check may be lost");
        chooser.checked(1, false);
        assert_eq!(counts(&mut chooser, 5, 1000), [0, 0, 1000]);
        chooser.checked(1, true);
        assert!(counts(&mut chooser, 6, 1000)[1] > 0);
        assert_eq!(
            [0, 1, 2].map(|index| chooser.state(index)),
            [TargetState::Open, TargetState::Up, TargetState::Up]
        );
    }

    #[test]
    fn if_none_is_up_there_is_no_choice_until_one_probes() {
        let mut chooser = chooser(&[1, 1, 0]);
        fail(&mut chooser, 0, NOW);
        fail(&mut chooser, 1, NOW + PAUSE / 2);
        assert!(!chooser.is_any_ready(NOW + PAUSE / 2), "a weight of 0 is never used");
        assert!(chooser.choose(NOW + PAUSE / 2, 0, Tried::default()).is_none());
        assert_eq!(chooser.ready_at(), Some(NOW + PAUSE));
        let (index, probe) = chooser.choose(NOW + PAUSE, u64::MAX, Tried::default()).expect("the probe");
        assert_eq!((index, chooser.state(0)), (0, TargetState::HalfOpen));
        assert!(chooser.choose(NOW + PAUSE, 0, Tried::default()).is_none(), "one probe at a time");
        chooser.settle(index, probe, Verdict::Works, NOW + PAUSE);
        assert_eq!(chooser.state(0), TargetState::Up);
    }

    #[test]
    fn a_repeated_request_goes_to_another_target_if_one_is_up() {
        let mut chooser = chooser(&[99, 1]);
        let mut tried = Tried::default();
        tried.add(0);
        assert!((0..100).all(|n| chooser.choose(NOW, mix(n), tried).map(|(index, _)| index) == Some(1)));
        fail(&mut chooser, 1, NOW);
        assert_eq!(chooser.choose(NOW, 0, tried).map(|(index, _)| index), Some(0), "or to the same one");
    }
}
