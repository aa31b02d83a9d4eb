//! `DeadLetters` keeps undeliverable events as JSON lines, for an operator to inspect and send again.
//!
//! Each write ends with a sync, so a line is on the disk before the next event is given up. A file that has
//! reached its size limit is renamed to end in `.1` and replaces the older one, so there are never more than
//! two files.

use std::fs::{File, OpenOptions, rename};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::task::spawn_blocking;

use super::Event;
use super::record::Record;
use crate::config;

/// An event that was given up.
pub(super) struct Letter<'a> {
    pub(super) upstream: &'a str,
    pub(super) event: &'a Event,
    pub(super) attempts: u32,
    pub(super) why: &'a str,
    /// Unix time in milliseconds.
    pub(super) at: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    upstream: &'a str,
    #[serde(flatten)]
    event: Record<'a>,
    /// In Unix time in milliseconds.
    given_up_at: u64,
    attempts: u32,
    why: &'a str,
}

/// The dead-letter file of one upstream. Without a file, events that are given up are only logged and
/// counted.
pub(super) struct DeadLetters {
    file: Option<Arc<Mutex<Rotating>>>,
}

struct Rotating {
    path: PathBuf,
    bytes_max: u64,
    open: Option<File>,
}

impl DeadLetters {
    pub(super) fn of(config: &config::Upstream) -> Self {
        let rotating = |path: &PathBuf| {
            let (path, bytes_max) = (path.clone(), config.dead_letter_bytes_max as u64);
            Arc::new(Mutex::new(Rotating { path, bytes_max, open: None }))
        };
        Self { file: config.dead_letter.as_ref().map(rotating) }
    }

    /// Appends lines and waits until they are on the disk.
    pub(super) async fn write(&self, lines: Vec<Vec<u8>>) -> io::Result<()> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let write = move || file.lock().unwrap_or_else(PoisonError::into_inner).write(&lines);
        spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Letter<'_> {
    /// Encodes it as JSON, with the line end.
    pub(super) fn line(&self) -> Vec<u8> {
        let line = Line {
            upstream: self.upstream,
            event: Record::of(self.event),
            given_up_at: self.at,
            attempts: self.attempts,
            why: self.why,
        };
        let mut bytes = serde_json::to_vec(&line).expect("texts and numbers have a form in JSON");
        bytes.push(b'\n');
        bytes
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

    use bytes::Bytes;

    use super::*;
    use crate::upstream::{Kind, record};

    fn event(payload: &'static [u8]) -> Event {
        Event {
            id: "msg_1".into(),
            kind: Kind::Emitted,
            plugin: "orders".into(),
            connection: "c".into(),
            user: "42".into(),
            at: 1,
            payload: Bytes::from_static(payload),
        }
    }

    fn line(payload: &'static [u8]) -> serde_json::Value {
        let event = event(payload);
        let letter = Letter { upstream: "shop", event: &event, attempts: 3, why: "answered 500", at: 2 };
        let line = letter.line();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn a_line_has_everything_that_sending_again_needs() {
        let json = line(br#"{"order":7}"#);
        assert_eq!(
            json,
            serde_json::json!({
                "id": "msg_1", "upstream": "shop", "plugin": "orders", "connection": "c", "user": "42",
                "emitted_at": 1, "given_up_at": 2, "attempts": 3, "why": "answered 500", "payload": {"order": 7},
            })
        );
        let event = Event { kind: Kind::Vacated, ..event(br#"{"type":"vacated"}"#) };
        let letter = Letter { upstream: "shop", event: &event, attempts: 3, why: "answered 500", at: 2 };
        let stored = record::read(letter.line().trim_ascii_end()).unwrap();
        assert_eq!((stored.event, &*stored.upstream), (event, "shop"), "it can be read again");
        assert_eq!(line(b"\xff")["payload_base64"], "/w==");
        assert_eq!(line(b"{\n}")["payload_base64"], "ewp9", "one event, one line");
    }

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
