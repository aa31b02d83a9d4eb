//! Who is admitted, as whom, and for how long.

use std::time::Duration;

use gateway_tests::{Client, Closed, Gateway, token};
use serde_json::json;

const CHAT: &str = "
    [namespaces.chat]
    presence = true
    allow_subscribe = 'anyone'
    allow_publish = 'users'
    allow_presence = 'anyone'
";

async fn with_tokens(config: &str) -> Gateway {
    Gateway::with(config).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await
}

#[tokio::test]
async fn a_client_without_a_token_is_admitted_where_that_is_allowed() {
    let gateway = Gateway::start("client.anonymous = true").await;
    let client = Client::connect(&gateway).await;
    assert_eq!((&client.hello["ping"], &client.hello["pong"]), (&json!(25), &json!(true)));
    assert!(client.hello["version"].as_str().is_some_and(|version| version.starts_with("gateway ")));
    assert_eq!(client.id.len(), 36);
    assert!(client.hello.get("expires").is_none());
}

#[tokio::test]
async fn a_client_without_a_token_is_turned_away_where_it_is_not() {
    let gateway = with_tokens("").await;
    let mut client = Client::open(gateway.address()).await;
    client.command("connect", json!({})).await;
    assert_eq!(client.closed().await.code, Some(3501));
}

#[tokio::test]
async fn a_token_says_who_the_client_is() {
    let gateway = with_tokens(CHAT).await;
    let token = token::with("ann", json!({ "info": { "name": "Ann" } }));
    let mut ann = Client::connect_with(&gateway, json!({ "token": token })).await;
    assert_eq!(ann.hello["expires"], true);
    assert!(ann.hello["ttl"].as_u64().is_some_and(|ttl| (3590..=3601).contains(&ttl)), "{}", ann.hello);
    ann.subscribe("chat:1").await;
    let presence = ann.ask("presence", json!({ "channel": "chat:1" })).await.unwrap();
    let info = json!({ "user": "ann", "client": ann.id, "conn_info": { "name": "Ann" } });
    assert_eq!(presence["presence"][&ann.id], info);
}

#[tokio::test]
async fn a_token_that_is_not_right_ends_the_connection_for_good() {
    let gateway = with_tokens("").await;
    let claims = json!({ "sub": "ann", "exp": token::in_time(Duration::from_secs(60)) });
    let foreign = token::sign(&json!({ "alg": "HS256" }), &claims, "another secret of thirty-two bytes..");
    let unsigned = token::sign(&json!({ "alg": "none" }), &claims, token::SECRET);
    for token in [foreign, unsigned, "nonsense".to_owned(), token::of("ann") + "x"] {
        let mut client = Client::open(gateway.address()).await;
        client.command("connect", json!({ "token": token })).await;
        assert_eq!(client.closed().await.code, Some(3500), "{token}");
    }
}

#[tokio::test]
async fn a_token_without_a_plugin_that_reads_it_ends_the_connection() {
    let gateway = Gateway::start("client.anonymous = true").await;
    let mut client = Client::open(gateway.address()).await;
    client.command("connect", json!({ "token": token::of("ann") })).await;
    assert_eq!(
        client.closed().await,
        Closed { code: Some(3500), reason: "no plugin accepts this token".into() }
    );
}

