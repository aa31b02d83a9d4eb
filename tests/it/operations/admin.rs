//! The listener for operators: health, metrics, and the API of an application's backend.

use std::fs;
use std::time::{Duration, Instant};

use gateway_tests::{API_KEY, Client, Gateway, RawClient, Socket, WebProxy, request, token};
use serde_json::{Value, json};

use crate::tools::readme;

const CONFIG: &str = "
    [namespaces.chat]
    history_size = 10
    presence = true
    allow_subscribe = 'users'
    [namespaces.news]
    allow_subscribe = 'users'
    [upstreams.orders]
    targets = [{ url = 'http://127.0.0.1:9/orders', weight = 80 }, { url = 'http://127.0.0.1:9', weight = 20 }]
";

async fn gateway() -> Gateway {
    Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await
}

/// The error code of an API answer.
fn code(answer: &Value) -> u64 {
    answer["error"]["code"].as_u64().unwrap_or_else(|| panic!("no error: {answer}"))
}

#[tokio::test]
async fn the_api_is_for_those_with_the_key() {
    let gateway = gateway().await;
    let key = format!("X-API-Key: {API_KEY}");
    let apikey = format!("Authorization: apikey {API_KEY}");
    let body = b"{}".as_slice();
    for (what, method, path, headers, body, status) in [
        ("the key", "POST", "/api/info", vec![&*key], body, 200),
        ("the key in another place", "POST", "/api/info", vec![&*apikey], body, 200),
        ("no key", "POST", "/api/info", vec![], body, 401),
        ("another key", "POST", "/api/info", vec!["X-API-Key: the-key-of-others!"], body, 401),
        ("half the key", "POST", "/api/info", vec!["X-API-Key: the-key-of"], body, 401),
        ("an empty key", "POST", "/api/info", vec!["X-API-Key:"], body, 401),
        (
            "the key as a bearer token",
            "POST",
            "/api/info",
            vec!["Authorization: Bearer the-key-of-the-tests"],
            body,
            401,
        ),
        ("GET", "GET", "/api/info", vec![&*key], b"", 405),
        ("PUT", "PUT", "/api/info", vec![&*key], body, 405),
        ("no such method", "POST", "/api/nothing", vec![&*key], body, 404),
        ("no such path", "POST", "/", vec![&*key], body, 404),
        ("a client's path", "GET", "/connection/websocket", vec![&*key], b"", 404),
        ("not JSON", "POST", "/api/info", vec![&*key], b"{", 400),
        ("a list", "POST", "/api/info", vec![&*key], b"[]", 400),
        ("too much", "POST", "/api/publish", vec![&*key], &vec![b'x'; (1 << 20) + 1], 413),
    ] {
        let answer = request(gateway.admin(), method, path, &headers, body).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
    }
    // The key opens nothing where it is not set.
    let closed = Gateway::start("admin.api_key = ''").await;
    for headers in [vec![], vec!["X-API-Key:"], vec![&*key]] {
        assert_eq!(request(closed.admin(), "POST", "/api/info", &headers, b"{}").await.status, 401);
    }
    assert_eq!(request(closed.admin(), "GET", "/metrics", &[], b"").await.status, 200);
}

#[tokio::test]
async fn a_web_page_cannot_reach_the_api_by_a_name_of_its_own() {
    let gateway = gateway().await;
    let mut socket = Socket::connect(gateway.admin()).await;
    socket.send(b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    assert_eq!(socket.answer().await.map(|answer| answer.status), Some(421));
}

#[tokio::test]
async fn the_backend_publishes_to_channels_users_and_connections() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    ann.subscribe("chat:1").await;
    ann.subscribe("news:1").await;
    let published =
        gateway.post("/api/publish", &json!({ "channel": "chat:1", "data": { "a": 1 } })).await.ok();
    assert_eq!(published["result"]["offset"], 1);
    assert_eq!(ann.publication("chat:1").await, json!({ "data": { "a": 1 }, "offset": 1 }));
    let channels = json!(["news:1", "unknown:1", "chat:1", "no good"]);
    let broadcast = gateway.post("/api/broadcast", &json!({ "channels": channels, "data": "b" })).await.ok();
    let responses = &broadcast["result"]["responses"];
    assert_eq!((code(&responses[1]), code(&responses[3])), (102, 107));
    assert_eq!((&responses[0], &responses[2]["result"]["offset"]), (&json!({ "result": {} }), &json!(2)));
    assert_eq!(ann.publication("news:1").await["data"], "b");
    assert_eq!(ann.publication("chat:1").await["data"], "b");
    for address in ["#ann".to_owned(), format!("@{}", ann.id)] {
        gateway.post("/api/publish", &json!({ "channel": address, "data": address })).await.ok();
        assert_eq!(ann.direct().await, address);
    }
    for (request, expected) in [
        (json!({ "channel": "unknown:1", "data": 1 }), 102),
        (json!({ "channel": "", "data": 1 }), 107),
        (json!({ "channel": "chat:1" }), 107),
        (json!({ "data": 1 }), 107),
        (json!({ "channel": "chat:1", "data": "x".repeat(256 << 10) }), 106),
    ] {
        assert_eq!(code(&gateway.post("/api/publish", &request).await.ok()), expected);
    }
}

