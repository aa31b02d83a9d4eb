//! `Nodes` tracks the gateways. Each periodically writes its lease and reads those of all others. A gateway
//! that stops writing is dead after a while; one that removes its lease is gone at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::backplane::Node;
use crate::backplane::redis::agreement::{Agreement, Said};
use crate::backplane::redis::connection::server_connection::{ServerConnection, call};
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::membership::leases::{Change, Lease, Leases};
pub(crate) use crate::backplane::redis::membership::takeover::take_over_dead_nodes;
use crate::backplane::redis::{Shared, clients, format::keys, format::wire, membership::meeting};

/// Interval at which a lease is renewed and the others are read.
const BEAT: Duration = Duration::from_millis(500);

/// How long a lease is valid without renewal. With a beat before and one after, a death is noticed within
/// four seconds.
const LEASE: Duration = Duration::from_secs(3);

/// Maximum time that a gateway waits until the others apply its rules. A gateway that has not confirmed by
/// then is dead, or never will.
const AGREED: Duration = Duration::from_secs(4);

/// How often it checks this, and how often the others check whether requests under the old rules are still
/// under way.
const AGREEING: Duration = Duration::from_millis(20);

const BEATING: &str = include_str!("../lua/beat.lua");
const BURYING: &str = include_str!("../lua/mark_dead.lua");
const LEAVING: &str = include_str!("../lua/leave.lua");

/// Maximum time that [`leave`] waits for pending writes.
const WRITTEN: Duration = Duration::from_secs(1);

/// This gateway among the others.
pub(crate) struct Nodes {
    started: u64,
    beats: AtomicU64,
    /// Whether this gateway has left and writes no lease any more.
    gone: AtomicBool,
    leases: Mutex<Leases>,
    /// Whether Redis may lack what this gateway has written.
    anew: AtomicBool,
    /// Replication id of the server that was written to.
    server: Mutex<Box<str>>,
    /// Gateways that have gone and whose data must be taken over.
    pub(super) dead: Mutex<Vec<Box<str>>>,
    pub(super) buried: Notify,
    /// Notified when another gateway has changed something to read at once.
    looked: Notify,
}

impl Nodes {
    /// `started` is Unix time in milliseconds.
    pub(crate) fn new(started: u64) -> Self {
        Self {
            started,
            beats: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            leases: Mutex::new(Leases::new(LEASE)),
            anew: AtomicBool::new(false),
            server: Mutex::default(),
            dead: Mutex::default(),
            buried: Notify::new(),
            looked: Notify::new(),
        }
    }

    /// The other gateways that are alive, as far as this one knows.
    pub(crate) fn others(&self) -> Vec<Node> {
        self.leases().alive().cloned().collect()
    }

    /// Triggers the next beat at once.
    pub(crate) fn look(&self) {
        self.looked.notify_one();
    }

    /// Like [`others`](Self::others); `None` if the leases were never read.
    pub(crate) fn known_others(&self) -> Option<Vec<Node>> {
        let leases = self.leases();
        leases.have_been_read().then(|| leases.alive().cloned().collect())
    }

