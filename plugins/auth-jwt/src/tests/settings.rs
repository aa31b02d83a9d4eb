//! Settings: all errors are reported at once, each with its key, and no secret is repeated.

use base64::engine::general_purpose::STANDARD;

use super::algorithms::{ed25519_jwk, p256_pem, rsa_pem};
use super::*;

#[track_caller]
fn check(settings: &Value, expected: &str) {
    assert_eq!(Kit::<AuthJwt>::new(settings).expect_err("bad settings"), expected);
}

#[track_caller]
fn check_key(key: &Value, expected: &str) {
    check(&json!({"keys": [key]}), expected);
}

#[test]
fn errors_come_all_at_once() {
    check(
        &json!({"secret": "short", "leeway": 301, "issuer": "", "age_max": 0, "token_bytes_max": 1_000_000}),
        "5 errors: `issuer` is empty: leave it out if it does not matter; \
         `secret` has 5 bytes: HS256 needs at least 32 (`openssl rand -base64 48` makes a good one); \
         `leeway` is 301 seconds: at most 300 are accepted; `age_max` is 0: no token would be good; \
         `token_bytes_max` is 1000000: 256 to 65536 are accepted",
    );
    let error = Kit::<AuthJwt>::new(json!({"secret": SECRET, "algoritm": "none"})).expect_err("unknown key");
    assert!(error.starts_with("`algoritm`: unknown field `algoritm`, expected one of"), "{error}");
}

#[test]
fn something_has_to_be_signed_with() {
    let missing =
        "is missing: say what tokens are signed with, in `keys`, `jwks` or `jwks_url`, or with a `secret`";
    check(&json!({}), &format!("`keys` {missing}"));
    check(&json!({"issuers": [{"issuer": "a"}]}), &format!("`issuers[0].keys` {missing}"));
    let one = "needs exactly one of `secret`, `secret_base64`, `secret_hex`, `pem` and `jwk`";
    check_key(&json!({"algorithm": "HS256"}), &format!("`keys[0]` {one}"));
    check(&json!({"secret": SECRET, "secret_base64": STANDARD.encode(SECRET)}), &format!("`secret` {one}"));
}

#[test]
fn secrets_are_long_and_well_spelt() {
    let short = "has 5 bytes: HS256 needs at least 32 (`openssl rand -base64 48` makes a good one)";
    check(&json!({"secret_base64": "not base64!"}), "`secret_base64` is not standard base64 with padding");
    check(&json!({"secret_base64": STANDARD.encode("short")}), &format!("`secret_base64` {short}"));
    check(&json!({"secret_hex": "abc"}), "`secret_hex` is not hexadecimal");
    check(&json!({"secret_hex": "zz"}), "`secret_hex` is not hexadecimal");
    check_key(
        &json!({"algorithm": "HS384", "secret": "x".repeat(47)}),
        "`keys[0].secret` has 47 bytes: HS384 needs at least 48 (`openssl rand -base64 72` makes a good one)",
    );
    check_key(
        &json!({"algorithm": "HS512", "secret": "x".repeat(63)}),
        "`keys[0].secret` has 63 bytes: HS512 needs at least 64 (`openssl rand -base64 96` makes a good one)",
    );
}

