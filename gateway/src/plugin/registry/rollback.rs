//! Rolls a plugin back to an earlier version at the request of an operator.

use std::sync::Arc;
use std::time::Instant;

use super::plugin_file::{Contents, Digest};
use super::state::State;
use super::status::PluginState;
use super::{Applied, Registry};
use crate::plugin::load::LoadError;

/// Fewest digits of a digest that select a version.
const DIGITS_MIN: usize = 6;

/// Result of a rollback.
#[derive(Debug, Clone)]
pub struct RolledBack {
    /// The plugin.
    pub name: Arc<str>,
    /// [`RolledBack`](PluginState::RolledBack), or [`Live`](PluginState::Live) if it is the version in the
    /// folder again.
    pub state: PluginState,
    /// Digest of the version that runs now.
    pub digest: Digest,
    /// The version stamped into its binary.
    pub version: Option<Box<str>>,
    /// Digest of the version that ran before.
    pub replaced: Option<Digest>,
    /// The chain.
    pub applied: Applied,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    /// No such plugin ever ran.
    #[error("there is no plugin `{0}`; /api/plugins lists all plugins")]
    Unknown(Box<str>),
    /// Its file was removed, so there is no version to replace.
    #[error("the file of `{0}` was removed from the plugin folder; restore it first")]
    NotInFolder(Box<str>),
    /// The oldest kept version already runs.
    #[error("no earlier version of `{0}` is kept")]
    NoEarlier(Box<str>),
    /// The digest matches no version or several, or is too short.
    #[error(
        "{found} kept versions of `{name}` have a digest that begins with `{to}`; expected one, by at least 6 digits"
    )]
    NotOne {
        /// The plugin.
        name: Box<str>,
        /// The requested digest.
        to: Box<str>,
        /// Number of matches.
        found: usize,
    },
    /// That version already runs.
    #[error("this version of `{0}` runs already")]
    Runs(Box<str>),
    /// The version is kept but no longer loads.
    #[error("the earlier version of `{0}` cannot be loaded: the file {1}")]
    Lost(Box<str>, LoadError),
    /// The chain cannot change for another reason, which the log says.
    #[error("the chain could not be changed; the log says why")]
    Failed,
}

impl Registry {
    /// Replaces the running version of a plugin, with its settings, by an earlier one: the previous version,
    /// or the one whose plugin file has a digest that begins with `to`. It stays until the file in the folder
    /// changes, also after a restart. Compiles nothing that is in the cache.
    ///
    /// Changes are made one after the other: this waits for one that is being prepared.
    ///
    /// # Errors
    ///
    /// If there is no such plugin or no such earlier version, or the version does not load any more.
    pub async fn rollback(&self, name: &str, to: Option<&str>) -> Result<RolledBack, RollbackError> {
        let begin = Instant::now();
        let before = self.state.clone().lock_owned().await;
        let target = target(&before, name, to)?;
        let replaced = before.slot(name).map(|slot| slot.version.digest);
        let mut wished = State::clone(&before);
        let in_folder = before.file_of(name).map(Digest::of);
        if let Some(record) = wished.records.get_mut(name) {
            record.running = Some(target);
            record.pinned_over = in_folder.filter(|in_folder| *in_folder != target);
        }
        let found = before.found.clone().unwrap_or_default();
        let contents = Contents { found, left_out: before.left_out.clone() };
        let prepared = self.prepare(wished, contents).await.ok_or(RollbackError::Failed)?;
        let Some(slot) = prepared.state.slot(name).filter(|slot| slot.version.digest == target) else {
            let lost = prepared.state.lost.into_iter().find(|lost| lost.digest == target);
            return Err(
                lost.map_or(RollbackError::Failed, |lost| RollbackError::Lost(name.into(), lost.error))
            );
        };
        let (name, state) = (slot.version.name.clone(), slot.standing);
        let version = slot.version.factory.about().version.clone();
        let applied = self.install(before, prepared, begin).await;
        Ok(RolledBack { name, state, digest: target, version, replaced, applied })
    }
}

fn target(state: &State, name: &str, to: Option<&str>) -> Result<Digest, RollbackError> {
    let Some(record) = state.records.get(name) else { return Err(RollbackError::Unknown(name.into())) };
    if state.file_of(name).is_none() && state.slot(name).is_none() {
        return Err(RollbackError::NotInFolder(name.into()));
    }
    let target = match to {
        None => record.previous().ok_or_else(|| RollbackError::NoEarlier(name.into()))?,
        Some(to) => {
            let fitting = record.beginning_with(to);
            // The same plugin file with other settings is another version; the newest of these is selected.
            let files = fitting.iter().map(Digest::wasm_hex).collect::<std::collections::BTreeSet<_>>().len();
            let other = fitting.iter().find(|digest| Some(**digest) != record.running);
            match fitting.first() {
                Some(first) if files == 1 && to.len() >= DIGITS_MIN => *other.unwrap_or(first),
                _ => {
                    return Err(RollbackError::NotOne { name: name.into(), to: to.into(), found: files });
                }
            }
        }
    };
    if state.slot(name).is_some_and(|slot| slot.version.digest == target) {
        return Err(RollbackError::Runs(name.into()));
    }
    Ok(target)
}
