//! Keys that an issuer publishes at an address (`jwks_url`).
//!
//! What was fetched lies with the gateway, so that all instances have the same keys and a reload fetches
//! nothing. Three values for each issuer and address: the key set as it came, a mark that is there while the
//! set is fresh, and one that is there for an interval after each attempt. Their times to live are the pace.
//! Hooks that cannot fetch take the first mark away, and the next client that connects makes up for it.

use std::time::Duration;

use gateway_plugin_sdk::{http, kv, log};
use sha2::{Digest as _, Sha256};

use crate::Rejected;
use crate::algorithm::{Algorithm, Family};
use crate::jwk;
use crate::keys::{self, Keys};
use crate::token::Parts;

/// Largest set in bytes.
const SET_BYTES_MAX: usize = 128 << 10;

/// Time for one attempt. A client that connects may wait for it.
const DEADLINE: Duration = Duration::from_secs(2);

/// How often keys are fetched, and for how long they are good.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Between two attempts, whatever the first one came to.
    pub(crate) interval: Duration,
    /// Keys of this age are fetched again.
    pub(crate) fresh: Duration,
    /// Keys of this age that could not be fetched again are not used any more.
    pub(crate) usable: Duration,
}

/// When a token is verified, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Unix time in milliseconds.
    pub(crate) now: u64,
    /// Whether the hook may ask other servers.
    pub(crate) may_fetch: bool,
}

/// The address at which an issuer publishes its keys.
#[derive(Debug)]
pub(crate) struct Source {
    url: String,
    /// For the log.
    issuer: String,
    /// Of keys that do not say theirs.
    algorithm: Option<Algorithm>,
    pace: Pace,
    names: Names,
    /// What this instance made of the set that the gateway keeps.
    read: Option<Set>,
}

/// The names of the three values. Another address or another issuer is another source, whatever else is the
/// same.
#[derive(Debug)]
struct Names {
    set: String,
    fresh: String,
    tried: String,
}

#[derive(Debug)]
struct Set {
    version: Version,
    keys: Keys,
}

/// When a set was fetched, which tells it from others: Unix time in milliseconds. Stands before the set, and
/// is the mark.
type Version = [u8; 8];

impl Source {
    pub(crate) fn new(issuer: Option<&str>, url: String, algorithm: Option<Algorithm>, pace: Pace) -> Self {
        let name = issuer.unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(&url);
        let id: String = hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let names = Names {
            set: format!("jwks.{id}.set"),
            fresh: format!("jwks.{id}.fresh"),
            tried: format!("jwks.{id}.tried"),
        };
        // Without its query, which may hold a secret.
        let address = url.split('?').next().unwrap_or_default();
        let issuer = issuer.unwrap_or(address).to_owned();
        Self { url, issuer, algorithm, pace, names, read: None }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Whether one of the issuer's published keys signed the token. Keys that are old, or do not include the
    /// token's, are fetched again if it is time.
    pub(crate) fn verify(&mut self, token: &Parts<'_>, moment: Moment) -> Result<(), Rejected> {
        // Such a token is signed with none of them, whatever is fetched.
        if Algorithm::from_name(&token.header.alg)
            .is_none_or(|algorithm| algorithm.family() == Family::Secret)
        {
            return Err(keys::no_key());
        }
        let fresh = self.take_what_is_kept();
        let verified = self.verify_with_known(token);
        match verified {
            Some(verified) if fresh => return verified,
            None if !moment.may_fetch => {
                kv::delete(&self.names.fresh);
            }
            _ => {}
        }
        if moment.may_fetch && self.is_time() {
            match self.fetch(moment.now) {
                // An answer of just now is the last word.
                Ok(()) => return self.verify_with_known(token).unwrap_or_else(|| Err(keys::no_key())),
                Err(why) => log::warn!(
                    "no keys from {}: {why}; asked again in {} s at the earliest",
                    self.issuer,
                    self.pace.interval.as_secs()
                ),
            }
        }
        verified.unwrap_or_else(|| {
            let issuer = &self.issuer;
            Err(Rejected::Undecided(format!(
                "its key is not among those of {issuer} and it is not time to ask again"
            )))
        })
    }

    /// `None` if the token may be signed with a key that is not there.
    fn verify_with_known(&self, token: &Parts<'_>) -> Option<Result<(), Rejected>> {
        let keys = &self.read.as_ref()?.keys;
        let verified = keys.verify(token);
        (verified.is_ok() || keys.has_named(token)).then_some(verified)
    }

    /// Makes `read` what the gateway keeps, or nothing if that is too old. Whether it is fresh.
    fn take_what_is_kept(&mut self) -> bool {
        let mark = kv::get(&self.names.fresh);
        let version = |set: &Set| set.version;
        if mark.is_some()
            && mark.as_deref() == self.read.as_ref().map(version).as_ref().map(<[u8; 8]>::as_slice)
        {
            return true;
        }
        let kept = kv::get(&self.names.set);
        let Some((version, set)) = kept.as_deref().and_then(|kept| kept.split_first_chunk::<8>()) else {
            self.read = None;
            return false;
        };
        if self.read.as_ref().is_none_or(|read| read.version != *version) {
            // Another `algorithm` in the settings can make another thing of it.
            self.read = read(set, self.algorithm).ok().map(|(keys, _)| Set { version: *version, keys });
        }
        mark.is_some() && self.read.is_some()
    }

    /// Whether no attempt was made for an interval. If so, one begins now: no other instance gets the
    /// same.
    fn is_time(&self) -> bool {
        kv::add(&self.names.tried, [], self.pace.interval).unwrap_or_else(|error| {
            log::error!("no keys are fetched: {error}");
            false
        })
    }

    fn fetch(&mut self, now: u64) -> Result<(), String> {
        let answer = http::Request::get(&self.url)
            .header("accept", "application/jwk-set+json, application/json")
            .deadline(DEADLINE)
            .send()?;
        if answer.status() != 200 {
            return Err(format!("the answer has status {}", answer.status()));
        }
        let set = answer.body();
        if set.len() > SET_BYTES_MAX {
            return Err(format!("the set has {} bytes: at most {SET_BYTES_MAX} are accepted", set.len()));
        }
        let (keys, passed_over) = read(set, self.algorithm)?;
        let version = now.to_le_bytes();
        let before = kv::get(&self.names.set);
        if before.as_deref().and_then(|kept| kept.get(version.len()..)) != Some(set) {
            log::info!("keys of {}: {}", self.issuer, keys.len());
            for why in passed_over {
                log::warn!("a key of {} is not used: {why}", self.issuer);
            }
        }
        kv::set(&self.names.set, [&version, set].concat(), self.pace.usable)?;
        kv::set(&self.names.fresh, version, self.pace.fresh)?;
        self.read = Some(Set { version, keys });
        Ok(())
    }
}

/// The keys of a set, and what of it is wrong.
fn read(set: &[u8], algorithm: Option<Algorithm>) -> Result<(Keys, Vec<String>), String> {
    // Without the parser's words: they may quote what the server says.
    let set = serde_json::from_slice(set).map_err(|_| "the answer is not JSON")?;
    jwk::published(&set, algorithm).map_err(|why| format!("the set {why}"))
}
