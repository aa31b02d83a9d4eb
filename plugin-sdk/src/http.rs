//! Requests to other servers, from [`on_connect`](crate::Plugin::on_connect).
//!
//! The operator grants origins in the plugin's settings file: `http = ["https://idp.example"]` under
//! `[grants]`, and `http-private` for those with addresses of the machine or a private network. A request
//! that is not granted is an error.
//!
//! Clients that wait to be admitted are asked about in instances of their own, of which a plugin has a few
//! (`instances` under `[http]`), so that nobody's messages wait for a server elsewhere. What `on_connect`
//! remembers in the plugin's own fields is therefore not seen by the other hooks: hand it over as attributes
//! of the connection. A plugin to which no origin is granted has no such instances: its `on_connect` runs
//! where the other hooks do. So one that needs requests only with some settings, and says so with [`ask`],
//! costs nothing more without them.
//!
//! ```
//! use std::time::Duration;
//! use gateway_plugin_sdk::http::Request;
//! # use gateway_plugin_sdk::prelude::*;
//! # fn f(event: &Connecting<'_>) -> Connect {
//! let answer = Request::get("https://idp.example/userinfo")
//!     .header("authorization", &format!("Bearer {}", event.token()))
//!     .cache(Duration::from_secs(60))
//!     .send();
//! match answer {
//!     Ok(answer) if answer.is_success() => Connect::accept("42"),
//!     Ok(_) => Connect::refuse(code::INVALID_TOKEN, "not a valid token"),
//!     // Not the client's fault: it may try again.
//!     Err(_) => Connect::refuse(code::INTERNAL, "try again"),
//! }
//! # }
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{HostError, HostErrorKind, host};

/// In [`configure`](crate::Plugin::configure): these settings need requests to this URL. Where its origin is
/// not granted the plugin is refused with the line that the settings file lacks, rather than a client later.
///
/// # Errors
///
/// [`InvalidRequest`](HostErrorKind::InvalidRequest) for a text that is no URL, and in other hooks
/// [`WrongHook`](HostErrorKind::WrongHook).
pub fn ask(url: &str) -> Result<(), HostError> {
    host::ask_http(url)
}

/// A request in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is asked until `send`"]
pub struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) deadline: u32,
    pub(crate) cache: u64,
}

/// What the server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) cached: bool,
}

impl Request {
    /// A request with a method in upper case to an absolute URL.
    pub fn new(method: &str, url: &str) -> Self {
        let (headers, body) = (Vec::new(), Vec::new());
        Self { method: method.to_owned(), url: url.to_owned(), headers, body, deadline: 0, cache: 0 }
    }

    /// A GET.
    pub fn get(url: &str) -> Self {
        Self::new("GET", url)
    }

    /// A POST.
    pub fn post(url: &str) -> Self {
        Self::new("POST", url)
    }

    /// The URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The method.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The body as text; empty if it is none.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }

    /// With a header. Those that belong to the connection, such as `Host`, are refused.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With a form as body, encoded as HTML forms are.
    pub fn form<'a>(mut self, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let fields = fields.into_iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
        self.body = fields.collect::<Vec<_>>().join("&").into_bytes();
        self.header("content-type", "application/x-www-form-urlencoded")
    }

    /// With a value as JSON.
    ///
    /// # Errors
    ///
    /// If JSON cannot express the value.
    pub fn json(mut self, value: &(impl Serialize + ?Sized)) -> Result<Self, HostError> {
        self.body = serde_json::to_vec(value)
            .map_err(|error| HostError::new(HostErrorKind::NotJson, error.to_string()))?;
        Ok(self.header("content-type", "application/json"))
    }

    /// Time for all of it, at most 30 seconds; 3 seconds if this is not called.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1);
        self
    }

    /// Lets the gateway keep the answer and give it to the same request of this plugin again, for at most a
    /// day. The request with headers and body is the key, and its answer is nobody else's.
    pub fn cache(mut self, time: Duration) -> Self {
        self.cache = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Asks, and waits for the answer. Redirects are answers.
    ///
    /// # Errors
    ///
    /// See [`HostErrorKind`]: in other hooks [`WrongHook`](HostErrorKind::WrongHook).
    pub fn send(self) -> Result<Response, HostError> {
        host::fetch(self)
    }
}

impl Response {
    /// A response for the test kit.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cached: false }
    }

    /// Such as 200.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is of the 200s.
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// As it came: a content encoding is not undone.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as a value.
    ///
    /// # Errors
    ///
    /// If it is not JSON, or not JSON of this type.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// Whether it was asked for earlier.
    pub const fn is_cached(&self) -> bool {
        self.cached
    }
}

fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => {
                encoded.push(char::from(byte))
            }
            b' ' => encoded.push('+'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_encoded_as_browsers_do() {
        let request = Request::post("https://a.example").form([("token", "a+b/c= d"), ("é", "&")]);
        assert_eq!(request.text(), "token=a%2Bb%2Fc%3D+d&%C3%A9=%26");
        assert_eq!(request.headers[0].1, "application/x-www-form-urlencoded");
    }
}
