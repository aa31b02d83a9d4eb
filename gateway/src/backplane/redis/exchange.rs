//! [`Exchange`] shares revocations between gateways. They are on the shared server, in the order of their
//! changes: a gateway reads those after the last one that it knows, after each announcement and once a
//! second. Over a new connection it reads all of them, and writes back what the server lacks, because a
//! server that has replaced another one may have lost the newest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use tokio::time::{sleep, timeout};

use crate::backplane::redis::connection::client::call;
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::format::wire;
use crate::backplane::redis::topology::Topology;
use crate::revocation::{Entry, Subject};
use crate::telemetry::backplane::Trouble;

/// Pause between two looks, if nothing is announced.
const ROUND: Duration = Duration::from_secs(1);

/// Pause while there is no connection, and after a failure.
const PAUSE: Duration = Duration::from_millis(100);

/// Entries read, written or dropped at once.
const AT_ONCE: usize = 500;

/// An entry that does not end is kept in Redis until the end of the year 9999, in milliseconds.
const FOREVER: u64 = 253_402_300_799_000;

const READ: &str = include_str!("lua/revoked_read.lua");
const WRITE: &str = include_str!("lua/revoked_write.lua");
const DROP: &str = include_str!("lua/revoked_drop.lua");

/// Exchanges revocations. Created by [`Runner::revocations`](super::Runner::revocations).
pub struct Exchange {
    context: Arc<Context>,
    topology: Arc<Topology>,
    /// What was read last.
    position: Position,
}

/// How far the list on the server has been read.
#[derive(Debug, Default)]
struct Position {
    /// The number of the connection.
    connection: u64,
    epoch: Box<str>,
    change: u64,
}

/// A part of the list on the server.
#[derive(Debug, PartialEq)]
struct Part {
    epoch: Box<str>,
    /// The last change of all.
    last: u64,
    /// The change after which these come.
    since: u64,
    /// Their changes, and what could be read.
    entries: Vec<(u64, Option<Entry>)>,
}

/// What operators should know of the exchange, if anything.
pub(crate) fn warning(context: &Context) -> Option<&'static str> {
    if context.revocations.is_failing() {
        return Some(
            "revoked tokens and blocked users cannot be exchanged with the other gateways: this one refuses only those \
             that it knows, see the log",
        );
    }
    context.revocations.has_overflowed().then_some(
        "some revoked tokens or blocked users of the other gateways do not fit: raise `memory.revocations_max`, \
         which must be the same at all gateways, and restart",
    )
}

impl Exchange {
    pub(crate) fn new(context: Arc<Context>, topology: Arc<Topology>) -> Self {
        Self { context, topology, position: Position::default() }
    }

