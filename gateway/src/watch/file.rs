//! One file of the plugin folder: whether it is the same as before, whether it may be trusted, and its bytes.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use rustix::fs::OFlags;

use crate::plugin::load::{LoadCode, LoadError};

/// Changes when the file changes, or whether it may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    length: u64,
    modified: Option<SystemTime>,
    /// Device, inode and, in nanoseconds, the last change of anything about the file: catches a write of the same length
    /// within the resolution of the modification time, and a file that took another's place.
    identity: (u64, u64, i64),
    mistrust: Option<Mistrust>,
}

/// Why a file is not taken for a plugin: somebody else could have put it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mistrust {
    /// The folder belongs to this user.
    FolderOf(u32),
    /// Everybody may put files into the folder.
    OpenFolder,
    /// The file belongs to this user.
    FileOf(u32),
    /// Everybody may write to the file.
    OpenFile,
}

impl Mistrust {
    /// Of the folder. `user` is the gateway's.
    pub(super) fn of_folder(metadata: &Metadata, user: u32) -> Option<Self> {
        Self::of(metadata.uid(), metadata.mode(), user, (Self::FolderOf, Self::OpenFolder))
    }

    /// Of a file in it.
    pub(super) fn of_file(metadata: &Metadata, user: u32) -> Option<Self> {
        Self::of(metadata.uid(), metadata.mode(), user, (Self::FileOf, Self::OpenFile))
    }

    /// A group that may write is the operator's choice, everybody is not.
    fn of(owner: u32, mode: u32, user: u32, (foreign, open): (fn(u32) -> Self, Self)) -> Option<Self> {
        if owner != user && owner != 0 { Some(foreign(owner)) } else { (mode & 0o002 != 0).then_some(open) }
    }

    /// With the command that helps.
    pub(super) fn error(self, folder: &Path, file: &str) -> LoadError {
        let (folder, path) = (folder.display(), folder.join(file));
        let path = path.display();
        let sentence = match self {
            Self::FolderOf(owner) => format!(
                "lies in a folder that belongs to user {owner}, who could exchange it; chown {folder} to the gateway's user or \
                 root, or set plugins.check_owner = false"
            ),
            Self::OpenFolder => format!(
                "lies in a folder that every user may write to; run: chmod o-w {folder} (or set plugins.check_owner = false)"
            ),
            Self::FileOf(owner) => format!(
                "belongs to user {owner}; chown {path} to the gateway's user or root, or set plugins.check_owner = false"
            ),
            Self::OpenFile => format!(
                "may be written to by every user; run: chmod o-w {path} (or set plugins.check_owner = false)"
            ),
        };
        LoadError::new(LoadCode::Untrusted, sentence)
    }
}

impl Fingerprint {
    pub(super) fn of(metadata: &Metadata, mistrust: Option<Mistrust>) -> Self {
        let changed = metadata.ctime().wrapping_mul(1_000_000_000).wrapping_add(metadata.ctime_nsec());
        let identity = (metadata.dev(), metadata.ino(), changed);
        Self { length: metadata.len(), modified: metadata.modified().ok(), identity, mistrust }
    }

    pub(super) fn mistrust(&self) -> Option<Mistrust> {
        self.mistrust
    }

    fn is_of(&self, metadata: &Metadata) -> bool {
        metadata.is_file() && Self::of(metadata, self.mistrust) == *self
    }
}

/// Reads a file that must still be the one with this fingerprint, before and after; `None` if it is not. `root` is the
/// folder with all links resolved.
pub(super) fn read(
    root: &Path,
    name: &str,
    expected: Fingerprint,
    bytes_max: u64,
) -> Option<Result<Bytes, LoadError>> {
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
    let is_expected = |file: &File| file.metadata().is_ok_and(|metadata| expected.is_of(&metadata));
    let file = match open(root, name) {
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

/// Opens a file without following a link that was put there since it was judged, and without waiting: a pipe in the file's
/// place would wait for a writer.
fn open(root: &Path, name: &str) -> io::Result<File> {
    // A link within the folder is allowed: where it leads to is opened, by a path that has no links left.
    let target = root.join(name).canonicalize()?;
    let Ok(beneath) = target.strip_prefix(root) else { return Err(io::ErrorKind::NotFound.into()) };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{Mode, ResolveFlags, openat2};
        let folder = File::open(root)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&folder, beneath, flags, Mode::empty(), resolve) {
            Ok(file) => return Ok(file.into()),
            // A kernel or a sandbox without this call: the last part of the path is still not followed.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {}
            // Something in the path became a link meanwhile: the next look judges it.
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::XDEV) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    std::fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(root.join(beneath))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_trusted_by_owner_and_mode() {
        let of = |owner, mode| Mistrust::of(owner, mode, 1000, (Mistrust::FileOf, Mistrust::OpenFile));
        assert_eq!(of(1000, 0o644), None);
        assert_eq!(of(0, 0o644), None, "root may");
        assert_eq!(of(1000, 0o664), None, "a group is the operator's choice");
        assert_eq!(of(1001, 0o644), Some(Mistrust::FileOf(1001)));
        assert_eq!(of(1000, 0o666), Some(Mistrust::OpenFile));
        assert_eq!(of(0, 0o646), Some(Mistrust::OpenFile));
    }

    #[test]
    fn a_link_that_took_a_files_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (inside, outside) = (root.join("plugins"), root.join("outside"));
        for folder in [&inside, &outside] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("x.wasm"), "x").unwrap();
        }
        let seen = Fingerprint::of(&fs::metadata(inside.join("x.wasm")).unwrap(), None);
        assert_eq!(read(&inside, "x.wasm", seen, 10).unwrap().unwrap(), "x");
        fs::remove_file(inside.join("x.wasm")).unwrap();
        symlink(outside.join("x.wasm"), inside.join("x.wasm")).unwrap();
        assert!(read(&inside, "x.wasm", seen, 10).is_none());
        let theirs = Fingerprint::of(&fs::metadata(outside.join("x.wasm")).unwrap(), None);
        assert!(read(&inside, "x.wasm", theirs, 10).is_none(), "even if it is what was judged");
    }

    #[test]
    fn a_pipe_that_took_a_files_place_does_not_make_the_reader_wait() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::write(root.join("x.wasm"), "x").unwrap();
        let seen = Fingerprint::of(&fs::metadata(root.join("x.wasm")).unwrap(), None);
        fs::remove_file(root.join("x.wasm")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(root.join("x.wasm")).status().unwrap().success());
        assert!(read(&root, "x.wasm", seen, 10).is_none());
    }
}
