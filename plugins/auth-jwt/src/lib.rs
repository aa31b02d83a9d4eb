//! Admits clients by a signed token (JWT). See `README.md` for the settings and claims.
//!
//! A token is taken apart (`token`), its issuer's keys verify its signature (`issuer`, `keys`, `key`, and
//! `jwks` for those that are fetched), and only then is anything in it believed (`rules`, `identity`). What
//! it permits is kept with the connection (`permissions`); some channels need a token of their own
//! (`subscription`).

mod algorithm;
mod claims;
mod identity;
mod issuer;
mod json;
mod jwk;
mod jwks;
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
use gateway_plugin_sdk::{http, kv};

use claims::Claims;
use identity::Profile;
use issuer::Issuer;
use jwks::Moment;
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
    /// Who makes subscription tokens, if not the issuers of the others.
    subscription_issuers: Vec<Issuer>,
    token_bytes_max: usize,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Connection,
    Subscription,
}

/// Why a token does not admit its bearer. The client learns which of these it is; the rest is for the
/// operator's log and holds nothing of the token but names of claims.
#[derive(Debug, PartialEq, Eq)]
enum Rejected {
    /// It was good. The client fetches a new one and comes back.
    Expired,
    /// It never was and never will be good.
    Invalid(String),
    /// It is about to be: the issuer's clock is ahead. The client comes back.
    Early(String),
    /// The key that would tell is not there, for now. The client comes back.
    Undecided(String),
}

impl Rejected {
    fn invalid(why: &str) -> Self {
        Self::Invalid(why.to_owned())
    }
}

#[plugin(self_test = "self-test.json")]
impl Plugin for AuthJwt {
    type Config = Settings;

    fn configure(config: Settings, interests: &mut Interests) -> Result<Self, String> {
        let plugin = config.check()?;
        plugin.ask()?;
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
            Err(Rejected::Early(why)) => {
                log::debug!("token refused for now: {why}");
                Connect::refuse(code::INTERNAL, TOO_EARLY)
            }
            Err(Rejected::Undecided(why)) => {
                log::debug!("token not judged: {why}");
                Connect::refuse(code::INTERNAL, TRY_AGAIN)
            }
        }
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        if matches!(event.kind(), Kind::Subscribe | Kind::SubRefresh)
            && self.token_channels.cover(event.channel())
        {
            return self.decide_subscription(event);
        }
        self.permissions.as_ref().map_or_else(Verdict::next, |permissions| permissions.check(event))
    }
}

/// To a client whose token begins in a moment.
const TOO_EARLY: &str = "the token is not valid yet, try again";

/// To a client whose token could not be verified.
const TRY_AGAIN: &str = "keys are not available, try again";

impl AuthJwt {
    /// Only what keys are fetched for: whoever has them in the settings grants nothing.
    fn ask(&self) -> Result<(), String> {
        for source in self.issuers.iter().filter_map(|issuer| issuer.source.as_ref()) {
            http::ask(source.url()).map_err(|error| format!("`jwks_url` {error}"))?;
            kv::ask()?;
        }
        Ok(())
    }

    /// Only what a token decides: without permissions and subscription tokens that is no message at all.
    fn declare(&self, interests: &mut Interests) {
        interests.without_payload();
        let channels = &self.token_channels.0;
        match &self.permissions {
            Some(_) => {
                // What takes a token of its own is not open to whoever has a pattern for it.
                let by_pattern = |kind: &Kind| channels.is_empty() || *kind != Kind::Subscribe;
                let kinds: Vec<Kind> = Permissions::KINDS.into_iter().filter(by_pattern).collect();
                Permissions::declare(interests, &kinds);
                let of_tokens = (!channels.is_empty()).then_some(Kind::SubRefresh);
                interests.kinds(Permissions::KINDS.into_iter().chain(of_tokens))
            }
            None if channels.is_empty() => interests.kinds([]),
            None => interests.kinds([Kind::Subscribe, Kind::SubRefresh]).channels(channels),
        };
    }

    fn decide_subscription(&mut self, event: &Message<'_>) -> Verdict {
        let denied = || Verdict::deny(code::PERMISSION_DENIED, "permission denied");
        let token = event.token();
        if token.is_empty() {
            return denied();
        }
        match self.check_subscription(&token, event) {
            Ok(expires_at) => match event.set_subscription_expiry(expires_at) {
                Ok(()) => Verdict::allow(),
                Err(error) => {
                    log::error!("the end of a subscription was not set: {error}");
                    Verdict::deny(code::INTERNAL, TRY_AGAIN)
                }
            },
            // Whoever refreshes has just fetched the token: error 109 would have it fetch another.
            Err(Rejected::Expired) if event.kind() == Kind::SubRefresh => {
                Verdict::deny(code::EXPIRED, "token expired")
            }
            Err(Rejected::Expired) => Verdict::deny(code::TOKEN_EXPIRED, "token expired"),
            Err(Rejected::Invalid(why)) => {
                log::debug!("subscription token refused: {why}");
                denied()
            }
            Err(Rejected::Early(why)) => {
                log::debug!("subscription token refused for now: {why}");
                Verdict::deny(code::INTERNAL, TOO_EARLY)
            }
            Err(Rejected::Undecided(why)) => {
                log::debug!("subscription token not judged: {why}");
                Verdict::deny(code::INTERNAL, TRY_AGAIN)
            }
        }
    }

    /// When the subscription ends that a token permits: Unix time in seconds, `None` for never.
    fn check_subscription(&mut self, token: &str, event: &Message<'_>) -> Result<Option<u64>, Rejected> {
        let moment = Moment { now: event.now(), may_fetch: false };
        let (claims, token_ends) = self.read(Purpose::Subscription, token, moment)?;
        let expires = self.rules.check_expire_at(&claims, event.now())?.unwrap_or(token_ends);
        let user = self.profile.user(&claims)?;
        subscription::check(&claims, &user, event.user(), event.channel())?;
        Ok(expires)
    }

    fn admit(&mut self, token: &str, now: u64) -> Result<Connect, Rejected> {
        let moment = Moment { now, may_fetch: true };
        let (claims, token_ends) = self.read(Purpose::Connection, token, moment)?;
        let expires = self.rules.check_expire_at(&claims, now)?.unwrap_or(token_ends);
        self.token_channels.check_connection(&claims)?;
        let (user, connect) = self.profile.identify(&claims)?;
        let mut connect = connect.token(claims.token_id()?, claims.seconds("iat")?);
        if let Some(permissions) = &self.permissions {
            connect = permissions.grant(&claims, &user, connect)?;
        }
        Ok(match expires {
            Some(seconds) => connect.expires_at(seconds),
            None => connect,
        })
    }

    /// What a good token says, and when it ends: Unix time in seconds.
    fn read(
        &mut self,
        purpose: Purpose,
        token: &str,
        moment: Moment,
    ) -> Result<(Claims, Option<u64>), Rejected> {
        let token = Parts::split(token, self.token_bytes_max)?;
        self.rules.check_header(&token.header)?;
        let issuers = match purpose {
            Purpose::Subscription if !self.subscription_issuers.is_empty() => &mut self.subscription_issuers,
            Purpose::Subscription | Purpose::Connection => &mut self.issuers,
        };
        let claims = issuer::verify(issuers, &token, moment)?;
        let ends = self.rules.check(&claims, moment.now)?;
        Ok((claims, ends))
    }
}
