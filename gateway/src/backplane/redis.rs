//! [`Redis`] connects several gateways through Redis: a publication at one of them reaches the subscribers of
//! all.
//!
//! Workers never touch a socket. A request goes into a queue of the control runtime, and its response comes
//! through the inbox of the worker. `gateway/REDIS.md` describes the data in Redis and the effects of every
//! failure.

mod format;
mod topology;
mod connection;
mod commands;
mod subscriptions;
mod membership;
mod limits;
mod presence;
mod clients;
mod survey;
pub mod inspect;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use self::clients::Clients;
use self::commands::dispatch;
use self::format::wire;
pub use self::limits::{Reconciler, States};
use self::membership::nodes;
use self::presence::Presence;
pub use self::survey::Answerer;
use self::survey::Surveys;
use self::topology::shard;
use super::{
    Backplane, Count, Health, Most, NewPublication, Node, Others, Outcome, Page, Published, Recovery,
    ReplyTo, Retention, Top, find_room,
};
use crate::backplane::Order;
use crate::backplane::inbox::Inbox;
use crate::backplane::redis::commands::dispatch::{NOT_PUBLISHED, UNAVAILABLE};
use crate::backplane::redis::commands::repeats::Repeats;
use crate::backplane::redis::commands::request::{Charges, Request, What};
pub use crate::backplane::redis::connection::server_connection::LOOKUPS_MAX;
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::format::keys::Keys;
use crate::backplane::redis::membership::agreement::Agreement;
pub use crate::backplane::redis::membership::agreement::Plugins;
use crate::backplane::redis::membership::agreement::rules::Effective;
use crate::backplane::redis::membership::nodes::Nodes;
use crate::backplane::redis::subscriptions::interest::{Added, Interest};
use crate::backplane::redis::topology::shard::{Shard, ShardQueues};
use crate::backplane::redis::topology::slots::SlotMap;
use crate::charge::{Account, Charge};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::connection_id::ConnectionIds;
use crate::mix::mix;
use crate::plugin::event::Client;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::ReplyError;
use crate::protocol::command::{HistoryQuery, Position};
use crate::protocol::push::{Member, Publication, PushKind};
use crate::shutdown::Phase;
use crate::survey::Question;
use crate::telemetry::backplane::BackplaneMetrics;

/// See the module.
pub struct Redis {
    shared: Arc<Shared>,
}

/// The part that runs on the control runtime.
pub struct Runner {
    shared: Arc<Shared>,
    /// One for each shard, in their order.
    shard_queues: Vec<ShardQueues>,
}

/// State shared by the workers and the control runtime.
struct Shared {
    gateway: Arc<Config>,
    config: config::Redis,
    keys: Keys,
    inboxes: Arc<[Arc<Inbox>]>,
    ids: ConnectionIds,
    clock: Clock,
    /// Random identifier of this process.
    node: u64,
    interest: Interest,
    nodes: Nodes,
    agreement: Agreement,
    repeats: Repeats,
    /// Whether there has ever been a usable connection.
    linked: AtomicBool,
    slot_map: Arc<SlotMap>,
    shards: Box<[Shard]>,
    /// Whether the servers of the topology are known.
    mapped: watch::Sender<bool>,
    /// Notified when a slot was found at another server than expected.
    moved: Notify,
    presence: Presence,
    clients: Clients,
    surveys: Surveys,
    /// Bytes of the publications among the pending requests.
    questions: Account,
    /// Number of clients of dead nodes for which `on-disconnect` was called.
    departed: AtomicU64,
    phase: watch::Receiver<Phase>,
    metrics: Arc<BackplaneMetrics>,
    /// Number of connections made so far.
    links: AtomicU64,
    epochs: AtomicU64,
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
    /// Name of this node for people: machine and address.
    pub name: Box<str>,
    /// The phase of the process.
    pub phase: watch::Receiver<Phase>,
    /// Two random numbers: they make this process, and the streams it begins, unique.
    pub random: [u64; 2],
}

impl Redis {
    /// Creates the two halves of the backplane. Nothing connects before [`Runner::run`].
    pub fn new(redis: &config::Redis, parts: Parts) -> (Self, Runner) {
        let Parts { config, inboxes, ids, clock, metrics, name, phase, random: [node, epochs] } = parts;
        let (slot_map, shards, shard_queues) = shard::all(redis, &metrics);
        let shared = Arc::new(Shared {
            keys: Keys::new(&redis.prefix),
            interest: Interest::new(config.memory.channels_max, slot_map.clone(), shards.len()),
            nodes: Nodes::new(name, clock.now().unix),
            agreement: Agreement::new(&config, shards.len() * redis.connections),
            linked: AtomicBool::new(false),
            repeats: Repeats::default(),
            presence: Presence::new(slot_map.clone(), shards.len()),
            mapped: watch::channel(!slot_map.are_moving()).0,
            slot_map,
            shards,
            moved: Notify::new(),
            links: AtomicU64::new(0),
            clients: Clients::new(inboxes.len()),
            surveys: Surveys::new(),
            questions: Account::default(),
            departed: AtomicU64::new(0),
            phase,
            gateway: config,
            config: redis.clone(),
            inboxes,
            ids,
            clock,
            node,
            metrics,
            epochs: AtomicU64::new(epochs),
        });
        (Self { shared: shared.clone() }, Runner { shared, shard_queues })
    }

