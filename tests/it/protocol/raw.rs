//! Raw mode: an application's own messages go to the plugins as they are, and only the plugins decide.

use gateway_tests::{Client, Closed, Frame, Gateway, Handshake, RawClient, Socket, token};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

const RAW: &str = "raw.enabled = true\nclient.anonymous = true\n";

#[tokio::test]
async fn text_comes_back_as_text_and_binary_as_binary() {
    let gateway = Gateway::with(RAW).plugin("90-echo", "echo", "").start().await;
    let mut client = RawClient::connect(&gateway).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    for message in [
        Message::text("hello"),
        Message::text(""),
        Message::text("{}"),
        Message::text("ünï\u{0}cödé\n"),
        Message::binary(every_byte),
        Message::binary(vec![]),
        Message::binary(vec![0xff; 60_000]),
        Message::text("x".repeat(65_536)),
    ] {
        client.send_message(message.clone()).await;
        assert_eq!(client.message().await, message);
    }
}

#[tokio::test]
async fn raw_mode_is_off_unless_the_configuration_enables_it() {
    let gateway = Gateway::start("client.anonymous = true").await;
    assert_eq!(RawClient::open(gateway.address(), "/connection/raw", &[]).await.unwrap_err(), 404);
}

#[tokio::test]
async fn what_no_plugin_takes_has_no_answer() {
    let gateway = Gateway::with(RAW).start().await;
    let mut client = RawClient::connect(&gateway).await;
    client.send("anybody?").await;
    let swapped = gateway.swap(|folder| folder.plugin("90-echo", &gateway_tests::wasm("echo"), "")).await;
    assert_eq!(swapped.field("generation"), "1");
    assert_eq!(client.ask("now?").await, "now?");
}

#[tokio::test]
async fn a_bearer_token_says_who_the_client_is() {
    let router = r#"
        [[config.rules]]
        kind = "raw"
        reply = "{user}"
    "#;
    let gateway = Gateway::with("raw.enabled = true").plugin("10-auth-jwt", "auth-jwt", &token::settings());
    let gateway = gateway.plugin("90-router", "router", router).start().await;
    let mut ann = RawClient::connect_with(&gateway, &token::of("ann")).await;
    assert_eq!(ann.ask("who am I?").await, "\"ann\"");
    let mut nobody = RawClient::connect(&gateway).await;
    assert_eq!(nobody.closed().await.code, Some(3501));
    let mut forger = RawClient::connect_with(&gateway, "nonsense").await;
    assert_eq!(forger.closed().await.code, Some(3500));
}

/// Answers each message with the user of its connection.
async fn who_am_i(config: &str) -> Gateway {
    let router = "[[config.rules]]\nkind = 'raw'\nreply = '{user}'";
    let gateway = Gateway::with(config).plugin("10-auth-jwt", "auth-jwt", &token::settings());
    gateway.plugin("90-router", "router", router).start().await
}

#[tokio::test]
async fn a_page_sends_its_token_as_a_subprotocol_and_gets_another_one_announced() {
    let gateway = who_am_i("raw.enabled = true").await;
    let offered = format!("chat.v1, bearer.{}", token::of("ann"));
    let with = |offered: &str| {
        Handshake::to("/connection/raw").with(&format!("Sec-WebSocket-Protocol: {offered}")).bytes()
    };
    let mut socket = Socket::connect(gateway.address()).await;
    socket.send(&with(&offered)).await;
    let answer = socket.answer().await.expect("an answer");
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("chat.v1")));
    socket.send(&Frame::text("who am I?").bytes()).await;
    assert_eq!(socket.frame().await.expect("a reply").payload, b"\"ann\"");
    let mut forger = Socket::connect(gateway.address()).await;
    forger.send(&with("chat.v1, bearer.nonsense")).await;
    assert_eq!(forger.answer().await.expect("an answer").status, 101);
    assert_eq!(forger.closed().await.code, Some(3500));
    for (offered, words) in
        [("bearer.x", "another subprotocol"), ("a, bearer.x, bearer.y", "at most one token")]
    {
        let mut refused = Socket::connect(gateway.address()).await;
        refused.send(&with(offered)).await;
        let answer = refused.answer().await.expect("an answer");
        assert!(answer.status == 400 && answer.text().contains(words), "{}", answer.text());
    }
}

#[tokio::test]
async fn the_first_message_may_be_the_token() {
    let gateway = who_am_i("raw.enabled = true\nraw.token_in_first_message = true").await;
    let mut ann = RawClient::connect(&gateway).await;
    ann.send(&token::of("ann")).await;
    assert_eq!(ann.ask("who am I?").await, "\"ann\"");
    let mut bob = RawClient::connect_with(&gateway, &token::of("bob")).await;
    assert_eq!(bob.ask("who am I?").await, "\"bob\"", "a handshake with a token needs no such message");
    let mut forger = RawClient::connect(&gateway).await;
    forger.send("nonsense").await;
    assert_eq!(forger.closed().await.code, Some(3500));
    let mut binary = RawClient::connect(&gateway).await;
    binary.send_message(Message::binary(vec![0xff])).await;
    assert_eq!(binary.closed().await.code, Some(3501));
}

#[tokio::test]
async fn a_plugin_can_end_a_connection_in_its_own_words() {
    let router = r#"
        [[config.rules]]
        kind = "raw"
        field = "bye"
        equals = true
        deny = { code = 4321, reason = "as you like" }
    "#;
    let gateway =
        Gateway::with(RAW).plugin("50-router", "router", router).plugin("90-echo", "echo", "").start().await;
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("{\"bye\":false}").await, "{\"bye\":false}");
    client.send("{\"bye\":true}").await;
    assert_eq!(client.closed().await, Closed { code: Some(4321), reason: "as you like".into() });
}

#[tokio::test]
async fn a_client_that_closes_gets_its_close_back() {
    let gateway = Gateway::with(RAW).plugin("90-echo", "echo", "").start().await;
    let mut client = RawClient::connect(&gateway).await;
    let frame =
        tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 4000.into(), reason: "done".into() };
    client.send_message(Message::Close(Some(frame))).await;
    assert_eq!(client.closed().await, Closed { code: Some(4000), reason: "done".into() });
}

#[tokio::test]
async fn what_a_raw_client_publishes_others_receive_in_their_protocol() {
    let config = format!("{RAW}[namespaces.feed]\nallow_subscribe = 'anyone'");
    let router = r#"
        [[config.rules]]
        kind = "raw"
        fan_out = ["feed:1"]
    "#;
    let gateway = Gateway::with(&config).plugin("90-router", "router", router).start().await;
    let mut subscriber = Client::connect(&gateway).await;
    subscriber.subscribe("feed:1").await;
    let mut sensor = RawClient::connect(&gateway).await;
    for (message, data) in [
        (Message::text("{ \"t\": 21.5 }"), json!({ "t": 21.5 })),
        (Message::text("not JSON"), json!("not JSON")),
        (Message::binary(vec![0xff, 0x00]), json!("/wA=")),
    ] {
        sensor.send_message(message).await;
        assert_eq!(subscriber.publication("feed:1").await["data"], data);
    }
}
