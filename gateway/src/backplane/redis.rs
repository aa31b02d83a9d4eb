//! [`Redis`] connects several gateways through Redis: a publication at one of them reaches the subscribers of
//! all.
//!
//! Workers never touch a socket. A request goes into a queue of the control runtime, and its response comes
//! through the inbox of the worker. `gateway/REDIS.md` describes the data in Redis and the effects of every
//! failure.

mod format;
mod context;
mod connection;
mod topology;
mod agreement;
mod commands;
mod subscriptions;
mod presence;
mod clients;
mod limits;
mod exchange;
mod survey;
mod membership;
mod incoming;
mod inputs;
mod pipeline;
mod components;
mod runner;
pub mod inspect;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::backplane::inbox::Inbox;
use crate::backplane::input::InputOutcome;
use crate::backplane::occupancy::Teller;
pub use crate::backplane::redis::agreement::Plugins;
use crate::backplane::redis::commands::dispatch::{self, NOT_PUBLISHED, NOT_REMOVED, UNAVAILABLE};
use crate::backplane::redis::commands::request::{Request, What};
use crate::backplane::redis::components::Components;
pub use crate::backplane::redis::connection::client::LOOKUPS_MAX;
// For the consumer of streams.
pub(crate) use crate::backplane::redis::connection::client::{call, client, settings};
use crate::backplane::redis::context::Context;
// For tests with hostile bytes.
#[doc(hidden)]
pub use crate::backplane::redis::format::again;
use crate::backplane::redis::format::keys::{self, Keys};
use crate::backplane::redis::format::wire;
pub use crate::backplane::redis::limits::{Reconciler, States};
pub use crate::backplane::redis::runner::Runner;
use crate::backplane::redis::subscriptions::interest::Added;
pub use crate::backplane::redis::survey::Answerer;
use crate::backplane::redis::topology::shard::Shard;
use crate::backplane::{
    Backplane, Count, Health, HistoryRequest, NewPublication, Node, Order, Others, Outcome, Page, Published,
    RecoverRequest, Recovery, ReplyTo, find_room,
};
use crate::charge::Charge;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::connection_id::ConnectionIds;
use crate::plugin::event::Client;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::ReplyError;
use crate::protocol::command::Position;
use crate::protocol::emulation::EmulationRequest;
use crate::protocol::push::{Member, Publication, Push, PushKind};
use crate::protocol::tags::tags_bytes;
use crate::revocation::Revocations;
use crate::shutdown::Phase;
use crate::survey::Question;
use crate::telemetry::backplane::BackplaneMetrics;

/// See the module.
pub struct Redis {
    components: Components,
}

/// Everything the backplane needs to know of the gateway.
pub struct Parts {
    /// Configuration of the gateway.
    pub config: Arc<Config>,
    /// Inboxes of all workers.
    pub inboxes: Arc<[Arc<Inbox>]>,
    /// Creates and reads connection ids.
    pub ids: ConnectionIds,
    /// The clock.
    pub clock: Clock,
    /// Counters.
    pub metrics: Arc<BackplaneMetrics>,
    /// Tells of channels that become occupied or vacated; `None` if nobody is told.
    pub teller: Option<Arc<Teller>>,
    /// Name of this node for people: machine and address.
    pub name: Box<str>,
    /// The phase of the process.
    pub phase: watch::Receiver<Phase>,
    /// Tokens that do not count any more, and blocked users.
    pub revocations: Arc<Revocations>,
    /// Two random numbers: they make this process, and the streams it begins, unique.
    pub random: [u64; 2],
}

impl Redis {
    /// Creates the two halves of the backplane. Nothing connects before [`Runner::run`].
    pub fn new(redis: &config::Redis, parts: Parts) -> (Self, Runner) {
        let Parts {
            config,
            inboxes,
            ids,
            clock,
            metrics,
            teller,
            name,
            phase,
            revocations,
            random: [node, epochs],
        } = parts;
        let (components, queues) = Components::new(Context {
            keys: Keys::new(&redis.prefix),
            config: redis.clone(),
            gateway: config,
            inboxes,
            ids,
            clock,
            node,
            name,
            phase,
            revocations,
            metrics,
            teller,
            epochs: AtomicU64::new(epochs),
        });
        (Self { components: components.clone() }, Runner::new(components, queues))
    }

