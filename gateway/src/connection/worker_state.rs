//! [`WorkerState`]: state that the connections of one worker share, and the handling of deliveries to that
//! worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::core::Effects;
use super::views::Views;
use crate::backplane::inbox::{Delivery, Inbox};
use crate::backplane::input::Input;
use crate::backplane::{Backplane, NewPublication, Outcome, Published, ReplyTo, Retention};
use crate::backplane::{Order, Response, Why};
use crate::charge::{Account, Charge};
use crate::clock::Clock;
use crate::clock::Now;
use crate::config::{Config, Namespace};
use crate::events::Events;
use crate::explain::{Explain, Picker};
use crate::hub::connection_handle::Unflushed;
use crate::hub::signal::Signal;
use crate::hub::{Delivered, Hub, Same};
use crate::plugin::chain::Chain;
use crate::plugin::event::{Client, DisconnectEvent, Tick};
use crate::plugin::verdict::{Action, Effect as PluginEffect, Refusal};
use crate::protocol::Encoding;
use crate::protocol::channel::Channel;
use crate::protocol::code::{Close, ReplyError};
use crate::protocol::command::Position;
use crate::protocol::framing::{Compressed, FrameMaker};
use crate::protocol::json::{self, NotJson};
use crate::protocol::push::{Member, Push, payload_bytes};
use crate::protocol::tags::{Tags, tags_bytes};
use crate::revocation::{Revocations, Token};
use crate::telemetry::metrics::{Metrics, WorkerMetrics};
use crate::upstream::{AskError, AskRequest, Origin, Upstreams};

/// Everything in a cell is borrowed only inside one call.
pub struct WorkerState {
    /// Index of the worker.
    pub worker: usize,
    /// Configuration.
    pub config: Arc<Config>,
    /// Subscriptions and connections of this worker.
    pub hub: RefCell<Hub>,
    /// The plugins. Replaced as a whole, between two messages.
    pub chain: RefCell<Chain>,
    /// Connects to other workers and nodes.
    pub backplane: Arc<dyn Backplane>,
    /// Receive the events that plugins emit.
    pub upstreams: Arc<Upstreams>,
    /// Takes what comes from other threads; `None` if nothing does.
    inbox: Option<Arc<Inbox>>,
    /// Requests to upstreams, which a test answers.
    #[cfg(test)]
    pub(super) recorded: Option<RefCell<Vec<Recorded>>>,
    /// Tells one of them what happens.
    pub events: Events,
    /// Number of events of this worker's connections so far.
    told: Cell<u64>,
    /// Tokens that do not count any more, and blocked users.
    pub revocations: Arc<Revocations>,
    /// Counters of all workers; `worker` is the index of this one's.
    pub metrics: Arc<Metrics>,
    /// Selects the messages that are traced.
    pub explain: Picker,
    /// Connections with pushes that are not flushed.
    pub unflushed: Rc<Unflushed>,
    /// Makes the frames of all connections.
    pub(super) frames: FrameMaker,
    /// Account of publications that no client caused.
    timers: Account,
    /// Buffer to encode replies.
    scratch: RefCell<Vec<u8>>,
    /// Queue for effects while a session handles one event.
    effects: RefCell<Effects>,
}

/// Capacity of that buffer kept between replies.
const SCRATCH_BYTES_KEPT: usize = 64 * 1024;

/// Weight of a publication that plugins see on its way to subscribers, in frames: there is a call for each
/// class.
const VIEWS_WEIGHT: usize = 64;

/// Bytes that are compressed, or from which a delta is made, in the time to queue a frame, more or less.
const COMPRESSED_BYTES_PER_FRAME: u64 = 64;

/// Weight of an order or a response for connections, which then do the work.
const ORDER_WEIGHT: usize = 16;

/// Weight of `on-disconnect` for a client of a dead node.
const DEPARTED_WEIGHT: usize = 2048;

/// Weight of a survey, which visits everything a worker has, and of a new chain.
const SURVEY_WEIGHT: usize = 16 * 1024;

/// Bounds of the least queued bytes at which a client is listed in the backlog. The clients below it must
/// hold only a small part of the total.
const MUCH_MIN: usize = 1024;
const MUCH_MAX: usize = 32 * 1024;

