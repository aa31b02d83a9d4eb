//! [`Registry`] decides which plugins are live: it takes the contents of the plugin folder, refuses invalid
//! plugins, and gives every worker a new chain.

mod archive;
mod plugin_file;
mod version;
mod loading;
mod record;
mod state;
mod prepare;
mod rollback;
mod status;
mod report;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;
use tracing::{debug, error, info, warn};

use self::loading::Loading;
use self::prepare::{Means, Prepared, prepare};
use self::state::{Slot, State};
use self::version::{duplicate, load, self_test};
use super::breaker::Hold;
use super::chain::Chain;
use super::counters::PluginCounters;
use super::grants::Grants;
use super::load::{About, Cancel, LoadCode, LoadError, Loader};
use super::spare::Offload;

pub use self::archive::Archive;
pub use self::plugin_file::{Contents, Digest, LeftOut, Meant, PluginFile, plugin_name};
pub use self::prepare::Loads;
pub use self::record::{Kept, Record, VERSIONS_KEPT, at_seconds, seconds};
pub use self::rollback::{RollbackError, RolledBack};
pub use self::status::{ClosedPlace, LastError, LeftOutStatus, LiveVersion, PluginState, PluginStatus};

/// How long workers may take to adopt a new chain before a log line reports it.
const SWAP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a change waits for a file that is being compiled. A plugin of ordinary size is compiled by then,
/// so plugins that arrive together become live together.
const PATIENCE: Duration = Duration::from_secs(3);
/// Default for the most plugins in a chain.
const PLUGINS_MAX: usize = 32;
/// How long the rate limits, values and counters of a plugin are kept after its file was removed.
const STATE_KEPT: Duration = Duration::from_secs(60 * 60);
/// How many removed plugins stay in the status.
const REMOVED_MAX: usize = 64;

/// The threads that run chains.
pub trait Workers: Send + Sync {
    /// Number of workers. Constant.
    fn count(&self) -> usize;

    /// Passes a worker its next chain. The receiver resolves when the worker uses it, and fails if the worker
    /// has ended. Must not block.
    fn swap(&self, worker: usize, chain: Chain) -> oneshot::Receiver<()>;
}

/// The live plugins. Only the registry changes them.
pub struct Registry {
    loading: Arc<Loading>,
    workers: Arc<dyn Workers>,
    archive: Option<Arc<Archive>>,
    keep_removed: bool,
    /// Executor that makes standby instances.
    offload: Option<Arc<dyn Offload>>,
    /// Plugins without which the gateway does not serve.
    required: Arc<[Box<str>]>,
    /// Most plugins in a chain.
    plugins_max: usize,
    /// Locked during a change, so that changes happen one after the other.
    state: Arc<tokio::sync::Mutex<State>>,
    swap_timeout: Duration,
    /// Told of every result before the log and the caller are.
    observer: Box<dyn Fn(&Applied) + Send + Sync>,
    /// A copy for readers, which must not wait for a compile.
    published: Mutex<Published>,
}

#[derive(Default)]
struct Published {
    state: State,
    removed: VecDeque<Slot>,
}

/// Result of applying one set of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The chain that is live now.
    pub generation: u64,
    /// Whether the chain is new.
    pub changed: bool,
    /// Number of plugins in it.
    pub live: usize,
    /// All refused files of the folder, with the reason.
    pub refused: Vec<(Box<str>, LoadError)>,
    /// Loads of this run.
    pub loads: Loads,
}

/// Result of [`Registry::check`] for a file.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The plugin's name.
    pub name: Arc<str>,
    /// Metadata of the binary.
    pub about: About,
    /// The grants of its settings file.
    pub grants: Grants,
    /// Digest of the plugin file and its settings.
    pub digest: Digest,
}

impl Registry {
    /// No live plugins; workers must start with [`Chain::empty`].
    pub fn new(loader: Arc<dyn Loader>, workers: Arc<dyn Workers>) -> Self {
        let (loading, state, published) =
            (Arc::new(Loading::new(loader, PATIENCE)), Arc::default(), Mutex::default());
        let (archive, keep_removed, offload, required) = (None, false, None, [].into());
        let (plugins_max, swap_timeout, observer) = (PLUGINS_MAX, SWAP_TIMEOUT, Box::new(|_: &Applied| {}));
        Self {
            loading,
            workers,
            archive,
            keep_removed,
            offload,
            required,
            plugins_max,
            state,
            swap_timeout,
            observer,
            published,
        }
    }

