//! Commands that a backend puts into a queue: every one is carried out once, in order, whatever ends or
//! stands still on the way.

mod queue;

use std::time::Duration;

use gateway_tests::{Client, Data, Gateway, Redis, eventually_within};
use rustix::process::Signal;
use serde_json::{Value, json};

use self::queue::{Kind, Queue, publish};

/// How long anything may take in which something was hurt.
const LONG: Duration = Duration::from_secs(40);

const RULES: &str = "
client.anonymous = true
client.history_publications_max = 10000
[namespaces.news]
history_size = 10000
allow_subscribe = 'anyone'
allow_history = 'anyone'
";

/// Every publication of a channel, in order.
async fn published(gateway: &Gateway, channel: &str) -> Vec<u64> {
    let query = json!({ "channel": channel, "limit": -1 });
    let answer = gateway.post("/api/history", &query).await.json();
    let publications = answer["result"]["publications"].as_array().cloned().unwrap_or_default();
    publications.iter().map(|publication| publication["data"].as_u64().unwrap()).collect()
}

async fn has_published(gateway: &Gateway, channel: &str, count: u64) {
    eventually_within(LONG, format!("{count} publications in {channel}"), async || {
        (published(gateway, channel).await.len() as u64 >= count).then_some(())
    })
    .await;
}

/// Everything is there once, and in order; nothing is left in the queue.
async fn is_whole(gateway: &Gateway, queue: &Queue, channel: &str, count: u64) {
    has_published(gateway, channel, count).await;
    eventually_within(LONG, "an empty queue", async || (queue.left().await == 0).then_some(())).await;
    let expected: Vec<u64> = (0..count).collect();
    assert_eq!(published(gateway, channel).await, expected, "{channel}: each once, in order");
}

async fn entries(gateway: &Gateway, outcome: &str) -> f64 {
    let series = format!("gateway_consumer_entries_total{{consumer=\"orders\",outcome=\"{outcome}\"}}");
    gateway.metrics().await.get(&series)
}

async fn gauge(gateway: &Gateway, name: &str) -> f64 {
    gateway.metrics().await.get(&format!("gateway_consumer_{name}{{consumer=\"orders\"}}"))
}

async fn until_gauge(gateway: &Gateway, name: &str, value: f64) {
    eventually_within(LONG, format!("{name} to be {value}"), async || {
        (gauge(gateway, name).await == value).then_some(())
    })
    .await;
}

/// Settings of gateways that are one.
fn on(redis: &Redis, consumers: &str) -> String {
    format!("{RULES}\n[redis]\nurl = '{}'\nprefix = 'gw'\n{consumers}", redis.url())
}

async fn healthy(gateway: &Gateway) {
    eventually_within(LONG, "a healthy gateway", async || {
        (gateway.get("/health/ready").await.json()["status"] == "ready").then_some(())
    })
    .await;
}

/// Commands of every kind are carried out in the order of the queue, those that were there before the gateway
/// as well as those that come while it waits.
async fn carries_out(kind: Kind) {
    let queue = Queue::start(kind).await;
    queue.put(0, &(0..150).map(|number| publish("news:1", number)).collect::<Vec<_>>()).await;
    let gateway = queue
        .gateway(&format!("{RULES}\n{}", queue.settings("methods = ['publish', 'broadcast', 'disconnect']")))
        .await;
    let mut client = Client::connect(&gateway).await;
    has_published(&gateway, "news:1", 150).await;
    client.subscribe("news:1").await;
    client.subscribe("news:2").await;
    let broadcast = json!({ "channels": ["news:2", "news:1"], "data": 150 });
    queue.put(0, &[("broadcast".to_owned(), broadcast), publish("news:1", 151)]).await;
    assert_eq!(client.publication("news:2").await["data"], 150);
    for number in [150, 151] {
        assert_eq!(client.publication("news:1").await["data"], number);
    }
    is_whole(&gateway, &queue, "news:1", 152).await;
    assert_eq!(entries(&gateway, "done").await, 152.0);
    assert_eq!(gauge(&gateway, "connected").await, 1.0);
    until_gauge(&gateway, "lag_seconds", 0.0).await;
    queue.put(0, &[("disconnect".to_owned(), json!({ "client": client.id }))]).await;
    assert_eq!(client.closed().await.code, Some(3503));
}

