//! Scripts, played natively: what the gateway does with them at load, without WebAssembly.

use std::panic::{AssertUnwindSafe, catch_unwind};

use gateway_plugin_script::show::{self, Answer};
use gateway_plugin_script::{Event, Reader, Script, Step, Who};
use serde_json::Value;

use super::{Effect, Kit, Outcome};
use crate::__private::Embedded;
use crate::{Connect, Delivery, Identity, Kind, Refusal, Verdict, address};

type Native = Step<Kind, String>;

impl<P: Embedded> Kit<P> {
    /// Plays the test in the plugin, `#[plugin(self_test = "self-test.json")]`, as the gateway does whenever
    /// it loads the file: only with the settings in the test, and without granted environment variables or
    /// origins.
    ///
    /// ```
    /// # mod plugin {
    /// # use gateway_plugin_sdk::prelude::*;
    /// # pub struct Shout;
    /// # #[plugin(self_test = "tests/shout.json")]
    /// # impl Plugin for Shout {
    /// #     type Config = ();
    /// #     fn configure(_: (), _: &mut Interests) -> Result<Self, String> { Ok(Self) }
    /// #     fn on_message(&mut self, event: &Message<'_>) -> Verdict {
    /// #         Verdict::reply(event.payload().to_ascii_uppercase())
    /// #     }
    /// # }
    /// # }
    /// # use plugin::Shout;
    /// # use gateway_plugin_sdk::kit::Kit;
    /// // #[test]
    /// fn the_self_test_holds() -> Result<(), String> {
    ///     Kit::<Shout>::self_test()
    /// }
    /// # the_self_test_holds().unwrap();
    /// ```
    ///
    /// An example of the file:
    ///
    /// ```json
    /// {
    ///   "settings": {"words": ["darn"]},
    ///   "events": [
    ///     {"event": "connect", "connection": "c1", "token": "t", "expect": {"verdict": "accept", "user": "42"}},
    ///     {"event": "message", "connection": "c1", "kind": "publish", "channel": "news", "payload": "darn!", "expect": "deny"},
    ///     {"event": "message", "kind": "raw", "text": "ping", "expect": {"verdict": "reply", "text": "pong", "effects": []}},
    ///     {"event": "refresh", "connection": "c1", "token": "other", "after": 60000, "expect": "refuse"},
    ///     {"event": "deliver", "channel": "news", "class": "guest", "payload": 1, "expect": "drop"},
    ///     {"event": "disconnect", "connection": "c1", "code": 3000, "reason": "bye"},
    ///     {"event": "timer", "expect": "done"}
    ///   ]
    /// }
    /// ```
    ///
    /// An event of a connection may set the properties of the client from there on (`user`, `attributes`,
    /// `headers`, `address`, `protocol`). Every event may set its time: `now` in milliseconds of Unix time,
    /// or `after` in milliseconds since the previous event; the clock starts at [`START`](super::START). A
    /// payload is `payload`, `text` or `base64`. `expect` is a verdict or parts of the outcome; `gateway
    /// plugin run --json` prints complete outcomes.
    ///
    /// # Errors
    ///
    /// Lists the errors in the test, or every difference from its expectations, with the positions of the
    /// events.
    pub fn self_test() -> Result<(), String> {
        let Some(text) = P::SELF_TEST else {
            return Err(
                "the plugin carries no self-test: name its file in #[plugin(self_test = \"..\")]".into()
            );
        };
        let test = reader().self_test(text.as_bytes());
        let test = test.map_err(|why| format!("the self-test cannot be read: {why}"))?;
        let kit = Self::new(Value::Object(test.settings));
        kit.map_err(|why| format!("with the settings of the test it refuses its settings: {why}"))?
            .play_script(&test.script)
    }

    /// Plays events in JSON, one per line or as an array, as `gateway plugin run FILE --events` does.
    ///
    /// # Errors
    ///
    /// Lists the errors in the events, or every difference from their expectations, with the positions of the
    /// events. If a hook panics and the event does not expect a failure, that is an error, too.
    pub fn play(&mut self, events: &str) -> Result<(), String> {
        let script = reader().script(events.as_bytes());
        self.play_script(&script.map_err(|errors| format!("the events have mistakes: {errors}"))?)
    }

