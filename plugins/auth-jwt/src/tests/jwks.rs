//! Keys that issuers publish: when they are fetched, and what they are good for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use gateway_plugin_sdk::http::Response;
use gateway_plugin_sdk::log::Level;

use super::algorithms::{ed25519_jwk, eddsa, es256, p256_key};
use super::*;

const SHOP: &str = "https://shop.example";
const GAME: &str = "https://game.example";

/// The answer to a client whose token cannot be verified: an error of the server, after which it comes back.
fn later() -> Connect {
    Connect::refuse(100, "keys are not available, try again")
}

/// The addresses, as a test sets them.
#[derive(Clone, Default)]
struct Web(Rc<RefCell<Pages>>);

#[derive(Default)]
struct Pages {
    answers: BTreeMap<String, (u16, String)>,
    asked: Vec<String>,
}

impl Web {
    fn publish(&self, url: &str, keys: &[Value]) {
        self.answer(url, 200, &json!({ "keys": keys }).to_string());
    }

    fn answer(&self, url: &str, status: u16, body: &str) {
        self.0.borrow_mut().answers.insert(url.to_owned(), (status, body.to_owned()));
    }

    fn asked(&self) -> usize {
        self.0.borrow().asked.len()
    }

    /// A kit of which all requests come here.
    fn kit(&self, settings: Value) -> Kit<AuthJwt> {
        let (mut kit, pages) = (kit_with(settings), self.0.clone());
        kit.http(move |request| {
            assert_eq!(request.method(), "GET");
            let mut pages = pages.borrow_mut();
            pages.asked.push(request.url().to_owned());
            let (status, body) = pages.answers.get(request.url()).cloned().unwrap_or((404, String::new()));
            Ok(Response::new(status, body))
        });
        kit
    }
}

fn url(issuer: &str) -> String {
    format!("{issuer}/jwks.json")
}

fn ed(kid: &str) -> Value {
    let mut jwk = ed25519_jwk();
    jwk["kid"] = kid.into();
    jwk
}

fn es(kid: &str) -> Value {
    let point = p256_key().verifying_key().to_sec1_point(false);
    let coordinate = |bytes: Option<&[u8]>| base64(bytes.expect("it is not compressed"));
    let (x, y) = (point.x().map(|x| &x[..]), point.y().map(|y| &y[..]));
    json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": coordinate(x), "y": coordinate(y)})
}

fn from(issuer: &str) -> String {
    json!({"sub": "42", "exp": NOW + 100_000_000, "iss": issuer}).to_string()
}

fn ed_token(kid: &str, issuer: &str) -> String {
    sign_by(&json!({"alg": "EdDSA", "kid": kid}).to_string(), &from(issuer), eddsa)
}

fn es_token(kid: &str, issuer: &str) -> String {
    sign_by(&json!({"alg": "ES256", "kid": kid}).to_string(), &from(issuer), es256)
}