/// Bytes of a publication in flight, besides its payload.
const PUBLICATION_BYTES: usize = 256;

const TOO_MUCH_UNDER_WAY: &str = "nothing was published, because too much is under way already: try again";

/// Checks that a publication is small enough, and charges it to its publisher's account, which may have
/// `account_max` bytes in flight. The same limits hold for all publishers and targets. Both count a payload
/// that is not JSON as the string that JSON clients receive, because the publication holds that one too until
/// its last worker has delivered it.
///
/// # Errors
///
/// If the publication is too large, or its publisher has too many bytes in flight.
pub fn charge(
    config: &Config,
    data: &[u8],
    json: bool,
    tags: Option<&Tags>,
    account: &Account,
    account_max: usize,
) -> Result<Charge, ReplyError> {
    let bytes = payload_bytes(data, json) + tags_bytes(tags);
    let bytes_max = config.limits.publication_bytes_max;
    if bytes > bytes_max {
        let why = format!("a publication of {bytes} bytes: `limits.publication_bytes_max` is {bytes_max}");
        return Err(ReplyError::LIMIT_EXCEEDED.because(why));
    }
    let charge = account.charge(bytes + PUBLICATION_BYTES, account_max);
    charge.ok_or_else(|| ReplyError::TOO_MANY_REQUESTS.because(TOO_MUCH_UNDER_WAY))
}

/// A request to an upstream: its id, and what makes the response of its answer.
#[cfg(test)]
pub(super) type Recorded = (u32, AskRequest, Box<dyn FnOnce(Result<Bytes, AskError>) -> Response>);

/// The token that a client came with, by its attributes.
pub(super) fn token(client: &Client) -> Token<'_> {
    Token::of(|name| client.attributes.get(name).map(|value| &**value))
}

/// The source of a publication.
pub(super) struct By<'a> {
    /// The client's entry as a member, if a client publishes.
    pub(super) info: Option<Arc<Member>>,
    /// The account to charge while it is in flight.
    pub(super) account: &'a Account,
    /// Receives the result.
    pub(super) reply_to: ReplyTo,
    /// Whether it is delivered only.
    pub(super) skip_history: bool,
}

impl WorkerState {
    /// A worker without connections and without plugins.
    pub fn new(
        worker: usize,
        config: Arc<Config>,
        hub: Hub,
        backplane: Arc<dyn Backplane>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let explain = Picker::new(Arc::new(Explain::new(config.explain.clone(), Clock::start())));
        // Clients below it hold less than half of the total for all clients.
        let much = config.memory.outbound_bytes_max / config.limits.connections_max.max(1) / 2;
        let unflushed = Rc::new(Unflushed::counting(much.clamp(MUCH_MIN, MUCH_MAX)));
        let frames = FrameMaker::new(config.compression.level, config.compression.min_bytes);
        Self {
            worker,
            explain,
            config,
            hub: RefCell::new(hub),
            chain: RefCell::new(Chain::empty()),
            backplane,
            upstreams: Upstreams::noop(),
            inbox: None,
            #[cfg(test)]
            recorded: None,
            events: Events::off(),
            told: Cell::new(0),
            revocations: Arc::new(Revocations::new(0, false)),
            metrics,
            unflushed,
            frames,
            timers: Account::default(),
            scratch: RefCell::default(),
            effects: RefCell::default(),
        }
    }

    /// With the configured upstreams instead of none, whose answers come through this inbox.
    pub fn with_upstreams(self, upstreams: Arc<Upstreams>, inbox: Arc<Inbox>) -> Self {
        Self { upstreams, inbox: Some(inbox), ..self }
    }

    /// Sends a request to an upstream. `done` makes the response to the connection of it, on another thread.
    ///
    /// # Errors
    ///
    /// If nothing is sent.
    pub(super) fn ask_upstream(
        &self,
        upstream: &str,
        request: AskRequest,
        (connection, request_id): (u64, u32),
        done: impl FnOnce(Result<Bytes, AskError>) -> Response + Send + 'static,
    ) -> Result<(), AskError> {
        #[cfg(test)]
        if let Some(recorded) = &self.recorded {
            recorded.borrow_mut().push((request_id, request, Box::new(done)));
            return Ok(());
        }
        let inbox = self.inbox.clone().ok_or(AskError::Unknown)?;
        self.upstreams.ask(upstream, request, move |answer| {
            let answer = done(answer);
            inbox.put(Delivery::Answer { connection, request_id, answer });
        })
    }

