//! [`Meters`]: rate limits of one connection. The connection keeps them and passes them along with its
//! messages, so they need no lock.

use gateway_plugin_state::Meter;

use super::Bucket;

/// Most buckets tracked for a connection. A plugin declares few; more are left over from earlier versions.
const METERS_MAX: usize = 128;

/// Use of each bucket by one connection. Allocates nothing before the first take.
#[derive(Debug, Default)]
pub struct Meters(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    bucket: u32,
    meter: Meter,
    /// When the entry is empty again.
    expires: u64,
}

impl Meters {
    /// Takes `cost` at `now`, as [`Meter::take`] does.
    pub fn take(&mut self, bucket: &Bucket, cost: u32, now: u64) -> u64 {
        let expires = now.saturating_add(bucket.rule.forgets_after());
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.bucket == bucket.number) {
            entry.expires = expires;
            return entry.meter.take(&bucket.rule, cost, now);
        }
        let mut meter = Meter::default();
        let wait = meter.take(&bucket.rule, cost, now);
        if wait == 0 && cost > 0 {
            self.0.retain(|entry| entry.expires > now);
            if self.0.len() >= METERS_MAX {
                self.0.remove(0);
            }
            // Many connections use only one bucket.
            self.0.reserve_exact(1);
            self.0.push(Entry { bucket: bucket.number, meter, expires });
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::plugin::state::{Rule, Scope};

    fn bucket(number: u32, limit: u64) -> Bucket {
        Bucket { number, rule: Rule::new(1, limit, 1000, 0).unwrap(), scope: Scope::Node }
    }

    #[test]
    fn every_bucket_has_a_meter_of_its_own() {
        let mut meters = Meters::default();
        let (one, two) = (bucket(1, 1), bucket(2, 2));
        assert_eq!([meters.take(&one, 1, 0), meters.take(&one, 1, 0)], [0, 1000]);
        assert_eq!([0; 2].map(|now| meters.take(&two, 1, now)), [0, 0]);
        assert_eq!(meters.take(&one, 1, 1000), 0);
    }

    #[test]
    fn what_is_not_used_takes_no_memory_and_what_was_used_is_given_back() {
        let mut meters = Meters::default();
        assert!(size_of::<Meters>() <= 24);
        assert_eq!(meters.take(&bucket(1, 1), 0, 0), 0);
        assert_eq!(meters.0.capacity(), 0);
        for number in 0..10_000 {
            assert_eq!(meters.take(&bucket(number, 1), 1, u64::from(number) * 100), 0);
        }
        assert!(meters.0.len() <= 11, "{}", meters.0.len());
        for number in 0..10_000 {
            meters.take(&bucket(number, 1), 1, 2_000_000);
        }
        assert_eq!(meters.0.len(), METERS_MAX);
    }
}
