//! Reads the consumers, which take commands of the server API from queues.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::external::external_secret;
use super::read::{Document, Invalid, Section, found};
use super::redis::password;
use super::resolve::{GIB, KIB, MINUTE, SECOND, all};
use super::topology::{Location, authority, shown};
use super::{RedisServer, Secret};

/// Maximum number of consumers.
const CONSUMERS_MAX: usize = 16;
/// Maximum length of their names.
const NAME_BYTES_MAX: usize = 64;
/// Maximum number of streams or subjects of one consumer.
const STREAMS_MAX: usize = 16;

/// The methods that a consumer can carry out.
pub(crate) const METHODS: [&str; 6] =
    ["publish", "broadcast", "subscribe", "unsubscribe", "disconnect", "refresh"];

const URL: &str = "a URL such as \"redis://10.0.0.5:6379/0\", \"nats://10.0.0.6\" or \"postgres://10.0.0.7/DATABASE\" that fits `kind`, \
     without a user and a password; \"rediss://\", \"tls://\" and \"postgres+tls://\" use TLS";
const QUEUE: &str = "a queue that only this one reads, or another `group` or `durable`";
const KIND: &str = "\"redis-stream\", \"nats\" or \"postgres\"";
const USERNAME: &str = "up to 128 visible ASCII characters";
const CREDENTIALS: &str = "\"env:NAME\" or \"file:PATH\" of the credentials, or \"\" for none";
const RETRIES: &str = "\"unlimited\", or a whole number from 0 to 1000000";
const KEY: &str = "1 to 128 visible ASCII characters";
const TOKEN: &str = "1 to 64 letters, digits, `_` and `-`";
const SUBJECT: &str = "1 to 256 visible ASCII characters without `*` and `>`";
const TABLE: &str =
    "a name such as \"gateway_outbox\" or \"shop.gateway_outbox\" of lower-case letters, digits and `_`";
const CHANNEL: &str = "1 to 63 lower-case letters, digits and `_`, or \"\"";

/// A queue of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Where the commands are.
    pub source: Source,
    /// The methods that are carried out.
    pub methods: BTreeSet<Box<str>>,
    /// Maximum number of entries taken at a time.
    pub batch_max: usize,
    /// Time without a sign of life after which another gateway takes over what this one holds.
    pub ack_wait: Duration,
    /// Attempts after the first; `None` for any number.
    pub retries: Option<u64>,
    /// Maximum pause between two attempts.
    pub retry_pause_max: Duration,
    /// Time for one answer of the server.
    pub timeout: Duration,
    /// Maximum pause between two attempts to connect.
    pub reconnect_pause_max: Duration,
    /// The file for entries that can never be carried out.
    pub dead_letter: Option<PathBuf>,
    /// Maximum bytes of that file, and of the older one next to it.
    pub dead_letter_bytes_max: usize,
}

/// What holds the commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Streams of Redis.
    Redis(RedisStreams),
    /// A stream of NATS JetStream.
    Nats(NatsStream),
    /// A table of PostgreSQL.
    Postgres(Outbox),
}

/// How to log in to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// User name; empty for none.
    pub username: Box<str>,
    /// The password, if there is one.
    pub password: Option<Secret>,
    /// The certificates that TLS trusts, in PEM; `None` for the trust store of the system.
    pub tls_authority: Option<Box<[u8]>>,
}

/// Streams of a Redis server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisStreams {
    /// The server.
    pub server: RedisServer,
    /// The login.
    pub login: Login,
    /// The keys of the streams.
    pub streams: Vec<Box<str>>,
    /// The consumer group.
    pub group: Box<str>,
    /// Whether acknowledged entries are deleted.
    pub delete_entries: bool,
}

/// Subjects of a JetStream stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsStream {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// The login. A password alone is a token.
    pub login: Login,
    /// A JWT and the seed of its key, in the format of a `.creds` file.
    pub credentials: Option<Secret>,
    /// Name of the stream.
    pub stream: Box<str>,
    /// The subjects.
    pub subjects: Vec<Box<str>>,
    /// Name of the durable consumers.
    pub durable: Box<str>,
}

/// An outbox table of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// The database.
    pub database: Box<str>,
    /// The login.
    pub login: Login,
    /// The table, with its schema if it was named; needs no quotes.
    pub table: Box<str>,
    /// Number of partitions.
    pub partitions: usize,
    /// The channel that announces rows; empty for none.
    pub channel: Box<str>,
    /// How often to look for rows that were not announced.
    pub poll_interval: Duration,
}

