//! The endpoints for clients without WebSocket: a response that stays open carries messages to the client,
//! and further requests carry its commands ("emulation").
//!
//! The response has no length, and ends with the connection (RFC 9112, 6.3, rule 8), or with its stream of
//! HTTP/2. So its bytes are the same for every client and every version of HTTP, and a publication is framed
//! once for all of them. A socket of HTTP/1.1 is taken out of hyper before the response begins: its head is
//! the first thing in the outbound queue.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::time::{Instant, timeout};

use super::body::RequestBody;
use super::origin::Page;
use super::request::{Answer, NO_HOST, has_host, text};
use super::{Agreement, Begin, Exchange, Handshake, Hop, Opening};
use crate::accept::open_ended;
use crate::backplane::input::InputOutcome;
use crate::config::Config;
use crate::protocol::emulation::EmulationRequest;
use crate::protocol::{Encoding, Framing, WireFormat};
use crate::telemetry::metrics::Emulated;

/// Endpoint for commands of clients that receive a stream.
pub(super) const EMULATION_PATH: &str = "/emulation";

/// The parameter of a URL with the first message of a client that cannot send a body.
const CONNECT_PARAMETER: &str = "cf_connect";

/// The content type of a message in Protobuf.
const PROTOBUF_TYPE: &[u8] = b"application/octet-stream";

/// Maximum time for the gateway that has a connection to say whether it accepts a message. Longer than a hop
/// over Redis takes, and shorter than the 5 s for which client libraries wait for a reply.
const PATIENCE: Duration = Duration::from_secs(3);

/// Bytes of an emulation request besides the message.
const AROUND_MESSAGE: usize = 1024;

/// An endpoint whose response is a stream.
#[derive(Clone, Copy)]
pub(super) struct Endpoint {
    framing: Framing,
    /// Whether the client only listens.
    unidirectional: bool,
    /// Whether the first message may be in the URL.
    get: bool,
}

/// The endpoint at a path, if it is enabled.
pub(super) fn endpoint(path: &str, config: &Config) -> Option<Endpoint> {
    let (framing, unidirectional) = match path {
        "/connection/http_stream" => (Framing::HttpStream, false),
        "/connection/sse" => (Framing::EventStream, false),
        "/connection/uni_http_stream" => (Framing::HttpStream, true),
        "/connection/uni_sse" => (Framing::EventStream, true),
        _ => return None,
    };
    // Neither an `EventSource` of a browser nor a command typed by hand sends a body.
    let get = unidirectional || framing == Framing::EventStream;
    let enabled = if unidirectional { config.unidirectional.enabled } else { config.fallbacks.enabled };
    enabled.then_some(Endpoint { framing, unidirectional, get })
}

impl Endpoint {
    fn methods(self) -> &'static str {
        if self.get { "GET, POST, OPTIONS" } else { "POST, OPTIONS" }
    }

    fn format(self, headers: &HeaderMap) -> WireFormat {
        let encoding = match (self.unidirectional, self.framing) {
            (true, _) => Encoding::Unidirectional,
            // Events are text.
            (false, Framing::EventStream) => Encoding::Json,
            (false, _) => message_encoding(headers),
        };
        encoding.over(self.framing)
    }
}

impl Handshake {
    /// Agrees on a stream: reads the first message of the client, and prepares the response.
    pub(super) async fn stream(
        &self,
        request: Request<RequestBody>,
        endpoint: Endpoint,
        address: IpAddr,
        hop: Hop<'_>,
        exchange: &Exchange,
    ) -> Result<Agreement, Box<Answer>> {
        let page = self.page_of(request.headers(), address)?;
        let agreed = self.stream_for(request, endpoint, address, hop, &page, exchange).await;
        agreed.map_err(|mut answer| {
            page.allow(answer.headers_mut());
            answer
        })
    }

