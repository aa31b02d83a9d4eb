//! Lets payloads through that follow a JSON Schema. See `README.md` for the settings.
//!
//! Schemas are compiled when the plugin is loaded (`settings`); a message meets those that are for its kind
//! and channel (`rule`), and what the client learns of an error holds nothing of its payload (`reason`).

mod reason;
mod rule;
mod settings;
#[cfg(test)]
mod tests;

use gateway_plugin_sdk::prelude::*;

use rule::{Action, Rule};
use settings::Settings;

/// As many channel patterns as the gateway takes as interests.
const PATTERNS_MAX: usize = 64;

/// The plugin.
pub struct Schema {
    rules: Vec<Rule>,
}

#[plugin(self_test = "self-test.json")]
impl Plugin for Schema {
    type Config = Settings;

    fn configure(config: Settings, interests: &mut Interests) -> Result<Self, String> {
        let plugin = Self { rules: config.check()? };
        plugin.declare(interests);
        Ok(plugin)
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        let mut payload = None;
        for rule in &self.rules {
            if !rule.covers(event) {
                continue;
            }
            // Read once, and only if a schema is to look at it.
            let payload = payload.get_or_insert_with(|| read(event.payload()));
            let reason = match payload {
                Ok(payload) => match rule.violation(payload) {
                    None => continue,
                    Some(reason) => reason,
                },
                Err(why) => (*why).to_owned(),
            };
            let (kind, channel) = (event.kind(), event.channel());
            if rule.dry_run {
                log::info!("would refuse a {kind} to {channel:?}: {reason}");
                continue;
            }
            log::debug!("refused a {kind} to {channel:?}: {reason}");
            return match rule.action {
                Action::Deny => Verdict::deny(code::BAD_REQUEST, reason),
                Action::Drop => Verdict::drop(),
                Action::Disconnect => Verdict::disconnect(code::CLOSE_BAD_REQUEST, reason),
            };
        }
        Verdict::next()
    }
}

impl Schema {
    fn declare(&self, interests: &mut Interests) {
        interests.kinds(self.rules.iter().flat_map(|rule| rule.kinds.iter().copied()));
        let patterns: Vec<&str> =
            self.rules.iter().flat_map(|rule| &rule.channels).map(String::as_str).collect();
        // A rule without channels is for all of them.
        if self.rules.iter().all(|rule| !rule.channels.is_empty()) && patterns.len() <= PATTERNS_MAX {
            interests.channels(patterns);
        }
    }
}

/// A command without a payload is validated as `null`.
fn read(payload: &[u8]) -> Result<Value, &'static str> {
    if payload.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(payload).map_err(|_| "the payload is not JSON")
}
