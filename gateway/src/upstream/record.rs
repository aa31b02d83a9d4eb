//! An event as JSON on one line: in the spool, and in the dead-letter file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Event, Kind};

/// The fields of an event.
#[derive(Serialize)]
pub(super) struct Record<'e> {
    id: &'e str,
    /// Of an event of the gateway.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    plugin: &'e str,
    connection: &'e str,
    user: &'e str,
    /// When it happened or was emitted, in Unix time in milliseconds.
    emitted_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'e RawValue>,
    /// Replaces `payload` if that is not JSON on one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// An event that was read, with what a dead letter says besides.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) event: Event,
    /// Name of the upstream; empty in a spool, which belongs to one.
    pub(crate) upstream: Box<str>,
}

/// Fields in a file; a later version may write more of them.
#[derive(Deserialize)]
struct Fields {
    id: Box<str>,
    #[serde(default)]
    upstream: Box<str>,
    #[serde(default, rename = "type")]
    kind: Option<Box<str>>,
    #[serde(default)]
    plugin: Box<str>,
    #[serde(default)]
    connection: Box<str>,
    #[serde(default)]
    user: Box<str>,
    emitted_at: u64,
    #[serde(default)]
    payload: Option<Box<RawValue>>,
    #[serde(default)]
    payload_base64: Option<Box<str>>,
}

impl<'e> Record<'e> {
    /// The fields of this event.
    pub(super) fn of(event: &'e Event) -> Self {
        let text = std::str::from_utf8(&event.payload).ok().filter(|text| !text.contains(['\n', '\r']));
        let payload: Option<&RawValue> = text.and_then(|text| serde_json::from_str(text).ok());
        // White space around a value is not a part of it.
        let payload = payload.filter(|payload| payload.get().len() == event.payload.len());
        Self {
            id: &event.id,
            kind: (event.kind != Kind::Emitted).then(|| event.kind.as_str()),
            plugin: &event.plugin,
            connection: &event.connection,
            user: &event.user,
            emitted_at: event.at,
            payload_base64: payload.is_none().then(|| STANDARD.encode(&event.payload)),
            payload,
        }
    }
}

/// An event of a plugin in a list of events.
#[derive(Serialize)]
struct Emitted<'e> {
    id: &'e str,
    #[serde(rename = "type")]
    kind: &'static str,
    time: u64,
    plugin: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    client: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'e RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
}

/// Writes an event of a plugin as it is sent in a list.
pub(super) fn write_emitted(event: &Event, body: &mut Vec<u8>) {
    let Record { id, plugin, connection, user, emitted_at, payload, payload_base64, .. } = Record::of(event);
    let kind = event.kind.as_str();
    let (client, time, data, b64data) = (connection, emitted_at, payload, payload_base64);
    let emitted = Emitted { id, kind, time, plugin, client, user, data, b64data };
    serde_json::to_writer(body, &emitted).expect("texts and numbers have a form in JSON");
}

/// Writes an event, without the line end.
pub(super) fn write(event: &Event, line: &mut Vec<u8>) {
    serde_json::to_writer(line, &Record::of(event)).expect("texts and numbers have a form in JSON");
}

/// Reads a line. `None` if it is no event.
pub(crate) fn read(line: &[u8]) -> Option<Stored> {
    let fields: Fields = serde_json::from_slice(line).ok()?;
    let payload = match (fields.payload_base64, fields.payload) {
        (Some(encoded), _) => STANDARD.decode(encoded.as_bytes()).ok()?.into(),
        (None, Some(payload)) => Bytes::from(payload.get().to_owned()),
        (None, None) => Bytes::from_static(b"null"),
    };
    let kind = match &fields.kind {
        None => Kind::Emitted,
        Some(name) => Kind::ALL.into_iter().find(|kind| kind.as_str() == &**name)?,
    };
    let event = Event {
        id: fields.id,
        kind,
        plugin: fields.plugin.into(),
        connection: fields.connection.into(),
        user: fields.user.into(),
        at: fields.emitted_at,
        payload,
    };
    Some(Stored { event, upstream: fields.upstream })
}
