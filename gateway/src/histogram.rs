//! Histograms with fixed buckets and one writer: [`Times`] and [`Sizes`].
//!
//! A worker writes to cells of its own, without locked instructions; a scrape sums the cells of all workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Number of buckets with an upper bound. One more counts everything above the last bound.
pub const BOUNDS: usize = 15;

/// Upper bounds of [`Times`] in nanoseconds: 1 and 5 of each decade, from a plugin call that does nothing to
/// a request that a plugin waits for.
const TIMES: [u64; BOUNDS] = [
    1_000,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Exponent of two of the first upper bound of [`Sizes`]. Each following bound is twice as large, up to
/// 1 MiB.
const FIRST_SIZE: usize = 6;

/// A histogram of durations. With two writers at a time counts would be lost.
#[derive(Debug, Default)]
pub struct Times(Cells);

/// A histogram of bytes. With two writers at a time counts would be lost.
#[derive(Debug, Default)]
pub struct Sizes(Cells);

/// Numbers of observations, and their sum in nanoseconds or bytes.
#[derive(Debug, Default)]
struct Cells {
    counts: [AtomicU64; BOUNDS + 1],
    sum: AtomicU64,
}

/// A snapshot, or the sum of several. Counts and sum may be one observation apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    /// Number of observations in each bucket, not cumulative.
    pub counts: [u64; BOUNDS + 1],
    /// The sum of all observations, in nanoseconds or bytes.
    pub sum: u64,
}

impl Times {
    /// The upper bounds of the buckets, ascending.
    pub fn bounds() -> [Duration; BOUNDS] {
        TIMES.map(Duration::from_nanos)
    }

    /// Counts a duration.
    pub fn observe(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = TIMES.iter().position(|bound| nanoseconds <= *bound).unwrap_or(BOUNDS);
        self.0.observe(bucket, nanoseconds);
    }

    /// The observations so far.
    pub fn read(&self) -> Observed {
        self.0.read()
    }
}

impl Sizes {
    /// The upper bounds of the buckets in bytes, ascending.
    pub fn bounds() -> [u64; BOUNDS] {
        std::array::from_fn(|bucket| 1 << (FIRST_SIZE + bucket))
    }

    /// Counts a number of bytes.
    pub fn observe(&self, bytes: usize) {
        let exponent = bytes.max(1).next_power_of_two().trailing_zeros() as usize;
        self.0.observe(exponent.saturating_sub(FIRST_SIZE).min(BOUNDS), bytes as u64);
    }

    /// The observations so far.
    pub fn read(&self) -> Observed {
        self.0.read()
    }
}

impl Cells {
    fn observe(&self, bucket: usize, value: u64) {
        add(&self.counts[bucket], 1);
        add(&self.sum, value);
    }

    fn read(&self) -> Observed {
        Observed {
            counts: self.counts.each_ref().map(|count| count.load(Relaxed)),
            sum: self.sum.load(Relaxed),
        }
    }
}

impl Observed {
    /// Adds the observations of another writer.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// The number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// There is one writer, so a separate load and store lose nothing and avoid a locked instruction.
fn add(cell: &AtomicU64, value: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(value), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bucket in which one observation was counted.
    fn bucket(observed: Observed) -> usize {
        assert_eq!(observed.count(), 1);
        observed.counts.iter().position(|count| *count == 1).expect("there is one")
    }

    #[test]
    fn a_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for (expected, bound) in Times::bounds().into_iter().enumerate() {
            for (time, expected) in [(bound, expected), (bound + Duration::from_nanos(1), expected + 1)] {
                let times = Times::default();
                times.observe(time);
                assert_eq!(bucket(times.read()), expected, "{time:?}");
                assert_eq!(u128::from(times.read().sum), time.as_nanos());
            }
        }
    }

    #[test]
    fn a_size_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for (expected, bound) in Sizes::bounds().into_iter().enumerate() {
            for (bytes, expected) in [(bound, expected), (bound + 1, expected + 1)] {
                let sizes = Sizes::default();
                sizes.observe(bytes as usize);
                assert_eq!(bucket(sizes.read()), expected, "{bytes}");
                assert_eq!(sizes.read().sum, bytes);
            }
        }
        assert_eq!((Sizes::bounds()[0], Sizes::bounds()[BOUNDS - 1]), (64, 1 << 20));
    }

    #[test]
    fn observations_of_several_writers_are_summed() {
        let (a, b) = (Sizes::default(), Sizes::default());
        [0, 64, 5 << 20].into_iter().for_each(|bytes| a.observe(bytes));
        b.observe(65);
        let mut all = a.read();
        all.add(&b.read());
        assert_eq!((all.counts[0], all.counts[1], all.counts[BOUNDS]), (2, 1, 1));
        assert_eq!((all.count(), all.sum), (4, (5 << 20) + 129));
    }
}
