//! `PresenceTable` holds the members of this node and tracks what has not been written to Redis.
//!
//! A channel moves through queues. First it is added to the list of this node's channels: when this node has
//! died, the others learn from the list where its members are stored, so a channel must be listed before a
//! member is written. Then its members are written to its server. When the last member has gone, the channel
//! is removed from the list. The list is on the shared server, which may be unavailable while the channel's
//! server is not, or the other way round.
//!
//! Where an observer is told of occupancy, a channel with subscribers takes the same way: it has a record on
//! its server (`occupancy.rs`).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::backplane::TOO_MANY_MEMBERS;
use crate::backplane::occupancy::{Delayed, Teller};
use crate::backplane::redis::format::script::LISTED_MAX;
use crate::backplane::redis::format::slots::SlotMap;
use crate::backplane::redis::presence::occupancy::{Answer, Transition};
use crate::backplane::redis::presence::present::{Due, Listed, Present, Write};
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::push::Member;
use crate::sharded::Sharded;

const SHARDS: usize = 64;

type Shard = HashMap<Channel, Present>;

/// See the module.
pub(crate) struct PresenceTable {
    shards: Sharded<Shard, SHARDS>,
    slot_map: Arc<SlotMap>,
    /// One for each server, and the last one for the list.
    queues: Box<[Queue]>,
    /// Number of times the list was considered lost.
    losses: AtomicU64,
    /// Notified if the list may have channels that are not known here.
    strangers: Notify,
    /// `None` if nobody is told of occupancy.
    teller: Option<Arc<Teller>>,
    /// Channels of which this gateway has to tell later that they are vacated.
    delayed: Mutex<Delayed>,
}

/// Channels with a pending step. A channel that is in another queue by then is skipped.
#[derive(Default)]
struct Queue {
    channels: Mutex<VecDeque<Channel>>,
    some: Notify,
    /// Replication id of the server that was written to last.
    server: Mutex<Box<str>>,
}

/// Writes to a server. If dropped, they count as failed.
pub(super) struct Batch<'a> {
    table: &'a PresenceTable,
    pub(super) writes: Vec<Write>,
}

/// Changes of the list. If dropped, they count as failed.
pub(super) struct Listing<'a> {
    table: &'a PresenceTable,
    losses: u64,
    pub(super) come: Vec<Channel>,
    pub(super) gone: Vec<Channel>,
}

impl PresenceTable {
    /// Number of shards of the table.
    pub(super) const SHARDS: usize = SHARDS;

    /// Creates an empty table for this number of servers.
    pub(crate) fn new(slot_map: Arc<SlotMap>, servers: usize, teller: Option<Arc<Teller>>) -> Self {
        let delayed_max = teller.as_ref().map_or(0, |teller| teller.delayed_max());
        Self {
            shards: Sharded::default(),
            slot_map,
            queues: (0..=servers).map(|_| Queue::default()).collect(),
            losses: AtomicU64::new(0),
            strangers: Notify::new(),
            teller,
            delayed: Mutex::new(Delayed::new(delayed_max)),
        }
    }

