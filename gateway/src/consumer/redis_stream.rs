//! Entries of a stream of Redis.
//!
//! All gateways read as the same consumer of the group, but only the one that has the lease of the stream.
//! What is to be carried out is always what the group has pending, in its order: reading new entries only
//! makes them pending. So entries whose delivery got lost, or whose gateway ended, come before newer ones.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value, cmd};
use tokio::time::sleep;

use super::entry::{Command, Entry};
use super::partition::{Due, Hold, Interrupted, Partition};
use crate::backplane::redis::{call, client, settings};
use crate::config::RedisStreams;

/// How long Redis waits for an entry before it says that there is none. A drain waits as long.
const BLOCK: Duration = Duration::from_millis(400);

/// Name of the consumer in the group. It is the same for all gateways: what it has pending belongs to the one
/// with the lease.
const CONSUMER: &str = "gateway";

/// Takes or prolongs the lease `KEYS[1]` as `ARGV[1]` for `ARGV[2]` milliseconds. 1 if it is ours.
const TAKE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0";

/// Gives the lease `KEYS[1]` of `ARGV[1]` back.
const GIVE_BACK: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// One connection, and the lease of a stream.
struct Held<'l> {
    partition: &'l Partition,
    config: &'l RedisStreams,
    connection: MultiplexedConnection,
    stream: &'l str,
    lease: String,
    due: Due,
}

/// Reads and carries out until the gateway drains.
pub(super) async fn session(partition: &Partition, config: &RedisStreams) -> Result<(), Box<str>> {
    let login = &config.login;
    let client =
        client(login.tls_authority.as_deref(), &config.server, &login.username, login.password.as_ref())
            .map_err(|cause| cause.to_string())?;
    let settings = settings(partition.config.timeout);
    let connection = partition.answer(client.get_multiplexed_async_connection_with_config(&settings)).await?;
    let stream = &*config.streams[partition.index];
    let mut held = Held {
        partition,
        config,
        connection,
        stream,
        lease: format!("{stream}:lease:{}", config.group),
        due: Due::new(partition.config.ack_wait),
    };
    held.make_group().await?;
    partition.metrics.connected(partition.index);
    let result = held.work().await;
    match result {
        Ok(()) | Err(Interrupted::Stopping) => {
            // Otherwise the next gateway waits until it has expired.
            let give_back = held.script(GIVE_BACK, &[&partition.node]);
            let _ = held.ask(&give_back).await;
            Ok(())
        }
        Err(Interrupted::Failed(why)) => Err(why),
    }
}

impl Held<'_> {
    async fn work(&mut self) -> Result<(), Interrupted> {
        let mut is_empty = false;
        while !self.partition.stop.is_set() {
            if !self.has_lease().await? {
                // Another gateway is at work: look again when it may have ended.
                is_empty = false;
                self.partition.metrics.took(self.partition.index, 0);
                tokio::select! {
                    () = sleep(self.partition.config.ack_wait / 4) => (),
                    () = self.partition.stop.wait() => (),
                }
                continue;
            }
            if is_empty {
                self.partition.metrics.took(self.partition.index, 0);
                self.read().await?;
            }
            let (entries, more) = self.pending().await?;
            is_empty = entries.is_empty() && !more;
            self.partition.carry_out(&entries, self).await?;
        }
        Ok(())
    }

    async fn has_lease(&mut self) -> Result<bool, Box<str>> {
        if !self.due.is(self.partition.clock.at()) {
            return Ok(true);
        }
        let time = self.partition.config.ack_wait.as_millis().to_string();
        let take = self.script(TAKE, &[&self.partition.node, &time]);
        let taken = self.ask(&take).await? == Value::Int(1);
        if !taken {
            self.due = Due::new(self.partition.config.ack_wait);
        }
        Ok(taken)
    }

    async fn make_group(&mut self) -> Result<(), Box<str>> {
        let mut make = cmd("XGROUP");
        // From the beginning: what was added before the first start is carried out, too.
        make.arg("CREATE").arg(self.stream).arg(&*self.config.group).arg("0").arg("MKSTREAM");
        match self.ask(&make).await {
            Err(why) if !why.contains("BUSYGROUP") => Err(why),
            _ => Ok(()),
        }
    }

    /// Waits for new entries and makes them pending.
    async fn read(&mut self) -> Result<(), Box<str>> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(&*self.config.group).arg(CONSUMER);
        read.arg("COUNT").arg(self.partition.config.batch_max).arg("BLOCK").arg(BLOCK.as_millis() as u64);
        read.arg("STREAMS").arg(self.stream).arg(">");
        let time = self.partition.config.timeout + BLOCK;
        let answer = call(&mut self.connection, &read, time).await;
        answer.map(drop).map_err(|cause| cause.to_string().into())
    }

    /// The first entries that are pending, and whether there may be more.
    async fn pending(&mut self) -> Result<(Vec<Entry>, bool), Box<str>> {
        let mut claim = cmd("XAUTOCLAIM");
        claim.arg(self.stream).arg(&*self.config.group).arg(CONSUMER).arg(0).arg("0-0");
        claim.arg("COUNT").arg(self.partition.config.batch_max);
        let answer = self.ask(&claim).await?;
        parse(answer).ok_or_else(|| "an answer to XAUTOCLAIM that this gateway does not understand".into())
    }

    fn script(&self, script: &str, arguments: &[&str]) -> Cmd {
        let mut eval = cmd("EVAL");
        eval.arg(script).arg(1).arg(&self.lease).arg(arguments);
        eval
    }

    async fn ask(&mut self, command: &Cmd) -> Result<Value, Box<str>> {
        let answer = call(&mut self.connection, command, self.partition.config.timeout).await;
        answer.map_err(|cause| cause.to_string().into())
    }
}

