//! One connection with everything around it but the socket: applies what the core decides to the plugins, the hub and the
//! backplane, and feeds their answers back. Synchronous, so that a simulation runs the same code as the driver.

mod later;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::core::Core;
use super::effect::{Ask, Effect};
use super::event::{Event, Now};
use super::local::Local;
use super::views::view;
use crate::backplane::{Asked, Asker, Page, Recovery, Retention, memory};
use crate::config::Namespace;
use crate::explain::Picked;
use crate::hub::peer::{Peer, Signal};
use crate::hub::{Listening, SharedClient};
use crate::outbound::Pushed;
use crate::plugin::chain::{Judged, Judging};
use crate::plugin::elsewhere::{Answered, Answering};
use crate::plugin::event::{Client, Goodbye, Hello, Message};
use crate::plugin::state::Meters;
use crate::plugin::trace::Trace;
use crate::plugin::verdict::{Decision, Effect as PluginEffect, Identity};
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::{Close, ReplyError};
use crate::protocol::codec::{self, Inbound};
use crate::protocol::command::{HistoryQuery, Position};
use crate::protocol::frame;
use crate::protocol::push::{Form, Member, Publication};
use crate::protocol::reply::{Reply, Subscribed};
use crate::telemetry::metrics::{CloseCause, DecisionOutcome};
use crate::upstream;
use later::{About, Questions};

/// Names and values that plugins may keep on one connection, in bytes.
const ATTRIBUTES_BYTES_MAX: usize = 16 * 1024;

/// Sets an attribute; an empty value removes it. False if there is no room.
fn set_attribute(attributes: &mut BTreeMap<Box<str>, Box<str>>, name: Box<str>, value: Box<str>) -> bool {
    if value.is_empty() {
        attributes.remove(&name);
        return true;
    }
    let others = attributes.iter().filter(|(other, _)| **other != name);
    let bytes: usize = others.map(|(name, value)| name.len() + value.len()).sum();
    let fits = bytes + name.len() + value.len() <= ATTRIBUTES_BYTES_MAX;
    if fits {
        attributes.insert(name, value);
    }
    fits
}

/// A message to the connection itself. Effects come after the reply, so it does too.
fn explanation(connection: &str, trace: &Trace) -> Option<PluginEffect> {
    let payload = format!("{{\"explain\":{}}}", trace.to_json()).into();
    Some(PluginEffect::Publish { address: Channel::parse(&format!("@{connection}")).ok()?, payload })
}

/// How much of a channel its namespace keeps.
pub fn retention(namespace: &Namespace) -> Retention {
    Retention { size: namespace.history_size, ttl: namespace.history_ttl }
}

/// See the module.
pub struct Session {
    local: Rc<Local>,
    core: Core,
    peer: Rc<Peer>,
    /// Shared with the hub, which tells clients apart by their attributes.
    client: SharedClient,
    member: Arc<Member>,
    /// Since when the client is admitted.
    admitted: Option<Duration>,
    /// The address of the client's user.
    user_channel: Option<Channel>,
    /// What plugins asked for beside their answer: done when everything the answer caused is done.
    plugin_effects: Vec<PluginEffect>,
    /// What the client has used of rate limits that are its own.
    meters: Meters,
    /// What the backplane was asked and has not answered yet.
    questions: Option<Box<Questions>>,
    /// A plugin was asked elsewhere whether to admit or to refresh the client.
    waiting: Option<Box<Waiting>>,
}

/// A client on its way through the chain, which has stopped at a plugin that waits.
struct Waiting {
    judging: Judging,
    /// Which command it was.
    id: u32,
    refresh: bool,
    credential: bool,
    /// The plugin's answer on its way, until somebody takes it over to wait for it.
    question: Option<Answering>,
}

