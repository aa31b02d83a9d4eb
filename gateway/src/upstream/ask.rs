//! Questions to an upstream: requests whose answer somebody waits for.
//!
//! A question waits in the queue of its upstream ([`queue`]), and is sent and perhaps repeated by
//! [`dispatch`], all within `ask_timeout`. Who asks never waits: the answer comes by a call.

pub(super) mod queue;
pub(super) mod dispatch;
mod shadow;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::Upstreams;
use crate::clock::Clock;
use crate::egress;
use crate::telemetry::target::AskOutcome;
use crate::telemetry::upstream::UpstreamMetrics;

/// Why a question ends that is under way when the gateway does.
const ENDED: &str = "the gateway ended before there was an answer";

/// A question to an upstream.
#[derive(Debug, Clone)]
pub struct AskRequest {
    /// Appended to the path of the target's URL; begins with `/`, or is empty.
    pub path: Box<str>,
    /// Headers, without those of the connection. The gateway writes `content-type` and what begins with
    /// `webhook-` or `gateway-` itself, and leaves these out.
    pub headers: Vec<(Box<str>, Bytes)>,
    /// JSON.
    pub body: Bytes,
    /// Whether it may be sent again although the upstream may have seen it.
    pub repeatable: bool,
    /// Whom the answer is for, if it means nothing to anybody else. A question that still waits when whoever
    /// asks has gone is not sent, and makes room for others. `None` if it is to be sent in any case.
    pub client: Option<Weak<()>>,
}

/// Why a question has no answer. The text names no path, no header and no payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// A mistake in the configuration: there is no such table.
    #[error("the configuration has no upstream of this name")]
    Unknown,
    /// Too many questions at the same time; try again later.
    #[error("too many questions are under way; raise `asks_in_flight_max` if the upstream can take more")]
    Busy,
    /// Every target fails, and the gateway leaves them alone for a while.
    #[error("no target of the upstream is up; `gateway upstream list` shows each")]
    BreakerOpen,
    /// The upstream may have seen the question.
    #[error("no complete answer in time")]
    Timeout,
    /// The upstream has seen the question.
    #[error("the answer is larger than `ask_answer_bytes_max`")]
    TooLarge,
    /// The upstream answered with this status, which is not 2xx.
    #[error("the upstream answered {0}")]
    Status(u16),
    /// There was no connection, the answer was malformed or ended in the middle, or the gateway has ended.
    #[error("the request failed: {0}")]
    Failed(Box<str>),
}

impl AskError {
    fn outcome(&self) -> AskOutcome {
        match self {
            Self::Busy => AskOutcome::Busy,
            Self::BreakerOpen => AskOutcome::BreakerOpen,
            Self::Timeout => AskOutcome::Timeout,
            Self::TooLarge => AskOutcome::TooLarge,
            Self::Status(status) if super::targets::is_failure(*status) => AskOutcome::Error,
            Self::Status(_) => AskOutcome::Refused,
            Self::Unknown | Self::Failed(_) => AskOutcome::Failed,
        }
    }
}

impl From<egress::Error> for AskError {
    fn from(error: egress::Error) -> Self {
        match error {
            // Its text names the header.
            egress::Error::Invalid(_) => {
                Self::Failed("the question has a path or a header that cannot be sent".into())
            }
            egress::Error::Refused(why) | egress::Error::Unreachable(why) | egress::Error::Failed(why) => {
                Self::Failed(why)
            }
            egress::Error::Timeout(_) => Self::Timeout,
            egress::Error::TooLarge(_) => Self::TooLarge,
            egress::Error::Busy => Self::Busy,
        }
    }
}

