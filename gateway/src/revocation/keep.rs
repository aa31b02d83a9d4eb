//! [`Keeper`] keeps the list in the state folder, so that a restart does not forget it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{interval, sleep};

use super::store::MERGED_TIMES;
use super::{Entry, Revocations, Subject};
use crate::clock::Clock;
use crate::disk::files;

/// The file in the state folder: one JSON object on each line.
const FILE: &str = "revocations";

/// Most bytes of one line: the longest id, each byte of it escaped, and some numbers.
const LINE_BYTES_MAX: usize = 2 << 10;

/// How often expired entries are dropped.
const SWEEP: Duration = Duration::from_secs(30);

/// How long after its end an entry is dropped, in milliseconds: by the clock of Redis it may end later.
const DROPPED_AFTER: u64 = 30_000;

/// Pause after the file could not be written.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the list on disk cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the revocations in {path}: {why}; without them revoked tokens would be accepted. Repair the \
         file, or remove it to forget them", path = path.display())]
pub struct KeeperError {
    path: PathBuf,
    why: String,
}

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    list: Arc<Revocations>,
    folder: PathBuf,
    clock: Clock,
    sweep: Duration,
}

impl Keeper {
    /// Reads the list from the folder.
    ///
    /// # Errors
    ///
    /// If there is a file that cannot be read completely.
    pub fn open(list: Arc<Revocations>, folder: PathBuf, clock: Clock) -> Result<Self, KeeperError> {
        let path = folder.join(FILE);
        let failed = |why: String| KeeperError { path: path.clone(), why };
        // What is written can be read: there are never more entries, and no longer lines.
        let bytes_max = list.entries_max().saturating_mul(MERGED_TIMES * LINE_BYTES_MAX) as u64;
        let bytes = files::read(&path, bytes_max).map_err(|error| failed(error.to_string()))?;
        let now = clock.now().unix;
        let bytes = bytes.map(|(_, bytes)| bytes).unwrap_or_default();
        for (index, line) in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
            let entry = read(line).ok_or_else(|| failed(format!("line {} is not one of them", index + 1)))?;
            list.merge(now, entry);
        }
        if list.has_overflowed() {
            return Err(failed(
                "it has more entries than `memory.revocations_max` has room for: raise that".into(),
            ));
        }
        list.on_disk.store(list.generation(), Ordering::Release);
        Ok(Self { list, folder, clock, sweep: SWEEP })
    }

    /// Writes the list after each change, for as long as the runtime lives.
    pub async fn run(self) {
        let Self { list, folder, clock, sweep } = self;
        let mut changes = list.changes();
        let mut sweeps = interval(sweep);
        loop {
            let generation = *changes.borrow_and_update();
            let mut failed = false;
            if generation > list.on_disk.load(Ordering::Acquire) {
                match spawn_blocking(write(list.clone(), folder.clone())).await {
                    Ok(Ok(())) => {
                        list.on_disk.store(generation, Ordering::Release);
                        list.kept.send_replace(());
                    }
                    Ok(Err(error)) => {
                        tracing::error!(%error, "failed to write the revocations; a restart would forget the newest");
                        failed = true;
                        sleep(PAUSE).await;
                    }
                    Err(_) => return,
                }
            }
            tokio::select! {
                // First: where something changes all the time, what has expired has to go as well.
                biased;
                _ = sweeps.tick() => list.sweep(clock.now().unix.saturating_sub(DROPPED_AFTER)),
                () = std::future::ready(()), if failed => (),
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Writes the list, on a thread that may wait.
fn write(list: Arc<Revocations>, folder: PathBuf) -> impl FnOnce() -> io::Result<()> {
    move || {
        let lines: String = list.all().iter().map(line).collect();
        files::write(&folder, FILE, &[lines.as_bytes()])
    }
}

fn line(entry: &Entry) -> String {
    json!({"id": entry.subject.to_string(), "entry": entry.to_text()}).to_string() + "\n"
}

fn read(line: &[u8]) -> Option<Entry> {
    let line: Value = serde_json::from_slice(line).ok()?;
    Entry::of_text(Subject::parse(line["id"].as_str()?)?, line["entry"].as_str()?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::revocation::{TOKEN_ID_BYTES_MAX, Token};

    fn open(folder: &std::path::Path) -> Result<Arc<Revocations>, KeeperError> {
        let list = Arc::new(Revocations::new(10, false));
        Keeper::open(list.clone(), folder.to_owned(), Clock::start()).map(|_| list)
    }

    #[tokio::test]
    async fn what_was_revoked_is_there_after_a_restart_once_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let list = Arc::new(Revocations::new(10, false));
        let keeper = Keeper::open(list.clone(), folder.path().to_owned(), Clock::start()).unwrap();
        let running = tokio::spawn(keeper.run());
        let now = Clock::start().now().unix;
        let named = "\"ann\"\nbob";
        let change = list.revoke(now, Subject::User(named.into()), None, 0).unwrap();
        list.kept(&change).await;
        running.abort();
        let again = open(folder.path()).unwrap();
        assert!(again.check(now, named, Token::default()).is_some());
        assert_eq!(again.all(), list.all());
    }

    #[tokio::test]
    async fn what_has_expired_goes_although_the_list_changes_all_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let list = Arc::new(Revocations::new(10, false));
        let keeper = Keeper::open(list.clone(), folder.path().to_owned(), Clock::start()).unwrap();
        let running = tokio::spawn(Keeper { sweep: Duration::from_millis(100), ..keeper }.run());
        let now = Clock::start().now().unix;
        let change = || list.revoke(now, Subject::User("bob".into()), None, 0).unwrap();
        list.kept(&change()).await;
        let over = Entry { expires_at: Some(now / 1000 - 60), ..Entry::new(Subject::User("ann".into()), 1) };
        // It was in force when it came.
        list.merge(now - 120_000, over);
        assert_eq!(list.all().len(), 2);
        let changing = async {
            while list.all().len() > 1 {
                list.kept(&change()).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), changing).await.unwrap();
        running.abort();
    }

    #[test]
    fn a_file_with_more_entries_than_fit_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let lines = |count: u64| -> String {
            (0..count).map(|user| line(&Entry::new(Subject::User(user.to_string().into()), 1))).collect()
        };
        files::write(folder.path(), FILE, &[lines(20).as_bytes()]).unwrap();
        assert_eq!(open(folder.path()).unwrap().all().len(), 20, "as many as may come from other gateways");
        files::write(folder.path(), FILE, &[lines(21).as_bytes()]).unwrap();
        let error = open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("memory.revocations_max"), "{error}");
    }

    #[test]
    fn the_longest_line_fits() {
        let subject = Subject::Token("\0".repeat(TOKEN_ID_BYTES_MAX).into());
        let all = u64::MAX;
        let entry = Entry { version: all, expires_at: Some(all), issued_before: all, subject, lifted: true };
        assert!(line(&entry).len() <= LINE_BYTES_MAX);
    }

    #[test]
    fn a_file_that_is_not_whole_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        assert!(open(folder.path()).unwrap().all().is_empty(), "no file is an empty list");
        let good = line(&Entry::new(Subject::Token("secret".into()), 1));
        files::write(folder.path(), FILE, &[good.as_bytes(), b"{\"id\":\"token:secret\""]).unwrap();
        let error = open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("remove it"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
