//! The admin listener over real sockets: probes, keys, requests and bounds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod support;
mod upstreams;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{oneshot, watch};

use super::*;
use crate::backplane::inbox::{Delivery, Inbox};
use crate::backplane::memory::Memory;
use crate::backplane::{Backplane, ReplyTo};
use crate::backplane::{Order, Overrides};
use crate::clock::Clock;
use crate::connection_id::ConnectionIds;
use crate::control::Parts;
use crate::events::Events;
use crate::explain::Explain;
use crate::plugin::chain::{Chain, Plugin};
use crate::plugin::counters::PluginCounters;
use crate::plugin::event::{ConnectEvent, DisconnectEvent, Message};
use crate::plugin::failure::Failure;
use crate::plugin::grants::Grants;
use crate::plugin::interests::{Hooks, Interests};
use crate::plugin::load::{About, Cancel, Factory, LoadCode, LoadError, Loader};
use crate::plugin::registry::{PluginFile, Registry, Workers};
use crate::plugin::settings::Settings;
use crate::plugin::verdict::{ConnectVerdict, Effect, Verdict};
use crate::protocol::channel::Channel;
use crate::protocol::push::{Member, Publication, PushKind};
use crate::shutdown::Phase;
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::Metrics;
use support::{Admin, CONFIG, code};

// ---- Who is let in ----

#[tokio::test]
async fn health_and_metrics_are_open_and_the_api_is_not() {
    let admin = Admin::start(CONFIG);
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
    for path in ["/health/live", "/health/ready", "/metrics"] {
        assert!(admin.get("/health").await.body.contains(path), "{path} is named");
    }
    for key in ["", "X-API-Key: wrong-horse\r\n", "Authorization: Bearer correct-horse\r\n"] {
        let response = admin.post("/api/info", key, "{}").await;
        assert_eq!(response.status, 401, "{key}");
        assert!(response.head.contains("www-authenticate: apikey"));
    }
    for key in ["X-API-Key: correct-horse\r\n", "Authorization: apikey correct-horse\r\n"] {
        assert_eq!(admin.post("/api/info", key, "{}").await.status, 200, "{key}");
    }
}

#[tokio::test]
async fn without_a_key_the_api_is_closed() {
    let admin = Admin::start("");
    for key in ["", "X-API-Key: \r\n", "Authorization: apikey \r\n"] {
        assert_eq!(admin.post("/api/info", key, "{}").await.status, 401, "{key:?}");
    }
    assert_eq!(admin.get("/health/live").await.status, 200);
}

#[tokio::test]
async fn a_request_under_another_name_is_not_for_this_machine() {
    let admin = Admin::start(CONFIG);
    let get = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
    for host in [
        "Host: evil.example\r\n",
        "Host: evil.example:8001\r\n",
        "Host: localhost\r\nHost: evil.example\r\n",
        "",
    ] {
        for path in ["/metrics", "/api/info"] {
            let status = admin.raw(get(path, host)).await.status;
            assert!([400, 421].contains(&status), "{host:?} {path}: {status}");
        }
        assert_eq!(admin.raw(get("/health/live", host)).await.status, 200, "{host:?}");
    }
    let status = admin.raw(get("http://evil.example/metrics", "Host: localhost\r\n")).await.status;
    assert_eq!(status, 421);
    let own = format!("Host: {}\r\n", admin.address);
    assert_eq!(admin.raw(get("/metrics", &own)).await.status, 200);
}

