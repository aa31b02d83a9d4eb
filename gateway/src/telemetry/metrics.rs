//! [`Metrics`] counts what happens in the gateway. An event that is also worth a log line is counted and
//! logged by one call, so that neither can be forgotten.
//!
//! Every worker writes to separate counters on separate cache lines; a scrape sums them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tracing::{debug, warn};

use super::backplane::BackplaneMetrics;
use super::consumer::ConsumerMetrics;
use super::occupancy::OccupancyMetrics;
use super::upstream::UpstreamMetrics;
use crate::histogram::{Observed, Sizes, Times};
use crate::log_users;
use crate::plugin::event::Kind;
use crate::plugin::registry::Applied;
use crate::protocol::code::{Close, ReplyError};
use crate::protocol::framing::Compressed;
use crate::revocation::Revocations;
use crate::seldom::seldom;
use crate::supervisor::Beat;

/// A count with one writer, which saves the locked instruction. With two writers counts would be lost.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A count with any number of writers.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A value that rises and falls, with one writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Replaces the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// A closed set of values of a label, so that no input can add a time series.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every value, in the order of the declaration.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$variant),*];

            /// The value of the label.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

labels! {
    /// Why a connection ended.
    CloseCause {
        /// The client closed it.
        Client = "client",
        /// The process goes down.
        Shutdown = "shutdown",
        /// The client did not read fast enough.
        Slow = "slow",
        /// The client did not answer a ping.
        NoPong = "no_pong",
        /// The client sent no acceptable connect command in time.
        Stale = "stale",
        /// It was silent before its connect command, and others needed its place.
        Evicted = "evicted",
        /// The client sent an invalid command, or one at the wrong time.
        BadRequest = "bad_request",
        /// The credential expired and was not refreshed.
        Expired = "expired",
        /// A plugin closed it.
        Plugin = "plugin",
        /// A backend that was asked closed it.
        Backend = "backend",
        /// The HTTP API closed it.
        Api = "api",
        /// The client broke the WebSocket protocol.
        Protocol = "protocol",
        /// The socket failed or closed without a close frame.
        Transport = "transport",
        /// Publications of a server-side subscription were missed.
        InsufficientState = "insufficient_state",
        /// The client exceeded a limit on messages that reach no plugin.
        TooManyRequests = "too_many_requests",
        /// Anything else.
        Other = "other",
    }
}

labels! {
    /// What became of a message of an emulation request.
    Emulated {
        /// Its connection has it.
        Accepted = "accepted",
        /// The request is malformed, or its message too large.
        Malformed = "malformed",
        /// Its connection has ended, or its gateway is gone.
        NoSession = "no_session",
        /// Its connection had too many messages waiting, and was closed.
        Full = "full",
        /// The gateway that has its connection did not answer in time.
        Unreachable = "unreachable",
    }
}

labels! {
    /// A control frame of the WebSocket protocol.
    ControlFrame {
        /// A ping of a client; the gateway answers it.
        Ping = "ping",
        /// A pong, solicited or not.
        Pong = "pong",
    }
}

labels! {
    /// Why a socket or a handshake was refused before there was a connection.
    Refused {
        /// Its web page is not in `handshake.origins`.
        Origin = "origin",
        /// `limits.connections_max` is reached.
        Capacity = "capacity",
        /// `limits.connections_per_address_max` is reached.
        AddressCapacity = "address_capacity",
        /// `limits.handshakes_max` is reached, and no client in its handshake is silent.
        Handshakes = "handshakes",
        /// The same for `limits.handshakes_per_address_max`.
        AddressHandshakes = "address_handshakes",
        /// It had sent no complete request when others needed its place in `limits.handshakes_max`, or in
        /// `limits.handshakes_per_address_max`.
        Evicted = "evicted",
        /// Faster than `limits.connection_rate`.
        Rate = "rate",
        /// Faster than `limits.connection_rate_per_address`.
        AddressRate = "address_rate",
        /// Not a request that can be upgraded.
        BadRequest = "bad_request",
        /// No such path.
        NotFound = "not_found",
        /// `handshake.head_deadline` passed before the request was complete, or `handshake.deadline` before
        /// it was answered.
        Deadline = "deadline",
        /// The gateway is going down.
        Draining = "draining",
        /// The handshake of TLS failed: no common version, a certificate that one side does not accept, or
        /// bytes that are no TLS.
        Tls = "tls",
        /// A connection of HTTP/2 was closed: its client reset too many requests before it had a response,
        /// went on sending them although they were refused, or sent too many frames that do nothing.
        Flood = "flood",
    }
}

