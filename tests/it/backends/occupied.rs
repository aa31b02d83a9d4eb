//! Channels that are occupied and vacated: told once, whatever gateway the subscribers are at, and told by
//! another one when a gateway has died.

use std::time::Duration;

use gateway_tests::{Client, Cluster, Data, Gateway, Redis, eventually, eventually_within};
use serde_json::json;

const ROOM: &str = "room:1";

/// A dead gateway is noticed and taken over, and the delay is over, within this.
const TOLD: Duration = Duration::from_secs(15);

const SETTINGS: &str = "
    client.anonymous = true
    log.filter = 'info,gateway::telemetry=debug'
    upstreams.told.url = 'http://127.0.0.1:9'
    drain.deadline = '3s'
    events = { upstream = 'told', connected = false, disconnected = false, vacated_delay = '1s' }
    [namespaces.room]
    events = ['occupied', 'vacated']
    allow_subscribe = 'anyone'
    [namespaces.meeting]
    events = ['occupied', 'vacated']
    presence = true
    allow_subscribe = 'anyone'
    [namespaces.quiet]
    allow_subscribe = 'anyone'
    ";

async fn node(redis: &str) -> Gateway {
    let gateway = Gateway::start(&format!("{redis}\n{SETTINGS}")).await;
    eventually("a healthy gateway", async || {
        (gateway.get("/health/ready").await.status == 200).then_some(())
    })
    .await;
    gateway
}

/// Gateways that know each other.
async fn nodes<const N: usize>(redis: &str) -> [Gateway; N] {
    let mut nodes = Vec::new();
    for _ in 0..N {
        nodes.push(node(redis).await);
    }
    for node in &nodes {
        eventually("gateways that know each other", async || {
            (node.metrics().await.get("gateway_nodes") >= N as f64).then_some(())
        })
        .await;
    }
    nodes.try_into().expect("as many as were started")
}

async fn subscriber(gateway: &Gateway, channel: &str) -> Client {
    let mut client = Client::connect(gateway).await;
    client.subscribe(channel).await;
    client
}

/// What a gateway has told of a channel, in order.
fn told_of(gateway: &Gateway, channel: &str) -> Vec<String> {
    let lines = gateway.log().matching(&["\"channel occupied\""]).into_iter();
    let lines = lines.chain(gateway.log().matching(&["\"channel vacated\""]));
    let mut told: Vec<_> = lines.filter(|line| line.field("channel") == channel).collect();
    // The time of a line is its first field.
    told.sort_by(|one, other| one.text.cmp(&other.text));
    told.into_iter().filter_map(|line| Some(line.message.strip_prefix("channel ")?.to_owned())).collect()
}

/// What these gateways have told of a channel, one after the other.
fn told(gateways: &[&Gateway], channel: &str) -> Vec<Vec<String>> {
    gateways.iter().map(|gateway| told_of(gateway, channel)).collect()
}

async fn tells(gateways: &[&Gateway], channel: &str, expected: &[&[&str]]) {
    let what = format!("{expected:?} of {channel}");
    eventually_within(TOLD, what, async || (told(gateways, channel) == expected).then_some(())).await;
}

/// Waits for longer than the delay: until a channel that is vacated now has been told.
async fn delay_passes(gateway: &Gateway, name: &str) {
    let channel = format!("room:clock-{name}");
    let client = subscriber(gateway, &channel).await;
    tells(&[gateway], &channel, &[&["occupied"]]).await;
    client.close().await;
    tells(&[gateway], &channel, &[&["occupied", "vacated"]]).await;
}

#[tokio::test]
async fn a_single_gateway_tells_of_the_first_and_of_the_last_subscriber() {
    let gateway = node("").await;
    let clients = [subscriber(&gateway, ROOM).await, subscriber(&gateway, ROOM).await];
    let quiet = subscriber(&gateway, "quiet:1").await;
    tells(&[&gateway], ROOM, &[&["occupied"]]).await;
    assert_eq!(gateway.metrics().await.get("gateway_occupied_channels"), 1.0);
    for client in clients {
        client.close().await;
    }
    quiet.close().await;
    let back = subscriber(&gateway, ROOM).await;
    delay_passes(&gateway, "1").await;
    tells(&[&gateway], ROOM, &[&["occupied"]]).await;
    back.close().await;
    tells(&[&gateway], ROOM, &[&["occupied", "vacated"]]).await;
    assert!(told_of(&gateway, "quiet:1").is_empty());
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_occupancy_total{event=\"occupied\"}"), 2.0);
    assert_eq!(metrics.get("gateway_occupancy_total{event=\"vacated\"}"), 2.0);
    assert_eq!(metrics.get("gateway_occupied_channels"), 0.0);
}

#[tokio::test]
async fn a_single_gateway_that_drains_waits_for_no_delay() {
    let mut gateway = Gateway::start(&SETTINGS.replace("'1s'", "'10m'")).await;
    let _closed = subscriber(&gateway, ROOM).await;
    gateway.terminate();
    assert!(gateway.exit(TOLD).await.success());
    tells(&[&gateway], ROOM, &[&["occupied", "vacated"]]).await;
}

