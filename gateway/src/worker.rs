//! [`run`]: one worker thread, which owns a listener, its connections, their hub and their plugin instances.
//! Workers share only the backplane and counters.

mod revoked;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{LocalSet, coop, spawn_local, yield_now};
use tokio::time::Instant;

use crate::accept::{self, Admission, Arrival, ConnectionPermit, Slot, Standing};
use crate::backplane::Backplane;
use crate::backplane::Why;
use crate::backplane::inbox::{Delivery, Inbox};
use crate::clock::Clock;
use crate::clock::Now;
use crate::config::Config;
use crate::connection::driver::{Driver, linger};
use crate::connection::event::Event;
use crate::connection::session::Session;
use crate::connection::worker_state::WorkerState;
use crate::connection_id::ConnectionIds;
use crate::events::Events;
use crate::explain::{Explain, Picker};
use crate::hub::Hub;
use crate::hub::connection_handle::ConnectionHandle;
use crate::hub::emulation::EmulatedInput;
use crate::hub::signal::Signal;
use crate::plugin::event::Client;
use crate::protocol::Encoding;
use crate::protocol::channel::Channel;
use crate::protocol::code::Close;
use crate::protocol::command::{Command, Connect, Position, Request};
use crate::protocol::reply::Emulation;
use crate::revocation::Revocations;
use crate::shutdown::{self, Phase};
use crate::supervisor::{Panicked, Supervisor, catch};
use crate::telemetry::metrics::Metrics;
use crate::transport::Transport;
use crate::transport::handshake::{Accepted, Clients, Handshake, Opening};
use crate::transport::http_stream::HttpStream;
use crate::transport::site::Site;
use crate::transport::tls::Tls;
use crate::transport::websocket::deflate::Decompression;
use crate::transport::websocket::{ReadBuffer, WebSocket};
use crate::upstream::Upstreams;

/// How long the worker delivers or flushes before connections get their turn.
const TURN_TIME: Duration = Duration::from_micros(200);

/// Sockets written between two readings of the clock.
const WRITES_PER_LOOK: usize = 4;

/// Frames queued, or other work, between two readings of the clock.
const WORK_PER_LOOK: usize = 64;

/// Orders passed on before connections get their turn: a connection can queue many more.
const ORDERS_MAX: usize = 128;

/// Frames queued before they are written, and how long they may wait for that. Large, because publications
/// that are queued together leave in one write per socket.
const DELIVERIES_MAX: usize = 16 * 1024;
const DELIVERIES_WAIT_MAX: Duration = Duration::from_millis(4);

/// Channels compared with their streams before connections get their turn.
const COMPARED_MAX: usize = 256;

/// Interval at which a worker checks its backlog, while it has one.
const BACKLOG_PAUSE: Duration = Duration::from_millis(50);

/// Interval at which a draining worker closes some of its connections.
const DRAIN_STEP: Duration = Duration::from_millis(50);

/// How long before the drain deadline, or a tenth of the drain time, all remaining clients are closed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Interval at which a draining worker checks whether all refusals are sent.
const REFUSALS_STEP: Duration = Duration::from_millis(10);

/// Parts to make a worker. `Send`, unlike the worker itself.
pub struct Parts {
    /// Index of the worker.
    pub index: usize,
    /// Configuration.
    pub config: Arc<Config>,
    /// Bound, with `SO_REUSEPORT`.
    pub listener: std::net::TcpListener,
    /// Deliveries from other threads.
    pub inbox: Arc<Inbox>,
    /// Connects to other workers and nodes.
    pub backplane: Arc<dyn Backplane>,
    /// Receive the events that plugins emit.
    pub upstreams: Arc<Upstreams>,
    /// Tells one of them what happens.
    pub events: Events,
    /// Tokens that do not count any more, and blocked users.
    pub revocations: Arc<Revocations>,
    /// Counters of all workers.
    pub metrics: Arc<Metrics>,
    /// Limits on connections.
    pub admission: Arc<Admission>,
    /// TLS of the listener, if it has to be spoken.
    pub tls: Option<Arc<Tls>>,
    /// Pages in addition to the endpoints.
    pub site: Option<Arc<dyn Site>>,
    /// Makes connection ids.
    pub ids: ConnectionIds,
    /// The name by which other gateways know this one.
    pub node: Arc<str>,
    /// Selects the messages that are traced.
    pub explain: Arc<Explain>,
    /// The clock.
    pub clock: Clock,
    /// Phase of the process.
    pub phase: watch::Receiver<Phase>,
    /// Notified when the worker can serve.
    pub up: oneshot::Sender<()>,
    /// Notified when a part of the worker has ended.
    pub supervisor: Supervisor,
}