    async fn stream_for(
        &self,
        request: Request<RequestBody>,
        endpoint: Endpoint,
        address: IpAddr,
        hop: Hop<'_>,
        page: &Page,
        exchange: &Exchange,
    ) -> Result<Agreement, Box<Answer>> {
        let with_get = endpoint.get && request.method() == Method::GET;
        if !with_get {
            self.check_post(&request, page, endpoint.methods(), address)?;
        } else if !has_host(&request) {
            return Err(self.bad_request(StatusCode::BAD_REQUEST, NO_HOST, address));
        }
        let format = endpoint.format(request.headers());
        let headers = self.kept(request.headers(), hop.certificate);
        let (head, body) = request.into_parts();
        let bytes_max = self.config.limits.message_bytes_max;
        let message = if with_get {
            head.uri.query().and_then(connect_parameter).unwrap_or_default().into_owned().into()
        } else {
            self.body(body, bytes_max, address).await?
        };
        exchange.complete(hop.slot);
        let (token, connection) = self.claim(&head.headers, address)?;
        let message = match (message.is_empty(), endpoint.unidirectional) {
            (false, _) if message.len() > bytes_max => {
                return Err(self.bad_request(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE, address));
            }
            (false, _) => message,
            // A client that only listens needs to say nothing but who it is.
            (true, true) => serde_json::json!({ "token": token }).to_string().into(),
            (true, false) => return Err(self.bad_request(StatusCode::BAD_REQUEST, NO_MESSAGE, address)),
        };
        let begin = Begin::Stream { headers: response_headers(format, page), message };
        Ok(Agreement { address, format, begin, headers, token, connection })
    }

    /// Passes the message of an emulation request to its connection, at whichever gateway it is.
    pub(super) async fn emulate(
        &self,
        request: Request<RequestBody>,
        address: IpAddr,
        hop: Hop<'_>,
        exchange: &Exchange,
    ) -> Box<Answer> {
        let page = match self.page_of(request.headers(), address) {
            Ok(page) => page,
            Err(answer) => return answer,
        };
        let mut answer = match self.pass_on(request, address, hop, &page, exchange).await {
            Ok(()) => accepted(),
            Err(answer) => answer,
        };
        exchange.complete(hop.slot);
        exchange.answered.update(|answered| answered + 1);
        page.allow(answer.headers_mut());
        // Another request may follow, as long as there is time for its head. A client that knows the time
        // sends none when the gateway is about to close.
        let idle = self.config.handshake.head_deadline;
        if Instant::now() + idle < exchange.deadline && answer.status() == StatusCode::NO_CONTENT {
            let seconds = idle.as_secs().saturating_sub(1).max(1);
            answer.headers_mut().remove(header::CONNECTION);
            if let Ok(timeout) = HeaderValue::from_str(&format!("timeout={seconds}")) {
                answer.headers_mut().insert("keep-alive", timeout);
            }
        } else {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn pass_on(
        &self,
        request: Request<RequestBody>,
        address: IpAddr,
        hop: Hop<'_>,
        page: &Page,
        exchange: &Exchange,
    ) -> Result<(), Box<Answer>> {
        self.check_post(&request, page, "POST, OPTIONS", address)?;
        // The first one was counted as a connection, and those of a proxy as requests of its clients.
        if exchange.answered.get() > 0 && !hop.trusted {
            self.admission.count_request(address).map_err(|refusal| self.refuse(refusal, address))?;
        }
        let encoding = message_encoding(request.headers());
        let bytes_max = self.config.limits.message_bytes_max;
        // As a JSON string a message may be twice as long.
        let body = self.body(request.into_body(), 2 * bytes_max + AROUND_MESSAGE, address).await?;
        exchange.complete(hop.slot);
        let answer = |result: Emulated, status, why| {
            self.metrics.worker(self.worker).emulated(result);
            Err(Box::new(text(status, why)))
        };
        let Ok(request) = EmulationRequest::decode(encoding, body) else {
            return answer(Emulated::Malformed, StatusCode::BAD_REQUEST, MALFORMED);
        };
        if request.data.len() > bytes_max {
            return answer(Emulated::Malformed, StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
        }
        let Some(outcome) = self.backplane.input(request) else {
            return answer(Emulated::NoSession, StatusCode::NOT_FOUND, NO_NODE);
        };
        match timeout(PATIENCE, outcome).await {
            Ok(Ok(InputOutcome::Accepted)) => {
                self.metrics.worker(self.worker).emulated(Emulated::Accepted);
                Ok(())
            }
            Ok(Ok(InputOutcome::NoSession)) => answer(Emulated::NoSession, StatusCode::NOT_FOUND, NO_SESSION),
            Ok(Ok(InputOutcome::Full)) => answer(Emulated::Full, StatusCode::TOO_MANY_REQUESTS, FULL),
            Ok(Err(_)) | Err(_) => {
                answer(Emulated::Unreachable, StatusCode::SERVICE_UNAVAILABLE, UNREACHABLE)
            }
        }
    }

    /// Checks a request that has to be a POST. A preflight is answered.
    fn check_post(
        &self,
        request: &Request<RequestBody>,
        page: &Page,
        methods: &'static str,
        address: IpAddr,
    ) -> Result<(), Box<Answer>> {
        if request.method() == Method::OPTIONS {
            return Err(page.preflight(request.headers(), methods));
        }
        if request.method() != Method::POST {
            let mut answer = self.bad_request(StatusCode::METHOD_NOT_ALLOWED, WRONG_METHOD, address);
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
            return Err(answer);
        }
        if has_host(request) {
            return Ok(());
        }
        Err(self.bad_request(StatusCode::BAD_REQUEST, NO_HOST, address))
    }

    /// The body of a request, of at most this size.
    async fn body(
        &self,
        mut body: RequestBody,
        bytes_max: usize,
        address: IpAddr,
    ) -> Result<Bytes, Box<Answer>> {
        let too_large = || self.bad_request(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE, address);
        // Known before anything is read.
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(too_large());
        }
        // In one buffer: a list of pieces would take many times the memory of a body in chunks of one byte.
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let incomplete = |_| self.bad_request(StatusCode::BAD_REQUEST, INCOMPLETE, address);
            let Ok(piece) = frame.map_err(incomplete)?.into_data() else { continue };
            if whole.len() + piece.len() > bytes_max {
                return Err(too_large());
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }
}

const WRONG_METHOD: &str = "this endpoint takes another method, see `Allow`\n";
const NO_MESSAGE: &str =
    "the first message is missing: the body of a POST, or the parameter `cf_connect` of a GET\n";
const TOO_LARGE: &str = "the message is larger than `limits.message_bytes_max`\n";
const INCOMPLETE: &str = "the body of the request is not complete\n";
const MALFORMED: &str =
    "an emulation request has the fields `session`, `node` and `data`, and none is empty\n";
const NO_NODE: &str = "no gateway has the name in `node`: the connection is gone, connect again\n";
const NO_SESSION: &str = "no connection has this `session`: it has ended, connect again\n";
const FULL: &str = "the connection has more commands waiting than the gateway keeps, and is closed\n";
const UNREACHABLE: &str = "the gateway that has the connection does not answer: the message may be lost\n";

/// The encoding of a body: Protobuf by its content type, and JSON otherwise.
fn message_encoding(headers: &HeaderMap) -> Encoding {
    let essence = |value: &HeaderValue| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(PROTOBUF_TYPE)
    };
    let protobuf = headers.get(header::CONTENT_TYPE).is_some_and(essence);
    if protobuf { Encoding::Protobuf } else { Encoding::Json }
}

/// The first message of a client in the query of a URL.
pub fn connect_parameter(query: &str) -> Option<Cow<'_, str>> {
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    parameters.find_map(|(name, value)| (name == CONNECT_PARAMETER).then_some(value))
}

/// The headers of a response that stays open. Proxies must not keep what it says, not even for a moment.
fn response_headers(format: WireFormat, page: &Page) -> HeaderMap {
    let content_type = match (format.framing, format.encoding) {
        (Framing::EventStream, _) => "text/event-stream",
        (_, Encoding::Protobuf) => "application/octet-stream",
        _ => "application/x-ndjson",
    };
    let mut headers = HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ]);
    page.allow(&mut headers);
    headers
}

