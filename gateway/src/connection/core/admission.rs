//! Admits, refreshes or refuses a client, and sets its identity and its expiry.

use std::sync::Arc;
use std::time::Duration;

use super::{Admitting, Core, Effects, State, fail, is_reply_code};
use crate::backplane::SubscribeOptions;
use crate::clock::Now;
use crate::config::PersonalChannel;
use crate::connection::effect::{About, Connecting, Effect};
use crate::connection::event::Subscriber;
use crate::plugin::verdict::{Admission, Identity, Refusal};
use crate::protocol::channel::Channel;
use crate::protocol::code::{Close, ReplyError};
use crate::protocol::command::Software;
use crate::protocol::reply::{Connected, Reply, Subscribed};
use crate::telemetry::metrics::CloseCause;

/// One year: the latest expiry, whatever a token says.
const TTL_SECONDS_MAX: u64 = 365 * 24 * 3600;

/// The time of the process at a Unix time in seconds, at most a year ahead; an error if it has passed.
pub(super) fn time_of(now: Now, seconds: u64) -> Result<Duration, ReplyError> {
    let left = seconds.saturating_mul(1000).saturating_sub(now.unix).min(TTL_SECONDS_MAX * 1000);
    if left == 0 { Err(ReplyError::EXPIRED) } else { Ok(now.at + Duration::from_millis(left)) }
}

/// The time until something expires as clients are told it: in whole seconds, and at least one.
pub(super) fn ttl(now: Now, expires: Duration) -> u32 {
    (expires.saturating_sub(now.at).as_secs() as u32).max(1)
}

impl Core {
    pub(super) fn on_admission(
        &mut self,
        now: Now,
        id: u32,
        admission: Admission,
        credential: bool,
        effects: &mut Effects,
    ) {
        let undecided = matches!(admission, Admission::Undecided | Admission::Doubtful);
        if let Some(upstream) = self.config.ask.connect.clone().filter(|_| undecided) {
            let software = match &mut self.state {
                State::Admitting(admitting) => std::mem::take(&mut admitting.software),
                _ => Software::default(),
            };
            let channels = self.positions.iter().map(|(channel, _)| channel.clone()).collect();
            let connecting = Some(Box::new(Connecting { software, channels, asked: now.unix / 1000 }));
            let about = About::Client { id, credential, admission, connecting };
            return effects.push_back(Effect::AskUpstream { upstream, about });
        }
        self.admit_or_refuse(now, id, admission, credential, effects);
    }

    /// What becomes of a client if no upstream decides.
    pub(super) fn admit_or_refuse(
        &mut self,
        now: Now,
        id: u32,
        admission: Admission,
        credential: bool,
        effects: &mut Effects,
    ) {
        let identity = match admission {
            Admission::Accepted(identity) => identity,
            Admission::Undecided | Admission::Doubtful if !credential && self.config.client.anonymous => {
                Box::default()
            }
            Admission::Undecided if credential => {
                let close = Close::custom(Close::INVALID_TOKEN.code, "no plugin accepts this token");
                return self.end(close, CloseCause::Plugin, effects);
            }
            Admission::Undecided => return self.bad_request("a token is needed", effects),
            Admission::Refused(refusal) => return self.refuse(id, &refusal, effects),
            Admission::Failed | Admission::Doubtful => {
                return self.turn_away(id, CloseCause::Plugin, effects);
            }
        };
        let channels = identity.channels.iter().map(|channel| (channel.clone(), None)).collect();
        self.admit(now, id, identity, channels, effects);
    }

    /// Refuses a client that may come back.
    pub(super) fn turn_away(&mut self, id: u32, cause: CloseCause, effects: &mut Effects) {
        if !self.encoding.has_replies() {
            // Without a reply the client would wait for the handshake deadline.
            return self.end(Close::INTERNAL, cause, effects);
        }
        self.state = State::Refused;
        fail(id, ReplyError::INTERNAL, effects);
    }

    /// Admits a client, and subscribes it to the channel of its user and to these. The first one has a place
    /// whatever the others are.
    pub(super) fn admit(
        &mut self,
        now: Now,
        id: u32,
        identity: Box<Identity>,
        mut channels: Vec<(Channel, Option<Arc<SubscribeOptions>>)>,
        effects: &mut Effects,
    ) {
        match self.personal_channel(&identity.user) {
            Ok(None) => (),
            Ok(Some(own)) => {
                let listed = channels.iter().position(|(channel, _)| *channel == own);
                let own = listed.map_or_else(|| (own, None), |at| channels.remove(at));
                channels.insert(0, own);
            }
            Err(why) => {
                let close = Close::custom(Close::PERMISSION_DENIED.code, &why);
                return self.end(close, CloseCause::Other, effects);
            }
        }
        let ttl = match self.expire_at(now, identity.expires_at) {
            Ok(ttl) => ttl,
            Err(_) if !self.encoding.has_replies() => {
                return self.end(Close::EXPIRED, CloseCause::Expired, effects);
            }
            Err(expired) => {
                self.state = State::Refused;
                return fail(id, expired, effects);
            }
        };
        self.authenticated = !identity.user.is_empty();
        self.user = identity.user.clone();
        let data = identity.data.clone();
        effects.push_back(Effect::Admit(identity));
        self.state =
            State::Admitting(Admitting { id, ttl, data, waiting: channels.len(), ..Admitting::default() });
        if channels.is_empty() {
            return self.connected(effects);
        }
        for (channel, options) in channels {
            self.subscribe_by_server(now, channel, Subscriber::Identity, options, effects);
        }
    }

