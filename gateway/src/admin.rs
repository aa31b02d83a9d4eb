//! Health, metrics and the HTTP API, on a listener of their own and away from the threads that serve clients.
//!
//! `/health` and `/metrics` are open to whoever reaches the listener; `/api` asks for the key of the configuration and is
//! closed without one.

mod answer;
mod api;
mod explain;
mod fields;
mod key;
pub(crate) mod plugins;
mod route;
mod survey;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use self::route::Routes;
use crate::config::Config;
use crate::control::Control;

/// Connections at a time. Operators and their tools are few; a new one above this is closed at once.
const CONNECTIONS_MAX: usize = 64;
/// Time for the head of a request, and for a connection to stay idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Age at which a connection is closed after the answer in progress, so that none is kept for ever.
const LIFETIME: Duration = Duration::from_secs(60);
/// Time for that answer, before the connection is cut.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to leave the listener alone when no socket can be had from it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the future is dropped, which also closes what is open.
pub async fn serve(listener: std::net::TcpListener, config: Arc<Config>, control: Control) {
    let bound = listener.local_addr().and_then(|address| Ok((TcpListener::from_std(listener)?, address)));
    let (listener, address) = match bound {
        Ok(bound) => bound,
        Err(error) => return error!(%error, "failed to serve the admin listener"),
    };
    let api = if config.admin.api_key.is_some() { "open to the key" } else { "closed: there is no key" };
    info!(%address, api, "admin listener ready");
    let routes = Arc::new(Routes::new(&config, control, address.ip().is_loopback()));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((socket, peer)) => match slots.clone().try_acquire_owned() {
                Ok(slot) => {
                    connections.spawn(connection(routes.clone(), socket, peer, slot));
                }
                Err(_) => {
                    warn!(%peer, max = CONNECTIONS_MAX, "admin connection refused: there are as many as may be")
                }
            },
            Err(error) => {
                warn!(%error, "failed to accept an admin connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(routes: Arc<Routes>, socket: TcpStream, peer: SocketAddr, _slot: OwnedSemaphorePermit) {
    let service = service_fn(|request| {
        let routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = sleep(LIFETIME) => {
            connection.as_mut().graceful_shutdown();
            match timeout(LAST_ANSWER_TIMEOUT, connection).await {
                Ok(served) => served,
                Err(_) => return debug!(%peer, "admin connection cut: it did not take its last answer"),
            }
        }
    };
    if let Err(error) = served {
        debug!(%peer, %error, "admin connection failed");
    }
}

#[cfg(test)]
mod tests;
