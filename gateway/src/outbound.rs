//! The one way out: everything that is written to a socket passes this queue, in order.
//!
//! Whoever has something for a client pushes and goes on; nobody waits. What goes to many is queued by reference, what
//! goes to one is copied into an open chunk, so that a turn of many replies is one allocation and one write.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// How a push ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// Queued.
    Sent,
    /// The client does not read fast enough. Nothing was queued.
    Full,
    /// The last frame was queued already, or the socket is gone.
    Closed,
}

/// Chunks handed to the system in one write.
const SLICES_MAX: usize = 64;

/// Room for chunks that an empty queue keeps: making it anew costs as much as a delivery.
const CHUNKS_KEPT: usize = 4;

/// Replies from this size on are taken over instead of copied together.
const COPY_BYTES_MAX: usize = 4096;

/// The queue of one connection. Bounded in bytes, separately for what others push and for the client's own replies:
/// a long answer must not make the next publication look like a slow reader.
#[derive(Debug)]
pub struct Outbound {
    queue: RefCell<Queue>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Chunk>,
    /// Replies that may still be joined by others.
    open: Vec<u8>,
    push_bytes: usize,
    reply_bytes: usize,
    /// Whether the first chunk was written in part: it must be finished before anything else.
    begun: bool,
    closed: bool,
    written: u64,
    counted: u64,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    push: bool,
}

impl Outbound {
    /// An empty queue. It holds no buffer until something is queued.
    pub fn new(bytes_max: usize) -> Self {
        Self { queue: RefCell::default(), bytes_max }
    }

    /// Queues a complete frame that others share.
    pub fn push(&self, frame: &Bytes) -> Pushed {
        let mut queue = self.queue.borrow_mut();
        if queue.closed {
            return Pushed::Closed;
        }
        if queue.push_bytes + frame.len() > self.bytes_max {
            return Pushed::Full;
        }
        queue.seal();
        queue.push_bytes += frame.len();
        queue.chunks.push_back(Chunk { bytes: frame.clone(), push: true });
        Pushed::Sent
    }

    /// Queues a complete frame for this client alone. Replies may overshoot the bound by one: how much a client gets to
    /// see is decided before.
    pub fn reply(&self, frame: &[u8]) -> Pushed {
        let mut queue = self.queue.borrow_mut();
        if queue.closed {
            return Pushed::Closed;
        }
        if queue.reply_bytes > self.bytes_max {
            return Pushed::Full;
        }
        queue.reply_bytes += frame.len();
        if frame.len() >= COPY_BYTES_MAX {
            queue.seal();
            queue.chunks.push_back(Chunk { bytes: Bytes::copy_from_slice(frame), push: false });
        } else {
            queue.open.extend_from_slice(frame);
        }
        Pushed::Sent
    }

    /// Queues the last frame. Nothing is accepted after it. `discard` drops what waits before it: a client that was too
    /// slow for its queue would not read the reason behind that queue either.
    pub fn close(&self, frame: Bytes, discard: bool) {
        let mut queue = self.queue.borrow_mut();
        if queue.closed {
            return;
        }
        queue.closed = true;
        if discard {
            queue.open = Vec::new();
            let keep = usize::from(queue.begun);
            queue.chunks.truncate(keep);
        }
        queue.seal();
        queue.chunks.push_back(Chunk { bytes: frame, push: false });
        queue.recount();
    }

    /// Drops everything: the socket is gone.
    pub fn abandon(&self) {
        let mut queue = self.queue.borrow_mut();
        *queue = Queue { closed: true, written: queue.written, counted: queue.counted, ..Queue::default() };
    }

    /// Bytes that wait.
    pub fn pending(&self) -> usize {
        let queue = self.queue.borrow();
        queue.push_bytes + queue.reply_bytes
    }

    /// Bytes that were handed to the system since the beginning.
    pub fn written(&self) -> u64 {
        self.queue.borrow().written
    }

    /// Bytes that were handed to the system since this was last asked.
    pub fn take_uncounted(&self) -> u64 {
        let mut queue = self.queue.borrow_mut();
        let uncounted = queue.written - queue.counted;
        queue.counted = queue.written;
        uncounted
    }

    /// Takes everything that waits, as one piece. For a transport that is not a socket.
    pub fn take(&self) -> Vec<u8> {
        let mut queue = self.queue.borrow_mut();
        queue.seal();
        let mut all = Vec::with_capacity(queue.push_bytes + queue.reply_bytes);
        for chunk in std::mem::take(&mut queue.chunks) {
            all.extend_from_slice(&chunk.bytes);
        }
        queue.written += all.len() as u64;
        queue.begun = false;
        queue.recount();
        all
    }

