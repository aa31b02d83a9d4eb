//! [`PendingRequests`]: requests of a connection to the backplane and to upstreams that have no response yet.
//! Meanwhile only commands whose order matters wait.

use std::collections::VecDeque;

use super::Session;
use super::reading::counted;
use crate::backplane::{Outcome, Recovery, ReplyTo, Response};
use crate::clock::Now;
use crate::connection::effect::About;
use crate::connection::event::{Event, Subscriber};
use crate::connection::turn::Turn;
use crate::plugin::event::Kind;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::command::{Command, HistoryQuery, Position, Request};
use crate::protocol::reply::Reply;

/// Pending requests and held commands at which the client's next commands have to wait.
const PENDING_MANY: usize = 128;

/// Bytes of held commands at which they have to wait. More may be held by the next command only.
const HELD_BYTES_MAX: usize = 256 * 1024;

/// Pending requests of one connection.
#[derive(Debug, Default)]
pub(super) struct PendingRequests {
    /// Id of the next request.
    request_id: u32,
    open: VecDeque<(u32, Pending)>,
    /// Commands for channels whose subscription is being made, and all that follow a command at an upstream.
    held: VecDeque<Command>,
    /// Payload bytes of these.
    held_bytes: usize,
    /// A command whose successors wait is at an upstream, or some that have waited for it are still held:
    /// every command waits behind them.
    in_order: bool,
    /// A subscription is complete, so held commands may no longer be blocked.
    settling: bool,
    /// Subscriptions that are made, before the client gets the reply.
    settled: Vec<(Channel, Option<Position>)>,
    /// Histories of which plugins have let the client see nothing so far: the next turns read more.
    unread: VecDeque<Unread>,
}

/// A history that is still being read.
#[derive(Debug)]
pub(super) struct Unread {
    /// Id of the command.
    pub(super) id: u32,
    /// The channel.
    pub(super) channel: Channel,
    /// The part that is left to read.
    pub(super) query: HistoryQuery,
}

/// A pending request.
#[derive(Debug)]
pub(super) enum Pending {
    /// A subscription.
    Subscribe {
        /// The channel.
        channel: Channel,
        /// The initiator.
        by: Subscriber,
        /// The client's position, if it wants to recover.
        recover: Option<Position>,
    },
    /// A publication, to one or more targets.
    Publish {
        /// Id of the command.
        id: u32,
        /// The reply after success.
        reply: Option<Reply>,
        /// Missing responses.
        left: usize,
        /// The first error.
        failed: Option<ReplyError>,
    },
    /// Presence of a channel, or its counts.
    Presence {
        /// Id of the command.
        id: u32,
    },
    /// History of a channel.
    History {
        /// Id of the command.
        id: u32,
        /// The channel.
        channel: Channel,
        /// The part to read.
        query: HistoryQuery,
    },
    /// A question to an upstream.
    Upstream(About),
}

impl Pending {
    /// Weight among [`PENDING_MANY`]: a client may have four of the largest responses pending, and ask an
    /// upstream about 16 subscriptions at the same time.
    fn weight(&self) -> usize {
        match self {
            Self::History { .. } | Self::Presence { .. } => PENDING_MANY / 4,
            Self::Subscribe { recover: Some(_), .. } => PENDING_MANY / 16,
            // The queue of the upstream is for all clients.
            Self::Upstream(about @ About::Command { .. }) if subscribing(about).is_some() => {
                PENDING_MANY / 16
            }
            Self::Subscribe { .. } | Self::Publish { .. } | Self::Upstream(_) => 1,
        }
    }

    /// Whether the subscription to a channel is being made, or refreshed.
    fn is_subscribing(&self, to: &Channel) -> bool {
        match self {
            Self::Subscribe { channel, .. } => channel == to,
            Self::Upstream(about) => subscribing(about) == Some(to),
            Self::Publish { .. } | Self::Presence { .. } | Self::History { .. } => false,
        }
    }

    /// Whether the next commands of the client wait for it.
    fn is_in_order(&self) -> bool {
        matches!(self, Self::Upstream(about @ About::Command { .. }) if subscribing(about).is_none())
    }
}

impl PendingRequests {
    /// Whether the client should wait for responses first. Requests with large responses have more weight.
    pub(super) fn are_many(&self) -> bool {
        let open: usize = self.open.iter().map(|(_, about)| about.weight()).sum();
        open + self.held.len() >= PENDING_MANY || self.held_bytes >= HELD_BYTES_MAX
    }

