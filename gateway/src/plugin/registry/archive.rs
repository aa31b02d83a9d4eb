//! [`Archive`] stores the versions of every plugin that were live. A restart, an invalid file or an operator
//! can return to one of them.
//!
//! `manifests/NAME.json` records which versions of a plugin are kept and which one runs; `versions/` holds
//! plugin files and settings files, named by their SHA-256. A settings file may hold a secret: only the
//! gateway's user can read the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Digest, Kept, Record, at_seconds, plugin_name, seconds};
use crate::digest::sha256;
use crate::disk::{StateFolder, files};

/// The only format of manifests so far. A gateway does not touch a manifest of another format.
const FORMAT: u32 = 1;
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
const CONTENT_BYTES_MAX: u64 = 256 << 20;
const EXTENSION: &str = ".json";

/// Archive of earlier plugin versions on disk. Blocking.
#[derive(Debug)]
pub struct Archive {
    manifests: PathBuf,
    versions: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    name: Box<str>,
    file: Box<str>,
    running: Option<Files>,
    rolled_back_from: Option<Files>,
    versions: Vec<Entry>,
}

/// A plugin file and its settings file, by SHA-256 in hexadecimal.
#[derive(Debug, Serialize, Deserialize)]
struct Files {
    plugin: String,
    settings: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    files: Files,
    version: Option<Box<str>>,
    /// Unix time in seconds.
    live_since: u64,
}

impl Archive {
    /// The archive of a state folder.
    pub fn in_folder(state: &StateFolder) -> Self {
        Self::new(state.manifests(), state.versions())
    }

    fn new(manifests: PathBuf, versions: PathBuf) -> Self {
        files::sweep(&manifests);
        files::sweep(&versions);
        Self { manifests, versions }
    }

    /// The records of all plugins. An unusable manifest is skipped with a log line.
    pub fn records(&self) -> BTreeMap<Arc<str>, Record> {
        let entries = match fs::read_dir(&self.manifests) {
            Ok(entries) => entries,
            Err(error) => {
                warn!(%error, "failed to read the stored versions of plugins; using only the plugin folder");
                return BTreeMap::new();
            }
        };
        let mut records = BTreeMap::new();
        for entry in entries.flatten() {
            let file = entry.file_name();
            let Some(name) = file.to_str().and_then(|file| file.strip_suffix(EXTENSION)) else { continue };
            match self.record(name) {
                Ok(record) => {
                    records.insert(name.into(), record);
                }
                Err(error) => {
                    warn!(plugin = name, %error, "stored versions of a plugin are unusable; using only the plugin folder");
                }
            }
        }
        records
    }

    /// The plugin file and the settings file of a version, checked against its digest.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or is not the stored one.
    pub fn read(&self, digest: &Digest) -> io::Result<(Bytes, Option<Bytes>)> {
        let plugin = self.content(&digest.wasm_hex())?;
        let settings = digest.settings_hex().map(|hex| self.content(&hex)).transpose()?;
        Ok((plugin, settings))
    }

    /// Stores the files of a version.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn keep(&self, plugin: &Bytes, settings: Option<&Bytes>) -> io::Result<()> {
        for bytes in std::iter::once(plugin).chain(settings) {
            let hex = sha256(bytes);
            // A file that already exists may be damaged.
            if self.content(&hex).is_err() {
                files::write(&self.versions, &hex, &[bytes])?;
            }
        }
        Ok(())
    }

    /// Stores the record of a plugin.
    ///
    /// # Errors
    ///
    /// If the record cannot be written.
    pub fn save(&self, name: &str, record: &Record) -> io::Result<()> {
        let entries = record.versions.iter().map(|kept| Entry {
            files: Files::of(&kept.digest),
            version: kept.version.clone(),
            live_since: seconds(kept.since),
        });
        let manifest = Manifest {
            format: FORMAT,
            name: name.into(),
            file: record.file.clone(),
            running: record.running.as_ref().map(Files::of),
            rolled_back_from: record.pinned_over.as_ref().map(Files::of),
            versions: entries.collect(),
        };
        let text = serde_json::to_vec_pretty(&manifest)?;
        files::write(&self.manifests, &format!("{name}{EXTENSION}"), &[&text])
    }

    /// Removes files that none of these records needs.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read, or a file cannot be removed.
    pub fn tidy(&self, records: &BTreeMap<Arc<str>, Record>) -> io::Result<()> {
        let digests = || records.values().flat_map(|record| record.versions.iter().map(|kept| kept.digest));
        let needed: BTreeSet<String> = digests()
            .map(|digest| digest.wasm_hex())
            .chain(digests().filter_map(|digest| digest.settings_hex()))
            .collect();
        for entry in fs::read_dir(&self.versions)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| needed.contains(name)) {
                fs::remove_file(entry.path())?;
            }
        }
        for entry in fs::read_dir(&self.manifests)? {
            let entry = entry?;
            let file = entry.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(EXTENSION));
            // A manifest that could not be read at the start is left for a version that can.
            if name.is_some_and(|name| !records.contains_key(name) && self.record(name).is_ok()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn record(&self, name: &str) -> io::Result<Record> {
        let path = self.manifests.join(format!("{name}{EXTENSION}"));
        let Some((_, bytes)) = files::read(&path, MANIFEST_BYTES_MAX)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        /// The part that every format has.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let Head { format } = serde_json::from_slice(&bytes)?;
        if format != FORMAT {
            return Err(io::Error::other(format!("it has format {format}, this gateway knows {FORMAT}")));
        }
        let manifest: Manifest = serde_json::from_slice(&bytes)?;
        if *manifest.name != *name || plugin_name(&manifest.file).ok() != Some(name) {
            return Err(io::Error::other("it is about another plugin"));
        }
        let unreadable = || io::Error::other("a digest is invalid");
        let digest =
            |files: Option<&Files>| files.map(|files| files.digest().ok_or_else(unreadable)).transpose();
        let kept = |entry: &Entry| {
            let digest = entry.files.digest().ok_or_else(unreadable)?;
            let since = at_seconds(entry.live_since).ok_or_else(|| io::Error::other("a time is invalid"))?;
            Ok::<_, io::Error>(Kept { digest, version: entry.version.clone(), since })
        };
        Ok(Record {
            running: digest(manifest.running.as_ref())?,
            pinned_over: digest(manifest.rolled_back_from.as_ref())?,
            versions: manifest.versions.iter().map(kept).collect::<Result<_, _>>()?,
            file: manifest.file,
        })
    }

    fn content(&self, name: &str) -> io::Result<Bytes> {
        let Some((_, bytes)) = files::read(&self.versions.join(name), CONTENT_BYTES_MAX)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if sha256(&bytes) != name {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged on the disk"));
        }
        Ok(bytes.into())
    }
}

