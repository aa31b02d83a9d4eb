//! [`Expiring`]: which subscriptions expire, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::protocol::channel::Channel;

/// When subscriptions expire, without the grace period. Takes no memory while none does, and finds the next
/// one without looking at the others.
#[derive(Debug, Default)]
pub(super) struct Expiring(Option<Box<Times>>);

#[derive(Debug, Default)]
struct Times {
    by_channel: BTreeMap<Channel, Duration>,
    /// The same entries, the earliest first.
    in_order: BTreeSet<(Duration, Channel)>,
}

impl Expiring {
    /// Sets when a subscription expires, in place of an earlier time.
    pub(super) fn set(&mut self, channel: &Channel, at: Duration) {
        let times = self.0.get_or_insert_default();
        if let Some(before) = times.by_channel.insert(channel.clone(), at) {
            times.in_order.remove(&(before, channel.clone()));
        }
        times.in_order.insert((at, channel.clone()));
    }

    /// Forgets a subscription: it is gone, or does not expire.
    pub(super) fn remove(&mut self, channel: &Channel) {
        let Some(times) = &mut self.0 else { return };
        if let Some(at) = times.by_channel.remove(channel) {
            times.in_order.remove(&(at, channel.clone()));
        }
        if times.by_channel.is_empty() {
            self.0 = None;
        }
    }

    /// When a subscription expires; `None` for never.
    pub(super) fn of(&self, channel: &Channel) -> Option<Duration> {
        self.0.as_ref()?.by_channel.get(channel).copied()
    }

    /// When the next one expires.
    pub(super) fn next(&self) -> Option<Duration> {
        self.0.as_ref()?.in_order.first().map(|(at, _)| *at)
    }

    /// The next one, if it expires at `until` or before.
    pub(super) fn due(&self, until: Duration) -> Option<Channel> {
        let (at, channel) = self.0.as_ref()?.in_order.first()?;
        (*at <= until).then(|| channel.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> Channel {
        Channel::parse(name).expect("valid")
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_earliest_comes_first_and_a_later_time_replaces_the_one_before() {
        let mut expiring = Expiring::default();
        let (a, b) = (channel("a"), channel("b"));
        expiring.set(&a, seconds(2));
        expiring.set(&b, seconds(3));
        assert_eq!(expiring.next(), Some(seconds(2)));
        assert_eq!(expiring.due(seconds(1)), None);
        assert_eq!(expiring.due(seconds(2)), Some(a.clone()));
        expiring.set(&a, seconds(4));
        assert_eq!((expiring.next(), expiring.of(&a)), (Some(seconds(3)), Some(seconds(4))));
        expiring.remove(&b);
        assert_eq!(expiring.due(seconds(5)), Some(a));
    }

    #[test]
    fn two_may_expire_together() {
        let mut expiring = Expiring::default();
        expiring.set(&channel("b"), seconds(1));
        expiring.set(&channel("a"), seconds(1));
        for name in ["a", "b"] {
            let due = expiring.due(seconds(1)).expect("one more");
            assert_eq!(due, channel(name));
            expiring.remove(&due);
        }
        assert_eq!(expiring.due(seconds(1)), None);
    }

    #[test]
    fn nothing_is_kept_where_nothing_expires() {
        assert_eq!(size_of::<Expiring>(), size_of::<usize>());
        let mut expiring = Expiring::default();
        expiring.set(&channel("a"), seconds(1));
        expiring.remove(&channel("b"));
        assert!(expiring.0.is_some());
        expiring.remove(&channel("a"));
        assert!(expiring.0.is_none());
    }
}
