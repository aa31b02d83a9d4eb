//! [`Breaker`] keeps requests away from a target that keeps failing.
//!
//! ```text
//!            failures in a row              the pause has passed
//!  closed ───────────────────────► open ─────────────────────────► half-open: one request is the probe
//!    ▲                              ▲                                 │            │
//!    │                              └── it failed: twice the pause ───┘            │
//!    └───────────────────────────────────────────────────────────── it went well ──┘
//! ```
//!
//! It differs from the breaker of a plugin (`plugin/breaker.rs`) in what it counts: a plugin is judged by
//! failures within a time, on the threads of the workers and without a lock, while a success here forgets the
//! failures before it, and pauses grow.

use std::time::Duration;

use crate::config;

/// Longest pause, unless the configured one is longer.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The breaker of one target. Times are since the process began.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: config::TargetBreaker,
    state: State,
    /// Changes when the breaker opens or closes, so that the results of older requests are recognized: what
    /// passed since the breaker opened is the probe.
    generation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration, pause: Duration },
    HalfOpen { pause: Duration },
}

/// The state without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// Requests pass.
    Closed,
    /// No request passes.
    Open,
    /// A probe is under way, and nothing else passes.
    HalfOpen,
}

/// Permission for one request. Its result has to be reported with [`Breaker::settle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    generation: u64,
}

/// What the result of a request says about the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It works.
    Works,
    /// It fails.
    Fails,
    /// Nothing: the request was given up, or could not be sent for another reason.
    Unknown,
}

impl Breaker {
    /// Closed.
    pub(super) fn new(settings: config::TargetBreaker) -> Self {
        Self { settings, state: State::Closed { failures: 0 }, generation: 0 }
    }

    pub(super) fn position(&self) -> Position {
        match self.state {
            State::Closed { .. } => Position::Closed,
            State::Open { .. } => Position::Open,
            State::HalfOpen { .. } => Position::HalfOpen,
        }
    }

