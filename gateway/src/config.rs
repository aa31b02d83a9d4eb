//! [`Config`] is the configuration as the gateway uses it: every value present, checked and in its unit.
//!
//! `default.toml` names every key, its default and its meaning; a user's file overrides it. See
//! [`Config::load`].

mod ask;
mod external;
mod error;
mod events;
mod origin;
mod personal;
mod proxies;
mod read;
mod redis;
mod topology;
mod resolve;
mod secret;
mod targets;
mod tls;
mod upstream;
mod consumer;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use ask::{Ask, AskFailure, ChannelAsk};
pub use consumer::{Consumer, Login, NatsStream, Outbox, RedisStreams, Source};
pub use error::{ConfigError, ConfigErrors};
pub use events::{ChannelEvents, Events};
pub(crate) use origin::http_origin;
pub use personal::PersonalChannel;
pub use proxies::{Proxies, Tell};
pub use secret::{Secret, SigningKey};
pub use targets::{Asks, Health, Shadow, TargetBreaker, UpstreamTarget, WEIGHT_MAX};

use crate::log_users::LogUsers;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::push::MEMBER_BYTES_MAX;

/// The shipped defaults: a commented TOML file with every key.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// The environment variable that overrides `admin.api_key`.
pub const API_KEY_VARIABLE: &str = "GATEWAY_ADMIN_API_KEY";

/// Beginning of the names under which plugins find a client's certificate among the headers.
pub const CERTIFICATE_HEADERS: &str = "x-client-cert-";

/// Maximum number of threads that serve clients.
pub const WORKERS_MAX: usize = 64;

const FILE_BYTES_MAX: u64 = 1 << 20;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect.
    pub listen: Listen,
    /// Health, metrics and the HTTP API.
    pub admin: Admin,
    /// From the first byte to the accepted connect command.
    pub handshake: Handshake,
    /// What one client, and all of them together, may use.
    pub limits: Limits,
    /// The life of a connection.
    pub client: Client,
    /// Compression of WebSocket messages.
    pub compression: Compression,
    /// Clients without WebSocket.
    pub fallbacks: Fallbacks,
    /// Clients that only listen.
    pub unidirectional: Unidirectional,
    /// Messages in an application's own format.
    pub raw: Raw,
    /// Rules of channels.
    pub namespaces: Namespaces,
    /// Memory of the node.
    pub memory: Memory,
    /// Redis for several gateways; `None` for a single one.
    pub redis: Option<Redis>,
    /// Plugins.
    pub plugins: Plugins,
    /// The upstreams that receive events, by name.
    pub upstreams: BTreeMap<Box<str>, Upstream>,
    /// The upstreams that are asked about what has no channel.
    pub ask: Ask,
    /// Which upstream is told what happens.
    pub events: Events,
    /// Where commands of backends come from, by name.
    pub consumers: BTreeMap<Box<str>, Consumer>,
    /// Which messages are explained.
    pub explain: Explain,
    /// Stopping.
    pub drain: Drain,
    /// Log lines.
    pub log: Log,
}

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// Threads that serve clients, 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// The proxies that may state the address of a client.
    pub proxies: Proxies,
    /// TLS; `None` for connections in the clear.
    pub tls: Option<Tls>,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// At least one. The first is for clients that name no server, or an unknown one.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients are asked for a certificate.
    pub client_certificates: ClientCertificates,
    /// The lowest version that is spoken.
    pub min_version: TlsVersion,
    /// Whether HTTP/2 is offered. Never on the admin listener.
    pub http2: bool,
}

/// The files of a certificate, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Whether a listener asks clients for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    /// It does not.
    None,
    /// A client may have one, which must then be valid.
    Optional {
        /// File with the certificates of the authorities that are trusted, in PEM.
        authority: PathBuf,
    },
    /// Every client needs one.
    Required {
        /// File with the certificates of the authorities that are trusted, in PEM.
        authority: PathBuf,
    },
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// Health, metrics and the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// `None` serves none of them. Without a key it must be a loopback address.
    pub address: Option<SocketAddr>,
    /// `None` closes the API; health and metrics stay.
    pub api_key: Option<Secret>,
    /// Whether metrics require the key; needs a key.
    pub metrics_need_key: bool,
    /// TLS; `None` for connections in the clear.
    pub tls: Option<Tls>,
}

