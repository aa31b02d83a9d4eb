//! Checks of the targets of an upstream beside the traffic.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{USER_AGENT, Upstream};
use crate::egress::{Client, Reach, Request, Url};

/// Maximum time of one check, unless the next one comes earlier.
const CHECK_DEADLINE: Duration = Duration::from_secs(5);

/// Checks every target until the future is dropped, if the configuration says so.
pub(super) async fn run(upstream: Arc<Upstream>, client: Client) {
    let Some(health) = upstream.config.health.clone() else { return };
    let deadline = health.interval.min(CHECK_DEADLINE);
    // The configuration has checked that the path can be appended.
    let urls: Vec<Url> =
        upstream.targets.urls().iter().filter_map(|url| url.beside(&health.path).ok()).collect();
    loop {
        let mut checks = JoinSet::new();
        for (index, url) in urls.iter().enumerate() {
            let (url, client) = (url.clone(), client.clone());
            checks.spawn(async move { (index, check(&url, &client, deadline).await) });
        }
        while let Some(checked) = checks.join_next().await {
            if let Ok((index, works)) = checked {
                upstream.targets.checked(index, works);
            }
        }
        sleep(health.interval).await;
    }
}

/// Whether a server answers 2xx in time.
async fn check(url: &Url, client: &Client, deadline: Duration) -> bool {
    let Ok(request) = Request::new("GET", url, [("user-agent", USER_AGENT)], Bytes::new()) else {
        return false;
    };
    client.send_for_head(request, Reach::Anywhere, deadline).await.is_ok_and(|answer| answer.is_success())
}
