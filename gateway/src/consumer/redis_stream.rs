//! Entries of a stream of Redis.
//!
//! All gateways read as the same consumer of the group, but only the one that has the lease of the stream.
//! One script checks the lease and takes entries: first what the group has pending, in its order, and then
//! new ones, which it makes pending. So entries whose delivery got lost, or whose gateway ended, come before
//! newer ones. The script bounds the bytes of what it returns.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value, cmd};
use tokio::time::sleep;

use super::entry::{BATCH_BYTES_MAX, COMMAND_BYTES_MAX, Command, Entry};
use super::partition::{Due, Hold, Interrupted, Partition, STANDBY};
use crate::backplane::redis::{call, client, settings};
use crate::config::RedisStreams;

/// How long Redis waits for an entry before it says that there is none. A drain waits as long.
const BLOCK: Duration = Duration::from_millis(400);

/// Name of the consumer in the group. It is the same for all gateways: what it has pending belongs to the one
/// with the lease.
const CONSUMER: &str = "gateway";

/// Takes or prolongs the lease `KEYS[1]` as `ARGV[1]` for `ARGV[2]` milliseconds. 1 if it is ours.
const TAKE_LEASE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0";

/// Prolongs the lease `KEYS[1]` of `ARGV[1]` to `ARGV[2]` milliseconds. 1 if it is ours. One that has expired
/// is not taken again: another gateway may have had it meanwhile.
const PROLONG: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0";

/// Takes entries.
const TAKE: &str = include_str!("redis_stream/take.lua");

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
    /// Whose lease it is: another consumer of this gateway is somebody else.
    holder: String,
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
        holder: format!("{}:{}", partition.node, partition.name),
        due: Due::new(partition.config.ack_wait),
    };
    held.make_group().await?;
    partition.metrics.connected(partition.index);
    let result = held.work().await;
    match result {
        Ok(()) | Err(Interrupted::Stopping) => {
            // Otherwise the next gateway waits until it has expired.
            let give_back = held.on_lease(GIVE_BACK, &[]);
            let _ = held.ask(&give_back).await;
            Ok(())
        }
        Err(Interrupted::Failed(why)) => Err(why),
    }
}

impl Held<'_> {
    async fn work(&mut self) -> Result<(), Interrupted> {
        let (mut has_lease, mut is_empty) = (false, false);
        while !self.partition.stop.is_set() {
            if !has_lease {
                has_lease = self.lease(TAKE_LEASE).await?;
                is_empty = false;
            }
            if !has_lease {
                // Another gateway is at work: look again when it may have ended.
                self.partition.metrics.took(self.partition.index, 0);
                tokio::select! {
                    () = sleep(STANDBY.min(self.partition.config.ack_wait / 4)) => (),
                    () = self.partition.stop.wait() => (),
                }
                continue;
            }
            if is_empty {
                self.partition.metrics.took(self.partition.index, 0);
                self.wait_for_one().await?;
            }
            has_lease = !self.due.is(self.partition.clock.at()) || self.lease(PROLONG).await?;
            if !has_lease {
                continue;
            }
            let Some((entries, more)) = self.take().await? else {
                has_lease = false;
                continue;
            };
            is_empty = entries.is_empty() && !more;
            self.partition.carry_out(&entries, self).await?;
        }
        Ok(())
    }

    /// Takes or prolongs the lease; whether it is ours.
    async fn lease(&mut self, script: &str) -> Result<bool, Box<str>> {
        let time = self.partition.config.ack_wait.as_millis().to_string();
        let asked = self.on_lease(script, &[&time]);
        self.due.begin(self.partition.clock.at());
        Ok(self.ask(&asked).await? == Value::Int(1))
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

    /// Waits for a new entry and makes it pending. Only one: whatever its size, it is read whole.
    async fn wait_for_one(&mut self) -> Result<(), Box<str>> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(&*self.config.group).arg(CONSUMER);
        read.arg("COUNT").arg(1).arg("BLOCK").arg(BLOCK.as_millis() as u64);
        read.arg("STREAMS").arg(self.stream).arg(">");
        let time = self.partition.config.timeout + BLOCK;
        let answer = call(&mut self.connection, &read, time).await;
        answer.map(drop).map_err(|cause| explained(&cause.to_string()))
    }

    /// The first entries, and whether there may be more. `None` without the lease.
    async fn take(&mut self) -> Result<Option<(Vec<Entry>, bool)>, Box<str>> {
        let mut take = cmd("EVAL");
        take.arg(TAKE).arg(2).arg(self.stream).arg(&self.lease).arg(&self.holder).arg(&*self.config.group);
        take.arg(self.partition.config.batch_max).arg(BATCH_BYTES_MAX).arg(COMMAND_BYTES_MAX);
        match self.ask(&take).await? {
            Value::Nil => Ok(None),
            answer => {
                let taken = parse(answer).ok_or("an answer that this gateway does not understand")?;
                Ok(Some(taken))
            }
        }
    }

    fn on_lease(&self, script: &str, arguments: &[&str]) -> Cmd {
        let mut eval = cmd("EVAL");
        eval.arg(script).arg(1).arg(&self.lease).arg(&self.holder).arg(arguments);
        eval
    }

    async fn ask(&mut self, command: &Cmd) -> Result<Value, Box<str>> {
        let answer = call(&mut self.connection, command, self.partition.config.timeout).await;
        answer.map_err(|cause| explained(&cause.to_string()))
    }
}

