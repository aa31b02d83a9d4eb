//! [`DeadLetters`] keeps what was given up as JSON lines in a file, for an operator to inspect and to send
//! again.
//!
//! Each write ends with a sync, so a line is on the disk before the next item is given up. A file that has
//! reached its size limit is renamed to end in `.1` and replaces the older one, so there are never more than
//! two files.

use std::fs::{File, Metadata, OpenOptions, metadata, rename};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use tokio::task::spawn_blocking;

/// Encodes what was given up as one line.
pub(crate) fn line(letter: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(letter).expect("texts and numbers have a form in JSON");
    line.push(b'\n');
    line
}

/// How often a file that was taken away at the moment it was opened is opened again.
const TAKEN_AWAY_MAX: usize = 10;

/// A dead-letter file. Without one, nothing is written. Cheap to clone; clones share the file.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    file: Option<Arc<Mutex<Rotating>>>,
}

struct Rotating {
    path: PathBuf,
    bytes_max: u64,
    open: Option<File>,
}

impl DeadLetters {
    /// A file at `path` of at most `bytes_max`; the older one next to it may have as many.
    pub(crate) fn new(path: Option<&Path>, bytes_max: usize) -> Self {
        let rotating = |path: &Path| {
            let (path, bytes_max) = (path.to_owned(), bytes_max as u64);
            Arc::new(Mutex::new(Rotating { path, bytes_max, open: None }))
        };
        Self { file: path.map(rotating) }
    }

    /// Appends lines, each with its line end, and waits until they are on the disk.
    ///
    /// # Errors
    ///
    /// If the file cannot be written. Some of the lines may be in it.
    pub(crate) async fn write(&self, lines: Vec<Vec<u8>>) -> io::Result<()> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let write = move || file.lock().unwrap_or_else(PoisonError::into_inner).write(&lines);
        spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Rotating {
    fn write(&mut self, lines: &[Vec<u8>]) -> io::Result<()> {
        let added = self.add(lines);
        // Not kept open: the file may be taken away, to be sent again. After an error it is looked at again.
        let file = self.open.take();
        added?;
        file.map_or(Ok(()), |file| file.sync_data())
    }

    fn add(&mut self, lines: &[Vec<u8>]) -> io::Result<()> {
        for line in lines {
            let size = self.file()?.metadata()?.len();
            if size > 0 && size + line.len() as u64 > self.bytes_max {
                self.rotate()?;
            }
            self.file()?.write_all(line)?;
        }
        Ok(())
    }

    fn file(&mut self) -> io::Result<&mut File> {
        let file = match self.open.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        Ok(self.open.insert(file))
    }

    fn rotate(&mut self) -> io::Result<()> {
        if let Some(file) = self.open.take() {
            file.sync_data()?;
        }
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        rename(&self.path, older)?;
        Ok(())
    }
}

/// Opens a file of JSON lines to add some, and ends a last line that was not written completely: the next one
/// would be lost with it. The file is locked until it is closed, so that whoever takes it away reads what is
/// added to it meanwhile.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut file = open_and_lock(path)?;
    for _ in 0..TAKEN_AWAY_MAX {
        if is_at(&file, path) {
            break;
        }
        file = open_and_lock(path)?;
    }
    let mut last = [b'\n'];
    let size = file.metadata()?.len();
    if size > 0 {
        file.read_exact_at(&mut last, size - 1)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn open_and_lock(path: &Path) -> io::Result<File> {
    // Payloads are private.
    let file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
    lock(&file);
    Ok(file)
}

/// Waits until nobody adds to a file, until it is closed. Not every file system has locks.
pub(crate) fn lock(file: &File) {
    if let Err(error) = flock(file, FlockOperation::LockExclusive) {
        tracing::debug!(%error, "failed to lock a dead-letter file; what is added while it is replayed may be lost");
    }
}

/// Whether it is still there and was not taken away.
fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: Metadata| (metadata.dev(), metadata.ino());
    file.metadata().ok().map(place) == metadata(path).ok().map(place)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn the_files_are_bounded_and_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead.jsonl");
        let size = |name: &str| std::fs::metadata(folder.path().join(name)).map_or(0, |meta| meta.len());
        for _ in 0..5 {
            let mut file = Rotating { path: path.clone(), bytes_max: 100, open: None };
            for _ in 0..5 {
                file.write(&[b'x', b'y'].map(|byte| [vec![byte; 39], b"\n".to_vec()].concat())).unwrap();
                assert!(size("dead.jsonl") <= 100 && size("dead.jsonl.1") <= 100);
            }
        }
        assert_eq!((size("dead.jsonl"), size("dead.jsonl.1")), (80, 80), "the newest are there");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_line_that_was_cut_off_takes_no_other_along() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead.jsonl");
        std::fs::write(&path, "{\"a\":1}\n{\"cut").unwrap();
        let mut file = Rotating { path: path.clone(), bytes_max: 1000, open: None };
        for line in ["{\"b\":1}\n", "{\"c\":1}\n"] {
            file.write(&[line.into()]).unwrap();
        }
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines, "{\"a\":1}\n{\"cut\n{\"b\":1}\n{\"c\":1}\n");
    }
}
