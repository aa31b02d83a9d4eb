//! Makes, refuses and removes the subscriptions of a connection.

use std::sync::Arc;

use super::admission::{time_of, ttl};
use super::{Core, Effects, State, Subscription, fail};
use crate::backplane::SubscribeOptions;
use crate::clock::Now;
use crate::config::RecoveryMode;
use crate::connection::effect::Effect;
use crate::connection::event::Subscriber;
use crate::plugin::verdict::Expiry;
use crate::protocol::channel::Channel;
use crate::protocol::code::{Close, ReplyError, Unsubscribe};
use crate::protocol::command::Position;
use crate::protocol::reply::{Reply, Subscribed};
use crate::telemetry::metrics::CloseCause;

/// Most subscriptions that end in one tick, so that other connections get their turn.
const EXPIRED_PER_TICK_MAX: usize = 64;

impl Core {
    /// Whether the connection has this subscription or may add one.
    pub fn has_room_for(&self, channel: &Channel) -> bool {
        self.subscriptions.contains_key(channel)
            || self.subscriptions.len() < self.config.limits.channels_per_connection_max
    }

    pub(super) fn subscribe_by_server(
        &mut self,
        now: Now,
        channel: Channel,
        by: Subscriber,
        options: Option<Arc<SubscribeOptions>>,
        effects: &mut Effects,
    ) {
        if self.subscriptions.contains_key(&channel)
            || self.subscriptions.len() >= self.config.limits.channels_per_connection_max
        {
            if by == Subscriber::Identity {
                self.admitted_to(None, effects);
            }
            return;
        }
        let (mut recover, mut join_leave) = (None, None);
        if let Some(options) = &options {
            if let Some(seconds) = options.expires_at
                && self.expire_subscription_at(now, &channel, Expiry::At(seconds)).is_err()
            {
                // It has expired on its way here.
                if by == Subscriber::Identity {
                    self.admitted_to(None, effects);
                }
                return;
            }
            recover = options.recover.clone();
            join_leave = options.overrides.push_join_leave;
        }
        if recover.is_none()
            && (options.is_none() || by == Subscriber::Identity)
            && let Some((_, position)) = self.positions.iter().find(|(known, _)| *known == channel)
        {
            recover = Some(position.clone());
        }
        self.subscriptions.insert(channel.clone(), Subscription::Requested);
        // Only the connect reply can tell the client that publications may be deltas.
        let delta = by == Subscriber::Identity
            && self.deltas.binary_search(&channel).is_ok()
            && self.makes_deltas(&channel);
        let filter = None;
        let recover = recover.or_else(|| self.wants_latest(&channel));
        effects.push_back(Effect::Subscribe { channel, by, recover, join_leave, filter, delta, options });
    }

    /// The position of a client that has none, in a channel where each subscribe brings the latest
    /// publication: before everything that is kept.
    pub(super) fn wants_latest(&self, channel: &Channel) -> Option<Position> {
        let rules = self.config.namespaces.of(channel)?;
        rules.latest_on_subscribe.then(|| Position { offset: 0, epoch: "".into() })
    }

