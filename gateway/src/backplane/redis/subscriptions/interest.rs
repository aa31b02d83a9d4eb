//! `Interest` tracks the channels with subscribers at this node, which of them are subscribed to in Redis,
//! and the requests that wait for it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::backplane::redis::commands::request::Request;
use crate::backplane::redis::format::slots::SlotMap;
use crate::backplane::{ReplyTo, has_reached};
use crate::protocol::channel::{Channel, Target};
use crate::protocol::command::Position;
use crate::sharded::Sharded;

const SHARDS: usize = 64;

/// See the module.
pub(crate) struct Interest {
    shards: Sharded<HashMap<Channel, Entry>, SHARDS>,
    channels: AtomicUsize,
    /// Channels with subscribers. The others are about to be removed.
    wanted: AtomicUsize,
    channels_max: usize,
    slot_map: Arc<SlotMap>,
    /// One for each server.
    changes: Box<[Changes]>,
    /// Waiting requests with their deadline, in order: all have the same timeout.
    waiting: Mutex<VecDeque<(Duration, Channel)>>,
}

/// Channels whose subscription on a server may have to change.
#[derive(Default)]
struct Changes {
    channels: Mutex<VecDeque<Channel>>,
    some: Notify,
}

#[derive(Default)]
struct Entry {
    /// Workers with subscribers, one bit each.
    workers: u64,
    /// Number of the connection over which Redis has confirmed the subscription; 0 for none.
    confirmed: u64,
    /// Whether it is in the queue of changes.
    changing: bool,
    /// Whether a subscribe command is under way.
    coming: bool,
    /// Whether Redis has ended the subscription: something may have been missed since.
    broken: bool,
    /// Position of the newest publication from Redis.
    top: Option<Position>,
    waiters: Vec<Waiter>,
}

/// A request that waits until a channel is subscribed to.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A request to add interest.
    Announced(ReplyTo, Duration),
    /// A request for missed publications.
    Recover(Request),
}

impl Waiter {
    fn until(&self) -> Duration {
        match self {
            Self::Announced(_, until) => *until,
            Self::Recover(request) => request.until,
        }
    }
}

/// Result of adding interest.
#[derive(Debug)]
pub(crate) enum Added {
    /// Everything published from now on arrives.
    Already,
    /// The response comes later.
    Waits,
    /// There are too many channels.
    Full,
}

impl Interest {
    pub(crate) fn new(channels_max: usize, slot_map: Arc<SlotMap>, servers: usize) -> Self {
        Self {
            shards: Sharded::default(),
            channels: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            channels_max,
            slot_map,
            changes: (0..servers).map(|_| Changes::default()).collect(),
            waiting: Mutex::default(),
        }
    }

