//! [`Breaker`]: a circuit breaker that stops calling a plugin that keeps failing.
//!
//! ```text
//!            failures within a time              open_for has passed
//!  closed ─────────────────────────────► open ─────────────────────────► half-open: one event is the probe
//!    ▲                                     ▲                                  │            │
//!    │                                     └──────────── it failed ───────────┘            │
//!    └───────────────────────────────────────────────────────────────── it went well ──────┘
//! ```
//!
//! There is one breaker for each plugin and node. While it is open, the plugin's failure policy applies to
//! events without a call. Every call without a usable verdict counts as a failure, in every hook, also one
//! with an invalid verdict. A call that exceeded its deadline counts as two, because it also delayed all
//! other clients of its worker.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// When the breaker opens and closes, from the `[breaker]` table of the settings file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures that open it; 0 for never.
    pub failures: u32,
    /// Period in which they have to happen.
    pub within: Duration,
    /// How long it stays open before a probe.
    pub open_for: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures: 5, within: Duration::from_secs(10), open_for: Duration::from_secs(5) }
    }
}

/// State of the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The plugin is called.
    Closed,
    /// The plugin is not called.
    Open,
    /// One event probes whether the plugin works again; the others skip the plugin.
    HalfOpen,
}

impl Position {
    /// The name in logs and API responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Override by an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hold {
    /// No override: it opens and closes automatically.
    #[default]
    Auto,
    /// It stays closed despite failures.
    Closed,
    /// It stays open: the plugin is switched off.
    Open,
}

/// Whether a call may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// As usual.
    Call,
    /// The call is the probe.
    Probe,
    /// No call.
    Refused,
}

// The lower three bits of the state are its kind. For the last two kinds, the bits above are the Unix time in
// milliseconds at which the state may change.
const CLOSED: u64 = 0;
const HELD_CLOSED: u64 = 1;
const HELD_OPEN: u64 = 2;
const OPEN: u64 = 3;
const HALF_OPEN: u64 = 4;
const KIND: u64 = 7;

/// The breaker of one plugin. Its clock is the Unix time in milliseconds that comes with each event.
#[derive(Debug)]
pub struct Breaker {
    within: u64,
    open_for: u64,
    state: AtomicU64,
    /// Times of the last failures, as many as open it. A ring buffer.
    times: Box<[AtomicU64]>,
    next: AtomicUsize,
}

