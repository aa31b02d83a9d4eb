//! Commands on their way to Redis: what comes while a batch is under way is the next batch. What is for one channel takes
//! one lane, so it keeps its order.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{timeout, timeout_at};

use super::link::{Link, cause, is_of_server, refusal};
use super::request::{Refusal, Request, What};
use super::status::Cause;
use super::{Shared, TOO_FEW_REPLICAS, presence};
use crate::backplane::{Answer, Asker, Published};
use crate::protocol::code::ReplyError;
use crate::telemetry::backplane::Trouble;

/// Commands in one batch.
const BATCH_MAX: usize = 512;

/// Longest time that a batch waits for replicas: the watch of the link waits behind it.
const REPLICAS_WAIT_MAX: Duration = Duration::from_millis(400);

/// Carries requests until the queue is closed.
pub(super) async fn run(
    shared: Arc<Shared>,
    index: usize,
    mut queue: mpsc::Receiver<Request>,
    mut links: watch::Receiver<Option<Arc<Link>>>,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        // The oldest decides: the others have come while it waited for its turn.
        let until = batch.first().map_or(Duration::ZERO, |oldest| oldest.until);
        let link = {
            let waited = timeout_at(
                shared.clock.instant(until).into(),
                links.wait_for(|link| {
                    link.is_some() || !batch.iter().any(|request| request.what.needs_redis())
                }),
            );
            waited.await.ok().and_then(Result::ok).and_then(|link| link.clone())
        };
        match link {
            Some(link) => send(&shared, index, &link, &mut batch).await,
            None => alone(&shared, &mut batch),
        }
    }
}

/// Without Redis this node goes on alone: its own subscribers get what has no history.
fn alone(shared: &Shared, batch: &mut Vec<Request>) {
    for Request { what, asker, .. } in batch.drain(..) {
        match what {
            What::Spread { topic, message } => {
                shared.received(topic.as_bytes(), &message.into());
                shared.answer(asker, Answer::Published(Ok(Published::default())));
            }
            what => shared.fail(asker, &what, "redis was away for too long"),
        }
    }
}

async fn send(shared: &Shared, index: usize, link: &Link, batch: &mut Vec<Request>) {
    let mut pipeline = redis::pipe();
    for request in &*batch {
        pipeline.add_command(request.what.command(
            &shared.keys,
            &link.scripts,
            &link.server,
            &shared.fresh_epoch(),
        ));
    }
    let wanted = batch.iter().map(|request| request.what.replicas()).max().unwrap_or(0);
    let mut count = batch.len();
    if wanted > 0 {
        let wait = (shared.config.timeout / 2).min(REPLICAS_WAIT_MAX);
        pipeline.cmd("WAIT").arg(wanted).arg(wait.as_millis() as u64);
        count += 1;
    }
    let Some(mut connection) = link.lanes.get(index).cloned() else { return };
    let sent = timeout(shared.config.timeout, connection.send_packed_commands(&pipeline, 0, count));
    let mut replies = match sent.await {
        Ok(Ok(replies)) if replies.len() == count => replies,
        Ok(Ok(_)) => return give_up(shared, batch, &Cause::new(Trouble::Silent, "answers are missing")),
        Ok(Err(error)) => return give_up(shared, batch, &cause(&error)),
        Err(_) => {
            let cause = Cause::new(Trouble::Silent, "no answer to a command");
            shared.units[link.unit].doubt.notify_one();
            return give_up(shared, batch, &cause);
        }
    };
    let replicas = if wanted > 0 { replies.pop().map_or(0, |reply| acknowledged(&reply)) } else { 0 };
    for (request, reply) in batch.drain(..).zip(replies) {
        settle(shared, link, request, reply, replicas);
    }
}

/// How many replicas have everything that was written so far. A server that refuses to say so has none.
fn acknowledged(reply: &Value) -> u64 {
    match reply {
        Value::Int(replicas) => u64::try_from(*replicas).unwrap_or(0),
        _ => 0,
    }
}

/// `replicas` have it.
fn settle(shared: &Shared, link: &Link, request: Request, reply: Value, replicas: u64) {
    match request.what.read(reply) {
        Ok(answer) if u64::from(request.what.replicas()) > replicas => {
            shared.metrics.too_few_replicas(replicas);
            let answer = match request.asker {
                // For the log this is no loss.
                Asker::Nobody => answer,
                _ => request.what.failed(ReplyError::INTERNAL.because(TOO_FEW_REPLICAS)),
            };
            shared.answer(request.asker, answer);
        }
        Ok(answer) => {
            if let What::Recover { channel, .. } = &request.what
                && !shared.interest.is_confirmed(channel, link.number)
            {
                // The subscription has broken meanwhile: what came after this answer may be lost.
                return shared.recover(request);
            }
            let answer = match (&request.what, answer) {
                (What::Presence { channel, .. }, Answer::Present(Ok(elsewhere))) => {
                    Answer::Present(Ok(presence::together(shared, channel, elsewhere)))
                }
                (_, answer) => answer,
            };
            shared.answer(request.asker, answer);
        }
        Err(Refusal::Server(code, detail)) => {
            let cause = refusal(&code, &detail);
            if is_of_server(&code) {
                let unit = &shared.units[link.unit];
                unit.status.suspect(cause.clone());
                unit.doubt.notify_one();
            }
            shared.fail(request.asker, &request.what, &cause.to_string());
        }
        Err(Refusal::Nonsense) => {
            shared.fail_in_doubt(
                request.asker,
                &request.what,
                "redis answered with something else than the scripts do",
            );
        }
    }
}

/// Nobody knows which of these Redis has carried out.
fn give_up(shared: &Shared, batch: &mut Vec<Request>, cause: &Cause) {
    for Request { what, asker, .. } in batch.drain(..) {
        shared.fail_in_doubt(asker, &what, &cause.to_string());
    }
}
