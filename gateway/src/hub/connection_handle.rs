//! [`ConnectionHandle`]: the rest of a worker queues frames for a connection and signals it through this
//! handle.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::emulation::EmulatedInput;
use super::signal::Signal;
use crate::backplane::Response;
use crate::backplane::input::InputOutcome;
use crate::histogram::Sizes;
use crate::outbound::{Outbound, Pushed};
use crate::protocol::WireFormat;
use crate::protocol::code::Close;
use crate::protocol::reply::Emulation;

/// Most waiting signals of a connection. Each subscription has at most one, and between two turns a worker
/// passes on fewer orders than a connection handles in one. More than this means that the connection does not
/// run.
const SIGNALS_MAX: usize = 1024;

/// A socket: TCP, TLS or an HTTP/2 stream.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Socket for T {}

/// Shared by the connection's driver, the hub and the flusher of one worker.
pub struct ConnectionHandle {
    /// Unique in this process.
    pub number: u64,
    /// The id for clients.
    pub id: Arc<str>,
    /// The format of all messages on its connection.
    pub format: WireFormat,
    /// Queue of all frames for the client.
    pub outbound: Outbound,
    /// Its class in the hub.
    pub class: Cell<u32>,
    /// Messages of the client that come in requests of their own; `None` if the socket carries them.
    emulation: Option<Box<EmulatedInput>>,
    /// The socket, while there is one. Borrowed only during one poll.
    pub socket: RefCell<Option<Box<dyn Socket>>>,
    /// Wakes the driver's task when the socket can be read or written.
    waker: RefCell<Waker>,
    signals: RefCell<VecDeque<Signal>>,
    /// Responses of the backplane with their request ids.
    answers: RefCell<VecDeque<(u32, Response)>>,
    dirty: Cell<bool>,
    /// Whether it is listed in the backlog.
    backlogged: Cell<bool>,
    /// Whether it is being closed to free queued bytes.
    evicted: Cell<bool>,
    /// Whether its driver knows that the socket accepts no more.
    stalled: Cell<bool>,
    /// Nothing may be written now.
    held: Cell<bool>,
    unflushed: Weak<Unflushed>,
}

/// Connections of a worker with pushes since the last flush. The flusher writes to each of their sockets
/// once, instead of waking a task for each. Also lists the backlog: connections whose sockets accepted too
/// little.
#[derive(Default)]
pub struct Unflushed {
    handles: RefCell<Vec<Rc<ConnectionHandle>>>,
    flusher: RefCell<Option<Waker>>,
    held: Cell<bool>,
    backlog: RefCell<Vec<Rc<ConnectionHandle>>>,
    /// Least queued bytes at which a client is listed in the backlog.
    much: usize,
    /// Notified when there is a backlog.
    backlogged: Notify,
}

/// Delays flushing while it exists: more pushes follow, which should leave in the same writes.
pub struct Hold<'a>(&'a Unflushed);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.held.set(false);
        self.0.wake();
    }
}

impl Unflushed {
    /// No connections. Clients with fewer than `much` queued bytes are not listed in the backlog.
    pub fn counting(much: usize) -> Self {
        Self { much, ..Self::default() }
    }

    /// Waits until there are connections to flush, then takes them.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Vec<Rc<ConnectionHandle>>> {
        let mut handles = self.handles.borrow_mut();
        if handles.is_empty() || self.held.get() {
            *self.flusher.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut *handles))
    }

    /// Delays flushing until the returned guard is dropped.
    pub fn hold(&self) -> Hold<'_> {
        self.held.set(true);
        Hold(self)
    }

    /// Resolves when a client is in the backlog. Dropping it loses nothing.
    pub fn backlogged(&self) -> Notified<'_> {
        self.backlogged.notified()
    }

    /// The backlog with the queued bytes of each connection, the largest first.
    pub fn backlog(&self) -> Vec<(usize, Rc<ConnectionHandle>)> {
        let mut all = Vec::new();
        self.backlog.borrow_mut().retain(|handle| {
            let waiting = handle.outbound.pending();
            let much = waiting > 0 && waiting >= self.much;
            if much {
                all.push((waiting, handle.clone()));
            }
            handle.backlogged.set(much);
            much
        });
        all.sort_unstable_by_key(|(waiting, _)| Reverse(*waiting));
        all
    }

    fn add(&self, handle: &Rc<ConnectionHandle>) {
        self.handles.borrow_mut().push(handle.clone());
        self.wake();
    }

    fn wake(&self) {
        if !self.held.get()
            && !self.handles.borrow().is_empty()
            && let Some(flusher) = self.flusher.borrow_mut().take()
        {
            flusher.wake();
        }
    }
}

