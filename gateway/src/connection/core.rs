//! [`Core`]: the state machine of one connection. It takes events and returns effects. No I/O, no clock, no
//! tokio; the same events give the same effects.

mod command;
mod admission;
mod backend;
mod decision;
mod expiring;
mod subscription;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indexmap::IndexMap;

pub(super) use self::command::NO_PATTERNS;
use self::expiring::Expiring;
use super::effect::Effect;
use super::event::{Ending, Event, Subscriber};
use super::heartbeat::{ControlFrames, Due, Heartbeat};
use crate::backplane::Why;
use crate::clock::Now;
use crate::config::{Config, Namespace, WRITE_BYTES_MIN};
use crate::hub::signal::Signal;
use crate::plugin::verdict::Refusal;
use crate::protocol::Encoding;
use crate::protocol::channel::Channel;
use crate::protocol::code::{Close, ReplyError, Unsubscribe};
use crate::protocol::command::{Position, Software};
use crate::protocol::reply::{Emulation, Reply, Subscribed};
use crate::telemetry::metrics::{CloseCause, ControlFrame};

/// Why a client may not take part in a channel.
const NO_CERTIFICATE: &str =
    "this channel is for clients with a certificate (`client_certificate` of its namespace)";

/// The state machine of one client.
#[derive(Debug)]
pub struct Core {
    config: Arc<Config>,
    encoding: Encoding,
    client: Arc<str>,
    /// For the connect reply: where the client sends commands, if not on this connection.
    emulation: Option<Arc<Emulation>>,
    /// Whether the connection has a verified certificate of the client.
    has_certificate: bool,
    state: State,
    /// Whether the client belongs to a user.
    authenticated: bool,
    user: Box<str>,
    /// In insertion order, so that the same events give the same effects.
    subscriptions: IndexMap<Channel, Subscription>,
    /// When some of them expire.
    expiring: Expiring,
    /// When an upstream is asked whether some of these may stay.
    refreshing: Expiring,
    /// Those about which one is being asked.
    asked: BTreeSet<Channel>,
    /// Positions of a reconnecting client in the channels that the server subscribes it to.
    positions: Vec<(Channel, Position)>,
    /// Those of these channels in which the client applies deltas, in order.
    deltas: Vec<Channel>,
    heartbeat: Heartbeat,
    control_frames: ControlFrames,
    /// Deadline for admission.
    stale: Duration,
    /// When the connection expires, without the grace period.
    expires: Option<Duration>,
    /// When an upstream is asked whether it may stay.
    refresh: Option<Duration>,
    /// Bytes written when `write_until` was set.
    written: u64,
    /// Deadline for the socket to accept [`WRITE_BYTES_MIN`], or all queued bytes.
    write_until: Option<Duration>,
}

#[derive(Debug)]
enum State {
    /// Waits for the connect command.
    Connecting,
    /// The plugins decide, or the first subscriptions are being made.
    Admitting(Admitting),
    /// Admitted: all commands are possible.
    Connected,
    /// The client got an error instead of being admitted, and is expected to close.
    Refused,
    /// The connection is over.
    Closed,
}

#[derive(Debug, Default)]
struct Admitting {
    id: u32,
    ttl: Option<u32>,
    data: Bytes,
    /// What the client says of itself.
    software: Software,
    waiting: usize,
    subscriptions: Vec<(Channel, Subscribed)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscription {
    /// Requested, not yet made.
    Requested,
    /// Removed while it was being made.
    Unwanted,
    /// By the client.
    Client,
    /// By a plugin.
    Server,
}

/// Queue for effects. The caller applies them in order.
pub type Effects = std::collections::VecDeque<Effect>;

impl Core {
    /// A client whose transport has just opened. `spread` is random, see [`Heartbeat::new`].
    pub fn new(config: Arc<Config>, encoding: Encoding, client: Arc<str>, now: Now, spread: u32) -> Self {
        let heartbeat =
            Heartbeat::new(config.client.ping_interval, config.client.pong_timeout, now.at, spread);
        let stale = now.at + config.handshake.deadline;
        Self {
            config,
            encoding,
            client,
            emulation: None,
            has_certificate: false,
            state: State::Connecting,
            authenticated: false,
            user: Box::default(),
            subscriptions: IndexMap::new(),
            expiring: Expiring::default(),
            refreshing: Expiring::default(),
            asked: BTreeSet::new(),
            positions: Vec::new(),
            deltas: Vec::new(),
            heartbeat,
            control_frames: ControlFrames::default(),
            stale,
            expires: None,
            refresh: None,
            written: 0,
            write_until: None,
        }
    }