    fn is_subscribing(&self, channel: &Channel) -> bool {
        self.open.iter().any(|(_, about)| about.is_subscribing(channel))
    }

    /// Whether a command whose successors wait is at an upstream.
    fn is_at_upstream(&self) -> bool {
        self.in_order && self.open.iter().any(|(_, about)| about.is_in_order())
    }

    /// Whether an upstream is asked about a refresh of the client.
    fn is_refreshing(&self) -> bool {
        let refresh =
            |about: &Pending| matches!(about, Pending::Upstream(About::Client { connecting: None, .. }));
        self.open.iter().any(|(_, about)| refresh(about))
    }

    /// Whether a command takes back a subscription about which an upstream is asked.
    fn is_taken_back(&self, command: &Command) -> bool {
        let Request::Unsubscribe { channel: Ok(channel) } = &command.request else { return false };
        let asked = |about: &Pending| matches!(about, Pending::Upstream(about) if subscribing(about) == Some(channel));
        self.open.iter().any(|(_, about)| asked(about))
            && !self.held.iter().any(|held| channel_of(&held.request) == Some(channel))
    }

    /// Whether a command must wait for an earlier one.
    fn is_before(&self, command: &Command) -> bool {
        if is_pong(command) || self.is_taken_back(command) && !self.in_order {
            return false;
        }
        if self.in_order {
            return true;
        }
        let Some(channel) = channel_of(&command.request) else { return false };
        self.is_subscribing(channel)
            || self.held.iter().any(|held| channel_of(&held.request) == Some(channel))
    }

    /// Holds a command that must come after a pending request. Gives back any other.
    pub(super) fn hold(&mut self, command: Command) -> Option<Command> {
        if self.is_before(&command) {
            self.held_bytes += bytes_of(&command.request);
            self.held.push_back(command);
            return None;
        }
        Some(command)
    }

    /// The first held command that is not blocked.
    fn next_held(&mut self) -> Option<Command> {
        let free = |command: &Command| {
            channel_of(&command.request).is_none_or(|channel| !self.is_subscribing(channel))
        };
        let free = match (self.settling, self.in_order) {
            (false, _) => None,
            (true, false) => self.held.iter().position(free),
            (true, true) if self.is_at_upstream() => None,
            (true, true) => self.held.front().is_some_and(free).then_some(0),
        };
        self.settling = free.is_some();
        let command = self.held.remove(free?)?;
        self.held_bytes -= bytes_of(&command.request);
        self.in_order &= !self.held.is_empty();
        Some(command)
    }

    /// Remembers a request, under the id that [`Session::reply_to`] has given it.
    fn open(&mut self, about: Pending) {
        self.in_order |= about.is_in_order();
        self.open.push_back((self.request_id, about));
        self.request_id = self.request_id.wrapping_add(1);
    }

    fn close(&mut self, at: usize) -> Option<Pending> {
        let (_, about) = self.open.remove(at)?;
        self.settling |= matches!(about, Pending::Subscribe { .. } | Pending::Upstream(_));
        self.in_order &= !self.held.is_empty() || self.open.iter().any(|(_, about)| about.is_in_order());
        Some(about)
    }

    /// Takes a response. Returns the request if this was its last response.
    fn answered(&mut self, request_id: u32, answer: &Response) -> Option<Pending> {
        let at = self.open.iter().position(|(open, _)| *open == request_id)?;
        if let Pending::Publish { left, failed, .. } = &mut self.open[at].1 {
            *left -= 1;
            if let Response::Published(Err(error)) = answer {
                failed.get_or_insert_with(|| error.clone());
            }
            if *left > 0 {
                return None;
            }
        }
        self.close(at)
    }
}

impl Session {
    /// Whether all commands of the client wait for [`Session::answered`] or [`Session::backplane_answered`]:
    /// it is being admitted, has many pending requests, or a history is still being read.
    pub fn is_suspended(&self) -> bool {
        self.core.is_admitting()
            || self.pending.as_ref().is_some_and(|pending| pending.are_many())
            || self.has_unread()
    }

