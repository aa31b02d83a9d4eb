//! [`Session`]: one connection without its socket. It applies the effects of the core to the plugins, the hub
//! and the backplane, and feeds their results back to the core. It is synchronous, so that a simulation runs
//! the same code as the driver.

mod admission;
mod backend;
mod plugins;
mod attributes;
mod options;
mod subscribing;
mod publishing;
mod reading;
mod pending;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use self::admission::Waiting;
use self::backend::Backend;
use self::options::Chosen;
use self::pending::{Pending, PendingRequests};
use self::publishing::Publisher;
use super::core::Core;
use super::effect::Effect;
use super::event::{Ending, Event, Subscriber};
use super::turn::Turn;
use super::worker_state::WorkerState;
use crate::backplane::Outcome;
use crate::clock::Now;
use crate::config::CERTIFICATE_HEADERS;
use crate::histogram::Sizes;
use crate::hub::SharedClient;
use crate::hub::connection_handle::ConnectionHandle;
use crate::hub::signal::Signal;
use crate::outbound::Pushed;
use crate::plugin::event::{Client, DisconnectEvent};
use crate::plugin::state::Meters;
use crate::plugin::verdict::Effect as PluginEffect;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::{Close, ReplyError, Unsubscribe};
use crate::protocol::codec::{self, Commands, Inbound};
use crate::protocol::command::Command;
use crate::protocol::push::Member;
use crate::protocol::reply::{Reply, Subscribed};
use crate::telemetry::metrics::{CloseCause, ControlFrame};

/// A connection without its socket.
pub struct Session {
    worker: Rc<WorkerState>,
    core: Core,
    handle: Rc<ConnectionHandle>,
    /// Shared with the hub, which distinguishes clients by their attributes.
    client: SharedClient,
    member: Arc<Member>,
    /// When the client was admitted.
    admitted: Option<Now>,
    /// The address of the client's user.
    user_channel: Option<Channel>,
    /// Effects that plugins recorded: applied after all effects of their verdict.
    plugin_effects: Vec<PluginEffect>,
    /// The client's use of per-connection rate limits.
    meters: Meters,
    /// Requests to the backplane without a response.
    pending: Option<Box<PendingRequests>>,
    /// The chain waits for a plugin on the asynchronous pool to admit or refresh the client.
    waiting: Option<Box<Waiting>>,
    /// What upstreams are told of the client, if one is asked.
    backend: Option<Box<Backend>>,
    /// Commands of a message that did not fit into its turn. Later input has to wait for them.
    rest: Option<Box<Commands>>,
    /// Its end has been counted.
    counted: bool,
    /// The options of single subscriptions.
    chosen: Chosen,
    /// The client's publications, if there are any.
    publisher: Option<Box<Publisher>>,
    /// Bytes of recovered publications in the connect reply.
    recovered: Cell<usize>,
    /// The generation of the revocations for which the client was last checked.
    checked: u64,
}

impl Session {
    /// A client whose transport has just opened. `spread` is random and places the first ping.
    pub fn new(
        local: Rc<WorkerState>,
        handle: Rc<ConnectionHandle>,
        client: Client,
        now: Now,
        spread: u32,
    ) -> Self {
        let encoding = handle.format.encoding;
        let emulation = handle.emulation().filter(|_| encoding.has_replies()).cloned();
        let has_certificate = client.headers.iter().any(|(name, _)| name.starts_with(CERTIFICATE_HEADERS));
        let core = Core::new(local.config.clone(), encoding, handle.id.clone(), now, spread)
            .emulated(emulation)
            .with_certificate(has_certificate);
        let (info, channel_info) = (Bytes::new(), Bytes::new());
        let member = Arc::new(Member { client: handle.id.clone(), user: Arc::default(), info, channel_info });
        Self {
            worker: local,
            core,
            handle,
            client: Rc::new(RefCell::new(Arc::new(client))),
            member,
            admitted: None,
            user_channel: None,
            plugin_effects: Vec::new(),
            meters: Meters::default(),
            pending: None,
            waiting: None,
            backend: None,
            rest: None,
            counted: false,
            chosen: Chosen::default(),
            publisher: None,
            recovered: Cell::new(0),
            checked: 0,
        }
    }

