//! [`Instance`]: a component in its own store, called by a worker.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use wasmtime::component::Instance as Component;
use wasmtime::{Store, Trap};

use super::answer;
use super::backtrace;
use super::bindings::exports::gateway::plugin::{
    configure, on_connect, on_deliver, on_disconnect, on_message, on_timer,
};
use super::call::State;
use super::capabilities::Capabilities;
use super::deadline::{Deadline, processor_time};
use super::limits::{HANDLES_MAX, HOST_CALL_EXTRA};
use super::loader::Compiled;
use super::mismatch;
use super::output::{Log, cut};
use crate::plugin::Plugin;
use crate::plugin::event::{ConnectEvent, DisconnectEvent, Message, Outgoing, Tick};
use crate::plugin::failure::{Cause, Failure};
use crate::plugin::interests::Interests;
use crate::plugin::load::{LoadCode, LoadError};
use crate::plugin::settings::{Limits, Settings};
use crate::plugin::usage::Usage;
use crate::plugin::verdict::{ConnectVerdict, DeliverVerdict, Effect, Verdict};

/// Fuel that is never used up: it only counts instructions, and the deadline ends calls.
pub(super) const FUEL: u64 = u64::MAX;

/// The hooks of one instance, with their types checked.
struct Guests {
    configure: Option<configure::Guest>,
    on_connect: Option<on_connect::Guest>,
    on_message: Option<on_message::Guest>,
    on_disconnect: Option<on_disconnect::Guest>,
    on_timer: Option<on_timer::Guest>,
    on_deliver: Option<on_deliver::Guest>,
}

/// A running plugin.
pub(super) struct Instance {
    store: Store<State>,
    guests: Guests,
    interests: Interests,
    /// Deadline of every call except `configure`.
    deadline: Deadline,
    /// Fuel left at the last reading, if the engine counts instructions.
    fuel: Option<u64>,
    /// A call did not end normally, so the contents of the guest's memory are not reliable.
    ended: bool,
}

impl Instance {
    /// Instantiates and configures.
    pub(super) fn new(
        compiled: &Compiled,
        settings: &Settings,
        limits: Arc<Limits>,
        capabilities: Arc<Capabilities>,
        log: Log,
    ) -> Result<Self, LoadError> {
        let state = State::new(limits, compiled.about.hooks, capabilities, log);
        let mut store = Store::new(compiled.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().deadline.passed(processor_time())));
        store.set_hostcall_fuel(settings.limits.effect_bytes_max + HOST_CALL_EXTRA);
        store.set_max_component_handles(HANDLES_MAX);
        // Only the engine of tools has fuel; otherwise this returns an error and changes nothing.
        let metered = store.set_fuel(FUEL).is_ok();
        store.data_mut().begin_configure();

        let component = guarded(&mut store, Deadline::of(settings.limits.configure_deadline), |store| {
            compiled.pre.instantiate(store)
        });
        let component = component.map_err(|failure| {
            let why = explain(&failure, &settings.limits, true);
            LoadError::new(LoadCode::Instantiate, format!("failed while an instance was made: {why}"))
        })?;
        let guests = Guests::load(compiled, &mut store, &component)
            .map_err(|(hook, error)| mismatch::hook(hook, &error, compiled.about.sdk.as_deref()))?;
        let mut instance = Self {
            store,
            guests,
            interests: Interests::everything(compiled.about.hooks),
            deadline: Deadline::of(settings.limits.deadline),
            fuel: metered.then_some(FUEL),
            ended: false,
        };
        instance.configure(settings)?;
        instance.store.data_mut().flush_output();
        instance.store.data().asked.check(&settings.grants, "its settings file")?;
        instance.interests = instance.store.data().interests.clone();
        Ok(instance)
    }

    fn configure(&mut self, settings: &Settings) -> Result<(), LoadError> {
        let Some(configure) = &self.guests.configure else { return Ok(()) };
        let answer = guarded(&mut self.store, Deadline::of(settings.limits.configure_deadline), |store| {
            configure.call_call(store, &settings.config)
        });
        let message = match answer {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(text)) => {
                let text = self.store.data().log.environment.mask(&text);
                format!("refuses its settings: {}", cut(&text, 1000))
            }
            Err(failure) => {
                format!("failed in its configure hook ({})", explain(&failure, &settings.limits, true))
            }
        };
        Err(LoadError::new(LoadCode::Configure, message))
    }

    /// Runs a hook and checks its result. Any failure in the hook ends the instance.
    fn call<A, T>(
        &mut self,
        effects: &mut Vec<Effect>,
        begin: impl FnOnce(&mut State, &mut Vec<Effect>),
        run: impl FnOnce(&Guests, &mut Store<State>) -> wasmtime::Result<A>,
        check: impl FnOnce(&mut State, A) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.ended {
            return Err(Failure::new(Cause::Trap, "this instance has failed before"));
        }
        begin(self.store.data_mut(), effects);
        let guests = &self.guests;
        let answer = guarded(&mut self.store, self.deadline, |store| run(guests, store));
        self.ended = answer.is_err();
        let state = self.store.data_mut();
        let checked = match answer {
            Ok(answer) => check(state, answer).map_err(|failure| {
                // The message quotes the result.
                Failure::new(failure.cause, state.log.environment.mask(&failure.detail))
            }),
            Err(failure) => Err(Failure::new(failure.cause, explain(&failure, &state.limits, false))),
        };
        state.end(effects);
        state.flush_output();
        checked
    }
}

