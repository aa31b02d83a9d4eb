//! The `Runner` connects to every server, watches the connection, gives it up and reconnects.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::backplane::Response;
use crate::backplane::redis::commands::request::Request;
use crate::backplane::redis::connection::server_connection::{ServerConnection, WATCH};
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::membership::agreement::Plugins;
use crate::backplane::redis::subscriptions::interest::Waiter;
use crate::backplane::redis::topology::sentinel::Sentinels;
use crate::backplane::redis::topology::shard::{Assigned, Assignment, Shard, ShardQueues};
use crate::backplane::redis::{
    Runner, Shared, clients,
    commands::pipeline,
    connection::fitness,
    membership::{meeting, nodes},
    presence,
    subscriptions::sync,
    topology::{cluster, sentinel},
};
use crate::config::RedisTopology;
use crate::supervisor::Supervisor;
use crate::telemetry::backplane::Trouble;

/// Maximum pause before the second attempt to connect; the limit doubles from then on.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// After failed commands the connection is checked this soon, however many fail.
const DOUBT: Duration = Duration::from_millis(50);

/// A connection that lived for less counts as a failed attempt.
const STABLE: Duration = Duration::from_secs(5);

/// How often timeouts of waiting requests are checked.
const EXPIRY: Duration = Duration::from_millis(100);

impl Runner {
    /// Ends when every server has been connected to.
    pub fn connected(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        async move {
            let _ = shared.mapped.subscribe().wait_for(|mapped| *mapped).await;
            for shard in &shared.shards {
                let mut links = shard.links.subscribe();
                let _ = links.wait_for(|link| link.is_some() || !shard.is_away()).await;
            }
        }
    }

    /// Sets the function that returns the plugins, which this gateway describes to the others with each beat.
    pub fn describe_plugins(&self, plugins: impl Fn() -> Plugins + Send + 'static) {
        self.shared.agreement.describe(plugins);
    }

    /// Removes the lease of this gateway, so that the others need not wait until it expires. Call it when the
    /// last client has gone. Bounded in time.
    pub fn remove_lease(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        async move {
            if let Some(link) = shared.home()
                && let Err(cause) = nodes::leave(&shared, &link).await
            {
                tracing::warn!(%cause, "the other gateways were not told that this one goes");
            }
        }
    }

