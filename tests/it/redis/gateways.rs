//! Several gateways on one Redis are one gateway, also when Redis goes and comes.

use std::fs;
use std::time::{Duration, Instant};

use gateway_tests::{Client, Data, Gateway, Proxy, Redis, RedisReply, eventually, eventually_within, token};
use serde_json::{Value, json};

use crate::tools::readme;

/// The time in which health must tell the truth.
const NOTICED: Duration = Duration::from_secs(2);
/// The time in which clients are back when Redis is.
const BACK: Duration = Duration::from_secs(5);

fn config(redis: &str) -> String {
    format!(
        "
        client.anonymous = true
        [redis]
        url = '{redis}'
        prefix = 'gw'
        [namespaces.news]
        history_size = 100
        recovery = true
        allow_subscribe = 'anyone'
        allow_publish = 'anyone'
        allow_history = 'anyone'
        [namespaces.room]
        history_size = 100
        recovery = true
        allow_subscribe = 'anyone'
        allow_publish = 'subscribers'
        allow_history = 'anyone'
        [namespaces.live]
        join_leave = true
        allow_subscribe = 'anyone'
        allow_publish = 'anyone'
        "
    )
}

async fn node(redis: &str) -> Gateway {
    let gateway = Gateway::start(&config(redis)).await;
    healthy(&gateway, BACK).await;
    gateway
}

async fn health(gateway: &Gateway) -> Value {
    gateway.get("/health/ready").await.json()
}

async fn healthy(gateway: &Gateway, limit: Duration) {
    eventually_within(limit, "a healthy gateway", async || {
        (health(gateway).await["status"] == "ready").then_some(())
    })
    .await;
}

async fn degraded(gateway: &Gateway, limit: Duration) -> String {
    eventually_within(limit, "a degraded gateway", async || {
        let health = health(gateway).await;
        (health["status"] == "degraded").then(|| health["reason"].as_str().unwrap().to_owned())
    })
    .await
}

fn payloads(subscribed: &Value) -> Vec<u64> {
    let publications = subscribed["publications"].as_array().cloned().unwrap_or_default();
    publications.iter().map(|publication| publication["data"].as_u64().unwrap()).collect()
}

fn recover(channel: &str, offset: u64, epoch: &Value) -> Value {
    json!({ "channel": channel, "recover": true, "offset": offset, "epoch": epoch })
}

#[tokio::test]
async fn what_is_published_at_one_gateway_reaches_subscribers_of_all() {
    let redis = Redis::start().await;
    let (a, b) = (node(&redis.url()).await, node(&redis.url()).await);
    for channel in ["news:1", "live:1"] {
        let mut here = Client::connect(&a).await;
        let mut there = Client::connect(&b).await;
        here.subscribe(channel).await;
        there.subscribe(channel).await;
        for number in 0..50 {
            here.publish(channel, json!(number)).await;
        }
        for client in [&mut here, &mut there] {
            for number in 0..50 {
                assert_eq!(client.publication(channel).await["data"], number, "{channel}");
            }
        }
    }
}

#[tokio::test]
async fn the_settings_in_the_readme_make_gateways_one() {
    let redis = Redis::start().await;
    let readme = fs::read_to_string(readme::root().join("README.md")).unwrap();
    let [settings] =
        readme::blocks(&readme, "toml").try_into().expect("the README has one block of settings");
    assert!(settings.contains("127.0.0.1:6379"), "{settings}");
    let settings = settings.replace("127.0.0.1:6379", &redis.address().to_string());
    let open = "client.anonymous = true\n\
                namespaces.news = { allow_subscribe = 'anyone', allow_publish = 'anyone' }\n";
    let nodes = Gateway::nodes(2, |_| Gateway::with(&format!("{open}{settings}"))).await;
    let mut reader = Client::connect(&nodes[0]).await;
    reader.subscribe("news:1").await;
    let mut writer = Client::connect(&nodes[1]).await;
    writer.publish("news:1", json!({"n": 1})).await;
    assert_eq!(reader.publication("news:1").await["data"], json!({"n": 1}));
}

