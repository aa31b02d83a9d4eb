//! What every fault meets: gateways on one Redis, subscribers and a publisher at each of them, and a ledger.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use gateway_tests::ledger::{Event, Health, HealthWatch, Ledger, Outcome, Publisher, Report, Subscriber};
use gateway_tests::{Builder, Cluster, Gateway, Proxy, Redis, Sentinels, eventually_within};
use serde_json::json;
use tokio::time::sleep;

const NODES: usize = 3;
const SUBSCRIBERS_PER_NODE: usize = 10;
pub(super) const CHANNELS: [&str; 4] = ["news:a", "news:b", "news:c", "news:d"];
/// Of one channel.
pub(super) const SUBSCRIBERS: usize = NODES * SUBSCRIBERS_PER_NODE;
pub(super) const SUBSCRIPTIONS: usize = NODES * SUBSCRIBERS_PER_NODE * CHANNELS.len();
/// Of the publisher of each node.
const PACE: Duration = Duration::from_millis(10);

/// A gateway has to say that something is wrong within this.
const NOTICE: Duration = Duration::from_secs(2);
/// Everybody has to be back this long after Redis is.
const RETURN: Duration = Duration::from_secs(5);
/// How long anything may take at all.
pub(super) const START: Duration = Duration::from_secs(20);

/// The user of servers [`with_user`].
pub(super) const USER: &str = "gateway";
/// Of the user.
pub(super) const PASSWORD: &str = "a-password";

/// A server on which the gateways are no administrators.
pub(super) async fn with_user() -> Redis {
    Redis::with("").user(USER, &format!(">{PASSWORD} ~* &* +@all -@dangerous +info +role")).start().await
}

/// `S` is one server, or several of them.
pub(super) struct Scene<S = Redis> {
    pub(super) redis: S,
    /// Between a single server and the first gateway.
    network: Option<Proxy>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) gateways: Vec<Gateway>,
    health: Vec<HealthWatch>,
    publishers: Vec<Publisher>,
    _subscribers: Vec<Subscriber>,
}

/// Something that begins to be wrong.
pub(super) struct Fault {
    name: &'static str,
    begun: Duration,
}

/// What gateways have to say about a fault.
pub(super) struct Expected {
    /// These say that they are not ready.
    seeing: Range<usize>,
    /// These are not concerned, and say so all the time.
    blind: Range<usize>,
}

impl Expected {
    pub(super) const DOWN: Self = Self { seeing: 0..NODES, blind: 0..0 };
    pub(super) const ONE_NODE_DOWN: Self = Self { seeing: 0..1, blind: 1..NODES };
    pub(super) const WELL: Self = Self { seeing: 0..0, blind: 0..NODES };
    /// The fault is over so soon that it may be seen or not.
    pub(super) const BRIEFLY: Self = Self { seeing: 0..0, blind: 0..0 };
}

/// A gateway that is told so where Redis is.
fn gateway(redis: &str) -> Builder {
    let config = format!(
        "client = {{ anonymous = true, history_publications_max = 10000 }}\n\
         [redis]\n{redis}\n\
         [namespaces.news]\nhistory_size = 10000\nrecovery = true\npresence = true\nallow_subscribe = 'anyone'\n"
    );
    Gateway::with(&config).environment("REDIS_PASSWORD", PASSWORD)
}

impl Scene {
    /// On one server, which the first gateway reaches through a network that can fail.
    pub(super) async fn open(redis: Redis) -> Self {
        let network = Proxy::to(redis.address()).await;
        let user = !redis.ask(&["ACL", "GETUSER", USER]).await.is_nothing();
        let login = if user {
            format!("username = '{USER}'\npassword = 'env:REDIS_PASSWORD'")
        } else {
            String::new()
        };
        let at = |address: SocketAddr| gateway(&format!("url = 'redis://{address}'\n{login}"));
        let gateways =
            Gateway::nodes(NODES, |node| at(if node == 0 { network.address() } else { redis.address() }));
        let gateways = gateways.await;
        Self::begin(redis, Some(network), gateways).await
    }

