//! What lies in a folder, and whether it has stopped changing.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tracing::info;

use crate::plugin::load::{LoadCode, LoadError};
use crate::plugin::registry::Found;

/// Files that are looked at; a folder with more is a mistake, and the rest is left out.
const FILES_MAX: usize = 1000;

/// Which folder it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FolderId(u64, u64);

/// Changes when the file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    length: u64,
    modified: Option<SystemTime>,
    /// Device, inode and, in nanoseconds, the last change of anything about the file: catches a write of the same length
    /// within the resolution of the modification time, and a file that took another's place.
    identity: (u64, u64, i64),
}

/// A folder with plugins.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    id: Option<FolderId>,
    file_bytes_max: u64,
    settle: Duration,
    /// By file name, `.wasm` and `.toml`.
    files: BTreeMap<Box<str>, Tracked>,
    /// Names that were left out and said so, with why.
    left_out: BTreeMap<Box<str>, &'static str>,
}

/// A file that is there, or was a moment ago.
#[derive(Debug)]
struct Tracked {
    /// `None` while it is missing.
    seen: Option<Fingerprint>,
    since: Instant,
    /// What counts until the file has settled.
    read: Option<(Fingerprint, Result<Bytes, LoadError>)>,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// The snapshot is another one.
    pub(super) changed: bool,
    /// Something has changed too recently to be read.
    pub(super) restless: bool,
}

impl Folder {
    /// The folder that has this name at each look: it may be a link that is changed to point elsewhere.
    pub(super) fn new(path: &Path, file_bytes_max: u64, settle: Duration) -> Self {
        let path = path.to_owned();
        Self { path, id: None, file_bytes_max, settle, files: BTreeMap::new(), left_out: BTreeMap::new() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// As of the last look.
    pub(super) fn id(&self) -> Option<FolderId> {
        self.id
    }

    /// Reads everything as it is.
    pub(super) fn look_at_once(&mut self, now: Instant) -> io::Result<()> {
        let settle = std::mem::take(&mut self.settle);
        let looked = self.look(now);
        self.settle = settle;
        looked.map(|_| ())
    }

    /// Finds out what has changed, and reads what has settled.
    pub(super) fn look(&mut self, now: Instant) -> io::Result<Look> {
        let present = self.list()?;
        for (name, fingerprint) in &present {
            let tracked =
                self.files.entry(name.clone()).or_insert(Tracked { seen: None, since: now, read: None });
            tracked.see(Some(*fingerprint), now);
        }
        let mut look = Look { changed: false, restless: false };
        let (path, settle, bytes_max) = (&self.path, self.settle, self.file_bytes_max);
        self.files.retain(|name, tracked| {
            if !present.contains_key(name) {
                tracked.see(None, now);
            }
            if tracked.read.as_ref().map(|(fingerprint, _)| *fingerprint) == tracked.seen {
                return tracked.seen.is_some();
            }
            if now.saturating_duration_since(tracked.since) < settle {
                look.restless = true;
                return true;
            }
            let Some(fingerprint) = tracked.seen else {
                look.changed = true;
                return false;
            };
            match read(&path.join(&**name), fingerprint, bytes_max) {
                Some(content) => {
                    tracked.read = Some((fingerprint, content));
                    look.changed = true;
                }
                None => {
                    tracked.since = now;
                    look.restless = true;
                }
            }
            true
        });
        Ok(look)
    }

    /// Every plugin that has settled, with its settings.
    pub(super) fn snapshot(&self) -> Vec<Found> {
        let content = |name: &str| self.files.get(name)?.read.as_ref().map(|(_, content)| content.clone());
        let plugins = self.files.keys().filter_map(|file| {
            let stem = file.strip_suffix(".wasm")?;
            Some(Found {
                path: self.path.join(&**file),
                file: file.clone(),
                wasm: content(file)?,
                settings: content(&format!("{stem}.toml")),
            })
        });
        plugins.collect()
    }

    /// The files that can be plugins or settings, with their fingerprints.
    fn list(&mut self) -> io::Result<BTreeMap<Box<str>, Fingerprint>> {
        let root = self.path.canonicalize()?;
        self.id = Some(folder_id(&fs::metadata(&root)?));
        let mut present: BTreeMap<Box<str>, Fingerprint> = BTreeMap::new();
        let mut left_out: BTreeMap<Box<str>, &'static str> = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                left_out.insert(name.to_string_lossy().into(), "its name is not text");
                continue;
            };
            let fate = if present.len() >= FILES_MAX {
                Err("there are too many files")
            } else {
                self.judge(&root, name)
            };
            match fate {
                Ok(Some(fingerprint)) => {
                    present.insert(name.into(), fingerprint);
                }
                Ok(None) => {}
                Err(why) if left_out.len() < FILES_MAX => {
                    left_out.insert(name.into(), why);
                }
                Err(_) => {}
            }
        }
        for name in present.keys() {
            let Some(stem) = name.strip_suffix(".toml") else { continue };
            if !present.contains_key(&*format!("{stem}.wasm")) {
                left_out.insert(name.clone(), "there is no plugin of that name beside it");
            }
        }
        for (file, why) in &left_out {
            if self.left_out.get(file) != Some(why) {
                info!(file = &**file, "left out of the plugin folder: {why}");
            }
        }
        self.left_out = left_out;
        Ok(present)
    }