    pub(super) fn on_subscribed(
        &mut self,
        now: Now,
        channel: Channel,
        by: Subscriber,
        result: Result<Subscribed, ReplyError>,
        effects: &mut Effects,
    ) {
        let unwanted = self.subscriptions.get(&channel) != Some(&Subscription::Requested);
        if unwanted && result.is_ok() {
            effects.push_back(Effect::Unsubscribe(channel.clone(), Unsubscribe::BY_SERVER));
        }
        let result = if unwanted { Err(ReplyError::PERMISSION_DENIED) } else { result };
        let mut result = match result {
            Ok(result) => result,
            Err(error) => {
                self.forget_subscription(&channel);
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
            && !self.recovers_latest(&channel)
        {
            self.forget_subscription(&channel);
            effects.push_back(Effect::Unsubscribe(channel, Unsubscribe::UNRECOVERED));
            return fail(id, ReplyError::UNRECOVERABLE_POSITION, effects);
        }
        let kind =
            if matches!(by, Subscriber::Client { .. }) { Subscription::Client } else { Subscription::Server };
        self.subscriptions.insert(channel.clone(), kind);
        match by {
            Subscriber::Client { id, .. } => {
                // The client has nothing to do about an expiry for which an upstream is asked.
                let expires = self.expiring.of(&channel).filter(|_| self.refreshing.of(&channel).is_none());
                result.ttl = expires.map(|expires| ttl(now, expires));
                effects.push_back(Effect::Reply(Reply::Subscribed { id, result }))
            }
            Subscriber::Plugin => match &mut self.state {
                // Before the connect reply the client knows of no subscription: this one comes with it.
                State::Admitting(admitting) => admitting.subscriptions.push((channel, result)),
                _ => effects.push_back(Effect::Reply(Reply::SubscribedByServer { channel, result })),
            },
            Subscriber::Identity => self.admitted_to(Some((channel, result)), effects),
        }
    }

    /// Whether only the latest publication of a channel counts for a client that recovers. There may be none
    /// before anything was published, so that is no reason to refuse a subscription.
    fn recovers_latest(&self, channel: &Channel) -> bool {
        let rules = self.config.namespaces.of(channel);
        rules.is_some_and(|rules| rules.recovery_mode == RecoveryMode::Cache)
    }

    /// Removes a subscription for the server and notifies the client.
    pub(super) fn remove(&mut self, channel: Channel, why: Unsubscribe, effects: &mut Effects) {
        match self.subscriptions.get_mut(&channel) {
            // The reply to the client's command reports it.
            Some(making @ (Subscription::Requested | Subscription::Unwanted)) => {
                *making = Subscription::Unwanted
            }
            Some(Subscription::Client | Subscription::Server) => {
                self.forget_subscription(&channel);
                effects.push_back(Effect::Unsubscribe(channel.clone(), why.clone()));
                match &mut self.state {
                    State::Admitting(admitting) => admitting.subscriptions.retain(|(of, _)| *of != channel),
                    _ => effects.push_back(Effect::Reply(Reply::UnsubscribedByServer { channel, why })),
                }
            }
            None => (),
        }
    }

    /// Forgets a subscription and its expiry. Whether there was one.
    pub(super) fn forget_subscription(&mut self, channel: &Channel) -> bool {
        self.expiring.remove(channel);
        self.refreshing.remove(channel);
        self.asked.remove(channel);
        self.subscriptions.swap_remove(channel).is_some()
    }

    /// Sets when a subscription expires, and returns the seconds until then for its client; an error if that
    /// time has passed.
    pub(super) fn expire_subscription_at(
        &mut self,
        now: Now,
        channel: &Channel,
        expiry: Expiry,
    ) -> Result<Option<u32>, ReplyError> {
        match expiry {
            Expiry::Never => {
                self.expiring.remove(channel);
                self.refreshing.remove(channel);
                Ok(None)
            }
            Expiry::At(seconds) => {
                let expires = time_of(now, seconds)?;
                self.expiring.set(channel, expires);
                if self.refresher_of(channel).is_some() {
                    self.refreshing.set(channel, expires);
                    return Ok(None);
                }
                Ok(Some(ttl(now, expires)))
            }
        }
    }

    /// Sets when a subscription expires for the server; one that has expired ends. The protocol has no push
    /// that would tell the client.
    pub(super) fn subscription_refreshed_by_server(
        &mut self,
        now: Now,
        channel: Channel,
        expiry: Expiry,
        effects: &mut Effects,
    ) {
        if self.subscriptions.contains_key(&channel)
            && self.expire_subscription_at(now, &channel, expiry).is_err()
        {
            self.expire_subscription(channel, effects);
        }
    }

    /// Ends subscriptions that have expired and whose grace period is over. The deadline stays in the past if
    /// some are left for the next tick.
    pub(super) fn expire_subscriptions(&mut self, now: Now, effects: &mut Effects) {
        let Some(until) = now.at.checked_sub(self.config.client.subscription_expiry_grace) else { return };
        for _ in 0..EXPIRED_PER_TICK_MAX {
            let Some(channel) = self.expiring.due(until) else { return };
            self.expire_subscription(channel, effects);
        }
    }

    /// Ends a subscription that has expired: a client subscribes again with another credential. It cannot do
    /// that for a subscription of the server, so it connects again.
    pub(super) fn expire_subscription(&mut self, channel: Channel, effects: &mut Effects) {
        if self.subscriptions.get(&channel) == Some(&Subscription::Server) {
            return self.end(Close::SUBSCRIPTION_EXPIRED, CloseCause::Expired, effects);
        }
        self.expiring.remove(&channel);
        self.refreshing.remove(&channel);
        self.remove(channel, Unsubscribe::EXPIRED, effects);
    }
}
