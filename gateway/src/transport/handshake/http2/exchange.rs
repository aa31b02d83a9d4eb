//! One request over HTTP/2, from its head to its response or to the connection that it opens.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::rc::Rc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http_body_util::BodyExt as _;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout_at};

use super::refused;
use super::socket::{Chunk, Input, StreamSocket};
use super::streams::OpenStream;
use crate::accept::{Arrival, Refusal, Standing};
use crate::shutdown;
use crate::telemetry::metrics::Refused;
use crate::transport::handshake::body::RequestBody;
use crate::transport::handshake::request::{Answer, WebSocketOverHttp2};
use crate::transport::handshake::{Clients, Exchange, Handshake, Hop, Sender};

/// Headers that say something about a connection of HTTP/1.1. They must not be sent over HTTP/2 (RFC 9113,
/// 8.2.2); the library refuses requests that have them.
const OF_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Serves a request until it is answered, or has become a connection.
pub(super) async fn exchange(
    handshake: Rc<Handshake>,
    clients: Rc<dyn Clients>,
    sender: Rc<Sender>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Chunk>,
    mut arrival: Arrival,
    open: OpenStream,
) {
    let (begun, deadline) = clients.begin();
    let exchange = Exchange { complete: Cell::new(false), answered: Cell::new(0), deadline };
    let (request, input) = translate(request);
    let head_only = request.method() == Method::HEAD;
    let hop = Hop {
        address: sender.address,
        trusted: sender.trusted,
        slot: &arrival.slot,
        certificate: sender.certificate.as_ref(),
    };
    let agreed = tokio::select! {
        biased;
        // First, because a body that ends early looks like a mistake in the request.
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return open.count_fault(),
        agreed = timeout_at(deadline, Box::pin(handshake.agree(request, hop, &exchange))) => agreed,
        () = cut_short(&handshake, &exchange) => {
            handshake.refused(Refusal::GOING_DOWN.reason, sender.address);
            let _ = respond.send_response(refused(Refusal::GOING_DOWN), true);
            return;
        }
        true = arrival.evicted.wait() => {
            handshake.refused(Refused::Evicted, sender.address);
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
    };
    match agreed {
        Ok(Ok(agreement)) => {
            // An error: the client has gone.
            let Ok(send) = respond.send_response(agreement.head(), false) else { return };
            let socket = Box::new(StreamSocket::new(send, input, open));
            clients.accepted(agreement.accepted(socket, Bytes::new(), arrival, Version::HTTP_2), begun);
        }
        Ok(Err(answer)) => {
            // A client that has its response must not keep others out.
            arrival.slot.wait(Standing::Silent);
            tokio::select! {
                () = send(*answer, head_only, respond, open, deadline) => (),
                _ = arrival.evicted.wait() => (),
            }
        }
        Err(_) => {
            handshake.refused(Refused::Deadline, sender.address);
            respond.send_reset(Reason::CANCEL);
        }
    }
}

/// Resolves when the gateway shuts down before the request has arrived.
async fn cut_short(handshake: &Handshake, exchange: &Exchange) {
    shutdown::draining(handshake.phase.clone()).await;
    if exchange.complete.get() {
        pending().await
    }
}

/// The request as one of HTTP/1.1 would say it, and what follows the head of a WebSocket.
fn translate(request: Request<RecvStream>) -> (Request<RequestBody>, Option<Input>) {
    let (mut head, data) = request.into_parts();
    let host = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(host) = host {
        head.headers.insert(header::HOST, host);
    }
    let data = Input::new(data);
    if head.method == Method::CONNECT {
        let protocol = head.extensions.get::<h2::ext::Protocol>();
        if protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case("websocket")) {
            head.extensions.insert(WebSocketOverHttp2);
        }
        return (Request::from_parts(head, RequestBody::Empty), Some(data));
    }
    // The library compares it with what comes.
    let length =
        head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    (Request::from_parts(head, RequestBody::Http2(data, length.unwrap_or(0))), None)
}

/// Sends a complete response.
async fn send(
    answer: Answer,
    head_only: bool,
    mut respond: SendResponse<Chunk>,
    open: OpenStream,
    deadline: Instant,
) {
    let (mut head, body) = answer.into_parts();
    let Ok(body) = body.collect().await;
    let body = body.to_bytes();
    for name in OF_CONNECTION {
        head.headers.remove(name);
    }
    if head.status != StatusCode::NO_CONTENT {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    head.version = Version::HTTP_2;
    let complete = head_only || body.is_empty();
    let Ok(sending) = respond.send_response(Response::from_parts(head, ()), complete) else { return };
    if complete {
        return;
    }
    let mut socket = StreamSocket::new(sending, None, open);
    let sent = async {
        socket.write_all(&body).await?;
        socket.shutdown().await
    };
    // If this fails the client gets a reset instead.
    let _ = timeout_at(deadline, sent).await;
}
