//! The members of this node, and what of them Redis does not know yet.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::protocol::channel::Channel;
use crate::protocol::push::Member;

const SHARDS: usize = 64;

/// Members of one channel that are written at once: a script holds everybody else up.
const AT_ONCE_MAX: usize = 1000;

/// See the module.
pub(in crate::backplane::redis) struct Presence {
    shards: [Mutex<HashMap<Channel, Present>>; SHARDS],
    hasher: RandomState,
    /// Channels of which Redis does not know everything, each once.
    changes: Mutex<VecDeque<Channel>>,
    changed: Notify,
}

/// The members of one channel.
#[derive(Debug, Default)]
struct Present {
    /// By the id of their connection.
    members: HashMap<Arc<str>, Arc<Member>>,
    /// By what a user is called in Redis, with how many connections.
    users: HashMap<Box<str>, usize>,
    /// Connections that have come or gone, with what their users are called.
    unwritten: HashMap<Arc<str>, Box<str>>,
    /// Nothing of what Redis has is right.
    anew: bool,
    /// Stands among the changes.
    queued: bool,
}

/// What Redis is to be told of one channel: how things are, not what has changed.
#[derive(Debug)]
pub(in crate::backplane::redis) struct Write {
    pub(super) channel: Channel,
    pub(super) anew: bool,
    pub(super) came: Vec<Arc<Member>>,
    pub(super) users_came: Vec<Box<str>>,
    pub(super) gone: Vec<Box<str>>,
    pub(super) users_gone: Vec<Box<str>>,
    /// Nobody is left.
    pub(super) empty: bool,
    concerned: HashMap<Arc<str>, Box<str>>,
}

/// Users are counted once, and anonymous connections one by one.
fn user(member: &Member) -> Box<str> {
    if member.user.is_empty() {
        format!("@{}", member.client).into()
    } else {
        format!("#{}", member.user).into()
    }
}

impl Presence {
    /// Numbers of shards.
    pub(super) const SHARDS: usize = SHARDS;

    pub(in crate::backplane::redis) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            changes: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn shard(&self, channel: &Channel) -> MutexGuard<'_, HashMap<Channel, Present>> {
        lock(&self.shards[self.hasher.hash_one(channel) as usize % SHARDS])
    }

    /// A connection has come.
    pub(in crate::backplane::redis) fn enter(&self, channel: &Channel, member: &Arc<Member>) {
        let mut shard = self.shard(channel);
        let present = shard.entry(channel.clone()).or_default();
        let user = user(member);
        if present.members.insert(member.client.clone(), member.clone()).is_none() {
            *present.users.entry(user.clone()).or_default() += 1;
        }
        present.unwritten.insert(member.client.clone(), user);
        self.queue(channel, present);
    }

    /// A connection has gone.
    pub(in crate::backplane::redis) fn leave(&self, channel: &Channel, member: &Arc<Member>) {
        let mut shard = self.shard(channel);
        let Some(present) = shard.get_mut(channel) else { return };
        if present.members.remove(&member.client).is_none() {
            return;
        }
        let user = user(member);
        if let Some(connections) = present.users.get_mut(&user) {
            *connections -= 1;
            if *connections == 0 {
                present.users.remove(&user);
            }
        }
        present.unwritten.insert(member.client.clone(), user);
        self.queue(channel, present);
    }

    /// The members of this node.
    pub(in crate::backplane::redis) fn members(&self, channel: &Channel) -> Vec<Arc<Member>> {
        let shard = self.shard(channel);
        shard.get(channel).map(|present| present.members.values().cloned().collect()).unwrap_or_default()
    }

    /// How many connections and users this node has, and those of the users that Redis may not know of yet.
    pub(in crate::backplane::redis) fn count(&self, channel: &Channel) -> (usize, usize, Vec<Box<str>>) {
        let shard = self.shard(channel);
        let Some(present) = shard.get(channel) else { return (0, 0, Vec::new()) };
        let unwritten = present.unwritten.iter();
        let unwritten = unwritten.filter(|(client, _)| present.members.contains_key(*client));
        let unwritten = unwritten.map(|(_, user)| user.clone());
        (present.members.len(), present.users.len(), unwritten.collect())
    }

    fn queue(&self, channel: &Channel, present: &mut Present) {
        if !std::mem::replace(&mut present.queued, true) {
            lock(&self.changes).push_back(channel.clone());
            self.changed.notify_one();
        }
    }

    /// Waits until there is something to write. Dropping the future loses nothing.
    pub(super) async fn changed(&self) {
        if lock(&self.changes).is_empty() {
            self.changed.notified().await;
        }
    }

    /// Whether Redis knows everything.
    pub(in crate::backplane::redis) fn is_written(&self) -> bool {
        lock(&self.changes).is_empty()
    }

    /// Takes what Redis is to be told next. What cannot be told comes back with [`Presence::undone`].
    pub(super) fn take(&self, channels_max: usize, members_max: usize) -> Vec<Write> {
        let (mut writes, mut members) = (Vec::new(), 0);
        while writes.len() < channels_max && members < members_max {
            let Some(channel) = lock(&self.changes).pop_front() else { break };
            let mut shard = self.shard(&channel);
            let Some(present) = shard.get_mut(&channel) else { continue };
            present.queued = false;
            let write = present.write(&channel);
            if !present.unwritten.is_empty() {
                self.queue(&channel, present);
            } else if present.members.is_empty() {
                shard.remove(&channel);
            }
            drop(shard);
            members += write.concerned.len();
            writes.push(write);
        }
        writes
    }

    /// Redis was not told.
    pub(super) fn undone(&self, write: Write) {
        let mut shard = self.shard(&write.channel);
        let present = shard.entry(write.channel.clone()).or_default();
        present.anew |= write.anew;
        present.unwritten.extend(write.concerned);
        self.queue(&write.channel, present);
    }

    /// Redis has lost a channel.
    pub(super) fn lost(&self, channel: &Channel) {
        if let Some(present) = self.shard(channel).get_mut(channel) {
            present.write_anew();
            self.queue(channel, present);
        }
    }

    /// Redis has a channel as one of this node's: what stands there goes if nobody is in it.
    pub(super) fn forget(&self, channel: &Channel) {
        let mut shard = self.shard(channel);
        if !shard.contains_key(channel) {
            let present = shard.entry(channel.clone()).or_default();
            present.write_anew();
            self.queue(channel, present);
        }
    }

    /// Nothing is taken for known to Redis. What has gone is forgotten.
    pub(in crate::backplane::redis) fn write_anew(&self) {
        lock(&self.changes).clear();
        for shard in &self.shards {
            lock(shard).retain(|channel, present| {
                present.write_anew();
                present.queued = false;
                if !present.members.is_empty() {
                    self.queue(channel, present);
                }
                !present.members.is_empty()
            });
        }
    }

    /// The channels of a shard that Redis knows of.
    pub(super) fn channels_in(&self, shard: usize) -> Vec<Channel> {
        let shard = lock(&self.shards[shard % SHARDS]);
        let known = shard.iter().filter(|(_, present)| !present.queued && !present.members.is_empty());
        known.map(|(channel, _)| channel.clone()).collect()
    }
}