impl Source {
    /// Names what only one consumer may read: another one would have other keys for the same entries.
    fn queues(&self) -> Vec<String> {
        match self {
            Self::Redis(RedisStreams { server, streams, group, .. }) => {
                let database = server.database;
                streams.iter().map(|stream| format!("{server}/{database} {group} {stream}")).collect()
            }
            Self::Nats(NatsStream { host, port, stream, durable, .. }) => {
                vec![format!("{host}:{port} {stream} {durable}")]
            }
            Self::Postgres(Outbox { host, port, database, table, .. }) => {
                vec![format!("{host}:{port} {database} {table}")]
            }
        }
    }

    /// The idempotency key of an entry. Ids are unique within a stream of Redis, a stream of NATS, and a
    /// partition of a table. It has at most 256 bytes, as the API demands.
    pub(crate) fn key(&self, consumer: &str, partition: usize, id: &str) -> String {
        match self {
            Self::Redis(redis) => format!("{consumer}:{}:{id}", redis.streams[partition]),
            Self::Nats(_) => format!("{consumer}:{id}"),
            Self::Postgres(_) => format!("{consumer}:{partition}:{id}"),
        }
    }
}

impl Consumer {
    /// Bytes of entries after which no more are taken at a time.
    pub const BATCH_BYTES_MAX: usize = 4 << 20;

    /// Maximum bytes of memory for entries: as they were received, and as they were read.
    pub fn memory_max(&self) -> u64 {
        2 * (Self::BATCH_BYTES_MAX * self.partitions()) as u64
    }

    /// What is carried out at the same time, each in order: streams, subjects or partitions.
    pub fn partitions(&self) -> usize {
        match &self.source {
            Source::Redis(redis) => redis.streams.len(),
            Source::Nats(nats) => nats.subjects.len(),
            Source::Postgres(outbox) => outbox.partitions,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Redis,
    Nats,
    Postgres,
}

/// External of the configuration.
struct External<'a> {
    folder: &'a Path,
    environment: &'a dyn Fn(&str) -> Option<String>,
}

/// Reads every table `[consumers.NAME]`.
pub(super) fn consumers(
    document: &Document<'_>,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> BTreeMap<Box<str>, Consumer> {
    let outside = External { folder, environment };
    let shape = document.section("consumer");
    if shape.is_changed() {
        shape.misnamed("consumer", "one table for each consumer, such as [consumers.orders]");
    }
    // These values are never used: only defaults for missing keys are read from this table.
    for kind in [Kind::Redis, Kind::Nats, Kind::Postgres] {
        read(&shape, kind, &outside);
    }
    kind(&shape);
    shape.finish();
    let mut consumers = BTreeMap::new();
    let (mut read_already, mut files) = (BTreeSet::new(), BTreeSet::new());
    for (name, section) in document.sections("consumers", "consumer") {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
            section.misnamed(name, "a name of 1 to 64 letters, digits, `_`, `-` and `.`");
        } else if consumers.len() == CONSUMERS_MAX {
            section.misnamed(name, "at most 16 consumers");
        }
        match kind(&section) {
            Some(kind) => {
                let consumer = read(&section, kind, &outside);
                let Some(consumer) = consumer else {
                    section.conflict(&["url"], "no URL", URL);
                    section.finish();
                    continue;
                };
                if consumer.source.queues().into_iter().any(|queue| !read_already.insert(queue)) {
                    section.conflict(&["url"], "a queue that another consumer reads", QUEUE);
                }
                if consumer.dead_letter.clone().is_some_and(|path| !files.insert(path)) {
                    section.conflict(&["dead_letter"], "the file of another consumer", "a file of its own");
                }
                section.finish();
                consumers.insert(name.into(), consumer);
            }
            // Without the kind it is not known which other keys are right.
            None => section.conflict(&["kind"], "no kind", KIND),
        }
    }
    consumers
}

fn kind(section: &Section<'_, '_>) -> Option<Kind> {
    section.simple("kind", &KIND, |value| match value.as_str()? {
        "" => Some(None),
        "redis-stream" => Some(Some(Kind::Redis)),
        "nats" => Some(Some(Kind::Nats)),
        "postgres" => Some(Some(Kind::Postgres)),
        _ => None,
    })
}

