//! `Reader` parses scripts of events and collects every error with its position.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use crate::{
    CENTRIFUGE_JSON, CENTRIFUGE_PROTOBUF, Errors, Event, Message, RAW, Script, Step, Time, Who, show,
};

/// What a hook can answer, by event.
const CONNECT_VERDICTS: &str = "pass, accept, refuse, failed, not-called";
const MESSAGE_VERDICTS: &str =
    "next, allow, deny, drop, disconnect, replace, reply, route, failed, not-called";
const DELIVER_VERDICTS: &str = "pass, drop, replace, failed, not-called";
const OTHER_VERDICTS: &str = "done, failed, not-called";
/// What an outcome can have.
const OUTCOME: [&str; 17] = [
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

/// Reads scripts, with the caller's types for kinds and channels.
#[derive(Debug)]
pub struct Reader<K, C> {
    /// The words for kinds of messages, and the kinds.
    pub kinds: Vec<(&'static str, K)>,
    /// Makes a channel from a name, or says why the name is invalid.
    pub channel: fn(&str) -> Result<C, String>,
}

impl<K: Copy, C> Reader<K, C> {
    /// Reads a script: one event per line, or an array. It reports all errors together.
    ///
    /// # Errors
    ///
    /// All errors of the script, each with its place.
    pub fn script(&self, text: &[u8]) -> Result<Script<K, C>, Errors> {
        let mut errors = Vec::new();
        let values = values(text, &mut errors);
        self.steps(values, errors)
    }

    /// The same from values.
    pub(crate) fn events(&self, values: Vec<Value>) -> Result<Script<K, C>, Errors> {
        self.steps(numbered(values), Vec::new())
    }

    fn steps(&self, values: Vec<(Box<str>, Value)>, mut errors: Vec<String>) -> Result<Script<K, C>, Errors> {
        let mut script = Script::default();
        for (place, value) in values {
            let Value::Object(mut map) = value else {
                errors.push(format!(
                    "{place}: is {value}; expected an object such as {{\"event\": \"connect\"}}"
                ));
                continue;
            };
            // A key that is null is one that is left out. But `null` is a payload.
            map.retain(|key, value| key == "payload" || !value.is_null());
            let mut fields = Fields { reader: self, place, map, errors: &mut errors };
            if let Some(step) = fields.step() {
                script.steps.push(step);
            }
        }
        if errors.is_empty() { Ok(script) } else { Err(Errors(errors)) }
    }
}

fn numbered(values: Vec<Value>) -> Vec<(Box<str>, Value)> {
    let values = values.into_iter().enumerate();
    values.map(|(number, value)| (format!("event {}", number + 1).into(), value)).collect()
}

/// Every value with its place.
fn values(text: &[u8], errors: &mut Vec<String>) -> Vec<(Box<str>, Value)> {
    let Ok(text) = std::str::from_utf8(text) else {
        errors.push("is not UTF-8 text; expected JSON, one event per line".to_owned());
        return Vec::new();
    };
    if text.trim_start().starts_with('[') {
        return match serde_json::from_str::<Vec<Value>>(text) {
            Ok(values) => numbered(values),
            Err(error) => {
                errors.push(format!("is no JSON array: {error}"));
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
                errors.push(format!("line {number}: is no JSON on one line: {error}"));
                None
            }
        })
        .collect()
}

/// Takes known keys out of an object; what is left is unknown.
struct Fields<'m, K, C> {
    reader: &'m Reader<K, C>,
    place: Box<str>,
    map: Map<String, Value>,
    errors: &'m mut Vec<String>,
}

impl<K: Copy, C> Fields<'_, K, C> {
    fn step(&mut self) -> Option<Step<K, C>> {
        let time = match (self.number("now", u64::MAX), self.number("after", u64::MAX)) {
            (Some(_), Some(_)) => {
                self.error("after", "stands beside `now`; expected one of them");
                Time::After(0)
            }
            (Some(now), None) => Time::At(now),
            (None, after) => Time::After(after.unwrap_or(0)),
        };
        let word = self.string("event");
        // Of a connection, unless the event has none; there its keys are left over and unknown.
        let is_anonymous = matches!(word.as_deref(), Some("deliver" | "timer"));
        let (connection, mut who) = if is_anonymous {
            ("".into(), Who::default())
        } else {
            (self.string("connection").unwrap_or_else(|| "c1".into()), self.who())
        };
        let (event, verdicts) = match word.as_deref() {
            Some("connect") => (self.connect(), CONNECT_VERDICTS),
            Some("refresh") => {
                (Event::Refresh { token: self.string("token").unwrap_or_default() }, CONNECT_VERDICTS)
            }
            Some("message") => (Event::Message(self.message(&mut who)?), MESSAGE_VERDICTS),
            Some("deliver") => (self.deliver()?, DELIVER_VERDICTS),
            Some("disconnect") => (self.disconnect(), OTHER_VERDICTS),
            Some("timer") => {
                let instance = self.number("instance", u64::from(u32::MAX)).unwrap_or(0) as u32;
                (Event::Timer { instance }, OTHER_VERDICTS)
            }
            other => {
                let found = other.map_or("is missing".to_owned(), |word| format!("is {word:?}"));
                let known = "connect, refresh, message, deliver, disconnect or timer";
                self.error("event", &format!("{found}; expected {known}"));
                return None;
            }
        };
        let expect = self.expect(verdicts);
        let unknown: Vec<String> = self.map.keys().cloned().collect();
        for key in unknown {
            self.error(&key, &format!("is not a key of a {} event", event.as_str()));
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
                self.error("address", &format!("is {text:?}; expected an IP address without a port"));
            }
            address
        });
        let known = [CENTRIFUGE_JSON, CENTRIFUGE_PROTOBUF, RAW];
        let protocol = self.string("protocol").and_then(|word| {
            let protocol = known.into_iter().find(|known| **known == *word);
            if protocol.is_none() {
                self.error("protocol", &format!("is {word:?}; expected {}", known.join(" or ")));
            }
            protocol
        });
        Who { user, attributes, headers, address, protocol }
    }

    fn connect(&mut self) -> Event<K, C> {
        let token = self.string("token").unwrap_or_default();
        let data = self.map.remove("data").map(|value| value.to_string().into()).unwrap_or_default();
        Event::Connect { token, data }
    }

    fn message(&mut self, who: &mut Who) -> Option<Message<K, C>> {
        let channel = self.channel();
        let method = self.string("method").unwrap_or_default();
        let token = self.string("token").unwrap_or_default();
        let payload = self.payload();
        let binary = match self.map.remove("binary") {
            None => false,
            Some(Value::Bool(binary)) => binary,
            Some(other) => {
                self.error("binary", &format!("is {other}; expected true or false"));
                false
            }
        };
        let word = self.string("kind");
        let kind = self.reader.kinds.iter().find(|(known, _)| Some(*known) == word.as_deref());
        let Some((_, kind)) = kind else {
            let found = word.map_or("is missing".to_owned(), |word| format!("is {word:?}"));
            let known = self.reader.kinds.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            self.error("kind", &format!("{found}; expected one of {known}"));
            return None;
        };
        if word.as_deref() == Some(RAW) && who.protocol.is_none() {
            who.protocol = Some(RAW);
        }
        Some(Message { kind: *kind, channel, method, payload, binary, token })
    }

    fn deliver(&mut self) -> Option<Event<K, C>> {
        let is_missing = !self.map.contains_key("channel");
        let channel = self.channel();
        if is_missing {
            self.error("channel", "is missing; expected where it was published");
        }
        let class = self.string("class").unwrap_or_default();
        let payload = self.payload();
        let publisher = match self.map.remove("publisher") {
            None => None,
            Some(Value::Object(map)) => {
                let known = |key: &String| ["connection", "user"].contains(&key.as_str());
                let sound = map.keys().all(known) && map.values().all(Value::is_string);
                if !sound {
                    self.error("publisher", "has other things than the texts `connection` and `user`");
                }
                let text = |key| map.get(key).and_then(Value::as_str).unwrap_or_default().into();
                Some((text("connection"), text("user")))
            }
            Some(other) => {
                self.error("publisher", &format!("is {other}; expected an object"));
                None
            }
        };
        Some(Event::Deliver { channel: channel?, class, publisher, payload })
    }

    fn channel(&mut self) -> Option<C> {
        let name = self.string("channel").filter(|name| !name.is_empty())?;
        let channel = (self.reader.channel)(&name);
        channel.map_err(|error| self.error("channel", &format!("is {name:?}: {error}"))).ok()
    }

    fn payload(&mut self) -> Vec<u8> {
        payload(&mut self.map).map(Option::unwrap_or_default).unwrap_or_else(|(key, why)| {
            self.error(key, &why);
            Vec::new()
        })
    }

    fn disconnect(&mut self) -> Event<K, C> {
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
                self.error("expect", &format!("is {other}; expected a verdict or an object"));
                return None;
            }
        };
        match expect.get("verdict") {
            None => {}
            Some(Value::String(word)) if verdicts.split(", ").any(|verdict| verdict == word) => {}
            Some(other) => {
                self.error("expect.verdict", &format!("is {other}; expected one of {verdicts}"));
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
            self.error(&format!("expect.{key}"), &why);
        }
        let unknown: Vec<_> = expect.keys().filter(|key| !OUTCOME.contains(&key.as_str())).cloned().collect();
        for key in unknown {
            self.error(
                &format!("expect.{key}"),
                &format!("is not part of an outcome; known: {}", OUTCOME.join(", ")),
            );
        }
        Some(expect)
    }

    fn string(&mut self, key: &str) -> Option<Box<str>> {
        match self.map.remove(key)? {
            Value::String(text) => Some(text.into()),
            other => {
                self.error(key, &format!("is {other}; expected a text"));
                None
            }
        }
    }

    fn number(&mut self, key: &str, max: u64) -> Option<u64> {
        let value = self.map.remove(key)?;
        let number = value.as_u64().filter(|number| *number <= max);
        if number.is_none() {
            self.error(key, &format!("is {value}; expected a whole number from 0 to {max}"));
        }
        number
    }

    fn pairs(&mut self, key: &str) -> Vec<(Box<str>, Box<str>)> {
        let pairs = match self.map.remove(key) {
            None => return Vec::new(),
            Some(Value::Object(map)) if map.values().all(Value::is_string) => map,
            Some(other) => {
                self.error(key, &format!("is {other}; expected an object of texts"));
                return Vec::new();
            }
        };
        let texts = pairs.into_iter();
        texts.map(|(name, value)| (name.into(), value.as_str().unwrap_or_default().into())).collect()
    }

    fn error(&mut self, key: &str, text: &str) {
        self.errors.push(format!("{}: `{key}` {text}", self.place));
    }
}