#[tokio::test]
async fn the_backend_sees_history_and_presence() {
    let gateway = gateway().await;
    let token = token::with("ann", json!({ "info": { "name": "Ann" } }));
    let mut ann = Client::connect_with(&gateway, json!({ "token": token })).await;
    let mut twice = Client::connect_as(&gateway, "ann").await;
    ann.subscribe("chat:1").await;
    twice.subscribe("chat:1").await;
    for n in 1..=12 {
        gateway.post("/api/publish", &json!({ "channel": "chat:1", "data": n })).await.ok();
    }
    let history =
        gateway.post("/api/history", &json!({ "channel": "chat:1", "limit": 2, "reverse": true })).await.ok();
    let result = &history["result"];
    assert_eq!(result["publications"], json!([{ "data": 12, "offset": 12 }, { "data": 11, "offset": 11 }]));
    assert_eq!(result["offset"], 12);
    assert!(!result["epoch"].as_str().unwrap().is_empty());
    let presence = gateway.post("/api/presence", &json!({ "channel": "chat:1" })).await.ok();
    let expected = json!({
        &ann.id: { "client": ann.id, "user": "ann", "conn_info": { "name": "Ann" } },
        &twice.id: { "client": twice.id, "user": "ann" },
    });
    assert_eq!(presence["result"]["presence"], expected);
    let stats = gateway.post("/api/presence_stats", &json!({ "channel": "chat:1" })).await.ok();
    assert_eq!(stats["result"], json!({ "num_clients": 2, "num_users": 1 }));
    for method in ["history", "presence", "presence_stats"] {
        let answer = gateway.post(&format!("/api/{method}"), &json!({ "channel": "news:1" })).await.ok();
        assert_eq!(code(&answer), 108, "{method} is not kept there");
    }
}

#[tokio::test]
async fn the_backend_disconnects_users_and_connections() {
    let gateway = gateway().await;
    let mut first = Client::connect_as(&gateway, "ann").await;
    let mut second = Client::connect_as(&gateway, "ann").await;
    let mut bob = Client::connect_as(&gateway, "bob").await;
    let wish = json!({ "client": first.id, "disconnect": { "code": 4000, "reason": "moved" } });
    gateway.post("/api/disconnect", &wish).await.ok();
    let closed = first.closed().await;
    assert_eq!((closed.code, &*closed.reason), (Some(4000), "moved"));
    gateway.post("/api/disconnect", &json!({ "user": "ann" })).await.ok();
    assert_eq!(second.closed().await.code, Some(3503));
    // Of somebody else nobody knows.
    gateway.post("/api/disconnect", &json!({ "user": "eve" })).await.ok();
    bob.subscribe("chat:1").await;
}

