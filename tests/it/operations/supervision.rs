//! Every part is watched: what ends that must not is said, seen by health checks, and brings the gateway down
//! in order; what a connection's task leaves behind is cleaned up.
//!
//! Parts do not fail by themselves, so the gateway runs in this process, with plugins, pages and loggers that
//! fail.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::accept::Admission;
use gateway::backplane::Backplane as _;
use gateway::backplane::inbox::{Delivery, Inbox};
use gateway::backplane::memory::Memory;
use gateway::clock::Clock;
use gateway::config::Config;
use gateway::connection_id::ConnectionIds;
use gateway::events::Events;
use gateway::explain::Explain;
use gateway::gateway::Gateway;
use gateway::plugin::counters::PluginCounters;
use gateway::plugin::event::{ConnectEvent, DisconnectEvent, Message, Outgoing};
use gateway::plugin::failure::{Failure, FailurePolicy};
use gateway::plugin::grants::Grants;
use gateway::plugin::interests::{DeliverInterest, Hooks, Interests, Pattern};
use gateway::plugin::load::{About, Factory, LoadError};
use gateway::plugin::verdict::{ConnectVerdict, DeliverVerdict, Effect, Verdict};
use gateway::plugin::{Chain, Link, Plugin};
use gateway::revocation::Revocations;
use gateway::shutdown::Phase;
use gateway::supervisor::{PartEnded, Supervisor};
use gateway::telemetry::metrics::Metrics;
use gateway::transport::site::{Page, Site};
use gateway::upstream::Upstreams;
use gateway::worker;
use gateway_tests::{
    Client, Closed, Folder, Gateway as Process, Handshake, RawClient, Socket, Tool, eventually,
    eventually_within, gateway_binary, request, wasm, within, within_time,
};
use serde_json::json;
use tokio::sync::{oneshot, watch};

// ---- A worker with a plugin that panics ----

/// Panics when it is told to, in the hook that it is told.
#[derive(Default)]
struct Bug {
    panics_in: Mutex<&'static str>,
    departed: Mutex<Vec<u32>>,
}

struct Buggy(Arc<Bug>, Interests);

impl Buggy {
    fn call(&self, hook: &str, why: &[u8]) {
        assert!(*self.0.panics_in.lock().unwrap() != hook || why != b"\"boom\"", "a bug in {hook}");
    }
}

impl Plugin for Buggy {
    fn interests(&self) -> &Interests {
        &self.1
    }

    fn on_connect(&mut self, hello: &ConnectEvent, _: &mut Vec<Effect>) -> Result<ConnectVerdict, Failure> {
        self.call("on-connect", &hello.data);
        Ok(ConnectVerdict::Pass)
    }

    fn on_message(&mut self, message: &mut Message, _: &mut Vec<Effect>) -> Result<Verdict, Failure> {
        self.call("on-message", &message.content.payload);
        Ok(Verdict::Next)
    }

    fn on_deliver(&mut self, _: &str, outgoing: &Outgoing) -> Result<DeliverVerdict, Failure> {
        self.call("on-deliver", &outgoing.payload);
        Ok(DeliverVerdict::Pass)
    }

    fn on_disconnect(&mut self, goodbye: &DisconnectEvent, _: &mut Vec<Effect>) -> Result<(), Failure> {
        self.0.departed.lock().unwrap().push(goodbye.code.into());
        self.call("on-disconnect", b"\"boom\"");
        Ok(())
    }
}

struct Bugs(Arc<Bug>, About);

const HOOKS: Hooks = Hooks {
    configure: false,
    on_connect: true,
    on_message: true,
    on_deliver: true,
    on_disconnect: true,
    on_timer: false,
};