impl ConnectionHandle {
    /// A handle without a socket.
    pub fn new(
        number: u64,
        id: Arc<str>,
        format: WireFormat,
        outbound_bytes_max: usize,
        unflushed: &Rc<Unflushed>,
    ) -> Self {
        Self {
            number,
            id,
            format,
            outbound: Outbound::new(outbound_bytes_max),
            class: Cell::new(0),
            emulation: None,
            socket: RefCell::default(),
            waker: RefCell::new(Waker::noop().clone()),
            signals: RefCell::default(),
            answers: RefCell::default(),
            dirty: Cell::new(false),
            backlogged: Cell::new(false),
            evicted: Cell::new(false),
            stalled: Cell::new(false),
            held: Cell::new(false),
            unflushed: Rc::downgrade(unflushed),
        }
    }

    /// With messages that come in requests of their own.
    #[must_use]
    pub fn with_emulation(self, emulation: EmulatedInput) -> Self {
        Self { emulation: Some(Box::new(emulation)), ..self }
    }

    /// Queues a message that came in a request of its own and wakes the driver. A message that exceeds a
    /// limit closes the connection: the client would not notice otherwise that it was not carried out.
    pub fn input(&self, session: &str, data: Bytes, bytes_max: usize) -> InputOutcome {
        let Some(emulation) = &self.emulation else { return InputOutcome::NoSession };
        let too_big = data.len() > bytes_max;
        let outcome = emulation.put(session, data, bytes_max);
        match outcome {
            InputOutcome::Accepted => self.waker.borrow().wake_by_ref(),
            InputOutcome::Full if too_big => self.signal(Signal::Refused(Close::MESSAGE_TOO_BIG)),
            InputOutcome::Full => {
                let reason = "more commands wait than the gateway keeps";
                self.signal(Signal::Refused(Close::custom(Close::TOO_MANY_REQUESTS.code, reason)));
            }
            InputOutcome::NoSession => (),
        }
        outcome
    }

    /// Whether this is its session.
    pub fn has_session(&self, session: &str) -> bool {
        self.emulation.as_ref().is_some_and(|emulation| emulation.has_session(session))
    }

    /// Takes the oldest message that came in a request of its own.
    pub fn take_input(&self) -> Option<Bytes> {
        self.emulation.as_ref()?.take()
    }

    /// Whether such messages wait.
    pub fn has_input(&self) -> bool {
        self.emulation.as_ref().is_some_and(|emulation| emulation.has_messages())
    }

    /// What the client has to know to send such messages.
    pub fn emulation(&self) -> Option<&Arc<Emulation>> {
        self.emulation.as_ref().map(|emulation| &emulation.address)
    }

    /// Queues a shared frame and schedules a flush after this turn. If the queue is full, the client is
    /// signalled as slow.
    pub fn push(self: &Rc<Self>, frame: &Bytes) -> Pushed {
        let pushed = self.outbound.push(frame);
        match pushed {
            Pushed::Sent => {
                if !self.dirty.replace(true)
                    && let Some(unflushed) = self.unflushed.upgrade()
                {
                    unflushed.add(self);
                }
            }
            Pushed::Full => self.signal(Signal::Slow),
            Pushed::Closed => (),
        }
        pushed
    }