#[tokio::test]
async fn an_expired_token_is_told_apart_so_that_the_client_fetches_a_new_one() {
    let gateway = with_tokens("handshake.deadline = '1s'").await;
    let mut client = Client::open(gateway.address()).await;
    let expired = token::with("ann", json!({ "exp": token::in_time(Duration::ZERO) - 10 }));
    let refused = client.ask("connect", json!({ "token": expired })).await.unwrap_err();
    assert_eq!((refused.code, refused.temporary), (109, false));
    // Nothing else is done for this connection.
    client.command("connect", json!({ "token": token::of("ann") })).await;
    assert_eq!(client.closed().await.code, Some(3502));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_in_time() {
    let gateway = Gateway::start("client.anonymous = true\nhandshake.deadline = '300ms'").await;
    let mut client = Client::open(gateway.address()).await;
    assert_eq!(client.closed().await, Closed { code: Some(3502), reason: "stale".into() });
}

#[tokio::test]
async fn a_connection_ends_with_its_token_unless_it_is_refreshed() {
    let gateway = with_tokens("client.expiry_grace = '0s'").await;
    let short = token::with("ann", json!({ "exp": token::in_time(Duration::from_secs(2)) }));
    let mut lazy = Client::connect_with(&gateway, json!({ "token": short })).await;
    let mut diligent = Client::connect_with(&gateway, json!({ "token": short })).await;
    let refreshed = diligent.ask("refresh", json!({ "token": token::of("ann") })).await.unwrap();
    assert_eq!((&refreshed["expires"], &refreshed["client"]), (&json!(true), &json!(diligent.id)));
    assert!(refreshed["ttl"].as_u64().is_some_and(|ttl| ttl > 3500), "{refreshed}");
    assert_eq!(lazy.closed().await.code, Some(3005));
    diligent.ask("refresh", json!({ "token": token::of("ann") })).await.unwrap();
}

#[tokio::test]
async fn a_refresh_does_not_change_who_the_client_is() {
    let gateway = with_tokens("").await;
    let mut client = Client::connect_as(&gateway, "ann").await;
    let expired = token::with("ann", json!({ "exp": token::in_time(Duration::ZERO) - 10 }));
    assert_eq!(client.ask("refresh", json!({ "token": expired })).await.unwrap_err().code, 109);
    client.command("refresh", json!({ "token": token::of("bob") })).await;
    assert_eq!(client.closed().await.code, Some(3500));
}

#[tokio::test]
async fn a_token_may_name_channels_to_be_subscribed_to() {
    let gateway = with_tokens(CHAT).await;
    let token = token::with("ann", json!({ "channels": ["chat:1", "chat:2"] }));
    let mut ann = Client::connect_with(&gateway, json!({ "token": token })).await;
    assert_eq!(ann.hello["subs"], json!({ "chat:1": {}, "chat:2": {} }));
    let mut bob = Client::connect_as(&gateway, "bob").await;
    bob.publish("chat:2", json!("hello")).await;
    assert_eq!(ann.publication("chat:2").await["data"], "hello");
}

#[tokio::test]
async fn a_channel_that_cannot_be_had_ends_the_connection_and_the_log_says_why() {
    let gateway = with_tokens(CHAT).await;
    let token = token::with("ann", json!({ "channels": ["chat:1", "nosuch:1"] }));
    for _ in 0..20 {
        let mut ann = Client::open(gateway.address()).await;
        ann.command("connect", json!({ "token": token })).await;
        let reason = "the server cannot subscribe to nosuch:1: unknown channel".into();
        assert_eq!(ann.closed().await, Closed { code: Some(3004), reason });
    }
    let line = gateway.log().wait(&["plugin effect refused", "unknown channel"]).await;
    assert_eq!((line.level.as_str(), line.field("address").as_str()), ("WARN", "nosuch:1"));
    assert_eq!(gateway.metrics().await.get("gateway_effects_refused_total"), 20.0);
    let lines = gateway.log().matching(&["plugin effect refused"]).len();
    assert!(lines <= 12, "{lines} lines for 20 clients");
}

#[tokio::test]
async fn a_client_stays_while_it_answers_pings() {
    let gateway =
        Gateway::start("client = { anonymous = true, ping_interval = '1s', pong_timeout = '500ms' }").await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..3 {
        client.ping().await;
    }
    client.ignore_pings();
    assert_eq!(client.closed().await, Closed { code: Some(3012), reason: "no pong".into() });
    assert_eq!(client.pings, 4);
}
