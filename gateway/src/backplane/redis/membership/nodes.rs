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
use crate::backplane::redis::clients::Clients;
use crate::backplane::redis::connection::client::call;
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::format::keys::NODE_KEPT;
use crate::backplane::redis::format::wire;
use crate::backplane::redis::membership::leases::{Change, Lease, Leases};
use crate::backplane::redis::membership::meeting;
use crate::backplane::redis::presence::Presence;
use crate::backplane::redis::topology::Topology;

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

/// Maximum time that [`Nodes::leave`] waits for pending writes.
const WRITTEN: Duration = Duration::from_secs(1);

/// This gateway among the others.
pub(crate) struct Nodes {
    context: Arc<Context>,
    topology: Arc<Topology>,
    agreement: Arc<Agreement>,
    presence: Arc<Presence>,
    clients: Arc<Clients>,
    /// When this gateway started, in Unix time in milliseconds.
    started: u64,
    beats: AtomicU64,
    /// Whether this gateway has left and writes no lease any more.
    gone: AtomicBool,
    leases: Mutex<Leases>,
    /// Whether Redis may lack what this gateway has written.
    anew: AtomicBool,
    /// Replication id of the server that was written to.
    written_to: Mutex<Box<str>>,
    /// Gateways that have gone and whose data must be taken over.
    dead: Mutex<Vec<Box<str>>>,
    buried: Notify,
    /// Notified when another gateway has changed something to read at once.
    looked: Notify,
}

impl Nodes {
    pub(crate) fn new(
        context: Arc<Context>,
        topology: Arc<Topology>,
        agreement: Arc<Agreement>,
        presence: Arc<Presence>,
        clients: Arc<Clients>,
    ) -> Self {
        Self {
            started: context.clock.now().unix,
            context,
            topology,
            agreement,
            presence,
            clients,
            beats: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            leases: Mutex::new(Leases::new(LEASE)),
            anew: AtomicBool::new(false),
            written_to: Mutex::default(),
            dead: Mutex::default(),
            buried: Notify::new(),
            looked: Notify::new(),
        }
    }

    /// The other gateways that are alive, as far as this one knows.
    pub(crate) fn others(&self) -> Vec<Node> {
        self.leases().alive().cloned().collect()
    }

