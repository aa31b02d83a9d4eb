//! The endpoints for explanations of messages: one starts them, one reads the latest.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::fields::{Failure, Fields, bad_request};
use crate::control::Control;
use crate::explain::{SECONDS_MAX, TAGS_MAX, Whose};
use crate::protocol::code::ReplyError;

/// Default number of explanations in one answer.
const LIMIT: usize = 20;
/// Default time to watch, in seconds.
const SECONDS: u64 = 60;

/// The latest explanations, newest first.
pub(super) fn last(control: &Control, mut fields: Fields) -> Result<Value, Failure> {
    let limit = fields.optional("limit")?.unwrap_or(LIMIT);
    fields.finish()?;
    let traces = control.explain().last(limit);
    Ok(json!({"traces": traces.iter().map(|trace| trace.to_json()).collect::<Vec<_>>()}))
}

/// Explains the messages of a user, or of connections with an attribute, for some seconds.
pub(super) fn start(control: &Control, mut fields: Fields) -> Result<Value, Failure> {
    let user = fields.user()?;
    let attribute: Option<BTreeMap<Box<str>, Box<str>>> = fields.optional("attribute")?;
    let seconds = fields.optional("seconds")?.unwrap_or(SECONDS);
    fields.finish()?;
    let whose = match (user, attribute.unwrap_or_default().pop_first()) {
        (Some(user), None) => Whose::User(user),
        (None, Some((name, value))) => Whose::Attribute(name, value),
        _ => {
            let message =
                "expected either `user`, or `attribute` with a name and a value such as {\"tenant\": \"a\"}";
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
