//! Checks whether a client may send a command in its current state. A valid command goes to the plugins.

use bytes::Bytes;

use super::{Admitting, Core, Effects, State, Subscription, fail};
use crate::connection::effect::{Ask, Details, Effect};
use crate::connection::event::NOTHING;
use crate::plugin::event::{Kind, MessageContent};
use crate::protocol::Encoding;
use crate::protocol::channel::{Channel, InvalidChannel};
use crate::protocol::code::ReplyError;
use crate::protocol::command::{Command, Connect, NamedChannel, Request, Subscribe};

const NO_FILTERS: &str =
    "`tf` is not permitted in this channel: its namespace does not have `tag_filter = true`";

const FILTERED_DELTAS: &str =
    "`delta` and `tf` exclude each other in one subscription: leave one of them out";

/// Why a pattern is no channel here.
pub(in crate::connection) const NO_PATTERNS: &str =
    "patterns are not permitted here: the namespace does not have `wildcards = true`";

const NOT_OF_PATTERNS: &str = "a pattern has no history and no presence: its channels do";

impl Core {
    pub(super) fn on_command(&mut self, Command { id, request }: Command, effects: &mut Effects) {
        match (&self.state, request) {
            (State::Refused, _) => (),
            (State::Connecting, Request::Connect(connect)) if id > 0 || self.encoding == Encoding::Raw => {
                let Connect { token, data, positions, deltas, software } = connect;
                self.positions = positions;
                self.deltas = deltas;
                self.state = State::Admitting(Admitting { id, software, ..Admitting::default() });
                effects.push_back(Effect::Authenticate { id, refresh: false, token, data });
            }
            (State::Connecting, Request::Raw { data, .. }) => match std::str::from_utf8(&data) {
                Ok(token) => {
                    self.state = State::Admitting(Admitting { id, ..Admitting::default() });
                    let (token, data) = (token.into(), Bytes::new());
                    effects.push_back(Effect::Authenticate { id, refresh: false, token, data });
                }
                Err(_) => self.bad_request("the first message is the token, which is text", effects),
            },
            (State::Connecting, Request::Refused { connect: true, why }) if !self.encoding.has_replies() => {
                self.bad_request(&why.message, effects);
            }
            (State::Connecting, Request::Refused { connect: true, why }) if id > 0 => {
                self.state = State::Refused;
                fail(id, why, effects);
            }
            (State::Connected, request) => self.on_request(id, request, effects),
            _ => self.bad_request("connect must come first, and once", effects),
        }
    }

    pub(super) fn on_request(&mut self, id: u32, request: Request, effects: &mut Effects) {
        let ask = |kind, channel, payload| Ask {
            id,
            content: MessageContent::new(kind, channel, payload),
            details: Details::None,
        };
        let ask = match request {
            Request::Send { data } => ask(Kind::Send, None, data),
            Request::Raw { data, binary } => {
                let content = MessageContent { binary, ..MessageContent::new(Kind::Raw, None, data) };
                Ask { id, content, details: Details::None }
            }
            // Any other command without an id is the response to a ping; the protocol has no other command
            // without an id.
            _ if id == 0 => {
                if !self.heartbeat.pong() && self.encoding != Encoding::Raw {
                    self.bad_request("a pong without a ping", effects);
                }
                return;
            }
            Request::Refused { connect: false, why } => return fail(id, why, effects),
            Request::Connect(_) | Request::Refused { connect: true, .. } => {
                return self.bad_request("connect must come first, and once", effects);
            }
            Request::Pong => return self.bad_request("a command without a request", effects),
            Request::Rpc { method, data } => {
                let content = MessageContent { method, ..MessageContent::new(Kind::Rpc, None, data) };
                Ask { id, content, details: Details::None }
            }
            Request::Refresh { token } => {
                if token.is_empty() {
                    return self.bad_request("refresh without a token", effects);
                }
                return effects.push_back(Effect::Authenticate { id, refresh: true, token, data: NOTHING });
            }
            Request::Subscribe(subscribe) => {
                let Some(ask) = self.ask_subscribe(id, subscribe, effects) else { return };
                ask
            }
            Request::SubRefresh { channel, token } => {
                let Some(channel) = self.subscribable(id, channel, effects) else { return };
                match self.subscriptions.get(&channel) {
                    Some(Subscription::Client) if token.is_empty() => {
                        let error = ReplyError::BAD_REQUEST.because("sub_refresh without a token");
                        return fail(id, error, effects);
                    }
                    Some(Subscription::Client) => {
                        let content = MessageContent::new(Kind::SubRefresh, Some(channel), NOTHING);
                        Ask { id, content: MessageContent { token, ..content }, details: Details::None }
                    }
                    Some(Subscription::Server) => {
                        return self.bad_request("sub_refresh of a subscription of the server", effects);
                    }
                    Some(Subscription::Requested | Subscription::Unwanted) | None => {
                        return fail(id, ReplyError::PERMISSION_DENIED, effects);
                    }
                }
            }
            Request::Unsubscribe { channel } => {
                let Some(channel) = self.subscribable(id, channel, effects) else { return };
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
                let Some(channel) = self.single(id, channel, effects) else { return };
                ask(Kind::Presence, Some(channel), NOTHING)
            }
            Request::PresenceStats { channel } => {
                let Some(channel) = self.single(id, channel, effects) else { return };
                ask(Kind::PresenceStats, Some(channel), NOTHING)
            }
            Request::History { channel, query } => {
                let Some(channel) = self.single(id, channel, effects) else { return };
                Ask { details: Details::History(query), ..ask(Kind::History, Some(channel), NOTHING) }
            }
        };
        effects.push_back(Effect::Ask(ask));
    }

