//! The steps of [`Gateway::build`](super::Gateway::build): each opens or makes one thing.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};

use crate::backplane::Backplane;
use crate::backplane::inbox::{Delivery, Inbox};
use crate::backplane::memory::Memory;
use crate::backplane::occupancy::{OccupancyObserver, Teller};
use crate::backplane::redis::{self, Redis};
use crate::clock::Clock;
use crate::config::{self, Config, OnRemoval};
use crate::connection_id::ConnectionIds;
use crate::disk::StateFolder;
use crate::egress;
use crate::plugin::chain::Chain;
use crate::plugin::registry::{Archive, Registry, Workers};
use crate::revocation::{Keeper, Revocations};
use crate::shutdown::Phase;
use crate::telemetry::metrics::{Metrics, TlsListener};
use crate::transport::tls::Tls;
use crate::upstream::Upstreams;
use crate::wasm::{CompileProcess, Loader, LoaderConfig};
use crate::watch::{self as folder, Changed, Watcher};

/// Clients that may wait to be accepted, for each worker.
const BACKLOG: i32 = 4096;

/// Threads of the control runtime for loading plugins and writing down what runs: one change at a time, and
/// what an API call has begun.
const CONTROL_BLOCKING: usize = 4;

/// Most threads on which plugins run that wait for answers: what a client that connects costs is computed
/// there.
const OUTGOING_MAX: usize = 4;

/// Threads of the outgoing runtime that wait: for look-ups, of which there are four at most, and for files.
const OUTGOING_BLOCKING: usize = 8;

/// Threads that make spare instances.
const SPARES: usize = 2;

/// The sockets that clients and operators connect to.
pub(super) struct Sockets {
    /// One for each worker, on the same port.
    pub(super) listeners: Vec<TcpListener>,
    /// Where clients connect: the port that was bound, if the configuration left it open.
    pub(super) address: SocketAddr,
    /// The admin listener, if there is one.
    pub(super) admin: Option<TcpListener>,
}

impl Sockets {
    pub(super) fn bind(config: &Config) -> anyhow::Result<Self> {
        let (listeners, address) = bind_workers(config.listen.address, config.listen.workers)?;
        let admin = match config.admin.address {
            Some(address) => Some(
                bind(address, false)
                    .with_context(|| format!("failed to listen on `admin.address` {address}"))?,
            ),
            None => None,
        };
        Ok(Self { listeners, address, admin })
    }
}

/// TLS of the listeners that speak it.
pub(super) struct Encryption {
    /// That of clients.
    pub(super) clients: Option<Arc<Tls>>,
    /// That of operators.
    pub(super) admin: Option<Arc<Tls>>,
}

impl Encryption {
    pub(super) fn load(config: &Config) -> anyhow::Result<Self> {
        let load = |listener, settings: &Option<config::Tls>| {
            settings.as_ref().map(|settings| Tls::load(listener, settings).map(Arc::new)).transpose()
        };
        Ok(Self {
            clients: load(TlsListener::Clients, &config.listen.tls)?,
            admin: load(TlsListener::Admin, &config.admin.tls)?,
        })
    }
}

/// The plugin folder and the state folder.
pub(super) struct Folders {
    /// What changes in the plugin folder.
    pub(super) changes: mpsc::Receiver<Changed>,
    /// Watches the plugin folder until it is dropped.
    pub(super) watcher: Watcher,
    /// Ours until it is dropped.
    pub(super) state: StateFolder,
}

impl Folders {
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let (changed, changes) = mpsc::channel(1);
        let watcher = folder::start(&config.plugins.folder, &(&config.plugins).into(), changed)
            .context("failed to watch `plugins.folder`")?;
        let state = StateFolder::open(&config.plugins.state_folder(), &config.plugins.folder)?;
        Ok(Self { changes, watcher, state })
    }
}

/// What tells this gateway from others.
pub(super) struct Identity {
    /// Of its connections.
    pub(super) ids: ConnectionIds,
    /// Random, for each process.
    pub(super) node: u64,
    /// For people: machine and address.
    pub(super) name: Box<str>,
}

impl Identity {
    pub(super) fn new(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self {
            ids: ConnectionIds::new(random()?),
            node: random()?,
            name: format!("{}/{address}", host()).into(),
        })
    }
}

/// Random bits from the system.
pub(super) fn random() -> anyhow::Result<u64> {
    getrandom::u64().map_err(|error| anyhow::anyhow!("failed to get random bytes from the system: {error}"))
}

/// The way into each worker.
pub(super) fn inboxes(config: &Config) -> Arc<[Arc<Inbox>]> {
    let memory = &config.memory;
    let inbox = |_| Inbox::new(memory.inbox_deliveries_max).with_bytes_max(memory.inbox_bytes_max);
    (0..config.listen.workers).map(inbox).map(Arc::new).collect()
}

/// The revocations that the state folder remembers, and what keeps them there.
pub(super) fn revocations(
    config: &Config,
    state: &StateFolder,
    clock: Clock,
) -> anyhow::Result<(Arc<Revocations>, Keeper)> {
    let shared = config.redis.is_some();
    let revocations = Arc::new(Revocations::new(config.memory.revocations_max, shared));
    let keeper = Keeper::open(revocations.clone(), state.path().to_owned(), clock)?;
    Ok((revocations, keeper))
}

