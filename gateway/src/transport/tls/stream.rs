//! [`Stream`] is a socket during its handshake, with or without TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::Session;
use crate::hub::connection_handle::Socket;
use crate::transport::proxy::Unread;

/// A socket on a listener.
pub enum Stream {
    /// In the clear.
    Plain(Unread),
    /// Encrypted.
    Tls(Box<Session>),
}

impl Stream {
    /// The socket without a layer that it does not need, and the bytes that were read and not used.
    pub fn into_parts(self) -> (Vec<u8>, Box<dyn Socket>) {
        match self {
            Self::Plain(socket) => {
                let (unread, socket) = socket.into_parts();
                (unread, Box::new(socket))
            }
            Self::Tls(stream) => (Vec::new(), stream),
        }
    }
}

/// Calls the same method of the socket inside.
macro_rules! inside {
    ($stream:expr, $socket:ident => $call:expr) => {
        match $stream {
            Stream::Plain($socket) => $call,
            Stream::Tls($socket) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        inside!(self.get_mut(), socket => Pin::new(socket).poll_read(cx, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        inside!(self.get_mut(), socket => Pin::new(socket).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inside!(self.get_mut(), socket => Pin::new(socket).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        inside!(self, socket => socket.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside!(self.get_mut(), socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside!(self.get_mut(), socket => Pin::new(socket).poll_shutdown(cx))
    }
}
