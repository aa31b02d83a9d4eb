//! From files to a chain for every worker. Blocking: compiles, and configures instances.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tracing::{debug, error};

use super::found::{Digest, Found, plugin_name};
use super::record::Record;
use super::status::PluginState;
use super::version::{Version, duplicate, load, self_test, too_many, warm};
use crate::disk::Archive;
use crate::plugin::counters::PluginCounters;
use crate::plugin::link::Link;
use crate::plugin::load::{Code, LoadCode, LoadError, Loader};

/// Plugins whose file was taken out and of which something is kept.
const REMOVED_MAX: usize = 64;

/// A version in the chain.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) file: Box<str>,
    pub(super) version: Arc<Version>,
    /// Why it is this version.
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
    /// By plugin name.
    pub(super) records: BTreeMap<Arc<str>, Record>,
    /// What lay in the folder; `None` before the first look.
    pub(super) found: Option<Vec<Found>>,
}

impl State {
    pub(super) fn slot(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| &*slot.version.name == name)
    }

    /// The file that counts for a plugin: the first of its name.
    pub(super) fn file_of(&self, name: &str) -> Option<&Found> {
        let files = self.found.iter().flatten().filter(|found| plugin_name(&found.file) == Ok(name));
        files.min_by(|a, b| a.file.cmp(&b.file))
    }
}

/// What it takes to make a chain.
pub(super) struct Means<'a> {
    pub(super) loader: &'a dyn Loader,
    pub(super) workers: usize,
    /// Most plugins in a chain.
    pub(super) plugins_max: usize,
    pub(super) archive: Option<&'a Archive>,
    /// Whether a plugin goes on when its file is taken out.
    pub(super) keep_removed: bool,
}

/// What loading came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loads {
    /// Files that were compiled.
    pub compiled: usize,
    /// Files whose machine code came from the cache on disk.
    pub cached: usize,
    /// Refusals that are new.
    pub refused: Vec<LoadCode>,
}

/// The outcome for one set of files.
pub(super) struct Prepared {
    pub(super) state: State,
    /// The links of the new chain, per worker; `None` if the chain stays as it is.
    pub(super) chains: Option<Vec<Vec<Link>>>,
    /// Files refused now and not already before.
    pub(super) newly_refused: Vec<Box<str>>,
    pub(super) loads: Loads,
    /// Kept versions that were wanted and could not be brought back.
    pub(super) lost: Vec<(Digest, LoadError)>,
}

/// Decides for every file and makes the instances. Changes nothing that is live.
///
/// Fails only if a plugin that is live already cannot be instantiated again; then everything stays as it is.
pub(super) fn prepare(
    before: &State,
    means: &Means<'_>,
    mut found: Vec<Found>,
) -> Result<Prepared, (Arc<str>, LoadError)> {
    found.sort_by(|a, b| a.file.cmp(&b.file));
    let stays = |slot: &&Slot| {
        means.keep_removed || found.iter().any(|found| plugin_name(&found.file) == Ok(&*slot.version.name))
    };
    let places_left = means.plugins_max.saturating_sub(before.slots.iter().filter(stays).count());
    let mut preparing = Preparing {
        places_left,
        before,
        means,
        now: SystemTime::now(),
        state: State {
            generation: before.generation,
            counters: before.counters.clone(),
            records: before.records.clone(),
            ..State::default()
        },
        candidates: Vec::new(),
        newly_refused: Vec::new(),
        loads: Loads::default(),
        lost: Vec::new(),
    };
    // The first file of every name, loaded or not: which of two files counts must not depend on whether one is bad.
    let mut first: HashMap<Arc<str>, &str> = HashMap::new();
    for found in &found {
        let name: Arc<str> = plugin_name(&found.file).unwrap_or(&found.file).into();
        let first = *first.entry(name.clone()).or_insert(&found.file);
        preparing.file(found, &name, first);
    }
    for (name, record) in &before.records {
        if !first.contains_key(name) && record.running.is_some() && means.keep_removed {
            preparing.fall_back(name, &record.file, PluginState::RemovedKept);
        }
    }
    preparing.finish(found)
}

/// A version on its way into the chain, with its instances if it is new.
struct Candidate {
    slot: Slot,
    links: Option<Vec<Link>>,
}

