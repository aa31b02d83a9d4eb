//! Admits clients by a signed token (JWT). See `README.md` for the settings and claims.
//!
//! A token is taken apart (`token`), its issuer's keys verify its signature (`issuer`, `keys`, `key`), and only then is
//! anything in it believed (`rules`, `identity`). What it permits is kept with the connection (`permissions`); some channels
//! need a token of their own (`subscription`).

mod algorithm;
mod claims;
mod identity;
mod issuer;
mod json;
mod jwk;
mod key;
mod keys;
mod permissions;
mod rules;
mod settings;
mod subscription;
#[cfg(test)]
mod tests;
mod token;

use gateway_plugin_sdk::prelude::*;

use claims::Claims;
use identity::Profile;
use issuer::Issuer;
use permissions::Permissions;
use rules::Rules;
use settings::Settings;
use subscription::TokenChannels;
use token::Parts;

/// The plugin.
pub struct AuthJwt {
    issuers: Vec<Issuer>,
    rules: Rules,
    profile: Profile,
    permissions: Option<Permissions>,
    token_channels: TokenChannels,
    token_bytes_max: usize,
}

/// Why a token does not admit its bearer. The client learns which of the two it is; the rest is for the operator's log
/// and holds nothing of the token but names of claims.
#[derive(Debug, PartialEq, Eq)]
enum Rejected {
    /// It was good. The client fetches a new one and comes back.
    Expired,
    /// It never was and never will be good.
    Invalid(String),
}

impl Rejected {
    fn invalid(why: &str) -> Self {
        Self::Invalid(why.to_owned())
    }
}

#[plugin]
impl Plugin for AuthJwt {
    type Config = Settings;

    fn configure(config: Settings, interests: &mut Interests) -> Result<Self, String> {
        let plugin = config.check()?;
        plugin.declare(interests);
        Ok(plugin)
    }

    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        if event.token().is_empty() {
            return Connect::pass();
        }
        match self.admit(event.token(), event.now()) {
            Ok(connect) => connect,
            Err(Rejected::Expired) => Connect::refuse(code::TOKEN_EXPIRED, "token expired"),
            Err(Rejected::Invalid(why)) => {
                log::debug!("token refused: {why}");
                Connect::refuse(code::INVALID_TOKEN, "invalid token")
            }
        }
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        if event.kind() == Kind::Subscribe && self.token_channels.cover(event.channel()) {
            return self.judge_subscription(event);
        }
        self.permissions.as_ref().map_or_else(Verdict::next, |permissions| permissions.judge(event))
    }
}

impl AuthJwt {
    /// Only what a token decides: without permissions and subscription tokens that is no message at all.
    fn declare(&self, interests: &mut Interests) {
        interests.without_payload();
        let channels = &self.token_channels.0;
        match &self.permissions {
            Some(_) => interests.kinds(Permissions::KINDS),
            None if channels.is_empty() => interests.kinds([]),
            None => interests.kinds([Kind::Subscribe]).channels(channels),
        };
    }

    fn judge_subscription(&self, event: &Message<'_>) -> Verdict {
        let denied = || Verdict::deny(code::PERMISSION_DENIED, "permission denied");
        let token = event.token();
        if token.is_empty() {
            return denied();
        }
        match self.check_subscription(&token, event) {
            Ok(()) => Verdict::allow(),
            Err(Rejected::Expired) => Verdict::deny(code::TOKEN_EXPIRED, "token expired"),
            Err(Rejected::Invalid(why)) => {
                log::debug!("subscription token refused: {why}");
                denied()
            }
        }
    }

    fn check_subscription(&self, token: &str, event: &Message<'_>) -> Result<(), Rejected> {
        let (claims, _) = self.read(token, event.now())?;
        let user = claims.user(&self.profile.user)?;
        subscription::check(&claims, &user, event.user(), event.channel())
    }

    fn admit(&self, token: &str, now: u64) -> Result<Connect, Rejected> {
        let (claims, token_ends) = self.read(token, now)?;
        let expires = self.rules.check_expire_at(&claims, now)?.unwrap_or(token_ends);
        self.token_channels.check_connection(&claims)?;
        let (user, mut connect) = self.profile.identify(&claims)?;
        if let Some(permissions) = &self.permissions {
            connect = permissions.grant(&claims, &user, connect)?;
        }
        Ok(match expires {
            Some(seconds) => connect.expires_at(seconds),
            None => connect,
        })
    }

    /// What a good token says, and when it ends: Unix time in seconds.
    fn read(&self, token: &str, now: u64) -> Result<(Claims, Option<u64>), Rejected> {
        let token = Parts::split(token, self.token_bytes_max)?;
        self.rules.check_header(&token.header)?;
        let claims = issuer::verify(&self.issuers, &token)?;
        let ends = self.rules.check(&claims, now)?;
        Ok((claims, ends))
    }
}
