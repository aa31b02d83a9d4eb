//! Several gateways on one Redis know of each other, and notice who dies.

use std::time::{Duration, Instant};

use gateway_tests::{Data, Gateway, Redis, eventually_within};
use serde_json::{Value, json};
use tokio::time::sleep;

/// A death is noticed within this.
const NOTICED: Duration = Duration::from_secs(5);
/// How long a lease is believed.
const LEASE: Duration = Duration::from_secs(3);

fn config(redis: &Redis) -> String {
    format!("client.anonymous = true\n[redis]\nurl = '{}'\n", redis.url())
}

async fn nodes(redis: &Redis, count: usize) -> Vec<Gateway> {
    let nodes = Gateway::nodes(count, |_| Gateway::with(&config(redis))).await;
    for node in &nodes {
        knows(node, count, NOTICED).await;
    }
    nodes
}

async fn known(gateway: &Gateway) -> Vec<Value> {
    let answer = gateway.post("/api/nodes", &json!({})).await.json();
    answer["result"]["nodes"].as_array().expect("a list").clone()
}

async fn knows(gateway: &Gateway, count: usize, limit: Duration) {
    let what = format!("a gateway that knows of {count}");
    eventually_within(limit, &what, async || (known(gateway).await.len() == count).then_some(())).await;
}

#[tokio::test]
async fn gateways_know_each_other_and_notice_who_dies_and_who_leaves() {
    let redis = Redis::start().await;
    let mut nodes = nodes(&redis, 3).await;
    let here = known(&nodes[0]).await;
    let names: Vec<_> = here.iter().map(|node| node["name"].as_str().unwrap()).collect();
    for (index, node) in nodes.iter().enumerate() {
        let address = node.address().to_string();
        assert_eq!(names.iter().filter(|name| name.ends_with(&address)).count(), 1, "{names:?}");
        assert_eq!(here[0]["name"] == known(node).await[0]["name"], index == 0, "each names itself first");
    }
    assert_eq!(nodes[0].metrics().await.get("gateway_nodes"), 3.0);

    nodes[2].kill();
    let begun = Instant::now();
    for node in &nodes[..2] {
        knows(node, 2, NOTICED).await;
    }
    println!("a death was noticed by all after {:?}", begun.elapsed());
    let mut died = 0.0;
    for node in &nodes[..2] {
        let metrics = node.metrics().await;
        assert_eq!(metrics.get("gateway_nodes"), 2.0);
        died += metrics.get("gateway_nodes_died_total");
    }
    assert!(died >= 1.0, "who finds it dead first tells the others that it has gone");

    nodes[1].terminate();
    nodes[1].exit(NOTICED).await;
    knows(&nodes[0], 1, Duration::from_secs(1)).await;
    nodes[0].log().wait(&["another gateway has gone"]).await;
    assert!(nodes[0].metrics().await.get("gateway_nodes_died_total") <= died, "who leaves does not die");
}

#[tokio::test]
async fn while_redis_is_away_nobody_is_declared_dead() {
    let mut redis = Redis::with("").persistent().start().await;
    let nodes = nodes(&redis, 3).await;
    for fault in ["frozen", "killed", "emptied"] {
        match fault {
            "frozen" => {
                redis.freeze().await;
                sleep(LEASE + Duration::from_secs(1)).await;
                redis.thaw();
            }
            _ => {
                redis.kill();
                sleep(LEASE + Duration::from_secs(1)).await;
                redis.revive(if fault == "killed" { Data::Kept } else { Data::Lost }).await;
            }
        }
        // Longer than somebody would take to judge those who do not come back.
        let begun = Instant::now();
        while begun.elapsed() < LEASE + Duration::from_secs(2) {
            for node in &nodes {
                assert_eq!(known(node).await.len(), 3, "{fault}, {:?} later", begun.elapsed());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
    for node in &nodes {
        assert!(node.log().matching(&["another gateway is dead"]).is_empty());
    }
}
