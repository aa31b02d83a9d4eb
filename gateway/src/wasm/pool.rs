//! [`Pool`]: a few instances per plugin that may wait, each in its own store, on a separate runtime and never
//! on a worker.
//!
//! Only computing time counts against the plugin's deadline: a store yields to the runtime at every epoch
//! tick, and its budget is the number of ticks at which it was computing. Time spent waiting for a response
//! is bounded by the HTTP request and by the caller's timeout.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker, TypedFunc};
use wasmtime::{Store, Trap, UpdateDeadline};

use super::answer;
use super::bindings::exports::gateway::plugin::on_connect::ConnectVerdict;
use super::call::State;
use super::engine::TICK;
use super::http;
use super::instance::FUEL;
use super::limits::{HANDLES_MAX, HOST_CALL_EXTRA};
use super::output::cut;
use crate::plugin::async_pool::{AsyncInstances, AsyncVerdict, PendingVerdict};
use crate::plugin::event::ConnectEvent;
use crate::plugin::failure::{Cause, Failure};
use crate::plugin::settings::Settings;
use crate::plugin::usage::Usage;

/// Calls that may wait for an instance, per instance.
const WAITING_PER_INSTANCE: usize = 32;

/// A component with an import that waits, linked for instances that may.
pub(super) struct Waits {
    pre: InstancePre<State>,
    configure: Option<ComponentExportIndex>,
    on_connect: ComponentExportIndex,
}

impl Waits {
    /// `None` if the component imports nothing that waits, or has no hook in which it may wait.
    pub(super) fn of(component: &Component, linker: &Linker<State>) -> wasmtime::Result<Option<Self>> {
        let imports_http = component
            .component_type()
            .imports(linker.engine())
            .any(|(name, _)| name.starts_with(http::ANY_VERSION));
        let hook = |name: &str| {
            let interface = component.get_export_index(None, &*format!("gateway:plugin/{name}@0.1.0"))?;
            component.get_export_index(Some(&interface), "call")
        };
        let Some(on_connect) = hook("on-connect").filter(|_| imports_http) else { return Ok(None) };
        Ok(Some(Self { pre: linker.instantiate_pre(component)?, configure: hook("configure"), on_connect }))
    }
}

/// Inputs to make instances.
pub(super) struct Parts {
    pub(super) waits: Arc<Waits>,
    pub(super) settings: Settings,
    /// Makes the data of a new store.
    pub(super) state: Box<dyn Fn() -> State + Send + Sync>,
}

/// Instances of one plugin, and the calls that wait for one.
pub(super) struct Pool {
    shared: Arc<Shared>,
    runtime: Handle,
}

struct Shared {
    parts: Parts,
    instances: Semaphore,
    /// Unused instances. Never more than there are permits.
    idle: Mutex<Vec<Instance>>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl Pool {
    pub(super) fn new(parts: Parts, instances: usize, runtime: Handle) -> Self {
        let shared = Shared {
            parts,
            instances: Semaphore::new(instances),
            idle: Mutex::default(),
            waiting: AtomicUsize::new(0),
            waiting_max: instances * WAITING_PER_INSTANCE,
        };
        Self { shared: Arc::new(shared), runtime }
    }
}

impl AsyncInstances for Pool {
    fn on_connect(&self, event: Arc<ConnectEvent>, patience: Duration) -> PendingVerdict {
        let shared = self.shared.clone();
        let answer = async move { shared.answer(&event, patience).await };
        let task = Task(self.runtime.spawn(answer));
        Box::pin(async move {
            task.await.unwrap_or_else(|| failed(Cause::Trap, "the gateway panicked in a host call"))
        })
    }
}

impl Shared {
    async fn answer(&self, event: &ConnectEvent, patience: Duration) -> AsyncVerdict {
        let begun = Instant::now();
        let mut free_after = None;
        let asked = timeout(patience, async {
            match self.place().await {
                Ok(_permit) => {
                    free_after = Some(begun.elapsed());
                    self.ask(event).await
                }
                Err(failure) => failed(failure.cause, failure.detail),
            }
        });
        let asked = asked.await;
        let answered = asked.unwrap_or_else(|_| match free_after {
            Some(waited) if waited <= patience / 2 => {
                failed(Cause::Deadline, format!("no answer within {patience:?}"))
            }
            // No plugin could answer a call that started this late.
            _ => {
                let instances = self.parts.settings.http_instances;
                let message =
                    format!("none of {instances} instances was free in time for an answer within {patience:?} (http.instances)");
                failed(Cause::Busy, message)
            }
        });
        AsyncVerdict { took: free_after.map(|_| begun.elapsed()), ..answered }
    }

    /// Waits for an instance, unless too many calls wait already.
    async fn place(&self) -> Result<SemaphorePermit<'_>, Failure> {
        let Some(_place) = Place::take(&self.waiting, self.waiting_max) else {
            let message = format!(
                "{} clients wait for one of its instances already (http.instances)",
                self.waiting_max
            );
            return Err(Failure::new(Cause::Busy, message));
        };
        self.instances.acquire().await.map_err(|_| Failure::new(Cause::Trap, "the instances are gone"))
    }

