//! [`Link`]: one plugin in a worker's chain, with its instance and the handling of its failures.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::async_pool::{AsyncInstances, AsyncVerdict, PendingVerdict};
use super::breaker::{Breaker, Pass, Position};
use super::chain::Plugin;
use super::counters::{PluginCounters, Row};
use super::event::{ConnectEvent, DisconnectEvent, Hook, Message, Outgoing, Tick};
use super::failure::{Cause, Failure, FailurePolicy};
use super::failure_log::{FailureLog, Scene};
use super::interests::{Hooks, Interests};
use super::load::{Factory, LoadError};
use super::spare::{AtOnce, Offload, Spare};
use super::usage::Usage;
use super::verdict::{ConnectVerdict, DeliverVerdict, Effect, Verdict};
use crate::clock::Clock;
use crate::log_users;
use crate::protocol::channel::Channel;
use crate::seldom::{Seldom, seldom};

/// Pause before the next order after a standby instance could not be made, in milliseconds; doubled each time
/// up to the maximum.
const ORDER_PAUSE: u64 = 100;
const ORDER_PAUSE_MAX: u64 = 10_000;
/// After a line about one plugin on one worker, further ones are only counted for this long.
const WARN_PAUSE: Duration = Duration::from_secs(1);
/// Of this many calls of `on-message` and `on-deliver` one is measured: reading the clock twice would take a
/// good part of the time of a short call. Every call of the other hooks is measured.
const CALLS_PER_MEASUREMENT: u8 = 16;

/// Weight of a call that exceeded its deadline on a worker, in failures. A trap costs microseconds; a missed
/// deadline costs all clients of the worker the whole time.
const DEADLINE_WEIGHT: usize = 2;

/// Why a plugin has not answered an event.
enum Unanswered {
    /// It was not called: it has no instance, or its breaker is open.
    Skipped,
    /// The call failed.
    Failed(Pass, Failure),
}

/// A plugin in the chain of one worker.
pub struct Link {
    name: Arc<str>,
    worker: usize,
    policy: FailurePolicy,
    counters: Arc<PluginCounters>,
    breaker: Arc<Breaker>,
    /// Missing after a failure until the standby instance is ready.
    instance: Option<Box<dyn Plugin>>,
    /// `None` if there is no factory to make instances.
    spare: Option<Spare>,
    /// Called for clients that connect, instead of `instance`.
    async_instances: Option<Arc<dyn AsyncInstances>>,
    /// Interests of the last instance, so that a missing one fails exactly the events it would have seen.
    interests: Interests,
    /// Unix time in milliseconds before which no standby instance is ordered, and the length of that pause.
    order_after: u64,
    order_pause: u64,
    clock: Clock,
    /// Calls of each hook since the last one that was measured.
    unmeasured: [u8; Hook::ALL.len()],
    /// Which failures are logged.
    failures: FailureLog,
    /// Rate limit for log lines about too many classes.
    classes: Seldom,
}

impl Link {
    /// Puts a first instance of `factory` into the chain of `worker`. By default its breaker never opens, and
    /// standby instances are made on the calling thread.
    ///
    /// # Errors
    ///
    /// If no instance can be made.
    pub fn new(
        name: Arc<str>,
        worker: usize,
        policy: FailurePolicy,
        factory: Arc<dyn Factory>,
        counters: Arc<PluginCounters>,
    ) -> Result<Self, LoadError> {
        let instance = factory.instantiate(&counters)?;
        let interests = instance.interests().clone();
        let async_instances = factory.async_instances(&counters);
        Ok(Self {
            name,
            worker,
            policy,
            spare: Some(Spare::new(Arc::new(AtOnce), factory, counters.clone())),
            counters,
            breaker: Arc::new(Breaker::never()),
            instance: Some(instance),
            async_instances,
            interests,
            order_after: 0,
            order_pause: ORDER_PAUSE,
            clock: Clock::start(),
            unmeasured: [0; Hook::ALL.len()],
            failures: FailureLog::default(),
            classes: Seldom::new(WARN_PAUSE),
        })
    }

    /// A link for an unknown plugin: it refuses every event that can be refused.
    pub(super) fn closed(name: Arc<str>, worker: usize, counters: Arc<PluginCounters>) -> Self {
        let hooks = Hooks { on_connect: true, on_message: true, ..Hooks::default() };
        Self {
            name,
            worker,
            policy: FailurePolicy::Closed,
            spare: None,
            counters,
            breaker: Arc::new(Breaker::never()),
            instance: None,
            async_instances: None,
            interests: Interests { payload: false, ..Interests::everything(hooks) },
            order_after: 0,
            order_pause: ORDER_PAUSE,
            clock: Clock::start(),
            unmeasured: [0; Hook::ALL.len()],
            failures: FailureLog::default(),
            classes: Seldom::new(WARN_PAUSE),
        }
    }

