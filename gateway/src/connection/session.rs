//! One connection with everything around it but the socket: applies what the core decides to the plugins, the hub and the
//! backplane, and feeds their answers back. Synchronous, so that a simulation runs the same code as the driver.

mod admission;
mod asking;
mod attributes;
mod subscribing;
mod publishing;
mod reading;
mod later;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::admission::Waiting;
use self::later::{About, Questions};
use super::core::Core;
use super::effect::Effect;
use super::event::{Event, Now, Subscriber};
use super::local::Local;
use crate::hub::SharedClient;
use crate::hub::peer::{Peer, Signal};
use crate::outbound::Pushed;
use crate::plugin::event::{Client, Goodbye};
use crate::plugin::state::Meters;
use crate::plugin::verdict::Effect as PluginEffect;
use crate::protocol::channel::Channel;
use crate::protocol::code::{Close, ReplyError};
use crate::protocol::codec::{self, Inbound};
use crate::protocol::frame;
use crate::protocol::push::Member;
use crate::protocol::reply::{Reply, Subscribed};
use crate::telemetry::metrics::CloseCause;

/// See the module.
pub struct Session {
    local: Rc<Local>,
    core: Core,
    peer: Rc<Peer>,
    /// Shared with the hub, which tells clients apart by their attributes.
    client: SharedClient,
    member: Arc<Member>,
    /// Since when the client is admitted.
    admitted: Option<Now>,
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
            Signal::Subscribe(channel) => self.say_full(channel),
            Signal::Close(..) | Signal::Unsubscribe(_) | Signal::Refresh(_) | Signal::SocketFailed => (),
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
            Effect::Judge { id, refresh, token, data } => self.judge(now, id, refresh, token, data),
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
                self.say_refused(&channel, by, &result);
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
                let result = if stats {
                    let count = self.count(&channel);
                    let count = self.now_or_later(count, || About::Presence { id })?;
                    count.map(|count| reading::counted(id, count))
                } else {
                    let members = self.presence(&channel);
                    let members = self.now_or_later(members, || About::Presence { id })?;
                    members.map(|members| Reply::Presence { id, members })
                };
                Some(Event::Answered { id, result })
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
            PluginEffect::Subscribe(channel) => {
                self.say_full(&channel);
                Some(Event::PluginSubscribes(channel))
            }
            PluginEffect::Unsubscribe(channel) => Some(Event::PluginUnsubscribes(channel)),
            PluginEffect::Disconnect(refusal) => Some(Event::PluginDisconnects(refusal)),
            PluginEffect::Refresh(expires_at) => Some(Event::Signal(Signal::Refresh(expires_at))),
            PluginEffect::Emit { upstream, plugin, payload } => {
                self.local.emit(now, &upstream, plugin, payload, Some(&self.client.borrow()));
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

    /// Nobody hears of a subscription that a plugin or the API asked for and that failed, unless the log says it.
    fn say_refused(&self, channel: &Channel, by: Subscriber, result: &Result<Subscribed, ReplyError>) {
        if let (Subscriber::Plugin, Err(error)) = (by, result) {
            self.local.metrics().effect_refused("subscribe", channel.as_str(), &error.message);
        }
    }

    fn say_full(&self, channel: &Channel) {
        if !self.core.has_room_for(channel) {
            let why = "the connection has as many subscriptions as it may";
            self.local.metrics().effect_refused("subscribe", channel.as_str(), why);
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
            duration: now.at.saturating_sub(admitted.at).as_millis() as u64,
            now: now.unix,
            at: now.at_millis(),
        };
        self.local.part(now, &goodbye, &mut self.plugin_effects);
        // Not before: should the gateway die in between, another one tells its plugins.
        if self.local.registers_clients() {
            self.local.backplane.deregister(&goodbye.client);
        }
    }
}
