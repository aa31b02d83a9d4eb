//! Writes commands as a client does, in both encodings.

use bytes::Bytes;
use gateway::protocol::channel::Channel;
use gateway::protocol::command::{Command, NamedChannel, Position, Request};
use gateway::protocol::json::compact;
use serde_json::{Map, Value, json};

/// The bit of `subscribe.flag` for clients that prefer an error to a gap.
const REJECT_UNRECOVERED: u8 = 2;

/// A command in JSON. `None` if the encoding, or the command, does not say everything that was said.
pub fn json_of(command: &Command) -> Option<Vec<u8>> {
    let mut data = Value::Null;
    let (name, mut fields) = match &command.request {
        Request::Connect(connect) => {
            data = payload(&connect.data)?;
            let subs: Map<_, _> = connect
                .positions
                .iter()
                .map(|(channel, position)| (channel.as_str().to_owned(), recover(position)))
                .collect();
            let (name, version) = (&connect.software.name, &connect.software.version);
            ("connect", json!({ "token": connect.token, "subs": subs, "name": name, "version": version }))
        }
        Request::Subscribe(subscribe) => {
            // A filter cannot be asked for what it is made of.
            if subscribe.filter.is_some() {
                return None;
            }
            data = payload(&subscribe.data)?;
            let mut fields = subscribe.recover.as_ref().map_or_else(|| json!({}), recover);
            fields["channel"] = channel(&subscribe.channel)?.into();
            fields["token"] = json!(subscribe.token);
            fields["join_leave"] = subscribe.join_leave.into();
            fields["flag"] = if subscribe.reject_unrecovered { REJECT_UNRECOVERED } else { 0 }.into();
            ("subscribe", fields)
        }
        Request::Unsubscribe { channel: name } => ("unsubscribe", json!({ "channel": channel(name)? })),
        Request::Publish { channel: name, data: published } => {
            data = payload(published)?;
            ("publish", json!({ "channel": channel(name)? }))
        }
        Request::Presence { channel: name } => ("presence", json!({ "channel": channel(name)? })),
        Request::PresenceStats { channel: name } => ("presence_stats", json!({ "channel": channel(name)? })),
        Request::History { channel: name, query } => {
            let since = query.since.as_ref();
            let since = since.map(|since| json!({ "offset": since.offset, "epoch": &*since.epoch }));
            let (limit, reverse) = (query.limit, query.reverse);
            let fields =
                json!({ "channel": channel(name)?, "limit": limit, "since": since, "reverse": reverse });
            ("history", fields)
        }
        Request::Rpc { method, data: argument } => {
            data = payload(argument)?;
            ("rpc", json!({ "method": method }))
        }
        Request::Send { data: sent } => {
            data = payload(sent)?;
            ("send", json!({}))
        }
        Request::Refresh { token } => ("refresh", json!({ "token": token })),
        Request::SubRefresh { channel: name, token } => {
            ("sub_refresh", json!({ "channel": channel(name)?, "token": token }))
        }
        Request::Pong => return Some(b"{}".to_vec()),
        Request::Refused { .. } | Request::Raw { .. } => return None,
    };
    // The payload stands in the command as it is, and not as a library would write it again.
    let marker = "\u{1}data\u{1}";
    if data != Value::Null {
        fields["data"] = marker.into();
    }
    let text = json!({ "id": command.id, name: fields }).to_string();
    let payload = data.as_str().unwrap_or("null");
    Some(text.replacen(&json!(marker).to_string(), payload, 1).into_bytes())
}

/// The text of a payload that stands in JSON as it is; null if there is none.
fn payload(data: &Bytes) -> Option<Value> {
    if data.is_empty() {
        return Some(Value::Null);
    }
    let is_plain = data.trim_ascii() == data && !data.contains(&b'\n') && &data[..] != b"null";
    if !is_plain || compact(data.clone()).is_err() {
        return None;
    }
    Some(std::str::from_utf8(data).ok()?.into())
}

fn recover(position: &Position) -> Value {
    json!({ "recover": true, "offset": position.offset, "epoch": &*position.epoch })
}

/// The name, unless it was invalid: then it was not kept.
fn channel(name: &NamedChannel) -> Option<&str> {
    name.as_ref().ok().map(Channel::as_str)
}

