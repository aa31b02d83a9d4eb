//! [`Memory`] is the backplane of a single node: complete, and the reference for the tests of others.
//!
//! Channels are spread over shards by name. One short critical section assigns the offset of a publication
//! and puts it into the inboxes of the interested workers; this gives a channel one order.

mod feeds;
mod occupancy;
mod present;
mod publish;

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use rustc_hash::FxBuildHasher;
use tokio::sync::oneshot;

use self::feeds::Feeds;
use self::occupancy::Occupancy;
use self::present::Present;
use self::publish::Remembered;
use super::{
    Backplane, Count, Fits, Health, HistoryRequest, Most, NewPublication, Outcome, Page, Published,
    RecoverRequest, Recovery, ReplyTo, Retention, TOO_MANY_MEMBERS, Version,
};
use crate::backplane::Order;
use crate::backplane::inbox::{Delivery, Inbox};
use crate::backplane::input::InputOutcome;
use crate::backplane::occupancy::Teller;
use crate::config;
use crate::connection_id::ConnectionIds;
use crate::mix::{STEP, mix};
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::ReplyError;
use crate::protocol::command::Position;
use crate::protocol::emulation::EmulationRequest;
use crate::protocol::push::{Member, Publication, Push, PushKind};
use crate::protocol::tags::tags_bytes;
use crate::sharded::Sharded;

const SHARDS: usize = 64;

/// Maximum number of workers of a node: interest is one bit each.
pub const WORKERS_MAX: usize = u64::BITS as usize;

/// Capacity for channels that a shard keeps.
const CAPACITY_KEPT: usize = 64;

/// Number of counters of forgotten streams: with more of them, fewer channels share one.
const FORGOTTEN_MAX: usize = 1 << 20;

/// See the module.
pub struct Memory {
    shards: Sharded<Shard, SHARDS>,
    feeds: Feeds,
    /// `None` if nobody is told.
    occupancy: Option<Occupancy>,
    inboxes: Arc<[Arc<Inbox>]>,
    ids: ConnectionIds,
    /// Number of channels with subscribers.
    wanted: AtomicUsize,
    wanted_max: usize,
    /// Number of channels without subscribers that exist for their history, presence or keys.
    idle: AtomicUsize,
    idle_max: usize,
    history_bytes: AtomicUsize,
    history_bytes_max: usize,
    idempotency_keys: AtomicUsize,
    idempotency_keys_max: usize,
    /// Makes the epochs of this process differ from those of all others.
    epoch_seed: u64,
}

/// Some of the channels.
struct Shard {
    entries: HashMap<Channel, Entry>,
    /// Counters of forgotten streams, each shared by all channels with the same remainder of their hash. A
    /// channel whose stream was forgotten gets another epoch, without any state kept for the channel.
    forgotten: Box<[u32]>,
}

#[derive(Default)]
struct Entry {
    /// Workers with subscribers, one bit each.
    interest: u64,
    /// Created by the first publication, or by a subscriber that must not miss anything.
    stream: Option<Stream>,
    presence: Present,
    /// `None` for most channels.
    remembered: Option<Box<Remembered>>,
}

/// The limit that a channel counts towards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Absent,
    Idle,
    Wanted,
}

/// The workers that get a push, one bit each.
#[derive(Clone, Copy)]
struct Receivers {
    /// For the subscribers of its channel.
    interest: u64,
    /// For the subscribers of patterns.
    feed: u64,
}

impl Receivers {
    fn are_none(self) -> bool {
        self.interest | self.feed == 0
    }
}

struct Stream {
    top: Position,
    kept: VecDeque<(Duration, Arc<Publication>)>,
    /// When the stream itself is forgotten: with its last publication.
    expires: Duration,
    /// The newest published version.
    version: Option<Box<Version>>,
}

