//! The test kit plays the gateway's part. Its plugin does what the payload of a message says.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use gateway_plugin_sdk::kit::{Effect, Kit, START};
use gateway_plugin_sdk::log::Level;
use gateway_plugin_sdk::prelude::*;
use gateway_plugin_sdk::serde_json::Value;
use gateway_plugin_sdk::{HostError, HostErrorKind};

#[settings]
struct Settings {
    kinds: Option<Vec<String>>,
    channels: Option<Vec<String>>,
    #[serde(default)]
    without_payload: bool,
    #[serde(default)]
    limit: u8,
    timer_ms: Option<u64>,
    deliver: Option<Vec<String>>,
    class: Option<String>,
    permit: Option<String>,
    #[serde(default = "one")]
    permits: usize,
}

fn one() -> usize {
    1
}

struct Puppet {
    calls: usize,
}

#[plugin]
impl Plugin for Puppet {
    type Config = Settings;

    fn configure(config: Settings, interests: &mut Interests) -> Result<Self, String> {
        if config.limit > 100 {
            return Err(format!("`limit` is {}: at most 100", config.limit));
        }
        if let Some(names) = config.kinds {
            interests.kinds(names.iter().filter_map(|name| Kind::from_name(name)));
        }
        if let Some(patterns) = config.channels {
            interests.channels(patterns);
        }
        if config.without_payload {
            interests.without_payload();
        }
        if let Some(millis) = config.timer_ms {
            interests.timer(Duration::from_millis(millis));
        }
        match (config.deliver, config.class) {
            (Some(patterns), None) => drop(interests.deliver(patterns)),
            (Some(patterns), Some(attribute)) => drop(interests.deliver_by(attribute, patterns)),
            (None, _) => {}
        }
        if let Some(attribute) = config.permit {
            for _ in 0..config.permits {
                interests.permit_by(&*attribute, [Kind::Publish]);
            }
        }
        log::debug!("ready");
        Ok(Self { calls: 0 })
    }

    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        match event.token() {
            "" => Connect::pass(),
            "bad channel" => Connect::accept("7").channel("a b"),
            "bad code" => Connect::refuse(5, "never"),
            user => Connect::accept(user).attribute("token", "yes").data_json(&event.json::<Value>().ok()),
        }
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        self.calls += 1;
        let command = event.json::<Vec<String>>().unwrap_or_default();
        let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        match arguments[..] {
            ["who"] => Verdict::reply_json(&json!([
                event.connection(),
                event.user(),
                event.channel(),
                event.method(),
                event.protocol(),
                event.remote_address(),
                event.header("User-Agent"),
                event.attribute("plan"),
                event.is_binary(),
                event.now(),
            ])),
            ["set", name, value] => {
                let _ = done(event.set_attribute(name, value));
                Verdict::reply_json(&event.attribute(name))
            }
            ["publish", address, payload] => done(event.publish(address, payload.as_bytes())),
            ["subscribe", channel] => done(event.subscribe(channel)),
            ["unsubscribe", channel] => done(event.unsubscribe(channel)),
            ["disconnect"] => done(event.disconnect(code::CLOSE_FORCED, "bye")),
            ["disconnect badly"] => done(event.disconnect(code::INTERNAL, "bye")),
            ["disconnect user", user] => done(event.disconnect_user(user, code::CLOSE_FORCED, "bye")),
            ["disconnect connection", id] => done(event.disconnect_connection(id, code::CLOSE_FORCED, "bye")),
            ["subscribe user", user, channel] => done(event.subscribe_user(user, channel)),
            ["subscribe connection", id, channel] => done(event.subscribe_connection(id, channel)),
            ["unsubscribe user", user, channel] => done(event.unsubscribe_user(user, channel)),
            ["unsubscribe connection", id, channel] => done(event.unsubscribe_connection(id, channel)),
            ["refresh", at] => done(event.refresh(at.parse().ok())),
            ["refresh subscription", channel, at] => {
                done(event.refresh_subscription(channel, at.parse().ok()))
            }
            ["expire", at] => done(event.set_subscription_expiry(at.parse().ok())),
            ["refresh user", user, at] => done(event.refresh_user(user, at.parse().ok())),
            ["refresh connection", id] => done(event.refresh_connection(id, None)),
            ["route", address] => Verdict::route([address]),
            ["reply", payload] => Verdict::reply(payload),
            ["environment", name] => Verdict::reply_json(&environment::get(name)),
            ["panic"] => panic!("told to"),
            _ => Verdict::next(),
        }
    }

    fn on_disconnect(&mut self, event: &Disconnected<'_>) {
        let _ = done(event.publish_json(
            "log",
            &json!([event.user(), event.code(), event.reason(), event.duration().as_secs()]),
        ));
        let _ = done(event.subscribe("news"));
    }

    fn on_deliver(&mut self, event: &Outgoing<'_>) -> Delivery {
        match (event.class(), event.text()) {
            ("nobody", _) => Delivery::drop(),
            (_, Some("1")) => Delivery::pass(),
            (class, _) => Delivery::replace_json(&json!([
                class,
                event.channel(),
                event.connection(),
                event.user(),
                event.now()
            ])),
        }
    }

    fn on_timer(&mut self, event: &Timer) {
        self.calls += 1;
        let _ = done(event.publish_json("log", &json!([event.instance(), event.now()])));
        let _ = done(event.unsubscribe_user("42", "news"));
    }
}

