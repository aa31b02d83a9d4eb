//! What a client asks to see of a channel: who is there, and what was published.

use std::sync::Arc;

use super::Session;
use crate::backplane::memory;
use crate::connection::event::Now;
use crate::connection::local::retention;
use crate::connection::views::view;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::command::HistoryQuery;
use crate::protocol::push::Publication;
use crate::protocol::reply::Reply;

impl Session {
    pub(super) fn presence(&self, id: u32, channel: &Channel, stats: bool) -> Result<Reply, ReplyError> {
        if !self.local.namespace(channel)?.presence {
            return Err(ReplyError::NOT_AVAILABLE);
        }
        let members = self.local.backplane.presence(channel);
        Ok(if stats {
            Reply::PresenceStats { id, clients: members.len(), users: memory::count_users(&members) }
        } else {
            Reply::Presence { id, members }
        })
    }

    pub(super) fn history(
        &self,
        now: Now,
        id: u32,
        channel: &Channel,
        query: &HistoryQuery,
    ) -> Result<Reply, ReplyError> {
        let namespace = self.local.namespace(channel)?;
        if namespace.history_size == 0 {
            return Err(ReplyError::NOT_AVAILABLE);
        }
        let publications_max = self.local.config.client.history_publications_max;
        let history = |query| {
            self.local.backplane.history(channel, query, publications_max, retention(namespace), now.at)
        };
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let page = if limit > 0 && self.local.chain.borrow().wants_deliveries(channel) {
            // Those that the client may not see make room for others: a short page would look like the last one.
            let mut page = history(&HistoryQuery { limit: -1, ..query.clone() })?;
            page.publications = self.views(now, channel, page.publications);
            page.publications.truncate(limit);
            page
        } else {
            history(query)?
        };
        Ok(Reply::History {
            id,
            publications: page.publications,
            offset: page.top.offset,
            epoch: page.top.epoch,
        })
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
