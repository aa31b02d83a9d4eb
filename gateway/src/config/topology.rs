//! Reads where Redis is: one server, several, a Cluster, or the master that Sentinels name.

use std::fmt;
use std::fs;
use std::path::Path;

use toml::Spanned;
use toml::de::DeValue;

use super::read::{Invalid, Section, found};
use super::resolve::all;
use super::{RedisSentinels, RedisServer, RedisTopology, Secret};

const URL: &str = "a URL such as \"redis://10.0.0.5:6379\", \"rediss://redis.example\" for TLS, with /NUMBER for a database, or \"\"";
const URLS: &str = "a list of 2 to 64 URLs such as [\"redis://10.0.0.5\", \"redis://10.0.0.6\"], or []";
const CLUSTER: &str = "a list of at most 64 URLs of servers of one Cluster, all with or all without TLS, such as [\"redis://10.0.0.5\"], or []";
const SENTINELS: &str =
    "a list of at most 16 addresses such as [\"10.0.0.5:26379\", \"rediss://sentinel.example\"]";
const NAME: &str = "1 to 128 letters, digits, `_`, `-`, `.` and `:`, or \"\"";
const AUTHORITY: &str = "the path of a PEM file with certificates, or \"\"";

const SERVERS_MAX: usize = 64;
const SENTINELS_MAX: usize = 16;
const SERVER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Reads the keys that say where Redis is. `None` if none is set. The login is that of the Sentinels.
pub(super) fn topology(
    section: &Section<'_, '_>,
    username: Box<str>,
    password: Option<Secret>,
) -> Option<RedisTopology> {
    let server = section.value("url", |value| {
        let invalid =
            || vec![Invalid { span: None, found: shown(value.get_ref()), accepted: URL.to_owned() }];
        match value.get_ref().as_str().ok_or_else(invalid)? {
            "" => Ok(None),
            text => url(text, SERVER_PORT).map(Some).ok_or_else(invalid),
        }
    });
    let list = section.value("urls", |value| {
        let list = servers(value, SERVERS_MAX, SERVER_PORT, URLS)?;
        if list.len() == 1 {
            let found = "one URL, which belongs into `url`".to_owned();
            return Err(vec![Invalid { span: None, found, accepted: URLS.to_owned() }]);
        }
        Ok(list)
    });
    let cluster = section.value("cluster", |value| {
        let list = servers(value, SERVERS_MAX, SERVER_PORT, CLUSTER)?;
        let invalid = |found: &str| {
            Err(vec![Invalid { span: None, found: found.to_owned(), accepted: CLUSTER.to_owned() }])
        };
        if list.iter().any(|one| one.database != 0) {
            return invalid("a database, which a Cluster does not have");
        }
        if list.iter().any(|one| one.tls != list[0].tls) {
            return invalid("servers with TLS and servers without");
        }
        Ok(list)
    });
    if server.is_some() && !list.is_empty() {
        section.conflict(&["urls", "url"], "`urls` together with `url`", "one of them");
    }
    if !cluster.is_empty() && (server.is_some() || !list.is_empty()) {
        section.conflict(&["cluster", "url"], "`cluster` together with `url` or `urls`", "one of them");
    }
    let sentinels =
        section.value("sentinels", |value| servers(value, SENTINELS_MAX, SENTINEL_PORT, SENTINELS));
    let master = section.simple("sentinel_master", &NAME, |value| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        let fits = |name: &&str| name.len() <= 128 && name.bytes().all(allowed);
        value.as_str().filter(fits).map(Box::<str>::from)
    });
    if sentinels.is_empty() {
        if !master.is_empty() || !username.is_empty() || password.is_some() {
            let keys = ["sentinel_master", "sentinel_username", "sentinel_password", "sentinels"];
            section.conflict(&keys, "no Sentinel to use it with", "nothing, or some `sentinels` too");
        }
        let some = |list: Vec<_>| Some(list).filter(|list| !list.is_empty());
        let named = some(cluster).map(RedisTopology::Cluster);
        return named.or(some(list).map(RedisTopology::Servers)).or(server.map(RedisTopology::Server));
    }
    if server.is_some() || !list.is_empty() || !cluster.is_empty() {
        let accepted = "one of them: the Sentinels say where the master is";
        section.conflict(
            &["sentinels", "url"],
            "`sentinels` together with `url`, `urls` or `cluster`",
            accepted,
        );
    }
    if master.is_empty() {
        let accepted = "the name that the Sentinels have for it in `sentinel monitor NAME ...`";
        section.conflict(
            &["sentinel_master", "sentinels"],
            "Sentinels without the name of a master",
            accepted,
        );
    }
    if sentinels.iter().any(|one| (one.tls, one.database) != (sentinels[0].tls, sentinels[0].database)) {
        let accepted = "the same for all of them: it holds for the master too";
        section.conflict(&["sentinels"], "Sentinels that differ in TLS or in the database", accepted);
    }
    Some(RedisTopology::Sentinels(RedisSentinels { sentinels, master, username, password }))
}

