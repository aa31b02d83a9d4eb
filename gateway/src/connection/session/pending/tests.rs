//! Tests a session with a backplane that responds when the test lets it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::oneshot;

mod backend;
mod recovering;

use super::*;
use crate::backplane::inbox::{Delivery, Inbox};
use crate::backplane::input::InputOutcome;
use crate::backplane::memory::Memory;
use crate::backplane::{
    Backplane, Count, Health, HistoryRequest, Most, NewPublication, Page, Published, RecoverRequest,
    Retention,
};
use crate::config::Config;
use crate::connection::event::Ending;
use crate::connection::worker_state::WorkerState;
use crate::connection_id::ConnectionIds;
use crate::hub::Hub;
use crate::hub::connection_handle::ConnectionHandle;
use crate::plugin::event::Client;
use crate::protocol::code::Close;
use crate::protocol::codec::Inbound;
use crate::protocol::command::HistoryQuery;
use crate::protocol::emulation::EmulationRequest;
use crate::protocol::push::Member;
use crate::protocol::{Encoding, Framing};
use crate::revocation::{Revocations, TOKEN_ID};
use crate::telemetry::metrics::Metrics;
use crate::{backplane::Order, hub::signal::Signal};

const NUMBER: u64 = 1;

/// The memory backplane, with responses that wait until the test fetches them.
struct Slow {
    memory: Memory,
    answers: Mutex<VecDeque<(u32, Response)>>,
}

impl Slow {
    fn later<T>(
        &self,
        reply_to: &ReplyTo,
        asked: Outcome<T>,
        answer: fn(Result<T, ReplyError>) -> Response,
    ) -> Outcome<T> {
        let Outcome::Ready(result) = asked else { panic!("memory answers at once") };
        match reply_to {
            ReplyTo::Connection(number, request_id) => {
                assert_eq!(*number, NUMBER);
                self.answers.lock().unwrap().push_back((*request_id, answer(result)));
                Outcome::Pending
            }
            ReplyTo::Task(_) | ReplyTo::Nobody | ReplyTo::After(_) => Outcome::Ready(result),
        }
    }
}

impl Backplane for Slow {
    fn input(&self, request: EmulationRequest) -> Option<oneshot::Receiver<InputOutcome>> {
        self.memory.input(request)
    }

    fn answers_later(&self) -> bool {
        true
    }

    fn add_interest(&self, worker: usize, channel: &Channel, reply_to: ReplyTo) -> Outcome<()> {
        let asked = self.memory.add_interest(worker, channel, ReplyTo::Nobody);
        self.later(&reply_to, asked, Response::Announced)
    }

    fn remove_interest(&self, worker: usize, channel: &Channel) {
        self.memory.remove_interest(worker, channel);
    }

    fn publish(&self, new: NewPublication<'_>, reply_to: ReplyTo, at: Duration) -> Outcome<Published> {
        let asked = self.memory.publish(new, ReplyTo::Nobody, at);
        self.later(&reply_to, asked, Response::Published)
    }

    fn history(&self, request: HistoryRequest<'_>, reply_to: ReplyTo, at: Duration) -> Outcome<Page> {
        let asked = self.memory.history(request, ReplyTo::Nobody, at);
        self.later(&reply_to, asked, Response::History)
    }

    fn remove_history(&self, channel: &Channel, reply_to: ReplyTo, at: Duration) -> Outcome<()> {
        let asked = self.memory.remove_history(channel, ReplyTo::Nobody, at);
        self.later(&reply_to, asked, Response::HistoryRemoved)
    }

    fn recover(&self, request: RecoverRequest<'_>, reply_to: ReplyTo, at: Duration) -> Outcome<Recovery> {
        let asked = self.memory.recover(request, ReplyTo::Nobody, at);
        self.later(&reply_to, asked, Response::Recovered)
    }

    fn top(&self, channel: &Channel) -> Option<Position> {
        self.memory.top(channel)
    }

    fn presence_add(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool) {
        self.memory.presence_add(channel, member, keep, announce);
    }

    fn presence_remove(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool) {
        self.memory.presence_remove(channel, member, keep, announce);
    }

    fn presence(&self, channel: &Channel, bytes_max: usize, reply_to: ReplyTo) -> Outcome<Vec<Arc<Member>>> {
        let asked = self.memory.presence(channel, bytes_max, ReplyTo::Nobody);
        self.later(&reply_to, asked, Response::Present)
    }