    /// Tells an upstream what happens.
    pub fn with_events(self, events: Events) -> Self {
        Self { events, ..self }
    }

    /// Counts an event that a connection has caused.
    pub(super) fn told(&self) {
        self.told.set(self.told.get().wrapping_add(1));
    }

    /// Number of events that connections have caused.
    pub(super) fn told_count(&self) -> u64 {
        self.told.get()
    }

    /// With the list of the gateway instead of an empty one.
    pub fn with_revocations(self, revocations: Arc<Revocations>) -> Self {
        Self { revocations, ..self }
    }

    /// Closes those of some connections that may not stay, at this Unix time in milliseconds.
    pub fn close_revoked(&self, now: u64, connections: &[u64]) {
        let hub = self.hub.borrow();
        for (handle, client) in connections.iter().filter_map(|number| hub.admitted(*number)) {
            let client = client.borrow();
            if !handle.outbound.is_closed()
                && let Some(revoked) = self.revocations.check(now, &client.user, token(&client))
            {
                handle.signal(Signal::Close(revoked.close(), Why::Api));
            }
        }
    }

    /// The numbers of the admitted connections.
    pub fn admitted(&self) -> Vec<u64> {
        self.hub.borrow().numbers()
    }

    /// This worker's counters.
    pub fn metrics(&self) -> &WorkerMetrics {
        self.metrics.worker(self.worker)
    }

    /// The settings of a channel.
    ///
    /// # Errors
    ///
    /// If no namespace is configured for the channel.
    pub fn namespace(&self, channel: &Channel) -> Result<&Arc<Namespace>, ReplyError> {
        self.config.namespaces.of(channel).ok_or(ReplyError::UNKNOWN_CHANNEL)
    }

    /// Lends the buffer to encode replies.
    pub(super) fn with_scratch<R>(&self, encode: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        let result = encode(&mut scratch);
        if scratch.capacity() > SCRATCH_BYTES_KEPT {
            *scratch = Vec::new();
        }
        result
    }

    /// Lends an empty queue for effects; returned with [`WorkerState::return_effects`].
    pub(super) fn take_effects(&self) -> Effects {
        std::mem::take(&mut self.effects.borrow_mut())
    }

    /// Returns the queue, so that the next session reuses its memory.
    pub(super) fn return_effects(&self, effects: Effects) {
        debug_assert!(effects.is_empty());
        *self.effects.borrow_mut() = effects;
    }

    /// Publishes to an address. `json` means that the payload is known to be JSON: payloads of clients that
    /// use JSON are checked on arrival or when the plugin replaced them.
    pub(super) fn publish(
        &self,
        now: Now,
        channel: &Channel,
        payload: Bytes,
        json: bool,
        by: By<'_>,
    ) -> Outcome<Published> {
        let By { info, account, reply_to, skip_history } = by;
        let namespace = match self.namespace(channel) {
            Ok(namespace) => namespace,
            Err(error) => return Outcome::Ready(Err(error)),
        };
        let (data, json) = if json {
            (payload, true)
        } else {
            match json::compact(payload.clone()) {
                Ok(compact) => (compact, true),
                // Any bytes may be published; a payload that is not JSON reaches JSON clients as a string.
                Err(NotJson::Syntax(_)) => (payload, false),
                Err(unfit @ NotJson::Unfit(_)) => {
                    let error = ReplyError::BAD_REQUEST.because(format!("a payload is {unfit}"));
                    return Outcome::Ready(Err(error));
                }
            }
        };
        let account_max = self.config.memory.publisher_bytes_max();
        let charge = match charge(&self.config, &data, json, None, account, account_max) {
            Ok(charge) => Some(charge),
            Err(error) => {
                self.metrics.node.publication_refused(&error);
                return Outcome::Ready(Err(error));
            }
        };
        let retention = Retention::of(namespace);
        let new = NewPublication {
            channel,
            data,
            json,
            info,
            tags: None,
            retention,
            patterns: namespace.wildcards,
            skip_history,
            conditions: None,
            charge,
        };
        let asked = self.events.publish(&*self.backplane, new, reply_to, now);
        self.told();
        if let Outcome::Ready(Err(error)) = &asked {
            self.metrics.node.publication_refused(error);
        }
        asked
    }

