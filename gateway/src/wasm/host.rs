//! Implements the host side of the interface `gateway:plugin`, version 0.1.

mod state;

use std::ops::RangeInclusive;
use std::time::Duration;

use super::answer;
use super::bindings::gateway::plugin::{context, effects, environment, interests, log, types};
use super::call::{Exhausted, Hook, State};
use super::capabilities::CannotEmit;
use super::output::{Level, cut};
use crate::plugin::event::{Client, Kind};
use crate::plugin::interests::{DeliverInterest, Kinds, Pattern, Permission};
use crate::plugin::verdict::{Action, Effect};
use crate::protocol::channel::{Channel, Target};
use crate::protocol::json;
use crate::upstream::NoRoom;

use effects::Error;

/// Codes of `types.error`.
pub(super) mod code {
    pub(in crate::wasm) const TOO_MANY_EFFECTS: u32 = 1;
    pub(in crate::wasm) const TOO_MANY_BYTES: u32 = 2;
    pub(in crate::wasm) const INVALID_ADDRESS: u32 = 3;
    pub(in crate::wasm) const INVALID_JSON: u32 = 4;
    pub(in crate::wasm) const NOT_IN_THIS_HOOK: u32 = 5;
    pub(in crate::wasm) const INVALID_CODE: u32 = 6;
    pub(in crate::wasm) const INVALID_NAME: u32 = 7;
    pub(in crate::wasm) const INVALID_INTERVAL: u32 = 8;
    pub(in crate::wasm) const INVALID_RULE: u32 = 9;
    pub(in crate::wasm) const TOO_LARGE: u32 = 11;
    pub(in crate::wasm) const NOT_A_NUMBER: u32 = 12;
    pub(in crate::wasm) const NOT_GRANTED: u32 = 20;
    pub(in crate::wasm) const NO_SUCH_UPSTREAM: u32 = 21;
    pub(in crate::wasm) const BUSY: u32 = 22;
    pub(in crate::wasm) const INVALID_REQUEST: u32 = 23;
    pub(in crate::wasm) const REFUSED_ADDRESS: u32 = 24;
    pub(in crate::wasm) const TIMEOUT: u32 = 25;
    pub(in crate::wasm) const ANSWER_TOO_LARGE: u32 = 26;
    pub(in crate::wasm) const REQUEST_FAILED: u32 = 27;
}

/// Bytes of an invalid name quoted in a message.
const NAME_BYTES_SHOWN: usize = 64;

impl types::Host for State {}

// ----------------------------------------------------------------------------------------------------
// context

impl State {
    fn of_client<T: Default>(&self, get: impl FnOnce(&Client) -> T) -> T {
        self.event.client.as_deref().map(get).unwrap_or_default()
    }
}

impl context::Host for State {
    fn connection(&mut self) -> String {
        match &self.event.publisher {
            Some(publisher) => publisher.client.as_ref().into(),
            None => self.of_client(|client| client.id.as_ref().into()),
        }
    }

    fn user(&mut self) -> String {
        match &self.event.publisher {
            Some(publisher) => publisher.user.as_ref().into(),
            None => self.of_client(|client| client.user.as_ref().into()),
        }
    }

    fn channel(&mut self) -> String {
        self.event.channel.as_ref().map(|channel| channel.as_str().into()).unwrap_or_default()
    }

    fn method(&mut self) -> String {
        self.event.method.clone()
    }

    fn protocol(&mut self) -> String {
        self.of_client(|client| client.protocol.into())
    }

    fn remote_address(&mut self) -> String {
        self.of_client(|client| client.address.to_string())
    }

    fn binary(&mut self) -> bool {
        self.event.binary
    }

    fn token(&mut self) -> String {
        self.event.token.clone()
    }

    fn header(&mut self, name: String) -> Option<String> {
        self.of_client(|client| {
            let header = client.headers.iter().find(|(header, _)| **header == *name);
            header.map(|(_, value)| value.as_ref().into())
        })
    }

    fn attribute(&mut self, name: String) -> Option<String> {
        self.of_client(|client| client.attributes.get(&*name).map(|value| value.as_ref().into()))
    }

