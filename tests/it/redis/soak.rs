//! Three gateways, thousands of clients and a fault every few seconds, of a kind and at a time that a seed
//! decides: whatever comes together, the ledger balances. On one server, and on a Cluster.
//!
//! `GATEWAY_SOAK_SECONDS` lets it go on for longer, `GATEWAY_SOAK_SEED` lets other things happen.

mod on_cluster;
mod on_server;

use std::env;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use gateway_tests::ledger::{HealthWatch, Ledger, Publisher, Subscriber};
use gateway_tests::{Builder, Gateway, eventually_within};
use tokio::time::sleep;

const NODES: usize = 3;
const CLIENTS: usize = 3000;
const CHANNELS: usize = 200;
const CHANNELS_PER_CLIENT: usize = 2;
/// Of the publisher of each node.
const PACE: Duration = Duration::from_millis(15);

const SECONDS: u64 = 30;
const SEED: u64 = 20;
/// Everybody has to be back this long after what was broken is whole.
const RETURN: Duration = Duration::from_secs(5);
/// How long everybody may take in the beginning.
const START: Duration = Duration::from_secs(60);

/// Gateways on some Redis, and what can go wrong there.
trait Scene {
    type Fault: Display;

    /// To be changed by whatever goes wrong with themselves.
    fn gateways(&mut self) -> &mut [Gateway];

    /// One of the things that can go wrong.
    fn any(random: &mut Rng) -> Self::Fault;

    /// Breaks something for a time, and makes it whole.
    async fn suffer(&mut self, fault: &Self::Fault, time: Duration);
}

/// A gateway that is told so where Redis is.
fn gateway(redis: &str) -> Builder {
    Gateway::with(&format!(
        "client = {{ anonymous = true, history_publications_max = 10000 }}\n\
         limits.connections_per_address_max = {}\n\
         [redis]\n{redis}\n\
         [namespaces.news]\nhistory_size = 10000\nrecovery = true\nallow_subscribe = 'anyone'\n",
        CLIENTS * 2,
    ))
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_of_one_server_lose_nothing_silently() {
    soak(on_server::OnServer::open().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_of_a_cluster_lose_nothing_silently() {
    soak(on_cluster::OnCluster::open().await).await;
}

async fn soak<S: Scene>(mut scene: S) {
    let (seconds, seed) = (setting("GATEWAY_SOAK_SECONDS", SECONDS), setting("GATEWAY_SOAK_SEED", SEED));
    println!("seed {seed}: {NODES} gateways, {CLIENTS} clients, {CHANNELS} channels, {seconds} s");
    let mut random = Rng::with_seed(seed);
    let ledger = Ledger::open();
    let channels: Vec<Arc<str>> = (0..CHANNELS).map(|n| format!("news:{n}").into()).collect();
    let mut addresses: Vec<_> = scene.gateways().iter().map(Gateway::address).collect();
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
        scene.gateways().iter().map(|node| HealthWatch::start(&ledger, node.admin())).collect();
    let publishers: Vec<_> = (scene.gateways().iter())
        .map(|node| Publisher::start(&ledger, node.admin(), &channels, PACE))
        .collect();

    let begun = ledger.now();
    let mut faults = 0;
    while ledger.now() - begun < Duration::from_secs(seconds) {
        sleep(Duration::from_millis(random.u64(500..3000))).await;
        let (fault, time) = (S::any(&mut random), Duration::from_millis(random.u64(100..2500)));
        let at = ledger.now() - begun;
        scene.suffer(&fault, time).await;
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
    assert!(scene.gateways().iter_mut().all(Gateway::is_running));
}
