//! From text to events.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};

use super::show::show_payload;
use super::{Event, Mistakes, Script, Step, Time, Who};
use crate::plugin::event::Kind;
use crate::protocol::Protocol;
use crate::protocol::channel::Channel;

/// What a hook can answer, by event.
const CONNECT_VERDICTS: &str = "pass, accept, refuse, failed, not-called";
const MESSAGE_VERDICTS: &str =
    "next, allow, deny, drop, disconnect, replace, reply, route, failed, not-called";
const OTHER_VERDICTS: &str = "done, failed, not-called";

pub(super) fn script(text: &[u8]) -> Result<Script, Mistakes> {
    let mut mistakes = Vec::new();
    let mut script = Script::default();
    for (place, value) in values(text, &mut mistakes) {
        let Value::Object(map) = value else {
            mistakes
                .push(format!("{place}: is {value}; expected an object such as {{\"event\": \"connect\"}}"));
            continue;
        };
        let mut fields = Fields { place, map, mistakes: &mut mistakes };
        if let Some(step) = fields.step() {
            script.steps.push(step);
        }
    }
    if mistakes.is_empty() { Ok(script) } else { Err(Mistakes(mistakes)) }
}

/// Every value with its place.
fn values(text: &[u8], mistakes: &mut Vec<String>) -> Vec<(Box<str>, Value)> {
    let Ok(text) = std::str::from_utf8(text) else {
        mistakes.push("is not UTF-8 text; expected JSON, one event per line".to_owned());
        return Vec::new();
    };
    if text.trim_start().starts_with('[') {
        return match serde_json::from_str::<Vec<Value>>(text) {
            Ok(values) => {
                let numbered = values.into_iter().enumerate();
                numbered.map(|(number, value)| (format!("event {}", number + 1).into(), value)).collect()
            }
            Err(error) => {
                mistakes.push(format!("is no JSON array: {error}"));
                Vec::new()
            }
        };
    }
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|(number, line)| match serde_json::from_str(line) {
            Ok(value) => Some((format!("line {number}").into(), value)),
            Err(error) => {
                mistakes.push(format!("line {number}: is no JSON on one line: {error}"));
                None
            }
        })
        .collect()
}

/// Takes known keys out of an object; what is left is unknown.
struct Fields<'m> {
    place: Box<str>,
    map: Map<String, Value>,
    mistakes: &'m mut Vec<String>,
}

