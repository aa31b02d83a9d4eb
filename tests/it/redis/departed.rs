//! What a gateway that died cannot say any more another one does: plugins hear of each of its clients that it
//! has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use gateway_tests::{
    Client, Cluster, Data, Gateway, Proxy, Redis, RedisReply, eventually, eventually_within, wasm,
};
use serde_json::json;

/// A death is noticed, and somebody else has told the plugins, within this.
const TOLD: Duration = Duration::from_secs(10);
/// Of a gateway that died, for plugins.
const GATEWAY_DIED: &str = "3002";
/// Of a gateway that drains.
const SHUTDOWN: &str = "3001";
const CLIENTS: usize = 200;
const GRANTS: &str = "grants.effects = ['publish', 'set-attribute']";

/// Gateways whose plugin needs so long for each client that has gone.
async fn nodes(redis: &Redis, count: usize, thinks_ms: u64) -> Vec<Gateway> {
    nodes_on(&format!("redis.url = '{}'", redis.url()), count, thinks_ms).await
}

async fn nodes_on(redis: &str, count: usize, thinks_ms: u64) -> Vec<Gateway> {
    let config = format!("{redis}\n[namespaces.room]\nallow_subscribe = 'users'");
    let settings = format!(
        "{GRANTS}\n[config]\nthinks_ms = {thinks_ms}\n[limits]\ndeadline = '1s'\nlog_lines_per_second = 10000"
    );
    let nodes = Gateway::nodes(count, |_| {
        Gateway::with(&config).plugin("50-disconnect-log", "guest-disconnect-log", &settings)
    })
    .await;
    for node in &nodes {
        eventually("gateways that know each other", async || {
            (node.metrics().await.get("gateway_nodes") >= count as f64).then_some(())
        })
        .await;
    }
    nodes
}

async fn clients(gateway: &Gateway, count: usize) -> Vec<Client> {
    join_all((0..count).map(async |number| {
        Client::connect_with(gateway, json!({ "token": format!("user-{number}") })).await
    }))
    .await
}

/// Waits until Redis knows so many clients of gateways.
async fn written(redis: &Redis, count: usize) {
    eventually("clients that are written", async || (registered(redis).await == count).then_some(())).await;
}

async fn registered(redis: &Redis) -> usize {
    let script = "local n = 0 for _, key in ipairs(redis.call('KEYS', 'gateway:clients:*')) do \
        n = n + redis.call('HLEN', key) end return n";
    redis.ask(&["EVAL", script, "0"]).await.number() as usize
}

/// What the plugins of these gateways wrote, by connection.
fn told(gateways: &[&Gateway]) -> BTreeMap<String, Vec<String>> {
    let mut told = BTreeMap::<_, Vec<_>>::new();
    for line in gateways.iter().flat_map(|gateway| gateway.log().matching(&["gone: "])) {
        let text = line.message.split_once("gone: ").expect("it says so").1.to_owned();
        let (id, rest) = text.split_once(' ').expect("more than one word");
        told.entry(id.to_owned()).or_default().push(rest.to_owned());
    }
    told
}

fn ids(clients: &[Client]) -> BTreeSet<String> {
    clients.iter().map(|client| client.id.clone()).collect()
}

