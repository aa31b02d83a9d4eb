//! [`Question`] becomes the body of a request.

use std::fmt;

use base64::display::Base64Display;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::Kind;
use crate::protocol::channel::Channel;

/// What is put to a backend. Empty parts are left out, but for the user, the channel and the method of the
/// kinds that have one.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// What is asked.
    pub kind: Kind,
    /// The id of the connection.
    pub client: &'a str,
    /// How the messages of the client are carried, such as `websocket`.
    pub transport: &'static str,
    /// `json`, `protobuf` or `raw`.
    pub protocol: &'static str,
    /// Empty for an anonymous client, and before one is admitted.
    pub user: &'a str,
    /// The channel or pattern.
    pub channel: Option<&'a Channel>,
    /// The method of a call.
    pub method: &'a str,
    /// The credential of the client, or of a subscription.
    pub token: &'a str,
    /// The payload. JSON goes into `data`, everything else into `b64data`.
    pub data: &'a [u8],
    /// JSON that the backend has attached to the connection.
    pub meta: &'a [u8],
    /// The name of the client's software.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The channels that a client which connects wants to recover.
    pub channels: &'a [Channel],
}

#[derive(Serialize)]
struct Body<'a> {
    client: &'a str,
    transport: &'a str,
    protocol: &'a str,
    encoding: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<Base64<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    channels: Vec<&'a str>,
}

/// Bytes that are written as Base64, without a copy in between.
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Base64<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Base64Display::<GeneralPurpose>::new(self.0, &STANDARD).fmt(f)
    }
}

/// JSON as a part of the body; `None` for anything else.
fn json(bytes: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

impl Question<'_> {
    /// The body of the request.
    pub fn body(&self) -> Bytes {
        let data = json(self.data);
        let b64data = (data.is_none() && !self.data.is_empty()).then_some(Base64(self.data));
        let body = Body {
            client: self.client,
            transport: self.transport,
            protocol: self.protocol,
            encoding: if b64data.is_some() { "binary" } else { "json" },
            user: (self.kind != Kind::Connect).then_some(self.user),
            channel: self.channel.map(Channel::as_str),
            method: (self.kind == Kind::Rpc).then_some(self.method),
            token: self.token,
            data,
            b64data,
            meta: json(self.meta),
            name: self.name,
            version: self.version,
            channels: self.channels.iter().map(Channel::as_str).collect(),
        };
        // The parts around the payload are short.
        let mut bytes = Vec::with_capacity(self.data.len() + self.meta.len() + self.token.len() + 256);
        // Texts, numbers and JSON always have a form in JSON.
        let _ = serde_json::to_writer(&mut bytes, &body);
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::{Value, json};

    use super::*;

    const NOTHING: Question<'_> = Question {
        kind: Kind::Connect,
        client: "c1",
        transport: "websocket",
        protocol: "json",
        user: "",
        channel: None,
        method: "",
        token: "",
        data: b"",
        meta: b"",
        name: "",
        version: "",
        channels: &[],
    };

    fn body(question: Question<'_>) -> Value {
        serde_json::from_slice(&question.body()).unwrap()
    }

    #[test]
    fn a_client_that_connects_has_no_user_yet() {
        let least =
            json!({ "client": "c1", "transport": "websocket", "protocol": "json", "encoding": "json" });
        assert_eq!(body(NOTHING), least);
        let channels = [Channel::parse("news:1").unwrap()];
        let all = Question {
            token: "t",
            data: b"{\"a\":1}",
            name: "js",
            version: "1.2",
            channels: &channels,
            ..NOTHING
        };
        let expected = json!({
            "client": "c1", "transport": "websocket", "protocol": "json", "encoding": "json", "token": "t",
            "data": { "a": 1 }, "name": "js", "version": "1.2", "channels": ["news:1"],
        });
        assert_eq!(body(all), expected);
    }

    #[test]
    fn later_questions_say_who_asks_and_what_the_backend_has_attached() {
        let channel = Channel::parse("chat:1").unwrap();
        let subscribe = Question {
            kind: Kind::Subscribe,
            user: "42",
            channel: Some(&channel),
            meta: b"{\"role\":\"x\"}",
            ..NOTHING
        };
        let expected = json!({
            "client": "c1", "transport": "websocket", "protocol": "json", "encoding": "json", "user": "42",
            "channel": "chat:1", "meta": { "role": "x" },
        });
        assert_eq!(body(subscribe), expected);
        let rpc = body(Question { kind: Kind::Rpc, data: b"[1]", ..NOTHING });
        assert_eq!((&rpc["user"], &rpc["method"], &rpc["data"]), (&json!(""), &json!(""), &json!([1])));
    }

    #[test]
    fn what_is_not_json_goes_as_base64_and_the_encoding_says_so() {
        for data in [&b"\xff\x00"[..], b"hello", b"{", b"1 2"] {
            let body = body(Question { kind: Kind::Message, data, ..NOTHING });
            let decoded = base64::Engine::decode(&STANDARD, body["b64data"].as_str().unwrap()).unwrap();
            assert_eq!((&*decoded, &body["encoding"], body.get("data")), (data, &json!("binary"), None));
        }
        let number = body(Question { kind: Kind::Message, data: b"7", ..NOTHING });
        assert_eq!((&number["data"], &number["encoding"]), (&json!(7), &json!("json")));
    }

    #[test]
    fn each_kind_has_its_path_and_only_decisions_are_asked_for_twice() {
        let paths = Kind::ALL.map(Kind::path);
        let expected =
            ["/connect", "/refresh", "/subscribe", "/sub_refresh", "/publish", "/rpc", "/send", "/message"];
        assert_eq!(paths, expected);
        assert_eq!(Kind::ALL.map(Kind::is_repeatable), [true, true, true, true, false, false, false, false]);
        assert_eq!(Kind::SubRefresh.as_str(), "sub_refresh");
    }
}
