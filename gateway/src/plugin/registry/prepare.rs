//! [`prepare`] loads plugin files and makes a chain for every worker. Blocking: compiles, and configures
//! instances.

mod fall_back;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use tracing::debug;

use super::loading::Loading;
use super::plugin_file::{Contents, Digest, LeftOut, Meant, PluginFile, plugin_name};
use super::record::Record;
use super::state::{Again, Closed, Lost, Refused, Slot, State};
use super::status::PluginState;
use super::version::{Version, duplicate, fails_closed, self_test, too_many, warm};
use crate::plugin::counters::PluginCounters;
use crate::plugin::link::Link;
use crate::plugin::load::{Code, LoadCode, LoadError};
use crate::plugin::registry::Archive;

/// Removed plugins of which a record is kept.
const REMOVED_MAX: usize = 64;

/// Inputs to make a chain.
pub(super) struct Means<'a> {
    pub(super) loading: &'a Loading,
    pub(super) workers: usize,
    /// Most plugins in a chain.
    pub(super) plugins_max: usize,
    pub(super) archive: Option<&'a Archive>,
    /// Whether a plugin keeps running when its file is removed.
    pub(super) keep_removed: bool,
    /// Plugins that keep running in any case.
    pub(super) required: &'a [Box<str>],
}

impl Means<'_> {
    fn is_required(&self, name: &str) -> bool {
        self.required.iter().any(|required| **required == *name)
    }

    fn outlives_its_file(&self, name: &str) -> bool {
        self.keep_removed || self.is_required(name)
    }
}

/// Results of loading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loads {
    /// Files that were compiled.
    pub compiled: usize,
    /// Files whose machine code came from the cache on disk.
    pub cached: usize,
    /// New refusals.
    pub refused: Vec<LoadCode>,
}

/// Result for one set of files.
pub(super) struct Prepared {
    pub(super) state: State,
    /// The links of the new chain, per worker; `None` if the chain stays as it is.
    pub(super) chains: Option<Vec<Vec<Link>>>,
    /// Files that are refused now and were not before.
    pub(super) newly_refused: Vec<Box<str>>,
    pub(super) loads: Loads,
}

/// Decides on every file and makes the instances. Changes nothing that is live.
///
/// Fails only if a live plugin cannot be instantiated again; then everything stays as it is.
pub(super) fn prepare(
    before: &State,
    means: &Means<'_>,
    contents: Contents,
) -> Result<Prepared, (Arc<str>, LoadError)> {
    let Contents { mut found, left_out } = contents;
    found.sort_by(|a, b| a.file.cmp(&b.file));
    let is_there = |name: &str| {
        let unusable = |left: &LeftOut| left.meant == Meant::Plugin && left.plugin() == name;
        found.iter().any(|found| plugin_name(&found.file) == Ok(name)) || left_out.iter().any(unusable)
    };
    let stays = |slot: &&Slot| means.outlives_its_file(&slot.version.name) || is_there(&slot.version.name);
    let places_left = means.plugins_max.saturating_sub(before.slots.iter().filter(stays).count());
    let mut preparing = Preparing {
        places_left,
        before,
        means,
        now: SystemTime::now(),
        state: State {
            generation: before.generation,
            counters: before.counters.clone(),
            gone: before.gone.clone(),
            records: before.records.clone(),
            ..State::default()
        },
        candidates: Vec::new(),
        newly_refused: Vec::new(),
        loads: Loads::default(),
        unread: BTreeSet::new(),
        taken_out: BTreeSet::new(),
    };
    // The first file of every name, valid or not: the choice between two files must not depend on whether one
    // loads.
    let mut first: HashMap<Arc<str>, &str> = HashMap::new();
    let entries: Vec<Entry<'_>> = found
        .iter()
        .map(|found| {
            let name: Arc<str> = plugin_name(&found.file).unwrap_or(&found.file).into();
            let first = *first.entry(name.clone()).or_insert(&found.file);
            Entry { found, name, first, digest: Digest::of(found) }
        })
        .collect();
    preparing.begin_loads(&entries);
    for entry in &entries {
        preparing.file(entry);
    }
    // Once for each name, in this order: an entry with the name of the plugin, a plugin without its file, an
    // entry that resembles it.
    let others = left_out.iter().filter(|left| !first.contains_key(left.plugin()));
    let (unusable, others): (Vec<_>, Vec<_>) = others.partition(|left| left.meant == Meant::Plugin);
    for left in unusable {
        preparing.left_out(left, found.is_empty());
    }
    for (name, record) in before.records.iter().filter(|(name, _)| !is_there(name)) {
        if !means.outlives_its_file(name) {
            preparing.taken_out.insert(name.clone());
        } else if record.running.is_some() {
            preparing.fall_back_or_close(name, &record.file, PluginState::RemovedKept);
        }
    }
    for left in others {
        preparing.left_out(left, found.is_empty());
    }
    preparing.finish(Contents { found, left_out })
}