/// A worker on its own thread.
struct Worker {
    state: Rc<WorkerState>,
    ids: ConnectionIds,
    node: Arc<str>,
    clock: Clock,
    read_buffer: Rc<RefCell<ReadBuffer>>,
    decompression: Rc<Decompression>,
    /// Every connection, admitted or not.
    open: RefCell<FxHashMap<u64, Rc<ConnectionHandle>>>,
    count: Cell<u64>,
    /// Handshakes whose sockets are not in `open` yet.
    shaking: Cell<usize>,
    /// Notified when a connection or a handshake ends.
    ended: Notify,
    /// The worker drains: a new connection is closed at once.
    draining: Cell<bool>,
    supervisor: Supervisor,
    /// Notified when the chain is replaced: its timers may differ.
    swapped: Notify,
}

/// Runs a worker on this thread until it has drained, or until the drain deadline.
///
/// # Errors
///
/// If the worker's runtime or its listener cannot be made.
pub fn run(parts: Parts) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(parts))
}

async fn serve(parts: Parts) -> std::io::Result<()> {
    let listener = TcpListener::from_std(parts.listener)?;
    let hub = Hub::new(parts.ids);
    let backplane = parts.backplane.clone();
    let mut state =
        WorkerState::new(parts.index, parts.config.clone(), hub, parts.backplane, parts.metrics.clone())
            .with_upstreams(parts.upstreams, parts.inbox.clone())
            .with_events(parts.events)
            .with_revocations(parts.revocations);
    state.explain = Picker::new(parts.explain);
    let worker = Rc::new(Worker {
        state: Rc::new(state),
        ids: parts.ids,
        node: parts.node,
        clock: parts.clock,
        read_buffer: Rc::default(),
        decompression: Rc::new(Decompression::new(parts.metrics.clone(), parts.index)),
        open: RefCell::default(),
        count: Cell::new(0),
        shaking: Cell::new(0),
        ended: Notify::new(),
        draining: Cell::new(false),
        supervisor: parts.supervisor.clone(),
        swapped: Notify::new(),
    });
    // All connections of the worker depend on each of these.
    let part = |name: &str| format!("worker-{}: {name}", parts.index);
    let forever = |name: &str, looping: Part| parts.supervisor.forever(&part(name), looping);
    spawn_local(forever("deliveries", Box::pin(worker.clone().deliver(parts.inbox))));
    spawn_local(forever("writes", Box::pin(worker.clone().flush())));
    spawn_local(forever("timers", Box::pin(worker.clone().timers())));
    spawn_local(forever("backlog", Box::pin(worker.clone().bound_backlog())));
    spawn_local(forever("revocations", Box::pin(worker.clone().close_revoked())));
    spawn_local(forever("beat", Box::pin(worker.clone().beat())));
    let _ = parts.up.send(());
    // Without plugins a worker would have no rules: until then clients wait in the backlog.
    shutdown::running(parts.phase.clone()).await;
    let handshake = Rc::new(Handshake {
        config: parts.config,
        admission: parts.admission.clone(),
        metrics: parts.metrics.clone(),
        worker: parts.index,
        site: parts.site,
        phase: parts.phase.clone(),
        tls: parts.tls,
        backplane,
    });
    let accept = accept::accept(
        &listener,
        parts.admission.clone(),
        parts.metrics.worker(parts.index),
        |socket, handle, arrival| worker.clone().shake_hands(&handshake, socket, handle, arrival),
    );
    let until = tokio::select! {
        never = accept => match never {},
        until = shutdown::draining(parts.phase) => until,
    };
    worker.draining.set(true);
    accept::refuse_waiting(&listener, &parts.admission, parts.metrics.worker(parts.index));
    drop(listener);
    worker.drain(until, &parts.admission).await;
    worker.state.metrics().beat.rest();
    Ok(())
}

/// A loop of a worker.
type Part = Pin<Box<dyn Future<Output = ()>>>;

