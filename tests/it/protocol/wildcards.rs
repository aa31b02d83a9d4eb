//! Subscriptions to patterns: they get the publications of the channels that match, and nothing else.

use gateway_tests::{Client, Gateway, Stream, token};
use serde_json::{Value, json};

const CONFIG: &str = "
    client.anonymous = true
    unidirectional.enabled = true
    memory.patterns_max = 3
    [namespaces.wide]
    history_size = 100
    recovery = true
    presence = true
    join_leave = true
    wildcards = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    allow_history = 'anyone'
    allow_presence = 'anyone'
    [namespaces.narrow]
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
";

fn told(channel: &str, data: u32) -> Value {
    json!({ "data": data, "channel": channel })
}

#[tokio::test]
async fn a_pattern_gets_the_publications_of_the_channels_that_match_it() {
    let gateway = Gateway::start(CONFIG).await;
    let (mut client, mut publisher) = (Client::connect(&gateway).await, Client::connect(&gateway).await);
    let subscribed = client.subscribe("wide:eu.*").await;
    assert_eq!(subscribed, json!({}), "no stream");
    for (channel, data) in [
        ("wide:us.sport", 1),
        ("wide:eu.sport", 2),
        ("wide:eu.sport.tennis", 3),
        ("wide:eu", 4),
        ("wide:eu.#ann", 5),
        ("wide:eu.news", 6),
    ] {
        gateway.post("/api/publish", &json!({ "channel": channel, "data": data })).await.ok();
    }
    assert_eq!(client.publication("wide:eu.*").await, told("wide:eu.sport", 2));
    assert_eq!(client.publication("wide:eu.*").await, told("wide:eu.news", 6));
    // Whoever subscribes to the channel, too, gets both.
    client.subscribe("wide:eu.sport").await;
    publisher.publish("wide:eu.sport", json!(7)).await;
    let mut heard = [client.push().await, client.push().await];
    heard.sort_by_key(|push| push["channel"].to_string());
    assert_eq!(heard[0]["pub"]["channel"], "wide:eu.sport", "{heard:?}");
    assert_eq!((&heard[0]["channel"], &heard[0]["pub"]["offset"]), (&json!("wide:eu.*"), &Value::Null));
    assert!(heard[0]["pub"]["info"].is_object(), "the publisher: {heard:?}");
    assert_eq!((&heard[1]["channel"], &heard[1]["pub"]["offset"]), (&json!("wide:eu.sport"), &json!(2)));
    client.ask("unsubscribe", json!({ "channel": "wide:eu.*" })).await.unwrap();
    publisher.publish("wide:eu.news", json!(8)).await;
    publisher.publish("wide:eu.sport", json!(9)).await;
    assert_eq!(client.publication("wide:eu.sport").await["data"], 9);
}

#[tokio::test]
async fn what_a_pattern_does_not_have_is_refused_with_the_reason() {
    let gateway = Gateway::start(CONFIG).await;
    let mut client = Client::connect(&gateway).await;
    client.subscribe("wide:*").await;
    for (command, channel, code, words) in [
        ("subscribe", "narrow:*", 107, "does not have `wildcards = true`"),
        ("unsubscribe", "narrow:*", 107, "does not have `wildcards = true`"),
        ("history", "narrow:*", 107, "does not have `wildcards = true`"),
        ("subscribe", "wide:eu*", 107, "a pattern is a namespace"),
        ("subscribe", "wide:**.a", 107, "a pattern is a namespace"),
        ("subscribe", "*", 107, "a pattern is a namespace"),
        ("subscribe", "*:a", 107, "a pattern is a namespace"),
        ("subscribe", "unknown:*", 102, ""),
        ("subscribe", "wide:*", 105, ""),
        ("history", "wide:*", 108, "a pattern has no history"),
        ("presence", "wide:*", 108, "no presence"),
        ("presence_stats", "wide:*", 108, "no presence"),
        ("publish", "wide:*", 107, "visible ASCII"),
        ("publish", "narrow:a*", 107, "visible ASCII"),
    ] {
        let refused = client.ask(command, json!({ "channel": channel, "data": 1 })).await.unwrap_err();
        assert_eq!(refused.code, code, "{command} {channel}: {refused:?}");
        assert!(refused.message.contains(words), "{command} {channel}: {refused:?}");
    }
    let answer = gateway.post("/api/publish", &json!({ "channel": "wide:*", "data": 1 })).await.json();
    assert_eq!(answer["error"]["code"], 107, "{answer}");
    client.subscribe("wide:a.*").await;
    client.subscribe("wide:b.*").await;
    let refused = client.ask("subscribe", json!({ "channel": "wide:c.*" })).await.unwrap_err();
    assert!(refused.code == 106 && refused.message.contains("`memory.patterns_max`"), "{refused:?}");
    Client::connect(&gateway).await.subscribe("wide:a.*").await;
}

