//! From files to a chain for every worker. Blocking: compiles, and configures instances.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::found::{Digest, Found, plugin_name};
use crate::plugin::counters::PluginCounters;
use crate::plugin::failure::FailurePolicy;
use crate::plugin::grants::Grants;
use crate::plugin::link::Link;
use crate::plugin::load::{About, Factory, LoadCode, LoadError, Loader};
use crate::plugin::self_test::SelfTest;
use crate::plugin::settings::{Limits, Settings};
use crate::plugin::state::Bounds;

/// One version of a plugin that has proved to load.
pub(super) struct Version {
    pub(super) name: Arc<str>,
    pub(super) digest: Digest,
    pub(super) policy: FailurePolicy,
    pub(super) grants: Grants,
    pub(super) limits: Limits,
    pub(super) state: Bounds,
    pub(super) factory: Arc<dyn Factory>,
    /// How long it took to make it, without instances.
    pub(super) took: Duration,
}

/// A version in the chain.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) file: Box<str>,
    pub(super) version: Arc<Version>,
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
}

/// What is live and what was refused. Replaced as a whole, after the workers have the new chain.
#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) generation: u64,
    /// In chain order.
    pub(super) slots: Vec<Slot>,
    /// By file name.
    pub(super) refused: BTreeMap<Box<str>, Refused>,
    /// By plugin name. Kept while a plugin is gone, so that its numbers go on when it returns.
    pub(super) counters: HashMap<Arc<str>, Arc<PluginCounters>>,
}

impl State {
    pub(super) fn slot(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| &*slot.version.name == name)
    }
}

/// The outcome for one set of files.
pub(super) struct Prepared {
    pub(super) state: State,
    /// The links of the new chain, per worker; `None` if the chain stays as it is.
    pub(super) chains: Option<Vec<Vec<Link>>>,
    /// Files refused now and not already before.
    pub(super) newly_refused: Vec<Box<str>>,
}

/// A version on its way into the chain, with its instances if it is new.
struct Candidate {
    slot: Slot,
    links: Option<Vec<Link>>,
}

/// Decides for every file and makes the instances. Changes nothing that is live.
///
/// Fails only if a plugin that is live already cannot be instantiated again; then everything stays as it is.
pub(super) fn prepare(
    before: &State,
    loader: &dyn Loader,
    workers: usize,
    mut found: Vec<Found>,
) -> Result<Prepared, (Arc<str>, LoadError)> {
    found.sort_by(|a, b| a.file.cmp(&b.file));
    let now = SystemTime::now();
    let generation = before.generation + 1;
    let mut state =
        State { generation: before.generation, counters: before.counters.clone(), ..State::default() };
    let mut newly_refused = Vec::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    // The first file of every name, loaded or not: which of two files counts must not depend on whether one is bad.
    let mut first: HashMap<Arc<str>, &str> = HashMap::new();

    for found in &found {
        let digest = Digest::of(found);
        let name: Arc<str> = plugin_name(&found.file).unwrap_or(&found.file).into();
        let known = before.refused.get(&found.file).filter(|known| known.digest == digest);
        let first = *first.entry(name.clone()).or_insert(&found.file);
        let is_first = first == &*found.file;
        let last_good = before.slot(&name).filter(|_| is_first);

        let outcome = if !is_first {
            Err(duplicate(&name, first))
        } else if let Some(slot) = last_good.filter(|slot| slot.version.digest == digest) {
            Ok(Candidate { slot: Slot { file: found.file.clone(), ..slot.clone() }, links: None })
        } else if let Some(known) = known.filter(|known| known.error.is_final()) {
            Err(known.error.clone())
        } else {
            let counters = state.counters.entry(name.clone());
            let counters = counters.or_insert_with(|| Arc::new(PluginCounters::new(workers)));
            load(loader, &name, found, digest).and_then(|version| {
                let links = warm(&version, workers, counters)?;
                self_test(loader, &version, found)?;
                counters.state().set_bounds(version.state);
                let slot = Slot { file: found.file.clone(), version, generation, since: now };
                Ok(Candidate { slot, links: Some(links) })
            })
        };
        match outcome {
            Ok(candidate) => candidates.push(candidate),
            Err(error) => {
                let known = known.filter(|known| known.error == error);
                if known.is_none() {
                    newly_refused.push(found.file.clone());
                }
                let at = known.map_or(now, |known| known.at);
                state.refused.insert(found.file.clone(), Refused { name, digest, error, at });
                if let Some(slot) = last_good {
                    let slot = Slot { file: found.file.clone(), ..slot.clone() };
                    candidates.push(Candidate { slot, links: None });
                }
            }
        }
    }

    let unchanged = candidates.len() == before.slots.len()
        && candidates
            .iter()
            .zip(&before.slots)
            .all(|(new, old)| Arc::ptr_eq(&new.slot.version, &old.version));
    let mut chains = None;
    if !unchanged {
        state.generation = generation;
        let mut links: Vec<Vec<Link>> = (0..workers).map(|_| Vec::with_capacity(candidates.len())).collect();
        for candidate in &mut candidates {
            let version = &candidate.slot.version;
            let warmed = match candidate.links.take() {
                Some(links) => links,
                None => {
                    let counters = &state.counters[&version.name];
                    warm(version, workers, counters).map_err(|error| (version.name.clone(), error))?
                }
            };
            for (chain, link) in links.iter_mut().zip(warmed) {
                chain.push(link);
            }
        }
        chains = Some(links);
    }
    state.slots = candidates.into_iter().map(|candidate| candidate.slot).collect();
    Ok(Prepared { state, chains, newly_refused })
}

