//! [`Record`]: the versions of a plugin that were live, the one that runs, and whether an operator chose it.

use std::time::{Duration, SystemTime};

use super::plugin_file::Digest;

/// Versions kept of one plugin.
pub const VERSIONS_KEPT: usize = 5;

/// History of one plugin. Survives a restart if there is an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its last file.
    pub file: Box<str>,
    /// The version that runs, or that should run once it can be restored; `None` once its file was removed.
    pub running: Option<Digest>,
    /// The version in the folder that an operator rejected with a rollback to `running`. Another file in the
    /// folder ends that.
    pub pinned_over: Option<Digest>,
    /// Versions that became live from the folder, the newest first.
    pub versions: Vec<Kept>,
}

/// A version that was live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Digest of the plugin file and its settings.
    pub digest: Digest,
    /// The version stamped into the binary.
    pub version: Option<Box<str>>,
    /// When it became live, in whole seconds.
    pub since: SystemTime,
}

impl Record {
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.into(), running: None, pinned_over: None, versions: Vec::new() }
    }

    /// Whether an operator has replaced this file with an earlier version.
    pub(super) fn is_pinned_over(&self, in_folder: Digest) -> bool {
        self.running.is_some() && self.pinned_over == Some(in_folder)
    }

    /// Records that a version from the folder is live.
    pub(super) fn became_live(&mut self, digest: Digest, version: Option<&str>, now: SystemTime) {
        self.versions.retain(|kept| kept.digest != digest);
        let since = at_seconds(seconds(now)).unwrap_or(now);
        self.versions.insert(0, Kept { digest, version: version.map(Into::into), since });
        self.versions.truncate(VERSIONS_KEPT);
    }

    /// Versions to fall back to: the one that ran, then those that were live before it. An operator has
    /// rejected those after it.
    pub(super) fn fallbacks(&self) -> impl Iterator<Item = Digest> {
        self.running.into_iter().chain(self.earlier().iter().map(|kept| kept.digest))
    }

    /// The versions that were live before the one that runs.
    fn earlier(&self) -> &[Kept] {
        let running = self.versions.iter().position(|kept| Some(kept.digest) == self.running);
        &self.versions[running.map_or(0, |running| running + 1)..]
    }

    /// The target of a rollback: the version that was live before the running one.
    pub(super) fn previous(&self) -> Option<Digest> {
        self.earlier().first().map(|kept| kept.digest)
    }

    /// Kept versions whose plugin file has a digest with this prefix.
    pub(super) fn beginning_with(&self, hex: &str) -> Vec<Digest> {
        let digests = self.versions.iter().map(|kept| kept.digest);
        digests.filter(|digest| digest.wasm_hex().starts_with(&hex.to_ascii_lowercase())).collect()
    }
}

/// The time this many seconds after 1970, if it can be represented.
pub fn at_seconds(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