    /// Applies an effect of a plugin that does not concern the connection of its event, and charges it to an
    /// account. `json` as in [`WorkerState::publish`]. False if it is refused.
    pub(super) fn carry_out(&self, now: Now, effect: PluginEffect, json: bool, account: &Account) -> bool {
        let (kind, address, done) = match effect {
            PluginEffect::Publish { address, payload } => {
                let reply_to = ReplyTo::Nobody;
                let by = By { info: None, account, reply_to, skip_history: false };
                match self.publish(now, &address, payload, json, by) {
                    Outcome::Ready(done) => ("publish", address, done.map(drop)),
                    Outcome::Pending => return true,
                }
            }
            PluginEffect::Reach { address, except, action } => {
                let order = match action {
                    Action::Subscribe(channel) => Order::Subscribe(channel, None),
                    Action::Unsubscribe(channel) => Order::Unsubscribe(channel),
                    Action::Refresh(expires_at) => Order::Refresh(expires_at),
                    Action::Disconnect(Refusal { code, reason }) => {
                        let code = u16::try_from(code).unwrap_or(Close::PERMISSION_DENIED.code);
                        Order::Close(Close::custom(code, &reason), Why::Plugin)
                    }
                };
                let done = self.backplane.order(&address, except, &order);
                ("reach", address, done)
            }
            PluginEffect::Emit { upstream, plugin, payload } => {
                self.emit(now, &upstream, plugin, payload, None);
                return true;
            }
            // The host function has already returned an error: these need a connection.
            PluginEffect::Subscribe(_)
            | PluginEffect::Unsubscribe(_)
            | PluginEffect::Disconnect(_)
            | PluginEffect::Refresh(_)
            | PluginEffect::RefreshSubscription { .. }
            | PluginEffect::SetSubscriptionExpiry(_)
            | PluginEffect::SetAttribute { .. } => return false,
        };
        if let Err(error) = &done {
            self.metrics().effect_refused(kind, address.as_str(), &error.message);
        }
        done.is_ok()
    }

    /// Passes an event that a plugin emits to an upstream, with the client that caused it, if any.
    pub(super) fn emit(
        &self,
        now: Now,
        upstream: &str,
        plugin: Arc<str>,
        payload: Bytes,
        of: Option<&Client>,
    ) {
        let (connection, user) = of.map(|of| (of.id.clone(), of.user.clone())).unwrap_or_default();
        self.upstreams.put(upstream, Origin { plugin, connection, user }, payload, now.unix);
        self.told();
    }

    /// Whether clients are registered, so that another gateway can run `on-disconnect` for them and tell of
    /// their end.
    pub(super) fn registers_clients(&self) -> bool {
        self.events.tells_disconnects() || self.chain.borrow().wants_disconnects()
    }

    /// Runs `on-disconnect` of the plugins.
    pub(super) fn on_disconnect(&self, now: Now, event: &DisconnectEvent, effects: &mut Vec<PluginEffect>) {
        let (explain, mut chain) = (&self.explain, self.chain.borrow_mut());
        if !explain.is_on() || explain.pick(now.at, &event.client, None).is_none() {
            return chain.on_disconnect(event, effects);
        }
        let trace = chain.on_disconnect_traced(event, effects, explain.clock());
        if trace.was_seen() {
            explain.keep(Arc::new(trace));
        }
    }

    /// Tells that a client has gone whose gateway has died, and runs `on-disconnect` for it.
    fn disconnected(&self, now: Now, event: &DisconnectEvent) {
        self.events.disconnected(event);
        let mut effects = Vec::new();
        self.on_disconnect(now, event, &mut effects);
        let json = event.client.protocol == Encoding::Json.protocol_name();
        for effect in effects {
            match effect {
                PluginEffect::Emit { upstream, plugin, payload } => {
                    self.emit(now, &upstream, plugin, payload, Some(&event.client));
                }
                effect => drop(self.carry_out(now, effect, json, &self.timers)),
            }
        }
    }

    /// When to call [`WorkerState::on_timer`] next. `None` if no plugin has a timer.
    pub fn next_timer(&self) -> Option<Duration> {
        self.chain.borrow().next_timer()
    }

