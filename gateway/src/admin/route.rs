//! `Routes` turns a request into an answer: it checks host, path, method and permission.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header;
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::answer::{Answer, BUSY, JSON, answer, close, json, refuse, refuse_with};
use super::key::ApiKey;
use super::methods::Named;
use super::{api, batch};
use crate::config::Config;
use crate::control::Control;
use crate::telemetry::exposition::{self, Exposition};
use crate::telemetry::metrics::AdminRefused;

/// The description of the API for programs.
const OPENAPI: &str = include_str!("../../openapi.json");

/// Maximum bytes of the body of a request.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Maximum time for the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of concurrent requests, except those that are answered immediately.
const REQUESTS_MAX: usize = 64;
/// Maximum number of waiting requests. Together with the above this is less than the connections of one
/// address, so one can be replaced for a probe.
const REQUESTS_WAITING_MAX: usize = 128;
/// Maximum time that a request waits.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);

/// The handlers of all paths.
pub(super) struct Routes {
    control: Control,
    key: ApiKey,
    exposition: Exposition,
    /// Whether the listener is on loopback: then `Host` must name this machine.
    local: bool,
    metrics_need_key: bool,
    /// Limits concurrent requests, except those that are answered immediately.
    turns: Semaphore,
    /// Limits waiting requests.
    waiting: Semaphore,
}

/// Work that takes time.
enum Work {
    Metrics,
    Call(Called),
}

/// What a request to the API names.
#[derive(Clone, Copy)]
enum Called {
    /// A method, with the body as its parameters.
    Method(Named),
    /// Nothing: each command in the body names its method.
    Older,
}

/// The closed set of paths.
#[derive(Clone, Copy)]
enum Route {
    Health,
    Live,
    Ready,
    Metrics,
    OpenApi,
    Api(Called),
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/health" | "/health/" => Some(Self::Health),
            "/health/live" => Some(Self::Live),
            "/health/ready" => Some(Self::Ready),
            "/metrics" => Some(Self::Metrics),
            "/api" => Some(Self::Api(Called::Older)),
            "/api/openapi.json" => Some(Self::OpenApi),
            _ => path.strip_prefix("/api/").and_then(Named::of).map(|named| Self::Api(Called::Method(named))),
        }
    }

    /// Name for logs: one of the set, never text from a client.
    fn name(route: Option<Self>) -> &'static str {
        match route {
            Some(Self::Health) => "/health",
            Some(Self::Live) => "/health/live",
            Some(Self::Ready) => "/health/ready",
            Some(Self::Metrics) => "/metrics",
            Some(Self::OpenApi) => "/api/openapi.json",
            Some(Self::Api(Called::Older)) => "/api",
            Some(Self::Api(Called::Method(named))) => named.name(),
            None => "other",
        }
    }
}

impl Routes {
    pub(super) fn new(config: &Config, control: Control, local: bool) -> Self {
        let plugins = control.clone();
        Self {
            key: ApiKey::new(config.admin.api_key.as_ref()),
            exposition: Exposition::new(control.metrics().clone(), move || plugins.plugins()),
            metrics_need_key: config.admin.metrics_need_key,
            turns: Semaphore::new(REQUESTS_MAX),
            waiting: Semaphore::new(REQUESTS_WAITING_MAX),
            control,
            local,
        }
    }

    /// The response to a request of this peer.
    pub(super) async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Answer {
        let route = Route::of(request.uri().path());
        let has_body = !request.body().is_end_stream();
        let answer = match self.decide(route, &request) {
            Err(mut answer) => {
                // The body is not read: the following bytes on this connection are no request.
                if has_body {
                    close(&mut answer);
                }
                *answer
            }
            Ok(work) => match self.turn().await {
                None => {
                    self.refused(AdminRefused::Requests, peer);
                    let mut answer = refuse(StatusCode::SERVICE_UNAVAILABLE, BUSY);
                    answer.headers_mut().insert(header::RETRY_AFTER, super::RETRY_AFTER.into());
                    if has_body {
                        close(&mut answer);
                    }
                    answer
                }
                Some(_turn) => match work {
                    Work::Metrics => self.metrics(has_body),
                    Work::Call(called) => self.call(called, request).await,
                },
            },
        };
        self.control.metrics().node.admin_response(Route::name(route), answer.status().as_u16());
        answer
    }

