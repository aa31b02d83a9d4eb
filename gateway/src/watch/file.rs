//! `Fingerprint` tells whether a file of the plugin folder has changed; `read` returns its bytes if the file
//! may be trusted.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use rustix::fs::{OFlags, StatVfsMountFlags};

use crate::plugin::load::{LoadCode, LoadError};

/// Identifies the state of a file: changes with the file or with its trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    length: u64,
    modified: Option<SystemTime>,
    /// Device, inode, and time of the last status change in nanoseconds. This detects a write of equal length
    /// within the resolution of the modification time, and a file that replaced another one.
    identity: (u64, u64, i64),
    mistrust: Option<Mistrust>,
}

/// Why a file is not trusted: another user could have put it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mistrust {
    /// The folder belongs to this user.
    FolderOf(u32),
    /// Every user may put files into the folder.
    OpenFolder,
    /// The file belongs to this user.
    FileOf(u32),
    /// Every user may write to the file.
    OpenFile,
}

impl Mistrust {
    /// Checks a folder: the plugin folder, or one below it through which a link leads. `user` is the
    /// gateway's.
    ///
    /// What counts is who can write there. On a read-only mount nobody can, whatever the modes say. A folder
    /// that is a mount point and belongs to root or to us is a volume for this gateway, such as an
    /// `emptyDir`: its mode says nothing about who reaches it. Its files are checked like all others.
    pub(super) fn of_folder(path: &Path, metadata: &Metadata, user: u32) -> Option<Self> {
        let mistrust = Self::of(metadata.uid(), metadata.mode(), user, (Self::FolderOf, Self::OpenFolder))?;
        let harmless = is_read_only(path) || mistrust == Self::OpenFolder && is_mount(path);
        (!harmless).then_some(mistrust)
    }

    /// Checks a file in the folder, by its path without links.
    pub(super) fn of_file(path: &Path, metadata: &Metadata, user: u32) -> Option<Self> {
        let mistrust = Self::of(metadata.uid(), metadata.mode(), user, (Self::FileOf, Self::OpenFile))?;
        (!is_read_only(path)).then_some(mistrust)
    }

    /// Checks a link to a file in the folder: the owner of the link decides where it leads.
    pub(super) fn of_link(folder: &Path, link: &Metadata, user: u32) -> Option<Self> {
        let foreign = link.uid() != user && link.uid() != 0;
        (foreign && !is_read_only(folder)).then(|| Self::FileOf(link.uid()))
    }

    /// Group write permission is the operator's choice; write permission for everybody is refused.
    fn of(owner: u32, mode: u32, user: u32, (foreign, open): (fn(u32) -> Self, Self)) -> Option<Self> {
        if owner != user && owner != 0 { Some(foreign(owner)) } else { (mode & 0o002 != 0).then_some(open) }
    }

    /// The error, with a command that fixes it.
    pub(super) fn error(self, folder: &Path, file: &str) -> LoadError {
        let (folder, path) = (folder.display(), folder.join(file));
        let path = path.display();
        let message = match self {
            Self::FolderOf(owner) => format!(
                "is in a folder that belongs to user {owner}, who could replace it; chown {folder} to the gateway's user or \
                 root, or set plugins.check_owner = false"
            ),
            Self::OpenFolder => format!(
                "is in a folder that every user may write to; run: chmod o-w {folder} (or set plugins.check_owner = false)"
            ),
            Self::FileOf(owner) => format!(
                "belongs to user {owner}; chown {path} to the gateway's user or root, or set plugins.check_owner = false"
            ),
            Self::OpenFile => format!(
                "may be written to by every user; run: chmod o-w {path} (or set plugins.check_owner = false)"
            ),
        };
        LoadError::new(LoadCode::Untrusted, message)
    }
}

impl Fingerprint {
    pub(super) fn of(metadata: &Metadata, mistrust: Option<Mistrust>) -> Self {
        let changed = metadata.ctime().wrapping_mul(1_000_000_000).wrapping_add(metadata.ctime_nsec());
        let identity = (metadata.dev(), metadata.ino(), changed);
        Self { length: metadata.len(), modified: metadata.modified().ok(), identity, mistrust }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn mistrust(&self) -> Option<Mistrust> {
        self.mistrust
    }

    fn is_of(&self, metadata: &Metadata) -> bool {
        metadata.is_file() && Self::of(metadata, self.mistrust) == *self
    }
}

/// Whether the mount of this path is read-only.
fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Whether a folder is a mount point.
#[cfg(target_os = "linux")]
fn is_mount(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let attributes = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS);
    attributes.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(target_os = "linux"))]
fn is_mount(_path: &Path) -> bool {
    false
}

