//! Delivery of events to HTTP endpoints: order, retries and dead letters.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

mod asking;
mod backend;

use super::*;
use crate::config::Config;
use crate::egress::tests::server::{Server, answer};
use crate::telemetry::metrics::Metrics;

const SOON: Duration = Duration::from_secs(10);

/// One upstream named `shop` and its task.
struct Running {
    upstreams: Arc<Upstreams>,
    metrics: Arc<Metrics>,
    clock: Clock,
    stop: watch::Sender<Stop>,
    task: JoinHandle<()>,
    folder: TempDir,
}

impl Running {
    fn start(server: &Server, settings: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), server, settings)
    }

    /// With the files of an earlier process.
    fn start_in(folder: TempDir, server: &Server, settings: &str) -> Self {
        let text = format!(
            "[upstreams.shop]\nurl = '{}'\ndead_letter = '{}'\nretry_pause_min = '10ms'\n{settings}",
            server.url("/hook"),
            folder.path().join("dead.jsonl").display(),
        );
        let config = Config::parse(&text, "test.toml").unwrap();
        let (metrics, clock) = (Metrics::new(1), Clock::start());
        let upstreams = Upstreams::new(
            &config.upstreams,
            &folder.path().join("state"),
            Client::new(),
            &metrics.node,
            clock,
            7,
        )
        .unwrap();
        let (stop, stopped) = watch::channel(Stop::No);
        let task = tokio::spawn(upstreams.clone().run(stopped, Supervisor::default()));
        Self { upstreams, metrics, clock, stop, task, folder }
    }

    fn emit(&self, payload: &str) {
        let origin = Origin { plugin: "orders".into(), connection: "c1".into(), user: "4 2".into() };
        self.upstreams.put("shop", origin, payload.to_owned().into(), 1_700_000_000_000);
    }

    /// Ends the emission of events: the remaining ones get this much time.
    async fn stop_within(self, time: Duration) -> (Vec<serde_json::Value>, (u64, u64)) {
        let (dead, queued, _) = self.stop_and_keep(time).await;
        (dead, queued)
    }

    /// The same, with the files.
    async fn stop_and_keep(self, time: Duration) -> (Vec<serde_json::Value>, (u64, u64), TempDir) {
        self.stop.send_replace(Stop::At(self.clock.now().at + time));
        timeout(SOON, self.task).await.expect("it ends").unwrap();
        let dead = std::fs::read_to_string(self.folder.path().join("dead.jsonl")).unwrap_or_default();
        let dead = dead.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (dead, self.metrics.node.upstreams()[0].queued(), self.folder)
    }
}

fn bodies(server: &Server) -> Vec<String> {
    server.seen().iter().map(|request| request.split_once("\r\n\r\n").unwrap().1.to_owned()).collect()
}

fn header<'a>(request: &'a str, name: &str) -> &'a str {
    request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
}

#[tokio::test]
async fn events_arrive_in_order_and_one_that_is_repeated_keeps_its_place_and_its_id() {
    let server =
        Server::start(|_, before| answer(if (1..=2).contains(&before) { 503 } else { 200 }, "", "")).await;
    let running = Running::start(&server, "");
    for payload in ["{\"n\":1}", "two", "{\"n\":3}"] {
        running.emit(payload);
    }
    assert_eq!(running.stop_within(SOON).await, (vec![], (0, 0)));
    assert_eq!(bodies(&server), ["{\"n\":1}", "two", "two", "two", "{\"n\":3}"]);
    let seen = server.seen();
    let ids: Vec<_> = seen.iter().map(|request| header(request, "webhook-id")).collect();
    assert!(ids[1] == ids[2] && ids[2] == ids[3] && ids[0] != ids[1] && ids[3] != ids[4], "{ids:?}");
    let types: Vec<_> = seen.iter().map(|request| header(request, "content-type")).collect();
    assert_eq!((types[0], types[1]), ("application/json", "application/octet-stream"));
    assert_eq!(header(&seen[0], "gateway-plugin"), "orders");
    assert_eq!(header(&seen[0], "gateway-user"), "4%202");
    assert_eq!(header(&seen[0], "gateway-time"), "1700000000000");
    assert_eq!(header(&seen[0], "webhook-signature"), "", "there is no secret to sign with");
}

#[tokio::test]
async fn an_event_that_no_attempt_brings_there_is_kept_in_the_file() {
    let server =
        Server::start(|request, _| answer(if request.ends_with("bad") { 500 } else { 200 }, "", "")).await;
    let running = Running::start(&server, "retries = 2");
    running.emit("bad");
    running.emit("good");
    let (dead, queued) = running.stop_within(SOON).await;
    assert_eq!(bodies(&server), ["bad", "bad", "bad", "good"]);
    assert_eq!(dead.len(), 1);
    assert_eq!((&dead[0]["attempts"], &dead[0]["why"]), (&3.into(), &"answered 500".into()));
    assert_eq!(queued, (0, 0));
}

#[tokio::test]
async fn an_event_that_is_given_up_and_is_in_no_file_counts_as_lost() {
    let server = Server::start(|_, _| answer(410, "", "")).await;
    let folder = tempfile::tempdir().unwrap();
    // Like a file on a full disk, a folder takes no line.
    std::fs::create_dir(folder.path().join("dead.jsonl")).unwrap();
    let running = Running::start_in(folder, &server, "");
    let metrics = running.metrics.node.upstreams()[0].clone();
    running.emit("x");
    running.stop_within(SOON).await;
    assert_eq!(metrics.outcomes().collect::<Vec<_>>(), [("lost", "emitted", 1)]);
}

