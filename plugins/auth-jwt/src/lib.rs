//! Admits clients by a signed token (JWT). See `README.md` for the settings and claims.
//!
//! A token is taken apart (`token`), then its signature is verified (`key`), and only then is anything in it believed
//! (`claims`).

mod claims;
mod key;
mod settings;
#[cfg(test)]
mod tests;
mod token;

use gateway_plugin_sdk::prelude::*;

use claims::{Claims, Expected};
use key::Key;
use settings::Settings;

/// The plugin.
pub struct AuthJwt {
    key: Key,
    expected: Expected,
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
    fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid(why.into())
    }
}

#[plugin]
impl Plugin for AuthJwt {
    type Config = Settings;

    fn configure(config: Settings, _: &mut Interests) -> Result<Self, String> {
        let (key, expected) = config.check()?;
        Ok(Self { key, expected })
    }

    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        if event.token().is_empty() {
            return Connect::pass();
        }
        match self.read(event.token(), event.now()) {
            Ok((claims, expires)) => accept(claims, expires),
            Err(Rejected::Expired) => Connect::refuse(code::TOKEN_EXPIRED, "token expired"),
            Err(Rejected::Invalid(why)) => {
                log::info!("token refused: {why}");
                Connect::refuse(code::INVALID_TOKEN, "invalid token")
            }
        }
    }
}

impl AuthJwt {
    /// What the token says, and when the connection that it opens expires.
    fn read(&self, token: &str, now: u64) -> Result<(Claims, Option<u64>), Rejected> {
        let token = token::Parts::split(token)?;
        self.key.verify(&token)?;
        let claims = Claims::parse(&token.claims()?)?;
        let expires = self.expected.check(&claims, now)?;
        Ok((claims, expires))
    }
}

fn accept(claims: Claims, expires: Option<u64>) -> Connect {
    let mut connect = Connect::accept(claims.sub).channels(claims.channels);
    if let Some(info) = &claims.info {
        connect = connect.info_json(info);
    }
    match expires {
        Some(seconds) => connect.expires_at(seconds),
        None => connect,
    }
}
