//! [`State`]: the live and the refused plugins after the last change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::plugin_file::{Digest, LeftOut, PluginFile, plugin_name};
use super::record::Record;
use super::status::PluginState;
use super::version::Version;
use crate::plugin::counters::PluginCounters;
use crate::plugin::load::LoadError;

/// First and longest pause before a file that took too long to compile is retried.
const AGAIN_MIN: Duration = Duration::from_secs(60);
const AGAIN_MAX: Duration = Duration::from_secs(60 * 60);

/// A version in the chain.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) file: Box<str>,
    pub(super) version: Arc<Version>,
    /// Why this version runs.
    pub(super) standing: PluginState,
    pub(super) generation: u64,
    pub(super) since: SystemTime,
}

/// A file that was refused.
#[derive(Clone)]
pub(super) struct Refused {
    pub(super) name: Arc<str>,
    pub(super) digest: Digest,
    pub(super) error: LoadError,
    pub(super) at: SystemTime,
    /// The next retry, if it took too long.
    pub(super) again: Option<Again>,
}

/// Next retry of a file that took too long to compile. Pauses grow, because every retry takes as long.
#[derive(Clone, Copy)]
pub(super) struct Again {
    pub(super) at: SystemTime,
    pause: Duration,
}

impl Again {
    pub(super) fn after(before: Option<Self>, now: SystemTime) -> Self {
        let pause = before.map_or(AGAIN_MIN, |before| (before.pause * 2).min(AGAIN_MAX));
        Self { at: now + pause, pause }
    }
}

impl Refused {
    /// Whether its next retry is in the future.
    pub(super) fn waits(&self, now: SystemTime) -> bool {
        self.again.is_some_and(|again| now < again.at && now + again.pause >= again.at)
    }

    /// Whether the file is not loaded again at this time.
    pub(super) fn holds(&self, now: SystemTime) -> bool {
        self.error.is_final() || self.waits(now)
    }

    /// Whether its retry is due.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.again.is_some() && !self.waits(now)
    }
}

/// A file of the folder that is being compiled.
#[derive(Clone)]
pub(super) struct Compiling {
    pub(super) file: Box<str>,
    pub(super) name: Arc<str>,
    pub(super) digest: Digest,
    pub(super) since: SystemTime,
}

/// A place in the chain where every event is refused, because the rules of its plugin are unknown.
#[derive(Clone)]
pub(super) struct Closed {
    pub(super) file: Box<str>,
    pub(super) name: Arc<str>,
    pub(super) error: LoadError,
    pub(super) at: SystemTime,
}

/// Live and refused plugins. Replaced as a whole, after the workers got the new chain.
#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) generation: u64,
    /// In chain order.
    pub(super) slots: Vec<Slot>,
    /// By file name.
    pub(super) refused: BTreeMap<Box<str>, Refused>,
    /// In chain order.
    pub(super) closed: Vec<Closed>,
    /// Files and folders that look like plugins but are none.
    pub(super) left_out: Vec<LeftOut>,
    /// By plugin name. Kept for some time after a plugin was removed, so that its counters continue when it
    /// returns.
    pub(super) counters: HashMap<Arc<str>, Arc<PluginCounters>>,
    /// Removal times of plugins that still have counters.
    pub(super) gone: BTreeMap<Arc<str>, SystemTime>,
    /// By plugin name.
    pub(super) records: BTreeMap<Arc<str>, Record>,
    /// The plugin files of the folder; `None` before the first scan.
    pub(super) found: Option<Vec<PluginFile>>,
    /// Kept versions that were wanted and could not be restored.
    pub(super) lost: Vec<Lost>,
    pub(super) compiling: Vec<Compiling>,
}

/// A kept version that was wanted and could not be restored.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) name: Arc<str>,
    pub(super) digest: Digest,
    pub(super) error: LoadError,
}

impl State {
    pub(super) fn slot(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| &*slot.version.name == name)
    }

    /// Whether the place of a file is closed.
    pub(super) fn is_closed(&self, file: &str) -> bool {
        self.closed.iter().any(|closed| &*closed.file == file)
    }

    /// Whether the folder or the chain has a plugin of this name, valid or not.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.slot(name).is_some()
            || self.refused.values().any(|refused| &*refused.name == name)
            || self.closed.iter().any(|closed| &*closed.name == name)
            || self.compiling.iter().any(|compiling| &*compiling.name == name)
    }

    /// Since when a file is being compiled.
    pub(super) fn compiling_since(&self, file: &str) -> Option<SystemTime> {
        self.compiling.iter().find(|compiling| &*compiling.file == file).map(|compiling| compiling.since)
    }

    /// Drops the counters of plugins that were removed before this time. Returns their names.
    pub(super) fn forget(&mut self, before: SystemTime) -> Vec<Arc<str>> {
        let long_gone = self.gone.iter().filter(|(_, since)| **since < before);
        let names: Vec<Arc<str>> = long_gone.map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.gone.remove(name);
            self.counters.remove(name);
        }
        names
    }

    /// The effective file of a plugin: the first of its name.
    pub(super) fn file_of(&self, name: &str) -> Option<&PluginFile> {
        let files = self.found.iter().flatten().filter(|found| plugin_name(&found.file) == Ok(name));
        files.min_by(|a, b| a.file.cmp(&b.file))
    }
}