/// What can never be carried out goes to the dead letters and does not stop the rest.
async fn buries(kind: Kind) {
    let queue = Queue::start(kind).await;
    let gateway = queue.gateway(&format!("{RULES}\n{}", queue.settings("dead_letter = 'dead.jsonl'"))).await;
    queue.put(0, &[publish("news:1", 0)]).await;
    queue.put_nonsense().await;
    let bad = [
        ("history".to_owned(), json!({ "channel": "news:1" })),
        ("publish".to_owned(), json!({ "channel": "unknown:1", "data": 1 })),
        ("publish".to_owned(), json!({ "channel": "news:1", "data": 1, "sentiment": 1 })),
        publish("news:1", 1),
    ];
    queue.put(0, &bad).await;
    is_whole(&gateway, &queue, "news:1", 2).await;
    let file = gateway.config().with_file_name("dead.jsonl");
    let text = std::fs::read_to_string(file).unwrap();
    let letters: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let reasons: Vec<&str> = letters.iter().map(|letter| letter["why"].as_str().unwrap()).collect();
    let expected = ["method", "\"history\" is not among", "unknown channel", "sentiment"];
    assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
    for (reason, expected) in reasons.iter().zip(expected) {
        assert!(reason.contains(expected), "{reason} / {expected}");
    }
    assert_eq!(letters[2]["method"], "publish");
    assert_eq!(letters[2]["payload"]["channel"], "unknown:1");
    assert_eq!(letters[0]["consumer"], "orders");
    assert_eq!(entries(&gateway, "dead").await, 4.0);
}

/// Whatever is in an entry, those behind it are carried out.
async fn gets_past_poison(kind: Kind) {
    let queue = Queue::start(kind).await;
    let gateway = queue.gateway(&format!("{RULES}\n{}", queue.settings("dead_letter = 'dead.jsonl'"))).await;
    let poison = queue.put_poison().await;
    queue.put(0, &[publish("news:1", 0)]).await;
    is_whole(&gateway, &queue, "news:1", 1).await;
    let text = std::fs::read_to_string(gateway.config().with_file_name("dead.jsonl")).unwrap();
    assert_eq!(text.lines().count(), poison);
    assert!(text.len() < 2 << 20, "{} bytes of dead letters", text.len());
    for line in text.lines() {
        let is_kept = line.contains("\"payload\":") || line.contains("\"payload_base64\":");
        assert!(is_kept, "of each entry the beginning is kept: {line}");
    }
}

/// However large the entries are, only some megabytes of them are in memory.
async fn takes_little_memory(kind: Kind) {
    let queue = Queue::start(kind).await;
    queue.put_large(100).await;
    queue.put(0, &[publish("news:1", 0)]).await;
    let gateway = queue.gateway(&format!("{RULES}\n{}", queue.settings("batch_max = 1000"))).await;
    is_whole(&gateway, &queue, "news:1", 1).await;
    assert_eq!(entries(&gateway, "dead").await, 100.0);
    let at_rest = Gateway::start(RULES).await;
    let more = peak(&gateway).saturating_sub(peak(&at_rest));
    assert!(more < 60 << 10, "{more} KiB more than a gateway without consumers");
}

