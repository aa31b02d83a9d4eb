//! HTTP/2 (RFC 9113) on a listener that speaks TLS. One connection carries the requests of many clients, such
//! as the tabs of a browser, which opens only six connections of HTTP/1.1 to one host.
//!
//! Each request passes the same checks as one of HTTP/1.1, and counts as a connection of its own in all
//! limits. Where it opens a WebSocket (RFC 8441) or a response that stays open, its stream becomes a
//! [`Socket`](crate::hub::connection_handle::Socket): nothing after the handshake knows HTTP/2.
//!
//! A connection without streams holds a slot like a client in its handshake, is closed when it is silent for
//! too long, and gives way to others. A connection with streams holds none, because the streams are counted.

mod exchange;
mod paced;
mod socket;
mod streams;

use std::future::pending;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode, Version};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::exchange::exchange;
use self::paced::Paced;
use self::socket::Chunk;
pub(super) use self::socket::Input;
use self::streams::{OpenStream, Streams};
use super::{Clients, Handshake, LAST_ANSWER, Sender};
use crate::accept::{Arrival, Refusal, Standing};
use crate::config::Config;
use crate::outbound::SOCKET_BYTES_MAX;
use crate::seldom::seldom;
use crate::shutdown;
use crate::telemetry::metrics::Refused;
use crate::transport::tls::Stream;

/// Streams that a client may have open at a time. A browser queues further requests.
const STREAMS_MAX: u32 = 100;

/// Streams that a client may reset before the gateway has looked at them.
const PENDING_RESETS_MAX: usize = 20;

/// Bytes that a client may send on all streams before the gateway has read them. For a single stream it is
/// the 64 KiB of the standard, so a stream that is not read does not block the others at once.
const RECEIVE_WINDOW: u32 = 256 * 1024;

/// What small frames may take in addition while the gateway has not read them; the library counts up to 256
/// bytes for each. A client may send some thousand messages at once in frames of their own.
const SMALL_FRAME_BYTES_MAX: usize = 512 * 1024;

/// The largest head of a request, if `handshake.header_bytes_max` is smaller. The same as for HTTP/1.1.
const HEADER_BYTES_MIN: usize = 8192;

/// Interval at which the gateway asks whether the client is still there, and how long the answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PONG_MAX: Duration = Duration::from_secs(20);

/// Requests that are begun before other tasks of the worker get their turn.
const REQUESTS_PER_TURN: usize = 16;

/// A connection of HTTP/2 after its handshake of TLS.
pub(super) struct Multiplexed {
    pub(super) stream: Stream,
    pub(super) sender: Sender,
    /// When the client has to have begun HTTP/2.
    pub(super) deadline: Instant,
}

/// Serves a connection until it is closed. `arrival` is its slot.
pub(super) async fn serve(
    handshake: Rc<Handshake>,
    multiplexed: Multiplexed,
    arrival: Arrival,
    clients: Rc<dyn Clients>,
) {
    let Multiplexed { stream, sender, deadline } = multiplexed;
    let address = sender.address;
    let mut place = Some(arrival);
    let connected = library(&handshake.config).handshake::<_, Chunk>(Paced::new(stream));
    let connected = tokio::select! {
        biased;
        connected = timeout_at(deadline, connected) => connected,
        true = evicted(&mut place) => return handshake.refused(Refused::Evicted, address),
        _ = shutdown::draining(handshake.phase.clone()) => {
            return handshake.refused(Refusal::GOING_DOWN.reason, address);
        }
    };
    let connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "HTTP/2 handshake failed");
            return handshake.refused(Refused::BadRequest, address);
        }
        Err(_) => return handshake.refused(Refused::Deadline, address),
    };
    handshake.metrics.worker(handshake.worker).http2_connections.inc();
    let front = Front {
        handshake,
        clients,
        address,
        sender: Rc::new(sender),
        streams: Rc::new(Streams::new()),
        place,
        used: false,
        leaving: false,
        draining: false,
    };
    front.run(connection).await;
}

/// The settings of the library.
fn library(config: &Config) -> Builder {
    let header_bytes_max = config.handshake.header_bytes_max.max(HEADER_BYTES_MIN);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_header_list_size(u32::try_from(header_bytes_max).unwrap_or(u32::MAX))
        .initial_connection_window_size(RECEIVE_WINDOW)
        .data_frame_budget(SMALL_FRAME_BYTES_MAX)
        .max_send_buffer_size(SOCKET_BYTES_MAX)
        .enable_connect_protocol();
    builder
}

/// Resolves when the connection has lost its slot.
async fn evicted(place: &mut Option<Arrival>) -> bool {
    match place {
        Some(arrival) => arrival.evicted.wait().await,
        None => pending().await,
    }
}

