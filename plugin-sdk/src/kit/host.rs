//! The gateway's side of the interface, with the functions of the one that plugins meet inside it. A hook
//! runs between [`enter`] and its return; what it asks is answered from the [`Call`] and what it does is
//! recorded there.

mod state;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::rc::Rc;

use super::client::Client;
use super::kept::Kept;
use super::{Effect, LogLine, check};
use crate::error::HostErrorKind;
use crate::http::{Request, Response};
use crate::log::Level;
use crate::{HostError, Interests, Kind, Refusal, address};

pub(crate) use state::{
    add, ask_key_value, declare_bucket, delete, get, increment, peek, set, take, take_connection,
};

/// As many channel patterns as the gateway takes.
const PATTERNS_MAX: usize = 64;
/// Permissions of one plugin.
const PERMISSIONS_MAX: usize = 16;
/// The intervals that a timer can have, in milliseconds.
const TIMER_MILLIS: RangeInclusive<u128> = 100..=24 * 60 * 60 * 1000;

/// What one call of a hook may use. The values are the gateway's defaults.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Also addresses of a route, and channels and attributes of an identity.
    pub(super) effects: usize,
    /// In effects and in the answer together.
    pub(super) bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { effects: 64, bytes: 256 << 10 }
    }
}

/// What plays every other server.
pub(super) struct Server(pub(super) Box<Answer>);

type Answer = dyn FnMut(&Request) -> Result<Response, HostError>;

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

/// What is there for every call of a kit.
#[derive(Debug)]
pub(super) struct Around {
    /// What answers requests.
    pub(super) http: RefCell<Option<Server>>,
    pub(super) environment: RefCell<BTreeMap<String, String>>,
    pub(super) kept: RefCell<Kept>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Configure,
    Connect,
    Message,
    Disconnect,
    Timer,
    Deliver,
}

/// One call of a hook.
#[derive(Debug)]
pub(super) struct Call {
    hook: Hook,
    now: u64,
    pub(super) limits: Limits,
    /// Handed over so far.
    bytes: usize,
    pub(super) client: Option<Client>,
    pub(super) channel: String,
    /// Of a message.
    pub(super) kind: Option<Kind>,
    pub(super) method: String,
    pub(super) binary: bool,
    pub(super) token: String,
    around: Rc<Around>,
    pub(super) effects: Vec<Effect>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) log: Vec<LogLine>,
}

impl Call {
    pub(super) fn new(hook: Hook, now: u64, limits: Limits, around: &Rc<Around>) -> Self {
        Self {
            around: around.clone(),
            hook,
            now,
            limits,
            bytes: 0,
            client: None,
            channel: String::new(),
            kind: None,
            method: String::new(),
            binary: false,
            token: String::new(),
            effects: Vec::new(),
            payload: None,
            log: Vec::new(),
        }
    }

    /// Counts bytes against the budget of the call.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), HostError> {
        let sum = self.bytes.saturating_add(bytes);
        if sum > self.limits.bytes {
            let message = format!("more than {} bytes in one call (effect_bytes_max)", self.limits.bytes);
            return Err(HostError::new(HostErrorKind::TooManyBytes, message));
        }
        self.bytes = sum;
        Ok(())
    }

    /// What every effect has to pass before its content is looked at.
    fn permit(&mut self, hooks: &[Hook], bytes: usize) -> Result<(), HostError> {
        if !hooks.contains(&self.hook) {
            return Err(HostError::new(HostErrorKind::WrongHook, "not possible in this hook"));
        }
        if self.effects.len() >= self.limits.effects {
            let message = format!("more than {} effects in one call (effects_max)", self.limits.effects);
            return Err(HostError::new(HostErrorKind::TooManyEffects, message));
        }
        self.spend(bytes)
    }

    fn only_in_configure(&self) -> Result<(), HostError> {
        match self.hook {
            Hook::Configure => Ok(()),
            _ => Err(HostError::new(HostErrorKind::WrongHook, "not possible in this hook")),
        }
    }

    pub(super) fn speaks_json(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.protocol == "centrifuge-json")
    }
}

