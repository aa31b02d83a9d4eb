//! Whether the gateway can carry out what a plugin answered. It treats what it cannot as a failure of the plugin, so in
//! a test it is one too.

use gateway_plugin_grammar::json;
use serde::de::IgnoredAny;

use super::host::Call;
use crate::{Connect, Refusal, Verdict, address};

pub(super) fn message(verdict: &Verdict, call: &mut Call) -> Result<(), String> {
    match verdict {
        Verdict::Next | Verdict::Allow | Verdict::Drop => Ok(()),
        Verdict::Deny(refusal) => is_refusal(refusal, call),
        Verdict::Disconnect(refusal) => {
            call.spend(refusal.reason.len())?;
            is_closing(refusal)
        }
        Verdict::Replace(payload) | Verdict::Reply(payload) => {
            call.spend(payload.len())?;
            if call.speaks_json() { is_json("payload", payload) } else { Ok(()) }
        }
        Verdict::Route(addresses) => are_addresses(addresses, call),
    }
}

pub(super) fn connect(verdict: &Connect, call: &mut Call) -> Result<(), String> {
    let identity = match verdict {
        Connect::Pass => return Ok(()),
        Connect::Refuse(refusal) => return is_refusal(refusal, call),
        Connect::Accept(identity) => identity,
    };
    call.spend(identity.user.len())?;
    address::check_user(&identity.user).map_err(|why| why.to_string())?;
    for (field, json) in [("info", &identity.info), ("data", &identity.data)] {
        call.spend(json.len())?;
        if !json.is_empty() {
            is_json(field, json)?;
        }
    }
    are_few(identity.attributes.len(), call)?;
    for (name, value) in &identity.attributes {
        call.spend(name.len() + value.len())?;
        if name.is_empty() {
            return Err("the name of an attribute is empty".into());
        }
    }
    are_addresses(&identity.channels, call)
}

pub(super) fn is_address(name: &str) -> Result<(), String> {
    if address::is_valid(name) { Ok(()) } else { Err(format!("{name:?} is not a valid address")) }
}

pub(super) fn is_json(what: &str, bytes: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|e| format!("the {what} is not JSON: {e}"))?;
    json::check(bytes).map_err(|unfit| format!("the {what} is JSON {unfit}"))
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
    are_few(names.len(), call)?;
    names.iter().try_for_each(|name| {
        call.spend(name.len())?;
        is_address(name)
    })
}

fn are_few(count: usize, call: &Call) -> Result<(), String> {
    let most = call.limits.effects;
    if count <= most { Ok(()) } else { Err(format!("{count} of a kind; at most {most} (effects_max)")) }
}
