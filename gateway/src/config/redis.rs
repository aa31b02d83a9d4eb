//! The Redis that several gateways share.

use std::fs;
use std::path::Path;

use toml::Spanned;
use toml::de::DeValue;

use super::read::{Document, Wrong, found};
use super::resolve::{MINUTE, SECOND};
use super::{Namespaces, Redis, RedisServer, Secret};

const URL: &str = "a URL such as \"redis://10.0.0.5:6379\", \"rediss://redis.example\" for TLS, with /NUMBER for a database, or \"\"";
const PASSWORD: &str = "\"env:NAME\" or \"file:PATH\" of a password of 1 to 512 bytes, or \"\" for none";
const PREFIX: &str = "1 to 64 letters, digits, `_`, `-`, `.` and `:`";
const USERNAME: &str = "up to 128 visible ASCII characters";

/// Reads `[redis]`. `None` without a URL.
pub(super) fn redis(
    document: &Document<'_>,
    namespaces: &Namespaces,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<Redis> {
    let section = document.section("redis");
    let server = section.value("url", |value| {
        // What is mistyped may hold a password.
        let text = value.get_ref().as_str();
        let shown = || match text {
            Some(text) if text.contains('@') => "a URL with a user or a password in it".to_owned(),
            Some(_) => "something else".to_owned(),
            None => found(value.get_ref()),
        };
        let wrong = || vec![Wrong { span: None, found: shown(), accepted: URL.to_owned() }];
        match text.ok_or_else(wrong)? {
            "" => Ok(None),
            text => server(text).map(Some).ok_or_else(wrong),
        }
    });
    let username = section.simple("username", &USERNAME, |value| {
        let fits = |name: &&str| name.len() <= 128 && name.bytes().all(|b| b.is_ascii_graphic());
        value.as_str().filter(fits).map(Box::<str>::from)
    });
    let password = section.value("password", |value| password(value, folder, environment));
    let prefix = section.simple("prefix", &PREFIX, |value| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.:".contains(&b);
        let fits = |prefix: &&str| (1..=64).contains(&prefix.len()) && prefix.bytes().all(allowed);
        value.as_str().filter(fits).map(Box::<str>::from)
    });
    let connections = section.count("connections", 1..=16);
    let timeout = section.duration("timeout", 50..=30 * SECOND);
    let reconnect_pause_max = section.duration("reconnect_pause_max", 100..=MINUTE);
    let questions_max = section.count("questions_max", 128..=1_048_576);
    if server.is_some() {
        let all = namespaces.named.iter().map(|(name, namespace)| (format!("namespaces.{name}"), namespace));
        let all = all.chain([("channel".to_owned(), &namespaces.default)]);
        let mut present: Vec<_> =
            all.filter(|(_, namespace)| namespace.presence).map(|(name, _)| format!("[{name}]")).collect();
        present.sort();
        if !present.is_empty() {
            let found = format!("a Redis server together with `presence = true` in {}", present.join(", "));
            section.conflict(
                &["url"],
                &found,
                "`presence = false` everywhere: presence is known to one node only",
            );
        }
        if password.is_none() && !username.is_empty() {
            section.conflict(&["username", "password"], "a user without a password", "both, or neither");
        }
    }
    section.finish();
    Some(Redis {
        server: server?,
        username,
        password,
        prefix,
        connections,
        timeout,
        reconnect_pause_max,
        questions_max,
    })
}

/// Takes a URL apart. What names a user or asks for something by a query is refused.
fn server(text: &str) -> Option<RedisServer> {
    let (tls, rest) = match text.split_once("://")? {
        ("redis", rest) => (false, rest),
        ("rediss", rest) => (true, rest),
        _ => return None,
    };
    let (authority, database) = match rest.split_once('/') {
        Some((authority, "")) => (authority, 0),
        Some((authority, number)) => (authority, number.parse().ok()?),
        None => (rest, 0),
    };
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some("6379"))?)
        }
        None => authority.split_once(':').unwrap_or((authority, "6379")),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty() && host.len() <= 253 && host.bytes().all(plain)).then(|| RedisServer {
        tls,
        host: host.into(),
        port,
        database,
    })
}