    /// Must be called after a flush: lists the connection in the backlog if many bytes are left.
    pub fn count_backlog(self: &Rc<Self>) {
        let waiting = self.outbound.pending();
        if waiting > 0
            && !self.backlogged.get()
            && let Some(unflushed) = self.unflushed.upgrade()
            && waiting >= unflushed.much
        {
            self.backlogged.set(true);
            unflushed.backlog.borrow_mut().push(self.clone());
            unflushed.backlogged.notify_one();
        }
    }

    /// Marks the connection to be closed, to free queued bytes. False if it is already being closed.
    pub fn evict(&self) -> bool {
        !self.outbound.is_closed() && !self.evicted.replace(true)
    }

    /// Whether it was marked by [`evict`](Self::evict).
    pub fn is_evicted(&self) -> bool {
        self.evicted.get()
    }

    /// Queues a signal and wakes the driver.
    pub fn signal(&self, signal: Signal) {
        let mut signals = self.signals.borrow_mut();
        if signals.len() < SIGNALS_MAX {
            if signals.back() != Some(&signal) {
                signals.push_back(signal);
            }
        } else if signals[SIGNALS_MAX - 1] != Signal::Slow {
            signals[SIGNALS_MAX - 1] = Signal::Slow;
        }
        self.waker.borrow().wake_by_ref();
    }

    /// Takes the oldest signal.
    pub fn take_signal(&self) -> Option<Signal> {
        self.signals.borrow_mut().pop_front()
    }

    /// Whether signals wait.
    pub fn has_signals(&self) -> bool {
        !self.signals.borrow().is_empty()
    }

    /// Queues a response of the backplane and wakes the driver.
    pub fn answer(&self, request_id: u32, answer: Response) {
        self.answers.borrow_mut().push_back((request_id, answer));
        self.waker.borrow().wake_by_ref();
    }

    /// Takes the oldest response.
    pub fn take_answer(&self) -> Option<(u32, Response)> {
        self.answers.borrow_mut().pop_front()
    }

    /// Whether responses wait.
    pub fn has_answers(&self) -> bool {
        !self.answers.borrow().is_empty()
    }

    /// Stores the waker of the driver's task. Called at each of its polls.
    pub fn set_waker(&self, waker: &Waker) {
        self.waker.borrow_mut().clone_from(waker);
    }

    /// Keeps what is queued from being written until [`release`](Self::release), after which the driver
    /// flushes.
    pub fn hold(&self) {
        self.held.set(true);
    }

    /// Ends [`hold`](Self::hold).
    pub fn release(&self) {
        self.held.set(false);
    }

    /// Writes queued bytes, and counts the writes. The socket wakes the driver when it accepts more, also if
    /// another task calls this.
    ///
    /// # Errors
    ///
    /// The error of the socket.
    pub fn poll_flush(&self, writes: &Sizes) -> Poll<std::io::Result<()>> {
        self.dirty.set(false);
        if self.held.get() {
            return Poll::Ready(Ok(()));
        }
        let mut socket = self.socket.borrow_mut();
        let Some(socket) = socket.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        let waker = self.waker.borrow();
        let mut context = Context::from_waker(&waker);
        let flushed = self.outbound.poll_flush(&mut context, Pin::new(&mut **socket), writes);
        if flushed.is_ready() {
            self.stalled.set(false);
        }
        flushed
    }

    /// Writes pushes of others. The driver writes what the socket does not accept now.
    pub fn flush_for_others(self: &Rc<Self>, writes: &Sizes) {
        match self.poll_flush(writes) {
            Poll::Ready(Ok(())) => (),
            Poll::Ready(Err(_)) => self.signal(Signal::SocketFailed),
            Poll::Pending => {
                self.count_backlog();
                // Wake only once: the socket wakes the driver when it accepts more.
                if !self.stalled.replace(true) {
                    self.waker.borrow().wake_by_ref();
                }
            }
        }
    }
}
