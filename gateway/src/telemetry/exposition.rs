//! [`Exposition`] writes all metrics as text in the OpenMetrics format.

mod process;
mod targets;
mod writer;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::{Registry, Unit};

use self::process::Process;
use self::writer::Writer;
use super::backplane::{BackplaneMetrics, Subject, Trouble, Unfit};
use super::consumer::ConsumerMetrics;
use super::metrics::{
    ADMIN_STATUSES, AdminRefused, CloseCause, ControlFrame, DecisionOutcome, Emulated, Gauge, LineLost,
    Metrics, Refused, ServedCertificate, TlsListener, Unpublished, WorkerMetrics,
};
use super::occupancy::OccupancyMetrics;
use super::upstream::UpstreamMetrics;
use crate::clock::Clock;
use crate::plugin::breaker::Position;
use crate::plugin::event::{Hook, Kind};
use crate::plugin::failure::Cause;
use crate::plugin::registry::{PluginState, PluginStatus, plugin_name};
use crate::revocation::{Revocations, Revoked};
use crate::seldom;

/// Media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes the metrics of a gateway.
pub struct Exposition(Registry);

impl Exposition {
    /// `plugins` is called at every scrape.
    pub fn new(
        metrics: Arc<Metrics>,
        plugins: impl Fn() -> Vec<PluginStatus> + Send + Sync + 'static,
    ) -> Self {
        let mut registry = Registry::default();
        let node = Node { metrics, plugins: Box::new(plugins) };
        registry.sub_registry_with_prefix("gateway").register_collector(Box::new(node));
        registry.sub_registry_with_prefix("process").register_collector(Box::new(Process::new()));
        Self(registry)
    }

    /// The text of one scrape.
    ///
    /// # Errors
    ///
    /// If a metric cannot be formatted.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0)?;
        Ok(text)
    }
}

struct Node {
    metrics: Arc<Metrics>,
    plugins: Box<dyn Fn() -> Vec<PluginStatus> + Send + Sync>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("metrics", &self.metrics).finish_non_exhaustive()
    }
}

impl Collector for Node {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(&mut encoder);
        self.connections(&mut writer)?;
        self.messages(&mut writer)?;
        self.trouble(&mut writer)?;
        self.node(&mut writer)?;
        certificates(&mut writer, &self.metrics)?;
        upstreams(&mut writer, &self.metrics.node.upstreams())?;
        targets::write(&mut writer, &self.metrics.node.upstreams())?;
        if let Some(list) = self.metrics.node.revocations.get() {
            revocations(&mut writer, list)?;
        }
        consumers(&mut writer, &self.metrics.node.consumers())?;
        if let Some(metrics) = self.metrics.node.backplane.get() {
            backplane(&mut writer, metrics)?;
        }
        if let Some(metrics) = self.metrics.node.occupancy.get() {
            occupancy(&mut writer, metrics)?;
        }
        let statuses = (self.plugins)();
        let closed = statuses.iter().filter(|plugin| plugin.state == PluginState::Closed).count();
        let help = "Places in the chain where every event is refused, because a plugin could not be loaded at the start";
        writer.gauge("plugins_closed", help, None, closed as u64)?;
        let held_back = seldom::held_back();
        writer.counter(
            "log_lines_held_back",
            "Lines that were counted instead of written",
            None,
            held_back,
        )?;
        plugins(&mut writer, &labelled(statuses))
    }
}

impl Node {
    fn connections(&self, writer: &mut Writer<'_, '_>) -> fmt::Result {
        let metrics = &*self.metrics;
        writer.gauge("connections", "Connections that are open", None, metrics.connections())?;
        writer.gauge("subscriptions", "Subscriptions of all connections", None, metrics.subscriptions())?;
        let opened = metrics.sum(|worker| &worker.connections_opened);
        writer.counter("connections_opened", "Handshakes that became connections", None, opened)?;
        let http2 = metrics.sum(|worker| &worker.http2_connections);
        let help = "Connections of HTTP/2; each carries the connections and requests of many clients";
        writer.counter("http2_connections", help, None, http2)?;
        let closed = |cause: CloseCause| metrics.sum(|worker| &worker.closed[cause as usize]);
        let closed = CloseCause::ALL.map(|cause| ([("cause", cause.as_str())], closed(cause)));
        writer.family("connections_closed", "Connections that ended, by cause", closed)?;
        let refused = |reason: Refused| metrics.sum(|worker| &worker.refused[reason as usize]);
        let refused = Refused::ALL.map(|reason| ([("reason", reason.as_str())], refused(reason)));
        writer.family("connections_refused", "Sockets and handshakes that were refused, by reason", refused)
    }

