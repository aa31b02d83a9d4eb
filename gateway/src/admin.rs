//! Serves health, metrics and the HTTP API on a separate listener, away from the threads that serve clients.
//!
//! `/health` and, unless the configuration says otherwise, `/metrics` are open to every caller that reaches
//! the listener. `/api` requires the key of the configuration and is closed without one.
//!
//! Probes are always answered: new connections replace waiting ones, the number of other requests is bounded,
//! and a request over the bound is refused with an error.

mod answer;
pub(crate) mod api;
mod batch;
mod explain;
mod fields;
mod key;
mod methods;
pub(crate) mod plugins;
mod route;
mod revocations;
mod subscribe;
mod survey;
mod upstreams;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Version, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info};

use self::answer::keep_alive;
pub(crate) use self::api::carry_out;
use self::route::Routes;
use crate::accept::{
    self, Evicted, REFUSALS_MAX, Refusals, Slot, Slots, Standing, before_handshake, linger, source,
};
use crate::config::Config;
use crate::control::Control;
use crate::telemetry::metrics::AdminRefused;
use crate::transport::proxy::Unread;
use crate::transport::tls::{Encrypted, NotTls, Stream, Tls};

/// Maximum number of connections. An idle one is replaced by a newer one, and the number of concurrent
/// requests is bounded: so a health probe always finds a place.
pub(crate) const CONNECTIONS_MAX: usize = 512;
/// Maximum number of connections from one address.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 384;
/// Time for the head of the first request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may wait for its next request, as announced to its client.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How much longer it stays open: a request may be under way.
const IDLE_GRACE: Duration = Duration::from_secs(5);
/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Age at which a connection is closed with its next response, so that none is kept forever.
const LIFETIME: Duration = Duration::from_secs(600);
/// Age at which it is cut because its client does not read a response.
const CUT: Duration = Duration::from_secs(720);
/// Sockets accepted before those accepted earlier get their turn: only reading shows whether a probe has
/// already sent its request.
const ACCEPTS_MAX: usize = 16;
/// Pause after the listener could not accept a socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The response to a request in the clear where TLS is spoken.
const IN_THE_CLEAR: &str = "this port speaks TLS: use https://";

/// Seconds after which a refused client may try again.
const RETRY_AFTER: u32 = 1;

