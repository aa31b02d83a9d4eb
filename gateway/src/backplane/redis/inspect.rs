//! [`inspect`] reports the data of one channel in Redis to operators. It writes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Value};
use serde::Serialize;
use tokio::time::timeout;

use crate::backplane::redis::agreement::description::Description;
use crate::backplane::redis::connection::client::{cause, client};
use crate::backplane::redis::connection::fitness;
use crate::backplane::redis::format::keys::Keys;
use crate::backplane::redis::format::slots::SlotMap;
use crate::backplane::redis::topology::cluster;
use crate::backplane::redis::topology::sentinel::Sentinels;
use crate::config::{self, Config, RedisTopology};
use crate::protocol::channel::Channel;
use crate::telemetry::backplane::Subject;

/// Maximum number of keys reported one by one; further keys are only counted.
const KEYS_MAX: usize = 50;
/// Maximum number of the server's keys scanned for those of the channel.
const SCANNED_MAX: u64 = 1_000_000;
/// Keys scanned in one step.
const SCAN_STEP: u64 = 1_000;

/// The data of one channel in Redis. Times are Unix times in milliseconds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name of the channel.
    pub channel: String,
    /// Time of the inspection, by the clock of the server.
    pub now: u64,
    /// Replication id of the server.
    pub server: String,
    /// Top of the stream, if there is one.
    pub stream: Option<Stream>,
    /// The kept publications.
    pub publications: Publications,
    /// Number of gateways that subscribe to the channel. For an address: to the topic of all nodes.
    pub listeners: u64,
    /// Number of remembered idempotency keys.
    pub idempotency_keys: u64,
    /// Some of the keys of the channel.
    pub keys: Vec<Key>,
    /// Number of keys of the channel that are not in `keys`.
    pub more_keys: u64,
    /// Whether the scan stopped at its limit: the channel may have more keys.
    pub incomplete: bool,
    /// Gateways with a lease on this server; empty if the leases are on another server.
    pub gateways: Vec<Gateway>,
    /// Settings of the server that do not fit the configuration file, as sentences.
    pub warnings: Vec<String>,
}

/// A gateway that has a lease, or had one until a moment ago.
#[derive(Debug, Serialize)]
pub struct Gateway {
    /// Random identifier of the process.
    pub uid: String,
    /// Machine and address.
    pub name: String,
    /// Version of the gateway.
    pub version: String,
    /// Differences of its rules and limits from the configuration file, as sentences.
    pub differs: Vec<String>,
}

/// Top of a stream.
#[derive(Debug, Serialize)]
pub struct Stream {
    /// Its epoch.
    pub epoch: String,
    /// Offset of its newest publication.
    pub offset: u64,
    /// Replication id of the server that began it.
    pub server: String,
    /// Whether that is this server. If not, the next command begins another stream.
    pub goes_on: bool,
    /// Newest version of the document and its epoch, if versions are published.
    pub version: Option<(u64, String)>,
}

/// The kept publications of a stream.
#[derive(Debug, Default, Serialize)]
pub struct Publications {
    /// Their number.
    pub count: u64,
    /// Offset and time of the oldest.
    pub oldest: Option<(u64, u64)>,
    /// Offset and time of the newest.
    pub newest: Option<(u64, u64)>,
}

/// One key.
#[derive(Debug, Serialize)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// Its type in Redis.
    #[serde(rename = "type")]
    pub kind: String,
    /// Milliseconds until it expires; `None` if it does not.
    pub expires_in: Option<u64>,
    /// Memory in bytes, as Redis estimates it.
    pub bytes: u64,
}