impl Memory {
    /// Creates an empty backplane that delivers to these inboxes. `epoch_seed` must differ for each process.
    pub fn new(
        inboxes: Arc<[Arc<Inbox>]>,
        ids: ConnectionIds,
        limits: &config::Memory,
        epoch_seed: u64,
    ) -> Self {
        assert!(inboxes.len() <= WORKERS_MAX, "the configuration allows at most {WORKERS_MAX} workers");
        let channels = limits.channels_max.saturating_add(limits.unsubscribed_channels_max);
        let forgotten = (channels.min(FORGOTTEN_MAX) / SHARDS).next_power_of_two();
        let shard = || Shard { entries: HashMap::new(), forgotten: vec![0; forgotten].into() };
        Self {
            shards: Sharded::new(shard),
            feeds: Feeds::default(),
            occupancy: None,
            inboxes,
            ids,
            wanted: AtomicUsize::new(0),
            wanted_max: limits.channels_max,
            idle: AtomicUsize::new(0),
            idle_max: limits.unsubscribed_channels_max,
            history_bytes: AtomicUsize::new(0),
            history_bytes_max: limits.history_bytes_max,
            idempotency_keys: AtomicUsize::new(0),
            idempotency_keys_max: limits.idempotency_keys_max,
            epoch_seed,
        }
    }

    /// Tells of channels that become occupied or vacated.
    pub fn telling(mut self, teller: Option<Arc<Teller>>) -> Self {
        self.occupancy = teller.map(Occupancy::new);
        self
    }

    /// The shard of a channel, and the channel's hash.
    fn shard(&self, channel: &Channel) -> (MutexGuard<'_, Shard>, u64) {
        let hash = self.shards.hash(channel);
        (self.shards.lock_hashed(hash), hash)
    }

    /// Runs `work` on a channel's entry, which is created if it is missing and removed if it ends up empty.
    /// `wants` marks a channel that gets a subscriber: publishers cannot use up the room of subscribers.
    /// `work` receives the number of streams forgotten before the one that it may create.
    fn with<R>(
        &self,
        channel: &Channel,
        wants: bool,
        work: impl FnOnce(&mut Entry, u64) -> Result<R, ReplyError>,
    ) -> Result<R, ReplyError> {
        let (mut shard, hash) = self.shard(channel);
        let Shard { entries, forgotten } = &mut *shard;
        let mut made = None;
        let (before, entry) = match entries.get_mut(channel) {
            Some(entry) => (entry.standing(), entry),
            None => (Standing::Absent, made.insert(Entry::default())),
        };
        if wants && before != Standing::Wanted && self.wanted.load(Ordering::Relaxed) >= self.wanted_max {
            return Err(ReplyError::LIMIT_EXCEEDED.because("the gateway has as many channels as it may"));
        }
        if !wants && before == Standing::Absent && self.idle.load(Ordering::Relaxed) >= self.idle_max {
            let why = "the gateway keeps as many channels without subscribers as it may";
            return Err(ReplyError::LIMIT_EXCEEDED.because(why));
        }
        let lives = if entry.stream.is_some() { 0 } else { forgotten[counter(forgotten, hash)].into() };
        let result = work(entry, lives);
        if entry.interest == 0
            && let Some(stream) = &entry.stream
        {
            // No subscriber is left. A stream without publications is dropped; so is any stream if too many
            // are idle already.
            let nothing = stream.top.offset == 0;
            let crowded = before == Standing::Wanted && self.idle.load(Ordering::Relaxed) >= self.idle_max;
            if nothing || crowded {
                self.forgotten(stream.bytes());
                entry.stream = None;
            }
            if crowded && !nothing {
                forget(forgotten, hash);
            }
        }
        let after = entry.standing();
        if let Some(made) = made.filter(|_| after != Standing::Absent) {
            entries.insert(channel.clone(), made);
        } else if before != Standing::Absent && after == Standing::Absent {
            entries.remove(channel);
        }
        self.moved(before, after);
        result
    }

