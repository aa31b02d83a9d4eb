//! The plugin `rate-limit` in front of others: what is too much is refused, on every worker and over every
//! reload.

use std::time::Duration;

use gateway_tests::{Client, Closed, Gateway, RawClient, Refused};
use serde_json::{Value, json};
use tokio::time::sleep;

const GRANTS: &str = "[grants]\nbuckets = true\nkey-value = true\n";

const ANSWERS: &str = "[[config.rules]]\nkind = 'rpc'\nreply = 'fine'\n";

/// The settings of limits.
fn limits(tables: &str) -> String {
    format!("{GRANTS}{tables}")
}

async fn gateway(tables: &str) -> Gateway {
    Gateway::with("client.anonymous = true\nraw.enabled = true\nlisten.workers = 2\n")
        .plugin("20-rate-limit", "rate-limit", &limits(tables))
        .plugin("50-router", "router", ANSWERS)
        .plugin("90-echo", "echo", "")
        .start()
        .await
}

async fn call(client: &mut Client) -> Result<Value, Refused> {
    client.ask("rpc", json!({"data": {}})).await
}

/// Calls until it is refused.
async fn exhaust(client: &mut Client) -> (usize, Refused) {
    for count in 0..1_000 {
        if let Err(refused) = call(client).await {
            return (count, refused);
        }
    }
    panic!("a thousand calls and not one is refused");
}

/// How long the client is asked to wait.
fn retry_after(refused: &Refused) -> Duration {
    let (_, millis) = refused.message.split_once("retry after ").expect(&refused.message);
    Duration::from_millis(millis.strip_suffix(" ms").and_then(|millis| millis.parse().ok()).expect(millis))
}

/// What the gateway keeps for the plugin.
async fn kept(gateway: &Gateway) -> Value {
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    plugins["result"]["plugins"][0]["kept"].clone()
}

#[tokio::test]
async fn what_is_too_much_is_refused_until_the_time_that_is_said() {
    let gateway = gateway("[[config.limits]]\nname = 'calls'\nlimit = 5\nperiod = '2s'\n").await;
    let mut client = Client::connect(&gateway).await;
    let (admitted, refused) = exhaust(&mut client).await;
    assert!(admitted >= 5, "{admitted}");
    assert_eq!((refused.code, refused.temporary), (111, true));
    assert!(refused.message.starts_with("calls: retry after "), "{}", refused.message);
    sleep(retry_after(&refused)).await;
    assert_eq!(call(&mut client).await.unwrap()["data"], "fine");
    let line = gateway.log().wait(&["limit `calls` has refused 1 message so far"]).await;
    assert_eq!(line.field("plugin"), "rate-limit");

    let mut other = Client::connect(&gateway).await;
    assert!(call(&mut other).await.is_ok(), "every connection has a limit of its own");
    assert_eq!(
        kept(&gateway).await["entries"],
        2,
        "the state of connections is with them: only the count is kept"
    );
}

#[tokio::test]
async fn what_is_used_survives_a_reload() {
    let per_address = "[[config.limits]]\nname = 'calls'\nalgorithm = 'fixed-window'\nlimit = 3\nperiod = '10m'\nkey = 'address'\n";
    let per_connection = "[[config.limits]]\nname = 'mine'\nalgorithm = 'fixed-window'\nlimit = 2\nperiod = '10m'\nkind = 'rpc'\n";
    let gateway = gateway(&format!("{per_connection}{per_address}")).await;
    let mut client = Client::connect(&gateway).await;
    let (admitted, refused) = exhaust(&mut client).await;
    assert_eq!((admitted, refused.message.split(':').next()), (2, Some("mine")));

    // Other text, the same limits; and a new version of another plugin.
    let settings = limits(&format!("# touched\n{per_connection}{per_address}"));
    gateway.swap(|folder| folder.settings("20-rate-limit", &settings)).await;
    assert_eq!(exhaust(&mut client).await.0, 0, "the connection has used its two");
    let (admitted, refused) = exhaust(&mut Client::connect(&gateway).await).await;
    assert_eq!(
        (admitted, refused.message.split(':').next()),
        (1, Some("calls")),
        "the address has used two of three"
    );

    // More is admitted at once when the limit is another one.
    let settings = settings.replace("limit = 3", "limit = 4");
    gateway.swap(|folder| folder.settings("20-rate-limit", &settings)).await;
    assert_eq!(exhaust(&mut Client::connect(&gateway).await).await.0, 2, "two a connection");
}