    /// Whether the client is not read because of its pending requests. Its pong may be behind them.
    pub(super) fn is_held_back(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.are_many())
    }

    /// Whether a history is still being read.
    pub(super) fn has_unread(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| !pending.unread.is_empty())
    }

    /// Queues a history to be read further in a later turn.
    pub(super) fn read_later(&mut self, unread: Unread) {
        self.pending.get_or_insert_default().unread.push_back(unread);
    }

    /// Continues to read histories, as far as the turn has room.
    pub(super) fn read_on(&mut self, turn: &mut Turn) {
        while !self.is_backlogged()
            && turn.has_room()
            && let Some(Unread { id, channel, query }) =
                self.pending.as_mut().and_then(|pending| pending.unread.pop_front())
        {
            let (now, before) = (turn.now(), self.handle.outbound.pending());
            let page = self.history(now, &channel, &query);
            let about = || Pending::History { id, channel: channel.clone(), query: query.clone() };
            if let Some(page) = self.ready_or_pending(page, about)
                && let Some(event) = self.history_read(now, id, &channel, query, page)
            {
                self.event(now, event);
            }
            turn.spend(self.handle.outbound.pending().saturating_sub(before));
        }
    }

    /// The address for the response to the next request.
    pub(super) fn reply_to(&self) -> ReplyTo {
        let request_id = self.pending.as_ref().map_or(0, |pending| pending.request_id);
        ReplyTo::Connection(self.handle.number, request_id)
    }

    /// The response if it is ready; otherwise remembers `about` until the response comes.
    pub(super) fn ready_or_pending<T>(
        &mut self,
        asked: Outcome<T>,
        about: impl FnOnce() -> Pending,
    ) -> Option<Result<T, ReplyError>> {
        match asked {
            Outcome::Ready(result) => Some(result),
            Outcome::Pending => {
                self.remember(about());
                None
            }
        }
    }

    pub(super) fn remember(&mut self, about: Pending) {
        self.pending.get_or_insert_default().open(about);
    }

    /// Whether an upstream is asked about a refresh of the client.
    pub(super) fn is_refreshing(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.is_refreshing())
    }

    /// Forgets the question to an upstream about a subscription to this channel that is gone. Whoever waits
    /// for a subscription gets an error; true if it was one.
    pub(super) fn take_back(&mut self, channel: &Channel) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        let asked = |(_, about): &(_, Pending)| match about {
            Pending::Upstream(About::Subscription(of)) => of == channel,
            Pending::Upstream(about) => subscribing(about) == Some(channel),
            _ => false,
        };
        let mut taken_back = Vec::new();
        while let Some(at) = pending.open.iter().position(asked) {
            if let Some(Pending::Upstream(About::Command { ask, .. })) = pending.close(at) {
                taken_back.push((ask.id, ask.content.kind));
            }
        }
        for (id, _) in taken_back.iter().filter(|_| !self.core.is_closed()) {
            self.reply(&Reply::Error { id: *id, error: ReplyError::PERMISSION_DENIED });
        }
        taken_back.iter().any(|(_, kind)| *kind == Kind::Subscribe)
    }

    /// Forgets a subscription that is being made. False if there is none.
    pub(super) fn give_up_subscribing(&mut self, channel: &Channel) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        let before = pending.open.len();
        pending.open.retain(
            |(_, about)| !matches!(about, Pending::Subscribe { channel: making, .. } if making == channel),
        );
        let given_up = pending.open.len() < before;
        pending.settling |= given_up;
        given_up
    }

    /// Handles a response of the backplane or an upstream. Ignored if the request was given up, or the client
    /// may not stay: what was asked before it was revoked is not carried out afterwards.
    pub fn backplane_answered(&mut self, turn: &mut Turn, request_id: u32, answer: Response) {
        let now = turn.now();
        // Before the request is forgotten: its end undoes what it has begun.
        if let Some(close) = self.close_if_changed(now) {
            return self.event(now, close);
        }
        let about = self.pending.as_mut().and_then(|pending| pending.answered(request_id, &answer));
        let Some(about) = about else { return };
        let before = self.handle.outbound.pending();
        if let Some(event) = self.settle(now, about, answer) {
            self.event(now, event);
        }
        turn.spend(self.handle.outbound.pending().saturating_sub(before));
        self.go_on(turn);
    }

    fn settle(&mut self, now: Now, about: Pending, answer: Response) -> Option<Event> {
        match (about, answer) {
            (Pending::Subscribe { channel, by, recover }, answer) => {
                let recovery = match answer {
                    Response::Recovered(result) => result,
                    Response::Announced(result) => result.map(|()| Recovery::default()),
                    _ => Err(ReplyError::INTERNAL),
                };
                let result = self.subscribed(now, &channel, recover.as_ref(), recovery);
                let result = result.map(|(subscribed, position)| {
                    if let Some(pending) = &mut self.pending {
                        pending.settled.push((channel.clone(), position));
                    }
                    subscribed
                });
                self.subscribe_ended(&channel, by, &result);
                Some(Event::Subscribed { channel, by, result })
            }
            (Pending::Publish { id, failed: Some(error), .. }, _) => {
                self.worker.metrics.node.publication_refused(&error);
                Some(Event::Answered { id, result: Err(error) })
            }
            (Pending::Publish { id, reply, .. }, _) => {
                reply.map(|reply| Event::Answered { id, result: Ok(reply) })
            }
            (Pending::Presence { id }, Response::Present(members)) => {
                let result = members.and_then(|members| self.present(id, members));
                Some(Event::Answered { id, result })
            }
            (Pending::Presence { id }, Response::Counted(count)) => {
                Some(Event::Answered { id, result: count.map(|count| counted(id, count)) })
            }
            (Pending::History { id, channel, query }, Response::History(page)) => {
                self.history_read(now, id, &channel, query, page)
            }
            (Pending::Upstream(about), Response::Upstream(answer)) => {
                Some(self.upstream_answered(now, about, answer))
            }
            (Pending::Upstream(about), _) => Some(Event::Answers { about, answer: None }),
            (Pending::Presence { id } | Pending::History { id, .. }, _) => {
                Some(Event::Answered { id, result: Err(ReplyError::INTERNAL) })
            }
        }
    }

    /// Runs held commands that are no longer blocked.
    pub(super) fn resume(&mut self, turn: &mut Turn) {
        while self.has_free()
            && !self.is_backlogged()
            && turn.has_room()
            && let Some(command) = self.pending.as_mut().and_then(|pending| pending.next_held())
        {
            let before = self.handle.outbound.pending();
            self.run(turn.now(), command);
            turn.spend(self.handle.outbound.pending().saturating_sub(before));
        }
    }

    /// Whether a held command may be free to run.
    pub(super) fn has_free(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.settling && !pending.held.is_empty())
    }

    /// Releases the pushes held for subscriptions whose reply the client has got. Subscriptions in the
    /// connect reply are released with it.
    pub(super) fn release(&mut self) {
        if let Some(pending) = &mut self.pending
            && !pending.settled.is_empty()
            && !self.core.is_admitting()
        {
            let mut hub = self.worker.hub.borrow_mut();
            for (channel, position) in pending.settled.drain(..) {
                hub.release(&channel, self.handle.number, position);
            }
        }
    }
}

