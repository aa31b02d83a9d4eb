//! Who is in a channel of several gateways: the same at each of them, nobody twice, and no ghosts.

mod cluster;
mod servers;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gateway_tests::{Client, Data, Gateway, Proxy, Redis, eventually_within, token};
use serde_json::{Value, json};

const ROOM: &str = "room:1";

/// A dead gateway's members are gone, and presence is complete again, within this.
const CONVERGED: Duration = Duration::from_secs(5);

async fn node(url: &str) -> Gateway {
    node_at(&format!("url = '{url}'")).await
}

/// A gateway that is told so where Redis is.
async fn node_at(redis: &str) -> Gateway {
    let config = format!(
        "
        [redis]
        {redis}
        [namespaces.room]
        presence = true
        join_leave = true
        allow_subscribe = 'anyone'
        allow_presence = 'anyone'
        "
    );
    // Many connect while servers and gateways start: no call of theirs has to be fast.
    let settings = format!("limits.deadline = '1s'\n{}", token::settings());
    let gateway = Gateway::with(&config).plugin("10-auth-jwt", "auth-jwt", &settings).start().await;
    eventually_within(CONVERGED, "a healthy gateway", async || {
        (gateway.get("/health/ready").await.status == 200).then_some(())
    })
    .await;
    gateway
}

/// A client in a channel that does not hear who comes and goes.
async fn member_of(gateway: &Gateway, user: &str, channels: &[&str]) -> Client {
    let mut client = Client::connect_as(gateway, user).await;
    for channel in channels {
        client.subscribe(channel).await;
    }
    client
}

async fn member(gateway: &Gateway, user: &str) -> Client {
    member_of(gateway, user, &[ROOM]).await
}

fn ids(clients: &[&Client]) -> BTreeSet<String> {
    clients.iter().map(|client| client.id.clone()).collect()
}

/// Who is there; `None` if that is refused.
async fn present(gateway: &Gateway, channel: &str) -> Option<BTreeSet<String>> {
    let answer = gateway.post("/api/presence", &json!({ "channel": channel })).await.json();
    Some(answer["result"]["presence"].as_object()?.keys().cloned().collect())
}

async fn count_of(gateway: &Gateway, channel: &str) -> Value {
    gateway.post("/api/presence_stats", &json!({ "channel": channel })).await.json()["result"].clone()
}

async fn count(gateway: &Gateway) -> Value {
    count_of(gateway, ROOM).await
}

async fn converges_in(channel: &str, gateways: &[&Gateway], expected: &BTreeSet<String>) {
    let begun = Instant::now();
    for (index, gateway) in gateways.iter().enumerate() {
        let what = format!("presence of {channel} at gateway {index} to be {expected:?}");
        eventually_within(CONVERGED.saturating_sub(begun.elapsed()), &what, async || {
            (present(gateway, channel).await.as_ref() == Some(expected)).then_some(())
        })
        .await;
    }
    println!("presence of {channel} was the same everywhere after {:?}", begun.elapsed());
}

async fn converges(gateways: &[&Gateway], expected: &BTreeSet<String>) {
    converges_in(ROOM, gateways, expected).await;
}

/// A token may subscribe the connections of a user to the user's own address. Its messages come by another
/// topic than those of channels.
#[tokio::test]
async fn connections_of_a_user_hear_of_each_other_at_several_gateways() {
    let redis = Redis::start().await;
    let config = format!(
        "redis.url = '{}'\nchannel = {{ join_leave = true, force_push_join_leave = true }}",
        redis.url()
    );
    let start = async || {
        let gateway = Gateway::with(&config).plugin("10-auth-jwt", "auth-jwt", &token::settings());
        gateway.start().await
    };
    let [here, there] = [start().await, start().await];
    let connect = async |gateway: &Gateway| {
        let token = token::with("ann", json!({ "channels": ["#ann"] }));
        Client::connect_with(gateway, json!({ "token": token })).await
    };
    let mut first = connect(&here).await;
    let own = first.push().await["join"]["info"]["client"].take();
    let second = connect(&there).await;
    let joined = first.push().await["join"]["info"].take();
    assert_eq!(joined["user"], "ann", "{joined}");
    assert_ne!(joined["client"], own);
    second.close().await;
    assert_eq!(first.push().await["leave"]["info"]["client"], joined["client"]);
    for gateway in [&here, &there] {
        assert!(gateway.log().matching(&["cannot decode it"]).is_empty());
    }
}

