//! Who gets a delta, and who the whole payload.

use super::*;

/// A publication that differs a little from every other.
fn price(offset: u64, round: u32) -> Push {
    let data = format!(r#"{{"text":"a text that stays as it is","round":{round}}}"#).into();
    let publication = Publication { data, json: true, offset, info: None, tags: None };
    let kind = PushKind::Publication { publication: Arc::new(publication), epoch: "e".into() };
    Push::new(channel("news"), kind)
}

/// What a subscriber got of one publication.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Nothing,
    /// The payload as it is.
    Value,
    /// The payload as a string.
    Text,
    Delta,
}

fn got(handle: &ConnectionHandle) -> Got {
    let text = text(handle);
    assert!(text.matches(r#""pub":"#).count() < 2, "{text}");
    match (text.contains("pub"), text.contains(r#""delta":true"#), text.contains(r#"{"data":""#)) {
        (false, ..) => Got::Nothing,
        (true, false, false) => Got::Value,
        (true, false, true) => Got::Text,
        (true, true, _) => Got::Delta,
    }
}

impl Room {
    fn apply_deltas(&mut self, handle: &Rc<ConnectionHandle>, position: Option<Position>) {
        let form = Form::channel_with_deltas(Encoding::Json.over(Framing::WebSocket));
        let listening = Listening { form, position, join_leave: false, filter: None, delta: true };
        self.hub.subscribe(&channel("news"), handle, listening);
    }
}

/// The push as it is for classes with an attribute, and for all others nothing or another publication.
struct Partly<'a> {
    push: &'a Push,
    others: Option<&'a Push>,
}

impl Views for Partly<'_> {
    fn of(&mut self, class: u32, classes: &Classes) -> Option<&Push> {
        if classes.values(class).iter().any(|value| !value.is_empty()) {
            Some(self.push)
        } else {
            self.others
        }
    }
}

#[test]
fn the_first_publication_is_full_and_the_next_ones_are_deltas_made_once() {
    let mut room = Room::new();
    let maker = maker();
    let subscribers: Vec<_> = (0..50).map(|number| room.handle(number, 10_000)).collect();
    let plain = room.handle(50, 10_000);
    room.subscribe("news", &plain, None);
    room.hub.deliver(&price(0, 0), &maker);
    assert!(room.hub.bases.is_empty(), "nobody applies deltas");
    subscribers.iter().for_each(|handle| room.apply_deltas(handle, None));
    text(&plain);
    for (round, expected) in [(1, Got::Text), (2, Got::Delta), (3, Got::Delta)] {
        let delivered = room.hub.deliver(&price(0, round), &maker);
        assert_eq!(delivered.sent, 51);
        assert!(subscribers.iter().all(|handle| got(handle) == expected), "{round}");
        assert_eq!(got(&plain), Got::Value);
        assert_eq!(maker.take_deltas().messages, u64::from(round > 1), "{round}");
    }
    let late = room.handle(51, 10_000);
    room.apply_deltas(&late, None);
    room.deliver(&price(0, 4));
    assert_eq!((got(&late), got(&subscribers[0])), (Got::Text, Got::Delta));
    room.deliver(&price(0, 5));
    assert_eq!(got(&late), Got::Delta);
}

#[test]
fn bases_are_kept_as_long_as_somebody_applies_deltas() {
    let mut room = Room::new();
    let [a, b] = [1, 2].map(|number| room.handle(number, 10_000));
    for handle in [&a, &b, &a] {
        room.apply_deltas(handle, None);
        assert!(room.hub.makes_deltas(&channel("news"), handle.number));
    }
    room.deliver(&price(0, 1));
    assert_eq!([got(&a), got(&b)], [Got::Text, Got::Text]);
    room.subscribe("news", &a, None);
    assert!(!room.hub.makes_deltas(&channel("news"), 1), "the last subscription counts");
    room.deliver(&price(0, 2));
    assert_eq!([got(&a), got(&b)], [Got::Value, Got::Delta]);
    room.hub.unsubscribe(&channel("news"), 1);
    assert!(!room.hub.bases.is_empty());
    room.hub.unsubscribe(&channel("news"), 2);
    assert!(room.hub.bases.is_empty());
    room.hub.unsubscribe(&channel("news"), 2);
}

#[test]
fn who_was_not_sent_the_last_publication_gets_the_next_one_in_full() {
    let mut room = Room::new();
    room.hub.classify_by(&["role".into()].into());
    let (other, _) = room.admit(1, 10_000, "", &[]);
    let (member, _) = room.admit(2, 10_000, "", &[("role", "member")]);
    for handle in [&other, &member] {
        room.apply_deltas(handle, Some(at(0, "e")));
    }
    let changed = price(0, 99);
    let mut offset = 0;
    let mut deliver = |others: Option<Option<&Push>>| {
        offset += 1;
        let push = price(offset, offset as u32);
        let mut views = Partly { push: &push, others: others.unwrap_or(Some(&push)) };
        room.hub.deliver_views(&push, &mut views, &maker());
        (got(&other), got(&member))
    };
    assert_eq!(deliver(None), (Got::Text, Got::Text));
    assert_eq!(deliver(None), (Got::Delta, Got::Delta));
    assert_eq!(deliver(Some(None)), (Got::Nothing, Got::Delta), "a plugin drops it");
    assert_eq!(deliver(None), (Got::Text, Got::Delta));
    assert_eq!(deliver(None), (Got::Delta, Got::Delta));
    assert_eq!(deliver(Some(Some(&changed))), (Got::Text, Got::Delta), "a plugin changes it");
    assert_eq!(deliver(Some(Some(&changed))), (Got::Text, Got::Delta));
    assert_eq!(deliver(None), (Got::Text, Got::Delta));
    assert_eq!(deliver(None), (Got::Delta, Got::Delta));
}

#[test]
fn repeats_and_what_was_held_lead_to_no_delta_from_another_payload() {
    let mut room = Room::new();
    let [ahead, behind] = [1, 2].map(|number| room.handle(number, 10_000));
    room.apply_deltas(&ahead, Some(at(2, "e")));
    room.apply_deltas(&behind, Some(at(0, "e")));
    let mut deliver = |offset: u64| {
        room.deliver(&price(offset, offset as u32));
        (got(&ahead), got(&behind))
    };
    assert_eq!(deliver(1), (Got::Nothing, Got::Text), "known to one of them");
    assert_eq!(deliver(2), (Got::Nothing, Got::Delta));
    assert_eq!(deliver(3), (Got::Text, Got::Delta), "the first one after its position");
    assert_eq!(deliver(2), (Got::Nothing, Got::Nothing), "a repeat, of which the next delta would be made");
    assert_eq!(deliver(4), (Got::Text, Got::Text));
    assert_eq!(deliver(5), (Got::Delta, Got::Delta));

    let making = room.handle(3, 10_000);
    room.apply_deltas(&making, None);
    room.hub.hold(&channel("news"), 3);
    room.deliver(&price(6, 6));
    room.deliver(&price(7, 7));
    room.hub.release(&channel("news"), 3, Some(at(6, "e")));
    assert_eq!(got(&making), Got::Text, "7, because the reply had 6");
    room.deliver(&price(8, 8));
    assert_eq!(got(&making), Got::Text);
    room.deliver(&price(9, 9));
    assert_eq!(got(&making), Got::Delta);
}