    /// Runs the timers of plugins that are due.
    pub fn on_timer(&self, now: Now) {
        let tick = Tick { instance: self.worker as u32, now: now.unix, at: now.at_millis() };
        let mut effects = Vec::new();
        self.chain.borrow_mut().on_timer(now.at, &tick, &mut effects);
        for effect in effects {
            self.carry_out(now, effect, false, &self.timers);
        }
    }

    /// Handles one delivery from another thread. Returns the amount of work, in frames that could have been
    /// queued; at least 1.
    pub fn handle(&self, now: Now, delivery: Delivery) -> usize {
        match delivery {
            Delivery::Push(push) => {
                let views = self.chain.borrow().wants_deliveries(&push.channel);
                let delivered = self.deliver(now, &push, views);
                self.delivered(delivered, views)
            }
            Delivery::Feed(push) => {
                let views = self.chain.borrow().wants_deliveries(&push.channel);
                let (delivered, work) = self.deliver_to_patterns(now, &push, views);
                work + self.delivered(delivered, views)
            }
            Delivery::Order { address, except, order } => {
                self.hub.borrow().order(&address, except, &order);
                ORDER_WEIGHT
            }
            Delivery::Answer { connection, request_id, answer } => {
                self.hub.borrow().answer(connection, request_id, answer);
                ORDER_WEIGHT
            }
            Delivery::Input(input) => {
                let Input { connection, session, data, report } = *input;
                let bytes_max = self.config.limits.message_bytes_max;
                report(self.hub.borrow().input(connection, &session, data, bytes_max));
                ORDER_WEIGHT
            }
            Delivery::StreamTop(channel, top) => {
                self.hub.borrow_mut().check_position(&channel, &top);
                ORDER_WEIGHT
            }
            Delivery::Survey(question, reply_to) => {
                let _ = reply_to.send(self.hub.borrow().survey(&question));
                SURVEY_WEIGHT
            }
            Delivery::Disconnected(event, handled) => {
                self.disconnected(now, &event);
                // Not before the events are written: the client is forgotten then.
                self.upstreams.when_written(handled);
                DEPARTED_WEIGHT
            }
            Delivery::Chain(mut chain, taken) => {
                let workers = self.config.listen.workers;
                chain.start_timers(&self.chain.borrow(), self.worker, workers, now.at);
                let registers = self.events.tells_disconnects() || chain.wants_disconnects();
                match (self.registers_clients(), registers) {
                    (false, true) => {
                        let register = |(client, since)| self.backplane.register(&client, since);
                        self.hub.borrow().clients().for_each(register);
                    }
                    (true, false) => {
                        let deregister = |(client, _): (Arc<Client>, _)| self.backplane.deregister(&client);
                        self.hub.borrow().clients().for_each(deregister);
                    }
                    (true, true) | (false, false) => (),
                }
                // The old chain's instances are dropped here, between two messages.
                self.hub.borrow_mut().classify_by(chain.class_attributes());
                *self.chain.borrow_mut() = *chain;
                self.chain.borrow_mut().begin();
                let _ = taken.send(());
                SURVEY_WEIGHT
            }
        }
    }

    /// Sums up the bytes queued for clients. While the node exceeds its limit, closes the clients with the
    /// longest queues. True if there is a backlog to check again.
    pub fn bound_backlog(&self) -> bool {
        let metrics = self.metrics();
        let backlog = self.unflushed.backlog();
        let held: usize = backlog.iter().map(|(waiting, _)| waiting).sum();
        let largest = backlog.first().map_or(0, |(waiting, _)| *waiting);
        metrics.outbound_held.set(i64::try_from(held).unwrap_or(i64::MAX));
        metrics.outbound_largest.set(i64::try_from(largest).unwrap_or(i64::MAX));
        let total = self.metrics.outbound_held();
        let over = total.saturating_sub(self.config.memory.outbound_bytes_max as u64);
        if over > 0 {
            // Each worker frees its share, but spares its clients while another worker has a queue more than
            // twice as long.
            let share = u128::from(over) * held as u128 / u128::from(total.max(1));
            let (least, mut freed) = (self.metrics.outbound_largest() / 2, 0);
            for (waiting, handle) in &backlog {
                if freed >= share || (*waiting as u64) < least {
                    break;
                }
                freed += *waiting as u128;
                // An evicted connection counts until it is closed.
                if handle.evict() {
                    metrics.outbound_evicted(*waiting);
                    handle.signal(Signal::Slow);
                }
            }
        }
        !backlog.is_empty()
    }

