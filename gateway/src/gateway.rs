//! [`Gateway::build`] validates the configuration and binds everything; [`Gateway::run`] serves until all
//! connections are drained.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};

use crate::accept::Admission;
use crate::admin;
use crate::backplane::Backplane;
use crate::backplane::inbox::{Delivery, Inbox};
use crate::backplane::memory::Memory;
use crate::backplane::redis::{self, Redis};
use crate::budget::{self, Budget};
use crate::clock::Clock;
use crate::config::{Config, OnRemoval};
use crate::connection_id::ConnectionIds;
use crate::control::{self, Control};
use crate::descriptors::{self, Plan};
use crate::disk::StateFolder;
use crate::egress;
use crate::explain::Explain;
use crate::plugin::chain::Chain;
use crate::plugin::registry::Archive;
use crate::plugin::registry::{ClosedPlace, Registry, Workers};
use crate::resources;
use crate::shutdown::Phase;
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::Metrics;
use crate::transport::site::Site;
use crate::upstream::{Stop, Upstreams};
use crate::wasm::{CompileProcess, Loader, LoaderConfig};
use crate::watch::{self as folder, Changed, Watcher};
use crate::worker;

/// Backlog of a listener: clients that wait to be accepted, for each worker.
const BACKLOG: i32 = 4096;

/// Interval at which expired histories are removed.
const SWEEP: Duration = Duration::from_secs(5);

/// Interval of maintenance in the plugin registry.
const TEND: Duration = Duration::from_secs(30);

/// How long the first clients wait for a connection to the backplane.
const CONNECTING: Duration = Duration::from_secs(2);

/// How long to wait for a worker after the drain deadline: one that can end does so at once.
const STUCK: Duration = Duration::from_secs(2);

/// Blocking threads of the control runtime, which load plugins and store their versions: one change at a
/// time, and one that an API call has started.
const CONTROL_BLOCKING: usize = 4;

/// Most threads for plugins that wait for responses: authentication of new clients is computed there.
const OUTGOING_MAX: usize = 4;

/// Blocking threads of the outgoing runtime: at most four for name lookups, and the rest for files.
const OUTGOING_BLOCKING: usize = 8;

/// Threads that make standby instances.
const SPARES: usize = 2;

/// Makes the pages in addition to the endpoints, for the gateway that they show.
pub type MakeSite = Box<dyn FnOnce(&Control) -> Arc<dyn Site>>;

/// A gateway that is bound but does not serve yet.
pub struct Gateway {
    config: Arc<Config>,
    clock: Clock,
    listeners: Vec<std::net::TcpListener>,
    address: SocketAddr,
    admin: Option<std::net::TcpListener>,
    inboxes: Arc<[Arc<Inbox>]>,
    ids: ConnectionIds,
    phase: watch::Sender<Phase>,
    folder: mpsc::Receiver<Changed>,
    /// Watches the plugin folder until it is dropped.
    watcher: Watcher,
    /// Locked by this process until dropped.
    state: StateFolder,
    control: Control,
    parts: Shared,
    /// Keeps the backplane connected.
    network: Option<redis::Runner>,
    runtimes: Runtimes,
    supervisor: Supervisor,
    site: Option<Arc<dyn Site>>,
}

/// Runtimes besides the workers. They are separate, so that a busy or blocked one takes nothing from the
/// others.
struct Runtimes {
    /// Health checks, the API, changes of plugins, and all other control tasks.
    control: Runtime,
    /// Requests to other hosts: plugins that wait for a response, events for upstreams, and name lookups.
    outgoing: Runtime,
    /// Connections to Redis and messages between gateways: leases must not wait for other work.
    backplane: Option<Runtime>,
    /// Makes standby instances on its blocking threads; it has no others.
    spares: Runtime,
}

struct Shared {
    backplane: Arc<dyn Backplane>,
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
    upstreams: Arc<Upstreams>,
    explain: Arc<Explain>,
}

/// Passes chains from the registry to the workers.
struct WorkerInboxes(Arc<[Arc<Inbox>]>);

impl Workers for WorkerInboxes {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn swap(&self, worker: usize, chain: Chain) -> oneshot::Receiver<()> {
        let (taken, receiver) = oneshot::channel();
        self.0[worker].put(Delivery::Chain(Box::new(chain), taken));
        receiver
    }
}