    fn count(&self, channel: &Channel, reply_to: ReplyTo) -> Outcome<Count> {
        let asked = self.memory.count(channel, ReplyTo::Nobody);
        self.later(&reply_to, asked, Response::Counted)
    }

    fn order(&self, address: &Channel, except: Option<u64>, order: &Order) -> Result<(), ReplyError> {
        self.memory.order(address, except, order)
    }

    fn sweep(&self, at: Duration) {
        self.memory.sweep(at);
    }

    fn channels(&self) -> usize {
        self.memory.channels()
    }

    fn health(&self) -> Health {
        Ok(())
    }
}

struct World {
    worker: Rc<WorkerState>,
    slow: Arc<Slow>,
    inbox: Arc<Inbox>,
    session: Session,
    id: u32,
}

impl World {
    /// A connected client.
    fn new() -> Self {
        Self::with("")
    }

    /// The same, with more settings.
    fn with(more: &str) -> Self {
        let text = "
            client.anonymous = true
            [namespaces.kept]
            history_size = 10000
            recovery = true
            allow_subscribe = 'anyone'
            allow_publish = 'subscribers'
            allow_history = 'anyone'
            [namespaces.state]
            history_size = 10000
            recovery = true
            recovery_mode = 'cache'
            tag_filter = true
            allow_subscribe = 'anyone'
            [namespaces.live]
            allow_subscribe = 'anyone'
            allow_publish = 'anyone'
        ";
        let config = Arc::new(Config::parse(&format!("{text}{more}"), "test").unwrap());
        let ids = ConnectionIds::new(7);
        let inbox = Arc::new(Inbox::new(100_000));
        let memory = Memory::new([inbox.clone()].into(), ids, &config.memory, 7);
        let slow = Arc::new(Slow { memory, answers: Mutex::default() });
        let worker = WorkerState::new(0, config, Hub::new(ids), slow.clone(), Metrics::new(1));
        let mut worker = worker.with_revocations(Arc::new(Revocations::new(10, false)));
        worker.recorded = Some(Default::default());
        let worker = Rc::new(worker);
        let id = ids.id(NUMBER, 1);
        let encoding = Encoding::Json;
        let handle = Rc::new(ConnectionHandle::new(
            NUMBER,
            id.clone(),
            encoding.over(Framing::WebSocket),
            1 << 20,
            &worker.unflushed,
        ));
        let client = Client {
            number: NUMBER,
            id,
            user: Arc::default(),
            protocol: encoding.protocol_name(),
            address: Ipv4Addr::LOCALHOST.into(),
            headers: Arc::new([]),
            attributes: BTreeMap::new(),
        };
        worker.metrics().opened("test", client.address);
        let session = Session::new(worker.clone(), handle, client, now(), 0);
        let mut world = Self { worker, slow, inbox, session, id: 0 };
        world.send(&[json!({ "connect": {} })]);
        if more.is_empty() {
            assert_eq!(world.frames().len(), 1);
        }
        world
    }

    /// Sends commands in one message.
    fn send(&mut self, commands: &[Value]) {
        let mut text = Vec::new();
        for command in commands {
            self.id += 1;
            let mut command = command.clone();
            command["id"] = json!(self.id);
            text.push(command.to_string());
        }
        let inbound = Inbound { data: Bytes::from(text.join("\n")), binary: false };
        self.session.message(&mut turn(), inbound);
    }

    /// Publishes for another client.
    fn publish(&self, channel: &str, data: u64) {
        let channel = &Channel::parse(channel).unwrap();
        let size = if channel.namespace() == Some("live") { 0 } else { 10_000 };
        let retention = Retention { size, ttl: Duration::from_secs(60), replicas: 0 };
        let data = Bytes::from(data.to_string());
        let new = NewPublication {
            channel,
            data,
            json: true,
            info: None,
            tags: None,
            retention,
            patterns: false,
            skip_history: false,
            conditions: None,
            charge: None,
        };
        self.slow.memory.publish(new, ReplyTo::Nobody, Duration::ZERO);
        let mut batch = Vec::new();
        self.inbox.take(&mut batch);
        for delivery in batch {
            self.worker.handle(now(), delivery);
        }
    }

    /// Passes the next response of the backplane to the session.
    fn answer(&mut self) {
        let (request_id, answer) = self.slow.answers.lock().unwrap().pop_front().expect("a question");
        self.worker.handle(now(), Delivery::Answer { connection: NUMBER, request_id, answer });
        let handle = self.session.handle().clone();
        while let Some((request_id, answer)) = handle.take_answer() {
            self.session.backplane_answered(&mut turn(), request_id, answer);
        }
        while let Some(signal) = handle.take_signal() {
            self.session.signal(now(), signal);
        }
    }

