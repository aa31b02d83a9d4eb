//! A key, and whether something was signed with it. The cryptography is that of the RustCrypto and dalek
//! crates.

use ed25519_dalek::pkcs8::DecodePublicKey as _;
use gateway_plugin_sdk::secret::strength_bytes;
use hmac::{Hmac, Mac};
use rsa::pkcs8::DecodePublicKey as _;
use rsa::traits::PublicKeyParts as _;
use rsa::{BigUint, RsaPublicKey, pkcs1v15, pss};
use sha2::{Sha256, Sha384, Sha512};

use crate::Rejected;
use crate::algorithm::{Algorithm, Family};
use crate::token::Parts;

/// Shortest RSA key in bits, as RFC 7518 demands.
const RSA_BITS_MIN: usize = 2048;

/// A key and the one algorithm it is for. The token's `alg` is compared with it and never chosen by it, so
/// that a public key can never be mistaken for a secret.
pub(crate) struct Key {
    algorithm: Algorithm,
    verify: Verify,
}

/// Whether a signature (second) belongs to a message (first).
type Verify = Box<dyn Fn(&[u8], &[u8]) -> bool>;

/// With a key whose crate has the traits of `signature`: there are two generations of them here.
macro_rules! public_key {
    ($key:expr, $signature:ty, $verifier:path) => {{
        let key = $key;
        Box::new(move |message: &[u8], signature: &[u8]| {
            <$signature>::try_from(signature)
                .is_ok_and(|signature| <_ as $verifier>::verify(&key, message, &signature).is_ok())
        })
    }};
}

impl Key {
    pub(crate) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether the token was signed with this key.
    pub(crate) fn verify(&self, token: &Parts<'_>) -> Result<(), Rejected> {
        if token.header.alg != self.algorithm.name() {
            return Err(Rejected::Invalid(format!("not signed with {}", self.algorithm.name())));
        }
        if self.is_signature(token.signed.as_bytes(), &token.signature) {
            Ok(())
        } else {
            Err(Rejected::invalid("the signature is wrong"))
        }
    }

    pub(crate) fn is_signature(&self, message: &[u8], signature: &[u8]) -> bool {
        (self.verify)(message, signature)
    }

    /// With a secret that issuer and gateway share.
    pub(crate) fn secret(algorithm: Algorithm, secret: &[u8]) -> Result<Self, String> {
        fn mac<M: Mac + hmac::digest::KeyInit + Clone + 'static>(secret: &[u8]) -> Verify {
            let mac = <M as Mac>::new_from_slice(secret).expect("a secret of any length makes an HMAC key");
            Box::new(move |message, signature| {
                mac.clone().chain_update(message).verify_slice(signature).is_ok()
            })
        }