labels! {
    /// Why a connection to the admin listener, or a request on it, was refused.
    AdminRefused {
        /// The limit of connections, or that of its address, is reached by connections in use.
        Connections = "connections",
        /// The connection was idle when others needed its place.
        Evicted = "evicted",
        /// Too many requests are under way.
        Requests = "requests",
        /// No complete request arrived in time.
        Deadline = "deadline",
        /// The request is malformed.
        BadRequest = "bad_request",
        /// The handshake of TLS failed.
        Tls = "tls",
    }
}

labels! {
    /// A listener that may speak TLS, by its table in the configuration.
    TlsListener {
        /// That of clients.
        Clients = "listen",
        /// That of operators.
        Admin = "admin",
    }
}

/// A certificate in use on a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedCertificate {
    /// Its place in the configuration.
    pub index: usize,
    /// The first DNS name in it; empty for none.
    pub name: Box<str>,
    /// Unix time of its end, in seconds.
    pub not_after: i64,
}

labels! {
    /// The decision of the plugin chain on a command.
    DecisionOutcome {
        /// No decision: the rules of the channel apply.
        Undecided = "undecided",
        /// The command is permitted.
        Allowed = "allowed",
        /// The command is refused with an error.
        Denied = "denied",
        /// The command is dropped silently.
        Dropped = "dropped",
        /// The connection is closed.
        Disconnected = "disconnected",
        /// The sender gets a reply from the plugin.
        Replied = "replied",
        /// The message is sent to addresses.
        Routed = "routed",
        /// A plugin that fails closed failed.
        Failed = "failed",
    }
}

labels! {
    /// Why a log line was not written.
    LineLost {
        /// The reader of standard error did not keep up.
        QueueFull = "queue_full",
        /// Standard error did not take it: a full disk, a closed pipe.
        WriteFailed = "write_failed",
    }
}

labels! {
    /// Why something was not published.
    Unpublished {
        /// A limit: the size of a publication, or the number of channels.
        Limit = "limit",
        /// A queue has no room, or the publisher has too much on its way.
        Queue = "queue",
        /// Anything else.
        Other = "other",
    }
}

/// All counters of the gateway.
#[derive(Debug)]
pub struct Metrics {
    /// One for each worker.
    pub workers: Box<[WorkerMetrics]>,
    /// Counters that belong to no worker.
    pub node: NodeMetrics,
}

impl Metrics {
    /// Creates counters for this many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        let workers = (0..workers.max(1)).map(|_| WorkerMetrics::default()).collect();
        Arc::new(Self { workers, node: NodeMetrics::default() })
    }

    /// The counters of a worker, numbered from 0.
    pub fn worker(&self, worker: usize) -> &WorkerMetrics {
        &self.workers[worker]
    }

    /// Number of connections of all workers.
    pub fn connections(&self) -> u64 {
        self.sum_gauge(|worker| &worker.connections)
    }

    /// Number of subscriptions of all workers.
    pub fn subscriptions(&self) -> u64 {
        self.sum_gauge(|worker| &worker.subscriptions)
    }

    /// Bytes queued for clients with large queues, over all workers.
    pub fn outbound_held(&self) -> u64 {
        self.sum_gauge(|worker| &worker.outbound_held)
    }

    /// Bytes in the largest queue of any client.
    pub fn outbound_largest(&self) -> u64 {
        let largest = self.workers.iter().map(|worker| worker.outbound_largest.get()).max();
        largest.and_then(|largest| u64::try_from(largest).ok()).unwrap_or(0)
    }

    pub(super) fn sum(&self, counter: impl Fn(&WorkerMetrics) -> &Counter) -> u64 {
        self.workers.iter().map(|worker| counter(worker).get()).fold(0, u64::wrapping_add)
    }

    /// The observations of all workers.
    pub(super) fn observed(&self, read: impl Fn(&WorkerMetrics) -> Observed) -> Observed {
        let mut sum = Observed::default();
        self.workers.iter().for_each(|worker| sum.add(&read(worker)));
        sum
    }

    fn sum_gauge(&self, gauge: impl Fn(&WorkerMetrics) -> &Gauge) -> u64 {
        let sum: i64 = self.workers.iter().map(|worker| gauge(worker).get()).sum();
        // Workers are read one after the other, so a sum can be off for a moment; a negative one becomes 0.
        u64::try_from(sum).unwrap_or(0)
    }
}

