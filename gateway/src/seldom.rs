//! [`Seldom`] limits log lines that a client or a plugin can cause: the first is written, then one per
//! interval, with the number of lines held back in between.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock;

/// How long further lines from one place in the code are only counted.
const PAUSE: Duration = Duration::from_secs(5);

/// Number of lines of the whole process that were counted and not written.
static HELD_BACK: AtomicU64 = AtomicU64::new(0);

/// Decides for one place in the code whether to write the next line.
#[derive(Debug)]
pub struct Seldom {
    pause: u64,
    /// Milliseconds before which lines are only counted.
    until: AtomicU64,
    silent: AtomicU64,
}

impl Seldom {
    /// Allows at most one line per `pause`.
    pub const fn new(pause: Duration) -> Self {
        // A constant: no pause is longer than some minutes.
        Self { pause: pause.as_millis() as u64, until: AtomicU64::new(0), silent: AtomicU64::new(0) }
    }

    /// With the pause used for most lines.
    pub const fn usual() -> Self {
        Self::new(PAUSE)
    }

    /// Whether to write a line now: `Some` with the number of lines held back since the last one, or `None`,
    /// and the line is counted.
    pub fn take(&self) -> Option<u64> {
        self.take_at(clock::uptime_millis())
    }

    /// [`take`](Self::take) with another clock, in milliseconds. A clock that was set back does not extend
    /// the pause.
    pub fn take_at(&self, now: u64) -> Option<u64> {
        let until = self.until.load(Relaxed);
        let pausing = (1..=self.pause).contains(&until.saturating_sub(now));
        let next = now.saturating_add(self.pause);
        // Only one of several threads writes.
        if pausing || self.until.compare_exchange(until, next, Relaxed, Relaxed).is_err() {
            return self.hold_back();
        }
        Some(self.silent.swap(0, Relaxed))
    }

    /// Counts a line that is not written, for a reason of the caller.
    pub fn hold_back(&self) -> Option<u64> {
        self.silent.fetch_add(1, Relaxed);
        HELD_BACK.fetch_add(1, Relaxed);
        None
    }
}

/// Number of lines of the whole process that were counted and not written.
pub fn held_back() -> u64 {
    HELD_BACK.load(Relaxed)
}

/// Writes a line of `tracing` at this level (`error`, `warn` or `info`). For five seconds after it, lines
/// from this place in the code are only counted; the next one written states their number.
macro_rules! seldom {
    ($level:ident, $($line:tt)+) => {{
        static LINES: $crate::seldom::Seldom = $crate::seldom::Seldom::usual();
        if let Some(also) = LINES.take() {
            tracing::$level!(also_since_last_line = also, $($line)+);
        }
    }};
}

pub(crate) use seldom;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_many_is_written_and_then_one_with_the_count() {
        let lines = Seldom::new(Duration::from_millis(100));
        let taken = [1000, 1000, 1099, 1100, 1150, 5000].map(|now| lines.take_at(now));
        assert_eq!(taken, [Some(0), None, None, Some(2), None, Some(1)]);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_silence_it() {
        let lines = Seldom::new(Duration::from_millis(100));
        assert_eq!([1_000_000, 10, 11].map(|now| lines.take_at(now)), [Some(0), Some(0), None]);
    }
}
