//! Plugins that misbehave while they run: the event meets the failure policy, the gateway goes on.

use std::time::{Duration, Instant};

use gateway_tests::{Client, Gateway, RawClient, eventually};
use serde_json::{Value, json};
use tokio::time::timeout;

const RAW: &str =
    "raw.enabled = true\nclient.anonymous = true\n[namespaces.chat]\nallow_publish = 'anyone'\n";

/// Ways to fail, and what each counts as.
const WAYS: [(&str, &str); 4] = [("boom", "trap"), ("loop", "deadline"), ("eat", "memory"), ("deep", "trap")];

async fn gateway(policy: &str) -> Gateway {
    let settings = format!("failure = '{policy}'\n[limits]\ndeadline = '200ms'\nmemory = '8MiB'\n");
    Gateway::with(RAW).plugin("10-trap", "guest-trap", &settings).plugin("90-echo", "echo", "").start().await
}

async fn failures(gateway: &Gateway) -> Value {
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    plugins["result"]["plugins"][0]["counts"]["failures"].clone()
}

#[tokio::test]
async fn a_failure_of_an_open_plugin_is_as_if_it_had_no_opinion() {
    let gateway = gateway("open").await;
    let mut client = RawClient::connect(&gateway).await;
    for (way, cause) in WAYS {
        let before = failures(&gateway).await[cause].as_u64().unwrap();
        assert_eq!(client.ask(way).await, way, "the next plugin answers");
        assert_eq!(failures(&gateway).await[cause], before + 1, "{way}");
        assert_eq!(client.ask("fine").await, "fine", "a new instance is there after {way}");
    }
    let line = gateway.log().wait(&["plugin failed"]).await;
    assert_eq!((&*line.field("plugin"), &*line.field("cause")), ("trap", "trap"), "{}", line.text);
    assert!(line.field("detail").contains("boom"), "the plugin's last words: {}", line.text);
    assert!(!line.text.contains("RUST_BACKTRACE"), "a plugin has no environment for it: {}", line.text);
}

#[tokio::test]
async fn a_failure_says_what_the_plugin_was_doing_and_different_ones_are_all_written() {
    let settings = "failure = 'open'\nbreaker.failures = 0\n[limits]\nmemory = '8MiB'\n";
    let tokens = gateway_tests::token::settings();
    let gateway = Gateway::with(RAW)
        .plugin("05-auth-jwt", "auth-jwt", &tokens)
        .plugin("10-trap", "guest-trap", settings)
        .start()
        .await;
    let mut ann = Client::open(gateway.address()).await;
    ann.ask("connect", json!({"token": gateway_tests::token::of("ann")})).await.unwrap();
    for (way, cause, words) in
        [("boom", "trap", "boom"), ("deep", "trap", "stack overflow"), ("eat", "memory", "limits.memory")]
    {
        // Until the next instance is there, the plugin is not called.
        let line = eventually("the failure to be written", async || {
            let _ = ann.ask("publish", json!({"channel": "chat:1", "data": way})).await;
            gateway.log().matching(&["plugin failed", words]).pop()
        })
        .await;
        assert_eq!(&*line.field("cause"), cause, "{}", line.text);
        for (field, value) in
            [("hook", "on-message"), ("kind", "publish"), ("channel", "chat:1"), ("user", "ann")]
        {
            assert_eq!(&*line.field(field), value, "{}", line.text);
        }
        assert_eq!(line.field("connection").len(), 36, "{}", line.text);
    }
}

#[tokio::test]
async fn a_failure_of_a_closed_plugin_refuses_the_event() {
    let gateway = gateway("closed").await;
    let mut raw = RawClient::connect(&gateway).await;
    for (number, (way, _)) in WAYS.into_iter().enumerate() {
        // In raw mode there is no reply to say so in: the next answer is the next message's.
        raw.send(way).await;
        let fine = format!("fine {number}");
        // Until the next instance is there, messages are refused as well.
        let mut answer = String::new();
        while answer != fine {
            raw.send(&fine).await;
            answer = timeout(Duration::from_millis(50), raw.text()).await.unwrap_or_default();
            assert!(!WAYS.iter().any(|(way, _)| *way == answer), "{answer}");
        }
    }
}

#[tokio::test]
async fn who_expects_a_reply_is_told_of_a_failure_of_a_closed_plugin() {
    let long = "x".repeat(2000);
    for (policy, code) in [("closed", 100), ("open", 108)] {
        let router = format!(
            "failure = '{policy}'\n[limits]\neffect_bytes_max = '1KiB'\n\
             [[config.rules]]\nkind = 'rpc'\nreply = '{long}'\n"
        );
        let gateway = Gateway::with(RAW).plugin("90-router", "router", &router).start().await;
        let mut client = Client::connect(&gateway).await;
        assert_eq!(client.ask("rpc", json!({})).await.unwrap_err().code, code, "{policy}");
        assert_eq!(failures(&gateway).await["invalid-answer"], 1);
    }
}

#[tokio::test]
async fn an_endless_loop_is_cut_at_the_deadline_and_others_are_served() {
    let gateway = gateway("open").await;
    let mut looping = RawClient::connect(&gateway).await;
    let begun = Instant::now();
    assert_eq!(looping.ask("loop").await, "loop");
    let took = begun.elapsed();
    assert!((Duration::from_millis(150)..Duration::from_secs(2)).contains(&took), "{took:?}");
    // Clients of both workers.
    for _ in 0..16 {
        assert_eq!(RawClient::connect(&gateway).await.ask("x").await, "x");
    }
}

#[tokio::test]
async fn a_plugin_that_always_fails_does_not_take_the_gateway_with_it() {
    let settings = "failure = 'open'\nbreaker.failures = 0\n";
    let gateway = Gateway::with(RAW)
        .plugin("10-trap", "guest-trap", settings)
        .plugin("90-echo", "echo", "")
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(RawClient::connect(&gateway).await);
    }
    for round in 0..50 {
        for client in &mut clients {
            client.send("boom").await;
        }
        for client in &mut clients {
            assert_eq!(client.text().await, "boom", "round {round}");
        }
    }
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    let counts = &plugins["result"]["plugins"][0]["counts"];
    let (failed, skipped) =
        (counts["failures"]["trap"].as_u64().unwrap(), counts["skipped"].as_u64().unwrap());
    // Those that came before the next instance was there met the policy without a call.
    assert_eq!(failed + skipped, 400);
    assert!(failed > 10, "{failed} of 400 reached the plugin");
    let lines = gateway.log().matching(&["plugin failed"]).len();
    assert!(lines < 40, "a flood of failures is not a flood of lines: {lines}");
}

#[tokio::test]
async fn a_plugin_that_floods_the_log_is_cut_short() {
    let gateway = gateway("open").await;
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("print").await, "print");
    assert_eq!(client.ask("fine").await, "fine");
    let lines = gateway.log().matching(&["xxxxxxxx"]).len();
    assert!(lines <= 3 * 20, "{lines} lines of a plugin that may write 20 in a second");
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    let dropped = plugins["result"]["plugins"][0]["counts"]["log_lines_dropped"].as_u64().unwrap();
    assert!(dropped > 400, "{dropped}");
}
