//! Which plugins are live. Takes what lies in the folder, refuses what is bad, and gives every worker a new chain.

mod found;
mod prepare;
mod status;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;
use tracing::{error, info, warn};

use self::prepare::{Prepared, Slot, State, duplicate, load, prepare, self_test};
use super::chain::Chain;
use super::counters::PluginCounters;
use super::grants::Grants;
use super::load::{About, Code, LoadError, Loader};

pub use self::found::{Digest, Found, plugin_name};
pub use self::status::{LastError, LiveVersion, PluginState, PluginStatus};

/// How long workers have to take a new chain before that is reported.
const SWAP_TIMEOUT: Duration = Duration::from_secs(5);
/// How many removed plugins stay in the status.
const REMOVED_MAX: usize = 64;

/// The threads that run chains.
pub trait Workers: Send + Sync {
    /// How many there are. Does not change.
    fn count(&self) -> usize;

    /// Gives a worker its next chain. The receiver is answered when the worker uses it, and dropped if the worker has
    /// ended. Must not block.
    fn swap(&self, worker: usize, chain: Chain) -> oneshot::Receiver<()>;
}

/// The plugins that are live, and the only one that changes them.
pub struct Registry {
    loader: Arc<dyn Loader>,
    workers: Arc<dyn Workers>,
    /// Held while a change is under way, so that changes happen one after the other.
    state: Arc<tokio::sync::Mutex<State>>,
    swap_timeout: Duration,
    /// A copy for readers, who must not wait for a compile.
    published: Mutex<Published>,
}

#[derive(Default)]
struct Published {
    state: State,
    removed: VecDeque<Slot>,
}

/// What became of one set of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The chain that is live now.
    pub generation: u64,
    /// Whether it is a new one.
    pub changed: bool,
    /// How many plugins it has.
    pub live: usize,
    /// Every file in the folder that is refused, with the reason.
    pub refused: Vec<(Box<str>, LoadError)>,
}

/// What [`Registry::check`] says of a file.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The plugin's name.
    pub name: Arc<str>,
    /// What the binary says of itself.
    pub about: About,
    /// What its settings file grants.
    pub grants: Grants,
    /// Of the plugin file and its settings.
    pub digest: Digest,
}

impl Registry {
    /// Nothing is live; the workers are expected to start with [`Chain::empty`].
    pub fn new(loader: Arc<dyn Loader>, workers: Arc<dyn Workers>) -> Self {
        let (state, published) = (Arc::default(), Mutex::default());
        Self { loader, workers, state, swap_timeout: SWAP_TIMEOUT, published }
    }

    /// Makes the chain follow `found`, the complete content of the folder.
    ///
    /// Compiles off the caller's thread. Instances for all workers are ready before the first worker is given its chain.
    /// A file that is refused leaves the last good version of the plugin in its place. Waits until all workers have
    /// taken over, or five seconds.
    ///
    /// Dropping the future before the workers were given their chains changes nothing; afterwards it only means not to
    /// wait for them.
    pub async fn apply(&self, found: Vec<Found>) -> Applied {
        let begin = Instant::now();
        let state = self.state.clone().lock_owned().await;
        let (loader, workers) = (self.loader.clone(), self.workers.count());
        let prepared = spawn_blocking(move || {
            let prepared = prepare(&state, &*loader, workers, found);
            (state, prepared)
        });
        // The task does not panic: the loader's panics are caught.
        let Ok((mut state, prepared)) = prepared.await else {
            error!("failed to prepare the plugins: the task ended early; everything stays as it is");
            return self.current();
        };
        let Prepared { state: next, chains, newly_refused } = match prepared {
            Ok(prepared) => prepared,
            Err((plugin, error)) => {
                error!(
                    plugin = &*plugin,
                    code = error.code().as_str(),
                    error = error.sentence(),
                    "failed to make instances of a live plugin for a new chain; everything stays as it is"
                );
                return self.current();
            }
        };
        let before = std::mem::replace(&mut *state, next);
        let changed = chains.is_some();
        let acknowledgements = chains.map(|chains| self.swap(state.generation, chains)).unwrap_or_default();
        self.publish(&before, &state);
        let generation = state.generation;
        for file in &newly_refused {
            log_refusal(file, &state);
        }
        if changed {
            wait(acknowledgements, generation, self.swap_timeout).await;
            log_change(&before, &state, begin.elapsed());
        }
        drop(state);
        Applied { changed, ..self.current() }
    }