    /// Connects, reconnects, and carries requests, for as long as the runtime lives. None of its tasks may
    /// end: requests in a pipeline would never get a response.
    pub async fn run(self, supervisor: Supervisor) {
        let Self { shared, shard_queues } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(supervisor.forever("backplane: expiry", expire(shared.clone())));
        for (shard, ShardQueues { queues }) in shard_queues.into_iter().enumerate() {
            for (index, queue) in queues.into_iter().enumerate() {
                let part = format!("backplane: lane {index} of server {shard}");
                tasks.spawn(supervisor.forever(&part, pipeline::run(shared.clone(), shard, index, queue)));
            }
            let part = format!("backplane: link to server {shard}");
            tasks.spawn(supervisor.forever(&part, attend(shared.clone(), shard)));
        }
        if let RedisTopology::Cluster(named) = &shared.config.topology {
            let following = cluster::run(shared.clone(), named.clone());
            tasks.spawn(supervisor.forever("backplane: cluster", following));
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// Keeps a shard connected to the server assigned to it.
async fn attend(shared: Arc<Shared>, shard: usize) {
    let Shard { status, links, assignment, .. } = &shared.shards[shard];
    let mut assignments = assignment.subscribe();
    let mut failures = 0_u32;
    let mut sentinels = None;
    loop {
        let assignment = assignments.borrow_and_update().clone();
        let begun = shared.clock.now().at;
        let ended = tokio::select! {
            ended = attempt(&shared, shard, &assignment, &mut sentinels) => Some(ended),
            _ = assignments.changed() => None,
        };
        status.set_link(None);
        links.send_replace(None);
        let Some(ended) = ended else {
            failures = 0;
            continue;
        };
        let cause = match ended {
            Ok(cause) => {
                if shared.clock.now().at.saturating_sub(begun) >= STABLE {
                    failures = 0;
                }
                cause
            }
            Err(cause) => cause,
        };
        status.set(Some(cause));
        // A new assignment ends the pause.
        let _ = timeout(pause(failures, shared.config.reconnect_pause_max), assignments.changed()).await;
        failures = failures.saturating_add(1);
    }
}

/// Finds the server, connects, and uses the connection until it fails. `Ok` with the reason if there was a
/// connection.
async fn attempt(
    shared: &Arc<Shared>,
    shard: usize,
    assignment: &Assignment,
    sentinels: &mut Option<Sentinels>,
) -> Result<Cause, Cause> {
    let server = match &assignment.assigned {
        Assigned::Nobody => std::future::pending().await,
        Assigned::Server(server) => server.clone(),
        Assigned::Master(config) => {
            let known = match sentinels.take() {
                Some(known) => known,
                None => Sentinels::new(&shared.config, config)?,
            };
            shared.shards[shard].status.is_nowhere();
            sentinels.insert(known).master().await?
        }
    };
    shared.shards[shard].status.is_at(&server);
    let link = match ServerConnection::connect(shared, shard, &server, assignment).await {
        Ok(link) => Arc::new(link),
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
        cause = serve(shared, link) => cause,
        cause = sentinel::depose(sentinels.as_mut(), &server) => cause,
    })
}

/// Uses a connection until it fails. Returns the reason.
async fn serve(shared: &Arc<Shared>, link: Arc<ServerConnection>) -> Cause {
    // Checked once before its first use, so that a server that refuses writes is never used for half a
    // second.
    let Shard { status, doubt, links, .. } = &shared.shards[link.shard];
    match link.watch(shared).await {
        Ok(cause) => status.set(cause),
        Err(cause) => return cause,
    }
    if let Err(cause) = meeting::begin(shared, &link).await {
        return cause;
    }
    shared.presence.begin(link.shard, &link.server);
    // Before the first request, the other gateways and their rules must be known.
    let agreed = if link.home { nodes::begin(shared, &link).await } else { agreed(shared, &link).await };
    match agreed {
        Ok(()) => shared.agreement.has_heard(),
        Err(cause) => return cause,
    }
    shared.metrics.linked();
    shared.has_linked();
    status.set_link(Some(link.number));
    shared.interest.begin(link.shard);
    links.send_replace(Some(link.clone()));
    let listening = sync::run(shared.clone(), link.clone());
    tokio::pin!(listening);
    // Everything that belongs to no channel is on the shared server.
    let beating = async {
        if !link.home {
            return std::future::pending().await;
        }
        tokio::select! {
            cause = nodes::run(shared.clone(), link.clone()) => cause,
            cause = nodes::take_over_dead_nodes(shared.clone(), link.clone()) => cause,
            cause = presence::keep_list(shared.clone(), link.clone()) => cause,
            cause = clients::run(shared.clone(), link.clone()) => cause,
        }
    };
    let fitting = async {
        loop {
            fitness::look(shared, &link).await;
            tokio::time::sleep(fitness::AGAIN).await;
        }
    };
    let watching = async {
        loop {
            tokio::select! {
                () = tokio::time::sleep(WATCH) => (),
                () = doubt.notified() => tokio::time::sleep(DOUBT).await,
            }
            let watched = async {
                let cause = link.watch(shared).await?;
                meeting::go_on(shared, &link).await?;
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
        () = fitting => Cause::new(Trouble::Unreachable, "nobody looks at the server any more"),
        cause = presence::run(shared.clone(), link.clone()) => cause,
        () = link.ended.notified() => {
            Cause::new(Trouble::Unreachable, "the connection has ended")
        }
    }
}

/// Waits until the shared server has returned the rules of the others: they apply on every other server too.
/// `Err` if the connection fails meanwhile.
async fn agreed(shared: &Shared, link: &ServerConnection) -> Result<(), Cause> {
    loop {
        tokio::select! {
            () = shared.agreement.heard() => return Ok(()),
            () = link.ended.notified() => {
                return Err(Cause::new(Trouble::Unreachable, "the connection has ended"));
            }
            () = tokio::time::sleep(WATCH) => {
                let cause = link.watch(shared).await?;
                meeting::go_on(shared, link).await?;
                shared.shards[link.shard].status.set(cause);
            }
        }
    }
}

/// Fails requests that have waited for too long.
async fn expire(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(EXPIRY);
    loop {
        interval.tick().await;
        for waiter in shared.interest.expired(shared.clock.now().at) {
            match waiter {
                // The subscription is made when Redis is back; until then this node's publications arrive.
                Waiter::Announced(reply_to, _) => shared.answer(reply_to, Response::Announced(Ok(()))),
                Waiter::Recover(Request { what, reply_to, .. }) => {
                    shared.fail(reply_to, &what, "redis was away for too long");
                }
            }
        }
    }
}

/// Full jitter: a random pause up to a limit that doubles, so that nodes do not return all at once.
fn pause(failures: u32, max: Duration) -> Duration {
    let limit = PAUSE_MIN.saturating_mul(1 << failures.min(16)).min(max);
    let share = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    limit.mul_f64(share)
}