    /// Makes standby instances on this executor, not on the blocking threads of the runtime that changes the
    /// chain.
    pub fn with_offload(self, offload: Arc<dyn Offload>) -> Self {
        Self { offload: Some(offload), ..self }
    }

    /// With required plugins, by name: [`missing`](Self::missing) lists those that do not run. They keep
    /// running when their files are removed.
    pub fn with_required(self, required: impl Into<Arc<[Box<str>]>>) -> Self {
        Self { required: required.into(), ..self }
    }

    /// Tells `observer` what each change came to, as soon as the state of the plugins shows it and before a
    /// log line tells it. It must not block.
    pub fn with_observer(self, observer: impl Fn(&Applied) + Send + Sync + 'static) -> Self {
        Self { observer: Box::new(observer), ..self }
    }

    /// With another limit on the number of plugins.
    pub fn with_plugins_max(self, plugins_max: usize) -> Self {
        Self { plugins_max, ..self }
    }

    /// Stores versions that were live in `archive`, and starts with those of an earlier process.
    pub fn with_archive(self, archive: Arc<Archive>) -> Self {
        let state = State { records: archive.records(), ..State::default() };
        Self { archive: Some(archive), state: Arc::new(tokio::sync::Mutex::new(state)), ..self }
    }

    /// Keeps a plugin running when its file is removed from the folder.
    pub fn keep_removed(self, keep_removed: bool) -> Self {
        Self { keep_removed, ..self }
    }

    /// Makes the chain follow the complete contents of the folder.
    ///
    /// Compiles off the caller's thread. Instances for all workers are ready before the first worker gets its
    /// chain. A file that takes long to compile joins later, see [`loaded`](Self::loaded); until then its
    /// place stays as it was. Only the first load waits for it. If a file is refused, the last good version
    /// of the plugin stays in the chain. Without one the chain stays as it was, except at the first load,
    /// when nothing has been served yet: then the plugin's place in the chain is closed, see
    /// [`closed`](Self::closed). Waits until all workers use the new chain, but at most five seconds.
    ///
    /// Dropping the future before the workers got their chains changes nothing; later it only stops waiting
    /// for them.
    pub async fn apply(&self, contents: impl Into<Contents>) -> Applied {
        let begin = Instant::now();
        let before = self.state.clone().lock_owned().await;
        match self.prepare(State::clone(&before), contents.into()).await {
            Some(prepared) => self.install(before, prepared, begin).await,
            None => self.current(),
        }
    }

    /// The next state, prepared off this thread; `None`, with a log line, if everything stays as it is.
    async fn prepare(&self, before: State, contents: Contents) -> Option<Prepared> {
        let (loading, workers) = (self.loading.clone(), self.workers.count());
        let (archive, keep_removed, plugins_max) =
            (self.archive.clone(), self.keep_removed, self.plugins_max);
        let required = self.required.clone();
        let prepared = spawn_blocking(move || {
            let archive = archive.as_deref();
            let means =
                Means { loading: &loading, workers, plugins_max, archive, keep_removed, required: &required };
            prepare(&before, &means, contents)
        });
        match prepared.await {
            Ok(Ok(prepared)) => Some(prepared),
            Ok(Err((plugin, error))) => {
                error!(
                    plugin = &*plugin,
                    code = error.code().as_str(),
                    error = error.message(),
                    "failed to create instances for a new chain; the old chain stays"
                );
                None
            }
            // The task does not panic: panics of the loader are caught.
            Err(_) => {
                error!("failed to prepare the plugins: the task ended early; the old chain stays");
                None
            }
        }
    }

