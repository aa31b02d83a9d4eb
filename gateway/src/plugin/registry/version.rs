//! [`load`] makes a [`Version`] that is ready to serve from one plugin file. Blocking.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::plugin_file::{Digest, PluginFile, plugin_name};
use crate::plugin::breaker::Breaker;
use crate::plugin::counters::PluginCounters;
use crate::plugin::failure::FailurePolicy;
use crate::plugin::grants::Grants;
use crate::plugin::link::Link;
use crate::plugin::load::{About, Cancel, Factory, LoadCode, LoadError, Loader};
use crate::plugin::self_test::SelfTest;
use crate::plugin::settings::{Limits, Settings};
use crate::plugin::state::Bounds;

/// One version of a plugin that can be loaded.
pub(super) struct Version {
    pub(super) name: Arc<str>,
    pub(super) digest: Digest,
    pub(super) policy: FailurePolicy,
    pub(super) grants: Grants,
    pub(super) limits: Limits,
    /// Instances that may wait, if the plugin has some.
    pub(super) http_instances: usize,
    pub(super) state: Bounds,
    pub(super) breaker: Arc<Breaker>,
    pub(super) factory: Arc<dyn Factory>,
    /// Time to load it, without instances.
    pub(super) took: Duration,
}

/// Loads a plugin, without making instances. `cancel` ends it early, with an error.
pub(super) fn load(
    loader: &dyn Loader,
    name: &Arc<str>,
    found: &PluginFile,
    digest: Digest,
    cancel: &Cancel,
) -> Result<Arc<Version>, LoadError> {
    plugin_name(&found.file)?;
    let wasm = found.wasm.as_ref().map_err(Clone::clone)?;
    let settings = settings(found)?;
    let begin = Instant::now();
    // A compiler may have a bug that only one rare file triggers.
    let factory =
        catch_unwind(AssertUnwindSafe(|| loader.load_unless_cancelled(name, wasm, &settings, cancel)))
            .unwrap_or_else(|_| {
                Err(LoadError::new(
                    LoadCode::Compile,
                    "made the compiler panic; rebuild it with another optimisation level",
                ))
            })?;
    let took = begin.elapsed();
    factory.about().requested.check(&settings.grants, &settings_file(&found.file))?;
    let Settings { failure: policy, grants, limits, state, breaker, http_instances, .. } = settings;
    let (name, breaker) = (name.clone(), Arc::new(Breaker::new(breaker)));
    Ok(Arc::new(Version {
        name,
        digest,
        policy,
        grants,
        limits,
        http_instances,
        state,
        breaker,
        factory,
        took,
    }))
}

/// Parses the settings file.
fn settings(found: &PluginFile) -> Result<Settings, LoadError> {
    let Some(file) = &found.settings else { return Ok(Settings::default()) };
    let bytes = file.as_ref().map_err(|error| {
        let (file, why) = (settings_file(&found.file), error.message());
        LoadError::new(error.code(), format!("has settings in {file}, which {why}"))
    })?;
    Settings::parse(bytes).map_err(|errors| {
        LoadError::new(LoadCode::Settings, format!("has mistakes in its settings file: {errors}"))
    })
}

/// Whether events are refused if a plugin with these settings is missing. True if the settings cannot be
/// read.
pub(super) fn fails_closed(settings: Option<&Result<Bytes, LoadError>>) -> bool {
    match settings {
        Some(Ok(bytes)) => {
            Settings::parse(bytes).map_or(true, |settings| settings.failure == FailurePolicy::Closed)
        }
        Some(Err(_)) | None => true,
    }
}

/// Runs the embedded test of a plugin, if it has one.
pub(super) fn self_test(loader: &dyn Loader, version: &Version, found: &PluginFile) -> Result<(), LoadError> {
    let About { requested, self_test: Some(section), .. } = version.factory.about() else { return Ok(()) };
    let wasm = found.wasm.as_ref().map_err(Clone::clone)?;
    SelfTest::parse(section)?.run(loader, &version.name, wasm, requested, &version.limits).map(drop)
}

/// Name of the settings file of a plugin file.
fn settings_file(file: &str) -> String {
    format!("{}.toml", file.strip_suffix(".wasm").unwrap_or(file))
}

/// Makes one instance per worker.
pub(super) fn warm(
    version: &Version,
    workers: usize,
    counters: &Arc<PluginCounters>,
) -> Result<Vec<Link>, LoadError> {
    (0..workers)
        .map(|worker| {
            let (name, factory) = (version.name.clone(), version.factory.clone());
            let link = Link::new(name, worker, version.policy, factory, counters.clone())?;
            Ok(link.with_breaker(version.breaker.clone()))
        })
        .collect()
}

pub(super) fn duplicate(name: &str, first: &str) -> LoadError {
    let message = format!("is the second plugin named `{name}`, after {first}; rename or remove one of them");
    LoadError::new(LoadCode::DuplicateName, message)
}

pub(super) fn too_many(plugins_max: usize) -> LoadError {
    let message =
        format!("is one plugin more than the {plugins_max} of `plugins.max`; remove another or raise it");
    LoadError::new(LoadCode::TooMany, message)
}

impl LoadError {
    /// Whether the same bytes will be refused again, whatever else changes.
    pub(super) fn is_final(&self) -> bool {
        // A failed instantiation may succeed later, and some errors depend on other files.
        !self.may_pass()
            && !matches!(
                self.code(),
                LoadCode::Compiling
                    | LoadCode::Instantiate
                    | LoadCode::DuplicateName
                    | LoadCode::TooMany
                    | LoadCode::CompileTimeout
                    | LoadCode::CompilerBusy
            )
    }
}
