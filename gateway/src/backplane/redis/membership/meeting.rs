//! Every gateway registers at each server that it uses. There the gateways detect that they divide channels
//! among their servers differently, and that one of them still published at a replaced server after others
//! had left it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redis::Value;
use serde_json::{Value as Json, json};

use crate::backplane::redis::connection::client::call;
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::format::{keys, wire};
use crate::backplane::redis::topology::Topology;
use crate::config::RedisTopology;
use crate::telemetry::backplane::Trouble;

const MEETING: &str = include_str!("../lua/meeting.lua");

/// How long an entry is valid that is not renewed.
const LIFE: Duration = Duration::from_secs(3);

/// Number of consecutive times that two gateways must see different servers under one name before it counts:
/// this covers the time they take to notice a replaced server.
const PATIENCE: u32 = 10;

/// A gateway's description of its servers.
struct Said {
    wire: String,
    name: String,
    /// Name of each server, with its replication id if known. Empty if there is only one server.
    servers: BTreeMap<String, String>,
    /// Whether the gateway uses them, rather than only checking.
    serves: bool,
}

impl Said {
    fn to_text(&self) -> String {
        let Self { wire, name, servers, serves } = self;
        json!({"wire": wire, "name": name, "servers": servers, "serves": serves}).to_string()
    }

    /// Decodes a description. A missing field counts as equal to that of this gateway.
    fn read(bytes: &[u8], here: &Self) -> Option<Self> {
        let said: Json = serde_json::from_slice(bytes).ok()?;
        let text = |key: &str, here: &str| said[key].as_str().unwrap_or(here).to_owned();
        let servers = said["servers"].as_object().map_or_else(
            || here.servers.clone(),
            |all| {
                all.iter().map(|(name, id)| (name.clone(), id.as_str().unwrap_or_default().into())).collect()
            },
        );
        let serves = said["serves"].as_bool().unwrap_or(true);
        Some(Self { wire: text("wire", &here.wire), name: text("name", "?"), servers, serves })
    }

    /// Reason why the two cannot serve together.
    fn conflict(&self, other: &Self) -> Option<Conflict> {
        if self.wire != other.wire {
            let (there, here) = (&other.wire, &self.wire);
            return Some(Conflict::certain(format!(
                "it writes messages of version {there}, this one of {here}"
            )));
        }
        let names = |of: &Self| match of.servers.len() {
            0 => "one server".to_owned(),
            _ => of.servers.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        };
        if self.servers.keys().ne(other.servers.keys()) {
            let (there, here) = (names(other), names(self));
            return Some(Conflict::certain(format!(
                "it divides channels among {there}, this one among {here}: `redis.urls` has to name the same servers in the \
                 same words at all gateways"
            )));
        }
        let differs = self.servers.iter().find(|(name, id)| {
            let there = &other.servers[*name];
            !id.is_empty() && !there.is_empty() && there != *id
        });
        differs.map(|(name, id)| Conflict {
            sentence: format!(
                "what `redis.urls` calls {name} is another server there ({}) than here ({id})",
                other.servers[name]
            ),
            certain: false,
        })
    }
}

struct Conflict {
    sentence: String,
    /// False if a recently replaced server would explain it.
    certain: bool,
}

impl Conflict {
    fn certain(sentence: String) -> Self {
        Self { sentence, certain: true }
    }
}

/// When the gateway registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// The connection is new and not used yet.
    Coming,
    /// The connection is in use.
    Staying,
    /// A gateway has died that may have published at the previous server.
    Parting,
}

/// Registers before a connection is used, and compares with the other gateways. `Err` if this gateway must
/// not use the server, or cannot register.
pub(crate) async fn begin(
    context: &Context,
    topology: &Topology,
    server: &ServerConnection,
) -> Result<(), Cause> {
    meet(context, topology, server, Occasion::Coming).await?;
    let shard = &topology.shards[server.shard];
    let before = shard.comes_to(&server.replication_id);
    if before.is_some() && topology.slot_map.are_moving() {
        // A Cluster does not announce that a server was replaced: this server has the slots now, and may lack
        // keys.
        shard.replaced(Some(context.clock.now().at));
    }
    Ok(())
}

/// Renews the registration while a connection is in use.
pub(crate) async fn go_on(
    context: &Context,
    topology: &Topology,
    server: &ServerConnection,
) -> Result<(), Cause> {
    meet(context, topology, server, Occasion::Staying).await
}

