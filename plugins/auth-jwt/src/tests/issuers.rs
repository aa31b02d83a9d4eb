//! Several keys, several issuers.

use super::algorithms::{ed25519_jwk, eddsa, es256, p256_pem, rs256, rsa_pem};
use super::*;

const NO_KEY: &str = "there is no key with its `kid` and `alg`";

fn from(issuer: &str) -> String {
    json!({"sub": "42", "exp": NOW + 60, "iss": issuer}).to_string()
}

#[test]
fn the_same_kid_in_two_issuers_stays_apart() {
    let mut kit = kit_with(json!({"issuers": [
        {"issuer": "a", "keys": [{"kid": "1", "algorithm": "ES256", "pem": p256_pem()}]},
        {"issuer": "b", "keys": [{"kid": "1", "jwk": ed25519_jwk()}]},
    ]}));
    let es = |claims: &str| sign_by(r#"{"alg":"ES256","kid":"1"}"#, claims, es256);
    let ed = |claims: &str| sign_by(r#"{"alg":"EdDSA","kid":"1"}"#, claims, eddsa);
    check_admitted(&mut kit, &es(&from("a")), "42");
    check_admitted(&mut kit, &ed(&from("b")), "42");
    // A key of one issuer does not speak for another.
    check_refused_by(&mut kit, &es(&from("b")), "not signed with EdDSA");
    check_refused_by(&mut kit, &ed(&from("a")), "not signed with ES256");
    for nobody in ["c", "", "A", "a "] {
        check_refused_by(&mut kit, &es(&from(nobody)), "claim `iss` is not an expected issuer");
    }
    check_refused_by(&mut kit, &es(&claims()), "claim `iss` is not an expected issuer");
}

#[test]
fn each_issuer_has_its_audience() {
    let mut kit = kit_with(json!({"issuers": [
        {"issuer": "a", "audience": "chat", "keys": [{"algorithm": "HS256", "secret": SECRET}]},
        {"issuer": "b", "audience": ["game", "lobby"], "keys": [{"algorithm": "HS256", "secret": SECRET}]},
    ]}));
    for (iss, aud, admitted) in [
        ("a", json!("chat"), true),
        ("a", json!(["x", "chat"]), true),
        ("a", json!("game"), false),
        ("b", json!("lobby"), true),
        ("b", json!("chat"), false),
        ("b", json!([]), false),
        ("b", json!(["lobby2"]), false),
    ] {
        let claims = json!({"sub": "42", "exp": NOW + 60, "iss": iss, "aud": aud});
        let verdict = kit.connect(&token(&claims)).verdict;
        assert_eq!(matches!(verdict, Connect::Accept(_)), admitted, "{claims}");
    }
}

#[test]
fn one_issuer_may_be_said_without_a_list() {
    let mut kit = kit_with(json!({"secret": SECRET, "issuer": "shop", "audience": "gateway"}));
    let with = |iss: &str, aud: &str| token(&json!({"sub": "42", "exp": NOW + 60, "iss": iss, "aud": aud}));
    check_admitted(&mut kit, &with("shop", "gateway"), "42");
    check_refused_by(&mut kit, &with("shop2", "gateway"), "claim `iss` is not an expected issuer");
    check_refused_by(&mut kit, &with("shop", "gateway2"), "claim `aud` does not name the expected audience");
}

#[test]
fn keys_rotate_by_their_names() {
    let other = "another secret of thirty-two bytes or more";
    let mut kit = kit_with(json!({"keys": [
        {"kid": "old", "algorithm": "HS256", "secret": SECRET},
        {"kid": "new", "algorithm": "HS256", "secret": other},
    ]}));
    check_admitted(&mut kit, &sign(r#"{"alg":"HS256","kid":"old"}"#, &claims()), "42");
    check_admitted(&mut kit, &sign_with(other.as_bytes(), r#"{"alg":"HS256","kid":"new"}"#, &claims()), "42");
    check_refused_by(&mut kit, &sign(r#"{"alg":"HS256","kid":"new"}"#, &claims()), "the signature is wrong");
    check_refused_by(&mut kit, &sign(r#"{"alg":"HS256","kid":"older"}"#, &claims()), NO_KEY);
}

#[test]
fn keys_without_names_are_tried_in_turn() {
    let other = "another secret of thirty-two bytes or more";
    let mut kit = kit_with(json!({"keys": [
        {"algorithm": "HS256", "secret": SECRET},
        {"algorithm": "HS256", "secret": other},
        {"algorithm": "RS256", "pem": rsa_pem()},
    ]}));
    check_admitted(&mut kit, &good(), "42");
    check_admitted(&mut kit, &sign_with(other.as_bytes(), HEADER, &claims()), "42");
    check_admitted(&mut kit, &sign_by(r#"{"alg":"RS256","kid":"x"}"#, &claims(), rs256), "42");
    check_refused_by(&mut kit, &sign_with(b"no", HEADER, &claims()), "the signature is wrong");
}

#[test]
fn a_key_set_brings_several_keys_and_what_is_not_for_us_is_passed_over() {
    let public = rsa::pkcs8::DecodePublicKey::from_public_key_pem(&rsa_pem());
    let public: rsa::RsaPublicKey = public.expect("a key");
    let (n, e) = (rsa::traits::PublicKeyParts::n(&public), rsa::traits::PublicKeyParts::e(&public));
    let set = json!({"keys": [
        {"kty": "RSA", "kid": "rs", "n": base64(n.to_bytes_be()), "e": base64(e.to_bytes_be()), "use": "sig"},
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": ed25519_jwk()["x"], "key_ops": ["verify"]},
        {"kty": "RSA", "kid": "enc", "n": "AA", "e": "AQAB", "use": "enc"},
        {"kty": "OKP", "crv": "X25519", "kid": "x", "x": "AA"},
        {"kty": "quantum", "kid": "q"},
        {"kty": "oct", "kid": "o", "k": "AA", "alg": "A128KW"},
    ]});
    for jwks in [set.clone(), Value::String(set.to_string())] {
        let mut kit = kit_with(json!({"jwks": jwks, "algorithm": "RS256"}));
        check_admitted(&mut kit, &sign_by(r#"{"alg":"RS256","kid":"rs"}"#, &claims(), rs256), "42");
        check_admitted(&mut kit, &sign_by(r#"{"alg":"EdDSA","kid":"ed"}"#, &claims(), eddsa), "42");
        check_refused_by(
            &mut kit,
            &sign_by(r#"{"alg":"PS256","kid":"rs"}"#, &claims(), rs256),
            "not signed with RS256",
        );
        check_refused_by(&mut kit, &sign_by(r#"{"alg":"RS256","kid":"enc"}"#, &claims(), rs256), NO_KEY);
    }
}
