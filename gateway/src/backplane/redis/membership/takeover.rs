//! `Takeovers` clean up the data of a dead gateway. One of the others claims it for a while; if that one dies
//! too, the next continues where it stopped.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::backplane::inbox::Delivery;
use crate::backplane::redis::clients::record::{self, Record};
use crate::backplane::redis::commands::dispatch::Requests;
use crate::backplane::redis::connection::client::call;
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::membership::claim::{Claim, STEP};
use crate::backplane::redis::membership::members::{Left, Members};
use crate::backplane::redis::membership::nodes::Nodes;
use crate::backplane::redis::presence::Presence;
use crate::backplane::redis::subscriptions::Subscriptions;
use crate::backplane::redis::topology::Topology;
use crate::connection_id::ConnectionIds;
use crate::plugin::event::DisconnectEvent;
use crate::protocol::code::Close;
use crate::shutdown::Phase;
use crate::telemetry::backplane::Trouble;

const TAKEN_OVER: &str = include_str!("../lua/taken_over.lua");
const REPORTED: &str = include_str!("../lua/reported.lua");

/// Maximum time that workers may take for the clients of one step.
const NOTIFIED_WITHIN: Duration = Duration::from_secs(8);

/// Number of beats until data on an unavailable server is tried again, unless the server returns earlier.
const PATIENCE: u32 = 20;

/// Data of one gateway on servers that are away.
struct Waiting {
    shards: BTreeSet<usize>,
    beats: u32,
}

impl Waiting {
    /// Whether to keep waiting.
    fn goes_on(&mut self, topology: &Topology) -> bool {
        self.beats += 1;
        let away = |shard: &usize| {
            topology.shards.get(*shard).is_some_and(|shard| shard.status.connection().is_none())
        };
        self.beats < PATIENCE && self.shards.iter().all(away)
    }
}

/// See the module.
pub(crate) struct Takeovers {
    context: Arc<Context>,
    topology: Arc<Topology>,
    requests: Arc<Requests>,
    subscriptions: Arc<Subscriptions>,
    presence: Arc<Presence>,
    nodes: Arc<Nodes>,
    /// Number of clients of dead nodes for which `on-disconnect` was called.
    departed: AtomicU64,
}

impl Takeovers {
    pub(crate) fn new(
        context: Arc<Context>,
        topology: Arc<Topology>,
        requests: Arc<Requests>,
        subscriptions: Arc<Subscriptions>,
        presence: Arc<Presence>,
        nodes: Arc<Nodes>,
    ) -> Self {
        Self { context, topology, requests, subscriptions, presence, nodes, departed: AtomicU64::new(0) }
    }

    /// Takes over dead gateways until the connection to the shared server fails.
    pub(crate) async fn run(&self, server: &ServerConnection) -> Cause {
        let mut waiting: HashMap<Box<str>, Waiting> = HashMap::new();
        loop {
            let dead = self.nodes.dead().await;
            // Plugins are not loaded yet, or workers are ending: another gateway takes over, or the next
            // beat lists it again.
            if *self.context.phase.borrow() != Phase::Running {
                continue;
            }
            waiting.retain(|node, _| dead.contains(node));
            for node in dead {
                if waiting.get_mut(&node).is_some_and(|waiting| waiting.goes_on(&self.topology)) {
                    continue;
                }
                waiting.remove(&node);
                let claim = Claim { context: &self.context, node: &node };
                match (Takeover { all: self, server, node: &node, claim }).run().await {
                    Ok(shards) if shards.is_empty() => (),
                    Ok(shards) => {
                        waiting.insert(node, Waiting { shards, beats: 0 });
                    }
                    // The next beat lists it again.
                    Err(cause) if matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => (),
                    Err(cause) => return cause,
                }
            }
        }
    }
}

/// The takeover of one gateway.
struct Takeover<'a> {
    all: &'a Takeovers,
    server: &'a ServerConnection,
    node: &'a str,
    claim: Claim<'a>,
}

