//! Tests clients that wait for a plugin on the asynchronous pool, with time and verdicts set by the test.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod personal;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::backplane::inbox::{Delivery, Inbox};
use crate::backplane::memory::Memory;
use crate::config::Config;
use crate::connection::event::Ending;
use crate::connection::worker_state::WorkerState;
use crate::connection_id::ConnectionIds;
use crate::hub::Hub;
use crate::hub::connection_handle::ConnectionHandle;
use crate::plugin::async_pool::AsyncInstances;
use crate::plugin::counters::PluginCounters;
use crate::plugin::event::{Client, DisconnectEvent, Message};
use crate::plugin::failure::{Cause, Failure, FailurePolicy};
use crate::plugin::grants::Grants;
use crate::plugin::interests::{Hooks, Interests};
use crate::plugin::load::{About, Factory, LoadError};
use crate::plugin::usage::Usage;
use crate::plugin::verdict::{ConnectVerdict, Effect as PluginEffect, Verdict};
use crate::plugin::{Chain, Link, Plugin};
use crate::protocol::code::Close;
use crate::protocol::codec::Inbound;
use crate::protocol::{Encoding, Framing, WireFormat};
use crate::revocation::{Revocations, Subject};
use crate::telemetry::metrics::Metrics;

/// A plugin on the asynchronous pool, and the users and tokens of its calls.
struct Waiting {
    tokens: Arc<Mutex<Vec<String>>>,
    about: About,
}

struct Idle(Interests);

impl Plugin for Idle {
    fn interests(&self) -> &Interests {
        &self.0
    }

    fn on_connect(&mut self, _: &ConnectEvent, _: &mut Vec<PluginEffect>) -> Result<ConnectVerdict, Failure> {
        panic!("it is asked elsewhere")
    }

    fn on_message(&mut self, _: &mut Message, _: &mut Vec<PluginEffect>) -> Result<Verdict, Failure> {
        Ok(Verdict::Next)
    }

    fn on_disconnect(&mut self, _: &DisconnectEvent, _: &mut Vec<PluginEffect>) -> Result<(), Failure> {
        Ok(())
    }
}

struct Elsewhen(Arc<Mutex<Vec<String>>>);

impl AsyncInstances for Elsewhen {
    fn on_connect(&self, event: Arc<ConnectEvent>, _: Duration) -> PendingVerdict {
        self.0.lock().unwrap().push(event.token.to_string());
        Box::pin(std::future::pending())
    }
}

impl Factory for Waiting {
    fn instantiate(&self, _: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError> {
        Ok(Box::new(Idle(Interests::everything(self.about.hooks))))
    }

    fn about(&self) -> &About {
        &self.about
    }

    fn async_instances(&self, _: &Arc<PluginCounters>) -> Option<Arc<dyn AsyncInstances>> {
        Some(Arc::new(Elsewhen(self.tokens.clone())))
    }
}

/// A worker with one client and a chain of two plugins on the asynchronous pool.
struct World {
    worker: Rc<WorkerState>,
    inbox: Arc<Inbox>,
    session: Session,
    tokens: Arc<Mutex<Vec<String>>>,
    at: Duration,
    generation: u64,
}

impl World {
    fn new() -> Self {
        let text = "handshake.deadline = '10s'\n[namespaces.chat]\nallow_subscribe = 'users'";
        let mut world = Self::with(text, Encoding::Json.over(Framing::WebSocket));
        world.swap();
        world
    }

    /// A client in this format, and no plugin yet.
    fn with(text: &str, format: WireFormat) -> Self {
        let config = Arc::new(Config::parse(text, "test").unwrap());
        let ids = ConnectionIds::new(7);
        let inbox = Arc::new(Inbox::new(1000));
        let backplane = Arc::new(Memory::new([inbox.clone()].into(), ids, &config.memory, 7));
        let worker = WorkerState::new(0, config, Hub::new(ids), backplane, Metrics::new(1));
        let worker = Rc::new(worker.with_revocations(Arc::new(Revocations::new(10, false))));
        let session = Self::session(&worker, 1, format);
        Self { worker, inbox, session, tokens: Arc::default(), at: Duration::ZERO, generation: 0 }
    }

    /// A connection with this number.
    fn session(worker: &Rc<WorkerState>, number: u64, format: WireFormat) -> Session {
        let id = ConnectionIds::new(7).id(number, 1);
        let handle = Rc::new(ConnectionHandle::new(number, id.clone(), format, 1 << 20, &worker.unflushed));
        let client = Client {
            number,
            id,
            user: Arc::default(),
            protocol: format.encoding.protocol_name(),
            address: Ipv4Addr::LOCALHOST.into(),
            headers: Arc::new([]),
            attributes: BTreeMap::new(),
        };
        worker.metrics().opened("test", client.address);
        let now = Now { at: Duration::ZERO, unix: 1_700_000_000_000 };
        Session::new(worker.clone(), handle, client, now, 0)
    }

    /// Replaces the chain by one of the same plugins.
    fn swap(&mut self) {
        self.swap_to(&["a", "b"]);
    }

