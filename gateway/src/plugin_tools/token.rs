//! [`Signer`] creates JSON Web Tokens that the plugin auth-jwt accepts. It signs with the secret in the
//! plugin's settings, or with a private key from a file.

mod key;
mod settings;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

pub(crate) use self::key::{ALGORITHMS, Key};
pub(crate) use self::settings::{AuthSettings, TokenOptions};

/// Signs tokens with one key.
#[derive(Clone)]
pub(crate) struct Signer {
    key: Key,
    key_id: Option<String>,
}

impl Signer {
    /// Creates a signer. Tokens name the key by `key_id`, if there is one.
    pub(crate) fn new(key: Key, key_id: Option<String>) -> Self {
        Self { key, key_id }
    }

    /// Creates a signer for HS256.
    pub(crate) fn with_secret(secret: &[u8]) -> anyhow::Result<Self> {
        Ok(Self::new(Key::secret("HS256", secret)?, None))
    }

    /// A token with these claims.
    ///
    /// # Errors
    ///
    /// Fails if the private key cannot sign, for example an RSA key that is too small.
    pub(crate) fn token(&self, claims: &Claims) -> anyhow::Result<String> {
        let mut header = json!({ "alg": self.key.algorithm(), "typ": "JWT" });
        if let Some(key_id) = &self.key_id {
            header["kid"] = key_id.as_str().into();
        }
        let encoded = |part: &Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
        let mut token = format!("{}.{}", encoded(&header), encoded(&Value::Object(claims.0.clone())));
        let signature = self.key.sign(token.as_bytes())?;
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(***)")
    }
}

/// The claims of a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Claims(Map<String, Value>);

impl Claims {
    /// Sets a claim: by its name, or, if that begins with a slash, by a JSON pointer.
    ///
    /// # Errors
    ///
    /// Fails if the pointer leads through a claim that is not an object.
    pub(crate) fn set(&mut self, claim: &str, value: Value) -> anyhow::Result<()> {
        let Some(pointer) = claim.strip_prefix('/') else {
            ensure!(!claim.is_empty(), "a claim needs a name");
            self.0.insert(claim.to_owned(), value);
            return Ok(());
        };
        let mut names: Vec<_> =
            pointer.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
        let last = names.pop().context("a claim needs a name")?;
        let mut object = &mut self.0;
        for name in names {
            let inner = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(inner) = inner else {
                bail!("the claim {claim} leads through a claim that is not an object");
            };
            object = inner;
        }
        object.insert(last, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(claims: &[(&str, Value)]) -> Claims {
        claims.iter().fold(Claims::default(), |mut all, (claim, value)| {
            all.set(claim, value.clone()).expect(claim);
            all
        })
    }

    fn decoded(part: &str) -> Value {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url without padding");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn a_token_is_a_signed_jwt() {
        let signer = Signer::with_secret(b"a secret of thirty-two bytes or more").expect("long enough");
        let token = signer.token(&claims(&[("sub", json!("ann")), ("exp", json!(4_600))])).expect("signed");
        let parts: Vec<_> = token.split('.').collect();
        assert_eq!(decoded(parts[0]), json!({"alg": "HS256", "typ": "JWT"}));
        assert_eq!(decoded(parts[1]), json!({"sub": "ann", "exp": 4_600}));
        // Computed with `openssl dgst -sha256 -hmac`; the README of auth-jwt has the recipe.
        assert_eq!(parts[2], "1VPB6TwNcwXO1jbPzuap3t3ozhUPlAoVCa8bguyUNV0");
    }

    #[test]
    fn a_key_id_stands_in_the_header() {
        let secret: Vec<u8> = (0..64).collect();
        let key = Key::secret("HS512", &secret).expect("long enough");
        let token = Signer::new(key, Some("2026-11".into())).token(&Claims::default()).expect("signed");
        let header = token.split('.').next().expect("a header");
        assert_eq!(decoded(header), json!({"alg": "HS512", "typ": "JWT", "kid": "2026-11"}));
    }

    #[test]
    fn a_claim_is_a_name_or_a_pointer() {
        let all = claims(&[
            ("sub", json!("ann")),
            ("/realm/roles", json!(["chat"])),
            ("/realm/level~1depth", json!(2)),
        ]);
        let expected = json!({"sub": "ann", "realm": {"roles": ["chat"], "level/depth": 2}});
        assert_eq!(Value::Object(all.0), expected);
        let error = claims(&[("sub", json!("ann"))]).set("/sub/name", json!(1)).expect_err("a text");
        assert!(error.to_string().contains("/sub/name"), "{error}");
    }

    #[test]
    fn a_signer_does_not_print_its_key() {
        let signer = Signer::with_secret(b"a secret of thirty-two bytes or more").expect("long enough");
        assert_eq!(format!("{signer:?}"), "Signer(***)");
    }
}
