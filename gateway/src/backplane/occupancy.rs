//! A channel is occupied from its first subscriber at any gateway until some time after the last one has
//! gone: [`OccupancyObserver`] is told of both.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::protocol::channel::{Channel, Target};
use crate::telemetry::occupancy::OccupancyMetrics;

/// Is told when a channel becomes occupied or vacated: once in the normal case, and at least once always. The
/// two alternate, except for repetitions.
///
/// Called from the thread that finds out, under a lock of the backplane: an implementation must neither block
/// nor call the backplane.
pub trait OccupancyObserver: Send + Sync {
    /// A channel has its first subscriber.
    fn occupied(&self, channel: &Channel);

    /// A channel has had no subscriber for [`vacated_delay`](crate::config::Events::vacated_delay).
    fn vacated(&self, channel: &Channel);
}

/// Tells an observer of the channels whose namespace asks for it, and counts.
pub struct Teller {
    config: Arc<Config>,
    observer: Arc<dyn OccupancyObserver>,
    metrics: Arc<OccupancyMetrics>,
}

impl Teller {
    /// `None` if no namespace asks for it: then occupancy costs nothing.
    pub fn new(
        config: &Arc<Config>,
        observer: Arc<dyn OccupancyObserver>,
        metrics: impl FnOnce() -> Arc<OccupancyMetrics>,
    ) -> Option<Arc<Self>> {
        let told = config.namespaces.tell_occupancy();
        told.then(|| Arc::new(Self { config: config.clone(), observer, metrics: metrics() }))
    }

    /// Whether the observer is told of this channel. Addresses and patterns are no channels.
    pub(crate) fn wants(&self, channel: &Channel) -> bool {
        channel.target() == Target::Channel
            && !channel.is_pattern()
            && self.config.namespaces.of(channel).is_some_and(|namespace| namespace.tells_occupancy())
    }

    /// How long a channel has to be without subscribers until it is vacated.
    pub(crate) fn delay(&self) -> Duration {
        self.config.events.vacated_delay
    }

    /// Maximum number of channels whose delay is waited for.
    pub(crate) fn delayed_max(&self) -> usize {
        self.config.memory.unsubscribed_channels_max
    }

    pub(crate) fn metrics(&self) -> &OccupancyMetrics {
        &self.metrics
    }

    pub(crate) fn occupied(&self, channel: &Channel) {
        self.metrics.occupied(channel.as_str());
        self.observer.occupied(channel);
    }

    pub(crate) fn vacated(&self, channel: &Channel) {
        self.metrics.vacated(channel.as_str());
        self.observer.vacated(channel);
    }
}

/// Channels without subscribers whose delay is not over yet.
#[derive(Debug)]
pub(crate) struct Delayed {
    /// In the order in which they are due. The number tells channels apart that are due together.
    due: BTreeMap<(Duration, u64), Channel>,
    keys: HashMap<Channel, (Duration, u64)>,
    max: usize,
    count: u64,
}

impl Delayed {
    pub(crate) fn new(max: usize) -> Self {
        Self { due: BTreeMap::new(), keys: HashMap::new(), max, count: 0 }
    }

    /// Adds a channel, or replaces the time at which it is due. False if there are too many.
    pub(crate) fn put(&mut self, channel: &Channel, at: Duration) -> bool {
        self.remove(channel);
        if self.keys.len() >= self.max {
            return false;
        }
        let key = (at, self.count);
        self.count += 1;
        self.due.insert(key, channel.clone());
        self.keys.insert(channel.clone(), key);
        true
    }

    /// Removes a channel; false if it was not there.
    pub(crate) fn remove(&mut self, channel: &Channel) -> bool {
        self.keys.remove(channel).is_some_and(|key| self.due.remove(&key).is_some())
    }

    /// Removes a channel if it is due.
    pub(crate) fn remove_due(&mut self, channel: &Channel, at: Duration) -> bool {
        self.keys.get(channel).is_some_and(|(due, _)| *due <= at) && self.remove(channel)
    }

    /// The channel that is due first, if it is due.
    pub(crate) fn first_due(&self, at: Duration) -> Option<Channel> {
        let ((due, _), channel) = self.due.first_key_value()?;
        (*due <= at).then(|| channel.clone())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn channel(name: &str) -> Channel {
        Channel::parse(name).unwrap()
    }

    #[test]
    fn channels_are_due_in_the_order_of_their_times() {
        let mut delayed = Delayed::new(9);
        for (name, at) in [("a", 3), ("b", 1), ("c", 1), ("a", 2)] {
            assert!(delayed.put(&channel(name), S(at)));
        }
        assert!(delayed.remove(&channel("c")) && !delayed.remove(&channel("c")));
        assert_eq!(delayed.first_due(S(0)), None);
        assert!(!delayed.remove_due(&channel("a"), S(1)));
        for (name, at) in [("b", 1), ("a", 2)] {
            assert_eq!(delayed.first_due(S(2)), Some(channel(name)));
            assert!(delayed.remove_due(&channel(name), S(at)));
        }
        assert_eq!(delayed.first_due(S(99)), None);
        assert!(delayed.due.is_empty() && delayed.keys.is_empty());
    }

    #[test]
    fn a_channel_beyond_the_bound_is_not_delayed() {
        let mut delayed = Delayed::new(1);
        assert!(delayed.put(&channel("a"), S(1)) && !delayed.put(&channel("b"), S(1)));
        assert!(delayed.put(&channel("a"), S(2)), "it is there already");
        assert!(delayed.remove(&channel("a")) && delayed.put(&channel("b"), S(1)));
    }
}