impl Session {
    /// A client whose transport has just opened. `spread` is random and places the first ping.
    pub fn new(local: Rc<Local>, peer: Rc<Peer>, client: Client, now: Now, spread: u32) -> Self {
        let core = Core::new(local.config.clone(), peer.protocol, peer.id.clone(), now, spread);
        let member = Arc::new(Member { client: peer.id.clone(), user: Arc::default(), info: Bytes::new() });
        Self {
            local,
            core,
            peer,
            client: Rc::new(RefCell::new(Arc::new(client))),
            member,
            admitted: None,
            user_channel: None,
            plugin_effects: Vec::new(),
            meters: Meters::default(),
            questions: None,
            waiting: None,
        }
    }

    /// The connection as the worker sees it.
    pub fn peer(&self) -> &Rc<Peer> {
        &self.peer
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    /// When to send [`Event::Tick`].
    pub fn deadline(&self) -> Option<Duration> {
        self.core.deadline()
    }

    /// Whether a client is admitted.
    pub fn is_admitted(&self) -> bool {
        self.admitted.is_some()
    }

    /// Whether nothing more of the client may be read until [`Session::answered`] or [`Session::backplane_answered`]: it
    /// waits to be admitted, or for many answers of the backplane.
    pub fn is_suspended(&self) -> bool {
        self.core.is_admitting() || self.questions.as_ref().is_some_and(|questions| questions.are_many())
    }

    /// What to wait for, once for each question. Its output goes to [`Session::answered`]; when the session is closed
    /// before, nobody wants to know any more.
    pub fn take_question(&mut self) -> Option<Answering> {
        self.waiting.as_mut()?.question.take()
    }

    /// The plugin that was asked elsewhere has answered. Ignored if the session is over.
    pub fn answered(&mut self, now: Now, answered: Answered) {
        let Some(mut waiting) = self.waiting.take() else { return };
        let judged = self.local.chain.borrow_mut().judge_on(now.unix, &mut waiting.judging, answered);
        if let Some(event) = self.judged(waiting, judged) {
            self.event(now, event);
        }
        self.resume(now);
    }

    /// Goes on after the plugins have judged, or remembers that one of them is asked elsewhere.
    fn judged(&mut self, mut waiting: Box<Waiting>, judged: Judged) -> Option<Event> {
        match judged {
            Judged::Done(admission) => {
                let Waiting { mut judging, id, refresh, credential, .. } = *waiting;
                self.plugin_effects.append(&mut judging.effects);
                Some(Event::Judged { id, refresh, admission, credential })
            }
            Judged::Waits(question) => {
                waiting.question = Some(question);
                self.waiting = Some(waiting);
                None
            }
        }
    }

    /// Takes one message of the client: runs each of its commands through the chain, one after the other.
    pub fn message(&mut self, now: Now, inbound: Inbound) {
        let metrics = self.local.metrics();
        metrics.messages_in.inc();
        metrics.bytes_in.add(inbound.data.len() as u64);
        let commands_max = self.local.config.limits.commands_per_message_max;
        let decoded = codec::decode(self.peer.protocol, inbound, commands_max, |command| {
            self.take_command(now, command);
            if self.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Err(malformed) = decoded {
            self.event(now, Event::Malformed(malformed));
        }
    }

    /// Takes one event and everything that follows from it.
    pub fn event(&mut self, now: Now, event: Event) {
        let mut effects = self.local.take_effects();
        self.core.on(now, event, &mut effects);
        loop {
            let event = if let Some(effect) = effects.pop_front() {
                self.apply(now, effect)
            } else if self.plugin_effects.is_empty() {
                break;
            } else {
                let effect = self.plugin_effects.remove(0);
                self.apply_plugin_effect(now, effect)
            };
            if let Some(event) = event {
                self.core.on(now, event, &mut effects);
            }
        }
        self.local.return_effects(effects);
        self.release();
    }

    /// Takes what the rest of the worker has to say.
    pub fn signal(&mut self, now: Now, signal: Signal) {
        match &signal {
            Signal::Slow => self.local.metrics().outbound_overflow(&self.peer.id),
            Signal::Gap(channel) => self.local.metrics().position_gap(&self.peer.id, channel.as_str()),
            Signal::Close(..) | Signal::Subscribe(_) | Signal::Unsubscribe(_) | Signal::SocketFailed => (),
        }
        self.event(now, Event::Signal(signal));
    }

    /// Counts what was written since the last time.
    pub fn count_written(&self) {
        self.local.metrics().bytes_out.add(self.peer.outbound.take_uncounted());
    }

    fn apply(&mut self, now: Now, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Reply(reply) => {
                self.reply(&reply);
                None
            }
            Effect::Judge { id, refresh, token, data } => {
                if self.waiting.is_some() {
                    // A second refresh before the first was answered.
                    return Some(Event::Answered { id, result: Err(ReplyError::TOO_MANY_REQUESTS) });
                }
                let credential = !token.is_empty();
                let client = self.client.borrow().clone();
                let hello = Hello { client, token, data, now: now.unix, at: now.at_millis() };
                // Whoever is cut off at the deadline of the handshake would not hear why.
                let patience = self.local.config.handshake.deadline * 3 / 4;
                let judging = Judging::new(hello, patience);
                let mut waiting = Box::new(Waiting { judging, id, refresh, credential, question: None });
                let judged = self.local.chain.borrow_mut().judge(&mut waiting.judging);
                self.judged(waiting, judged)
            }
            Effect::Admit(identity) => {
                self.admit(now, *identity);
                None
            }
            Effect::SetAttributes(attributes) => {
                attributes.into_iter().for_each(|(name, value)| self.set_attribute(name, value));
                None
            }
            Effect::Ask(ask) => Some(self.ask(now, ask)),
            Effect::Subscribe { channel, by, recover, join_leave } => {
                let made = self.subscribe(now, &channel, recover.as_ref(), join_leave);
                let about = || About::Subscribe { channel: channel.clone(), by, recover };
                let result = self.now_or_later(made, about)?;
                Some(Event::Subscribed { channel, by, result })
            }
            Effect::Unsubscribe(channel) => {
                self.unsubscribe(&channel);
                None
            }
            Effect::Publish { id, targets, payload, reply } => {
                self.publish(now, id, &targets, &payload, reply)
            }
            Effect::Presence { id, channel, stats } => {
                let members = self.presence(&channel);
                let members = self.now_or_later(members, || About::Presence { id, stats })?;
                Some(Event::Answered { id, result: members.map(|members| present(id, members, stats)) })
            }
            Effect::History { id, channel, query } => {
                let page = self.history(now, &channel, &query);
                let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
                let about = || About::History { id, channel: channel.clone(), limit };
                let page = self.now_or_later(page, about)?;
                let result = page.map(|page| self.page(now, id, &channel, limit, page));
                Some(Event::Answered { id, result })
            }
            Effect::End { close, cause, tell, discard } => {
                self.end(now, &close, cause, tell, discard);
                None
            }
        }
    }

    fn apply_plugin_effect(&mut self, now: Now, effect: PluginEffect) -> Option<Event> {
        match effect {
            PluginEffect::Subscribe(channel) => Some(Event::PluginSubscribes(channel)),
            PluginEffect::Unsubscribe(channel) => Some(Event::PluginUnsubscribes(channel)),
            PluginEffect::Disconnect(refusal) => Some(Event::PluginDisconnects(refusal)),
            PluginEffect::Emit { upstream, plugin, payload } => {
                let origin = upstream::Origin {
                    plugin,
                    connection: self.peer.id.clone(),
                    user: self.client.borrow().user.clone(),
                };
                self.local.upstreams.put(&upstream, origin, payload, now.unix);
                None
            }
            PluginEffect::SetAttribute { name, value } => {
                self.set_attribute(name, value);
                None
            }
            effect @ (PluginEffect::Publish { .. } | PluginEffect::Reach { .. }) => {
                self.local.carry_out(now, effect, self.peer.protocol.is_json());
                None
            }
        }
    }

    fn reply(&self, reply: &Reply) {
        let pushed = self.local.with_scratch(|scratch| {
            let range = codec::encode_reply(self.peer.protocol, reply, scratch)?;
            Some(self.peer.outbound.reply(&scratch[range]))
        });
        match pushed {
            Some(Pushed::Sent) => self.local.metrics().messages_out.inc(),
            Some(Pushed::Full) => self.peer.signal(Signal::Slow),
            Some(Pushed::Closed) | None => (),
        }
    }

    fn ask(&mut self, now: Now, mut ask: Ask) -> Event {
        let metrics = self.local.metrics();
        metrics.command(ask.kind);
        let mut chain = self.local.chain.borrow_mut();
        let payload = std::mem::take(&mut ask.payload);
        let explain = &self.local.explain;
        let picked = if explain.is_on() { explain.pick(now.at, &self.client.borrow()) } else { None };
        let decision = if picked.is_some() || chain.wants(ask.kind) {
            let mut message = Message {
                client: self.client.borrow().clone(),
                kind: ask.kind,
                channel: ask.channel.clone(),
                method: ask.method.clone(),
                payload,
                binary: ask.binary,
                token: std::mem::take(&mut ask.token),
                now: now.unix,
                at: now.at_millis(),
                meters: std::mem::take(&mut self.meters),
            };
            let decision = match picked {
                None => chain.on_message(&mut message, &mut self.plugin_effects),
                Some(Picked { reply }) => {
                    let (decision, trace) =
                        chain.on_message_traced(&mut message, &mut self.plugin_effects, explain.clock());
                    if reply {
                        self.plugin_effects.extend(explanation(&self.peer.id, &trace));
                    }
                    explain.keep(Arc::new(trace));
                    decision
                }
            };
            self.meters = message.meters;
            decision
        } else {
            Decision::Undecided(payload)
        };
        metrics.decision(match &decision {
            Decision::Undecided(_) => DecisionOutcome::Undecided,
            Decision::Allowed(_) => DecisionOutcome::Allowed,
            Decision::Denied(_) => DecisionOutcome::Denied,
            Decision::Dropped => DecisionOutcome::Dropped,
            Decision::Disconnect(_) => DecisionOutcome::Disconnected,
            Decision::Reply(_) => DecisionOutcome::Replied,
            Decision::Route { .. } => DecisionOutcome::Routed,
            Decision::Failed => DecisionOutcome::Failed,
        });
        Event::Decided { ask, decision }
    }

    fn set_attribute(&self, name: Box<str>, value: Box<str>) {
        let changed = name.clone();
        let mut client = self.client.borrow_mut();
        let set = set_attribute(&mut Arc::make_mut(&mut client).attributes, name, value);
        drop(client);
        if set {
            self.local.hub.borrow_mut().attribute_changed(self.peer.number, &changed);
        } else {
            tracing::warn!(
                connection = &*self.peer.id,
                "an attribute was not set: the connection has {ATTRIBUTES_BYTES_MAX} bytes of them"
            );
        }
    }

    fn admit(&mut self, now: Now, identity: Identity) {
        self.admitted = Some(now.at);
        let user: Arc<str> = identity.user.into();
        let mut shared = self.client.borrow_mut();
        let client = Arc::make_mut(&mut shared);
        client.user = user.clone();
        for (name, value) in identity.attributes {
            set_attribute(&mut client.attributes, name, value);
        }
        drop(shared);
        self.member = Arc::new(Member { client: self.peer.id.clone(), user, info: identity.info });
        self.local.hub.borrow_mut().admit(self.peer.clone(), self.client.clone());
        self.user_channel = Channel::of_user(&self.member.user);
        if let Some(channel) = &self.user_channel {
            // A node that is full of channels still serves the user's other subscriptions.
            let _ = self.listen(channel, self.direct(), Asker::Nobody);
        }
    }

    /// Adds a subscription to the hub and announces it, if it is the first of this worker.
    fn listen(&self, channel: &Channel, listening: Listening, asker: Asker) -> Asked<()> {
        let Local { backplane, hub, worker, .. } = &*self.local;
        let first = hub.borrow_mut().subscribe(channel, &self.peer, listening);
        if !first && !backplane.answers_later() {
            return Asked::Now(Ok(()));
        }
        let announced = backplane.announce(*worker, channel, asker);
        if matches!(announced, Asked::Now(Err(_))) {
            hub.borrow_mut().unsubscribe(channel, self.peer.number);
        }
        announced
    }

    fn subscribe(
        &self,
        now: Now,
        channel: &Channel,
        recover: Option<&Position>,
        join_leave: Option<bool>,
    ) -> Asked<Subscribed> {
        if matches!(channel.target(), Target::Connection(_)) {
            let error = ReplyError::BAD_REQUEST.because("a connection is an address, not a channel");
            return Asked::Now(Err(error));
        }
        let namespace = match self.local.namespace(channel) {
            Ok(namespace) => namespace,
            Err(error) => return Asked::Now(Err(error)),
        };
        let Local { backplane, config, hub, .. } = &*self.local;
        let join_leave = namespace.join_leave && join_leave.unwrap_or(true);
        let listening = Listening { form: Form::Channel(self.peer.protocol), position: None, join_leave };
        // Listening begins before history is read: what is published in between arrives twice and is known by its offset.
        let asked = if namespace.recovery {
            match self.listen(channel, listening, Asker::Nobody) {
                Asked::Now(Err(error)) => Asked::Now(Err(error)),
                Asked::Now(Ok(())) | Asked::Later => {
                    let publications_max = config.client.history_publications_max;
                    let retention = retention(namespace);
                    backplane.recover(channel, recover, publications_max, retention, self.asker(), now.at)
                }
            }
        } else {
            match self.listen(channel, listening, self.asker()) {
                Asked::Now(result) => Asked::Now(result.map(|()| Recovery::default())),
                Asked::Later => Asked::Later,
            }
        };
        match asked {
            Asked::Now(recovery) => {
                Asked::Now(self.subscribed(now, channel, recover, recovery).map(|(subscribed, place)| {
                    if let Some((offset, epoch)) = place {
                        hub.borrow_mut().set_position(channel, self.peer.number, offset, epoch);
                    }
                    subscribed
                }))
            }
            Asked::Later => {
                hub.borrow_mut().hold(channel, self.peer.number);
                Asked::Later
            }
        }
    }

    /// Completes a subscription, or undoes it. Also tells from where the client must not miss anything.
    fn subscribed(
        &self,
        now: Now,
        channel: &Channel,
        recover: Option<&Position>,
        recovery: Result<Recovery, ReplyError>,
    ) -> Result<(Subscribed, Option<later::Place>), ReplyError> {
        let namespace = self.local.namespace(channel)?;
        let recovery = recovery.inspect_err(|_| self.unlisten(channel))?;
        if namespace.presence || namespace.join_leave {
            self.local.backplane.enter(channel, &self.member, namespace.presence, namespace.join_leave);
        }
        self.local.metrics().subscriptions.add(1);
        if !namespace.recovery {
            return Ok((Subscribed::default(), None));
        }
        let Recovery { missed, top } = recovery;
        let recovered = recover.map(|_| missed.is_some());
        let missed = missed.map(|missed| self.views(now, channel, missed)).unwrap_or_default();
        // A client that recovers advances by itself while it reads what it missed, if there is something it may see.
        let offset = match recover {
            Some(since) if !missed.is_empty() => since.offset,
            _ => top.offset,
        };
        let subscribed = Subscribed {
            recoverable: true,
            positioned: true,
            epoch: top.epoch.clone(),
            offset,
            publications: missed,
            recovered,
            data: Bytes::new(),
        };
        Ok((subscribed, Some((top.offset, top.epoch))))
    }

    /// What this client is to see of publications that it did not receive when they were published.
    fn views(
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

    /// Undoes [`Session::listen`]. What is addressed to the client's user goes on to reach it.
    fn unlisten(&self, channel: &Channel) {
        let Local { backplane, hub, worker, .. } = &*self.local;
        if self.user_channel.as_ref() == Some(channel) && !self.core.is_closed() {
            hub.borrow_mut().subscribe(channel, &self.peer, self.direct());
        } else if hub.borrow_mut().unsubscribe(channel, self.peer.number) {
            backplane.renounce(*worker, channel);
        }
    }

    /// How a connection listens to its user's address.
    fn direct(&self) -> Listening {
        Listening { form: Form::Direct(self.peer.protocol), position: None, join_leave: false }
    }

    fn unsubscribe(&mut self, channel: &Channel) {
        let making = self.give_up_subscribing(channel);
        self.unlisten(channel);
        if making {
            return;
        }
        self.local.metrics().subscriptions.add(-1);
        if let Ok(namespace) = self.local.namespace(channel)
            && (namespace.presence || namespace.join_leave)
        {
            let keep = namespace.presence;
            self.local.backplane.leave(channel, &self.member, keep, namespace.join_leave);
        }
    }

    fn publish(
        &mut self,
        now: Now,
        id: u32,
        targets: &[Channel],
        payload: &Bytes,
        reply: Option<Reply>,
    ) -> Option<Event> {
        let json = self.peer.protocol.is_json();
        let (mut left, mut failed) = (0, None);
        for target in targets {
            let info = Some(self.member.clone());
            match self.local.publish(now, target, payload.clone(), json, info, self.asker()) {
                Asked::Now(Ok(_)) => (),
                Asked::Now(Err(error)) => {
                    failed = Some(error);
                    break;
                }
                Asked::Later => left += 1,
            }
        }
        if left > 0 {
            self.remember(About::Publish { id, reply, left, failed });
            return None;
        }
        let result = failed.map_or_else(|| reply.map(Ok), |error| Some(Err(error)));
        result.map(|result| Event::Answered { id, result })
    }

    fn presence(&self, channel: &Channel) -> Asked<Vec<Arc<Member>>> {
        match self.local.namespace(channel) {
            Ok(namespace) if namespace.presence => self.local.backplane.presence(channel, self.asker()),
            Ok(_) => Asked::Now(Err(ReplyError::NOT_AVAILABLE)),
            Err(error) => Asked::Now(Err(error)),
        }
    }

    fn history(&self, now: Now, channel: &Channel, query: &HistoryQuery) -> Asked<Page> {
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
    fn page(&self, now: Now, id: u32, channel: &Channel, limit: usize, page: Page) -> Reply {
        let mut publications = self.views(now, channel, page.publications);
        publications.truncate(limit);
        Reply::History { id, publications, offset: page.top.offset, epoch: page.top.epoch }
    }

    fn end(&mut self, now: Now, close: &Close, cause: CloseCause, tell: bool, discard: bool) {
        if tell {
            self.peer.outbound.close(frame::close(close), discard);
        }
        self.local.metrics().closed(cause, close, &self.peer.id);
        self.waiting = None;
        self.questions = None;
        let Some(admitted) = self.admitted else { return };
        if let Some(channel) = self.user_channel.take()
            && self.local.hub.borrow_mut().unsubscribe(&channel, self.peer.number)
        {
            self.local.backplane.renounce(self.local.worker, &channel);
        }
        self.local.hub.borrow_mut().forget(self.peer.number);
        let goodbye = Goodbye {
            client: self.client.borrow().clone(),
            code: close.code,
            reason: close.reason.clone().into(),
            duration: now.at.saturating_sub(admitted).as_millis() as u64,
            now: now.unix,
            at: now.at_millis(),
        };
        self.local.chain.borrow_mut().on_disconnect(&goodbye, &mut self.plugin_effects);
    }
}

/// The reply to a question about presence.
fn present(id: u32, members: Vec<Arc<Member>>, stats: bool) -> Reply {
    if stats {
        Reply::PresenceStats { id, clients: members.len(), users: memory::count_users(&members) }
    } else {
        Reply::Presence { id, members }
    }
}

#[cfg(test)]
mod tests;
