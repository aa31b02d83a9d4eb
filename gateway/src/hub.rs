//! [`Hub`] knows the subscribers of each channel on one worker and delivers pushes to them. It never awaits
//! and never encodes per subscriber.

pub mod class;
pub mod connection_handle;
mod deltas;
pub mod emulation;
mod orders;
mod patterns;
pub mod signal;
mod spread;
mod survey;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::backplane::input::InputOutcome;
use crate::backplane::{Response, has_reached, origin};
use crate::connection_id::ConnectionIds;
use crate::outbound::Pushed;
use crate::plugin::event::Client;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::command::Position;
use crate::protocol::filter::TagFilter;
use crate::protocol::framing::FrameMaker;
use crate::protocol::push::{Following, Form, Push, PushKind};
use class::Classes;
use connection_handle::ConnectionHandle;
use deltas::{Bases, DeltaState};
use patterns::PatternIndex;
use signal::Signal;
use spread::Spread;

/// The subscriptions and connections of one worker.
pub struct Hub {
    ids: ConnectionIds,
    /// By channel or pattern.
    channels: HashMap<Channel, Subscribers>,
    /// Finds the patterns among them.
    patterns: PatternIndex,
    /// By connection number, to find the target of a message to one connection.
    handles: FxHashMap<u64, Admitted>,
    /// Connections that wait for an answer before they are admitted.
    expecting: FxHashMap<u64, Rc<ConnectionHandle>>,
    subscriptions: usize,
    /// Filters by channel and connection number. Apart from the subscribers, because most have none: where
    /// nobody filters, a delivery costs nothing more.
    filters: HashMap<Channel, Filters>,
    /// Apart from the subscribers for the same reason.
    bases: Bases,
    classes: Classes,
}

/// The handle and the client of an admitted connection.
struct Admitted {
    handle: Rc<ConnectionHandle>,
    /// The session changes its attributes.
    client: SharedClient,
    /// Unix time in milliseconds.
    since: u64,
}

/// The client of a connection, with its current attributes.
pub type SharedClient = Rc<RefCell<Arc<Client>>>;

/// Chooses what each class of subscribers receives of a publication.
pub trait Views {
    /// The push for the class with this number; `None` for nothing.
    fn of(&mut self, class: u32, classes: &Classes) -> Option<&Push>;
}

/// Sends the same push to all classes.
pub struct Same<'a>(pub &'a Push);

impl Views for Same<'_> {
    fn of(&mut self, _: u32, _: &Classes) -> Option<&Push> {
        Some(self.0)
    }
}

/// The filters of the subscribers of one channel, by connection number.
type Filters = FxHashMap<u64, Arc<TagFilter>>;

/// By connection number. A dense list, iterated for each publication, with removal in constant time.
type Subscribers = IndexMap<u64, Subscriber, FxBuildHasher>;

struct Subscriber {
    handle: Rc<ConnectionHandle>,
    form: Form,
    position: SubscriberPosition,
    join_leave: bool,
    delta: DeltaState,
}

/// The position of a subscriber.
enum SubscriberPosition {
    /// The channel cannot be recovered.
    Anywhere,
    /// The subscriber must miss nothing from here on.
    At(Tracked),
    /// The subscription is being made.
    Held(Box<Held>),
}

/// Pushes for a subscription that the client has no reply for yet.
#[derive(Default)]
struct Held {
    /// Frames, with the position of those that are publications.
    frames: Vec<(Option<Position>, Bytes)>,
    bytes: usize,
    /// The top of the stream is at least here.
    top: Option<Position>,
    /// A push did not fit.
    lost: bool,
}

/// Limits of frames and bytes held for one subscription. Frames are shared with others: this bounds the
/// references.
const HELD_MAX: usize = 1024;
const HELD_BYTES_MAX: usize = 256 * 1024;

struct Tracked {
    position: Position,
    /// Reported once; that ends the subscription.
    lost: bool,
}

/// How a connection subscribes to a channel.
#[derive(Debug, Clone)]
pub struct Listening {
    /// The form of its frames.
    pub form: Form,
    /// The position after which it must miss nothing.
    pub position: Option<Position>,
    /// Whether it gets join and leave messages.
    pub join_leave: bool,
    /// The publications that it wants; `None` for all.
    pub filter: Option<Arc<TagFilter>>,
    /// Whether publications may be deltas. The form must be one for that.
    pub delta: bool,
}

/// The result of a delivery.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// Subscribers for which it was queued.
    pub sent: usize,
    /// Subscribers whose queue was full.
    pub full: usize,
    /// Subscribers that had missed an earlier publication.
    pub gaps: usize,
    /// Subscribers whose filter rejected it.
    pub filtered: usize,
}

