//! [`Paced`] lets a connection read a bounded number of bytes in a row, and lingers at its end. Frames can be
//! a few bytes each, and the library handles all that it can read, so other connections of the worker would
//! wait.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::transport::tls::Stream;

/// Bytes after which the other tasks of the worker get their turn.
const TURN_BYTES: usize = 16 * 1024;

/// How long the end of the client is waited for. Where its last frames meet a closed socket, the system may
/// drop what it has not read yet: the reason of the close, for one.
const LINGER_MAX: Duration = Duration::from_secs(1);

/// A socket that yields.
pub(super) struct Paced {
    socket: Stream,
    /// Once everything is sent.
    lingering: Option<Pin<Box<Sleep>>>,
    /// Bytes read since the task waited.
    read: usize,
}

impl Paced {
    /// Nothing is read yet.
    pub(super) fn new(socket: Stream) -> Self {
        Self { socket, lingering: None, read: 0 }
    }
}

impl AsyncRead for Paced {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read >= TURN_BYTES {
            this.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(cx, into);
        this.read = if read.is_ready() { this.read + into.filled().len() - before } else { 0 };
        read
    }
}

impl AsyncWrite for Paced {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
            this.lingering = Some(Box::pin(sleep(LINGER_MAX)));
        }
        let is_over = |this: &mut Self, cx: &mut Context<'_>| {
            this.lingering.as_mut().is_none_or(|time| time.as_mut().poll(cx).is_ready())
        };
        let mut unwanted = [0; 1024];
        while !is_over(this, cx) {
            let mut unwanted = ReadBuf::new(&mut unwanted);
            let read = ready!(Pin::new(&mut *this).poll_read(cx, &mut unwanted));
            if read.is_err() || unwanted.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
