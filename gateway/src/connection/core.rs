//! The rules of one connection: events in, effects out. No I/O, no clock, no tokio; the same events give the same effects.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indexmap::IndexMap;

use super::effect::{Ask, Details, Effect};
use super::event::{Ending, Event, NOTHING, Now, Subscriber};
use super::heartbeat::{Due, Heartbeat};
use crate::config::{Access, Config};
use crate::hub::peer::{Signal, Why};
use crate::plugin::event::Kind;
use crate::plugin::verdict::{Admission, Decision, Identity, Refusal};
use crate::protocol::Protocol;
use crate::protocol::channel::{Channel, InvalidChannel, Target};
use crate::protocol::code::{Close, ReplyError, Unsubscribe};
use crate::protocol::command::{Command, Connect, NamedChannel, Position, Request, Subscribe};
use crate::protocol::reply::{Connected, Done, Reply, Subscribed};
use crate::telemetry::metrics::CloseCause;

/// One year: no expiry lies further away, whatever a token says.
const TTL_SECONDS_MAX: u64 = 365 * 24 * 3600;

/// The state machine of one client.
#[derive(Debug)]
pub struct Core {
    config: Arc<Config>,
    protocol: Protocol,
    client: Arc<str>,
    state: State,
    /// Whether the client is one of a user.
    authenticated: bool,
    user: Box<str>,
    /// In the order they were made: the same events give the same effects.
    subscriptions: IndexMap<Channel, Subscription>,
    /// Where a client that reconnects stands in the channels the server subscribes it to.
    positions: Vec<(Channel, Position)>,
    heartbeat: Heartbeat,
    /// Until when the client must be admitted.
    stale: Duration,
    /// When the connection expires, without grace.
    expires: Option<Duration>,
    written: u64,
    /// Until when the socket must accept something, while something waits.
    write_until: Option<Duration>,
}

#[derive(Debug)]
enum State {
    /// Waits for the connect command.
    Connecting,
    /// The plugins judge, or the first subscriptions are made.
    Admitting(Admitting),
    /// Everything is allowed that is allowed.
    Connected,
    /// Was told an error instead of being admitted; the client is to close.
    Refused,
    /// Over.
    Closed,
}

