//! How `Memory` publishes, and how it remembers idempotency keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::{Entry, Memory, Receivers, Stream, kept_bytes};
use crate::backplane::{Idempotency, NewPublication, PublishConditions, Published, Version, find_room};
use crate::charge::Charge;
use crate::connection_id::ConnectionIds;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::ReplyError;
use crate::protocol::command::Position;
use crate::protocol::push::{Publication, Push, PushKind};
use crate::protocol::tags::tags_bytes;

/// The idempotency keys of one channel: when each expires, and the result of its publication.
pub(super) type Remembered = HashMap<Box<str>, (Duration, Published)>;

impl Memory {
    pub(super) fn put(&self, new: NewPublication<'_>, at: Duration) -> Result<Published, ReplyError> {
        let NewPublication {
            channel,
            data,
            json,
            info,
            tags,
            retention,
            patterns,
            skip_history,
            conditions,
            charge,
        } = new;
        let feed = if patterns { self.feeds.workers(channel) } else { 0 };
        let bytes = data.len() + tags_bytes(tags.as_deref());
        let keeps = retention.size > 0 && !matches!(channel.target(), Target::Connection(_));
        let kept = keeps && !skip_history;
        let publication = |data, offset| Arc::new(Publication { data, json, offset, info, tags });
        let PublishConditions { idempotency, version } =
            conditions.map_or_else(PublishConditions::default, |conditions| *conditions);
        if !kept && idempotency.is_none() {
            // A channel without subscribers needs no entry.
            let (shard, _) = self.shard(channel);
            let interest = self.workers(channel, shard.entries.get(channel));
            let workers = Receivers { interest, feed };
            if !workers.are_none() {
                find_room(&self.inboxes, interest | feed, bytes)?;
                let push = push(channel, publication(data, 0), Arc::default(), charge, at);
                self.spread(workers, push);
            }
            return Ok(Published::default());
        }
        // A payload is a slice of the message it came in: a copy keeps that message out of the history.
        let data = if kept { Bytes::copy_from_slice(&data) } else { data };
        self.with(channel, false, |entry, lives| {
            if let Some(idempotency) = &idempotency {
                if let Some(first) = entry.published_with(idempotency, at) {
                    return Ok(Published { repeated: true, ..first });
                }
                if self.has_keys_enough() {
                    // Some of the keys may have expired.
                    self.forget_keys(entry, at);
                }
                if self.has_keys_enough() {
                    let why =
                        "the gateway remembers as many idempotency keys as it may: nothing was published";
                    return Err(ReplyError::TOO_MANY_REQUESTS.because(why));
                }
            }
            let workers = Receivers { interest: self.workers(channel, Some(entry)), feed };
            find_room(&self.inboxes, workers.interest | feed, bytes)?;
            let mut top = Position::default();
            let publication = if kept {
                let stream = entry.stream(self, channel, lives, retention, at);
                if let Some(version) = version
                    && !stream.advance(version)
                {
                    return Ok(Published { top: stream.top.clone(), skipped: true, ..Published::default() });
                }
                stream.top.offset += 1;
                stream.expires = at + retention.ttl;
                top = stream.top.clone();
                let publication = publication(data, top.offset);
                self.keep(stream, publication.clone(), retention.size, at);
                publication
            } else {
                publication(data, 0)
            };
            self.spread(workers, push(channel, publication, top.epoch.clone(), charge, at));
            let published = Published::from(top);
            if let Some(Idempotency { key, ttl }) = idempotency {
                let before =
                    entry.remembered.get_or_insert_default().insert(key, (at + ttl, published.clone()));
                if before.is_none() {
                    self.idempotency_keys.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(published)
        })
    }

    fn keep(&self, stream: &mut Stream, publication: Arc<Publication>, size: usize, at: Duration) {
        self.history_bytes.fetch_add(kept_bytes(&publication), Ordering::Relaxed);
        stream.kept.push_back((stream.expires, publication));
        self.forgotten(stream.forget(size, at));
        // A publisher that exceeds the memory limit loses the history of its own channel, not that of another
        // one.
        while self.history_bytes.load(Ordering::Relaxed) > self.history_bytes_max {
            let Some((_, oldest)) = stream.kept.pop_front() else { break };
            self.forgotten(kept_bytes(&oldest));
        }
    }

    /// The workers that get a publication to this channel, one bit each.
    fn workers(&self, channel: &Channel, entry: Option<&Entry>) -> u64 {
        match channel.target() {
            Target::Connection(id) => {
                let worker = self.ids.number(id).map(ConnectionIds::worker);
                worker.filter(|worker| *worker < self.inboxes.len()).map_or(0, |worker| 1 << worker)
            }
            _ => entry.map_or(0, |entry| entry.interest),
        }
    }

    fn has_keys_enough(&self) -> bool {
        self.idempotency_keys.load(Ordering::Relaxed) >= self.idempotency_keys_max
    }

    /// Forgets the expired keys of a channel.
    pub(super) fn forget_keys(&self, entry: &mut Entry, at: Duration) {
        if let Some(remembered) = &mut entry.remembered {
            let before = remembered.len();
            remembered.retain(|_, (expires, _)| *expires > at);
            self.idempotency_keys.fetch_sub(before - remembered.len(), Ordering::Relaxed);
            if remembered.is_empty() {
                entry.remembered = None;
            }
        }
    }
}

/// A publication for the workers.
fn push(
    channel: &Channel,
    publication: Arc<Publication>,
    epoch: Arc<str>,
    charge: Option<Charge>,
    at: Duration,
) -> Push {
    let kind = PushKind::Publication { publication, epoch };
    Push::new(channel.clone(), kind).accepted_at(at).charged(charge)
}

impl Entry {
    /// Result of the publication with this key, whose expiry is extended.
    fn published_with(&mut self, idempotency: &Idempotency, at: Duration) -> Option<Published> {
        let (expires, published) = self.remembered.as_mut()?.get_mut(&idempotency.key)?;
        // The key may have expired without being swept yet.
        (*expires > at).then(|| {
            *expires = at + idempotency.ttl;
            published.clone()
        })
    }
}

impl Stream {
    /// Stores a version if it is newer or of another epoch; returns whether it did.
    fn advance(&mut self, version: Version) -> bool {
        let newer = |known: &Version| known.epoch != version.epoch || known.number < version.number;
        let takes = self.version.as_deref().is_none_or(newer);
        if takes {
            self.version = Some(Box::new(version));
        }
        takes
    }
}