/// What a backplane works with besides channels.
pub(super) struct Besides {
    /// Is told of channels that become occupied or vacated.
    pub(super) observer: Arc<dyn OccupancyObserver>,
    /// Shared with the other gateways.
    pub(super) revocations: Arc<Revocations>,
}

/// The backplane that the configuration asks for, and what keeps it connected.
pub(super) fn backplane(
    config: &Arc<Config>,
    identity: &Identity,
    inboxes: &Arc<[Arc<Inbox>]>,
    clock: Clock,
    metrics: &Metrics,
    phase: watch::Receiver<Phase>,
    besides: Besides,
) -> anyhow::Result<(Arc<dyn Backplane>, Option<redis::Runner>)> {
    let teller = Teller::new(config, besides.observer, || metrics.node.occupancy());
    let Some(redis) = &config.redis else {
        let memory = Memory::new(inboxes.clone(), identity.ids, &config.memory, random()?);
        return Ok((Arc::new(memory.telling(teller)), None));
    };
    let (backplane, runner) = Redis::new(
        redis,
        redis::Parts {
            config: config.clone(),
            inboxes: inboxes.clone(),
            ids: identity.ids,
            clock,
            metrics: metrics.node.backplane(),
            teller,
            name: identity.name.clone(),
            phase,
            revocations: besides.revocations,
            random: [identity.node, random()?],
        },
    );
    Ok((Arc::new(backplane), Some(runner)))
}

/// The WebAssembly engine, with what plugins may reach.
pub(super) fn loader(
    config: &Config,
    client: egress::Client,
    upstreams: &Arc<Upstreams>,
    state: &StateFolder,
    runtimes: &Runtimes,
) -> anyhow::Result<Loader> {
    Ok(Loader::new(&LoaderConfig::sized_for(config.listen.workers, config.plugins.max))
        .context("failed to start the WebAssembly engine")?
        .with_upstreams(upstreams.clone())
        .with_http(egress::Fetcher::new(client), runtimes.outgoing.handle().clone())
        .with_artifacts(Arc::new(state.artifacts()))
        .with_compile_process(CompileProcess::itself(
            config.plugins.compile_timeout,
            config.plugins.compile_bytes_max as u64,
        )))
}

/// The plugins, none of which is loaded yet.
pub(super) fn registry(
    config: &Config,
    loader: Loader,
    inboxes: &Arc<[Arc<Inbox>]>,
    state: &StateFolder,
    runtimes: &Runtimes,
    metrics: Arc<Metrics>,
) -> Arc<Registry> {
    let registry = Registry::new(Arc::new(loader), Arc::new(WorkerInboxes(inboxes.clone())))
        .with_archive(Arc::new(Archive::in_folder(state)))
        .with_offload(Arc::new(runtimes.spares.handle().clone()))
        .keep_removed(config.plugins.on_removal == OnRemoval::Keep)
        .with_required(config.plugins.required.clone())
        .with_plugins_max(config.plugins.max)
        .with_observer(move |applied| metrics.node.applied(applied));
    Arc::new(registry)
}

/// How the registry reaches the workers.
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

/// Threads for what is not a worker, apart from each other: what keeps one of them busy, or waits on it,
/// takes nothing from the others.
pub(super) struct Runtimes {
    /// Health and the API, changes of the plugins, and everything that has no other place.
    pub(super) control: Runtime,
    /// What goes to other hosts: plugins that wait for an answer, events for upstreams, and look-ups of
    /// names.
    pub(super) outgoing: Runtime,
    /// The connections to Redis and what a gateway tells the others: leases must not wait for anything.
    pub(super) backplane: Option<Runtime>,
    /// Spare instances are made on its threads for blocking work; it has no others.
    pub(super) spares: Runtime,
}

impl Runtimes {
    pub(super) fn start(config: &Config) -> anyhow::Result<Self> {
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

    /// Ends them. Only the control is waited for: nothing of the others is wanted any more, and a look-up may
    /// take its time.
    pub(super) fn shutdown(self) {
        self.outgoing.shutdown_background();
        self.spares.shutdown_background();
        if let Some(backplane) = self.backplane {
            backplane.shutdown_background();
        }
        self.control.shutdown_timeout(Duration::from_secs(1));
    }
}

/// What this machine is called.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.split_whitespace().next().unwrap_or("localhost").to_owned()
}

/// One listener per worker on the same port.
fn bind_workers(address: SocketAddr, count: usize) -> anyhow::Result<(Vec<TcpListener>, SocketAddr)> {
    let failed = || format!("failed to listen on `listen.address` {address}");
    // `SO_REUSEPORT` would share the port with another gateway of this user without a word.
    drop(bind(address, false).with_context(failed)?);
    let first = bind(address, true).with_context(failed)?;
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(bind(bound, true).with_context(failed)?);
    }
    Ok((listeners, bound))
}

fn bind(address: SocketAddr, share: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
