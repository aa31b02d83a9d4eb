//! A `ServerConnection` is the set of connections to one Redis server: opened, watched and closed together.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::backplane::redis::connection::client::{call, cause, client, refusal, settings};
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::connection::subscription::{Listener, PushHandler, Subscription};
use crate::backplane::redis::context::Context;
use crate::backplane::redis::format::script::{self, Scripts};
use crate::backplane::redis::format::slots::SlotMap;
use crate::config;
use crate::telemetry::backplane::Trouble;

/// How often the connections are checked. Together with the timeout this is how long a frozen server stays
/// unnoticed.
pub(crate) const WATCH: Duration = Duration::from_millis(500);

/// Maximum time that a check waits for a reply, so that a frozen server is noticed within two seconds.
const WATCH_TIMEOUT_MAX: Duration = Duration::from_millis(1200);

/// The connections to a server that accepts our commands.
pub(crate) struct ServerConnection {
    /// Unique in this process, starting at 1.
    pub(crate) number: u64,
    /// Index of the shard.
    pub(crate) shard: usize,
    /// Whether this is the shared server, which holds the keys of all nodes.
    pub(crate) is_shared: bool,
    /// For commands.
    pub(crate) connections: Vec<MultiplexedConnection>,
    pub(crate) subscriber: Subscription,
    /// A hash tag that maps to this server.
    tag: String,
    /// Replication id of the server: a server with another one starts new streams.
    pub(crate) replication_id: Box<str>,
    anchor: Mutex<Anchor>,
    pub(crate) scripts: Scripts,
    /// Whether the server saves snapshots, if that was asked and this user may know.
    pub(crate) snapshots: OnceLock<Option<bool>>,
    /// Notified when a connection ends.
    pub(crate) ended: Arc<Notify>,
}

/// Where a connection leads.
pub(crate) struct Destination<'a> {
    /// Number of the connection.
    pub(crate) number: u64,
    /// Index of the shard.
    pub(crate) shard: usize,
    pub(crate) server: &'a config::RedisServer,
    /// Whether this is the shared server.
    pub(crate) is_shared: bool,
}

/// Detects whether a server has lost all its data.
struct Anchor {
    /// The lowest slot of the server: all gateways compute the same.
    slot: Option<u16>,
    key: Arc<str>,
}

impl Anchor {
    fn of(context: &Context, slot_map: &SlotMap, shard: usize) -> Self {
        let slot = slot_map.lowest_slot(shard);
        Self { slot, key: context.keys.anchor(&slot_map.tag(shard, 0)).into() }
    }
}

impl ServerConnection {
    /// Connects, and checks whether the server can be used. The listener gets what the server sends without
    /// a request.
    pub(crate) async fn connect(
        context: &Arc<Context>,
        slot_map: &SlotMap,
        destination: Destination<'_>,
        listener: Box<dyn Listener>,
    ) -> Result<Self, Cause> {
        let Destination { number, shard, server, is_shared } = destination;
        let config = &context.config;
        let client =
            client(config.tls_authority.as_deref(), server, &config.username, config.password.as_ref())?;
        let ended = Arc::new(Notify::new());
        let tag = slot_map.tag(shard, number);
        let handler = Arc::new(PushHandler::new(context.clone(), listener, ended.clone()));
        // Concurrently: far away from Redis every round trip counts.
        let mut connecting = JoinSet::new();
        for _ in 0..config.connections {
            connecting.spawn(connect(client.clone(), config.timeout, ended.clone(), None));
        }
        let listening = connect(client, config.timeout, ended.clone(), Some(handler.clone())).await?;
        let mut pipelines = Vec::new();
        while let Some(connected) = connecting.join_next().await {
            pipelines
                .push(connected.map_err(|_| Cause::new(Trouble::Unreachable, "connecting has failed"))??);
        }
        let time = config.timeout;
        let replication_id = identify(&mut pipelines[0], time).await?;
        let anchor = Anchor::of(context, slot_map, shard);
        // If the server has no memory for the anchor, clients that return to an empty channel learn that they
        // may have missed something.
        drop(call(&mut pipelines[0], &make_anchor(&anchor.key, &context.fresh_epoch()), time).await);
        let scripts = load(&mut pipelines[0], slot_map.publish_verb(), time).await?;
        let subscriber =
            Subscription::begin(listening, handler, tag.clone(), slot_map.are_moving(), is_shared).await?;
        Ok(Self {
            number,
            shard,
            is_shared,
            connections: pipelines,
            subscriber,
            tag,
            replication_id,
            anchor: Mutex::new(anchor),
            scripts,
            snapshots: OnceLock::new(),
            ended,
        })
    }

    /// Key of the server's anchor.
    pub(crate) fn anchor(&self) -> Arc<str> {
        self.anchor.lock().unwrap_or_else(PoisonError::into_inner).key.clone()
    }

    /// In a Cluster the server may have received a lower slot, where gateways that connect from now on look
    /// for its anchor.
    fn follow_slots(&self, context: &Context, slot_map: &SlotMap) {
        let lowest = slot_map.lowest_slot(self.shard);
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        if lowest.is_some() && lowest != anchor.slot {
            *anchor = Anchor::of(context, slot_map, self.shard);
        }
    }

