//! `Profile` maps claims to the identity of a client: user, attributes, subscriptions, expiry.

use std::collections::BTreeMap;

use gateway_plugin_sdk::{Connect, address};
use serde_json::Value;

use crate::Rejected;
use crate::claims::{ClaimPath, Claims};

/// As many as the gateway takes from one answer by default. More would be a failure of the plugin and not of
/// the token.
const CHANNELS_MAX: usize = 64;

/// Longest attribute in bytes. A connection has room for 16 KiB of them.
const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// Which claims say who a client is.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) user: ClaimPath,
    /// Whether a token without this claim is refused. Otherwise its client is anonymous.
    pub(crate) user_required: bool,
    pub(crate) info: ClaimPath,
    pub(crate) data: ClaimPath,
    pub(crate) channels: ClaimPath,
    /// The attribute that each claim becomes.
    pub(crate) attributes: BTreeMap<ClaimPath, String>,
}

impl Profile {
    /// The client that a good token admits.
    pub(crate) fn identify(&self, claims: &Claims) -> Result<(String, Connect), Rejected> {
        let user = self.user(claims)?;
        let mut connect = Connect::accept(user.clone()).channels(self.channels(claims)?);
        // `null` says nothing here.
        let json = |path| claims.get(path).filter(|value| !value.is_null());
        if let Some(info) = json(&self.info) {
            connect = connect.info_json(info);
        }
        if let Some(data) = json(&self.data) {
            connect = connect.data_json(data);
        }
        for (path, name) in &self.attributes {
            let value = claims.get(path).map(attribute).unwrap_or_default();
            if value.len() > ATTRIBUTE_BYTES_MAX {
                return Err(Rejected::Invalid(format!(
                    "claim `{path}` is longer than an attribute may be ({ATTRIBUTE_BYTES_MAX} bytes)"
                )));
            }
            // An empty value removes what a token before had set.
            connect = connect.attribute(name, value);
        }
        Ok((user, connect))
    }

    /// The user of a good token; empty for an anonymous client.
    pub(crate) fn user(&self, claims: &Claims) -> Result<String, Rejected> {
        if !self.user_required && claims.get(&self.user).is_none() {
            return Ok(String::new());
        }
        claims.user(&self.user)
    }

    fn channels<'c>(&self, claims: &'c Claims) -> Result<Vec<&'c str>, Rejected> {
        let (path, names) = (&self.channels, claims.texts(&self.channels)?);
        if names.len() > CHANNELS_MAX {
            return Err(Rejected::Invalid(format!("claim `{path}` has more than {CHANNELS_MAX} channels")));
        }
        if names.iter().any(|name| address::check_subscription(name).is_err()) {
            return Err(Rejected::Invalid(format!("claim `{path}` holds a text that is no channel name")));
        }
        Ok(names)
    }
}

/// Texts as they are, anything else as JSON.
fn attribute(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
