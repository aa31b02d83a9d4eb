use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Rejected;

/// Longest token in bytes.
pub(crate) const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// A token taken apart, with nothing verified yet.
pub(crate) struct Parts<'t> {
    /// Header and claims with the dot between them: what the signature covers.
    pub(crate) signed: &'t str,
    pub(crate) signature: Vec<u8>,
    pub(crate) header: Header,
    claims: &'t str,
}

/// What of the header matters. Everything else in it is for somebody else, above all the key that it may name or bring
/// along: a token does not choose how it is verified.
#[derive(Deserialize)]
pub(crate) struct Header {
    pub(crate) alg: String,
    /// Extensions that a verifier must understand.
    crit: Option<IgnoredAny>,
}

impl<'t> Parts<'t> {
    pub(crate) fn split(token: &'t str) -> Result<Self, Rejected> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Rejected::invalid(format!("longer than {TOKEN_BYTES_MAX} bytes")));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Rejected::invalid("not made of three parts"));
        };
        let signed = &token[..header.len() + 1 + claims.len()];
        let signature = decode("signature", signature)?;
        let header: Header = serde_json::from_slice(&decode("header", header)?)
            .map_err(|_| Rejected::invalid("the header is not an object with one `alg`"))?;
        if header.crit.is_some() {
            return Err(Rejected::invalid("the header demands extensions (`crit`)"));
        }
        Ok(Self { signed, signature, header, claims })
    }

    pub(crate) fn claims(&self) -> Result<Vec<u8>, Rejected> {
        decode("claims", self.claims)
    }
}

/// The one spelling that the standard allows: URL-safe, unpadded, without stray bits. Another spelling of the same bytes
/// would be another token with the same meaning.
fn decode(part: &str, text: &str) -> Result<Vec<u8>, Rejected> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Rejected::invalid(format!("the {part} is not base64url")))
}
