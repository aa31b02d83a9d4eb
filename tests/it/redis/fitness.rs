//! Settings of Redis that do not fit what the configuration promises are named, and so is every server that
//! something is wrong with.

use std::time::Duration;

use gateway_tests::{Gateway, Redis, Sentinels, Tool, eventually, eventually_within, gateway_binary};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);
const KEEPING: &str = "[namespaces.news]\nhistory_size = 1000\nrecovery = true\nallow_subscribe = 'anyone'\n";

fn on(redis: &Redis, rules: &str) -> String {
    format!("client.anonymous = true\nredis.url = '{}'\n{rules}", redis.url())
}

/// The warning with these words, as soon as it is there: the gateway is ready all the same.
async fn warning(gateway: &Gateway, words: &str) -> String {
    eventually_within(LIMIT, format!("a warning: {words}"), async || {
        let health = gateway.get("/health/ready").await;
        assert_eq!(health.status, 200);
        let health: Value = health.json();
        let all = health["warnings"].as_array().cloned().unwrap_or_default();
        all.iter().map(|one| one.as_str().unwrap().to_owned()).find(|one| one.contains(words))
    })
    .await
}

#[tokio::test]
async fn every_setting_that_does_not_fit_is_named_once_in_health_log_and_metric() {
    for (settings, rules, words, setting) in [
        (
            "maxmemory-policy allkeys-lru\nmaxmemory 1gb\n",
            "",
            "`maxmemory-policy` is allkeys-lru",
            "eviction",
        ),
        ("maxmemory-policy volatile-ttl\n", "", "`maxmemory-policy` is volatile-ttl", "eviction"),
        ("maxmemory 2mb\n", KEEPING, "`maxmemory` is 2097152 bytes", "memory"),
        ("", KEEPING, "neither `appendonly` nor `save`", "persistence"),
        (
            "appendonly yes\n",
            "[namespaces.a]\nhistory_size = 1\nmin_replicas = 2\n",
            "`min_replicas = 2`",
            "replicas",
        ),
    ] {
        let redis = Redis::with(settings).start().await;
        let gateway = Gateway::start(&on(&redis, rules)).await;
        let told = warning(&gateway, words).await;
        assert!(told.starts_with(&redis.address().to_string()), "it names the server: {told}");
        let unfit = format!("gateway_backplane_unfit{{setting=\"{setting}\"}}");
        eventually("the metric", async || (gateway.metrics().await.get(&unfit) == 1.0).then_some(())).await;
        assert_eq!(gateway.log().matching(&["redis setting does not fit", words]).len(), 1);
    }
}

#[tokio::test]
async fn what_fits_again_is_no_warning_any_more() {
    let redis = Redis::with("appendonly yes\nmaxmemory-policy allkeys-lfu\n").start().await;
    let gateway = Gateway::start(&on(&redis, KEEPING)).await;
    warning(&gateway, "allkeys-lfu").await;
    redis.set("maxmemory-policy", "noeviction").await;
    eventually_within(LIMIT, "a server that fits", async || {
        (gateway.get("/health/ready").await.json() == json!({ "status": "ready" })).then_some(())
    })
    .await;
    assert_eq!(gateway.metrics().await.get("gateway_backplane_unfit{setting=\"eviction\"}"), 0.0);
}