impl Factory for Bugs {
    fn instantiate(&self, _: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError> {
        let channels = [Pattern::parse("chat:*").unwrap()].into();
        let deliver = Some(DeliverInterest { channels, class: None });
        Ok(Box::new(Buggy(self.0.clone(), Interests { deliver, ..Interests::everything(HOOKS) })))
    }

    fn about(&self) -> &About {
        &self.1
    }
}

/// One worker, without the rest of a gateway.
struct Worker {
    address: SocketAddr,
    backplane: Arc<Memory>,
    metrics: Arc<Metrics>,
    supervisor: Supervisor,
    phase: watch::Sender<Phase>,
    bug: Arc<Bug>,
    ended: oneshot::Receiver<()>,
}

impl Worker {
    async fn start() -> Self {
        let config = "
            listen.workers = 1
            client.anonymous = true
            limits.connections_max = 3
            [namespaces.chat]
            presence = true
            allow_subscribe = 'anyone'
            allow_publish = 'anyone'
        ";
        let config = Arc::new(Config::parse(config, "test.toml").unwrap());
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let inboxes: Arc<[_]> = [Arc::new(Inbox::new(1024))].into();
        let ids = ConnectionIds::new(7);
        let backplane = Arc::new(Memory::new(inboxes.clone(), ids, &config.memory, 1));
        let metrics = Metrics::new(1);
        let supervisor = Supervisor::default();
        let (phase, phase_seen) = watch::channel(Phase::Starting);
        let (up, is_up) = oneshot::channel();
        let clock = Clock::start();
        let parts = worker::Parts {
            index: 0,
            listener,
            inbox: inboxes[0].clone(),
            backplane: backplane.clone(),
            upstreams: Upstreams::noop(),
            events: Events::off(),
            revocations: Arc::new(Revocations::new(0, false)),
            metrics: metrics.clone(),
            admission: Arc::new(Admission::new(&config, clock)),
            node: "".into(),
            tls: None,
            site: None,
            ids,
            explain: Arc::new(Explain::new(config.explain.clone(), clock)),
            clock,
            phase: phase_seen,
            up,
            supervisor: supervisor.clone(),
            config,
        };
        let ended = supervisor.thread("worker-0".into(), move || worker::run(parts)).unwrap();
        within("the worker to be up", is_up).await.unwrap();
        let bug = Arc::new(Bug::default());
        let about = About {
            name: None,
            version: None,
            sdk: None,
            interface: "0.1".into(),
            hooks: HOOKS,
            requested: Grants::default(),
            self_test: None,
        };
        let factory = Arc::new(Bugs(bug.clone(), about));
        let counters = Arc::new(PluginCounters::new(1));
        let link = Link::new("buggy".into(), 0, FailurePolicy::Open, factory, counters).unwrap();
        let (taken, is_taken) = oneshot::channel();
        inboxes[0].put(Delivery::Chain(Box::new(Chain::new(1, vec![link])), taken));
        within("the chain to be live", is_taken).await.unwrap();
        phase.send_replace(Phase::Running);
        Self { address, backplane, metrics, supervisor, phase, bug, ended }
    }

    fn panics_in(&self, hook: &'static str) {
        *self.bug.panics_in.lock().unwrap() = hook;
    }

    async fn client(&self) -> Client {
        let mut client = Client::open(self.address).await;
        client.ask("connect", json!({})).await.unwrap();
        client.subscribe("chat:1").await;
        client
    }

    fn present(&self) -> usize {
        let channel = gateway::protocol::channel::Channel::parse("chat:1").unwrap();
        match self.backplane.count(&channel, gateway::backplane::ReplyTo::Nobody) {
            gateway::backplane::Outcome::Ready(count) => count.unwrap().connections,
            gateway::backplane::Outcome::Pending => panic!("memory answers at once"),
        }
    }

