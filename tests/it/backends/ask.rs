//! What a backend is asked over HTTP, and what becomes of its answers.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway_tests::{
    Client, Closed, Endpoint, Frame, Gateway, RawClient, Received, Refused, Reply, Socket, Stream, emulate,
    eventually, within,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

/// Everything is put to a backend.
const ASKS: &str = "
    handshake.headers_kept = ['cookie', 'user-agent']
    raw.enabled = true
    unidirectional.enabled = true
    [ask]
    connect = 'back'
    refresh = 'back'
    rpc = 'back'
    send = 'back'
    message = 'back'
    headers = ['cookie']
    [namespaces.asked]
    history_size = 10
    presence = true
    ask_subscribe = 'back'
    ask_sub_refresh = 'back'
    ask_publish = 'back'
    [namespaces.live]
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    allow_history = 'nobody'
";

/// The settings, with an upstream that is this endpoint.
fn config(endpoint: &Endpoint, upstream: &str) -> String {
    format!("{ASKS}[upstreams.back]\nurl = '{}'\n{upstream}", endpoint.url("/app?key=7"))
}

/// What the backend of most tests answers.
fn answer(request: &Received) -> Value {
    let body = body(request);
    match path(request) {
        "/app/connect" => json!({ "result": {
            "user": "42", "data": { "hello": body["data"] }, "meta": { "n": 7 }, "channels": ["live:own"],
        } }),
        "/app/subscribe" if body["channel"] == "asked:no" => {
            json!({ "error": { "code": 1000, "message": "not for you" } })
        }
        "/app/subscribe" => {
            json!({ "result": { "data": { "welcome": body["user"] }, "info": { "role": "x" } } })
        }
        "/app/publish" => json!({ "result": { "data": { "from": body["user"], "said": body["data"] } } }),
        "/app/rpc" if body["method"] == "leave" => json!({ "disconnect": { "code": 4500, "reason": "bye" } }),
        "/app/rpc" if body["b64data"].is_string() => json!({ "result": { "b64data": body["b64data"] } }),
        "/app/rpc" => json!({ "result": { "data": { "echo": body["data"], "meta": body["meta"] } } }),
        "/app/send" | "/app/message" if body["data"] == "quiet" => json!({ "result": {} }),
        "/app/send" => json!({ "result": { "data": { "sent": body["data"] } } }),
        "/app/message" if body["b64data"].is_string() => json!({ "result": { "b64data": body["b64data"] } }),
        "/app/message" => json!({ "result": { "data": { "got": body["data"] } } }),
        "/app/refresh" | "/app/sub_refresh" => json!({ "result": {} }),
        other => panic!("{other} is no path of the backend"),
    }
}

fn body(request: &Received) -> Value {
    serde_json::from_slice(&request.body).expect("a question is JSON")
}

fn path(request: &Received) -> &str {
    request.path.strip_suffix("?key=7").expect("the query of the upstream stays")
}

async fn backend() -> Endpoint {
    Endpoint::start(|request, _| Reply::json(&answer(request))).await
}

/// The bodies of the requests to a path so far.
fn asked(endpoint: &Endpoint, to: &str) -> Vec<Value> {
    endpoint.received().iter().filter(|request| path(request) == to).map(body).collect()
}

async fn refused(client: &mut Client, command: &str, parameters: Value) -> Refused {
    client.ask(command, parameters).await.expect_err("it is refused")
}