        let (name, least) = (algorithm.name(), algorithm.secret_bytes_min());
        let (has, count) = (secret.len(), strength_bytes(secret));
        if count < least {
            let of_them = if has < least {
                String::new()
            } else {
                format!(", but {count} without padding and repetition")
            };
            return Err(format!(
                "has {has} bytes{of_them}: {name} needs at least {least} (`openssl rand -base64 {}` makes a good one)",
                least + least / 2
            ));
        }
        let verify = match algorithm {
            Algorithm::Hs256 => mac::<Hmac<Sha256>>(secret),
            Algorithm::Hs384 => mac::<Hmac<Sha384>>(secret),
            Algorithm::Hs512 => mac::<Hmac<Sha512>>(secret),
            _ => return Err(format!("is a secret, but {name} works with a public key")),
        };
        Ok(Self { algorithm, verify })
    }

    /// With a public key as PEM (`BEGIN PUBLIC KEY`).
    pub(crate) fn pem(algorithm: Algorithm, text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.contains("PRIVATE KEY") {
            return Err("is a private key: give the public one (`openssl pkey -in FILE -pubout`)".into());
        }
        if !text.starts_with("-----BEGIN PUBLIC KEY-----") {
            return Err("does not begin with `-----BEGIN PUBLIC KEY-----`: of a certificate take \
                        `openssl x509 -in FILE -pubkey -noout`"
                .into());
        }
        let wrong = || format!("is not a public key for {}", algorithm.name());
        match algorithm.family() {
            Family::Secret => Err(format!("is a public key, but {} works with a secret", algorithm.name())),
            Family::Rsa => {
                Self::rsa(algorithm, RsaPublicKey::from_public_key_pem(text).map_err(|_| wrong())?)
            }
            Family::Edwards => {
                let key = ed25519_dalek::VerifyingKey::from_public_key_pem(text).map_err(|_| wrong())?;
                Self::edwards(key)
            }
            Family::Curve => {
                let verify: Verify = match algorithm {
                    Algorithm::Es256 => es256(text.parse().map_err(|_| wrong())?),
                    Algorithm::Es384 => es384(text.parse().map_err(|_| wrong())?),
                    _ => es512(text.parse().map_err(|_| wrong())?),
                };
                Ok(Self { algorithm, verify })
            }
        }
    }

    /// With the modulus and the exponent of an RSA key, the highest byte first.
    pub(crate) fn rsa_parts(algorithm: Algorithm, n: &[u8], e: &[u8]) -> Result<Self, String> {
        let key = RsaPublicKey::new(BigUint::from_bytes_be(n), BigUint::from_bytes_be(e));
        Self::rsa(algorithm, key.map_err(|error| format!("is not an RSA key: {error}"))?)
    }

    /// With a point, uncompressed as in SEC 1.
    pub(crate) fn point(algorithm: Algorithm, point: &[u8]) -> Result<Self, String> {
        let wrong = || format!("is not a point of the curve of {}", algorithm.name());
        let verify = match algorithm {
            Algorithm::Es256 => {
                es256(p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| wrong())?)
            }
            Algorithm::Es384 => {
                es384(p384::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| wrong())?)
            }
            Algorithm::Es512 => {
                es512(p521::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| wrong())?)
            }
            _ => return Err(wrong()),
        };
        Ok(Self { algorithm, verify })
    }

    /// With the 32 bytes of an Ed25519 key.
    pub(crate) fn ed25519(bytes: &[u8]) -> Result<Self, String> {
        let key = ed25519_dalek::VerifyingKey::try_from(bytes);
        Self::edwards(key.map_err(|_| "is not an Ed25519 key".to_owned())?)
    }

    fn edwards(key: ed25519_dalek::VerifyingKey) -> Result<Self, String> {
        if key.is_weak() {
            return Err("is a weak Ed25519 key, under which anybody can sign".into());
        }
        // Strict: a signature has one form, and none verifies under several keys.
        let verify = Box::new(move |message: &[u8], signature: &[u8]| {
            ed25519_dalek::Signature::try_from(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok())
        });
        Ok(Self { algorithm: Algorithm::EdDsa, verify })
    }

    fn rsa(algorithm: Algorithm, key: RsaPublicKey) -> Result<Self, String> {
        let bits = key.n().bits();
        if bits < RSA_BITS_MIN {
            return Err(format!("is an RSA key of {bits} bits: at least {RSA_BITS_MIN} are accepted"));
        }
        let verify: Verify = match algorithm {
            Algorithm::Rs256 => public_key!(
                pkcs1v15::VerifyingKey::<Sha256>::new(key),
                pkcs1v15::Signature,
                rsa::signature::Verifier<_>
            ),
            Algorithm::Rs384 => public_key!(
                pkcs1v15::VerifyingKey::<Sha384>::new(key),
                pkcs1v15::Signature,
                rsa::signature::Verifier<_>
            ),
            Algorithm::Rs512 => public_key!(
                pkcs1v15::VerifyingKey::<Sha512>::new(key),
                pkcs1v15::Signature,
                rsa::signature::Verifier<_>
            ),
            // The salt is as long as the hash, as RFC 7518 demands.
            Algorithm::Ps256 => public_key!(
                pss::VerifyingKey::<Sha256>::new(key),
                pss::Signature,
                rsa::signature::Verifier<_>
            ),
            Algorithm::Ps384 => public_key!(
                pss::VerifyingKey::<Sha384>::new(key),
                pss::Signature,
                rsa::signature::Verifier<_>
            ),
            Algorithm::Ps512 => public_key!(
                pss::VerifyingKey::<Sha512>::new(key),
                pss::Signature,
                rsa::signature::Verifier<_>
            ),
            _ => return Err(format!("is an RSA key, which {} does not work with", algorithm.name())),
        };
        Ok(Self { algorithm, verify })
    }
}

fn es256(key: p256::ecdsa::VerifyingKey) -> Verify {
    public_key!(key, p256::ecdsa::Signature, p256::ecdsa::signature::Verifier<_>)
}

fn es384(key: p384::ecdsa::VerifyingKey) -> Verify {
    public_key!(key, p384::ecdsa::Signature, p384::ecdsa::signature::Verifier<_>)
}

fn es512(key: p521::ecdsa::VerifyingKey) -> Verify {
    public_key!(key, p521::ecdsa::Signature, p521::ecdsa::signature::Verifier<_>)
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.algorithm.name())
    }
}