/// Answers with the code of the error, and logs it.
fn done(result: Result<(), HostError>) -> Verdict {
    match result {
        Ok(()) => Verdict::next(),
        Err(error) => {
            log::warn!("{:?}: {error}", error.kind);
            Verdict::deny(400 + error.kind.number(), "refused")
        }
    }
}

fn kit() -> Kit<Puppet> {
    kit_with(json!({}))
}

fn kit_with(settings: Value) -> Kit<Puppet> {
    Kit::new(settings).expect("good settings")
}

fn tell(kit: &mut Kit<Puppet>, command: &[&str]) -> gateway_plugin_sdk::kit::Outcome<Verdict> {
    kit.connection("c1").message(Kind::Rpc).json(command).send()
}

#[test]
fn settings_are_refused_by_the_sdk_or_by_the_plugin() {
    for (settings, expected) in [
        (json!({"limit": 101}), "`limit` is 101: at most 100"),
        (json!({"limit": "x"}), "`limit`: invalid type: string \"x\", expected u8"),
        (json!({"channels": ["news", "a b"]}), "\"a b\" is not a channel pattern"),
        (json!({"channels": vec!["a"; 65]}), "more than 64 channel patterns"),
        (json!({"deliver": ["a b"]}), "\"a b\" is not a channel pattern"),
        (json!({"deliver": ["a"], "class": ""}), "the name of the class attribute is empty"),
        (json!({"permit": ""}), "the name of the attribute is empty"),
        (json!({"timer_ms": 99}), "a timer of 99 milliseconds; possible are 100 to 86400000"),
        (json!({"timer_ms": 86_400_001}), "a timer of 86400001 milliseconds; possible are 100 to 86400000"),
    ] {
        assert_eq!(Kit::<Puppet>::new(&settings).expect_err("bad settings"), expected);
    }
    let kit = kit();
    assert_eq!(kit.configure_log().iter().map(|line| line.level).collect::<Vec<_>>(), [Level::Debug]);
}

#[test]
fn events_outside_of_the_interests_do_not_reach_the_plugin() {
    let mut kit =
        kit_with(json!({"kinds": ["publish", "rpc"], "channels": ["chat:*"], "without_payload": true}));
    for (kind, channel, called) in [
        (Kind::Publish, "chat:1", true),
        (Kind::Rpc, "", true),
        (Kind::Publish, "news", false),
        (Kind::Subscribe, "chat:1", false),
        (Kind::Unknown(77), "chat:1", false),
    ] {
        let outcome = kit.connection("c1").message(kind).channel(channel).json(&["reply", "1"]).send();
        assert_eq!(outcome.called, called, "{kind} {channel}");
        assert_eq!(outcome.verdict, Verdict::next(), "the payload stays away");
    }
    assert_eq!(kit.plugin().calls, 2);
}

#[test]
fn what_an_attribute_permits_does_not_reach_the_plugin() {
    let mut kit = kit_with(json!({"permit": "open"}));
    for (patterns, kind, channel, calls) in [
        ("news chat:*", Kind::Publish, "chat:1", 0),
        ("news chat:*", Kind::Publish, "news", 0),
        ("news chat:*", Kind::Publish, "other", 1),
        ("news chat:*", Kind::Publish, "", 2),
        ("news chat:*", Kind::Subscribe, "news", 3),
        ("", Kind::Publish, "news", 4),
    ] {
        let client = kit.connection("c1").attribute("open", patterns);
        let outcome = client.message(kind).channel(channel).json(&["next"]).send();
        let before = calls == kit.plugin().calls;
        assert!(before, "{patterns:?} {kind} {channel}: {} calls", kit.plugin().calls);
        assert_eq!(outcome.verdict == Verdict::allow(), calls == 0, "{patterns:?} {kind} {channel}");
    }
}

#[test]
fn permissions_are_few() {
    let error = Kit::<Puppet>::new(json!({"permit": "a", "permits": 17})).expect_err("too many");
    assert_eq!(error, "more than 16 permissions");
}

#[test]
fn a_plugin_without_interests_sees_everything() {
    let mut kit = kit();
    for kind in Kind::ALL.into_iter().chain([Kind::Unknown(77)]) {
        assert!(kit.connection("c1").message(kind).channel("news").send().called, "{kind}");
    }
}

