//! Answers a request on the public listener: an endpoint for WebSocket, an endpoint for
//! [streams](super::stream), or a page.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};

use super::body::RequestBody;
use super::stream::{EMULATION_PATH, endpoint};
use super::{Accepted, Agreement, Begin, Exchange, Handshake, Hop, Opening};
use crate::accept::{Arrival, Refusal, TEXT};
use crate::hub::connection_handle::Socket;
use crate::protocol::{Encoding, Framing};
use crate::telemetry::metrics::Refused;
use crate::transport::forwarded;
use crate::transport::tls::ClientCertificate;
use crate::transport::websocket::accept_key;
use crate::transport::websocket::deflate::agree;

/// Endpoint of the Centrifuge protocol.
pub const WEBSOCKET_PATH: &str = "/connection/websocket";
/// Endpoint of the Centrifuge protocol for clients that only listen.
const UNIDIRECTIONAL_WEBSOCKET_PATH: &str = "/connection/uni_websocket";
/// Endpoint for applications with their own protocol.
pub const RAW_PATH: &str = "/connection/raw";

/// Base64 of 16 bytes ends in four unused bits. The key is valid whatever they are.
const KEY: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// RFC 9112, 3.2: a server must refuse a request without `Host`, or with two.
pub(super) const NO_HOST: &str = "exactly one `Host` is needed\n";

/// Marks a request over HTTP/2 that opens a WebSocket (RFC 8441, 4).
#[derive(Clone, Copy)]
pub(super) struct WebSocketOverHttp2;

/// A response that ends the exchange.
pub(super) type Answer = Response<Full<Bytes>>;