    /// Passes an order to the workers here, and to other nodes if they may have a connection of the address.
    /// Then `reply_to` gets the response.
    fn give_order(
        &self,
        address: &Channel,
        except: Option<u64>,
        order: &Order,
        reply_to: ReplyTo,
    ) -> Outcome<()> {
        let Components { context, requests, subscriptions, .. } = &self.components;
        let worker = match address.target() {
            Target::Connection(id) => context.worker_of(id),
            Target::User(_) | Target::Channel => None,
        };
        let room = match order.bytes() {
            0 => None,
            bytes => match requests.room_for(bytes) {
                None => return Outcome::Ready(Err(ReplyError::TOO_MANY_REQUESTS.because(dispatch::BUSY))),
                room => room,
            },
        };
        // The other workers get the order even if one refuses it.
        let delivered = subscriptions.order(worker, address, except, order);
        if worker.is_none() {
            let message = wire::order(context.node, address, order);
            let reply_to = if delivered { reply_to } else { ReplyTo::Nobody };
            if !requests.broadcast_charged(None, message, room, reply_to) {
                let why = "other nodes cannot be reached at the moment: try again";
                return Outcome::Ready(Err(UNAVAILABLE.because(why)));
            }
        }
        match (delivered, worker) {
            (false, _) => Outcome::Ready(Err(ReplyError::TOO_MANY_REQUESTS)),
            (true, Some(_)) => Outcome::Ready(Ok(())),
            (true, None) => Outcome::Pending,
        }
    }
}

impl Backplane for Redis {
    fn answers_later(&self) -> bool {
        true
    }

    fn add_interest(&self, worker: usize, channel: &Channel, reply_to: ReplyTo) -> Outcome<()> {
        let Components { context, topology, requests, subscriptions, presence, .. } = &self.components;
        let connection = topology.shard(channel).status.connection();
        if connection.is_none()
            && let Some(error) = requests.refusal()
        {
            return Outcome::Ready(Err(error));
        }
        let until = context.clock.now().at + context.config.timeout;
        let reply_to = match requests.admit(reply_to) {
            Ok(reply_to) => reply_to,
            Err(error) => return Outcome::Ready(Err(error)),
        };
        let announced = subscriptions.interest.add(worker, channel, connection, reply_to, until);
        if !matches!(announced, Added::Full) {
            presence.table.occupy(worker, channel);
        }
        match announced {
            Added::Waits => return Outcome::Pending,
            Added::Already => (),
            Added::Full => {
                context.metrics.answered();
                let error = ReplyError::LIMIT_EXCEEDED.because("the gateway has as many channels as it may");
                return Outcome::Ready(Err(error));
            }
        }
        context.metrics.answered();
        Outcome::Ready(Ok(()))
    }

    fn remove_interest(&self, worker: usize, channel: &Channel) {
        self.components.subscriptions.interest.remove(worker, channel);
        self.components.presence.table.vacate(worker, channel);
    }