    /// Whether a request may pass now.
    pub(super) fn is_ready(&self, now: Duration) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until, .. } => now >= until,
            State::HalfOpen { .. } => false,
        }
    }

    /// When a request may pass; `None` if none is known: none has to be waited for, or a probe decides.
    pub(super) fn opens_at(&self) -> Option<Duration> {
        match self.state {
            State::Open { until, .. } => Some(until),
            State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Lets a request pass, as the probe if the breaker was open.
    pub(super) fn admit(&mut self, now: Duration) -> Option<Pass> {
        if !self.is_ready(now) {
            return None;
        }
        if let State::Open { pause, .. } = self.state {
            self.state = State::HalfOpen { pause };
        }
        Some(Pass { generation: self.generation })
    }

    /// Takes the result of a request that has passed. Requests that passed before the breaker opened change
    /// nothing afterwards.
    pub(super) fn settle(&mut self, pass: Pass, verdict: Verdict, now: Duration) {
        if pass.generation != self.generation {
            return;
        }
        match (self.state, verdict) {
            (State::Closed { .. }, Verdict::Works) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Verdict::Fails) => {
                let failures = failures.saturating_add(1);
                if self.settings.failures != 0 && failures >= self.settings.failures {
                    self.open(now, self.settings.pause);
                } else {
                    self.state = State::Closed { failures };
                }
            }
            (State::HalfOpen { .. }, Verdict::Works) => {
                self.generation += 1;
                self.state = State::Closed { failures: 0 };
            }
            (State::HalfOpen { pause }, Verdict::Fails) => {
                let longest = PAUSE_MAX.max(self.settings.pause);
                self.open(now, pause.saturating_mul(2).min(longest));
            }
            // The next request is the probe.
            (State::HalfOpen { pause }, Verdict::Unknown) => {
                self.state = State::Open { until: now, pause };
            }
            (State::Closed { .. }, Verdict::Unknown) | (State::Open { .. }, _) => (),
        }
    }

    fn open(&mut self, now: Duration, pause: Duration) {
        self.generation += 1;
        self.state = State::Open { until: now.saturating_add(pause), pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn breaker(failures: u32) -> Breaker {
        Breaker::new(config::TargetBreaker { failures, pause: at(100) })
    }

    /// One request that passes and has this result.
    fn request(breaker: &mut Breaker, now: u64, verdict: Verdict) {
        let pass = breaker.admit(at(now)).expect("it passes");
        breaker.settle(pass, verdict, at(now));
    }

    fn open_at(now: u64) -> Breaker {
        let mut breaker = breaker(2);
        request(&mut breaker, now, Verdict::Fails);
        request(&mut breaker, now, Verdict::Fails);
        assert_eq!(breaker.position(), Position::Open);
        breaker
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let mut breaker = breaker(3);
        for verdict in [Verdict::Fails, Verdict::Fails, Verdict::Works, Verdict::Fails, Verdict::Unknown] {
            request(&mut breaker, 1, verdict);
        }
        request(&mut breaker, 1, Verdict::Fails);
        assert_eq!(breaker.position(), Position::Closed);
        request(&mut breaker, 1, Verdict::Fails);
        assert_eq!(breaker.position(), Position::Open);
    }

    #[test]
    fn nothing_passes_until_the_pause_is_over_and_then_one_probe() {
        let mut breaker = open_at(1000);
        assert_eq!((breaker.admit(at(1099)), breaker.opens_at()), (None, Some(at(1100))));
        assert!(breaker.is_ready(at(1100)));
        let probe = breaker.admit(at(1100)).expect("the probe");
        assert_eq!(
            (breaker.position(), breaker.admit(at(9999))),
            (Position::HalfOpen, None),
            "one at a time"
        );
        breaker.settle(probe, Verdict::Works, at(1200));
        assert_eq!(breaker.position(), Position::Closed);
        request(&mut breaker, 1201, Verdict::Fails);
        assert_eq!(breaker.position(), Position::Closed, "former failures are forgotten");
    }

    #[test]
    fn each_probe_that_fails_doubles_the_pause_up_to_a_minute() {
        let mut breaker = open_at(0);
        let (mut now, mut pauses) = (at(0), Vec::new());
        for _ in 0..12 {
            let due = breaker.opens_at().expect("a time");
            pauses.push((due - now).as_millis());
            let probe = breaker.admit(due).expect("the probe");
            now = due + at(7);
            breaker.settle(probe, Verdict::Fails, now);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        let probe = breaker.admit(at(1_000_000)).expect("the probe");
        breaker.settle(probe, Verdict::Works, at(1_000_000));
        request(&mut breaker, 1_000_000, Verdict::Fails);
        request(&mut breaker, 1_000_000, Verdict::Fails);
        assert_eq!(breaker.opens_at(), Some(at(1_000_100)), "it begins anew");
    }

    #[test]
    fn a_configured_pause_above_the_bound_does_not_shrink() {
        let settings = config::TargetBreaker { failures: 1, pause: Duration::from_secs(300) };
        let mut breaker = Breaker::new(settings);
        request(&mut breaker, 0, Verdict::Fails);
        let probe = breaker.admit(settings.pause).expect("the probe");
        breaker.settle(probe, Verdict::Fails, settings.pause);
        assert_eq!(breaker.opens_at(), Some(settings.pause * 2));
    }

    #[test]
    fn a_probe_that_is_given_up_makes_room_for_the_next() {
        let mut breaker = open_at(0);
        let probe = breaker.admit(at(100)).expect("the probe");
        breaker.settle(probe, Verdict::Unknown, at(150));
        assert!(breaker.admit(at(150)).is_some());
    }

    #[test]
    fn requests_that_passed_before_it_opened_change_nothing() {
        let mut breaker = breaker(1);
        let (late, later, first) = (breaker.admit(at(0)), breaker.admit(at(0)), breaker.admit(at(0)));
        let [late, later, first] = [late, later, first].map(|pass| pass.expect("it passes"));
        breaker.settle(first, Verdict::Fails, at(10));
        breaker.settle(late, Verdict::Works, at(20));
        assert_eq!((breaker.position(), breaker.opens_at()), (Position::Open, Some(at(110))));
        let probe = breaker.admit(at(110)).expect("the probe");
        breaker.settle(later, Verdict::Fails, at(120));
        assert_eq!(breaker.position(), Position::HalfOpen, "only the probe decides");
        breaker.settle(probe, Verdict::Works, at(130));
        breaker.settle(later, Verdict::Fails, at(140));
        assert_eq!(breaker.position(), Position::Closed);
    }

    #[test]
    fn without_a_number_it_never_opens() {
        let mut breaker = breaker(0);
        for now in 0..1000 {
            request(&mut breaker, now, Verdict::Fails);
        }
        assert_eq!(breaker.position(), Position::Closed);
    }
}
