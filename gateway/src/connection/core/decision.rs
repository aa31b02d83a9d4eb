//! Turns the decision of the plugins on a command into effects.

use std::sync::Arc;

use bytes::Bytes;

use super::{Core, Effects, Subscription, fail, is_reply_code};
use crate::backplane::SubscribeOptions;
use crate::clock::Now;
use crate::config::Access;
use crate::connection::effect::{About, Ask, Details, Effect};
use crate::connection::event::{NOTHING, Subscriber};
use crate::plugin::event::{Kind, MessageContent};
use crate::plugin::verdict::{Decision, Expiry};
use crate::protocol::channel::Target;
use crate::protocol::code::{Close, ReplyError, Unsubscribe};
use crate::protocol::reply::{Done, Reply};
use crate::telemetry::metrics::CloseCause;

/// How a permitted command is executed.
#[derive(Debug)]
pub(super) struct Permit {
    /// The payload that the plugins, or an upstream, left.
    pub(super) payload: Bytes,
    /// When the subscription that the command makes or refreshes expires, if somebody has set it.
    pub(super) expiry: Option<Expiry>,
    /// Of a subscription.
    pub(super) options: Option<Arc<SubscribeOptions>>,
    /// Whether a publication is not kept.
    pub(super) skip_history: bool,
}

impl Permit {
    /// By the plugins or the policy of the channel.
    pub(super) fn of(payload: Bytes, expiry: Option<Expiry>) -> Self {
        Self { payload, expiry, options: None, skip_history: false }
    }
}

impl Core {
    pub(super) fn on_decided(
        &mut self,
        now: Now,
        ask: Ask,
        decision: Decision,
        expiry: Option<Expiry>,
        effects: &mut Effects,
    ) {
        match decision {
            Decision::Allowed(payload) => self.perform(now, ask, Permit::of(payload, expiry), effects),
            Decision::Undecided(payload) => match self.upstream_for(&ask.content) {
                Some(upstream) => {
                    let about = About::Command { ask, payload, expiry };
                    effects.push_back(Effect::AskUpstream { upstream, about });
                }
                None => self.decide_by_policy(now, ask, Permit::of(payload, expiry), effects),
            },
            Decision::Denied(refusal) if is_reply_code(refusal.code) => {
                self.deny(&ask, ReplyError::custom(refusal.code, &refusal.reason), effects);
            }
            Decision::Denied(refusal) | Decision::Disconnect(refusal) => {
                // The subscription was never made, so do not remove it when closing.
                self.forget_asked(&ask);
                self.disconnect(&refusal, effects);
            }
            Decision::Failed => self.deny(&ask, ReplyError::INTERNAL, effects),
            Decision::Dropped => self.swallow(&ask, effects),
            Decision::Reply(payload) => self.answer(&ask, payload, effects),
            Decision::Route { targets, payload } => match acknowledgement(&ask) {
                Some(reply) => {
                    let (id, skip_history) = (ask.id, false);
                    effects.push_back(Effect::Publish { id, targets, payload, reply, skip_history });
                }
                None => self.deny(&ask, ReplyError::NOT_AVAILABLE, effects),
            },
        }
    }

    /// Does what the policy of the channel permits.
    pub(super) fn decide_by_policy(&mut self, now: Now, ask: Ask, permit: Permit, effects: &mut Effects) {
        match self.policy(&ask) {
            Ok(()) => self.perform(now, ask, permit, effects),
            // The protocol has no reply for a failed `send`, and the client should not keep sending without
            // knowing.
            Err(_) if ask.content.kind == Kind::Send => {
                self.end(Close::NOT_AVAILABLE, CloseCause::BadRequest, effects)
            }
            Err(error) => self.deny(&ask, error, effects),
        }
    }

    /// The decision of the channel's own policy if no plugin has decided.
    pub(super) fn policy(&self, ask: &Ask) -> Result<(), ReplyError> {
        let Some(channel) = &ask.content.channel else {
            return match ask.content.kind {
                Kind::Rpc => Err(ReplyError::NOT_AVAILABLE),
                _ => Err(ReplyError::PERMISSION_DENIED),
            };
        };
        // A subscription is refreshed only by a plugin that sets its expiry.
        if matches!(ask.content.kind, Kind::Unsubscribe | Kind::SubRefresh) {
            return Ok(());
        }
        if channel.target() != Target::Channel {
            return Err(ReplyError::PERMISSION_DENIED);
        }
        let Some(namespace) = self.config.namespaces.of(channel) else {
            return Err(ReplyError::UNKNOWN_CHANNEL);
        };
        let access = match ask.content.kind {
            Kind::Subscribe => namespace.allow_subscribe,
            Kind::Publish => namespace.allow_publish,
            Kind::History => namespace.allow_history,
            _ => namespace.allow_presence,
        };
        let permitted = match access {
            Access::Nobody => false,
            Access::Subscribers => {
                matches!(self.subscriptions.get(channel), Some(Subscription::Client | Subscription::Server))
            }
            Access::Users => self.authenticated,
            Access::Anyone => true,
        };
        if permitted { Ok(()) } else { Err(ReplyError::PERMISSION_DENIED) }
    }