    fn messages(&self, writer: &mut Writer<'_, '_>) -> fmt::Result {
        let sum = |counter: fn(&WorkerMetrics) -> &_| self.metrics.sum(counter);
        writer.counter(
            "messages_received",
            "Messages from clients",
            None,
            sum(|worker| &worker.messages_in),
        )?;
        writer.counter(
            "received",
            "Bytes of messages from clients",
            Some(&Unit::Bytes),
            sum(|worker| &worker.bytes_in),
        )?;
        let control = |frame: ControlFrame| self.metrics.sum(|worker| &worker.control_frames[frame as usize]);
        writer.family(
            "control_frames_received",
            "Pings and pongs of the WebSocket protocol from clients",
            ControlFrame::ALL.map(|frame| ([("frame", frame.as_str())], control(frame))),
        )?;
        let emulated = |result: Emulated| self.metrics.sum(|worker| &worker.emulated[result as usize]);
        writer.family(
            "emulation_requests",
            "Messages that clients sent in requests of their own, by what became of them",
            Emulated::ALL.map(|result| ([("result", result.as_str())], emulated(result))),
        )?;
        writer.counter(
            "messages_sent",
            "Frames queued for clients",
            None,
            sum(|worker| &worker.messages_out),
        )?;
        let writes = self.metrics.observed(|worker| worker.writes.read());
        writer.counter("sent", "Bytes written to clients", Some(&Unit::Bytes), writes.sum)?;
        writer.sizes("write_size", "Bytes that one write to the socket of a client took", &writes)?;
        let delivered = sum(|worker| &worker.publications_delivered);
        writer.counter(
            "publications_delivered",
            "Publications queued, once for each subscriber",
            None,
            delivered,
        )?;
        let lag = self.metrics.observed(|worker| worker.delivery_lag.read());
        let help = "Time from the acceptance of a publication, or its arrival from Redis, until a worker had queued it \
                    for its subscribers; once for each worker";
        writer.times("delivery_lag", help, &lag)?;
        self.compression(writer)?;
        self.deltas(writer)?;
        let commands = |kind: Kind| self.metrics.sum(|worker| &worker.commands[kind as usize - 1]);
        let commands = Kind::ALL.map(|kind| ([("kind", kind_label(kind))], commands(kind)));
        writer.family("commands", "Commands passed to the plugins, by kind", commands)?;
        let decisions =
            |outcome: DecisionOutcome| self.metrics.sum(|worker| &worker.decisions[outcome as usize]);
        let decisions =
            DecisionOutcome::ALL.map(|outcome| ([("outcome", outcome.as_str())], decisions(outcome)));
        writer.family("decisions", "Decisions of the plugins about commands, by outcome", decisions)
    }

    fn compression(&self, writer: &mut Writer<'_, '_>) -> fmt::Result {
        let sum = |counter: fn(&WorkerMetrics) -> &_| self.metrics.sum(counter);
        let help = "Connections whose handshake agreed on compression";
        writer.counter("compression_agreed", help, None, sum(|worker| &worker.compression_agreed))?;
        writer.counter(
            "compressions",
            "Messages that were compressed, once for all clients that receive the same bytes",
            None,
            sum(|worker| &worker.compressed[0]),
        )?;
        writer.counter(
            "compression_input",
            "Bytes of these messages before",
            Some(&Unit::Bytes),
            sum(|worker| &worker.compressed[1]),
        )?;
        writer.counter(
            "compression_output",
            "Bytes of these messages after; a message that does not become smaller is sent as it is",
            Some(&Unit::Bytes),
            sum(|worker| &worker.compressed[2]),
        )?;
        writer.counter(
            "decompressions",
            "Messages from clients that were decompressed",
            None,
            sum(|worker| &worker.decompressed[0]),
        )?;
        writer.counter(
            "decompression_input",
            "Bytes of these messages as they came",
            Some(&Unit::Bytes),
            sum(|worker| &worker.decompressed[1]),
        )?;
        writer.counter(
            "decompression_output",
            "Bytes of these messages after",
            Some(&Unit::Bytes),
            sum(|worker| &worker.decompressed[2]),
        )
    }

