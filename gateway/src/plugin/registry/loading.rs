//! [`Loading`] loads plugin files on threads of their own, so that a file that takes long to compile delays
//! no other.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use super::plugin_file::{Digest, PluginFile};
use super::state::Compiling;
use super::version::{Version, load};
use crate::plugin::load::{LoadCode, LoadError, Loader};

/// Most files that are loaded at the same time: a small plugin need not wait for one large one, and several
/// large ones leave processors to the connections.
const LOADS_MAX: usize = 2;

/// The files that are being loaded.
pub(super) struct Loading {
    shared: Arc<Shared>,
    /// How long a change of the chain waits for a file.
    patience: Duration,
}

struct Shared {
    loader: Arc<dyn Loader>,
    loads: Mutex<Vec<Load>>,
    /// A load has ended.
    progress: Condvar,
    ended: Notify,
}

/// A file that was given to the loader, or waits for another one.
struct Load {
    name: Arc<str>,
    file: Box<str>,
    digest: Digest,
    began: Instant,
    since: SystemTime,
    step: Step,
}

enum Step {
    Waiting,
    Running,
    Ended(Result<Arc<Version>, LoadError>),
    /// It runs, but the folder has another file now.
    Abandoned,
}

impl Loading {
    pub(super) fn new(loader: Arc<dyn Loader>, patience: Duration) -> Self {
        let (loads, progress, ended) = (Mutex::default(), Condvar::new(), Notify::new());
        Self { shared: Arc::new(Shared { loader, loads, progress, ended }), patience }
    }

    pub(super) fn loader(&self) -> &dyn Loader {
        &*self.shared.loader
    }

    /// Loads a file. If that takes longer than the patience of a change, the error has the code
    /// [`LoadCode::Compiling`]: the load goes on, and a later call gives its result.
    pub(super) fn load(
        &self,
        name: &Arc<str>,
        found: &PluginFile,
        digest: Digest,
    ) -> Result<Arc<Version>, LoadError> {
        self.wait(name, found, digest, Some(self.patience))
    }

    /// Loads a file, however long that takes.
    pub(super) fn load_to_the_end(
        &self,
        name: &Arc<str>,
        found: &PluginFile,
        digest: Digest,
    ) -> Result<Arc<Version>, LoadError> {
        self.wait(name, found, digest, None)
    }

    fn wait(
        &self,
        name: &Arc<str>,
        found: &PluginFile,
        digest: Digest,
        patience: Option<Duration>,
    ) -> Result<Arc<Version>, LoadError> {
        let mut loads = self.shared.lock();
        loop {
            let at = loads.iter().position(|load| load.is_of(&found.file, digest));
            let at = at.unwrap_or_else(|| {
                loads.push(Load::new(name, found, digest));
                loads.len() - 1
            });
            let running = loads.iter().filter(|load| load.runs()).count();
            match loads[at].step {
                Step::Ended(_) => break,
                Step::Abandoned => loads[at].step = Step::Running,
                Step::Waiting if running < LOADS_MAX => {
                    loads[at].step = Step::Running;
                    drop(loads);
                    self.shared.start(name, found, digest);
                    loads = self.shared.lock();
                    continue;
                }
                Step::Waiting | Step::Running => {}
            }
            loads = match patience.map(|patience| patience.checked_sub(loads[at].began.elapsed())) {
                None => self.shared.progress.wait(loads).unwrap_or_else(PoisonError::into_inner),
                Some(Some(left)) => {
                    let waited = self.shared.progress.wait_timeout(loads, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(None) => return Err(LoadError::new(LoadCode::Compiling, "is being compiled")),
            };
        }
        let at = loads.iter().position(|load| load.is_of(&found.file, digest));
        match at.map(|at| loads.swap_remove(at).step) {
            Some(Step::Ended(outcome)) => outcome,
            // Only changes take results, and they come one after the other.
            _ => Err(LoadError::new(LoadCode::Compiling, "is being compiled")),
        }
    }

    /// A load that goes on.
    pub(super) fn going_on(&self, file: &str, digest: Digest) -> Option<Compiling> {
        let loads = self.shared.lock();
        let load = loads.iter().find(|load| load.is_of(file, digest))?;
        Some(Compiling { file: file.into(), name: load.name.clone(), digest, since: load.since })
    }

    /// Forgets every load but these.
    pub(super) fn keep(&self, wanted: &[Compiling]) {
        let mut loads = self.shared.lock();
        let is_wanted = |load: &Load| wanted.iter().any(|wanted| load.is_of(&wanted.file, wanted.digest));
        loads.retain(|load| is_wanted(load) || load.runs());
        for load in loads.iter_mut().filter(|load| !is_wanted(load)) {
            load.step = Step::Abandoned;
        }
    }

    /// Whether a change would find a result, or start a load that waited.
    pub(super) fn has_news(&self) -> bool {
        let loads = self.shared.lock();
        let running = loads.iter().filter(|load| load.runs()).count();
        loads.iter().any(|load| match load.step {
            Step::Ended(_) => true,
            Step::Waiting => running < LOADS_MAX,
            Step::Running | Step::Abandoned => false,
        })
    }

    /// Waits for the end of a load.
    pub(super) async fn ended(&self) {
        self.shared.ended.notified().await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Load>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads a file on a new thread, or on this one if the system gives none.
    fn start(self: &Arc<Self>, name: &Arc<str>, found: &PluginFile, digest: Digest) {
        let (shared, name, found) = (self.clone(), name.clone(), found.clone());
        let run =
            Arc::new(move || shared.end(&found.file, digest, load(&*shared.loader, &name, &found, digest)));
        let here = run.clone();
        if thread::Builder::new().name("plugin-load".into()).spawn(move || run()).is_err() {
            here();
        }
    }

    fn end(&self, file: &str, digest: Digest, outcome: Result<Arc<Version>, LoadError>) {
        let mut loads = self.lock();
        if let Some(at) = loads.iter().position(|load| load.is_of(file, digest)) {
            match loads[at].step {
                Step::Abandoned => drop(loads.swap_remove(at)),
                _ => loads[at].step = Step::Ended(outcome),
            }
        }
        drop(loads);
        self.progress.notify_all();
        self.ended.notify_one();
    }
}

impl Load {
    fn new(name: &Arc<str>, found: &PluginFile, digest: Digest) -> Self {
        let (began, since) = (Instant::now(), SystemTime::now());
        Self { name: name.clone(), file: found.file.clone(), digest, began, since, step: Step::Waiting }
    }

    fn is_of(&self, file: &str, digest: Digest) -> bool {
        &*self.file == file && self.digest == digest
    }

    /// Whether it has a thread.
    fn runs(&self) -> bool {
        matches!(self.step, Step::Running | Step::Abandoned)
    }
}