    fn ask<T>(&self, what: What, reply_to: ReplyTo, at: Duration) -> Outcome<T> {
        self.ask_at(what, reply_to, at, [None, None])
    }

    fn ask_at<T>(&self, what: What, reply_to: ReplyTo, at: Duration, charges: Charges) -> Outcome<T> {
        match self.shared.admit(reply_to) {
            Ok(reply_to) => {
                let until = at + self.shared.config.timeout;
                self.shared.dispatch(Request { what, reply_to, until, _charges: charges });
                Outcome::Pending
            }
            Err(error) => Outcome::Ready(Err(error)),
        }
    }

    fn broadcast_presence(&self, channel: &Channel, member: &Arc<Member>, came: bool) {
        if !self.shared.broadcast(Some(channel.clone()), wire::presence(member, came)) {
            let member = member.clone();
            let kind = if came { PushKind::Join(member) } else { PushKind::Leave(member) };
            self.shared.deliver(channel.clone(), kind, None);
        }
    }
}

impl Backplane for Redis {
    fn answers_later(&self) -> bool {
        true
    }

    fn add_interest(&self, worker: usize, channel: &Channel, reply_to: ReplyTo) -> Outcome<()> {
        let shared = &self.shared;
        let link = shared.shard(channel).status.link();
        if link.is_none()
            && let Some(error) = shared.refusal()
        {
            return Outcome::Ready(Err(error));
        }
        let until = shared.clock.now().at + shared.config.timeout;
        let reply_to = match self.shared.admit(reply_to) {
            Ok(reply_to) => reply_to,
            Err(error) => return Outcome::Ready(Err(error)),
        };
        let announced = shared.interest.add(worker, channel, link, reply_to, until);
        match announced {
            Added::Waits => return Outcome::Pending,
            Added::Already => (),
            Added::Full => {
                shared.metrics.answered();
                let error = ReplyError::LIMIT_EXCEEDED.because("the gateway has as many channels as it may");
                return Outcome::Ready(Err(error));
            }
        }
        shared.metrics.answered();
        Outcome::Ready(Ok(()))
    }

    fn remove_interest(&self, worker: usize, channel: &Channel) {
        self.shared.interest.remove(worker, channel);
    }

    fn publish(&self, new: NewPublication<'_>, reply_to: ReplyTo, at: Duration) -> Outcome<Published> {
        let NewPublication { channel, data, json, info, mut retention, conditions, charge } = new;
        let local = |workers: Option<u64>, charge: Option<Charge>| {
            let workers = workers.unwrap_or_else(|| self.shared.interest.workers(channel, None));
            if let Err(error) = find_room(&self.shared.inboxes, workers, data.len()) {
                return Outcome::Ready(Err(error));
            }
            let publication =
                Arc::new(Publication { data: data.clone(), json, offset: 0, info: info.clone() });
            let kind = PushKind::Publication { publication, epoch: Arc::default() };
            self.shared.deliver_charged(channel.clone(), kind, Some(workers), charge);
            Outcome::Ready(Ok(Published::default()))
        };
        // Another node may have used the same key.
        let once = conditions.as_ref().is_some_and(|conditions| conditions.idempotency.is_some());
        if let Target::Connection(id) = channel.target()
            && !once
            && let Some(worker) = self.shared.worker_of(id)
        {
            return local(Some(1 << worker), charge);
        }
        if matches!(channel.target(), Target::Connection(_)) {
            retention.size = 0;
        }
        let writes = retention.size > 0 || once;
        let status = &self.shared.shard(channel).status;
        if status.link().is_none()
            && let Some(error) = self.shared.refusal()
        {
            return Outcome::Ready(Err(error));
        }
        let what = if writes && status.takes_no_writes() {
            return Outcome::Ready(Err(UNAVAILABLE.because(NOT_PUBLISHED)));
        } else if writes {
            let body = wire::body(&data, json, info.as_deref());
            What::Publish { channel: channel.clone(), body, retention, conditions }
        } else if status.link().is_none() {
            // Other gateways keep this channel's history: clients that recover there would miss the
            // publication.
            if self.shared.agreement.rules.raise(channel, retention).size > 0 {
                return Outcome::Ready(Err(UNAVAILABLE.because(NOT_PUBLISHED)));
            }
            return local(None, charge);
        } else {
            let address = (channel.target() != Target::Channel).then_some(channel);
            let body = wire::body(&data, json, info.as_deref());
            let message = wire::unnumbered(address, &body);
            What::Spread { to: Some(channel.clone()), message, publication: true }
        };
        let room = self.shared.questions.charge(data.len(), self.shared.config.questions_bytes_max);
        if room.is_none() {
            return Outcome::Ready(Err(ReplyError::TOO_MANY_REQUESTS.because(dispatch::BUSY)));
        }
        self.ask_at(what, reply_to, at, [room, charge])
    }

