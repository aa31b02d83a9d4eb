//! Writes the clients of this gateway to Redis, so that another gateway can call `on-disconnect` for them if
//! this one dies.

mod table;
pub(super) mod record;

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Value, pipe};
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::table::Batch;
pub(super) use self::table::Clients;
use super::Shared;
use crate::backplane::redis::connection::server_connection::{ServerConnection, call, call_all, refusal};
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::format::keys;
use crate::telemetry::backplane::Trouble;

/// Maximum number of clients in one batch, and their approximate bytes.
const CLIENTS_MAX: usize = 512;
const BYTES_MAX: usize = 256 * 1024;

/// How often the expiry of the records is renewed.
const ROUND: Duration = Duration::from_secs(30);

/// Pause after Redis has refused a write.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Writes changes and renews the rest until the connection fails.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<ServerConnection>) -> Cause {
    let Some(mut connection) = link.connections.first().cloned() else { return gone() };
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let batch = shared.clients.take(CLIENTS_MAX, BYTES_MAX);
        let done = if batch.is_empty() {
            tokio::select! {
                () = shared.clients.changed() => Ok(()),
                _ = round.tick() => renew(&shared, &mut connection).await,
            }
        } else {
            write(&shared, &mut connection, batch).await
        };
        if let Err(cause) = done {
            return cause;
        }
    }
}

fn gone() -> Cause {
    Cause::new(Trouble::Unreachable, "the connection has ended")
}

/// Writes everything again, because Redis may have lost some of it. Records in Redis of clients that are not
/// here any more are removed.
pub(super) async fn write_anew(shared: &Shared, link: &ServerConnection) -> Result<(), Cause> {
    shared.clients.write_anew();
    let Some(mut connection) = link.connections.first().cloned() else { return Err(gone()) };
    let key = shared.context.keys.clients_of(&shared.context.node_name());
    let mut cursor = 0;
    loop {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(&key).arg(cursor).arg("COUNT").arg(CLIENTS_MAX);
        let Value::Array(parts) = call(&mut connection, &scan, shared.context.config.timeout).await? else {
            break;
        };
        let Ok([Value::BulkString(next), Value::Array(listed)]) = <[Value; 2]>::try_from(parts) else {
            break;
        };
        for (id, _) in record::pairs(listed) {
            if shared.context.ids.number(&id).is_none_or(|number| !shared.clients.has(number, &id)) {
                shared.clients.forget(id.into());
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
    connection: &mut MultiplexedConnection,
    mut batch: Batch<'_>,
) -> Result<(), Cause> {
    let key = shared.context.keys.clients_of(&shared.context.node_name());
    let changes = &mut batch.changes;
    let (mut pipeline, mut commands) = (pipe(), 0);
    // A client that left and was registered again is written after the removal.
    if !changes.gone.is_empty() {
        let ids: Vec<&str> = changes.gone.iter().map(|id| &**id).collect();
        pipeline.cmd("HDEL").arg(&key).arg(ids);
        commands += 1;
    }
    if !changes.came.is_empty() {
        let command = pipeline.cmd("HSET").arg(&key);
        for (client, since) in &changes.came {
            command.arg(&*client.id).arg(record::write(client, *since));
        }
        pipeline.cmd("PEXPIRE").arg(&key).arg(keys::NODE_KEPT.as_millis() as u64);
        commands += 2;
    }
    let replies = call_all(connection, &pipeline, commands, shared.context.config.timeout).await?;
    let refused = replies.iter().find_map(|reply| match reply {
        Value::ServerError(error) => Some(refusal(error.code(), error.details().unwrap_or_default())),
        _ => None,
    });
    if let Some(cause) = refused {
        if !matches!(replies[0], Value::ServerError(_)) {
            // The first command has removed them; a server out of memory still carries it out.
            changes.gone.clear();
        }
        // Each write states the complete record, not a change: it can be repeated.
        batch.refused();
        shared.context.metrics.failed(&cause.to_string());
        if cause.trouble == Trouble::Unreachable {
            return Err(cause);
        }
        sleep(REFUSED_PAUSE).await;
    } else {
        batch.done();
    }
    Ok(())
}

/// Renews the expiry. Records that are missing are written again.
async fn renew(shared: &Shared, connection: &mut MultiplexedConnection) -> Result<(), Cause> {
    let mut command = redis::cmd("PEXPIRE");
    command
        .arg(shared.context.keys.clients_of(&shared.context.node_name()))
        .arg(keys::NODE_KEPT.as_millis() as u64);
    match call(connection, &command, shared.context.config.timeout).await {
        Ok(Value::Int(0)) => shared.clients.write_anew(),
        Ok(_) => (),
        Err(cause) if matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => (),
        Err(cause) => return Err(cause),
    }
    Ok(())
}
