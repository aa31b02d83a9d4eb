//! Questions to upstreams: answers, each kind of failure, breakers, weights and shadows.

use std::fmt::Write as _;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::backend::{Backend, Reply, nobody};
use super::*;
use crate::telemetry::target::{AskOutcome, ShadowResult, TargetState};

/// The upstream `shop` of this configuration, and its tasks.
struct Asking {
    upstreams: Arc<Upstreams>,
    stop: watch::Sender<Stop>,
    task: JoinHandle<()>,
}

fn table(targets: &[String], settings: &str) -> String {
    let mut text = "[upstreams.shop]\ntargets = [".to_owned();
    for url in targets {
        let _ = write!(text, "{{ url = '{url}' }}, ");
    }
    format!("{text}]\n{settings}")
}

fn upstreams(text: &str) -> Arc<Upstreams> {
    let config = Config::parse(text, "test.toml").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::new(1);
    Upstreams::new(&config.upstreams, folder.path(), Client::new(), &metrics.node, Clock::start(), 7).unwrap()
}

impl Asking {
    fn start(targets: &[String], settings: &str) -> Self {
        let upstreams = upstreams(&table(targets, settings));
        let (stop, stopped) = watch::channel(Stop::No);
        let task = tokio::spawn(upstreams.clone().run(stopped, Supervisor::default()));
        Self { upstreams, stop, task }
    }

    /// Puts a question without waiting for the answer.
    fn put(&self, request: AskRequest) -> Result<oneshot::Receiver<Result<Bytes, AskError>>, AskError> {
        let (reply, answer) = oneshot::channel();
        self.upstreams.ask("shop", request, move |result| {
            let _ = reply.send(result);
        })?;
        Ok(answer)
    }

    async fn ask(&self, request: AskRequest) -> Result<Bytes, AskError> {
        received(self.put(request)?).await
    }

    fn status(&self) -> UpstreamStatus {
        self.upstreams.status().pop().unwrap()
    }

    fn state(&self, target: usize) -> TargetState {
        self.status().targets[target].state
    }

    fn asks(&self, outcome: AskOutcome) -> u64 {
        self.status().metrics.asks.asks(outcome)
    }
}

async fn received(answer: oneshot::Receiver<Result<Bytes, AskError>>) -> Result<Bytes, AskError> {
    timeout(SOON, answer).await.expect("an answer in time").expect("one answer")
}

/// Waits for a condition.
async fn until_true(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

fn question(body: &'static str) -> AskRequest {
    AskRequest { path: "/rpc".into(), headers: vec![], body: body.into(), repeatable: false, client: None }
}

fn repeatable() -> AskRequest {
    AskRequest { repeatable: true, ..question("{}") }
}

// ---- Answers ----

#[tokio::test]
async fn an_answer_comes_back_and_the_question_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "a secret of enough bytes").unwrap();
    let server = Backend::start(Reply::Status(200, "{\"result\":1}")).await;
    let asking = Asking::start(&[server.url("/base?key=7")], &format!("secret = 'file:{}'", file.display()));
    let headers =
        [("cookie", "a=1"), ("Webhook-Id", "forged"), ("accept-encoding", "gzip"), ("host", "evil.example")];
    let headers = headers.map(|(name, value)| (name.into(), Bytes::from_static(value.as_bytes()))).to_vec();
    let request = AskRequest { headers, ..question("{\"n\":7}") };
    assert_eq!(asking.ask(request).await, Ok(Bytes::from_static(b"{\"result\":1}")));
    let [request] = &server.seen()[..] else { panic!("one request") };
    assert!(request.starts_with("POST /base/rpc?key=7 HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"n\":7}"), "{request}");
    let expected = [("content-type", "application/json"), ("cookie", "a=1"), ("gateway-upstream", "shop")];
    for (name, value) in expected {
        assert_eq!(header(request, name), value);
    }
    assert!(header(request, "user-agent").starts_with("gateway/"), "{request}");
    assert!(!request.contains("forged") && !request.contains("gzip") && !request.contains("evil"));
    let (id, time) = (header(request, "webhook-id"), header(request, "webhook-timestamp"));
    let mut mac = Hmac::<Sha256>::new_from_slice(b"a secret of enough bytes").unwrap();
    mac.update(format!("{id}.{time}.{{\"n\":7}}").as_bytes());
    let signature = header(request, "webhook-signature").strip_prefix("v1,").unwrap();
    mac.verify_slice(&STANDARD.decode(signature).unwrap()).unwrap();
    assert_eq!(asking.asks(AskOutcome::Answered), 1);
}