/// Inspects a channel. An error says what to try.
pub async fn inspect(all: &Config, config: &config::Redis, channel: &Channel) -> anyhow::Result<Report> {
    let server = match &config.topology {
        RedisTopology::Server(server) => server.clone(),
        RedisTopology::Servers(servers) => {
            let shard_index = SlotMap::new(servers).shard_of(channel);
            servers.get(shard_index).cloned().ok_or_else(|| anyhow!("`redis.urls` names no server"))?
        }
        RedisTopology::Cluster(named) => {
            cluster::owner(config, named, channel).await.map_err(|cause| anyhow!("{cause}"))?
        }
        RedisTopology::Sentinels(sentinels) => {
            let found = async { Sentinels::new(config, sentinels)?.master().await };
            found.await.map_err(|cause| anyhow!("{cause}"))?
        }
    };
    let client = client(config.tls_authority.as_deref(), &server, &config.username, config.password.as_ref());
    let client = client.map_err(|cause| anyhow!("{cause}"))?;
    let settings =
        AsyncConnectionConfig::new().set_connection_timeout(Some(config.timeout)).set_response_timeout(None);
    let connected = timeout(config.timeout, client.get_multiplexed_async_connection_with_config(&settings));
    let connection = match connected.await {
        Ok(connected) => connected.map_err(|error| anyhow!("{}", cause(&error))),
        Err(_) => Err(anyhow!("no connection within {:?}", config.timeout)),
    };
    let connection =
        connection.context("failed to reach redis: is `redis.url` (or `redis.urls`, `redis.cluster`, `redis.sentinels`) right, and is it running?")?;
    let sharded = matches!(config.topology, RedisTopology::Cluster(_));
    let listeners = if sharded { "SHARDNUMSUB" } else { "NUMSUB" };
    let mut look = Look { connection, time: config.timeout, keys: Keys::new(&config.prefix), listeners };
    let mut report = look.at(channel).await?;
    report.gateways = look.gateways(&Description::of(all, &[])).await;
    report.warnings = look.warnings(all, &config.topology).await;
    Ok(report)
}

struct Look {
    connection: MultiplexedConnection,
    time: Duration,
    keys: Keys,
    /// Command that counts the subscribers of a topic.
    listeners: &'static str,
}

impl Look {
    async fn at(&mut self, channel: &Channel) -> anyhow::Result<Report> {
        let info: String = self.ask("INFO", &["replication"]).await?;
        let server = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
        let server = server.unwrap_or_default().trim().to_owned();
        let (seconds, micros): (u64, u64) = self.ask("TIME", &[]).await?;
        let (stream, topic) = (self.keys.stream(channel), self.keys.topic(channel));
        let publications = Publications {
            count: self.ask("XLEN", &[&stream]).await?,
            oldest: entry(&self.ask("XRANGE", &[&stream, "-", "+", "COUNT", "1"]).await?),
            newest: entry(&self.ask("XREVRANGE", &[&stream, "+", "-", "COUNT", "1"]).await?),
        };
        let heard: Vec<Value> = self.ask("PUBSUB", &[self.listeners, &topic]).await?;
        let listeners = heard.get(1).and_then(|count| u64::from_redis_value_ref(count).ok()).unwrap_or(0);
        let stands = self.stands(channel, &server).await?;
        let (names, incomplete) = self.names(channel).await?;
        let once = self.keys.once(channel, "");
        let idempotency_keys = names.iter().filter(|name| name.starts_with(&once)).count() as u64;
        let more_keys = names.len().saturating_sub(KEYS_MAX) as u64;
        let mut keys = Vec::new();
        for name in names.into_iter().take(KEYS_MAX) {
            keys.extend(self.key(name).await?);
        }
        Ok(Report {
            channel: channel.to_string(),
            now: seconds * 1000 + micros / 1000,
            server,
            stream: stands,
            publications,
            listeners,
            idempotency_keys,
            keys,
            more_keys,
            incomplete,
            gateways: Vec::new(),
            warnings: Vec::new(),
        })
    }

    /// Gateways with a lease on this server, and how their rules differ from these.
    async fn gateways(&mut self, here: &Description) -> Vec<Gateway> {
        let (leases, rules) = (self.keys.leases(), self.keys.rules());
        let listed: BTreeMap<String, String> = self.ask("HGETALL", &[&leases]).await.unwrap_or_default();
        let said: BTreeMap<String, Vec<u8>> = self.ask("HGETALL", &[&rules]).await.unwrap_or_default();
        let gateway = |(uid, lease): (String, String)| {
            let lease: serde_json::Value = serde_json::from_str(&lease).unwrap_or_default();
            let text = |key: &str| lease[key].as_str().unwrap_or("?").to_owned();
            let differences = said.get(&uid).and_then(|said| Description::read(said));
            let differences = differences.map(|there| here.differences(&there)).unwrap_or_default();
            // The configuration file names no plugins.
            let of_file = differences.iter().filter(|one| one.subject != Subject::Plugins);
            let differs = of_file.map(|one| one.sentence.to_string()).collect();
            Gateway { name: text("name"), version: text("version"), uid, differs }
        };
        listed.into_iter().map(gateway).collect()
    }