    fn answers_due(&self) -> usize {
        self.slow.answers.lock().unwrap().len()
    }

    /// The frames that the client got, as JSON.
    fn frames(&mut self) -> Vec<Value> {
        let bytes = self.session.handle().outbound.take();
        let mut rest = &bytes[..];
        let mut frames = Vec::new();
        while let [_, length, after @ ..] = rest {
            let (length, after) = match length {
                126 => (usize::from(u16::from_be_bytes([after[0], after[1]])), &after[2..]),
                short => (usize::from(*short), after),
            };
            let (frame, others) = after.split_at(length);
            for line in frame.split(|byte| *byte == b'\n') {
                frames.push(serde_json::from_slice(line).unwrap());
            }
            rest = others;
        }
        frames
    }

    /// A summary of what the client got: ids of replies, codes of errors, publications.
    fn heard(&mut self) -> Vec<String> {
        let short = |frame: Value| {
            if frame["error"].is_object() {
                format!("{} error {}", frame["id"], frame["error"]["code"])
            } else if frame["id"].is_u64() {
                format!("{} ok", frame["id"])
            } else if frame["push"]["pub"].is_object() {
                format!("pub {}", frame["push"]["pub"]["data"])
            } else {
                format!("unsubscribe {}", frame["push"]["unsubscribe"]["code"])
            }
        };
        self.frames().into_iter().map(short).collect()
    }

    fn subscriptions(&self) -> usize {
        self.worker.hub.borrow().subscriptions()
    }
}

fn now() -> Now {
    Now { at: Duration::ZERO, unix: 1_700_000_000_000 }
}

/// A turn with room for everything.
fn turn() -> Turn {
    Turn::at(now(), u32::MAX)
}

fn subscribe(channel: &str) -> Value {
    json!({ "subscribe": { "channel": channel } })
}

fn publish(channel: &str, data: u64) -> Value {
    json!({ "publish": { "channel": channel, "data": data } })
}

#[test]
fn nothing_of_a_channel_comes_before_the_reply_and_everything_after_it_once() {
    for (channel, after) in [("kept:a", vec!["2 ok", "pub 3"]), ("live:a", vec!["2 ok", "pub 2", "pub 3"])] {
        let mut world = World::new();
        world.publish(channel, 1);
        if channel == "kept:a" {
            // The backplane makes its response after this publication, and so includes it.
            world.publish(channel, 2);
            world.send(&[subscribe(channel)]);
        } else {
            world.send(&[subscribe(channel)]);
            world.publish(channel, 2);
        }
        world.publish(channel, 3);
        assert_eq!(world.heard(), [""; 0], "{channel}");
        world.answer();
        assert_eq!(world.heard(), after, "{channel}");
        world.publish(channel, 4);
        assert_eq!(world.heard(), ["pub 4"], "{channel}");
    }
}

#[test]
fn what_the_answer_has_and_the_inbox_brings_as_well_comes_once() {
    let mut world = World::new();
    world.publish("kept:a", 1);
    let epoch = world.slow.memory.top(&Channel::parse("kept:a").unwrap()).unwrap().epoch;
    // A client of this worker is subscribed already: the second publication is in the inbox when the request
    // is sent.
    let channel = Channel::parse("kept:a").unwrap();
    world.slow.memory.add_interest(0, &channel, ReplyTo::Nobody);
    let retention = Retention { size: 10, ttl: Duration::from_secs(60), replicas: 0 };
    let data = "2".into();
    let new = NewPublication {
        channel: &channel,
        data,
        json: true,
        info: None,
        tags: None,
        retention,
        patterns: false,
        skip_history: false,
        conditions: None,
        charge: None,
    };
    world.slow.memory.publish(new, ReplyTo::Nobody, Duration::ZERO);
    let since = json!({ "channel": "kept:a", "recover": true, "offset": 1, "epoch": &*epoch });
    world.send(&[json!({ "subscribe": since })]);
    world.publish("kept:a", 3);
    world.answer();
    let frames = world.frames();
    assert_eq!(frames[0]["subscribe"]["publications"][0]["data"], 2);
    assert_eq!(frames[1]["push"]["pub"]["data"], 3);
    assert_eq!(frames.len(), 2);
}