/// From the first byte to the accepted connect command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// Origins of web pages that may connect.
    pub origins: Origins,
    /// Time from the accepted socket to the accepted connect command.
    pub deadline: Duration,
    /// Time from the accepted socket to the complete head of its request, at most `deadline`.
    pub head_deadline: Duration,
    /// Largest head of an HTTP request, at least 8 KiB.
    pub header_bytes_max: usize,
    /// Names of headers shown to plugins, in lower case.
    pub headers_kept: Vec<Box<str>>,
}

/// Origins of web pages that may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Exactly these origins, host in lower case. An empty list refuses every page.
    Listed(Vec<Box<str>>),
    /// Every origin.
    Any,
}

/// Limits for each client and for all together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum concurrent connections of the process.
    pub connections_max: usize,
    /// Maximum concurrent connections from one IPv4 address or IPv6 /64 network.
    pub connections_per_address_max: usize,
    /// Maximum connections of the process whose client is not admitted yet.
    pub handshakes_max: usize,
    /// Maximum of these from one IPv4 address or IPv6 /64 network.
    pub handshakes_per_address_max: usize,
    /// Rate of new connections of the process.
    pub connection_rate: Rate,
    /// Rate of new connections from one IPv4 address or IPv6 /64 network.
    pub connection_rate_per_address: Rate,
    /// Maximum bytes of a message from a client, and of a publication over the HTTP API.
    pub message_bytes_max: usize,
    /// Maximum number of commands in one message.
    pub commands_per_message_max: usize,
    /// Maximum bytes of the payload of any publication; at least `message_bytes_max`.
    pub publication_bytes_max: usize,
    /// Maximum bytes queued for one client, replies included; the largest publication fits with its overhead.
    pub outbound_bytes_max: usize,
    /// Time within which a client must take [`WRITE_BYTES_MIN`], or everything queued for it.
    pub write_timeout: Duration,
    /// Maximum number of subscriptions of one connection.
    pub channels_per_connection_max: usize,
}

/// A rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Average per second; 0 for no limit.
    pub per_second: u32,
    /// Maximum at once, at least 1.
    pub burst: u32,
}

/// Minimum of the default for `limits.publication_bytes_max`: what plugins may hand over by default.
const PUBLICATION_BYTES: usize = 256 * 1024;

/// Bytes that a client must take within `limits.write_timeout` while more is queued for it.
pub const WRITE_BYTES_MIN: u64 = 64 * 1024;

/// Overhead of a publication on its way to a client: names, numbers, headers, and the part of the queue kept
/// for replies.
const AROUND_PUBLICATION: usize = MEMBER_BYTES_MAX + 8 * 1024;

impl Limits {
    /// Maximum bytes of one reply to a client. While more than this is queued for a client, its commands
    /// wait, so that a reply and the pushes queued meanwhile fit.
    pub fn answer_bytes_max(&self) -> usize {
        self.outbound_bytes_max / 2
    }
}

/// The life of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Whether a client that no plugin accepted is admitted without a user.
    pub anonymous: bool,
    /// The channel of its own user to which each client is subscribed.
    pub personal_channel: PersonalChannel,
    /// Time between pings, in whole seconds.
    pub ping_interval: Duration,
    /// Time to answer a ping; less than `ping_interval`.
    pub pong_timeout: Duration,
    /// Time to refresh an expired credential.
    pub expiry_grace: Duration,
    /// Time to refresh an expired subscription.
    pub subscription_expiry_grace: Duration,
    /// Maximum number of publications in the reply to one history request or one recovery.
    pub history_publications_max: usize,
}

/// HTTP streaming, server-sent events and emulation requests, for clients without WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallbacks {
    /// Whether they are accepted.
    pub enabled: bool,
}

/// Streams for clients that only listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unidirectional {
    /// Whether they are accepted.
    pub enabled: bool,
}

/// Compression of WebSocket messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// Whether the gateway accepts offers of clients to compress.
    pub enabled: bool,
    /// Least bytes of a message that the gateway compresses.
    pub min_bytes: usize,
    /// From 1 (fast) to 9 (small).
    pub level: u32,
}

/// Messages in an application's own format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// Whether they are accepted.
    pub enabled: bool,
    /// Whether the first message of a client is its token, if its handshake has none.
    pub token_in_first_message: bool,
}

/// Rules of channels by the part of the name before the first colon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// For channels without a colon and for direct messages.
    pub default: Arc<Namespace>,
    /// By namespace.
    pub named: HashMap<Box<str>, Arc<Namespace>>,
}