    /// Counts a refused connection or request.
    pub(super) fn refused(&self, reason: AdminRefused, peer: IpAddr) {
        self.control.metrics().node.admin_refused(reason, peer);
    }

    /// Waits for the turn of a request. `None` if too many are waiting, or the wait is too long.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let _waits = self.waiting.try_acquire().ok()?;
        timeout(TURN_TIMEOUT, self.turns.acquire()).await.ok()?.ok()
    }

    /// The work of a request; or its immediate response, which leaves the body unread.
    fn decide(&self, route: Option<Route>, request: &Request<Incoming>) -> Result<Work, Box<Answer>> {
        let health = matches!(route, Some(Route::Health | Route::Live | Route::Ready));
        // Probes may send any `Host`, or none: the response holds no secret, and the request changes nothing.
        if self.local && !health && !names_this_machine(request) {
            // A web page can give its own host name the address 127.0.0.1 (DNS rebinding); it cannot change
            // this header.
            let message = "`Host` names another machine than this one, or none: the listener is on a loopback address, and \
                            takes `localhost` and loopback addresses";
            return Err(Box::new(refuse(StatusCode::MISDIRECTED_REQUEST, message)));
        }
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        let answer = match route {
            None => refuse(
                StatusCode::NOT_FOUND,
                "available: /health, /health/live, /health/ready, /metrics, /api/openapi.json and POST /api/METHOD",
            ),
            Some(Route::Api(_)) if request.method() != Method::POST => {
                refuse_with(StatusCode::METHOD_NOT_ALLOWED, "the API takes POST", header::ALLOW, "POST")
            }
            Some(Route::Api(called)) if self.key.accepts(request.headers()) => return Ok(Work::Call(called)),
            Some(Route::Api(_)) => self.key_is_needed(),
            // Some proxies probe with OPTIONS by default.
            Some(_) if !(get || health && request.method() == Method::OPTIONS) => {
                let allowed = if health { "GET, HEAD, OPTIONS" } else { "GET, HEAD" };
                refuse_with(StatusCode::METHOD_NOT_ALLOWED, "only GET", header::ALLOW, allowed)
            }
            Some(Route::Health) => json(
                StatusCode::OK,
                &json!({
                    "/health/live": "200 while every part of the process works: restart it otherwise",
                    "/health/ready": "200 while it can serve clients: send it none otherwise",
                    "/metrics": "counters, for Prometheus",
                }),
            ),
            Some(Route::Live) => match self.control.liveness() {
                Ok(()) => json(StatusCode::OK, &json!({"status": "live"})),
                Err(reason) => {
                    json(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "failed", "reason": &*reason}))
                }
            },
            Some(Route::Ready) => match self.control.readiness() {
                Ok(()) if !self.control.closed_places().is_empty() => closed(&self.control),
                Ok(()) => match self.control.backplane_health() {
                    Ok(()) => match self.warnings() {
                        none if none.is_empty() => json(StatusCode::OK, &json!({"status": "ready"})),
                        warnings => json(StatusCode::OK, &json!({"status": "ready", "warnings": warnings})),
                    },
                    Err(reason) => {
                        let status = match self.control.requires_backplane() {
                            true => StatusCode::SERVICE_UNAVAILABLE,
                            false => StatusCode::OK,
                        };
                        json(status, &json!({"status": "degraded", "reason": &*reason}))
                    }
                },
                Err(reason) => {
                    json(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "not ready", "reason": &*reason}))
                }
            },
            Some(Route::OpenApi) if !self.key.accepts(request.headers()) => self.key_is_needed(),
            Some(Route::OpenApi) => answer(StatusCode::OK, JSON, OPENAPI),
            Some(Route::Metrics) if self.metrics_need_key && !self.key.accepts(request.headers()) => {
                self.key_is_needed()
            }
            Some(Route::Metrics) => return Ok(Work::Metrics),
        };
        Err(Box::new(answer))
    }

    /// What an operator should know of a gateway that can serve clients.
    fn warnings(&self) -> Vec<Box<str>> {
        let mut warnings = self.control.backplane_warnings();
        warnings.extend(self.control.consumer_warnings());
        warnings
    }

    fn key_is_needed(&self) -> Answer {
        let message =
            "`X-API-Key: KEY` or `Authorization: apikey KEY` is needed, with the key of `admin.api_key`";
        refuse_with(StatusCode::UNAUTHORIZED, message, header::WWW_AUTHENTICATE, "apikey")
    }

    fn metrics(&self, has_body: bool) -> Answer {
        let mut answer = match self.exposition.text() {
            Ok(text) => answer(StatusCode::OK, exposition::CONTENT_TYPE, text),
            Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written"),
        };
        if has_body {
            close(&mut answer);
        }
        answer
    }

    async fn call(&self, called: Called, request: Request<Incoming>) -> Answer {
        match body(request).await {
            Ok(body) => {
                // Requests on one connection may follow each other without a pause: each takes a separate
                // turn.
                yield_now().await;
                let answer = match called {
                    Called::Method(named) => api::answer(&self.control, named, &body).await,
                    Called::Older => batch::older(&self.control, &body).await,
                };
                // Those that answer much change nothing, so they have no events.
                if !matches!(called, Called::Method(Named::Method(call)) if call.answers_much()) {
                    self.control.events_written().await;
                }
                answer
            }
            Err(answer) => *answer,
        }
    }
}

