//! Orders reach a connection and all connections of a user at whichever gateway they are: from the API and
//! from a plugin.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gateway_tests::{Client, Closed, Gateway, Redis, eventually};
use serde_json::{Value, json};

const SETTINGS: &str = "
    grants.effects = ['publish', 'subscribe', 'unsubscribe', 'disconnect', 'refresh']
    config.kinds = ['rpc']
";

/// Two gateways that know each other.
async fn nodes(redis: &Redis) -> Vec<Gateway> {
    let config = format!("redis.url = '{}'\n[namespaces.room]", redis.url());
    let nodes =
        Gateway::nodes(2, |_| Gateway::with(&config).plugin("50-scripted", "guest-scripted", SETTINGS)).await;
    for node in &nodes {
        eventually("gateways that know each other", async || {
            (node.metrics().await.get("gateway_nodes") == 2.0).then_some(())
        })
        .await;
    }
    nodes
}

async fn connect(gateway: &Gateway, user: &str) -> Client {
    Client::connect_with(gateway, json!({ "token": user })).await
}

/// Unix time in seconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Who gives orders, at a gateway where those they are for need not be.
enum Giver<'a> {
    Api(&'a Gateway),
    /// A plugin, because this client wants it to.
    Plugin(Box<Client>),
}

/// Whom orders are for.
#[derive(Clone, Copy)]
enum Whom<'a> {
    User(&'a str),
    Connection(&'a str),
}

impl Whom<'_> {
    fn address(self) -> String {
        match self {
            Self::User(user) => format!("#{user}"),
            Self::Connection(id) => format!("@{id}"),
        }
    }
}

impl Giver<'_> {
    /// `order` is a method of the API, `with` what belongs to it.
    async fn give(&mut self, order: &str, whom: Whom<'_>, with: Value) {
        match self {
            Self::Api(gateway) => {
                let mut body = with;
                match (order, whom) {
                    ("publish", _) => body["channel"] = whom.address().into(),
                    (_, Whom::User(user)) => body["user"] = user.into(),
                    (_, Whom::Connection(id)) => body["client"] = id.into(),
                }
                let answer = gateway.post(&format!("/api/{order}"), &body).await.json();
                assert!(answer["error"].is_null(), "{order}: {answer}");
            }
            Self::Plugin(client) => {
                let (kind, who) = match whom {
                    Whom::User(user) => ("user", user),
                    Whom::Connection(id) => ("connection", id),
                };
                let rpc = match order {
                    "publish" => {
                        json!({ "method": order, "data": { "channel": whom.address(), "bytes": 4 } })
                    }
                    _ => {
                        let (channel, expires_at) =
                            (with["channel"].as_str().unwrap_or(""), &with["expire_at"]);
                        let data = json!({ "who": who, "channel": channel, "expires_at": expires_at });
                        json!({ "method": format!("{order}-{kind}"), "data": data })
                    }
                };
                client.ask("rpc", rpc).await.expect("the order is obeyed");
            }
        }
    }

    /// Gives every order, and sees that it arrives at these connections.
    async fn reaches(&mut self, whom: Whom<'_>, at: &mut [&mut Client]) {
        self.give("publish", whom, json!({ "data": "xxxx" })).await;
        for client in at.iter_mut() {
            assert_eq!(client.direct().await, "xxxx");
        }
        self.give("subscribe", whom, json!({ "channel": "room:1" })).await;
        for client in at.iter_mut() {
            let push = client.push().await;
            assert!(push["channel"] == "room:1" && push["subscribe"].is_object(), "{push}");
        }
        self.give("unsubscribe", whom, json!({ "channel": "room:1" })).await;
        for client in at.iter_mut() {
            let push = client.push().await;
            assert!(push["channel"] == "room:1" && push["unsubscribe"].is_object(), "{push}");
        }
        self.give("refresh", whom, json!({ "expire_at": now() + 60 })).await;
        for client in at.iter_mut() {
            let push = client.push().await;
            let ttl = push["refresh"]["ttl"].as_u64().unwrap_or(0);
            assert!((40..=61).contains(&ttl), "{push}");
        }
        self.give("disconnect", whom, json!({})).await;
        let code = if matches!(self, Self::Api(_)) { 3503 } else { 4502 };
        for client in at.iter_mut() {
            assert_eq!(client.closed().await.code, Some(code));
        }
    }
}

#[tokio::test]
async fn every_order_reaches_users_and_connections_at_another_gateway_and_nobody_else() {
    let redis = Redis::start().await;
    let nodes = nodes(&redis).await;
    let mut eve = connect(&nodes[1], "eve").await;
    for mut giver in [Giver::Api(&nodes[0]), Giver::Plugin(Box::new(connect(&nodes[0], "boss").await))] {
        let mut here = connect(&nodes[0], "ann").await;
        let mut there = connect(&nodes[1], "ann").await;
        let mut there_too = connect(&nodes[1], "ann").await;
        giver.reaches(Whom::User("ann"), &mut [&mut here, &mut there, &mut there_too]).await;

        let mut other = connect(&nodes[1], "ann").await;
        let mut one = connect(&nodes[1], "ann").await;
        let id = one.id.clone();
        giver.reaches(Whom::Connection(&id), &mut [&mut one]).await;
        for client in [&mut other, &mut eve] {
            let address = format!("@{}", client.id);
            let marker = json!({ "channel": address, "data": "marker" });
            nodes[0].post("/api/publish", &marker).await.ok();
            assert_eq!(client.direct().await, "marker", "it heard of nothing else");
        }
    }
}

