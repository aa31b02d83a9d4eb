//! Gateways on a Redis Cluster, whose slots move and whose masters are replaced.

use std::fs;
use std::time::{Duration, Instant};

use gateway_tests::{Builder, Client, Cluster, Gateway, eventually_within, token};
use serde_json::{Value, json};

use super::inspect;
use crate::tools::readme;

/// The time in which clients are back when Redis is.
const BACK: Duration = Duration::from_secs(5);
const MASTERS: usize = 3;
const CHANNELS: usize = 30;

fn config(cluster: &Cluster) -> String {
    // One is enough to know the others.
    let named = cluster.address(1);
    format!(
        "
        client.anonymous = true
        [redis]
        cluster = ['redis://{named}']
        prefix = 'gw'
        [namespaces.news]
        history_size = 100
        recovery = true
        allow_subscribe = 'anyone'
        allow_publish = 'anyone'
        allow_history = 'anyone'
        [namespaces.live]
        allow_subscribe = 'anyone'
        allow_publish = 'anyone'
        "
    )
}

async fn ready(gateway: &Gateway) {
    eventually_within(BACK, "a gateway that is ready", async || {
        (gateway.get("/health/ready").await.status == 200).then_some(())
    })
    .await;
}

async fn start(builder: Builder) -> Gateway {
    let gateway = builder.start().await;
    ready(&gateway).await;
    gateway
}

async fn node(cluster: &Cluster) -> Gateway {
    start(Gateway::with(&config(cluster))).await
}

/// The slot of everything that belongs to a name.
async fn slot(cluster: &Cluster, name: &str) -> u16 {
    cluster.slot(&format!("{{{name}}}")).await
}

/// Moves the slot of a name to some other master, and returns which.
async fn reshard(cluster: &Cluster, name: &str) -> usize {
    let slot = slot(cluster, name).await;
    let to = (cluster.owner(slot).await + 1) % MASTERS;
    cluster.reshard(slot, to).await;
    to
}

#[tokio::test]
async fn what_is_published_at_one_gateway_reaches_subscribers_of_all_by_the_master_of_its_slot_alone() {
    let cluster = Cluster::start().await;
    let (a, b) = (node(&cluster).await, node(&cluster).await);
    let (mut here, mut there) = (Client::connect(&a).await, Client::connect(&b).await);
    for number in 0..CHANNELS {
        for channel in [format!("news:{number}"), format!("live:{number}")] {
            there.subscribe(&channel).await;
            here.publish(&channel, json!(channel)).await;
            assert_eq!(there.publication(&channel).await["data"], *channel);
        }
    }
    let mut topics = 0;
    for master in 0..MASTERS {
        let here = cluster.ask(master, &["PUBSUB", "SHARDCHANNELS", "gw:to:{*"]).await.list().len();
        assert!((1..2 * CHANNELS).contains(&here), "every master has some: {here}");
        topics += here;
        // What is published with PUBLISH goes to every server.
        assert!(cluster.ask(master, &["PUBSUB", "CHANNELS"]).await.list().is_empty());
        let clients = cluster.ask(master, &["CLIENT", "LIST", "TYPE", "NORMAL"]).await.text();
        let from_gateways = clients.lines().filter(|client| client.contains("resp=3")).count();
        // Two lanes, one for subscriptions and one that asks who has what, of each gateway.
        assert!(from_gateways <= 2 * 4, "connections do not grow with channels: {clients}");
    }
    assert_eq!(topics, 2 * CHANNELS, "each at one master");
}

