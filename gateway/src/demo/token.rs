//! Tokens for the visitors of the page, signed with the secret of the auth-jwt plugin.

use serde_json::json;

use crate::plugin_tools::token::{Claims, Signer};

/// Validity of a token, in seconds.
const LIFETIME: u64 = 3_600;

/// A token for a user name that [`user_name`] has accepted; `now` is Unix time in seconds.
pub(super) fn token(signer: &Signer, user: &str, now: u64) -> anyhow::Result<String> {
    let mut claims = Claims::default();
    claims.set("sub", user.into())?;
    claims.set("exp", (now + LIFETIME).into())?;
    claims.set("info", json!({ "name": user }))?;
    signer.token(&claims)
}

/// The `user` in a query, if it needs no escaping anywhere.
pub(super) fn user_name(query: &str) -> Option<&str> {
    let name = query.split('&').find_map(|pair| pair.strip_prefix("user="))?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    (1..=32).contains(&name.len()).then_some(name).filter(|name| name.bytes().all(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lasts_an_hour_and_names_the_user() {
        let signer = Signer::with_secret(b"a secret of thirty-two bytes or more").expect("long enough");
        let mut claims = Claims::default();
        for (claim, value) in [("sub", json!("ann")), ("exp", json!(4_600)), ("info", json!({"name": "ann"}))]
        {
            claims.set(claim, value).expect("a name");
        }
        let expected = signer.token(&claims).expect("signed");
        assert_eq!(token(&signer, "ann", 1_000).expect("signed"), expected);
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
}