#[tokio::test]
async fn presence_is_the_same_everywhere_and_has_no_ghosts() {
    let redis = Redis::start().await;
    let (a, b) = (node(&redis.url()).await, node(&redis.url()).await);
    let mut c = node(&redis.url()).await;
    let mut one = member(&a, "ann").await;
    let two = member(&b, "ann").await;
    let (three, four) = (member(&c, "bob").await, member(&c, "eve").await);
    converges(&[&a, &b, &c], &ids(&[&one, &two, &three, &four])).await;
    for gateway in [&a, &b, &c] {
        assert_eq!(count(gateway).await, json!({ "num_clients": 4, "num_users": 3 }), "users count once");
    }
    // A client sees itself at once.
    let mut late = Client::connect_as(&a, "joe").await;
    let subscribe = late.command("subscribe", json!({ "channel": "room:1", "join_leave": true })).await;
    let asked = late.command("presence", json!({ "channel": "room:1" })).await;
    let counted = late.command("presence_stats", json!({ "channel": "room:1" })).await;
    late.reply(subscribe, "subscribe").await.unwrap();
    assert!(late.reply(asked, "presence").await.unwrap()["presence"][&late.id].is_object());
    let counted = late.reply(counted, "presence_stats").await.unwrap();
    assert_eq!(counted, json!({ "num_clients": 5, "num_users": 4 }));
    converges(&[&b], &ids(&[&one, &two, &three, &four, &late])).await;

    one.ask("unsubscribe", json!({ "channel": "room:1" })).await.unwrap();
    converges(&[&a, &b, &c], &ids(&[&two, &three, &four, &late])).await;
    assert_eq!(count(&b).await, json!({ "num_clients": 4, "num_users": 4 }), "ann is still there");

    c.kill();
    converges(&[&a, &b], &ids(&[&two, &late])).await;
    assert_eq!(count(&b).await, json!({ "num_clients": 2, "num_users": 2 }));
    // Each of those who died with their gateway leaves once.
    let mut left = Vec::new();
    while left.len() < 3 {
        let push = late.push().await;
        if let Some(client) = push["leave"]["info"]["client"].as_str() {
            left.push(client.to_owned());
        }
    }
    assert_eq!(left[0], one.id);
    assert_eq!(BTreeSet::from_iter(left[1..].iter().cloned()), ids(&[&three, &four]));
    eventually_within(CONVERGED, "nothing left of the dead gateway", async || {
        let settled =
            |gateway: &Gateway| gateway.log().matching(&["data of a dead gateway was taken over"]).len();
        (settled(&a) + settled(&b) == 1).then_some(())
    })
    .await;
    assert_eq!(redis.ask(&["HLEN", "gateway:dead:{nodes}"]).await.text(), "0");
}

#[tokio::test]
async fn presence_comes_back_with_redis() {
    let mut redis = Redis::start().await;
    let (a, b) = (node(&redis.url()).await, node(&redis.url()).await);
    let (one, mut two) = (member(&a, "ann").await, member(&b, "bob").await);
    converges(&[&a, &b], &ids(&[&one, &two])).await;
    redis.kill();
    let refused = two.ask("presence", json!({ "channel": "room:1" })).await.unwrap_err();
    assert_eq!((refused.code, refused.temporary), (100, true), "half of it is not passed off as all");
    two.close().await;
    let three = member(&b, "eve").await;
    redis.revive(Data::Lost).await;
    converges(&[&a, &b], &ids(&[&one, &three])).await;
    assert_eq!(count(&a).await, json!({ "num_clients": 2, "num_users": 2 }));
    // Somebody empties Redis, and no connection ends.
    redis.ask(&["FLUSHALL"]).await;
    converges(&[&a, &b], &ids(&[&one, &three])).await;
}

#[tokio::test]
async fn a_gateway_that_was_only_cut_off_has_its_members_back() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let (cut, whole) = (node(&redis.url_at(proxy.address())).await, node(&redis.url()).await);
    let (one, two) = (member(&cut, "ann").await, member(&whole, "bob").await);
    let mut three = member(&cut, "eve").await;
    converges(&[&cut, &whole], &ids(&[&one, &two, &three])).await;
    proxy.cut();
    converges(&[&whole], &ids(&[&two])).await;
    three.ask("unsubscribe", json!({ "channel": "room:1" })).await.unwrap();
    proxy.heal();
    converges(&[&cut, &whole], &ids(&[&one, &two])).await;
}
