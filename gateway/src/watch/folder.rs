//! What lies in a folder, and whether it has stopped changing.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{debug, info, warn};

use super::Options;
use super::file::{Fingerprint, Kind, Mistrust, read};
use crate::plugin::load::{LoadCode, LoadError};
use crate::plugin::registry::{Contents, Found, LeftOut, Meant};

/// Plugin files that are looked at. A folder with more is a mistake: those that were there before stay, and of the others the
/// first count, in the order of their names.
const PLUGINS_MAX: usize = 1000;
/// Other things in the folder of which something is said.
const OTHERS_MAX: usize = 1000;
/// Entries of a folder in the folder that are looked through for plugins.
const NESTED_MAX: usize = 1000;
/// How often, and at which intervals, the first look waits for files that change while they are read.
const FIRST_TRIES: u32 = 50;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// When a file is read again that could not be read for a reason outside of it.
const READ_AGAIN: Duration = Duration::from_secs(10);

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
    /// What was meant to be a plugin and is none, as of the last look, and since when.
    misfits: BTreeMap<Box<str>, Misfit>,
    /// Names of other things that were left out and said so, with why.
    left_out: BTreeMap<Box<str>, &'static str>,
}

/// A file that is there, or was a moment ago.
#[derive(Debug)]
struct Tracked {
    /// `None` while it is missing.
    seen: Option<Seen>,
    /// Since when it has been like this.
    since: Instant,
    /// It has changed so recently that somebody may still be writing it.
    fresh: bool,
    /// What counts until the file has settled.
    read: Option<(Seen, Result<Bytes, LoadError>)>,
    /// When it is read again although it has not changed.
    again: Option<Instant>,
}

/// What has the name of a plugin or of its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    File(Fingerprint),
    /// No file that can be read, and why.
    Unusable(&'static str),
}

/// Something that was meant to be a plugin and is none.
#[derive(Debug)]
struct Misfit {
    since: Instant,
    /// It has been there for long enough to be what somebody wanted, and was said so.
    settled: bool,
    left: LeftOut,
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
            misfits: BTreeMap::new(),
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