struct Preparing<'a> {
    before: &'a State,
    means: &'a Means<'a>,
    now: SystemTime,
    state: State,
    candidates: Vec<Candidate>,
    newly_refused: Vec<Box<str>>,
    loads: Loads,
    lost: Vec<(Digest, LoadError)>,
    /// For plugins that are not live. Those that are keep theirs whatever is dropped.
    places_left: usize,
}

impl Preparing<'_> {
    /// Decides for one file of the folder.
    fn file(&mut self, found: &Found, name: &Arc<str>, first: &str) {
        let digest = Digest::of(found);
        let known = self.before.refused.get(&found.file).filter(|known| known.digest == digest);
        if first != &*found.file {
            self.refuse(found, name, digest, duplicate(name, first), known);
            return;
        }
        let pinned = self.before.records.get(name).and_then(|record| record.pinned(digest));
        if let Some(candidate) =
            pinned.and_then(|pinned| self.recall(name, &found.file, pinned, PluginState::RolledBack))
        {
            if let Some(known) = known {
                self.state.refused.insert(found.file.clone(), known.clone());
            }
            self.candidates.push(candidate);
            return;
        }
        match self.take(found, name, digest, known) {
            Ok(candidate) => self.candidates.push(candidate),
            Err(error) => {
                // Somebody is probably still writing it: the next look decides.
                if !(found.fresh && error.code().may_be_half_a_file()) {
                    self.refuse(found, name, digest, error, known);
                }
                if self.before.records.get(name).is_some_and(|record| record.running.is_some()) {
                    self.fall_back(name, &found.file, PluginState::LiveOlder);
                }
            }
        }
    }

    /// The version in the folder.
    fn take(
        &mut self,
        found: &Found,
        name: &Arc<str>,
        digest: Digest,
        known: Option<&Refused>,
    ) -> Result<Candidate, LoadError> {
        if let Some(running) = self.running(name, &found.file, digest, PluginState::Live) {
            return Ok(running);
        }
        match known.filter(|known| known.error.is_final()) {
            Some(known) => Err(known.error.clone()),
            None => self.make(found, name, digest, PluginState::Live),
        }
    }

    /// The version that runs, if it is this one.
    fn running(&self, name: &str, file: &str, digest: Digest, standing: PluginState) -> Option<Candidate> {
        let slot = self.before.slot(name).filter(|slot| slot.version.digest == digest)?;
        Some(Candidate { slot: Slot { file: file.into(), standing, ..slot.clone() }, links: None })
    }

    /// A new version with its instances.
    fn make(
        &mut self,
        found: &Found,
        name: &Arc<str>,
        digest: Digest,
        standing: PluginState,
    ) -> Result<Candidate, LoadError> {
        let is_new = self.before.slot(name).is_none();
        if is_new && self.places_left == 0 {
            return Err(too_many(self.means.plugins_max));
        }
        let workers = self.means.workers;
        let counters = self.state.counters.entry(name.clone());
        let counters = counters.or_insert_with(|| Arc::new(PluginCounters::new(workers)));
        let version = load(self.means.loader, name, found, digest)?;
        match version.factory.code() {
            Code::Compiled => self.loads.compiled += 1,
            Code::Cached => self.loads.cached += 1,
            Code::Shared => {}
        }
        let loaded = Instant::now();
        let links = Some(warm(&version, workers, counters)?);
        let warmed = Instant::now();
        self_test(self.means.loader, &version, found)?;
        debug!(
            plugin = &**name,
            digest = digest.short(),
            load_us = version.took.as_micros() as u64,
            warm_us = (warmed - loaded).as_micros() as u64,
            self_test_us = warmed.elapsed().as_micros() as u64,
            "plugin prepared: instances for every worker, and its self-test"
        );
        counters.state().set_bounds(version.state);
        self.places_left -= usize::from(is_new);
        let generation = self.before.generation + 1;
        let slot = Slot { file: found.file.clone(), version, standing, generation, since: self.now };
        Ok(Candidate { slot, links })
    }

    /// A version that was live before, from the chain or from the archive.
    fn recall(
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
            LoadError::new(LoadCode::Unreadable, format!("cannot be read from the state folder: {error}"))
        });
        let made = read.and_then(|(wasm, settings)| {
            let kept = Found {
                path: file.into(),
                file: file.into(),
                wasm: Ok(wasm),
                settings: settings.map(Ok),
                fresh: false,
            };
            self.make(&kept, name, digest, standing)
        });
        made.map_err(|error| {
            error!(
                plugin = &**name,
                digest = digest.short(),
                code = error.code().as_str(),
                "failed to bring back a version of a plugin: the file {}",
                error.sentence()
            );
            self.lost.push((digest, error));
        })
        .ok()
    }

    /// Lets the version that ran last go on, or the latest of the others that still loads.
    fn fall_back(&mut self, name: &Arc<str>, file: &str, standing: PluginState) {
        let Some(record) = self.before.records.get(name) else { return };
        let candidate = record.fallbacks().find_map(|digest| self.recall(name, file, digest, standing));
        self.candidates.extend(candidate);
    }

    fn refuse(
        &mut self,
        found: &Found,
        name: &Arc<str>,
        digest: Digest,
        error: LoadError,
        known: Option<&Refused>,
    ) {
        let known = known.filter(|known| known.error == error);
        if known.is_none() {
            self.newly_refused.push(found.file.clone());
            self.loads.refused.push(error.code());
        }
        let at = known.map_or(self.now, |known| known.at);
        self.state.refused.insert(found.file.clone(), Refused { name: name.clone(), digest, error, at });
    }

    fn finish(mut self, found: Vec<Found>) -> Result<Prepared, (Arc<str>, LoadError)> {
        // A plugin whose file is gone stands where it stood.
        self.candidates.sort_by(|a, b| a.slot.file.cmp(&b.slot.file));
        let old = &self.before.slots;
        let same = |new: &Candidate, old: &Slot| Arc::ptr_eq(&new.slot.version, &old.version);
        let unchanged = self.candidates.len() == old.len()
            && self.candidates.iter().zip(old).all(|(new, old)| same(new, old));
        let chains = if unchanged { None } else { Some(self.chains()?) };
        self.remember();
        self.state.slots = self.candidates.into_iter().map(|candidate| candidate.slot).collect();
        self.state.found = Some(found);
        Ok(Prepared {
            state: self.state,
            chains,
            newly_refused: self.newly_refused,
            loads: self.loads,
            lost: self.lost,
        })
    }

    fn chains(&mut self) -> Result<Vec<Vec<Link>>, (Arc<str>, LoadError)> {
        self.state.generation = self.before.generation + 1;
        let workers = self.means.workers;
        let mut links: Vec<Vec<Link>> =
            (0..workers).map(|_| Vec::with_capacity(self.candidates.len())).collect();
        for candidate in &mut self.candidates {
            let version = &candidate.slot.version;
            let warmed = match candidate.links.take() {
                Some(links) => links,
                None => {
                    let counters = &self.state.counters[&version.name];
                    warm(version, workers, counters).map_err(|error| (version.name.clone(), error))?
                }
            };
            for (chain, link) in links.iter_mut().zip(warmed) {
                chain.push(link);
            }
        }
        Ok(links)
    }

    /// Writes the records of what runs now and what no longer does.
    fn remember(&mut self) {
        let records = &mut self.state.records;
        let runs = |name: &str| self.candidates.iter().any(|candidate| &*candidate.slot.version.name == name);
        for (name, record) in records.iter_mut() {
            if !runs(name) {
                (record.running, record.pinned_over) = (None, None);
            }
        }
        for Candidate { slot, .. } in &self.candidates {
            let Version { name, digest, factory, .. } = &*slot.version;
            let record = records.entry(name.clone()).or_insert_with(|| Record::new(&slot.file));
            record.file = slot.file.clone();
            if slot.standing == PluginState::Live && record.running != Some(*digest) {
                record.became_live(*digest, factory.about().version.as_deref(), self.now);
            }
            if slot.standing != PluginState::RolledBack {
                record.pinned_over = None;
            }
            record.running = Some(*digest);
        }
        let mut removed: Vec<_> = records.iter().filter(|(_, record)| record.running.is_none()).collect();
        removed.sort_by_key(|(_, record)| record.versions.first().map(|kept| kept.since));
        let excess = removed.len().saturating_sub(REMOVED_MAX);
        let forgotten: Vec<Arc<str>> = removed[..excess].iter().map(|(name, _)| Arc::clone(name)).collect();
        records.retain(|name, _| !forgotten.contains(name));
    }
}
