//! The work of the plugins, compiled into the gateway: what it would cost without WebAssembly.

use std::cell::Cell;
use std::sync::Arc;

use gateway::plugin::chain::Plugin;
use gateway::plugin::counters::PluginCounters;
use gateway::plugin::event::{ConnectEvent, DisconnectEvent, Kind, Message};
use gateway::plugin::failure::{Cause, Failure};
use gateway::plugin::grants::Grants;
use gateway::plugin::interests::{Hooks, Interests};
use gateway::plugin::load::{About, Factory, LoadError};
use gateway::plugin::verdict::{ConnectVerdict, Effect, Refusal, Verdict};
use gateway::protocol::channel::Channel;
use serde_json::Value;

/// Judges a message.
pub(crate) type Decide = fn(&Message) -> Result<Verdict, Failure>;

/// Like `echo`.
pub(crate) fn echo(message: &Message) -> Result<Verdict, Failure> {
    Ok(Verdict::Reply(message.content.payload.clone()))
}

/// Like `guest-no-sdk` on a message that is not raw.
pub(crate) fn next(_: &Message) -> Result<Verdict, Failure> {
    Ok(Verdict::Next)
}

/// Like `guest-trap`: looks for words that nobody sends.
pub(crate) fn look(message: &Message) -> Result<Verdict, Failure> {
    match &*message.content.payload {
        b"boom" | b"loop" | b"eat" | b"deep" | b"print" => Ok(Verdict::Drop),
        _ => Ok(Verdict::Next),
    }
}

/// Like `auth-jwt` with permissions from claims.
pub(crate) fn permitted(message: &Message) -> Result<Verdict, Failure> {
    let patterns = message.client.attributes.get(PERMITTED).map_or("", |patterns| patterns);
    let matches =
        |pattern| message.content.channel.as_ref().is_some_and(|channel| channel.is_covered_by(pattern));
    Ok(if patterns.split_ascii_whitespace().any(matches) { Verdict::Allow } else { Verdict::Next })
}

/// The attribute in which `auth-jwt` keeps where a client may publish.
pub(crate) const PERMITTED: &str = "auth-jwt.publish";

/// Like `rate-limit` with one limit per connection that is never reached.
pub(crate) fn within_limits(message: &Message) -> Result<Verdict, Failure> {
    thread_local! {
        static FULL_AT: Cell<u64> = const { Cell::new(0) };
    }
    let (tokens_per_ms, burst) = (1_000_000, 1_000_000_000);
    let full_at = FULL_AT.get().max(message.at * tokens_per_ms) + 1;
    if full_at - message.at * tokens_per_ms > burst {
        return Ok(Verdict::Deny(Refusal { code: 111, reason: "limit exceeded".into() }));
    }
    FULL_AT.set(full_at);
    Ok(Verdict::Next)
}

/// Like `router` with a rule for a kind and a pattern of channels.
pub(crate) fn route(message: &Message) -> Result<Verdict, Failure> {
    let ours = message.content.kind == Kind::Publish
        && message.content.channel.as_ref().is_some_and(|c| c.is_covered_by("chat:*"));
    if !ours {
        return Ok(Verdict::Next);
    }
    let address = Channel::parse("room:r42").map_err(|_| invalid("no address"))?;
    Ok(Verdict::Route(vec![address]))
}

fn invalid(what: &str) -> Failure {
    Failure::new(Cause::InvalidAnswer, what)
}

/// Like `router` with a rule that routes by a field of the payload.
pub(crate) fn route_by_field(message: &Message) -> Result<Verdict, Failure> {
    let payload: Value = serde_json::from_slice(&message.content.payload).map_err(|_| invalid("no JSON"))?;
    let room = payload.get("room").and_then(Value::as_str).ok_or_else(|| invalid("no room"))?;
    let address = Channel::parse(&format!("room:{room}")).map_err(|_| invalid("no address"))?;
    Ok(Verdict::Route(vec![address]))
}

const HOOKS: Hooks = Hooks {
    configure: false,
    on_connect: false,
    on_message: true,
    on_disconnect: false,
    on_timer: false,
    on_deliver: false,
};

/// A plugin of this binary: called like any other, through the trait.
pub(crate) struct Native {
    decide: Decide,
    interests: Interests,
}

impl Native {
    pub(crate) fn instance(decide: Decide) -> Box<dyn Plugin> {
        Box::new(Self { decide, interests: Interests::everything(HOOKS) })
    }

    pub(crate) fn factory(decide: Decide) -> Arc<dyn Factory> {
        let about = About {
            name: None,
            version: None,
            sdk: None,
            interface: "native".into(),
            hooks: HOOKS,
            requested: Grants::default(),
            self_test: None,
        };
        Arc::new(NativeFactory { decide, about })
    }
}

impl Plugin for Native {
    fn interests(&self) -> &Interests {
        &self.interests
    }

    fn on_connect(&mut self, _: &ConnectEvent, _: &mut Vec<Effect>) -> Result<ConnectVerdict, Failure> {
        Ok(ConnectVerdict::Pass)
    }

    fn on_message(&mut self, message: &mut Message, _: &mut Vec<Effect>) -> Result<Verdict, Failure> {
        (self.decide)(message)
    }

    fn on_disconnect(&mut self, _: &DisconnectEvent, _: &mut Vec<Effect>) -> Result<(), Failure> {
        Ok(())
    }
}

struct NativeFactory {
    decide: Decide,
    about: About,
}

impl Factory for NativeFactory {
    fn instantiate(&self, _: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError> {
        Ok(Native::instance(self.decide))
    }

    fn about(&self) -> &About {
        &self.about
    }
}
