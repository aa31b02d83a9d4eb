//! The members of this node, and what of them Redis does not know yet.
//!
//! A channel goes from queue to queue. First the list of this node's channels has to have it: from the list others learn, when
//! this node has died, where its members lie, so the list has every channel in which somebody is written, and never one too few.
//! Then its server is told who is there. When the last has gone it leaves the list again. The list is at home, and home may
//! be away while the server of a channel is there, or the other way round.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::LISTED_MAX;
use super::present::{Due, Listed, Present, Write};
use crate::backplane::TOO_MANY_MEMBERS;
use crate::backplane::redis::topology::slots::SlotMap;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::push::Member;

const SHARDS: usize = 64;

type Shard = HashMap<Channel, Present>;

/// See the module.
pub(crate) struct Presence {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    slot_map: Arc<SlotMap>,
    /// One for each server, and the last one for the list.
    queues: Box<[Queue]>,
    /// How often the list was taken for lost.
    losses: AtomicU64,
    /// The list may have channels that are not known here.
    strangers: Notify,
}

/// Channels about which something is to be done. One that stands elsewhere by then is passed over.
#[derive(Default)]
struct Queue {
    channels: Mutex<VecDeque<Channel>>,
    some: Notify,
    /// The replication id of the server that was written to last.
    server: Mutex<Box<str>>,
}

/// What a server is told at once. Dropped, it counts as not told.
pub(super) struct Batch<'a> {
    presence: &'a Presence,
    pub(super) writes: Vec<Write>,
}

/// What the list is told at once. Dropped, it counts as not told.
pub(super) struct Listing<'a> {
    presence: &'a Presence,
    losses: u64,
    pub(super) come: Vec<Channel>,
    pub(super) gone: Vec<Channel>,
}

impl Presence {
    /// Numbers of shards.
    pub(super) const SHARDS: usize = SHARDS;