    fn deltas(&self, writer: &mut Writer<'_, '_>) -> fmt::Result {
        let sum = |counter: fn(&WorkerMetrics) -> &_| self.metrics.sum(counter);
        writer.counter(
            "deltas",
            "Payloads of which a delta was made, once for all subscribers of a worker",
            None,
            sum(|worker| &worker.deltas[0]),
        )?;
        let help = "Bytes of these payloads";
        writer.counter("delta_input", help, Some(&Unit::Bytes), sum(|worker| &worker.deltas[1]))?;
        let help = "Bytes of the deltas; a payload whose delta would not be smaller is sent as it is";
        writer.counter("delta_output", help, Some(&Unit::Bytes), sum(|worker| &worker.deltas[2]))
    }

    fn trouble(&self, writer: &mut Writer<'_, '_>) -> fmt::Result {
        let sum = |counter: fn(&WorkerMetrics) -> &_| self.metrics.sum(counter);
        let outbound = sum(|worker| &worker.outbound_overflows);
        writer.counter(
            "outbound_overflows",
            "Times that the queue of a slow client was full",
            None,
            outbound,
        )?;
        let evicted = sum(|worker| &worker.outbound_evictions);
        writer.counter(
            "outbound_evictions",
            "Clients closed as too slow because too many bytes waited for all clients",
            None,
            evicted,
        )?;
        let help = "Bytes that wait for clients with more than 32 KiB waiting";
        writer.gauge("outbound_backlog", help, Some(&Unit::Bytes), self.metrics.outbound_held())?;
        let refused = &self.metrics.node.publications_refused;
        let refused = Unpublished::ALL.map(|why| ([("reason", why.as_str())], refused[why as usize].get()));
        writer.family("publications_refused", "Publications that were refused, by reason", refused)?;
        let inbox = sum(|worker| &worker.inbox_overflows);
        writer.counter(
            "inbox_overflows",
            "Publications lost because the inbox of a worker was full",
            None,
            inbox,
        )?;
        let gaps = sum(|worker| &worker.position_gaps);
        writer.counter(
            "position_gaps",
            "Missed publications that a client was asked to recover",
            None,
            gaps,
        )?;
        let refused = sum(|worker| &worker.effects_refused);
        let help = "Effects of plugins that could not be carried out";
        writer.counter("effects_refused", help, None, refused)?;
        let accept = sum(|worker| &worker.accept_errors);
        writer.counter("accept_errors", "Sockets that could not be accepted", None, accept)
    }

    fn node(&self, writer: &mut Writer<'_, '_>) -> fmt::Result {
        let now = Clock::start().now().at;
        let lags = self.metrics.workers.iter().map(|worker| worker.beat.lag(now));
        let help = "Largest lag of a worker in the last 10 to 20 seconds";
        writer.durations("worker_lag", help, "worker", lags)?;
        let node = &self.metrics.node;
        writer.info("build", "The running version", [("version", env!("CARGO_PKG_VERSION"))])?;
        let gauge = |gauge: &Gauge| u64::try_from(gauge.get()).unwrap_or(0);
        let generation = gauge(&node.plugin_generation);
        writer.gauge("plugin_generation", "Number of the chain of plugins that is live", None, generation)?;
        writer.gauge("plugins_live", "Plugins in the chain", None, gauge(&node.plugins_live))?;
        let refused = gauge(&node.plugins_refused);
        writer.gauge("plugins_refused", "Plugin files in the folder that are refused", None, refused)?;
        writer.counter(
            "plugin_swaps",
            "Times that a new chain became live",
            None,
            node.plugin_swaps.get(),
        )?;
        let compiles = node.plugin_compiles.get();
        writer.counter("plugin_compiles", "Plugin files that were compiled", None, compiles)?;
        let hits = node.plugin_cache_hits.get();
        let help = "Plugin files whose machine code was in the cache on disk";
        writer.counter("plugin_cache_hits", help, None, hits)?;
        let refusals = node.plugin_refusals.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refusals = refusals.into_iter().map(|(code, count)| ([("code", code)], count));
        writer.family("plugin_refusals", "Refusals of plugin files, by code", refusals)?;
        let responses = ADMIN_STATUSES.iter().zip(&node.admin_responses).map(|(status, counter)| {
            let status = if *status == 0 { "other".to_owned() } else { status.to_string() };
            ([("status", status)], counter.get())
        });
        writer.family("admin_responses", "Responses of the admin listener, by HTTP status", responses)?;
        let lost = LineLost::ALL.map(|reason| ([("reason", reason.as_str())], super::lines_lost(reason)));
        writer.family("log_lines_lost", "Log lines that were not written, by reason", lost)?;
        let refused = AdminRefused::ALL
            .map(|reason| ([("reason", reason.as_str())], node.admin_refused[reason as usize].get()));
        let help = "Connections and requests that the admin listener refused, by reason";
        writer.family("admin_refused", help, refused)?;
        let help = "Sockets of the admin listener that could not be accepted";
        writer.counter("admin_accept_errors", help, None, node.admin_accept_errors.get())
    }
}