/// How long a file may take to load.
#[derive(Clone, Copy)]
enum Wait {
    /// As long as other files can wait for it.
    Patiently,
    ToTheEnd,
}

/// A plugin file of the folder.
struct Entry<'a> {
    found: &'a PluginFile,
    name: Arc<str>,
    /// The first file of this name.
    first: &'a str,
    digest: Digest,
}

/// A version for the new chain, with its instances if it is new.
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
    /// Plugins whose file could not be read, so that its version is unknown.
    unread: BTreeSet<Arc<str>>,
    /// Plugins with a record that are no longer wanted.
    taken_out: BTreeSet<Arc<str>>,
    /// Free places for new plugins. Running plugins keep their place.
    places_left: usize,
}

impl<'a> Preparing<'a> {
    /// Begins to load all files that have to be loaded, so that they are compiled beside each other: waiting
    /// for the first is waiting for all.
    fn begin_loads(&self, entries: &[Entry<'_>]) {
        let mut places_left = self.places_left;
        for Entry { found, name, first, digest } in entries {
            let slot = self.before.slot(name);
            let is_decided = *first != &*found.file
                || self.is_pinned_over(name, *digest)
                || slot.is_some_and(|slot| slot.version.digest == *digest)
                || self.known(found, *digest).is_some_and(|known| known.holds(self.now));
            if is_decided || slot.is_none() && places_left == 0 {
                continue;
            }
            places_left -= usize::from(slot.is_none());
            self.means.loading.begin(name, found, *digest);
        }
    }

    /// The refusal of this version of a file.
    fn known(&self, found: &PluginFile, digest: Digest) -> Option<&'a Refused> {
        self.before.refused.get(&found.file).filter(|known| known.digest == digest)
    }

    fn is_pinned_over(&self, name: &str, digest: Digest) -> bool {
        self.before.records.get(name).is_some_and(|record| record.is_pinned_over(digest))
    }

    /// Decides on one file of the folder.
    fn file(&mut self, entry: &Entry<'_>) {
        let Entry { found, ref name, first, digest } = *entry;
        let known = self.known(found, digest);
        if first != &*found.file {
            let error = duplicate(name, first);
            // A plugin that ran before stays unchanged, whatever the second file was meant to change.
            if self.is_promised(&found.file) && !self.ran(name) || self.was_closed(name) {
                self.close(&found.file, name, &error, found.settings.as_ref());
            }
            self.refuse(found, name, digest, error, known);
            return;
        }
        if found.wasm.is_err() || matches!(found.settings, Some(Err(_))) {
            self.unread.insert(name.clone());
        }
        if self.is_pinned_over(name, digest) {
            if let Some(known) = known {
                self.state.refused.insert(found.file.clone(), Refused { again: None, ..known.clone() });
            }
            self.fall_back_or_close(name, &found.file, PluginState::RolledBack);
            return;
        }
        match self.take(found, name, digest, known, Wait::Patiently) {
            Ok(candidate) => self.candidates.push(candidate),
            Err(error) if error.code() == LoadCode::Compiling => {
                // After a restart, the version to go on with meanwhile would be this one.
                let ran_before = self.before.records.get(name);
                let ran_before = ran_before.is_some_and(|record| record.running == Some(digest));
                let goes_on = !ran_before && self.goes_on(found, name, PluginState::Compiling);
                // At the start nothing is served without the rules of these plugins.
                let is_awaited = self.before.found.is_none()
                    && (self.means.is_required(name) || fails_closed(found.settings.as_ref()));
                if goes_on || !ran_before && !is_awaited {
                    self.compiling(found, name, digest, &error, known, goes_on);
                    return;
                }
                match self.take(found, name, digest, known, Wait::ToTheEnd) {
                    Ok(candidate) => self.candidates.push(candidate),
                    Err(error) => {
                        let goes_on = ran_before && self.goes_on(found, name, PluginState::LiveOlder);
                        self.fails(found, name, digest, error, known, goes_on);
                    }
                }
            }
            Err(error) => {
                let goes_on = self.goes_on(found, name, PluginState::LiveOlder);
                self.fails(found, name, digest, error, known, goes_on);
            }
        }
    }