    pub(super) fn network(&self) -> &Proxy {
        self.network.as_ref().expect("there is one before a single server")
    }
}

impl Scene<Sentinels> {
    /// On servers whose master the Sentinels choose.
    pub(super) async fn on_sentinels(sentinels: Sentinels) -> Self {
        let addresses: Vec<_> = sentinels.addresses().iter().map(|at| format!("'{at}'")).collect();
        let at = format!("sentinels = [{}]\nsentinel_master = '{}'", addresses.join(", "), sentinels.name());
        let gateways = Gateway::nodes(NODES, |_| gateway(&at)).await;
        Self::begin(sentinels, None, gateways).await
    }
}

impl Scene<Cluster> {
    /// On a cluster, of which every gateway is told all servers.
    pub(super) async fn on_cluster(cluster: Cluster) -> Self {
        let addresses: Vec<_> = cluster.addresses().iter().map(|at| format!("'{at}'")).collect();
        let at = format!("cluster = [{}]", addresses.join(", "));
        let gateways = Gateway::nodes(NODES, |_| gateway(&at)).await;
        Self::begin(cluster, None, gateways).await
    }

    /// The slot of a name, and the server that has it.
    pub(super) async fn place_of(&self, name: &str) -> (u16, usize) {
        let slot = self.redis.slot(&format!("{{{name}}}")).await;
        (slot, self.redis.owner(slot).await)
    }
}

impl Scene<Vec<Redis>> {
    /// On servers that know nothing of each other.
    pub(super) async fn on_servers(servers: Vec<Redis>) -> Self {
        let urls: Vec<_> = servers.iter().map(|server| format!("'{}'", server.url())).collect();
        let at = format!("urls = [{}]", urls.join(", "));
        let gateways = Gateway::nodes(NODES, |_| gateway(&at)).await;
        Self::begin(servers, None, gateways).await
    }

    /// The server that keeps this channel.
    pub(super) async fn server_of(&self, channel: &str) -> usize {
        for (place, server) in self.redis.iter().enumerate() {
            if server.ask(&["EXISTS", &format!("gateway:stream:{{{channel}}}")]).await.number() == 1 {
                return place;
            }
        }
        panic!("no server has {channel}")
    }
}

impl<S> Scene<S> {
    /// Everybody is subscribed, and publications go round.
    async fn begin(redis: S, network: Option<Proxy>, gateways: Vec<Gateway>) -> Self {
        let ledger = Ledger::open();
        let mut subscribers = Vec::new();
        for gateway in &gateways {
            for _ in 0..SUBSCRIBERS_PER_NODE {
                subscribers.push(Subscriber::start(&ledger, &[gateway.address()], &CHANNELS));
            }
        }
        ledger.all_subscribed(START).await;
        let health: Vec<_> = gateways.iter().map(|node| HealthWatch::start(&ledger, node.admin())).collect();
        let publishers = gateways.iter().map(|node| Publisher::start(&ledger, node.admin(), &CHANNELS, PACE));
        let publishers = publishers.collect();
        let scene = Self { redis, network, ledger, gateways, health, publishers, _subscribers: subscribers };
        scene.ledger.live_again(scene.ledger.now(), START).await;
        scene.pause(Duration::from_millis(500)).await;
        scene
    }

    /// Something happens from now on.
    pub(super) fn fault(&self, name: &'static str) -> Fault {
        Fault { name, begun: self.ledger.now() }
    }

    pub(super) async fn pause(&self, time: Duration) {
        sleep(time).await;
    }

