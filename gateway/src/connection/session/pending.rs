//! [`PendingRequests`]: requests of a connection to the backplane that have no response yet. Meanwhile only
//! commands whose order matters wait.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Session;
use super::reading::counted;
use crate::backplane::{Outcome, Recovery, ReplyTo, Response};
use crate::clock::Now;
use crate::connection::event::{Event, Subscriber};
use crate::connection::turn::Turn;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::command::{Command, HistoryQuery, Position, Request};
use crate::protocol::reply::Reply;

/// Open questions and held commands from which on nothing more of a client is carried out.
const QUESTIONS_MANY: usize = 128;

/// Where a subscriber's stream stands: offset and epoch.
pub(super) type Place = (u64, Arc<str>);

/// The questions of one connection.
#[derive(Debug, Default)]
pub(super) struct PendingRequests {
    /// The number of the next question.
    request_id: u32,
    open: VecDeque<(u32, Pending)>,
    /// Commands for channels whose subscription is being made.
    held: VecDeque<Command>,
    /// A subscription is settled: something may be in the way of a held command no longer.
    settling: bool,
    /// Subscriptions that are made and whose client is about to hear of it.
    settled: Vec<(Channel, Option<Place>)>,
    /// Histories of which the client may see nothing so far: more is read when there is a turn for it.
    unread: VecDeque<Unread>,
}

/// A history that is read on.
#[derive(Debug)]
pub(super) struct Unread {
    /// Which command.
    pub(super) id: u32,
    /// Of what.
    pub(super) channel: Channel,
    /// From where on.
    pub(super) query: HistoryQuery,
}

/// What a question was about.
#[derive(Debug)]
pub(super) enum Pending {
    /// A subscription.
    Subscribe {
        /// To what.
        channel: Channel,
        /// On whose wish.
        by: Subscriber,
        /// Where the client stands.
        recover: Option<Position>,
    },
    /// A publication, to one target or more.
    Publish {
        /// Which command.
        id: u32,
        /// The reply when it worked.
        reply: Option<Reply>,
        /// Answers that are missing.
        left: usize,
        /// What went wrong first.
        failed: Option<ReplyError>,
    },
    /// Who is in a channel, or only how many.
    Presence {
        /// Which command.
        id: u32,
    },
    /// What was published.
    History {
        /// Which command.
        id: u32,
        /// Of what.
        channel: Channel,
        /// Which part of it.
        query: HistoryQuery,
    },
}

impl Pending {
    /// As how many questions it counts: of the largest answers a client may have four on their way.
    fn weight(&self) -> usize {
        match self {
            Self::History { .. } | Self::Presence { .. } => QUESTIONS_MANY / 4,
            Self::Subscribe { recover: Some(_), .. } => QUESTIONS_MANY / 16,
            Self::Subscribe { .. } | Self::Publish { .. } => 1,
        }
    }
}

impl PendingRequests {
    /// Whether the client should first wait for answers. Those that may be large count for more.
    pub(super) fn are_many(&self) -> bool {
        let open: usize = self.open.iter().map(|(_, about)| about.weight()).sum();
        open + self.held.len() >= QUESTIONS_MANY
    }

    fn is_subscribing(&self, channel: &Channel) -> bool {
        let about = |(_, about): &(_, Pending)| matches!(about, Pending::Subscribe { channel: making, .. } if making == channel);
        self.open.iter().any(about)
    }

    /// Whether a command must come after one that has not been carried out.
    fn is_before(&self, command: &Command) -> bool {
        let Some(channel) = channel_of(&command.request) else { return false };
        self.is_subscribing(channel)
            || self.held.iter().any(|held| channel_of(&held.request) == Some(channel))
    }

    /// The first held command that nothing is in the way of.
    fn next_held(&mut self) -> Option<Command> {
        let free = |command: &Command| {
            channel_of(&command.request).is_none_or(|channel| !self.is_subscribing(channel))
        };
        let free = if self.settling { self.held.iter().position(free) } else { None };
        self.settling = free.is_some();
        self.held.remove(free?)
    }

    /// Takes an answer in. What the question was about, if this was the last answer to it.
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
        let about = self.open.remove(at).map(|(_, about)| about);
        self.settling |= matches!(about, Some(Pending::Subscribe { .. }));
        about
    }
}

impl Session {
    /// Whether nothing more of the client may be carried out until [`Session::answered`] or
    /// [`Session::backplane_answered`]: it waits to be admitted, or for many answers of the backplane. Nor while a history is
    /// read on.
    pub fn is_suspended(&self) -> bool {
        self.core.is_admitting()
            || self.questions.as_ref().is_some_and(|questions| questions.are_many())
            || self.has_unread()
    }