#[tokio::test]
async fn users_are_reached_at_every_gateway_also_when_what_they_meet_by_has_moved() {
    let cluster = Cluster::start().await;
    let builder = || Gateway::with(&config(&cluster)).plugin("10-auth-jwt", "auth-jwt", &token::settings());
    let (a, b) = (start(builder()).await, start(builder()).await);
    let mut client = Client::connect_as(&b, "ann").await;
    let direct = async |gateway: &Gateway, number: u32| {
        gateway.post("/api/publish", &json!({ "channel": "#ann", "data": number })).await.ok();
    };
    direct(&a, 1).await;
    assert_eq!(client.direct().await, 1);
    let moved = reshard(&cluster, "nodes").await;
    eventually_within(BACK, "both at the new master", async || {
        let topic = ["PUBSUB", "SHARDNUMSUB", "gw:all:{nodes}"];
        (cluster.ask(moved, &topic).await.list()[1].number() == 2).then_some(())
    })
    .await;
    // A gateway that has connected again is counted twice until the server has missed its first connection.
    ready(&a).await;
    ready(&b).await;
    direct(&a, 2).await;
    assert_eq!(client.direct().await, 2);
    let nodes = a.post("/api/nodes", &json!({})).await.ok()["result"]["nodes"].clone();
    assert_eq!(nodes.as_array().unwrap().len(), 2, "{nodes}");
    a.post("/api/disconnect", &json!({ "user": "ann" })).await.ok();
    assert_eq!(client.closed().await.code, Some(3503));
}

#[tokio::test]
async fn a_channel_whose_slot_moves_goes_on_as_another_stream_and_its_subscribers_are_told() {
    let cluster = Cluster::start().await;
    let (a, b) = (node(&cluster).await, node(&cluster).await);
    let (mut here, mut there) = (Client::connect(&a).await, Client::connect(&b).await);
    for channel in ["news:1", "news:2", "live:1"] {
        there.subscribe(channel).await;
    }
    here.publish("news:1", json!("before")).await;
    assert_eq!(there.publication("news:1").await["data"], "before");
    let to = reshard(&cluster, "news:1").await;
    reshard(&cluster, "live:1").await;
    // It is told although nobody publishes.
    let told = there.push().await;
    assert_eq!((&told["channel"], &told["unsubscribe"]["code"]), (&json!("news:1"), &json!(2500)), "{told}");
    there.subscribe("news:1").await;
    here.publish("news:1", json!("after")).await;
    assert_eq!(there.publication("news:1").await["data"], "after");
    assert_eq!(cluster.ask(to, &["EXISTS", "gw:stream:{news:1}"]).await.number(), 1);
    eventually_within(BACK, "live delivery between the nodes", async || {
        here.publish("live:1", json!("moved")).await;
        there.heard("moved").await.then_some(())
    })
    .await;
    // Whose slot has not moved notices nothing.
    here.publish("news:2", json!("undisturbed")).await;
    assert_eq!(there.publication("news:2").await["data"], "undisturbed");
}

#[tokio::test]
async fn while_a_slot_is_on_its_way_publishing_waits_and_says_in_time_that_it_cannot() {
    let cluster = Cluster::start().await;
    let gateway = node(&cluster).await;
    let mut client = Client::connect(&gateway).await;
    client.subscribe("news:1").await;
    client.publish("news:1", json!(1)).await;
    assert_eq!(client.publication("news:1").await["data"], 1);
    let slot = slot(&cluster, "news:1").await;
    let to = (cluster.owner(slot).await + 1) % MASTERS;
    cluster.begin_move(slot, to).await;
    let begun = Instant::now();
    let refused = client.ask("publish", json!({ "channel": "news:1", "data": 2 })).await.unwrap_err();
    assert!(refused.temporary && refused.message.contains("nothing was published"), "{}", refused.message);
    assert!(begun.elapsed() < Duration::from_secs(3), "the wait is bounded");
    assert_eq!(gateway.get("/health/ready").await.status, 200, "it is nobody's fault");
    // What waits when the slot arrives is published there.
    let id = client.command("publish", json!({ "channel": "news:1", "data": 3 })).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.end_move(slot, to).await;
    client.reply(id, "publish").await.unwrap();
    let kept = client.ask("history", json!({ "channel": "news:1", "limit": 9 })).await.unwrap();
    let payloads: Vec<_> = kept["publications"].as_array().unwrap().iter().map(|one| &one["data"]).collect();
    assert_eq!(payloads, [3], "a new stream, without what was refused");
}

