//! What a publication over the HTTP API can ask for, alike without Redis and with it.

use std::time::Duration;

use gateway_tests::{Client, Gateway, Proxy, Redis, eventually, eventually_within};
use serde_json::{Value, json};

const RULES: &str = "
client.anonymous = true
[namespaces.news]
history_size = 100
recovery = true
allow_subscribe = 'anyone'
allow_history = 'anyone'
[namespaces.live]
allow_subscribe = 'anyone'
";

/// Of gateways on Redis.
fn on(redis: &str) -> String {
    format!("{RULES}\n[redis]\nurl = '{redis}'\nprefix = 'gw'\n")
}

async fn ready(gateway: &Gateway) {
    let ready = async || (gateway.get("/health/ready").await.status == 200).then_some(());
    eventually_within(Duration::from_secs(5), "a gateway that is ready", ready).await;
}

/// Gateways that are one: a single one without Redis, or two with it. The first and the last are asked in
/// turn.
struct World {
    gateways: Vec<Gateway>,
    _redis: Option<Redis>,
}

impl World {
    async fn both() -> [Self; 2] {
        let alone = Self { gateways: vec![Gateway::start(RULES).await], _redis: None };
        let redis = Redis::start().await;
        let gateways = Gateway::nodes(2, |_| Gateway::with(&on(&redis.url()))).await;
        for gateway in &gateways {
            ready(gateway).await;
        }
        [alone, Self { gateways, _redis: Some(redis) }]
    }

    fn first(&self) -> &Gateway {
        &self.gateways[0]
    }

    fn last(&self) -> &Gateway {
        self.gateways.last().unwrap()
    }
}

async fn publish(gateway: &Gateway, body: Value) -> Value {
    gateway.post("/api/publish", &body).await.ok()
}

async fn history(gateway: &Gateway, channel: &str) -> Vec<Value> {
    let answer = gateway.post("/api/history", &json!({ "channel": channel, "limit": -1 })).await.ok();
    let publications = answer["result"]["publications"].as_array().unwrap().clone();
    publications.into_iter().map(|publication| publication["data"].clone()).collect()
}

#[tokio::test]
async fn one_key_is_one_publication_at_every_gateway() {
    for world in World::both().await {
        let (mut news, mut live) =
            (Client::connect(world.first()).await, Client::connect(world.last()).await);
        news.subscribe("news:1").await;
        live.subscribe("live:1").await;
        // Nothing of this may mean anything to whoever keeps it.
        let key = "{a} *:%\u{e9}\n";
        let keyed =
            |channel: &str, data: u64| json!({ "channel": channel, "data": data, "idempotency_key": key });
        let first = publish(world.first(), keyed("news:1", 1)).await;
        assert_eq!(first["result"]["offset"], 1, "{first}");
        publish(world.last(), json!({ "channel": "news:1", "data": 2 })).await;
        for gateway in [world.last(), world.first()] {
            assert_eq!(publish(gateway, keyed("news:1", 3)).await, first, "the answer to the first, again");
            assert_eq!(publish(gateway, keyed("live:1", 4)).await, json!({ "result": {} }));
        }
        let other = json!({ "channel": "news:1", "data": 5, "idempotency_key": "other" });
        assert_eq!(publish(world.last(), other).await["result"]["offset"], 3);
        assert_eq!(publish(world.last(), keyed("news:2", 6)).await["result"]["offset"], 1, "another channel");
        publish(world.first(), json!({ "channel": "live:1", "data": 7 })).await;
        assert_eq!(history(world.first(), "news:1").await, [1, 2, 5]);
        for data in [1, 2, 5] {
            assert_eq!(news.publication("news:1").await["data"], data);
        }
        for data in [4, 7] {
            assert_eq!(live.publication("live:1").await["data"], data);
        }
    }
}

