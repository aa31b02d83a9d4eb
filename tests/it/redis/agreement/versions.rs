//! A gateway of the next version, made up here and put into a real Redis: what it adds is skipped, and
//! nothing else is.

use gateway_tests::{Client, Gateway, Redis, eventually};
use serde_json::{Value, json};

use super::{LIMIT, known, publish};
use gateway_tests::eventually_within;

/// Of the messages and records of this version.
const VERSION: char = '2';
/// A tag that this version does not know, and its value.
const UNKNOWN: &str = "\u{4d}\u{8}tomorrow";
/// The made-up gateway.
const NEWER: &str = "00000000000000ff";

/// A field with a text shorter than 128 bytes.
fn field(tag: u8, value: &str) -> String {
    assert!(tag < 128 && value.len() < 128, "other bytes are no text");
    format!("{}{}{value}", char::from(tag), value.len() as u8 as char)
}

fn number(number: u8) -> String {
    format!("\0\0\0\0\0\0\0{}", char::from(number))
}

/// A payload as it is kept, with one more field before it.
fn body(data: &str) -> String {
    format!("{UNKNOWN}{}\0{data}", field(1, ""))
}

fn member(user: &str) -> String {
    [field(1, "newer-client"), UNKNOWN.to_owned(), field(2, user), field(3, "")].concat()
}

fn message(kind: char, content: &str) -> String {
    format!("{VERSION}{kind}{content}")
}

fn lease(beat: u32) -> String {
    json!({
        "beat": beat, "started": 1_700_000_000_000_u64, "uptime": 1000, "version": "9.9.9", "name": "the newer one",
        "seen": u64::MAX, "of_tomorrow": { "a": [1] },
    })
    .to_string()
}

async fn gateway(redis: &Redis) -> Gateway {
    let config = format!(
        "client.anonymous = true\nredis.url = '{}'\n[namespaces.live]\njoin_leave = true\npresence = true\n\
         allow_subscribe = 'anyone'\n[namespaces.kept]\nhistory_size = 10\nallow_subscribe = 'anyone'\n",
        redis.url()
    );
    Gateway::start(&config).await
}

async fn send(redis: &Redis, topic: &str, message: &str) {
    assert_eq!(redis.ask(&["PUBLISH", topic, message]).await.number(), 1, "the gateway listens to {topic}");
}

#[tokio::test]
async fn messages_of_the_next_version_are_understood_and_what_is_unknown_is_skipped() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis).await;
    let mut client = Client::connect(&gateway).await;
    client.ask("subscribe", json!({ "channel": "live:1", "join_leave": true })).await.unwrap();
    eventually("a subscription", async || {
        (redis.ask(&["PUBSUB", "NUMSUB", "gateway:to:{live:1}"]).await.list()[1].number() == 1).then_some(())
    })
    .await;
    let topic = "gateway:to:{live:1}";
    send(&redis, topic, &message('P', &format!("{UNKNOWN}\u{0}0,,of tomorrow;{}", body(r#"{"n":1}"#)))).await;
    // Its own join may come first.
    let published = loop {
        let mut push = client.push().await;
        if push.get("pub").is_some() {
            break push["pub"]["data"].take();
        }
    };
    assert_eq!(published, json!({ "n": 1 }));
    let join = format!("{UNKNOWN}{}", field(1, &member("ann")));
    send(&redis, topic, &message('J', &join)).await;
    let joined = async |client: &mut Client| loop {
        let push = client.push().await;
        if let Some(join) = push.get("join")
            && join["info"]["client"] == "newer-client"
        {
            break join["info"]["user"].clone();
        }
    };
    assert_eq!(joined(&mut client).await, "ann");

    let everybody = "gateway:all:{nodes}";
    // A kind of message, a kind of order and a kind of question that do not exist yet.
    let order = format!("{}{}{}", field(1, &number(7)), field(2, "#ann"), field(3, "\u{63}"));
    let question =
        format!("{}{}{}", field(1, &number(7)), field(2, &number(1)), field(4, &field(1, "\u{63}")));
    for (kind, content) in [('Z', "anything"), ('O', &order), ('Q', &question)] {
        send(&redis, everybody, &message(kind, content)).await;
    }
    // And an order that is known: this client is closed with 3967.
    let address = format!("@{}", client.id);
    let order = [
        field(1, &number(7)),
        UNKNOWN.to_owned(),
        field(2, &address),
        field(3, "\0"),
        field(4, "\u{f}\u{7f}"),
        field(6, "moved"),
    ]
    .concat();
    send(&redis, everybody, &message('O', &order)).await;
    let closed = client.closed().await;
    assert_eq!((closed.code, &*closed.reason), (Some(3967), "moved"));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_backplane_unknown_total"), 3.0);
    assert_eq!(metrics.get("gateway_backplane_malformed_total"), 0.0);
}

#[tokio::test]
async fn records_of_the_next_version_are_understood_and_what_is_unknown_is_skipped() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis).await;
    let first = publish(&gateway, "kept:1", json!("ours")).await;
    // Its publication, with more about it than this version keeps.
    let (stream, top) = ("gateway:stream:{kept:1}", "gateway:top:{kept:1}");
    let now = redis.ask(&["TIME"]).await.list()[0].text() + "000";
    redis.ask(&["XADD", stream, &format!("2-{now}"), "trace", "of tomorrow", "d", &body("\"theirs\"")]).await;
    redis.ask(&["HSET", top, "offset", "2", "of_tomorrow", "1"]).await;
    let history = gateway.post("/api/history", &json!({ "channel": "kept:1", "limit": 10 })).await.ok();
    let data: Vec<_> =
        history["result"]["publications"].as_array().unwrap().iter().map(|one| one["data"].clone()).collect();
    assert_eq!(data, ["ours", "theirs"]);
    let next = publish(&gateway, "kept:1", json!("ours again")).await;
    assert_eq!((&next["offset"], &next["epoch"]), (&json!(3), &first["epoch"]));

    // Its lease, what it says of itself, and who is there at it.
    redis.ask(&["HSET", "gateway:presence:{live:1}:00000000000000ff", "newer-client", &member("ann")]).await;
    redis.ask(&["SADD", "gateway:users:{live:1}:00000000000000ff", "#ann"]).await;
    let rules = json!({ "wire": "2", "of_tomorrow": 1, "rules": {
        "namespaces.live": { "presence": true, "of_tomorrow": 7 },
        "namespaces.kept": { "history_size": 20, "history_ttl": 3_600_000 },
    } });
    redis
        .ask(&["HSET", "gateway:rules:{nodes}", NEWER, &rules.to_string(), "revision", "9000000000000"])
        .await;
    redis.ask(&["HSET", "gateway:leases:{nodes}", NEWER, &lease(1)]).await;
    let newer = eventually_within(LIMIT, "the newer gateway", async || {
        known(&gateway).await.into_iter().find(|node| node["uid"] == NEWER)
    })
    .await;
    assert_eq!((&newer["name"], &newer["version"]), (&json!("the newer one"), &json!("9.9.9")));
    let members = gateway.post("/api/presence", &json!({ "channel": "live:1" })).await.ok();
    assert_eq!(members["result"]["presence"]["newer-client"]["user"], "ann", "{members}");
    let differs = newer["differs"].as_array().unwrap();
    let has = |words: &str| differs.iter().any(|one: &Value| one.as_str().unwrap().contains(words));
    assert!(has("history_size: 20 there, 10 here") && has("version: 9.9.9 there"), "{differs:?}");
    assert!(!has("of_tomorrow"), "what only a later version has is no difference: {differs:?}");
}
