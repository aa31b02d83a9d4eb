//! [`Keeper`] keeps the list in the state folder, so that a restart does not forget it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Entry, Revocations, Subject};
use crate::clock::Clock;
use crate::disk::files;

/// The file in the state folder: one JSON object on each line.
const FILE: &str = "revocations";

/// Most bytes of the file.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// How often expired entries are dropped.
const SWEEP: Duration = Duration::from_secs(30);

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
        let bytes = files::read(&path, FILE_BYTES_MAX).map_err(|error| failed(error.to_string()))?;
        let now = clock.now().unix;
        let bytes = bytes.map(|(_, bytes)| bytes).unwrap_or_default();
        for (index, line) in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
            let entry = read(line).ok_or_else(|| failed(format!("line {} is not one of them", index + 1)))?;
            list.merge(now, entry);
        }
        list.on_disk.store(list.generation(), Ordering::Release);
        Ok(Self { list, folder, clock })
    }

    /// Writes the list after each change, for as long as the runtime lives.
    pub async fn run(self) {
        let Self { list, folder, clock } = self;
        let mut changes = list.changes();
        loop {
            let generation = *changes.borrow_and_update();
            if generation > list.on_disk.load(Ordering::Acquire) {
                let lines: String = list.all().iter().map(line).collect();
                let folder = folder.clone();
                let writing = move || files::write(&folder, FILE, &[lines.as_bytes()]);
                match tokio::task::spawn_blocking(writing).await {
                    Ok(Ok(())) => {
                        list.on_disk.store(generation, Ordering::Release);
                        list.kept.send_replace(());
                    }
                    Ok(Err(error)) => {
                        tracing::error!(%error, "failed to write the revocations; a restart would forget the newest");
                        sleep(PAUSE).await;
                        continue;
                    }
                    Err(_) => return,
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep(SWEEP) => list.sweep(clock.now().unix),
            }
        }
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
    use crate::revocation::Token;

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