impl Handshake {
    /// Reads a request to its end. The error is a response that does not open a connection.
    pub(super) async fn agree(
        &self,
        request: Request<RequestBody>,
        hop: Hop<'_>,
        exchange: &Exchange,
    ) -> Result<Agreement, Box<Answer>> {
        let address = self.client(request.headers(), hop)?;
        let path = request.uri().path();
        if path == EMULATION_PATH && self.config.fallbacks.enabled {
            return Err(self.emulate(request, address, hop, exchange).await);
        }
        if let Some(endpoint) = endpoint(path, &self.config) {
            return self.stream(request, endpoint, address, hop, exchange).await;
        }
        exchange.complete(hop.slot);
        let (encoding, subprotocol) = match path {
            WEBSOCKET_PATH => agreed_encoding(&request),
            UNIDIRECTIONAL_WEBSOCKET_PATH if self.config.unidirectional.enabled => {
                (Encoding::Unidirectional, None)
            }
            RAW_PATH if self.config.raw.enabled => {
                let announced = announced(&request);
                let announced =
                    announced.map_err(|why| self.bad_request(StatusCode::BAD_REQUEST, why, address))?;
                (Encoding::Raw, announced)
            }
            _ => return Err(Box::new(self.page(&request, address))),
        };
        let key = upgrade_key(&request).map_err(|(status, why)| {
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
            return Err(self.refuse_origin(request.headers(), address));
        }
        let offers = request.headers().get_all(header::SEC_WEBSOCKET_EXTENSIONS).into_iter();
        let offers = offers.filter(|_| self.config.compression.enabled).map(HeaderValue::as_bytes);
        let compression = agree(offers);
        let begin = Begin::Upgrade {
            accept: key.map(accept_key),
            subprotocol: subprotocol.and_then(|name| HeaderValue::from_bytes(name).ok()),
            compression,
        };
        let (token, connection) = self.claim(request.headers(), address)?;
        let headers = self.kept(request.headers(), hop.certificate);
        let window = compression.map(|agreed| agreed.window);
        let format = encoding.over(window.map_or(Framing::WebSocket, Framing::WebSocketDeflate));
        Ok(Agreement { address, format, begin, headers, token, connection })
    }

    /// The token of a request that is otherwise acceptable, and its place among the connections.
    pub(super) fn claim(
        &self,
        headers: &HeaderMap,
        address: IpAddr,
    ) -> Result<(Box<str>, crate::accept::ConnectionPermit), Box<Answer>> {
        let token = credential(headers);
        let token = token.map_err(|why| self.bad_request(StatusCode::BAD_REQUEST, why, address))?;
        let connection = self.admission.connect(address).map_err(|refusal| self.refuse(refusal, address))?;
        Ok((token, connection))
    }

    /// A response to a request that is the client's mistake.
    pub(super) fn bad_request(&self, status: StatusCode, why: &'static str, address: IpAddr) -> Box<Answer> {
        self.refused(Refused::BadRequest, address);
        Box::new(text(status, why))
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

    pub(super) fn refuse(&self, refusal: Refusal, address: IpAddr) -> Box<Answer> {
        self.refused(refusal.reason, address);
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let mut answer = text(status, refusal.message());
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(refusal.retry_after));
        Box::new(answer)
    }

    /// Serves paths that are not endpoints.
    fn page(&self, request: &Request<RequestBody>, address: IpAddr) -> Answer {
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

    /// The headers for plugins, each with all its values: a proxy may add a line to a header of the client.
    /// What the client's certificate says follows them, under names that cannot be among them.
    pub(super) fn kept(
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
    /// The response that hyper sends before it returns the socket. `None` if the response is written with the
    /// stream that it begins.
    pub(super) fn answer(&self) -> Option<Answer> {
        let Begin::Upgrade { accept, .. } = &self.begin else { return None };
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Some(accept) = accept.as_ref().and_then(|accept| HeaderValue::from_str(accept).ok()) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        self.begin.write(headers);
        Some(answer)
    }

    /// The head of the response over HTTP/2.
    pub(super) fn head(&self) -> Response<()> {
        let mut head = Response::new(());
        *head.version_mut() = Version::HTTP_2;
        self.begin.write(head.headers_mut());
        head
    }

    /// The client with its socket. Over HTTP/2 it has the head of the response.
    pub(super) fn accepted(
        self,
        socket: Box<dyn Socket>,
        early: Bytes,
        arrival: Arrival,
        version: Version,
    ) -> Accepted {
        let Self { address, format, begin, headers, token, connection } = self;
        let opening = match begin {
            Begin::Upgrade { .. } => None,
            Begin::Stream { headers, message } => {
                let to_write = (version != Version::HTTP_2).then_some(&headers);
                Some(Opening::new(format, to_write, message))
            }
        };
        Accepted { socket, early, address, format, opening, headers, token, connection, arrival }
    }
}

impl Begin {
    /// Adds the headers that do not depend on the version of HTTP.
    fn write(&self, into: &mut HeaderMap) {
        match self {
            Self::Upgrade { subprotocol, compression, .. } => {
                if let Some(subprotocol) = subprotocol {
                    into.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol.clone());
                }
                if let Some(agreed) = compression {
                    into.insert(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(agreed.answer));
                }
            }
            Self::Stream { headers, .. } => into.extend(headers.clone()),
        }
    }
}

/// Whether a request has the `Host` that its version demands.
pub(super) fn has_host<B>(request: &Request<B>) -> bool {
    match request.headers().get_all(header::HOST).iter().count() {
        0 => request.version() == Version::HTTP_10,
        count => count == 1,
    }
}

/// Checks all requirements of RFC 6455 4.2.1 on a request and returns the key. Over HTTP/2 there is none, and
/// those of RFC 8441 are checked.
fn upgrade_key(request: &Request<RequestBody>) -> Result<Option<&str>, (StatusCode, &'static str)> {
    let bad = |why| Err((StatusCode::BAD_REQUEST, why));
    if request.version() == Version::HTTP_2 {
        return match request.extensions().get::<WebSocketOverHttp2>() {
            None => bad("over HTTP/2 a WebSocket is opened by CONNECT with `:protocol` = `websocket`\n"),
            Some(_) if !has_host(request) => bad(NO_HOST),
            Some(_) => websocket_version(request.headers()).map(|()| None),
        };
    }
    if request.method() != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "a WebSocket handshake is a GET request\n"));
    }
    let headers = request.headers();
    if !has_host(request) {
        return bad(NO_HOST);
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
    if request.version() != Version::HTTP_11 {
        return bad("a WebSocket handshake is an HTTP/1.1 request\n");
    }
    websocket_version(headers)?;
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return bad("exactly one `Sec-WebSocket-Key` is needed\n");
    };
    match key.to_str() {
        // RFC 6455, 4.2.1: only form and length matter.
        Ok(key) if KEY.decode(key).is_ok_and(|key| key.len() == 16) => Ok(Some(key)),
        _ => bad("`Sec-WebSocket-Key` must be 16 bytes in Base64\n"),
    }
}

