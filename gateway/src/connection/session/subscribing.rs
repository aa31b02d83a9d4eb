//! Beginning to listen, catching up with what was missed, and ceasing.

use bytes::Bytes;

use super::Session;
use crate::backplane::Recovery;
use crate::config::Namespace;
use crate::connection::event::Now;
use crate::connection::local::{Local, retention};
use crate::hub::Listening;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::ReplyError;
use crate::protocol::command::{HistoryQuery, Position};
use crate::protocol::push::Form;
use crate::protocol::reply::Subscribed;

impl Session {
    pub(super) fn subscribe(
        &self,
        now: Now,
        channel: &Channel,
        recover: Option<&Position>,
        join_leave: Option<bool>,
    ) -> Result<Subscribed, ReplyError> {
        if matches!(channel.target(), Target::Connection(_)) {
            return Err(ReplyError::BAD_REQUEST.because("a connection is an address, not a channel"));
        }
        let namespace = self.local.namespace(channel)?;
        let join_leave = namespace.join_leave && join_leave.unwrap_or(true);
        // Listening begins before history is read: what is published in between arrives twice and is known by its offset.
        self.listen(
            channel,
            Listening { form: Form::Channel(self.peer.protocol), position: None, join_leave },
        )?;
        let mut subscribed = Subscribed::default();
        if namespace.recovery {
            match self.catch_up(now, channel, namespace, recover) {
                Ok(caught_up) => subscribed = caught_up,
                Err(error) => {
                    self.unlisten(channel);
                    return Err(error);
                }
            }
        }
        if namespace.presence || namespace.join_leave {
            self.local.backplane.enter(channel, &self.member, namespace.presence, namespace.join_leave);
        }
        self.local.metrics().subscriptions.add(1);
        Ok(subscribed)
    }

    /// Finds out what the client missed, and from where it must not miss anything.
    pub(super) fn catch_up(
        &self,
        now: Now,
        channel: &Channel,
        namespace: &Namespace,
        recover: Option<&Position>,
    ) -> Result<Subscribed, ReplyError> {
        let Local { backplane, config, hub, .. } = &*self.local;
        let publications_max = config.client.history_publications_max;
        let Recovery { missed, top } = match recover {
            Some(since) => {
                backplane.recover(channel, since, publications_max, retention(namespace), now.at)?
            }
            None => {
                let query = HistoryQuery::default();
                let page = backplane.history(channel, &query, 0, retention(namespace), now.at)?;
                Recovery { missed: None, top: page.top }
            }
        };
        hub.borrow_mut().set_position(channel, self.peer.number, top.offset, top.epoch.clone());
        let recovered = recover.map(|_| missed.is_some());
        let missed = missed.map(|missed| self.views(now, channel, missed)).unwrap_or_default();
        // A client that recovers advances by itself while it reads what it missed, if there is something it may see.
        let offset = match recover {
            Some(since) if !missed.is_empty() => since.offset,
            _ => top.offset,
        };
        Ok(Subscribed {
            recoverable: true,
            positioned: true,
            epoch: top.epoch,
            offset,
            publications: missed,
            recovered,
            data: Bytes::new(),
        })
    }

    /// Adds a subscription to the hub, and announces the first one of this worker.
    pub(super) fn listen(&self, channel: &Channel, listening: Listening) -> Result<(), ReplyError> {
        let first = self.local.hub.borrow_mut().subscribe(channel, &self.peer, listening);
        if first && let Err(error) = self.local.backplane.announce(self.local.worker, channel) {
            self.local.hub.borrow_mut().unsubscribe(channel, self.peer.number);
            return Err(error);
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&self, channel: &Channel) {
        self.unlisten(channel);
        self.local.metrics().subscriptions.add(-1);
        if let Ok(namespace) = self.local.namespace(channel)
            && (namespace.presence || namespace.join_leave)
        {
            let keep = namespace.presence;
            self.local.backplane.leave(channel, &self.member, keep, namespace.join_leave);
        }
    }

    /// Undoes [`Session::listen`]. What is addressed to the client's user goes on to reach it.
    pub(super) fn unlisten(&self, channel: &Channel) {
        let Local { backplane, hub, worker, .. } = &*self.local;
        if self.user_channel.as_ref() == Some(channel) && !self.core.is_closed() {
            hub.borrow_mut().subscribe(channel, &self.peer, self.direct());
        } else if hub.borrow_mut().unsubscribe(channel, self.peer.number) {
            backplane.renounce(*worker, channel);
        }
    }

    /// How a connection listens to its user's address.
    pub(super) fn direct(&self) -> Listening {
        Listening { form: Form::Direct(self.peer.protocol), position: None, join_leave: false }
    }
}
