//! Delivers to the workers of this node, and announces members to the subscribers of all nodes.

use std::sync::Arc;

use crate::backplane::Order;
use crate::backplane::inbox::{Delivery, Inbox};
use crate::backplane::redis::format::wire;
use crate::backplane::redis::subscriptions::Subscriptions;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::push::{Member, Push, PushKind};

impl Subscriptions {
    /// Delivers to these workers, or to those with subscribers.
    pub(crate) fn deliver(&self, push: Push, workers: Option<u64>) {
        let seen = match &push.kind {
            PushKind::Publication { publication, epoch } if publication.offset > 0 => {
                Some((publication.offset, epoch))
            }
            _ => None,
        };
        let workers = workers.unwrap_or_else(|| self.interest.workers(&push.channel, seen));
        if workers != 0 {
            let push = Arc::new(push);
            spread(&self.context.inboxes, workers, || Delivery::Push(push.clone()));
        }
    }

    /// Delivers a publication to the subscribers of patterns on these workers.
    pub(crate) fn deliver_feed(&self, push: Push, workers: u64) {
        if workers != 0 {
            let push = Arc::new(push);
            spread(&self.context.inboxes, workers, || Delivery::Feed(push.clone()));
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
        let mut delivered = true;
        for (index, inbox) in self.context.inboxes.iter().enumerate() {
            if worker.is_none_or(|worker| worker == index) {
                delivered &=
                    inbox.put(Delivery::Order { address: address.clone(), except, order: order.clone() });
            }
        }
        delivered
    }

    /// Announces a member that came or left to the subscribers at all nodes; without Redis to those at this
    /// node.
    pub(crate) fn announce(&self, channel: &Channel, member: &Arc<Member>, came: bool) {
        let address = (channel.target() != Target::Channel).then_some(channel);
        if !self.requests.broadcast(Some(channel.clone()), wire::presence(member, came, address)) {
            self.met(channel.clone(), member.clone(), came, None);
        }
    }

    /// Tells subscribers of this node, of these workers or of all, that a member came or left.
    pub(crate) fn met(&self, channel: Channel, member: Arc<Member>, came: bool, workers: Option<u64>) {
        let kind = if came { PushKind::Join(member) } else { PushKind::Leave(member) };
        self.deliver(Push::new(channel, kind), workers);
    }
}

/// Puts a delivery into the inboxes of these workers.
pub(crate) fn spread(inboxes: &[Arc<Inbox>], workers: u64, delivery: impl Fn() -> Delivery) {
    let mut left = workers;
    while left != 0 {
        let worker = left.trailing_zeros() as usize;
        left &= left - 1;
        if let Some(inbox) = inboxes.get(worker) {
            inbox.put(delivery());
        }
    }
}
