//! The servers of a topology, one by one: what leads to each, and which server that is at the moment.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use super::cluster;
use super::link::Link;
use super::places::Places;
use super::request::Request;
use super::status::Status;
use crate::config::{self, RedisSentinels, RedisServer, RedisTopology};
use crate::telemetry::backplane::{BackplaneMetrics, Unfit};

/// What a runner has of a unit.
pub(super) struct Side {
    pub(super) queues: Vec<mpsc::Receiver<Request>>,
}

/// A server, and all that leads to it. One that is away takes nothing from the others.
pub(super) struct Unit {
    pub(super) status: Status,
    pub(super) seat: watch::Sender<Seat>,
    pub(super) links: watch::Sender<Option<Arc<Link>>>,
    /// The link should be tried before its time.
    pub(super) doubt: Notify,
    /// Each channel has one of them.
    pub(super) lanes: Box<[mpsc::Sender<Request>]>,
    /// The replication id of the server that was used last.
    pub(super) server: Mutex<Box<str>>,
    /// From when on streams of the server count, as the gateways know together; 0 for any.
    pub(super) since: AtomicU64,
    /// The positions of all channels are to be compared.
    pub(super) recheck: Notify,
    /// When something was published last, in milliseconds and one; 0 for never.
    published: AtomicU64,
    /// When the server has replaced another one, in the same way.
    replaced: AtomicU64,
    /// Why this gateway must not serve, because of others that use the server.
    pub(super) conflict: Mutex<Option<Arc<str>>>,
    /// How often in a row there was a reason.
    pub(super) conflicts: AtomicU32,
    /// Settings of the server that do not fit what is configured here.
    pub(super) unfit: Mutex<Vec<(Unfit, String)>>,
}

impl Unit {
    /// Something was published.
    pub(super) fn has_published(&self, at: Duration) {
        self.published.store(stamp(at), Ordering::Relaxed);
    }

    /// When something was published last.
    pub(super) fn published_at(&self) -> Option<Duration> {
        time(&self.published)
    }

    /// Uses the server with this replication id from now on. Which one it has used before, if that is another one.
    pub(super) fn comes_to(&self, server: &str) -> Option<Box<str>> {
        let mut known = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, server.into());
        (!before.is_empty() && *before != *server).then_some(before)
    }

    /// The server has replaced another one at this time, or a gateway came late from that one.
    pub(super) fn replaced(&self, at: Option<Duration>) {
        self.replaced.store(at.map_or(0, stamp), Ordering::Relaxed);
    }

    /// Whether that is so, not longer than this ago.
    pub(super) fn was_replaced_within(&self, time_of_it: Duration, at: Duration) -> bool {
        time(&self.replaced).is_some_and(|replaced| at.saturating_sub(replaced) < time_of_it)
    }

    /// Whether it has a server, and no link to it.
    pub(super) fn is_away(&self) -> bool {
        self.seat.borrow().holder != Holder::Nobody && self.status.link().is_none()
    }
}

fn stamp(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

fn time(stamp: &AtomicU64) -> Option<Duration> {
    stamp.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis)
}

/// What a unit is for. A link is made for one seat, and given up when the seat changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) holder: Holder,
    /// Whether what all nodes need is there.
    pub(super) home: bool,
}

/// Which server is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// None: the Cluster has fewer.
    Nobody,
    Server(RedisServer),
    /// Whichever these name.
    Master(RedisSentinels),
}

/// All units of a topology, and who has what as far as it is known.
pub(super) fn all(
    redis: &config::Redis,
    metrics: &Arc<BackplaneMetrics>,
) -> (Arc<Places>, Box<[Unit]>, Vec<Side>) {
    let mut names = vec![None];
    let (places, holders) = match &redis.topology {
        RedisTopology::Server(server) => (Places::new(&[]), vec![Holder::Server(server.clone())]),
        RedisTopology::Sentinels(sentinels) => (Places::new(&[]), vec![Holder::Master(sentinels.clone())]),
        RedisTopology::Servers(servers) => {
            names = servers.iter().map(|server| Some(server.to_string())).collect();
            (Places::new(servers), servers.iter().cloned().map(Holder::Server).collect())
        }
        RedisTopology::Cluster(_) => {
            names = vec![None; cluster::UNITS];
            (Places::of_cluster(), vec![Holder::Nobody; cluster::UNITS])
        }
    };
    let places = Arc::new(places);
    let mapped = !places.are_moving();
    let unit = |(place, (status, holder)): (usize, (Status, Holder))| {
        let (lanes, queues): (Vec<_>, _) =
            (0..redis.connections).map(|_| mpsc::channel(redis.questions_max)).unzip();
        if mapped || place == 0 {
            status.begin();
        }
        let seat = Seat { holder, home: mapped && place == places.home() };
        let (seat, links) = (watch::channel(seat).0, watch::channel(None).0);
        let unit = Unit {
            status,
            seat,
            links,
            doubt: Notify::new(),
            lanes: lanes.into(),
            server: Mutex::default(),
            since: AtomicU64::new(0),
            recheck: Notify::new(),
            published: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            conflict: Mutex::default(),
            conflicts: AtomicU32::new(0),
            unfit: Mutex::default(),
        };
        (unit, Side { queues })
    };
    let each = Status::of(names, metrics).into_iter().zip(holders).enumerate();
    let (units, sides): (Vec<_>, _) = each.map(unit).unzip();
    (places, units.into(), sides)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::Config;

    #[test]
    fn another_server_than_before_is_noticed_and_the_first_one_of_all_is_none() {
        let config = Config::parse("redis.url = 'redis://127.0.0.1:1'", "test").unwrap();
        let (_, units, _sides) = all(&config.redis.unwrap(), &Arc::default());
        let came = ["a", "a", "b", "b"].map(|server| units[0].comes_to(server));
        assert_eq!(came, [None, None, Some("a".into()), None]);
        let at = Duration::from_secs(7);
        units[0].replaced(Some(at));
        assert!(units[0].was_replaced_within(Duration::from_secs(2), at + Duration::from_secs(1)));
        assert!(!units[0].was_replaced_within(Duration::from_secs(2), at + Duration::from_secs(2)));
    }
}
