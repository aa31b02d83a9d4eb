//! A `Pipeline` sends commands to Redis in batches: requests that arrive during a batch form the next one.
//! All requests of one channel use the same pipeline, so they keep their order.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout, timeout_at};

use crate::backplane::redis::agreement::Agreement;
use crate::backplane::redis::agreement::rules::Effective;
use crate::backplane::redis::commands::dispatch::{Requests, TOO_FEW_REPLICAS};
use crate::backplane::redis::commands::repeats::Repeats;
use crate::backplane::redis::commands::request::{Refusal, Request, What};
use crate::backplane::redis::connection::client::{cause, is_elsewhere, is_of_server, refusal};
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::format::wire;
use crate::backplane::redis::incoming::Incoming;
use crate::backplane::redis::presence::Presence;
use crate::backplane::redis::subscriptions::Subscriptions;
use crate::backplane::redis::topology::Topology;
use crate::backplane::{Published, Repeat, Response, find_room};
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::command::Position;
use crate::telemetry::backplane::Trouble;

/// Maximum number of commands in a batch.
const BATCH_MAX: usize = 512;

/// Maximum bytes of publications and members in the responses to a batch.
const ANSWERS_BYTES_MAX: usize = 16 << 20;

/// Maximum time that a batch waits for replicas: the connection's health check waits behind it.
const REPLICAS_WAIT_MAX: Duration = Duration::from_millis(400);

/// Pause before a request for a moving slot is tried again.
const MOVING: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub(crate) context: Arc<Context>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) agreement: Arc<Agreement>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) incoming: Arc<Incoming>,
    pub(crate) repeats: Arc<Repeats>,
    pub(crate) shard_index: usize,
    /// Index among the pipelines of the shard.
    pub(crate) index: usize,
}

/// What is known of a response in addition to its content.
#[derive(Clone, Copy)]
struct Known {
    /// Number of replicas that have the write.
    replicas: u64,
    /// Whether its connection is still the one in use.
    counts: bool,
}

impl Pipeline {
    /// Carries the requests of one shard until the queue is closed.
    pub(crate) async fn run(&self, mut queue: mpsc::Receiver<Request>) {
        let Self { shard_index, index, .. } = *self;
        let mut connections = self.topology.shards[shard_index].connection.subscribe();
        let (mut batch, mut held) = (Vec::new(), Vec::new());
        loop {
            if held.is_empty() {
                if queue.recv_many(&mut batch, BATCH_MAX).await == 0 {
                    return;
                }
            } else {
                sleep(MOVING).await;
                self.give_back(&mut held);
                // Requests on hold go first, so that none is overtaken.
                batch.append(&mut held);
                while batch.len() < BATCH_MAX
                    && let Ok(request) = queue.try_recv()
                {
                    batch.push(request);
                }
            }
            // The oldest request decides: the others arrived while it waited.
            let until = batch.first().map_or(Duration::ZERO, |oldest| oldest.until);
            let server = {
                let waited = timeout_at(
                    self.context.clock.instant(until).into(),
                    connections.wait_for(|server| {
                        let waits = |request: &Request| {
                            request.what.needs_redis()
                                && self.requests.shard_index_of(&request.what) == shard_index
                        };
                        server.is_some() || !batch.iter().any(waits)
                    }),
                );
                waited.await.ok().and_then(Result::ok).and_then(|server| server.clone())
            };
            self.forward(&mut batch);
            match server {
                Some(server) => {
                    let using = shard_index * self.context.config.connections + index;
                    let rules = self.agreement.rules.begin(using);
                    held = self.send_in_parts(&server, &mut batch, rules.as_deref()).await;
                    self.agreement.rules.end(using);
                }
                None => self.alone(&mut batch),
            }
        }
    }

    /// Fails requests that have waited for a moving slot for too long.
    fn give_back(&self, held: &mut Vec<Request>) {
        let at = self.context.clock.now().at;
        for request in held.extract_if(.., |request| request.until <= at) {
            self.requests.fail(request.reply_to, &request.what, "its slot was moved for too long");
        }
    }

    /// Passes requests on whose channel has moved to another shard.
    fn forward(&self, batch: &mut Vec<Request>) {
        if !self.topology.slot_map.are_moving() {
            return;
        }
        for request in
            batch.extract_if(.., |request| self.requests.shard_index_of(&request.what) != self.shard_index)
        {
            self.requests.dispatch(request);
        }
    }