    /// Reads everything as it is, and takes it for complete. What changes under the reader's hands is there with that reason.
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
                let sentence = "changes while it is read; it is read again when it has stopped";
                tracked.read = Some((seen, Err(LoadError::new(LoadCode::Unreadable, sentence))));
                // So that the next look reads it.
                tracked.seen = None;
            }
        }
        looked.map(|_| ())
    }

    /// Finds out what has changed, and reads what has settled.
    ///
    /// A plugin and its settings are read together, when both have settled: what a volume was exchanged for in one step
    /// is never mixed with what was there before.
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
        self.judge_misfits(misfits, now, &mut look);
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
            // One of them is not what was seen any more: both are looked at again.
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
            // What still cannot be read for the same reason is nothing new.
            look.changed |= before.is_none() || before.as_ref() != part.error();
        }
    }

    /// The content of a file that was seen like this; `None` if it is another one by now.
    fn read(&self, name: &str, seen: Seen) -> Option<Result<Bytes, LoadError>> {
        let fingerprint = match seen {
            Seen::File(fingerprint) => fingerprint,
            Seen::Unusable(why) => {
                warn!(file = name, "left out of the plugin folder: {why}");
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
            let sentence = format!(
                "is not read: the files of the plugin folder have more than {most} bytes together; take out what does \
                 not belong there"
            );
            return Some(Err(LoadError::new(LoadCode::TooLarge, sentence).passing()));
        }
        let content = read(&self.root, name, fingerprint, kind)?;
        let bytes = content.as_ref().map_or(0, |bytes| bytes.len());
        debug!(file = name, bytes, "plugin folder: file read");
        Some(content)
    }

    /// Says what was meant to be a plugin, once it has been there for as long as a file takes to be complete: settings may be
    /// written before their plugin. It counts at once: what had its right name may have gone in this moment.
    fn judge_misfits(&mut self, mut present: BTreeMap<Box<str>, LeftOut>, now: Instant, look: &mut Look) {
        let files = &self.files;
        let is_read = |name: &str| files.get(name).is_none_or(|tracked| tracked.is_read(now));
        self.misfits.retain(|name, misfit| {
            let stays = match present.remove(name) {
                Some(left) => {
                    let same = left.error == misfit.left.error;
                    misfit.left = left;
                    same
                }
                // What has come in its place counts in its place, and not before it is read.
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
                let sentence = misfit.left.error.sentence();
                warn!(file = &**name, "left out of the plugin folder: it {sentence}");
            }
            look.fresh |= !misfit.settled;
        }
    }

    /// Every plugin that has settled, with its settings, and what was meant to be one, settled or not.
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
                Some(wasm) => contents.found.push(Found {
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

    /// Settings whose name is almost that of those of a plugin: without them it would be another plugin.
    fn misnamed_settings(&self, plugin: &str) -> Option<Result<Bytes, LoadError>> {
        let almost = |name: &str| has_extension(name, "toml") && stem(name) == stem(plugin);
        let misfit = self.misfits.values().find(|misfit| almost(&misfit.left.file))?;
        Some(Err(misfit.left.error.clone()))
    }

    /// What has the name of a plugin or of settings, and what was meant to be one.
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
            // A volume that is not mounted any more, and not an operator who takes out one plugin after the other.
            return Err(io::Error::other(
                "it is another folder than before, and there is no plugin in it; put its files back, or take them out of the \
                 folder that was there",
            ));
        }
        // A listing that runs beside changes may miss a name; asked for by its name it is there.
        for name in self.files.keys() {
            if is_plugin(name) && !names.plugins.contains(name) {
                names.plugins.insert(name.clone());
            }
        }
        let judge = Judge {
            root: &root,
            user: self.options.check_owner.then_some(self.user),
            folder: RefCell::default(),
            linked: RefCell::default(),
        };
        let mut listing = Listing::default();
        for plugin in &names.plugins {
            let settings: Box<str> = format!("{}.toml", stem(plugin)).into();
            if let Some(seen) = judge.look(plugin) {
                listing.files.insert(plugin.clone(), seen);
                listing.files.extend(judge.look(&settings).map(|seen| (settings, seen)));
            }
        }
        for settings in &names.settings {
            let plugin = format!("{}.wasm", stem(settings));
            // Beyond the bound on plugins there may be one.
            if listing.files.contains_key(settings) || judge.look(&plugin).is_some() {
                continue;
            }
            if let Some(seen) = judge.look(settings) {
                listing.files.insert(settings.clone(), seen);
                let sentence = format!(
                    "has the settings of a plugin, and {plugin} is not there: put it beside them, or take them out"
                );
                listing.misfit(settings, Meant::Settings, LoadCode::NoModule, sentence);
            }
        }
        for name in &names.misnamed {
            let sentence = format!(
                "is named almost like a plugin or its settings: rename it to {}.wasm or .toml, in small letters, or take it \
                 out",
                stem(name)
            );
            listing.misfit(name, Meant::Misnamed, LoadCode::Misnamed, sentence);
        }
        for name in &names.folders {
            let Ok(target) = root.join(&**name).canonicalize() else { continue };
            let is_used = judge.linked.borrow().iter().any(|file| file.starts_with(&target));
            if target != root && !is_used && holds_plugins(&target) {
                let sentence = "is a folder with plugins in it, which are not looked at: put them into the plugin folder itself, \
                                or link to them from there";
                listing.misfit(&format!("{name}/"), Meant::Folder, LoadCode::SubFolder, sentence.into());
            }
        }
        if let Some(first) = &names.beyond {
            let sentence = format!(
                "is one of more than {PLUGINS_MAX} plugin files in the folder: it and those that come after it are not looked \
                 at. Take out what does not belong there"
            );
            listing.misfit(first, Meant::Misnamed, LoadCode::TooMany, sentence);
        }
        for (file, why) in &names.others {
            if self.left_out.get(file) != Some(why) {
                info!(file = &**file, "left out of the plugin folder: {why}");
            }
        }
        self.left_out = names.others;
        self.id = Some(id);
        self.root = root;
        Ok(listing)
    }
}

/// What one look at the folder found.
#[derive(Debug, Default)]
struct Listing {
    files: BTreeMap<Box<str>, Seen>,
    misfits: BTreeMap<Box<str>, LeftOut>,
}

impl Listing {
    fn misfit(&mut self, file: &str, meant: Meant, code: LoadCode, sentence: String) {
        let error = LoadError::new(code, sentence);
        let left = LeftOut { file: file.into(), meant, error, settings: None, fresh: true };
        self.misfits.insert(file.into(), left);
    }
}

/// The names in the folder, each kind in its order and bounded.
#[derive(Debug, Default)]
struct Names {
    plugins: BTreeSet<Box<str>>,
    /// The first plugin that is too many.
    beyond: Option<Box<str>>,
    settings: BTreeSet<Box<str>>,
    misnamed: BTreeSet<Box<str>>,
    folders: BTreeSet<Box<str>>,
    /// Everything else, with why it is left out.
    others: BTreeMap<Box<str>, &'static str>,
    /// How many of the plugins are not to be given up for others.
    known: usize,
}

impl Names {
    fn sort(&mut self, entry: &fs::DirEntry, is_known: impl Fn(&str) -> bool) {
        let os_name = entry.file_name();
        let name = os_name.to_string_lossy();
        let other = |others: &mut BTreeMap<Box<str>, &'static str>, why| {
            if others.len() < OTHERS_MAX {
                others.insert((&*name).into(), why);
            }
        };
        if name.starts_with('.') || name.starts_with('#') || name.ends_with('~') {
            // The links by which a volume is exchanged in one step are meant to be there.
            if !name.starts_with("..") {
                other(&mut self.others, "names like this are temporary");
            }
        } else if os_name.to_str().is_none() {
            if has_extension(&name, "wasm") || has_extension(&name, "toml") {
                keep(&mut self.misnamed, &name);
            } else {
                other(&mut self.others, "its name is not text");
            }
        } else if is_plugin(&name) {
            self.plugin(&name, is_known);
        } else if name.ends_with(".toml") {
            keep(&mut self.settings, &name);
        } else if has_extension(&name, "wasm") || has_extension(&name, "toml") {
            keep(&mut self.misnamed, &name);
        } else if is_folder(entry) {
            keep(&mut self.folders, &name);
        } else {
            other(&mut self.others, "plugins end in .wasm, their settings in .toml");
        }
    }

    /// Those that are known stay, and of the others the first.
    fn plugin(&mut self, name: &str, is_known: impl Fn(&str) -> bool) {
        self.plugins.insert(name.into());
        self.known += usize::from(is_known(name));
        while self.plugins.len() > PLUGINS_MAX.max(self.known) {
            let Some(last) = self.plugins.iter().rev().find(|name| !is_known(name)).cloned() else { return };
            self.plugins.remove(&last);
            if self.beyond.as_ref().is_none_or(|beyond| last < *beyond) {
                self.beyond = Some(last);
            }
        }
    }
}