    /// Calls an instance. The caller holds a permit.
    async fn ask(&self, event: &ConnectEvent) -> AsyncVerdict {
        let idle = self.idle().pop();
        let mut instance = match idle {
            Some(instance) => instance,
            None => match Instance::new(&self.parts).await {
                Ok(instance) => instance,
                Err(failure) => return nothing(failure),
            },
        };
        // If this future is dropped during the call, the instance is dropped with it and never reused.
        let (answered, sound) = instance.on_connect(event, &self.parts).await;
        if sound {
            self.idle().push(instance);
        }
        answered
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Instance>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Instance {
    store: Store<State>,
    /// Fuel left after the last call, if the engine counts instructions.
    fuel: Option<u64>,
    on_connect: TypedFunc<(u64, String, Vec<u8>), (ConnectVerdict,)>,
}

impl Instance {
    async fn new(parts: &Parts) -> Result<Self, Failure> {
        let Parts { waits, settings, state } = parts;
        let mut store = Store::new(waits.pre.engine(), state());
        store.limiter(|state| &mut state.memory);
        store.epoch_deadline_callback(|mut store| {
            let left = &mut store.data_mut().ticks_left;
            *left = left.saturating_sub(1);
            Ok(if *left == 0 { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
        });
        store.set_hostcall_fuel(settings.limits.effect_bytes_max + HOST_CALL_EXTRA);
        store.set_max_component_handles(HANDLES_MAX);
        store.data_mut().begin_configure();
        allow(&mut store, settings.limits.configure_deadline);
        // Only the engine of tools has fuel; otherwise this returns an error and changes nothing.
        let metered = store.set_fuel(FUEL).is_ok();
        let instance = waits.pre.instantiate_async(&mut store).await;
        let instance = instance.map_err(|error| explain(&error, &mut store))?;
        if let Some(configure) = &waits.configure {
            let configure =
                instance.get_typed_func::<(String,), (Result<(), String>,)>(&mut store, configure);
            let configure = configure.map_err(|error| explain(&error, &mut store))?;
            let answer = configure.call_async(&mut store, (settings.config.to_string(),)).await;
            let (answer,) = answer.map_err(|error| explain(&error, &mut store))?;
            answer.map_err(|text| {
                Failure::new(Cause::Trap, format!("refuses its settings: {}", cut(&text, 1000)))
            })?;
        }
        store.data_mut().flush_output();
        let on_connect = instance.get_typed_func(&mut store, waits.on_connect);
        let on_connect = on_connect.map_err(|error| explain(&error, &mut store))?;
        let fuel = metered.then(|| store.get_fuel().unwrap_or(FUEL));
        Ok(Self { store, on_connect, fuel })
    }

    /// The verdict, and whether the instance may be called again.
    async fn on_connect(&mut self, event: &ConnectEvent, parts: &Parts) -> (AsyncVerdict, bool) {
        let mut effects = Vec::new();
        self.store.data_mut().begin_connect(event, &mut effects);
        allow(&mut self.store, parts.settings.limits.deadline);
        let parameters = (event.client.number, event.token.to_string(), event.data.to_vec());
        let answer = self.on_connect.call_async(&mut self.store, parameters).await;
        let sound = answer.is_ok();
        let verdict = match answer {
            Ok((verdict,)) => answer::connect_verdict(self.store.data_mut(), verdict),
            Err(error) => Err(explain(&error, &mut self.store)),
        };
        let instructions = self.fuel.zip(self.store.get_fuel().ok()).map(|(before, left)| before - left);
        self.fuel = self.fuel.zip(instructions).map(|(before, used)| before - used);
        let state = self.store.data_mut();
        state.end(&mut effects);
        state.flush_output();
        if verdict.is_err() {
            effects.clear();
        }
        let usage = Usage { host_calls: state.host_calls, memory: state.memory.bytes(), instructions };
        (AsyncVerdict { verdict, effects, usage, took: None }, sound)
    }
}

/// Grants computing time for one call.
fn allow(store: &mut Store<State>, limit: Duration) {
    // The current tick may end at once, so one more is granted.
    let ticks = limit.as_nanos().div_ceil(TICK.as_nanos()) + 2;
    store.data_mut().ticks_left = u64::try_from(ticks).unwrap_or(u64::MAX);
    store.set_epoch_deadline(1);
}

fn explain(error: &wasmtime::Error, store: &mut Store<State>) -> Failure {
    let state = store.data_mut();
    let exceeded = state.memory.take_exceeded();
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => {
            let limit = state.limits.deadline;
            Failure::new(Cause::Deadline, format!("computed longer than {limit:?} (limits.deadline)"))
        }
        _ => {
            let cause = if exceeded { Cause::Memory } else { Cause::Trap };
            let (words, reason) = (state.stderr.take(&state.log.environment), error.root_cause().to_string());
            let reason = cut(&reason, 500);
            let detail = if words.is_empty() { reason.to_owned() } else { format!("{words} ({reason})") };
            Failure::new(cause, detail)
        }
    }
}

fn failed(cause: Cause, detail: impl Into<Box<str>>) -> AsyncVerdict {
    nothing(Failure::new(cause, detail))
}

/// A failed call without effects or cost.
fn nothing(failure: Failure) -> AsyncVerdict {
    AsyncVerdict { verdict: Err(failure), effects: Vec::new(), usage: Usage::default(), took: None }
}

/// One of the calls that wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let next = |count| (count < most).then_some(count + 1);
        waiting.fetch_update(Relaxed, Relaxed, next).ok().map(|_| Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A task that is aborted when its waiter is dropped. `None` if it panicked.
struct Task<T>(JoinHandle<T>);

impl<T> Future for Task<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
