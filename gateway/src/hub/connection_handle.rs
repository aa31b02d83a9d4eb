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

use super::signal::Signal;
use crate::backplane::Response;
use crate::outbound::{Outbound, Pushed};
use crate::protocol::Protocol;

/// Signals a connection may have waiting. Each subscription has at most one, and of orders a worker hands on fewer between two
/// turns than a connection takes in one; so more than this means that the connection does not run.
const SIGNALS_MAX: usize = 1024;

/// A socket: what TCP, TLS and an HTTP/2 stream have in common.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Socket for T {}

/// See the module. Shared by the connection's driver, the hub and the flusher of one worker.
pub struct ConnectionHandle {
    /// Unique in this process.
    pub number: u64,
    /// The id that clients know.
    pub id: Arc<str>,
    /// How the client talks.
    pub protocol: Protocol,
    /// Everything for the client goes through here.
    pub outbound: Outbound,
    /// Its class among those of the hub.
    pub class: Cell<u32>,
    /// The socket, while there is one. Borrowed only for the time of one poll.
    pub socket: RefCell<Option<Box<dyn Socket>>>,
    /// The driver's task, which wants to hear when the socket can be read or written.
    waker: RefCell<Waker>,
    signals: RefCell<VecDeque<Signal>>,
    /// What the backplane has answered, with the tickets of the questions.
    answers: RefCell<VecDeque<(u32, Response)>>,
    dirty: Cell<bool>,
    /// Whether it stands among those for which much waits.
    backlogged: Cell<bool>,
    /// Whether it goes because of what waits for all.
    evicted: Cell<bool>,
    /// Whether its driver knows that the socket takes no more.
    stalled: Cell<bool>,
    unflushed: Weak<Unflushed>,
}

/// The connections of a worker that others have pushed to since the last flush. The flusher writes to each of their
/// sockets once, instead of waking a task for each. And those whose sockets did not take it.
#[derive(Default)]
pub struct Unflushed {
    handles: RefCell<Vec<Rc<ConnectionHandle>>>,
    flusher: RefCell<Option<Waker>>,
    held: Cell<bool>,
    backlog: RefCell<Vec<Rc<ConnectionHandle>>>,
    /// Bytes that wait for a client from which on it counts among those for which much does.
    much: usize,
    /// Told when there is a backlog.
    backlogged: Notify,
}

/// While there is one nothing is flushed for others: more is about to be pushed, which is to leave with the same writes.
pub struct Hold<'a>(&'a Unflushed);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.held.set(false);
        self.0.wake();
    }
}

impl Unflushed {
    /// Nobody has been pushed to. Clients for which fewer bytes wait are not counted among those for which much does.
    pub fn counting(much: usize) -> Self {
        Self { much, ..Self::default() }
    }

    /// Waits until there is something to flush, then takes it.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Vec<Rc<ConnectionHandle>>> {
        let mut handles = self.handles.borrow_mut();
        if handles.is_empty() || self.held.get() {
            *self.flusher.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut *handles))
    }

    /// Has what is pushed from now on wait until this is dropped.
    pub fn hold(&self) -> Hold<'_> {
        self.held.set(true);
        Hold(self)
    }

    /// Is over when much waits for some client. Dropping it loses nothing.
    pub fn backlogged(&self) -> Notified<'_> {
        self.backlogged.notified()
    }

    /// The connections for which much waits and how many bytes that is, the most first.
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
        protocol: Protocol,
        outbound_bytes_max: usize,
        unflushed: &Rc<Unflushed>,
    ) -> Self {
        Self {
            number,
            id,
            protocol,
            outbound: Outbound::new(outbound_bytes_max),
            class: Cell::new(0),
            socket: RefCell::default(),
            waker: RefCell::new(Waker::noop().clone()),
            signals: RefCell::default(),
            answers: RefCell::default(),
            dirty: Cell::new(false),
            backlogged: Cell::new(false),
            evicted: Cell::new(false),
            stalled: Cell::new(false),
            unflushed: Rc::downgrade(unflushed),
        }
    }

    /// Queues a frame that others share, and has it flushed after this turn. A client that is too slow for it hears so.
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

    /// To be called when the socket took what it takes: if much is left, it counts among what waits for all clients.
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

    /// The connection is to go because of what waits for all clients together. False if it is on its way out already.
    pub fn evict(&self) -> bool {
        !self.outbound.is_closed() && !self.evicted.replace(true)
    }

    /// Whether it goes because of that.
    pub fn is_evicted(&self) -> bool {
        self.evicted.get()
    }

    /// Tells the connection something and wakes its driver.
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

    /// Takes what the connection was told first.
    pub fn take_signal(&self) -> Option<Signal> {
        self.signals.borrow_mut().pop_front()
    }

    /// Whether the connection was told something.
    pub fn has_signals(&self) -> bool {
        !self.signals.borrow().is_empty()
    }

    /// Hands the connection an answer of the backplane and wakes its driver.
    pub fn answer(&self, request_id: u32, answer: Response) {
        self.answers.borrow_mut().push_back((request_id, answer));
        self.waker.borrow().wake_by_ref();
    }

    /// Takes what the backplane has answered first.
    pub fn take_answer(&self) -> Option<(u32, Response)> {
        self.answers.borrow_mut().pop_front()
    }

    /// Whether the backplane has answered.
    pub fn has_answers(&self) -> bool {
        !self.answers.borrow().is_empty()
    }

    /// Remembers the driver's task. Called at each of its polls.
    pub fn set_waker(&self, waker: &Waker) {
        self.waker.borrow_mut().clone_from(waker);
    }

    /// Writes what waits. The socket wakes the driver when it accepts more, whoever calls this.
    pub fn poll_flush(&self) -> Poll<std::io::Result<()>> {
        self.dirty.set(false);
        let mut socket = self.socket.borrow_mut();
        let Some(socket) = socket.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        let waker = self.waker.borrow();
        let flushed = self.outbound.poll_flush(&mut Context::from_waker(&waker), Pin::new(&mut **socket));
        if flushed.is_ready() {
            self.stalled.set(false);
        }
        flushed
    }

    /// Writes what others have pushed. What the socket does not take now is the driver's business.
    pub fn flush_for_others(self: &Rc<Self>) {
        match self.poll_flush() {
            Poll::Ready(Ok(())) => (),
            Poll::Ready(Err(_)) => self.signal(Signal::SocketFailed),
            Poll::Pending => {
                self.count_backlog();
                // Once: when the socket takes more it wakes the driver by itself.
                if !self.stalled.replace(true) {
                    self.waker.borrow().wake_by_ref();
                }
            }
        }
    }
}