/// The same in Protobuf, with its length before it.
pub fn protobuf_of(command: &Command) -> Option<Vec<u8>> {
    let mut fields = Record::default();
    let tag = match &command.request {
        Request::Connect(connect) => {
            fields.text(1, &connect.token);
            fields.bytes(2, &connect.data);
            for (channel, position) in &connect.positions {
                let mut sub = Record::default();
                sub.recover(position);
                let mut entry = Record::default();
                entry.text(1, channel.as_str());
                entry.message(2, &sub);
                fields.message(3, &entry);
            }
            fields.text(4, &connect.software.name);
            fields.text(5, &connect.software.version);
            4
        }
        Request::Subscribe(subscribe) => {
            if subscribe.filter.is_some() {
                return None;
            }
            fields.text(1, channel(&subscribe.channel)?);
            fields.text(2, &subscribe.token);
            if let Some(position) = &subscribe.recover {
                fields.recover(position);
            }
            fields.bytes(8, &subscribe.data);
            fields.number(11, subscribe.join_leave.into());
            fields.number(14, if subscribe.reject_unrecovered { REJECT_UNRECOVERED.into() } else { 0 });
            5
        }
        Request::Unsubscribe { channel: name } => fields.text(1, channel(name)?).then(6),
        Request::Publish { channel: name, data } => {
            fields.text(1, channel(name)?);
            fields.bytes(2, data).then(7)
        }
        Request::Presence { channel: name } => fields.text(1, channel(name)?).then(8),
        Request::PresenceStats { channel: name } => fields.text(1, channel(name)?).then(9),
        Request::History { channel: name, query } => {
            fields.text(1, channel(name)?);
            let limit = i32::try_from(query.limit).ok()?;
            // Negative numbers have ten bytes.
            fields.number(7, i64::from(limit) as u64);
            if let Some(since) = &query.since {
                let mut position = Record::default();
                position.number(1, since.offset);
                position.text(2, &since.epoch);
                fields.message(8, &position);
            }
            fields.number(9, query.reverse.into()).then(10)
        }
        Request::Send { data } => fields.bytes(1, data).then(12),
        Request::Rpc { method, data } => {
            fields.bytes(1, data);
            fields.text(2, method).then(13)
        }
        Request::Refresh { token } => fields.text(1, token).then(14),
        Request::SubRefresh { channel: name, token } => {
            fields.text(1, channel(name)?);
            fields.text(2, token).then(15)
        }
        Request::Pong => return Some(vec![0]),
        Request::Refused { .. } | Request::Raw { .. } => return None,
    };
    let mut record = Record::default();
    record.number(1, command.id.into());
    record.message(tag, &fields);
    let mut written = Record::default();
    written.record(&record);
    Some(written.0)
}

/// The body of an emulation request in Protobuf.
pub fn emulation_of(node: &str, session: &str, data: &[u8]) -> Vec<u8> {
    let mut record = Record::default();
    record.text(1, node).text(2, session).bytes(3, data);
    record.0
}

/// A message of Protobuf.
#[derive(Default)]
pub(super) struct Record(pub(super) Vec<u8>);

impl Record {
    fn varint(&mut self, mut number: u64) {
        while number > 0x7f {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// A field with a number. Zero is left out.
    pub(super) fn number(&mut self, tag: u8, number: u64) -> &mut Self {
        if number != 0 {
            self.varint(u64::from(tag) << 3);
            self.varint(number);
        }
        self
    }

    /// A field with bytes. Nothing is left out.
    pub(super) fn bytes(&mut self, tag: u8, bytes: &[u8]) -> &mut Self {
        if bytes.is_empty() { self } else { self.field(tag, bytes) }
    }

    /// The same with a text.
    pub(super) fn text(&mut self, tag: u8, text: &str) -> &mut Self {
        self.bytes(tag, text.as_bytes())
    }

    /// A field with another message, also an empty one.
    pub(super) fn message(&mut self, tag: u8, message: &Self) -> &mut Self {
        self.field(tag, &message.0)
    }

    /// A field with bytes, also without any.
    pub(super) fn field(&mut self, tag: u8, bytes: &[u8]) -> &mut Self {
        self.varint(u64::from(tag) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A message after its length, as it stands in a message of the protocol.
    pub(super) fn record(&mut self, record: &Self) {
        self.varint(record.0.len() as u64);
        self.0.extend_from_slice(&record.0);
    }

    fn recover(&mut self, position: &Position) {
        self.number(3, 1);
        self.text(6, &position.epoch);
        self.number(7, position.offset);
    }

    /// The tag, for the end of an arm.
    fn then(&mut self, tag: u8) -> u8 {
        tag
    }
}
