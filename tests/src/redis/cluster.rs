//! A Redis Cluster of three masters with a replica each.

use std::net::SocketAddr;

use super::{AGREEMENT, Redis, Reply};
use crate::wait::eventually_within;

const SHARDS: usize = 3;
const SLOTS: u16 = 16_384;

/// Six processes: the first three began as masters, the replica of server `n` is server `n + 3`. A master
/// that is silent for two seconds is replaced.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Redis>,
    /// Of the servers, in their order.
    ids: Vec<String>,
}

impl Cluster {
    /// Starts it and waits until every slot is served and every replica has everything.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same, with lines of `redis.conf`.
    pub async fn start_with(settings: &str) -> Self {
        let mut servers = Vec::new();
        for _ in 0..2 * SHARDS {
            let bus = crate::port::free_address().port();
            // A replica counts as one when its master has told it anything: this often it does.
            let settings = format!(
                "cluster-enabled yes\ncluster-node-timeout 2000\nrepl-ping-replica-period 1\ncluster-port {bus}\nrepl-diskless-sync yes\n\
                 repl-diskless-sync-delay 0\ncluster-replica-validity-factor 0\n{settings}\n"
            );
            servers.push(Redis::with(&settings).start().await);
        }
        let mut ids = Vec::new();
        for (n, server) in servers.iter().enumerate() {
            ids.push(server.ask(&["CLUSTER", "MYID"]).await.text());
            // Different ones from the beginning: nothing has to be settled between them later.
            server.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).await;
        }
        let cluster = Self { servers, ids };
        cluster.join().await;
        cluster
    }

    /// Where the servers listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Redis::address).collect()
    }

    /// The servers.
    pub fn servers(&mut self) -> &mut [Redis] {
        &mut self.servers
    }

    /// The slot of a key.
    pub async fn slot(&self, key: &str) -> u16 {
        let slot = self.first_well().await.ask(&["CLUSTER", "KEYSLOT", key]).await.number();
        u16::try_from(slot).expect("a slot is less than 16384")
    }

    /// Which server serves a slot, as the first one that answers sees it. While a replica takes over, nobody
    /// does.
    pub async fn owner(&self, slot: u16) -> usize {
        let served = format!("a server for slot {slot}");
        eventually_within(AGREEMENT, served, async || self.owner_now(slot).await).await
    }

    async fn owner_now(&self, slot: u16) -> Option<usize> {
        let ranges = self.first_well().await.ask(&["CLUSTER", "SLOTS"]).await.list();
        for range in ranges {
            let range = range.list();
            if (range[0].number()..=range[1].number()).contains(&i64::from(slot)) {
                let port = range[2].clone().list()[1].number();
                return Some(self.at_port(port));
            }
        }
        None
    }

    /// Waits until another server than this one serves a slot, and the cluster takes writes.
    pub async fn promoted(&self, slot: u16, old: usize) -> usize {
        eventually_within(AGREEMENT, format!("another server for slot {slot}"), async || {
            let owner = self.owner(slot).await;
            let info = self.servers[owner].try_ask(&["CLUSTER", "INFO"]).await.ok()?;
            let well = matches!(&info, Reply::Text(info) if info.contains("cluster_state:ok"));
            (owner != old && well).then_some(owner)
        })
        .await
    }

    /// Lets the replica of a server take over while both are well.
    pub async fn failover(&self, slot: u16) -> usize {
        let old = self.owner(slot).await;
        self.servers[(old + SHARDS) % self.servers.len()].ask(&["CLUSTER", "FAILOVER"]).await;
        self.promoted(slot, old).await
    }

    /// Moves a slot with all its keys to another master.
    pub async fn reshard(&self, slot: u16, to: usize) {
        self.begin_move(slot, to).await;
        self.end_move(slot, to).await;
    }

    /// The first half of [`reshard`](Self::reshard): the slot is on its way, and its keys are at the new
    /// master.
    pub async fn begin_move(&self, slot: u16, to: usize) {
        let from = self.owner(slot).await;
        assert_ne!(from, to, "slot {slot} is there already");
        let (from_id, to_id) = (&self.ids[from], &self.ids[to]);
        let (from, to, slot) = (&self.servers[from], &self.servers[to], slot.to_string());
        to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", from_id]).await;
        from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", to_id]).await;
        let (host, port) = (to.address().ip().to_string(), to.address().port().to_string());
        loop {
            let keys = from.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await.list();
            if keys.is_empty() {
                break;
            }
            let keys: Vec<_> = keys.iter().map(Reply::text).collect();
            let mut migrate = vec!["MIGRATE", &host, &port, "", "0", "5000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            from.ask(&migrate).await;
        }
    }

    /// The second half: the new master has the slot.
    pub async fn end_move(&self, slot: u16, to: usize) {
        let (from, id, slot) = (self.owner(slot).await, &self.ids[to], slot.to_string());
        // The new owner first: it must not hear from the old one that nobody serves the slot.
        for server in [to, from].into_iter().chain(0..SHARDS) {
            let _ = self.servers[server].try_ask(&["CLUSTER", "SETSLOT", &slot, "NODE", id]).await;
        }
    }

    /// Waits until every server is well, and every master has a replica that could take over.
    pub async fn whole(&self) {
        self.all_say("cluster_state:ok").await;
        eventually_within(AGREEMENT, "a replica for every master", async || {
            let mut followed = 0;
            for server in &self.servers {
                let info = server.info("replication").await;
                let role = info.get("role").map_or("", String::as_str);
                let up = info.get("master_link_status").is_some_and(|link| link == "up");
                followed += usize::from(role == "slave" && up);
            }
            let ranges = self.first_well().await.ask(&["CLUSTER", "SLOTS"]).await.list();
            let replicated = ranges.into_iter().all(|range| range.list().len() == 4);
            (followed == SHARDS && replicated).then_some(())
        })
        .await;
    }

    /// Where a server listens.
    pub fn address(&self, server: usize) -> SocketAddr {
        self.servers[server].address()
    }

    /// Asks one server.
    pub async fn ask(&self, server: usize, command: &[&str]) -> Reply {
        self.servers[server].ask(command).await
    }

    fn at_port(&self, port: i64) -> usize {
        let place = self.servers.iter().position(|server| i64::from(server.address().port()) == port);
        place.expect("the cluster names one of its servers")
    }

    async fn first_well(&self) -> &Redis {
        for server in &self.servers {
            if server.answers().await {
                return server;
            }
        }
        panic!("no server of the cluster answers")
    }

    async fn join(&self) {
        let (first, others) = self.servers.split_first().expect("there are six");
        let (host, port) = (first.address().ip().to_string(), first.address().port().to_string());
        let bus = first.ask(&["CONFIG", "GET", "cluster-port"]).await.list()[1].text();
        for server in others {
            server.ask(&["CLUSTER", "MEET", &host, &port, &bus]).await;
        }
        let share = SLOTS / SHARDS as u16;
        for (n, master) in self.servers[..SHARDS].iter().enumerate() {
            let begin = n as u16 * share;
            let end = if n + 1 == SHARDS { SLOTS - 1 } else { begin + share - 1 };
            master.ask(&["CLUSTER", "ADDSLOTSRANGE", &begin.to_string(), &end.to_string()]).await;
        }
        self.all_say("cluster_known_nodes:6").await;
        for (n, replica) in self.servers[SHARDS..].iter().enumerate() {
            eventually_within(AGREEMENT, "a replica to know its master", async || {
                let reply = replica.try_ask(&["CLUSTER", "REPLICATE", &self.ids[n]]).await;
                reply.is_ok_and(|reply| !matches!(reply, Reply::Error(_))).then_some(())
            })
            .await;
        }
        for replica in &self.servers[SHARDS..] {
            replica.in_sync().await;
        }
        self.all_say("cluster_state:ok").await;
        // What a client is told has to name the replicas too.
        for server in &self.servers {
            eventually_within(AGREEMENT, "a server to know every replica", async || {
                let ranges = server.ask(&["CLUSTER", "SLOTS"]).await.list();
                let complete =
                    ranges.len() == SHARDS && ranges.into_iter().all(|range| range.list().len() == 4);
                complete.then_some(())
            })
            .await;
        }
    }

    async fn all_say(&self, line: &str) {
        for server in &self.servers {
            eventually_within(AGREEMENT, format!("every server to say {line}"), async || {
                server.ask(&["CLUSTER", "INFO"]).await.text().contains(line).then_some(())
            })
            .await;
        }
    }
}