    fn moved(&self, before: Standing, after: Standing) {
        let count = |standing| match standing {
            Standing::Absent => None,
            Standing::Idle => Some(&self.idle),
            Standing::Wanted => Some(&self.wanted),
        };
        if before == after {
            return;
        }
        if let Some(count) = count(before) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(count) = count(after) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts a push into the inboxes of the workers with subscribers of its channel, and of those with
    /// subscribers of patterns in its namespace.
    fn spread(&self, workers: Receivers, push: Push) {
        if workers.are_none() {
            return;
        }
        let push = Arc::new(push);
        for (mut left, delivery) in
            [(workers.interest, Delivery::Push as fn(_) -> _), (workers.feed, Delivery::Feed)]
        {
            while left != 0 {
                let worker = left.trailing_zeros() as usize;
                left &= left - 1;
                self.inboxes[worker].put(delivery(push.clone()));
            }
        }
    }

    fn forgotten(&self, bytes: usize) {
        self.history_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The epoch of a channel without a stream, after this many of its streams were forgotten: the same for
    /// every reader.
    fn untouched(&self, channel: &Channel, lives: u64) -> Arc<str> {
        // The factor is odd: all values of `lives` give different numbers.
        let lives = lives.wrapping_mul(STEP);
        let number = self.epoch_seed.wrapping_add(FxBuildHasher.hash_one(channel)).wrapping_add(lives);
        format!("{:016x}", mix(number)).into()
    }

    fn move_presence(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool, came: bool) {
        // A channel that does not fit has no subscribers to notify either.
        let _ = self.with(channel, false, |entry, _| {
            if keep && came {
                entry.presence.add(member);
            } else if keep {
                entry.presence.remove(member);
            }
            if announce {
                let member = member.clone();
                let kind = if came { PushKind::Join(member) } else { PushKind::Leave(member) };
                let workers = Receivers { interest: entry.interest, feed: 0 };
                self.spread(workers, Push::new(channel.clone(), kind));
            }
            Ok(())
        });
    }
}

/// Index of the counter of forgotten streams for a channel.
fn counter(forgotten: &[u32], hash: u64) -> usize {
    hash as usize % forgotten.len()
}

/// Counts a forgotten stream: positions in it are not valid in any later stream.
fn forget(forgotten: &mut [u32], hash: u64) {
    let lives = &mut forgotten[counter(forgotten, hash)];
    *lives = lives.wrapping_add(1);
}

impl Entry {
    fn standing(&self) -> Standing {
        if self.interest != 0 {
            Standing::Wanted
        } else if self.stream.is_some() || !self.presence.is_empty() || self.remembered.is_some() {
            Standing::Idle
        } else {
            Standing::Absent
        }
    }

    /// Returns the stream without expired publications, creating it if there is none. `lives` is that of
    /// [`Memory::with`]: a position with the epoch of the empty channel is valid in the new stream.
    fn stream(
        &mut self,
        memory: &Memory,
        channel: &Channel,
        lives: u64,
        retention: Retention,
        at: Duration,
    ) -> &mut Stream {
        let stream = self.stream.get_or_insert_with(|| Stream {
            top: Position { offset: 0, epoch: memory.untouched(channel, lives) },
            kept: VecDeque::new(),
            expires: at + retention.ttl,
            version: None,
        });
        memory.forgotten(stream.forget(retention.size, at));
        stream
    }
}

impl Stream {
    /// Drops publications that have expired or exceed `size`, and returns their bytes.
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

    /// The newest publications, newest first. None of them for a subscriber who has seen the newest, and
    /// `None` if that one is not kept.
    fn latest(&self, since: &Position, most: Most) -> Option<Vec<Arc<Publication>>> {
        if since.offset > 0 && *since == self.top {
            return Some(Vec::new());
        }
        let newest = self.kept.back().filter(|(_, newest)| newest.offset == self.top.offset);
        let mut fits = Fits::new(most);
        newest.map(|_| {
            let kept = self.kept.iter().rev().map(|(_, publication)| publication);
            kept.take_while(|publication| fits.take(publication)).cloned().collect()
        })
    }

    /// Bytes of the kept publications.
    fn bytes(&self) -> usize {
        self.kept.iter().map(|(_, publication)| kept_bytes(publication)).sum()
    }
}

/// Bytes counted for one kept publication: its payload, its publisher, its tags and the overhead.
fn kept_bytes(publication: &Publication) -> usize {
    let info = publication.info.as_ref().map_or(0, |info| info.bytes());
    publication.data.len() + info + tags_bytes(publication.tags.as_deref()) + 128
}

impl Memory {
    fn read(&self, request: HistoryRequest<'_>, at: Duration) -> Result<Page, ReplyError> {
        let HistoryRequest { channel, query, most, retention } = request;
        let (mut shard, hash) = self.shard(channel);
        let Shard { entries, forgotten } = &mut *shard;
        let stream = entries.get_mut(channel).and_then(|entry| entry.stream.as_mut());
        let (kept, top) = match stream {
            Some(stream) => {
                self.forgotten(stream.forget(retention.size, at));
                (Some(&stream.kept), stream.top.clone())
            }
            None => {
                let lives = forgotten[counter(forgotten, hash)].into();
                (None, Position { offset: 0, epoch: self.untouched(channel, lives) })
            }
        };
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
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX).min(most.publications);
        let mut fits = Fits::new(Most { publications: limit, ..most });
        let kept = kept.into_iter().flatten().map(|(_, publication)| publication);
        let fits = |publication: &&Arc<Publication>| fits.take(publication);
        let publications = if query.reverse {
            kept.rev()
                .filter(|p| since.is_none_or(|since| p.offset < since))
                .take_while(fits)
                .cloned()
                .collect()
        } else {
            kept.filter(|p| since.is_none_or(|since| p.offset > since)).take_while(fits).cloned().collect()
        };
        Ok(Page { publications, top })
    }

    fn missed(&self, request: RecoverRequest<'_>, at: Duration) -> Recovery {
        let RecoverRequest { channel, since, latest, most, retention } = request;
        let (mut shard, hash) = self.shard(channel);
        let Shard { entries, forgotten } = &mut *shard;
        let lives = forgotten[counter(forgotten, hash)].into();
        // Only a subscriber creates a stream here. It stays while the subscriber does, or while publications
        // are kept.
        let stream = match entries.get_mut(channel) {
            Some(entry) if entry.interest != 0 || entry.stream.is_some() => {
                entry.stream(self, channel, lives, retention, at)
            }
            _ => {
                let top = Position { offset: 0, epoch: self.untouched(channel, lives) };
                let missed = since.filter(|since| {
                    !latest && since.offset == 0 && (since.epoch.is_empty() || *since.epoch == *top.epoch)
                });
                return Recovery { missed: missed.map(|_| Vec::new()), top };
            }
        };
        let top = stream.top.clone();
        let Some(since) = since else { return Recovery { missed: None, top } };
        if latest {
            return Recovery { missed: stream.latest(since, most), top };
        }
        let same_stream = since.epoch.is_empty() || *since.epoch == *top.epoch;
        if !same_stream || since.offset > top.offset {
            return Recovery { missed: None, top };
        }
        let missed = (top.offset - since.offset) as usize;
        if missed > stream.kept.len() || missed > most.publications {
            return Recovery { missed: None, top };
        }
        let kept = stream.kept.range(stream.kept.len() - missed..).map(|(_, publication)| publication);
        let bytes: usize = kept.clone().map(|publication| publication.bytes()).sum();
        let missed = (bytes <= most.bytes).then(|| kept.cloned().collect());
        Recovery { missed, top }
    }
}

impl Backplane for Memory {
    fn answers_later(&self) -> bool {
        false
    }