impl Hub {
    /// A hub without connections.
    pub fn new(ids: ConnectionIds) -> Self {
        Self {
            ids,
            channels: HashMap::new(),
            patterns: PatternIndex::default(),
            handles: FxHashMap::default(),
            expecting: FxHashMap::default(),
            subscriptions: 0,
            filters: HashMap::new(),
            bases: Bases::default(),
            classes: Classes::default(),
        }
    }

    /// Makes a connection reachable by its number and by its user. `since` is Unix time in milliseconds.
    pub fn admit(&mut self, handle: Rc<ConnectionHandle>, client: SharedClient, since: u64) {
        let admitted = Admitted { handle, client, since };
        admitted.classify(&mut self.classes);
        self.expecting.remove(&admitted.handle.number);
        self.handles.insert(admitted.handle.number, admitted);
    }

    /// Forgets a connection. Its subscriptions must be gone.
    pub fn forget(&mut self, number: u64) {
        self.expecting.remove(&number);
        if let Some(admitted) = self.handles.remove(&number) {
            self.classes.release(admitted.handle.class.get());
        }
    }

    /// The handle and the client of an admitted connection.
    pub fn admitted(&self, number: u64) -> Option<(&Rc<ConnectionHandle>, &SharedClient)> {
        self.handles.get(&number).map(|admitted| (&admitted.handle, &admitted.client))
    }

    /// The numbers of all admitted connections.
    pub fn numbers(&self) -> Vec<u64> {
        self.handles.keys().copied().collect()
    }

    /// The admitted clients, with the Unix time in milliseconds of their admission.
    pub fn clients(&self) -> impl Iterator<Item = (Arc<Client>, u64)> {
        self.handles.values().map(|admitted| (admitted.client.borrow().clone(), admitted.since))
    }

    /// Classifies connections by these attributes from now on.
    pub fn classify_by(&mut self, attributes: &Arc<[Box<str>]>) {
        if self.classes.attributes() == attributes {
            return;
        }
        self.classes = Classes::of(attributes.clone());
        self.handles.values().for_each(|admitted| admitted.classify(&mut self.classes));
    }

    /// An attribute of a connection has changed.
    pub fn attribute_changed(&mut self, number: u64, name: &str) {
        if self.classes.attributes().iter().any(|attribute| **attribute == *name)
            && let Some(admitted) = self.handles.get(&number)
        {
            self.classes.release(admitted.handle.class.get());
            admitted.classify(&mut self.classes);
        }
    }

    /// Adds a subscription or changes its settings. True if it is the first of this worker in the channel; if
    /// it is to a pattern, the first to any pattern of the namespace.
    pub fn subscribe(
        &mut self,
        channel: &Channel,
        handle: &Rc<ConnectionHandle>,
        listening: Listening,
    ) -> bool {
        let subscribers = self.channels.entry(channel.clone()).or_default();
        let first = subscribers.is_empty();
        let subscriber = Subscriber {
            handle: handle.clone(),
            form: listening.form,
            position: SubscriberPosition::of(listening.position),
            join_leave: listening.join_leave,
            delta: DeltaState::of(listening.delta),
        };
        if listening.delta {
            self.bases.add(channel);
        }
        match subscribers.insert(handle.number, subscriber) {
            Some(before) => self.bases.release(channel, before.delta),
            None => self.subscriptions += 1,
        }
        match listening.filter {
            Some(filter) => {
                self.filters.entry(channel.clone()).or_default().insert(handle.number, filter);
            }
            None => self.forget_filter(channel, handle.number),
        }
        if first && channel.is_pattern() { self.patterns.insert(channel) } else { first }
    }

    /// Sets the position after which a subscription must miss nothing.
    pub fn set_position(&mut self, channel: &Channel, number: u64, position: Position) {
        if let Some(subscriber) = self.channels.get_mut(channel).and_then(|all| all.get_mut(&number)) {
            subscriber.position = SubscriberPosition::of(Some(position));
        }
    }

    /// Holds pushes for a subscription until [`release`](Self::release).
    pub fn hold(&mut self, channel: &Channel, number: u64) {
        if let Some(subscriber) = self.channels.get_mut(channel).and_then(|all| all.get_mut(&number)) {
            subscriber.position = SubscriberPosition::Held(Box::default());
        }
    }

    /// Sends the held pushes after `position`, once the client has the reply to its subscribe.
    pub fn release(&mut self, channel: &Channel, number: u64, position: Option<Position>) {
        let subscriber = self.channels.get_mut(channel).and_then(|all| all.get_mut(&number));
        let Some(Subscriber { handle, position: own, .. }) = subscriber else { return };
        let SubscriberPosition::Held(held) = std::mem::replace(own, SubscriberPosition::of(position)) else {
            return;
        };
        for (number, frame) in held.frames {
            match number.map_or(Next::Deliver, |at| own.next(at.offset, &at.epoch)) {
                Next::Deliver if frame.is_empty() => (),
                Next::Deliver => drop(handle.push(&frame)),
                Next::Known | Next::Hold => (),
                Next::Gap => handle.signal(Signal::Gap(channel.clone())),
            }
        }
        if (held.lost || held.top.is_some_and(|top| own.is_before(&top))) && own.lose() {
            handle.signal(Signal::Gap(channel.clone()));
        }
    }