    /// Drops pending removals while the shared server is away: when it returns, everything is written again.
    pub(crate) fn sweep(&self, shared: &Shared) {
        shared.presence.sweep_list();
        shared.clients.write_anew();
        self.anew.store(true, Ordering::Release);
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes the lease of this gateway.
    fn lease(&self, name: &str, uptime: Duration, seen: u64) -> String {
        let beat = self.beats.fetch_add(1, Ordering::Relaxed);
        let uptime = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        Lease { beat, started: self.started, uptime, name, seen }.to_text()
    }
}

/// The first beat over a new connection. Returns when the others apply the rules of this gateway, if these
/// are stronger than theirs: a publication under weaker rules would be missing in the history that this
/// gateway promises. `Err` also if the server takes no writes, because then the others do not know these
/// rules.
pub(crate) async fn begin(shared: &Shared, link: &ServerConnection) -> Result<(), Cause> {
    {
        let mut server = shared.nodes.server.lock().unwrap_or_else(PoisonError::into_inner);
        if *server != link.server {
            // A promoted replica may lack writes that its master had confirmed.
            shared.nodes.anew.store(true, Ordering::Release);
            if !server.is_empty() {
                shared.nodes.leases().moved();
            }
            server.clone_from(&link.server);
        }
    }
    shared.agreement.say_again();
    if let Beaten::Unwritten(cause) = beat(shared, link).await? {
        return Err(cause);
    }
    let alive = shared.nodes.others();
    let Some(revision) = shared.agreement.waits_for(&alive) else { return Ok(()) };
    let begun = shared.context.clock.now().at;
    let mut told = false;
    loop {
        let behind: Vec<_> = shared.nodes.leases().behind(revision).cloned().collect();
        if behind.is_empty() {
            return Ok(());
        }
        if shared.context.clock.now().at.saturating_sub(begun) >= AGREED {
            for node in behind {
                shared.context.metrics.disagrees(&node.id, &node.name);
            }
            return Ok(());
        }
        if !std::mem::replace(&mut told, true)
            && let Some(mut connection) = link.connections.first().cloned()
        {
            let mut command = redis::cmd(link.scripts.publish_verb);
            command.arg(shared.context.keys.nodes()).arg(wire::look(shared.context.node));
            call(&mut connection, &command, shared.context.config.timeout).await?;
        }
        sleep(AGREEING).await;
        beat(shared, link).await?;
    }
}

/// Beats until the connection fails.
pub(crate) async fn run(shared: Arc<Shared>, link: Arc<ServerConnection>) -> Cause {
    loop {
        if let Err(cause) = beat(&shared, &link).await {
            return cause;
        }
        // Another gateway may be waiting until this one applies the rules it has just read.
        let pause = if shared.agreement.is_applying() { AGREEING } else { BEAT };
        tokio::select! {
            () = sleep(pause) => (),
            () = shared.nodes.looked.notified() => (),
        }
    }
}

/// Writes all data of this gateway on the shared server again.
async fn write_anew(shared: &Shared, link: &ServerConnection) -> Result<(), Cause> {
    shared.presence.list_anew();
    clients::write_anew(shared, link).await
}

/// Result of a beat.
enum Beaten {
    /// The lease was written and the others were read, or no lease is needed any more.
    Done,
    /// The server refuses writes, and nothing was read.
    Unwritten(Cause),
}

/// Renews the lease, reads those of the others, and declares gateways dead.
async fn beat(shared: &Shared, link: &ServerConnection) -> Result<Beaten, Cause> {
    let Some(mut connection) = link.connections.first().cloned() else { return Ok(Beaten::Done) };
    if shared.nodes.gone.load(Ordering::Acquire) {
        return Ok(Beaten::Done);
    }
    let me = shared.context.node_name();
    let told = shared.agreement.tell(&shared.context.gateway);
    let lease = shared.nodes.lease(&shared.context.name, shared.context.clock.now().at, told.seen);
    let mut command = redis::cmd("EVAL");
    command
        .arg(BEATING)
        .arg(3)
        .arg(shared.context.keys.leases())
        .arg(shared.context.keys.dead())
        .arg(shared.context.keys.rules());
    command.arg(&me).arg(lease).arg(keys::NODE_KEPT.as_millis() as u64).arg(told.revision);
    command.arg(told.description.as_deref().unwrap_or_default()).arg(told.keeping.join(" "));
    let reply = match call(&mut connection, &command, shared.context.config.timeout).await {
        Ok(reply) => reply,
        // No gateway can renew its lease then; without a read, none is declared dead.
        Err(cause) if cause.is_of_writing() => return Ok(Beaten::Unwritten(cause)),
        Err(cause) => return Err(cause),
    };
    let Some(Heard { known, listed, buried, said }) = heard(reply) else {
        shared.context.metrics.malformed();
        return Ok(Beaten::Done);
    };
    // The own lease is gone: this gateway was declared dead, or the shared server has lost its data.
    if !known {
        shared.nodes.anew.store(true, Ordering::Release);
        shared.presence.write_anew_at(|_| true);
        if told.description.is_none() {
            shared.agreement.say_again();
        }
    }
    if shared.nodes.anew.swap(false, Ordering::AcqRel)
        && let Err(cause) = write_anew(shared, link).await
    {
        shared.nodes.anew.store(true, Ordering::Release);
        return Err(cause);
    }
    let at = shared.context.clock.now().at;
    let (changes, dead, alive, unseen) = {
        let mut leases = shared.nodes.leases();
        let changes = leases.hear(at, &me, listed);
        (changes, leases.dead(), leases.alive().cloned().collect::<Vec<_>>(), leases.take_unseen())
    };
    shared.context.metrics.nodes(alive.len() as u64 + 1);
    let changed = !changes.is_empty();
    for change in changes {
        match change {
            Change::Came(node) => shared.context.metrics.node_came(&node.id, &node.name, &node.version),
            Change::Left(node) => shared.context.metrics.node_left(&node.id, &node.name),
            Change::Died(node) => shared.context.metrics.node_died(&node.id, &node.name),
        }
    }
    let told = told.description.is_some();
    Agreement::hear(shared, &mut connection, said, &alive, changed, told).await?;
    shared.agreement.say(shared);
    if unseen > 0 {
        // Their last publications may have gone to the previous server.
        if let Err(cause) = meeting::part(shared, link).await {
            // Reported again with the next beat, over this connection or another one.
            shared.nodes.leases().put_back_unseen(unseen);
            if !cause.is_of_writing() {
                return Err(cause);
            }
        }
    }
    for (node, lease) in dead {
        bury(shared, &mut connection, &node, &lease).await?;
    }
    if !buried.is_empty() {
        *shared.nodes.dead.lock().unwrap_or_else(PoisonError::into_inner) = buried;
        shared.nodes.buried.notify_one();
    }
    Ok(Beaten::Done)
}

/// Removes the lease of a dead gateway unless it was renewed meanwhile, and records that its data must be
/// taken over.
async fn bury(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    node: &str,
    lease: &str,
) -> Result<(), Cause> {
    let mut command = redis::cmd("EVAL");
    command
        .arg(BURYING)
        .arg(3)
        .arg(shared.context.keys.leases())
        .arg(shared.context.keys.dead())
        .arg(shared.context.keys.rules());
    command.arg(node).arg(lease).arg(keys::NODE_KEPT.as_millis() as u64);
    match call(connection, &command, shared.context.config.timeout).await {
        Err(cause) if !cause.is_of_writing() => Err(cause),
        // The next beat tries again.
        _ => Ok(()),
    }
}

/// Removes the lease, so that the others need not wait until it expires.
pub(crate) async fn leave(shared: &Shared, link: &ServerConnection) -> Result<(), Cause> {
    shared.nodes.gone.store(true, Ordering::Release);
    let written = async {
        while !shared.presence.is_empty() || !shared.clients.is_written() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    // Another gateway takes over whatever is not written by then.
    let _ = timeout(WRITTEN, written).await;
    let Some(mut connection) = link.connections.first().cloned() else { return Ok(()) };
    let me = shared.context.node_name();
    let mut command = redis::cmd("EVAL");
    command
        .arg(LEAVING)
        .arg(5)
        .arg(shared.context.keys.leases())
        .arg(shared.context.keys.dead())
        .arg(shared.context.keys.rules());
    command.arg(shared.context.keys.presence_of(&me)).arg(shared.context.keys.clients_of(&me));
    command.arg(&me).arg(keys::NODE_KEPT.as_millis() as u64);
    call(&mut connection, &command, shared.context.config.timeout).await.map(drop)
}

/// Names and leases.
type Listed = Vec<(Box<str>, Box<str>)>;

/// The reply to a beat.
struct Heard {
    /// Whether this gateway was listed.
    known: bool,
    /// All leases.
    listed: Listed,
    /// Gateways whose data must be taken over.
    pub(super) buried: Vec<Box<str>>,
    /// The descriptions of the gateways and their revision, if it differs from the one that was read.
    said: Option<(u64, Said)>,
}

fn heard(reply: Value) -> Option<Heard> {
    let Value::Array(parts) = reply else { return None };
    let [Value::Int(known), Value::Array(leases), Value::Array(dead), Value::BulkString(revision), said] =
        <[Value; 5]>::try_from(parts).ok()?
    else {
        return None;
    };
    let text = |part| match part {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok().map(String::into_boxed_str),
        _ => None,
    };
    let revision = std::str::from_utf8(&revision).ok()?.parse().ok()?;
    let said = match said {
        Value::Array(fields) => {
            let mut fields = fields.into_iter().map(|field| match field {
                Value::BulkString(bytes) => Some(bytes.into_boxed_slice()),
                _ => None,
            });
            let mut all = Vec::new();
            while let Some(field) = fields.next() {
                all.push((field?, fields.next()??));
            }
            Some((revision, all))
        }
        _ => None,
    };
    let mut texts = leases.into_iter().map(text);
    let mut listed = Vec::new();
    while let Some(name) = texts.next() {
        // A lease that is not text belongs to a gateway that is not understood; the others stay valid.
        let (name, lease) = (name?, texts.next()?);
        listed.extend(lease.map(|lease| (name, lease)));
    }
    let buried: Option<Vec<_>> = dead.into_iter().map(text).collect();
    Some(Heard { known: known == 1, listed, buried: buried?, said })
}
