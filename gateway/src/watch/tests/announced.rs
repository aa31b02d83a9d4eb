//! The thread that watches: when it announces the contents of the folder.

use super::*;

async fn next(events: &mut Events<Changed>) -> String {
    let Changed(found) = timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap();
    show(&found.found)
}

/// Reads events until one shows `expected`: the system decides into how many it splits the changes.
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
    // Simulates a failed subscription.
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
    // Renamed as a whole: an empty folder of that name never exists.
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
