//! The `Runner` connects to every server, watches the connection, gives it up and reconnects.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::backplane::redis::agreement::Plugins;
use crate::backplane::redis::commands::dispatch::Queues;
use crate::backplane::redis::commands::repeats::Repeats;
use crate::backplane::redis::components::Components;
use crate::backplane::redis::connection::fitness;
use crate::backplane::redis::connection::server_connection::{Destination, ServerConnection, WATCH};
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::exchange::Exchange;
use crate::backplane::redis::incoming::{ConnectionListener, Incoming};
use crate::backplane::redis::limits::Reconciler;
use crate::backplane::redis::membership::meeting;
use crate::backplane::redis::membership::takeover::Takeovers;
use crate::backplane::redis::pipeline::Pipeline;
use crate::backplane::redis::subscriptions::Subscriptions;
use crate::backplane::redis::survey::Answerer;
use crate::backplane::redis::topology::cluster;
use crate::backplane::redis::topology::sentinel::{self, Sentinels};
use crate::backplane::redis::topology::shard::{Assigned, Assignment, Shard};
use crate::config::{RedisSentinels, RedisServer, RedisTopology};
use crate::protocol::channel::Channel;
use crate::supervisor::Supervisor;
use crate::telemetry::backplane::Trouble;

/// Maximum pause before the second attempt to connect; the limit doubles from then on.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// After failed commands the connection is checked this soon, however many fail.
const DOUBT: Duration = Duration::from_millis(50);

/// A connection that lived for less counts as a failed attempt.
const STABLE: Duration = Duration::from_secs(5);

/// A first attempt to connect that takes longer is reported: for this long the first clients wait for it.
const LATE: Duration = Duration::from_secs(2);

/// How often timeouts of waiting requests are checked.
const EXPIRY: Duration = Duration::from_millis(100);

/// The part of the backplane that runs on the control runtime.
pub struct Runner {
    components: Components,
    queues: Queues,
}

impl Runner {
    pub(crate) fn new(components: Components, queues: Queues) -> Self {
        Self { components, queues }
    }

    /// Creates the reconciler, which uses the connections of this runner.
    pub fn reconciler(&self) -> Reconciler {
        Reconciler::new(self.components.context.clone(), self.components.topology.clone())
    }

    /// Creates the task that exchanges revocations with other gateways.
    pub fn revocations(&self) -> Exchange {
        Exchange::new(self.components.context.clone(), self.components.topology.clone())
    }

    /// Creates the task that answers other gateways. Works only once.
    pub fn answerer(&self) -> Option<Answerer> {
        let Components { context, requests, surveys, .. } = &self.components;
        surveys.answerer(context.clone(), requests.clone())
    }

    /// Ends when every server has been connected to, and the revocations of the others are known.
    pub fn connected(&self) -> impl Future<Output = ()> + Send + use<> {
        let topology = self.components.topology.clone();
        let context = self.components.context.clone();
        async move {
            let _ = topology.mapped.subscribe().wait_for(|mapped| *mapped).await;
            for shard in &topology.shards {
                let mut connections = shard.connection.subscribe();
                let _ = connections.wait_for(|known| known.is_some() || !shard.is_away()).await;
            }
            context.revocations.synced().await;
        }
    }

    /// Sets the function that returns the plugins, which this gateway describes to the others with each beat.
    pub fn describe_plugins(&self, plugins: impl Fn() -> Plugins + Send + 'static) {
        self.components.agreement.describe(plugins);
    }

    /// Removes the lease of this gateway, so that the others need not wait until it expires. Call it when the
    /// last client has gone. Bounded in time.
    pub fn remove_lease(&self) -> impl Future<Output = ()> + Send + use<> {
        let Components { topology, nodes, .. } = self.components.clone();
        async move {
            if let Some(connection) = topology.shared_server()
                && let Err(cause) = nodes.leave(&connection).await
            {
                tracing::warn!(%cause, "the other gateways were not notified of this shutdown");
            }
        }
    }

