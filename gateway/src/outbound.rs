//! The outbound queue of a connection: everything that is written to a socket passes this queue, in order.
//!
//! Code that has a frame for a client pushes it and never waits. A frame for many clients is queued by
//! reference; a reply to one client is copied into an open chunk, so that a turn of many replies is one
//! allocation and one write.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::histogram::Sizes;

/// Result of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// Queued.
    Sent,
    /// The client does not read fast enough. Nothing was queued.
    Full,
    /// The last frame has been queued, or the socket is gone.
    Closed,
}

/// Chunks passed to the system in one write.
const SLICES_MAX: usize = 64;

/// Capacity for chunks that an empty queue keeps: allocating it again costs as much as a delivery.
const CHUNKS_KEPT: usize = 4;

/// Replies of at least this size get their own chunk instead of being copied.
const COPY_BYTES_MAX: usize = 4096;

/// Most bytes of replies copied into one chunk: a larger buffer would be mostly empty.
const OPEN_BYTES_MAX: usize = 32 * 1024;

/// Bytes of a frame in the queue besides its contents.
const CHUNK_BYTES: usize = size_of::<Bytes>();

/// Part of a queue kept free of pushes, or less for a small queue, so that a ping and an error still fit.
const RESERVED_MAX: usize = 4096;

/// The queue of one connection, bounded in bytes: pushes, replies, and the memory to queue them. Code that
/// replies first checks the [room](Self::room).
#[derive(Debug)]
pub struct Outbound {
    queue: RefCell<Queue>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Bytes>,
    /// Chunk of replies to which more can be appended.
    open: Vec<u8>,
    /// Bytes queued in all chunks.
    bytes: usize,
    /// Whether the first chunk is partly written: it must be finished first.
    begun: bool,
    closed: bool,
    written: u64,
}

impl Outbound {
    /// An empty queue. It holds no buffer until something is queued.
    pub fn new(bytes_max: usize) -> Self {
        Self { queue: RefCell::default(), bytes_max }
    }

    /// Queues a complete frame shared with other clients.
    pub fn push(&self, frame: &Bytes) -> Pushed {
        let mut queue = self.queue.borrow_mut();
        if queue.closed {
            return Pushed::Closed;
        }
        if queue.held() + frame.len() + CHUNK_BYTES > self.bytes_max - self.reserved() {
            return Pushed::Full;
        }
        queue.seal();
        queue.bytes += frame.len();
        queue.chunks.push_back(frame.clone());
        Pushed::Sent
    }

    /// Queues a complete frame for this client alone.
    pub fn reply(&self, frame: &[u8]) -> Pushed {
        let mut queue = self.queue.borrow_mut();
        if queue.closed {
            return Pushed::Closed;
        }
        if queue.held() + frame.len() + CHUNK_BYTES > self.bytes_max {
            return Pushed::Full;
        }
        queue.bytes += frame.len();
        if frame.len() >= COPY_BYTES_MAX {
            queue.seal();
            queue.chunks.push_back(Bytes::copy_from_slice(frame));
        } else {
            queue.open.extend_from_slice(frame);
            if queue.open.len() >= OPEN_BYTES_MAX {
                queue.seal();
            }
        }
        Pushed::Sent
    }

