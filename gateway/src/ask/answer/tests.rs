//! Each field of each answer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;

const LIMITS: Limits = Limits { json: true, channels_max: 3 };

fn read_as(kind: Kind, limits: Limits, answer: &Value) -> Result<Read, String> {
    read(kind, &answer.to_string().into(), limits)
}

/// The answer to this result, of which nothing is left out.
fn result(kind: Kind, result: Value) -> Answer {
    let read = read_as(kind, LIMITS, &Value::from_iter([("result", result)])).unwrap();
    assert_eq!(read.left_out, [] as [Box<str>; 0]);
    read.answer
}

fn wrong(kind: Kind, result: Value) -> String {
    read_as(kind, LIMITS, &Value::from_iter([("result", result)])).unwrap_err()
}

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

#[test]
fn an_error_and_a_disconnect_come_before_a_result() {
    let error = json!({ "code": 1000, "message": "no", "temporary": true });
    let disconnect = json!({ "code": 4500, "reason": "bye" });
    let all = json!({ "result": {}, "error": error, "disconnect": disconnect });
    for kind in Kind::ALL {
        let read = read_as(kind, LIMITS, &all).unwrap();
        assert_eq!(read.answer, Answer::Disconnect(Close::custom(4500, "bye")));
        let read = read_as(kind, LIMITS, &json!({ "result": {}, "error": error })).unwrap();
        let expected = ReplyError { temporary: true, ..ReplyError::custom(1000, "no") };
        assert_eq!(read.answer, Answer::Error(expected), "{kind:?}");
    }
    let known = read_as(Kind::Rpc, LIMITS, &json!({ "error": { "code": 111 } })).unwrap();
    assert_eq!(known.answer, Answer::Error(ReplyError::TOO_MANY_REQUESTS), "the protocol knows its own");
}

#[test]
fn codes_have_the_ranges_of_plugins() {
    for code in [0, 99, 2000, 3000] {
        assert!(read_as(Kind::Rpc, LIMITS, &json!({ "error": { "code": code } })).is_err(), "{code}");
    }
    for code in [0, 1000, 2999, 5000, 70_000] {
        assert!(read_as(Kind::Rpc, LIMITS, &json!({ "disconnect": { "code": code } })).is_err(), "{code}");
    }
    for answer in [json!({ "error": {} }), json!({ "disconnect": { "reason": "x" } })] {
        assert!(read_as(Kind::Rpc, LIMITS, &answer).is_err(), "{answer}");
    }
}

