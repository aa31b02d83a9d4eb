//! Keys as JSON (RFC 7517): one, or a set of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use crate::algorithm::{Algorithm, Family};
use crate::key::Key;
use crate::keys::Keys;

/// As many keys as one set may have. Whoever publishes more has another idea of a key set.
pub(crate) const KEYS_MAX: usize = 64;

/// What of a JWK matters here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    alg: Option<String>,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    k: Option<String>,
    /// Private parts: of every kind of key that has any.
    d: Option<serde::de::IgnoredAny>,
}

/// Why a member of a set cannot be used.
enum Unusable {
    /// It is for something else: encryption, or an algorithm that is not ours. Sets are shared, so this is no
    /// error.
    Foreign(String),
    Broken(String),
}

/// One key and its `kid`. `algorithm` is for a key that does not say its own.
pub(crate) fn one(json: &Value, algorithm: Option<Algorithm>) -> Result<(Option<String>, Key), String> {
    Jwk::read(json).and_then(|jwk| jwk.key(algorithm)).map_err(|unusable| match unusable {
        Unusable::Foreign(why) | Unusable::Broken(why) => why,
    })
}

/// Adds the usable keys of a set that the settings hold: a broken key in it is an error.
pub(crate) fn set(json: &Value, algorithm: Option<Algorithm>, keys: &mut Keys) -> Result<(), String> {
    let members = members(json)?;
    let mut passed_over = Vec::new();
    let mut added = false;
    for (index, member) in members.iter().enumerate() {
        match Jwk::read(member).and_then(|jwk| jwk.key(algorithm)) {
            Ok((kid, key)) => {
                keys.add(kid, key).map_err(|why| format!("has in `keys[{index}]` a key that {why}"))?;
                added = true;
            }
            Err(Unusable::Foreign(why)) => passed_over.push(format!("`keys[{index}]` {why}")),
            Err(Unusable::Broken(why)) => return Err(format!("has a bad key: `keys[{index}]` {why}")),
        }
    }
    match added {
        true => Ok(()),
        false if passed_over.is_empty() => Err("has no keys".into()),
        false => Err(format!("has no key that can be used: {}", passed_over.join(", "))),
    }
}

/// The usable keys of a set that somebody else publishes, and why others are passed over. A key that is wrong
/// does not take the others away, as RFC 7517 has it.
pub(crate) fn published(json: &Value, algorithm: Option<Algorithm>) -> Result<(Keys, Vec<String>), String> {
    let (mut keys, mut foreign, mut broken) = (Keys::default(), Vec::new(), Vec::new());
    for (index, member) in members(json)?.iter().enumerate() {
        let key = Jwk::read(member).and_then(Jwk::must_be_public).and_then(|jwk| jwk.key(algorithm));
        match key.and_then(|(kid, key)| keys.add(kid, key).map_err(Unusable::Broken)) {
            Ok(()) => {}
            Err(Unusable::Foreign(why)) => foreign.push(format!("`keys[{index}]` {why}")),
            Err(Unusable::Broken(why)) => broken.push(format!("`keys[{index}]` {why}")),
        }
    }
    if keys.len() > 0 {
        return Ok((keys, broken));
    }
    broken.append(&mut foreign);
    if broken.is_empty() {
        return Err("has no keys".into());
    }
    Err(format!("has no key that can be used: {}", broken.join(", ")))
}

fn members(json: &Value) -> Result<&[Value], String> {
    let Some(members) = json.get("keys").and_then(Value::as_array) else {
        return Err("has no list `keys`".into());
    };
    if members.len() > KEYS_MAX {
        return Err(format!("has {} keys: at most {KEYS_MAX} are accepted", members.len()));
    }
    Ok(members)
}

impl Jwk {
    /// Where everybody can read it, a secret is none.
    fn must_be_public(self) -> Result<Self, Unusable> {
        match self.kty.as_str() {
            "oct" => Err(Unusable::Broken("is a secret that was published".into())),
            _ => Ok(self),
        }
    }

    fn read(json: &Value) -> Result<Self, Unusable> {
        Self::deserialize(json).map_err(|error| {
            // The text quotes values; those of a key are nobody's business.
            let text = error.to_string();
            let missing = text.starts_with("missing field");
            Unusable::Broken(if missing {
                "has no `kty`".into()
            } else {
                "has a member of the wrong type".into()
            })
        })
    }

    fn key(self, algorithm: Option<Algorithm>) -> Result<(Option<String>, Key), Unusable> {
        let foreign = |why: &str| Err(Unusable::Foreign(why.into()));
        if self.usage.as_deref().is_some_and(|usage| usage != "sig")
            || self.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
        {
            return foreign("is not for verifying signatures");
        }
        if self.d.is_some() {
            return Err(Unusable::Broken(
                "holds a private key: leave out `d` and what else is private".into(),
            ));
        }
        let family = match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) => Family::Secret,
            ("RSA", _) => Family::Rsa,
            ("EC", Some("P-256" | "P-384" | "P-521")) => Family::Curve,
            ("OKP", Some("Ed25519")) => Family::Edwards,
            _ => return foreign("is of a kind that is not supported"),
        };
        let algorithm = match (&self.alg, self.crv.as_deref()) {
            // RFC 9864 has a name of its own for it; tokens say `EdDSA`.
            (Some(name), _) if name == "Ed25519" => Algorithm::EdDsa,
            (Some(name), _) => match Algorithm::from_name(name) {
                Some(algorithm) => algorithm,
                None => return foreign("is for an algorithm that is not supported"),
            },
            (None, Some("P-256")) => Algorithm::Es256,
            (None, Some("P-384")) => Algorithm::Es384,
            (None, Some("P-521")) => Algorithm::Es512,
            (None, Some("Ed25519")) => Algorithm::EdDsa,
            (None, _) => match algorithm {
                Some(algorithm) => algorithm,
                None => return foreign("has no `alg`: say it with `algorithm`"),
            },
        };
        if algorithm.family() != family {
            return Err(Unusable::Broken(format!("is of another kind than {} works with", algorithm.name())));
        }
        let key = match family {
            Family::Secret => Key::secret(algorithm, &bytes("k", self.k.as_ref())?),
            Family::Edwards => Key::ed25519(&bytes("x", self.x.as_ref())?),
            Family::Rsa => {
                Key::rsa_parts(algorithm, &bytes("n", self.n.as_ref())?, &bytes("e", self.e.as_ref())?)
            }
            Family::Curve => {
                let (x, y) = (bytes("x", self.x.as_ref())?, bytes("y", self.y.as_ref())?);
                if x.len() != y.len() {
                    return Err(Unusable::Broken("has coordinates of different length".into()));
                }
                Key::point(algorithm, &[&[4], &x[..], &y[..]].concat())
            }
        };
        Ok((self.kid, key.map_err(Unusable::Broken)?))
    }
}

fn bytes(name: &str, text: Option<&String>) -> Result<Vec<u8>, Unusable> {
    let text = text.ok_or_else(|| Unusable::Broken(format!("has no `{name}`")))?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Unusable::Broken(format!("has a `{name}` that is not base64url without padding")))
}
