//! [`Handshake`] turns a TCP connection into a WebSocket (RFC 6455, 4.2) or into a stream with hyper, or
//! refuses it with an HTTP response. A connection of HTTP/2 becomes many of these, see [`http2`].
//!
//! A connection of HTTP/1.1 carries one request, or several emulation requests one after the other. After the
//! response 101, and before the response that is a stream, the socket is taken out of hyper, so that hyper's
//! buffers are freed and writes reach the socket directly. After any other response the connection is closed.

mod origin;
mod request;
mod body;
mod stream;
mod http2;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use self::body::RequestBody;
use self::http2::Multiplexed;
use super::proxy::{Malformed, Unread, Whom};
use super::site::Site;
use super::tls::{ClientCertificate, Encrypted, NotTls, Stream, Tls};
use super::websocket::deflate::Agreed;
use crate::accept::{
    Admission, Arrival, ConnectionPermit, Refusal, Slot, Standing, TEXT, answer, before_handshake, linger,
};
use crate::backplane::Backplane;
use crate::clock::Now;
use crate::config::{Config, Tell};
use crate::hub::connection_handle::Socket;
use crate::protocol::WireFormat;
use crate::seldom::seldom;
use crate::shutdown::{self, Phase};
use crate::telemetry::metrics::{Metrics, Refused};

pub use self::request::{RAW_PATH, WEBSOCKET_PATH};
// For tests with hostile bytes.
#[doc(hidden)]
pub use self::stream::connect_parameter;

/// Time to finish a response in progress when the gateway shuts down.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// What a handshake uses.
pub struct Handshake {
    /// As resolved at start.
    pub config: Arc<Config>,
    /// Limits on connections.
    pub admission: Arc<Admission>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The index of this worker in the counters.
    pub worker: usize,
    /// Pages in addition to the endpoints, if there are any.
    pub site: Option<Arc<dyn Site>>,
    /// The phase of the process.
    pub phase: watch::Receiver<Phase>,
    /// TLS, if clients have to speak it.
    pub tls: Option<Arc<Tls>>,
    /// Passes messages of emulation requests to their connections.
    pub backplane: Arc<dyn Backplane>,
}

/// Takes the clients of connections. One connection of HTTP/2 may carry many.
pub trait Clients {
    /// The time at which the handshake of a client begins, and its deadline.
    fn begin(&self) -> (Now, Instant);

    /// Takes a client whose handshake is complete. `begun` is when it began.
    fn accepted(self: Rc<Self>, accepted: Accepted, begun: Now);
}

/// A client whose handshake is complete.
pub struct Accepted {
    /// The socket itself, TLS on it, or a stream of HTTP/2.
    pub socket: Box<dyn Socket>,
    /// Bytes that followed the request.
    pub early: Bytes,
    /// The address of the client, behind trusted proxies.
    pub address: IpAddr,
    /// How messages of the connection become bytes.
    pub format: WireFormat,
    /// The beginning of a stream; `None` for a WebSocket.
    pub opening: Option<Opening>,
    /// The headers that are kept for plugins.
    pub headers: Arc<[(Box<str>, Box<str>)]>,
    /// A bearer token in the `Authorization` header (RFC 6750, 2.1); empty for none.
    pub token: Box<str>,
    /// Counts as a connection until dropped.
    pub connection: ConnectionPermit,
    /// Counts as a handshake until the client is admitted.
    pub arrival: Arrival,
}

/// The beginning of a response that is a stream.
pub struct Opening {
    /// The head of the response, as far as it is not sent yet.
    pub head: Bytes,
    /// The first message of the client, which came with its request.
    pub message: Bytes,
}

/// The result of the handshake, before hyper returns the socket.
struct Agreement {
    address: IpAddr,
    format: WireFormat,
    begin: Begin,
    headers: Arc<[(Box<str>, Box<str>)]>,
    token: Box<str>,
    connection: ConnectionPermit,
}

/// How the connection begins.
enum Begin {
    /// As a WebSocket, after the response 101, or 200 and no key over HTTP/2.
    Upgrade { accept: Option<String>, subprotocol: Option<HeaderValue>, compression: Option<Agreed> },
    /// As a stream with these headers, with the first message of the client.
    Stream { headers: HeaderMap, message: Bytes },
}

