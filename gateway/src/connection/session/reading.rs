//! Reads presence and history of a channel for a client. A reply is cut or refused before it is encoded, so
//! that the outbound queue of the client stays within its bound.

use std::sync::Arc;

use super::Session;
use super::pending::Unread;
use crate::backplane::{Count, Fits, HistoryRequest, Most, Outcome, Page, Retention, TOO_MANY_MEMBERS};
use crate::clock::Now;
use crate::connection::event::Event;
use crate::connection::views::view;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::command::{HistoryQuery, Position};
use crate::protocol::filter::TagFilter;
use crate::protocol::push::{Member, Publication};
use crate::protocol::reply::Reply;

/// Where plugins or the client filter a history, this many times its size is read for one page.
const LOOKED_THROUGH: usize = 8;

/// Bytes of a reply besides its publications or members: frame, id, names and numbers.
const AROUND_ANSWER: usize = 1024;

const READ_FIRST: &str = "too much waits to be read: read it, and ask again";

impl Session {
    /// Most bytes of publications or members in the next reply.
    fn room(&self) -> usize {
        self.free().min(self.worker.config.limits.answer_bytes_max())
    }

    /// Free bytes in the client's queue.
    fn free(&self) -> usize {
        self.handle.outbound.room().saturating_sub(AROUND_ANSWER)
    }

    /// Most bytes of the next recovery: those in the connect reply share its room.
    pub(super) fn recovery_room(&self) -> usize {
        let taken = if self.core.is_admitting() { self.recovered.get() } else { 0 };
        self.room().saturating_sub(taken)
    }

    pub(super) fn presence(&self, channel: &Channel) -> Outcome<Vec<Arc<Member>>> {
        match self.worker.namespace(channel) {
            Ok(namespace) if namespace.presence => {
                let bytes_max = self.worker.config.limits.answer_bytes_max();
                self.worker.backplane.presence(channel, bytes_max, self.reply_to())
            }
            Ok(_) => Outcome::Ready(Err(ReplyError::NOT_AVAILABLE)),
            Err(error) => Outcome::Ready(Err(error)),
        }
    }

    pub(super) fn count(&self, channel: &Channel) -> Outcome<Count> {
        match self.worker.namespace(channel) {
            Ok(namespace) if namespace.presence => self.worker.backplane.count(channel, self.reply_to()),
            Ok(_) => Outcome::Ready(Err(ReplyError::NOT_AVAILABLE)),
            Err(error) => Outcome::Ready(Err(error)),
        }
    }

    pub(super) fn history(&self, now: Now, channel: &Channel, query: &HistoryQuery) -> Outcome<Page> {
        let namespace = match self.worker.namespace(channel) {
            Ok(namespace) => namespace,
            Err(error) => return Outcome::Ready(Err(error)),
        };
        if namespace.history_size == 0 {
            return Outcome::Ready(Err(ReplyError::NOT_AVAILABLE));
        }
        let most = Most {
            publications: self.worker.config.client.history_publications_max,
            bytes: self.worker.config.limits.answer_bytes_max(),
        };
        let history = |query, most| {
            let request = HistoryRequest { channel, query, most, retention: Retention::of(namespace) };
            self.worker.backplane.history(request, self.reply_to(), now.at)
        };
        if query.limit != 0 && self.hides(channel) {
            // Hidden publications make room for others: a short page would look like the last one.
            let bytes = most.bytes.saturating_mul(LOOKED_THROUGH);
            history(&HistoryQuery { limit: -1, ..query.clone() }, Most { bytes, ..most })
        } else {
            history(query, most)
        }
    }

    /// Whether plugins or a filter may keep publications of a channel from this client.
    pub(super) fn hides(&self, channel: &Channel) -> bool {
        self.filter(channel).is_some() || self.worker.chain.borrow().wants_deliveries(channel)
    }

    /// The filter of this client's subscription to a channel.
    fn filter(&self, channel: &Channel) -> Option<Arc<TagFilter>> {
        self.worker.hub.borrow().filter(channel, self.handle.number)
    }

    /// Handles a part of a history: the reply, or `None` if plugins or the client's filter hide all of it.
    /// Then another turn reads more, because a page without publications would look like the end.
    pub(super) fn history_read(
        &mut self,
        now: Now,
        id: u32,
        channel: &Channel,
        mut query: HistoryQuery,
        page: Result<Page, ReplyError>,
    ) -> Option<Event> {
        let read = page.as_ref().ok().and_then(|page| {
            let last = page.publications.last()?.offset;
            let end = if query.reverse { 1 } else { page.top.offset };
            (last != end).then(|| Position { offset: last, epoch: page.top.epoch.clone() })
        });
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let result = page.and_then(|page| self.page(now, id, channel, limit, page));
        match (&result, read) {
            (Ok(Reply::History { publications, .. }), Some(read)) if publications.is_empty() => {
                query.since = Some(read);
                self.read_later(Unread { id, channel: channel.clone(), query });
                None
            }
            _ => Some(Event::Answered { id, result }),
        }
    }