    /// The handle that the worker uses.
    pub fn handle(&self) -> &Rc<ConnectionHandle> {
        &self.handle
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    /// When to send [`Event::Tick`].
    pub fn deadline(&self) -> Option<Duration> {
        self.core.deadline()
    }

    /// Whether that time has come.
    pub fn is_due(&self, now: Now) -> bool {
        self.core.is_due(now)
    }

    /// Whether the client is admitted.
    pub fn is_admitted(&self) -> bool {
        self.admitted.is_some()
    }

    /// Handles one message of the client: runs its commands through the chain, one after the other, as long
    /// as the turn has room and the client may continue. Must be called only when nothing [is
    /// left](Self::has_rest) of the previous message.
    pub fn message(&mut self, turn: &mut Turn, inbound: Inbound) {
        debug_assert!(self.rest.is_none(), "the message before is not finished");
        let metrics = self.worker.metrics();
        metrics.messages_in.inc();
        metrics.bytes_in.add(inbound.data.len() as u64);
        self.carry_out(turn, Commands::of(self.handle.format.encoding, inbound));
    }

    /// Runs a command, or holds it while a pending request has to come first.
    fn take_command(&mut self, now: Now, command: Command) {
        let ready = match &mut self.pending {
            Some(pending) => pending.hold(command),
            None => Some(command),
        };
        if let Some(command) = ready {
            self.run(now, command);
        }
    }

    /// Runs a command. The first one after a change of the revocations closes the connection if the client
    /// may not stay.
    fn run(&mut self, now: Now, command: Command) {
        let event = self.close_if_changed(now).unwrap_or(Event::Command(command));
        self.event(now, event);
    }

    /// Continues the work that a previous turn left: first a history that is still being read, then held
    /// commands that are no longer blocked, then the rest of a message.
    pub fn go_on(&mut self, turn: &mut Turn) {
        self.read_on(turn);
        self.resume(turn);
        if let Some(rest) = self.rest.take() {
            self.carry_out(turn, *rest);
        }
    }

    /// Whether [`Session::go_on`] has work now.
    pub fn has_more(&self) -> bool {
        !self.is_closed()
            && !self.is_backlogged()
            && (self.has_unread() || self.has_free() || self.rest.is_some() && !self.is_suspended())
    }

    /// Whether a message is unfinished. The next one has to wait for it.
    pub fn has_rest(&self) -> bool {
        self.rest.is_some()
    }

    /// Whether the client must first read its replies: until then none of its commands run.
    pub fn is_backlogged(&self) -> bool {
        self.handle.outbound.pending() > self.worker.config.limits.outbound_bytes_max / 2
    }

    fn carry_out(&mut self, turn: &mut Turn, mut commands: Commands) {
        let commands_max = self.worker.config.limits.commands_per_message_max;
        while !self.is_closed() && !commands.is_done() {
            if self.is_suspended() || self.is_backlogged() || !turn.has_room() {
                self.rest = Some(Box::new(commands));
                return;
            }
            let before = self.handle.outbound.pending();
            match commands.next(commands_max) {
                None => return,
                Some(Ok(command)) => self.take_command(turn.now(), command),
                Some(Err(malformed)) => return self.event(turn.now(), Event::Malformed(malformed)),
            }
            turn.spend(self.handle.outbound.pending().saturating_sub(before));
        }
    }

    /// Handles a control frame of the client.
    pub fn control_frame(&mut self, turn: &mut Turn, frame: ControlFrame) {
        self.worker.metrics().control_frame(frame);
        self.event(turn.now(), Event::Control(frame));
        turn.step();
    }

    /// Handles one event and all effects that follow.
    pub fn event(&mut self, now: Now, event: Event) {
        if matches!(event, Event::Tick) && self.is_held_back() {
            self.core.excuse_pong(now);
        }
        let mut effects = self.worker.take_effects();
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
        self.worker.return_effects(effects);
        self.release();
    }

    /// Handles a signal of the worker.
    pub fn signal(&mut self, now: Now, signal: Signal) {
        match &signal {
            Signal::Slow if self.handle.is_evicted() => (),
            Signal::Slow => self.worker.metrics().outbound_overflow(&self.handle.id),
            Signal::Gap(channel) => self.worker.metrics().position_gap(&self.handle.id, channel.as_str()),
            Signal::Subscribe(channel, _) => self.say_full(channel),
            Signal::Close(..)
            | Signal::Evicted
            | Signal::Unsubscribe(_)
            | Signal::Refresh(_)
            | Signal::Refused(_)
            | Signal::SocketFailed => (),
        }
        self.event(now, Event::Signal(signal));
    }

    /// Number of events that the connections of this worker have caused.
    pub fn told_count(&self) -> u64 {
        self.worker.told_count()
    }

    /// Resolves when all events so far are written; `None` if they are.
    pub fn events_written(&self) -> Option<oneshot::Receiver<()>> {
        if !self.worker.upstreams.has_unwritten() {
            return None;
        }
        let (sender, written) = oneshot::channel();
        self.worker.upstreams.when_written(sender);
        Some(written)
    }

    /// Ends the connection after a panic like any other end. The session may be in any state, and may panic
    /// again. Must be followed by [`purge`](Self::purge).
    pub fn abandon(&mut self, now: Now) {
        self.plugin_effects.clear();
        self.event(now, Event::TransportEnded { close: Close::INTERNAL, ending: Ending::Failure });
    }

    /// Removes the remaining state of an [abandoned](Self::abandon) connection from the hub and the
    /// backplane, however far the end came.
    pub fn purge(&mut self, now: Now) {
        let number = self.handle.number;
        self.user_channel = None;
        let left = self.worker.hub.borrow().channels_of(number);
        for channel in left {
            if matches!(channel.target(), Target::User(_)) {
                self.unlisten(&channel);
            } else {
                self.unsubscribe(now, &channel, &Unsubscribe::DISCONNECTED);
            }
        }
        self.worker.hub.borrow_mut().forget(number);
        if !self.counted {
            self.worker.metrics().closed(CloseCause::Other, &Close::INTERNAL, &self.handle.id);
            self.tell_disconnect(now, &Close::INTERNAL);
        }
        if self.admitted.is_some() && self.worker.registers_clients() {
            self.worker.backplane.deregister(&self.client.borrow());
        }
    }

    /// Counts the writes to the socket.
    pub fn writes(&self) -> &Sizes {
        &self.worker.metrics().writes
    }

    fn apply(&mut self, now: Now, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Reply(reply) => {
                self.reply(&reply);
                if let Reply::SubscribedByServer { channel, result } = &reply {
                    self.push_recovered(channel, result);
                }
                None
            }
            Effect::Authenticate { id, refresh, token, data } => {
                self.authenticate(now, id, refresh, token, data)
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
            Effect::AskUpstream { upstream, about } => self.ask_upstream(&upstream, about),
            Effect::Subscribe { channel, by, recover, join_leave, filter, delta, options } => {
                let made = match self.choose(&channel, options) {
                    Ok(()) => self.subscribe(now, &channel, recover.as_ref(), join_leave, filter, delta),
                    Err(error) => Outcome::Ready(Err(error)),
                };
                let about = || Pending::Subscribe { channel: channel.clone(), by, recover };
                let result = self.ready_or_pending(made, about)?;
                self.subscribe_ended(&channel, by, &result);
                Some(Event::Subscribed { channel, by, result })
            }
            Effect::Unsubscribe(channel, why) => {
                self.unsubscribe(now, &channel, &why);
                None
            }
            Effect::Publish { id, targets, payload, reply, skip_history } => {
                self.publish(now, id, &targets, &payload, reply, skip_history)
            }
            Effect::Presence { id, channel, stats } => {
                let result = if stats {
                    let count = self.count(&channel);
                    let count = self.ready_or_pending(count, || Pending::Presence { id })?;
                    count.map(|count| reading::counted(id, count))
                } else {
                    let members = self.presence(&channel);
                    let members = self.ready_or_pending(members, || Pending::Presence { id })?;
                    members.and_then(|members| self.present(id, members))
                };
                Some(Event::Answered { id, result })
            }
            Effect::History { id, channel, query } => {
                let page = self.history(now, &channel, &query);
                let about = || Pending::History { id, channel: channel.clone(), query: query.clone() };
                let page = self.ready_or_pending(page, about)?;
                self.history_read(now, id, &channel, query, page)
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
            PluginEffect::RefreshSubscription { channel, expiry } => {
                Some(Event::PluginRefreshes { channel, expiry })
            }
            // A part of the decision on a command: `ask` has taken it.
            PluginEffect::SetSubscriptionExpiry(_) => None,
            PluginEffect::Emit { upstream, plugin, payload } => {
                self.worker.emit(now, &upstream, plugin, payload, Some(&self.client.borrow()));
                None
            }
            PluginEffect::SetAttribute { name, value } => {
                self.set_attribute(name, value);
                None
            }
            effect @ (PluginEffect::Publish { .. } | PluginEffect::Reach { .. }) => {
                self.carry_out_effect(now, effect);
                None
            }
        }
    }

    /// Forgets a failed subscription. Logs one of a plugin or the API, because no client gets a reply for it.
    fn subscribe_ended(
        &mut self,
        channel: &Channel,
        by: Subscriber,
        result: &Result<Subscribed, ReplyError>,
    ) {
        let Err(error) = result else { return };
        self.forget_chosen(channel);
        if let Subscriber::Identity | Subscriber::Plugin = by {
            self.worker.metrics().effect_refused("subscribe", channel.as_str(), &error.message);
        }
    }

    fn say_full(&self, channel: &Channel) {
        if !self.core.has_room_for(channel) {
            let why = "the connection has as many subscriptions as it may";
            self.worker.metrics().effect_refused("subscribe", channel.as_str(), why);
        }
    }

    fn reply(&self, reply: &Reply) {
        let refused = self.refuse_large(reply);
        let pushed = match refused.as_ref().map_or(Some(reply), Option::as_ref) {
            Some(reply) => self.worker.with_scratch(|scratch| {
                let format = self.handle.format;
                let encode = |out: &mut Vec<u8>| codec::encode_reply(format.encoding, reply, out);
                let range = if reply.may_be_compressed() {
                    let range = self.worker.frames.write(format.framing, scratch, encode);
                    self.worker.count_compressed();
                    range?
                } else {
                    format.framing.write(scratch, encode)?
                };
                Some(self.handle.outbound.reply(&scratch[range]))
            }),
            None => Some(Pushed::Full),
        };
        match pushed {
            Some(Pushed::Sent) => self.worker.metrics().messages_out.inc(),
            Some(Pushed::Full) => self.handle.signal(Signal::Slow),
            Some(Pushed::Closed) | None => (),
        }
    }

    fn end(&mut self, now: Now, close: &Close, cause: CloseCause, tell: bool, discard: bool) {
        if tell {
            self.handle.outbound.close(codec::encode_close(self.handle.format, close), discard);
        }
        self.worker.metrics().closed(cause, close, &self.handle.id);
        let event = self.tell_disconnect(now, close);
        self.counted = true;
        self.waiting = None;
        self.pending = None;
        self.rest = None;
        if self.backend.take().is_some() {
            self.worker.hub.borrow_mut().expect_no_answer(self.handle.number);
        }
        let Some(event) = event else { return };
        if let Some(channel) = self.user_channel.take()
            && self.worker.hub.borrow_mut().unsubscribe(&channel, self.handle.number)
        {
            self.worker.backplane.remove_interest(self.worker.worker, &channel);
        }
        self.worker.hub.borrow_mut().forget(self.handle.number);
        self.worker.on_disconnect(now, &event, &mut self.plugin_effects);
        // Deregister only now: if the gateway dies before this, another one runs the plugins'
        // `on-disconnect`.
        if self.worker.registers_clients() {
            self.worker.backplane.deregister(&event.client);
        }
    }

    /// Tells that the client has gone, and returns the event; `None` if it was not admitted.
    fn tell_disconnect(&self, now: Now, close: &Close) -> Option<DisconnectEvent> {
        let event = DisconnectEvent {
            client: self.client.borrow().clone(),
            code: close.code,
            reason: close.reason.clone().into(),
            duration: now.at.saturating_sub(self.admitted?.at).as_millis() as u64,
            now: now.unix,
            at: now.at_millis(),
        };
        self.worker.events.disconnected(&event);
        self.worker.told();
        Some(event)
    }
}