/// The requests on a connection so far.
struct Exchange {
    /// The last one has been read to its end.
    complete: Cell<bool>,
    /// Emulation requests that have been answered.
    answered: Cell<u32>,
    /// When the connection has to be a WebSocket or a stream, or ends.
    deadline: Instant,
}

/// The sender of a request, as far as it is known before the request is read.
#[derive(Clone, Copy)]
struct Hop<'a> {
    address: IpAddr,
    /// Whether it is a proxy that forwards clients.
    trusted: bool,
    slot: &'a Slot,
    /// The certificate of the client, or of the proxy that forwards it.
    certificate: Option<&'a ClientCertificate>,
}

/// The sender of all requests on a connection of HTTP/2.
struct Sender {
    address: IpAddr,
    trusted: bool,
    certificate: Option<ClientCertificate>,
}

/// The outcome of a handshake.
enum Shaken {
    /// A connection of HTTP/2, whose requests are handshakes of their own.
    Multiplexed(Box<Multiplexed>),
    /// A WebSocket or a stream, and the bytes that followed the request.
    Agreed(Box<Agreement>, Bytes, Box<dyn Socket>),
    /// Neither; a response is being sent.
    Answered(Stream),
    /// The connection is over.
    Over,
}

/// Why the sender of a request is unknown.
enum NoHop {
    /// The client gets this response.
    Answer(String),
    /// The connection is gone.
    Gone,
}

/// The response to a client that speaks HTTP in the clear where TLS is spoken.
const IN_THE_CLEAR: &str = "this port speaks TLS: connect with https:// or wss://\n";
/// Type of the record that begins a TLS connection (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// The response to a proxy whose PROXY header is invalid.
const BAD_PREAMBLE: &str = "the PROXY header before the request is malformed, or larger than 4096 bytes\n";

impl Handshake {
    /// Serves one TCP connection until it is a WebSocket or a stream, closed, or has to give way; one of
    /// HTTP/2 until it is closed. `peer` is the remote address. Dropping the future closes the socket.
    pub async fn serve(
        self: Rc<Self>,
        socket: TcpStream,
        peer: IpAddr,
        mut arrival: Arrival,
        clients: Rc<dyn Clients>,
    ) {
        let (begun, deadline) = clients.begin();
        let exchange = Exchange { complete: Cell::new(false), answered: Cell::new(0), deadline };
        let shaken = tokio::select! {
            shaken = timeout_at(deadline, self.shake(socket, peer, &arrival.slot, &exchange)) => shaken,
            true = arrival.evicted.wait() => {
                return exchange.refused(|| self.refused(Refused::Evicted, peer));
            }
        };
        match shaken {
            Ok(Shaken::Agreed(agreement, early, socket)) => {
                let accepted = agreement.accepted(socket, early, arrival, Version::HTTP_11);
                clients.accepted(accepted, begun);
            }
            // Boxed, because only connections of HTTP/2 need this memory.
            Ok(Shaken::Multiplexed(multiplexed)) => {
                Box::pin(http2::serve(self, *multiplexed, arrival, clients)).await;
            }
            Ok(Shaken::Answered(socket)) => {
                // A connection that has its response must not keep others out.
                arrival.slot.wait(Standing::Silent);
                tokio::select! {
                    () = linger(socket) => (),
                    _ = arrival.evicted.wait() => (),
                }
            }
            Ok(Shaken::Over) => (),
            Err(_) => exchange.refused(|| self.refused(Refused::Deadline, peer)),
        }
    }

