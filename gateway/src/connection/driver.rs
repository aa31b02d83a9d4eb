//! [`Driver`]: the task of one connection. It waits for the next input, feeds the session, and flushes once
//! per turn. It checks deadlines before it handles input, and yields to other connections after each turn.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::event::{Ending, Event};
use super::session::Session;
use super::turn::Turn;
use crate::accept::{Slot, Standing};
use crate::clock::Clock;
use crate::histogram::Sizes;
use crate::hub::connection_handle::ConnectionHandle;
use crate::plugin::async_pool::{AsyncVerdict, PendingVerdict};
use crate::protocol::code::Close;
use crate::transport::Transport;
use crate::transport::websocket::{READ_BUFFER_BYTES, READ_BYTES_MIN, ReadBuffer, Step};

/// How long a client may take to read the close reason and to close its side.
const LINGER: Duration = Duration::from_secs(1);

/// Reads during that time between two pauses.
const LINGER_READS: usize = 64;
const LINGER_PAUSE: Duration = Duration::from_millis(10);

/// Signals handled in one turn.
const SIGNALS_PER_TURN: usize = 256;

/// How long replies wait until the events of their turn are written to the disk: if it is slow, clients do
/// not wait for it.
const WRITTEN_WITHIN: Duration = Duration::from_millis(200);

/// Everything that wakes a connection.
#[derive(Debug)]
enum Wake {
    /// The worker has sent signals.
    Signals,
    /// The backplane has responded.
    Backplane,
    /// Bytes were written, or the socket accepts no more.
    Flushed,
    /// This many bytes are in the read buffer.
    Input(usize),
    /// Earlier input can be handled now.
    Rest,
    /// A plugin on the asynchronous pool has answered.
    Answered(Box<AsyncVerdict>),
    /// The client has closed its side.
    InputEnded,
    /// The socket failed.
    Failed,
    /// A deadline of the core has passed.
    Timer,
}

/// Task of one connection.
pub struct Driver {
    /// The connection behind the socket.
    pub(crate) session: Session,
    /// How its messages arrive.
    transport: Box<dyn Transport>,
    /// The read buffer of the worker.
    read_buffer: Rc<RefCell<ReadBuffer>>,
    /// The clock.
    clock: Clock,
    /// Some input is not handled yet. Complete messages may be buffered in the library, where no event wakes
    /// the task.
    unread: bool,
    /// Bytes to read at once.
    read_bytes: usize,
    /// Handshake slot of a client that is not admitted yet.
    handshake: Option<Slot>,
    /// The last turn ended with work left.
    busy: bool,
}

impl Driver {
    /// A driver for a connection whose handshake is complete.
    pub fn new(
        session: Session,
        transport: Box<dyn Transport>,
        read_buffer: Rc<RefCell<ReadBuffer>>,
        clock: Clock,
    ) -> Self {
        // What came with the handshake is handled first.
        let unread = transport.has_bytes();
        Self {
            session,
            transport,
            read_buffer,
            clock,
            unread,
            read_bytes: READ_BUFFER_BYTES,
            handshake: None,
            busy: false,
        }
    }

    /// Runs until the connection is over; [`linger`] then lets the client read the reason. `handshake` is
    /// released when the client is admitted, and can be evicted while the client is idle.
    pub async fn run(&mut self, handshake: Slot) {
        self.handshake = Some(handshake);
        let handle = self.session.handle().clone();
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        let mut reported = (0, false);
        let mut due = None;
        let mut answering = None;
        while !self.session.is_closed() {
            if self.session.is_admitted() {
                self.handshake = None;
            }
            if let Some(question) = self.session.take_question() {
                answering = Some(question);
                self.handshake.iter().for_each(Slot::serve);
            }
            if self.session.begins_to_ask() {
                self.handshake.iter().for_each(Slot::serve);
            }
            let deadline = self.session.deadline();
            if due != deadline {
                due = deadline;
                let at = deadline.map_or_else(Instant::now, |at| self.clock.instant(at).into());
                timer.as_mut().reset(at);
            }
            let wake =
                poll_fn(|cx| self.poll_wake(cx, &handle, timer.as_mut(), &mut reported, &mut answering))
                    .await;
            let (answers, told) = (matches!(wake, Wake::Backplane), self.session.told_count());
            self.turn(&handle, wake, reported);
            // What a client learns was told, or will be, even if the process is killed now.
            if (answers || told != self.session.told_count())
                && let Some(written) = self.session.events_written()
            {
                handle.hold();
                // Boxed, because only these turns need the memory.
                let _ = Box::pin(timeout(WRITTEN_WITHIN, written)).await;
                handle.release();
            }
            if self.flush(&handle) {
                yield_now().await;
            }
        }
    }