thread_local! {
    static CALL: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// Runs a hook and hands back what it did.
pub(super) fn enter<R>(call: Call, hook: impl FnOnce() -> R) -> (R, Call) {
    /// Ends the call when the hook panics as well, so that a caught panic leaves nothing to the next test.
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            CALL.take();
        }
    }

    CALL.replace(Some(call));
    let leave = Leave;
    let answer = hook();
    let call = CALL.take();
    drop(leave);
    match call {
        Some(call) => (answer, call),
        None => panic!("a hook ran a kit of its own"),
    }
}

fn ask<R>(answer: impl FnOnce(&mut Call) -> R) -> R {
    CALL.with_borrow_mut(|call| match call {
        Some(call) => answer(call),
        None => panic!("an event was used outside of the hook that got it"),
    })
}

fn ask_client<R: Default>(answer: impl FnOnce(&Client) -> R) -> R {
    ask(|call| call.client.as_ref().map(answer).unwrap_or_default())
}

// ---- Context ----

pub(crate) fn connection() -> String {
    ask_client(|client| client.id.clone())
}

pub(crate) fn user() -> String {
    ask_client(|client| client.user.clone())
}

pub(crate) fn protocol() -> String {
    ask_client(|client| client.protocol.clone())
}

pub(crate) fn remote_address() -> String {
    ask_client(|client| client.remote_address.clone())
}

pub(crate) fn header(name: &str) -> Option<String> {
    ask_client(|client| client.headers.get(name).cloned())
}

pub(crate) fn attribute(name: &str) -> Option<String> {
    ask_client(|client| client.attributes.get(name).cloned())
}

pub(crate) fn channel() -> String {
    ask(|call| call.channel.clone())
}

pub(crate) fn method() -> String {
    ask(|call| call.method.clone())
}

pub(crate) fn token() -> String {
    ask(|call| call.token.clone())
}

pub(crate) fn binary() -> bool {
    ask(|call| call.binary)
}

pub(crate) fn now() -> u64 {
    ask(|call| call.now)
}

// ---- Effects ----

const WHILE_CONNECTED: &[Hook] = &[Hook::Connect, Hook::Message];
const ANY: &[Hook] = &[Hook::Connect, Hook::Message, Hook::Disconnect, Hook::Timer];

pub(crate) fn publish(address: &str, payload: &[u8]) -> Result<(), HostError> {
    ask(|call| {
        call.permit(ANY, address.len() + payload.len())?;
        valid(address)?;
        if call.speaks_json() {
            check::is_json("the payload", payload)
                .map_err(|why| HostError::new(HostErrorKind::NotJson, why))?;
        }
        call.effects.push(Effect::publish(address, payload));
        Ok(())
    })
}

pub(crate) fn subscribe(channel: &str) -> Result<(), HostError> {
    ask(|call| {
        call.permit(WHILE_CONNECTED, channel.len())?;
        subscribable(channel)?;
        call.effects.push(Effect::Subscribe(channel.to_owned()));
        Ok(())
    })
}

pub(crate) fn unsubscribe(channel: &str) -> Result<(), HostError> {
    ask(|call| {
        call.permit(WHILE_CONNECTED, channel.len())?;
        subscribable(channel)?;
        call.effects.push(Effect::Unsubscribe(channel.to_owned()));
        Ok(())
    })
}

pub(crate) fn disconnect(why: Refusal) -> Result<(), HostError> {
    ask(|call| {
        call.permit(WHILE_CONNECTED, why.reason.len())?;
        check::is_closing(&why).map_err(|why| HostError::new(HostErrorKind::InvalidCode, why))?;
        call.effects.push(Effect::Disconnect(why));
        Ok(())
    })
}

