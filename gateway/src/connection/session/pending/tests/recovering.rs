//! Tests what a client gets of the past: with the reply, or after the notice of a subscription of the server.

use super::*;
use crate::backplane::SubscribeOptions;

/// The reply to the subscribe that comes next, without its epoch.
fn subscribed(world: &mut World, more: &Value) -> Value {
    let mut command = json!({ "channel": "state:a", "recover": true });
    command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.send(&[json!({ "subscribe": command })]);
    world.answer();
    let mut frames = world.frames();
    assert_eq!(frames.len(), 1, "{frames:?}");
    let mut reply = frames[0]["subscribe"].take();
    reply.as_object_mut().unwrap().remove("epoch");
    world.send(&[json!({ "unsubscribe": { "channel": "state:a" } })]);
    world.frames();
    reply
}

#[test]
fn where_only_the_latest_counts_a_client_gets_it_unless_it_has_seen_it() {
    let mut world = World::new();
    let mut reply = json!({ "recoverable": true, "positioned": true, "was_recovering": true });
    assert_eq!(subscribed(&mut world, &json!({})), reply, "nothing was published");
    (1..=3).for_each(|number| world.publish("state:a", number));
    reply["recovered"] = json!(true);
    reply["publications"] = json!([{ "data": 3, "offset": 3 }]);
    assert_eq!(subscribed(&mut world, &json!({})), reply, "without a position");
    reply["offset"] = json!(1);
    assert_eq!(subscribed(&mut world, &json!({ "offset": 1, "epoch": "other" })), reply);
    let channel = Channel::parse("state:a").unwrap();
    let top = world.slow.memory.top(&channel).unwrap();
    reply["offset"] = json!(3);
    reply.as_object_mut().unwrap().remove("publications");
    assert_eq!(subscribed(&mut world, &json!({ "offset": 3, "epoch": &*top.epoch })), reply);
    let plain = json!({ "recoverable": true, "positioned": true, "offset": 3 });
    assert_eq!(subscribed(&mut world, &json!({ "recover": false })), plain, "unasked");
    // None of them has a tag, so the client wants none.
    let filter = json!({ "offset": 1, "tf": { "key": "kind", "cmp": "ex" } });
    reply.as_object_mut().unwrap().remove("recovered");
    assert_eq!(subscribed(&mut world, &filter), reply);
}

#[test]
fn after_the_latest_a_client_gets_everything_once() {
    let mut world = World::new();
    world.publish("state:a", 1);
    world.publish("state:a", 2);
    world.send(&[json!({ "subscribe": { "channel": "state:a", "recover": true } })]);
    world.publish("state:a", 3);
    world.answer();
    assert_eq!(world.heard(), ["2 ok", "pub 3"]);
    world.publish("state:a", 4);
    assert_eq!(world.heard(), ["pub 4"]);
}

#[test]
fn what_a_client_of_the_server_api_missed_follows_the_notice_and_comes_before_what_is_new() {
    let mut world = World::new();
    (1..=3).for_each(|number| world.publish("kept:a", number));
    let channel = Channel::parse("kept:a").unwrap();
    let options = SubscribeOptions {
        recover: Some(Position { offset: 1, epoch: Arc::default() }),
        data: Bytes::from_static(b"[7]"),
        ..SubscribeOptions::default()
    };
    world.session.signal(now(), Signal::Subscribe(channel, Some(Arc::new(options))));
    world.publish("kept:a", 4);
    world.answer();
    let frames = world.frames();
    assert_eq!(frames[0]["push"]["subscribe"]["offset"], 1, "{frames:?}");
    assert_eq!(frames[0]["push"]["subscribe"]["data"], json!([7]), "{frames:?}");
    let pushed: Vec<_> = frames[1..].iter().map(|frame| &frame["push"]["pub"]["data"]).collect();
    assert_eq!(pushed, [2, 3, 4]);
}