impl Opening {
    /// Begins a response with these headers; `None` if they are sent already.
    pub(super) fn new(format: WireFormat, headers: Option<&HeaderMap>, message: Bytes) -> Self {
        let mut head = String::new();
        if let Some(headers) = headers {
            let text = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
            head = open_ended(&text.collect::<Vec<_>>());
        }
        if format.framing == Framing::EventStream {
            // Some proxies pass the head on only with the first byte of the body.
            head.push('\n');
        }
        Self { head: head.into(), message }
    }
}

/// The response to a message that its connection has.
fn accepted() -> Box<Answer> {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Box::new(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_is_a_parameter_of_the_url() {
        let parameter = |query| connect_parameter(query).map(Cow::into_owned);
        assert_eq!(parameter("a=b&cf_connect=%7B%22id%22%3A1%7D&c").as_deref(), Some("{\"id\":1}"));
        assert_eq!(parameter("cf_connect=%2B+%20").as_deref(), Some("+  "));
        assert_eq!(parameter("connect=x"), None);
    }

    #[test]
    fn the_content_type_decides_the_encoding() {
        let encoding = |value: &'static str| {
            message_encoding(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert_eq!(encoding("application/octet-stream"), Encoding::Protobuf);
        assert_eq!(encoding("Application/Octet-Stream; x=y"), Encoding::Protobuf);
        assert_eq!(encoding("application/json"), Encoding::Json);
        assert_eq!(message_encoding(&HeaderMap::new()), Encoding::Json);
    }
}
