//! [`PatternIndex`] finds the patterns that match a channel, and [`Hub`] delivers to their subscribers.

use std::collections::HashMap;
use std::ops::AddAssign;
use std::sync::Arc;

use gateway_plugin_grammar::wildcard::{ONE, REST, first_segment};
use rustc_hash::FxBuildHasher;

use super::class::Classes;
use super::{Delivered, Hub, Spread, Views};
use crate::protocol::channel::Channel;
use crate::protocol::framing::FrameMaker;
use crate::protocol::push::{Publication, Push, PushKind};

/// Most patterns of a publication whose frames are compressed. Each pattern has a frame of its own, and
/// compressing takes the longest by far.
const COMPRESSED_PATTERNS_MAX: usize = 16;
/// Weight of a pattern that matches a publication, which is encoded for it, in frames.
const PATTERN_WEIGHT: usize = 4;

/// The patterns with subscribers on this worker: for each namespace a tree of their segments. Looking up a
/// channel visits only nodes that match a beginning of its name, whatever the number of other patterns.
#[derive(Debug, Default)]
pub(super) struct PatternIndex {
    namespaces: HashMap<Box<str>, Node, FxBuildHasher>,
    patterns: usize,
}

/// What can follow after the same segments. At most as deep as a pattern has segments.
#[derive(Debug, Default)]
struct Node {
    /// By the text of the next segment.
    texts: HashMap<Box<str>, Node, FxBuildHasher>,
    /// If the next segment is `*`.
    one: Option<Box<Node>>,
    /// The pattern that ends here.
    end: Option<Channel>,
    /// The pattern that ends here with `**`.
    rest: Option<Channel>,
}

impl PatternIndex {
    /// Adds a pattern. True if it is the first of its namespace.
    pub(super) fn insert(&mut self, pattern: &Channel) -> bool {
        let Some((namespace, segments)) = pattern.as_str().split_once(':') else { return false };
        let first = !self.namespaces.contains_key(namespace);
        let mut node = self.namespaces.entry(namespace.into()).or_default();
        for segment in segments.split('.') {
            node = match segment {
                REST => {
                    self.patterns += usize::from(node.rest.replace(pattern.clone()).is_none());
                    return first;
                }
                ONE => node.one.get_or_insert_default(),
                text => node.texts.entry(text.into()).or_default(),
            };
        }
        self.patterns += usize::from(node.end.replace(pattern.clone()).is_none());
        first
    }

    /// Removes a pattern. True if it was the last of its namespace.
    pub(super) fn remove(&mut self, pattern: &Channel) -> bool {
        let Some((namespace, segments)) = pattern.as_str().split_once(':') else { return false };
        let Some(node) = self.namespaces.get_mut(namespace) else { return false };
        self.patterns -= usize::from(node.remove(Some(segments)));
        let last = node.is_empty();
        if last {
            self.namespaces.remove(namespace);
        }
        last
    }

    /// Number of patterns.
    pub(super) fn len(&self) -> usize {
        self.patterns
    }

    /// Appends the patterns that match a channel, and returns the number of visited nodes. No pattern matches
    /// a channel with a `#` in its name: it is meant for the users that it names.
    pub(super) fn find(&self, channel: &Channel, found: &mut Vec<Channel>) -> usize {
        match channel.as_str().split_once(':') {
            Some((namespace, name)) if !channel.as_str().contains('#') => {
                self.namespaces.get(namespace).map_or(0, |node| node.find(Some(name), found))
            }
            _ => 0,
        }
    }
}

impl Node {
    /// `None` is the end of the name.
    fn find(&self, name: Option<&str>, found: &mut Vec<Channel>) -> usize {
        let Some(name) = name else {
            found.extend(self.end.clone());
            return 1;
        };
        if !name.is_empty() {
            found.extend(self.rest.clone());
        }
        let (segment, after) = first_segment(name);
        let text = self.texts.get(segment);
        let one = self.one.as_deref().filter(|_| !segment.is_empty());
        1 + text.into_iter().chain(one).map(|node| node.find(after, found)).sum::<usize>()
    }

    /// Removes a pattern, and the nodes that only it needed. Whether it was there.
    fn remove(&mut self, segments: Option<&str>) -> bool {
        let Some(segments) = segments else { return self.end.take().is_some() };
        let (segment, after) = first_segment(segments);
        match segment {
            REST => self.rest.take().is_some(),
            ONE => {
                let removed = self.one.as_mut().is_some_and(|node| node.remove(after));
                self.one = self.one.take().filter(|node| !node.is_empty());
                removed
            }
            text => {
                let Some(node) = self.texts.get_mut(text) else { return false };
                let removed = node.remove(after);
                if node.is_empty() {
                    self.texts.remove(text);
                }
                removed
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.one.is_none() && self.end.is_none() && self.rest.is_none()
    }
}

/// The views of a publication for the subscribers of one pattern. Each is encoded once for all of them.
struct OfPattern<'a, V> {
    pattern: &'a Channel,
    views: &'a mut V,
    /// With the publication that each was made of.
    made: Vec<(Arc<Publication>, Push)>,
}

impl<V: Views> Views for OfPattern<'_, V> {
    fn of(&mut self, class: u32, classes: &Classes) -> Option<&Push> {
        let view = self.views.of(class, classes)?;
        let PushKind::Publication { publication, .. } = &view.kind else { return None };
        let known = self.made.iter().position(|(of, _)| Arc::ptr_eq(of, publication));
        let index = match known {
            Some(index) => index,
            None => {
                self.made.push((publication.clone(), view.for_pattern(self.pattern.clone())?));
                self.made.len() - 1
            }
        };
        self.made.get(index).map(|(_, push)| push)
    }
}

impl Hub {
    /// Whether a subscription adds no pattern, or one of at most `patterns_max`.
    pub fn has_room_for(&self, channel: &Channel, patterns_max: usize) -> bool {
        !channel.is_pattern() || self.channels.contains_key(channel) || self.patterns.len() < patterns_max
    }

    /// Queues a publication for the subscribers of all patterns that match its channel. Also returns the work
    /// to find and encode them, in frames.
    pub fn deliver_to_patterns(
        &mut self,
        push: &Push,
        views: &mut impl Views,
        maker: &FrameMaker,
    ) -> (Delivered, usize) {
        let mut delivered = Delivered::default();
        let mut found = Vec::new();
        let visited = self.patterns.find(&push.channel, &mut found);
        let PushKind::Publication { publication, .. } = &push.kind else { return (delivered, 0) };
        let (tags, epoch) = (publication.tags.as_deref(), Arc::default());
        maker.pause(found.len() > COMPRESSED_PATTERNS_MAX);
        for pattern in &found {
            let Some(subscribers) = self.channels.get_mut(pattern) else { continue };
            let filters = self.filters.get(pattern);
            let mut views = OfPattern { pattern, views: &mut *views, made: Vec::new() };
            let (classes, following) = (&self.classes, None);
            let spread = Spread { channel: pattern, offset: 0, epoch: &epoch, classes, maker, following };
            delivered += spread.filtered(subscribers, filters, tags, &mut views);
        }
        maker.pause(false);
        (delivered, visited + found.len() * PATTERN_WEIGHT)
    }
}

impl AddAssign for Delivered {
    fn add_assign(&mut self, more: Self) {
        let Self { sent, full, gaps, filtered } = more;
        self.sent += sent;
        self.full += full;
        self.gaps += gaps;
        self.filtered += filtered;
    }
}

#[cfg(test)]
mod tests;