    /// A page of history as this client may see it, cut to the available room.
    fn page(
        &self,
        now: Now,
        id: u32,
        channel: &Channel,
        limit: usize,
        page: Page,
    ) -> Result<Reply, ReplyError> {
        let (free, mut large, mut first) = (self.free(), false, true);
        let mut fits = Fits::new(Most { publications: limit, bytes: self.room() });
        // Plugins see no more publications than the page has room for.
        let publications = self.visible(now, channel, page.publications, |publication| {
            large = std::mem::take(&mut first) && publication.bytes() > free;
            (!large && fits.take(publication)).then(|| !fits.are_full())
        });
        if large {
            return Err(ReplyError::TOO_MANY_REQUESTS.because(READ_FIRST));
        }
        Ok(Reply::History { id, publications, offset: page.top.offset, epoch: page.top.epoch })
    }

    /// The members of a channel, if there is room.
    pub(super) fn present(&self, id: u32, members: Vec<Arc<Member>>) -> Result<Reply, ReplyError> {
        let bytes = members.iter().map(|member| member.bytes()).sum::<usize>();
        if bytes > self.worker.config.limits.answer_bytes_max() {
            return Err(ReplyError::LIMIT_EXCEEDED.because(TOO_MANY_MEMBERS));
        }
        if bytes > self.room() {
            return Err(ReplyError::TOO_MANY_REQUESTS.because(READ_FIRST));
        }
        Ok(Reply::Presence { id, members })
    }

    /// What to send instead of a plugin's reply that is too large: an error, or the inner `None` where no
    /// error can be sent. The outer `None` if it fits.
    pub(super) fn refuse_large(&self, reply: &Reply) -> Option<Option<Reply>> {
        let (id, data) = match reply {
            Reply::Rpc { id, data } => (*id, data),
            Reply::Message { data } | Reply::Raw { data, .. } => (0, data),
            _ => return None,
        };
        if data.len() < AROUND_ANSWER || data.len() + AROUND_ANSWER <= self.handle.outbound.room() {
            return None;
        }
        let most = self.worker.config.limits.outbound_bytes_max - AROUND_ANSWER;
        let error = if data.len() > most {
            ReplyError::LIMIT_EXCEEDED.because("the answer is larger than `limits.outbound_bytes_max`")
        } else {
            ReplyError::TOO_MANY_REQUESTS.because(READ_FIRST)
        };
        Some((id > 0).then_some(Reply::Error { id, error }))
    }

    /// The views of this client on publications that it reads later than they were published: those that its
    /// filter lets through, as the plugins show them.
    pub(super) fn views(
        &self,
        now: Now,
        channel: &Channel,
        publications: Vec<Arc<Publication>>,
    ) -> Vec<Arc<Publication>> {
        self.visible(now, channel, publications, |_| Some(true))
    }

    /// The view on the first of them that this client may see; empty if there is none.
    pub(super) fn first_view(
        &self,
        now: Now,
        channel: &Channel,
        publications: Vec<Arc<Publication>>,
    ) -> Vec<Arc<Publication>> {
        self.visible(now, channel, publications, |_| Some(false))
    }

    /// The same, until `take` returns that it accepts no more.
    fn visible(
        &self,
        now: Now,
        channel: &Channel,
        publications: Vec<Arc<Publication>>,
        mut take: impl FnMut(&Arc<Publication>) -> Option<bool>,
    ) -> Vec<Arc<Publication>> {
        if publications.is_empty() {
            return publications;
        }
        let filter = self.filter(channel);
        let mut chain = self.worker.chain.borrow_mut();
        let is_asked = chain.wants_deliveries(channel);
        let client = self.client.borrow();
        let value = |name: &str| client.attributes.get(name).cloned().unwrap_or_default();
        let values: Vec<Box<str>> = match is_asked {
            true => chain.class_attributes().iter().map(|name| value(name)).collect(),
            false => Vec::new(),
        };
        let bytes_max = self.worker.config.limits.publication_bytes_max;
        let mut seen = Vec::with_capacity(publications.len());
        for publication in publications {
            if filter.as_ref().is_some_and(|filter| !filter.wants(publication.tags.as_deref())) {
                continue;
            }
            let publication = match is_asked {
                true => view(&mut chain, channel, &publication, &values, now, bytes_max),
                false => Some(publication),
            };
            let Some(publication) = publication else { continue };
            let Some(more) = take(&publication) else { break };
            seen.push(publication);
            if !more {
                break;
            }
        }
        seen
    }
}

/// The reply with the counts.
pub(super) fn counted(id: u32, count: Count) -> Reply {
    Reply::PresenceStats { id, clients: count.connections, users: count.users }
}
