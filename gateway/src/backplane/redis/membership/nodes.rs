//! Which gateways there are. Each writes its lease over and over and reads those of all others; whoever stops writing is
//! dead after a while, and whoever says goodbye is gone at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::backplane::Node;
use crate::backplane::redis::connection::server_connection::{ServerConnection, call};
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::membership::agreement::Agreement;
use crate::backplane::redis::membership::leases::{Change, Lease, Leases};
pub(crate) use crate::backplane::redis::membership::takeover::take_over_dead_nodes;
use crate::backplane::redis::{Shared, clients, format::wire, membership::meeting};

/// How often a lease is renewed and the others' are read.
const BEAT: Duration = Duration::from_millis(500);

/// How long a lease is believed that is not renewed. With a beat before and one after, a death is noticed within four
/// seconds.
const LEASE: Duration = Duration::from_secs(3);

/// How long leases are kept in Redis: gateways that come back after all of them had died learn who there was.
pub(crate) const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a gateway waits at most until the others go by its rules. Whoever has not said so by then is dead, or would never.
const AGREED: Duration = Duration::from_secs(4);

/// How often it looks whether they do, and they whether nothing is under way any more by the rules before.
const AGREEING: Duration = Duration::from_millis(20);

const BEATING: &str = include_str!("../lua/beat.lua");
const BURYING: &str = include_str!("../lua/mark_dead.lua");
const LEAVING: &str = include_str!("../lua/leave.lua");

/// How long goodbye waits for what is being written.
const WRITTEN: Duration = Duration::from_secs(1);

/// This gateway among the others.
pub(crate) struct Nodes {
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
    pub(super) dead: Mutex<Vec<Box<str>>>,
    pub(super) buried: Notify,
    /// Another gateway has said that it is worth to look at once.
    looked: Notify,
}

impl Nodes {
    /// `started` is Unix time in milliseconds.
    pub(crate) fn new(name: Box<str>, started: u64) -> Self {
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
            looked: Notify::new(),
        }
    }

    /// The others that are alive, as far as it is known.
    pub(crate) fn others(&self) -> Vec<Node> {
        self.leases().alive().cloned().collect()
    }

    /// What people know this gateway by.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The next beat comes at once.
    pub(crate) fn look(&self) {
        self.looked.notify_one();
    }

    /// The same; `None` if leases were never read: then nothing is known of who there is.
    pub(crate) fn known_others(&self) -> Option<Vec<Node>> {
        let leases = self.leases();
        leases.have_been_read().then(|| leases.alive().cloned().collect())
    }

    /// While home is away nobody remembers what would have to be taken away there: on return everything is written anew.
    pub(crate) fn sweep(&self, shared: &Shared) {
        shared.presence.sweep_list();
        shared.clients.write_anew();
        self.anew.store(true, Ordering::Release);
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands in Redis of this gateway.
    fn lease(&self, uptime: Duration, seen: u64) -> String {
        let beat = self.beats.fetch_add(1, Ordering::Relaxed);
        let uptime = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        Lease { beat, started: self.started, uptime, name: &self.name, seen }.to_text()
    }
}