    /// Counts a delivery. Returns the amount of work, as [`WorkerState::handle`].
    fn delivered(&self, Delivered { sent, full, gaps, filtered }: Delivered, views: bool) -> usize {
        let metrics = self.metrics();
        metrics.publications_delivered.add(sent as u64);
        metrics.messages_out.add(sent as u64);
        let compressed = (self.count_compressed() / COMPRESSED_BYTES_PER_FRAME) as usize;
        1 + sent + full + gaps + filtered + compressed + if views { VIEWS_WEIGHT } else { 0 }
    }

    /// Delivers to the subscribers of the patterns that match the channel of a publication. Plugins see its
    /// channel. Also returns the work besides.
    fn deliver_to_patterns(&self, now: Now, push: &Push, views: bool) -> (Delivered, usize) {
        let mut hub = self.hub.borrow_mut();
        if !views {
            return hub.deliver_to_patterns(push, &mut Same(push), &self.frames);
        }
        let mut chain = self.chain.borrow_mut();
        let bytes_max = self.config.limits.publication_bytes_max;
        let Some(views) = Views::of(&mut chain, push, now, bytes_max) else {
            return Default::default();
        };
        let mut views = views.explained(&self.explain);
        let delivered = hub.deliver_to_patterns(push, &mut views, &self.frames);
        if let Some(trace) = views.into_explanation() {
            self.explain.keep(Arc::new(trace));
        }
        delivered
    }

    fn deliver(&self, now: Now, push: &Push, views: bool) -> Delivered {
        let mut chain = self.chain.borrow_mut();
        let mut hub = self.hub.borrow_mut();
        let bytes_max = self.config.limits.publication_bytes_max;
        if views && let Some(views) = Views::of(&mut chain, push, now, bytes_max) {
            let mut views = views.explained(&self.explain);
            let delivered = hub.deliver_views(push, &mut views, &self.frames);
            if let Some(trace) = views.into_explanation() {
                self.explain.keep(Arc::new(trace));
            }
            return delivered;
        }
        hub.deliver(push, &self.frames)
    }

    /// Counts what was compressed or became a delta since it was last called. Returns the bytes before.
    pub(super) fn count_compressed(&self) -> u64 {
        let compressed = self.frames.take_compressed();
        if compressed != Compressed::default() {
            self.metrics().compressed(&compressed);
        }
        let deltas = self.frames.take_deltas();
        if deltas != Compressed::default() {
            self.metrics().deltas(&deltas);
        }
        compressed.bytes_before + deltas.bytes_before
    }

    /// Channels with a subscriber that must miss nothing.
    pub fn tracked(&self) -> Vec<Channel> {
        self.hub.borrow().tracked()
    }

    /// The tops of their streams.
    pub fn tops(&self, channels: &[Channel]) -> Vec<(Channel, Position)> {
        let top = |channel: &Channel| Some((channel.clone(), self.backplane.top(channel)?));
        channels.iter().filter_map(top).collect()
    }

    /// Finds subscribers that missed lost deliveries. `stood` was read after the loss, and the inbox up to
    /// that time has been delivered since.
    pub fn find_gaps(&self, stood: &[(Channel, Position)]) {
        let mut hub = self.hub.borrow_mut();
        for (channel, position) in stood {
            hub.check_position(channel, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_is_not_json_is_charged_as_the_string_that_clients_receive() {
        let config = Config::parse("", "test").expect("valid");
        for (data, json, bytes) in [
            (&b"{\"a\":1}"[..], true, 7),
            (b"plain", false, 7),
            (&[1; 100], false, 602),
            (&[0xff; 300], false, 402),
        ] {
            let account = Account::default();
            let charge = charge(&config, data, json, None, &account, usize::MAX).expect("room");
            assert_eq!(account.bytes(), bytes + PUBLICATION_BYTES, "{data:?}");
            drop(charge);
            assert_eq!(account.bytes(), 0);
        }
    }
}