    fn history(
        &self,
        channel: &Channel,
        query: &HistoryQuery,
        most: Most,
        retention: Retention,
        reply_to: ReplyTo,
        at: Duration,
    ) -> Outcome<Page> {
        if query.reverse && query.since.as_ref().is_some_and(|since| since.offset == 0) {
            return Outcome::Ready(Err(ReplyError::BAD_REQUEST.because("there is nothing before offset 0")));
        }
        let (channel, query) = (channel.clone(), query.clone());
        let what = What::History { channel, query, most, retention };
        self.ask(what, reply_to, at)
    }

    fn recover(
        &self,
        channel: &Channel,
        since: Option<&Position>,
        most: Most,
        retention: Retention,
        reply_to: ReplyTo,
        at: Duration,
    ) -> Outcome<Recovery> {
        match self.shared.admit(reply_to) {
            Ok(reply_to) => {
                let (channel, since) = (channel.clone(), since.cloned());
                let what = What::Recover { channel, since, most, retention };
                let until = at + self.shared.config.timeout;
                self.shared.recover(Request { what, reply_to, until, _charges: [None, None] });
                Outcome::Pending
            }
            Err(error) => Outcome::Ready(Err(error)),
        }
    }

    fn top(&self, channel: &Channel) -> Option<Top> {
        self.shared.interest.top(channel)
    }

    fn presence_add(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool) {
        if keep {
            self.shared.presence.enter(channel, member);
        }
        if announce {
            self.broadcast_presence(channel, member, true);
        }
    }

    fn presence_remove(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool) {
        if keep {
            self.shared.presence.leave(channel, member);
        }
        if announce {
            self.broadcast_presence(channel, member, false);
        }
    }

    fn presence(&self, channel: &Channel, bytes_max: usize, reply_to: ReplyTo) -> Outcome<Vec<Arc<Member>>> {
        if self.shared.agreement.rules.presence_is_partial(channel) {
            return Outcome::Ready(Err(UNAVAILABLE.because(dispatch::PARTIAL)));
        }
        let Some(others) = self.shared.nodes.known_others() else {
            return Outcome::Ready(Err(UNAVAILABLE.because(dispatch::AWAY)));
        };
        let nodes: Vec<_> = others.into_iter().map(|node| node.id).collect();
        if nodes.is_empty() && self.shared.shard(channel).status.link().is_some() {
            return Outcome::Ready(self.shared.presence.members(channel, bytes_max));
        }
        let at = self.shared.clock.now().at;
        self.ask(What::Presence { channel: channel.clone(), nodes, bytes_max }, reply_to, at)
    }

    fn count(&self, channel: &Channel, reply_to: ReplyTo) -> Outcome<Count> {
        if self.shared.agreement.rules.presence_is_partial(channel) {
            return Outcome::Ready(Err(UNAVAILABLE.because(dispatch::PARTIAL)));
        }
        let (connections, users, unwritten) = self.shared.presence.count(channel);
        let Some(others) = self.shared.nodes.known_others() else {
            return Outcome::Ready(Err(UNAVAILABLE.because(dispatch::AWAY)));
        };
        if others.is_empty() && self.shared.shard(channel).status.link().is_some() {
            return Outcome::Ready(Ok(Count { connections, users }));
        }
        let here = nodes::name(self.shared.node).into();
        let nodes = [here].into_iter().chain(others.into_iter().map(|node| node.id)).collect();
        let what = What::Count { channel: channel.clone(), nodes, connections, users: unwritten };
        self.ask(what, reply_to, self.shared.clock.now().at)
    }

    fn order(&self, address: &Channel, except: Option<u64>, order: &Order) -> Result<(), ReplyError> {
        let worker = match address.target() {
            Target::Connection(id) => self.shared.worker_of(id),
            Target::User(_) | Target::Channel => None,
        };
        // The other workers get the order even if one refuses it.
        let told = self.shared.order(worker, address, except, order);
        if worker.is_none() {
            let message = wire::order(self.shared.node, address, order);
            if !self.shared.broadcast(None, message) {
                return Err(UNAVAILABLE.because("other nodes cannot be reached at the moment: try again"));
            }
        }
        if told { Ok(()) } else { Err(ReplyError::TOO_MANY_REQUESTS) }
    }