#[test]
fn a_short_secret_does_not_become_long_with_padding() {
    let padded = |count: usize| {
        format!(
            "has 32 bytes, but {count} without padding and repetition: HS256 needs at least 32 (`openssl rand \
             -base64 48` makes a good one)"
        )
    };
    for (secret, count) in [
        (&b"secret\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], 6),
        (b"secret                          ", 6),
        (b"00000000000000000000000000secret", 6),
        (b"secret==secret==secret==secret==", 8),
        (&[0; 32], 0),
    ] {
        let text = String::from_utf8_lossy(secret);
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        check(&json!({"secret": text}), &format!("`secret` {}", padded(count)));
        check(
            &json!({"secret_base64": STANDARD.encode(secret)}),
            &format!("`secret_base64` {}", padded(count)),
        );
        check(&json!({"secret_hex": hex}), &format!("`secret_hex` {}", padded(count)));
        let jwk = json!({"kty": "oct", "alg": "HS256", "k": base64(secret)});
        check_key(&json!({"jwk": jwk}), &format!("`keys[0].jwk` {}", padded(count)));
    }
}

#[test]
fn a_key_has_one_algorithm_and_it_fits() {
    let names = "HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA";
    for algorithm in ["none", "None", "", "hs256", "ES256K", "RS1"] {
        check_key(
            &json!({"algorithm": algorithm, "secret": SECRET}),
            &format!("`keys[0].algorithm` is {algorithm:?}, which is none of {names}"),
        );
    }
    check_key(&json!({"secret": SECRET}), "`keys[0].algorithm` is missing: each key is for one algorithm");
    check_key(
        &json!({"algorithm": "RS256", "secret": SECRET}),
        "`keys[0].secret` is a secret, but RS256 works with a public key",
    );
    check_key(
        &json!({"algorithm": "HS256", "pem": rsa_pem()}),
        "`keys[0].pem` is a public key, but HS256 works with a secret",
    );
    check_key(
        &json!({"algorithm": "ES256", "pem": rsa_pem()}),
        "`keys[0].pem` is not a public key for ES256",
    );
    check_key(
        &json!({"algorithm": "ES384", "pem": p256_pem()}),
        "`keys[0].pem` is not a public key for ES384",
    );
    check_key(
        &json!({"algorithm": "RS256", "pem": p256_pem()}),
        "`keys[0].pem` is not a public key for RS256",
    );
    check_key(
        &json!({"algorithm": "ES256", "jwk": ed25519_jwk()}),
        "`keys[0].jwk` is for EdDSA, not for `algorithm`",
    );
}

#[test]
fn bad_keys_say_what_is_wrong() {
    check_key(
        &json!({"algorithm": "RS256", "pem": include_str!("rsa.pem")}),
        "`keys[0].pem` is a private key: give the public one (`openssl pkey -in FILE -pubout`)",
    );
    check_key(
        &json!({"algorithm": "RS256", "pem": "-----BEGIN CERTIFICATE-----"}),
        "`keys[0].pem` does not begin with `-----BEGIN PUBLIC KEY-----`: of a certificate take \
         `openssl x509 -in FILE -pubkey -noout`",
    );
    let jwk = |jwk: Value, why: &str| check_key(&json!({"jwk": jwk}), &format!("`keys[0].jwk` {why}"));
    jwk(json!("{"), "is a text that is not JSON");
    jwk(json!({}), "has no `kty`");
    jwk(json!({"kty": 1}), "has a member of the wrong type");
    jwk(json!({"kty": "RSA", "n": "AA", "e": "AQAB"}), "has no `alg`: say it with `algorithm`");
    jwk(json!({"kty": "RSA", "alg": "RS256", "e": "AQAB"}), "has no `n`");
    jwk(
        json!({"kty": "RSA", "alg": "HS256", "n": "AA", "e": "AQAB"}),
        "is of another kind than HS256 works with",
    );
    let zeros = base64([0; 32]);
    jwk(
        json!({"kty": "EC", "crv": "P-256", "alg": "ES384", "x": zeros, "y": zeros}),
        "is not a point of the curve of ES384",
    );
    jwk(
        json!({"kty": "EC", "crv": "P-256", "x": "AA=", "y": "AA"}),
        "has a `x` that is not base64url without padding",
    );
    jwk(json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}), "is not a point of the curve of ES256");
    jwk(json!({"kty": "EC", "crv": "secp256k1"}), "is of a kind that is not supported");
    jwk(
        json!({"kty": "oct", "alg": "HS256", "k": "AA"}),
        "has 1 bytes: HS256 needs at least 32 (`openssl rand -base64 48` makes a good one)",
    );
    jwk(json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"}), "is not an Ed25519 key");
    jwk(
        json!({"kty": "OKP", "crv": "Ed25519", "x": base64([&[1][..], &[0; 31]].concat())}),
        "is a weak Ed25519 key, under which anybody can sign",
    );
    let mut private = ed25519_jwk();
    private["d"] = "nothing of this is repeated".into();
    jwk(private, "holds a private key: leave out `d` and what else is private");
    for e in ["AA", "AQ", "Ag", "AQAA"] {
        let n = base64([&[0x80][..], &[1; 255]].concat());
        let error =
            Kit::<AuthJwt>::new(json!({"jwks": {"keys": [{"kty": "RSA", "alg": "RS256", "n": n, "e": e}]}}));
        assert!(error.expect_err("no exponent").contains("is not an RSA key: "), "{e}");
    }
    let small = base64([&[0x80][..], &[1; 127]].concat());
    jwk(
        json!({"kty": "RSA", "alg": "RS256", "n": small, "e": "AQAB"}),
        "is an RSA key of 1024 bits: at least 2048 are accepted",
    );
    let even = base64([&[0x80][..], &[2; 255]].concat());
    jwk(json!({"kty": "RSA", "alg": "RS256", "n": even, "e": "AQAB"}), "is not an RSA key: invalid modulus");
}

