//! [`run`]: one worker thread, which owns a listener, its connections, their hub and their plugin instances.
//! Workers share only the backplane and counters.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{LocalSet, coop, spawn_local, yield_now};

use crate::accept::{self, Admission, Arrival, ConnectionPermit, Slot, Standing};
use crate::backplane::Why;
use crate::backplane::inbox::{Delivery, Inbox};
use crate::backplane::{Backplane, Top};
use crate::clock::Clock;
use crate::clock::Now;
use crate::config::Config;
use crate::connection::driver::{Driver, linger};
use crate::connection::event::Event;
use crate::connection::session::Session;
use crate::connection::worker_state::WorkerState;
use crate::connection_id::ConnectionIds;
use crate::explain::{Explain, Picker};
use crate::hub::Hub;
use crate::hub::connection_handle::ConnectionHandle;
use crate::hub::signal::Signal;
use crate::plugin::event::Client;
use crate::protocol::Protocol;
use crate::protocol::channel::Channel;
use crate::protocol::code::Close;
use crate::protocol::command::{Command, Connect, Request};
use crate::shutdown::{self, Phase};
use crate::supervisor::{Panicked, Supervisor, catch};
use crate::telemetry::metrics::Metrics;
use crate::transport::handshake::{Accepted, Handshake};
use crate::transport::site::Site;
use crate::transport::websocket::{ReadBuffer, WebSocket};
use crate::upstream::Upstreams;

/// How long the worker delivers or writes for all before connections get their turn.
const TURN_TIME: Duration = Duration::from_micros(200);

/// Sockets that are written between two looks at the clock.
const WRITES_PER_LOOK: usize = 4;

/// Frames that are queued, or as much other work, between two looks at the clock.
const WORK_PER_LOOK: usize = 64;

/// Orders that are handed on before connections get their turn: a connection can keep many more.
const ORDERS_MAX: usize = 128;

/// Frames that are queued before they are written, and how long they may wait for that. Large, because publications that are
/// queued together leave with one write per socket.
const DELIVERIES_MAX: usize = 16 * 1024;
const DELIVERIES_WAIT_MAX: Duration = Duration::from_millis(4);

/// Channels that are compared with their streams before connections get their turn.
const COMPARED_MAX: usize = 256;

/// How often a worker looks how much waits for its clients, while much does.
const BACKLOG_PAUSE: Duration = Duration::from_millis(50);

/// How often a draining worker closes some of its connections.
const DRAIN_STEP: Duration = Duration::from_millis(50);

/// How long before the end of a drain everybody who is left is told to go, or a tenth of its time.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often a draining worker looks whether everybody has been refused.
const REFUSALS_STEP: Duration = Duration::from_millis(10);

/// Everything a worker is made of. `Send`, unlike the worker itself.
pub struct Parts {
    /// Which worker.
    pub index: usize,
    /// As resolved at start.
    pub config: Arc<Config>,
    /// Bound, with `SO_REUSEPORT`.
    pub listener: std::net::TcpListener,
    /// What others hand over.
    pub inbox: Arc<Inbox>,
    /// The other workers.
    pub backplane: Arc<dyn Backplane>,
    /// Where events of plugins go.
    pub upstreams: Arc<Upstreams>,
    /// Counters of all workers.
    pub metrics: Arc<Metrics>,
    /// How many connections the node may have.
    pub admission: Arc<Admission>,
    /// Pages beside the endpoints.
    pub site: Option<Arc<dyn Site>>,
    /// Makes connection ids.
    pub ids: ConnectionIds,
    /// Which messages are explained.
    pub explain: Arc<Explain>,
    /// Where time comes from.
    pub clock: Clock,
    /// How far the process is.
    pub phase: watch::Receiver<Phase>,
    /// Hears when the worker can serve.
    pub up: oneshot::Sender<()>,
    /// Hears when a part of the worker has ended.
    pub supervisor: Supervisor,
}

/// A worker on its own thread.
struct Worker {
    state: Rc<WorkerState>,
    ids: ConnectionIds,
    clock: Clock,
    read_buffer: Rc<RefCell<ReadBuffer>>,
    /// Every connection, admitted or not.
    open: RefCell<FxHashMap<u64, Rc<ConnectionHandle>>>,
    count: Cell<u64>,
    /// Handshakes whose sockets are not among the connections yet.
    shaking: Cell<usize>,
    /// A connection or a handshake.
    ended: Notify,
    /// The end has begun: who is still admitted is told to go.
    draining: Cell<bool>,
    supervisor: Supervisor,
    /// Another chain may have other timers.
    swapped: Notify,
}