impl Gateway {
    /// Binds the listeners, opens the plugin folder and starts the WebAssembly engine. Serves no clients yet.
    pub fn build(mut config: Config, make_site: Option<MakeSite>) -> anyhow::Result<Self> {
        // Before anything reserves address space, threads above all.
        budget::check_address_space(config.listen.workers)?;
        let clock = Clock::start();
        let plan = Plan::of(descriptors::raise(), &config)?;
        plan.lower(&mut config);
        let config = Arc::new(config);
        let supervisor = Supervisor::default();
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let (listeners, address) = bind_workers(config.listen.address, config.listen.workers)?;
        let admin = match config.admin.address {
            Some(address) => Some(
                bind(address, false)
                    .with_context(|| format!("failed to listen on `admin.address` {address}"))?,
            ),
            None => None,
        };
        let (changed, folder) = mpsc::channel(1);
        let watcher = folder::start(&config.plugins.folder, &(&config.plugins).into(), changed)
            .context("failed to watch `plugins.folder`")?;
        let state = StateFolder::open(&config.plugins.state_folder(), &config.plugins.folder)?;
        let random = || {
            getrandom::u64()
                .map_err(|error| anyhow::anyhow!("failed to get random bytes from the system: {error}"))
        };
        let inboxes: Arc<[_]> = (0..config.listen.workers)
            .map(|_| {
                let memory = &config.memory;
                Arc::new(Inbox::new(memory.inbox_deliveries_max).with_bytes_max(memory.inbox_bytes_max))
            })
            .collect();
        let ids = ConnectionIds::new(random()?);
        let node = random()?;
        let name: Box<str> = format!("{}/{address}", host()).into();
        let metrics = Metrics::new(config.listen.workers);
        let (phase, phase_seen) = watch::channel(Phase::Starting);
        let (backplane, network): (Arc<dyn Backplane>, _) = match &config.redis {
            None => (Arc::new(Memory::new(inboxes.clone(), ids, &config.memory, random()?)), None),
            Some(redis) => {
                let (backplane, runner) = Redis::new(
                    redis,
                    redis::Parts {
                        config: config.clone(),
                        inboxes: inboxes.clone(),
                        ids,
                        clock,
                        metrics: metrics.node.backplane(),
                        name: name.clone(),
                        phase: phase_seen.clone(),
                        random: [node, random()?],
                    },
                );
                (Arc::new(backplane), Some(runner))
            }
        };
        let runtimes = Runtimes::start(&config)?;
        let client = egress::Client::bounded(plan.outgoing);
        let fetcher = egress::Fetcher::new(client.clone());
        let upstreams = Upstreams::new(&config.upstreams, client, &metrics.node, clock, random()?);
        let loader = Loader::new(&LoaderConfig::sized_for(config.listen.workers, config.plugins.max))
            .context("failed to start the WebAssembly engine")?
            .with_upstreams(upstreams.clone())
            .with_http(fetcher, runtimes.outgoing.handle().clone())
            .with_artifacts(Arc::new(state.artifacts()))
            .with_compile_process(CompileProcess::itself(
                config.plugins.compile_timeout,
                config.plugins.compile_bytes_max as u64,
            ));
        let registry = Registry::new(Arc::new(loader), Arc::new(WorkerInboxes(inboxes.clone())))
            .with_archive(Arc::new(Archive::in_folder(&state)))
            .with_offload(Arc::new(runtimes.spares.handle().clone()))
            .keep_removed(config.plugins.on_removal == OnRemoval::Keep)
            .with_required(config.plugins.required.clone())
            .with_plugins_max(config.plugins.max);
        let registry = Arc::new(registry);
        let explain = Arc::new(Explain::new(config.explain.clone(), clock));
        let control = Control::new(control::Parts {
            explain: explain.clone(),
            config: config.clone(),
            backplane: backplane.clone(),
            metrics: metrics.clone(),
            registry: registry.clone(),
            clock,
            phase: phase_seen,
            inboxes: inboxes.clone(),
            node: format!("{node:016x}").into(),
            name,
            supervisor: supervisor.clone(),
        });
        let site = make_site.map(|make_site| make_site(&control));
        let parts = Shared { backplane, metrics, registry, upstreams, explain };
        Ok(Self {
            config,
            clock,
            listeners,
            address,
            admin,
            inboxes,
            ids,
            phase,
            folder,
            watcher,
            state,
            control,
            parts,
            network,
            runtimes,
            supervisor,
            site,
        })
    }

