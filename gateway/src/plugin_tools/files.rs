//! Writes files atomically, so that a watcher of the folder never sees a half-written file.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context as _, bail};

/// The users who may read a file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// Everybody.
    Public = 0o644,
    /// The owner.
    Private = 0o600,
}

/// Replaces a file atomically, unless it has this content already.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: Mode) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let written = put(path, bytes, Permissions::from_mode(mode as u32));
    written.with_context(|| format!("failed to write {}", path.display()))
}

/// Replaces the content of somebody else's file atomically. The users who may read and write it stay the
/// same, and a link stays a link.
pub(crate) fn rewrite(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let path = path.canonicalize()?;
    let permissions = fs::metadata(&path)?.permissions();
    put(&path, bytes, permissions)
}

fn put(path: &Path, bytes: &[u8], permissions: Permissions) -> std::io::Result<()> {
    // The watcher ignores names with a leading dot.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_new(&temporary, bytes, permissions).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Creates a file unless it exists; returns whether it did.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: Mode) -> anyhow::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => replace(path, bytes, mode).map(|()| true),
        Err(error) => Err(error).with_context(|| format!("failed to look at {}", path.display())),
    }
}

/// Checks that a folder is missing or empty, so that nothing in it is overwritten.
///
/// # Errors
///
/// The error names an entry of the folder, and says that nothing was written.
pub(crate) fn check_empty(folder: &Path) -> anyhow::Result<()> {
    let unusable = || format!("failed to look at {}", folder.display());
    match fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            Some(entry) => {
                let entry = entry.with_context(unusable)?.file_name();
                bail!(
                    "{} is not empty: there is {entry:?}; choose another folder, nothing was written",
                    folder.display()
                )
            }
            None => Ok(()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(unusable),
    }
}

fn write_new(path: &Path, bytes: &[u8], permissions: Permissions) -> std::io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.set_permissions(permissions)?;
    // Otherwise a crash could leave an empty file under the name.
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_in_one_step_and_only_if_it_differs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.wasm");
        let inode = || fs::metadata(&path).expect("there").ino();
        replace(&path, b"one", Mode::Public).expect("writable");
        let first = inode();
        replace(&path, b"one", Mode::Public).expect("writable");
        assert_eq!(inode(), first);
        replace(&path, b"two", Mode::Public).expect("writable");
        assert_ne!(inode(), first, "another file took its name");
        assert_eq!(fs::read(&path).expect("there"), b"two");
        let names: Vec<_> = fs::read_dir(folder.path()).expect("readable").collect();
        assert_eq!(names.len(), 1, "nothing is left behind: {names:?}");
    }

    #[test]
    fn a_secret_is_for_its_owner_and_an_existing_file_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.toml");
        assert!(create(&path, b"one", Mode::Private).expect("writable"));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(!create(&path, b"two", Mode::Private).expect("writable"));
        assert_eq!(fs::read(&path).expect("there"), b"one");
    }

    #[test]
    fn a_file_of_somebody_else_is_replaced_in_one_step_and_stays_as_open_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, link) = (folder.path().join("a.toml"), folder.path().join("link.toml"));
        fs::write(&path, "one").expect("writable");
        fs::set_permissions(&path, Permissions::from_mode(0o664)).expect("mine");
        symlink(&path, &link).expect("writable");
        let mut old = File::open(&path).expect("there");
        rewrite(&link, b"two").expect("writable");
        let mut before = String::new();
        old.read_to_string(&mut before).expect("readable");
        assert_eq!(before, "one", "a reader sees one or the other");
        assert_eq!(fs::read(&path).expect("there"), b"two");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o664);
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 2, "nothing is left behind");
    }
}
