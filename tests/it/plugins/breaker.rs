//! A plugin that keeps failing is left alone; an instance that failed is replaced before anybody notices.

use std::time::{Duration, Instant};

use gateway_tests::{Client, Gateway, RawClient, within};
use serde_json::{Value, json};
use tokio::time::sleep;

const RAW: &str = "raw.enabled = true\nclient.anonymous = true\n";

async fn first_plugin(gateway: &Gateway) -> Value {
    gateway.post("/api/plugins", &json!({})).await.ok()["result"]["plugins"][0].clone()
}

/// With the echo behind it, so that what is not called is answered nevertheless.
async fn gateway(settings: &str) -> Gateway {
    let settings = format!("failure = 'open'\n{settings}");
    Gateway::with(RAW).plugin("10-trap", "guest-trap", &settings).plugin("90-echo", "echo", "").start().await
}

#[tokio::test]
async fn a_plugin_that_keeps_failing_is_not_called_until_a_probe_goes_well() {
    let gateway = gateway("breaker = { failures = 3, within = '1m', open_for = '2s' }\n").await;
    let mut client = RawClient::connect(&gateway).await;
    // While a new instance is being made the plugin is not called either: that is no failure.
    within("the third failure", async {
        while first_plugin(&gateway).await["breaker"]["state"] != "open" {
            assert_eq!(client.ask("boom").await, "boom");
        }
    })
    .await;
    let line = gateway.log().wait(&["plugin breaker changed", "open"]).await;
    assert_eq!((&*line.level, &*line.field("plugin"), &*line.field("breaker")), ("WARN", "trap", "open"));
    let open = first_plugin(&gateway).await;
    assert_eq!(open["breaker"], json!({"state": "open", "held": false}), "{open}");
    assert_eq!(client.ask("boom").await, "boom");
    let counts = first_plugin(&gateway).await["counts"].clone();
    assert_eq!((&counts["calls"], &counts["breaker_opened"]), (&json!(3), &json!(1)), "{counts}");
    assert!(counts["skipped"].as_u64() >= Some(1), "{counts}");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_plugin_breaker_open{plugin=\"trap\"}"), 1.0);
    within("a probe that goes well", async {
        while first_plugin(&gateway).await["breaker"]["state"] != "closed" {
            client.ask("fine").await;
        }
    })
    .await;
    gateway.log().wait(&["plugin breaker changed", "half-open"]).await;
    gateway.log().wait(&["plugin breaker changed", "closed"]).await;
}

#[tokio::test]
async fn an_operator_switches_a_plugin_off_and_on_by_its_breaker() {
    let gateway = gateway("").await;
    let mut client = RawClient::connect(&gateway).await;
    let set = async |state: &str| {
        gateway.post("/api/plugin_breaker", &json!({"name": "trap", "state": state})).await.ok();
        first_plugin(&gateway).await["breaker"].clone()
    };
    assert_eq!(set("open").await, json!({"state": "open", "held": true}));
    assert_eq!(client.ask("boom").await, "boom");
    assert_eq!(first_plugin(&gateway).await["counts"]["calls"], 0);
    assert_eq!(set("closed").await, json!({"state": "closed", "held": true}));
    for _ in 0..6 {
        assert_eq!(client.ask("boom").await, "boom");
    }
    assert_eq!(first_plugin(&gateway).await["breaker"]["state"], "closed", "whatever fails");
    assert_eq!(set("auto").await, json!({"state": "closed", "held": false}));
    for (body, word) in [
        (json!({"name": "trap", "state": "ajar"}), "`state` must be"),
        (json!({"name": "nobody", "state": "open"}), "is not the name of a plugin that is live"),
        (json!({"state": "open"}), "`name` is missing"),
    ] {
        let answer = gateway.post("/api/plugin_breaker", &body).await;
        assert!(answer.text().contains(word), "{}", answer.text());
    }
}

#[tokio::test]
async fn an_instance_that_failed_is_replaced_by_one_that_was_configured_before() {
    let settings = "failure = 'open'\n[config]\nconfigure_ms = 400\n";
    let config = format!("{RAW}log.filter = 'info,gateway::wasm=debug'\n");
    let gateway = Gateway::with(&config).plugin("10-trap", "guest-trap", settings).start().await;
    let mut client = RawClient::connect(&gateway).await;
    within("an instance and a spare on both workers", async {
        while gateway.log().matching(&["plugin instantiated and configured", "trap"]).len() < 4 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    client.send("boom").await;
    client.send("fine").await;
    let begin = Instant::now();
    within("both messages to reach the plugin", async {
        while first_plugin(&gateway).await["counts"]["calls"] != 2 {}
    })
    .await;
    let took = begin.elapsed();
    assert!(took < Duration::from_millis(300), "nothing is configured on the way of a message: {took:?}");
    let counts = first_plugin(&gateway).await["counts"].clone();
    assert_eq!((&counts["failures"]["trap"], &counts["skipped"]), (&json!(1), &json!(0)), "{counts}");
}

#[tokio::test]
async fn what_a_client_makes_too_deep_by_way_of_a_plugin_is_refused_and_no_failure() {
    let rules = "
        breaker = { failures = 2, within = '1m', open_for = '1m' }
        [[config.rules]]
        kind = 'rpc'
        reply = { a = { b = '{payload.x}' } }
    ";
    let gateway = Gateway::with("client.anonymous = true").plugin("90-router", "router", rules).start().await;
    let mut client = Client::connect(&gateway).await;
    let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for _ in 0..10 {
        client.send_text(&format!(r#"{{"id":7,"rpc":{{"data":{{"x":{}}}}}}}"#, deep(119))).await;
        let refused = client.reply(7, "rpc").await.expect_err("it is one level too deep");
        assert_eq!(
            (refused.code, &*refused.message),
            (107, "a payload is JSON nested deeper than 120 levels")
        );
    }
    client.send_text(&format!(r#"{{"id":8,"rpc":{{"data":{{"x":{}}}}}}}"#, deep(118))).await;
    client.reply(8, "rpc").await.expect("it is just not too deep");
    let plugin = first_plugin(&gateway).await;
    assert_eq!(plugin["breaker"]["state"], "closed");
    assert!(gateway.log().matching(&["what it answers is refused"]).len() <= 20);
}