    async fn drain(self) {
        let until = Clock::start().now().at + Duration::from_secs(5);
        self.phase.send_replace(Phase::Draining { until });
        within_time(Duration::from_secs(10), "the end of the worker", self.ended).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_connection_that_panics_leaves_behind_is_cleaned_up() {
    for hook in ["on-message", "on-disconnect", "on-connect"] {
        let worker = Worker::start().await;
        worker.panics_in(hook);
        let mut other = worker.client().await;
        // More often than there are places.
        for round in 1..=5 {
            let mut client = match hook {
                "on-connect" => {
                    let mut client = Client::open(worker.address).await;
                    client.command("connect", json!({ "data": "boom" })).await;
                    client
                }
                _ => worker.client().await,
            };
            if hook == "on-message" {
                assert_eq!(worker.present(), 2);
                client.command("publish", json!({ "channel": "chat:1", "data": "boom" })).await;
            }
            if hook == "on-disconnect" {
                client.close().await;
            } else {
                let closed = client.closed().await;
                assert_eq!(
                    closed,
                    Closed { code: Some(3004), reason: "internal server error".into() },
                    "{hook}"
                );
                drop(client);
            }
            eventually("the connection to be gone", async || {
                (worker.metrics.connections() == 1).then_some(())
            })
            .await;
            assert_eq!((worker.present(), worker.metrics.subscriptions()), (1, 1), "{hook}");
            let departed = worker.bug.departed.lock().unwrap().len();
            assert_eq!(departed, if hook == "on-connect" { 0 } else { round }, "plugins hear of it");
        }
        other.publish("chat:1", json!("still here")).await;
        assert_eq!(other.publication("chat:1").await["data"], "still here");
        assert_eq!(worker.supervisor.ended(), None, "nothing else has failed");
        worker.panics_in("");
        other.close().await;
        let begun = Instant::now();
        worker.drain().await;
        assert!(begun.elapsed() < Duration::from_secs(3), "nobody is left whom the drain would wait for");
    }
}

#[tokio::test]
async fn a_loop_of_a_worker_that_panics_is_heard_of_at_once() {
    let worker = Worker::start().await;
    worker.panics_in("on-deliver");
    let mut client = worker.client().await;
    let begun = Instant::now();
    client.command("publish", json!({ "channel": "chat:1", "data": "boom" })).await;
    let ended = within("the supervisor to hear of it", worker.supervisor.failed()).await;
    println!("a dead task of a worker was seen after {:.0?}: {ended}", begun.elapsed());
    assert_eq!((&*ended.part, &*ended.why), ("worker-0: deliveries", "a bug in on-deliver"));
    // The others go on, so that clients can be told to go.
    worker.drain_and(client).await;
}

impl Worker {
    async fn drain_and(self, mut client: Client) {
        let told = tokio::spawn(async move {
            loop {
                // The reply to what it did comes first.
                match client.outcome(3, "publish").await {
                    Ok(_) => continue,
                    Err(closed) => return closed.code,
                }
            }
        });
        self.drain().await;
        assert_eq!(told.await.unwrap(), Some(3001));
    }
}

// ---- A gateway in this process ----

struct Here {
    address: SocketAddr,
    admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<Result<(), String>>>,
    folder: tempfile::TempDir,
}

impl Here {
    async fn start(config: &str, site: Option<Arc<dyn Site>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("plugins")).unwrap();
        let path = folder.path().join("gateway.toml");
        let text = format!(
            "listen.address = '127.0.0.1:0'\nadmin.address = '127.0.0.1:0'\nraw.enabled = true\nclient.anonymous = true\n{config}"
        );
        std::fs::write(&path, text).unwrap();
        let gateway =
            Gateway::build(Config::load(&path).unwrap(), site.map(|site| Box::new(|_: &_| site) as _))
                .unwrap();
        let (address, admin) = (gateway.address(), gateway.admin_address().unwrap());
        let (stop, stopped) = oneshot::channel();
        let running = thread::spawn(move || {
            let stopped = async {
                if stopped.await.is_err() {
                    std::future::pending().await
                }
            };
            gateway.run(stopped).map_err(|error| match error.downcast::<PartEnded>() {
                Ok(ended) => format!("{}: {}", ended.part, ended.why),
                Err(error) => format!("another error: {error:#}"),
            })
        });
        let this = Self { address, admin, stop: Some(stop), running: Some(running), folder };
        eventually_within(Duration::from_secs(20), "the gateway to be ready", async || {
            (this.health("ready").await.0 == 200).then_some(())
        })
        .await;
        this
    }

    async fn health(&self, which: &str) -> (u16, String) {
        let answer = request(self.admin, "GET", &format!("/health/{which}"), &[], b"").await;
        (answer.status, answer.text())
    }

    /// Until a probe fails.
    async fn dead(&self, since: Instant, what: &str) -> String {
        let reason = eventually_within(Duration::from_secs(15), "the probe to fail", async || {
            let (status, text) = self.health("live").await;
            (status == 503).then_some(text)
        });
        let reason = reason.await;
        println!("{what}: seen by /health/live after {:.1?}: {reason}", since.elapsed());
        assert_eq!(self.health("ready").await.0, 503);
        reason
    }

    fn stop(&mut self) {
        let _ = self.stop.take().expect("once").send(());
    }

    async fn end(&mut self, limit: Duration) -> Result<(), String> {
        let running = self.running.take().expect("once");
        let joined = tokio::task::spawn_blocking(move || running.join().expect("it does not panic"));
        within_time(limit, "the end of the gateway", joined).await.unwrap()
    }
}

/// A page that keeps the thread of a worker for as long as it says, in milliseconds, in all.
struct Blocking(AtomicU64);

impl Site for Blocking {
    fn respond(&self, path: &str, _: Option<&str>) -> Option<Page> {
        assert_ne!(path, "/panic", "a bug in a page");
        if path == "/block" {
            thread::sleep(Duration::from_millis(self.0.load(Relaxed)));
        }
        let body = Bytes::from_static(b"ok\n");
        Some(Page { status: 200, content_type: "text/plain", headers: &[], body })
    }
}

async fn page(address: SocketAddr, path: &str) -> Socket {
    let mut socket = Socket::connect(address).await;
    socket.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await;
    socket
}

#[tokio::test]
async fn a_worker_that_does_not_go_on_is_seen_and_so_is_its_return() {
    let site = Arc::new(Blocking(AtomicU64::new(9000)));
    let mut gateway = Here::start("listen.workers = 2", Some(site)).await;
    let begun = Instant::now();
    let blocked = page(gateway.address, "/block").await;
    let reason = gateway.dead(begun, "a stuck worker").await;
    assert!(reason.contains("has made no progress for 5 seconds") && reason.contains("worker-"), "{reason}");
    eventually_within(Duration::from_secs(15), "the worker to go on", async || {
        (gateway.health("live").await.0 == 200).then_some(())
    })
    .await;
    let metrics = request(gateway.admin, "GET", "/metrics", &[], b"").await.text();
    let lags = metrics.lines().filter_map(|line| line.strip_prefix("gateway_worker_lag_seconds{worker="));
    let lags: Vec<f64> = lags.map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    println!("the lags of the workers are {lags:?} s");
    assert_eq!(lags.iter().filter(|lag| **lag > 5.0).count(), 1, "{lags:?}");
    drop(blocked);
    gateway.stop();
    assert_eq!(gateway.end(Duration::from_secs(10)).await, Ok(()));
}

#[tokio::test]
async fn a_worker_that_never_goes_on_does_not_hold_up_the_end() {
    let site = Arc::new(Blocking(AtomicU64::new(600_000)));
    let mut gateway = Here::start("listen.workers = 2\ndrain.deadline = '1s'", Some(site)).await;
    let _blocked = page(gateway.address, "/block").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    gateway.stop();
    let ended = gateway.end(Duration::from_secs(10)).await;
    println!("a gateway with a stuck worker ended after {:.1?}: {ended:?}", begun.elapsed());
    assert!(ended.is_err_and(|why| why.ends_with("it is stuck and is left behind")));
}

#[tokio::test]
async fn a_page_that_panics_costs_its_own_connection() {
    let site = Arc::new(Blocking(AtomicU64::new(0)));
    let mut gateway =
        Here::start("listen.workers = 1\nlimits.handshakes_max = 2\ndrain.deadline = '10s'", Some(site))
            .await;
    for _ in 0..10 {
        page(gateway.address, "/panic").await.ended().await;
    }
    let mut fine = page(gateway.address, "/fine").await;
    assert_eq!(fine.answer().await.expect("its place was given back").status, 200);
    assert_eq!(gateway.health("live").await.0, 200);
    let begun = Instant::now();
    gateway.stop();
    assert_eq!(gateway.end(Duration::from_secs(5)).await, Ok(()));
    assert!(begun.elapsed() < Duration::from_secs(4), "nothing is left to wait for");
}

/// A log that panics at a line, as one did whose disk was full.
struct Trap {
    message: &'static str,
    armed: AtomicBool,
}

static TRAP: Trap = Trap { message: "plugin chain swapped", armed: AtomicBool::new(false) };

impl tracing::Subscriber for &'static Trap {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        self.armed.load(Relaxed)
    }

