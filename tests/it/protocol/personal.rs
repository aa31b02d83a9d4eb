//! The channel of a user, to which the gateway subscribes each client when it connects. The published client
//! libraries use it in `clients.rs`, over every transport and in every encoding.

use gateway_tests::{Client, Closed, Frame, Gateway, Redis, Socket, Stream, eventually, token};
use serde_json::{Value, json};

/// The address of the user is the channel.
const ADDRESS: &str = "
    client.anonymous = true
    client.personal_channel = true
    unidirectional.enabled = true
    [channel]
    history_size = 10
    recovery = true
    presence = true
    [namespaces.open]
    allow_subscribe = 'anyone'
";

/// The channel is in a namespace.
const INBOX: &str = "
    client.personal_channel = true
    client.personal_channel_namespace = 'inbox'
    [namespaces.inbox]
    history_size = 10
    recovery = true
";

async fn gateway(config: &str) -> Gateway {
    Gateway::with(config).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await
}

async fn publish(gateway: &Gateway, channel: &str, data: Value) {
    gateway.post("/api/publish", &json!({ "channel": channel, "data": data })).await.ok();
}

/// A connect command of ann that recovers the channel from the position of an earlier connect reply.
fn returning(hello: &Value, channel: &str, offset: u64) -> Value {
    let since = json!({ "recover": true, "epoch": hello["subs"][channel]["epoch"], "offset": offset });
    json!({ "token": token::of("ann"), "subs": { channel: since } })
}

fn payloads(subscribed: &Value) -> Vec<Value> {
    let publications = subscribed["publications"].as_array().into_iter().flatten();
    publications.map(|publication| publication["data"].clone()).collect()
}

#[tokio::test]
async fn all_connections_of_a_user_have_it_and_no_other_has() {
    let gateway = gateway(ADDRESS).await;
    let mut at_home = Client::connect_as(&gateway, "ann").await;
    let mut on_the_way = Client::connect_as(&gateway, "ann").await;
    let mut bob = Client::connect_as(&gateway, "bob").await;
    let nobody = Client::connect(&gateway).await;
    for ann in [&at_home, &on_the_way] {
        let subscribed = &ann.hello["subs"]["#ann"];
        assert_eq!((&subscribed["recoverable"], &subscribed["positioned"]), (&json!(true), &json!(true)));
        assert_eq!(ann.hello["subs"].as_object().map(|subs| subs.len()), Some(1), "{}", ann.hello);
    }
    assert!(bob.hello["subs"]["#bob"].is_object() && nobody.hello.get("subs").is_none());
    publish(&gateway, "#ann", json!("hi")).await;
    publish(&gateway, "#bob", json!("ho")).await;
    for (client, channel, data) in
        [(&mut at_home, "#ann", "hi"), (&mut on_the_way, "#ann", "hi"), (&mut bob, "#bob", "ho")]
    {
        let publication = client.publication(channel).await;
        assert_eq!((&publication["data"], &publication["offset"]), (&json!(data), &json!(1)));
    }
    let members = gateway.post("/api/presence", &json!({ "channel": "#ann" })).await.ok();
    assert_eq!(members["result"]["presence"].as_object().map(|all| all.len()), Some(2), "{members}");
    let refused = bob.ask("subscribe", json!({ "channel": "#ann" })).await.unwrap_err();
    assert_eq!(refused.code, 103, "what is said to ann is for ann");
}

#[tokio::test]
async fn what_a_user_missed_comes_with_the_next_connect_reply() {
    for (config, channel) in [(ADDRESS, "#ann"), (INBOX, "inbox:#ann")] {
        let gateway = gateway(config).await;
        let mut ann = Client::connect_as(&gateway, "ann").await;
        publish(&gateway, channel, json!(1)).await;
        assert_eq!(ann.publication(channel).await["offset"], 1);
        let hello = ann.hello.clone();
        ann.close().await;
        for n in 2..5 {
            publish(&gateway, channel, json!(n)).await;
        }
        let mut ann = Client::connect_with(&gateway, returning(&hello, channel, 1)).await;
        let subscribed = &ann.hello["subs"][channel];
        assert_eq!(
            (&subscribed["recovered"], payloads(subscribed)),
            (&json!(true), vec![2.into(), 3.into(), 4.into()])
        );
        publish(&gateway, channel, json!(5)).await;
        assert_eq!(ann.publication(channel).await["offset"], 5);
    }
}

