//! Clients without WebSocket: HTTP streaming and server-sent events, and commands in requests of their own,
//! at the level of bytes. The published client libraries use them in `clients.rs`.

use std::time::Duration;

use futures_util::future::join_all;
use gateway_tests::{
    Client, Closed, Frame, Gateway, Redis, Socket, Stream, WebProxy, emulate, eventually, request, token,
    within_time,
};
use serde_json::{Value, json};

const CONFIG: &str = "
    client.anonymous = true
    [namespaces.open]
    history_size = 100
    recovery = true
    presence = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    allow_presence = 'anyone'
";
const HTTP_STREAM: &str = "/connection/http_stream";
const SSE: &str = "/connection/sse";
const CONNECT: &[u8] = br#"{"id":1,"connect":{}}"#;

/// Both endpoints for clients that send commands.
const BOTH: [&str; 2] = [HTTP_STREAM, SSE];

fn code(code: u16, reason: &str) -> Closed {
    Closed { code: Some(code), reason: reason.to_owned() }
}

async fn publish(gateway: &Gateway, channel: &str, data: Value) {
    gateway.post("/api/publish", &json!({ "channel": channel, "data": data })).await.ok();
}

#[tokio::test]
async fn the_response_begins_at_once_and_no_proxy_may_keep_it() {
    let gateway = Gateway::start(CONFIG).await;
    for (path, content_type) in [(HTTP_STREAM, "application/x-ndjson"), (SSE, "text/event-stream")] {
        let mut stream = Stream::post(gateway.address(), path, &[], CONNECT).await.expect("a stream");
        assert_eq!(stream.header("content-type"), Some(content_type));
        assert_eq!(stream.header("cache-control"), Some("no-store, no-transform"));
        assert_eq!(stream.header("x-accel-buffering"), Some("no"));
        assert_eq!(stream.header("connection"), Some("close"), "the body ends with the connection");
        assert_eq!((stream.header("content-length"), stream.header("transfer-encoding")), (None, None));
        if path == SSE {
            assert_eq!(stream.line().await.as_deref(), Some(""), "the first byte comes early");
        }
        let reply = stream.message().await.expect("a reply");
        assert_eq!((&reply["id"], &reply["connect"]["pong"]), (&json!(1), &json!(true)), "{reply}");
    }
    let mut stream = Stream::get(gateway.address(), SSE, &[], r#"{"id":7,"connect":{"name":"ü + ?&"}}"#)
        .await
        .expect("the first message may be in the URL");
    assert_eq!(stream.message().await.expect("a reply")["id"], 7);
}

#[tokio::test]
async fn commands_come_in_requests_of_their_own() {
    let gateway = Gateway::start(CONFIG).await;
    for path in BOTH {
        let mut ann = Stream::connect(gateway.address(), path, json!({})).await;
        let mut bob = Client::connect(&gateway).await;
        bob.subscribe("open:1").await;
        let reply = ann.ask(2, "subscribe", json!({ "channel": "open:1" })).await;
        assert_eq!(reply["subscribe"]["recoverable"], true, "{reply}");
        // Several commands in one request, as in one frame.
        let two = "{\"id\":3,\"publish\":{\"channel\":\"open:1\",\"data\":[1,\"\\u00fc\"]}}\n{\"id\":4,\"presence\":{\"channel\":\"open:1\"}}\n";
        assert_eq!(ann.send(two).await.status, 204);
        let id = ann.hello["client"].as_str().expect("an id").to_owned();
        let (mut published, mut pushed, mut present) = (false, false, false);
        while !(published && pushed && present) {
            let message = ann.next().await.expect("a message");
            published |= message == json!({ "id": 3, "publish": {} });
            pushed |= message["push"]["pub"]["data"] == json!([1, "ü"]);
            present |= message["id"] == 4 && message["presence"]["presence"].get(&id).is_some();
        }
        assert_eq!(bob.publication("open:1").await["data"], json!([1, "ü"]));
        bob.publish("open:1", json!("hi")).await;
        assert_eq!(ann.next().await.expect("a push")["push"]["pub"]["data"], "hi");
    }
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_emulation_requests_total{result=\"accepted\"}"), 4.0);
}

