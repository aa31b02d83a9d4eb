//! The task of one connection: waits for whatever comes first, feeds the session, and flushes once per turn.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::event::{Ending, Event};
use super::session::Session;
use crate::accept::{Slot, Standing};
use crate::clock::Clock;
use crate::hub::peer::Peer;
use crate::plugin::elsewhere::{Answered, Answering};
use crate::protocol::code::Close;
use crate::protocol::command::{Command, Request};
use crate::transport::websocket::{Inlet, Step, WebSocket};

/// How long a client gets to read the reason for the end and to close its side.
const LINGER: Duration = Duration::from_secs(1);

/// Everything that can wake a connection.
#[derive(Debug)]
enum Wake {
    /// The rest of the worker has something to say.
    Signals,
    /// The backplane has answered.
    Backplane,
    /// Bytes went out, or the socket takes no more.
    Flushed,
    /// This many bytes are in the inlet.
    Input(usize),
    /// What came earlier can be used now.
    Unread,
    /// A plugin that was asked elsewhere has answered.
    Answered(Box<Answered>),
    /// The client's side is closed.
    InputEnded,
    /// The socket is broken.
    Failed,
    /// The core's deadline.
    Timer,
}

/// One connection's task.
pub struct Driver {
    /// The connection behind the socket.
    pub session: Session,
    /// Its framing.
    pub websocket: WebSocket,
    /// The worker's place for bytes.
    pub inlet: Rc<RefCell<Inlet>>,
    /// Where time comes from.
    pub clock: Clock,
    /// From how many waiting bytes on the client is not read: it must first read what it asked for.
    pub backlog_bytes_max: usize,
    /// The client had to read first: complete messages may lie in the library, where nothing wakes anybody.
    pub held_back: bool,
}

impl Driver {
    /// Runs until the connection is over and the client knows. `handshake` is given back when the client is admitted, and may be
    /// lost while nobody works on it. Dropping the future drops the socket without a word.
    ///
    /// Boxed, because a future keeps each value that moves through it in every place it moved through.
    pub async fn run(mut self: Box<Self>, handshake: Slot) {
        let mut handshake = Some(handshake);
        let peer = self.session.peer().clone();
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        let mut reported = (0, false);
        let mut due = None;
        let mut answering = None;
        // What came with the handshake is handled before anything else arrives.
        self.pump();
        while !self.session.is_closed() {
            if self.session.is_admitted() {
                handshake = None;
            }
            if let Some(question) = self.session.take_question() {
                answering = Some(question);
                handshake.iter().for_each(Slot::serve);
            }
            let deadline = self.session.deadline();
            if due != deadline {
                due = deadline;
                let at = deadline.map_or_else(Instant::now, |at| self.clock.instant(at).into());
                timer.as_mut().reset(at);
            }
            match poll_fn(|cx| self.poll_wake(cx, &peer, timer.as_mut(), &mut reported, &mut answering)).await
            {
                Wake::Signals => {
                    let now = self.clock.now();
                    for signal in peer.take_signals() {
                        self.session.signal(now, signal);
                    }
                }
                Wake::Backplane => {
                    let now = self.clock.now();
                    for (ticket, answer) in peer.take_answers() {
                        self.session.backplane_answered(now, ticket, answer);
                    }
                    // A client that waited for them is read again.
                    self.pump();
                }
                Wake::Flushed => {
                    let (written, pending) = reported;
                    self.session.event(self.clock.now(), Event::Flushed { written, pending });
                }
                Wake::Input(count) => {
                    self.inlet.borrow_mut().filled(count);
                    self.pump();
                }
                Wake::Unread => self.pump(),
                Wake::Answered(answered) => {
                    handshake.iter().for_each(|handshake| handshake.wait(Standing::Silent));
                    self.session.answered(self.clock.now(), *answered);
                    // What came meanwhile may lie in the library already, where nobody sees it.
                    self.pump();
                }
                Wake::InputEnded => {
                    self.end(Close::custom(1006, "closed without a close frame"), Ending::Transport)
                }
                Wake::Failed => {
                    peer.outbound.abandon();
                    self.end(Close::custom(1006, "the socket failed"), Ending::Transport);
                }
                Wake::Timer => self.session.event(self.clock.now(), Event::Tick),
            }
            if let Poll::Ready(Err(_)) = peer.poll_flush() {
                peer.outbound.abandon();
                self.end(Close::custom(1006, "the socket failed"), Ending::Transport);
            }
            self.session.count_written();
        }
        drop(self);
        let _ = timeout(LINGER, linger(&peer)).await;
        // The hub may still hold the peer for a moment; the socket closes now.
        peer.outbound.abandon();
        peer.socket.take();
    }

