//! Compressed messages (permessage-deflate, RFC 7692): what is agreed, what is compressed and how often, and
//! what a client can do to the gateway with them.

use std::time::Duration;

use gateway::protocol::deflate::{Compressor, Decompressor, Window};
use gateway_tests::{API_KEY, Closed, Frame, Gateway, Handshake, Socket, eventually, node, token};
use serde_json::{Value, json};

const CENTRIFUGE: &str = "/connection/websocket";
const RAW: &str = "/connection/raw";

const CONFIG: &str = "
    client.anonymous = true
    raw.enabled = true
    [compression]
    enabled = true
    min_bytes = '100B'
    [namespaces.news]
    history_size = 10
    recovery = true
    presence = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    allow_history = 'anyone'
    allow_presence = 'anyone'
";

/// FIN, and FIN with the bit of a compressed message.
const PLAIN: u8 = 0x80;
const COMPRESSED: u8 = 0xc0;

/// `limits.message_bytes_max` as it is by default.
const MAX: usize = 64 << 10;

/// Shakes hands with this offer. Returns the answer to it; empty for none.
async fn offer(gateway: &Gateway, path: &str, offer: &str) -> (Socket, String) {
    let mut socket = Socket::connect(gateway.address()).await;
    let handshake = Handshake::to(path).with(&format!("Sec-WebSocket-Extensions: {offer}"));
    socket.send(&handshake.bytes()).await;
    let answer = socket.answer().await.expect("an answer");
    assert_eq!(answer.status, 101, "{}", answer.text());
    let agreed = answer.header("sec-websocket-extensions").unwrap_or_default().to_owned();
    (socket, agreed)
}

/// A connection on which both sides may compress.
async fn open(gateway: &Gateway, path: &str) -> Socket {
    let (socket, agreed) = offer(gateway, path, "permessage-deflate; client_max_window_bits").await;
    assert!(agreed.starts_with("permessage-deflate;"), "{agreed:?}");
    socket
}

fn deflated(message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    assert!(Compressor::new(6).compress(Window::Large, &mut message, 0), "it becomes smaller");
    message
}

fn inflated(frame: &Frame) -> Vec<u8> {
    assert_eq!(frame.bits, COMPRESSED, "{}", String::from_utf8_lossy(&frame.payload));
    Decompressor::default().decompress(&frame.payload, 16 << 20).expect("well-formed").to_vec()
}

/// Sends a command as it is, and returns the frame of the reply.
async fn ask(socket: &mut Socket, id: u32, command: &str, parameters: &Value) -> Frame {
    socket.send(&Frame::text(&json!({ "id": id, command: parameters }).to_string()).bytes()).await;
    socket.frame().await.unwrap_or_else(|| panic!("closed instead of a reply to {command}"))
}

#[tokio::test]
async fn nothing_is_compressed_unless_the_configuration_enables_it() {
    let gateway = Gateway::with("client.anonymous = true").start().await;
    let (mut socket, agreed) = offer(&gateway, CENTRIFUGE, "permessage-deflate").await;
    assert_eq!(agreed, "");
    socket.send(&Frame::new(Frame::TEXT, deflated(&[b' '; 200])).bits(COMPRESSED).bytes()).await;
    assert_eq!(socket.closed().await.code, Some(1002));
}