/// `None` without a URL.
fn read(section: &Section<'_, '_>, kind: Kind, outside: &External<'_>) -> Option<Consumer> {
    let methods = section.value("methods", |value| {
        texts(value, &format!("a list of {}", METHODS.join(", ")), METHODS.len(), |text| {
            METHODS.contains(&text)
        })
    });
    let batch_max = section.count("batch_max", 1..=1_000);
    let ack_wait = section.duration("ack_wait", SECOND..=10 * MINUTE);
    let retries = section.simple("retries", &RETRIES, |value| match value.as_str() {
        Some("unlimited") => Some(None),
        Some(_) => None,
        None => {
            let number = value.as_integer()?;
            let number = u64::from_str_radix(number.as_str(), number.radix()).ok();
            number.filter(|number| *number <= 1_000_000).map(Some)
        }
    });
    let retry_pause_max = section.duration("retry_pause_max", 100..=MINUTE).min(ack_wait / 3);
    let timeout = section.duration("timeout", 100..=MINUTE);
    let reconnect_pause_max = section.duration("reconnect_pause_max", 100..=MINUTE);
    let dead_letter = section.simple("dead_letter", &"the path of a file, or \"\"", |value| {
        let path = value.as_str().filter(|path| !path.contains('\0'))?;
        Some((!path.is_empty()).then(|| outside.folder.join(PathBuf::from(path))))
    });
    let dead_letter_bytes_max = section.size("dead_letter_bytes_max", 64 * KIB..=64 * GIB);
    let source = match kind {
        Kind::Redis => redis(section, outside).map(Source::Redis),
        Kind::Nats => nats(section, outside).map(Source::Nats),
        Kind::Postgres => postgres(section, outside).map(Source::Postgres),
    };
    Some(Consumer {
        source: source?,
        methods: methods.into_iter().collect(),
        batch_max,
        ack_wait,
        retries,
        retry_pause_max,
        timeout,
        reconnect_pause_max,
        dead_letter,
        dead_letter_bytes_max,
    })
}

fn redis(section: &Section<'_, '_>, outside: &External<'_>) -> Option<RedisStreams> {
    let server = url(section, |text| {
        let location = Location::parse(text, &[("redis", false), ("rediss", true)], 6379)?;
        let database = if location.path.is_empty() { Some(0) } else { location.path.parse().ok() };
        let Location { tls, host, port, .. } = location;
        Some(RedisServer { tls, host, port, database: database? })
    });
    let login = login(section, outside);
    let accepted = format!("a list of 1 to {STREAMS_MAX} different keys, each of {KEY}");
    let streams = section.value("streams", |value| texts(value, &accepted, STREAMS_MAX, is_key));
    let group = text(section, "group", KEY, is_key);
    let delete_entries = section.flag("delete_entries");
    Some(RedisStreams { server: server?, login, streams, group, delete_entries })
}

fn nats(section: &Section<'_, '_>, outside: &External<'_>) -> Option<NatsStream> {
    let location = url(section, |text| {
        let location = Location::parse(text, &[("nats", false), ("tls", true)], 4222)?;
        let Location { tls, host, port, path } = location;
        path.is_empty().then_some((tls, host, port))
    });
    let login = login(section, outside);
    let credentials = section.value("credentials", |value| {
        let secret = external_secret(value, outside.folder, outside.environment, "credentials", CREDENTIALS)?;
        Ok(secret.map(|secret| Secret::new(&secret)))
    });
    let stream = section.simple("stream", &TOKEN, |value| {
        value.as_str().filter(|text| text.is_empty() || is_token(text)).map(Box::<str>::from)
    });
    let accepted = format!("a list of 1 to {STREAMS_MAX} different subjects, each of {SUBJECT}");
    let is_subject = |text: &str| is_visible(text) && !text.contains(['*', '>']);
    let subjects = section.value("subjects", |value| texts(value, &accepted, STREAMS_MAX, is_subject));
    let durable = text(section, "durable", TOKEN, is_token);
    let (tls, host, port) = location?;
    if stream.is_empty() {
        section.conflict(&["stream", "kind"], "no stream", TOKEN);
    }
    Some(NatsStream { tls, host, port, login, credentials, stream, subjects, durable })
}

fn postgres(section: &Section<'_, '_>, outside: &External<'_>) -> Option<Outbox> {
    let location = url(section, |text| {
        let schemes = [("postgres", false), ("postgresql", false), ("postgres+tls", true)];
        let Location { tls, host, port, path } = Location::parse(text, &schemes, 5432)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        let fits = (1..=63).contains(&path.len()) && path.bytes().all(plain);
        fits.then(|| (tls, host, port, Box::<str>::from(path)))
    });
    let login = login(section, outside);
    let table = text(section, "table", TABLE, |text| {
        text.split('.').count() <= 2 && text.split('.').all(is_identifier)
    });
    let partitions = section.count("partitions", 1..=32);
    let channel = text(section, "channel", CHANNEL, |text| text.is_empty() || is_identifier(text));
    let poll_interval = section.duration("poll_interval", 50..=MINUTE);
    let (tls, host, port, database) = location?;
    Some(Outbox { tls, host, port, database, login, table, partitions, channel, poll_interval })
}

