//! Three gateways on one Redis that fails in every way it can: nobody misses anything without being told,
//! nothing comes twice or in the wrong order, health tells the truth, and everybody is back soon.

mod scene;

use std::time::Duration;

use gateway_tests::{Cluster, Data, Redis, Sentinels, eventually_within};
use rustix::process::Signal;
use tokio::time::sleep;

use self::scene::{CHANNELS, Expected, SUBSCRIBERS, SUBSCRIPTIONS, Scene};

#[tokio::test]
async fn a_redis_that_restarts_empty_resets_every_subscription_and_loses_nothing_silently() {
    let mut scene = Scene::open(Redis::start().await).await;
    let fault = scene.fault("kill -9, back without its data");
    scene.redis.kill();
    scene.pause(Duration::from_secs(2)).await;
    scene.redis.revive(Data::Lost).await;
    let report = scene.finish(fault, Expected::DOWN).await;
    assert!(report.resets >= SUBSCRIPTIONS, "another stream, and everybody is told: {report}");
}

#[tokio::test]
async fn a_redis_that_restarts_with_its_data_loses_nothing_silently() {
    let mut scene = Scene::open(Redis::with("").persistent().start().await).await;
    let fault = scene.fault("kill -9, back with its data");
    scene.redis.kill();
    scene.pause(Duration::from_secs(2)).await;
    scene.redis.revive(Data::Kept).await;
    scene.finish(fault, Expected::DOWN).await;
}

#[tokio::test]
async fn publishers_get_an_answer_in_time_while_redis_is_frozen() {
    let scene = Scene::open(Redis::start().await).await;
    let fault = scene.fault("SIGSTOP for 5 s");
    scene.redis.freeze().await;
    scene.pause(Duration::from_secs(5)).await;
    scene.redis.thaw();
    let report = scene.finish(fault, Expected::DOWN).await;
    assert!(report.slowest_answer < Duration::from_secs(5), "a publisher is told in time: {report}");
}

#[tokio::test]
async fn only_the_gateway_that_is_cut_off_from_redis_reports_it_and_nothing_is_lost_silently() {
    let scene = Scene::open(Redis::start().await).await;
    let fault = scene.fault("connections of one gateway reset, new ones refused, 3 s");
    scene.network().cut();
    scene.pause(Duration::from_secs(3)).await;
    scene.network().heal();
    scene.finish(fault, Expected::ONE_NODE_DOWN).await;
}

#[tokio::test]
async fn only_the_gateway_whose_network_swallows_everything_reports_it_and_nothing_is_lost_silently() {
    let scene = Scene::open(Redis::start().await).await;
    let fault = scene.fault("nothing passes to and from one gateway, 5 s");
    scene.network().freeze();
    scene.pause(Duration::from_secs(5)).await;
    scene.network().heal();
    scene.finish(fault, Expected::ONE_NODE_DOWN).await;
}

#[tokio::test]
async fn a_slow_network_to_redis_refuses_nothing_and_resets_nothing() {
    let scene = Scene::open(Redis::start().await).await;
    let fault = scene.fault("200 ms to and from one gateway, 3 s");
    scene.network().delay(Duration::from_millis(200));
    scene.pause(Duration::from_secs(3)).await;
    scene.network().heal();
    let report = scene.finish(fault, Expected::WELL).await;
    assert_eq!((report.refused, report.unanswered, report.resets), (0, 0, 0), "slow is not broken: {report}");
}

