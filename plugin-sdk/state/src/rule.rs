//! `Rule` is a valid rate limit: an algorithm, an amount and a period.

use std::fmt;

/// The algorithm of a rate limit. The numbers are those of the plugin interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// A bucket of `burst` tokens that gains `limit` tokens per period, evenly. After a pause a client may
    /// catch up.
    TokenBucket = 1,
    /// A bucket that leaks `limit` per period, evenly, and holds `burst`, by default one, so it admits at
    /// even intervals. With the same burst it admits the same as a token bucket.
    LeakyBucket = 2,
    /// Admits `limit` in a window of one period, which begins with the first admission. Around the end of a
    /// window twice as much may pass.
    FixedWindow = 3,
    /// Admits `limit` in the last period. It assumes that the usage of the previous window was spread evenly.
    SlidingWindow = 4,
}

impl Algorithm {
    /// Every algorithm, in the order of the numbers.
    pub const ALL: [Self; 4] = [Self::TokenBucket, Self::LeakyBucket, Self::FixedWindow, Self::SlidingWindow];

    const fn has_burst(self) -> bool {
        matches!(self, Self::TokenBucket | Self::LeakyBucket)
    }
}

/// A valid rate limit: the amount that is admitted per time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    algorithm: Algorithm,
    limit: u32,
    period: u32,
    burst: u32,
}

/// An invalid rule: the error and the accepted values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRule(String);

impl Rule {
    /// Makes a rule from the numbers of the plugin interface: `limit` per `period` in milliseconds, and for
    /// buckets `burst` at once, where 0 means `limit` for a token bucket and 1 for a leaky bucket.
    ///
    /// # Errors
    ///
    /// If a number is out of its range.
    pub fn new(algorithm: u32, limit: u64, period: u64, burst: u64) -> Result<Self, InvalidRule> {
        let Some(algorithm) = Algorithm::ALL.into_iter().find(|known| *known as u32 == algorithm) else {
            return Err(InvalidRule(format!("there is no algorithm {algorithm}; expected 1 to 4")));
        };
        // In 32 bits, so that every product below fits into 64.
        let fits = |name: &str, value: u64| {
            u32::try_from(value)
                .ok()
                .filter(|value| *value > 0)
                .ok_or_else(|| InvalidRule(format!("the {name} is {value}; expected 1 to {}", u32::MAX)))
        };
        let (limit, period) = (fits("limit", limit)?, fits("period", period)?);
        let burst = match (algorithm, burst) {
            (Algorithm::LeakyBucket, 0) => 1,
            (_, 0) => limit,
            (algorithm, burst) if algorithm.has_burst() => fits("burst", burst)?,
            _ => return Err(InvalidRule("a burst belongs to a token bucket or a leaky bucket".into())),
        };
        Ok(Self { algorithm, limit, period, burst })
    }

    /// The algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The amount that is admitted per period.
    pub const fn limit(&self) -> u64 {
        self.limit as u64
    }

    /// The period in milliseconds.
    pub const fn period(&self) -> u64 {
        self.period as u64
    }

    /// The amount that can be admitted at once. A larger cost is never admitted.
    pub const fn burst(&self) -> u64 {
        self.burst as u64
    }

    /// Milliseconds after which any usage has decayed completely.
    pub const fn forgets_after(&self) -> u64 {
        match self.algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                (self.burst() * self.period()).div_ceil(self.limit())
            }
            Algorithm::FixedWindow => self.period(),
            Algorithm::SlidingWindow => 2 * self.period(),
        }
    }
}

impl fmt::Display for InvalidRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidRule {}
