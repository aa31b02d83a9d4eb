//! `Clients` writes the clients of this gateway to Redis, so that another gateway can call `on-disconnect`
//! for them if this one dies.

pub(crate) mod table;
pub(crate) mod record;

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Value, pipe};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::backplane::redis::clients::table::{Batch, ClientTable};
use crate::backplane::redis::connection::client::{call, call_all, refusal};
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::format::keys;
use crate::telemetry::backplane::Trouble;

/// Maximum number of clients in one batch, and their approximate bytes.
const CLIENTS_MAX: usize = 512;
const BYTES_MAX: usize = 256 * 1024;

/// How often the expiry of the records is renewed.
const ROUND: Duration = Duration::from_secs(30);

/// Pause after Redis has refused a write.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Clients {
    context: Arc<Context>,
    pub(crate) table: ClientTable,
}

impl Clients {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let table = ClientTable::new(context.inboxes.len());
        Self { context, table }
    }

    /// Writes changes and renews the rest until the connection fails.
    pub(crate) async fn run(&self, server: &ServerConnection) -> Cause {
        let Some(mut connection) = server.connections.first().cloned() else { return gone() };
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let batch = self.table.take(CLIENTS_MAX, BYTES_MAX);
            let done = if batch.is_empty() {
                tokio::select! {
                    () = self.table.changed() => Ok(()),
                    _ = round.tick() => self.renew(&mut connection).await,
                }
            } else {
                self.write(&mut connection, batch).await
            };
            if let Err(cause) = done {
                return cause;
            }
        }
    }

    /// Writes everything again, because Redis may have lost some of it. Records in Redis of clients that are
    /// not here any more are removed.
    pub(crate) async fn write_anew(&self, server: &ServerConnection) -> Result<(), Cause> {
        self.table.write_anew();
        let Some(mut connection) = server.connections.first().cloned() else { return Err(gone()) };
        let key = self.context.keys.clients_of(&self.context.node_name());
        let mut cursor = 0;
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(CLIENTS_MAX);
            let Value::Array(parts) = call(&mut connection, &scan, self.context.config.timeout).await? else {
                break;
            };
            let Ok([Value::BulkString(next), Value::Array(listed)]) = <[Value; 2]>::try_from(parts) else {
                break;
            };
            for (id, _) in record::pairs(listed) {
                if self.context.ids.number(&id).is_none_or(|number| !self.table.has(number, &id)) {
                    self.table.forget(id.into());
                }
            }
            cursor = std::str::from_utf8(&next).ok().and_then(|next| next.parse::<u64>().ok()).unwrap_or(0);
            if cursor == 0 {
                break;
            }
        }
        Ok(())
    }

    async fn write(&self, connection: &mut MultiplexedConnection, mut batch: Batch<'_>) -> Result<(), Cause> {
        let key = self.context.keys.clients_of(&self.context.node_name());
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
        let replies = call_all(connection, &pipeline, commands, self.context.config.timeout).await?;
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
            self.context.metrics.failed(&cause.to_string());
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
    async fn renew(&self, connection: &mut MultiplexedConnection) -> Result<(), Cause> {
        let mut command = redis::cmd("PEXPIRE");
        command
            .arg(self.context.keys.clients_of(&self.context.node_name()))
            .arg(keys::NODE_KEPT.as_millis() as u64);
        match call(connection, &command, self.context.config.timeout).await {
            Ok(Value::Int(0)) => self.table.write_anew(),
            Ok(_) => (),
            Err(cause) if matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => (),
            Err(cause) => return Err(cause),
        }
        Ok(())
    }
}

fn gone() -> Cause {
    Cause::new(Trouble::Unreachable, "the connection has ended")
}
