//! The steps of [`Gateway::run`](super::Gateway::run): each starts, awaits or ends one thing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::build::{Encryption, Sockets};
use super::{Gateway, PluginsMissing, Shared};
use crate::accept::Admission;
use crate::backplane::redis;
use crate::backplane::{Backplane, TICK};
use crate::clock::Clock;
use crate::consumer;
use crate::control::Control;
use crate::plugin::registry::{ClosedPlace, Registry};
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::Metrics;
use crate::transport::tls;
use crate::upstream::{Stop, Upstreams};
use crate::watch::Changed;
use crate::worker;

/// How often expired histories are forgotten.
const SWEEP: Duration = Duration::from_secs(5);

/// How often the registry of plugins does what is due now and then.
const TEND: Duration = Duration::from_secs(30);

/// How long the first clients wait for a connection to the backplane.
const CONNECTING: Duration = Duration::from_secs(2);

/// How long clients wait until the name of this run is written.
const NAMED_WITHIN: Duration = Duration::from_secs(5);

/// How long after the end of the drain a worker is still waited for: one that ends does so at once.
const STUCK: Duration = Duration::from_secs(2);

/// The threads of the workers.
pub(super) struct WorkerThreads {
    /// Notified when a worker serves. The sender goes without a word if it does not come up.
    pub(super) up: Vec<oneshot::Receiver<()>>,
    /// Notified when a worker has ended.
    pub(super) ended: Vec<oneshot::Receiver<()>>,
}

impl Gateway {
    /// Starts a thread for each listener.
    pub(super) fn start_workers(&mut self) -> anyhow::Result<WorkerThreads> {
        let admission = Arc::new(Admission::new(&self.config, self.clock));
        let Sockets { listeners, .. } = &mut self.sockets;
        let mut threads = WorkerThreads { up: Vec::new(), ended: Vec::new() };
        for (index, (listener, inbox)) in listeners.drain(..).zip(&*self.inboxes).enumerate() {
            let (is_up, goes_up) = oneshot::channel();
            let parts = worker::Parts {
                index,
                config: self.config.clone(),
                listener,
                inbox: inbox.clone(),
                backplane: self.parts.backplane.clone(),
                upstreams: self.parts.upstreams.clone(),
                events: self.parts.events.clone(),
                revocations: self.parts.revocations.clone(),
                metrics: self.parts.metrics.clone(),
                admission: admission.clone(),
                tls: self.encryption.clients.clone(),
                site: self.site.clone(),
                ids: self.ids,
                node: self.node.clone(),
                explain: self.parts.explain.clone(),
                clock: self.clock,
                phase: self.phase.subscribe(),
                up: is_up,
                supervisor: self.supervisor.clone(),
            };
            let thread = self.supervisor.thread(format!("worker-{index}"), move || worker::run(parts));
            threads.ended.push(thread.context("failed to start a worker thread")?);
            threads.up.push(goes_up);
        }
        Ok(threads)
    }
}

/// Has expired histories forgotten from now on.
pub(super) fn start_sweep(backplane: Arc<dyn Backplane>, clock: Clock) {
    tokio::spawn(Supervisor::again("sweep", move || {
        let backplane = backplane.clone();
        async move {
            let mut interval = tokio::time::interval(SWEEP);
            loop {
                interval.tick().await;
                backplane.sweep(clock.now().at);
            }
        }
    }));
}

/// Has the backplane tell of vacated channels from now on.
pub(super) fn start_ticks(backplane: Arc<dyn Backplane>, clock: Clock) {
    tokio::spawn(Supervisor::again("vacated channels", move || {
        let backplane = backplane.clone();
        async move {
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                backplane.tick(clock.now().at);
            }
        }
    }));
}

/// Takes changed certificates into use from now on.
pub(super) fn start_reloads(encryption: &Encryption, metrics: &Arc<Metrics>) {
    for tls in [&encryption.clients, &encryption.admin].into_iter().flatten() {
        let (tls, metrics) = (tls.clone(), metrics.clone());
        tokio::spawn(Supervisor::again("certificates", move || {
            tls::keep_current(tls.clone(), metrics.clone())
        }));
    }
}

