//! `Incoming` passes messages from Redis to the workers, and to the parts that talk to other gateways.

use std::sync::Arc;

use bytes::Bytes;

use crate::backplane::redis::agreement::Agreement;
use crate::backplane::redis::commands::dispatch::Requests;
use crate::backplane::redis::connection::subscription::Listener;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::format::wire::{self, Message};
use crate::backplane::redis::inputs::Inputs;
use crate::backplane::redis::membership::nodes::Nodes;
use crate::backplane::redis::subscriptions::Subscriptions;
use crate::backplane::redis::survey::Surveys;
use crate::backplane::redis::topology::Topology;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::push::{Publication, Push, PushKind};

/// See the module.
pub(crate) struct Incoming {
    pub(crate) context: Arc<Context>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) agreement: Arc<Agreement>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) surveys: Arc<Surveys>,
    pub(crate) inputs: Arc<Inputs>,
    pub(crate) nodes: Arc<Nodes>,
}

/// Listens to one connection.
pub(crate) struct ConnectionListener {
    pub(crate) incoming: Arc<Incoming>,
    /// Index of the shard.
    pub(crate) shard: usize,
    /// Number of the connection.
    pub(crate) number: u64,
}

impl Listener for ConnectionListener {
    fn on_message(&self, topic: &[u8], message: Bytes) {
        // A connection that was given up may still deliver for a moment.
        if self.incoming.topology.shards[self.shard].status.connection() == Some(self.number) {
            self.incoming.received(topic, &message, Some(self.number));
        }
    }

    fn on_unsubscribed(&self, channel: &Channel) {
        if self.incoming.subscriptions.interest.lost(channel, self.number) {
            self.incoming.topology.moved.notify_one();
        }
    }
}

impl Incoming {
    /// Handles a message that came over the connection with this number, or from this node while Redis is
    /// away.
    pub(crate) fn received(&self, topic: &[u8], message: &Bytes, connection: Option<u64>) {
        self.context.metrics.received();
        // No gateway sends messages of this size: it has another source.
        let bytes_max = self.agreement.rules.publication_bytes_max() + wire::OVERHEAD_BYTES_MAX;
        let for_nodes = topic == self.context.keys.nodes().as_bytes();
        let channel = self.context.keys.channel(topic);
        let decoded = if message.len() <= bytes_max { wire::decode(message) } else { None };
        match (decoded, channel) {
            (Some(Message::Publication { address: None, publication, epoch }), Some(channel)) => {
                self.subscriptions.deliver(self.publication(channel, publication, epoch), None);
            }
            (Some(Message::Publication { address: Some(address), publication, epoch }), None)
                if for_nodes =>
            {
                let workers = self.workers_of(&address);
                self.subscriptions.deliver(self.publication(address, publication, epoch), workers);
            }
            (Some(Message::Publication { address: Some(channel), publication, epoch }), Some(feed))
                if feed.is_pattern() =>
            {
                let workers = self.subscriptions.interest.feed_workers(&feed, connection);
                self.subscriptions.deliver_feed(self.publication(channel, publication, epoch), workers);
            }
            (Some(Message::Presence { address: None, member, came }), Some(channel)) => {
                self.subscriptions.met(channel, member, came, None);
            }
            (Some(Message::Presence { address: Some(address), member, came }), None) if for_nodes => {
                let workers = self.workers_of(&address);
                self.subscriptions.met(address, member, came, workers);
            }
            (Some(Message::Order { node, address, order }), None) if for_nodes => {
                // This node has already carried out its own order.
                if node != self.context.node {
                    self.subscriptions.order(None, &address, None, &order);
                }
            }
            (Some(Message::Question { node, id, question }), None) if for_nodes => {
                if node != self.context.node {
                    self.surveys.asked(node, id, question);
                }
            }
            (Some(Message::Answer { to, id, from, finding }), None) if for_nodes => {
                if to == self.context.node {
                    self.surveys.answered(id, from, finding);
                }
            }
            (Some(Message::Input(input)), None) if for_nodes => {
                if input.to == self.context.node {
                    self.inputs.arrived(input, &self.context, &self.requests);
                }
            }
            (Some(Message::InputOutcome(result)), None) if for_nodes => {
                if result.from == self.context.node {
                    self.inputs.finished(result.id, result.outcome);
                }
            }
            (Some(Message::Look { node }), None) if for_nodes => {
                if node != self.context.node {
                    self.nodes.look();
                    self.context.revocations.look();
                }
            }
            (Some(Message::Unknown), _) => self.context.metrics.unknown(),
            _ => self.context.metrics.malformed(),
        }
    }

    /// The workers that may have subscribers of an address; `None` for all that have an interest in it.
    fn workers_of(&self, address: &Channel) -> Option<u64> {
        match address.target() {
            Target::Connection(id) => Some(self.context.worker_of(id).map_or(0, |worker| 1 << worker)),
            _ => None,
        }
    }

    /// A publication that arrives now.
    fn publication(&self, channel: Channel, publication: Arc<Publication>, epoch: Arc<str>) -> Push {
        let kind = PushKind::Publication { publication, epoch };
        Push::new(channel, kind).accepted_at(self.context.clock.at())
    }
}
