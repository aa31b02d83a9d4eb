//! How much there may be of anything, and what who wants more is told.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use gateway_tests::{
    Client, Closed, Endpoint, Frame, Gateway, Handshake, RawClient, Reply, Socket, eventually,
};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

const RAW: &str = "raw.enabled = true\nclient.anonymous = true\n";

async fn refusal(gateway: &Gateway) -> (u16, Option<String>) {
    let mut socket = Socket::connect(gateway.address()).await;
    socket.send(&Handshake::to("/connection/raw").bytes()).await;
    let answer = socket.answer().await.expect("an answer");
    (answer.status, answer.header("retry-after").map(str::to_owned))
}

/// Connections are given back when they have ended, which the client sees a moment earlier.
async fn there_is_room(gateway: &Gateway) {
    eventually("a place to be free", async || {
        (RawClient::open(gateway.address(), "/connection/raw", &[]).await.is_ok()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn connections_of_the_node_are_counted() {
    let gateway = Gateway::start(&format!("{RAW}limits.connections_max = 3")).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(RawClient::connect(&gateway).await);
    }
    assert_eq!(refusal(&gateway).await, (503, Some("5".into())));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_connections_refused_total{reason=\"capacity\"}"), 1.0);
    clients.pop().unwrap().close().await;
    there_is_room(&gateway).await;
}

#[tokio::test]
async fn connections_of_one_address_are_counted() {
    let gateway = Gateway::start(&format!("{RAW}limits.connections_per_address_max = 2")).await;
    let first = RawClient::connect(&gateway).await;
    let _second = RawClient::connect(&gateway).await;
    assert_eq!(refusal(&gateway).await, (429, Some("5".into())));
    first.close().await;
    there_is_room(&gateway).await;
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, n])
}

/// A handshake from this address: how long it takes, and its status.
async fn newcomer(gateway: &Gateway, n: u8) -> (Duration, u16) {
    let begun = Instant::now();
    let mut socket = Socket::connect_from(address(n), gateway.address()).await;
    socket.send(&Handshake::to("/connection/raw").bytes()).await;
    let status = socket.answer().await.map_or(0, |answer| answer.status);
    (begun.elapsed(), status)
}

async fn refused(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metrics().await.get(&format!("gateway_connections_refused_total{{reason=\"{reason}\"}}"))
}

#[tokio::test]
async fn the_oldest_silent_client_gives_way_to_the_newest() {
    let gateway = Gateway::start(&format!("{RAW}limits.handshakes_max = 2")).await;
    let mut oldest = Socket::connect(gateway.address()).await;
    gateway_is_waiting(&gateway, &mut oldest).await;
    let mut newer = Vec::new();
    for _ in 0..10 {
        newer.push(Socket::connect(gateway.address()).await);
        assert_eq!(newcomer(&gateway, 1).await.1, 101);
    }
    oldest.ended().await;
    eventually("nine to be counted", async || (refused(&gateway, "evicted").await >= 9.0).then_some(()))
        .await;
    assert_eq!(refused(&gateway, "handshakes").await, 0.0);
}

/// A half of a request has been read, so the socket is counted.
async fn gateway_is_waiting(gateway: &Gateway, socket: &mut Socket) {
    socket.send(b"GET /connection/raw HTTP/1.1\r\n").await;
    newcomer(gateway, 1).await;
}

#[tokio::test]
async fn clients_that_are_being_judged_keep_their_places() {
    let endpoint = Endpoint::start(|_, _| Reply::status(200).after(Duration::from_secs(2))).await;
    let settings = format!(
        "[config]\nendpoint = '{}'\n[grants]\nhttp-private = ['{}']\n",
        endpoint.url("/introspect"),
        endpoint.url("")
    );
    let gateway = Gateway::with("limits.handshakes_max = 2\nraw.enabled = true");
    let gateway = gateway.plugin("10-introspection", "introspection", &settings).start().await;
    let mut judged = Vec::new();
    for n in 0..2 {
        let mut client = Client::open(gateway.address()).await;
        client.send_text(&format!("{{\"id\":1,\"connect\":{{\"token\":\"user-{n}\"}}}}")).await;
        judged.push(client);
    }
    eventually("both to be asked about", async || (endpoint.received().len() == 2).then_some(())).await;
    assert_eq!(refusal(&gateway).await, (503, Some("1".into())));
    // With them their places are given back.
    drop(judged);
    eventually("a place to be free", async || (refusal(&gateway).await.0 == 101).then_some(())).await;
}