#[tokio::test]
async fn a_key_holds_for_messages_to_users_and_for_each_channel_of_a_broadcast() {
    for world in World::both().await {
        let broadcast = json!({ "channels": ["news:1", "#42", "news:2"], "data": 1, "idempotency_key": "k" });
        let first = world.first().post("/api/broadcast", &broadcast).await.ok();
        let offsets = first["result"]["responses"].as_array().unwrap().iter();
        let offsets: Vec<_> = offsets.map(|one| one["result"]["offset"].clone()).collect();
        assert_eq!(offsets, [json!(1), Value::Null, json!(1)]);
        assert_eq!(world.last().post("/api/broadcast", &broadcast).await.ok(), first);
    }
}

#[tokio::test]
async fn tags_reach_every_gateway_and_are_kept() {
    for world in World::both().await {
        let mut client = Client::connect(world.last()).await;
        let since = client.subscribe("news:1").await["epoch"].clone();
        client.subscribe("live:1").await;
        let tags = json!({ "kind": "goal", "empty": "", "h\u{e9}": "\"\n" });
        for channel in ["news:1", "live:1"] {
            publish(world.first(), json!({ "channel": channel, "data": 1, "tags": tags })).await;
            assert_eq!(client.publication(channel).await["tags"], tags, "{channel}");
        }
        let keyed = json!({ "channel": "live:1", "data": 2, "tags": tags, "idempotency_key": "k" });
        publish(world.first(), keyed).await;
        assert_eq!(client.publication("live:1").await["tags"], tags);
        publish(world.first(), json!({ "channel": "news:1", "data": 2 })).await;
        assert_eq!(client.publication("news:1").await.get("tags"), None);

        let request = json!({ "channel": "news:1", "limit": -1 });
        let kept = world.last().post("/api/history", &request).await.ok();
        let expected = json!([{ "data": 1, "offset": 1, "tags": tags }, { "data": 2, "offset": 2 }]);
        assert_eq!(kept["result"]["publications"], expected);
        let mut late = Client::connect(world.last()).await;
        let recover = json!({ "channel": "news:1", "recover": true, "offset": 0, "epoch": since });
        let missed = late.ask("subscribe", recover).await.unwrap();
        assert_eq!((&missed["recovered"], &missed["publications"]), (&json!(true), &expected));
        assert_eq!(late.ask("history", request).await.unwrap()["publications"], expected);
    }
}

#[tokio::test]
async fn what_skips_the_history_reaches_every_subscriber_and_is_kept_nowhere() {
    for world in World::both().await {
        let (mut near, mut far) = (Client::connect(world.first()).await, Client::connect(world.last()).await);
        for client in [&mut near, &mut far] {
            client.subscribe("news:1").await;
        }
        let skips = |data: u64| json!({ "channel": "news:1", "data": data, "skip_history": true });
        assert_eq!(
            publish(world.first(), json!({ "channel": "news:1", "data": 1 })).await["result"]["offset"],
            1
        );
        assert_eq!(publish(world.first(), skips(2)).await, json!({ "result": {} }));
        let mut keyed = skips(3);
        keyed["idempotency_key"] = "k".into();
        for gateway in [world.last(), world.first()] {
            assert_eq!(publish(gateway, keyed.clone()).await, json!({ "result": {} }), "published once");
        }
        let broadcast = json!({ "channels": ["news:1"], "data": 4, "skip_history": true });
        world.last().post("/api/broadcast", &broadcast).await.ok();
        assert_eq!(
            publish(world.last(), json!({ "channel": "news:1", "data": 5 })).await["result"]["offset"],
            2
        );
        for client in [&mut near, &mut far] {
            for (data, offset) in
                [(1, json!(1)), (2, json!(null)), (3, json!(null)), (4, json!(null)), (5, json!(2))]
            {
                let publication = client.publication("news:1").await;
                assert_eq!((&publication["data"], &publication["offset"]), (&json!(data), &offset));
            }
        }
        assert_eq!(history(world.last(), "news:1").await, [1, 5]);
    }
}