#[tokio::test]
async fn requests_on_one_connection_keep_their_order_and_say_how_long_it_stays_open() {
    let gateway = Gateway::start(CONFIG).await;
    let mut ann = Stream::connect(gateway.address(), HTTP_STREAM, json!({})).await;
    ann.ask(2, "subscribe", json!({ "channel": "open:1" })).await;
    let mut socket = Socket::connect(gateway.address()).await;
    for n in 0..50 {
        let data = json!({ "id": 10 + n, "publish": { "channel": "open:1", "data": n } }).to_string();
        let body =
            json!({ "session": ann.hello["session"], "node": ann.hello["node"], "data": data }).to_string();
        let head = format!("POST /emulation HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        socket.send((head + &body).as_bytes()).await;
        let answer = socket.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.header("keep-alive")), (204, Some("timeout=2")));
        assert_eq!(answer.header("connection"), None);
    }
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let message = ann.next().await.expect("a message");
        seen.extend(message.pointer("/push/pub/data").and_then(Value::as_u64));
    }
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    // Idle connections are closed, and count as nothing that failed.
    within_time(Duration::from_secs(15), "the end of an idle connection", async {
        while socket.sip(1).await.is_some() {}
    })
    .await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_connections_refused_total{reason=\"deadline\"}"), 0.0);
    assert_eq!(metrics.get("gateway_connections"), 1.0);
}