    /// Makes a prepared state live and stores it in the archive.
    async fn install(
        &self,
        mut state: OwnedMutexGuard<State>,
        prepared: Prepared,
        begin: Instant,
    ) -> Applied {
        let Prepared { state: next, chains, newly_refused, loads } = prepared;
        let before = std::mem::replace(&mut *state, next);
        // Not earlier: a change that is not made needs none of its loads.
        self.loading.keep(&state.compiling);
        let changed = chains.is_some();
        let acknowledgements = chains.map(|chains| self.swap(state.generation, chains)).unwrap_or_default();
        self.publish(&before, &state);
        let applied = Applied { changed, loads, ..self.current() };
        (self.observer)(&applied);
        for file in &newly_refused {
            report::refusal(file, &state);
        }
        if changed {
            let given = Instant::now();
            wait(acknowledgements, state.generation, self.swap_timeout).await;
            let took_us = given.elapsed().as_micros() as u64;
            debug!(generation = state.generation, took_us, "all workers use the new chain");
        }
        let took = changed.then(|| begin.elapsed());
        let before = Arc::new(before);
        if let Some(archive) = self.archive.clone() {
            let (before, now) = (before.clone(), State::clone(&state));
            let _ = spawn_blocking(move || write_down(&archive, &before, &now)).await;
        }
        // Logged once the change also survives a restart.
        report::change(&before, &state, took);
        drop(state);
        applied
    }

