//! [`Handshake`] turns a TCP connection into a WebSocket (RFC 6455, 4.2) with hyper, or refuses it with an
//! HTTP response.
//!
//! A connection carries one request. After the response 101 the socket is taken out of hyper, so that hyper's
//! buffers are freed and writes reach the socket directly. After any other response the connection is closed.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::forwarded;
use super::proxy::{Malformed, Unread, Whom};
use super::site::Site;
use super::tls::{ClientCertificate, Encrypted, NotTls, Stream, Tls};
use super::websocket::accept_key;
use crate::accept::{
    Admission, Arrival, ConnectionPermit, Refusal, Slot, Standing, TEXT, answer, before_handshake, linger,
};
use crate::config::{Config, Origins, Tell};
use crate::hub::connection_handle::Socket;
use crate::protocol::Encoding;
use crate::seldom::seldom;
use crate::shutdown::{self, Phase};
use crate::telemetry::metrics::{Metrics, Refused};

/// Endpoint of the Centrifuge protocol.
pub const WEBSOCKET_PATH: &str = "/connection/websocket";
/// Endpoint for applications with their own protocol.
pub const RAW_PATH: &str = "/connection/raw";

/// Base64 of 16 bytes ends in four unused bits. The key is valid whatever they are.
const KEY: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

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
}

/// A client whose handshake is complete.
pub struct Accepted {
    /// The socket itself, or TLS on it.
    pub socket: Box<dyn Socket>,
    /// Bytes that followed the request.
    pub early: Bytes,
    /// The address of the client, behind trusted proxies.
    pub address: IpAddr,
    /// How messages of the connection become bytes.
    pub encoding: Encoding,
    /// The headers that are kept for plugins.
    pub headers: Arc<[(Box<str>, Box<str>)]>,
    /// A bearer token in the `Authorization` header (RFC 6750, 2.1); empty for none.
    pub token: Box<str>,
    /// Counts as a connection until dropped.
    pub connection: ConnectionPermit,
    /// Counts as a handshake until the client is admitted.
    pub arrival: Arrival,
}

/// The result of the handshake, before hyper returns the socket.
struct Agreement {
    address: IpAddr,
    encoding: Encoding,
    accept: String,
    subprotocol: Option<HeaderValue>,
    headers: Arc<[(Box<str>, Box<str>)]>,
    token: Box<str>,
    connection: ConnectionPermit,
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

/// The outcome of a handshake.
enum Shaken {
    /// A WebSocket, and the bytes that followed the request.
    Agreed(Box<Agreement>, Bytes, Box<dyn Socket>),
    /// No WebSocket; a response is being sent.
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

/// Bytes of a refused origin in the log.
const ORIGIN_SHOWN_MAX: usize = 200;
/// The response to a client that speaks HTTP in the clear where TLS is spoken.
const IN_THE_CLEAR: &str = "this port speaks TLS: connect with https:// or wss://\n";
/// Type of the record that begins a TLS connection (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// The response to a proxy whose PROXY header is invalid.
const BAD_PREAMBLE: &str = "the PROXY header before the request is malformed, or larger than 4096 bytes\n";

type Answer = Response<Full<Bytes>>;

impl Handshake {
    /// Serves one TCP connection until it is a WebSocket, closed, or has to give way. `peer` is the remote
    /// address. Dropping the future closes the socket.
    pub async fn serve(
        &self,
        socket: TcpStream,
        peer: IpAddr,
        mut arrival: Arrival,
        deadline: Instant,
    ) -> Option<Accepted> {
        let shaken = tokio::select! {
            shaken = timeout_at(deadline, self.shake(socket, peer, &arrival.slot)) => shaken,
            true = arrival.evicted.wait() => {
                self.refused(Refused::Evicted, peer);
                return None;
            }
        };
        match shaken {
            Ok(Shaken::Agreed(agreement, early, socket)) => {
                let Agreement { address, encoding, headers, token, connection, .. } = *agreement;
                Some(Accepted { socket, early, address, encoding, headers, token, connection, arrival })
            }
            Ok(Shaken::Answered(socket)) => {
                // A connection that has its response must not keep others out.
                arrival.slot.wait(Standing::Silent);
                tokio::select! {
                    () = linger(socket) => (),
                    _ = arrival.evicted.wait() => (),
                }
                None
            }
            Ok(Shaken::Over) => None,
            Err(_) => {
                self.refused(Refused::Deadline, peer);
                None
            }
        }
    }