/// Counts a handshake until it has ended.
struct Shaking(Rc<Worker>);

impl Shaking {
    fn begin(worker: Rc<Worker>) -> Self {
        worker.shaking.update(|shaking| shaking + 1);
        Self(worker)
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        self.0.shaking.update(|shaking| shaking - 1);
        self.0.ended.notify_one();
    }
}

/// A connection in `open`. Dropping it, however its task ended, closes the socket and releases its permit.
struct Opened {
    worker: Rc<Worker>,
    handle: Rc<ConnectionHandle>,
    _permit: ConnectionPermit,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // The hub may still hold the handle for a moment, but the socket closes now.
        self.handle.outbound.abandon();
        self.handle.socket.take();
        self.worker.open.borrow_mut().remove(&self.handle.number);
        self.worker.ended.notify_one();
    }
}

impl Worker {
    fn shake_hands(
        self: Rc<Self>,
        handshake: &Rc<Handshake>,
        socket: TcpStream,
        handle: std::net::IpAddr,
        arrival: Arrival,
    ) {
        let shaking = Shaking::begin(self.clone());
        let handshake = handshake.clone();
        spawn_local(async move {
            handshake.serve(socket, handle, arrival, self).await;
            drop(shaking);
        });
    }

    /// Makes a connection of a socket and starts its task.
    fn open(self: Rc<Self>, accepted: Accepted, begun: Now) {
        let Accepted { socket, early, address, format, opening, headers, token, connection, arrival } =
            accepted;
        let encoding = format.encoding;
        let number = ConnectionIds::compose(self.state.worker, self.count.replace(self.count.get() + 1));
        let Ok(random) = getrandom::u64() else { return };
        let Ok(emulation) = opening.map(|opening| self.emulation(number, opening)).transpose() else {
            return;
        };
        let id = self.ids.id(number, random);
        let limits = &self.state.config.limits;
        let is_stream = emulation.is_some();
        let handle = ConnectionHandle::new(
            number,
            id.clone(),
            format,
            limits.outbound_bytes_max,
            &self.state.unflushed,
        );
        let handle = Rc::new(match emulation {
            None => handle,
            Some((head, input)) => {
                // The queue is empty, and has room for a head.
                let _ = handle.outbound.reply(&head);
                handle.with_emulation(input)
            }
        });
        *handle.socket.borrow_mut() = Some(socket);
        let client = Client {
            number,
            id: id.clone(),
            user: Arc::default(),
            protocol: encoding.protocol_name(),
            address,
            headers,
            attributes: BTreeMap::new(),
        };
        let decompression = format.is_compressed().then(|| self.decompression.clone());
        let (messages, buffer) = (handle.clone(), self.read_buffer.clone());
        let transport: Box<dyn Transport> = match is_stream {
            false => {
                let bytes_max = limits.message_bytes_max;
                Box::new(WebSocket::new(messages, buffer, &early, bytes_max, decompression))
            }
            true => Box::new(HttpStream::new(messages, buffer)),
        };
        let session = Session::new(self.state.clone(), handle.clone(), client, begun, random as u32);
        // A raw client sends no connect command: its handshake was one, or its first message is.
        let in_message = token.is_empty() && self.state.config.raw.token_in_first_message;
        let connect = (encoding == Encoding::Raw && !in_message).then_some(token);
        let driver = Driver::new(session, transport, self.read_buffer.clone(), self.clock);
        let Arrival { slot, mut evicted } = arrival;
        // The gateway waits for the client to authenticate.
        slot.wait(Standing::Silent);
        let waiting = handle.clone();
        spawn_local(async move {
            if evicted.wait().await {
                waiting.signal(Signal::Evicted);
            }
        });
        self.open.borrow_mut().insert(number, handle.clone());
        self.state.metrics().opened(&id, address);
        if format.is_compressed() {
            self.state.metrics().compression_agreed.inc();
        }
        if self.draining.get() {
            handle.signal(Signal::Close(Close::SHUTDOWN, Why::Shutdown));
        }
        let opened = Opened { worker: self, handle, _permit: connection };
        spawn_local(drive(opened, Box::new(driver), connect, slot));
    }

