//! What plugins emit arrives at HTTP endpoints behind the gateway, or is kept.

use std::fs;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway_tests::{Endpoint, Gateway, RawClient, Received, Reply, eventually};
use hmac::{Hmac, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tempfile::TempDir;

const SECRET: &str = "a secret of enough bytes";
const GRANTED: &str = "[config]\nupstream = 'shop'\n[grants]\nupstreams = ['shop']\n";

/// A gateway whose plugin emits to this endpoint, and a folder with the secret and the dead letters.
async fn gateway(endpoint: &Endpoint, upstream: &str, plugin: &str) -> (Gateway, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), SECRET).unwrap();
    let path = folder.path().display();
    let config = format!(
        "raw.enabled = true\ndrain.deadline = '3s'\n[upstreams.shop]\nurl = '{}'\nsecret = 'file:{path}/secret'\n\
         dead_letter = '{path}/dead.jsonl'\nretry_pause_min = '10ms'\n{upstream}",
        endpoint.url("/hook?key=7"),
    );
    (Gateway::with(&config).plugin("10-emit", "guest-emit", plugin).start().await, folder)
}

fn dead(folder: &TempDir) -> Vec<Value> {
    let text = fs::read_to_string(folder.path().join("dead.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a receiver does that knows the secret.
fn is_signed(request: &Received) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    let (id, timestamp) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    mac.update([id.as_bytes(), b".", timestamp.as_bytes(), b".", &request.body].concat().as_slice());
    let signature = request.header("webhook-signature").strip_prefix("v1,").unwrap();
    mac.verify_slice(&STANDARD.decode(signature).unwrap()).is_ok()
}

#[tokio::test]
async fn an_event_arrives_signed_and_again_after_an_error() {
    let endpoint = Endpoint::start(|_, before| Reply::status(if before == 1 { 500 } else { 204 })).await;
    let (gateway, folder) = gateway(&endpoint, "", GRANTED).await;
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("{\"order\":7}").await, "taken");
    let requests = endpoint.wait_for(3).await;
    let bodies: Vec<_> = requests.iter().map(Received::text).collect();
    assert_eq!(bodies, ["came", "{\"order\":7}", "{\"order\":7}"]);
    assert!(requests.iter().all(is_signed));
    let [_, first, second] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((&*first.method, &*first.path), ("POST", "/hook?key=7"));
    assert_eq!(
        first.header("webhook-id"),
        second.header("webhook-id"),
        "a receiver can tell that it is the same"
    );
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!((first.header("gateway-plugin"), first.header("gateway-user")), ("emit", "42"));
    assert_eq!(first.header("gateway-connection").len(), 36);
    let sent = eventually("the second event counts as sent", async || {
        let metrics = gateway.metrics().await;
        (metrics.get("gateway_upstream_sent_total{upstream=\"shop\"}") == 2.0).then_some(metrics)
    });
    let metrics = sent.await;
    assert_eq!(metrics.get("gateway_upstream_retried_total{upstream=\"shop\"}"), 1.0);
    assert_eq!(metrics.get("gateway_upstream_queue_bytes{upstream=\"shop\"}"), 0.0);
    assert_eq!(dead(&folder), Vec::<Value>::new());
}

#[tokio::test]
async fn an_event_that_cannot_be_delivered_is_kept_and_does_not_hold_up_the_next() {
    let endpoint =
        Endpoint::start(|request, _| Reply::status(if request.body == b"bad" { 503 } else { 200 })).await;
    let (gateway, folder) = gateway(&endpoint, "retries = 2", GRANTED).await;
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("bad").await, "taken");
    assert_eq!(client.ask("good").await, "taken");
    let requests = endpoint.wait_for(5).await;
    let bodies: Vec<_> = requests.iter().map(Received::text).collect();
    assert_eq!(bodies, ["came", "bad", "bad", "bad", "good"]);
    let [line] = &dead(&folder)[..] else { panic!("one event was given up") };
    assert_eq!((&line["why"], &line["attempts"]), (&"answered 503".into(), &3.into()));
    assert_eq!(line["id"], requests[1].header("webhook-id"));
    assert_eq!(line["payload_base64"], STANDARD.encode("bad"));
    assert_eq!(gateway.metrics().await.get("gateway_upstream_dead_total{upstream=\"shop\"}"), 1.0);
}

#[tokio::test]
async fn an_endpoint_that_never_answers_costs_nobody_time_and_a_full_queue_is_told() {
    let endpoint = Endpoint::start(|_, _| Reply::never()).await;
    let (mut gateway, folder) = gateway(&endpoint, "queue_events_max = 3\ntimeout = '1m'", GRANTED).await;
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("1").await, "taken");
    assert_eq!(client.ask("2").await, "taken");
    let refused = client.ask("3").await;
    assert!(refused.starts_with("22: ") && refused.contains("full"), "{refused}");
    assert_eq!(gateway.metrics().await.get("gateway_upstream_refused_total{upstream=\"shop\"}"), 1.0);
    // What is left at the drain deadline stays in the spool: the next process sends it.
    let next = Endpoint::start(|_, _| Reply::status(200)).await;
    gateway.restart_with(&format!("upstreams.shop.url = '{}'", next.url("/hook"))).await;
    let bodies: Vec<_> = next.wait_for(3).await.iter().map(Received::text).collect();
    assert_eq!(bodies, ["came", "1", "2"]);
    assert_eq!(dead(&folder), Vec::<Value>::new());
}

#[tokio::test]
async fn what_the_last_clients_cause_is_delivered_before_the_process_ends() {
    let endpoint = Endpoint::start(|_, _| Reply::status(200).after(Duration::from_millis(50))).await;
    let (mut gateway, folder) = gateway(&endpoint, "", GRANTED).await;
    let _client = RawClient::connect(&gateway).await;
    endpoint.wait_for(1).await;
    gateway.terminate();
    assert!(gateway.exit(Duration::from_secs(15)).await.success());
    let bodies: Vec<_> = endpoint.received().iter().map(Received::text).collect();
    assert_eq!(bodies, ["came", "{\"gone\":\"42\"}"]);
    assert_eq!(dead(&folder), Vec::<Value>::new());
}

#[tokio::test]
async fn what_is_not_granted_or_not_configured_is_refused_by_name() {
    let endpoint = Endpoint::start(|_, _| Reply::status(200)).await;
    let without = "[config]\nupstream = 'shop'\n";
    let elsewhere = "[config]\nupstream = 'mars'\n[grants]\nupstreams = ['mars']\n";
    for (settings, code, word) in
        [(without, "20: ", "grants.upstreams"), (elsewhere, "21: ", "[upstreams.mars]")]
    {
        let (gateway, _folder) = gateway(&endpoint, "", settings).await;
        let answer = RawClient::connect(&gateway).await.ask("x").await;
        assert!(answer.starts_with(code) && answer.contains(word), "{answer}");
    }
    assert!(endpoint.received().is_empty());
}
