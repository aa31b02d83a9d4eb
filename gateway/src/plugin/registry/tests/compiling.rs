//! Files that take long to compile.

use std::sync::Condvar;

use super::*;

/// Holds up the load of large files until it is opened.
#[derive(Default)]
pub(super) struct Gate(Mutex<bool>, Condvar);

impl Gate {
    /// Waits until it is open. False if the load is cancelled before.
    pub(super) fn passes(&self, cancel: &Cancel) -> bool {
        let mut open = self.0.lock().unwrap();
        while !*open && !cancel.is_cancelled() {
            open = self.1.wait_timeout(open, Duration::from_millis(5)).unwrap().0;
        }
        *open
    }

    pub(super) fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

/// Has the changes of a registry wait only so long for a file.
pub(super) fn with_patience(mut bench: Bench, patience: Duration) -> Bench {
    bench.registry.loading = Arc::new(Loading::new(bench.loader.clone(), patience));
    bench
}

/// A registry that does not wait long, and that has begun with one plugin.
async fn begun() -> Bench {
    let bench = with_patience(Bench::new(), Duration::from_millis(100));
    bench.apply("50-a=A").await;
    bench.loads();
    bench
}

/// Opens the gate and takes what was loaded behind it.
pub(super) async fn open(bench: &Bench) {
    bench.loader.gate.open();
    while bench.registry.status().iter().any(|status| status.compiling.is_some()) {
        bench.registry.loaded().await;
        bench.registry.tend().await;
    }
}

#[tokio::test]
async fn a_file_that_takes_long_joins_later_and_delays_no_other() {
    let bench = begun().await;
    let applied = bench.apply("40-l=large 50-a=A 60-b=B").await;
    assert_eq!((bench.trace(), applied.refused), ("A B".into(), vec![]));
    assert_eq!(bench.status(), ["50-a.wasm a live", "60-b.wasm b live", "40-l.wasm l compiling"]);
    assert!(bench.registry.tend().await.is_none(), "there is nothing to do before it ends");
    bench.apply("40-l=large 50-a=A2 60-b=B").await;
    assert_eq!(bench.trace(), "A2 B", "another change is not delayed");
    open(&bench).await;
    assert_eq!(bench.trace(), "large A2 B");
    assert_eq!(bench.loads(), 3, "each version is loaded once");
}

#[tokio::test]
async fn the_version_before_runs_until_the_new_one_is_compiled() {
    let bench = begun().await;
    bench.apply("50-a=large").await;
    assert_eq!((bench.trace(), bench.status()), ("A".into(), vec!["50-a.wasm a compiling".into()]));
    open(&bench).await;
    assert_eq!((bench.trace(), bench.status()), ("large".into(), vec!["50-a.wasm a live".into()]));
}

#[tokio::test]
async fn a_file_that_is_refused_after_a_long_time_changes_nothing() {
    let bench = begun().await;
    bench.apply("50-a=bad-large 60-b=bad-large").await;
    assert_eq!(bench.status(), ["50-a.wasm a compiling", "60-b.wasm b compiling"]);
    open(&bench).await;
    assert_eq!(bench.trace(), "A");
    assert_eq!(bench.status(), ["50-a.wasm a live-older not-wasm", "60-b.wasm b refused not-wasm"]);
}

/// Waits until so many loads have begun since the last count.
async fn begun_loads(bench: &Bench, number: usize) {
    while bench.loader.loads.load(SeqCst) < number {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for the end of a load that was cancelled; the gate stays closed.
async fn cancelled(bench: &Bench) {
    while bench.loader.cancelled.load(SeqCst) == 0 {
        bench.registry.loaded().await;
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_or_removed_is_compiled_no_longer() {
    for files in ["50-a=A 60-b=B", "50-a=A"] {
        let bench = begun().await;
        bench.apply("50-a=A 60-b=large").await;
        bench.apply(files).await;
        let trace = bench.trace();
        cancelled(&bench).await;
        assert!(bench.registry.tend().await.is_none(), "its end changes nothing");
        assert_eq!(bench.trace(), trace);
        bench.loader.gate.open();
        bench.apply("50-a=A 60-b=large").await;
        assert_eq!(bench.trace(), "A large", "it is loaded again");
    }
}

#[tokio::test]
async fn other_settings_do_not_make_the_compile_begin_again() {
    let bench = begun().await;
    bench.apply("50-a=A 60-b=large").await;
    bench.apply("50-a=A 60-b=large+x").await;
    bench.apply("50-a=A 60-b=large+y").await;
    assert_eq!((bench.status()[1].as_str(), bench.loads()), ("60-b.wasm b compiling", 1));
    open(&bench).await;
    assert_eq!((bench.trace(), bench.loads()), ("A large{\"v\":\"y\"}".into(), 1));
    assert_eq!(bench.loader.cancelled.load(SeqCst), 0);
}

#[tokio::test]
async fn large_files_hold_up_no_other() {
    let bench = begun().await;
    bench.apply("10-b=large1 20-c=large2 30-d=large3 50-a=A+new 60-e=E").await;
    assert_eq!(bench.trace(), "A{\"v\":\"new\"} E");
    begun_loads(&bench, 5).await;
    bench.loads();
    open(&bench).await;
    assert_eq!((bench.trace(), bench.loads()), ("large1 large2 large3 A{\"v\":\"new\"} E".into(), 0));
}

#[tokio::test]
async fn so_many_files_are_loaded_at_the_same_time() {
    let mut bench = begun().await;
    bench.registry = bench.registry.with_plugins_max(100);
    let files: Vec<String> = (10..50).map(|number| format!("a{number}=large{number}")).collect();
    bench.apply(&format!("50-a=A {}", files.join(" "))).await;
    begun_loads(&bench, 32).await;
    assert_eq!(bench.loads(), 32);
    open(&bench).await;
    assert_eq!((bench.trace().split(' ').count(), bench.loads()), (41, 8));
}

#[tokio::test]
async fn the_first_chain_has_every_plugin_however_long_it_takes() {
    let bench = with_patience(Bench::new(), Duration::ZERO);
    let opened = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.loader.gate.open();
    };
    let (applied, ()) = tokio::join!(bench.apply("a=A b=large"), opened);
    assert_eq!((bench.trace(), applied.live), ("A large".into(), 2));
}

#[tokio::test]
async fn the_files_of_the_first_chain_are_loaded_beside_each_other() {
    let bench = with_patience(Bench::new(), Duration::ZERO);
    let opened = async {
        let all = tokio::time::timeout(Duration::from_secs(10), begun_loads(&bench, 3)).await;
        bench.loader.gate.open();
        all.expect("one does not wait for the other");
    };
    tokio::join!(bench.apply("a=large1 b=large2 c=large3"), opened);
    assert_eq!(bench.trace(), "large1 large2 large3");
}

#[tokio::test]
async fn a_change_waits_for_several_large_files_as_long_as_for_one() {
    let patience = Duration::from_secs(1);
    let files: Vec<_> = ["b=large1", "c=large2", "d=large3"].into_iter().map(may_be_absent).collect();
    for bench in [Bench::new(), begun().await] {
        let bench = with_patience(bench, patience);
        let begin = Instant::now();
        bench.registry.apply(files.clone()).await;
        let took = begin.elapsed();
        assert!((patience..patience * 3).contains(&took), "{took:?}");
        let status = bench.registry.status();
        assert_eq!(status.iter().filter(|status| status.compiling.is_some()).count(), 3);
        bench.loader.gate.open();
    }
}

/// A file whose plugin may be absent.
fn may_be_absent(file: &str) -> PluginFile {
    PluginFile { settings: Some(Ok(Bytes::from_static(b"failure = 'open'"))), ..found(file) }
}

#[tokio::test]
async fn the_first_chain_does_not_wait_for_a_plugin_whose_absence_is_permitted() {
    let bench = with_patience(Bench::new(), Duration::ZERO);
    bench.registry.apply(vec![found("a=A"), may_be_absent("b=large")]).await;
    assert_eq!(bench.status(), ["a.wasm a live", "b.wasm b compiling"]);
    open(&bench).await;
    assert_eq!(bench.trace(), "A large");
}

#[tokio::test]
async fn the_first_chain_waits_for_a_required_plugin_even_if_its_absence_is_permitted() {
    let mut bench = with_patience(Bench::new(), Duration::ZERO);
    bench.registry = bench.registry.with_required(["b".into()]);
    let opened = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!bench.registry.has_begun(), "there is no chain without it");
        bench.loader.gate.open();
    };
    tokio::join!(bench.registry.apply(vec![found("a=A"), may_be_absent("b=large")]), opened);
    assert_eq!((bench.trace(), bench.registry.missing()), ("A large".into(), vec![]));
}
