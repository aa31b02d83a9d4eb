//! [`Client`] sends requests and reads responses.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use super::connect::{ConnectError, Connector, Shared};
use super::tls::Tls;
use super::url::Url;

/// Default maximum number of connections of the process.
pub const CONNECTIONS_MAX: usize = 256;
/// Maximum number of idle connections per origin.
const IDLE_MAX: usize = 8;
/// How long an idle connection is kept.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// Maximum bytes of the head of a response.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Maximum number of headers of a response.
const HEADERS_MAX: usize = 100;
/// Bytes read of an unwanted body, so that its connection can be reused.
const UNWANTED_BYTES_MAX: usize = 64 << 10;
/// Maximum time to read an unwanted body.
const UNWANTED_TIME: Duration = Duration::from_secs(1);

/// Headers that belong to the connection or that the client sets.
const RESERVED: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The client of the process. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    /// Two pools: a connection made to a private address with permission must not serve a request without it.
    public: Pool,
    anywhere: Pool,
}

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// The addresses that a request may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Addresses of the public internet, see [`is_public`](super::is_public).
    Public,
    /// Every address: the operator has named this origin.
    Anywhere,
}

/// A request to send.
#[derive(Debug, Clone)]
pub struct Request {
    inner: hyper::Request<Full<Bytes>>,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code, such as 200.
    pub status: u16,
    /// In order of arrival, names in lower case. A value may be any bytes.
    pub headers: Vec<(Box<str>, Bytes)>,
    /// The body as received, without the framing.
    pub body: Bytes,
}

/// Why there is no response. The text names neither path nor header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request is invalid.
    #[error("invalid request: {0}")]
    Invalid(Box<str>),
    /// The host has an address that this request may not reach.
    #[error("{0}; grant the origin as private if this is intended")]
    Refused(Box<str>),
    /// The response was not complete in time.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    /// The response exceeds the limit of the request.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// The process has too many connections.
    #[error("too many connections at the same time; try again later")]
    Busy,
    /// There is no connection: the name is unknown, the server does not listen, or its certificate is
    /// invalid. The server has seen nothing of the request.
    #[error("the request failed: {0}")]
    Unreachable(Box<str>),
    /// The response is malformed, or ends in the middle.
    #[error("the request failed: {0}")]
    Failed(Box<str>),
}

impl Client {
    /// Creates a client without connections.
    pub fn new() -> Self {
        Self::bounded(CONNECTIONS_MAX)
    }

    /// Creates a client with at most this many concurrent connections.
    pub fn bounded(connections_max: usize) -> Self {
        Self::with(Tls::default(), connections_max)
    }

    /// Creates a client that trusts also the servers with these certificates, in PEM, whatever their names.
    pub fn knowing(certificates: &[Vec<u8>]) -> Self {
        Self::with(Tls::knowing(certificates), CONNECTIONS_MAX)
    }