    /// Writes until nothing waits or the socket accepts no more. Dropping the future that polls this loses nothing: what
    /// was not written stays queued.
    pub fn poll_flush(
        &self,
        cx: &mut Context<'_>,
        mut socket: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<io::Result<()>> {
        let mut queue = self.queue.borrow_mut();
        queue.seal();
        while !queue.chunks.is_empty() {
            let written = if let [only] = queue.chunks.make_contiguous() {
                ready!(socket.as_mut().poll_write(cx, &only.bytes))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let mut count = 0;
                for (slice, chunk) in slices.iter_mut().zip(&queue.chunks) {
                    *slice = IoSlice::new(&chunk.bytes);
                    count += 1;
                }
                ready!(socket.as_mut().poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queue.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl Queue {
    /// Ends the open chunk, so that what comes next comes after it.
    fn seal(&mut self) {
        if !self.open.is_empty() {
            let bytes = Bytes::from(std::mem::take(&mut self.open));
            self.chunks.push_back(Chunk { bytes, push: false });
        }
    }

    fn advance(&mut self, mut written: usize) {
        self.written += written as u64;
        while written > 0 {
            let Some(first) = self.chunks.front_mut() else { break };
            let part = written.min(first.bytes.len());
            first.bytes.advance(part);
            written -= part;
            let (push, done) = (first.push, first.bytes.is_empty());
            if push {
                self.push_bytes -= part
            } else {
                self.reply_bytes -= part
            }
            self.begun = !done;
            if done {
                self.chunks.pop_front();
            }
        }
        if self.chunks.is_empty() && self.chunks.capacity() > CHUNKS_KEPT {
            // An idle connection keeps no buffer worth the name.
            self.chunks = VecDeque::new();
        }
    }

    fn recount(&mut self) {
        let bytes =
            |push| self.chunks.iter().filter(|chunk| chunk.push == push).map(|chunk| chunk.bytes.len()).sum();
        (self.push_bytes, self.reply_bytes) = (bytes(true), bytes(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts a given number of bytes and counts the writes.
    struct Socket {
        got: Vec<u8>,
        room: usize,
        writes: usize,
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.room == 0 {
                return Poll::Pending;
            }
            let n = bytes.len().min(self.room);
            self.room -= n;
            self.writes += 1;
            self.got.extend_from_slice(&bytes[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn flush(outbound: &Outbound, room: usize) -> (Vec<u8>, usize) {
        let mut socket = Socket { got: Vec::new(), room, writes: 0 };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = outbound.poll_flush(&mut cx, Pin::new(&mut socket));
        (socket.got, socket.writes)
    }

    #[test]
    fn replies_and_pushes_leave_in_order_with_one_write() {
        let outbound = Outbound::new(100);
        assert_eq!(outbound.reply(b"a"), Pushed::Sent);
        assert_eq!(outbound.reply(b"b"), Pushed::Sent);
        assert_eq!(outbound.push(&Bytes::from_static(b"c")), Pushed::Sent);
        assert_eq!(outbound.reply(b"d"), Pushed::Sent);
        assert_eq!(flush(&outbound, 100), (b"abcd".to_vec(), 1));
        assert_eq!(outbound.pending(), 0);
        assert_eq!(outbound.written(), 4);
    }

    #[test]
    fn a_full_queue_takes_no_more_pushes_but_still_answers() {
        let outbound = Outbound::new(3);
        assert_eq!(outbound.push(&Bytes::from_static(b"abc")), Pushed::Sent);
        assert_eq!(outbound.push(&Bytes::from_static(b"d")), Pushed::Full);
        assert_eq!(outbound.reply(b"12345"), Pushed::Sent);
        assert_eq!(outbound.reply(b"6"), Pushed::Full);
        assert_eq!(flush(&outbound, 100).0, b"abc12345");
        assert_eq!(outbound.push(&Bytes::from_static(b"d")), Pushed::Sent);
    }

    #[test]
    fn a_partial_write_goes_on_where_it_stopped() {
        let outbound = Outbound::new(100);
        let _ = outbound.push(&Bytes::from_static(b"abcdef"));
        let _ = outbound.push(&Bytes::from_static(b"ghi"));
        assert_eq!(flush(&outbound, 4).0, b"abcd");
        assert_eq!(outbound.pending(), 5);
        assert_eq!(flush(&outbound, 100).0, b"efghi");
    }

    #[test]
    fn the_last_frame_of_a_slow_client_waits_only_for_the_frame_that_was_begun() {
        let outbound = Outbound::new(100);
        let _ = outbound.push(&Bytes::from_static(b"abcdef"));
        let _ = outbound.push(&Bytes::from_static(b"dropped"));
        assert_eq!(flush(&outbound, 4).0, b"abcd");
        let _ = outbound.reply(b"dropped too");
        outbound.close(Bytes::from_static(b"!"), true);
        assert_eq!(outbound.push(&Bytes::from_static(b"late")), Pushed::Closed);
        assert_eq!(outbound.reply(b"late"), Pushed::Closed);
        assert_eq!(outbound.pending(), 3);
        assert_eq!(flush(&outbound, 100).0, b"ef!");
    }

    #[test]
    fn an_orderly_close_lets_everything_out_first() {
        let outbound = Outbound::new(100);
        let _ = outbound.reply(b"a");
        outbound.close(Bytes::from_static(b"!"), false);
        assert_eq!(flush(&outbound, 100).0, b"a!");
    }
}
