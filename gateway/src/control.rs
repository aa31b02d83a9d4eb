//! [`Control`] offers everything that operators and the server API may do and ask, from any thread.

mod orders;
mod revoking;
mod subscribing;
mod survey;

use std::future::Future;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::timeout;

use crate::backplane::inbox::Inbox;
use crate::backplane::{
    Backplane, Count, Health, HistoryRequest, Idempotency, Most, NewPublication, Node, Outcome,
    PERHAPS_PUBLISHED, PublishConditions, Published, ReplyTo, Response, Retention, Version,
};
use crate::backplane::{Order, Why};
use crate::charge::Account;
use crate::clock::Clock;
use crate::clock::Now;
use crate::config::{Config, Namespace};
use crate::connection::worker_state::charge;
use crate::events::Events;
use crate::explain::Explain;
use crate::plugin::breaker::Hold;
use crate::plugin::registry::{
    ClosedPlace, LeftOutStatus, PluginStatus, Registry, RollbackError, RolledBack,
};
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::{Close, ReplyError};
use crate::protocol::command::{HistoryQuery, Position};
use crate::protocol::push::{Member, Publication};
use crate::protocol::tags::Tags;
use crate::revocation::Revocations;
use crate::shutdown::Phase;
use crate::supervisor::{Beat, Supervisor};
use crate::telemetry::metrics::Metrics;
use crate::upstream::Upstreams;

pub use self::survey::{PATIENCE, Survey};

/// Maximum bytes of one answer of the API.
const HISTORY_BYTES_MAX: usize = 8 << 20;
const PRESENCE_BYTES_MAX: usize = 16 << 20;

/// How long the answer to a request waits until the events it has caused are written to the disk.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// Maximum number of concurrent questions to all gateways.
const SURVEYS_MAX: usize = 16;

/// A handle to the running gateway. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    /// Limits the questions to all gateways.
    surveys: Semaphore,
    /// Publications of the API that are under way.
    account: Account,
}

impl Deref for Inner {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// The parts that a [`Control`] uses.
pub struct Parts {
    /// The configuration, as resolved at start.
    pub config: Arc<Config>,
    /// Carries publications.
    pub backplane: Arc<dyn Backplane>,
    /// Tells an upstream what happens.
    pub events: Events,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The plugins.
    pub registry: Arc<Registry>,
    /// The services behind the gateway.
    pub upstreams: Arc<Upstreams>,
    /// The explanations.
    pub explain: Arc<Explain>,
    /// Revoked tokens and blocked users.
    pub revocations: Arc<Revocations>,
    /// The clock.
    pub clock: Clock,
    /// The phase of the process.
    pub phase: watch::Receiver<Phase>,
    /// The inboxes of all workers.
    pub inboxes: Arc<[Arc<Inbox>]>,
    /// Random identifier of this process.
    pub node: Box<str>,
    /// Name of this process for people: machine and address.
    pub name: Box<str>,
    /// Tracks whether every part of the process is running.
    pub supervisor: Supervisor,
}

/// The content of a publication of the API.
#[derive(Debug, Clone)]
pub struct Content {
    /// The payload.
    pub data: Bytes,
    /// Whether the payload is JSON on one line.
    pub json: bool,
    /// Its tags. Only for a channel.
    pub tags: Option<Arc<Tags>>,
    /// It is delivered, but has no number and is not kept.
    pub skip_history: bool,
    /// Subscribers that ask for deltas must be able to get one.
    pub delta: bool,
}

/// The connections that a request concerns.
#[derive(Debug, Clone)]
pub struct Whom {
    /// All connections of a user (`#user`), or one (`@connection`).
    pub address: Channel,
    /// Only those of this user.
    pub user: Option<Box<str>>,
    /// Only that with this session.
    pub session: Option<Box<str>>,
}

const NO_DELTA: &str =
    "`delta` needs a channel whose namespace has `delta = true`: then all its publications have deltas";

const NO_TAGS: &str = "`tags` need a channel: a message to a user or a connection has none";

/// The conditions of a publication, as the API names them.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// A second publication with the same key to the same channel is not made: it gets the answer of the
    /// first.
    pub idempotency_key: Option<Box<str>>,
    /// Skip the publication if the channel has this version or a newer one. The channel needs a history.
    pub version: Option<Version>,
}

