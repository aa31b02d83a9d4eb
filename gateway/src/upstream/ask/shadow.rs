//! Copies of questions go to the shadow of an upstream after the questions were answered, and nobody waits
//! for them.

use crate::egress::Reach;
use crate::telemetry::target::ShadowResult;

use super::Content;
use super::dispatch::Dispatch;

/// Maximum number of copies under way for one upstream.
pub(super) const UNDER_WAY_MAX: usize = 16;

impl Dispatch {
    /// Sends a copy of a question that its target answered with this status, if it is one to be copied, and
    /// compares the status of the shadow's answer.
    pub(super) fn copy(&self, question: &Content, status: Option<u16>) {
        let Some(shadow) = &self.upstream.config.shadow else { return };
        if self.upstream.targets.random() % 100 >= u64::from(shadow.share) {
            return;
        }
        let Ok(permit) = self.shadows.clone().try_acquire_owned() else {
            return self.upstream.metrics.asks.shadow(ShadowResult::Skipped);
        };
        let Ok(request) = self.request(&shadow.url, question, Some(("gateway-shadow", "1"))) else { return };
        let (upstream, client) = (self.upstream.clone(), self.client.clone());
        // It ends by itself within the time of a question.
        tokio::spawn(async move {
            let _permit = permit;
            let time = upstream.config.asks.timeout;
            let answer = client.send_for_head(request, Reach::Anywhere, time).await;
            let other = answer.ok().map(|answer| answer.status);
            let result = if other == status { ShadowResult::Same } else { ShadowResult::Different };
            if result == ShadowResult::Different {
                tracing::debug!(upstream = &*upstream.name, ?status, shadow = ?other, "shadow answered differently");
            }
            upstream.metrics.asks.shadow(result);
        });
    }
}
