//! Commands in JSON: those that are valid, and those that are not.

use super::*;
use crate::protocol::channel::Channel;
use crate::protocol::command::{Position, Request};
use crate::protocol::tags::Tags;

fn commands(text: &str) -> Result<Vec<Command>, Malformed> {
    let mut message = Bytes::copy_from_slice(text.as_bytes());
    std::iter::from_fn(|| next_command(&mut message)).collect()
}

fn request(text: &str) -> Request {
    commands(text).expect("valid").remove(0).request
}

#[test]
fn one_message_carries_several_commands() {
    let all = commands("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"news\"}}\n\n{}\n")
        .expect("valid");
    assert_eq!(all.iter().map(|command| command.id).collect::<Vec<_>>(), [1, 2, 0]);
    assert_eq!(all[2].request, Request::Pong);
}

#[test]
fn payloads_are_slices_of_the_message() {
    let message = Bytes::from_static(br#"{"id":1,"publish":{"channel":"a","data":{"x":[1, 2]}}}"#);
    let seen = next_command(&mut message.clone()).expect("one").expect("valid").request;
    let Request::Publish { data, .. } = seen else { panic!("{seen:?}") };
    assert_eq!(&data[..], br#"{"x":[1, 2]}"#);
    let range = message.as_ptr_range();
    assert!(range.contains(&data.as_ptr()));
}

#[test]
fn a_connect_tells_where_the_client_stands() {
    let Request::Connect(connect) = request(
        r#"{"id":1,"connect":{"token":"t","name":"js","subs":{"a":{"recover":true,"epoch":"e","offset":7},"b":{}}}}"#,
    ) else {
        panic!()
    };
    assert_eq!(&*connect.token, "t");
    let position = Position { offset: 7, epoch: "e".into() };
    assert_eq!(connect.positions, [(Channel::parse("a").expect("valid"), position)]);
}

#[test]
fn a_subscribe_asks_for_what_was_missed_only_with_recover() {
    let Request::Subscribe(subscribe) = request(
        r#"{"id":1,"subscribe":{"channel":"a","token":"t","recover":true,"offset":3,"epoch":"x","flag":3}}"#,
    ) else {
        panic!()
    };
    assert_eq!(subscribe.recover, Some(Position { offset: 3, epoch: "x".into() }));
    assert!(subscribe.reject_unrecovered);
    assert_eq!(&*subscribe.token, "t");
    let Request::Subscribe(subscribe) = request(r#"{"id":1,"subscribe":{"channel":"a","offset":3}}"#) else {
        panic!()
    };
    assert_eq!(subscribe.recover, None);
}

#[test]
fn a_client_says_where_it_applies_deltas_and_of_which_format() {
    for (delta, asks) in [("null", false), (r#""""#, false), (r#""fossil""#, true), (r#""x""#, false)] {
        let text = format!(r#"{{"id":1,"subscribe":{{"channel":"a","delta":{delta}}}}}"#);
        let Request::Subscribe(subscribe) = request(&text) else { panic!("{text}") };
        assert_eq!(subscribe.delta, asks, "{text}");
    }
    let Request::Connect(connect) = request(
        r#"{"id":1,"connect":{"subs":{"b":{"delta":"fossil"},"a":{"recover":true,"delta":"fossil"},"c":{"delta":"x"},"d":{}}}}"#,
    ) else {
        panic!()
    };
    let channels = ["a", "b"].map(|name| Channel::parse(name).expect("valid"));
    assert_eq!((connect.positions.len(), &connect.deltas[..]), (1, &channels[..]));
    assert_eq!(commands(r#"{"id":1,"subscribe":{"channel":"a","delta":5}}"#), Err(Malformed::Syntax));
}

#[test]
fn many_positions_cost_at_most_sixteen_times_their_message() {
    for sub in ["{}", "null", r#"{"recover":true,"epoch":"e"}"#] {
        let subs: Vec<_> = (0..4000).map(|number| format!(r#""{number:x}":{sub}"#)).collect();
        let text = format!(r#"{{"id":1,"connect":{{"subs":{{{}}}}}}}"#, subs.join(","));
        let mut message = Bytes::from(text);
        let (bytes, mut next) = (message.len() as u64, None);
        let used = allocation_counter::measure(|| next = next_command(&mut message));
        assert!(matches!(next, Some(Ok(_))), "{sub}");
        assert!(used.bytes_max <= 16 * bytes, "{} bytes for {bytes}: {sub}", used.bytes_max);
    }
    assert_eq!(commands(r#"{"id":1,"connect":{"subs":{"a":5}}}"#), Err(Malformed::Syntax));
}

#[test]
fn null_is_what_is_left_out() {
    for (with_null, without) in [
        ("null", "{}"),
        (r#"{"id":null}"#, "{}"),
        (r#"{"id":1,"connect":null,"rpc":{}}"#, r#"{"id":1,"rpc":{}}"#),
        (
            r#"{"id":1,"connect":{"token":null,"data":null,"subs":null,"name":null,"version":null,"headers":null,
            "flag":null,"dict":null,"profile":null}}"#,
            r#"{"id":1,"connect":{}}"#,
        ),
        (r#"{"id":1,"connect":{"subs":{"a":null,"b":{"recover":null}}}}"#, r#"{"id":1,"connect":{}}"#),
        (
            r#"{"id":1,"connect":{"subs":{"a":{"recover":true,"epoch":null,"offset":null}}}}"#,
            r#"{"id":1,"connect":{"subs":{"a":{"recover":true}}}}"#,
        ),
        (
            r#"{"id":1,"subscribe":{"channel":"a","token":null,"recover":null,"epoch":null,"offset":null,"data":null,
            "positioned":null,"recoverable":null,"join_leave":null,"delta":null,"tf":null,"flag":null,"type":null,
            "phase":null,"cursor":null,"limit":null,"asc":null}}"#,
            r#"{"id":1,"subscribe":{"channel":"a"}}"#,
        ),
        (r#"{"id":1,"subscribe":{"channel":null}}"#, r#"{"id":1,"subscribe":{}}"#),
        (r#"{"id":1,"unsubscribe":{"channel":null}}"#, r#"{"id":1,"unsubscribe":{}}"#),
        (
            r#"{"id":1,"publish":{"channel":"a","data":null,"type":null,"key":null,"removed":null}}"#,
            r#"{"id":1,"publish":{"channel":"a"}}"#,
        ),
        (r#"{"id":1,"presence":{"channel":null}}"#, r#"{"id":1,"presence":{}}"#),
        (r#"{"id":1,"presence_stats":{"channel":null}}"#, r#"{"id":1,"presence_stats":{}}"#),
        (
            r#"{"id":1,"history":{"channel":"a","limit":null,"since":null,"reverse":null}}"#,
            r#"{"id":1,"history":{"channel":"a"}}"#,
        ),
        (
            r#"{"id":1,"history":{"channel":"a","since":{"offset":null,"epoch":null}}}"#,
            r#"{"id":1,"history":{"channel":"a","since":{}}}"#,
        ),
        (r#"{"id":1,"rpc":{"method":null,"data":null}}"#, r#"{"id":1,"rpc":{}}"#),
        (r#"{"send":{"data":null}}"#, r#"{"send":{}}"#),
        (r#"{"id":1,"refresh":{"token":null}}"#, r#"{"id":1,"refresh":{}}"#),
        (
            r#"{"id":1,"sub_refresh":{"channel":"a","token":null,"type":null,"track":null,"untrack":null}}"#,
            r#"{"id":1,"sub_refresh":{"channel":"a"}}"#,
        ),
        (r#"{"id":1,"ping":null,"sub_refresh":null,"rpc":{}}"#, r#"{"id":1,"rpc":{}}"#),
    ] {
        let with_null = with_null.replace('\n', "");
        assert_eq!(commands(&with_null), commands(without), "{with_null}");
    }
}

#[track_caller]
fn refused(text: &str) -> (bool, u32, String) {
    let Request::Refused { connect, why } = request(text) else { panic!("{text} is not refused") };
    (connect, why.code, why.message.into_owned())
}

#[test]
fn a_filter_is_read_and_a_wrong_one_is_refused_with_the_reason() {
    let filter = |tf: &str| request(&format!(r#"{{"id":1,"subscribe":{{"channel":"a","tf":{tf}}}}}"#));
    for tf in [
        r#"{"key":"a","cmp":"eq","val":"b"}"#,
        r#"{"op":null,"key":"a","cmp":"eq","val":"b","vals":null,"nodes":[],"of_tomorrow":[1]}"#,
        r#"{"op":"not","nodes":[{"key":"a","cmp":"neq","val":"\u0062"}]}"#,
    ] {
        let Request::Subscribe(subscribe) = filter(tf) else { panic!("{tf}") };
        let wants = |value: &str| {
            let tags = Tags::of(vec![("a".into(), value.into())]);
            subscribe.filter.as_ref().expect("a filter").wants(tags.as_deref())
        };
        assert_eq!((wants("b"), wants("c")), (true, false), "{tf}");
    }
    let large = format!(r#"{{"key":"a","cmp":"eq","val":"{}"}}"#, "x".repeat(4096));
    for (tf, why) in [
        ("5", "has a node with a field of a wrong type"),
        (r#"[""]"#, "has a node with a field of a wrong type"),
        (r#"{"op":5}"#, "has a node with a field of a wrong type"),
        (r#"{"op":"and","nodes":[null]}"#, "has a node with a field of a wrong type"),
        (r#"{"op":"and","nodes":{}}"#, "has a node with a field of a wrong type"),
        (r#"{"key":"a"}"#, InvalidFilter::Comparison.to_string().as_str()),
        (&large, "has more than 4096 bytes"),
    ] {
        let Request::Refused { connect: false, why: error } = filter(tf) else { panic!("{tf}") };
        assert_eq!((error.code, &*error.message), (107, format!("`tf` of `subscribe` {why}").as_str()));
    }
    let Request::Subscribe(subscribe) = filter("{}") else { panic!("an empty filter counts as absent") };
    assert_eq!(subscribe.filter, None);
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    for (command, field) in [
        ("connect", r#""headers":{"a":"b"}"#),
        ("subscribe", r#""type":1"#),
        ("subscribe", r#""phase":2"#),
        ("subscribe", r#""cursor":"x""#),
        ("subscribe", r#""limit":10"#),
        ("subscribe", r#""asc":true"#),
        ("publish", r#""type":1"#),
        ("publish", r#""key":"k""#),
        ("publish", r#""removed":true"#),
        ("sub_refresh", r#""type":1"#),
        ("sub_refresh", r#""track":[{"key":"k"}]"#),
        ("sub_refresh", r#""untrack":["k"]"#),
    ] {
        let name = field.split('"').nth(1).expect("a name");
        let text = format!(r#"{{"id":1,"{command}":{{"channel":"a","data":1,{field}}}}}"#);
        let message = format!("`{name}` of `{command}` is not offered here");
        let code = if name == "type" { 108 } else { 107 };
        assert_eq!(refused(&text), (command == "connect", code, message));
    }
    let text = r#"{"id":1,"connect":{"subs":{"a":{"recover":true,"tf":{"op":"and"}}}}}"#;
    assert_eq!(refused(text), (true, 107, "`tf` of `connect.subs` is not offered here".to_owned()));
    let (connect, code, _) = refused(r#"{"id":1,"ping":{}}"#);
    assert_eq!((connect, code), (false, 108));
}

#[test]
fn offers_notes_and_fields_of_a_later_protocol_are_accepted() {
    for text in [
        r#"{"id":1,"connect":{"name":"js","version":"1","flag":1,"dict":"d","profile":"p","headers":{},"new":1}}"#,
        r#"{"id":1,"subscribe":{"channel":"a","positioned":true,"recoverable":true,"flag":1,"type":0,"asc":false}}"#,
        r#"{"id":1,"subscribe":{"channel":"a","delta":"of_tomorrow"}}"#,
        r#"{"id":1,"publish":{"channel":"a","data":1,"type":0,"key":"","removed":false,"new":[1]}}"#,
        r#"{"id":1,"sub_refresh":{"channel":"a","token":"t","type":0,"track":[],"untrack":[],"new":1}}"#,
        r#"{"id":1,"rpc":{},"new":{}}"#,
    ] {
        assert!(!matches!(request(text), Request::Refused { .. }), "{text}");
    }
}

#[test]
fn payloads_that_receivers_stumble_over_are_refused() {
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    for (data, words) in [(&*deep, "nested deeper than 120 levels"), (r#""\ud800""#, "half of a character")] {
        for command in ["connect", "subscribe", "publish", "rpc"] {
            let (_, code, message) =
                refused(&format!(r#"{{"id":1,"{command}":{{"channel":"a","data":{data}}}}}"#));
            assert_eq!(code, 107, "{command}");
            assert!(message.contains(words), "{message}");
        }
        let closed = commands(&format!(r#"{{"send":{{"data":{data}}}}}"#)).expect_err("closed");
        assert!(closed.to_string().contains(words), "{closed}");
    }
    for text in [r#"{"id":1,"rpc":{"method":"\ud800"}}"#, r#"{"id":1,"subscribe":{"channel":"\udc00"}}"#] {
        assert_eq!(commands(text), Err(Malformed::Syntax), "{text}");
    }
}

#[test]
fn escapes_in_strings_are_understood() {
    let Request::Rpc { method, .. } = request(r#"{"id":1,"rpc":{"method":"a\u0062c"}}"#) else { panic!() };
    assert_eq!(&*method, "abc");
}

#[test]
fn what_is_no_command_is_refused() {
    for (text, why) in [
        ("hello", Malformed::Syntax),
        ("[]", Malformed::Syntax),
        ("{\"id\":-1}", Malformed::Syntax),
        ("{\"id\":4294967296,\"connect\":{}}", Malformed::Syntax),
        ("{\"id\":\"1\",\"connect\":{}}", Malformed::Syntax),
        ("{\"id\":1,\"connect\":[]}", Malformed::Syntax),
        ("{\"id\":1,\"refresh\":[\"t\"]}", Malformed::Syntax),
        ("{\"id\":1,\"history\":{\"channel\":\"a\",\"since\":[1,\"e\"]}}", Malformed::Syntax),
        ("[1]", Malformed::Syntax),
        ("{\"id\":1,\"connect\":{},\"connect\":{}}", Malformed::RepeatedField),
        ("{\"id\":1,\"connect\":{},\"connect\":null}", Malformed::RepeatedField),
        ("{\"id\":1,\"id\":2,\"connect\":{}}", Malformed::RepeatedField),
        ("{\"id\":1,\"subscribe\":{\"channel\":\"a\",\"channel\":\"b\"}}", Malformed::RepeatedField),
        ("{\"id\":1,\"subscribe\":{\"tf\":{\"op\":\"and\"},\"tf\":{}}}", Malformed::RepeatedField),
        ("{\"id\":1,\"connect\":{},\"rpc\":{}}", Malformed::SeveralRequests),
        ("{\"id\":1,\"subscribe\":{},\"unsubscribe\":{}}", Malformed::SeveralRequests),
        ("{\"id\":1,\"history\":{},\"ping\":{}}", Malformed::SeveralRequests),
        ("{\"send\":{\"data\":1},\"publish\":{\"channel\":\"a\",\"data\":1}}", Malformed::SeveralRequests),
        ("{\"id\":1}", Malformed::NoRequest),
        ("{\"id\":1,\"other\":{}}", Malformed::NoRequest),
        ("{\"id\":1,\"connect\":{}} x", Malformed::Syntax),
    ] {
        assert_eq!(commands(text).expect_err(text), why, "{text}");
    }
}
