//! `Rule` is a valid rate limit: an algorithm, an amount and a period.

use std::fmt;

/// How a rate limit admits. The numbers are those of the plugin interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// A bucket of `burst` tokens to which `limit` tokens a period are added evenly. Who pauses may catch up.
    TokenBucket = 1,
    /// A bucket that leaks `limit` a period evenly and holds `burst`, by default one: what is admitted is
    /// evenly spaced. With the same burst it admits what a token bucket admits.
    LeakyBucket = 2,
    /// `limit` in a window of one period that begins with the first that is admitted. Around the end of a
    /// window twice as much may pass.
    FixedWindow = 3,
    /// As many as `limit` in the last period, where the part of it that lies in the window before is taken to
    /// have been evenly busy.
    SlidingWindow = 4,
}

impl Algorithm {
    /// Every algorithm, in the order of the numbers.
    pub const ALL: [Self; 4] = [Self::TokenBucket, Self::LeakyBucket, Self::FixedWindow, Self::SlidingWindow];

    const fn has_burst(self) -> bool {
        matches!(self, Self::TokenBucket | Self::LeakyBucket)
    }
}

/// A rate limit: how much is admitted in which time. Valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    algorithm: Algorithm,
    limit: u32,
    period: u32,
    burst: u32,
}

/// A rule that cannot be: what is wrong and what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRule(String);

impl Rule {
    /// A rule from the numbers of the plugin interface: `limit` a `period` of milliseconds, and for buckets
    /// `burst` at once, where 0 means `limit` for a token bucket and 1 for a leaky bucket.
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

    /// How it admits.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How much is admitted per period.
    pub const fn limit(&self) -> u64 {
        self.limit as u64
    }

    /// In milliseconds.
    pub const fn period(&self) -> u64 {
        self.period as u64
    }

    /// How much can be admitted at once: nothing larger ever is.
    pub const fn burst(&self) -> u64 {
        self.burst as u64
    }

    /// Milliseconds after which nothing is left of whatever was admitted.
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