    /// Whether another gateway has this name, as far as this one knows.
    pub(crate) fn is_alive(&self, node: &str) -> bool {
        self.leases().alive().any(|other| *other.id == *node)
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
    pub(crate) fn sweep(&self) {
        self.presence.table.sweep_list();
        self.clients.table.write_anew();
        self.anew.store(true, Ordering::Release);
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there are gateways whose data must be taken over, and returns them.
    pub(crate) async fn dead(&self) -> Vec<Box<str>> {
        self.buried.notified().await;
        std::mem::take(&mut *self.dead.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Encodes the lease of this gateway.
    fn lease(&self, uptime: Duration, seen: u64) -> String {
        let beat = self.beats.fetch_add(1, Ordering::Relaxed);
        let uptime = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        Lease { beat, started: self.started, uptime, name: &self.context.name, seen }.to_text()
    }

    /// The first beat over a new connection. Returns when the others apply the rules of this gateway, if
    /// these are stronger than theirs: a publication under weaker rules would be missing in the history that
    /// this gateway promises. `Err` also if the server takes no writes, because then the others do not know
    /// these rules.
    pub(crate) async fn begin(&self, server: &ServerConnection) -> Result<(), Cause> {
        {
            let mut known = self.written_to.lock().unwrap_or_else(PoisonError::into_inner);
            if *known != server.replication_id {
                // A promoted replica may lack writes that its master had confirmed.
                self.anew.store(true, Ordering::Release);
                if !known.is_empty() {
                    self.leases().moved();
                }
                known.clone_from(&server.replication_id);
            }
        }
        self.agreement.say_again();
        if let Beaten::Unwritten(cause) = self.beat(server).await? {
            return Err(cause);
        }
        let alive = self.others();
        let Some(revision) = self.agreement.waits_for(&alive) else { return Ok(()) };
        let begun = self.context.clock.now().at;
        let mut notified = false;
        loop {
            let behind: Vec<_> = self.leases().behind(revision).cloned().collect();
            if behind.is_empty() {
                return Ok(());
            }
            if self.context.clock.now().at.saturating_sub(begun) >= AGREED {
                for node in behind {
                    self.context.metrics.disagrees(&node.id, &node.name);
                }
                return Ok(());
            }
            if !std::mem::replace(&mut notified, true)
                && let Some(mut connection) = server.connections.first().cloned()
            {
                let mut command = redis::cmd(server.scripts.publish_verb);
                command.arg(self.context.keys.nodes()).arg(wire::look(self.context.node));
                call(&mut connection, &command, self.context.config.timeout).await?;
            }
            sleep(AGREEING).await;
            self.beat(server).await?;
        }
    }

    /// Beats until the connection fails.
    pub(crate) async fn run(&self, server: &ServerConnection) -> Cause {
        loop {
            if let Err(cause) = self.beat(server).await {
                return cause;
            }
            // Another gateway may be waiting until this one applies the rules it has just read.
            let pause = if self.agreement.is_applying() { AGREEING } else { BEAT };
            tokio::select! {
                () = sleep(pause) => (),
                () = self.looked.notified() => (),
            }
        }
    }

    /// Writes all data of this gateway on the shared server again.
    async fn write_anew(&self, server: &ServerConnection) -> Result<(), Cause> {
        self.presence.table.list_anew();
        self.clients.write_anew(server).await
    }

    /// Renews the lease, reads those of the others, and declares gateways dead.
    async fn beat(&self, server: &ServerConnection) -> Result<Beaten, Cause> {
        let Some(mut connection) = server.connections.first().cloned() else { return Ok(Beaten::Done) };
        if self.gone.load(Ordering::Acquire) {
            return Ok(Beaten::Done);
        }
        let Context { keys, config, metrics, .. } = &*self.context;
        let me = self.context.node_name();
        let announcement = self.agreement.announcement();
        let lease = self.lease(self.context.clock.now().at, announcement.seen);
        let mut command = redis::cmd("EVAL");
        command.arg(BEATING).arg(3).arg(keys.leases()).arg(keys.dead()).arg(keys.rules());
        command.arg(&me).arg(lease).arg(NODE_KEPT.as_millis() as u64).arg(announcement.revision);
        command
            .arg(announcement.description.as_deref().unwrap_or_default())
            .arg(announcement.keeping.join(" "));
        let reply = match call(&mut connection, &command, config.timeout).await {
            Ok(reply) => reply,
            // No gateway can renew its lease then; without a read, none is declared dead.
            Err(cause) if cause.is_of_writing() => return Ok(Beaten::Unwritten(cause)),
            Err(cause) => return Err(cause),
        };
        let Some(Heard { known, listed, buried, said }) = heard(reply) else {
            metrics.malformed();
            return Ok(Beaten::Done);
        };
        // The own lease is gone: this gateway was declared dead, or the shared server has lost its data.
        if !known {
            self.anew.store(true, Ordering::Release);
            self.presence.table.distrust_records();
            self.presence.table.write_anew_at(|_| true);
            if announcement.description.is_none() {
                self.agreement.say_again();
            }
        }
        if self.anew.swap(false, Ordering::AcqRel)
            && let Err(cause) = self.write_anew(server).await
        {
            self.anew.store(true, Ordering::Release);
            return Err(cause);
        }
        let at = self.context.clock.now().at;
        let (changes, dead, alive, unseen) = {
            let mut leases = self.leases();
            let changes = leases.hear(at, &me, listed);
            (changes, leases.dead(), leases.alive().cloned().collect::<Vec<_>>(), leases.take_unseen())
        };
        metrics.nodes(alive.len() as u64 + 1);
        let changed = !changes.is_empty();
        for change in changes {
            match change {
                Change::Came(node) => metrics.node_came(&node.id, &node.name, &node.version),
                Change::Left(node) => metrics.node_left(&node.id, &node.name),
                Change::Died(node) => metrics.node_died(&node.id, &node.name),
            }
        }
        let announced = announcement.description.is_some();
        self.agreement.hear(&mut connection, said, &alive, changed, announced).await?;
        self.agreement.say();
        if unseen > 0 {
            // Their last publications may have gone to the previous server.
            if let Err(cause) = meeting::part(&self.context, &self.topology, server).await {
                // Reported again with the next beat, over this connection or another one.
                self.leases().put_back_unseen(unseen);
                if !cause.is_of_writing() {
                    return Err(cause);
                }
            }
        }
        for (node, lease) in dead {
            self.bury(&mut connection, &node, &lease).await?;
        }
        if !buried.is_empty() {
            *self.dead.lock().unwrap_or_else(PoisonError::into_inner) = buried;
            self.buried.notify_one();
        }
        Ok(Beaten::Done)
    }

    /// Removes the lease of a dead gateway unless it was renewed meanwhile, and records that its data must be
    /// taken over.
    async fn bury(
        &self,
        connection: &mut MultiplexedConnection,
        node: &str,
        lease: &str,
    ) -> Result<(), Cause> {
        let Context { keys, config, .. } = &*self.context;
        let mut command = redis::cmd("EVAL");
        command.arg(BURYING).arg(3).arg(keys.leases()).arg(keys.dead()).arg(keys.rules());
        command.arg(node).arg(lease).arg(NODE_KEPT.as_millis() as u64);
        match call(connection, &command, config.timeout).await {
            Err(cause) if !cause.is_of_writing() => Err(cause),
            // The next beat tries again.
            _ => Ok(()),
        }
    }

    /// Removes the lease, so that the others need not wait until it expires.
    pub(crate) async fn leave(&self, server: &ServerConnection) -> Result<(), Cause> {
        self.gone.store(true, Ordering::Release);
        let written = async {
            while !self.presence.table.is_empty() || !self.clients.table.is_written() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        // Another gateway takes over whatever is not written by then.
        let _ = timeout(WRITTEN, written).await;
        let Some(mut connection) = server.connections.first().cloned() else { return Ok(()) };
        let Context { keys, config, .. } = &*self.context;
        let me = self.context.node_name();
        let mut command = redis::cmd("EVAL");
        command.arg(LEAVING).arg(5).arg(keys.leases()).arg(keys.dead()).arg(keys.rules());
        command.arg(keys.presence_of(&me)).arg(keys.clients_of(&me));
        command.arg(&me).arg(NODE_KEPT.as_millis() as u64);
        call(&mut connection, &command, config.timeout).await.map(drop)
    }
}

/// Result of a beat.
enum Beaten {
    /// The lease was written and the others were read, or no lease is needed any more.
    Done,
    /// The server refuses writes, and nothing was read.
    Unwritten(Cause),
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
    buried: Vec<Box<str>>,
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