    /// Writes what a turn has queued. True if the task should yield before it continues.
    fn flush(&mut self, handle: &Rc<ConnectionHandle>) -> bool {
        if let Poll::Ready(Err(_)) = handle.poll_flush(self.session.writes()) {
            self.failed(&Turn::begin(self.clock, self.busy), handle);
        }
        handle.count_backlog();
        self.busy
    }

    /// Runs one turn, without its writes.
    fn turn(&mut self, handle: &Rc<ConnectionHandle>, wake: Wake, reported: (u64, bool)) {
        let mut turn = Turn::begin(self.clock, self.busy);
        if let Wake::Flushed = wake {
            let (written, pending) = reported;
            self.session.event(turn.now(), Event::Flushed { written, pending });
        }
        // Deadlines are checked before input; otherwise input could delay them forever.
        if matches!(wake, Wake::Timer) || self.session.is_due(turn.now()) {
            self.session.event(turn.now(), Event::Tick);
            if self.session.is_due(turn.now()) {
                // More subscriptions have expired than one tick ends. They come before input, and the other
                // connections before them.
                turn.end();
            }
        }
        if !self.session.is_closed() {
            self.take(&mut turn, handle, wake);
        }
        self.busy = turn.is_over();
    }

    /// Handles the wake-up, as far as the turn has room.
    fn take(&mut self, turn: &mut Turn, handle: &Rc<ConnectionHandle>, wake: Wake) {
        match wake {
            Wake::Signals => {
                for _ in 0..SIGNALS_PER_TURN {
                    let Some(signal) = handle.take_signal() else { return };
                    self.session.signal(turn.now(), signal);
                    turn.step();
                }
                turn.end();
            }
            Wake::Backplane => {
                self.handshake.iter().for_each(|handshake| handshake.wait(Standing::Silent));
                while !self.session.is_backlogged()
                    && turn.has_room()
                    && let Some((request_id, answer)) = handle.take_answer()
                {
                    self.session.backplane_answered(turn, request_id, answer);
                }
                // A client that waited for responses continues.
                self.pump(turn, handle);
            }
            Wake::Input(count) => {
                let filled = count == self.read_bytes;
                self.read_buffer.borrow_mut().filled(count);
                self.unread = true;
                self.pump(turn, handle);
                if self.unread && turn.is_over() {
                    // The input was more than fits into a turn.
                    self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
                } else if filled {
                    self.read_bytes = (self.read_bytes * 2).min(READ_BUFFER_BYTES);
                }
                if filled {
                    // More input may be read at once.
                    turn.end();
                }
            }
            Wake::Rest => self.pump(turn, handle),
            Wake::Answered(answered) => {
                self.handshake.iter().for_each(|handshake| handshake.wait(Standing::Silent));
                self.session.answered(turn, *answered);
                // Messages that arrived meanwhile may be buffered in the library, where nothing wakes the
                // task.
                self.pump(turn, handle);
            }
            Wake::InputEnded => {
                self.end(turn, Close::custom(1006, "closed without a close frame"), Ending::Transport)
            }
            Wake::Failed => self.failed(turn, handle),
            // Already handled in `turn`.
            Wake::Flushed | Wake::Timer => (),
        }
    }