/// The first beat over a new link. Ends when the others go by the rules of this gateway, where these mean more than theirs:
/// what is published by older rules would be missing in what this gateway keeps. `Err` also if the server takes no writes: then
/// nobody knows of these rules.
pub(crate) async fn begin(shared: &Shared, link: &ServerConnection) -> Result<(), Cause> {
    {
        let mut server = shared.nodes.server.lock().unwrap_or_else(PoisonError::into_inner);
        if *server != link.server {
            // A replica that was promoted may not have received what its master had confirmed.
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
    let begun = shared.clock.now().at;
    let mut told = false;
    loop {
        let behind: Vec<_> = shared.nodes.leases().behind(revision).cloned().collect();
        if behind.is_empty() {
            return Ok(());
        }
        if shared.clock.now().at.saturating_sub(begun) >= AGREED {
            for node in behind {
                shared.metrics.disagrees(&node.id, &node.name);
            }
            return Ok(());
        }
        if !std::mem::replace(&mut told, true)
            && let Some(mut connection) = link.connections.first().cloned()
        {
            let mut command = redis::cmd(link.scripts.publish_verb);
            command.arg(shared.keys.nodes()).arg(wire::look(shared.node));
            call(&mut connection, &command, shared.config.timeout).await?;
        }
        sleep(AGREEING).await;
        beat(shared, link).await?;
    }
}

/// Beats until the link fails.
pub(crate) async fn run(shared: Arc<Shared>, link: Arc<ServerConnection>) -> Cause {
    loop {
        if let Err(cause) = beat(&shared, &link).await {
            return cause;
        }
        // Somebody may wait until this gateway goes by what it has just read.
        let pause = if shared.agreement.is_applying() { AGREEING } else { BEAT };
        tokio::select! {
            () = sleep(pause) => (),
            () = shared.nodes.looked.notified() => (),
        }
    }
}

/// Writes everything anew that stands at home of this gateway.
async fn write_anew(shared: &Shared, link: &ServerConnection) -> Result<(), Cause> {
    shared.presence.list_anew();
    clients::write_anew(shared, link).await
}

/// What became of a beat.
enum Beaten {
    /// The others can read it, and what they say was read. Or it is not needed any more.
    Done,
    /// The server does not take it, and nothing was read.
    Unwritten(Cause),
}

/// Renews the lease and reads those of the others. Buries who has died.
async fn beat(shared: &Shared, link: &ServerConnection) -> Result<Beaten, Cause> {
    let Some(mut connection) = link.connections.first().cloned() else { return Ok(Beaten::Done) };
    if shared.nodes.gone.load(Ordering::Acquire) {
        return Ok(Beaten::Done);
    }
    let me = name(shared.node);
    let told = shared.agreement.tell(&shared.gateway);
    let lease = shared.nodes.lease(shared.clock.now().at, told.seen);
    let mut command = redis::cmd("EVAL");
    command.arg(BEATING).arg(3).arg(shared.keys.leases()).arg(shared.keys.dead()).arg(shared.keys.rules());
    command.arg(&me).arg(lease).arg(KEPT.as_millis() as u64).arg(told.revision);
    command.arg(told.description.as_deref().unwrap_or_default()).arg(told.keeping.join(" "));
    let reply = match call(&mut connection, &command, shared.config.timeout).await {
        Ok(reply) => reply,
        // Nobody's lease can be renewed then, and nobody is declared dead: who reads nothing judges nobody.
        Err(cause) if cause.is_of_writing() => return Ok(Beaten::Unwritten(cause)),
        Err(cause) => return Err(cause),
    };
    let Some(Heard { known, listed, buried, said }) = heard(reply) else {
        shared.metrics.malformed();
        return Ok(Beaten::Done);
    };
    // Whoever finds its own lease gone was taken for dead, or home has lost its data.
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
    let at = shared.clock.now().at;
    let (changes, dead, alive, unseen) = {
        let mut leases = shared.nodes.leases();
        let changes = leases.hear(at, &me, listed);
        (changes, leases.dead(), leases.alive().cloned().collect::<Vec<_>>(), leases.take_unseen())
    };
    shared.metrics.nodes(alive.len() as u64 + 1);
    let changed = !changes.is_empty();
    for change in changes {
        match change {
            Change::Came(node) => shared.metrics.node_came(&node.id, &node.name, &node.version),
            Change::Left(node) => shared.metrics.node_left(&node.id, &node.name),
            Change::Died(node) => shared.metrics.node_died(&node.id, &node.name),
        }
    }
    let told = told.description.is_some();
    Agreement::hear(shared, &mut connection, said, &alive, changed, told).await?;
    shared.agreement.say(shared);
    if unseen > 0 {
        // What they have published last they may have published at the server before.
        if let Err(cause) = meeting::part(shared, link).await {
            // Told again with the next beat, over this link or another one.
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

/// Takes the lease of a dead gateway away, unless it has been renewed meanwhile. What it has left is somebody's to settle.
async fn bury(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    node: &str,
    lease: &str,
) -> Result<(), Cause> {
    let mut command = redis::cmd("EVAL");
    command.arg(BURYING).arg(3).arg(shared.keys.leases()).arg(shared.keys.dead()).arg(shared.keys.rules());
    command.arg(node).arg(lease).arg(KEPT.as_millis() as u64);
    match call(connection, &command, shared.config.timeout).await {
        Err(cause) if !cause.is_of_writing() => Err(cause),
        // Tried again with the next beat.
        _ => Ok(()),
    }
}

/// Says goodbye: the others do not wait until the lease has run out.
pub(crate) async fn leave(shared: &Shared, link: &ServerConnection) -> Result<(), Cause> {
    shared.nodes.gone.store(true, Ordering::Release);
    let written = async {
        while !shared.presence.is_empty() || !shared.clients.is_written() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    // What is not written by then another gateway settles.
    let _ = timeout(WRITTEN, written).await;
    let Some(mut connection) = link.connections.first().cloned() else { return Ok(()) };
    let me = name(shared.node);
    let mut command = redis::cmd("EVAL");
    command.arg(LEAVING).arg(5).arg(shared.keys.leases()).arg(shared.keys.dead()).arg(shared.keys.rules());
    command.arg(shared.keys.presence_of(&me)).arg(shared.keys.clients_of(&me));
    command.arg(&me).arg(KEPT.as_millis() as u64);
    call(&mut connection, &command, shared.config.timeout).await.map(drop)
}

/// How a gateway is called in Redis, in the log and in the API.
pub(crate) fn name(node: u64) -> String {
    format!("{node:016x}")
}

/// Fields of what gateways say of themselves, and their values.
pub(crate) type Said = Vec<(Box<[u8]>, Box<[u8]>)>;

/// Names and leases.
type Listed = Vec<(Box<str>, Box<str>)>;

/// The answer to a beat.
struct Heard {
    /// Whether this gateway was listed.
    known: bool,
    /// All leases.
    listed: Listed,
    /// Who has left something behind.
    pub(super) buried: Vec<Box<str>>,
    /// What gateways say of themselves, with its revision, if that is another one than was read.
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
        // A lease that is no text is one of a gateway that is not understood, and of nobody else.
        let (name, lease) = (name?, texts.next()?);
        listed.extend(lease.map(|lease| (name, lease)));
    }
    let buried: Option<Vec<_>> = dead.into_iter().map(text).collect();
    Some(Heard { known: known == 1, listed, buried: buried?, said })
}
