//! `Agreement` reconciles the rules of the gateways on one Redis. Each gateway publishes its rules next to
//! its lease. Where they differ, all use the safer rule until the last gateway that has it is gone.

pub(crate) mod description;
pub(crate) mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

use crate::backplane::redis::agreement::description::{Description, Difference, VERSION_DIFFERS};
use crate::backplane::redis::agreement::rules::{Effective, Era, Rules};
use crate::backplane::redis::connection::client::call;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::topology::Topology;
use crate::backplane::{Node, Retention};
use crate::config::Config;
use crate::protocol::channel::Channel;
use crate::telemetry::backplane::{Subject, Trouble};

const ENDING: &str = include_str!("lua/end_agreement.lua");

/// The field of `P:rules` with the number of the last change.
const REVISION: &str = "revision";

/// Prefix of a table's name in the field that says whether its channels have a history.
const ERA: &str = "era ";

/// Minimum pause between two log lines about differences.
const SAID: Duration = Duration::from_secs(5);

/// Names and digests of the live plugins, in the order of the chain.
pub type Plugins = Vec<(Arc<str>, String)>;

/// See the module.
pub(crate) struct Agreement {
    context: Arc<Context>,
    topology: Arc<Topology>,
    pub(crate) rules: Rules,
    known: Mutex<Known>,
    /// Whether the rules were ever exchanged over a connection to the shared server.
    heard: watch::Sender<bool>,
    plugins: Mutex<Option<Box<dyn Fn() -> Plugins + Send>>>,
}

/// Fields of the hash with the gateways' descriptions.
pub(crate) type Said = Vec<(Box<[u8]>, Box<[u8]>)>;

struct Known {
    own: Description,
    own_text: String,
    /// Whether Redis may lack the own description.
    due: bool,
    /// The revision that was read last.
    revision: u64,
    others: BTreeMap<Box<str>, Description>,
    eras: BTreeMap<Box<str>, Era>,
    /// The revision of the rules in use, and their generation.
    applying: (u64, u64),
    /// The last revision for which no request under older rules is under way.
    seen: u64,
    differences: BTreeMap<Box<str>, Vec<Difference>>,
    /// The differences last written to the log, and when.
    said: BTreeMap<Box<str>, Vec<Difference>>,
    said_at: Option<Duration>,
}

/// What a gateway writes with a beat.
pub(crate) struct Announcement {
    /// The revision that it has read.
    pub(crate) revision: u64,
    /// The revision that it has applied.
    pub(crate) seen: u64,
    /// Its description, if Redis may lack it.
    pub(crate) description: Option<String>,
    /// The tables of its rules that have a history.
    pub(crate) keeping: Vec<Box<str>>,
}

impl Agreement {
    pub(crate) fn new(context: Arc<Context>, topology: Arc<Topology>) -> Self {
        let own = Description::of(&context.gateway, &[]);
        let pipelines = topology.shards.len() * context.config.connections;
        Self {
            rules: Rules::new(&context.gateway, pipelines),
            known: Mutex::new(Known {
                own_text: own.to_string(),
                own,
                due: true,
                revision: 0,
                others: BTreeMap::new(),
                eras: BTreeMap::new(),
                applying: (0, 0),
                seen: 0,
                differences: BTreeMap::new(),
                said: BTreeMap::new(),
                said_at: None,
            }),
            heard: watch::channel(false).0,
            plugins: Mutex::default(),
            context,
            topology,
        }
    }

    /// The retention of a channel with recovery.
    pub(crate) fn recoverable(&self, channel: &Channel) -> Option<Retention> {
        let namespace = self.context.gateway.namespaces.of(channel)?;
        // The feed of a namespace has no stream.
        (namespace.recovery && !channel.is_pattern())
            .then(|| self.rules.raise(channel, Retention::of(namespace)))
    }

    /// The rules of the others are known, and they know those of this gateway.
    pub(crate) fn has_heard(&self) {
        self.heard.send_replace(true);
    }

    /// Waits for [`Self::has_heard`]: before, it is unknown what the others keep. Dropping the future loses
    /// nothing.
    pub(crate) async fn heard(&self) {
        // The sender outlives this call.
        let _ = self.heard.subscribe().wait_for(|heard| *heard).await;
    }

    /// Sets the function that returns the plugins.
    pub(crate) fn describe(&self, plugins: impl Fn() -> Plugins + Send + 'static) {
        *self.plugins.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(plugins));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Redis may have lost the description of this gateway.
    pub(crate) fn say_again(&self) {
        self.known().due = true;
    }

