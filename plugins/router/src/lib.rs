//! Permits, refuses, rewrites and routes messages by a table of rules. See `README.md` for the table.
//!
//! The settings are read once, with every error reported (`settings`), into rules (`rule`) whose texts and
//! values are templates (`template`). A message then meets the rules in order, with a payload that is read
//! only if a rule looks into it, and no further than it looks (`payload`).

mod payload;
mod rule;
mod settings;
mod template;
#[cfg(test)]
mod tests;

use gateway_plugin_sdk::HostErrorKind;
use gateway_plugin_sdk::fields::Fields;
use gateway_plugin_sdk::prelude::*;
use serde_json::{Map, Value};

use payload::Payload;
use rule::{Action, Rule};
use template::{Scope, Unfit};

/// What a client reads whose message does not fit the rules.
const UNROUTABLE: &str = "the message cannot be routed";

/// The plugin.
#[derive(Debug)]
pub struct Router {
    rules: Vec<Rule>,
    /// What they look at in payloads.
    fields: Fields,
}

#[plugin(self_test = "self-test.json")]
impl Plugin for Router {
    type Config = Map<String, Value>;

    fn configure(config: Map<String, Value>, interests: &mut Interests) -> Result<Self, String> {
        let mut rules = settings::read(config)?;
        rule::declare(&mut rules, interests);
        let mut fields = Fields::default();
        rules.iter_mut().for_each(|rule| rule.each_path(&mut |path| path.add_to(&mut fields)));
        Ok(Self { rules, fields })
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        let mut payload = Payload::new(event.payload(), &self.fields);
        let mut verdict = Verdict::next();
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.matches(event, &payload) {
                continue;
            }
            match act(&rule.then, event, &mut payload) {
                Ok(None) => {}
                Ok(Some(decided)) => {
                    verdict = decided;
                    break;
                }
                Err(unfit) => {
                    log::warn!("`rules[{index}]`: {unfit}");
                    return Verdict::deny(code::BAD_REQUEST, UNROUTABLE);
                }
            }
        }
        if let Some(rewritten) = payload.rewritten()
            && let Err(error) = event.set_payload(rewritten)
        {
            // It is JSON, but what a client sent lies deeper in it now than receivers can read.
            if error.kind == HostErrorKind::NotJson {
                log::warn!("a rewritten payload: {error}");
                return Verdict::deny(code::BAD_REQUEST, UNROUTABLE);
            }
            log::error!("a rewritten payload: {error}");
            return Verdict::deny(code::INTERNAL, "internal server error");
        }
        verdict
    }
}

/// Carries out one action. `None` goes on to the next rule. An error means that the client did not send what
/// the rule needs; the rule was meant to decide, so the message does not get past it.
fn act(action: &Action, event: &Message<'_>, payload: &mut Payload<'_>) -> Result<Option<Verdict>, Unfit> {
    let scope = Scope { event, payload };
    Ok(Some(match action {
        Action::Allow => Verdict::allow(),
        Action::Deny(code, reason) => Verdict::deny(*code, reason),
        Action::Drop => Verdict::drop(),
        Action::Reply(value) => Verdict::reply_json(&value.fill(&scope)?),
        Action::Route(templates) => {
            let mut addresses = Vec::with_capacity(templates.len());
            for template in templates {
                addresses.push(template.address(&scope)?);
            }
            Verdict::Route(addresses)
        }
        Action::Rewrite(fields) => {
            let values = fields.iter().map(|(path, value)| Ok((path, value.fill(&scope)?)));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            payload.set(values)?;
            return Ok(None);
        }
    }))
}
