//! Builds HTTP answers and the result shapes of the API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::backplane;
use crate::control::{Control, HistoryPage};
use crate::protocol::code::ReplyError;
use crate::protocol::json;
use crate::protocol::push::{Member, Publication};
use crate::protocol::tags::Tags;

/// Media type of nearly all responses of the admin listener.
pub(super) const JSON: &str = "application/json";

/// Message for a client over the limit of connections or requests.
pub(super) const BUSY: &str = "too many requests at the same time, try again later";

/// A complete HTTP response.
pub(super) type Answer = Response<Full<Bytes>>;

/// A response with this media type. Caches must not store any response of the admin listener.
pub(super) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// A JSON response.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(body) => answer(status, JSON, body),
        Err(error) => {
            tracing::error!(%error, "failed to write an admin response");
            answer(StatusCode::INTERNAL_SERVER_ERROR, JSON, &b"{}"[..])
        }
    }
}

/// Body of a refusal outside the API, in the shape of an API error.
pub(super) fn error(status: u16, message: &str) -> String {
    let error = Outcome::<()>::Error(Error { code: status.into(), message });
    serde_json::to_string(&error).unwrap_or_default()
}

/// A refusal outside the API: a status, and a sentence in the shape of an API error.
pub(super) fn refuse(status: StatusCode, message: &str) -> Answer {
    answer(status, JSON, error(status.as_u16(), message))
}

/// [`refuse`] with one more header.
pub(super) fn refuse_with(
    status: StatusCode,
    message: &str,
    name: HeaderName,
    value: &'static str,
) -> Answer {
    let mut answer = refuse(status, message);
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}

/// Announces how long the connection waits for another request; without a time, that it ends with this
/// response.
pub(super) fn keep_alive(answer: &mut Answer, idle: Option<Duration>) {
    let headers = answer.headers_mut();
    match idle {
        None => close(answer),
        Some(_) if headers.contains_key(header::CONNECTION) => {}
        Some(idle) => {
            let value = HeaderValue::try_from(format!("timeout={}", idle.as_secs()));
            headers.extend(value.ok().map(|value| (HeaderName::from_static("keep-alive"), value)));
        }
    }
}