impl Upstreams {
    /// Puts a question to an upstream. Never waits.
    ///
    /// `done` is called exactly once, on the outgoing runtime, within the upstream's `ask_timeout`: with the
    /// body of an answer with a status 2xx, or with the reason why there is none. It must not block. It is
    /// not called if the question waits until its client has gone.
    ///
    /// # Errors
    ///
    /// If there is no such upstream, no room for the question, or no target is up. Then `done` is not called.
    pub fn ask(
        self: &Arc<Self>,
        upstream: &str,
        request: AskRequest,
        done: impl FnOnce(Result<Bytes, AskError>) + Send + 'static,
    ) -> Result<(), AskError> {
        let upstream = self.by_name.get(upstream).ok_or(AskError::Unknown)?;
        let put = if upstream.targets.is_any_ready() {
            let (metrics, timeout) = (upstream.metrics.clone(), upstream.config.asks.timeout);
            let question = Question::new(self.next_id(), request, timeout, self.clock, metrics, done);
            upstream.questions.put(question)
        } else {
            Err(AskError::BreakerOpen)
        };
        if let Err(error) = &put {
            // Whoever asks logs it, and knows what comes of it.
            upstream.metrics.asks.count(error.outcome());
        }
        put
    }
}

type Done = Box<dyn FnOnce(Result<Bytes, AskError>) + Send>;

/// A question that was accepted. Dropping it answers it with an error, so every question whose client is
/// there has one answer, whatever becomes of the task that holds it.
struct Question {
    content: Content,
    /// `None` once it was answered.
    done: Option<Done>,
    metrics: Arc<UpstreamMetrics>,
    charge: Option<Charge>,
}

/// What is asked, and until when an answer is of use.
struct Content {
    request: AskRequest,
    /// The same for every attempt.
    id: Box<str>,
    asked_at: Duration,
    deadline: Duration,
}

impl Question {
    fn new(
        id: Box<str>,
        request: AskRequest,
        timeout: Duration,
        clock: Clock,
        metrics: Arc<UpstreamMetrics>,
        done: impl FnOnce(Result<Bytes, AskError>) + Send + 'static,
    ) -> Self {
        let asked_at = clock.at();
        let (deadline, done) = (asked_at + timeout, Some(Box::new(done) as Done));
        let content = Content { request, id, asked_at, deadline };
        Self { content, done, metrics, charge: None }
    }

    /// Bytes of memory that it needs.
    fn bytes(&self) -> usize {
        let request = &self.content.request;
        let headers = request.headers.iter().map(|(name, value)| name.len() + value.len());
        size_of::<Self>() + request.path.len() + request.body.len() + headers.sum::<usize>()
    }

    /// Answers it, unless that has happened.
    fn answer(&mut self, result: Result<Bytes, AskError>) {
        let Some(done) = self.done.take() else { return };
        let outcome = match &result {
            Ok(_) => AskOutcome::Answered,
            Err(error) => {
                let upstream = self.metrics.name();
                tracing::debug!(upstream, id = &*self.content.id, %error, "question not answered");
                error.outcome()
            }
        };
        self.metrics.asks.count(outcome);
        done(result);
    }

    /// Ends it without an answer, because it was not accepted.
    fn forget(mut self) {
        self.done = None;
    }

    /// Whether nobody is there to whom its answer means anything.
    fn is_abandoned(&self) -> bool {
        self.content.request.client.as_ref().is_some_and(|client| client.strong_count() == 0)
    }

    /// Ends it without an answer, because who asked has gone.
    fn abandon(self) {
        self.metrics.asks.count(AskOutcome::Abandoned);
        self.forget();
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.answer(Err(AskError::Failed(ENDED.into())));
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("id", &self.content.id).finish_non_exhaustive()
    }
}

/// Bytes of a question, which count until it is dropped.
struct Charge {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Charge {
    /// `None` if there is no room. Only one thread at a time may add.
    fn add(all: &Arc<AtomicUsize>, bytes: usize, bytes_max: usize) -> Option<Self> {
        if all.load(Relaxed).saturating_add(bytes) > bytes_max {
            return None;
        }
        all.fetch_add(bytes, Relaxed);
        Some(Self { all: all.clone(), bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}
