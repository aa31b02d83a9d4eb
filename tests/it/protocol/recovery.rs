//! A client that comes back gets what it missed, or is told that it cannot.

use gateway_tests::{Client, Gateway, Redis, Stream, token};
use serde_json::{Value, json};

const CONFIG: &str = "
    client.anonymous = true
    [namespaces.news]
    history_size = 10
    recovery = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
";

/// Only the latest publication counts.
const LATEST: &str = "
    client.anonymous = true
    [namespaces.news]
    history_size = 10
    recovery = true
    recovery_mode = 'cache'
    tag_filter = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
";

/// Where a client stands after a subscribe or a publication.
struct Position {
    offset: u64,
    epoch: String,
}

impl Position {
    fn of(subscribed: &Value) -> Self {
        Self {
            offset: subscribed["offset"].as_u64().unwrap_or(0),
            epoch: subscribed["epoch"].as_str().unwrap().to_owned(),
        }
    }

    fn recover(&self, channel: &str) -> Value {
        json!({ "channel": channel, "recover": true, "offset": self.offset, "epoch": self.epoch })
    }
}

fn payloads(subscribed: &Value) -> Vec<u64> {
    let publications = subscribed["publications"].as_array().cloned().unwrap_or_default();
    publications.iter().map(|publication| publication["data"].as_u64().unwrap()).collect()
}

async fn publish(gateway: &Gateway, numbers: impl IntoIterator<Item = u64>) {
    let mut publisher = Client::connect(gateway).await;
    for number in numbers {
        publisher.publish("news:1", json!(number)).await;
    }
}

/// Subscribes, sees publication 1, and goes.
async fn see_the_first_and_go(gateway: &Gateway) -> Position {
    let mut client = Client::connect(gateway).await;
    let subscribed = client.subscribe("news:1").await;
    assert_eq!((&subscribed["recoverable"], &subscribed["positioned"]), (&json!(true), &json!(true)));
    publish(gateway, [1]).await;
    let offset = client.publication("news:1").await["offset"].as_u64().unwrap();
    client.close().await;
    Position { offset, ..Position::of(&subscribed) }
}

#[tokio::test]
async fn what_was_missed_comes_in_order_and_then_what_is_new() {
    let gateway = Gateway::start(CONFIG).await;
    let position = see_the_first_and_go(&gateway).await;
    publish(&gateway, 2..=6).await;
    let mut client = Client::connect(&gateway).await;
    let subscribed = client.ask("subscribe", position.recover("news:1")).await.unwrap();
    assert_eq!((&subscribed["recovered"], &subscribed["was_recovering"]), (&json!(true), &json!(true)));
    assert_eq!(payloads(&subscribed), [2, 3, 4, 5, 6]);
    assert_eq!(Position::of(&subscribed).offset, position.offset);
    publish(&gateway, [7]).await;
    assert_eq!(client.publication("news:1").await["offset"], 7);
}

#[tokio::test]
async fn a_client_that_missed_nothing_recovers_nothing() {
    let gateway = Gateway::start(CONFIG).await;
    let position = see_the_first_and_go(&gateway).await;
    let mut client = Client::connect(&gateway).await;
    let subscribed = client.ask("subscribe", position.recover("news:1")).await.unwrap();
    assert_eq!(subscribed["recovered"], true);
    assert!(payloads(&subscribed).is_empty());
}

#[tokio::test]
async fn a_client_that_was_away_too_long_is_told_so() {
    let gateway = Gateway::start(CONFIG).await;
    let position = see_the_first_and_go(&gateway).await;
    publish(&gateway, 2..=12).await;
    let mut client = Client::connect(&gateway).await;
    let subscribed = client.ask("subscribe", position.recover("news:1")).await.unwrap();
    assert_eq!(subscribed["was_recovering"], true);
    assert!(subscribed.get("recovered").is_none() && payloads(&subscribed).is_empty(), "{subscribed}");
    assert_eq!(Position::of(&subscribed).offset, 12, "it goes on from the newest");
    // What comes after a failed recovery is delivered.
    publish(&gateway, [13]).await;
    assert_eq!(client.publication("news:1").await["data"], 13);
}

#[tokio::test]
async fn a_client_may_prefer_an_error_to_a_gap() {
    let gateway = Gateway::start(CONFIG).await;
    let position = see_the_first_and_go(&gateway).await;
    publish(&gateway, 2..=12).await;
    let mut client = Client::connect(&gateway).await;
    let mut subscribe = position.recover("news:1");
    subscribe["flag"] = json!(2);
    assert_eq!(client.ask("subscribe", subscribe).await.unwrap_err().code, 112);
    // It is not subscribed: trying anew is no second time.
    client.subscribe("news:1").await;
}