    fn register_callsite(&self, _: &'static tracing::Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        assert_ne!(message.0, self.message, "the log is broken");
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_part_of_the_control_that_panics_brings_the_gateway_down_in_order() {
    tracing::subscriber::set_global_default(&TRAP).unwrap();
    let mut gateway = Here::start("listen.workers = 2\ndrain.closes_per_second = 5", None).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(RawClient::open(gateway.address, "/connection/raw", &[]).await.unwrap());
    }
    TRAP.armed.store(true, Relaxed);
    let begun = Instant::now();
    Folder::create(gateway.folder.path().join("plugins")).plugin("90-echo", &wasm("echo"), "");
    let reason = gateway.dead(begun, "a dead part of the control").await;
    assert!(reason.contains("`plugins`"), "{reason}");
    for client in &mut clients {
        assert_eq!(client.closed().await.code, Some(3001));
    }
    drop(clients);
    let ended = gateway.end(Duration::from_secs(10)).await;
    assert!(ended.as_ref().is_err_and(|why| why.starts_with("plugins: ")), "{ended:?}");
}

// ---- File descriptors ----

const RAW: &str = "raw.enabled = true\nclient.anonymous = true\nhandshake.deadline = '2s'\n";

#[tokio::test]
async fn with_too_few_descriptors_for_the_workers_it_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    let config = folder.path().join("gateway.toml");
    std::fs::write(&config, "listen = { address = '127.0.0.1:0', workers = 4 }\nadmin.address = ''\n")
        .unwrap();
    for limit in [16, 19, 24, 30, 40, 60] {
        let line = format!(
            "ulimit -n {limit}; exec {} serve --config {}",
            gateway_binary().display(),
            config.display()
        );
        let output = Tool::new("/bin/sh").arg("-c").arg(line).output(Duration::from_secs(20)).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{limit}: {said}");
        assert!(
            said.contains(&format!("the limit of open files is {limit}, and this gateway needs ")),
            "{said}"
        );
    }
}

