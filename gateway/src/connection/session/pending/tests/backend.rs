//! A session with an upstream that answers when the test lets it.

use super::*;
use crate::plugin::event::ConnectEvent;
use crate::plugin::verdict::Admission;
use crate::revocation::Subject;
use crate::upstream::AskError;

const ASKS: &str = "
    [upstreams.back]
    url = 'http://back.example/'
    [ask]
    rpc = 'back'
    send = 'back'
    [namespaces.asked]
    ask_subscribe = 'back'
    ask_publish = 'back'
    presence = true
";

/// A connected client whose calls are put to an upstream.
fn world() -> World {
    let mut world = World::with(ASKS);
    assert_eq!(world.frames().len(), 1);
    world
}

impl World {
    /// The path and the body of the requests that wait for an answer, the oldest first.
    fn asked(&self) -> Vec<(String, Value)> {
        let recorded = self.worker.recorded.as_ref().unwrap().borrow();
        let short = |(_, request, _): &crate::connection::worker_state::Recorded| {
            (request.path.to_string(), serde_json::from_slice(&request.body).unwrap())
        };
        recorded.iter().map(short).collect()
    }

    /// Answers the oldest request.
    fn upstream_answers(&mut self, answer: Result<&Value, AskError>) {
        let (request_id, _, done) = self.worker.recorded.as_ref().unwrap().borrow_mut().remove(0);
        let answer = done(answer.map(|answer| answer.to_string().into()));
        self.worker.handle(now(), Delivery::Answer { connection: NUMBER, request_id, answer });
        let handle = self.session.handle().clone();
        while let Some((request_id, answer)) = handle.take_answer() {
            self.session.backplane_answered(&mut turn(), request_id, answer);
        }
    }
}

fn rpc(data: u64) -> Value {
    json!({ "rpc": { "method": "double", "data": data } })
}

fn result(data: u64) -> Value {
    json!({ "result": { "data": data } })
}

#[test]
fn calls_are_asked_one_after_the_other_and_what_comes_behind_them_waits() {
    let mut world = world();
    world.send(&[rpc(1), subscribe("live:a"), rpc(2)]);
    world.send(&[publish("live:a", 7), rpc(3)]);
    let asked = world.asked();
    assert_eq!(asked.len(), 1);
    let (path, body) = &asked[0];
    assert_eq!((path.as_str(), &body["method"], &body["data"]), ("/rpc", &json!("double"), &json!(1)));
    assert_eq!(
        (&body["transport"], &body["protocol"], &body["encoding"]),
        (&json!("websocket"), &json!("json"), &json!("json"))
    );
    assert_eq!(world.heard(), [""; 0]);
    world.upstream_answers(Ok(&result(2)));
    assert_eq!(world.heard(), ["2 ok"]);
    assert_eq!(world.asked().len(), 1, "the next call does not wait for the subscription before it");
    world.answer();
    assert_eq!(world.heard(), ["3 ok"]);
    world.upstream_answers(Ok(&result(4)));
    assert_eq!(world.heard(), ["4 ok"]);
    world.answer();
    world.upstream_answers(Ok(&result(6)));
    assert_eq!(world.heard(), ["5 ok", "6 ok"]);
    assert!(!world.session.is_suspended() && !world.session.has_more());
}

#[test]
fn two_hundred_calls_keep_their_order_and_hold_back_their_client() {
    let mut world = world();
    let calls: Vec<_> = (0..200).map(rpc).collect();
    world.send(&calls);
    assert!(world.session.is_suspended() && world.session.has_rest());
    for number in 0..200 {
        let asked = world.asked();
        assert_eq!((asked.len(), &asked[0].1["data"]), (1, &json!(number)));
        world.upstream_answers(Ok(&result(number)));
        assert_eq!(world.heard(), [format!("{} ok", number + 2)]);
    }
    assert!(!world.session.is_suspended() && !world.session.has_rest());
    assert_eq!(world.asked().len(), 0);
}

#[test]
fn a_client_is_not_read_while_it_has_many_bytes_that_wait() {
    let mut world = world();
    let large = json!({ "rpc": { "method": "x", "data": "x".repeat(60_000) } });
    for count in 0..8 {
        assert!(!world.session.is_suspended() || count > 4, "{count}");
        world.send(std::slice::from_ref(&large));
        if world.session.is_suspended() {
            break;
        }
    }
    assert!(world.session.is_suspended());
    world.upstream_answers(Ok(&result(1)));
    assert!(!world.session.is_suspended());
}

impl World {
    fn tick(&mut self, seconds: f64) {
        let at = Duration::from_secs_f64(seconds);
        self.session.event(Now { at, ..now() }, Event::Tick);
    }
}

