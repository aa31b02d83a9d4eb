//! Subscriptions to patterns at several gateways: by the feed of the namespace.

use std::time::Duration;

use gateway_tests::{Client, Cluster, Data, Gateway, Redis, eventually_within};
use serde_json::{Value, json};

/// The time in which subscriptions are back when Redis is.
const BACK: Duration = Duration::from_secs(5);
const COUNT: u64 = 50;

fn config(redis: &str) -> String {
    format!(
        "
        client.anonymous = true
        [redis]
        {redis}
        prefix = 'gw'
        [namespaces.kept]
        history_size = 100
        recovery = true
        wildcards = true
        allow_subscribe = 'anyone'
        allow_publish = 'anyone'
        [namespaces.live]
        wildcards = true
        allow_subscribe = 'anyone'
        allow_publish = 'anyone'
        [namespaces.plain]
        allow_subscribe = 'anyone'
        allow_publish = 'anyone'
        "
    )
}

async fn node(redis: &str) -> Gateway {
    let gateway = Gateway::start(&config(redis)).await;
    eventually_within(BACK, "a gateway that is ready", async || {
        (gateway.get("/health/ready").await.json()["status"] == "ready").then_some(())
    })
    .await;
    gateway
}

/// Publishes numbers to channels, and expects each once at the subscribers of a pattern and of the channels:
/// those of a channel in order.
async fn exchange(publisher: &mut Client, subscribers: &mut [Client], namespace: &str) {
    let pattern = format!("{namespace}:*.a");
    let channels = [1, 2, 3].map(|number| format!("{namespace}:{number}.a"));
    for client in &mut *subscribers {
        client.subscribe(&pattern).await;
        client.subscribe(&channels[0]).await;
    }
    for number in 0..COUNT {
        for channel in &channels {
            publisher.publish(channel, json!(number)).await;
        }
        publisher.publish(&format!("{namespace}:{number}.b"), json!(number)).await;
    }
    for client in subscribers {
        let mut heard: Vec<(Value, Value)> = Vec::new();
        for _ in 0..4 * COUNT {
            let push = client.push().await;
            let told = &push["pub"];
            if push["channel"] == *pattern {
                heard.push((told["channel"].clone(), told["data"].clone()));
            } else {
                assert_eq!(
                    (&push["channel"], &told["channel"]),
                    (&json!(channels[0]), &Value::Null),
                    "{push}"
                );
            }
        }
        for channel in &channels {
            let of = heard.iter().filter(|(from, _)| from == channel).map(|(_, data)| data.as_u64().unwrap());
            assert_eq!(of.collect::<Vec<_>>(), (0..COUNT).collect::<Vec<_>>(), "{channel}");
        }
    }
}

#[tokio::test]
async fn a_pattern_gets_what_is_published_at_any_gateway_once_and_in_order() {
    let redis = Redis::start().await;
    let url = format!("url = '{}'", redis.url());
    let (a, b) = (node(&url).await, node(&url).await);
    for namespace in ["kept", "live"] {
        let mut subscribers = [Client::connect(&a).await, Client::connect(&b).await];
        let mut publisher = Client::connect(&a).await;
        exchange(&mut publisher, &mut subscribers, namespace).await;
    }
    let topics = redis.ask(&["PUBSUB", "CHANNELS", "gw:to:{*%2A%2A}"]).await.list().len();
    assert!(topics <= 2, "one for each namespace at most: {topics}");
}

#[tokio::test]
async fn patterns_go_on_without_redis_and_when_it_is_back() {
    let mut redis = Redis::start().await;
    let url = format!("url = '{}'", redis.url());
    let (a, b) = (node(&url).await, node(&url).await);
    let (mut here, mut there) = (Client::connect(&a).await, Client::connect(&b).await);
    for client in [&mut here, &mut there] {
        client.subscribe("live:*").await;
    }
    let mut publisher = Client::connect(&a).await;
    redis.kill();
    eventually_within(BACK, "a gateway that is alone", async || {
        (a.get("/health/ready").await.json()["status"] == "degraded").then_some(())
    })
    .await;
    publisher.publish("live:1", json!("alone")).await;
    let told = here.publication("live:*").await;
    assert_eq!((&told["data"], &told["channel"]), (&json!("alone"), &json!("live:1")));
    redis.revive(Data::Lost).await;
    for gateway in [&a, &b] {
        eventually_within(BACK, "a gateway that is ready", async || {
            (gateway.get("/health/ready").await.json()["status"] == "ready").then_some(())
        })
        .await;
    }
    // The subscription in Redis comes back by itself, a moment after the connection.
    eventually_within(BACK, "both at the feed", async || {
        let asked = redis.ask(&["PUBSUB", "NUMSUB", "gw:to:{live:%2A%2A}"]).await;
        (asked.list()[1].number() == 2).then_some(())
    })
    .await;
    publisher.publish("live:2", json!("back")).await;
    for client in [&mut here, &mut there] {
        let told = client.publication("live:*").await;
        assert_eq!((&told["data"], &told["channel"]), (&json!("back"), &json!("live:2")));
    }
}

#[tokio::test]
async fn in_a_cluster_a_pattern_gets_what_any_master_publishes() {
    let cluster = Cluster::start().await;
    let named = format!("cluster = ['redis://{}']", cluster.address(1));
    let (a, b) = (node(&named).await, node(&named).await);
    for namespace in ["kept", "live"] {
        let mut subscribers = [Client::connect(&a).await, Client::connect(&b).await];
        let mut publisher = Client::connect(&b).await;
        exchange(&mut publisher, &mut subscribers, namespace).await;
    }
    // The feed moves to another master and goes on.
    let slot = cluster.slot("{live:%2A%2A}").await;
    let to = (cluster.owner(slot).await + 1) % 3;
    let mut client = Client::connect(&a).await;
    client.subscribe("live:*").await;
    cluster.reshard(slot, to).await;
    eventually_within(BACK, "the feed at its new master", async || {
        let asked = cluster.ask(to, &["PUBSUB", "NUMSUB", "gw:to:{live:%2A%2A}"]).await;
        (asked.list()[1].number() >= 1).then_some(())
    })
    .await;
    // The gateway has the confirmation, too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut publisher = Client::connect(&b).await;
    for number in 0..5 {
        publisher.publish(&format!("live:{number}"), json!(number)).await;
    }
    for number in 0..5 {
        assert_eq!(client.publication("live:*").await["data"], number, "each once");
    }
}
