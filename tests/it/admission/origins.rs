//! Which web pages may connect: those that are listed, letter by letter, and no other.

use gateway_tests::{Gateway, Handshake, RawClient, Socket};

const CONFIG: &str = "
    raw.enabled = true
    client.anonymous = true
    handshake.origins = ['https://app.example', 'http://localhost:3000']
";

async fn status(gateway: &Gateway, path: &str, headers: &[&str]) -> u16 {
    let mut socket = Socket::connect(gateway.address()).await;
    let handshake = headers.iter().fold(Handshake::to(path), |handshake, header| handshake.with(header));
    socket.send(&handshake.bytes()).await;
    socket.answer().await.map_or(0, |answer| answer.status)
}

#[tokio::test]
async fn the_operator_reads_which_origin_was_refused_and_not_for_every_page() {
    let gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await;
    let long = format!("Origin: https://{}.example", "x".repeat(4_000));
    for _ in 0..20 {
        assert_eq!(status(&gateway, "/connection/raw", &["Origin: https://other.example"]).await, 403);
        assert_eq!(status(&gateway, "/connection/raw", &[&long]).await, 403);
    }
    let line = gateway.log().wait(&["page refused", "handshake.origins"]).await;
    assert_eq!(&*line.field("origin"), "https://other.example", "{}", line.text);
    let lines = gateway.log().matching(&["page refused"]);
    assert!(lines.len() <= 2 && lines.iter().all(|line| line.text.len() < 1_000), "{} lines", lines.len());
}

#[tokio::test]
async fn only_listed_origins_are_accepted() {
    let gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await;
    for (origin, expected) in [
        ("https://app.example", 101),
        ("http://localhost:3000", 101),
        ("null", 403),
        ("", 403),
        ("*", 403),
        ("https://", 403),
        ("file://", 403),
        // Another scheme or port.
        ("http://app.example", 403),
        ("wss://app.example", 403),
        ("https://app.example:443", 403),
        ("https://app.example:8443", 403),
        ("http://localhost", 403),
        ("http://localhost:30000", 403),
        ("http://localhost:3001", 403),
        // Names that begin or end with a listed one.
        ("https://app.example.evil.example", 403),
        ("https://app.examples", 403),
        ("https://evilapp.example", 403),
        ("https://evil-app.example", 403),
        ("https://sub.app.example", 403),
        ("https://app.example.", 403),
        ("https://app_example", 403),
        ("https://appXexample", 403),
        // Other places for a listed one.
        ("https://app.example@evil.example", 403),
        ("https://evil.example@app.example", 403),
        ("https://evil.example/https://app.example", 403),
        ("https://evil.example?https://app.example", 403),
        ("https://evil.example#https://app.example", 403),
        ("https://app.example/", 403),
        ("https://app.example/path", 403),
        ("https://app.example, https://evil.example", 403),
        ("https://evil.example https://app.example", 403),
        // Browsers send lower case.
        ("https://APP.example", 403),
        ("HTTPS://app.example", 403),
        ("https://xn--app-8cd.example", 403),
    ] {
        for path in ["/connection/websocket", "/connection/raw"] {
            assert_eq!(
                status(&gateway, path, &[&format!("Origin: {origin}")]).await,
                expected,
                "{origin:?} at {path}"
            );
        }
    }
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_connections_refused_total{reason=\"origin\"}"), 64.0);
}

#[tokio::test]
async fn two_origins_are_one_too_many() {
    let gateway = Gateway::start(CONFIG).await;
    let (good, evil) = ("Origin: https://app.example", "Origin: https://evil.example");
    for headers in [[good, evil], [evil, good], [good, good]] {
        assert_eq!(status(&gateway, "/connection/raw", &headers).await, 403, "{headers:?}");
    }
}

#[tokio::test]
async fn programs_that_send_no_origin_are_not_concerned() {
    let gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await;
    assert_eq!(RawClient::connect(&gateway).await.ask("x").await, "x");
}

#[tokio::test]
async fn out_of_the_box_every_page_is_kept_out() {
    let gateway = Gateway::start("client.anonymous = true").await;
    for origin in ["https://app.example", "http://localhost:8000", "http://127.0.0.1:8000", "null"] {
        let header = format!("Origin: {origin}");
        assert_eq!(status(&gateway, "/connection/websocket", &[&header]).await, 403, "{origin}");
    }
    let own = format!("Origin: http://{}", gateway.address());
    assert_eq!(status(&gateway, "/connection/websocket", &[&own]).await, 403);
}

#[tokio::test]
async fn a_star_lets_every_page_in() {
    let gateway = Gateway::start("client.anonymous = true\nhandshake.origins = ['*']").await;
    for origin in ["https://app.example", "null", "file://", "nonsense"] {
        let header = format!("Origin: {origin}");
        assert_eq!(status(&gateway, "/connection/websocket", &[&header]).await, 101, "{origin}");
    }
}

#[tokio::test]
async fn pages_of_applications_can_be_listed() {
    let listed = [
        "file://",
        "capacitor://localhost",
        "ionic://localhost",
        "app://.",
        "chrome-extension://abcdefghijklmnop",
        "safari-web-extension://6A0B6F33-1C5D-4A57",
    ];
    let gateway = Gateway::start(&format!("client.anonymous = true\nhandshake.origins = {listed:?}")).await;
    for (origin, expected) in listed.map(|origin| (origin, 101)).into_iter().chain([
        ("null", 403),
        ("file:///", 403),
        ("app://evil", 403),
        ("https://localhost", 403),
    ]) {
        let header = format!("Origin: {origin}");
        assert_eq!(status(&gateway, "/connection/websocket", &[&header]).await, expected, "{origin}");
    }
}
