//! `Folder` lists the files of a folder and tells whether they have stopped changing.

mod listing;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{debug, info, warn};

use self::listing::{Listing, Names, Seen, has_extension, is_plugin, stem};
use super::Options;
use super::file::{Kind, read};
use crate::plugin::load::{LoadCode, LoadError};
use crate::plugin::registry::{Contents, LeftOut, Meant, PluginFile};

/// How often, and in which intervals, the first scan waits for files that change while they are read.
const FIRST_TRIES: u32 = 50;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Pause before a file is read again after a failure that has other causes than the file.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// Identity of a folder, independent of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FolderId(u64, u64);

/// The plugin folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Path without links, as of the last scan.
    root: PathBuf,
    id: Option<FolderId>,
    options: Options,
    /// The user of the gateway.
    user: u32,
    /// By file name: `.wasm` and `.toml` files.
    files: BTreeMap<Box<str>, Tracked>,
    /// Files that were probably meant to be plugins, but are none, as of the last scan, and since when.
    misfits: BTreeMap<Box<str>, Misfit>,
    /// Names of other ignored entries that were logged, with the reason.
    left_out: BTreeMap<Box<str>, &'static str>,
}

/// A file that exists, or did a moment ago.
#[derive(Debug)]
struct Tracked {
    /// `None` while it is missing.
    seen: Option<Seen>,
    /// Since when it has been unchanged.
    since: Instant,
    /// Whether it has changed so recently that it may still be written.
    fresh: bool,
    /// The content in use until the file has settled.
    read: Option<(Seen, Result<Bytes, LoadError>)>,
    /// When it is read again even if unchanged.
    again: Option<Instant>,
}

/// A file that was probably meant to be a plugin, but is none.
#[derive(Debug)]
struct Misfit {
    since: Instant,
    /// Whether it has been there long enough to be intended, and was logged.
    settled: bool,
    left: LeftOut,
}

/// Result of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// The snapshot has changed.
    pub(super) changed: bool,
    /// A file has changed too recently to be read.
    pub(super) restless: bool,
    /// A file was read that may still be written.
    pub(super) fresh: bool,
}