/// Resolves when the client does not answer a ping.
async fn keep_alive(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        sleep(PING_INTERVAL).await;
        if !matches!(timeout(PONG_MAX, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// A connection that carries streams.
struct Front {
    handshake: Rc<Handshake>,
    clients: Rc<dyn Clients>,
    address: IpAddr,
    sender: Rc<Sender>,
    streams: Rc<Streams>,
    /// The slot of the connection while it carries no stream; the next one takes it over.
    place: Option<Arrival>,
    /// Whether there was a request.
    used: bool,
    /// Whether the client was told to send no further requests here.
    leaving: bool,
    draining: bool,
}

impl Front {
    /// Accepts requests until the connection is over. Dropping it ends all its streams.
    async fn run(mut self, mut connection: Connection<Paced, Chunk>) {
        let idle_max = self.handshake.config.handshake.head_deadline;
        let mut idle = pin!(sleep(idle_max));
        let mut silent = pin!(keep_alive(connection.ping_pong()));
        let mut draining = pin!(shutdown::draining(self.handshake.phase.clone()));
        let streams = self.streams.clone();
        let mut turns = 0_usize;
        loop {
            tokio::select! {
                biased;
                // First what a client that never pauses could put off.
                _ = &mut draining, if !self.draining => {
                    (self.draining, self.leaving) = (true, true);
                    connection.graceful_shutdown();
                    idle.as_mut().reset(Instant::now() + LAST_ANSWER);
                }
                () = &mut silent => {
                    tracing::debug!(address = %self.address, "HTTP/2 client answers no ping");
                    return;
                }
                request = connection.accept() => match request {
                    Some(Ok((request, respond))) => self.begin(request, respond),
                    Some(Err(error)) => {
                        return self.failed(&error);
                    }
                    None => return,
                },
                true = evicted(&mut self.place) => return self.count_silent(Refused::Evicted),
                () = streams.emptied() => {
                    // Without a slot it only says what there is left to say.
                    if !self.rest() {
                        self.leaving = true;
                        connection.graceful_shutdown();
                    }
                    let most = if self.leaving { LAST_ANSWER } else { idle_max };
                    idle.as_mut().reset(Instant::now() + most);
                }
                () = &mut idle, if streams.is_empty() => {
                    if self.leaving || !self.used {
                        return self.count_silent(Refused::Deadline);
                    }
                    self.leaving = true;
                    connection.graceful_shutdown();
                    idle.as_mut().reset(Instant::now() + LAST_ANSWER);
                }
            }
            if streams.is_flooded() {
                return self.end_flood(connection).await;
            }
            turns += 1;
            if turns.is_multiple_of(REQUESTS_PER_TURN) {
                yield_now().await;
            }
        }
    }

    /// Begins to serve a request. It takes over the slot of the connection, or takes one of its own.
    fn begin(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Chunk>) {
        self.used = true;
        let arrival = match self.place.take() {
            _ if self.draining => Err(Refusal::GOING_DOWN),
            Some(arrival) => Ok(arrival),
            None => self.handshake.admission.arrive_on(self.address, self.sender.trusted),
        };
        match arrival {
            Ok(arrival) => {
                let (handshake, clients) = (self.handshake.clone(), self.clients.clone());
                let (sender, open) = (self.sender.clone(), OpenStream::begin(&self.streams));
                spawn_local(exchange(handshake, clients, sender, request, respond, arrival, open));
            }
            Err(refusal) => {
                self.handshake.refused(refusal.reason, self.address);
                // That the gateway goes down is not the client's fault.
                if !self.draining {
                    self.streams.count_fault();
                }
                // A head alone: a body might have to wait for the client.
                let _ = respond.send_response(refused(refusal), true);
            }
        }
    }

    /// Takes a slot after the last stream has ended. False if there is none: the connection has to end.
    fn rest(&mut self) -> bool {
        if self.leaving || self.place.is_some() || !self.streams.is_empty() {
            return true;
        }
        match self.handshake.admission.arrive_on(self.address, self.sender.trusted) {
            Ok(arrival) => {
                arrival.slot.wait(Standing::Idle);
                self.place = Some(arrival);
                true
            }
            Err(refusal) => {
                self.handshake.refused(refusal.reason, self.address);
                false
            }
        }
    }

    /// The client has gone or broke the protocol. The library has told it why.
    fn failed(&self, error: &h2::Error) {
        tracing::debug!(address = %self.address, %error, "HTTP/2 connection failed");
        if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) && !error.is_remote() {
            self.count_flood();
        }
    }

    /// Counts the end of a connection that carried no request.
    fn count_silent(&self, why: Refused) {
        if !self.used && !self.draining {
            self.handshake.refused(why, self.address);
        }
    }

    /// Ends a connection whose client makes the gateway work for nothing.
    async fn end_flood(&self, mut connection: Connection<Paced, Chunk>) {
        self.count_flood();
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let closed = std::future::poll_fn(|cx| connection.poll_closed(cx));
        let _ = timeout(LAST_ANSWER, closed).await;
    }

    fn count_flood(&self) {
        self.handshake.refused(Refused::Flood, self.address);
        let address = self.address;
        seldom!(
            warn,
            %address,
            "HTTP/2 client resets too many requests or sends useless frames; its connection is closed"
        );
    }
}

/// The head of a response to a request that is not read.
fn refused(refusal: Refusal) -> Response<()> {
    let mut head = Response::new(());
    *head.version_mut() = Version::HTTP_2;
    *head.status_mut() = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    head.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(refusal.retry_after));
    head.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    head
}