#[tokio::test]
async fn paths_and_methods_are_a_closed_set() {
    let admin = Admin::start(CONFIG);
    for path in ["/", "/api/", "/api/nothing", "/metrics/", "/healthy", "//metrics", "/METRICS"] {
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
    for path in ["/api", "/api/info", "/api/rpc"] {
        let response = admin.get(path).await;
        assert_eq!((response.status, response.head.contains("allow: post")), (405, true), "{path}");
    }
    let response = admin.post("/metrics", "", "").await;
    assert_eq!((response.status, response.head.contains("allow: get, head")), (405, true));
}

// ---- Bounds ----

#[tokio::test]
async fn a_body_has_a_largest_size() {
    let admin = Admin::start(CONFIG);
    let head = "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: correct-horse\r\n";
    let announced = format!("{head}Content-Length: {}\r\n\r\n{{", (1 << 20) + 1);
    assert_eq!(admin.raw(announced).await.status, 413);
    let mut chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    for _ in 0..17 {
        chunked += &format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
    }
    assert_eq!(admin.raw(chunked).await.status, 413);
    let fits = format!("{{\"x\":\"{}\"}}", "x".repeat((1 << 20) - 8));
    assert_eq!(admin.post("/api/publish", "X-API-Key: correct-horse\r\n", &fits).await.status, 200);
}

#[tokio::test]
async fn a_body_of_a_stranger_is_not_read() {
    let admin = Admin::start(CONFIG);
    let head = "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n";
    assert_eq!(admin.raw(head).await.status, 401);
}

#[tokio::test]
async fn a_head_that_is_slow_or_large_ends_the_connection() {
    let admin = Admin::start(CONFIG);
    let begun = std::time::Instant::now();
    let response = admin.raw("GET /health/live HTTP/1.1\r\nHost: loc").await;
    assert_ne!(response.status, 200);
    assert!(begun.elapsed() < HEAD_TIMEOUT * 2);
    let large = format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    assert_eq!(admin.raw(large).await.status, 431);
}

/// Connections that have each received a response, so that they are known to exist.
async fn idle(admin: &Admin, count: usize) -> Vec<TcpStream> {
    let mut idle = Vec::new();
    for _ in 0..count {
        let mut socket = TcpStream::connect(admin.address).await.unwrap();
        socket.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
        idle.push(socket);
    }
    idle
}

async fn is_open(socket: &mut TcpStream) -> bool {
    timeout(Duration::from_millis(200), socket.read(&mut [0; 1])).await.is_err()
}

#[tokio::test]
async fn connections_that_wait_give_way_to_newer_ones() {
    let admin = Admin::start(CONFIG);
    let mut silent = TcpStream::connect(admin.address).await.unwrap();
    let mut idle = idle(&admin, CONNECTIONS_PER_ADDRESS_MAX - 1).await;
    assert!(is_open(&mut silent).await && is_open(&mut idle[0]).await);
    assert_eq!(admin.get("/health/live").await.status, 200);
    assert!(!is_open(&mut silent).await, "it has waited longest");
    assert!(is_open(&mut idle[0]).await);
    let mut another = TcpStream::connect(admin.address).await.unwrap();
    assert!(
        is_open(&mut another).await && is_open(&mut idle[0]).await,
        "the slot of the probe before was free"
    );
    assert_eq!(admin.get("/health/live").await.status, 200);
    assert!(!is_open(&mut idle[0]).await && is_open(&mut another).await, "the newest is not the next to go");
    let text = admin.get("/metrics").await.body;
    assert!(text.contains("gateway_admin_refused_total{reason=\"evicted\"} 2\n"), "{text}");
}

#[tokio::test]
async fn probes_are_answered_while_every_other_request_has_to_wait() {
    let admin = Admin::start(CONFIG);
    let head = "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: correct-horse\r\nContent-Length: 9\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_PER_ADDRESS_MAX {
        let mut socket = TcpStream::connect(admin.address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        held.push(socket);
    }
    for _ in 0..10 {
        assert_eq!(admin.get("/health/live").await.status, 200);
    }
    let busy = admin.post("/api/info", "X-API-Key: correct-horse\r\n", "{}").await;
    assert_eq!(busy.status, 503);
    assert!(busy.head.contains("retry-after: 1") && busy.body.contains("try again"), "{}", busy.body);
    drop(held);
    let answered =
        async { while admin.post("/api/info", "X-API-Key: correct-horse\r\n", "{}").await.status != 200 {} };
    timeout(Duration::from_secs(5), answered).await.expect("there is room again");
}

#[test]
fn the_refusal_of_a_connection_is_a_complete_answer() {
    let busy = busy();
    let (head, body) = busy.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    let error = json!({"code": 503, "message": "too many requests at the same time, try again later"});
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["error"], error);
}

// ---- The end of a connection ----

