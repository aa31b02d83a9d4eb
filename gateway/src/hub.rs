//! Who listens to what on this worker. Never awaits, never encodes per subscriber.

pub mod class;
pub mod peer;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::backplane::Answer;
use crate::connection::id::ConnectionIds;
use crate::outbound::Pushed;
use crate::plugin::event::Client;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::push::{Form, Push, PushKind};
use class::Classes;
use peer::{Order, Peer, Signal};

/// The subscriptions and connections of one worker.
pub struct Hub {
    ids: ConnectionIds,
    channels: HashMap<Channel, Subscribers>,
    /// By number: how a message to one connection finds it.
    peers: FxHashMap<u64, Admitted>,
    subscriptions: usize,
    classes: Classes,
}

/// A connection with a client.
struct Admitted {
    peer: Rc<Peer>,
    /// The session changes its attributes.
    client: SharedClient,
}

/// Who the client of a connection is now.
pub type SharedClient = Rc<RefCell<Arc<Client>>>;

/// Chooses what the subscribers of a class receive of a publication.
pub trait Views {
    /// For the class with this number; `None` for nothing.
    fn of(&mut self, class: u32, classes: &Classes) -> Option<&Push>;
}

/// Everybody receives the same.
struct Same<'a>(&'a Push);

impl Views for Same<'_> {
    fn of(&mut self, _: u32, _: &Classes) -> Option<&Push> {
        Some(self.0)
    }
}

/// By the number of the connection. A dense list that a publication walks, with removal in constant time.
type Subscribers = IndexMap<u64, Subscriber, FxBuildHasher>;

struct Subscriber {
    peer: Rc<Peer>,
    form: Form,
    place: Place,
    join_leave: bool,
}

/// A place in a stream: offset and epoch.
type Stand = (u64, Arc<str>);

/// Where a subscriber stands.
enum Place {
    /// Its channel cannot be recovered.
    Anywhere,
    /// It must miss nothing from here on.
    At(Tracked),
    /// Its subscription is being made.
    Held(Box<Held>),
}

/// What was delivered to a subscription that the client does not know of yet.
#[derive(Default)]
struct Held {
    /// With the numbers of those that are publications.
    frames: Vec<(Option<Stand>, Bytes)>,
    bytes: usize,
    /// Where the stream stands at least.
    top: Option<Stand>,
    /// There was no room for something.
    lost: bool,
}