    async fn shake(&self, socket: TcpStream, peer: IpAddr, slot: &Slot) -> Shaken {
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
            Some(tls) => match Box::pin(self.encrypt(tls, socket, hop.address, head_deadline)).await {
                Ok(Encrypted { stream, client }) => (stream, client),
                Err(shaken) => return shaken,
            },
        };
        let hop = Hop { certificate: certificate.as_ref(), ..hop };
        let (asked, agreed) = (Cell::new(false), RefCell::new(None));
        let service = service_fn(|request: Request<Incoming>| {
            asked.set(true);
            slot.serve();
            let answer = match self.agree(&request, hop) {
                Ok(agreement) => {
                    let answer = agreement.answer();
                    *agreed.borrow_mut() = Some(Box::new(agreement));
                    answer
                }
                Err(answer) => *answer,
            };
            ready(Ok::<_, Infallible>(answer))
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
            _ = shutdown::draining(self.phase.clone()) => {
                if !asked.get() {
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
                    self.refused(Refused::Deadline, hop.address);
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
        address: IpAddr,
        deadline: Instant,
    ) -> Result<Encrypted, Shaken> {
        let encrypted = tokio::select! {
            biased;
            encrypted = timeout_at(deadline, tls.accept(socket)) => encrypted,
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

    /// The client of a request, from its headers if a trusted proxy sent it.
    fn client(&self, headers: &HeaderMap, hop: Hop<'_>) -> Result<IpAddr, Box<Answer>> {
        if !hop.trusted {
            return Ok(hop.address);
        }
        let lines = |name: HeaderName| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        let proxies = &self.config.listen.proxies;
        let for_lines = lines(HeaderName::from_static("x-forwarded-for"));
        let client = forwarded::client(proxies, hop.address, lines(header::FORWARDED), for_lines);
        let client = client.map_err(|unclear| {
            self.refused(Refused::BadRequest, hop.address);
            Box::new(text(StatusCode::BAD_REQUEST, unclear.message()))
        })?;
        self.admission.identify(hop.slot, client).map_err(|refusal| self.refuse(refusal, client))?;
        Ok(client)
    }

    fn refuse(&self, refusal: Refusal, address: IpAddr) -> Box<Answer> {
        self.refused(refusal.reason, address);
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let mut answer = text(status, refusal.message());
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(refusal.retry_after));
        Box::new(answer)
    }

    fn refused(&self, why: Refused, address: IpAddr) {
        self.metrics.worker(self.worker).refused(why, address);
    }

    fn agree(&self, request: &Request<Incoming>, hop: Hop<'_>) -> Result<Agreement, Box<Answer>> {
        let address = self.client(request.headers(), hop)?;
        let path = request.uri().path();
        let (encoding, subprotocol) = match path {
            WEBSOCKET_PATH => agreed_encoding(request),
            RAW_PATH if self.config.raw.enabled => (Encoding::Raw, None),
            _ => return Err(Box::new(self.page(request, address))),
        };
        let key = upgrade_key(request).map_err(|(status, why)| {
            self.refused(Refused::BadRequest, address);
            let mut answer = text(status, why);
            let headers = answer.headers_mut();
            if status == StatusCode::UPGRADE_REQUIRED {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            } else if status == StatusCode::METHOD_NOT_ALLOWED {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            Box::new(answer)
        })?;
        if !self.origin_is_allowed(request.headers()) {
            self.refused(Refused::Origin, address);
            let origin = request.headers().get(header::ORIGIN).map(|origin| origin.as_bytes());
            let origin = String::from_utf8_lossy(origin.unwrap_or_default());
            // A page may send a long one.
            let origin = origin.get(..origin.floor_char_boundary(ORIGIN_SHOWN_MAX)).unwrap_or_default();
            seldom!(
                warn,
                origin,
                "page refused: `handshake.origins` does not list its origin; add it if the page is yours"
            );
            let why =
                "this origin is not allowed: the operator lists allowed origins in `handshake.origins`\n";
            return Err(Box::new(text(StatusCode::FORBIDDEN, why)));
        }
        let bad_request = |why| {
            self.refused(Refused::BadRequest, address);
            Box::new(text(StatusCode::BAD_REQUEST, why))
        };
        let token = bearer(request.headers()).map_err(bad_request)?;
        let connection = self.admission.connect(address).map_err(|refusal| self.refuse(refusal, address))?;
        Ok(Agreement {
            address,
            encoding,
            accept: accept_key(key),
            subprotocol: subprotocol.and_then(|name| HeaderValue::from_bytes(name).ok()),
            headers: self.kept(request.headers(), hop.certificate),
            token,
            connection,
        })
    }

    /// Serves paths that are not endpoints.
    fn page(&self, request: &Request<Incoming>, address: IpAddr) -> Answer {
        let uri = request.uri();
        let page = self.site.as_ref().and_then(|site| site.respond(uri.path(), uri.query()));
        let Some(page) = page else {
            self.refused(Refused::NotFound, address);
            return text(
                StatusCode::NOT_FOUND,
                "there is nothing here: clients connect to /connection/websocket\n",
            );
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            self.refused(Refused::BadRequest, address);
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let mut answer = last(page.body);
        *answer.status_mut() = StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in page.headers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        answer
    }

    /// Browsers always send an origin. A client without one is no browser, so a foreign page cannot misuse
    /// it.
    fn origin_is_allowed(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (&self.config.handshake.origins, origins.next(), origins.next()) {
            (_, None, _) | (Origins::Any, Some(_), None) => true,
            (_, Some(_), Some(_)) => false,
            (Origins::Listed(listed), Some(origin), None) => {
                listed.iter().any(|listed| listed.as_bytes() == origin.as_bytes())
            }
        }
    }

    /// The headers for plugins, each with all its values: a proxy may add a line to a header of the client.
    /// What the client's certificate says follows them, under names that cannot be among them.
    fn kept(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
    ) -> Arc<[(Box<str>, Box<str>)]> {
        let kept = self.config.handshake.headers_kept.iter();
        kept.filter_map(|name| {
            let mut values =
                headers.get_all(&**name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            let mut all = values.next()?.into_owned();
            // RFC 9110, 5.3, and RFC 6265, 5.4.
            let separator = if **name == *"cookie" { "; " } else { ", " };
            for value in values {
                all.push_str(separator);
                all.push_str(&value);
            }
            Some((name.clone(), all.into()))
        })
        .chain(certificate.into_iter().flat_map(ClientCertificate::headers))
        .collect()
    }
}

impl Agreement {
    fn answer(&self) -> Answer {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(subprotocol) = &self.subprotocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol.clone());
        }
        answer
    }
}

/// Checks all requirements of RFC 6455 4.2.1 on a request and returns the key.
fn upgrade_key(request: &Request<Incoming>) -> Result<&str, (StatusCode, &'static str)> {
    let bad = |why| Err((StatusCode::BAD_REQUEST, why));
    if request.method() != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "a WebSocket handshake is a GET request\n"));
    }
    let headers = request.headers();
    // RFC 9112, 3.2: a server must refuse a request without `Host`, or with two.
    if headers.get_all(header::HOST).iter().count() != 1 {
        return bad("exactly one `Host` is needed\n");
    }
    if token(headers, &header::UPGRADE, "websocket").is_none() {
        return Err((
            StatusCode::UPGRADE_REQUIRED,
            "this is a WebSocket endpoint: `Upgrade: websocket` is missing\n",
        ));
    }
    if token(headers, &header::CONNECTION, "upgrade").is_none() {
        return bad("`Connection: Upgrade` is missing: does a proxy in between drop it?\n");
    }
    if request.version() != hyper::Version::HTTP_11 {
        return bad("a WebSocket handshake is an HTTP/1.1 request\n");
    }
    let mut versions = headers.get_all(header::SEC_WEBSOCKET_VERSION).iter();
    if !matches!((versions.next(), versions.next()), (Some(version), None) if version.as_bytes() == b"13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "only version 13 of WebSocket is spoken here\n"));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return bad("exactly one `Sec-WebSocket-Key` is needed\n");
    };
    match key.to_str() {
        // RFC 6455, 4.2.1: only form and length matter.
        Ok(key) if KEY.decode(key).is_ok_and(|key| key.len() == 16) => Ok(key),
        _ => bad("`Sec-WebSocket-Key` must be 16 bytes in Base64\n"),
    }
}

/// The first token of a list that equals this one, ignoring case, as it was sent.
fn token<'h>(headers: &'h HeaderMap, name: &HeaderName, token: &str) -> Option<&'h [u8]> {
    tokens(headers, name).find(|sent| sent.eq_ignore_ascii_case(token.as_bytes()))
}

/// The tokens of a list, in order.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines.flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii)
}

/// The encoding for a client of the Centrifuge protocol, with the subprotocol to announce, spelled as by the
/// client. The first supported subprotocol in the client's list wins; without one the query decides.
fn agreed_encoding(request: &Request<Incoming>) -> (Encoding, Option<&[u8]>) {
    let supported = [Encoding::Json, Encoding::Protobuf];
    for offered in tokens(request.headers(), &header::SEC_WEBSOCKET_PROTOCOL) {
        let same = |encoding: &Encoding| offered.eq_ignore_ascii_case(encoding.protocol_name().as_bytes());
        if let Some(encoding) = supported.into_iter().find(same) {
            return (encoding, Some(offered));
        }
    }
    let query = request.uri().query().unwrap_or_default();
    let protobuf = query.split('&').any(|pair| matches!(pair, "format=protobuf" | "cf_protocol=protobuf"));
    (if protobuf { Encoding::Protobuf } else { Encoding::Json }, None)
}

/// The token of `Authorization: Bearer TOKEN`, empty for none. Two credentials are refused: a proxy may have
/// checked the other one.
fn bearer(headers: &HeaderMap) -> Result<Box<str>, &'static str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(Box::default()) };
    if values.next().is_some() {
        return Err("at most one `Authorization` is accepted\n");
    }
    let value = std::str::from_utf8(value.as_bytes()).map_err(|_| "`Authorization` is not UTF-8 text\n")?;
    Ok(match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim().into(),
        _ => Box::default(),
    })
}

/// Writes a response that fits into the empty buffer of a new socket, so it never blocks.
async fn write(mut socket: Stream, answer: &[u8]) -> Shaken {
    if socket.write_all(answer).await.is_ok() {
        let _ = socket.flush().await;
    }
    Shaken::Answered(socket)
}

fn text(status: StatusCode, why: &'static str) -> Answer {
    let mut answer = last(Bytes::from_static(why.as_bytes()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A response after which the connection is closed: waiting for another request would take a slot from a
/// client.
fn last(body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}
