//! Connects, watches, gives up and connects again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::interest::Waiter;
use super::link::{Link, WATCH};
use super::request::Request;
use super::sentinel::Sentinels;
use super::status::Cause;
use super::{Runner, Shared, Side, Unit, clients, lane, listener, nodes, presence, sentinel};
use crate::backplane::Answer;
use crate::config::RedisTopology;
use crate::telemetry::backplane::Trouble;

/// Longest pause before the second attempt to connect; the limit doubles from then on.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// After a command has failed the link is tried this soon, however many fail.
const DOUBT: Duration = Duration::from_millis(50);

/// A link that lived for less counts as a failure to connect.
const STABLE: Duration = Duration::from_secs(5);

/// How often it is looked for who has waited for too long.
const EXPIRY: Duration = Duration::from_millis(100);

impl Runner {
    /// Ends when every server has been connected to.
    pub fn connected(&self) -> impl Future<Output = ()> + Send + use<> {
        let links: Vec<_> = self.sides.iter().map(|side| side.links.subscribe()).collect();
        async move {
            for mut links in links {
                let _ = links.wait_for(Option::is_some).await;
            }
        }
    }

    /// Says goodbye to the other gateways, which otherwise wait until the lease of this one has run out. To be called when
    /// the last client has gone. Bounded in time.
    pub fn goodbye(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        let links = self.sides[shared.places.home()].links.subscribe();
        async move {
            let link = links.borrow().clone();
            if let Some(link) = link
                && let Err(cause) = nodes::leave(&shared, &link).await
            {
                tracing::warn!(%cause, "the other gateways were not told that this one goes");
            }
        }
    }

    /// Connects, keeps connected, and carries questions, for as long as the runtime lives.
    pub async fn run(self) {
        let Self { shared, sides } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(expire(shared.clone()));
        for (unit, Side { queues, links }) in sides.into_iter().enumerate() {
            for (index, queue) in queues.into_iter().enumerate() {
                tasks.spawn(lane::run(shared.clone(), index, queue, links.subscribe()));
            }
            tasks.spawn(attend(shared.clone(), unit, links));
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// Keeps a server connected.
async fn attend(shared: Arc<Shared>, unit: usize, links: watch::Sender<Option<Arc<Link>>>) {
    let status = &shared.units[unit].status;
    let mut failures = 0_u32;
    let mut sentinels = None;
    loop {
        let begun = shared.clock.now().at;
        let cause = match attempt(&shared, unit, &links, &mut sentinels).await {
            Ok(cause) => {
                if shared.clock.now().at.saturating_sub(begun) >= STABLE {
                    failures = 0;
                }
                cause
            }
            Err(cause) => cause,
        };
        status.set_link(None);
        links.send_replace(None);
        status.set(Some(cause));
        tokio::time::sleep(pause(failures, shared.config.reconnect_pause_max)).await;
        failures = failures.saturating_add(1);
    }
}

/// Finds the server, connects, and uses the link until it fails. `Ok` with the reason if there was a link.
async fn attempt(
    shared: &Arc<Shared>,
    unit: usize,
    links: &watch::Sender<Option<Arc<Link>>>,
    sentinels: &mut Option<Sentinels>,
) -> Result<Cause, Cause> {
    let server = match &shared.config.topology {
        RedisTopology::Server(server) => server.clone(),
        RedisTopology::Servers(servers) => servers[unit].clone(),
        RedisTopology::Sentinels(config) => {
            let known = match sentinels.take() {
                Some(known) => known,
                None => Sentinels::new(&shared.config, config)?,
            };
            sentinels.insert(known).master().await?
        }
    };
    let link = Arc::new(Link::connect(shared, unit, &server).await?);
    Ok(tokio::select! {
        cause = serve(shared, links, link) => cause,
        cause = sentinel::depose(sentinels.as_mut(), &server) => cause,
    })
}

/// Uses a link until it fails. Returns why.
async fn serve(shared: &Arc<Shared>, links: &watch::Sender<Option<Arc<Link>>>, link: Arc<Link>) -> Cause {
    // Tried once before anybody uses it: a server that takes no writes is not believed for half a second.
    let Unit { status, doubt, .. } = &shared.units[link.unit];
    match link.watch(shared).await {
        Ok(cause) => status.set(cause),
        Err(cause) => return cause,
    }
    let home = link.unit == shared.places.home();
    // Whoever asks over this link knows who else there is.
    if home && let Err(cause) = nodes::begin(shared, &link).await {
        return cause;
    }
    shared.metrics.linked();
    status.set_link(Some(link.number));
    shared.interest.begin(link.unit);
    links.send_replace(Some(link.clone()));
    let listening = listener::run(shared.clone(), link.clone());
    tokio::pin!(listening);
    // What belongs to no channel lies on one server, and so does presence: it is refused together with several.
    let beating = async {
        if !home {
            return std::future::pending().await;
        }
        tokio::select! {
            cause = nodes::run(shared.clone(), link.clone()) => cause,
            cause = nodes::settle(shared.clone(), link.clone()) => cause,
            cause = presence::run(shared.clone(), link.clone()) => cause,
            cause = clients::run(shared.clone(), link.clone()) => cause,
        }
    };
    let watching = async {
        loop {
            tokio::select! {
                () = tokio::time::sleep(WATCH) => (),
                () = doubt.notified() => tokio::time::sleep(DOUBT).await,
            }
            match link.watch(shared).await {
                Ok(cause) => status.set(cause),
                Err(cause) => break cause,
            }
        }
    };
    tokio::select! {
        cause = &mut listening => cause,
        cause = watching => cause,
        cause = beating => cause,
        () = link.ended.notified() => {
            Cause::new(Trouble::Unreachable, "the connection has ended")
        }
    }
}

/// Fails whoever has waited for too long.
async fn expire(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(EXPIRY);
    loop {
        interval.tick().await;
        for waiter in shared.interest.expired(shared.clock.now().at) {
            match waiter {
                // The subscription is made when Redis is back; until then what this node publishes arrives.
                Waiter::Announced(asker, _) => shared.answer(asker, Answer::Announced(Ok(()))),
                Waiter::Recover(Request { what, asker, .. }) => {
                    shared.fail(asker, &what, "redis was away for too long");
                }
            }
        }
    }
}

/// Full jitter: somewhere between nothing and a limit that doubles, so that nodes do not come back all at once.
fn pause(failures: u32, max: Duration) -> Duration {
    let limit = PAUSE_MIN.saturating_mul(1 << failures.min(16)).min(max);
    let share = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    limit.mul_f64(share)
}
