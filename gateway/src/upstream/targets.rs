//! [`Targets`] sends requests to the servers of one upstream: it chooses one for each request, and learns
//! from the result.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::breaker::{Pass, Verdict};
use super::chooser::{Chooser, Tried};
use crate::clock::Clock;
use crate::config;
use crate::egress::{Client, Error, Reach, Request, Response, Url};
use crate::mix::{STEP, mix};
use crate::telemetry::target::{RequestOutcome, TargetMetrics, TargetState};

/// The targets of one upstream, for every thread.
#[derive(Debug)]
pub(super) struct Targets {
    upstream: Box<str>,
    urls: Box<[Url]>,
    /// Held for one decision.
    chooser: Mutex<Chooser>,
    /// Wakes those that wait until a target is up.
    changed: Notify,
    /// The state of a generator of random numbers.
    random: AtomicU64,
    clock: Clock,
    metrics: Arc<[TargetMetrics]>,
}

/// Why weights are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// The configuration has no such upstream.
    #[error("the configuration has no upstream of this name; `upstreams` lists those that it has")]
    Unknown,
    /// There are not as many as targets.
    #[error("expected one weight for each of the {targets} targets of the upstream, found {weights}")]
    Count {
        /// Number of targets.
        targets: usize,
        /// Number of weights.
        weights: usize,
    },
    /// One is too large, or all are 0.
    #[error("a weight is 0 to {}, and one of them must be above 0", config::WEIGHT_MAX)]
    Invalid,
}

/// What an operator sees of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// Its URL without the query.
    pub url: String,
    /// Its share of the requests, compared with the other weights.
    pub weight: u32,
    /// Whether it gets requests.
    pub state: TargetState,
    /// How often its breaker opened.
    pub opened: u64,
    /// Requests by their outcome.
    pub requests: [(RequestOutcome, u64); RequestOutcome::ALL.len()],
}

/// A target that was chosen for one request.
#[derive(Debug)]
pub(super) struct Chosen {
    targets: Arc<Targets>,
    pub(super) index: usize,
    /// `None` once the result was reported.
    pass: Option<Pass>,
}

impl Targets {
    /// `seed` is random; it decides every choice.
    pub(super) fn new(
        upstream: &str,
        config: &config::Upstream,
        clock: Clock,
        seed: u64,
        metrics: Arc<[TargetMetrics]>,
    ) -> Arc<Self> {
        let weights = config.targets.iter().map(|target| target.weight);
        let this = Self {
            upstream: upstream.into(),
            urls: config.targets.iter().map(|target| target.url.clone()).collect(),
            chooser: Mutex::new(Chooser::new(weights, config.breaker)),
            changed: Notify::new(),
            random: AtomicU64::new(seed),
            clock,
            metrics,
        };
        this.note(&this.lock());
        Arc::new(this)
    }

    pub(super) fn urls(&self) -> &[Url] {
        &self.urls
    }

    /// Whether a request sent now would find a target that is up.
    pub(super) fn is_any_ready(&self) -> bool {
        self.lock().is_any_ready(self.clock.at())
    }

    /// A target that is up, by weight; preferably one that was not tried.
    pub(super) fn choose(self: &Arc<Self>, tried: Tried) -> Option<Chosen> {
        let random = self.random();
        let chosen = self.change(|chooser| chooser.choose(self.clock.at(), random, tried))?;
        Some(Chosen { targets: self.clone(), index: chosen.0, pass: Some(chosen.1) })
    }

    /// Sends a request to a target that is up and returns the head of the response. Waits as long as none is
    /// up; `deadline` begins afterwards. `make` makes the request for the URL of the target.
    pub(super) async fn send(
        self: &Arc<Self>,
        client: &Client,
        deadline: Duration,
        make: impl Fn(&Url) -> Result<Request, Error>,
    ) -> Result<Response, Error> {
        let mut chosen = self.wait().await;
        let sent = match make(chosen.url()) {
            Ok(request) => client.send_for_head(request, Reach::Anywhere, deadline).await,
            Err(error) => Err(error),
        };
        chosen.settle(&sent, true);
        sent
    }

    /// Waits until a target is up, and chooses one.
    async fn wait(self: &Arc<Self>) -> Chosen {
        loop {
            // Before the look, so that no change after it is missed.
            let changed = self.changed.notified();
            if let Some(chosen) = self.choose(Tried::default()) {
                return chosen;
            }
            let ready_at = self.lock().ready_at().map(|at| self.clock.instant(at));
            tokio::select! {
                () = changed => (),
                () = until(ready_at) => (),
            }
        }
    }

    /// Takes the result of a check beside the traffic.
    pub(super) fn checked(&self, index: usize, works: bool) {
        self.change(|chooser| chooser.checked(index, works));
    }

    /// Replaces the weights, from the next request on.
    pub(super) fn set_weights(&self, weights: &[u32]) -> Result<(), WeightsError> {
        if weights.len() != self.urls.len() {
            return Err(WeightsError::Count { targets: self.urls.len(), weights: weights.len() });
        }
        let is_valid = |weight: &u32| *weight <= config::WEIGHT_MAX;
        if !weights.iter().all(is_valid) || weights.iter().all(|weight| *weight == 0) {
            return Err(WeightsError::Invalid);
        }
        self.change(|chooser| chooser.set_weights(weights));
        tracing::info!(upstream = &*self.upstream, ?weights, "weights of an upstream changed");
        Ok(())
    }

