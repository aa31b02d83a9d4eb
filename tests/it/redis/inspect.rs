//! `gateway redis inspect`: what lies in Redis for a channel.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use gateway_tests::{Client, Gateway, Redis, Tool, eventually_within, gateway_binary};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);
const RULES: &str = "
client.anonymous = true
[namespaces.news]
history_size = 10
allow_subscribe = 'anyone'
";

fn config(redis: &Redis) -> String {
    format!("{RULES}\n[redis]\nurl = 'redis://{}'\nprefix = 'gw'\n", redis.address())
}

/// Exit code, standard output, standard error.
async fn inspect(config: &str, arguments: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    fs::write(&file, config).unwrap();
    let tool = Tool::new(gateway_binary()).arg("redis").arg("inspect").arg("--config").arg(&file);
    let output = arguments.iter().fold(tool, |tool, argument| tool.arg(argument)).output(LIMIT).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("it was not killed"), text(output.stdout), text(output.stderr))
}

pub(super) async fn report(config: &str, channel: &str) -> Value {
    let (code, out, err) = inspect(config, &[channel, "--json"]).await;
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

/// Names and types.
fn keys(report: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    report["keys"].as_array().unwrap().iter().map(|key| (text(&key["name"]), text(&key["type"]))).collect()
}

#[tokio::test]
async fn everything_of_a_channel_is_shown_and_nothing_of_another_and_nothing_is_changed() {
    let redis = Redis::start().await;
    let config = config(&redis);
    let gateway = Gateway::start(&config).await;
    let ready = async || (gateway.get("/health/ready").await.status == 200).then_some(());
    eventually_within(LIMIT, "a gateway that is ready", ready).await;
    let mut client = Client::connect(&gateway).await;
    client.subscribe("news:1").await;
    let mut last = Value::Null;
    for number in 1..=12 {
        let publish = json!({ "channel": "news:1", "data": number, "version": number, "idempotency_key": number.to_string() });
        last = gateway.post("/api/publish", &publish).await.ok()["result"].clone();
    }
    for other in ["news:11", "news:2"] {
        gateway.post("/api/publish", &json!({ "channel": other, "data": 1 })).await.ok();
    }
    let before = redis.ask(&["PTTL", "gw:top:{news:1}"]).await.number();

    let report = report(&config, "news:1").await;
    assert_eq!(report["stream"]["epoch"], last["epoch"], "{report}");
    assert_eq!((&report["stream"]["offset"], &report["stream"]["goes_on"]), (&json!(12), &json!(true)));
    assert_eq!(report["stream"]["version"], json!([12, ""]));
    assert_eq!(report["publications"]["count"], 10);
    assert_eq!(
        (&report["publications"]["oldest"][0], &report["publications"]["newest"][0]),
        (&json!(3), &json!(12))
    );
    let age = report["now"].as_u64().unwrap() - report["publications"]["newest"][1].as_u64().unwrap();
    assert!(age < 60_000, "{report}");
    assert_eq!((&report["listeners"], &report["idempotency_keys"]), (&json!(1), &json!(12)));
    let keys = keys(&report);
    assert_eq!(keys.len(), 14, "{keys:?}");
    assert_eq!((&*keys["gw:stream:{news:1}"], &*keys["gw:top:{news:1}"]), ("stream", "hash"));
    for key in report["keys"].as_array().unwrap() {
        assert!(key["bytes"].as_u64().unwrap() > 0 && key["expires_in"].as_u64().unwrap() > 0, "{key}");
    }
    assert!(redis.ask(&["PTTL", "gw:top:{news:1}"]).await.number() <= before, "reading has renewed nothing");

    let (code, text, _) = inspect(&config, &["news:1"]).await;
    assert_eq!(code, 0);
    assert!(
        text.contains("offset 12") && text.contains("10 publications") && text.contains("gw:top:{news:1}"),
        "{text}"
    );
}

#[tokio::test]
async fn a_stream_of_another_server_is_told_and_so_is_nothing_at_all() {
    let redis = Redis::start().await;
    redis.ask(&["HSET", "gw:top:{news:1}", "epoch", "e", "server", "gone", "offset", "7"]).await;
    let (code, text, _) = inspect(&config(&redis), &["news:1"]).await;
    assert!(code == 0 && text.contains("another server (gone"), "{text}");
    let (code, text, _) = inspect(&config(&redis), &["news:2"]).await;
    assert!(code == 0 && text.contains("no stream"), "{text}");
    assert_eq!(redis.ask(&["DBSIZE"]).await.number(), 1, "nothing was written");
}

#[tokio::test]
async fn what_cannot_be_looked_at_says_why() {
    let redis = Redis::with("").password("right").start().await;
    let (code, _, text) = inspect(&config(&redis), &["news:1"]).await;
    assert!(code == 5 && text.contains("NOAUTH"), "{text}");
    let nobody = "redis.url = 'redis://127.0.0.1:1'";
    let (code, _, text) = inspect(nobody, &["news:1"]).await;
    assert!(code == 5 && text.contains("redis.url"), "{text}");
    let (code, _, text) = inspect(RULES, &["news:1"]).await;
    assert!(code == 5 && text.contains("`[redis]` names no server"), "{text}");
    let (code, _, _) = inspect(nobody, &[""]).await;
    assert_eq!(code, 2);
}