#[tokio::test]
async fn a_client_that_only_listens_has_it_and_recovers() {
    let gateway = gateway(ADDRESS).await;
    let at = gateway.address();
    let bearer = format!("Authorization: Bearer {}", token::of("ann"));
    for path in ["/connection/uni_sse", "/connection/uni_http_stream"] {
        let mut stream = Stream::get(at, path, &[&bearer], "").await.expect("a stream");
        let hello = stream.message().await.expect("a push")["connect"].clone();
        let offset = hello["subs"]["#ann"]["offset"].as_u64().unwrap_or(0);
        publish(&gateway, "#ann", json!("seen")).await;
        let push = stream.next().await.expect("a push");
        assert_eq!((&push["channel"], &push["pub"]["data"]), (&json!("#ann"), &json!("seen")), "{path}");
        drop(stream);
        publish(&gateway, "#ann", json!("missed")).await;
        let connect = returning(&hello, "#ann", offset + 1).to_string();
        let mut stream = Stream::get(at, path, &[], &connect).await.expect("a stream");
        let hello = stream.message().await.expect("a push");
        assert_eq!(payloads(&hello["connect"]["subs"]["#ann"]), ["missed"], "{path}: {hello}");
    }
    let mut socket = Socket::open(at, "/connection/uni_websocket").await;
    socket.send(&Frame::text(&json!({ "token": token::of("ann") }).to_string()).bytes()).await;
    let hello = socket.frame().await.expect("a push");
    assert!(String::from_utf8_lossy(&hello.payload).contains(r##""subs":{"#ann":{"##), "{hello:?}");
}

#[tokio::test]
async fn a_user_recovers_at_another_gateway_what_was_sent_at_a_third() {
    let redis = Redis::start().await;
    let config = [&*format!("redis.url = '{}'\n", redis.url()), ADDRESS].concat();
    let node = |_| Gateway::with(&config).plugin("10-auth-jwt", "auth-jwt", &token::settings());
    let nodes = Gateway::nodes(3, node).await;
    let mut ann = Client::connect_as(&nodes[0], "ann").await;
    publish(&nodes[2], "#ann", json!(1)).await;
    assert_eq!(ann.publication("#ann").await["data"], 1);
    let hello = ann.hello.clone();
    ann.close().await;
    publish(&nodes[2], "#ann", json!(2)).await;
    let mut ann = Client::connect_with(&nodes[1], returning(&hello, "#ann", 1)).await;
    let subscribed = &ann.hello["subs"]["#ann"];
    assert_eq!((&subscribed["recovered"], payloads(subscribed)), (&json!(true), vec![2.into()]));
    publish(&nodes[2], "#ann", json!(3)).await;
    assert_eq!(ann.publication("#ann").await["data"], 3);
    eventually("one member on all gateways", async || {
        let stats = nodes[2].post("/api/presence_stats", &json!({ "channel": "#ann" })).await.ok();
        stats.to_string().contains(r#""num_clients":1"#).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_may_list_the_channel_too() {
    let gateway = gateway(ADDRESS).await;
    let token = token::with("ann", json!({ "channels": ["open:1", "#ann", "#ann"] }));
    let mut ann = Client::connect_with(&gateway, json!({ "token": token })).await;
    let subs = ann.hello["subs"].as_object().expect("subscriptions");
    assert_eq!(subs.keys().map(String::as_str).collect::<Vec<_>>(), ["#ann", "open:1"]);
    publish(&gateway, "#ann", json!("once")).await;
    publish(&gateway, "open:1", json!("after")).await;
    assert_eq!(ann.publication("#ann").await["data"], "once");
    assert_eq!(ann.publication("open:1").await["data"], "after");
}

#[tokio::test]
async fn in_a_namespace_it_is_a_channel_beside_the_address_of_the_user() {
    let gateway = gateway(INBOX).await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    publish(&gateway, "#ann", json!("a message")).await;
    publish(&gateway, "inbox:#ann", json!("a publication")).await;
    assert_eq!(ann.direct().await, "a message");
    assert_eq!(ann.publication("inbox:#ann").await["data"], "a publication");
    let refused = ann.ask("subscribe", json!({ "channel": "inbox:#bob" })).await.unwrap_err();
    assert_eq!(refused.code, 103);
}

#[tokio::test]
async fn a_user_without_such_a_channel_is_refused_and_told_why() {
    let gateway = gateway(INBOX).await;
    let mut jane = Client::open(gateway.address()).await;
    jane.command("connect", json!({ "token": token::of("jane doe") })).await;
    let Closed { code, reason } = jane.closed().await;
    assert_eq!(code, Some(3507));
    assert!(reason.starts_with("the user has no personal channel: a channel name is made of"), "{reason}");
}