    pub(super) fn status(&self) -> Vec<TargetStatus> {
        let chooser = self.lock();
        let status = |(index, url): (usize, &Url)| TargetStatus {
            url: url.without_query(),
            weight: chooser.weight(index),
            state: chooser.state(index),
            opened: self.metrics[index].opened(),
            requests: RequestOutcome::ALL.map(|outcome| (outcome, self.metrics[index].requests(outcome))),
        };
        self.urls.iter().enumerate().map(status).collect()
    }

    /// A random number that a client cannot know.
    pub(super) fn random(&self) -> u64 {
        mix(self.random.fetch_add(STEP, Relaxed).wrapping_add(STEP))
    }

    /// Changes the chooser, logs and counts what became of the targets, and wakes those that wait for one.
    fn change<T>(&self, change: impl FnOnce(&mut Chooser) -> T) -> T {
        let mut chooser = self.lock();
        let result = change(&mut chooser);
        let is_changed = self.note(&chooser);
        drop(chooser);
        if is_changed {
            self.changed.notify_waiters();
        }
        result
    }

    /// Copies states and weights into the metrics. Whether one was different.
    fn note(&self, chooser: &Chooser) -> bool {
        let mut is_changed = false;
        for (index, metrics) in self.metrics.iter().enumerate() {
            is_changed |= metrics.set_weight(chooser.weight(index));
            let state = chooser.state(index);
            if let Some(before) = metrics.set_state(state) {
                is_changed = true;
                self.tell(index, before, state);
            }
        }
        is_changed
    }

    fn tell(&self, index: usize, before: TargetState, state: TargetState) {
        let (upstream, origin) = (&*self.upstream, self.urls[index].origin());
        match state {
            TargetState::Open if before == TargetState::Up => {
                self.metrics[index].opened_once();
                tracing::warn!(upstream, target_index = index, %origin, "target fails; its breaker is open");
            }
            TargetState::Unhealthy => {
                tracing::warn!(upstream, target_index = index, %origin, "target failed its checks; it gets no requests");
            }
            TargetState::Up => {
                tracing::info!(upstream, target_index = index, %origin, "target is up again");
            }
            TargetState::Open | TargetState::HalfOpen => {
                let state = state.as_str();
                tracing::debug!(upstream, target_index = index, %origin, state, "state of a target changed");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Chooser> {
        self.chooser.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chosen {
    pub(super) fn url(&self) -> &Url {
        &self.targets.urls[self.index]
    }

    /// Reports the result; without one, as when the request is given up, nothing is known of the target. If
    /// the target had not enough time, a timeout says nothing either.
    pub(super) fn settle(&mut self, sent: &Result<Response, Error>, enough_time: bool) {
        if let Some(outcome) = outcome(sent) {
            self.targets.metrics[self.index].count(outcome);
        }
        let is_excused = !enough_time && matches!(sent, Err(Error::Timeout(_)));
        self.report(if is_excused { Verdict::Unknown } else { verdict(sent) });
    }

    fn report(&mut self, verdict: Verdict) {
        let Some(pass) = self.pass.take() else { return };
        let now = self.targets.clock.at();
        self.targets.change(|chooser| chooser.settle(self.index, pass, verdict, now));
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.report(Verdict::Unknown);
    }
}

/// Whether a response means that its server fails. Any other one is the word of the upstream.
pub(super) fn is_failure(status: u16) -> bool {
    matches!(status, 429 | 500..=599)
}

/// What a result says about the target.
fn verdict(sent: &Result<Response, Error>) -> Verdict {
    match sent {
        Ok(response) if is_failure(response.status) => Verdict::Fails,
        Ok(_) => Verdict::Works,
        // The target has no part in these.
        Err(Error::Invalid(_) | Error::Refused(_) | Error::Busy) => Verdict::Unknown,
        Err(Error::Unreachable(_) | Error::Timeout(_) | Error::TooLarge(_) | Error::Failed(_)) => {
            Verdict::Fails
        }
    }
}

/// How a request that left the gateway ended.
fn outcome(sent: &Result<Response, Error>) -> Option<RequestOutcome> {
    match sent {
        Ok(response) if response.is_success() => Some(RequestOutcome::Ok),
        Ok(response) if is_failure(response.status) => Some(RequestOutcome::Error),
        Ok(_) => Some(RequestOutcome::Refused),
        Err(Error::Invalid(_) | Error::Refused(_) | Error::Busy) => None,
        Err(Error::Unreachable(_)) => Some(RequestOutcome::Unreachable),
        Err(Error::Timeout(_)) => Some(RequestOutcome::Timeout),
        Err(Error::TooLarge(_)) => Some(RequestOutcome::TooLarge),
        Err(Error::Failed(_)) => Some(RequestOutcome::Broken),
    }
}

/// Waits until this moment; forever if there is none.
pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