impl Present {
    fn write_anew(&mut self) {
        self.anew = true;
        self.unwritten = self.members.values().map(|member| (member.client.clone(), user(member))).collect();
    }

    fn write(&mut self, channel: &Channel) -> Write {
        let concerned: HashMap<_, _> = if self.unwritten.len() <= AT_ONCE_MAX {
            std::mem::take(&mut self.unwritten)
        } else {
            let some: Vec<_> = self.unwritten.keys().take(AT_ONCE_MAX).cloned().collect();
            some.iter().filter_map(|client| self.unwritten.remove_entry(client)).collect()
        };
        let (mut came, mut gone) = (Vec::new(), Vec::new());
        let (mut users_came, mut users_gone) = (Vec::new(), Vec::new());
        for (client, user) in &concerned {
            match self.members.get(client) {
                Some(member) => came.push(member.clone()),
                None => gone.push(Box::from(&**client)),
            }
            if self.users.contains_key(user) {
                users_came.push(user.clone());
            } else {
                users_gone.push(user.clone());
            }
        }
        Write {
            channel: channel.clone(),
            anew: std::mem::take(&mut self.anew),
            came,
            users_came,
            gone,
            users_gone,
            empty: self.members.is_empty(),
            concerned,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn channel() -> Channel {
        Channel::parse("room").unwrap()
    }

    fn member(client: &str, user: &str) -> Arc<Member> {
        Arc::new(Member { client: client.into(), user: user.into(), info: bytes::Bytes::new() })
    }

    fn take(presence: &Presence) -> Write {
        let mut writes = presence.take(9, 9999);
        assert_eq!(writes.len(), 1);
        writes.pop().unwrap()
    }

    fn texts(texts: &[Box<str>]) -> Vec<&str> {
        texts.iter().map(|text| &**text).collect()
    }

    #[test]
    fn a_user_goes_with_the_last_connection() {
        let presence = Presence::new();
        presence.enter(&channel(), &member("1", "ann"));
        presence.enter(&channel(), &member("2", "ann"));
        assert_eq!(presence.count(&channel()).0, 2);
        assert_eq!(presence.count(&channel()).1, 1);
        take(&presence);
        presence.leave(&channel(), &member("1", "ann"));
        let write = take(&presence);
        assert_eq!((texts(&write.gone), texts(&write.users_gone)), (vec!["1"], vec![]));
        presence.leave(&channel(), &member("2", "ann"));
        let write = take(&presence);
        assert_eq!((texts(&write.users_gone), write.empty), (vec!["#ann"], true));
        assert!(presence.members(&channel()).is_empty() && presence.is_written());
    }

    #[test]
    fn coming_and_going_many_times_is_one_write() {
        let presence = Presence::new();
        for _ in 0..100 {
            presence.enter(&channel(), &member("1", ""));
            presence.leave(&channel(), &member("1", ""));
        }
        let write = take(&presence);
        assert_eq!(
            (write.came.len(), texts(&write.gone), texts(&write.users_gone)),
            (0, vec!["1"], vec!["@1"])
        );
    }

    #[test]
    fn what_could_not_be_written_is_written_as_it_is_by_then() {
        let presence = Presence::new();
        presence.enter(&channel(), &member("1", "ann"));
        let failed = take(&presence);
        presence.leave(&channel(), &member("1", "ann"));
        presence.undone(failed);
        let write = take(&presence);
        assert_eq!((write.came.len(), texts(&write.gone)), (0, vec!["1"]));
    }

    #[test]
    fn a_large_channel_is_written_in_parts_of_which_only_the_first_clears() {
        let presence = Presence::new();
        for number in 0..2500 {
            presence.enter(&channel(), &member(&number.to_string(), "ann"));
        }
        presence.write_anew();
        let writes = presence.take(9, 9999);
        let parts: Vec<_> = writes.iter().map(|write| (write.anew, write.came.len())).collect();
        assert_eq!(parts, [(true, 1000), (false, 1000), (false, 500)]);
    }

    #[test]
    fn a_channel_that_only_redis_knows_of_is_cleared() {
        let presence = Presence::new();
        presence.forget(&channel());
        let write = take(&presence);
        assert!(write.anew && write.empty && write.came.is_empty());
        assert!(presence.take(9, 9).is_empty());
    }
}
