//! The way down: no new clients, the old ones are asked to go at a steady pace, and the process ends in time.

use std::time::{Duration, Instant};

use gateway_tests::{Client, Endpoint, Gateway, Handshake, RawClient, Reply, Socket, eventually, within};
use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpStream;

const CONFIG: &str = "
    raw.enabled = true
    client.anonymous = true
    [namespaces.chat]
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
";

#[tokio::test]
async fn a_gateway_without_clients_ends_at_once_and_well() {
    let mut gateway = Gateway::start(CONFIG).await;
    gateway.terminate();
    assert!(gateway.exit(Duration::from_secs(3)).await.success());
    gateway.log().wait(&["stopped"]).await;
}

#[tokio::test]
async fn clients_are_asked_to_come_back_elsewhere_at_the_pace_that_was_set() {
    let mut gateway = Gateway::start(&format!("drain.closes_per_second = 20\n{CONFIG}")).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = Client::connect(&gateway).await;
        clients.push(tokio::spawn(async move {
            let closed = client.closed().await;
            (closed, Instant::now())
        }));
    }
    gateway.terminate();
    let mut times = Vec::new();
    for client in clients {
        let (closed, at) = within("a client to be closed", client).await.unwrap();
        assert_eq!((closed.code, &*closed.reason), (Some(3001), "shutdown"));
        times.push(at);
    }
    times.sort();
    let spread = times[39] - times[0];
    println!("40 clients at 20 closes per second: spread over {spread:.1?}");
    assert!((Duration::from_millis(1400)..Duration::from_millis(4000)).contains(&spread), "{spread:?}");
    assert!(gateway.exit(Duration::from_secs(3)).await.success());
}

#[tokio::test]
async fn while_it_drains_it_is_alive_but_not_ready_and_takes_nobody() {
    let mut gateway =
        Gateway::start(&format!("drain = {{ closes_per_second = 1, deadline = '20s' }}\n{CONFIG}")).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(&gateway).await;
        client.subscribe("chat:1").await;
        clients.push(client);
    }
    gateway.terminate();
    gateway.log().wait(&["draining"]).await;
    let ready = gateway.get("/health/ready").await;
    assert_eq!((ready.status, &ready.json()["status"]), (503, &json!("not ready")));
    assert_eq!(gateway.get("/health/live").await.status, 200);
    eventually("connections to be refused", async || TcpStream::connect(gateway.address()).await.err()).await;
    // Who is still there is still served. The last one to be asked to go is one of these.
    gateway.post("/api/publish", &json!({ "channel": "chat:1", "data": "last words" })).await.ok();
    let mut heard = 0;
    for client in &mut clients {
        heard += usize::from(client.heard("last words").await);
    }
    assert!(heard > 0, "nobody was served while the gateway drained");
    drop(clients);
    assert!(gateway.exit(Duration::from_secs(5)).await.success());
}

#[tokio::test]
async fn a_load_balancer_has_time_to_notice_before_the_door_closes() {
    let mut gateway = Gateway::start(&format!("drain.delay = '3s'\n{CONFIG}")).await;
    let mut before = Client::connect(&gateway).await;
    before.subscribe("chat:1").await;
    gateway.terminate();
    gateway.log().wait(&["still accepting"]).await;
    assert_eq!(gateway.get("/health/ready").await.status, 503);
    assert_eq!(gateway.get("/health/live").await.status, 200);
    // Clients that are sent here all the same are served.
    let mut late = Client::connect(&gateway).await;
    late.subscribe("chat:1").await;
    late.ask("publish", json!({ "channel": "chat:1", "data": "just in time" })).await.unwrap();
    assert_eq!(before.publication("chat:1").await["data"], "just in time");
    for mut client in [before, late] {
        assert_eq!(client.closed().await.code, Some(3001));
    }
    eventually("connections to be refused", async || TcpStream::connect(gateway.address()).await.err()).await;
    assert!(gateway.exit(Duration::from_secs(5)).await.success());
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_the_load_balancer() {
    let mut gateway = Gateway::start(&format!("drain.delay = '60s'\n{CONFIG}")).await;
    let _client = Client::connect(&gateway).await;
    gateway.terminate();
    gateway.log().wait(&["still accepting"]).await;
    gateway.terminate();
    assert_eq!(gateway.exit(Duration::from_secs(3)).await.code(), Some(5));
}

#[tokio::test]
async fn what_was_asked_before_is_answered_before_the_end() {
    let gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await;
    let mut client = RawClient::connect(&gateway).await;
    for n in 0..100 {
        client.send(&n.to_string()).await;
    }
    assert_eq!(client.text().await, "0");
    gateway.terminate();
    for n in 1..100 {
        assert_eq!(client.text().await, n.to_string());
    }
    assert_eq!(client.closed().await.code, Some(3001));
}

#[tokio::test]
async fn clients_that_do_not_go_are_cut_at_the_deadline() {
    let mut gateway =
        Gateway::start(&format!("drain = {{ closes_per_second = 1, deadline = '1s' }}\n{CONFIG}")).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Client::connect(&gateway).await);
    }
    let begun = Instant::now();
    gateway.terminate();
    let status = gateway.exit(Duration::from_secs(5)).await;
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    gateway.log().wait(&["drain deadline reached"]).await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut gateway = Gateway::start(&format!("drain.closes_per_second = 1\n{CONFIG}")).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(&gateway).await);
    }
    gateway.signal(Signal::INT);
    gateway.log().wait(&["stop signal received", "SIGINT"]).await;
    gateway.terminate();
    assert_eq!(gateway.exit(Duration::from_secs(3)).await.code(), Some(5));
}

