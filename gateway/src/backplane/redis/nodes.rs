//! Which gateways there are. Each writes its lease over and over and reads those of all others; whoever stops writing is
//! dead after a while, and whoever says goodbye is gone at once.

mod leases;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::sleep;

use self::leases::{Change, Leases};
use super::Shared;
use super::link::{Link, call};
use super::status::Cause;
use crate::backplane::Node;
use crate::telemetry::backplane::Trouble;

/// How often a lease is renewed and the others' are read.
const BEAT: Duration = Duration::from_millis(500);

/// How long a lease is believed that is not renewed. With a beat before and one after, a death is noticed within four
/// seconds.
const LEASE: Duration = Duration::from_secs(3);

/// How long leases are kept in Redis: gateways that come back after all of them had died learn who there was.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

const BEATING: &str = include_str!("nodes/beat.lua");
const BURYING: &str = include_str!("nodes/bury.lua");

/// This gateway among the others.
pub(super) struct Nodes {
    /// What is told of this gateway.
    name: Box<str>,
    started: u64,
    beats: AtomicU64,
    /// It has said goodbye, and writes no lease any more.
    gone: AtomicBool,
    leases: Mutex<Leases>,
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
        }
    }

    /// The others that are alive.
    pub(super) fn others(&self) -> Vec<Node> {
        self.leases().alive().cloned().collect()
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

/// Beats until the link fails.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>) -> Cause {
    loop {
        if let Err(cause) = beat(&shared, &link).await {
            return cause;
        }
        sleep(BEAT).await;
    }
}

/// Renews the lease and reads those of the others. Buries who has died.
pub(super) async fn beat(shared: &Shared, link: &Link) -> Result<(), Cause> {
    let Some(mut connection) = link.lanes.first().cloned() else { return Ok(()) };
    if shared.nodes.gone.load(Ordering::Acquire) {
        return Ok(());
    }
    let me = name(shared.node);
    let mut command = redis::cmd("EVAL");
    command.arg(BEATING).arg(1).arg(shared.keys.leases());
    command.arg(&me).arg(shared.nodes.lease()).arg(KEPT.as_millis() as u64);
    let reply = match call(&mut connection, &command, shared.config.timeout).await {
        Ok(reply) => reply,
        // Nobody's lease can be renewed then, and nobody is declared dead: who reads nothing judges nobody.
        Err(cause) if matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => return Ok(()),
        Err(cause) => return Err(cause),
    };
    let Some(listed) = listed(reply) else {
        shared.metrics.malformed();
        return Ok(());
    };
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
    Ok(())
}

/// Takes the lease of a dead gateway away, unless it has been renewed meanwhile.
async fn bury(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    node: &str,
    lease: &str,
) -> Result<(), Cause> {
    let mut command = redis::cmd("EVAL");
    command.arg(BURYING).arg(1).arg(shared.keys.leases()).arg(node).arg(lease);
    call(connection, &command, shared.config.timeout).await.map(drop)
}

/// Says goodbye: the others do not wait until the lease has run out.
pub(super) async fn leave(shared: &Shared, link: &Link) -> Result<(), Cause> {
    shared.nodes.gone.store(true, Ordering::Release);
    let Some(mut connection) = link.lanes.first().cloned() else { return Ok(()) };
    let mut command = redis::cmd("HDEL");
    command.arg(shared.keys.leases()).arg(name(shared.node));
    call(&mut connection, &command, shared.config.timeout).await.map(drop)
}

/// How a gateway is called in Redis, in the log and in the API.
pub(super) fn name(node: u64) -> String {
    format!("{node:016x}")
}

/// The answer to a beat: names and leases in turn.
fn listed(reply: Value) -> Option<Vec<(Box<str>, Box<str>)>> {
    let Value::Array(parts) = reply else { return None };
    let mut texts = parts.into_iter().map(|part| match part {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok().map(String::into_boxed_str),
        _ => None,
    });
    let mut listed = Vec::new();
    while let Some(name) = texts.next() {
        listed.push((name?, texts.next()??));
    }
    Some(listed)
}
