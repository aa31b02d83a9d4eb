//! The plugin in the test kit. Tokens are made here the way their issuers make them.

mod admitted;
mod algorithms;
mod forged;
mod issuers;
mod jwks;
mod permissions;
mod settings;
mod subscription;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway_plugin_sdk::kit::{Kit, START};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::{Sha256, Sha384, Sha512};

use super::*;

const SECRET: &str = "a secret of thirty-two bytes or more";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
/// Seconds; the clock of the kit.
const NOW: u64 = START / 1000;

#[test]
fn the_self_test_holds() -> Result<(), String> {
    Kit::<AuthJwt>::self_test()
}

/// With clocks that agree to the second.
fn kit() -> Kit<AuthJwt> {
    kit_with(json!({"secret": SECRET, "leeway": 0}))
}

fn kit_with(settings: Value) -> Kit<AuthJwt> {
    Kit::new(settings).expect("good settings")
}

fn base64(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn unbase64(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("base64url without padding")
}

/// A token with any text as header and claims, signed the way it should be.
fn sign(header: &str, claims: &str) -> String {
    sign_with(SECRET.as_bytes(), header, claims)
}

fn sign_with(secret: &[u8], header: &str, claims: &str) -> String {
    sign_by(header, claims, |signed| hs256(secret, signed))
}

/// A token that is signed by a function.
fn sign_by(header: &str, claims: &str, signer: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", base64(header), base64(claims));
    let signature = signer(signed.as_bytes());
    format!("{signed}.{}", base64(signature))
}

fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
    mac.chain_update(message).finalize().into_bytes().to_vec()
}

fn hs384(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha384>::new_from_slice(secret).expect("any length");
    mac.chain_update(message).finalize().into_bytes().to_vec()
}

fn hs512(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha512>::new_from_slice(secret).expect("any length");
    mac.chain_update(message).finalize().into_bytes().to_vec()
}

fn token(claims: &Value) -> String {
    sign(HEADER, &claims.to_string())
}

/// Claims that admit user 42 for a minute.
fn claims() -> String {
    json!({"sub": "42", "exp": NOW + 60}).to_string()
}

fn good() -> String {
    sign(HEADER, &claims())
}

/// Refused for this reason and for good; the operator can read why, and neither sees anything of the token.
#[track_caller]
fn check_refused(token: &str, why: &str) {
    check_refused_by(&mut kit(), token, why);
}

#[track_caller]
fn check_refused_by(kit: &mut Kit<AuthJwt>, token: &str, why: &str) {
    let outcome = kit.connect(token);
    assert_eq!(outcome.verdict, Connect::refuse(3500, "invalid token"), "{token}");
    assert_eq!(outcome.logged(), format!("token refused: {why}"), "{token}");
    assert_eq!(outcome.log[0].level, gateway_plugin_sdk::log::Level::Debug);
}

#[track_caller]
fn check_admitted(kit: &mut Kit<AuthJwt>, token: &str, user: &str) {
    let outcome = kit.connect(token);
    match &outcome.verdict {
        Connect::Accept(identity) => assert_eq!(identity.user, user),
        other => panic!("{other:?}: {}", outcome.logged()),
    }
}
