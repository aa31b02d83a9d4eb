//! HTTP/2: many clients on one connection of TLS, and clients that misuse it.

use std::time::{Duration, Instant};

use gateway_tests::{Authority, Client, Frame, Gateway, Http2, eventually, within, within_time};
use h2::Reason;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CONFIG: &str = "
    client.anonymous = true
    channel.allow_subscribe = 'anyone'
    channel.allow_publish = 'anyone'
    handshake.origins = ['https://app.example']
";
const HTTP_STREAM: &str = "/connection/http_stream";
const SSE: &str = "/connection/sse";
const WEBSOCKET: &str = "/connection/websocket";
const FLOODS: &str = "gateway_connections_refused_total{reason=\"flood\"}";

/// A gateway with a certificate of this authority.
async fn start(authority: &Authority, more: &str) -> Gateway {
    authority.write("site", &authority.issue(&["localhost"]));
    let settings = authority.settings(&["site"]);
    Gateway::start(&format!("{CONFIG}\n{more}\n[listen.tls]\n{settings}\n")).await
}

async fn publish(gateway: &Gateway, data: Value) {
    gateway.post("/api/publish", &json!({ "channel": "news", "data": data })).await.ok();
}

fn subscribe() -> String {
    json!({ "id": 2, "subscribe": { "channel": "news" } }).to_string()
}

/// Waits until a metric has this value.
async fn metric(gateway: &Gateway, name: &str, value: f64) {
    eventually(format!("{name} to be {value}"), async || {
        (gateway.metrics().await.get(name) == value).then_some(())
    })
    .await;
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// What a client of HTTP/2 begins with.
fn preface() -> Vec<u8> {
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, b"")].concat()
}

#[tokio::test]
async fn twenty_tabs_share_one_connection() {
    let authority = Authority::new();
    let gateway = start(&authority, "").await;
    let http2 = Http2::connect(authority.client(), gateway.address()).await;
    let mut tabs = Vec::new();
    for n in 0..20 {
        let tab = http2.stream(if n % 2 == 0 { SSE } else { HTTP_STREAM }).await;
        assert_eq!(http2.emulate(&tab.hello, &subscribe()).await, 204);
        tabs.push(tab);
    }
    for tab in &mut tabs {
        assert_eq!(tab.message().await.expect("a reply")["id"], 2);
    }
    let command = json!({ "id": 3, "publish": { "channel": "news", "data": "from a tab" } }).to_string();
    assert_eq!(http2.emulate(&tabs[7].hello, &command).await, 204);
    let large = "x".repeat(50_000);
    publish(&gateway, json!(large)).await;
    for tab in &mut tabs {
        for expected in ["from a tab", &large] {
            while tab.message().await.expect("a push")["push"]["pub"]["data"] != expected {}
        }
    }
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_http2_connections_total"), 1.0);
    assert_eq!(metrics.get("gateway_connections"), 20.0);
    // One tab is closed, and only its client ends.
    tabs.pop().expect("a tab").reset();
    metric(&gateway, "gateway_connections", 19.0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!http2.is_over());
    // The browser is closed.
    drop((tabs, http2));
    metric(&gateway, "gateway_connections", 0.0).await;
}

