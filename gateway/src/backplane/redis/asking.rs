//! Questions on their way to a lane, and answers on their way back to who asked.

use std::hash::BuildHasher;

use rustc_hash::FxBuildHasher;

use super::Shared;
use super::request::{Request, What};
use crate::backplane::inbox::Delivery;
use crate::backplane::{Answer, Asker};
use crate::connection_id::ConnectionIds;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;

/// What a client is told when Redis is needed and is not there.
pub(super) const UNAVAILABLE: ReplyError = ReplyError::INTERNAL;
pub(super) const AWAY: &str = "redis cannot be asked at the moment: try again";
pub(super) const NOT_PUBLISHED: &str =
    "nothing was published, because redis cannot take it at the moment: try again";
pub(super) const PERHAPS_PUBLISHED: &str = "there was no answer: this may have been published or not; to publish it again is safe with the \
    same `idempotency_key` only";
pub(super) const TOO_FEW_REPLICAS: &str = "too few replicas have it in time: it was published, and a failure of redis may lose it; to publish it \
    again is safe with the same `idempotency_key` only";
pub(super) const PARTIAL: &str = "another gateway does not keep who is in this channel, so only a part is known: its rules differ, see \
    `/api/nodes`";
pub(super) const DISAGREES: &str = "this gateway does not serve channels, because its servers of redis are not those of the other \
    gateways: see `/health/ready`";
pub(super) const BUSY: &str = "too many questions wait for redis: try again";

impl Shared {
    /// Makes sure that the question has room. Gives the asker back if it has none.
    pub(super) fn admit(&self, asker: Asker) -> Result<Asker, ReplyError> {
        if self.metrics.asked() >= self.config.questions_max as u64 {
            self.metrics.answered();
            return Err(ReplyError::TOO_MANY_REQUESTS.because(BUSY));
        }
        Ok(asker)
    }

    /// Sends a message that nobody waits for to the other nodes with subscribers of a channel, or to all. False without Redis
    /// or without room.
    pub(super) fn tell(&self, to: Option<Channel>, message: Vec<u8>) -> bool {
        let what = What::Spread { to, message, publication: false };
        if self.units[self.place_of(&what)].status.link().is_none() {
            return false;
        }
        let Ok(asker) = self.admit(Asker::Nobody) else { return false };
        let until = self.clock.now().at + self.config.timeout;
        self.put(Request { what, asker, until, _charges: [None, None] });
        true
    }

    /// Queues a request, or fails it if there is no room.
    pub(super) fn put(&self, request: Request) {
        let lanes = &self.units[self.place_of(&request.what)].lanes;
        let lane = FxBuildHasher.hash_one(request.what.channel()) as usize % lanes.len();
        if let Err(refused) = lanes[lane].try_send(request) {
            let Request { what, asker, .. } = refused.into_inner();
            self.answer(asker, what.failed(ReplyError::TOO_MANY_REQUESTS.because(BUSY)));
        }
    }

    /// Reads what a subscriber missed, as soon as its channel is subscribed to.
    pub(super) fn recover(&self, request: Request) {
        let What::Recover { channel, .. } = &request.what else { return self.answer_nothing(request) };
        let channel = channel.clone();
        if let Some(request) =
            self.interest.when_confirmed(self.unit(&channel).status.link(), request, &channel)
        {
            self.put(request);
        }
    }

    pub(super) fn answer_nothing(&self, request: Request) {
        self.answer(request.asker, request.what.failed(ReplyError::INTERNAL));
    }

    pub(super) fn answer(&self, asker: Asker, answer: Answer) {
        self.metrics.answered();
        match asker {
            Asker::Connection(connection, ticket) => {
                if let Some(inbox) = self.inboxes.get(ConnectionIds::worker(connection)) {
                    inbox.put(Delivery::Answer { connection, ticket, answer });
                }
            }
            Asker::Task(sender) => {
                let _ = sender.send(answer);
            }
            Asker::Nobody => {
                if let Answer::Published(Err(error)) = answer {
                    self.metrics.lost(&error.message);
                }
            }
        }
    }

    /// A question has failed, and changed nothing. Who asked is told to try again, the log is told why.
    pub(super) fn fail(&self, asker: Asker, what: &What, why: &str) {
        self.metrics.failed(why);
        let told = if what.publishes() { NOT_PUBLISHED } else { AWAY };
        self.answer(asker, what.failed(UNAVAILABLE.because(told)));
    }

    /// A question was sent, and nobody knows what became of it.
    pub(super) fn fail_in_doubt(&self, asker: Asker, what: &What, why: &str) {
        self.metrics.failed(why);
        let told = if what.publishes() { PERHAPS_PUBLISHED } else { AWAY };
        self.answer(asker, what.failed(UNAVAILABLE.because(told)));
    }
}
