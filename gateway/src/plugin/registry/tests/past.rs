//! Tests the archived versions of plugins: after a restart, after a bad file, and in a rollback.

use tempfile::TempDir;

use super::compiling::{open, with_patience};
use super::*;
use crate::disk::StateFolder;

/// A gateway's state folder, with one registry after the other on it.
struct Past {
    dir: TempDir,
    state: Option<StateFolder>,
    keep_removed: bool,
}

impl Past {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), state: None, keep_removed: false }
    }

    /// Starts the gateway.
    fn start(&mut self) -> Bench {
        self.state = None;
        let state = StateFolder::open(&self.dir.path().join("state"), self.dir.path()).unwrap();
        let bench = Bench::new();
        let registry =
            bench.registry.with_archive(Arc::new(Archive::in_folder(&state))).keep_removed(self.keep_removed);
        self.state = Some(state);
        Bench { registry, ..bench }
    }

    /// Makes an archived file readable, or unreadable for a reason that may pass.
    fn readable(&self, text: &str, readable: bool) {
        use std::fs::Permissions;
        use std::os::unix::fs::PermissionsExt;
        let mode = if readable { 0o600 } else { 0o666 };
        let path = self.dir.path().join("state/versions").join(hex(text));
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn versions(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("state/versions")).unwrap().count()
    }
}

async fn back(bench: &Bench, name: &str) -> PluginState {
    bench.registry.rollback(name, None).await.unwrap().state
}

async fn refusal(bench: &Bench, name: &str, to: Option<&str>) -> String {
    bench.registry.rollback(name, to).await.unwrap_err().to_string()
}

fn kept(bench: &Bench) -> Vec<String> {
    bench.registry.status()[0].kept.iter().map(|kept| kept.digest.wasm_hex()).collect()
}

fn hex(text: &str) -> String {
    Digest::of(&found(&format!("x={text}"))).wasm_hex()
}

#[tokio::test]
async fn a_bad_file_that_meets_a_restart_leaves_the_last_good_version() {
    let mut past = Past::new();
    past.start().apply("10-a=A+s 20-b=B").await;
    let bench = past.start();
    let applied = bench.apply("10-a=bad 20-b=B").await;
    assert_eq!(bench.trace(), "A{\"v\":\"s\"} B", "with its settings");
    assert_eq!(applied.refused[0].1.code(), LoadCode::NotWasm);
    assert_eq!(bench.status(), ["10-a.wasm a live-older not-wasm", "20-b.wasm b live"]);
    bench.apply("10-a=A2 20-b=B").await;
    assert_eq!(bench.trace(), "A2 B");
}

#[tokio::test]
async fn without_a_past_a_bad_file_closes_its_place() {
    let mut past = Past::new();
    let bench = past.start();
    bench.apply("a=bad b=B").await;
    assert_eq!(bench.trace(), "closed");
    assert_eq!(bench.status(), ["b.wasm b live", "a.wasm a closed not-wasm"]);
}

#[tokio::test]
async fn a_kept_version_that_is_damaged_gives_way_to_the_one_before() {
    let mut past = Past::new();
    let bench = past.start();
    for files in ["a=A1", "a=A2", "a=A3"] {
        bench.apply(files).await;
    }
    std::fs::write(past.dir.path().join("state/versions").join(hex("A3")), "A4").unwrap();
    let bench = past.start();
    bench.apply("a=bad").await;
    assert_eq!(bench.trace(), "A2");
}

#[tokio::test]
async fn what_ran_before_is_brought_back_as_soon_as_it_can_be() {
    let mut past = Past::new();
    let bench = past.start();
    for files in ["a=A1", "a=A2", "a=A3"] {
        bench.apply(files).await;
    }
    past.readable("A3", false);
    let bench = past.start();
    bench.apply("a=bad").await;
    assert_eq!(bench.trace(), "A2", "meanwhile");
    let bench = past.start();
    bench.loader.full.store(true, SeqCst);
    bench.apply("a=bad").await;
    assert_eq!(bench.trace(), "closed");
    bench.loader.full.store(false, SeqCst);
    bench.registry.tend().await.unwrap();
    assert_eq!(bench.trace(), "A2");
    past.readable("A3", true);
    bench.registry.tend().await.unwrap();
    assert_eq!(bench.trace(), "A3");
    assert!(bench.registry.tend().await.is_none());
}