#[tokio::test]
async fn the_node_and_its_plugins_describe_themselves() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    ann.subscribe("chat:1").await;
    let info = gateway.post("/api/info", &json!({})).await.ok();
    let node = &info["result"]["nodes"][0];
    for (key, value) in [("num_clients", 1), ("num_subs", 1), ("num_workers", 2)] {
        assert_eq!(node[key], value, "{key} in {info}");
    }
    assert!(
        ["uid", "name", "version"].iter().all(|key| node[key].as_str().is_some_and(|text| !text.is_empty()))
    );
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    assert_eq!(plugins["result"]["generation"], 1);
    let plugin = &plugins["result"]["plugins"][0];
    for (key, value) in [
        ("name", json!("auth-jwt")),
        ("file", json!("10-auth-jwt.wasm")),
        ("state", json!("live")),
        ("order", json!(0)),
        ("generation", json!(1)),
        ("interface", json!("0.1")),
        ("hooks", json!(["configure", "on-connect", "on-message"])),
    ] {
        assert_eq!(plugin[key], value, "{key} in {plugin}");
    }
    assert_eq!(plugin["digest"].as_str().map(str::len), Some(64));
    assert_eq!(plugin["counts"]["calls"], 1);
}

#[tokio::test]
async fn metrics_count_what_happens_and_can_be_scraped() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    ann.subscribe("chat:1").await;
    let bob = Client::connect_as(&gateway, "bob").await;
    bob.close().await;
    gateway.post("/api/publish", &json!({ "channel": "chat:1", "data": 1 })).await.ok();
    ann.publication("chat:1").await;
    let closed = "gateway_connections_closed_total{cause=\"client\"}";
    gateway_tests::eventually("bob to be counted out", async || {
        (gateway.metrics().await.get(closed) == 1.0).then_some(())
    })
    .await;
    let metrics = gateway.metrics().await;
    for (series, value) in [
        ("gateway_connections", 1.0),
        ("gateway_connections_opened_total", 2.0),
        ("gateway_subscriptions", 1.0),
        ("gateway_commands_total{kind=\"subscribe\"}", 1.0),
        ("gateway_publications_delivered_total", 1.0),
        ("gateway_plugins_live", 1.0),
        ("gateway_plugin_calls_total{plugin=\"auth-jwt\"}", 2.0),
    ] {
        assert_eq!(metrics.get(series), value, "{series}");
    }
    let answer = gateway.get("/metrics").await;
    assert_eq!(
        answer.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
}

#[tokio::test]
async fn health_is_open_to_whoever_reaches_it() {
    let gateway = gateway().await;
    for (path, status) in [("/health/live", "live"), ("/health/ready", "ready")] {
        let answer = request(gateway.admin(), "GET", path, &[], b"").await;
        assert_eq!(answer.ok(), json!({ "status": status }));
    }
}

/// An answer on a connection that stays open.
async fn next_answer(socket: &mut Socket, request: &str) -> Option<u16> {
    socket.send(request.as_bytes()).await;
    socket.answer().await.map(|answer| answer.status)
}

#[tokio::test]
async fn probes_are_answered_whatever_else_the_admin_listener_does() {
    const PROBES: usize = 100;
    let gateway = gateway().await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(Socket::connect(gateway.admin()).await);
    }
    let body = "{\"channel\":\"chat:1\",\"data\":1}";
    let publish = format!(
        "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut publishers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (admin, publish) = (gateway.admin(), publish.clone());
        publishers.spawn(async move {
            let mut socket = Socket::connect(admin).await;
            let mut published = [0; 2];
            for _ in 0..20 {
                match next_answer(&mut socket, &publish).await {
                    Some(200) => published[0] += 1,
                    Some(503) => {
                        published[1] += 1;
                        socket = Socket::connect(admin).await;
                    }
                    other => panic!("a publisher was cut: {other:?}"),
                }
            }
            published
        });
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..PROBES {
        let begun = Instant::now();
        for path in ["/health/live", "/health/ready"] {
            assert_eq!(request(gateway.admin(), "GET", path, &[], b"").await.status, 200);
        }
        slowest = slowest.max(begun.elapsed());
    }
    let published = publishers.join_all().await;
    let sum = |which: usize| published.iter().map(|counts| counts[which]).sum::<usize>();
    println!(
        "beside 64 silent connections and 100 publishers: {PROBES} of {PROBES} pairs of probes answered, {slowest:?} at most; \
         {} publications, {} asked to try again",
        sum(0),
        sum(1)
    );
    assert!(sum(0) >= 1900);
    assert!(gateway.log().matching(&["admin listener refused"]).len() < 20);
}

