//! Subscribes a connection to a channel, recovers missed publications, and unsubscribes it.

use std::sync::Arc;

use super::Session;
use crate::backplane::{Most, Outcome, RecoverRequest, Recovery, ReplyTo, Retention};
use crate::clock::Now;
use crate::connection::core::NO_PATTERNS;
use crate::connection::worker_state::WorkerState;
use crate::hub::Listening;
use crate::outbound::Pushed;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::{ReplyError, Unsubscribe};
use crate::protocol::command::Position;
use crate::protocol::filter::TagFilter;
use crate::protocol::push::{Form, Publication, Push, PushKind};
use crate::protocol::reply::Subscribed;

/// Bytes of one channel in a connect reply, besides its recovered publications.
const SUBSCRIBED_BYTES: usize = 512;

const TOO_MANY_PATTERNS: &str = "the gateway has as many patterns as it may (`memory.patterns_max`)";

impl Session {
    /// Adds a subscription to the hub, and interest in the channel to the backplane if it is the first of
    /// this worker.
    pub(super) fn listen(&self, channel: &Channel, listening: Listening, reply_to: ReplyTo) -> Outcome<()> {
        let WorkerState { backplane, hub, worker, .. } = &*self.worker;
        let first = hub.borrow_mut().subscribe(channel, &self.handle, listening);
        if !first && !backplane.answers_later() {
            return Outcome::Ready(Ok(()));
        }
        // The backplane knows of patterns that there are some in the namespace.
        let feed = pattern_feed(channel);
        let announced = backplane.add_interest(*worker, feed.as_ref().unwrap_or(channel), reply_to);
        if matches!(announced, Outcome::Ready(Err(_))) {
            hub.borrow_mut().unsubscribe(channel, self.handle.number);
        }
        announced
    }

    pub(super) fn subscribe(
        &self,
        now: Now,
        channel: &Channel,
        recover: Option<&Position>,
        join_leave: Option<bool>,
        filter: Option<Arc<TagFilter>>,
        delta: bool,
    ) -> Outcome<Subscribed> {
        if matches!(channel.target(), Target::Connection(_)) {
            let error = ReplyError::BAD_REQUEST.because("a connection is an address, not a channel");
            return Outcome::Ready(Err(error));
        }
        let namespace = match self.worker.namespace(channel) {
            Ok(namespace) => namespace,
            Err(error) => return Outcome::Ready(Err(error)),
        };
        let WorkerState { backplane, config, hub, .. } = &*self.worker;
        if let Err(error) = self.core.admits_to(namespace) {
            return Outcome::Ready(Err(error));
        }
        if channel.is_pattern() && !namespace.wildcards {
            return Outcome::Ready(Err(ReplyError::BAD_REQUEST.because(NO_PATTERNS)));
        }
        if !hub.borrow().has_room_for(channel, config.memory.patterns_max) {
            return Outcome::Ready(Err(ReplyError::LIMIT_EXCEEDED.because(TOO_MANY_PATTERNS)));
        }
        let rules = self.rules_in(namespace, channel);
        let join_leave = namespace.join_leave && !channel.is_pattern() && join_leave.unwrap_or(true);
        let format = self.handle.format;
        let form = if delta { Form::channel_with_deltas(format) } else { Form::channel(format) };
        let listening = Listening { form, position: None, join_leave, filter, delta };
        // The subscription starts before history is read: a publication in between arrives twice and is
        // recognized by its offset.
        let asked = if rules.positioned {
            match self.listen(channel, listening, ReplyTo::Nobody) {
                Outcome::Ready(Err(error)) => Outcome::Ready(Err(error)),
                Outcome::Ready(Ok(())) | Outcome::Pending => {
                    let since = recover.filter(|_| rules.recoverable);
                    let (latest, retention) = (rules.latest, Retention::of(namespace));
                    let most = self.most_recovered(channel, latest);
                    let request = RecoverRequest { channel, since, latest, most, retention };
                    backplane.recover(request, self.reply_to(), now.at)
                }
            }
        } else {
            match self.listen(channel, listening, self.reply_to()) {
                Outcome::Ready(result) => Outcome::Ready(result.map(|()| Recovery::default())),
                Outcome::Pending => Outcome::Pending,
            }
        };
        match asked {
            Outcome::Ready(recovery) => Outcome::Ready(self.subscribed(now, channel, recover, recovery).map(
                |(subscribed, position)| {
                    if let Some(position) = position {
                        hub.borrow_mut().set_position(channel, self.handle.number, position);
                    }
                    subscribed
                },
            )),
            Outcome::Pending => {
                hub.borrow_mut().hold(channel, self.handle.number);
                Outcome::Pending
            }
        }
    }

    /// Limits of what a client recovers in a channel. Where plugins or a filter may hide the latest
    /// publication, one before it takes its place.
    fn most_recovered(&self, channel: &Channel, latest: bool) -> Most {
        let publications = match latest && !self.hides(channel) {
            true => 1,
            false => self.worker.config.client.history_publications_max,
        };
        let bytes = self.recovery_room().saturating_sub(self.data_in(channel).len());
        Most { publications, bytes }
    }

