//! The log of a start: it says to which servers the gateway is connected, and warns only if something is
//! wrong.

use std::time::Duration;

use gateway_tests::{Cluster, Data, Gateway, Proxy, Redis, Sentinels, eventually};

const LIMIT: Duration = Duration::from_secs(20);
const KEEPING: &str = "[namespaces.news]\nhistory_size = 100\nrecovery = true\nallow_subscribe = 'anyone'\n";

fn on(servers: &str) -> String {
    format!("client.anonymous = true\n[redis]\n{servers}\n{KEEPING}")
}

/// Starts on these servers. Returns once the gateway is connected to so many of them.
async fn started(servers: &str, count: usize) -> Gateway {
    let gateway = Gateway::start(&on(servers)).await;
    eventually("the connections", async || {
        (gateway.log().matching(&["redis connected"]).len() >= count).then_some(())
    })
    .await;
    gateway
}

#[tokio::test]
async fn a_good_start_on_one_server_says_which_and_warns_of_nothing() {
    let redis = Redis::with("").persistent().start().await;
    let gateway = started(&format!("url = '{}'", redis.url()), 1).await;
    let line = gateway.log().wait(&["redis connected"]).await;
    assert_eq!((&*line.level, line.field("server")), ("INFO", redis.address().to_string()), "{}", line.text);
    assert_eq!(gateway.log().complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn a_good_start_on_several_servers_or_a_cluster_warns_of_nothing() {
    let servers = [Redis::with("").persistent().start().await, Redis::with("").persistent().start().await];
    let urls: Vec<_> = servers.iter().map(|server| format!("'{}'", server.url())).collect();
    let gateway = started(&format!("urls = [{}]", urls.join(", ")), 2).await;
    assert_eq!(gateway.log().complaints(), Vec::<String>::new());
    for server in &servers {
        gateway.log().wait(&["redis connected", &server.address().to_string()]).await;
    }
}

#[tokio::test]
async fn a_start_without_redis_warns_once_with_the_address_and_the_reason() {
    let mut redis = Redis::with("").persistent().start().await;
    redis.kill();
    let gateway = Gateway::start(&on(&format!("url = '{}'", redis.url()))).await;
    let line = gateway.log().wait(&["backplane degraded"]).await;
    assert_eq!(line.level, "WARN", "{}", line.text);
    let cause = line.field("cause");
    assert!(cause.starts_with(&redis.address().to_string()) && cause.contains("refused"), "{cause}");
    assert!(line.field("next_step").contains("check that the server runs"), "{}", line.text);
    // A gateway is ready after two seconds of attempts.
    let complaints = gateway.log().complaints();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(gateway.log().matching(&["redis connected"]).is_empty());
    redis.revive(Data::Kept).await;
    gateway.log().wait_within(LIMIT, 0, &["backplane healthy"]).await;
    gateway.log().wait(&["redis connected"]).await;
    assert_eq!(gateway.log().complaints().len(), 1);
}

#[tokio::test]
async fn a_server_that_takes_its_time_is_reported_before_it_has_failed() {
    let redis = Redis::with("").persistent().start().await;
    let proxy = Proxy::to(redis.address()).await;
    proxy.freeze();
    let servers = format!("url = '{}'\ntimeout = '10s'", redis.url_at(proxy.address()));
    let gateway = Gateway::with(&on(&servers)).start_unready().await;
    let line = gateway.log().wait(&["backplane degraded"]).await;
    let cause = line.field("cause");
    assert!(cause.starts_with(&proxy.address().to_string()), "{cause}");
    assert!(cause.contains("not connected after 2s"), "{cause}");
}

#[tokio::test]
async fn sentinels_that_are_away_are_named() {
    let mut group = Sentinels::start().await;
    let addresses: Vec<_> = group.addresses().iter().map(|at| format!("'{at}'")).collect();
    let servers = format!("sentinels = [{}]\nsentinel_master = '{}'", addresses.join(", "), group.name());
    let gateway = started(&servers, 1).await;
    let degraded = gateway.log().matching(&["backplane degraded"]);
    assert!(degraded.is_empty(), "{degraded:?}");
    drop(gateway);
    let first = group.addresses()[0];
    group.sentinels().iter_mut().for_each(Redis::kill);
    let gateway = Gateway::start(&on(&servers)).await;
    let line = gateway.log().wait(&["backplane degraded"]).await;
    assert!(line.field("cause").contains(&first.to_string()), "{}", line.text);
}

#[tokio::test]
async fn a_cluster_is_no_trouble_at_a_good_start() {
    let cluster = Cluster::start().await;
    let seeds: Vec<_> = cluster.addresses().iter().map(|at| format!("'redis://{at}'")).collect();
    let gateway = started(&format!("cluster = [{}]", seeds.join(", ")), 3).await;
    let degraded = gateway.log().matching(&["backplane degraded"]);
    assert!(degraded.is_empty(), "{degraded:?}");
}