    /// The longest time from a publication to a subscriber of these gateways, since the fault began: also of
    /// one that is still on its way.
    pub(super) fn slowest_delivery(&self, fault: &Fault, nodes: Range<usize>) -> Duration {
        let (history, now) = (self.ledger.history(), self.ledger.now());
        let acknowledged = history.published.iter().filter(|publication| {
            publication.sent >= fault.begun && matches!(publication.outcome, Outcome::Acknowledged(_))
        });
        let sent: HashMap<u64, Duration> =
            acknowledged.map(|publication| (publication.number, publication.sent)).collect();
        assert!(!sent.is_empty(), "nothing was published since");
        let subscribers =
            &history.subscribers[nodes.start * SUBSCRIBERS_PER_NODE..nodes.end * SUBSCRIBERS_PER_NODE];
        let slowest = subscribers.iter().map(|entries| {
            let mut waiting = sent.clone();
            let arrived = entries.iter().filter_map(|entry| match entry.event {
                Event::Publication { number, .. } => {
                    waiting.remove(&number).map(|sent| entry.at.saturating_sub(sent))
                }
                _ => None,
            });
            let slowest = arrived.max().unwrap_or_default();
            slowest.max(waiting.into_values().map(|sent| now - sent).max().unwrap_or_default())
        });
        slowest.max().unwrap_or_default()
    }

    /// Waits until every gateway says of every channel that all its subscribers are there, each once. How
    /// long after this time that is so.
    async fn presence_is_right(&self, over: Duration) -> Duration {
        for gateway in &self.gateways {
            for channel in CHANNELS {
                eventually_within(START, format!("all members of {channel}"), async || {
                    let answer = gateway.post("/api/presence", &json!({ "channel": channel })).await.json();
                    let members = answer["result"]["presence"].as_object().map(serde_json::Map::len);
                    (members == Some(SUBSCRIBERS)).then_some(())
                })
                .await;
            }
        }
        self.ledger.now().saturating_sub(over)
    }

    /// The fault is over: everybody comes back, and the books balance.
    pub(super) async fn finish(self, fault: Fault, expected: Expected) -> Report {
        let over = self.ledger.now();
        self.finish_after(fault, over, expected).await
    }

    /// The same for a fault that was over at this time.
    pub(super) async fn finish_after(mut self, fault: Fault, over: Duration, expected: Expected) -> Report {
        let live = self.ledger.live_again(over, START).await;
        let subscribed = self.ledger.all_subscribed(START).await;
        let presence = self.presence_is_right(over).await;
        sleep(Duration::from_secs(1)).await;
        for publisher in self.publishers.drain(..) {
            publisher.stop().await;
        }
        let report = self.ledger.settle().await;
        let history = self.ledger.history();
        let noticed: Vec<_> =
            expected.seeing.clone().map(|node| self.health[node].said(false, fault.begun)).collect();
        let ready: Vec<_> = expected.seeing.clone().map(|node| self.health[node].said(true, over)).collect();
        println!("{}\n{report}", fault.name);
        println!("  in flight when it began {:>9}", history.in_flight(fault.begun));
        println!("  noticed after           {noticed:?}");
        println!("  ready again after       {ready:?}");
        println!("  publishing again after  {:?}", history.publishing_again(over));
        println!("  live again after        {live:?}, the last to subscribe {subscribed:?} later");
        println!("  presence right after    {presence:?}");
        for (node, health) in self.health.iter().enumerate() {
            for Health { at, status, text } in health.changes() {
                println!("  node {node} at {:>6} ms: {status} {text}", at.as_millis());
            }
        }
        report.assert_sound();
        assert!(live <= RETURN, "live again only after {live:?}");
        assert!(presence <= RETURN, "presence right only after {presence:?}");
        for (noticed, ready) in noticed.into_iter().zip(ready) {
            assert!(noticed.is_some_and(|noticed| noticed <= NOTICE), "noticed after {noticed:?}");
            assert!(ready.is_some_and(|ready| ready <= RETURN), "ready after {ready:?}");
        }
        for node in expected.blind {
            let said = self.health[node].changes();
            assert_eq!(said.len(), 1, "node {node} was well all the time, and said {said:?}");
        }
        for gateway in &mut self.gateways {
            assert!(gateway.is_running());
        }
        report
    }
}
