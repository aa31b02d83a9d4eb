//! Polls the servers of a Cluster for the slot map, because it changes.
//!
//! Servers may disagree for a while, a partitioned one for long. If two claim a slot, the one with the higher
//! configuration epoch has it: this is how the servers themselves resolve it (Redis Cluster Specification,
//! "Slots configuration propagation").

use std::collections::HashMap;
use std::time::Duration;

use redis::Value;
use tokio::time::sleep;

use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::format::slots::{self, SLOTS};
use crate::backplane::redis::topology::Topology;
use crate::backplane::redis::topology::poll::{self, PolledServer};
use crate::backplane::redis::topology::shard::{Assigned, Assignment, CLUSTER_SERVERS_MAX, Shard};
use crate::config::{self, RedisServer};
use crate::protocol::channel::Channel;
use crate::telemetry::backplane::Trouble;

/// Maximum number of servers that are polled, including replicas.
const ASKED_MAX: usize = 128;

/// Poll interval.
const ASKED: Duration = Duration::from_secs(1);

/// Poll interval while a server is away.
const AWAY: Duration = Duration::from_millis(200);

/// Pause after a moved slot was found: more are found meanwhile.
const MOVED: Duration = Duration::from_millis(20);

/// The merged answers of the servers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Map {
    /// Servers with slots, each once, with its highest epoch.
    masters: Vec<(RedisServer, u64)>,
    /// Index in `masters` of the owner of each slot.
    slots: HashMap<u16, usize>,
    /// All known servers, including replicas.
    servers: Vec<RedisServer>,
}

impl Map {
    /// Merges the answer of one server to `CLUSTER NODES`. `asked` is the address at which it was reached.
    /// Invalid lines are skipped.
    fn hear(&mut self, text: &str, asked: &RedisServer) {
        for line in text.lines() {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap_or_default();
            let (_, address, flags) = (word(), word(), word());
            let (_, _, _, epoch, _) = (word(), word(), word(), word(), word());
            let has = |flag: &str| flags.split(',').any(|one| one == flag);
            let Ok(epoch) = epoch.parse() else { continue };
            let Some(server) = server(address, asked, has("myself")) else { continue };
            if has("noaddr") || has("handshake") {
                continue;
            }
            if !self.servers.contains(&server) {
                self.servers.push(server.clone());
            }
            let claimed: Vec<_> = if has("master") { words.filter_map(range).collect() } else { Vec::new() };
            if !claimed.is_empty() {
                self.claim(server, epoch, claimed);
            }
        }
    }

    fn claim(&mut self, server: RedisServer, epoch: u64, claimed: Vec<(u16, u16)>) {
        let known = self.masters.iter().position(|(known, at)| (known, *at) == (&server, epoch));
        let index = known.unwrap_or_else(|| {
            self.masters.push((server, epoch));
            self.masters.len() - 1
        });
        for slot in claimed.into_iter().flat_map(|(first, last)| first..=last) {
            let assigned = self.slots.entry(slot).or_insert(index);
            if self.masters[*assigned].1 < epoch {
                *assigned = index;
            }
        }
    }

    /// The slots of each server.
    fn slots_by_server(&self) -> HashMap<&RedisServer, Vec<u16>> {
        let mut slots_by_server: HashMap<_, Vec<_>> = HashMap::new();
        for (slot, index) in &self.slots {
            slots_by_server.entry(&self.masters[*index].0).or_default().push(*slot);
        }
        slots_by_server
    }
}

/// Parses `HOST:PORT@BUS,NAME,...`. Uses the transport of the server that was asked; with TLS, the name is
/// used if there is one. A server that does not know its address yet has the address at which it was asked.
fn server(address: &str, asked: &RedisServer, itself: bool) -> Option<RedisServer> {
    let mut parts = address.split(',');
    let (host, port) = parts.next()?.split('@').next()?.rsplit_once(':')?;
    let name = parts.next().filter(|name| asked.tls && !name.is_empty() && !name.contains('='));
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match name.unwrap_or(host) {
        "" if itself => return Some(RedisServer { port, ..asked.clone() }),
        "" => return None,
        host => host.into(),
    };
    Some(RedisServer { host, port, ..asked.clone() })
}

/// Parses `7` or `7-9`. Slots in migration are in brackets, and still belong to their old server.
fn range(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some((first, last))
}

