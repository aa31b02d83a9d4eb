//! What the registry makes of a plugin folder that changes.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod compiling;
mod past;
mod promised;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;

use super::*;
use crate::plugin::Plugin;
use crate::plugin::breaker::Position;
use crate::plugin::event::{Client, ConnectEvent, DisconnectEvent, Kind, Message, MessageContent};
use crate::plugin::failure::Failure;
use crate::plugin::grants::Grants;
use crate::plugin::interests::{Hooks, Interests};
use crate::plugin::load::{Factory, LoadCode};
use crate::plugin::settings::Settings;
use crate::plugin::state::Meters;
use crate::plugin::verdict::{ConnectVerdict, Decision, Effect, Verdict};

/// A plugin that denies every message with its own text, so that the reply shows which version decided.
struct Stamp(Box<str>, Interests);

impl Plugin for Stamp {
    fn interests(&self) -> &Interests {
        &self.1
    }

    fn on_connect(&mut self, _: &ConnectEvent, _: &mut Vec<Effect>) -> Result<ConnectVerdict, Failure> {
        Ok(ConnectVerdict::Pass)
    }

    fn on_message(&mut self, message: &mut Message, _: &mut Vec<Effect>) -> Result<Verdict, Failure> {
        let trace = [&*message.content.payload, self.0.as_bytes(), b" "].concat();
        Ok(Verdict::Replace(trace.into()))
    }

    fn on_disconnect(&mut self, _: &DisconnectEvent, _: &mut Vec<Effect>) -> Result<(), Failure> {
        Ok(())
    }
}

/// Expects the outcome of a [`Stamp`] with the text `tested` and these settings.
const SELF_TEST: &[u8] = br#"{
    "settings": {"v": "own"},
    "events": [
        {"event": "message", "kind": "raw", "text": "a ", "expect": "replace"},
        {"event": "message", "kind": "raw", "text": "b ",
         "expect": {"verdict": "replace", "text": "b tested{\"v\":\"own\"} "}}
    ]
}"#;

/// Takes text for WebAssembly: `large` loads when the gate is open, or fails when it is cancelled, `bad` does
/// not load, `slow` takes too long, `late` cannot be instantiated, `publishes` requests an effect, and any
/// other text is a [`Stamp`].
#[derive(Default)]
struct TextLoader {
    loads: AtomicUsize,
    instances: Arc<AtomicUsize>,
    /// Whether instantiation fails.
    full: Arc<std::sync::atomic::AtomicBool>,
    gate: compiling::Gate,
    /// Large files that were cancelled.
    cancelled: AtomicUsize,
}

struct TextFactory {
    text: Box<str>,
    about: About,
    instances: Arc<AtomicUsize>,
    full: Arc<std::sync::atomic::AtomicBool>,
}

impl Loader for TextLoader {
    fn load_unless_cancelled(
        &self,
        name: &str,
        wasm: &[u8],
        settings: &Settings,
        cancel: &Cancel,
    ) -> Result<Arc<dyn Factory>, LoadError> {
        self.loads.fetch_add(1, SeqCst);
        let text = String::from_utf8_lossy(wasm);
        if text.contains("large") && !self.gate.passes(cancel) {
            self.cancelled.fetch_add(1, SeqCst);
            return Err(LoadError::new(LoadCode::CompilerBusy, "is cancelled"));
        }
        match &*text {
            "bad" | "bad-large" => return Err(LoadError::new(LoadCode::NotWasm, "is bad")),
            "slow" => return Err(LoadError::new(LoadCode::CompileTimeout, "takes too long")),
            "panic" => panic!("the compiler has a bug"),
            _ => {}
        }
        let hooks = Hooks { on_message: true, ..Hooks::default() };
        let effects = if text.starts_with("publishes") { ["publish"].into() } else { [].into() };
        let about = About {
            name: Some(name.into()),
            version: Some("1".into()),
            sdk: None,
            interface: "0.1".into(),
            hooks,
            requested: Grants { effects, ..Grants::default() },
            self_test: ["tested", "lies"].contains(&&*text).then_some(Bytes::from_static(SELF_TEST)),
        };
        let text =
            if &*settings.config == "{}" { text.into() } else { format!("{text}{}", settings.config).into() };
        Ok(Arc::new(TextFactory { text, about, instances: self.instances.clone(), full: self.full.clone() }))
    }
}

