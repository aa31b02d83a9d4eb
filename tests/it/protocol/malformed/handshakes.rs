//! Requests that are no handshake, or not a good one.

use gateway_tests::{Handshake, Socket};

use super::{Verdicts, gateway, still_serves};

const PATH: &str = "/connection/websocket";
const KEY: &str = "Sec-WebSocket-Key";
const VERSION: &str = "Sec-WebSocket-Version";

fn good() -> Handshake {
    Handshake::to(PATH)
}

/// What is wrong, what is sent, and the status; 0 for a connection that is closed without an answer.
fn cases() -> Vec<(String, Vec<u8>, u16)> {
    let mut cases: Vec<(String, Vec<u8>, u16)> = Vec::new();
    let mut case = |what: &str, bytes: Vec<u8>, status: u16| cases.push((what.to_owned(), bytes, status));
    case("nothing", good().bytes(), 101);

    for method in ["POST", "PUT", "OPTIONS", "DELETE", "PATCH", "TRACE", "get"] {
        case(method, good().line(&format!("{method} {PATH} HTTP/1.1")).bytes(), 405);
    }
    for path in [
        "/",
        "/connection",
        "/connection/",
        "/connection/websocket/",
        "//connection/websocket",
        "/connection//websocket",
        "/connection/WebSocket",
        "/connection%2Fwebsocket",
        "/connection/websocket%00",
        "/x/../connection/websocket",
        "/connection/webtransport",
        "/connection/uni_sse",
        "/metrics",
        "/health/live",
        "/api/info",
    ] {
        case(path, Handshake::to(path).bytes(), 404);
    }
    case("a query", Handshake::to("/connection/websocket?a=b&c").bytes(), 101);

    case("no Upgrade", good().without("Upgrade").bytes(), 426);
    case("another Upgrade", good().replace("Upgrade: h2c").bytes(), 426);
    case("an Upgrade that contains the word", good().replace("Upgrade: websockets").bytes(), 426);
    case("an Upgrade in other letters", good().replace("Upgrade: h2c, WebSocket").bytes(), 101);
    case("no Connection", good().without("Connection").bytes(), 400);
    case("another Connection", good().replace("Connection: keep-alive").bytes(), 400);
    case("a longer Connection", good().replace("Connection: keep-alive, upgrade").bytes(), 101);
    case("HTTP/1.0", good().line(&format!("GET {PATH} HTTP/1.0")).bytes(), 400);
    case("no Host", good().without("Host").bytes(), 400);
    case("two Hosts", good().with("Host: another.example").bytes(), 400);

    case("no version", good().without(VERSION).bytes(), 426);
    for version in ["0", "7", "8", "12", "14", "013", "13, 8", "", "x"] {
        case(&format!("version {version:?}"), good().replace(&format!("{VERSION}: {version}")).bytes(), 426);
    }
    case("no key", good().without(KEY).bytes(), 400);
    case("two keys", good().with(&format!("{KEY}: dGhlIHNhbXBsZSBub25jZQ==")).bytes(), 400);
    for key in [
        "",
        "AA==",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZTE=",
        "dGhlIHNhbXBsZSBub25jZTEyMw==",
        "dGhlIHNhbXBsZSBub25j!!==",
        "the sample nonce",
    ] {
        case(&format!("key {key:?}"), good().replace(&format!("{KEY}: {key}")).bytes(), 400);
    }
    // The last four bits of a key mean nothing (RFC 6455, 4.1 has such an example).
    for key in ["AQIDBAUGBwgJCgsMDQ4PEC==", "dGhlIHNhbXBsZSBub25jZR==", "//////////////////////=="] {
        case(&format!("key {key:?}"), good().replace(&format!("{KEY}: {key}")).bytes(), 101);
    }
    case("two versions", good().with(&format!("{VERSION}: 13")).bytes(), 426);
    case(
        "two credentials",
        good().with("Authorization: Bearer a").with("Authorization: Basic b").bytes(),
        400,
    );
    let mut credential = good().with("Authorization: Bearer ?").bytes();
    let mark = credential.iter().position(|b| *b == b'?').expect("it was put there");
    credential[mark] = 0xff;
    case("a credential that is no text", credential, 400);
    case(
        "two origins",
        good().with("Origin: http://a.example").with("Origin: http://b.example").bytes(),
        403,
    );

    // Not HTTP, or HTTP that others might understand differently.
    case("no HTTP at all", b"hello?\r\n\r\n".to_vec(), 400);
    case("bytes", (0..=255).collect(), 400);
    case("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400);
    case("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 0);
    case("HTTP/3 on paper", good().line(&format!("GET {PATH} HTTP/3.0")).bytes(), 400);
    case("no path", good().line("GET HTTP/1.1").bytes(), 400);
    case("a relative path", good().line("GET connection/websocket HTTP/1.1").bytes(), 400);
    case("a space in the path", good().line("GET /connection/ websocket HTTP/1.1").bytes(), 400);
    case("a header without a colon", good().with("Nonsense").bytes(), 400);
    case("a header without a name", good().with(": nonsense").bytes(), 400);
    case("a space before a colon", good().with("X-A : b").bytes(), 400);
    case("a space in a name", good().with("X A: b").bytes(), 400);
    case("a folded header", good().with("X-A: b\r\n c").bytes(), 400);
    case("a NUL in a header", good().with("X-A: b\0c").bytes(), 400);
    case("a lone CR in a header", good().with("X-A: b\rc").bytes(), 400);
    case("a negative length", good().with("Content-Length: -1").bytes(), 400);
    case("two lengths", good().with("Content-Length: 1").with("Content-Length: 2").bytes(), 400);
    case("a length that is no number", good().with("Content-Length: 0x10").bytes(), 400);
    case("a large header", good().with(&format!("X-A: {}", "b".repeat(64 << 10))).bytes(), 431);
    case("a large path", Handshake::to(&format!("/{}", "a".repeat(64 << 10))).bytes(), 431);
    let many = (0..500).fold(good(), |handshake, n| handshake.with(&format!("X-{n}: {n}")));
    case("many headers", many.bytes(), 431);
    cases
}

#[tokio::test]
async fn every_bad_handshake_gets_its_status() {
    let gateway = gateway().await;
    let mut verdicts = Verdicts::default();
    for (what, bytes, expected) in cases() {
        let mut socket = Socket::connect(gateway.address()).await;
        socket.send(&bytes).await;
        let status = socket.answer().await.map_or(0, |answer| answer.status);
        verdicts.expect(&what, &status, &expected);
        still_serves(&gateway).await;
    }
    verdicts.all_of(70);
}

#[tokio::test]
async fn a_subprotocol_is_answered_as_it_was_offered() {
    let gateway = gateway().await;
    for (offered, answered) in [
        (&["centrifuge-json"][..], Some("centrifuge-json")),
        (&["CENTRIFUGE-JSON"], Some("CENTRIFUGE-JSON")),
        (&["chat, Centrifuge-Json"], Some("Centrifuge-Json")),
        (&["chat", "centrifuge-protobuf", "centrifuge-json"], Some("centrifuge-protobuf")),
        (&["ch\u{e4}t", "centrifuge-json"], Some("centrifuge-json")),
        (&["chat"], None),
        (&[], None),
    ] {
        let handshake = offered
            .iter()
            .fold(good(), |handshake, offered| handshake.with(&format!("Sec-WebSocket-Protocol: {offered}")));
        let mut socket = Socket::connect(gateway.address()).await;
        socket.send(&handshake.bytes()).await;
        let answer = socket.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, answered), "{offered:?}");
    }
}