/// A backplane that is connected to others.
pub(super) struct Network {
    /// Ends when every server has been connected to.
    connected: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Removes the lease of this gateway, so that the others know that it is gone.
    lease_removal: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Connects the backplane, on its own thread.
pub(super) fn start_network(
    runner: redis::Runner,
    runtime: &Runtime,
    parts: &Shared,
    control: &Control,
    clock: Clock,
    supervisor: &Supervisor,
) -> Network {
    let (connected, lease_removal) = (Box::pin(runner.connected()), Box::pin(runner.remove_lease()));
    let registry = parts.registry.clone();
    runner.describe_plugins(move || registry.digests());
    let registry = parts.registry.clone();
    let reconciler = runner.reconciler().run(move || registry.states());
    runtime.spawn(supervisor.forever("backplane: rate limits", reconciler));
    let exchanging = runner.revocations().run();
    runtime.spawn(supervisor.forever("backplane: revocations", exchanging));
    if let Some(answerer) = runner.answerer() {
        let control = control.clone();
        let answering = answerer.run(move |question| {
            let control = control.clone();
            async move { control.answer_alone(question).await }
        });
        runtime.spawn(supervisor.forever("backplane: questions of others", answering));
    }
    runtime.spawn(supervisor.forever("backplane", runner.run(supervisor.clone())));
    let metrics = parts.metrics.clone();
    let beating = async move { metrics.node.backplane_beat.run(clock).await };
    runtime.spawn(supervisor.forever("backplane: beat", beating));
    Network { connected, lease_removal }
}

/// Applies what changes in the plugin folder. Gives what the first look came to.
///
/// The task ends with the thread that watches the folder, so that the supervisor watches that as well.
pub(super) fn start_plugins(
    mut changes: mpsc::Receiver<Changed>,
    registry: Arc<Registry>,
    supervisor: &Supervisor,
) -> oneshot::Receiver<Result<(), PluginsMissing>> {
    let (loaded, first) = oneshot::channel();
    tokio::spawn(supervisor.forever("plugins", async move {
        let mut loaded = Some(loaded);
        loop {
            let applied = tokio::select! {
                changed = changes.recv() => match changed {
                    Some(Changed(contents)) => Some(registry.apply(contents).await),
                    None => break,
                },
                () = registry.loaded() => registry.tend().await,
                () = tokio::time::sleep(TEND) => registry.tend().await,
            };
            if applied.is_none() {
                continue;
            }
            if let Some(loaded) = loaded.take() {
                let _ = loaded.send(begun(&registry));
            }
        }
    }));
    first
}

/// Whether the gateway may serve with what the first look at the plugin folder came to.
fn begun(registry: &Registry) -> Result<(), PluginsMissing> {
    if !registry.has_begun() {
        let message =
            "the plugins could not be prepared; the log says why. Without them the gateway does not start";
        return Err(PluginsMissing(message.into()));
    }
    let missing = registry.missing();
    if missing.is_empty() {
        return Ok(());
    }
    let message = |(name, place): &(Box<str>, Option<ClosedPlace>)| match place {
        Some(ClosedPlace { file, error }) => format!("`{name}`: the file {file} {}", error.message),
        None => format!("`{name}`: there is no file of this plugin in the folder, such as 10-{name}.wasm"),
    };
    let all = missing.iter().map(message).collect::<Vec<_>>().join("; ");
    Err(PluginsMissing(format!("plugins that plugins.required names are not there: {all}")))
}

/// Waits until clients can be served: with plugins, workers and, for a while, the backplane.
pub(super) async fn ready(
    first_load: oneshot::Receiver<Result<(), PluginsMissing>>,
    up: Vec<oneshot::Receiver<()>>,
    network: Option<&mut Network>,
) -> Result<(), PluginsMissing> {
    if let Ok(Err(missing)) = first_load.await {
        return Err(missing);
    }
    // A worker that does not come up says why, by itself.
    for worker in up {
        if worker.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    // A backplane that is there is used from the first client on; without it the node serves alone.
    if let Some(network) = network {
        let _ = tokio::time::timeout(CONNECTING, &mut network.connected).await;
    }
    Ok(())
}

/// What goes to upstreams, until it is stopped.
pub(super) struct Delivering {
    stop: watch::Sender<Stop>,
    task: JoinHandle<()>,
}

/// Delivers events to upstreams from now on.
pub(super) fn start_upstreams(
    upstreams: &Arc<Upstreams>,
    runtime: &Runtime,
    supervisor: &Supervisor,
) -> Delivering {
    let (stop, stopped) = watch::channel(Stop::No);
    Delivering { stop, task: runtime.spawn(upstreams.clone().run(stopped, supervisor.clone())) }
}

/// Has the name of this run written for the next one. A disk that takes nothing does not keep clients out.
pub(super) async fn name_run(naming: impl Future<Output = ()> + Send + 'static) {
    let _ = tokio::time::timeout(NAMED_WITHIN, tokio::spawn(naming)).await;
}

/// Carries out commands of queues while the gateway runs.
pub(super) fn start_consumers(parts: consumer::Parts, runtime: &Runtime) -> JoinHandle<()> {
    runtime.spawn(consumer::run(parts))
}

/// What goes on between the gateway and the backends of an application.
pub(super) struct Backends {
    pub(super) consumers: JoinHandle<()>,
    pub(super) upstreams: Delivering,
}

/// Waits until every part has ended: the workers with their connections, the commands of queues, the word to
/// other gateways, the events for upstreams. A part that is stuck is reported and left behind.
pub(super) async fn drained(
    until: Duration,
    workers: Vec<oneshot::Receiver<()>>,
    backplane: &dyn Backplane,
    network: Option<Network>,
    Backends { mut consumers, upstreams }: Backends,
    clock: Clock,
    supervisor: &Supervisor,
) {
    const LEFT_BEHIND: &str = "it is stuck and is left behind";
    let longest = clock.instant(until + STUCK);
    for (index, worker) in workers.into_iter().enumerate() {
        // It always says so, or is gone.
        if tokio::time::timeout_at(longest.into(), worker).await.is_err() {
            supervisor.report(&format!("worker-{index}"), LEFT_BEHIND);
        }
    }
    // What they have not finished by then stays in the queue.
    if tokio::time::timeout_at(clock.instant(until).into(), &mut consumers).await.is_err() {
        consumers.abort();
    }
    if let Some(network) = network {
        network.lease_removal.await;
    }
    backplane.tell_vacated();
    // Every connection has said its last word: what it emitted has the rest of the time.
    upstreams.stop.send_replace(Stop::At(until));
    if tokio::time::timeout_at(longest.into(), upstreams.task).await.is_err() {
        supervisor.report("upstreams", LEFT_BEHIND);
    }
}