#[tokio::test]
async fn a_file_that_was_turned_away_is_not_taken_because_the_wanted_version_cannot_be_read() {
    let mut past = Past::new();
    let bench = past.start();
    for files in ["a=A1", "a=A2"] {
        bench.apply(files).await;
    }
    back(&bench, "a").await;
    past.readable("A1", false);
    let bench = past.start();
    bench.apply("a=A2 b=B").await;
    assert_eq!(bench.trace(), "closed");
    bench.apply("a=A2 b=B2").await;
    assert_eq!(bench.trace(), "closed", "also when something else changes");
    let unread = Err(LoadError::new(LoadCode::Unreadable, "cannot be read").passing());
    bench.registry.apply(vec![PluginFile { wasm: unread, ..found("a=A2") }]).await;
    past.readable("A1", true);
    bench.registry.tend().await.unwrap();
    assert_eq!(bench.trace(), "A1");
    let applied = bench.apply("a=A2").await;
    assert_eq!((bench.trace(), applied.changed), ("A1".into(), false), "nobody has put another file there");
    bench.apply("a=A4").await;
    assert_eq!(bench.trace(), "A4");
}

#[tokio::test]
async fn a_plugin_that_outlives_its_file_and_cannot_be_brought_back_closes_its_place() {
    let mut past = Past { keep_removed: true, ..Past::new() };
    past.start().apply("a=A b=B").await;
    past.readable("A", false);
    let bench = past.start();
    bench.apply("b=B").await;
    assert_eq!(bench.trace(), "closed");
    past.readable("A", true);
    bench.registry.tend().await.unwrap();
    assert_eq!(bench.trace(), "A B");
}

#[tokio::test]
async fn taking_the_file_out_is_final_also_between_two_runs() {
    let mut past = Past::new();
    let bench = past.start();
    bench.apply("a=A b=B").await;
    bench.apply("b=B").await;
    assert_eq!(bench.trace(), "B");
    let bench = past.start();
    bench.apply("c=C").await;
    assert_eq!(bench.trace(), "C", "a was taken out before the restart, b between the runs");
    bench.apply("a=bad c=C").await;
    assert_eq!(bench.trace(), "C", "and its earlier version does not come back");
    assert_eq!(bench.status(), ["c.wasm c live", "a.wasm a refused not-wasm"]);
    let bench = past.start();
    bench.apply("a=bad c=C").await;
    assert_eq!(bench.trace(), "closed", "a file that lies there at a start is to be a plugin");
}

#[tokio::test]
async fn if_the_operator_wants_it_a_plugin_outlives_its_file() {
    let mut past = Past { keep_removed: true, ..Past::new() };
    let bench = past.start();
    bench.apply("10-a=A 20-b=B 30-c=C").await;
    let applied = bench.apply("10-a=A 30-c=C").await;
    assert!(!applied.changed);
    assert_eq!(bench.trace(), "A B C", "in its place");
    assert_eq!(bench.status(), ["10-a.wasm a live", "20-b.wasm b removed-kept", "30-c.wasm c live"]);
    let bench = past.start();
    bench.apply("30-c=C").await;
    assert_eq!(bench.trace(), "A B C", "also when the file goes between two runs");
    bench.apply("15-b=B2 30-c=C").await;
    assert_eq!(bench.trace(), "A B2 C");
    assert_eq!(bench.status(), ["10-a.wasm a removed-kept", "15-b.wasm b live", "30-c.wasm c live"]);
}

#[tokio::test]
async fn the_observer_is_told_of_a_rollback_as_of_any_change() {
    let mut past = Past::new();
    let mut bench = past.start();
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = told.clone();
    bench.registry = bench.registry.with_observer(move |applied| notes.lock().unwrap().push(applied.clone()));
    bench.apply("a=A").await;
    bench.apply("a=A2").await;
    back(&bench, "a").await;
    let told: Vec<_> = told.lock().unwrap().iter().map(|applied| applied.generation).collect();
    assert_eq!(told, [1, 2, 3]);
}