/// Polls for as long as the runtime lives, and assigns a server to every shard. When channels have moved to
/// another shard, `on_moved` gets the condition for them.
pub(crate) async fn run(
    config: &config::Redis,
    topology: &Topology,
    named: &[RedisServer],
    on_moved: impl Fn(&dyn Fn(&Channel) -> bool),
) {
    let mut polled_servers: HashMap<RedisServer, PolledServer> = HashMap::new();
    let mut known = named.to_vec();
    loop {
        let (map, cause) = ask(config, &mut polled_servers, &known).await;
        if map.slots.is_empty() {
            nobody(topology, cause);
            known.extend(named.iter().filter(|one| !known.contains(one)).cloned().collect::<Vec<_>>());
        } else {
            assignment(topology, &map, &on_moved);
            topology.mapped.send_replace(true);
            known = map.servers;
            known.truncate(ASKED_MAX);
        }
        let away = topology.shards.iter().any(Shard::is_away);
        tokio::select! {
            () = sleep(if away { AWAY } else { ASKED }) => (),
            () = topology.moved.notified() => sleep(MOVED).await,
        }
    }
}

/// The server of a channel, according to these servers.
pub(crate) async fn owner(
    config: &config::Redis,
    named: &[RedisServer],
    channel: &Channel,
) -> Result<RedisServer, Cause> {
    let (map, cause) = ask(config, &mut HashMap::new(), named).await;
    let owner = map.slots.get(&slots::slot_of(channel)).map(|index| map.masters[*index].0.clone());
    owner.ok_or_else(|| cause.unwrap_or_else(unserved))
}

fn unserved() -> Cause {
    Cause::new(Trouble::Unreachable, "no server of the cluster has slots")
}

/// Polls all known servers. Returns the reason if none answers.
async fn ask(
    config: &config::Redis,
    polled_servers: &mut HashMap<RedisServer, PolledServer>,
    known: &[RedisServer],
) -> (Map, Option<Cause>) {
    polled_servers.retain(|server, _| known.contains(server));
    for server in known {
        if !polled_servers.contains_key(server) {
            match PolledServer::new(config, server, &config.username, config.password.as_ref()) {
                Ok(polled) => polled_servers.insert(server.clone(), polled),
                Err(cause) => return (Map::default(), Some(cause)),
            };
        }
    }
    let mut command = redis::cmd("CLUSTER");
    command.arg("NODES");
    let most = |answers: &[(RedisServer, Result<_, Cause>)]| {
        answers.iter().filter(|(_, answer)| answer.is_ok()).count() > known.len() / 2
    };
    let each = polled_servers.iter_mut().map(|(server, polled)| (server.clone(), polled));
    let (mut map, mut cause) = (Map::default(), None);
    for answer in poll::ask(each, &command, config.timeout, most).await {
        match answer {
            (asked, Ok(Value::BulkString(text))) => map.hear(&String::from_utf8_lossy(&text), &asked),
            (asked, Ok(Value::VerbatimString { text, .. })) => map.hear(&text, &asked),
            (_, Ok(_)) => (),
            (asked, Err(why)) => {
                cause = Some(Cause { detail: format!("{asked}: {}", why.detail).into(), ..why });
            }
        }
    }
    (map, cause)
}

/// The slot map is unknown.
fn nobody(topology: &Topology, cause: Option<Cause>) {
    if *topology.mapped.borrow() {
        // The connections themselves find out what is wrong.
        return;
    }
    let cause = cause.unwrap_or_else(unserved);
    let detail =
        format!("no server of `redis.cluster` reports which server has which slot: {}", cause.detail);
    // Nothing was written, so the error is not reported as one of writing.
    let trouble = if cause.trouble == Trouble::Writes { Trouble::Unreachable } else { cause.trouble };
    topology.shards[0].status.set(Some(Cause::new(trouble, detail)));
}

