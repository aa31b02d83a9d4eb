//! Runs the chain for a client that connects or refreshes. The chain stops at a plugin that runs on the
//! asynchronous pool, and resumes with its verdict.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::attributes::set_attribute;
use crate::backplane::{ReplyTo, Why};
use crate::clock::Now;
use crate::connection::event::Event;
use crate::connection::turn::Turn;
use crate::connection::worker_state::token;
use crate::explain::Picked;
use crate::hub::signal::Signal;
use crate::plugin::async_pool::{AsyncVerdict, PendingVerdict};
use crate::plugin::chain::{Authenticated, Authentication};
use crate::plugin::event::ConnectEvent;
use crate::plugin::verdict::{Admission, Identity};
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::push::Member;
use crate::revocation::{Revoked, TOKEN_ID, TOKEN_ISSUED, Token};

/// A client whose chain has stopped at a plugin on the asynchronous pool.
pub(super) struct Waiting {
    authentication: Authentication,
    /// Id of the command.
    id: u32,
    refresh: bool,
    credential: bool,
    /// Set if the event is traced whoever the client turns out to be.
    picked: Option<Picked>,
    /// The pending verdict, until the driver takes it to wait for it.
    question: Option<PendingVerdict>,
}

impl Session {
    /// Runs the chain to admit or to refresh the client.
    pub(super) fn authenticate(
        &mut self,
        now: Now,
        id: u32,
        refresh: bool,
        token: Box<str>,
        data: Bytes,
    ) -> Option<Event> {
        if self.waiting.is_some() || self.is_refreshing() {
            // A second refresh before the first had a response.
            return Some(Event::Answered { id, result: Err(ReplyError::TOO_MANY_REQUESTS) });
        }
        let credential = !token.is_empty();
        let client = self.client.borrow().clone();
        let event = ConnectEvent { client, token, data, now: now.unix, at: now.at_millis() };
        // Less than the handshake deadline: at the deadline the client is cut off without a reason.
        let patience = self.worker.config.handshake.deadline * 3 / 4;
        let mut authentication = Authentication::new(event, patience);
        let explain = &self.worker.explain;
        let picked = if explain.is_on() { explain.pick(now.at, &self.client.borrow(), None) } else { None };
        if picked.is_some() || explain.is_on() && explain.watches(now.at) {
            authentication =
                authentication.explained(if refresh { "refresh" } else { "connect" }, explain.clock());
        }
        let mut waiting =
            Box::new(Waiting { authentication, id, refresh, credential, picked, question: None });
        let authenticated = self.worker.chain.borrow_mut().authenticate(&mut waiting.authentication);
        self.authenticated(now, waiting, authenticated)
    }

    /// Continues with the verdict of a plugin on the asynchronous pool. Ignored if the session is over.
    pub fn answered(&mut self, turn: &mut Turn, answered: AsyncVerdict) {
        let Some(mut waiting) = self.waiting.take() else { return };
        let now = turn.now();
        let authenticated = self.worker.chain.borrow_mut().authentication_answered(
            now.unix,
            &mut waiting.authentication,
            answered,
        );
        if let Some(event) = self.authenticated(now, waiting, authenticated) {
            self.event(now, event);
        }
        self.go_on(turn);
    }

