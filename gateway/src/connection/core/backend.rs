//! Decides when an upstream is asked, and turns its answer into effects.

use std::sync::Arc;
use std::time::Duration;

use super::decision::Permit;
use super::{Core, Effects, State, Subscription, fail};
use crate::ask::{self, Answer};
use crate::backplane::SubscribeOptions;
use crate::clock::Now;
use crate::config::AskFailure;
use crate::connection::effect::{About, Ask, Effect};
use crate::plugin::event::{Kind, MessageContent};
use crate::plugin::verdict::{Admission, Expiry, Identity, Refusal};
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::{Close, ReplyError};
use crate::protocol::reply::Reply;
use crate::revocation::TOKEN_ISSUED;
use crate::telemetry::metrics::CloseCause;

/// Most subscriptions that one tick looks at because they have expired.
const REFRESHED_PER_TICK_MAX: usize = 64;

/// Most subscriptions of one connection about which an upstream is asked at the same time: others that expire
/// together wait for their answers, and not the clients that share the queue of the upstream.
const REFRESHED_AT_ONCE_MAX: usize = 16;

/// Least pause before an upstream that had no answer is asked again about what has expired.
const AGAIN_MIN: Duration = Duration::from_secs(1);

impl Core {
    /// The upstream that decides on a command on which no plugin has decided.
    pub fn upstream_for(&self, content: &MessageContent) -> Option<Arc<str>> {
        let Some(channel) = &content.channel else {
            return match content.kind {
                Kind::Rpc => self.config.ask.rpc.clone(),
                Kind::Send => self.config.ask.send.clone(),
                Kind::Raw => self.config.ask.message.clone(),
                _ => None,
            };
        };
        if !self.config.ask.channels
            || !matches!(content.kind, Kind::Subscribe | Kind::SubRefresh | Kind::Publish)
            || channel.target() != Target::Channel
        {
            return None;
        }
        let namespace = self.config.namespaces.of(channel)?;
        // A client that may not take part in any case is not worth a question.
        self.admits_to(namespace).ok()?;
        match content.kind {
            Kind::Subscribe => namespace.ask.subscribe.clone(),
            Kind::SubRefresh => namespace.ask.sub_refresh.clone(),
            _ => namespace.ask.publish.clone(),
        }
    }

    /// The upstream that is asked whether a subscription to this channel may stay.
    pub(super) fn refresher_of(&self, channel: &Channel) -> Option<&Arc<str>> {
        if !self.config.ask.channels {
            return None;
        }
        self.config.namespaces.of(channel)?.ask.sub_refresh.as_ref()
    }

    /// When an upstream has to be asked about what expires.
    pub(super) fn asks_at(&self) -> Option<Duration> {
        if !matches!(self.state, State::Connected) {
            // Nobody is asked before.
            return None;
        }
        let has_room = self.asked.len() < REFRESHED_AT_ONCE_MAX;
        let refreshing = self.refreshing.next().filter(|_| has_room);
        [self.refresh, refreshing].into_iter().flatten().min()
    }

    /// Asks about the connection and the subscriptions that have just expired. They stay for their grace
    /// period.
    pub(super) fn ask_what_expires(&mut self, now: Now, effects: &mut Effects) {
        if self.refresh.is_some_and(|refresh| refresh <= now.at) {
            self.refresh = None;
            if let Some(upstream) = self.config.ask.refresh.clone() {
                effects.push_back(Effect::AskUpstream { upstream, about: About::Connection });
            }
        }
        for _ in 0..REFRESHED_PER_TICK_MAX {
            if self.asked.len() >= REFRESHED_AT_ONCE_MAX {
                return;
            }
            let Some(channel) = self.refreshing.due(now.at) else { return };
            if !self.is_subscribed(&channel) || self.asked.contains(&channel) {
                // It is still being made, or asked about.
                self.refreshing.set(&channel, now.at + AGAIN_MIN);
                continue;
            }
            self.refreshing.remove(&channel);
            if let Some(upstream) = self.refresher_of(&channel).cloned() {
                self.asked.insert(channel.clone());
                effects.push_back(Effect::AskUpstream { upstream, about: About::Subscription(channel) });
            }
        }
    }

    fn is_subscribed(&self, channel: &Channel) -> bool {
        matches!(self.subscriptions.get(channel), Some(Subscription::Client | Subscription::Server))
    }