/// The counters of one worker. Only this worker writes to them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMetrics {
    connections: Gauge,
    pub(super) connections_opened: Counter,
    /// Subscriptions that exist.
    pub subscriptions: Gauge,
    /// Messages from clients.
    pub messages_in: Counter,
    /// Bytes of these messages.
    pub bytes_in: Counter,
    /// Frames queued for clients.
    pub messages_out: Counter,
    /// Bytes of each write to a socket.
    pub writes: Sizes,
    /// Time from the acceptance of a publication, or its arrival from another gateway, until it was queued
    /// for the subscribers of this worker.
    pub delivery_lag: Times,
    /// Publications queued for subscribers, once for each.
    pub publications_delivered: Counter,
    /// Connections of clients that began HTTP/2.
    pub http2_connections: Counter,
    /// Handshakes that agreed on compression.
    pub compression_agreed: Counter,
    pub(super) compressed: [Counter; 3],
    pub(super) decompressed: [Counter; 3],
    pub(super) deltas: [Counter; 3],
    pub(super) closed: [Counter; CloseCause::ALL.len()],
    pub(super) control_frames: [Counter; ControlFrame::ALL.len()],
    pub(super) emulated: [Counter; Emulated::ALL.len()],
    pub(super) refused: [Counter; Refused::ALL.len()],
    pub(super) commands: [Counter; Kind::ALL.len()],
    pub(super) decisions: [Counter; DecisionOutcome::ALL.len()],
    pub(super) outbound_overflows: Counter,
    pub(super) outbound_evictions: Counter,
    /// Bytes queued for clients with large queues.
    pub outbound_held: Gauge,
    /// Bytes in the largest queue of a client.
    pub outbound_largest: Gauge,
    pub(super) inbox_overflows: Counter,
    pub(super) position_gaps: Counter,
    pub(super) effects_refused: Counter,
    pub(super) accept_errors: Counter,
    /// Whether the worker is responsive, and its delay.
    pub beat: Beat,
}

fn add([messages, bytes_before, bytes_after]: &[Counter; 3], compressed: &Compressed) {
    messages.add(compressed.messages);
    bytes_before.add(compressed.bytes_before);
    bytes_after.add(compressed.bytes_after);
}

impl WorkerMetrics {
    /// Number of open connections.
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }

    /// Counts a handshake that became a connection. Must be followed by one [`closed`](Self::closed).
    pub fn opened(&self, connection: &str, address: IpAddr) {
        self.connections.add(1);
        self.connections_opened.inc();
        debug!(connection, %address, "connection opened");
    }

    /// Counts the end of a connection.
    pub fn closed(&self, cause: CloseCause, close: &Close, connection: &str) {
        self.connections.add(-1);
        self.closed[cause as usize].inc();
        debug!(
            connection,
            cause = cause.as_str(),
            code = close.code,
            reason = &*close.reason,
            "connection closed"
        );
    }

    /// Counts a message of an emulation request.
    pub fn emulated(&self, result: Emulated) {
        self.emulated[result as usize].inc();
    }

    /// Counts messages that were compressed for clients.
    pub fn compressed(&self, compressed: &Compressed) {
        add(&self.compressed, compressed);
    }

    /// Counts payloads of which deltas were made.
    pub fn deltas(&self, deltas: &Compressed) {
        add(&self.deltas, deltas);
    }

    /// Counts a message of a client that was decompressed.
    pub fn decompressed(&self, bytes_before: usize, bytes_after: usize) {
        let [messages, before, after] = &self.decompressed;
        messages.inc();
        before.add(bytes_before as u64);
        after.add(bytes_after as u64);
    }

    /// Counts a control frame from a client.
    pub fn control_frame(&self, frame: ControlFrame) {
        self.control_frames[frame as usize].inc();
    }

    /// Counts a refused socket or handshake.
    pub fn refused(&self, reason: Refused, address: IpAddr) {
        self.refused[reason as usize].inc();
        debug!(reason = reason.as_str(), %address, "connection refused");
    }

    /// Counts a socket that could not be accepted because of this process or its machine.
    pub fn accept_error(&self, error: &std::io::Error) {
        self.accept_errors.inc();
        if first_of_many(self.accept_errors.get()) {
            warn!(%error, count = self.accept_errors.get(), "failed to accept a connection");
        }
    }

    /// Counts a client whose queue overflowed; it is closed as too slow.
    pub fn outbound_overflow(&self, connection: &str) {
        self.outbound_overflows.inc();
        debug!(connection, "outbound queue full; the client reads too slowly");
    }

    /// Counts a client closed as too slow because the queues of all clients together were too large.
    pub fn outbound_evicted(&self, bytes: usize) {
        self.outbound_evictions.inc();
        if first_of_many(self.outbound_evictions.get()) {
            let count = self.outbound_evictions.get();
            warn!(
                count,
                bytes, "memory.outbound_bytes_max exceeded; closing the clients with the most waiting bytes"
            );
        }
    }

    /// Counts a publication that did not fit into the inbox of this worker: its subscribers missed it.
    pub fn inbox_overflow(&self) {
        self.inbox_overflows.inc();
        if first_of_many(self.inbox_overflows.get()) {
            let count = self.inbox_overflows.get();
            warn!(
                count,
                "worker inbox full; publications were lost; raise memory.inbox_deliveries_max or add workers"
            );
        }
    }

    /// Counts a subscriber of a channel with recovery that missed a publication and was notified.
    pub fn position_gap(&self, connection: &str, channel: &str) {
        self.position_gaps.inc();
        let channel = &*log_users::address(channel);
        debug!(connection, channel, "publication missed; the client was asked to recover");
    }

    /// Counts a plugin's effect of this kind that could not be carried out.
    pub fn effect_refused(&self, effect: &'static str, address: &str, why: &str) {
        self.effects_refused.inc();
        let address = &*log_users::address(address);
        seldom!(warn, effect, address, why, "plugin effect refused");
    }

    /// Counts a command passed to the plugins.
    pub fn command(&self, kind: Kind) {
        self.commands[kind as usize - 1].inc();
    }

    /// Counts the plugins' decision on a command.
    pub fn decision(&self, outcome: DecisionOutcome) {
        self.decisions[outcome as usize].inc();
    }
}