/// Everything up to instances.
pub(super) fn load(
    loader: &dyn Loader,
    name: &Arc<str>,
    found: &Found,
    digest: Digest,
) -> Result<Arc<Version>, LoadError> {
    plugin_name(&found.file)?;
    let wasm = found.wasm.as_ref().map_err(Clone::clone)?;
    let settings = match &found.settings {
        None => Settings::default(),
        Some(file) => Settings::parse(file.as_ref().map_err(Clone::clone)?).map_err(|mistakes| {
            LoadError::new(LoadCode::Settings, format!("has mistakes in its settings file: {mistakes}"))
        })?,
    };
    let begin = Instant::now();
    // A compiler is large enough to have a bug that only one file in the world meets.
    let factory =
        catch_unwind(AssertUnwindSafe(|| loader.load(name, wasm, &settings))).unwrap_or_else(|_| {
            Err(LoadError::new(
                LoadCode::Compile,
                "made the compiler panic; rebuild it with another optimisation level",
            ))
        })?;
    let took = begin.elapsed();
    factory.about().asks.check(&settings.grants, &settings_file(&found.file))?;
    let Settings { failure: policy, grants, limits, state, .. } = settings;
    Ok(Arc::new(Version { name: name.clone(), digest, policy, grants, limits, state, factory, took }))
}

/// Plays the test that the plugin carries, if it does.
pub(super) fn self_test(loader: &dyn Loader, version: &Version, found: &Found) -> Result<(), LoadError> {
    let About { asks, self_test: Some(section), .. } = version.factory.about() else { return Ok(()) };
    let wasm = found.wasm.as_ref().map_err(Clone::clone)?;
    SelfTest::parse(section)?.run(loader, &version.name, wasm, asks, &version.limits).map(drop)
}

/// The file with the settings of a plugin file.
fn settings_file(file: &str) -> String {
    format!("{}.toml", file.strip_suffix(".wasm").unwrap_or(file))
}

/// One instance per worker.
fn warm(version: &Version, workers: usize, counters: &Arc<PluginCounters>) -> Result<Vec<Link>, LoadError> {
    (0..workers)
        .map(|worker| {
            let (name, factory) = (version.name.clone(), version.factory.clone());
            Link::new(name, worker, version.policy, factory, counters.clone())
        })
        .collect()
}

pub(super) fn duplicate(name: &str, first: &str) -> LoadError {
    let sentence =
        format!("is the second plugin named `{name}`, after {first}; rename or remove one of them");
    LoadError::new(LoadCode::DuplicateName, sentence)
}

impl LoadError {
    /// Whether the same bytes will be refused again whatever else changes.
    fn is_final(&self) -> bool {
        // No room for an instance now says nothing about later, and a duplicate depends on other files.
        !matches!(self.code(), LoadCode::Instantiate | LoadCode::DuplicateName | LoadCode::CompilerBusy)
    }
}