#[tokio::test]
async fn requests_are_answered_as_over_http_1() {
    let authority = Authority::new();
    let gateway = start(&authority, "").await;
    let http2 = Http2::connect(authority.client(), gateway.address()).await;
    let (status, headers, body) = http2.ask("GET", "/nothing", &[], "").await;
    assert_eq!(status, 404);
    assert_eq!(headers["content-length"], body.len().to_string());
    assert!(body.contains("there is nothing here"), "{body}");
    for name in ["connection", "keep-alive", "transfer-encoding", "upgrade"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    let app = ("origin", "https://app.example");
    let (status, headers, _) = http2.ask("OPTIONS", SSE, &[app], "").await;
    assert_eq!(status, 204);
    assert_eq!(headers["access-control-allow-origin"], "https://app.example");
    assert_eq!(headers["access-control-allow-credentials"], "true");
    let (status, _, body) = http2.ask("POST", SSE, &[("origin", "https://evil.example")], "{}").await;
    assert_eq!(status, 403);
    assert!(body.contains("handshake.origins"), "{body}");
    let (status, ..) = http2.ask("POST", SSE, &[("sec-fetch-site", "cross-site")], "{}").await;
    assert_eq!(status, 403, "what a page embeds");
    let (status, headers, _) = http2.ask("PUT", HTTP_STREAM, &[], "").await;
    assert_eq!((status, headers["allow"].to_str().unwrap()), (405, "POST, OPTIONS"));
    let (status, _, body) = http2.ask("GET", WEBSOCKET, &[], "").await;
    assert_eq!(status, 400);
    assert!(body.contains("CONNECT"), "{body}");
    let (status, ..) = http2.ask("POST", HTTP_STREAM, &[], &"x".repeat(200_000)).await;
    assert_eq!(status, 413, "a body that is too large does not end the connection");
    let gone = json!({ "session": "x", "node": "y" });
    assert_eq!(http2.emulate(&gone, "{}").await, 404);
    // Large heads are refused.
    let large = "x".repeat(20_000);
    let opened = http2.open(Http2::request("GET", "/nothing", &[("x-large", &large)]), Some("".into())).await;
    assert!(opened.is_err() || opened.is_ok_and(|stream| stream.status == 431));
    let (status, ..) = http2.ask("GET", "/nothing", &[], "").await;
    assert_eq!(status, 404, "the connection goes on");
}

#[tokio::test]
async fn a_websocket_is_a_stream_as_well() {
    let authority = Authority::new();
    let gateway = start(&authority, "").await;
    let http2 = Http2::connect(authority.client(), gateway.address()).await;
    let mut socket = http2.websocket(WEBSOCKET).await;
    assert_eq!(socket.status, 200);
    assert!(!socket.headers.contains_key("sec-websocket-accept"));
    let hello = Frame::text(r#"{"id":1,"connect":{}}"#).bytes();
    let both = [hello, Frame::text(&subscribe()).bytes()].concat();
    // In two pieces: where a frame of HTTP/2 ends says nothing.
    let (first, second) = both.split_at(9);
    socket.send.send_data(first.to_vec().into(), false).unwrap();
    socket.send.send_data(second.to_vec().into(), false).unwrap();
    socket.find(b"\"subscribe\"").await;
    publish(&gateway, json!("to a WebSocket")).await;
    socket.find(b"to a WebSocket").await;
    socket.send.send_data(Frame::new(Frame::CLOSE, [0x03, 0xe8]).bytes().into(), true).unwrap();
    socket.ended().await;
    metric(&gateway, "gateway_connections", 0.0).await;
    metric(&gateway, "gateway_connections_closed_total{cause=\"client\"}", 1.0).await;

    let (status, ..) = http2.ask("GET", "/nothing", &[], "").await;
    assert_eq!(status, 404);
    let wrong = http2.websocket("/nothing").await;
    assert_eq!(wrong.status, 404);
}

#[tokio::test]
async fn requests_keep_their_order() {
    let authority = Authority::new();
    let gateway = start(&authority, "").await;
    let http2 = Http2::connect(authority.client(), gateway.address()).await;
    let mut tab = http2.stream(HTTP_STREAM).await;
    assert_eq!(http2.emulate(&tab.hello, &subscribe()).await, 204);
    let mut responses = Vec::new();
    for n in 0..50 {
        let data = json!({ "id": 10 + n, "publish": { "channel": "news", "data": n } }).to_string();
        let body = json!({ "session": tab.hello["session"], "node": tab.hello["node"], "data": data });
        let request = Http2::request("POST", "/emulation", &[]);
        let (response, _) = http2.begin(request, Some(body.to_string().into())).await.expect("a request");
        responses.push(response);
    }
    for response in responses {
        assert_eq!(within("a response", response).await.expect("a response").status(), 204);
    }
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let message = tab.message().await.expect("a message");
        seen.extend(message.pointer("/push/pub/data").and_then(Value::as_u64));
    }
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_stream_counts_as_a_connection_of_its_address() {
    let authority = Authority::new();
    let gateway = start(&authority, "limits.connections_per_address_max = 2").await;
    let http2 = Http2::connect(authority.client(), gateway.address()).await;
    let first = http2.stream(SSE).await;
    let _second = http2.stream(SSE).await;
    let command = r#"{"id":1,"connect":{}}"#;
    let (status, headers, body) = http2.ask("POST", SSE, &[], command).await;
    assert_eq!(status, 429);
    assert!(headers.contains_key("retry-after") && body.contains("your address"), "{body}");
    assert_eq!(http2.emulate(&first.hello, &subscribe()).await, 204, "its commands are no connections");
    first.reset();
    metric(&gateway, "gateway_connections", 1.0).await;
    http2.stream(SSE).await;
}

/// Of one connection of HTTP/2 all clients of the proxy would share the limits and the end.
#[tokio::test]
async fn a_proxy_is_offered_http_1_1_and_a_client_behind_its_header_http_2() {
    let authority = Authority::new();
    let trusted = "listen.trusted_proxies = ['127.0.0.1']\n";
    for (more, header, expected) in [
        ("", &b""[..], "http/1.1"),
        ("listen.client_address_from = ['proxy-protocol']", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "h2"),
    ] {
        let gateway = start(&authority, &format!("{trusted}{more}")).await;
        let client = authority.client().offering(&["h2", "http/1.1"]);
        let stream = client.connect_after(gateway.address(), "localhost", header).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(expected.as_bytes()));
    }
}

#[tokio::test]
async fn a_client_that_opens_no_window_is_cut_by_the_write_timeout() {
    let authority = Authority::new();
    let limits = "limits = { write_timeout = '1s', outbound_bytes_max = '16MiB' }";
    let gateway = start(&authority, limits).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(4096);
    let http2 = Http2::connect_with(authority.client(), gateway.address(), &builder).await;
    let mut deaf = http2.stream(HTTP_STREAM).await;
    assert_eq!(http2.emulate(&deaf.hello, &subscribe()).await, 204);
    metric(&gateway, "gateway_subscriptions", 1.0).await;
    for _ in 0..20 {
        publish(&gateway, json!("x".repeat(30_000))).await;
    }
    within_time(Duration::from_secs(15), "the end of the deaf client", async {
        while gateway.metrics().await.get("gateway_connections_closed_total{cause=\"slow\"}") < 1.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    metric(&gateway, "gateway_connections", 0.0).await;
    // Its stream is gone for the client as well, and others are served.
    deaf.ended().await;
    let mut other = http2.stream(SSE).await;
    assert_eq!(http2.emulate(&other.hello, &subscribe()).await, 204);
    assert_eq!(other.message().await.expect("a reply")["id"], 2);
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_no_other() {
    let authority = Authority::new();
    let gateway = start(&authority, "").await;
    let tunnel = authority.client().tunnel(gateway.address()).await;
    let mut client = Client::open(tunnel.address()).await;
    client.ask("connect", json!({})).await.expect("the connect command is accepted");
    client.subscribe("news").await;
    let http2 = Http2::connect(authority.client(), gateway.address()).await;
    within_time(Duration::from_secs(20), "the end of the flood", async {
        // It has no body yet, so each waits at the gateway.
        while let Ok((_response, mut send)) = http2.begin(Http2::request("POST", SSE, &[]), None).await {
            tokio::task::yield_now().await;
            send.send_reset(Reason::CANCEL);
            tokio::task::yield_now().await;
        }
    })
    .await;
    metric(&gateway, FLOODS, 1.0).await;
    client.publish("news", json!("still here")).await;
    assert_eq!(client.publication("news").await["data"], "still here");
    metric(&gateway, "gateway_connections", 1.0).await;
    Http2::connect(authority.client(), gateway.address()).await.stream(SSE).await;
}

#[tokio::test]
async fn a_head_without_an_end_ends_its_connection() {
    let authority = Authority::new();
    let gateway = start(&authority, "").await;
    // Frames that add nothing, and frames that add a header without an end.
    for payload in [&b""[..], &[0; 16_000]] {
        let client = authority.client().offering(&["h2"]);
        let mut stream = client.connect(gateway.address(), "localhost").await.expect("a handshake");
        stream.write_all(&preface()).await.unwrap();
        // `:method: GET`, and no END_HEADERS.
        stream.write_all(&frame(1, 0, 1, &[0x82])).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let flood = async {
            while write.write_all(&frame(9, 0, 1, payload)).await.is_ok() && write.flush().await.is_ok() {}
        };
        let ended = async {
            let mut rest = Vec::new();
            let _ = read.read_to_end(&mut rest).await;
        };
        within_time(Duration::from_secs(10), "the end of the flood", async {
            tokio::select! {
                () = flood => (),
                () = ended => (),
            }
        })
        .await;
    }
    Http2::connect(authority.client(), gateway.address()).await.stream(SSE).await;
}

#[tokio::test]
async fn connections_without_requests_end() {
    let authority = Authority::new();
    let gateway = start(&authority, "handshake.head_deadline = '500ms'").await;
    let begun = Instant::now();
    for hello in [&b""[..], &preface()[..]] {
        let client = authority.client().offering(&["h2"]);
        let mut stream = client.connect(gateway.address(), "localhost").await.expect("a handshake");
        stream.write_all(hello).await.unwrap();
        let mut rest = Vec::new();
        let _ = within("the deadline", stream.read_to_end(&mut rest)).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(800), "each had its time");
    metric(&gateway, "gateway_connections_refused_total{reason=\"deadline\"}", 2.0).await;
    // One that has done what it was for is told, and counts as nothing that failed.
    let http2 = Http2::connect(authority.client(), gateway.address()).await;
    let tab = http2.stream(SSE).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!http2.is_over(), "a stream is open");
    tab.reset();
    http2.ended().await.expect("an orderly end");
    metric(&gateway, "gateway_connections_refused_total{reason=\"deadline\"}", 2.0).await;
}

#[tokio::test]
async fn http_1_1_is_spoken_with_clients_that_want_it_or_if_the_configuration_says_so() {
    let authority = Authority::new();
    let chosen = async |gateway: &Gateway, offered: &[&str]| {
        let client = authority.client().offering(offered);
        let stream = client.connect(gateway.address(), "localhost").await.expect("a handshake");
        stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    };
    let gateway = start(&authority, "").await;
    assert_eq!(chosen(&gateway, &["http/1.1", "h2"]).await.as_deref(), Some("h2"));
    assert_eq!(chosen(&gateway, &["http/1.1"]).await.as_deref(), Some("http/1.1"));
    assert_eq!(chosen(&gateway, &[]).await, None);
    let tls = format!("{}\nhttp2 = false\n", authority.settings(&["site"]));
    let gateway = Gateway::start(&format!("{CONFIG}\n[listen.tls]\n{tls}")).await;
    assert_eq!(chosen(&gateway, &["h2", "http/1.1"]).await.as_deref(), Some("http/1.1"));
}

#[tokio::test]
async fn a_drain_ends_streams_with_their_reason_and_the_connection_in_order() {
    let authority = Authority::new();
    let mut gateway = start(&authority, "").await;
    let http2 = Http2::connect(authority.client(), gateway.address()).await;
    let idle = Http2::connect(authority.client(), gateway.address()).await;
    let mut tabs = vec![http2.stream(SSE).await, http2.stream(HTTP_STREAM).await];
    let (unfinished, _send) = http2.begin(Http2::request("POST", SSE, &[]), None).await.expect("a request");
    tokio::time::sleep(Duration::from_millis(200)).await;
    gateway.terminate();
    idle.ended().await.expect("an orderly end");
    assert_eq!(within("a refusal", unfinished).await.expect("a response").status(), 503);
    for tab in &mut tabs {
        assert_eq!(tab.closed().await.code, Some(3001));
    }
    http2.ended().await.expect("an orderly end");
    assert!(gateway.exit(Duration::from_secs(10)).await.success());
}
