//! `Issuer` creates tokens for the visitors of the page, signed with the secret of the auth-jwt plugin.

use anyhow::anyhow;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Validity of a token, in seconds.
const LIFETIME: u64 = 3_600;

/// Signs tokens.
#[derive(Clone)]
pub(super) struct Issuer(Hmac<Sha256>);

impl Issuer {
    /// Creates an issuer with this secret.
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("a secret of any length"))
    }

    /// A JSON Web Token for a user name that [`user_name`] has accepted; `now` is Unix time in seconds.
    pub(super) fn token(&self, user: &str, now: u64) -> String {
        let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let claims = format!(r#"{{"sub":"{user}","exp":{},"info":{{"name":"{user}"}}}}"#, now + LIFETIME);
        let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let signature = self.0.clone().chain_update(&signed).finalize().into_bytes();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issuer(***)")
    }
}

/// The `user` in a query, if it needs no escaping anywhere.
pub(super) fn user_name(query: &str) -> Option<&str> {
    let name = query.split('&').find_map(|pair| pair.strip_prefix("user="))?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    (1..=32).contains(&name.len()).then_some(name).filter(|name| name.bytes().all(allowed))
}

/// Random bytes from the system.
pub(super) fn random_bytes<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("failed to get random bytes from the system: {error}"))?;
    Ok(bytes)
}

/// A random text of 32 characters that is valid in a header and in a shell.
pub(super) fn random_text() -> anyhow::Result<String> {
    Ok(BASE64_URL_SAFE_NO_PAD.encode(random_bytes::<24>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_signed_jwt() {
        // Computed with `openssl dgst -sha256 -hmac`, see the README of auth-jwt for the recipe.
        let token = Issuer::new(b"a secret of thirty-two bytes or more").token("ann", 1_000);
        let parts: Vec<_> = token.split('.').collect();
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url without padding");
        let json = |part: &str| serde_json::from_slice::<serde_json::Value>(&decode(part)).expect("JSON");
        assert_eq!(json(parts[0]), serde_json::json!({"alg": "HS256", "typ": "JWT"}));
        assert_eq!(json(parts[1]), serde_json::json!({"sub": "ann", "exp": 4_600, "info": {"name": "ann"}}));
        assert_eq!(parts[2], "bapO5G7moDAo17smR7pHtlnLcByXCagq8PVA1eGr34Q");
    }

    #[test]
    fn a_user_has_a_plain_name() {
        assert_eq!(user_name("user=ann"), Some("ann"));
        assert_eq!(user_name("x=1&user=Bob_2.b-c"), Some("Bob_2.b-c"));
        let long = format!("user={}", "x".repeat(33));
        for query in ["", "user", "user=", "user=a%20b", "user=a+b", "user=ä", "xuser=ann", &long] {
            assert_eq!(user_name(query), None, "{query:?}");
        }
    }

    #[test]
    fn a_random_text_is_long_and_plain() {
        let (one, other) = (random_text().expect("random"), random_text().expect("random"));
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
        assert!(one.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    }
}