impl Namespaces {
    /// Whether any of them tells of channels that become occupied or vacated.
    pub fn tell_occupancy(&self) -> bool {
        self.named.values().chain([&self.default]).any(|namespace| namespace.tells_occupancy())
    }

    /// The rules of a channel; `None` if its namespace is not configured.
    pub fn of(&self, channel: &Channel) -> Option<&Arc<Namespace>> {
        match (channel.target(), channel.namespace()) {
            // A user's id may hold a colon: an address has no namespace.
            (Target::User(_) | Target::Connection(_), _) | (_, None) => Some(&self.default),
            (Target::Channel, Some(name)) => self.named.get(name),
        }
    }
}

/// Rules of the channels of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Maximum number of publications kept per channel; 0 keeps none.
    pub history_size: usize,
    /// How long a publication is kept.
    pub history_ttl: Duration,
    /// Number of Redis replicas that must have a publication before it is acknowledged; only with Redis.
    pub min_replicas: u16,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// Whether returning clients get the publications they missed; only with a history.
    pub recovery: bool,
    /// Which of them.
    pub recovery_mode: RecoveryMode,
    /// Whether clients without a position get the latest one; only with [`RecoveryMode::Cache`].
    pub latest_on_subscribe: bool,
    /// Whether the members of a channel are tracked.
    pub presence: bool,
    /// Whether subscribers may receive joins and leaves.
    pub join_leave: bool,
    /// Whether subscribers receive them unasked; only with `join_leave`.
    pub force_push_join_leave: bool,
    /// Whether subscribers may filter publications by their tags.
    pub tag_filter: bool,
    /// Whether subscribers may get deltas in place of payloads.
    pub delta: bool,
    /// Whether clients may subscribe to patterns of its channels; never for channels without a namespace.
    pub wildcards: bool,
    /// Whether only clients with a certificate take part.
    pub client_certificate: bool,
    /// The events of its channels that a backend is told.
    pub events: ChannelEvents,
    /// Who may subscribe if no plugin decided; never [`Access::Subscribers`].
    pub allow_subscribe: Access,
    /// Who may publish if no plugin decided.
    pub allow_publish: Access,
    /// Who may read the history if no plugin decided.
    pub allow_history: Access,
    /// Who may read the presence if no plugin decided.
    pub allow_presence: Access,
    /// The upstreams that decide in place of these.
    pub ask: ChannelAsk,
}

impl Namespace {
    /// Whether the backend is told when a channel gets its first and loses its last subscriber.
    pub fn tells_occupancy(&self) -> bool {
        self.events.occupied || self.events.vacated
    }
}

/// The publications that clients get when they recover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryMode {
    /// All that they missed.
    Stream,
    /// The latest one, if they have not seen it.
    Cache,
}

/// The clients that may do something if no plugin has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// No client.
    Nobody,
    /// Subscribers of the channel.
    Subscribers,
    /// Clients admitted with a user.
    Users,
    /// Every admitted client.
    Anyone,
}

/// Memory of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Maximum number of channels with subscribers.
    pub channels_max: usize,
    /// Maximum number of different patterns with subscribers on one worker.
    pub patterns_max: usize,
    /// Maximum number of channels without subscribers that exist for their publications; only without Redis.
    pub unsubscribed_channels_max: usize,
    /// Maximum number of publications queued for one worker.
    pub inbox_deliveries_max: usize,
    /// Maximum bytes of these publications.
    pub inbox_bytes_max: usize,
    /// Maximum bytes queued for all clients together.
    pub outbound_bytes_max: usize,
    /// Maximum bytes of all kept publications together.
    pub history_bytes_max: usize,
    /// Maximum number of remembered idempotency keys.
    pub idempotency_keys_max: usize,
    /// Maximum number of revoked tokens and blocked users.
    pub revocations_max: usize,
}

/// The Redis that several gateways share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Its servers.
    pub topology: RedisTopology,
    /// The certificates that TLS trusts, in PEM; `None` for the trust store of the system.
    pub tls_authority: Option<Box<[u8]>>,
    /// User name of the gateway; empty for the default user.
    pub username: Box<str>,
    /// Its password, if there is one.
    pub password: Option<Secret>,
    /// Prefix of all names in Redis.
    pub prefix: Box<str>,
    /// Number of connections for commands, in addition to the one for subscriptions.
    pub connections: usize,
    /// Timeout of a command, and of a request that waits while Redis is away.
    pub timeout: Duration,
    /// Maximum pause between two attempts to connect.
    pub reconnect_pause_max: Duration,
    /// Maximum number of pending requests of the node.
    pub questions_max: usize,
    /// Maximum bytes of the publications among them.
    pub questions_bytes_max: usize,
    /// Whether the gateway is not ready while Redis cannot be used.
    pub required_for_readiness: bool,
}

