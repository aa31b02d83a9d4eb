//! Checks whether the settings of a Redis server fit what the configuration promises: for each new
//! connection, and periodically. A mismatch is only a warning, because Redis works all the same.

use std::time::Duration;

use redis::{Cmd, Value};

use crate::backplane::redis::connection::client::call;
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::context::Context;
use crate::config::{Config, Namespace, RedisTopology};
use crate::telemetry::backplane::Unfit;

/// Interval between two checks.
pub(crate) const AGAIN: Duration = Duration::from_secs(10);

/// Approximate bytes of a stream entry in addition to its payload.
const ENTRY_BYTES: u64 = 100;

/// The settings of a server as far as they are known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Settings {
    policy: Option<String>,
    memory_max: Option<u64>,
    append_only: Option<bool>,
    /// Whether `save` is configured, if this user may read it.
    snapshots: Option<bool>,
    replicas: Option<u64>,
    /// Whether it refuses writes without enough replicas.
    needs_replicas: bool,
}

impl Settings {
    fn read(info: &str, snapshots: Option<bool>) -> Self {
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let number = |name: &str| field(name).and_then(|text| text.parse().ok());
        Self {
            policy: field("maxmemory_policy").map(str::to_owned),
            memory_max: number("maxmemory").filter(|max| *max > 0),
            append_only: field("aof_enabled").map(|enabled| enabled == "1"),
            snapshots,
            replicas: number("connected_slaves"),
            needs_replicas: field("min_slaves_good_slaves").is_some(),
        }
    }

    /// The settings that do not fit.
    fn warnings(&self, config: &Config, topology: &RedisTopology) -> Vec<(Unfit, String)> {
        let mut all = Vec::new();
        let named =
            config.namespaces.named.iter().map(|(name, rules)| (format!("[namespaces.{name}]"), &**rules));
        let tables: Vec<(String, &Namespace)> =
            [("[channel]".to_owned(), &*config.namespaces.default)].into_iter().chain(named).collect();
        if let Some(policy) = self.policy.as_deref().filter(|policy| *policy != "noeviction") {
            let when = match self.memory_max {
                Some(max) => format!("above `maxmemory` ({max} bytes)"),
                None => "as soon as `maxmemory` is set".to_owned(),
            };
            let why = format!(
                "`maxmemory-policy` is {policy}: {when} it drops histories, presence and leases without a word; set it to noeviction"
            );
            all.push((Unfit::Eviction, why));
        }
        let needs = |rules: &Namespace| {
            (rules.history_size as u64)
                .saturating_mul((config.limits.message_bytes_max as u64).saturating_add(ENTRY_BYTES))
        };
        let largest = tables.iter().max_by_key(|(_, rules)| needs(rules));
        if let (Some(max), Some((table, rules))) = (self.memory_max, largest)
            && needs(rules) > max
        {
            let why = format!(
                "`maxmemory` is {max} bytes, and a single channel of {table} may need {} (`history_size` times \
                 `limits.message_bytes_max`): publishing is refused when it is used up",
                needs(rules)
            );
            all.push((Unfit::Memory, why));
        }
        let keeping = tables.iter().find(|(_, rules)| rules.history_size > 0);
        if let Some((table, _)) = keeping
            && self.append_only == Some(false)
            && self.snapshots == Some(false)
            && self.replicas.is_none_or(|replicas| replicas == 0)
        {
            let why = format!(
                "it has neither `appendonly` nor `save` nor a replica: the histories of {table} end with the process, whatever \
                 `history_ttl` says"
            );
            all.push((Unfit::Persistence, why));
        } else if let RedisTopology::Sentinels(_) = topology
            && self.append_only == Some(false)
            && self.snapshots == Some(false)
        {
            let why = "it has neither `appendonly` nor `save`: a master that restarts sooner than the Sentinels notice is empty, \
                       and empties its replicas";
            all.push((Unfit::Persistence, why.to_owned()));
        }
        let most = tables.iter().max_by_key(|(_, rules)| rules.min_replicas);
        if let (Some(replicas), Some((table, rules))) = (self.replicas, most)
            && u64::from(rules.min_replicas) > replicas
        {
            let wanted = rules.min_replicas;
            let why = format!(
                "{table} has `min_replicas = {wanted}`, and the server has {replicas}: every publication there is answered with \
                 error 100"
            );
            all.push((Unfit::Replicas, why));
        }
        if let RedisTopology::Sentinels(_) = topology
            && self.replicas.is_some()
            && !self.needs_replicas
        {
            let why = "`min-replicas-to-write` is 0: a master that is cut off from the Sentinels and its replicas goes on \
                       acknowledging what will be lost; set it to 1";
            all.push((Unfit::Replicas, why.to_owned()));
        }
        all
    }
}