/// Reads the file with the certificate authorities for TLS.
pub(super) fn authority(section: &Section<'_, '_>, folder: &Path) -> Option<Box<[u8]>> {
    section.value("tls_ca_file", |value| {
        let invalid = |found| vec![Invalid { span: None, found, accepted: AUTHORITY.to_owned() }];
        let path = value.get_ref().as_str().ok_or_else(|| invalid(found(value.get_ref())))?;
        if path.is_empty() {
            return Ok(None);
        }
        let read = fs::read(folder.join(path));
        let pem = read.map_err(|error| invalid(format!("the file {path}, which cannot be read: {error}")))?;
        if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
            return Err(invalid(format!("the file {path}, in which there is no certificate")));
        }
        Ok(Some(pem.into()))
    })
}

/// Reads a list of different servers.
fn servers(
    value: &Spanned<DeValue<'_>>,
    max: usize,
    port: u16,
    accepted: &str,
) -> Result<Vec<RedisServer>, Vec<Invalid>> {
    let invalid = |span, found| Invalid { span, found, accepted: accepted.to_owned() };
    let Some(list) = value.get_ref().as_array() else {
        return Err(vec![invalid(None, shown(value.get_ref()))]);
    };
    if list.len() > max {
        return Err(vec![invalid(None, format!("{} addresses", list.len()))]);
    }
    let server = |entry: &Spanned<DeValue<'_>>| {
        let text = entry.get_ref().as_str().map(|text| match text.contains("://") {
            true => text.to_owned(),
            false => format!("redis://{text}"),
        });
        let server = text.and_then(|text| url(&text, port));
        server.ok_or_else(|| invalid(Some(entry.span()), shown(entry.get_ref())))
    };
    let servers = all(list.iter().map(server))?;
    let twice = (1..servers.len()).find(|at| servers[..*at].contains(&servers[*at]));
    match twice {
        Some(at) => Err(vec![invalid(Some(list[at].span()), format!("{} for the second time", servers[at]))]),
        None => Ok(servers),
    }
}

/// A value in a message: a mistyped one may contain a password.
pub(super) fn shown(value: &DeValue<'_>) -> String {
    match value.as_str() {
        Some(text) if text.contains('@') => "a URL with a user or a password in it".to_owned(),
        Some(_) => "something else".to_owned(),
        None => found(value),
    }
}

/// Parses a URL. A URL with a user or a query is refused.
fn url(text: &str, port: u16) -> Option<RedisServer> {
    let Location { tls, host, port, path } =
        Location::parse(text, &[("redis", false), ("rediss", true)], port)?;
    let database = if path.is_empty() { 0 } else { path.parse().ok()? };
    Some(RedisServer { tls, host, port, database })
}

/// The parts of the URL of a server.
pub(super) struct Location<'t> {
    pub(super) tls: bool,
    pub(super) host: Box<str>,
    pub(super) port: u16,
    /// What follows the first `/`.
    pub(super) path: &'t str,
}

impl<'t> Location<'t> {
    /// Parses a URL with one of these schemes, of which each is with or without TLS. A URL with a user is
    /// refused.
    pub(super) fn parse(text: &'t str, schemes: &[(&str, bool)], port: u16) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (_, tls) = *schemes.iter().find(|(name, _)| *name == scheme)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, named) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, named) = bracketed.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, if named.is_empty() { None } else { Some(named.strip_prefix(':')?) })
            }
            None => authority.split_once(':').map_or((authority, None), |(host, named)| (host, Some(named))),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        let port = named.map_or(Some(port), |named| named.parse().ok()).filter(|port| *port != 0)?;
        let fits = !host.is_empty() && host.len() <= 253 && host.bytes().all(plain);
        fits.then(|| Self { tls, host: host.into(), port, path })
    }
}

