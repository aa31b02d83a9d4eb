//! [`Phase`] says how far the shutdown of the process has got; every task watches this one value.

use std::time::Duration;

use tokio::sync::watch;

/// The phase of the process. Only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Some parts are not running yet.
    Starting,
    /// Serving.
    Running,
    /// Serving and no longer ready: load balancers are to notice before the gateway stops accepting.
    Leaving,
    /// Not ready and not accepting; clients are asked to go elsewhere until the deadline.
    Draining {
        /// The time since the start of the process at which remaining connections are cut.
        until: Duration,
    },
}

impl Phase {
    /// Whether the shutdown has begun.
    pub fn is_draining(self) -> bool {
        matches!(self, Self::Draining { .. })
    }
}

/// Waits until the shutdown begins and returns its deadline. Never returns if the process ends in another
/// way.
pub async fn draining(mut phase: watch::Receiver<Phase>) -> Duration {
    match phase.wait_for(|phase| phase.is_draining()).await.map(|phase| *phase) {
        Ok(Phase::Draining { until }) => until,
        // The sender was dropped: the process is being torn down already.
        _ => Duration::ZERO,
    }
}

/// Waits until every part is running.
pub async fn running(mut phase: watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase > Phase::Starting).await;
}