    /// The head of a stream, and the queue for the messages of its client, with a secret that names them.
    fn emulation(&self, number: u64, opening: Opening) -> Result<(Bytes, EmulatedInput), getrandom::Error> {
        let random = [getrandom::u64()?, getrandom::u64()?];
        let address = Emulation { session: self.ids.session(number, random), node: self.node.clone() };
        Ok((opening.head, EmulatedInput::new(Arc::new(address), opening.message)))
    }

    /// Cleans up after a connection whose task panicked.
    fn clean_up(&self, driver: &mut Driver, words: &str) {
        let session = &mut driver.session;
        tracing::error!(
            connection = &*session.handle().id,
            panic = words,
            "connection task panicked; closing the connection"
        );
        self.read_buffer.borrow_mut().clear();
        let now = self.clock.now();
        let _ = catch_unwind(AssertUnwindSafe(|| session.abandon(now)));
        if catch_unwind(AssertUnwindSafe(|| session.purge(now))).is_err() {
            let part = format!("worker-{}: connections", self.state.worker);
            self.supervisor.report(&part, "one could not be cleaned up after a panic");
        }
    }

    /// Reports that the thread runs, and its lag.
    async fn beat(self: Rc<Self>) {
        self.state.metrics().beat.run(self.clock).await;
    }

    /// Handles deliveries from other threads, in order.
    async fn deliver(self: Rc<Self>, inbox: Arc<Inbox>) {
        let mut batch = Vec::new();
        // Tops of streams, read after a loss, until the inbox up to that time is delivered.
        let mut stood: Option<Vec<(Channel, Position)>> = None;
        loop {
            if stood.is_none() {
                inbox.arrived().await;
            }
            let lost = inbox.take(&mut batch);
            self.deliver_all(&mut batch).await;
            for part in stood.take().iter().flat_map(|stood| stood.chunks(COMPARED_MAX)) {
                self.state.find_gaps(part);
                yield_now().await;
            }
            if lost {
                self.state.metrics().inbox_overflow();
                let mut tops = Vec::new();
                for part in self.state.tracked().chunks(COMPARED_MAX) {
                    tops.extend(self.state.tops(part));
                    yield_now().await;
                }
                stood = Some(tops);
            }
        }
    }

    /// Handles the deliveries of the inbox. Connections get their turn in between; frames for many are
    /// written together.
    async fn deliver_all(&self, batch: &mut Vec<Delivery>) {
        let mut together = Some(self.state.unflushed.hold());
        let mut now = self.clock.now();
        let (mut begun, mut written) = (now.at, now.at);
        let (mut queued, mut work, mut orders) = (0, 0, 0);
        for delivery in batch.drain(..) {
            let swap = matches!(delivery, Delivery::Chain(..));
            let accepted = delivery.accepted();
            orders += usize::from(matches!(delivery, Delivery::Order { .. }));
            let done = self.state.handle(now, delivery);
            (queued, work) = (queued + done, work + done);
            if swap {
                self.swapped.notify_one();
            }
            let look = work >= WORK_PER_LOOK || orders >= ORDERS_MAX;
            if look {
                now = self.clock.later(now);
            }
            // Without a reading of its own: the latest one is at most that much work old.
            if let Some(accepted) = accepted {
                self.state.metrics().delivery_lag.observe(now.at.saturating_sub(accepted));
            }
            if !look {
                continue;
            }
            work = 0;
            let full = queued >= DELIVERIES_MAX || now.at >= written + DELIVERIES_WAIT_MAX;
            if full {
                drop(together.take());
            }
            if full || orders >= ORDERS_MAX || now.at >= begun + TURN_TIME {
                yield_now().await;
                now = self.clock.now();
                (begun, orders) = (now.at, 0);
            }
            if full {
                together = Some(self.state.unflushed.hold());
                (queued, written) = (0, now.at);
            }
        }
    }

    /// Runs the timers of plugins when they are due.
    async fn timers(self: Rc<Self>) {
        loop {
            let Some(due) = self.state.next_timer() else {
                self.swapped.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(self.clock.instant(due).into()) => {
                    self.state.on_timer(self.clock.now());
                }
                () = self.swapped.notified() => (),
            }
        }
    }

    /// Keeps the bytes queued for clients below the limit of the node.
    async fn bound_backlog(self: Rc<Self>) {
        loop {
            self.state.unflushed.backlogged().await;
            while self.state.bound_backlog() {
                tokio::time::sleep(BACKLOG_PAUSE).await;
            }
        }
    }

