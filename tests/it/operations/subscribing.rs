//! Subscriptions that the backend of an application makes.

use std::time::Duration;

use gateway_tests::{Client, Gateway, Redis, eventually, token};
use serde_json::{Value, json};

const CONFIG: &str = "
    client.subscription_expiry_grace = '1s'
    [namespaces.room]
    history_size = 10
    recovery = true
    presence = true
    join_leave = true
    allow_subscribe = 'users'
    allow_publish = 'subscribers'
";

async fn gateway(more: &str) -> Gateway {
    let gateway = Gateway::with(&format!("{more}\n{CONFIG}"));
    gateway.plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await
}

/// Publishes numbers, and returns the epoch.
async fn publish(gateway: &Gateway, numbers: impl IntoIterator<Item = u64>) -> Value {
    let mut epoch = Value::Null;
    for number in numbers {
        let request = json!({ "channel": "room:1", "data": number });
        epoch = gateway.post("/api/publish", &request).await.ok()["result"]["epoch"].take();
    }
    epoch
}

/// Subscribes a user to the room with more fields.
async fn subscribe(gateway: &Gateway, user: &str, more: Value) {
    let mut request = json!({ "user": user, "channel": "room:1" });
    for (field, value) in more.as_object().unwrap() {
        request[field] = value.clone();
    }
    assert_eq!(gateway.post("/api/subscribe", &request).await.ok(), json!({ "result": {} }), "{request}");
}

/// Who is told of everybody that comes and goes.
async fn watcher(gateway: &Gateway) -> Client {
    let mut watcher = Client::connect_as(gateway, "watcher").await;
    watcher.ask("subscribe", json!({ "channel": "room:1", "join_leave": true })).await.unwrap();
    assert_eq!(watcher.push().await["join"]["info"]["user"], "watcher");
    watcher
}

#[tokio::test]
async fn the_options_of_a_subscription_reach_a_client_at_another_gateway() {
    let redis = Redis::start().await;
    let shared = format!("redis = {{ url = '{}', prefix = 'gw' }}", redis.url());
    let (here, there) = tokio::join!(gateway(&shared), gateway(&shared));
    let epoch = publish(&here, 1..=3).await;
    let mut watcher = watcher(&here).await;
    let mut ann = Client::connect_as(&there, "ann").await;
    let options = json!({
        "data": { "because": [1] },
        "info": { "color": "red" },
        "recover_since": { "offset": 1, "epoch": epoch },
        "override": { "force_push_join_leave": { "value": false } },
    });
    subscribe(&here, "ann", options).await;
    let notice = json!({
        "recoverable": true, "epoch": epoch, "offset": 1, "positioned": true, "data": { "because": [1] },
    });
    assert_eq!(ann.push().await, json!({ "channel": "room:1", "subscribe": notice }));
    for number in 2..=3 {
        assert_eq!(ann.publication("room:1").await, json!({ "data": number, "offset": number }));
    }
    let info = json!({ "user": "ann", "client": ann.id, "chan_info": { "color": "red" } });
    assert_eq!(watcher.push().await, json!({ "channel": "room:1", "join": { "info": info } }));
    eventually("ann to be listed at both", async || {
        for gateway in [&here, &there] {
            let all = gateway.post("/api/presence", &json!({ "channel": "room:1" })).await.ok();
            let listed = all["result"]["presence"].get(&*ann.id)?;
            (*listed == info).then_some(())?;
        }
        Some(())
    })
    .await;
    ann.publish("room:1", json!(4)).await;
    // She is not told that she joined.
    assert_eq!(ann.publication("room:1").await["offset"], 4);
    assert_eq!(watcher.publication("room:1").await["info"], info);
    ann.close().await;
    assert_eq!(watcher.push().await, json!({ "channel": "room:1", "leave": { "info": info } }));
}

#[tokio::test]
async fn a_subscription_may_do_without_what_its_namespace_has() {
    let gateway = gateway("").await;
    publish(&gateway, 1..=2).await;
    let mut watcher = watcher(&gateway).await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let off = json!({ "value": false });
    let hidden = json!({ "override": {
        "presence": off, "join_leave": off, "force_recovery": off, "force_positioning": off,
        "force_push_join_leave": off,
    } });
    subscribe(&gateway, "ann", hidden).await;
    assert_eq!(ann.push().await, json!({ "channel": "room:1", "subscribe": {} }));
    let count = gateway.post("/api/presence_stats", &json!({ "channel": "room:1" })).await.ok();
    assert_eq!(count["result"]["num_clients"], 1, "the watcher");
    publish(&gateway, [3]).await;
    assert_eq!(ann.publication("room:1").await["data"], 3);
    gateway.post("/api/unsubscribe", &json!({ "user": "ann", "channel": "room:1" })).await.ok();
    assert_eq!(ann.push().await["unsubscribe"]["code"], 2000);
    // Her own subscription has the rules of the namespace again.
    let subscribed = ann.subscribe("room:1").await;
    assert_eq!((&subscribed["recoverable"], &subscribed["positioned"]), (&json!(true), &json!(true)));
    assert_eq!(watcher.publication("room:1").await["data"], 3, "neither join nor leave came before");
    assert_eq!(watcher.push().await["join"]["info"], json!({ "user": "ann", "client": ann.id }));
}

#[tokio::test]
async fn a_position_that_is_gone_is_followed_by_what_comes_next() {
    let gateway = gateway("").await;
    let epoch = publish(&gateway, 1..=12).await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let quiet = json!({ "force_push_join_leave": { "value": false } });
    for since in [json!({ "offset": 1, "epoch": epoch }), json!({ "offset": 12, "epoch": "another" })] {
        subscribe(&gateway, "ann", json!({ "recover_since": since, "override": quiet })).await;
        let mut push = ann.push().await;
        let notice = push["subscribe"].take();
        assert_eq!((&notice["offset"], &notice["epoch"]), (&json!(12), &epoch), "{since}");
        gateway.post("/api/unsubscribe", &json!({ "user": "ann", "channel": "room:1" })).await.ok();
        assert_eq!(ann.push().await["unsubscribe"]["code"], 2000, "nothing came in between");
    }
}

#[tokio::test]
async fn a_subscription_ends_with_its_expiry_and_so_does_the_connection() {
    let gateway = gateway("").await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let until = token::in_time(Duration::from_secs(2));
    subscribe(&gateway, "ann", json!({ "expire_at": until })).await;
    assert!(ann.push().await["subscribe"].is_object());
    assert_eq!(ann.closed().await.code, Some(3006));
}

#[tokio::test]
async fn a_client_of_which_members_would_see_too_much_is_not_subscribed() {
    let settings = format!("{}token_bytes_max = '64KiB'\n", token::settings());
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &settings).start().await;
    let token = token::with("ann", json!({ "info": "i".repeat(31 << 10) }));
    let mut ann = Client::connect_with(&gateway, json!({ "token": token })).await;
    subscribe(&gateway, "ann", json!({ "info": "c".repeat(4000) })).await;
    gateway.log().wait(&["channel info have", "room:1"]).await;
    subscribe(&gateway, "ann", json!({ "info": "c" })).await;
    assert!(ann.push().await["subscribe"].is_object());
}
