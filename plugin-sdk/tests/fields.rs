//! Fields of payloads, beside what a parser says that builds everything.
#![allow(missing_docs, clippy::unwrap_used, reason = "a failing test may panic")]

use gateway_plugin_sdk::fields::{Fields, Found, Path, Slot};
use gateway_plugin_sdk::serde::de::IgnoredAny;
use proptest::prelude::*;
use serde_json::{Value, json};

/// These places, and what `payload` has there.
fn check(payload: &[u8], paths: &[&str]) {
    let paths: Vec<Path> = paths.iter().map(|path| Path::parse(path).unwrap()).collect();
    let mut fields = Fields::default();
    let slots: Vec<Slot> = paths.iter().map(|path| fields.add(path)).collect();
    let picked = fields.find(payload);
    let whole: Option<Value> = serde_json::from_slice(payload).ok();
    if whole.is_none() && serde_json::from_slice::<IgnoredAny>(payload).is_ok() {
        // A number that is too large for a value, or half a character: JSON all the same, and somebody else's
        // business as long as nobody looks at it.
        return;
    }
    for (path, slot) in paths.iter().zip(slots) {
        let expected = whole.as_ref().and_then(|whole| path.within(whole));
        let found = picked.get(slot).cloned().map(Found::into_value);
        assert_eq!(found.as_ref(), expected, "{path} in {}", String::from_utf8_lossy(payload));
    }
}

const PLACES: [&str; 9] = ["a", "a.b", "a.b.1", "x", "0", "1.a", "b.c", "b.d", "deep.er.est"];

#[test]
fn it_finds_what_a_whole_value_has_at_the_place() {
    for payload in [
        r#"{"a":{"b":[0,"x"]},"x":"plain","b":{"c":1.5,"d":null}}"#,
        r#"{"x":"esc\"aped","a":1,"b":[],"deep":{"er":{"est":{"k":[1,{}]}}}}"#,
        r#"{"x":"a text of more than eight bytes, with Ünïcödé and \u00fc and \ud83d\ude00","a":"12345678"}"#,
        r#"[{"a":1},{"a":true}]"#,
        r#"{"b":{"c":1,"d":2},"b":{"d":3}}"#,
        r#"{"a":{"b":[1]},"a":{"c":1}}"#,
        r#"{"\u0061":"the name has an escape","x\n":1}"#,
        r#"{"b":-7,"0":"zero","1":{"a":18446744073709551615}}"#,
        "  {\t\"x\" :\r\n [ 1 , 2 ] , \"a\" : { } }  ",
        r#""text""#,
        "7",
        "null",
        "{}",
        "[]",
    ] {
        check(payload.as_bytes(), &PLACES);
        check(payload.as_bytes(), &["b.c"]);
        check(payload.as_bytes(), &[]);
    }
}

#[test]
fn what_is_not_json_from_beginning_to_end_has_no_fields() {
    for rest in [
        "",
        ",",
        "1",
        r#","b""#,
        r#","b":"#,
        r#","b":}"#,
        r#","b":1,}"#,
        r#","b":1}}"#,
        r#","b":1} {}"#,
        r#","b":01}"#,
        r#","b":-}"#,
        r#","b":1.}"#,
        r#","b":.5}"#,
        r#","b":1e}"#,
        r#","b":+1}"#,
        r#","b":tru}"#,
        r#","b":nul"#,
        r#","b":True}"#,
        r#","b":"}"#,
        r#","b":"\"}"#,
        r#","b":"\x"}"#,
        r#","b":"\u12g4"}"#,
        r#","b":"\u12"#,
        ",\"b\":\"a\nb\"}",
        ",\"b\":\"12345678\u{1}\"}",
        r#","b":[1,]}"#,
        r#","b":[1 2]}"#,
        r#","b":[}"#,
        r#","b" 1}"#,
        r#",b:1}"#,
        r#",1:1}"#,
        r#","b":'x'}"#,
        ",\"b\":\u{a0}1}",
    ] {
        let payload = format!("{{\"x\":1{rest}");
        assert!(serde_json::from_str::<Value>(&payload).is_err(), "{payload}");
        check(payload.as_bytes(), &["x"]);
    }
    check(b"{\"a\":1,\"b\":\"\xff\"}", &["a"]);
    check(b"\xef\xbb\xbf{\"a\":1}", &["a"]);
}

#[test]
fn one_place_has_one_slot() {
    let mut fields = Fields::default();
    let [a, b, c] = ["u.id", "u.id", "u"].map(|path| fields.add(&Path::parse(path).unwrap()));
    assert_eq!(a, b);
    assert_ne!(a, c);
    let picked = fields.find(br#"{"u":{"id":7}}"#);
    assert!(picked.get(a).unwrap().is(&json!(7)));
    assert!(picked.get(c).unwrap().is(&json!({"id": 7})));
}

#[test]
fn a_text_without_escapes_is_not_copied() {
    let mut fields = Fields::default();
    let slot = fields.add(&Path::parse("a").unwrap());
    for (payload, borrowed) in [(r#"{"a":"plain"}"#, true), (r#"{"a":"b\tc"}"#, false)] {
        let picked = fields.find(payload.as_bytes());
        let Some(Found::Text(text)) = picked.get(slot) else { panic!("{payload}") };
        assert_eq!(matches!(text, std::borrow::Cow::Borrowed(_)), borrowed, "{payload}");
    }
}

#[test]
fn it_goes_as_deep_as_the_parser_and_no_deeper() {
    for depth in [1, 126, 127, 128, 129, 100_000] {
        let payload = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let mut fields = Fields::default();
        let slot = fields.add(&Path::parse("a").unwrap());
        let payload = format!("{{\"a\":1,\"b\":{payload}}}");
        let parses = serde_json::from_str::<Value>(&payload).is_ok();
        assert_eq!(fields.find(payload.as_bytes()).get(slot).is_some(), parses, "{depth} levels");
    }
}

/// Any JSON, with names that are looked at among others.
fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("x".to_owned()), ".{0,20}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f32>().prop_map(|number| json!(number)),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_value_has_the_fields_that_the_parser_sees(value in value(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        check(text.as_bytes(), &PLACES);
    }

    /// What a slip of a byte makes of it: both say no, or both say the same.
    #[test]
    fn and_so_it_is_with_a_byte_changed(value in value(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = serde_json::to_vec(&value).unwrap();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        check(&bytes, &PLACES);
    }
}