#[tokio::test]
async fn after_a_restart_the_stream_is_another_one() {
    let mut gateway = Gateway::start(CONFIG).await;
    let position = see_the_first_and_go(&gateway).await;
    gateway.restart().await;
    publish(&gateway, [1]).await;
    let mut client = Client::connect(&gateway).await;
    let subscribed = client.ask("subscribe", position.recover("news:1")).await.unwrap();
    assert!(
        subscribed.get("recovered").is_none(),
        "the offset is the same but the stream is not: {subscribed}"
    );
    assert_ne!(Position::of(&subscribed).epoch, position.epoch);
}

#[tokio::test]
async fn subscriptions_by_the_server_recover_too() {
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    let token = token::with("ann", json!({ "channels": ["news:1"] }));
    let client = Client::connect_with(&gateway, json!({ "token": token })).await;
    let position = Position::of(&client.hello["subs"]["news:1"]);
    client.close().await;
    publish(&gateway, 1..=3).await;
    let subs = json!({ "news:1": position.recover("news:1") });
    let client = Client::connect_with(&gateway, json!({ "token": token, "subs": subs })).await;
    assert_eq!(client.hello["subs"]["news:1"]["recovered"], true);
    assert_eq!(payloads(&client.hello["subs"]["news:1"]), [1, 2, 3]);
}

#[tokio::test]
async fn coming_back_in_the_middle_of_traffic_leaves_no_gap() {
    let gateway = Gateway::start(&format!(
        "client.history_publications_max = 10000\n{}",
        CONFIG.replace("= 10", "= 10000")
    ))
    .await;
    let mut position = see_the_first_and_go(&gateway).await;
    const LAST: u64 = 3000;
    let mut seen = vec![1];
    let returning = async {
        let mut returns = 0;
        while position.offset < LAST {
            let mut client = Client::connect(&gateway).await;
            let subscribed = client.ask("subscribe", position.recover("news:1")).await.unwrap();
            assert_eq!(subscribed["recovered"], true);
            seen.extend(payloads(&subscribed));
            while seen.len() < LAST as usize && (seen.len() as u64) < position.offset + 100 {
                seen.push(client.publication("news:1").await["data"].as_u64().unwrap());
            }
            position.offset = seen.len() as u64;
            returns += 1;
            client.close().await;
        }
        returns
    };
    let (returns, ()) = tokio::join!(returning, publish(&gateway, 2..=LAST));
    assert!(seen.iter().copied().eq(1..=LAST), "{returns} returns");
    assert!(returns > 3, "the client was away only {returns} times");
}

/// Follows a client of `there` from the empty channel on. Everything is published at `here`.
async fn only_the_latest(here: &Gateway, there: &Gateway) {
    let first = json!({ "channel": "news:1", "recover": true });
    let mut client = Client::connect(there).await;
    let rejecting = json!({ "channel": "news:1", "recover": true, "flag": 2 });
    let subscribed = client.ask("subscribe", rejecting).await.unwrap();
    assert_eq!((&subscribed["recoverable"], &subscribed["was_recovering"]), (&json!(true), &json!(true)));
    assert!(subscribed.get("recovered").is_none() && payloads(&subscribed).is_empty(), "{subscribed}");
    publish(here, [1]).await;
    assert_eq!(client.publication("news:1").await["offset"], 1);
    client.close().await;
    // Who saw the stream begin has the latest.
    let seen = Position { offset: 1, ..Position::of(&subscribed) };
    let mut client = Client::connect(there).await;
    let subscribed = client.ask("subscribe", seen.recover("news:1")).await.unwrap();
    assert_eq!((&subscribed["recovered"], payloads(&subscribed)), (&json!(true), vec![]), "{subscribed}");
    client.close().await;

    publish(here, 2..=12).await;
    let mut client = Client::connect(there).await;
    let subscribed = client.subscribe("news:1").await;
    assert_eq!((Position::of(&subscribed).offset, payloads(&subscribed)), (12, vec![]), "unasked");
    client.ask("unsubscribe", json!({ "channel": "news:1" })).await.unwrap();
    let subscribed = client.ask("subscribe", first).await.unwrap();
    assert_eq!((&subscribed["recovered"], payloads(&subscribed)), (&json!(true), vec![12]));
    assert!(subscribed.get("offset").is_none(), "the library advances with the publication: {subscribed}");
    publish(here, [13]).await;
    assert_eq!(client.publication("news:1").await["data"], 13);
    client.close().await;

    let seen = Position { offset: 13, ..Position::of(&subscribed) };
    publish(here, 14..=30).await;
    let mut client = Client::connect(there).await;
    let subscribed = client.ask("subscribe", seen.recover("news:1")).await.unwrap();
    assert_eq!((&subscribed["recovered"], payloads(&subscribed)), (&json!(true), vec![30]));
    assert_eq!(Position::of(&subscribed).offset, 13);
    publish(here, [31]).await;
    assert_eq!(client.publication("news:1").await["offset"], 31, "nothing else comes");
    let foreign = Position { offset: 31, epoch: "another".into() };
    client.ask("unsubscribe", json!({ "channel": "news:1" })).await.unwrap();
    let subscribed = client.ask("subscribe", foreign.recover("news:1")).await.unwrap();
    assert_eq!((&subscribed["recovered"], payloads(&subscribed)), (&json!(true), vec![31]));
}

