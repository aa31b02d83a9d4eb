//! `Subscriptions` subscribes to the channels with subscribers at this node, and delivers to its workers.

pub(crate) mod interest;
pub(crate) mod delivery;
pub(crate) mod sync;

use std::sync::Arc;

use crate::backplane::Response;
use crate::backplane::redis::agreement::Agreement;
use crate::backplane::redis::commands::dispatch::Requests;
use crate::backplane::redis::commands::request::{Request, What};
use crate::backplane::redis::context::Context;
use crate::backplane::redis::subscriptions::interest::{Interest, Waiter};
use crate::backplane::redis::topology::Topology;

/// See the module.
pub(crate) struct Subscriptions {
    context: Arc<Context>,
    topology: Arc<Topology>,
    agreement: Arc<Agreement>,
    requests: Arc<Requests>,
    pub(crate) interest: Interest,
}

impl Subscriptions {
    pub(crate) fn new(
        context: Arc<Context>,
        topology: Arc<Topology>,
        agreement: Arc<Agreement>,
        requests: Arc<Requests>,
    ) -> Self {
        let channels_max = context.gateway.memory.channels_max;
        let interest = Interest::new(channels_max, topology.slot_map.clone(), topology.shards.len());
        Self { context, topology, agreement, requests, interest }
    }

    /// Reads the publications a subscriber missed, as soon as its channel is subscribed to.
    pub(crate) fn recover(&self, request: Request) {
        let What::Recover { channel, .. } = &request.what else {
            return self.requests.answer_nothing(request);
        };
        let channel = channel.clone();
        let connection = self.topology.shard(&channel).status.connection();
        if let Some(request) = self.interest.when_confirmed(connection, request, &channel) {
            self.requests.dispatch(request);
        }
    }

    /// Fails requests that have waited for too long.
    pub(crate) fn expire(&self) {
        for waiter in self.interest.expired(self.context.clock.now().at) {
            match waiter {
                // The subscription is made when Redis is back; until then this node's publications arrive.
                Waiter::Announced(reply_to, _) => {
                    self.requests.answer(reply_to, Response::Announced(Ok(())));
                }
                Waiter::Recover(Request { what, reply_to, .. }) => {
                    self.requests.fail(reply_to, &what, "redis was away for too long");
                }
            }
        }
    }
}
