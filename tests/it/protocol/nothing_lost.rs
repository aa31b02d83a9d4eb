//! The ledger on a gateway that keeps everything in memory: what its subscribers lose, they are told of.

use std::sync::Arc;
use std::time::Duration;

use gateway_tests::ledger::{HealthWatch, Ledger, Publisher, Subscriber};
use gateway_tests::{Client, Gateway, Proxy, RawClient, eventually_within};
use serde_json::json;
use tokio::time::sleep;

const CONFIG: &str = "
    client = { anonymous = true, history_publications_max = 10000 }
    [namespaces.news]
    history_size = 10000
    recovery = true
    allow_subscribe = 'anyone'
";
const CHANNELS: [&str; 3] = ["news:a", "news:b", "news:c"];
const PACE: Duration = Duration::from_millis(2);
const LIMIT: Duration = Duration::from_secs(10);

fn subscribers(ledger: &Arc<Ledger>, count: usize, gateway: std::net::SocketAddr) -> Vec<Subscriber> {
    (0..count).map(|_| Subscriber::start(ledger, &[gateway], &CHANNELS)).collect()
}

#[tokio::test]
async fn nobody_misses_anything_on_a_good_day() {
    let gateway = Gateway::start(CONFIG).await;
    let ledger = Ledger::open();
    let _subscribers = subscribers(&ledger, 20, gateway.address());
    ledger.all_subscribed(LIMIT).await;
    let publisher = Publisher::start(&ledger, gateway.admin(), &CHANNELS, PACE);
    sleep(Duration::from_secs(1)).await;
    publisher.stop().await;
    let report = ledger.settle().await;
    println!("{report}");
    report.assert_sound();
    assert_eq!((report.acknowledged, report.lost_with_signal), (report.published, 0));
    let per_subscriber = report.acknowledged;
    assert_eq!(report.delivered, per_subscriber * 20, "every subscriber has every channel");
}

#[tokio::test]
async fn clients_whose_network_fails_recover_everything() {
    let gateway = Gateway::start(CONFIG).await;
    let network = Proxy::to(gateway.address()).await;
    let ledger = Ledger::open();
    let _subscribers = subscribers(&ledger, 20, network.address());
    ledger.all_subscribed(LIMIT).await;
    let publisher = Publisher::start(&ledger, gateway.admin(), &CHANNELS, PACE);
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        sleep(Duration::from_millis(300)).await;
        network.cut();
        sleep(Duration::from_millis(200)).await;
        network.heal();
        slowest = slowest.max(ledger.all_subscribed(LIMIT).await);
    }
    publisher.stop().await;
    let report = ledger.settle().await;
    println!("back at most {} ms after the network\n{report}", slowest.as_millis());
    report.assert_sound();
    assert_eq!((report.lost_with_signal, report.resets), (0, 0), "{report}");
    assert!(report.recoveries >= 3 * 20, "{report}");
}

#[tokio::test]
async fn a_worker_that_stood_still_tells_what_it_lost() {
    let small = "raw.enabled = true\nmemory.inbox_deliveries_max = 1024\nlisten.workers = 1\n";
    let endless = "[limits]\ndeadline = '6s'\n[config]\nhook = 'on-message'\nway = 'loop'\n[grants]\neffects = ['publish']\n";
    let gateway = Gateway::with(&format!("{small}{CONFIG}")).plugin("50-hostile", "guest-hostile", endless);
    let gateway = gateway.start().await;
    let ledger = Ledger::open();
    let _subscribers = subscribers(&ledger, 5, gateway.address());
    ledger.all_subscribed(LIMIT).await;
    let flooded: Vec<_> = (0..500).map(|n| format!("news:flood-{n}")).collect();
    let mut listener = Client::connect(&gateway).await;
    for channel in &flooded {
        listener.subscribe(channel).await;
    }
    let mut attacker = RawClient::connect(&gateway).await;
    attacker.send("attack").await;
    // More than an inbox holds, while its worker does nothing else than to wait for the plugin.
    for _ in 0..3 {
        gateway.post("/api/broadcast", &json!({ "channels": flooded, "data": 0 })).await.ok();
    }
    let publisher = Publisher::start(&ledger, gateway.admin(), &CHANNELS, PACE);
    eventually_within(LIMIT, "the inbox to overflow", async || {
        (gateway.metrics().await.get("gateway_inbox_overflows_total") > 0.0).then_some(())
    })
    .await;
    publisher.stop().await;
    let report = ledger.settle().await;
    println!("{report}");
    report.assert_sound();
    assert!(report.recoveries + report.resets >= 5, "they were told and came back: {report}");
}

#[tokio::test]
async fn a_gateway_that_forgets_everything_says_so() {
    let mut gateway = Gateway::start(CONFIG).await;
    let ledger = Ledger::open();
    let _subscribers = subscribers(&ledger, 20, gateway.address());
    let health = HealthWatch::start(&ledger, gateway.admin());
    ledger.all_subscribed(LIMIT).await;
    let publisher = Publisher::start(&ledger, gateway.admin(), &CHANNELS, PACE);
    sleep(Duration::from_millis(500)).await;
    let killed = ledger.now();
    gateway.kill();
    // It would be there again before anybody has asked.
    eventually_within(LIMIT, "its end to be noticed", async || health.said(false, killed)).await;
    gateway.restart().await;
    let back = ledger.now();
    ledger.all_subscribed(LIMIT).await;
    let live = ledger.live_again(back, LIMIT).await;
    publisher.stop().await;
    let report = ledger.settle().await;
    println!("live again after {} ms\n{report}", live.as_millis());
    report.assert_sound();
    assert_eq!(report.resets, 20 * CHANNELS.len(), "another stream, and everybody knows");
    assert!(health.said(true, back).is_some());
}
