//! `Parts` splits a token in compact serialisation (RFC 7515, section 7.1) and reads its header.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::Rejected;
use crate::json;

/// Longest header in bytes, encoded. Only certificates make a header long, and those are not read.
const HEADER_BYTES_MAX: usize = 4 * 1024;

/// Longest `kid` in bytes.
const KID_BYTES_MAX: usize = 256;

/// A token taken apart, with nothing verified yet.
pub(crate) struct Parts<'t> {
    /// Header and claims with the dot between them: what the signature covers.
    pub(crate) signed: &'t str,
    pub(crate) signature: Vec<u8>,
    pub(crate) header: Header,
    claims: &'t str,
}

/// What of the header matters. Everything else in it is for somebody else, above all the key that it may name
/// or bring along (`jwk`, `jku`, `x5c`, `x5u`): a token does not choose how it is verified.
pub(crate) struct Header {
    pub(crate) alg: String,
    pub(crate) kid: Option<String>,
    pub(crate) typ: Option<String>,
}

impl<'t> Parts<'t> {
    pub(crate) fn split(token: &'t str, bytes_max: usize) -> Result<Self, Rejected> {
        if token.len() > bytes_max {
            return Err(Rejected::Invalid(format!("longer than {bytes_max} bytes")));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Rejected::invalid("not made of three parts"));
        };
        if header.len() > HEADER_BYTES_MAX {
            return Err(Rejected::Invalid(format!("the header is longer than {HEADER_BYTES_MAX} bytes")));
        }
        let signed = &token[..header.len() + 1 + claims.len()];
        let signature = decode("signature is", signature)?;
        let header = Header::parse(&decode("header is", header)?)?;
        Ok(Self { signed, signature, header, claims })
    }

    pub(crate) fn claims(&self) -> Result<Vec<u8>, Rejected> {
        decode("claims are", self.claims)
    }
}

impl Header {
    fn parse(json: &[u8]) -> Result<Self, Rejected> {
        let mut header = json::object(json).map_err(|_| {
            Rejected::invalid("the header is not an object in which every name is there once")
        })?;
        // Extensions that a verifier must understand, and we understand none; the second is one of them.
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(Rejected::invalid("the header demands extensions (`crit`, `b64`)"));
        }
        let mut text = |name: &str| match header.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Rejected::Invalid(format!("`{name}` in the header is not a text"))),
        };
        let (alg, kid, typ) = (text("alg")?, text("kid")?, text("typ")?);
        let alg = alg.ok_or_else(|| Rejected::invalid("the header has no `alg`"))?;
        if kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return Err(Rejected::Invalid(format!("`kid` is longer than {KID_BYTES_MAX} bytes")));
        }
        Ok(Self { alg, kid, typ })
    }
}

/// The one spelling that the standard allows: URL-safe, unpadded, without stray bits. Another spelling of the
/// same bytes would be another token with the same meaning.
fn decode(part: &str, text: &str) -> Result<Vec<u8>, Rejected> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Rejected::Invalid(format!("the {part} not base64url")))
}
