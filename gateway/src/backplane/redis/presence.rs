//! `Presence` writes the members of this node to Redis in batches, and reads those of other nodes. The
//! entries of a node are valid while the node is alive.
//!
//! Members and users of a channel are stored on the channel's server, and each server is written to
//! independently. The list of a node's channels is on the shared server.

pub(crate) mod table;
pub(crate) mod occupancy;
pub(crate) mod present;
pub(crate) mod list;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value, pipe};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::backplane::TOO_MANY_MEMBERS;
use crate::backplane::redis::connection::client::{call_all, is_elsewhere, refusal};
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::format::keys::Keys;
use crate::backplane::redis::format::script::LISTED_MAX;
use crate::backplane::redis::format::wire;
use crate::backplane::redis::presence::occupancy::{Answer, RecordReply};
use crate::backplane::redis::presence::present::Write;
use crate::backplane::redis::presence::table::PresenceTable;
use crate::backplane::redis::topology::Topology;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::push::Member;
use crate::telemetry::backplane::Trouble;

/// Maximum number of channels and members in one batch.
const CHANNELS_MAX: usize = 256;
const MEMBERS_MAX: usize = 4096;

/// How long the members of a node are kept without renewal. Readers know of its death much earlier.
const KEPT: Duration = Duration::from_secs(120);

/// Time until every channel was renewed once.
const ROUND: Duration = Duration::from_secs(30);

/// Pause after Redis has refused a write.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Pause after a server has said that it does not have the channel: the slot map is updated meanwhile.
const MOVED_PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Presence {
    context: Arc<Context>,
    topology: Arc<Topology>,
    pub(crate) table: PresenceTable,
}

impl Presence {
    pub(crate) fn new(context: Arc<Context>, topology: Arc<Topology>) -> Self {
        let (slot_map, teller) = (topology.slot_map.clone(), context.teller.clone());
        let table = PresenceTable::new(slot_map, topology.shards.len(), teller);
        Self { context, topology, table }
    }

    /// Writes changes to one server and renews the rest, until the connection fails.
    pub(crate) async fn run(&self, server: &ServerConnection) -> Cause {
        let Some(mut connection) = server.connections.first().cloned() else { return gone() };
        let mut renewals = every(ROUND / PresenceTable::SHARDS as u32);
        let mut shard = 0;
        loop {
            let done = tokio::select! {
                biased;
                // Renewals first: constant changes must not prevent them.
                _ = renewals.tick() => {
                    shard += 1;
                    self.renew(server, &mut connection, shard).await
                }
                () = self.table.changed(server.shard) => self.write(server, &mut connection).await,
            };
            if let Err(cause) = done {
                return cause;
            }
        }
    }

