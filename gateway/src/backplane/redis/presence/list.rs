//! Maintains the list of this node's channels, which other nodes read when this one has died.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Value, pipe};
use tokio::time::sleep;

use super::{REFUSED_PAUSE, every, gone, pause_if_refused};
use crate::backplane::redis::Shared;
use crate::backplane::redis::connection::server_connection::{ServerConnection, call, call_all};
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::format::keys;
use crate::protocol::channel::Channel;
use crate::telemetry::backplane::Trouble;

/// Maximum number of channels in one change of the list.
const CHANNELS_MAX: usize = 1000;

/// Approximate number of channels in one page of a list.
const PAGE: usize = 1000;

/// How often the list is checked for existence.
const RENEWAL: Duration = Duration::from_secs(5);

/// Maintains the list until the connection to the shared server fails.
pub(crate) async fn keep_list(shared: Arc<Shared>, link: Arc<ServerConnection>) -> Cause {
    let Some(mut connection) = link.connections.first().cloned() else { return gone() };
    let list = shared.context.keys.presence_of(&shared.context.node_name());
    let mut renewals = every(RENEWAL);
    loop {
        let done = tokio::select! {
            biased;
            _ = renewals.tick() => renew(&shared, &mut connection, &list).await,
            () = shared.presence.strangers() => match know(&shared, &mut connection, &list).await {
                Err(cause) if matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => {
                    shared.presence.suspect_strangers();
                    sleep(REFUSED_PAUSE).await;
                    Ok(())
                }
                done => done,
            },
            () = shared.presence.list_changed() => change(&shared, &mut connection, &list).await,
        };
        if let Err(cause) = done {
            return cause;
        }
    }
}

async fn change(shared: &Shared, connection: &mut MultiplexedConnection, list: &str) -> Result<(), Cause> {
    let listing = shared.presence.take_list(CHANNELS_MAX);
    let (mut pipeline, mut commands) = (pipe(), 0);
    for (name, channels) in [("SADD", &listing.come), ("SREM", &listing.gone)] {
        if !channels.is_empty() {
            let names: Vec<_> = channels.iter().map(Channel::as_str).collect();
            pipeline.cmd(name).arg(list).arg(names);
            commands += 1;
        }
    }
    if commands == 0 {
        return Ok(());
    }
    pipeline.cmd("PEXPIRE").arg(list).arg(keys::NODE_KEPT.as_millis() as u64);
    let replies = call_all(connection, &pipeline, commands + 1, shared.context.config.timeout).await?;
    if replies.iter().all(|reply| matches!(reply, Value::Int(_))) {
        listing.done();
        return Ok(());
    }
    drop(listing);
    pause_if_refused(shared, &replies).await
}

/// Renews the expiry of the list, and detects its loss.
async fn renew(shared: &Shared, connection: &mut MultiplexedConnection, list: &str) -> Result<(), Cause> {
    let mut pipeline = pipe();
    pipeline.cmd("PEXPIRE").arg(list).arg(keys::NODE_KEPT.as_millis() as u64);
    let replies = call_all(connection, &pipeline, 1, shared.context.config.timeout).await?;
    if replies == [Value::Int(0)] {
        shared.presence.list_anew();
    }
    pause_if_refused(shared, &replies).await
}

/// Reads the list for channels that are not known here: their entries may still exist, because the node left
/// while their server or the shared server was away.
async fn know(shared: &Shared, connection: &mut MultiplexedConnection, list: &str) -> Result<(), Cause> {
    let mut cursor = 0;
    loop {
        let (next, names) = page(shared, connection, list, cursor, PAGE).await?;
        for name in names {
            if let Some(channel) = channel(&name) {
                shared.presence.know(&channel);
            }
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

/// Parses the name of a channel.
fn channel(name: &[u8]) -> Option<Channel> {
    Channel::parse(std::str::from_utf8(name).ok()?).ok()
}

/// Reads a part of a list of channels from a cursor on, and the next cursor; 0 starts and ends a scan.
pub(crate) async fn page(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    list: &str,
    cursor: u64,
    count: usize,
) -> Result<(u64, Vec<Vec<u8>>), Cause> {
    let mut command = redis::cmd("SSCAN");
    command.arg(list).arg(cursor).arg("COUNT").arg(count);
    let reply = call(connection, &command, shared.context.config.timeout).await?;
    let Some((next, names)) = read(reply) else {
        shared.context.metrics.malformed();
        return Ok((0, Vec::new()));
    };
    Ok((next, names))
}

fn read(reply: Value) -> Option<(u64, Vec<Vec<u8>>)> {
    let Value::Array(parts) = reply else { return None };
    let [Value::BulkString(next), Value::Array(names)] = <[Value; 2]>::try_from(parts).ok()? else {
        return None;
    };
    let next = std::str::from_utf8(&next).ok()?.parse().ok()?;
    let name = |name| match name {
        Value::BulkString(name) => Some(name),
        _ => None,
    };
    Some((next, names.into_iter().filter_map(name).collect()))
}
