//! [`Loading`] loads plugin files on threads of their own, so that a file that takes long to compile delays
//! no other.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use super::plugin_file::{Digest, PluginFile};
use super::state::Compiling;
use super::version::{Version, load};
use crate::plugin::load::{Cancel, LoadCode, LoadError, Loader};

/// Most files that are loaded at the same time, each on a thread of its own. There are many, because most of
/// them may wait for a compiler, of which the loader runs few, and the others need none.
const LOADS_MAX: usize = 32;

/// The files that are being loaded.
pub(super) struct Loading {
    shared: Arc<Shared>,
    /// How long a change of the chain waits for a file.
    patience: Duration,
}

struct Shared {
    loader: Arc<dyn Loader>,
    loads: Mutex<LoadList>,
    /// A load has ended.
    progress: Condvar,
    ended: Notify,
}

#[derive(Default)]
struct LoadList {
    list: Vec<Load>,
    /// Number of the next load.
    next: u64,
}

/// A file that was given to the loader, or waits for another one.
struct Load {
    /// A file that is loaded again after it was cancelled has another number.
    number: u64,
    name: Arc<str>,
    file: Box<str>,
    digest: Digest,
    began: Instant,
    since: SystemTime,
    step: Step,
    cancel: Cancel,
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

    /// Begins to load a file that [`load`](Self::load) will be called for, if there is room. Files that are
    /// begun before the first is waited for are loaded beside each other, and their patience is the same.
    pub(super) fn begin(&self, name: &Arc<str>, found: &PluginFile, digest: Digest) {
        drop(self.shared.begin(self.shared.lock(), name, found, digest));
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
            loads = self.shared.begin(loads, name, found, digest);
            // It is there: only changes remove loads, and they come one after the other.
            let Some(at) = loads.list.iter().position(|load| load.is_of(&found.file, digest)) else {
                continue;
            };
            let load = &loads.list[at];
            if let Step::Ended(outcome) = &load.step {
                let outcome = outcome.clone();
                loads.list.swap_remove(at);
                return outcome;
            }
            loads = match patience.map(|patience| patience.checked_sub(load.began.elapsed())) {
                None => self.shared.progress.wait(loads).unwrap_or_else(PoisonError::into_inner),
                Some(Some(left)) => {
                    let waited = self.shared.progress.wait_timeout(loads, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(None) => return Err(LoadError::new(LoadCode::Compiling, "is being compiled")),
            };
        }
    }

    /// A load that goes on.
    pub(super) fn going_on(&self, file: &str, digest: Digest) -> Option<Compiling> {
        let loads = self.shared.lock();
        let load = loads.list.iter().find(|load| load.is_of(file, digest))?;
        Some(Compiling { file: file.into(), name: load.name.clone(), digest, since: load.since })
    }

    /// Forgets every load but these. A module that none of them needs is compiled no longer.
    pub(super) fn keep(&self, wanted: &[Compiling]) {
        let mut loads = self.shared.lock();
        let is_wanted = |load: &Load| wanted.iter().any(|wanted| load.is_of(&wanted.file, wanted.digest));
        loads.list.retain(|load| is_wanted(load) || load.runs());
        for load in loads.list.iter_mut().filter(|load| !is_wanted(load)) {
            load.step = Step::Abandoned;
            // If only the settings are others, the compile is still of use.
            if !wanted.iter().any(|wanted| wanted.digest.has_module_of(&load.digest)) {
                load.cancel.cancel();
            }
        }
    }

    /// Whether a change would find a result, or start a load that waited.
    pub(super) fn has_news(&self) -> bool {
        let loads = self.shared.lock();
        loads.list.iter().any(|load| match load.step {
            Step::Ended(_) => true,
            Step::Waiting => loads.have_room_for(load.digest),
            Step::Running | Step::Abandoned => false,
        })
    }

    /// Waits for the end of a load.
    pub(super) async fn ended(&self) {
        self.shared.ended.notified().await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, LoadList> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to load a file, unless it is being loaded or has to wait.
    fn begin<'a>(
        self: &'a Arc<Self>,
        mut loads: MutexGuard<'a, LoadList>,
        name: &Arc<str>,
        found: &PluginFile,
        digest: Digest,
    ) -> MutexGuard<'a, LoadList> {
        let at = loads.list.iter().position(|load| load.is_of(&found.file, digest));
        let at = at.unwrap_or_else(|| loads.add(name, found, digest));
        let has_room = loads.have_room_for(digest);
        let load = &mut loads.list[at];
        match load.step {
            Step::Abandoned => load.step = Step::Running,
            Step::Waiting if has_room => {
                load.step = Step::Running;
                let (number, cancel) = (load.number, load.cancel.clone());
                drop(loads);
                self.start(number, cancel, name, found, digest);
                return self.lock();
            }
            Step::Waiting | Step::Running | Step::Ended(_) => {}
        }
        loads
    }

    /// Loads a file on a new thread, or on this one if the system gives none.
    fn start(
        self: &Arc<Self>,
        number: u64,
        cancel: Cancel,
        name: &Arc<str>,
        found: &PluginFile,
        digest: Digest,
    ) {
        let (shared, name, found) = (self.clone(), name.clone(), found.clone());
        let run = Arc::new(move || shared.end(number, load(&*shared.loader, &name, &found, digest, &cancel)));
        let here = run.clone();
        if thread::Builder::new().name("plugin-load".into()).spawn(move || run()).is_err() {
            here();
        }
    }

    fn end(&self, number: u64, outcome: Result<Arc<Version>, LoadError>) {
        let mut loads = self.lock();
        if let Some(at) = loads.list.iter().position(|load| load.number == number) {
            let load = &loads.list[at];
            // What was compiled is kept until the load that waits for it has begun.
            let is_of_use = outcome.is_ok() && loads.list.iter().any(|other| other.waits_for(load));
            match load.step {
                Step::Abandoned if !is_of_use => drop(loads.list.swap_remove(at)),
                _ => loads.list[at].step = Step::Ended(outcome),
            }
        }
        drop(loads);
        self.progress.notify_all();
        self.ended.notify_one();
    }
}

impl LoadList {
    /// Adds a load that waits. Returns its place.
    fn add(&mut self, name: &Arc<str>, found: &PluginFile, digest: Digest) -> usize {
        self.list.push(Load {
            number: self.next,
            name: name.clone(),
            file: found.file.clone(),
            digest,
            began: Instant::now(),
            since: SystemTime::now(),
            step: Step::Waiting,
            cancel: Cancel::default(),
        });
        self.next += 1;
        self.list.len() - 1
    }

    /// Whether a load may begin. A module is compiled once, whatever its settings: a second load of it begins
    /// when the first has ended, and finds the code.
    fn have_room_for(&self, digest: Digest) -> bool {
        let mut running = self.list.iter().filter(|load| load.runs());
        running.clone().count() < LOADS_MAX && !running.any(|load| load.digest.has_module_of(&digest))
    }
}

impl Load {
    /// Whether it gives the result for this file.
    fn is_of(&self, file: &str, digest: Digest) -> bool {
        &*self.file == file && self.digest == digest && !self.cancel.is_cancelled()
    }

    /// Whether it has a thread.
    fn runs(&self) -> bool {
        matches!(self.step, Step::Running | Step::Abandoned)
    }

    /// Whether it waits because the other load has the same module.
    fn waits_for(&self, other: &Self) -> bool {
        matches!(self.step, Step::Waiting) && self.digest.has_module_of(&other.digest)
    }
}