#[tokio::test]
async fn the_first_and_the_last_subscriber_of_all_gateways_are_told_once() {
    let redis = Redis::start().await;
    let [a, b] = nodes(&format!("redis.url = '{}'", redis.url())).await;
    let first = subscriber(&a, ROOM).await;
    tells(&[&a, &b], ROOM, &[&["occupied"], &[]]).await;
    let second = subscriber(&b, ROOM).await;
    delay_passes(&b, "1").await;
    first.close().await;
    delay_passes(&a, "2").await;
    assert_eq!(told(&[&a, &b], ROOM), [vec!["occupied"], vec![]], "b still has a subscriber");
    second.close().await;
    // Back within the delay, at the other gateway.
    let third = subscriber(&a, ROOM).await;
    delay_passes(&a, "3").await;
    delay_passes(&b, "4").await;
    assert_eq!(told(&[&a, &b], ROOM), [vec!["occupied"], vec![]], "it was not away for long");
    third.close().await;
    tells(&[&a, &b], ROOM, &[&["occupied", "vacated"], &[]]).await;
    delay_passes(&b, "5").await;
    eventually("a redis without records", async || {
        (redis.ask(&["KEYS", "gateway:occupancy:*"]).await.list().is_empty()).then_some(())
    })
    .await;
    assert_eq!(told(&[&a, &b], ROOM), [vec!["occupied", "vacated"], vec![]], "once");
}

#[tokio::test]
async fn another_gateway_vacates_the_channels_of_one_that_was_killed() {
    let redis = Redis::start().await;
    let [mut a, b] = nodes(&format!("redis.url = '{}'", redis.url())).await;
    let _lost = subscriber(&a, ROOM).await;
    let _lost_too = subscriber(&a, "room:2").await;
    let stays = subscriber(&b, "room:2").await;
    tells(&[&a], ROOM, &[&["occupied"]]).await;
    eventually("both records", async || {
        let count = redis.ask(&["HLEN", "gateway:occupancy:{room:2}"]).await.number();
        // Two gateways, the state and the server, and nobody who still tells.
        (count == 4).then_some(())
    })
    .await;
    a.kill();
    tells(&[&b], ROOM, &[&["vacated"]]).await;
    delay_passes(&b, "1").await;
    assert!(!told_of(&b, "room:2").contains(&"vacated".to_owned()), "b has a subscriber");
    stays.close().await;
    eventually_within(TOLD, "the end of room:2", async || {
        told_of(&b, "room:2").contains(&"vacated".to_owned()).then_some(())
    })
    .await;
    assert_eq!(told_of(&b, ROOM), ["vacated"], "once");
}