    /// Replaces the chain by one of these plugins.
    fn swap_to(&mut self, names: &[&str]) {
        self.generation += 1;
        let about = About {
            name: None,
            version: None,
            sdk: None,
            interface: "0.1".into(),
            hooks: Hooks { on_connect: true, ..Hooks::default() },
            requested: Grants::default(),
            self_test: None,
        };
        let link = |name: &str| {
            let factory = Arc::new(Waiting { tokens: self.tokens.clone(), about: about.clone() });
            Link::new(name.into(), 0, FailurePolicy::Closed, factory, Arc::new(PluginCounters::new(1)))
                .unwrap()
        };
        let chain = Chain::new(self.generation, names.iter().map(|name| link(name)).collect());
        let (taken, _) = tokio::sync::oneshot::channel();
        self.worker.handle(self.now(), Delivery::Chain(Box::new(chain), taken));
    }

    fn now(&self) -> Now {
        Now { at: self.at, unix: 1_700_000_000_000 + self.at.as_millis() as u64 }
    }

    fn receive(&mut self, text: &str) {
        let data = Bytes::copy_from_slice(text.as_bytes());
        self.session.message(&mut Turn::at(self.now(), u32::MAX), Inbound { data, binary: false });
    }

    /// Number of calls so far, after taking the pending verdict, if there is one.
    fn asked(&mut self) -> (usize, bool) {
        let open = self.session.take_question().is_some();
        (self.tokens.lock().unwrap().len(), open)
    }

    fn answer(&mut self, verdict: Result<ConnectVerdict, Failure>) {
        let answered = AsyncVerdict { verdict, effects: Vec::new(), usage: Usage::default(), took: None };
        self.session.answered(&mut Turn::at(self.now(), u32::MAX), answered);
    }