    /// What the next beat must write.
    pub(crate) fn announcement(&self) -> Announcement {
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|read| read());
        let mut known = self.known();
        if let Some(plugins) = plugins
            && !known.own.has_plugins(&plugins)
        {
            known.own = Description::of(&self.context.gateway, &plugins);
            known.own_text = known.own.to_string();
            known.due = true;
        }
        if self.rules.are_applied(known.applying.1) {
            known.seen = known.applying.0;
        }
        let keeping = if known.due { known.own.keeping() } else { Vec::new() };
        Announcement {
            revision: known.revision,
            seen: known.seen,
            description: known.due.then(|| known.own_text.clone()),
            keeping,
        }
    }

    /// Whether this gateway has yet to report that it applies the rules it has read.
    pub(crate) fn is_applying(&self) -> bool {
        let known = self.known();
        known.seen != known.applying.0
    }

    /// Differences of another gateway from this one, as sentences.
    pub(crate) fn differences(&self, node: &str) -> Vec<Box<str>> {
        let known = self.known();
        known.differences.get(node).into_iter().flatten().map(|one| one.sentence.clone()).collect()
    }

    /// The revision that the other gateways must have applied before this one may serve, if this one has a
    /// rule that is stronger than that of one of them. If two gateways bring the same rule at once, both
    /// wait.
    pub(crate) fn waits_for(&self, alive: &[Node]) -> Option<u64> {
        let known = self.known();
        let mut others = alive.iter().filter_map(|node| known.others.get(&node.id));
        others.any(|other| known.own.raises(other)).then_some(known.revision)
    }

    /// Takes in the rules and eras of a beat and the gateways that are alive.
    pub(crate) async fn hear(
        &self,
        connection: &mut MultiplexedConnection,
        read: Option<(u64, Said)>,
        alive: &[Node],
        changed: bool,
        announced: bool,
    ) -> Result<(), Cause> {
        let news = read.is_some();
        let (ends, revision) = {
            let mut known = self.known();
            if announced {
                known.due = false;
            }
            if let Some((revision, fields)) = read {
                known.take_in(revision, fields, &self.context.node_name());
            }
            if !news && !changed && !announced {
                return Ok(());
            }
            let effective = known.effective(&self.context.gateway, alive);
            (known.ending(&effective), known.revision)
        };
        if !ends.is_empty() {
            // No gateway keeps these any more. A gateway that keeps them again must learn this, so it is
            // recorded before anything is published without being kept.
            let mut command = redis::cmd("EVAL");
            command.arg(ENDING).arg(1).arg(self.context.keys.rules()).arg(revision).arg(&*ends.join(" "));
            let ended = match call(connection, &command, self.context.config.timeout).await {
                Ok(Value::BulkString(revision)) => text(&revision).and_then(|text| text.parse().ok()),
                Ok(_) => None,
                Err(cause) if matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => None,
                Err(cause) => return Err(cause),
            };
            let mut known = self.known();
            let Some(revision) = ended else {
                // Another gateway has changed the rules meanwhile: the next beat reads them.
                known.revision = 0;
                return Ok(());
            };
            known.revision = revision;
            for table in ends {
                known.eras.insert(table, Era::Off);
            }
        }
        let mut known = self.known();
        let effective = known.effective(&self.context.gateway, alive);
        let (generation, begins) = self.rules.put(effective);
        known.applying = (known.revision, generation);
        if begins {
            // Streams begin anew: their subscribers are notified.
            self.topology.shards.iter().for_each(|shard| shard.recheck.notify_one());
        }
        known.compare(&self.context, alive);
        Ok(())
    }

    /// Writes the differences to the log that had to wait.
    pub(crate) fn say(&self) {
        self.known().say(&self.context);
    }
}

impl Known {
    fn take_in(&mut self, revision: u64, fields: Said, me: &str) {
        self.revision = revision;
        (self.others, self.eras) = (BTreeMap::new(), BTreeMap::new());
        let mut found = false;
        for (field, value) in fields {
            let Some(field) = text(&field) else { continue };
            if let Some(table) = field.strip_prefix(ERA) {
                if let Some(era) = text(&value).and_then(Era::read) {
                    self.eras.insert(table.into(), era);
                }
            } else if field == me {
                found = true;
            } else if field != REVISION
                && let Some(description) = Description::read(&value)
            {
                self.others.insert(field.into(), description);
            }
        }
        if !found {
            self.due = true;
        }
    }

    fn effective(&self, config: &Config, alive: &[Node]) -> Effective {
        let others: Vec<_> = alive.iter().filter_map(|node| self.others.get(&node.id)).collect();
        Effective::of(config, &others, &self.eras)
    }

    /// The tables with a former history to which this gateway publishes without one from now on.
    fn ending(&self, effective: &Effective) -> Vec<Box<str>> {
        let ended =
            |table: &str| matches!(self.eras.get(table), Some(Era::On(_))) && effective.size_of(table) == 0;
        self.own.tables().iter().filter(|table| ended(table)).cloned().collect()
    }

    fn compare(&mut self, context: &Context, alive: &[Node]) {
        self.differences = BTreeMap::new();
        for node in alive {
            let mut all = match self.others.get(&node.id) {
                Some(other) => self.own.differences(other),
                None => vec![Difference::unknown()],
            };
            if *node.version != *env!("CARGO_PKG_VERSION") {
                let sentence =
                    format!("{VERSION_DIFFERS}: {} there, {} here", node.version, env!("CARGO_PKG_VERSION"));
                all.push(Difference { subject: Subject::Version, sentence: sentence.into() });
            }
            if !all.is_empty() {
                self.differences.insert(node.id.clone(), all);
            }
        }
        let counts = Subject::ALL.map(|subject| {
            let has = |all: &&Vec<Difference>| all.iter().any(|one| one.subject == subject);
            self.differences.values().filter(has).count() as u64
        });
        context.metrics.differing(counts);
        self.say(context);
    }

    fn say(&mut self, context: &Context) {
        let at = context.clock.now().at;
        if self.said == self.differences || self.said_at.is_some_and(|said| at.saturating_sub(said) < SAID) {
            return;
        }
        self.said_at = Some(at);
        let nodes: BTreeSet<_> = self.said.keys().chain(self.differences.keys()).collect();
        let none = Vec::new();
        for node in nodes {
            let (before, now) =
                (self.said.get(node).unwrap_or(&none), self.differences.get(node).unwrap_or(&none));
            if before != now {
                let sentences: Vec<_> = now.iter().map(|one| &*one.sentence).collect();
                context.metrics.differs(node, &sentences);
            }
        }
        self.said.clone_from(&self.differences);
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
