//! The part of the settings about issuers and their keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gateway_plugin_sdk::settings;
use gateway_plugin_sdk::settings::Errors;
use serde_json::Value;

use crate::algorithm::Algorithm;
use crate::issuer::Issuer;
use crate::jwk;
use crate::jwks::{Pace, Source};
use crate::key::Key;
use crate::keys::Keys;

const ISSUERS_MAX: usize = 64;
const URL_BYTES_MAX: usize = 2048;

/// One of `issuers`.
#[settings]
pub(super) struct IssuerSettings {
    issuer: String,
    audience: Option<Texts>,
    algorithm: Option<String>,
    #[serde(default)]
    keys: Vec<KeySettings>,
    jwks: Option<Value>,
    jwks_url: Option<String>,
}

/// One of `keys`.
#[settings]
#[derive(Default)]
pub(super) struct KeySettings {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Option<String>,
    pub(super) secret: Option<String>,
    pub(super) secret_base64: Option<String>,
    pub(super) secret_hex: Option<String>,
    pub(super) pem: Option<String>,
    pub(super) jwk: Option<Value>,
}

/// A text or a list of texts.
#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub(super) enum Texts {
    One(String),
    Many(Vec<String>),
}

/// The issuers in a list of the settings, by its key.
pub(super) fn several(key: &str, list: Vec<IssuerSettings>, pace: Pace, errors: &Errors) -> Vec<Issuer> {
    if list.len() > ISSUERS_MAX {
        errors.add(key, format!("has {} members: at most {ISSUERS_MAX} are accepted", list.len()));
    }
    let mut issuers: Vec<Issuer> = Vec::with_capacity(list.len());
    for (index, one) in list.into_iter().enumerate() {
        let at = format!("{key}[{index}].");
        if issuers.iter().any(|other| other.name.as_deref() == Some(&one.issuer)) {
            errors.add(&format!("{at}issuer"), "is there twice: put its keys together");
        }
        let IssuerSettings { issuer, audience, algorithm, keys, jwks, jwks_url } = one;
        let short = KeySettings::default();
        let parts =
            IssuerParts { name: Some(issuer), audience, algorithm, short, keys, jwks, jwks_url, pace };
        issuers.push(parts.check(&at, errors));
    }
    issuers
}

/// An issuer from either place.
pub(super) struct IssuerParts {
    pub(super) name: Option<String>,
    pub(super) audience: Option<Texts>,
    /// Of the secret, and of keys in `jwks` that do not say theirs.
    pub(super) algorithm: Option<String>,
    /// A secret that is said without a list of keys.
    pub(super) short: KeySettings,
    pub(super) keys: Vec<KeySettings>,
    pub(super) jwks: Option<Value>,
    pub(super) jwks_url: Option<String>,
    pub(super) pace: Pace,
}

impl IssuerParts {
    pub(super) fn check(self, at: &str, errors: &Errors) -> Issuer {
        if self.name.as_deref() == Some("") {
            errors.add(&format!("{at}issuer"), "is empty: leave it out if it does not matter");
        }
        let audience = match self.audience {
            None => Vec::new(),
            Some(Texts::One(text)) => vec![text],
            Some(Texts::Many(texts)) if texts.is_empty() => vec![String::new()],
            Some(Texts::Many(texts)) => texts,
        };
        if audience.iter().any(String::is_empty) {
            errors.add(&format!("{at}audience"), "is empty: leave it out if it does not matter");
        }
        let algorithm = self.algorithm.as_deref().map(Algorithm::parse).transpose();
        let algorithm = algorithm.unwrap_or_else(|why| {
            errors.add(&format!("{at}algorithm"), why);
            None
        });

        let mut keys = Keys::default();
        let mut bad = false;
        let mut add = |key: &str, added: Result<(), String>| {
            if let Err(why) = added {
                bad = true;
                errors.add(key, why);
            }
        };
        if self.short.is_given() {
            // Its errors name the key that holds the secret, which is one of this table.
            if let Err((key, why)) =
                self.short.read(Some(algorithm.unwrap_or(Algorithm::Hs256))).map(|(kid, key)| {
                    keys.add(kid, key).expect("the first key");
                })
            {
                let key = if key.is_empty() { "secret" } else { key };
                add(&format!("{at}{key}"), Err(why));
            }
        }
        let (count, most) = (self.keys.len(), jwk::KEYS_MAX);
        if count > most {
            add(&format!("{at}keys"), Err(format!("has {count} members: at most {most} are accepted")));
        }
        for (index, key) in self.keys.into_iter().enumerate().take(most) {
            let at = format!("{at}keys[{index}]");
            match key.read(None) {
                Ok((kid, key)) => add(&at, keys.add(kid, key)),
                Err(("", why)) => add(&at, Err(why)),
                Err((key, why)) => add(&format!("{at}.{key}"), Err(why)),
            }
        }
        if let Some(set) = self.jwks {
            add(&format!("{at}jwks"), json(set).and_then(|set| jwk::set(&set, algorithm, &mut keys)));
        }
        if let Some(why) = self.jwks_url.as_deref().and_then(no_url) {
            add(&format!("{at}jwks_url"), Err(why));
        }
        if keys.len() == 0 && self.jwks_url.is_none() && !bad {
            errors.add(
                &format!("{at}keys"),
                "is missing: say what tokens are signed with, in `keys`, `jwks` or `jwks_url`, or with a `secret`",
            );
        }
        let source = self.jwks_url.map(|url| Source::new(self.name.as_deref(), url, algorithm, self.pace));
        Issuer { name: self.name, audience, keys, source }
    }
}