    fn play_script(&mut self, script: &Script<Kind, String>) -> Result<(), String> {
        let mut unmet = Vec::new();
        for step in &script.steps {
            self.now = step.time.since(self.now);
            let outcome = match catch_unwind(AssertUnwindSafe(|| self.step(step))) {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(why)) => failed(step, "invalid-answer", &why, &mut unmet),
                Err(panic) => {
                    let outcome = failed(step, "trap", words(&*panic), &mut unmet);
                    // The gateway goes on with another instance.
                    if let Err(why) = self.renew(self.settings.clone()) {
                        unmet.push(format!("{}: another instance refuses the settings: {why}", step.place));
                        break;
                    }
                    outcome
                }
            };
            let differs = step.unmet(&outcome);
            unmet.extend(
                differs.iter().map(|text| format!("{} ({}): {text}", step.place, step.event.as_str())),
            );
        }
        if unmet.is_empty() { Ok(()) } else { Err(unmet.join("\n")) }
    }

    /// What came of one event; an error if the gateway could not carry out the answer.
    fn step(&mut self, step: &Native) -> Result<serde_json::Map<String, Value>, String> {
        if step.event.has_connection() {
            self.introduce(&step.connection, &step.who);
        }
        let has = |hook: &str| P::HOOKS.contains(&hook);
        let not_called = || show::outcome(&Answer::NotCalled, [], None);
        Ok(match &step.event {
            Event::Connect { .. } | Event::Refresh { .. } if !has("on_connect") => not_called(),
            Event::Connect { token, data } => {
                let outcome =
                    self.connection(&step.connection).connect(token).data(data.clone()).try_send()?;
                shown(&outcome, connect(&outcome.verdict), None)
            }
            Event::Refresh { token } => {
                let outcome = self.connection(&step.connection).refresh(token).try_send()?;
                shown(&outcome, connect(&outcome.verdict), None)
            }
            Event::Message(_) if !has("on_message") => not_called(),
            Event::Message(sent) => {
                let channel = sent.channel.as_deref().unwrap_or_default();
                let message = self.connection(&step.connection).message(sent.kind).channel(channel);
                let message = message.method(&sent.method).payload(sent.payload.clone()).token(&sent.token);
                let message = if sent.binary { message.binary() } else { message };
                let outcome = message.try_send()?;
                let replaced = matches!(outcome.verdict, Verdict::Replace(_));
                let changed = outcome.payload.as_deref().filter(|left| !replaced && *left != sent.payload);
                shown(&outcome, verdict(&outcome.verdict), changed)
            }
            Event::Deliver { .. } if !has("on_deliver") => not_called(),
            Event::Deliver { channel, class, publisher, payload } => {
                let delivering = self.deliver(channel).class(class).payload(payload.clone());
                let outcome = match publisher {
                    Some((connection, user)) => delivering.publisher(connection, user),
                    None => delivering,
                };
                let outcome = outcome.try_send()?;
                let answer = match &outcome.verdict {
                    Delivery::Pass => Answer::Pass,
                    Delivery::Drop => Answer::Drop,
                    Delivery::Replace(payload) => Answer::Replace(payload),
                };
                shown(&outcome, answer, None)
            }
            Event::Disconnect { .. } if !has("on_disconnect") => {
                self.forget(&step.connection);
                not_called()
            }
            Event::Disconnect { code, reason } => {
                let outcome = self.connection(&step.connection).disconnect((*code).into(), reason);
                shown(&outcome, Answer::Done, None)
            }
            Event::Timer { .. } if !has("on_timer") => not_called(),
            Event::Timer { instance } => {
                let outcome = self.timer_of(*instance);
                shown(&outcome, Answer::Done, None)
            }
        })
    }

    fn introduce(&mut self, id: &str, who: &Who) {
        let mut connection = self.connection(id);
        let client = connection.client();
        if let Some(user) = &who.user {
            client.user = user.to_string();
        }
        for (name, value) in &who.attributes {
            client.set_attribute(name, value);
        }
        if !who.headers.is_empty() {
            let headers = who.headers.iter();
            client.headers = headers.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        }
        if let Some(address) = who.address {
            client.remote_address = address.to_string();
        }
        if let Some(protocol) = who.protocol {
            protocol.clone_into(&mut client.protocol);
        }
    }
}

