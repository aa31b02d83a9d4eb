//! One question to all gateways: the answer is what they have together, in time, and says who is missing in
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gateway_tests::{Client, Gateway, Redis, eventually, token};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Nobody waits for longer for a gateway that does not answer, and nobody much longer.
const PATIENCE: Duration = Duration::from_secs(1);
const IN_TIME: Duration = Duration::from_millis(1900);

fn config(redis: &str) -> String {
    format!(
        "{redis}\n[namespaces.room]\nallow_subscribe = 'anyone'\n[namespaces.hall]\nallow_subscribe = 'anyone'"
    )
}

async fn nodes(redis: &Redis) -> Vec<Gateway> {
    let config = config(&format!("redis.url = '{}'", redis.url()));
    let nodes =
        Gateway::nodes(3, |_| Gateway::with(&config).plugin("10-auth-jwt", "auth-jwt", &token::settings()))
            .await;
    for node in &nodes {
        eventually("gateways that know each other", async || {
            (node.metrics().await.get("gateway_nodes") == 3.0).then_some(())
        })
        .await;
    }
    nodes
}

async fn ask(gateway: &Gateway, method: &str, body: Value) -> Value {
    let mut answer = gateway.post(&format!("/api/{method}"), &body).await.json();
    assert!(answer["error"].is_null(), "{answer}");
    answer["result"].take()
}

async fn in_channels(gateway: &Gateway, user: &str, channels: &[&str]) -> Client {
    let mut client = Client::connect_as(gateway, user).await;
    for channel in channels {
        client.subscribe(channel).await;
    }
    client
}

fn uids(nodes: &Value) -> BTreeSet<String> {
    nodes.as_array().expect("a list").iter().map(|node| node["uid"].as_str().unwrap().to_owned()).collect()
}

/// Subscriptions by channel.
fn channels(answer: &Value) -> BTreeMap<String, u64> {
    let channels = answer["channels"].as_object().expect("channels").iter();
    channels.map(|(name, channel)| (name.clone(), channel["num_clients"].as_u64().unwrap())).collect()
}

fn counts(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test]
async fn all_gateways_answer_as_one() {
    let redis = Redis::start().await;
    let nodes = nodes(&redis).await;
    let a = in_channels(&nodes[0], "ann", &["room:1", "room:2"]).await;
    let b = in_channels(&nodes[1], "ann", &["room:1"]).await;
    let c = in_channels(&nodes[1], "bob", &["room:1", "hall:1"]).await;
    let _anonymous = in_channels(&nodes[2], "eve", &["room:3"]).await;

    let mut uid = Vec::new();
    for node in &nodes {
        let known = ask(node, "nodes", json!({})).await;
        uid.push(known["nodes"][0]["uid"].as_str().unwrap().to_owned());
    }
    let everybody = uid.iter().cloned().collect::<BTreeSet<_>>();
    for node in &nodes {
        let begun = Instant::now();
        let info = ask(node, "info", json!({})).await;
        assert_eq!((uids(&info["nodes"]), &info["unanswered"]), (everybody.clone(), &json!([])));
        let of = |index: usize, field: &str| {
            let nodes = info["nodes"].as_array().unwrap().iter();
            nodes.filter(|node| node["uid"] == *uid[index]).map(|node| node[field].as_u64().unwrap()).sum()
        };
        let clients: [u64; 3] = [of(0, "num_clients"), of(1, "num_clients"), of(2, "num_clients")];
        assert_eq!(clients, [1, 2, 1]);
        assert_eq!([of(0, "num_users"), of(1, "num_users"), of(1, "num_subs")], [1, 2, 3]);

        let all = ask(node, "channels", json!({})).await;
        let expected = counts(&[("hall:1", 1), ("room:1", 3), ("room:2", 1), ("room:3", 1)]);
        assert_eq!(
            (channels(&all), uids(&all["nodes"]), &all["next"]),
            (expected, everybody.clone(), &Value::Null)
        );
        let some = ask(node, "channels", json!({ "pattern": "room:*", "limit": 2 })).await;
        assert_eq!(
            (channels(&some), &some["next"]),
            (counts(&[("room:1", 3), ("room:2", 1)]), &json!("room:2"))
        );
        let rest =
            ask(node, "channels", json!({ "pattern": "room:*", "limit": 2, "cursor": "room:2" })).await;
        assert_eq!((channels(&rest), &rest["next"]), (counts(&[("room:3", 1)]), &Value::Null));

        let of_ann = ask(node, "connections", json!({ "user": "ann" })).await;
        let connections = of_ann["connections"].as_object().unwrap();
        assert_eq!(connections.keys().collect::<BTreeSet<_>>(), BTreeSet::from([&a.id, &b.id]));
        assert_eq!(
            (&connections[&a.id]["node"], &connections[&b.id]["node"], &connections[&b.id]["protocol"]),
            (&json!(uid[0]), &json!(uid[1]), &json!("centrifuge-json"))
        );
        assert_eq!(ask(node, "connections", json!({ "user": "nobody" })).await["connections"], json!({}));
        assert!(begun.elapsed() < PATIENCE * 6, "nobody waits where everybody answers");
    }
    drop(c);
    let refused = nodes[0].post("/api/channels", &json!({ "limit": 10_001 })).await.json();
    assert_eq!(refused["error"]["code"], 107);
}