    fn shard(&self, channel: &Channel) -> MutexGuard<'_, Shard> {
        self.shards.lock(channel)
    }

    /// Index of the queue for the list.
    fn list(&self) -> usize {
        self.queues.len() - 1
    }

    /// A connection has joined.
    pub(crate) fn enter(&self, channel: &Channel, member: &Arc<Member>) {
        let mut shard = self.shard(channel);
        let present = shard.entry(channel.clone()).or_insert_with(|| Present::new(Listed::No));
        present.enter(member);
        self.queue(channel, present);
    }

    /// A connection has left.
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

    /// Number of connections and users at this node, and those of the users that Redis may not know yet.
    pub(crate) fn count(&self, channel: &Channel) -> (usize, usize, Vec<Box<str>>) {
        let shard = self.shard(channel);
        let Some(present) = shard.get(channel) else { return (0, 0, Vec::new()) };
        (present.members.len(), present.users.len(), present.unwritten_users())
    }

    /// Whether no channel has members and Redis is up to date. Channels that wait for the end of their delay
    /// do not count.
    pub(crate) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.values().all(Present::only_waits))
    }

    /// Puts a channel into the queue of its next step.
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

    /// Waits until there is something to write to a server. Dropping the future loses nothing.
    pub(super) async fn changed(&self, server: usize) {
        self.stands_in(server).await;
    }

    /// Waits until there is a change for the list. Dropping the future loses nothing.
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

    /// Waits until [`PresenceTable::know`] must be called for the channels in the list. Dropping the future
    /// loses nothing.
    pub(super) async fn strangers(&self) {
        self.strangers.notified().await;
    }

    /// Takes the next writes for a server.
    pub(super) fn take(&self, server: usize, channels_max: usize, members_max: usize) -> Batch<'_> {
        let delay = self.teller.as_ref().map_or(Duration::ZERO, |teller| teller.delay());
        let (mut batch, mut members) = (Batch { table: self, writes: Vec::new() }, 0);
        while batch.writes.len() < channels_max && members < members_max {
            let Some(channel) = lock(&self.queues[server].channels).pop_front() else { break };
            let mut shard = self.shard(&channel);
            let Some(present) = shard.get_mut(&channel) else { continue };
            if present.queued != Some(server) {
                continue;
            }
            present.queued = None;
            if present.due() == Due::Write && self.slot_map.shard_of(&channel) == server {
                let write = present.write(&channel, delay);
                members += write.concerned.len();
                batch.writes.push(write);
            }
            // It needs another write, or another queue.
            self.queue(&channel, present);
        }
        batch
    }

    /// Takes the next changes for the list.
    pub(super) fn take_list(&self, max: usize) -> Listing<'_> {
        let losses = self.losses.load(Ordering::Acquire);
        let mut listing = Listing { table: self, losses, come: Vec::new(), gone: Vec::new() };
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

    /// A connection to a server was made. If it is another server than before, everything is written again.
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

    /// Writes these channels again, to their current servers.
    pub(crate) fn write_anew_at(&self, concerns: impl Fn(&Channel) -> bool) {
        for mut shard in self.shards.iter() {
            for (channel, present) in shard.iter_mut().filter(|(channel, _)| concerns(channel)) {
                present.write_anew();
                self.queue(channel, present);
            }
        }
    }

    /// The list was lost, or another gateway has removed it.
    pub(crate) fn list_anew(&self) {
        self.losses.fetch_add(1, Ordering::AcqRel);
        for mut shard in self.shards.iter() {
            for (channel, present) in shard.iter_mut() {
                if present.listed == Listed::Yes {
                    present.listed = Listed::Perhaps;
                }
                self.queue(channel, present);
            }
        }
        self.suspect_strangers();
    }

    /// The list has a channel: if it is not known here, its old entries are removed.
    pub(super) fn know(&self, channel: &Channel) {
        let mut shard = self.shard(channel);
        if let Entry::Vacant(shard_index) = shard.entry(channel.clone()) {
            let present = shard_index.insert(Present::new(Listed::Yes));
            present.occupancy.news = self.wants(channel);
            self.queue(channel, present);
        }
    }

    /// The channels of one part of the table and one server that have no pending step.
    pub(super) fn quiet_in(&self, shard: usize, server: usize) -> Vec<Channel> {
        let shard = self.shards.lock_index(shard);
        let quiet = shard.iter().filter(|(channel, present)| {
            present.due() == Due::Nothing && !present.is_bare && self.slot_map.shard_of(channel) == server
        });
        quiet.map(|(channel, _)| channel.clone()).collect()
    }

    /// Compares the counts that a server has for this node in a channel. If they differ although nothing is
    /// pending, everything is written again.
    pub(super) fn compare(&self, channel: &Channel, connections: usize, users: usize) {
        let mut shard = self.shard(channel);
        let Some(present) = shard.get_mut(channel) else { return };
        let quiet = present.due() == Due::Nothing && !present.is_under_way();
        if quiet && (present.members.len(), present.users.len()) != (connections, users) {
            present.write_anew();
            self.queue(channel, present);
        }
    }

    /// Forgets channels without members while a server is away, so that the table stays bounded: when the
    /// server returns, all members are written again, and channels that are only in the list are cleared.
    pub(crate) fn sweep(&self, server: usize) {
        if lock(&self.queues[server].channels).is_empty() {
            // Nothing has changed for this server.
            return;
        }
        self.sweep_queue(server, |channel, present| {
            let concerned = self.slot_map.shard_of(channel) == server && !present.is_under_way();
            if concerned && present.members.is_empty() && !present.occupancy.is_needed() {
                return false;
            }
            if concerned {
                present.write_anew();
            }
            true
        });
    }

    /// The same while the list is away. A channel whose server may still have entries is kept, because the
    /// list may be lost.
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

    /// Rebuilds a queue from the channels that `keep` keeps.
    fn sweep_queue(&self, queue: usize, keep: impl Fn(&Channel, &mut Present) -> bool) {
        lock(&self.queues[queue].channels).clear();
        for mut shard in self.shards.iter() {
            shard.retain(|channel, present| {
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

    /// Whether the observer is told of the occupancy of a channel.
    fn wants(&self, channel: &Channel) -> bool {
        self.teller.as_ref().is_some_and(|teller| teller.wants(channel))
    }

    /// A worker has a subscriber in a channel.
    pub(crate) fn occupy(&self, worker: usize, channel: &Channel) {
        let Some(teller) = self.teller.as_ref().filter(|teller| teller.wants(channel)) else { return };
        let mut shard = self.shard(channel);
        let present = shard.entry(channel.clone()).or_insert_with(Present::bare);
        if present.occupancy.came(worker) {
            teller.metrics().came();
            present.occupancy.hurries = false;
            lock(&self.delayed).remove(channel);
            self.queue(channel, present);
        }
    }

    /// A worker has no subscriber in a channel any more.
    pub(crate) fn vacate(&self, worker: usize, channel: &Channel) {
        let Some(teller) = self.teller.as_ref().filter(|teller| teller.wants(channel)) else { return };
        let mut shard = self.shard(channel);
        let Some(present) = shard.get_mut(channel) else { return };
        if present.occupancy.left(worker) {
            teller.metrics().left();
            self.queue(channel, present);
        }
    }

    /// Takes over the part of a dead gateway in the occupancy of a channel. The receiver gets an error if it
    /// has to be tried again. `None` if the observer is not told of this channel.
    pub(crate) fn take_over(&self, channel: &Channel, node: &str) -> Option<oneshot::Receiver<()>> {
        if !self.wants(channel) {
            return None;
        }
        let (sender, done) = oneshot::channel();
        let mut shard = self.shard(channel);
        let present = shard.entry(channel.clone()).or_insert_with(Present::bare);
        present.occupancy.take_over(node, sender);
        self.queue(channel, present);
        Some(done)
    }

    /// Writes the records of channels whose delay is over: the reply says whether they are vacated.
    pub(crate) fn tick(&self, at: Duration) {
        loop {
            let Some(channel) = lock(&self.delayed).first_due(at) else { return };
            let mut shard = self.shard(&channel);
            let is_due = lock(&self.delayed).remove_due(&channel, at);
            if is_due && let Some(present) = shard.get_mut(&channel) {
                present.occupancy.news = true;
                self.queue(&channel, present);
            }
        }
    }

    /// Confirms the records of the channels with subscribers in one part of the table and on one server.
    pub(super) fn confirm_occupied(&self, shard: usize, server: usize) {
        if self.teller.is_none() {
            return;
        }
        let mut shard = self.shards.lock_index(shard);
        for (channel, present) in shard.iter_mut() {
            if present.occupancy.is_here() && self.slot_map.shard_of(channel) == server {
                present.occupancy.news = true;
                self.queue(channel, present);
            }
        }
    }

    /// This gateway was declared dead, or the shared server has lost its data: another gateway may have told
    /// that channels are vacated.
    pub(crate) fn distrust_records(&self) {
        for mut shard in self.shards.iter() {
            shard.values_mut().for_each(|present| present.occupancy.distrust());
        }
    }

    /// Takes the answer to the write of a channel's record, and tells the observer what it says.
    fn record_answered(&self, write: &mut Write, answer: Answer, at: Duration) {
        let (Some(record), Some(teller)) = (write.record.take(), &self.teller) else { return };
        let mut shard = self.shard(&write.channel);
        let Some(present) = shard.get_mut(&write.channel) else { return };
        let again_in = match &answer {
            Answer::Reply(reply) => Some(reply.again_in),
            Answer::Refused | Answer::Lost => None,
        };
        // Under the lock, so that the observer is told in the right order.
        for transition in present.occupancy.answered(&record, answer) {
            match transition {
                Transition::Occupied => teller.occupied(&write.channel),
                Transition::Vacated => teller.vacated(&write.channel),
            }
        }
        match again_in {
            Some(Some(wait)) if !lock(&self.delayed).put(&write.channel, at + wait) => {
                (present.occupancy.hurries, present.occupancy.news) = (true, true);
            }
            Some(None) => {
                present.occupancy.hurries = false;
                lock(&self.delayed).remove(&write.channel);
            }
            _ => (),
        }
        self.queue(&write.channel, present);
    }

    /// Sets the result of a list change that began after `losses` losses. If the list was lost meanwhile, the
    /// result means nothing.
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
    /// Ends the writes of records. `answer` returns, by index in the batch, what became of one.
    pub(super) fn records_answered(&mut self, mut answer: impl FnMut(usize) -> Answer, at: Duration) {
        for (index, write) in self.writes.iter_mut().enumerate() {
            if write.record.is_some() {
                self.table.record_answered(write, answer(index), at);
            }
        }
    }

    /// Ends the writes. `written` returns, by index in the batch, whether the server has carried a write out.
    pub(super) fn answered(mut self, written: impl Fn(usize) -> bool) {
        for (shard_index, write) in std::mem::take(&mut self.writes).iter().enumerate() {
            self.table.answered(write, written(shard_index));
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.writes.iter().for_each(|write| self.table.answered(write, false));
    }
}

impl Listing<'_> {
    /// The list has carried it out.
    pub(super) fn done(mut self) {
        for (channels, listed) in [(&mut self.come, Listed::Yes), (&mut self.gone, Listed::No)] {
            for channel in std::mem::take(channels) {
                self.table.listed(&channel, listed, self.losses);
            }
        }
    }
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        for channel in self.come.iter().chain(&self.gone) {
            self.table.listed(channel, Listed::Perhaps, self.losses);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
