//! Scripts that can be read, and the errors of those that cannot.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use serde_json::json;

use super::show::{Answer, Effect, Identity, Refusal, outcome};
use super::*;

/// Kinds are numbers, and a channel has no blanks.
fn reader() -> Reader<u32, String> {
    let channel = |name: &str| {
        if name.contains(' ') { Err("a channel has no blanks".to_owned()) } else { Ok(name.to_owned()) }
    };
    Reader { kinds: vec![("publish", 1), ("rpc", 4), ("raw", 9)], channel }
}

fn read(text: &str) -> Script<u32, String> {
    reader().script(text.as_bytes()).unwrap()
}

#[test]
fn lines_and_arrays_are_the_same() {
    let lines = "# a comment\n\n{\"event\":\"connect\"}\n {\"event\":\"timer\",\"instance\":3}\n";
    let mut of_lines = read(lines);
    let mut of_array = read(r#"[{"event":"connect"},{"event":"timer","instance":3}]"#);
    assert_eq!(of_lines.steps.iter().map(|step| &*step.place).collect::<Vec<_>>(), ["line 3", "line 4"]);
    assert_eq!(of_array.steps.iter().map(|step| &*step.place).collect::<Vec<_>>(), ["event 1", "event 2"]);
    for step in of_lines.steps.iter_mut().chain(&mut of_array.steps) {
        step.place = "".into();
    }
    assert_eq!(of_lines, of_array);
    assert_eq!(read(""), Script::default());
}

#[test]
fn an_event_says_who_what_and_when() {
    let script = read(
        r#"{"event": "message", "connection": "a", "user": "42", "kind": "raw", "channel": "news", "base64": "AAE=",
            "after": 5, "headers": {"X-Key": "v"}, "attributes": {"role": "mod"}, "address": "::1"}
        "#
        .replace('\n', " ")
        .as_str(),
    );
    let step = &script.steps[0];
    assert_eq!((step.time.since(10), Time::At(7).since(10)), (15, 7));
    let who = Who {
        user: Some("42".into()),
        attributes: vec![("role".into(), "mod".into())],
        headers: vec![("x-key".into(), "v".into())],
        address: Some("::1".parse().unwrap()),
        protocol: Some(RAW),
    };
    assert_eq!((&*step.connection, &step.who), ("a", &who), "who sends raw messages speaks raw");
    let Event::Message(message) = &step.event else { panic!("{step:?}") };
    assert_eq!((message.kind, message.channel.as_deref(), &*message.payload), (9, Some("news"), &[0, 1][..]));
}