/// Runs a worker on this thread until it has drained, or its time to drain is over.
pub fn run(parts: Parts) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(parts))
}

async fn serve(parts: Parts) -> std::io::Result<()> {
    let listener = TcpListener::from_std(parts.listener)?;
    let hub = Hub::new(parts.ids);
    let mut local =
        WorkerState::new(parts.index, parts.config.clone(), hub, parts.backplane, parts.metrics.clone())
            .with_upstreams(parts.upstreams);
    local.explain = Picker::new(parts.explain);
    let worker = Rc::new(Worker {
        state: Rc::new(local),
        ids: parts.ids,
        clock: parts.clock,
        read_buffer: Rc::default(),
        open: RefCell::default(),
        count: Cell::new(0),
        shaking: Cell::new(0),
        ended: Notify::new(),
        draining: Cell::new(false),
        supervisor: parts.supervisor.clone(),
        swapped: Notify::new(),
    });
    // Each holds what all connections of the worker depend on.
    let part = |name: &str| format!("worker-{}: {name}", parts.index);
    let forever = |name: &str, looping: Part| parts.supervisor.forever(&part(name), looping);
    spawn_local(forever("deliveries", Box::pin(worker.clone().deliver(parts.inbox))));
    spawn_local(forever("writes", Box::pin(worker.clone().flush())));
    spawn_local(forever("timers", Box::pin(worker.clone().timers())));
    spawn_local(forever("backlog", Box::pin(worker.clone().bound_backlog())));
    spawn_local(forever("beat", Box::pin(worker.clone().beat())));
    let _ = parts.up.send(());
    // Without its rules a worker would judge clients by nothing: they wait in the backlog.
    shutdown::running(parts.phase.clone()).await;
    let handshake = Rc::new(Handshake {
        config: parts.config,
        admission: parts.admission.clone(),
        metrics: parts.metrics.clone(),
        worker: parts.index,
        site: parts.site,
        phase: parts.phase.clone(),
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

/// A handshake, until there is a connection or none.
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

/// A connection among those of its worker. Dropping it, however its task ended, closes the socket and gives back what it
/// counted as.
struct Opened {
    worker: Rc<Worker>,
    handle: Rc<ConnectionHandle>,
    _permit: ConnectionPermit,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // The hub may still hold the handle for a moment; the socket closes now.
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
        // The deadline of the handshake and of the connect command is one: both begin here.
        let begun = self.clock.now();
        let deadline = self.clock.instant(begun.at + self.state.config.handshake.deadline).into();
        let shaking = Shaking::begin(self.clone());
        let handshake = handshake.clone();
        spawn_local(async move {
            if let Some(accepted) = handshake.serve(socket, handle, arrival, deadline).await {
                self.open(accepted, begun);
            }
            drop(shaking);
        });
    }

    /// Makes a connection out of a socket and starts its task.
    fn open(self: Rc<Self>, accepted: Accepted, begun: Now) {
        let Accepted { socket, early, address, protocol, headers, token, connection, arrival } = accepted;
        let number = ConnectionIds::compose(self.state.worker, self.count.replace(self.count.get() + 1));
        let Ok(random) = getrandom::u64() else { return };
        let id = self.ids.id(number, random);
        let limits = &self.state.config.limits;
        let handle = Rc::new(ConnectionHandle::new(
            number,
            id.clone(),
            protocol,
            limits.outbound_bytes_max,
            &self.state.unflushed,
        ));
        *handle.socket.borrow_mut() = Some(Box::new(socket));
        let client = Client {
            number,
            id: id.clone(),
            user: Arc::default(),
            protocol: protocol.as_str(),
            address,
            headers,
            attributes: BTreeMap::new(),
        };
        let websocket =
            WebSocket::new(handle.clone(), self.read_buffer.clone(), &early, limits.message_bytes_max);
        let session = Session::new(self.state.clone(), handle.clone(), client, begun, random as u32);
        // Nobody will send a connect command: the handshake was one.
        let connect = (protocol == Protocol::Raw).then_some(token);
        let driver = Driver::new(session, websocket, self.read_buffer.clone(), self.clock);
        let Arrival { slot, mut evicted } = arrival;
        // Until it says who it is, it is waited for.
        slot.wait(Standing::Silent);
        let waiting = handle.clone();
        spawn_local(async move {
            if evicted.wait().await {
                waiting.signal(Signal::Evicted);
            }
        });
        self.open.borrow_mut().insert(number, handle.clone());
        self.state.metrics().opened(&id, address);
        if self.draining.get() {
            handle.signal(Signal::Close(Close::SHUTDOWN, Why::Shutdown));
        }
        let opened = Opened { worker: self, handle, _permit: connection };
        spawn_local(drive(opened, Box::new(driver), connect, slot));
    }

    /// What the task of a connection that panicked leaves behind.
    fn clean_up(&self, driver: &mut Driver, words: &str) {
        let session = &mut driver.session;
        tracing::error!(
            connection = &*session.handle().id,
            panic = words,
            "the task of a connection panicked: it is closed"
        );
        self.read_buffer.borrow_mut().clear();
        let now = self.clock.now();
        let _ = catch_unwind(AssertUnwindSafe(|| session.abandon(now)));
        if catch_unwind(AssertUnwindSafe(|| session.purge())).is_err() {
            let part = format!("worker-{}: connections", self.state.worker);
            self.supervisor.report(&part, "one could not be cleaned up after a panic");
        }
    }

    /// Shows that the worker goes on, and how late.
    async fn beat(self: Rc<Self>) {
        self.state.metrics().beat.run(self.clock).await;
    }

    /// Takes what other threads hand over, in order.
    async fn deliver(self: Rc<Self>, inbox: Arc<Inbox>) {
        let mut batch = Vec::new();
        // Where streams stood after something was lost, until what was in the queue by then is delivered.
        let mut stood: Option<Vec<(Channel, Top)>> = None;
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

    /// Delivers what was in the inbox. Connections get their turn in between; what is written for all is written together.
    async fn deliver_all(&self, batch: &mut Vec<Delivery>) {
        let mut together = Some(self.state.unflushed.hold());
        let mut now = self.clock.now();
        let (mut begun, mut written) = (now.at, now.at);
        let (mut queued, mut work, mut orders) = (0, 0, 0);
        for delivery in batch.drain(..) {
            let swap = matches!(delivery, Delivery::Chain(..));
            orders += usize::from(matches!(delivery, Delivery::Order { .. }));
            let done = self.state.handle(now, delivery);
            (queued, work) = (queued + done, work + done);
            if swap {
                self.swapped.notify_one();
            }
            if work < WORK_PER_LOOK && orders < ORDERS_MAX {
                continue;
            }
            work = 0;
            now = self.clock.later(now);
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

    /// Runs the timers of plugins, each when it is due.
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

    /// Keeps what waits for clients within what the node may hold for all of them.
    async fn bound_backlog(self: Rc<Self>) {
        loop {
            self.state.unflushed.backlogged().await;
            while self.state.bound_backlog() {
                tokio::time::sleep(BACKLOG_PAUSE).await;
            }
        }
    }

    /// Writes to every socket that others have pushed to, once each.
    async fn flush(self: Rc<Self>) {
        // The budget of the runtime would make sockets pretend to be full in the middle of a list; this loop has its own.
        coop::unconstrained(async {
            loop {
                let handles = poll_fn(|cx| self.state.unflushed.poll_take(cx)).await;
                let mut begun = self.clock.now();
                for some in handles.chunks(WRITES_PER_LOOK) {
                    for handle in some {
                        handle.flush_for_others();
                        self.state.metrics().bytes_out.add(handle.outbound.take_uncounted());
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

    /// Asks every client to go, at this worker's share of the pace, and waits until they are gone or time is up.
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
                // Who has gone by itself costs no time.
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
        // The pace is a wish, the deadline is not: who is still there shortly before it is told as well.
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
            // They are being told, which takes a moment.
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
                "connections were cut off at the drain deadline"
            );
        } else {
            tracing::info!(worker = self.state.worker, "drained");
        }
    }
}

/// Runs a connection to its end, whatever that is.
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
    // What it held is free while the client reads its last words.
    drop(driver);
    linger(&opened.handle).await;
}
