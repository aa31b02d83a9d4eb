//! Several servers behind one upstream: weights, breakers, and the commands that show and move them.

use std::time::Duration;

use gateway_tests::{API_KEY, Endpoint, Gateway, RawClient, Reply, Tool, eventually, gateway_binary};
use serde_json::{Value, json};

const GRANTED: &str = "[config]\nupstream = 'shop'\n[grants]\nupstreams = ['shop']\n";

/// A gateway whose plugin emits to one of two targets with these weights.
async fn gateway(targets: [&str; 2], weights: [u32; 2], upstream: &str) -> Gateway {
    let [first, second] = targets;
    let config = format!(
        "raw.enabled = true\n[upstreams.shop]\ntargets = [{{ url = '{first}', weight = {} }}, \
         {{ url = '{second}', weight = {} }}]\nretry_pause_min = '10ms'\n{upstream}",
        weights[0], weights[1],
    );
    Gateway::with(&config).plugin("10-emit", "guest-emit", GRANTED).start().await
}

/// The standard output of `gateway upstream`, which has to succeed.
async fn upstream(gateway: &Gateway, arguments: &[&str]) -> String {
    let address = format!("http://{}", gateway.admin());
    let tool = Tool::new(gateway_binary()).arg("upstream");
    let tool = arguments.iter().fold(tool, |tool, argument| tool.arg(argument));
    let tool = tool.arg("--address").arg(&address).env("GATEWAY_ADMIN_API_KEY", API_KEY);
    let output = tool.output(Duration::from_secs(20)).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn targets(gateway: &Gateway) -> Vec<Value> {
    let answer = gateway.post("/api/upstreams", &json!({})).await.ok();
    answer["result"]["upstreams"][0]["targets"].as_array().unwrap().clone()
}

#[tokio::test]
async fn weights_are_shown_and_moved_while_events_flow() {
    let first = Endpoint::start(|_, _| Reply::status(200)).await;
    let second = Endpoint::start(|_, _| Reply::status(200)).await;
    let gateway = gateway([&first.url("/hook?key=hush"), &second.url("/")], [1, 0], "").await;
    let mut client = RawClient::connect(&gateway).await;
    for number in 0..20 {
        assert_eq!(client.ask(&number.to_string()).await, "taken");
    }
    first.wait_for(21).await;
    let requests = async |target: usize| targets(&gateway).await[target]["requests"]["ok"].clone();
    eventually("all are counted", async || (requests(0).await == 21).then_some(())).await;
    let shown = upstream(&gateway, &["list"]).await;
    assert!(
        shown.contains(&format!("weight 1     up         21 requests, 0 failed  {}", first.url("/hook"))),
        "{shown}"
    );
    assert!(!shown.contains("hush"), "{shown}");
    let moved = upstream(&gateway, &["weight", "shop", "0", "100"]).await;
    assert!(moved.starts_with("shop: weights 0 100 from the next request on"), "{moved}");
    for number in 0..20 {
        assert_eq!(client.ask(&number.to_string()).await, "taken");
    }
    second.wait_for(20).await;
    eventually("all are counted", async || (requests(1).await == 20).then_some(())).await;
    assert_eq!(first.received().len(), 21, "it got nothing more");
    let metrics = gateway.metrics().await;
    let counted = |target: u32| {
        let labels = format!("upstream=\"shop\",target=\"{target}\",outcome=\"ok\"");
        metrics.get(&format!("gateway_upstream_target_requests_total{{{labels}}}"))
    };
    assert_eq!((counted(0), counted(1)), (21.0, 20.0));
}

#[tokio::test]
async fn a_target_that_fails_is_left_alone_until_a_probe_succeeds_and_no_event_is_lost() {
    let healed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_healed = healed.clone();
    let flapping = Endpoint::start(move |_, _| {
        Reply::status(if is_healed.load(std::sync::atomic::Ordering::Relaxed) { 200 } else { 503 })
    })
    .await;
    let good = Endpoint::start(|_, _| Reply::status(200)).await;
    let settings = "breaker_failures = 2\nbreaker_pause = '300ms'";
    let gateway = gateway([&flapping.url("/"), &good.url("/")], [1000, 1], settings).await;
    let mut client = RawClient::connect(&gateway).await;
    for number in 0..20 {
        assert_eq!(client.ask(&number.to_string()).await, "taken");
    }
    good.wait_for(21).await;
    let line = gateway.log().wait(&["target fails; its breaker is open"]).await;
    assert_eq!((&*line.level, &*line.field("upstream")), ("WARN", "shop"));
    healed.store(true, std::sync::atomic::Ordering::Relaxed);
    eventually("the target is up again", async || {
        assert_eq!(client.ask("more").await, "taken");
        (targets(&gateway).await[0]["state"] == "up").then_some(())
    })
    .await;
    assert!(targets(&gateway).await[0]["opened"].as_u64() >= Some(1));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_upstream_dead_total{upstream=\"shop\"}"), 0.0);
}