#[tokio::test]
async fn an_answer_says_whether_the_connection_goes_on() {
    let admin = Admin::start(CONFIG);
    let key = "X-API-Key: correct-horse\r\n";
    for (request, goes_on) in [
        ("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), true),
        ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), true),
        (format!("POST /api/info HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: 2\r\n\r\n{{}}"), true),
        (format!("POST /api/info HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: 1\r\n\r\n{{"), true),
        (format!("POST /api/nope HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: 60000\r\n\r\n"), false),
        ("POST /api/info HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n".to_owned(), false),
        (format!("PUT /api/info HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: 60000\r\n\r\n"), false),
        (format!("POST /api/info HTTP/1.1\r\nHost: evil.example\r\n{key}Content-Length: 2\r\n\r\n"), false),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n".to_owned(), false),
        (
            format!("POST /api/info HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: 2000000\r\n\r\n"),
            false,
        ),
        ("GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: x, Close\r\n\r\n".to_owned(), false),
        ("GET /health/live HTTP/1.0\r\n\r\n".to_owned(), false),
        ("GET /health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_owned(), true),
        ("nonsense\r\n\r\n".to_owned(), false),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 17)), false),
    ] {
        let mut socket = TcpStream::connect(admin.address).await.unwrap();
        let _ = socket.write_all(request.as_bytes()).await;
        let mut bytes = vec![0; 1 << 16];
        let count = timeout(Duration::from_secs(5), socket.read(&mut bytes)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&bytes[..count]).to_lowercase();
        assert_eq!(answer.contains("connection: close"), !goes_on, "{request:.70}: {answer}");
        assert_eq!(answer.contains("keep-alive: timeout=75"), goes_on, "{request:.70}: {answer}");
        // The rest of the body is discarded and does no harm.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if !goes_on {
            assert!(socket.write_all(&[b'x'; 60_000]).await.is_ok(), "{request:.70}");
        }
    }
}

#[tokio::test]
async fn probes_may_name_anything_and_ask_in_their_own_way() {
    let admin = Admin::start(CONFIG);
    for request in [
        "GET /health/ready HTTP/1.0\r\n\r\n",
        "GET /health/ready HTTP/1.0\r\nHost:\r\n\r\n",
        "GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n",
        "HEAD /health/ready HTTP/1.1\r\nHost: gateway.internal:8001\r\nConnection: close\r\n\r\n",
        "OPTIONS /health/ready HTTP/1.0\r\n\r\n",
    ] {
        assert_eq!(admin.raw(request).await.status, 200, "{request}");
    }
    admin.phase.send_replace(Phase::Starting);
    assert_eq!(admin.raw("OPTIONS /health/ready HTTP/1.0\r\n\r\n").await.status, 503);
}

#[tokio::test]
async fn metrics_can_be_for_those_with_the_key() {
    let admin = Admin::start("admin = { api_key = 'correct-horse', metrics_need_key = true }");
    assert_eq!(admin.get("/metrics").await.status, 401);
    let with_key =
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-Key: correct-horse\r\n\r\n";
    assert_eq!(admin.raw(with_key).await.status, 200);
    assert_eq!(admin.get("/health/live").await.status, 200);
}

// ---- Health and metrics ----