#[tokio::test]
async fn a_channel_with_presence_is_taken_over_with_its_members() {
    const MEETING: &str = "meeting:1";
    let redis = Redis::start().await;
    let [mut a, b] = nodes(&format!("redis.url = '{}'", redis.url())).await;
    let _lost = [subscriber(&a, MEETING).await, subscriber(&a, MEETING).await];
    let stays = subscriber(&b, MEETING).await;
    let members = async |gateway: &Gateway, expected: u64| {
        eventually_within(TOLD, format!("{expected} members"), async || {
            let counted = gateway.post("/api/presence_stats", &json!({ "channel": MEETING })).await.json();
            (counted["result"]["num_clients"] == expected).then_some(())
        })
        .await;
    };
    members(&a, 3).await;
    members(&b, 3).await;
    a.kill();
    members(&b, 1).await;
    eventually_within(TOLD, "a takeover that is complete", async || {
        (redis.ask(&["HLEN", "gateway:dead:{nodes}"]).await.number() == 0
            && redis.ask(&["KEYS", "gateway:present:*"]).await.list().len() == 1)
            .then_some(())
    })
    .await;
    assert_eq!(redis.ask(&["KEYS", "gateway:presence:*"]).await.list().len(), 1, "that of b");
    delay_passes(&b, "1").await;
    assert!(!told_of(&b, MEETING).contains(&"vacated".to_owned()), "b has a subscriber");
    stays.close().await;
    eventually_within(TOLD, "the end of the channel", async || {
        told_of(&b, MEETING).contains(&"vacated".to_owned()).then_some(())
    })
    .await;
    for kind in ["occupancy", "presence", "present", "users"] {
        eventually(format!("no {kind}"), async || {
            redis.ask(&["KEYS", &format!("gateway:{kind}:*")]).await.list().is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_gateway_that_starts_later_vacates_the_channels_of_all_that_were_killed() {
    let redis = Redis::start().await;
    let [mut a, mut b] = nodes(&format!("redis.url = '{}'", redis.url())).await;
    let _lost = subscriber(&a, ROOM).await;
    tells(&[&a], ROOM, &[&["occupied"]]).await;
    let gone = subscriber(&b, "room:2").await;
    tells(&[&b], "room:2", &[&["occupied"]]).await;
    gone.close().await;
    eventually("a channel in its delay", async || {
        (redis.ask(&["HEXISTS", "gateway:occupancy:{room:2}", "@in_charge"]).await.number() == 1)
            .then_some(())
    })
    .await;
    a.kill();
    b.kill();
    let later = node(&format!("redis.url = '{}'", redis.url())).await;
    tells(&[&later], ROOM, &[&["vacated"]]).await;
    tells(&[&later], "room:2", &[&["vacated"]]).await;
}

#[tokio::test]
async fn a_gateway_that_drains_leaves_the_delay_to_another_one() {
    let redis = Redis::start().await;
    let settings = format!("redis.url = '{}'", redis.url());
    let [mut a, b] = nodes(&settings).await;
    let _closed = subscriber(&a, ROOM).await;
    tells(&[&a], ROOM, &[&["occupied"]]).await;
    a.terminate();
    assert!(a.exit(TOLD).await.success());
    let mut told = Vec::new();
    eventually_within(TOLD, "the end of the channel", async || {
        told = told_of(&a, ROOM);
        told.extend(told_of(&b, ROOM));
        told.contains(&"vacated".to_owned()).then_some(())
    })
    .await;
    assert_eq!(told, ["occupied", "vacated"]);
}

#[tokio::test]
async fn a_redis_that_was_restarted_loses_no_event() {
    for data in [Data::Kept, Data::Lost] {
        let mut redis = Redis::with("").persistent().start().await;
        let [a, b] = nodes(&format!("redis.url = '{}'", redis.url())).await;
        let [one, other] = [subscriber(&a, ROOM).await, subscriber(&b, ROOM).await];
        let leaves = subscriber(&b, "room:2").await;
        eventually("who was first", async || told(&[&a, &b], ROOM).concat().first().cloned()).await;
        tells(&[&b], "room:2", &[&["occupied"]]).await;
        redis.kill();
        for gateway in [&a, &b] {
            eventually_within(TOLD, "a gateway that is alone", async || {
                (gateway.get("/health/ready").await.status == 503).then_some(())
            })
            .await;
        }
        leaves.close().await;
        eventually("a channel without its subscriber", async || {
            (b.metrics().await.get("gateway_occupied_channels") == 1.0).then_some(())
        })
        .await;
        redis.revive(data).await;
        tells(&[&b], "room:2", &[&["occupied", "vacated"]]).await;
        for (gateway, name) in [(&a, "1"), (&b, "2")] {
            delay_passes(gateway, name).await;
        }
        let again = told(&[&a, &b], ROOM).concat();
        assert!(again.iter().all(|event| event == "occupied"), "{again:?}");
        let expected = if data == Data::Kept { 1 } else { 2 };
        assert_eq!(again.len(), expected, "told again only if the data was lost");
        one.close().await;
        other.close().await;
        eventually_within(TOLD, "the end of the channel", async || {
            told(&[&a, &b], ROOM).concat().contains(&"vacated".to_owned()).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn channels_of_a_server_that_is_away_are_vacated_when_it_is_back() {
    let (one, mut other) =
        (Redis::with("").persistent().start().await, Redis::with("").persistent().start().await);
    let [mut a, b] = nodes(&format!("redis.urls = ['{}', '{}']", one.url(), other.url())).await;
    let rooms: Vec<_> = (0..12).map(|number| format!("room:{number}")).collect();
    let mut lost = Vec::new();
    for room in &rooms {
        lost.push(subscriber(&a, room).await);
        tells(&[&a, &b], room, &[&["occupied"], &[]]).await;
    }
    for server in [&one, &other] {
        assert!(!server.ask(&["KEYS", "gateway:occupancy:*"]).await.list().is_empty(), "both have channels");
    }
    other.kill();
    a.kill();
    eventually_within(TOLD, "a gateway that is degraded", async || {
        (b.get("/health/ready").await.status == 503).then_some(())
    })
    .await;
    other.revive(Data::Kept).await;
    for room in &rooms {
        tells(&[&b], room, &[&["vacated"]]).await;
    }
}

#[tokio::test]
async fn on_a_cluster_channels_of_every_master_are_told_also_when_their_slots_move() {
    let cluster = Cluster::start().await;
    let [mut a, b] = nodes(&format!("redis.cluster = ['redis://{}']", cluster.address(1))).await;
    let rooms: Vec<_> = (0..12).map(|number| format!("room:{number}")).collect();
    let mut clients = Vec::new();
    for room in &rooms {
        clients.push(subscriber(&a, room).await);
        tells(&[&a, &b], room, &[&["occupied"], &[]]).await;
    }
    let slot = cluster.slot(&format!("{{{}}}", rooms[0])).await;
    let to = (cluster.owner(slot).await + 1) % 3;
    cluster.reshard(slot, to).await;
    // The last subscriber of a channel that has moved, and of one whose master was replaced.
    clients.remove(0).close().await;
    tells(&[&a, &b], &rooms[0], &[&["occupied", "vacated"], &[]]).await;
    cluster.failover(cluster.slot(&format!("{{{}}}", rooms[1])).await).await;
    clients.remove(0).close().await;
    tells(&[&a, &b], &rooms[1], &[&["occupied", "vacated"], &[]]).await;
    a.kill();
    for room in &rooms[2..] {
        tells(&[&b], room, &[&["vacated"]]).await;
    }
}
