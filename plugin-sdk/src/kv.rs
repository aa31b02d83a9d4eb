//! Values that the gateway keeps for the plugin: the same for all workers of a node, and untouched by a
//! reload.
//!
//! They are bounded in number and bytes (`[state]` in the settings file); what was used longest ago gives way
//! first, so they are a memory and not a database. Every call takes effect at once: a hook that panics
//! afterwards has still done it. Keys have at most 512 bytes. The settings file has to grant it: `[grants]`
//! with `key-value = true`.
//!
//! ```
//! use gateway_plugin_sdk::prelude::*;
//! use gateway_plugin_sdk::kv;
//! use std::time::Duration;
//!
//! # struct Counter;
//! # #[plugin]
//! # impl Plugin for Counter {
//! #     type Config = ();
//! #     fn configure(_: (), _: &mut Interests) -> Result<Self, String> { Ok(Self) }
//! fn on_message(&mut self, event: &Message<'_>) -> Verdict {
//!     // How many messages this user has sent today.
//!     let today = kv::increment(&format!("sent:{}", event.user()), 1, Duration::from_secs(86_400));
//!     match today {
//!         Ok(count) => Verdict::reply_json(&json!({"today": count})),
//!         Err(error) => {
//!             log::error!("no count: {error}");
//!             Verdict::next()
//!         }
//!     }
//! }
//! # }
//! # use gateway_plugin_sdk::kit::Kit;
//! # let mut kit = Kit::<Counter>::new(json!({}))?;
//! # let mut send = || kit.connection("c").user("42").message(Kind::Rpc).send().verdict;
//! # assert_eq!(send(), Verdict::reply(r#"{"today":1}"#));
//! # assert_eq!(send(), Verdict::reply(r#"{"today":2}"#));
//! # Ok::<(), String>(())
//! ```

use std::time::Duration;

use crate::rate::millis;
use crate::{HostError, host};

/// In [`configure`](crate::Plugin::configure): these settings need values.
///
/// A plugin that calls this anywhere does not need the grant by itself: it loads without it as long as it
/// does not ask. What it calls here all the same finds nothing, or fails with
/// [`NotGranted`](crate::HostErrorKind::NotGranted).
///
/// # Errors
///
/// In other hooks [`WrongHook`](crate::HostErrorKind::WrongHook).
pub fn ask() -> Result<(), HostError> {
    host::ask_key_value()
}

/// The value of a key.
pub fn get(key: &str) -> Option<Vec<u8>> {
    host::get(key)
}

/// Sets a value, for a time or (`None`) for as long as there is room.
///
/// # Errors
///
/// If the value is not granted, or is larger than the gateway keeps.
pub fn set(key: &str, value: impl AsRef<[u8]>, ttl: impl Into<Option<Duration>>) -> Result<(), HostError> {
    host::set(key, value.as_ref(), ttl.into().map(millis))
}

/// Sets a value if the key has none. Whether it did.
///
/// # Errors
///
/// If values are not granted, or this one is larger than the gateway keeps.
pub fn add(key: &str, value: impl AsRef<[u8]>, ttl: impl Into<Option<Duration>>) -> Result<bool, HostError> {
    host::add(key, value.as_ref(), ttl.into().map(millis))
}

/// Adds to a number, kept as decimal text, and gives the sum. A key without a value begins at 0 and gets the
/// time to live; one that has a value keeps its own.
///
/// # Errors
///
/// If values are not granted, or the value is not a number or would be too large a number.
pub fn increment(key: &str, by: i64, ttl: impl Into<Option<Duration>>) -> Result<i64, HostError> {
    host::increment(key, by, ttl.into().map(millis))
}

/// Removes a value. Whether there was one.
pub fn delete(key: &str) -> bool {
    host::delete(key)
}