impl Hold for Held<'_> {
    async fn keep(&mut self) -> Result<(), Box<str>> {
        match self.has_lease().await? {
            true => Ok(()),
            false => Err("another gateway has taken over the stream, because this one was too slow".into()),
        }
    }

    async fn acknowledge(&mut self, entries: &[Entry]) -> Result<(), Box<str>> {
        let ids: Vec<&str> = entries.iter().map(|entry| &*entry.id).collect();
        let mut acknowledge = cmd("XACK");
        acknowledge.arg(self.stream).arg(&*self.config.group).arg(&ids);
        self.ask(&acknowledge).await?;
        if self.config.delete_entries {
            let mut delete = cmd("XDEL");
            delete.arg(self.stream).arg(&ids);
            self.ask(&delete).await?;
        }
        Ok(())
    }
}

/// The entries of an answer to XAUTOCLAIM, and whether it did not look at all that is pending.
fn parse(answer: Value) -> Option<(Vec<Entry>, bool)> {
    let Value::Array(answer) = answer else { return None };
    let mut answer = answer.into_iter();
    let (cursor, Value::Array(entries)) = (bytes(&answer.next()?)?.to_vec(), answer.next()?) else {
        return None;
    };
    let mut parsed = Vec::with_capacity(entries.len());
    for entry in entries {
        match entry {
            // Deleted from the stream while it was pending: an old server says so.
            Value::Nil => {}
            Value::Array(entry) => parsed.push(parse_entry(&entry)?),
            _ => return None,
        }
    }
    Some((parsed, cursor != b"0-0"))
}

fn parse_entry(entry: &[Value]) -> Option<Entry> {
    let [id, fields] = entry else { return None };
    let id: Box<str> = std::str::from_utf8(bytes(id)?).ok()?.into();
    let at = id.split_once('-')?.0.parse().ok()?;
    let Value::Array(fields) = fields else { return None };
    let fields: Vec<&[u8]> = fields.iter().map(bytes).collect::<Option<_>>()?;
    let pairs = fields.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    Some(Entry { id, at, command: Command::of_fields(pairs) })
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn pending_entries_are_read_in_order_and_deleted_ones_are_left_out() {
        let entry = |id: &str, fields: &[&str]| {
            Value::Array(vec![text(id), Value::Array(fields.iter().map(|field| text(field)).collect())])
        };
        let answer = Value::Array(vec![
            text("7-0"),
            Value::Array(vec![
                entry("5-0", &["method", "publish", "payload", "{}"]),
                Value::Nil,
                entry("6-1", &["nonsense", "1"]),
            ]),
            Value::Array(vec![text("4-0")]),
        ]);
        let (entries, more) = parse(answer).unwrap();
        assert!(more);
        assert_eq!(entries.len(), 2);
        assert_eq!((&*entries[0].id, entries[0].at), ("5-0", 5));
        assert_eq!(entries[0].command, Command::of(b"publish", b"{}"));
        assert_eq!(&*entries[1].id, "6-1");
        assert!(entries[1].command.is_err());
        let nothing = Value::Array(vec![text("0-0"), Value::Array(vec![]), Value::Array(vec![])]);
        assert_eq!(parse(nothing), Some((vec![], false)));
        assert_eq!(parse(Value::Nil), None);
    }
}