impl Takeover<'_> {
    /// Returns the shards without a connection that it has to wait for.
    async fn run(&self) -> Result<BTreeSet<usize>, Cause> {
        const LATER: BTreeSet<usize> = BTreeSet::new();
        let Some(mut connection) = self.server.connections.first().cloned() else { return Ok(LATER) };
        if !self.claim.take(&mut connection).await? {
            return Ok(LATER);
        }
        let Some(Left { members, away, failed }) = self.members().leave(&mut connection).await? else {
            return Ok(LATER);
        };
        // Clients are disconnected even if a server that only holds members is away.
        let Some(clients) = self.disconnect_clients(&mut connection).await? else { return Ok(LATER) };
        if failed {
            return Ok(LATER);
        }
        if !away.is_empty() {
            return Ok(away);
        }
        let Context { keys, config, .. } = &*self.all.context;
        let mut command = redis::cmd("EVAL");
        command.arg(TAKEN_OVER).arg(3).arg(keys.dead()).arg(keys.presence_of(self.node));
        command.arg(keys.clients_of(self.node));
        command.arg(self.node).arg(self.all.context.node_name());
        call(&mut connection, &command, config.timeout).await?;
        tracing::info!(node = self.node, members, clients, "the data of a dead gateway was taken over");
        Ok(LATER)
    }

    fn members(&self) -> Members<'_> {
        let Takeovers { context, topology, requests, subscriptions, presence, .. } = self.all;
        Members { context, topology, requests, subscriptions, presence, claim: &self.claim }
    }

    /// Calls `on-disconnect` for the clients. Returns their number; `None` if another gateway continues, or
    /// this one later.
    async fn disconnect_clients(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<usize>, Cause> {
        let Self { node, .. } = *self;
        let context = &self.all.context;
        let clients = context.keys.clients_of(node);
        let mut count = 0;
        loop {
            let mut some = redis::cmd("HRANDFIELD");
            some.arg(&clients).arg(STEP).arg("WITHVALUES");
            let listed = match call(connection, &some, context.config.timeout).await? {
                Value::Array(listed) => record::pairs(listed),
                _ => Vec::new(),
            };
            if listed.is_empty() {
                return Ok(Some(count));
            }
            let read = listed.len();
            let notified = self.notify_plugins(listed).await;
            if notified.is_empty() {
                return Ok(None);
            }
            let mut command = redis::cmd("EVAL");
            command.arg(REPORTED).arg(2).arg(context.keys.dead()).arg(&clients);
            command.arg(node).arg(context.node_name());
            notified.iter().for_each(|id| {
                command.arg(&**id);
            });
            // If the gateway is alive after all, these are its clients again, and it calls `on-disconnect`
            // when they leave.
            let settles = call(connection, &command, context.config.timeout).await? == Value::Int(1);
            count += notified.len();
            if !settles || notified.len() < read || !self.claim.take(connection).await? {
                return Ok(None);
            }
        }
    }

    /// Calls `on-disconnect` for clients on this gateway's workers. Returns the ids of the confirmed ones.
    async fn notify_plugins(&self, listed: Vec<(Box<str>, Vec<u8>)>) -> Vec<Box<str>> {
        let Takeovers { context, departed, .. } = self.all;
        let now = context.clock.now();
        let (mut notified, mut under_way) = (Vec::new(), Vec::new());
        for (id, bytes) in listed {
            let count = departed.fetch_add(1, Ordering::Relaxed);
            let Some(Record { client, since }) = record::read(&id, ConnectionIds::taken_over(count), &bytes)
            else {
                // No other gateway would understand the record either.
                context.metrics.malformed();
                notified.push(id);
                continue;
            };
            let event = DisconnectEvent {
                client: Arc::new(client),
                code: Close::GATEWAY_DIED.code,
                reason: Close::GATEWAY_DIED.reason.into(),
                duration: now.unix.saturating_sub(since),
                now: now.unix,
                at: now.at_millis(),
            };
            let (sender, receiver) = oneshot::channel();
            let worker = &context.inboxes[count as usize % context.inboxes.len()];
            worker.put(Delivery::Disconnected(Box::new(event), sender));
            under_way.push((id, receiver));
        }
        // A worker that does not answer in time is busy or ending: the client is retried later.
        let until = Instant::now() + NOTIFIED_WITHIN;
        for (id, receiver) in under_way {
            if let Ok(Ok(())) = timeout_at(until, receiver).await {
                notified.push(id);
            }
        }
        notified
    }
}
