//! `Requests` queues requests in the pipelines and returns their responses to the senders.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxBuildHasher;
use tokio::sync::mpsc;

use crate::backplane::inbox::Delivery;
use crate::backplane::redis::commands::request::{Charges, Request, What};
use crate::backplane::redis::context::Context;
use crate::backplane::redis::topology::Topology;
use crate::backplane::{Outcome, PERHAPS_PUBLISHED, ReplyTo, Response};
use crate::charge::{Account, Charge};
use crate::connection_id::ConnectionIds;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;

/// Error for a client while Redis is needed and unavailable.
pub(crate) const UNAVAILABLE: ReplyError = ReplyError::INTERNAL;
pub(crate) const AWAY: &str = "redis cannot be asked at the moment: try again";
pub(crate) const NOT_PUBLISHED: &str =
    "nothing was published, because redis cannot take it at the moment: try again";
pub(crate) const NOT_REMOVED: &str =
    "the history was not removed, because redis takes no writes at the moment: try again";
pub(crate) const TOO_FEW_REPLICAS: &str = "too few replicas have it in time: it was published, and a failure of redis may lose it; to publish it \
    again is safe with the same `idempotency_key` only";
pub(crate) const PARTIAL: &str = "another gateway does not keep who is in this channel, so only a part is known: its rules differ, see \
    `/api/nodes`";
pub(crate) const DISAGREES: &str = "this gateway does not serve channels, because its servers of redis are not those of the other \
    gateways: see `/health/ready`";
pub(crate) const BUSY: &str = "too many questions wait for redis: try again";

/// See the module.
pub(crate) struct Requests {
    context: Arc<Context>,
    topology: Arc<Topology>,
    /// The queues of the pipelines of each shard. Each channel uses one of them.
    pipelines: Box<[Box<[mpsc::Sender<Request>]>]>,
    /// Bytes of the publications among the pending requests.
    pending: Account,
}

/// The receiving ends of the pipelines of each shard.
pub(crate) type Queues = Vec<Vec<mpsc::Receiver<Request>>>;

impl Requests {
    pub(crate) fn new(context: Arc<Context>, topology: Arc<Topology>) -> (Self, Queues) {
        let config = &context.config;
        let of_shard = |_| {
            let pipelines = (0..config.connections).map(|_| mpsc::channel(config.questions_max));
            let (senders, queues): (Vec<_>, Vec<_>) = pipelines.unzip();
            (senders.into_boxed_slice(), queues)
        };
        let (pipelines, queues): (Vec<_>, _) = topology.shards.iter().map(of_shard).unzip();
        (Self { context, topology, pipelines: pipelines.into(), pending: Account::default() }, queues)
    }

    /// Index of the shard that a request is sent to.
    pub(crate) fn shard_index_of(&self, what: &What) -> usize {
        let slot_map = &self.topology.slot_map;
        what.channel().map_or_else(|| slot_map.shared_shard(), |channel| slot_map.shard_of(channel))
    }

    /// The error for a request without a connection, if no channel is served.
    pub(crate) fn refusal(&self) -> Option<ReplyError> {
        self.topology.conflict(None).map(|_| UNAVAILABLE.because(DISAGREES))
    }

    /// Takes room for the bytes of a publication, until its response.
    pub(crate) fn room_for(&self, bytes: usize) -> Option<Charge> {
        self.pending.charge(bytes, self.context.config.questions_bytes_max)
    }

    /// Sends a request whose response comes later.
    pub(crate) fn ask<T>(&self, what: What, reply_to: ReplyTo, at: Duration) -> Outcome<T> {
        self.ask_charged(what, reply_to, at, [None, None])
    }

    /// Like [`ask`](Self::ask), with charges until the response.
    pub(crate) fn ask_charged<T>(
        &self,
        what: What,
        reply_to: ReplyTo,
        at: Duration,
        charges: Charges,
    ) -> Outcome<T> {
        match self.admit(reply_to) {
            Ok(reply_to) => {
                let until = at + self.context.config.timeout;
                self.dispatch(Request { what, reply_to, until, _charges: charges });
                Outcome::Pending
            }
            Err(error) => Outcome::Ready(Err(error)),
        }
    }