#[tokio::test]
async fn the_handshake_agrees_on_what_the_client_offers() {
    let gateway = Gateway::start(CONFIG).await;
    const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    for path in [CENTRIFUGE, RAW] {
        for (wanted, expected) in [
            ("permessage-deflate", ANSWER.to_owned()),
            ("permessage-deflate; client_max_window_bits", ANSWER.to_owned()),
            ("permessage-deflate; server_max_window_bits=12", format!("{ANSWER}; server_max_window_bits=9")),
            ("permessage-deflate; server_max_window_bits=8", String::new()),
            ("permessage-deflate; unknown, permessage-deflate", ANSWER.to_owned()),
            ("unknown", String::new()),
        ] {
            let (_, agreed) = offer(&gateway, path, wanted).await;
            assert_eq!(agreed, expected, "{wanted}");
        }
    }
    eventually("a count of each", async || {
        (gateway.metrics().await.get("gateway_compression_agreed_total") == 8.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_publication_is_compressed_once_for_all_subscribers_of_all_workers() {
    const SUBSCRIBERS: usize = 40;
    let gateway = Gateway::start(CONFIG).await;
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut socket = open(&gateway, CENTRIFUGE).await;
        ask(&mut socket, 1, "connect", &json!({})).await;
        ask(&mut socket, 2, "subscribe", &json!({ "channel": "news:1" })).await;
        subscribers.push(socket);
    }
    let data: Vec<Value> = (0..500).map(|n| json!({ "number": n, "text": "again and again" })).collect();
    let plain_bytes = serde_json::to_vec(&data).unwrap().len();
    let before = gateway.metrics().await;
    gateway.post("/api/publish", &json!({ "channel": "news:1", "data": data })).await.ok();
    let mut first: Option<Frame> = None;
    for socket in &mut subscribers {
        let frame = socket.frame().await.expect("the publication");
        let push: Value = serde_json::from_slice(&inflated(&frame)).unwrap();
        assert_eq!(push["push"]["pub"]["data"], json!(data));
        assert_eq!(frame, *first.get_or_insert_with(|| frame.clone()));
    }
    let after = gateway.metrics().await;
    let more = |name: &str| after.get(name) - before.get(name);
    assert_eq!(more("gateway_compressions_total"), 1.0);
    assert!(more("gateway_compression_input_bytes_total") >= plain_bytes as f64);
    let compressed = more("gateway_compression_output_bytes_total");
    assert_eq!(compressed, first.expect("some").payload.len() as f64);
    let sent = more("gateway_sent_bytes_total");
    println!("{plain_bytes} bytes to {SUBSCRIBERS} subscribers: {sent} bytes sent, {compressed} for each");
    assert!(sent < (SUBSCRIBERS * plain_bytes / 4) as f64, "{sent}");
}

/// Whoever sees the size of a compressed message can guess a secret in it.
#[tokio::test]
async fn what_may_hold_a_secret_is_not_compressed() {
    let router = "
        [[config.rules]]
        kind = 'rpc'
        reply = { text = '{payload.text}' }
    ";
    let gateway = Gateway::with(&CONFIG.replace("100B", "0B"))
        .plugin("10-auth-jwt", "auth-jwt", &token::settings())
        .plugin("90-router", "router", router)
        .start()
        .await;
    let text = "the same again and ".repeat(50);
    let mut socket = open(&gateway, CENTRIFUGE).await;
    let connected = ask(&mut socket, 1, "connect", &json!({ "token": token::of("ann") })).await;
    assert_eq!(connected.bits, PLAIN, "{connected:?}");
    let called = ask(&mut socket, 2, "rpc", &json!({ "method": "x", "data": { "text": text } })).await;
    assert!(called.payload.len() > 900 && called.bits == PLAIN, "{called:?}");
    assert_eq!(gateway.metrics().await.get("gateway_compressions_total"), 0.0, "not even tried");

    for _ in 0..5 {
        gateway.post("/api/publish", &json!({ "channel": "news:1", "data": text })).await.ok();
    }
    let page = ask(&mut socket, 3, "history", &json!({ "channel": "news:1", "limit": -1 })).await;
    let page: Value = serde_json::from_slice(&inflated(&page)).unwrap();
    let (offset, epoch) = (&page["history"]["offset"], &page["history"]["epoch"]);
    assert_eq!((offset, page["history"]["publications"].as_array().unwrap().len()), (&json!(5), 5));
    let recover = json!({ "channel": "news:1", "recover": true, "offset": 1, "epoch": epoch });
    let recovered = ask(&mut socket, 4, "subscribe", &recover).await;
    let recovered: Value = serde_json::from_slice(&inflated(&recovered)).unwrap();
    assert_eq!(recovered["subscribe"]["publications"].as_array().unwrap().len(), 4);
    let present = ask(&mut socket, 5, "presence", &json!({ "channel": "news:1" })).await;
    assert!(String::from_utf8_lossy(&inflated(&present)).contains("ann"));
}

#[tokio::test]
async fn messages_come_back_as_they_were_sent() {
    let gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await;
    let mut socket = open(&gateway, RAW).await;
    let random: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (opcode, message) in [
        (Frame::TEXT, "ünï\u{0}cödé ".repeat(20).into_bytes()),
        (Frame::BINARY, vec![0xff; MAX]),
        (Frame::BINARY, random.repeat(4)[..MAX].to_vec()),
        (Frame::TEXT, vec![b'x'; 100]),
    ] {
        let compressed = deflated(&message);
        let (first, second) = compressed.split_at(compressed.len() / 2);
        socket.send(&Frame::new(opcode, &compressed[..]).bits(COMPRESSED).bytes()).await;
        let whole = socket.frame().await.expect("an answer");
        socket.send(&Frame::new(opcode, first).bits(COMPRESSED & !0x80).bytes()).await;
        socket.send(&Frame::new(Frame::PING, "").bytes()).await;
        socket.send(&Frame::new(0, second).bytes()).await;
        assert_eq!(socket.frame().await.expect("a pong").opcode, Frame::PONG);
        let in_parts = socket.frame().await.expect("an answer");
        socket.send(&Frame::new(opcode, &message[..]).bytes()).await;
        let plain = socket.frame().await.expect("an answer");
        for frame in [whole, in_parts, plain] {
            assert_eq!((frame.opcode, inflated(&frame)), (opcode, message.clone()));
        }
    }
    let counts = gateway.metrics().await;
    assert_eq!(counts.get("gateway_decompressions_total"), 8.0);
    let (before, after) =
        ("gateway_decompression_input_bytes_total", "gateway_decompression_output_bytes_total");
    assert!(counts.get(before) < counts.get(after));
}

#[tokio::test]
async fn a_bomb_costs_its_sender_the_connection_and_nobody_else_anything() {
    const BOMBS: usize = 300;
    let gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await;
    let mut other = open(&gateway, RAW).await;
    let largest = Frame::new(Frame::BINARY, deflated(&vec![0; MAX])).bits(COMPRESSED).bytes();
    other.send(&largest).await;
    assert_eq!(inflated(&other.frame().await.expect("an answer")).len(), MAX, "as large as it may be");

    // 16 MiB of nothing; the message itself is small.
    let bomb = Frame::new(Frame::BINARY, deflated(&vec![0; 16 << 20])).bits(COMPRESSED).bytes();
    assert!(bomb.len() < 20_000, "{}", bomb.len());
    let before = gateway.memory();
    for _ in 0..BOMBS {
        let mut socket = open(&gateway, RAW).await;
        socket.send(&bomb).await;
        assert_eq!(socket.closed().await, Closed { code: Some(1009), reason: "message too big".into() });
    }
    let grown = gateway.memory().saturating_sub(before);
    println!("{BOMBS} bombs of 16 MiB: {grown} KiB more memory");
    assert!(grown < 8 << 10, "{grown} KiB");
    other.send(&largest).await;
    assert_eq!(inflated(&other.frame().await.expect("an answer")).len(), MAX);
}

#[tokio::test]
async fn bad_compressed_messages_end_the_connection_with_a_reason() {
    let gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await;
    for (what, opcode, payload, code) in [
        ("garbage", Frame::TEXT, b"garbage".to_vec(), 1002),
        ("an end too early", Frame::BINARY, deflated(&[1; 100])[..3].to_vec(), 1002),
        ("nothing", Frame::BINARY, Vec::new(), 1002),
        ("text that is not UTF-8", Frame::TEXT, deflated(&[0xff; 100]), 1007),
        ("too large", Frame::BINARY, deflated(&vec![0; MAX + 1]), 1009),
    ] {
        let mut socket = open(&gateway, RAW).await;
        socket.send(&Frame::new(opcode, payload).bits(COMPRESSED).bytes()).await;
        assert_eq!(socket.closed().await.code, Some(code), "{what}");
    }
}

/// Kibibytes for connections, each of which has sent and received a message before.
async fn memory_of_idle(connections: usize, compressing: bool) -> u64 {
    let gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await;
    let message = vec![b'x'; 2000];
    let (bits, payload) =
        if compressing { (COMPRESSED, deflated(&message)) } else { (PLAIN, message.clone()) };
    let mut idle = Vec::new();
    let mut before = 0;
    // The first ones warm up what exists once.
    for number in 0..100 + connections {
        if number == 100 {
            before = gateway.memory();
        }
        let mut socket =
            if compressing { open(&gateway, RAW).await } else { Socket::open(gateway.address(), RAW).await };
        socket.send(&Frame::new(Frame::BINARY, &payload[..]).bits(bits).bytes()).await;
        assert_eq!(socket.frame().await.expect("an answer").bits, bits);
        idle.push(socket);
    }
    gateway.memory().saturating_sub(before)
}

#[tokio::test]
async fn an_idle_connection_keeps_nothing_for_compression() {
    const CONNECTIONS: usize = 800;
    let plain = memory_of_idle(CONNECTIONS, false).await;
    let compressing = memory_of_idle(CONNECTIONS, true).await;
    println!("{CONNECTIONS} idle connections: {plain} KiB, with compression {compressing} KiB");
    // A decompressor for each would be 40 KiB, a compressor 250 KiB.
    assert!(compressing < plain + CONNECTIONS as u64, "{compressing} and {plain} KiB");
}

#[tokio::test]
async fn client_libraries_send_and_receive_fewer_bytes() {
    let gateway = Gateway::start(CONFIG).await;
    let output = node("compression.mjs")
        .env("NODE_OPTIONS", "--experimental-websocket")
        .env("GATEWAY", gateway.address().to_string())
        .env("ADMIN", gateway.admin().to_string())
        .env("API_KEY", API_KEY)
        .run(Duration::from_secs(60))
        .await;
    println!("{output}");
    let steps: Vec<_> = output.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(steps, ["ws", "Node's own", "fewer bytes"]);
    let counts = gateway.metrics().await;
    assert_eq!(counts.get("gateway_compression_agreed_total"), 2.0);
    assert!(counts.get("gateway_decompressions_total") >= 3.0, "from `ws`: Node's own only receives them");
}