#[test]
fn what_is_no_answer_permits_nothing() {
    for body in
        ["", "{", "[]", "7", "null", "{}", r#"{"result":null}"#, r#"{"result":[]}"#, "{}{}", "\u{feff}{}"]
    {
        for kind in Kind::ALL {
            assert!(read(kind, &Bytes::copy_from_slice(body.as_bytes()), LIMITS).is_err(), "{body}");
        }
    }
    assert!(read(Kind::Rpc, &Bytes::from_static(b"{\"result\":{\"data\":\"\xff\"}}"), LIMITS).is_err());
    let many: serde_json::Map<_, _> = (0..100).map(|number| (number.to_string(), json!(1))).collect();
    assert_eq!(wrong(Kind::Rpc, many.into()), "`result` has more than 64 fields");
}

#[test]
fn a_client_is_admitted_with_everything_that_the_backend_says_of_it() {
    assert_eq!(result(Kind::Connect, json!({})), Answer::Connected(Box::default()));
    let all = json!({
        "user": "42", "expire_at": 1_700_000_000, "info": { "name": "Ann" }, "data": [1], "meta": { "a": 1 },
        "channels": ["news"],
        "subs": { "chat:1": {
            "expire_at": 7, "b64info": STANDARD.encode("{\"i\":\n1}"), "data": "hello",
            "override": {
                "presence": { "value": false }, "join_leave": { "value": true },
                "force_push_join_leave": { "value": true }, "force_recovery": { "value": false },
                "force_positioning": {},
            },
        } },
    });
    let options = Subscribed {
        info: Bytes::from_static(b"{\"i\":1}"),
        data: Bytes::from_static(b"\"hello\""),
        expires_at: Some(7),
        overrides: Overrides {
            presence: Some(false),
            join_leave: Some(true),
            push_join_leave: Some(true),
            recovery: Some(false),
            positioning: Some(false),
        },
    };
    let expected = Connected {
        user: "42".into(),
        expires_at: Some(1_700_000_000),
        info: Bytes::from_static(b"{\"name\":\"Ann\"}"),
        data: Bytes::from_static(b"[1]"),
        channels: vec![(channel("chat:1"), options), (channel("news"), Subscribed::default())],
        meta: Bytes::from_static(b"{\"a\":1}"),
    };
    assert_eq!(result(Kind::Connect, all), Answer::Connected(Box::new(expected)));
}

#[test]
fn a_client_is_not_admitted_by_what_nothing_could_reach_or_nobody_could_hold() {
    for (bad, word) in [
        (json!({ "user": "a\nb" }), "user"),
        (json!({ "user": 42 }), "user"),
        (json!({ "info": "x".repeat(MEMBER_BYTES_MAX) }), "info"),
        (json!({ "meta": "x".repeat(META_BYTES_MAX) }), "meta"),
        (json!({ "b64data": "?" }), "b64data"),
        (json!({ "b64data": STANDARD.encode("no JSON") }), "b64data"),
        (json!({ "expire_at": -1 }), "expire_at"),
        (json!({ "channels": ["a b"] }), "channels"),
        (json!({ "channels": ["a", "b", "c", "d"] }), "channels_per_connection_max"),
        (json!({ "subs": { "a": {}, "b": {}, "c": {}, "d": {} } }), "subs"),
        (json!({ "subs": { "a": { "override": { "presence": true } } } }), "presence"),
        (json!({ "subs": { "a": { "server_tags_filter": { "op": "x" } } } }), "server_tags_filter"),
    ] {
        let why = wrong(Kind::Connect, bad.clone());
        assert!(why.contains(word), "{bad}: {why}");
    }
    let secret = wrong(Kind::Connect, json!({ "channels": ["secret user"] }));
    assert!(!secret.contains("secret user"), "{secret}");
}

#[test]
fn a_refresh_says_how_long() {
    let until = Refreshed { expires_at: Some(9), ..Refreshed::default() };
    for kind in [Kind::Refresh, Kind::SubRefresh] {
        assert_eq!(result(kind, json!({})), Answer::Refreshed(Refreshed::default()));
        assert_eq!(result(kind, json!({ "expire_at": 9 })), Answer::Refreshed(until.clone()));
        let expired = Refreshed { expired: true, ..Refreshed::default() };
        assert_eq!(result(kind, json!({ "expired": true })), Answer::Refreshed(expired));
    }
    let meta = Refreshed { meta: Bytes::from_static(b"2"), ..until };
    assert_eq!(result(Kind::Refresh, json!({ "expire_at": 9, "meta": 2 })), Answer::Refreshed(meta));
}

#[test]
fn a_publication_may_be_replaced() {
    assert_eq!(result(Kind::Publish, json!({})), Answer::Published(Published::default()));
    let replaced = Published { data: Some(Bytes::from_static(b"{\"a\":1}")), skip_history: true };
    let answer = result(Kind::Publish, json!({ "data": { "a": 1 }, "skip_history": true }));
    assert_eq!(answer, Answer::Published(replaced));
    for field in ["idempotency_key", "version_epoch"] {
        assert!(wrong(Kind::Publish, json!({ field: "x" })).contains(field));
    }
    assert!(wrong(Kind::Publish, json!({ "version": 1 })).contains("version"));
}

#[test]
fn a_payload_for_a_client_of_json_is_json_on_one_line() {
    for kind in [Kind::Rpc, Kind::Send, Kind::Message] {
        assert_eq!(result(kind, json!({})), Answer::Replied(None));
        assert_eq!(result(kind, json!({ "data": 7 })), Answer::Replied(Some(Bytes::from_static(b"7"))));
        let body = Bytes::from_static(b"{\"result\": {\"data\": {\n\"a\":\n1}}}");
        let read = read(kind, &body, LIMITS).unwrap();
        assert_eq!(read.answer, Answer::Replied(Some(Bytes::from_static(b"{\"a\":1}"))));
        assert!(wrong(kind, json!({ "b64data": STANDARD.encode(b"\xff") })).contains("b64data"));
        let any = Limits { json: false, ..LIMITS };
        let bytes =
            read_as(kind, any, &json!({ "result": { "b64data": STANDARD.encode(b"\xff") } })).unwrap();
        assert_eq!(bytes.answer, Answer::Replied(Some(Bytes::from_static(b"\xff"))));
    }
}

#[test]
fn a_payload_is_not_copied_and_does_not_keep_a_large_answer() {
    let large = Bytes::from(format!("{{\"result\":{{\"data\":\"{}\"}}}}", "x".repeat(1000)));
    let Answer::Replied(Some(data)) = read(Kind::Rpc, &large, LIMITS).unwrap().answer else { panic!() };
    assert!(large.as_ptr_range().contains(&data.as_ptr()));
    let small = Bytes::from(format!("{{\"result\":{{\"data\":7,\"more\":\"{}\"}}}}", "x".repeat(1000)));
    let Answer::Replied(Some(data)) = read(Kind::Rpc, &small, LIMITS).unwrap().answer else { panic!() };
    assert!(!small.as_ptr_range().contains(&data.as_ptr()));
}

#[test]
fn what_is_left_out_is_named_unless_it_says_nothing() {
    let answer = json!({
        "more": 1,
        "result": { "caps": [{ "channels": ["a"] }], "labels": {}, "info": null, "channels": [], "new": 0 },
    });
    let read = read_as(Kind::Connect, LIMITS, &answer).unwrap();
    assert_eq!(read.left_out, ["caps".into(), Box::<str>::from("more")]);
    let tags = read_as(Kind::Publish, LIMITS, &json!({ "result": { "tags": { "a": "b" } } })).unwrap();
    assert_eq!(tags.left_out, ["tags".into()] as [Box<str>; 1]);
}