#[test]
fn names_of_keys_and_issuers_are_there_once() {
    let key = json!({"kid": "1", "algorithm": "HS256", "secret": SECRET});
    check(&json!({"keys": [key, key]}), "`keys[1]` has the same `kid` as another one of this issuer");
    let nameless = json!({"algorithm": "HS256", "secret": SECRET});
    check(
        &json!({"keys": [nameless, nameless, nameless]}),
        "`keys[2]` is one of more than 2 for HS256 without a `kid`: name them",
    );
    check(
        &json!({"issuers": [{"issuer": "a", "keys": [key]}, {"issuer": "a", "keys": [key]}]}),
        "`issuers[1].issuer` is there twice: put its keys together",
    );
    check(
        &json!({"secret": SECRET, "issuers": [{"issuer": "a", "keys": [key]}]}),
        "`issuers` cannot stand beside `issuer`, `audience`, `keys`, `jwks`, `jwks_url` or a secret: move them into it",
    );
}

#[test]
fn key_sets_have_usable_keys() {
    let named = |number| json!({"kid": format!("{number}"), "algorithm": "HS256", "secret": SECRET});
    let many: Vec<_> = (0..65).map(named).collect();
    check(&json!({"keys": many}), "`keys` has 65 members: at most 64 are accepted");
    check(&json!({"jwks": {}}), "`jwks` has no list `keys`");
    check(&json!({"jwks": {"keys": []}}), "`jwks` has no keys");
    check(
        &json!({"jwks": {"keys": [{"kty": "RSA", "n": "AA", "e": "AQAB"}, {"kty": "x"}]}}),
        "`jwks` has no key that can be used: `keys[0]` has no `alg`: say it with `algorithm`, \
         `keys[1]` is of a kind that is not supported",
    );
    check(
        &json!({"jwks": {"keys": [ed25519_jwk(), {"kty": "OKP", "crv": "Ed25519"}]}}),
        "`jwks` has a bad key: `keys[1]` has no `x`",
    );
    check(&json!({"jwks": {"keys": vec![ed25519_jwk(); 65]}}), "`jwks` has 65 keys: at most 64 are accepted");
}

#[test]
fn channels_of_settings_are_patterns() {
    check(
        &json!({"secret": SECRET, "token_channels": ["private:*", "a b"], "permissions": "claims",
               "permission_claims": {"publish": ""}}),
        "2 errors: `permission_claims` has \"\", which is no name of a claim; \
         `token_channels` has \"a b\", which is no channel name that may end in `*`",
    );
}

#[test]
fn claims_have_names() {
    check(
        &json!({"secret": SECRET, "user_claim": "", "required_claims": ["/"], "attributes": {"a": ""},
               "required_values": {"roles": ["a"]}}),
        "4 errors: `user_claim` has \"\", which is no name of a claim; `required_claims` has \"/\", which is no name of a claim; \
         `attributes` has no name for the attribute of claim `a`; \
         `required_values` has for `roles` something else than a text, a number, true or false",
    );
}