    /// A client that sends commands in requests of their own.
    #[must_use]
    pub fn emulated(self, emulation: Option<Arc<Emulation>>) -> Self {
        Self { emulation, ..self }
    }

    /// A client whose connection has a verified certificate, or none.
    #[must_use]
    pub fn with_certificate(self, has_certificate: bool) -> Self {
        Self { has_certificate, ..self }
    }

    /// Whether the client may take part in the channels of a namespace at all.
    ///
    /// # Errors
    ///
    /// If it needs a certificate for that, and has none.
    pub fn admits_to(&self, namespace: &Namespace) -> Result<(), ReplyError> {
        if namespace.client_certificate && !self.has_certificate {
            return Err(ReplyError::PERMISSION_DENIED.because(NO_CERTIFICATE));
        }
        Ok(())
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// The client is not read, and need not answer a ping meanwhile.
    pub fn excuse_pong(&mut self, now: Now) {
        self.heartbeat.excuse(now.at);
    }

    /// Whether a client is being admitted.
    pub fn is_admitting(&self) -> bool {
        matches!(self.state, State::Admitting(_))
    }

    /// When to send [`Event::Tick`]. `None` if the connection is over.
    pub fn deadline(&self) -> Option<Duration> {
        let first = match self.state {
            State::Closed => return None,
            State::Connected => self.heartbeat.deadline(),
            State::Connecting | State::Admitting(_) | State::Refused => self.stale,
        };
        let expires = self.expires.map(|expires| expires + self.config.client.expiry_grace);
        let subscription =
            self.expiring.next().map(|expires| expires + self.config.client.subscription_expiry_grace);
        [expires, subscription, self.asks_at(), self.write_until].into_iter().flatten().chain([first]).min()
    }

    /// Whether a deadline has passed.
    pub fn is_due(&self, now: Now) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now.at)
    }

