//! Values that the gateway keeps for the plugin. All workers of a node share them, and a reload keeps them.
//!
//! The settings file limits their number and bytes (`[state]`). Above these limits the gateway discards the
//! least recently used values, so use them as a cache and not as a database. Every call takes effect at once,
//! even if the hook panics afterwards. Keys have at most 512 bytes. The settings file must grant the use of
//! values: `key-value = true` under `[grants]`.
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

/// Declares in [`configure`](crate::Plugin::configure) that these settings need values.
///
/// If the code of a plugin contains this call, the plugin loads without the grant unless it makes the call in
/// `configure`. Without the grant the other functions of this module find nothing, or fail with
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

/// Sets a value for a time, or with `None` for as long as there is room.
///
/// # Errors
///
/// If values are not granted, or this one is larger than the gateway keeps.
pub fn set(key: &str, value: impl AsRef<[u8]>, ttl: impl Into<Option<Duration>>) -> Result<(), HostError> {
    host::set(key, value.as_ref(), ttl.into().map(millis))
}

/// Sets a value if the key has none. Returns whether it did.
///
/// # Errors
///
/// If values are not granted, or this one is larger than the gateway keeps.
pub fn add(key: &str, value: impl AsRef<[u8]>, ttl: impl Into<Option<Duration>>) -> Result<bool, HostError> {
    host::add(key, value.as_ref(), ttl.into().map(millis))
}

/// Adds to a number, kept as decimal text, and returns the sum. A key without a value starts at 0 and gets
/// the time to live; a key with a value keeps its own.
///
/// # Errors
///
/// If values are not granted, or the value is not a number or would be too large a number.
pub fn increment(key: &str, by: i64, ttl: impl Into<Option<Duration>>) -> Result<i64, HostError> {
    host::increment(key, by, ttl.into().map(millis))
}

/// Removes a value. Returns whether there was one.
pub fn delete(key: &str) -> bool {
    host::delete(key)
}