/// The kind of a file, which determines its maximum size.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A plugin of at most this many bytes.
    Plugin(u64),
    /// The settings of a plugin.
    Settings,
}

/// Maximum bytes of a settings file. A parser takes a multiple of it.
const SETTINGS_BYTES_MAX: u64 = 4 << 20;

impl Kind {
    pub(super) fn bytes_max(self) -> u64 {
        match self {
            Self::Plugin(most) => most,
            Self::Settings => SETTINGS_BYTES_MAX,
        }
    }
}

/// Reads a file that must have this fingerprint before and after; `None` if it does not. `root` is the folder
/// with all links resolved.
pub(super) fn read(
    root: &Path,
    name: &str,
    expected: Fingerprint,
    kind: Kind,
) -> Option<Result<Bytes, LoadError>> {
    let most = kind.bytes_max();
    if expected.length > most {
        let what = match kind {
            Kind::Plugin(_) => "a plugin has",
            Kind::Settings => "settings have",
        };
        let message = format!("has {} bytes; {what} at most {most}", expected.length);
        return Some(Err(LoadError::new(LoadCode::TooLarge, message)));
    }
    let unreadable = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            return None;
        }
        let help = if error.kind() == io::ErrorKind::PermissionDenied {
            "the gateway's user needs permission to read it"
        } else {
            "it is read again until it can be"
        };
        Some(Err(LoadError::new(LoadCode::Unreadable, format!("cannot be read: {error}; {help}")).passing()))
    };
    let is_expected = |file: &File| file.metadata().is_ok_and(|metadata| expected.is_of(&metadata));
    let file = match open(root, name) {
        Ok(file) => file,
        Err(error) => return unreadable(error),
    };
    // The opened file may have replaced the checked one.
    if !is_expected(&file) {
        return None;
    }
    let mut bytes = Vec::with_capacity(expected.length as usize);
    if let Err(error) = (&file).take(expected.length + 1).read_to_end(&mut bytes) {
        return unreadable(error);
    }
    (bytes.len() as u64 == expected.length && is_expected(&file)).then(|| Ok(bytes.into()))
}

/// Opens a file without leaving the folder, whatever links were put there since the check, and without
/// waiting: a pipe in its place would wait for a writer.
fn open(root: &Path, name: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{Mode, ResolveFlags, openat2};
        use rustix::io::Errno;
        let folder = File::open(root)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match openat2(&folder, name, flags, Mode::empty(), resolve) {
            Ok(file) => return Ok(file.into()),
            // A link with an absolute path, which may lead back into the folder; or a system without this
            // call.
            Err(Errno::XDEV | Errno::NOSYS | Errno::PERM) => {}
            // A part of the path has become another link: the next scan checks it.
            Err(Errno::LOOP) => return Err(io::ErrorKind::NotFound.into()),
            Err(error) => return Err(error.into()),
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&folder, beneath(root, name)?, flags, Mode::empty(), resolve) {
            Ok(file) => return Ok(file.into()),
            // A kernel or a sandbox without this call: the last part of the path is still not followed.
            Err(Errno::NOSYS | Errno::PERM) => {}
            Err(Errno::LOOP | Errno::XDEV) => return Err(io::ErrorKind::NotFound.into()),
            Err(error) => return Err(error.into()),
        }
    }
    let flags = (flags | OFlags::NOFOLLOW).bits().cast_signed();
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(root.join(beneath(root, name)?))
}

/// Resolves a name within the folder to a path without links.
fn beneath(root: &Path, name: &str) -> io::Result<PathBuf> {
    let target = root.join(name).canonicalize()?;
    target.strip_prefix(root).map(Path::to_owned).map_err(|_| io::ErrorKind::NotFound.into())
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
        assert_eq!(read(&inside, "x.wasm", seen, Kind::Plugin(10)).unwrap().unwrap(), "x");
        fs::remove_file(inside.join("x.wasm")).unwrap();
        symlink(outside.join("x.wasm"), inside.join("x.wasm")).unwrap();
        assert!(read(&inside, "x.wasm", seen, Kind::Plugin(10)).is_none());
        let theirs = Fingerprint::of(&fs::metadata(outside.join("x.wasm")).unwrap(), None);
        assert!(read(&inside, "x.wasm", theirs, Kind::Plugin(10)).is_none(), "even if it is what was judged");
    }

    #[test]
    fn a_pipe_that_took_a_files_place_does_not_make_the_reader_wait() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::write(root.join("x.wasm"), "x").unwrap();
        let seen = Fingerprint::of(&fs::metadata(root.join("x.wasm")).unwrap(), None);
        fs::remove_file(root.join("x.wasm")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(root.join("x.wasm")).status().unwrap().success());
        assert!(read(&root, "x.wasm", seen, Kind::Plugin(10)).is_none());
    }
}
