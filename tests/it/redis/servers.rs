//! The Redis servers that other tests use behave as those tests rely on.

use gateway_tests::{Cluster, Data, PATIENCE, Redis, RedisReply, Sentinels, Tool};

async fn value(redis: &Redis) -> RedisReply {
    redis.ask(&["GET", "key"]).await
}

#[tokio::test]
async fn a_server_comes_back_with_its_data_or_without() {
    let mut volatile = Redis::start().await;
    let mut persistent = Redis::with("").persistent().start().await;
    for redis in [&mut volatile, &mut persistent] {
        redis.ask(&["SET", "key", "kept"]).await;
        redis.kill();
        assert!(redis.try_ask(&["PING"]).await.is_err());
        redis.revive(Data::Kept).await;
    }
    assert_eq!(value(&volatile).await, RedisReply::Nothing);
    assert_eq!(value(&persistent).await.text(), "kept");
    persistent.kill();
    persistent.revive(Data::Lost).await;
    assert_eq!(value(&persistent).await, RedisReply::Nothing);
}

#[tokio::test]
async fn a_frozen_server_is_silent_and_goes_on() {
    let redis = Redis::start().await;
    redis.freeze().await;
    assert_eq!(redis.try_ask(&["PING"]).await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    redis.thaw();
    assert_eq!(redis.ask(&["PING"]).await.text(), "PONG");
}

#[tokio::test]
async fn passwords_users_and_memory_have_limits() {
    let redis = Redis::with("").password("open").user("reader", ">page ~a:* +get").start().await;
    redis.set("maxmemory", "1").await;
    let full = redis.try_ask(&["SET", "key", "value"]).await.unwrap();
    assert!(matches!(&full, RedisReply::Error(error) if error.starts_with("OOM")), "{full:?}");
    let users = redis.ask(&["ACL", "LIST"]).await.list();
    assert!(users.iter().any(|user| user.text().starts_with("user reader on")), "{users:?}");
    assert_eq!(redis.url_as("reader", "page"), format!("redis://reader:page@{}", redis.address()));
}

#[tokio::test]
async fn a_server_with_tls_answers_who_trusts_its_certificate() {
    let redis = Redis::with("").tls().start().await;
    let port = redis.tls_address().port().to_string();
    let ping = |authority: &str| {
        let tool = Tool::new("redis-cli").arg("-h").arg("localhost").arg("-p").arg(&port);
        tool.arg("--tls").arg("--cacert").arg(authority).arg("PING").output(PATIENCE)
    };
    let trusting = ping(redis.certificate().to_str().unwrap()).await;
    assert_eq!(String::from_utf8_lossy(&trusting.stdout).trim(), "PONG");
    let other = Redis::with("").tls().start().await;
    assert!(!ping(other.certificate().to_str().unwrap()).await.status.success());
}

#[tokio::test]
async fn sentinels_replace_a_master_that_was_killed() {
    let mut group = Sentinels::start().await;
    let old = group.master().await;
    group.servers()[old].ask(&["SET", "key", "kept"]).await;
    group.servers()[old].ask(&["WAIT", "2", "1000"]).await;
    group.servers()[old].kill();
    let new = group.promoted(old).await;
    assert_eq!(value(&group.servers()[new]).await.text(), "kept");
    group.servers()[old].revive(Data::Kept).await;
}

#[tokio::test]
async fn a_cluster_moves_slots_and_replaces_masters() {
    let mut cluster = Cluster::start().await;
    let slot = cluster.slot("key").await;
    let owner = cluster.owner(slot).await;
    cluster.servers()[owner].ask(&["SET", "key", "kept"]).await;
    let other = (owner + 1) % 3;
    cluster.reshard(slot, other).await;
    assert_eq!(cluster.owner(slot).await, other);
    assert_eq!(value(&cluster.servers()[other]).await.text(), "kept");
    cluster.servers()[other].ask(&["WAIT", "1", "1000"]).await;
    cluster.servers()[other].kill();
    let new = cluster.promoted(slot, other).await;
    assert_eq!(value(&cluster.servers()[new]).await.text(), "kept");
}
