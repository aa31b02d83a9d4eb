//! [`Survey`] collects the answers of all gateways to one question.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Control;
use crate::backplane::inbox::{Delivery, Inbox};
use crate::backplane::{Node, Others};
use crate::protocol::code::ReplyError;
use crate::survey::{Counts, Finding, Question};

/// Maximum time to wait for the answer of a gateway.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The answers to a question.
#[derive(Debug)]
pub struct Survey {
    /// The gateways that answered, with their answers.
    pub answers: Vec<(Node, Finding)>,
    /// The gateways that did not answer in time.
    pub unanswered: Vec<Node>,
}

impl Control {
    /// Asks this gateway and all others that are alive as far as this one knows, and waits at most
    /// [`PATIENCE`]. Error 111 if too many questions are open.
    ///
    /// # Errors
    ///
    /// If too many questions are open.
    pub async fn survey(&self, question: Question) -> Result<Survey, ReplyError> {
        let Ok(_permit) = self.inner.surveys.try_acquire() else {
            return Err(
                ReplyError::TOO_MANY_REQUESTS.because("too many ask all gateways at the moment: try again")
            );
        };
        let until = Instant::now() + PATIENCE;
        // The others work while this gateway does.
        let Others { asked: mut unanswered, answers: mut coming } =
            self.inner.backplane.ask_others(&question);
        let mut answers = Vec::new();
        let here = self.here();
        match self.answer(&question, until).await {
            Some(finding) => answers.push((here, finding)),
            None => unanswered.insert(0, here),
        }
        while unanswered.iter().any(|node| node.id != self.inner.node)
            && let Ok(Some((id, finding))) = timeout_at(until, coming.recv()).await
        {
            if let Some(place) =
                unanswered.iter().position(|node| node.id == id && node.id != self.inner.node)
            {
                answers.push((unanswered.remove(place), finding));
            }
        }
        Ok(Survey { answers, unanswered })
    }

    /// The answer of this gateway to a question of another one. `None` if a worker did not answer in time.
    pub async fn answer_alone(&self, question: Question) -> Option<Finding> {
        self.answer(&question, Instant::now() + PATIENCE).await
    }

    async fn answer(&self, question: &Question, until: Instant) -> Option<Finding> {
        let shared = Arc::new(question.clone());
        let ask = |inbox: &Arc<Inbox>| {
            let (sender, receiver) = oneshot::channel();
            inbox.put(Delivery::Survey(shared.clone(), sender));
            receiver
        };
        let asked: Vec<_> = self.inner.inboxes.iter().map(ask).collect();
        let mut seen = Vec::with_capacity(asked.len());
        for answer in asked {
            seen.push(timeout_at(until, answer).await.ok()?.ok()?);
        }
        let metrics = &self.inner.metrics;
        let counts = Counts {
            clients: metrics.connections(),
            users: 0,
            channels: self.inner.backplane.channels() as u64,
            subscriptions: metrics.subscriptions(),
            workers: metrics.workers.len() as u64,
        };
        question.answer(seen, counts)
    }
}
