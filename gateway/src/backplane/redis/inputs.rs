//! `Inputs` passes messages of clients to the gateways that have their connections, on the topic of all
//! nodes, and the results back. It has no timeout: the caller sets one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::backplane::input::InputOutcome;
use crate::backplane::redis::commands::dispatch::Requests;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::format::input::{RemoteInput, RemoteOutcome};
use crate::backplane::redis::format::wire;
use crate::backplane::{local_input, report_to};
use crate::protocol::emulation::EmulationRequest;

/// Maximum number of messages of this node whose result has not come.
const OPEN_MAX: usize = 4096;

/// See the module.
#[derive(Default)]
pub(crate) struct Inputs {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    /// Receivers of the results.
    inputs: HashMap<u64, oneshot::Sender<InputOutcome>>,
}

impl Inputs {
    /// Passes a message to a connection of this node or of another one. Above the bound, and while Redis is
    /// away, the receiver gets an error.
    pub(crate) fn pass(
        &self,
        to: u64,
        request: EmulationRequest,
        context: &Context,
        requests: &Requests,
    ) -> oneshot::Receiver<InputOutcome> {
        let (report, outcome) = oneshot::channel();
        if to == context.node {
            local_input(context.ids, &context.inboxes, request, report_to(report));
        } else if let Some(id) = self.begin(report) {
            let EmulationRequest { session, data, .. } = request;
            let input = RemoteInput { from: context.node, id, to, session, data };
            if !requests.broadcast(None, wire::input(&input)) {
                self.lock().inputs.remove(&id);
            }
        }
        outcome
    }

    /// Another node has passed a message on. The result goes back to it.
    pub(crate) fn arrived(&self, input: RemoteInput, context: &Context, requests: &Arc<Requests>) {
        let RemoteInput { from, id, session, data, .. } = input;
        let requests = requests.clone();
        let report = Box::new(move |outcome| {
            requests.broadcast(None, wire::input_outcome(&RemoteOutcome { from, id, outcome }));
        });
        let request = EmulationRequest { node: Box::default(), session, data };
        local_input(context.ids, &context.inboxes, request, report);
    }

    /// The outcome of a message has come. The receiver may have gone.
    pub(crate) fn finished(&self, id: u64, outcome: InputOutcome) {
        if let Some(report) = self.lock().inputs.remove(&id) {
            let _ = report.send(outcome);
        }
    }

    fn begin(&self, report: oneshot::Sender<InputOutcome>) -> Option<u64> {
        let mut open = self.lock();
        if open.inputs.len() >= OPEN_MAX {
            open.inputs.retain(|_, report| !report.is_closed());
        }
        if open.inputs.len() >= OPEN_MAX {
            return None;
        }
        open.last += 1;
        let id = open.last;
        open.inputs.insert(id, report);
        Some(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_reaches_its_message_once_and_a_late_one_nobody() {
        let inputs = Inputs::default();
        let (report, mut outcome) = oneshot::channel();
        let id = inputs.begin(report).expect("room");
        inputs.finished(id + 1, InputOutcome::Full);
        inputs.finished(id, InputOutcome::Accepted);
        inputs.finished(id, InputOutcome::NoSession);
        assert_eq!(outcome.try_recv(), Ok(InputOutcome::Accepted));
    }

    #[test]
    fn messages_without_a_result_are_bounded() {
        let inputs = Inputs::default();
        let begin = |_| {
            let (report, outcome) = oneshot::channel();
            inputs.begin(report).map(|_| outcome)
        };
        let open: Vec<_> = (0..OPEN_MAX).map(|index| begin(index).expect("room")).collect();
        assert!(begin(0).is_none());
        drop(open);
        assert!(begin(0).is_some(), "requests that have given up make room");
    }
}
