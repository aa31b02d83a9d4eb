//! The rules of a settings file, tested with the kit of the SDK.

use gateway_plugin_sdk::kit::{Kit, Outcome};

use super::*;

fn kit_with(settings: &Value) -> Kit<Schema> {
    Kit::new(settings).expect("good settings")
}

fn chat() -> Value {
    json!({
        "type": "object",
        "required": ["text"],
        "additionalProperties": false,
        "properties": {
            "text": {"type": "string", "minLength": 1, "maxLength": 20, "pattern": "^[^<>]*$"},
            "age": {"type": "integer", "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
            "mail": {"type": "string", "format": "email"},
        },
    })
}

fn kit() -> Kit<Schema> {
    kit_with(&json!({"schemas": [{"channels": ["chat:*"], "schema": chat()}]}))
}

#[test]
fn the_self_test_holds() -> Result<(), String> {
    Kit::<Schema>::self_test()
}

fn publish(kit: &mut Kit<Schema>, payload: &str) -> Outcome<Verdict> {
    kit.connection("c1").message(Kind::Publish).channel("chat:1").payload(payload).send()
}

#[test]
fn a_valid_payload_is_left_to_the_others() {
    for payload in
        [r#"{"text":"hi"}"#, r#"{"text":"hi","age":150,"tags":["a","b","a"],"mail":"a@shop.example"}"#]
    {
        let outcome = publish(&mut kit(), payload);
        assert_eq!(outcome.verdict, Verdict::next(), "{payload}");
        assert_eq!(outcome.logged(), "");
    }
}

#[test]
fn an_invalid_payload_is_refused_with_the_place_and_the_rule() {
    for (payload, why) in [
        (r#"{}"#, r#"it breaks "required": ["text"]"#),
        (r#"[]"#, r#"it breaks "type": "object""#),
        (r#""x""#, r#"it breaks "type": "object""#),
        (r#"{"text":1}"#, r#"/text breaks "type": "string""#),
        (r#"{"text":""}"#, r#"/text breaks "minLength": 1"#),
        (r#"{"text":"secret secret secret secret"}"#, r#"/text breaks "maxLength": 20"#),
        (r#"{"text":"<b>"}"#, r#"/text breaks "pattern": "^[^<>]*$""#),
        (r#"{"text":"x","age":151}"#, r#"/age breaks "maximum": 150"#),
        (r#"{"text":"x","age":1.5}"#, r#"/age breaks "type": "integer""#),
        (r#"{"text":"x","tags":["a","secret"]}"#, r#"/tags/1 breaks "enum": ["a","b"]"#),
        (r#"{"text":"x","mail":"secret"}"#, r#"/mail breaks "format": "email""#),
        (r#"{"text":"x","secret":1}"#, r#"it breaks "additionalProperties": false"#),
    ] {
        let outcome = publish(&mut kit(), payload);
        assert_eq!(outcome.verdict, Verdict::deny(107, format!("invalid payload: {why}")), "{payload}");
        assert!(
            outcome.logged().ends_with(why) && !outcome.logged().contains("secret"),
            "{}",
            outcome.logged()
        );
        assert_eq!(outcome.log[0].level, log::Level::Debug);
    }
}

#[test]
fn what_is_no_json_is_invalid() {
    let mut kit = kit_with(&json!({"schemas": [{"kinds": ["raw"], "schema": true}]}));
    assert_eq!(kit.connection("c1").raw("{}").verdict, Verdict::next());
    for text in ["hello", "{", "{} {}", "NaN"] {
        assert_eq!(
            kit.connection("c1").raw(text).verdict,
            Verdict::deny(107, "the payload is not JSON"),
            "{text}"
        );
    }
}

#[test]
fn a_command_without_a_payload_is_null() {
    let mut kit = kit_with(&json!({"schemas": [{"kinds": ["subscribe"], "schema": {"type": "object"}}]}));
    let outcome = kit.connection("c1").message(Kind::Subscribe).channel("news").send();
    assert_eq!(outcome.verdict, Verdict::deny(107, r#"invalid payload: it breaks "type": "object""#));
}

#[test]
fn other_channels_and_kinds_do_not_reach_the_plugin() {
    let mut kit = kit();
    for (kind, channel) in [(Kind::Publish, "news"), (Kind::Subscribe, "chat:1"), (Kind::History, "chat:1")] {
        assert!(
            !kit.connection("c1").message(kind).channel(channel).payload("1").send().called,
            "{kind} {channel}"
        );
    }
}

#[test]
fn every_schema_that_is_for_a_message_has_to_hold() {
    let mut kit = kit_with(&json!({"schemas": [
        {"channels": ["chat:*"], "schema": {"type": "object"}},
        {"channels": ["chat:1"], "schema": {"required": ["text"]}},
        {"channels": ["chat:2"], "schema": false},
    ]}));
    assert_eq!(publish(&mut kit, r#"{"text":1}"#).verdict, Verdict::next());
    assert!(matches!(publish(&mut kit, "{}").verdict, Verdict::Deny(_)));
    assert!(matches!(publish(&mut kit, "1").verdict, Verdict::Deny(_)));
    let never = kit.connection("c1").message(Kind::Publish).channel("chat:2").json(&json!({})).send();
    assert_eq!(never.verdict, Verdict::deny(107, "invalid payload: it is not permitted"));
}

#[test]
fn a_schema_may_be_for_some_methods() {
    let mut kit =
        kit_with(&json!({"schemas": [{"kinds": ["rpc"], "methods": ["add"], "schema": {"type": "number"}}]}));
    let mut call =
        |method: &str| kit.connection("c1").message(Kind::Rpc).method(method).json("x").send().verdict;
    assert!(matches!(call("add"), Verdict::Deny(_)));
    assert_eq!(call("addition"), Verdict::next());
    assert_eq!(call(""), Verdict::next());
}

#[test]
fn the_settings_say_what_becomes_of_it() {
    let with = |more: Value| {
        let mut one = json!({"schema": {"type": "object"}});
        one.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        publish(&mut kit_with(&json!({"schemas": [one]})), "1")
    };
    let reason = r#"invalid payload: it breaks "type": "object""#;
    assert_eq!(with(json!({"action": "deny"})).verdict, Verdict::deny(107, reason));
    assert_eq!(with(json!({"action": "drop"})).verdict, Verdict::drop());
    assert_eq!(with(json!({"action": "disconnect"})).verdict, Verdict::disconnect(3501, reason));
    let tried = with(json!({"dry_run": true, "action": "disconnect"}));
    assert_eq!(tried.verdict, Verdict::next());
    assert_eq!(tried.logged(), format!("would refuse a publish to \"chat:1\": {reason}"));
    assert_eq!(tried.log[0].level, log::Level::Info);
    let all = json!({"dry_run": true, "schemas": [{"schema": false}, {"schema": false}]});
    let outcome = publish(&mut kit_with(&all), "1");
    assert_eq!((outcome.verdict, outcome.log.len()), (Verdict::next(), 2));
}

#[test]
fn references_stay_inside_the_schema() {
    let schema = json!({"$ref": "#/$defs/name", "$defs": {"name": {"type": "string"}}});
    let mut kit = kit_with(&json!({"schemas": [{"schema_json": schema.to_string()}]}));
    assert_eq!(publish(&mut kit, "\"x\"").verdict, Verdict::next());
    let outcome = publish(&mut kit, "1");
    assert_eq!(outcome.verdict, Verdict::deny(107, r#"invalid payload: it breaks "type": "string""#));
    for outside in ["https://shop.example/schema.json", "file:///etc/passwd", "other.json"] {
        let error =
            Kit::<Schema>::new(json!({"schemas": [{"schema": {"$ref": outside}}]})).expect_err(outside);
        assert!(error.starts_with("`schemas[0].schema` is no schema"), "{error}");
    }
}

#[test]
fn a_pattern_cannot_take_for_ever() {
    let schema = json!({"type": "string", "pattern": "^(a+)+$"});
    let mut kit = kit_with(&json!({"schemas": [{"schema": schema}]}));
    let payload = format!("\"{}b\"", "a".repeat(50_000));
    assert!(matches!(publish(&mut kit, &payload).verdict, Verdict::Deny(_)));
    let error =
        Kit::<Schema>::new(json!({"schemas": [{"schema": {"pattern": "(?=a)"}}]})).expect_err("look-around");
    assert!(error.starts_with("`schemas[0].schema` is no schema at /pattern: "), "{error}");
}

#[test]
fn a_place_is_named_up_to_a_bound() {
    let mut kit = kit_with(&json!({"schemas": [{"schema": {"additionalProperties": {"type": "string"}}}]}));
    let long = "ü".repeat(5_000);
    let outcome = publish(&mut kit, &json!({long: 1}).to_string());
    let Verdict::Deny(refusal) = outcome.verdict else { panic!("{:?}", outcome.verdict) };
    assert!(refusal.reason.len() < 123, "{}", refusal.reason);
}

#[test]
fn errors_come_all_at_once() {
    #[track_caller]
    fn check(settings: &Value, expected: &str) {
        assert_eq!(Kit::<Schema>::new(settings).expect_err("bad settings"), expected);
    }
    check(&json!({}), "missing field `schemas`");
    check(&json!({"schemas": []}), "`schemas` is empty: write a [[config.schemas]]");
    let kinds =
        "publish, subscribe, unsubscribe, rpc, send, presence, presence-stats, history, raw, sub-refresh";
    check(
        &json!({"schemas": [
            {"channels": ["a b"], "kinds": ["post"], "methods": ["x"], "schema": true},
            {"kinds": [], "schema_json": "{"},
            {},
        ]}),
        &format!(
            "6 errors: `schemas[0].channels` has \"a b\", which is no channel name that may end in `*`; \
             `schemas[0].kinds` has \"post\", which is none of {kinds}; \
             `schemas[0].methods` needs the kind rpc: nothing else has a method; \
             `schemas[1].kinds` is empty: leave it out for publications; \
             `schemas[1].schema_json` is not JSON: EOF while parsing an object at line 1 column 1; \
             `schemas[2].schema` or else `schema_json` is needed, and only one of them"
        ),
    );
    let error =
        Kit::<Schema>::new(json!({"schemas": [{"schema": {"properties": {"a": {"type": "strin"}}}}]}));
    let error = error.expect_err("no type");
    assert!(error.starts_with("`schemas[0].schema` is no schema at /properties/a/type: "), "{error}");
    check(
        &json!({"schemas": [{"schema": {"$schema": "http://json-schema.org/draft-07/schema#"}}]}),
        "`schemas[0].schema` has a `$schema` that is not https://json-schema.org/draft/2020-12/schema",
    );
    let error =
        Kit::<Schema>::new(json!({"schemas": [{"schema": true, "action": "explode"}]})).expect_err("unknown");
    assert!(error.starts_with("`schemas[0].action`: unknown variant `explode`"), "{error}");
}
