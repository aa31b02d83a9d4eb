//! `Takeover` cleans up the data of a dead gateway. One of the others claims it for a while; if that one dies
//! too, the next continues where it stopped.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::backplane::inbox::Delivery;
use crate::backplane::redis::Shared;
use crate::backplane::redis::clients::record::{self, Record};
use crate::backplane::redis::connection::server_connection::{ServerConnection, call};
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::membership::members::Left;
use crate::backplane::redis::membership::nodes::name;
use crate::connection_id::ConnectionIds;
use crate::plugin::event::DisconnectEvent;
use crate::protocol::code::Close;
use crate::shutdown::Phase;
use crate::telemetry::backplane::Trouble;

const CLAIMING: &str = include_str!("../lua/claim.lua");
const SETTLED: &str = include_str!("../lua/taken_over.lua");
const REPORTED: &str = include_str!("../lua/reported.lua");

/// How long a claim holds. It is renewed with every step.
const CLAIM: Duration = Duration::from_secs(10);

/// Maximum time that workers may take for the clients of one step.
const TOLD: Duration = Duration::from_secs(8);

/// Number of channels or clients in one step.
pub(crate) const STEP: usize = 64;

/// Number of beats until data on an unavailable server is tried again, unless the server returns earlier.
const PATIENCE: u32 = 20;

/// Data of one gateway on servers that are away.
struct Waiting {
    shards: BTreeSet<usize>,
    beats: u32,
}

impl Waiting {
    /// Whether to keep waiting.
    fn goes_on(&mut self, shared: &Shared) -> bool {
        self.beats += 1;
        let away =
            |shard: &usize| shared.shards.get(*shard).is_some_and(|shard| shard.status.link().is_none());
        self.beats < PATIENCE && self.shards.iter().all(away)
    }
}

/// Takes over dead gateways until the connection fails.
pub(crate) async fn take_over_dead_nodes(shared: Arc<Shared>, link: Arc<ServerConnection>) -> Cause {
    let mut waiting: HashMap<Box<str>, Waiting> = HashMap::new();
    loop {
        shared.nodes.buried.notified().await;
        let dead = std::mem::take(&mut *shared.nodes.dead.lock().unwrap_or_else(PoisonError::into_inner));
        // Plugins are not loaded yet, or workers are ending: another gateway takes over, or the next beat
        // lists it again.
        if *shared.phase.borrow() != Phase::Running {
            continue;
        }
        waiting.retain(|node, _| dead.contains(node));
        for node in dead {
            if waiting.get_mut(&node).is_some_and(|waiting| waiting.goes_on(&shared)) {
                continue;
            }
            waiting.remove(&node);
            match (Takeover { shared: &shared, link: &link, node: &node }).run().await {
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

/// The takeover of one gateway.
pub(crate) struct Takeover<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    link: &'a ServerConnection,
    pub(crate) node: &'a str,
}

impl Takeover<'_> {
    /// Returns the shards without a connection that it has to wait for.
    async fn run(&self) -> Result<BTreeSet<usize>, Cause> {
        const LATER: BTreeSet<usize> = BTreeSet::new();
        let Some(mut connection) = self.link.connections.first().cloned() else { return Ok(LATER) };
        if !self.claim(&mut connection).await? {
            return Ok(LATER);
        }
        let Some(Left { members, away, failed }) = self.members_leave(&mut connection).await? else {
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
        let keys = &self.shared.keys;
        let mut command = redis::cmd("EVAL");
        command.arg(SETTLED).arg(3).arg(keys.dead()).arg(keys.presence_of(self.node));
        command.arg(keys.clients_of(self.node));
        command.arg(self.node).arg(name(self.shared.node));
        call(&mut connection, &command, self.shared.config.timeout).await?;
        tracing::info!(node = self.node, members, clients, "what a gateway left behind is settled");
        Ok(LATER)
    }

    /// Claims the takeover, or extends the claim. False if this gateway must not continue.
    pub(crate) async fn claim(&self, connection: &mut MultiplexedConnection) -> Result<bool, Cause> {
        let mut command = redis::cmd("EVAL");
        command.arg(CLAIMING).arg(2).arg(self.shared.keys.dead()).arg(self.shared.keys.leases());
        command.arg(self.node).arg(name(self.shared.node)).arg(CLAIM.as_millis() as u64);
        Ok(call(connection, &command, self.shared.config.timeout).await? == Value::Int(1))
    }

    /// Calls `on-disconnect` for the clients. Returns their number; `None` if another gateway continues, or
    /// this one later.
    async fn disconnect_clients(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<usize>, Cause> {
        let Self { shared, node, .. } = *self;
        let clients = shared.keys.clients_of(node);
        let mut count = 0;
        loop {
            let mut some = redis::cmd("HRANDFIELD");
            some.arg(&clients).arg(STEP).arg("WITHVALUES");
            let listed = match call(connection, &some, shared.config.timeout).await? {
                Value::Array(listed) => record::pairs(listed),
                _ => Vec::new(),
            };
            if listed.is_empty() {
                return Ok(Some(count));
            }
            let read = listed.len();
            let told = self.notify_plugins(listed).await;
            if told.is_empty() {
                return Ok(None);
            }
            let mut command = redis::cmd("EVAL");
            command.arg(REPORTED).arg(2).arg(shared.keys.dead()).arg(&clients);
            command.arg(node).arg(name(shared.node));
            told.iter().for_each(|id| {
                command.arg(&**id);
            });
            // If the gateway is alive after all, these are its clients again, and it calls `on-disconnect`
            // when they leave.
            let settles = call(connection, &command, shared.config.timeout).await? == Value::Int(1);
            count += told.len();
            if !settles || told.len() < read || !self.claim(connection).await? {
                return Ok(None);
            }
        }
    }

    /// Calls `on-disconnect` for clients on this gateway's workers. Returns the ids of the confirmed ones.
    async fn notify_plugins(&self, listed: Vec<(Box<str>, Vec<u8>)>) -> Vec<Box<str>> {
        let shared = self.shared;
        let now = shared.clock.now();
        let (mut told, mut under_way) = (Vec::new(), Vec::new());
        for (id, bytes) in listed {
            let count = shared.departed.fetch_add(1, Ordering::Relaxed);
            let Some(Record { client, since }) = record::read(&id, ConnectionIds::taken_over(count), &bytes)
            else {
                // No other gateway would understand the record either.
                shared.metrics.malformed();
                told.push(id);
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
            let worker = &shared.inboxes[count as usize % shared.inboxes.len()];
            worker.put(Delivery::Disconnected(Box::new(event), sender));
            under_way.push((id, receiver));
        }
        // A worker that does not answer in time is busy or ending: the client is retried later.
        let until = Instant::now() + TOLD;
        for (id, receiver) in under_way {
            if let Ok(Ok(())) = timeout_at(until, receiver).await {
                told.push(id);
            }
        }
        told
    }
}