#[tokio::test]
async fn an_answer_that_will_not_change_is_final() {
    let server = Server::start(|_, _| answer(302, "location: http://127.0.0.1:1/\r\n", "")).await;
    let running = Running::start(&server, "");
    running.emit("x");
    let (dead, _) = running.stop_within(SOON).await;
    assert_eq!((server.seen().len(), &dead[0]["why"]), (1, &"answered 302".into()));
}

#[tokio::test]
async fn a_full_queue_says_so_and_counts_what_is_under_way() {
    let server = Server::start(|_, _| Vec::new()).await;
    let running = Running::start(&server, "queue_events_max = 2\nqueue_bytes_max = '64KiB'");
    assert_eq!(running.upstreams.room("other", 1), Err(NoRoom::Unknown));
    assert_eq!(running.upstreams.room("shop", 64 << 10), Err(NoRoom::Full), "too large for any queue");
    running.emit("under way");
    timeout(SOON, async {
        while server.seen().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is sent");
    assert_eq!(running.upstreams.room("shop", 1), Ok(()));
    running.emit("waits");
    assert_eq!(running.upstreams.room("shop", 1), Err(NoRoom::Full));
    running.emit("was permitted a moment before");
    let (dead, _, folder) = running.stop_and_keep(Duration::ZERO).await;
    assert_eq!(dead, Vec::<serde_json::Value>::new(), "nothing is given up: it is in the spool");
    let ids =
        |server: &Server| server.seen().iter().map(|seen| header(seen, "webhook-id").to_owned()).collect();
    let before: Vec<String> = ids(&server);
    let server = Server::start(|_, _| answer(200, "", "")).await;
    let next = Running::start_in(folder, &server, "");
    next.emit("of the next process");
    let (dead, queued, folder) = next.stop_and_keep(SOON).await;
    assert_eq!((dead.len(), queued), (0, (0, 0)));
    let all = ["under way", "waits", "was permitted a moment before", "of the next process"];
    assert_eq!(bodies(&server), all);
    let after: Vec<String> = ids(&server);
    assert_eq!(after[0], before[0], "a receiver can tell that it is the same");
    let spool = folder.path().join("state/shop.spool");
    assert_eq!(std::fs::read_dir(spool).unwrap().count(), 0, "everything is delivered");
}

#[tokio::test]
async fn events_of_the_gateway_come_in_lists_between_those_of_plugins() {
    let server = Server::start(|_, _| answer(200, "", "")).await;
    let running = Running::start(&server, "batch_wait = '1m'");
    let tell = |number: u64| {
        let content = |id: &str| format!("{{\"id\":\"{id}\",\"n\":{number}}}").into_bytes();
        running.upstreams.tell("shop", Kind::Connected, 7, content);
    };
    (1..=2).for_each(tell);
    running.emit("of a plugin");
    (3..=4).for_each(tell);
    assert_eq!(running.stop_within(SOON).await, (vec![], (0, 0)));
    let numbers = |body: &str| {
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        let events = body["events"].as_array().cloned().unwrap_or_default();
        events.iter().map(|event| event["n"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let bodies = bodies(&server);
    assert_eq!(bodies.iter().map(|body| numbers(body)).collect::<Vec<_>>(), [vec![1, 2], vec![], vec![3, 4]]);
    assert_eq!(bodies[1], "of a plugin");
    assert!(header(&server.seen()[0], "webhook-id").starts_with("batch_"));
    assert_eq!(header(&server.seen()[0], "gateway-events"), "2");
}

#[tokio::test]
async fn an_event_that_is_larger_than_the_queue_is_given_up_and_not_lost() {
    let server = Server::start(|_, _| answer(200, "", "")).await;
    let running = Running::start(&server, "queue_bytes_max = '64KiB'");
    let large = |id: &str| format!("{{\"id\":\"{id}\",\"data\":\"{}\"}}", "x".repeat(5 << 20)).into_bytes();
    running.upstreams.tell("shop", Kind::Published, 7, large);
    let (dead, _) = running.stop_within(SOON).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0]["why"], "the queue of the upstream was full");
}

#[tokio::test]
async fn a_full_queue_gives_up_events_of_the_gateway_and_what_exceeds_that_is_counted() {
    let server = Server::start(|_, _| Vec::new()).await;
    let running = Running::start(&server, "queue_events_max = 2\nqueue_bytes_max = '64KiB'");
    for _ in 0..2000 {
        running.upstreams.tell("shop", Kind::Published, 7, |id| format!("{{\"id\":\"{id}\"}}").into_bytes());
    }
    let metrics = running.metrics.node.upstreams()[0].clone();
    let outcomes = |outcome: &str| {
        let counts = metrics.outcomes().filter(|(name, ..)| *name == outcome).map(|(.., count)| count);
        counts.sum::<u64>()
    };
    let (dead, _) = running.stop_within(Duration::ZERO).await;
    let told = u64::try_from(dead.len()).unwrap();
    assert!(dead.iter().all(|line| line["why"].as_str().unwrap().contains("full")), "{dead:?}");
    assert_eq!(told, 1024, "kept until they are written");
    let counted = (outcomes("dead"), outcomes("lost"));
    assert_eq!(counted, (1024, 2000 - 2 - 1024), "nothing is lost without a number");
}