#[tokio::test]
async fn each_failure_has_its_error_and_others_follow_without_delay() {
    let server = Backend::start(Reply::Never).await;
    let settings =
        "ask_timeout = '1s'\nask_retries = 0\nbreaker_failures = 0\nask_answer_bytes_max = '64KiB'";
    let asking = Asking::start(&[server.url("/")], settings);
    for (reply, error, outcome) in [
        (Reply::Status(404, "no such order"), AskError::Status(404), AskOutcome::Refused),
        (Reply::Status(302, ""), AskError::Status(302), AskOutcome::Refused),
        (Reply::Status(500, ""), AskError::Status(500), AskOutcome::Error),
        (Reply::Status(429, ""), AskError::Status(429), AskOutcome::Error),
        (Reply::Long(10 << 20), AskError::TooLarge, AskOutcome::TooLarge),
        (Reply::Never, AskError::Timeout, AskOutcome::Timeout),
        (Reply::After(Duration::from_secs(6)), AskError::Timeout, AskOutcome::Timeout),
    ] {
        server.set(reply);
        let before = asking.asks(outcome);
        let begun = Instant::now();
        assert_eq!(asking.ask(question("{}")).await, Err(error.clone()));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(4), "{error}: {took:?}, within the time of a question");
        assert_eq!(asking.asks(outcome), before + 1, "{error}");
        server.set(Reply::Status(200, "fine"));
        assert_eq!(asking.ask(question("{}")).await, Ok(Bytes::from_static(b"fine")), "after {error}");
    }
    for reply in [Reply::Cut, Reply::Garbage] {
        server.set(reply);
        let failed = asking.ask(question("{}")).await;
        assert!(matches!(failed, Err(AskError::Failed(_))), "{failed:?}");
    }
    let gone = Asking::start(&[nobody().await], settings);
    let failed = gone.ask(question("{}")).await;
    assert!(matches!(&failed, Err(AskError::Failed(why)) if why.contains("refused")), "{failed:?}");
    assert_eq!(asking.status().metrics.asks.in_flight(), 0);
}