    /// Largest reply that fits now.
    pub fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.queue.borrow().held() + CHUNK_BYTES)
    }

    fn reserved(&self) -> usize {
        RESERVED_MAX.min(self.bytes_max / 16)
    }

    /// Queues the last frame; no frame is accepted after it. `discard` drops the frames queued before it: a
    /// client that was too slow for its queue would not read the reason behind that queue either.
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
        queue.chunks.push_back(frame);
        queue.recount();
    }

    /// Drops everything: the socket is gone.
    pub fn abandon(&self) {
        let mut queue = self.queue.borrow_mut();
        *queue = Queue { closed: true, written: queue.written, ..Queue::default() };
    }

    /// Whether the last frame has been queued, or the socket is gone.
    pub fn is_closed(&self) -> bool {
        self.queue.borrow().closed
    }

    /// Queued bytes.
    pub fn pending(&self) -> usize {
        self.queue.borrow().bytes
    }

    /// Bytes passed to the system since the beginning.
    pub fn written(&self) -> u64 {
        self.queue.borrow().written
    }

    /// Takes all queued bytes as one piece, for a transport that is not a socket.
    pub fn take(&self) -> Vec<u8> {
        let mut queue = self.queue.borrow_mut();
        queue.seal();
        let mut all = Vec::with_capacity(queue.bytes);
        for chunk in std::mem::take(&mut queue.chunks) {
            all.extend_from_slice(&chunk);
        }
        queue.written += all.len() as u64;
        queue.begun = false;
        queue.recount();
        all
    }

    /// Writes until the queue is empty or the socket accepts no more. Dropping the future that polls this
    /// loses nothing: unwritten bytes stay queued. `writes` counts each call of the system.
    ///
    /// # Errors
    ///
    /// The error of the socket.
    pub fn poll_flush(
        &self,
        cx: &mut Context<'_>,
        mut socket: Pin<&mut (impl AsyncWrite + ?Sized)>,
        writes: &Sizes,
    ) -> Poll<io::Result<()>> {
        let mut queue = self.queue.borrow_mut();
        queue.seal();
        while !queue.chunks.is_empty() {
            let written = if queue.chunks.len() == 1 {
                let only = &queue.chunks[0];
                ready!(socket.as_mut().poll_write(cx, only))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let mut count = 0;
                for (slice, chunk) in slices.iter_mut().zip(&queue.chunks) {
                    *slice = IoSlice::new(chunk);
                    count += 1;
                }
                ready!(socket.as_mut().poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            writes.observe(written);
            queue.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl Queue {
    /// Closes the open chunk, so that the next chunk comes after it.
    fn seal(&mut self) {
        if !self.open.is_empty() {
            let bytes = Bytes::from(std::mem::take(&mut self.open));
            self.chunks.push_back(bytes);
        }
    }

    /// Memory of the queue, besides the free capacity of the open chunk.
    fn held(&self) -> usize {
        self.bytes + self.chunks.len() * CHUNK_BYTES
    }

    fn advance(&mut self, mut written: usize) {
        self.written += written as u64;
        while written > 0 {
            let Some(first) = self.chunks.front_mut() else { break };
            let part = written.min(first.len());
            first.advance(part);
            let done = first.is_empty();
            written -= part;
            self.bytes -= part;
            self.begun = !done;
            if done {
                self.chunks.pop_front();
            }
        }
        if self.chunks.is_empty() && self.chunks.capacity() > CHUNKS_KEPT {
            // An idle connection keeps almost no buffer.
            self.chunks = VecDeque::new();
        }
    }

    fn recount(&mut self) {
        self.bytes = self.chunks.iter().map(Bytes::len).sum();
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
        let writes = Sizes::default();
        let _ = outbound.poll_flush(&mut cx, Pin::new(&mut socket), &writes);
        let observed = writes.read();
        assert_eq!((observed.count(), observed.sum), (socket.writes as u64, socket.got.len() as u64));
        (socket.got, socket.writes)
    }

    #[test]
    fn replies_and_pushes_leave_in_order_with_one_write() {
        let outbound = Outbound::new(1000);
        assert_eq!(outbound.reply(b"a"), Pushed::Sent);
        assert_eq!(outbound.reply(b"b"), Pushed::Sent);
        assert_eq!(outbound.push(&Bytes::from_static(b"c")), Pushed::Sent);
        assert_eq!(outbound.reply(b"d"), Pushed::Sent);
        assert_eq!(flush(&outbound, 100), (b"abcd".to_vec(), 1));
        assert_eq!(outbound.pending(), 0);
        assert_eq!(outbound.written(), 4);
    }

    #[test]
    fn pushes_and_replies_share_one_bound_and_a_little_is_kept_for_replies() {
        let outbound = Outbound::new(16_000);
        let large = Bytes::from(vec![b'x'; 10_000]);
        assert_eq!(outbound.reply(&large), Pushed::Sent);
        assert_eq!(outbound.push(&large), Pushed::Full);
        assert_eq!(outbound.reply(&large), Pushed::Full);
        assert_eq!(outbound.push(&Bytes::from(vec![b'y'; 4_900])), Pushed::Sent);
        assert_eq!(outbound.push(&Bytes::from(vec![b'y'; 100])), Pushed::Full);
        assert_eq!(outbound.reply(&[b'z'; 900]), Pushed::Sent);
        assert_eq!(flush(&outbound, 100_000).0.len(), 15_800);
        assert_eq!(outbound.push(&large), Pushed::Sent);
    }

    #[test]
    fn whoever_looks_for_room_first_is_never_refused() {
        let outbound = Outbound::new(1000);
        for size in [300, 4, 90] {
            let _ = outbound.push(&Bytes::from(vec![b'x'; size]));
        }
        let room = outbound.room();
        assert_eq!(outbound.reply(&vec![b'y'; room + 1]), Pushed::Full);
        assert_eq!(outbound.reply(&vec![b'y'; room]), Pushed::Sent);
    }

    #[test]
    fn what_is_small_costs_what_it_takes_to_queue_it() {
        let outbound = Outbound::new(64 << 10);
        let mut queued = 0;
        while outbound.push(&Bytes::from_static(b"x")) == Pushed::Sent {
            queued += 1;
        }
        assert!(queued * (size_of::<Bytes>() + 1) <= 64 << 10, "{queued}");
        assert!(queued > 1000, "{queued}");
    }

    #[test]
    fn a_partial_write_goes_on_where_it_stopped() {
        let outbound = Outbound::new(1000);
        let _ = outbound.push(&Bytes::from_static(b"abcdef"));
        let _ = outbound.push(&Bytes::from_static(b"ghi"));
        assert_eq!(flush(&outbound, 4).0, b"abcd");
        assert_eq!(outbound.pending(), 5);
        assert_eq!(flush(&outbound, 100).0, b"efghi");
    }

    #[test]
    fn the_last_frame_of_a_slow_client_waits_only_for_the_frame_that_was_begun() {
        let outbound = Outbound::new(1000);
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
        let outbound = Outbound::new(1000);
        let _ = outbound.reply(b"a");
        outbound.close(Bytes::from_static(b"!"), false);
        assert_eq!(flush(&outbound, 100).0, b"a!");
    }
}
