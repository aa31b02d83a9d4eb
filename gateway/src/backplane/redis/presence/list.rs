//! Maintains the list of this node's channels, which other nodes read when this one has died.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Value, pipe};
use tokio::time::sleep;

use crate::backplane::redis::connection::client::{call, call_all};
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::format::keys;
use crate::backplane::redis::presence::{Presence, REFUSED_PAUSE, every, gone};
use crate::protocol::channel::Channel;
use crate::telemetry::backplane::Trouble;

/// Maximum number of channels in one change of the list.
const CHANNELS_MAX: usize = 1000;

/// Approximate number of channels in one page of a list.
const PAGE: usize = 1000;

/// How often the list is checked for existence.
const RENEWAL: Duration = Duration::from_secs(5);

impl Presence {
    /// Maintains the list until the connection to the shared server fails.
    pub(crate) async fn keep_list(&self, server: &ServerConnection) -> Cause {
        let Some(mut connection) = server.connections.first().cloned() else { return gone() };
        let list = self.context.keys.presence_of(&self.context.node_name());
        let mut renewals = every(RENEWAL);
        loop {
            let done = tokio::select! {
                biased;
                _ = renewals.tick() => self.renew_list(&mut connection, &list).await,
                () = self.table.strangers() => match self.know(&mut connection, &list).await {
                    Err(cause) if matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => {
                        self.table.suspect_strangers();
                        sleep(REFUSED_PAUSE).await;
                        Ok(())
                    }
                    done => done,
                },
                () = self.table.list_changed() => self.change_list(&mut connection, &list).await,
            };
            if let Err(cause) = done {
                return cause;
            }
        }
    }

    async fn change_list(&self, connection: &mut MultiplexedConnection, list: &str) -> Result<(), Cause> {
        let listing = self.table.take_list(CHANNELS_MAX);
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
        let replies = call_all(connection, &pipeline, commands + 1, self.context.config.timeout).await?;
        if replies.iter().all(|reply| matches!(reply, Value::Int(_))) {
            listing.done();
            return Ok(());
        }
        drop(listing);
        self.pause_if_refused(&replies).await
    }

    /// Renews the expiry of the list, and detects its loss.
    async fn renew_list(&self, connection: &mut MultiplexedConnection, list: &str) -> Result<(), Cause> {
        let mut pipeline = pipe();
        pipeline.cmd("PEXPIRE").arg(list).arg(keys::NODE_KEPT.as_millis() as u64);
        let replies = call_all(connection, &pipeline, 1, self.context.config.timeout).await?;
        if replies == [Value::Int(0)] {
            self.table.list_anew();
        }
        self.pause_if_refused(&replies).await
    }

    /// Reads the list for channels that are not known here: their entries may still exist, because the node
    /// left while their server or the shared server was away.
    async fn know(&self, connection: &mut MultiplexedConnection, list: &str) -> Result<(), Cause> {
        let mut cursor = 0;
        loop {
            let (next, names) = self.page(connection, list, cursor, PAGE).await?;
            for name in names {
                if let Some(channel) = channel(&name) {
                    self.table.know(&channel);
                }
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Reads a part of a list of channels from a cursor on, and the next cursor; 0 starts and ends a scan.
    pub(crate) async fn page(
        &self,
        connection: &mut MultiplexedConnection,
        list: &str,
        cursor: u64,
        count: usize,
    ) -> Result<(u64, Vec<Vec<u8>>), Cause> {
        let mut command = redis::cmd("SSCAN");
        command.arg(list).arg(cursor).arg("COUNT").arg(count);
        let reply = call(connection, &command, self.context.config.timeout).await?;
        let Some((next, names)) = read(reply) else {
            self.context.metrics.malformed();
            return Ok((0, Vec::new()));
        };
        Ok((next, names))
    }
}

/// Parses the name of a channel.
fn channel(name: &[u8]) -> Option<Channel> {
    Channel::parse(std::str::from_utf8(name).ok()?).ok()
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