    /// Continues after the chain: with its decision, or with a plugin to wait for.
    fn authenticated(
        &mut self,
        now: Now,
        mut waiting: Box<Waiting>,
        authenticated: Authenticated,
    ) -> Option<Event> {
        match authenticated {
            Authenticated::Done(admission) => {
                let Waiting { mut authentication, id, refresh, credential, picked, .. } = *waiting;
                let mut admission = admission;
                let asked = self.undecided(refresh, &admission, authentication.event());
                self.plugin_effects.append(&mut authentication.effects);
                if let Some(mut trace) = authentication.explanation(&admission) {
                    asked.into_iter().for_each(|upstream| trace.asks(upstream));
                    let explain = &self.worker.explain;
                    if trace.was_seen()
                        && (picked.is_some() || explain.is_tagged(now.at, authentication.client(), None))
                    {
                        let reply = picked.is_some_and(|picked| picked.reply);
                        self.explain(trace, reply);
                    }
                }
                if let Admission::Accepted(identity) = &mut admission
                    && let Some(revoked) = self.check_identity(now, identity, refresh)
                {
                    return Some(closes(revoked));
                }
                Some(Event::Authenticated { id, refresh, admission, credential })
            }
            Authenticated::Waits(question) => {
                waiting.question = Some(question);
                self.waiting = Some(waiting);
                None
            }
        }
    }

    /// Whether the client may come, or stay, with a new identity.
    fn check_identity(&mut self, now: Now, identity: &mut Identity, refresh: bool) -> Option<Revoked> {
        if refresh {
            // The token before counts no more, also if the new one does not say which it is.
            for name in [TOKEN_ID, TOKEN_ISSUED] {
                if !identity.attributes.iter().any(|(known, _)| **known == *name) {
                    identity.attributes.push((name.into(), Box::default()));
                }
            }
        }
        let revocations = &self.worker.revocations;
        self.checked = revocations.generation();
        let named = |name: &str| {
            let found = identity.attributes.iter().rev().find(|(known, _)| **known == *name);
            found.map(|(_, value)| &**value)
        };
        revocations.check(now.unix, &identity.user, Token::of(named))
    }

    /// Checks a user whom an upstream has just admitted. It was asked at this Unix time in seconds.
    pub(super) fn close_if_blocked(&mut self, now: Now, user: &str, asked: u64) -> Option<Event> {
        self.checked = self.worker.revocations.generation();
        let token = Token { id: "", issued: asked };
        self.worker.revocations.check(now.unix, user, token).map(closes)
    }

    /// Checks an admitted client if the revocations have changed. Returns the end of the connection if it
    /// may not stay.
    pub(super) fn close_if_changed(&mut self, now: Now) -> Option<Event> {
        if self.worker.revocations.generation() == self.checked {
            return None;
        }
        // A change that comes after this is not missed, but checked once more.
        self.checked = self.worker.revocations.generation();
        self.admitted?;
        let client = self.client.borrow();
        self.worker.revocations.check(now.unix, &client.user, token(&client)).map(closes)
    }

    /// The pending verdict to wait for, once for each plugin. Its output goes to [`Session::answered`]; after
    /// the end of the session it is dropped.
    pub fn take_question(&mut self) -> Option<PendingVerdict> {
        self.waiting.as_mut()?.question.take()
    }

    pub(super) fn admit(&mut self, now: Now, identity: Identity) {
        self.admitted = Some(now);
        let user: Arc<str> = identity.user.into();
        let mut shared = self.client.borrow_mut();
        let client = Arc::make_mut(&mut shared);
        client.user = user.clone();
        for (name, value) in identity.attributes {
            set_attribute(&mut client.attributes, name, value);
        }
        self.worker.events.connected(client, now);
        self.worker.told();
        drop(shared);
        let (client, channel_info) = (self.handle.id.clone(), Bytes::new());
        self.member = Arc::new(Member { client, user, info: identity.info, channel_info });
        self.worker.hub.borrow_mut().admit(self.handle.clone(), self.client.clone(), now.unix);
        self.register();
        self.user_channel = Channel::of_user(&self.member.user);
        if let Some(channel) = &self.user_channel {
            // If the node has no room for another channel, it still serves the user's other subscriptions.
            let _ = self.listen(channel, self.direct(), ReplyTo::Nobody);
        }
    }
}

/// The event that ends the connection of such a client.
fn closes(revoked: Revoked) -> Event {
    Event::Signal(Signal::Close(revoked.close(), Why::Api))
}

#[cfg(test)]
mod tests;