#[tokio::test]
async fn the_server_subscribes_clients_to_patterns() {
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    let claims = token::with("ann", json!({ "channels": ["wide:eu.*"] }));
    let connect = json!({ "token": claims }).to_string();
    let mut stream =
        Stream::get(gateway.address(), "/connection/uni_sse", &[], &connect).await.expect("a stream");
    let hello = stream.message().await.expect("a push");
    assert_eq!(hello["connect"]["subs"]["wide:eu.*"], json!({}), "{hello}");
    let mut client = Client::connect_as(&gateway, "bob").await;
    gateway.post("/api/subscribe", &json!({ "user": "bob", "channel": "wide:**" })).await.ok();
    let push = client.push().await;
    assert!(push["subscribe"].is_object() && push["channel"] == "wide:**", "{push}");
    gateway.post("/api/publish", &json!({ "channel": "wide:eu.sport", "data": 1 })).await.ok();
    let told = told("wide:eu.sport", 1);
    assert_eq!(stream.next().await.expect("a push"), json!({ "channel": "wide:eu.*", "pub": told }));
    assert_eq!(client.publication("wide:**").await, told);
    gateway.post("/api/unsubscribe", &json!({ "user": "bob", "channel": "wide:**" })).await.ok();
    assert!(client.push().await["unsubscribe"].is_object());
}

#[tokio::test]
async fn publications_pass_many_patterns_that_do_not_match() {
    let config = CONFIG.replace("memory.patterns_max = 3", "limits.channels_per_connection_max = 2000");
    let gateway = Gateway::start(&config).await;
    let mut client = Client::connect(&gateway).await;
    for number in 0..1000 {
        client.subscribe(&format!("wide:room{number}.*.messages")).await;
    }
    client.subscribe("narrow:1").await;
    let mut publisher = Client::connect(&gateway).await;
    for number in 0..1000 {
        publisher.publish("wide:other.1.messages", json!(number)).await;
    }
    publisher.publish("wide:room7.1.messages", json!("mine")).await;
    publisher.publish("narrow:1", json!("last")).await;
    let told = client.publication("wide:room7.*.messages").await;
    assert_eq!((&told["data"], &told["channel"]), (&json!("mine"), &json!("wide:room7.1.messages")));
    assert_eq!(client.publication("narrow:1").await["data"], "last");
}

/// A pattern reaches channels that a rule about some channels says nothing of, and some that it refuses.
#[tokio::test]
async fn rules_about_some_channels_do_not_open_a_pattern_and_close_it() {
    let config = "client.anonymous = true\n[namespaces.open]\nwildcards = true\nallow_subscribe = 'anyone'\n\
                  [namespaces.shut]\nwildcards = true";
    let rules = "
        [[config.rules]]
        kind = 'subscribe'
        channel = 'shut:lobby.*'
        allow = true
        [[config.rules]]
        kind = 'subscribe'
        channel = 'open:secret*'
        deny = { code = 103, reason = 'secret' }
    ";
    for rules in [
        rules.to_owned(),
        rules.split("[[config.rules]]").take(2).collect::<Vec<_>>().join("[[config.rules]]"),
    ] {
        let denies = rules.contains("secret");
        let gateway = Gateway::with(config).plugin("50-router", "router", &rules).start().await;
        let mut client = Client::connect(&gateway).await;
        for (channel, permitted) in [
            ("shut:lobby.1", true),
            ("shut:lobby.*", true),
            ("shut:*", false),
            ("shut:**", false),
            ("shut:*.1", false),
            ("open:secret.1", !denies),
            ("open:secret.*", !denies),
            ("open:*", !denies),
            ("open:**", !denies),
            ("open:room.*", true),
        ] {
            let subscribed = client.ask("subscribe", json!({ "channel": channel })).await;
            assert_eq!(subscribed.is_ok(), permitted, "{channel}: {subscribed:?}");
        }
    }
}