pub(crate) fn set_payload(payload: &[u8]) -> Result<(), HostError> {
    ask(|call| {
        call.permit(&[Hook::Message], payload.len())?;
        if call.speaks_json() {
            check::is_json("the payload", payload)
                .map_err(|why| HostError::new(HostErrorKind::NotJson, why))?;
        }
        call.payload = Some(payload.to_owned());
        Ok(())
    })
}

pub(crate) fn set_attribute(name: &str, value: &str) -> Result<(), HostError> {
    ask(|call| {
        call.permit(WHILE_CONNECTED, name.len() + value.len())?;
        if name.is_empty() {
            return Err(HostError::new(HostErrorKind::InvalidName, "the name of an attribute is empty"));
        }
        call.effects.push(Effect::set_attribute(name, value));
        Ok(())
    })
}

pub(crate) fn disconnect_address(address: &str, why: Refusal) -> Result<(), HostError> {
    ask(|call| {
        call.permit(ANY, address.len() + why.reason.len())?;
        reachable(address)?;
        check::is_closing(&why).map_err(|why| HostError::new(HostErrorKind::InvalidCode, why))?;
        call.effects.push(Effect::DisconnectAddress { address: address.to_owned(), refusal: why });
        Ok(())
    })
}

pub(crate) fn subscribe_address(address: &str, channel: &str) -> Result<(), HostError> {
    ask(|call| {
        call.permit(ANY, address.len() + channel.len())?;
        reachable(address)?;
        subscribable(channel)?;
        call.effects.push(Effect::subscribe_address(address, channel));
        Ok(())
    })
}

pub(crate) fn unsubscribe_address(address: &str, channel: &str) -> Result<(), HostError> {
    ask(|call| {
        call.permit(ANY, address.len() + channel.len())?;
        reachable(address)?;
        subscribable(channel)?;
        call.effects.push(Effect::unsubscribe_address(address, channel));
        Ok(())
    })
}

pub(crate) fn refresh(expires_at: Option<u64>) -> Result<(), HostError> {
    ask(|call| {
        call.permit(&[Hook::Message], size_of::<u64>())?;
        call.effects.push(Effect::Refresh(expires_at));
        Ok(())
    })
}

pub(crate) fn refresh_subscription(channel: &str, expires_at: Option<u64>) -> Result<(), HostError> {
    ask(|call| {
        call.permit(WHILE_CONNECTED, channel.len() + size_of::<u64>())?;
        subscribable(channel)?;
        call.effects.push(Effect::refresh_subscription(channel, expires_at));
        Ok(())
    })
}

pub(crate) fn set_subscription_expiry(expires_at: Option<u64>) -> Result<(), HostError> {
    ask(|call| {
        call.permit(&[Hook::Message], size_of::<u64>())?;
        if !matches!(call.kind, Some(Kind::Subscribe | Kind::SubRefresh)) {
            let message = "only a subscribe and a sub-refresh set the expiry of their subscription";
            return Err(HostError::new(HostErrorKind::WrongHook, message));
        }
        call.effects.push(Effect::SetSubscriptionExpiry(expires_at));
        Ok(())
    })
}

pub(crate) fn refresh_address(address: &str, expires_at: Option<u64>) -> Result<(), HostError> {
    ask(|call| {
        call.permit(ANY, address.len())?;
        reachable(address)?;
        call.effects.push(Effect::refresh_address(address, expires_at));
        Ok(())
    })
}

/// Whether it is the address of connections.
fn reachable(address: &str) -> Result<(), HostError> {
    valid(address)?;
    if address.starts_with(['#', '@']) {
        return Ok(());
    }
    let message = format!("{address:?} is a channel; `#` and a user, or `@` and a connection, is needed");
    Err(HostError::new(HostErrorKind::InvalidAddress, message))
}

/// Every origin is granted.
pub(crate) fn ask_http(url: &str) -> Result<(), HostError> {
    ask(|call| call.only_in_configure())?;
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    if host.is_none_or(|host| host.is_empty() || host.starts_with(['/', ':', '?']) || host.contains('#')) {
        return Err(HostError::new(HostErrorKind::InvalidRequest, "is no URL"));
    }
    Ok(())
}