    /// Removes a subscription. True if it was the last of this worker in the channel; if it was to a pattern,
    /// the last to any pattern of the namespace.
    pub fn unsubscribe(&mut self, channel: &Channel, number: u64) -> bool {
        let Some(subscribers) = self.channels.get_mut(channel) else { return false };
        if let Some(removed) = subscribers.swap_remove(&number) {
            self.subscriptions -= 1;
            self.bases.release(channel, removed.delta);
        }
        let last = subscribers.is_empty();
        if last {
            self.channels.remove(channel);
        }
        self.forget_filter(channel, number);
        if last && channel.is_pattern() { self.patterns.remove(channel) } else { last }
    }

    fn forget_filter(&mut self, channel: &Channel, number: u64) {
        if let Some(filters) = self.filters.get_mut(channel) {
            filters.remove(&number);
            if filters.is_empty() {
                self.filters.remove(channel);
            }
        }
    }

    /// The filter of a subscription.
    pub fn filter(&self, channel: &Channel, number: u64) -> Option<Arc<TagFilter>> {
        self.filters.get(channel)?.get(&number).cloned()
    }

    /// Whether publications of a subscription may be deltas.
    pub fn makes_deltas(&self, channel: &Channel, number: u64) -> bool {
        let subscriber = self.channels.get(channel).and_then(|all| all.get(&number));
        subscriber.is_some_and(|subscriber| subscriber.delta != DeltaState::Off)
    }

    /// The channels that a connection is subscribed to. Visits all channels: not for the path of a message.
    pub fn channels_of(&self, number: u64) -> Vec<Channel> {
        let of =
            |(channel, all): (&Channel, &Subscribers)| all.contains_key(&number).then(|| channel.clone());
        self.channels.iter().filter_map(of).collect()
    }

    /// Queues a push for all its subscribers. `maker` makes the frames that no worker has made yet.
    pub fn deliver(&mut self, push: &Push, maker: &FrameMaker) -> Delivered {
        self.deliver_views(push, &mut Same(push), maker)
    }

    /// Queues a publication for all its subscribers whose filter accepts it, as their class may see it. A
    /// subscriber that receives nothing still advances its position, so this is not reported as a gap.
    pub fn deliver_views(&mut self, push: &Push, views: &mut impl Views, maker: &FrameMaker) -> Delivered {
        let mut delivered = Delivered::default();
        if let Target::Connection(id) = push.channel.target() {
            if let Some(handle) = self.by_id(id)
                && let Some(view) = views.of(handle.class.get(), &self.classes)
            {
                delivered.count(handle.push(view.frame(Form::direct(handle.format), maker)));
            }
            return delivered;
        }
        let Some(subscribers) = self.channels.get_mut(&push.channel) else { return delivered };
        match &push.kind {
            PushKind::Publication { publication, epoch } => {
                let (channel, offset, classes) = (&push.channel, publication.offset, &self.classes);
                let following = self
                    .bases
                    .of(channel)
                    .map(|last| Following::new(push, publication, last.base.as_ref(), maker));
                let has_deltas = following.is_some();
                let spread = Spread { channel, offset, epoch, classes, maker, following };
                let (filters, tags) = (self.filters.get(channel), publication.tags.as_deref());
                let delivered = spread.filtered(subscribers, filters, tags, views);
                if has_deltas {
                    self.bases.keep(channel, publication);
                }
                delivered
            }
            PushKind::Join(_) | PushKind::Leave(_) => {
                for subscriber in subscribers.values_mut().filter(|subscriber| subscriber.join_leave) {
                    let frame = push.frame(subscriber.form, maker);
                    if !frame.is_empty() && !subscriber.position.hold(None, frame) {
                        delivered.count(subscriber.handle.push(frame));
                    }
                }
                delivered
            }
        }
    }

    /// Channels with a subscriber that must miss nothing.
    pub fn tracked(&self) -> Vec<Channel> {
        let anywhere = |subscriber: &Subscriber| matches!(subscriber.position, SubscriberPosition::Anywhere);
        let tracked = self.channels.iter().filter(|(_, subscribers)| !subscribers.values().all(anywhere));
        tracked.map(|(channel, _)| channel.clone()).collect()
    }