    fn shard(&self, channel: &Channel) -> MutexGuard<'_, HashMap<Channel, Entry>> {
        self.shards.lock(channel)
    }

    /// Number of channels.
    pub(crate) fn channels(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    /// Adds the interest of a worker. Without a `connection` only this node's publications arrive, and no
    /// response is pending.
    pub(crate) fn add(
        &self,
        worker: usize,
        channel: &Channel,
        connection: Option<u64>,
        reply_to: ReplyTo,
        until: Duration,
    ) -> Added {
        let mut shard = self.shard(channel);
        let known = shard.get(channel);
        let is_wanted = known.is_some_and(|entry| entry.workers != 0);
        // Channels about to be removed do not take the room of channels with subscribers.
        let all_max = self.channels_max.saturating_mul(2);
        if !is_wanted && self.wanted.load(Ordering::Relaxed) >= self.channels_max
            || known.is_none() && self.channels.load(Ordering::Relaxed) >= all_max
        {
            return Added::Full;
        }
        if known.is_none() {
            self.channels.fetch_add(1, Ordering::Relaxed);
            shard.insert(channel.clone(), Entry::default());
        }
        let Some(entry) = shard.get_mut(channel) else { return Added::Full };
        if !is_wanted {
            self.wanted.fetch_add(1, Ordering::Relaxed);
        }
        entry.workers |= 1 << worker;
        // Messages to users and connections come on the topic of all nodes.
        if channel.target() != Target::Channel || connection == Some(entry.confirmed) {
            return Added::Already;
        }
        self.change(channel, entry);
        if connection.is_none() || reply_to.is_nobody() {
            return Added::Already;
        }
        entry.waiters.push(Waiter::Announced(reply_to, until));
        drop(shard);
        lock(&self.waiting).push_back((until, channel.clone()));
        Added::Waits
    }

    /// Removes the interest of a worker.
    pub(crate) fn remove(&self, worker: usize, channel: &Channel) {
        let mut shard = self.shard(channel);
        let Some(entry) = shard.get_mut(channel) else { return };
        let before = entry.workers;
        entry.workers &= !(1 << worker);
        if entry.workers != 0 {
            return;
        }
        if before != 0 {
            self.wanted.fetch_sub(1, Ordering::Relaxed);
        }
        if entry.confirmed != 0 || entry.changing || entry.coming || !entry.waiters.is_empty() {
            self.change(channel, entry);
        } else {
            shard.remove(channel);
            self.channels.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Keeps a request until the channel is subscribed to. Returns it if that is so already, or if it needs
    /// no subscription.
    pub(crate) fn when_confirmed(
        &self,
        connection: Option<u64>,
        request: Request,
        channel: &Channel,
    ) -> Option<Request> {
        let mut shard = self.shard(channel);
        let Some(entry) = shard.get_mut(channel) else { return Some(request) };
        if channel.target() != Target::Channel || connection == Some(entry.confirmed) {
            return Some(request);
        }
        self.change(channel, entry);
        let until = request.until;
        entry.waiters.push(Waiter::Recover(request));
        drop(shard);
        lock(&self.waiting).push_back((until, channel.clone()));
        None
    }

    /// Whether a channel is subscribed to over a connection, without an interruption.
    pub(crate) fn is_confirmed(&self, channel: &Channel, connection: u64) -> bool {
        channel.target() != Target::Channel
            || self.shard(channel).get(channel).is_none_or(|entry| entry.confirmed == connection)
    }

    fn change(&self, channel: &Channel, entry: &mut Entry) {
        if !std::mem::replace(&mut entry.changing, true) {
            let changes = &self.changes[self.slot_map.shard_of(channel)];
            lock(&changes.channels).push_back(channel.clone());
            changes.some.notify_one();
        }
    }

    /// These channels have moved to another server and are subscribed to there. Queued changes for the old
    /// server are skipped.
    pub(crate) fn moved(&self, concerned: impl Fn(&Channel) -> bool) {
        for mut shard in self.shards.iter() {
            for (channel, entry) in shard.iter_mut() {
                if channel.target() == Target::Channel && concerned(channel) {
                    (entry.coming, entry.changing) = (false, false);
                    self.change(channel, entry);
                }
            }
        }
    }

    /// Redis has ended a subscription, or refused it, because it does not have the slot any more. True if the
    /// channel must be subscribed to again.
    pub(crate) fn lost(&self, channel: &Channel, connection: u64) -> bool {
        let mut shard = self.shard(channel);
        let Some(entry) = shard.get_mut(channel) else { return false };
        if entry.confirmed == connection {
            (entry.confirmed, entry.broken) = (0, true);
        } else if !entry.coming {
            return false;
        }
        entry.coming = false;
        self.change(channel, entry);
        true
    }

    /// A new connection to a server: all its channels must be subscribed to again.
    pub(crate) fn begin(&self, server: usize) {
        for mut shard in self.shards.iter() {
            for (channel, entry) in shard.iter_mut() {
                if channel.target() == Target::Channel && self.slot_map.shard_of(channel) == server {
                    entry.coming = false;
                    self.change(channel, entry);
                }
            }
        }
    }

    /// Forgets channels of a server that have no subscribers. Called while there is no connection, which
    /// would do it otherwise.
    pub(crate) fn sweep(&self, server: usize) {
        lock(&self.changes[server].channels).clear();
        for mut shard in self.shards.iter() {
            shard.retain(|channel, entry| {
                if self.slot_map.shard_of(channel) != server {
                    return true;
                }
                let keep = entry.workers != 0 || !entry.waiters.is_empty();
                entry.changing = false;
                if !keep {
                    self.channels.fetch_sub(1, Ordering::Relaxed);
                } else if channel.target() == Target::Channel {
                    self.change(channel, entry);
                }
                keep
            });
        }
    }

    /// Waits until there are changes for a server. Dropping the future loses nothing.
    pub(crate) async fn changed(&self, server: usize) {
        let changes = &self.changes[server];
        if lock(&changes.channels).is_empty() {
            changes.some.notified().await;
        }
    }

    /// Takes some channels whose subscription over this connection must change: those to subscribe to, and
    /// those to unsubscribe from. The latter count as unsubscribed from now on.
    pub(crate) fn take_changes(
        &self,
        server: usize,
        connection: u64,
        max: usize,
    ) -> (Vec<Channel>, Vec<Channel>) {
        let (mut come, mut leave) = (Vec::new(), Vec::new());
        while come.len() < max && leave.len() < max {
            let Some(channel) = lock(&self.changes[server].channels).pop_front() else { break };
            let mut shard = self.shard(&channel);
            let Some(entry) = shard.get_mut(&channel) else { continue };
            if self.slot_map.shard_of(&channel) != server {
                // It is in the queue of another server.
                continue;
            }
            entry.changing = false;
            let wanted = entry.workers != 0 || !entry.waiters.is_empty();
            if wanted && entry.confirmed != connection {
                entry.coming = true;
                drop(shard);
                come.push(channel);
            } else if !wanted && entry.confirmed == connection {
                entry.confirmed = 0;
                drop(shard);
                leave.push(channel);
            } else if !wanted {
                shard.remove(&channel);
                self.channels.fetch_sub(1, Ordering::Relaxed);
            }
        }
        (come, leave)
    }

    /// Redis has confirmed a subscription. Returns the requests that waited for it, and whether it was
    /// subscribed to before: then something may have been missed meanwhile.
    pub(crate) fn confirm(&self, channel: &Channel, connection: u64) -> (Vec<Waiter>, bool) {
        let mut shard = self.shard(channel);
        let Some(entry) = shard.get_mut(channel) else { return (Vec::new(), false) };
        entry.coming = false;
        let before = std::mem::replace(&mut entry.confirmed, connection);
        let broken = std::mem::take(&mut entry.broken);
        (std::mem::take(&mut entry.waiters), before != 0 || broken || entry.top.is_some())
    }

    /// Redis has confirmed an unsubscription. The channel is forgotten unless it has new subscribers.
    pub(crate) fn left(&self, channel: &Channel) {
        let mut shard = self.shard(channel);
        if let Some(entry) = shard.get_mut(channel) {
            if entry.workers == 0 && entry.waiters.is_empty() && !entry.changing {
                shard.remove(channel);
                self.channels.fetch_sub(1, Ordering::Relaxed);
            } else {
                self.change(channel, entry);
            }
        }
    }

    /// The waiting requests that have timed out.
    pub(crate) fn expired(&self, at: Duration) -> Vec<Waiter> {
        let mut expired = Vec::new();
        loop {
            let channel = {
                let mut waiting = lock(&self.waiting);
                match waiting.front() {
                    Some((until, _)) if *until <= at => waiting.pop_front().map(|(_, channel)| channel),
                    _ => None,
                }
            };
            let Some(channel) = channel else { return expired };
            if let Some(entry) = self.shard(&channel).get_mut(&channel) {
                let (late, waiting) = std::mem::take(&mut entry.waiters)
                    .into_iter()
                    .partition(|waiter: &Waiter| waiter.until() <= at);
                entry.waiters = waiting;
                expired.extend::<Vec<_>>(late);
                if entry.workers == 0 {
                    self.change(&channel, entry);
                }
            }
        }
    }

    /// The channels subscribed to over a connection, in one part of the table.
    pub(crate) fn confirmed_in(&self, shard: usize, connection: u64) -> Vec<Channel> {
        let shard = self.shards.lock_index(shard);
        let confirmed = shard.iter().filter(|(_, entry)| entry.confirmed == connection);
        confirmed.map(|(channel, _)| channel.clone()).collect()
    }

    /// Number of shards of the table.
    pub(crate) const SHARDS: usize = SHARDS;

    /// Workers with subscribers of a channel. `seen` is the position of a publication that just came from
    /// Redis.
    pub(crate) fn workers(&self, channel: &Channel, seen: Option<(u64, &Arc<str>)>) -> u64 {
        let mut shard = self.shard(channel);
        let Some(entry) = shard.get_mut(channel) else { return 0 };
        if let Some((offset, epoch)) = seen {
            match &mut entry.top {
                Some(top) if top.epoch == *epoch => top.offset = top.offset.max(offset),
                top => *top = Some(Position { offset, epoch: epoch.clone() }),
            }
        }
        entry.workers
    }

    /// Workers with subscribers of a channel, or of patterns if there is a feed.
    pub(crate) fn all_workers(&self, channel: &Channel, feed: Option<&Channel>) -> u64 {
        self.workers(channel, None) | feed.map_or(0, |feed| self.feed_workers(feed, None))
    }

    /// Workers with subscribers of patterns, by the feed of a namespace. If the publication came over a
    /// connection, only if Redis has confirmed the subscription over it: a server whose slot has moved goes
    /// on to deliver to the old connection.
    pub(crate) fn feed_workers(&self, feed: &Channel, connection: Option<u64>) -> u64 {
        let shard = self.shard(feed);
        let entry = shard.get(feed);
        let entry = entry.filter(|entry| connection.is_none_or(|number| entry.confirmed == number));
        entry.map_or(0, |entry| entry.workers)
    }

    /// Compares the received position with the top of the stream. Returns the workers to notify if something
    /// was missed.
    pub(crate) fn compare(&self, channel: &Channel, stands: &Position) -> Option<u64> {
        let mut shard = self.shard(channel);
        let entry = shard.get_mut(channel)?;
        if let Some(top) = &entry.top
            && has_reached(top, stands)
        {
            return None;
        }
        entry.top = Some(stands.clone());
        Some(entry.workers)
    }

    /// Position of the newest publication from Redis.
    pub(crate) fn top(&self, channel: &Channel) -> Option<Position> {
        self.shard(channel).get(channel)?.top.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