    /// Whether another version of a plugin runs instead of the one in the folder.
    fn goes_on(&mut self, found: &PluginFile, name: &Arc<str>, standing: PluginState) -> bool {
        self.ran(name) && self.fall_back(name, &found.file, standing)
    }

    /// Decides on a file that does not load.
    fn fails(
        &mut self,
        found: &PluginFile,
        name: &Arc<str>,
        digest: Digest,
        error: LoadError,
        known: Option<&Refused>,
        goes_on: bool,
    ) {
        self.close_unless(goes_on, found, name, &error);
        // The file is probably still being written: the next scan decides.
        if !(found.fresh && error.code().may_be_half_a_file()) {
            self.refuse(found, name, digest, error, known);
        }
    }

    /// Decides on a file that is being compiled: a later change decides again.
    fn compiling(
        &mut self,
        found: &PluginFile,
        name: &Arc<str>,
        digest: Digest,
        error: &LoadError,
        known: Option<&Refused>,
        goes_on: bool,
    ) {
        self.close_unless(goes_on, found, name, error);
        self.state.compiling.extend(self.means.loading.going_on(&found.file, digest));
        // It took too long before: if it does again, the next pause is longer.
        if let Some(known) = known {
            self.state.refused.insert(found.file.clone(), known.clone());
        }
    }

    /// Closes the place of a file that the gateway is expected to serve with.
    fn close_unless(&mut self, goes_on: bool, found: &PluginFile, name: &Arc<str>, error: &LoadError) {
        if !goes_on && (self.is_promised(&found.file) || self.ran(name) || self.was_closed(name)) {
            self.close(&found.file, name, error, found.settings.as_ref());
        }
    }

    /// Decides on an entry that looks like a plugin but is none, if no plugin has its name. `alone` if the
    /// folder has no plugins at all.
    fn left_out(&mut self, left: &LeftOut, alone: bool) {
        let name: Arc<str> = left.plugin().into();
        if self.has_place(&name) {
            return;
        }
        if left.meant == Meant::Plugin {
            self.unread.insert(name.clone());
        }
        let goes_on = left.meant == Meant::Plugin
            && self.ran(&name)
            && self.fall_back(&name, &left.file, PluginState::LiveOlder);
        let promised = match left.meant {
            Meant::Plugin => self.is_promised(&left.file) || self.ran(&name),
            Meant::Misnamed => self.is_promised(&left.file),
            // After a plugin is removed, its settings often stay in the folder.
            Meant::Settings => self.is_promised(&left.file) && !self.before.records.contains_key(&name),
            Meant::Folder => self.is_promised(&left.file) && alone,
        };
        if !goes_on && (promised || self.was_closed(&name)) {
            self.close(&left.file, &name, &left.error, left.settings.as_ref());
        }
    }

    /// Whether the chain already has a decision for a plugin.
    fn has_place(&self, name: &str) -> bool {
        self.candidates.iter().any(|candidate| &*candidate.slot.version.name == name)
            || self.state.closed.iter().any(|closed| &*closed.name == name)
    }

    /// Whether the gateway is expected to serve with a file, valid or not. At the first scan, when nothing is
    /// served yet, that is every file. While a place is closed it is every new file, because that may be the
    /// missing one under another name.
    fn is_promised(&self, file: &str) -> bool {
        let Some(found) = &self.before.found else { return true };
        let was_there = found.iter().any(|found| &*found.file == file)
            || self.before.left_out.iter().any(|left| &*left.file == file);
        !self.before.closed.is_empty() && !was_there
    }

