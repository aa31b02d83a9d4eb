//! `Surveys` sends questions to the other gateways and collects their answers, on the topic of all nodes. It
//! has no timeout: the caller sets one.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc};

use crate::backplane::redis::commands::dispatch::Requests;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::format::{keys, wire};
use crate::backplane::{Node, Others};
use crate::survey::{Finding, Question};

/// Maximum number of open questions of this node, and of questions of others that are waiting or being
/// answered.
const OPEN_MAX: usize = 32;

/// Maximum number of questions of others that are answered at a time.
const ANSWERED_MAX: usize = 8;

/// An answer and the name of its gateway.
type Given = (Box<str>, Finding);

/// See the module.
pub(crate) struct Surveys {
    open: Mutex<Open>,
    /// Questions of other nodes.
    asked: mpsc::Sender<RemoteQuestion>,
    waiting: Mutex<Option<mpsc::Receiver<RemoteQuestion>>>,
}

#[derive(Default)]
struct Open {
    last: u64,
    /// Receivers of the answers.
    questions: HashMap<u64, mpsc::Sender<Given>>,
}

/// A question of another node.
struct RemoteQuestion {
    node: u64,
    id: u64,
    question: Question,
}

/// Answers the questions of other gateways. Created by [`Runner::answerer`](super::Runner::answerer).
pub struct Answerer {
    context: Arc<Context>,
    requests: Arc<Requests>,
    waiting: mpsc::Receiver<RemoteQuestion>,
}

impl Surveys {
    pub(crate) fn new() -> Self {
        let (asked, waiting) = mpsc::channel(OPEN_MAX);
        Self { open: Mutex::default(), asked, waiting: Mutex::new(Some(waiting)) }
    }

    /// Another node asks. Above the bound it gets no answer.
    pub(crate) fn asked(&self, node: u64, id: u64, question: Question) {
        let _ = self.asked.try_send(RemoteQuestion { node, id, question });
    }

    /// Another node has answered. The receiver may have gone.
    pub(crate) fn answered(&self, id: u64, from: u64, finding: Finding) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answers) = open.questions.get(&id) {
            let _ = answers.try_send((keys::node_name(from).into(), finding));
        }
    }

    /// Begins a question with a maximum number of answers. `None` if too many are open.
    fn begin(&self, answers_max: usize) -> Option<(u64, mpsc::Receiver<Given>)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.questions.retain(|_, answers| !answers.is_closed());
        if open.questions.len() >= OPEN_MAX {
            return None;
        }
        open.last += 1;
        let (sender, receiver) = mpsc::channel(answers_max.max(1));
        let id = open.last;
        open.questions.insert(id, sender);
        Some((id, receiver))
    }

    /// Asks the other live gateways.
    pub(crate) fn ask(
        &self,
        asked: Vec<Node>,
        context: &Context,
        requests: &Requests,
        question: &Question,
    ) -> Others {
        if !asked.is_empty()
            && let Some((id, answers)) = self.begin(asked.len())
            && requests.broadcast(None, wire::question(context.node, id, question))
        {
            return Others { asked, answers };
        }
        Others { asked, ..Others::nobody() }
    }

    /// Creates the task that answers other gateways. Works only once.
    pub(crate) fn answerer(&self, context: Arc<Context>, requests: Arc<Requests>) -> Option<Answerer> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Answerer { context, requests, waiting })
    }
}

impl Answerer {
    /// Answers with the results of `answer`, for as long as the runtime lives. Several at a time, because one
    /// may take long.
    pub async fn run<F>(mut self, answer: impl Fn(Question) -> F)
    where
        F: Future<Output = Option<Finding>> + Send + 'static,
    {
        let permits = Arc::new(Semaphore::new(ANSWERED_MAX));
        while let Some(RemoteQuestion { node, id, question }) = self.waiting.recv().await {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let (finding, requests) = (answer(question), self.requests.clone());
            let me = self.context.node;
            tokio::spawn(async move {
                if let Some(finding) = finding.await {
                    requests.broadcast(None, wire::answer(node, id, me, &finding));
                }
                drop(permit);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::Counts;

    #[test]
    fn an_answer_reaches_its_question_and_a_late_one_nobody() {
        let surveys = Surveys::new();
        let finding = Finding::Counts(Counts::default());
        let (first, mut answers) = surveys.begin(1).expect("room");
        let (second, others) = surveys.begin(1).expect("room");
        surveys.answered(first, 7, finding.clone());
        surveys.answered(first, 8, finding.clone());
        assert_eq!(answers.try_recv(), Ok((keys::node_name(7).into(), finding.clone())));
        assert!(answers.try_recv().is_err(), "no more answers than were expected");
        drop(others);
        surveys.answered(second, 7, finding.clone());
        surveys.answered(99, 7, finding);
        assert_ne!(first, second);
    }

    #[test]
    fn open_questions_are_bounded() {
        let surveys = Surveys::new();
        let open: Vec<_> = (0..OPEN_MAX).map(|_| surveys.begin(3).expect("room")).collect();
        assert!(surveys.begin(3).is_none());
        drop(open);
        assert!(surveys.begin(3).is_some(), "whoever has stopped waiting makes room");
    }
}
