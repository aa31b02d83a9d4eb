//! Histograms count what happened, where it belongs, and the process describes itself.

use std::time::Duration;

use gateway_tests::{Client, Gateway, Metrics, RawClient, eventually};
use serde_json::json;

/// One worker, so that one plugin instance gets every event.
const CONFIG: &str = "
    listen.workers = 1
    raw.enabled = true
    client.anonymous = true
    [namespaces.chat]
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
";

/// A plugin that computes for so long if a message says `loop`.
const SLOW: &str = "failure = 'open'\nbreaker.failures = 0\n[limits]\ndeadline = '200ms'\n";

/// A plugin that thinks for so long of each client that has gone.
const THINKING: &str = "[grants]\neffects = ['publish', 'set-attribute']\n[limits]\ndeadline = '500ms'\n\
                        [config]\nthinks_ms = 12\n";

async fn with_slow_plugin() -> Gateway {
    Gateway::with(CONFIG).plugin("10-trap", "guest-trap", SLOW).plugin("90-echo", "echo", "").start().await
}

fn call(metrics: &Metrics, suffix: &str, plugin: &str, hook: &str) -> f64 {
    metrics.get(&format!("gateway_plugin_call_seconds_{suffix}{{plugin=\"{plugin}\",hook=\"{hook}\"}}"))
}

#[tokio::test]
async fn a_slow_call_of_a_plugin_is_in_the_bucket_of_its_time() {
    let gateway = with_slow_plugin().await;
    let mut client = RawClient::connect(&gateway).await;
    // The first message to a plugin is measured, and then one of 16.
    assert_eq!(client.ask("loop").await, "loop");
    for number in 1..=31 {
        let text = format!("fine {number}");
        assert_eq!(client.ask(&text).await, text);
    }
    let metrics = gateway.metrics().await;
    let histogram = "gateway_plugin_call_seconds";
    let of = |plugin: &str, above: &str, bound: &str| {
        let labels = format!("plugin=\"{plugin}\",hook=\"on-message\"");
        metrics.between(histogram, &labels, above, bound)
    };
    assert_eq!(of("trap", "0.1", "0.5"), 1.0, "the loop");
    assert_eq!(of("trap", "0.1", "+Inf"), 1.0, "nothing else is slow");
    assert_eq!(of("echo", "0.1", "+Inf"), 0.0, "and not the fault of another plugin");
    for plugin in ["trap", "echo"] {
        assert_eq!(call(&metrics, "count", plugin, "on-message"), 2.0, "{plugin}");
    }
    let sum = call(&metrics, "sum", "trap", "on-message");
    assert!((0.1..0.5).contains(&sum), "{sum}");
    assert!(call(&metrics, "sum", "echo", "on-message") < 0.1);
}

#[tokio::test]
async fn every_call_of_a_rare_hook_is_measured_and_a_hook_that_is_not_called_is_not_listed() {
    let gateway =
        Gateway::with(CONFIG).plugin("10-disconnect-log", "guest-disconnect-log", THINKING).start().await;
    for _ in 0..5 {
        Client::connect(&gateway).await.close().await;
    }
    let metrics = eventually("five disconnects", async || {
        let page = gateway.get("/metrics").await.text();
        page.contains("hook=\"on-disconnect\"} 5\n").then(|| Metrics::parse(&page).expect("valid"))
    })
    .await;
    assert_eq!(call(&metrics, "count", "disconnect-log", "on-connect"), 5.0);
    let labels = "plugin=\"disconnect-log\",hook=\"on-disconnect\"";
    assert_eq!(metrics.between("gateway_plugin_call_seconds", labels, "0.01", "+Inf"), 5.0);
    assert!(!gateway.get("/metrics").await.text().contains("hook=\"on-timer\""));
}

#[tokio::test]
async fn a_publication_that_waits_for_a_busy_worker_has_its_lag() {
    let gateway = with_slow_plugin().await;
    let mut subscriber = Client::connect(&gateway).await;
    subscriber.subscribe("chat:1").await;
    let lag = "gateway_delivery_lag_seconds";
    for number in 0..3 {
        gateway.post("/api/publish", &json!({ "channel": "chat:1", "data": number })).await.ok();
        assert_eq!(subscriber.publication("chat:1").await["data"], number);
    }
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get(&format!("{lag}_count")), 3.0, "one worker has subscribers");
    assert!(metrics.get(&format!("{lag}_sum")) < 3.0);
    // The API accepts on its own thread what the worker cannot deliver yet.
    let mut busy = RawClient::connect(&gateway).await;
    eventually("a publication that waited", async || {
        busy.send("loop").await;
        gateway.post("/api/publish", &json!({ "channel": "chat:1", "data": "late" })).await.ok();
        subscriber.publication("chat:1").await;
        (gateway.metrics().await.between(lag, "", "0.05", "0.5") > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn writes_have_their_size_and_add_up_to_what_was_sent() {
    let gateway = Gateway::start(CONFIG).await;
    let mut subscriber = Client::connect(&gateway).await;
    subscriber.subscribe("chat:1").await;
    let large = "x".repeat(10_000);
    let between = |metrics: &Metrics| metrics.between("gateway_write_size_bytes", "", "8192.0", "16384.0");
    assert_eq!(between(&gateway.metrics().await), 0.0);
    for _ in 0..3 {
        gateway.post("/api/publish", &json!({ "channel": "chat:1", "data": large })).await.ok();
        subscriber.publication("chat:1").await;
    }
    let metrics = gateway.metrics().await;
    assert_eq!(between(&metrics), 3.0);
    assert_eq!(metrics.get("gateway_write_size_bytes_sum"), metrics.get("gateway_sent_bytes_total"));
    // The connect reply, the subscribe reply and three publications.
    assert_eq!(metrics.get("gateway_write_size_bytes_count"), 5.0);
}

#[tokio::test]
async fn the_process_describes_itself_as_every_process_does() {
    let gateway = Gateway::with(CONFIG).descriptors(1000).start().await;
    let before = gateway.metrics().await;
    assert_eq!(before.get("process_max_fds"), 1000.0);
    let resident = before.get("process_resident_memory_bytes") / 1024.0;
    let actual = gateway.memory() as f64;
    assert!((0.8..1.25).contains(&(resident / actual)), "{resident} and {actual} KiB");
    assert!(before.get("process_virtual_memory_bytes") > before.get("process_resident_memory_bytes"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - before.get("process_start_time_seconds");
    assert!((0.0..60.0).contains(&age), "{age}");
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(RawClient::connect(&gateway).await);
    }
    let after = gateway.metrics().await;
    let opened = after.get("process_open_fds") - before.get("process_open_fds");
    // A scrape more or less has its own socket.
    assert!((18.0..=22.0).contains(&opened), "{opened}");
    let actual = gateway.descriptors() as f64;
    assert!((after.get("process_open_fds") - actual).abs() <= 2.0, "{actual}");
    let computed = async || gateway.metrics().await.get("process_cpu_seconds_total");
    let begin = computed().await;
    eventually("processor time to be used", async || (computed().await > begin).then_some(())).await;
    assert!(computed().await < Duration::from_secs(60).as_secs_f64());
}
