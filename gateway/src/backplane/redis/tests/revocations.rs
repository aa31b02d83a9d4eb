//! Gateways exchange revocations by a real server.

use super::*;
use crate::backplane::redis::exchange::Exchange;
use crate::revocation::{Entry, Revocations, Subject};

/// A gateway that does nothing but this.
struct Gateway {
    list: Arc<Revocations>,
    exchange: Exchange,
}

impl Gateway {
    fn new() -> Self {
        Self::knowing(Arc::new(Revocations::new(2_000, true)))
    }

    /// One that comes over a new connection, with this list.
    fn knowing(list: Arc<Revocations>) -> Self {
        let config = Arc::new(Config::parse("redis.url = 'redis://127.0.0.1:1'", "test").unwrap());
        let parts = Parts {
            config: config.clone(),
            inboxes: Arc::new([]),
            ids: ConnectionIds::new(5),
            clock: Clock::start(),
            metrics: Arc::default(),
            teller: None,
            name: "test".into(),
            phase: tokio::sync::watch::channel(crate::shutdown::Phase::Running).1,
            revocations: list.clone(),
            random: [1, getrandom::u64().unwrap()],
        };
        let (_, runner) = Redis::new(config.redis.as_ref().unwrap(), parts);
        Self { list, exchange: runner.revocations() }
    }

    async fn round(&mut self, bench: &mut Bench) {
        self.exchange.exchange(&mut bench.connection, "PUBLISH").await.unwrap();
    }

    fn block(&self, user: &str, expires_at: Option<u64>) {
        self.list.revoke(now(), blocked(user), expires_at, 0).unwrap();
    }

    fn lift(&self, user: &str) {
        self.list.lift(now(), &blocked(user), false).unwrap();
    }

    /// The ids of what is in force.
    fn ids(&self) -> Vec<String> {
        self.list.page(now(), None, usize::MAX).iter().map(|entry| entry.subject.to_string()).collect()
    }
}

fn now() -> u64 {
    Clock::start().now().unix
}

fn blocked(user: &str) -> Subject {
    Subject::User(user.into())
}