    /// For so many servers.
    pub(crate) fn new(slot_map: Arc<SlotMap>, servers: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            slot_map,
            queues: (0..=servers).map(|_| Queue::default()).collect(),
            losses: AtomicU64::new(0),
            strangers: Notify::new(),
        }
    }

    fn shard(&self, channel: &Channel) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(channel) as usize % SHARDS])
    }

    /// The number of the queue for the list.
    fn list(&self) -> usize {
        self.queues.len() - 1
    }

    /// A connection has come.
    pub(crate) fn enter(&self, channel: &Channel, member: &Arc<Member>) {
        let mut shard = self.shard(channel);
        let present = shard.entry(channel.clone()).or_insert_with(|| Present::new(Listed::No));
        present.enter(member);
        self.queue(channel, present);
    }

    /// A connection has gone.
    pub(crate) fn leave(&self, channel: &Channel, member: &Arc<Member>) {
        let mut shard = self.shard(channel);
        let Some(present) = shard.get_mut(channel) else { return };
        present.leave(member);
        self.queue(channel, present);
    }

    /// The members of this node, if a list of them is not too long.
    pub(crate) fn members(
        &self,
        channel: &Channel,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Member>>, ReplyError> {
        let shard = self.shard(channel);
        let Some(present) = shard.get(channel) else { return Ok(Vec::new()) };
        if present.bytes > bytes_max || present.members.len() > LISTED_MAX {
            return Err(ReplyError::LIMIT_EXCEEDED.because(TOO_MANY_MEMBERS));
        }
        Ok(present.members.values().cloned().collect())
    }

    /// How many connections and users this node has, and those of the users that Redis may not know of yet.
    pub(crate) fn count(&self, channel: &Channel) -> (usize, usize, Vec<Box<str>>) {
        let shard = self.shard(channel);
        let Some(present) = shard.get(channel) else { return (0, 0, Vec::new()) };
        (present.members.len(), present.users.len(), present.unwritten_users())
    }

    /// Nobody is in any channel, and Redis knows it.
    pub(crate) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).is_empty())
    }

    /// Puts a channel where something is to be done about it next.
    fn queue(&self, channel: &Channel, present: &mut Present) {
        let queue = match present.due() {
            Due::Nothing => return,
            Due::List | Due::Forget => self.list(),
            Due::Write => self.slot_map.shard_of(channel),
        };
        if present.queued.replace(queue) != Some(queue) {
            let queue = &self.queues[queue];
            lock(&queue.channels).push_back(channel.clone());
            queue.some.notify_one();
        }
    }

    /// Waits until a server is to be told something. Dropping the future loses nothing.
    pub(super) async fn changed(&self, server: usize) {
        self.stands_in(server).await;
    }

    /// Waits until the list is to be told something. Dropping the future loses nothing.
    pub(super) async fn list_changed(&self) {
        self.stands_in(self.list()).await;
    }

    async fn stands_in(&self, queue: usize) {
        let queue = &self.queues[queue];
        if lock(&queue.channels).is_empty() {
            queue.some.notified().await;
        }
    }

    /// The list may have channels that are not known here.
    pub(super) fn suspect_strangers(&self) {
        self.strangers.notify_one();
    }

    /// Waits until [`Presence::know`] is to be called for what the list has. Dropping the future loses nothing.
    pub(super) async fn strangers(&self) {
        self.strangers.notified().await;
    }

    /// Takes what a server is to be told next.
    pub(super) fn take(&self, server: usize, channels_max: usize, members_max: usize) -> Batch<'_> {
        let (mut batch, mut members) = (Batch { presence: self, writes: Vec::new() }, 0);
        while batch.writes.len() < channels_max && members < members_max {
            let Some(channel) = lock(&self.queues[server].channels).pop_front() else { break };
            let mut shard = self.shard(&channel);
            let Some(present) = shard.get_mut(&channel) else { continue };
            if present.queued != Some(server) {
                continue;
            }
            present.queued = None;
            if present.due() == Due::Write && self.slot_map.shard_of(&channel) == server {
                let write = present.write(&channel);
                members += write.concerned.len();
                batch.writes.push(write);
            }
            // It has another part, or has to go elsewhere first.
            self.queue(&channel, present);
        }
        batch
    }

    /// Takes what the list is to be told next.
    pub(super) fn take_list(&self, max: usize) -> Listing<'_> {
        let losses = self.losses.load(Ordering::Acquire);
        let mut listing = Listing { presence: self, losses, come: Vec::new(), gone: Vec::new() };
        while listing.come.len() < max && listing.gone.len() < max {
            let Some(channel) = lock(&self.queues[self.list()].channels).pop_front() else { break };
            let mut shard = self.shard(&channel);
            let Some(present) = shard.get_mut(&channel) else { continue };
            if present.queued != Some(self.list()) {
                continue;
            }
            present.queued = None;
            match present.due() {
                Due::Forget => {
                    shard.remove(&channel);
                }
                Due::List if present.is_left() && !present.has_news() => {
                    present.listed = Listed::Perhaps;
                    listing.gone.push(channel.clone());
                }
                Due::List => {
                    present.listed = Listed::Perhaps;
                    listing.come.push(channel.clone());
                }
                Due::Write | Due::Nothing => self.queue(&channel, present),
            }
        }
        listing
    }

    /// There is a link to a server. One that is not known has nothing of what was written.
    pub(crate) fn begin(&self, server: usize, id: &str) {
        let another = {
            let mut known = lock(&self.queues[server].server);
            let another = **known != *id;
            *known = id.into();
            another
        };
        if another {
            self.write_anew_at(|channel| self.slot_map.shard_of(channel) == server);
        }
        self.suspect_strangers();
    }

    /// Nothing is taken for known to the servers of these channels, wherever they are by now.
    pub(crate) fn write_anew_at(&self, concerns: impl Fn(&Channel) -> bool) {
        for shard in &self.shards {
            for (channel, present) in lock(shard).iter_mut().filter(|(channel, _)| concerns(channel)) {
                present.write_anew();
                self.queue(channel, present);
            }
        }
    }

    /// The list has lost what it was told, or somebody else has taken it away.
    pub(crate) fn list_anew(&self) {
        self.losses.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            for (channel, present) in lock(shard).iter_mut() {
                if present.listed == Listed::Yes {
                    present.listed = Listed::Perhaps;
                }
                self.queue(channel, present);
            }
        }
        self.suspect_strangers();
    }

    /// The list has a channel: what lies there of this node goes if nobody is known to be in it.
    pub(super) fn know(&self, channel: &Channel) {
        let mut shard = self.shard(channel);
        if let Entry::Vacant(shard_index) = shard.entry(channel.clone()) {
            self.queue(channel, shard_index.insert(Present::new(Listed::Yes)));
        }
    }

    /// The channels of a shard and a server about which nothing is to be done.
    pub(super) fn quiet_in(&self, shard: usize, server: usize) -> Vec<Channel> {
        let shard = lock(&self.shards[shard % SHARDS]);
        let quiet = shard.iter().filter(|(channel, present)| {
            present.due() == Due::Nothing && self.slot_map.shard_of(channel) == server
        });
        quiet.map(|(channel, _)| channel.clone()).collect()
    }

    /// The server has so many connections and users of this node in a channel. If others are right, and were all along, it is told
    /// everything anew.
    pub(super) fn compare(&self, channel: &Channel, connections: usize, users: usize) {
        let mut shard = self.shard(channel);
        let Some(present) = shard.get_mut(channel) else { return };
        let quiet = present.due() == Due::Nothing && !present.is_under_way();
        if quiet && (present.members.len(), present.users.len()) != (connections, users) {
            present.write_anew();
            self.queue(channel, present);
        }
    }

    /// Forgets who has come and gone while a server is away. To be called then, so that this is bounded: on its return who is
    /// there is written anew, and channels that only the list has are cleared.
    pub(crate) fn sweep(&self, server: usize) {
        if lock(&self.queues[server].channels).is_empty() {
            // Nothing has changed there.
            return;
        }
        self.sweep_queue(server, |channel, present| {
            let concerned = self.slot_map.shard_of(channel) == server && !present.is_under_way();
            if concerned && present.members.is_empty() {
                return false;
            }
            if concerned {
                present.write_anew();
            }
            true
        });
    }

    /// The same while the list is away. What its server may still have stays known: the list may be lost.
    pub(crate) fn sweep_list(&self) {
        self.sweep_queue(self.list(), |_, present| {
            if present.is_left() && (present.listed == Listed::No || !present.has_news()) {
                return false;
            }
            if present.listed != Listed::Yes && !present.is_under_way() {
                present.write_anew();
            }
            true
        });
    }

    /// Makes a queue anew of what `keep` leaves.
    fn sweep_queue(&self, queue: usize, keep: impl Fn(&Channel, &mut Present) -> bool) {
        lock(&self.queues[queue].channels).clear();
        for shard in &self.shards {
            lock(shard).retain(|channel, present| {
                if present.queued == Some(queue) {
                    present.queued = None;
                }
                let keep = keep(channel, present);
                if keep {
                    self.queue(channel, present);
                }
                keep
            });
        }
    }

    fn answered(&self, write: &Write, written: bool) {
        if let Some(present) = self.shard(&write.channel).get_mut(&write.channel) {
            present.answered(write, written);
            self.queue(&write.channel, present);
        }
    }

    /// The list was asked to change when it had been lost so often. If it was lost meanwhile, the answer says nothing.
    fn listed(&self, channel: &Channel, listed: Listed, losses: u64) {
        let mut shard = self.shard(channel);
        let Some(present) = shard.get_mut(channel) else { return };
        present.listed = if losses == self.losses.load(Ordering::Acquire) { listed } else { Listed::Perhaps };
        if present.due() == Due::Forget {
            shard.remove(channel);
        } else {
            self.queue(channel, present);
        }
    }
}

impl Batch<'_> {
    /// The server has answered. `written` tells by its place in the batch whether it has carried a write out.
    pub(super) fn answered(mut self, written: impl Fn(usize) -> bool) {
        for (shard_index, write) in std::mem::take(&mut self.writes).iter().enumerate() {
            self.presence.answered(write, written(shard_index));
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.writes.iter().for_each(|write| self.presence.answered(write, false));
    }
}

impl Listing<'_> {
    /// The list has carried it out.
    pub(super) fn done(mut self) {
        for (channels, listed) in [(&mut self.come, Listed::Yes), (&mut self.gone, Listed::No)] {
            for channel in std::mem::take(channels) {
                self.presence.listed(&channel, listed, self.losses);
            }
        }
    }
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        for channel in self.come.iter().chain(&self.gone) {
            self.presence.listed(channel, Listed::Perhaps, self.losses);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
