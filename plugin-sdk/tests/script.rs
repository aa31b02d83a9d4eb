//! Scripts of events in the kit: the test that a plugin carries, and events of one's own.

use std::time::Duration;

use gateway_plugin_sdk::kit::Kit;
use gateway_plugin_sdk::prelude::*;

#[settings]
struct Settings {
    word: String,
}

/// Admits whoever has a token as its user, and answers with what it knows of the client.
struct Parrot {
    word: String,
}

#[plugin(self_test = "tests/self-test.json")]
impl Plugin for Parrot {
    type Config = Settings;

    fn configure(config: Settings, interests: &mut Interests) -> Result<Self, String> {
        if config.word.is_empty() {
            return Err("`word` is empty".into());
        }
        interests.channels(["news"]).deliver_by("role", ["news"]).timer(Duration::from_secs(60));
        Ok(Self { word: config.word })
    }

    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        match event.token() {
            "" => Connect::refuse(code::TOKEN_EXPIRED, "a token is needed"),
            user => Connect::accept(user).info_json(&event.json::<Value>().ok()),
        }
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        match event.text() {
            Some("\"panic\"") => panic!("as it was asked to"),
            Some("\"bad reply\"") => return Verdict::reply("no JSON"),
            Some("\"change\"") => {
                event.set_payload(b"\"changed\"").expect("it is JSON");
                return Verdict::allow();
            }
            _ => {}
        }
        let seen = event.attribute("seen").unwrap_or("no".into());
        event.set_attribute("seen", "yes").expect("it is one effect");
        let passed = event.now() - 1_700_000_000_000;
        Verdict::reply_json(&json!([self.word, event.user(), event.protocol(), seen, passed]))
    }

    fn on_deliver(&mut self, event: &Outgoing<'_>) -> Delivery {
        Delivery::replace_json(&json!([event.class(), event.user(), event.json::<Value>().ok()]))
    }

    fn on_disconnect(&mut self, event: &Disconnected<'_>) {
        let payload = json!([event.code(), event.duration().as_millis() as u64]);
        event.publish_json("left", &payload).expect("it is one effect");
    }

    fn on_timer(&mut self, event: &Timer) {
        event.publish_json("timers", &json!(event.instance())).expect("it is one effect");
    }
}

/// Carries nothing and sees nothing.
struct Idle;

#[plugin]
impl Plugin for Idle {
    type Config = ();

    fn configure((): (), _: &mut Interests) -> Result<Self, String> {
        Ok(Self)
    }
}

fn parrot() -> Kit<Parrot> {
    Kit::new(json!({"word": "hello"})).expect("good settings")
}

#[test]
fn the_test_that_a_plugin_carries_is_played() -> Result<(), String> {
    Kit::<Parrot>::self_test()
}

#[test]
fn a_plugin_without_one_is_told_how_to_carry_one() {
    let error = Kit::<Idle>::self_test().expect_err("there is none");
    assert!(error.contains("#[plugin(self_test = "), "{error}");
}

#[test]
fn everything_that_is_not_as_expected_is_told_with_its_place() {
    let error = parrot().play(
        r#"
        {"event": "connect", "token": "42", "expect": "refuse"}
        {"event": "message", "kind": "rpc", "expect": {"payload": [], "code": 7}}
        {"event": "message", "kind": "rpc", "payload": "panic"}
        {"event": "message", "kind": "rpc", "expect": "reply"}
        "#,
    );
    let error = error.expect_err("three events are wrong");
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(
        lines,
        [
            r#"line 2 (connect): `verdict` is "accept", expected "refuse""#,
            "line 3 (message): `code` is not there, expected 7",
            r#"line 3 (message): `payload` is ["hello","42","centrifuge-json","no",0], expected []"#,
            "line 4 (message): it failed: trap: as it was asked to",
        ]
    );
}

#[test]
fn events_that_cannot_be_read_are_told() {
    let error = parrot().play(r#"{"event": "message", "kind": "rpc", "channel": "a b"}"#).expect_err("bad");
    assert!(error.contains("line 1: `channel` is \"a b\""), "{error}");
}

#[test]
fn a_plugin_is_not_called_for_hooks_that_it_lacks() -> Result<(), String> {
    let events = ["connect", "refresh", "disconnect", "timer"].map(|event| json!({"event": event}));
    let others =
        [json!({"event": "message", "kind": "send"}), json!({"event": "deliver", "channel": "news"})];
    let events: Vec<_> = events
        .into_iter()
        .chain(others)
        .map(|mut event| {
            event["expect"] = "not-called".into();
            event
        })
        .collect();
    Kit::<Idle>::new(json!({}))?.play(&Value::from(events).to_string())
}
