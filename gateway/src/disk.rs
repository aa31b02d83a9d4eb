//! [`StateFolder`] holds the files that survive a restart. All of them can be rebuilt, except earlier
//! versions of plugins, events for upstreams that were not delivered yet, and revocations without Redis.
//!
//! The file `revocations` holds the revoked tokens and blocked users (`revocation/keep.rs`).
//! `versions` and `manifests` hold the versions of plugins that were live. `artifacts` holds compiled
//! plugins, which are machine code: so the folder belongs to this gateway alone, and a file in it that
//! another user could have written is never used. One gateway at a time holds the folder, by a lock that ends
//! with the process.

mod artifacts;
pub(crate) mod files;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

pub use artifacts::Artifacts;

const LOCK: &str = "lock";
const ARTIFACTS: &str = "artifacts";
const MANIFESTS: &str = "manifests";
const UPSTREAMS: &str = "upstreams";
const VERSIONS: &str = "versions";

/// A state folder that only this process uses until the value is dropped.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    /// Locked.
    _lock: File,
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the state folder {path}: {why}", path = path.display())]
pub struct StateFolderError {
    path: PathBuf,
    why: String,
}

impl StateFolder {
    /// Opens the folder, creating it for this user only if it is missing.
    ///
    /// # Errors
    ///
    /// If it is the plugin folder, if it cannot be created or written, if other users may write to it, or if
    /// another process uses it.
    pub fn open(path: &Path, plugin_folder: &Path) -> Result<Self, StateFolderError> {
        let failed = |why: String| StateFolderError { path: path.to_owned(), why };
        create(path).map_err(|error| {
            failed(format!(
                "it cannot be made: {error}; let the gateway's user write there, or set `plugins.state_folder` to a place \
                 where it can"
            ))
        })?;
        let resolved = path.canonicalize().map_err(|error| failed(error.to_string()))?;
        if plugin_folder.canonicalize().is_ok_and(|plugins| plugins == resolved) {
            return Err(failed(
                "it is the plugin folder; set `plugins.state_folder` to a separate folder".into(),
            ));
        }
        let metadata = fs::metadata(&resolved).map_err(|error| failed(error.to_string()))?;
        if let Some(why) = files::mistrust(&metadata) {
            return Err(failed(format!(
                "{why}; `chown` it to the gateway's user and `chmod 700 {}`",
                path.display()
            )));
        }
        let lock = lock(&resolved.join(LOCK)).map_err(failed)?;
        for part in [ARTIFACTS, MANIFESTS, UPSTREAMS, VERSIONS] {
            create(&resolved.join(part)).map_err(|error| failed(format!("it cannot be written: {error}")))?;
        }
        Ok(Self { path: resolved, _lock: lock })
    }

    /// The folder itself: what is not about plugins has a file of its own in it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folder of the plugins' manifests: one file for each, which names its versions.
    pub fn manifests(&self) -> PathBuf {
        self.path.join(MANIFESTS)
    }

    /// Folder of the earlier versions of plugins, named by their digests.
    pub fn versions(&self) -> PathBuf {
        self.path.join(VERSIONS)
    }

    /// Folder of the events that no upstream has accepted yet.
    pub fn upstreams(&self) -> PathBuf {
        self.path.join(UPSTREAMS)
    }

    /// The cache of compiled plugins.
    pub fn artifacts(&self) -> Artifacts {
        Artifacts::new(self.path.join(ARTIFACTS))
    }
}

/// Creates missing folders for this user only.
fn create(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn lock(path: &Path) -> Result<File, String> {
    let file = files::open_private(path).map_err(|error| format!("it cannot be written: {error}"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err("another gateway uses it; give each gateway its own `plugins.state_folder`".into())
        }
        // The file system has no locks: the operator must ensure that only one gateway uses the folder.
        Err(error) => {
            tracing::warn!(%error, "failed to lock the state folder; make sure that no other gateway uses it");
            Ok(file)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_missing_folder_is_made_for_this_user_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state");
        let _state = StateFolder::open(&path, dir.path()).unwrap();
        assert_eq!((mode(&path), mode(&path.join(ARTIFACTS))), (0o700, 0o700));
        assert_eq!(mode(&path.join(LOCK)), 0o600);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = StateFolder::open(&dir.path().join("file/state"), dir.path()).unwrap_err().to_string();
        assert!(error.contains("file/state: it cannot be made: "), "{error}");
        assert!(error.contains("set `plugins.state_folder`"), "{error}");
    }

    #[test]
    fn the_plugin_folder_is_no_state_folder() {
        let dir = tempfile::tempdir().unwrap();
        let error = StateFolder::open(&dir.path().join("."), dir.path()).unwrap_err().to_string();
        assert!(error.contains("it is the plugin folder"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_with_the_command_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::create_dir(&path).unwrap();
        for open in [0o777, 0o770] {
            fs::set_permissions(&path, Permissions::from_mode(open)).unwrap();
            let error = StateFolder::open(&path, dir.path()).unwrap_err().to_string();
            assert!(error.contains("may be written to by others"), "{error}");
            assert!(error.contains(&format!("chmod 700 {}", path.display())), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        StateFolder::open(&path, dir.path()).unwrap();
    }

    #[test]
    fn a_folder_has_one_gateway_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateFolder::open(&path, dir.path()).unwrap();
        let error = StateFolder::open(&path, dir.path()).unwrap_err().to_string();
        assert!(error.contains("another gateway uses it"), "{error}");
        drop(first);
        StateFolder::open(&path, dir.path()).unwrap();
    }
}