#[tokio::test]
async fn silent_sockets_of_one_address_keep_nobody_out() {
    let gateway = Gateway::start(RAW).await;
    let calm = newcomer(&gateway, 3).await;
    let mut silent = Vec::new();
    for _ in 0..2500 {
        silent.push(Socket::connect_from(address(2), gateway.address()).await);
    }
    let mut slowest = Duration::ZERO;
    for n in 3..23 {
        let (took, status) = newcomer(&gateway, n).await;
        assert_eq!(status, 101, "from 127.0.0.{n}");
        slowest = slowest.max(took);
    }
    assert_eq!(newcomer(&gateway, 2).await.1, 101, "their own address gets in as well");
    println!(
        "handshake of others beside 2500 silent sockets of one address: {slowest:?} at most, {:?} before",
        calm.0
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(refused(&gateway, "handshakes").await, 0.0);
}

#[tokio::test]
async fn silent_sockets_of_many_addresses_keep_nobody_out() {
    let gateway = Gateway::start(&format!("{RAW}limits.handshakes_max = 500")).await;
    let mut silent = Vec::new();
    for n in 0..1500_usize {
        silent.push(Socket::connect_from(address(30 + (n % 100) as u8), gateway.address()).await);
    }
    for n in 3..13 {
        assert_eq!(newcomer(&gateway, n).await.1, 101);
    }
}

#[tokio::test]
async fn clients_that_shake_hands_and_say_nothing_keep_nobody_out() {
    let config = "client.anonymous = true\nlimits.handshakes_max = 50";
    let gateway = Gateway::start(config).await;
    let mut silent = Vec::new();
    for n in 0..200_usize {
        let mut socket = Socket::connect_from(address(30 + (n % 100) as u8), gateway.address()).await;
        socket.send(&Handshake::to("/connection/websocket").bytes()).await;
        assert_eq!(socket.answer().await.map(|answer| answer.status), Some(101));
        silent.push(socket);
    }
    let mut admitted = Client::connect(&gateway).await;
    let closed = silent[0].closed().await;
    assert_eq!(closed.code, Some(3013), "a code after which clients come back: {closed:?}");
    eventually("150 to be counted", async || {
        let metrics = gateway.metrics().await;
        (metrics.get("gateway_connections_closed_total{cause=\"evicted\"}") >= 150.0).then_some(())
    })
    .await;
    // Who is admitted is no concern of theirs.
    for _ in 0..60 {
        silent.push(Socket::open(gateway.address(), "/connection/websocket").await);
    }
    assert!(admitted.ask("rpc", json!({ "method": "x" })).await.is_err_and(|refused| refused.code != 0));
}

#[tokio::test]
async fn an_answer_that_is_no_connection_gives_its_place_back_at_once() {
    let gateway = Gateway::start(&format!("{RAW}limits.handshakes_max = 3")).await;
    let mut answered = Vec::new();
    for (request, status, header) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404, None),
        ("GET /connection/websocket HTTP/1.1\r\nHost: a\r\n\r\n", 426, Some(("upgrade", "websocket"))),
        ("POST /connection/websocket HTTP/1.1\r\nHost: a\r\n\r\n", 405, Some(("allow", "GET"))),
        ("nonsense\r\n\r\n", 400, None),
    ] {
        let mut socket = Socket::connect(gateway.address()).await;
        socket.send(request.as_bytes()).await;
        let answer = socket.answer().await.expect("an answer");
        assert_eq!(answer.status, status, "{request}");
        assert_eq!(answer.header("connection"), Some("close"), "{request}");
        if let Some((name, value)) = header {
            assert_eq!(answer.header(name), Some(value), "{request}");
        }
        // Whoever leaves its socket open has had its answer.
        answered.push(socket);
        assert_eq!(newcomer(&gateway, 1).await.1, 101, "{request}");
    }
    for socket in &mut answered {
        socket.ended().await;
    }
}

#[tokio::test]
async fn the_head_of_a_request_has_a_deadline_of_its_own() {
    let config = "client.anonymous = true\nhandshake.head_deadline = '300ms'";
    let gateway = Gateway::start(config).await;
    let begun = Instant::now();
    let mut silent = Socket::connect(gateway.address()).await;
    let mut half = Socket::connect(gateway.address()).await;
    half.send(b"GET /connection/websocket HTTP/1.1\r\nHost:").await;
    let mut client = Client::open(gateway.address()).await;
    silent.ended().await;
    half.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    eventually("both to be counted", async || (refused(&gateway, "deadline").await == 2.0).then_some(()))
        .await;
    // The connect command has the time of the whole handshake.
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.ask("connect", json!({})).await.expect("it is in time");
}