    /// The name of the plugin.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The name, shared.
    pub(super) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// Counts attributes that this plugin tried to set although they belong to another one.
    #[cold]
    pub(super) fn attributes_refused(&self, count: usize, name: &str) {
        self.row().attributes_refused(count);
        seldom!(
            warn,
            plugin = &*self.name,
            attribute = name,
            "attribute refused: another plugin uses it for permissions"
        );
    }

    /// With the plugin's breaker, which is shared with its links on other workers.
    #[must_use]
    pub fn with_breaker(self, breaker: Arc<Breaker>) -> Self {
        Self { breaker, ..self }
    }

    /// With another executor to make standby instances.
    #[must_use]
    pub fn with_offload(mut self, offload: Arc<dyn Offload>) -> Self {
        if let Some(spare) = &mut self.spare {
            spare.set_offload(offload);
        }
        self
    }

    /// Activates the link: orders a standby instance.
    pub(super) fn begin(&mut self) {
        if let Some(spare) = &mut self.spare {
            spare.order();
        }
    }

    /// The interests of the plugin.
    pub fn interests(&self) -> &Interests {
        &self.interests
    }

    /// Cost of the last call; zero if it ended the instance.
    pub(super) fn usage(&mut self) -> Usage {
        self.instance.as_mut().map(|instance| instance.usage()).unwrap_or_default()
    }

    pub(super) fn on_connect(
        &mut self,
        event: &ConnectEvent,
        effects: &mut Vec<Effect>,
    ) -> Result<ConnectVerdict, FailurePolicy> {
        let answer =
            self.call(Hook::Connect, event.now, effects, |plugin, effects| plugin.on_connect(event, effects));
        let verdict =
            answer.map_err(|unanswered| self.failed(event.now, unanswered, Scene::connect(event)))?;
        if matches!(verdict, ConnectVerdict::Refuse(_)) {
            self.row().refusal();
        }
        Ok(verdict)
    }

    /// Starts `on-connect` on the asynchronous pool, or returns the failure policy if the breaker is open.
    /// `None` if the plugin runs on this worker.
    pub(super) fn start_async(
        &self,
        event: &Arc<ConnectEvent>,
        patience: Duration,
    ) -> Option<Result<(PendingVerdict, Pass), FailurePolicy>> {
        let async_instances = self.async_instances.as_ref()?;
        let pass = self.breaker.admit(event.now);
        Some(match pass {
            Pass::Refused => Err(self.skipped()),
            Pass::Call | Pass::Probe => {
                if pass == Pass::Probe {
                    log_probe(&self.name);
                }
                Ok((async_instances.on_connect(event.clone(), patience), pass))
            }
        })
    }

    /// Handles the verdict of the asynchronous pool.
    pub(super) fn answered(
        &mut self,
        now: u64,
        pass: Pass,
        answered: AsyncVerdict,
        effects: &mut Vec<Effect>,
        scene: Scene<'_>,
    ) -> Result<ConnectVerdict, FailurePolicy> {
        if let Some(took) = answered.took {
            self.row().took(Hook::Connect, took);
        }
        match answered.verdict {
            Ok(verdict) => {
                self.row().call();
                if pass == Pass::Probe {
                    self.probe_succeeded();
                }
                self.row().effects(answered.effects.len());
                effects.extend(answered.effects);
                if matches!(verdict, ConnectVerdict::Refuse(_)) {
                    self.row().refusal();
                }
                Ok(verdict)
            }
            Err(failure) => {
                // A full pool refuses at no cost and still serves the clients that have an instance, so it
                // must not open the breaker.
                let weight = usize::from(failure.cause != Cause::Busy);
                if failure.cause != Cause::Busy {
                    self.row().call();
                }
                self.report(now, pass, &failure, weight, scene);
                Err(self.policy)
            }
        }
    }

    pub(super) fn on_message(
        &mut self,
        message: &mut Message,
        effects: &mut Vec<Effect>,
    ) -> Result<Verdict, FailurePolicy> {
        let answer = self
            .call(Hook::Message, message.now, effects, |plugin, effects| plugin.on_message(message, effects));
        let verdict =
            answer.map_err(|unanswered| self.failed(message.now, unanswered, Scene::message(message)))?;
        if matches!(verdict, Verdict::Deny(_) | Verdict::Disconnect(_)) {
            self.row().refusal();
        }
        Ok(verdict)
    }

