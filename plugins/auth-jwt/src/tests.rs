use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use gateway_plugin_sdk::kit::{Kit, START};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::{Sha256, Sha512};

use super::*;

const SECRET: &str = "a secret of thirty-two bytes or more";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
/// Seconds; the clock of the kit.
const NOW: u64 = START / 1000;

fn kit() -> Kit<AuthJwt> {
    kit_with(json!({"secret": SECRET}))
}

fn kit_with(settings: Value) -> Kit<AuthJwt> {
    Kit::new(settings).expect("good settings")
}

fn base64(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A token with any text as header and claims, signed the way it should be.
fn sign(header: &str, claims: &str) -> String {
    sign_with(SECRET.as_bytes(), header, claims)
}

fn sign_with(secret: &[u8], header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", base64(header), base64(claims));
    let mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length").chain_update(&signed);
    format!("{signed}.{}", base64(mac.finalize().into_bytes()))
}

fn token(claims: &Value) -> String {
    sign(HEADER, &claims.to_string())
}

fn good() -> String {
    token(&json!({"sub": "42", "exp": NOW + 60}))
}

// ---- Tokens that admit ----

#[test]
fn a_token_admits_its_user_until_it_expires() {
    assert_eq!(kit().connect(&good()).verdict, Connect::accept("42").expires_at(NOW + 60));
}

#[test]
fn claims_become_the_identity() {
    let token = token(&json!({
        "sub": "42", "exp": NOW + 60, "iat": NOW - 1, "nbf": NOW, "jti": "x",
        "info": {"color": "teal"}, "channels": ["news", "chat:1"], "expire_at": NOW + 3600,
    }));
    let expected = Connect::accept("42")
        .channels(["news", "chat:1"])
        .info_json(&json!({"color": "teal"}))
        .expires_at(NOW + 3600);
    assert_eq!(kit().connect(&token).verdict, expected);
}

#[test]
fn expire_at_zero_is_a_connection_that_never_expires() {
    let token = token(&json!({"sub": "42", "exp": NOW + 60, "expire_at": 0}));
    assert_eq!(kit().connect(&token).verdict, Connect::accept("42"));
}

#[test]
fn without_a_token_somebody_else_decides() {
    assert_eq!(kit().connect("").verdict, Connect::pass());
}

#[test]
fn the_type_in_the_header_and_foreign_names_do_not_matter() {
    for header in [
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"7"}"#,
        r#"{"typ":5,"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}"#,
    ] {
        let token = sign(header, &json!({"sub": "", "exp": NOW + 60}).to_string());
        assert_eq!(kit().connect(&token).verdict, Connect::accept("").expires_at(NOW + 60), "{header}");
    }
}

#[test]
fn fractions_of_a_second_are_cut_off() {
    let token = token(&json!({"sub": "42", "exp": NOW as f64 + 60.9}));
    assert_eq!(kit().connect(&token).verdict, Connect::accept("42").expires_at(NOW + 60));
}

#[test]
fn a_secret_may_be_given_as_base64() {
    let mut kit = kit_with(json!({"secret_base64": STANDARD.encode(SECRET)}));
    assert_eq!(kit.connect(&good()).verdict, Connect::accept("42").expires_at(NOW + 60));
}

// ---- Time ----

#[test]
fn a_token_ends_with_its_last_second() {
    let mut kit = kit();
    kit.set_now((NOW + 60) * 1000 - 1);
    assert!(matches!(kit.connect(&good()).verdict, Connect::Accept(_)));
    kit.set_now((NOW + 60) * 1000);
    assert_eq!(kit.connect(&good()).verdict, Connect::refuse(109, "token expired"));
}

#[test]
fn leeway_is_given_at_both_ends() {
    let mut kit = kit_with(json!({"secret": SECRET, "leeway": 5}));
    for (claims, admitted) in [
        (json!({"sub": "42", "exp": NOW - 4}), true),
        (json!({"sub": "42", "exp": NOW - 5}), false),
        (json!({"sub": "42", "exp": NOW + 60, "nbf": NOW + 5}), true),
        (json!({"sub": "42", "exp": NOW + 60, "nbf": NOW + 6}), false),
    ] {
        let verdict = kit.connect(&token(&claims)).verdict;
        assert_eq!(matches!(verdict, Connect::Accept(_)), admitted, "{claims}");
    }
    let late = token(&json!({"sub": "42", "exp": NOW - 4}));
    assert_eq!(kit.connect(&late).verdict, Connect::accept("42").expires_at(NOW + 1));
}

