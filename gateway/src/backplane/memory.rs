//! The backplane of a single node: complete, and the reference that others are tested against.
//!
//! Channels are spread over shards by name. A publication takes its number and its place in the inboxes of the interested
//! workers inside one short critical section; that is what gives a channel one order.

mod publish;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::publish::Remembered;
use super::{
    Asked, Asker, Backplane, Count, Health, NewPublication, Page, Published, Recovery, Retention, Top,
    Version,
};
use crate::config;
use crate::connection::id::ConnectionIds;
use crate::hub::peer::Order;
use crate::inbox::{Delivery, Inbox};
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::ReplyError;
use crate::protocol::command::{HistoryQuery, Position};
use crate::protocol::push::{Member, Publication, Push, PushKind};

const SHARDS: usize = 64;

/// Most workers a node may have: interest is one bit each.
pub const WORKERS_MAX: usize = u64::BITS as usize;

/// See the module.
pub struct Memory {
    shards: [Mutex<HashMap<Channel, Entry>>; SHARDS],
    hasher: RandomState,
    inboxes: Arc<[Arc<Inbox>]>,
    ids: ConnectionIds,
    channels: AtomicUsize,
    channels_max: usize,
    history_bytes: AtomicUsize,
    history_bytes_max: usize,
    idempotency_keys: AtomicUsize,
    idempotency_keys_max: usize,
    /// Makes each new stream's epoch different from all before it, also across restarts.
    epochs: AtomicU64,
}

#[derive(Default)]
struct Entry {
    /// The workers with subscribers, one bit each.
    interest: u64,
    stream: Option<Stream>,
    presence: HashMap<Arc<str>, Arc<Member>>,
    /// Most channels have none.
    once: Option<Box<Remembered>>,
}

struct Stream {
    top: Top,
    kept: VecDeque<(Duration, Arc<Publication>)>,
    /// When the stream itself is forgotten: with its last publication.
    expires: Duration,
    /// The newest that was published.
    version: Option<Box<Version>>,
}