    fn accept(&mut self, user: &str) {
        let identity = Identity { user: user.into(), ..Identity::default() };
        self.answer(Ok(ConnectVerdict::Accept(Box::new(identity))));
    }
}

const CONNECT: &str = r#"{"id":1,"connect":{"token":"t"}}"#;

#[test]
fn the_way_through_the_chain_stops_at_each_plugin_that_waits() {
    let mut world = World::new();
    world.receive(CONNECT);
    assert_eq!(world.asked(), (1, true));
    assert!(world.session.is_suspended() && !world.session.is_admitted());
    world.accept("41");
    assert_eq!(world.asked(), (2, true), "the second plugin");
    world.accept("42");
    assert!(!world.session.is_suspended() && world.session.is_admitted());
    assert_eq!(&*world.session.client.borrow().user, "42", "the last accept wins");
}

#[test]
fn a_failure_elsewhere_meets_the_policy() {
    let mut world = World::new();
    world.receive(CONNECT);
    world.answer(Err(Failure::new(Cause::Deadline, "no answer")));
    assert!(!world.session.is_suspended() && !world.session.is_admitted());
    assert_eq!(world.asked(), (1, false), "the chain has ended");
}

#[test]
fn commands_that_came_along_run_when_the_client_is_admitted() {
    let mut world = World::new();
    let subscribe = r#"{"id":2,"subscribe":{"channel":"chat:1"}}"#;
    world.receive(&format!("{CONNECT}\n{subscribe}"));
    assert_eq!(world.worker.metrics.subscriptions(), 0);
    world.accept("42");
    assert_eq!(world.worker.metrics.subscriptions(), 0, "the second plugin has not answered");
    world.answer(Ok(ConnectVerdict::Pass));
    assert_eq!(world.worker.metrics.subscriptions(), 1);
    assert!(!world.session.is_closed());
}

#[test]
fn an_answer_after_the_deadline_or_the_end_is_too_late() {
    let mut world = World::new();
    world.receive(CONNECT);
    world.at = Duration::from_secs(10);
    assert_eq!(world.session.deadline(), Some(world.at), "the deadline of the handshake still runs");
    world.session.event(world.now(), Event::Tick);
    assert!(world.session.is_closed());
    world.accept("42");
    assert!(!world.session.is_admitted());

    let mut world = World::new();
    world.receive(CONNECT);
    let close = Close::custom(1006, "gone");
    world.session.event(world.now(), Event::TransportEnded { close, ending: Ending::Client });
    world.accept("42");
    assert!(world.session.is_closed() && !world.session.is_admitted());
    assert_eq!(world.asked(), (1, false));
}

#[test]
fn the_version_that_was_asked_answers_however_often_the_chain_is_exchanged() {
    let mut world = World::new();
    world.receive(CONNECT);
    for _ in 0..200 {
        world.swap();
    }
    world.accept("41");
    assert_eq!(world.asked(), (2, true), "nobody is asked twice: the second plugin of the new chain");
    for _ in 0..200 {
        world.swap();
    }
    world.accept("42");
    assert!(world.session.is_admitted());
    assert_eq!(&*world.session.client.borrow().user, "42");
}

#[test]
fn a_plugin_that_was_taken_out_is_not_waited_for() {
    let mut world = World::new();
    world.receive(CONNECT);
    world.accept("41");
    for names in [["c", "d"], ["a", "b"], ["c", "d"]] {
        world.swap_to(&names);
        world.accept("42");
        assert!(world.session.is_suspended(), "the new chain is asked from its beginning");
    }
    world.swap_to(&["a", "b"]);
    world.accept("43");
    assert!(
        !world.session.is_suspended() && !world.session.is_admitted(),
        "not without an end: it comes back"
    );
}

#[test]
fn a_client_that_refreshes_stays_and_asks_once_at_a_time() {
    let mut world = World::new();
    world.receive(CONNECT);
    world.accept("42");
    world.answer(Ok(ConnectVerdict::Pass));
    assert_eq!(world.asked().0, 2);
    world.receive(r#"{"id":2,"refresh":{"token":"u"}}"#);
    assert_eq!(world.asked(), (3, true));
    assert!(!world.session.is_suspended(), "it goes on meanwhile");
    world.receive(r#"{"id":3,"subscribe":{"channel":"chat:1"}}"#);
    assert_eq!(world.worker.metrics.subscriptions(), 1);
    world.receive(r#"{"id":4,"refresh":{"token":"v"}}"#);
    assert_eq!(world.asked(), (3, false), "one at a time");
    world.accept("42");
    world.answer(Ok(ConnectVerdict::Pass));
    assert!(!world.session.is_closed());
    world.receive(r#"{"id":5,"refresh":{"token":"w"}}"#);
    world.answer(Ok(ConnectVerdict::Refuse(crate::plugin::verdict::Refusal {
        code: 3500,
        reason: "no".into(),
    })));
    assert!(world.session.is_closed());
}

/// Accepts with the second plugin passing, as a token with this id does.
fn accept_token(world: &mut World, id: &str) {
    let attributes = if id.is_empty() { vec![] } else { vec![(TOKEN_ID.into(), id.into())] };
    let identity = Identity { user: "42".into(), attributes, ..Identity::default() };
    world.answer(Ok(ConnectVerdict::Accept(Box::new(identity))));
    world.answer(Ok(ConnectVerdict::Pass));
}

fn revoke(world: &World, subject: Subject) {
    world.worker.revocations.revoke(world.now().unix, subject, None, 0).unwrap();
}

#[test]
fn the_next_command_of_a_client_that_was_blocked_is_not_carried_out() {
    let mut world = World::new();
    world.receive(CONNECT);
    accept_token(&mut world, "");
    revoke(&world, Subject::User("41".into()));
    world.receive(r#"{"id":2,"subscribe":{"channel":"chat:1"}}"#);
    assert_eq!(world.worker.metrics.subscriptions(), 1, "another user was blocked");
    revoke(&world, Subject::User("42".into()));
    world.receive(r#"{"id":3,"subscribe":{"channel":"chat:2"}}"#);
    assert!(world.session.is_closed());
    assert_eq!(world.worker.metrics.subscriptions(), 0);
}

#[test]
fn a_client_that_was_blocked_while_a_plugin_decided_is_not_admitted() {
    let mut world = World::new();
    world.receive(CONNECT);
    revoke(&world, Subject::User("42".into()));
    accept_token(&mut world, "");
    assert!(world.session.is_closed() && !world.session.is_admitted());
}

#[test]
fn a_refresh_replaces_the_token_that_can_be_revoked() {
    let mut world = World::new();
    world.receive(CONNECT);
    accept_token(&mut world, "old");
    world.receive(r#"{"id":2,"refresh":{"token":"u"}}"#);
    accept_token(&mut world, "");
    revoke(&world, Subject::Token("old".into()));
    world.receive(r#"{"id":3,"subscribe":{"channel":"chat:1"}}"#);
    assert!(!world.session.is_closed(), "its token has no id");
    world.receive(r#"{"id":4,"refresh":{"token":"old"}}"#);
    accept_token(&mut world, "old");
    assert!(world.session.is_closed());
}

#[test]
fn an_idle_client_that_was_blocked_gets_a_signal_from_its_worker() {
    let mut world = World::new();
    world.receive(CONNECT);
    accept_token(&mut world, "t1");
    let all = world.worker.admitted();
    assert_eq!(all, [1]);
    revoke(&world, Subject::Token("t2".into()));
    world.worker.close_revoked(world.now().unix, &all);
    assert!(!world.session.handle().has_signals());
    revoke(&world, Subject::Token("t1".into()));
    world.worker.close_revoked(world.now().unix, &all);
    let signal = world.session.handle().take_signal();
    assert_eq!(signal, Some(Signal::Close(Close::INVALID_TOKEN, Why::Api)));
}

#[test]
fn the_attributes_of_the_token_fit_whatever_plugins_keep() {
    let mut attributes = BTreeMap::new();
    assert!(set_attribute(&mut attributes, "a".into(), "x".repeat(16 * 1024 - 1).into()));
    assert!(!set_attribute(&mut attributes, "b".into(), "x".into()));
    assert!(set_attribute(&mut attributes, TOKEN_ID.into(), "t1".into()));
}
