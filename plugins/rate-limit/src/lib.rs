//! Refuses what exceeds a table of rate limits. See `README.md` for the table.
//!
//! The settings are read once, with every error reported (`settings`), into limits (`limit`). A message
//! meets those that apply to it in order; each is charged under a key made of parts of the message (`key`).

mod key;
mod limit;
mod settings;
#[cfg(test)]
mod tests;

use gateway_plugin_sdk::fields::Fields;
use gateway_plugin_sdk::prelude::*;
use serde_json::{Map, Value};

use key::Key;
use limit::Limit;

/// The plugin.
#[derive(Debug)]
pub struct RateLimit {
    limits: Vec<Limit>,
    /// What their keys look at in payloads.
    fields: Fields,
    /// Room for a key, used again for every message.
    room: Vec<u8>,
}

#[plugin(self_test = "self-test.json")]
impl Plugin for RateLimit {
    type Config = Map<String, Value>;

    fn configure(config: Map<String, Value>, interests: &mut Interests) -> Result<Self, String> {
        let mut limits = settings::read(config)?;
        limit::declare(&limits, interests);
        let mut fields = Fields::default();
        limits.iter_mut().for_each(|limit| limit.add_to(&mut fields));
        Ok(Self { limits, fields, room: Vec::new() })
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        let mut key = Key::new(event, &self.fields, &mut self.room);
        for limit in self.limits.iter().filter(|limit| limit.applies_to(event)) {
            if let Some(refusal) = limit.charge(event, &mut key) {
                return refusal;
            }
        }
        Verdict::next()
    }
}
