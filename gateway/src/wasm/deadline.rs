//! [`Deadline`] decides when a call has taken too long.
//!
//! The epoch clock counts wall time, during which the system may have run other threads: on a busy machine a
//! call of a microsecond is sometimes suspended for longer than any sensible deadline. So the first half of
//! the limit is measured in wall time and the second half in processor time of the thread. A plugin that
//! computes all the time is ended in the last tick before its limit, because its worker has other clients to
//! serve; a plugin that was only suspended is not.

use std::time::Duration;

use wasmtime::UpdateDeadline;

use super::engine::TICK;

/// Most extensions of the second half. Each time the thread had used less than half of it, so this bound only
/// matters if the clocks disagree.
const EXTENSIONS_MAX: u32 = 50;

/// The deadline of one call. Made once per limit and copied for every call.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Deadline {
    /// Ticks until the first check.
    pub(super) first_ticks: u64,
    second_half: Duration,
    second_ticks: u64,
    /// Processor time of the thread at the end of the first half.
    at_half: Option<Duration>,
    extensions: u32,
}

impl Deadline {
    /// For calls that may take `limit`.
    pub(super) fn of(limit: Duration) -> Self {
        // The current tick may end at once, and each half needs one.
        let ticks = u32::try_from(limit.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX).max(2);
        let first_ticks = ticks / 2;
        let second_ticks = ticks - first_ticks;
        Self {
            first_ticks: first_ticks.into(),
            second_half: TICK.saturating_mul(second_ticks),
            second_ticks: second_ticks.into(),
            at_half: None,
            extensions: 0,
        }
    }

    /// Called when the ticks have passed and the call still runs.
    pub(super) fn passed(&mut self, processor_time: Option<Duration>) -> UpdateDeadline {
        match (self.at_half, processor_time) {
            (None, now) => {
                // Without a processor clock, wall time decides: the second half counts as used when it has
                // passed.
                self.at_half = Some(now.unwrap_or_default());
                UpdateDeadline::Continue(self.second_ticks)
            }
            (Some(at_half), Some(now))
                if now.saturating_sub(at_half) < self.second_half / 2 && self.extensions < EXTENSIONS_MAX =>
            {
                self.extensions += 1;
                UpdateDeadline::Continue(self.second_ticks)
            }
            _ => UpdateDeadline::Interrupt,
        }
    }
}

/// Processor time of this thread.
#[cfg(unix)]
pub(super) fn processor_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).ok()
}

/// Not available on this system.
#[cfg(not(unix))]
pub(super) fn processor_time() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(10);

    fn ms(time: u64) -> Option<Duration> {
        Some(Duration::from_millis(time))
    }

    /// The results of the checks at these processor times: ticks, or 0 for the end.
    fn answers(limit: Duration, times: &[Option<Duration>]) -> Vec<u64> {
        let mut deadline = Deadline::of(limit);
        let first = deadline.first_ticks;
        let later = times.iter().map(|time| match deadline.passed(*time) {
            UpdateDeadline::Continue(ticks) => ticks,
            _ => 0,
        });
        std::iter::once(first).chain(later).collect()
    }

    #[test]
    fn what_computes_all_the_time_ends_at_its_limit() {
        assert_eq!(answers(LIMIT, &[ms(100), ms(105)]), [5, 5, 0]);
        assert_eq!(answers(Duration::from_millis(5), &[ms(100), ms(102)]), [2, 3, 0]);
        assert_eq!(answers(TICK, &[ms(100), ms(101)]), [1, 1, 0]);
    }

    #[test]
    fn what_was_suspended_goes_on_until_it_has_had_its_time() {
        assert_eq!(answers(LIMIT, &[ms(100), ms(100), ms(101), ms(103)]), [5, 5, 5, 5, 0]);
    }

    #[test]
    fn without_a_clock_of_the_thread_the_wall_decides() {
        assert_eq!(answers(LIMIT, &[None, None]), [5, 5, 0]);
    }

    #[test]
    fn even_what_cannot_be_explained_ends() {
        let mut deadline = Deadline::of(LIMIT);
        let ended = (0..100).any(|_| matches!(deadline.passed(ms(1)), UpdateDeadline::Interrupt));
        assert!(ended);
    }

    #[test]
    fn the_thread_has_a_clock() {
        let begin = processor_time();
        let mut sum = 0_u64;
        while processor_time() == begin {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(processor_time() > begin);
    }
}