/// One issuer that has published the key `1`.
fn shop() -> (Web, Kit<AuthJwt>) {
    let web = Web::default();
    web.publish(&url(SHOP), &[ed("1")]);
    let kit = web.kit(json!({"issuer": SHOP, "jwks_url": url(SHOP)}));
    (web, kit)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn keys_are_fetched_with_the_first_token_and_used_again() {
    let (web, mut kit) = shop();
    assert_eq!(web.asked(), 0, "nobody has come");
    let first = kit.connect(&ed_token("1", SHOP));
    assert_eq!(first.logged(), "keys of https://shop.example: 1");
    assert_eq!(first.log[0].level, Level::Info);
    for _ in 0..100 {
        check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    }
    assert_eq!(web.asked(), 1);
}

#[test]
fn unknown_keys_cause_one_fetch_per_interval() {
    let (web, mut kit) = shop();
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    for number in 0..600 {
        kit.advance(Duration::from_millis(500));
        kit.connect(&ed_token(&format!("unknown-{number}"), SHOP));
    }
    assert_eq!(web.asked(), 1 + 10, "300 seconds, one attempt in 30");
}

#[test]
fn an_unknown_key_is_judged_by_an_answer_of_just_now() {
    let (web, mut kit) = shop();
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    // It may have been published after the last fetch.
    assert_eq!(kit.connect(&ed_token("2", SHOP)).verdict, later());
    kit.advance(seconds(30));
    check_refused_by(&mut kit, &ed_token("2", SHOP), "there is no key with its `kid` and `alg`");
    assert_eq!(web.asked(), 2);
}

#[test]
fn a_new_key_works_after_one_fetch_and_an_old_one_ends_with_it() {
    let (web, mut kit) = shop();
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    web.publish(&url(SHOP), &[es("2")]);
    kit.advance(seconds(30));
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    assert_eq!(web.asked(), 1, "what is known and fresh is not asked for");
    check_admitted(&mut kit, &es_token("2", SHOP), "42");
    assert_eq!(web.asked(), 2);
    assert_eq!(kit.connect(&ed_token("1", SHOP)).verdict, later());
}

#[test]
fn keys_are_fetched_again_when_they_are_old() {
    let (web, mut kit) = shop();
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    web.publish(&url(SHOP), &[es("1")]);
    kit.advance(seconds(599));
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    kit.advance(seconds(1));
    check_refused_by_the_last_line(&mut kit, &ed_token("1", SHOP), "token refused: not signed with ES256");
    check_admitted(&mut kit, &es_token("1", SHOP), "42");
    assert_eq!(web.asked(), 2);
}

#[track_caller]
fn check_refused_by_the_last_line(kit: &mut Kit<AuthJwt>, token: &str, line: &str) {
    let outcome = kit.connect(token);
    assert_eq!(outcome.verdict, Connect::refuse(3500, "invalid token"));
    assert_eq!(outcome.log.last().map(|line| &*line.message), Some(line));
}

#[test]
fn while_the_issuer_is_away_known_keys_go_on_for_a_while() {
    let (web, mut kit) = shop();
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    web.answer(&url(SHOP), 503, "");
    kit.advance(seconds(600));
    let outcome = kit.connect(&ed_token("1", SHOP));
    assert!(matches!(outcome.verdict, Connect::Accept(_)), "{outcome:?}");
    assert_eq!(
        outcome.logged(),
        "no keys from https://shop.example: the answer has status 503; asked again in 30 s at the earliest"
    );
    assert_eq!(outcome.log[0].level, Level::Warn);
    assert!(kit.connect(&ed_token("1", SHOP)).log.is_empty(), "one attempt, one line");
    assert_eq!(kit.connect(&ed_token("2", SHOP)).verdict, later());
    kit.advance(seconds(24 * 3600 - 601));
    check_admitted_whatever_is_logged(&mut kit, &ed_token("1", SHOP));
    kit.advance(seconds(1));
    assert_eq!(kit.connect(&ed_token("1", SHOP)).verdict, later());
    // The issuer is back.
    web.publish(&url(SHOP), &[ed("1")]);
    kit.advance(seconds(30));
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
}

#[track_caller]
fn check_admitted_whatever_is_logged(kit: &mut Kit<AuthJwt>, token: &str) {
    let outcome = kit.connect(token);
    assert!(matches!(outcome.verdict, Connect::Accept(_)), "{outcome:?}");
}

#[test]
fn the_same_kid_of_two_issuers_stays_apart() {
    let web = Web::default();
    web.publish(&url(SHOP), &[ed("1")]);
    web.publish(&url(GAME), &[es("1")]);
    let mut kit = web.kit(json!({"issuers": [
        {"issuer": SHOP, "jwks_url": url(SHOP)},
        {"issuer": GAME, "jwks_url": url(GAME)},
    ]}));
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    check_admitted(&mut kit, &es_token("1", GAME), "42");
    check_refused_by(&mut kit, &ed_token("1", GAME), "not signed with ES256");
    check_refused_by(&mut kit, &es_token("1", SHOP), "not signed with EdDSA");
    // Nor does one of them use up the attempts of the other.
    web.publish(&url(GAME), &[es("1"), ed("2")]);
    kit.advance(seconds(30));
    kit.connect(&ed_token("unknown", SHOP));
    check_admitted(&mut kit, &ed_token("2", GAME), "42");
    // Two that publish at one address have their keys apart as well.
    let mut kit = web.kit(json!({"issuers": [
        {"issuer": SHOP, "jwks_url": url(SHOP)},
        {"issuer": GAME, "jwks_url": url(SHOP)},
    ]}));
    let before = web.asked();
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    check_admitted(&mut kit, &ed_token("1", GAME), "42");
    assert_eq!(web.asked(), before + 2);
}

#[test]
fn a_reload_fetches_nothing() {
    let (web, mut kit) = shop();
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    kit.reload(json!({"issuer": SHOP, "jwks_url": url(SHOP), "leeway": 5})).expect("good settings");
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    assert_eq!(web.asked(), 1);
    // Another address is another source.
    let other = "https://login.shop.example/keys";
    web.publish(other, &[es("1")]);
    kit.reload(json!({"issuer": SHOP, "jwks_url": other})).expect("good settings");
    check_admitted(&mut kit, &es_token("1", SHOP), "42");
}

#[test]
fn a_set_that_has_gone_bad_takes_nothing_away() {
    let secret = json!({"kty": "oct", "kid": "1", "alg": "HS256", "k": base64(SECRET)});
    let mut private = ed("1");
    private["d"] = "nothing of this is repeated".into();
    let set = |keys: &[Value]| json!({ "keys": keys }).to_string();
    for (body, why) in [
        ("<html>".to_owned(), "the answer is not JSON".to_owned()),
        ("{}".to_owned(), "the set has no list `keys`".to_owned()),
        (set(&[]), "the set has no keys".to_owned()),
        (
            set(&[secret]),
            "the set has no key that can be used: `keys[0]` is a secret that was published".to_owned(),
        ),
        (
            set(&[private]),
            "the set has no key that can be used: `keys[0]` holds a private key: leave out `d` and what else is \
             private"
                .to_owned(),
        ),
        (set(&vec![ed("1"); 65]), "the set has 65 keys: at most 64 are accepted".to_owned()),
        (" ".repeat(128 * 1024 + 1), "the set has 131073 bytes: at most 131072 are accepted".to_owned()),
    ] {
        let (web, mut kit) = shop();
        check_admitted(&mut kit, &ed_token("1", SHOP), "42");
        web.answer(&url(SHOP), 200, &body);
        kit.advance(seconds(600));
        let outcome = kit.connect(&ed_token("1", SHOP));
        assert!(matches!(outcome.verdict, Connect::Accept(_)), "{why}");
        assert_eq!(
            outcome.logged(),
            format!("no keys from https://shop.example: {why}; asked again in 30 s at the earliest")
        );
    }
}

#[test]
fn a_bad_key_is_passed_over_and_the_others_are_used() {
    let (web, mut kit) = shop();
    let secret = json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": base64(SECRET)});
    web.publish(&url(SHOP), &[secret, json!({"kty": "RSA", "use": "enc"}), ed("1"), es("1")]);
    let first = kit.connect(&ed_token("1", SHOP));
    assert!(matches!(first.verdict, Connect::Accept(_)), "{first:?}");
    assert_eq!(
        first.logged(),
        "keys of https://shop.example: 1\n\
         a key of https://shop.example is not used: `keys[0]` is a secret that was published\n\
         a key of https://shop.example is not used: `keys[3]` has the same `kid` as another one of this issuer"
    );
}

#[test]
fn a_token_with_a_shared_secret_asks_nobody() {
    let (web, mut kit) = shop();
    // The public key as a secret, which a careless verifier would take for one.
    let public = ed25519_jwk()["x"].as_str().map(unbase64).expect("a text");
    for header in [r#"{"alg":"HS256","kid":"1"}"#, r#"{"alg":"none","kid":"1"}"#, r#"{"alg":"X","kid":"2"}"#]
    {
        let forged = sign_with(&public, header, &from(SHOP));
        check_refused_by(&mut kit, &forged, "there is no key with its `kid` and `alg`");
    }
    check_refused_by(&mut kit, &ed_token("1", GAME), "claim `iss` is not an expected issuer");
    assert_eq!(web.asked(), 0);
}

#[test]
fn keys_of_the_settings_stand_beside_published_ones_and_come_first() {
    let web = Web::default();
    web.publish(&url(SHOP), &[ed("1"), es("own")]);
    let own = json!({"kid": "own", "algorithm": "HS256", "secret": SECRET});
    let mut kit = web.kit(json!({"issuer": SHOP, "keys": [own], "jwks_url": url(SHOP)}));
    check_admitted(&mut kit, &sign(r#"{"alg":"HS256","kid":"own"}"#, &from(SHOP)), "42");
    check_refused_by(&mut kit, &es_token("own", SHOP), "not signed with HS256");
    assert_eq!(web.asked(), 0);
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
}

#[test]
fn a_subscription_is_judged_by_what_was_fetched_and_the_next_client_fetches_more() {
    let web = Web::default();
    web.publish(&url(SHOP), &[ed("1")]);
    let mut kit = web.kit(json!({"jwks_url": url(SHOP), "token_channels": ["private:*"]}));
    let mut pass: Value = serde_json::from_str(&from(SHOP)).expect("JSON");
    pass["channel"] = "private:1".into();
    let pass = pass.to_string();
    let old = sign_by(r#"{"alg":"EdDSA","kid":"1"}"#, &pass, eddsa);
    let new = sign_by(r#"{"alg":"ES256","kid":"2"}"#, &pass, es256);
    let subscribe = |kit: &mut Kit<AuthJwt>, token: &str| {
        let client = kit.connection("c1").user("42");
        client.message(Kind::Subscribe).channel("private:1").token(token).send().verdict
    };
    let later = Verdict::deny(100, "keys are not available, try again");
    assert_eq!(subscribe(&mut kit, &old), later, "a message waits for nobody");
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    assert_eq!(subscribe(&mut kit, &old), Verdict::allow());
    web.publish(&url(SHOP), &[ed("1"), es("2")]);
    kit.advance(seconds(30));
    assert_eq!(subscribe(&mut kit, &new), later);
    assert_eq!(web.asked(), 1);
    // Whoever comes next, with whatever key.
    check_admitted(&mut kit, &ed_token("1", SHOP), "42");
    assert_eq!(web.asked(), 2);
    assert_eq!(subscribe(&mut kit, &new), Verdict::allow());
}

#[test]
fn settings_of_addresses_are_checked_with_all_others() {
    let error = |settings: Value| Kit::<AuthJwt>::new(settings).expect_err("bad settings");
    assert_eq!(
        error(
            json!({"jwks_url": "shop.example/keys", "jwks_interval": 0, "jwks_fresh": 90_000, "leeway": 301})
        ),
        "4 errors: `jwks_interval` is 0: 1 to 3600 seconds are accepted; \
         `jwks_fresh` is 90000: 0 to 86400 seconds, beginning with `jwks_interval`, are accepted; \
         `jwks_url` is \"shop.example/keys\": an address such as \"https://login.example/jwks.json\" is accepted; \
         `leeway` is 301 seconds: at most 300 are accepted"
    );
    for bad in
        ["", "https://", "ftp://a.example/", "https://u:p@a.example/", "https://a.example/#a", "https://a b/"]
    {
        let error = error(json!({"issuers": [{"issuer": "a", "jwks_url": bad}]}));
        assert!(error.starts_with("`issuers[0].jwks_url` is "), "{error}");
    }
    let long = format!("https://a.example/{}", "a".repeat(2048));
    assert_eq!(error(json!({"jwks_url": long})), "`jwks_url` has 2066 bytes: at most 2048 are accepted");
    assert_eq!(
        error(json!({"jwks_url": url(SHOP), "jwks_usable": 10})),
        "`jwks_usable` is 10: 600 to 2592000 seconds, beginning with `jwks_fresh`, are accepted"
    );
}