#[test]
fn an_event_tells_who_sent_it_and_when() {
    let mut kit = kit();
    kit.advance(Duration::from_millis(5));
    let outcome = kit
        .connection("c1")
        .user("42")
        .header("User-Agent", "test")
        .attribute("plan", "free")
        .remote_address("192.0.2.1")
        .protocol("raw")
        .message(Kind::Raw)
        .channel("news")
        .method("m")
        .binary()
        .json(&["who"])
        .send();
    let expected = json!(["c1", "42", "news", "m", "raw", "192.0.2.1", "test", "free", true, START + 5]);
    assert_eq!(outcome.verdict, Verdict::reply_json(&expected));
}

#[test]
fn a_connection_keeps_what_connect_and_effects_made_of_it() {
    let mut kit = kit();
    let accepted = kit.connection("c1").connect("42").data(r#"{"a":1}"#).send();
    assert_eq!(accepted.verdict, Connect::accept("42").attribute("token", "yes").data_json(&json!({"a": 1})));
    assert_eq!(
        tell(&mut kit, &["set", "token", "no"]).verdict,
        Verdict::reply_json("yes"),
        "applied after the hook"
    );
    assert_eq!(tell(&mut kit, &["set", "token", ""]).verdict, Verdict::reply_json("no"));
    assert_eq!(tell(&mut kit, &["set", "token", "x"]).verdict, Verdict::reply_json(&Value::Null));
    assert_eq!(kit.connect("").verdict, Connect::pass());
}

#[test]
fn effects_are_recorded_or_refused_with_a_code() {
    let mut kit = kit();
    for (command, effect) in [
        (vec!["publish", "news", "1"], Effect::publish("news", "1")),
        (vec!["subscribe", "news"], Effect::Subscribe("news".into())),
        (vec!["unsubscribe", "news"], Effect::Unsubscribe("news".into())),
        (vec!["set", "a", "b"], Effect::set_attribute("a", "b")),
        (vec!["disconnect user", "42"], Effect::disconnect_address("#42", 3503, "bye")),
        (vec!["disconnect connection", "c2"], Effect::disconnect_address("@c2", 3503, "bye")),
        (vec!["subscribe user", "42", "news"], Effect::subscribe_address("#42", "news")),
        (vec!["subscribe connection", "c2", "news"], Effect::subscribe_address("@c2", "news")),
        (vec!["unsubscribe user", "42", "news"], Effect::unsubscribe_address("#42", "news")),
        (vec!["unsubscribe connection", "c2", "news"], Effect::unsubscribe_address("@c2", "news")),
        (vec!["refresh", "1900000000"], Effect::Refresh(Some(1_900_000_000))),
        (vec!["refresh subscription", "news", "7"], Effect::refresh_subscription("news", Some(7))),
        (vec!["refresh subscription", "news", "never"], Effect::refresh_subscription("news", None)),
        (vec!["refresh user", "42", "7"], Effect::refresh_address("#42", Some(7))),
        (vec!["refresh connection", "c2"], Effect::refresh_address("@c2", None)),
    ] {
        assert_eq!(tell(&mut kit, &command).effects, [effect], "{command:?}");
    }
    assert!(matches!(tell(&mut kit, &["disconnect"]).effects[..], [Effect::Disconnect(_)]));

    let large = format!("\"{}\"", "x".repeat(256 << 10));
    for (command, code) in [
        (vec!["publish", "news", &large], 2),
        (vec!["publish", "a b", "1"], 3),
        (vec!["subscribe", ""], 3),
        (vec!["disconnect user", ""], 3),
        (vec!["subscribe user", "42", "a b"], 3),
        (vec!["refresh subscription", "a b", "7"], 3),
        (vec!["expire", "7"], 5),
        (vec!["publish", "news", "not JSON"], 4),
        (vec!["disconnect badly"], 6),
    ] {
        let outcome = tell(&mut kit, &command);
        assert_eq!(outcome.verdict, Verdict::deny(400 + code, "refused"), "{:.40}", format!("{command:?}"));
        assert_eq!((outcome.effects.len(), outcome.log.len()), (0, 1));
        assert!(outcome.logged().starts_with(&format!("{:?}: ", HostErrorKind::from_number(code))));
    }
    kit.effects_max(0);
    assert_eq!(tell(&mut kit, &["publish", "news", "1"]).verdict, Verdict::deny(401, "refused"));
}

#[test]
fn a_subscribe_and_its_refresh_set_when_the_subscription_expires() {
    let mut kit = kit();
    for kind in [Kind::Subscribe, Kind::SubRefresh] {
        for (at, expires_at) in [("1900000000", Some(1_900_000_000)), ("never", None)] {
            let message = kit.connection("c1").message(kind).channel("news").token("t");
            let outcome = message.json(&["expire", at]).send();
            assert_eq!(outcome.effects, [Effect::SetSubscriptionExpiry(expires_at)], "{kind}");
        }
    }
}

#[test]
fn an_environment_variable_is_there_if_the_test_grants_it() {
    let mut kit = kit();
    assert_eq!(tell(&mut kit, &["environment", "PATH"]).verdict, Verdict::reply_json(&Value::Null));
    kit.environment("KEY", "secret");
    assert_eq!(tell(&mut kit, &["environment", "KEY"]).verdict, Verdict::reply_json("secret"));
}

#[test]
fn a_connection_that_has_gone_can_only_be_published_about() {
    let mut kit = kit();
    kit.connection("c1").user("42");
    kit.advance(Duration::from_secs(90));
    let outcome = kit.connection("c1").disconnect(3000, "closed");
    assert_eq!(outcome.effects, [Effect::publish("log", r#"["42",3000,"closed",90]"#)]);
    assert_eq!(outcome.logged(), "WrongHook: not possible in this hook");
    let again = kit.connection("c1").disconnect(3000, "closed");
    assert_eq!(
        again.effects,
        [Effect::publish("log", r#"["",3000,"closed",0]"#)],
        "a new one of the same id"
    );
}

#[test]
fn a_timer_runs_if_it_was_asked_for_and_has_no_client() {
    assert!(!kit().timer().called, "not asked for");
    let mut kit = kit_with(json!({"timer_ms": 1000}));
    kit.advance(Duration::from_secs(1));
    for (outcome, instance) in [(kit.timer(), 0), (kit.timer_of(3), 3)] {
        assert!(outcome.called);
        assert_eq!(
            outcome.effects,
            [
                Effect::publish("log", format!("[{instance},{}]", START + 1000)),
                Effect::unsubscribe_address("#42", "news"),
            ]
        );
    }
    assert_eq!(kit.plugin().calls, 2);
}

#[test]
fn what_is_delivered_can_be_another_thing_for_each_class() {
    assert!(!kit().deliver("news").json(&1).send().called, "not asked for");
    let mut plain = kit_with(json!({"deliver": ["chat:*"]}));
    assert!(!plain.deliver("news").json(&2).send().called, "another channel");
    let outcome = plain.deliver("chat:1").class("nobody").publisher("c1", "42").json(&2).send();
    let seen = json!(["", "chat:1", "c1", "42", START]);
    assert_eq!(outcome.verdict, Delivery::replace_json(&seen), "it does not tell subscribers apart");
    assert_eq!(outcome.payload, Some(seen.to_string().into_bytes()));

    let mut by_class = kit_with(json!({"deliver": ["chat:*"], "class": "role"}));
    assert_eq!(by_class.deliver("chat:1").class("nobody").json(&2).send().verdict, Delivery::drop());
    assert_eq!(by_class.deliver("chat:1").class("x").json(&1).send().verdict, Delivery::pass());
    let outcome = by_class.deliver("chat:1").class("x").json(&2).send();
    assert_eq!(outcome.verdict, Delivery::replace_json(&json!(["x", "chat:1", "", "", START])));
}

#[test]
fn an_answer_that_the_gateway_cannot_carry_out_fails_the_test() {
    for command in [["route", "a b"], ["reply", "not JSON"]] {
        assert!(catch_unwind(|| tell(&mut kit(), &command)).is_err(), "{command:?}");
    }
    for token in ["bad channel", "bad code"] {
        assert!(catch_unwind(|| kit().connect(token)).is_err(), "{token}");
    }
    let raw = kit().connection("c1").protocol("raw").message(Kind::Raw).json(&["reply", "not JSON"]).send();
    assert_eq!(raw.verdict, Verdict::reply("not JSON"));
}

#[test]
fn what_others_sent_refuses_the_event_as_in_the_gateway() {
    let outcome = tell(&mut kit(), &["reply", r#""\ud800""#]);
    let reason = "a payload is JSON with an escape that is half of a character (a lone surrogate)";
    assert_eq!(outcome.verdict, Verdict::deny(107, reason));
    assert!(outcome.logged().ends_with(&format!("what it answers is refused: {reason}")), "{outcome:?}");
    let mut kit = kit();
    let outcome = kit.connection("c1").connect("a\nb").send();
    assert_eq!(outcome.verdict, Connect::refuse(3500, "the user id has control characters"));
    assert!(outcome.logged().contains("nothing could reach this user"), "{outcome:?}");
}

#[test]
fn a_hook_that_panics_leaves_nothing_to_the_next() {
    let mut kit = kit();
    assert!(catch_unwind(AssertUnwindSafe(|| tell(&mut kit, &["panic"]))).is_err());
    assert_eq!(tell(&mut kit, &["publish", "news", "1"]).effects.len(), 1);
}
