//! Messages to one user or one connection, and the router that sends them there.

use gateway_tests::{Client, Gateway, token};
use serde_json::{Value, json};

const CONFIG: &str = "
    [namespaces.chat]
    allow_subscribe = 'users'
";

const ROUTER: &str = r##"
    [[config.rules]]
    kind = ["publish", "send"]
    field = "to"
    equals = "nobody"
    drop = true

    [[config.rules]]
    kind = "publish"
    channel = "dm"
    authenticated = true
    direct = "#{payload.to}"

    [[config.rules]]
    kind = "send"
    direct = "#{payload.to}"

    [[config.rules]]
    kind = "publish"
    channel = "chat:*"
    rewrite = { from = "{user}" }

    [[config.rules]]
    kind = "publish"
    channel = "chat:*"
    fan_out = ["{channel}", "chat:all"]

    [[config.rules]]
    kind = "rpc"
    reply = { hello = "{user}" }
"##;

async fn gateway() -> Gateway {
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &token::settings());
    gateway.plugin("90-router", "router", ROUTER).start().await
}

/// Published to `user` by the API, after everything that came before: to see that nothing else did.
async fn marker(gateway: &Gateway, address: &str) {
    gateway.post("/api/publish", &json!({ "channel": address, "data": "marker" })).await.ok();
}

#[tokio::test]
async fn a_message_to_a_user_reaches_all_connections_of_the_user_and_no_other() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let mut bob_at_home = Client::connect_as(&gateway, "bob").await;
    let mut bob_on_the_way = Client::connect_as(&gateway, "bob").await;
    let mut eve = Client::connect_as(&gateway, "eve").await;
    let message = json!({ "to": "bob", "text": "psst" });
    ann.publish("dm", message.clone()).await;
    assert_eq!(bob_at_home.direct().await, message);
    assert_eq!(bob_on_the_way.direct().await, message);
    for (user, client) in [("ann", &mut ann), ("eve", &mut eve)] {
        marker(&gateway, &format!("#{user}")).await;
        assert_eq!(client.direct().await, "marker");
    }
}

#[tokio::test]
async fn a_send_command_can_be_routed_and_has_no_reply() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let mut bob = Client::connect_as(&gateway, "bob").await;
    ann.send_text(&json!({ "send": { "data": { "to": "bob" } } }).to_string()).await;
    assert_eq!(bob.direct().await, json!({ "to": "bob" }));
    let answer = ann.ask("rpc", json!({ "method": "hello", "data": {} })).await.unwrap();
    assert_eq!(answer["data"], json!({ "hello": "ann" }));
}

#[tokio::test]
async fn a_message_that_is_dropped_looks_as_if_it_had_gone_out() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let mut nobody = Client::connect_as(&gateway, "nobody").await;
    ann.publish("dm", json!({ "to": "nobody" })).await;
    marker(&gateway, "#nobody").await;
    assert_eq!(nobody.direct().await, "marker");
}

#[tokio::test]
async fn a_message_can_be_rewritten_and_sent_to_several_channels() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    ann.subscribe("chat:1").await;
    ann.subscribe("chat:all").await;
    ann.publish("chat:1", json!({ "text": "hi", "from": "the queen" })).await;
    let expected = json!({ "text": "hi", "from": "ann" });
    assert_eq!(ann.publication("chat:1").await["data"], expected);
    assert_eq!(ann.publication("chat:all").await["data"], expected);
}

#[tokio::test]
async fn an_address_without_a_user_is_an_error_of_the_sender() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    for data in [json!({}), json!({ "to": "" }), json!({ "to": "a\nb" }), json!("text"), Value::from(1)] {
        let refused = ann.ask("publish", json!({ "channel": "dm", "data": data })).await.unwrap_err();
        assert_eq!(refused.code, 107, "{data}");
    }
}

#[tokio::test]
async fn one_connection_can_be_addressed_by_its_id() {
    let gateway = gateway().await;
    let mut first = Client::connect_as(&gateway, "ann").await;
    let mut second = Client::connect_as(&gateway, "ann").await;
    let publish = json!({ "channel": format!("@{}", first.id), "data": "only you" });
    gateway.post("/api/publish", &publish).await.ok();
    assert_eq!(first.direct().await, "only you");
    marker(&gateway, "#ann").await;
    assert_eq!(second.direct().await, "marker");
}
