use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::Rejected;
use crate::token::Parts;

/// Shortest secret for HS256: that of the hash, as RFC 7518 demands.
pub(crate) const HS256_SECRET_BYTES_MIN: usize = 32;

/// A key and the one algorithm it is for. The token's `alg` is compared with it and never chosen by it, so that a public
/// key can never be mistaken for a secret.
pub(crate) enum Key {
    Hs256(Box<Hmac<Sha256>>),
}

impl Key {
    pub(crate) fn hs256(secret: &[u8]) -> Self {
        let mac = Hmac::new_from_slice(secret).expect("a secret of any length makes an HMAC key");
        Self::Hs256(Box::new(mac))
    }

    /// Whether the token was signed with this key.
    pub(crate) fn verify(&self, token: &Parts<'_>) -> Result<(), Rejected> {
        if token.header.alg != self.algorithm() {
            return Err(Rejected::invalid(format!("not signed with {}", self.algorithm())));
        }
        match self {
            Self::Hs256(mac) => {
                let mut mac = Hmac::clone(mac);
                mac.update(token.signed.as_bytes());
                mac.verify_slice(&token.signature).map_err(|_| Rejected::invalid("the signature is wrong"))
            }
        }
    }

    const fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
        }
    }
}
