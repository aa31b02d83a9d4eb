//! Who is in which channel: this node's own connections are known here and written to Redis in batches, those of other
//! nodes are read there. What a node has written counts while the node is alive.

mod table;
mod script;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value, pipe};
use tokio::time::{sleep, timeout};

pub(super) use self::script::{COUNT, READ, TAKE, WRITE};
pub(super) use self::table::Presence;
use self::table::Write;
use super::keys::Keys;
use super::link::{Link, cause};
use super::status::Cause;
use super::{Shared, nodes, wire};
use crate::protocol::channel::Channel;
use crate::protocol::push::Member;
use crate::telemetry::backplane::Trouble;

/// Members of a channel that can be listed. More can be counted.
pub(super) const LISTED_MAX: usize = 65_536;

/// Channels and members that are written with one batch.
const CHANNELS_MAX: usize = 256;
const MEMBERS_MAX: usize = 4096;

/// How long the members of a node are kept that renews them no more. Whoever reads knows of its death much earlier.
const KEPT: Duration = Duration::from_secs(120);

/// How long it takes until every channel was renewed once.
const ROUND: Duration = Duration::from_secs(30);

/// Pause after Redis has refused to be written to.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Writes what changes, and renews what does not, until the link fails.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>) -> Cause {
    let Some(mut connection) = link.lanes.first().cloned() else { return gone() };
    let mut shard = 0;
    loop {
        let writes = shared.presence.take(CHANNELS_MAX, MEMBERS_MAX);
        let done = if writes.is_empty() {
            tokio::select! {
                () = shared.presence.changed() => Ok(()),
                () = sleep(ROUND / Presence::SHARDS as u32) => {
                    shard += 1;
                    renew(&shared, &mut connection, shard).await
                }
            }
        } else {
            write(&shared, &link, &mut connection, writes).await
        };
        if let Err(cause) = done {
            return cause;
        }
    }
}

fn gone() -> Cause {
    Cause::new(Trouble::Unreachable, "the connection has ended")
}

/// Everything is written anew: Redis may have lost some of it, or others have cleared it away. What stands there and is not
/// known here any more is taken away.
pub(super) async fn write_anew(shared: &Shared, link: &Link) -> Result<(), Cause> {
    shared.presence.write_anew();
    let Some(mut connection) = link.lanes.first().cloned() else { return Err(gone()) };
    let index = shared.keys.presence_of(&nodes::name(shared.node));
    let mut cursor = 0;
    loop {
        let mut pipeline = pipe();
        pipeline.cmd("SSCAN").arg(&index).arg(cursor).arg("COUNT").arg(1000);
        let reply = send(shared, &mut connection, &pipeline, 1).await?.pop();
        let Some(Value::Array(parts)) = reply else { break };
        let Ok([Value::BulkString(next), Value::Array(names)]) = <[Value; 2]>::try_from(parts) else { break };
        for name in names {
            if let Value::BulkString(name) = name
                && let Some(channel) =
                    std::str::from_utf8(&name).ok().and_then(|name| Channel::parse(name).ok())
            {
                shared.presence.forget(&channel);
            }
        }
        cursor = std::str::from_utf8(&next).ok().and_then(|next| next.parse::<u64>().ok()).unwrap_or(0);
        if cursor == 0 {
            break;
        }
    }
    Ok(())
}