#[test]
fn a_connection_that_has_expired_already_is_an_expired_token() {
    let token = token(&json!({"sub": "42", "exp": NOW + 60, "expire_at": NOW - 1}));
    assert_eq!(kit().connect(&token).verdict, Connect::refuse(109, "token expired"));
}

#[test]
fn a_token_without_an_end_needs_permission() {
    let endless = token(&json!({"sub": "42"}));
    assert_eq!(kit().connect(&endless).verdict, Connect::refuse(3500, "invalid token"));
    let mut kit = kit_with(json!({"secret": SECRET, "allow_without_exp": true}));
    assert_eq!(kit.connect(&endless).verdict, Connect::accept("42"));
    let expired = token(&json!({"sub": "42", "exp": NOW - 1}));
    assert_eq!(kit.connect(&expired).verdict, Connect::refuse(109, "token expired"));
}

// ---- Tokens that do not ----

/// Refused for this reason and for good; the operator reads why, and neither sees anything of the token.
#[track_caller]
fn check_refused(token: &str, why: &str) {
    let outcome = kit().connect(token);
    assert_eq!(outcome.verdict, Connect::refuse(3500, "invalid token"), "{token}");
    assert_eq!(outcome.logged(), format!("token refused: {why}"));
}

#[test]
fn malformed_tokens_are_refused() {
    let good = good();
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let (header, claims) = signed.split_once('.').expect("two parts");
    let stray_bits = format!("{signed}.{}", with_stray_bits(signature));
    let padded = format!("{signed}.{signature}=");
    let standard = format!("{header}.{claims}.{}", "+/".repeat(21) + "+");
    let oversized = token(&json!({"sub": "x".repeat(token::TOKEN_BYTES_MAX), "exp": NOW + 60}));

    for (token, why) in [
        ("x", "not made of three parts"),
        (".", "not made of three parts"),
        (signed, "not made of three parts"),
        (&format!("{good}."), "not made of three parts"),
        (&format!("{good}.{signature}"), "not made of three parts"),
        ("..", "the header is not an object with one `alg`"),
        (&format!("{header}.{claims}."), "the signature is wrong"),
        (&format!(".{claims}.{signature}"), "the header is not an object with one `alg`"),
        (&format!(" {good}"), "the header is not base64url"),
        (&format!("{good}\n"), "the signature is not base64url"),
        (&format!("{header}.{claims}.ü"), "the signature is not base64url"),
        (&stray_bits, "the signature is not base64url"),
        (&padded, "the signature is not base64url"),
        (&standard, "the signature is not base64url"),
        (&oversized, "longer than 8192 bytes"),
        (&"a".repeat(10_000), "longer than 8192 bytes"),
    ] {
        check_refused(token, why);
    }
}

/// The same bytes with bits set that no byte uses.
fn with_stray_bits(signature: &str) -> String {
    let mut twin = signature.to_owned();
    let last = twin.pop().expect("not empty");
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let index = alphabet.find(last).expect("base64url");
    twin.push(alphabet.chars().nth(index | 1).expect("in the alphabet"));
    assert_ne!(twin, signature, "32 bytes leave two bits unused");
    twin
}