impl Fields<'_> {
    fn step(&mut self) -> Option<Step> {
        let connection = self.string("connection").unwrap_or_else(|| "c1".into());
        let time = match (self.number("now", u64::MAX), self.number("after", u64::MAX)) {
            (Some(_), Some(_)) => {
                self.mistake("after", "stands beside `now`; expected one of them");
                Time::After(0)
            }
            (Some(now), None) => Time::At(now),
            (None, after) => Time::After(after.unwrap_or(0)),
        };
        let mut who = self.who();
        let (event, verdicts) = match self.string("event").as_deref() {
            Some("connect") => (self.connect(), CONNECT_VERDICTS),
            Some("message") => (self.message(&mut who)?, MESSAGE_VERDICTS),
            Some("disconnect") => (self.disconnect(), OTHER_VERDICTS),
            Some("timer") => (Event::Timer, OTHER_VERDICTS),
            other => {
                let found = other.map_or("is missing".to_owned(), |word| format!("is {word:?}"));
                self.mistake("event", &format!("{found}; expected connect, message, disconnect or timer"));
                return None;
            }
        };
        let expect = self.expect(verdicts);
        let unknown: Vec<String> = self.map.keys().cloned().collect();
        for key in unknown {
            self.mistake(&key, &format!("is not a key of a {} event", event.as_str()));
        }
        Some(Step { place: self.place.clone(), connection, who, time, event, expect })
    }

    fn who(&mut self) -> Who {
        let user = self.string("user");
        let attributes = self.pairs("attributes");
        let mut headers = self.pairs("headers");
        for (name, _) in &mut headers {
            name.make_ascii_lowercase();
        }
        let address = self.string("address").and_then(|text| {
            let address = text.parse().ok();
            if address.is_none() {
                self.mistake("address", &format!("is {text:?}; expected an IP address without a port"));
            }
            address
        });
        let known = [Protocol::CentrifugeJson.as_str(), Protocol::Raw.as_str()];
        let protocol = self.string("protocol").and_then(|word| {
            let protocol = known.into_iter().find(|known| **known == *word);
            if protocol.is_none() {
                self.mistake("protocol", &format!("is {word:?}; expected {}", known.join(" or ")));
            }
            protocol
        });
        Who { user, attributes, headers, address, protocol }
    }

    fn connect(&mut self) -> Event {
        let token = self.string("token").unwrap_or_default();
        let data = self.map.remove("data").map(|value| value.to_string().into()).unwrap_or_default();
        Event::Connect { token, data }
    }

    fn message(&mut self, who: &mut Who) -> Option<Event> {
        let channel = self.string("channel").filter(|name| !name.is_empty()).and_then(|name| {
            let channel = Channel::parse(&name);
            channel.map_err(|error| self.mistake("channel", &format!("is {name:?}: {error}"))).ok()
        });
        let method = self.string("method").unwrap_or_default();
        let token = self.string("token").unwrap_or_default();
        let payload = match payload(&mut self.map) {
            Ok(payload) => payload.unwrap_or_default(),
            Err((key, why)) => {
                self.mistake(key, &why);
                Bytes::new()
            }
        };
        let binary = match self.map.remove("binary") {
            None => false,
            Some(Value::Bool(binary)) => binary,
            Some(other) => {
                self.mistake("binary", &format!("is {other}; expected true or false"));
                false
            }
        };
        let word = self.string("kind");
        let kind = Kind::ALL.into_iter().find(|kind| Some(kind.as_str()) == word.as_deref());
        let Some(kind) = kind else {
            let found = word.map_or("is missing".to_owned(), |word| format!("is {word:?}"));
            let known = Kind::ALL.map(Kind::as_str).join(", ");
            self.mistake("kind", &format!("{found}; expected one of {known}"));
            return None;
        };
        if kind == Kind::Raw && who.protocol.is_none() {
            who.protocol = Some(Protocol::Raw.as_str());
        }
        Some(Event::Message { kind, channel, method, payload, binary, token })
    }

    fn disconnect(&mut self) -> Event {
        let code = self.number("code", u64::from(u16::MAX)).unwrap_or(3000);
        let reason = self.string("reason").unwrap_or_default();
        Event::Disconnect { code: code as u16, reason }
    }

    /// What is expected, with payloads as an outcome shows them.
    fn expect(&mut self, verdicts: &str) -> Option<Map<String, Value>> {
        let mut expect = match self.map.remove("expect")? {
            Value::String(word) => Map::from_iter([("verdict".to_owned(), Value::String(word))]),
            Value::Object(map) => map,
            other => {
                self.mistake("expect", &format!("is {other}; expected a verdict or an object"));
                return None;
            }
        };
        match expect.get("verdict") {
            None => {}
            Some(Value::String(word)) if verdicts.split(", ").any(|verdict| verdict == word) => {}
            Some(other) => {
                self.mistake("expect.verdict", &format!("is {other}; expected one of {verdicts}"));
            }
        }
        let effects = expect.get_mut("effects").and_then(Value::as_array_mut).into_iter().flatten();
        let mut wrong: Vec<(String, String)> = effects
            .filter_map(|effect| effect.as_object_mut())
            .filter_map(|effect| normalise(effect).err())
            .collect();
        wrong.extend(
            expect.get_mut("changed").and_then(Value::as_object_mut).and_then(|map| normalise(map).err()),
        );
        wrong.extend(normalise(&mut expect).err());
        for (key, why) in wrong {
            self.mistake(&format!("expect.{key}"), &why);
        }
        const KNOWN: [&str; 17] = [
            "verdict",
            "code",
            "reason",
            "payload",
            "text",
            "base64",
            "addresses",
            "user",
            "expires_at",
            "info",
            "data",
            "channels",
            "attributes",
            "effects",
            "changed",
            "cause",
            "detail",
        ];
        let unknown: Vec<_> = expect.keys().filter(|key| !KNOWN.contains(&key.as_str())).cloned().collect();
        for key in unknown {
            self.mistake(
                &format!("expect.{key}"),
                &format!("is not part of an outcome; known: {}", KNOWN.join(", ")),
            );
        }
        Some(expect)
    }

    fn string(&mut self, key: &str) -> Option<Box<str>> {
        match self.map.remove(key)? {
            Value::String(text) => Some(text.into()),
            other => {
                self.mistake(key, &format!("is {other}; expected a text"));
                None
            }
        }
    }

    fn number(&mut self, key: &str, max: u64) -> Option<u64> {
        let value = self.map.remove(key)?;
        let number = value.as_u64().filter(|number| *number <= max);
        if number.is_none() {
            self.mistake(key, &format!("is {value}; expected a whole number from 0 to {max}"));
        }
        number
    }

    fn pairs(&mut self, key: &str) -> Vec<(Box<str>, Box<str>)> {
        let pairs = match self.map.remove(key) {
            None => return Vec::new(),
            Some(Value::Object(map)) if map.values().all(Value::is_string) => map,
            Some(other) => {
                self.mistake(key, &format!("is {other}; expected an object of texts"));
                return Vec::new();
            }
        };
        let texts = pairs.into_iter();
        texts.map(|(name, value)| (name.into(), value.as_str().unwrap_or_default().into())).collect()
    }

    fn mistake(&mut self, key: &str, text: &str) {
        self.mistakes.push(format!("{}: `{key}` {text}", self.place));
    }
}

/// The payload of an object, however it is written.
fn payload(map: &mut Map<String, Value>) -> Result<Option<Bytes>, (&'static str, String)> {
    let found = ["payload", "text", "base64"].map(|key| (key, map.remove(key)));
    let mut found = found.into_iter().filter_map(|(key, value)| value.map(|value| (key, value)));
    let Some((key, value)) = found.next() else { return Ok(None) };
    if let Some((other, _)) = found.next() {
        return Err((other, format!("stands beside `{key}`; expected one of them")));
    }
    match (key, value) {
        ("payload", value) => Ok(Some(value.to_string().into())),
        ("text", Value::String(text)) => Ok(Some(text.into())),
        ("base64", Value::String(text)) => {
            let bytes = BASE64_STANDARD.decode(text);
            bytes.map(|bytes| Some(bytes.into())).map_err(|error| (key, format!("is not base64: {error}")))
        }
        (_, other) => Err((key, format!("is {other}; expected a text"))),
    }
}

fn normalise(map: &mut Map<String, Value>) -> Result<(), (String, String)> {
    match payload(map) {
        Ok(None) => Ok(()),
        Ok(Some(bytes)) => {
            show_payload(map, &bytes);
            Ok(())
        }
        Err((key, why)) => Err((key.to_owned(), why)),
    }
}