/// The time from SIGTERM to the end of the process, which has to be a good one.
async fn down(mut gateway: Gateway, begun: Instant, what: &str) -> Duration {
    let status = gateway.exit(Duration::from_secs(15)).await;
    assert!(status.success(), "{status}");
    let took = begun.elapsed();
    println!("from SIGTERM to the end, {what}: {took:.2?}");
    took
}

/// Far from the deadline, also on a busy machine.
const SOON: Duration = Duration::from_secs(4);

#[tokio::test]
async fn handshakes_under_way_are_refused_and_hold_up_nothing() {
    let config = format!("drain.deadline = '10s'\nhandshake.deadline = '10s'\n{CONFIG}");
    let request = Handshake::to("/connection/raw").bytes();
    for (what, sent) in
        [("a client that is silent", 0), ("half a request line", 7), ("half a head", request.len() - 3)]
    {
        let gateway = Gateway::start(&config).await;
        let mut sockets = Vec::new();
        for _ in 0..20 {
            let mut socket = Socket::connect(gateway.address()).await;
            socket.send(&request[..sent]).await;
            sockets.push(socket);
        }
        // Once a later client is served these are accepted.
        RawClient::connect(&gateway).await.close().await;
        let begun = Instant::now();
        gateway.terminate();
        for socket in &mut sockets {
            let answer = socket.answer().await.unwrap_or_else(|| panic!("{what}: cut without an answer"));
            assert_eq!((answer.status, answer.header("connection")), (503, Some("close")), "{what}");
        }
        let took = down(gateway, begun, what).await;
        assert!(took < SOON, "{what}: {took:?}");
    }
}

#[tokio::test]
async fn a_handshake_that_is_completed_while_others_are_asked_to_go_is_not_forgotten() {
    let drain = "drain = { deadline = '10s', closes_per_second = 10 }\n";
    let gateway = Gateway::start(&format!("{drain}{CONFIG}")).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(RawClient::connect(&gateway).await);
    }
    let mut late = Socket::connect(gateway.address()).await;
    let request = Handshake::to("/connection/raw").bytes();
    late.send(&request[..request.len() - 2]).await;
    RawClient::connect(&gateway).await.close().await;
    let going = tokio::spawn(async move {
        for client in &mut clients {
            assert_eq!(client.closed().await.code, Some(3001));
        }
    });
    let begun = Instant::now();
    gateway.terminate();
    gateway.log().wait(&["draining"]).await;
    late.send(&request[request.len() - 2..]).await;
    let answer = late.answer().await.expect("an answer");
    match answer.status {
        503 => assert_eq!(answer.header("connection"), Some("close")),
        101 => assert_eq!(late.closed().await.code, Some(3001)),
        other => panic!("{other}"),
    }
    drop(late);
    going.await.unwrap();
    let took = down(gateway, begun, "a handshake completed meanwhile, and 20 clients at 10 a second").await;
    assert!(took < Duration::from_secs(7), "{took:?}");
}

#[tokio::test]
async fn a_client_that_is_not_admitted_yet_is_told_to_go() {
    let gateway = Gateway::start(&format!("drain.deadline = '10s'\n{CONFIG}")).await;
    let mut client = Client::open(gateway.address()).await;
    RawClient::connect(&gateway).await.close().await;
    let begun = Instant::now();
    gateway.terminate();
    assert_eq!(client.closed().await.code, Some(3001));
    drop(client);
    let took = down(gateway, begun, "a client without a connect command").await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn a_client_that_a_plugin_still_judges_is_told_to_go() {
    let endpoint = Endpoint::start(|_, _| Reply::never()).await;
    let settings = format!(
        "[config]\n[[config.issuers]]\nissuer = 'https://shop.example'\njwks_url = '{}'\n\
         [grants]\nkey-value = true\nhttp-private = ['{}']",
        endpoint.url("/keys"),
        endpoint.url(""),
    );
    let config = format!("drain.deadline = '10s'\nhandshake.deadline = '20s'\n{CONFIG}");
    let gateway = Gateway::with(&config).plugin("10-auth-jwt", "auth-jwt", &settings).start().await;
    let mut client = Client::open(gateway.address()).await;
    // {"alg":"EdDSA","kid":"a"} of https://shop.example, until 2100.
    let token = "eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwczovL3Nob3AuZXhhbXBsZSIsInN1YiI6ImV2ZSIsImV4cCI6NDEwMjQ0NDgwMH0.\
        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    client.command("connect", json!({ "token": token })).await;
    endpoint.wait_for(1).await;
    let begun = Instant::now();
    gateway.terminate();
    assert_eq!(client.closed().await.code, Some(3001));
    drop(client);
    let took = down(gateway, begun, "a connect that waits for a plugin's request").await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn whoever_is_left_at_the_deadline_has_been_told_as_well() {
    let drain = "drain = { closes_per_second = 1, deadline = '2s' }\n";
    let gateway = Gateway::start(&format!("{drain}{CONFIG}")).await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(RawClient::connect(&gateway).await);
    }
    let begun = Instant::now();
    gateway.terminate();
    for client in &mut clients {
        assert_eq!(client.closed().await.code, Some(3001));
    }
    let took = down(gateway, begun, "30 clients at one a second within 2 s").await;
    assert!(took < SOON, "{took:?}");
}