    /// Every plugin of the folder in the order of the chain, then those that are not live.
    pub fn status(&self) -> Vec<PluginStatus> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &published.state;
        let counts =
            |name: &str| state.counters.get(name).map(|counters| counters.read()).unwrap_or_default();
        let live = |slot: &Slot| LiveVersion {
            about: slot.version.factory.about().clone(),
            grants: slot.version.grants.clone(),
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
                state: if refused.is_some() { PluginState::LiveOlder } else { PluginState::Live },
                live: Some(live(slot)),
                last_error: refused.map(|refused| LastError::new(&refused.error, refused.at)),
                counts: counts(&slot.version.name),
            }
        });
        let serving: BTreeSet<&str> = state.slots.iter().map(|slot| &*slot.file).collect();
        let refused = state.refused.iter().filter(|(file, _)| !serving.contains(&***file));
        let refused = refused.map(|(file, refused)| PluginStatus {
            name: refused.name.clone(),
            file: file.clone(),
            order: None,
            state: PluginState::Refused,
            live: None,
            last_error: Some(LastError::new(&refused.error, refused.at)),
            // A second file of the same name has no numbers of its own.
            counts: if state.slot(&refused.name).is_none() {
                counts(&refused.name)
            } else {
                Default::default()
            },
        });
        let removed = published.removed.iter().map(|slot| PluginStatus {
            name: slot.version.name.clone(),
            file: slot.file.clone(),
            order: None,
            state: PluginState::Removed,
            live: None,
            last_error: None,
            counts: counts(&slot.version.name),
        });
        slots.chain(refused).chain(removed).collect()
    }

    /// Loads and configures every file once, without a worker: what `gateway check` prints. Blocking.
    pub fn check(loader: &dyn Loader, found: &[Found]) -> BTreeMap<Box<str>, Result<Checked, LoadError>> {
        let mut results: BTreeMap<Box<str>, Result<Checked, LoadError>> = BTreeMap::new();
        let mut first: HashMap<Arc<str>, &str> = HashMap::new();
        let mut sorted: Vec<&Found> = found.iter().collect();
        sorted.sort_by(|a, b| a.file.cmp(&b.file));
        for found in sorted {
            let name: Arc<str> = plugin_name(&found.file).unwrap_or(&found.file).into();
            let first = *first.entry(name.clone()).or_insert(&found.file);
            let result = if first == &*found.file {
                load(loader, &name, found, Digest::of(found)).and_then(|version| {
                    version.factory.instantiate(&Arc::new(PluginCounters::new(1)))?;
                    self_test(loader, &version, found)?;
                    let (about, grants) = (version.factory.about().clone(), version.grants.clone());
                    Ok(Checked { name, about, grants, digest: version.digest })
                })
            } else {
                Err(duplicate(&name, first))
            };
            results.insert(found.file.clone(), result);
        }
        results
    }

    fn swap(&self, generation: u64, chains: Vec<Vec<super::Link>>) -> Vec<oneshot::Receiver<()>> {
        let chains = chains.into_iter().map(|links| Chain::new(generation, links)).enumerate();
        chains.map(|(worker, chain)| self.workers.swap(worker, chain)).collect()
    }

    fn publish(&self, before: &State, now: &State) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.state = now.clone();
        let present = |name: &str| {
            now.slot(name).is_some() || now.refused.values().any(|refused| &*refused.name == name)
        };
        published.removed.retain(|slot| !present(&slot.version.name));
        let gone = before.slots.iter().filter(|slot| !present(&slot.version.name));
        published.removed.extend(gone.cloned());
        while published.removed.len() > REMOVED_MAX {
            published.removed.pop_front();
        }
    }

    fn current(&self) -> Applied {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let State { generation, slots, refused, .. } = &published.state;
        let refused = refused.iter().map(|(file, refused)| (file.clone(), refused.error.clone()));
        Applied { generation: *generation, changed: false, live: slots.len(), refused: refused.collect() }
    }
}

async fn wait(acknowledgements: Vec<oneshot::Receiver<()>>, generation: u64, longest: Duration) {
    let deadline = Instant::now() + longest;
    for (worker, acknowledgement) in acknowledgements.into_iter().enumerate() {
        match timeout_at(deadline.into(), acknowledgement).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => warn!(worker, generation, "a worker has ended and takes no new chain"),
            Err(_) => error!(
                worker,
                generation,
                "a worker is too busy to take the new chain; it goes on with the old one until it does"
            ),
        }
    }
}

fn log_refusal(file: &str, state: &State) {
    let Some(refused) = state.refused.get(file) else { return };
    let serving = state.slot(&refused.name).is_some_and(|slot| &*slot.file == file);
    let consequence = if serving { "its last good version goes on" } else { "it is left out" };
    error!(
        file,
        code = refused.error.code().as_str(),
        digest = refused.digest.short(),
        "plugin refused: the file {}; {consequence}",
        refused.error.sentence()
    );
}

fn log_change(before: &State, now: &State, took: Duration) {
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
                digest = version.digest.short(),
                replaces = old.map(|old| old.version.digest.short()),
                compiled = version.factory.code() == Code::Compiled,
                took_ms = version.took.as_millis() as u64,
                generation = now.generation,
                "plugin live"
            ),
        }
    }
    for slot in &before.slots {
        if now.slot(&slot.version.name).is_none() {
            let (plugin, file, generation) = (&*slot.version.name, &*slot.file, now.generation);
            info!(plugin, file, generation, "plugin taken out");
        }
    }
    let chain = now.slots.iter().map(|slot| &*slot.version.name).collect::<Vec<_>>().join(" > ");
    info!(generation = now.generation, chain, took_ms = took.as_millis() as u64, "plugin chain swapped");
}

#[cfg(test)]
mod tests;