/// Serves until the future is dropped, which also closes open connections.
pub async fn serve(
    listener: std::net::TcpListener,
    config: Arc<Config>,
    tls: Option<Arc<Tls>>,
    control: Control,
) {
    let bound = listener.local_addr().and_then(|address| Ok((TcpListener::from_std(listener)?, address)));
    let (listener, address) = match bound {
        Ok(bound) => bound,
        Err(error) => return error!(%error, "failed to serve the admin listener"),
    };
    let api = if config.admin.api_key.is_some() { "open to the key" } else { "closed: there is no key" };
    info!(%address, api, tls = tls.is_some(), "admin listener ready");
    let metrics = control.metrics().clone();
    let routes = Arc::new(Routes::new(&config, control, address.ip().is_loopback()));
    let slots = Slots::new(CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX);
    let refusals = Refusals::new(REFUSALS_MAX);
    let busy = before_handshake(tls.is_some(), busy());
    let mut connections = tokio::task::JoinSet::new();
    let mut accepted = 0_usize;
    loop {
        accepted = accepted.wrapping_add(1);
        if accepted.is_multiple_of(ACCEPTS_MAX) {
            yield_now().await;
        }
        while connections.try_join_next().is_some() {}
        let (socket, peer) = match listener.accept().await {
            Ok((socket, address)) => (socket, address.ip().to_canonical()),
            Err(error) => {
                metrics.node.admin_accept_error(&error);
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match slots.take(Some(source(peer))) {
            Ok((slot, evicted)) => {
                connections.spawn(connection(routes.clone(), tls.clone(), socket, peer, slot, evicted));
            }
            Err(_) => {
                metrics.node.admin_refused(AdminRefused::Connections, peer);
                if let Some(closing) = refusals.tell(socket, &busy) {
                    connections.spawn(closing);
                }
            }
        }
    }
}

/// The response to a client whose connection is over the limit.
fn busy() -> String {
    accept::answer(503, Some(RETRY_AFTER), answer::JSON, &answer::error(503, answer::BUSY))
}

async fn connection(
    routes: Arc<Routes>,
    tls: Option<Arc<Tls>>,
    socket: TcpStream,
    peer: IpAddr,
    slot: Slot,
    mut evicted: Evicted,
) {
    let _ = socket.set_nodelay(true);
    let begun = Instant::now();
    let socket = match tls {
        None => Stream::Plain(Unread::new(socket)),
        Some(tls) => {
            let encrypted = tokio::select! {
                encrypted = timeout(HEAD_TIMEOUT, encrypt(&routes, &tls, socket, peer)) => encrypted,
                true = evicted.wait() => return routes.refused(AdminRefused::Evicted, peer),
            };
            match encrypted {
                Ok(Some(stream)) => stream,
                Ok(None) => return,
                Err(_) => return routes.refused(AdminRefused::Deadline, peer),
            }
        }
    };
    let asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        slot.serve();
        let (routes, slot) = (&routes, &slot);
        let goes_on = wants_more(&request);
        Box::pin(async move {
            let mut answer = routes.answer(request, peer).await;
            // Closing between two requests would cut one that is under way.
            let goes_on = goes_on && begun.elapsed() < LIFETIME;
            keep_alive(&mut answer, goes_on.then_some(IDLE_TIMEOUT));
            slot.wait(Standing::Idle);
            Ok::<_, Infallible>(answer)
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT + IDLE_GRACE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service);
    let silent = async {
        sleep(HEAD_TIMEOUT).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let served = tokio::select! {
        served = timeout(CUT, poll_fn(|cx| connection.poll_without_shutdown(cx))) => served,
        () = silent => return routes.refused(AdminRefused::Deadline, peer),
        true = evicted.wait() => return routes.refused(AdminRefused::Evicted, peer),
    };
    match served {
        Ok(Ok(())) => (),
        Ok(Err(error)) if error.is_timeout() => return,
        Ok(Err(error)) => {
            debug!(%peer, %error, "admin connection failed");
            if error.is_parse() {
                // hyper has already answered 400 or 431.
                routes.refused(AdminRefused::BadRequest, peer);
            }
        }
        Err(_) => return debug!(%peer, "admin connection closed: the client did not read its last response"),
    }
    let socket = connection.into_parts().io.into_inner();
    slot.wait(Standing::Silent);
    tokio::select! {
        () = linger(socket) => (),
        _ = evicted.wait() => (),
    }
}

/// Shakes hands of TLS. `None` if that fails; the client has then been told.
async fn encrypt(routes: &Routes, tls: &Tls, socket: TcpStream, peer: IpAddr) -> Option<Stream> {
    match tls.accept(Unread::new(socket), false).await {
        Ok(Encrypted { stream, .. }) => return Some(stream),
        Err(NotTls::Gone) => (),
        Err(NotTls::Failed(socket, error)) => {
            debug!(%peer, %error, "TLS handshake of an admin connection failed");
            routes.refused(AdminRefused::Tls, peer);
            linger(socket).await;
        }
        Err(NotTls::Text(mut socket)) => {
            routes.refused(AdminRefused::BadRequest, peer);
            let answer = accept::answer(400, None, answer::JSON, &answer::error(400, IN_THE_CLEAR));
            if socket.write_all(answer.as_bytes()).await.is_ok() {
                linger(socket).await;
            }
        }
    }
    None
}

/// Whether the client keeps the connection open for another request.
fn wants_more(request: &Request<Incoming>) -> bool {
    let lines = request.headers().get_all(header::CONNECTION).into_iter();
    let mut options = lines.flat_map(|line| line.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    if request.version() == Version::HTTP_11 {
        !options.any(|option| option.eq_ignore_ascii_case(b"close"))
    } else {
        options.any(|option| option.eq_ignore_ascii_case(b"keep-alive"))
    }
}

#[cfg(test)]
mod tests;