/// Only with TLS. The names come from the files of the operator.
fn certificates(writer: &mut Writer<'_, '_>, metrics: &Metrics) -> fmt::Result {
    let now = Clock::start().now().unix / 1000;
    let each = TlsListener::ALL.map(|listener| {
        let all = metrics.node.certificates(listener);
        all.iter().map(|one| expiry(listener, one, now)).collect::<Vec<_>>()
    });
    let all: Vec<_> = each.concat();
    if all.is_empty() {
        return Ok(());
    }
    let all = all.iter().map(|(listener, index, name, left)| {
        ([("listener", listener.as_str()), ("certificate", &**index), ("name", &**name)], *left)
    });
    let help = "Time until a TLS certificate in use ends, 0 if it has ended";
    writer.gauges("tls_certificate_expires_seconds", help, all)
}

fn expiry(
    listener: TlsListener,
    certificate: &ServedCertificate,
    now: u64,
) -> (TlsListener, String, Box<str>, u64) {
    let until = u64::try_from(certificate.not_after).unwrap_or(0);
    (listener, certificate.index.to_string(), certificate.name.clone(), until.saturating_sub(now))
}

fn revocations(writer: &mut Writer<'_, '_>, list: &Revocations) -> fmt::Result {
    let count = list.count(Clock::start().now().unix) as u64;
    writer.gauge("revocations", "Revoked tokens and blocked users in force", None, count)?;
    let refusals = Revoked::ALL.map(|of| ([("kind", of.as_str())], list.refusals(of)));
    let help = "Clients that were refused or closed because of a revocation, by kind";
    writer.family("revocation_refusals", help, refusals)
}

/// Only with Redis.
fn backplane(writer: &mut Writer<'_, '_>, backplane: &BackplaneMetrics) -> fmt::Result {
    let troubles = Trouble::ALL.map(|one| ([("cause", one.as_str())], u64::from(backplane.is_in(one))));
    writer.gauges("backplane_degraded", "Whether the backplane is degraded, by cause", troubles)?;
    let counters = [
        ("backplane_links", "Connections made to Redis", &backplane.links),
        ("backplane_failures", "Requests to Redis that failed", &backplane.failed),
        (
            "backplane_too_few_replicas",
            "Publications that fewer than `min_replicas` replicas had in time",
            &backplane.too_few_replicas,
        ),
        ("backplane_received", "Messages from Redis", &backplane.received),
        ("backplane_malformed", "Messages from Redis that were dropped", &backplane.malformed),
        (
            "backplane_unknown",
            "Messages of a later version, of a kind unknown to this one",
            &backplane.unknown,
        ),
        ("backplane_positions_compared", "Positions of channels compared with Redis", &backplane.checked),
        ("backplane_positions_behind", "Of these, channels that had advanced unnoticed", &backplane.behind),
        ("nodes_died", "Other gateways whose lease ran out", &backplane.died),
    ];
    for (name, help, counter) in counters {
        writer.counter(name, help, None, counter.get())?;
    }
    let unfit = Unfit::ALL.map(|one| ([("setting", one.as_str())], u64::from(backplane.is_unfit(one))));
    writer.gauges(
        "backplane_unfit",
        "Settings of Redis that do not fit the guarantees of the configuration",
        unfit,
    )?;
    let subjects = Subject::ALL.map(|one| ([("subject", one.as_str())], backplane.differing_in(one)));
    writer.gauges("nodes_differing", "Other gateways that differ from this one, by subject", subjects)?;
    writer.gauge("nodes", "Gateways that are alive, as far as this one knows", None, backplane.alive())?;
    writer.gauge("backplane_questions", "Pending requests to Redis", None, backplane.waiting())
}

