//! [`Core`]: the state machine of one connection. It takes events and returns effects. No I/O, no clock, no
//! tokio; the same events give the same effects.

mod command;
mod admission;
mod decision;
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indexmap::IndexMap;

use super::effect::Effect;
use super::event::{Ending, Event, Subscriber};
use super::heartbeat::{ControlFrames, Due, Heartbeat};
use crate::backplane::Why;
use crate::clock::Now;
use crate::config::{Config, WRITE_BYTES_MIN};
use crate::hub::signal::Signal;
use crate::plugin::verdict::Refusal;
use crate::protocol::Protocol;
use crate::protocol::channel::Channel;
use crate::protocol::code::{Close, ReplyError, Unsubscribe};
use crate::protocol::command::Position;
use crate::protocol::reply::{Reply, Subscribed};
use crate::telemetry::metrics::{CloseCause, ControlFrame};

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
    control_frames: ControlFrames,
    /// Until when the client must be admitted.
    stale: Duration,
    /// When the connection expires, without grace.
    expires: Option<Duration>,
    /// How much was written when `write_until` was set.
    written: u64,
    /// Until when the socket must accept [`WRITE_BYTES_MIN`], or everything that waits.
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
    /// Taken away again while it was made.
    Unwanted,
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
            control_frames: ControlFrames::default(),
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

    /// Whether a client is on its way to be admitted.
    pub fn is_admitting(&self) -> bool {
        matches!(self.state, State::Admitting(_))
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

    /// Whether a deadline has come.
    pub fn is_due(&self, now: Now) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now.at)
    }

    /// Takes one event.
    pub fn on(&mut self, now: Now, event: Event, effects: &mut Effects) {
        if matches!(event, Event::Command(_) | Event::Authenticated { .. }) && self.is_due(now) {
            // Whatever the timer does: after a deadline nothing is carried out that was to come before it.
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
                // What was missed belongs to the subscription before: one that is being made misses nothing yet.
                Some(Subscription::Asked | Subscription::Unwanted) | None => (),
            },
            Signal::Close(close, Why::Shutdown) => self.end(close, CloseCause::Shutdown, effects),
            Signal::Close(close, Why::Api) => self.end(close, CloseCause::Api, effects),
            Signal::Close(close, Why::Plugin) => self.end(close, CloseCause::Plugin, effects),
            // One that is admitted by now has no place to give back.
            Signal::Evicted if matches!(self.state, State::Connecting | State::Refused) => {
                let close =
                    Close::custom(Close::TOO_MANY_REQUESTS.code, "too many clients are in their handshake");
                self.end(close, CloseCause::Evicted, effects);
            }
            Signal::Evicted => (),
            Signal::Subscribe(channel) => self.subscribe_by_server(channel, Subscriber::Plugin, effects),
            Signal::Unsubscribe(channel) => self.remove(channel, Unsubscribe::BY_SERVER, effects),
            Signal::Refresh(expires_at) => self.refreshed_by_server(now, expires_at, effects),
            Signal::SocketFailed => self.finish(Close::NORMAL, CloseCause::Transport, false, true, effects),
        }
    }

    /// A control frame of the WebSocket protocol came. In raw mode a pong answers our ping; others have a command for it.
    fn on_control(&mut self, now: Now, frame: ControlFrame, effects: &mut Effects) {
        if !self.control_frames.take(now.at) {
            let close = Close::custom(Close::TOO_MANY_REQUESTS.code, "too many pings and pongs");
            return self.end(close, CloseCause::TooManyRequests, effects);
        }
        if frame == ControlFrame::Pong && self.protocol == Protocol::Raw {
            self.heartbeat.pong();
        }
    }

    /// A client that takes a little now and then takes too little: each time it gets is for a good piece, or everything.
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

#[cfg(test)]
mod tests;
