//! Which gateways there are. Each writes its lease over and over and reads those of all others; whoever stops writing is
//! dead after a while, and whoever says goodbye is gone at once.

mod leases;
mod estate;
mod members;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

pub(super) use self::estate::settle;
use self::leases::{Change, Leases};
use super::link::{Link, call};
use super::status::Cause;
use super::{Shared, clients};
use crate::backplane::Node;
use crate::telemetry::backplane::Trouble;

/// How often a lease is renewed and the others' are read.
const BEAT: Duration = Duration::from_millis(500);

/// How long a lease is believed that is not renewed. With a beat before and one after, a death is noticed within four
/// seconds.
const LEASE: Duration = Duration::from_secs(3);

/// How long leases are kept in Redis: gateways that come back after all of them had died learn who there was.
pub(super) const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

const BEATING: &str = include_str!("nodes/beat.lua");
const BURYING: &str = include_str!("nodes/bury.lua");
const LEAVING: &str = include_str!("nodes/leave.lua");

/// How long goodbye waits for what is being written.
const WRITTEN: Duration = Duration::from_secs(1);

/// This gateway among the others.
pub(super) struct Nodes {
    /// What is told of this gateway.
    name: Box<str>,
    started: u64,
    beats: AtomicU64,
    /// It has said goodbye, and writes no lease any more.
    gone: AtomicBool,
    leases: Mutex<Leases>,
    /// What is written of this gateway may not be what Redis has.
    anew: AtomicBool,
    /// The replication id of the server that was written to.
    server: Mutex<Box<str>>,
    /// Who has gone and left something behind.
    dead: Mutex<Vec<Box<str>>>,
    buried: Notify,
}

impl Nodes {
    /// `started` is Unix time in milliseconds.
    pub(super) fn new(name: Box<str>, started: u64) -> Self {
        Self {
            name,
            started,
            beats: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            leases: Mutex::new(Leases::new(LEASE)),
            anew: AtomicBool::new(false),
            server: Mutex::default(),
            dead: Mutex::default(),
            buried: Notify::new(),
        }
    }

    /// The others that are alive, as far as it is known.
    pub(super) fn others(&self) -> Vec<Node> {
        self.leases().alive().cloned().collect()
    }

    /// The same; `None` if leases were never read: then nothing is known of who there is.
    pub(super) fn known_others(&self) -> Option<Vec<Node>> {
        let leases = self.leases();
        leases.have_been_read().then(|| leases.alive().cloned().collect())
    }

    /// While home is away nobody remembers what would have to be taken away there: on return everything is written anew.
    pub(super) fn sweep(&self, shared: &Shared) {
        shared.presence.sweep_list();
        shared.clients.write_anew();
        self.anew.store(true, Ordering::Release);
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands in Redis of this gateway. Different at every beat: that is what the others look at.
    fn lease(&self) -> String {
        let beat = self.beats.fetch_add(1, Ordering::Relaxed);
        format!("{beat} {} {} {}", self.started, env!("CARGO_PKG_VERSION"), self.name)
    }
}

/// The first beat over a new link.
pub(super) async fn begin(shared: &Shared, link: &Link) -> Result<(), Cause> {
    {
        let mut server = shared.nodes.server.lock().unwrap_or_else(PoisonError::into_inner);
        if *server != link.server {
            // A replica that was promoted may not have received what its master had confirmed.
            shared.nodes.anew.store(true, Ordering::Release);
            server.clone_from(&link.server);
        }
    }
    beat(shared, link).await
}

/// Beats until the link fails.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>) -> Cause {
    loop {
        if let Err(cause) = beat(&shared, &link).await {
            return cause;
        }
        sleep(BEAT).await;
    }
}

/// Writes everything anew that stands at home of this gateway.
async fn write_anew(shared: &Shared, link: &Link) -> Result<(), Cause> {
    shared.presence.list_anew();
    clients::write_anew(shared, link).await
}

