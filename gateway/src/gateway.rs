//! The wiring: [`Gateway::build`] binds and validates everything, [`Gateway::run`] serves until drained.

mod build;
mod serve;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;

use self::build::{Encryption, Folders, Identity, Runtimes, Sockets, random};
use crate::admin;
use crate::backplane::Backplane;
use crate::backplane::inbox::Inbox;
use crate::backplane::redis;
use crate::budget::{self, Budget};
use crate::clock::Clock;
use crate::config::Config;
use crate::connection_id::ConnectionIds;
use crate::consumer;
use crate::control::{self, Control};
use crate::descriptors::{self, Plan};
use crate::egress;
use crate::events::Events;
use crate::explain::Explain;
use crate::plugin::registry::Registry;
use crate::resources;
use crate::revocation::{self, Revocations};
use crate::shutdown::Phase;
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::Metrics;
use crate::transport::site::Site;
use crate::upstream::Upstreams;

/// Pages beside the endpoints, made for the gateway they show.
pub type MakeSite = Box<dyn FnOnce(&Control) -> Arc<dyn Site>>;

/// A gateway that is bound but does not serve yet.
pub struct Gateway {
    config: Arc<Config>,
    clock: Clock,
    sockets: Sockets,
    encryption: Encryption,
    folders: Folders,
    inboxes: Arc<[Arc<Inbox>]>,
    ids: ConnectionIds,
    /// The name by which other gateways know this one.
    node: Arc<str>,
    phase: watch::Sender<Phase>,
    control: Control,
    parts: Shared,
    /// What keeps the revocations on disk.
    keeper: revocation::Keeper,
    /// What keeps the backplane connected.
    network: Option<redis::Runner>,
    runtimes: Runtimes,
    supervisor: Supervisor,
    site: Option<Arc<dyn Site>>,
}

/// What workers and tasks share.
struct Shared {
    backplane: Arc<dyn Backplane>,
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
    upstreams: Arc<Upstreams>,
    events: Events,
    explain: Arc<Explain>,
    revocations: Arc<Revocations>,
}

/// The gateway must not serve with the plugins that there are.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PluginsMissing(String);

impl Gateway {
    /// Binds the listeners, opens the plugin folder and starts the WebAssembly engine. Nothing is served yet.
    ///
    /// # Errors
    ///
    /// An address that cannot be bound, a folder that cannot be used, a limit of the system that is too low,
    /// or an engine that does not start.
    pub fn build(mut config: Config, make_site: Option<MakeSite>) -> anyhow::Result<Self> {
        // Before anything takes addresses, threads above all.
        budget::check_address_space(config.listen.workers)?;
        let clock = Clock::start();
        let plan = Plan::of(descriptors::raise(), &config)?;
        plan.lower(&mut config);
        let config = Arc::new(config);
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let supervisor = Supervisor::default();
        let encryption = Encryption::load(&config)?;
        let sockets = Sockets::bind(&config)?;
        let folders = Folders::open(&config)?;
        let identity = Identity::new(sockets.address)?;
        let inboxes = build::inboxes(&config);
        let metrics = Metrics::new(config.listen.workers);
        let (client, spools) = (egress::Client::bounded(plan.outgoing), folders.state.upstreams());
        let upstreams =
            Upstreams::new(&config.upstreams, &spools, client.clone(), &metrics.node, clock, random()?)?;
        let node = format!("{:016x}", identity.node);
        let events = Events::new(&config, &upstreams, &identity.name, &node);
        let (revocations, keeper) = build::revocations(&config, &folders.state, clock)?;
        metrics.node.count_revocations(revocations.clone());
        let (phase, phase_seen) = watch::channel(Phase::Starting);
        let besides = build::Besides { observer: Arc::new(events.clone()), revocations: revocations.clone() };
        let seen = phase_seen.clone();
        let (backplane, network) =
            build::backplane(&config, &identity, &inboxes, clock, &metrics, seen, besides)?;
        let runtimes = Runtimes::start(&config)?;
        let loader = build::loader(&config, client, &upstreams, &folders.state, &runtimes)?;
        let registry = build::registry(&config, loader, &inboxes, &folders.state, &runtimes, metrics.clone());
        let explain = Arc::new(Explain::new(config.explain.clone(), clock));
        let control = Control::new(control::Parts {
            explain: explain.clone(),
            revocations: revocations.clone(),
            config: config.clone(),
            backplane: backplane.clone(),
            events: events.clone(),
            metrics: metrics.clone(),
            registry: registry.clone(),
            upstreams: upstreams.clone(),
            clock,
            phase: phase_seen,
            inboxes: inboxes.clone(),
            node: node.as_str().into(),
            name: identity.name,
            supervisor: supervisor.clone(),
        });
        let site = make_site.map(|make_site| make_site(&control));
        Ok(Self {
            config,
            clock,
            sockets,
            encryption,
            folders,
            inboxes,
            ids: identity.ids,
            node: node.into(),
            phase,
            control,
            parts: Shared { backplane, metrics, registry, upstreams, events, explain, revocations },
            keeper,
            network,
            runtimes,
            supervisor,
            site,
        })
    }