#[test]
fn deliveries_and_timers_have_no_connection() {
    let script = read(
        r#"{"event": "deliver", "channel": "news", "class": "guest", "publisher": {"connection": "c2", "user": "7"}, "text": "hi"}
        {"event": "timer"}"#,
    );
    let (channel, class) = ("news".to_owned(), "guest".into());
    let publisher = Some(("c2".into(), "7".into()));
    let event = Event::Deliver { channel, class, publisher, payload: b"hi".to_vec() };
    assert_eq!(script.steps[0].event, event);
    assert!(script.steps.iter().all(|step| !step.event.has_connection()));
    let errors = reader().script(br#"{"event": "timer", "user": "42"}"#).unwrap_err();
    assert_eq!(errors.to_string(), "line 1: `user` is not a key of a timer event");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let script = r#"
        {"event": "conect"}
        not json
        {"event": "message", "kind": "shout", "channel": "a b"}
        {"event": "message", "kind": "rpc", "payload": 1, "text": "1", "chanel": "news"}
        {"event": "connect", "now": 1, "after": -1, "address": "here", "expect": "allow"}
        {"event": "disconnect", "code": 70000, "expect": {"verdikt": "done"}}
        7
        {"event": "deliver", "publisher": 3, "expect": "deny"}
        {"event": "deliver", "channel": "news", "publisher": {"usr": "42"}}
    "#;
    let errors = reader().script(script.as_bytes()).unwrap_err();
    let errors: Vec<_> = errors.iter().collect();
    let known = "`event` is \"conect\"; expected connect, refresh, message, deliver, disconnect or timer";
    for (place, text) in [
        ("line 2", known),
        ("line 3", "is no JSON on one line"),
        ("line 4", "`channel` is \"a b\": a channel has no blanks"),
        ("line 4", "`kind` is \"shout\"; expected one of publish, rpc, raw"),
        ("line 5", "`text` stands beside `payload`"),
        ("line 5", "`chanel` is not a key of a message event"),
        ("line 6", "`after` is -1; expected a whole number"),
        ("line 6", "`address` is \"here\""),
        ("line 6", "`expect.verdict` is \"allow\"; expected one of pass, accept, refuse"),
        ("line 7", "`code` is 70000"),
        ("line 7", "`expect.verdikt` is not part of an outcome"),
        ("line 8", "is 7; expected an object"),
        ("line 9", "`channel` is missing"),
        ("line 9", "`publisher` is 3; expected an object"),
        ("line 10", "`publisher` has other things than"),
    ] {
        let reported = errors.iter().any(|error| error.starts_with(place) && error.contains(text));
        assert!(reported, "{place}: {text}\n{errors:#?}");
    }
    assert_eq!(errors.len(), 15, "{errors:#?}");
    assert!(reader().script(b"[{]").unwrap_err().to_string().contains("is no JSON array"));
    assert!(reader().script(b"\xff").is_err());
}

#[test]
fn an_outcome_says_everything_and_an_expectation_what_matters() {
    let identity = Identity {
        user: "42",
        expires_at: Some(7),
        info: br#"{"name":"Ann"}"#,
        data: b"",
        channels: vec!["news"],
        attributes: vec![("role", "mod")],
    };
    let effects = [Effect::SetAttribute("seen", "yes"), Effect::Publish("news", b"\xff")];
    let found = outcome(&Answer::Accept(identity), effects, None);
    let all = json!({
        "verdict": "accept", "user": "42", "expires_at": 7, "info": {"name": "Ann"}, "data": null, "channels": ["news"],
        "attributes": {"role": "mod"},
        "effects": [
            {"effect": "set-attribute", "name": "seen", "value": "yes"},
            {"effect": "publish", "address": "news", "base64": "/w=="},
        ],
    });
    assert_eq!(Value::Object(found.clone()), all);
    let step =
        |expect: Value| read(&json!([{"event": "connect", "expect": expect}]).to_string()).steps.remove(0);
    assert_eq!(step(all).unmet(&found), [""; 0]);
    assert_eq!(step(json!("accept")).unmet(&found), [""; 0]);
    assert_eq!(
        step(json!({"user": "43", "code": 1})).unmet(&found),
        ["`code` is not there, expected 1", "`user` is \"42\", expected \"43\""]
    );
}

#[test]
fn payloads_compare_as_bytes_however_they_are_written() {
    let found = outcome(&Answer::Reply(b"[ 1 ]"), [], Some(b"changed"));
    let script = read(
        r#"{"event": "message", "kind": "rpc", "expect": {"text": "[1]", "changed": {"base64": "Y2hhbmdlZA=="}}}"#,
    );
    assert_eq!(script.steps[0].unmet(&found), [""; 0]);
    let refused = outcome(&Answer::Deny(Refusal { code: 103, reason: "no" }), [], None);
    assert_eq!(script.steps[0].unmet(&refused).len(), 2);
}

#[test]
fn a_self_test_is_settings_and_events() {
    let test = reader().self_test(br#"{"settings": {"a": 1}, "events": [{"event": "connect"}]}"#).unwrap();
    assert_eq!((Value::Object(test.settings), test.script.steps.len()), (json!({"a": 1}), 1));
    let many = format!(r#"{{"events":[{}1]}}"#, "1,".repeat(SELF_TEST_EVENTS_MAX));
    let large = format!(r#"{{"events":[],"settings":{{"a":"{}"}}}}"#, "x".repeat(SELF_TEST_BYTES_MAX));
    for (text, why) in [
        ("[]", "it is no JSON object"),
        (r#"{"events":[],"settings":3}"#, "its `settings` are no object"),
        (r#"{"settings":{}}"#, "it has no array `events`"),
        (r#"{"events":[],"evnets":[]}"#, "`evnets` is not a key; known here: settings, events"),
        (r#"{"events":[{"event":"fly"}]}"#, "event 1: "),
        (&many, "it has 257 events; at most 256"),
        (&large, "more than 256 KiB"),
    ] {
        let error = reader().self_test(text.as_bytes()).unwrap_err();
        assert!(error.contains(why), "{why:?} in: {error}");
    }
}

#[test]
fn null_is_left_out_and_may_be_a_payload() {
    let with_null = r#"{"event":"message","kind":"rpc","connection":null,"channel":null,"method":null,"user":null,"now":null,"expect":null,"payload":null}"#;
    let without = r#"{"event":"message","kind":"rpc","payload":null}"#;
    assert_eq!(read(with_null), read(without));
    let Event::Message(message) = &read(without).steps[0].event else { panic!("a message") };
    assert_eq!(&*message.payload, b"null");
}
