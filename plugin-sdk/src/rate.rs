//! Rate limits whose state the gateway keeps: exact over all workers of a node, and untouched by a reload.
//! One that is [`for_cluster`](Rate::for_cluster) counts what all nodes admit.
//!
//! Declare a [`Bucket`] in [`configure`](crate::Plugin::configure), take from it in the other hooks. The
//! settings file has to grant it: `[grants]` with `buckets = true`.
//!
//! ```
//! use std::time::Duration;
//!
//! use gateway_plugin_sdk::prelude::*;
//! use gateway_plugin_sdk::rate::{Bucket, Rate};
//!
//! struct Limited {
//!     per_user: Bucket,
//! }
//!
//! #[plugin]
//! impl Plugin for Limited {
//!     type Config = ();
//!
//!     fn configure(_: (), _: &mut Interests) -> Result<Self, String> {
//!         let rate = Rate::token_bucket(10, Duration::from_secs(1)).burst(20);
//!         Ok(Self { per_user: Bucket::declare("per user", rate)? })
//!     }
//!
//!     fn on_message(&mut self, event: &Message<'_>) -> Verdict {
//!         match self.per_user.take(event.user(), 1) {
//!             Ok(()) => Verdict::next(),
//!             Err(retry) => Verdict::deny(code::TOO_MANY_REQUESTS, retry.to_string()),
//!         }
//!     }
//! }
//!
//! use gateway_plugin_sdk::kit::Kit;
//!
//! let mut kit = Kit::<Limited>::new(json!({}))?;
//! let mut send = |kit: &mut Kit<Limited>| kit.connection("c1").user("42").message(Kind::Rpc).send().verdict;
//! for _ in 0..20 {
//!     assert_eq!(send(&mut kit), Verdict::Next);
//! }
//! assert_eq!(send(&mut kit), Verdict::deny(111, "retry after 100 ms"));
//! kit.advance(Duration::from_millis(100));
//! assert_eq!(send(&mut kit), Verdict::Next);
//! # Ok::<(), String>(())
//! ```

use std::fmt;
use std::time::Duration;

/// What to take from a bucket for, where an address of the network is meant: the rule of the gateway's own
/// limits.
#[doc(inline)]
pub use gateway_plugin_grammar::source::source;

use crate::{HostError, Message, host};

/// How much is admitted in which time.
///
/// Limits and bursts are 1 to 4294967295, periods 1 to 4294967295 milliseconds; [`Bucket::declare`] refuses
/// others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub(crate) algorithm: u32,
    pub(crate) limit: u64,
    pub(crate) period: u64,
    pub(crate) burst: u64,
    pub(crate) scope: u32,
}

/// Numbers of the interface.
const NODE: u32 = 1;
const CLUSTER: u32 = 2;

impl Rate {
    /// A bucket to which `limit` tokens a period are added evenly, and that holds `limit` unless it is given
    /// another [`burst`](Self::burst). Who pauses may catch up.
    pub fn token_bucket(limit: u64, period: Duration) -> Self {
        Self::new(1, limit, period)
    }

    /// A bucket that leaks `limit` a period evenly, and that holds one unless it is given a
    /// [`burst`](Self::burst): what is admitted is evenly spaced.
    pub fn leaky_bucket(limit: u64, period: Duration) -> Self {
        Self::new(2, limit, period)
    }

    /// `limit` in a window of one period that begins with the first that is admitted. Around the end of a
    /// window twice as much may pass.
    pub fn fixed_window(limit: u64, period: Duration) -> Self {
        Self::new(3, limit, period)
    }

    /// `limit` in the last period, where the window before is taken to have been evenly busy.
    pub fn sliding_window(limit: u64, period: Duration) -> Self {
        Self::new(4, limit, period)
    }

    /// How much is admitted at once; for buckets only.
    #[must_use]
    pub const fn burst(self, burst: u64) -> Self {
        Self { burst, ..self }
    }

    /// Of all nodes together, if the gateway has a Redis that connects them; else of this one, like every
    /// other rate.
    ///
    /// Nothing waits for it: each node decides by what it knows, tells the others about five times a second
    /// what it has admitted for the keys that were used, and hears what they have. Until then they may admit
    /// it once more: at most, for each other node, what one node admits in 400 ms and two round trips to
    /// Redis. A bucket pays that back before it admits anything else, and a window begins anew. While Redis
    /// is away each node limits by itself.
    ///
    /// [`Bucket::take_for`] knows no cluster: a connection is on one node.
    #[must_use]
    pub const fn for_cluster(self) -> Self {
        Self { scope: CLUSTER, ..self }
    }

    fn new(algorithm: u32, limit: u64, period: Duration) -> Self {
        Self { algorithm, limit, period: millis(period), burst: 0, scope: NODE }
    }
}

/// A rate limit with a state for every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket(u32);

impl Bucket {
    /// Declares a bucket; in [`configure`](crate::Plugin::configure) only, and at most 64.
    ///
    /// The same name and rate find their state again after a reload. With another rate nothing has been taken
    /// yet.
    ///
    /// # Errors
    ///
    /// If buckets are not granted, the name or the rate is not valid, or this is not
    /// [`configure`](crate::Plugin::configure).
    pub fn declare(name: &str, rate: Rate) -> Result<Self, HostError> {
        host::declare_bucket(name, rate).map(Self)
    }

    /// Takes `cost` for a key of at most 512 bytes. If it is not admitted nothing is taken.
    ///
    /// Takes effect at once: a hook that panics afterwards has taken it.
    ///
    /// # Errors
    ///
    /// If it is not admitted: after which time it would be.
    pub fn take(self, key: impl AsRef<[u8]>, cost: u32) -> Result<(), RetryAfter> {
        admitted(host::take(self.0, key.as_ref(), cost))
    }

    /// Takes `cost` for the connection of a message. Cheaper than a key, because the state belongs to the
    /// connection.
    ///
    /// # Errors
    ///
    /// If it is not admitted: after which time it would be.
    pub fn take_for(self, event: &Message<'_>, cost: u32) -> Result<(), RetryAfter> {
        // The gateway knows which one it is; the argument makes sure that there is one.
        let _ = event;
        admitted(host::take_connection(self.0, cost))
    }

    /// What is left for a key.
    pub fn room(self, key: impl AsRef<[u8]>) -> Room {
        let (remaining, full_in) = host::peek(self.0, key.as_ref());
        Room { remaining, full_in: Duration::from_millis(full_in) }
    }
}

/// What a bucket would admit for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// At once and now.
    pub remaining: u64,
    /// Until everything is admitted again.
    pub full_in: Duration,
}

/// It was not admitted. As text: `retry after 100 ms`, or `too much at once`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter(u64);

impl RetryAfter {
    /// When it would be admitted if nothing else were taken; `None` if it never is, because it costs more
    /// than is admitted at once or the key is too long.
    pub const fn duration(self) -> Option<Duration> {
        match self.0 {
            u64::MAX => None,
            millis => Some(Duration::from_millis(millis)),
        }
    }
}

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("too much at once"),
            millis => write!(f, "retry after {millis} ms"),
        }
    }
}

impl std::error::Error for RetryAfter {}

const fn admitted(wait: u64) -> Result<(), RetryAfter> {
    if wait == 0 { Ok(()) } else { Err(RetryAfter(wait)) }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