#[test]
fn a_pong_does_not_wait_and_whoever_is_not_read_need_not_send_one() {
    // A ping at 30 s, and 8 s for the pong.
    let pong = || Inbound { data: Bytes::from_static(b"{}"), binary: false };
    type Make = fn(u64) -> Value;
    let subscribes = |number: u64| subscribe(&format!("asked:{number}"));
    for (command, calls, pongs, closed) in [
        (rpc as Make, 1, false, true),
        (rpc, 1, true, false),
        (rpc, 200, false, false),
        (subscribes, 200, false, false),
    ] {
        let mut world = world();
        world.send(&(0..calls).map(command).collect::<Vec<_>>());
        world.tick(30.0);
        if pongs {
            world.session.message(&mut turn(), pong());
        }
        world.tick(38.5);
        assert_eq!(world.session.is_closed(), closed, "{calls} calls, pong: {pongs}");
    }
}

#[test]
fn a_subscription_at_an_upstream_holds_only_its_channel() {
    let mut world = world();
    world.send(&[subscribe("asked:a"), publish("asked:a", 1), publish("live:b", 2), subscribe("asked:c")]);
    let paths: Vec<_> =
        world.asked().into_iter().map(|(path, body)| (path, body["channel"].clone())).collect();
    assert_eq!(
        paths,
        [("/subscribe".to_owned(), json!("asked:a")), ("/subscribe".to_owned(), json!("asked:c"))]
    );
    world.answer();
    assert_eq!(world.heard(), ["4 ok"]);
    world.upstream_answers(Ok(&json!({ "result": { "data": { "hi": 1 } } })));
    world.answer();
    let frames = world.frames();
    assert_eq!((&frames[0]["id"], &frames[0]["subscribe"]["data"]["hi"]), (&json!(2), &json!(1)));
    assert_eq!(world.asked()[1].0, "/publish", "the publication was held");
    world.upstream_answers(Ok(&json!({ "error": { "code": 1000, "message": "no" } })));
    assert_eq!(world.heard(), ["5 error 1000"]);
    world.upstream_answers(Ok(&json!({ "result": {} })));
    world.answer();
    assert_eq!(world.heard(), ["3 ok"]);
}

#[test]
fn a_client_has_few_subscriptions_at_an_upstream_at_the_same_time() {
    let mut world = world();
    let subscribes: Vec<_> = (0..40).map(|number| subscribe(&format!("asked:{number}"))).collect();
    world.send(&subscribes);
    assert_eq!((world.asked().len(), world.session.is_suspended()), (16, true));
    for left in (0..40).rev() {
        assert!(world.asked().len() <= 16);
        world.upstream_answers(Ok(&json!({ "error": { "code": 1000, "message": "no" } })));
        assert_eq!(world.asked().len(), left.min(16), "the next one has its turn");
    }
    assert_eq!(world.heard().len(), 40);
}

#[test]
fn a_decision_is_for_a_client_that_is_there_and_what_it_has_sent_counts_without_it() {
    let mut world = world();
    world.send(&[subscribe("asked:a"), rpc(1)]);
    let clients = || {
        let recorded = world.worker.recorded.as_ref().unwrap().borrow();
        let is_there = |client: &std::sync::Weak<()>| client.strong_count() > 0;
        recorded.iter().map(|(_, request, _)| request.client.as_ref().map(is_there)).collect::<Vec<_>>()
    };
    assert_eq!(clients(), [Some(true), None]);
    world.session.event(now(), Event::TransportEnded { close: Close::NORMAL, ending: Ending::Transport });
    assert_eq!(clients(), [Some(false), None]);
}

#[test]
fn the_credential_of_a_refresh_goes_with_no_other_question() {
    let mut world = World::with(&ASKS.replace("[ask]", "[ask]\nrefresh = 'back'"));
    let client = world.session.client.borrow().clone();
    let event = ConnectEvent { client, token: "secret".into(), data: Bytes::new(), now: 0, at: 0 };
    let upstream = world.session.undecided(true, &Admission::Undecided, &Arc::new(event)).unwrap();
    let channel = Channel::parse("asked:a").unwrap();
    assert!(world.session.ask_upstream(&upstream, About::Subscription(channel)).is_none());
    let (id, credential, admission) = (2, true, Admission::Undecided);
    let refresh = About::Client { id, credential, admission, connecting: None };
    assert!(world.session.ask_upstream(&upstream, refresh).is_none());
    let tokens: Vec<_> =
        world.asked().into_iter().map(|(path, body)| (path, body["token"].clone())).collect();
    assert_eq!(tokens, [("/sub_refresh".to_owned(), Value::Null), ("/refresh".to_owned(), json!("secret"))]);
}

#[test]
fn whoever_takes_a_subscription_back_gets_no_late_one() {
    let mut world = world();
    world.send(&[subscribe("asked:a"), json!({ "unsubscribe": { "channel": "asked:a" } })]);
    assert_eq!(world.heard(), ["2 error 103", "3 ok"]);
    world.send(&[subscribe("asked:a")]);
    assert_eq!(world.asked().len(), 2);
    world.upstream_answers(Ok(&json!({ "result": { "data": 1 } })));
    assert_eq!(world.heard(), [""; 0], "that was the answer to the first");
    world.upstream_answers(Ok(&json!({ "result": { "data": 2 } })));
    world.answer();
    assert_eq!(world.frames()[0]["subscribe"]["data"], 2);
    assert_eq!((world.subscriptions(), world.worker.metrics.subscriptions()), (1, 1));
}