    fn add_interest(&self, worker: usize, channel: &Channel, _: ReplyTo) -> Outcome<()> {
        if channel.is_pattern() {
            self.feeds.add(worker, channel);
            return Outcome::Ready(Ok(()));
        }
        Outcome::Ready(self.with(channel, true, |entry, _| {
            if entry.interest == 0
                && let Some(occupancy) = &self.occupancy
            {
                occupancy.came(channel);
            }
            entry.interest |= 1 << worker;
            Ok(())
        }))
    }

    fn remove_interest(&self, worker: usize, channel: &Channel) {
        if channel.is_pattern() {
            return self.feeds.remove(worker, channel);
        }
        let _ = self.with(channel, false, |entry, _| {
            let was_wanted = entry.interest != 0;
            entry.interest &= !(1 << worker);
            if was_wanted
                && entry.interest == 0
                && let Some(occupancy) = &self.occupancy
            {
                occupancy.left(channel);
            }
            Ok(())
        });
    }

    fn publish(&self, new: NewPublication<'_>, _: ReplyTo, at: Duration) -> Outcome<Published> {
        Outcome::Ready(self.put(new, at))
    }

    fn history(&self, request: HistoryRequest<'_>, _: ReplyTo, at: Duration) -> Outcome<Page> {
        Outcome::Ready(self.read(request, at))
    }

