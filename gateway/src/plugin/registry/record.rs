//! [`Record`]: the versions of a plugin that were live, the one that runs, and whether an operator chose it.

use std::time::{Duration, SystemTime};

use super::plugin_file::Digest;

/// Versions of one plugin that are kept.
pub const VERSIONS_KEPT: usize = 5;

/// One plugin's past, as far as it is kept. Survives a restart if there is an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The file it came from last.
    pub file: Box<str>,
    /// The version that runs, or is to run as soon as it can be brought back; `None` once its file was taken out.
    pub running: Option<Digest>,
    /// What lies in the folder and is not wanted: an operator went back to `running` while this was the file there.
    /// Another file ends that.
    pub pinned_over: Option<Digest>,
    /// Those that became live from the folder, the latest first.
    pub versions: Vec<Kept>,
}

/// A version that was live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Of the plugin file and its settings.
    pub digest: Digest,
    /// What the binary says of itself.
    pub version: Option<Box<str>>,
    /// When it became live, in whole seconds.
    pub since: SystemTime,
}

impl Record {
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.into(), running: None, pinned_over: None, versions: Vec::new() }
    }

    /// Whether an operator wants an earlier version to run instead of this file.
    pub(super) fn is_pinned_over(&self, in_folder: Digest) -> bool {
        self.running.is_some() && self.pinned_over == Some(in_folder)
    }

    /// A version from the folder is live.
    pub(super) fn became_live(&mut self, digest: Digest, version: Option<&str>, now: SystemTime) {
        self.versions.retain(|kept| kept.digest != digest);
        let since = at_seconds(seconds(now)).unwrap_or(now);
        self.versions.insert(0, Kept { digest, version: version.map(Into::into), since });
        self.versions.truncate(VERSIONS_KEPT);
    }

    /// The versions to fall back to: the one that ran, and then those that were live before it. What was live after it an
    /// operator turned away.
    pub(super) fn fallbacks(&self) -> impl Iterator<Item = Digest> {
        self.running.into_iter().chain(self.earlier().iter().map(|kept| kept.digest))
    }

    /// The versions that were live before the one that runs.
    fn earlier(&self) -> &[Kept] {
        let running = self.versions.iter().position(|kept| Some(kept.digest) == self.running);
        &self.versions[running.map_or(0, |running| running + 1)..]
    }

    /// The version to go back to: the one that was live before the one that runs.
    pub(super) fn previous(&self) -> Option<Digest> {
        self.earlier().first().map(|kept| kept.digest)
    }

    /// The kept versions whose plugin file has a digest that begins like this.
    pub(super) fn beginning_with(&self, hex: &str) -> Vec<Digest> {
        let digests = self.versions.iter().map(|kept| kept.digest);
        digests.filter(|digest| digest.wasm_hex().starts_with(&hex.to_ascii_lowercase())).collect()
    }
}

/// The time this many seconds after 1970, if there is one.
pub fn at_seconds(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
