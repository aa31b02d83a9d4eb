//! Queues of outgoing bytes are bounded, and the clients that fill them are closed.

use std::time::{Duration, Instant};

use gateway_tests::{Client, Frame, Gateway, Socket, eventually_within, within_time};
use serde_json::json;

use super::{LIVE, SCRIPTED};

/// A subscriber with little room that reads nothing after the reply.
async fn deaf_subscriber(gateway: &Gateway, channel: &str) -> Socket {
    let mut socket = Socket::open_small(gateway.address(), "/connection/websocket").await;
    let subscribe = format!("{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}");
    for command in ["{\"id\":1,\"connect\":{}}", &subscribe] {
        socket.send(&Frame::text(command).bytes()).await;
        socket.frame().await.expect("a reply");
    }
    socket
}

async fn backlog(gateway: &Gateway) -> f64 {
    // It is looked at twenty times a second.
    tokio::time::sleep(Duration::from_millis(120)).await;
    gateway.metrics().await.get("gateway_outbound_backlog_bytes")
}

/// Publishes to a channel until that much more waits for clients.
async fn back_up(gateway: &Gateway, channel: &str, bytes: f64) {
    let before = backlog(gateway).await;
    let padding = "x".repeat(20_000);
    within_time(Duration::from_secs(60), "a backlog", async {
        loop {
            let waits = backlog(gateway).await - before;
            if waits >= bytes {
                break;
            }
            // The system takes much before anything waits.
            for _ in 0..if bytes - waits < 100_000.0 { 1 } else { 4 } {
                gateway.post("/api/publish", &json!({ "channel": channel, "data": padding })).await.ok();
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_takes_a_little_now_and_then_is_closed() {
    let gateway = Gateway::start(&format!("limits.write_timeout = '5s'\n{LIVE}")).await;
    let mut sipping = deaf_subscriber(&gateway, "live:1").await;
    back_up(&gateway, "live:1", 150_000.0).await;
    let begun = Instant::now();
    let mut taken = 0;
    // 10 KB in a second at most, for as long as it takes; there is always more.
    while begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Some(count) = sipping.sip(1000).await else { break };
        taken += count;
        let slow = gateway.metrics().await.get("gateway_connections_closed_total{cause=\"slow\"}");
        if slow > 0.0 {
            break;
        }
    }
    println!("closed after {} ms in which it took {taken} bytes", begun.elapsed().as_millis());
    assert!(begun.elapsed() < Duration::from_secs(15), "it goes on for ever");
}

#[tokio::test]
async fn when_all_together_is_too_much_those_go_for_whom_most_waits() {
    let config = format!(
        "listen.workers = 1\nmemory.outbound_bytes_max = '2MiB'\nlimits.write_timeout = '5m'\n{LIVE}"
    );
    let gateway = Gateway::start(&config).await;
    let mut clients = Vec::new();
    for channel in ["live:most", "live:second", "live:third", "live:least"] {
        clients.push(deaf_subscriber(&gateway, channel).await);
    }
    for (channel, kib) in
        [("live:least", 100.0), ("live:most", 850.0), ("live:second", 550.0), ("live:third", 400.0)]
    {
        back_up(&gateway, channel, kib * 1024.0).await;
    }
    let closed = "gateway_connections_closed_total{cause=\"slow\"}";
    assert_eq!(gateway.metrics().await.get(closed), 0.0, "so far it fits");
    let padding = "x".repeat(20_000);
    eventually_within(Duration::from_secs(30), "somebody to go", async || {
        gateway.post("/api/publish", &json!({ "channel": "live:third", "data": padding })).await.ok();
        (gateway.metrics().await.get(closed) > 0.0).then_some(())
    })
    .await;
    assert_eq!(clients[0].closed().await.code, Some(3008), "the one for whom most waited");
    let metrics = gateway.metrics().await;
    assert_eq!((metrics.get(closed), metrics.get("gateway_outbound_evictions_total")), (1.0, 1.0));
    let left = backlog(&gateway).await;
    println!("what waits after the largest has gone: {left} bytes of 2 MiB");
    assert!((600.0 * 1024.0..2_097_152.0).contains(&left), "{left}");
}

#[tokio::test]
async fn what_a_plugin_makes_of_a_little_is_refused_before_it_fills_the_memory() {
    const ATTACKERS: usize = 12;
    let scripted = format!("{SCRIPTED}[config]\nkinds = ['rpc']\n");
    let gateway = Gateway::with(LIVE).plugin("50-scripted", "guest-scripted", &scripted).start().await;
    let mut subscribers = Vec::new();
    for _ in 0..4 {
        subscribers.push(deaf_subscriber(&gateway, "live:1").await);
    }
    let mut attackers = Vec::new();
    for _ in 0..ATTACKERS {
        attackers.push(Client::connect(&gateway).await);
    }
    let mut other = Client::connect(&gateway).await;
    let before = gateway.memory();
    let order = "{\"method\":\"publish\",\"data\":{\"channel\":\"live:1\",\"bytes\":250000}}";
    let message =
        (2..700).map(|id| format!("{{\"id\":{id},\"rpc\":{order}}}")).collect::<Vec<_>>().join("\n");
    assert!(message.len() < 64 << 10, "{}", message.len());
    for attacker in &mut attackers {
        attacker.send_text(&message).await;
    }
    let (mut most, mut slowest) = (before, Duration::ZERO);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        other.publish("live:2", json!(1)).await;
        slowest = slowest.max(asked.elapsed());
        most = most.max(gateway.memory());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for attacker in &mut attackers {
        for id in 2..700 {
            attacker.reply(id, "rpc").await.unwrap();
        }
    }
    let after = eventually_within(Duration::from_secs(20), "memory to come back", async || {
        let after = gateway.memory();
        (after < before + (64 << 10)).then_some(after)
    })
    .await;
    let refused = gateway.metrics().await.get("gateway_publications_refused_total{reason=\"queue\"}");
    println!(
        "{} messages of 80 bytes, each made 250,000: {} MiB at most, {} MiB before and {} after; {refused} refused; \
         others waited {} ms at most",
        ATTACKERS * 698,
        most >> 10,
        before >> 10,
        after >> 10,
        slowest.as_millis()
    );
    assert!(most - before < 192 << 10, "{} MiB", (most - before) >> 10);
}
