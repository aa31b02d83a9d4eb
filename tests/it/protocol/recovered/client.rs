//! [`Watcher`]: what a client library remembers, and the bytes it exchanges in both encodings.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use gateway::protocol::Encoding;
use gateway::protocol::channel::Channel;
use gateway::protocol::command::{self, Command, Connect, Request, Subscribe};
use serde_json::{Value, json};

use super::Position;
use super::account::Heard;
use crate::protocol::fuzz::targets::encode::{json_of, protobuf_of};

/// A client, across all its connections.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) encoding: Encoding,
    /// By channel.
    pub(super) heard: BTreeMap<&'static str, Vec<Heard>>,
    at: HashMap<&'static str, Position>,
    /// Channels with a subscription.
    live: Vec<&'static str>,
    /// Subscribe commands without a reply yet.
    asked: HashMap<u32, (&'static str, Option<Position>, bool)>,
    /// The same of unsubscribe commands. What comes before the reply belongs to the subscription.
    leaving: HashMap<u32, &'static str>,
    last_id: u32,
    /// The id of the command that was answered last.
    pub(super) answered: u32,
    /// The connect reply of the connection.
    pub(super) hello: Value,
}

impl Watcher {
    pub(super) fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            heard: BTreeMap::new(),
            at: HashMap::new(),
            live: Vec::new(),
            asked: HashMap::new(),
            leaving: HashMap::new(),
            last_id: 0,
            answered: 0,
            hello: Value::Null,
        }
    }

    pub(super) fn is_live(&self, channel: &str) -> bool {
        self.live.contains(&channel)
    }

    pub(super) fn is_asking(&self, channel: &str) -> bool {
        self.asked.values().any(|(asked, ..)| *asked == channel)
            || self.leaving.values().any(|leaving| *leaving == channel)
    }

    /// Where it stands in a channel.
    pub(super) fn at(&self, channel: &str) -> Option<&Position> {
        self.at.get(channel)
    }

    /// The id of the command that was made last.
    pub(super) fn last_id(&self) -> u32 {
        self.last_id
    }

    fn command(&mut self, request: Request) -> Bytes {
        self.last_id += 1;
        let command = Command { id: self.last_id, request };
        let bytes = match self.encoding {
            Encoding::Protobuf => protobuf_of(&command),
            _ => json_of(&command),
        };
        bytes.expect("both encodings have it").into()
    }

    pub(super) fn connect(&mut self) -> Bytes {
        (self.last_id, self.answered) = (0, 0);
        self.command(Request::Connect(Connect::default()))
    }

    /// Subscribes, from where it stands if it stands anywhere. `possible` is whether everything since then
    /// is known to be kept.
    pub(super) fn subscribe(&mut self, channel: &'static str, possible: bool) -> Bytes {
        let since = self.at.get(channel).cloned();
        let recover = since
            .clone()
            .map(|since| command::Position { offset: since.offset, epoch: since.epoch.as_str().into() });
        self.asked.insert(self.last_id + 1, (channel, since, possible));
        self.command(Request::Subscribe(Subscribe {
            channel: Channel::parse(channel),
            recover,
            join_leave: false,
            reject_unrecovered: false,
            token: "".into(),
            data: Bytes::new(),
            filter: None,
            delta: false,
        }))
    }

    pub(super) fn unsubscribe(&mut self, channel: &'static str) -> Bytes {
        self.leaving.insert(self.last_id + 1, channel);
        self.command(Request::Unsubscribe { channel: Channel::parse(channel) })
    }

    /// The answer to a ping.
    pub(super) fn pong(&self) -> Bytes {
        Bytes::from_static(if self.encoding == Encoding::Protobuf { b"\0" } else { b"{}" })
    }

    /// The connection ended, in whatever way.
    pub(super) fn ended(&mut self) {
        for channel in std::mem::take(&mut self.live) {
            self.write(channel, Heard::Disconnected);
        }
        self.asked.clear();
        self.leaving.clear();
    }

    /// The replies and pushes in a message, in the form that they have in JSON.
    pub(super) fn read(&self, message: &[u8]) -> Vec<Value> {
        if self.encoding == Encoding::Protobuf {
            return records(message);
        }
        let lines = message.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("the gateway writes JSON")).collect()
    }

    /// Takes a reply or a push. True for a ping, which has to be answered. The error is what a client does
    /// not expect.
    pub(super) fn on(&mut self, reply: &Value) -> Result<bool, String> {
        if reply == &json!({}) {
            return Ok(true);
        }
        if let Some(push) = reply.get("push") {
            return self.on_push(push).map(|()| false);
        }
        let id = reply["id"].as_u64().and_then(|id| id.try_into().ok()).ok_or(format!("no id: {reply}"))?;
        if id <= self.answered || id > self.last_id || reply.get("error").is_some() {
            return Err(format!("{reply} after the reply to {}", self.answered));
        }
        self.answered = id;
        if let Some(hello) = reply.get("connect") {
            self.hello = hello.clone();
        }
        if let Some(channel) = self.leaving.remove(&id) {
            self.live.retain(|live| *live != channel);
            self.write(channel, Heard::Left);
        }
        let Some((channel, since, possible)) = self.asked.remove(&id) else { return Ok(false) };
        let result = reply.get("subscribe").ok_or(format!("no reply to a subscribe: {reply}"))?;
        let position = Position {
            epoch: result["epoch"].as_str().unwrap_or_default().to_owned(),
            offset: result["offset"].as_u64().unwrap_or(0),
        };
        let missed: Vec<_> =
            result["publications"].as_array().into_iter().flatten().map(publication).collect();
        let recovered = result["recovered"] == true;
        if since.is_some() && result["was_recovering"] != true {
            return Err(format!("it asked to recover, and is not told the outcome: {result}"));
        }
        let last = missed.last().map_or(position.offset, |(offset, _)| *offset);
        self.at.insert(channel, Position { offset: last, ..position.clone() });
        self.live.push(channel);
        self.write(channel, Heard::Subscribed { since, possible, recovered, position, missed });
        Ok(false)
    }

    fn on_push(&mut self, push: &Value) -> Result<(), String> {
        if push.get("disconnect").is_some() {
            return Ok(());
        }
        let name = push["channel"].as_str().unwrap_or_default();
        let channel =
            super::CHANNELS.iter().find(|channel| **channel == name).ok_or(format!("a push to {name}"))?;
        if let Some(told) = push.get("pub") {
            let (offset, number) = publication(told);
            if let Some(at) = self.at.get_mut(channel) {
                at.offset = offset;
            }
            self.write(channel, Heard::Publication(offset, number));
        } else if let Some(why) = push.get("unsubscribe") {
            self.live.retain(|live| live != channel);
            self.write(channel, Heard::Unsubscribed(why["code"].as_u64().unwrap_or(0)));
        } else {
            return Err(format!("an unknown push: {push}"));
        }
        Ok(())
    }

    fn write(&mut self, channel: &'static str, event: Heard) {
        self.heard.entry(channel).or_default().push(event);
    }
}

