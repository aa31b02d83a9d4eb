//! A plugin may change a message and decide about it at the same time.

use gateway_tests::{Client, Gateway};
use serde_json::json;

const RULES: &str = r#"
[[config.rules]]
kind = "subscribe"
allow = true
[[config.rules]]
kind = "publish"
rewrite = { from = "{user}" }
[[config.rules]]
channel = "hall"
allow = true
[[config.rules]]
channel = "desk"
fan_out = ["hall", "log"]
"#;

async fn gateway() -> Gateway {
    Gateway::with("")
        .plugin("10-auth-jwt", "auth-jwt", &gateway_tests::token::settings())
        .plugin("50-router", "router", RULES)
        .start()
        .await
}

#[tokio::test]
async fn a_changed_message_that_is_allowed_keeps_its_publisher() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    ann.subscribe("hall").await;
    ann.publish("hall", json!({"text": "hi"})).await;
    let publication = ann.publication("hall").await;
    assert_eq!(publication["data"], json!({"from": "ann", "text": "hi"}));
    assert_eq!(publication["info"]["user"], "ann");
}

#[tokio::test]
async fn a_changed_message_that_is_routed_is_routed_as_it_is_now() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    for channel in ["hall", "log"] {
        ann.subscribe(channel).await;
    }
    ann.publish("desk", json!({"text": "hi"})).await;
    for channel in ["hall", "log"] {
        assert_eq!(ann.publication(channel).await["data"], json!({"from": "ann", "text": "hi"}));
    }
}

#[tokio::test]
async fn a_later_plugin_sees_the_changed_message_and_may_still_refuse_it() {
    let gateway = gateway().await;
    let deny = "[[config.rules]]\nkind = \"publish\"\nfield = \"from\"\nequals = \"bob\"\ndeny = { code = 400, reason = \"not bob\" }\n";
    gateway.swap(|folder| folder.plugin("60-second", &gateway_tests::wasm("router"), deny)).await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let mut bob = Client::connect_as(&gateway, "bob").await;
    ann.ask("publish", json!({"channel": "hall", "data": {}})).await.unwrap();
    let refused = bob.ask("publish", json!({"channel": "hall", "data": {}})).await.unwrap_err();
    assert_eq!((refused.code, &*refused.message), (400, "not bob"));
}