    /// Whether a version of the plugin runs, or ran when the gateway stopped.
    fn ran(&self, name: &str) -> bool {
        self.before.records.get(name).is_some_and(|record| record.running.is_some())
    }

    fn was_closed(&self, name: &str) -> bool {
        self.before.closed.iter().any(|closed| &*closed.name == name)
    }

    /// Closes the place of a file, unless its settings permit events without it.
    fn close(
        &mut self,
        file: &str,
        name: &Arc<str>,
        error: &LoadError,
        settings: Option<&Result<Bytes, LoadError>>,
    ) {
        if fails_closed(settings) {
            let known = self.before.closed.iter().find(|known| &*known.file == file && known.error == *error);
            let at = known.map_or(self.now, |known| known.at);
            self.state.closed.push(Closed {
                file: file.into(),
                name: name.clone(),
                error: error.clone(),
                at,
            });
        }
    }

    /// The version in the folder.
    fn take(
        &mut self,
        found: &PluginFile,
        name: &Arc<str>,
        digest: Digest,
        known: Option<&Refused>,
        wait: Wait,
    ) -> Result<Candidate, LoadError> {
        if let Some(running) = self.running(name, &found.file, digest, PluginState::Live) {
            return Ok(running);
        }
        match known.filter(|known| known.holds(self.now)) {
            Some(known) => Err(known.error.clone()),
            None => self.make(found, name, digest, PluginState::Live, wait),
        }
    }

    /// The running version, if it is this one.
    fn running(&self, name: &str, file: &str, digest: Digest, standing: PluginState) -> Option<Candidate> {
        let slot = self.before.slot(name).filter(|slot| slot.version.digest == digest)?;
        Some(Candidate { slot: Slot { file: file.into(), standing, ..slot.clone() }, links: None })
    }

    /// A new version with its instances.
    fn make(
        &mut self,
        found: &PluginFile,
        name: &Arc<str>,
        digest: Digest,
        standing: PluginState,
        wait: Wait,
    ) -> Result<Candidate, LoadError> {
        let is_new = self.before.slot(name).is_none();
        if is_new && self.places_left == 0 {
            return Err(too_many(self.means.plugins_max));
        }
        let workers = self.means.workers;
        let counters = self.state.counters.entry(name.clone());
        let counters = counters.or_insert_with(|| Arc::new(PluginCounters::new(workers)));
        let version = match wait {
            Wait::Patiently => self.means.loading.load(name, found, digest)?,
            Wait::ToTheEnd => self.means.loading.load_to_the_end(name, found, digest)?,
        };
        match version.factory.code() {
            Code::Compiled => self.loads.compiled += 1,
            Code::Cached => self.loads.cached += 1,
            Code::Shared => {}
        }
        let loaded = Instant::now();
        let links = Some(warm(&version, workers, counters)?);
        let warmed = Instant::now();
        self_test(self.means.loading.loader(), &version, found)?;
        debug!(
            plugin = &**name,
            digest = digest.short(),
            load_us = version.took.as_micros() as u64,
            warm_us = (warmed - loaded).as_micros() as u64,
            self_test_us = warmed.elapsed().as_micros() as u64,
            "plugin prepared: instances created and self-test passed"
        );
        counters.state().set_bounds(version.state);
        self.places_left -= usize::from(is_new);
        let generation = self.before.generation + 1;
        let slot = Slot { file: found.file.clone(), version, standing, generation, since: self.now };
        Ok(Candidate { slot, links })
    }

    fn refuse(
        &mut self,
        found: &PluginFile,
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
        let again = match known {
            _ if error.code() != LoadCode::CompileTimeout => None,
            Some(known) if known.waits(self.now) => known.again,
            // It was retried just now, which took time.
            known => Some(Again::after(known.and_then(|known| known.again), SystemTime::now())),
        };
        let name = name.clone();
        self.state.refused.insert(found.file.clone(), Refused { name, digest, error, at, again });
    }

