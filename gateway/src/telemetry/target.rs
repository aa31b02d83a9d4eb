//! [`TargetMetrics`] counts the requests to one target of an upstream, and [`AskMetrics`] the questions to the
//! upstream.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::metrics::SharedCounter;
use crate::histogram::{Observed, Times};

/// How a request to a target ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// With a status 2xx.
    Ok,
    /// With another status that is the word of the upstream.
    Refused,
    /// With a status 429 or 5xx.
    Error,
    /// Without an answer in time.
    Timeout,
    /// With an answer that is too large.
    TooLarge,
    /// Without a connection.
    Unreachable,
    /// With an answer that is malformed, or ends in the middle.
    Broken,
}

/// Whether a target gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// It does.
    Up,
    /// Its breaker is open.
    Open,
    /// One request probes whether it works again.
    HalfOpen,
    /// It failed its checks.
    Unhealthy,
}

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskOutcome {
    /// With an answer.
    Answered,
    /// With a status that is the word of the upstream.
    Refused,
    /// With a status 429 or 5xx.
    Error,
    /// Without an answer in time.
    Timeout,
    /// With an answer that is too large.
    TooLarge,
    /// Without an answer, for another reason.
    Failed,
    /// At once, because there was no room.
    Busy,
    /// At once, because no target was up.
    BreakerOpen,
    /// Without being sent, because who asked had gone.
    Abandoned,
}

/// What became of a question that was to be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShadowResult {
    /// Target and shadow answered with the same status, or both without one.
    Same,
    /// They differ.
    Different,
    /// It was not copied, because too many copies were under way.
    Skipped,
}

/// The counters of one target.
#[derive(Debug)]
pub struct TargetMetrics {
    /// As text, for a label.
    index: Box<str>,
    requests: [SharedCounter; RequestOutcome::ALL.len()],
    weight: AtomicU64,
    state: AtomicUsize,
    opened: SharedCounter,
}

/// The counters of the questions to one upstream.
#[derive(Debug, Default)]
pub struct AskMetrics {
    outcomes: [SharedCounter; AskOutcome::ALL.len()],
    retried: SharedCounter,
    waiting: AtomicU64,
    in_flight: AtomicU64,
    /// Several threads observe.
    times: Mutex<Times>,
    shadow: [SharedCounter; ShadowResult::ALL.len()],
}

impl RequestOutcome {
    /// Every value.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::Refused,
        Self::Error,
        Self::Timeout,
        Self::TooLarge,
        Self::Unreachable,
        Self::Broken,
    ];

    /// The label, and the name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
        }
    }
}

impl TargetState {
    /// Every value.
    pub const ALL: [Self; 4] = [Self::Up, Self::Open, Self::HalfOpen, Self::Unhealthy];

    /// The label, and the name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl AskOutcome {
    /// Every value.
    pub const ALL: [Self; 9] = [
        Self::Answered,
        Self::Refused,
        Self::Error,
        Self::Timeout,
        Self::TooLarge,
        Self::Failed,
        Self::Busy,
        Self::BreakerOpen,
        Self::Abandoned,
    ];

    /// The label, and the name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::BreakerOpen => "breaker_open",
            Self::Abandoned => "abandoned",
        }
    }
}

impl ShadowResult {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Same, Self::Different, Self::Skipped];

    /// The label, and the name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::Skipped => "skipped",
        }
    }
}

impl TargetMetrics {
    pub(super) fn new(index: usize) -> Self {
        Self {
            index: index.to_string().into(),
            requests: Default::default(),
            weight: AtomicU64::new(0),
            state: AtomicUsize::new(TargetState::Up as usize),
            opened: SharedCounter::default(),
        }
    }

    pub(super) fn index(&self) -> &str {
        &self.index
    }

    /// Counts a request.
    pub fn count(&self, outcome: RequestOutcome) {
        self.requests[outcome as usize].inc();
    }

    /// The requests with this outcome.
    pub fn requests(&self, outcome: RequestOutcome) -> u64 {
        self.requests[outcome as usize].get()
    }

    /// Counts that the breaker opened.
    pub fn opened_once(&self) {
        self.opened.inc();
    }

    /// How often the breaker opened.
    pub fn opened(&self) -> u64 {
        self.opened.get()
    }

    /// Sets the weight. Whether it was another one.
    pub fn set_weight(&self, weight: u32) -> bool {
        self.weight.swap(weight.into(), Relaxed) != u64::from(weight)
    }

    pub(super) fn weight(&self) -> u64 {
        self.weight.load(Relaxed)
    }

    /// Sets the state. The one before, if it was another one.
    pub fn set_state(&self, state: TargetState) -> Option<TargetState> {
        let before = self.state.swap(state as usize, Relaxed);
        TargetState::ALL.into_iter().find(|one| *one as usize == before && *one != state)
    }

    pub(super) fn has_state(&self, state: TargetState) -> bool {
        self.state.load(Relaxed) == state as usize
    }
}

impl AskMetrics {
    /// Counts the end of a question.
    pub fn count(&self, outcome: AskOutcome) {
        self.outcomes[outcome as usize].inc();
    }

    /// The questions that ended so.
    pub fn asks(&self, outcome: AskOutcome) -> u64 {
        self.outcomes[outcome as usize].get()
    }

    /// Counts the end of a question that was sent, so long after it was put.
    pub fn observe(&self, time: Duration) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).observe(time);
    }

    pub(super) fn times(&self) -> Observed {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).read()
    }

    /// Counts an attempt after the first.
    pub fn retried(&self) {
        self.retried.inc();
    }

    pub(super) fn retries(&self) -> u64 {
        self.retried.get()
    }

    /// Sets the number of questions that wait.
    pub fn set_waiting(&self, waiting: usize) {
        self.waiting.store(waiting as u64, Relaxed);
    }

    /// The questions that wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// A question is sent. Must be followed by one [`ended`](Self::ended).
    pub fn began(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// A question that was sent has ended.
    pub fn ended(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// The questions that are sent and not answered.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Counts a copy.
    pub fn shadow(&self, result: ShadowResult) {
        self.shadow[result as usize].inc();
    }

    /// The copies with this result.
    pub fn shadows(&self, result: ShadowResult) -> u64 {
        self.shadow[result as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_state_tells_what_was_before() {
        let metrics = TargetMetrics::new(3);
        assert_eq!(metrics.set_state(TargetState::Up), None);
        assert_eq!(metrics.set_state(TargetState::Open), Some(TargetState::Up));
        assert_eq!(metrics.set_state(TargetState::HalfOpen), Some(TargetState::Open));
        assert!(metrics.has_state(TargetState::HalfOpen) && !metrics.has_state(TargetState::Open));
        assert_eq!((metrics.set_weight(5), metrics.set_weight(5), metrics.index()), (true, false, "3"));
    }
}