    /// Executes a permitted command.
    pub(super) fn perform(&mut self, now: Now, ask: Ask, permit: Permit, effects: &mut Effects) {
        let Permit { payload, expiry, options, skip_history } = permit;
        let namespace = ask.content.channel.as_ref().and_then(|channel| self.config.namespaces.of(channel));
        if ask.content.kind != Kind::Unsubscribe
            && let Some(Err(error)) = namespace.map(|namespace| self.admits_to(namespace))
        {
            return self.deny(&ask, error, effects);
        }
        if ask.content.kind == Kind::Subscribe
            && let (Some(channel), Some(expiry)) = (&ask.content.channel, expiry)
            && let Err(expired) = self.expire_subscription_at(now, channel, expiry)
        {
            return self.deny(&ask, expired, effects);
        }
        let Ask { id, content: MessageContent { kind, channel, .. }, details } = ask;
        let Some(channel) = channel else {
            // Permitted, but no plugin has answered the call.
            if kind == Kind::Rpc {
                effects.push_back(Effect::Reply(Reply::Rpc { id, data: NOTHING }));
            }
            return;
        };
        match (kind, details) {
            (
                Kind::Subscribe,
                Details::Subscribe { recover, join_leave, reject_unrecovered, filter, delta },
            ) => {
                let rules = self.config.namespaces.of(&channel);
                let chosen = options.as_ref().and_then(|options| options.overrides.push_join_leave);
                let forced = chosen.unwrap_or_else(|| rules.is_some_and(|rules| rules.force_push_join_leave));
                let recover = recover.or_else(|| self.wants_latest(&channel));
                effects.push_back(Effect::Subscribe {
                    channel,
                    by: Subscriber::Client { id, reject_unrecovered },
                    recover,
                    join_leave: Some(join_leave || forced),
                    filter,
                    delta,
                    options,
                });
            }
            (Kind::Unsubscribe, _) => {
                if self.forget_subscription(&channel) {
                    effects.push_back(Effect::Unsubscribe(channel, Unsubscribe::BY_CLIENT));
                }
                effects.push_back(Effect::Reply(Reply::Done { id, what: Done::Unsubscribe }));
            }
            (Kind::SubRefresh, _) => {
                // Permitted, but nobody says until when.
                let refreshed = expiry.ok_or(ReplyError::NOT_AVAILABLE);
                let refreshed =
                    refreshed.and_then(|expiry| self.expire_subscription_at(now, &channel, expiry));
                match refreshed {
                    Ok(ttl) => effects.push_back(Effect::Reply(Reply::SubRefreshed { id, ttl })),
                    Err(error) => fail(id, error, effects),
                }
            }
            (Kind::Publish, _) => effects.push_back(Effect::Publish {
                id,
                targets: vec![channel],
                payload,
                reply: Some(Reply::Done { id, what: Done::Publish }),
                skip_history,
            }),
            (Kind::Presence, _) => effects.push_back(Effect::Presence { id, channel, stats: false }),
            (Kind::PresenceStats, _) => effects.push_back(Effect::Presence { id, channel, stats: true }),
            (Kind::History, Details::History(query)) => {
                effects.push_back(Effect::History { id, channel, query });
            }
            _ => fail(id, ReplyError::INTERNAL, effects),
        }
    }

    /// Refuses a command. A command without an id gets no reply.
    pub(super) fn deny(&mut self, ask: &Ask, error: ReplyError, effects: &mut Effects) {
        self.forget_asked(ask);
        fail(ask.id, error, effects);
    }

    /// Takes no action and acknowledges the command, if that is possible.
    pub(super) fn swallow(&mut self, ask: &Ask, effects: &mut Effects) {
        match acknowledgement(ask) {
            Some(Some(reply)) => effects.push_back(Effect::Reply(reply)),
            Some(None) => (),
            None => self.deny(ask, ReplyError::PERMISSION_DENIED, effects),
        }
    }

    /// Answers with a plugin's payload.
    pub(super) fn answer(&mut self, ask: &Ask, data: Bytes, effects: &mut Effects) {
        let id = ask.id;
        let reply = match ask.content.kind {
            Kind::Rpc => Reply::Rpc { id, data },
            Kind::Raw => Reply::Raw { data, binary: ask.content.binary },
            Kind::Send => Reply::Message { data },
            Kind::Publish => {
                effects.push_back(Effect::Reply(Reply::Done { id, what: Done::Publish }));
                Reply::Message { data }
            }
            _ => return self.deny(ask, ReplyError::NOT_AVAILABLE, effects),
        };
        effects.push_back(Effect::Reply(reply));
    }

    pub(super) fn forget_asked(&mut self, ask: &Ask) {
        if ask.content.kind == Kind::Subscribe
            && let Some(channel) = &ask.content.channel
            && matches!(
                self.subscriptions.get(channel),
                Some(Subscription::Requested | Subscription::Unwanted)
            )
        {
            self.forget_subscription(channel);
        }
    }
}

/// The acknowledgement of a command that was replaced or dropped, and whose sender must not notice. The inner
/// `None` means that no reply is expected, the outer that the command cannot be acknowledged.
fn acknowledgement(ask: &Ask) -> Option<Option<Reply>> {
    match ask.content.kind {
        Kind::Publish => Some(Some(Reply::Done { id: ask.id, what: Done::Publish })),
        Kind::Rpc => Some(Some(Reply::Rpc { id: ask.id, data: NOTHING })),
        Kind::Send | Kind::Raw => Some(None),
        _ => None,
    }
}