impl KeySettings {
    pub(super) fn is_given(&self) -> bool {
        self.secret.is_some() || self.secret_base64.is_some() || self.secret_hex.is_some()
    }

    /// The key, or the member that is wrong (empty for the whole) and why.
    fn read(self, algorithm: Option<Algorithm>) -> Result<(Option<String>, Key), (&'static str, String)> {
        if self.kid.as_deref() == Some("") {
            return Err(("kid", "is empty: leave it out if tokens name no key".into()));
        }
        let own = self.algorithm.as_deref().map(Algorithm::parse).transpose();
        let algorithm = own.map_err(|why| ("algorithm", why))?.or(algorithm);
        let given = [
            self.secret.is_some(),
            self.secret_base64.is_some(),
            self.secret_hex.is_some(),
            self.pem.is_some(),
            self.jwk.is_some(),
        ];
        if given.into_iter().filter(|given| *given).count() != 1 {
            let why = "needs exactly one of `secret`, `secret_base64`, `secret_hex`, `pem` and `jwk`";
            return Err(("", why.into()));
        }
        if let Some(jwk) = self.jwk {
            let (named, key) =
                json(jwk).and_then(|jwk| self::jwk::one(&jwk, algorithm)).map_err(|why| ("jwk", why))?;
            if algorithm.is_some_and(|algorithm| algorithm != key.algorithm()) {
                return Err(("jwk", format!("is for {}, not for `algorithm`", key.algorithm().name())));
            }
            return Ok((self.kid.or(named), key));
        }
        let Some(algorithm) = algorithm else {
            return Err(("algorithm", "is missing: each key is for one algorithm".into()));
        };
        let key = match (self.pem, self.secret, self.secret_base64, self.secret_hex) {
            (Some(pem), ..) => Key::pem(algorithm, &pem).map_err(|why| ("pem", why)),
            (_, Some(text), ..) => Key::secret(algorithm, text.as_bytes()).map_err(|why| ("secret", why)),
            (_, _, Some(text), _) => STANDARD
                .decode(text)
                // Without the decoder's words: they quote the byte that is wrong.
                .map_err(|_| "is not standard base64 with padding".to_owned())
                .and_then(|secret| Key::secret(algorithm, &secret))
                .map_err(|why| ("secret_base64", why)),
            (_, _, _, text) => unhex(&text.unwrap_or_default())
                .ok_or_else(|| "is not hexadecimal".to_owned())
                .and_then(|secret| Key::secret(algorithm, &secret))
                .map_err(|why| ("secret_hex", why)),
        };
        Ok((self.kid, key?))
    }
}

/// What is wrong with an address, as far as it can be seen without the gateway.
fn no_url(url: &str) -> Option<String> {
    if url.len() > URL_BYTES_MAX {
        return Some(format!("has {} bytes: at most {URL_BYTES_MAX} are accepted", url.len()));
    }
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    // A name and password in it would go into the log.
    let good =
        !host.is_empty() && !host.contains('@') && url.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    (!good).then(|| format!("is {url:?}: an address such as \"https://login.example/jwks.json\" is accepted"))
}

/// A table of the settings, or JSON in a text.
fn json(value: Value) -> Result<Value, String> {
    match value {
        Value::String(text) => serde_json::from_str(&text).map_err(|_| "is a text that is not JSON".into()),
        value => Ok(value),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
