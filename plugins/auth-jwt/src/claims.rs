use std::fmt;

use gateway_plugin_sdk::address;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde_json::Value;
use serde_json::error::Category;

use crate::Rejected;

/// The last second of the year 9999. A larger number is no date but a mistake, most often milliseconds, and would make a
/// token that never expires.
const SECONDS_MAX: u64 = 253_402_300_799;

/// As many as the gateway takes from one answer by default. More would be a failure of the plugin and not of the token.
const CHANNELS_MAX: usize = 64;

/// What a verified token says. Claims of other names are none of our business.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Claims {
    /// The user; empty for an anonymous client.
    pub(crate) sub: String,
    #[serde(default, deserialize_with = "present")]
    exp: Option<Date>,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<Date>,
    /// Read for its type only: when a token was made says nothing about whether it is good.
    #[serde(default, deserialize_with = "present", rename = "iat")]
    _iat: Option<Date>,
    #[serde(default, deserialize_with = "present")]
    iss: Option<String>,
    #[serde(default, deserialize_with = "present")]
    aud: Option<Audience>,
    /// JSON shown to other clients.
    pub(crate) info: Option<Value>,
    /// Channels to subscribe the client to.
    #[serde(default)]
    pub(crate) channels: Vec<String>,
    /// When the connection expires, if that is not `exp`; zero for never.
    #[serde(default, deserialize_with = "present")]
    expire_at: Option<Date>,
}

/// Seconds since 1970. Issuers may write fractions; they are cut off.
#[derive(Debug, Clone, Copy)]
struct Date(u64);

#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// What the settings demand of the claims.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    /// Seconds.
    pub(crate) leeway: u64,
    pub(crate) exp_required: bool,
}

impl Claims {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Rejected> {
        if json.first() != Some(&b'{') {
            return Err(Rejected::invalid("the claims are not an object"));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let claims: Self = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| wrong(&e))?;
        deserializer.end().map_err(|_| Rejected::invalid("the claims are followed by something else"))?;
        if claims.channels.len() > CHANNELS_MAX {
            return Err(Rejected::Invalid(format!("claim `channels` has more than {CHANNELS_MAX} channels")));
        }
        if claims.channels.iter().any(|name| !address::is_valid(name)) {
            return Err(Rejected::invalid("claim `channels` holds a text that is no channel name"));
        }
        Ok(claims)
    }
}

impl Expected {
    /// When the connection expires: Unix time in seconds, `None` for never. `now` is Unix time in milliseconds.
    pub(crate) fn check(&self, claims: &Claims, now: u64) -> Result<Option<u64>, Rejected> {
        if self.issuer.is_some() && claims.iss != self.issuer {
            return Err(Rejected::invalid("claim `iss` is not the expected issuer"));
        }
        if let Some(wanted) = &self.audience
            && !claims.aud.as_ref().is_some_and(|audience| audience.contains(wanted))
        {
            return Err(Rejected::invalid("claim `aud` does not name the expected audience"));
        }
        let now = now / 1000;
        if claims.nbf.is_some_and(|Date(start)| now.saturating_add(self.leeway) < start) {
            return Err(Rejected::invalid("not valid yet (`nbf`)"));
        }
        // A clock that is behind ends everything later, the connection too.
        let end = |Date(seconds)| {
            let end = seconds.saturating_add(self.leeway);
            if now < end { Ok(end) } else { Err(Rejected::Expired) }
        };
        let token_ends = claims.exp.map(end).transpose()?;
        if token_ends.is_none() && self.exp_required {
            return Err(Rejected::invalid("claim `exp` is missing"));
        }
        match claims.expire_at {
            Some(Date(0)) => Ok(None),
            Some(date) => end(date).map(Some),
            None => Ok(token_ends),
        }
    }
}

impl Audience {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(name) => name == wanted,
            Self::Many(names) => names.iter().any(|name| name == wanted),
        }
    }
}

/// Names what is wrong, without the value: it may be anything.
fn wrong(error: &serde_path_to_error::Error<serde_json::Error>) -> Rejected {
    if error.inner().classify() != Category::Data {
        return Rejected::invalid("the claims are not JSON, or nested too deeply");
    }
    match error.path().iter().next() {
        Some(claim) => {
            Rejected::Invalid(format!("claim `{claim}` has the wrong type or a value out of range"))
        }
        // About the object as a whole: a claim that is missing or there twice. The text holds no values.
        None => {
            let text = error.inner().to_string();
            Rejected::invalid(text.split(" at line ").next().unwrap_or_default())
        }
    }
}

/// A claim that is there has to have its type: `null` is not a way to leave it out.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;

        impl Visitor<'_> for Seconds {
            type Value = Date;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "seconds since 1970, before the year 10000")
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<Date, E> {
                if seconds > SECONDS_MAX {
                    return Err(E::invalid_value(Unexpected::Unsigned(seconds), &self));
                }
                Ok(Date(seconds))
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<Date, E> {
                if !(0.0..=SECONDS_MAX as f64).contains(&seconds) {
                    return Err(E::invalid_value(Unexpected::Float(seconds), &self));
                }
                Ok(Date(seconds as u64))
            }
        }

        deserializer.deserialize_any(Seconds)
    }
}