    pub(super) fn on_answers(
        &mut self,
        now: Now,
        about: About,
        answer: Option<Answer>,
        effects: &mut Effects,
    ) {
        if let Some(Answer::Disconnect(close)) = answer {
            if let About::Command { ask, .. } = &about {
                // The subscription was never made, so do not remove it when closing.
                self.forget_asked(ask);
            }
            return self.end(close, CloseCause::Backend, effects);
        }
        match about {
            About::Client { id, credential, admission, connecting: Some(connecting) } => {
                self.connect_answered(now, id, (admission, credential), connecting.asked, answer, effects);
            }
            About::Client { id, admission, connecting: None, .. } => {
                self.refresh_answered(now, id, admission, answer, effects);
            }
            About::Command { ask, payload, expiry } => {
                self.command_answered(now, ask, Permit::of(payload, expiry), answer, effects);
            }
            About::Connection => self.connection_answered(now, answer, effects),
            About::Subscription(channel) => self.subscription_answered(now, channel, answer, effects),
        }
    }

    fn connect_answered(
        &mut self,
        now: Now,
        id: u32,
        (admission, credential): (Admission, bool),
        asked: u64,
        answer: Option<Answer>,
        effects: &mut Effects,
    ) {
        match (answer, self.config.ask.failure) {
            (Some(Answer::Connected(connected)), _) => {
                let ask::Connected { user, expires_at, info, data, channels, meta: _ } = *connected;
                let channels = channels
                    .into_iter()
                    .map(|(channel, subscribed)| {
                        let is_plain = subscribed == ask::Subscribed::default();
                        (channel, (!is_plain).then(|| Arc::new(options(subscribed))))
                    })
                    .collect();
                // `invalidate_user_tokens` means what the upstream has seen before.
                let attributes = vec![(TOKEN_ISSUED.into(), asked.to_string().into())];
                let identity = Identity { user, expires_at, info, data, attributes, ..Identity::default() };
                self.admit(now, id, Box::new(identity), channels, effects);
            }
            (Some(Answer::Error(error)), _) if self.encoding.has_replies() => {
                self.state = State::Refused;
                fail(id, error, effects);
            }
            (Some(Answer::Error(error)), _) if error.temporary => {
                self.end(Close::custom(Close::INTERNAL.code, &error.message), CloseCause::Backend, effects);
            }
            (Some(Answer::Error(error)), _) => {
                let code = Close::PERMISSION_DENIED.code;
                self.end(Close::custom(code, &error.message), CloseCause::Backend, effects);
            }
            (_, AskFailure::Closed) => self.refuse(id, &denied(), effects),
            (_, AskFailure::Error) => self.turn_away(id, CloseCause::Backend, effects),
            (_, AskFailure::Open) => self.admit_or_refuse(now, id, admission, credential, effects),
        }
    }

    fn refresh_answered(
        &mut self,
        now: Now,
        id: u32,
        admission: Admission,
        answer: Option<Answer>,
        effects: &mut Effects,
    ) {
        match (answer, self.config.ask.failure) {
            (Some(Answer::Refreshed(refreshed)), _) if refreshed.expired => {
                fail(id, ReplyError::EXPIRED, effects);
            }
            (Some(Answer::Refreshed(refreshed)), _) => {
                let identity = Identity { expires_at: refreshed.expires_at, ..Identity::default() };
                self.refreshed(now, id, identity, effects);
            }
            (Some(Answer::Error(error)), _) => fail(id, error, effects),
            (_, AskFailure::Closed) => fail(id, ReplyError::PERMISSION_DENIED, effects),
            (_, AskFailure::Error) => fail(id, ReplyError::INTERNAL, effects),
            (_, AskFailure::Open) => self.refresh_or_refuse(now, id, admission, effects),
        }
    }

    fn connection_answered(&mut self, now: Now, answer: Option<Answer>, effects: &mut Effects) {
        let again = self.config.client.expiry_grace / 4;
        match (answer, self.config.ask.failure) {
            (Some(Answer::Refreshed(refreshed)), _) if !refreshed.expired => {
                if self.expire_at(now, refreshed.expires_at).is_err() {
                    self.end(Close::EXPIRED, CloseCause::Expired, effects);
                }
            }
            (Some(Answer::Error(error)), _) if error.temporary => {
                self.refresh = Some(now.at + again.max(AGAIN_MIN));
            }
            (Some(_), _) | (None, AskFailure::Closed) => {
                self.end(Close::EXPIRED, CloseCause::Expired, effects);
            }
            (None, AskFailure::Error) => self.refresh = Some(now.at + again.max(AGAIN_MIN)),
            // It ends with its grace period.
            (None, AskFailure::Open) => (),
        }
    }

