//! `Meter` counts the usage of one rate limit for one key.

use crate::rule::{Algorithm, Rule};

/// The answer for a cost that can never be admitted, because it exceeds the amount that the rule admits at
/// once.
pub const NEVER: u64 = u64::MAX;

/// The usage of a rule for one key. A new meter is unused.
///
/// All arithmetic is exact. If the clock goes back, the meter accepts the new time: the usage stays and
/// decays from then on. So nobody waits longer than without the jump, and each jump admits at most one burst.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meter {
    /// Buckets: what is in use, in units of which one costs `period` and a millisecond gives back `limit`.
    /// Fixed window: what was admitted. Sliding window: what was admitted in the window before, and in this
    /// one in the lower half.
    used: u64,
    /// Buckets: the time of `used`. Windows: when the window began.
    at: u64,
}

/// The state of a meter in a form that does not depend on the clock, for another node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MeterState {
    /// Buckets: the usage, in units of which one costs `period` and a millisecond gives back `limit`.
    /// Windows: the amount admitted in this window.
    pub used: u64,
    /// Sliding window: the amount admitted in the previous window. Otherwise 0.
    pub before: u64,
    /// Windows: milliseconds since this window began. Buckets: the age of `used`.
    pub age: u64,
}

/// The amount that a rule would admit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The amount that it admits now.
    pub remaining: u64,
    /// Milliseconds until the full amount is available again.
    pub full_in: u64,
}

impl Meter {
    pub(crate) const NEW: Self = Self { used: 0, at: 0 };

    /// Takes `cost` if the rule admits it at `now`, and returns 0. Otherwise it takes nothing and returns the
    /// milliseconds after which the rule would admit it if nothing else were taken, or [`NEVER`] if the cost
    /// is too large. The rule always admits a cost of 0.
    pub fn take(&mut self, rule: &Rule, cost: u32, now: u64) -> u64 {
        let cost = u64::from(cost);
        if cost == 0 {
            return 0;
        }
        if cost > rule.burst() {
            return NEVER;
        }
        *self = self.at(rule, now);
        match rule.algorithm() {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => self.take_from_bucket(rule, cost),
            Algorithm::FixedWindow => self.take_from_window(rule, cost, now),
            Algorithm::SlidingWindow => self.take_from_sliding_window(rule, cost, now),
        }
    }