    pub(super) fn on_disconnect(
        &mut self,
        event: &DisconnectEvent,
        effects: &mut Vec<Effect>,
    ) -> Result<(), FailurePolicy> {
        let answer = self.call(Hook::Disconnect, event.now, effects, |plugin, effects| {
            plugin.on_disconnect(event, effects)
        });
        answer.map_err(|unanswered| self.failed(event.now, unanswered, Scene::disconnect(event)))
    }

    pub(super) fn on_deliver(
        &mut self,
        class: &str,
        outgoing: &Outgoing,
    ) -> Result<DeliverVerdict, FailurePolicy> {
        let answer = self.call(Hook::Deliver, outgoing.now, &mut Vec::new(), |plugin, _| {
            plugin.on_deliver(class, outgoing)
        });
        answer.map_err(|unanswered| self.failed(outgoing.now, unanswered, Scene::delivery(outgoing)))
    }

    /// Not a failure of the call, so it does not count for the breaker.
    pub(super) fn too_many_classes(&mut self, outgoing: &Outgoing) -> DeliverVerdict {
        if let Some(also) = self.classes.take_at(outgoing.now) {
            warn!(
                plugin = &*self.name,
                channel = &*log_users::address(outgoing.channel.as_str()),
                also_since_last_line = also,
                "too many classes of subscribers in a channel; the failure policy decides for the rest"
            );
        }
        let policy = self.skipped();
        self.delivery(Err(policy))
    }

    /// The replacement cannot be delivered, and subscribers must not see the original. Not a failure of the
    /// plugin: otherwise clients could open its breaker by the messages they send.
    pub(super) fn unfit_delivery(&self, channel: &Channel, why: &dyn fmt::Display) {
        seldom!(
            warn,
            plugin = &*self.name,
            channel = &*log_users::address(channel.as_str()),
            "replaced publication dropped: its payload {why}; subscribers get nothing"
        );
        self.row().delivery_dropped();
    }

    /// The verdict for subscribers, counted.
    pub(super) fn delivery(&self, answer: Result<DeliverVerdict, FailurePolicy>) -> DeliverVerdict {
        let verdict = answer.unwrap_or_else(|policy| match policy {
            FailurePolicy::Closed => DeliverVerdict::Drop,
            FailurePolicy::Open => DeliverVerdict::Pass,
        });
        match &verdict {
            DeliverVerdict::Pass => {}
            DeliverVerdict::Drop => self.row().delivery_dropped(),
            DeliverVerdict::Replace(_) => self.row().delivery_replaced(),
        }
        verdict
    }

    pub(super) fn on_timer(&mut self, tick: &Tick, effects: &mut Vec<Effect>) -> Result<(), FailurePolicy> {
        let answer =
            self.call(Hook::Timer, tick.now, effects, |plugin, effects| plugin.on_timer(tick, effects));
        answer.map_err(|unanswered| self.failed(tick.now, unanswered, Scene::timer()))
    }

    fn call<T>(
        &mut self,
        hook: Hook,
        now: u64,
        effects: &mut Vec<Effect>,
        run: impl FnOnce(&mut dyn Plugin, &mut Vec<Effect>) -> Result<T, Failure>,
    ) -> Result<T, Unanswered> {
        if self.instance.is_none() {
            self.recover(now);
        }
        let Some(instance) = &mut self.instance else { return Err(Unanswered::Skipped) };
        let pass = self.breaker.admit(now);
        match pass {
            Pass::Call => {}
            Pass::Probe => log_probe(&self.name),
            Pass::Refused => return Err(Unanswered::Skipped),
        }
        let before = effects.len();
        let begun = is_measured(hook, &mut self.unmeasured).then(|| self.clock.at());
        let answer = run(&mut **instance, effects);
        self.row().call();
        if let Some(begun) = begun {
            self.row().took(hook, self.clock.at().saturating_sub(begun));
        }
        match answer {
            Ok(answer) => {
                if pass == Pass::Probe {
                    self.probe_succeeded();
                }
                if effects.len() > before {
                    self.row().effects(effects.len() - before);
                }
                Ok(answer)
            }
            Err(failure) => {
                effects.truncate(before);
                Err(Unanswered::Failed(pass, failure))
            }
        }
    }