    fn publish(&self, new: NewPublication<'_>, reply_to: ReplyTo, at: Duration) -> Outcome<Published> {
        let NewPublication {
            channel,
            data,
            json,
            info,
            tags,
            mut retention,
            patterns,
            skip_history,
            conditions,
            charge,
        } = new;
        let bytes = data.len() + tags_bytes(tags.as_deref());
        let Components { context, topology, agreement, requests, subscriptions, .. } = &self.components;
        let local = |workers: Option<u64>, charge: Option<Charge>| {
            let workers = workers.unwrap_or_else(|| subscriptions.interest.workers(channel, None));
            let feed = if patterns { channel.feed() } else { None };
            let feed = feed.map_or(0, |feed| subscriptions.interest.feed_workers(&feed, None));
            if let Err(error) = find_room(&context.inboxes, workers | feed, bytes) {
                return Outcome::Ready(Err(error));
            }
            let (data, info, tags) = (data.clone(), info.clone(), tags.clone());
            let publication = Arc::new(Publication { data, json, offset: 0, info, tags });
            let push = || {
                let kind = PushKind::Publication { publication: publication.clone(), epoch: Arc::default() };
                Push::new(channel.clone(), kind).accepted_at(at)
            };
            // It counts until the last of them has been delivered, and there is one charge.
            let (of_feed, of_channel) = if workers == 0 { (charge, None) } else { (None, charge) };
            if feed != 0 {
                subscriptions.deliver_feed(push().charged(of_feed), feed);
            }
            subscriptions.deliver(push().charged(of_channel), Some(workers));
            Outcome::Ready(Ok(Published::default()))
        };
        // Another node may have used the same key.
        let once = conditions.as_ref().is_some_and(|conditions| conditions.idempotency.is_some());
        if let Target::Connection(id) = channel.target()
            && !once
            && let Some(worker) = context.worker_of(id)
        {
            return local(Some(1 << worker), charge);
        }
        if skip_history || matches!(channel.target(), Target::Connection(_)) {
            retention.size = 0;
        }
        let writes = retention.size > 0 || once;
        let status = &topology.shard(channel).status;
        if status.connection().is_none()
            && let Some(error) = requests.refusal()
        {
            return Outcome::Ready(Err(error));
        }
        let what = if writes && status.takes_no_writes() {
            return Outcome::Ready(Err(UNAVAILABLE.because(NOT_PUBLISHED)));
        } else if writes {
            let body = wire::body(&data, json, info.as_deref(), tags.as_deref());
            What::Publish { channel: channel.clone(), body, retention, patterns, skip_history, conditions }
        } else if status.connection().is_none() {
            // Other gateways keep this channel's history: clients that recover there would miss the
            // publication.
            if !skip_history && agreement.rules.raise(channel, retention).size > 0 {
                return Outcome::Ready(Err(UNAVAILABLE.because(NOT_PUBLISHED)));
            }
            return local(None, charge);
        } else {
            let address = (channel.target() != Target::Channel).then_some(channel);
            let body = wire::body(&data, json, info.as_deref(), tags.as_deref());
            let message = wire::unnumbered(address, &body);
            let to = Some(channel.clone());
            What::Spread { to, message, publication: true, patterns, skip_history }
        };
        let room = requests.room_for(bytes);
        if room.is_none() {
            return Outcome::Ready(Err(ReplyError::TOO_MANY_REQUESTS.because(dispatch::BUSY)));
        }
        requests.ask_charged(what, reply_to, at, [room, charge])
    }

    fn history(&self, request: HistoryRequest<'_>, reply_to: ReplyTo, at: Duration) -> Outcome<Page> {
        let HistoryRequest { channel, query, most, retention } = request;
        if query.reverse && query.since.as_ref().is_some_and(|since| since.offset == 0) {
            return Outcome::Ready(Err(ReplyError::BAD_REQUEST.because("there is nothing before offset 0")));
        }
        let (channel, query) = (channel.clone(), query.clone());
        let what = What::History { channel, query, most, retention };
        self.components.requests.ask(what, reply_to, at)
    }

    fn remove_history(&self, channel: &Channel, reply_to: ReplyTo, at: Duration) -> Outcome<()> {
        let Components { topology, requests, .. } = &self.components;
        if topology.shard(channel).status.takes_no_writes() {
            return Outcome::Ready(Err(UNAVAILABLE.because(NOT_REMOVED)));
        }
        requests.ask(What::RemoveHistory { channel: channel.clone() }, reply_to, at)
    }

    fn recover(&self, request: RecoverRequest<'_>, reply_to: ReplyTo, at: Duration) -> Outcome<Recovery> {
        let Components { context, requests, subscriptions, .. } = &self.components;
        let RecoverRequest { channel, since, latest, most, retention } = request;
        match requests.admit(reply_to) {
            Ok(reply_to) => {
                let (channel, since) = (channel.clone(), since.cloned());
                let what = What::Recover { channel, since, latest, most, retention };
                let until = at + context.config.timeout;
                subscriptions.recover(Request { what, reply_to, until, _charges: [None, None] });
                Outcome::Pending
            }
            Err(error) => Outcome::Ready(Err(error)),
        }
    }

    fn top(&self, channel: &Channel) -> Option<Position> {
        self.components.subscriptions.interest.top(channel)
    }

    fn presence_add(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool) {
        if keep {
            self.components.presence.table.enter(channel, member);
        }
        if announce {
            self.components.subscriptions.announce(channel, member, true);
        }
    }

    fn presence_remove(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool) {
        if keep {
            self.components.presence.table.leave(channel, member);
        }
        if announce {
            self.components.subscriptions.announce(channel, member, false);
        }
    }