    /// Where clients connect: the port that was bound, if the configuration left it open.
    pub fn address(&self) -> SocketAddr {
        self.sockets.address
    }

    /// Where the admin API listens, if it does.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.sockets.admin.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until `stop` is there and everything has drained, or the time to drain is over. So it does when
    /// a part of the gateway has ended that must not: the error is then a
    /// [`PartEnded`](crate::supervisor::PartEnded), if clients were served.
    ///
    /// # Errors
    ///
    /// If a part of the gateway could not be started, or has ended although it must not.
    pub fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let workers = self.start_workers()?;
        let Self {
            config, clock, sockets, encryption, folders, phase, control, parts, supervisor, node, ..
        } = self;
        let Folders { changes, watcher, state } = folders;
        let runtimes = self.runtimes;
        let served = runtimes.control.block_on(async {
            serve::start_sweep(parts.backplane.clone(), clock);
            if config.namespaces.tell_occupancy() {
                serve::start_ticks(parts.backplane.clone(), clock);
            }
            // Before anything else can be told.
            let naming = parts.events.started(&state.upstreams(), clock.now());
            let naming = naming.context("failed to read the run before in `plugins.state_folder`")?;
            tokio::spawn(supervisor.forever("revocations", self.keeper.run()));
            let mut network = self.network.zip(runtimes.backplane.as_ref()).map(|(runner, runtime)| {
                serve::start_network(runner, runtime, &parts, &control, clock, &supervisor)
            });
            serve::start_reloads(&encryption, &parts.metrics);
            if let Some(listener) = sockets.admin {
                let serving =
                    admin::serve(listener, config.clone(), encryption.admin.clone(), control.clone());
                tokio::spawn(supervisor.forever("admin", serving));
            }
            let upstreams = serve::start_upstreams(&parts.upstreams, &runtimes.outgoing, &supervisor);
            serve::name_run(naming).await;
            let consumers = serve::start_consumers(
                consumer::Parts {
                    configured: config.consumers.clone(),
                    control: control.clone(),
                    clock,
                    phase: phase.subscribe(),
                    node,
                    supervisor: supervisor.clone(),
                },
                &runtimes.outgoing,
            );
            let first_load = serve::start_plugins(changes, parts.registry, &supervisor);
            let mut stop = std::pin::pin!(stop);
            let mut ended = tokio::select! {
                begun = serve::ready(first_load, workers.up, network.as_mut()) => {
                    begun.err().map(|missing| Err(missing.into()))
                }
                () = &mut stop => Some(Ok(())),
                ended = supervisor.failed() => Some(Err(anyhow::anyhow!("failed to start: {ended}"))),
            };
            if ended.is_none() {
                phase.send_replace(Phase::Running);
                let (workers, generation) = (config.listen.workers, control.generation());
                tracing::info!(address = %sockets.address, workers, generation, "ready");
                Budget::of(&config, control.plugins_memory_max()).report(resources::memory());
                if let Err(reason) = control.plugins_health() {
                    tracing::error!(%reason, "clients are refused");
                }
                tokio::select! {
                    () = &mut stop => (),
                    failed = supervisor.failed() => ended = Some(Err(failed.into())),
                }
            }
            // A failed part does not wait: what is left may not serve.
            if !config.drain.delay.is_zero() && matches!(ended, None | Some(Ok(()))) {
                phase.send_replace(Phase::Leaving);
                tracing::info!(delay = ?config.drain.delay, "shutting down: not ready, still accepting connections");
                tokio::select! {
                    () = tokio::time::sleep(config.drain.delay) => (),
                    failed = supervisor.failed() => ended = Some(Err(failed.into())),
                }
            }
            let until = clock.now().at + config.drain.deadline;
            phase.send_replace(Phase::Draining { until });
            tracing::info!(deadline = ?config.drain.deadline, "shutting down: not ready, not accepting connections");
            let backplane = &*parts.backplane;
            let backends = serve::Backends { consumers, upstreams };
            serve::drained(until, workers.ended, backplane, network, backends, clock, &supervisor).await;
            // Also what has failed on the way down is a failure.
            match ended {
                Some(Err(error)) => Err(error),
                _ => supervisor.ended().map_or(Ok(()), |ended| Err(ended.into())),
            }
        });
        runtimes.shutdown();
        // Not before: whoever listens to it would take its end for a failure.
        drop(watcher);
        drop(state);
        tracing::info!("stopped");
        served
    }
}
