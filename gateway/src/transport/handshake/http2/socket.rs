//! [`StreamSocket`]: a stream of HTTP/2 as a socket.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::streams::OpenStream;
use crate::outbound::SOCKET_BYTES_MAX;

/// Most bytes in the library that count as sent. Pushes are usually smaller, and then nobody has to be woken
/// when the task of the connection has written them.
const FLUSHED_BYTES_MAX: usize = 4096;

/// What a frame is counted as besides its contents: the size of its header.
const FRAME_BYTES: usize = 64;

/// The client's side of a stream: a body, or the bytes of a WebSocket.
pub(in crate::transport::handshake) struct Input(RecvStream);

impl Input {
    /// The data of a stream that the client has opened.
    pub(super) fn new(data: RecvStream) -> Self {
        Self(data)
    }

    /// The next bytes; `None` at the end. The client may send as many again.
    pub(in crate::transport::handshake) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        let Some(data) = ready!(self.0.poll_data(cx)) else { return Poll::Ready(None) };
        Poll::Ready(Some(data.map_err(broken).inspect(|data| {
            let _ = self.0.flow_control().release_capacity(data.len());
        })))
    }
}

/// Bytes of a stream that the library has and the system does not.
#[derive(Default)]
struct Unsent {
    bytes: Cell<usize>,
    /// Woken when some were written.
    waker: RefCell<Option<Waker>>,
}

/// Contents of a frame. Dropped when they are written, or will never be.
pub(super) struct Chunk {
    data: Bytes,
    counted: usize,
    unsent: Rc<Unsent>,
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.unsent.bytes.set(self.unsent.bytes.get() - self.counted);
        if let Some(waker) = self.unsent.waker.take() {
            waker.wake();
        }
    }
}

/// A stream whose response has begun. Dropping it resets the stream, unless it was shut down.
pub(super) struct StreamSocket {
    send: SendStream<Chunk>,
    /// What the client sends; `None` if its request is complete.
    input: Option<Input>,
    /// Received and not yet read.
    received: Bytes,
    unsent: Rc<Unsent>,
    /// The last frame has been queued.
    ending: bool,
    /// The last frame has been written.
    ended: bool,
    /// Counts the stream.
    _open: OpenStream,
}

impl StreamSocket {
    /// The stream of a response whose head was sent. `input` is what the client goes on to send.
    pub(super) fn new(send: SendStream<Chunk>, input: Option<Input>, open: OpenStream) -> Self {
        Self {
            send,
            input,
            received: Bytes::new(),
            unsent: Rc::default(),
            ending: false,
            ended: false,
            _open: open,
        }
    }

    /// Waits for room for some of `wanted` bytes, and returns for how many. There is none while the library
    /// keeps more than a flush leaves there: each write is a frame of its own, however small.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(cx, FLUSHED_BYTES_MAX));
        let wanted = wanted.min(SOCKET_BYTES_MAX);
        self.send.reserve_capacity(wanted);
        let mut room = self.send.capacity();
        while room == 0 {
            room = match ready!(self.send.poll_capacity(cx)) {
                Some(room) => room.map_err(broken)?,
                // The client has reset the stream, or the connection is gone.
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        Poll::Ready(Ok(room.min(wanted)))
    }

    fn queue(&mut self, data: Bytes, last: bool) -> io::Result<()> {
        let counted = data.len() + FRAME_BYTES;
        self.unsent.bytes.set(self.unsent.bytes.get() + counted);
        let chunk = Chunk { data, counted, unsent: self.unsent.clone() };
        self.send.send_data(chunk, last).map_err(broken)
    }

    /// Waits until the library has at most this many bytes.
    fn poll_unsent(&self, cx: &mut Context<'_>, most: usize) -> Poll<()> {
        if self.unsent.bytes.get() <= most {
            return Poll::Ready(());
        }
        *self.unsent.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for StreamSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(input) = &mut this.input else {
            // The client has sent its request. What may follow is only that it does not want the response.
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            return this.send.poll_reset(cx).map(|_| Ok(()));
        };
        while this.received.is_empty() {
            match ready!(input.poll_data(cx)) {
                Some(data) => this.received = data?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.received.len().min(into.remaining());
        into.put_slice(&this.received.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let all = slices.iter().map(|slice| slice.len()).sum();
        if all == 0 {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(this.poll_room(cx, all))?;
        let mut data = BytesMut::with_capacity(room);
        for slice in slices {
            let part = slice.len().min(room - data.len());
            data.extend_from_slice(&slice[..part]);
        }
        this.queue(data.freeze(), false)?;
        Poll::Ready(Ok(room))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx, FLUSHED_BYTES_MAX).map(Ok)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ending {
            this.ending = true;
            this.queue(Bytes::new(), true)?;
        }
        ready!(this.poll_unsent(cx, 0));
        this.ended = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for StreamSocket {
    fn drop(&mut self) {
        // After the end it asks the client to send no more (RFC 9113, 8.1), and does nothing if it has ended
        // as well. Before the end it also drops what the client did not take.
        self.send.send_reset(if self.ended { Reason::NO_ERROR } else { Reason::CANCEL });
    }
}