#[tokio::test]
async fn a_backend_admits_a_client_and_decides_on_each_of_its_commands() {
    let endpoint = backend().await;
    let gateway = Gateway::start(&config(&endpoint, "")).await;
    let headers = [("cookie", "session=1"), ("user-agent", "test")];
    let mut socket = RawClient::open(gateway.address(), "/connection/websocket", &headers).await.unwrap();
    let connect =
        json!({ "id": 1, "connect": { "data": { "a": 1 }, "name": "js", "version": "2", "token": "t" } });
    let hello: Value = serde_json::from_str(&socket.ask(&connect.to_string()).await).unwrap();
    assert_eq!(hello["connect"]["data"], json!({ "hello": { "a": 1 } }));
    assert!(hello["connect"]["subs"]["live:own"].is_object(), "{hello}");
    assert!(!hello.to_string().contains("meta"), "{hello}");
    let [request] = &endpoint.received()[..] else { panic!("one question") };
    assert_eq!((&*request.method, request.header("content-type")), ("POST", "application/json"));
    assert_eq!(
        (request.header("cookie"), request.header("user-agent").contains("test")),
        ("session=1", false)
    );
    let expected = json!({
        "client": hello["connect"]["client"], "transport": "websocket", "protocol": "json", "encoding": "json",
        "token": "t", "data": { "a": 1 }, "name": "js", "version": "2",
    });
    assert_eq!(body(request), expected);

    let mut client = Client::connect(&gateway).await;
    let subscribed = client.ask("subscribe", json!({ "channel": "asked:1", "data": [1] })).await.unwrap();
    assert_eq!(subscribed["data"], json!({ "welcome": "42" }));
    let question = &asked(&endpoint, "/app/subscribe")[0];
    let expected = json!({
        "client": client.id, "transport": "websocket", "protocol": "json", "encoding": "json", "user": "42",
        "channel": "asked:1", "data": [1], "meta": { "n": 7 },
    });
    assert_eq!(question, &expected);
    client.publish("asked:1", json!("hi")).await;
    assert_eq!(client.publication("asked:1").await["data"], json!({ "from": "42", "said": "hi" }));
    let called = client.ask("rpc", json!({ "method": "m", "data": [1] })).await.unwrap();
    assert_eq!(called["data"], json!({ "echo": [1], "meta": { "n": 7 } }));
    client.send_text(&json!({ "send": { "data": 1 } }).to_string()).await;
    assert_eq!(client.direct().await, json!({ "sent": 1 }));
    let no = refused(&mut client, "subscribe", json!({ "channel": "asked:no" })).await;
    assert_eq!((no.code, &*no.message, no.temporary), (1000, "not for you", false));
    client.command("rpc", json!({ "method": "leave" })).await;
    assert_eq!(client.closed().await, Closed { code: Some(4500), reason: "bye".into() });
}

/// A field of a Protobuf message that holds fewer than 128 bytes.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

#[tokio::test]
async fn a_payload_that_is_not_json_goes_and_comes_as_base64() {
    let endpoint = backend().await;
    let gateway = Gateway::start(&config(&endpoint, "")).await;
    let mut socket = Socket::open(gateway.address(), "/connection/websocket?format=protobuf").await;
    let command = |id: u8, request: Vec<u8>| {
        let command = [vec![1 << 3, id], request].concat();
        Frame::new(Frame::BINARY, [vec![command.len() as u8], command].concat()).bytes()
    };
    socket.send(&command(1, field(4, &[field(4, b"go"), field(5, b"0.1")].concat()))).await;
    socket.frame().await.expect("the connect reply");
    let question = &asked(&endpoint, "/app/connect")[0];
    assert_eq!((&question["name"], &question["version"]), (&json!("go"), &json!("0.1")));
    // An rpc with data and a method.
    let bytes = b"\xff\x00\x01";
    socket.send(&command(2, field(13, &[field(1, bytes), field(2, b"m")].concat()))).await;
    let reply = socket.frame().await.expect("the reply").payload;
    assert!(reply.windows(3).any(|part| part == bytes), "{reply:?}");
    let question = &asked(&endpoint, "/app/rpc")[0];
    assert_eq!((&question["protocol"], &question["encoding"]), (&json!("protobuf"), &json!("binary")));
    assert_eq!(question["b64data"], STANDARD.encode(bytes));
}

#[tokio::test]
async fn messages_of_an_own_format_are_answered_in_their_order() {
    let endpoint = backend().await;
    let gateway = Gateway::start(&config(&endpoint, "")).await;
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("{\"a\":1}").await, "{\"got\":{\"a\":1}}");
    assert_eq!(client.ask("no JSON").await, "no JSON");
    client.send_message(Message::binary(&b"\xff\x00"[..])).await;
    assert_eq!(client.message().await, Message::binary(&b"\xff\x00"[..]));
    client.send("\"quiet\"").await;
    for number in 0..20 {
        client.send(&number.to_string()).await;
    }
    for number in 0..20 {
        assert_eq!(client.text().await, format!("{{\"got\":{number}}}"));
    }
}

#[tokio::test]
async fn a_client_without_websocket_is_admitted_and_answered_in_the_same_way() {
    let endpoint = backend().await;
    let gateway = Gateway::start(&config(&endpoint, "")).await;
    for (path, transport) in [("/connection/http_stream", "http_stream"), ("/connection/sse", "sse")] {
        let hello = json!({ "id": 1, "connect": { "data": 5 } }).to_string();
        let mut stream = match transport {
            "sse" => Stream::get(gateway.address(), path, &[], &hello).await,
            _ => Stream::post(gateway.address(), path, &[], hello.as_bytes()).await,
        }
        .expect("a stream");
        let hello = stream.next().await.expect("a reply");
        assert_eq!(hello["connect"]["data"], json!({ "hello": 5 }), "{hello}");
        let (session, node) = (&hello["connect"]["session"], &hello["connect"]["node"]);
        let rpc = json!({ "id": 2, "rpc": { "method": "m", "data": 8 } }).to_string();
        assert_eq!(emulate(gateway.address(), session, node, &rpc).await.status, 204);
        assert_eq!(stream.next().await.expect("a reply")["rpc"]["data"]["echo"], 8);
        assert_eq!(asked(&endpoint, "/app/rpc").pop().unwrap()["transport"], transport);
    }
    let mut stream =
        Stream::get(gateway.address(), "/connection/uni_sse", &[], "{\"data\":6}").await.unwrap();
    let hello = stream.message().await.expect("a push");
    assert_eq!(hello["connect"]["data"], json!({ "hello": 6 }), "{hello}");
    assert!(hello["connect"]["subs"]["live:own"].is_object(), "{hello}");
    assert_eq!(asked(&endpoint, "/app/connect").pop().unwrap()["transport"], "uni_sse");
}