impl Plugin for Instance {
    fn interests(&self) -> &Interests {
        &self.interests
    }

    fn on_connect(
        &mut self,
        event: &ConnectEvent,
        effects: &mut Vec<Effect>,
    ) -> Result<ConnectVerdict, Failure> {
        self.call(
            effects,
            |state, effects| state.begin_connect(event, effects),
            |guests, store| {
                let Some(hook) = &guests.on_connect else { return Ok(on_connect::ConnectVerdict::Pass) };
                hook.call_call(store, event.client.number, &event.token, &event.data)
            },
            answer::connect_verdict,
        )
    }

    fn on_message(&mut self, message: &mut Message, effects: &mut Vec<Effect>) -> Result<Verdict, Failure> {
        if self.interests.permit(message) {
            // Resets the usage, so that it is not that of the previous call.
            self.store.data_mut().host_calls = 0;
            return Ok(Verdict::Allow);
        }
        self.store.data_mut().exchange(message);
        let payload: &[u8] = if self.interests.payload { &message.content.payload } else { &[] };
        let verdict = self.call(
            effects,
            |state, effects| state.begin_message(message, effects),
            |guests, store| {
                let Some(hook) = &guests.on_message else { return Ok(on_message::Verdict::Next) };
                hook.call_call(store, message.client.number, message.content.kind as u32, payload)
            },
            answer::verdict,
        );
        self.store.data_mut().exchange(message);
        let verdict = verdict?;
        if let Some(payload) = self.store.data_mut().take_payload() {
            message.content.payload = payload;
        }
        Ok(verdict)
    }

    fn on_disconnect(&mut self, event: &DisconnectEvent, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.call(
            effects,
            |state, effects| state.begin_disconnect(event, effects),
            |guests, store| {
                let Some(hook) = &guests.on_disconnect else { return Ok(()) };
                let DisconnectEvent { client, code, reason, duration, .. } = event;
                hook.call_call(store, client.number, u32::from(*code), reason, *duration)
            },
            |_, ()| Ok(()),
        )
    }

    fn on_deliver(&mut self, class: &str, outgoing: &Outgoing) -> Result<DeliverVerdict, Failure> {
        let verdict = self.call(
            &mut Vec::new(),
            |state, effects| state.begin_deliver(outgoing, effects),
            |guests, store| {
                let Some(hook) = &guests.on_deliver else { return Ok(on_deliver::Delivery::Pass) };
                hook.call_call(store, class, &outgoing.payload)
            },
            answer::deliver_verdict,
        );
        self.store.data_mut().end_deliver();
        verdict
    }

    fn on_timer(&mut self, tick: &Tick, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.call(
            effects,
            |state, effects| state.begin_timer(tick, effects),
            |guests, store| {
                let Some(hook) = &guests.on_timer else { return Ok(()) };
                hook.call_call(store, tick.instance)
            },
            |_, ()| Ok(()),
        )
    }

    fn usage(&mut self) -> Usage {
        let instructions = self.fuel.zip(self.store.get_fuel().ok()).map(|(before, left)| before - left);
        self.fuel = self.fuel.zip(instructions).map(|(before, used)| before - used);
        let state = self.store.data();
        Usage { host_calls: state.host_calls, memory: state.memory.bytes(), instructions }
    }
}

