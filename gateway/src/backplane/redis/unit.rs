//! The servers of a topology, one by one: what leads to each, and which server that is at the moment.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};

use super::cluster;
use super::link::Link;
use super::places::Places;
use super::request::Request;
use super::status::Status;
use crate::config::{self, RedisSentinels, RedisServer, RedisTopology};
use crate::telemetry::backplane::BackplaneMetrics;

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
}

impl Unit {
    /// Whether it has a server, and no link to it.
    pub(super) fn is_away(&self) -> bool {
        self.seat.borrow().holder != Holder::Nobody && self.status.link().is_none()
    }
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
        (Unit { status, seat, links, doubt: Notify::new(), lanes: lanes.into() }, Side { queues })
    };
    let each = Status::of(names, metrics).into_iter().zip(holders).enumerate();
    let (units, sides): (Vec<_>, _) = each.map(unit).unzip();
    (places, units.into(), sides)
}