    fn subscription_answered(
        &mut self,
        now: Now,
        channel: Channel,
        answer: Option<Answer>,
        effects: &mut Effects,
    ) {
        self.asked.remove(&channel);
        if !self.is_subscribed(&channel) {
            return;
        }
        let again = now.at + (self.config.client.subscription_expiry_grace / 4).max(AGAIN_MIN);
        match (answer, self.failure_in(&channel)) {
            (Some(Answer::Refreshed(refreshed)), _) if !refreshed.expired => {
                let expiry = Expiry::from(refreshed.expires_at);
                self.subscription_refreshed_by_server(now, channel, expiry, effects);
            }
            (Some(Answer::Error(error)), _) if error.temporary => self.refreshing.set(&channel, again),
            (Some(_), _) | (None, AskFailure::Closed) => self.expire_subscription(channel, effects),
            (None, AskFailure::Error) => self.refreshing.set(&channel, again),
            // It ends with its grace period.
            (None, AskFailure::Open) => (),
        }
    }

    fn failure_in(&self, channel: &Channel) -> AskFailure {
        self.config.namespaces.of(channel).map_or(AskFailure::Closed, |namespace| namespace.ask.failure)
    }

    fn command_answered(
        &mut self,
        now: Now,
        ask: Ask,
        permit: Permit,
        answer: Option<Answer>,
        effects: &mut Effects,
    ) {
        let channel = ask.content.channel.as_ref();
        let subscription = channel.and_then(|channel| self.subscriptions.get(channel));
        let is_wanted = match ask.content.kind {
            Kind::Subscribe => subscription == Some(&Subscription::Requested),
            Kind::SubRefresh => subscription == Some(&Subscription::Client),
            _ => true,
        };
        if !is_wanted {
            // It was removed meanwhile.
            return self.deny(&ask, ReplyError::PERMISSION_DENIED, effects);
        }
        let failure = channel.map_or(self.config.ask.failure, |channel| self.failure_in(channel));
        match (answer, failure) {
            (Some(Answer::Error(error)), _) => self.deny(&ask, error, effects),
            (Some(Answer::Subscribed(subscribed)), _) => {
                let expiry = subscribed.expires_at.map(Expiry::At).or(permit.expiry);
                let options = (*subscribed != ask::Subscribed::default()).then(|| {
                    // The time is the expiry.
                    Arc::new(SubscribeOptions { expires_at: None, ..options(*subscribed) })
                });
                self.perform(now, ask, Permit { expiry, options, ..permit }, effects);
            }
            (Some(Answer::Published(published)), _) => {
                let payload = published.data.unwrap_or(permit.payload);
                let permit = Permit { skip_history: published.skip_history, ..Permit::of(payload, None) };
                self.perform(now, ask, permit, effects);
            }
            (Some(Answer::Refreshed(refreshed)), _) if refreshed.expired => {
                fail(ask.id, ReplyError::EXPIRED, effects);
                if let Some(channel) = ask.content.channel {
                    self.expire_subscription(channel, effects);
                }
            }
            (Some(Answer::Refreshed(refreshed)), _) => {
                let expiry = Some(Expiry::from(refreshed.expires_at));
                self.perform(now, ask, Permit { expiry, ..permit }, effects);
            }
            (Some(Answer::Replied(data)), _) => match (ask.content.kind, data) {
                (Kind::Rpc, data) => {
                    let data = data.unwrap_or_default();
                    effects.push_back(Effect::Reply(Reply::Rpc { id: ask.id, data }));
                }
                (_, Some(data)) => self.answer(&ask, data, effects),
                (_, None) => (),
            },
            (Some(Answer::Connected(_) | Answer::Disconnect(_)) | None, AskFailure::Closed) => {
                self.deny(&ask, ReplyError::PERMISSION_DENIED, effects);
            }
            (Some(Answer::Connected(_) | Answer::Disconnect(_)) | None, AskFailure::Error) => {
                self.deny(&ask, ReplyError::INTERNAL, effects);
            }
            (Some(Answer::Connected(_) | Answer::Disconnect(_)) | None, AskFailure::Open) => {
                self.decide_by_policy(now, ask, permit, effects);
            }
        }
    }
}

/// What a client gets that is refused because nobody has answered.
fn denied() -> Refusal {
    Refusal { code: ReplyError::PERMISSION_DENIED.code, reason: Box::default() }
}

fn options(subscribed: ask::Subscribed) -> SubscribeOptions {
    let ask::Subscribed { info, data, expires_at, overrides } = subscribed;
    SubscribeOptions { info, data, recover: None, expires_at, overrides }
}