/// Part of a channel's history.
#[derive(Debug, Clone)]
pub struct HistoryPage {
    /// In the requested order.
    pub publications: Vec<Arc<Publication>>,
    /// Top of the stream.
    pub top: Position,
}

impl Control {
    /// Creates a handle to these parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            inner: Arc::new(Inner {
                parts,
                surveys: Semaphore::new(SURVEYS_MAX),
                account: Account::default(),
            }),
        }
    }

    fn namespace(&self, channel: &Channel) -> Result<&Arc<Namespace>, ReplyError> {
        self.inner.config.namespaces.of(channel).ok_or(ReplyError::UNKNOWN_CHANNEL)
    }

    /// Publishes to an address. The plugins are not called: the holder of the key has decided. The
    /// publication is under way when this returns; the future returns its result. Whoever is told of it waits
    /// for [`events_written`](Self::events_written) first.
    ///
    /// # Errors
    ///
    /// If no namespace is configured for the address, the content or the conditions do not fit it, the
    /// publication is too large, or the backplane refuses it.
    pub fn publish(
        &self,
        address: &Channel,
        content: Content,
        conditions: &Conditions,
    ) -> impl Future<Output = Result<Published, ReplyError>> + Send + use<> {
        let (reply_to, answer) = ask();
        let asked = self.namespace(address).and_then(|namespace| {
            let retention = Retention::of(namespace);
            let Content { data, json, tags, skip_history, delta } = content;
            if delta && !(namespace.delta && address.target() == Target::Channel) {
                return Err(ReplyError::NOT_AVAILABLE.because(NO_DELTA));
            }
            if tags.is_some() && address.target() != Target::Channel {
                return Err(ReplyError::NOT_AVAILABLE.because(NO_TAGS));
            }
            let conditions = publish_conditions(namespace, address, skip_history, conditions)?;
            let (config, account) = (&self.inner.config, &self.inner.account);
            let account_max = config.memory.api_bytes_max();
            let charge = charge(config, &data, json, tags.as_deref(), account, account_max)?;
            let new = NewPublication {
                channel: address,
                data,
                json,
                info: None,
                tags,
                retention,
                patterns: namespace.wildcards,
                skip_history,
                conditions,
                charge: Some(charge),
            };
            let Parts { events, backplane, clock, .. } = &self.inner.parts;
            Ok(events.publish(&**backplane, new, reply_to, clock.now()))
        });
        let asked = asked.unwrap_or_else(|error| Outcome::Ready(Err(error)));
        if let Outcome::Ready(Err(error)) = &asked {
            self.inner.metrics.node.publication_refused(error);
        }
        answered(asked, answer, PERHAPS_PUBLISHED, |answer| match answer {
            Response::Published(result) => Some(result),
            _ => None,
        })
    }

    /// Waits until the events so far are written to the disk, but no longer than a second. Once for a
    /// request, however many publications it makes: the caller learns of all of them together.
    pub async fn events_written(&self) {
        if let Some(written) = self.inner.events.written() {
            let _ = timeout(WRITTEN_WITHIN, written).await;
        }
    }

    /// Closes connections, except those with one of the ids in `kept`. They receive the order a moment after
    /// this returns; the backplane has accepted it.
    ///
    /// # Errors
    ///
    /// If the backplane cannot pass the order on.
    pub async fn disconnect(
        &self,
        whom: &Whom,
        close: &Close,
        kept: Arc<[Box<str>]>,
    ) -> Result<(), ReplyError> {
        let order = match kept.is_empty() {
            true => Order::Close(close.clone(), Why::Api),
            false => Order::CloseOthers { close: close.clone(), kept },
        };
        self.order(whom, order).await
    }

    /// Unsubscribes connections from a channel.
    ///
    /// # Errors
    ///
    /// If no namespace is configured for the channel, or the backplane cannot pass the order on.
    pub async fn unsubscribe(&self, whom: &Whom, channel: &Channel) -> Result<(), ReplyError> {
        self.namespace(channel)?;
        self.order(whom, Order::Unsubscribe(channel.clone())).await
    }

    /// Sets when connections expire, in Unix time in seconds; `None` for never. Connections that have already
    /// expired are closed.
    ///
    /// # Errors
    ///
    /// If the backplane cannot pass the order on.
    pub async fn refresh(&self, whom: &Whom, expires_at: Option<u64>) -> Result<(), ReplyError> {
        self.order(whom, Order::Refresh(expires_at)).await
    }

    /// Lists the members of a channel.
    ///
    /// # Errors
    ///
    /// If no namespace is configured for the channel, or it has no presence, or the backplane cannot answer.
    pub async fn presence(&self, channel: &Channel) -> Result<Vec<Arc<Member>>, ReplyError> {
        if !self.namespace(channel)?.presence {
            return Err(ReplyError::NOT_AVAILABLE);
        }
        let (reply_to, answer) = ask();
        let asked = self.inner.backplane.presence(channel, PRESENCE_BYTES_MAX, reply_to);
        answered(asked, answer, NOT_READ, |answer| match answer {
            Response::Present(result) => Some(result),
            _ => None,
        })
        .await
    }

    /// Counts the members of a channel.
    ///
    /// # Errors
    ///
    /// If no namespace is configured for the channel, or it has no presence, or the backplane cannot answer.
    pub async fn count(&self, channel: &Channel) -> Result<Count, ReplyError> {
        if !self.namespace(channel)?.presence {
            return Err(ReplyError::NOT_AVAILABLE);
        }
        let (reply_to, answer) = ask();
        let asked = self.inner.backplane.count(channel, reply_to);
        answered(asked, answer, NOT_READ, |answer| match answer {
            Response::Counted(result) => Some(result),
            _ => None,
        })
        .await
    }

    /// Reads the history of a channel.
    ///
    /// # Errors
    ///
    /// If no namespace is configured for the channel, or it has no history, the position is unknown, or the
    /// backplane cannot answer.
    pub async fn history(&self, channel: &Channel, query: &HistoryQuery) -> Result<HistoryPage, ReplyError> {
        let namespace = self.namespace(channel)?;
        if namespace.history_size == 0 {
            return Err(ReplyError::NOT_AVAILABLE);
        }
        let now = self.inner.clock.now().at;
        let most = Most {
            publications: self.inner.config.client.history_publications_max,
            bytes: HISTORY_BYTES_MAX.max(self.inner.config.limits.publication_bytes_max),
        };
        let request = HistoryRequest { channel, query, most, retention: Retention::of(namespace) };
        let (reply_to, answer) = ask();
        let asked = self.inner.backplane.history(request, reply_to, now);
        let page = answered(asked, answer, NOT_READ, |answer| match answer {
            Response::History(result) => Some(result),
            _ => None,
        })
        .await?;
        Ok(HistoryPage { publications: page.publications, top: page.top })
    }

    /// Removes the history of a channel. Offsets continue; a client that comes back for a removed publication
    /// is told that it is not kept any more.
    ///
    /// # Errors
    ///
    /// If no namespace is configured for the channel, or it has no history, or the backplane cannot do it.
    pub async fn remove_history(&self, channel: &Channel) -> Result<(), ReplyError> {
        if self.namespace(channel)?.history_size == 0 {
            return Err(ReplyError::NOT_AVAILABLE);
        }
        let (reply_to, answer) = ask();
        let asked = self.inner.backplane.remove_history(channel, reply_to, self.inner.clock.now().at);
        answered(asked, answer, NOT_READ, |answer| match answer {
            Response::HistoryRemoved(result) => Some(result),
            _ => None,
        })
        .await
    }

    /// This process as a node.
    fn here(&self) -> Node {
        let now = self.inner.clock.now();
        Node {
            id: self.inner.node.clone(),
            name: self.inner.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: now.unix.saturating_sub(now.at.as_millis() as u64),
            uptime: now.at.as_millis() as u64,
            differs: Vec::new(),
        }
    }

    /// The live gateways, as far as this one knows: itself first, then the others.
    pub fn nodes(&self) -> Vec<Node> {
        [self.here()].into_iter().chain(self.inner.backplane.others()).collect()
    }

    /// The current time.
    pub fn now(&self) -> Now {
        self.inner.clock.now()
    }

    /// Every plugin that the folder has or had.
    pub fn plugins(&self) -> Vec<PluginStatus> {
        self.inner.registry.status()
    }

    /// The plugin folder.
    pub fn plugin_folder(&self) -> &Path {
        &self.inner.config.plugins.folder
    }

    /// Restores an earlier version of a plugin; see [`Registry::rollback`]. Completes even if the caller is
    /// dropped.
    ///
    /// # Errors
    ///
    /// As for [`Registry::rollback`].
    pub async fn rollback(&self, name: &str, to: Option<&str>) -> Result<RolledBack, RollbackError> {
        let (parts, name, to) = (self.inner.clone(), name.to_owned(), to.map(str::to_owned));
        let task = tokio::spawn(async move { parts.registry.rollback(&name, to.as_deref()).await });
        task.await.unwrap_or(Err(RollbackError::Failed))
    }

    /// Sets the breaker of a plugin by hand. False if no plugin of this name is live.
    pub fn hold_breaker(&self, plugin: &str, hold: Hold) -> bool {
        self.inner.registry.hold_breaker(plugin, hold)
    }

    /// The services behind the gateway.
    pub fn upstreams(&self) -> &Upstreams {
        &self.inner.upstreams
    }

    /// The explanations of messages.
    pub fn explain(&self) -> &Explain {
        &self.inner.explain
    }

    /// The generation of the live chain.
    pub fn generation(&self) -> u64 {
        self.inner.metrics.node.generation()
    }

    /// Whether every part of the process is running; otherwise a sentence. Calls none of them.
    ///
    /// # Errors
    ///
    /// Which part of the process does not run.
    pub fn liveness(&self) -> Result<(), Box<str>> {
        if let Some(ended) = self.inner.supervisor.ended() {
            return Err(format!("{ended}; this process drains and exits").into());
        }
        let now = self.inner.clock.now().at;
        let metrics = &self.inner.metrics;
        let stuck = |thread: &dyn Fn() -> String, beat: &Beat| match beat.stuck(now) {
            Some(silent) => {
                Err(format!("{} has made no progress for {} seconds", thread(), silent.as_secs()))
            }
            None => Ok(()),
        };
        for (worker, metrics) in metrics.workers.iter().enumerate() {
            stuck(&|| format!("worker-{worker}"), &metrics.beat)?;
        }
        Ok(stuck(&|| "the thread of the backplane".into(), &metrics.node.backplane_beat)?)
    }

    /// Whether clients should be sent here; otherwise a sentence.
    ///
    /// # Errors
    ///
    /// Why clients should not be sent here.
    pub fn readiness(&self) -> Result<(), Box<str>> {
        self.liveness()?;
        match *self.inner.phase.borrow() {
            Phase::Starting => Err("starting: the plugins are being loaded".into()),
            Phase::Running => Ok(()),
            Phase::Leaving => Err("leaving: this process is about to shut down".into()),
            Phase::Draining { .. } => Err("draining: this process is shutting down".into()),
        }
    }

    /// Whether every plugin that was in the folder at the start has its place in the chain; otherwise a
    /// sentence. Until then the events of the missing ones are refused.
    ///
    /// # Errors
    ///
    /// Which plugins are missing.
    pub fn plugins_health(&self) -> Result<(), String> {
        let closed = self.closed_places();
        let Some((first, others)) = closed.split_first() else { return Ok(()) };
        let others = match others.len() {
            0 => String::new(),
            more => format!(" ({more} more)"),
        };
        let ClosedPlace { file, error } = first;
        Err(format!(
            "plugins are missing: the file {file} {}{others}. Fix it, or remove it together with its settings: until then the \
             gateway refuses the events of its place in the chain",
            error.message
        ))
    }

    /// Maximum memory of the plugins in the chain, in bytes.
    pub fn plugins_memory_max(&self) -> u64 {
        self.inner.registry.memory_max()
    }

    /// The plugins' places in the chain where every event is refused.
    pub fn closed_places(&self) -> Vec<ClosedPlace> {
        self.inner.registry.closed()
    }

    /// Files in the plugin folder that were probably meant to be plugins, but are none.
    pub fn left_out(&self) -> Vec<LeftOutStatus> {
        self.inner.registry.left_out()
    }

    /// Health of the backplane; otherwise a sentence.
    pub fn backplane_health(&self) -> Health {
        self.inner.backplane.health()
    }

    /// Whether the gateway is not ready while the backplane cannot be used.
    pub fn requires_backplane(&self) -> bool {
        self.inner.config.redis.as_ref().is_none_or(|redis| redis.required_for_readiness)
    }

    /// Settings of the backplane that do not fit the configuration, although it works.
    pub fn backplane_warnings(&self) -> Vec<Box<str>> {
        self.inner.backplane.warnings()
    }

    /// What is wrong with the consumers, each a sentence.
    pub fn consumer_warnings(&self) -> Vec<Box<str>> {
        let consumers = self.inner.metrics.node.consumers();
        consumers.iter().filter_map(|consumer| consumer.trouble()).collect()
    }

    /// Counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }
}