    fn poll_wake(
        &mut self,
        cx: &mut Context<'_>,
        handle: &ConnectionHandle,
        timer: Pin<&mut Sleep>,
        reported: &mut (u64, bool),
        answering: &mut Option<PendingVerdict>,
    ) -> Poll<Wake> {
        handle.set_waker(cx.waker());
        if handle.has_signals() {
            return Poll::Ready(Wake::Signals);
        }
        if handle.has_answers() && !self.session.is_backlogged() {
            return Poll::Ready(Wake::Backplane);
        }
        if handle.outbound.pending() > 0
            && matches!(handle.poll_flush(self.session.writes()), Poll::Ready(Err(_)))
        {
            return Poll::Ready(Wake::Failed);
        }
        let pending = handle.outbound.pending();
        let progress = (handle.outbound.written(), pending > 0);
        // The core needs the written bytes only while some are queued, or when the queue has just become
        // empty.
        if (progress.1 || reported.1) && *reported != progress {
            *reported = progress;
            return Poll::Ready(Wake::Flushed);
        }
        if let Some(question) = answering
            && let Poll::Ready(answered) = question.as_mut().poll(cx)
        {
            *answering = None;
            return Poll::Ready(Wake::Answered(Box::new(answered)));
        }
        if self.session.has_more() {
            return Poll::Ready(Wake::Rest);
        }
        // Messages that came in requests of their own wake the task, too.
        self.unread |= handle.has_input();
        if !self.session.is_backlogged() {
            let suspended = self.session.is_suspended();
            // While the client waits, the socket is read once more, to notice when it closes.
            if !self.unread || suspended && !self.transport.has_bytes() {
                if let Poll::Ready(read) = self.poll_read(cx, handle) {
                    return Poll::Ready(match read {
                        Ok(0) => Wake::InputEnded,
                        Ok(count) => Wake::Input(count),
                        Err(_) => Wake::Failed,
                    });
                }
            } else if !suspended {
                return Poll::Ready(Wake::Rest);
            }
        }
        timer.poll(cx).map(|()| Wake::Timer)
    }

    fn poll_read(&self, cx: &mut Context<'_>, handle: &ConnectionHandle) -> Poll<io::Result<usize>> {
        let mut read_buffer = self.read_buffer.borrow_mut();
        poll_read(cx, handle, read_buffer.space(self.read_bytes))
    }

    /// Runs the complete messages at hand, as far as the turn has room. Stops if the client must read its
    /// replies first, or wait for a response.
    fn pump(&mut self, turn: &mut Turn, handle: &ConnectionHandle) {
        while !self.session.is_closed() && !turn.is_over() {
            if self.session.is_backlogged() {
                let _ = handle.poll_flush(self.session.writes());
                if self.session.is_backlogged() {
                    break;
                }
            }
            if self.session.has_more() {
                self.session.go_on(turn);
                continue;
            }
            if !self.unread || self.session.is_suspended() {
                break;
            }
            match self.transport.step() {
                Step::Message(inbound) => self.session.message(turn, inbound),
                Step::Control(frame) => self.session.control_frame(turn, frame),
                Step::More => turn.look(),
                Step::Wait => self.unread = false,
                Step::Closed(close) => self.end(turn, close, Ending::Client),
                Step::Violation(close) => self.end(turn, close, Ending::Violation),
            }
        }
        self.transport.stash();
    }

    fn failed(&mut self, turn: &Turn, handle: &ConnectionHandle) {
        handle.outbound.abandon();
        self.end(turn, Close::custom(1006, "the socket failed"), Ending::Transport);
    }

    fn end(&mut self, turn: &Turn, close: Close, ending: Ending) {
        self.session.event(turn.now(), Event::TransportEnded { close, ending });
    }
}

fn poll_read(cx: &mut Context<'_>, handle: &ConnectionHandle, into: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut socket = handle.socket.borrow_mut();
    let Some(socket) = socket.as_mut() else { return Poll::Ready(Ok(0)) };
    let mut buffer = ReadBuf::new(into);
    match Pin::new(&mut **socket).poll_read(cx, &mut buffer) {
        Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}

/// After the end of the connection, gives the client a moment to read the remaining bytes.
pub async fn linger(handle: &ConnectionHandle, writes: &Sizes) {
    // Boxed, because only the end of a connection needs this memory.
    let _ = timeout(LINGER, Box::pin(finish(handle, writes))).await;
}

/// Writes the remaining bytes, shuts down the gateway's side, and reads until the client has closed its own:
/// closing a socket with unread bytes would reset it, and the client would never see the reason.
async fn finish(handle: &ConnectionHandle, writes: &Sizes) -> io::Result<()> {
    poll_fn(|cx| {
        handle.set_waker(cx.waker());
        handle.poll_flush(writes)
    })
    .await?;
    poll_fn(|cx| match handle.socket.borrow_mut().as_mut() {
        Some(socket) => Pin::new(&mut **socket).poll_shutdown(cx),
        None => Poll::Ready(Ok(())),
    })
    .await?;
    let mut unread = [0; 512];
    loop {
        for _ in 0..LINGER_READS {
            if poll_fn(|cx| poll_read(cx, handle, &mut unread)).await? == 0 {
                return Ok(());
            }
        }
        // A client that keeps sending is read more slowly than it sends.
        sleep(LINGER_PAUSE).await;
    }
}
