//! `Listing` sorts the names in a plugin folder: plugins, settings, and names that were probably meant to be
//! one of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::plugin::load::{LoadCode, LoadError};
use crate::plugin::registry::{LeftOut, Meant, plugin_name};
use crate::watch::file::{Fingerprint, Mistrust};

/// Maximum number of plugin files. A folder with more is an error: known ones stay, and of the others the
/// first in name order are used.
const PLUGINS_MAX: usize = 1000;
/// Maximum number of other entries reported.
const OTHERS_MAX: usize = 1000;
/// Maximum number of entries scanned for plugins in a subfolder.
const NESTED_MAX: usize = 1000;

/// An entry with the name of a plugin or of its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    File(Fingerprint),
    /// Not a readable file, with the reason.
    Unusable(&'static str),
}

/// Result of one scan of the folder.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: BTreeMap<Box<str>, Seen>,
    pub(super) misfits: BTreeMap<Box<str>, LeftOut>,
}

impl Listing {
    /// Classifies the names in the folder `root`, a path without links. `user` is the gateway's, if owners
    /// matter.
    pub(super) fn of(root: &Path, names: &Names, user: Option<u32>) -> Self {
        let checker = Checker { root, user, folder: RefCell::default(), linked: RefCell::default() };
        let mut listing = Listing::default();
        for plugin in &names.plugins {
            let settings: Box<str> = format!("{}.toml", stem(plugin)).into();
            if let Some(seen) = checker.look(plugin) {
                listing.files.insert(plugin.clone(), seen);
                listing.files.extend(checker.look(&settings).map(|seen| (settings, seen)));
            }
        }
        for settings in &names.settings {
            let plugin = format!("{}.wasm", stem(settings));
            // A plugin may exist beyond the limit.
            if listing.files.contains_key(settings) || checker.look(&plugin).is_some() {
                continue;
            }
            if let Some(seen) = checker.look(settings) {
                listing.files.insert(settings.clone(), seen);
                let message = match namesake(settings, &names.plugins) {
                    Some(other) => format!(
                        "has the settings of a plugin, but {plugin} is missing: rename it to {}.toml to have the settings of \
                         {other}",
                        stem(other)
                    ),
                    None => format!(
                        "has the settings of a plugin, but {plugin} is missing: add it, or remove the settings"
                    ),
                };
                listing.misfit(settings, Meant::Settings, LoadCode::NoModule, message);
            }
        }
        for name in &names.misnamed {
            let message = format!(
                "is named almost like a plugin or its settings: rename it to {}.wasm or .toml, in small letters, or remove \
                 it",
                stem(name)
            );
            listing.misfit(name, Meant::Misnamed, LoadCode::Misnamed, message);
        }
        for name in &names.folders {
            let Ok(target) = root.join(&**name).canonicalize() else { continue };
            let is_used = checker.linked.borrow().iter().any(|file| file.starts_with(&target));
            if target != *root && !is_used && holds_plugins(&target) {
                let message = "is a folder with plugins in it, which the gateway does not read: put them into the plugin folder itself, \
                                or link to them from there";
                listing.misfit(&format!("{name}/"), Meant::Folder, LoadCode::SubFolder, message.into());
            }
        }
        if let Some(first) = &names.beyond {
            let message = format!(
                "is one of more than {PLUGINS_MAX} plugin files in the folder: the gateway reads neither it nor \
                 those after it. Remove files that do not belong there"
            );
            listing.misfit(first, Meant::Misnamed, LoadCode::TooMany, message);
        }
        listing
    }

    fn misfit(&mut self, file: &str, meant: Meant, code: LoadCode, message: String) {
        let error = LoadError::new(code, message);
        let left = LeftOut { file: file.into(), meant, error, settings: None, fresh: true };
        self.misfits.insert(file.into(), left);
    }
}

/// The names in the folder, sorted and bounded for each kind.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) plugins: BTreeSet<Box<str>>,
    /// The first plugin beyond the limit.
    beyond: Option<Box<str>>,
    settings: BTreeSet<Box<str>>,
    misnamed: BTreeSet<Box<str>>,
    folders: BTreeSet<Box<str>>,
    /// All other names, with the reason to ignore them.
    pub(super) others: BTreeMap<Box<str>, &'static str>,
    /// Number of known plugins, which are not dropped for others.
    known: usize,
}

impl Names {
    pub(super) fn sort(&mut self, entry: &fs::DirEntry, is_known: impl Fn(&str) -> bool) {
        let os_name = entry.file_name();
        let name = os_name.to_string_lossy();
        let other = |others: &mut BTreeMap<Box<str>, &'static str>, why| {
            if others.len() < OTHERS_MAX {
                others.insert((&*name).into(), why);
            }
        };
        if name.starts_with('.') || name.starts_with('#') || name.ends_with('~') {
            // Links that replace a volume in one step are expected.
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

    /// Adds a plugin. Known ones stay, and of the others the first.
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

/// Keeps the first names up to the limit.
fn keep(names: &mut BTreeSet<Box<str>>, name: &str) {
    names.insert(name.into());
    if names.len() > OTHERS_MAX {
        names.pop_last();
    }
}

/// Checks names during one scan of the folder.
struct Checker<'a> {
    root: &'a Path,
    /// The user of the gateway, if owners matter.
    user: Option<u32>,
    /// Results for the folder and those below it.
    folder: RefCell<BTreeMap<PathBuf, Option<Mistrust>>>,
    /// The targets of the links among them, within the folder.
    linked: RefCell<BTreeSet<PathBuf>>,
}

impl Checker<'_> {
    /// The entry with a name; `None` if there is none. An entry that cannot be checked still counts as
    /// present.
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
            // It has just been replaced.
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

    /// Checks every folder from the plugin folder down to a file.
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

/// The plugin that settings were meant for: it has their name behind another number.
fn namesake<'n>(settings: &str, plugins: &'n BTreeSet<Box<str>>) -> Option<&'n str> {
    let name = plugin_name(stem(settings)).ok()?;
    let mut plugins = plugins.iter().map(|plugin| &**plugin);
    plugins.find(|plugin| plugin_name(stem(plugin)).is_ok_and(|other| other == name))
}

/// Whether it is a folder, or a link to one.
fn is_folder(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| {
        kind.is_dir() || kind.is_symlink() && fs::metadata(entry.path()).is_ok_and(|target| target.is_dir())
    })
}

/// Whether a subfolder contains plugins.
fn holds_plugins(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let mut names = entries.take(NESTED_MAX).flatten().map(|entry| entry.file_name());
    names.any(|name| has_extension(&name.to_string_lossy(), "wasm"))
}

/// An entry exists, but its metadata is unavailable. Every scan tries again.
fn unseen(error: &io::Error) -> Seen {
    Seen::Unusable(if error.kind() == io::ErrorKind::PermissionDenied {
        "it cannot be read: the gateway's user needs permission"
    } else {
        "it cannot be read: the file system fails"
    })
}

pub(super) fn is_plugin(name: &str) -> bool {
    name.ends_with(".wasm")
}

/// Whether a name has this extension, in any case.
pub(super) fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(extension))
}

/// A name without its extension.
pub(super) fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}