    /// The address for clients, with the actual port if the configuration left it open.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the admin API, if it is enabled.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until `stop` resolves, then drains until all connections are closed or the drain deadline has
    /// passed. The same happens when a part of the gateway fails: the error is then a
    /// [`PartEnded`](crate::supervisor::PartEnded), if clients were served.
    pub fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let supervisor = self.supervisor;
        let Runtimes { control, outgoing, backplane, spares } = self.runtimes;
        let admission = Arc::new(Admission::new(&self.config, self.clock));
        let (mut up, mut workers) = (Vec::new(), Vec::new());
        for (index, (listener, inbox)) in self.listeners.into_iter().zip(&*self.inboxes).enumerate() {
            let (is_up, goes_up) = oneshot::channel();
            let parts = worker::Parts {
                index,
                config: self.config.clone(),
                listener,
                inbox: inbox.clone(),
                backplane: self.parts.backplane.clone(),
                upstreams: self.parts.upstreams.clone(),
                metrics: self.parts.metrics.clone(),
                admission: admission.clone(),
                site: self.site.clone(),
                ids: self.ids,
                explain: self.parts.explain.clone(),
                clock: self.clock,
                phase: self.phase.subscribe(),
                up: is_up,
                supervisor: supervisor.clone(),
            };
            let thread = supervisor.thread(format!("worker-{index}"), move || worker::run(parts));
            workers.push(thread.context("failed to start a worker thread")?);
            up.push(goes_up);
        }
        let (clock, phase, drain) = (self.clock, self.phase, self.config.drain.deadline);
        let served = control.block_on(async {
            let memory = self.parts.backplane.clone();
            tokio::spawn(Supervisor::again("sweep", move || {
                let backplane = memory.clone();
                async move {
                    let mut interval = tokio::time::interval(SWEEP);
                    loop {
                        interval.tick().await;
                        backplane.sweep(clock.now().at);
                    }
                }
            }));
            let (connected, goodbye) = self
                .network
                .zip(backplane.as_ref())
                .map(|(network, runtime)| {
                    let (connected, goodbye) = (network.connected(), network.goodbye());
                    let registry = self.parts.registry.clone();
                    network.describe_plugins(move || registry.digests());
                    let registry = self.parts.registry.clone();
                    let reconciler = network.reconciler().run(move || registry.states());
                    runtime.spawn(supervisor.forever("backplane: rate limits", reconciler));
                    if let Some(answerer) = network.answerer() {
                        let control = self.control.clone();
                        let answering = answerer.run(move |question| {
                            let control = control.clone();
                            async move { control.answer_alone(question).await }
                        });
                        runtime.spawn(supervisor.forever("backplane: questions of others", answering));
                    }
                    runtime.spawn(supervisor.forever("backplane", network.run(supervisor.clone())));
                    let metrics = self.parts.metrics.clone();
                    let beating = async move { metrics.node.backplane_beat.run(clock).await };
                    runtime.spawn(supervisor.forever("backplane: beat", beating));
                    (connected, goodbye)
                })
                .unzip();
            if let Some(listener) = self.admin {
                let serving = admin::serve(listener, self.config.clone(), self.control.clone());
                tokio::spawn(supervisor.forever("admin", serving));
            }
            let (stop_upstreams, stopped) = watch::channel(Stop::No);
            let upstreams = outgoing.spawn(self.parts.upstreams.run(stopped, supervisor.clone()));
            let mut folder = self.folder;
            let registry = self.parts.registry;
            let metrics = self.parts.metrics;
            let (loaded, first) = oneshot::channel();
            // Ends with the thread that watches the folder, so this also supervises that thread.
            tokio::spawn(supervisor.forever("plugins", async move {
                let mut loaded = Some(loaded);
                loop {
                    let applied = match tokio::time::timeout(TEND, folder.recv()).await {
                        Ok(Some(Changed(contents))) => Some(registry.apply(contents).await),
                        Ok(None) => break,
                        Err(_) => registry.tend().await,
                    };
                    let Some(applied) = applied else { continue };
                    metrics.node.applied(&applied);
                    if let Some(loaded) = loaded.take() {
                        let _ = loaded.send(begun(&registry));
                    }
                }
            }));
            let starting = async {
                if let Ok(Err(missing)) = first.await {
                    return Err(missing);
                }
                // A worker that fails to start reports why.
                for worker in up {
                    if worker.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                // A backplane that is reachable is used from the first client on; otherwise the node serves
                // alone.
                if let Some(connected) = connected {
                    let _ = tokio::time::timeout(CONNECTING, connected).await;
                }
                Ok(())
            };
            let mut stop = std::pin::pin!(stop);
            let mut ended = tokio::select! {
                begun = starting => begun.err().map(|missing| Err(missing.into())),
                () = &mut stop => Some(Ok(())),
                ended = supervisor.failed() => Some(Err(anyhow::anyhow!("failed to start: {ended}"))),
            };
            if ended.is_none() {
                phase.send_replace(Phase::Running);
                let generation = self.control.generation();
                tracing::info!(address = %self.address, workers = workers.len(), generation, "ready");
                Budget::of(&self.config, self.control.plugins_memory_max()).report(resources::memory());
                if let Err(reason) = self.control.plugins_health() {
                    tracing::error!("clients are refused: {reason}");
                }
                tokio::select! {
                    () = &mut stop => (),
                    failed = supervisor.failed() => ended = Some(Err(failed.into())),
                }
            }
            tracing::info!(deadline = ?drain, "going down: not ready, not accepting");
            let until = clock.now().at + drain;
            phase.send_replace(Phase::Draining { until });
            let all_ended = async {
                for (index, worker) in workers.iter_mut().enumerate() {
                    let longest = clock.instant(until + STUCK);
                    // A worker always reports its end, unless its thread is gone.
                    if tokio::time::timeout_at(longest.into(), worker).await.is_err() {
                        supervisor.report(&format!("worker-{index}"), "it is stuck and is left behind");
                    }
                }
            };
            all_ended.await;
            if let Some(goodbye) = goodbye {
                goodbye.await;
            }
            // All connections are closed: their emitted events may use the rest of the time.
            stop_upstreams.send_replace(Stop::At(until));
            let longest = clock.instant(until + STUCK);
            if tokio::time::timeout_at(longest.into(), upstreams).await.is_err() {
                supervisor.report("upstreams", "it is stuck and is left behind");
            }
            // An error during shutdown counts as a failure too.
            match ended {
                Some(Err(error)) => Err(error),
                _ => supervisor.ended().map_or(Ok(()), |ended| Err(ended.into())),
            }
        });
        // Its results are no longer needed, and a name lookup may take long.
        outgoing.shutdown_background();
        spares.shutdown_background();
        if let Some(backplane) = backplane {
            backplane.shutdown_background();
        }
        control.shutdown_timeout(Duration::from_secs(1));
        // Not before: the supervisor would take the end of the registry task for a failure.
        drop(self.watcher);
        drop(self.state);
        tracing::info!("stopped");
        served
    }
}