impl Factory for TextFactory {
    fn instantiate(&self, _: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError> {
        if self.full.load(SeqCst) || &*self.text == "late" {
            return Err(LoadError::new(LoadCode::Instantiate, "has no room"));
        }
        self.instances.fetch_add(1, SeqCst);
        Ok(Box::new(Stamp(self.text.clone(), Interests::everything(self.about.hooks))))
    }

    fn about(&self) -> &About {
        &self.about
    }
}

/// Two workers that take chains at once. With `is_deaf` they never acknowledge them.
#[derive(Default)]
struct TwoWorkers {
    chains: Mutex<[Option<Chain>; 2]>,
    swaps: AtomicUsize,
    /// Instances that existed when the first worker got a chain.
    ready: Mutex<Vec<usize>>,
    instances: Arc<AtomicUsize>,
    deaf: Mutex<Vec<oneshot::Sender<()>>>,
    is_deaf: bool,
}

impl Workers for TwoWorkers {
    fn count(&self) -> usize {
        2
    }

    fn swap(&self, worker: usize, chain: Chain) -> oneshot::Receiver<()> {
        if worker == 0 {
            self.ready.lock().unwrap().push(self.instances.load(SeqCst));
        }
        self.swaps.fetch_add(1, SeqCst);
        self.chains.lock().unwrap()[worker] = Some(chain);
        let (sender, receiver) = oneshot::channel();
        if self.is_deaf {
            self.deaf.lock().unwrap().push(sender);
        } else {
            sender.send(()).unwrap();
        }
        receiver
    }
}

struct Bench {
    registry: Registry,
    workers: Arc<TwoWorkers>,
    loader: Arc<TextLoader>,
}

impl Bench {
    fn new() -> Self {
        Self::with(TwoWorkers::default())
    }

    fn with(mut workers: TwoWorkers) -> Self {
        let loader = Arc::new(TextLoader::default());
        workers.instances = loader.instances.clone();
        let workers = Arc::new(workers);
        Self { registry: Registry::new(loader.clone(), workers.clone()), workers, loader }
    }

    /// Files as `name=bytes`, with settings as `name=bytes+settings`.
    async fn apply(&self, files: &str) -> Applied {
        self.registry.apply(files.split_whitespace().map(found).collect::<Vec<_>>()).await
    }

    /// The outcome of a message on each worker, which must be the same.
    fn trace(&self) -> String {
        let mut chains = self.workers.chains.lock().unwrap();
        let traces = chains.each_mut().map(|chain| chain.as_mut().map(trace).unwrap_or_default());
        assert_eq!(traces[0], traces[1]);
        traces[0].trim_end().into()
    }

    /// `name state error` for every plugin.
    fn status(&self) -> Vec<String> {
        let show = |status: PluginStatus| {
            let error = status.last_error.map(|error| format!(" {}", error.code)).unwrap_or_default();
            format!("{} {} {}{error}", status.file, status.name, status.state.as_str())
        };
        self.registry.status().into_iter().map(show).collect()
    }

