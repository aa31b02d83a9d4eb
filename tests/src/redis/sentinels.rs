//! A master with two replicas, and three Sentinels that watch over them.

use std::net::SocketAddr;

use super::{AGREEMENT, Redis, Reply, Role, Setup};
use crate::wait::eventually_within;

/// What the Sentinels call the group of servers.
const NAME: &str = "main";
const REPLICAS: usize = 2;
const SENTINELS: usize = 3;

/// Six processes. A master that is silent for a second is replaced.
#[derive(Debug)]
pub struct Sentinels {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl Sentinels {
    /// Starts them and waits until both replicas have everything and all Sentinels know each other.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same, with lines of `redis.conf` for the master and the replicas.
    pub async fn start_with(settings: &str) -> Self {
        let settings = format!("repl-diskless-sync yes\nrepl-diskless-sync-delay 0\n{settings}\n");
        let master = Redis::with(&settings).start().await;
        let of = format!("{} {}", master.address.ip(), master.address.port());
        let mut servers = vec![master];
        for _ in 0..REPLICAS {
            servers.push(Redis::with(&format!("{settings}replicaof {of}\n")).start().await);
        }
        for replica in &servers[1..] {
            replica.in_sync().await;
        }
        let settings = format!(
            "sentinel monitor {NAME} {of} 2\nsentinel down-after-milliseconds {NAME} 1000\n\
             sentinel failover-timeout {NAME} 5000\nsentinel parallel-syncs {NAME} {REPLICAS}\n"
        );
        let mut sentinels = Vec::new();
        for _ in 0..SENTINELS {
            let setup =
                Setup { settings: settings.clone(), role: Role::Sentinel, password: None, tls: false };
            sentinels.push(setup.start().await);
        }
        let group = Self { servers, sentinels };
        group.know_each_other().await;
        group
    }

    /// The name of the group.
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// Where the Sentinels listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(Redis::address).collect()
    }

    /// The servers: the first one began as the master.
    pub fn servers(&mut self) -> &mut [Redis] {
        &mut self.servers
    }

    /// The Sentinels.
    pub fn sentinels(&mut self) -> &mut [Redis] {
        &mut self.sentinels
    }

    /// Which of the servers most Sentinels take for the master.
    pub async fn master(&self) -> usize {
        let mut votes = vec![0; self.servers.len()];
        for sentinel in &self.sentinels {
            let asked = sentinel.try_ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await;
            let Ok(Reply::List(pair)) = asked else { continue };
            let port = pair[1].text();
            let server = self.servers.iter().position(|server| server.address.port().to_string() == port);
            votes[server.expect("a Sentinel names one of the servers")] += 1;
        }
        (0..votes.len()).max_by_key(|server| votes[*server]).expect("there are servers")
    }

    /// Waits until another server than this one is the master, and takes writes.
    pub async fn promoted(&self, old: usize) -> usize {
        eventually_within(AGREEMENT, "another master", async || {
            let master = self.master().await;
            let role = self.servers[master].try_ask(&["ROLE"]).await.ok()?;
            (master != old && matches!(&role, Reply::List(role) if role[0].text() == "master"))
                .then_some(master)
        })
        .await
    }

    /// Asks for another master while this one is well.
    pub async fn failover(&self) -> usize {
        let old = self.master().await;
        self.sentinels[0].ask(&["SENTINEL", "FAILOVER", NAME]).await;
        self.promoted(old).await
    }

    /// The same, as soon as the Sentinels are done with what they did before.
    pub async fn failover_when_possible(&self) -> usize {
        let old = self.master().await;
        eventually_within(AGREEMENT, "a failover that is not refused", async || {
            let asked = self.sentinels[0].try_ask(&["SENTINEL", "FAILOVER", NAME]).await;
            (!matches!(asked, Ok(Reply::Error(_)) | Err(_))).then_some(())
        })
        .await;
        self.promoted(old).await
    }

    /// Waits until every other server follows the master, and has all that it has.
    pub async fn settled(&self) {
        let master = self.master().await;
        eventually_within(AGREEMENT, "replicas of the new master", async || {
            let info = self.servers[master].info("replication").await;
            let in_sync = (0..REPLICAS).all(|replica| {
                info.get(&format!("slave{replica}")).is_some_and(|replica| replica.contains("state=online"))
            });
            in_sync.then_some(())
        })
        .await;
    }

    async fn know_each_other(&self) {
        for sentinel in &self.sentinels {
            eventually_within(AGREEMENT, "a Sentinel to know all others", async || {
                let known = fields(&sentinel.ask(&["SENTINEL", "MASTER", NAME]).await.list());
                let is = |key: &str, count: usize| known.contains(&(key.to_owned(), count.to_string()));
                (is("num-slaves", REPLICAS) && is("num-other-sentinels", SENTINELS - 1)).then_some(())
            })
            .await;
        }
    }
}

fn fields(flat: &[Reply]) -> Vec<(String, String)> {
    flat.chunks_exact(2).map(|pair| (pair[0].text(), pair[1].text())).collect()
}