/// Announces that the connection ends with this response.
pub(super) fn close(answer: &mut Answer) {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// The JSON of a result: `{"result": …}`, or an object that is the result itself.
pub(super) struct Done {
    body: Bytes,
    wrapped: bool,
}

impl Done {
    const BEGIN: &[u8] = b"{\"result\":";

    /// Encodes a result.
    pub(super) fn of(result: &impl Serialize) -> Result<Self, ReplyError> {
        let mut body = Self::BEGIN.to_vec();
        match serde_json::to_writer(&mut body, result) {
            Ok(()) => {
                body.push(b'}');
                Ok(Self { body: body.into(), wrapped: true })
            }
            Err(error) => {
                tracing::error!(%error, "failed to write an admin response");
                Err(ReplyError::INTERNAL)
            }
        }
    }

    /// A body that has nothing around its result.
    pub(super) fn bare(body: Vec<u8>) -> Self {
        Self { body: body.into(), wrapped: false }
    }

    /// The body of the response.
    pub(super) fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// The result alone.
    pub(super) fn result(&self) -> Bytes {
        match self.wrapped {
            true => self.body.slice(Self::BEGIN.len()..self.body.len() - 1),
            false => self.body.clone(),
        }
    }
}

/// Result of an API call.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome<'a, T> {
    Result(T),
    Error(Error<'a>),
}

impl<'a, T> Outcome<'a, T> {
    pub(super) fn new(result: &'a Result<T, ReplyError>) -> Outcome<'a, &'a T> {
        match result {
            Ok(result) => Outcome::Result(result),
            Err(error) => Outcome::Error(Error { code: error.code, message: &error.message }),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Error<'a> {
    code: u32,
    message: &'a str,
}

/// A result without content.
#[derive(Serialize)]
pub(super) struct Nothing {}

#[derive(Serialize)]
pub(super) struct Published {
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    epoch: Box<str>,
    #[serde(skip_serializing_if = "is_false")]
    skipped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeat: Option<&'static str>,
}

impl From<backplane::Published> for Published {
    fn from(published: backplane::Published) -> Self {
        let backplane::Published { top, skipped, repeat, .. } = published;
        let repeat = repeat.map(backplane::Repeat::as_str);
        Self { offset: top.offset, epoch: (&*top.epoch).into(), skipped, repeat }
    }
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Results of a broadcast, one for each channel, in the requested order.
#[derive(Serialize)]
pub(super) struct Broadcast<'a> {
    pub(super) responses: Vec<Outcome<'a, &'a Published>>,
}

#[derive(Serialize)]
pub(super) struct Presence {
    presence: BTreeMap<Box<str>, ClientInfo>,
}

impl Presence {
    pub(super) fn new<'m>(members: impl Iterator<Item = &'m Member>) -> Self {
        Self { presence: members.map(|member| ((&*member.client).into(), ClientInfo::new(member))).collect() }
    }
}

#[derive(Serialize)]
struct ClientInfo {
    client: Box<str>,
    user: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_info: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chan_info: Option<Box<RawValue>>,
}

impl ClientInfo {
    fn new(member: &Member) -> Self {
        let json = |info: &Bytes| (!info.is_empty()).then(|| raw(info));
        Self {
            client: (&*member.client).into(),
            user: (&*member.user).into(),
            conn_info: json(&member.info),
            chan_info: json(&member.channel_info),
        }
    }
}

#[derive(Serialize)]
pub(super) struct PresenceStats {
    pub(super) num_clients: usize,
    pub(super) num_users: usize,
}

#[derive(Serialize)]
pub(super) struct History {
    publications: Vec<HistoryEntry>,
    offset: u64,
    epoch: Box<str>,
}

#[derive(Serialize)]
struct HistoryEntry {
    data: Box<RawValue>,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<ClientInfo>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared")]
    tags: Option<Arc<Tags>>,
}

/// Writes what is behind a shared pointer.
fn shared<T: Serialize, S: Serializer>(value: &Option<Arc<T>>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_deref().serialize(serializer)
}

impl From<&HistoryPage> for History {
    fn from(page: &HistoryPage) -> Self {
        let entry = |publication: &Publication| HistoryEntry {
            data: raw(&publication.data),
            offset: publication.offset,
            info: publication.info.as_deref().map(ClientInfo::new),
            tags: publication.tags.clone(),
        };
        Self {
            publications: page.publications.iter().map(|publication| entry(publication)).collect(),
            offset: page.top.offset,
            epoch: (&*page.top.epoch).into(),
        }
    }
}

/// The live gateways, this one first.
#[derive(Serialize)]
pub(super) struct Nodes {
    nodes: Vec<NodeEntry>,
}

#[derive(Serialize)]
struct NodeEntry {
    uid: Box<str>,
    name: Box<str>,
    version: Box<str>,
    /// In seconds.
    uptime: u64,
    /// Differences from the gateway that answers.
    differs: Vec<Box<str>>,
}

impl Nodes {
    pub(super) fn of(control: &Control) -> Self {
        let entry = |node: backplane::Node| NodeEntry {
            uid: node.id,
            name: node.name,
            version: node.version,
            uptime: node.uptime / 1000,
            differs: node.differs,
        };
        Self { nodes: control.nodes().into_iter().map(entry).collect() }
    }
}

/// JSON as it is; any other payload as the string that JSON clients receive.
fn raw(bytes: &Bytes) -> Box<RawValue> {
    let parsed = std::str::from_utf8(bytes).ok().and_then(|text| RawValue::from_string(text.to_owned()).ok());
    parsed
        .or_else(|| to_raw_value(&json::string_of(bytes)).ok())
        .expect("a text can always be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_is_no_json_is_shown_as_a_text() {
        for (payload, shown) in [
            (&b"{\"a\":1}"[..], "{\"a\":1}"),
            (b"hello", "\"hello\""),
            (b"{", "\"{\""),
            (b"", "\"\""),
            (b"\xff", "\"/w==\""),
            // Its Base64 has digits only.
            (b"\xd7\x6d\xf8", "\"1234\""),
        ] {
            assert_eq!(raw(&Bytes::from_static(payload)).get(), shown);
        }
    }
}