#[tokio::test]
async fn new_connections_have_a_rate_for_each_address_and_for_the_node() {
    let rates = "limits = { connection_rate_per_address = 1, connection_burst_per_address = 3 }";
    let gateway = Gateway::start(&format!("{RAW}{rates}")).await;
    let answer = async |gateway: &Gateway, n: u8| {
        let mut socket = Socket::connect_from(address(n), gateway.address()).await;
        socket.send(&Handshake::to("/connection/raw").bytes()).await;
        let answer = socket.answer().await.expect("an answer");
        (answer.status, answer.header("retry-after").map(str::to_owned))
    };
    let mut refused_ones = 0;
    for _ in 0..10 {
        match answer(&gateway, 2).await {
            (101, None) => {}
            (429, Some(seconds)) if seconds == "1" => refused_ones += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!((5..=7).contains(&refused_ones), "{refused_ones}");
    assert_eq!(answer(&gateway, 3).await.0, 101, "another address has a rate of its own");
    assert_eq!(refused(&gateway, "address_rate").await, f64::from(refused_ones));

    let gateway =
        Gateway::start(&format!("{RAW}limits = {{ connection_rate = 1, connection_burst = 3 }}")).await;
    let mut statuses = Vec::new();
    for n in 2..8 {
        statuses.push(answer(&gateway, n).await.0);
    }
    assert_eq!(statuses[..3], [101; 3]);
    assert_eq!(statuses[5], 503);
    assert!(refused(&gateway, "rate").await >= 1.0);
}

#[tokio::test]
async fn a_handshake_has_to_be_complete_in_time() {
    let gateway = Gateway::start(&format!("{RAW}handshake.deadline = '300ms'")).await;
    let mut silent = Socket::connect(gateway.address()).await;
    let mut half = Socket::connect(gateway.address()).await;
    let handshake = Handshake::to("/connection/raw").bytes();
    half.send(&handshake[..handshake.len() / 2]).await;
    silent.ended().await;
    half.ended().await;
    // A byte now and then is no way around it.
    let mut slow = Socket::connect(gateway.address()).await;
    let trickle = async {
        for byte in &handshake {
            slow.send(&[*byte]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        slow.answer().await
    };
    assert!(trickle.await.is_none_or(|answer| answer.status != 101));
    assert_eq!(gateway.metrics().await.get("gateway_connections_opened_total"), 0.0);
}

#[tokio::test]
async fn the_head_of_a_request_has_a_largest_size() {
    let gateway = Gateway::start(RAW).await;
    for (size, status) in [(8 << 10, 101), (20 << 10, 431), (1 << 20, 431)] {
        let mut socket = Socket::connect(gateway.address()).await;
        let handshake = Handshake::to("/connection/raw").with(&format!("Cookie: {}", "x".repeat(size)));
        socket.send(&handshake.bytes()).await;
        assert_eq!(socket.answer().await.map(|answer| answer.status), Some(status), "{size}");
    }
}

#[tokio::test]
async fn messages_have_a_largest_size() {
    let config = format!("{RAW}limits.message_bytes_max = '1KiB'");
    let gateway = Gateway::with(&config).plugin("90-echo", "echo", "").start().await;
    let mut client = RawClient::connect(&gateway).await;
    let largest = "x".repeat(1024);
    assert_eq!(client.ask(&largest).await, largest);
    client.send(&(largest + "x")).await;
    assert_eq!(client.closed().await, Closed { code: Some(1009), reason: "message too big".into() });
}

#[tokio::test]
async fn a_client_has_only_so_many_subscriptions() {
    let config = "
        client.anonymous = true
        limits.channels_per_connection_max = 3
        namespaces.chat.allow_subscribe = 'anyone'
    ";
    let gateway = Gateway::start(config).await;
    let mut client = Client::connect(&gateway).await;
    for n in 0..3 {
        client.subscribe(&format!("chat:{n}")).await;
    }
    let subscribe = json!({ "channel": "chat:one-more" });
    assert_eq!(client.ask("subscribe", subscribe.clone()).await.unwrap_err().code, 106);
    client.ask("unsubscribe", json!({ "channel": "chat:0" })).await.unwrap();
    client.ask("subscribe", subscribe).await.unwrap();
}

#[tokio::test]
async fn there_are_only_so_many_channels() {
    let config = "
        client.anonymous = true
        memory.channels_max = 10
        namespaces.chat = { allow_subscribe = 'anyone', allow_publish = 'anyone', history_size = 1 }
    ";
    let gateway = Gateway::start(config).await;
    let mut client = Client::connect(&gateway).await;
    let mut refused = 0;
    for n in 0..20 {
        match client.ask("subscribe", json!({ "channel": format!("chat:{n}") })).await {
            Ok(_) => assert_eq!(refused, 0, "no room is found behind a refusal"),
            Err(error) => {
                assert_eq!(error.code, 106);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 10);
    client.publish("chat:0", json!("still works")).await;
    assert_eq!(client.publication("chat:0").await["data"], "still works");
}

#[tokio::test]
async fn a_message_carries_only_so_many_commands() {
    let config = "
        client.anonymous = true
        limits.commands_per_message_max = 3
        namespaces.chat.allow_subscribe = 'anyone'
    ";
    let gateway = Gateway::start(config).await;
    let message = |count: usize| {
        let commands =
            (1..count).map(|n| format!("{{\"id\":{},\"subscribe\":{{\"channel\":\"chat:{n}\"}}}}", n + 1));
        ["{\"id\":1,\"connect\":{}}".to_owned()].into_iter().chain(commands).collect::<Vec<_>>().join("\n")
    };
    let mut client = Client::open(gateway.address()).await;
    client.send_text(&message(3)).await;
    client.reply(1, "connect").await.unwrap();
    client.reply(2, "subscribe").await.unwrap();
    client.reply(3, "subscribe").await.unwrap();
    let mut client = Client::open(gateway.address()).await;
    client.send_text(&message(4)).await;
    assert_eq!(client.closed().await.code, Some(3501));
}

#[tokio::test]
async fn history_and_recovery_return_only_so_much() {
    let config = "
        client = { anonymous = true, history_publications_max = 10 }
        [namespaces.news]
        history_size = 100
        recovery = true
        allow_subscribe = 'anyone'
        allow_publish = 'anyone'
        allow_history = 'anyone'
    ";
    let gateway = Gateway::start(config).await;
    let mut client = Client::connect(&gateway).await;
    for n in 1..=30 {
        client.publish("news:1", json!(n)).await;
    }
    let history = client.ask("history", json!({ "channel": "news:1", "limit": -1 })).await.unwrap();
    assert_eq!(history["publications"].as_array().unwrap().len(), 10);
    let epoch = history["epoch"].as_str().unwrap();
    for (offset, recovered) in [(20, true), (19, false)] {
        let subscribe = json!({ "channel": "news:1", "recover": true, "offset": offset, "epoch": epoch });
        let subscribed = client.ask("subscribe", subscribe).await.unwrap();
        assert_eq!(subscribed["recovered"] == true, recovered, "from {offset}: {subscribed}");
        client.ask("unsubscribe", json!({ "channel": "news:1" })).await.unwrap();
    }
}

#[tokio::test]
async fn an_idle_connection_costs_little() {
    let config = format!("{RAW}limits.connections_per_address_max = 5000");
    let gateway = Gateway::with(&config).plugin("90-echo", "echo", "").start().await;
    let mut clients = Vec::new();
    let mut grow = async |count: usize| {
        while clients.len() < count {
            let mut client = RawClient::connect(&gateway).await;
            client.send_message(Message::binary(vec![1; 128])).await;
            client.message().await;
            clients.push(client);
        }
        gateway.memory()
    };
    let (few, many) = (grow(200).await, grow(2200).await);
    let each = (many - few) * 1024 / 2000;
    println!("an idle connection that has echoed 128 bytes: {each} bytes");
    assert!(each < 8 << 10, "{each} bytes for each connection");
}

#[tokio::test]
async fn what_is_announced_is_not_reserved() {
    let config = format!("{RAW}limits.message_bytes_max = '16MiB'\nlimits.outbound_bytes_max = '32MiB'");
    let gateway = Gateway::start(&config).await;
    let before = gateway.memory();
    let mut sockets = Vec::new();
    for _ in 0..100 {
        let mut socket = Socket::open(gateway.address(), "/connection/raw").await;
        let whole = Frame::new(Frame::BINARY, vec![0; 15 << 20]).bytes();
        socket.send(&whole[..1024]).await;
        sockets.push(socket);
    }
    // Once another client is served everything before it has been read.
    let mut probe = Socket::open(gateway.address(), "/connection/raw").await;
    probe.send(&Frame::new(Frame::PING, "x").bytes()).await;
    assert_eq!(probe.frame().await.unwrap().opcode, Frame::PONG);
    let grown = gateway.memory().saturating_sub(before);
    println!("100 clients announced 15 MiB each and sent 1 KiB: {grown} KiB more");
    assert!(grown < 32 << 10, "{grown} KiB");
}
