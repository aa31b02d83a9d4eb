//! Channels that need a token of their own.

use gateway_plugin_sdk::kit::{Effect, Outcome};

use super::*;

fn private() -> Kit<AuthJwt> {
    kit_with(json!({"secret": SECRET, "token_channels": ["private:*", "vip"]}))
}

fn pass() -> Value {
    json!({"sub": "42", "exp": NOW + 60, "channel": "private:1"})
}

fn subscribe(kit: &mut Kit<AuthJwt>, token: &str) -> (Verdict, String) {
    let outcome = send(kit, Kind::Subscribe, token);
    let logged = outcome.logged();
    (outcome.verdict, logged)
}

fn send(kit: &mut Kit<AuthJwt>, kind: Kind, token: &str) -> Outcome<Verdict> {
    kit.connection("c1").user("42").message(kind).channel("private:1").token(token).send()
}

/// A pass with another claim.
fn pass_with(name: &str, value: Value) -> String {
    let mut claims = pass();
    claims[name] = value;
    token(&claims)
}

#[track_caller]
fn check_denied(token: &str, why: &str) {
    let (verdict, logged) = subscribe(&mut private(), token);
    assert_eq!(verdict, Verdict::deny(103, "permission denied"), "{token}");
    assert_eq!(
        logged,
        if why.is_empty() { String::new() } else { format!("subscription token refused: {why}") }
    );
}

#[test]
fn a_token_opens_its_channel_to_its_user() {
    assert_eq!(subscribe(&mut private(), &token(&pass())).0, Verdict::allow());
}

