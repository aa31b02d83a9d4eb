//! Requests to other servers, from [`on_connect`](crate::Plugin::on_connect).
//!
//! The operator grants origins in the plugin's settings file: `http = ["https://idp.example"]` under
//! `[grants]`, and `http-private` for origins with addresses of the machine or a private network. A request
//! to any other origin is an error.
//!
//! A plugin with a granted origin runs `on_connect` in separate instances (their number is `instances` under
//! `[http]`), so that no message waits for another server. The other hooks therefore do not see what
//! `on_connect` stores in the plugin's fields: pass it on as attributes of the connection. A plugin without a
//! granted origin has no such instances, and its `on_connect` runs in the same instance as the other hooks.
//! So a plugin that needs requests only with some settings, and declares them with [`ask`], has no extra cost
//! without them.
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

/// Declares in [`configure`](crate::Plugin::configure) that these settings need requests to this URL. If its
/// origin is not granted, the gateway refuses the plugin at once and names the missing line of the settings
/// file, instead of refusing clients later.
///
/// # Errors
///
/// [`InvalidRequest`](HostErrorKind::InvalidRequest) for a text that is no URL, and in other hooks
/// [`WrongHook`](HostErrorKind::WrongHook).
pub fn ask(url: &str) -> Result<(), HostError> {
    host::ask_http(url)
}

/// A request that is not sent yet.
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

/// The response of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) cached: bool,
}

impl Request {
    /// Creates a request with a method in upper case to an absolute URL.
    pub fn new(method: &str, url: &str) -> Self {
        let (headers, body) = (Vec::new(), Vec::new());
        Self { method: method.to_owned(), url: url.to_owned(), headers, body, deadline: 0, cache: 0 }
    }

    /// Creates a GET request.
    pub fn get(url: &str) -> Self {
        Self::new("GET", url)
    }

    /// Creates a POST request.
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

    /// The body as text; empty if it is not text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }

    /// Adds a header. The gateway refuses headers that belong to the connection, such as `Host`.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a form as the body, encoded like an HTML form.
    pub fn form<'a>(mut self, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let fields = fields.into_iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
        self.body = fields.collect::<Vec<_>>().join("&").into_bytes();
        self.header("content-type", "application/x-www-form-urlencoded")
    }

    /// Sets a value as the body, in JSON.
    ///
    /// # Errors
    ///
    /// If JSON cannot express the value.
    pub fn json(mut self, value: &(impl Serialize + ?Sized)) -> Result<Self, HostError> {
        self.body = serde_json::to_vec(value)
            .map_err(|error| HostError::new(HostErrorKind::NotJson, error.to_string()))?;
        Ok(self.header("content-type", "application/json"))
    }

    /// Sets the time for the whole request, at most 30 seconds; the default is 3 seconds.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1);
        self
    }

    /// Lets the gateway cache the response for the same request of this plugin, for at most a day. The
    /// request with headers and body is the key; other plugins do not share the cache.
    pub fn cache(mut self, time: Duration) -> Self {
        self.cache = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Sends the request and waits for the response. A redirect is a response like any other.
    ///
    /// # Errors
    ///
    /// See [`HostErrorKind`]: in other hooks [`WrongHook`](HostErrorKind::WrongHook).
    pub fn send(self) -> Result<Response, HostError> {
        host::fetch(self)
    }
}

impl Response {
    /// Creates a response for the test kit.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cached: false }
    }

    /// The status, such as 200.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is 200 to 299.
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// The first header with this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body as received, with any content encoding still applied.
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

    /// Whether the response comes from the cache.
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
