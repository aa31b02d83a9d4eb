//! Permits, refuses, rewrites and routes messages by a table of rules. See `README.md` for the table.
//!
//! The settings are read once, with every mistake reported (`settings`), into rules (`rule`) whose texts and values
//! are templates (`template`). A message then meets the rules in order, with a payload that is parsed only if a rule
//! looks into it (`payload`).

mod payload;
mod rule;
mod settings;
mod template;
#[cfg(test)]
mod tests;

use gateway_plugin_sdk::HostError;
use gateway_plugin_sdk::prelude::*;
use serde_json::{Map, Value};

use payload::Payload;
use rule::{Action, Rule};
use template::{Scope, Unfit};

/// The plugin.
#[derive(Debug)]
pub struct Router {
    rules: Vec<Rule>,
}

#[plugin]
impl Plugin for Router {
    type Config = Map<String, Value>;

    fn configure(config: Map<String, Value>, interests: &mut Interests) -> Result<Self, String> {
        let rules = settings::read(config)?;
        rule::declare(&rules, interests);
        Ok(Self { rules })
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        let mut payload = Payload::new(event.payload());
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.when.matches(event, &payload) {
                continue;
            }
            match act(&rule.then, event, &mut payload) {
                Ok(Some(verdict)) => return verdict,
                Ok(None) => {}
                Err(failure) => return failure.verdict(index + 1),
            }
        }
        match payload.into_rewritten() {
            Some(rewritten) => Verdict::replace(rewritten),
            None => Verdict::next(),
        }
    }
}

/// Why a rule that matched could not be carried out. It was meant to decide, so the message does not get past it.
enum Failure {
    /// The client's: it did not send what the rule needs.
    Message(Unfit),
    /// The gateway refused an effect.
    Host(HostError),
}

impl Failure {
    fn verdict(self, rule: usize) -> Verdict {
        match self {
            Self::Message(unfit) => {
                log::warn!("rule {rule}: {unfit}");
                Verdict::deny(code::BAD_REQUEST, "the message cannot be routed")
            }
            Self::Host(error) => {
                log::error!("rule {rule}: {error}");
                Verdict::deny(code::INTERNAL, "internal server error")
            }
        }
    }
}

/// Carries out one action. `None` goes on to the next rule.
fn act(action: &Action, event: &Message<'_>, payload: &mut Payload<'_>) -> Result<Option<Verdict>, Failure> {
    let scope = Scope { event, payload };
    let verdict = match action {
        Action::Deny(code, reason) => Verdict::deny(*code, reason),
        Action::Drop => Verdict::drop(),
        Action::Reply(value) => Verdict::reply_json(&value.fill(&scope).map_err(Failure::Message)?),
        Action::Allow => match payload.rewritten() {
            // A verdict permits a message or changes its payload, never both.
            Some(changed) if event.kind() == Kind::Publish => publish(event, &[event.channel()], changed)?,
            Some(changed) => Verdict::replace(changed),
            None => Verdict::allow(),
        },
        Action::Route(templates) => {
            let addresses = templates
                .iter()
                .map(|template| template.address(&scope))
                .collect::<Result<Vec<_>, _>>()
                .map_err(Failure::Message)?;
            match payload.rewritten() {
                // `route` publishes the payload that came in.
                Some(changed) => publish(event, &addresses, changed)?,
                None => Verdict::route(addresses),
            }
        }
        Action::Rewrite(fields) => {
            let values = fields
                .iter()
                .map(|(path, value)| Ok((path, value.fill(&scope)?)))
                .collect::<Result<Vec<_>, _>>()
                .map_err(Failure::Message)?;
            payload.set(values).map_err(Failure::Message)?;
            return Ok(None);
        }
    };
    Ok(Some(verdict))
}

/// Publishes a changed payload as an effect, and ends the chain as if the message itself had gone there.
fn publish(event: &Message<'_>, addresses: &[impl AsRef<str>], payload: &[u8]) -> Result<Verdict, Failure> {
    for address in addresses {
        event.publish(address, payload).map_err(Failure::Host)?;
    }
    Ok(Verdict::drop())
}