    /// Reads and writes for as long as the runtime lives. Without Redis each gateway goes by what it knows.
    pub async fn run(mut self) {
        let context = self.context.clone();
        let revocations = &context.revocations;
        loop {
            let Some(server) = self.topology.shared_server() else {
                revocations.set_synced(false);
                revocations.set_failing(false);
                let mut connections = self.topology.shared_shard().connection.subscribe();
                // In a Cluster another server may become the shared one meanwhile.
                drop(timeout(PAUSE, connections.wait_for(Option::is_some)).await);
                continue;
            };
            let round = revocations.round_begins();
            match self.round(&server).await {
                Ok(is_whole) => {
                    revocations.set_failing(false);
                    if !is_whole {
                        continue;
                    }
                    revocations.set_synced(true);
                    revocations.round_ended(round);
                    tokio::select! {
                        () = revocations.looked() => (),
                        () = sleep(ROUND) => (),
                    }
                }
                Err(cause) => {
                    revocations.set_synced(false);
                    if !revocations.set_failing(true) {
                        tracing::warn!(%cause, "failed to exchange revocations with redis; trying again");
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn round(&mut self, server: &ServerConnection) -> Result<bool, Cause> {
        if self.position.connection != server.number {
            self.position = Position { connection: server.number, ..Position::default() };
        }
        let Some(mut connection) = server.connections.first().cloned() else { return Ok(true) };
        let result = self.exchange(&mut connection, server.scripts.publish_verb).await;
        if result.is_err() {
            // What was read before a failure is read again: it is not known what the server lacks.
            self.position = Position::default();
        }
        result
    }

    /// One round: reads, and writes what the server lacks. False if the list was not read to its end.
    pub(crate) async fn exchange(
        &mut self,
        connection: &mut MultiplexedConnection,
        verb: &str,
    ) -> Result<bool, Cause> {
        let is_whole = self.read(connection).await?;
        let wrote = self.write(connection).await?;
        if wrote {
            let mut command = redis::cmd(verb);
            command.arg(self.context.keys.nodes()).arg(wire::look(self.context.node));
            call(connection, &command, self.context.config.timeout).await?;
        }
        self.drop_removed(connection).await?;
        Ok(is_whole)
    }

    /// Reads what has changed, and notes what the server lacks if it begins with the first change. False if
    /// there is more.
    async fn read(&mut self, connection: &mut MultiplexedConnection) -> Result<bool, Cause> {
        let Context { revocations, clock, config, .. } = &*self.context;
        // What is on the server, if everything is read.
        let mut all = None;
        let mut is_whole = false;
        // A list that others keep changing is read to its end in a later round.
        for _ in 0..=revocations.entries_max() * 4 / AT_ONCE + 1 {
            let reply = call(connection, &self.read_command(), config.timeout).await?;
            let part =
                part(reply).ok_or_else(|| Cause::new(Trouble::Refused, "revocations are malformed"))?;
            if part.since == 0 {
                all = Some(HashMap::new());
            }
            self.position.epoch = part.epoch;
            self.position.change = part.since;
            let ends = part.entries.len() < AT_ONCE;
            let now = clock.now().unix;
            for (change, entry) in part.entries {
                self.position.change = change;
                let Some(entry) = entry else { continue };
                if let Some(all) = &mut all {
                    all.insert(entry.subject.clone(), entry.clone());
                }
                revocations.merge(now, entry);
            }
            if ends {
                self.position.change = self.position.change.max(part.last);
                is_whole = true;
                break;
            }
        }
        if let Some(theirs) = all {
            let now = clock.now().unix;
            let mut here = revocations.all();
            here.retain(|entry| {
                let is_better = |theirs: &Entry| entry.outranks(theirs);
                !entry.has_expired(now) && theirs.get(&entry.subject).is_none_or(is_better)
            });
            revocations.write_again(here.into_iter().map(|entry| entry.subject));
        }
        Ok(is_whole)
    }

    fn read_command(&self) -> Cmd {
        let keys = &self.context.keys;
        let mut command = redis::cmd("EVAL");
        command.arg(READ).arg(2).arg(keys.revoked()).arg(keys.revoked_order());
        command.arg(&*self.position.epoch).arg(self.position.change).arg(AT_ONCE);
        command
    }

    /// Writes what the server lacks. True if that was something.
    async fn write(&mut self, connection: &mut MultiplexedConnection) -> Result<bool, Cause> {
        let Context { revocations, keys, config, .. } = &*self.context;
        let mut wrote = false;
        loop {
            let entries = revocations.to_share(self.context.clock.now().unix, AT_ONCE);
            if entries.is_empty() {
                return Ok(wrote);
            }
            let mut command = redis::cmd("EVAL");
            command.arg(WRITE).arg(2).arg(keys.revoked()).arg(keys.revoked_order());
            command.arg(self.context.fresh_epoch());
            for entry in &entries {
                let until = entry.expires_at.map_or(FOREVER, |seconds| (seconds * 1000).min(FOREVER));
                command.arg(entry.subject.to_string()).arg(entry.to_text()).arg(until);
            }
            call(connection, &command, config.timeout).await?;
            revocations.has_shared(&entries);
            wrote = true;
        }
    }

    async fn drop_removed(&self, connection: &mut MultiplexedConnection) -> Result<(), Cause> {
        let Context { revocations, keys, config, .. } = &*self.context;
        loop {
            let removed = revocations.take_removed(AT_ONCE);
            if removed.is_empty() {
                return Ok(());
            }
            let mut command = redis::cmd("EVAL");
            command.arg(DROP).arg(2).arg(keys.revoked()).arg(keys.revoked_order());
            for (subject, version) in &removed {
                command.arg(subject.to_string()).arg(*version);
            }
            call(connection, &command, config.timeout).await?;
        }
    }
}

/// Reads the reply of the script. An entry of a kind unknown to this version is skipped.
fn part(reply: Value) -> Option<Part> {
    let Value::Array(parts) = reply else { return None };
    let text = |value: Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    };
    let texts: Vec<String> = parts.into_iter().map(text).collect::<Option<_>>()?;
    let (head, rest) = texts.split_first_chunk::<3>()?;
    let entry = |fields: &[String]| {
        let [change, id, text] = fields else { return None };
        let entry = Subject::parse(id).and_then(|subject| Entry::of_text(subject, text));
        Some((change.parse().ok()?, entry))
    };
    let [epoch, last, since] = head;
    Some(Part {
        epoch: epoch.as_str().into(),
        last: last.parse().ok()?,
        since: since.parse().ok()?,
        entries: rest.chunks(3).map(entry).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn reply(texts: &[&str]) -> Value {
        Value::Array(texts.iter().map(|text| Value::BulkString((*text).into())).collect())
    }

    #[test]
    fn a_reply_is_a_head_and_three_texts_for_each_entry() {
        let read =
            part(reply(&["e", "9", "3", "4", "user:ann", "7 0 0 0", "9", "of_tomorrow:x", "1"])).unwrap();
        assert_eq!((&*read.epoch, read.last, read.since), ("e", 9, 3));
        let ann = Entry::new(Subject::User("ann".into()), 7);
        assert_eq!(read.entries, [(4, Some(ann)), (9, None)]);
        for malformed in [&["e", "9"][..], &["e", "9", "3", "4"], &["e", "x", "3"], &[]] {
            assert_eq!(part(reply(malformed)), None, "{malformed:?}");
        }
    }
}