fn publish_conditions(
    namespace: &Namespace,
    address: &Channel,
    skip_history: bool,
    conditions: &Conditions,
) -> Result<Option<Box<PublishConditions>>, ReplyError> {
    let Conditions { idempotency_key, version } = conditions.clone();
    if version.is_some() && (namespace.history_size == 0 || address.target() != Target::Channel) {
        let why = "`version` needs a channel with history, which stores the newest version";
        return Err(ReplyError::NOT_AVAILABLE.because(why));
    }
    if version.is_some() && skip_history {
        let why = "`version` and `skip_history` exclude each other: the history stores the newest version";
        return Err(ReplyError::BAD_REQUEST.because(why));
    }
    let idempotency = idempotency_key.map(|key| Idempotency { key, ttl: namespace.idempotency_ttl });
    let any = idempotency.is_some() || version.is_some();
    Ok(any.then(|| Box::new(PublishConditions { idempotency, version })))
}

/// Why a request that reads has no result.
const NOT_READ: &str = "the gateway shuts down: try again";

fn ask() -> (ReplyTo, oneshot::Receiver<Response>) {
    let (sender, receiver) = oneshot::channel();
    (ReplyTo::Task(sender), receiver)
}

/// Waits for a response if it is pending. None comes if the gateway shuts down: `unanswered` says what that
/// means for the request.
async fn answered<T>(
    asked: Outcome<T>,
    answer: oneshot::Receiver<Response>,
    unanswered: &'static str,
    expected: fn(Response) -> Option<Result<T, ReplyError>>,
) -> Result<T, ReplyError> {
    match asked {
        Outcome::Ready(result) => result,
        Outcome::Pending => match answer.await {
            Ok(answer) => expected(answer).unwrap_or(Err(ReplyError::INTERNAL)),
            Err(_) => Err(ReplyError::INTERNAL.because(unanswered)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_whose_gateway_ends_says_what_may_have_become_of_it() {
        for (unanswered, named) in [(PERHAPS_PUBLISHED, "may have been published"), (NOT_READ, "try again")] {
            let (reply_to, answer) = ask();
            drop(reply_to);
            let nothing: Result<(), _> = answered(Outcome::Pending, answer, unanswered, |_| None).await;
            let error = nothing.expect_err("no answer came");
            assert!(error.message.contains(named) && error.temporary, "{error:?}");
        }
    }
}
