//! `DeadLetters` keeps undeliverable events as JSON lines, for an operator to inspect and send again.
//!
//! Each write ends with a sync, so a line is on the disk before the next event is given up. A file that has
//! reached its size limit is renamed to end in `.1` and replaces the older one, so there are never more than
//! two files.

use std::fs::{File, OpenOptions, rename};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

use super::Event;
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
    id: &'a str,
    upstream: &'a str,
    plugin: &'a str,
    connection: &'a str,
    user: &'a str,
    /// When it was emitted and given up, in Unix time in milliseconds.
    emitted_at: u64,
    given_up_at: u64,
    attempts: u32,
    why: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    /// Replaces `payload` if that is not JSON on one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
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
        let event = self.event;
        let text = std::str::from_utf8(&event.payload).ok().filter(|text| !text.contains(['\n', '\r']));
        let payload = text.and_then(|text| serde_json::from_str(text).ok());
        let line = Line {
            id: &event.id,
            upstream: self.upstream,
            plugin: &event.plugin,
            connection: &event.connection,
            user: &event.user,
            emitted_at: event.at,
            given_up_at: self.at,
            attempts: self.attempts,
            why: self.why,
            payload_base64: payload.is_none().then(|| STANDARD.encode(&event.payload)),
            payload,
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
        self.file()?.sync_data()
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

    fn event(payload: &'static [u8]) -> Event {
        Event {
            id: "msg_1".into(),
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
