//! What plugins make of publications on their way to subscribers. The plugin is that of `examples/redact`,
//! with its own configuration.

use std::fs;
use std::path::{Path, PathBuf};

use gateway_tests::{Client, Gateway};
use serde_json::{Value, json};

const ROOM: &str = "chat:lobby";

fn example(file: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/redact").join(file);
    fs::read_to_string(path).expect("a file of the example")
}

async fn gateway() -> Gateway {
    let settings = example("plugins/10-redact.toml");
    Gateway::with(&example("gateway.toml")).plugin("10-redact", "redact", &settings).start().await
}

async fn moderator(gateway: &Gateway) -> Client {
    Client::connect_with(gateway, json!({ "token": "let me see" })).await
}

async fn history(client: &mut Client, limit: i64) -> Vec<Value> {
    let query = json!({ "channel": ROOM, "limit": limit });
    let reply = client.ask("history", query).await.expect("anyone may read");
    reply["publications"].as_array().cloned().unwrap_or_default()
}

fn data(publications: &[Value]) -> Vec<&str> {
    publications.iter().map(|publication| publication["data"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn each_class_sees_its_view_with_one_offset_and_two_calls_are_enough() {
    let gateway = gateway().await;
    let mut moderator = moderator(&gateway).await;
    moderator.subscribe(ROOM).await;
    let mut members = Vec::new();
    for _ in 0..10 {
        let mut member = Client::connect(&gateway).await;
        member.subscribe(ROOM).await;
        members.push(member);
    }
    let calls = async || gateway.metrics().await.get("gateway_plugin_calls_total{plugin=\"redact\"}");
    let before = calls().await;
    members[0].publish(ROOM, json!("oh darn")).await;
    let clear = moderator.publication(ROOM).await;
    assert_eq!((&clear["data"], &clear["offset"]), (&json!("oh darn"), &json!(1)));
    for member in &mut members {
        let masked = member.publication(ROOM).await;
        assert_eq!((&masked["data"], &masked["offset"]), (&json!("oh ***"), &json!(1)));
        assert_eq!(masked["info"], clear["info"], "who published it stays");
    }
    // Two workers with members, one of them with the moderator.
    let deliveries = calls().await - before;
    assert!((2.0..=3.0).contains(&deliveries), "{deliveries} calls for 11 subscribers");
    let metrics = gateway.metrics().await;
    let replaced = metrics.get("gateway_plugin_deliveries_replaced_total{plugin=\"redact\"}");
    assert!((1.0..=2.0).contains(&replaced), "{replaced}");
    assert_eq!(metrics.get("gateway_plugin_deliveries_dropped_total{plugin=\"redact\"}"), 0.0);
}

#[tokio::test]
async fn history_and_recovery_go_through_the_plugin_too() {
    let gateway = gateway().await;
    let (mut moderator, mut member) = (moderator(&gateway).await, Client::connect(&gateway).await);
    let subscribed = member.subscribe(ROOM).await;
    for text in ["one", "heck", "three"] {
        moderator.publish(ROOM, json!(text)).await;
    }
    assert_eq!(data(&history(&mut moderator, 10).await), ["one", "heck", "three"]);
    assert_eq!(data(&history(&mut member, 10).await), ["one", "***", "three"]);
    assert_eq!(data(&history(&mut member, 2).await), ["one", "***"]);
    assert_eq!(history(&mut member, 0).await.len(), 0);
    let recover = json!({ "channel": ROOM, "recover": true, "epoch": subscribed["epoch"], "offset": 0 });
    for (client, seen) in [(&mut Client::connect(&gateway).await, "***"), (&mut moderator, "heck")] {
        let reply = client.ask("subscribe", recover.clone()).await.unwrap();
        assert_eq!(reply["recovered"], true);
        assert_eq!(data(reply["publications"].as_array().unwrap()), ["one", seen, "three"]);
    }
}

#[tokio::test]
async fn other_channels_do_not_meet_the_plugin() {
    let gateway = Gateway::with("client.anonymous = true\nchannel.allow_subscribe = 'anyone'")
        .plugin("10-redact", "redact", &example("plugins/10-redact.toml"))
        .start()
        .await;
    let mut member = Client::connect(&gateway).await;
    member.subscribe("news").await;
    gateway.post("/api/publish", &json!({ "channel": "news", "data": "darn" })).await.ok();
    assert_eq!(member.publication("news").await["data"], "darn");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_plugin_calls_total{plugin=\"redact\"}"), 1.0, "its connect");
}

#[tokio::test]
async fn subscribers_of_a_pattern_get_what_the_plugin_makes_of_the_real_channel() {
    let settings = example("plugins/10-redact.toml").replace("chat:*", "chat:tame*");
    let config = [&*example("gateway.toml"), "wildcards = true"].join("\n");
    let gateway = Gateway::with(&config).plugin("10-redact", "redact", &settings).start().await;
    let (mut member, mut moderator) = (Client::connect(&gateway).await, moderator(&gateway).await);
    for client in [&mut member, &mut moderator] {
        client.subscribe("chat:*").await;
        client.subscribe("chat:tame").await;
    }
    for channel in ["chat:tame", "chat:wild"] {
        gateway.post("/api/publish", &json!({ "channel": channel, "data": "darn" })).await.ok();
    }
    for (client, tame) in [(&mut member, "***"), (&mut moderator, "darn")] {
        let mut heard = Vec::new();
        for _ in 0..3 {
            let push = client.push().await;
            let told = &push["pub"];
            heard.push(json!([push["channel"], told["channel"], told["data"]]).to_string());
        }
        heard.sort();
        let expected = [
            json!(["chat:*", "chat:tame", tame]),
            json!(["chat:*", "chat:wild", "darn"]),
            json!(["chat:tame", null, tame]),
        ];
        assert_eq!(heard, expected.map(|told| told.to_string()));
    }
}

#[tokio::test]
async fn the_rules_of_delivery_change_under_open_connections() {
    let gateway = gateway().await;
    let (mut moderator, mut member) = (moderator(&gateway).await, Client::connect(&gateway).await);
    for client in [&mut moderator, &mut member] {
        client.subscribe(ROOM).await;
    }
    let publish = async |text: &str| {
        gateway.post("/api/publish", &json!({ "channel": ROOM, "data": text })).await.ok();
    };
    publish("darn").await;
    assert_eq!(member.publication(ROOM).await["data"], "***");
    gateway.swap(|folder| folder.remove("10-redact.wasm")).await;
    publish("darn").await;
    assert_eq!(member.publication(ROOM).await["data"], "darn");
    let settings = example("plugins/10-redact.toml");
    gateway.swap(|folder| folder.plugin("20-redact", &gateway_tests::wasm("redact"), &settings)).await;
    publish("darn").await;
    assert_eq!(member.publication(ROOM).await["data"], "***");
    for _ in 0..3 {
        assert_eq!(moderator.publication(ROOM).await["data"], "darn", "the moderator stayed one");
    }
}
