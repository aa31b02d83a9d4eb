//! `Rule` applies one JSON Schema to the payloads of the channels that it covers.

use gateway_plugin_sdk::{Kind, Message, address};
use jsonschema::Validator;
use serde_json::Value;

use crate::reason;

/// A schema and what it is for.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Patterns; all channels, and messages without one, if this is empty.
    pub(crate) channels: Vec<String>,
    pub(crate) kinds: Vec<Kind>,
    /// Of an rpc; all if this is empty.
    pub(crate) methods: Vec<String>,
    pub(crate) action: Action,
    /// Only say in the log what would be refused.
    pub(crate) dry_run: bool,
    pub(crate) validator: Validator,
    /// What the validator was made of, to say which limit was missed.
    pub(crate) schema: Value,
}

/// What becomes of a message with an invalid payload.
#[gateway_plugin_sdk::settings]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    #[default]
    Deny,
    Drop,
    Disconnect,
}

impl Rule {
    pub(crate) fn covers(&self, event: &Message<'_>) -> bool {
        let kind = event.kind();
        self.kinds.contains(&kind)
            && (self.channels.is_empty() || {
                let channel = event.channel();
                self.channels.iter().any(|pattern| address::concerns(pattern, channel))
            })
            && (kind != Kind::Rpc
                || self.methods.is_empty()
                || self.methods.iter().any(|method| method == event.method()))
    }

    /// What is wrong with a payload, in words for the client.
    pub(crate) fn violation(&self, payload: &Value) -> Option<String> {
        let error = self.validator.validate(payload).err()?;
        Some(reason::text(&error, &self.schema))
    }
}
