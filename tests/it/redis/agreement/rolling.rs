//! The ledger over changes that people make: the rules of a namespace, gateway by gateway, and another
//! master.

use std::sync::Arc;
use std::time::Duration;

use gateway_tests::ledger::{Ledger, Publisher, Subscriber};
use gateway_tests::{Gateway, Redis, Sentinels, eventually_within};
use tokio::time::sleep;

const CHANNELS: [&str; 2] = ["news:a", "news:b"];
const PACE: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(20);
const SUBSCRIBERS_PER_NODE: usize = 4;

/// Every rule, as it is and as it is changed to. Only with `recovery_mode` clients would miss something,
/// `latest_on_subscribe` needs its other value, and `client_certificate` needs TLS.
const RULES: [(&str, &str, &str); 16] = [
    ("history_size", "1000", "10"),
    ("history_ttl", "'1h'", "'2s'"),
    ("recovery", "true", "false"),
    ("presence", "true", "false"),
    ("join_leave", "true", "false"),
    ("force_push_join_leave", "false", "true"),
    ("tag_filter", "false", "true"),
    ("delta", "false", "true"),
    ("wildcards", "false", "true"),
    ("events", "[]", "['occupied', 'vacated']"),
    ("min_replicas", "0", "1"),
    ("idempotency_ttl", "'5m'", "'1s'"),
    ("allow_subscribe", "'anyone'", "'users'"),
    ("allow_publish", "'anyone'", "'nobody'"),
    ("allow_history", "'nobody'", "'anyone'"),
    ("allow_presence", "'nobody'", "'anyone'"),
];

/// Two gateways, each with subscribers that go to the other one while theirs is away, and a publisher at
/// each.
struct Scene {
    ledger: Arc<Ledger>,
    gateways: Vec<Gateway>,
    publishers: Vec<Publisher>,
    _subscribers: Vec<Subscriber>,
}

impl Scene {
    async fn begin(config: &str, pace: Duration) -> Self {
        let gateways = Gateway::nodes(2, |_| Gateway::with(config)).await;
        let ledger = Ledger::open();
        let mut subscribers = Vec::new();
        for node in 0..2 {
            let at = [gateways[node].address(), gateways[1 - node].address()];
            for _ in 0..SUBSCRIBERS_PER_NODE {
                subscribers.push(Subscriber::start(&ledger, &at, &CHANNELS));
            }
        }
        ledger.all_subscribed(LIMIT).await;
        let publishers =
            gateways.iter().map(|node| Publisher::start(&ledger, node.admin(), &CHANNELS, pace)).collect();
        Self { ledger, gateways, publishers, _subscribers: subscribers }
    }

    /// One gateway after the other is started again with this setting.
    async fn roll(&mut self, settings: &str) {
        for gateway in &mut self.gateways {
            gateway.restart_with(settings).await;
            eventually_within(LIMIT, "a gateway that is ready", async || {
                (gateway.get("/health/ready").await.status == 200).then_some(())
            })
            .await;
            sleep(Duration::from_millis(300)).await;
        }
    }

    async fn finish(self, what: &str) {
        self.ledger.all_subscribed(LIMIT).await;
        sleep(Duration::from_secs(1)).await;
        for publisher in self.publishers {
            publisher.stop().await;
        }
        let report = self.ledger.settle().await;
        println!("{what}\n{report}");
        report.assert_sound();
        assert_eq!((report.lost_silently, report.duplicates), (0, 0));
        assert!(report.acknowledged > report.published / 4, "there was traffic: {report}");
    }
}

fn config(redis: &Redis) -> String {
    let rules: Vec<_> = RULES.iter().map(|(rule, before, _)| format!("{rule} = {before}")).collect();
    format!(
        "client = {{ anonymous = true, history_publications_max = 10000 }}\ndrain.deadline = '2s'\n\
         upstreams.told.url = 'http://127.0.0.1:9'\nevents.upstream = 'told'\n\
         redis.url = '{}'\n[namespaces.news]\n{}\n",
        redis.url(),
        rules.join("\n")
    )
}

async fn with_replica() -> (Redis, Redis) {
    let settings = "repl-diskless-sync yes\nrepl-diskless-sync-delay 0\n";
    let master = Redis::with(settings).start().await;
    let at = master.address();
    let replica = Redis::with(&format!("{settings}replicaof {} {}\n", at.ip(), at.port())).start().await;
    eventually_within(LIMIT, "a replica", async || {
        (master.info("replication").await["connected_slaves"] == "1").then_some(())
    })
    .await;
    (master, replica)
}

#[tokio::test]
async fn every_rule_of_a_namespace_is_changed_and_changed_back_and_nobody_misses_anything_silently() {
    let (redis, _replica) = with_replica().await;
    let mut scene = Scene::begin(&config(&redis), PACE).await;
    for (rule, before, after) in RULES {
        for value in [after, before] {
            scene.roll(&format!("namespaces.news.{rule} = {value}")).await;
        }
    }
    scene.finish("every rule changed at two gateways, one after the other, and back").await;
}

#[tokio::test]
async fn a_history_is_given_up_and_taken_up_again_and_nobody_misses_anything_silently() {
    let (redis, _replica) = with_replica().await;
    let mut scene = Scene::begin(&config(&redis), PACE).await;
    for _ in 0..3 {
        scene.roll("namespaces.news = { history_size = 0, recovery = false }").await;
        scene.roll("namespaces.news = { history_size = 1000, recovery = true }").await;
    }
    scene
        .finish("history given up and taken up again at two gateways, one after the other, three times")
        .await;
}

#[tokio::test]
async fn five_failovers_that_somebody_asked_for_lose_nothing_silently() {
    let group = Sentinels::start().await;
    let addresses: Vec<_> = group.addresses().iter().map(|at| format!("'{at}'")).collect();
    let config = format!(
        "client = {{ anonymous = true, history_publications_max = 10000 }}\n[redis]\nsentinels = [{}]\n\
         sentinel_master = '{}'\n[namespaces.news]\nhistory_size = 10000\nrecovery = true\nallow_subscribe = 'anyone'\n",
        addresses.join(", "),
        group.name()
    );
    let scene = Scene::begin(&config, PACE).await;
    for _ in 0..5 {
        sleep(Duration::from_secs(1)).await;
        // Another one is refused while the last is not over.
        group.failover_when_possible().await;
        let over = scene.ledger.now();
        scene.ledger.live_again(over, LIMIT).await;
        group.settled().await;
    }
    scene.finish("five planned failovers of a master under Sentinels, two gateways").await;
}