impl Files {
    fn of(digest: &Digest) -> Self {
        Self { plugin: digest.wasm_hex(), settings: digest.settings_hex() }
    }

    fn digest(&self) -> Option<Digest> {
        Digest::from_hex(&self.plugin, self.settings.as_deref())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    fn archive() -> (tempfile::TempDir, Archive) {
        let dir = tempfile::tempdir().unwrap();
        let (manifests, versions) = (dir.path().join("manifests"), dir.path().join("versions"));
        fs::create_dir(&manifests).unwrap();
        fs::create_dir(&versions).unwrap();
        (dir, Archive::new(manifests, versions))
    }

    fn digest(plugin: &str, settings: Option<&str>) -> Digest {
        let of = |text: &str| sha256(text.as_bytes());
        Digest::from_hex(&of(plugin), settings.map(of).as_deref()).unwrap()
    }

    fn record(versions: &[Digest]) -> Record {
        let since = at_seconds(1_700_000_000).unwrap();
        let kept = versions.iter().map(|digest| Kept { digest: *digest, version: Some("1.2".into()), since });
        Record {
            file: "10-a.wasm".into(),
            running: versions.last().copied(),
            pinned_over: versions.first().copied(),
            versions: kept.collect(),
        }
    }

    #[test]
    fn what_is_saved_is_there_for_the_next_process() {
        let (_dir, archive) = archive();
        let saved = record(&[digest("wasm", Some("settings")), digest("older", None)]);
        archive.keep(&Bytes::from("wasm"), Some(&Bytes::from("settings"))).unwrap();
        archive.keep(&Bytes::from("older"), None).unwrap();
        archive.save("a", &saved).unwrap();
        let next = Archive::new(archive.manifests, archive.versions);
        assert_eq!(next.records(), BTreeMap::from([("a".into(), saved.clone())]));
        let read = |index: usize| next.read(&saved.versions[index].digest).unwrap();
        assert_eq!(read(0), ("wasm".into(), Some("settings".into())));
        assert_eq!(read(1), ("older".into(), None));
    }

    #[test]
    fn a_damaged_version_is_not_given_and_is_replaced_when_it_comes_again() {
        let (_dir, archive) = archive();
        let version = digest("wasm", None);
        archive.keep(&Bytes::from("wasm"), None).unwrap();
        fs::write(archive.versions.join(version.wasm_hex()), "wazm").unwrap();
        assert!(archive.read(&version).unwrap_err().to_string().contains("damaged"));
        archive.keep(&Bytes::from("wasm"), None).unwrap();
        assert_eq!(archive.read(&version).unwrap().0, "wasm");
    }

    #[test]
    fn a_manifest_that_cannot_be_used_hides_no_other() {
        let (_dir, archive) = archive();
        archive.save("a", &record(&[digest("wasm", None)])).unwrap();
        let good = fs::read_to_string(archive.manifests.join("a.json")).unwrap();
        for (name, text) in [
            ("half", good[..good.len() / 2].to_owned()),
            ("empty", String::new()),
            ("newer", "{\"format\": 2, \"whatever\": true}".to_owned()),
            ("anothers", good.clone()),
            (
                "odd",
                good.replace("\"a\"", "\"odd\"")
                    .replace("10-a", "odd")
                    .replace("\"plugin\": \"", "\"plugin\": \"zz"),
            ),
        ] {
            fs::write(archive.manifests.join(format!("{name}.json")), text).unwrap();
        }
        assert_eq!(archive.records().keys().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn tidying_removes_what_nobody_needs_and_nothing_else() {
        let (_dir, archive) = archive();
        for text in ["one", "two", "three"] {
            archive.keep(&Bytes::from(text), Some(&Bytes::from("settings"))).unwrap();
        }
        let record = record(&[digest("one", Some("settings")), digest("three", None)]);
        archive.save("a", &record).unwrap();
        archive.save("b", &Record { file: "b.wasm".into(), ..record.clone() }).unwrap();
        fs::write(archive.manifests.join("newer.json"), "{\"format\": 2}").unwrap();
        archive.tidy(&BTreeMap::from([("a".into(), record.clone())])).unwrap();
        let there = |folder: &PathBuf| fs::read_dir(folder).unwrap().count();
        assert_eq!(there(&archive.versions), 3, "one, three, settings");
        assert!(
            archive.read(&record.versions[0].digest).is_ok()
                && archive.read(&record.versions[1].digest).is_ok()
        );
        assert_eq!(there(&archive.manifests), 2, "a, and what a newer gateway wrote");
    }
}
