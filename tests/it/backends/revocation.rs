//! Tokens are revoked and users are blocked over all gateways: whoever is connected goes, and does not come
//! back before the end of it.

use std::time::{Duration, Instant};

use gateway_tests::{Client, Data, Gateway, Redis, Refused, Stream, eventually, eventually_within, token};
use serde_json::{Value, json};

const NAMESPACE: &str = "[namespaces.news]\nallow_subscribe = 'anyone'\n";

/// How long a gateway may take to be back with a server that was away.
const RETURN: Duration = Duration::from_secs(20);

async fn gateway(config: &str) -> Gateway {
    let config = format!("client.anonymous = true\n{config}\n{NAMESPACE}");
    Gateway::with(&config).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await
}

/// Gateways that share this Redis.
async fn nodes<const COUNT: usize>(redis: &Redis) -> [Gateway; COUNT] {
    let config = format!("redis.url = '{}'", redis.url());
    let mut nodes = Vec::new();
    for _ in 0..COUNT {
        nodes.push(gateway(&config).await);
    }
    nodes.try_into().expect("as many as asked for")
}

async fn connect(gateway: &Gateway, token: &str) -> Client {
    Client::connect_with(gateway, json!({ "token": token })).await
}

/// With what a client that connects is refused.
async fn refusal(gateway: &Gateway, token: &str) -> Option<u16> {
    let mut client = Client::open(gateway.address()).await;
    let id = client.command("connect", json!({ "token": token })).await;
    match client.outcome(id, "connect").await {
        Ok(Ok(_)) => None,
        Ok(Err(Refused { code, .. })) => Some(code.try_into().expect("a code")),
        Err(closed) => closed.code,
    }
}

async fn call(gateway: &Gateway, method: &str, body: Value) -> Value {
    let answer = gateway.post(&format!("/api/{method}"), &body).await.json();
    assert!(answer["error"].is_null(), "{method}: {answer}");
    answer["result"].clone()
}

/// The ids of what is in force at a gateway.
async fn listed(gateway: &Gateway) -> Vec<String> {
    let page = call(gateway, "revocations", json!({})).await;
    let all = page["revocations"].as_array().expect("a list");
    all.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
}

async fn wait_listed(gateway: &Gateway, ids: &[&str]) {
    eventually_within(RETURN, format!("{ids:?}"), async || (listed(gateway).await == ids).then_some(()))
        .await;
}