/// The settings that do not fit, from a server's `INFO` on memory, persistence and replication, and from
/// whether it saves snapshots.
pub(crate) fn warnings(
    info: &str,
    snapshots: Option<bool>,
    config: &Config,
    topology: &RedisTopology,
) -> Vec<String> {
    Settings::read(info, snapshots).warnings(config, topology).into_iter().map(|(_, why)| why).collect()
}

/// The sections of `INFO` that are read.
pub(crate) const SECTIONS: [&str; 3] = ["memory", "persistence", "replication"];

/// Reads the settings of a server that do not fit. `None` if they cannot be read.
pub(crate) async fn look(context: &Context, server: &ServerConnection) -> Option<Vec<(Unfit, String)>> {
    let mut connection = server.connections.first().cloned()?;
    let mut ask = async |words: &[&str]| {
        let mut command = Cmd::new();
        command.arg(words);
        call(&mut connection, &command, context.config.timeout).await.ok()
    };
    let mut info = String::new();
    for section in SECTIONS {
        match ask(&["INFO", section]).await {
            Some(Value::BulkString(bytes)) => info.push_str(&String::from_utf8_lossy(&bytes)),
            Some(Value::VerbatimString { text, .. }) => info.push_str(&text),
            _ => return None,
        }
        info.push('\n');
    }
    // Asked once per connection: each attempt of a user without permission leaves an entry in `ACL LOG`.
    let snapshots = match server.snapshots.get() {
        Some(known) => *known,
        None => {
            let known = ask(&["CONFIG", "GET", "save"]).await.and_then(|reply| saves(&reply));
            *server.snapshots.get_or_init(|| known)
        }
    };
    Some(Settings::read(&info, snapshots).warnings(&context.gateway, &context.config.topology))
}

/// Whether the server saves snapshots, from the reply to `CONFIG GET save`.
pub(crate) fn saves(reply: &Value) -> Option<bool> {
    let value = match reply {
        Value::Map(pairs) => &pairs.first()?.1,
        Value::Array(parts) => parts.get(1)?,
        _ => return None,
    };
    match value {
        Value::BulkString(bytes) => Some(!bytes.is_empty()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::connection::fitness::*;

    const FIT: &str = "maxmemory:0\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\nconnected_slaves:1\r\nmin_slaves_good_slaves:1\r\n";

    fn warnings(info: &str, snapshots: Option<bool>, rules: &str) -> Vec<(Unfit, String)> {
        let config = Config::parse(
            &format!("redis.sentinels = ['a:1']\nredis.sentinel_master = 'm'\n{rules}"),
            "test",
        )
        .unwrap();
        let topology = config.redis.as_ref().unwrap().topology.clone();
        Settings::read(info, snapshots).warnings(&config, &topology)
    }

    fn only(info: &str, rules: &str) -> (Unfit, String) {
        let mut all = warnings(info, Some(false), rules);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[test]
    fn what_fits_is_no_warning_and_what_is_not_known_neither() {
        assert_eq!(warnings(FIT, None, "[namespaces.a]\nhistory_size = 10\nmin_replicas = 1"), []);
        assert_eq!(warnings("", None, "[namespaces.a]\nhistory_size = 10\nmin_replicas = 1"), []);
    }

    #[test]
    fn each_setting_that_does_not_fit_is_named() {
        for policy in ["allkeys-lru", "volatile-ttl"] {
            let (unfit, why) = only(&FIT.replace("noeviction", policy), "");
            assert!(unfit == Unfit::Eviction && why.contains(policy), "{why}");
        }
        let rules = "[namespaces.a]\nhistory_size = 1000";
        let (unfit, why) = only(&FIT.replace("maxmemory:0", "maxmemory:1000000"), rules);
        assert!(
            unfit == Unfit::Memory && why.contains("1000000 bytes") && why.contains("[namespaces.a]"),
            "{why}"
        );
        let (unfit, why) = only(&FIT.replace("aof_enabled:1", "aof_enabled:0"), rules);
        assert!(unfit == Unfit::Persistence && why.contains("appendonly"), "{why}");
        let (unfit, why) = only(FIT, "[namespaces.a]\nhistory_size = 1\nmin_replicas = 2");
        assert!(unfit == Unfit::Replicas && why.contains("min_replicas = 2"), "{why}");
        let (unfit, why) = only(&FIT.replace("min_slaves_good_slaves:1", ""), "");
        assert!(unfit == Unfit::Replicas && why.contains("min-replicas-to-write"), "{why}");
    }

    #[test]
    fn a_server_that_does_not_say_whether_it_saves_is_not_suspected() {
        assert_eq!(
            warnings(
                &FIT.replace("aof_enabled:1", "aof_enabled:0"),
                None,
                "[namespaces.a]\nhistory_size = 1"
            ),
            []
        );
        let text = |text: &str| Value::BulkString(text.into());
        assert_eq!(saves(&Value::Map(vec![(text("save"), text(""))])), Some(false));
        assert_eq!(saves(&Value::Array(vec![text("save"), text("60 1")])), Some(true));
        assert_eq!(saves(&Value::Nil), None);
    }
}