#[tokio::test]
async fn readiness_follows_the_phase_and_liveness_does_not() {
    let admin = Admin::start(CONFIG);
    assert_eq!(admin.get("/health/ready").await.status, 200);
    for phase in [Phase::Starting, Phase::Leaving, Phase::Draining { until: Duration::ZERO }] {
        admin.phase.send_replace(phase);
        let ready = admin.get("/health/ready").await;
        assert_eq!(ready.status, 503);
        let body: Value = serde_json::from_str(&ready.body).unwrap();
        assert!(body["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
        assert_eq!(admin.get("/health/live").await.status, 200);
    }
}

#[tokio::test]
async fn metrics_are_in_the_openmetrics_format() {
    let admin = Admin::start(CONFIG);
    assert_eq!(admin.get("/nothing").await.status, 404);
    let response = admin.get("/metrics").await;
    assert!(response.head.contains("content-type: application/openmetrics-text"));
    assert!(response.body.contains("gateway_admin_responses_total{status=\"404\"} 1\n"), "{}", response.body);
    assert!(response.body.ends_with("# EOF\n"));
}

// ---- The API ----

#[tokio::test]
async fn a_publication_gets_its_place_in_the_history() {
    let admin = Admin::start(CONFIG);
    let first = admin.api("publish", json!({"channel": "chat:lobby", "data": {"t": "hello"}})).await;
    let epoch = first["result"]["epoch"].as_str().unwrap().to_owned();
    assert_eq!(first, json!({"result": {"offset": 1, "epoch": epoch}}));
    for text in ["b", "c", "d"] {
        admin.api("publish", json!({"channel": "chat:lobby", "data": text})).await;
    }
    let all = admin.api("history", json!({"channel": "chat:lobby", "limit": -1})).await;
    let entry = |offset: u64, data: &str| json!({"data": data, "offset": offset});
    let kept = [entry(2, "b"), entry(3, "c"), entry(4, "d")];
    assert_eq!(all, json!({"result": {"publications": kept, "offset": 4, "epoch": epoch}}));
    let position = admin.api("history", json!({"channel": "chat:lobby"})).await;
    assert_eq!(position, json!({"result": {"publications": [], "offset": 4, "epoch": epoch}}));
    let newest = admin.api("history", json!({"channel": "chat:lobby", "limit": 1, "reverse": true})).await;
    assert_eq!(newest["result"]["publications"], json!([entry(4, "d")]));
    let since = json!({"offset": 2, "epoch": epoch});
    let rest = admin.api("history", json!({"channel": "chat:lobby", "limit": -1, "since": since})).await;
    assert_eq!(rest["result"]["publications"], json!([entry(3, "c"), entry(4, "d")]));
    let foreign = json!({"channel": "chat:lobby", "limit": 1, "since": {"offset": 2, "epoch": "other"}});
    assert_eq!(code(&admin.api("history", foreign).await), 112);
}

#[tokio::test]
async fn a_publication_without_history_has_no_place() {
    let admin = Admin::start(CONFIG);
    assert_eq!(admin.api("publish", json!({"channel": "news", "data": null})).await, json!({"result": {}}));
}

#[tokio::test]
async fn a_payload_is_sent_on_one_line_and_otherwise_as_it_came() {
    let admin = Admin::start(CONFIG);
    admin.backplane.add_interest(0, &Channel::parse("news").unwrap(), ReplyTo::Nobody);
    let body = "{\"channel\":\"news\",\"data\":{\n \"n\" : 1.50,\n \"s\":\"a\\nb\" }}";
    assert_eq!(admin.post("/api/publish", "X-API-Key: correct-horse\r\n", body).await.status, 200);
    let deliveries = admin.deliveries();
    let [Delivery::Push(push)] = &deliveries[..] else { panic!("not one push") };
    let PushKind::Publication { publication, .. } = &push.kind else { panic!("no publication") };
    assert_eq!(publication.data, "{ \"n\" : 1.50, \"s\":\"a\\nb\" }");
}

#[tokio::test]
async fn a_payload_is_as_large_as_a_publication_may_be() {
    let admin = Admin::start(CONFIG);
    let publish = async |length: usize| {
        code(&admin.api("publish", json!({"channel": "news", "data": "x".repeat(length)})).await)
    };
    assert_eq!(publish(2046).await, 0);
    assert_eq!(publish(2047).await, 106);
}

/// The publication in the one push that was delivered.
fn published(deliveries: &[Delivery]) -> Arc<Publication> {
    let [Delivery::Push(push)] = deliveries else { panic!("not one push") };
    let PushKind::Publication { publication, .. } = &push.kind else { panic!("no publication") };
    publication.clone()
}

#[tokio::test]
async fn tags_are_delivered_and_kept_and_count_as_a_part_of_the_publication() {
    let admin = Admin::start(CONFIG);
    admin.backplane.add_interest(0, &Channel::parse("chat:a").unwrap(), ReplyTo::Nobody);
    let tags = json!({"kind": "goal", "team": "h\u{e9}"});
    admin.api("publish", json!({"channel": "chat:a", "data": 1, "tags": tags})).await;
    let delivered = published(&admin.deliveries()).tags.clone().unwrap();
    assert_eq!(delivered.iter().collect::<Vec<_>>(), [("kind", "goal"), ("team", "h\u{e9}")]);
    admin.api("broadcast", json!({"channels": ["chat:a", "chat:b"], "data": 2, "tags": tags})).await;
    admin.api("publish", json!({"channel": "chat:a", "data": 3})).await;
    let kept = admin.api("history", json!({"channel": "chat:a", "limit": -1})).await;
    let expected = json!([
        {"data": 1, "offset": 1, "tags": tags}, {"data": 2, "offset": 2, "tags": tags}, {"data": 3, "offset": 3},
    ]);
    assert_eq!(kept["result"]["publications"], expected);

    let sized = |bytes: usize| json!({"channel": "news", "data": 1, "tags": {"k": "x".repeat(bytes)}});
    let most = 2048 - "1".len() - r#""tags":{"k":"",},"#.len();
    assert_eq!(code(&admin.api("publish", sized(most)).await), 0);
    let answer = admin.api("publish", sized(most + 1)).await;
    assert!(answer.to_string().contains("a publication of 2049 bytes"), "{answer}");
}

#[tokio::test]
async fn tags_that_cannot_be_published_are_refused_by_name() {
    let admin = Admin::start(CONFIG);
    let many: BTreeMap<_, _> = (0..65).map(|number| (number.to_string(), "")).collect();
    for (channel, tags, expected, words) in [
        ("news", json!(many), 106, "`tags` has 65 entries, at most 64"),
        (
            "news",
            json!({"k": "x".repeat(4096)}),
            106,
            "`tags` has 4097 bytes of names and values, at most 4096",
        ),
        ("news", json!({"": "x"}), 107, "`tags` has an empty name"),
        ("#42", json!({"k": "v"}), 108, "`tags` need a channel"),
        ("@nobody", json!({"k": "v"}), 108, "`tags` need a channel"),
    ] {
        for (method, target) in
            [("publish", json!({"channel": channel})), ("broadcast", json!({"channels": [channel]}))]
        {
            let mut request = target;
            request["data"] = 1.into();
            request["tags"] = tags.clone();
            let answer = admin.api(method, request).await.to_string();
            assert!(answer.contains(words) && answer.contains(&expected.to_string()), "{method}: {answer}");
        }
    }
    let key = "X-API-Key: correct-horse\r\n";
    for (tags, words) in [("7", "`tags`: "), (r#"{"kind":7}"#, "the value of \\\"kind\\\"")] {
        let body = format!(r#"{{"channel":"news","data":1,"tags":{tags}}}"#);
        let response = admin.post("/api/publish", key, &body).await;
        assert!(response.status == 400 && response.body.contains(words), "{}", response.body);
    }
}

#[tokio::test]
async fn bytes_are_published_as_those_of_a_client_of_protobuf_are() {
    let admin = Admin::start(CONFIG);
    admin.backplane.add_interest(0, &Channel::parse("chat:a").unwrap(), ReplyTo::Nobody);
    for (sent, json, payload) in [
        (&b"\xff\x00"[..], false, &b"\xff\x00"[..]),
        (b"no JSON", false, b"no JSON"),
        (b"{\n\"a\": 1}", true, b"{\"a\": 1}"),
    ] {
        let encoded = BASE64_STANDARD.encode(sent);
        for request in [
            json!({"channel": "chat:a", "b64data": encoded}),
            json!({"channel": "chat:a", "b64data": encoded, "data": null}),
        ] {
            admin.api("publish", request).await;
            let publication = published(&admin.deliveries());
            assert_eq!((publication.json, &publication.data[..]), (json, payload));
        }
    }
    let kept = admin.api("history", json!({"channel": "chat:a", "limit": 3, "reverse": true})).await;
    let seen: Vec<_> =
        kept["result"]["publications"].as_array().unwrap().iter().map(|one| &one["data"]).collect();
    assert_eq!(seen, [&json!({"a": 1}), &json!({"a": 1}), &json!("no JSON")]);
    let deep = BASE64_STANDARD.encode("[".repeat(121) + &"]".repeat(121));
    for (request, words) in [
        (json!({"data": 1, "b64data": "AA=="}), "`data` and `b64data` are both there"),
        (json!({"data": "", "b64data": "AA=="}), "`data` and `b64data` are both there"),
        (json!({}), "`data` or `b64data` is missing"),
        (json!({"b64data": ""}), "`data` or `b64data` is missing"),
        (json!({"b64data": deep}), "`b64data` is JSON"),
    ] {
        let (mut publish, mut broadcast) = (request.clone(), request);
        publish["channel"] = "news".into();
        broadcast["channels"] = json!(["news"]);
        for answer in [admin.api("publish", publish).await, admin.api("broadcast", broadcast).await] {
            assert_eq!(code(&answer), 107);
            assert!(answer.to_string().contains(words), "{answer}");
        }
    }
    for wrong in ["\"A\"", "\"AA\"", "\"A A=\"", "7"] {
        let body = format!(r#"{{"channel":"news","b64data":{wrong}}}"#);
        let response = admin.post("/api/publish", "X-API-Key: correct-horse\r\n", &body).await;
        assert!(response.status == 400 && response.body.contains("`b64data`"), "{}", response.body);
    }
}

#[tokio::test]
async fn what_skips_the_history_has_no_place_in_it() {
    let admin = Admin::start(CONFIG);
    let skipping = |method: &str, data: u64| match method {
        "publish" => json!({"channel": "chat:a", "data": data, "skip_history": true}),
        _ => json!({"channels": ["chat:a"], "data": data, "skip_history": true}),
    };
    admin.api("publish", json!({"channel": "chat:a", "data": 1})).await;
    assert_eq!(admin.api("publish", skipping("publish", 2)).await, json!({"result": {}}));
    let answer = admin.api("broadcast", skipping("broadcast", 3)).await;
    assert_eq!(answer["result"]["responses"], json!([{"result": {}}]));
    let next = admin.api("publish", json!({"channel": "chat:a", "data": 4})).await;
    assert_eq!(next["result"]["offset"], 2);
    let mut versioned = skipping("publish", 5);
    versioned["version"] = 1.into();
    let answer = admin.api("publish", versioned).await;
    assert!(code(&answer) == 107 && answer.to_string().contains("exclude each other"), "{answer}");
}

#[tokio::test]
async fn the_options_of_a_subscription_reach_the_workers() {
    let admin = Admin::start(CONFIG);
    admin.backplane.add_interest(0, &Channel::parse("#42").unwrap(), ReplyTo::Nobody);
    let options = |deliveries: Vec<Delivery>| match &deliveries[..] {
        [Delivery::Order { order: Order::Subscribe(channel, options), .. }] => {
            assert_eq!(channel.as_str(), "chat:1");
            options.clone()
        }
        _ => panic!("not one subscribe"),
    };
    let plain = json!({"user": "42", "channel": "chat:1"});
    assert_eq!(admin.api("subscribe", plain.clone()).await, json!({"result": {}}));
    assert_eq!(options(admin.deliveries()), None);
    let with = |field: &str, value: Value| {
        let mut request = plain.clone();
        request[field] = value;
        request
    };
    let hidden = json!({"presence": {"value": false}});
    assert_eq!(admin.api("subscribe", with("override", hidden)).await, json!({"result": {}}));
    let some = options(admin.deliveries()).expect("options");
    assert_eq!(some.overrides, Overrides { presence: Some(false), ..Overrides::default() });
    let past = json!(1);
    for (field, value, expected, words) in [
        ("recover_since", json!({"offset": 1, "epoch": "e"}), 108, "`recover_since` needs"),
        ("override", json!({"join_leave": {"value": true}}), 108, "`override.join_leave` cannot"),
        ("override", json!({"force_recovery": {"value": true}}), 108, "`override.force_recovery` cannot"),
        ("expire_at", past, 107, "not in the future"),
        ("data", json!("d".repeat(2048)), 106, "`limits.publication_bytes_max` is 2048"),
        ("info", json!("i".repeat(4096)), 106, "at most 4096"),
    ] {
        let answer = admin.api("subscribe", with(field, value)).await;
        assert_eq!(code(&answer), expected, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer}");
    }
    assert!(admin.deliveries().is_empty());
}

#[tokio::test]
async fn connections_in_the_whitelist_stay() {
    let admin = Admin::start(CONFIG);
    admin.backplane.add_interest(0, &Channel::parse("#42").unwrap(), ReplyTo::Nobody);
    let kept = |deliveries: Vec<Delivery>| match &deliveries[..] {
        [Delivery::Order { order: Order::CloseOthers { close, kept }, .. }] => (close.code, kept.join(",")),
        _ => panic!("not one close"),
    };
    admin.api("disconnect", json!({"user": "42", "whitelist": ["a", "b"]})).await;
    assert_eq!(kept(admin.deliveries()), (3503, "a,b".into()));
    for nobody in [json!([]), json!(null)] {
        admin.api("disconnect", json!({"user": "42", "whitelist": nobody})).await;
        assert!(matches!(&admin.deliveries()[..], [Delivery::Order { order: Order::Close(..), .. }]));
    }
    for (wrong, expected, words) in [
        (json!(["a", "b c"]), 107, "`whitelist`: the entry 1 is not a client id"),
        (json!(vec!["a"; 101]), 106, "`whitelist` has 101 entries, at most 100"),
    ] {
        let answer = admin.api("disconnect", json!({"user": "42", "whitelist": wrong})).await;
        assert!(code(&answer) == expected && answer.to_string().contains(words), "{answer}");
    }
    assert!(admin.deliveries().is_empty());
}

#[tokio::test]
async fn a_broadcast_answers_for_every_channel_in_order() {
    let admin = Admin::start(CONFIG);
    let channels = json!(["news", "not valid", "other:x", "chat:a"]);
    let answer = admin.api("broadcast", json!({"channels": channels, "data": 1})).await;
    let responses = answer["result"]["responses"].as_array().unwrap();
    assert_eq!(responses.len(), 4);
    assert_eq!(responses[0], json!({"result": {}}));
    assert_eq!(code(&responses[1]), 107);
    assert_eq!(code(&responses[2]), 102);
    assert_eq!(responses[3]["result"]["offset"], 1);
    assert_eq!(code(&admin.api("broadcast", json!({"channels": [], "data": 1})).await), 107);
    let many = vec!["news"; 1_001];
    assert_eq!(code(&admin.api("broadcast", json!({"channels": many, "data": 1})).await), 106);
}

#[tokio::test]
async fn a_user_or_one_connection_can_be_disconnected() {
    let admin = Admin::start(CONFIG);
    let sent = |deliveries: Vec<Delivery>| match &deliveries[..] {
        [Delivery::Order { address, order: Order::Close(close, _), .. }] => {
            (address.to_string(), close.code, close.reason.to_string())
        }
        _ => panic!("not one close"),
    };
    admin.backplane.add_interest(0, &Channel::parse("#42").unwrap(), ReplyTo::Nobody);
    assert_eq!(admin.api("disconnect", json!({"user": "42"})).await, json!({"result": {}}));
    assert_eq!(sent(admin.deliveries()), ("#42".into(), 3503, "force disconnect".into()));

    let wish = json!({"code": 4242, "reason": "bye"});
    admin.api("disconnect", json!({"user": "42", "disconnect": wish})).await;
    assert_eq!(sent(admin.deliveries()), ("#42".into(), 4242, "bye".into()));

    let client = ConnectionIds::new(1).id(ConnectionIds::compose(0, 7), 99);
    admin.api("disconnect", json!({"client": &*client})).await;
    assert_eq!(sent(admin.deliveries()).0, format!("@{client}"));

    let long = "x".repeat(124);
    for wrong in [
        json!({}),
        json!({"user": ""}),
        json!({"user": "a\nb"}),
        json!({"user": "x".repeat(255)}),
        json!({"client": "a b"}),
        json!({"user": "42", "disconnect": {"code": 1000}}),
        json!({"user": "42", "disconnect": {"code": 5000}}),
        json!({"user": "42", "disconnect": {"code": 4000, "reason": long}}),
    ] {
        assert_eq!(code(&admin.api("disconnect", wrong.clone()).await), 107, "{wrong}");
    }
    assert!(admin.deliveries().is_empty());
}

#[tokio::test]
async fn presence_tells_who_is_there_and_how_many() {
    let admin = Admin::start(CONFIG);
    admin.enter("chat:lobby", "c1", "ann", "{\"name\":\"Ann\"}");
    admin.enter("chat:lobby", "c2", "ann", "");
    admin.enter("chat:lobby", "c3", "bob", "");
    let presence = admin.api("presence", json!({"channel": "chat:lobby"})).await;
    let expected = json!({
        "c1": {"client": "c1", "user": "ann", "conn_info": {"name": "Ann"}},
        "c2": {"client": "c2", "user": "ann"},
        "c3": {"client": "c3", "user": "bob"},
    });
    assert_eq!(presence, json!({"result": {"presence": expected}}));
    let stats = admin.api("presence_stats", json!({"channel": "chat:lobby"})).await;
    assert_eq!(stats, json!({"result": {"num_clients": 3, "num_users": 2}}));
    for method in ["presence", "presence_stats", "history"] {
        assert_eq!(code(&admin.api(method, json!({"channel": "news"})).await), 108, "{method} is off there");
        assert_eq!(code(&admin.api(method, json!({"channel": "other:x"})).await), 102, "{method}");
        assert_eq!(code(&admin.api(method, json!({})).await), 107, "{method}");
    }
}

#[tokio::test]
async fn info_describes_the_node() {
    let admin = Admin::start(CONFIG);
    let info = admin.api("info", json!({})).await;
    let node = &info["result"]["nodes"][0];
    assert_eq!((&node["uid"], &node["version"]), (&json!("node-1"), &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!(
        (&node["num_clients"], &node["num_subs"], &node["num_workers"]),
        (&json!(0), &json!(0), &json!(1))
    );
}

#[tokio::test]
async fn a_gateway_alone_is_the_only_node() {
    let admin = Admin::start(CONFIG);
    let nodes = admin.api("nodes", json!({})).await["result"]["nodes"].clone();
    assert_eq!(nodes.as_array().unwrap().len(), 1);
    assert_eq!((&nodes[0]["uid"], &nodes[0]["name"]), (&json!("node-1"), &json!("machine/address")));
}

#[tokio::test]
async fn plugins_are_listed_with_what_runs_and_what_was_refused() {
    let admin = Admin::start(CONFIG);
    let file = |name: &str, bytes: &'static [u8]| PluginFile {
        path: name.into(),
        file: name.into(),
        wasm: Ok(Bytes::from_static(bytes)),
        settings: None,
        fresh: false,
    };
    admin.registry.apply(vec![file("10-auth.wasm", b"abc"), file("20-bad.wasm", b"")]).await;
    let answer = admin.api("plugins", json!({})).await;
    assert_eq!(answer["result"]["generation"], 1);
    let [auth, bad] = &answer["result"]["plugins"].as_array().unwrap()[..] else { panic!("{answer}") };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(auth["since"].as_u64().is_some_and(|since| now - since < 60));
    assert_eq!(
        (&auth["name"], &auth["file"], &auth["state"], &auth["version"], &auth["order"], &auth["generation"]),
        (&json!("auth"), &json!("10-auth.wasm"), &json!("live"), &json!("1.2.3"), &json!(0), &json!(1))
    );
    assert_eq!(auth["digest"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!((&auth["hooks"], &auth["counts"]["calls"]), (&json!(["on-message"]), &json!(0)));
    assert_eq!(auth["kept"], json!({"entries": 0, "bytes": 0, "evictions": 0}));
    assert_eq!(
        (&bad["name"], &bad["state"], &bad["digest"]),
        (&json!("bad"), &json!("closed"), &Value::Null)
    );
    assert_eq!((&bad["error"]["code"], &bad["error"]["sentence"]), (&json!("empty"), &json!("has no bytes")));
    let versions = auth["versions"].as_array().unwrap();
    assert_eq!((versions.len(), &versions[0]["digest"]), (1, &auth["digest"]));
    for (name, to, sentence) in [
        ("nobody", "", "there is no plugin `nobody`; /api/plugins lists all plugins"),
        ("auth", "", "no earlier version of `auth` is kept"),
        ("auth", "ba7816bf", "this version of `auth` runs already"),
    ] {
        let refused = admin.api("plugin_rollback", json!({"name": name, "to": to})).await;
        assert_eq!(refused["error"], json!({"code": 108, "message": sentence}));
    }
}

#[tokio::test]
async fn what_is_not_a_request_is_status_400() {
    let admin = Admin::start(CONFIG);
    for body in ["", "{", "[]", "{\"channel\":1,\"data\":1}", "{\"channel\":\"news\",\"data\":}"] {
        let response = admin.post("/api/publish", "X-API-Key: correct-horse\r\n", body).await;
        // An empty body is a request without fields.
        assert_eq!(response.status, if body.is_empty() { 200 } else { 400 }, "{body}");
        assert_eq!(code(&serde_json::from_str(&response.body).unwrap()), 107, "{body}");
    }
}

#[tokio::test]
async fn conditions_of_a_publication_that_cannot_be_met_are_refused() {
    let admin = Admin::start(CONFIG);
    let long = "k".repeat(257);
    for (channel, name, value, expected, word) in [
        ("chat:lobby", "idempotency_key", json!(long), 107, "at most 256"),
        ("chat:lobby", "version_epoch", json!("e"), 107, "`version`"),
        ("news", "version", json!(1), 108, "history"),
        ("#42", "version", json!(1), 108, "history"),
    ] {
        let answer = admin.api("publish", json!({"channel": channel, "data": 1, name: value})).await;
        assert_eq!(code(&answer), expected, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(word), "{answer}");
    }
    for version in [json!(-1), json!(1.5), json!("1"), json!(18_446_744_073_709_551_616_f64)] {
        let publish = json!({"channel": "chat:lobby", "data": 1, "version": version});
        let key = "X-API-Key: correct-horse\r\n";
        assert_eq!(admin.post("/api/publish", key, &publish.to_string()).await.status, 400, "{version}");
    }
}

#[tokio::test]
async fn what_would_be_ignored_is_refused() {
    let admin = Admin::start(CONFIG);
    for (method, field, value) in [
        ("publish", "uid", json!("u")),
        ("broadcast", "uid", json!("u")),
        ("subscribe", "all_users", json!(true)),
        ("unsubscribe", "label_filter", json!({"op": "eq"})),
        ("disconnect", "all_users", json!(true)),
    ] {
        let mut request = match method {
            "publish" => json!({"channel": "news", "data": 1}),
            "broadcast" => json!({"channels": ["news"], "data": 1}),
            _ => json!({"user": "42", "channel": "news"}),
        };
        if method == "disconnect" {
            request = json!({"user": "42"});
        }
        request[field] = value;
        let answer = admin.api(method, request).await;
        assert_eq!(code(&answer), 107, "{method} {field}");
        let message = answer["error"]["message"].as_str().unwrap();
        let refused = format!("`{field}` is not supported here: the fields are `");
        assert!(message.starts_with(&refused), "{method}: {message}");
    }
    assert!(admin.deliveries().is_empty());
    let defaults = json!({
        "channel": "news", "data": 1, "idempotency_key": "", "skip_history": false, "tags": {}, "b64data": "",
        "delta": false,
    });
    assert_eq!(code(&admin.api("publish", defaults).await), 0);
}