#[tokio::test]
async fn a_user_blocked_at_one_gateway_is_out_at_the_other_within_a_second_until_unblocked() {
    let redis = Redis::start().await;
    let [a, b] = nodes(&redis).await;
    let (ann, bob) = (token::of("ann"), token::of("bob"));
    let mut here = connect(&a, &ann).await;
    let mut there = connect(&b, &ann).await;
    let events = "/connection/sse";
    let mut stream = Stream::connect(b.address(), events, json!({ "token": ann })).await;
    let mut others = [connect(&b, &bob).await, Client::connect(&b).await];

    let begun = Instant::now();
    call(&a, "block_user", json!({ "user": "ann" })).await;
    for closed in [there.closed().await, stream.closed().await, here.closed().await] {
        assert_eq!((closed.code, &*closed.reason), (Some(3503), "force disconnect"));
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");

    for gateway in [&a, &b] {
        assert_eq!(refusal(gateway, &ann).await, Some(3503));
        assert_eq!(refusal(gateway, &bob).await, None);
    }
    for other in &mut others {
        other.subscribe("news:1").await;
    }
    assert!(b.metrics().await.get("gateway_revocation_refusals_total{kind=\"user\"}") >= 3.0);
    assert_eq!(b.metrics().await.get("gateway_revocations"), 1.0);

    call(&b, "unblock_user", json!({ "user": "ann" })).await;
    assert_eq!(refusal(&b, &ann).await, None);
    eventually("ann to be let in", async || refusal(&a, &ann).await.is_none().then_some(())).await;
}

#[tokio::test]
async fn who_is_unblocked_at_another_gateway_at_once_is_unblocked() {
    let redis = Redis::start().await;
    let [a, b] = nodes(&redis).await;
    for round in 0..20 {
        let user = format!("user{round}");
        call(&a, "block_user", json!({ "user": user })).await;
        call(&b, "unblock_user", json!({ "user": user })).await;
        assert!(listed(&b).await.is_empty(), "{user}");
    }
    wait_listed(&a, &[]).await;
}

#[tokio::test]
async fn a_block_ends_at_its_time() {
    let gateway = gateway("").await;
    let ann = token::of("ann");
    let until = token::in_time(Duration::from_secs(2));
    call(&gateway, "block_user", json!({ "user": "ann", "expire_at": until })).await;
    assert_eq!(refusal(&gateway, &ann).await, Some(3503));
    eventually("the end of the block", async || refusal(&gateway, &ann).await.is_none().then_some(())).await;
    assert!(token::in_time(Duration::ZERO) > until, "not before its time");
    assert!(listed(&gateway).await.is_empty());
}

#[tokio::test]
async fn a_token_revoked_by_its_id_takes_only_its_own_connections_along() {
    let redis = Redis::start().await;
    let [a, b] = nodes(&redis).await;
    let (one, two) =
        (token::with("ann", json!({ "jti": "one" })), token::with("ann", json!({ "jti": "two" })));
    let mut of_one = [connect(&a, &one).await, connect(&b, &one).await];
    let mut of_two = connect(&b, &two).await;
    let mut of_none = connect(&b, &token::of("ann")).await;

    call(&b, "revoke_token", json!({ "uid": "one" })).await;
    for client in &mut of_one {
        let closed = client.closed().await;
        assert_eq!((closed.code, &*closed.reason), (Some(3500), "invalid token"));
    }
    of_two.subscribe("news:1").await;
    of_none.subscribe("news:1").await;
    for gateway in [&a, &b] {
        assert_eq!(refusal(gateway, &one).await, Some(3500));
        assert_eq!(refusal(gateway, &two).await, None);
    }
    let log = a.log().tail(1000) + &b.log().tail(1000);
    assert!(!log.contains("\"one\""), "the id of a token is in the log");
}

#[tokio::test]
async fn tokens_of_a_user_are_revoked_by_the_time_at_which_they_were_issued() {
    let gateway = gateway("").await;
    let now = token::in_time(Duration::ZERO);
    let issued = |at: u64| token::with("ann", json!({ "iat": at }));
    let (old, new, unknown) = (issued(now - 100), issued(now - 10), token::of("ann"));
    let mut of_old = connect(&gateway, &old).await;
    let mut of_unknown = connect(&gateway, &unknown).await;
    let mut of_new = connect(&gateway, &new).await;
    let mut other = connect(&gateway, &token::with("bob", json!({ "iat": now - 100 }))).await;

    call(&gateway, "invalidate_user_tokens", json!({ "user": "ann", "issued_before": now - 50 })).await;
    assert_eq!(of_old.closed().await.code, Some(3500));
    assert_eq!(of_unknown.closed().await.code, Some(3500), "it may be older");
    of_new.subscribe("news:1").await;

    call(&gateway, "invalidate_user_tokens", json!({ "user": "ann" })).await;
    assert_eq!(of_new.closed().await.code, Some(3500));
    assert_eq!(refusal(&gateway, &new).await, Some(3500));
    other.subscribe("news:1").await;

    let refused = json!({ "user": "ann", "channel": "news:1" });
    let answer = gateway.post("/api/invalidate_user_tokens", &refused).await.json();
    assert_eq!(answer["error"]["code"], 108, "{answer}");
}

#[tokio::test]
async fn a_refresh_with_a_revoked_token_ends_the_connection() {
    let gateway = gateway("").await;
    let (old, new) =
        (token::with("ann", json!({ "jti": "old" })), token::with("ann", json!({ "jti": "new" })));
    let mut client = connect(&gateway, &old).await;
    client.ask("refresh", json!({ "token": new })).await.expect("a good token");
    call(&gateway, "revoke_token", json!({ "uid": "old" })).await;
    client.subscribe("news:1").await;
    client.command("refresh", json!({ "token": old })).await;
    assert_eq!(client.closed().await.code, Some(3500));
}

#[tokio::test]
async fn a_restart_without_redis_remembers() {
    let mut gateway = gateway("").await;
    let ann = token::of("ann");
    call(&gateway, "block_user", json!({ "user": "ann" })).await;
    call(&gateway, "revoke_token", json!({ "uid": "one" })).await;
    gateway.restart().await;
    assert_eq!(listed(&gateway).await, ["token:one", "user:ann"]);
    assert_eq!(refusal(&gateway, &ann).await, Some(3503));
    call(&gateway, "lift_revocation", json!({ "id": "user:ann" })).await;
    gateway.restart().await;
    assert_eq!(listed(&gateway).await, ["token:one"]);
    assert_eq!(refusal(&gateway, &ann).await, None);
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_gets_everything_back() {
    let mut redis = Redis::start().await;
    let [a] = nodes(&redis).await;
    call(&a, "block_user", json!({ "user": "ann" })).await;
    call(&a, "block_user", json!({ "user": "bob" })).await;
    call(&a, "unblock_user", json!({ "user": "bob" })).await;
    redis.kill();
    redis.revive(Data::Lost).await;
    let key = "gateway:revoked:{nodes}";
    eventually_within(RETURN, "the list in redis", async || {
        (redis.ask(&["HLEN", key]).await.number() >= 2).then_some(())
    })
    .await;
    let [b] = nodes(&redis).await;
    wait_listed(&b, &["user:ann"]).await;
    assert_eq!(refusal(&b, &token::of("ann")).await, Some(3503));
    // The server loses everything, and the connections do not notice.
    redis.ask(&["FLUSHALL"]).await;
    let [c] = nodes(&redis).await;
    wait_listed(&c, &["user:ann"]).await;
}

#[tokio::test]
async fn without_redis_a_gateway_goes_by_what_it_knows_and_the_others_follow_later() {
    let mut redis = Redis::start().await;
    let [mut a, b] = nodes(&redis).await;
    call(&a, "block_user", json!({ "user": "ann" })).await;
    wait_listed(&b, &["user:ann"]).await;
    redis.kill();
    let blocked = json!({ "user": "bob" });
    let answer = a.post("/api/block_user", &blocked).await.json();
    assert_eq!(answer["error"]["code"], 100, "{answer}");
    assert!(answer["error"]["message"].as_str().expect("a reason").contains("in force at this gateway"));
    assert_eq!(refusal(&a, &token::of("bob")).await, Some(3503));
    assert_eq!(listed(&b).await, ["user:ann"]);
    // Also one that starts meanwhile remembers what it knew.
    a.restart().await;
    assert_eq!(refusal(&a, &token::of("ann")).await, Some(3503));
    redis.revive(Data::Lost).await;
    wait_listed(&b, &["user:ann", "user:bob"]).await;
    assert_eq!(refusal(&b, &token::of("bob")).await, Some(3503));
}

#[tokio::test]
async fn the_list_is_bounded_and_has_pages() {
    let gateway = gateway("memory.revocations_max = 3").await;
    for user in ["a", "b", "c"] {
        call(&gateway, "block_user", json!({ "user": user })).await;
    }
    let answer = gateway.post("/api/block_user", &json!({ "user": "d" })).await.json();
    assert_eq!(answer["error"]["code"], 106, "{answer}");
    assert_eq!(listed(&gateway).await, ["user:a", "user:b", "user:c"]);
    let page = call(&gateway, "revocations", json!({ "limit": 2 })).await;
    assert_eq!((page["revocations"].as_array().map(Vec::len), &page["cursor"]), (Some(2), &json!("user:b")));
    let page = call(&gateway, "revocations", json!({ "limit": 2, "cursor": "user:b" })).await;
    let last = json!([{ "id": "user:c", "kind": "user", "user": "c" }]);
    assert_eq!(page, json!({ "revocations": last }));
    call(&gateway, "lift_revocation", json!({ "id": "user:a" })).await;
    call(&gateway, "block_user", json!({ "user": "d" })).await;
    for (method, body) in [
        ("lift_revocation", json!({ "id": "user:nobody" })),
        ("revocations", json!({ "cursor": "nonsense" })),
        ("block_user", json!({})),
        ("block_user", json!({ "user": "a", "expire_at": 1 })),
        ("block_user", json!({ "user": "a", "until": 1 })),
        ("revoke_token", json!({ "uid": "x".repeat(257) })),
    ] {
        let answer = gateway.post(&format!("/api/{method}"), &body).await.json();
        assert_eq!(answer["error"]["code"], 107, "{method} {body}: {answer}");
    }
}
