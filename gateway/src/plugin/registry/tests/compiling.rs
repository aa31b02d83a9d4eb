//! Files that take long to compile.

use std::sync::Condvar;

use super::*;

/// Holds up the load of large files until it is opened.
#[derive(Default)]
pub(super) struct Gate(Mutex<bool>, Condvar);

impl Gate {
    pub(super) fn wait(&self) {
        let open = self.0.lock().unwrap();
        drop(self.1.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

/// A registry that does not wait long, and that has begun with one plugin.
async fn begun() -> Bench {
    let mut bench = Bench::new();
    let patience = Duration::from_millis(100);
    bench.registry.loading = Arc::new(Loading::new(bench.loader.clone(), patience));
    bench.apply("50-a=A").await;
    bench.loads();
    bench
}

/// Opens the gate and takes what was loaded behind it.
async fn open(bench: &Bench) {
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

#[tokio::test]
async fn a_file_that_is_replaced_while_it_is_compiled_is_forgotten() {
    let bench = begun().await;
    bench.apply("50-a=A 60-b=large").await;
    bench.apply("50-a=A 60-b=B").await;
    assert_eq!(bench.trace(), "A B");
    open(&bench).await;
    bench.registry.loaded().await;
    assert!(bench.registry.tend().await.is_none());
    assert_eq!((bench.trace(), bench.loads()), ("A B".into(), 2));
}

#[tokio::test]
async fn a_few_files_are_compiled_at_the_same_time() {
    let bench = begun().await;
    bench.apply("50-a=A b=large1 c=large2 d=large3").await;
    assert_eq!(bench.loads(), 2);
    assert_eq!(bench.status()[1..], ["b.wasm b compiling", "c.wasm c compiling", "d.wasm d compiling"]);
    open(&bench).await;
    assert_eq!((bench.trace(), bench.loads()), ("A large1 large2 large3".into(), 1));
}

#[tokio::test]
async fn the_first_chain_has_every_plugin_however_long_it_takes() {
    let mut bench = Bench::new();
    bench.registry.loading = Arc::new(Loading::new(bench.loader.clone(), Duration::ZERO));
    let opened = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.loader.gate.open();
    };
    let (applied, ()) = tokio::join!(bench.apply("a=A b=large"), opened);
    assert_eq!((bench.trace(), applied.live), ("A large".into(), 2));
}

#[tokio::test]
async fn the_first_chain_does_not_wait_for_a_plugin_whose_absence_is_permitted() {
    let mut bench = Bench::new();
    bench.registry.loading = Arc::new(Loading::new(bench.loader.clone(), Duration::ZERO));
    let mut large = found("b=large");
    large.settings = Some(Ok(Bytes::from_static(b"failure = 'open'")));
    bench.registry.apply(vec![found("a=A"), large]).await;
    assert_eq!(bench.status(), ["a.wasm a live", "b.wasm b compiling"]);
    open(&bench).await;
    assert_eq!(bench.trace(), "A large");
}
