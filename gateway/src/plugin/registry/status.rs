//! [`PluginStatus`]: the state of a plugin as operators see it.

use std::sync::Arc;
use std::time::SystemTime;

use super::plugin_file::Digest;
use super::record::Kept;
use crate::plugin::breaker::{Hold, Position};
use crate::plugin::counters::Counts;
use crate::plugin::grants::Grants;
use crate::plugin::load::{About, LoadCode, LoadError};

/// Current state of one plugin.
#[derive(Debug, Clone)]
pub struct PluginStatus {
    /// Its name; for a file without a usable name the file name.
    pub name: Arc<str>,
    /// Its file.
    pub file: Box<str>,
    /// Its place in the chain, from 0; `None` if it is not in the chain.
    pub order: Option<usize>,
    /// Which version runs.
    pub state: PluginState,
    /// The running version.
    pub live: Option<LiveVersion>,
    /// Since when the file in the folder is being compiled. What ran before runs meanwhile.
    pub compiling: Option<SystemTime>,
    /// The error of the file in the folder, until a valid file replaces it.
    pub last_error: Option<LastError>,
    /// Versions available for a rollback, the newest first.
    pub kept: Vec<Kept>,
    /// Counters since its first load.
    pub counts: Counts,
}

/// Which version of a plugin runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginState {
    /// The version in the folder runs.
    Live,
    /// The version in the folder was refused, an earlier one runs.
    LiveOlder,
    /// The version in the folder is being compiled. The version before it runs meanwhile, if there is one.
    Compiling,
    /// The version in the folder was refused and nothing runs.
    Refused,
    /// The file was refused at the start. Its rules are unknown, so every event at its place is refused.
    Closed,
    /// An operator rolled back to an earlier version, which runs until the file in the folder changes.
    RolledBack,
    /// Its file was removed from the folder, and its last version keeps running because of the configuration.
    RemovedKept,
    /// Its file was removed from the folder.
    Removed,
}

impl PluginState {
    /// The name in logs, metrics and on the admin page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::LiveOlder => "live-older",
            Self::Compiling => "compiling",
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::RolledBack => "rolled-back",
            Self::RemovedKept => "removed-kept",
            Self::Removed => "removed",
        }
    }
}

/// A running version.
#[derive(Debug, Clone)]
pub struct LiveVersion {
    /// Metadata of the binary.
    pub about: About,
    /// The grants of its settings file.
    pub grants: Grants,
    /// State of its breaker.
    pub breaker: Position,
    /// Override of the breaker by an operator.
    pub breaker_held: Hold,
    /// Digest of the plugin file and its settings.
    pub digest: Digest,
    /// Generation of the chain with which it became live.
    pub generation: u64,
    /// When it became live.
    pub since: SystemTime,
}

/// A place in the chain where every event is refused, because its file could not be loaded at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedPlace {
    /// The file.
    pub file: Box<str>,
    /// Why it is not loaded, and since when.
    pub error: LastError,
}

/// A file or folder that looks like a plugin but is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOutStatus {
    /// Its name within the folder.
    pub file: Box<str>,
    /// The class.
    pub code: LoadCode,
    /// The message, continuing "the file ...".
    pub message: Box<str>,
    /// Whether a place is closed because of it.
    pub closes: bool,
}

/// The last refusal of a plugin's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// The class.
    pub code: LoadCode,
    /// The message, continuing "the file ...".
    pub message: Box<str>,
    /// When it was refused.
    pub at: SystemTime,
    /// Digest of the refused files; `None` if there was nothing to read.
    pub digest: Option<Digest>,
}

impl LastError {
    pub(super) fn new(error: &LoadError, at: SystemTime, digest: Option<Digest>) -> Self {
        Self { code: error.code(), message: error.message().into(), at, digest }
    }
}
