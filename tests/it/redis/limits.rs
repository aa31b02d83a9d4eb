//! Gateways on one Redis have limits together: how far they are overshot, and what becomes of them when Redis
//! is away.

mod arithmetic;

use std::time::{Duration, Instant};

use gateway_tests::{Client, Data, Gateway, Redis, eventually, eventually_within};
use serde_json::json;
use tokio::task::JoinSet;

const ANSWERS: &str = "[[config.rules]]\nkind = 'rpc'\nreply = 'fine'\n";
const NODES: usize = 3;
/// How often gateways tell each other.
const ROUND: Duration = Duration::from_millis(200);
/// There and back on a machine that does other things too.
const TRIP: Duration = Duration::from_millis(50);
/// A fixed window that does not end.
const COUNT: &str = "algorithm = 'fixed-window'\nlimit = 90\nperiod = '10m'\n";

/// A gateway with one limit for all gateways, of everybody from here.
async fn gateway(redis: &Redis, limit: &str) -> Gateway {
    let limit = format!("[[config.limits]]\nname = 'calls'\nscope = 'cluster'\nkey = 'address'\n{limit}");
    let config = format!("client.anonymous = true\n[redis]\nurl = '{}'\nprefix = 'gw'\n", redis.url());
    let gateway = Gateway::with(&config)
        .plugin(
            "20-rate-limit",
            "rate-limit",
            &format!("[grants]\nbuckets = true\nkey-value = true\n{limit}"),
        )
        .plugin("50-router", "router", ANSWERS)
        .start()
        .await;
    healthy(&gateway).await;
    gateway
}

async fn health(gateway: &Gateway) -> String {
    gateway.get("/health/ready").await.json()["status"].as_str().unwrap().to_owned()
}

async fn healthy(gateway: &Gateway) {
    eventually_within(Duration::from_secs(5), "a healthy gateway", async || {
        (health(gateway).await == "ready").then_some(())
    })
    .await;
}

async fn call(client: &mut Client) -> bool {
    client.ask("rpc", json!({"data": {}})).await.is_ok()
}

async fn calls(client: &mut Client, count: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..count {
        admitted += usize::from(call(client).await);
    }
    admitted
}

/// What all gateways have told Redis of the one limit.
async fn told(redis: &Redis) -> u64 {
    let keys = redis.ask(&["KEYS", "gw:limit:{nodes}{rate-limit/calls/*}:*"]).await.list();
    let [key] = &keys[..] else { return 0 };
    redis.ask(&["HGET", &key.text(), "used"]).await.text().parse().unwrap()
}

async fn told_is(redis: &Redis, expected: u64) {
    eventually(&format!("{expected} to be known"), async || (told(redis).await == expected).then_some(()))
        .await;
}

