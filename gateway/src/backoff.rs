//! [`pause`] spreads repeated attempts over time.

use std::time::Duration;

/// Full jitter with a limit that doubles at every attempt: many senders that failed together do not return
/// together.
pub(crate) fn pause(attempt: u32, least: Duration, most: Duration, random: u64) -> Duration {
    let ceiling = least.saturating_mul(1 << (attempt - 1).min(20)).min(most);
    let nanos = ceiling.as_nanos() * u128::from(random) / u128::from(u64::MAX);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_are_spread_over_all_of_it() {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(10));
        let longest: Vec<_> =
            (1..=6).map(|attempt| pause(attempt, least, most, u64::MAX).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 10, 10]);
        assert_eq!(pause(u32::MAX, least, most, u64::MAX), most);
        assert_eq!(pause(3, least, most, 0), Duration::ZERO);
        assert_eq!(pause(3, least, most, u64::MAX / 2).as_millis(), 1999);
    }
}
