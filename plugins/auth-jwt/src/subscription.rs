//! Tokens for one channel: the backend decides who may subscribe, one token per user and channel.

use gateway_plugin_sdk::address;

use crate::Rejected;
use crate::claims::{ClaimPath, Claims};

/// The claim that names the channel. A token with it admits nobody to the gateway.
pub(crate) const CHANNEL: &str = "channel";

/// The claim with which an issuer overrides the rules of the channel.
const OVERRIDE: &str = "override";

/// The channels that need a token of their own.
#[derive(Debug, Default)]
pub(crate) struct TokenChannels(pub(crate) Vec<String>);

impl TokenChannels {
    /// Whether a channel needs a token of its own, or a channel that a wildcard pattern may match.
    pub(crate) fn cover(&self, channel: &str) -> bool {
        self.0.iter().any(|pattern| address::concerns(pattern, channel))
    }

    /// Refuses the token of a subscription where one of a connection is asked for: it was given for less.
    pub(crate) fn check_connection(&self, claims: &Claims) -> Result<(), Rejected> {
        if !self.0.is_empty() && claims.text(CHANNEL)?.is_some() {
            return Err(Rejected::invalid("it is for a subscription (`channel`)"));
        }
        Ok(())
    }
}

/// Whether a good token is for this subscription.
pub(crate) fn check(claims: &Claims, user: &str, event_user: &str, channel: &str) -> Result<(), Rejected> {
    if user != event_user {
        return Err(Rejected::invalid("it is for another user"));
    }
    // Without what it demands, others might see of the subscriber what they are not to see.
    if claims.get(&ClaimPath::new(OVERRIDE)).is_some_and(|value| !value.is_null()) {
        return Err(Rejected::invalid("claim `override` is not supported: the channel's namespace decides"));
    }
    match claims.text(CHANNEL)? {
        Some(name) if name == channel => Ok(()),
        Some(_) => Err(Rejected::invalid("it is for another channel")),
        None => Err(Rejected::invalid("claim `channel` is missing")),
    }
}