    /// Whether a name is looked at: `None` if it has gone meanwhile, an error with the reason to leave it out.
    fn judge(&self, root: &Path, name: &str) -> Result<Option<Fingerprint>, &'static str> {
        if name.starts_with('.') || name.starts_with('#') || name.ends_with('~') {
            return Err("names like this are temporary");
        }
        if !name.ends_with(".wasm") && !name.ends_with(".toml") {
            return Err("plugins end in .wasm, their settings in .toml");
        }
        let path = self.path.join(name);
        let Ok(link) = fs::symlink_metadata(&path) else { return Ok(None) };
        if link.is_symlink() {
            let Ok(target) = path.canonicalize() else { return Err("it is a link to nothing") };
            if !target.starts_with(root) {
                return Err("it is a link that leaves the folder");
            }
        }
        let Ok(metadata) = fs::metadata(&path) else { return Ok(None) };
        if metadata.is_file() {
            Ok(Some(Fingerprint::of(&metadata)))
        } else {
            Err("it is not a regular file")
        }
    }
}

impl Tracked {
    fn see(&mut self, fingerprint: Option<Fingerprint>, now: Instant) {
        if self.seen != fingerprint {
            self.seen = fingerprint;
            self.since = now;
        }
    }
}

/// Reads a file that must still be the one with this fingerprint, before and after; `None` if it is not.
fn read(path: &Path, expected: Fingerprint, bytes_max: u64) -> Option<Result<Bytes, LoadError>> {
    if expected.length > bytes_max {
        let sentence = format!("has {} bytes; a plugin has at most {bytes_max}", expected.length);
        return Some(Err(LoadError::new(LoadCode::TooLarge, sentence)));
    }
    let unreadable = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            return None;
        }
        let sentence = format!("cannot be read: {error}; the gateway's user needs permission to read it");
        Some(Err(LoadError::new(LoadCode::Unreadable, sentence)))
    };
    let is_expected =
        |file: &File| file.metadata().is_ok_and(|now| now.is_file() && Fingerprint::of(&now) == expected);
    let file = match open(path) {
        Ok(file) => file,
        Err(error) => return unreadable(error),
    };
    // What was opened may have taken the place of what was judged.
    if !is_expected(&file) {
        return None;
    }
    let mut bytes = Vec::with_capacity(expected.length as usize);
    if let Err(error) = (&file).take(expected.length + 1).read_to_end(&mut bytes) {
        return unreadable(error);
    }
    (bytes.len() as u64 == expected.length && is_expected(&file)).then(|| Ok(bytes.into()))
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // A pipe that took the file's place must not make this thread wait for a writer.
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            let changed = metadata.ctime().wrapping_mul(1_000_000_000).wrapping_add(metadata.ctime_nsec());
            (metadata.dev(), metadata.ino(), changed)
        };
        #[cfg(not(unix))]
        let identity = (0, 0, 0);
        Self { length: metadata.len(), modified: metadata.modified().ok(), identity }
    }
}

fn folder_id(metadata: &Metadata) -> FolderId {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        FolderId(metadata.dev(), metadata.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        FolderId(0, 0)
    }
}