    /// Checks that there is room for a request; returns `reply_to` if there is.
    pub(crate) fn admit(&self, reply_to: ReplyTo) -> Result<ReplyTo, ReplyError> {
        if self.context.metrics.asked() >= self.context.config.questions_max as u64 {
            self.context.metrics.answered();
            return Err(ReplyError::TOO_MANY_REQUESTS.because(BUSY));
        }
        Ok(reply_to)
    }

    /// Sends a message without a response to the other nodes with subscribers of a channel, or to all nodes.
    /// False without Redis or without room.
    pub(crate) fn broadcast(&self, to: Option<Channel>, message: Vec<u8>) -> bool {
        self.broadcast_charged(to, message, None, ReplyTo::Nobody)
    }

    /// Like [`broadcast`](Self::broadcast), with the room that the message takes. If true, `reply_to` gets
    /// [`Response::Published`] when Redis has accepted the message or has not.
    pub(crate) fn broadcast_charged(
        &self,
        to: Option<Channel>,
        message: Vec<u8>,
        room: Option<Charge>,
        reply_to: ReplyTo,
    ) -> bool {
        let (publication, patterns) = (false, false);
        let what = What::Spread { to, message, publication, patterns, skip_history: false };
        if self.topology.shards[self.shard_index_of(&what)].status.connection().is_none() {
            return false;
        }
        let Ok(reply_to) = self.admit(reply_to) else { return false };
        let until = self.context.clock.now().at + self.context.config.timeout;
        self.dispatch(Request { what, reply_to, until, _charges: [room, None] });
        true
    }

    /// Queues a request, or fails it if there is no room.
    pub(crate) fn dispatch(&self, request: Request) {
        let pipelines = &self.pipelines[self.shard_index_of(&request.what)];
        let pipeline = FxBuildHasher.hash_one(request.what.channel()) as usize % pipelines.len();
        if let Err(refused) = pipelines[pipeline].try_send(request) {
            let Request { what, reply_to, .. } = refused.into_inner();
            self.answer(reply_to, what.failed(ReplyError::TOO_MANY_REQUESTS.because(BUSY)));
        }
    }

    /// Fails a request of the wrong kind.
    pub(crate) fn answer_nothing(&self, request: Request) {
        self.answer(request.reply_to, request.what.failed(ReplyError::INTERNAL));
    }

    /// Sends a response.
    pub(crate) fn answer(&self, reply_to: ReplyTo, answer: Response) {
        self.context.metrics.answered();
        self.send(reply_to, answer);
    }

    fn send(&self, reply_to: ReplyTo, answer: Response) {
        match reply_to {
            ReplyTo::Connection(connection, request_id) => {
                if let Some(inbox) = self.context.inboxes.get(ConnectionIds::worker(connection)) {
                    inbox.put(Delivery::Answer { connection, request_id, answer });
                }
            }
            ReplyTo::Task(sender) => {
                let _ = sender.send(answer);
            }
            ReplyTo::After(after) => {
                let (learn, reply_to) = *after;
                if let Response::Published(Ok(published)) = &answer {
                    learn.learn(published);
                }
                self.send(reply_to, answer);
            }
            ReplyTo::Nobody => {
                if let Response::Published(Err(error)) = answer {
                    self.context.metrics.lost(&error.message);
                }
            }
        }
    }

    /// Fails a request that has changed nothing. The sender gets an error that says to try again; the log
    /// gets the reason.
    pub(crate) fn fail(&self, reply_to: ReplyTo, what: &What, why: &str) {
        self.context.metrics.failed(why);
        let message = if what.publishes() { NOT_PUBLISHED } else { AWAY };
        self.answer(reply_to, what.failed(UNAVAILABLE.because(message)));
    }

    /// Fails a request that was sent and whose result is unknown.
    pub(crate) fn fail_in_doubt(&self, reply_to: ReplyTo, what: &What, why: &str) {
        self.context.metrics.failed(why);
        let message = if what.publishes() { PERHAPS_PUBLISHED } else { AWAY };
        self.answer(reply_to, what.failed(UNAVAILABLE.because(message)));
    }
}