    fn others(&self) -> Vec<Node> {
        let mut others = self.shared.nodes.others();
        for node in &mut others {
            node.differs = self.shared.agreement.differences(&node.id);
        }
        others
    }

    fn ask_others(&self, question: &Question) -> Others {
        self.ask_all(question)
    }

    fn register(&self, client: &Arc<Client>, since: u64) {
        self.shared.clients.register(client, since);
    }

    fn deregister(&self, client: &Client) {
        self.shared.clients.deregister(client.number);
    }

    fn sweep(&self, _: Duration) {
        for (shard_index, shard) in self.shared.shards.iter().enumerate() {
            if shard.is_away() {
                self.shared.interest.sweep(shard_index);
                self.shared.presence.sweep(shard_index);
            }
        }
        if self.shared.shards[self.shared.slot_map.shared_shard()].status.link().is_none() {
            self.shared.nodes.sweep(&self.shared);
        }
    }

    fn channels(&self) -> usize {
        self.shared.interest.channels()
    }

    fn health(&self) -> Health {
        self.shared.shards.iter().find_map(|shard| shard.status.cause()).map_or(Ok(()), Err)
    }

    fn warnings(&self) -> Vec<Box<str>> {
        let of = |shard: &Shard| {
            let unfit = shard.unfit.lock().unwrap_or_else(PoisonError::into_inner);
            unfit.iter().map(|(_, why)| why.as_str().into()).collect::<Vec<_>>()
        };
        self.shared.shards.iter().flat_map(of).collect()
    }
}

impl Shared {
    /// The shard of a channel.
    fn shard(&self, channel: &Channel) -> &Shard {
        &self.shards[self.slot_map.shard_of(channel)]
    }

    /// Index of the shard that a request is sent to.
    fn shard_index_of(&self, what: &What) -> usize {
        what.channel().map_or_else(|| self.slot_map.shared_shard(), |channel| self.slot_map.shard_of(channel))
    }

    /// The connection to the shared server, which holds the keys of all nodes, if there is one.
    fn home(&self) -> Option<Arc<ServerConnection>> {
        self.shards[self.slot_map.shared_shard()].links.borrow().clone()
    }

    /// The retention of a channel with recovery.
    fn recoverable(&self, channel: &Channel) -> Option<Retention> {
        let namespace = self.gateway.namespaces.of(channel)?;
        namespace.recovery.then(|| self.agreement.rules.raise(channel, Retention::of(namespace)))
    }

    /// Why no channel is served, if a shard other than `but` has found a reason.
    fn conflict(&self, but: Option<usize>) -> Option<Arc<str>> {
        let others = self.shards.iter().enumerate().filter(|(shard_index, _)| Some(*shard_index) != but);
        let mut found =
            others.map(|(_, shard)| shard.conflict.lock().unwrap_or_else(PoisonError::into_inner).clone());
        found.find_map(|conflict| conflict)
    }

    /// The error for a request without a connection, if no channel is served.
    fn refusal(&self) -> Option<ReplyError> {
        self.conflict(None).map(|_| UNAVAILABLE.because(dispatch::DISAGREES))
    }

    fn has_linked(&self) {
        self.linked.store(true, Ordering::Relaxed);
    }

    fn has_served(&self) -> bool {
        self.linked.load(Ordering::Relaxed)
    }

    /// The identity of the server whose streams continue over a connection.
    fn identity<'a>(&self, link: &'a ServerConnection) -> Identity<'a> {
        let since = self.shards[link.shard].since.load(Ordering::Acquire);
        Identity { id: &link.server, since, text: with_since(&link.server, since) }
    }

    /// A unique epoch for a new stream, different from those of other nodes.
    fn fresh_epoch(&self) -> String {
        let count = self.epochs.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        format!("{:016x}", mix(count))
    }
}

/// Identity of a server whose streams continue: its replication id, and the time since which streams count,
/// if limited.
struct Identity<'a> {
    id: &'a str,
    since: u64,
    text: Cow<'a, str>,
}

impl Identity<'_> {
    /// For any channel.
    fn any(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.text)
    }

    /// For a channel under these rules.
    fn of(&self, channel: &Channel, rules: Option<&Effective>) -> Cow<'_, str> {
        match rules.map_or(0, |rules| rules.since(channel)) {
            since if since > self.since => with_since(self.id, since),
            _ => self.any(),
        }
    }
}

fn with_since(id: &str, since: u64) -> Cow<'_, str> {
    if since == 0 { Cow::Borrowed(id) } else { Cow::Owned(format!("{id}/{since}")) }
}

#[cfg(test)]
mod tests;