/// How a gateway finds the servers of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisTopology {
    /// A single server.
    Server(RedisServer),
    /// Two or more independent servers: each holds a part of the channels.
    Servers(Vec<RedisServer>),
    /// The master named by these Sentinels.
    Sentinels(RedisSentinels),
    /// Some servers of a Cluster, at least one: they provide the slot map.
    Cluster(Vec<RedisServer>),
}

/// The Sentinels of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSentinels {
    /// Their addresses, at least one. The master is reached with the same TLS setting and has the same
    /// database.
    pub sentinels: Vec<RedisServer>,
    /// Name of the master.
    pub master: Box<str>,
    /// User name of the gateway at the Sentinels; empty for the default user.
    pub username: Box<str>,
    /// Its password at the Sentinels, if there is one.
    pub password: Option<Secret>,
}

/// A Redis server, or a Sentinel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RedisServer {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// Number of the database.
    pub database: u16,
}

/// Plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins {
    /// The folder whose `.wasm` files are the chain.
    pub folder: PathBuf,
    /// The folder for everything that survives a restart; `None` for a folder next to `folder`.
    pub state_folder: Option<PathBuf>,
    /// What happens to a plugin whose file is removed from the folder.
    pub on_removal: OnRemoval,
    /// Names of plugins without which the gateway does not start, and which keep running when their files are
    /// removed.
    pub required: Arc<[Box<str>]>,
    /// Whether to refuse a file that other users could have put there.
    pub check_owner: bool,
    /// How changes of the folder are noticed.
    pub watch: Watch,
    /// Maximum time to compile one file.
    pub compile_timeout: Duration,
    /// Maximum memory to compile one file.
    pub compile_bytes_max: usize,
    /// Maximum number of plugins in the chain.
    pub max: usize,
}

/// What happens to a plugin whose file is removed from the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRemoval {
    /// It leaves the chain.
    Remove,
    /// Its last version keeps running.
    Keep,
}

/// How changes of the plugin folder are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// By notifications of the system; a periodic scan finds changes that were not notified.
    Notify,
    /// By scanning only.
    Poll,
}

impl Memory {
    /// The part of a worker's inbox that one client may fill: beyond it this client is refused, and not the
    /// others.
    pub fn publisher_bytes_max(&self) -> usize {
        self.inbox_bytes_max / 16
    }

    /// The part of a worker's inbox that the HTTP API may fill.
    pub fn api_bytes_max(&self) -> usize {
        self.inbox_bytes_max / 2
    }
}

impl Plugins {
    /// The folder for everything that survives a restart: by default `.plugins.state` next to `plugins`.
    pub fn state_folder(&self) -> PathBuf {
        self.state_folder.clone().unwrap_or_else(|| match self.folder.file_name() {
            Some(name) => self.folder.with_file_name(format!(".{}.state", name.to_string_lossy())),
            // A path without a name, such as `.` or `..`.
            None => self.folder.join(".state"),
        })
    }
}

/// An HTTP service behind the gateway that receives events and answers questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where its servers are. Not empty, and not every weight is 0.
    pub targets: Box<[UpstreamTarget]>,
    /// How questions are put to it.
    pub asks: Asks,
    /// When a target that fails gets nothing for a while.
    pub breaker: TargetBreaker,
    /// How targets are checked beside the traffic, if at all.
    pub health: Option<Health>,
    /// Where copies of questions go, if anywhere.
    pub shadow: Option<Shadow>,
    /// The key that signs events and questions.
    pub secret: Option<SigningKey>,
    /// Time for one attempt.
    pub timeout: Duration,
    /// Number of attempts after the first.
    pub retries: u32,
    /// Maximum pause before the second attempt.
    pub retry_pause_min: Duration,
    /// Maximum pause before any attempt.
    pub retry_pause_max: Duration,
    /// Maximum number of events sent at a time.
    pub in_flight_max: usize,
    /// Maximum number of events queued or in flight.
    pub queue_events_max: usize,
    /// Maximum bytes of these events.
    pub queue_bytes_max: usize,
    /// The file for events that were given up.
    pub dead_letter: Option<PathBuf>,
    /// Maximum bytes of that file, and of the older one next to it.
    pub dead_letter_bytes_max: usize,
    /// Maximum number of events of one request; 0 for one event of a plugin, or 100 of the gateway.
    pub batch_events_max: usize,
    /// Maximum bytes of these events; an event alone may have more.
    pub batch_bytes_max: usize,
    /// How long the first event of a request waits for others.
    pub batch_wait: Duration,
    /// Maximum bytes of the files that keep events until they are delivered.
    pub spool_bytes_max: usize,
}