#[test]
fn without_a_good_token_the_channel_is_closed() {
    let with = pass_with;
    check_denied("", "");
    check_denied("x", "not made of three parts");
    check_denied(&with("channel", json!("private:2")), "it is for another channel");
    check_denied(&with("channel", json!("private:*")), "it is for another channel");
    check_denied(&with("channel", json!("PRIVATE:1")), "it is for another channel");
    check_denied(
        &with("channel", json!(["private:1"])),
        "claim `channel` has the wrong type or a value out of range",
    );
    check_denied(&with("sub", json!("43")), "it is for another user");
    check_denied(&with("sub", json!("")), "it is for another user");
    check_denied(&with("nbf", json!(NOW + 100)), "not valid yet (`nbf`)");
    check_denied(&good(), "claim `channel` is missing");
    check_denied(
        &with("override", json!({"presence": {"value": false}})),
        "claim `override` is not supported: the channel's namespace decides",
    );
    check_denied(&token(&json!({"sub": "42", "channel": "private:1"})), "claim `exp` is missing");
    check_denied(&sign_with(b"forged", HEADER, &pass().to_string()), "the signature is wrong");
    check_denied(
        &format!("{}.{}.", base64(r#"{"alg":"none"}"#), base64(pass().to_string())),
        "there is no key with its `kid` and `alg`",
    );
}

#[test]
fn an_expired_token_asks_for_another_one() {
    let mut claims = pass();
    claims["exp"] = json!(NOW - 10);
    assert_eq!(subscribe(&mut private(), &token(&claims)).0, Verdict::deny(109, "token expired"));
}

#[test]
fn a_token_that_begins_in_a_moment_is_asked_for_again() {
    let mut claims = pass();
    claims["nbf"] = json!(NOW + 10);
    let later = Verdict::deny(100, "the token is not valid yet, try again");
    assert_eq!(subscribe(&mut private(), &token(&claims)).0, later);
}

#[test]
fn other_channels_and_kinds_need_none() {
    let mut kit = private();
    for (kind, channel) in
        [(Kind::Subscribe, "news"), (Kind::Subscribe, "vip2"), (Kind::Publish, "private:1")]
    {
        let outcome = kit.connection("c1").message(kind).channel(channel).send();
        assert!(!outcome.called, "{kind} {channel}");
    }
    let outcome = kit.connection("c1").message(Kind::Subscribe).channel("vip").send();
    assert_eq!(outcome.verdict, Verdict::deny(103, "permission denied"));
}

#[test]
fn a_permission_does_not_replace_the_token() {
    let mut kit =
        kit_with(json!({"secret": SECRET, "token_channels": ["private:*"], "permissions": "claims"}));
    let everything = token(&json!({"sub": "42", "exp": NOW + 60, "subscribe": ["*"], "publish": ["*"]}));
    kit.connection("c1").connect(&everything).send();
    let mut ask = |kind, channel: &str, token: &str| {
        kit.connection("c1").message(kind).channel(channel).token(token).send().verdict
    };
    let denied = Verdict::deny(103, "permission denied");
    assert_eq!(ask(Kind::Subscribe, "private:1", ""), denied);
    assert_eq!(ask(Kind::Subscribe, "private:1", &everything), denied);
    assert_eq!(ask(Kind::Subscribe, "private:1", &token(&pass())), Verdict::allow());
    assert_eq!(ask(Kind::Subscribe, "news", ""), Verdict::allow());
    assert_eq!(ask(Kind::Publish, "private:1", ""), Verdict::allow());
}

#[test]
fn a_pattern_that_may_match_such_a_channel_needs_a_token_too() {
    let mut kit =
        kit_with(json!({"secret": SECRET, "token_channels": ["rooms:private*"], "permissions": "claims"}));
    let everything = token(&json!({"sub": "42", "exp": NOW + 60, "subscribe": ["*"]}));
    kit.connection("c1").connect(&everything).send();
    let mut ask = |pattern: &str, token: &str| {
        kit.connection("c1").message(Kind::Subscribe).channel(pattern).token(token).send().verdict
    };
    let denied = Verdict::deny(103, "permission denied");
    for pattern in ["rooms:*", "rooms:**", "rooms:*.a", "rooms:private.*"] {
        assert_eq!(ask(pattern, ""), denied, "{pattern}");
        assert_eq!(ask(pattern, &pass_with("channel", json!(pattern))), Verdict::allow(), "{pattern}");
        assert_eq!(ask(pattern, &pass_with("channel", json!("rooms:private"))), denied, "{pattern}");
    }
    assert_eq!(ask("rooms:open.*", ""), Verdict::allow());
    assert_eq!(ask("news:*", ""), Verdict::allow());
}

#[test]
fn the_token_of_a_subscription_admits_nobody() {
    check_refused_by(&mut private(), &token(&pass()), "it is for a subscription (`channel`)");
    // Where no channel needs one, the claim is none of ours.
    check_admitted(&mut kit(), &token(&pass()), "42");
}

#[test]
fn a_subscription_ends_with_its_token_or_when_the_token_says() {
    let mut kit = private();
    for (token, expires_at) in [
        (token(&pass()), Some(NOW + 60)),
        (pass_with("expire_at", json!(NOW + 10)), Some(NOW + 10)),
        (pass_with("expire_at", json!(0)), None),
    ] {
        for kind in [Kind::Subscribe, Kind::SubRefresh] {
            let outcome = send(&mut kit, kind, &token);
            assert_eq!(outcome.verdict, Verdict::allow(), "{kind} {expires_at:?}");
            assert_eq!(outcome.effects, [Effect::SetSubscriptionExpiry(expires_at)], "{kind}");
        }
    }
    let mut kit =
        kit_with(json!({"secret": SECRET, "token_channels": ["private:*"], "allow_without_exp": true}));
    let endless = token(&json!({"sub": "42", "channel": "private:1"}));
    assert_eq!(send(&mut kit, Kind::Subscribe, &endless).effects, [Effect::SetSubscriptionExpiry(None)]);
}

#[test]
fn whoever_refreshes_with_a_token_that_is_no_good_gets_no_more_time() {
    let denied = Verdict::deny(103, "permission denied");
    for (token, verdict) in [
        (pass_with("exp", json!(NOW - 10)), Verdict::deny(110, "token expired")),
        (pass_with("expire_at", json!(NOW - 10)), Verdict::deny(110, "token expired")),
        (pass_with("channel", json!("private:2")), denied.clone()),
        (pass_with("sub", json!("43")), denied.clone()),
        (good(), denied.clone()),
        ("x".to_owned(), denied),
        (pass_with("nbf", json!(NOW + 10)), Verdict::deny(100, "the token is not valid yet, try again")),
    ] {
        let outcome = send(&mut private(), Kind::SubRefresh, &token);
        assert_eq!((outcome.verdict, outcome.effects), (verdict, vec![]), "{token}");
    }
}

#[test]
fn refreshes_in_other_channels_are_none_of_ours() {
    let settings = json!({"secret": SECRET, "token_channels": ["private:*"], "permissions": "claims"});
    let mut kit = kit_with(settings);
    assert_eq!(send(&mut kit, Kind::SubRefresh, &token(&pass())).verdict, Verdict::allow());
    for mut kit in [private(), kit] {
        let outcome = kit.connection("c1").message(Kind::SubRefresh).channel("news").token("x").send();
        assert_eq!(outcome.verdict, Verdict::next());
    }
    let mut kit = kit_with(json!({"secret": SECRET, "permissions": "claims"}));
    assert!(!send(&mut kit, Kind::SubRefresh, "x").called, "no channel takes tokens");
}

#[test]
fn a_subscription_token_without_a_user_is_for_anonymous_clients() {
    let nobody = token(&json!({"exp": NOW + 60, "channel": "private:1"}));
    check_denied(&nobody, "claim `sub` is missing");
    let settings = json!({"secret": SECRET, "token_channels": ["private:*"], "allow_without_user": true});
    let mut kit = kit_with(settings);
    assert_eq!(subscribe(&mut kit, &nobody).0, Verdict::deny(103, "permission denied"), "ann is somebody");
    let subscribing = kit.connection("c2").message(Kind::Subscribe).channel("private:1").token(&nobody);
    assert_eq!(subscribing.send().verdict, Verdict::allow());
}

#[test]
fn subscription_tokens_may_have_keys_of_their_own() {
    let own = "the secret of whoever makes the rooms";
    let mut kit = kit_with(json!({
        "secret": SECRET,
        "token_channels": ["private:*"],
        "subscription_issuers": [
            {"issuer": "rooms", "audience": "chat", "keys": [{"algorithm": "HS256", "secret": own}]},
        ],
    }));
    let sign = |secret: &str, claims: &Value| sign_with(secret.as_bytes(), HEADER, &claims.to_string());
    let mut claims = pass();
    claims["iss"] = json!("rooms");
    claims["aud"] = json!("chat");
    assert_eq!(subscribe(&mut kit, &sign(own, &claims)).0, Verdict::allow());
    let denied = Verdict::deny(103, "permission denied");
    let refused = |why: &str| (denied.clone(), format!("subscription token refused: {why}"));
    assert_eq!(subscribe(&mut kit, &sign(SECRET, &claims)), refused("the signature is wrong"));
    assert_eq!(subscribe(&mut kit, &sign(SECRET, &pass())), refused("claim `iss` is not an expected issuer"));
    claims["aud"] = json!("games");
    assert_eq!(
        subscribe(&mut kit, &sign(own, &claims)),
        refused("claim `aud` does not name the expected audience")
    );
    // Nor do these keys open connections.
    check_refused_by(
        &mut kit,
        &sign(own, &json!({"sub": "42", "exp": NOW + 60, "iss": "rooms"})),
        "the signature is wrong",
    );
    check_admitted(&mut kit, &good(), "42");
}

#[test]
fn issuers_of_subscription_tokens_need_channels_and_keys_that_are_there() {
    let refused = |settings: Value| Kit::<AuthJwt>::new(settings).map(drop).expect_err("refused");
    let rooms = json!([{"issuer": "rooms", "keys": [{"algorithm": "HS256", "secret": SECRET}]}]);
    let error = refused(json!({"secret": SECRET, "subscription_issuers": rooms}));
    assert!(error.contains("`subscription_issuers` makes tokens for no channel"), "{error}");
    let fetched = json!([{"issuer": "rooms", "jwks_url": "https://rooms.example/keys"}]);
    let settings = json!({"secret": SECRET, "token_channels": ["a"], "subscription_issuers": fetched});
    let error = refused(settings);
    assert!(error.contains("`subscription_issuers[0].jwks_url` is not possible here"), "{error}");
    let bad = json!([{"issuer": "rooms", "keys": [{"algorithm": "HS256", "secret": "short"}]}]);
    let error = refused(json!({"secret": SECRET, "token_channels": ["a"], "subscription_issuers": bad}));
    assert!(error.contains("`subscription_issuers[0].keys[0].secret`"), "{error}");
}