impl Folder {
    /// Watches the folder that has this name at each scan: it may be a link that is changed to another
    /// folder.
    pub(super) fn new(path: &Path, options: &Options) -> Self {
        Self {
            path: path.to_owned(),
            root: PathBuf::new(),
            id: None,
            options: options.clone(),
            user: rustix::process::geteuid().as_raw(),
            files: BTreeMap::new(),
            misfits: BTreeMap::new(),
            left_out: BTreeMap::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Identity as of the last scan.
    pub(super) fn id(&self) -> Option<FolderId> {
        self.id
    }

    /// Reads everything as complete. A file that changes while it is read is reported with that reason.
    pub(super) fn look_at_once(&mut self, now: Instant) -> io::Result<()> {
        let patient = self.options.clone();
        (self.options.settle, self.options.complete) = (Duration::ZERO, Duration::ZERO);
        let mut looked = self.look(now);
        for _ in 0..FIRST_TRIES {
            if !looked.as_ref().is_ok_and(|look| look.restless) {
                break;
            }
            thread::sleep(FIRST_PAUSE);
            looked = self.look(now);
        }
        self.options = patient;
        for tracked in self.files.values_mut() {
            tracked.fresh = false;
            if let (None, Some(seen)) = (&tracked.read, tracked.seen) {
                let message = "changes while it is read; it is read again when it has stopped";
                tracked.read = Some((seen, Err(LoadError::new(LoadCode::Unreadable, message))));
                // Makes the next scan read it.
                tracked.seen = None;
            }
        }
        looked.map(|_| ())
    }

    /// Finds changes, and reads what has settled.
    ///
    /// A plugin and its settings are read together once both have settled: the content of a volume that is
    /// replaced in one step is never mixed with the previous one.
    pub(super) fn look(&mut self, now: Instant) -> io::Result<Look> {
        let Listing { files: present, misfits } = self.list()?;
        for (name, seen) in &present {
            let new = || Tracked { seen: None, since: now, fresh: true, read: None, again: None };
            self.files.entry(name.clone()).or_insert_with(new).see(Some(*seen), now);
        }
        for (name, tracked) in &mut self.files {
            if !present.contains_key(name) {
                tracked.see(None, now);
            }
        }
        let mut look = Look { changed: false, restless: false, fresh: false };
        let stems: BTreeSet<Box<str>> = self.files.keys().map(|name| stem(name).into()).collect();
        for stem in stems {
            self.settle(&stem, now, &mut look);
        }
        self.files.retain(|_, tracked| tracked.seen.is_some() || tracked.read.is_some());
        self.check_misfits(misfits, now, &mut look);
        Ok(look)
    }

    /// Reads a plugin and its settings if they have changed and settled.
    fn settle(&mut self, stem: &str, now: Instant, look: &mut Look) {
        let names = [format!("{stem}.wasm"), format!("{stem}.toml")];
        let parts = || names.iter().map(|name| &**name);
        let tracked = |name: &str| self.files.get(name);
        let changed: Vec<&str> =
            parts().filter(|name| tracked(name).is_some_and(|part| !part.is_read(now))).collect();
        let age = parts().filter_map(tracked).map(|part| now.saturating_duration_since(part.since)).min();
        let age = age.unwrap_or_default();
        if changed.is_empty() {
            for name in &names {
                let Some(part) = self.files.get_mut(&**name) else { continue };
                if part.fresh && now.saturating_duration_since(part.since) >= self.options.complete {
                    part.fresh = false;
                    look.changed = true;
                }
                look.fresh |= part.fresh;
            }
            return;
        }
        if age < self.options.settle {
            look.restless = true;
            return;
        }
        let read = |name: &str| match tracked(name)?.seen {
            None => Some(None),
            Some(seen) => self.read(name, seen).map(|content| Some((seen, content))),
        };
        let read: Option<Vec<_>> = changed.iter().map(|name| read(name)).collect();
        let Some(contents) = read else {
            // One of them has changed since the scan: both are scanned again.
            for name in &names {
                if let Some(part) = self.files.get_mut(&**name) {
                    part.since = now;
                }
            }
            look.restless = true;
            return;
        };
        let contents: Vec<_> = changed.into_iter().map(str::to_owned).zip(contents).collect();
        for (name, content) in contents {
            let Some(part) = self.files.get_mut(&*name) else { continue };
            let before = part.again.and_then(|_| part.error().cloned());
            part.read = content;
            part.again = part.error().filter(|error| error.may_pass()).map(|_| now + READ_AGAIN);
            part.fresh &= now.saturating_duration_since(part.since) < self.options.complete;
            look.fresh |= part.fresh && part.read.is_some();
            // A file that still cannot be read for the same reason is not a change.
            look.changed |= before.is_none() || before.as_ref() != part.error();
        }
    }

    /// The content of a file in this state; `None` if it has changed.
    fn read(&self, name: &str, seen: Seen) -> Option<Result<Bytes, LoadError>> {
        let fingerprint = match seen {
            Seen::File(fingerprint) => fingerprint,
            Seen::Unusable(why) => {
                warn!(file = name, "file in the plugin folder not used: {why}");
                return Some(Err(unusable(why)));
            }
        };
        if let Some(mistrust) = fingerprint.mistrust() {
            return Some(Err(mistrust.error(&self.path, name)));
        }
        let kind = if is_plugin(name) { Kind::Plugin(self.options.file_bytes_max) } else { Kind::Settings };
        let most = self.options.folder_bytes_max;
        let others = self.files.iter().filter(|(other, _)| &***other != name);
        let held: usize = others.map(|(_, tracked)| tracked.bytes()).sum();
        if fingerprint.length() <= kind.bytes_max() && held as u64 + fingerprint.length() > most {
            let message = format!(
                "is not read: the files of the plugin folder have more than {most} bytes together; remove files that \
                 do not belong there"
            );
            return Some(Err(LoadError::new(LoadCode::TooLarge, message).passing()));
        }
        let content = read(&self.root, name, fingerprint, kind)?;
        let bytes = content.as_ref().map_or(0, |bytes| bytes.len());
        debug!(file = name, bytes, "plugin folder: file read");
        Some(content)
    }

    /// Reports a file that was probably meant to be a plugin, once it has existed for as long as a file takes
    /// to be complete: settings may be written before their plugin. It is in the snapshot at once, because
    /// the file with the right name may have gone at this moment.
    fn check_misfits(&mut self, mut present: BTreeMap<Box<str>, LeftOut>, now: Instant, look: &mut Look) {
        let files = &self.files;
        let is_read = |name: &str| files.get(name).is_none_or(|tracked| tracked.is_read(now));
        self.misfits.retain(|name, misfit| {
            let stays = match present.remove(name) {
                Some(left) => {
                    let same = left.error == misfit.left.error;
                    misfit.left = left;
                    same
                }
                // A file that has replaced it takes its place once it is read, and not before.
                None if !is_read(&format!("{}.wasm", stem(name)))
                    || !is_read(&format!("{}.toml", stem(name))) =>
                {
                    misfit.since = now;
                    true
                }
                None => false,
            };
            look.changed |= !stays;
            stays
        });
        for (name, left) in present {
            self.misfits.insert(name, Misfit { since: now, settled: false, left });
        }
        for (name, misfit) in &mut self.misfits {
            if !misfit.settled && now.saturating_duration_since(misfit.since) >= self.options.complete {
                misfit.settled = true;
                look.changed = true;
                let message = misfit.left.error.message();
                warn!(file = &**name, "file in the plugin folder not used: it {message}");
            }
            look.fresh |= !misfit.settled;
        }
    }

    /// All settled plugins with their settings, and all files that were probably meant to be plugins.
    pub(super) fn snapshot(&self) -> Contents {
        let content = |name: &str| self.files.get(name)?.read.as_ref().map(|(_, content)| content.clone());
        let fresh = |name: &str| self.files.get(name).is_some_and(|tracked| tracked.fresh);
        let mut contents = Contents::default();
        for file in self.files.keys().filter(|name| is_plugin(name)) {
            let settings = format!("{}.toml", stem(file));
            match content(file) {
                None => {}
                Some(Err(error)) if error.code() == LoadCode::NotAFile => {
                    contents.left_out.push(LeftOut {
                        file: file.clone(),
                        meant: Meant::Plugin,
                        error,
                        settings: content(&settings).or_else(|| self.misnamed_settings(file)),
                        fresh: fresh(file),
                    });
                }
                Some(wasm) => contents.found.push(PluginFile {
                    path: self.path.join(&**file),
                    file: file.clone(),
                    wasm,
                    settings: content(&settings).or_else(|| self.misnamed_settings(file)),
                    fresh: fresh(file) || fresh(&settings),
                }),
            }
        }
        for (file, misfit) in &self.misfits {
            contents.left_out.push(LeftOut {
                settings: content(&format!("{}.toml", stem(file))),
                fresh: !misfit.settled,
                ..misfit.left.clone()
            });
        }
        contents.left_out.sort_by(|a, b| a.file.cmp(&b.file));
        contents
    }

    /// Settings whose name almost matches that of the plugin: without them it would be a different plugin.
    fn misnamed_settings(&self, plugin: &str) -> Option<Result<Bytes, LoadError>> {
        let almost = |name: &str| has_extension(name, "toml") && stem(name) == stem(plugin);
        let misfit = self.misfits.values().find(|misfit| almost(&misfit.left.file))?;
        Some(Err(misfit.left.error.clone()))
    }

    /// Lists the plugins, settings and misnamed files.
    fn list(&mut self) -> io::Result<Listing> {
        let root = self.path.canonicalize()?;
        let metadata = fs::metadata(&root)?;
        let id = folder_id(&metadata);
        let mut names = Names::default();
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            names.sort(&entry, |name| self.files.contains_key(name));
        }
        if self.id.is_some_and(|known| known != id) && names.plugins.is_empty() && !self.files.is_empty() {
            // An unmounted volume, rather than an operator who removes one plugin after the other.
            return Err(io::Error::other(
                "it is another folder than before, and it contains no plugin; restore its files, or remove them from the \
                 earlier folder",
            ));
        }
        // A listing during changes may miss a name; a lookup by name finds it.
        for name in self.files.keys() {
            if is_plugin(name) && !names.plugins.contains(name) {
                names.plugins.insert(name.clone());
            }
        }
        let listing = Listing::of(&root, &names, self.options.check_owner.then_some(self.user));
        for (file, why) in &names.others {
            if self.left_out.get(file) != Some(why) {
                info!(file = &**file, "file in the plugin folder not used: {why}");
            }
        }
        self.left_out = names.others;
        self.id = Some(id);
        self.root = root;
        Ok(listing)
    }
}

/// Error for an entry with the name of a plugin or of settings that cannot be used.
fn unusable(why: &'static str) -> LoadError {
    LoadError::new(LoadCode::NotAFile, format!("cannot be used: {why}"))
}

impl Tracked {
    fn see(&mut self, seen: Option<Seen>, now: Instant) {
        if self.seen != seen {
            self.seen = seen;
            self.since = now;
            self.fresh = true;
        }
    }

    /// Bytes of the content kept.
    fn bytes(&self) -> usize {
        self.read.as_ref().and_then(|(_, content)| content.as_ref().ok()).map_or(0, Bytes::len)
    }

    /// Whether the content in use is that of the current file.
    fn is_read(&self, now: Instant) -> bool {
        self.read.as_ref().map(|(seen, _)| *seen) == self.seen && self.again.is_none_or(|again| now < again)
    }

    /// Why the content in use cannot be used.
    fn error(&self) -> Option<&LoadError> {
        self.read.as_ref().and_then(|(_, content)| content.as_ref().err())
    }
}

fn folder_id(metadata: &Metadata) -> FolderId {
    FolderId(metadata.dev(), metadata.ino())
}