#[tokio::test]
async fn where_only_the_latest_counts_nothing_else_is_recovered() {
    let gateway = Gateway::start(LATEST).await;
    only_the_latest(&gateway, &gateway).await;
}

#[tokio::test]
async fn where_only_the_latest_counts_it_is_recovered_at_another_gateway_too() {
    let redis = Redis::start().await;
    let config = format!("redis = {{ url = '{}', prefix = 'gw' }}\n{LATEST}", redis.url());
    let (here, there) = tokio::join!(Gateway::start(&config), Gateway::start(&config));
    only_the_latest(&here, &there).await;
}

#[tokio::test]
async fn the_latest_comes_with_the_connect_reply_and_through_a_filter() {
    let gateway = Gateway::with(LATEST).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    for (number, kind) in [(1, "goal"), (2, "goal"), (3, "foul")] {
        let publish = json!({ "channel": "news:1", "data": number, "tags": { "kind": kind } });
        gateway.post("/api/publish", &publish).await.ok();
    }
    let token = token::with("ann", json!({ "channels": ["news:1"] }));
    let subs = json!({ "news:1": { "recover": true } });
    let client = Client::connect_with(&gateway, json!({ "token": token, "subs": subs })).await;
    assert_eq!(payloads(&client.hello["subs"]["news:1"]), [3]);
    let filter = json!({ "key": "kind", "cmp": "eq", "val": "goal" });
    let mut client = Client::connect(&gateway).await;
    let subscribe = json!({ "channel": "news:1", "recover": true, "tf": filter });
    let subscribed = client.ask("subscribe", subscribe).await.unwrap();
    assert_eq!(payloads(&subscribed), [2], "the newest that the client wants");
}

#[tokio::test]
async fn every_subscribe_brings_the_latest_where_the_namespace_says_so() {
    let config = [LATEST, "latest_on_subscribe = true\n[unidirectional]\nenabled = true"].concat();
    let gateway = Gateway::with(&config).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    publish(&gateway, 1..=3).await;
    let mut client = Client::connect(&gateway).await;
    let subscribed = client.subscribe("news:1").await;
    assert_eq!((payloads(&subscribed), &subscribed["recovered"]), (vec![3], &json!(true)));
    let nothing = client.subscribe("news:nothing").await;
    assert_eq!((payloads(&nothing), nothing["recovered"] == true), (vec![], false));
    // Not a second time for a client that has it.
    let mut returned = Client::connect(&gateway).await;
    let since = Position::of(&subscribed);
    let since = Position { offset: 3, ..since }.recover("news:1");
    assert!(payloads(&returned.ask("subscribe", since).await.unwrap()).is_empty());
    // The subscriptions of the server have it too: those of a token, and those of the API.
    let connect = json!({ "token": token::with("ann", json!({ "channels": ["news:1"] })) });
    let ann = Client::connect_with(&gateway, connect.clone()).await;
    assert_eq!(payloads(&ann.hello["subs"]["news:1"]), [3]);
    let sse = Stream::get(gateway.address(), "/connection/uni_sse", &[], &connect.to_string()).await;
    let hello = sse.expect("a stream").message().await.expect("a push");
    assert_eq!(payloads(&hello["connect"]["subs"]["news:1"]), [3]);
    let mut bob = Client::connect_as(&gateway, "bob").await;
    gateway.post("/api/subscribe", &json!({ "user": "bob", "channel": "news:1" })).await.ok();
    assert!(bob.push().await["subscribe"].is_object());
    assert_eq!(bob.publication("news:1").await["data"], 3);
}
