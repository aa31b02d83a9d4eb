//! Queues requests in the pipelines and returns their responses to the senders.

use std::hash::BuildHasher;

use rustc_hash::FxBuildHasher;

use crate::backplane::inbox::Delivery;
use crate::backplane::redis::Shared;
use crate::backplane::redis::commands::request::{Request, What};
use crate::backplane::{ReplyTo, Response};
use crate::connection_id::ConnectionIds;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;

/// Error for a client while Redis is needed and unavailable.
pub(crate) const UNAVAILABLE: ReplyError = ReplyError::INTERNAL;
pub(crate) const AWAY: &str = "redis cannot be asked at the moment: try again";
pub(crate) const NOT_PUBLISHED: &str =
    "nothing was published, because redis cannot take it at the moment: try again";
pub(crate) const PERHAPS_PUBLISHED: &str = "there was no answer: this may have been published or not; to publish it again is safe with the \
    same `idempotency_key` only";
pub(crate) const TOO_FEW_REPLICAS: &str = "too few replicas have it in time: it was published, and a failure of redis may lose it; to publish it \
    again is safe with the same `idempotency_key` only";
pub(crate) const PARTIAL: &str = "another gateway does not keep who is in this channel, so only a part is known: its rules differ, see \
    `/api/nodes`";
pub(crate) const DISAGREES: &str = "this gateway does not serve channels, because its servers of redis are not those of the other \
    gateways: see `/health/ready`";
pub(crate) const BUSY: &str = "too many questions wait for redis: try again";

impl Shared {
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
        let what = What::Spread { to, message, publication: false };
        if self.shards[self.shard_index_of(&what)].status.link().is_none() {
            return false;
        }
        let Ok(reply_to) = self.admit(ReplyTo::Nobody) else { return false };
        let until = self.context.clock.now().at + self.context.config.timeout;
        self.dispatch(Request { what, reply_to, until, _charges: [None, None] });
        true
    }

    /// Queues a request, or fails it if there is no room.
    pub(crate) fn dispatch(&self, request: Request) {
        let pipelines = &self.shards[self.shard_index_of(&request.what)].pipelines;
        let pipeline = FxBuildHasher.hash_one(request.what.channel()) as usize % pipelines.len();
        if let Err(refused) = pipelines[pipeline].try_send(request) {
            let Request { what, reply_to, .. } = refused.into_inner();
            self.answer(reply_to, what.failed(ReplyError::TOO_MANY_REQUESTS.because(BUSY)));
        }
    }

    /// Reads the publications a subscriber missed, as soon as its channel is subscribed to.
    pub(crate) fn recover(&self, request: Request) {
        let What::Recover { channel, .. } = &request.what else { return self.answer_nothing(request) };
        let channel = channel.clone();
        if let Some(request) =
            self.interest.when_confirmed(self.shard(&channel).status.link(), request, &channel)
        {
            self.dispatch(request);
        }
    }

    pub(crate) fn answer_nothing(&self, request: Request) {
        self.answer(request.reply_to, request.what.failed(ReplyError::INTERNAL));
    }

    pub(crate) fn answer(&self, reply_to: ReplyTo, answer: Response) {
        self.context.metrics.answered();
        match reply_to {
            ReplyTo::Connection(connection, request_id) => {
                if let Some(inbox) = self.context.inboxes.get(ConnectionIds::worker(connection)) {
                    inbox.put(Delivery::Answer { connection, request_id, answer });
                }
            }
            ReplyTo::Task(sender) => {
                let _ = sender.send(answer);
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
        let told = if what.publishes() { NOT_PUBLISHED } else { AWAY };
        self.answer(reply_to, what.failed(UNAVAILABLE.because(told)));
    }

    /// Fails a request that was sent and whose result is unknown.
    pub(crate) fn fail_in_doubt(&self, reply_to: ReplyTo, what: &What, why: &str) {
        self.context.metrics.failed(why);
        let told = if what.publishes() { PERHAPS_PUBLISHED } else { AWAY };
        self.answer(reply_to, what.failed(UNAVAILABLE.because(told)));
    }
}