#[test]
fn a_late_answer_finds_nobody() {
    let mut world = world();
    world.send(&[subscribe("asked:a"), rpc(1)]);
    world.session.event(now(), Event::TransportEnded { close: Close::NORMAL, ending: Ending::Transport });
    world.frames();
    world.upstream_answers(Ok(&json!({ "result": {} })));
    world.upstream_answers(Ok(&result(1)));
    assert_eq!(world.heard(), [""; 0]);
    assert_eq!((world.subscriptions(), world.worker.metrics.subscriptions()), (0, 0));
}

#[test]
fn no_answer_and_a_wrong_one_are_a_temporary_error() {
    let mut world = world();
    for answer in
        [Err(AskError::Timeout), Err(AskError::Status(500)), Ok(&json!({ "data": 1 })), Ok(&json!(7))]
    {
        world.send(&[rpc(1)]);
        world.upstream_answers(answer);
        let frames = world.frames();
        let error = &frames[0]["error"];
        assert_eq!((&error["code"], &error["temporary"]), (&json!(100), &json!(true)));
    }
}

#[test]
fn a_client_is_admitted_by_an_upstream_and_what_it_attaches_goes_with_each_question() {
    let mut world = World::with(&ASKS.replace("[ask]", "[ask]\nconnect = 'back'"));
    assert_eq!(world.frames().len(), 0);
    assert!(world.session.is_suspended() && world.session.begins_to_ask() && !world.session.begins_to_ask());
    assert_eq!(world.asked()[0].0, "/connect");
    let subs = json!({ "live:x": { "info": { "a": 1 }, "data": 5 } });
    let result = json!({ "user": "42", "data": { "hello": 1 }, "meta": { "secret": 9 }, "subs": subs });
    world.upstream_answers(Ok(&json!({ "result": result })));
    world.answer();
    let frames = world.frames();
    assert_eq!(frames[0]["connect"]["data"]["hello"], 1);
    assert_eq!(frames[0]["connect"]["subs"]["live:x"]["data"], 5);
    assert!(!frames[0].to_string().contains("secret"), "{}", frames[0]);
    world.send(&[rpc(1)]);
    let (_, body) = &world.asked()[0];
    assert_eq!((&body["user"], &body["meta"]["secret"]), (&json!("42"), &json!(9)));
}

#[test]
fn what_a_blocked_user_has_asked_before_is_not_carried_out() {
    for held in [false, true] {
        let mut world = World::with(&ASKS.replace("[ask]", "[ask]\nconnect = 'back'"));
        world.upstream_answers(Ok(&json!({ "result": { "user": "42" } })));
        if held {
            world.send(&[rpc(1), publish("live:a", 7)]);
        } else {
            world.send(&[publish("asked:a", 7)]);
        }
        let blocked = world.worker.revocations.revoke(now().unix, Subject::User("42".into()), None, 0);
        assert!(blocked.is_ok() && !world.session.is_closed());
        world.upstream_answers(Ok(&json!({ "result": {} })));
        assert!(world.session.is_closed() && world.answers_due() == 0, "nothing is published");
    }
}

#[test]
fn a_client_that_goes_before_it_is_admitted_leaves_nothing() {
    let mut world = World::with(&ASKS.replace("[ask]", "[ask]\nconnect = 'back'"));
    world.session.event(now(), Event::TransportEnded { close: Close::NORMAL, ending: Ending::Transport });
    world.upstream_answers(Ok(&json!({ "result": { "user": "42" } })));
    assert!(!world.session.is_admitted());
    assert_eq!(world.heard(), [""; 0]);
}

#[test]
fn nothing_is_carried_out_for_a_client_whose_token_was_revoked_while_an_upstream_decided() {
    for waiting in [&[rpc(1), publish("live:a", 7)][..], &[publish("asked:a", 7)], &[subscribe("asked:a")]] {
        let mut world = world();
        let token = (TOKEN_ID.into(), "t1".into());
        Arc::make_mut(&mut world.session.client.borrow_mut()).attributes.extend([token]);
        world.send(waiting);
        assert_eq!(world.asked().len(), 1);
        let token = Subject::Token("t1".into());
        world.worker.revocations.revoke(now().unix, token, None, 0).unwrap();
        let allowed = if waiting.len() == 2 { result(2) } else { json!({ "result": {} }) };
        world.upstream_answers(Ok(&allowed));
        assert!(world.session.is_closed());
        assert_eq!((world.answers_due(), world.subscriptions()), (0, 0));
        assert_eq!(world.worker.metrics.subscriptions(), 0);
    }
}