impl Memory {
    /// An empty backplane that delivers to these inboxes. `epoch_seed` must differ from one process to the next.
    pub fn new(
        inboxes: Arc<[Arc<Inbox>]>,
        ids: ConnectionIds,
        limits: &config::Memory,
        epoch_seed: u64,
    ) -> Self {
        assert!(inboxes.len() <= WORKERS_MAX, "the configuration allows at most {WORKERS_MAX} workers");
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            inboxes,
            ids,
            channels: AtomicUsize::new(0),
            channels_max: limits.channels_max,
            history_bytes: AtomicUsize::new(0),
            history_bytes_max: limits.history_bytes_max,
            idempotency_keys: AtomicUsize::new(0),
            idempotency_keys_max: limits.idempotency_keys_max,
            epochs: AtomicU64::new(epoch_seed),
        }
    }

    fn shard(&self, channel: &Channel) -> MutexGuard<'_, HashMap<Channel, Entry>> {
        let index = self.hasher.hash_one(channel) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on a channel's entry, which is made if it is missing and removed if nothing is left in it.
    fn with<R>(
        &self,
        channel: &Channel,
        work: impl FnOnce(&mut Entry) -> Result<R, ReplyError>,
    ) -> Result<R, ReplyError> {
        let mut shard = self.shard(channel);
        if let Some(entry) = shard.get_mut(channel) {
            let result = work(entry);
            if entry.is_empty() {
                shard.remove(channel);
                self.channels.fetch_sub(1, Ordering::Relaxed);
            }
            return result;
        }
        if self.channels.load(Ordering::Relaxed) >= self.channels_max {
            return Err(ReplyError::LIMIT_EXCEEDED.because("the gateway has as many channels as it may"));
        }
        let mut entry = Entry::default();
        let result = work(&mut entry);
        if !entry.is_empty() {
            shard.insert(channel.clone(), entry);
            self.channels.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn spread(&self, interest: u64, push: Push) {
        if interest == 0 {
            return;
        }
        let push = Arc::new(push);
        let mut left = interest;
        while left != 0 {
            let worker = left.trailing_zeros() as usize;
            left &= left - 1;
            self.inboxes[worker].put(Delivery::Push(push.clone()));
        }
    }

    fn forgotten(&self, bytes: usize) {
        self.history_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn new_epoch(&self) -> Arc<str> {
        // An odd step visits each of the 2^64 values once, and what follows (SplitMix64) gives each another one: no epoch of a
        // process comes twice. Those of different processes have a random seed between them.
        let mut epoch = self.epochs.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        epoch = (epoch ^ (epoch >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        epoch = (epoch ^ (epoch >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        format!("{:016x}", epoch ^ (epoch >> 31)).into()
    }

    fn move_presence(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool, came: bool) {
        // A channel that does not fit has no subscribers to tell either.
        let _ = self.with(channel, |entry| {
            if keep && came {
                entry.presence.insert(member.client.clone(), member.clone());
            } else if keep {
                entry.presence.remove(&member.client);
            }
            if announce {
                let member = member.clone();
                let kind = if came { PushKind::Join(member) } else { PushKind::Leave(member) };
                self.spread(entry.interest, Push::new(channel.clone(), kind));
            }
            Ok(())
        });
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.interest == 0 && self.stream.is_none() && self.presence.is_empty() && self.once.is_none()
    }

    /// The stream, made if there is none or if it has expired.
    fn stream(&mut self, memory: &Memory, retention: Retention, at: Duration) -> &mut Stream {
        let stream = self.stream.get_or_insert_with(|| Stream {
            top: Top { offset: 0, epoch: memory.new_epoch() },
            kept: VecDeque::new(),
            expires: at + retention.ttl,
            version: None,
        });
        memory.forgotten(stream.forget(retention.size, at));
        stream
    }
}

impl Stream {
    /// Drops what has expired or is too much, and returns how many bytes that was.
    fn forget(&mut self, size: usize, at: Duration) -> usize {
        let mut bytes = 0;
        while let Some((expires, publication)) = self.kept.front()
            && (*expires <= at || self.kept.len() > size)
        {
            bytes += kept_bytes(publication);
            self.kept.pop_front();
        }
        bytes
    }
}

/// What one kept publication is counted as: its payload and what surrounds it.
fn kept_bytes(publication: &Publication) -> usize {
    publication.data.len() + 128
}

impl Memory {
    fn read(
        &self,
        channel: &Channel,
        query: &HistoryQuery,
        publications_max: usize,
        retention: Retention,
        at: Duration,
    ) -> Result<Page, ReplyError> {
        self.with(channel, |entry| {
            let stream = entry.stream(self, retention, at);
            let top = stream.top.clone();
            if let Some(since) = &query.since
                && !since.epoch.is_empty()
                && *since.epoch != *top.epoch
            {
                return Err(ReplyError::UNRECOVERABLE_POSITION);
            }
            let since = query.since.as_ref().map(|since| since.offset);
            if query.reverse && since == Some(0) {
                return Err(ReplyError::BAD_REQUEST.because("there is nothing before offset 0"));
            }
            let limit = usize::try_from(query.limit).unwrap_or(usize::MAX).min(publications_max);
            let kept = stream.kept.iter().map(|(_, publication)| publication);
            let publications = if query.reverse {
                kept.rev()
                    .filter(|p| since.is_none_or(|since| p.offset < since))
                    .take(limit)
                    .cloned()
                    .collect()
            } else {
                kept.filter(|p| since.is_none_or(|since| p.offset > since)).take(limit).cloned().collect()
            };
            Ok(Page { publications, top })
        })
    }

    fn missed(
        &self,
        channel: &Channel,
        since: Option<&Position>,
        publications_max: usize,
        retention: Retention,
        at: Duration,
    ) -> Result<Recovery, ReplyError> {
        self.with(channel, |entry| {
            let stream = entry.stream(self, retention, at);
            let top = stream.top.clone();
            let Some(since) = since else { return Ok(Recovery { missed: None, top }) };
            let same_stream = since.epoch.is_empty() || *since.epoch == *top.epoch;
            if !same_stream || since.offset > top.offset {
                return Ok(Recovery { missed: None, top });
            }
            let missed = (top.offset - since.offset) as usize;
            if missed > stream.kept.len() || missed > publications_max {
                return Ok(Recovery { missed: None, top });
            }
            let kept = stream.kept.range(stream.kept.len() - missed..);
            let missed = kept.map(|(_, publication)| publication.clone()).collect();
            Ok(Recovery { missed: Some(missed), top })
        })
    }
}

impl Backplane for Memory {
    fn answers_later(&self) -> bool {
        false
    }

    fn announce(&self, worker: usize, channel: &Channel, _: Asker) -> Asked<()> {
        Asked::Now(self.with(channel, |entry| {
            entry.interest |= 1 << worker;
            Ok(())
        }))
    }

    fn renounce(&self, worker: usize, channel: &Channel) {
        let _ = self.with(channel, |entry| {
            entry.interest &= !(1 << worker);
            Ok(())
        });
    }

    fn publish(&self, new: NewPublication<'_>, _: Asker, at: Duration) -> Asked<Published> {
        Asked::Now(self.put(new, at))
    }

    fn history(
        &self,
        channel: &Channel,
        query: &HistoryQuery,
        publications_max: usize,
        retention: Retention,
        _: Asker,
        at: Duration,
    ) -> Asked<Page> {
        Asked::Now(self.read(channel, query, publications_max, retention, at))
    }

    fn recover(
        &self,
        channel: &Channel,
        since: Option<&Position>,
        publications_max: usize,
        retention: Retention,
        _: Asker,
        at: Duration,
    ) -> Asked<Recovery> {
        Asked::Now(self.missed(channel, since, publications_max, retention, at))
    }

    fn top(&self, channel: &Channel) -> Option<Top> {
        self.shard(channel).get(channel)?.stream.as_ref().map(|stream| stream.top.clone())
    }

    fn enter(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool) {
        self.move_presence(channel, member, keep, announce, true);
    }

    fn leave(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool) {
        self.move_presence(channel, member, keep, announce, false);
    }

    fn presence(&self, channel: &Channel, _: Asker) -> Asked<Vec<Arc<Member>>> {
        let shard = self.shard(channel);
        let members = shard.get(channel).map(|entry| entry.presence.values().cloned().collect());
        Asked::Now(Ok(members.unwrap_or_default()))
    }

    fn count(&self, channel: &Channel, _: Asker) -> Asked<Count> {
        let shard = self.shard(channel);
        let count = |entry: &Entry| Count {
            connections: entry.presence.len(),
            users: count_users(entry.presence.values()),
        };
        Asked::Now(Ok(shard.get(channel).map_or(Count { connections: 0, users: 0 }, count)))
    }

    fn order(&self, address: &Channel, except: Option<u64>, order: &Order) -> Result<(), ReplyError> {
        let put = |inbox: &Arc<Inbox>| {
            inbox.put(Delivery::Order { address: address.clone(), except, order: order.clone() })
        };
        let workers = match address.target() {
            Target::Connection(id) => match self.ids.number(id).map(ConnectionIds::worker) {
                Some(worker) => self.inboxes.get(worker..=worker).unwrap_or_default(),
                None => &[],
            },
            _ => &self.inboxes[..],
        };
        // Every worker is told, whatever another one says.
        let refused = workers.iter().filter(|inbox| !put(inbox)).count();
        if refused == 0 { Ok(()) } else { Err(ReplyError::TOO_MANY_REQUESTS) }
    }

    fn sweep(&self, at: Duration) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|_, entry| {
                if let Some(stream) = &mut entry.stream {
                    self.forgotten(stream.forget(usize::MAX, at));
                    // Somebody who tracks a position in it keeps the stream.
                    if stream.expires <= at && entry.interest == 0 {
                        entry.stream = None;
                    }
                }
                self.forget_keys(entry, at);
                !entry.is_empty()
            });
            self.channels.fetch_sub(before - shard.len(), Ordering::Relaxed);
        }
    }

    fn channels(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    fn health(&self) -> Health {
        Ok(())
    }
}

/// Different users among members; an anonymous connection counts as a user of its own.
fn count_users<'m>(members: impl Iterator<Item = &'m Arc<Member>>) -> usize {
    let (mut named, mut anonymous) = (HashSet::new(), 0);
    for member in members {
        if member.user.is_empty() {
            anonymous += 1;
        } else {
            named.insert(&*member.user);
        }
    }
    named.len() + anonymous
}

#[cfg(test)]
mod tests;
