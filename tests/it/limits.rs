//! How much there may be of anything, and what who wants more is told.

use std::time::Duration;

use gateway_tests::{Client, Closed, Frame, Gateway, Handshake, RawClient, Socket, eventually};
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

#[tokio::test]
async fn clients_in_their_handshake_are_counted() {
    let gateway = Gateway::start(&format!("{RAW}limits.handshakes_max = 2")).await;
    let silent = eventually("both to be counted", async || {
        // Whoever is accepted last is refused. While one of these is not accepted yet, that is this one.
        let silent = [Socket::connect(gateway.address()).await, Socket::connect(gateway.address()).await];
        (refusal(&gateway).await == (503, Some("1".into()))).then_some(silent)
    })
    .await;
    // With them their places are given back.
    drop(silent);
    eventually("a place to be free", async || (refusal(&gateway).await.0 == 101).then_some(())).await;
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
