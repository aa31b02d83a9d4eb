//! Passes messages from Redis to the workers.

use std::sync::Arc;

use bytes::Bytes;

use crate::backplane::Order;
use crate::backplane::inbox::Delivery;
use crate::backplane::redis::Shared;
use crate::backplane::redis::format::wire::{self, Message};
use crate::backplane::redis::subscriptions::interest::spread;
use crate::charge::Charge;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::push::{Push, PushKind};

impl Shared {
    /// Handles a message from Redis, or from this node while Redis is away.
    pub(crate) fn received(&self, topic: &[u8], message: &Bytes) {
        self.context.metrics.received();
        // No gateway sends messages of this size: it has another source.
        let bytes_max = self.agreement.rules.publication_bytes_max() + wire::OVERHEAD_BYTES_MAX;
        let for_nodes = topic == self.context.keys.nodes().as_bytes();
        let channel = self.context.keys.channel(topic);
        let decoded = if message.len() <= bytes_max { wire::decode(message) } else { None };
        match (decoded, channel) {
            (Some(Message::Publication { address: None, publication, epoch }), Some(channel)) => {
                self.deliver(channel, PushKind::Publication { publication, epoch }, None);
            }
            (Some(Message::Publication { address: Some(address), publication, epoch }), None)
                if for_nodes =>
            {
                let workers = match address.target() {
                    Target::Connection(id) => {
                        Some(self.context.worker_of(id).map_or(0, |worker| 1 << worker))
                    }
                    _ => None,
                };
                self.deliver(address, PushKind::Publication { publication, epoch }, workers);
            }
            (Some(Message::Join(member)), Some(channel)) => {
                self.deliver(channel, PushKind::Join(member), None);
            }
            (Some(Message::Leave(member)), Some(channel)) => {
                self.deliver(channel, PushKind::Leave(member), None);
            }
            (Some(Message::Order { node, address, order }), None) if for_nodes => {
                // This node has already carried out its own order.
                if node != self.context.node {
                    self.order(None, &address, None, &order);
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
            (Some(Message::Look { node }), None) if for_nodes => {
                if node != self.context.node {
                    self.nodes.look();
                }
            }
            (Some(Message::Unknown), _) => self.context.metrics.unknown(),
            _ => self.context.metrics.malformed(),
        }
    }

    /// Delivers to these workers, or to those with subscribers.
    pub(crate) fn deliver(&self, channel: Channel, kind: PushKind, workers: Option<u64>) {
        self.deliver_charged(channel, kind, workers, None);
    }

    /// Like [`deliver`](Self::deliver), with an account that is charged until delivery.
    pub(crate) fn deliver_charged(
        &self,
        channel: Channel,
        kind: PushKind,
        workers: Option<u64>,
        charge: Option<Charge>,
    ) {
        let seen = match &kind {
            PushKind::Publication { publication, epoch } if publication.offset > 0 => {
                Some((publication.offset, epoch))
            }
            _ => None,
        };
        let workers = workers.unwrap_or_else(|| self.interest.workers(&channel, seen));
        if workers != 0 {
            let push = Arc::new(Push::charged(channel, kind, charge));
            spread(&self.context.inboxes, workers, || Delivery::Push(push.clone()));
        }
    }

    /// Gives an order to one worker, or to all of them. False if one has no room.
    pub(crate) fn order(
        &self,
        worker: Option<usize>,
        address: &Channel,
        except: Option<u64>,
        order: &Order,
    ) -> bool {
        let mut told = true;
        for (index, inbox) in self.context.inboxes.iter().enumerate() {
            if worker.is_none_or(|worker| worker == index) {
                told &= inbox.put(Delivery::Order { address: address.clone(), except, order: order.clone() });
            }
        }
        told
    }
}