    /// Connects, reconnects, and carries requests, for as long as the runtime lives. None of its tasks may
    /// end: requests in a pipeline would never get a response.
    pub async fn run(self, supervisor: Supervisor) {
        let Self { components, queues } = self;
        let Components { context, topology, agreement, requests, subscriptions, presence, nodes, .. } =
            components.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(supervisor.forever("backplane: expiry", expire(subscriptions.clone())));
        let incoming = Arc::new(Incoming {
            context: context.clone(),
            topology: topology.clone(),
            agreement: agreement.clone(),
            subscriptions: subscriptions.clone(),
            requests: components.requests.clone(),
            surveys: components.surveys.clone(),
            inputs: components.inputs.clone(),
            nodes: nodes.clone(),
        });
        let takeovers = Takeovers::new(
            context.clone(),
            topology.clone(),
            requests.clone(),
            subscriptions.clone(),
            presence.clone(),
            nodes,
        );
        let first = Pipeline {
            context: context.clone(),
            topology: topology.clone(),
            agreement,
            requests,
            subscriptions: subscriptions.clone(),
            presence: presence.clone(),
            incoming: incoming.clone(),
            repeats: Arc::new(Repeats::default()),
            shard_index: 0,
            index: 0,
        };
        let servers = Arc::new(Servers { components, incoming, takeovers });
        for (shard_index, queues) in queues.into_iter().enumerate() {
            for (index, queue) in queues.into_iter().enumerate() {
                let part = format!("backplane: pipeline {index} of server {shard_index}");
                let pipeline = Pipeline { shard_index, index, ..first.clone() };
                tasks.spawn(supervisor.forever(&part, async move { pipeline.run(queue).await }));
            }
            let part = format!("backplane: connection to server {shard_index}");
            let servers = servers.clone();
            tasks
                .spawn(supervisor.forever(&part, async move { Box::pin(servers.attend(shard_index)).await }));
        }
        if let RedisTopology::Cluster(named) = &context.config.topology {
            let named = named.clone();
            let context = context.clone();
            let following = async move {
                let on_moved = |has_moved: &dyn Fn(&Channel) -> bool| {
                    subscriptions.interest.moved(has_moved);
                    presence.table.write_anew_at(has_moved);
                };
                cluster::run(&context.config, &topology, &named, on_moved).await;
            };
            tasks.spawn(supervisor.forever("backplane: cluster", following));
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// Keeps the shards connected to their servers.
struct Servers {
    components: Components,
    incoming: Arc<Incoming>,
    takeovers: Takeovers,
}

impl Servers {
    /// Keeps a shard connected to the server assigned to it.
    async fn attend(&self, shard: usize) {
        let Components { context, topology, .. } = &self.components;
        let Shard { status, connection, assignment, .. } = &topology.shards[shard];
        let mut assignments = assignment.subscribe();
        let mut failures = 0_u32;
        let mut sentinels = None;
        loop {
            let assignment = assignments.borrow_and_update().clone();
            let begun = context.clock.now().at;
            let ended = tokio::select! {
                ended = self.attempt(shard, &assignment, &mut sentinels) => Some(ended),
                _ = assignments.changed() => None,
                never = self.report_delay(shard, &assignment) => match never {},
            };
            status.set_connection(None);
            connection.send_replace(None);
            let Some(ended) = ended else {
                failures = 0;
                continue;
            };
            let cause = match ended {
                Ok(cause) => {
                    if context.clock.now().at.saturating_sub(begun) >= STABLE {
                        failures = 0;
                    }
                    cause
                }
                Err(cause) => cause,
            };
            status.set(Some(cause));
            // A new assignment ends the pause.
            let _ = timeout(pause(failures, context.config.reconnect_pause_max), assignments.changed()).await;
            failures = failures.saturating_add(1);
        }
    }

    /// Reports a first attempt that takes too long.
    async fn report_delay(&self, shard: usize, assignment: &Assignment) -> Infallible {
        let Components { context, topology, .. } = &self.components;
        sleep(LATE).await;
        let tried = tried(&assignment.assigned, &context.config.topology);
        topology.shards[shard].status.is_late(&format!("not connected after {LATE:?}{tried}"));
        std::future::pending().await
    }

    /// Finds the server, connects, and uses the connection until it fails. `Ok` with the reason if there was
    /// a connection.
    async fn attempt(
        &self,
        shard: usize,
        assignment: &Assignment,
        sentinels: &mut Option<Sentinels>,
    ) -> Result<Cause, Cause> {
        let Components { context, topology, .. } = &self.components;
        let server = match &assignment.assigned {
            Assigned::Nobody => std::future::pending().await,
            Assigned::Server(server) => server.clone(),
            Assigned::Master(config) => {
                let known = match sentinels.take() {
                    Some(known) => known,
                    None => Sentinels::new(&context.config, config)?,
                };
                topology.shards[shard].status.is_nowhere();
                sentinels.insert(known).master().await?
            }
        };
        topology.shards[shard].status.is_at(&server);
        let number = topology.next_connection();
        let destination = Destination { number, shard, server: &server, is_shared: assignment.is_shared };
        let listener = ConnectionListener { incoming: self.incoming.clone(), shard, number };
        let connecting =
            ServerConnection::connect(context, &topology.slot_map, destination, Box::new(listener));
        let connection = match connecting.await {
            Ok(connection) => Arc::new(connection),
            // The Sentinels may name a dead server, because too few of them are left to replace it.
            Err(cause) => {
                return Err(match sentinels.as_mut() {
                    Some(sentinels) => {
                        let said = sentinels.opinions().await;
                        Cause { detail: format!("{} ({said})", cause.detail).into(), ..cause }
                    }
                    None => cause,
                });
            }
        };
        Ok(tokio::select! {
            cause = self.serve(connection) => cause,
            cause = sentinel::depose(sentinels.as_mut(), &server) => cause,
        })
    }

    /// Uses a connection until it fails. Returns the reason.
    async fn serve(&self, server: Arc<ServerConnection>) -> Cause {
        // Checked once before its first use, so that a server that refuses writes is never used for half a
        // second.
        let Components { context, topology, agreement, subscriptions, presence, clients, nodes, .. } =
            &self.components;
        let Shard { status, doubt, connection, .. } = &topology.shards[server.shard];
        match server.watch(context, &topology.slot_map).await {
            Ok(cause) => status.set(cause),
            Err(cause) => return cause,
        }
        if let Err(cause) = meeting::begin(context, topology, &server).await {
            return cause;
        }
        presence.table.begin(server.shard, &server.replication_id);
        // Before the first request, the other gateways and their rules must be known.
        let agreed = if server.is_shared { nodes.begin(&server).await } else { self.agreed(&server).await };
        match agreed {
            Ok(()) => agreement.has_heard(),
            Err(cause) => return cause,
        }
        status.connected();
        topology.serves();
        status.set_connection(Some(server.number));
        subscriptions.interest.begin(server.shard);
        connection.send_replace(Some(server.clone()));
        let listening = subscriptions.synchronize(&server);
        tokio::pin!(listening);
        // Everything that belongs to no channel is on the shared server.
        let beating = async {
            if !server.is_shared {
                return std::future::pending().await;
            }
            tokio::select! {
                cause = nodes.run(&server) => cause,
                cause = self.takeovers.run(&server) => cause,
                cause = presence.keep_list(&server) => cause,
                cause = clients.run(&server) => cause,
            }
        };
        let fitting = async {
            loop {
                if let Some(found) = fitness::look(context, &server).await {
                    topology.set_unfit(server.shard, found, &context.metrics);
                }
                sleep(fitness::AGAIN).await;
            }
        };
        let watching = async {
            loop {
                tokio::select! {
                    () = sleep(WATCH) => (),
                    () = doubt.notified() => sleep(DOUBT).await,
                }
                let watched = async {
                    let cause = server.watch(context, &topology.slot_map).await?;
                    meeting::go_on(context, topology, &server).await?;
                    Ok(cause)
                };
                match watched.await {
                    Ok(cause) => status.set(cause),
                    Err(cause) => break cause,
                }
            }
        };
        tokio::select! {
            cause = &mut listening => cause,
            cause = watching => cause,
            cause = beating => cause,
            () = fitting => Cause::new(Trouble::Unreachable, "the checks of its settings have ended"),
            cause = presence.run(&server) => cause,
            () = server.ended.notified() => {
                Cause::new(Trouble::Unreachable, "the connection has ended")
            }
        }
    }

    /// Waits until the shared server has returned the rules of the others: they apply on every other server
    /// too. `Err` if the connection fails meanwhile.
    async fn agreed(&self, server: &ServerConnection) -> Result<(), Cause> {
        let Components { context, topology, agreement, .. } = &self.components;
        loop {
            tokio::select! {
                () = agreement.heard() => return Ok(()),
                () = server.ended.notified() => {
                    return Err(Cause::new(Trouble::Unreachable, "the connection has ended"));
                }
                () = sleep(WATCH) => {
                    let cause = server.watch(context, &topology.slot_map).await?;
                    meeting::go_on(context, topology, server).await?;
                    topology.shards[server.shard].status.set(cause);
                }
            }
        }
    }
}

/// How the address of a server is found, for an error; empty if it is configured.
fn tried(assigned: &Assigned, topology: &RedisTopology) -> String {
    let list =
        |servers: &[RedisServer]| servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (assigned, topology) {
        (Assigned::Master(RedisSentinels { sentinels, master, .. }), _) => {
            format!("; asked {} for the master {master}", list(sentinels))
        }
        (Assigned::Nobody, RedisTopology::Cluster(named)) => {
            format!("; asked {} which server has which slot", list(named))
        }
        _ => String::new(),
    }
}

/// Fails requests that have waited for too long.
async fn expire(subscriptions: Arc<Subscriptions>) {
    let mut interval = tokio::time::interval(EXPIRY);
    loop {
        interval.tick().await;
        subscriptions.expire();
    }
}

/// Full jitter: a random pause up to a limit that doubles, so that nodes do not return all at once.
fn pause(failures: u32, max: Duration) -> Duration {
    let limit = PAUSE_MIN.saturating_mul(1 << failures.min(16)).min(max);
    let share = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    limit.mul_f64(share)
}