    /// Without Redis this node works alone: its subscribers get publications of channels without history,
    /// here and at all other gateways.
    fn alone(&self, batch: &mut Vec<Request>) {
        let rules = self.agreement.rules.now();
        for Request { mut what, reply_to, .. } in batch.drain(..) {
            if let Some(rules) = &rules {
                what.adapt(rules);
            }
            match what {
                What::Spread { to, message, publication, patterns, .. } => {
                    let feed = to.as_ref().filter(|_| patterns).and_then(Channel::feed);
                    // A publisher gets an error if subscribers have no room.
                    if publication
                        && let Some(channel) = &to
                        && let Err(error) = find_room(
                            &self.context.inboxes,
                            self.subscriptions.interest.all_workers(channel, feed.as_ref()),
                            message.len(),
                        )
                    {
                        self.requests.answer(reply_to, Response::Published(Err(error)));
                        continue;
                    }
                    let keys = &self.context.keys;
                    if let (Some(channel), Some(feed)) = (&to, feed) {
                        let message = wire::for_patterns(channel, &message).into();
                        self.incoming.received(keys.topic(&feed).as_bytes(), &message, None);
                    }
                    let topic = What::topic(to.as_ref(), keys);
                    self.incoming.received(topic.as_bytes(), &message.into(), None);
                    self.requests.answer(reply_to, Response::Published(Ok(Published::default())));
                }
                what => self.requests.fail(reply_to, &what, "redis was away for too long"),
            }
        }
    }

    /// Sends a batch in parts, so that the responses fit into memory. Returns the requests to send again
    /// because their slot moves.
    async fn send_in_parts(
        &self,
        server: &ServerConnection,
        batch: &mut Vec<Request>,
        rules: Option<&Effective>,
    ) -> Vec<Request> {
        let mut held = Vec::new();
        while !batch.is_empty() {
            let mut bytes = 0;
            let fits = |request: &Request| {
                bytes += request.what.answer_bytes_max();
                bytes <= ANSWERS_BYTES_MAX
            };
            let fitting = batch.iter().map(fits).take_while(|fits| *fits).count().max(1);
            let rest = batch.split_off(fitting);
            held = self.send(server, batch, rules).await;
            *batch = rest;
            if !held.is_empty() {
                // Nothing may overtake a request on hold.
                held.append(batch);
            } else if self.topology.shards[server.shard].status.connection() != Some(server.number) {
                for Request { what, reply_to, .. } in batch.drain(..) {
                    self.requests.fail(reply_to, &what, "the connection has ended");
                }
            }
        }
        held
    }

    /// Sends some requests. Returns those to send again because their slot moves.
    async fn send(
        &self,
        server: &ServerConnection,
        batch: &mut Vec<Request>,
        rules: Option<&Effective>,
    ) -> Vec<Request> {
        let mut held = Vec::new();
        if batch.is_empty() {
            return held;
        }
        if let Some(rules) = rules {
            batch.iter_mut().for_each(|request| request.what.adapt(rules));
        }
        let (server_identity, anchor) = (self.topology.identity(server), server.anchor());
        let mut pipeline = redis::pipe();
        for request in &*batch {
            let identity = request.what.channel().map_or(server_identity.any(), |channel| {
                server_identity.counting_since(rules.map_or(0, |rules| rules.since(channel)))
            });
            let mut command = request.what.command(
                &self.context.keys,
                &server.scripts,
                &identity,
                &anchor,
                &self.context.fresh_epoch(),
            );
            if self.published_elsewhere(server, &request.what).is_some() {
                command.arg(1);
            }
            pipeline.add_command(command);
        }
        let wanted = batch.iter().map(|request| request.what.replicas()).max().unwrap_or(0);
        let mut count = batch.len();
        if wanted > 0 {
            let wait = (self.context.config.timeout / 2).min(REPLICAS_WAIT_MAX);
            pipeline.cmd("WAIT").arg(wanted).arg(wait.as_millis() as u64);
            count += 1;
        }
        let Some(mut connection) = server.connections.get(self.index).cloned() else { return held };
        let shard = &self.topology.shards[server.shard];
        let publishes = batch.iter().any(|request| matches!(request.what, What::Publish { .. }));
        if publishes {
            // Recorded even if the response is lost: it matters if this gateway leaves the server meanwhile.
            shard.has_published(self.context.clock.now().at);
        }
        let sent = timeout(self.context.config.timeout, connection.send_packed_commands(&pipeline, 0, count));
        let mut replies = match sent.await {
            Ok(Ok(replies)) if replies.len() == count => replies,
            failed => {
                let cause = match failed {
                    Ok(Ok(_)) => Cause::new(Trouble::Silent, "answers are missing"),
                    Ok(Err(error)) => cause(&error),
                    Err(_) => {
                        self.topology.shards[server.shard].doubt.notify_one();
                        Cause::new(Trouble::Silent, "no answer to a command")
                    }
                };
                self.give_up(batch, &self.topology.shards[server.shard].status.sentence(&cause));
                return held;
            }
        };
        // By now others may have been notified since when the streams of another server count.
        let counts = shard.status.connection() == Some(server.number);
        if publishes && counts {
            shard.has_published(self.context.clock.now().at);
        }
        let replicas = if wanted > 0 { replies.pop().map_or(0, |reply| acknowledged(&reply)) } else { 0 };
        for (request, reply) in batch.drain(..).zip(replies) {
            if matches!(&reply, Value::ServerError(error) if is_elsewhere(error.code())) {
                held.push(request);
            } else {
                self.complete(server, request, reply, Known { replicas, counts });
            }
        }
        if !held.is_empty() {
            self.topology.moved.notify_one();
        }
        held
    }