    fn now(&mut self) -> u64 {
        self.event.now
    }
}

// ----------------------------------------------------------------------------------------------------
// effects

impl effects::Host for State {
    fn publish(&mut self, address: String, payload: Vec<u8>) -> Result<(), Error> {
        self.effect(
            &[Hook::Connect, Hook::Message, Hook::Disconnect, Hook::Timer],
            address.len() + payload.len(),
        )?;
        let address = parse(&address)?;
        let mut payload = payload.into();
        if self.event.speaks_json() {
            payload = json::compact(payload).map_err(|e| error(code::INVALID_JSON, e.to_string()))?;
        }
        self.record(Effect::Publish { address, payload });
        Ok(())
    }

    fn subscribe(&mut self, channel: String) -> Result<(), Error> {
        self.effect(&[Hook::Connect, Hook::Message], channel.len())?;
        self.record(Effect::Subscribe(parse_subscription(&channel)?));
        Ok(())
    }

    fn unsubscribe(&mut self, channel: String) -> Result<(), Error> {
        self.effect(&[Hook::Connect, Hook::Message], channel.len())?;
        self.record(Effect::Unsubscribe(parse_subscription(&channel)?));
        Ok(())
    }

    fn disconnect(&mut self, why: types::Refusal) -> Result<(), Error> {
        self.effect(&[Hook::Connect, Hook::Message], why.reason.len())?;
        let refusal = answer::close(&why).map_err(|why| error(code::INVALID_CODE, why))?;
        self.record(Effect::Disconnect(refusal));
        Ok(())
    }

    fn refresh(&mut self, expires_at: Option<u64>) -> Result<(), Error> {
        self.effect(&[Hook::Message], size_of::<u64>())?;
        self.record(Effect::Refresh(expires_at));
        Ok(())
    }

    fn refresh_subscription(&mut self, channel: String, expires_at: Option<u64>) -> Result<(), Error> {
        self.effect(&[Hook::Connect, Hook::Message], channel.len() + size_of::<u64>())?;
        let (channel, expiry) = (parse_subscription(&channel)?, expires_at.into());
        self.record(Effect::RefreshSubscription { channel, expiry });
        Ok(())
    }

    fn set_subscription_expiry(&mut self, expires_at: Option<u64>) -> Result<(), Error> {
        self.effect(&[Hook::Message], size_of::<u64>())?;
        if !matches!(self.event.kind, Some(Kind::Subscribe | Kind::SubRefresh)) {
            let message = "only a subscribe and a sub-refresh set the expiry of their subscription";
            return Err(error(code::NOT_IN_THIS_HOOK, message));
        }
        self.record(Effect::SetSubscriptionExpiry(expires_at.into()));
        Ok(())
    }

    fn set_payload(&mut self, payload: Vec<u8>) -> Result<(), Error> {
        self.effect(&[Hook::Message], payload.len())?;
        let mut payload = payload.into();
        if self.event.speaks_json() {
            payload = json::compact(payload).map_err(|e| error(code::INVALID_JSON, e.to_string()))?;
        }
        State::set_payload(self, payload);
        Ok(())
    }

    fn set_attribute(&mut self, name: String, value: String) -> Result<(), Error> {
        self.effect(&[Hook::Connect, Hook::Message], name.len() + value.len())?;
        if name.is_empty() {
            return Err(error(code::INVALID_NAME, "the name of an attribute is empty"));
        }
        self.record(Effect::SetAttribute { name: name.into(), value: value.into() });
        Ok(())
    }

    fn emit(&mut self, upstream: String, payload: Vec<u8>) -> Result<(), Error> {
        let hooks = [Hook::Connect, Hook::Message, Hook::Disconnect, Hook::Timer];
        self.effect(&hooks, upstream.len() + payload.len())?;
        self.capabilities.can_emit(&upstream, payload.len()).map_err(|why| {
            let upstream = cut(&upstream, NAME_BYTES_SHOWN);
            match why {
                CannotEmit::NotGranted => {
                    let message = format!("the upstream {upstream:?} is not granted (grants.upstreams)");
                    error(code::NOT_GRANTED, message)
                }
                CannotEmit::NoRoom(NoRoom::Unknown) => {
                    let message = format!("the configuration has no table [upstreams.{upstream}]");
                    error(code::NO_SUCH_UPSTREAM, message)
                }
                CannotEmit::NoRoom(NoRoom::Full) => error(
                    code::BUSY,
                    format!("the queue of the upstream {upstream:?} is full; try again later"),
                ),
            }
        })?;
        let plugin = self.log.plugin.clone();
        self.record(Effect::Emit { upstream: upstream.into(), plugin, payload: payload.into() });
        Ok(())
    }