#[test]
fn commands_for_a_channel_wait_for_its_subscription_and_others_do_not() {
    let mut world = World::new();
    world.send(&[
        subscribe("kept:a"),
        publish("kept:a", 1),
        json!({ "history": { "channel": "kept:a", "limit": 0 } }),
        subscribe("live:b"),
        json!({ "unsubscribe": { "channel": "kept:a" } }),
    ]);
    assert_eq!(world.answers_due(), 2, "both subscriptions, and nothing else");
    world.answer();
    assert_eq!(world.heard(), ["2 ok", "6 ok"], "the subscription, and the unsubscribe that needs no answer");
    world.answer();
    world.answer();
    world.answer();
    assert_eq!(world.heard(), ["5 ok", "3 ok", "4 ok"], "the publication was permitted to a subscriber");
    assert_eq!(world.answers_due(), 0);
}

#[test]
fn a_subscription_that_is_taken_away_while_it_is_made_is_refused() {
    let mut world = World::new();
    world.send(&[subscribe("kept:a")]);
    let channel = Channel::parse("kept:a").unwrap();
    world.session.signal(now(), Signal::Unsubscribe(channel));
    assert_eq!(world.heard(), [""; 0]);
    world.answer();
    assert_eq!(world.heard(), ["2 error 103"]);
    assert_eq!(world.subscriptions(), 0);
    assert_eq!(world.worker.metrics.subscriptions(), 0);
    world.send(&[subscribe("kept:a")]);
    world.answer();
    assert_eq!(world.heard(), ["3 ok"]);
}

#[test]
fn a_client_that_goes_leaves_nothing_behind_and_its_answers_go_nowhere() {
    let mut world = World::new();
    world.send(&[subscribe("kept:a"), subscribe("live:a"), publish("live:a", 1)]);
    world.session.event(now(), Event::TransportEnded { close: Close::NORMAL, ending: Ending::Transport });
    assert_eq!((world.subscriptions(), world.worker.metrics.subscriptions()), (0, 0));
    while world.answers_due() > 0 {
        world.answer();
    }
    assert_eq!((world.subscriptions(), world.worker.metrics.subscriptions()), (0, 0));
    world.slow.memory.sweep(Duration::from_secs(9999));
    assert_eq!(world.slow.channels(), 0);
}

#[test]
fn whoever_has_more_held_than_fits_is_told_to_recover() {
    let mut world = World::new();
    world.send(&[subscribe("kept:a")]);
    for number in 0..2000 {
        world.publish("kept:a", number);
    }
    world.answer();
    let heard = world.heard();
    assert_eq!((heard.first().unwrap().as_str(), heard.len()), ("2 ok", 1 + 1024 + 1));
    assert_eq!(heard.last().unwrap(), "unsubscribe 2500");
}

#[test]
fn a_client_with_many_open_questions_is_not_read_until_some_are_answered() {
    let mut world = World::new();
    let commands: Vec<_> = (0..PENDING_MANY as u64).map(|number| publish("live:a", number)).collect();
    world.send(&commands);
    assert!(world.session.is_suspended());
    world.answer();
    assert!(!world.session.is_suspended());
}

/// A turn for this many commands.
fn turn_of(commands: u32) -> Turn {
    Turn::at(now(), commands)
}

impl World {
    fn message(&mut self, turn: &mut Turn, commands: &[Value]) {
        let lines: Vec<_> = (self.id + 1..)
            .zip(commands)
            .map(|(id, command)| {
                let mut command = command.clone();
                command["id"] = json!(id);
                command.to_string()
            })
            .collect();
        self.id += commands.len() as u32;
        self.session.message(turn, Inbound { data: Bytes::from(lines.join("\n")), binary: false });
    }
}

#[test]
fn a_message_goes_on_in_the_next_turn_in_order_and_once() {
    let mut world = World::new();
    let rpcs: Vec<_> = (0..10).map(|_| json!({ "rpc": {} })).collect();
    let mut turn = turn_of(4);
    world.message(&mut turn, &rpcs);
    assert!(turn.is_over() && world.session.has_rest() && world.session.has_more());
    assert_eq!(world.heard().len(), 4);
    world.session.go_on(&mut turn);
    assert_eq!(world.heard(), [""; 0], "the turn is over");
    world.session.go_on(&mut turn_of(4));
    assert_eq!(world.heard(), ["6 error 108", "7 error 108", "8 error 108", "9 error 108"]);
    let mut turn = turn_of(4);
    world.session.go_on(&mut turn);
    assert_eq!(world.heard(), ["10 error 108", "11 error 108"]);
    assert!(!turn.is_over() && !world.session.has_rest() && !world.session.has_more());
}