/// The response while plugins are missing, without which clients are refused: they should go elsewhere.
fn closed(control: &Control) -> Answer {
    let plugins: Vec<_> = control
        .closed_places()
        .iter()
        .map(|place| {
            let (code, message) = (place.error.code.as_str(), &place.error.message);
            json!({"file": place.file, "code": code, "sentence": message})
        })
        .collect();
    let reason = control.plugins_health().err();
    let body = json!({"status": "not ready", "reason": reason, "plugins": plugins});
    json(StatusCode::SERVICE_UNAVAILABLE, &body)
}

/// Reads a body within its bounds. The rest of a longer one is not read: the connection ends with the
/// response.
async fn body(request: Request<Incoming>) -> Result<Bytes, Box<Answer>> {
    let refuse = |status, message| Err(Box::new(refuse_with(status, message, header::CONNECTION, "close")));
    const TOO_LARGE: &str = "the body is larger than 1 MiB";
    let body = request.into_body();
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
    }
    let limited = Limited::new(body, BODY_BYTES_MAX);
    match timeout(BODY_TIMEOUT, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => refuse(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE),
        Ok(Err(_)) => refuse(StatusCode::BAD_REQUEST, "the body ended early"),
        Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 10 seconds"),
    }
}

/// Whether every host in a request is `localhost` or a loopback address, and there is one.
fn names_this_machine(request: &Request<Incoming>) -> bool {
    let headers =
        request.headers().get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or_default());
    let target = request.uri().authority().map(|authority| authority.as_str());
    let mut hosts = headers.chain(target).peekable();
    hosts.peek().is_some() && hosts.all(is_loopback)
}

fn is_loopback(authority: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if is_port(port) => host,
        _ => authority,
    };
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .map(|host| host.parse().map(std::net::IpAddr::V6));
    let address = address.unwrap_or_else(|| host.parse().map(std::net::IpAddr::V4));
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in [
            "localhost",
            "LOCALHOST:8001",
            "127.0.0.1",
            "127.0.0.1:8001",
            "127.1.2.3:1",
            "[::1]",
            "[::1]:8001",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            ":8001",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1:8001",
            "[::2]:8001",
            "localhost:8001:x",
            "user@localhost",
            "[localhost]",
            "0x7f.1",
            "localhost.",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
