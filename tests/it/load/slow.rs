//! Clients that do not read: they are closed, everybody else gets everything, and memory stays where it is.

use std::time::Duration;

use gateway_tests::{Client, Frame, Gateway, RawClient, Socket, within, within_time};
use serde_json::json;
use tokio::sync::watch;

const CONFIG: &str = "
    raw.enabled = true
    client.anonymous = true
    limits.outbound_bytes_max = '256KiB'
    [namespaces.feed]
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
";

/// More than the queue of a client and what the system buffers for it.
const PUBLICATIONS: usize = 2_000;
const PAYLOAD_BYTES: usize = 10_000;

/// A subscriber that reads nothing after the reply.
async fn deaf_subscriber(gateway: &Gateway) -> Socket {
    let mut socket = Socket::open(gateway.address(), "/connection/websocket").await;
    for command in ["{\"id\":1,\"connect\":{}}", "{\"id\":2,\"subscribe\":{\"channel\":\"feed:1\"}}"] {
        socket.send(&Frame::text(command).bytes()).await;
        socket.frame().await.expect("a reply");
    }
    socket
}

#[tokio::test]
async fn one_slow_reader_costs_twenty_others_nothing() {
    let gateway = Gateway::start(CONFIG).await;
    let mut deaf = deaf_subscriber(&gateway).await;
    let (mut readers, mut progress) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let mut client = Client::connect(&gateway).await;
        client.subscribe("feed:1").await;
        let (read, seen) = watch::channel(0);
        progress.push(seen);
        readers.push(tokio::spawn(async move {
            for n in 0..PUBLICATIONS {
                assert_eq!(client.publication("feed:1").await["data"]["n"], n);
                read.send_replace(n);
            }
        }));
    }
    let before = gateway.memory();
    let mut most = before;
    let mut publisher = Client::connect(&gateway).await;
    let padding = "x".repeat(PAYLOAD_BYTES);
    for n in 0..PUBLICATIONS {
        publisher.publish("feed:1", json!({ "n": n, "padding": padding })).await;
        if n % 10 == 0 {
            most = most.max(gateway.memory());
            // Not faster than the twenty read: they are not slow, whatever the machine is.
            for seen in &mut progress {
                let caught_up = seen.wait_for(|read| *read + 10 >= n);
                within("a reader to keep up", caught_up).await.expect("it goes on reading");
            }
        }
    }
    for reader in readers {
        within("a reader to have read everything", reader).await.unwrap();
    }
    let closed = deaf.closed().await;
    assert_eq!((closed.code, &*closed.reason), (Some(3008), "slow"));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_connections_closed_total{cause=\"slow\"}"), 1.0);
    let (grown, sent) = (most - before, PUBLICATIONS * PAYLOAD_BYTES / 1024);
    println!("{sent} KiB published to a reader that reads nothing: {grown} KiB more memory at most");
    assert!(grown < 16 << 10, "{grown} KiB");
}

#[tokio::test]
async fn a_client_that_takes_nothing_at_all_is_closed_in_time() {
    let gateway = Gateway::start(&format!("limits.write_timeout = '500ms'\n{CONFIG}")).await;
    let _deaf = deaf_subscriber(&gateway).await;
    let mut publisher = Client::connect(&gateway).await;
    let padding = "x".repeat(PAYLOAD_BYTES);
    // Enough to fill the system's buffers, too little to fill the queue: only the clock can tell.
    let mut sent = 0;
    let slow = "gateway_connections_closed_total{cause=\"slow\"}";
    let filled = within_time(Duration::from_secs(30), "the deaf client to be closed", async {
        while gateway.metrics().await.get(slow) == 0.0 {
            publisher.publish("feed:1", json!(padding)).await;
            sent += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    filled.await;
    assert!(sent > 10, "{sent}");
}

#[tokio::test]
async fn a_flood_of_pings_without_reading_the_pongs_is_ended() {
    let gateway = Gateway::start(CONFIG).await;
    let before = gateway.memory();
    let mut most = before;
    let mut flood = Socket::open(gateway.address(), "/connection/raw").await;
    let pings = Frame::new(Frame::PING, vec![b'x'; 125]).bytes().repeat(1000);
    let sent = flood.flood(&pings, 256 << 20, || most = most.max(gateway.memory())).await;
    println!("{} KiB of pings taken, {} KiB more memory at most", sent / 1024, most - before);
    // Nothing is answered any more, and what comes until the client has seen the reason is thrown away, not
    // too fast.
    assert!(sent < 32 << 20, "{sent} bytes of pings were taken");
    assert!(most - before < 16 << 10, "{} KiB", most - before);
    let ended = gateway.metrics().await.get("gateway_connections_closed_total{cause=\"too_many_requests\"}");
    assert_eq!(ended, 1.0);
}

#[tokio::test]
async fn a_client_that_asks_and_does_not_read_the_answers_is_not_read_either() {
    let questions = Frame::new(Frame::BINARY, vec![7; 1000]).bytes().repeat(100);
    a_flood_is_bounded("questions", &questions).await;
}

#[tokio::test]
async fn whoever_asks_for_much_at_once_gets_all_of_it_by_reading_alone() {
    // Too much for the system's buffers, so the gateway stops in the middle until the client reads.
    const QUESTIONS: usize = 60;
    let answer = "x".repeat(250_000);
    let router = format!("limits.deadline = '1s'\n[[config.rules]]\nkind = 'raw'\nreply = '{answer}'\n");
    let config = "raw.enabled = true\nclient.anonymous = true\nlimits.outbound_bytes_max = '1MiB'\n";
    let gateway = Gateway::with(config).plugin("90-router", "router", &router).start().await;
    let mut socket = Socket::open(gateway.address(), "/connection/raw").await;
    // Small enough to be read at once, so that nothing of it is left in the socket to wake anybody.
    socket.send(&Frame::text("?").bytes().repeat(QUESTIONS)).await;
    let mut taken = 0.0;
    within("the gateway to wait for its reader", async {
        loop {
            let before = taken;
            taken = gateway.metrics().await.get("gateway_messages_received_total");
            if before > 0.0 && taken == before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    assert!(taken < QUESTIONS as f64, "the system took all {taken} answers: this test has become empty");
    for number in 1..=QUESTIONS {
        let frame = socket.frame().await.unwrap_or_else(|| panic!("closed before answer {number}"));
        assert_eq!(frame.payload.len(), answer.len() + 2, "answer {number}");
    }
}

async fn a_flood_is_bounded(what: &str, block: &[u8]) {
    let gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await;
    let before = gateway.memory();
    let mut most = before;
    let mut flood = Socket::open(gateway.address(), "/connection/raw").await;
    let sent = flood.flood(block, 256 << 20, || most = most.max(gateway.memory())).await;
    println!("{} KiB of {what} taken, {} KiB more memory at most", sent / 1024, most - before);
    // The system has buffers too, of some megabytes on each side.
    assert!((1 << 20..64 << 20).contains(&sent), "{sent} bytes of {what} were taken");
    assert!(most - before < 16 << 10, "{} KiB", most - before);
    let slow = gateway.metrics().await.get("gateway_connections_closed_total{cause=\"slow\"}");
    assert_eq!(slow, 0.0, "it was to wait for its reader, and not to be closed");
    assert_eq!(RawClient::connect(&gateway).await.ask("x").await, "x");
}