    /// Compares every tracked position in a channel with a position that its stream has reached. All earlier
    /// publications must have been delivered to this worker or lost. Returns how many subscribers had missed
    /// some.
    pub fn check_position(&mut self, channel: &Channel, top: &Position) -> usize {
        self.channels.get_mut(channel).map_or(0, |subscribers| check(channel, subscribers, top))
    }

    /// Passes a response of the backplane to a connection. Dropped if the connection has gone.
    pub fn answer(&self, connection: u64, request_id: u32, answer: Response) {
        let admitted = self.handles.get(&connection).map(|admitted| &admitted.handle);
        if let Some(handle) = admitted.or_else(|| self.expecting.get(&connection)) {
            handle.answer(request_id, answer);
        }
    }

    /// Passes on answers to a connection that is not admitted, until it is or is
    /// [over](Self::expect_no_answer).
    pub fn expect_answer(&mut self, handle: Rc<ConnectionHandle>) {
        self.expecting.insert(handle.number, handle);
    }

    /// Passes on no more answers to a connection that is not admitted.
    pub fn expect_no_answer(&mut self, number: u64) {
        self.expecting.remove(&number);
    }

    /// Passes a message that came in a request of its own to its connection. `bytes_max` is the largest
    /// message of a client.
    pub fn input(&self, number: u64, session: &str, data: Bytes, bytes_max: usize) -> InputOutcome {
        let admitted = self.handles.get(&number);
        admitted.map_or(InputOutcome::NoSession, |admitted| admitted.handle.input(session, data, bytes_max))
    }

    fn by_id(&self, id: &str) -> Option<&Rc<ConnectionHandle>> {
        let handle = &self.handles.get(&self.ids.number(id)?)?.handle;
        (&*handle.id == id).then_some(handle)
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }
}

impl Admitted {
    /// Assigns the connection to the class of its current attributes.
    fn classify(&self, classes: &mut Classes) {
        let client = self.client.borrow();
        self.handle.class.set(classes.acquire(|name| client.attributes.get(name).map(|value| &**value)));
    }
}

/// Signals every subscriber whose position is before the top of the stream, or in another stream.
fn check(channel: &Channel, subscribers: &mut Subscribers, top: &Position) -> usize {
    let mut gaps = 0;
    for subscriber in subscribers.values_mut() {
        if let SubscriberPosition::Held(held) = &mut subscriber.position {
            if !held.top.as_ref().is_some_and(|held| has_reached(held, top)) {
                held.top = Some(top.clone());
            }
        } else if subscriber.position.is_before(top) && subscriber.position.lose() {
            gaps += 1;
            subscriber.handle.signal(Signal::Gap(channel.clone()));
        }
    }
    gaps
}

enum Next {
    Deliver,
    Hold,
    Known,
    Gap,
}

impl SubscriberPosition {
    fn of(position: Option<Position>) -> Self {
        position.map_or(Self::Anywhere, |position| Self::At(Tracked { position, lost: false }))
    }

    /// Compares a publication with the subscriber's position.
    fn next(&mut self, offset: u64, epoch: &Arc<str>) -> Next {
        let Tracked { position, lost } = match self {
            Self::Anywhere => return Next::Deliver,
            Self::Held(_) => return Next::Hold,
            Self::At(tracked) => tracked,
        };
        if *lost {
            return Next::Known;
        }
        if position.epoch == *epoch && offset == position.offset + 1 {
            position.offset = offset;
            Next::Deliver
        } else if position.offset == 0 && offset == 1 && origin(&position.epoch) == origin(epoch) {
            // A client that subscribed before the stream existed has missed nothing of it.
            *position = Position { offset, epoch: epoch.clone() };
            Next::Deliver
        } else if offset == 0 {
            // It is not part of the stream.
            Next::Deliver
        } else if position.epoch == *epoch && offset <= position.offset {
            Next::Known
        } else {
            *lost = true;
            Next::Gap
        }
    }

    /// Holds a frame, if frames are held. An empty one only counts as delivered.
    fn hold(&mut self, number: Option<Position>, frame: &Bytes) -> bool {
        let Self::Held(held) = self else { return false };
        if held.frames.len() >= HELD_MAX || held.bytes + frame.len() > HELD_BYTES_MAX {
            held.lost = true;
        } else {
            held.bytes += frame.len();
            held.frames.push((number, frame.clone()));
        }
        true
    }

    /// Whether the subscriber has missed publications, or its stream was replaced.
    fn is_before(&self, top: &Position) -> bool {
        matches!(self, Self::At(tracked) if !has_reached(&tracked.position, top))
    }

    /// Marks a loss. True if it is new.
    fn lose(&mut self) -> bool {
        match self {
            Self::At(tracked) => !std::mem::replace(&mut tracked.lost, true),
            Self::Anywhere | Self::Held(_) => true,
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

#[cfg(test)]
mod tests;