    /// The channel of a user, to which clients are subscribed when they connect, if the settings have one.
    ///
    /// # Errors
    ///
    /// If the user has a name that no channel can have. Without its channel a client would miss what is sent
    /// there, and nobody would notice.
    fn personal_channel(&self, user: &str) -> Result<Option<Channel>, String> {
        match &self.config.client.personal_channel {
            PersonalChannel::None => Ok(None),
            PersonalChannel::Address => Ok(Channel::of_user(user)),
            PersonalChannel::Namespace(namespace) => Channel::of_user_in(namespace, user)
                .transpose()
                .map_err(|why| format!("the user has no personal channel: {why}")),
        }
    }

    pub(super) fn refuse(&mut self, id: u32, refusal: &Refusal, effects: &mut Effects) {
        if is_reply_code(refusal.code) && self.encoding.has_replies() {
            self.state = State::Refused;
            fail(id, ReplyError::custom(refusal.code, &refusal.reason), effects);
        } else {
            self.disconnect(refusal, effects);
        }
    }

    pub(super) fn connected(&mut self, effects: &mut Effects) {
        let State::Admitting(admitting) = std::mem::replace(&mut self.state, State::Connected) else {
            return;
        };
        self.positions = Vec::new();
        self.deltas = Vec::new();
        effects.push_back(Effect::Reply(Reply::Connected {
            id: admitting.id,
            result: Connected {
                client: self.client.clone(),
                ttl: admitting.ttl,
                data: admitting.data,
                subscriptions: admitting.subscriptions,
                ping: self.config.client.ping_interval.as_secs() as u32,
                pong: self.encoding.has_pongs(),
                emulation: self.emulation.take(),
            },
        }));
    }

    /// Sets when the connection expires; an error if that time has passed.
    pub(super) fn expire_at(&mut self, now: Now, expires_at: Option<u64>) -> Result<Option<u32>, ReplyError> {
        let Some(seconds) = expires_at else {
            self.expires = None;
            self.refresh = None;
            return Ok(None);
        };
        let expires = time_of(now, seconds)?;
        self.expires = Some(expires);
        if self.config.ask.refresh.is_some() {
            // The client has nothing to do: an upstream is asked.
            self.refresh = Some(expires);
            return Ok(None);
        }
        Ok(Some(ttl(now, expires)))
    }

    pub(super) fn on_refreshed(&mut self, now: Now, id: u32, admission: Admission, effects: &mut Effects) {
        let undecided = matches!(admission, Admission::Undecided | Admission::Doubtful);
        match self.config.ask.refresh.clone().filter(|_| undecided) {
            Some(upstream) => {
                let about = About::Client { id, credential: true, admission, connecting: None };
                effects.push_back(Effect::AskUpstream { upstream, about });
            }
            None => self.refresh_or_refuse(now, id, admission, effects),
        }
    }

    /// What becomes of a refresh if no upstream decides.
    pub(super) fn refresh_or_refuse(
        &mut self,
        now: Now,
        id: u32,
        admission: Admission,
        effects: &mut Effects,
    ) {
        match admission {
            Admission::Accepted(identity) if identity.user != self.user => {
                let close = Close::custom(Close::INVALID_TOKEN.code, "the token is another user's");
                self.end(close, CloseCause::Plugin, effects);
            }
            Admission::Accepted(identity) => self.refreshed(now, id, *identity, effects),
            Admission::Undecided => fail(id, ReplyError::NOT_AVAILABLE, effects),
            Admission::Failed | Admission::Doubtful => fail(id, ReplyError::INTERNAL, effects),
            Admission::Refused(refusal) if is_reply_code(refusal.code) => {
                fail(id, ReplyError::custom(refusal.code, &refusal.reason), effects);
            }
            Admission::Refused(refusal) => self.disconnect(&refusal, effects),
        }
    }

    /// A new credential may permit less than the previous one, so its attributes take effect with it.
    pub(super) fn refreshed(&mut self, now: Now, id: u32, identity: Identity, effects: &mut Effects) {
        match self.expire_at(now, identity.expires_at) {
            Ok(ttl) => {
                if !identity.attributes.is_empty() {
                    effects.push_back(Effect::SetAttributes(identity.attributes));
                }
                effects.push_back(Effect::Reply(Reply::Refreshed { id, client: self.client.clone(), ttl }))
            }
            Err(error) => fail(id, error, effects),
        }
    }

    /// Sets the expiry for the server; a connection that has expired ends.
    pub(super) fn refreshed_by_server(&mut self, now: Now, expires_at: Option<u64>, effects: &mut Effects) {
        let Ok(ttl) = self.expire_at(now, expires_at) else {
            return self.end(Close::EXPIRED, CloseCause::Expired, effects);
        };
        match &mut self.state {
            // The connect reply carries it to the client.
            State::Admitting(admitting) => admitting.ttl = ttl,
            State::Connected => effects.push_back(Effect::Reply(Reply::RefreshedByServer { ttl })),
            State::Connecting | State::Refused | State::Closed => (),
        }
    }

    /// Records the result of a subscription that belongs to the connect reply.
    pub(super) fn admitted_to(&mut self, subscription: Option<(Channel, Subscribed)>, effects: &mut Effects) {
        let State::Admitting(admitting) = &mut self.state else { return };
        admitting.waiting -= 1;
        admitting.subscriptions.extend(subscription);
        if admitting.waiting == 0 {
            self.connected(effects);
        }
    }
}
