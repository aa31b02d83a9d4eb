//! [`PluginStatus`]: the state of a plugin as operators see it.

use std::sync::Arc;
use std::time::SystemTime;

use super::plugin_file::Digest;
use super::record::Kept;
use crate::plugin::breaker::{Hold, Position};
use crate::plugin::counters::Counts;
use crate::plugin::grants::Grants;
use crate::plugin::load::{About, LoadCode, LoadError};

/// One plugin, as it is now.
#[derive(Debug, Clone)]
pub struct PluginStatus {
    /// Its name; for a file without a usable name the file name.
    pub name: Arc<str>,
    /// The file it comes from.
    pub file: Box<str>,
    /// Its place in the chain, from 0; `None` if it is not in the chain.
    pub order: Option<usize>,
    /// Whether it runs.
    pub state: PluginState,
    /// The version that runs.
    pub live: Option<LiveVersion>,
    /// Why the file in the folder was refused, until a good one takes its place.
    pub last_error: Option<LastError>,
    /// The versions that can be gone back to, the latest first.
    pub kept: Vec<Kept>,
    /// What it did since its first load.
    pub counts: Counts,
}

/// Whether a plugin runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginState {
    /// The version in the folder runs.
    Live,
    /// The version in the folder was refused, an earlier one runs.
    LiveOlder,
    /// The version in the folder was refused and nothing runs.
    Refused,
    /// The same at a start: what the file would have refused is not known, so every event that comes to its place is.
    Closed,
    /// An operator went back to an earlier version, which runs until the file in the folder changes.
    RolledBack,
    /// Its file was taken out of the folder, and its last version runs on because the configuration says so.
    RemovedKept,
    /// Its file was taken out of the folder.
    Removed,
}

impl PluginState {
    /// The word for it in logs, metrics and on the admin page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::LiveOlder => "live-older",
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::RolledBack => "rolled-back",
            Self::RemovedKept => "removed-kept",
            Self::Removed => "removed",
        }
    }
}

/// A version that runs.
#[derive(Debug, Clone)]
pub struct LiveVersion {
    /// What the binary says of itself.
    pub about: About,
    /// What its settings file grants.
    pub grants: Grants,
    /// Whether its breaker lets events through.
    pub breaker: Position,
    /// What an operator has set the breaker to.
    pub breaker_held: Hold,
    /// Of the plugin file and its settings.
    pub digest: Digest,
    /// The chain with which it became live.
    pub generation: u64,
    /// When.
    pub since: SystemTime,
}

/// A place in the chain where every event is refused, because a file that should be there could not be loaded at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedPlace {
    /// The file.
    pub file: Box<str>,
    /// Why it is not loaded, and since when.
    pub error: LastError,
}

/// Something in the folder that was meant to be a plugin and is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOutStatus {
    /// Its name within the folder.
    pub file: Box<str>,
    /// The class.
    pub code: LoadCode,
    /// In words, continuing "the file ...".
    pub message: Box<str>,
    /// Whether events are refused because of it.
    pub closes: bool,
}

/// The last refusal of a plugin's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// The class.
    pub code: LoadCode,
    /// In words, continuing "the file ...".
    pub message: Box<str>,
    /// When.
    pub at: SystemTime,
}

impl LastError {
    pub(super) fn new(error: &LoadError, at: SystemTime) -> Self {
        Self { code: error.code(), message: error.message().into(), at }
    }
}