#[tokio::test]
async fn a_long_page_behind_an_error_is_no_long_answer() {
    let page: &'static str = "x".repeat(1 << 20).leak();
    let server = Backend::start(Reply::Status(403, page)).await;
    let asking = Asking::start(&[server.url("/")], "ask_answer_bytes_max = '1KiB'");
    assert_eq!(asking.ask(question("{}")).await, Err(AskError::Status(403)));
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_without_repeating_it() {
    let server = Backend::start(Reply::Status(200, "")).await;
    let asking = Asking::start(&[server.url("/")], "breaker_failures = 1");
    let request = |path: &str, name: &str| AskRequest {
        path: path.into(),
        headers: vec![(name.into(), Bytes::from_static(b"hush\n"))],
        ..question("{}")
    };
    for request in [request("/../hush", "x-a"), request("/a?hush", "x-a"), request("/a", "x-hush")] {
        let Err(error) = asking.ask(request).await else { panic!("it was sent") };
        assert!(!error.to_string().contains("hush"), "{error}");
    }
    assert_eq!((server.count(), asking.state(0)), (0, TargetState::Up), "the target has no part in it");
    let refused = asking.upstreams.ask("other", question("{}"), |_| panic!("it was refused"));
    assert_eq!(refused, Err(AskError::Unknown));
    let huge = AskRequest { body: vec![b'1'; 17 << 20].into(), ..question("") };
    assert_eq!(asking.ask(huge).await, Err(AskError::Busy), "above the bytes of all questions");
}

// ---- Bounds ----

#[tokio::test]
async fn questions_wait_in_a_bounded_queue_and_end_in_time() {
    let server = Backend::start(Reply::Never).await;
    let settings = "ask_timeout = '1s'\nasks_in_flight_max = 1\nasks_waiting_max = 3\nask_retries = 0";
    let asking = Asking::start(&[server.url("/")], settings);
    let begun = Instant::now();
    let first = asking.put(question("{}")).unwrap();
    until_true("the first is sent", || server.count() == 1).await;
    let waiting: Vec<_> = (0..3).map(|_| asking.put(question("{}")).unwrap()).collect();
    assert_eq!(asking.put(question("{}")).map(|_| ()), Err(AskError::Busy), "at once");
    let asks = &asking.status().metrics.asks;
    assert_eq!((asks.waiting(), asks.in_flight()), (3, 1));
    for answer in std::iter::once(first).chain(waiting) {
        assert_eq!(received(answer).await, Err(AskError::Timeout));
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(2500), "{took:?}: they do not wait for each other");
    until_true("nothing is left", || (asks.waiting(), asks.in_flight()) == (0, 0)).await;
    assert!(server.count() < 4, "the last was not sent: its time was over");
    server.set(Reply::Status(200, ""));
    assert_eq!(asking.ask(question("{}")).await, Ok(Bytes::new()), "there is room again");
}

#[tokio::test]
async fn questions_of_clients_that_have_gone_make_room_and_are_not_sent() {
    let server = Backend::start(Reply::Never).await;
    let settings = "ask_timeout = '1s'\nasks_in_flight_max = 1\nasks_waiting_max = 3\nask_retries = 0";
    let asking = Asking::start(&[server.url("/")], settings);
    let first = asking.put(question("{}")).unwrap();
    until_true("the first is sent", || server.count() == 1).await;
    let (here, leaves) = (Arc::new(()), Arc::new(()));
    let of = |client: &Arc<()>| AskRequest { client: Some(Arc::downgrade(client)), ..repeatable() };
    let gone: Vec<_> = (0..3).map(|_| asking.put(of(&leaves)).unwrap()).collect();
    drop(leaves);
    let stays = asking.put(of(&here)).expect("they make room");
    assert_eq!(asking.asks(AskOutcome::Abandoned), 3);
    for answer in gone {
        assert!(timeout(SOON, answer).await.expect("at once").is_err(), "nobody is called");
    }
    let leaves = Arc::new(());
    asking.put(of(&leaves)).unwrap();
    drop(leaves);
    server.set(Reply::Status(200, ""));
    assert_eq!(received(first).await, Err(AskError::Timeout));
    let in_time = matches!(received(stays).await, Ok(_) | Err(AskError::Timeout));
    assert!(in_time && server.count() <= 2, "only those that are there are sent");
    until_true("the other one is gone too", || asking.asks(AskOutcome::Abandoned) == 4).await;
    assert!(server.count() <= 2);
}

#[tokio::test]
async fn a_slow_upstream_does_not_hold_up_another_one() {
    let (slow, quick) =
        (Backend::start(Reply::Never).await, Backend::start(Reply::Status(200, "quick")).await);
    let other = format!("\n[upstreams.other]\nurl = '{}'", quick.url("/"));
    let asking =
        Asking::start(&[slow.url("/")], &format!("ask_timeout = '1m'\nasks_in_flight_max = 1{other}"));
    let held: Vec<_> = (0..50)
        .map(|_| {
            let (reply, answer) = oneshot::channel();
            asking.upstreams.ask("shop", question("{}"), move |result| _ = reply.send(result)).unwrap();
            answer
        })
        .collect();
    until_true("the slow one is busy", || slow.count() == 1).await;
    let (reply, answer) = oneshot::channel();
    asking.upstreams.ask("other", question("{}"), move |result| _ = reply.send(result)).unwrap();
    assert_eq!(received(answer).await, Ok(Bytes::from_static(b"quick")));
    assert_eq!(slow.count(), 1, "the others still wait");
    drop(held);
}

#[tokio::test]
async fn open_questions_end_with_the_gateway() {
    let server = Backend::start(Reply::Never).await;
    let asking = Asking::start(&[server.url("/")], "asks_in_flight_max = 1\nask_timeout = '1m'");
    let first = asking.put(question("{}")).unwrap();
    until_true("the first is sent", || server.count() == 1).await;
    let second = asking.put(question("{}")).unwrap();
    asking.stop.send_replace(Stop::At(Clock::start().at()));
    for answer in [first, second] {
        let ended = received(answer).await;
        assert!(matches!(&ended, Err(AskError::Failed(why)) if why.contains("ended")), "{ended:?}");
    }
    assert!(matches!(asking.put(question("{}")), Err(AskError::Failed(_))), "and there are no further ones");
    timeout(SOON, asking.task).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn a_question_whose_task_never_ran_is_answered_too() {
    let upstreams = upstreams(&table(&[nobody().await], ""));
    let (reply, answer) = oneshot::channel();
    upstreams.ask("shop", question("{}"), move |result| _ = reply.send(result)).unwrap();
    drop(upstreams);
    assert!(matches!(received(answer).await, Err(AskError::Failed(_))));
}

// ---- Breakers, health and repeats ----

#[tokio::test]
async fn a_target_that_keeps_failing_gets_nothing_and_questions_fail_at_once() {
    let server = Backend::start(Reply::Status(500, "")).await;
    let asking = Asking::start(&[server.url("/")], "breaker_failures = 3\nbreaker_pause = '1m'");
    for _ in 0..3 {
        assert_eq!(asking.ask(question("{}")).await, Err(AskError::Status(500)));
    }
    assert_eq!(asking.put(question("{}")).map(|_| ()), Err(AskError::BreakerOpen));
    assert_eq!((server.count(), asking.state(0)), (3, TargetState::Open));
    assert_eq!((asking.asks(AskOutcome::BreakerOpen), asking.status().targets[0].opened), (1, 1));
}

#[tokio::test]
async fn the_words_of_an_upstream_open_no_breaker() {
    let server = Backend::start(Reply::Status(401, "")).await;
    let asking = Asking::start(&[server.url("/")], "breaker_failures = 1");
    for _ in 0..5 {
        assert_eq!(asking.ask(question("{}")).await, Err(AskError::Status(401)));
    }
    assert_eq!(asking.state(0), TargetState::Up);
}

#[tokio::test]
async fn one_question_probes_and_its_success_closes_the_breaker() {
    let server = Backend::start(Reply::Status(500, "")).await;
    let settings = "breaker_failures = 1\nbreaker_pause = '100ms'\nask_timeout = '1m'\nask_retries = 0";
    let asking = Asking::start(&[server.url("/")], settings);
    assert_eq!(asking.ask(question("{}")).await, Err(AskError::Status(500)));
    server.set(Reply::After(Duration::from_secs(1)));
    let mut probe = None;
    until_true("the pause is over", || asking.upstreams.by_name["shop"].targets.is_any_ready()).await;
    if let Ok(answer) = asking.put(question("{\"probe\":1}")) {
        probe = Some(answer);
    }
    until_true("it probes", || asking.state(0) == TargetState::HalfOpen).await;
    for _ in 0..5 {
        assert_eq!(asking.put(question("{}")).map(|_| ()), Err(AskError::BreakerOpen), "one at a time");
    }
    assert_eq!(received(probe.unwrap()).await, Ok(Bytes::from_static(b"late")));
    assert_eq!((server.count(), asking.state(0)), (2, TargetState::Up));
    server.set(Reply::Status(200, ""));
    assert_eq!(asking.ask(question("{}")).await, Ok(Bytes::new()));
}

#[tokio::test]
async fn a_dead_target_costs_no_question_while_another_one_is_up() {
    let server = Backend::start(Reply::Status(200, "")).await;
    let asking = Asking::start(&[nobody().await, server.url("/")], "breaker_pause = '1m'");
    for _ in 0..40 {
        assert_eq!(asking.ask(question("{}")).await, Ok(Bytes::new()), "nobody can have seen the first one");
    }
    assert_eq!((server.count(), asking.state(0)), (40, TargetState::Open));
    assert_eq!(asking.state(1), TargetState::Up);
}

#[tokio::test]
async fn only_what_may_be_repeated_is_sent_again_after_an_answer() {
    let (bad, good) =
        (Backend::start(Reply::Status(503, "")).await, Backend::start(Reply::Status(200, "")).await);
    let asking = Asking::start(&[bad.url("/"), good.url("/")], "breaker_failures = 0");
    for _ in 0..30 {
        assert_eq!(asking.ask(repeatable()).await, Ok(Bytes::new()), "by the other target");
    }
    assert!(bad.count() > 3 && good.count() == 30, "{} and {}", bad.count(), good.count());
    let ids: Vec<_> = bad.seen().iter().map(|request| header(request, "webhook-id").to_owned()).collect();
    let again =
        good.seen().iter().filter(|request| ids.contains(&header(request, "webhook-id").into())).count();
    assert_eq!(again, bad.count(), "a repeat has the same id");
    let (before, mut failed) = (bad.count() + good.count(), 0);
    for _ in 0..30 {
        failed += usize::from(asking.ask(question("{}")).await == Err(AskError::Status(503)));
    }
    assert_eq!(bad.count() + good.count(), before + 30, "each was sent once");
    assert!(failed > 3, "{failed}");
}

#[tokio::test]
async fn a_flapping_target_fails_no_question_that_may_be_repeated() {
    let reply = |before: usize| if before.is_multiple_of(2) { Reply::Cut } else { Reply::Status(200, "") };
    let server = Backend::with(move |_, before| reply(before)).await;
    let asking = Asking::start(&[server.url("/")], "");
    for _ in 0..20 {
        assert_eq!(asking.ask(repeatable()).await, Ok(Bytes::new()));
    }
    assert_eq!((server.count(), asking.state(0)), (40, TargetState::Up), "failures are not in a row");
}

#[tokio::test]
async fn a_target_that_fails_its_checks_gets_nothing_until_it_passes_one() {
    let checks = |reply: Reply| {
        move |request: &str, _| match request.starts_with("GET /health ") {
            true => reply.clone(),
            false => Reply::Status(200, ""),
        }
    };
    let (sick, well) = (
        Backend::with(checks(Reply::Status(503, ""))).await,
        Backend::with(checks(Reply::Status(204, ""))).await,
    );
    let urls = [sick.url("/base?key=7"), well.url("/base")];
    let asking = Asking::start(&urls, "health_path = '/health'\nhealth_interval = '1s'");
    until_true("two checks failed", || asking.state(0) == TargetState::Unhealthy).await;
    let asked = |server: &Backend| server.seen().iter().filter(|one| one.starts_with("POST")).count();
    for _ in 0..20 {
        assert_eq!(asking.ask(question("{}")).await, Ok(Bytes::new()));
    }
    assert_eq!((asked(&sick), asked(&well)), (0, 20));
    sick.set(Reply::Status(200, ""));
    until_true("it is up", || asking.state(0) == TargetState::Up).await;
}

// ---- Weights and shadows ----

#[tokio::test]
async fn weights_move_under_load_without_an_error_and_hold_within_binomial_bounds() {
    let servers =
        [Backend::start(Reply::Status(200, "")).await, Backend::start(Reply::Status(200, "")).await];
    let asking = Arc::new(Asking::start(&[servers[0].url("/"), servers[1].url("/")], "ask_timeout = '30s'"));
    let set = |weights: &[u32]| asking.upstreams.set_weights("shop", weights);
    let counts = || [servers[0].count(), servers[1].count()];
    let load = async |asks: usize| {
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let asking = asking.clone();
            tasks.spawn(async move {
                for _ in 0..asks / 8 {
                    assert_eq!(asking.ask(question("{}")).await, Ok(Bytes::new()));
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    };
    let moves = async {
        for round in 0..50 {
            set(&[round % 7, 1 + round % 3]).unwrap();
            sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::join!(load(1600), moves);
    for weights in [[80, 20], [20, 80], [0, 1]] {
        set(&weights).unwrap();
        let before = counts();
        load(1600).await;
        let [first, second] = [0, 1].map(|index| counts()[index] - before[index]);
        assert_eq!(first + second, 1600, "none was lost, none repeated");
        let p = f64::from(weights[0]) / f64::from(weights[0] + weights[1]);
        let far = (first as f64 - 1600.0 * p).abs();
        assert!(far <= 5.0 * (1600.0 * p * (1.0 - p)).sqrt(), "{first} of 1600 for {weights:?}");
    }
    let status = asking.status();
    assert_eq!(status.targets.iter().map(|target| target.weight).collect::<Vec<_>>(), [0, 1]);
    for (weights, error) in [
        (&[1][..], WeightsError::Count { targets: 2, weights: 1 }),
        (&[0, 0], WeightsError::Invalid),
        (&[1, 1001], WeightsError::Invalid),
    ] {
        assert_eq!(set(weights), Err(error));
    }
    assert_eq!(asking.upstreams.set_weights("other", &[1]), Err(WeightsError::Unknown));
}

#[tokio::test]
async fn the_shadow_gets_copies_that_are_compared_and_cost_no_time() {
    let server =
        Backend::with(|request, _| Reply::Status(if request.ends_with("bad") { 400 } else { 200 }, "")).await;
    let shadow = Backend::start(Reply::Status(200, "")).await;
    let asking = Asking::start(
        &[server.url("/")],
        &format!("ask_timeout = '30s'\nshadow = '{}'", shadow.url("/copy")),
    );
    let results = |result| asking.status().metrics.asks.shadows(result);
    assert_eq!(asking.ask(question("{}")).await, Ok(Bytes::new()));
    assert_eq!(asking.ask(question("bad")).await, Err(AskError::Status(400)));
    let compared = || (results(ShadowResult::Same), results(ShadowResult::Different));
    until_true("both are compared", || compared() == (1, 1)).await;
    assert!(shadow.seen()[0].starts_with("POST /copy/rpc "));
    assert_eq!(header(&shadow.seen()[0], "gateway-shadow"), "1");
    shadow.set(Reply::Never);
    let begun = Instant::now();
    for _ in 0..30 {
        assert_eq!(asking.ask(question("{}")).await, Ok(Bytes::new()));
    }
    assert!(begun.elapsed() < SOON, "it waits for no shadow");
    until_true("no copy is added", || results(ShadowResult::Skipped) == 14 && shadow.count() == 18).await;
    assert_eq!(asking.state(0), TargetState::Up, "a shadow that is silent changes nothing");
}

// ---- Events ----

#[tokio::test]
async fn an_open_breaker_lets_events_wait_and_costs_no_attempt() {
    let server = Server::start(|_, before| answer(if before == 0 { 503 } else { 200 }, "", "")).await;
    let settings = "retries = 1\nbreaker_failures = 1\nbreaker_pause = '200ms'";
    let running = Running::start(&server, settings);
    let begun = Instant::now();
    for payload in ["1", "2", "3"] {
        running.emit(payload);
    }
    assert_eq!(running.stop_within(SOON).await, (vec![], (0, 0)));
    assert_eq!(bodies(&server), ["1", "1", "2", "3"]);
    assert!(begun.elapsed() >= Duration::from_millis(200), "the second attempt was the probe");
}

#[tokio::test]
async fn events_go_to_a_target_that_is_up() {
    let server = Backend::start(Reply::Status(200, "")).await;
    let settings = "breaker_pause = '1m'\nbreaker_failures = 1\nretry_pause_min = '10ms'";
    let asking = Asking::start(&[nobody().await, server.url("/hook")], settings);
    for number in 0..20 {
        let origin = Origin { plugin: "orders".into(), connection: "".into(), user: "".into() };
        asking.upstreams.put("shop", origin, number.to_string().into(), 1);
    }
    until_true("all have arrived", || server.count() == 20).await;
    let metrics = asking.status().metrics;
    until_true("the queue is empty", || metrics.queued() == (0, 0)).await;
    assert!(server.seen().iter().all(|request| request.starts_with("POST /hook ")));
}
