//! Three gateways, thousands of clients and a fault every few seconds, of a kind and at a time that a seed decides: whatever
//! comes together, the ledger balances.
//!
//! `GATEWAY_SOAK_SECONDS` lets it go on for longer, `GATEWAY_SOAK_SEED` lets other things happen.

use std::env;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use gateway_tests::ledger::{HealthWatch, Ledger, Publisher, Subscriber};
use gateway_tests::{Data, Gateway, Proxy, Redis, eventually_within};
use tokio::time::sleep;

const NODES: usize = 3;
const CLIENTS: usize = 3000;
const CHANNELS: usize = 200;
const CHANNELS_PER_CLIENT: usize = 2;
/// Of the publisher of each node.
const PACE: Duration = Duration::from_millis(15);

const SECONDS: u64 = 45;
const SEED: u64 = 20;
/// Everybody has to be back this long after what was broken is whole.
const RETURN: Duration = Duration::from_secs(5);
/// How long everybody may take in the beginning.
const START: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Fault {
    RedisKilled(Data),
    RedisFrozen,
    RedisFull,
    NodeCut(usize),
    NodeSilent(usize),
    NodeFar(usize),
    NodeKilled(usize),
}

impl Fault {
    fn any(random: &mut Rng) -> Self {
        let node = random.usize(..NODES);
        match random.u8(..8) {
            0 => Self::RedisKilled(Data::Kept),
            1 => Self::RedisKilled(Data::Lost),
            2 => Self::RedisFrozen,
            3 => Self::RedisFull,
            4 => Self::NodeCut(node),
            5 => Self::NodeSilent(node),
            6 => Self::NodeFar(node),
            _ => Self::NodeKilled(node),
        }
    }
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
struct Scene {
    redis: Redis,
    networks: Vec<Proxy>,
    gateways: Vec<Gateway>,
}

impl Scene {
    async fn open() -> Self {
        let redis = Redis::with("").persistent().start().await;
        let mut networks = Vec::new();
        for _ in 0..NODES {
            networks.push(Proxy::to(redis.address()).await);
        }
        let gateways = Gateway::nodes(NODES, |node| {
            Gateway::with(&format!(
                "client = {{ anonymous = true, history_publications_max = 10000 }}\n\
                 limits.connections_per_address_max = {}\n\
                 [redis]\nurl = 'redis://{}'\n\
                 [namespaces.news]\nhistory_size = 10000\nrecovery = true\nallow_subscribe = 'anyone'\n",
                CLIENTS * 2,
                networks[node].address(),
            ))
        })
        .await;
        Self { redis, networks, gateways }
    }

    /// Breaks something for a time, and makes it whole.
    async fn suffer(&mut self, fault: Fault, time: Duration) {
        match fault {
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

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_together_nothing_is_lost_silently() {
    let (seconds, seed) = (setting("GATEWAY_SOAK_SECONDS", SECONDS), setting("GATEWAY_SOAK_SEED", SEED));
    println!("seed {seed}: {NODES} gateways, {CLIENTS} clients, {CHANNELS} channels, {seconds} s");
    let mut random = Rng::with_seed(seed);
    let mut scene = Scene::open().await;
    let ledger = Ledger::open();
    let channels: Vec<Arc<str>> = (0..CHANNELS).map(|n| format!("news:{n}").into()).collect();
    let mut addresses: Vec<_> = scene.gateways.iter().map(Gateway::address).collect();
    let mut subscribers = Vec::new();
    for _ in 0..CLIENTS {
        // Another one is tried where one is not there.
        addresses.rotate_left(1);
        let wanted = random.choose_multiple(channels.iter().cloned(), CHANNELS_PER_CLIENT);
        subscribers.push(Subscriber::start(&ledger, &addresses, &wanted));
    }
    let subscribed = ledger.all_subscribed(START).await;
    println!("all subscribed after {} ms", subscribed.as_millis());
    let health: Vec<_> =
        scene.gateways.iter().map(|node| HealthWatch::start(&ledger, node.admin())).collect();
    let publishers: Vec<_> = (scene.gateways.iter())
        .map(|node| Publisher::start(&ledger, node.admin(), &channels, PACE))
        .collect();

    let begun = ledger.now();
    let mut faults = 0;
    while ledger.now() - begun < Duration::from_secs(seconds) {
        sleep(Duration::from_millis(random.u64(500..3000))).await;
        let (fault, time) = (Fault::any(&mut random), Duration::from_millis(random.u64(100..2500)));
        let at = ledger.now() - begun;
        scene.suffer(fault, time).await;
        let whole = ledger.now();
        // Who was told of a gap has to have noticed it first.
        eventually_within(RETURN, "every gateway to be ready", async || {
            health
                .iter()
                .all(|health| health.changes().last().is_some_and(|now| now.is_ready()))
                .then_some(())
        })
        .await;
        let ready = ledger.now() - whole;
        ledger.all_subscribed(RETURN).await;
        let back = ledger.now() - whole;
        println!(
            "  at {:>6} ms, for {:>4} ms: {fault}; ready {} ms and everybody back {} ms later",
            at.as_millis(),
            time.as_millis(),
            ready.as_millis(),
            back.as_millis()
        );
        faults += 1;
    }
    let last = ledger.now();
    ledger.live_again(last, RETURN * 2).await;
    for publisher in publishers {
        publisher.stop().await;
    }
    let report = ledger.settle().await;
    println!("{faults} faults\n{report}");
    report.assert_sound();
    assert!(faults > 0 && report.recoveries > CLIENTS, "nobody noticed anything: {report}");
    assert!(scene.gateways.iter_mut().all(Gateway::is_running));
}
