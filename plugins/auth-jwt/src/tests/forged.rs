//! Tokens that are forged, broken or odd. Each is refused, for the reason beside it, and the client cannot
//! tell why.

use super::algorithms::{ed25519_jwk, eddsa, es256, p256_pem, rs256, rsa_pem};
use super::*;

const NO_KEY: &str = "there is no key with its `kid` and `alg`";
const WRONG: &str = "the signature is wrong";
const HEADER_JSON: &str = "the header is not an object in which every name is there once";
const EXTENSIONS: &str = "the header demands extensions (`crit`, `b64`)";

/// Keys of every family, each with its name.
fn everything() -> Kit<AuthJwt> {
    kit_with(json!({"keys": [
        {"kid": "hs", "algorithm": "HS256", "secret": SECRET},
        {"kid": "rs", "algorithm": "RS256", "pem": rsa_pem()},
        {"kid": "es", "algorithm": "ES256", "pem": p256_pem()},
        {"kid": "ed", "jwk": ed25519_jwk()},
    ]}))
}

/// ES256, with these bytes as signature.
fn with_signature(signature: &[u8]) -> String {
    sign_by(r#"{"alg":"ES256","kid":"es"}"#, &claims(), |_| signature.to_vec())
}

#[test]
fn the_kit_admits_what_is_not_forged() {
    let mut kit = everything();
    check_admitted(&mut kit, &sign(r#"{"alg":"HS256","kid":"hs"}"#, &claims()), "42");
    check_admitted(&mut kit, &sign_by(r#"{"alg":"RS256","kid":"rs"}"#, &claims(), rs256), "42");
    check_admitted(&mut kit, &sign_by(r#"{"alg":"ES256","kid":"es"}"#, &claims(), es256), "42");
    check_admitted(&mut kit, &sign_by(r#"{"alg":"EdDSA","kid":"ed"}"#, &claims(), eddsa), "42");
}

#[test]
fn malformed_tokens_are_refused() {
    let good = good();
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let (header, claims) = signed.split_once('.').expect("two parts");
    let stray_bits = format!("{signed}.{}", with_stray_bits(signature));
    let standard = format!("{header}.{claims}.{}", "+/".repeat(21) + "+");
    let oversized = token(&json!({"sub": "x".repeat(8192), "exp": NOW + 60}));
    let long_header = sign(&json!({"alg": "HS256", "x5c": "A".repeat(3200)}).to_string(), &self::claims());
    let long_kid = sign(&json!({"alg": "HS256", "kid": "k".repeat(257)}).to_string(), &self::claims());
    let encrypted = format!("{header}.{claims}.{signature}.{signature}.{signature}");

    for (token, why) in [
        ("x", "not made of three parts"),
        (".", "not made of three parts"),
        (signed, "not made of three parts"),
        (&format!("{good}."), "not made of three parts"),
        (&format!(".{good}"), "not made of three parts"),
        (&encrypted, "not made of three parts"),
        ("..", HEADER_JSON),
        (&format!("{header}.{claims}."), WRONG),
        (&format!("{header}..{signature}"), "the claims are not an object"),
        (&format!(".{claims}.{signature}"), HEADER_JSON),
        (&format!(" {good}"), "the header is not base64url"),
        (&format!("{good}\n"), "the signature is not base64url"),
        (&format!("{good} "), "the signature is not base64url"),
        (&format!("Bearer {good}"), "the header is not base64url"),
        (&format!("{header}.{claims}.ü"), "the signature is not base64url"),
        (&format!("{header}.{}\n.{signature}", claims), "the claims are not base64url"),
        (&stray_bits, "the signature is not base64url"),
        (&format!("{signed}.{signature}="), "the signature is not base64url"),
        (&format!("{header}={claims}.{signature}"), "not made of three parts"),
        (&standard, "the signature is not base64url"),
        (&oversized, "longer than 8192 bytes"),
        (&"a".repeat(100_000), "longer than 8192 bytes"),
        (&long_header, "the header is longer than 4096 bytes"),
        (&long_kid, "`kid` is longer than 256 bytes"),
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
fn a_token_does_not_choose_its_algorithm() {
    let claims = claims();
    let own = good();
    let (_, good_signature) = own.rsplit_once('.').expect("three parts");
    let unsigned = |header: &str| format!("{}.{}.", base64(header), base64(&claims));
    for (token, why) in [
        (unsigned(r#"{"alg":"none"}"#), NO_KEY),
        (unsigned(r#"{"alg":"None"}"#), NO_KEY),
        (unsigned(r#"{"alg":"NONE","kid":""}"#), NO_KEY),
        (unsigned(r#"{"alg":"nOnE"}"#), NO_KEY),
        (unsigned(r#"{"alg":""}"#), NO_KEY),
        (format!("{}.{}.{good_signature}", base64(r#"{"alg":"none"}"#), base64(&claims)), NO_KEY),
        (sign(r#"{"alg":"none"}"#, &claims), NO_KEY),
        (sign(r#"{"alg":"hs256"}"#, &claims), NO_KEY),
        (sign(r#"{"alg":"HS256 "}"#, &claims), NO_KEY),
        (sign(r#"{"alg":"HS256\u0000"}"#, &claims), NO_KEY),
        (sign(r#"{"alg":"RS256"}"#, &claims), NO_KEY),
        (sign_by(r#"{"alg":"HS512"}"#, &claims, |m| hs512(SECRET.as_bytes(), m)), NO_KEY),
        (sign_by(HEADER, &claims, |m| hs512(SECRET.as_bytes(), m)[..32].to_vec()), WRONG),
        (sign(r#"{"alg":null}"#, &claims), "`alg` in the header is not a text"),
        (sign(r#"{"alg":["HS256"]}"#, &claims), "`alg` in the header is not a text"),
        (sign(r#"{"alg":{"HS256":1}}"#, &claims), "`alg` in the header is not a text"),
        (sign(r#"{"typ":"JWT"}"#, &claims), "the header has no `alg`"),
        (sign(r#"{"ALG":"HS256"}"#, &claims), "the header has no `alg`"),
        (sign(r#"{"alg":"none","alg":"HS256"}"#, &claims), HEADER_JSON),
        (sign(r#"{"alg":"HS256","\u0061lg":"none"}"#, &claims), HEADER_JSON),
        (sign(r#"{"alg":"HS256","x":{"y":1,"y":2}}"#, &claims), HEADER_JSON),
        (sign("[]", &claims), HEADER_JSON),
        (sign(r#"[{"alg":"HS256"}]"#, &claims), HEADER_JSON),
        (sign(r#""HS256""#, &claims), HEADER_JSON),
        (sign(r#" {"alg":"HS256"}"#, &claims), HEADER_JSON),
        (sign(r#"{"alg":"HS256"}{}"#, &claims), HEADER_JSON),
        (sign("\u{feff}{\"alg\":\"HS256\"}", &claims), HEADER_JSON),
        (sign(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, &claims), EXTENSIONS),
        (sign(r#"{"alg":"HS256","b64":false}"#, &claims), EXTENSIONS),
        (sign(r#"{"alg":"HS256","crit":[]}"#, &claims), EXTENSIONS),
        (sign(r#"{"alg":"HS256","crit":null}"#, &claims), EXTENSIONS),
        (sign(r#"{"alg":"HS256","crit":["exp"]}"#, &claims), EXTENSIONS),
        (sign(r#"{"alg":"HS256","kid":1}"#, &claims), "`kid` in the header is not a text"),
        (sign(r#"{"alg":"HS256","kid":["hs"]}"#, &claims), "`kid` in the header is not a text"),
        (sign(r#"{"alg":"HS256","typ":5}"#, &claims), "`typ` in the header is not a text"),
    ] {
        check_refused(&token, why);
    }
}

#[test]
fn a_key_is_for_one_algorithm() {
    let mut kit = everything();
    let claims = claims();
    let not = |algorithm: &str| format!("not signed with {algorithm}");
    for (token, why) in [
        // A public key, in every spelling an attacker may think of, as the secret of an HMAC.
        (sign_with(rsa_pem().as_bytes(), r#"{"alg":"HS256","kid":"rs"}"#, &claims), not("RS256")),
        (sign_with(rsa_pem().trim().as_bytes(), r#"{"alg":"HS256","kid":"rs"}"#, &claims), not("RS256")),
        (sign_with(rsa_pem().as_bytes(), r#"{"alg":"HS256","kid":"hs"}"#, &claims), WRONG.into()),
        (sign_with(rsa_pem().as_bytes(), r#"{"alg":"HS256"}"#, &claims), NO_KEY.into()),
        (sign_with(p256_pem().as_bytes(), r#"{"alg":"HS256","kid":"es"}"#, &claims), not("ES256")),
        (sign_with(p256_pem().as_bytes(), r#"{"alg":"ES256","kid":"es"}"#, &claims), WRONG.into()),
        (sign(r#"{"alg":"none","kid":"rs"}"#, &claims), not("RS256")),
        (sign_by(r#"{"alg":"PS256","kid":"rs"}"#, &claims, rs256), not("RS256")),
        (sign_by(r#"{"alg":"RS512","kid":"rs"}"#, &claims, rs256), not("RS256")),
        (sign_by(r#"{"alg":"RS256","kid":"es"}"#, &claims, rs256), not("ES256")),
        (sign_by(r#"{"alg":"ES384","kid":"es"}"#, &claims, es256), not("ES256")),
        (sign_by(r#"{"alg":"EdDSA","kid":"es"}"#, &claims, eddsa), not("ES256")),
        (sign_by(r#"{"alg":"ES256","kid":"es"}"#, &claims, eddsa), WRONG.into()),
        (sign_by(r#"{"alg":"EdDSA","kid":"ed"}"#, &claims, es256), WRONG.into()),
        (sign_by(r#"{"alg":"ES256K","kid":"es"}"#, &claims, es256), not("ES256")),
    ] {
        check_refused_by(&mut kit, &token, &why);
    }
}

#[test]
fn a_kid_is_a_name_and_nothing_else() {
    let mut kit = everything();
    let claims = claims();
    for kid in [
        "",
        "HS",
        "hs ",
        "hs\u{0}",
        "h",
        "../hs",
        "../../../../dev/null",
        "file:///etc/passwd",
        "hs' or '1'='1",
        "https://evil.example/jwks.json",
        "$(id)",
        "hs;rs",
        "ﬀ",
        "*",
    ] {
        let header = json!({"alg": "HS256", "kid": kid}).to_string();
        check_refused_by(&mut kit, &sign(&header, &claims), NO_KEY);
        // Nor with the secret that a file without content would be.
        check_refused_by(&mut kit, &sign_with(b"", &header, &claims), NO_KEY);
    }
    check_refused_by(&mut kit, &sign(r#"{"alg":"HS256"}"#, &claims), NO_KEY);
}

#[test]
fn a_token_does_not_bring_its_key_along() {
    let mut kit = everything();
    let claims = claims();
    let own = base64("an attacker's secret of 32 bytes!!");
    for extra in [
        json!({"jwk": {"kty": "oct", "k": own, "alg": "HS256"}}),
        json!({"jku": "https://evil.example/jwks.json"}),
        json!({"x5u": "https://evil.example/cert.pem"}),
        json!({"x5c": [own]}),
    ] {
        let mut header = json!({"alg": "HS256", "kid": "hs"});
        header.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        let forged = sign_with(b"an attacker's secret of 32 bytes!!", &header.to_string(), &claims);
        check_refused_by(&mut kit, &forged, WRONG);
    }
}

#[test]
fn signatures_have_one_form() {
    let mut kit = everything();
    let token = sign_by(r#"{"alg":"ES256","kid":"es"}"#, &claims(), es256);
    let (signed, good) = token.rsplit_once('.').expect("three parts");
    let good = unbase64(good);
    let der = p256::ecdsa::Signature::from_slice(&good).expect("a signature").to_der();
    let order = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let (r, s) = good.split_at(32);
    for signature in [
        der.as_bytes(),
        &[],
        &good[..63],
        &good[1..],
        &good[..32],
        &[&good[..], &[0]].concat(),
        &[&[0], &good[..]].concat(),
        &[s, r].concat(),
        // Zero, the order of the curve, and more than that.
        &[0; 64],
        &[&[0; 32], s].concat(),
        &[r, &[0; 32]].concat(),
        &[&order[..], s].concat(),
        &[r, &order[..]].concat(),
        &[0xff; 64],
        &[&[0; 31][..], &[1], &[0; 31][..], &[1]].concat(),
        &[0; 96],
    ] {
        check_refused_by(&mut kit, &format!("{signed}.{}", base64(signature)), WRONG);
        check_refused_by(&mut kit, &with_signature(signature), WRONG);
    }

    let token = sign_by(r#"{"alg":"RS256","kid":"rs"}"#, &claims(), rs256);
    let (signed, good) = token.rsplit_once('.').expect("three parts");
    let good = unbase64(good);
    for signature in [
        &[][..],
        &good[..255],
        &good[1..],
        &[&[0], &good[..]].concat(),
        &[&good[..], &[0]].concat(),
        &[0; 256],
        &[0xff; 256],
        &[&[0; 255][..], &[1]].concat(),
    ] {
        check_refused_by(&mut kit, &format!("{signed}.{}", base64(signature)), WRONG);
    }

    let token = sign_by(r#"{"alg":"EdDSA","kid":"ed"}"#, &claims(), eddsa);
    let (signed, good) = token.rsplit_once('.').expect("three parts");
    let good = unbase64(good);
    // Adding the order of the group to the second half gives the same number in another spelling.
    let group = [
        0xed_u8, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut malleable = good.clone();
    let mut carry = 0;
    for (byte, add) in malleable[32..].iter_mut().zip(group) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    for signature in [&good[..63], &[], &[0; 64], &malleable, &[&good[..], &[0]].concat()] {
        check_refused_by(&mut kit, &format!("{signed}.{}", base64(signature)), WRONG);
    }

    for signature in
        [&[0; 32][..], &[], &hs256(SECRET.as_bytes(), b"other"), &hs256(&SECRET.as_bytes()[1..], b"x")[..31]]
    {
        check_refused(&sign_by(HEADER, &claims(), |_| signature.to_vec()), WRONG);
    }
    check_refused(&good_but_cut(), WRONG);
    check_refused(&format!("{}A", self::good()), WRONG);
}

fn good_but_cut() -> String {
    let good = good();
    good[..good.len() - 3].to_owned()
}

#[test]
fn claims_cannot_be_exchanged() {
    let own = good();
    let (_, signature) = own.rsplit_once('.').expect("three parts");
    let admin = json!({"sub": "admin", "exp": NOW + 60}).to_string();
    check_refused(&format!("{}.{}.{signature}", base64(HEADER), base64(&admin)), WRONG);
    // Nor can the dot wander.
    let (header, rest) = own.split_once('.').expect("three parts");
    check_refused(&format!("{}.{}{rest}", &header[..8], &header[8..]), HEADER_JSON);
}

#[test]
fn claims_of_the_wrong_type_or_range_are_refused() {
    let with = |name: &str, value: &str| format!(r#"{{"sub":"42","exp":{},"{name}":{value}}}"#, NOW + 60);
    for (name, values) in [
        ("nbf", vec!["\"1\"", "-1", "null", "[]", "1e300", "true"]),
        ("iat", vec!["\"1\"", "{}"]),
        ("iss", vec!["1", "null"]),
        ("aud", vec!["1", "[1]", "[[\"gateway\"]]", "null", "{}"]),
        ("channels", vec!["\"news\"", "[1]", "[[\"news\"]]", "null", "{\"a\":1}"]),
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
        "-0.5",
        "1.7e12",
        "1700000060000",
        "9007199254740993",
        "18446744073709551615",
        "18446744073709551616",
        "null",
        "[1700000060]",
        "{}",
        "false",
    ] {
        let why = "claim `exp` has the wrong type or a value out of range";
        check_refused(&sign(HEADER, &format!(r#"{{"sub":"42","exp":{exp}}}"#)), why);
    }
    for sub in ["42", "null", "[\"42\"]", "{\"id\":\"42\"}", "true"] {
        let why = "claim `sub` has the wrong type or a value out of range";
        check_refused(&sign(HEADER, &format!(r#"{{"exp":{},"sub":{sub}}}"#, NOW + 60)), why);
    }
    for exp in ["1e999", "0x10", "1700000060.", "+1700000060", "NaN", "Infinity"] {
        let why = "the claims are not JSON, or nested too deeply";
        check_refused(&sign(HEADER, &format!(r#"{{"sub":"42","exp":{exp}}}"#)), why);
    }
}

#[test]
fn claims_that_are_no_object_are_refused() {
    let deep = format!(r#"{{"sub":"42","exp":{},"info":{}1{}}}"#, NOW + 60, "[".repeat(200), "]".repeat(200));
    for (claims, why) in [
        ("", "the claims are not an object"),
        ("\"admin\"", "the claims are not an object"),
        ("[\"42\",1]", "the claims are not an object"),
        ("null", "the claims are not an object"),
        ("{}", "claim `exp` is missing"),
        (r#"{"exp":1700000060}"#, "claim `sub` is missing"),
        (r#"{"Sub":"42","exp":1700000060}"#, "claim `sub` is missing"),
        (r#"{"sub":"42","sub":"admin","exp":1700000060}"#, "the claims have a name twice"),
        (r#"{"sub":"42","exp":1,"exp":1700000060}"#, "the claims have a name twice"),
        (r#"{"sub":"42","exp":1700000060,"\u0073ub":"admin"}"#, "the claims have a name twice"),
        (r#"{"sub":"42","exp":1700000060,"info":{"a":1,"a":2}}"#, "the claims have a name twice"),
        (r#"{"sub":"42","exp":1700000060}x"#, "the claims are not JSON, or nested too deeply"),
        (r#"{"sub":"42","exp":1700000060"#, "the claims are not JSON, or nested too deeply"),
        (r#"{"sub":"\ud800","exp":1700000060}"#, "the claims are not JSON, or nested too deeply"),
        (&deep, "the claims are not JSON, or nested too deeply"),
    ] {
        check_refused(&sign(HEADER, claims), why);
    }
    let not_utf8 = sign_by(HEADER, "", |_| Vec::new());
    let (header, _) = not_utf8.split_once('.').expect("three parts");
    let signed = format!("{header}.{}", base64(b"{\"sub\":\"\xff\",\"exp\":1700000060}"));
    let token = format!("{signed}.{}", base64(hs256(SECRET.as_bytes(), signed.as_bytes())));
    check_refused(&token, "the claims are not JSON, or nested too deeply");
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
fn attributes_are_bounded() {
    let mut kit = kit_with(json!({"secret": SECRET, "attributes": {"plan": "plan"}}));
    let token = token(&json!({"sub": "42", "exp": NOW + 60, "plan": "x".repeat(1025)}));
    check_refused_by(&mut kit, &token, "claim `plan` is longer than an attribute may be (1024 bytes)");
}

#[test]
fn a_token_that_is_too_early_is_refused() {
    check_refused(&token(&json!({"sub": "42", "exp": NOW + 600, "nbf": NOW + 61})), "not valid yet (`nbf`)");
    let far = token(&json!({"sub": "42", "exp": NOW + 60, "nbf": 253_402_300_799_u64}));
    check_refused(&far, "not valid yet (`nbf`)");
}