impl RedisServer {
    /// Whether it is on this machine.
    pub(super) fn is_local(&self) -> bool {
        &*self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// Takes the password from where the value says. No message repeats any of it.
fn password(
    value: &Spanned<DeValue<'_>>,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Secret>, Vec<Wrong>> {
    let wrong = |found: String| vec![Wrong { span: None, found, accepted: PASSWORD.to_owned() }];
    let Some(text) = value.get_ref().as_str() else { return Err(wrong(found(value.get_ref()))) };
    let password = if text.is_empty() {
        return Ok(None);
    } else if let Some(name) = text.strip_prefix("env:") {
        environment(name)
            .ok_or_else(|| wrong(format!("the environment variable {name}, which is not set")))?
    } else if let Some(path) = text.strip_prefix("file:") {
        let read = fs::read_to_string(folder.join(path));
        read.map_err(|error| wrong(format!("the file {path}, which cannot be read: {error}")))?
    } else {
        let found = "a password in the file, where everybody reads it who reads the configuration";
        return Err(wrong(found.to_owned()));
    };
    let password = password.trim_ascii_end();
    if !(1..=512).contains(&password.len()) {
        return Err(wrong(format!("a password of {} bytes", password.len())));
    }
    Ok(Some(Secret::new(password)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::config::resolve::resolve;

    #[test]
    fn a_url_says_where_and_nothing_else() {
        let is = |text: &str, tls, host: &str, port, database| {
            let expected = RedisServer { tls, host: host.into(), port, database };
            assert_eq!(server(text), Some(expected), "{text}");
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
            "redis://[a]",
            "redis://a b",
        ] {
            assert_eq!(server(text), None, "{text}");
        }
    }

    #[test]
    fn every_key_reaches_its_own_field() {
        let text = "
            [redis]
            url = 'rediss://redis.example:6380/2'
            username = 'gw'
            password = 'env:REDIS_PASSWORD'
            prefix = 'rt'
            connections = 5
            timeout = '51ms'
            reconnect_pause_max = '52s'
            questions_max = 1053
        ";
        let environment = |name: &str| (name == "REDIS_PASSWORD").then(|| "of-redis\n".to_owned());
        let config = resolve(text, "test", Path::new(""), &environment).unwrap().0;
        let expected = Redis {
            server: RedisServer { tls: true, host: "redis.example".into(), port: 6380, database: 2 },
            username: "gw".into(),
            password: Some(Secret::new("of-redis")),
            prefix: "rt".into(),
            connections: 5,
            timeout: Duration::from_millis(51),
            reconnect_pause_max: Duration::from_secs(52),
            questions_max: 1053,
        };
        assert_eq!(config.redis, Some(expected));
    }

    #[test]
    fn every_mistake_is_told_at_once_and_none_shows_a_secret() {
        let text = "
            [redis]
            url = 'redis://u:hunter2@a'
            password = 'hunter2'
            prefix = '{x}'
            connections = 0
        ";
        let errors = Config::parse(text, "test").unwrap_err();
        assert_eq!(errors.mistakes().len(), 4, "{errors}");
        assert!(!errors.to_string().contains("hunter2"), "{errors}");
    }

    #[test]
    fn presence_is_refused_together_with_redis() {
        let text = "
            redis.url = 'redis://localhost'
            [namespaces.chat]
            presence = true
        ";
        let errors = Config::parse(text, "test").unwrap_err();
        assert_eq!(errors.mistakes().len(), 1, "{errors}");
        assert!(errors.to_string().contains("[namespaces.chat]"), "{errors}");
    }

    #[test]
    fn without_a_url_there_is_no_redis() {
        assert_eq!(Config::default().redis, None);
    }
}
