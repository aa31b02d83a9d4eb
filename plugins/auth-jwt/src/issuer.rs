//! `Issuer` verifies tokens with its own keys and rules.

use crate::Rejected;
use crate::claims::Claims;
use crate::jwks::{Moment, Source};
use crate::keys::Keys;
use crate::token::Parts;

/// Who makes tokens, and for whom. Keys belong to an issuer, so that the same `kid` in two issuers stays
/// apart.
#[derive(Debug)]
pub(crate) struct Issuer {
    /// What `iss` is; anything if there is none.
    pub(crate) name: Option<String>,
    /// What `aud` has to be, or contain one of; anything if this is empty.
    pub(crate) audience: Vec<String>,
    /// From the settings.
    pub(crate) keys: Keys,
    /// Where more keys come from.
    pub(crate) source: Option<Source>,
}

/// Verifies a token with the keys of its issuer.
pub(crate) fn verify(issuers: &mut [Issuer], token: &Parts<'_>, moment: Moment) -> Result<Claims, Rejected> {
    // Read before anything is verified, to choose among the keys that the settings name. A forged `iss`
    // chooses keys that did not sign the token.
    let claims = Claims::parse(&token.claims()?)?;
    let name = claims.text("iss")?;
    let issuer = issuers
        .iter_mut()
        .find(|issuer| issuer.name.is_none() || issuer.name.as_deref() == name)
        .ok_or_else(|| Rejected::invalid("claim `iss` is not an expected issuer"))?;
    match (issuer.keys.verify(token), &mut issuer.source) {
        (Err(_), Some(source)) if !issuer.keys.has_named(token) => source.verify(token, moment)?,
        (verified, _) => verified?,
    }
    // For its type, whether or not it matters.
    let names = claims.names("aud", &issuer.audience)?;
    if !names && !issuer.audience.is_empty() {
        return Err(Rejected::invalid("claim `aud` does not name the expected audience"));
    }
    Ok(claims)
}