#[tokio::test]
async fn a_gateway_says_that_it_knows_no_server_of_the_cluster_and_finds_it_when_one_is_there() {
    let mut cluster = Cluster::start().await;
    let text = config(&cluster);
    cluster.servers()[1].freeze().await;
    let gateway = Gateway::start(&text).await;
    let reason = eventually_within(BACK, "the cause", async || {
        let health = gateway.get("/health/ready").await.json();
        let reason = health["reason"].as_str().unwrap_or_default().to_owned();
        reason.contains("no server of `redis.cluster` reports").then_some(reason)
    });
    reason.await;
    cluster.servers()[1].thaw();
    ready(&gateway).await;
}

#[tokio::test]
async fn a_server_that_is_no_cluster_is_named_as_that() {
    let redis = gateway_tests::Redis::start().await;
    let gateway = Gateway::start(&format!("redis.cluster = ['{}']", redis.url())).await;
    eventually_within(BACK, "the cause", async || {
        let health = gateway.get("/health/ready").await.json();
        let reason = health["reason"].as_str().unwrap_or_default();
        let named =
            reason.starts_with("redis cannot be reached") && reason.contains("cluster support disabled");
        named.then_some(())
    })
    .await;
}

#[tokio::test]
async fn inspect_looks_where_the_channel_lies() {
    let cluster = Cluster::start().await;
    let text = config(&cluster);
    let gateway = start(Gateway::with(&text)).await;
    let mut client = Client::connect(&gateway).await;
    for number in 0..3 {
        let channel = format!("news:{number}");
        client.subscribe(&channel).await;
        client.publish(&channel, json!(number)).await;
        let report = inspect::report(&text, &channel).await;
        let seen = |pointer: &str| report.pointer(pointer).cloned().unwrap_or(Value::Null);
        assert_eq!((seen("/publications/count"), seen("/listeners")), (json!(1), json!(1)), "{report}");
        assert_eq!(seen("/stream/goes_on"), true, "{report}");
    }
}

#[tokio::test]
async fn the_user_of_the_documentation_may_do_all_that_a_gateway_does() {
    let page = fs::read_to_string(readme::root().join("gateway/REDIS.md")).unwrap();
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER")).expect("there is one");
    let (_, rules) = line.split_once(">PASSWORD").unwrap();
    let rules = rules.replace("P:", "gw:");
    let user = format!("user gateway on >a-password {rules} +cluster|nodes");
    let cluster = Cluster::start_with(&user).await;
    let text = config(&cluster)
        .replace("prefix = 'gw'", "prefix = 'gw'\nusername = 'gateway'\npassword = 'env:REDIS_PASSWORD'");
    let builder = || Gateway::with(&text).environment("REDIS_PASSWORD", "a-password");
    let (a, b) = (start(builder()).await, start(builder()).await);
    let (mut here, mut there) = (Client::connect(&a).await, Client::connect(&b).await);
    for channel in ["news:1", "live:1"] {
        there.subscribe(channel).await;
        here.publish(channel, json!(1)).await;
        assert_eq!(there.publication(channel).await["data"], 1);
    }
    let history = here.ask("history", json!({ "channel": "news:1", "limit": 9 })).await.unwrap();
    assert_eq!(history["offset"], 1);
    for server in 0..MASTERS {
        // Whether a server takes snapshots is asked, and not known without another permission.
        let refused = cluster.ask(server, &["ACL", "LOG"]).await.list();
        let refused: Vec<_> =
            refused.iter().map(|one| format!("{one:?}")).filter(|one| !one.contains("config|get")).collect();
        assert!(refused.is_empty(), "{refused:?}");
    }
}