    async fn write(
        &self,
        server: &ServerConnection,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Cause> {
        let mut batch = self.table.take(server.shard, CHANNELS_MAX, MEMBERS_MAX);
        if batch.writes.is_empty() {
            return Ok(());
        }
        let node = self.context.node_name();
        let mut pipeline = pipe();
        // The indices of the replies for each write: to its members, and to its record.
        let (mut commands, mut indices) = (0, Vec::new());
        let mut next = || {
            commands += 1;
            commands - 1
        };
        for write in &batch.writes {
            let of_members = write.of_members.then(&mut next);
            if write.of_members {
                add(&mut pipeline, &self.context.keys, &server.scripts.presence_write, &node, write);
            }
            if let Some(record) = &write.record {
                let key = self.context.keys.occupancy(&write.channel);
                let script = &server.scripts.occupancy;
                pipeline.add_command(record.command(script, &key, &node, &server.replication_id));
            }
            indices.push((of_members, write.record.is_some().then(&mut next)));
        }
        // Each write states the complete entry, not a change: one that failed, or may have failed, is
        // repeated.
        let replies = call_all(connection, &pipeline, commands, self.context.config.timeout).await?;
        let mut is_malformed = false;
        let answer = |index: usize| match indices[index].1.map(|reply| &replies[reply]) {
            Some(Value::ServerError(_)) | None => Answer::Refused,
            Some(reply) => RecordReply::read(reply).map_or_else(
                || {
                    is_malformed = true;
                    Answer::Refused
                },
                Answer::Reply,
            ),
        };
        batch.records_answered(answer, self.context.clock.now().at);
        if is_malformed {
            self.context.metrics.malformed();
            sleep(REFUSED_PAUSE).await;
        }
        let was_written = |index: usize| {
            indices[index].0.is_none_or(|reply| !matches!(replies[reply], Value::ServerError(_)))
        };
        batch.answered(was_written);
        self.pause_if_refused(&replies).await
    }

    /// Renews the expiry of the channels of one part of the table. If the counts in Redis differ from those
    /// here, everything is written again.
    async fn renew(
        &self,
        server: &ServerConnection,
        connection: &mut MultiplexedConnection,
        shard: usize,
    ) -> Result<(), Cause> {
        let node = self.context.node_name();
        self.table.confirm_occupied(shard, server.shard);
        let channels = self.table.quiet_in(shard, server.shard);
        for channels in channels.chunks(CHANNELS_MAX) {
            let mut pipeline = pipe();
            for channel in channels {
                let (members, users) =
                    (self.context.keys.presence(channel, &node), self.context.keys.users(channel, &node));
                for key in [&members, &users] {
                    pipeline.cmd("PEXPIRE").arg(key).arg(KEPT.as_millis() as u64);
                }
                pipeline.cmd("HLEN").arg(&members).cmd("SCARD").arg(&users);
            }
            let replies =
                call_all(connection, &pipeline, channels.len() * 4, self.context.config.timeout).await?;
            for (channel, answers) in channels.iter().zip(replies.chunks(4)) {
                // Any other reply is a refusal, so nothing is known.
                if let [_, _, Value::Int(connections), Value::Int(users)] = *answers {
                    let number = |count| usize::try_from(count).unwrap_or(0);
                    self.table.compare(channel, number(connections), number(users));
                }
            }
        }
        Ok(())
    }

    /// Pauses after a refusal. `Err` if another connection is needed.
    pub(crate) async fn pause_if_refused(&self, replies: &[Value]) -> Result<(), Cause> {
        let refused = replies.iter().find_map(|reply| match reply {
            Value::ServerError(error) => Some(error),
            _ => None,
        });
        let Some(error) = refused else { return Ok(()) };
        if is_elsewhere(error.code()) {
            // The server is healthy: the slot map is updated from the Cluster.
            self.topology.moved.notify_one();
            sleep(MOVED_PAUSE).await;
            return Ok(());
        }
        let cause = refusal(error.code(), error.details().unwrap_or_default());
        self.context.metrics.failed(&cause.to_string());
        if cause.trouble == Trouble::Unreachable {
            return Err(cause);
        }
        sleep(REFUSED_PAUSE).await;
        Ok(())
    }

    /// Appends the members in a response of Redis to those of this node, unless they are too many.
    pub(crate) fn together(
        &self,
        channel: &Channel,
        read: Vec<Arc<Member>>,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Member>>, ReplyError> {
        let mut members = self.table.members(channel, bytes_max)?;
        let here: HashSet<Arc<str>> = members.iter().map(|member| member.client.clone()).collect();
        members.extend(read.into_iter().filter(|member| !here.contains(&member.client)));
        if members.len() > LISTED_MAX
            || members.iter().map(|member| member.bytes()).sum::<usize>() > bytes_max
        {
            return Err(ReplyError::LIMIT_EXCEEDED.because(TOO_MANY_MEMBERS));
        }
        Ok(members)
    }
}

/// Ticks, and waits after a late tick.
pub(crate) fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The connection was given up.
pub(crate) fn gone() -> Cause {
    Cause::new(Trouble::Unreachable, "the connection has ended")
}

fn add(pipeline: &mut Pipeline, keys: &Keys, script: &str, node: &str, write: &Write) {
    let command = pipeline.cmd("EVALSHA").arg(script).arg(2);
    command.arg(keys.presence(&write.channel, node)).arg(keys.users(&write.channel, node));
    command.arg(KEPT.as_millis() as u64).arg(u8::from(write.anew));
    command.arg(write.came.len() * 2);
    for member in &write.came {
        command.arg(&*member.client).arg(wire::member_bytes(member));
    }
    for texts in [&write.users_came, &write.gone, &write.users_gone] {
        command.arg(texts.len());
        texts.iter().for_each(|text| {
            command.arg(&**text);
        });
    }
}
