//! Whether the gateway can carry out what a plugin answered. It treats what it cannot as a failure of the
//! plugin, so in a test it is one too. What it cannot because of what somebody else sent is none: it refuses
//! the event instead.

use gateway_plugin_grammar::answer::{self, Refused};
use gateway_plugin_grammar::json;
use serde::de::IgnoredAny;

use super::LogLine;
use super::host::Call;
use crate::log::Level;
use crate::{Connect, Delivery, Refusal, Verdict, address};

/// What takes the place of an answer, if something does.
type Instead = Option<Refusal>;

pub(super) fn message(verdict: &Verdict, call: &mut Call) -> Result<Instead, String> {
    match verdict {
        Verdict::Next | Verdict::Allow | Verdict::Drop => {}
        Verdict::Deny(refusal) => is_refusal(refusal, call)?,
        Verdict::Disconnect(refusal) => {
            call.spend(refusal.reason.len())?;
            is_closing(refusal)?;
        }
        Verdict::Replace(payload) | Verdict::Reply(payload) => {
            call.spend(payload.len())?;
            if call.speaks_json() {
                return Ok(fits("a payload", payload)?.map(|refused| instead(refused, call)));
            }
        }
        Verdict::Route(addresses) => are_addresses(addresses, call)?,
    }
    Ok(None)
}

pub(super) fn connect(verdict: &Connect, call: &mut Call) -> Result<Instead, String> {
    let identity = match verdict {
        Connect::Pass => return Ok(None),
        Connect::Refuse(refusal) => return is_refusal(refusal, call).map(|()| None),
        Connect::Accept(identity) => identity,
    };
    if let Err(refused) = answer::user(&identity.user) {
        return Ok(Some(instead(refused, call)));
    }
    are_few(identity.attributes.len(), call)?;
    call.spend(identity.user.len())?;
    for (name, value) in &identity.attributes {
        call.spend(name.len() + value.len())?;
        if name.is_empty() {
            return Err("the name of an attribute is empty".into());
        }
    }
    let mut refused = None;
    for (field, json) in [("info", &identity.info), ("data", &identity.data)] {
        call.spend(json.len())?;
        if !json.is_empty() {
            refused = refused.or(fits(field, json)?);
        }
    }
    if let Some(refused) = refused {
        return Ok(Some(instead(refused, call)));
    }
    are_names(&identity.channels, is_subscription, call).map(|()| None)
}

/// Whether nothing is delivered in place of what a plugin replaced a publication with.
pub(super) fn deliver(verdict: &Delivery, call: &mut Call) -> Result<bool, String> {
    let Delivery::Replace(payload) = verdict else { return Ok(false) };
    call.spend(payload.len())?;
    // What is no JSON is delivered as a text.
    let Ok(Some(refused)) = fits("a payload", payload) else { return Ok(false) };
    instead(refused, call);
    Ok(true)
}

fn instead(refused: Refused, call: &mut Call) -> Refusal {
    call.log.push(LogLine { level: Level::Warn, message: refused.line });
    Refusal { code: refused.code, reason: refused.reason }
}

/// Whether bytes are JSON that receivers can read, or why their event is refused.
fn fits(what: &str, bytes: &[u8]) -> Result<Option<Refused>, String> {
    is_syntax(what, bytes)?;
    Ok(json::check(bytes).err().map(|unfit| answer::unfit(what, unfit)))
}

fn is_syntax(what: &str, bytes: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|e| format!("{what} is not JSON: {e}"))?;
    Ok(())
}

pub(super) fn is_address(name: &str) -> Result<(), String> {
    if address::is_valid(name) { Ok(()) } else { Err(format!("{name:?} is not a valid address")) }
}

/// The name of a subscription may be a pattern, too.
pub(super) fn is_subscription(name: &str) -> Result<(), String> {
    address::check_subscription(name).map_err(|why| format!("{name:?} is not a valid channel: {why}"))
}

/// For the functions of the host, which tell the plugin.
pub(super) fn is_json(what: &str, bytes: &[u8]) -> Result<(), String> {
    is_syntax(what, bytes)?;
    json::check(bytes).map_err(|unfit| format!("{what} is JSON {unfit}"))
}

pub(super) fn is_closing(refusal: &Refusal) -> Result<(), String> {
    match refusal.code {
        3000..=4999 => Ok(()),
        other => Err(format!("{other} is not a code that closes a connection (3000-4999)")),
    }
}

fn is_refusal(refusal: &Refusal, call: &mut Call) -> Result<(), String> {
    call.spend(refusal.reason.len())?;
    match refusal.code {
        100..=1999 | 3000..=4999 => Ok(()),
        other => Err(format!("{other} is not a code for clients (100-1999 or 3000-4999)")),
    }
}

fn are_addresses(names: &[String], call: &mut Call) -> Result<(), String> {
    are_names(names, is_address, call)
}

fn are_names(names: &[String], check: fn(&str) -> Result<(), String>, call: &mut Call) -> Result<(), String> {
    are_few(names.len(), call)?;
    names.iter().try_for_each(|name| {
        call.spend(name.len())?;
        check(name)
    })
}

fn are_few(count: usize, call: &Call) -> Result<(), String> {
    let most = call.limits.effects;
    if count <= most { Ok(()) } else { Err(format!("{count} of a kind; at most {most} (effects_max)")) }
}