#[tokio::test]
async fn bytes_are_strings_for_clients_of_json_at_every_gateway() {
    for world in World::both().await {
        let mut client = Client::connect(world.last()).await;
        client.subscribe("news:1").await;
        for (encoded, seen) in
            [("/wD+", json!("/wD+")), ("aGVsbG8=", json!("hello")), ("eyJhIjoxfQ==", json!({ "a": 1 }))]
        {
            publish(world.first(), json!({ "channel": "news:1", "b64data": encoded })).await;
            assert_eq!(client.publication("news:1").await["data"], seen);
        }
        assert_eq!(history(world.last(), "news:1").await, [json!("/wD+"), json!("hello"), json!({ "a": 1 })]);
    }
}

#[tokio::test]
async fn an_older_version_never_overwrites_a_newer_one() {
    // Next to each other beyond 2^53, where one number of JavaScript or Lua stands for both.
    let large = (1_u64 << 53) + 1;
    for world in World::both().await {
        let put = |version: u64, epoch: &str| json!({ "channel": "news:doc", "data": version, "version": version, "version_epoch": epoch });
        let first = publish(world.first(), put(9, "")).await["result"].clone();
        assert_eq!(first["offset"], 1);
        for old in [9, 8, 1] {
            let skipped = publish(world.last(), put(old, "")).await;
            let expected = json!({ "offset": 1, "epoch": first["epoch"], "skipped": true });
            assert_eq!(skipped["result"], expected, "{old}");
        }
        for (version, epoch) in [(10, ""), (large, ""), (3, "anew"), (u64::MAX, "anew")] {
            let done = publish(world.last(), put(version, epoch)).await;
            assert_eq!(done["result"].get("skipped"), None, "{version} {epoch}: {done}");
        }
        for (version, epoch) in [(u64::MAX, "anew"), (u64::MAX - 1, "anew")] {
            assert_eq!(publish(world.first(), put(version, epoch)).await["result"]["skipped"], true);
        }
        // Without a version a publication is no version of the document.
        publish(world.first(), json!({ "channel": "news:doc", "data": 0 })).await;
        assert_eq!(publish(world.first(), put(u64::MAX, "anew")).await["result"]["skipped"], true);
        assert_eq!(publish(world.first(), put(large - 1, "")).await["result"].get("skipped"), None);
        assert_eq!(publish(world.first(), put(large, "")).await["result"].get("skipped"), None);
        assert_eq!(publish(world.first(), put(large - 1, "")).await["result"]["skipped"], true);
        assert_eq!(
            history(world.last(), "news:doc").await,
            [
                json!(9),
                json!(10),
                json!(large),
                json!(3),
                json!(u64::MAX),
                json!(0),
                json!(large - 1),
                json!(large)
            ]
        );
    }
}

#[tokio::test]
async fn a_key_comes_before_a_version_and_what_was_skipped_has_used_no_key() {
    for world in World::both().await {
        let put = |version: u64, key: &str| json!({ "channel": "news:doc", "data": version, "version": version, "idempotency_key": key });
        let first = publish(world.first(), put(5, "a")).await;
        assert_eq!(publish(world.last(), put(5, "a")).await, first, "a repetition is not out of date");
        assert_eq!(publish(world.last(), put(4, "b")).await["result"]["skipped"], true);
        assert_eq!(publish(world.last(), put(6, "b")).await["result"]["offset"], 2);
    }
}