/// Frames and bytes that are held for one subscription. They are shared with others: this bounds the references.
const HELD_MAX: usize = 1024;
const HELD_BYTES_MAX: usize = 256 * 1024;

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
        Self {
            ids,
            channels: HashMap::new(),
            peers: FxHashMap::default(),
            subscriptions: 0,
            classes: Classes::default(),
        }
    }

    /// Makes a connection reachable by its number and by its user.
    pub fn admit(&mut self, peer: Rc<Peer>, client: SharedClient) {
        let admitted = Admitted { peer, client };
        admitted.classify(&mut self.classes);
        self.peers.insert(admitted.peer.number, admitted);
    }

    /// Forgets a connection. Its subscriptions must be gone.
    pub fn forget(&mut self, number: u64) {
        if let Some(admitted) = self.peers.remove(&number) {
            self.classes.leave(admitted.peer.class.get());
        }
    }

    /// From now on connections are told apart by these attributes.
    pub fn classify_by(&mut self, attributes: &Arc<[Box<str>]>) {
        if self.classes.attributes() == attributes {
            return;
        }
        self.classes = Classes::of(attributes.clone());
        self.peers.values().for_each(|admitted| admitted.classify(&mut self.classes));
    }

    /// An attribute of a connection has changed.
    pub fn attribute_changed(&mut self, number: u64, name: &str) {
        if self.classes.attributes().iter().any(|attribute| **attribute == *name)
            && let Some(admitted) = self.peers.get(&number)
        {
            self.classes.leave(admitted.peer.class.get());
            admitted.classify(&mut self.classes);
        }
    }

    /// Adds a subscription or changes how it listens. True if it is the first of this worker in the channel.
    pub fn subscribe(&mut self, channel: &Channel, peer: &Rc<Peer>, listening: Listening) -> bool {
        let subscribers = self.channels.entry(channel.clone()).or_default();
        let first = subscribers.is_empty();
        let subscriber = Subscriber {
            peer: peer.clone(),
            form: listening.form,
            place: Place::of(listening.position),
            join_leave: listening.join_leave,
        };
        if subscribers.insert(peer.number, subscriber).is_none() {
            self.subscriptions += 1;
        }
        first
    }

    /// Sets from where a subscription must miss nothing.
    pub fn set_position(&mut self, channel: &Channel, number: u64, offset: u64, epoch: Arc<str>) {
        if let Some(subscriber) = self.channels.get_mut(channel).and_then(|all| all.get_mut(&number)) {
            subscriber.place = Place::of(Some((offset, epoch)));
        }
    }

    /// From now on what is for a subscription waits for [`release`](Self::release).
    pub fn hold(&mut self, channel: &Channel, number: u64) {
        if let Some(subscriber) = self.channels.get_mut(channel).and_then(|all| all.get_mut(&number)) {
            subscriber.place = Place::Held(Box::default());
        }
    }

    /// The client knows of its subscription: it gets what was held, from its position on.
    pub fn release(&mut self, channel: &Channel, number: u64, position: Option<(u64, Arc<str>)>) {
        let subscriber = self.channels.get_mut(channel).and_then(|all| all.get_mut(&number));
        let Some(Subscriber { peer, place, .. }) = subscriber else { return };
        let Place::Held(held) = std::mem::replace(place, Place::of(position)) else { return };
        for (number, frame) in held.frames {
            match number.map_or(Next::Deliver, |(offset, epoch)| place.next(offset, &epoch)) {
                Next::Deliver if frame.is_empty() => (),
                Next::Deliver => drop(peer.push(&frame)),
                Next::Known | Next::Hold => (),
                Next::Gap => peer.signal(Signal::Gap(channel.clone())),
            }
        }
        if (held.lost || held.top.is_some_and(|(offset, epoch)| place.is_before(offset, &epoch)))
            && place.lose()
        {
            peer.signal(Signal::Gap(channel.clone()));
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
        self.deliver_views(push, &mut Same(push))
    }

    /// Queues a publication for everyone it is for, as their class is to see it. Who is to see nothing advances all the
    /// same: that is no gap.
    pub fn deliver_views(&mut self, push: &Push, views: &mut impl Views) -> Delivered {
        let mut delivered = Delivered::default();
        if let Target::Connection(id) = push.channel.target() {
            if let Some(peer) = self.by_id(id)
                && let Some(view) = views.of(peer.class.get(), &self.classes)
            {
                delivered.count(peer.push(view.frame(Form::Direct(peer.protocol))));
            }
            return delivered;
        }
        let Some(subscribers) = self.channels.get_mut(&push.channel) else { return delivered };
        match &push.kind {
            PushKind::Publication { publication, epoch } => {
                for subscriber in subscribers.values_mut() {
                    match subscriber.place.next(publication.offset, epoch) {
                        Next::Deliver => {
                            if let Some(view) = views.of(subscriber.peer.class.get(), &self.classes) {
                                delivered.count(subscriber.peer.push(view.frame(subscriber.form)));
                            }
                        }
                        Next::Hold => {
                            let view = views.of(subscriber.peer.class.get(), &self.classes);
                            let frame = view.map(|view| view.frame(subscriber.form));
                            let number = (publication.offset, epoch.clone());
                            subscriber.place.hold(Some(number), frame.unwrap_or(&Bytes::new()));
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
                for subscriber in subscribers.values_mut().filter(|subscriber| subscriber.join_leave) {
                    let frame = push.frame(subscriber.form);
                    if !frame.is_empty() && !subscriber.place.hold(None, frame) {
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
            if subscribers.values().all(|subscriber| matches!(subscriber.place, Place::Anywhere)) {
                continue;
            }
            if let Some((offset, epoch)) = top(channel) {
                gaps += check(channel, subscribers, offset, &epoch);
            }
        }
        gaps
    }

    /// As [`check_positions`](Self::check_positions), for one channel.
    pub fn check_position(&mut self, channel: &Channel, offset: u64, epoch: &Arc<str>) -> usize {
        self.channels.get_mut(channel).map_or(0, |subscribers| check(channel, subscribers, offset, epoch))
    }

    /// Orders something of every connection of an address, but of the one with the number `except`.
    pub fn order(&self, address: &Channel, except: Option<u64>, order: &Order) {
        let tell = |peer: &Peer| {
            if except != Some(peer.number) {
                peer.signal(order.clone().into());
            }
        };
        match address.target() {
            Target::Connection(id) => self.by_id(id).into_iter().for_each(|peer| tell(peer)),
            Target::User(user) => {
                let listening = self.channels.get(address).into_iter().flat_map(IndexMap::values);
                // Somebody else may listen to what is said to the user, and yet is not the user.
                let of_user = |peer: &Peer| {
                    self.peers
                        .get(&peer.number)
                        .is_some_and(|admitted| *admitted.client.borrow().user == *user)
                };
                listening.filter(|other| of_user(&other.peer)).for_each(|own| tell(&own.peer));
            }
            Target::Channel => (),
        }
    }

    /// Hands a connection what the backplane has answered it. A connection that has gone does not want to know.
    pub fn answer(&self, connection: u64, ticket: u32, answer: Answer) {
        if let Some(admitted) = self.peers.get(&connection) {
            admitted.peer.answer(ticket, answer);
        }
    }

    fn by_id(&self, id: &str) -> Option<&Rc<Peer>> {
        let peer = &self.peers.get(&self.ids.number(id)?)?.peer;
        (&*peer.id == id).then_some(peer)
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }
}

impl Admitted {
    /// Puts the connection into the class that its attributes have now.
    fn classify(&self, classes: &mut Classes) {
        let client = self.client.borrow();
        self.peer.class.set(classes.enter(|name| client.attributes.get(name).map(|value| &**value)));
    }
}

/// Tells every subscriber that stands before the top of the stream, or in another one.
fn check(channel: &Channel, subscribers: &mut Subscribers, offset: u64, epoch: &Arc<str>) -> usize {
    let mut gaps = 0;
    for subscriber in subscribers.values_mut() {
        if let Place::Held(held) = &mut subscriber.place {
            held.top = Some((offset, epoch.clone()));
        } else if subscriber.place.is_before(offset, epoch) && subscriber.place.lose() {
            gaps += 1;
            subscriber.peer.signal(Signal::Gap(channel.clone()));
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

impl Place {
    fn of(position: Option<(u64, Arc<str>)>) -> Self {
        position.map_or(Self::Anywhere, |(offset, epoch)| Self::At(Tracked { offset, epoch, lost: false }))
    }

    /// Judges a publication by where the client stands.
    fn next(&mut self, offset: u64, epoch: &Arc<str>) -> Next {
        let position = match self {
            Self::Anywhere => return Next::Deliver,
            Self::Held(_) => return Next::Hold,
            Self::At(position) => position,
        };
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

    /// Keeps a frame for later, if frames are held. An empty one only counts.
    fn hold(&mut self, number: Option<(u64, Arc<str>)>, frame: &Bytes) -> bool {
        let Self::Held(held) = self else { return false };
        if held.frames.len() >= HELD_MAX || held.bytes + frame.len() > HELD_BYTES_MAX {
            held.lost = true;
        } else {
            held.bytes += frame.len();
            held.frames.push((number, frame.clone()));
        }
        true
    }

    /// Whether something of the stream is missing, or the stream is another one.
    fn is_before(&self, offset: u64, epoch: &Arc<str>) -> bool {
        matches!(self, Self::At(position) if position.offset < offset || position.epoch != *epoch)
    }

    /// Something was lost. True if that is new.
    fn lose(&mut self) -> bool {
        match self {
            Self::At(position) => !std::mem::replace(&mut position.lost, true),
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
mod tests {
    use super::*;
    use crate::hub::peer::Unflushed;
    use crate::protocol::Protocol;
    use crate::protocol::push::{Member, Publication};

    struct Room {
        hub: Hub,
        unflushed: Rc<Unflushed>,
        ids: ConnectionIds,
    }

    fn channel(name: &str) -> Channel {
        Channel::parse(name).expect("valid")
    }

    fn publication(name: &str, offset: u64, epoch: &str) -> Push {
        let publication = Publication { data: "7".into(), json: true, offset, info: None };
        Push::new(
            channel(name),
            PushKind::Publication { publication: Arc::new(publication), epoch: epoch.into() },
        )
    }

    impl Room {
        fn new() -> Self {
            let ids = ConnectionIds::new(7);
            Self { hub: Hub::new(ids), unflushed: Rc::default(), ids }
        }

        fn peer(&mut self, number: u64, bytes_max: usize) -> Rc<Peer> {
            self.admit(number, bytes_max, "", &[]).0
        }

        fn admit(
            &mut self,
            number: u64,
            bytes_max: usize,
            user: &str,
            attributes: &[(&str, &str)],
        ) -> (Rc<Peer>, SharedClient) {
            let id = self.ids.id(number, 99);
            let protocol = Protocol::CentrifugeJson;
            let peer = Rc::new(Peer::new(number, id.clone(), protocol, bytes_max, &self.unflushed));
            let attribute = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
            let client = Client {
                number,
                id,
                user: user.into(),
                protocol: protocol.as_str(),
                address: std::net::Ipv4Addr::LOCALHOST.into(),
                headers: Arc::new([]),
                attributes: attributes.iter().map(attribute).collect(),
            };
            let client = Rc::new(RefCell::new(Arc::new(client)));
            self.hub.admit(peer.clone(), client.clone());
            (peer, client)
        }

        fn subscribe(&mut self, name: &str, peer: &Rc<Peer>, position: Option<(u64, &str)>) -> bool {
            let position = position.map(|(offset, epoch)| (offset, epoch.into()));
            let form = Form::Channel(Protocol::CentrifugeJson);
            self.hub.subscribe(&channel(name), peer, Listening { form, position, join_leave: false })
        }
    }

    fn text(peer: &Peer) -> String {
        String::from_utf8_lossy(&peer.outbound.take()).into_owned()
    }

    #[test]
    fn the_first_comes_and_the_last_goes() {
        let mut room = Room::new();
        let (a, b) = (room.peer(1, 100), room.peer(2, 100));
        assert!(room.subscribe("news", &a, None));
        assert!(!room.subscribe("news", &b, None));
        assert_eq!(room.hub.subscriptions(), 2);
        assert!(!room.hub.unsubscribe(&channel("news"), 1));
        assert!(room.hub.unsubscribe(&channel("news"), 2));
        assert!(!room.hub.unsubscribe(&channel("news"), 2));
        assert_eq!(room.hub.subscriptions(), 0);
    }

    #[test]
    fn everyone_gets_the_same_bytes_and_one_flush() {
        let mut room = Room::new();
        let (a, b, c) = (room.peer(1, 100), room.peer(2, 100), room.peer(3, 100));
        room.subscribe("news", &a, None);
        room.subscribe("news", &b, None);
        let sent = room.hub.deliver(&publication("news", 0, ""));
        assert_eq!(sent, Delivered { sent: 2, full: 0, gaps: 0 });
        room.hub.deliver(&publication("news", 0, ""));
        let waker = std::task::Waker::noop();
        let std::task::Poll::Ready(peers) =
            room.unflushed.poll_take(&mut std::task::Context::from_waker(waker))
        else {
            panic!("there is something to flush")
        };
        assert_eq!(peers.len(), 2, "each once, however much was pushed");
        let expected = r#"{"push":{"channel":"news","pub":{"data":7}}}"#;
        assert_eq!(text(&a).matches(expected).count(), 2);
        assert_eq!(text(&b).matches(expected).count(), 2);
        assert_eq!(text(&c), "");
    }

    #[test]
    fn a_position_turns_repeats_into_nothing_and_holes_into_one_signal() {
        let mut room = Room::new();
        let a = room.peer(1, 1000);
        room.subscribe("news", &a, Some((4, "e")));
        let mut deliver = |offset, epoch: &str| {
            room.hub.deliver(&publication("news", offset, epoch));
            (text(&a).contains("push"), a.take_signals())
        };
        let gap = vec![Signal::Gap(channel("news"))];
        assert_eq!(deliver(4, "e"), (false, vec![]), "known");
        assert_eq!(deliver(5, "e"), (true, vec![]));
        assert_eq!(deliver(5, "e"), (false, vec![]), "known");
        assert_eq!(deliver(7, "e"), (false, gap), "6 is missing");
        assert_eq!(deliver(8, "e"), (false, vec![]), "told once");
    }

    #[test]
    fn another_stream_is_a_gap() {
        let mut room = Room::new();
        let a = room.peer(1, 1000);
        room.subscribe("news", &a, Some((4, "e")));
        room.hub.deliver(&publication("news", 5, "f"));
        assert_eq!(a.take_signals(), [Signal::Gap(channel("news"))]);
    }

    #[test]
    fn a_slow_reader_hears_so_and_the_others_do_not_wait() {
        let mut room = Room::new();
        let (slow, quick) = (room.peer(1, 50), room.peer(2, 1000));
        room.subscribe("news", &slow, None);
        room.subscribe("news", &quick, None);
        room.hub.deliver(&publication("news", 0, ""));
        let delivered = room.hub.deliver(&publication("news", 0, ""));
        assert_eq!(delivered, Delivered { sent: 1, full: 1, gaps: 0 });
        assert_eq!(slow.take_signals(), [Signal::Slow]);
        assert!(slow.outbound.pending() <= 50);
    }

    #[test]
    fn only_those_who_asked_hear_who_comes() {
        let mut room = Room::new();
        let (a, b) = (room.peer(1, 1000), room.peer(2, 1000));
        let form = Form::Channel(Protocol::CentrifugeJson);
        room.hub.subscribe(&channel("news"), &a, Listening { form, position: None, join_leave: true });
        room.subscribe("news", &b, None);
        let member = Member { client: "c".into(), user: "u".into(), info: "".into() };
        room.hub.deliver(&Push::new(channel("news"), PushKind::Join(Arc::new(member))));
        assert!(text(&a).contains("join"));
        assert_eq!(text(&b), "");
    }

    #[test]
    fn an_id_reaches_one_connection_and_a_forged_one_nobody() {
        let mut room = Room::new();
        let (a, b) = (room.peer(1, 1000), room.peer(2, 1000));
        let address = format!("@{}", a.id);
        assert_eq!(room.hub.deliver(&publication(&address, 0, "")).sent, 1);
        assert!(text(&a).contains(r#"{"push":{"message":{"data":7}}}"#));
        assert_eq!(text(&b), "");
        // The same number, but not the id that was given out.
        let forged = format!("@{}", room.ids.id(1, 98));
        assert_eq!(room.hub.deliver(&publication(&forged, 0, "")).sent, 0);
    }

    #[test]
    fn a_user_is_reached_on_every_connection() {
        let mut room = Room::new();
        let (a, b) = (room.peer(1, 1000), room.peer(2, 1000));
        for peer in [&a, &b] {
            let form = Form::Direct(Protocol::CentrifugeJson);
            room.hub.subscribe(&channel("#42"), peer, Listening { form, position: None, join_leave: false });
        }
        assert_eq!(room.hub.deliver(&publication("#42", 0, "")).sent, 2);
        assert!(text(&a).contains("message") && text(&b).contains("message"));
    }

    /// Nothing for class 0, and for others the value of the first attribute. Remembers whom it was asked for.
    struct ByRole(Vec<u32>, Option<Push>);

    impl Views for ByRole {
        fn of(&mut self, class: u32, classes: &Classes) -> Option<&Push> {
            self.0.push(class);
            let [role] = classes.values(class) else { return None };
            let data = format!("{role:?}").into();
            let publication = Publication { data, json: true, offset: 5, info: None };
            let kind = PushKind::Publication { publication: Arc::new(publication), epoch: "e".into() };
            Some(self.1.insert(Push::new(channel("news"), kind)))
        }
    }

    #[test]
    fn a_class_receives_its_view_and_who_receives_nothing_misses_nothing() {
        let mut room = Room::new();
        room.hub.classify_by(&["role".into()].into());
        let (member, client) = room.admit(1, 1000, "", &[]);
        let (moderator, _) = room.admit(2, 1000, "", &[("role", "mod"), ("other", "x")]);
        for peer in [&member, &moderator] {
            room.subscribe("news", peer, Some((4, "e")));
        }
        let deliver = |room: &mut Room, offset| {
            let mut views = ByRole(Vec::new(), None);
            room.hub.deliver_views(&publication("news", offset, "e"), &mut views);
            let heard = |peer: &Peer| text(peer).contains(r#""data":"mod""#);
            (heard(&member), heard(&moderator), views.0.len())
        };
        assert_eq!(deliver(&mut room, 5), (false, true, 2));
        assert_eq!(deliver(&mut room, 5), (false, false, 0), "known, also to who did not receive it");
        Arc::make_mut(&mut client.borrow_mut()).attributes.insert("role".into(), "mod".into());
        room.hub.attribute_changed(1, "other");
        assert_eq!(deliver(&mut room, 6), (false, true, 2), "another attribute changes nothing");
        room.hub.attribute_changed(1, "role");
        assert_eq!(deliver(&mut room, 7), (true, true, 2));
        room.hub.classify_by(&["other".into()].into());
        let mut views = ByRole(Vec::new(), None);
        room.hub.deliver_views(&publication("news", 8, "e"), &mut views);
        assert!(text(&moderator).contains(r#""data":"x""#), "other rules, other classes");
        assert_eq!(
            (text(&member).len(), member.take_signals(), moderator.take_signals()),
            (0, vec![], vec![])
        );
    }

    #[test]
    fn an_order_reaches_the_connections_of_a_user_and_nobody_else() {
        let mut room = Room::new();
        let [a, b, other] = [(1, "42"), (2, "42"), (3, "7")].map(|(number, user)| {
            let (peer, _) = room.admit(number, 1000, user, &[]);
            room.subscribe("#42", &peer, None);
            peer
        });
        let order = Order::Subscribe(channel("news"));
        room.hub.order(&channel("#42"), Some(2), &order);
        assert_eq!(a.take_signals(), [Signal::Subscribe(channel("news"))]);
        assert_eq!(b.take_signals(), [], "left out");
        assert_eq!(other.take_signals(), [], "it listens to what is said to 42, but is 7");
        room.hub.order(&channel(&format!("@{}", b.id)), None, &order);
        assert_eq!((a.take_signals(), b.take_signals().len()), (vec![], 1));
        room.subscribe("news", &a, None);
        room.hub.order(&channel("news"), None, &order);
        assert_eq!(a.take_signals(), [], "a channel is no address of connections");
    }
}