/// Only if a namespace tells of it.
fn occupancy(writer: &mut Writer<'_, '_>, occupancy: &OccupancyMetrics) -> fmt::Result {
    let told = [("occupied", occupancy.occupied.get()), ("vacated", occupancy.vacated.get())];
    let help = "Channels that this gateway has told to be occupied or vacated, by event";
    writer.family("occupancy", help, told.map(|(event, count)| ([("event", event)], count)))?;
    let help =
        "Channels with subscribers at this gateway of which a backend is told whether they are occupied";
    writer.gauge("occupied_channels", help, None, occupancy.channels())
}

/// The names of consumers come from the configuration.
fn consumers(writer: &mut Writer<'_, '_>, consumers: &[Arc<ConsumerMetrics>]) -> fmt::Result {
    let outcomes = consumers.iter().flat_map(|consumer| {
        let of = |outcome, value| ([("consumer", consumer.name()), ("outcome", outcome)], value);
        [
            of("done", consumer.done.get()),
            of("retried", consumer.retried.get()),
            of("dead", consumer.dead.get()),
        ]
    });
    writer.family("consumer_entries", "Commands of a queue, by what became of an attempt", outcomes)?;
    let each = |value: &dyn Fn(&ConsumerMetrics) -> u64| {
        let values = consumers.iter().map(|consumer| ([("consumer", consumer.name())], value(consumer)));
        values.collect::<Vec<_>>()
    };
    let now = Clock::start().now().unix;
    let lag = each(&|consumer| consumer.lag(now) / 1000);
    let help = "Age in seconds of the oldest command that is carried out";
    writer.gauges("consumer_lag_seconds", help, lag)?;
    let partitions = each(&|consumer| consumer.partitions());
    writer.gauges("consumer_partitions", "Streams, subjects or partitions", partitions)?;
    let connected = each(&|consumer| consumer.connections());
    writer.gauges("consumer_connected", "Of these, those with a connection", connected)?;
    let paused = each(&|consumer| consumer.paused());
    writer.gauges("consumer_paused", "Of these, those whose command is refused for now", paused)
}

/// The names of upstreams come from the configuration.
fn upstreams(writer: &mut Writer<'_, '_>, upstreams: &[Arc<UpstreamMetrics>]) -> fmt::Result {
    let each = |value: fn(&UpstreamMetrics) -> u64| {
        upstreams.iter().map(move |upstream| ([("upstream", upstream.name())], value(upstream)))
    };
    let sent = each(|upstream| upstream.totals().0);
    writer.family("upstream_sent", "Events that an upstream accepted", sent)?;
    let retried = each(|upstream| upstream.retried.get());
    writer.family("upstream_retried", "Failed attempts before a retry", retried)?;
    let dead = each(|upstream| upstream.totals().1);
    writer.family("upstream_dead", "Events that were given up", dead)?;
    let outcomes = upstreams.iter().flat_map(|upstream| {
        let labels = |(outcome, kind, count)| {
            ([("upstream", upstream.name()), ("type", kind), ("outcome", outcome)], count)
        };
        upstream.outcomes().map(labels)
    });
    writer.family("upstream_events", "Events by type and by what became of them", outcomes)?;
    let requests = each(|upstream| upstream.requests.get());
    writer.family("upstream_requests", "Requests to upstreams", requests)?;
    let unspooled = each(|upstream| upstream.unspooled.get());
    writer.family("upstream_unspooled", "Events that could not be written to the disk", unspooled)?;
    let damaged = each(|upstream| upstream.damaged.get());
    writer.family("upstream_spool_damaged", "Lines of the spool that could not be read", damaged)?;
    let bytes = each(UpstreamMetrics::spool_bytes);
    writer.gauges("upstream_spool_bytes", "Bytes of the files that keep events", bytes)?;
    let oldest = each(|upstream| upstream.oldest() / 1000);
    let help = "Unix time at which the oldest event happened that waits or is under way; 0 without one";
    writer.gauges("upstream_oldest_timestamp_seconds", help, oldest)?;
    let refused = each(|upstream| upstream.refused.get());
    writer.family("upstream_refused", "Events that found the queue full", refused)?;
    let events = each(|upstream| upstream.queued().0);
    writer.gauges("upstream_queue_events", "Events that wait or are under way", events)?;
    let bytes = each(|upstream| upstream.queued().1);
    writer.gauges("upstream_queue_bytes", "Bytes that wait or are under way", bytes)
}

/// The plugins that can be label values: one for each name, without files whose name is not that of a plugin.
fn labelled(mut plugins: Vec<PluginStatus>) -> Vec<PluginStatus> {
    let mut seen = BTreeSet::new();
    plugins.retain(|plugin| {
        plugin_name(&plugin.file).is_ok_and(|name| name == &*plugin.name) && seen.insert(plugin.name.clone())
    });
    plugins
}

