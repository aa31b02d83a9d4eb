//! From a TCP connection to a WebSocket (RFC 6455, 4.2), by hyper; and the refusals, as proper HTTP answers.
//!
//! After the answer 101 the socket is taken out of hyper, so that hyper's buffers are gone and writes reach it directly.

use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::site::Site;
use super::websocket::accept_key;
use crate::accept::{self, Admission, ConnectionPermit, HandshakePermit, Refusal};
use crate::config::{Config, Origins};
use crate::protocol::Protocol;
use crate::shutdown::{self, Phase};
use crate::telemetry::metrics::{Metrics, Refused};

/// Where the Centrifuge protocol is spoken.
pub const WEBSOCKET_PATH: &str = "/connection/websocket";
/// Where applications speak their own.
pub const RAW_PATH: &str = "/connection/raw";

/// Seconds a refused client is asked to wait.
const RETRY_AFTER_SECONDS: u32 = 5;

/// Time for an answer in progress when the gateway goes down.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// What a handshake needs to know.
pub struct Handshake {
    /// As resolved at start.
    pub config: Arc<Config>,
    /// How many connections there may be.
    pub admission: Arc<Admission>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Whose counters.
    pub worker: usize,
    /// Pages beside the endpoints, if there are any.
    pub site: Option<Arc<dyn Site>>,
    /// How far the process is.
    pub phase: watch::Receiver<Phase>,
}

/// A client whose handshake is done.
pub struct Accepted {
    /// The socket itself.
    pub socket: TcpStream,
    /// Bytes that came behind the request.
    pub early: Bytes,
    /// Where it came from.
    pub address: IpAddr,
    /// How it wants to talk.
    pub protocol: Protocol,
    /// The headers that are kept for plugins.
    pub headers: Arc<[(Box<str>, Box<str>)]>,
    /// A bearer token in the `Authorization` header (RFC 6750, 2.1); empty for none.
    pub token: Box<str>,
    /// Counts as a connection until dropped.
    pub connection: ConnectionPermit,
    /// Counts as a handshake until the client is admitted.
    pub handshake: HandshakePermit,
}

/// What was agreed on, before the socket is there.
struct Agreement {
    protocol: Protocol,
    accept: String,
    subprotocol: Option<&'static str>,
    headers: Arc<[(Box<str>, Box<str>)]>,
    token: Box<str>,
    connection: ConnectionPermit,
}

type Answer = Response<Full<Bytes>>;