impl Guests {
    /// Checks the types of all exported hooks.
    fn load(
        compiled: &Compiled,
        store: &mut Store<State>,
        component: &Component,
    ) -> Result<Self, (&'static str, wasmtime::Error)> {
        let hooks = &compiled.hooks;
        let named = |hook: &'static str| move |error| (hook, error);
        Ok(Self {
            configure: hooks
                .configure
                .as_ref()
                .map(|hook| hook.load(&mut *store, component))
                .transpose()
                .map_err(named("configure"))?,
            on_connect: hooks
                .on_connect
                .as_ref()
                .map(|hook| hook.load(&mut *store, component))
                .transpose()
                .map_err(named("on-connect"))?,
            on_message: hooks
                .on_message
                .as_ref()
                .map(|hook| hook.load(&mut *store, component))
                .transpose()
                .map_err(named("on-message"))?,
            on_disconnect: hooks
                .on_disconnect
                .as_ref()
                .map(|hook| hook.load(&mut *store, component))
                .transpose()
                .map_err(named("on-disconnect"))?,
            on_timer: hooks
                .on_timer
                .as_ref()
                .map(|hook| hook.load(&mut *store, component))
                .transpose()
                .map_err(named("on-timer"))?,
            on_deliver: hooks
                .on_deliver
                .as_ref()
                .map(|hook| hook.load(&mut *store, component))
                .transpose()
                .map_err(named("on-deliver"))?,
        })
    }
}

/// Runs guest code under a deadline, and catches panics of host functions.
fn guarded<T>(
    store: &mut Store<State>,
    deadline: Deadline,
    run: impl FnOnce(&mut Store<State>) -> wasmtime::Result<T>,
) -> Result<T, Failure> {
    store.data_mut().deadline = deadline;
    store.set_epoch_deadline(deadline.first_ticks);
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&mut *store)));
    let exceeded = store.data_mut().memory.take_exceeded();
    match outcome {
        // A plugin that was denied memory but continued has not failed.
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            let cause = match error.downcast_ref::<Trap>() {
                Some(Trap::Interrupt) => Cause::Deadline,
                _ if exceeded => Cause::Memory,
                _ => Cause::Trap,
            };
            let State { stderr, log, .. } = store.data_mut();
            let words = stderr.take(&log.environment);
            let detail =
                if words.is_empty() { reason(&error) } else { format!("{words} ({})", reason(&error)) };
            Err(Failure::new(cause, detail))
        }
        Err(panic) => {
            Err(Failure::new(Cause::Trap, format!("the gateway panicked in a host call: {}", text(&*panic))))
        }
    }
}

/// The cause, and the functions of the guest in which it happened.
fn reason(error: &wasmtime::Error) -> String {
    let cause = match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => "stack overflow: its calls are nested too deeply".to_owned(),
        // The stack of Rust and C lies at the beginning of the memory and grows downwards, out of it.
        Some(Trap::MemoryOutOfBounds) => {
            "out of bounds memory access; in a plugin of safe Rust that is a stack overflow: its calls are nested too deeply"
                .to_owned()
        }
        _ => cut(&error.root_cause().to_string(), 500).to_owned(),
    };
    match backtrace::of(error) {
        Some(functions) => format!("{cause}, in {functions}"),
        None => cause,
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text")
}

/// A failure with the limit it hit and the setting that changes it.
fn explain(failure: &Failure, limits: &Limits, configure: bool) -> String {
    match failure.cause {
        Cause::Deadline if configure => {
            format!("took longer than {:?} (limits.configure_deadline)", limits.configure_deadline)
        }
        Cause::Deadline => format!("took longer than {:?} (limits.deadline)", limits.deadline),
        Cause::Memory => {
            format!(
                "wanted more than {} MiB of memory (limits.memory): {}",
                limits.memory >> 20,
                failure.detail
            )
        }
        Cause::Trap | Cause::InvalidAnswer | Cause::Busy => failure.detail.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::LogBudget;
    use super::*;
    use crate::plugin::counters::PluginCounters;
    use crate::plugin::interests::Hooks;

    #[test]
    fn a_panic_of_the_gateway_inside_a_call_is_a_failure_of_the_call() {
        let log = Log {
            plugin: "test".into(),
            budget: Arc::new(LogBudget::new(1)),
            counters: Arc::new(PluginCounters::new(1)),
            environment: Arc::default(),
        };
        let engine = wasmtime::Engine::default();
        let mut store =
            Store::new(&engine, State::new(Arc::default(), Hooks::default(), Arc::default(), log));
        let outcome = guarded::<()>(&mut store, Deadline::default(), |_| panic!("ouch"));
        let failure = outcome.expect_err("it panicked");
        assert_eq!(failure.cause, Cause::Trap);
        assert_eq!(&*failure.detail, "the gateway panicked in a host call: ouch");
    }
}