/// Peak of the memory of a gateway, in KiB.
fn peak(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The server of the queue is killed, and later frozen, while there is work.
async fn survives_its_server(kind: Kind) {
    const COUNT: u64 = 1_500;
    let mut queue = Queue::start(kind).await;
    let gateway = queue.gateway(&format!("{RULES}\n{}", queue.settings("timeout = '500ms'"))).await;
    let put = async |queue: &Queue, from: u64, to: u64| {
        let entries: Vec<_> = (from..to).map(|number| publish("news:1", number)).collect();
        queue.put(0, &entries).await;
    };
    put(&queue, 0, COUNT / 3).await;
    has_published(&gateway, "news:1", 5).await;
    queue.kill().await;
    until_gauge(&gateway, "connected", 0.0).await;
    let health = gateway.get("/health/ready").await.json();
    assert_eq!(health["status"], "ready");
    assert!(health["warnings"][0].as_str().unwrap().contains("consumer orders"), "{health}");
    queue.revive().await;
    put(&queue, COUNT / 3, 2 * COUNT / 3).await;
    has_published(&gateway, "news:1", COUNT / 3 + 5).await;
    queue.freeze().await;
    until_gauge(&gateway, "connected", 0.0).await;
    queue.thaw();
    put(&queue, 2 * COUNT / 3, COUNT).await;
    is_whole(&gateway, &queue, "news:1", COUNT).await;
    assert_eq!(gateway.get("/health/ready").await.json(), json!({ "status": "ready" }));
}

/// A gateway is killed in the middle, again and again: what it had published is not published again.
async fn survives_the_gateway(kind: Kind) {
    const COUNT: u64 = 1_500;
    let (redis, queue) = (Redis::start().await, Queue::start(kind).await);
    let mut gateway = queue.gateway(&on(&redis, &queue.settings("ack_wait = '1s'"))).await;
    let entries: Vec<_> = (0..COUNT).map(|number| publish("news:1", number)).collect();
    queue.put(0, &entries).await;
    for seen in [20, 400, 800] {
        has_published(&gateway, "news:1", seen).await;
        gateway.restart().await;
        healthy(&gateway).await;
    }
    is_whole(&gateway, &queue, "news:1", COUNT).await;
}

/// While the backplane refuses, the consumer is paused; then it goes on where it was.
async fn pauses(kind: Kind) {
    let (mut redis, queue) = (Redis::with("").persistent().start().await, Queue::start(kind).await);
    let gateway = queue.gateway(&on(&redis, &queue.settings(""))).await;
    healthy(&gateway).await;
    until_gauge(&gateway, "connected", 1.0).await;
    redis.kill();
    // None before that: a server that was started again begins new histories.
    let entries: Vec<_> = (0..50).map(|number| publish("news:1", number)).collect();
    queue.put(0, &entries).await;
    until_gauge(&gateway, "paused", 1.0).await;
    redis.revive(Data::Kept).await;
    is_whole(&gateway, &queue, "news:1", 50).await;
    assert_eq!(gauge(&gateway, "paused").await, 0.0);
    assert!(self::entries(&gateway, "retried").await >= 1.0);
}

/// Of two gateways one carries out a partition. The other takes over when it stands still, and at once when
/// it drains; also the one that goes on later does no harm.
async fn is_taken_over(kind: Kind) {
    const COUNT: u64 = 1_200;
    let (redis, queue) = (Redis::start().await, Queue::start(kind).await);
    let settings = on(&redis, &queue.settings_of(2, "ack_wait = '1s'"));
    let mut gateways = [queue.gateway(&settings).await, queue.gateway(&settings).await];
    for gateway in &gateways {
        healthy(gateway).await;
    }
    for partition in 0..2 {
        let channel = format!("news:{partition}");
        let entries: Vec<_> = (0..COUNT / 2).map(|number| publish(&channel, number)).collect();
        queue.put(partition, &entries).await;
    }
    has_published(&gateways[1], "news:0", 20).await;
    gateways[0].signal(Signal::STOP);
    for partition in 0..2 {
        has_published(&gateways[1], &format!("news:{partition}"), COUNT / 2).await;
    }
    gateways[0].signal(Signal::CONT);
    for partition in 0..2 {
        let channel = format!("news:{partition}");
        let entries: Vec<_> = (COUNT / 2..COUNT).map(|number| publish(&channel, number)).collect();
        queue.put(partition, &entries).await;
    }
    has_published(&gateways[1], "news:0", COUNT / 2 + 20).await;
    gateways[1].terminate();
    gateways[1].exit(LONG).await;
    for partition in 0..2 {
        is_whole(&gateways[0], &queue, &format!("news:{partition}"), COUNT).await;
    }
}

macro_rules! for_each_kind {
    ($($test:ident => $check:ident;)*) => {
        mod redis_stream {
            $(#[tokio::test] async fn $test() { super::$check(super::Kind::Redis).await; })*
        }
        mod postgres {
            $(#[tokio::test] async fn $test() { super::$check(super::Kind::Postgres).await; })*
        }
        mod nats {
            $(#[tokio::test] async fn $test() { super::$check(super::Kind::Nats).await; })*
        }
    };
}

for_each_kind! {
    commands_are_carried_out_in_order => carries_out;
    an_entry_that_can_never_be_carried_out_goes_to_the_dead_letters => buries;
    its_server_is_killed_and_frozen_and_nothing_is_lost_or_repeated => survives_its_server;
    a_gateway_is_killed_in_the_middle_and_each_is_published_once => survives_the_gateway;
    it_pauses_while_the_backplane_refuses => pauses;
    another_gateway_takes_over_and_keeps_the_order => is_taken_over;
    an_entry_of_any_content_does_not_stop_those_behind_it => gets_past_poison;
}

/// NATS gives one entry at a time.
#[tokio::test]
async fn memory_is_bounded_in_bytes() {
    for kind in [Kind::Redis, Kind::Postgres] {
        takes_little_memory(kind).await;
    }
}

#[tokio::test]
async fn entries_of_two_streams_with_the_same_id_are_both_published() {
    let queue = Queue::start(Kind::Redis).await;
    let Queue::Redis(redis) = &queue else { unreachable!() };
    for (stream, number) in [("commands:0", "0"), ("commands:1", "1")] {
        let payload = format!(r#"{{"channel":"news:1","data":{number}}}"#);
        redis.ask(&["XADD", stream, "1700000000000-0", "method", "publish", "payload", &payload]).await;
    }
    let gateway = queue.gateway(&format!("{RULES}\n{}", queue.settings_of(2, ""))).await;
    eventually_within(LONG, "an empty queue", async || (queue.left().await == 0).then_some(())).await;
    has_published(&gateway, "news:1", 2).await;
}

#[tokio::test]
async fn two_consumers_of_one_stream_do_not_both_carry_it_out() {
    let queue = Queue::start(Kind::Redis).await;
    let settings = queue.settings("");
    // The configuration refuses the same URL twice.
    let others = settings.replace("consumers.orders", "consumers.others").replace("127.0.0.1", "localhost");
    let gateway = queue.gateway(&format!("{RULES}\n{settings}\n{others}")).await;
    for consumer in ["orders", "others"] {
        let series = format!("gateway_consumer_connected{{consumer=\"{consumer}\"}}");
        eventually_within(LONG, "both to be connected", async || {
            (gateway.metrics().await.get(&series) == 1.0).then_some(())
        })
        .await;
    }
    let entries: Vec<_> = (0..1_000).map(|number| publish("news:1", number)).collect();
    queue.put(0, &entries).await;
    is_whole(&gateway, &queue, "news:1", 1_000).await;
}

#[tokio::test]
async fn subjects_of_nats_that_change_places_are_refused_before_an_entry_is_lost() {
    let queue = Queue::start(Kind::Nats).await;
    let settings = queue.settings_of(2, "");
    let mut gateway = queue.gateway(&format!("{RULES}\n{settings}")).await;
    until_gauge(&gateway, "connected", 2.0).await;
    queue.put(0, &[publish("news:1", 0)]).await;
    is_whole(&gateway, &queue, "news:1", 1).await;
    let changed = settings.replace("['commands.0', 'commands.1']", "['commands.1', 'commands.0']");
    assert_ne!(changed, settings);
    gateway.restart_with(&format!("{RULES}\n{changed}")).await;
    let line = gateway.log().wait(&["consumer not connected"]).await;
    assert!(line.text.contains("has read the subject commands."), "{}", line.text);
}

#[tokio::test]
async fn an_order_to_a_client_is_acknowledged_when_the_backplane_has_it() {
    let (redis, queue) = (Redis::start().await, Queue::start(Kind::Redis).await);
    let settings = on(&redis, &queue.settings("ack_wait = '10m'\nmethods = ['disconnect']"));
    let gateway = queue.gateway(&settings).await;
    healthy(&gateway).await;
    until_gauge(&gateway, "connected", 1.0).await;
    redis.freeze().await;
    queue.put(0, &[("disconnect".to_owned(), json!({ "user": "ann" }))]).await;
    until_gauge(&gateway, "paused", 1.0).await;
    assert_eq!((queue.left().await, entries(&gateway, "done").await), (1, 0.0));
    redis.thaw();
    eventually_within(LONG, "an empty queue", async || (queue.left().await == 0).then_some(())).await;
    assert_eq!(entries(&gateway, "done").await, 1.0);
}

#[tokio::test]
async fn postgresql_is_reached_by_tls_and_only_with_a_certificate_that_is_trusted() {
    let queue = Queue::start(Kind::Postgres).await;
    let Queue::Postgres(postgres) = &queue else { unreachable!() };
    let settings = |authority: &str| queue.settings(authority).replace(&postgres.url(), &postgres.tls_url());
    let (_, _, certificate) = postgres.login();
    let trusting = format!("tls_ca_file = '{}'", certificate.display());
    let gateway = queue.gateway(&format!("{RULES}\n{}", settings(&trusting))).await;
    queue.put(0, &[publish("news:1", 0)]).await;
    is_whole(&gateway, &queue, "news:1", 1).await;
    let in_use = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                  WHERE ssl AND application_name = 'gateway orders'";
    assert_eq!(postgres.ask(in_use).await, "1");
    let other = queue.gateway(&format!("{RULES}\n{}", settings(""))).await;
    let line = other.log().wait(&["consumer not connected"]).await;
    assert!(line.text.contains("certificate"), "{}", line.text);
}