impl Breaker {
    /// Closed.
    pub fn new(settings: BreakerSettings) -> Self {
        let BreakerSettings { failures, within, open_for } = settings;
        Self {
            within: millis(within),
            open_for: millis(open_for),
            state: AtomicU64::new(CLOSED),
            times: (0..failures).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// A breaker that never opens automatically.
    pub fn never() -> Self {
        Self::new(BreakerSettings { failures: 0, ..BreakerSettings::default() })
    }

    /// Its state.
    pub fn position(&self) -> Position {
        match self.state.load(Relaxed) & KIND {
            CLOSED | HELD_CLOSED => Position::Closed,
            HALF_OPEN => Position::HalfOpen,
            _ => Position::Open,
        }
    }

    /// The override by an operator.
    pub fn held(&self) -> Hold {
        match self.state.load(Relaxed) {
            HELD_CLOSED => Hold::Closed,
            HELD_OPEN => Hold::Open,
            _ => Hold::Auto,
        }
    }

    /// Sets the override. `Auto` starts closed and without failures.
    pub fn hold(&self, hold: Hold) {
        self.forget();
        let state = match hold {
            Hold::Auto => CLOSED,
            Hold::Closed => HELD_CLOSED,
            Hold::Open => HELD_OPEN,
        };
        self.state.store(state, Relaxed);
    }

    /// Whether an event may reach the plugin. Costs one load for a plugin that works.
    #[inline]
    pub(super) fn admit(&self, now: u64) -> Pass {
        match self.state.load(Relaxed) {
            CLOSED | HELD_CLOSED => Pass::Call,
            state => self.admit_while_open(state, now),
        }
    }

    /// A probe succeeded. True if that closed the breaker.
    pub(super) fn probe_succeeded(&self) -> bool {
        self.forget();
        self.change(HALF_OPEN, CLOSED)
    }

    /// A probe failed. True if that opened the breaker again.
    pub(super) fn probe_failed(&self, now: u64) -> bool {
        self.change(HALF_OPEN, due(OPEN, now.saturating_add(self.open_for)))
    }

    /// A call failed, with the weight of this many failures. True if that opened the breaker.
    pub(super) fn failed(&self, now: u64, weight: usize) -> bool {
        // Failures after the one that opens it do not count.
        !self.times.is_empty() && (0..weight).any(|_| self.count(now))
    }

    fn count(&self, now: u64) -> bool {
        let turn = self.next.fetch_add(1, Relaxed) % self.times.len();
        // Zero marks an unused entry.
        self.times[turn].store(now.max(1), Relaxed);
        // The next entry holds the oldest of the failures that together open it.
        let oldest = self.times[(turn + 1) % self.times.len()].load(Relaxed);
        oldest != 0
            && now.saturating_sub(oldest) <= self.within
            && self.change(CLOSED, due(OPEN, now.saturating_add(self.open_for)))
    }

    #[cold]
    fn admit_while_open(&self, state: u64, now: u64) -> Pass {
        if state == HELD_OPEN {
            return Pass::Refused;
        }
        // A clock that was set back does not prolong the pause. A probe that never returned is replaced too.
        let left = (state >> 3).saturating_sub(now);
        if left > 0 && left <= self.open_for {
            return Pass::Refused;
        }
        // If several workers find it due, only one gets the probe.
        let probing = due(HALF_OPEN, now.saturating_add(self.open_for));
        match self.state.compare_exchange(state, probing, Relaxed, Relaxed) {
            Ok(_) => Pass::Probe,
            Err(_) => Pass::Refused,
        }
    }

    /// Changes the state if it still has the kind `from`: an operator or another worker may have changed it.
    fn change(&self, from: u64, to: u64) -> bool {
        self.state.fetch_update(Relaxed, Relaxed, |state| (state & KIND == from).then_some(to)).is_ok()
    }

    fn forget(&self) {
        for time in &self.times {
            time.store(0, Relaxed);
        }
    }
}

fn due(kind: u64, at: u64) -> u64 {
    at << 3 | kind
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        let (within, open_for) = (Duration::from_millis(100), Duration::from_millis(50));
        Breaker::new(BreakerSettings { failures: 3, within, open_for })
    }

    fn open_at(now: u64) -> Breaker {
        let breaker = breaker();
        assert_eq!([now, now, now].map(|now| breaker.failed(now, 1)), [false, false, true]);
        breaker
    }

    #[test]
    fn failures_within_the_time_open_it_and_older_ones_do_not_count() {
        let breaker = breaker();
        let opened = [1000, 1050, 1101, 1150, 1151].map(|now| breaker.failed(now, 1));
        assert_eq!(opened, [false, false, false, true, false], "at 1101 the first is 101 ms old");
        assert_eq!(breaker.position(), Position::Open);
    }

    #[test]
    fn a_failure_can_count_as_several() {
        let breaker = breaker();
        assert_eq!([1000, 1001].map(|now| breaker.failed(now, 2)), [false, true]);
        assert!(!Breaker::never().failed(1000, 2));
        assert!(!(0..9).any(|_| self::breaker().failed(1000, 0)), "or as none");
    }

    #[test]
    fn an_open_one_refuses_until_its_time_has_passed_and_then_lets_one_probe() {
        let breaker = open_at(1000);
        assert_eq!(breaker.admit(1000), Pass::Refused);
        assert_eq!(breaker.admit(1049), Pass::Refused);
        assert_eq!(breaker.admit(1050), Pass::Probe);
        assert_eq!(breaker.position(), Position::HalfOpen);
        assert_eq!(breaker.admit(1051), Pass::Refused, "one probe at a time");
    }

    #[test]
    fn the_probe_decides() {
        let breaker = open_at(1000);
        assert_eq!(breaker.admit(1050), Pass::Probe);
        assert!(breaker.probe_failed(1060));
        assert_eq!((breaker.admit(1109), breaker.admit(1110)), (Pass::Refused, Pass::Probe));
        assert!(breaker.probe_succeeded());
        assert_eq!((breaker.position(), breaker.admit(1111)), (Position::Closed, Pass::Call));
        assert!(!breaker.failed(1112, 1), "former failures are forgotten");
    }

    #[test]
    fn a_probe_that_never_came_back_is_not_waited_for_forever() {
        let breaker = open_at(1000);
        assert_eq!(breaker.admit(1050), Pass::Probe);
        assert_eq!((breaker.admit(1099), breaker.admit(1100)), (Pass::Refused, Pass::Probe));
    }

    #[test]
    fn calls_that_began_before_it_opened_change_nothing() {
        let breaker = open_at(1000);
        assert!(!breaker.failed(1001, 1));
        assert_eq!(breaker.admit(1050), Pass::Probe, "not later than it was due");
        breaker.hold(Hold::Open);
        assert!(!breaker.probe_succeeded(), "an operator has the last word");
        assert_eq!(breaker.position(), Position::Open);
    }

    #[test]
    fn by_hand_it_stays_as_it_is_set() {
        let breaker = breaker();
        breaker.hold(Hold::Open);
        assert_eq!((breaker.admit(1), breaker.admit(u64::MAX >> 4)), (Pass::Refused, Pass::Refused));
        breaker.hold(Hold::Closed);
        assert_eq!([1, 1, 1, 1].map(|now| breaker.failed(now, 1)), [false; 4]);
        assert_eq!((breaker.admit(1), breaker.held()), (Pass::Call, Hold::Closed));
        breaker.hold(Hold::Auto);
        assert_eq!([2, 2, 2].map(|now| breaker.failed(now, 1)), [false, false, true], "counts from here on");
    }

    #[test]
    fn without_a_number_it_never_opens_and_with_one_at_once() {
        let never = Breaker::never();
        assert!((0..1000).all(|now| !never.failed(now, 1) && never.admit(now) == Pass::Call));
        let one = Breaker::new(BreakerSettings { failures: 1, ..BreakerSettings::default() });
        assert!(one.failed(7, 1));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_keep_it_open() {
        let breaker = open_at(1_000_000);
        assert_eq!(breaker.admit(1000), Pass::Probe);
    }

    #[test]
    fn of_many_threads_one_gets_the_probe() {
        let breaker = open_at(1000);
        let probes = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| breaker.admit(1050) == Pass::Probe)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).filter(|won| *won).count()
        });
        assert_eq!(probes, 1);
    }
}
