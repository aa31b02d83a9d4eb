//! [`Config`] is the configuration as the gateway uses it: every value present, checked and in its unit.
//!
//! `default.toml` names every key, its default and its meaning; a user's file overrides it. See
//! [`Config::load`].

mod elsewhere;
mod error;
mod origin;
mod proxies;
mod read;
mod redis;
mod topology;
mod resolve;
mod secret;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use error::{ConfigError, ConfigErrors};
pub(crate) use origin::http_origin;
pub use proxies::{Proxies, Tell};
pub use secret::{Secret, SigningKey};

use crate::egress::Url;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::push::MEMBER_BYTES_MAX;

/// The shipped defaults: a commented TOML file with every key.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// The environment variable that wins over `admin.api_key`.
pub const API_KEY_VARIABLE: &str = "GATEWAY_ADMIN_API_KEY";

/// Most threads that serve clients.
pub const WORKERS_MAX: usize = 64;

const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that can be configured.
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
    /// Messages in an application's own format.
    pub raw: Raw,
    /// Rules of channels.
    pub namespaces: Namespaces,
    /// Memory of the node.
    pub memory: Memory,
    /// Other gateways; `None` for one that is alone.
    pub redis: Option<Redis>,
    /// Plugins.
    pub plugins: Plugins,
    /// Where events of plugins go, by name.
    pub upstreams: BTreeMap<Box<str>, Upstream>,
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
    /// Who is believed when it tells where a client comes from.
    pub proxies: Proxies,
}

/// Health, metrics and the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// `None` serves none of them. Without a key it is a loopback address.
    pub address: Option<SocketAddr>,
    /// `None` closes the API; health and metrics stay.
    pub api_key: Option<Secret>,
    /// Whether metrics are for those with the key only. Not without a key.
    pub metrics_need_key: bool,
}

/// From the first byte to the accepted connect command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// Web pages that may connect.
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

/// Web pages that may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Those with exactly one of these origins, host in lower case. Empty keeps every page out.
    Listed(Vec<Box<str>>),
    /// Every page.
    Any,
}

/// What one client, and all of them together, may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections of the process at a time.
    pub connections_max: usize,
    /// Connections from one IPv4 address or IPv6 /64 network at a time.
    pub connections_per_address_max: usize,
    /// Connections of the process whose client is not yet admitted.
    pub handshakes_max: usize,
    /// Those from one IPv4 address or IPv6 /64 network.
    pub handshakes_per_address_max: usize,
    /// New connections of the process.
    pub connection_rate: Rate,
    /// New connections from one IPv4 address or IPv6 /64 network.
    pub connection_rate_per_address: Rate,
    /// Bytes of the largest message from a client, and of the largest publication over the HTTP API.
    pub message_bytes_max: usize,
    /// Commands in one message.
    pub commands_per_message_max: usize,
    /// Bytes of the payload of the largest publication, whoever publishes it; at least `message_bytes_max`.
    pub publication_bytes_max: usize,
    /// Bytes that may wait for one client, answers included; the largest publication fits with all that belongs to it.
    pub outbound_bytes_max: usize,
    /// The time in which a client must take [`WRITE_BYTES_MIN`], or everything that waits for it.
    pub write_timeout: Duration,
    /// Subscriptions of one connection.
    pub channels_per_connection_max: usize,
}

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// On average; 0 is no limit.
    pub per_second: u32,
    /// At once, at least 1.
    pub burst: u32,
}

/// What plugins may publish if the configuration does not say: what they may hand over, if they do not say.
const PUBLICATION_BYTES: usize = 256 * 1024;

/// Bytes that a client must take within `limits.write_timeout` while more waits for it.
pub const WRITE_BYTES_MIN: u64 = 64 * 1024;

/// What surrounds a publication on its way to a client: names, numbers, headers, and what the queue keeps free for answers.
const AROUND_PUBLICATION: usize = MEMBER_BYTES_MAX + 8 * 1024;

impl Limits {
    /// Bytes of one answer to a client at most. A client is not served while more than this waits for it, so that an answer
    /// and what was pushed meanwhile fit.
    pub fn answer_bytes_max(&self) -> usize {
        self.outbound_bytes_max / 2
    }
}