/// Waits until an entry that lasts a second is over by the clock of the server.
async fn wait_for_end(bench: &mut Bench) {
    bench.ask(&["SET", "second", "1", "PX", "1100"]).await;
    while bench.ask(&["EXISTS", "second"]).await == Value::Int(1) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const LIST: &str = "gateway:revoked:{nodes}";
const ORDER: &str = "gateway:revoked-order:{nodes}";

#[tokio::test]
async fn what_one_revokes_or_lifts_the_others_know_after_a_round() {
    let (mut bench, mut a, mut b) = (Bench::new().await, Gateway::new(), Gateway::new());
    b.round(&mut bench).await;
    a.block("ann", None);
    a.list.revoke(now(), Subject::UserTokens("bob".into()), Some(now() / 1000 + 60), 7).unwrap();
    a.round(&mut bench).await;
    assert!(a.list.to_share(now(), 10).is_empty(), "it is written");
    b.round(&mut bench).await;
    assert_eq!(b.list.all(), a.list.all());
    b.lift("ann");
    b.round(&mut bench).await;
    a.round(&mut bench).await;
    assert_eq!(a.ids(), ["user_tokens:bob"]);
    assert_eq!(b.list.all(), a.list.all());
}

#[tokio::test]
async fn a_server_that_has_lost_everything_gets_it_from_whoever_knows_it() {
    let (mut bench, mut a, mut b) = (Bench::new().await, Gateway::new(), Gateway::new());
    a.block("ann", None);
    a.block("bob", None);
    a.round(&mut bench).await;
    a.lift("bob");
    a.round(&mut bench).await;
    b.round(&mut bench).await;
    bench.ask(&["FLUSHALL"]).await;
    b.block("eve", None);
    b.round(&mut bench).await;
    a.round(&mut bench).await;
    let mut c = Gateway::new();
    c.round(&mut bench).await;
    assert_eq!(c.ids(), ["user:ann", "user:eve"]);
    assert_eq!(c.list.all().len(), 3, "also that bob was let in again");
}

#[tokio::test]
async fn a_failover_that_has_lost_the_last_writes_is_made_good() {
    let (mut bench, mut a, mut b) = (Bench::new().await, Gateway::new(), Gateway::new());
    a.block("ann", None);
    a.round(&mut bench).await;
    let before = bench.ask(&["DUMP", LIST]).await;
    let order = bench.ask(&["DUMP", ORDER]).await;
    a.block("bob", None);
    a.round(&mut bench).await;
    for (key, dump) in [(LIST, before), (ORDER, order)] {
        let Value::BulkString(dump) = dump else { panic!("{dump:?}") };
        let mut command = redis::cmd("RESTORE");
        command.arg(key).arg(0).arg(dump).arg("REPLACE");
        bench.connection.send_packed_command(&command).await.unwrap();
    }
    // Another gateway changes as much at the new server, so that the number of changes tells nothing.
    b.block("eve", None);
    b.round(&mut bench).await;
    let mut again = Gateway::knowing(a.list.clone());
    again.round(&mut bench).await;
    b.round(&mut bench).await;
    assert_eq!(b.ids(), ["user:ann", "user:bob", "user:eve"]);
    assert_eq!(again.ids(), b.ids());
}

#[tokio::test]
async fn a_gateway_that_was_cut_off_does_not_bring_back_what_was_lifted() {
    let (mut bench, mut a, mut b) = (Bench::new().await, Gateway::new(), Gateway::new());
    a.block("ann", None);
    a.round(&mut bench).await;
    b.round(&mut bench).await;
    a.lift("ann");
    a.round(&mut bench).await;
    // It comes back over a new connection, and with a change of its own.
    b.block("bob", None);
    let mut b = Gateway::knowing(b.list.clone());
    b.round(&mut bench).await;
    a.round(&mut bench).await;
    assert_eq!((a.ids(), b.ids()), (vec!["user:bob".to_owned()], vec!["user:bob".to_owned()]));
}

#[tokio::test]
async fn a_long_list_is_read_and_written_in_parts() {
    let (mut bench, mut a, mut b) = (Bench::new().await, Gateway::new(), Gateway::new());
    (0..1_234).for_each(|number| a.block(&number.to_string(), None));
    a.round(&mut bench).await;
    b.round(&mut bench).await;
    assert_eq!(b.ids().len(), 1_234);
    assert!(b.list.to_share(now(), 10).is_empty(), "the server lacks nothing");
}

#[tokio::test]
async fn the_keys_last_as_long_as_the_longest_entry_and_expired_ones_go() {
    let (mut bench, mut a) = (Bench::new().await, Gateway::new());
    let until = now() / 1000 + 100;
    a.block("ann", Some(until));
    a.block("bob", Some(now() / 1000 + 1));
    a.round(&mut bench).await;
    let expiry = Value::Int(i64::try_from(until * 1000).unwrap());
    for key in [LIST, ORDER] {
        assert_eq!(bench.ask(&["PEXPIRETIME", key]).await, expiry);
    }
    wait_for_end(&mut bench).await;
    a.list.sweep(now());
    a.round(&mut bench).await;
    assert_eq!(
        bench.ask(&["ZRANGE", ORDER, "0", "-1"]).await,
        Value::Array(vec![Value::BulkString(b"user:ann".into())])
    );
    assert_eq!(bench.ask(&["HEXISTS", LIST, "user:bob"]).await, Value::Int(0));
}

#[tokio::test]
async fn an_older_version_does_not_replace_a_newer_one_and_is_not_dropped_for_it() {
    let (mut bench, mut a, mut b) = (Bench::new().await, Gateway::new(), Gateway::new());
    a.list.merge(now(), Entry { issued_before: 2, ..Entry::new(Subject::UserTokens("ann".into()), 20) });
    a.round(&mut bench).await;
    b.list.merge(now(), Entry { issued_before: 1, ..Entry::new(Subject::UserTokens("ann".into()), 10) });
    b.list.write_again([Subject::UserTokens("ann".into())]);
    b.round(&mut bench).await;
    assert_eq!(b.list.all(), a.list.all());
    assert_eq!(a.list.all()[0].version, 20);
}

#[tokio::test]
async fn two_changes_in_the_same_millisecond_come_to_the_same_whoever_is_first() {
    let block = Entry::new(blocked("ann"), 20);
    let lift = Entry { lifted: true, expires_at: Some(now() / 1000 + 60), ..block.clone() };
    for order in [[block.clone(), lift.clone()], [lift, block]] {
        let (mut bench, mut a, mut b) = (Bench::new().await, Gateway::new(), Gateway::new());
        for (gateway, entry) in [&mut a, &mut b].into_iter().zip(order) {
            gateway.list.merge(now(), entry);
            gateway.list.write_again([blocked("ann")]);
            gateway.round(&mut bench).await;
        }
        a.round(&mut bench).await;
        assert_eq!((a.ids(), b.ids()), (vec!["user:ann".to_owned()], vec!["user:ann".to_owned()]));
    }
}

#[tokio::test]
async fn a_gateway_whose_clock_is_ahead_takes_nothing_from_the_others() {
    let (mut bench, mut a, mut ahead) = (Bench::new().await, Gateway::new(), Gateway::new());
    a.block("ann", Some(now() / 1000 + 600));
    a.round(&mut bench).await;
    ahead.round(&mut bench).await;
    ahead.list.sweep(now() + 3_600_000);
    assert!(ahead.ids().is_empty());
    ahead.round(&mut bench).await;
    let mut new = Gateway::new();
    new.round(&mut bench).await;
    assert_eq!(new.ids(), ["user:ann"]);
}

#[tokio::test]
async fn what_gives_way_in_a_full_list_goes_from_the_server_too() {
    let mut bench = Bench::new().await;
    let mut a = Gateway::knowing(Arc::new(Revocations::new(10, true)));
    for number in 0..60 {
        let user = number.to_string();
        a.block(&user, None);
        a.lift(&user);
        a.round(&mut bench).await;
    }
    let Value::Int(known) = bench.ask(&["ZCARD", ORDER]).await else { panic!("a number") };
    assert!(known <= 20, "{known}");
}

#[tokio::test]
async fn a_list_that_has_lost_one_of_its_keys_gets_everything_back() {
    for lost in [LIST, ORDER] {
        let (mut bench, mut a) = (Bench::new().await, Gateway::new());
        a.block("ann", None);
        a.round(&mut bench).await;
        bench.ask(&["DEL", lost]).await;
        let mut b = Gateway::new();
        b.block("bob", None);
        b.round(&mut bench).await;
        a.round(&mut bench).await;
        let mut new = Gateway::new();
        new.round(&mut bench).await;
        assert_eq!(new.ids(), ["user:ann", "user:bob"], "{lost}");
    }
}