    /// Completes a subscription or undoes it. Also sets the position from which the client must miss nothing.
    pub(super) fn subscribed(
        &self,
        now: Now,
        channel: &Channel,
        recover: Option<&Position>,
        recovery: Result<Recovery, ReplyError>,
    ) -> Result<(Subscribed, Option<Position>), ReplyError> {
        let namespace = self.worker.namespace(channel)?;
        let recovery = recovery.inspect_err(|_| self.unlisten(channel))?;
        let rules = self.rules_in(namespace, channel);
        if rules.presence || rules.join_leave {
            let member = self.member_in(channel);
            self.worker.backplane.presence_add(channel, member, rules.presence, rules.join_leave);
        }
        self.worker.metrics().subscriptions.add(1);
        self.worker.events.subscribed(&self.client.borrow(), channel, now);
        self.worker.told();
        let delta = self.worker.hub.borrow().makes_deltas(channel, self.handle.number);
        let data = self.data_in(channel);
        if !rules.positioned {
            return Ok((Subscribed { data, delta, ..Subscribed::default() }, None));
        }
        let recover = recover.filter(|_| rules.recoverable);
        let Recovery { missed, top } = recovery;
        let missed = match missed {
            Some(missed) if rules.latest && !missed.is_empty() => {
                let seen = self.first_view(now, channel, missed);
                // What comes after it may be hidden from this client: it has it already then.
                let is_known = |of: &Arc<Publication>| {
                    recover.is_some_and(|since| since.epoch == top.epoch && of.offset <= since.offset)
                };
                match seen.first() {
                    Some(first) if is_known(first) => Some(Vec::new()),
                    Some(_) => Some(seen),
                    None => None,
                }
            }
            missed => missed.map(|missed| self.views(now, channel, missed)),
        };
        let encoding = self.handle.format.encoding;
        let bytes_of = |one: &Publication| if delta { one.bytes_as_base(encoding) } else { one.bytes() };
        let bytes = |missed: &Vec<Arc<Publication>>| missed.iter().map(|one| bytes_of(one)).sum::<usize>();
        // Other replies may have taken the room meanwhile, and plugins may have enlarged the publications.
        let missed = missed.filter(|missed| bytes(missed) + data.len() <= self.recovery_room());
        let recovered = recover.map(|_| missed.is_some());
        let missed = missed.unwrap_or_default();
        if self.core.is_admitting() {
            self.recovered.set(self.recovered.get() + bytes(&missed) + SUBSCRIBED_BYTES);
        }
        // A recovering client starts at its old offset and advances with each recovered publication it sees.
        let offset = match recover {
            Some(since) if !missed.is_empty() => since.offset,
            _ => top.offset,
        };
        let subscribed = Subscribed {
            // The core knows.
            ttl: None,
            recoverable: rules.recoverable,
            positioned: true,
            epoch: top.epoch.clone(),
            offset,
            publications: missed,
            recovered,
            data,
            delta,
        };
        Ok((subscribed, Some(top)))
    }

    pub(super) fn unsubscribe(&mut self, now: Now, channel: &Channel, why: &Unsubscribe) {
        let making = self.take_back(channel) || self.give_up_subscribing(channel);
        self.unlisten(channel);
        if making {
            return self.forget_chosen(channel);
        }
        self.worker.metrics().subscriptions.add(-1);
        self.worker.events.unsubscribed(&self.client.borrow(), channel, why, now);
        self.worker.told();
        if let Ok(namespace) = self.worker.namespace(channel) {
            let rules = self.rules_in(namespace, channel);
            if rules.presence || rules.join_leave {
                let member = self.member_in(channel);
                self.worker.backplane.presence_remove(channel, member, rules.presence, rules.join_leave);
            }
        }
        self.forget_chosen(channel);
    }

    /// Sends what a client has missed in a channel that the server subscribes it to. The notice of that has
    /// no field for publications, so each is a push of its own.
    pub(super) fn push_recovered(&self, channel: &Channel, result: &Subscribed) {
        for publication in &result.publications {
            let (publication, epoch) = (publication.clone(), result.epoch.clone());
            let push = Push::new(channel.clone(), PushKind::Publication { publication, epoch });
            let frame = push.frame(Form::channel(self.handle.format), &self.worker.frames);
            if !frame.is_empty() && matches!(self.handle.push(frame), Pushed::Sent) {
                self.worker.metrics().messages_out.inc();
            }
        }
        if !result.publications.is_empty() {
            self.worker.count_compressed();
        }
    }

    /// Undoes [`Session::listen`]. Messages to the client's user still reach it.
    pub(super) fn unlisten(&self, channel: &Channel) {
        let WorkerState { backplane, hub, worker, .. } = &*self.worker;
        if self.user_channel.as_ref() == Some(channel) && !self.core.is_closed() {
            hub.borrow_mut().subscribe(channel, &self.handle, self.direct());
        } else if hub.borrow_mut().unsubscribe(channel, self.handle.number) {
            let feed = pattern_feed(channel);
            backplane.remove_interest(*worker, feed.as_ref().unwrap_or(channel));
        }
    }

    /// The subscription of a connection to its user's address.
    pub(super) fn direct(&self) -> Listening {
        let form = Form::direct(self.handle.format);
        Listening { form, position: None, join_leave: false, filter: None, delta: false }
    }
}

/// The feed of the namespace, for a pattern.
fn pattern_feed(channel: &Channel) -> Option<Channel> {
    if channel.is_pattern() { channel.feed() } else { None }
}