    fn presence(&self, channel: &Channel, bytes_max: usize, reply_to: ReplyTo) -> Outcome<Vec<Arc<Member>>> {
        let Components { context, topology, agreement, requests, presence, nodes, .. } = &self.components;
        if agreement.rules.presence_is_partial(channel) {
            return Outcome::Ready(Err(UNAVAILABLE.because(dispatch::PARTIAL)));
        }
        let Some(others) = nodes.known_others() else {
            return Outcome::Ready(Err(UNAVAILABLE.because(dispatch::AWAY)));
        };
        let asked: Vec<_> = others.into_iter().map(|node| node.id).collect();
        if asked.is_empty() && topology.shard(channel).status.connection().is_some() {
            return Outcome::Ready(presence.table.members(channel, bytes_max));
        }
        let at = context.clock.now().at;
        requests.ask(What::Presence { channel: channel.clone(), nodes: asked, bytes_max }, reply_to, at)
    }

    fn count(&self, channel: &Channel, reply_to: ReplyTo) -> Outcome<Count> {
        let Components { context, topology, agreement, requests, presence, nodes, .. } = &self.components;
        if agreement.rules.presence_is_partial(channel) {
            return Outcome::Ready(Err(UNAVAILABLE.because(dispatch::PARTIAL)));
        }
        let (connections, users, unwritten) = presence.table.count(channel);
        let Some(others) = nodes.known_others() else {
            return Outcome::Ready(Err(UNAVAILABLE.because(dispatch::AWAY)));
        };
        if others.is_empty() && topology.shard(channel).status.connection().is_some() {
            return Outcome::Ready(Ok(Count { connections, users }));
        }
        let here = context.node_name().into();
        let asked = [here].into_iter().chain(others.into_iter().map(|node| node.id)).collect();
        let what = What::Count { channel: channel.clone(), nodes: asked, connections, users: unwritten };
        requests.ask(what, reply_to, context.clock.now().at)
    }

    fn order(&self, address: &Channel, except: Option<u64>, order: &Order) -> Result<(), ReplyError> {
        match self.give_order(address, except, order, ReplyTo::Nobody) {
            Outcome::Ready(result) => result,
            Outcome::Pending => Ok(()),
        }
    }

    fn order_answered(&self, address: &Channel, order: &Order, reply_to: ReplyTo) -> Outcome<()> {
        self.give_order(address, None, order, reply_to)
    }

    fn others(&self) -> Vec<Node> {
        let mut others = self.components.nodes.others();
        for node in &mut others {
            node.differs = self.components.agreement.differences(&node.id);
        }
        others
    }

    fn ask_others(&self, question: &Question) -> Others {
        let Components { context, requests, surveys, nodes, .. } = &self.components;
        surveys.ask(nodes.others(), context, requests, question)
    }

    fn input(&self, request: EmulationRequest) -> Option<oneshot::Receiver<InputOutcome>> {
        let Components { context, requests, inputs, nodes, .. } = &self.components;
        let here = *request.node == *context.node_name();
        if !here && !nodes.is_alive(&request.node) {
            return None;
        }
        let to = keys::node_of(&request.node)?;
        Some(inputs.pass(to, request, context, requests))
    }

    fn register(&self, client: &Arc<Client>, since: u64) {
        self.components.clients.table.register(client, since);
    }

    fn deregister(&self, client: &Client) {
        self.components.clients.table.deregister(client.number);
    }

    fn sweep(&self, _: Duration) {
        let Components { topology, subscriptions, presence, nodes, .. } = &self.components;
        for (shard_index, shard) in topology.shards.iter().enumerate() {
            if shard.is_away() {
                subscriptions.interest.sweep(shard_index);
                presence.table.sweep(shard_index);
            }
        }
        if topology.shared_shard().status.connection().is_none() {
            nodes.sweep();
        }
    }

    fn tick(&self, at: Duration) {
        self.components.presence.table.tick(at);
    }

    fn channels(&self) -> usize {
        self.components.subscriptions.interest.channels()
    }

    fn health(&self) -> Health {
        self.components.topology.shards.iter().find_map(|shard| shard.status.cause()).map_or(Ok(()), Err)
    }

    fn warnings(&self) -> Vec<Box<str>> {
        let of = |shard: &Shard| {
            let unfit = shard.unfit.lock().unwrap_or_else(PoisonError::into_inner);
            unfit.iter().map(|(_, why)| why.as_str().into()).collect::<Vec<_>>()
        };
        let settings = self.components.topology.shards.iter().flat_map(of);
        settings.chain(exchange::warning(&self.components.context).map(Into::into)).collect()
    }
}

#[cfg(test)]
mod tests;
