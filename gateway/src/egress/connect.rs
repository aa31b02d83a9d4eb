//! `Connector` connects to an origin: it resolves, checks, connects and encrypts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::address::is_public;
use super::client::Reach;
use super::names::Names;
use super::tls::Tls;
use super::url::Origin;

/// Time for all steps together. The waiting request may have less.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Time for one of several addresses.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(3);
/// Maximum number of concurrent name lookups.
pub(super) const LOOKUPS_MAX: usize = 4;

/// State shared by the connectors of a process.
pub(super) struct Shared {
    tls: Tls,
    names: Names,
    /// Connections of the process, in use or idle.
    connections: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new(tls: Tls, connections_max: usize) -> Self {
        let connections = Arc::new(Semaphore::new(connections_max));
        Self { tls, names: Names::new(LOOKUPS_MAX), connections }
    }
}

/// Creates connections for the pool of an HTTP client.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) shared: Arc<Shared>,
    pub(super) reach: Reach,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0} is not a public address")]
    Refused(IpAddr),
    #[error("too many connections")]
    Busy,
    #[error("{0}")]
    Failed(Box<str>),
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { shared, reach } = self.clone();
        Box::pin(async move {
            let origin = Origin::of(&uri).ok_or_else(|| failed("not a URL of HTTP"))?;
            match timeout(CONNECT_DEADLINE, connect(&shared, reach, &origin)).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(failed(format!("no connection within {CONNECT_DEADLINE:?}"))),
            }
        })
    }
}

async fn connect(shared: &Shared, reach: Reach, origin: &Origin) -> Result<Stream, ConnectError> {
    let permit = shared.connections.clone().try_acquire_owned().map_err(|_| ConnectError::Busy)?;
    let socket = dial(&resolve(shared, reach, origin).await?).await?;
    // Requests wait for their response, so they must be sent at once.
    let _ = socket.set_nodelay(true);
    let transport = if origin.is_https() {
        Transport::Tls(Box::new(
            shared.tls.encrypt(origin.host(), socket).await.map_err(ConnectError::Failed)?,
        ))
    } else {
        Transport::Plain(socket)
    };
    Ok(Stream { transport, _permit: permit })
}

/// The permitted addresses of an origin, in the order of the system.
async fn resolve(shared: &Shared, reach: Reach, origin: &Origin) -> Result<Vec<SocketAddr>, ConnectError> {
    let found = shared.names.addresses(origin.host()).await.map_err(ConnectError::Failed)?;
    let found: Vec<_> = found.iter().map(|address| SocketAddr::new(*address, origin.port())).collect();
    let permitted = |address: &SocketAddr| reach == Reach::Anywhere || is_public(address.ip());
    let permitted: Vec<_> = found.iter().copied().filter(permitted).collect();
    match (permitted.is_empty(), found.first()) {
        (false, _) => Ok(permitted),
        (true, Some(refused)) => Err(ConnectError::Refused(refused.ip())),
        (true, None) => Err(failed("the name of the host has no address")),
    }
}

pub(super) async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        let limit = if addresses.len() > 1 { ADDRESS_DEADLINE } else { CONNECT_DEADLINE };
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed(last.to_string()))
}

fn failed(why: impl Into<Box<str>>) -> ConnectError {
    ConnectError::Failed(why.into())
}

/// A connection that counts for the process until it is dropped.
pub(super) struct Stream {
    transport: Transport,
    _permit: OwnedSemaphorePermit,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
