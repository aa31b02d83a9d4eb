//! One plugin's place in a worker's chain: its instance, and what happens when that fails.

use std::fmt;
use std::sync::Arc;

use tracing::warn;

use super::chain::Plugin;
use super::counters::{PluginCounters, Row};
use super::event::{Goodbye, Hello, Message, Tick};
use super::failure::{Failure, FailurePolicy};
use super::interests::Interests;
use super::load::{Factory, LoadError};
use super::verdict::{ConnectVerdict, Effect, Verdict};

/// How long a plugin that could not be replaced is left alone, in milliseconds.
const REPLACE_PAUSE: u64 = 100;
/// How long failures of one plugin on one worker are only counted after one was logged, in milliseconds.
const WARN_PAUSE: u64 = 1000;

/// A plugin in the chain of one worker.
pub struct Link {
    name: Arc<str>,
    worker: usize,
    policy: FailurePolicy,
    counters: Arc<PluginCounters>,
    factory: Arc<dyn Factory>,
    /// Missing after a failure until the factory gives a new one.
    instance: Option<Box<dyn Plugin>>,
    /// Those of the last instance, so that a missing one fails exactly the events it would have seen.
    interests: Interests,
    /// Unix milliseconds before which no further attempt to replace the instance is made.
    replace_after: u64,
    /// Unix milliseconds before which failures are only counted.
    warn_after: u64,
    /// Failures since the last line in the log.
    silent: u64,
}

impl Link {
    /// Puts a first instance of `factory` into the chain of `worker`.
    pub fn new(
        name: Arc<str>,
        worker: usize,
        policy: FailurePolicy,
        factory: Arc<dyn Factory>,
        counters: Arc<PluginCounters>,
    ) -> Result<Self, LoadError> {
        let instance = factory.instantiate(&counters)?;
        let interests = instance.interests().clone();
        Ok(Self {
            name,
            worker,
            policy,
            counters,
            factory,
            instance: Some(instance),
            interests,
            replace_after: 0,
            warn_after: 0,
            silent: 0,
        })
    }

    /// The name of the plugin.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the plugin wants to see.
    pub fn interests(&self) -> &Interests {
        &self.interests
    }

    pub(super) fn on_connect(
        &mut self,
        hello: &Hello,
        effects: &mut Vec<Effect>,
    ) -> Result<ConnectVerdict, FailurePolicy> {
        let verdict = self.call(hello.now, effects, |plugin, effects| plugin.on_connect(hello, effects))?;
        if matches!(verdict, ConnectVerdict::Refuse(_)) {
            self.row().refusal();
        }
        Ok(verdict)
    }

    pub(super) fn on_message(
        &mut self,
        message: &mut Message,
        effects: &mut Vec<Effect>,
    ) -> Result<Verdict, FailurePolicy> {
        let verdict =
            self.call(message.now, effects, |plugin, effects| plugin.on_message(message, effects))?;
        if matches!(verdict, Verdict::Deny(_) | Verdict::Disconnect(_)) {
            self.row().refusal();
        }
        Ok(verdict)
    }

    pub(super) fn on_disconnect(
        &mut self,
        goodbye: &Goodbye,
        effects: &mut Vec<Effect>,
    ) -> Result<(), FailurePolicy> {
        self.call(goodbye.now, effects, |plugin, effects| plugin.on_disconnect(goodbye, effects))
    }

    pub(super) fn on_timer(&mut self, tick: &Tick, effects: &mut Vec<Effect>) -> Result<(), FailurePolicy> {
        self.call(tick.now, effects, |plugin, effects| plugin.on_timer(tick, effects))
    }

    fn call<T>(
        &mut self,
        now: u64,
        effects: &mut Vec<Effect>,
        run: impl FnOnce(&mut dyn Plugin, &mut Vec<Effect>) -> Result<T, Failure>,
    ) -> Result<T, FailurePolicy> {
        if self.instance.is_none() {
            self.replace(now);
        }
        let Some(instance) = &mut self.instance else { return Err(self.policy) };
        let before = effects.len();
        let answer = run(&mut **instance, effects);
        self.row().call();
        match answer {
            Ok(answer) => {
                if effects.len() > before {
                    self.row().effects(effects.len() - before);
                }
                Ok(answer)
            }
            Err(failure) => {
                effects.truncate(before);
                self.failed(now, &failure);
                Err(self.policy)
            }
        }
    }

    /// Off the path of a message that goes well.
    #[cold]
    fn failed(&mut self, now: u64, failure: &Failure) {
        self.row().failure(failure.cause);
        if !pausing(now, self.warn_after, WARN_PAUSE) {
            warn!(
                plugin = &*self.name,
                cause = failure.cause.as_str(),
                detail = &*failure.detail,
                also_since_last_line = self.silent,
                "plugin failed"
            );
            self.warn_after = now.saturating_add(WARN_PAUSE);
            self.silent = 0;
        } else {
            self.silent += 1;
        }
        if failure.cause.ends_instance() {
            // Dropped before the new one is made: a pool of instances needs room for one only.
            self.instance = None;
            self.replace(now);
        }
    }

    #[cold]
    fn replace(&mut self, now: u64) {
        if pausing(now, self.replace_after, REPLACE_PAUSE) {
            return;
        }
        match self.factory.instantiate(&self.counters) {
            Ok(instance) => {
                self.interests = instance.interests().clone();
                self.instance = Some(instance);
            }
            Err(error) => {
                self.replace_after = now.saturating_add(REPLACE_PAUSE);
                warn!(
                    plugin = &*self.name,
                    code = error.code().as_str(),
                    error = error.sentence(),
                    "failed to replace an instance; events meet the failure policy until it works"
                );
            }
        }
    }

    fn row(&self) -> &Row {
        self.counters.row(self.worker)
    }
}

/// Whether a pause that ends at `until` is still on. A clock that was set back does not make it longer.
fn pausing(now: u64, until: u64, pause: u64) -> bool {
    (1..=pause).contains(&until.saturating_sub(now))
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("name", &self.name).field("worker", &self.worker).finish_non_exhaustive()
    }
}
