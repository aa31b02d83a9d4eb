//! Clocks of the process. No other module reads a clock; code behind the connection driver gets the time as
//! an argument.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Zero of every clock of the process, so that their times can be compared.
static BEGIN: OnceLock<Instant> = OnceLock::new();

/// Milliseconds since the process began, for pauses between log lines.
pub fn uptime_millis() -> u64 {
    u64::try_from(BEGIN.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A point in time, passed as an argument to code that needs the time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the process began; never goes back.
    pub at: Duration,
    /// Unix time in milliseconds: for tokens and plugins, may jump.
    pub unix: u64,
}

impl Now {
    /// [`at`](Self::at) in milliseconds.
    pub fn at_millis(&self) -> u64 {
        self.at.as_millis() as u64
    }
}

/// Time since the process began, and of day.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock. The first one of the process starts at zero.
    pub fn start() -> Self {
        Self { start: *BEGIN.get_or_init(Instant::now) }
    }

    /// Both times.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { at: self.start.elapsed(), unix: unix.as_millis() as u64 }
    }

    /// Time since the process began. Reads only one clock.
    pub fn at(&self) -> Duration {
        self.start.elapsed()
    }

    /// Both times, shortly after `before`: reads only one clock.
    pub fn later(&self, before: Now) -> Now {
        let at = self.at();
        Now { at, unix: before.unix + at.saturating_sub(before.at).as_millis() as u64 }
    }

    /// This time as an instant for a timer.
    pub fn instant(&self, at: Duration) -> Instant {
        self.start + at
    }
}