/// The user of `gateway/REDIS.md`.
#[tokio::test]
async fn the_user_of_the_documentation_may_do_all_that_a_gateway_does() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/REDIS.md")).unwrap();
    let rules =
        page.lines().find_map(|line| line.strip_prefix("ACL SETUSER gateway on ")).expect("it is there");
    let rules = rules.replace("PASSWORD", "secret").replace("P:*", "gateway:*");
    let redis = Redis::with("maxmemory-policy allkeys-lru\n").user("gateway", &rules).start().await;
    let config = |rules: &str| {
        format!(
            "client.anonymous = true\n[redis]\nurl = 'redis://{}'\nusername = 'gateway'\npassword = 'env:PASSWORD'\n{rules}",
            redis.address()
        )
    };
    let start =
        async |rules: &str| Gateway::with(&config(rules)).environment("PASSWORD", "secret").start().await;
    let gateways = [start(KEEPING).await, start("[namespaces.news]\nallow_subscribe = 'anyone'\n").await];
    for gateway in &gateways {
        warning(gateway, "allkeys-lru").await;
        let published = gateway.post("/api/publish", &json!({ "channel": "news:1", "data": 1 })).await.ok();
        assert!(published["result"]["offset"].as_u64() > Some(0), "{published}");
        eventually_within(LIMIT, "the other gateway", async || {
            (gateway.metrics().await.get("gateway_nodes") == 2.0).then_some(())
        })
        .await;
        assert!(gateway.log().matching(&["NOPERM"]).is_empty());
    }
}

#[tokio::test]
async fn who_says_what_is_told_when_too_few_sentinels_are_left() {
    let mut group = Sentinels::start().await;
    let addresses: Vec<_> = group.addresses().iter().map(|at| format!("'{at}'")).collect();
    let config = format!(
        "client.anonymous = true\n[redis]\nsentinels = [{}]\nsentinel_master = '{}'\n{KEEPING}",
        addresses.join(", "),
        group.name()
    );
    let gateway = Gateway::start(&config).await;
    let master = group.master().await;
    let (server, sentinels) = (group.servers()[master].address(), group.addresses());
    group.sentinels()[0].kill();
    group.sentinels()[1].kill();
    group.servers()[master].kill();
    eventually_within(LIMIT, "a reason with all names in it", async || {
        let health = gateway.get("/health/ready").await.text();
        let named = [
            format!("{server}: redis cannot be reached"),
            format!("{} names {server}", sentinels[2]),
            format!("{}: ", sentinels[0]),
            format!("{}: ", sentinels[1]),
        ];
        named.iter().all(|words| health.contains(words)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_named() {
    let mut redis = Redis::start().await;
    let gateway = Gateway::start(&on(&redis, KEEPING)).await;
    redis.kill();
    let words = format!("{}: redis cannot be reached: ", redis.address());
    eventually_within(LIMIT, "a reason that names the server", async || {
        gateway.get("/health/ready").await.text().contains(&words).then_some(())
    })
    .await;
    gateway.log().wait(&["backplane degraded", &words]).await;
}

#[tokio::test]
async fn inspect_shows_gateways_that_differ_and_settings_that_do_not_fit() {
    let redis = Redis::with("maxmemory-policy allkeys-lru\n").start().await;
    let a = Gateway::with(&on(&redis, KEEPING));
    let file = a.config();
    let a = a.start().await;
    let _b = Gateway::start(&on(&redis, "[namespaces.news]\nallow_subscribe = 'anyone'\n")).await;
    eventually_within(LIMIT, "the other gateway", async || {
        (a.metrics().await.get("gateway_nodes_differing{subject=\"rules\"}") == 1.0).then_some(())
    })
    .await;
    let run = async |tool: Tool| {
        let output = tool.output(LIMIT).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let tool =
        Tool::new(gateway_binary()).arg("redis").arg("inspect").arg("news:1").arg("--config").arg(&file);
    let shown = run(tool).await;
    assert!(
        shown.contains("gateways 2") && shown.contains("namespaces.news.history_size: 0 there, 1000 here"),
        "{shown}"
    );
    assert!(shown.contains("`maxmemory-policy` is allkeys-lru"), "{shown}");
    let tool =
        Tool::new(gateway_binary()).arg("inspect").arg("--address").arg(format!("http://{}", a.admin()));
    let shown = run(tool.env("GATEWAY_ADMIN_API_KEY", gateway_tests::API_KEY)).await;
    assert!(shown.contains("namespaces.news.history_size: 0 there, 1000 here"), "{shown}");
}
