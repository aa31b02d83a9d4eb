//! A `ServerConnection` is the set of connections to one Redis server: opened, watched and closed together.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::AsyncDNSResolver;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo,
    PushKind, RedisConnectionInfo, RedisError, RedisFuture, TlsCertificates, Value,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::backplane::redis::Shared;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::connection::subscription::{PushHandler, Subscription};
use crate::backplane::redis::format::script::{self, Scripts};
use crate::backplane::redis::topology::shard::Assignment;
use crate::config;
use crate::egress::Names;
use crate::telemetry::backplane::Trouble;

/// How often the connections are checked. Together with the timeout this is how long a frozen server stays
/// unnoticed.
pub(crate) const WATCH: Duration = Duration::from_millis(500);

/// Maximum time that a check waits for a reply, so that a frozen server is noticed within two seconds.
const WATCH_TIMEOUT_MAX: Duration = Duration::from_millis(1200);

/// Maximum number of concurrent name lookups for servers.
pub const LOOKUPS_MAX: usize = 16;

/// The connections to a server that accepts our commands.
pub(crate) struct ServerConnection {
    /// Unique in this process, starting at 1.
    pub(crate) number: u64,
    /// Index of the shard.
    pub(crate) shard: usize,
    /// Whether this is the shared server, which holds the keys of all nodes.
    pub(crate) home: bool,
    /// For commands.
    pub(crate) connections: Vec<MultiplexedConnection>,
    pub(crate) subscriber: Subscription,
    /// A hash tag that maps to this server.
    tag: String,
    /// Replication id of the server: a server with another one starts new streams.
    pub(crate) server: Box<str>,
    anchor: Mutex<Anchor>,
    pub(crate) scripts: Scripts,
    /// Whether the server saves snapshots, if that was asked and this user may know.
    pub(crate) snapshots: OnceLock<Option<bool>>,
    /// Notified when a connection ends.
    pub(crate) ended: Arc<Notify>,
}

/// Detects whether a server has lost all its data.
struct Anchor {
    /// The lowest slot of the server: all gateways compute the same.
    slot: Option<u16>,
    key: Arc<str>,
}

impl Anchor {
    fn of(shared: &Shared, shard: usize) -> Self {
        let slot = shared.slot_map.lowest_slot(shard);
        Self { slot, key: shared.context.keys.anchor(&shared.slot_map.tag(shard, 0)).into() }
    }
}