/// The names of plugins come from the files in the folder of the operator: no client can add one.
fn plugins(writer: &mut Writer<'_, '_>, plugins: &[PluginStatus]) -> fmt::Result {
    let each = |value: fn(&PluginStatus) -> u64| {
        plugins.iter().map(move |plugin| ([("plugin", &*plugin.name)], value(plugin)))
    };
    let running = |plugin: &PluginStatus| u64::from(plugin.live.is_some());
    writer.gauges("plugin_live", "Whether a version of the plugin runs", each(running))?;
    let wanted = |plugin: &PluginStatus| u64::from(plugin.state == PluginState::Live);
    writer.gauges("plugin_current", "Whether the version in the folder runs", each(wanted))?;
    let kept = |plugin: &PluginStatus| plugin.kept.len() as u64;
    writer.gauges("plugin_versions_kept", "Versions available for a rollback", each(kept))?;
    writer.family("plugin_calls", "Calls of hooks", each(|plugin| plugin.counts.calls))?;
    let times = plugins.iter().flat_map(|plugin| {
        let hooks = Hook::ALL.into_iter().zip(&plugin.counts.times);
        let called = hooks.filter(|(_, times)| times.count() > 0);
        called.map(|(hook, times)| ([("plugin", &*plugin.name), ("hook", hook.as_str())], times))
    });
    let help = "Time of a call of a hook: of every call of on-connect, on-disconnect and on-timer, and of one of 16 \
                calls of on-message and on-deliver";
    writer.times_family("plugin_call", help, times)?;
    let failures = plugins.iter().flat_map(|plugin| {
        let label = |cause: Cause| [("plugin", &*plugin.name), ("cause", cause.as_str())];
        Cause::ALL.map(|cause| (label(cause), plugin.counts.failures_by(cause)))
    });
    writer.family("plugin_failures", "Calls without a usable answer, by cause", failures)?;
    writer.family(
        "plugin_rejections",
        "Events that the plugin refused",
        each(|plugin| plugin.counts.refusals),
    )?;
    writer.family(
        "plugin_effects",
        "Effects of calls that ended normally",
        each(|plugin| plugin.counts.effects),
    )?;
    let refused = each(|plugin| plugin.counts.attributes_refused);
    let help = "Attributes that the plugin could not set because another plugin uses them for permissions";
    writer.family("plugin_attributes_refused", help, refused)?;
    let skipped = each(|plugin| plugin.counts.skipped);
    writer.family("plugin_skipped", "Events decided by the failure policy without a call", skipped)?;
    let open = |plugin: &PluginStatus| {
        u64::from(plugin.live.as_ref().is_some_and(|live| live.breaker != Position::Closed))
    };
    writer.gauges(
        "plugin_breaker_open",
        "Whether the breaker keeps events away from the plugin",
        each(open),
    )?;
    let opened = each(|plugin| plugin.counts.breaker_opened);
    writer.family("plugin_breaker_opened", "How often failures opened the breaker", opened)?;
    writer.family(
        "plugin_deliveries_dropped",
        "Publications that a class of subscribers of a worker did not receive because of the plugin",
        each(|plugin| plugin.counts.deliveries_dropped),
    )?;
    writer.family(
        "plugin_deliveries_replaced",
        "Publications that a class of subscribers of a worker received with another payload",
        each(|plugin| plugin.counts.deliveries_replaced),
    )?;
    let dropped = each(|plugin| plugin.counts.log_lines_dropped);
    writer.family("plugin_log_lines_dropped", "Log lines above the limits of the plugin", dropped)?;
    let entries = each(|plugin| plugin.counts.state.entries);
    writer.gauges("plugin_state_entries", "Rate limits and values kept for the plugin", entries)?;
    let bytes = each(|plugin| plugin.counts.state.bytes);
    writer.gauges("plugin_state_bytes", "Bytes of memory kept for the plugin", bytes)?;
    let evictions = each(|plugin| plugin.counts.state.evictions);
    writer.family("plugin_state_evictions", "Rate limits and values evicted for others", evictions)
}

