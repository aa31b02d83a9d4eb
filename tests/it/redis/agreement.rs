//! Gateways on one Redis agree, or say that they do not: a rule that differs loses nothing silently, and
//! neither does a failover that somebody has asked for.

mod rolling;
mod versions;

use std::time::Duration;

use gateway_tests::{Client, Gateway, Proxy, Redis, Sentinels, eventually, eventually_within};
use serde_json::{Value, json};
use tokio::time::sleep;

const LIMIT: Duration = Duration::from_secs(20);
const RECOVERING: &str =
    "history_size = 100\nhistory_ttl = '1h'\nrecovery = true\nallow_subscribe = 'anyone'";
const FORGETTING: &str = "allow_subscribe = 'anyone'";

fn on(redis: &Redis, rules: &str) -> String {
    format!("client.anonymous = true\nredis.url = '{}'\n[namespaces.news]\n{rules}\n", redis.url())
}

async fn known(gateway: &Gateway) -> Vec<Value> {
    let answer = gateway.post("/api/nodes", &json!({})).await.ok();
    answer["result"]["nodes"].as_array().expect("a list").clone()
}

/// In what the other gateway differs, once it is known and says something with these words.
async fn differs(gateway: &Gateway, words: &str) -> Vec<String> {
    eventually_within(LIMIT, format!("a difference: {words}"), async || {
        let nodes = known(gateway).await;
        let all = nodes.get(1)?["differs"].as_array().expect("a list").clone();
        let all: Vec<_> = all.iter().map(|one| one.as_str().expect("a sentence").to_owned()).collect();
        all.iter().any(|one| one.contains(words)).then_some(all)
    })
    .await
}

async fn publish(gateway: &Gateway, channel: &str, data: Value) -> Value {
    gateway.post("/api/publish", &json!({ "channel": channel, "data": data })).await.ok()["result"].clone()
}

#[tokio::test]
async fn what_one_gateway_keeps_the_other_keeps_too_whoever_came_first() {
    for keeps_first in [true, false] {
        let redis = Redis::start().await;
        let rules = if keeps_first { [RECOVERING, FORGETTING] } else { [FORGETTING, RECOVERING] };
        let first = Gateway::start(&on(&redis, rules[0])).await;
        let second = Gateway::start(&on(&redis, rules[1])).await;
        let (a, b) = if keeps_first { (&first, &second) } else { (&second, &first) };
        let mut client = Client::connect(a).await;
        let subscribed = client.subscribe("news:1").await;
        let published = publish(b, "news:1", json!(1)).await;
        assert_eq!(published["offset"], 1, "it is kept: {published}");
        assert_eq!(client.publication("news:1").await["offset"], 1);
        client.close().await;
        publish(b, "news:1", json!(2)).await;
        let mut client = Client::connect(a).await;
        let back = client
            .ask(
                "subscribe",
                json!({ "channel": "news:1", "recover": true, "epoch": subscribed["epoch"], "offset": 1 }),
            )
            .await
            .unwrap();
        assert_eq!(
            (&back["recovered"], back["publications"].as_array().map(Vec::len)),
            (&json!(true), Some(1)),
            "{back}"
        );
        for gateway in [a, b] {
            differs(gateway, "namespaces.news.history_size: ").await;
            assert_eq!(gateway.metrics().await.get("gateway_nodes_differing{subject=\"rules\"}"), 1.0);
            gateway.log().wait(&["another gateway differs"]).await;
        }
    }
}

