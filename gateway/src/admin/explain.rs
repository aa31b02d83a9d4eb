//! The endpoints for explanations of messages: one starts them, one reads the latest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_plugin_grammar::address;
use serde_json::{Value, json};

use super::fields::{Failure, Fields, bad_request};
use crate::control::Control;
use crate::explain::{SECONDS_MAX, Since, TAGS_MAX, Whose};
use crate::plugin::trace::Trace;
use crate::protocol::code::ReplyError;

/// Default number of explanations in one answer.
const LIMIT: usize = 20;
/// Default time to watch, in seconds.
const SECONDS: u64 = 60;

/// The latest explanations, newest first; with `after`, those since a number, oldest first.
pub(super) fn last(control: &Control, mut fields: Fields) -> Result<Value, Failure> {
    let limit = fields.optional("limit")?.unwrap_or(LIMIT);
    let after: Option<u64> = fields.optional("after")?;
    fields.finish()?;
    let json = |traces: &[Arc<Trace>]| traces.iter().map(|trace| trace.to_json()).collect::<Vec<_>>();
    let Some(after) = after else {
        return Ok(json!({"traces": json(&control.explain().last(limit))}));
    };
    let Since { traces, next, dropped, skipped } = control.explain().since(after, limit);
    Ok(json!({"traces": json(&traces), "next": next, "dropped": dropped, "skipped": skipped}))
}

/// Explains the messages of a user, of connections with an attribute, on channels, or all, for some seconds.
pub(super) fn start(control: &Control, mut fields: Fields) -> Result<Value, Failure> {
    let user = fields.user()?;
    let attribute: Option<BTreeMap<Box<str>, Box<str>>> = fields.optional("attribute")?;
    let channels: Option<Box<str>> = fields.optional("channels")?;
    let everything = fields.optional("everything")?.unwrap_or(false);
    let seconds = fields.optional("seconds")?.unwrap_or(SECONDS);
    fields.finish()?;
    if let Some(pattern) = channels.as_deref().filter(|pattern| !address::is_pattern(pattern)) {
        return Err(bad_request(format!("`channels` is no pattern of channels: {pattern:?}")).into());
    }
    let mut attribute = attribute.unwrap_or_default();
    if attribute.len() > 1 {
        let message = format!("`attribute` has {} entries, one is accepted", attribute.len());
        return Err(bad_request(message).into());
    }
    let whose = match (user, attribute.pop_first(), channels, everything) {
        (Some(user), None, None, false) => Whose::User(user),
        (None, Some((name, value)), None, false) => Whose::Attribute(name, value),
        (None, None, Some(pattern), false) => Whose::Channels(pattern),
        (None, None, None, true) => Whose::Everything,
        _ => {
            let message = "expected exactly one of `user`, `attribute` with a name and a value such as {\"tenant\": \"a\"}, \
                           `channels` with a pattern such as \"chat:*\", and `everything`: true";
            return Err(bad_request(message).into());
        }
    };
    if !(1..=SECONDS_MAX).contains(&seconds) {
        return Err(bad_request(format!("`seconds` is {seconds}, accepted are 1 to {SECONDS_MAX}")).into());
    }
    if !control.explain().watch(whose, Duration::from_secs(seconds)) {
        let message = format!(
            "{TAGS_MAX} users and attributes are watched already; wait until the time of one is over"
        );
        return Err(ReplyError::LIMIT_EXCEEDED.because(message).into());
    }
    Ok(json!({"seconds": seconds}))
}