impl RedisTopology {
    /// The configured servers.
    pub(super) fn servers(&self) -> &[RedisServer] {
        match self {
            Self::Server(server) => std::slice::from_ref(server),
            Self::Servers(servers) | Self::Cluster(servers) => servers,
            Self::Sentinels(sentinels) => &sentinels.sentinels,
        }
    }
}

impl RedisServer {
    /// Whether the server is on this machine.
    pub(super) fn is_local(&self) -> bool {
        &*self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::Config;
    use crate::config::resolve::resolve;

    #[test]
    fn a_url_says_where_and_nothing_else() {
        let is = |text: &str, tls, host: &str, port, database| {
            let expected = RedisServer { tls, host: host.into(), port, database };
            assert_eq!(url(text, SERVER_PORT), Some(expected), "{text}");
        };
        is("redis://localhost", false, "localhost", 6379, 0);
        is("redis://10.0.0.5:6380/3", false, "10.0.0.5", 6380, 3);
        is("rediss://redis.example/", true, "redis.example", 6379, 0);
        is("redis://[::1]:7000", false, "::1", 7000, 0);
        is("redis://[::1]", false, "::1", 6379, 0);
        for text in [
            "redis",
            "redis://",
            "http://a",
            "redis://:6379",
            "redis://a:0",
            "redis://a:x",
            "redis://a/x",
            "redis://user:secret@a",
            "redis://a/0?protocol=resp3",
            "redis://[::1",
            "redis://[::1]7000",
            "redis://[a]",
            "redis://a b",
        ] {
            assert_eq!(url(text, SERVER_PORT), None, "{text}");
        }
    }

    #[test]
    fn sentinels_have_addresses_a_login_of_their_own_and_the_name_of_a_master() {
        let text = "
            [redis]
            sentinels = ['10.0.0.5', '[::1]:5000', 'redis://sentinel.example:26380']
            sentinel_master = 'main'
            sentinel_username = 'watcher'
            sentinel_password = 'env:SENTINEL_PASSWORD'
        ";
        let environment = |name: &str| (name == "SENTINEL_PASSWORD").then(|| "of-sentinel".to_owned());
        let config = resolve(text, "test", Path::new(""), &environment).unwrap().0;
        let Some(RedisTopology::Sentinels(sentinels)) = config.redis.map(|redis| redis.topology) else {
            panic!()
        };
        let addresses: Vec<_> = sentinels.sentinels.iter().map(RedisServer::to_string).collect();
        assert_eq!(addresses, ["10.0.0.5:26379", "[::1]:5000", "sentinel.example:26380"]);
        assert_eq!((&*sentinels.master, &*sentinels.username), ("main", "watcher"));
        assert_eq!(sentinels.password, Some(Secret::new("of-sentinel")));
    }

    #[track_caller]
    fn refused(redis: &str, expected: &str) {
        let errors = Config::parse(&format!("[redis]\n{redis}"), "test").unwrap_err();
        assert_eq!(errors.errors().len(), 1, "{errors}");
        assert!(errors.to_string().contains(expected), "{errors}");
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let sentinels = "sentinels = ['a', 'b']\nsentinel_master = 'm'\n";
        refused(&format!("{sentinels}url = 'redis://c'"), "one of them");
        refused(&format!("{sentinels}urls = ['c', 'd']"), "one of them");
        refused("url = 'redis://a'\nurls = ['c', 'd']", "`urls` together with `url`");
        refused("urls = ['c']", "one URL");
        refused(&format!("{sentinels}cluster = ['c']"), "one of them");
        refused("url = 'redis://a'\ncluster = ['c', 'd']", "`cluster` together with `url`");
        refused("cluster = ['redis://a/1']", "a database");
        refused("cluster = ['redis://a', 'rediss://b']", "servers with TLS and servers without");
        refused("sentinels = ['a']", "without the name of a master");
        refused("sentinel_master = 'm'", "no Sentinel");
        refused("sentinels = ['a', 'rediss://b']\nsentinel_master = 'm'", "differ in TLS");
        refused("sentinels = ['a', 'redis://a:26379']\nsentinel_master = 'm'", "a:26379 for the second time");
        refused("sentinels = ['u:p@a']\nsentinel_master = 'm'", "a URL with a user or a password");
        refused("url = 'rediss://a'\ntls_ca_file = '/nowhere.pem'", "cannot be read");
    }
}