impl ServerConnection {
    /// Connects, and checks whether the server can be used.
    pub(crate) async fn connect(
        shared: &Arc<Shared>,
        shard: usize,
        at: &config::RedisServer,
        assignment: &Assignment,
    ) -> Result<Self, Cause> {
        let config = &shared.context.config;
        let client = client(config, at, &config.username, config.password.as_ref())?;
        let ended = Arc::new(Notify::new());
        let number = shared.links.fetch_add(1, Ordering::Relaxed) + 1;
        let tag = shared.slot_map.tag(shard, number);
        let handler = Arc::new(PushHandler::new(shared.clone(), shard, number, ended.clone()));
        // Concurrently: far away from Redis every round trip counts.
        let mut connecting = JoinSet::new();
        for _ in 0..shared.context.config.connections {
            connecting.spawn(connect(client.clone(), shared.clone(), ended.clone(), None));
        }
        let listening = connect(client, shared.clone(), ended.clone(), Some(handler.clone())).await?;
        let mut pipelines = Vec::new();
        while let Some(connected) = connecting.join_next().await {
            pipelines
                .push(connected.map_err(|_| Cause::new(Trouble::Unreachable, "connecting has failed"))??);
        }
        let time = shared.context.config.timeout;
        let server = identify(&mut pipelines[0], time).await?;
        let anchor = Anchor::of(shared, shard);
        // If the server has no memory for the anchor, clients that return to an empty channel learn that they
        // may have missed something.
        drop(call(&mut pipelines[0], &make_anchor(&anchor.key, &shared.context.fresh_epoch()), time).await);
        let scripts = load(&mut pipelines[0], shared.slot_map.publish_verb(), time).await?;
        let subscriber = Subscription::begin(listening, handler, tag.clone(), assignment.home).await?;
        Ok(Self {
            number,
            shard,
            home: assignment.home,
            connections: pipelines,
            subscriber,
            tag,
            server,
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
    fn follow_slots(&self, shared: &Shared) {
        let lowest = shared.slot_map.lowest_slot(self.shard);
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        if lowest.is_some() && lowest != anchor.slot {
            *anchor = Anchor::of(shared, self.shard);
        }
    }

    /// Checks every connection. `Err` if they must be given up, otherwise what is wrong with the server.
    pub(crate) async fn watch(&self, shared: &Shared) -> Result<Option<Cause>, Cause> {
        let time = shared.context.config.timeout.min(WATCH_TIMEOUT_MAX);
        let mut tries = JoinSet::new();
        for connection in self.connections.iter().skip(1) {
            let mut connection = connection.clone();
            tries.spawn(async move { call(&mut connection, &redis::cmd("PING"), time).await.map(drop) });
        }
        let mut first = self.connections[0].clone();
        let mut probe = redis::cmd("EVALSHA");
        let key = shared.context.keys.probe(&self.tag);
        probe.arg(&self.scripts.probe).arg(1).arg(&key).arg(&key);
        timeout(time, self.subscriber.barrier())
            .await
            .unwrap_or_else(|_| Err(Cause::new(Trouble::Silent, "no answer to a subscription")))?;
        let server = identify(&mut first, time).await?;
        if server != self.server {
            return Err(Cause::new(Trouble::Unreachable, "the server has become another one"));
        }
        let probed = match call(&mut first, &probe, time).await {
            Ok(_) => None,
            Err(cause) if matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => Some(cause),
            Err(cause) => return Err(cause),
        };
        if probed.is_none() {
            self.follow_slots(shared);
            drop(call(&mut first, &make_anchor(&self.anchor(), &shared.context.fresh_epoch()), time).await?);
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

/// Creates a client for a server.
pub(crate) fn client(
    config: &config::Redis,
    server: &config::RedisServer,
    username: &str,
    password: Option<&config::Secret>,
) -> Result<Client, Cause> {
    let config::RedisServer { tls, host, port, database } = server;
    let (host, port) = (host.to_string(), *port);
    let address = if *tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let mut settings = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name()
        .set_db(i64::from(*database));
    if !username.is_empty() {
        settings = settings.set_username(username);
    }
    if let Some(password) = password {
        settings = settings.set_password(password.expose());
    }
    let info = address.into_connection_info().map_err(|error| cause(&error))?.set_redis_settings(settings);
    let authority = config.tls_authority.as_ref().filter(|_| *tls).map(|pem| pem.to_vec());
    let client = match authority {
        Some(root_cert) => {
            let trusted = TlsCertificates { client_tls: None, root_cert: Some(root_cert) };
            Client::build_with_tls(info, trusted)
        }
        None => Client::open(info),
    };
    client.map_err(|error| cause(&error))
}

/// Settings of a connection: connecting is bounded by `time`; each command has a separate timeout.
pub(crate) fn settings(time: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(time))
        .set_response_timeout(None)
        .set_dns_resolver(ServerNames)
}

/// Name lookups are shared, so that abandoned attempts to connect do not pile up lookups of the same name.
static NAMES: LazyLock<Names> = LazyLock::new(|| Names::new(LOOKUPS_MAX));

struct ServerNames;

impl AsyncDNSResolver for ServerNames {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found = NAMES.addresses(host).await.map_err(|why| io::Error::other(why.into_string()))?;
            let addresses: Vec<_> = found.iter().map(|address| SocketAddr::new(*address, port)).collect();
            Ok(Box::new(addresses.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

async fn connect(
    client: Client,
    shared: Arc<Shared>,
    ended: Arc<Notify>,
    handler: Option<Arc<PushHandler>>,
) -> Result<MultiplexedConnection, Cause> {
    let time = shared.context.config.timeout;
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
        script::recover(verb),
        script::history(verb),
        script::probe(verb),
        script::PRESENCE_WRITE.to_owned(),
        script::PRESENCE_READ.to_owned(),
        script::PRESENCE_COUNT.to_owned(),
        script::PRESENCE_TAKE.to_owned(),
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
    let digests = <[String; 8]>::try_from(digests);
    let [publish, recover, history, probe, presence_write, presence_read, presence_count, presence_take] =
        digests.map_err(|_| Cause::new(Trouble::Refused, "it does not load scripts"))?;
    Ok(Scripts {
        publish_verb: verb,
        publish,
        recover,
        history,
        probe,
        presence_write,
        presence_read,
        presence_count,
        presence_take,
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
    id.map(Box::from).ok_or_else(|| Cause::new(Trouble::Refused, "it does not tell its replication id"))
}

/// Sends one command with a timeout.
pub(crate) async fn call(
    connection: &mut MultiplexedConnection,
    command: &redis::Cmd,
    time: Duration,
) -> Result<Value, Cause> {
    match timeout(time, connection.send_packed_command(command)).await {
        Err(_) => Err(Cause::new(Trouble::Silent, format!("no answer within {time:?}"))),
        Ok(Err(error)) => Err(cause(&error)),
        Ok(Ok(Value::ServerError(error))) => Err(refusal(error.code(), error.details().unwrap_or_default())),
        Ok(Ok(value)) => Ok(value),
    }
}

/// Sends several commands at once, with a timeout.
pub(crate) async fn call_all(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
    commands: usize,
    time: Duration,
) -> Result<Vec<Value>, Cause> {
    match timeout(time, connection.send_packed_commands(pipeline, 0, commands)).await {
        Ok(Ok(replies)) if replies.len() == commands => Ok(replies),
        Ok(Ok(_)) => Err(Cause::new(Trouble::Silent, "answers are missing")),
        Ok(Err(error)) => Err(cause(&error)),
        Err(_) => Err(Cause::new(Trouble::Silent, "no answer when presence was written")),
    }
}

/// Maps an error of the client to a cause.
pub(crate) fn cause(error: &RedisError) -> Cause {
    match error.code() {
        Some(code) => refusal(code, error.detail().unwrap_or_default()),
        None if error.kind() == redis::ErrorKind::AuthenticationFailed => {
            Cause::new(Trouble::Refused, "wrong `redis.username` or password")
        }
        None => Cause::new(Trouble::Unreachable, error.to_string()),
    }
}

/// Maps an error of the server to a cause.
pub(crate) fn refusal(code: &str, detail: &str) -> Cause {
    let trouble = match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Trouble::Refused,
        "READONLY" => Trouble::Replica,
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "BUSY" => Trouble::Silent,
        // The scripts are gone: a new connection loads them.
        "NOSCRIPT" => Trouble::Unreachable,
        // The server has lost slots: a new connection finds out which it has.
        code if is_elsewhere(code) => Trouble::Unreachable,
        _ => Trouble::Writes,
    };
    Cause::new(trouble, format!("{code} {detail}"))
}

/// Whether an error concerns the server, and not only one command.
pub(crate) fn is_of_server(code: &str) -> bool {
    !matches!(code, "ERR" | "WRONGTYPE") && !is_elsewhere(code)
}

/// Whether an error says that another server of the Cluster has the slot, or soon will. The command was not
/// carried out. It waits until that server has the slot: subscribers do not receive its publications before.
pub(crate) fn is_elsewhere(code: &str) -> bool {
    matches!(code, "MOVED" | "ASK" | "TRYAGAIN")
}

#[cfg(test)]
mod tests {
    use crate::backplane::redis::connection::server_connection::*;

    #[test]
    fn errors_of_the_server_are_told_apart() {
        for (code, trouble) in [
            ("OOM", Trouble::Writes),
            ("MISCONF", Trouble::Writes),
            ("NOREPLICAS", Trouble::Writes),
            ("READONLY", Trouble::Replica),
            ("NOPERM", Trouble::Refused),
            ("LOADING", Trouble::Silent),
        ] {
            assert_eq!(refusal(code, "because").trouble, trouble, "{code}");
        }
    }
}