    /// Takes an amount that another node has already admitted, even above the limit of the rule. The excess
    /// must decay before the rule admits anything again.
    pub fn charge(&mut self, rule: &Rule, cost: u64, now: u64) {
        if cost == 0 {
            return;
        }
        *self = self.at(rule, now);
        self.used = match rule.algorithm() {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                self.used.saturating_add(cost.saturating_mul(rule.period()))
            }
            Algorithm::FixedWindow => self.used.saturating_add(cost),
            Algorithm::SlidingWindow => {
                let (before, current) = split(self.used);
                join(before, current.saturating_add(cost))
            }
        };
    }

    /// The state at `now`, for another node.
    pub fn state(&self, rule: &Rule, now: u64) -> MeterState {
        let Self { used, at } = self.at(rule, now);
        let (before, used) =
            if rule.algorithm() == Algorithm::SlidingWindow { split(used) } else { (0, used) };
        MeterState { used, before, age: now - at }
    }

    /// Makes a meter from the state of another node. A window that began before time 0 begins at 0.
    pub fn from_state(rule: &Rule, state: MeterState, now: u64) -> Self {
        let used = match rule.algorithm() {
            Algorithm::SlidingWindow => join(state.before, state.used),
            _ => state.used,
        };
        Self { used, at: now.saturating_sub(state.age) }
    }

    /// The amount that could be taken at `now`.
    pub fn room(&self, rule: &Rule, now: u64) -> Room {
        let Self { used, at } = self.at(rule, now);
        match rule.algorithm() {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => Room {
                remaining: (rule.burst() * rule.period()).saturating_sub(used) / rule.period(),
                full_in: used.div_ceil(rule.limit()),
            },
            Algorithm::FixedWindow => Room {
                remaining: rule.limit().saturating_sub(used),
                full_in: if used == 0 { 0 } else { rule.period() - (now - at) },
            },
            Algorithm::SlidingWindow => {
                let (before, current) = split(used);
                let left_of_window = rule.period() - (now - at);
                let free =
                    (rule.limit() * rule.period()).saturating_sub(in_window(rule, used, left_of_window));
                let full_in = match (before, current) {
                    (0, 0) => 0,
                    (_, 0) => left_of_window,
                    (_, _) => left_of_window + rule.period(),
                };
                Room { remaining: free / rule.period(), full_in }
            }
        }
    }

    /// The same state, as it is at `now`. Windows begin at or before `now` and end after it.
    fn at(self, rule: &Rule, now: u64) -> Self {
        let Self { used, at } = self;
        let passed = now.checked_sub(at);
        let settled = match (rule.algorithm(), passed) {
            (Algorithm::TokenBucket | Algorithm::LeakyBucket, passed) => {
                let given_back = passed.unwrap_or(0).saturating_mul(rule.limit());
                Self { used: used.saturating_sub(given_back), at: now }
            }
            (_, Some(passed)) if passed < rule.period() => self,
            (Algorithm::SlidingWindow, Some(passed)) if passed - rule.period() < rule.period() => {
                let (_, current) = split(used);
                Self { used: current << 32, at: at + rule.period() }
            }
            (_, Some(_)) => Self::default(),
            (Algorithm::SlidingWindow, None) => {
                let (before, current) = split(used);
                Self { used: (before + current).min(rule.limit()) << 32, at: now }
            }
            (_, None) => Self { used, at: now },
        };
        // A window begins with the first that is admitted.
        if settled.used == 0 { Self { used: 0, at: now } } else { settled }
    }

    fn take_from_bucket(&mut self, rule: &Rule, cost: u64) -> u64 {
        let (needed, most) = (cost * rule.period(), rule.burst() * rule.period());
        let free = most.saturating_sub(self.used);
        if needed <= free {
            self.used += needed;
            return 0;
        }
        (needed - free).saturating_add(self.used.saturating_sub(most)).div_ceil(rule.limit())
    }

    fn take_from_window(&mut self, rule: &Rule, cost: u64, now: u64) -> u64 {
        if self.used.saturating_add(cost) <= rule.limit() {
            self.used += cost;
            return 0;
        }
        rule.period() - (now - self.at)
    }

    fn take_from_sliding_window(&mut self, rule: &Rule, cost: u64, now: u64) -> u64 {
        let (limit, period) = (rule.limit(), rule.period());
        let left_of_window = period - (now - self.at);
        let free = (limit * period).saturating_sub(in_window(rule, self.used, left_of_window));
        if cost * period <= free {
            self.used += cost;
            return 0;
        }
        // The window before weighs as much as is left of this one: it has to become light enough for the
        // rest.
        let weighs_at_most = |weight: u64, rest: u64| (rest * period / weight).min(period);
        let (before, current) = split(self.used);
        match limit.checked_sub(current + cost) {
            Some(rest) => left_of_window - weighs_at_most(before, rest),
            // Not in this window. In the next one this is the one before.
            None => left_of_window + period - weighs_at_most(current, limit - cost),
        }
    }
}

/// What a sliding window admitted in the window before and in this one.
const fn split(used: u64) -> (u64, u64) {
    (used >> 32, used & u32::MAX as u64)
}

/// Both in one word, as far as they fit.
const fn join(before: u64, current: u64) -> u64 {
    const MOST: u64 = u32::MAX as u64;
    let before = if before < MOST { before } else { MOST };
    let current = if current < MOST { current } else { MOST };
    before << 32 | current
}

/// What counts in the last period, times the period.
const fn in_window(rule: &Rule, used: u64, left_of_window: u64) -> u64 {
    let (before, current) = split(used);
    (before * left_of_window).saturating_add(current * rule.period())
}
