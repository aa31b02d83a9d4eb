//! [`Timer`] computes when a plugin's timer fires on one worker.

use std::time::Duration;

/// A timer on a grid of its interval. Every worker's grid is shifted by its share of the interval, so that
/// the instances of a plugin take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timer {
    interval: Duration,
    /// Offset of this worker's grid.
    phase: Duration,
    /// On the grid.
    due: Duration,
}

impl Timer {
    /// A timer of the worker with this index that fires first at most one interval after `at`.
    pub(super) fn start(interval: Duration, worker: usize, workers: usize, at: Duration) -> Self {
        let phase = interval.mul_f64(worker as f64 / workers.max(1) as f64);
        let mut timer = Self { interval, phase, due: Duration::ZERO };
        timer.due = timer.after(at);
        timer
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// Whether it is due; if so, the next time is the first point of the grid after `at`. Missed points are
    /// skipped.
    pub(super) fn fire(&mut self, at: Duration) -> bool {
        let due = self.due <= at;
        if due {
            self.due = self.after(at);
        }
        due
    }

    /// The first point of the grid after `at`.
    fn after(&self, at: Duration) -> Duration {
        let Some(since) = at.checked_sub(self.phase) else { return self.phase };
        let into = since.as_nanos() % self.interval.as_nanos().max(1);
        at + self.interval - Duration::from_nanos(into as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_fires_once_an_interval_whenever_it_is_asked() {
        let mut timer = Timer::start(ms(100), 0, 1, ms(30));
        assert_eq!(timer.due(), ms(100));
        assert!(!timer.fire(ms(99)));
        assert!(timer.fire(ms(100)));
        assert!(!timer.fire(ms(199)));
        assert!(timer.fire(ms(205)), "late");
        assert_eq!(timer.due(), ms(300), "and yet on the grid");
    }

    #[test]
    fn what_was_missed_is_skipped() {
        let mut timer = Timer::start(ms(100), 0, 1, ms(0));
        assert!(timer.fire(ms(1_050)));
        assert!(!timer.fire(ms(1_050)), "one call for ten intervals");
        assert_eq!(timer.due(), ms(1_100));
    }

    #[test]
    fn workers_take_turns() {
        let due = |worker| Timer::start(ms(1_000), worker, 4, ms(5_100)).due();
        assert_eq!([due(0), due(1), due(2), due(3)], [ms(6_000), ms(5_250), ms(5_500), ms(5_750)]);
        assert_eq!(Timer::start(ms(1_000), 3, 4, ms(0)).due(), ms(750));
    }
}
