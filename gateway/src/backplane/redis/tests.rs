//! The scripts with a real `redis-server`, and a node without one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod anew;

use std::process::{Child, Command, Stdio};

use redis::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::backplane::inbox::Delivery;
use crate::backplane::redis::format::script::{self, Scripts};
use crate::backplane::{Idempotency, Most, PublishConditions, Repeat, Response, Retention, origin};
use crate::protocol::command::HistoryQuery;
use crate::supervisor::Supervisor;

mod revocations;

const PATIENCE: Duration = Duration::from_secs(10);
const KEPT: Retention = Retention { size: 5, ttl: Duration::from_secs(60), replicas: 0 };

const MOST: Most = Most { publications: 100, bytes: 1 << 20 };

/// A `redis-server` with a separate socket and folder.
pub(super) struct Server {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"]).arg(folder.path());
        command.arg("--unixsocket").arg(&socket).stdout(Stdio::null());
        let child = command.spawn().expect("redis-server is installed");
        Self { child, folder }
    }

    pub(super) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let url = format!("unix:{}", self.folder.path().join("redis.sock").display());
        let client = redis::Client::open(url).unwrap();
        timeout(PATIENCE, async {
            loop {
                match client.get_multiplexed_async_connection().await {
                    Ok(connection) => break connection,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        })
        .await
        .unwrap()
    }
}

/// Runs the scripts as a pipeline does.
struct Bench {
    _server: Server,
    connection: redis::aio::MultiplexedConnection,
    keys: Keys,
    scripts: Scripts,
    /// The replication id passed to the scripts.
    server: &'static str,
    streams: u32,
}

impl Bench {
    async fn new() -> Self {
        let server = Server::start();
        let mut connection = server.connection().await;
        let mut load = async |text: String| -> String {
            redis::cmd("SCRIPT").arg("LOAD").arg(text).query_async(&mut connection).await.unwrap()
        };
        let scripts = Scripts {
            publish_verb: "PUBLISH",
            publish: load(script::publish("PUBLISH")).await,
            spread: load(script::spread("PUBLISH")).await,
            recover: load(script::recover("PUBLISH")).await,
            history: load(script::history("PUBLISH")).await,
            probe: load(script::probe("PUBLISH")).await,
            presence_write: load(script::PRESENCE_WRITE.to_owned()).await,
            presence_read: load(script::PRESENCE_READ.to_owned()).await,
            presence_count: load(script::PRESENCE_COUNT.to_owned()).await,
            presence_take: load(script::PRESENCE_TAKE.to_owned()).await,
            occupancy: load(script::OCCUPANCY.to_owned()).await,
        };
        Self { _server: server, connection, keys: Keys::new("t"), scripts, server: "first", streams: 0 }
    }

    async fn run(&mut self, what: &What) -> Result<Response, super::commands::request::Refusal> {
        self.streams += 1;
        let fresh = format!("stream{}", self.streams);
        let command = what.command(&self.keys, &self.scripts, self.server, "t:anchor", &fresh);
        let mut pipeline = redis::pipe();
        pipeline.add_command(command);
        let mut replies = self.connection.send_packed_commands(&pipeline, 0, 1).await.unwrap();
        what.read(replies.pop().unwrap())
    }

    async fn publish(&mut self, data: &str, retention: Retention) -> Position {
        let body = wire::body(data.as_bytes(), true, None, None);
        let what = What::Publish {
            channel: news(),
            body,
            retention,
            patterns: false,
            skip_history: false,
            conditions: None,
        };
        match self.run(&what).await.unwrap() {
            Response::Published(published) => published.unwrap().top,
            other => panic!("{other:?}"),
        }
    }

    /// The missed offsets and the top of the stream.
    async fn recover(&mut self, since: Option<(u64, &str)>, max: usize) -> (Option<Vec<u64>>, Position) {
        self.recover_from(since, false, max).await
    }