impl Handshake {
    /// Serves one TCP connection until it is a WebSocket or closed. `opened` gets the client. The caller sets the
    /// deadline; dropping the future closes the socket.
    pub async fn serve(
        self: Rc<Self>,
        socket: TcpStream,
        address: IpAddr,
        permit: HandshakePermit,
        opened: impl Fn(Accepted) + Clone + 'static,
    ) {
        let permit = Rc::new(std::cell::RefCell::new(Some(permit)));
        let asked = std::cell::Cell::new(false);
        let service = service_fn(|mut request: Request<Incoming>| {
            let (this, permit, opened) = (self.clone(), permit.clone(), opened.clone());
            asked.set(true);
            async move {
                let answer = match this.agree(&request, address) {
                    Ok(agreement) => {
                        let answer = agreement.answer();
                        let upgrade = hyper::upgrade::on(&mut request);
                        tokio::task::spawn_local(async move {
                            let Ok(upgraded) = upgrade.await else { return };
                            let Some(handshake) = permit.borrow_mut().take() else { return };
                            if let Some(accepted) = agreement.take(upgraded, address, handshake) {
                                opened(accepted);
                            }
                        });
                        answer
                    }
                    Err(answer) => *answer,
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.handshake.deadline)
            .max_buf_size(self.config.handshake.header_bytes_max.max(8192))
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades();
        let served = tokio::select! {
            served = &mut connection => served,
            _ = shutdown::draining(self.phase.clone()) => {
                if asked.get() {
                    // It has had its answer, or is getting it.
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                    timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
                } else {
                    self.refused(Refused::Draining, address);
                    if let Some(parts) = connection.into_parts() {
                        accept::turn_away(parts.io.into_inner(), accept::GOING_DOWN).await;
                    }
                    return;
                }
            }
        };
        if let Err(error) = served {
            // hyper has answered 400, 431 or 408 where it could.
            self.refused(Refused::BadRequest, address);
            tracing::debug!(%address, %error, "handshake failed");
        }
    }

    fn refused(&self, why: Refused, address: IpAddr) {
        self.metrics.worker(self.worker).refused(why, address);
    }

    fn agree(&self, request: &Request<Incoming>, address: IpAddr) -> Result<Agreement, Box<Answer>> {
        let path = request.uri().path();
        let protocol = match path {
            WEBSOCKET_PATH => Protocol::CentrifugeJson,
            RAW_PATH if self.config.raw.enabled => Protocol::Raw,
            _ => return Err(Box::new(self.page(request, address))),
        };
        let key = upgrade_key(request).map_err(|(status, why)| {
            self.refused(Refused::BadRequest, address);
            let mut answer = text(status, why);
            if status == StatusCode::UPGRADE_REQUIRED {
                let headers = answer.headers_mut();
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            Box::new(answer)
        })?;
        if !self.origin_is_allowed(request.headers()) {
            self.refused(Refused::Origin, address);
            let why =
                "this origin is not allowed: the operator lists allowed origins in `handshake.origins`\n";
            return Err(Box::new(text(StatusCode::FORBIDDEN, why)));
        }
        let subprotocol = subprotocol(protocol, request).map_err(|why| {
            self.refused(Refused::BadRequest, address);
            Box::new(text(StatusCode::BAD_REQUEST, why))
        })?;
        let connection = self.admission.connect(address).map_err(|refusal| {
            let (status, refused, why) = match refusal {
                Refusal::Node => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    Refused::Capacity,
                    "the gateway has as many connections as it may\n",
                ),
                Refusal::Address => (
                    StatusCode::TOO_MANY_REQUESTS,
                    Refused::AddressCapacity,
                    "your address has as many connections as it may\n",
                ),
            };
            self.refused(refused, address);
            let mut answer = text(status, why);
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
            Box::new(answer)
        })?;
        Ok(Agreement {
            protocol,
            accept: accept_key(key),
            subprotocol,
            headers: self.kept(request.headers()),
            token: bearer(request.headers()),
            connection,
        })
    }

    /// Everything that is not an endpoint.
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
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        let mut answer = Response::new(Full::new(page.body));
        *answer.status_mut() = StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in page.headers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        answer
    }

    /// Browsers always send an origin; who sends none is no browser and cannot be misused by a foreign page.
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

    fn kept(&self, headers: &HeaderMap) -> Arc<[(Box<str>, Box<str>)]> {
        let kept = self.config.handshake.headers_kept.iter();
        kept.filter_map(|name| {
            let value = headers.get(&**name)?.to_str().ok()?;
            Some((name.clone(), value.into()))
        })
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
        if let Some(subprotocol) = self.subprotocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        }
        answer
    }

    fn take(self, upgraded: Upgraded, address: IpAddr, handshake: HandshakePermit) -> Option<Accepted> {
        let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
        Some(Accepted {
            socket: parts.io.into_inner(),
            early: parts.read_buf,
            address,
            protocol: self.protocol,
            headers: self.headers,
            token: self.token,
            connection: self.connection,
            handshake,
        })
    }
}

/// Checks everything RFC 6455 4.2.1 asks of a request and returns the key.
fn upgrade_key(request: &Request<Incoming>) -> Result<&str, (StatusCode, &'static str)> {
    let bad = |why| Err((StatusCode::BAD_REQUEST, why));
    if request.method() != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "a WebSocket handshake is a GET request\n"));
    }
    let headers = request.headers();
    // RFC 9112, 3.2: a server must refuse none as well as two.
    if headers.get_all(header::HOST).iter().count() != 1 {
        return bad("exactly one `Host` is needed\n");
    }
    if !has_token(headers, &header::UPGRADE, "websocket") {
        return Err((
            StatusCode::UPGRADE_REQUIRED,
            "this is a WebSocket endpoint: `Upgrade: websocket` is missing\n",
        ));
    }
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return bad("`Connection: Upgrade` is missing: does a proxy in between drop it?\n");
    }
    if request.version() != hyper::Version::HTTP_11 {
        return bad("a WebSocket handshake is an HTTP/1.1 request\n");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "only version 13 of WebSocket is spoken here\n"));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return bad("exactly one `Sec-WebSocket-Key` is needed\n");
    };
    match key.to_str() {
        Ok(key) if BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16) => Ok(key),
        _ => bad("`Sec-WebSocket-Key` must be 16 bytes in Base64\n"),
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

/// The subprotocol to announce. A client that offers only what is not spoken here is told so, instead of being left with
/// frames it cannot read.
fn subprotocol(
    protocol: Protocol,
    request: &Request<Incoming>,
) -> Result<Option<&'static str>, &'static str> {
    if protocol == Protocol::Raw {
        return Ok(None);
    }
    const NO_PROTOBUF: &str =
        "the Protobuf encoding is not available here: use `centrifuge-json` or no subprotocol\n";
    let query = request.uri().query().unwrap_or_default();
    if query.split('&').any(|pair| matches!(pair, "format=protobuf" | "cf_protocol=protobuf")) {
        return Err(NO_PROTOBUF);
    }
    let name = &header::SEC_WEBSOCKET_PROTOCOL;
    if has_token(request.headers(), name, "centrifuge-json") {
        Ok(Some("centrifuge-json"))
    } else if has_token(request.headers(), name, "centrifuge-protobuf") {
        Err(NO_PROTOBUF)
    } else {
        Ok(None)
    }
}

fn bearer(headers: &HeaderMap) -> Box<str> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim().into(),
        _ => Box::default(),
    }
}

fn text(status: StatusCode, why: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(why.as_bytes())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
