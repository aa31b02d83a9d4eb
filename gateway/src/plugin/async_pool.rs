//! [`AsyncInstances`]: instances of a plugin that may wait for I/O, run away from the workers.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::event::ConnectEvent;
use super::failure::Failure;
use super::usage::Usage;
use super::verdict::{ConnectVerdict, Effect};

/// The outcome of one call.
#[derive(Debug)]
pub struct AsyncVerdict {
    /// The verdict, or why there is none.
    pub verdict: Result<ConnectVerdict, Failure>,
    /// Effects that the hook recorded; empty after a failure.
    pub effects: Vec<Effect>,
    /// Cost of the call; zero if there was none.
    pub usage: Usage,
    /// Time from the request to the verdict, with the wait for an instance. `None` if no instance was called.
    pub took: Option<Duration>,
}

/// A verdict on its way. Dropping it cancels the call.
pub type PendingVerdict = Pin<Box<dyn Future<Output = AsyncVerdict> + Send>>;

/// The instances of a plugin that may wait.
pub trait AsyncInstances: Send + Sync {
    /// Runs `on-connect` for a client that connects or refreshes. It resolves after `patience` at the latest,
    /// with a failure if need be.
    fn on_connect(&self, event: Arc<ConnectEvent>, patience: Duration) -> PendingVerdict;
}

impl fmt::Debug for dyn AsyncInstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AsyncInstances")
    }
}