fn kind_label(kind: Kind) -> &'static str {
    match kind {
        Kind::Publish => "publish",
        Kind::Subscribe => "subscribe",
        Kind::Unsubscribe => "unsubscribe",
        Kind::Rpc => "rpc",
        Kind::Send => "send",
        Kind::Presence => "presence",
        Kind::PresenceStats => "presence_stats",
        Kind::History => "history",
        Kind::Raw => "raw",
        Kind::SubRefresh => "sub_refresh",
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::histogram::Times;
    use crate::plugin::counters::Counts;
    use crate::plugin::load::{LoadCode, LoadError};
    use crate::plugin::registry::{Applied, Loads};
    use crate::plugin::state::Usage;
    use crate::protocol::code::Close;

    fn plugin(name: &str, calls: u64) -> PluginStatus {
        let times = Times::default();
        times.observe(Duration::from_micros(5));
        times.observe(Duration::from_secs(11));
        PluginStatus {
            name: name.into(),
            file: format!("10-{name}.wasm").into(),
            order: Some(0),
            state: PluginState::Refused,
            live: None,
            compiling: None,
            last_error: None,
            kept: Vec::new(),
            counts: Counts {
                calls,
                failures: [0, 7, 0, 0, 0],
                state: Usage { entries: 11, bytes: 1200, evictions: 13 },
                times: Hook::ALL
                    .map(|hook| if hook == Hook::Message { times.read() } else { <_>::default() }),
                ..Counts::default()
            },
        }
    }

    fn scrape(metrics: &Arc<Metrics>) -> String {
        Exposition::new(metrics.clone(), || vec![plugin("auth", 5)])
            .text()
            .expect("a String takes everything")
    }

    #[test]
    fn counts_of_all_workers_are_summed() {
        let metrics = Metrics::new(3);
        metrics.worker(0).messages_in.add(2);
        metrics.worker(2).messages_in.add(40);
        metrics.worker(1).bytes_in.add(1_000);
        metrics.worker(0).writes.observe(100);
        metrics.worker(2).writes.observe(65);
        metrics.worker(2).delivery_lag.observe(Duration::from_millis(2));
        metrics.worker(1).opened("a", Ipv4Addr::LOCALHOST.into());
        metrics.worker(1).opened("b", Ipv4Addr::LOCALHOST.into());
        metrics.worker(1).closed(CloseCause::NoPong, &Close::NO_PONG, "a");
        metrics.worker(2).refused(Refused::Origin, Ipv4Addr::LOCALHOST.into());
        metrics.worker(2).decision(DecisionOutcome::Denied);
        metrics.worker(2).command(Kind::PresenceStats);
        let refused = vec![("20-b.wasm".into(), LoadError::new(LoadCode::Empty, "is empty"))];
        let loads = Loads { compiled: 2, cached: 1, refused: vec![LoadCode::Empty] };
        let applied = |changed, loads| {
            let refused = refused.clone();
            metrics.node.applied(&Applied { generation: 9, changed, live: 3, refused, loads });
        };
        applied(true, loads);
        applied(false, Loads::default());
        metrics.node.admin_response("/metrics", 200);
        metrics.node.admin_response("/metrics", 418);
        let upstream = metrics.node.upstream("orders", 2, &["emitted", "connected"]);
        upstream.entered(1000);
        upstream.entered(500);
        upstream.left(1000);
        upstream.sent(1);
        upstream.refused();
        let text = scrape(&metrics);
        for line in [
            "gateway_connections 1",
            "gateway_connections_opened_total 2",
            "gateway_connections_closed_total{cause=\"no_pong\"} 1",
            "gateway_connections_closed_total{cause=\"slow\"} 0",
            "gateway_connections_refused_total{reason=\"origin\"} 1",
            "gateway_messages_received_total 42",
            "gateway_received_bytes_total 1000",
            "gateway_sent_bytes_total 165",
            "# TYPE gateway_write_size_bytes histogram",
            "# UNIT gateway_write_size_bytes bytes",
            "gateway_write_size_bytes_bucket{le=\"64.0\"} 0",
            "gateway_write_size_bytes_bucket{le=\"128.0\"} 2",
            "gateway_write_size_bytes_bucket{le=\"+Inf\"} 2",
            "gateway_write_size_bytes_sum 165.0",
            "gateway_write_size_bytes_count 2",
            "gateway_delivery_lag_seconds_bucket{le=\"0.001\"} 0",
            "gateway_delivery_lag_seconds_bucket{le=\"0.005\"} 1",
            "gateway_delivery_lag_seconds_sum 0.002",
            "gateway_plugin_call_seconds_bucket{le=\"0.000001\",plugin=\"auth\",hook=\"on-message\"} 0",
            "gateway_plugin_call_seconds_bucket{le=\"0.000005\",plugin=\"auth\",hook=\"on-message\"} 1",
            "gateway_plugin_call_seconds_bucket{le=\"10.0\",plugin=\"auth\",hook=\"on-message\"} 1",
            "gateway_plugin_call_seconds_bucket{le=\"+Inf\",plugin=\"auth\",hook=\"on-message\"} 2",
            "gateway_plugin_call_seconds_count{plugin=\"auth\",hook=\"on-message\"} 2",
            "gateway_commands_total{kind=\"presence_stats\"} 1",
            "gateway_decisions_total{outcome=\"denied\"} 1",
            "gateway_plugin_generation 9",
            "gateway_plugins_live 3",
            "gateway_plugins_refused 1",
            "gateway_plugin_swaps_total 1",
            "gateway_plugin_compiles_total 2",
            "gateway_plugin_cache_hits_total 1",
            "gateway_plugin_refusals_total{code=\"empty\"} 1",
            "gateway_plugin_versions_kept{plugin=\"auth\"} 0",
            "gateway_admin_responses_total{status=\"200\"} 1",
            "gateway_admin_responses_total{status=\"other\"} 1",
            "gateway_upstream_sent_total{upstream=\"orders\"} 1",
            "gateway_upstream_refused_total{upstream=\"orders\"} 1",
            "gateway_upstream_dead_total{upstream=\"orders\"} 0",
            "gateway_upstream_events_total{upstream=\"orders\",type=\"connected\",outcome=\"sent\"} 1",
            "gateway_upstream_queue_events{upstream=\"orders\"} 1",
            "gateway_upstream_queue_bytes{upstream=\"orders\"} 500",
            "gateway_plugin_calls_total{plugin=\"auth\"} 5",
            "gateway_plugin_failures_total{plugin=\"auth\",cause=\"deadline\"} 7",
            "gateway_plugin_live{plugin=\"auth\"} 0",
            "gateway_plugin_state_entries{plugin=\"auth\"} 11",
            "gateway_plugin_state_bytes{plugin=\"auth\"} 1200",
            "gateway_plugin_state_evictions_total{plugin=\"auth\"} 13",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("hook=\"on-connect\""), "a hook that was not called");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_file_in_the_folder_cannot_break_the_page() {
        let statuses = || vec![plugin("auth", 5), plugin("auth", 6), plugin("a\"} 1\nb", 7)];
        let text = Exposition::new(Metrics::new(1), statuses).text().expect("a String takes everything");
        let calls: Vec<_> =
            text.lines().filter(|line| line.starts_with("gateway_plugin_calls_total")).collect();
        assert_eq!(calls, ["gateway_plugin_calls_total{plugin=\"auth\"} 5"]);
    }

    #[test]
    fn every_metric_has_a_help_line_and_a_name_of_its_own() {
        let text = scrape(&Metrics::new(1));
        let names = |prefix: &str| -> Vec<String> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
            lines.map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
        };
        let (help, types) = (names("# HELP "), names("# TYPE "));
        assert_eq!(help, types);
        assert_eq!(help.iter().collect::<BTreeSet<_>>().len(), help.len());
        let is_ours = |name: &String| name.starts_with("gateway_") || name.starts_with("process_");
        assert!(help.iter().all(is_ours));
    }

    #[test]
    fn every_counter_that_exists_is_shown() {
        // Each counter gets a different number, which must then appear.
        let metrics = Metrics::new(1);
        let worker = metrics.worker(0);
        let plain = [&worker.connections_opened, &worker.messages_in, &worker.bytes_in, &worker.messages_out]
            .into_iter()
            .chain([&worker.publications_delivered, &worker.outbound_overflows])
            .chain([&worker.outbound_evictions])
            .chain([&worker.inbox_overflows, &worker.position_gaps, &worker.accept_errors])
            .chain([&worker.effects_refused, &worker.compression_agreed, &worker.http2_connections])
            .chain(worker.compressed.iter().chain(&worker.decompressed).chain(&worker.deltas))
            .chain(
                worker.closed.iter().chain(&worker.refused).chain(&worker.commands).chain(&worker.decisions),
            )
            .chain(&worker.control_frames)
            .chain(&worker.emulated);
        let mut last = 10_000;
        for counter in plain {
            last += 1;
            counter.add(last);
        }
        let text = scrape(&metrics);
        for number in 10_001..=last {
            assert!(text.contains(&format!(" {number}\n")), "{number}");
        }
    }
}
