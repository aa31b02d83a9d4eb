//! What lies in a folder, and whether it has stopped changing.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use tracing::{debug, info};

use super::Options;
use super::file::{Fingerprint, Mistrust, read};
use crate::plugin::load::LoadError;
use crate::plugin::registry::Found;

/// Files that are looked at; a folder with more is a mistake, and the rest is left out.
const FILES_MAX: usize = 1000;

/// Which folder it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FolderId(u64, u64);

/// A folder with plugins.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Without links, as of the last look.
    root: PathBuf,
    id: Option<FolderId>,
    options: Options,
    /// The gateway's.
    user: u32,
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
    /// Since when it has been like this.
    since: Instant,
    /// It has changed so recently that somebody may still be writing it.
    fresh: bool,
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
    /// Something was read and may still be written on.
    pub(super) fresh: bool,
}

impl Folder {
    /// The folder that has this name at each look: it may be a link that is changed to point elsewhere.
    pub(super) fn new(path: &Path, options: &Options) -> Self {
        Self {
            path: path.to_owned(),
            root: PathBuf::new(),
            id: None,
            options: options.clone(),
            user: rustix::process::geteuid().as_raw(),
            files: BTreeMap::new(),
            left_out: BTreeMap::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// As of the last look.
    pub(super) fn id(&self) -> Option<FolderId> {
        self.id
    }

    /// Reads everything as it is, and takes it for complete.
    pub(super) fn look_at_once(&mut self, now: Instant) -> io::Result<()> {
        let settle = std::mem::take(&mut self.options.settle);
        let looked = self.look(now);
        self.options.settle = settle;
        self.files.values_mut().for_each(|tracked| tracked.fresh = false);
        looked.map(|_| ())
    }

    /// Finds out what has changed, and reads what has settled.
    pub(super) fn look(&mut self, now: Instant) -> io::Result<Look> {
        let present = self.list()?;
        for (name, fingerprint) in &present {
            let new = || Tracked { seen: None, since: now, fresh: true, read: None };
            self.files.entry(name.clone()).or_insert_with(new).see(Some(*fingerprint), now);
        }
        let mut look = Look { changed: false, restless: false, fresh: false };
        let (path, root, options) = (&self.path, &self.root, &self.options);
        self.files.retain(|name, tracked| {
            if !present.contains_key(name) {
                tracked.see(None, now);
            }
            let age = now.saturating_duration_since(tracked.since);
            if tracked.read.as_ref().map(|(fingerprint, _)| *fingerprint) == tracked.seen {
                if tracked.fresh && age >= options.complete {
                    tracked.fresh = false;
                    look.changed = true;
                }
                look.fresh |= tracked.fresh;
                return tracked.seen.is_some();
            }
            if age < options.settle {
                look.restless = true;
                return true;
            }
            let Some(fingerprint) = tracked.seen else {
                look.changed = true;
                return false;
            };
            let content = match fingerprint.mistrust() {
                Some(mistrust) => Some(Err(mistrust.error(path, name))),
                None => read(root, name, fingerprint, options.file_bytes_max),
            };
            match content {
                Some(content) => {
                    let bytes = content.as_ref().map_or(0, |bytes| bytes.len());
                    debug!(
                        file = &**name,
                        bytes,
                        settled_ms = age.as_millis() as u64,
                        "plugin folder: file read"
                    );
                    tracked.read = Some((fingerprint, content));
                    look.changed = true;
                    look.fresh |= tracked.fresh;
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
        let fresh = |name: &str| self.files.get(name).is_some_and(|tracked| tracked.fresh);
        let plugins = self.files.keys().filter_map(|file| {
            let settings = format!("{}.toml", file.strip_suffix(".wasm")?);
            Some(Found {
                path: self.path.join(&**file),
                file: file.clone(),
                wasm: content(file)?,
                settings: content(&settings),
                fresh: fresh(file) || fresh(&settings),
            })
        });
        plugins.collect()
    }

    /// The files that can be plugins or settings, with their fingerprints.
    fn list(&mut self) -> io::Result<BTreeMap<Box<str>, Fingerprint>> {
        let root = self.path.canonicalize()?;
        let metadata = fs::metadata(&root)?;
        self.id = Some(folder_id(&metadata));
        let user = self.options.check_owner.then_some(self.user);
        let open = user.and_then(|user| Mistrust::of_folder(&metadata, user));
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
                self.judge(&root, name, open)
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
        self.root = root;
        Ok(present)
    }

    /// Whether a name is looked at: `None` if it has gone meanwhile, an error with the reason to leave it out.
    fn judge(
        &self,
        root: &Path,
        name: &str,
        folder: Option<Mistrust>,
    ) -> Result<Option<Fingerprint>, &'static str> {
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
            let user = self.options.check_owner.then_some(self.user);
            let mistrust = folder.or_else(|| Mistrust::of_file(&metadata, user?));
            Ok(Some(Fingerprint::of(&metadata, mistrust)))
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
            self.fresh = true;
        }
    }
}

fn folder_id(metadata: &Metadata) -> FolderId {
    FolderId(metadata.dev(), metadata.ino())
}