#[tokio::test]
async fn commands_of_one_message_keep_their_order() {
    let redis = Redis::start().await;
    let gateway = node(&redis.url()).await;
    let mut client = Client::connect(&gateway).await;
    // None of them waits for an answer to the one before: publishing is permitted to nobody but subscribers.
    let mut ids = vec![(client.command("subscribe", json!({ "channel": "room:1" })).await, "subscribe")];
    for number in 1..=50 {
        let publish = json!({ "channel": "room:1", "data": number });
        ids.push((client.command("publish", publish).await, "publish"));
    }
    for (id, command) in ids {
        client.reply(id, command).await.unwrap();
    }
    let history = client.ask("history", json!({ "channel": "room:1", "limit": 99 })).await.unwrap();
    assert_eq!(payloads(&history), (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_recovers_at_another_gateway() {
    let redis = Redis::start().await;
    let (a, b) = (node(&redis.url()).await, node(&redis.url()).await);
    let mut client = Client::connect(&a).await;
    let epoch = client.subscribe("news:1").await["epoch"].clone();
    client.close().await;
    let mut publisher = Client::connect(&a).await;
    for number in 1..=5 {
        publisher.publish("news:1", json!(number)).await;
    }
    let mut client = Client::connect(&b).await;
    let subscribed = client.ask("subscribe", recover("news:1", 2, &epoch)).await.unwrap();
    assert_eq!((&subscribed["recovered"], payloads(&subscribed)), (&json!(true), vec![3, 4, 5]));
    publisher.publish("news:1", json!(6)).await;
    assert_eq!(client.publication("news:1").await["offset"], 6);
    let history =
        client.ask("history", json!({ "channel": "news:1", "limit": 2, "reverse": true })).await.unwrap();
    assert_eq!(payloads(&history), [6, 5]);
}

#[tokio::test]
async fn users_are_reached_at_every_gateway() {
    let redis = Redis::start().await;
    let start = async || {
        let text = config(&redis.url());
        let gateway =
            Gateway::with(&text).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
        healthy(&gateway, BACK).await;
        gateway
    };
    let (a, b) = (start().await, start().await);
    let mut client = Client::connect_as(&b, "ann").await;
    a.post("/api/publish", &json!({ "channel": "#ann", "data": { "n": 1 } })).await.ok();
    assert_eq!(client.direct().await, json!({ "n": 1 }));
    let (mut near, mut far) = (Client::connect_as(&a, "ann").await, Client::connect_as(&b, "ann").await);
    let except = json!({ "user": "ann", "whitelist": [near.id, far.id] });
    a.post("/api/disconnect", &except).await.ok();
    assert_eq!(client.closed().await.code, Some(3503));
    for client in [&mut near, &mut far] {
        client.subscribe("news:1").await;
    }
    a.post("/api/disconnect", &json!({ "user": "ann" })).await.ok();
    for client in [&mut near, &mut far] {
        assert_eq!(client.closed().await.code, Some(3503));
    }
}

#[tokio::test]
async fn redis_is_told_of_channels_with_subscribers_only() {
    let redis = Redis::start().await;
    let gateway = node(&redis.url()).await;
    let topics = async || match redis.ask(&["PUBSUB", "CHANNELS", "gw:to:{*"]).await {
        RedisReply::List(topics) => topics.iter().map(|topic| topic.text()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let mut first = Client::connect(&gateway).await;
    let mut second = Client::connect(&gateway).await;
    first.subscribe("live:a?b").await;
    second.subscribe("live:a?b").await;
    first.publish("live:other", json!(1)).await;
    assert_eq!(topics().await, ["gw:to:{live:a%3Fb}"]);
    first.close().await;
    second.ask("unsubscribe", json!({ "channel": "live:a?b" })).await.unwrap();
    eventually("no subscription in Redis", async || topics().await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_publication_goes_through_redis_once_and_to_each_gateway_once_however_many_subscribers() {
    const SUBSCRIBERS: usize = 200;
    const PUBLICATIONS: usize = 10;
    let redis = Redis::start().await;
    let gateways = [node(&redis.url()).await, node(&redis.url()).await];
    let mut subscribers = Vec::new();
    for n in 0..SUBSCRIBERS {
        let mut client = Client::connect(&gateways[n % 2]).await;
        client.subscribe("news:1").await;
        subscribers.push(client);
    }
    let received = async |gateway: &Gateway| gateway.metrics().await.get("gateway_backplane_received_total");
    let before = [received(&gateways[0]).await, received(&gateways[1]).await];
    for number in 0..PUBLICATIONS {
        gateways[0].post("/api/publish", &json!({ "channel": "news:1", "data": number })).await.ok();
    }
    for subscriber in &mut subscribers {
        for number in 0..PUBLICATIONS {
            assert_eq!(subscriber.publication("news:1").await["data"], number);
        }
    }
    for (gateway, before) in gateways.iter().zip(before) {
        assert_eq!(received(gateway).await - before, PUBLICATIONS as f64);
    }
    assert_eq!(redis.ask(&["PUBSUB", "NUMSUB", "gw:to:{news:1}"]).await.list()[1].number(), 2);
}

#[tokio::test]
async fn while_redis_is_away_a_gateway_goes_on_alone_and_says_so() {
    let mut redis = Redis::start().await;
    let (a, b) = (node(&redis.url()).await, node(&redis.url()).await);
    let mut client = Client::connect(&a).await;
    let mut other = Client::connect(&b).await;
    client.subscribe("live:1").await;
    other.subscribe("live:1").await;
    client.subscribe("news:1").await;
    client.publish("news:1", json!(0)).await;
    assert_eq!(client.publication("news:1").await["data"], 0);
    redis.kill();
    let reason = degraded(&a, NOTICED).await;
    assert!(reason.contains("redis cannot be reached"), "{reason}");
    assert!((a.metrics().await.get("gateway_backplane_degraded{cause=\"unreachable\"}") - 1.0).abs() < 0.1);
    client.publish("live:1", json!("alone")).await;
    assert_eq!(client.publication("live:1").await["data"], "alone");
    let begun = Instant::now();
    let refused = client.ask("publish", json!({ "channel": "news:1", "data": 1 })).await.unwrap_err();
    assert_eq!((refused.code, refused.temporary), (100, true), "{}", refused.message);
    assert!(begun.elapsed() < Duration::from_secs(3), "the wait is bounded");
    // A new client can still listen to what has no history.
    let mut late = Client::connect(&a).await;
    late.subscribe("live:1").await;
    assert!(late.ask("subscribe", json!({ "channel": "news:1" })).await.unwrap_err().temporary);

    redis.revive(Data::Lost).await;
    let begun = Instant::now();
    healthy(&a, BACK).await;
    healthy(&b, BACK).await;
    println!("back after {:?}", begun.elapsed());
    // The stream is another one: whoever tracks a position is told, also if nothing is published.
    let push = client.push().await;
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("news:1"), &json!(2500)), "{push}");
    let subscribed = client.ask("subscribe", recover("news:1", 1, &json!("before"))).await.unwrap();
    assert_eq!(subscribed["recovered"], json!(null), "a new stream has nothing of the old one");
    // Subscriptions without history were made again.
    eventually_within(BACK, "live delivery between the nodes", async || {
        client.publish("live:1", json!("together")).await;
        other.heard("together").await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_operator_decides_whether_a_gateway_without_redis_stays_ready() {
    let mut redis = Redis::start().await;
    let optional =
        config(&redis.url()).replace("prefix = 'gw'", "prefix = 'gw'\nrequired_for_readiness = false");
    let (strict, lenient) = (node(&redis.url()).await, Gateway::start(&optional).await);
    redis.kill();
    for (gateway, status) in [(&strict, 503), (&lenient, 200)] {
        let reason = degraded(gateway, NOTICED).await;
        assert!(reason.contains("redis cannot be reached"), "{reason}");
        assert_eq!(gateway.get("/health/ready").await.status, status);
    }
    redis.revive(Data::Lost).await;
    healthy(&lenient, BACK).await;
}

#[tokio::test]
async fn what_is_published_while_one_gateway_is_cut_off_is_recovered_afterwards() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let (cut, whole) = (node(&redis.url_at(proxy.address())).await, node(&redis.url()).await);
    let mut client = Client::connect(&cut).await;
    let epoch = client.subscribe("news:1").await["epoch"].clone();
    let mut publisher = Client::connect(&whole).await;
    publisher.publish("news:1", json!(1)).await;
    assert_eq!(client.publication("news:1").await["data"], 1);
    for silent in [false, true] {
        if silent {
            proxy.freeze()
        } else {
            proxy.cut()
        }
        degraded(&cut, NOTICED).await;
        publisher.publish("news:1", json!(2)).await;
        proxy.heal();
        let push = client.push().await;
        assert_eq!(push["unsubscribe"]["code"], 2500, "told without another publication: {push}");
        let offset = if silent { 2 } else { 1 };
        let subscribed = client.ask("subscribe", recover("news:1", offset, &epoch)).await.unwrap();
        assert_eq!((&subscribed["recovered"], payloads(&subscribed)), (&json!(true), vec![2]));
        healthy(&cut, BACK).await;
    }
}

#[tokio::test]
async fn a_redis_without_memory_refuses_and_nothing_is_delivered() {
    let redis = Redis::start().await;
    let gateway = node(&redis.url()).await;
    let mut client = Client::connect(&gateway).await;
    client.subscribe("news:1").await;
    client.publish("news:1", json!(1)).await;
    assert_eq!(client.publication("news:1").await["offset"], 1);
    redis.set("maxmemory", "1").await;
    let refused = client.ask("publish", json!({ "channel": "news:1", "data": 2 })).await.unwrap_err();
    assert!(refused.temporary, "{}", refused.message);
    let reason = degraded(&gateway, NOTICED).await;
    assert!(reason.contains("takes no writes"), "{reason}");
    redis.set("maxmemory", "0").await;
    healthy(&gateway, NOTICED).await;
    client.publish("news:1", json!(3)).await;
    let publication = client.publication("news:1").await;
    assert_eq!((&publication["offset"], &publication["data"]), (&json!(2), &json!(3)), "2 came nowhere");
}

#[tokio::test]
async fn a_wrong_password_is_named_and_never_logged() {
    let redis = Redis::with("").password("open-sesame").start().await;
    let start = async |password: &str| {
        let text = config(&format!("redis://{}", redis.address()));
        let text = text.replace("prefix = 'gw'", "prefix = 'gw'\npassword = 'env:REDIS_PASSWORD'");
        Gateway::with(&text).environment("REDIS_PASSWORD", password).start().await
    };
    let right = start("open-sesame").await;
    healthy(&right, BACK).await;
    let wrong = start("not-sesame").await;
    let reason = degraded(&wrong, NOTICED).await;
    assert!(!reason.contains("sesame"), "{reason}");
    eventually("the cause", async || {
        degraded(&wrong, NOTICED).await.contains("refuses this gateway's user").then_some(())
    })
    .await;
    for gateway in [&right, &wrong] {
        assert!(!gateway.log().tail(usize::MAX).contains("sesame"));
    }
}

#[tokio::test]
async fn with_tls_a_gateway_trusts_whom_it_is_told_to() {
    let redis = Redis::with("").tls().start().await;
    let url = format!("rediss://localhost:{}", redis.tls_address().port());
    let trusted = format!("prefix = 'gw'\ntls_ca_file = '{}'", redis.certificate().display());
    let text = config(&url).replace("prefix = 'gw'", &trusted);
    let (a, b) = (Gateway::start(&text).await, Gateway::start(&text).await);
    healthy(&a, BACK).await;
    healthy(&b, BACK).await;
    let (mut here, mut there) = (Client::connect(&a).await, Client::connect(&b).await);
    there.subscribe("news:1").await;
    here.publish("news:1", json!("secret")).await;
    assert_eq!(there.publication("news:1").await["data"], "secret");
    let plain = redis.ask(&["CLIENT", "LIST", "TYPE", "PUBSUB"]).await.text();
    let port = format!("laddr=127.0.0.1:{}", redis.tls_address().port());
    assert_eq!(plain.matches(&port).count(), 2, "both listen over TLS: {plain}");

    let distrustful = Gateway::start(&config(&url)).await;
    let reason = degraded(&distrustful, NOTICED).await;
    assert!(reason.contains("certificate"), "{reason}");
}

#[tokio::test]
async fn of_several_servers_one_that_is_away_takes_its_own_channels_only() {
    const CHANNELS: usize = 24;
    let mut servers = [Redis::start().await, Redis::start().await];
    let text =
        config("").replace("url = ''", &format!("urls = ['{}', '{}']", servers[0].url(), servers[1].url()));
    let turned =
        config("").replace("url = ''", &format!("urls = ['{}', '{}']", servers[1].url(), servers[0].url()));
    let (a, b) = (Gateway::start(&text).await, Gateway::start(&turned).await);
    healthy(&a, BACK).await;
    healthy(&b, BACK).await;
    let mut publisher = Client::connect(&a).await;
    let mut subscriber = Client::connect(&b).await;
    let names: Vec<_> = (0..CHANNELS).map(|number| format!("news:{number}")).collect();
    for name in &names {
        subscriber.subscribe(name).await;
        publisher.publish(name, json!(name)).await;
        assert_eq!(
            subscriber.publication(name).await["data"],
            **name,
            "both gateways look at the same place"
        );
    }
    let kept = async |server: &Redis| server.ask(&["KEYS", "gw:stream:*"]).await.list().len();
    let there = kept(&servers[1]).await;
    assert_eq!(kept(&servers[0]).await + there, CHANNELS);
    assert!((1..CHANNELS).contains(&there), "both have some: {there}");

    servers[0].kill();
    let reason = degraded(&a, NOTICED).await;
    let address = servers[0].address().to_string();
    assert!(reason.starts_with(&address), "it says which one: {reason}");
    let mut published = 0;
    for name in &names {
        match publisher.ask("publish", json!({ "channel": name, "data": "again" })).await {
            Ok(_) => {
                assert_eq!(subscriber.publication(name).await["data"], "again");
                published += 1;
            }
            Err(refused) => assert!(refused.temporary, "{}", refused.message),
        }
    }
    assert_eq!(published, there, "what is elsewhere goes on");
    servers[0].revive(Data::Lost).await;
    healthy(&a, BACK).await;
    for name in &names {
        publisher.publish(name, json!("back")).await;
    }
}
