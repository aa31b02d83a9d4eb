//! Rate limits whose state the gateway keeps. They are exact over all workers of a node, and a reload keeps
//! their state. A limit with [`for_cluster`](Rate::for_cluster) covers all nodes.
//!
//! Declare a [`Bucket`] in [`configure`](crate::Plugin::configure) and take from it in the other hooks. The
//! settings file must grant buckets: `buckets = true` under `[grants]`.
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

/// The key of a bucket for a network address, by the same rule as the gateway's own limits.
#[doc(inline)]
pub use gateway_plugin_grammar::source::source;

use crate::{HostError, Message, host};

/// A rate limit: the amount that is admitted per time.
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
    /// A bucket that gains `limit` tokens per period, evenly, and holds `limit` of them unless
    /// [`burst`](Self::burst) sets another number. After a pause a client may catch up.
    pub fn token_bucket(limit: u64, period: Duration) -> Self {
        Self::new(1, limit, period)
    }

    /// A bucket that leaks `limit` per period, evenly, and holds one unless [`burst`](Self::burst) sets
    /// another number. It admits at even intervals.
    pub fn leaky_bucket(limit: u64, period: Duration) -> Self {
        Self::new(2, limit, period)
    }

    /// Admits `limit` in a window of one period, which begins with the first admission. Around the end of a
    /// window twice as much may pass.
    pub fn fixed_window(limit: u64, period: Duration) -> Self {
        Self::new(3, limit, period)
    }

    /// Admits `limit` in the last period. It assumes that the usage of the previous window was spread evenly.
    pub fn sliding_window(limit: u64, period: Duration) -> Self {
        Self::new(4, limit, period)
    }

    /// Sets the amount that is admitted at once; only for buckets.
    #[must_use]
    pub const fn burst(self, burst: u64) -> Self {
        Self { burst, ..self }
    }

    /// Applies the limit to all nodes together, if Redis connects them; otherwise to this node, like every
    /// other rate.
    ///
    /// No call waits for Redis: each node decides by what it knows, and about five times a second the nodes
    /// exchange how much they have admitted for the keys in use. Until then the nodes together may admit more
    /// than the limit: for each other node, at most the amount that one node admits in 400 ms plus two round
    /// trips to Redis. A bucket subtracts the excess before it admits anything else; a window starts at zero
    /// again. While Redis is away, each node limits alone.
    ///
    /// [`Bucket::take_for`] ignores this setting, because a connection is on one node.
    #[must_use]
    pub const fn for_cluster(self) -> Self {
        Self { scope: CLUSTER, ..self }
    }

    fn new(algorithm: u32, limit: u64, period: Duration) -> Self {
        Self { algorithm, limit, period: millis(period), burst: 0, scope: NODE }
    }
}

/// A rate limit with separate state for every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket(u32);

impl Bucket {
    /// Declares a bucket. Call it only in [`configure`](crate::Plugin::configure), for at most 64 buckets.
    ///
    /// A bucket with the same name and rate keeps its state after a reload. A bucket with another rate starts
    /// unused.
    ///
    /// # Errors
    ///
    /// If buckets are not granted, the name or the rate is not valid, or this is not
    /// [`configure`](crate::Plugin::configure).
    pub fn declare(name: &str, rate: Rate) -> Result<Self, HostError> {
        host::declare_bucket(name, rate).map(Self)
    }

    /// Takes `cost` for a key of at most 512 bytes. If the bucket does not admit it, it takes nothing.
    ///
    /// It takes effect at once, even if the hook panics afterwards.
    ///
    /// # Errors
    ///
    /// If it is not admitted: after which time it would be.
    pub fn take(self, key: impl AsRef<[u8]>, cost: u32) -> Result<(), RetryAfter> {
        admitted(host::take(self.0, key.as_ref(), cost))
    }

    /// Takes `cost` for the connection of a message. This is cheaper than a key, because the gateway stores
    /// the state with the connection.
    ///
    /// # Errors
    ///
    /// If it is not admitted: after which time it would be.
    pub fn take_for(self, event: &Message<'_>, cost: u32) -> Result<(), RetryAfter> {
        // The gateway knows which one it is; the argument makes sure that there is one.
        let _ = event;
        admitted(host::take_connection(self.0, cost))
    }

    /// The remaining amount for a key.
    pub fn room(self, key: impl AsRef<[u8]>) -> Room {
        let (remaining, full_in) = host::peek(self.0, key.as_ref());
        Room { remaining, full_in: Duration::from_millis(full_in) }
    }
}

/// The amount that a bucket would admit for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The amount that it admits now.
    pub remaining: u64,
    /// The time until the full amount is available again.
    pub full_in: Duration,
}

/// The bucket did not admit the cost. As text: `retry after 100 ms`, or `too much at once`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter(u64);

impl RetryAfter {
    /// The time after which the bucket would admit it if nothing else were taken. `None` if it never would,
    /// because the cost exceeds the burst or the key is too long.
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