#[tokio::test]
async fn after_an_answer_that_was_lost_a_repetition_with_the_key_is_no_second_publication() {
    let redis = Redis::start().await;
    let network = Proxy::to(redis.address()).await;
    let near = Gateway::start(&on(&redis.url())).await;
    let far = Gateway::start(&on(&redis.url_at(network.address()))).await;
    ready(&near).await;
    ready(&far).await;
    let mut subscriber = Client::connect(&near).await;
    subscriber.subscribe("news:1").await;
    let keyed = json!({ "channel": "news:1", "data": 1, "idempotency_key": "k" });

    network.mute();
    let error = publish(&far, keyed.clone()).await["error"].clone();
    assert_eq!(error["code"], 100, "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("may have been published") && message.contains("idempotency_key"), "{message}");
    assert_eq!(subscriber.publication("news:1").await["data"], 1, "it was");
    let first = publish(&near, keyed.clone()).await;
    assert_eq!(first["result"]["offset"], 1, "at another gateway");

    network.cut();
    let away = async || {
        let error = publish(&far, json!({ "channel": "news:1", "data": 2 })).await["error"].clone();
        error["message"]
            .as_str()
            .is_some_and(|message| message.contains("nothing was published"))
            .then_some(())
    };
    eventually("a publication that was never sent", away).await;
    network.heal();
    ready(&far).await;
    assert_eq!(publish(&far, keyed).await, first, "at the same gateway");
    assert_eq!(history(&near, "news:1").await, [1], "neither twice nor what was said not to be published");
}

#[tokio::test]
async fn a_key_is_forgotten_after_its_time() {
    let redis = Redis::start().await;
    let gateway = Gateway::start(&on(&redis.url())).await;
    ready(&gateway).await;
    publish(&gateway, json!({ "channel": "live:1", "data": 1, "idempotency_key": "a b" })).await;
    let place = "gw:once:{live:1}:a%20b";
    let left = redis.ask(&["PTTL", place]).await.number();
    assert!((200_000..=300_000).contains(&left), "{left} ms");
    redis.ask(&["PEXPIRE", place, "1000"]).await;
    publish(&gateway, json!({ "channel": "live:1", "data": 1, "idempotency_key": "a b" })).await;
    assert!(redis.ask(&["PTTL", place]).await.number() > 1000, "a use is remembered");
}

#[tokio::test]
async fn a_publication_that_too_few_replicas_have_is_no_success_until_they_do() {
    let master = Redis::start().await;
    let (host, port) = (master.address().ip(), master.address().port());
    let replica = Redis::with(&format!("replicaof {host} {port}")).start().await;
    // For a moment after it has its copy a replica gets nothing more: only another write shows that this is
    // over.
    let follows = async || {
        master.ask(&["INCR", "written"]).await;
        let written = master.ask(&["GET", "written"]).await.text();
        let read = replica.try_ask(&["GET", "written"]).await.ok()?;
        (!read.is_nothing() && read.text() == written).then_some(())
    };
    eventually_within(Duration::from_secs(20), "a replica that follows", follows).await;
    let config = on(&master.url()).replace("[namespaces.news]", "[namespaces.safe]\nhistory_size = 9\nmin_replicas = 1\nallow_subscribe = 'anyone'\n[namespaces.news]");
    let gateway = Gateway::start(&config).await;
    ready(&gateway).await;
    let mut subscriber = Client::connect(&gateway).await;
    subscriber.subscribe("safe:1").await;
    let put = |data: u64| json!({ "channel": "safe:1", "data": data, "idempotency_key": data.to_string() });
    assert_eq!(publish(&gateway, put(1)).await["result"]["offset"], 1);

    replica.freeze().await;
    for _ in 0..2 {
        let error = publish(&gateway, put(2)).await["error"].clone();
        assert_eq!(error["code"], 100);
        assert!(error["message"].as_str().unwrap().contains("too few replicas"), "{error}");
    }
    assert_eq!(publish(&gateway, json!({ "channel": "news:1", "data": 1 })).await["result"]["offset"], 1);
    assert_eq!(gateway.get("/health/ready").await.status, 200);
    assert_eq!(gateway.metrics().await.get("gateway_backplane_too_few_replicas_total"), 2.0);
    replica.thaw();
    let again = async || publish(&gateway, put(2)).await["result"]["offset"].as_u64();
    assert_eq!(eventually("enough replicas", again).await, 2);
    for data in [1, 2] {
        assert_eq!(subscriber.publication("safe:1").await["data"], data);
    }
    assert_eq!(publish(&gateway, put(3)).await["result"]["offset"], 3);
}
