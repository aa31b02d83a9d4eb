//! Which web pages may use the endpoints: the check of origins, and the headers that let a page of another
//! origin read a response (Fetch, 3.3: CORS).

use std::net::IpAddr;

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::Handshake;
use super::request::{Answer, last, text};
use crate::config::Origins;
use crate::seldom::seldom;
use crate::telemetry::metrics::Refused;

/// Bytes of a refused origin in the log.
const ORIGIN_SHOWN_MAX: usize = 200;

/// How long a browser may remember that it may send a request, in seconds.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("300");

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The page that sent a request, which may read the response.
pub(super) struct Page {
    origin: Option<HeaderValue>,
    /// Whether the page may send cookies: only if its origin is listed, and not with `"*"`.
    credentials: bool,
}

impl Page {
    /// Adds the headers that let the page read the response.
    pub(super) fn allow(&self, headers: &mut HeaderMap) {
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = &self.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            if self.credentials {
                let yes = HeaderValue::from_static("true");
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
            }
        }
    }

    /// The response to a browser that asks whether the page may send a request (Fetch, 4.8).
    pub(super) fn preflight(&self, asked: &HeaderMap, methods: &'static str) -> Box<Answer> {
        let mut answer = last(Default::default());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        let headers = answer.headers_mut();
        self.allow(headers);
        headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
        Box::new(answer)
    }
}

impl Handshake {
    /// The page that sent a request.
    ///
    /// Browsers send no origin with some requests for what a page embeds, such as an image, although they
    /// send its cookies. The header `Sec-Fetch-Site` tells such a request from one of a program or of a page
    /// of the same origin.
    pub(super) fn page_of(&self, headers: &HeaderMap, address: IpAddr) -> Result<Page, Box<Answer>> {
        let origin = headers.get(header::ORIGIN);
        let own_site = headers
            .get_all(SEC_FETCH_SITE)
            .iter()
            .all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
        if !self.origin_is_allowed(headers) || origin.is_none() && !own_site {
            return Err(self.refuse_origin(headers, address));
        }
        let credentials = self.config.handshake.origins != Origins::Any;
        Ok(Page { origin: origin.cloned(), credentials })
    }

    /// Browsers always send an origin. A client without one is no browser, so a foreign page cannot misuse
    /// it.
    pub(super) fn origin_is_allowed(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (&self.config.handshake.origins, origins.next(), origins.next()) {
            (_, None, _) | (Origins::Any, Some(_), None) => true,
            (_, Some(_), Some(_)) => false,
            (Origins::Listed(listed), Some(origin), None) => {
                listed.iter().any(|listed| listed.as_bytes() == origin.as_bytes())
            }
        }
    }

    /// Refuses a page, and says in the log which one.
    pub(super) fn refuse_origin(&self, headers: &HeaderMap, address: IpAddr) -> Box<Answer> {
        self.refused(Refused::Origin, address);
        let origin = headers.get(header::ORIGIN).map(|origin| origin.as_bytes());
        let origin = String::from_utf8_lossy(origin.unwrap_or_default());
        // A page may send a long one.
        let origin = origin.get(..origin.floor_char_boundary(ORIGIN_SHOWN_MAX)).unwrap_or_default();
        seldom!(
            warn,
            origin,
            "page refused: `handshake.origins` does not list its origin; add it if the page is yours"
        );
        let why = "this origin is not allowed: the operator lists allowed origins in `handshake.origins`\n";
        Box::new(text(StatusCode::FORBIDDEN, why))
    }
}