    /// Handles one event.
    pub fn on(&mut self, now: Now, event: Event, effects: &mut Effects) {
        if matches!(event, Event::Command(_) | Event::Authenticated { .. } | Event::Answers { .. })
            && self.is_due(now)
        {
            // Deadlines come first, even if the timer is late: after a deadline, no event is handled that
            // should have come before it.
            self.on_tick(now, effects);
        }
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
            Event::Authenticated { id, refresh: false, admission, credential } => {
                self.on_admission(now, id, admission, credential, effects);
            }
            Event::Authenticated { id, refresh: true, admission, .. } => {
                self.on_refreshed(now, id, admission, effects)
            }
            Event::Decided { ask, decision, expiry } => {
                self.on_decided(now, ask, decision, expiry, effects);
            }
            Event::Answers { about, answer } => self.on_answers(now, about, answer, effects),
            Event::Subscribed { channel, by, result } => {
                self.on_subscribed(now, channel, by, result, effects);
            }
            Event::Answered { id, result } => match result {
                Ok(reply) => effects.push_back(Effect::Reply(reply)),
                Err(error) => fail(id, error, effects),
            },
            Event::PluginSubscribes(channel) => {
                self.subscribe_by_server(now, channel, Subscriber::Plugin, None, effects)
            }
            Event::PluginUnsubscribes(channel) => self.remove(channel, Unsubscribe::BY_SERVER, effects),
            Event::PluginRefreshes { channel, expiry } => {
                self.subscription_refreshed_by_server(now, channel, expiry, effects);
            }
            Event::PluginDisconnects(refusal) => self.disconnect(&refusal, effects),
            Event::Signal(signal) => self.on_signal(now, signal, effects),
            Event::Control(frame) => self.on_control(now, frame, effects),
            Event::Flushed { written, pending } => self.on_flushed(now, written, pending),
            Event::TransportEnded { close, ending } => {
                let (cause, tell) = match ending {
                    Ending::Client => (CloseCause::Client, false),
                    Ending::Transport => (CloseCause::Transport, false),
                    Ending::Violation => (CloseCause::Protocol, true),
                    Ending::Failure => (CloseCause::Other, true),
                };
                self.finish(close, cause, tell, false, effects);
            }
            Event::Tick => self.on_tick(now, effects),
        }
    }

    fn on_signal(&mut self, now: Now, signal: Signal, effects: &mut Effects) {
        match signal {
            Signal::Slow => self.finish(Close::SLOW, CloseCause::Slow, true, true, effects),
            Signal::Gap(channel) => match self.subscriptions.get(&channel) {
                Some(Subscription::Server) => {
                    self.end(Close::INSUFFICIENT_STATE, CloseCause::InsufficientState, effects);
                }
                Some(Subscription::Client) => {
                    self.remove(channel, Unsubscribe::INSUFFICIENT_STATE, effects);
                }
                // The gap belongs to the previous subscription: one that is being made has missed nothing
                // yet.
                Some(Subscription::Requested | Subscription::Unwanted) | None => (),
            },
            Signal::Close(close, Why::Shutdown) => self.end(close, CloseCause::Shutdown, effects),
            Signal::Close(close, Why::Api) => self.end(close, CloseCause::Api, effects),
            Signal::Close(close, Why::Plugin) => self.end(close, CloseCause::Plugin, effects),
            Signal::Refused(close) => {
                let flood = close.code == Close::TOO_MANY_REQUESTS.code;
                let cause = if flood { CloseCause::TooManyRequests } else { CloseCause::Protocol };
                self.end(close, cause, effects);
            }
            // A client that is already admitted has no slot to give back.
            Signal::Evicted if matches!(self.state, State::Connecting | State::Refused) => {
                let close =
                    Close::custom(Close::TOO_MANY_REQUESTS.code, "too many clients are in their handshake");
                self.end(close, CloseCause::Evicted, effects);
            }
            Signal::Evicted => (),
            Signal::Subscribe(channel, options) => {
                self.subscribe_by_server(now, channel, Subscriber::Plugin, options, effects);
            }
            Signal::Unsubscribe(channel) => self.remove(channel, Unsubscribe::BY_SERVER, effects),
            Signal::Refresh(expires_at) => self.refreshed_by_server(now, expires_at, effects),
            Signal::SocketFailed => self.finish(Close::NORMAL, CloseCause::Transport, false, true, effects),
        }
    }

    /// Handles a control frame of the WebSocket protocol. In raw mode a pong answers the gateway's ping;
    /// other protocols have a command for it.
    fn on_control(&mut self, now: Now, frame: ControlFrame, effects: &mut Effects) {
        if !self.control_frames.take(now.at) {
            let close = Close::custom(Close::TOO_MANY_REQUESTS.code, "too many pings and pongs");
            return self.end(close, CloseCause::TooManyRequests, effects);
        }
        if frame == ControlFrame::Pong && self.encoding == Encoding::Raw {
            self.heartbeat.pong();
        }
    }

    /// Bounds the time of a slow reader: within each period its socket must accept [`WRITE_BYTES_MIN`], or
    /// everything.
    fn on_flushed(&mut self, now: Now, written: u64, pending: bool) {
        if !pending {
            self.write_until = None;
        } else if self.write_until.is_none() || written >= self.written + WRITE_BYTES_MIN {
            self.write_until = Some(now.at + self.config.limits.write_timeout);
            self.written = written;
        }
    }

    fn on_tick(&mut self, now: Now, effects: &mut Effects) {
        if self.write_until.is_some_and(|until| until <= now.at) {
            return self.finish(Close::SLOW, CloseCause::Slow, true, true, effects);
        }
        if self.expires.is_some_and(|expires| expires + self.config.client.expiry_grace <= now.at) {
            return self.end(Close::EXPIRED, CloseCause::Expired, effects);
        }
        self.expire_subscriptions(now, effects);
        if self.is_closed() {
            return;
        }
        if !matches!(self.state, State::Connected) {
            if self.stale <= now.at {
                self.end(Close::STALE, CloseCause::Stale, effects);
            }
            return;
        }
        self.ask_what_expires(now, effects);
        match self.heartbeat.due(now.at) {
            Due::Nothing => (),
            Due::Ping => {
                if !self.encoding.has_pongs() {
                    self.heartbeat.pong();
                }
                effects.push_back(Effect::Reply(Reply::Ping));
            }
            Due::NoPong => self.end(Close::NO_PONG, CloseCause::NoPong, effects),
        }
    }

    /// Ends the connection for a plugin. A code that cannot close a connection becomes "permission denied".
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
        self.expiring = Expiring::default();
        self.refreshing = Expiring::default();
        self.asked = BTreeSet::new();
        for (channel, _) in std::mem::take(&mut self.subscriptions) {
            effects.push_back(Effect::Unsubscribe(channel, Unsubscribe::DISCONNECTED));
        }
        effects.push_back(Effect::End { close, cause, tell, discard });
    }
}

/// Whether the code belongs to an error reply; every other code closes the connection.
fn is_reply_code(code: u32) -> bool {
    (100..2000).contains(&code)
}

/// Replies with an error to a command that expects a reply.
fn fail(id: u32, error: ReplyError, effects: &mut Effects) {
    if id > 0 {
        effects.push_back(Effect::Reply(Reply::Error { id, error }));
    }
}

#[cfg(test)]
mod tests;