fn websocket_version(headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let mut versions = headers.get_all(header::SEC_WEBSOCKET_VERSION).iter();
    match (versions.next(), versions.next()) {
        (Some(version), None) if version.as_bytes() == b"13" => Ok(()),
        _ => Err((StatusCode::UPGRADE_REQUIRED, "only version 13 of WebSocket is spoken here\n")),
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
fn agreed_encoding(request: &Request<RequestBody>) -> (Encoding, Option<&[u8]>) {
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

/// Beginning of a subprotocol that is a token. Pages cannot send `Authorization` with a WebSocket.
const TOKEN_SUBPROTOCOL: &[u8] = b"bearer.";

/// The subprotocol to announce to a client with its own protocol: the first one that is not a token. Browsers
/// close a WebSocket whose server announces none of those that were offered.
fn announced<B>(request: &Request<B>) -> Result<Option<&[u8]>, &'static str> {
    let mut offered = tokens(request.headers(), &header::SEC_WEBSOCKET_PROTOCOL);
    let mut with_token = false;
    let other = offered.find(|name| {
        let is_token = name.starts_with(TOKEN_SUBPROTOCOL);
        with_token |= is_token;
        !is_token && !name.is_empty()
    });
    // The gateway repeats no token.
    if other.is_none() && with_token {
        Err("offer another subprotocol beside the token, to be announced\n")
    } else {
        Ok(other)
    }
}

/// The token of a handshake, empty for none: of `Authorization`, or of a subprotocol.
fn credential(headers: &HeaderMap) -> Result<Box<str>, &'static str> {
    let in_header = bearer(headers)?;
    let mut offered = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|name| name.strip_prefix(TOKEN_SUBPROTOCOL))
        .map(|token| String::from_utf8_lossy(token).into_owned().into_boxed_str());
    match (offered.next(), offered.next()) {
        (None, _) => Ok(in_header),
        (Some(token), None) if in_header.is_empty() => Ok(token),
        _ => Err("at most one token is accepted: in `Authorization` or in a subprotocol\n"),
    }
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

pub(super) fn text(status: StatusCode, why: &'static str) -> Answer {
    let mut answer = last(Bytes::from_static(why.as_bytes()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A response after which the connection is closed: waiting for another request would take a slot from a
/// client.
pub(super) fn last(body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offering(subprotocols: &'static str, authorization: Option<&'static str>) -> Request<()> {
        let mut request = Request::new(());
        let headers = request.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocols));
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(authorization));
        }
        request
    }

    #[test]
    fn a_token_may_be_a_subprotocol_and_is_not_announced() {
        for (offered, expected) in [
            ("chat, bearer.a.b-c", Ok(Some(&b"chat"[..]))),
            ("bearer.a, chat", Ok(Some(b"chat"))),
            ("chat", Ok(Some(b"chat"))),
            ("", Ok(None)),
        ] {
            assert_eq!(announced(&offering(offered, None)), expected, "{offered}");
        }
        assert!(announced(&offering("bearer.a", None)).is_err());
    }

    #[test]
    fn there_is_at_most_one_token() {
        let token = |offered, authorization| credential(offering(offered, authorization).headers());
        assert_eq!(token("chat, bearer.a.b-c", None), Ok("a.b-c".into()));
        assert_eq!(token("chat", Some("Bearer x")), Ok("x".into()));
        assert_eq!(token("chat", None), Ok("".into()));
        assert!(token("bearer.a, bearer.b", None).is_err());
        assert!(token("bearer.a", Some("Bearer x")).is_err());
    }
}