#[tokio::test]
async fn who_does_not_answer_is_named_and_holds_nobody_up() {
    let redis = Redis::start().await;
    let nodes = nodes(&redis).await;
    let _here = in_channels(&nodes[0], "ann", &["room:1"]).await;
    let _there = in_channels(&nodes[1], "ann", &["room:1"]).await;
    let _frozen = in_channels(&nodes[2], "ann", &["room:1"]).await;
    let uid = ask(&nodes[2], "nodes", json!({})).await["nodes"][0]["uid"].clone();

    nodes[2].signal(Signal::STOP);
    let begun = Instant::now();
    let answers =
        futures_util::future::join(ask(&nodes[0], "channels", json!({})), ask(&nodes[0], "info", json!({})));
    let (all, info) = answers.await;
    let waited = begun.elapsed();
    println!("answered without the frozen one after {waited:?}");
    assert_eq!(channels(&all), counts(&[("room:1", 2)]));
    assert_eq!((all["nodes"].as_array().unwrap().len(), info["nodes"].as_array().unwrap().len()), (2, 2));
    for answer in [&all, &info] {
        assert_eq!(uids(&answer["unanswered"]), BTreeSet::from([uid.as_str().unwrap().to_owned()]));
        assert!(answer["unanswered"][0]["name"].as_str().unwrap().contains("127.0.0.1"));
    }
    assert!(waited >= PATIENCE && waited < IN_TIME, "{waited:?}");

    // Its answers to the old questions come now, and belong to nobody.
    nodes[2].signal(Signal::CONT);
    eventually("an answer of all", async || {
        let all = ask(&nodes[0], "channels", json!({})).await;
        assert!(channels(&all)["room:1"] <= 3, "nobody counts twice: {all}");
        (channels(&all) == counts(&[("room:1", 3)]) && all["unanswered"] == json!([])).then_some(())
    })
    .await;
    for node in &nodes {
        assert_eq!(node.metrics().await.get("gateway_backplane_malformed_total"), 0.0);
    }
}

#[tokio::test]
async fn without_redis_others_are_named_and_a_gateway_alone_has_none() {
    let alone =
        Gateway::with(&config("")).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    let _client = in_channels(&alone, "ann", &["room:1"]).await;
    let all = ask(&alone, "channels", json!({})).await;
    assert_eq!((channels(&all), &all["unanswered"]), (counts(&[("room:1", 1)]), &json!([])));
    assert_eq!(ask(&alone, "info", json!({})).await["nodes"][0]["num_users"], 1);

    let mut redis = Redis::start().await;
    let nodes = nodes(&redis).await;
    let _client = in_channels(&nodes[0], "ann", &["room:1"]).await;
    redis.kill();
    eventually("a gateway that knows that Redis is away", async || {
        (nodes[0].get("/health/ready").await.status == 503).then_some(())
    })
    .await;
    let begun = Instant::now();
    let all = ask(&nodes[0], "channels", json!({})).await;
    assert!(begun.elapsed() < PATIENCE, "there is nobody to wait for");
    assert_eq!(channels(&all), counts(&[("room:1", 1)]));
    assert_eq!((uids(&all["nodes"]).len(), uids(&all["unanswered"]).len()), (1, 2));
}