    fn poll_wake(
        &mut self,
        cx: &mut Context<'_>,
        peer: &Peer,
        timer: Pin<&mut Sleep>,
        reported: &mut (u64, bool),
        answering: &mut Option<Answering>,
    ) -> Poll<Wake> {
        peer.set_waker(cx.waker());
        if peer.has_signals() {
            return Poll::Ready(Wake::Signals);
        }
        if peer.has_answers() {
            return Poll::Ready(Wake::Backplane);
        }
        if peer.outbound.pending() > 0 && matches!(peer.poll_flush(), Poll::Ready(Err(_))) {
            return Poll::Ready(Wake::Failed);
        }
        let pending = peer.outbound.pending();
        let progress = (peer.outbound.written(), pending > 0);
        // Only while something waits (or has just ceased to) does the core care how much went out.
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
        let unread = self.held_back || self.websocket.has_stashed();
        // A client that waits is read once more, which is how its going is seen.
        if pending <= self.backlog_bytes_max && !(unread && self.session.is_suspended()) {
            if unread {
                return Poll::Ready(Wake::Unread);
            }
            if let Poll::Ready(read) = self.poll_read(cx, peer) {
                return Poll::Ready(match read {
                    Ok(0) => Wake::InputEnded,
                    Ok(count) => Wake::Input(count),
                    Err(_) => Wake::Failed,
                });
            }
        }
        timer.poll(cx).map(|()| Wake::Timer)
    }

    fn poll_read(&self, cx: &mut Context<'_>, peer: &Peer) -> Poll<io::Result<usize>> {
        let mut inlet = self.inlet.borrow_mut();
        poll_read(cx, peer, inlet.space())
    }

    /// Runs every complete message that is there, unless the client has to read first.
    fn pump(&mut self) {
        let now = self.clock.now();
        let peer = self.session.peer().clone();
        self.held_back = false;
        while !self.session.is_closed() && !self.session.is_suspended() {
            if peer.outbound.pending() > self.backlog_bytes_max {
                let _ = peer.poll_flush();
                if peer.outbound.pending() > self.backlog_bytes_max {
                    self.held_back = true;
                    break;
                }
            }
            match self.websocket.step() {
                Step::Message(inbound) => self.session.message(now, inbound),
                Step::Pong => {
                    let pong = Command { id: 0, request: Request::Pong };
                    if !peer.protocol.is_json() {
                        self.session.event(now, Event::Command(pong));
                    }
                }
                Step::Wait => break,
                Step::Closed(close) => self.end(close, Ending::Client),
                Step::Violation(close) => self.end(close, Ending::Violation),
            }
        }
        self.websocket.stash();
    }

    fn end(&mut self, close: Close, ending: Ending) {
        self.session.event(self.clock.now(), Event::TransportEnded { close, ending });
    }
}

fn poll_read(cx: &mut Context<'_>, peer: &Peer, into: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut socket = peer.socket.borrow_mut();
    let Some(socket) = socket.as_mut() else { return Poll::Ready(Ok(0)) };
    let mut buffer = ReadBuf::new(into);
    match Pin::new(&mut **socket).poll_read(cx, &mut buffer) {
        Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}

/// Writes what is left, ends our side, and reads until the client has ended its own: closing a socket with unread bytes
/// would reset it, and the client would never see the reason.
async fn linger(peer: &Peer) -> io::Result<()> {
    poll_fn(|cx| {
        peer.set_waker(cx.waker());
        peer.poll_flush()
    })
    .await?;
    poll_fn(|cx| match peer.socket.borrow_mut().as_mut() {
        Some(socket) => Pin::new(&mut **socket).poll_shutdown(cx),
        None => Poll::Ready(Ok(())),
    })
    .await?;
    let mut unread = [0; 512];
    while poll_fn(|cx| poll_read(cx, peer, &mut unread)).await? > 0 {}
    Ok(())
}
