//! [`Heartbeat`] sends pings and checks for pongs: only the server sends application-level pings.
//! [`ControlFrames`] limits the WebSocket pings and pongs of a client.

use std::time::Duration;

/// Pings of one connection. The first one has a random offset, so that clients that connected together do not
/// stay in step.
#[derive(Debug)]
pub struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    next_ping: Duration,
    /// Deadline for the response to the last ping.
    pong_until: Option<Duration>,
    /// The deadline was extended, because this process did not run.
    excused: bool,
}

/// A check that comes this late means that this process did not run: the response may wait unread in the
/// socket.
const ASLEEP: Duration = Duration::from_secs(1);

/// Control frames that a client may send per second, on average.
pub const CONTROL_FRAMES_PER_SECOND: u32 = 100;

/// Control frames that it may send at once.
pub const CONTROL_FRAMES_BURST: u32 = 400;

/// Rate limit for a client's control frames.
#[derive(Debug, Default)]
pub struct ControlFrames {
    /// When the frames so far would have arrived at the permitted rate, in microseconds.
    until: u64,
}

impl ControlFrames {
    /// Counts one frame. False if it exceeds the limit.
    pub fn take(&mut self, at: Duration) -> bool {
        const EACH: u64 = 1_000_000 / CONTROL_FRAMES_PER_SECOND as u64;
        let at = at.as_micros() as u64;
        self.until = self.until.max(at) + EACH;
        self.until <= at + EACH * u64::from(CONTROL_FRAMES_BURST)
    }
}

/// The next step of the heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// Send a ping.
    Ping,
    /// The response to a ping is missing.
    NoPong,
}

impl Heartbeat {
    /// Starts at `at`. `spread` sets the time of the first ping: 0 after half the interval, `u32::MAX` after
    /// the whole.
    pub fn new(interval: Duration, timeout: Duration, at: Duration, spread: u32) -> Self {
        let half = interval / 2;
        let first = half + half.mul_f64(f64::from(spread) / f64::from(u32::MAX));
        Self { interval, timeout, next_ping: at + first, pong_until: None, excused: false }
    }

    /// When to call [`Heartbeat::due`] again.
    pub fn deadline(&self) -> Duration {
        self.pong_until.map_or(self.next_ping, |until| until.min(self.next_ping))
    }

    /// What is due at `at`.
    pub fn due(&mut self, at: Duration) -> Due {
        if let Some(until) = self.pong_until
            && until <= at
        {
            if self.excused || at < until + ASLEEP {
                return Due::NoPong;
            }
            self.excused = true;
            self.pong_until = Some(at + self.timeout);
        }
        if self.next_ping > at {
            return Due::Nothing;
        }
        self.next_ping = at + self.interval;
        // A ping without response keeps its own, earlier deadline.
        self.pong_until.get_or_insert(at + self.timeout);
        Due::Ping
    }

    /// The client is not read: its response may wait in the socket, so it has its time from now on.
    pub fn excuse(&mut self, at: Duration) {
        if let Some(until) = &mut self.pong_until {
            *until = (*until).max(at + self.timeout);
        }
    }

    /// The client responded. False if no ping was sent.
    pub fn pong(&mut self) -> bool {
        self.excused = false;
        self.pong_until.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_client_that_is_not_read_has_its_time_from_then_on() {
        let mut heartbeat = Heartbeat::new(S(20), S(5), S(0), 0);
        heartbeat.excuse(S(9));
        assert_eq!(heartbeat.due(S(10)), Due::Ping);
        heartbeat.excuse(S(14));
        assert_eq!((heartbeat.due(S(15)), heartbeat.due(S(19))), (Due::Nothing, Due::NoPong));
    }

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

    #[test]
    fn after_a_time_in_which_nothing_ran_the_answer_gets_its_time_once_more() {
        let mut heart = Heartbeat::new(S(100), S(5), S(0), 0);
        assert_eq!(heart.due(S(50)), Due::Ping);
        assert_eq!(heart.due(S(60)), Due::Nothing, "five seconds late");
        assert_eq!(heart.deadline(), S(65));
        assert_eq!(heart.due(S(70)), Due::NoPong, "but not twice");
    }

    #[test]
    fn control_frames_have_a_rate_and_a_burst() {
        let mut frames = ControlFrames::default();
        assert!((0..CONTROL_FRAMES_BURST).all(|_| frames.take(S(7))));
        assert!(!frames.take(S(7)));
        let mut frames = ControlFrames::default();
        let steady = |second| (0..CONTROL_FRAMES_PER_SECOND).map(move |_| S(second));
        assert!((0..1000).flat_map(steady).all(|at| frames.take(at)), "for as long as it likes");
        let mut frames = ControlFrames::default();
        let more = |second| (0..CONTROL_FRAMES_PER_SECOND + 10).map(move |_| S(second));
        assert!(!(0..1000).flat_map(more).all(|at| frames.take(at)), "a little more is too much in the end");
    }
}