#[derive(Debug, Default)]
struct Admitting {
    id: u32,
    ttl: Option<u32>,
    data: Bytes,
    waiting: usize,
    subscriptions: Vec<(Channel, Subscribed)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscription {
    /// Asked for, not yet there.
    Asked,
    /// By the client.
    Client,
    /// By a plugin.
    Server,
}

/// Where effects go. The caller applies them in order.
pub type Effects = std::collections::VecDeque<Effect>;

impl Core {
    /// A client whose transport has just opened. `spread` is random, see [`Heartbeat::new`].
    pub fn new(config: Arc<Config>, protocol: Protocol, client: Arc<str>, now: Now, spread: u32) -> Self {
        let heartbeat =
            Heartbeat::new(config.client.ping_interval, config.client.pong_timeout, now.at, spread);
        let stale = now.at + config.handshake.deadline;
        Self {
            config,
            protocol,
            client,
            state: State::Connecting,
            authenticated: false,
            user: Box::default(),
            subscriptions: IndexMap::new(),
            positions: Vec::new(),
            heartbeat,
            stale,
            expires: None,
            written: 0,
            write_until: None,
        }
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// When to send [`Event::Tick`]. `None` when it is over.
    pub fn deadline(&self) -> Option<Duration> {
        let first = match self.state {
            State::Closed => return None,
            State::Connected => self.heartbeat.deadline(),
            State::Connecting | State::Admitting(_) | State::Refused => self.stale,
        };
        let expires = self.expires.map(|expires| expires + self.config.client.expiry_grace);
        [expires, self.write_until].into_iter().flatten().chain([first]).min()
    }

    /// Takes one event.
    pub fn on(&mut self, now: Now, event: Event, effects: &mut Effects) {
        if self.is_closed() {
            return;
        }
        match event {
            Event::Command(command) => self.on_command(command, effects),
            Event::Malformed(malformed) => {
                self.end(
                    Close::custom(Close::BAD_REQUEST.code, &malformed.to_string()),
                    CloseCause::BadRequest,
                    effects,
                );
            }
            Event::Judged { id, refresh: false, admission, credential } => {
                self.on_admission(now, id, admission, credential, effects);
            }
            Event::Judged { id, refresh: true, admission, .. } => {
                self.on_refreshed(now, id, admission, effects)
            }
            Event::Decided { ask, decision } => self.on_decided(ask, decision, effects),
            Event::Subscribed { channel, by, result } => self.on_subscribed(channel, by, result, effects),
            Event::Answered { id, result } => match result {
                Ok(reply) => effects.push_back(Effect::Reply(reply)),
                Err(error) => fail(id, error, effects),
            },
            Event::PluginSubscribes(channel) => {
                self.subscribe_by_server(channel, Subscriber::Plugin, effects)
            }
            Event::PluginUnsubscribes(channel) => self.remove(channel, Unsubscribe::BY_SERVER, effects),
            Event::PluginDisconnects(refusal) => self.disconnect(&refusal, effects),
            Event::Signal(signal) => self.on_signal(signal, effects),
            Event::Flushed { written, pending } => self.on_flushed(now, written, pending),
            Event::TransportEnded { close, ending } => {
                let (cause, tell) = match ending {
                    Ending::Client => (CloseCause::Client, false),
                    Ending::Transport => (CloseCause::Transport, false),
                    Ending::Violation => (CloseCause::Protocol, true),
                };
                self.finish(close, cause, tell, false, effects);
            }
            Event::Tick => self.on_tick(now, effects),
        }
    }

    fn on_command(&mut self, Command { id, request }: Command, effects: &mut Effects) {
        match (&self.state, request) {
            (State::Refused, _) => (),
            (State::Connecting, Request::Connect(connect)) if id > 0 || self.protocol == Protocol::Raw => {
                let Connect { token, data, positions } = connect;
                self.positions = positions;
                self.state = State::Admitting(Admitting { id, ..Admitting::default() });
                effects.push_back(Effect::Judge { id, refresh: false, token, data });
            }
            (State::Connected, request) => self.on_request(id, request, effects),
            _ => self.bad_request("connect must come first, and once", effects),
        }
    }

    fn on_request(&mut self, id: u32, request: Request, effects: &mut Effects) {
        let ask = |kind, channel, payload| Ask {
            id,
            kind,
            channel,
            method: Box::default(),
            payload,
            binary: false,
            details: Details::None,
        };
        let ask = match request {
            Request::Send { data } => ask(Kind::Send, None, data),
            Request::Raw { data, binary } => Ask { binary, ..ask(Kind::Raw, None, data) },
            // Any other command without an id is an answer to a ping (and the protocol has no other one).
            _ if id == 0 => {
                if !self.heartbeat.pong() && self.protocol != Protocol::Raw {
                    self.bad_request("a pong without a ping", effects);
                }
                return;
            }
            Request::Connect(_) => return self.bad_request("connect must come first, and once", effects),
            Request::Pong => return self.bad_request("a command without a request", effects),
            Request::Rpc { method, data } => Ask { method, ..ask(Kind::Rpc, None, data) },
            Request::Refresh { token } => {
                if token.is_empty() {
                    return self.bad_request("refresh without a token", effects);
                }
                return effects.push_back(Effect::Judge { id, refresh: true, token, data: NOTHING });
            }
            Request::Subscribe(subscribe) => {
                let Some(ask) = self.ask_subscribe(id, subscribe, effects) else { return };
                ask
            }
            Request::SubRefresh { channel } => {
                let Some(channel) = self.named(id, channel, effects) else { return };
                let error = match self.subscriptions.get(&channel) {
                    None => ReplyError::PERMISSION_DENIED,
                    // Subscriptions of this gateway do not expire.
                    Some(_) => ReplyError::NOT_AVAILABLE,
                };
                return fail(id, error, effects);
            }
            Request::Unsubscribe { channel } => {
                let Some(channel) = self.named(id, channel, effects) else { return };
                ask(Kind::Unsubscribe, Some(channel), NOTHING)
            }
            Request::Publish { channel, data } => {
                let Some(channel) = self.named(id, channel, effects) else { return };
                if data.is_empty() {
                    return fail(id, ReplyError::BAD_REQUEST.because("publish without data"), effects);
                }
                ask(Kind::Publish, Some(channel), data)
            }
            Request::Presence { channel } => {
                let Some(channel) = self.named(id, channel, effects) else { return };
                ask(Kind::Presence, Some(channel), NOTHING)
            }
            Request::PresenceStats { channel } => {
                let Some(channel) = self.named(id, channel, effects) else { return };
                ask(Kind::PresenceStats, Some(channel), NOTHING)
            }
            Request::History { channel, query } => {
                let Some(channel) = self.named(id, channel, effects) else { return };
                Ask { details: Details::History(query), ..ask(Kind::History, Some(channel), NOTHING) }
            }
        };
        effects.push_back(Effect::Ask(ask));
    }

    fn ask_subscribe(&mut self, id: u32, subscribe: Subscribe, effects: &mut Effects) -> Option<Ask> {
        let channel = self.named(id, subscribe.channel, effects)?;
        let error = if subscribe.unsupported {
            Some(ReplyError::NOT_AVAILABLE)
        } else if self.subscriptions.contains_key(&channel) {
            Some(ReplyError::ALREADY_SUBSCRIBED)
        } else if self.subscriptions.len() >= self.config.limits.channels_per_connection_max {
            Some(ReplyError::LIMIT_EXCEEDED)
        } else {
            None
        };
        if let Some(error) = error {
            fail(id, error, effects);
            return None;
        }
        self.subscriptions.insert(channel.clone(), Subscription::Asked);
        Some(Ask {
            id,
            kind: Kind::Subscribe,
            channel: Some(channel),
            method: Box::default(),
            payload: subscribe.data,
            binary: false,
            details: Details::Subscribe {
                recover: subscribe.recover,
                join_leave: subscribe.join_leave,
                reject_unrecovered: subscribe.reject_unrecovered,
            },
        })
    }

    /// The channel of a command. An empty name ends the connection, any other bad name is an error.
    fn named(&mut self, id: u32, channel: NamedChannel, effects: &mut Effects) -> Option<Channel> {
        match channel {
            Ok(channel) => Some(channel),
            Err(InvalidChannel::Empty) => {
                self.bad_request("a command without a channel", effects);
                None
            }
            Err(invalid) => {
                fail(id, ReplyError::BAD_REQUEST.because(invalid.to_string()), effects);
                None
            }
        }
    }

    fn on_admission(
        &mut self,
        now: Now,
        id: u32,
        admission: Admission,
        credential: bool,
        effects: &mut Effects,
    ) {
        let identity = match admission {
            Admission::Accepted(identity) => identity,
            Admission::Undecided if !credential && self.config.client.anonymous => Box::default(),
            Admission::Undecided if credential => {
                let close = Close::custom(Close::INVALID_TOKEN.code, "no plugin accepts this token");
                return self.end(close, CloseCause::Plugin, effects);
            }
            Admission::Undecided => return self.bad_request("a token is needed", effects),
            Admission::Refused(refusal) => return self.refuse(id, &refusal, effects),
            Admission::Failed => {
                self.state = State::Refused;
                return fail(id, ReplyError::INTERNAL, effects);
            }
        };
        let ttl = match self.expire_at(now, identity.expires_at) {
            Ok(ttl) => ttl,
            Err(expired) => {
                self.state = State::Refused;
                return fail(id, expired, effects);
            }
        };
        self.authenticated = !identity.user.is_empty();
        self.user = identity.user.clone();
        let channels = identity.channels.clone();
        let data = identity.data.clone();
        effects.push_back(Effect::Admit(identity));
        self.state =
            State::Admitting(Admitting { id, ttl, data, waiting: channels.len(), subscriptions: Vec::new() });
        if channels.is_empty() {
            return self.connected(effects);
        }
        for channel in channels {
            self.subscribe_by_server(channel, Subscriber::Identity, effects);
        }
    }

    fn refuse(&mut self, id: u32, refusal: &Refusal, effects: &mut Effects) {
        if is_reply_code(refusal.code) && self.protocol != Protocol::Raw {
            self.state = State::Refused;
            fail(id, ReplyError::custom(refusal.code, &refusal.reason), effects);
        } else {
            self.disconnect(refusal, effects);
        }
    }

    fn connected(&mut self, effects: &mut Effects) {
        let State::Admitting(admitting) = std::mem::replace(&mut self.state, State::Connected) else {
            return;
        };
        self.positions = Vec::new();
        effects.push_back(Effect::Reply(Reply::Connected {
            id: admitting.id,
            result: Connected {
                client: self.client.clone(),
                ttl: admitting.ttl,
                data: admitting.data,
                subscriptions: admitting.subscriptions,
                ping: self.config.client.ping_interval.as_secs() as u32,
            },
        }));
    }

    /// Sets when the connection expires; an error if that has passed.
    fn expire_at(&mut self, now: Now, expires_at: Option<u64>) -> Result<Option<u32>, ReplyError> {
        let Some(seconds) = expires_at else {
            self.expires = None;
            return Ok(None);
        };
        let left = seconds.saturating_sub(now.unix / 1000).min(TTL_SECONDS_MAX);
        if left == 0 {
            return Err(ReplyError::EXPIRED);
        }
        self.expires = Some(now.at + Duration::from_secs(left));
        Ok(Some(left as u32))
    }

    fn on_refreshed(&mut self, now: Now, id: u32, admission: Admission, effects: &mut Effects) {
        match admission {
            Admission::Accepted(identity) if identity.user != self.user => {
                let close = Close::custom(Close::INVALID_TOKEN.code, "the token is another user's");
                self.end(close, CloseCause::Plugin, effects);
            }
            Admission::Accepted(identity) => self.refreshed(now, id, &identity, effects),
            Admission::Undecided => fail(id, ReplyError::NOT_AVAILABLE, effects),
            Admission::Failed => fail(id, ReplyError::INTERNAL, effects),
            Admission::Refused(refusal) if is_reply_code(refusal.code) => {
                fail(id, ReplyError::custom(refusal.code, &refusal.reason), effects);
            }
            Admission::Refused(refusal) => self.disconnect(&refusal, effects),
        }
    }

    fn refreshed(&mut self, now: Now, id: u32, identity: &Identity, effects: &mut Effects) {
        match self.expire_at(now, identity.expires_at) {
            Ok(ttl) => {
                effects.push_back(Effect::Reply(Reply::Refreshed { id, client: self.client.clone(), ttl }))
            }
            Err(error) => fail(id, error, effects),
        }
    }

    fn on_decided(&mut self, ask: Ask, decision: Decision, effects: &mut Effects) {
        match decision {
            Decision::Allowed(payload) => self.perform(Ask { payload, ..ask }, effects),
            Decision::Undecided(payload) => match self.policy(&ask) {
                Ok(()) => self.perform(Ask { payload, ..ask }, effects),
                // The protocol has no reply for it, and a client that goes on sending into the void helps nobody.
                Err(_) if ask.kind == Kind::Send => {
                    self.end(Close::NOT_AVAILABLE, CloseCause::BadRequest, effects)
                }
                Err(error) => self.deny(&ask, error, effects),
            },
            Decision::Denied(refusal) if is_reply_code(refusal.code) => {
                self.deny(&ask, ReplyError::custom(refusal.code, &refusal.reason), effects);
            }
            Decision::Denied(refusal) | Decision::Disconnect(refusal) => self.disconnect(&refusal, effects),
            Decision::Failed => self.deny(&ask, ReplyError::INTERNAL, effects),
            Decision::Dropped => self.swallow(&ask, effects),
            Decision::Reply(payload) => self.answer(&ask, payload, effects),
            Decision::Route { targets, payload } => match acknowledgement(&ask) {
                Some(reply) => effects.push_back(Effect::Publish { id: ask.id, targets, payload, reply }),
                None => self.deny(&ask, ReplyError::NOT_AVAILABLE, effects),
            },
        }
    }

    /// What the channel's own policy says when no plugin has decided.
    fn policy(&self, ask: &Ask) -> Result<(), ReplyError> {
        let Some(channel) = &ask.channel else {
            return match ask.kind {
                Kind::Rpc => Err(ReplyError::NOT_AVAILABLE),
                _ => Err(ReplyError::PERMISSION_DENIED),
            };
        };
        if ask.kind == Kind::Unsubscribe {
            return Ok(());
        }
        if channel.target() != Target::Channel {
            return Err(ReplyError::PERMISSION_DENIED);
        }
        let Some(namespace) = self.config.namespaces.of(channel) else {
            return Err(ReplyError::UNKNOWN_CHANNEL);
        };
        let access = match ask.kind {
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

    /// Does what was asked for. It is permitted.
    fn perform(&mut self, ask: Ask, effects: &mut Effects) {
        let Ask { id, kind, channel, payload, details, .. } = ask;
        let Some(channel) = channel else {
            // Permitted, but nobody has answered.
            if kind == Kind::Rpc {
                effects.push_back(Effect::Reply(Reply::Rpc { id, data: NOTHING }));
            }
            return;
        };
        match (kind, details) {
            (Kind::Subscribe, Details::Subscribe { recover, join_leave, reject_unrecovered }) => {
                effects.push_back(Effect::Subscribe {
                    channel,
                    by: Subscriber::Client { id, reject_unrecovered },
                    recover,
                    join_leave: Some(join_leave),
                });
            }
            (Kind::Unsubscribe, _) => {
                if self.subscriptions.swap_remove(&channel).is_some() {
                    effects.push_back(Effect::Unsubscribe(channel));
                }
                effects.push_back(Effect::Reply(Reply::Done { id, what: Done::Unsubscribe }));
            }
            (Kind::Publish, _) => effects.push_back(Effect::Publish {
                id,
                targets: vec![channel],
                payload,
                reply: Some(Reply::Done { id, what: Done::Publish }),
            }),
            (Kind::Presence, _) => effects.push_back(Effect::Presence { id, channel, stats: false }),
            (Kind::PresenceStats, _) => effects.push_back(Effect::Presence { id, channel, stats: true }),
            (Kind::History, Details::History(query)) => {
                effects.push_back(Effect::History { id, channel, query });
            }
            _ => fail(id, ReplyError::INTERNAL, effects),
        }
    }

    /// Refuses a command. What expects no reply gets none.
    fn deny(&mut self, ask: &Ask, error: ReplyError, effects: &mut Effects) {
        self.forget_asked(ask);
        fail(ask.id, error, effects);
    }

    /// Takes no action and lets the client believe that it worked, where that is possible.
    fn swallow(&mut self, ask: &Ask, effects: &mut Effects) {
        match acknowledgement(ask) {
            Some(Some(reply)) => effects.push_back(Effect::Reply(reply)),
            Some(None) => (),
            None => self.deny(ask, ReplyError::PERMISSION_DENIED, effects),
        }
    }

    /// Answers with a plugin's payload.
    fn answer(&mut self, ask: &Ask, data: Bytes, effects: &mut Effects) {
        let id = ask.id;
        let reply = match ask.kind {
            Kind::Rpc => Reply::Rpc { id, data },
            Kind::Raw => Reply::Raw { data, binary: ask.binary },
            Kind::Send => Reply::Message { data },
            Kind::Publish => {
                effects.push_back(Effect::Reply(Reply::Done { id, what: Done::Publish }));
                Reply::Message { data }
            }
            _ => return self.deny(ask, ReplyError::NOT_AVAILABLE, effects),
        };
        effects.push_back(Effect::Reply(reply));
    }

    fn forget_asked(&mut self, ask: &Ask) {
        if ask.kind == Kind::Subscribe
            && let Some(channel) = &ask.channel
            && self.subscriptions.get(channel) == Some(&Subscription::Asked)
        {
            self.subscriptions.swap_remove(channel);
        }
    }

    fn subscribe_by_server(&mut self, channel: Channel, by: Subscriber, effects: &mut Effects) {
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
        self.subscriptions.insert(channel.clone(), Subscription::Asked);
        effects.push_back(Effect::Subscribe { channel, by, recover, join_leave: None });
    }

    fn on_subscribed(
        &mut self,
        channel: Channel,
        by: Subscriber,
        result: Result<Subscribed, ReplyError>,
        effects: &mut Effects,
    ) {
        if self.subscriptions.get(&channel) != Some(&Subscription::Asked) {
            // Removed while it was made.
            if result.is_ok() {
                effects.push_back(Effect::Unsubscribe(channel));
            }
            return;
        }
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                self.subscriptions.swap_remove(&channel);
                match by {
                    Subscriber::Client { id, .. } => fail(id, error, effects),
                    Subscriber::Identity => {
                        let close =
                            Close::custom(Close::INTERNAL.code, "a subscription of the server failed");
                        self.end(close, CloseCause::Other, effects);
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

    /// One of the subscriptions that come with the connect reply is settled.
    fn admitted_to(&mut self, subscription: Option<(Channel, Subscribed)>, effects: &mut Effects) {
        let State::Admitting(admitting) = &mut self.state else { return };
        admitting.waiting -= 1;
        admitting.subscriptions.extend(subscription);
        if admitting.waiting == 0 {
            self.connected(effects);
        }
    }

    fn on_signal(&mut self, signal: Signal, effects: &mut Effects) {
        match signal {
            Signal::Slow => self.finish(Close::SLOW, CloseCause::Slow, true, true, effects),
            Signal::Gap(channel) => match self.subscriptions.get(&channel) {
                Some(Subscription::Server) => {
                    self.end(Close::INSUFFICIENT_STATE, CloseCause::InsufficientState, effects);
                }
                Some(_) => self.remove(channel, Unsubscribe::INSUFFICIENT_STATE, effects),
                None => (),
            },
            Signal::Close(close, Why::Shutdown) => self.end(close, CloseCause::Shutdown, effects),
            Signal::Close(close, Why::Api) => self.end(close, CloseCause::Api, effects),
            Signal::Unsubscribe(channel, why) => self.remove(channel, why, effects),
            Signal::SocketFailed => self.finish(Close::NORMAL, CloseCause::Transport, false, true, effects),
        }
    }

    /// The server removes a subscription and says so.
    fn remove(&mut self, channel: Channel, why: Unsubscribe, effects: &mut Effects) {
        if self.subscriptions.swap_remove(&channel).is_some() {
            effects.push_back(Effect::Unsubscribe(channel.clone()));
            effects.push_back(Effect::Reply(Reply::UnsubscribedByServer { channel, why }));
        }
    }

    fn on_flushed(&mut self, now: Now, written: u64, pending: bool) {
        if !pending {
            self.write_until = None;
        } else if self.write_until.is_none() || written > self.written {
            self.write_until = Some(now.at + self.config.limits.write_timeout);
        }
        self.written = written;
    }

    fn on_tick(&mut self, now: Now, effects: &mut Effects) {
        if self.write_until.is_some_and(|until| until <= now.at) {
            return self.finish(Close::SLOW, CloseCause::Slow, true, true, effects);
        }
        if self.expires.is_some_and(|expires| expires + self.config.client.expiry_grace <= now.at) {
            return self.end(Close::EXPIRED, CloseCause::Expired, effects);
        }
        if !matches!(self.state, State::Connected) {
            if self.stale <= now.at {
                self.end(Close::STALE, CloseCause::Stale, effects);
            }
            return;
        }
        match self.heartbeat.due(now.at) {
            Due::Nothing => (),
            Due::Ping => effects.push_back(Effect::Reply(Reply::Ping)),
            Due::NoPong => self.end(Close::NO_PONG, CloseCause::NoPong, effects),
        }
    }

    /// A plugin ends the connection. A code that cannot close one becomes "permission denied".
    fn disconnect(&mut self, refusal: &Refusal, effects: &mut Effects) {
        let close = match u16::try_from(refusal.code) {
            Ok(code @ 3000..=4999) => Close::custom(code, &refusal.reason),
            _ => Close::custom(Close::PERMISSION_DENIED.code, &refusal.reason),
        };
        self.end(close, CloseCause::Plugin, effects);
    }

    fn bad_request(&mut self, what: &str, effects: &mut Effects) {
        self.end(Close::custom(Close::BAD_REQUEST.code, what), CloseCause::BadRequest, effects);
    }

    fn end(&mut self, close: Close, cause: CloseCause, effects: &mut Effects) {
        self.finish(close, cause, true, false, effects);
    }

    fn finish(&mut self, close: Close, cause: CloseCause, tell: bool, discard: bool, effects: &mut Effects) {
        self.state = State::Closed;
        for (channel, _) in std::mem::take(&mut self.subscriptions) {
            effects.push_back(Effect::Unsubscribe(channel));
        }
        effects.push_back(Effect::End { close, cause, tell, discard });
    }
}

/// Codes of an error reply; every other code closes the connection.
fn is_reply_code(code: u32) -> bool {
    (100..2000).contains(&code)
}

/// An error to a command that expects a reply.
fn fail(id: u32, error: ReplyError, effects: &mut Effects) {
    if id > 0 {
        effects.push_back(Effect::Reply(Reply::Error { id, error }));
    }
}

/// What a client is told when something else than what it asked for was done and that is none of its business: the inner
/// `None` where nothing is told, the outer where it cannot be hidden.
fn acknowledgement(ask: &Ask) -> Option<Option<Reply>> {
    match ask.kind {
        Kind::Publish => Some(Some(Reply::Done { id: ask.id, what: Done::Publish })),
        Kind::Rpc => Some(Some(Reply::Rpc { id: ask.id, data: NOTHING })),
        Kind::Send | Kind::Raw => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