    fn remove_history(&self, channel: &Channel, _: ReplyTo, _: Duration) -> Outcome<()> {
        let (mut shard, _) = self.shard(channel);
        if let Some(stream) = shard.entries.get_mut(channel).and_then(|entry| entry.stream.as_mut()) {
            self.forgotten(stream.bytes());
            stream.kept = VecDeque::new();
        }
        Outcome::Ready(Ok(()))
    }

    fn recover(&self, request: RecoverRequest<'_>, _: ReplyTo, at: Duration) -> Outcome<Recovery> {
        Outcome::Ready(Ok(self.missed(request, at)))
    }

    fn top(&self, channel: &Channel) -> Option<Position> {
        self.shard(channel).0.entries.get(channel)?.stream.as_ref().map(|stream| stream.top.clone())
    }

    fn presence_add(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool) {
        self.move_presence(channel, member, keep, announce, true);
    }

    fn presence_remove(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool) {
        self.move_presence(channel, member, keep, announce, false);
    }

    fn presence(&self, channel: &Channel, bytes_max: usize, _: ReplyTo) -> Outcome<Vec<Arc<Member>>> {
        let (shard, _) = self.shard(channel);
        let Some(entry) = shard.entries.get(channel) else { return Outcome::Ready(Ok(Vec::new())) };
        let too_many = || ReplyError::LIMIT_EXCEEDED.because(TOO_MANY_MEMBERS);
        Outcome::Ready(entry.presence.list(bytes_max).ok_or_else(too_many))
    }

    fn count(&self, channel: &Channel, _: ReplyTo) -> Outcome<Count> {
        let (shard, _) = self.shard(channel);
        let nobody = Count { connections: 0, users: 0 };
        Outcome::Ready(Ok(shard.entries.get(channel).map_or(nobody, |entry| entry.presence.count())))
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
        // Every worker gets the order, even if another one refuses it.
        let refused = workers.iter().filter(|inbox| !put(inbox)).count();
        if refused == 0 { Ok(()) } else { Err(ReplyError::TOO_MANY_REQUESTS) }
    }

    fn input(&self, request: EmulationRequest) -> Option<oneshot::Receiver<InputOutcome>> {
        let (report, outcome) = oneshot::channel();
        super::local_input(self.ids, &self.inboxes, request, super::report_to(report));
        Some(outcome)
    }

    fn sweep(&self, at: Duration) {
        for mut shard in self.shards.iter() {
            let Shard { entries, forgotten } = &mut *shard;
            entries.retain(|channel, entry| {
                let before = entry.standing();
                if let Some(stream) = &mut entry.stream {
                    self.forgotten(stream.forget(usize::MAX, at));
                    // A subscriber that tracks a position keeps the stream.
                    if stream.expires <= at && entry.interest == 0 {
                        self.forgotten(stream.bytes());
                        entry.stream = None;
                        forget(forgotten, self.shards.hash(channel));
                    }
                }
                self.forget_keys(entry, at);
                let after = entry.standing();
                self.moved(before, after);
                after != Standing::Absent
            });
            if entries.capacity() > 4 * entries.len() + CAPACITY_KEPT {
                entries.shrink_to(2 * entries.len());
            }
        }
    }

    fn tick(&self, at: Duration) {
        let Some(occupancy) = &self.occupancy else { return };
        while let Some(channel) = occupancy.next(at) {
            let _shard = self.shard(&channel);
            occupancy.settle(&channel, at);
        }
    }

    fn tell_vacated(&self) {
        self.tick(Duration::MAX);
    }

    fn channels(&self) -> usize {
        self.wanted.load(Ordering::Relaxed) + self.idle.load(Ordering::Relaxed)
    }

    fn health(&self) -> Health {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
