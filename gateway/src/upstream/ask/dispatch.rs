//! [`Dispatch`] is the task that sends the questions of one upstream, each within its deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::{AskError, Content, Question, shadow};
use crate::clock::Clock;
use crate::egress::{Client, Error, Reach, Request, Response, Url};
use crate::telemetry::target::AskMetrics;
use crate::upstream::chooser::Tried;
use crate::upstream::sign::signature;
use crate::upstream::targets::{is_failure, until};
use crate::upstream::{Stop, USER_AGENT, Upstream};

/// Sends the questions of one upstream.
pub(in crate::upstream) struct Dispatch {
    pub(super) upstream: Arc<Upstream>,
    pub(super) client: Client,
    clock: Clock,
    /// Limits the copies under way.
    pub(super) shadows: Arc<Semaphore>,
}

/// How a question ended that was sent.
struct Ended {
    result: Result<Bytes, AskError>,
    /// The status of the target's last answer.
    status: Option<u16>,
    /// Whether any request left the gateway.
    sent: bool,
}

impl Dispatch {
    pub(in crate::upstream) fn new(upstream: Arc<Upstream>, client: Client, clock: Clock) -> Arc<Self> {
        let shadows = Arc::new(Semaphore::new(shadow::UNDER_WAY_MAX));
        Arc::new(Self { upstream, client, clock, shadows })
    }

    /// Runs until `stop` announces the end. Nobody waits for an answer then: open questions get an error.
    pub(in crate::upstream) async fn run(self: Arc<Self>, mut stop: watch::Receiver<Stop>) {
        let (questions, in_flight_max) = (&self.upstream.questions, self.upstream.config.asks.in_flight_max);
        let mut in_flight = JoinSet::new();
        loop {
            while let Some(mut question) = questions.expired(self.clock.at()) {
                match question.is_abandoned() {
                    true => question.abandon(),
                    false => question.answer(Err(AskError::Timeout)),
                }
            }
            while in_flight.len() < in_flight_max {
                let Some(question) = questions.take() else { break };
                in_flight.spawn(self.clone().carry_out(question));
            }
            let deadline = questions.next_deadline().map(|at| self.clock.instant(at));
            tokio::select! {
                Some(_) = in_flight.join_next() => (),
                // Also while no more can be sent: the deadline of a new question may be the next one.
                () = questions.arrived() => (),
                () = until(deadline) => (),
                () = announced(&mut stop) => break,
            }
        }
        questions.close();
        in_flight.shutdown().await;
    }

    async fn carry_out(self: Arc<Self>, mut question: Question) {
        let counted = InFlight::begin(&self.upstream.metrics.asks);
        let Ended { result, status, sent } = self.attempts(&question.content).await;
        self.upstream.metrics.asks.observe(self.clock.at().saturating_sub(question.content.asked_at));
        question.answer(result);
        drop(counted);
        if sent {
            self.copy(&question.content, status);
        }
    }

    /// Sends a question until there is an answer, no time is left, or another attempt makes no sense.
    async fn attempts(&self, question: &Content) -> Ended {
        let asks = &self.upstream.config.asks;
        let mut tried = Tried::default();
        let mut ended = Ended { result: Err(AskError::BreakerOpen), status: None, sent: false };
        for attempt in 0..=asks.retries {
            let left = question.deadline.saturating_sub(self.clock.at());
            if left.is_zero() {
                ended.result = Err(AskError::Timeout);
                break;
            }
            let Some(mut target) = self.upstream.targets.choose(tried) else { break };
            tried.add(target.index);
            if attempt > 0 {
                self.upstream.metrics.asks.retried();
            }
            let response = self.exchange(target.url(), question, left).await;
            // A target cannot be blamed for the time that a question has waited for its turn.
            target.settle(&response, left >= asks.timeout / 2);
            let may_repeat = match &response {
                Ok(response) => is_failure(response.status) && question.request.repeatable,
                Err(Error::Unreachable(_)) => true,
                Err(Error::Timeout(_) | Error::TooLarge(_) | Error::Failed(_)) => question.request.repeatable,
                Err(Error::Invalid(_) | Error::Refused(_) | Error::Busy) => false,
            };
            ended = Ended::of(response);
            if !may_repeat {
                break;
            }
        }
        ended
    }

