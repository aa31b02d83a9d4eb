//! [`Phase`] says how far the shutdown of the process has got; every task watches this one value.

use std::time::Duration;

use tokio::sync::watch;

/// Where the process stands. Only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not every part is up.
    Starting,
    /// Serving.
    Running,
    /// Not ready, not accepting; clients are asked to go elsewhere, until this time since the start of the process.
    Draining {
        /// When what is left is cut off.
        until: Duration,
    },
}

impl Phase {
    /// Whether the end has begun.
    pub fn is_draining(self) -> bool {
        matches!(self, Self::Draining { .. })
    }
}

/// Waits until the end begins and returns its deadline. Never returns if the process does not end that way.
pub async fn draining(mut phase: watch::Receiver<Phase>) -> Duration {
    match phase.wait_for(|phase| phase.is_draining()).await.map(|phase| *phase) {
        Ok(Phase::Draining { until }) => until,
        // The sender went without a word: the process is being torn down already.
        _ => Duration::ZERO,
    }
}

/// Waits until everything is up.
pub async fn running(mut phase: watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase > Phase::Starting).await;
}