/// Which messages are explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explain {
    /// Number out of 10,000 messages.
    pub sample: u32,
    /// Number of explanations kept.
    pub kept: usize,
    /// Whether clients that ask receive the explanations of their messages.
    pub reply: bool,
}

/// The shutdown of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Time from the signal to the moment when the gateway stops accepting. It is not ready meanwhile.
    pub delay: Duration,
    /// Maximum time from that moment to the end.
    pub deadline: Duration,
    /// Connections closed per second.
    pub closes_per_second: u32,
}

/// Log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Their format.
    pub format: LogFormat,
    /// Which lines: a valid filter of `tracing-subscriber`.
    pub filter: String,
    /// How user ids appear in lines of the gateway.
    pub users: LogUsers,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Config {
    /// Reads a file and the environment. Relative paths in the file are relative to its folder.
    ///
    /// # Errors
    ///
    /// All errors of the file and the environment; or why the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let origin = path.display().to_string();
        let text = read_file(path).map_err(|message| {
            ConfigErrors::new(vec![ConfigError {
                origin: origin.clone(),
                position: None,
                key: None,
                message,
            }])
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut config = resolve::resolve(&text, &origin, folder, &environment)?.0;
        let plugins = &mut config.plugins;
        plugins.folder = folder.join(&plugins.folder);
        plugins.state_folder = plugins.state_folder.as_ref().map(|state| folder.join(state));
        Ok(config)
    }

    /// The defaults and the environment, for a gateway without a file.
    ///
    /// # Errors
    ///
    /// All errors of the environment.
    pub fn load_defaults() -> Result<Self, ConfigErrors> {
        Ok(resolve::resolve("", "default.toml", Path::new(""), &environment)?.0)
    }

    /// Reads a text over the defaults, without the environment; `origin` names it in messages.
    ///
    /// # Errors
    ///
    /// All errors of the text.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigErrors> {
        Ok(resolve::resolve(text, origin, Path::new(""), &|_| None)?.0)
    }

    /// Warnings for the log at every start: allowed, but worth a line.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.handshake.origins == Origins::Any {
            warnings.push(
                "handshake.origins is [\"*\"]: every web page may connect in the name of its visitor; list the origins".to_owned(),
            );
        }
        if let Some(network) = self.listen.proxies.networks.iter().find(|network| network.prefix_len() == 0) {
            warnings.push(format!(
                "listen.trusted_proxies has {network}: every client may choose its address; name the proxies"
            ));
        }
        let in_clear = self.admin.address.filter(|_| self.admin.tls.is_none());
        if let Some(address) = in_clear.filter(|address| !address.ip().is_loopback()) {
            warnings.push(format!(
                "admin.address is {address}: the API key crosses the network unencrypted; set admin.tls, put a TLS proxy before it or bind to loopback"
            ));
        }
        let servers = self.redis.iter().flat_map(|redis| redis.topology.servers());
        if let Some(server) = servers.into_iter().find(|server| !server.tls && !server.is_local()) {
            warnings.push(format!(
                "[redis] names {} without TLS: messages and the password cross the network unencrypted; use \"rediss://\"",
                server.host
            ));
        }
        if self.client.anonymous && self.raw.enabled {
            warnings.push(
                "client.anonymous and raw.enabled are true: every client that reaches the gateway can send any message to the plugins".to_owned(),
            );
        }
        warnings
    }
}

impl Default for Config {
    /// `default.toml` without the environment.
    fn default() -> Self {
        Self::parse("", "default.toml").expect("the shipped defaults are valid")
    }
}

fn environment(name: &str) -> Option<String> {
    // What is not Unicode is still set: it must be refused, not ignored.
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn read_file(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}; is the path right?");
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("is larger than 1 MiB: this is not a configuration".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text: save it as UTF-8".to_owned())
}

#[cfg(test)]
mod tests;
