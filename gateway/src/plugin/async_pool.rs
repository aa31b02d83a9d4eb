//! [`AsyncInstances`]: instances of a plugin that may wait for I/O, run away from the workers.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::event::ConnectEvent;
use super::failure::Failure;
use super::usage::Usage;
use super::verdict::{ConnectVerdict, Effect};

/// What came back.
#[derive(Debug)]
pub struct AsyncVerdict {
    /// The answer, or why there is none.
    pub verdict: Result<ConnectVerdict, Failure>,
    /// What the hook asked for beside it; empty after a failure.
    pub effects: Vec<Effect>,
    /// What the call used; nothing if there was none.
    pub usage: Usage,
}

/// An answer on its way. Dropping it ends the question: nobody wants to know any more.
pub type PendingVerdict = Pin<Box<dyn Future<Output = AsyncVerdict> + Send>>;

/// The instances of a plugin that may wait.
pub trait AsyncInstances: Send + Sync {
    /// Asks about a client that wants to be admitted, or refreshes. There is an answer after `patience` at the latest, and
    /// be it a failure.
    fn on_connect(&self, hello: Arc<ConnectEvent>, patience: Duration) -> PendingVerdict;
}

impl fmt::Debug for dyn AsyncInstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Elsewhere")
    }
}