#[tokio::test]
async fn what_expires_is_asked_about_and_its_client_need_do_nothing() {
    let endpoint = Endpoint::start(|request, _| {
        let soon = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() + 2;
        Reply::json(&match path(request) {
            "/app/connect" => json!({ "result": { "user": "42", "expire_at": soon } }),
            "/app/subscribe" => json!({ "result": { "expire_at": soon } }),
            "/app/refresh" | "/app/sub_refresh" => json!({ "result": { "expired": true } }),
            other => panic!("{other}"),
        })
    })
    .await;
    let gateway = Gateway::start(&config(&endpoint, "")).await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.hello["expires"], Value::Null, "{}", client.hello);
    let subscribed = client.subscribe("asked:1").await;
    assert_eq!(subscribed["expires"], Value::Null, "{subscribed}");
    let closed = client.outcome(0, "any command").await.expect_err("nobody lets it stay");
    assert_eq!(closed.code, Some(3005), "expired");
    assert_eq!(asked(&endpoint, "/app/refresh")[0]["user"], "42");
}

#[tokio::test]
async fn each_failure_of_a_backend_is_what_the_policy_says() {
    // Answers by the method that the client calls, or the name of the channel.
    let endpoint = Endpoint::start(|request, _| {
        let body = body(request);
        let how = body["method"].as_str().or(body["channel"].as_str()).unwrap_or_default().to_owned();
        match how.rsplit(':').next().unwrap_or_default() {
            "500" => Reply::status(500),
            "slow" => Reply::never(),
            "large" => Reply::body(vec![b' '; 10 << 20]),
            "text" => Reply::body(b"hello".to_vec()),
            "empty" => Reply::json(&json!({})),
            "code" => Reply::json(&json!({ "error": { "code": 3000 } })),
            _ => Reply::json(&json!({ "result": { "user": "42" } })),
        }
    })
    .await;
    for (failure, code, temporary) in [("closed", 103, false), ("error", 100, true), ("open", 108, false)] {
        let config = config(&endpoint, "ask_timeout = '300ms'\nask_retries = 0\nbreaker_failures = 0")
            .replace("[ask]", &format!("[ask]\nfailure = '{failure}'"))
            .replace("[namespaces.asked]", &format!("[namespaces.asked]\nask_failure = '{failure}'"));
        let gateway = Gateway::start(&config).await;
        let mut client = Client::connect(&gateway).await;
        let mut other = Client::connect(&gateway).await;
        for how in ["500", "slow", "large", "text", "empty", "code"] {
            let begun = Instant::now();
            let id = client.command("rpc", json!({ "method": how })).await;
            let live = other.ask("subscribe", json!({ "channel": format!("live:{how}") })).await;
            assert!(live.is_ok(), "others feel nothing");
            let error = client.reply(id, "rpc").await.expect_err("it is refused");
            assert_eq!((error.code, error.temporary), (code, temporary), "{failure} {how}");
            let channel = json!({ "channel": format!("asked:{how}") });
            let error = refused(&mut client, "subscribe", channel.clone()).await;
            let expected = if failure == "error" { 100 } else { 103 };
            assert_eq!(error.code, expected, "{failure} {how}");
            assert!(begun.elapsed() < Duration::from_secs(5), "{failure} {how}");
        }
        assert!(client.ask("rpc", json!({ "method": "fine" })).await.is_ok(), "{failure}");
    }
}

#[tokio::test]
async fn a_client_meets_the_policy_when_the_backend_is_not_there() {
    let away = "http://127.0.0.1:1/app";
    for (failure, code) in [("closed", Some(103)), ("error", Some(100)), ("open", None)] {
        let config = format!("client.anonymous = true\n{ASKS}[upstreams.back]\nurl = '{away}'\nretries = 0")
            .replace("[ask]", &format!("[ask]\nfailure = '{failure}'"));
        let gateway = Gateway::start(&config).await;
        let mut client = Client::open(gateway.address()).await;
        let connected = client.ask("connect", json!({})).await;
        assert_eq!(connected.err().map(|error| error.code), code, "{failure}");
        gateway.log().wait(&["an upstream has no answer", "back", "connect"]).await;
    }
}