#[tokio::test]
async fn a_frozen_gateway_does_not_slow_the_others() {
    let scene = Scene::open(Redis::start().await).await;
    let fault = scene.fault("SIGSTOP of one gateway for 4 s");
    scene.gateways[0].signal(Signal::STOP);
    scene.pause(Duration::from_secs(4)).await;
    let slowest = scene.slowest_delivery(&fault, 1..3);
    println!("slowest delivery of the others: {} ms", slowest.as_millis());
    scene.gateways[0].signal(Signal::CONT);
    scene.finish(fault, Expected::ONE_NODE_DOWN).await;
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[tokio::test]
async fn redis_without_memory_refuses_publications_and_delivers_none_of_them() {
    let scene = Scene::open(Redis::start().await).await;
    let fault = scene.fault("maxmemory reached, 2 s");
    scene.redis.set("maxmemory", "1").await;
    scene.pause(Duration::from_secs(2)).await;
    scene.redis.set("maxmemory", "0").await;
    let report = scene.finish(fault, Expected::DOWN).await;
    assert!(report.refused > 0, "{report}");
    assert_eq!(report.refused_but_delivered, 0, "a publication is refused as a whole: {report}");
}

#[tokio::test]
async fn gateways_report_a_changed_password_and_lose_nothing_silently() {
    let scene = Scene::open(scene::with_user().await).await;
    let fault = scene.fault("password changed, connections closed, 2 s");
    let ask = async |command: &[&str]| scene.redis.ask(command).await;
    ask(&["ACL", "SETUSER", scene::USER, "resetpass", ">other"]).await;
    ask(&["CLIENT", "KILL", "USER", scene::USER]).await;
    scene.pause(Duration::from_secs(2)).await;
    ask(&["ACL", "SETUSER", scene::USER, "resetpass", &format!(">{}", scene::PASSWORD)]).await;
    scene.finish(fault, Expected::DOWN).await;
}

#[tokio::test]
async fn gateways_without_permission_to_publish_report_it_and_deliver_nothing_that_they_refused() {
    let scene = Scene::open(scene::with_user().await).await;
    let fault = scene.fault("scripts and channels not permitted any more, 2 s");
    let ask = async |command: &[&str]| scene.redis.ask(command).await;
    ask(&["ACL", "SETUSER", scene::USER, "-@scripting", "resetchannels"]).await;
    scene.pause(Duration::from_secs(2)).await;
    ask(&["ACL", "SETUSER", scene::USER, "+@scripting", "allchannels"]).await;
    let report = scene.finish(fault, Expected::DOWN).await;
    assert_eq!(report.refused_but_delivered, 0, "{report}");
}

#[tokio::test]
async fn five_restarts_of_redis_in_a_row_lose_nothing_silently() {
    let mut scene = Scene::open(Redis::with("").persistent().start().await).await;
    for _ in 0..4 {
        scene.redis.kill();
        scene.pause(Duration::from_millis(300)).await;
        scene.redis.revive(Data::Kept).await;
        let back = scene.ledger.now();
        scene.ledger.live_again(back, scene::START).await;
        sleep(Duration::from_millis(200)).await;
    }
    let fault = scene.fault("kill -9 for the fifth time, back with its data");
    scene.redis.kill();
    scene.pause(Duration::from_millis(300)).await;
    scene.redis.revive(Data::Kept).await;
    scene.finish(fault, Expected::DOWN).await;
}

#[tokio::test]
async fn sentinels_replace_a_killed_master_and_every_subscription_is_reset() {
    let mut scene = Scene::on_sentinels(Sentinels::start().await).await;
    let old = scene.redis.master().await;
    let fault = scene.fault("kill -9 of the master, the Sentinels promote a replica");
    scene.redis.servers()[old].kill();
    scene.redis.promoted(old).await;
    let report = scene.finish(fault, Expected::DOWN).await;
    assert!(report.resets >= SUBSCRIPTIONS, "another server begins other streams: {report}");
}

#[tokio::test]
async fn sentinels_replace_a_frozen_master_and_every_subscription_is_reset() {
    let mut scene = Scene::on_sentinels(Sentinels::start().await).await;
    let old = scene.redis.master().await;
    let fault = scene.fault("SIGSTOP of the master until a replica is promoted, and 1 s longer");
    scene.redis.servers()[old].freeze().await;
    scene.redis.promoted(old).await;
    let promoted = scene.ledger.now();
    scene.pause(Duration::from_secs(1)).await;
    scene.redis.servers()[old].thaw();
    let report = scene.finish_after(fault, promoted, Expected::DOWN).await;
    assert!(report.resets >= SUBSCRIPTIONS, "{report}");
}

/// As behind a cut between it and the Sentinels: nobody tells it that it is the master no more, and it takes
/// what it gets.
#[tokio::test]
async fn gateways_leave_a_replaced_master_that_still_acknowledges() {
    let mut scene = Scene::on_sentinels(Sentinels::start().await).await;
    let old = scene.redis.master().await;
    scene.redis.servers()[old].ask(&["ACL", "SETUSER", "default", "-slaveof", "-replicaof"]).await;
    let fault = scene.fault("another master, the old one never hears of it");
    scene.redis.failover().await;
    let promoted = scene.ledger.now();
    let old = &scene.redis.servers()[old];
    eventually_within(Duration::from_secs(5), "the old master to be left", async || {
        old.ask(&["PUBSUB", "CHANNELS", "gateway:*"]).await.list().is_empty().then_some(())
    })
    .await;
    assert_eq!(old.info("replication").await["role"], "master", "it has not heard of it");
    let report = scene.finish_after(fault, promoted, Expected::BRIEFLY).await;
    assert!(report.resets >= SUBSCRIPTIONS, "{report}");
}

#[tokio::test]
async fn a_cluster_replaces_a_killed_master_and_the_subscriptions_of_its_slots_are_reset() {
    let mut scene = Scene::on_cluster(Cluster::start().await).await;
    let (slot, old) = scene.place_of("news:a").await;
    let fault = scene.fault("kill -9 of the master of one slot, its replica takes over");
    scene.redis.servers()[old].kill();
    scene.redis.promoted(slot, old).await;
    let report = scene.finish(fault, Expected::DOWN).await;
    assert!(report.resets >= SUBSCRIBERS, "another server begins other streams: {report}");
}

#[tokio::test]
async fn a_cluster_replaces_a_frozen_master_and_the_subscriptions_of_its_slots_are_reset() {
    let mut scene = Scene::on_cluster(Cluster::start().await).await;
    let (slot, old) = scene.place_of("news:a").await;
    let fault =
        scene.fault("SIGSTOP of the master of one slot until its replica has taken over, and 1 s longer");
    scene.redis.servers()[old].freeze().await;
    scene.redis.promoted(slot, old).await;
    let promoted = scene.ledger.now();
    scene.pause(Duration::from_secs(1)).await;
    scene.redis.servers()[old].thaw();
    let report = scene.finish_after(fault, promoted, Expected::DOWN).await;
    assert!(report.resets >= SUBSCRIBERS, "{report}");
}

#[tokio::test]
async fn a_requested_failover_in_a_cluster_resets_the_subscriptions_of_its_slots() {
    let scene = Scene::on_cluster(Cluster::start().await).await;
    let (slot, _) = scene.place_of("news:a").await;
    let fault = scene.fault("the replica of the master of one slot takes over while both are well");
    scene.redis.failover(slot).await;
    let report = scene.finish(fault, Expected::BRIEFLY).await;
    assert!(report.resets >= SUBSCRIBERS, "{report}");
}

#[tokio::test]
async fn moving_the_slots_of_all_channels_resets_every_subscription_and_loses_nothing_silently() {
    let scene = Scene::on_cluster(Cluster::start().await).await;
    let fault = scene.fault("the slots of all channels and of the nodes moved, each twice");
    for _ in 0..2 {
        for name in CHANNELS.into_iter().chain(["nodes"]) {
            let (slot, owner) = scene.place_of(name).await;
            scene.redis.begin_move(slot, (owner + 1) % 3).await;
            // As long as it takes to move a large slot.
            scene.pause(Duration::from_millis(200)).await;
            scene.redis.end_move(slot, (owner + 1) % 3).await;
        }
    }
    let report = scene.finish(fault, Expected::BRIEFLY).await;
    assert!(report.resets >= SUBSCRIPTIONS, "another server begins other streams: {report}");
    assert_eq!(report.refused_but_delivered, 0, "{report}");
}

#[tokio::test]
async fn a_killed_server_of_three_resets_the_subscriptions_of_its_own_channels() {
    let servers = vec![Redis::start().await, Redis::start().await, Redis::start().await];
    let mut scene = Scene::on_servers(servers).await;
    let victim = scene.server_of("news:a").await;
    let fault = scene.fault("kill -9 of one server of three, back without its data");
    scene.redis[victim].kill();
    scene.pause(Duration::from_secs(2)).await;
    scene.redis[victim].revive(Data::Lost).await;
    let report = scene.finish(fault, Expected::DOWN).await;
    assert!(report.resets >= SUBSCRIBERS, "its channels are other streams: {report}");
}