/// What an error of Redis means for a consumer.
fn explained(why: &str) -> Box<str> {
    let is_of_cluster = ["MOVED ", "CLUSTERDOWN", "CROSSSLOT"].iter().any(|code| why.contains(code));
    match is_of_cluster {
        true => {
            format!("{why}; this is a server of a Redis Cluster, and a consumer needs one that is not").into()
        }
        false => why.into(),
    }
}

impl Hold for Held<'_> {
    async fn keep(&mut self) -> Result<(), Box<str>> {
        let is_due = self.due.is(self.partition.clock.at());
        match !is_due || self.lease(PROLONG).await? {
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

/// The entries of an answer of `take.lua`, and whether there may be more.
fn parse(answer: Value) -> Option<(Vec<Entry>, bool)> {
    let Value::Array(answer) = answer else { return None };
    let [Value::Int(more), Value::Array(entries)] = &answer[..] else { return None };
    let entries = entries.iter().map(|entry| match entry {
        Value::Array(entry) => parse_entry(entry),
        _ => None,
    });
    Some((entries.collect::<Option<_>>()?, *more != 0))
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
    fn entries_are_read_in_order_whatever_is_in_them() {
        let entry = |id: &str, fields: &[&str]| {
            Value::Array(vec![text(id), Value::Array(fields.iter().map(|field| text(field)).collect())])
        };
        let answer = Value::Array(vec![
            Value::Int(1),
            Value::Array(vec![
                entry("5-0", &["method", "publish", "payload", "{}"]),
                entry("6-1", &["nonsense", "1"]),
            ]),
        ]);
        let (entries, more) = parse(answer).unwrap();
        assert!(more);
        assert_eq!(entries.len(), 2);
        assert_eq!((&*entries[0].id, entries[0].at), ("5-0", 5));
        assert_eq!(entries[0].command, Command::of(b"publish", b"{}"));
        assert_eq!(&*entries[1].id, "6-1");
        assert!(entries[1].command.is_err());
        let nothing = Value::Array(vec![Value::Int(0), Value::Array(vec![])]);
        assert_eq!(parse(nothing), Some((vec![], false)));
        assert_eq!(parse(Value::Nil), None);
    }

    #[test]
    fn a_server_of_a_cluster_is_named_as_what_it_is() {
        assert!(explained("MOVED 866 10.0.0.5:6379").contains("Redis Cluster"));
        assert_eq!(&*explained("WRONGTYPE not a stream"), "WRONGTYPE not a stream");
    }
}