    fn loads(&self) -> usize {
        self.loader.loads.swap(0, SeqCst)
    }
}

fn found(file: &str) -> PluginFile {
    let (name, content) = file.split_once('=').unwrap();
    let (wasm, settings) =
        content.split_once('+').map_or((content, None), |(wasm, settings)| (wasm, Some(settings)));
    PluginFile {
        path: name.into(),
        file: format!("{name}.wasm").into(),
        wasm: Ok(Bytes::copy_from_slice(wasm.as_bytes())),
        settings: settings.map(|text| Ok(Bytes::from(format!("config.v = '{text}'")))),
        fresh: false,
    }
}

fn trace(chain: &mut Chain) -> String {
    let client = Client {
        number: 1,
        id: "c1".into(),
        user: "".into(),
        protocol: "raw",
        address: IpAddr::from([127, 0, 0, 1]),
        headers: [].into(),
        attributes: BTreeMap::new(),
    };
    let mut message = Message {
        client: Arc::new(client),
        content: MessageContent::new(Kind::Raw, None, Bytes::new()),
        now: 0,
        at: 0,
        meters: Meters::default(),
    };
    match chain.on_message(&mut message, &mut Vec::new()) {
        Decision::Undecided(payload) => String::from_utf8(payload.into()).unwrap(),
        Decision::Failed => "closed".into(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn plugins_run_in_the_order_of_their_file_names_on_every_worker() {
    let bench = Bench::new();
    let applied = bench.apply("20-b=B 10-a=A 30-c=C").await;
    let loads = Loads::default();
    assert_eq!(applied, Applied { generation: 1, changed: true, live: 3, refused: vec![], loads });
    assert_eq!(bench.trace(), "A B C");
    assert_eq!(bench.apply("25-a=A 20-b=B 30-c=C").await.generation, 2);
    assert_eq!(bench.trace(), "B A C", "renamed");
    assert_eq!(bench.loads(), 3, "and not loaded again");
}

#[tokio::test]
async fn instances_for_all_workers_are_ready_before_the_first_swap() {
    let bench = Bench::new();
    bench.apply("10-a=A 20-b=B").await;
    bench.apply("10-a=A 20-b=C").await;
    assert_eq!(*bench.workers.ready.lock().unwrap(), [4, 8]);
}

#[tokio::test]
async fn what_has_not_changed_is_neither_loaded_nor_swapped() {
    let bench = Bench::new();
    bench.apply("10-a=A 20-b=B").await;
    bench.loads();
    let applied = bench.apply("20-b=B 10-a=A").await;
    assert!(!applied.changed);
    assert_eq!((bench.loads(), bench.workers.swaps.load(SeqCst)), (0, 2));
    bench.apply("10-a=A 20-b=B2").await;
    assert_eq!(bench.loads(), 1, "only the changed one");
    bench.apply("10-a=A+x 20-b=B2").await;
    assert_eq!(bench.loads(), 1, "changed settings are a change");
    assert_eq!(bench.trace(), "A{\"v\":\"x\"} B2");
}

#[tokio::test]
async fn a_refused_file_leaves_the_last_good_version_in_its_place() {
    let bench = Bench::new();
    bench.apply("10-a=A 20-b=B").await;
    let applied = bench.apply("10-a=bad 20-b=C 30-d=bad").await;
    assert_eq!(bench.trace(), "A C");
    let refused: Vec<_> = applied.refused.iter().map(|(file, error)| (&**file, error.code())).collect();
    assert_eq!(refused, [("10-a.wasm", LoadCode::NotWasm), ("30-d.wasm", LoadCode::NotWasm)]);
    assert_eq!(
        bench.status(),
        ["10-a.wasm a live-older not-wasm", "20-b.wasm b live", "30-d.wasm d refused not-wasm"]
    );
    let applied = bench.apply("10-a=A 20-b=C 30-d=D").await;
    assert_eq!(applied.refused, []);
    assert_eq!(bench.trace(), "A C D");
    assert_eq!(bench.status(), ["10-a.wasm a live", "20-b.wasm b live", "30-d.wasm d live"]);
}

#[tokio::test]
async fn a_bad_version_is_tried_once() {
    let bench = Bench::new();
    bench.apply("a=A").await;
    bench.apply("a=bad").await;
    bench.loads();
    bench.apply("a=bad b=B").await;
    assert_eq!(bench.loads(), 1, "only b");
    assert_eq!(bench.trace(), "A B");
    let at = || bench.registry.status()[0].last_error.clone().unwrap().at;
    let first = at();
    bench.apply("a=bad").await;
    assert_eq!(at(), first, "the time of the refusal, not of the last look");
}

#[tokio::test]
async fn what_panics_while_it_loads_is_refused() {
    let bench = Bench::new();
    bench.apply("b=B").await;
    let applied = bench.apply("a=panic b=B").await;
    assert_eq!(applied.refused[0].1.code(), LoadCode::Compile);
    assert_eq!(bench.trace(), "B");
}

#[tokio::test]
async fn what_cannot_be_instantiated_is_refused_and_tried_again() {
    let bench = Bench::new();
    bench.apply("a=A").await;
    let applied = bench.apply("a=late b=B").await;
    assert_eq!(applied.refused[0].1.code(), LoadCode::Instantiate);
    assert_eq!(bench.trace(), "A B");
    bench.loads();
    bench.apply("a=late b=B").await;
    assert_eq!(bench.loads(), 1, "room may have been found meanwhile");
}

#[tokio::test]
async fn what_took_too_long_is_tried_again_after_a_pause_that_grows() {
    let bench = Bench::new();
    bench.apply("a=A").await;
    bench.apply("a=A b=slow").await;
    let mut pause = Duration::ZERO;
    for _ in 0..10 {
        bench.loads();
        bench.apply("a=A b=slow").await;
        bench.apply("a=A b=slow c=C").await;
        assert!(bench.registry.tend().await.is_none());
        assert!(bench.loads() <= 1, "only c, and that once");
        let mut state = bench.registry.state.lock().await;
        let refused = state.refused.get_mut("b.wasm").unwrap();
        let again = refused.again.as_mut().unwrap();
        let next = again.at.duration_since(SystemTime::now()).unwrap() + Duration::from_secs(5);
        assert!(next > pause, "{next:?} after {pause:?}");
        pause = next.min(Duration::from_secs(50 * 60));
        again.at = SystemTime::now();
        drop(state);
        bench.registry.tend().await.unwrap();
        assert_eq!(bench.loads(), 1, "b");
    }
    bench.apply("a=A b=B").await;
    assert_eq!(bench.trace(), "A B", "another file is tried at once");
}

#[tokio::test]
async fn if_a_live_plugin_cannot_be_instantiated_again_everything_stays() {
    let bench = Bench::new();
    bench.apply("a=A b=B").await;
    bench.loader.full.store(true, SeqCst);
    let applied = bench.apply("a=A").await;
    assert!(!applied.changed);
    assert_eq!((applied.generation, applied.live), (1, 2));
    assert_eq!(bench.trace(), "A B");
    bench.loader.full.store(false, SeqCst);
    assert_eq!(bench.apply("a=A").await.generation, 2);
    assert_eq!(bench.trace(), "A");
}

#[tokio::test]
async fn removing_the_file_takes_the_plugin_out_and_its_numbers_stay() {
    let bench = Bench::new();
    bench.apply("a=A b=B").await;
    bench.trace();
    bench.apply("b=B").await;
    assert_eq!(bench.trace(), "B");
    assert_eq!(bench.status(), ["b.wasm b live", "a.wasm a removed"]);
    let calls = |name: &str| {
        let status = bench.registry.status();
        status.iter().find(|status| &*status.name == name).unwrap().counts.calls
    };
    assert_eq!((calls("a"), calls("b")), (2, 4), "one per worker and message");
    bench.apply("a=A2 b=B").await;
    bench.trace();
    assert_eq!(calls("a"), 4);
    assert_eq!(bench.status(), ["a.wasm a live", "b.wasm b live"]);
    bench.apply("").await;
    assert_eq!(bench.trace(), "");
}

#[tokio::test]
async fn the_second_file_of_a_name_is_refused_until_the_first_is_gone() {
    let bench = Bench::new();
    bench.apply("10-a=A").await;
    let applied = bench.apply("10-a=A 20-a=B").await;
    assert_eq!(bench.trace(), "A");
    let error = &applied.refused[0].1;
    assert_eq!(error.code(), LoadCode::DuplicateName);
    assert_eq!(
        error.message(),
        "is the second plugin named `a`, after 10-a.wasm; rename or remove one of them"
    );
    bench.apply("20-a=B").await;
    assert_eq!(bench.trace(), "B");
    assert_eq!(bench.status(), ["20-a.wasm a live"]);
    let applied = Bench::new().apply("10-a=bad 20-a=B").await;
    assert_eq!(applied.live, 0, "a bad first file is still the first");
}

#[tokio::test]
async fn mistakes_in_the_settings_refuse_the_file_and_name_the_keys() {
    let bench = Bench::new();
    bench.apply("a=A+x").await;
    let mut file = found("a=A");
    file.settings = Some(Ok(Bytes::from_static(b"failure = 'ajar'\nx = 1")));
    let applied = bench.registry.apply(vec![file]).await;
    let error = &applied.refused[0].1;
    assert_eq!(error.code(), LoadCode::Settings);
    for word in ["failure", "\"closed\" or \"open\"", "x: is not a known key"] {
        assert!(error.message().contains(word), "{error}");
    }
    assert_eq!(bench.trace(), "A{\"v\":\"x\"}");
}

#[tokio::test]
async fn a_plugin_gets_what_it_asks_for_and_is_granted_or_does_not_load() {
    let bench = Bench::new();
    bench.apply("10-a=A").await;
    let mut file = found("10-a=publishes");
    let refused = bench.registry.apply(vec![file.clone()]).await.refused;
    assert_eq!(refused[0].1.code(), LoadCode::NotGranted);
    assert_eq!(
        refused[0].1.message(),
        "asks for effects.publish, which 10-a.toml does not grant; add under [grants]: effects = [\"publish\"]"
    );
    assert_eq!(bench.trace(), "A", "the version before asked for nothing");
    file.settings = Some(Ok(Bytes::from_static(b"grants.effects = ['publish', 'subscribe']")));
    assert_eq!(bench.registry.apply(vec![file]).await.refused, []);
    assert_eq!(bench.trace(), "publishes");
    let live = bench.registry.status()[0].live.clone().unwrap();
    assert_eq!(live.about.requested.names(), ["effects.publish"]);
    assert_eq!(live.grants.names(), ["effects.publish", "effects.subscribe"]);
}

#[tokio::test]
async fn a_plugin_that_fails_its_own_test_does_not_load() {
    let bench = Bench::new();
    bench.apply("a=A").await;
    let refused = bench.apply("a=lies+x").await.refused;
    assert_eq!(refused[0].1.code(), LoadCode::SelfTest);
    assert_eq!(
        refused[0].1.message(),
        "fails its self-test: event 2 (message): `text` is \"b lies{\\\"v\\\":\\\"own\\\"} \", expected \
         \"b tested{\\\"v\\\":\\\"own\\\"} \"; it does not do what its author says, rebuild it"
    );
    assert_eq!(bench.trace(), "A");
    assert_eq!(bench.apply("a=tested+x").await.refused, []);
    assert_eq!(bench.trace(), "tested{\"v\":\"x\"}", "the operator's settings");
    let files = ["a=lies", "b=tested"].map(found);
    let checked = Registry::check(&TextLoader::default(), &files);
    assert_eq!(checked.into_values().map(|result| result.is_ok()).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn a_breaker_that_was_set_by_hand_stays_so_for_later_versions() {
    let bench = Bench::new();
    assert!(!bench.registry.hold_breaker("a", Hold::Open), "there is no such plugin");
    bench.apply("a=A b=B").await;
    assert!(bench.registry.hold_breaker("a", Hold::Open));
    bench.apply("a=A2 b=B2").await;
    let live = |number: usize| bench.registry.status()[number].live.clone().unwrap();
    assert_eq!((live(0).breaker, live(0).breaker_held), (Position::Open, Hold::Open));
    assert_eq!((live(1).breaker, live(1).breaker_held), (Position::Closed, Hold::Auto));
    bench.registry.hold_breaker("a", Hold::Auto);
    bench.apply("a=A3 b=B2").await;
    assert_eq!(bench.trace(), "A3 B2");
}

#[tokio::test]
async fn there_is_room_for_so_many_plugins_and_those_that_are_live_keep_theirs() {
    let mut bench = Bench::new();
    bench.registry = bench.registry.with_plugins_max(2);
    bench.apply("20-b=B 30-c=C").await;
    let applied = bench.apply("20-b=B 30-c=C 40-d=D").await;
    assert_eq!(bench.trace(), "B C");
    assert_eq!((&*applied.refused[0].0, applied.refused[0].1.code()), ("40-d.wasm", LoadCode::TooMany));
    bench.apply("10-a=A 20-b=B2 30-c=C").await;
    assert_eq!(bench.trace(), "B2 C", "an earlier name pushes nobody out");
    bench.apply("10-a=A 20-b=B2").await;
    assert_eq!(bench.trace(), "A B2", "room has been found");
}

#[tokio::test]
async fn an_unreadable_file_keeps_the_last_good_version() {
    let bench = Bench::new();
    bench.apply("a=A").await;
    let mut file = found("a=A");
    file.wasm = Err(LoadError::new(LoadCode::TooLarge, "is too large"));
    let applied = bench.registry.apply(vec![file]).await;
    assert_eq!(applied.refused[0].1.code(), LoadCode::TooLarge);
    assert_eq!(bench.trace(), "A");
}

#[tokio::test]
async fn a_worker_that_does_not_answer_is_not_waited_for_forever() {
    let mut bench = Bench::with(TwoWorkers { is_deaf: true, ..TwoWorkers::default() });
    bench.registry.swap_timeout = Duration::from_millis(50);
    let begin = Instant::now();
    let applied = bench.apply("a=A").await;
    assert!(applied.changed, "the chains are given away");
    assert!(begin.elapsed() >= Duration::from_millis(50), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn the_observer_is_told_of_a_change_before_workers_are_waited_for() {
    let mut bench = Bench::with(TwoWorkers { is_deaf: true, ..TwoWorkers::default() });
    bench.registry.swap_timeout = Duration::from_secs(3600);
    let (observer, mut told) = tokio::sync::mpsc::channel(1);
    bench.registry = bench.registry.with_observer(move |applied| observer.try_send(applied.clone()).unwrap());
    let applied = tokio::select! {
        _ = bench.apply("a=A b=bad") => panic!("no worker answers"),
        told = told.recv() => told.unwrap(),
    };
    assert_eq!((applied.generation, applied.live, applied.refused.len()), (1, 1, 1));
}

#[tokio::test]
async fn status_says_what_runs_since_when() {
    let bench = Bench::new();
    bench.apply("a=A").await;
    bench.apply("a=A b=B").await;
    let status = bench.registry.status();
    let live: Vec<_> = status.iter().map(|status| status.live.as_ref().unwrap()).collect();
    assert_eq!(live.iter().map(|live| live.generation).collect::<Vec<_>>(), [1, 2], "a was not replaced");
    assert_eq!(live[0].about.version.as_deref(), Some("1"));
    assert_eq!(live[0].about.hooks.names().collect::<Vec<_>>(), ["on-message"]);
    assert!(live[0].since <= live[1].since);
    assert_eq!(status.iter().map(|status| status.order).collect::<Vec<_>>(), [Some(0), Some(1)]);
}

#[test]
fn check_loads_everything_without_workers() {
    let files = ["10-a=A", "20-b=bad", "30-a=C", "31-b=D", "40-d=late", "50.canary=E"].map(found);
    let results = Registry::check(&TextLoader::default(), &files);
    let shown: Vec<String> = results
        .iter()
        .map(|(file, result)| match result {
            Ok(checked) => format!("{file} {}", checked.name),
            Err(error) => format!("{file} {}", error.code()),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "10-a.wasm a",
            "20-b.wasm not-wasm",
            "30-a.wasm duplicate-name",
            "31-b.wasm duplicate-name",
            "40-d.wasm instantiate",
            "50.canary.wasm invalid-name",
        ]
    );
}
