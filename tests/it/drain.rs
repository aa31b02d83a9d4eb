//! The way down: no new clients, the old ones are asked to go at a steady pace, and the process ends in time.

use std::time::{Duration, Instant};

use gateway_tests::{Client, Gateway, RawClient, eventually, within};
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
    gateway.log().wait(&["cut off at the drain deadline"]).await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut gateway = Gateway::start(&format!("drain.closes_per_second = 1\n{CONFIG}")).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(&gateway).await);
    }
    gateway.signal(Signal::INT);
    gateway.log().wait(&["asked to stop", "SIGINT"]).await;
    gateway.terminate();
    assert_eq!(gateway.exit(Duration::from_secs(3)).await.code(), Some(5));
}