    async fn exchange(&self, url: &Url, question: &Content, left: Duration) -> Result<Response, Error> {
        let request = self.request(url, question, None)?;
        let bytes_max = self.upstream.config.asks.answer_bytes_max;
        self.client.send_for_success(request, Reach::Anywhere, left, bytes_max).await
    }

    /// The request of a question below a URL, with one more header.
    pub(super) fn request(
        &self,
        url: &Url,
        question: &Content,
        extra: Option<(&'static str, &'static str)>,
    ) -> Result<Request, Error> {
        let Content { request, id, .. } = question;
        let url = url.below(&request.path).map_err(|accepted| Error::Invalid(accepted.into()))?;
        // The time of this attempt: receivers refuse old signatures.
        let second = self.clock.now().unix / 1000;
        let mut headers: Vec<(&str, Bytes)> = vec![
            ("content-type", Bytes::from_static(b"application/json")),
            ("webhook-id", id.to_string().into()),
            ("webhook-timestamp", second.to_string().into()),
            ("gateway-upstream", self.upstream.name.to_string().into()),
        ];
        if let Some(secret) = &self.upstream.config.secret {
            let signed = signature(secret.bytes(), id, second, &request.body);
            headers.push(("webhook-signature", signed.into()));
        }
        headers.extend(extra.map(|(name, value)| (name, Bytes::from_static(value.as_bytes()))));
        let passed = request.headers.iter().filter(|(name, _)| passes(name));
        headers.extend(passed.map(|(name, value)| (&**name, value.clone())));
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
            headers.push(("user-agent", Bytes::from_static(USER_AGENT.as_bytes())));
        }
        Request::new("POST", &url, headers, request.body.clone())
    }
}

impl Ended {
    fn of(response: Result<Response, Error>) -> Self {
        match response {
            Ok(response) => {
                let status = response.status;
                let result =
                    if response.is_success() { Ok(response.body) } else { Err(AskError::Status(status)) };
                Self { result, status: Some(status), sent: true }
            }
            Err(error) => {
                let sent = !matches!(error, Error::Invalid(_) | Error::Refused(_) | Error::Busy);
                Self { result: Err(error.into()), status: None, sent }
            }
        }
    }
}

/// Waits until the end of the gateway is announced.
async fn announced(stop: &mut watch::Receiver<Stop>) {
    // Without a sender nobody can announce it any more.
    let _ = stop.wait_for(|stop| matches!(stop, Stop::At(_))).await;
}

/// Whether a header of a question is sent. The others describe the body or the connection, or would let a
/// client speak for the gateway.
fn passes(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_ours = ["webhook-", "gateway-"].iter().any(|begin| name.starts_with(begin));
    let describes_bodies = ["content-type", "content-encoding", "accept-encoding"].contains(&&*name);
    !(is_ours || describes_bodies || Request::is_reserved(&name))
}

/// Counts a question as in flight until it is dropped.
struct InFlight<'a>(&'a AskMetrics);

impl<'a> InFlight<'a> {
    fn begin(metrics: &'a AskMetrics) -> Self {
        metrics.began();
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_speak_for_the_gateway_or_change_how_bodies_are_read() {
        for name in ["authorization", "Cookie", "x-client-cert-subject", "user-agent", "webhook"] {
            assert!(passes(name), "{name}");
        }
        for name in ["Webhook-Id", "gateway-upstream", "Accept-Encoding", "content-type", "HOST", "expect"] {
            assert!(!passes(name), "{name}");
        }
    }
}
