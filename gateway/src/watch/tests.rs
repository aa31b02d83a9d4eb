#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::sync::mpsc::{Receiver as Events, channel};
use tokio::time::timeout;

use super::*;
use crate::plugin::load::LoadCode;

/// A folder that is looked at by hand, on a clock that is moved by hand.
struct Bench {
    dir: TempDir,
    folder: Folder,
    now: Instant,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let options =
            Options { file_bytes_max: 100, settle: Duration::from_millis(100), ..Options::default() };
        let mut folder = Folder::new(dir.path(), &options);
        let now = Instant::now();
        folder.look_at_once(now).unwrap();
        Self { dir, folder, now }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn after(&mut self, ms: u64) -> folder::Look {
        self.now += Duration::from_millis(ms);
        self.folder.look(self.now).unwrap()
    }

    fn show(&self) -> String {
        show(&self.folder.snapshot())
    }
}

/// `a.wasm=bytes` or `a.wasm=bytes+settings`, separated by blanks.
fn show(found: &[Found]) -> String {
    let text = |content: &Result<bytes::Bytes, crate::plugin::load::LoadError>| match content {
        Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Err(error) => format!("<{}>", error.code()),
    };
    let found = found.iter().map(|found| {
        let settings = found.settings.as_ref().map(|settings| format!("+{}", text(settings)));
        format!("{}={}{}", found.file, text(&found.wasm), settings.unwrap_or_default())
    });
    found.collect::<Vec<_>>().join(" ")
}

const QUIET: folder::Look = folder::Look { changed: false, restless: false, fresh: false };
const RESTLESS: folder::Look = folder::Look { restless: true, ..QUIET };
const CHANGED: folder::Look = folder::Look { changed: true, ..QUIET };
/// Changed, and perhaps not for the last time.
const CHANGING: folder::Look = folder::Look { fresh: true, ..CHANGED };

#[test]
fn plugins_come_in_order_with_their_settings() {
    let bench =
        Bench::new(&[("20-b.wasm", "B"), ("10-a.wasm", "A"), ("10-a.toml", "s"), ("30-c.toml", "alone")]);
    assert_eq!(bench.show(), "10-a.wasm=A+s 20-b.wasm=B");
}

#[test]
fn a_file_counts_once_it_has_stopped_changing() {
    let mut bench = Bench::new(&[("a.wasm", "old")]);
    assert_eq!(bench.after(1), QUIET);
    bench.write("a.wasm", "ne");
    assert_eq!(bench.after(1), RESTLESS);
    bench.write("a.wasm", "new");
    assert_eq!(bench.after(99), RESTLESS);
    assert_eq!(bench.after(99), RESTLESS, "the second write began the wait again");
    assert_eq!(bench.show(), "a.wasm=old");
    assert_eq!(bench.after(1), CHANGING);
    assert_eq!(bench.show(), "a.wasm=new");
    assert!(bench.folder.snapshot()[0].fresh, "what is wrong with it is not yet believed");
    assert_eq!(bench.after(599), folder::Look { fresh: true, ..QUIET });
    assert_eq!(bench.after(1), CHANGED);
    assert!(!bench.folder.snapshot()[0].fresh);
    assert_eq!(bench.after(1000), QUIET);
}

#[test]
fn a_file_that_is_removed_and_written_again_was_never_gone() {
    let mut bench = Bench::new(&[("a.wasm", "old")]);
    fs::remove_file(bench.dir.path().join("a.wasm")).unwrap();
    assert_eq!(bench.after(1), RESTLESS);
    assert_eq!(bench.show(), "a.wasm=old");
    bench.write("a.wasm", "new");
    assert_eq!(bench.after(99), RESTLESS);
    assert_eq!(bench.after(100), CHANGING);
    assert_eq!(bench.show(), "a.wasm=new");
    fs::remove_file(bench.dir.path().join("a.wasm")).unwrap();
    bench.after(1);
    assert_eq!(bench.after(100), CHANGED);
    assert_eq!(bench.show(), "");
}

#[test]
fn unchanged_files_are_not_read_again() {
    let mut bench = Bench::new(&[("a.wasm", "A"), ("b.wasm", "B")]);
    let before = bench.folder.snapshot();
    bench.write("b.wasm", "C");
    bench.after(1);
    assert_eq!(bench.after(100), CHANGING);
    let after = bench.folder.snapshot();
    let pointer = |found: &Found| found.wasm.as_ref().unwrap().as_ptr();
    assert_eq!(pointer(&before[0]), pointer(&after[0]));
    assert_eq!(show(&after), "a.wasm=A b.wasm=C");
}

