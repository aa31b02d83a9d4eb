//! Versions that ran before: when the file in the folder cannot run, the last one goes on, or an earlier one.

use std::io;
use std::sync::Arc;

use tracing::error;

use super::{Candidate, Preparing, Wait};
use crate::plugin::load::{LoadCode, LoadError};
use crate::plugin::registry::plugin_file::{Digest, PluginFile};
use crate::plugin::registry::state::Lost;
use crate::plugin::registry::status::PluginState;

impl Preparing<'_> {
    /// A version that was live before, from the chain or from the archive.
    pub(super) fn recall(
        &mut self,
        name: &Arc<str>,
        file: &str,
        digest: Digest,
        standing: PluginState,
    ) -> Option<Candidate> {
        if let Some(running) = self.running(name, file, digest, standing) {
            return Some(running);
        }
        let archive = self.means.archive?;
        let read = archive.read(&digest).map_err(|error| {
            let message = format!("cannot be read from the state folder: {error}");
            // A missing or damaged file stays so.
            let is_final = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData);
            let error = LoadError::new(LoadCode::Unreadable, message);
            if is_final { error } else { error.passing() }
        });
        let made = read.and_then(|(wasm, settings)| {
            let kept = PluginFile {
                path: file.into(),
                file: file.into(),
                wasm: Ok(wasm),
                settings: settings.map(Ok),
                fresh: false,
            };
            self.make(&kept, name, digest, standing, Wait::ToTheEnd)
        });
        made.map_err(|error| {
            let lost = Lost { name: name.clone(), digest, error };
            // It is retried later.
            if !self.before.lost.contains(&lost) {
                error!(
                    plugin = &**name,
                    digest = digest.short(),
                    code = lost.error.code().as_str(),
                    "failed to load a stored version of a plugin: the file {}",
                    lost.error.message()
                );
            }
            self.state.lost.push(lost);
        })
        .ok()
    }

    /// Keeps the version that ran last, or falls back to the newest earlier one that loads. False if there is
    /// none.
    pub(super) fn fall_back(&mut self, name: &Arc<str>, file: &str, standing: PluginState) -> bool {
        let Some(record) = self.before.records.get(name) else { return false };
        let candidate = record.fallbacks().find_map(|digest| self.recall(name, file, digest, standing));
        let found = candidate.is_some();
        self.candidates.extend(candidate);
        found
    }

    /// The same, but closes the place if there is no version, because the rules of the plugin are unknown.
    pub(super) fn fall_back_or_close(&mut self, name: &Arc<str>, file: &str, standing: PluginState) {
        if self.fall_back(name, file, standing) {
            return;
        }
        let lost = self.state.lost.iter().find(|lost| lost.name == *name);
        let why = lost.map_or("there is no state folder", |lost| lost.error.message());
        let code = lost.map_or(LoadCode::Unreadable, |lost| lost.error.code());
        let message = format!(
            "has an earlier version that should run but cannot be loaded: it {why}; go back to another one \
             (/api/plugin_rollback), or put another file there"
        );
        self.close(file, name, &LoadError::new(code, message), None);
    }
}
