//! The only place that reads clocks. Everything behind the driver gets time as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::connection::event::Now;

/// Time since the process began, and of day.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Both times.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { at: self.start.elapsed(), unix: unix.as_millis() as u64 }
    }

    /// The moment for a timer.
    pub fn instant(&self, at: Duration) -> Instant {
        self.start + at
    }
}