#[tokio::test]
async fn what_is_taken_at_one_gateway_is_gone_at_the_others() {
    let redis = Redis::start().await;
    let (a, b) = (gateway(&redis, COUNT).await, gateway(&redis, COUNT).await);
    let mut here = Client::connect(&a).await;
    assert_eq!(calls(&mut here, 60).await, 60);
    told_is(&redis, 60).await;
    let mut there = Client::connect(&b).await;
    assert!(call(&mut there).await);
    told_is(&redis, 61).await;
    // The answer may still be under way to the other gateway.
    let admitted = calls(&mut there, 100).await;
    assert!((29..60).contains(&admitted), "{admitted}");
    told_is(&redis, 61 + admitted as u64).await;
    assert!(calls(&mut here, 100).await <= 30, "what it knew of when it was told last");
    eventually("the first gateway to have heard", async || (!call(&mut here).await).then_some(())).await;

    // A gateway that comes later finds the window as it is.
    let c = gateway(&redis, COUNT).await;
    let mut late = Client::connect(&c).await;
    eventually("the new gateway to refuse", async || (!call(&mut late).await).then_some(())).await;
    // The names in Redis say whose limit it is, and expire.
    let key = redis.ask(&["KEYS", "gw:limit:*"]).await.list()[0].text();
    assert_eq!(key, "gw:limit:{nodes}{rate-limit/calls/3-90-600000-90}:%09%00%00%00127.0.0.1");
    let ttl = redis.ask(&["PTTL", &key]).await.number();
    assert!((600_000..=660_000).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn three_gateways_under_full_load_exceed_a_limit_by_no_more_than_is_said() {
    const LIMIT: u64 = 100;
    const BURST: u64 = 50;
    const LOAD: Duration = Duration::from_secs(5);
    let redis = Redis::start().await;
    let limit = format!("limit = {LIMIT}\nperiod = '1s'\nburst = {BURST}\n");
    let mut gateways = Vec::new();
    for _ in 0..NODES {
        gateways.push(gateway(&redis, &limit).await);
    }
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for gateway in &gateways {
        let mut client = Client::connect(gateway).await;
        clients.spawn(async move {
            let (mut admitted, mut asked) = (0, 0);
            while begun.elapsed() < LOAD {
                admitted += u64::from(call(&mut client).await);
                asked += 1;
            }
            (admitted, asked)
        });
    }
    let (mut admitted, mut asked) = (0, 0);
    while let Some(client) = clients.join_next().await {
        let (a, b): (u64, u64) = client.unwrap();
        admitted += a;
        asked += b;
    }
    let span = begun.elapsed();
    let by_one = |span: Duration| BURST + (LIMIT as f64 * span.as_secs_f64()) as u64;
    let others = (NODES as u64 - 1) * by_one(2 * (ROUND + TRIP));
    let (fair, bound) = (by_one(span), by_one(span) + others);
    println!(
        "{asked} asked, {admitted} admitted in {span:?}; one gateway {fair}, bound {bound}, each alone {}",
        3 * fair
    );
    assert!(admitted <= bound, "{admitted} > {bound}");
    assert!(admitted >= fair * 3 / 4, "{admitted} of {fair}: nobody is kept out for nothing");
    assert!(bound < 3 * fair * 3 / 4, "or the bound says nothing");
    assert!(asked > 2 * bound, "{asked}: more was asked for than may be admitted");
}

#[tokio::test]
async fn without_redis_each_gateway_limits_by_itself_and_on_its_return_everything_counts_once() {
    let mut redis = Redis::with("").persistent().start().await;
    let (a, b) = (gateway(&redis, COUNT).await, gateway(&redis, COUNT).await);
    let (mut here, mut there) = (Client::connect(&a).await, Client::connect(&b).await);
    assert_eq!(calls(&mut here, 5).await, 5);
    told_is(&redis, 5).await;

    redis.kill();
    for gateway in [&a, &b] {
        eventually("the gateway to say so", async || (health(gateway).await == "degraded").then_some(()))
            .await;
    }
    assert_eq!(calls(&mut here, 7).await, 7);
    assert_eq!(calls(&mut there, 100).await, 90, "a limit of its own");
    redis.revive(Data::Kept).await;
    told_is(&redis, 5 + 7 + 90).await;
    eventually("the other gateway to hear", async || (!call(&mut here).await).then_some(())).await;
}

#[tokio::test]
async fn a_report_that_redis_heard_without_an_answer_counts_once() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis, COUNT).await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(calls(&mut client, 5).await, 5);
    told_is(&redis, 5).await;
    // What is sent now lies in the sockets of the server, and the gateway hears nothing until it has given
    // up.
    redis.freeze().await;
    assert_eq!(calls(&mut client, 4).await, 4);
    eventually("the gateway to say so", async || (health(&gateway).await == "degraded").then_some(())).await;
    assert_eq!(calls(&mut client, 3).await, 3);
    redis.thaw();
    healthy(&gateway).await;
    told_is(&redis, 12).await;
    assert!(call(&mut client).await);
    told_is(&redis, 13).await;
}
