//! `Limit` applies one line of the table of limits to a message.

use std::time::Duration;

use gateway_plugin_sdk::fields::Fields;
use gateway_plugin_sdk::kv;
use gateway_plugin_sdk::prelude::*;
use gateway_plugin_sdk::rate::{Bucket, RetryAfter};

use crate::key::{Key, Part};

/// As many channel patterns as the gateway takes as interests.
const PATTERNS_MAX: usize = 64;
/// How often a limit says how much it has refused.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) bucket: Bucket,
    /// `None` for all.
    pub(crate) kinds: Option<Vec<Kind>>,
    /// Patterns, of which one has to match; `None` for all messages, also those without a channel.
    pub(crate) channels: Option<Vec<String>>,
    pub(crate) key: Vec<Part>,
    pub(crate) cost: Cost,
    pub(crate) excess: Excess,
    /// Whether a message that lacks a part of the key is refused.
    pub(crate) refuses_missing: bool,
    /// Counts and refuses nothing.
    pub(crate) dry_run: bool,
}

/// How much of a limit a message takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cost {
    Fixed(u32),
    /// As many as the payload has bytes.
    Bytes,
}

/// What becomes of a message that exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    Deny,
    Disconnect,
}

impl Limit {
    /// Makes the places that the key looks at known to those who read payloads.
    pub(crate) fn add_to(&mut self, fields: &mut Fields) {
        for part in &mut self.key {
            if let Part::Field(path, slot) = part {
                *slot = Some(fields.add(path));
            }
        }
    }

    pub(crate) fn applies_to(&self, event: &Message<'_>) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind()))
            && self.channels.as_ref().is_none_or(|patterns| {
                !event.channel().is_empty() && patterns.iter().any(|p| address::concerns(p, event.channel()))
            })
    }

    /// Takes what a message costs. The answer to the client if it is refused.
    pub(crate) fn charge(&self, event: &Message<'_>, key: &mut Key<'_>) -> Option<Verdict> {
        let cost = match self.cost {
            Cost::Fixed(cost) => cost,
            Cost::Bytes => u32::try_from(event.payload().len()).unwrap_or(u32::MAX),
        };
        let taken = if self.key == [Part::Connection] {
            self.bucket.take_for(event, cost)
        } else {
            match key.of(&self.key) {
                Ok(key) => self.bucket.take(key, cost),
                Err(_) if !self.refuses_missing => return None,
                Err(missing) => return self.refuse(|| without(missing)),
            }
        };
        taken.err().and_then(|retry| self.refuse(|| self.exceeded(retry)))
    }

    fn exceeded(&self, retry: RetryAfter) -> Verdict {
        let reason = format!("{}: {retry}", self.name);
        match (self.excess, retry.duration()) {
            (Excess::Disconnect, _) => Verdict::disconnect(code::CLOSE_TOO_MANY_REQUESTS, reason),
            (Excess::Deny, Some(_)) => Verdict::deny(code::TOO_MANY_REQUESTS, reason),
            // Trying again would not help, so the client is not asked to.
            (Excess::Deny, None) => Verdict::deny(code::LIMIT_EXCEEDED, reason),
        }
    }

    /// Counts, says so now and then, and refuses unless this is a dry run.
    fn refuse(&self, verdict: impl FnOnce() -> Verdict) -> Option<Verdict> {
        let (name, did) = (&self.name, if self.dry_run { "would have refused" } else { "has refused" });
        match kv::increment(&format!("{did}:{name}"), 1, None) {
            Ok(count) => {
                // The instances of all workers share this: one of them speaks.
                if kv::add(&format!("said:{name}"), "", SAY_EVERY) == Ok(true) {
                    let messages = if count == 1 { "message" } else { "messages" };
                    log::info!("limit `{name}` {did} {count} {messages} so far");
                }
            }
            Err(error) => log::error!("limit `{name}` cannot count what it refuses: {error}"),
        }
        (!self.dry_run).then(verdict)
    }
}

fn without(part: &Part) -> Verdict {
    match part {
        Part::User => Verdict::deny(code::UNAUTHORIZED, "sign in"),
        other => Verdict::deny(code::BAD_REQUEST, format!("{other} is missing")),
    }
}

/// Asks for no more than the limits can use. What the gateway does not hand over, it need not copy.
pub(crate) fn declare(limits: &[Limit], interests: &mut Interests) {
    if let Some(kinds) = Interests::union(limits.iter().map(|limit| limit.kinds.as_deref())) {
        interests.kinds(kinds);
    }
    // With more patterns than the gateway takes, the plugin sees all channels and sorts for itself.
    if let Some(patterns) = Interests::union(limits.iter().map(|limit| limit.channels.as_deref()))
        && patterns.len() <= PATTERNS_MAX
    {
        interests.channels(patterns);
    }
    let looks_into_payload = |limit: &Limit| {
        limit.cost == Cost::Bytes || limit.key.iter().any(|part| matches!(part, Part::Field(..)))
    };
    if !limits.iter().any(looks_into_payload) {
        interests.without_payload();
    }
}
