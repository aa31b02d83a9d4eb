//! [`Rates`] limits how fast new connections arrive: one token bucket for the node, and one for each source.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gateway_plugin_state::{Algorithm, Bounds, Key, Meter, Rule, Store};

use crate::config::Rate;

/// Sources whose rate is remembered. Above that the least recently used source is dropped. They take some
/// megabytes.
const SOURCES: Bounds = Bounds { entries_max: 1 << 16, bytes_max: 16 << 20 };

/// Which limit a new connection exceeds, and how long the client should wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooFast {
    /// The limit of the node.
    Node(Duration),
    /// The limit of its source.
    Source(Duration),
}

/// Token buckets of the node and of each source.
#[derive(Debug)]
pub(super) struct Rates {
    node: Option<(Rule, Mutex<Meter>)>,
    source: Option<(Rule, Mutex<Store>)>,
    /// Keyed with a secret, because clients choose their addresses.
    hash: RandomState,
}

impl Rates {
    pub(super) fn new(node: Rate, source: Rate) -> Self {
        Self {
            node: rule(node).map(|rule| (rule, Mutex::default())),
            source: rule(source).map(|rule| (rule, Mutex::new(Store::new(SOURCES)))),
            hash: RandomState::new(),
        }
    }

    /// Counts a new connection, unless it exceeds a limit.
    pub(super) fn take(&self, source: IpAddr, now: Duration) -> Result<(), TooFast> {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let admit = |wait: u64, too_fast: fn(Duration) -> TooFast| match wait {
            0 => Ok(()),
            wait => Err(too_fast(Duration::from_millis(wait))),
        };
        if let Some((rule, store)) = &self.source {
            let bytes = match source {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            let key = Key { hash: self.hash.hash_one(bytes), space: 0, bytes: &bytes };
            let wait = store.lock().unwrap_or_else(PoisonError::into_inner).take(&key, rule, 1, now);
            admit(wait, TooFast::Source)?;
        }
        if let Some((rule, meter)) = &self.node {
            let wait = meter.lock().unwrap_or_else(PoisonError::into_inner).take(rule, 1, now);
            admit(wait, TooFast::Node)?;
        }
        Ok(())
    }
}

/// `None` for a rate that is switched off.
fn rule(rate: Rate) -> Option<Rule> {
    const SECOND: u64 = 1000;
    let bucket = Algorithm::TokenBucket as u32;
    Rule::new(bucket, rate.per_second.into(), SECOND, rate.burst.into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Rate = Rate { per_second: 0, burst: 5 };

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_source_that_is_too_fast_is_told_how_long_to_wait_and_others_are_not_concerned() {
        let rates = Rates::new(OFF, Rate { per_second: 2, burst: 3 });
        for _ in 0..3 {
            assert_eq!(rates.take(address(1), seconds(0)), Ok(()));
        }
        let wait = Duration::from_millis(500);
        assert_eq!(rates.take(address(1), seconds(0)), Err(TooFast::Source(wait)));
        assert_eq!(rates.take(address(2), seconds(0)), Ok(()));
        assert_eq!(rates.take(address(1), wait), Ok(()));
        assert_eq!(rates.take(address(1), wait), Err(TooFast::Source(wait)));
    }

    #[test]
    fn the_node_has_a_rate_of_its_own() {
        let rates = Rates::new(Rate { per_second: 1, burst: 2 }, OFF);
        assert_eq!(rates.take(address(1), seconds(9)), Ok(()));
        assert_eq!(rates.take(address(2), seconds(9)), Ok(()));
        assert_eq!(rates.take(address(3), seconds(9)), Err(TooFast::Node(seconds(1))));
        assert_eq!(rates.take(address(3), seconds(10)), Ok(()));
    }

    #[test]
    fn a_rate_of_nothing_is_no_limit() {
        let rates = Rates::new(OFF, OFF);
        assert!((0..1000).all(|_| rates.take(address(1), seconds(0)).is_ok()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let rates = Rates::new(OFF, Rate { per_second: 1, burst: 1 });
        for n in 0..(SOURCES.entries_max as u32 + 1000) {
            assert_eq!(rates.take(address(n), seconds(0)), Ok(()));
        }
        let entries = rates
            .source
            .as_ref()
            .map(|(_, store)| store.lock().expect("nobody panics with it").usage().entries);
        assert!(entries.is_some_and(|entries| entries <= SOURCES.entries_max as u64));
        assert!(matches!(
            rates.take(address(SOURCES.entries_max as u32), seconds(0)),
            Err(TooFast::Source(_))
        ));
    }
}