/// Renews the lease and reads those of the others. Buries who has died.
async fn beat(shared: &Shared, link: &Link) -> Result<(), Cause> {
    let Some(mut connection) = link.lanes.first().cloned() else { return Ok(()) };
    if shared.nodes.gone.load(Ordering::Acquire) {
        return Ok(());
    }
    let me = name(shared.node);
    let mut command = redis::cmd("EVAL");
    command.arg(BEATING).arg(2).arg(shared.keys.leases()).arg(shared.keys.dead());
    command.arg(&me).arg(shared.nodes.lease()).arg(KEPT.as_millis() as u64);
    let reply = match call(&mut connection, &command, shared.config.timeout).await {
        Ok(reply) => reply,
        // Nobody's lease can be renewed then, and nobody is declared dead: who reads nothing judges nobody.
        Err(cause) if matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => return Ok(()),
        Err(cause) => return Err(cause),
    };
    let Some((known, listed, buried)) = heard(reply) else {
        shared.metrics.malformed();
        return Ok(());
    };
    // Whoever finds its own lease gone was taken for dead, or home has lost its data.
    if !known {
        shared.nodes.anew.store(true, Ordering::Release);
        shared.presence.write_anew_at(|_| true);
    }
    if shared.nodes.anew.swap(false, Ordering::AcqRel)
        && let Err(cause) = write_anew(shared, link).await
    {
        shared.nodes.anew.store(true, Ordering::Release);
        return Err(cause);
    }
    let at = shared.clock.now().at;
    let (changes, dead, alive) = {
        let mut leases = shared.nodes.leases();
        let changes = leases.hear(at, &me, listed);
        (changes, leases.dead(), leases.alive().count())
    };
    shared.metrics.nodes(alive as u64 + 1);
    for change in changes {
        match change {
            Change::Came(node) => shared.metrics.node_came(&node),
            Change::Left(node) => shared.metrics.node_left(&node),
            Change::Died(node) => shared.metrics.node_died(&node),
        }
    }
    for (node, lease) in dead {
        bury(shared, &mut connection, &node, &lease).await?;
    }
    if !buried.is_empty() {
        *shared.nodes.dead.lock().unwrap_or_else(PoisonError::into_inner) = buried;
        shared.nodes.buried.notify_one();
    }
    Ok(())
}

/// Takes the lease of a dead gateway away, unless it has been renewed meanwhile. What it has left is somebody's to settle.
async fn bury(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    node: &str,
    lease: &str,
) -> Result<(), Cause> {
    let mut command = redis::cmd("EVAL");
    command.arg(BURYING).arg(2).arg(shared.keys.leases()).arg(shared.keys.dead()).arg(node).arg(lease);
    command.arg(KEPT.as_millis() as u64);
    match call(connection, &command, shared.config.timeout).await {
        Err(cause) if !matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => Err(cause),
        // Tried again with the next beat.
        _ => Ok(()),
    }
}

/// Says goodbye: the others do not wait until the lease has run out.
pub(super) async fn leave(shared: &Shared, link: &Link) -> Result<(), Cause> {
    shared.nodes.gone.store(true, Ordering::Release);
    let written = async {
        while !shared.presence.is_empty() || !shared.clients.is_written() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    // What is not written by then another gateway settles.
    let _ = timeout(WRITTEN, written).await;
    let Some(mut connection) = link.lanes.first().cloned() else { return Ok(()) };
    let me = name(shared.node);
    let mut command = redis::cmd("EVAL");
    command.arg(LEAVING).arg(4).arg(shared.keys.leases()).arg(shared.keys.dead());
    command.arg(shared.keys.presence_of(&me)).arg(shared.keys.clients_of(&me));
    command.arg(&me).arg(KEPT.as_millis() as u64);
    call(&mut connection, &command, shared.config.timeout).await.map(drop)
}

/// How a gateway is called in Redis, in the log and in the API.
pub(super) fn name(node: u64) -> String {
    format!("{node:016x}")
}

/// Names and leases.
type Listed = Vec<(Box<str>, Box<str>)>;

/// The answer to a beat: whether this gateway was listed, all leases, and who has left something behind.
fn heard(reply: Value) -> Option<(bool, Listed, Vec<Box<str>>)> {
    let Value::Array(parts) = reply else { return None };
    let [Value::Int(known), Value::Array(leases), Value::Array(dead)] = <[Value; 3]>::try_from(parts).ok()?
    else {
        return None;
    };
    let text = |part| match part {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok().map(String::into_boxed_str),
        _ => None,
    };
    let mut texts = leases.into_iter().map(text);
    let mut listed = Vec::new();
    while let Some(name) = texts.next() {
        listed.push((name?, texts.next()??));
    }
    let dead: Option<Vec<_>> = dead.into_iter().map(text).collect();
    Some((known == 1, listed, dead?))
}