/// Every origin is granted; nothing is cached.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the function of the same name inside the gateway consumes it"
)]
pub(crate) fn fetch(request: Request) -> Result<Response, HostError> {
    let around = ask(|call| {
        if call.hook == Hook::Connect {
            Ok(call.around.clone())
        } else {
            Err(HostError::new(HostErrorKind::WrongHook, "not possible in this hook"))
        }
    })?;
    let mut server = around.http.borrow_mut();
    match &mut *server {
        Some(Server(answer)) => answer(&request),
        None => {
            let message = "the test has not said what servers answer (Kit::http)";
            Err(HostError::new(HostErrorKind::RequestFailed, message))
        }
    }
}

/// Every upstream is granted and has room.
pub(crate) fn emit(upstream: &str, payload: &[u8]) -> Result<(), HostError> {
    ask(|call| {
        call.permit(ANY, upstream.len() + payload.len())?;
        call.effects.push(Effect::emit(upstream, payload));
        Ok(())
    })
}

/// Whether a text is a channel, or a pattern of channels.
fn subscribable(channel: &str) -> Result<(), HostError> {
    check::is_subscription(channel).map_err(|why| HostError::new(HostErrorKind::InvalidAddress, why))
}

fn valid(address: &str) -> Result<(), HostError> {
    check::is_address(address).map_err(|why| HostError::new(HostErrorKind::InvalidAddress, why))
}

// ---- Environment ----

pub(crate) fn environment(name: &str) -> Option<String> {
    ask(|call| call.around.environment.borrow().get(name).cloned())
}

// ---- Interests and log ----

pub(super) fn declare(asked: &Interests) -> Result<(), HostError> {
    let (deliver, attribute) = asked.asked_deliveries().unwrap_or_default();
    if attribute == Some("") {
        let message = "the name of the class attribute is empty";
        return Err(HostError::new(HostErrorKind::InvalidName, message));
    }
    patterns(deliver)?;
    patterns(asked.asked_channels().unwrap_or_default())?;
    if asked.asked_permissions().len() > PERMISSIONS_MAX {
        let message = format!("more than {PERMISSIONS_MAX} permissions");
        return Err(HostError::new(HostErrorKind::TooManyEffects, message));
    }
    if asked.asked_permissions().iter().any(|(attribute, _)| attribute.is_empty()) {
        return Err(HostError::new(HostErrorKind::InvalidName, "the name of the attribute is empty"));
    }
    if let Some(millis) = asked.asked_timer().map(|interval| interval.as_millis())
        && !TIMER_MILLIS.contains(&millis)
    {
        let (least, most) = (TIMER_MILLIS.start(), TIMER_MILLIS.end());
        let message = format!("a timer of {millis} milliseconds; possible are {least} to {most}");
        return Err(HostError::new(HostErrorKind::InvalidInterval, message));
    }
    Ok(())
}

fn patterns(patterns: &[String]) -> Result<(), HostError> {
    if patterns.len() > PATTERNS_MAX {
        let message = format!("more than {PATTERNS_MAX} channel patterns");
        return Err(HostError::new(HostErrorKind::TooManyEffects, message));
    }
    match patterns.iter().find(|pattern| !address::is_pattern(pattern)) {
        Some(bad) => {
            Err(HostError::new(HostErrorKind::InvalidAddress, format!("{bad:?} is not a channel pattern")))
        }
        None => Ok(()),
    }
}

/// Code that a test runs outside of a hook logs too: its lines go where the test's own output goes.
pub(crate) fn log(level: Level, message: &str) {
    CALL.with_borrow_mut(|call| match call {
        Some(call) => call.log.push(LogLine { level, message: message.to_owned() }),
        None => eprintln!("{level:?}: {message}"),
    });
}
