//! [`PluginStatus`]: the state of a plugin as operators see it.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use super::Registry;
use super::plugin_file::{Digest, LeftOut};
use super::record::Kept;
use super::state::{Closed, Slot};
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

impl Registry {
    /// Closed places, in the order of the chain. Each belongs to a file that was there at the start, could
    /// not be loaded, and whose settings do not permit events without it: every event at this place is
    /// refused.
    pub fn closed(&self) -> Vec<ClosedPlace> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |closed: &Closed| ClosedPlace {
            file: closed.file.clone(),
            error: LastError::new(&closed.error, closed.at, None),
        };
        published.state.closed.iter().map(place).collect()
    }

    /// Files in the folder that look like plugins but are none.
    pub fn left_out(&self) -> Vec<LeftOutStatus> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |left: &LeftOut| LeftOutStatus {
            file: left.file.clone(),
            code: left.error.code(),
            message: left.error.message().into(),
            closes: published.state.is_closed(&left.file),
        };
        published.state.left_out.iter().filter(|left| !left.fresh).map(status).collect()
    }

    /// Required plugins that do not run, each with the error of its file, if there is one.
    pub fn missing(&self) -> Vec<(Box<str>, Option<ClosedPlace>)> {
        let closed = self.closed();
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &published.state;
        let missing = self.required.iter().filter(|name| state.slot(name).is_none());
        let why = |name: &str| {
            let refused = state.refused.iter().find(|(_, refused)| &*refused.name == name);
            let refused = refused.map(|(file, refused)| ClosedPlace {
                file: file.clone(),
                error: LastError::new(&refused.error, refused.at, Some(refused.digest)),
            });
            let place = state.closed.iter().position(|closed| &*closed.name == name);
            refused.or_else(|| place.map(|place| closed[place].clone()))
        };
        missing.map(|name| (name.clone(), why(name))).collect()
    }

    /// Every plugin of the folder in the order of the chain, then those that are not live.
    pub fn status(&self) -> Vec<PluginStatus> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &published.state;
        let counts =
            |name: &str| state.counters.get(name).map(|counters| counters.read()).unwrap_or_default();
        let kept =
            |name: &str| state.records.get(name).map(|record| record.versions.clone()).unwrap_or_default();
        let live = |slot: &Slot| LiveVersion {
            about: slot.version.factory.about().clone(),
            grants: slot.version.grants.clone(),
            breaker: slot.version.breaker.position(),
            breaker_held: slot.version.breaker.held(),
            digest: slot.version.digest,
            generation: slot.generation,
            since: slot.since,
        };
        let slots = state.slots.iter().enumerate().map(|(order, slot)| {
            let refused = state.refused.get(&slot.file);
            PluginStatus {
                name: slot.version.name.clone(),
                file: slot.file.clone(),
                order: Some(order),
                state: slot.standing,
                live: Some(live(slot)),
                compiling: state.compiling_since(&slot.file),
                last_error: refused
                    .map(|refused| LastError::new(&refused.error, refused.at, Some(refused.digest))),
                kept: kept(&slot.version.name),
                counts: counts(&slot.version.name),
            }
        });
        let serving: BTreeSet<&str> = state.slots.iter().map(|slot| &*slot.file).collect();
        let refused = state.refused.iter().filter(|(file, _)| !serving.contains(&***file));
        let refused = refused.map(|(file, refused)| PluginStatus {
            name: refused.name.clone(),
            file: file.clone(),
            order: None,
            state: match state.compiling_since(file) {
                _ if state.is_closed(file) => PluginState::Closed,
                Some(_) => PluginState::Compiling,
                None => PluginState::Refused,
            },
            live: None,
            compiling: state.compiling_since(file),
            last_error: Some(LastError::new(&refused.error, refused.at, Some(refused.digest))),
            kept: if state.slot(&refused.name).is_none() { kept(&refused.name) } else { Vec::new() },
            // A second file of the same name has no counters.
            counts: if state.slot(&refused.name).is_none() {
                counts(&refused.name)
            } else {
                Default::default()
            },
        });
        let closed = state.closed.iter().filter(|closed| !state.refused.contains_key(&closed.file));
        let closed = closed.map(|closed| PluginStatus {
            name: closed.name.clone(),
            file: closed.file.clone(),
            order: None,
            state: PluginState::Closed,
            live: None,
            compiling: state.compiling_since(&closed.file),
            last_error: Some(LastError::new(&closed.error, closed.at, None)),
            kept: kept(&closed.name),
            counts: counts(&closed.name),
        });
        let first = state.compiling.iter().filter(|compiling| {
            let file = &compiling.file;
            !serving.contains(&**file) && !state.refused.contains_key(file) && !state.is_closed(file)
        });
        let first = first.map(|compiling| PluginStatus {
            name: compiling.name.clone(),
            file: compiling.file.clone(),
            order: None,
            state: PluginState::Compiling,
            live: None,
            compiling: Some(compiling.since),
            last_error: None,
            kept: kept(&compiling.name),
            counts: counts(&compiling.name),
        });
        let removed = published.removed.iter().map(|slot| PluginStatus {
            name: slot.version.name.clone(),
            file: slot.file.clone(),
            order: None,
            state: PluginState::Removed,
            live: None,
            compiling: None,
            last_error: None,
            kept: kept(&slot.version.name),
            counts: counts(&slot.version.name),
        });
        slots.chain(refused).chain(closed).chain(first).chain(removed).collect()
    }
}
