//! `Status` records whether a server can be used and since when not, for health, metrics and the log.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::RedisServer;
use crate::telemetry::backplane::{BackplaneMetrics, Trouble};

/// A problem with Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) trouble: Trouble,
    /// Detail for operators. Contains no secrets.
    pub(crate) detail: Box<str>,
}

impl Cause {
    pub(crate) fn new(trouble: Trouble, detail: impl Into<Box<str>>) -> Self {
        Self { trouble, detail: detail.into() }
    }

    /// Whether the server answers but does not carry out commands.
    pub(crate) fn is_of_writing(&self) -> bool {
        matches!(self.trouble, Trouble::Writes | Trouble::Refused)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.trouble {
            Trouble::Unreachable => "redis cannot be reached",
            Trouble::Silent => "redis does not answer",
            Trouble::Refused => "redis refuses this gateway's user",
            Trouble::Replica => "redis is a replica, which takes no writes",
            Trouble::Writes => "redis takes no writes",
            Trouble::Differs => "other gateways use redis otherwise",
        };
        write!(f, "{what}: {}", self.detail)
    }
}

/// The trouble of each server: metrics and the log report the first.
type Troubles = Arc<Mutex<Vec<Option<(Trouble, String)>>>>;

/// Why a server cannot be used.
#[derive(Debug)]
enum Known {
    /// The first attempt to reach it is in progress, which is no trouble to report.
    Connecting(Arc<str>),
    /// A problem was found.
    Problem(Trouble, Arc<str>),
}

/// Status of one server, shared by all tasks that learn something about it.
#[derive(Debug)]
pub(crate) struct Status {
    /// Name of the server, if it is known which server it is.
    name: Mutex<Option<String>>,
    shard_index: usize,
    all: Troubles,
    cause: Mutex<Option<Known>>,
    /// Number of the usable connection; 0 for none.
    connection: AtomicU64,
    metrics: Arc<BackplaneMetrics>,
}

impl Status {
    /// Creates one for each server; a single server needs no name.
    pub(crate) fn of(names: Vec<Option<String>>, metrics: &Arc<BackplaneMetrics>) -> Vec<Self> {
        let all = Troubles::new(Mutex::new(vec![None; names.len()]));
        let status = |(shard_index, name)| {
            let (all, metrics) = (all.clone(), metrics.clone());
            let name = Mutex::new(name);
            Self { name, shard_index, all, cause: Mutex::default(), connection: AtomicU64::new(0), metrics }
        };
        names.into_iter().enumerate().map(status).collect()
    }

    /// The first attempt to reach the server begins: it has no connection, but nothing is wrong with it yet.
    pub(crate) fn begin(&self) {
        let sentence = self.sentence(&Cause::new(Trouble::Unreachable, "not connected yet"));
        *self.known() = Some(Known::Connecting(sentence.into()));
    }

    /// The first attempt takes longer than it should. `detail` says what was tried. Without effect if the
    /// attempt has ended.
    pub(crate) fn is_late(&self, detail: &str) {
        let mut known = self.known();
        if matches!(*known, Some(Known::Connecting(_))) {
            self.replace(&mut known, Some(Cause::new(Trouble::Unreachable, detail)));
        }
    }

    /// Another server is assigned, or none. What is known of the previous one does not concern it.
    pub(crate) fn rename(&self, name: Option<String>) {
        let some = name.is_some();
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = name;
        if some {
            self.begin();
        } else {
            self.set(None);
        }
    }

    /// The assigned server is at this address; later problems are reported there.
    pub(crate) fn is_at(&self, server: &RedisServer) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = Some(server.to_string());
    }

    /// The address of the server is unknown.
    pub(crate) fn is_nowhere(&self) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Number of the usable connection.
    pub(crate) fn connection(&self) -> Option<u64> {
        Some(self.connection.load(Ordering::Acquire)).filter(|number| *number != 0)
    }

    /// Sets the usable connection (from 1 on), or none.
    pub(crate) fn set_connection(&self, number: Option<u64>) {
        self.connection.store(number.unwrap_or(0), Ordering::Release);
    }

    /// Sets the current problem. The log and the metrics get it when its kind changes; other details of the
    /// same kind, which each attempt to connect may bring, are only kept for queries.
    pub(crate) fn set(&self, cause: Option<Cause>) {
        self.replace(&mut self.known(), cause);
    }

    /// Under the lock with which the caller has looked at what was known.
    fn replace(&self, known: &mut Option<Known>, cause: Option<Cause>) {
        if known.is_none() && cause.is_none() {
            return;
        }
        let before = match known {
            Some(Known::Problem(trouble, _)) => Some(*trouble),
            Some(Known::Connecting(_)) | None => None,
        };
        let cause = cause.map(|cause| (cause.trouble, self.sentence(&cause)));
        if cause.is_none() || before != cause.as_ref().map(|(trouble, _)| *trouble) {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            let before = all.iter().flatten().next().cloned();
            all[self.shard_index].clone_from(&cause);
            let first = all.iter().flatten().next();
            if first != before.as_ref() {
                self.metrics.trouble(first.cloned());
            }
        }
        *known = cause.map(|(trouble, sentence)| Known::Problem(trouble, sentence.into()));
    }

    /// There is a connection that requests may use.
    pub(crate) fn connected(&self) {
        self.metrics.linked(&self.name());
    }

    /// Describes a cause, with the name of its server.
    pub(crate) fn sentence(&self, cause: &Cause) -> String {
        self.named(&cause.to_string())
    }

    /// Adds the name of the server to a text.
    pub(crate) fn named(&self, what: &str) -> String {
        match self.name() {
            name if name.is_empty() => what.to_owned(),
            name => format!("{name}: {what}"),
        }
    }

    /// The name of the server; empty if it is not known which server it is.
    fn name(&self) -> String {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Like [`set`](Self::set), unless a problem is known already.
    pub(crate) fn suspect(&self, cause: Cause) {
        let mut known = self.known();
        if known.is_none() {
            self.replace(&mut known, Some(cause));
        }
    }

    /// Whether publishing is known to fail: the health check notices when it works again.
    pub(crate) fn takes_no_writes(&self) -> bool {
        matches!(
            *self.known(),
            Some(Known::Problem(Trouble::Writes | Trouble::Refused | Trouble::Replica, _))
        )
    }

    /// Why the server cannot be used, as a sentence.
    pub(crate) fn cause(&self) -> Option<Arc<str>> {
        match &*self.known() {
            Some(Known::Connecting(sentence) | Known::Problem(_, sentence)) => Some(sentence.clone()),
            None => None,
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