async fn write(
    shared: &Shared,
    link: &Link,
    connection: &mut MultiplexedConnection,
    writes: Vec<Write>,
) -> Result<(), Cause> {
    let node = nodes::name(shared.node);
    let index = shared.keys.presence_of(&node);
    // The list of channels has every channel in which somebody is, and never one too few.
    let (mut pipeline, mut commands) = (pipe(), writes.len());
    let listed: Vec<_> = writes.iter().filter(|write| !write.came.is_empty()).collect();
    if !listed.is_empty() {
        let names = listed.iter().map(|write| write.channel.as_str());
        pipeline.cmd("SADD").arg(&index).arg(names.collect::<Vec<_>>());
        commands += 1;
    }
    for write in &writes {
        add(&mut pipeline, &shared.keys, &link.scripts.presence_write, &node, write);
    }
    let emptied: Vec<_> =
        writes.iter().filter(|write| write.empty).map(|write| write.channel.as_str()).collect();
    if !emptied.is_empty() {
        pipeline.cmd("SREM").arg(&index).arg(emptied);
        commands += 1;
    }
    let replies = match send(shared, connection, &pipeline, commands).await {
        Ok(replies) => replies,
        Err(cause) => {
            writes.into_iter().for_each(|write| shared.presence.undone(write));
            return Err(cause);
        }
    };
    let refused = replies.iter().find_map(|reply| match reply {
        Value::ServerError(error) => {
            Some(super::link::refusal(error.code(), error.details().unwrap_or_default()))
        }
        _ => None,
    });
    if let Some(cause) = refused {
        // Each write says what is, not what changes: it can be repeated.
        writes.into_iter().for_each(|write| shared.presence.undone(write));
        shared.metrics.failed(&cause.to_string());
        if cause.trouble == Trouble::Unreachable {
            return Err(cause);
        }
        sleep(REFUSED_PAUSE).await;
    }
    Ok(())
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

/// Keeps the channels of one shard from expiring. What is not there any more is written again.
async fn renew(shared: &Shared, connection: &mut MultiplexedConnection, shard: usize) -> Result<(), Cause> {
    let node = nodes::name(shared.node);
    let channels = shared.presence.channels_in(shard);
    for channels in channels.chunks(CHANNELS_MAX) {
        let mut pipeline = pipe();
        pipeline.cmd("PEXPIRE").arg(shared.keys.presence_of(&node)).arg(nodes::KEPT.as_millis() as u64);
        for channel in channels {
            for key in [shared.keys.presence(channel, &node), shared.keys.users(channel, &node)] {
                pipeline.cmd("PEXPIRE").arg(key).arg(KEPT.as_millis() as u64);
            }
        }
        let replies = send(shared, connection, &pipeline, 1 + channels.len() * 2).await?;
        for (channel, both) in channels.iter().zip(replies[1..].chunks(2)) {
            if both.contains(&Value::Int(0)) {
                shared.presence.lost(channel);
            }
        }
    }
    Ok(())
}

pub(super) async fn send(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
    commands: usize,
) -> Result<Vec<Value>, Cause> {
    match timeout(shared.config.timeout, connection.send_packed_commands(pipeline, 0, commands)).await {
        Ok(Ok(replies)) if replies.len() == commands => Ok(replies),
        Ok(Ok(_)) => Err(Cause::new(Trouble::Silent, "answers are missing")),
        Ok(Err(error)) => Err(cause(&error)),
        Err(_) => Err(Cause::new(Trouble::Silent, "no answer when presence was written")),
    }
}

/// The members in an answer of Redis, after those of this node.
pub(super) fn together(shared: &Shared, channel: &Channel, read: Vec<Arc<Member>>) -> Vec<Arc<Member>> {
    let mut members = shared.presence.members(channel);
    let here: HashSet<Arc<str>> = members.iter().map(|member| member.client.clone()).collect();
    members.extend(read.into_iter().filter(|member| !here.contains(&member.client)));
    members
}

/// Takes everything of a dead node out of a channel and returns who that was.
pub(super) async fn take(
    shared: &Shared,
    link: &Link,
    connection: &mut MultiplexedConnection,
    channel: &Channel,
    node: &str,
) -> Result<Vec<Arc<Member>>, Cause> {
    let mut taken = Vec::new();
    loop {
        let mut pipeline = pipe();
        pipeline
            .cmd("EVALSHA")
            .arg(&link.scripts.presence_take)
            .arg(2)
            .arg(shared.keys.presence(channel, node))
            .arg(shared.keys.users(channel, node))
            .arg(script::TAKEN_MAX);
        let Some(Value::Array(members)) = send(shared, connection, &pipeline, 1).await?.pop() else { break };
        let count = members.len();
        taken.extend(read(members));
        if count < script::TAKEN_MAX {
            break;
        }
    }
    Ok(taken)
}

/// Members as they lie in Redis. What is none is left out.
pub(super) fn read(values: Vec<Value>) -> Vec<Arc<Member>> {
    let member = |value| match value {
        Value::BulkString(bytes) => wire::read_member(bytes.into()),
        _ => None,
    };
    values.into_iter().filter_map(member).collect()
}