    fn disconnect_address(&mut self, address: String, why: types::Refusal) -> Result<(), Error> {
        self.reach(&address, why.reason.len(), || {
            let refusal = answer::close(&why).map_err(|why| error(code::INVALID_CODE, why))?;
            Ok(Action::Disconnect(refusal))
        })
    }

    fn subscribe_address(&mut self, address: String, channel: String) -> Result<(), Error> {
        self.reach(&address, channel.len(), || Ok(Action::Subscribe(parse_subscription(&channel)?)))
    }

    fn unsubscribe_address(&mut self, address: String, channel: String) -> Result<(), Error> {
        self.reach(&address, channel.len(), || Ok(Action::Unsubscribe(parse_subscription(&channel)?)))
    }

    fn refresh_address(&mut self, address: String, expires_at: Option<u64>) -> Result<(), Error> {
        self.reach(&address, size_of::<u64>(), || Ok(Action::Refresh(expires_at)))
    }
}

impl State {
    /// Records an action on the connections of an address.
    fn reach(
        &mut self,
        address: &str,
        bytes: usize,
        action: impl FnOnce() -> Result<Action, Error>,
    ) -> Result<(), Error> {
        let hooks = [Hook::Connect, Hook::Message, Hook::Disconnect, Hook::Timer];
        self.effect(&hooks, address.len() + bytes)?;
        let address = parse(address)?;
        if address.target() == Target::Channel {
            let message =
                format!("{address:?} is a channel; `#` and a user, or `@` and a connection, is needed");
            return Err(error(code::INVALID_ADDRESS, message));
        }
        // Otherwise a plugin that admits a client could not disconnect the user's other connections.
        let connecting = self.event.hook == Hook::Connect;
        let except = self.event.client.as_ref().filter(|_| connecting).map(|client| client.number);
        self.record(Effect::Reach { address, except, action: action()? });
        Ok(())
    }

    /// Checks common to all effects, before their contents.
    fn effect(&mut self, hooks: &[Hook], bytes: usize) -> Result<(), Error> {
        if !hooks.contains(&self.event.hook) {
            return Err(not_in_this_hook());
        }
        self.room_for_effect().and_then(|()| self.spend(bytes)).map_err(|exhausted| self.exhausted(exhausted))
    }

    fn exhausted(&self, exhausted: Exhausted) -> Error {
        match exhausted {
            Exhausted::Effects => {
                let most = self.limits.effects_max;
                error(code::TOO_MANY_EFFECTS, format!("more than {most} effects in one call (effects_max)"))
            }
            Exhausted::Bytes => {
                let most = self.limits.effect_bytes_max;
                error(code::TOO_MANY_BYTES, format!("more than {most} bytes in one call (effect_bytes_max)"))
            }
        }
    }
}

// --------------------------------------------------------------------------------------------------
// interests

/// Most patterns, because each message is compared with all of them.
const PATTERNS_MAX: usize = 64;
/// Most permissions, because each is checked for every message of its kinds.
const PERMISSIONS_MAX: usize = 16;
/// Range of timer intervals: more often would be a load, less often is a task for an external scheduler.
const TIMER_MILLIS: RangeInclusive<u64> = 100..=24 * 60 * 60 * 1000;

impl interests::Host for State {
    fn kinds(&mut self, kinds: Vec<types::Kind>) -> Result<(), Error> {
        self.only_in_configure()?;
        self.interests.kinds = Kinds::from_numbers(&kinds);
        Ok(())
    }

    fn channels(&mut self, patterns: Vec<String>) -> Result<(), Error> {
        self.only_in_configure()?;
        self.interests.channels = Some(parse_patterns(&patterns)?);
        Ok(())
    }

