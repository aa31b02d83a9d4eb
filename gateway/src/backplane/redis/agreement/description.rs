//! `Description` is what a gateway publishes about itself, and finds the differences between two gateways. It
//! is JSON; unknown parts are skipped and only common parts are compared, so a later version may add parts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::backplane::redis::format::wire;
use crate::config::{Access, Config, Namespace, RecoveryMode};
use crate::telemetry::backplane::Subject;

/// Maximum number of differences reported for one gateway.
const TOLD_MAX: usize = 16;

/// Beginning of the sentence for a version difference.
pub(crate) const VERSION_DIFFERS: &str = "version";

/// A difference between another gateway and this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) subject: Subject,
    /// Name of the setting, with its value there and here.
    pub(crate) sentence: Box<str>,
}

impl Difference {
    /// The other gateway does not publish its rules.
    pub(crate) fn unknown() -> Self {
        Self { subject: Subject::Rules, sentence: "it does not say what its rules are".into() }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Description(Value);

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Description {
    /// Builds the description of this gateway.
    pub(crate) fn of(config: &Config, plugins: &[(Arc<str>, String)]) -> Self {
        let mut rules = Map::new();
        for (table, namespace) in tables(config) {
            rules.insert(table, rules_of(namespace));
        }
        let chain: Vec<_> = plugins.iter().map(|(name, digest)| json!([&**name, digest])).collect();
        Self(json!({
            "wire": char::from(wire::VERSION).to_string(),
            "limits": {
                "limits.message_bytes_max": config.limits.message_bytes_max,
                "limits.publication_bytes_max": config.limits.publication_bytes_max,
                "limits.outbound_bytes_max": config.limits.outbound_bytes_max,
                "limits.channels_per_connection_max": config.limits.channels_per_connection_max,
                "client.history_publications_max": config.client.history_publications_max,
                "memory.channels_max": config.memory.channels_max,
            },
            "rules": rules,
            "plugins": chain,
        }))
    }

    /// Decodes the description of another gateway.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(Value::is_object).map(Self)
    }

    /// Whether it names exactly these plugins.
    pub(crate) fn has_plugins(&self, plugins: &[(Arc<str>, String)]) -> bool {
        let named = plugins_of(&self.0);
        named.len() == plugins.len()
            && named.iter().zip(plugins).all(|(named, (name, digest))| *named == (&**name, &**digest))
    }

    /// The tables in its rules.
    pub(crate) fn tables(&self) -> Vec<Box<str>> {
        self.0["rules"].as_object().into_iter().flatten().map(|(table, _)| table.as_str().into()).collect()
    }

    /// The tables with a history.
    pub(crate) fn keeping(&self) -> Vec<Box<str>> {
        self.tables().into_iter().filter(|table| self.number(table, "history_size") > Some(0)).collect()
    }

    /// Whether it has this table.
    pub(crate) fn has(&self, table: &str) -> bool {
        self.0["rules"].get(table).is_some()
    }

    /// A numeric rule of a table; durations in milliseconds.
    pub(crate) fn number(&self, table: &str, rule: &str) -> Option<u64> {
        self.0["rules"].get(table)?.get(rule)?.as_u64()
    }

    /// Whether a rule of a table is on.
    pub(crate) fn is_on(&self, table: &str, rule: &str) -> Option<bool> {
        self.0["rules"].get(table)?.get(rule)?.as_bool()
    }

    /// Maximum size of its publications.
    pub(crate) fn publication_bytes_max(&self) -> Option<usize> {
        self.0["limits"]["limits.publication_bytes_max"].as_u64().and_then(|max| usize::try_from(max).ok())
    }

    /// Whether another gateway must raise a rule because of this one. A third gateway may require the same
    /// already; that may not be known yet.
    pub(crate) fn raises(&self, other: &Self) -> bool {
        self.publication_bytes_max() > other.publication_bytes_max()
            || self.tables().iter().filter(|table| other.has(table)).any(|table| {
                RAISED.into_iter().any(|rule| self.number(table, rule) > other.number(table, rule))
            })
    }

    /// Differences of another gateway from this one.
    pub(crate) fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut all = Vec::new();
        let mut differ =
            |subject, sentence: String| all.push(Difference { subject, sentence: sentence.into() });
        let (here, there) = (&self.0, &other.0);
        if let (Some(a), Some(b)) = (here["wire"].as_str(), there["wire"].as_str())
            && a != b
        {
            differ(Subject::Wire, format!("wire format: {b} there, {a} here"));
        }
        compare(&here["limits"], &there["limits"], |setting, a, b| {
            differ(Subject::Limits, format!("{setting}: {b} there, {a} here"));
        });
        let (a_tables, b_tables) = (&here["rules"], &there["rules"]);
        for table in keys(a_tables).chain(keys(b_tables).filter(|table| a_tables.get(table).is_none())) {
            match (a_tables.get(table), b_tables.get(table)) {
                (Some(a), Some(b)) => compare(a, b, |rule, a, b| {
                    let shard = if rule.ends_with("_ttl") { " ms" } else { "" };
                    differ(Subject::Rules, format!("{table}.{rule}: {b}{shard} there, {a}{shard} here"));
                }),
                (Some(_), None) => differ(Subject::Rules, format!("{table}: only here")),
                _ => differ(Subject::Rules, format!("{table}: only there")),
            }
        }
        let (a, b) = (plugins_of(here), plugins_of(there));
        let find = |of: &[(&str, &str)], name: &str| {
            of.iter().find(|(one, _)| *one == name).map(|(_, digest)| (*digest).to_owned())
        };
        let names = a.iter().chain(b.iter().filter(|(name, _)| a.iter().all(|(one, _)| one != name)));
        let mut same = true;
        for (name, _) in names {
            let (here, there) = (find(&a, name), find(&b, name));
            if here != there {
                same = false;
                let [here, there] =
                    [here, there].map(|digest| digest.map_or("none".to_owned(), |digest| short(&digest)));
                let what = if here == there {
                    "other settings there".to_owned()
                } else {
                    format!("{there} there, {here} here")
                };
                differ(Subject::Plugins, format!("plugin {name}: {what}"));
            }
        }
        if same && a != b {
            differ(Subject::Plugins, "plugins: in another order there".to_owned());
        }
        if all.len() > TOLD_MAX {
            let more = all.len() - TOLD_MAX;
            let subject = all[TOLD_MAX].subject;
            all.truncate(TOLD_MAX);
            all.push(Difference { subject, sentence: format!("and {more} more").into() });
        }
        all
    }
}