fn reader() -> Reader<Kind, String> {
    Reader {
        kinds: Kind::ALL.map(|kind| (kind.name(), kind)).into(),
        channel: |name| {
            address::check_subscription(name).map(|()| name.to_owned()).map_err(|error| error.to_string())
        },
    }
}

/// The outcome of a failure, which is an error of the plugin unless the event expects something.
fn failed(
    step: &Native,
    cause: &str,
    detail: &str,
    unmet: &mut Vec<String>,
) -> serde_json::Map<String, Value> {
    if step.expect.is_none() {
        unmet.push(format!("{} ({}): it failed: {cause}: {detail}", step.place, step.event.as_str()));
    }
    show::outcome(&Answer::Failed { cause, detail }, [], None)
}

/// What was said in a panic.
fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it panicked")
}

fn shown<V>(
    outcome: &Outcome<V>,
    answer: Answer<'_>,
    changed: Option<&[u8]>,
) -> serde_json::Map<String, Value> {
    let answer = if outcome.called { answer } else { Answer::NotCalled };
    show::outcome(&answer, outcome.effects.iter().map(effect), changed)
}

fn connect(verdict: &Connect) -> Answer<'_> {
    match verdict {
        Connect::Pass => Answer::Pass,
        Connect::Refuse(why) => Answer::Refuse(refusal(why)),
        Connect::Accept(identity) => {
            let Identity { user, expires_at, info, data, channels, attributes } = identity;
            Answer::Accept(show::Identity {
                user,
                expires_at: *expires_at,
                info,
                data,
                channels: channels.iter().map(String::as_str).collect(),
                attributes: attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            })
        }
    }
}

fn verdict(verdict: &Verdict) -> Answer<'_> {
    match verdict {
        Verdict::Next => Answer::Next,
        Verdict::Allow => Answer::Allow,
        Verdict::Drop => Answer::Drop,
        Verdict::Deny(why) => Answer::Deny(refusal(why)),
        Verdict::Disconnect(why) => Answer::Disconnect(refusal(why)),
        Verdict::Replace(payload) => Answer::Replace(payload),
        Verdict::Reply(payload) => Answer::Reply(payload),
        Verdict::Route(addresses) => Answer::Route(addresses.iter().map(String::as_str).collect()),
    }
}

fn effect(effect: &Effect) -> show::Effect<'_> {
    match effect {
        Effect::Publish { address, payload } => show::Effect::Publish(address, payload),
        Effect::Subscribe(channel) => show::Effect::Subscribe(channel),
        Effect::Unsubscribe(channel) => show::Effect::Unsubscribe(channel),
        Effect::Disconnect(why) => show::Effect::Disconnect(refusal(why)),
        Effect::SetAttribute { name, value } => show::Effect::SetAttribute(name, value),
        Effect::SubscribeAddress { address, channel } => show::Effect::SubscribeAddress(address, channel),
        Effect::UnsubscribeAddress { address, channel } => show::Effect::UnsubscribeAddress(address, channel),
        Effect::DisconnectAddress { address, refusal: why } => {
            show::Effect::DisconnectAddress(address, refusal(why))
        }
        Effect::Refresh(expires_at) => show::Effect::Refresh(*expires_at),
        Effect::RefreshSubscription { channel, expires_at } => {
            show::Effect::RefreshSubscription(channel, *expires_at)
        }
        Effect::SetSubscriptionExpiry(expires_at) => show::Effect::SetSubscriptionExpiry(*expires_at),
        Effect::RefreshAddress { address, expires_at } => show::Effect::RefreshAddress(address, *expires_at),
        Effect::Emit { upstream, payload } => show::Effect::Emit(upstream, payload),
    }
}

fn refusal(why: &Refusal) -> show::Refusal<'_> {
    show::Refusal { code: why.code, reason: &why.reason }
}