    fn finish(mut self, contents: Contents) -> Result<Prepared, (Arc<str>, LoadError)> {
        // A plugin whose file was removed keeps its position.
        self.candidates.sort_by(|a, b| a.slot.file.cmp(&b.slot.file));
        self.state.closed.sort_by(|a, b| a.file.cmp(&b.file));
        let (old, old_closed) = (&self.before.slots, &self.before.closed);
        let same = |new: &Candidate, old: &Slot| Arc::ptr_eq(&new.slot.version, &old.version);
        let unchanged = self.candidates.len() == old.len()
            && self.candidates.iter().zip(old).all(|(new, old)| same(new, old))
            && self.state.closed.len() == old_closed.len()
            && self.state.closed.iter().zip(old_closed).all(|(new, old)| new.file == old.file);
        let chains = if unchanged { None } else { Some(self.chains()?) };
        self.remember();
        self.state.slots = self.candidates.into_iter().map(|candidate| candidate.slot).collect();
        self.state.found = Some(contents.found);
        self.state.left_out = contents.left_out;
        let state = &mut self.state;
        let names: Vec<Arc<str>> = state.counters.keys().cloned().collect();
        for name in names {
            if state.knows(&name) {
                state.gone.remove(&name);
            } else {
                state.gone.entry(name).or_insert(self.now);
            }
        }
        Ok(Prepared { state: self.state, chains, newly_refused: self.newly_refused, loads: self.loads })
    }

    fn chains(&mut self) -> Result<Vec<Vec<Link>>, (Arc<str>, LoadError)> {
        self.state.generation = self.before.generation + 1;
        let workers = self.means.workers;
        // Sorted by file, so that a closed place is at the position of its plugin.
        let mut places: Vec<(&str, Vec<Link>)> = Vec::new();
        for closed in &self.state.closed {
            let counters = self.state.counters.entry(closed.name.clone());
            let counters = counters.or_insert_with(|| Arc::new(PluginCounters::new(workers)));
            let links =
                (0..workers).map(|worker| Link::closed(closed.name.clone(), worker, counters.clone()));
            places.push((&closed.file, links.collect()));
        }
        for candidate in &mut self.candidates {
            let version = &candidate.slot.version;
            let warmed = match candidate.links.take() {
                Some(links) => links,
                None => {
                    let counters = &self.state.counters[&version.name];
                    warm(version, workers, counters).map_err(|error| (version.name.clone(), error))?
                }
            };
            places.push((&candidate.slot.file, warmed));
        }
        places.sort_by_key(|(file, _)| *file);
        let mut chains: Vec<Vec<Link>> = (0..workers).map(|_| Vec::with_capacity(places.len())).collect();
        for (_, links) in places {
            for (chain, link) in chains.iter_mut().zip(links) {
                chain.push(link);
            }
        }
        Ok(chains)
    }

    /// Updates the records: which versions run, and which plugins are no longer wanted. A wanted version that
    /// could not be restored, for now or for good, stays recorded, so that no other version replaces it
    /// permanently.
    fn remember(&mut self) {
        let records = &mut self.state.records;
        for name in &self.taken_out {
            let runs = self.candidates.iter().any(|candidate| candidate.slot.version.name == *name);
            if let Some(record) = records.get_mut(name).filter(|_| !runs) {
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
            // A rollback by an operator holds until another file is there, not until the file cannot be read.
            let is_wished = slot.standing == PluginState::RolledBack
                || slot.standing == PluginState::LiveOlder && self.unread.contains(name);
            if !is_wished {
                record.pinned_over = None;
            }
            let wanted = |lost: &Lost| {
                lost.name == *name && Some(lost.digest) == record.running && !lost.error.is_final()
            };
            let is_put_off = slot.standing != PluginState::Live && self.state.lost.iter().any(wanted);
            if !is_put_off {
                record.running = Some(*digest);
            }
        }
        let mut removed: Vec<_> = records.iter().filter(|(_, record)| record.running.is_none()).collect();
        removed.sort_by_key(|(_, record)| record.versions.first().map(|kept| kept.since));
        let excess = removed.len().saturating_sub(REMOVED_MAX);
        let forgotten: Vec<Arc<str>> = removed[..excess].iter().map(|(name, _)| Arc::clone(name)).collect();
        records.retain(|name, _| !forgotten.contains(name));
    }
}