#[tokio::test]
async fn whoever_is_admitted_is_reached_whatever_the_name() {
    let redis = Redis::start().await;
    let nodes = nodes(&redis).await;
    let longest = "x".repeat(254);
    let names = [
        "jane doe",
        "Zürich",
        "a*b",
        "*",
        "{nodes}",
        "a\"b\\c",
        "#42",
        "@c1",
        "auth0|abc",
        "urn:x:y",
        "a@b.example",
        "100%",
        &longest,
    ];
    for user in names {
        for mut giver in [Giver::Api(&nodes[0]), Giver::Plugin(Box::new(connect(&nodes[0], "boss").await))] {
            let (mut here, mut there) = (connect(&nodes[0], user).await, connect(&nodes[1], user).await);
            let listed = nodes[0].post("/api/connections", &json!({ "user": user })).await.ok();
            assert_eq!(
                listed["result"]["connections"].as_object().map(serde_json::Map::len),
                Some(2),
                "{user}: {listed}"
            );
            giver.reaches(Whom::User(user), &mut [&mut here, &mut there]).await;
        }
    }
}

#[tokio::test]
async fn whom_nothing_could_reach_is_refused_and_the_log_says_why() {
    let gateway = Gateway::with("").plugin("50-scripted", "guest-scripted", SETTINGS).start().await;
    for (user, why) in [
        ("x".repeat(255), "the user id has 255 bytes, at most 254 are accepted"),
        ("ü".repeat(128), "the user id has 256 bytes, at most 254 are accepted"),
        ("a\0b".to_owned(), "the user id has control characters"),
        ("a\nb".to_owned(), "the user id has control characters"),
        ("\u{85}".to_owned(), "the user id has control characters"),
    ] {
        let mark = gateway.log().mark();
        let mut client = Client::open(gateway.address()).await;
        client.command("connect", json!({ "token": user })).await;
        assert_eq!(client.closed().await, Closed { code: Some(3500), reason: why.into() });
        let line = gateway.log().wait_since(mark, &["nothing could reach this user", why]).await;
        assert_eq!((line.level.as_str(), line.field("plugin").as_str()), ("WARN", "scripted"));
        for method in ["disconnect", "connections"] {
            let answer = gateway.post(&format!("/api/{method}"), &json!({ "user": user })).await.json();
            assert_eq!(answer["error"]["code"], 107, "{method}: {answer}");
        }
    }
    // Many such clients are no failure of the plugin, and no flood of lines.
    for _ in 0..100 {
        let mut client = Client::open(gateway.address()).await;
        client.command("connect", json!({ "token": "x".repeat(300) })).await;
        assert_eq!(client.closed().await.code, Some(3500));
    }
    let lines = gateway.log().matching(&["nothing could reach this user"]).len();
    assert!(lines < 80, "{lines}");
    connect(&gateway, "ann").await;
}

#[tokio::test]
async fn who_has_expired_is_closed_wherever_the_order_was_given() {
    let redis = Redis::start().await;
    let nodes = nodes(&redis).await;
    let refresh = async |body: Value| nodes[0].post("/api/refresh", &body).await.ok();
    let (mut ann, mut bob) = (connect(&nodes[1], "ann").await, connect(&nodes[1], "bob").await);
    refresh(json!({ "user": "ann", "expired": true })).await;
    assert_eq!(ann.closed().await.code, Some(3005));
    refresh(json!({ "client": bob.id, "expire_at": 0 })).await;
    assert_eq!(bob.push().await, json!({ "refresh": {} }), "never");
    refresh(json!({ "client": bob.id, "expire_at": now() - 1 })).await;
    assert_eq!(bob.closed().await.code, Some(3005));
    for body in [json!({ "user": "ann" }), json!({ "expire_at": 7 })] {
        let refused = nodes[0].post("/api/refresh", &body).await.json();
        assert_eq!(refused["error"]["code"], 107, "{body}");
    }
}

#[tokio::test]
async fn a_plugin_sets_when_the_connection_of_a_message_expires() {
    let config = "[client]\nexpiry_grace = '0s'";
    let gateway = Gateway::with(config).plugin("50-scripted", "guest-scripted", SETTINGS).start().await;
    let mut ann = connect(&gateway, "ann").await;
    let rpc = json!({ "method": "refresh", "data": { "expires_at": now() + 2 } });
    ann.ask("rpc", rpc).await.unwrap();
    assert!((1..=2).contains(&ann.push().await["refresh"]["ttl"].as_u64().unwrap()));
    let closed = tokio::time::timeout(Duration::from_secs(10), ann.closed()).await.expect("it expires");
    assert_eq!(closed.code, Some(3005));
}