#[test]
fn a_file_of_equal_length_that_took_the_place_is_noticed() {
    let mut bench = Bench::new(&[("a.wasm", "old")]);
    let modified = fs::metadata(bench.dir.path().join("a.wasm")).unwrap().modified().unwrap();
    bench.write(".new", "new");
    let file = File::options().write(true).open(bench.dir.path().join(".new")).unwrap();
    file.set_modified(modified).unwrap();
    fs::rename(bench.dir.path().join(".new"), bench.dir.path().join("a.wasm")).unwrap();
    assert_eq!(bench.after(1), RESTLESS);
    assert_eq!(bench.after(100), CHANGING);
    assert_eq!(bench.show(), "a.wasm=new");
}

#[test]
fn settings_that_may_still_be_written_make_their_plugin_fresh() {
    let mut bench = Bench::new(&[("a.wasm", "A"), ("b.wasm", "B")]);
    bench.write("a.toml", "s");
    bench.after(1);
    bench.after(100);
    let fresh = |bench: &Bench| bench.folder.snapshot().iter().map(|found| found.fresh).collect::<Vec<_>>();
    assert_eq!(fresh(&bench), [true, false]);
    bench.after(1000);
    assert_eq!(fresh(&bench), [false, false]);
}

#[test]
fn what_everybody_could_have_written_is_refused_until_the_mode_is_better() {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    let mut bench = Bench::new(&[("a.wasm", "A"), ("a.toml", "s"), ("b.wasm", "B")]);
    let path = bench.dir.path().to_owned();
    let mode = |name: &str, mode| fs::set_permissions(path.join(name), Permissions::from_mode(mode)).unwrap();
    for (name, open, good, shown, why) in [
        (
            "a.wasm",
            0o666,
            0o644,
            "a.wasm=<untrusted>+s b.wasm=B",
            "may be written to by every user; run: chmod o-w",
        ),
        (
            "a.toml",
            0o646,
            0o600,
            "a.wasm=A+<untrusted> b.wasm=B",
            "may be written to by every user; run: chmod o-w",
        ),
        (
            "",
            0o777,
            0o700,
            "a.wasm=<untrusted>+<untrusted> b.wasm=<untrusted>",
            "lies in a folder that every user",
        ),
        (
            "",
            0o1777,
            0o755,
            "a.wasm=<untrusted>+<untrusted> b.wasm=<untrusted>",
            "lies in a folder that every user",
        ),
    ] {
        mode(name, open);
        bench.after(1);
        bench.after(100);
        assert_eq!(bench.show(), shown);
        let found = &bench.folder.snapshot()[0];
        let error = found.wasm.as_ref().err().or_else(|| found.settings.as_ref()?.as_ref().err()).unwrap();
        assert!(error.sentence().contains(why), "{error}");
        mode(name, good);
        bench.after(1);
        bench.after(100);
        assert_eq!(bench.show(), "a.wasm=A+s b.wasm=B");
    }
    mode("a.wasm", 0o666);
    let trusting = Options { check_owner: false, ..Options::default() };
    assert_eq!(show(&scan(&path, &trusting).unwrap()), "a.wasm=A+s b.wasm=B");
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let bench = Bench::new(&[]);
    // Without a single block on the disk: reading it would fill the memory.
    let file = File::create(bench.dir.path().join("huge.wasm")).unwrap();
    file.set_len(500 << 20).unwrap();
    let begin = Instant::now();
    let found = scan(bench.dir.path(), &Options::default()).unwrap();
    let error = found[0].wasm.as_ref().unwrap_err();
    assert_eq!(error.sentence(), "has 524288000 bytes; a plugin has at most 67108864");
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
}

#[test]
fn only_regular_files_of_the_folder_count() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x.wasm"), "outside").unwrap();
    let mut bench =
        Bench::new(&[("a.wasm", "A"), (".b.wasm", "B"), ("c.wasm~", "C"), ("#d.wasm", "D"), ("e.txt", "E")]);
    let path = bench.dir.path().to_owned();
    fs::create_dir(path.join("folder.wasm")).unwrap();
    symlink(outside.path().join("x.wasm"), path.join("leaves.wasm")).unwrap();
    symlink(path.join("a.wasm"), path.join("stays.wasm")).unwrap();
    symlink(path.join("nothing"), path.join("dangles.wasm")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(path.join("pipe.wasm")).status().unwrap();
    assert!(pipe.success());
    bench.after(1);
    bench.after(100);
    assert_eq!(bench.show(), "a.wasm=A stays.wasm=A");
}

#[test]
fn a_file_that_cannot_be_used_is_there_with_the_reason() {
    let bench = Bench::new(&[("a.wasm", &"x".repeat(101)), ("b.wasm", &"x".repeat(100))]);
    let found = bench.folder.snapshot();
    assert_eq!(found[0].wasm.as_ref().unwrap_err().code(), LoadCode::TooLarge);
    assert!(found[1].wasm.is_ok());
}