/// Waits until what gateways left behind is settled, and nothing of it lies in Redis.
async fn settled(redis: &Redis, gateways: &[&Gateway]) {
    eventually_within(TOLD, "an estate that is settled", async || {
        let settled = |gateway: &&Gateway| {
            !gateway.log().matching(&["data of a dead gateway was taken over"]).is_empty()
        };
        let left = redis.ask(&["HLEN", "gateway:dead:{nodes}"]).await.number();
        (gateways.iter().any(settled) && left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_clients_of_a_gateway_that_died_are_reported_once_each_and_as_they_were() {
    let redis = Redis::start().await;
    let mut nodes = nodes(&redis, 3, 0).await;
    let mut gone = clients(&nodes[0], CLIENTS).await;
    let mut stay = clients(&nodes[1], 5).await;
    stay[0].subscribe("room:gone").await;
    gone[7].ask("rpc", json!({ "method": "sit", "data": "front" })).await.unwrap();
    // One leaves by itself, before.
    gone.pop().unwrap().close().await;
    written(&redis, CLIENTS - 1 + 5).await;
    eventually("the plugin of the client's own gateway", async || {
        (told(&[&nodes[0]]).len() == 1).then_some(())
    })
    .await;
    nodes[0].kill();
    settled(&redis, &[&nodes[1], &nodes[2]]).await;
    let told = told(&[&nodes[1], &nodes[2]]);
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), ids(&gone));
    for (number, client) in gone.iter().enumerate() {
        let seat = if number == 7 { "front" } else { "back" };
        let expected = format!("user-{number} {GATEWAY_DIED} {seat} 127.0.0.1 centrifuge-json ");
        assert_eq!(told[&client.id].len(), 1, "exactly once");
        assert_eq!(told[&client.id][0].trim(), expected.trim());
    }
    assert_eq!(registered(&redis).await, 5, "nothing is left but who is there");
    let mut published = BTreeSet::new();
    while published.len() < CLIENTS {
        let publication = stay[0].publication("room:gone").await;
        published.insert(publication["data"].as_str().expect("an id").to_owned());
    }
    assert!(ids(&gone).is_subset(&published), "what the plugin does then is carried out");
}

#[tokio::test]
async fn where_one_gateway_died_over_it_the_next_goes_on() {
    let redis = Redis::start().await;
    let mut nodes = nodes(&redis, 3, 15).await;
    let gone = clients(&nodes[0], CLIENTS).await;
    written(&redis, CLIENTS).await;
    nodes[0].kill();
    let settler = eventually_within(TOLD, "a gateway in the middle of it", async || {
        (1..3).find(|node| (100..CLIENTS).contains(&told(&[&nodes[*node]]).len()))
    })
    .await;
    nodes[settler].kill();
    let by_first = told(&[&nodes[settler]]).len();
    assert!(by_first < CLIENTS, "it was in the middle");
    let other = 3 - settler;
    settled(&redis, &[&nodes[other]]).await;
    let told = told(&[&nodes[1], &nodes[2]]);
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), ids(&gone), "each at least once");
    let twice = told.values().filter(|reports| reports.len() > 1).count();
    println!("{by_first} were reported by the first, {twice} of them by the second as well");
    assert!(twice <= 64, "the second goes on with the step in which the first has died");
    assert_eq!(registered(&redis).await, 0);
}

#[tokio::test]
async fn a_gateway_that_drains_reports_everybody_itself() {
    let redis = Redis::start().await;
    let mut nodes = nodes(&redis, 2, 0).await;
    let gone = clients(&nodes[0], 50).await;
    written(&redis, 50).await;
    let going = join_all(gone.into_iter().map(async |mut client| {
        let id = client.id.clone();
        client.closed().await;
        id
    }));
    nodes[0].terminate();
    let ids: BTreeSet<_> = going.await.into_iter().collect();
    nodes[0].exit(TOLD).await;
    nodes[1].log().wait(&["another gateway has gone"]).await;
    let told = told(&[&nodes[0], &nodes[1]]);
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), ids);
    assert!(told.values().all(|reports| reports.len() == 1 && reports[0].contains(SHUTDOWN)), "{told:?}");
    assert_eq!(registered(&redis).await, 0);
    assert_eq!(
        redis.ask(&["HLEN", "gateway:dead:{nodes}"]).await.number(),
        0,
        "nobody has to settle anything"
    );
}

#[tokio::test]
async fn what_redis_has_lost_is_written_anew_and_reported_all_the_same() {
    let mut redis = Redis::start().await;
    let mut nodes = nodes(&redis, 2, 0).await;
    let mut gone = clients(&nodes[0], 30).await;
    written(&redis, 30).await;
    // Somebody empties it, and no connection ends.
    redis.ask(&["FLUSHALL"]).await;
    written(&redis, 30).await;
    // It is away, and comes back without its data; meanwhile somebody leaves.
    redis.kill();
    gone.pop().unwrap().close().await;
    redis.revive(Data::Lost).await;
    written(&redis, 29).await;
    nodes[0].kill();
    settled(&redis, &[&nodes[1]]).await;
    let told = told(&[&nodes[1]]);
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), ids(&gone));
    assert!(told.values().all(|reports| reports.len() == 1), "exactly once");
}