/// Rules of which the larger value is used.
const RAISED: [&str; 4] = ["history_size", "history_ttl", "min_replicas", "idempotency_ttl"];

/// The tables of the configuration with their rules.
pub(crate) fn tables(config: &Config) -> impl Iterator<Item = (String, &Namespace)> {
    let named = config.namespaces.named.iter().map(|(name, rules)| (table(Some(name)), &**rules));
    [(table(None), &*config.namespaces.default)].into_iter().chain(named)
}

/// Name of the table of a namespace.
pub(crate) fn table(namespace: Option<&str>) -> String {
    namespace.map_or_else(|| "channel".to_owned(), |name| format!("namespaces.{name}"))
}

fn rules_of(namespace: &Namespace) -> Value {
    let Namespace {
        history_size,
        history_ttl,
        min_replicas,
        idempotency_ttl,
        recovery,
        recovery_mode,
        latest_on_subscribe,
        presence,
        join_leave,
        force_push_join_leave,
        tag_filter,
        delta,
        wildcards,
        client_certificate,
        // What else a gateway tells a backend concerns no other gateway.
        events: _,
        allow_subscribe,
        allow_publish,
        allow_history,
        allow_presence,
        // Whom a gateway asks is not agreed on: each may have an upstream that is near.
        ask: _,
    } = namespace;
    json!({
        "history_size": history_size,
        "history_ttl": millis(*history_ttl),
        "min_replicas": min_replicas,
        "idempotency_ttl": millis(*idempotency_ttl),
        "recovery": recovery,
        "recovery_mode": mode(*recovery_mode),
        "latest_on_subscribe": latest_on_subscribe,
        "presence": presence,
        "join_leave": join_leave,
        "force_push_join_leave": force_push_join_leave,
        "tag_filter": tag_filter,
        "delta": delta,
        "wildcards": wildcards,
        "occupancy": namespace.tells_occupancy(),
        "client_certificate": client_certificate,
        "allow_subscribe": word(*allow_subscribe),
        "allow_publish": word(*allow_publish),
        "allow_history": word(*allow_history),
        "allow_presence": word(*allow_presence),
    })
}

