//! Waiting with a bound.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{sleep, timeout};

/// How long anything may take that has no reason to take long. Far more than it does: a machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The output of `future`, which has to come within [`PATIENCE`].
pub async fn within<T>(what: impl Display, future: impl Future<Output = T>) -> T {
    within_time(PATIENCE, what, future).await
}

/// The output of `future`, which has to come within `limit`.
pub async fn within_time<T>(limit: Duration, what: impl Display, future: impl Future<Output = T>) -> T {
    match timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {limit:?} in vain for {what}"),
    }
}

/// Asks again and again until there is an answer, for state that announces no change.
pub async fn eventually<T>(what: impl Display, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, ask).await
}

/// The same, where it may take longer.
pub async fn eventually_within<T>(
    limit: Duration,
    what: impl Display,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    within_time(limit, what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}