    /// A setting that this user may not read is no warning.
    async fn warnings(&mut self, config: &Config, topology: &RedisTopology) -> Vec<String> {
        let mut info = String::new();
        for section in fitness::SECTIONS {
            info += &self.ask::<String>("INFO", &[section]).await.unwrap_or_default();
        }
        let snapshots =
            self.ask("CONFIG", &["GET", "save"]).await.ok().and_then(|reply| fitness::saves(&reply));
        fitness::warnings(&info, snapshots, config, topology)
    }

    async fn stands(&mut self, channel: &Channel, this: &str) -> anyhow::Result<Option<Stream>> {
        let fields = ["epoch", "offset", "server", "version", "version_epoch"];
        let top = self.keys.top(channel);
        let command: Vec<&str> = [&*top].into_iter().chain(fields).collect();
        let [epoch, offset, server, version, version_epoch]: [Option<String>; 5] =
            self.ask("HMGET", &command).await?;
        let Some(epoch) = epoch else { return Ok(None) };
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
        let server = server.unwrap_or_default();
        Ok(Some(Stream {
            epoch,
            offset: number(offset).unwrap_or(0),
            goes_on: server.split('/').next() == Some(this),
            server,
            version: number(version).map(|version| (version, version_epoch.unwrap_or_default())),
        }))
    }

    /// Sorted names of all keys of a channel, and whether some may be missing.
    async fn names(&mut self, channel: &Channel) -> anyhow::Result<(Vec<String>, bool)> {
        let (pattern, step) = (self.keys.all_of(channel), SCAN_STEP.to_string());
        let (mut names, mut cursor, mut scanned) = (Vec::new(), "0".to_owned(), 0);
        loop {
            let (next, found): (String, Vec<String>) =
                self.ask("SCAN", &[&cursor, "MATCH", &pattern, "COUNT", &step]).await?;
            names.extend(found);
            scanned += SCAN_STEP;
            cursor = next;
            if cursor == "0" || scanned >= SCANNED_MAX {
                break;
            }
        }
        // A scan may return a key twice.
        names.sort();
        names.dedup();
        Ok((names, cursor != "0"))
    }

    /// Describes a key; `None` if it has expired meanwhile.
    async fn key(&mut self, name: String) -> anyhow::Result<Option<Key>> {
        let kind: String = self.ask("TYPE", &[&name]).await?;
        let left: i64 = self.ask("PTTL", &[&name]).await?;
        let bytes: Option<u64> = self.ask("MEMORY", &["USAGE", &name]).await?;
        let expires_in = u64::try_from(left).ok();
        Ok(bytes.map(|bytes| Key { name, kind, expires_in, bytes }))
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &str, arguments: &[&str]) -> anyhow::Result<T> {
        let mut question = Cmd::new();
        question.arg(command).arg(arguments);
        match timeout(self.time, question.query_async(&mut self.connection)).await {
            Ok(answer) => {
                answer.map_err(|error| anyhow!("{}", cause(&error)).context(format!("{command} failed")))
            }
            Err(_) => {
                Err(anyhow!("redis does not answer {command} within {:?} (`redis.timeout`)", self.time))
            }
        }
    }
}

/// Offset and time of the first entry of a range, from its name.
fn entry(range: &Value) -> Option<(u64, u64)> {
    let Value::Array(entries) = range else { return None };
    let Value::Array(parts) = entries.first()? else { return None };
    let Value::BulkString(name) = parts.first()? else { return None };
    let (offset, time) = std::str::from_utf8(name).ok()?.split_once('-')?;
    Some((offset.parse().ok()?, time.parse().ok()?))
}