#[test]
fn a_missing_folder_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("plugins");
    let error = scan(&missing, &Options::default()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot read the plugin folder {}: ", missing.display())), "{error}");
    fs::write(&missing, "").unwrap();
    assert!(scan(&missing, &Options::default()).is_err(), "a file is no folder");
}

#[test]
fn a_link_to_the_folder_may_be_changed_to_another_folder() {
    let dir = tempfile::tempdir().unwrap();
    for version in ["1", "2"] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("a.wasm"), version).unwrap();
    }
    let link = dir.path().join("plugins");
    symlink("1", &link).unwrap();
    let mut folder = Folder::new(&link, &Options { settle: Duration::ZERO, ..Options::default() });
    let now = Instant::now();
    folder.look(now).unwrap();
    let first = folder.id();
    assert_eq!(show(&folder.snapshot()), "a.wasm=1");
    fs::remove_file(&link).unwrap();
    symlink("2", &link).unwrap();
    assert_eq!(folder.look(now).unwrap(), CHANGING);
    assert_eq!(show(&folder.snapshot()), "a.wasm=2");
    assert_ne!(folder.id(), first, "notifications have to follow");
}

async fn next(events: &mut Events<Changed>) -> String {
    let Changed(found) = timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap();
    show(&found)
}

/// Events until one shows `expected`: how many steps the system announces is its own business.
async fn until(events: &mut Events<Changed>, expected: &str) {
    while next(events).await != expected {}
}

#[tokio::test]
async fn a_dropped_file_is_announced_within_half_a_second() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.wasm"), "A").unwrap();
    let (sender, mut events) = channel(1);
    // Polling alone would take far longer.
    let options = Options { poll: Duration::from_secs(60), ..Options::default() };
    let _watcher = start(dir.path(), &options, sender).unwrap();
    assert_eq!(next(&mut events).await, "a.wasm=A");
    let begin = Instant::now();
    fs::write(dir.path().join("b.wasm"), "B").unwrap();
    fs::write(dir.path().join("b.toml"), "s").unwrap();
    assert_eq!(next(&mut events).await, "a.wasm=A b.wasm=B+s", "both files in one event");
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn without_notifications_polling_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut events) = channel(1);
    let options = Options { settle: Duration::from_millis(1), ..Options::default() };
    let folder = Folder::new(dir.path(), &options);
    let (wake, woken) = sync_channel(1);
    // As if subscribing had failed.
    let notifications = Notifications { wake: sync_channel(1).0, active: None, failed: true, wanted: true };
    let stop = Arc::new(AtomicBool::new(false));
    let watch =
        Watch { folder, notifications, poll: Duration::from_millis(10), woken, stop, changed: sender };
    let thread = thread::spawn(move || watch.run());
    assert_eq!(next(&mut events).await, "");
    fs::write(dir.path().join("a.wasm"), "A").unwrap();
    until(&mut events, "a.wasm=A").await;
    drop(events);
    drop(wake);
    thread.join().unwrap();
}

#[tokio::test]
async fn a_folder_that_vanishes_keeps_its_plugins_and_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let plugins = dir.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::write(plugins.join("a.wasm"), "A").unwrap();
    let (sender, mut events) = channel(1);
    let options = Options { poll: Duration::from_millis(20), ..Options::default() };
    let _watcher = start(&plugins, &options, sender).unwrap();
    assert_eq!(next(&mut events).await, "a.wasm=A");
    // Renamed as a whole: at no moment is there an empty folder of that name.
    fs::rename(&plugins, dir.path().join("away")).unwrap();
    let silent = timeout(Duration::from_millis(300), events.recv()).await;
    assert!(silent.is_err(), "{silent:?}");
    fs::write(dir.path().join("away/b.wasm"), "B").unwrap();
    fs::rename(dir.path().join("away"), &plugins).unwrap();
    assert_eq!(next(&mut events).await, "a.wasm=A b.wasm=B");
}

#[tokio::test]
async fn a_full_channel_delays_but_the_newest_content_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut events) = channel(1);
    let _watcher =
        start(dir.path(), &Options { settle: Duration::from_millis(1), ..Options::default() }, sender)
            .unwrap();
    for version in ["1", "2", "3"] {
        fs::write(dir.path().join("a.wasm"), version).unwrap();
    }
    until(&mut events, "a.wasm=3").await;
}

#[test]
fn dropping_the_watcher_ends_its_thread() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, events) = channel(1);
    let watcher = start(dir.path(), &Options::default(), sender).unwrap();
    drop(watcher);
    // The thread held the only sender.
    assert!(events.is_closed());
}
