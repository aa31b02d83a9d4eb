//! Subscribers that want publications with certain tags only: what is left out counts as received.

use gateway_tests::{Client, Gateway};
use serde_json::{Value, json};

const CONFIG: &str = "
    client.anonymous = true
    [namespaces.goals]
    history_size = 100
    recovery = true
    tag_filter = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    allow_history = 'anyone'
    [namespaces.plain]
    allow_subscribe = 'anyone'
";

async fn publish(gateway: &Gateway, number: u64, kind: &str) {
    let request = json!({ "channel": "goals:1", "data": number, "tags": { "kind": kind } });
    gateway.post("/api/publish", &request).await.ok();
}

fn goals() -> Value {
    json!({ "key": "kind", "cmp": "eq", "val": "goal" })
}

fn numbers(answer: &Value) -> Vec<u64> {
    let publications = answer["publications"].as_array().cloned().unwrap_or_default();
    publications.iter().map(|publication| publication["data"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_recovery_leaves_out_what_the_filter_rejects_and_is_complete() {
    let gateway = Gateway::start(CONFIG).await;
    let mut client = Client::connect(&gateway).await;
    let start = client.subscribe("goals:1").await["epoch"].clone();
    client.close().await;
    for (number, kind) in [(1, "foul"), (2, "goal"), (3, "foul"), (4, "goal"), (5, "foul")] {
        publish(&gateway, number, kind).await;
    }
    let recover = |offset: u64| json!({ "channel": "goals:1", "recover": true, "offset": offset, "epoch": start, "tf": goals() });
    let mut client = Client::connect(&gateway).await;
    let subscribed = client.ask("subscribe", recover(0)).await.unwrap();
    assert_eq!(subscribed["recovered"], true, "{subscribed}");
    assert_eq!(numbers(&subscribed), [2, 4]);
    assert_eq!(subscribed["publications"][0]["tags"], json!({ "kind": "goal" }));
    publish(&gateway, 6, "foul").await;
    publish(&gateway, 7, "goal").await;
    assert_eq!(client.publication("goals:1").await["offset"], 7, "6 was left out, and nothing is missing");

    let mut other = Client::connect(&gateway).await;
    let subscribed = other.ask("subscribe", recover(7)).await.unwrap();
    assert_eq!((&subscribed["recovered"], &subscribed["offset"]), (&json!(true), &json!(7)));
    let mut third = Client::connect(&gateway).await;
    publish(&gateway, 8, "foul").await;
    let subscribed = third.ask("subscribe", recover(7)).await.unwrap();
    assert_eq!(subscribed["recovered"], true, "all that was missed is left out");
    assert_eq!((numbers(&subscribed).len(), &subscribed["offset"]), (0, &json!(8)));
    publish(&gateway, 9, "goal").await;
    for client in [&mut other, &mut third] {
        assert_eq!(client.publication("goals:1").await["offset"], 9);
    }
}

#[tokio::test]
async fn a_history_that_is_filtered_has_full_pages() {
    let gateway = Gateway::start(CONFIG).await;
    let mut client = Client::connect(&gateway).await;
    client.ask("subscribe", json!({ "channel": "goals:1", "tf": goals() })).await.unwrap();
    for number in 1..=40 {
        publish(&gateway, number, if number % 10 == 0 { "goal" } else { "foul" }).await;
    }
    let page = json!({ "channel": "goals:1", "limit": 3 });
    let answer = client.ask("history", page.clone()).await.unwrap();
    assert_eq!((numbers(&answer), &answer["offset"]), (vec![10, 20, 30], &json!(40)));
    // Without a subscription there is no filter.
    client.ask("unsubscribe", json!({ "channel": "goals:1" })).await.unwrap();
    assert_eq!(numbers(&client.ask("history", page).await.unwrap()), [1, 2, 3]);
}

#[tokio::test]
async fn publications_without_tags_have_none_and_the_next_subscription_has_its_own_filter() {
    let gateway = Gateway::start(CONFIG).await;
    let mut client = Client::connect(&gateway).await;
    client.ask("subscribe", json!({ "channel": "goals:1", "tf": goals() })).await.unwrap();
    client.publish("goals:1", json!("of a client")).await;
    publish(&gateway, 1, "goal").await;
    assert_eq!(client.publication("goals:1").await["data"], 1);
    client.ask("unsubscribe", json!({ "channel": "goals:1" })).await.unwrap();
    let untagged = json!({ "key": "kind", "cmp": "nex" });
    client.ask("subscribe", json!({ "channel": "goals:1", "tf": untagged })).await.unwrap();
    publish(&gateway, 2, "goal").await;
    client.publish("goals:1", json!("once more")).await;
    assert_eq!(client.publication("goals:1").await["data"], "once more");
}

#[tokio::test]
async fn a_filter_that_is_wrong_or_not_permitted_is_an_error_with_the_reason() {
    let gateway = Gateway::start(CONFIG).await;
    let mut client = Client::connect(&gateway).await;
    let mut deep = goals();
    for _ in 0..8 {
        deep = json!({ "op": "not", "nodes": [deep] });
    }
    let values: Vec<_> = (0..128).map(|number| number.to_string()).collect();
    for (channel, filter, words) in [
        ("goals:1", json!({ "key": "kind", "cmp": "like", "val": "x" }), "`cmp` is none of"),
        ("goals:1", json!({ "op": "xor", "nodes": [goals()] }), "`op` is none of"),
        ("goals:1", json!("kind = goal"), "a field of a wrong type"),
        ("goals:1", deep, "more than 8 levels"),
        ("goals:1", json!({ "key": "n", "cmp": "in", "vals": values }), "more than 128 nodes and values"),
        ("goals:1", json!({ "key": "n", "cmp": "eq", "val": "x".repeat(4096) }), "more than 4096 bytes"),
        ("plain:1", goals(), "does not have `tag_filter = true`"),
    ] {
        let refused = client.ask("subscribe", json!({ "channel": channel, "tf": filter })).await.unwrap_err();
        assert_eq!(refused.code, 107, "{refused:?}");
        assert!(refused.message.contains(words), "{refused:?}");
    }
    client.subscribe("goals:1").await;
    client.subscribe("plain:1").await;
}
