//! [`Key`] is a key that signs tokens, with the one algorithm that it is for (RFC 7518, section 3).

use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail, ensure};
use gateway_plugin_grammar::secret::strength_bytes;
use hmac::{Hmac, Mac};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RsaEncoding, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Sha256, Sha384, Sha512};

/// The algorithms that a key may be for.
pub(crate) const ALGORITHMS: [&str; 12] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384",
    "EdDSA",
];

/// A key with its algorithm. Clones share it.
#[derive(Clone)]
pub(crate) struct Key {
    algorithm: &'static str,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
    Rsa(Arc<RsaKeyPair>, &'static dyn RsaEncoding),
    Ecdsa(Arc<EcdsaKeyPair>),
    Ed25519(Arc<Ed25519KeyPair>),
}

impl Key {
    /// A shared secret for HS256, HS384 or HS512, at least as long as the hash.
    ///
    /// # Errors
    ///
    /// Fails for other algorithms and for a secret that auth-jwt would refuse as too short.
    pub(crate) fn secret(algorithm: &str, secret: &[u8]) -> anyhow::Result<Self> {
        let algorithm = known(algorithm)?;
        let (kind, least) = match algorithm {
            "HS256" => (Hmac::new_from_slice(secret).map(Kind::Sha256), 32),
            "HS384" => (Hmac::new_from_slice(secret).map(Kind::Sha384), 48),
            "HS512" => (Hmac::new_from_slice(secret).map(Kind::Sha512), 64),
            _ => {
                bail!("{algorithm} signs with a private key and not with a shared secret: pass it with --key")
            }
        };
        ensure!(
            strength_bytes(secret) >= least,
            "the secret has {} bytes without padding and repetition and {algorithm} needs at least {least}",
            strength_bytes(secret)
        );
        let kind = kind.map_err(|error| anyhow!("failed to use the secret: {error}"))?;
        Ok(Self { algorithm, kind })
    }

    /// A private key as PEM, or for HS256, HS384 and HS512 the secret as the bytes of a file.
    ///
    /// # Errors
    ///
    /// Fails if the file holds no such key. The error says which form is needed.
    pub(crate) fn from_file(algorithm: &str, bytes: &[u8]) -> anyhow::Result<Self> {
        let algorithm = known(algorithm)?;
        if algorithm.starts_with("HS") {
            // Editors end a file with a line break, which is not part of the secret.
            return Self::secret(algorithm, bytes.strip_suffix(b"\n").unwrap_or(bytes));
        }
        let needed = || {
            format!(
                "expected a private key for {algorithm} as PEM in PKCS #8, which begins with \
                 `-----BEGIN PRIVATE KEY-----`; `openssl pkcs8 -topk8 -nocrypt -in KEY` makes it from other forms"
            )
        };
        let der = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| anyhow!(needed()))?;
        let pkcs8 = match &der {
            PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der(),
            PrivateKeyDer::Pkcs1(key) if matches!(&algorithm[..2], "RS" | "PS") => {
                let pair = RsaKeyPair::from_der(key.secret_pkcs1_der()).map_err(|_| anyhow!(needed()))?;
                return Ok(Self { algorithm, kind: Kind::Rsa(Arc::new(pair), encoding(algorithm)) });
            }
            _ => bail!(needed()),
        };
        let kind = match algorithm {
            "ES256" => ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8),
            "ES384" => ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, pkcs8),
            "EdDSA" => {
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map(|pair| Kind::Ed25519(pair.into()))
            }
            _ => RsaKeyPair::from_pkcs8(pkcs8).map(|pair| Kind::Rsa(pair.into(), encoding(algorithm))),
        };
        kind.map(|kind| Self { algorithm, kind }).map_err(|error| anyhow!("{error}")).with_context(needed)
    }

    /// The algorithm, as in the header of a token.
    pub(crate) fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// The signature of a message.
    ///
    /// # Errors
    ///
    /// Fails if the system has no random bytes, or the key is too small for the algorithm.
    pub(crate) fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let failed = |_| anyhow!("failed to sign with this key and {}", self.algorithm);
        Ok(match &self.kind {
            Kind::Sha256(mac) => mac.clone().chain_update(message).finalize().into_bytes().to_vec(),
            Kind::Sha384(mac) => mac.clone().chain_update(message).finalize().into_bytes().to_vec(),
            Kind::Sha512(mac) => mac.clone().chain_update(message).finalize().into_bytes().to_vec(),
            Kind::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &SystemRandom::new(), message, &mut signature).map_err(failed)?;
                signature
            }
            Kind::Ecdsa(pair) => pair.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec(),
            Kind::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({}, ***)", self.algorithm)
    }
}