/// A gateway has died that was never seen at this server: its last publications are treated as made at the
/// previous server just now.
pub(crate) async fn part(
    context: &Context,
    topology: &Topology,
    server: &ServerConnection,
) -> Result<(), Cause> {
    meet(context, topology, server, Occasion::Parting).await
}

async fn meet(
    context: &Context,
    topology: &Topology,
    server: &ServerConnection,
    occasion: Occasion,
) -> Result<(), Cause> {
    // A Cluster ensures that a replaced server takes no more writes, and assigns the slots.
    let is_cluster = topology.slot_map.are_moving();
    if is_cluster && !server.is_shared {
        return Ok(());
    }
    let shard = &topology.shards[server.shard];
    let Some(mut connection) = server.connections.first().cloned() else { return Ok(()) };
    let before = shard.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let comes =
        occasion == Occasion::Coming && !before.is_empty() && before != server.replication_id && !is_cluster;
    let at = context.clock.now().at;
    let age = match occasion {
        Occasion::Coming if comes => {
            shard.published_at().map(|published| at.saturating_sub(published).as_millis().to_string())
        }
        Occasion::Parting => Some("0".to_owned()),
        Occasion::Coming | Occasion::Staying => None,
    };
    let elsewhere = topology.conflict(Some(server.shard));
    let said = Said {
        wire: char::from(wire::VERSION).to_string(),
        name: context.name.to_string(),
        servers: servers(context, topology, server),
        serves: occasion != Occasion::Coming && elsewhere.is_none(),
    };
    let me = context.node_name();
    let mut command = redis::cmd("EVAL");
    command
        .arg(MEETING)
        .arg(1)
        .arg(context.keys.servers())
        .arg(&me)
        .arg(&*server.replication_id)
        .arg(said.to_text());
    command.arg(LIFE.as_millis() as u64).arg(age.unwrap_or_default()).arg(u8::from(comes));
    command.arg(keys::NODE_KEPT.as_millis() as u64);
    let reply = match call(&mut connection, &command, context.config.timeout).await {
        Ok(reply) => reply,
        // The health check reports it, and the next one tries again.
        Err(cause) if occasion == Occasion::Staying && cause.is_of_writing() => return Ok(()),
        // The registration carries a report that must not be lost.
        Err(cause) => return Err(cause),
    };
    let Some(met) = Met::read(reply) else {
        context.metrics.malformed();
        return match occasion {
            Occasion::Staying => Ok(()),
            Occasion::Coming | Occasion::Parting => {
                Err(Cause::new(Trouble::Silent, "it does not report which gateways use it"))
            }
        };
    };
    if !is_cluster {
        shard.replaced(met.replaced.map(|ago| at.saturating_sub(ago)));
        if shard.since.swap(met.since, Ordering::AcqRel) < met.since && occasion != Occasion::Coming {
            tracing::info!(
                server = &*server.replication_id,
                "a gateway came late from a replaced server; streams begin anew and their subscribers are notified"
            );
            shard.recheck.notify_one();
        }
    }
    let serves = occasion != Occasion::Coming;
    let mut found = None;
    for (node, came, other) in &met.others {
        let Some(other) = Said::read(other, &said) else { continue };
        // Of two gateways in conflict, the one that came first stays.
        let stays = serves && (met.came, &*me) < (*came, &**node);
        if let Some(conflict) = said.conflict(&other).filter(|_| other.serves) {
            found = Some((conflict, other.name, stays));
            if !stays {
                break;
            }
        }
    }
    let times = match &found {
        Some(_) => shard.conflicts.fetch_add(1, Ordering::Relaxed) + 1,
        None => {
            shard.conflicts.store(0, Ordering::Relaxed);
            0
        }
    };
    let yields = found.filter(|(conflict, _, stays)| {
        !stays && (conflict.certain || times >= PATIENCE || !serves && !topology.has_served())
    });
    let conflict = yields.map(|(conflict, name, _)| -> Arc<str> {
        format!("gateway {name} uses this redis otherwise: {}; channels are not served", conflict.sentence)
            .into()
    });
    *shard.conflict.lock().unwrap_or_else(PoisonError::into_inner) = conflict.clone();
    match conflict.or(elsewhere) {
        Some(sentence) => Err(Cause::new(Trouble::Differs, &*sentence)),
        None => Ok(()),
    }
}

