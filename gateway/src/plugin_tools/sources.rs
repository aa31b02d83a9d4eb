//! `Sources` lists the source files of a crate and detects changes.
//!
//! It polls the folder: this works on every file system, and a build takes longer than the pause between two
//! polls.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Maximum number of files watched; a larger crate is watched in part.
const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 16;

/// The files of a crate, with their modification times and sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sources(BTreeMap<PathBuf, (Option<SystemTime>, u64)>);

impl Sources {
    /// Reads the current state. Ignores hidden files and build results. It also ignores the folders `made` to
    /// which a build writes and which may be inside the crate: otherwise each build would trigger the next
    /// one.
    pub(crate) fn of(folder: &Path, made: &[PathBuf]) -> Self {
        let mut sources = Self(BTreeMap::new());
        let made: Vec<_> = made.iter().filter_map(|made| made.canonicalize().ok()).collect();
        sources.look(folder, &made, DEPTH_MAX);
        sources
    }

    fn look(&mut self, folder: &Path, made: &[PathBuf], depth: usize) {
        // An unreadable file counts as missing; the build reports it better.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let built = matches!(&*name, "target" | "Cargo.lock") || name.ends_with(".wasm");
            if built || name.starts_with('.') || self.0.len() >= FILES_MAX {
                continue;
            }
            match entry.metadata() {
                Ok(about) if about.is_dir() && depth > 0 => {
                    let path = entry.path();
                    if made.is_empty() || !path.canonicalize().is_ok_and(|path| made.contains(&path)) {
                        self.look(&path, made, depth - 1);
                    }
                }
                Ok(about) if about.is_file() => {
                    self.0.insert(entry.path(), (about.modified().ok(), about.len()));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_changes_the_sources_and_what_a_build_makes_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
            fs::write(path, text).expect("writable");
        };
        write("src/lib.rs", "one");
        let into = folder.path().join("plugins");
        fs::create_dir(&into).expect("writable");
        let output = folder.path().join("out");
        fs::create_dir(&output).expect("writable");
        let made = [into, output];
        let now = || Sources::of(folder.path(), &made);
        let before = now();
        for made in
            ["target/release/x", "out/release/x", "50-x.wasm", "plugins/50-x.toml", "Cargo.lock", ".git/HEAD"]
        {
            write(made, "made");
        }
        assert_eq!(now(), before);
        write("src/rules/one.rs", "new");
        let with_new = now();
        assert_ne!(with_new, before);
        write("src/lib.rs", "longer than before");
        assert_ne!(now(), with_new);
    }
}