/// Reads the URL. No message repeats any part of it.
fn url<T>(section: &Section<'_, '_>, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    section.value("url", |value| {
        let invalid =
            || vec![Invalid { span: None, found: shown(value.get_ref()), accepted: URL.to_owned() }];
        match value.get_ref().as_str().ok_or_else(invalid)? {
            "" => Ok(None),
            text => parse(text).map(Some).ok_or_else(invalid),
        }
    })
}

fn login(section: &Section<'_, '_>, outside: &External<'_>) -> Login {
    let username = section.simple("username", &USERNAME, |value| {
        let fits = |name: &&str| name.len() <= 128 && name.bytes().all(|b| b.is_ascii_graphic());
        value.as_str().filter(fits).map(Box::<str>::from)
    });
    let password = section.value("password", |value| password(value, outside.folder, outside.environment));
    Login { username, password, tls_authority: authority(section, outside.folder) }
}

fn text(
    section: &Section<'_, '_>,
    key: &'static str,
    accepted: &'static str,
    fits: impl Fn(&str) -> bool,
) -> Box<str> {
    section.simple(key, &accepted, |value| value.as_str().filter(|text| fits(text)).map(Box::<str>::from))
}

/// Reads a list of at least one text, each only once.
fn texts(
    value: &Spanned<DeValue<'_>>,
    accepted: &str,
    max: usize,
    fits: impl Fn(&str) -> bool,
) -> Result<Vec<Box<str>>, Vec<Invalid>> {
    let invalid = |span, found| Invalid { span, found, accepted: accepted.to_owned() };
    let Some(list) = value.get_ref().as_array() else {
        return Err(vec![invalid(None, found(value.get_ref()))]);
    };
    if list.is_empty() || list.len() > max {
        return Err(vec![invalid(None, format!("{} entries", list.len()))]);
    }
    let texts = all(list.iter().map(|entry| {
        let text = entry.get_ref().as_str().filter(|text| fits(text));
        text.map(Box::<str>::from).ok_or_else(|| invalid(Some(entry.span()), found(entry.get_ref())))
    }))?;
    match texts.iter().collect::<BTreeSet<_>>().len() {
        different if different < texts.len() => Err(vec![invalid(None, "an entry twice".to_owned())]),
        _ => Ok(texts),
    }
}

fn is_key(text: &str) -> bool {
    text.len() <= 128 && is_visible(text)
}

fn is_visible(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}