    /// State of each plugin that was ever live, by name.
    pub fn states(&self) -> Vec<(Arc<str>, Arc<super::state::PluginState>)> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = published.state.counters.iter();
        counters.map(|(name, counters)| (name.clone(), counters.state().clone())).collect()
    }

    /// The live plugins in the order of the chain: name, and SHA-256 of the file and of the settings in
    /// hexadecimal.
    pub fn digests(&self) -> Vec<(Arc<str>, String)> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = |slot: &Slot| {
            let digest = slot.version.digest;
            let settings = digest.settings_hex().map(|settings| format!("+{settings}"));
            (slot.version.name.clone(), digest.wasm_hex() + &settings.unwrap_or_default())
        };
        published.state.slots.iter().map(digest).collect()
    }

    /// Periodic maintenance. Drops the state of plugins that have been removed for [`STATE_KEPT`]. Retries
    /// files refused at the start, and versions that could not be restored, if the reason may have passed,
    /// such as a lack of memory. Retries files that took too long to compile, with growing pauses. Takes
    /// files that were compiled in the background. Returns the result if there was anything to do.
    pub async fn tend(&self) -> Option<Applied> {
        let mut state = self.state.clone().lock_owned().await;
        if let Some(before) = SystemTime::now().checked_sub(STATE_KEPT) {
            let forgotten = state.forget(before);
            if !forgotten.is_empty() {
                let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
                published.removed.retain(|slot| !forgotten.contains(&slot.version.name));
                published.state = state.clone();
            }
        }
        // A plugin beyond the limit fits once another one is removed; a file that took too long has its own
        // schedule.
        let may_work_now = |error: &LoadError| {
            !error.is_final()
                && !matches!(error.code(), LoadCode::TooMany | LoadCode::CompileTimeout | LoadCode::Compiling)
        };
        let closed = state.closed.iter().map(|closed| &closed.error);
        let lost = state.lost.iter().map(|lost| &lost.error);
        let now = SystemTime::now();
        let is_due = state.refused.values().any(|refused| refused.is_due(now));
        if !is_due && !self.loading.has_news() && !closed.chain(lost).any(may_work_now) {
            return None;
        }
        let contents =
            Contents { found: state.found.clone().unwrap_or_default(), left_out: state.left_out.clone() };
        drop(state);
        Some(self.apply(contents).await)
    }

    /// Waits until a file has been compiled, or refused: [`tend`](Self::tend) then has something to do if the
    /// change that found the file did not wait for it.
    pub async fn loaded(&self) {
        self.loading.ended().await;
    }

    /// Whether the contents of the folder have become the chain at least once.
    pub fn has_begun(&self) -> bool {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.state.found.is_some()
    }

    /// Most memory that the plugins of the chain may take by their limits: an instance and a standby instance
    /// on each worker, and those that wait.
    pub fn memory_max(&self) -> u64 {
        let workers = self.workers.count();
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |slot: &Slot| {
            let waiting = if slot.version.grants.http.is_empty() { 0 } else { slot.version.http_instances };
            ((workers * 2 + waiting) as u64).saturating_mul(slot.version.limits.memory as u64)
        };
        published.state.slots.iter().map(of).sum()
    }

    /// Sets the override of a plugin's breaker. False if no plugin of this name is live. Later versions
    /// inherit it.
    pub fn hold_breaker(&self, name: &str, hold: Hold) -> bool {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = published.state.slot(name) else { return false };
        slot.version.breaker.hold(hold);
        let set = match hold {
            Hold::Auto => "auto",
            Hold::Closed => "closed",
            Hold::Open => "open",
        };
        info!(plugin = name, breaker = set, "plugin breaker changed: set by an operator");
        true
    }

    /// Loads and configures every file once, without a worker, for `gateway check`. Blocking.
    pub fn check(
        loader: &dyn Loader,
        found: &[PluginFile],
    ) -> BTreeMap<Box<str>, Result<Checked, LoadError>> {
        let mut results: BTreeMap<Box<str>, Result<Checked, LoadError>> = BTreeMap::new();
        let mut first: HashMap<Arc<str>, &str> = HashMap::new();
        let mut sorted: Vec<&PluginFile> = found.iter().collect();
        sorted.sort_by(|a, b| a.file.cmp(&b.file));
        for found in sorted {
            let name: Arc<str> = plugin_name(&found.file).unwrap_or(&found.file).into();
            let first = *first.entry(name.clone()).or_insert(&found.file);
            let result = if first == &*found.file {
                load(loader, &name, found, Digest::of(found), &Cancel::default()).and_then(|version| {
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
        let offload = self.offload.clone().unwrap_or_else(|| Arc::new(Handle::current()));
        let chain = |links: Vec<super::Link>| {
            let links = links.into_iter().map(|link| link.with_offload(offload.clone()));
            Chain::new(generation, links.collect())
        };
        let chains = chains.into_iter().map(chain).enumerate();
        chains.map(|(worker, chain)| self.workers.swap(worker, chain)).collect()
    }

    fn publish(&self, before: &State, now: &State) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in &now.slots {
            let held = before.slot(&slot.version.name).map_or(Hold::Auto, |old| old.version.breaker.held());
            if held != Hold::Auto {
                slot.version.breaker.hold(held);
            }
        }
        published.state = now.clone();
        let present = |name: &str| now.knows(name);
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
        Applied {
            generation: *generation,
            changed: false,
            live: slots.len(),
            refused: refused.collect(),
            loads: Loads::default(),
        }
    }
}

async fn wait(acknowledgements: Vec<oneshot::Receiver<()>>, generation: u64, longest: Duration) {
    let deadline = Instant::now() + longest;
    for (worker, acknowledgement) in acknowledgements.into_iter().enumerate() {
        match timeout_at(deadline.into(), acknowledgement).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => warn!(worker, generation, "worker has ended; it does not take the new chain"),
            Err(_) => error!(
                worker,
                generation, "worker too busy to take the new chain; it uses the old one until then"
            ),
        }
    }
}

/// Archives the versions that became live, and which one of each plugin runs. A failure affects later
/// rollbacks, not the live version.
fn write_down(archive: &Archive, before: &State, now: &State) {
    let mut changed = before.records.len() != now.records.len();
    for (name, record) in &now.records {
        if before.records.get(name) == Some(record) {
            continue;
        }
        changed = true;
        let taken = now.slot(name).filter(|slot| slot.standing == PluginState::Live);
        let found = taken.and_then(|slot| now.found.iter().flatten().find(|found| found.file == slot.file));
        let kept = match found.map(|found| (&found.wasm, &found.settings)) {
            Some((Ok(wasm), None)) => archive.keep(wasm, None),
            Some((Ok(wasm), Some(Ok(settings)))) => archive.keep(wasm, Some(settings)),
            _ => Ok(()),
        };
        if let Err(error) = kept.and_then(|()| archive.save(name, record)) {
            error!(
                plugin = &**name,
                %error,
                "failed to store the running version of a plugin; a restart will use only the plugin folder"
            );
        }
    }
    if changed && let Err(error) = archive.tidy(&now.records) {
        warn!(%error, "failed to remove old versions of plugins");
    }
}

#[cfg(test)]
mod tests;