#[tokio::test]
async fn a_rollback_goes_one_back_each_time_and_stays_until_the_file_changes() {
    let mut past = Past::new();
    let bench = past.start();
    for files in ["a=A1 b=B", "a=A2+s b=B", "a=A3 b=B"] {
        bench.apply(files).await;
    }
    assert_eq!(back(&bench, "a").await, PluginState::RolledBack);
    assert_eq!(bench.trace(), "A2{\"v\":\"s\"} B", "with its settings");
    assert_eq!(bench.status()[0], "a.wasm a rolled-back");
    back(&bench, "a").await;
    assert_eq!(bench.trace(), "A1 B");
    assert_eq!(refusal(&bench, "a", None).await, "no earlier version of `a` is kept");
    assert!(!bench.apply("a=A3 b=B").await.changed, "the file is what it was");
    bench.apply("a=A3 b=B2").await;
    assert_eq!(bench.trace(), "A1 B2", "another file changed");
    bench.apply("a=A4 b=B2").await;
    assert_eq!(bench.trace(), "A4 B2");
    assert_eq!(bench.status()[0], "a.wasm a live");
    assert_eq!(kept(&bench), ["A4", "A3", "A2", "A1"].map(hex));
}

#[tokio::test]
async fn a_rollback_outlives_a_restart() {
    let mut past = Past::new();
    let bench = past.start();
    for files in ["a=A1", "a=A2"] {
        bench.apply(files).await;
    }
    back(&bench, "a").await;
    let bench = past.start();
    bench.apply("a=A2").await;
    assert_eq!((bench.trace(), bench.status()), ("A1".into(), vec!["a.wasm a rolled-back".into()]));
    // A bad file ends the rollback, and the previous version continues, in this run and the next.
    bench.apply("a=bad").await;
    assert_eq!((bench.trace(), bench.status()), ("A1".into(), vec!["a.wasm a live-older not-wasm".into()]));
    let bench = past.start();
    bench.apply("a=bad").await;
    assert_eq!(bench.trace(), "A1", "and not A2, which the operator did not want");
}