    /// Writes once to every socket with pushes of others.
    async fn flush(self: Rc<Self>) {
        // The coop budget of the runtime would make sockets look full in the middle of a list; this loop has
        // its own limit.
        let writes = &self.state.metrics().writes;
        coop::unconstrained(async {
            loop {
                let handles = poll_fn(|cx| self.state.unflushed.poll_take(cx)).await;
                let mut begun = self.clock.now();
                for some in handles.chunks(WRITES_PER_LOOK) {
                    for handle in some {
                        handle.flush_for_others(writes);
                    }
                    if some.len() == WRITES_PER_LOOK && self.clock.later(begun).at >= begun.at + TURN_TIME {
                        yield_now().await;
                        begun = self.clock.now();
                    }
                }
            }
        })
        .await;
    }

    /// Closes all clients at this worker's share of the rate, and waits until they are gone or time is up.
    async fn drain(&self, until: Duration, admission: &Admission) {
        let config = &self.state.config;
        let share = f64::from(config.drain.closes_per_second) / config.listen.workers as f64;
        let per_step = share * DRAIN_STEP.as_secs_f64();
        let handles: Vec<_> = self.open.borrow().values().cloned().collect();
        tracing::info!(worker = self.state.worker, connections = handles.len(), "draining");
        let paced = async {
            let mut step = tokio::time::interval(DRAIN_STEP);
            let mut credit: f64 = 0.0;
            for handle in handles {
                // A client that left on its own takes no part of the rate.
                while credit < 1.0 && self.open.borrow().contains_key(&handle.number) {
                    step.tick().await;
                    credit += per_step;
                }
                if self.open.borrow().contains_key(&handle.number) {
                    credit -= 1.0;
                    handle.signal(Signal::Close(Close::SHUTDOWN, Why::Shutdown));
                }
            }
            std::future::pending::<()>().await;
        };
        // The rate yields to the deadline: remaining clients are closed shortly before it.
        let deadline = self.clock.instant(until);
        let last_words = (config.drain.deadline / 10).min(LAST_WORDS);
        let at_last = self.clock.instant(until.saturating_sub(last_words));
        let hurried = async {
            tokio::time::sleep_until(at_last.into()).await;
            for handle in self.open.borrow().values() {
                handle.signal(Signal::Close(Close::SHUTDOWN, Why::Shutdown));
            }
            std::future::pending::<()>().await;
        };
        let gone = async {
            while !self.open.borrow().is_empty() || self.shaking.get() > 0 {
                self.ended.notified().await;
            }
            // Refusals may still be in progress for a moment.
            while admission.is_refusing() {
                tokio::time::sleep(REFUSALS_STEP).await;
            }
        };
        let drained = tokio::time::timeout_at(deadline.into(), async {
            tokio::select! {
                () = gone => (),
                () = paced => (),
                () = hurried => (),
            }
        });
        if drained.await.is_err() {
            tracing::warn!(
                worker = self.state.worker,
                connections = self.open.borrow().len(),
                "drain deadline reached; closing the remaining connections"
            );
        } else {
            tracing::info!(worker = self.state.worker, "drained");
        }
    }
}

impl Clients for Worker {
    fn begin(&self) -> (Now, Instant) {
        // Handshake and connect command share one deadline, which begins here.
        let begun = self.clock.now();
        (begun, self.clock.instant(begun.at + self.state.config.handshake.deadline).into())
    }

    fn accepted(self: Rc<Self>, accepted: Accepted, begun: Now) {
        self.open(accepted, begun);
    }
}

/// Runs a connection to its end, even after a panic.
async fn drive(opened: Opened, mut driver: Box<Driver>, connect: Option<Box<str>>, handshake: Slot) {
    let ended = {
        let running = pin!(async {
            if let Some(token) = connect {
                let request = Request::Connect(Connect { token, ..Connect::default() });
                let command = Event::Command(Command { id: 0, request });
                driver.session.event(opened.worker.clock.now(), command);
            }
            driver.run(handshake).await;
        });
        catch(running).await
    };
    if let Err(Panicked(words)) = ended {
        opened.worker.clean_up(&mut driver, &words);
    }
    // Frees its memory while the client reads the close reason.
    drop(driver);
    linger(&opened.handle, &opened.worker.state.metrics().writes).await;
}