#[tokio::test]
async fn a_handshake_may_come_in_pieces_and_with_the_first_frame_behind_it() {
    let gateway = gateway().await;
    let mut socket = Socket::connect(gateway.address()).await;
    for byte in good().bytes() {
        socket.send(&[byte]).await;
    }
    assert_eq!(socket.answer().await.map(|answer| answer.status), Some(101));

    let mut socket = Socket::connect(gateway.address()).await;
    let mut both = Handshake::to("/connection/raw").bytes();
    both.extend(gateway_tests::Frame::text("early").bytes());
    socket.send(&both).await;
    assert_eq!(socket.answer().await.map(|answer| answer.status), Some(101));
    assert_eq!(socket.frame().await.unwrap().payload, b"early");
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let gateway = gateway().await;
    for (handshake, words) in [
        (good().without("Upgrade"), "`Upgrade: websocket` is missing"),
        (good().without("Connection"), "does a proxy in between drop it?"),
        (good().with("Origin: http://a.example"), "handshake.origins"),
        (Handshake::to("/"), "clients connect to /connection/websocket"),
    ] {
        let mut socket = Socket::connect(gateway.address()).await;
        socket.send(&handshake.bytes()).await;
        let answer = socket.answer().await.unwrap();
        assert!(answer.text().contains(words), "{}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}
