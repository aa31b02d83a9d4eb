//! Are you there? Only the server asks.

use std::time::Duration;

/// Pings of one connection. The first comes at a random time, so that clients that came together do not stay together.
#[derive(Debug)]
pub struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    next_ping: Duration,
    /// Until when the answer to the last ping may take.
    pong_until: Option<Duration>,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// A ping.
    Ping,
    /// The answer is missing.
    NoPong,
}

impl Heartbeat {
    /// Starts at `at`. `spread` places the first ping: 0 after half the interval, `u32::MAX` after the whole.
    pub fn new(interval: Duration, timeout: Duration, at: Duration, spread: u32) -> Self {
        let half = interval / 2;
        let first = half + half.mul_f64(f64::from(spread) / f64::from(u32::MAX));
        Self { interval, timeout, next_ping: at + first, pong_until: None }
    }

    /// When to ask [`Heartbeat::due`] again.
    pub fn deadline(&self) -> Duration {
        self.pong_until.map_or(self.next_ping, |until| until.min(self.next_ping))
    }

    /// What is due at `at`.
    pub fn due(&mut self, at: Duration) -> Due {
        if self.pong_until.is_some_and(|until| until <= at) {
            return Due::NoPong;
        }
        if self.next_ping > at {
            return Due::Nothing;
        }
        self.next_ping = at + self.interval;
        // A ping that is still unanswered keeps its own, earlier end.
        self.pong_until.get_or_insert(at + self.timeout);
        Due::Ping
    }

    /// The client answered. False if nobody had asked.
    pub fn pong(&mut self) -> bool {
        self.pong_until.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn the_first_ping_is_spread_over_the_second_half_of_the_interval() {
        assert_eq!(Heartbeat::new(S(20), S(5), S(100), 0).deadline(), S(110));
        assert_eq!(Heartbeat::new(S(20), S(5), S(100), u32::MAX).deadline(), S(120));
    }

    #[test]
    fn each_ping_wants_one_pong_in_time() {
        let mut heart = Heartbeat::new(S(20), S(5), S(0), 0);
        assert_eq!(heart.due(S(9)), Due::Nothing);
        assert_eq!(heart.due(S(10)), Due::Ping);
        assert_eq!(heart.deadline(), S(15));
        assert_eq!(heart.due(S(12)), Due::Nothing);
        assert!(heart.pong());
        assert!(!heart.pong());
        assert_eq!(heart.deadline(), S(30));
        assert_eq!(heart.due(S(30)), Due::Ping);
        assert_eq!(heart.due(S(35)), Due::NoPong);
    }
}
