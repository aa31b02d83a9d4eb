//! Reads the settings of the Redis that several gateways share.

use std::path::Path;

use toml::Spanned;
use toml::de::DeValue;

use super::external::external_secret;
use super::read::{Document, Invalid};
use super::resolve::{GIB, MIB, MINUTE, SECOND};
use super::topology::{authority, topology};
use super::{Namespace, Namespaces, Redis, RedisTopology, Secret};

const PASSWORD: &str = "\"env:NAME\" or \"file:PATH\" of a password of 1 to 512 bytes, or \"\" for none";
const PREFIX: &str = "1 to 64 letters, digits, `_`, `-`, `.` and `:`";
const USERNAME: &str = "up to 128 visible ASCII characters";

/// Reads `[redis]`. `None` if it names no server.
pub(super) fn redis(
    document: &Document<'_>,
    namespaces: &Namespaces,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<Redis> {
    let section = document.section("redis");
    let login = |username_key, password_key| {
        let username = section.simple(username_key, &USERNAME, |value| {
            let fits = |name: &&str| name.len() <= 128 && name.bytes().all(|b| b.is_ascii_graphic());
            value.as_str().filter(fits).map(Box::<str>::from)
        });
        let password = section.value(password_key, |value| password(value, folder, environment));
        if password.is_none() && !username.is_empty() {
            section.conflict(&[username_key, password_key], "a user without a password", "both, or neither");
        }
        (username, password)
    };
    let (username, password) = login("username", "password");
    let (sentinel_username, sentinel_password) = login("sentinel_username", "sentinel_password");
    let topology = topology(&section, sentinel_username, sentinel_password);
    let tls_authority = authority(&section, folder);
    let prefix = section.simple("prefix", &PREFIX, |value| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.:".contains(&b);
        let fits = |prefix: &&str| (1..=64).contains(&prefix.len()) && prefix.bytes().all(allowed);
        value.as_str().filter(fits).map(Box::<str>::from)
    });
    let connections = section.count("connections", 1..=16);
    let timeout = section.duration("timeout", 50..=30 * SECOND);
    let reconnect_pause_max = section.duration("reconnect_pause_max", 100..=MINUTE);
    let questions_max = section.count("questions_max", 128..=1_048_576);
    let questions_bytes_max = section.size("questions_bytes_max", MIB..=16 * GIB);
    let required_for_readiness = section.flag("required_for_readiness");
    let replicated = tables(namespaces, |namespace| namespace.min_replicas > 0);
    if topology.is_none() && !replicated.is_empty() {
        let found = format!("no Redis server together with `min_replicas` in {replicated}");
        section.conflict(&["url"], &found, "a server, or `min_replicas = 0` everywhere");
    }
    let open = tables(namespaces, |namespace| namespace.wildcards);
    if matches!(topology, Some(RedisTopology::Servers(_))) && !open.is_empty() {
        let found = format!("several servers together with `wildcards` in {open}");
        section.conflict(&["urls"], &found, "one server, Sentinels or a Cluster, or `wildcards = false`");
    }
    section.finish();
    Some(Redis {
        topology: topology?,
        tls_authority,
        username,
        password,
        prefix,
        connections,
        timeout,
        reconnect_pause_max,
        questions_max,
        questions_bytes_max,
        required_for_readiness,
    })
}

/// Names the tables of the namespaces with a property.
fn tables(namespaces: &Namespaces, holds: fn(&Namespace) -> bool) -> String {
    let all = namespaces.named.iter().map(|(name, namespace)| (format!("[namespaces.{name}]"), namespace));
    let all = all.chain([("[channel]".to_owned(), &namespaces.default)]);
    let mut tables: Vec<_> = all.filter(|(_, namespace)| holds(namespace)).map(|(name, _)| name).collect();
    tables.sort();
    tables.join(", ")
}

/// Reads the password from the place that the value names. No message repeats any part of it.
pub(super) fn password(
    value: &Spanned<DeValue<'_>>,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Secret>, Vec<Invalid>> {
    let Some(password) = external_secret(value, folder, environment, "a password", PASSWORD)? else {
        return Ok(None);
    };
    if !(1..=512).contains(&password.len()) {
        let found = format!("a password of {} bytes", password.len());
        return Err(vec![Invalid { span: None, found, accepted: PASSWORD.to_owned() }]);
    }
    Ok(Some(Secret::new(&password)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use super::*;
    use crate::config::resolve::resolve;
    use crate::config::{Config, RedisServer, RedisTopology};

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
            questions_bytes_max = '54MiB'
            required_for_readiness = false
        ";
        let environment = |name: &str| (name == "REDIS_PASSWORD").then(|| "of-redis\n".to_owned());
        let config = resolve(text, "test", Path::new(""), &environment).unwrap().0;
        let expected = Redis {
            topology: RedisTopology::Server(RedisServer {
                tls: true,
                host: "redis.example".into(),
                port: 6380,
                database: 2,
            }),
            tls_authority: None,
            username: "gw".into(),
            password: Some(Secret::new("of-redis")),
            prefix: "rt".into(),
            connections: 5,
            timeout: Duration::from_millis(51),
            reconnect_pause_max: Duration::from_secs(52),
            questions_max: 1053,
            questions_bytes_max: 54 << 20,
            required_for_readiness: false,
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
        assert_eq!(errors.errors().len(), 4, "{errors}");
        assert!(!errors.to_string().contains("hunter2"), "{errors}");
    }

    #[test]
    fn every_topology_may_have_presence() {
        for servers in ["urls = ['redis://a', 'redis://b']", "cluster = ['redis://a']"] {
            let text = format!("redis.{servers}\n[namespaces.chat]\npresence = true");
            assert!(Config::parse(&text, "test").unwrap().redis.is_some(), "{servers}");
        }
    }

    #[test]
    fn replicas_are_refused_without_a_redis_and_without_a_history() {
        for (text, word) in [
            ("[namespaces.chat]\nhistory_size = 1\nmin_replicas = 1", "[namespaces.chat]"),
            ("redis.url = 'redis://localhost'\n[channel]\nmin_replicas = 1", "history_size"),
        ] {
            let errors = Config::parse(text, "test").unwrap_err();
            assert_eq!(errors.errors().len(), 1, "{errors}");
            assert!(errors.to_string().contains(word), "{errors}");
        }
        let text = "redis.url = 'redis://localhost'\n[channel]\nhistory_size = 1\nmin_replicas = 2";
        assert_eq!(Config::parse(text, "test").unwrap().namespaces.default.min_replicas, 2);
    }

    #[test]
    fn patterns_need_servers_that_pass_on_to_each_other() {
        let config = |servers: &str| {
            Config::parse(&format!("redis.{servers}\n[namespaces.chat]\nwildcards = true"), "test")
        };
        let errors = config("urls = ['redis://a', 'redis://b']").unwrap_err().to_string();
        assert!(
            errors.contains("several servers together with `wildcards` in [namespaces.chat]"),
            "{errors}"
        );
        for servers in ["url = 'redis://a'", "cluster = ['redis://a']"] {
            assert!(config(servers).unwrap().redis.is_some(), "{servers}");
        }
    }

    #[test]
    fn without_a_url_there_is_no_redis() {
        assert_eq!(Config::default().redis, None);
    }
}
