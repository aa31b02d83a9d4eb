//! Channels that need a token of their own.

use super::*;

fn private() -> Kit<AuthJwt> {
    kit_with(json!({"secret": SECRET, "token_channels": ["private:*", "vip"]}))
}

fn pass() -> Value {
    json!({"sub": "42", "exp": NOW + 60, "channel": "private:1"})
}

fn subscribe(kit: &mut Kit<AuthJwt>, token: &str) -> (Verdict, String) {
    let outcome =
        kit.connection("c1").user("42").message(Kind::Subscribe).channel("private:1").token(token).send();
    let logged = outcome.logged();
    (outcome.verdict, logged)
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
    let with = |name: &str, value: Value| {
        let mut claims = pass();
        claims[name] = value;
        token(&claims)
    };
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
fn the_token_of_a_subscription_admits_nobody() {
    check_refused_by(&mut private(), &token(&pass()), "it is for a subscription (`channel`)");
    // Where no channel needs one, the claim is none of ours.
    check_admitted(&mut kit(), &token(&pass()), "42");
}
