//! The endpoints for upstreams: one lists them, one moves the weights of their targets.

use serde_json::{Map, Value, json};

use super::answer::Nothing;
use super::fields::{Failure, Fields, bad_request};
use crate::control::Control;
use crate::telemetry::target::{AskOutcome, ShadowResult};
use crate::upstream::{TargetStatus, UpstreamStatus};

/// Every upstream with its targets and counts, by name.
pub(super) fn list(control: &Control, fields: Fields) -> Result<Value, Failure> {
    fields.finish()?;
    let upstreams: Vec<Value> = control.upstreams().status().iter().map(upstream).collect();
    Ok(json!({"upstreams": upstreams}))
}

/// Replaces the weights of the targets of an upstream.
pub(super) fn set_weights(control: &Control, mut fields: Fields) -> Result<Nothing, Failure> {
    let name: Box<str> = fields.required("upstream")?;
    let weights: Vec<u32> = fields.required("weights")?;
    fields.finish()?;
    match control.upstreams().set_weights(&name, &weights) {
        Ok(()) => Ok(Nothing {}),
        Err(error) => Err(bad_request(error.to_string()).into()),
    }
}

fn upstream(status: &UpstreamStatus) -> Value {
    let (asks, (events, bytes)) = (&status.metrics.asks, status.metrics.queued());
    let outcomes = counts(AskOutcome::ALL.map(|outcome| (outcome.as_str(), asks.asks(outcome))));
    let shadow = counts(ShadowResult::ALL.map(|result| (result.as_str(), asks.shadows(result))));
    json!({
        "name": status.name,
        "targets": status.targets.iter().map(target).collect::<Vec<_>>(),
        "asks": {"waiting": asks.waiting(), "in_flight": asks.in_flight(), "outcomes": outcomes, "shadow": shadow},
        "events": {"queued": events, "queued_bytes": bytes},
    })
}

fn target(status: &TargetStatus) -> Value {
    let requests = status.requests.map(|(outcome, count)| (outcome.as_str(), count));
    json!({
        "url": status.url,
        "weight": status.weight,
        "state": status.state.as_str(),
        "opened": status.opened,
        "requests": counts(requests),
    })
}

fn counts<const N: usize>(counts: [(&'static str, u64); N]) -> Map<String, Value> {
    counts.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect()
}