    pub(super) fn ask_subscribe(
        &mut self,
        id: u32,
        subscribe: Subscribe,
        effects: &mut Effects,
    ) -> Option<Ask> {
        let channel = self.subscribable(id, subscribe.channel, effects)?;
        let delta = subscribe.delta && self.makes_deltas(&channel);
        let error = if self.subscriptions.contains_key(&channel) {
            Some(ReplyError::ALREADY_SUBSCRIBED)
        } else if self.subscriptions.len() >= self.config.limits.channels_per_connection_max {
            Some(ReplyError::LIMIT_EXCEEDED)
        } else if subscribe.filter.is_some() && !self.filters(&channel) {
            Some(ReplyError::BAD_REQUEST.because(NO_FILTERS))
        } else if subscribe.filter.is_some() && delta {
            Some(ReplyError::BAD_REQUEST.because(FILTERED_DELTAS))
        } else {
            None
        };
        if let Some(error) = error {
            fail(id, error, effects);
            return None;
        }
        self.subscriptions.insert(channel.clone(), Subscription::Requested);
        let content = MessageContent::new(Kind::Subscribe, Some(channel), subscribe.data);
        Some(Ask {
            id,
            content: MessageContent { token: subscribe.token, ..content },
            details: Details::Subscribe {
                recover: subscribe.recover,
                join_leave: subscribe.join_leave,
                reject_unrecovered: subscribe.reject_unrecovered,
                filter: subscribe.filter,
                delta,
            },
        })
    }

    /// Whether subscribers of a channel may filter. A channel that does not exist gets its own error later.
    fn filters(&self, channel: &Channel) -> bool {
        self.config.namespaces.of(channel).is_none_or(|namespace| namespace.tag_filter)
    }

    /// Whether subscribers of a channel may get deltas. The publications of a pattern follow none of their
    /// own.
    pub(super) fn makes_deltas(&self, channel: &Channel) -> bool {
        self.config.namespaces.of(channel).is_some_and(|namespace| namespace.delta && !channel.is_pattern())
    }

    /// The channel or pattern of a command about a subscription.
    fn subscribable(&mut self, id: u32, channel: NamedChannel, effects: &mut Effects) -> Option<Channel> {
        let channel = self.named(id, channel, effects)?;
        // A namespace that does not exist gets its own error later.
        let permits = |channel: &Channel| {
            self.config.namespaces.of(channel).is_none_or(|namespace| namespace.wildcards)
        };
        if channel.is_pattern() && !permits(&channel) {
            fail(id, ReplyError::BAD_REQUEST.because(NO_PATTERNS), effects);
            return None;
        }
        Some(channel)
    }

    /// The channel of a command that concerns no pattern.
    fn single(&mut self, id: u32, channel: NamedChannel, effects: &mut Effects) -> Option<Channel> {
        let channel = self.subscribable(id, channel, effects)?;
        if channel.is_pattern() {
            fail(id, ReplyError::NOT_AVAILABLE.because(NOT_OF_PATTERNS), effects);
            return None;
        }
        Some(channel)
    }

    /// The channel of a command. An empty name ends the connection; any other invalid name is an error.
    pub(super) fn named(&mut self, id: u32, channel: NamedChannel, effects: &mut Effects) -> Option<Channel> {
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
}
