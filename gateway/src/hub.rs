//! Who listens to what on this worker. Never awaits, never encodes per subscriber.

pub mod peer;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::connection::id::ConnectionIds;
use crate::outbound::Pushed;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::push::{Form, Push, PushKind};
use peer::{Peer, Signal};

/// The subscriptions and connections of one worker.
pub struct Hub {
    ids: ConnectionIds,
    channels: HashMap<Channel, Subscribers>,
    /// By number: how a message to one connection finds it.
    peers: FxHashMap<u64, Rc<Peer>>,
    subscriptions: usize,
}

/// By the number of the connection. A dense list that a publication walks, with removal in constant time.
type Subscribers = IndexMap<u64, Subscriber, FxBuildHasher>;

struct Subscriber {
    peer: Rc<Peer>,
    form: Form,
    /// Where the client stands, in channels that can be recovered.
    position: Option<Tracked>,
    join_leave: bool,
}

struct Tracked {
    offset: u64,
    epoch: Arc<str>,
    /// Told once; the subscription ends with it.
    lost: bool,
}

/// How a connection listens to a channel.
#[derive(Debug, Clone)]
pub struct Listening {
    /// The shape of what it receives.
    pub form: Form,
    /// Offset and epoch from which it must miss nothing.
    pub position: Option<(u64, Arc<str>)>,
    /// Whether it hears who joins and leaves.
    pub join_leave: bool,
}

/// What a delivery came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// Queued for this many.
    pub sent: usize,
    /// Too slow for it.
    pub full: usize,
    /// Had missed something before.
    pub gaps: usize,
}

impl Hub {
    /// A hub without connections.
    pub fn new(ids: ConnectionIds) -> Self {
        Self { ids, channels: HashMap::new(), peers: FxHashMap::default(), subscriptions: 0 }
    }

    /// Makes a connection reachable by its number.
    pub fn admit(&mut self, peer: Rc<Peer>) {
        self.peers.insert(peer.number, peer);
    }

    /// Forgets a connection. Its subscriptions must be gone.
    pub fn forget(&mut self, number: u64) {
        self.peers.remove(&number);
    }

    /// Adds a subscription or changes how it listens. True if it is the first of this worker in the channel.
    pub fn subscribe(&mut self, channel: &Channel, peer: &Rc<Peer>, listening: Listening) -> bool {
        let subscribers = self.channels.entry(channel.clone()).or_default();
        let first = subscribers.is_empty();
        let position =
            listening.position.map(|(offset, epoch)| Tracked { offset, epoch, lost: false });
        let subscriber =
            Subscriber { peer: peer.clone(), form: listening.form, position, join_leave: listening.join_leave };
        if subscribers.insert(peer.number, subscriber).is_none() {
            self.subscriptions += 1;
        }
        first
    }

    /// Sets from where a subscription must miss nothing.
    pub fn set_position(&mut self, channel: &Channel, number: u64, offset: u64, epoch: Arc<str>) {
        if let Some(subscriber) = self.channels.get_mut(channel).and_then(|all| all.get_mut(&number)) {
            subscriber.position = Some(Tracked { offset, epoch, lost: false });
        }
    }

    /// Removes a subscription. True if it was the last of this worker in the channel.
    pub fn unsubscribe(&mut self, channel: &Channel, number: u64) -> bool {
        let Some(subscribers) = self.channels.get_mut(channel) else { return false };
        if subscribers.swap_remove(&number).is_some() {
            self.subscriptions -= 1;
        }
        let last = subscribers.is_empty();
        if last {
            self.channels.remove(channel);
        }
        last
    }

    /// Queues something for everyone it is for.
    pub fn deliver(&mut self, push: &Push) -> Delivered {
        let mut delivered = Delivered::default();
        if let Target::Connection(id) = push.channel.target() {
            let peer = self.ids.number(id).and_then(|number| self.peers.get(&number));
            if let Some(peer) = peer.filter(|peer| &*peer.id == id) {
                delivered.count(peer.push(push.frame(Form::Direct(peer.protocol))));
            }
            return delivered;
        }
        let Some(subscribers) = self.channels.get_mut(&push.channel) else { return delivered };
        match &push.kind {
            PushKind::Publication { publication, epoch } => {
                for subscriber in subscribers.values_mut() {
                    match subscriber.next(publication.offset, epoch) {
                        Next::Deliver => {
                            delivered.count(subscriber.peer.push(push.frame(subscriber.form)));
                        }
                        Next::Known => (),
                        Next::Gap => {
                            delivered.gaps += 1;
                            subscriber.peer.signal(Signal::Gap(push.channel.clone()));
                        }
                    }
                }
            }
            PushKind::Join(_) | PushKind::Leave(_) => {
                for subscriber in subscribers.values().filter(|subscriber| subscriber.join_leave) {
                    let frame = push.frame(subscriber.form);
                    if !frame.is_empty() {
                        delivered.count(subscriber.peer.push(frame));
                    }
                }
            }
        }
        delivered
    }

    /// Compares every tracked position with the top of its stream, after deliveries were lost on the way to this
    /// worker. Returns how many had missed something.
    pub fn check_positions(&mut self, top: impl Fn(&Channel) -> Option<(u64, Arc<str>)>) -> usize {
        let mut gaps = 0;
        for (channel, subscribers) in &mut self.channels {
            if subscribers.values().all(|subscriber| subscriber.position.is_none()) {
                continue;
            }
            let Some((offset, epoch)) = top(channel) else { continue };
            for subscriber in subscribers.values_mut() {
                if let Some(position) = &mut subscriber.position
                    && !position.lost
                    && (position.offset < offset || position.epoch != epoch)
                {
                    position.lost = true;
                    gaps += 1;
                    subscriber.peer.signal(Signal::Gap(channel.clone()));
                }
            }
        }
        gaps
    }

    /// The connections that listen to a channel.
    pub fn listeners(&self, channel: &Channel) -> impl Iterator<Item = &Rc<Peer>> {
        self.channels.get(channel).into_iter().flat_map(|all| all.values().map(|subscriber| &subscriber.peer))
    }

    /// The connection with this number.
    pub fn peer(&self, number: u64) -> Option<&Rc<Peer>> {
        self.peers.get(&number)
    }

    /// Every admitted connection.
    pub fn peers(&self) -> impl Iterator<Item = &Rc<Peer>> {
        self.peers.values()
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }
}

enum Next {
    Deliver,
    Known,
    Gap,
}

impl Subscriber {
    /// Judges a publication by where the client stands.
    fn next(&mut self, offset: u64, epoch: &Arc<str>) -> Next {
        let Some(position) = &mut self.position else { return Next::Deliver };
        if position.lost {
            return Next::Known;
        }
        if position.epoch == *epoch && offset == position.offset + 1 {
            position.offset = offset;
            Next::Deliver
        } else if position.epoch == *epoch && offset <= position.offset {
            Next::Known
        } else {
            position.lost = true;
            Next::Gap
        }
    }
}

impl Delivered {
    fn count(&mut self, pushed: Pushed) {
        match pushed {
            Pushed::Sent => self.sent += 1,
            Pushed::Full => self.full += 1,
            Pushed::Closed => (),
        }
    }
}
