//! A message on its whole way through a worker, without a socket: decode, core, plugins, backplane, hub,
//! outbound.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use gateway::backplane::inbox::{Delivery, Inbox};
use gateway::backplane::memory::Memory;
use gateway::clock::Clock;
use gateway::config::Config;
use gateway::connection::event::Event;
use gateway::connection::session::Session;
use gateway::connection::turn::Turn;
use gateway::connection::worker_state::WorkerState;
use gateway::connection_id::ConnectionIds;
use gateway::hub::Hub;
use gateway::hub::connection_handle::ConnectionHandle;
use gateway::plugin::chain::{Chain, Plugin};
use gateway::plugin::event::Kind;
use gateway::protocol::codec::Inbound;
use gateway::protocol::command::{Command, Connect, Request};
use gateway::protocol::framing::MessageType;
use gateway::protocol::{Encoding, Framing};
use gateway::telemetry::metrics::Metrics;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Scale;
use crate::codec::{PublicationPush, PublishCommand, publish_command};
use crate::fixture::{NOW, Plugins, SMALL, client, message, payload};
use crate::measure::{Case, Measure, compare, ns_per_call};
use crate::native::{self, Native};
use crate::table::Table;

pub(crate) fn run(scale: &Scale) -> anyhow::Result<Table> {
    let plugins = Plugins::new()?;
    let echo_chain = || -> anyhow::Result<Chain> { Ok(Chain::new(1, vec![plugins.link("echo", "")?])) };
    let native_chain = || -> anyhow::Result<Chain> {
        Ok(Chain::new(1, vec![plugins.in_chain("native", Native::factory(native::echo))?]))
    };
    let cases = vec![
        Case {
            name: format!("publish {SMALL} B to one subscriber, empty chain"),
            unit: "ns",
            gateway: publish(scale),
            against: "serde_json: parse, write reply and push",
            baseline: publish_by_hand(scale),
        },
        Case {
            name: format!("raw echo, {SMALL} B"),
            unit: "ns",
            gateway: echo(scale, echo_chain()?),
            against: "native plugin, same path",
            baseline: echo(scale, native_chain()?),
        },
        Case {
            name: format!("raw echo, {SMALL} B"),
            unit: "ns",
            gateway: echo(scale, echo_chain()?),
            against: "the call of the plugin alone",
            baseline: call(scale, plugins.instance("echo")?),
        },
        Case {
            name: format!("raw echo, {SMALL} B, native plugin"),
            unit: "ns",
            gateway: echo(scale, native_chain()?),
            against: "the frame alone, copied",
            baseline: echo_by_hand(scale),
        },
    ];
    let rows = compare(scale.rounds, cases)?;
    let notes = vec!["sockets take every byte at once; each message is flushed by itself".to_owned()];
    Ok(Table::compared("a message on its way through a worker, without the kernel", notes, &rows))
}