#[test]
fn a_message_stops_while_its_answers_are_not_read_and_nothing_is_lost() {
    let mut world = World::new();
    world.send(&[subscribe("kept:a")]);
    world.answer();
    let bound = world.worker.config.limits.outbound_bytes_max / 2;
    let filler = Bytes::from(vec![b' '; bound + 1]);
    assert_eq!(world.session.handle().outbound.reply(&filler), crate::outbound::Pushed::Sent);
    world.message(&mut turn(), &[json!({ "rpc": {} }), publish("kept:a", 1), json!({ "rpc": {} })]);
    assert!(world.session.has_rest() && !world.session.has_more(), "it waits for its reader");
    assert_eq!(world.answers_due(), 0);
    world.session.handle().outbound.take();
    assert!(world.session.has_more());
    world.session.go_on(&mut turn());
    assert_eq!(world.heard(), ["3 error 108", "5 error 108"]);
    world.answer();
    assert_eq!(world.heard(), ["4 ok"]);
}

#[test]
fn held_commands_and_the_rest_of_a_message_keep_their_order_over_turns() {
    let mut world = World::new();
    let mut turn = turn_of(3);
    world.message(
        &mut turn,
        &[
            subscribe("kept:a"),
            publish("kept:a", 1),
            publish("kept:a", 2),
            publish("kept:a", 3),
            json!({ "rpc": {} }),
        ],
    );
    assert_eq!(world.answers_due(), 1, "two publications are held");
    assert!(world.session.has_rest());
    // The subscription is made. One held command continues, because this turn has room for one.
    let (request_id, answer) = world.slow.answers.lock().unwrap().pop_front().unwrap();
    world.session.backplane_answered(&mut turn_of(2), request_id, answer);
    assert_eq!((world.heard(), world.answers_due()), (vec!["2 ok".to_owned()], 1));
    for _ in 0..3 {
        assert!(world.session.has_more());
        world.session.go_on(&mut turn_of(1));
    }
    assert_eq!(world.answers_due(), 3);
    assert_eq!(world.heard(), ["6 error 108"]);
    (0..3).for_each(|_| world.answer());
    assert_eq!(world.heard(), ["3 ok", "4 ok", "5 ok"]);
    let channel = Channel::parse("kept:a").unwrap();
    let retention = Retention { size: 10, ttl: Duration::from_secs(60), replicas: 0 };
    let query = HistoryQuery { limit: -1, ..HistoryQuery::default() };
    let most = Most { publications: 10, bytes: 1 << 20 };
    let request = HistoryRequest { channel: &channel, query: &query, most, retention };
    let Outcome::Ready(Ok(page)) = world.slow.memory.history(request, ReplyTo::Nobody, Duration::ZERO) else {
        panic!()
    };
    let data: Vec<_> = page.publications.iter().map(|publication| publication.data.clone()).collect();
    assert_eq!(data, ["1", "2", "3"]);
}

#[test]
fn no_more_is_held_than_what_suspends_the_client_however_long_its_message() {
    let mut world = World::new();
    let mut commands = vec![subscribe("kept:a")];
    commands.extend((0..1000).map(|number| publish("kept:a", number)));
    world.message(&mut turn(), &commands);
    let pending = world.session.pending.as_ref().unwrap();
    assert_eq!(pending.open.len() + pending.held.len(), PENDING_MANY);
    assert!(world.session.has_rest() && world.session.is_suspended());
    while world.answers_due() > 0 {
        world.answer();
    }
    assert!(!world.session.has_rest());
    assert_eq!(world.heard().len(), 1001, "every command is answered");
}

#[test]
fn the_rest_of_a_message_is_not_carried_out_after_the_expiry() {
    let mut world = World::new();
    world.message(&mut turn_of(1), &[json!({ "rpc": {} }), json!({ "rpc": {} })]);
    world.session.signal(now(), Signal::Refresh(Some(now().unix / 1000 + 1)));
    world.frames();
    let grace = world.worker.config.client.expiry_grace;
    let late = Now { at: Duration::from_secs(1) + grace, ..now() };
    world.session.go_on(&mut Turn::at(late, u32::MAX));
    assert!(world.session.is_closed() && !world.session.has_rest());
}