#[tokio::test]
async fn two_hundred_calls_of_one_client_keep_their_order_and_cost_others_nothing() {
    let endpoint = Endpoint::start(|request, before| {
        let pause = Duration::from_millis(if before.is_multiple_of(3) { 20 } else { 1 });
        Reply::json(&answer(request)).after(pause)
    })
    .await;
    let gateway = Gateway::start(&config(&endpoint, "")).await;
    let mut busy = Client::connect(&gateway).await;
    let mut other = Client::connect(&gateway).await;
    let calls: Vec<_> =
        (2..202).map(|id| json!({ "id": id, "rpc": { "method": "m", "data": id } }).to_string()).collect();
    busy.send_text(&calls.join("\n")).await;
    let mut longest = Duration::ZERO;
    for number in 0..20 {
        let begun = Instant::now();
        other.publish("live:own", json!(number)).await;
        longest = longest.max(begun.elapsed());
        assert!(other.publication("live:own").await["data"].is_number());
    }
    for id in 2..202 {
        let reply = busy.reply(id, "rpc").await.expect("an answer");
        assert_eq!(reply["data"]["echo"], id);
    }
    let numbers: Vec<_> = asked(&endpoint, "/app/rpc").iter().map(|body| body["data"].clone()).collect();
    assert_eq!(numbers, (2..202).map(Value::from).collect::<Vec<_>>(), "one after the other");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[tokio::test]
async fn an_answer_that_comes_too_late_changes_nothing() {
    let endpoint = Endpoint::start(|request, _| {
        let late = path(request) == "/app/subscribe";
        Reply::json(&answer(request)).after(Duration::from_millis(if late { 700 } else { 0 }))
    })
    .await;
    let gateway = Gateway::start(&config(&endpoint, "")).await;
    let mut gone = Client::connect(&gateway).await;
    let mut closed = Client::connect(&gateway).await;
    let mut taken_back = Client::connect(&gateway).await;
    for client in [&mut gone, &mut closed, &mut taken_back] {
        client.command("subscribe", json!({ "channel": "asked:1" })).await;
    }
    eventually("three questions", async || (asked(&endpoint, "/app/subscribe").len() == 3).then_some(()))
        .await;
    gone.close().await;
    gateway.post("/api/disconnect", &json!({ "user": "42", "client": closed.id })).await.ok();
    let id = taken_back.command("unsubscribe", json!({ "channel": "asked:1" })).await;
    let subscribe = taken_back.reply(id - 1, "subscribe").await.expect_err("taken back");
    assert_eq!(subscribe.code, 103);
    taken_back.reply(id, "unsubscribe").await.expect("done");
    // The next answer of the backend is behind the late ones.
    taken_back.ask("subscribe", json!({ "channel": "asked:2" })).await.expect("another channel");
    let presence = gateway.post("/api/presence", &json!({ "channel": "asked:1" })).await.ok();
    assert_eq!(presence["result"]["presence"], json!({}), "{presence}");
}

#[tokio::test]
async fn a_field_that_has_no_effect_is_named_in_the_log_and_a_dangerous_one_refused() {
    let endpoint = Endpoint::start(|request, _| {
        let body = body(request);
        Reply::json(&match body["channel"].as_str() {
            None => json!({ "result": { "user": "42", "caps": [{ "channels": ["x"] }] } }),
            Some("asked:filtered") => json!({ "result": { "server_tags_filter": { "op": "x" } } }),
            Some(_) => json!({ "result": {} }),
        })
    })
    .await;
    let gateway = Gateway::start(&config(&endpoint, "")).await;
    let mut client = Client::connect(&gateway).await;
    gateway.log().wait(&["fields that have no effect", "caps"]).await;
    let error = refused(&mut client, "subscribe", json!({ "channel": "asked:filtered" })).await;
    assert_eq!(error.code, 100);
    gateway.log().wait(&["the answer of an upstream is wrong", "server_tags_filter"]).await;
    client.subscribe("asked:1").await;
}

#[tokio::test]
async fn a_handshake_ends_at_its_deadline_also_while_a_backend_is_asked() {
    let endpoint = Endpoint::start(|_, _| Reply::never()).await;
    let config = format!("handshake.deadline = '1s'\n{}", config(&endpoint, "ask_timeout = '20s'"));
    let gateway = Gateway::start(&config).await;
    let mut client = Client::open(gateway.address()).await;
    client.command("connect", json!({})).await;
    client.command("rpc", json!({ "method": "m" })).await;
    let closed = within("the deadline", client.closed()).await;
    assert_eq!(closed.code, Some(3502));
    assert_eq!(endpoint.received().len(), 1, "no command ran meanwhile");
}
