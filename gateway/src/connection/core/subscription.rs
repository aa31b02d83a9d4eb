//! Makes, refuses and removes the subscriptions of a connection.

use super::{Core, Effects, Subscription, fail};
use crate::connection::effect::Effect;
use crate::connection::event::Subscriber;
use crate::protocol::channel::Channel;
use crate::protocol::code::{Close, ReplyError, Unsubscribe};
use crate::protocol::reply::{Reply, Subscribed};
use crate::telemetry::metrics::CloseCause;

impl Core {
    /// Whether the connection has this subscription or may add one.
    pub fn has_room_for(&self, channel: &Channel) -> bool {
        self.subscriptions.contains_key(channel)
            || self.subscriptions.len() < self.config.limits.channels_per_connection_max
    }

    pub(super) fn subscribe_by_server(&mut self, channel: Channel, by: Subscriber, effects: &mut Effects) {
        if self.subscriptions.contains_key(&channel)
            || self.subscriptions.len() >= self.config.limits.channels_per_connection_max
        {
            if by == Subscriber::Identity {
                self.admitted_to(None, effects);
            }
            return;
        }
        let recover = self.positions.iter().find(|(known, _)| *known == channel);
        let recover = recover.map(|(_, position)| position.clone());
        self.subscriptions.insert(channel.clone(), Subscription::Requested);
        effects.push_back(Effect::Subscribe { channel, by, recover, join_leave: None, filter: None });
    }

    pub(super) fn on_subscribed(
        &mut self,
        channel: Channel,
        by: Subscriber,
        result: Result<Subscribed, ReplyError>,
        effects: &mut Effects,
    ) {
        let unwanted = self.subscriptions.get(&channel) != Some(&Subscription::Requested);
        if unwanted && result.is_ok() {
            effects.push_back(Effect::Unsubscribe(channel.clone()));
        }
        let result = if unwanted { Err(ReplyError::PERMISSION_DENIED) } else { result };
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                self.subscriptions.swap_remove(&channel);
                match by {
                    Subscriber::Client { id, .. } => fail(id, error, effects),
                    Subscriber::Identity if unwanted => self.admitted_to(None, effects),
                    Subscriber::Identity => {
                        let why = format!("the server cannot subscribe to {channel}: {}", error.message);
                        self.end(Close::custom(Close::INTERNAL.code, &why), CloseCause::Other, effects);
                    }
                    Subscriber::Plugin => (),
                }
                return;
            }
        };
        if let Subscriber::Client { id, reject_unrecovered: true } = by
            && result.recovered == Some(false)
        {
            self.subscriptions.swap_remove(&channel);
            effects.push_back(Effect::Unsubscribe(channel));
            return fail(id, ReplyError::UNRECOVERABLE_POSITION, effects);
        }
        let kind =
            if matches!(by, Subscriber::Client { .. }) { Subscription::Client } else { Subscription::Server };
        self.subscriptions.insert(channel.clone(), kind);
        match by {
            Subscriber::Client { id, .. } => {
                effects.push_back(Effect::Reply(Reply::Subscribed { id, result }))
            }
            Subscriber::Plugin => {
                effects.push_back(Effect::Reply(Reply::SubscribedByServer { channel, result }))
            }
            Subscriber::Identity => self.admitted_to(Some((channel, result)), effects),
        }
    }

    /// Removes a subscription for the server and notifies the client.
    pub(super) fn remove(&mut self, channel: Channel, why: Unsubscribe, effects: &mut Effects) {
        match self.subscriptions.get_mut(&channel) {
            // The reply to the client's command reports it.
            Some(making @ (Subscription::Requested | Subscription::Unwanted)) => {
                *making = Subscription::Unwanted
            }
            Some(Subscription::Client | Subscription::Server) => {
                self.subscriptions.swap_remove(&channel);
                effects.push_back(Effect::Unsubscribe(channel.clone()));
                effects.push_back(Effect::Reply(Reply::UnsubscribedByServer { channel, why }));
            }
            None => (),
        }
    }
}
