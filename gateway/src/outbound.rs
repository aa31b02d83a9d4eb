//! The outbound queue of a connection: everything that is written to a socket passes this queue, in order.
//!
//! Code that has a frame for a client pushes it and never waits. A frame for many clients is queued by
//! reference; a reply to one client is copied into an open chunk, so that a turn of many replies is one
//! allocation and one write.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

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

/// Most bytes that a socket may accept and keep in a buffer of its own, as TLS does. They count as queued
/// until the system has them, so that a client that does not read is noticed.
pub const SOCKET_BYTES_MAX: usize = 16 * 1024;

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
    /// Most bytes that the socket has accepted and may still keep.
    kept: usize,
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
        if !frame.is_empty() {
            queue.chunks.push_back(frame);
        }
        queue.recount();
    }

    /// Drops everything: the socket is gone.
    pub fn abandon(&self) {
        let mut queue = self.queue.borrow_mut();
        let written = queue.passed_on();
        *queue = Queue { closed: true, written, ..Queue::default() };
    }

    /// Whether the last frame has been queued, or the socket is gone.
    pub fn is_closed(&self) -> bool {
        self.queue.borrow().closed
    }

    /// Queued bytes, including those that the socket keeps.
    pub fn pending(&self) -> usize {
        let queue = self.queue.borrow();
        queue.bytes + queue.kept
    }

    /// Bytes passed to the system since the beginning.
    pub fn written(&self) -> u64 {
        self.queue.borrow().passed_on()
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

    /// Writes until the queue and the socket's own buffer are empty, or the system accepts no more. Dropping
    /// the future that polls this loses nothing: unwritten bytes stay queued. A socket keeps at most
    /// [`SOCKET_BYTES_MAX`]. `writes` counts what the socket accepts at once.
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
        let written = queue.poll_write(cx, socket.as_mut(), writes)?;
        // Also if the socket accepts no more: what it keeps may be passed on.
        if socket.poll_flush(cx)?.is_ready() {
            queue.kept = 0;
            return written.map(Ok);
        }
        if queue.kept > 0 { Poll::Pending } else { written.map(Ok) }
    }
}

impl Queue {
    /// Writes until all chunks are written or the socket accepts no more.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        mut socket: Pin<&mut (impl AsyncWrite + ?Sized)>,
        writes: &Sizes,
    ) -> io::Result<Poll<()>> {
        while !self.chunks.is_empty() {
            let written = if self.chunks.len() == 1 {
                let only = &self.chunks[0];
                socket.as_mut().poll_write(cx, only)?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let mut count = 0;
                for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
                    *slice = IoSlice::new(chunk);
                    count += 1;
                }
                socket.as_mut().poll_write_vectored(cx, &slices[..count])?
            };
            match written {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => {
                    writes.observe(written);
                    self.advance(written);
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Bytes that the system has.
    fn passed_on(&self) -> u64 {
        self.written - self.kept as u64
    }

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
        self.kept = (self.kept + written).min(SOCKET_BYTES_MAX);
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

    /// Encrypts, say: accepts bytes into a buffer of its own and passes them on when it can.
    #[derive(Default)]
    struct Buffering {
        kept: Vec<u8>,
        passed_on: usize,
        room: usize,
    }

    impl AsyncWrite for Buffering {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let _ = self.as_mut().poll_flush(cx);
            let n = bytes.len().min(SOCKET_BYTES_MAX - self.kept.len());
            self.kept.extend_from_slice(&bytes[..n]);
            let _ = self.as_mut().poll_flush(cx);
            if n == 0 { Poll::Pending } else { Poll::Ready(Ok(n)) }
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            let n = self.kept.len().min(self.room);
            self.kept.drain(..n);
            self.room -= n;
            self.passed_on += n;
            if self.kept.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush(cx)
        }
    }

    #[test]
    fn bytes_in_the_buffer_of_the_socket_are_pending_until_the_system_has_them() {
        let outbound = Outbound::new(100_000);
        let mut socket = Buffering::default();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let writes = Sizes::default();
        let mut flush = |room| {
            socket.room = room;
            let flushed = outbound.poll_flush(&mut cx, Pin::new(&mut socket), &writes).is_ready();
            assert!(outbound.written() <= socket.passed_on as u64, "no progress that was not made");
            (flushed, outbound.pending(), outbound.written())
        };
        assert_eq!(outbound.reply(&[b'x'; 1000]), Pushed::Sent);
        assert_eq!(flush(0), (false, 1000, 0));
        assert_eq!(flush(999), (false, 1000, 0));
        assert_eq!(flush(1), (true, 0, 1000));
        assert_eq!(outbound.push(&Bytes::from(vec![b'y'; 40_000])), Pushed::Sent);
        assert_eq!(flush(0), (false, 40_000, 1000));
        let (flushed, pending, written) = flush(20_000);
        assert!(!flushed && (20_000..40_000).contains(&pending), "{pending}");
        assert_eq!(written, 41_000 - pending as u64);
        assert_eq!(flush(20_000), (true, 0, 41_000));
    }

    #[test]
    fn an_orderly_close_lets_everything_out_first() {
        let outbound = Outbound::new(1000);
        let _ = outbound.reply(b"a");
        outbound.close(Bytes::from_static(b"!"), false);
        assert_eq!(flush(&outbound, 100).0, b"a!");
    }
}