#[tokio::test]
async fn the_clients_of_a_gateway_that_was_cut_off_are_written_anew_when_it_is_back() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let alone = async |url: String| {
        nodes_on(&format!("redis.url = '{url}'"), 1, 0).await.pop().expect("one was asked for")
    };
    let (mut cut, whole) = (alone(redis.url_at(proxy.address())).await, alone(redis.url()).await);
    let mut clients = clients(&cut, 10).await;
    written(&redis, 10).await;
    proxy.cut();
    settled(&redis, &[&whole]).await;
    assert_eq!(told(&[&whole]).keys().cloned().collect::<BTreeSet<_>>(), ids(&clients));
    assert_eq!(registered(&redis).await, 0);
    // They are still there, and so is their gateway a moment later.
    clients.pop().unwrap().close().await;
    proxy.heal();
    written(&redis, 9).await;
    cut.kill();
    eventually_within(TOLD, "the second report of those who stayed", async || {
        let told = told(&[&whole]);
        clients.iter().all(|client| told[&client.id].len() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn redis_without_memory_hears_of_clients_when_it_has_some_again() {
    let redis = Redis::start().await;
    let mut nodes = nodes(&redis, 2, 0).await;
    let before = clients(&nodes[0], 5).await;
    written(&redis, 5).await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let meanwhile = clients(&nodes[0], 5).await;
    for client in before {
        client.close().await;
    }
    // Nobody can be written, and who has gone is taken away.
    written(&redis, 0).await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    written(&redis, 5).await;
    nodes[0].kill();
    settled(&redis, &[&nodes[1]]).await;
    let told = told(&[&nodes[1]]);
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), ids(&meanwhile));
}

#[tokio::test]
async fn only_clients_of_whom_a_plugin_wants_to_hear_are_written() {
    let redis = Redis::start().await;
    let nodes = nodes(&redis, 1, 0).await;
    let _clients = clients(&nodes[0], 3).await;
    written(&redis, 3).await;
    nodes[0].swap(|folder| folder.remove("50-disconnect-log.wasm")).await;
    written(&redis, 0).await;
    nodes[0].swap(|folder| folder.plugin("50-disconnect-log", &wasm("guest-disconnect-log"), GRANTS)).await;
    written(&redis, 3).await;
}

#[tokio::test]
async fn on_a_cluster_nobody_is_forgotten_when_the_slot_of_all_nodes_moves() {
    let cluster = Cluster::start().await;
    let mut nodes = nodes_on(&format!("redis.cluster = ['redis://{}']", cluster.address(0)), 2, 0).await;
    let slot = cluster.slot("{nodes}").await;
    let mut gone = clients(&nodes[0], 20).await;
    let to = (cluster.owner(slot).await + 1) % 3;
    cluster.reshard(slot, to).await;
    gone.extend(clients(&nodes[0], 20).await);
    let script = "local n = 0 for _, node in ipairs(redis.call('HKEYS', KEYS[1])) do \
        n = n + redis.call('HLEN', 'gateway:clients:{nodes}:' .. node) end return n";
    eventually("clients that are written at the new server", async || {
        let count = cluster.ask(to, &["EVAL", script, "1", "gateway:leases:{nodes}"]).await;
        (count == RedisReply::Number(40)).then_some(())
    })
    .await;
    nodes[0].kill();
    nodes[1].log().wait(&["another gateway is dead"]).await;
    nodes[1].log().wait(&["data of a dead gateway was taken over"]).await;
    let told = told(&[&nodes[1]]);
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), ids(&gone));
    assert!(told.values().all(|reports| reports.len() == 1), "exactly once");
}