/// Whether to log an event that may come in floods: the 1st, 2nd, 4th, 8th and so on.
fn first_of_many(count: u64) -> bool {
    count.is_power_of_two()
}

/// The counters that belong to no worker.
#[derive(Debug, Default)]
pub struct NodeMetrics {
    pub(super) plugin_generation: Gauge,
    pub(super) plugins_live: Gauge,
    pub(super) plugins_refused: Gauge,
    pub(super) plugin_swaps: SharedCounter,
    pub(super) plugin_compiles: SharedCounter,
    pub(super) plugin_cache_hits: SharedCounter,
    /// By the code of the refusal: a closed set defined by the loader.
    pub(super) plugin_refusals: Mutex<BTreeMap<&'static str, u64>>,
    pub(super) publications_refused: [SharedCounter; Unpublished::ALL.len()],
    pub(super) admin_responses: [SharedCounter; ADMIN_STATUSES.len()],
    pub(super) admin_refused: [SharedCounter; AdminRefused::ALL.len()],
    pub(super) admin_accept_errors: SharedCounter,
    certificates: [Mutex<Arc<[ServedCertificate]>>; TlsListener::ALL.len()],
    upstreams: Mutex<Vec<Arc<UpstreamMetrics>>>,
    consumers: Mutex<Vec<Arc<ConsumerMetrics>>>,
    pub(super) backplane: OnceLock<Arc<BackplaneMetrics>>,
    pub(super) occupancy: OnceLock<Arc<OccupancyMetrics>>,
    /// Counts by itself.
    pub(super) revocations: OnceLock<Arc<Revocations>>,
    /// Whether the backplane's thread is responsive, if there is one.
    pub backplane_beat: Beat,
}

/// The statuses of the admin listener.
pub(super) const ADMIN_STATUSES: [u16; 12] = [200, 400, 401, 404, 405, 408, 413, 421, 431, 500, 503, 0];

impl NodeMetrics {
    /// Records that the registry applied the plugin folder. It has logged the result for each file.
    pub fn applied(&self, applied: &Applied) {
        self.plugin_generation.set(i64::try_from(applied.generation).unwrap_or(i64::MAX));
        self.plugins_live.set(i64::try_from(applied.live).unwrap_or(i64::MAX));
        self.plugins_refused.set(i64::try_from(applied.refused.len()).unwrap_or(i64::MAX));
        if applied.changed {
            self.plugin_swaps.inc();
        }
        self.plugin_compiles.add(applied.loads.compiled as u64);
        self.plugin_cache_hits.add(applied.loads.cached as u64);
        let mut refusals = self.plugin_refusals.lock().unwrap_or_else(PoisonError::into_inner);
        for code in &applied.loads.refused {
            *refusals.entry(code.as_str()).or_default() += 1;
        }
    }

    /// Generation of the live chain.
    pub fn generation(&self) -> u64 {
        u64::try_from(self.plugin_generation.get()).unwrap_or(0)
    }

