//! `Repeats` remembers which idempotency keys this gateway has used, and at which server. Redis remembers the
//! keys too, but a replaced server takes along those that its successor never received. This prevents
//! publishing such a publication twice when it is repeated here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::protocol::channel::Channel;
use crate::protocol::command::Position;

/// Maximum number of remembered publications. Only those shortly before the replacement of a server matter.
const REMEMBERED_MAX: usize = 4096;

/// A channel, and a key in it.
type Key = (Channel, Box<str>);

/// See the module.
#[derive(Default)]
pub(crate) struct Repeats(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    known: HashMap<Key, Published>,
    /// Oldest first.
    order: VecDeque<Key>,
}

struct Published {
    /// Replication id of the server.
    server: Box<str>,
    top: Position,
    until: Duration,
}

impl Repeats {
    /// Remembers a publication, made now or found to have been made before.
    pub(crate) fn remember(
        &self,
        channel: &Channel,
        key: &str,
        server: &str,
        top: &Position,
        until: Duration,
    ) {
        let mut remembered = self.lock();
        let shard_index: Key = (channel.clone(), key.into());
        let published = Published { server: server.into(), top: top.clone(), until };
        if remembered.known.insert(shard_index.clone(), published).is_none() {
            remembered.order.push_back(shard_index);
        }
        if remembered.order.len() > REMEMBERED_MAX
            && let Some(oldest) = remembered.order.pop_front()
        {
            remembered.known.remove(&oldest);
        }
    }

    /// Position of the first publication, if it was made at another server than this one.
    pub(crate) fn elsewhere(
        &self,
        channel: &Channel,
        key: &str,
        server: &str,
        at: Duration,
    ) -> Option<Position> {
        let remembered = self.lock();
        let first = remembered.known.get(&(channel.clone(), key.into()))?;
        (*first.server != *server && first.until > at).then(|| first.top.clone())
    }

    /// Extends the time for which a repeated publication is remembered.
    pub(crate) fn prolong(&self, channel: &Channel, key: &str, until: Duration) {
        if let Some(published) = self.lock().known.get_mut(&(channel.clone(), key.into())) {
            published.until = published.until.max(until);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::commands::repeats::*;

    #[test]
    fn only_what_another_server_had_is_returned_and_not_for_longer_than_its_key_lives() {
        let (repeats, news) = (Repeats::default(), Channel::parse("news").unwrap());
        let top = Position { offset: 7, epoch: "e".into() };
        let time = Duration::from_secs;
        repeats.remember(&news, "k", "old", &top, time(9));
        assert_eq!(repeats.elsewhere(&news, "k", "old", time(1)), None);
        assert_eq!(repeats.elsewhere(&news, "k", "new", time(1)), Some(top));
        assert_eq!(repeats.elsewhere(&news, "k", "new", time(9)), None);
        assert_eq!(repeats.elsewhere(&news, "other", "new", time(1)), None);
        repeats.prolong(&news, "k", time(12));
        assert!(repeats.elsewhere(&news, "k", "new", time(9)).is_some(), "after its last use");
        repeats.prolong(&news, "k", time(3));
        assert_eq!(repeats.elsewhere(&news, "k", "new", time(12)), None);
    }

    #[test]
    fn the_oldest_give_way() {
        let (repeats, news) = (Repeats::default(), Channel::parse("news").unwrap());
        for number in 0..=REMEMBERED_MAX {
            repeats.remember(&news, &number.to_string(), "old", &Position::default(), Duration::MAX);
        }
        let known = |key: &str| repeats.elsewhere(&news, key, "new", Duration::ZERO).is_some();
        assert!(!known("0") && known("1") && known(&REMEMBERED_MAX.to_string()));
    }
}