fn publish<'a>(scale: &Scale) -> Measure<'a> {
    let mut worker = Worker::new(Chain::empty());
    let mut publisher = worker.connect(Encoding::Json);
    let mut subscriber = worker.connect(Encoding::Json);
    let written = worker.handle(&mut subscriber, r#"{"id":2,"subscribe":{"channel":"news"}}"#.into());
    assert!(written > 0, "the subscription is answered");
    let command = Bytes::from(publish_command());
    let before = subscriber.handle().outbound.written();
    worker.handle(&mut publisher, command.clone());
    assert!(subscriber.handle().outbound.written() > before, "the publication arrives");
    ns_per_call(scale.batch, move || worker.handle(&mut publisher, command.clone()))
}

fn echo<'a>(scale: &Scale, chain: Chain) -> Measure<'a> {
    let mut worker = Worker::new(chain);
    let mut session = worker.connect(Encoding::Raw);
    let message = Bytes::from(payload(SMALL));
    let written = worker.handle(&mut session, message.clone());
    assert_eq!(written, 4 + SMALL as u64, "the message comes back in one frame");
    ns_per_call(scale.batch, move || worker.handle(&mut session, message.clone()))
}

fn call<'a>(scale: &Scale, mut plugin: Box<dyn Plugin>) -> Measure<'a> {
    let mut message = message(Kind::Raw, SMALL);
    let mut effects = Vec::new();
    ns_per_call(scale.batch, move || plugin.on_message(&mut message, &mut effects))
}

// -------------------------------------------------------------------------------------------------- a worker

/// Everything of a worker but its thread, its listener and its tasks.
struct Worker {
    worker_state: Rc<WorkerState>,
    inbox: Arc<Inbox>,
    deliveries: Vec<Delivery>,
    ids: ConnectionIds,
    clock: Clock,
    connections: u64,
}

impl Worker {
    fn new(chain: Chain) -> Self {
        let text = "
            [client]
            anonymous = true
            ping_interval = '10m'
            [raw]
            enabled = true
            [channel]
            allow_subscribe = 'anyone'
            allow_publish = 'anyone'
        ";
        let config = Arc::new(Config::parse(text, "a benchmark").expect("valid"));
        let ids = ConnectionIds::new(1);
        let inbox = Arc::new(Inbox::new(config.memory.inbox_deliveries_max));
        let backplane = Memory::new([inbox.clone()].into(), ids, &config.memory, 1);
        let worker_state = WorkerState::new(0, config, Hub::new(ids), Arc::new(backplane), Metrics::new(1));
        *worker_state.chain.borrow_mut() = chain;
        Self {
            worker_state: Rc::new(worker_state),
            inbox,
            deliveries: Vec::new(),
            ids,
            clock: Clock::start(),
            connections: 0,
        }
    }

    fn connect(&mut self, encoding: Encoding) -> Session {
        self.connections += 1;
        let id = self.ids.id(self.connections, self.connections);
        let outbound_bytes_max = self.worker_state.config.limits.outbound_bytes_max;
        let unflushed = &self.worker_state.unflushed;
        let handle = Rc::new(ConnectionHandle::new(
            self.connections,
            id.clone(),
            encoding.over(Framing::WebSocket),
            outbound_bytes_max,
            unflushed,
        ));
        *handle.socket.borrow_mut() = Some(Box::new(Hole));
        let client = client(self.connections, id, encoding);
        let now = self.clock.now();
        let mut session = Session::new(self.worker_state.clone(), handle, client, now, 0);
        let request = Request::Connect(Connect::default());
        session.event(now, Event::Command(Command { id: 1, request }));
        assert!(session.is_admitted(), "anonymous clients are");
        self.turn(&session);
        session
    }

    /// What one message of a client causes until everything is written. Returns how many bytes it got.
    fn handle(&mut self, session: &mut Session, data: Bytes) -> u64 {
        let before = session.handle().outbound.written();
        session.message(&mut Turn::begin(self.clock, false), Inbound { data, binary: false });
        self.turn(session);
        session.handle().outbound.written() - before
    }

    /// What the tasks of a worker do: flush the connection, take the inbox, flush those who got something.
    fn turn(&mut self, session: &Session) {
        let _ = session.handle().poll_flush(session.writes());
        session.handle().count_backlog();
        self.inbox.take(&mut self.deliveries);
        for delivery in self.deliveries.drain(..) {
            self.worker_state.handle(NOW, delivery);
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut unflushed = std::pin::pin!(poll_fn(|context| self.worker_state.unflushed.poll_take(context)));
        if let Poll::Ready(handles) = unflushed.as_mut().poll(&mut context) {
            for handle in handles {
                handle.flush_for_others(&self.worker_state.metrics().writes);
            }
        }
    }
}

/// A socket that takes everything and has nothing.
struct Hole;

impl AsyncRead for Hole {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Hole {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

// -------------------------------------------------------------------------------------------------- by hand

#[derive(Serialize)]
struct PublishReply {
    id: u32,
    publish: Empty,
}

#[derive(Serialize)]
struct Empty {}

/// Parses the command, writes what its sender and what a subscriber receive, and knows nothing else.
fn publish_by_hand<'a>(scale: &Scale) -> Measure<'a> {
    let text = publish_command();
    let mut out = Vec::new();
    ns_per_call(scale.batch, move || {
        out.clear();
        let command: PublishCommand<'_> = serde_json::from_str(&text)?;
        Framing::WebSocket.write(&mut out, |out| {
            let _ = serde_json::to_writer(out, &PublishReply { id: command.id, publish: Empty {} });
            Some(MessageType::Text)
        });
        Framing::WebSocket.write(&mut out, |out| {
            let push = PublicationPush::new(command.publish.channel, command.publish.data);
            let _ = serde_json::to_writer(out, &push);
            Some(MessageType::Text)
        });
        Ok::<_, serde_json::Error>(out.len())
    })
}

fn echo_by_hand<'a>(scale: &Scale) -> Measure<'a> {
    let message = payload(SMALL);
    let mut out = Vec::new();
    ns_per_call(scale.batch, move || {
        out.clear();
        Framing::WebSocket.write(&mut out, |out| {
            out.extend_from_slice(message.as_bytes());
            Some(MessageType::Text)
        });
        out.len()
    })
}
