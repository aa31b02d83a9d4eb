//! Logs the changes of a reload.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::state::{Slot, State};
use super::status::PluginState;
use crate::plugin::load::Code;

/// Explains a closed place.
const CLOSED: &str = "its rules are unknown, so the gateway refuses the events of its place and is not ready, until the file \
                      is fixed, or removed together with its settings";

/// Logs a refused file.
pub(super) fn refusal(file: &str, state: &State) {
    let Some(refused) = state.refused.get(file) else { return };
    let serving = state.slot(&refused.name).is_some_and(|slot| &*slot.file == file);
    let consequence = if serving {
        "its last good version keeps running"
    } else if state.is_closed(file) {
        CLOSED
    } else {
        "it is not used"
    };
    error!(
        file,
        code = refused.error.code().as_str(),
        digest = refused.digest.short(),
        "plugin refused: the file {}; {consequence}",
        refused.error.message()
    );
}

/// Logs the change of each plugin; `took` if there is a new chain.
pub(super) fn change(before: &State, now: &State, took: Option<Duration>) {
    for slot in &now.slots {
        let version = &slot.version;
        let about = version.factory.about();
        match before.slot(&version.name) {
            Some(old) if Arc::ptr_eq(&old.version, version) => {}
            old => info!(
                plugin = &*version.name,
                file = &*slot.file,
                version = about.version.as_deref().unwrap_or("unknown"),
                hooks = about.hooks.names().collect::<Vec<_>>().join(","),
                state = slot.standing.as_str(),
                digest = version.digest.short(),
                replaces = old.map(|old| old.version.digest.short()),
                compiled = version.factory.code() == Code::Compiled,
                took_ms = version.took.as_millis() as u64,
                generation = now.generation,
                "plugin live"
            ),
        }
    }
    for slot in &now.slots {
        standing(before, slot, now);
    }
    for closed in &now.closed {
        // For a refused file, the refusal has already been logged.
        if !before.is_closed(&closed.file) && !now.refused.contains_key(&closed.file) {
            let (file, code) = (&*closed.file, closed.error.code().as_str());
            error!(file, code, "plugin missing: the file {}; {CLOSED}", closed.error.message());
        }
    }
    for closed in &before.closed {
        if !now.is_closed(&closed.file) {
            info!(file = &*closed.file, "place in the chain no longer closed");
        }
    }
    for (name, record) in &before.records {
        // A plugin that ran before this process counts too.
        let ran = before.slot(name).is_some() || before.found.is_none() && record.running.is_some();
        if ran && now.slot(name).is_none() {
            let (plugin, file, generation) = (&**name, &*record.file, now.generation);
            if now.records.get(name).is_some_and(|record| record.running.is_some()) {
                error!(
                    plugin,
                    file,
                    generation,
                    "plugin left the chain: its file is not used, and no earlier version loads"
                );
            } else {
                info!(plugin, file, generation, "plugin left the chain: its file was removed");
            }
        }
    }
    if let Some(took) = took {
        let live = now.slots.iter().map(|slot| (&slot.file, slot.version.name.to_string()));
        let closed = now.closed.iter().map(|closed| (&closed.file, format!("{} (closed)", closed.name)));
        let mut places: Vec<_> = live.chain(closed).collect();
        places.sort();
        let chain = places.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(" > ");
        info!(generation = now.generation, chain, took_ms = took.as_millis() as u64, "plugin chain swapped");
    }
}

/// Logs that a plugin now differs from the file in the folder.
fn standing(before: &State, slot: &Slot, now: &State) {
    let (plugin, file, digest) = (&*slot.version.name, &*slot.file, slot.version.digest.short());
    let old = before.slot(plugin).map(|old| (old.standing, old.version.digest));
    if old == Some((slot.standing, slot.version.digest)) {
        return;
    }
    match slot.standing {
        PluginState::RolledBack => {
            let in_folder = now.records.get(plugin).and_then(|record| record.pinned_over);
            warn!(
                plugin,
                file,
                digest,
                in_folder = in_folder.map(|digest| digest.short()),
                "plugin rolled back: an earlier version runs until the file in the folder changes"
            );
        }
        PluginState::RemovedKept => warn!(
            plugin,
            file,
            digest,
            "plugin file removed; its last version keeps running because of plugins.on_removal or plugins.required"
        ),
        _ => {}
    }
}