    /// Whether a history is to be read on.
    pub(super) fn has_unread(&self) -> bool {
        self.questions.as_ref().is_some_and(|questions| !questions.unread.is_empty())
    }

    /// Has a history read on when there is a turn for it.
    pub(super) fn read_later(&mut self, unread: Unread) {
        self.questions.get_or_insert_default().unread.push_back(unread);
    }

    /// Reads histories on, as far as the turn has room.
    pub(super) fn read_on(&mut self, turn: &mut Turn) {
        while !self.is_backlogged()
            && turn.has_room()
            && let Some(Unread { id, channel, query }) =
                self.questions.as_mut().and_then(|questions| questions.unread.pop_front())
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

    /// Where an answer to the next question goes.
    pub(super) fn reply_to(&self) -> ReplyTo {
        let request_id = self.questions.as_ref().map_or(0, |questions| questions.request_id);
        ReplyTo::Connection(self.handle.number, request_id)
    }

    /// The answer, or nothing yet: then it will come for what `about` says.
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
        let questions = self.questions.get_or_insert_default();
        questions.open.push_back((questions.request_id, about));
        questions.request_id = questions.request_id.wrapping_add(1);
    }

    /// Forgets a subscription that is being made. False if there is none.
    pub(super) fn give_up_subscribing(&mut self, channel: &Channel) -> bool {
        let Some(questions) = &mut self.questions else { return false };
        let before = questions.open.len();
        questions.open.retain(
            |(_, about)| !matches!(about, Pending::Subscribe { channel: making, .. } if making == channel),
        );
        let given_up = questions.open.len() < before;
        questions.settling |= given_up;
        given_up
    }

    /// Runs a command, or holds it until what it must come after is done.
    pub(super) fn take_command(&mut self, now: Now, command: Command) {
        match &mut self.questions {
            Some(questions) if questions.is_before(&command) => questions.held.push_back(command),
            _ => self.event(now, Event::Command(command)),
        }
    }

    /// The backplane has answered a question. Ignored if nobody wants to know any more.
    pub fn backplane_answered(&mut self, turn: &mut Turn, request_id: u32, answer: Response) {
        let about = self.questions.as_mut().and_then(|questions| questions.answered(request_id, &answer));
        let Some(about) = about else { return };
        let (now, before) = (turn.now(), self.handle.outbound.pending());
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
                let result = result.map(|(subscribed, place)| {
                    if let Some(questions) = &mut self.questions {
                        questions.settled.push((channel.clone(), place));
                    }
                    subscribed
                });
                self.say_refused(&channel, by, &result);
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
            (Pending::Presence { id } | Pending::History { id, .. }, _) => {
                Some(Event::Answered { id, result: Err(ReplyError::INTERNAL) })
            }
        }
    }

    /// Runs the held commands that nothing is in the way of any more.
    pub(super) fn resume(&mut self, turn: &mut Turn) {
        while self.has_free()
            && !self.is_backlogged()
            && turn.has_room()
            && let Some(command) = self.questions.as_mut().and_then(|questions| questions.next_held())
        {
            let before = self.handle.outbound.pending();
            self.event(turn.now(), Event::Command(command));
            turn.spend(self.handle.outbound.pending().saturating_sub(before));
        }
    }

    /// Whether nothing may be in the way of a held command.
    pub(super) fn has_free(&self) -> bool {
        self.questions.as_ref().is_some_and(|questions| questions.settling && !questions.held.is_empty())
    }

    /// Lets go what was held for subscriptions that the client knows of by now. Those that come with the connect reply are
    /// told with it.
    pub(super) fn release(&mut self) {
        if let Some(questions) = &mut self.questions
            && !questions.settled.is_empty()
            && !self.core.is_admitting()
        {
            let mut hub = self.worker.hub.borrow_mut();
            for (channel, place) in questions.settled.drain(..) {
                hub.release(&channel, self.handle.number, place);
            }
        }
    }
}

/// The channel that a command is about.
fn channel_of(request: &Request) -> Option<&Channel> {
    match request {
        Request::Subscribe(subscribe) => subscribe.channel.as_ref().ok(),
        Request::Unsubscribe { channel }
        | Request::Publish { channel, .. }
        | Request::Presence { channel }
        | Request::PresenceStats { channel }
        | Request::History { channel, .. }
        | Request::SubRefresh { channel } => channel.as_ref().ok(),
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