    fn with(tls: Tls, connections_max: usize) -> Self {
        let shared = Arc::new(Shared::new(tls, connections_max));
        let pool = |reach| {
            legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_TIME)
                .pool_max_idle_per_host(IDLE_MAX)
                .http1_max_buf_size(HEAD_BYTES_MAX)
                .http1_max_headers(HEADERS_MAX)
                .timer(TokioTimer::new())
                .build(Connector { shared: shared.clone(), reach })
        };
        Self { public: pool(Reach::Public), anywhere: pool(Reach::Anywhere) }
    }

    /// Sends a request and reads a response of at most `body_bytes_max`, all within `deadline`.
    ///
    /// Dropping the future ends the request; the server may have received it.
    ///
    /// # Errors
    ///
    /// If the request cannot be sent, or no complete response arrives in time.
    pub async fn send(
        &self,
        request: Request,
        reach: Reach,
        deadline: Duration,
        body_bytes_max: usize,
    ) -> Result<Response, Error> {
        let exchange = async {
            let (head, body) = self.exchange(request, reach).await?.into_parts();
            let (status, headers) = (head.status.as_u16(), listed(&head.headers));
            Ok(Response { status, headers, body: read(body, body_bytes_max).await? })
        };
        timeout(deadline, exchange).await.unwrap_or(Err(Error::Timeout(deadline)))
    }

    /// Like [`send`](Self::send), but of a response without success only the head is returned: nobody uses
    /// the rest, so it may be of any size and nobody waits for it.
    ///
    /// # Errors
    ///
    /// If the request cannot be sent, or no complete response arrives in time.
    pub async fn send_for_success(
        &self,
        request: Request,
        reach: Reach,
        deadline: Duration,
        body_bytes_max: usize,
    ) -> Result<Response, Error> {
        let exchange = async {
            let (head, body) = self.exchange(request, reach).await?.into_parts();
            let (status, headers) = (head.status.as_u16(), listed(&head.headers));
            if !head.status.is_success() {
                tokio::spawn(drain(body));
                return Ok(Response { status, headers, body: Bytes::new() });
            }
            Ok(Response { status, headers, body: read(body, body_bytes_max).await? })
        };
        timeout(deadline, exchange).await.unwrap_or(Err(Error::Timeout(deadline)))
    }

    /// Sends a request and returns only the head of the response, which must arrive within `deadline`.
    ///
    /// # Errors
    ///
    /// If the request cannot be sent, or no response arrives in time.
    pub async fn send_for_head(
        &self,
        request: Request,
        reach: Reach,
        deadline: Duration,
    ) -> Result<Response, Error> {
        let response = timeout(deadline, self.exchange(request, reach)).await;
        let (head, body) = response.unwrap_or(Err(Error::Timeout(deadline)))?.into_parts();
        drain(body).await;
        Ok(Response { status: head.status.as_u16(), headers: listed(&head.headers), body: Bytes::new() })
    }

    async fn exchange(&self, request: Request, reach: Reach) -> Result<hyper::Response<Incoming>, Error> {
        let pool = match reach {
            Reach::Public => &self.public,
            Reach::Anywhere => &self.anywhere,
        };
        pool.request(request.inner).await.map_err(|error| explain(&error))
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Request {
    /// Creates a request from an upper-case HTTP method, headers without those of the connection, and a body.
    ///
    /// # Errors
    ///
    /// If the method or a header is not valid.
    pub fn new<N: AsRef<str>, V: AsRef<[u8]>>(
        method: &str,
        url: &Url,
        headers: impl IntoIterator<Item = (N, V)>,
        body: Bytes,
    ) -> Result<Self, Error> {
        let invalid = |why: String| Error::Invalid(why.into());
        let method = match method {
            "GET" => Method::GET,
            "HEAD" => Method::HEAD,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            "DELETE" => Method::DELETE,
            "OPTIONS" => Method::OPTIONS,
            _ => {
                return Err(invalid(
                    "the method must be GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS".into(),
                ));
            }
        };
        let mut inner = hyper::Request::new(Full::new(body));
        *inner.method_mut() = method;
        *inner.uri_mut() = url.uri.clone();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_ref().as_bytes())
                .map_err(|_| invalid("a header has no usable name".into()))?;
            if RESERVED.contains(&name.as_str()) {
                return Err(invalid(format!("the header `{name}` is written by the gateway")));
            }
            let value = HeaderValue::from_bytes(value.as_ref()).map_err(|_| {
                invalid(format!("the value of the header `{name}` has characters that none may have"))
            })?;
            inner.headers_mut().append(name, value);
        }
        Ok(Self { inner })
    }

    /// Whether the client writes the header of this lower-case name itself and accepts it from nobody.
    pub fn is_reserved(name: &str) -> bool {
        RESERVED.contains(&name)
    }
}

impl Response {
    /// The first header with this lower-case name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| **header == *name);
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        StatusCode::from_u16(self.status).is_ok_and(|status| status.is_success())
    }
}

/// Reads a body of at most this many bytes.
async fn read(body: Incoming, bytes_max: usize) -> Result<Bytes, Error> {
    // An announced length is trusted before anything of the body is read.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(Error::TooLarge(bytes_max));
    }
    let body = Limited::new(body, bytes_max).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Error::TooLarge(bytes_max),
        None => Error::Failed(innermost(&*error)),
    })?;
    Ok(body.to_bytes())
}

/// Reads a body that nobody wants: a connection can be reused only if the response was read to its end.
async fn drain(body: Incoming) {
    let _ = timeout(UNWANTED_TIME, Limited::new(body, UNWANTED_BYTES_MAX).collect()).await;
}

fn listed(headers: &HeaderMap) -> Vec<(Box<str>, Bytes)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().into(), Bytes::copy_from_slice(value.as_bytes())))
        .collect()
}

fn explain(error: &legacy::Error) -> Error {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            return match error {
                ConnectError::Refused(_) => Error::Refused(error.to_string().into()),
                ConnectError::Busy => Error::Busy,
                ConnectError::Failed(why) => Error::Unreachable(why.clone()),
            };
        }
        source = error.source();
    }
    Error::Failed(innermost(error))
}

/// The message of the root cause.
fn innermost(error: &(dyn StdError + 'static)) -> Box<str> {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string().into()
}

#[cfg(test)]
impl Client {
    /// Trusts servers with this certificate only, in DER.
    pub(super) fn trusting(certificate: Vec<u8>) -> Self {
        Self::with(Tls::trusting(certificate.into()), CONNECTIONS_MAX)
    }
}
