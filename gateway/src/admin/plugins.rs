//! `Plugins` describes the plugins as JSON, for the API and for pages.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::control::Control;
use crate::plugin::breaker::Hold;
use crate::plugin::failure::Cause;
use crate::plugin::registry::{PluginStatus, RolledBack, seconds};

/// Every plugin that the folder has or had, and the live chain.
#[derive(Serialize)]
pub(crate) struct Plugins {
    /// The plugin folder.
    folder: String,
    generation: u64,
    plugins: Vec<Plugin>,
    /// Files in the folder that were probably meant to be plugins, but are none.
    left_out: Vec<LeftOut>,
}

#[derive(Serialize)]
struct LeftOut {
    file: Box<str>,
    code: &'static str,
    sentence: Box<str>,
    /// Whether events are refused because of it.
    closes: bool,
}

#[derive(Serialize)]
struct Plugin {
    name: Box<str>,
    file: Box<str>,
    state: &'static str,
    /// Index in the chain, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<usize>,
    #[serde(flatten)]
    live: Option<Live>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compiling: Option<Compiling>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
    /// Versions for a rollback, latest first.
    versions: Vec<Version>,
    counts: Counts,
    kept: Kept,
}

/// The compile of the file in the folder.
#[derive(Serialize)]
struct Compiling {
    /// Unix time in seconds.
    since: u64,
    /// How long it has taken so far.
    seconds: u64,
}

/// The version that runs.
#[derive(Serialize)]
struct Live {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Box<str>>,
    interface: Box<str>,
    hooks: Vec<&'static str>,
    breaker: Breaker,
    /// The capabilities it asks for.
    asks: Vec<String>,
    /// The capabilities its settings file grants.
    grants: Vec<String>,
    /// SHA-256 of the file.
    digest: String,
    /// SHA-256 of the settings file.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings_digest: Option<String>,
    /// The generation of the chain with which it became live.
    generation: u64,
    /// Unix time in seconds.
    since: u64,
}

/// A stored version.
#[derive(Serialize)]
struct Version {
    /// SHA-256 of the plugin file.
    digest: String,
    /// SHA-256 of the settings file.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Box<str>>,
    /// When it became live, in Unix time in seconds.
    since: u64,
}

/// The version that runs after a rollback.
#[derive(Serialize)]
pub(crate) struct Rollback {
    name: Box<str>,
    state: &'static str,
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Box<str>>,
    /// SHA-256 of the file that ran before.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<String>,
    generation: u64,
}

impl From<RolledBack> for Rollback {
    fn from(done: RolledBack) -> Self {
        Self {
            name: (&*done.name).into(),
            state: done.state.as_str(),
            digest: done.digest.wasm_hex(),
            version: done.version,
            replaced: done.replaced.map(|digest| digest.wasm_hex()),
            generation: done.applied.generation,
        }
    }
}

#[derive(Serialize)]
struct Breaker {
    /// `closed`, `open` or `half-open`.
    state: &'static str,
    /// Whether an operator holds it in this state.
    held: bool,
}

/// Why the file in the folder does not run.
#[derive(Serialize)]
struct Error {
    code: &'static str,
    sentence: Box<str>,
    /// SHA-256 of the refused file.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// SHA-256 of the settings file next to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings_digest: Option<String>,
    /// Unix time in seconds.
    at: u64,
}

#[derive(Serialize)]
struct Counts {
    calls: u64,
    rejections: u64,
    effects: u64,
    /// Events that were handled by the failure policy without a call.
    skipped: u64,
    /// Attributes that it tried to set and that belong to another plugin.
    attributes_refused: u64,
    breaker_opened: u64,
    deliveries_dropped: u64,
    deliveries_replaced: u64,
    failures: BTreeMap<&'static str, u64>,
    log_lines_dropped: u64,
}

/// The plugin's state in the gateway: rate limits and values.
#[derive(Serialize)]
struct Kept {
    entries: u64,
    bytes: u64,
    /// Entries that were evicted for others.
    evictions: u64,
}

impl Plugins {
    /// The current state.
    pub(crate) fn of(control: &Control) -> Self {
        // A change between the two lines shows a plugin newer than the chain, never a wrong chain.
        let generation = control.generation();
        let left_out = control.left_out().into_iter().map(|left| LeftOut {
            file: left.file,
            code: left.code.as_str(),
            sentence: left.message,
            closes: left.closes,
        });
        Self {
            folder: control.plugin_folder().display().to_string(),
            generation,
            plugins: control.plugins().iter().map(Plugin::from).collect(),
            left_out: left_out.collect(),
        }
    }
}

impl From<&PluginStatus> for Plugin {
    fn from(status: &PluginStatus) -> Self {
        let live = status.live.as_ref().map(|live| Live {
            version: live.about.version.clone(),
            interface: live.about.interface.clone(),
            hooks: live.about.hooks.names().collect(),
            breaker: Breaker { state: live.breaker.as_str(), held: live.breaker_held != Hold::Auto },
            asks: live.about.requested.names(),
            grants: live.grants.names(),
            digest: live.digest.wasm_hex(),
            settings_digest: live.digest.settings_hex(),
            generation: live.generation,
            since: seconds(live.since),
        });
        let error = status.last_error.as_ref().map(|error| Error {
            code: error.code.as_str(),
            sentence: error.message.clone(),
            digest: error.digest.map(|digest| digest.wasm_hex()),
            settings_digest: error.digest.and_then(|digest| digest.settings_hex()),
            at: seconds(error.at),
        });
        let compiling = status.compiling.map(|since| Compiling {
            since: seconds(since),
            seconds: since.elapsed().unwrap_or_default().as_secs(),
        });
        let versions = status.kept.iter().map(|kept| Version {
            digest: kept.digest.wasm_hex(),
            settings_digest: kept.digest.settings_hex(),
            version: kept.version.clone(),
            since: seconds(kept.since),
        });
        let counts = &status.counts;
        Self {
            name: (&*status.name).into(),
            file: status.file.clone(),
            state: status.state.as_str(),
            order: status.order,
            live,
            compiling,
            error,
            versions: versions.collect(),
            counts: Counts {
                calls: counts.calls,
                rejections: counts.refusals,
                effects: counts.effects,
                skipped: counts.skipped,
                attributes_refused: counts.attributes_refused,
                breaker_opened: counts.breaker_opened,
                deliveries_dropped: counts.deliveries_dropped,
                deliveries_replaced: counts.deliveries_replaced,
                failures: Cause::ALL
                    .iter()
                    .map(|cause| (cause.as_str(), counts.failures_by(*cause)))
                    .collect(),
                log_lines_dropped: counts.log_lines_dropped,
            },
            kept: Kept {
                entries: counts.state.entries,
                bytes: counts.state.bytes,
                evictions: counts.state.evictions,
            },
        }
    }
}
