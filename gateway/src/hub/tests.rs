//! Subscriptions, stream positions and delivery of one worker.

mod deltas;

use super::*;
use crate::backplane::{Only, Order, Why};
use crate::hub::connection_handle::Unflushed;
use crate::protocol::code::Close;
use crate::protocol::filter::Fields;
use crate::protocol::push::{Member, Publication};
use crate::protocol::tags::Tags;
use crate::protocol::{Encoding, Framing};

struct Room {
    hub: Hub,
    unflushed: Rc<Unflushed>,
    ids: ConnectionIds,
}

fn channel(name: &str) -> Channel {
    Channel::parse(name).expect("valid")
}

fn publication(name: &str, offset: u64, epoch: &str) -> Push {
    let publication = Publication { data: "7".into(), json: true, offset, info: None, tags: None };
    Push::new(
        channel(name),
        PushKind::Publication { publication: Arc::new(publication), epoch: epoch.into() },
    )
}

fn maker() -> FrameMaker {
    FrameMaker::new(1, 0)
}

fn at(offset: u64, epoch: &str) -> Position {
    Position { offset, epoch: epoch.into() }
}

/// The signals that a connection got.
fn signals(handle: &ConnectionHandle) -> Vec<Signal> {
    std::iter::from_fn(|| handle.take_signal()).collect()
}

impl Room {
    fn new() -> Self {
        let ids = ConnectionIds::new(7);
        Self { hub: Hub::new(ids), unflushed: Rc::default(), ids }
    }

    fn deliver(&mut self, push: &Push) -> Delivered {
        self.hub.deliver(push, &maker())
    }

    fn handle(&mut self, number: u64, bytes_max: usize) -> Rc<ConnectionHandle> {
        self.admit(number, bytes_max, "", &[]).0
    }

