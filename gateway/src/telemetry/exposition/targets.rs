//! Writes the metrics of the targets of upstreams, and of questions to upstreams.

use std::fmt;
use std::sync::Arc;

use super::writer::Writer;
use crate::histogram::Observed;
use crate::telemetry::target::{
    AskMetrics, AskOutcome, RequestOutcome, ShadowResult, TargetMetrics, TargetState,
};
use crate::telemetry::upstream::UpstreamMetrics;

/// The names of upstreams and the numbers of targets come from the configuration.
pub(super) fn write(writer: &mut Writer<'_, '_>, upstreams: &[Arc<UpstreamMetrics>]) -> fmt::Result {
    asks(writer, upstreams)?;
    let targets = || {
        upstreams
            .iter()
            .flat_map(|upstream| upstream.targets.iter().map(move |target| (upstream.name(), target)))
    };
    let label = |name, target| [("upstream", name), ("target", TargetMetrics::index(target))];
    let requests = targets().flat_map(|(name, target)| {
        RequestOutcome::ALL.map(|outcome| {
            let [upstream, index] = label(name, target);
            ([upstream, index, ("outcome", outcome.as_str())], target.requests(outcome))
        })
    });
    let help = "Requests to a target, for events and questions, by outcome";
    writer.family("upstream_target_requests", help, requests)?;
    let weights = targets().map(|(name, target)| (label(name, target), target.weight()));
    writer.gauges("upstream_target_weight", "Share of a target, compared with the others", weights)?;
    let states = targets().flat_map(|(name, target)| {
        TargetState::ALL.map(|state| {
            let [upstream, index] = label(name, target);
            ([upstream, index, ("state", state.as_str())], u64::from(target.has_state(state)))
        })
    });
    writer.gauges("upstream_target_state", "Whether a target is in this state", states)?;
    let opened = targets().map(|(name, target)| (label(name, target), target.opened()));
    writer.family("upstream_target_opened", "How often failures opened the breaker of a target", opened)
}

fn asks(writer: &mut Writer<'_, '_>, upstreams: &[Arc<UpstreamMetrics>]) -> fmt::Result {
    let each = |value: fn(&AskMetrics) -> u64| {
        upstreams.iter().map(move |upstream| ([("upstream", upstream.name())], value(&upstream.asks)))
    };
    let outcomes = upstreams.iter().flat_map(|upstream| {
        let label = |outcome: AskOutcome| [("upstream", upstream.name()), ("outcome", outcome.as_str())];
        AskOutcome::ALL.map(|outcome| (label(outcome), upstream.asks.asks(outcome)))
    });
    writer.family("upstream_asks", "Questions to an upstream, by outcome", outcomes)?;
    let times: Vec<(&str, Observed)> =
        upstreams.iter().map(|upstream| (upstream.name(), upstream.asks.times())).collect();
    let times = times.iter().map(|(name, times)| ([("upstream", *name)], times));
    let help = "Time from a question to its end, of questions that were sent";
    writer.times_family("upstream_ask", help, times.filter(|(_, times)| times.count() > 0))?;
    writer.family("upstream_asks_retried", "Attempts after the first", each(AskMetrics::retries))?;
    writer.gauges("upstream_asks_waiting", "Questions that wait to be sent", each(AskMetrics::waiting))?;
    let help = "Questions that are sent and not answered";
    writer.gauges("upstream_asks_in_flight", help, each(AskMetrics::in_flight))?;
    let shadows = upstreams.iter().flat_map(|upstream| {
        let label = |result: ShadowResult| [("upstream", upstream.name()), ("result", result.as_str())];
        ShadowResult::ALL.map(|result| (label(result), upstream.asks.shadows(result)))
    });
    let help =
        "Questions for the shadow: whether its status was that of the target, or that they were skipped";
    writer.family("upstream_shadow", help, shadows)
}
