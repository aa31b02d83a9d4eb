//! `Claims` reads the claims of a verified token and checks their types.

use gateway_plugin_sdk::address::{self, InvalidUser};
use serde_json::{Map, Value};

use crate::{Rejected, json};

/// The last second of the year 9999. A larger number is no date but an error, most often milliseconds, and
/// would make a token that never expires.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Longest `jti` in bytes: one that the gateway cannot compare could not be revoked.
const TOKEN_ID_BYTES_MAX: usize = 256;

/// What a verified token says. A claim that is read must have its type: `null` is not a way to leave it out.
#[derive(Debug)]
pub(crate) struct Claims(Map<String, Value>);

/// Which claim: its name, or a JSON pointer into the claims (RFC 6901) if it begins with a slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct ClaimPath(String);

impl Claims {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Rejected> {
        json::object(json).map(Self).map_err(|why| Rejected::Invalid(format!("the claims {why}")))
    }

    /// Any claim, of any type.
    pub(crate) fn get(&self, path: &ClaimPath) -> Option<&Value> {
        match path.0.strip_prefix('/') {
            None => self.0.get(&path.0),
            Some(pointer) => {
                let (first, rest) = pointer.split_once('/').unwrap_or((pointer, ""));
                let first = self.0.get(&first.replace("~1", "/").replace("~0", "~"))?;
                if rest.is_empty() { Some(first) } else { first.pointer(&format!("/{rest}")) }
            }
        }
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Rejected> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name)),
        }
    }

    /// The id of the token, by which it can be revoked.
    pub(crate) fn token_id(&self) -> Result<Option<&str>, Rejected> {
        match self.text("jti")? {
            Some(id) if id.len() > TOKEN_ID_BYTES_MAX => {
                Err(Rejected::Invalid(format!("claim `jti` is longer than {TOKEN_ID_BYTES_MAX} bytes")))
            }
            id => Ok(id),
        }
    }

    /// A moment in seconds since 1970. Issuers may write fractions; they are cut off.
    pub(crate) fn seconds(&self, name: &str) -> Result<Option<u64>, Rejected> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let seconds = match (value.as_u64(), value.as_f64()) {
            (Some(seconds), _) if seconds <= SECONDS_MAX => Some(seconds),
            (None, Some(seconds)) if (0.0..=SECONDS_MAX as f64).contains(&seconds) => Some(seconds as u64),
            _ => None,
        };
        seconds.map(Some).ok_or_else(|| wrong(name))
    }

    /// A list of texts; empty if there is none.
    pub(crate) fn texts(&self, path: &ClaimPath) -> Result<Vec<&str>, Rejected> {
        match self.get(path) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().ok_or_else(|| wrong(&path.0))).collect()
            }
            Some(_) => Err(wrong(&path.0)),
        }
    }

    /// A text, or one of a list of texts.
    pub(crate) fn names(&self, name: &str, wanted: &[String]) -> Result<bool, Rejected> {
        let is_wanted = |text: &str| wanted.iter().any(|wanted| wanted == text);
        match self.0.get(name) {
            None => Ok(false),
            Some(Value::String(text)) => Ok(is_wanted(text)),
            Some(Value::Array(items)) => {
                let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                Ok(texts.ok_or_else(|| wrong(name))?.into_iter().any(is_wanted))
            }
            Some(_) => Err(wrong(name)),
        }
    }

    /// The user: a text, empty for an anonymous client. `sub` has to be one; another claim may hold a whole
    /// number.
    pub(crate) fn user(&self, path: &ClaimPath) -> Result<String, Rejected> {
        let user = match self.get(path) {
            None => return Err(Rejected::Invalid(format!("claim `{path}` is missing"))),
            Some(Value::String(user)) => user.clone(),
            Some(Value::Number(number)) if path.0 != "sub" && !number.is_f64() => number.to_string(),
            Some(_) => return Err(wrong(&path.0)),
        };
        match address::check_user(&user) {
            Ok(()) => Ok(user),
            Err(InvalidUser::Control) => {
                Err(Rejected::Invalid(format!("claim `{path}` holds control characters")))
            }
            Err(why @ InvalidUser::TooLong(_)) => Err(Rejected::Invalid(format!("claim `{path}`: {why}"))),
        }
    }
}

/// Names what is wrong, without the value: it may be anything.
fn wrong(claim: &str) -> Rejected {
    Rejected::Invalid(format!("claim `{claim}` has the wrong type or a value out of range"))
}

impl ClaimPath {
    pub(crate) fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.0.is_empty() || self.0 == "/" {
            return Err("is no name of a claim".into());
        }
        Ok(())
    }
}

impl std::fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