    /// Position of an earlier publication with the same key, by this gateway, at a server no longer in use.
    fn published_elsewhere(&self, server: &ServerConnection, what: &What) -> Option<Position> {
        let (channel, once) = what.once()?;
        self.repeats.elsewhere(channel, &once.key, &server.replication_id, self.context.clock.now().at)
    }

    /// Records what only this gateway knows of a publication with an idempotency key. A publication that too
    /// few replicas have is not recorded: if it is lost, a repetition should be published.
    fn mark_repeat(&self, server: &ServerConnection, what: &What, published: &mut Published, enough: bool) {
        let Some((channel, once)) = what.once() else { return };
        let at = self.context.clock.now().at;
        match published.repeat {
            Some(Repeat::Unsure) if !self.topology.shards[server.shard].was_replaced_within(once.ttl, at) => {
                published.repeat = None;
            }
            Some(Repeat::Lost) => {
                if let Some(first) = self.published_elsewhere(server, what) {
                    published.top = first;
                }
                self.repeats.prolong(channel, &once.key, at + once.ttl);
                return;
            }
            _ => (),
        }
        if !published.skipped && enough {
            self.repeats.remember(channel, &once.key, &server.replication_id, &published.top, at + once.ttl);
        }
    }

    fn complete(&self, server: &ServerConnection, request: Request, reply: Value, known: Known) {
        let Known { replicas, counts } = known;
        let enough = u64::from(request.what.replicas()) <= replicas;
        let mut read = request.what.read(reply);
        if let Ok(Response::Published(Ok(published))) = &mut read {
            self.mark_repeat(server, &request.what, published, enough);
        }
        match read {
            Ok(Response::Published(Ok(_))) if !counts => {
                let why = "the connection has ended before the response came";
                self.requests.fail_in_doubt(request.reply_to, &request.what, why);
            }
            Ok(answer) if !enough => {
                self.context.metrics.too_few_replicas(replicas);
                let answer = match request.reply_to.is_nobody() {
                    // The log does not count this as a loss.
                    true => answer,
                    false => request.what.failed(ReplyError::INTERNAL.because(TOO_FEW_REPLICAS)),
                };
                self.requests.answer(request.reply_to, answer);
            }
            Ok(answer) => {
                if let What::Recover { channel, .. } = &request.what
                    && !self.subscriptions.interest.is_confirmed(channel, server.number)
                {
                    // The subscription was interrupted meanwhile: publications after this response may be
                    // lost.
                    return self.subscriptions.recover(request);
                }
                let answer = match (&request.what, answer) {
                    (What::Presence { channel, bytes_max, .. }, Response::Present(Ok(elsewhere))) => {
                        Response::Present(self.presence.together(channel, elsewhere, *bytes_max))
                    }
                    (_, answer) => answer,
                };
                self.requests.answer(request.reply_to, answer);
            }
            Err(Refusal::Server(code, detail)) => {
                let cause = refusal(&code, &detail);
                if is_of_server(&code) {
                    let shard = &self.topology.shards[server.shard];
                    shard.status.suspect(cause.clone());
                    shard.doubt.notify_one();
                }
                let why = self.topology.shards[server.shard].status.sentence(&cause);
                self.requests.fail(request.reply_to, &request.what, &why);
            }
            Err(Refusal::Nonsense) => {
                self.requests.fail_in_doubt(
                    request.reply_to,
                    &request.what,
                    "redis answered with something else than the scripts do",
                );
            }
        }
    }

    /// Fails requests that Redis may or may not have carried out.
    fn give_up(&self, batch: &mut Vec<Request>, why: &str) {
        for Request { what, reply_to, .. } in batch.drain(..) {
            self.requests.fail_in_doubt(reply_to, &what, why);
        }
    }
}

/// Number of replicas that have every write so far; 0 if the server refuses to say.
fn acknowledged(reply: &Value) -> u64 {
    match reply {
        Value::Int(replicas) => u64::try_from(*replicas).unwrap_or(0),
        _ => 0,
    }
}
