//! [`DeadLetters`] keeps what was given up as JSON lines in a file, for an operator to inspect and send again.
//!
//! Each write ends with a sync, so a line is on the disk before the next item is given up. A file that has
//! reached its size limit is renamed to end in `.1` and replaces the older one, so there are never more than
//! two files.

use std::fs::{File, OpenOptions, rename};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::spawn_blocking;

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
        for line in lines {
            let size = self.file()?.metadata()?.len();
            if size > 0 && size + line.len() as u64 > self.bytes_max {
                self.rotate()?;
            }
            self.file()?.write_all(line)?;
        }
        // Not kept open: the file may be taken away, to be sent again.
        self.open.take().map_or(Ok(()), |file| file.sync_data())
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

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    // Payloads are private.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
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
                file.write(&[vec![b'x'; 40], vec![b'y'; 40]]).unwrap();
                assert!(size("dead.jsonl") <= 100 && size("dead.jsonl.1") <= 100);
            }
        }
        assert_eq!((size("dead.jsonl"), size("dead.jsonl.1")), (80, 80), "the newest are there");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