impl Runtimes {
    fn start(config: &Config) -> anyhow::Result<Self> {
        let start = |name: &str, threads: usize, blocking: usize| {
            Builder::new_multi_thread()
                .worker_threads(threads)
                .max_blocking_threads(blocking)
                .thread_name(name)
                .enable_all()
                .build()
                .with_context(|| format!("failed to start the runtime `{name}`"))
        };
        Ok(Self {
            control: start("control", 1, CONTROL_BLOCKING)?,
            outgoing: start("outgoing", config.listen.workers.min(OUTGOING_MAX), OUTGOING_BLOCKING)?,
            backplane: match config.redis {
                Some(_) => Some(start("backplane", 1, redis::LOOKUPS_MAX)?),
                None => None,
            },
            spares: Builder::new_current_thread()
                .max_blocking_threads(SPARES)
                .thread_name("spares")
                .build()
                .context("failed to start the threads for spare instances")?,
        })
    }
}

/// The gateway must not serve with the plugins that it found.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PluginsMissing(String);

/// Whether the gateway may serve after the first load of the plugin folder.
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

/// The host name of this machine.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.split_whitespace().next().unwrap_or("localhost").to_owned()
}

/// One listener per worker on the same port.
fn bind_workers(
    address: SocketAddr,
    count: usize,
) -> anyhow::Result<(Vec<std::net::TcpListener>, SocketAddr)> {
    let failed = || format!("failed to listen on `listen.address` {address}");
    // `SO_REUSEPORT` would silently share the port with another gateway of this user.
    drop(bind(address, false).with_context(failed)?);
    let first = bind(address, true).with_context(failed)?;
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(bind(bound, true).with_context(failed)?);
    }
    Ok((listeners, bound))
}

fn bind(address: SocketAddr, share: bool) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