#[tokio::test]
async fn a_crowd_of_silent_connections_gives_way_and_is_told_of_now_and_then() {
    let gateway = gateway().await;
    let mut silent = Vec::new();
    for _ in 0..2000 {
        silent.push(Socket::connect(gateway.admin()).await);
    }
    assert_eq!(request(gateway.admin(), "GET", "/health/live", &[], b"").await.status, 200);
    let evicted = gateway_tests::eventually("those that gave way to be counted", async || {
        let evicted = gateway.metrics().await.get("gateway_admin_refused_total{reason=\"evicted\"}");
        (evicted >= 1600.0).then_some(evicted)
    })
    .await;
    let lines = gateway.log().matching(&["admin listener refused", "evicted"]).len();
    assert!((5..=12).contains(&lines), "{lines} lines for {evicted}");
}

#[tokio::test]
async fn haproxy_finds_the_gateway_healthy() {
    let gateway = Gateway::start("raw.enabled = true\nclient.anonymous = true").await;
    let options = format!("check inter 100ms fall 1 rise 2 port {}", gateway.admin().port());
    for check in [
        "option httpchk GET /health/ready",
        "option httpchk /health/ready",
        "option httpchk\n  http-check send meth GET uri /health/live ver HTTP/1.1 hdr Host gateway.internal",
    ] {
        let haproxy = WebProxy::haproxy(gateway.address(), "http", &options, check).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(haproxy.log().matching(&["is DOWN"]).is_empty(), "{check}");
        let client = RawClient::open(haproxy.address(), "/connection/raw", &[]).await;
        assert!(client.is_ok(), "{check}: {:?}", client.err());
    }
    gateway.terminate();
}

#[tokio::test]
async fn a_publisher_that_mistypes_is_not_cut() {
    let gateway = gateway().await;
    let mut socket = Socket::connect(gateway.admin()).await;
    for (method, status) in [("nope", 404), ("info", 401), ("publish", 401)] {
        socket
            .send(
                format!("POST /api/{method} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n")
                    .as_bytes(),
            )
            .await;
        let answer = socket.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
        tokio::time::sleep(Duration::from_millis(50)).await;
        socket.send(&[b'x'; 60_000]).await;
        socket.ended().await;
        socket = Socket::connect(gateway.admin()).await;
    }
    for _ in 0..3 {
        let body = "{\"channel\":\"unknown:1\",\"data\":1}";
        let head = format!("POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\n");
        socket.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
        let answer = socket.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.header("keep-alive")), (200, Some("timeout=75")));
        assert_eq!(code(&answer.json()), 102);
    }
}

/// Whether an answer has the shape of the one that is shown: the same fields, of the same kinds. What is
/// shown under `ID` is so under every name.
fn is_like(shown: &Value, answer: &Value) -> bool {
    match (shown, answer) {
        (Value::Object(shown), Value::Object(answer)) => match shown.get("ID") {
            Some(each) => !answer.is_empty() && answer.values().all(|answer| is_like(each, answer)),
            None => {
                shown.len() == answer.len()
                    && shown
                        .iter()
                        .all(|(key, shown)| answer.get(key).is_some_and(|answer| is_like(shown, answer)))
            }
        },
        (Value::Array(shown), Value::Array(answer)) => {
            shown.len() <= answer.len()
                && shown.iter().zip(answer).all(|(shown, answer)| is_like(shown, answer))
        }
        _ => std::mem::discriminant(shown) == std::mem::discriminant(answer),
    }
}

#[tokio::test]
async fn the_page_of_the_api_shows_what_is_answered() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    ann.subscribe("chat:1").await;
    let page = fs::read_to_string(readme::root().join("gateway/API.md")).unwrap();
    let mut shown = 0;
    for part in page.split("\n### ").skip(1) {
        let (method, text) = part.split_once('\n').unwrap();
        if method == "plugin_rollback" {
            // Something to go back to.
            let other = format!("{}\n# Another file.\n", token::settings());
            gateway.swap(|folder| folder.settings("10-auth-jwt", &other)).await;
        }
        for block in readme::blocks(text, "json") {
            let (request, expected) = block.split_once('\n').expect("a request and an answer");
            let json =
                |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let answer = gateway.post(&format!("/api/{method}"), &json(request)).await.ok();
            assert!(
                is_like(&json(expected), &answer),
                "{method} answers {answer}, the page shows {expected}"
            );
            shown += 1;
        }
    }
    assert_eq!(shown, 29, "one of each method, and two of explain");
}