/// The life of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Whether a client that no plugin accepted is admitted without a user.
    pub anonymous: bool,
    /// Time between pings, in whole seconds.
    pub ping_interval: Duration,
    /// Time to answer one; less than `ping_interval`.
    pub pong_timeout: Duration,
    /// Time to refresh an expired credential.
    pub expiry_grace: Duration,
    /// Publications in the answer to one history request or one recovery.
    pub history_publications_max: usize,
}

/// Messages in an application's own format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// Whether they are accepted.
    pub enabled: bool,
}

/// Rules of channels by the part of the name before the first colon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// For channels without a colon and for direct messages.
    pub default: Arc<Namespace>,
    /// The others.
    pub named: HashMap<Box<str>, Arc<Namespace>>,
}

impl Namespaces {
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
    /// Publications kept per channel; 0 keeps none.
    pub history_size: usize,
    /// How long one is kept.
    pub history_ttl: Duration,
    /// Replicas of Redis that must have a publication before its publisher is told that it worked; only with Redis.
    pub min_replicas: u16,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// Whether returning clients get what they missed; only with a history.
    pub recovery: bool,
    /// Whether it is known who is subscribed.
    pub presence: bool,
    /// Whether subscribers are told who comes and goes.
    pub join_leave: bool,
    /// Who may subscribe when no plugin decided; never [`Access::Subscribers`].
    pub allow_subscribe: Access,
    /// Who may publish when no plugin decided.
    pub allow_publish: Access,
    /// Who may read the history when no plugin decided.
    pub allow_history: Access,
    /// Who may ask who is subscribed when no plugin decided.
    pub allow_presence: Access,
}

/// Who may do something when no plugin has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// No client.
    Nobody,
    /// Those subscribed to the channel.
    Subscribers,
    /// Those admitted with a user.
    Users,
    /// Every admitted client.
    Anyone,
}

/// Memory of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Channels with subscribers at a time.
    pub channels_max: usize,
    /// Channels without, that are there for what was published; only without Redis.
    pub unsubscribed_channels_max: usize,
    /// Publications on their way to one worker.
    pub inbox_deliveries_max: usize,
    /// Their bytes.
    pub inbox_bytes_max: usize,
    /// Bytes that may wait for all clients together.
    pub outbound_bytes_max: usize,
    /// Bytes of all kept publications together.
    pub history_bytes_max: usize,
    /// Idempotency keys that are remembered.
    pub idempotency_keys_max: usize,
}

/// The Redis that several gateways share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Where it is.
    pub topology: RedisTopology,
    /// The certificates that TLS trusts, in PEM; `None` for those that the system trusts.
    pub tls_authority: Option<Box<[u8]>>,
    /// Who the gateway is there; empty for the default user.
    pub username: Box<str>,
    /// Its password, if there is one.
    pub password: Option<Secret>,
    /// What all names in Redis begin with.
    pub prefix: Box<str>,
    /// Connections for commands, beside the one for subscriptions.
    pub connections: usize,
    /// Time for a command, and for a question to wait while Redis is away.
    pub timeout: Duration,
    /// Longest pause between two attempts to connect.
    pub reconnect_pause_max: Duration,
    /// Questions of the node that may wait for an answer.
    pub questions_max: usize,
    /// Bytes of publications among them.
    pub questions_bytes_max: usize,
}

/// How a gateway finds the servers of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisTopology {
    /// This one.
    Server(RedisServer),
    /// These, two or more: each has a part of the channels.
    Servers(Vec<RedisServer>),
    /// The master is whichever these name.
    Sentinels(RedisSentinels),
    /// Some servers of a Cluster, at least one: they say who has what.
    Cluster(Vec<RedisServer>),
}

/// Who knows where the master is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSentinels {
    /// Where they are, at least one. The master is reached with the same TLS and has the same database.
    pub sentinels: Vec<RedisServer>,
    /// What they call the master.
    pub master: Box<str>,
    /// Who the gateway is at the Sentinels; empty for the default user.
    pub username: Box<str>,
    /// Its password there, if there is one.
    pub password: Option<Secret>,
}

/// A Redis server, or a Sentinel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RedisServer {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// The number of the database.
    pub database: u16,
}

/// Plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins {
    /// The folder whose `.wasm` files are the chain.
    pub folder: PathBuf,
    /// Where the gateway keeps what survives a restart; `None` for a folder beside `folder`.
    pub state_folder: Option<PathBuf>,
    /// What becomes of a plugin whose file is taken out of the folder.
    pub on_removal: OnRemoval,
    /// Names of plugins without which the gateway does not start, and which go on when their files are taken out.
    pub required: Arc<[Box<str>]>,
    /// Whether a file that other users could have put there is refused.
    pub check_owner: bool,
    /// How changes of the folder are noticed.
    pub watch: Watch,
    /// Longest time to compile one file.
    pub compile_timeout: Duration,
    /// Most memory to compile one file.
    pub compile_bytes_max: usize,
    /// Most plugins in the chain.
    pub max: usize,
}

/// What becomes of a plugin whose file is taken out of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRemoval {
    /// It leaves the chain.
    Remove,
    /// Its last version goes on.
    Keep,
}

/// How changes of the plugin folder are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// The system tells of them, and a look now and then finds what it did not tell.
    Notify,
    /// By looking.
    Poll,
}

impl Memory {
    /// Of the queues between workers, what one client may fill: then it is refused, and not the others.
    pub fn publisher_bytes_max(&self) -> usize {
        self.inbox_bytes_max / 16
    }

    /// Of the queues between workers, what the HTTP API may fill.
    pub fn api_bytes_max(&self) -> usize {
        self.inbox_bytes_max / 2
    }
}

impl Plugins {
    /// Where the gateway keeps what survives a restart: `.plugins.state` beside `plugins` if nothing else is set.
    pub fn state_folder(&self) -> PathBuf {
        self.state_folder.clone().unwrap_or_else(|| match self.folder.file_name() {
            Some(name) => self.folder.with_file_name(format!(".{}.state", name.to_string_lossy())),
            // A path without a name, such as `.` or `..`.
            None => self.folder.join(".state"),
        })
    }
}

/// An HTTP endpoint that gets events of plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where each event is posted.
    pub url: Url,
    /// What events are signed with.
    pub secret: Option<SigningKey>,
    /// Time for one attempt.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
    /// Longest pause before the second attempt.
    pub retry_pause_min: Duration,
    /// Longest pause at all.
    pub retry_pause_max: Duration,
    /// Events sent at a time.
    pub in_flight_max: usize,
    /// Events that wait or are under way.
    pub queue_events_max: usize,
    /// Bytes of these events.
    pub queue_bytes_max: usize,
    /// Where events go that were given up.
    pub dead_letter: Option<PathBuf>,
    /// Size of that file, and of the older one beside it.
    pub dead_letter_bytes_max: usize,
}

/// Which messages are explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explain {
    /// Of 10,000 messages.
    pub sample: u32,
    /// Explanations that are kept.
    pub kept: usize,
    /// Whether clients that ask get the explanations of their messages.
    pub reply: bool,
}

/// Stopping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Time between the signal and the end.
    pub deadline: Duration,
    /// Connections closed per second.
    pub closes_per_second: u32,
}

/// Log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Their form.
    pub format: LogFormat,
    /// Which ones: a valid filter of `tracing-subscriber`.
    pub filter: String,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Config {
    /// Reads a file and the environment. Relative paths in it begin at the folder of the file.
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
    pub fn load_defaults() -> Result<Self, ConfigErrors> {
        Ok(resolve::resolve("", "default.toml", Path::new(""), &environment)?.0)
    }

    /// Reads a text over the defaults, without the environment; `origin` names it in messages.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigErrors> {
        Ok(resolve::resolve(text, origin, Path::new(""), &|_| None)?.0)
    }

    /// What is allowed and yet worth a line in the log at every start.
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
        if let Some(address) = self.admin.address.filter(|address| !address.ip().is_loopback()) {
            warnings.push(format!(
                "admin.address is {address}: the API key crosses the network unencrypted; put a TLS proxy before it or bind to loopback"
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
                "client.anonymous and raw.enabled are true: whoever reaches the gateway can send any message to the plugins".to_owned(),
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
