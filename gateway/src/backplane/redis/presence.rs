//! Writes the presence of this node's connections to Redis in batches, and reads that of other nodes. The
//! entries of a node are valid while the node is alive.
//!
//! Members and users of a channel are stored on the channel's server, and each server is written to
//! independently. The list of a node's channels is on the shared server.

mod present;
mod table;
mod list;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value, pipe};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

pub(super) use self::list::{keep_list, page};
use self::present::Write;
pub(super) use self::table::Presence;
use super::Shared;
use crate::backplane::TOO_MANY_MEMBERS;
use crate::backplane::redis::connection::server_connection::{
    ServerConnection, call_all, is_elsewhere, refusal,
};
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::format::keys::Keys;
use crate::backplane::redis::format::script::LISTED_MAX;
use crate::backplane::redis::format::wire;
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
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Pause after a server has said that it does not have the channel: the slot map is updated meanwhile.
const MOVED_PAUSE: Duration = Duration::from_millis(100);

/// Writes changes to one server and renews the rest, until the connection fails.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<ServerConnection>) -> Cause {
    let Some(mut connection) = link.connections.first().cloned() else { return gone() };
    let mut renewals = every(ROUND / Presence::SHARDS as u32);
    let mut shard = 0;
    loop {
        let done = tokio::select! {
            biased;
            // Renewals first: constant changes must not prevent them.
            _ = renewals.tick() => {
                shard += 1;
                renew(&shared, &link, &mut connection, shard).await
            }
            () = shared.presence.changed(link.shard) => write(&shared, &link, &mut connection).await,
        };
        if let Err(cause) = done {
            return cause;
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn gone() -> Cause {
    Cause::new(Trouble::Unreachable, "the connection has ended")
}

async fn write(
    shared: &Shared,
    link: &ServerConnection,
    connection: &mut MultiplexedConnection,
) -> Result<(), Cause> {
    let batch = shared.presence.take(link.shard, CHANNELS_MAX, MEMBERS_MAX);
    if batch.writes.is_empty() {
        return Ok(());
    }
    let node = shared.context.node_name();
    let mut pipeline = pipe();
    for write in &batch.writes {
        add(&mut pipeline, &shared.context.keys, &link.scripts.presence_write, &node, write);
    }
    // Each write states the complete entry, not a change: one that failed, or may have failed, is repeated.
    let replies = call_all(connection, &pipeline, batch.writes.len(), shared.context.config.timeout).await?;
    batch.answered(|shard_index| !matches!(replies[shard_index], Value::ServerError(_)));
    pause_if_refused(shared, &replies).await
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

/// Renews the expiry of the channels of one part of the table. If the counts in Redis differ from those here,
/// everything is written again.
async fn renew(
    shared: &Shared,
    link: &ServerConnection,
    connection: &mut MultiplexedConnection,
    shard: usize,
) -> Result<(), Cause> {
    let node = shared.context.node_name();
    let channels = shared.presence.quiet_in(shard, link.shard);
    for channels in channels.chunks(CHANNELS_MAX) {
        let mut pipeline = pipe();
        for channel in channels {
            let (members, users) =
                (shared.context.keys.presence(channel, &node), shared.context.keys.users(channel, &node));
            for key in [&members, &users] {
                pipeline.cmd("PEXPIRE").arg(key).arg(KEPT.as_millis() as u64);
            }
            pipeline.cmd("HLEN").arg(&members).cmd("SCARD").arg(&users);
        }
        let replies =
            call_all(connection, &pipeline, channels.len() * 4, shared.context.config.timeout).await?;
        for (channel, answers) in channels.iter().zip(replies.chunks(4)) {
            // Any other reply is a refusal, so nothing is known.
            if let [_, _, Value::Int(connections), Value::Int(users)] = *answers {
                let number = |count| usize::try_from(count).unwrap_or(0);
                shared.presence.compare(channel, number(connections), number(users));
            }
        }
    }
    Ok(())
}

/// Pauses after a refusal. `Err` if another connection is needed.
async fn pause_if_refused(shared: &Shared, replies: &[Value]) -> Result<(), Cause> {
    let refused = replies.iter().find_map(|reply| match reply {
        Value::ServerError(error) => Some(error),
        _ => None,
    });
    let Some(error) = refused else { return Ok(()) };
    if is_elsewhere(error.code()) {
        // The server is healthy: the slot map is updated from the Cluster.
        shared.moved.notify_one();
        sleep(MOVED_PAUSE).await;
        return Ok(());
    }
    let cause = refusal(error.code(), error.details().unwrap_or_default());
    shared.context.metrics.failed(&cause.to_string());
    if cause.trouble == Trouble::Unreachable {
        return Err(cause);
    }
    sleep(REFUSED_PAUSE).await;
    Ok(())
}

/// Appends the members in a response of Redis to those of this node, unless they are too many.
pub(super) fn together(
    shared: &Shared,
    channel: &Channel,
    read: Vec<Arc<Member>>,
    bytes_max: usize,
) -> Result<Vec<Arc<Member>>, ReplyError> {
    let mut members = shared.presence.members(channel, bytes_max)?;
    let here: HashSet<Arc<str>> = members.iter().map(|member| member.client.clone()).collect();
    members.extend(read.into_iter().filter(|member| !here.contains(&member.client)));
    if members.len() > LISTED_MAX || members.iter().map(|member| member.bytes()).sum::<usize>() > bytes_max {
        return Err(ReplyError::LIMIT_EXCEEDED.because(TOO_MANY_MEMBERS));
    }
    Ok(members)
}