/// Offset and number of a publication.
fn publication(value: &Value) -> (u64, u64) {
    (value["offset"].as_u64().unwrap_or(0), value["data"].as_u64().unwrap_or(0))
}

/// The replies in records of Protobuf, as far as a watcher needs them.
fn records(mut message: &[u8]) -> Vec<Value> {
    let mut all = Vec::new();
    while !message.is_empty() {
        let length = varint(&mut message) as usize;
        let (record, rest) = message.split_at(length);
        all.push(reply(record));
        message = rest;
    }
    all
}

/// A field of a message: a number or bytes.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Field<'_> {
    fn text(&self) -> Value {
        match self {
            Self::Bytes(bytes) => std::str::from_utf8(bytes).expect("text is UTF-8").into(),
            Self::Number(number) => (*number).into(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) => panic!("a number in place of a message"),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a number ends");
        number |= u64::from(byte & 0x7f) << shift;
        *bytes = rest;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

/// The object of a message: `name` gives the name and the value of a field, `None` to leave it out.
fn object(mut bytes: &[u8], name: impl Fn(u64, &Field<'_>) -> Option<(&'static str, Value)>) -> Value {
    let mut fields = serde_json::Map::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = if key & 7 == 0 {
            Field::Number(varint(&mut bytes))
        } else {
            assert_eq!(key & 7, 2, "the gateway writes numbers and bytes");
            let length = varint(&mut bytes) as usize;
            let (value, rest) = bytes.split_at(length);
            bytes = rest;
            Field::Bytes(value)
        };
        match name(key >> 3, &field) {
            Some(("publications", value)) => {
                let list = fields.entry("publications").or_insert_with(|| json!([]));
                list.as_array_mut().expect("a list").push(value);
            }
            Some((name, value)) => _ = fields.insert(name.to_owned(), value),
            None => (),
        }
    }
    fields.into()
}

fn reply(record: &[u8]) -> Value {
    object(record, |tag, field| {
        Some(match tag {
            1 => ("id", field.text()),
            2 => ("error", object(field.bytes(), |tag, field| (tag == 1).then(|| ("code", field.text())))),
            4 => ("push", push(field.bytes())),
            5 => ("connect", connected(field.bytes())),
            6 => ("subscribe", subscribed(field.bytes())),
            7 => ("unsubscribe", json!({})),
            _ => return None,
        })
    })
}

fn connected(bytes: &[u8]) -> Value {
    object(bytes, |tag, field| match tag {
        9 => Some(("session", field.text())),
        10 => Some(("node", field.text())),
        _ => None,
    })
}

fn subscribed(bytes: &[u8]) -> Value {
    object(bytes, |tag, field| {
        let flag = || matches!(field, Field::Number(1)).into();
        Some(match tag {
            6 => ("epoch", field.text()),
            7 => ("publications", published(field.bytes())),
            8 => ("recovered", flag()),
            9 => ("offset", field.text()),
            12 => ("was_recovering", flag()),
            _ => return None,
        })
    })
}

fn push(bytes: &[u8]) -> Value {
    let code = |tag_of_code, bytes: &[u8]| {
        object(bytes, move |tag, field| (tag == tag_of_code).then(|| ("code", field.text())))
    };
    object(bytes, |tag, field| match tag {
        2 => Some(("channel", field.text())),
        4 => Some(("pub", published(field.bytes()))),
        7 => Some(("unsubscribe", code(2, field.bytes()))),
        11 => Some(("disconnect", code(1, field.bytes()))),
        _ => None,
    })
}

fn published(bytes: &[u8]) -> Value {
    object(bytes, |tag, field| match tag {
        4 => Some(("data", serde_json::from_slice(field.bytes()).expect("a number was published"))),
        6 => Some(("offset", field.text())),
        _ => None,
    })
}