/// Assigns a shard to every server with slots, and the shard of its server to every slot.
fn assignment(topology: &Topology, map: &Map, on_moved: &impl Fn(&dyn Fn(&Channel) -> bool)) {
    let (slot_map, shards) = (&topology.slot_map, &topology.shards);
    let slots_by_server = map.slots_by_server();
    let mut seated: Vec<Option<&RedisServer>> = shards
        .iter()
        .map(|shard| match &shard.assignment.borrow().assigned {
            Assigned::Server(server) => slots_by_server.get_key_value(server).map(|(server, _)| *server),
            _ => None,
        })
        .collect();
    let mut new: Vec<_> =
        slots_by_server.keys().filter(|server| !seated.contains(&Some(server))).copied().collect();
    new.sort_by_key(|server| (&server.host, server.port));
    for server in new {
        // A server that takes over slots gets the shard whose requests wait for these slots.
        let had = |shard_index: &usize| {
            slots_by_server[server]
                .iter()
                .filter(|slot| slot_map.shard_of_slot(**slot) == *shard_index)
                .count()
        };
        let free = (0..shards.len()).rev().filter(|shard_index| seated[*shard_index].is_none());
        match free.max_by_key(had) {
            Some(shard_index) => seated[shard_index] = Some(server),
            None => tracing::error!(
                %server, max = CLUSTER_SERVERS_MAX,
                "the cluster has more servers than a gateway connects to; the channels of this one cannot be reached"
            ),
        }
    }
    let mut moved = vec![false; usize::from(SLOTS)];
    for (shard_index, server) in seated.iter().enumerate() {
        let Some((server, at)) = server.zip(u8::try_from(shard_index).ok()) else { continue };
        for slot in &slots_by_server[server] {
            if slot_map.shard_of_slot(*slot) != shard_index {
                slot_map.assign(*slot, at);
                moved[usize::from(*slot)] = true;
            }
        }
    }
    if moved.contains(&true) {
        on_moved(&|channel| moved[usize::from(slots::slot_of(channel))]);
    }
    for (shard_index, (shard, server)) in shards.iter().zip(seated).enumerate() {
        let assigned = server.map_or(Assigned::Nobody, |server| Assigned::Server(server.clone()));
        let assignment =
            Assignment { is_shared: shard_index == slot_map.shared_shard() && server.is_some(), assigned };
        shard.assignment.send_if_modified(|known| {
            let changed = *known != assignment;
            if changed {
                shard.status.rename(server.map(ToString::to_string));
                *known = assignment;
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::topology::cluster::*;

    fn at(port: u16) -> RedisServer {
        RedisServer { tls: false, host: "10.0.0.5".into(), port, database: 0 }
    }

    fn node(port: u16, flags: &str, epoch: u64, slots: &str) -> String {
        format!("07c37df 10.0.0.5:{port}@1{port},name flags-are-next - 0 1426238317239 {epoch} connected {slots}\n")
            .replace("flags-are-next", flags)
    }

    fn map(answers: &[String]) -> Map {
        let mut map = Map::default();
        answers.iter().for_each(|answer| map.hear(answer, &at(1)));
        map
    }

    fn owner(map: &Map, slot: u16) -> Option<u16> {
        map.slots.get(&slot).map(|index| map.masters[*index].0.port)
    }

    #[test]
    fn the_claim_with_the_higher_epoch_counts_whoever_is_heard_first() {
        let stale = [node(1, "myself,master", 3, "0-9 12"), node(2, "master", 2, "10-11")].concat();
        let fresh = [node(1, "master", 3, "0-8 12"), node(2, "myself,master", 7, "9-11")].concat();
        for answers in [[stale.clone(), fresh.clone()], [fresh, stale]] {
            let map = map(&answers);
            let owners: Vec<_> = [0, 8, 9, 10, 12, 13].map(|slot| owner(&map, slot)).into();
            assert_eq!(owners, [Some(1), Some(1), Some(2), Some(2), Some(1), None]);
            assert_eq!(map.slots_by_server()[&at(2)].len(), 3);
        }
    }

    #[test]
    fn replicas_are_known_and_have_nothing() {
        let map =
            map(&[[node(1, "master", 1, "0-5 [5->-07c37df]"), node(2, "myself,slave", 1, "")].concat()]);
        assert_eq!(map.servers, [at(1), at(2)]);
        assert_eq!((map.slots.len(), map.masters.len()), (6, 1));
    }

    #[test]
    fn a_server_is_reached_by_its_name_only_with_tls() {
        let (plain, tls) = (at(1), RedisServer { tls: true, ..at(1) });
        let reached = |address, asked| server(address, asked, true).map(|server| server.to_string());
        assert_eq!(reached("10.0.0.6:7@17,redis.example", &plain).unwrap(), "10.0.0.6:7");
        assert_eq!(reached("10.0.0.6:7@17,redis.example", &tls).unwrap(), "redis.example:7");
        assert_eq!(reached("10.0.0.6:7@17,,shard-id=5", &tls).unwrap(), "10.0.0.6:7");
        assert_eq!(reached("::1:7@17", &plain).unwrap(), "[::1]:7");
        assert_eq!(reached(":7@17", &plain).unwrap(), "10.0.0.5:7", "it does not know its own address");
        assert_eq!(server(":7@17", &plain, false), None);
        assert_eq!(reached(":0@0", &plain), None, "nobody listens there");
    }

    #[test]
    fn what_is_no_line_is_left_out() {
        let foreign =
            ["", "a b c", "id 10.0.0.5:7@1 master - 0 0 x connected 1", "id x master - 0 0 1 connected 1"];
        let broken =
            [node(1, "master", 1, "5-4 16384 a -1 1-"), node(2, "handshake,master", 1, "1")].concat();
        for text in foreign.into_iter().chain([&*broken]) {
            assert_eq!(map(&[text.to_owned()]).slots.len(), 0, "{text}");
        }
    }
}
