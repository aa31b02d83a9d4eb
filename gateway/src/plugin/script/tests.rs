//! Scripts that are played to native plugins.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::plugin::Plugin;
use crate::plugin::event::{ConnectEvent, DisconnectEvent, Message};
use crate::plugin::failure::{Cause, Failure};
use crate::plugin::interests::{Hooks, Interests};
use crate::plugin::verdict::{ConnectVerdict, Effect, Identity, Refusal, Verdict};

/// Admits each client with a token as that user, answers `say` with the client's data, and fails on `trap`.
struct Parrot(Interests);

fn parrot() -> Parrot {
    let hooks = Hooks { on_connect: true, on_message: true, on_disconnect: true, ..Hooks::default() };
    Parrot(Interests::everything(hooks))
}

impl Plugin for Parrot {
    fn interests(&self) -> &Interests {
        &self.0
    }

    fn on_connect(&mut self, event: &ConnectEvent, _: &mut Vec<Effect>) -> Result<ConnectVerdict, Failure> {
        let identity = Identity { user: event.token.clone(), ..Identity::default() };
        Ok(ConnectVerdict::Accept(Box::new(identity)))
    }

    fn on_message(&mut self, message: &mut Message, effects: &mut Vec<Effect>) -> Result<Verdict, Failure> {
        effects.push(Effect::SetAttribute { name: "seen".into(), value: "yes".into() });
        Ok(match &*message.content.payload {
            b"trap" => return Err(Failure::new(Cause::Trap, "ouch")),
            b"deny" => Verdict::Deny(Refusal { code: 103, reason: "no".into() }),
            b"change" => {
                message.content.payload = Bytes::from_static(b"changed");
                Verdict::Allow
            }
            _ => {
                let client = &message.client;
                let seen = client.attributes.get("seen").map_or("no", |seen| seen);
                let text = json!([&*client.user, client.protocol, seen, message.now - START]);
                Verdict::Reply(text.to_string().into())
            }
        })
    }

    fn on_disconnect(&mut self, event: &DisconnectEvent, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let payload = event.duration.to_string().into();
        effects.push(Effect::Publish { address: Channel::parse("left").unwrap(), payload });
        Ok(())
    }
}

/// The expectations of a script that were not met, by position.
fn play(script: &str) -> Vec<String> {
    let script = parse(script.as_bytes()).unwrap();
    let (mut player, mut plugin) = (Player::new(), parrot());
    let unmet = script.steps.iter().flat_map(|step| {
        let outcome = player.play(&mut plugin, step);
        step.unmet(&outcome.to_json()).into_iter().map(|text| format!("{}: {text}", step.place))
    });
    unmet.collect()
}

#[test]
fn a_client_stays_what_the_plugin_made_of_it() {
    let unmet = play(
        r#"
        # admitted as the user of its token
        {"event": "connect", "token": "42", "expect": {"verdict": "accept", "user": "42", "attributes": {}}}
        {"event": "message", "kind": "rpc", "text": "", "expect": {"verdict": "reply", "payload": ["42", "centrifuge-json", "no", 0]}}
        {"event": "message", "kind": "raw", "after": 7, "expect": {"payload": ["42", "raw", "yes", 7]}}
        {"event": "message", "connection": "other", "kind": "raw", "expect": {"payload": ["", "raw", "no", 7]}}
        {"event": "disconnect", "after": 3, "expect": {"verdict": "done", "effects": [{"effect": "publish", "address": "left", "payload": 10}]}}
        {"event": "message", "kind": "rpc", "expect": {"payload": ["", "centrifuge-json", "no", 10]}}
        "#,
    );
    assert_eq!(unmet, Vec::<String>::new());
}

#[test]
fn what_is_not_as_expected_is_told_with_its_place() {
    let unmet = play(
        r#"{"event": "message", "kind": "raw", "text": "deny", "expect": "allow"}
        {"event": "message", "kind": "raw", "text": "deny", "expect": {"code": 104, "user": "x"}}
        {"event": "message", "kind": "raw", "text": "deny", "expect": {"effects": []}}
        {"event": "message", "kind": "raw", "text": "deny", "expect": {"verdict": "deny", "reason": "no"}}"#,
    );
    assert_eq!(
        unmet,
        [
            r#"line 1: `verdict` is "deny", expected "allow""#,
            "line 2: `code` is 103, expected 104",
            r#"line 2: `user` is not there, expected "x""#,
            r#"line 3: `effects` is [{"effect":"set-attribute","name":"seen","value":"yes"}], expected []"#,
        ]
    );
}

#[test]
fn a_failed_call_leaves_nothing_behind() {
    let unmet = play(
        r#"[{"event": "message", "kind": "raw", "text": "trap",
             "expect": {"verdict": "failed", "cause": "trap", "detail": "ouch", "effects": []}},
            {"event": "message", "kind": "raw", "expect": {"payload": ["", "raw", "no", 0]}}]"#,
    );
    assert_eq!(unmet, Vec::<String>::new());
}

#[test]
fn an_event_outside_the_interests_is_not_given() {
    let mut plugin = parrot();
    plugin.0.hooks = Hooks::default();
    let script = r#"[{"event":"connect"},{"event":"message","kind":"send"},{"event":"disconnect"}]"#;
    let mut player = Player::new();
    for step in parse(script.as_bytes()).unwrap().steps {
        assert_eq!(player.play(&mut plugin, &step).answer, Answer::NotCalled, "{}", step.place);
    }
}

#[test]
fn a_timer_fires_when_the_script_says_so() {
    let unmet = play(r#"{"event": "timer", "after": 10, "expect": "not-called"}"#);
    assert_eq!(unmet, Vec::<String>::new(), "the plugin has no timer");
    let mut plugin = parrot();
    plugin.0.hooks.on_timer = true;
    plugin.0.timer = Some(std::time::Duration::from_secs(1));
    let script = parse(br#"{"event": "timer", "after": 10}"#).unwrap();
    let mut player = Player::new();
    assert_eq!(player.play(&mut plugin, &script.steps[0]).answer, Answer::Done);
    assert_eq!(player.now(), START + 10);
}