fn known(algorithm: &str) -> anyhow::Result<&'static str> {
    let found = ALGORITHMS.iter().find(|known| **known == algorithm);
    found.copied().with_context(|| {
        format!(
            "the algorithm {algorithm:?} is not one that tokens can be signed with: {}",
            ALGORITHMS.join(", ")
        )
    })
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, pkcs8: &[u8]) -> Result<Kind, ring::error::KeyRejected> {
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8, &SystemRandom::new()).map(|pair| Kind::Ecdsa(pair.into()))
}

fn encoding(algorithm: &str) -> &'static dyn RsaEncoding {
    match algorithm {
        "RS256" => &signature::RSA_PKCS1_SHA256,
        "RS384" => &signature::RSA_PKCS1_SHA384,
        "RS512" => &signature::RSA_PKCS1_SHA512,
        "PS256" => &signature::RSA_PSS_SHA256,
        "PS384" => &signature::RSA_PSS_SHA384,
        _ => &signature::RSA_PSS_SHA512,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_as_long_as_the_hash() {
        for (algorithm, least) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
            let long: Vec<u8> = (1..=least as u8).collect();
            assert!(Key::secret(algorithm, &long).is_ok(), "{algorithm}");
            let padded = [&long[1..], &[0; 40]].concat();
            for short in [&long[1..], &padded] {
                let error = Key::secret(algorithm, short).expect_err("too short").to_string();
                let has = format!("has {} bytes", least - 1);
                assert!(error.contains(&has), "{error}");
                assert!(error.contains(&format!("{algorithm} needs at least {least}")), "{error}");
            }
        }
    }

    #[test]
    fn the_line_break_at_the_end_of_a_file_is_not_part_of_the_secret() {
        let with = Key::from_file("HS256", b"a secret of thirty-two bytes or more\n").expect("long enough");
        let without = Key::secret("HS256", b"a secret of thirty-two bytes or more").expect("long enough");
        assert_eq!(with.sign(b"x").expect("signed"), without.sign(b"x").expect("signed"));
    }

    #[test]
    fn a_private_key_signs_what_its_public_key_verifies() {
        for (algorithm, made, verifies) in [
            (
                "ES256",
                &rcgen::PKCS_ECDSA_P256_SHA256,
                &signature::ECDSA_P256_SHA256_FIXED as &dyn signature::VerificationAlgorithm,
            ),
            ("ES384", &rcgen::PKCS_ECDSA_P384_SHA384, &signature::ECDSA_P384_SHA384_FIXED),
            ("EdDSA", &rcgen::PKCS_ED25519, &signature::ED25519),
        ] {
            let pair = rcgen::KeyPair::generate_for(made).expect("a key");
            let key = Key::from_file(algorithm, pair.serialize_pem().as_bytes()).expect(algorithm);
            let signature = key.sign(b"a message").expect("signed");
            let public = signature::UnparsedPublicKey::new(verifies, pair.public_key_raw());
            assert!(public.verify(b"a message", &signature).is_ok(), "{algorithm}");
            assert!(public.verify(b"another", &signature).is_err(), "{algorithm}");
        }
    }

    #[test]
    fn a_key_of_another_kind_is_refused_with_the_form_that_is_needed() {
        let pair =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key").serialize_pem();
        for (algorithm, file) in [("RS256", &*pair), ("ES384", &pair), ("EdDSA", &pair), ("ES256", "no key")]
        {
            let error = Key::from_file(algorithm, file.as_bytes()).expect_err(algorithm).to_string();
            assert!(error.contains("BEGIN PRIVATE KEY") && error.contains(algorithm), "{error}");
        }
        let error = Key::secret("none", &[1; 64]).expect_err("no algorithm").to_string();
        assert!(error.contains("\"none\"") && error.contains("ES256"), "{error}");
        let error = Key::secret("ES256", &[1; 64]).expect_err("no secret").to_string();
        assert!(error.contains("--key"), "{error}");
    }
}