    /// Checks every connection. `Err` if they must be given up, otherwise what is wrong with the server.
    pub(crate) async fn watch(&self, context: &Context, slot_map: &SlotMap) -> Result<Option<Cause>, Cause> {
        let time = context.config.timeout.min(WATCH_TIMEOUT_MAX);
        let mut tries = JoinSet::new();
        for connection in self.connections.iter().skip(1) {
            let mut connection = connection.clone();
            tries.spawn(async move { call(&mut connection, &redis::cmd("PING"), time).await.map(drop) });
        }
        let mut first = self.connections[0].clone();
        let mut probe = redis::cmd("EVALSHA");
        let key = context.keys.probe(&self.tag);
        probe.arg(&self.scripts.probe).arg(1).arg(&key).arg(&key);
        timeout(time, self.subscriber.barrier())
            .await
            .unwrap_or_else(|_| Err(Cause::new(Trouble::Silent, "no answer to a subscription")))?;
        if identify(&mut first, time).await? != self.replication_id {
            return Err(Cause::new(Trouble::Unreachable, "the server has become another one"));
        }
        let probed = match call(&mut first, &probe, time).await {
            Ok(_) => None,
            Err(cause) if matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => Some(cause),
            Err(cause) => return Err(cause),
        };
        if probed.is_none() {
            self.follow_slots(context, slot_map);
            drop(call(&mut first, &make_anchor(&self.anchor(), &context.fresh_epoch()), time).await?);
        }
        while let Some(tried) = tries.join_next().await {
            tried.unwrap_or_else(|_| Err(Cause::new(Trouble::Silent, "the watch failed")))?;
        }
        Ok(probed)
    }
}

/// Creates the anchor of a server if it has none.
fn make_anchor(key: &str, random: &str) -> redis::Cmd {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(random).arg("NX");
    command
}

async fn connect(
    client: Client,
    time: Duration,
    ended: Arc<Notify>,
    handler: Option<Arc<PushHandler>>,
) -> Result<MultiplexedConnection, Cause> {
    // Called by the connection's task, in order of arrival.
    let pushed = move |info: PushInfo| -> Result<(), ()> {
        match (&handler, &info.kind) {
            (_, PushKind::Disconnection) => ended.notify_one(),
            (Some(handler), _) => handler.on_push(info),
            (None, _) => (),
        }
        Ok(())
    };
    let config = settings(time).set_push_sender(pushed);
    match timeout(time, client.get_multiplexed_async_connection_with_config(&config)).await {
        Ok(connected) => connected.map_err(|error| cause(&error)),
        Err(_) => Err(Cause::new(Trouble::Unreachable, format!("no connection within {time:?}"))),
    }
}

/// Loads the scripts and returns their digests.
async fn load(
    connection: &mut MultiplexedConnection,
    verb: &'static str,
    time: Duration,
) -> Result<Scripts, Cause> {
    let texts = [
        script::publish(verb),
        script::spread(verb),
        script::recover(verb),
        script::history(verb),
        script::probe(verb),
        script::PRESENCE_WRITE.to_owned(),
        script::PRESENCE_READ.to_owned(),
        script::PRESENCE_COUNT.to_owned(),
        script::PRESENCE_TAKE.to_owned(),
        script::OCCUPANCY.to_owned(),
    ];
    let mut pipeline = redis::pipe();
    for text in &texts {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(text);
    }
    let sent = timeout(time, connection.send_packed_commands(&pipeline, 0, texts.len())).await;
    let replies = sent
        .map_err(|_| Cause::new(Trouble::Silent, "no answer while scripts are loaded"))?
        .map_err(|error| cause(&error))?;
    let digest = |reply: Value| match reply {
        Value::BulkString(digest) => Ok(String::from_utf8_lossy(&digest).into_owned()),
        Value::ServerError(error) => Err(refusal(error.code(), error.details().unwrap_or_default())),
        _ => Err(Cause::new(Trouble::Refused, "it does not load scripts")),
    };
    let digests = replies.into_iter().map(digest).collect::<Result<Vec<_>, _>>()?;
    let digests = <[String; 10]>::try_from(digests);
    let [
        publish,
        spread,
        recover,
        history,
        probe,
        presence_write,
        presence_read,
        presence_count,
        presence_take,
        occupancy,
    ] = digests.map_err(|_| Cause::new(Trouble::Refused, "it does not load scripts"))?;
    Ok(Scripts {
        publish_verb: verb,
        publish,
        spread,
        recover,
        history,
        probe,
        presence_write,
        presence_read,
        presence_count,
        presence_take,
        occupancy,
    })
}

/// Reads the replication id of the server. Fails for a replica, which takes no writes.
async fn identify(connection: &mut MultiplexedConnection, time: Duration) -> Result<Box<str>, Cause> {
    let mut command = redis::cmd("INFO");
    command.arg("replication");
    let info = match call(connection, &command, time).await? {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } => text,
        _ => String::new(),
    };
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if field("role").is_some_and(|role| role != "master") {
        return Err(Cause::new(
            Trouble::Replica,
            "it follows another server, and the gateway needs the master",
        ));
    }
    let id = field("master_replid").filter(|id| !id.is_empty());
    id.map(Box::from).ok_or_else(|| Cause::new(Trouble::Refused, "it does not report its replication id"))
}