fn mode(mode: RecoveryMode) -> &'static str {
    match mode {
        RecoveryMode::Stream => "stream",
        RecoveryMode::Cache => "cache",
    }
}

fn word(access: Access) -> &'static str {
    match access {
        Access::Nobody => "nobody",
        Access::Subscribers => "subscribers",
        Access::Users => "users",
        Access::Anyone => "anyone",
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn keys(object: &Value) -> impl Iterator<Item = &String> {
    object.as_object().into_iter().flat_map(Map::keys)
}

/// Calls `differ` for each common entry with different values: its name, the value here, and there.
fn compare(here: &Value, there: &Value, mut differ: impl FnMut(&str, &Value, &Value)) {
    for (name, a) in here.as_object().into_iter().flatten() {
        if let Some(b) = there.get(name)
            && a != b
        {
            differ(name, a, b);
        }
    }
}

/// Names and digests of the plugins.
fn plugins_of(description: &Value) -> Vec<(&str, &str)> {
    let all = description["plugins"].as_array().into_iter().flatten();
    all.filter_map(|pair| Some((pair.get(0)?.as_str()?, pair.get(1)?.as_str()?))).collect()
}

fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::agreement::description::*;

    fn description(config: &str, plugins: &[(&str, &str)]) -> Description {
        let plugins: Vec<_> =
            plugins.iter().map(|(name, digest)| ((*name).into(), (*digest).into())).collect();
        let made = Description::of(&Config::parse(config, "test").unwrap(), &plugins);
        Description::read(made.to_string().as_bytes()).unwrap()
    }

    fn sentences(here: &Description, there: &Description) -> Vec<String> {
        here.differences(there).iter().map(|one| one.sentence.to_string()).collect()
    }

    #[test]
    fn every_rule_that_differs_is_named_with_both_values() {
        let here = description("[namespaces.chat]\nhistory_size = 10\npresence = true", &[]);
        let there = description(
            "limits.message_bytes_max = '2KiB'\n[namespaces.chat]\nhistory_size = 20\nhistory_ttl = '7s'\n[namespaces.news]",
            &[],
        );
        let sentences_there = sentences(&here, &there);
        for expected in [
            "limits.message_bytes_max: 2048 there, 65536 here",
            "namespaces.chat.history_size: 20 there, 10 here",
            "namespaces.chat.presence: false there, true here",
            "namespaces.news: only there",
        ] {
            assert!(sentences_there.iter().any(|one| one == expected), "{expected} in {sentences_there:?}");
        }
        assert!(
            sentences_there.iter().any(|one| one.starts_with("namespaces.chat.history_ttl: 7000 ms there")),
            "{sentences_there:?}"
        );
        assert_eq!(sentences(&here, &here), Vec::<String>::new());
    }

    #[test]
    fn plugins_are_compared_by_name_digest_and_order() {
        let here = description("", &[("auth", "0123456789abcdef"), ("router", "aa")]);
        let there = description("", &[("auth", "fedcba9876543210")]);
        let sentences_there = sentences(&here, &there);
        assert_eq!(
            sentences_there,
            ["plugin auth: fedcba987654 there, 0123456789ab here", "plugin router: none there, aa here"]
        );
        let set = description("", &[("auth", "0123456789abcdef+aa"), ("router", "aa")]);
        assert_eq!(sentences(&here, &set), ["plugin auth: other settings there"]);
        let turned = description("", &[("router", "aa"), ("auth", "0123456789abcdef")]);
        assert_eq!(sentences(&here, &turned), ["plugins: in another order there"]);
    }

    #[test]
    fn what_only_a_later_version_says_is_no_difference() {
        let here = description("[namespaces.chat]", &[]);
        let mut newer = here.0.clone();
        newer["rules"]["namespaces.chat"]["of_tomorrow"] = json!(7);
        newer["of_tomorrow"] = json!({});
        assert_eq!(sentences(&here, &Description(newer)), Vec::<String>::new());
    }

    #[test]
    fn a_gateway_raises_what_it_keeps_more_of_than_another() {
        let [small, large] = ["history_size = 5", "history_size = 10"]
            .map(|rules| description(&format!("[namespaces.chat]\n{rules}"), &[]));
        assert!(large.raises(&small) && !small.raises(&large) && !large.raises(&large));
        assert!(!large.raises(&description("", &[])), "it has no such channels");
        assert!(description("limits.publication_bytes_max = '512KiB'", &[]).raises(&small));
    }
}