#[tokio::test]
async fn all_workers_count_together() {
    let tables = "[[config.limits]]\nname = 'all'\nalgorithm = 'fixed-window'\nlimit = 40\nperiod = '10m'\nkey = 'address'\n";
    let gateway = gateway(tables).await;
    let mut admitted = 0;
    // The kernel spreads connections over the workers.
    for _ in 0..20 {
        let mut client = Client::connect(&gateway).await;
        for _ in 0..5 {
            admitted += usize::from(call(&mut client).await.is_ok());
        }
    }
    assert_eq!(admitted, 40);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_plugin_rejections_total{plugin=\"rate-limit\"}"), 60.0);
    assert_eq!(metrics.get("gateway_plugin_state_entries{plugin=\"rate-limit\"}"), 3.0);
    assert!(metrics.get("gateway_plugin_state_bytes{plugin=\"rate-limit\"}") > 100.0);
}

#[tokio::test]
async fn a_flood_of_keys_stays_within_the_bounds_and_is_counted() {
    let tables = "[state]\nentries_max = 160\n[[config.limits]]\nname = 'room'\nlimit = 1\nperiod = '10m'\nkey = 'payload.room'\n";
    let gateway = gateway(tables).await;
    let mut client = Client::connect(&gateway).await;
    for room in 0..1_000 {
        client.ask("rpc", json!({"data": {"room": room}})).await.expect("a room of its own");
    }
    let kept = kept(&gateway).await;
    let (entries, evictions) = (kept["entries"].as_u64().unwrap(), kept["evictions"].as_u64().unwrap());
    assert!((100..=160).contains(&entries), "{kept}");
    assert_eq!(entries + evictions, 1_000);
}

#[tokio::test]
async fn a_dry_run_refuses_nothing_and_a_limit_may_close() {
    let tables = |more: &str| format!("[[config.limits]]\nname = 'raw'\nlimit = 1\nperiod = '10m'\n{more}\n");
    let gateway = gateway(&tables("dry_run = true")).await;
    let mut client = RawClient::connect(&gateway).await;
    for text in ["a", "b", "c"] {
        assert_eq!(client.ask(text).await, text);
    }
    gateway.log().wait(&["limit `raw` would have refused 1 message so far"]).await;
    let settings = limits(&tables("action = 'disconnect'"));
    gateway.swap(|folder| folder.settings("20-rate-limit", &settings)).await;
    client.send("d").await;
    let Closed { code, reason } = client.closed().await;
    assert_eq!(code, Some(3013));
    assert!(reason.starts_with("raw: retry after "), "{reason}");
}

#[tokio::test]
async fn settings_with_errors_leave_the_limits_that_are_live() {
    let gateway = gateway("[[config.limits]]\nname = 'calls'\nlimit = 1\nperiod = '10m'\n").await;
    let settings = limits("[[config.limits]]\nname = 'calls'\nlimit = 0\nperiod = '10 minutes'\n");
    let line = gateway.refusal(|folder| folder.settings("20-rate-limit", &settings)).await;
    for words in ["2 errors", "`limits[0].limit` is 0; accepted: how much", "`limits[0].period` is"] {
        assert!(line.text.contains(words), "{words}: {}", line.text);
    }
    assert_eq!(exhaust(&mut Client::connect(&gateway).await).await.0, 1);
}