    /// The newest offsets, for a subscriber to whom only these count.
    async fn latest(&mut self, offset: u64, epoch: &str, max: usize) -> Option<Vec<u64>> {
        self.recover_from(Some((offset, epoch)), true, max).await.0
    }

    async fn recover_from(
        &mut self,
        since: Option<(u64, &str)>,
        latest: bool,
        max: usize,
    ) -> (Option<Vec<u64>>, Position) {
        let since = since.map(|(offset, epoch)| Position { offset, epoch: epoch.into() });
        let most = Most { publications: max, bytes: 1 << 20 };
        let what = What::Recover { channel: news(), since, latest, most, retention: KEPT };
        match self.run(&what).await.unwrap() {
            Response::Recovered(Ok(Recovery { missed, top })) => {
                (missed.map(|missed| missed.iter().map(|one| one.offset).collect()), top)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn history(&mut self, query: HistoryQuery) -> Result<Vec<u64>, u32> {
        let what = What::History { channel: news(), query, most: MOST, retention: KEPT };
        match self.run(&what).await.unwrap() {
            Response::History(Ok(page)) => Ok(page.publications.iter().map(|one| one.offset).collect()),
            Response::History(Err(error)) => Err(error.code),
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&mut self, words: &[&str]) -> Value {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.connection.send_packed_command(&command).await.unwrap()
    }
}

fn news() -> Channel {
    Channel::parse("news:1").unwrap()
}

#[tokio::test]
async fn publications_are_numbered_from_one_and_the_oldest_give_way() {
    let mut bench = Bench::new().await;
    let first = bench.publish("1", KEPT).await;
    assert_eq!((first.offset, &*first.epoch), (1, "stream1"));
    for number in 2..=8 {
        assert_eq!(bench.publish("x", KEPT).await, Position { offset: number, epoch: first.epoch.clone() });
    }
    assert_eq!(bench.recover(Some((8, "stream1")), 9).await.0, Some(vec![]));
    assert_eq!(bench.recover(Some((6, "stream1")), 9).await.0, Some(vec![7, 8]));
    assert_eq!(bench.recover(Some((6, "")), 9).await.0, Some(vec![7, 8]));
    assert_eq!(bench.recover(Some((3, "stream1")), 9).await.0, Some(vec![4, 5, 6, 7, 8]));
    assert_eq!(bench.recover(Some((2, "stream1")), 9).await.0, None, "3 is not there any more");
    assert_eq!(bench.recover(Some((6, "stream1")), 1).await.0, None, "more than may be given");
    assert_eq!(bench.recover(Some((9, "stream1")), 9).await.0, None, "from the future");
    assert_eq!(bench.recover(Some((6, "other")), 9).await.0, None);
    assert_eq!(bench.recover(None, 9).await, (None, Position { offset: 8, epoch: "stream1".into() }));
}

#[tokio::test]
async fn history_is_read_in_both_directions() {
    let mut bench = Bench::new().await;
    for _ in 0..4 {
        bench.publish("x", KEPT).await;
    }
    let since = |offset, epoch: &str| Some(Position { offset, epoch: epoch.into() });
    let query = |limit, since, reverse| HistoryQuery { limit, since, reverse };
    assert_eq!(bench.history(query(-1, None, false)).await, Ok(vec![1, 2, 3, 4]));
    assert_eq!(bench.history(query(0, None, false)).await, Ok(vec![]));
    assert_eq!(bench.history(query(2, None, true)).await, Ok(vec![4, 3]));
    assert_eq!(bench.history(query(2, since(1, "stream1"), false)).await, Ok(vec![2, 3]));
    assert_eq!(bench.history(query(9, since(3, ""), true)).await, Ok(vec![2, 1]));
    assert_eq!(bench.history(query(9, since(1, "other"), false)).await, Err(112));
}

#[tokio::test]
async fn another_server_begins_another_stream() {
    let mut bench = Bench::new().await;
    for _ in 0..3 {
        bench.publish("x", KEPT).await;
    }
    bench.server = "promoted";
    let top = bench.publish("y", KEPT).await;
    assert_eq!(top.offset, 1, "what the other one has numbered meanwhile is not known here");
    assert_ne!(&*top.epoch, "stream1");
    assert_eq!(bench.recover(Some((1, "stream1")), 9).await.0, None);
    assert_eq!(bench.recover(Some((0, &top.epoch)), 9).await.0, Some(vec![1]));
}

#[tokio::test]
async fn what_somebody_deleted_is_never_taken_for_nothing_missed() {
    let mut bench = Bench::new().await;
    for _ in 0..3 {
        bench.publish("x", KEPT).await;
    }
    bench.ask(&["DEL", "t:stream:{news:1}"]).await;
    assert_eq!(bench.recover(Some((1, "stream1")), 9).await.0, None);
    assert_eq!(bench.publish("x", KEPT).await.offset, 4, "the position is still there");
    bench.ask(&["DEL", "t:top:{news:1}"]).await;
    let (missed, top) = bench.recover(Some((1, "stream1")), 9).await;
    assert_eq!((missed, top.offset), (None, 0));
    assert_ne!(&*top.epoch, "stream1");
}

#[tokio::test]
async fn what_is_removed_is_missing_for_those_who_come_back_for_it_and_offsets_go_on() {
    let mut bench = Bench::new().await;
    let remove = What::RemoveHistory { channel: news() };
    assert!(matches!(bench.run(&remove).await, Ok(Response::HistoryRemoved(Ok(())))), "nothing is there");
    for _ in 0..3 {
        bench.publish("x", KEPT).await;
    }
    assert!(matches!(bench.run(&remove).await, Ok(Response::HistoryRemoved(Ok(())))));
    let all = HistoryQuery { limit: -1, since: None, reverse: false };
    assert_eq!(bench.history(all.clone()).await, Ok(vec![]));
    assert_eq!(bench.recover(Some((2, "stream2")), 9).await.0, None);
    assert_eq!(bench.latest(2, "stream2", 9).await, None);
    let top = Position { offset: 3, epoch: "stream2".into() };
    assert_eq!(bench.recover(Some((3, "stream2")), 9).await, (Some(vec![]), top), "it has everything");
    assert_eq!(bench.publish("x", KEPT).await, Position { offset: 4, epoch: "stream2".into() });
    assert_eq!(bench.recover(Some((2, "stream2")), 9).await.0, None);
    assert_eq!(bench.recover(Some((3, "stream2")), 9).await.0, Some(vec![4]));
    assert_eq!(bench.history(all).await, Ok(vec![4]));
}

#[tokio::test]
async fn reading_writes_nothing() {
    let mut bench = Bench::new().await;
    bench.ask(&["SET", "t:anchor", "random"]).await;
    for _ in 0..2 {
        let (missed, top) = bench.recover(None, 9).await;
        assert_eq!((missed, top.offset), (None, 0));
        assert_eq!(bench.recover(Some((0, &top.epoch)), 9).await, (Some(vec![]), top.clone()));
        assert_eq!(bench.recover(Some((7, "other")), 9).await.0, None);
        assert_eq!(bench.history(HistoryQuery::default()).await, Ok(vec![]));
        assert_eq!(bench.history(HistoryQuery { limit: 9, ..HistoryQuery::default() }).await, Ok(vec![]));
    }
    let Value::Array(keys) = bench.ask(&["KEYS", "*"]).await else { panic!() };
    assert_eq!(keys, [Value::BulkString(b"t:anchor".to_vec())]);
    bench.publish("x", KEPT).await;
    bench.ask(&["PEXPIRE", "t:top:{news:1}", "5000"]).await;
    bench.recover(Some((0, "")), 9).await;
    let Value::Int(left) = bench.ask(&["PTTL", "t:top:{news:1}"]).await else { panic!() };
    assert!((1..=5000).contains(&left), "nor does it keep anything from expiring: {left}");
}

#[tokio::test]
async fn the_latest_is_what_counts_where_only_it_counts() {
    let mut bench = Bench::new().await;
    bench.ask(&["SET", "t:anchor", "random"]).await;
    let (_, empty) = bench.recover(None, 9).await;
    assert_eq!(bench.latest(0, "", 1).await, None, "nothing was published");
    let mut epoch = empty.epoch.clone();
    for _ in 0..5 {
        epoch = bench.publish("x", KEPT).await.epoch;
    }
    for (offset, epoch) in [(0, ""), (0, &*empty.epoch), (1, &*epoch), (9, &*epoch), (5, "other"), (5, "")] {
        assert_eq!(bench.latest(offset, epoch, 1).await, Some(vec![5]), "{offset} {epoch}");
    }
    assert_eq!(bench.latest(5, &epoch, 1).await, Some(vec![]), "it has the latest");
    assert_eq!(bench.latest(5, &empty.epoch, 1).await, Some(vec![]), "and so has who saw it begin");
    assert_eq!(bench.latest(1, &epoch, 3).await, Some(vec![5, 4, 3]), "newest first");
    assert_eq!(bench.recover_from(None, true, 3).await.0, None, "who does not recover gets nothing");
    bench.ask(&["DEL", "t:stream:{news:1}"]).await;
    assert_eq!(bench.latest(4, &epoch, 1).await, None, "it is not kept any more");
    assert_eq!(bench.latest(5, &epoch, 1).await, Some(vec![]));
}

#[tokio::test]
async fn who_read_that_nothing_was_published_stands_before_the_first_publication_and_no_other() {
    let mut bench = Bench::new().await;
    bench.ask(&["SET", "t:anchor", "random"]).await;
    let (_, empty) = bench.recover(None, 9).await;
    for number in 1..=3 {
        let top = bench.publish("x", KEPT).await;
        assert_eq!(top.offset, number);
        assert_ne!(top.epoch, empty.epoch);
        assert_eq!(origin(&top.epoch), origin(&empty.epoch), "who listens knows that it is the same place");
    }
    assert_eq!(bench.recover(Some((0, &empty.epoch)), 9).await.0, Some(vec![1, 2, 3]));
    assert_eq!(bench.recover(Some((2, &empty.epoch)), 9).await.0, Some(vec![3]), "who has seen two of them");
    let since = Some(Position { offset: 1, epoch: empty.epoch.clone() });
    assert_eq!(bench.history(HistoryQuery { limit: 9, since, reverse: false }).await, Ok(vec![2, 3]));
    // The position is so old that another stream may have existed and been forgotten before this one.
    let (shard_index, hour) = empty.epoch.split_once('.').unwrap();
    let before = format!("{shard_index}.{}", hour.parse::<u64>().unwrap() - 26);
    assert_eq!(bench.recover(Some((0, &before)), 9).await.0, None);
    assert_eq!(bench.recover(Some((0, shard_index)), 9).await.0, None);
    // All data is lost, and as much is published again.
    bench.ask(&["FLUSHALL"]).await;
    assert_eq!(bench.recover(Some((0, &empty.epoch)), 9).await.0, None, "nobody knows what was");
    bench.ask(&["SET", "t:anchor", "other"]).await;
    let (_, again) = bench.recover(None, 9).await;
    assert_ne!(again.epoch, empty.epoch);
    for _ in 1..=3 {
        let top = bench.publish("x", KEPT).await;
        assert!(origin(&top.epoch) == origin(&again.epoch) && origin(&top.epoch) != origin(&empty.epoch));
    }
    for offset in 0..=3 {
        assert_eq!(bench.recover(Some((offset, &empty.epoch)), 9).await.0, None, "{offset}");
    }
    assert_eq!(bench.recover(Some((0, &again.epoch)), 9).await.0, Some(vec![1, 2, 3]));
    // Another server, and then a deleted position.
    bench.server = "promoted";
    assert_eq!(bench.recover(Some((0, &again.epoch)), 9).await.0, None);
    let (_, promoted) = bench.recover(None, 9).await;
    bench.publish("x", KEPT).await;
    assert_eq!(bench.recover(Some((0, &promoted.epoch)), 9).await.0, Some(vec![1]));
    assert_eq!(bench.recover(Some((0, &again.epoch)), 9).await.0, None);
    bench.ask(&["DEL", "t:top:{news:1}"]).await;
    assert_eq!(bench.recover(Some((0, &promoted.epoch)), 9).await.0, None);
    bench.publish("x", KEPT).await;
    assert_eq!(bench.recover(Some((0, &promoted.epoch)), 9).await.0, None);
}

#[tokio::test]
async fn a_page_and_a_recovery_end_with_their_bytes() {
    let mut bench = Bench::new().await;
    for _ in 0..5 {
        bench.publish(&"x".repeat(1000), KEPT).await;
    }
    let mut read = async |bytes, since: Option<u64>, reverse| {
        let since = since.map(|offset| Position { offset, epoch: Arc::default() });
        let query = HistoryQuery { limit: -1, since, reverse };
        let what = What::History { channel: news(), query, most: Most { bytes, ..MOST }, retention: KEPT };
        match bench.run(&what).await.unwrap() {
            Response::History(Ok(page)) => page.publications.iter().map(|one| one.offset).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(2500, None, false).await, [1, 2]);
    assert_eq!(read(2500, Some(2), false).await, [3, 4]);
    assert_eq!(read(2500, None, true).await, [5, 4]);
    assert_eq!(read(10, Some(3), true).await, [2], "never nothing where there is something");
    let mut recover = async |bytes| {
        let since = Some(Position { offset: 0, epoch: Arc::default() });
        let most = Most { bytes, ..MOST };
        let what = What::Recover { channel: news(), since, latest: false, most, retention: KEPT };
        match bench.run(&what).await.unwrap() {
            Response::Recovered(Ok(recovery)) => recovery.missed.map(|missed| missed.len()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(recover(10_000).await, Some(5));
    assert_eq!(recover(4000).await, None, "all of it or nothing");
}

#[tokio::test]
async fn publications_expire_one_by_one_and_keys_with_the_last() {
    let mut bench = Bench::new().await;
    let short = Retention { size: 5, ttl: Duration::from_millis(300), replicas: 0 };
    bench.publish("old", short).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    bench.publish("new", short).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let what = What::History {
        channel: news(),
        query: HistoryQuery { limit: 9, ..HistoryQuery::default() },
        most: MOST,
        retention: short,
    };
    let Response::History(Ok(page)) = bench.run(&what).await.unwrap() else { panic!() };
    assert_eq!(page.publications.iter().map(|one| one.offset).collect::<Vec<_>>(), [2]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let Value::Array(keys) = bench.ask(&["KEYS", "*"]).await else { panic!() };
    assert_eq!(keys, [Value::BulkString(b"t:top:{news:1}".to_vec())], "the position stays for a day");
}

#[tokio::test]
async fn who_may_not_take_away_what_has_expired_reads_it() {
    let mut bench = Bench::new().await;
    bench.publish("old", KEPT).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let retention = Retention { ttl: Duration::from_millis(1), ..KEPT };
    let what = What::History {
        channel: news(),
        query: HistoryQuery { limit: 9, ..HistoryQuery::default() },
        most: MOST,
        retention,
    };
    for (permitted, read) in [("-xdel", 1), ("+xdel", 0)] {
        bench.ask(&["ACL", "SETUSER", "default", permitted]).await;
        let Response::History(Ok(page)) = bench.run(&what).await.unwrap() else { panic!() };
        assert_eq!(page.publications.len(), read, "{permitted}");
    }
}

#[tokio::test]
async fn without_memory_a_script_does_nothing_at_all() {
    let mut bench = Bench::new().await;
    bench.publish("x", KEPT).await;
    bench.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    // In an existing stream, and in one that would have to begin after another server's remains.
    for server in ["first", "second"] {
        bench.server = server;
        let body = wire::body(b"y", true, None, None);
        let what = What::Publish {
            channel: news(),
            body,
            retention: KEPT,
            patterns: false,
            skip_history: false,
            conditions: None,
        };
        let refused = bench.run(&what).await.unwrap_err();
        assert!(
            matches!(&refused, super::commands::request::Refusal::Server(code, _) if &**code == "OOM"),
            "{refused:?}"
        );
    }
    bench.server = "first";
    let query = HistoryQuery { limit: 9, ..HistoryQuery::default() };
    assert_eq!(bench.history(query).await, Ok(vec![1]), "reading needs no memory");
    assert_eq!(bench.recover(Some((0, "stream1")), 9).await.0, Some(vec![1]));
    bench.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(bench.recover(Some((1, "stream1")), 9).await.0, Some(vec![]));
}

#[tokio::test]
async fn without_redis_every_question_is_answered_in_time() {
    let config = Config::parse(
        "
        redis.url = 'redis://127.0.0.1:1'
        redis.timeout = '200ms'
        ",
        "test",
    );
    let config = Arc::new(config.unwrap());
    let inboxes: Arc<[_]> = Arc::new([Arc::new(Inbox::new(100).with_bytes_max(1))]);
    let parts = Parts {
        config: config.clone(),
        inboxes: inboxes.clone(),
        ids: ConnectionIds::new(5),
        clock: Clock::start(),
        metrics: Arc::default(),
        teller: None,
        name: "test".into(),
        phase: tokio::sync::watch::channel(crate::shutdown::Phase::Running).1,
        revocations: Arc::new(crate::revocation::Revocations::new(10, true)),
        random: [1, 2],
    };
    let metrics = parts.metrics.clone();
    let clock = parts.clock;
    let (backplane, runner) = Redis::new(config.redis.as_ref().unwrap(), parts);
    let running = tokio::spawn(runner.run(Supervisor::default()));
    let publish = |retention, reply_to| {
        let channel = &news();
        let data = "1".into();
        let new = NewPublication {
            channel,
            data,
            json: true,
            info: None,
            tags: None,
            retention,
            patterns: false,
            skip_history: false,
            conditions: None,
            charge: None,
        };
        backplane.publish(new, reply_to, clock.now().at)
    };
    // Publications of channels without history reach this node's subscribers.
    assert!(matches!(backplane.add_interest(0, &news(), ReplyTo::Connection(1, 0)), Outcome::Ready(Ok(()))));
    let nothing = Retention { size: 0, ttl: Duration::from_secs(1), replicas: 0 };
    assert!(matches!(publish(nothing, ReplyTo::Nobody), Outcome::Ready(Ok(_))));
    let mut batch = Vec::new();
    inboxes[0].take(&mut batch);
    assert!(matches!(&batch[..], [Delivery::Push(_)]));
    // A worker without room refuses the publication.
    let refused = (0..3).filter(
        |_| matches!(publish(nothing, ReplyTo::Nobody), Outcome::Ready(Err(error)) if error.code == 111),
    );
    assert_eq!(refused.count(), 2);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let (sender, answer) = oneshot::channel();
        assert!(matches!(publish(KEPT, ReplyTo::Task(sender)), Outcome::Pending));
        waiting.push(answer);
        let (sender, answer) = oneshot::channel();
        let since = Position { offset: 1, epoch: "e".into() };
        let (channel, since) = (&news(), Some(&since));
        let request = RecoverRequest { channel, since, latest: false, most: MOST, retention: KEPT };
        let asked = backplane.recover(request, ReplyTo::Task(sender), clock.now().at);
        assert!(matches!(asked, Outcome::Pending));
        waiting.push(answer);
    }
    for answer in waiting {
        match timeout(PATIENCE, answer).await.unwrap().unwrap() {
            Response::Published(Err(error)) | Response::Recovered(Err(error)) => assert!(error.temporary),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(metrics.waiting(), 0);
    assert!(backplane.health().is_err());
    running.abort();
}