/// Names of this gateway's servers, with their replication ids.
fn servers(context: &Context, topology: &Topology, server: &ServerConnection) -> BTreeMap<String, String> {
    let RedisTopology::Servers(servers) = &context.config.topology else { return BTreeMap::new() };
    if servers.len() < 2 {
        return BTreeMap::new();
    }
    let id = |shard_index: usize| {
        if shard_index == server.shard {
            return server.replication_id.to_string();
        }
        let server = topology.shards[shard_index].connection.borrow();
        server.as_ref().map(|server| server.replication_id.to_string()).unwrap_or_default()
    };
    servers
        .iter()
        .enumerate()
        .map(|(shard_index, at)| (format!("{at}/{}", at.database), id(shard_index)))
        .collect()
}

/// The reply of a server.
struct Met {
    /// Time since which its streams count; 0 for no limit.
    since: u64,
    /// Time since it replaced another server, or since a gateway came late.
    replaced: Option<Duration>,
    /// When this gateway came, by the clock of the server.
    came: u64,
    /// The other gateways: name, when they came, and their descriptions.
    others: Vec<(String, u64, Vec<u8>)>,
}

impl Met {
    fn read(reply: Value) -> Option<Self> {
        let Value::Array(parts) = reply else { return None };
        let [since, replaced, came, Value::Array(listed)] = <[Value; 4]>::try_from(parts).ok()? else {
            return None;
        };
        let bytes = |value| match value {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        };
        let text = |value| String::from_utf8(bytes(value)?).ok();
        let mut others = Vec::new();
        for other in listed {
            let Value::Array(parts) = other else { return None };
            let [node, came, said] = <[Value; 3]>::try_from(parts).ok()?;
            others.push((text(node)?, text(came)?.parse().ok()?, bytes(said)?));
        }
        Some(Self {
            since: text(since)?.parse().ok()?,
            replaced: text(replaced)?.parse().ok().map(Duration::from_millis),
            came: text(came)?.parse().ok()?,
            others,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::membership::meeting::*;

    fn said(servers: &[(&str, &str)]) -> Said {
        let servers = servers.iter().map(|(name, id)| ((*name).to_owned(), (*id).to_owned())).collect();
        Said { wire: "2".to_owned(), name: "here".to_owned(), servers, serves: true }
    }

    fn conflict(here: &[(&str, &str)], there: &[(&str, &str)]) -> Option<(bool, String)> {
        let here = said(here);
        let there = Said::read(said(there).to_text().as_bytes(), &here).unwrap();
        here.conflict(&there).map(|conflict| (conflict.certain, conflict.sentence))
    }

    #[test]
    fn servers_have_to_be_named_in_the_same_words_and_be_the_same() {
        let both = [("a:1/0", "x"), ("b:1/0", "y")];
        assert_eq!(conflict(&both, &both), None);
        assert_eq!(conflict(&both, &[("a:1/0", "x"), ("b:1/0", "")]), None, "it is away there");
        let (certain, sentence) = conflict(&both, &[("a:1/0", "x"), ("localhost:1/0", "y")]).unwrap();
        assert!(
            certain && sentence.contains("among a:1/0, localhost:1/0, this one among a:1/0, b:1/0"),
            "{sentence}"
        );
        let (certain, sentence) = conflict(&both, &[("a:1/0", "x"), ("b:1/0", "z")]).unwrap();
        assert!(
            !certain && sentence.contains("b:1/0 is another server there (z) than here (y)"),
            "{sentence}"
        );
    }

    #[test]
    fn an_only_server_may_be_called_anything() {
        assert_eq!(conflict(&[], &[]), None);
        assert!(
            conflict(&[], &[("a:1/0", "x"), ("b:1/0", "y")]).unwrap().1.contains("this one among one server")
        );
    }

    #[test]
    fn what_a_later_version_says_is_skipped_and_what_it_leaves_out_is_no_difference() {
        let here = said(&[("a:1/0", "x"), ("b:1/0", "y")]);
        let newer = Said::read(br#"{"of_tomorrow":1,"name":"n"}"#, &here).unwrap();
        assert!(here.conflict(&newer).is_none() && newer.serves);
        let other = Said::read(br#"{"wire":"3"}"#, &here).unwrap();
        assert!(here.conflict(&other).unwrap().sentence.contains("version 3"));
    }
}
