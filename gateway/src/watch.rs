//! [`Watcher`] watches the plugin folder: notifications wake it, and a cheap scan of the folder decides.
//!
//! Files count once none of them has changed for a moment, so that a plugin and its settings arrive as one
//! change. Only the scan counts: a notification that is missing, doubled or wrong just makes the scan later
//! or repeats it.

mod file;
mod folder;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tracing::{info, warn};

use self::folder::{Folder, FolderId};
use crate::config;
use crate::plugin::registry::Contents;

/// Notifications within this time count as one.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Interval between scans while something in the folder changes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Maximum time that a file that never stops changing delays the others.
const HOLD_UP_MAX: Duration = Duration::from_secs(1);

/// How the folder is watched.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum size of a file in bytes; a larger one is reported as unusable and not read.
    pub file_bytes_max: u64,
    /// Maximum bytes of all files; a file that does not fit is not read until it does.
    pub folder_bytes_max: u64,
    /// How long a file must be unchanged before it is read.
    pub settle: Duration,
    /// How long a file must be unchanged before an error in it is reported: until then it may be half copied.
    pub complete: Duration,
    /// Interval between scans without a notification.
    pub poll: Duration,
    /// Whether to subscribe to the system's notifications.
    pub ask_system: bool,
    /// Whether to refuse files that other users could have put there.
    pub check_owner: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            file_bytes_max: 64 << 20,
            folder_bytes_max: 1 << 30,
            settle: Duration::from_millis(100),
            complete: Duration::from_millis(700),
            poll: Duration::from_secs(2),
            ask_system: true,
            check_owner: true,
        }
    }
}

impl From<&config::Plugins> for Options {
    fn from(plugins: &config::Plugins) -> Self {
        Self {
            ask_system: plugins.watch == config::Watch::Notify,
            check_owner: plugins.check_owner,
            ..Self::default()
        }
    }
}

/// The complete content of the folder, in the order of file names. The bytes of unchanged files are shared
/// with earlier events.
#[derive(Debug, Clone)]
pub struct Changed(pub Contents);

/// The folder cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the plugin folder {path}: {error}; create it or change the setting", path = path.display())]
pub struct WatchError {
    path: PathBuf,
    error: io::Error,
}

/// Watches the folder until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

/// The current content of `folder`, including files that may still be written.
///
/// # Errors
///
/// If the folder cannot be read, or is not safe to use.
pub fn scan(folder: &Path, options: &Options) -> Result<Contents, WatchError> {
    Ok(open(folder, options)?.snapshot())
}

/// Sends the content of `folder` now, and after every change, until the receiver or the [`Watcher`] is
/// dropped.
///
/// A full channel loses nothing: the next event has the latest content.
///
/// # Errors
///
/// If the folder cannot be read or watched, or is not safe to use.
pub fn start(folder: &Path, options: &Options, changed: Sender<Changed>) -> Result<Watcher, WatchError> {
    let folder = open(folder, options)?;
    // One pending wake-up is enough.
    let (wake, woken) = sync_channel(1);
    let stop = Arc::new(AtomicBool::new(false));
    let watch = Watch {
        poll: options.poll,
        notifications: Notifications {
            wake: wake.clone(),
            active: None,
            failed: false,
            wanted: options.ask_system,
        },
        stop: stop.clone(),
        woken,
        changed,
        folder,
    };
    if !options.ask_system {
        info!(every = ?options.poll, "polling the plugin folder instead of notifications, as plugins.watch says");
    }
    let path = watch.folder.path().to_owned();
    let thread = thread::Builder::new().name("plugin-folder".into()).spawn(move || watch.run());
    let thread = thread.map_err(|error| WatchError { path, error })?;
    Ok(Watcher { stop, wake, thread: Some(thread) })
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.wake.try_send(());
        if let Some(thread) = self.thread.take() {
            // The thread wakes at once and reads at most the files that have just changed.
            let _ = thread.join();
        }
    }
}

fn open(path: &Path, options: &Options) -> Result<Folder, WatchError> {
    let mut folder = Folder::new(path, options);
    folder.look_at_once(Instant::now()).map_err(|error| WatchError { path: path.to_owned(), error })?;
    Ok(folder)
}

/// State of the thread.
struct Watch {
    folder: Folder,
    notifications: Notifications,
    poll: Duration,
    woken: Receiver<()>,
    stop: Arc<AtomicBool>,
    changed: Sender<Changed>,
}

impl Watch {
    fn run(mut self) {
        let mut unsent = true;
        let mut missing = false;
        // Whether files were sent that may still be written.
        let mut fresh = false;
        // Since when something has been changing.
        let mut restless: Option<Instant> = None;
        self.notifications.follow(&self.folder);
        loop {
            if unsent && restless.is_none_or(|since| since.elapsed() >= HOLD_UP_MAX) {
                match self.changed.try_send(Changed(self.folder.snapshot())) {
                    Ok(()) => unsent = false,
                    Err(TrySendError::Full(_)) => {}
                    Err(TrySendError::Closed(_)) => return,
                }
            }
            let wait = if unsent || restless.is_some() || fresh { LOOK_AGAIN } else { self.poll };
            match self.woken.recv_timeout(wait) {
                Ok(()) => thread::sleep(DEBOUNCE),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // The scan below covers every notification up to here.
            while self.woken.try_recv().is_ok() {}
            if self.stop.load(Relaxed) || self.changed.is_closed() {
                return;
            }
            match self.folder.look(Instant::now()) {
                Ok(look) => {
                    if missing {
                        info!(folder = %self.folder.path().display(), "plugin folder readable again");
                        missing = false;
                    }
                    self.notifications.follow(&self.folder);
                    unsent |= look.changed;
                    fresh = look.fresh;
                    restless = look.restless.then(|| restless.unwrap_or_else(Instant::now));
                }
                Err(error) => {
                    if !missing {
                        warn!(
                            folder = %self.folder.path().display(),
                            %error,
                            "cannot read the plugin folder; plugins do not change until it is readable again"
                        );
                        missing = true;
                    }
                    (restless, fresh) = (None, false);
                }
            }
        }
    }
}

/// The system's notifications about the folder; there may be none at all.
struct Notifications {
    wake: SyncSender<()>,
    active: Option<(FolderId, RecommendedWatcher)>,
    failed: bool,
    wanted: bool,
}

impl Notifications {
    /// Subscribes to the folder that has the name now, which may be another one than before.
    fn follow(&mut self, folder: &Folder) {
        let Some(id) = folder.id().filter(|_| self.wanted) else { return };
        if self.active.as_ref().is_some_and(|(active, _)| *active == id) {
            return;
        }
        let wake = self.wake.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            if event.as_ref().map_or(true, matters) {
                let _ = wake.try_send(());
            }
        };
        let subscribed = notify::recommended_watcher(handler).and_then(|mut watcher| {
            watcher.watch(folder.path(), RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match subscribed {
            Ok(watcher) => {
                self.active = Some((id, watcher));
                self.failed = false;
            }
            Err(error) if !self.failed => {
                warn!(%error, "no notifications about the plugin folder; polling it every two seconds instead");
                self.failed = true;
            }
            Err(_) => {}
        }
    }
}

/// Reads are notified as well, and the reader is this gateway.
fn matters(event: &notify::Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
