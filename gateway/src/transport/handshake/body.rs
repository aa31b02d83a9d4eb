//! [`RequestBody`]: the body of a request, whichever version of HTTP carries it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::http2::Input;

/// The body of a request.
pub(super) enum RequestBody {
    /// Of HTTP/1.1.
    Http1(Incoming),
    /// Of HTTP/2, with the length that the request states, or 0.
    Http2(Input, u64),
    /// None.
    Empty,
}

/// The request was not read to its end: the client has gone, or broke the protocol.
#[derive(Debug)]
pub(super) struct Incomplete;

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Incomplete;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        match self.get_mut() {
            Self::Http1(body) => {
                let frame = Pin::new(body).poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(|_| Incomplete)))
            }
            Self::Http2(body, _) => {
                body.poll_data(cx).map(|data| data.map(|data| data.map(Frame::data).map_err(|_| Incomplete)))
            }
            Self::Empty => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(_, length) => {
                let mut hint = SizeHint::new();
                hint.set_lower(*length);
                hint
            }
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}
