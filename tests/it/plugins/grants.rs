//! What a plugin reaches: only what its settings file grants, and what it was told in confidence stays there.

use gateway_tests::{Gateway, RawClient, wasm};
use serde_json::json;

const RAW: &str = "raw.enabled = true\nclient.anonymous = true\n";
const KEY: &str = "hunter2-and-more";
const GRANTS: &str = "[grants]\neffects = ['publish']\nenvironment = ['SECRETS_KEY']\n";

#[tokio::test]
async fn a_plugin_that_asks_for_more_than_it_is_granted_is_refused_with_the_line_to_add() {
    let gateway = Gateway::with(RAW).environment("SECRETS_KEY", KEY).start().await;
    let line = gateway.refusal(|folder| folder.plugin("10-secrets", &wasm("guest-secrets"), "")).await;
    assert_eq!(line.field("code"), "not-granted", "{}", line.text);
    assert!(
        line.message.contains(
            "asks for effects.publish and environment SECRETS_KEY, which 10-secrets.toml does not grant; add under [grants]: \
             effects = [\"publish\"], environment = [\"SECRETS_KEY\"]"
        ),
        "{}",
        line.message
    );
    let lines = line.message.split_once("[grants]: ").unwrap().1.split_once(';').unwrap().0;
    let settings = format!("[grants]\n{}", lines.replace("], ", "]\n"));
    gateway.swap(|folder| folder.settings("10-secrets", &settings)).await;
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    let secrets = &plugins["result"]["plugins"][0];
    assert_eq!(secrets["asks"], json!(["effects.publish", "environment SECRETS_KEY"]));
    assert_eq!(secrets["grants"], secrets["asks"]);
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("key?").await, format!("{} bytes", KEY.len()));
    assert_eq!(client.ask("path?").await, "none", "the gateway has a PATH, and it was not granted");
    gateway.log().wait(&["environment variable", "PATH", "environment = "]).await;
}

#[tokio::test]
async fn a_secret_does_not_leave_the_plugin_by_its_words() {
    let gateway = Gateway::with(RAW)
        .environment("SECRETS_KEY", KEY)
        .plugin("10-secrets", "guest-secrets", GRANTS)
        .plugin("90-echo", "echo", "")
        .start()
        .await;
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("log").await, "done");
    assert_eq!(client.ask("print").await, "done");
    for way in ["panic", "route"] {
        client.send(way).await;
        assert_eq!(client.ask("key?").await, format!("{} bytes", KEY.len()), "{way}");
    }
    let blabs = format!("{GRANTS}[config]\nblab = true\n");
    let refused = gateway.refusal(|folder| folder.settings("10-secrets", &blabs)).await;
    assert!(refused.message.contains("the key is ***, which nobody should read"), "{}", refused.text);
    for words in ["logged: ***", "printed: ***", "panicked: ***"] {
        gateway.log().wait(&[words]).await;
    }
    let plugins = gateway.post("/api/plugins", &json!({})).await.text();
    assert!(plugins.contains("the key is ***"), "{plugins}");
    let metrics = gateway.get("/metrics").await.text();
    let log = gateway.log().tail(10_000);
    for (place, text) in [("admin answers", plugins), ("metrics", metrics), ("log", log)] {
        assert!(!text.contains("hunter2"), "the key is in the {place}:\n{text}");
    }
}