#[tokio::test]
async fn only_the_secret_of_the_connect_reply_leads_to_the_connection() {
    let gateway = Gateway::start(CONFIG).await;
    let ann = Stream::connect(gateway.address(), HTTP_STREAM, json!({})).await;
    let bob = Client::connect(&gateway).await;
    assert_eq!((&bob.hello["session"], &bob.hello["node"]), (&Value::Null, &Value::Null), "for streams only");
    let hello = ann.hello.clone();
    let (session, node) = (&hello["session"], &hello["node"]);
    let id = hello["client"].as_str().expect("an id");
    let text = session.as_str().expect("a text");
    assert_ne!(&text[..id.len()], id, "other clients see the id");
    let mut changed = text.to_owned();
    let last = if changed.pop() == Some('0') { '1' } else { '0' };
    changed.push(last);
    for wrong in
        [json!(id), json!(format!("{id}{}", &text[id.len()..])), json!(changed), json!("x"), json!(bob.id)]
    {
        let answer = emulate(gateway.address(), &wrong, node, "{}").await;
        assert_eq!(answer.status, 404, "{wrong}: {}", answer.text());
    }
    assert_eq!(emulate(gateway.address(), session, node, r#"{"id":2,"rpc":{}}"#).await.status, 204);
    drop(ann);
    eventually("the end of the connection", async || {
        (gateway.metrics().await.get("gateway_connections") == 1.0).then_some(())
    })
    .await;
    let late = emulate(gateway.address(), session, node, "{}").await;
    assert_eq!((late.status, late.text().contains("connect again")), (404, true), "{}", late.text());
}

#[tokio::test]
async fn a_request_that_is_none_is_told_why() {
    let gateway = Gateway::start(CONFIG).await;
    let at = gateway.address();
    let ann = Stream::connect(at, HTTP_STREAM, json!({})).await;
    let large = format!("\"{}\"", "x".repeat(65 << 10));
    let huge = "x".repeat(200 << 10);
    for (method, path, body, status, words) in [
        ("GET", HTTP_STREAM, "", 405, "another method"),
        ("PUT", SSE, "{}", 405, "another method"),
        ("GET", "/emulation", "", 405, "another method"),
        ("POST", HTTP_STREAM, "", 400, "first message is missing"),
        ("GET", SSE, "", 400, "`cf_connect`"),
        ("POST", HTTP_STREAM, &*large, 413, "`limits.message_bytes_max`"),
        ("POST", SSE, &huge, 413, "`limits.message_bytes_max`"),
        ("POST", "/emulation", "", 400, "`session`"),
        ("POST", "/emulation", "nonsense", 400, "`session`"),
        ("POST", "/emulation", r#"{"session":"s","node":"n","data":{}}"#, 400, "`session`"),
        ("POST", "/emulation", &huge, 413, "`limits.message_bytes_max`"),
        ("POST", "/connection/http_stream/", "{}", 404, "nothing here"),
        ("POST", "/connection/uni_sse", "{}", 404, "nothing here"),
    ] {
        let answer = request(at, method, path, &[], body.as_bytes()).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(answer.text().contains(words), "{method} {path}: {}", answer.text());
        if status == 405 {
            assert!(answer.header("allow").is_some_and(|allow| allow.contains("POST")));
        }
    }
    let answer = ann.send(&large).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    let mut hostless = Socket::connect(at).await;
    hostless.send(b"POST /connection/http_stream HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}").await;
    assert_eq!(hostless.answer().await.expect("an answer").status, 400);
    // A body that does not come ends with the deadline, and one that is cut off with the connection.
    let mut cut = Socket::connect(at).await;
    cut.send(b"POST /emulation HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{").await;
    cut.finish().await;
    cut.ended().await;
    assert_eq!(gateway.metrics().await.get("gateway_connections"), 1.0, "no request became a connection");
}

#[tokio::test]
async fn a_body_that_does_not_come_keeps_no_place_from_others() {
    let limits = "limits = { handshakes_max = 4, handshakes_per_address_max = 4 }\n";
    let gateway = Gateway::start(&[limits, CONFIG].concat()).await;
    for path in [HTTP_STREAM, SSE, "/emulation"] {
        let mut waiting = Vec::new();
        for _ in 0..4 {
            let mut socket = Socket::connect(gateway.address()).await;
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{{");
            socket.send(head.as_bytes()).await;
            waiting.push(socket);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        Stream::connect(gateway.address(), SSE, json!({})).await;
    }
}

#[tokio::test]
async fn a_body_in_the_smallest_chunks_takes_no_more_memory_than_its_bytes() {
    let gateway = Gateway::start(CONFIG).await;
    let before = gateway.memory();
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let mut socket = Socket::connect(gateway.address()).await;
        socket.send(b"POST /emulation HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        socket.send(&b"1\r\nx\r\n".repeat(60_000)).await;
        sockets.push(socket);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 50 * 500, "{grown} KiB for 50 bodies of 60,000 bytes");
}

#[tokio::test]
async fn requests_on_one_connection_have_the_rate_of_connections() {
    let limits = "limits = { connection_rate_per_address = 1, connection_burst_per_address = 30 }\n";
    let gateway = Gateway::start(&[limits, CONFIG].concat()).await;
    let ann = Stream::connect(gateway.address(), HTTP_STREAM, json!({})).await;
    let mut socket = Socket::connect(gateway.address()).await;
    let (session, node) = (&ann.hello["session"], &ann.hello["node"]);
    let data = r#"{"id":2,"presence":{"channel":"open:1"}}"#;
    let body = json!({ "session": session, "node": node, "data": data }).to_string();
    let request =
        format!("POST /emulation HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut statuses = Vec::new();
    while statuses.last().is_none_or(|status| *status == 204) && statuses.len() < 60 {
        socket.send(request.as_bytes()).await;
        statuses.push(socket.answer().await.expect("an answer").status);
    }
    assert!(statuses.len() > 20 && statuses.last() == Some(&429), "{statuses:?}");
}

#[tokio::test]
async fn only_listed_pages_may_send_requests_and_read_responses() {
    let config = [CONFIG, "[handshake]\norigins = ['https://app.example']"].concat();
    let gateway = Gateway::start(&config).await;
    let at = gateway.address();
    let (own, foreign) = ("Origin: https://app.example", "Origin: https://evil.example");
    for path in [HTTP_STREAM, SSE, "/emulation"] {
        let asks = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type"];
        let answer = request(at, "OPTIONS", path, &[&[own], &asks[..]].concat(), b"").await;
        assert_eq!(answer.status, 204, "{path}: {}", answer.text());
        for (name, value) in [
            ("access-control-allow-origin", "https://app.example"),
            ("access-control-allow-headers", "content-type"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "300"),
            ("vary", "Origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        assert!(
            answer.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST"))
        );
        let refused = request(at, "OPTIONS", path, &[&[foreign], &asks[..]].concat(), b"").await;
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None), "{path}");
        assert_eq!(request(at, "POST", path, &[foreign], CONNECT).await.status, 403, "{path}");
        // Errors are for the page to read, too.
        let error = request(at, "POST", path, &[own], b"").await;
        let allowed = error.header("access-control-allow-origin");
        assert_eq!((error.status, allowed), (400, Some("https://app.example")), "{path}");
    }
    let stream = Stream::post(at, HTTP_STREAM, &[own], CONNECT).await.expect("a stream");
    assert_eq!(stream.header("access-control-allow-origin"), Some("https://app.example"));
    // What another page embeds comes without an origin, and with the cookies of the client.
    let command = r#"{"id":1,"connect":{}}"#;
    for site in ["cross-site", "same-site"] {
        let header = format!("Sec-Fetch-Site: {site}");
        let refused = Stream::get(at, SSE, &[&header], command).await.expect_err("no stream");
        assert_eq!(refused.status, 403, "{site}");
    }
    for site in ["same-origin", "none"] {
        let header = format!("Sec-Fetch-Site: {site}");
        Stream::get(at, SSE, &[&header], command).await.expect("a stream");
    }
    let any = Gateway::start(&[CONFIG, "[handshake]\norigins = ['*']"].concat()).await;
    let stream = Stream::post(any.address(), SSE, &[foreign], CONNECT).await.expect("a stream");
    assert_eq!(stream.header("access-control-allow-origin"), Some("https://evil.example"));
    assert_eq!(stream.header("access-control-allow-credentials"), None, "with any page go no cookies");
}

#[tokio::test]
async fn a_stream_ends_with_the_reason_in_its_last_message() {
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    for path in BOTH {
        let wrong = json!({ "id": 1, "connect": { "token": "wrong" } }).to_string();
        let mut refused =
            Stream::post(gateway.address(), path, &[], wrong.as_bytes()).await.expect("a stream");
        assert_eq!(refused.closed().await.code, Some(3500));
        let mut ann = Stream::connect(gateway.address(), path, json!({ "token": token::of("ann") })).await;
        let order = json!({ "user": "ann", "disconnect": { "code": 4321, "reason": "go" } });
        gateway.post("/api/disconnect", &order).await.ok();
        assert_eq!(ann.closed().await, code(4321, "go"));
        let mut wild = Stream::connect(gateway.address(), path, json!({})).await;
        assert_eq!(wild.send("no command").await.status, 204, "it is the connection that refuses it");
        assert_eq!(wild.closed().await.code, Some(3501));
        let mut first =
            Stream::post(gateway.address(), path, &[], b"{\"id\":1,\"rpc\":{}}").await.expect("a stream");
        assert_eq!(first.closed().await.code, Some(3501), "connect comes first");
    }
    let mut left = Stream::connect(gateway.address(), SSE, json!({})).await;
    gateway.terminate();
    assert_eq!(left.closed().await, code(3001, "shutdown"));
}

#[tokio::test]
async fn pings_come_in_the_stream_and_pongs_in_requests() {
    let gateway =
        Gateway::start(&["client.ping_interval = '1s'\nclient.pong_timeout = '900ms'\n", CONFIG].concat())
            .await;
    for path in BOTH {
        let mut ann = Stream::connect(gateway.address(), path, json!({})).await;
        for _ in 0..3 {
            while ann.message().await.expect("a ping") != json!({}) {}
            assert_eq!(ann.send("{}").await.status, 204);
        }
        assert_eq!(ann.closed().await, code(3012, "no pong"));
    }
}

#[tokio::test]
async fn what_was_missed_between_two_streams_is_recovered() {
    let gateway = Gateway::start(CONFIG).await;
    let mut before = Stream::connect(gateway.address(), SSE, json!({})).await;
    let reply = before.ask(2, "subscribe", json!({ "channel": "open:1" })).await;
    let epoch = reply["subscribe"]["epoch"].clone();
    publish(&gateway, "open:1", json!(1)).await;
    assert_eq!(before.next().await.expect("a push")["push"]["pub"]["offset"], 1);
    drop(before);
    for n in 2..5 {
        publish(&gateway, "open:1", json!(n)).await;
    }
    let mut after = Stream::connect(gateway.address(), HTTP_STREAM, json!({})).await;
    let since = json!({ "channel": "open:1", "recover": true, "offset": 1, "epoch": epoch });
    let reply = after.ask(2, "subscribe", since).await;
    assert_eq!(reply["subscribe"]["recovered"], true, "{reply}");
    let publications = reply["subscribe"]["publications"].as_array().expect("a list");
    let seen: Vec<_> = publications.iter().map(|publication| publication["data"].clone()).collect();
    assert_eq!(seen, [2, 3, 4]);
}

#[tokio::test]
async fn a_client_that_sends_more_than_the_gateway_keeps_is_told_and_closed() {
    let gateway = Gateway::start(CONFIG).await;
    let mut ann = Stream::connect(gateway.address(), HTTP_STREAM, json!({})).await;
    // Nothing is read meanwhile, so commands wait until the answers have been.
    let commands: String =
        (2..1000).map(|id| format!("{{\"id\":{id},\"presence\":{{\"channel\":\"open:1\"}}}}\n")).collect();
    let sends = (0..200).map(|_| ann.send(&commands));
    let answers = join_all(sends).await;
    let full = answers.iter().filter(|answer| answer.status == 429).count();
    assert!(full > 0, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    assert_eq!(ann.closed().await.code, Some(3013));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_as_slow() {
    let gateway = Gateway::start(&["limits.write_timeout = '500ms'\n", CONFIG].concat()).await;
    let mut ann = Stream::connect(gateway.address(), HTTP_STREAM, json!({})).await;
    ann.ask(2, "subscribe", json!({ "channel": "open:1" })).await;
    let text = "x".repeat(200_000);
    for _ in 0..60 {
        publish(&gateway, "open:1", json!(text)).await;
    }
    eventually("the slow client to be closed", async || {
        (gateway.metrics().await.get("gateway_connections_closed_total{cause=\"slow\"}") == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_proxy_of_version_1_0_and_bytes_after_the_request_do_no_harm() {
    let gateway = Gateway::start(CONFIG).await;
    let body = String::from_utf8_lossy(CONNECT);
    let old = format!("POST {SSE} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = Stream::open(gateway.address(), old.into_bytes()).await.expect("a stream");
    assert!(stream.message().await.expect("a reply")["connect"].is_object());
    let more = format!(
        "POST {SSE} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        body.len()
    );
    let mut stream = Stream::open(gateway.address(), more.into_bytes()).await.expect("a stream");
    stream.hello = stream.message().await.expect("a reply")["connect"].clone();
    assert_eq!(stream.ask(2, "presence", json!({ "channel": "open:1" })).await["id"], 2);
    // A body in chunks, in pieces.
    let mut socket = Socket::connect(gateway.address()).await;
    socket.send(b"POST /emulation HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let (session, node) = (&stream.hello["session"], &stream.hello["node"]);
    let body = json!({ "session": session, "node": node, "data": r#"{"id":3,"rpc":{}}"# }).to_string();
    for piece in body.as_bytes().chunks(7) {
        socket.send(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await;
    }
    socket.send(b"0\r\n\r\n").await;
    assert_eq!(socket.answer().await.expect("an answer").status, 204);
    assert_eq!(stream.next().await.expect("a reply")["error"]["code"], 108);
}

#[tokio::test]
async fn through_nginx_and_haproxy_every_message_comes_at_once() {
    let gateway = Gateway::start(CONFIG).await;
    let nginx = WebProxy::nginx(gateway.address(), "").await;
    let haproxy = WebProxy::haproxy(gateway.address(), "http", "", "").await;
    for at in [nginx.address(), haproxy.address()] {
        let mut ann = stream_through(at, SSE).await;
        ann.ask(2, "subscribe", json!({ "channel": "open:1" })).await;
        for n in 0..3 {
            publish(&gateway, "open:1", json!(n)).await;
            assert_eq!(ann.next().await.expect("a push")["push"]["pub"]["data"], n);
        }
    }
}

/// A stream through a proxy, which may send the body in chunks: server-sent events are read line by line, so
/// that the lines between events do not matter.
async fn stream_through(at: std::net::SocketAddr, path: &str) -> Stream {
    let body = String::from_utf8_lossy(CONNECT);
    let request = format!("POST {path} HTTP/1.0\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = Stream::open(at, request.into_bytes()).await.expect("a stream");
    stream.hello = stream.message().await.expect("a reply")["connect"].clone();
    stream
}

#[tokio::test]
async fn what_is_switched_off_is_not_there() {
    let gateway =
        Gateway::start(&[CONFIG, "[fallbacks]\nenabled = false\n[unidirectional]\nenabled = true"].concat())
            .await;
    for path in [HTTP_STREAM, SSE, "/emulation"] {
        assert_eq!(request(gateway.address(), "POST", path, &[], CONNECT).await.status, 404, "{path}");
    }
    Stream::get(gateway.address(), "/connection/uni_sse", &[], "{}").await.expect("this is on");
}

#[tokio::test]
async fn a_client_that_only_listens_needs_no_library() {
    let config = [CONFIG, "[unidirectional]\nenabled = true"].concat();
    let gateway = Gateway::with(&config).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    let at = gateway.address();
    let claims = token::with("ann", json!({ "channels": ["open:1"] }));
    let connect = json!({ "token": claims }).to_string();
    let bearer = format!("Authorization: Bearer {claims}");
    let (sse, lines) = ("/connection/uni_sse", "/connection/uni_http_stream");
    let mut streams = vec![
        Stream::get(at, sse, &[], &connect).await.expect("a stream"),
        Stream::get(at, sse, &[&bearer], "").await.expect("a stream"),
        Stream::post(at, lines, &[], connect.as_bytes()).await.expect("a stream"),
        Stream::post(at, lines, &[&bearer], b"").await.expect("a stream"),
    ];
    for stream in &mut streams {
        let hello = stream.message().await.expect("a push");
        let connect = &hello["connect"];
        assert!(connect["client"].is_string() && connect["subs"]["open:1"].is_object(), "{hello}");
        assert_eq!((&connect["pong"], &connect["session"]), (&Value::Null, &Value::Null), "{hello}");
    }
    publish(&gateway, "open:1", json!({ "n": 1 })).await;
    publish(&gateway, "#ann", json!("psst")).await;
    for stream in &mut streams {
        let push = stream.next().await.expect("a push");
        assert_eq!(push, json!({ "channel": "open:1", "pub": { "data": { "n": 1 }, "offset": 1 } }));
        assert_eq!(stream.next().await.expect("a push"), json!({ "message": { "data": "psst" } }));
    }
    let order = json!({ "user": "ann", "disconnect": { "code": 4321, "reason": "go" } });
    gateway.post("/api/disconnect", &order).await.ok();
    for stream in &mut streams {
        assert_eq!(stream.closed().await, code(4321, "go"));
    }
    for (path, message, expected) in [(sse, r#"{"token":"x"}"#, 3500), (lines, "nonsense", 3501)] {
        let mut refused = Stream::get(at, path, &[], message).await.expect("a stream");
        assert_eq!(refused.closed().await.code, Some(expected), "{path} {message}");
    }
}

#[tokio::test]
async fn a_listening_client_gets_pings_and_sends_no_pongs() {
    let config = [
        "client.ping_interval = '1s'\nclient.pong_timeout = '300ms'\n",
        CONFIG,
        "[unidirectional]\nenabled = true",
    ];
    let gateway = Gateway::start(&config.concat()).await;
    let mut stream = Stream::get(gateway.address(), "/connection/uni_sse", &[], "").await.expect("a stream");
    assert_eq!(stream.message().await.expect("a push")["connect"]["ping"], 1);
    for _ in 0..3 {
        assert_eq!(stream.message().await, Some(json!({})));
    }
}

#[tokio::test]
async fn a_listening_client_may_use_a_websocket_as_well() {
    let config = [CONFIG, "[unidirectional]\nenabled = true"].concat();
    let gateway = Gateway::with(&config).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    let connect = json!({ "token": token::with("ann", json!({ "channels": ["open:1"] })) }).to_string();
    let mut socket = Socket::open(gateway.address(), "/connection/uni_websocket").await;
    socket.send(&Frame::text(&connect).bytes()).await;
    let hello = socket.frame().await.expect("a push");
    assert!(String::from_utf8_lossy(&hello.payload).starts_with(r#"{"connect":{"client":"#), "{hello:?}");
    publish(&gateway, "open:1", json!(1)).await;
    let push = socket.frame().await.expect("a push");
    assert_eq!(push.payload, br#"{"channel":"open:1","pub":{"data":1,"offset":1}}"#);
    socket.send(&Frame::text("{}").bytes()).await;
    assert_eq!(socket.closed().await.code, Some(3501), "it only listens");
}

#[tokio::test]
async fn a_message_may_arrive_at_another_gateway() {
    let redis = Redis::start().await;
    let config = [&*format!("redis.url = '{}'\n", redis.url()), CONFIG].concat();
    let nodes = Gateway::nodes(2, |_| Gateway::with(&config)).await;
    for node in &nodes {
        eventually("gateways that know each other", async || {
            (node.metrics().await.get("gateway_nodes") == 2.0).then_some(())
        })
        .await;
    }
    let mut ann = Stream::connect(nodes[0].address(), SSE, json!({})).await;
    let mut bob = Stream::connect(nodes[1].address(), HTTP_STREAM, json!({})).await;
    assert_ne!(ann.hello["node"], bob.hello["node"]);
    for (stream, other) in [(&mut ann, &nodes[1]), (&mut bob, &nodes[0])] {
        let subscribe = r#"{"id":2,"subscribe":{"channel":"open:1"}}"#;
        let answer = stream.send_by(other.address(), subscribe).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(stream.next().await.expect("a reply")["id"], 2);
    }
    // In order, and each once.
    for n in 0..30 {
        let data = json!({ "id": 10 + n, "publish": { "channel": "open:1", "data": n } }).to_string();
        assert_eq!(ann.send_by(nodes[1].address(), &data).await.status, 204);
    }
    let mut seen = Vec::new();
    while seen.len() < 30 {
        let message = bob.next().await.expect("a message");
        seen.extend(message.pointer("/push/pub/data").and_then(Value::as_u64));
    }
    assert_eq!(seen, (0..30).collect::<Vec<_>>());
    // A session that has ended there, and a gateway that is not there.
    let (session, node) = (ann.hello["session"].clone(), ann.hello["node"].clone());
    drop(ann);
    eventually("the end of the connection", async || {
        let answer = emulate(nodes[1].address(), &session, &node, "{}").await;
        (answer.status == 404).then_some(())
    })
    .await;
    let unknown = emulate(nodes[1].address(), &session, &json!("0123456789abcdef"), "{}").await;
    assert_eq!((unknown.status, unknown.text().contains("no gateway")), (404, true), "{}", unknown.text());
    assert_eq!(emulate(nodes[1].address(), &session, &json!("../../etc"), "{}").await.status, 404);
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_is_an_error_in_time() {
    let redis = Redis::start().await;
    let config = [&*format!("redis.url = '{}'\n", redis.url()), CONFIG].concat();
    let mut nodes = Gateway::nodes(2, |_| Gateway::with(&config)).await;
    for node in &nodes {
        eventually("gateways that know each other", async || {
            (node.metrics().await.get("gateway_nodes") == 2.0).then_some(())
        })
        .await;
    }
    let ann = Stream::connect(nodes[0].address(), SSE, json!({})).await;
    nodes[0].kill();
    let answer = ann.send_by(nodes[1].address(), "{}").await;
    assert!([503, 404].contains(&answer.status), "{}: {}", answer.status, answer.text());
}