/// Keeps the first of many.
fn keep(names: &mut BTreeSet<Box<str>>, name: &str) {
    names.insert(name.into());
    if names.len() > OTHERS_MAX {
        names.pop_last();
    }
}

/// Looks at names during one look at the folder.
struct Judge<'a> {
    root: &'a Path,
    /// The gateway's, if owners matter.
    user: Option<u32>,
    /// What is known of the folder and of those beneath it.
    folder: RefCell<BTreeMap<PathBuf, Option<Mistrust>>>,
    /// Where the links among them lead, within the folder.
    linked: RefCell<BTreeSet<PathBuf>>,
}

impl Judge<'_> {
    /// What has a name; `None` if nothing has it. Whatever else keeps it from being looked at: the name is there.
    fn look(&self, name: &str) -> Option<Seen> {
        let path = self.root.join(name);
        let link = match fs::symlink_metadata(&path) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                return Some(unseen(&error));
            }
        };
        let mut target = path;
        if link.is_symlink() {
            match target.canonicalize() {
                Ok(resolved) => target = resolved,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Some(Seen::Unusable("it is a link to nothing"));
                }
                Err(_) => return Some(Seen::Unusable("it is a link that cannot be followed")),
            }
            if !target.starts_with(self.root) {
                return Some(Seen::Unusable("it is a link that leaves the folder"));
            }
            self.linked.borrow_mut().insert(target.clone());
        }
        let metadata = match fs::symlink_metadata(&target) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Some(Seen::Unusable("it is not a regular file")),
            // It has just been exchanged.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(Seen::Unusable("it is a link to nothing"));
            }
            Err(error) => return Some(unseen(&error)),
        };
        let mistrust = self.user.and_then(|user| {
            self.mistrust_of_folders(&target, user)
                .or_else(|| Mistrust::of_link(self.root, &link, user))
                .or_else(|| Mistrust::of_file(&target, &metadata, user))
        });
        Some(Seen::File(Fingerprint::of(&metadata, mistrust)))
    }

    /// Of every folder from the plugin folder down to a file.
    fn mistrust_of_folders(&self, target: &Path, user: u32) -> Option<Mistrust> {
        let folders = target.ancestors().skip(1).take_while(|folder| folder.starts_with(self.root));
        let mut known = self.folder.borrow_mut();
        let mistrusts = folders.map(|folder| {
            *known.entry(folder.to_owned()).or_insert_with(|| {
                let metadata = fs::metadata(folder).ok()?;
                Mistrust::of_folder(folder, &metadata, user)
            })
        });
        mistrusts.flatten().last()
    }
}

