//! Clients that send as fast as the gateway takes it, and read: every deadline holds for them as for anybody
//! else.

use std::time::Duration;

use gateway_tests::{
    Client, Closed, Flood, Flooding, Frame, Gateway, eventually, eventually_within, token, within_time,
};
use serde_json::json;

const PATH: &str = "/connection/websocket";

/// A machine may be busy. Without the deadlines these floods go on for as long as they are let.
const LATE: Duration = Duration::from_secs(3);

/// How long a flood that nothing ends is watched.
const WATCHED: Duration = Duration::from_secs(8);

const CONNECT: &str = "{\"id\":1,\"connect\":{}}";

/// How a flood is ended by the gateway, and after which time.
async fn end_of(flood: &Flooding) -> (Closed, Duration) {
    eventually_within(WATCHED, "the flood to be ended", async || flood.closed()).await
}

fn rpcs() -> Vec<u8> {
    Frame::text("{\"id\":2,\"rpc\":{}}").bytes().repeat(500)
}

/// Parts of a message that never ends, without a byte in them.
fn fragments() -> Vec<u8> {
    Frame::new(0, "").bits(0).bytes().repeat(5000)
}

#[tokio::test]
async fn whoever_never_connects_is_ended_in_time_whatever_it_sends() {
    let gateway = Gateway::start("handshake.deadline = '1s'\nclient.anonymous = true").await;
    // The first part of a message comes once.
    let flood =
        Flood::of(PATH, fragments()).begin(&Frame::text("{").bits(0).bytes()).start(gateway.address());
    let (closed, after) = end_of(&flood).await;
    println!("fragments: {} KiB, closed after {after:?}", flood.sent() / 1024);
    assert_eq!(closed.code, Some(3502));
    assert!((Duration::from_millis(900)..Duration::from_secs(1) + LATE).contains(&after), "{after:?}");
    assert!(flood.sent() > 1 << 20, "it was no flood");
}

#[tokio::test]
async fn pings_have_a_rate_before_and_after_the_connect() {
    let gateway = Gateway::start("client.anonymous = true\nraw.enabled = true").await;
    for (path, first) in [(PATH, vec![]), (PATH, vec![CONNECT.to_owned()]), ("/connection/raw", vec![])] {
        for opcode in [Frame::PING, Frame::PONG] {
            let block = Frame::new(opcode, "").bytes().repeat(5000);
            let flood = Flood::of(path, block).first(&first).start(gateway.address());
            let (closed, after) = end_of(&flood).await;
            assert_eq!((closed.code, &*closed.reason), (Some(3013), "too many pings and pongs"), "{path}");
            assert!(after < LATE, "{after:?}");
        }
    }
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_connections_closed_total{cause=\"too_many_requests\"}"), 6.0);
    for frame in ["ping", "pong"] {
        let count = metrics.get(&format!("gateway_control_frames_received_total{{frame=\"{frame}\"}}"));
        assert!((1200.0..2500.0).contains(&count), "{count}");
    }
    // Whoever sends one now and then hears its answer.
    let mut polite = gateway_tests::Socket::open(gateway.address(), PATH).await;
    for _ in 0..300 {
        polite.send(&Frame::new(Frame::PING, "x").bytes()).await;
        assert_eq!(polite.frame().await.expect("a pong").opcode, Frame::PONG);
    }
}

#[tokio::test]
async fn whoever_answers_no_ping_is_ended_in_time_whatever_it_sends() {
    let config = "client = { anonymous = true, ping_interval = '1s', pong_timeout = '500ms' }";
    let gateway = Gateway::start(config).await;
    let flood = Flood::of(PATH, rpcs()).first(&[CONNECT.to_owned()]).start(gateway.address());
    let (closed, after) = end_of(&flood).await;
    println!("rpcs: {} KiB, closed after {after:?}", flood.sent() / 1024);
    assert_eq!(closed.code, Some(3012));
    assert!(after < Duration::from_millis(1500) + LATE, "{after:?}");
}

#[tokio::test]
async fn nothing_is_carried_out_after_the_expiry_of_a_credential() {
    let config = "
        client.expiry_grace = '0s'
        [namespaces.feed]
        allow_subscribe = 'users'
        allow_publish = 'users'
        [limits]
        outbound_bytes_max = '64MiB'
    ";
    let gateway = Gateway::with(config).plugin("10-auth", "auth-jwt", &token::settings()).start().await;
    let mut subscriber = Client::connect_as(&gateway, "reader").await;
    subscriber.subscribe("feed:1").await;
    let expiry = token::in_time(Duration::from_secs(2));
    let token = token::with("writer", json!({ "exp": expiry }));
    let connect = json!({ "id": 1, "connect": { "token": token } }).to_string();
    // One publication that is seen among commands without an effect.
    let mut block = rpcs();
    let publish = json!({ "id": 3, "publish": { "channel": "feed:1", "data": "x" } }).to_string();
    block.extend(Frame::text(&publish).bytes());
    let flood = Flood::of(PATH, block).first(&[connect]).start(gateway.address());
    let mut late = 0;
    let mut seen = 0;
    let ended = end_of(&flood);
    tokio::pin!(ended);
    let ended = loop {
        tokio::select! {
            _ = subscriber.publication("feed:1") => {
                seen += 1;
                // What was published before may be on its way for a moment.
                late += usize::from(now() > expiry as f64 + 0.3);
            }
            ended = &mut ended => break ended,
        }
    };
    println!("{seen} publications, {late} after the expiry; closed after {:?}", ended.1);
    assert_eq!(ended.0.code, Some(3005));
    assert!(seen > 10 && late == 0, "{late} of {seen}");
}

#[tokio::test]
async fn whoever_takes_nothing_of_what_waits_is_ended_in_time_whatever_it_sends() {
    let config = "
        client.anonymous = true
        raw.enabled = true
        limits = { write_timeout = '1s', outbound_bytes_max = '64MiB' }
        [namespaces.feed]
        allow_subscribe = 'anyone'
        allow_publish = 'anyone'
    ";
    let router = "[[config.rules]]\nkind = 'send'\ndrop = true\n";
    let gateway = Gateway::with(config).plugin("50-router", "router", router).start().await;
    let subscribe = json!({ "id": 2, "subscribe": { "channel": "feed:1" } }).to_string();
    let sends = Frame::text("{\"send\":{\"data\":{}}}").bytes().repeat(500);
    let flood =
        Flood::of(PATH, sends).first(&[CONNECT.to_owned(), subscribe]).deaf().start(gateway.address());
    eventually("the subscription", async || {
        (gateway.metrics().await.get("gateway_subscriptions") == 1.0).then_some(())
    })
    .await;
    let mut publisher = Client::connect(&gateway).await;
    // More than the system buffers, less than makes the gateway stop reading.
    within_time(Duration::from_secs(10), "publications beside the flood", async {
        for _ in 0..400 {
            publisher.publish("feed:1", json!("x".repeat(50_000))).await;
        }
    })
    .await;
    eventually_within(Duration::from_secs(1) + LATE, "the flood to be ended as slow", async || {
        let slow = gateway.metrics().await.get("gateway_connections_closed_total{cause=\"slow\"}");
        (slow == 1.0).then_some(())
    })
    .await;
    assert!(flood.sent() > 1 << 20, "it was no flood");
}

/// Unix time in seconds.
fn now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("it is after 1970")
        .as_secs_f64()
}