/// A connection, if there is room for one.
async fn open(gateway: &Process) -> Option<Socket> {
    let mut socket = Socket::connect(gateway.address()).await;
    socket.send(&Handshake::to("/connection/raw").bytes()).await;
    socket.answer().await.filter(|answer| answer.status == 101).map(|_| socket)
}

#[tokio::test]
async fn clients_have_a_share_of_the_descriptors_and_probes_have_the_rest() {
    // All come from one address, which has no smaller share here than all together.
    let config = format!(
        "{RAW}listen.workers = 1\nlimits.connections_max = 5000\nlimits.connections_per_address_max = 5000\n\
         limits.handshakes_per_address_max = 2000"
    );
    let gateway = Process::with(&config).plugin("90-echo", "echo", "").descriptors(120).start().await;
    let line = gateway.log().wait(&["limit of open files too low for the settings"]).await;
    assert_eq!((&*line.field("open_files"), &*line.field("connections_wanted")), ("120", "5000"));
    let most: usize = line.field("connections_max").parse().unwrap();
    assert_eq!(line.field("connections_per_address_max"), line.field("connections_max"));
    println!("{}", line.text);
    let mut served = RawClient::connect(&gateway).await;
    // More than it has descriptors, half of them silent.
    let (mut crowd, mut silent) = (Vec::new(), Vec::new());
    for number in 0..300 {
        if number % 2 == 0 {
            silent.push(Socket::connect(gateway.address()).await);
        } else if let Some(client) = open(&gateway).await {
            crowd.push(client);
        }
        if number % 50 == 0 {
            assert_eq!(gateway.get("/health/live").await.status, 200);
            assert_eq!(gateway.get("/health/ready").await.status, 200);
        }
    }
    assert!(gateway.descriptors() < 120);
    assert!(crowd.len() < most, "{} of {most}", crowd.len());
    assert_eq!(served.ask("who is served goes on").await, "who is served goes on");
    gateway.swap(|folder| folder.plugin("95-echo-again", &wasm("echo"), "")).await;
    assert!(gateway.log().matching(&["failed to accept"]).is_empty());
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_accept_errors_total"), 0.0);
    drop((crowd, silent));
    eventually_within(Duration::from_secs(10), "room for a client", async || open(&gateway).await).await;
}

#[tokio::test]
async fn the_limit_of_descriptors_is_raised_as_far_as_it_may() {
    let config = format!("{RAW}listen.workers = 1\nlimits.connections_max = 3000");
    let gateway = Process::with(&config).soft_descriptors(64).start().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    assert!(gateway.log().matching(&["limit of open files too low"]).is_empty());
}