#[tokio::test]
async fn a_version_is_named_by_its_digest_and_the_way_forward_is_the_same() {
    let mut past = Past::new();
    let bench = past.start();
    for files in ["a=A1", "a=A2", "a=A3"] {
        bench.apply(files).await;
    }
    let to = async |digest: &str| bench.registry.rollback("a", Some(digest)).await;
    let done = to(&hex("A1")[..12].to_uppercase()).await.unwrap();
    assert_eq!((bench.trace(), done.state), ("A1".into(), PluginState::RolledBack));
    assert_eq!((done.digest.wasm_hex(), done.replaced.unwrap().wasm_hex()), (hex("A1"), hex("A3")));
    assert_eq!(to(&hex("A1")).await.unwrap_err().to_string(), "this version of `a` runs already");
    let done = to(&hex("A3")).await.unwrap();
    assert_eq!((bench.trace(), done.state), ("A3".into(), PluginState::Live), "what lies in the folder");
    for (digest, found) in [(hex("A9"), 0), (hex("A1")[..5].to_owned(), 1), (String::from("zz"), 0)] {
        let error = to(&digest).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{found} kept versions of `a` have a digest that begins with")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_rollback_needs_a_plugin_and_a_past() {
    let mut past = Past::new();
    let bench = past.start();
    assert_eq!(refusal(&bench, "a", None).await, "there is no plugin `a`; /api/plugins lists all plugins");
    bench.apply("a=A").await;
    assert_eq!(refusal(&bench, "a", None).await, "no earlier version of `a` is kept");
    bench.apply("").await;
    let expected = "the file of `a` was removed from the plugin folder; restore it first";
    assert_eq!(refusal(&bench, "a", None).await, expected);
}

#[tokio::test]
async fn a_version_that_cannot_be_brought_back_changes_nothing() {
    let mut past = Past::new();
    let bench = past.start();
    for files in ["a=A1", "a=A2"] {
        bench.apply(files).await;
    }
    std::fs::remove_file(past.dir.path().join("state/versions").join(hex("A1"))).unwrap();
    let error = refusal(&bench, "a", None).await;
    assert!(
        error.starts_with("the earlier version of `a` cannot be loaded: the file cannot be read"),
        "{error}"
    );
    assert_eq!((bench.trace(), bench.status()), ("A2".into(), vec!["a.wasm a live".into()]));
    assert!(!bench.apply("a=A2").await.changed);
}

#[tokio::test]
async fn a_bad_file_before_any_good_one_can_be_rolled_back_to_what_was_kept() {
    let mut past = Past::new();
    past.start().apply("a=A1").await;
    let bench = past.start();
    bench.apply("").await;
    bench.apply("a=bad").await;
    assert_eq!(bench.trace(), "");
    back(&bench, "a").await;
    assert_eq!((bench.trace(), bench.status()), ("A1".into(), vec!["a.wasm a rolled-back not-wasm".into()]));
}

#[tokio::test]
async fn five_versions_are_kept_and_nothing_else_stays_on_the_disk() {
    let mut past = Past::new();
    let bench = past.start();
    for version in 1..=8 {
        bench.apply(&format!("a=A{version}+s{version}")).await;
    }
    assert_eq!(kept(&bench), ["A8", "A7", "A6", "A5", "A4"].map(hex));
    assert_eq!(past.versions(), 2 * VERSIONS_KEPT, "plugins and settings");
    bench.apply("a=A5+s5").await;
    assert_eq!(kept(&bench), ["A5", "A8", "A7", "A6", "A4"].map(hex), "live again, and once in the list");
}

#[tokio::test]
async fn half_a_file_is_not_worth_a_word_until_it_stays_half() {
    let bench = Bench::new();
    bench.apply("a=A").await;
    let half = |fresh| vec![PluginFile { fresh, ..found("a=bad") }, PluginFile { fresh, ..found("b=bad") }];
    let applied = bench.registry.apply(half(true)).await;
    assert_eq!((applied.refused, applied.loads.refused), (vec![], vec![]));
    assert_eq!(bench.trace(), "A");
    let applied = bench.registry.apply(half(false)).await;
    assert_eq!(applied.loads.refused, [LoadCode::NotWasm; 2]);
    assert_eq!(bench.status(), ["a.wasm a live-older not-wasm", "b.wasm b refused not-wasm"]);
    // An error that a half-written file cannot cause is reported at once.
    let mut file = found("a=A");
    file.wasm = Err(LoadError::new(LoadCode::TooLarge, "is too large"));
    let applied = bench.registry.apply(vec![PluginFile { fresh: true, ..file }]).await;
    assert_eq!(applied.loads.refused, [LoadCode::TooLarge]);
}

#[tokio::test]
async fn a_rollback_that_fails_leaves_the_compile_of_the_new_file_alone() {
    let mut past = Past::new();
    let bench = with_patience(past.start(), Duration::from_millis(50));
    for files in ["a=A1", "a=A2", "a=large"] {
        bench.apply(files).await;
    }
    past.readable("A1", false);
    assert!(refusal(&bench, "a", None).await.contains("cannot be loaded"));
    assert_eq!((bench.trace(), bench.status()), ("A2".into(), vec!["a.wasm a compiling".into()]));
    open(&bench).await;
    assert_eq!((bench.trace(), bench.status()), ("large".into(), vec!["a.wasm a live".into()]));
}

#[tokio::test]
async fn what_ran_before_is_live_after_a_restart_that_compiles_it_again() {
    let mut past = Past::new();
    let bench = past.start();
    bench.loader.gate.open();
    bench.apply("a=large").await;
    let bench = with_patience(past.start(), Duration::ZERO);
    let opened = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.loader.gate.open();
    };
    let _ = tokio::join!(bench.apply("a=large"), opened);
    assert_eq!((bench.trace(), bench.status()), ("large".into(), vec!["a.wasm a live".into()]));
}