/// The payload of an object, however it is written.
fn payload(map: &mut Map<String, Value>) -> Result<Option<Vec<u8>>, (&'static str, String)> {
    let found = ["payload", "text", "base64"].map(|key| (key, map.remove(key)));
    let mut found = found.into_iter().filter_map(|(key, value)| value.map(|value| (key, value)));
    let Some((key, value)) = found.next() else { return Ok(None) };
    if let Some((other, _)) = found.next() {
        return Err((other, format!("stands beside `{key}`; expected one of them")));
    }
    match (key, value) {
        ("payload", value) => Ok(Some(value.to_string().into_bytes())),
        ("text", Value::String(text)) => Ok(Some(text.into_bytes())),
        ("base64", Value::String(text)) => {
            let bytes = BASE64_STANDARD.decode(text);
            bytes.map(Some).map_err(|error| (key, format!("is not base64: {error}")))
        }
        (_, other) => Err((key, format!("is {other}; expected a text"))),
    }
}

fn normalise(map: &mut Map<String, Value>) -> Result<(), (String, String)> {
    match payload(map) {
        Ok(None) => Ok(()),
        Ok(Some(bytes)) => {
            show::payload(map, &bytes);
            Ok(())
        }
        Err((key, why)) => Err((key.to_owned(), why)),
    }
}