/// The channel whose subscription a question to an upstream is about.
fn subscribing(about: &About) -> Option<&Channel> {
    match about {
        About::Command { ask, .. } if matches!(ask.content.kind, Kind::Subscribe | Kind::SubRefresh) => {
            ask.content.channel.as_ref()
        }
        _ => None,
    }
}

/// Whether a command answers a ping, which waits for nothing.
fn is_pong(command: &Command) -> bool {
    command.id == 0 && !matches!(command.request, Request::Send { .. } | Request::Raw { .. })
}

/// Bytes of a command that is held.
fn bytes_of(request: &Request) -> usize {
    let payload = match request {
        Request::Publish { data, .. }
        | Request::Rpc { data, .. }
        | Request::Send { data }
        | Request::Raw { data, .. } => data.len(),
        Request::Subscribe(subscribe) => subscribe.data.len() + subscribe.token.len(),
        Request::Refresh { token } | Request::SubRefresh { token, .. } => token.len(),
        _ => 0,
    };
    payload + size_of::<Command>()
}

/// The channel of a command.
fn channel_of(request: &Request) -> Option<&Channel> {
    match request {
        Request::Subscribe(subscribe) => subscribe.channel.as_ref().ok(),
        Request::Unsubscribe { channel }
        | Request::Publish { channel, .. }
        | Request::Presence { channel }
        | Request::PresenceStats { channel }
        | Request::History { channel, .. }
        | Request::SubRefresh { channel, .. } => channel.as_ref().ok(),
        Request::Connect(_)
        | Request::Rpc { .. }
        | Request::Send { .. }
        | Request::Refresh { .. }
        | Request::Pong
        | Request::Refused { .. }
        | Request::Raw { .. } => None,
    }
}

#[cfg(test)]
mod tests;