#[tokio::test]
async fn what_another_gateway_keeps_is_not_published_by_one_that_is_alone() {
    let redis = Redis::start().await;
    let network = Proxy::to(redis.address()).await;
    let _keeping = Gateway::start(&on(&redis, RECOVERING)).await;
    let config = format!(
        "client.anonymous = true\nredis.url = 'redis://{}'\n[namespaces.news]\n{FORGETTING}\n",
        network.address()
    );
    let alone = Gateway::start(&config).await;
    assert_eq!(publish(&alone, "news:1", json!(1)).await["offset"], 1);
    network.cut();
    eventually_within(LIMIT, "a gateway that says that it is alone", async || {
        (alone.get("/health/ready").await.status == 503).then_some(())
    })
    .await;
    let refused = alone.post("/api/publish", &json!({ "channel": "news:1", "data": 2 })).await.json();
    let words = refused["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(refused["error"]["code"] == 100 && words.contains("nothing was published"), "{refused}");
    let plain = alone.post("/api/publish", &json!({ "channel": "plain", "data": 3 })).await.json();
    assert!(plain["error"].is_null(), "nobody keeps it: {plain}");
    network.heal();
    eventually_within(LIMIT, "a publication that is kept again", async || {
        let again = alone.post("/api/publish", &json!({ "channel": "news:1", "data": 4 })).await.json();
        (again["result"]["offset"].as_u64() >= Some(2)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_smaller_rule_does_not_cut_what_the_larger_one_keeps() {
    let redis = Redis::start().await;
    let a =
        Gateway::start(&on(&redis, "history_size = 100\nhistory_ttl = '1h'\nallow_history = 'anyone'")).await;
    let b =
        Gateway::start(&on(&redis, "history_size = 3\nhistory_ttl = '1s'\nallow_history = 'anyone'")).await;
    for number in 0..10 {
        publish(if number % 2 == 0 { &a } else { &b }, "news:1", json!(number)).await;
    }
    sleep(Duration::from_millis(1500)).await;
    publish(&b, "news:1", json!(10)).await;
    for gateway in [&b, &a] {
        let history = gateway.post("/api/history", &json!({ "channel": "news:1", "limit": 100 })).await.ok();
        let kept = history["result"]["publications"].as_array().expect("a list").len();
        assert_eq!(kept, 11, "{history}");
    }
}

#[tokio::test]
async fn a_history_that_was_given_up_for_a_while_is_not_taken_for_whole() {
    let redis = Redis::start().await;
    let mut a = Gateway::start(&on(&redis, RECOVERING)).await;
    let b = Gateway::start(&on(&redis, FORGETTING)).await;
    let mut client = Client::connect(&a).await;
    let position = client.subscribe("news:1").await;
    let offset = publish(&b, "news:1", json!(1)).await["offset"].clone();
    client.publication("news:1").await;
    client.close().await;
    a.terminate();
    a.exit(LIMIT).await;
    eventually_within(LIMIT, "a publication that is kept nowhere", async || {
        publish(&b, "news:1", json!(2)).await.get("offset").is_none_or(|offset| *offset == 0).then_some(())
    })
    .await;
    let c = Gateway::start(&on(&redis, RECOVERING)).await;
    let mut client = Client::connect(&c).await;
    let recover =
        json!({ "channel": "news:1", "recover": true, "epoch": position["epoch"], "offset": offset });
    let back = client.ask("subscribe", recover).await.unwrap();
    assert_ne!(back["recovered"], true, "something was published meanwhile: {back}");
    assert_eq!(publish(&b, "news:1", json!(3)).await["offset"], 1, "and what comes now is kept again");
}

#[tokio::test]
async fn a_part_of_who_is_there_is_not_passed_off_as_all() {
    let redis = Redis::start().await;
    let config = |presence| format!("{}\n{presence}\nallow_presence = 'nobody'", on(&redis, FORGETTING));
    let a = Gateway::start(&config("presence = true")).await;
    let count = async || a.post("/api/presence_stats", &json!({ "channel": "news:1" })).await.json();
    assert_eq!(count().await["error"], Value::Null);
    let mut b = Gateway::start(&config("")).await;
    let mut client = Client::connect(&b).await;
    client.subscribe("news:1").await;
    differs(&a, "namespaces.news.presence: false there, true here").await;
    for method in ["presence", "presence_stats"] {
        let answer = a.post(&format!("/api/{method}"), &json!({ "channel": "news:1" })).await.json();
        let words = answer["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(answer["error"]["code"] == 100 && words.contains("only a part"), "{answer}");
    }
    b.terminate();
    b.exit(LIMIT).await;
    eventually("presence that is whole again", async || count().await["error"].is_null().then_some(())).await;
}

#[tokio::test]
async fn a_message_that_one_gateway_takes_reaches_the_subscribers_of_one_with_a_lower_limit() {
    let redis = Redis::start().await;
    let large = format!("limits.message_bytes_max = '400KiB'\n{}", on(&redis, FORGETTING));
    let [a, b] = [Gateway::start(&large).await, Gateway::start(&on(&redis, FORGETTING)).await];
    differs(&b, "limits.message_bytes_max: 409600 there, 65536 here").await;
    let mut client = Client::connect(&b).await;
    client.subscribe("news:1").await;
    publish(&a, "news:1", json!("x".repeat(300_000))).await;
    let published = client.publication("news:1").await;
    assert_eq!(published["data"].as_str().map(str::len), Some(300_000));
}

#[tokio::test]
async fn another_chain_of_plugins_at_another_gateway_is_shown() {
    let redis = Redis::start().await;
    let a = Gateway::with(&on(&redis, FORGETTING)).plugin("50-echo", "echo", "").start().await;
    let b = Gateway::start(&on(&redis, FORGETTING)).await;
    differs(&b, "plugin echo: ").await;
    assert_eq!(a.metrics().await.get("gateway_nodes_differing{subject=\"plugins\"}"), 1.0);
    b.swap(|folder| folder.plugin("50-echo", &gateway_tests::wasm("echo"), "")).await;
    eventually_within(LIMIT, "gateways that do not differ", async || {
        (known(&a).await[1]["differs"] == json!([])).then_some(())
    })
    .await;
    b.log().wait(&["another gateway no longer differs"]).await;
}

#[tokio::test]
async fn a_gateway_that_divides_channels_otherwise_serves_none() {
    let servers = [Redis::start().await, Redis::start().await];
    let config = |hosts: [&str; 2]| {
        let urls: Vec<_> = hosts
            .iter()
            .zip(&servers)
            .map(|(host, server)| format!("'redis://{host}:{}'", server.address().port()))
            .collect();
        format!(
            "client.anonymous = true\n[redis]\nurls = [{}]\n[namespaces.news]\n{FORGETTING}",
            urls.join(", ")
        )
    };
    let mut a = Gateway::start(&config(["127.0.0.1", "127.0.0.1"])).await;
    let b = Gateway::start(&config(["localhost", "127.0.0.1"])).await;
    let health = async |gateway: &Gateway| {
        let health = gateway.get("/health/ready").await;
        (health.status, health.text())
    };
    eventually_within(LIMIT, "a gateway that says why it does not serve", async || {
        let (status, text) = health(&b).await;
        let named = text.contains("localhost:") && text.contains("127.0.0.1:") && text.contains("redis.urls");
        (status == 503 && named).then_some(())
    })
    .await;
    // It leaves one server after the other.
    let left: Vec<_> = ["localhost", "127.0.0.1"]
        .iter()
        .zip(&servers)
        .map(|(host, server)| {
            format!("{host}:{}: other gateways use redis otherwise", server.address().port())
        })
        .collect();
    eventually_within(LIMIT, "a gateway that has left both servers", async || {
        let lines = b.log().matching(&["backplane degraded"]);
        left.iter().all(|text| lines.iter().any(|line| line.text.contains(text))).then_some(())
    })
    .await;
    assert_eq!(b.metrics().await.get("gateway_backplane_degraded{cause=\"differs\"}"), 1.0);
    let mut client = Client::connect(&b).await;
    for number in 0..8 {
        let refused =
            client.ask("subscribe", json!({ "channel": format!("news:{number}") })).await.unwrap_err();
        assert_eq!(refused.code, 100, "{refused:?}");
        let refused =
            b.post("/api/publish", &json!({ "channel": format!("news:{number}"), "data": 1 })).await.json();
        assert_eq!(refused["error"]["code"], 100, "{refused}");
    }
    assert_eq!(health(&a).await.0, 200, "who was there first goes on");
    a.terminate();
    a.exit(LIMIT).await;
    eventually_within(LIMIT, "a gateway that serves when the other has gone", async || {
        (health(&b).await.0 == 200).then_some(())
    })
    .await;
    client.subscribe("news:1").await;
}

#[tokio::test]
async fn how_long_another_gateway_has_run_is_what_it_says_itself() {
    let redis = Redis::start().await;
    let a = Gateway::start(&on(&redis, FORGETTING)).await;
    // It began in the year 2000 or tomorrow, by a clock that was wrong.
    for started in [946_684_800_000_u64, 4_102_444_800_000] {
        let name = format!("{started:016x}");
        let lease = |beat: u32| {
            json!({ "beat": beat, "started": started, "uptime": 42_000, "version": "0.1.0", "name": "skewed" }).to_string()
        };
        redis.ask(&["HSET", "gateway:leases:{nodes}", &name, &lease(1)]).await;
        let node = eventually("the other gateway", async || {
            known(&a).await.into_iter().find(|node| node["uid"] == *name)
        })
        .await;
        assert!((42..46).contains(&node["uptime"].as_u64().unwrap()), "{node}");
    }
}

#[tokio::test]
async fn a_key_that_a_replaced_server_has_taken_along_is_not_published_twice_where_it_was_used_and_said_to_be_unsure_elsewhere()
 {
    let group = Sentinels::start().await;
    let addresses: Vec<_> = group.addresses().iter().map(|at| format!("'{at}'")).collect();
    let config = format!(
        "client.anonymous = true\n[redis]\nsentinels = [{}]\nsentinel_master = '{}'\n[namespaces.news]\n{RECOVERING}",
        addresses.join(", "),
        group.name()
    );
    let [a, b] = [Gateway::start(&config).await, Gateway::start(&config).await];
    let publish = async |gateway: &Gateway, key: &str| {
        let body = json!({ "channel": "news:1", "data": key, "idempotency_key": key });
        eventually_within(LIMIT, "an answer", async || {
            let answer = gateway.post("/api/publish", &body).await.json();
            answer.get("result").cloned()
        })
        .await
    };
    let kept = publish(&a, "kept").await;
    assert_eq!(kept.get("repeat"), None, "{kept}");
    let lost = publish(&a, "lost").await;
    // As if the replicas had not received it: before the failover nothing is lost, so the key is taken out by
    // hand.
    let mut group = group;
    let master = group.master().await;
    group.servers()[master].ask(&["DEL", "gateway:once:{news:1}:lost"]).await;
    group.servers()[master].ask(&["WAIT", "2", "2000"]).await;
    group.failover().await;
    for gateway in [&a, &b] {
        eventually_within(LIMIT, "a gateway at the new master", async || {
            (gateway.metrics().await.get("gateway_backplane_links_total") >= 2.0
                && gateway.get("/health/ready").await.status == 200)
                .then_some(())
        })
        .await;
    }
    let again = publish(&a, "lost").await;
    assert_eq!(
        (&again["repeat"], &again["offset"], &again["epoch"]),
        (&json!("lost"), &lost["offset"], &lost["epoch"])
    );
    assert_eq!(publish(&b, "kept").await, kept, "the key came along with its publication");
    let unsure = publish(&b, "lost").await;
    assert_eq!((&unsure["repeat"], &unsure["offset"]), (&json!("unsure"), &json!(1)), "{unsure}");
}