    /// Counts a publication of a client, a plugin or the API that failed.
    pub fn publication_refused(&self, error: &ReplyError) {
        let reason = match error.code {
            code if code == ReplyError::LIMIT_EXCEEDED.code => Unpublished::Limit,
            code if code == ReplyError::TOO_MANY_REQUESTS.code => Unpublished::Queue,
            _ => Unpublished::Other,
        };
        self.publications_refused[reason as usize].inc();
    }

    /// Shows the revocations of the gateway. Only the first call has an effect.
    pub fn count_revocations(&self, revocations: Arc<Revocations>) {
        let _ = self.revocations.set(revocations);
    }

    /// Creates the counters of an upstream in the configuration, which has this many targets. `kinds` are the
    /// names of its events.
    pub fn upstream(
        &self,
        name: &str,
        targets: usize,
        kinds: &'static [&'static str],
    ) -> Arc<UpstreamMetrics> {
        let metrics = Arc::new(UpstreamMetrics::new(name, targets, kinds));
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).push(metrics.clone());
        metrics
    }

    /// Creates the counters of a networked backplane.
    pub fn backplane(&self) -> Arc<BackplaneMetrics> {
        self.backplane.get_or_init(Arc::default).clone()
    }

    /// Creates the counters of occupied channels.
    pub fn occupancy(&self) -> Arc<OccupancyMetrics> {
        self.occupancy.get_or_init(Arc::default).clone()
    }

    /// The counters of every upstream.
    pub fn upstreams(&self) -> Vec<Arc<UpstreamMetrics>> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Creates the counters of a consumer in the configuration, which carries out so much at the same time.
    pub fn consumer(&self, name: &str, partitions: usize) -> Arc<ConsumerMetrics> {
        let metrics = Arc::new(ConsumerMetrics::new(name, partitions));
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner).push(metrics.clone());
        metrics
    }

    /// The counters of every consumer.
    pub fn consumers(&self) -> Vec<Arc<ConsumerMetrics>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the certificates in use on a listener.
    pub fn serve_certificates(&self, listener: TlsListener, certificates: Arc<[ServedCertificate]>) {
        let slot = &self.certificates[listener as usize];
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    /// The certificates in use on a listener.
    pub(super) fn certificates(&self, listener: TlsListener) -> Arc<[ServedCertificate]> {
        self.certificates[listener as usize].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a response of the admin listener.
    pub fn admin_response(&self, path: &'static str, status: u16) {
        let other = ADMIN_STATUSES.len() - 1;
        let index = ADMIN_STATUSES.iter().position(|known| *known == status).unwrap_or(other);
        self.admin_responses[index].inc();
        debug!(path, status, "admin request");
    }

    /// Counts a connection or a request that the admin listener refused.
    pub fn admin_refused(&self, reason: AdminRefused, peer: IpAddr) {
        let counter = &self.admin_refused[reason as usize];
        counter.inc();
        let count = counter.get();
        if first_of_many(count) {
            warn!(reason = reason.as_str(), %peer, count, "admin listener refused a connection or request");
        }
    }

    /// Counts a socket of the admin listener that could not be accepted because of this process or its
    /// machine.
    pub fn admin_accept_error(&self, error: &std::io::Error) {
        self.admin_accept_errors.inc();
        let count = self.admin_accept_errors.get();
        if first_of_many(count) {
            warn!(%error, count, "failed to accept an admin connection");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_connection_is_there_between_opened_and_closed() {
        let metrics = Metrics::new(2);
        let address = Ipv4Addr::LOCALHOST.into();
        metrics.worker(0).opened("a", address);
        metrics.worker(1).opened("b", address);
        metrics.worker(1).opened("c", address);
        assert_eq!((metrics.worker(1).connections(), metrics.connections()), (2, 3));
        metrics.worker(1).closed(CloseCause::Slow, &Close::SLOW, "b");
        assert_eq!((metrics.worker(1).connections(), metrics.connections()), (1, 2));
        assert_eq!(metrics.sum(|worker| &worker.closed[CloseCause::Slow as usize]), 1);
        assert_eq!(metrics.sum(|worker| &worker.connections_opened), 3);
    }

    #[test]
    fn workers_do_not_share_cache_lines() {
        assert_eq!(align_of::<WorkerMetrics>(), 128);
        assert_eq!(size_of::<WorkerMetrics>() % 128, 0);
    }

    #[test]
    fn every_kind_of_command_has_its_counter() {
        let metrics = Metrics::new(1);
        for kind in Kind::ALL {
            metrics.worker(0).command(kind);
        }
        assert!(metrics.worker(0).commands.iter().all(|counter| counter.get() == 1));
    }
}