#[test]
fn forged_tokens_are_refused() {
    let claims = json!({"sub": "admin", "exp": NOW + 60}).to_string();
    let own = good();
    let (_, good_signature) = own.rsplit_once('.').expect("three parts");
    let hs512 = {
        let signed = format!("{}.{}", base64(r#"{"alg":"HS512"}"#), base64(&claims));
        let mac =
            Hmac::<Sha512>::new_from_slice(SECRET.as_bytes()).expect("any length").chain_update(&signed);
        format!("{signed}.{}", base64(mac.finalize().into_bytes()))
    };

    let not_hs256 = "not signed with HS256";
    let wrong = "the signature is wrong";
    let no_alg = "the header is not an object with one `alg`";
    for (token, why) in [
        (format!("{}.{}.", base64(r#"{"alg":"none"}"#), base64(&claims)), not_hs256),
        (format!("{}.{}.{good_signature}", base64(r#"{"alg":"None"}"#), base64(&claims)), not_hs256),
        (sign(r#"{"alg":"none"}"#, &claims), not_hs256),
        (sign(r#"{"alg":"hs256"}"#, &claims), not_hs256),
        (sign(r#"{"alg":"HS256 "}"#, &claims), not_hs256),
        (sign(r#"{"alg":"RS256"}"#, &claims), not_hs256),
        (sign(r#"{"alg":""}"#, &claims), not_hs256),
        (hs512, not_hs256),
        (sign(r#"{"alg":null}"#, &claims), no_alg),
        (sign(r#"{"alg":["HS256"]}"#, &claims), no_alg),
        (sign(r#"{"alg":"none","alg":"HS256"}"#, &claims), no_alg),
        (sign(r#"{"typ":"JWT"}"#, &claims), no_alg),
        (sign("[]", &claims), no_alg),
        (sign(r#"{"alg":"HS256"}{}"#, &claims), no_alg),
        (
            sign(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, &claims),
            "the header demands extensions (`crit`)",
        ),
        (sign_with(b"", HEADER, &claims), wrong),
        (sign_with(&SECRET.as_bytes()[1..], HEADER, &claims), wrong),
        (format!("{}.{}.{good_signature}", base64(HEADER), base64(&claims)), wrong),
        (format!("{}.{}.{}", base64(HEADER), base64(&claims), base64([0; 32])), wrong),
        (good()[..good().len() - 3].to_owned(), wrong),
        (format!("{}A", good()), wrong),
    ] {
        check_refused(&token, why);
    }
    let padded = URL_SAFE.encode(r#"{"alg":"HS256"}"#.to_owned() + " ");
    assert!(padded.ends_with('='), "or this would be about something else");
    check_refused(&format!("{padded}.{}.{good_signature}", base64(&claims)), "the header is not base64url");
}

#[test]
fn claims_of_the_wrong_type_or_range_are_refused() {
    let with = |name: &str, value: &str| format!(r#"{{"sub":"42","exp":{},"{name}":{value}}}"#, NOW + 60);
    for (name, values) in [
        ("nbf", vec!["\"1\"", "-1", "null", "[]", "1e300", "true"]),
        ("iat", vec!["\"1\"", "{}"]),
        ("iss", vec!["1", "null"]),
        ("aud", vec!["1", "[1]", "null", "{}"]),
        ("channels", vec!["\"news\"", "[1]", "null", "{\"a\":1}"]),
        ("expire_at", vec!["\"0\"", "-1", "1700000000000"]),
    ] {
        for value in values {
            let why = format!("claim `{name}` has the wrong type or a value out of range");
            check_refused(&sign(HEADER, &with(name, value)), &why);
        }
    }
    for exp in [
        "\"1700000060\"",
        "-5",
        "1.7e12",
        "1700000060000",
        "9007199254740993",
        "18446744073709551616",
        "null",
    ] {
        let why = "claim `exp` has the wrong type or a value out of range";
        check_refused(&sign(HEADER, &format!(r#"{{"sub":"42","exp":{exp}}}"#)), why);
    }
    for sub in ["42", "null", "[\"42\"]"] {
        let why = "claim `sub` has the wrong type or a value out of range";
        check_refused(&sign(HEADER, &format!(r#"{{"exp":{},"sub":{sub}}}"#, NOW + 60)), why);
    }
}

#[test]
fn claims_that_are_no_object_are_refused() {
    let deep = format!(r#"{{"sub":"42","exp":{},"info":{}1{}}}"#, NOW + 60, "[".repeat(200), "]".repeat(200));
    for (claims, why) in [
        ("", "the claims are not an object"),
        ("\"admin\"", "the claims are not an object"),
        ("[\"42\",1]", "the claims are not an object"),
        ("{}", "missing field `sub`"),
        (r#"{"sub":"42"}"#, "claim `exp` is missing"),
        (r#"{"sub":"42","sub":"admin","exp":1700000060}"#, "duplicate field `sub`"),
        (r#"{"sub":"42","exp":1,"exp":1700000060}"#, "duplicate field `exp`"),
        (r#"{"sub":"42","exp":1700000060}x"#, "the claims are followed by something else"),
        (r#"{"sub":"42","exp":1700000060"#, "the claims are not JSON, or nested too deeply"),
        (&deep, "the claims are not JSON, or nested too deeply"),
    ] {
        check_refused(&sign(HEADER, claims), why);
    }
}

#[test]
fn channels_have_to_be_channel_names() {
    for bad in ["", "a b", "*", "{x}", &"x".repeat(256)] {
        let token = token(&json!({"sub": "42", "exp": NOW + 60, "channels": ["news", bad]}));
        check_refused(&token, "claim `channels` holds a text that is no channel name");
    }
    let with = |count| token(&json!({"sub": "42", "exp": NOW + 60, "channels": vec!["news"; count]}));
    check_refused(&with(65), "claim `channels` has more than 64 channels");
    assert!(matches!(kit().connect(&with(64)).verdict, Connect::Accept(_)));
}

#[test]
fn a_token_for_somebody_else_or_too_early_is_refused() {
    check_refused(&token(&json!({"sub": "42", "exp": NOW + 60, "nbf": NOW + 1})), "not valid yet (`nbf`)");

    let mut kit = kit_with(json!({"secret": SECRET, "issuer": "shop", "audience": "gateway"}));
    for (iss, aud, admitted) in [
        (json!("shop"), json!("gateway"), true),
        (json!("shop"), json!(["other", "gateway"]), true),
        (json!("shop"), json!([]), false),
        (json!("shop"), json!("gateway2"), false),
        (json!("shop2"), json!("gateway"), false),
        (json!(""), json!("gateway"), false),
    ] {
        let claims = json!({"sub": "42", "exp": NOW + 60, "iss": iss, "aud": aud});
        let verdict = kit.connect(&token(&claims)).verdict;
        assert_eq!(matches!(verdict, Connect::Accept(_)), admitted, "{claims}");
    }
    let without = kit.connect(&good());
    assert_eq!(without.verdict, Connect::refuse(3500, "invalid token"));
    assert_eq!(without.logged(), "token refused: claim `iss` is not the expected issuer");
}

#[test]
fn the_signature_is_that_of_rfc_7515() {
    // Appendix A.1: its claims are not for us, but only a token with a good signature gets that far.
    let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ+EstJQLr/T+1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow==";
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                 eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                 dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let outcome = kit_with(json!({"secret_base64": key})).connect(token);
    assert_eq!(outcome.logged(), "token refused: missing field `sub`");
    check_refused(token, "the signature is wrong");
}

#[test]
fn the_token_of_the_readme_is_good_until_2100() {
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiIsImV4cCI6NDEwMjQ0NDgwMH0.\
                 8Av6wkn98MRjuy8-0eH6kufv7BxzdA_dqjzdpL1PpT4";
    assert_eq!(kit().connect(token).verdict, Connect::accept("42").expires_at(4_102_444_800));
}

// ---- Settings ----

#[test]
fn settings_are_checked_all_at_once_and_secrets_are_not_repeated() {
    #[track_caller]
    fn check(settings: Value, expected: &str) {
        assert_eq!(Kit::<AuthJwt>::new(settings).expect_err("bad settings"), expected);
    }
    check(json!({}), "set `secret` or `secret_base64`: the key that tokens are signed with");
    check(
        json!({"secret": "short", "leeway": 301, "issuer": ""}),
        "`secret` has 5 bytes: HS256 needs at least 32 (`openssl rand -base64 48` makes a good one); \
         `leeway` is 301 seconds: at most 300 are accepted; `issuer` is empty: leave it out if it does not matter",
    );
    check(
        json!({"secret": SECRET, "secret_base64": STANDARD.encode(SECRET)}),
        "set either `secret` or `secret_base64`, not both",
    );
    check(json!({"secret_base64": "not base64!"}), "`secret_base64` is not standard base64 with padding");
    check(
        json!({"secret_base64": STANDARD.encode("short")}),
        "`secret_base64` has 5 bytes: HS256 needs at least 32 (`openssl rand -base64 48` makes a good one)",
    );
    let error = Kit::<AuthJwt>::new(json!({"secret": SECRET, "algorithm": "none"})).expect_err("unknown key");
    assert!(error.starts_with("`algorithm`: unknown field `algorithm`, expected one of"), "{error}");
}