    fn permit(&mut self, kinds: Vec<types::Kind>, attribute: String) -> Result<(), Error> {
        self.only_in_configure()?;
        if attribute.is_empty() {
            return Err(error(code::INVALID_NAME, "the name of the attribute is empty"));
        }
        if self.interests.permissions.len() >= PERMISSIONS_MAX {
            return Err(error(code::TOO_MANY_EFFECTS, format!("more than {PERMISSIONS_MAX} permissions")));
        }
        let kinds = Kinds::from_numbers(&kinds);
        self.interests.permissions.push(Permission { kinds, attribute: attribute.into() });
        Ok(())
    }

    fn payload(&mut self, needed: bool) {
        // There is no error to return, so a call from another hook has no effect.
        if self.event.hook == Hook::Configure {
            self.interests.payload = needed;
        }
    }

    fn timer(&mut self, interval: u64) -> Result<(), Error> {
        self.only_in_configure()?;
        if !self.interests.hooks.on_timer {
            return Err(error(code::NOT_IN_THIS_HOOK, "the plugin does not export the hook `on-timer`"));
        }
        if !TIMER_MILLIS.contains(&interval) {
            let (least, most) = (TIMER_MILLIS.start(), TIMER_MILLIS.end());
            let message = format!("a timer of {interval} milliseconds; possible are {least} to {most}");
            return Err(error(code::INVALID_INTERVAL, message));
        }
        self.interests.timer = Some(Duration::from_millis(interval));
        Ok(())
    }

    fn deliver(&mut self, channels: Vec<String>, class_attribute: Option<String>) -> Result<(), Error> {
        self.only_in_configure()?;
        if !self.interests.hooks.on_deliver {
            return Err(error(code::NOT_IN_THIS_HOOK, "the plugin does not export the hook `on-deliver`"));
        }
        if class_attribute.as_ref().is_some_and(String::is_empty) {
            return Err(error(code::INVALID_NAME, "the name of the class attribute is empty"));
        }
        let channels = parse_patterns(&channels)?;
        self.interests.deliver = Some(DeliverInterest { channels, class: class_attribute.map(Into::into) });
        Ok(())
    }
}

fn parse_patterns(patterns: &[String]) -> Result<Box<[Pattern]>, Error> {
    if patterns.len() > PATTERNS_MAX {
        return Err(error(code::TOO_MANY_EFFECTS, format!("more than {PATTERNS_MAX} channel patterns")));
    }
    let parse = |text: &String| {
        let message = || format!("{text:?} is not a channel name that may end in `*`");
        Pattern::parse(text).ok_or_else(|| error(code::INVALID_ADDRESS, message()))
    };
    patterns.iter().map(parse).collect()
}

impl State {
    pub(super) fn only_in_configure(&self) -> Result<(), Error> {
        if self.event.hook == Hook::Configure { Ok(()) } else { Err(not_in_this_hook()) }
    }
}

// --------------------------------------------------------------------------------------------------------
// log

impl log::Host for State {
    fn line(&mut self, level: u32, message: String) {
        self.log.line(Level::from_number(level), &message);
    }
}

// ------------------------------------------------------------------------------------------------
// environment

impl environment::Host for State {
    fn get(&mut self, name: String) -> Option<String> {
        let value = self.log.environment.get(&name);
        if value.is_none() {
            self.log.environment.refuse(&self.log.plugin, &name);
        }
        value.map(str::to_owned)
    }
}

fn parse(address: &str) -> Result<Channel, Error> {
    Channel::parse(address).map_err(|invalid| error(code::INVALID_ADDRESS, invalid.to_string()))
}

/// The name of a subscription, which may be a pattern of channels.
fn parse_subscription(name: &str) -> Result<Channel, Error> {
    Channel::parse_subscription(name).map_err(|invalid| error(code::INVALID_ADDRESS, invalid.to_string()))
}

pub(super) fn not_in_this_hook() -> Error {
    error(code::NOT_IN_THIS_HOOK, "not possible in this hook")
}

pub(super) fn error(code: u32, message: impl Into<String>) -> Error {
    Error { code, message: message.into() }
}