/// Whether it is a folder, or a link to one.
fn is_folder(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| {
        kind.is_dir() || kind.is_symlink() && fs::metadata(entry.path()).is_ok_and(|target| target.is_dir())
    })
}

/// Whether a folder in the folder has plugins in it.
fn holds_plugins(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let mut names = entries.take(NESTED_MAX).flatten().map(|entry| entry.file_name());
    names.any(|name| has_extension(&name.to_string_lossy(), "wasm"))
}

/// Something is there, and the system does not say what. It is asked again at every look.
fn unseen(error: &io::Error) -> Seen {
    Seen::Unusable(if error.kind() == io::ErrorKind::PermissionDenied {
        "it cannot be looked at: the gateway's user needs permission"
    } else {
        "it cannot be looked at: the file system fails"
    })
}

/// Why something that has the name of a plugin or of settings is not used.
fn unusable(why: &'static str) -> LoadError {
    LoadError::new(LoadCode::NotAFile, format!("cannot be used: {why}"))
}

fn is_plugin(name: &str) -> bool {
    name.ends_with(".wasm")
}

/// Whatever the case of its letters.
fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(extension))
}

/// A name without its extension.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

impl Tracked {
    fn see(&mut self, seen: Option<Seen>, now: Instant) {
        if self.seen != seen {
            self.seen = seen;
            self.since = now;
            self.fresh = true;
        }
    }

    /// What is held of it.
    fn bytes(&self) -> usize {
        self.read.as_ref().and_then(|(_, content)| content.as_ref().ok()).map_or(0, Bytes::len)
    }

    /// Whether what is there is what counts.
    fn is_read(&self, now: Instant) -> bool {
        self.read.as_ref().map(|(seen, _)| *seen) == self.seen && self.again.is_none_or(|again| now < again)
    }

    /// Why what counts cannot be used.
    fn error(&self) -> Option<&LoadError> {
        self.read.as_ref().and_then(|(_, content)| content.as_ref().err())
    }
}

fn folder_id(metadata: &Metadata) -> FolderId {
    FolderId(metadata.dev(), metadata.ino())
}
