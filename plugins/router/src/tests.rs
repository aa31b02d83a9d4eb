//! The rules of a settings file, tested with the kit of the SDK.

use gateway_plugin_sdk::kit::{Kit, Outcome};

use super::*;

/// A router with the rules of a settings file.
#[track_caller]
fn kit(rules: &str) -> Kit<Router> {
    Kit::new(config(rules)).expect("good rules")
}

#[track_caller]
fn config(rules: &str) -> Value {
    toml::from_str::<Value>(&rules.replace("[[rules]]", "\n[[rules]]\n").replace(';', "\n")).expect("TOML")
}

/// User 42 publishes to a channel.
fn publish(kit: &mut Kit<Router>, channel: &str, payload: &Value) -> Outcome<Verdict> {
    kit.connection("c1").user("42").message(Kind::Publish).channel(channel).json(payload).send()
}

/// What the message goes on with.
fn changed(outcome: &Outcome<Verdict>) -> Value {
    let payload = outcome.payload.as_deref().expect("the payload was changed");
    serde_json::from_slice(payload).expect("JSON")
}

const UNROUTABLE: &str = "the message cannot be routed";

#[test]
fn the_self_test_holds() -> Result<(), String> {
    Kit::<Router>::self_test()
}

// ---- Matching ----

#[test]
fn the_first_rule_that_matches_decides() {
    let mut kit = kit(r#"
        [[rules]] channel = "chat:*"; allow = true
        [[rules]] channel = "chat:1"; drop = true
        [[rules]] deny = { code = 103, reason = "nothing else" }
    "#);
    for (channel, expected) in [
        ("chat:1", Verdict::allow()),
        ("chat", Verdict::deny(103, "nothing else")),
        ("news", Verdict::deny(103, "nothing else")),
    ] {
        assert_eq!(publish(&mut kit, channel, &json!({})).verdict, expected, "{channel}");
    }
}

/// User 42 subscribes to a channel or a pattern.
fn subscribe(kit: &mut Kit<Router>, channel: &str) -> Outcome<Verdict> {
    kit.connection("c1").user("42").message(Kind::Subscribe).channel(channel).json(&json!({})).send()
}

#[test]
fn a_pattern_is_allowed_with_all_of_its_channels_and_refused_with_one() {
    let allow = r#"[[rules]] kind = "subscribe"; channel = "chat:open.*"; allow = true"#;
    let deny = r#"
        [[rules]] kind = "subscribe"; channel = "chat:secret*"; deny = { code = 103, reason = "secret" }
        [[rules]] kind = "subscribe"; channel = "chat:*"; allow = true
    "#;
    let secret = || Verdict::deny(103, "secret");
    for (rules, channel, expected) in [
        (allow, "chat:open.1", Verdict::allow()),
        (allow, "chat:open.*", Verdict::allow()),
        (allow, "chat:**", Verdict::next()),
        (allow, "chat:*.1", Verdict::next()),
        (allow, "chat:secret", Verdict::next()),
        (deny, "chat:secret.1", secret()),
        (deny, "chat:secret.*", secret()),
        (deny, "chat:**", secret()),
        (deny, "chat:*", secret()),
        (deny, "chat:open.*", Verdict::allow()),
    ] {
        assert_eq!(subscribe(&mut kit(rules), channel).verdict, expected, "{rules} {channel}");
    }
}

#[test]
fn a_message_that_no_rule_matches_is_none_of_its_business() {
    let mut kit = kit(r#"[[rules]] user = "admin-*"; allow = true"#);
    assert_eq!(publish(&mut kit, "news", &json!({})).verdict, Verdict::next());
}

#[test]
fn every_part_of_a_rule_has_to_match() {
    let rule = r#"
        [[rules]]
        kind = ["publish", "rpc"]; channel = ["chat:*", "news"]; user = "4*"; field = "a.b.1"; equals = "x"
        allow = true
    "#;
    let good = json!({"a": {"b": [0, "x"]}});
    for (kind, channel, user, payload, expected) in [
        (Kind::Publish, "news", "42", &good, Verdict::Allow),
        (Kind::Publish, "chat:1", "4", &good, Verdict::Allow),
        (Kind::Rpc, "news", "42", &good, Verdict::Allow),
        (Kind::Send, "news", "42", &good, Verdict::Next),
        (Kind::Publish, "old", "42", &good, Verdict::Next),
        (Kind::Publish, "", "42", &good, Verdict::Next),
        (Kind::Publish, "news", "24", &good, Verdict::Next),
        (Kind::Publish, "news", "", &good, Verdict::Next),
        (Kind::Publish, "news", "42", &json!({"a": {"b": ["x", 0]}}), Verdict::Next),
        (Kind::Publish, "news", "42", &json!({"a": {"b": "x"}}), Verdict::Next),
        (Kind::Publish, "news", "42", &json!([]), Verdict::Next),
    ] {
        let outcome =
            kit(rule).connection("c1").user(user).message(kind).channel(channel).json(payload).send();
        assert_eq!(outcome.verdict, expected, "{kind} {channel} {user} {payload}");
    }
}

#[test]
fn a_field_is_compared_with_its_type() {
    for (equals, payload, matches) in [
        ("1", json!({"a": 1}), true),
        ("1", json!({"a": "1"}), false),
        ("\"1\"", json!({"a": 1}), false),
        ("true", json!({"a": true}), true),
        ("[1, 2]", json!({"a": [1, 2]}), true),
        ("{ b = 1 }", json!({"a": {"b": 1}}), true),
        ("{ b = 1 }", json!({"a": {"b": 1, "c": 2}}), false),
    ] {
        let mut kit = kit(&format!("[[rules]] field = \"a\"; equals = {equals}; drop = true"));
        let expected = if matches { Verdict::Drop } else { Verdict::Next };
        assert_eq!(publish(&mut kit, "news", &payload).verdict, expected, "{equals} {payload}");
    }
}

#[test]
fn a_payload_that_is_not_json_has_no_fields() {
    let mut kit = kit(r#"[[rules]] field = "a"; equals = 1; drop = true"#);
    for payload in ["", "a", "{\"a\":1", "\u{0}"] {
        assert_eq!(kit.connection("c1").raw(payload).verdict, Verdict::Next, "{payload:?}");
    }
}

#[test]
fn anonymous_clients_can_be_told_apart() {
    let mut kit = kit(r#"
        [[rules]] authenticated = false; deny = { code = 101, reason = "sign in" }
        [[rules]] authenticated = true; allow = true
    "#);
    let anonymous = kit.connection("c1").message(Kind::Subscribe).channel("news").send();
    assert_eq!(anonymous.verdict, Verdict::deny(101, "sign in"));
    let known = kit.connection("c2").user("42").message(Kind::Subscribe).channel("news").send();
    assert_eq!(known.verdict, Verdict::allow());
}

// ---- Actions ----

#[test]
fn fan_out_routes_the_payload_to_every_address() {
    let mut kit = kit(
        r##"[[rules]] fan_out = ["logs:{channel}", "#{user}", "@{connection}", "by:{payload.n}-{payload.s}"]"##,
    );
    let outcome = publish(&mut kit, "chat:1", &json!({"n": 7, "s": "x"}));
    assert_eq!(outcome.verdict, Verdict::route(["logs:chat:1", "#42", "@c1", "by:7-x"]));
    assert_eq!(outcome.effects, []);
}

#[test]
fn direct_reaches_a_user_or_a_connection() {
    let mut kit = kit(r##"
        [[rules]] field = "type"; equals = "user"; direct = "#{payload.to}"
        [[rules]] direct = "@{payload.to}"
    "##);
    assert_eq!(publish(&mut kit, "dm", &json!({"type": "user", "to": 7})).verdict, Verdict::route(["#7"]));
    assert_eq!(publish(&mut kit, "dm", &json!({"to": "c2"})).verdict, Verdict::route(["@c2"]));
}

#[test]
fn reply_fills_a_value_of_any_shape() {
    let mut kit = kit(
        r#"[[rules]] reply = { you = "{user}", m = "{method}", a = ["{payload.a}", "a={payload.n}", 1, "{{}}"] }"#,
    );
    let payload = json!({"a": {"deep": [1]}, "n": 2.5});
    let outcome = kit.connection("c1").user("42").message(Kind::Rpc).method("who").json(&payload).send();
    let expected = json!({"you": "42", "m": "who", "a": [{"deep": [1]}, "a=2.5", 1, "{}"]});
    assert_eq!(outcome.verdict, Verdict::reply_json(&expected));
}

#[test]
fn a_field_alone_keeps_its_type_and_may_be_missing() {
    let mut kit = kit(r#"[[rules]] reply = ["{payload.a}", "{payload.b}"]"#);
    let outcome = kit.connection("c1").message(Kind::Rpc).json(&json!({"a": false})).send();
    assert_eq!(outcome.verdict, Verdict::reply_json(&json!([false, null])));
}

// ---- Rewriting ----

#[test]
fn rewrite_sets_fields_and_goes_on() {
    let mut kit = kit(r#"
        [[rules]] rewrite = { "meta.from.user" = "{user}", kind = "{payload.type}", keep = 1 }
        [[rules]] field = "meta.from.user"; equals = "42"; rewrite = { seen = true }
    "#);
    let outcome = publish(&mut kit, "news", &json!({"type": "x", "meta": {"a": 1}, "keep": 0}));
    let expected = json!({
        "type": "x", "kind": "x", "keep": 1, "meta": {"a": 1, "from": {"user": "42"}}, "seen": true,
    });
    assert_eq!(outcome.verdict, Verdict::next(), "a rewrite decides nothing");
    assert_eq!(changed(&outcome), expected);
}

#[test]
fn a_rewrite_reads_the_payload_from_before() {
    let mut kit = kit(r#"[[rules]] rewrite = { a = "{payload.b}", b = "{payload.a}" }"#);
    let outcome = publish(&mut kit, "news", &json!({"a": 1, "b": 2}));
    assert_eq!(changed(&outcome), json!({"a": 2, "b": 1}));
}

#[test]
fn what_a_rewrite_makes_too_deep_is_the_clients_fault() {
    let mut kit = kit(r#"[[rules]] rewrite = { "a.b.c" = "{payload.x}" }; [[rules]] allow = true"#);
    let deep = |levels: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let mut send = |levels: usize| {
        kit.connection("c1").message(Kind::Publish).channel("news").payload(deep(levels)).send()
    };
    assert_eq!(send(117).verdict, Verdict::allow());
    let outcome = send(118);
    assert_eq!(outcome.verdict, Verdict::deny(107, UNROUTABLE));
    let logged = "a rewritten payload: the payload is JSON nested deeper than 120 levels";
    assert_eq!((outcome.log[0].level, outcome.logged().as_str()), (log::Level::Warn, logged));
}

#[test]
fn what_cannot_be_rewritten_goes_no_further() {
    let no_value = "`rules[0]`: there is no text or number for {payload.c}";
    for (value, payload, why) in [
        ("1", "not JSON", "`rules[0]`: the payload is not a JSON object"),
        ("1", "[1]", "`rules[0]`: the payload is not a JSON object"),
        ("1", r#"{"a":1}"#, "`rules[0]`: `a.b` leads through something that is not an object"),
        (r#""{payload.c}!""#, r#"{"a":{"b":1}}"#, no_value),
        (r#""{payload.c}!""#, r#"{"c":{}}"#, no_value),
    ] {
        let mut kit = kit(&format!(r#"[[rules]] rewrite = {{ "a.b" = {value} }}; [[rules]] allow = true"#));
        let outcome = kit.connection("c1").raw(payload);
        assert_eq!(outcome.verdict, Verdict::deny(107, UNROUTABLE), "{payload}");
        assert_eq!(outcome.logged(), why);
    }
}

#[test]
fn a_rewritten_message_that_is_permitted_or_routed_is_published_as_it_is_now() {
    let mut kit = kit(r#"
        [[rules]] rewrite = { from = "{user}" }
        [[rules]] channel = "chat:*"; allow = true
        [[rules]] fan_out = ["a", "b"]
    "#);
    let allowed = publish(&mut kit, "chat:1", &json!({}));
    assert_eq!(allowed.verdict, Verdict::allow());
    assert_eq!(changed(&allowed), json!({"from": "42"}));
    let routed = publish(&mut kit, "news", &json!({}));
    assert_eq!(routed.verdict, Verdict::route(["a", "b"]));
    assert_eq!(changed(&routed), json!({"from": "42"}));
}

#[test]
fn a_gateway_that_refuses_the_new_payload_is_an_internal_error() {
    let mut kit = kit(r#"[[rules]] rewrite = { a = 1 }; [[rules]] allow = true"#);
    kit.effects_max(0);
    let outcome = publish(&mut kit, "news", &json!({}));
    assert_eq!(outcome.verdict, Verdict::deny(100, "internal server error"));
    assert_eq!(outcome.logged(), "a rewritten payload: more than 0 effects in one call (effects_max)");
}

// ---- Addresses ----

/// The kit panics on an invalid address, so this is also the proof that none gets out.
#[test]
fn what_makes_no_address_is_refused_and_logged_without_the_value() {
    let long = "x".repeat(256);
    let no_value = "there is no text or number for {payload.to}";
    for (template, to, why) in [
        ("#{payload.to}", json!(null), no_value),
        ("#{payload.to}", json!({}), no_value),
        ("#{payload.to}", json!([1]), no_value),
        ("#{payload.to}", json!(""), no_value),
        ("a:{payload.to}", json!(""), no_value),
        ("#{payload.to}", json!("a\n"), "`#{payload.to}` does not make a valid address"),
        ("a:{payload.to}", json!("a b"), "`a:{payload.to}` does not make a valid address"),
        ("a:{payload.to}", json!("*"), "`a:{payload.to}` does not make a valid address"),
        ("a:{payload.to}", json!("{user}"), "`a:{payload.to}` does not make a valid address"),
        ("a:{payload.to}", json!("ü"), "`a:{payload.to}` does not make a valid address"),
        ("#{payload.to}", json!(long), "`#{payload.to}` does not make a valid address"),
        ("{payload.to}", json!("#7"), "`{payload.to}` does not make a valid address"),
        ("{payload.to}", json!("@c2"), "`{payload.to}` does not make a valid address"),
    ] {
        let mut kit = kit(&format!("[[rules]] fan_out = [\"news\", \"{template}\"]"));
        let outcome = publish(&mut kit, "news", &json!({"to": to}));
        assert_eq!(outcome.verdict, Verdict::deny(107, UNROUTABLE), "{template} {to}");
        assert_eq!(outcome.logged(), format!("`rules[0]`: {why}"));
        assert_eq!(outcome.effects, []);
    }
}

#[test]
fn whoever_may_be_a_user_is_reached() {
    for user in ["7", "jane doe", "Zürich", "a*b", "{user}", "#7", "auth0|abc"] {
        let mut kit = kit("[[rules]] direct = \"#{payload.to}\"");
        let outcome = publish(&mut kit, "news", &json!({"to": user}));
        assert_eq!(outcome.verdict, Verdict::Route(vec![format!("#{user}")]));
    }
}

#[test]
fn a_star_means_channels_or_any_user() {
    let mut kit = kit("[[rules]] channel = \"*\"\nallow = true\n[[rules]] user = \"*\"\ndrop = true");
    let mut ask = |user: &str, channel: &str| {
        kit.connection("c1").user(user).message(Kind::Publish).channel(channel).json(&1).send().verdict
    };
    assert_eq!(ask("7", "news"), Verdict::allow());
    assert_eq!(ask("", "#7"), Verdict::next());
    for user in ["7", "#7", "@7"] {
        assert_eq!(ask(user, "#7"), Verdict::drop());
    }
}

#[test]
fn every_payload_makes_valid_addresses_or_none() {
    let mut kit = kit(
        r##"[[rules]] fan_out = ["{payload.a}", "x{payload.a}", "#{payload.a}", "{channel}{payload.a}"]"##,
    );
    let mut routed = 0;
    for byte in 0..=255_u8 {
        for text in
            [char::from(byte).to_string(), format!("a{}", char::from(byte)), format!("{}a", char::from(byte))]
        {
            let outcome = publish(&mut kit, "news", &json!({"a": text}));
            match outcome.verdict {
                Verdict::Route(addresses) => {
                    assert!(addresses.iter().all(|name| address::is_valid(name)), "{text:?}");
                    routed += 1;
                }
                verdict => {
                    assert_eq!(verdict, Verdict::deny(107, UNROUTABLE), "{text:?}");
                    assert_eq!(outcome.log.len(), 1, "{text:?}");
                }
            }
        }
    }
    // 94 visible characters; `"`, `\`, `*`, `{`, `}` never, `#` and `@` not at the front.
    assert_eq!(routed, 89 * 3 - 2 * 2);
}

#[test]
fn an_anonymous_client_has_no_address_by_its_user() {
    let mut kit = kit(r##"[[rules]] direct = "#{user}""##);
    let outcome = kit.connection("c1").message(Kind::Publish).channel("news").json("x").send();
    assert_eq!(outcome.verdict, Verdict::deny(107, UNROUTABLE));
    assert_eq!(outcome.logged(), "`rules[0]`: there is no text or number for {user}");
}

// ---- Interests ----

#[test]
fn the_gateway_is_asked_for_no_more_than_the_rules_use() {
    for (rules, kinds, channels, payload) in [
        ("[[rules]] drop = true", None, None, false),
        (
            r#"[[rules]] kind = "publish"; channel = "a"; allow = true"#,
            Some(vec![Kind::Publish]),
            Some(vec!["a"]),
            false,
        ),
        (
            r#"[[rules]] kind = ["publish", "rpc"]; channel = "a"; drop = true
               [[rules]] kind = "rpc"; channel = ["b:*", "a"]; drop = true"#,
            Some(vec![Kind::Publish, Kind::Rpc]),
            Some(vec!["a", "b:*"]),
            false,
        ),
        (r#"[[rules]] kind = "raw"; drop = true; [[rules]] allow = true"#, None, None, false),
        (
            r#"[[rules]] kind = "raw"; field = "a"; equals = 1; drop = true"#,
            Some(vec![Kind::Raw]),
            None,
            true,
        ),
        (r#"[[rules]] kind = "raw"; fan_out = ["logs:{user}"]"#, Some(vec![Kind::Raw]), None, false),
        (r#"[[rules]] kind = "raw"; fan_out = ["logs:{payload.a}"]"#, Some(vec![Kind::Raw]), None, true),
        (r#"[[rules]] kind = "raw"; reply = { a = ["{user}"] }"#, Some(vec![Kind::Raw]), None, false),
        (r#"[[rules]] kind = "raw"; reply = { a = ["{payload.a}"] }"#, Some(vec![Kind::Raw]), None, true),
        (r#"[[rules]] kind = "raw"; rewrite = { a = 1 }"#, Some(vec![Kind::Raw]), None, true),
        (r#"[[rules]] reply = 1"#, Some(vec![Kind::Rpc, Kind::Raw]), None, false),
        (
            r#"[[rules]] direct = "@{connection}""#,
            Some(vec![Kind::Publish, Kind::Rpc, Kind::Send, Kind::Raw]),
            None,
            false,
        ),
    ] {
        let kit = kit(rules);
        let asked = kit.interests();
        assert_eq!(asked.asked_kinds(), kinds.as_deref(), "{rules}");
        let patterns: Option<Vec<&str>> =
            asked.asked_channels().map(|p| p.iter().map(String::as_str).collect());
        assert_eq!(patterns, channels, "{rules}");
        assert_eq!(asked.wants_payload(), payload, "{rules}");
    }
}

#[test]
fn a_table_with_many_channels_sees_all_of_them() {
    let rules = |count: usize| -> String {
        (0..count).map(|n| format!("[[rules]] channel = \"c{n}\"; allow = true\n")).collect()
    };
    assert_eq!(kit(&rules(64)).interests().asked_channels().map(<[_]>::len), Some(64));
    let mut many = kit(&rules(65));
    assert_eq!(many.interests().asked_channels(), None);
    assert_eq!(publish(&mut many, "c64", &json!({})).verdict, Verdict::allow());
}

#[test]
fn a_rule_without_a_kind_leaves_alone_what_its_action_is_not_for() {
    let mut kit = kit(r#"[[rules]] fan_out = ["logs"]; [[rules]] allow = true"#);
    let subscribe = kit.connection("c1").message(Kind::Subscribe).channel("news").send();
    assert_eq!(subscribe.verdict, Verdict::allow());
    assert_eq!(publish(&mut kit, "news", &json!(1)).verdict, Verdict::route(["logs"]));
}

// ---- Settings ----

#[test]
fn every_error_is_reported_with_its_key_and_what_would_be_accepted() {
    #[track_caller]
    fn check(rules: &str, expected: &str) {
        assert_eq!(Kit::<Router>::new(config(rules)).expect_err(rules), expected);
    }
    check("", "`rules` is missing or empty: a [[config.rules]] table is one rule");
    check("rules = []", "`rules` is missing or empty: a [[config.rules]] table is one rule");
    check("rules = 7", "`rules` is 7; accepted: a list of tables: [[config.rules]]");
    check("rules = [1]", "`rules[0]` is 1; accepted: a table");
    check("rule = 1; [[rules]] drop = true", "`rule` is not a known key; the nearest is `rules`");
    check(
        "[[rules]] colour = 1; drop = true",
        "`rules[0].colour` is not a known key; accepted: kind, channel, user, authenticated, field, equals, allow, \
         deny, drop, rewrite, fan_out, direct, reply",
    );
    check(
        r#"
        [[rules]] kind = "publsh"; chanel = "a"; allow = true
        [[rules]] channel = "a b"
        [[rules]] allow = true; drop = true; user = 7
        "#,
        "6 errors: \
         `rules[0].kind` has \"publsh\"; accepted: publish, subscribe, unsubscribe, rpc, send, presence, \
         presence-stats, history, raw, sub-refresh; \
         `rules[0].chanel` is not a known key; the nearest is `channel`; \
         `rules[1].channel` has \"a b\"; accepted: channel names, with or without a last `*`; \
         `rules[1]` has no action; one of: allow, deny, drop, rewrite, fan_out, direct, reply; \
         `rules[2].user` is 7; accepted: a user id, with or without a last `*`; \
         `rules[2]` has 2 actions (allow, drop); exactly one is needed",
    );
    for (rule, expected) in [
        ("kind = []; drop = true", "kind` is an empty list; accepted: a text or a list of texts"),
        ("authenticated = 1; drop = true", "authenticated` is 1; accepted: true or false"),
        (
            r#"user = "a"; authenticated = false; drop = true"#,
            "user` never matches with `authenticated = false`",
        ),
        (r#"field = "a"; drop = true"#, "field` and `equals` go together"),
        ("equals = 1; drop = true", "field` and `equals` go together"),
        (
            r#"field = "a..b"; equals = 1; drop = true"#,
            "field` is \"a..b\"; accepted: a path such as \"a.b\"",
        ),
        ("allow = false", "allow` is true or left out"),
        ("deny = 103", "deny` is a table: { code = 103, reason = \"read only\" }"),
        (
            r#"deny = { code = 99, reason = "x" }"#,
            "deny` needs a code (100-1999 for an error reply, 3000-4999 to close) and a reason",
        ),
        (r#"deny = { code = 103, why = "x" }"#, "deny` has the unknown key `why`; accepted: code, reason"),
        ("rewrite = {}", "rewrite` is a table of fields and values: { \"from.user\" = \"{user}\" }"),
        (r#"rewrite = { "a." = 1 }"#, "rewrite` has \"a.\", which is no path such as \"a.b\""),
        (r#"rewrite = { "a" = 1, "a.b" = 2 }"#, "rewrite` sets both `a` and `a.b`"),
        (
            r#"rewrite = { a = "{usr}" }"#,
            "rewrite` has the unknown placeholder {usr}; accepted: {user}, {channel}, {method}, {connection}, \
             {payload.FIELD}",
        ),
        ("fan_out = []", "fan_out` has 0 addresses; 1 to 64 are accepted"),
        (r#"fan_out = ["a b"]"#, "fan_out` has \"a b\", which never makes a valid address"),
        (r#"fan_out = ["a{user"]"#, "fan_out` has `a{user` with a lone `{`; write `{{` for a brace"),
        (r#"fan_out = ["a{{user}}"]"#, "fan_out` has \"a{{user}}\", which never makes a valid address"),
        (
            r#"direct = "{user}""#,
            "direct` has \"{user}\", which begins with neither # (a user) nor @ (a connection)",
        ),
        ("direct = 7", "direct` is an address that begins with # or @: \"#{payload.to}\""),
        (
            r#"kind = "subscribe"; fan_out = ["a"]"#,
            "kind` has `subscribe`, to which fan_out and direct cannot be done; possible: publish, rpc, send, raw",
        ),
        (
            r#"kind = "publish"; reply = 1"#,
            "kind` has `publish`, to which reply cannot be done; possible: rpc, raw",
        ),
    ] {
        check(&format!("[[rules]] {rule}"), &format!("`rules[0].{expected}"));
    }
}

#[test]
fn the_table_of_the_readme_does_what_it_says() {
    let readme = include_str!("../README.md");
    let table =
        readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a TOML block");
    let settings: Value = toml::from_str(table).expect("TOML");
    let mut kit = Kit::<Router>::new(&settings["config"]).expect("good rules");

    let chat = publish(&mut kit, "chat:1", &json!({"text": "hello"}));
    assert_eq!(chat.verdict, Verdict::allow());
    assert_eq!(changed(&chat), json!({"from": "42", "text": "hello"}));
    let direct = publish(&mut kit, "dm", &json!({"to": "7", "text": "hi"}));
    assert_eq!(direct.verdict, Verdict::route(["#7"]));
    let subscribe = kit.connection("c1").user("42").message(Kind::Subscribe).channel("chat:1").send();
    assert_eq!(subscribe.verdict, Verdict::allow());
    let anonymous = kit.connection("c2").message(Kind::Publish).channel("chat:1").json("x").send();
    assert_eq!(anonymous.verdict, Verdict::deny(101, "sign in to chat"));
}
