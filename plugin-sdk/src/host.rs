//! The functions of the gateway, for a plugin that runs inside it. The test kit has the same functions.

use crate::bindings::host::gateway::plugin::{
    buckets, context, effects, environment as variables, http, interests, key_value, log as lines, types,
};
use crate::error::HostErrorKind;
use crate::log::Level;
use crate::rate::Rate;
use crate::{HostError, Interests, Refusal};

pub(crate) use buckets::{peek, take, take_connection};
pub(crate) use context::{
    attribute, binary, channel, connection, header, method, now, protocol, remote_address, token, user,
};

pub(crate) fn publish(address: &str, payload: &[u8]) -> Result<(), HostError> {
    effects::publish(address, payload).map_err(HostError::from)
}

pub(crate) fn subscribe(channel: &str) -> Result<(), HostError> {
    effects::subscribe(channel).map_err(HostError::from)
}

pub(crate) fn unsubscribe(channel: &str) -> Result<(), HostError> {
    effects::unsubscribe(channel).map_err(HostError::from)
}

pub(crate) fn disconnect(why: Refusal) -> Result<(), HostError> {
    effects::disconnect(&why.into()).map_err(HostError::from)
}

pub(crate) fn set_payload(payload: &[u8]) -> Result<(), HostError> {
    effects::set_payload(payload).map_err(HostError::from)
}

pub(crate) fn set_attribute(name: &str, value: &str) -> Result<(), HostError> {
    effects::set_attribute(name, value).map_err(HostError::from)
}

pub(crate) fn disconnect_address(address: &str, why: Refusal) -> Result<(), HostError> {
    effects::disconnect_address(address, &why.into()).map_err(HostError::from)
}

pub(crate) fn subscribe_address(address: &str, channel: &str) -> Result<(), HostError> {
    effects::subscribe_address(address, channel).map_err(HostError::from)
}

pub(crate) fn unsubscribe_address(address: &str, channel: &str) -> Result<(), HostError> {
    effects::unsubscribe_address(address, channel).map_err(HostError::from)
}

pub(crate) fn refresh(expires_at: Option<u64>) -> Result<(), HostError> {
    effects::refresh(expires_at).map_err(HostError::from)
}

pub(crate) fn refresh_subscription(channel: &str, expires_at: Option<u64>) -> Result<(), HostError> {
    effects::refresh_subscription(channel, expires_at).map_err(HostError::from)
}

pub(crate) fn set_subscription_expiry(expires_at: Option<u64>) -> Result<(), HostError> {
    effects::set_subscription_expiry(expires_at).map_err(HostError::from)
}

pub(crate) fn refresh_address(address: &str, expires_at: Option<u64>) -> Result<(), HostError> {
    effects::refresh_address(address, expires_at).map_err(HostError::from)
}

pub(crate) fn declare_bucket(name: &str, rate: Rate) -> Result<u32, HostError> {
    let Rate { algorithm, limit, period, burst, scope } = rate;
    let rule = buckets::Rule { algorithm, limit, period, burst, scope };
    buckets::declare(name, rule).map_err(HostError::from)
}

pub(crate) use key_value::{delete, get};

pub(crate) fn ask_key_value() -> Result<(), HostError> {
    key_value::ask().map_err(HostError::from)
}

pub(crate) fn set(key: &str, value: &[u8], ttl: Option<u64>) -> Result<(), HostError> {
    key_value::set(key, value, ttl).map_err(HostError::from)
}

pub(crate) fn add(key: &str, value: &[u8], ttl: Option<u64>) -> Result<bool, HostError> {
    key_value::add(key, value, ttl).map_err(HostError::from)
}

pub(crate) fn increment(key: &str, by: i64, ttl: Option<u64>) -> Result<i64, HostError> {
    key_value::increment(key, by, ttl).map_err(HostError::from)
}

pub(crate) fn ask_http(url: &str) -> Result<(), HostError> {
    http::ask(url).map_err(HostError::from)
}

pub(crate) fn fetch(request: crate::http::Request) -> Result<crate::http::Response, HostError> {
    let crate::http::Request { method, url, headers, body, deadline, cache } = request;
    let http::Response { status, headers, body, cached } =
        http::fetch(&http::Request { method, url, headers, body, deadline, cache })?;
    Ok(crate::http::Response { status, headers, body, cached })
}

pub(crate) fn emit(upstream: &str, payload: &[u8]) -> Result<(), HostError> {
    effects::emit(upstream, payload).map_err(HostError::from)
}

pub(crate) fn log(level: Level, message: &str) {
    lines::line(level.number(), message);
}

pub(crate) fn environment(name: &str) -> Option<String> {
    variables::get(name)
}

pub(crate) fn declare(asked: &Interests) -> Result<(), HostError> {
    if let Some(kinds) = asked.asked_kinds() {
        let numbers: Vec<u32> = kinds.iter().map(|kind| kind.number()).collect();
        interests::kinds(&numbers)?;
    }
    if let Some(patterns) = asked.asked_channels() {
        interests::channels(patterns)?;
    }
    for (attribute, kinds) in asked.asked_permissions() {
        let numbers: Vec<u32> = kinds.iter().map(|kind| kind.number()).collect();
        interests::permit(&numbers, attribute)?;
    }
    if !asked.wants_payload() {
        interests::payload(false);
    }
    if let Some(interval) = asked.asked_timer() {
        interests::timer(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX))?;
    }
    if let Some((patterns, attribute)) = asked.asked_deliveries() {
        interests::deliver(patterns, attribute)?;
    }
    Ok(())
}

impl From<types::Error> for HostError {
    fn from(error: types::Error) -> Self {
        Self { kind: HostErrorKind::from_number(error.code), message: error.message }
    }
}

impl From<Refusal> for types::Refusal {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code, reason: refusal.reason }
    }
}