/// Whether this is a name of PostgreSQL that means the same with quotes and without.
fn is_identifier(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::Config;
    use crate::config::resolve::resolve;

    fn parsed(text: &str) -> Consumer {
        let environment = |name: &str| (name == "PASSWORD").then(|| "secret\n".to_owned());
        let mut config = resolve(text, "test", Path::new("/etc"), &environment).unwrap().0;
        config.consumers.remove("orders").unwrap()
    }

    #[test]
    fn every_key_reaches_its_own_field() {
        let consumer = parsed(
            "
            [consumers.orders]
            kind = 'postgres'
            url = 'postgres+tls://db.example:5433/shop'
            username = 'gw'
            password = 'env:PASSWORD'
            methods = ['publish', 'disconnect']
            batch_max = 7
            ack_wait = '8s'
            retries = 9
            retry_pause_max = '100ms'
            timeout = '101ms'
            reconnect_pause_max = '102ms'
            dead_letter = 'dead.jsonl'
            dead_letter_bytes_max = '103KiB'
            table = 'shop.outbox'
            partitions = 4
            channel = 'outbox_changed'
            poll_interval = '104ms'
            ",
        );
        let ms = Duration::from_millis;
        let expected = Consumer {
            source: Source::Postgres(Outbox {
                tls: true,
                host: "db.example".into(),
                port: 5433,
                database: "shop".into(),
                login: Login {
                    username: "gw".into(),
                    password: Some(Secret::new("secret")),
                    tls_authority: None,
                },
                table: "shop.outbox".into(),
                partitions: 4,
                channel: "outbox_changed".into(),
                poll_interval: ms(104),
            }),
            methods: ["publish".into(), "disconnect".into()].into(),
            batch_max: 7,
            ack_wait: Duration::from_secs(8),
            retries: Some(9),
            retry_pause_max: ms(100),
            timeout: ms(101),
            reconnect_pause_max: ms(102),
            dead_letter: Some("/etc/dead.jsonl".into()),
            dead_letter_bytes_max: 103 << 10,
        };
        assert_eq!(consumer, expected);
        let redis = parsed(
            "[consumers.orders]\nkind = 'redis-stream'\nurl = 'rediss://r/3'\nstreams = ['a', 'b']\ngroup = 'g'\n\
             delete_entries = true",
        );
        let Source::Redis(streams) = &redis.source else { panic!("{redis:?}") };
        assert_eq!((streams.server.database, &*streams.group, streams.delete_entries), (3, "g", true));
        assert_eq!(redis.partitions(), 2);
        let nats = parsed(
            "[consumers.orders]\nkind = 'nats'\nurl = 'nats://n'\nstream = 'S'\nsubjects = ['a.b']\n\
             durable = 'd'\ncredentials = 'env:PASSWORD'",
        );
        let Source::Nats(subjects) = &nats.source else { panic!("{nats:?}") };
        assert_eq!((&*subjects.stream, &*subjects.durable, subjects.port), ("S", "d", 4222));
        assert_eq!(subjects.credentials, Some(Secret::new("secret")));
    }

    #[test]
    fn entries_of_two_streams_never_share_a_key_and_every_key_is_accepted() {
        let streams = format!("['{}', 'b']", "a".repeat(128));
        let text =
            format!("[consumers.orders]\nkind = 'redis-stream'\nurl = 'redis://r'\nstreams = {streams}");
        let source = parsed(&text).source;
        assert_ne!(source.key("orders", 0, "7-0"), source.key("orders", 1, "7-0"));
        let longest = format!("{0}-{0}", u64::MAX);
        assert!(source.key(&"n".repeat(NAME_BYTES_MAX), 0, &longest).len() <= 256);
    }

    #[test]
    fn a_consumer_is_closed_until_methods_are_named() {
        let consumer = parsed("[consumers.orders]\nkind = 'redis-stream'\nurl = 'redis://r'");
        assert_eq!(consumer.methods, ["publish".into(), "broadcast".into()].into());
        assert_eq!((consumer.retries, consumer.dead_letter), (None, None));
    }

    #[test]
    fn mistakes_say_what_is_accepted_and_show_no_secret() {
        for (text, said) in [
            ("kind = 'kafka'", "\"redis-stream\", \"nats\" or \"postgres\""),
            ("url = 'redis://r'", "no kind"),
            ("kind = 'nats'", "no URL"),
            ("kind = 'nats'\nurl = 'nats://n'", "no stream"),
            ("kind = 'nats'\nurl = 'redis://n'\nstream = 'S'", "that fits `kind`"),
            ("kind = 'redis-stream'\nurl = 'redis://u:hunter2@a'", "without a user"),
            ("kind = 'redis-stream'\nurl = 'redis://a'\npassword = 'hunter2'", "a password in the file"),
            ("kind = 'redis-stream'\nurl = 'redis://a'\ntable = 'x'", "no such key"),
            ("kind = 'redis-stream'\nurl = 'redis://a'\nmethods = ['history']", "publish, broadcast"),
            ("kind = 'redis-stream'\nurl = 'redis://a'\nmethods = []", "0 entries"),
            ("kind = 'redis-stream'\nurl = 'redis://a'\nstreams = ['a', 'a']", "an entry twice"),
            ("kind = 'redis-stream'\nurl = 'redis://a'\nretries = 'often'", "unlimited"),
            ("kind = 'postgres'\nurl = 'postgres://a'", "DATABASE"),
            ("kind = 'postgres'\nurl = 'postgres://a/b'\ntable = 'x; drop'", "gateway_outbox"),
        ] {
            let errors = Config::parse(&format!("[consumers.orders]\n{text}"), "test").unwrap_err();
            let shown = errors.to_string();
            assert!(shown.contains(said) && !shown.contains("hunter2"), "{text}\n{shown}");
        }
        for own in [
            "kind = 'redis-stream'\nurl = 'redis://a'\nstreams = ['other', 'x']",
            "kind = 'nats'\nurl = 'nats://a'\nstream = 'S'",
            "kind = 'postgres'\nurl = 'postgres://a/b'",
        ] {
            let other = own.replace("other", "another");
            let both = format!("[consumers.one]\n{own}\n[consumers.two]\n{other}");
            let shown = Config::parse(&both, "test").unwrap_err().to_string();
            assert!(shown.contains("that another consumer reads"), "{shown}");
        }
        let same = ["one", "two"].map(|name| {
            format!("[consumers.{name}]\nkind = 'redis-stream'\nurl = 'redis://{name}'\ndead_letter = 'd'\n")
        });
        let shown = Config::parse(&same.concat(), "test").unwrap_err().to_string();
        assert!(shown.contains("the file of another consumer"), "{shown}");
    }
}