    fn admit(
        &mut self,
        number: u64,
        bytes_max: usize,
        user: &str,
        attributes: &[(&str, &str)],
    ) -> (Rc<ConnectionHandle>, SharedClient) {
        let id = self.ids.id(number, 99);
        let encoding = Encoding::Json;
        let handle = Rc::new(ConnectionHandle::new(
            number,
            id.clone(),
            encoding.over(Framing::WebSocket),
            bytes_max,
            &self.unflushed,
        ));
        let attribute = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        let client = Client {
            number,
            id,
            user: user.into(),
            protocol: encoding.protocol_name(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            headers: Arc::new([]),
            attributes: attributes.iter().map(attribute).collect(),
        };
        let client = Rc::new(RefCell::new(Arc::new(client)));
        self.hub.admit(handle.clone(), client.clone(), 0);
        (handle, client)
    }

    fn subscribe(
        &mut self,
        name: &str,
        handle: &Rc<ConnectionHandle>,
        position: Option<(u64, &str)>,
    ) -> bool {
        let position = position.map(|(offset, epoch)| at(offset, epoch));
        let form = Form::channel(Encoding::Json.over(Framing::WebSocket));
        self.hub.subscribe(
            &channel(name),
            handle,
            Listening { form, position, join_leave: false, filter: None, delta: false },
        )
    }
}

/// Publications whose tag `kind` is `wanted`.
fn of_kind(wanted: &str) -> Option<Arc<TagFilter>> {
    let fields = |(): (), _| {
        let (op, vals, nodes) = ("".into(), Vec::new(), Vec::new());
        Ok(Fields { op, key: "kind".into(), cmp: "eq".into(), val: wanted.into(), vals, nodes })
    };
    Some(Arc::new(TagFilter::read((), 1, fields).expect("a filter")))
}

fn tagged(name: &str, offset: u64, kind: &str) -> Push {
    let tags = Tags::of(vec![("kind".into(), kind.into())]);
    let publication = Publication { data: "7".into(), json: true, offset, info: None, tags };
    let kind = PushKind::Publication { publication: Arc::new(publication), epoch: "e".into() };
    Push::new(channel(name), kind)
}

fn text(handle: &ConnectionHandle) -> String {
    String::from_utf8_lossy(&handle.outbound.take()).into_owned()
}

#[test]
fn the_first_comes_and_the_last_goes() {
    let mut room = Room::new();
    let (a, b) = (room.handle(1, 100), room.handle(2, 100));
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
    let (a, b, c) = (room.handle(1, 1000), room.handle(2, 1000), room.handle(3, 1000));
    room.subscribe("news", &a, None);
    room.subscribe("news", &b, None);
    let sent = room.deliver(&publication("news", 0, ""));
    assert_eq!(sent, Delivered { sent: 2, full: 0, gaps: 0, filtered: 0 });
    room.deliver(&publication("news", 0, ""));
    let waker = std::task::Waker::noop();
    let std::task::Poll::Ready(handles) =
        room.unflushed.poll_take(&mut std::task::Context::from_waker(waker))
    else {
        panic!("there is something to flush")
    };
    assert_eq!(handles.len(), 2, "each once, however much was pushed");
    let expected = r#"{"push":{"channel":"news","pub":{"data":7}}}"#;
    assert_eq!(text(&a).matches(expected).count(), 2);
    assert_eq!(text(&b).matches(expected).count(), 2);
    assert_eq!(text(&c), "");
}

#[test]
fn a_position_turns_repeats_into_nothing_and_holes_into_one_signal() {
    let mut room = Room::new();
    let a = room.handle(1, 1000);
    room.subscribe("news", &a, Some((4, "e")));
    let mut deliver = |offset, epoch: &str| {
        room.deliver(&publication("news", offset, epoch));
        (text(&a).contains("push"), signals(&a))
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
    let a = room.handle(1, 1000);
    room.subscribe("news", &a, Some((4, "e")));
    room.deliver(&publication("news", 5, "f"));
    assert_eq!(signals(&a), [Signal::Gap(channel("news"))]);
}

#[test]
fn a_slow_reader_hears_so_and_the_others_do_not_wait() {
    let mut room = Room::new();
    let (slow, quick) = (room.handle(1, 100), room.handle(2, 1000));
    room.subscribe("news", &slow, None);
    room.subscribe("news", &quick, None);
    room.deliver(&publication("news", 0, ""));
    let delivered = room.deliver(&publication("news", 0, ""));
    assert_eq!(delivered, Delivered { sent: 1, full: 1, gaps: 0, filtered: 0 });
    assert_eq!(signals(&slow), [Signal::Slow]);
    assert!((1..=50).contains(&slow.outbound.pending()), "the first one waits");
}

#[test]
fn only_those_who_asked_hear_who_comes() {
    let mut room = Room::new();
    let (a, b) = (room.handle(1, 1000), room.handle(2, 1000));
    let form = Form::channel(Encoding::Json.over(Framing::WebSocket));
    room.hub.subscribe(
        &channel("news"),
        &a,
        Listening { form, position: None, join_leave: true, filter: None, delta: false },
    );
    room.subscribe("news", &b, None);
    let member = Member { client: "c".into(), user: "u".into(), info: "".into(), channel_info: "".into() };
    room.deliver(&Push::new(channel("news"), PushKind::Join(Arc::new(member))));
    assert!(text(&a).contains("join"));
    assert_eq!(text(&b), "");
}

#[test]
fn an_id_reaches_one_connection_and_a_forged_one_nobody() {
    let mut room = Room::new();
    let (a, b) = (room.handle(1, 1000), room.handle(2, 1000));
    let address = format!("@{}", a.id);
    assert_eq!(room.deliver(&publication(&address, 0, "")).sent, 1);
    assert!(text(&a).contains(r#"{"push":{"message":{"data":7}}}"#));
    assert_eq!(text(&b), "");
    // The same number, but not the issued id.
    let forged = format!("@{}", room.ids.id(1, 98));
    assert_eq!(room.deliver(&publication(&forged, 0, "")).sent, 0);
}

#[test]
fn a_user_is_reached_on_every_connection() {
    let mut room = Room::new();
    let (a, b) = (room.handle(1, 1000), room.handle(2, 1000));
    for handle in [&a, &b] {
        let form = Form::direct(Encoding::Json.over(Framing::WebSocket));
        room.hub.subscribe(
            &channel("#42"),
            handle,
            Listening { form, position: None, join_leave: false, filter: None, delta: false },
        );
    }
    assert_eq!(room.deliver(&publication("#42", 0, "")).sent, 2);
    assert!(text(&a).contains("message") && text(&b).contains("message"));
}

/// Nothing for class 0, and for other classes the value of the first attribute. Records the classes.
struct ByRole(Vec<u32>, Option<Push>);

impl Views for ByRole {
    fn of(&mut self, class: u32, classes: &Classes) -> Option<&Push> {
        self.0.push(class);
        let [role] = classes.values(class) else { return None };
        let data = format!("{role:?}").into();
        let publication = Publication { data, json: true, offset: 5, info: None, tags: None };
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
    for handle in [&member, &moderator] {
        room.subscribe("news", handle, Some((4, "e")));
    }
    let deliver = |room: &mut Room, offset| {
        let mut views = ByRole(Vec::new(), None);
        room.hub.deliver_views(&publication("news", offset, "e"), &mut views, &maker());
        let heard = |handle: &ConnectionHandle| text(handle).contains(r#""data":"mod""#);
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
    room.hub.deliver_views(&publication("news", 8, "e"), &mut views, &maker());
    assert!(text(&moderator).contains(r#""data":"x""#), "other rules, other classes");
    assert_eq!((text(&member).len(), signals(&member), signals(&moderator)), (0, vec![], vec![]));
}

#[test]
fn a_filter_lets_through_what_it_wants_and_the_rest_is_no_gap() {
    let mut room = Room::new();
    let form = Form::channel(Encoding::Json.over(Framing::WebSocket));
    let [filtering, everything] = [1, 2].map(|number| room.handle(number, 1000));
    for (handle, filter) in [(&filtering, of_kind("a")), (&everything, None)] {
        let listening =
            Listening { form, position: Some(at(4, "e")), join_leave: false, filter, delta: false };
        room.hub.subscribe(&channel("news"), handle, listening);
    }
    let mut deliver = |push: Push| {
        let Delivered { sent, filtered, gaps, .. } = room.deliver(&push);
        (sent, filtered, gaps, text(&filtering).contains("pub"), text(&everything).contains("pub"))
    };
    assert_eq!(deliver(tagged("news", 5, "b")), (1, 1, 0, false, true));
    assert_eq!(deliver(tagged("news", 6, "a")), (2, 0, 0, true, true), "5 counts as received");
    assert_eq!(deliver(publication("news", 7, "e")), (1, 1, 0, false, true), "without tags");
    assert_eq!(deliver(tagged("news", 9, "a")), (0, 0, 2, false, false), "8 is missing");
}

#[test]
fn a_filter_is_that_of_the_last_subscription_and_goes_with_it() {
    let mut room = Room::new();
    let form = Form::channel(Encoding::Json.over(Framing::WebSocket));
    let (a, news) = (room.handle(1, 1000), channel("news"));
    let mut subscribe = |filter| {
        room.hub.subscribe(
            &news,
            &a,
            Listening { form, position: None, join_leave: false, filter, delta: false },
        );
        room.deliver(&tagged("news", 0, "a")).sent
    };
    assert_eq!(subscribe(of_kind("b")), 0);
    assert_eq!(subscribe(of_kind("a")), 1);
    assert_eq!(subscribe(None), 1);
    assert_eq!(subscribe(of_kind("b")), 0);
    room.hub.unsubscribe(&news, 1);
    assert!(room.hub.filter(&news, 1).is_none() && room.hub.filters.is_empty());
    room.subscribe("news", &a, None);
    assert_eq!(room.deliver(&tagged("news", 0, "a")).sent, 1);
}

#[test]
fn what_a_filter_rejects_while_a_subscription_is_made_counts_as_received() {
    let mut room = Room::new();
    let form = Form::channel(Encoding::Json.over(Framing::WebSocket));
    let (a, news) = (room.handle(1, 1000), channel("news"));
    let listening = Listening { form, position: None, join_leave: false, filter: of_kind("a"), delta: false };
    room.hub.subscribe(&news, &a, listening);
    room.hub.hold(&news, 1);
    for (offset, kind) in [(5, "b"), (6, "a"), (7, "b")] {
        room.deliver(&tagged("news", offset, kind));
    }
    room.hub.release(&news, 1, Some(at(4, "e")));
    let seen = text(&a);
    assert_eq!(seen.matches("pub").count(), 1, "{seen}");
    assert!(seen.contains(r#""offset":6"#) && signals(&a).is_empty(), "{seen}");
    assert_eq!(room.deliver(&tagged("news", 8, "a")).sent, 1, "7 counts as received");
}

#[test]
fn a_publication_without_a_number_reaches_everybody_and_moves_nobody() {
    let mut room = Room::new();
    let [tracked, begun, made] = [1, 2, 3].map(|number| room.handle(number, 1000));
    room.subscribe("news", &tracked, Some((4, "e")));
    room.subscribe("news", &begun, Some((0, "e")));
    room.subscribe("news", &made, None);
    room.hub.hold(&channel("news"), 3);
    assert_eq!(room.deliver(&publication("news", 0, "")).sent, 2);
    room.hub.release(&channel("news"), 3, Some(at(4, "e")));
    for handle in [&tracked, &begun, &made] {
        assert_eq!((text(handle).matches("pub").count(), signals(handle)), (1, vec![]));
    }
    let Delivered { sent, gaps, .. } = room.deliver(&publication("news", 5, "e"));
    assert_eq!((sent, gaps), (2, 1), "5 follows 4, and not 0");
}

#[test]
fn an_order_to_close_leaves_out_the_connections_that_stay() {
    let mut room = Room::new();
    let [a, b] = [1, 2].map(|number| {
        let (handle, _) = room.admit(number, 1000, "42", &[]);
        room.subscribe("#42", &handle, None);
        handle
    });
    let close = Close::custom(4001, "bye");
    let kept = ["other".into(), Box::from(&*b.id)].into();
    let order = Order::CloseOthers { close: close.clone(), kept };
    room.hub.order(&channel("#42"), None, &order);
    assert_eq!((signals(&a), signals(&b)), (vec![Signal::Close(close, Why::Api)], vec![]));
    room.hub.order(&channel(&format!("@{}", b.id)), None, &order);
    assert_eq!(signals(&b), []);
}

#[test]
fn an_order_reaches_the_connections_of_a_user_and_nobody_else() {
    let mut room = Room::new();
    let [a, b, other] = [(1, "42"), (2, "42"), (3, "7")].map(|(number, user)| {
        let (handle, _) = room.admit(number, 1000, user, &[]);
        room.subscribe("#42", &handle, None);
        handle
    });
    let order = Order::Subscribe(channel("news"), None);
    room.hub.order(&channel("#42"), Some(2), &order);
    assert_eq!(signals(&a), [Signal::Subscribe(channel("news"), None)]);
    assert_eq!(signals(&b), [], "left out");
    assert_eq!(signals(&other), [], "it listens to what is said to 42, but is 7");
    room.hub.order(&channel(&format!("@{}", b.id)), None, &order);
    assert_eq!((signals(&a), signals(&b).len()), (vec![], 1));
    room.subscribe("news", &a, None);
    room.hub.order(&channel("news"), None, &order);
    assert_eq!(signals(&a), [], "a channel is no address of connections");
}

#[test]
fn an_order_for_some_reaches_those_who_meet_every_condition() {
    let mut room = Room::new();
    let [a, b] = [(1, "42"), (2, "42")].map(|(number, user)| {
        let (handle, _) = room.admit(number, 1000, user, &[]);
        room.subscribe("#42", &handle, None);
        handle
    });
    let only = |user: Option<&str>, session: Option<&str>| {
        let (user, session) = (user.map(Box::from), session.map(Box::from));
        Order::Only(Arc::new(Only { user, session, order: Order::Unsubscribe(channel("news")) }))
    };
    let one = channel(&format!("@{}", b.id));
    room.hub.order(&one, None, &only(Some("7"), None));
    assert_eq!(signals(&b), [], "it is not 7");
    room.hub.order(&one, None, &only(Some("42"), None));
    assert_eq!((signals(&a), signals(&b)), (vec![], vec![Signal::Unsubscribe(channel("news"))]));
    room.hub.order(&channel("#42"), None, &only(None, Some("s")));
    assert_eq!((signals(&a), signals(&b)), (vec![], vec![]), "they have no session");
}

#[test]
fn who_listens_before_the_first_publication_misses_nothing_of_the_stream_that_it_begins() {
    let mut room = Room::new();
    let handle = room.handle(1, 10_000);
    room.subscribe("a", &handle, Some((0, "0123.7")));
    // Before the first publication, checked in another hour.
    assert_eq!(room.hub.check_position(&channel("a"), &at(0, "0123.8")), 0);
    assert_eq!(room.deliver(&publication("a", 1, "0123-begun")).sent, 1);
    assert_eq!(room.deliver(&publication("a", 2, "0123-begun")).sent, 1);
    let delivered = room.deliver(&publication("a", 1, "0123-anew"));
    assert_eq!((delivered.sent, delivered.gaps), (0, 1), "what was begun and goes on nowhere is missed");
    // The stream was another one before the first publication, or had one already.
    for (name, offset, epoch) in [("b", 0, "4567.7"), ("c", 1, "0123-begun")] {
        room.subscribe(name, &handle, Some((0, "0123.7")));
        assert_eq!(room.hub.check_position(&channel(name), &at(offset, epoch)), 1, "{epoch}");
    }
    room.subscribe("d", &handle, Some((0, "0123.7")));
    assert_eq!(room.deliver(&publication("d", 2, "0123-begun")).gaps, 1, "the first one was missed");
    for epoch in ["4567-x", "4567", "4567.7"] {
        room.subscribe("e", &handle, Some((0, "0123.7")));
        let delivered = room.deliver(&publication("e", 1, epoch));
        assert_eq!((delivered.sent, delivered.gaps), (0, 1), "{epoch}: what was between is missed");
    }
}

#[test]
fn an_answer_from_before_a_stream_began_takes_nothing_back() {
    let mut room = Room::new();
    let handle = room.handle(1, 10_000);
    let (a, b) = (channel("a"), channel("b"));
    room.subscribe("a", &handle, Some((3, "0123-begun")));
    for (offset, epoch, gaps) in [(0, "0123.7", 0), (0, "0123.8", 0), (3, "0123-begun", 0), (0, "4567.7", 1)]
    {
        assert_eq!(room.hub.check_position(&a, &at(offset, epoch)), gaps, "{epoch}");
    }
    // Also while a subscription is made: the last report counts.
    for (given, gap) in [
        ([(4, "0123-begun"), (0, "0123.7")], true),
        ([(0, "0123.7"), (3, "0123-begun")], false),
        ([(3, "0123-begun"), (0, "4567.7")], true),
    ] {
        room.subscribe("b", &handle, None);
        room.hub.hold(&b, 1);
        for (offset, epoch) in given {
            room.hub.check_position(&b, &at(offset, epoch));
        }
        signals(&handle);
        room.hub.release(&b, 1, Some(at(3, "0123-begun")));
        assert_eq!(signals(&handle).len(), usize::from(gap), "{given:?}");
    }
}

/// The deliveries to subscribers of patterns, and their work.
fn to_patterns(room: &mut Room, push: &Push) -> (usize, usize) {
    let (delivered, work) = room.hub.deliver_to_patterns(push, &mut Same(push), &maker());
    (delivered.sent, work)
}

#[test]
fn subscribers_of_a_pattern_get_the_publications_of_its_channels_with_their_channel() {
    let mut room = Room::new();
    let [a, b, both] = [1, 2, 3].map(|number| room.handle(number, 1000));
    let form = Form::channel(Encoding::Json.over(Framing::WebSocket));
    let listening = Listening { form, position: None, join_leave: false, filter: None, delta: false };
    let [one, rest] = ["news:*", "news:**"].map(|name| Channel::parse_subscription(name).expect("valid"));
    assert!(room.hub.subscribe(&one, &a, listening.clone()), "the first of the namespace");
    assert!(!room.hub.subscribe(&one, &both, listening.clone()));
    assert!(!room.hub.subscribe(&rest, &b, listening), "not the first of the namespace");
    room.subscribe("news:eu", &both, Some((6, "e")));
    let push = publication("news:eu", 7, "e");
    assert_eq!(room.deliver(&push).sent, 1, "subscribers of the channel alone");
    assert!(text(&both).contains(r#"{"channel":"news:eu","pub":{"data":7,"offset":7}}"#));
    assert_eq!(to_patterns(&mut room, &push).0, 3);
    for (handle, pattern) in [(&a, "news:*"), (&both, "news:*"), (&b, "news:**")] {
        let expected =
            format!(r#"{{"push":{{"channel":"{pattern}","pub":{{"data":7,"channel":"news:eu"}}}}}}"#);
        let text = text(handle);
        assert!(text.ends_with(&expected) && text.matches("push").count() == 1, "{text}");
    }
    assert_eq!(to_patterns(&mut room, &publication("news:eu.sport", 0, "")).0, 1, "of `**` alone");
    assert_eq!(to_patterns(&mut room, &publication("other:eu", 0, "")), (0, 0));
    assert!(!room.hub.unsubscribe(&one, a.number) && !room.hub.unsubscribe(&rest, b.number));
    assert!(room.hub.unsubscribe(&one, both.number), "the last of the namespace");
    assert_eq!(to_patterns(&mut room, &push), (0, 0));
}

#[test]
fn a_pattern_is_bounded_filtered_and_held_like_a_channel() {
    let mut room = Room::new();
    let [filtering, held] = [1, 2].map(|number| room.handle(number, 1000));
    let form = Form::channel(Encoding::Json.over(Framing::WebSocket));
    let pattern = |name| Channel::parse_subscription(name).expect("valid");
    let listening = |filter| Listening { form, position: None, join_leave: false, filter, delta: false };
    assert!(room.hub.has_room_for(&pattern("news:*"), 1));
    room.hub.subscribe(&pattern("news:*"), &filtering, listening(of_kind("a")));
    room.hub.subscribe(&pattern("news:*"), &held, listening(None));
    assert!(!room.hub.has_room_for(&pattern("news:**"), 1));
    assert!(room.hub.has_room_for(&pattern("news:*"), 1) && room.hub.has_room_for(&channel("news:1"), 1));
    room.hub.hold(&pattern("news:*"), held.number);
    assert_eq!(to_patterns(&mut room, &tagged("news:1", 3, "b")).0, 0);
    assert_eq!(to_patterns(&mut room, &tagged("news:2", 9, "a")).0, 1);
    assert!(text(&filtering).contains("news:2") && text(&held).is_empty());
    room.hub.release(&pattern("news:*"), held.number, None);
    let text = text(&held);
    assert!(text.contains("news:1") && text.contains("news:2"), "{text}");
    assert!(signals(&held).is_empty() && room.hub.tracked().is_empty());
}

#[test]
fn classes_of_a_pattern_receive_their_views() {
    let mut room = Room::new();
    room.hub.classify_by(&["role".into()].into());
    let [(member, _), (moderator, _)] =
        [(1, "any"), (2, "mod")].map(|(number, role)| room.admit(number, 1000, "", &[("role", role)]));
    let form = Form::channel(Encoding::Json.over(Framing::WebSocket));
    for handle in [&member, &moderator] {
        let listening = Listening { form, position: None, join_leave: false, filter: None, delta: false };
        room.hub.subscribe(&Channel::parse_subscription("news:*").expect("valid"), handle, listening);
    }
    // The views have `news` for their channel, and it stays the channel of the publication.
    room.hub.deliver_to_patterns(&publication("news:1", 5, "e"), &mut ByRole(Vec::new(), None), &maker());
    let [member, moderator] = [&member, &moderator].map(|handle| text(handle));
    assert!(member.contains(r#""data":"any","channel":"news""#), "{member}");
    assert!(moderator.contains(r#""data":"mod","channel":"news""#), "{moderator}");
}