    /// Handles an event without an answer. Not on the path of a message that succeeds.
    #[cold]
    fn failed(&mut self, now: u64, unanswered: Unanswered, scene: Scene<'_>) -> FailurePolicy {
        let (pass, failure) = match unanswered {
            Unanswered::Skipped => return self.skipped(),
            Unanswered::Failed(pass, failure) => (pass, failure),
        };
        let weight = if failure.cause == Cause::Deadline { DEADLINE_WEIGHT } else { 1 };
        self.report(now, pass, &failure, weight, scene);
        if failure.cause.ends_instance() {
            let failed = self.instance.take();
            if let Some(spare) = &mut self.spare {
                spare.retire(failed);
            }
            self.recover(now);
            if let Some(spare) = &mut self.spare {
                spare.release();
            }
        }
        self.policy
    }

    /// Counts a failure, logs the first of many, and reports it to the breaker with this weight.
    #[cold]
    fn report(&mut self, now: u64, pass: Pass, failure: &Failure, weight: usize, scene: Scene<'_>) {
        self.row().failure(failure.cause);
        let Scene { hook, kind, channel, user, connection } = scene;
        if let Some(also) = self.failures.take(now, hook, failure) {
            let present = |text: &'static str| (!text.is_empty()).then_some(text);
            let about_user = |text| log_users::text(text, user);
            warn!(
                plugin = &*self.name,
                hook = hook.as_str(),
                kind = present(kind),
                channel = channel.map(|channel| about_user(channel.as_str())).as_deref(),
                user = log_users::user(user).as_deref(),
                connection = (!connection.is_empty()).then_some(connection),
                cause = failure.cause.as_str(),
                detail = &*about_user(&failure.detail),
                also_since_last_line = also,
                "plugin failed"
            );
        }
        let opened = match pass {
            Pass::Probe => self.breaker.probe_failed(now),
            _ => self.breaker.failed(now, weight),
        };
        if opened {
            self.counters.breaker_opened();
            warn!(
                plugin = &*self.name,
                breaker = Position::Open.as_str(),
                after = if pass == Pass::Probe { "a probe failed" } else { "too many failures" },
                "plugin breaker changed: the failure policy decides without a call"
            );
        }
    }

    #[cold]
    fn probe_succeeded(&self) {
        if self.breaker.probe_succeeded() {
            info!(
                plugin = &*self.name,
                breaker = Position::Closed.as_str(),
                "plugin breaker changed: the plugin works again"
            );
        }
    }

    /// Replaces a failed instance with the standby instance and orders the next one.
    #[cold]
    fn recover(&mut self, now: u64) {
        let Some(spare) = &mut self.spare else { return };
        if spare.is_missing() && !pausing(now, self.order_after, self.order_pause) {
            spare.order();
        }
        match spare.take() {
            None => {}
            Some(Ok(instance)) => {
                self.interests = instance.interests().clone();
                self.instance = Some(instance);
                self.order_pause = ORDER_PAUSE;
                spare.order();
            }
            Some(Err(error)) => {
                self.order_after = now.saturating_add(self.order_pause);
                warn!(
                    plugin = &*self.name,
                    code = error.code().as_str(),
                    error = error.message(),
                    next_attempt_ms = self.order_pause,
                    "failed to replace an instance; the failure policy decides until a retry succeeds"
                );
                self.order_pause = (self.order_pause * 2).min(ORDER_PAUSE_MAX);
            }
        }
    }

    /// Applies the failure policy to an event without a call.
    #[cold]
    fn skipped(&self) -> FailurePolicy {
        self.row().skipped();
        self.policy
    }

    fn row(&self) -> &Row {
        self.counters.row(self.worker)
    }
}

/// Whether to measure a call of this hook. The first one is measured.
fn is_measured(hook: Hook, unmeasured: &mut [u8; Hook::ALL.len()]) -> bool {
    match hook {
        Hook::Connect | Hook::Disconnect | Hook::Timer => true,
        Hook::Message | Hook::Deliver => {
            let unmeasured = &mut unmeasured[hook as usize];
            let is_first = *unmeasured == 0;
            *unmeasured = (*unmeasured + 1) % CALLS_PER_MEASUREMENT;
            is_first
        }
    }
}

#[cold]
fn log_probe(plugin: &str) {
    let breaker = Position::HalfOpen.as_str();
    info!(plugin, breaker, "plugin breaker changed: one event probes whether the plugin works again");
}

/// Whether a pause until `until` has not ended. A clock that was set back does not prolong it.
fn pausing(now: u64, until: u64, pause: u64) -> bool {
    (1..=pause).contains(&until.saturating_sub(now))
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("name", &self.name).field("worker", &self.worker).finish_non_exhaustive()
    }
}
