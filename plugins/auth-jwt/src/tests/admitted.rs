//! Tokens that admit: who the client becomes, and for how long.

use base64::engine::general_purpose::STANDARD;

use super::*;

#[test]
fn a_token_admits_its_user_until_it_expires() {
    assert_eq!(kit().connect(&good()).verdict, Connect::accept("42").expires_at(NOW + 60));
}

#[test]
fn claims_become_the_identity() {
    let token = token(&json!({
        "sub": "42", "exp": NOW + 60, "iat": NOW - 1, "nbf": NOW, "jti": "x",
        "info": {"color": "teal"}, "data": [1], "channels": ["news", "chat:1"], "expire_at": NOW + 3600,
    }));
    let expected = Connect::accept("42")
        .token(Some("x"), Some(NOW - 1))
        .channels(["news", "chat:1"])
        .info_json(&json!({"color": "teal"}))
        .data_json(&json!([1]))
        .expires_at(NOW + 3600);
    assert_eq!(kit().connect(&token).verdict, expected);
}

#[test]
fn the_settings_say_which_claims_make_the_identity() {
    let mut kit = kit_with(json!({
        "secret": SECRET, "user_claim": "/account/id", "info_claim": "profile", "data_claim": "hello",
        "channels_claim": "https://shop.example/channels",
        "attributes": {"plan": "plan", "/account/tenant": "tenant", "roles": "roles", "beta": "beta", "gone": "gone"},
    }));
    let token = token(&json!({
        "exp": NOW + 60, "account": {"id": 42, "tenant": "acme"}, "plan": "free", "roles": ["a", "b"],
        "beta": true, "profile": 1, "hello": 2, "https://shop.example/channels": ["news"], "info": "no", "sub": "no",
    }));
    let expected = Connect::accept("42")
        .channel("news")
        .info_json(&1)
        .data_json(&2)
        .attribute("tenant", "acme")
        .attribute("beta", "true")
        .attribute("gone", "")
        .attribute("plan", "free")
        .attribute("roles", r#"["a","b"]"#)
        .expires_at(NOW + 60);
    assert_eq!(kit.connect(&token).verdict, expected);
}

#[test]
fn the_gateway_learns_which_token_it_is() {
    let token_of = |more: serde_json::Value| {
        let mut claims = json!({"sub": "42", "exp": NOW + 60});
        claims.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        token(&claims)
    };
    let expected = Connect::accept("42").token(Some("t1"), Some(NOW - 1)).expires_at(NOW + 60);
    assert_eq!(kit().connect(&token_of(json!({"jti": "t1", "iat": NOW - 1}))).verdict, expected);
    for claims in [json!({"jti": 7}), json!({"jti": "x".repeat(257)}), json!({"iat": "today"})] {
        let refused = Connect::refuse(3500, "invalid token");
        assert_eq!(kit().connect(&token_of(claims.clone())).verdict, refused, "{claims}");
    }
}

#[test]
fn a_new_token_takes_back_the_attributes_that_it_lacks() {
    let mut kit = kit_with(json!({"secret": SECRET, "attributes": {"plan": "plan"}}));
    let paid = token(&json!({"sub": "42", "exp": NOW + 60, "plan": "paid"}));
    for (token, plan) in [(paid, "paid"), (good(), "")] {
        let outcome = kit.connection("c1").connect(&token).send();
        assert_eq!(outcome.verdict, Connect::accept("42").attribute("plan", plan).expires_at(NOW + 60));
    }
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
fn what_a_header_says_beside_the_algorithm_does_not_matter() {
    for header in [
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"7","cty":"x"}"#,
        r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AA"},"jku":"https://evil.example/","x5u":"x","x5c":["AA"],"zip":"DEF"}"#,
    ] {
        check_admitted(&mut kit(), &sign(header, &claims()), "42");
    }
}

#[test]
fn the_settings_may_demand_a_type() {
    let mut kit = kit_with(json!({"secret": SECRET, "types": ["at+JWT"]}));
    for (typ, admitted) in [
        (r#","typ":"at+jwt""#, true),
        (r#","typ":"application/AT+JWT""#, true),
        (r#","typ":"JWT""#, false),
        (r#","typ":"""#, false),
        ("", false),
    ] {
        let token = sign(&format!(r#"{{"alg":"HS256"{typ}}}"#), &claims());
        assert_eq!(matches!(kit.connect(&token).verdict, Connect::Accept(_)), admitted, "{typ}");
    }
}

#[test]
fn users_have_any_name_but_no_control_characters() {
    for user in ["", "Zoë", "用户-42", "a b", "👩‍💻", "../../etc/passwd", "' or 1=1 --"] {
        check_admitted(&mut kit(), &token(&json!({"sub": user, "exp": NOW + 60})), user);
    }
    for user in ["a\nb", "\u{0}", "\u{85}"] {
        check_refused(&token(&json!({"sub": user, "exp": NOW + 60})), "claim `sub` holds control characters");
    }
}

#[test]
fn a_token_without_a_user_is_an_anonymous_client_where_the_settings_permit_it() {
    let nobody = json!({"exp": NOW + 60, "channels": ["news"]});
    check_refused(&token(&nobody), "claim `sub` is missing");
    let mut kit = kit_with(json!({"secret": SECRET, "leeway": 0, "allow_without_user": true}));
    let anonymous = Connect::accept("").channel("news").expires_at(NOW + 60);
    assert_eq!(kit.connect(&token(&nobody)).verdict, anonymous);
    check_admitted(&mut kit, &good(), "42");
    // What is there has to be right, and the rest of the token as well.
    for sub in [json!(null), json!(42), json!(["42"])] {
        let wrong = "claim `sub` has the wrong type or a value out of range";
        check_refused_by(&mut kit, &token(&json!({"sub": sub, "exp": NOW + 60})), wrong);
    }
    check_refused_by(&mut kit, &token(&json!({})), "claim `exp` is missing");
    let late = token(&json!({"exp": NOW - 1}));
    assert_eq!(kit.connect(&late).verdict, Connect::refuse(109, "token expired"));
    let forged = sign_with(b"another secret of thirty-two bytes..", HEADER, &nobody.to_string());
    check_refused_by(&mut kit, &forged, "the signature is wrong");
    assert_eq!(kit.connect("").verdict, Connect::pass(), "no token is not a token without a user");
    let mut elsewhere =
        kit_with(json!({"secret": SECRET, "user_claim": "/account/id", "allow_without_user": true}));
    check_admitted(&mut elsewhere, &good(), "");
}

#[test]
fn a_secret_may_be_given_in_other_spellings() {
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02X}")).collect();
    for settings in [json!({"secret_base64": STANDARD.encode(SECRET)}), json!({"secret_hex": hex})] {
        check_admitted(&mut kit_with(settings), &good(), "42");
    }
}

// ---- Time ----

#[test]
fn fractions_of_a_second_are_cut_off() {
    let token = token(&json!({"sub": "42", "exp": NOW as f64 + 60.9}));
    assert_eq!(kit().connect(&token).verdict, Connect::accept("42").expires_at(NOW + 60));
}

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
fn a_few_seconds_of_leeway_are_the_default() {
    let mut kit = kit_with(json!({"secret": SECRET}));
    check_admitted(&mut kit, &token(&json!({"sub": "42", "exp": NOW + 60, "nbf": NOW + 5})), "42");
    check_admitted(&mut kit, &token(&json!({"sub": "42", "exp": NOW - 4})), "42");
    let expired = token(&json!({"sub": "42", "exp": NOW - 5}));
    assert_eq!(kit.connect(&expired).verdict, Connect::refuse(109, "token expired"));
}

#[test]
fn a_token_that_begins_in_a_moment_is_worth_coming_back_with() {
    let mut aged = kit_with(json!({"secret": SECRET, "leeway": 0, "age_max": "1h"}));
    for (seconds, comes_back) in [(1, true), (60, true), (61, false)] {
        for (kit, claim) in [(&mut kit(), "nbf"), (&mut aged, "iat")] {
            let mut claims = json!({"sub": "42", "exp": NOW + 600, "iat": NOW});
            claims[claim] = json!(NOW + seconds);
            let refused = match comes_back {
                true => Connect::refuse(100, "the token is not valid yet, try again"),
                false => Connect::refuse(3500, "invalid token"),
            };
            assert_eq!(kit.connect(&token(&claims)).verdict, refused, "{claim} in {seconds} s");
        }
    }
}

#[test]
fn durations_and_sizes_have_units_or_are_seconds_and_bytes() {
    for leeway in [json!(10), json!("10s")] {
        let mut kit = kit_with(json!({"secret": SECRET, "leeway": leeway, "token_bytes_max": "1KiB"}));
        check_admitted(&mut kit, &token(&json!({"sub": "42", "exp": NOW - 9})), "42");
        check_refused_by(&mut kit, &"x".repeat(1025), "longer than 1024 bytes");
    }
}

#[test]
fn whoever_is_admitted_can_be_reached() {
    let as_user = |user: &str| token(&json!({"sub": user, "exp": NOW + 60}));
    for user in
        ["jane doe", "Zürich", "a*b", "#42", "@c1", "auth0|abc", "urn:x:y", "a@b.example", &"x".repeat(254)]
    {
        check_admitted(&mut kit(), &as_user(user), user);
    }
    check_refused(
        &as_user(&"x".repeat(300)),
        "claim `sub`: the user id has 300 bytes, at most 254 are accepted",
    );
}

#[test]
fn a_connection_that_has_expired_already_is_an_expired_token() {
    let token = token(&json!({"sub": "42", "exp": NOW + 60, "expire_at": NOW - 1}));
    assert_eq!(kit().connect(&token).verdict, Connect::refuse(109, "token expired"));
}

#[test]
fn a_token_without_an_end_needs_permission() {
    let endless = token(&json!({"sub": "42"}));
    check_refused(&endless, "claim `exp` is missing");
    let mut kit = kit_with(json!({"secret": SECRET, "leeway": 0, "allow_without_exp": true}));
    assert_eq!(kit.connect(&endless).verdict, Connect::accept("42"));
    let expired = token(&json!({"sub": "42", "exp": NOW - 1}));
    assert_eq!(kit.connect(&expired).verdict, Connect::refuse(109, "token expired"));
}

#[test]
fn a_token_may_be_too_old_although_it_has_not_expired() {
    let mut kit = kit_with(json!({"secret": SECRET, "age_max": 30, "leeway": 2}));
    let aged = |iat: u64| token(&json!({"sub": "42", "exp": NOW + 600, "iat": iat}));
    let admitted = Connect::accept("42").token(None, Some(NOW - 31)).expires_at(NOW + 1);
    assert_eq!(kit.connect(&aged(NOW - 31)).verdict, admitted);
    assert_eq!(kit.connect(&aged(NOW - 32)).verdict, Connect::refuse(109, "token expired"));
    check_admitted(&mut kit, &aged(NOW + 2), "42");
    check_refused_by(&mut kit, &aged(NOW + 63), "issued in the future (`iat`)");
    check_refused_by(&mut kit, &good(), "claim `iat` is missing, and `age_max` needs it");
}

// ---- What the settings demand ----

#[test]
fn required_claims_have_to_be_there() {
    let mut kit = kit_with(json!({"secret": SECRET, "required_claims": ["jti", "/org/id"]}));
    check_admitted(
        &mut kit,
        &token(&json!({"sub": "42", "exp": NOW + 60, "jti": "x", "org": {"id": 1}})),
        "42",
    );
    let without = token(&json!({"sub": "42", "exp": NOW + 60, "jti": "x", "org": {}}));
    check_refused_by(&mut kit, &without, "claim `/org/id` is missing");
}

#[test]
fn required_values_have_to_be_equal_or_in_a_list() {
    let mut kit = kit_with(json!({
        "secret": SECRET, "required_values": {"email_verified": true, "/realm/roles": "chat"},
    }));
    for (verified, roles, admitted) in [
        (json!(true), json!("chat"), true),
        (json!(true), json!(["x", "chat"]), true),
        (json!("true"), json!("chat"), false),
        (json!(true), json!("chatter"), false),
        (json!(true), json!([["chat"]]), false),
        (json!(true), json!({"chat": "chat"}), false),
        (json!(true), json!(null), false),
    ] {
        let claims =
            json!({"sub": "42", "exp": NOW + 60, "email_verified": verified, "realm": {"roles": roles}});
        let verdict = kit.connect(&token(&claims)).verdict;
        assert_eq!(matches!(verdict, Connect::Accept(_)), admitted, "{claims}");
    }
}

#[test]
fn the_token_of_the_readme_is_good_until_2100() {
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiIsImV4cCI6NDEwMjQ0NDgwMH0.\
                 8Av6wkn98MRjuy8-0eH6kufv7BxzdA_dqjzdpL1PpT4";
    assert_eq!(kit().connect(token).verdict, Connect::accept("42").expires_at(4_102_444_800));
}