    async fn shake(&self, socket: TcpStream, peer: IpAddr, slot: &Slot, exchange: &Exchange) -> Shaken {
        let head_deadline = Instant::now() + self.config.handshake.head_deadline;
        let mut socket = Unread::new(socket);
        let hop = tokio::select! {
            biased;
            hop = timeout_at(head_deadline, self.hop(&mut socket, peer, slot)) => hop,
            _ = shutdown::draining(self.phase.clone()) => {
                self.refused(Refusal::GOING_DOWN.reason, peer);
                return self.answer_early(socket, Refusal::GOING_DOWN.answer()).await;
            }
        };
        let hop = match hop {
            Ok(Ok(hop)) => hop,
            Ok(Err(NoHop::Answer(answer))) => return self.answer_early(socket, answer).await,
            Ok(Err(NoHop::Gone)) => return Shaken::Over,
            Err(_) => {
                self.refused(Refused::Deadline, peer);
                return Shaken::Over;
            }
        };
        let (socket, certificate) = match &self.tls {
            None => (Stream::Plain(socket), None),
            // Boxed, because only connections with TLS need this memory.
            Some(tls) => {
                match Box::pin(self.encrypt(tls, socket, (hop.address, hop.trusted), head_deadline)).await {
                    Ok(Encrypted { stream, client: certificate, http2: true }) => {
                        let sender = Sender { address: hop.address, trusted: hop.trusted, certificate };
                        let multiplexed = Multiplexed { stream, sender, deadline: head_deadline };
                        return Shaken::Multiplexed(Box::new(multiplexed));
                    }
                    Ok(Encrypted { stream, client, http2: false }) => (stream, client),
                    Err(shaken) => return shaken,
                }
            }
        };
        let hop = Hop { certificate: certificate.as_ref(), ..hop };
        let (agreed, begins) = (RefCell::new(None), Notify::new());
        let service = service_fn(|request: Request<Incoming>| {
            exchange.complete.set(false);
            let (agreed, begins) = (&agreed, &begins);
            // hyper wants a future that can be moved.
            Box::pin(async move {
                let request = request.map(RequestBody::Http1);
                let answer = match self.agree(request, hop, exchange).await {
                    Ok(agreement) => {
                        let answer = agreement.answer();
                        *agreed.borrow_mut() = Some(Box::new(agreement));
                        let Some(answer) = answer else {
                            // The socket is taken out of hyper, which drops this future.
                            begins.notify_one();
                            return pending().await;
                        };
                        answer
                    }
                    Err(answer) => *answer,
                };
                if exchange.answered.get() > 0 {
                    slot.wait(Standing::Idle);
                }
                Ok::<_, Infallible>(answer)
            })
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_deadline.saturating_duration_since(Instant::now()))
            .max_buf_size(self.config.handshake.header_bytes_max.max(8192))
            .serve_connection(TokioIo::new(socket), service);
        let mut serving = poll_fn(|cx| connection.poll_without_shutdown(cx));
        let served = tokio::select! {
            biased;
            served = &mut serving => served,
            () = begins.notified() => Ok(()),
            _ = shutdown::draining(self.phase.clone()) => {
                if !exchange.complete.get() {
                    return self.turn_away(connection.into_parts().io.into_inner(), hop.address).await;
                }
                // A response is in progress.
                timeout(LAST_ANSWER, serving).await.unwrap_or(Ok(()))
            }
        };
        let parts = connection.into_parts();
        let socket = parts.io.into_inner();
        match (served, agreed.take()) {
            (Ok(()), Some(agreement)) => {
                let (unread, socket) = socket.into_parts();
                let early = match unread.is_empty() {
                    true => parts.read_buf,
                    false => [&parts.read_buf[..], &unread].concat().into(),
                };
                Shaken::Agreed(agreement, early, socket)
            }
            (Ok(()), None) => Shaken::Answered(socket),
            (Err(error), _) => {
                tracing::debug!(address = %hop.address, %error, "handshake failed");
                if error.is_timeout() {
                    exchange.refused(|| self.refused(Refused::Deadline, hop.address));
                    return Shaken::Over;
                }
                if parts.read_buf.first() == Some(&TLS_HANDSHAKE) {
                    let address = hop.address;
                    seldom!(
                        warn,
                        %address,
                        "client speaks TLS, and this listener does not; set `listen.tls`, or let clients use ws://"
                    );
                }
                // hyper has sent 400 or 431 where it could.
                self.refused(Refused::BadRequest, hop.address);
                Shaken::Answered(socket)
            }
        }
    }

    /// Refuses a client if the gateway shuts down before its request has arrived.
    async fn turn_away(&self, socket: Stream, address: IpAddr) -> Shaken {
        self.refused(Refusal::GOING_DOWN.reason, address);
        write(socket, Refusal::GOING_DOWN.answer().as_bytes()).await
    }

    /// Answers a client that has not begun TLS, if it has to speak it.
    async fn answer_early(&self, socket: Unread, answer: String) -> Shaken {
        write(Stream::Plain(socket), &before_handshake(self.tls.is_some(), answer)).await
    }

    /// Shakes hands of TLS. The error is what came of the connection instead.
    async fn encrypt(
        &self,
        tls: &Tls,
        socket: Unread,
        (address, is_proxy): (IpAddr, bool),
        deadline: Instant,
    ) -> Result<Encrypted, Shaken> {
        let encrypted = tokio::select! {
            biased;
            encrypted = timeout_at(deadline, tls.accept(socket, is_proxy)) => encrypted,
            _ = shutdown::draining(self.phase.clone()) => {
                self.refused(Refusal::GOING_DOWN.reason, address);
                return Err(Shaken::Over);
            }
        };
        match encrypted {
            Ok(Ok(encrypted)) => Ok(encrypted),
            Ok(Err(NotTls::Text(socket))) => {
                self.refused(Refused::BadRequest, address);
                let answer = answer(400, None, TEXT, IN_THE_CLEAR);
                Err(write(Stream::Plain(socket), answer.as_bytes()).await)
            }
            Ok(Err(NotTls::Failed(socket, error))) => {
                self.refused(Refused::Tls, address);
                seldom!(info, %address, %error, "TLS handshake failed");
                Err(Shaken::Answered(Stream::Plain(socket)))
            }
            Ok(Err(NotTls::Gone)) => Err(Shaken::Over),
            Err(_) => {
                self.refused(Refused::Deadline, address);
                Err(Shaken::Over)
            }
        }
    }

    /// Reads the PROXY header of a trusted proxy.
    async fn hop<'s>(&self, socket: &mut Unread, peer: IpAddr, slot: &'s Slot) -> Result<Hop<'s>, NoHop> {
        let proxies = &self.config.listen.proxies;
        let trusted = proxies.trust(peer);
        if !trusted || !proxies.tell(Tell::ProxyProtocol) {
            return Ok(Hop { address: peer, trusted, slot, certificate: None });
        }
        let whom = match socket.preamble().await {
            Ok(Ok(whom)) => whom,
            Ok(Err(Malformed)) => {
                self.refused(Refused::BadRequest, peer);
                // The client can neither cause nor fix this; the operator of the proxy has to know.
                seldom!(
                    warn,
                    %peer,
                    "malformed or too large PROXY header from a trusted proxy; its clients are refused"
                );
                return Err(NoHop::Answer(answer(400, None, TEXT, BAD_PREAMBLE)));
            }
            Err(_) => return Err(NoHop::Gone),
        };
        let (address, trusted) = match whom {
            None | Some(Whom::Local) => (peer, true),
            // A client wrote the following bytes. That its address is unknown does not make it a trusted
            // proxy.
            Some(Whom::Unknown) => (peer, false),
            Some(Whom::Client(client)) => {
                let client = client.to_canonical();
                (client, proxies.trust(client))
            }
        };
        if !trusted {
            self.admission.identify(slot, address).map_err(|refusal| {
                self.refused(refusal.reason, address);
                NoHop::Answer(refusal.answer())
            })?;
        }
        Ok(Hop { address, trusted, slot, certificate: None })
    }

    fn refused(&self, why: Refused, address: IpAddr) {
        self.metrics.worker(self.worker).refused(why, address);
    }
}

impl Exchange {
    /// The last request has been read to its end: it is being served from now on. Until then its connection
    /// may have to give way, as one that says nothing.
    fn complete(&self, slot: &Slot) {
        self.complete.set(true);
        slot.serve();
    }

    /// Counts the end of a connection, unless it has done what it was for.
    fn refused(&self, count: impl FnOnce()) {
        if self.answered.get() == 0 {
            count();
        }
    }
}

/// Writes a response that fits into the empty buffer of a new socket, so it never blocks.
async fn write(mut socket: Stream, answer: &[u8]) -> Shaken {
    if socket.write_all(answer).await.is_ok() {
        let _ = socket.flush().await;
    }
    Shaken::Answered(socket)
}
