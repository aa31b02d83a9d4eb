//! What a client asks to see of a channel: who is there, and what was published.

use std::sync::Arc;

use super::Session;
use crate::backplane::{Asked, Count, Page};
use crate::connection::event::Now;
use crate::connection::local::retention;
use crate::connection::views::view;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::command::HistoryQuery;
use crate::protocol::push::{Member, Publication};
use crate::protocol::reply::Reply;

impl Session {
    pub(super) fn presence(&self, channel: &Channel) -> Asked<Vec<Arc<Member>>> {
        match self.local.namespace(channel) {
            Ok(namespace) if namespace.presence => self.local.backplane.presence(channel, self.asker()),
            Ok(_) => Asked::Now(Err(ReplyError::NOT_AVAILABLE)),
            Err(error) => Asked::Now(Err(error)),
        }
    }

    pub(super) fn count(&self, channel: &Channel) -> Asked<Count> {
        match self.local.namespace(channel) {
            Ok(namespace) if namespace.presence => self.local.backplane.count(channel, self.asker()),
            Ok(_) => Asked::Now(Err(ReplyError::NOT_AVAILABLE)),
            Err(error) => Asked::Now(Err(error)),
        }
    }

    pub(super) fn history(&self, now: Now, channel: &Channel, query: &HistoryQuery) -> Asked<Page> {
        let namespace = match self.local.namespace(channel) {
            Ok(namespace) => namespace,
            Err(error) => return Asked::Now(Err(error)),
        };
        if namespace.history_size == 0 {
            return Asked::Now(Err(ReplyError::NOT_AVAILABLE));
        }
        let publications_max = self.local.config.client.history_publications_max;
        let history = |query| {
            let retention = retention(namespace);
            self.local.backplane.history(channel, query, publications_max, retention, self.asker(), now.at)
        };
        if query.limit != 0 && self.local.chain.borrow().wants_deliveries(channel) {
            // Those that the client may not see make room for others: a short page would look like the last one.
            history(&HistoryQuery { limit: -1, ..query.clone() })
        } else {
            history(query)
        }
    }

    /// A page of history as this client is to see it.
    pub(super) fn page(&self, now: Now, id: u32, channel: &Channel, limit: usize, page: Page) -> Reply {
        let mut publications = self.views(now, channel, page.publications);
        publications.truncate(limit);
        Reply::History { id, publications, offset: page.top.offset, epoch: page.top.epoch }
    }

    /// What this client is to see of publications that it did not receive when they were published.
    pub(super) fn views(
        &self,
        now: Now,
        channel: &Channel,
        publications: Vec<Arc<Publication>>,
    ) -> Vec<Arc<Publication>> {
        let mut chain = self.local.chain.borrow_mut();
        if publications.is_empty() || !chain.wants_deliveries(channel) {
            return publications;
        }
        let client = self.client.borrow();
        let value = |name: &str| client.attributes.get(name).cloned().unwrap_or_default();
        let values: Vec<Box<str>> = chain.class_attributes().iter().map(|name| value(name)).collect();
        let view = |publication| view(&mut chain, channel, publication, &values, now);
        publications.into_iter().filter_map(view).collect()
    }
}

/// The reply to how many there are.
pub(super) fn counted(id: u32, count: Count) -> Reply {
    Reply::PresenceStats { id, clients: count.connections, users: count.users }
}
