//! On one server, which each gateway reaches through a network of its own.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use gateway_tests::{Data, Gateway, Proxy, Redis};
use tokio::time::sleep;

use super::{NODES, Scene, gateway};

#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    RedisKilled(Data),
    RedisFrozen,
    RedisFull,
    NodeCut(usize),
    NodeSilent(usize),
    NodeFar(usize),
    NodeKilled(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RedisKilled(Data::Kept) => f.write_str("redis killed, back with its data"),
            Self::RedisKilled(Data::Lost) => f.write_str("redis killed, back with nothing"),
            Self::RedisFrozen => f.write_str("redis frozen"),
            Self::RedisFull => f.write_str("redis full"),
            Self::NodeCut(node) => write!(f, "node {node} cut off from redis"),
            Self::NodeSilent(node) => write!(f, "nothing passes between node {node} and redis"),
            Self::NodeFar(node) => write!(f, "200 ms between node {node} and redis"),
            Self::NodeKilled(node) => write!(f, "node {node} killed"),
        }
    }
}

/// Gateways on one Redis, each behind a network of its own.
pub(super) struct OnServer {
    redis: Redis,
    networks: Vec<Proxy>,
    gateways: Vec<Gateway>,
}

impl OnServer {
    pub(super) async fn open() -> Self {
        let redis = Redis::with("").persistent().start().await;
        let mut networks = Vec::new();
        for _ in 0..NODES {
            networks.push(Proxy::to(redis.address()).await);
        }
        let gateways =
            Gateway::nodes(NODES, |node| gateway(&format!("url = 'redis://{}'", networks[node].address())));
        let gateways = gateways.await;
        Self { redis, networks, gateways }
    }
}

impl Scene for OnServer {
    type Fault = Fault;

    fn gateways(&mut self) -> &mut [Gateway] {
        &mut self.gateways
    }

    fn any(random: &mut Rng) -> Fault {
        let node = random.usize(..NODES);
        match random.u8(..8) {
            0 => Fault::RedisKilled(Data::Kept),
            1 => Fault::RedisKilled(Data::Lost),
            2 => Fault::RedisFrozen,
            3 => Fault::RedisFull,
            4 => Fault::NodeCut(node),
            5 => Fault::NodeSilent(node),
            6 => Fault::NodeFar(node),
            _ => Fault::NodeKilled(node),
        }
    }

    async fn suffer(&mut self, fault: &Fault, time: Duration) {
        match *fault {
            Fault::RedisKilled(data) => {
                self.redis.kill();
                sleep(time).await;
                self.redis.revive(data).await;
            }
            Fault::RedisFrozen => {
                self.redis.freeze().await;
                sleep(time).await;
                self.redis.thaw();
            }
            Fault::RedisFull => {
                self.redis.set("maxmemory", "1").await;
                sleep(time).await;
                self.redis.set("maxmemory", "0").await;
            }
            Fault::NodeCut(node) => {
                self.networks[node].cut();
                sleep(time).await;
                self.networks[node].heal();
            }
            Fault::NodeSilent(node) => {
                self.networks[node].freeze();
                sleep(time).await;
                self.networks[node].heal();
            }
            Fault::NodeFar(node) => {
                self.networks[node].delay(Duration::from_millis(200));
                sleep(time).await;
                self.networks[node].heal();
            }
            Fault::NodeKilled(node) => {
                self.gateways[node].kill();
                sleep(time).await;
                self.gateways[node].restart().await;
            }
        }
    }
}
