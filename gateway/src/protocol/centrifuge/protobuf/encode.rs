//! Encodes [`Reply`] and [`Push`] as a record of Protobuf: the message after its length.
//!
//! Written by hand: structs for the library would own a copy of each text. A length stands before what it
//! counts, so a field is visited once for each message around it to count, and once to write. Messages are at
//! most four deep, and counting looks at no payload.
//!
//! A field with a zero value is left out; a receiver reads the zero value then.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::protocol::centrifuge::VERSION;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::push::{Member, Publication, Push, PushKind};
use crate::protocol::reply::{Connected, Done, Reply, Subscribed};

/// Writes the fields of one message, or only counts their bytes if there is no buffer.
struct Message<'a> {
    out: Option<&'a mut Vec<u8>>,
    bytes: usize,
}

/// Bytes of a message.
fn count(fields: impl Fn(&mut Message<'_>)) -> usize {
    let mut counted = Message { out: None, bytes: 0 };
    fields(&mut counted);
    counted.bytes
}

/// Appends a message after its length.
fn record(out: &mut Vec<u8>, fields: impl Fn(&mut Message<'_>)) {
    encode_varint(count(&fields) as u64, out);
    fields(&mut Message { out: Some(out), bytes: 0 });
}

impl Message<'_> {
    fn key(&mut self, tag: u32, wire_type: WireType) {
        match &mut self.out {
            Some(out) => encode_key(tag, wire_type, *out),
            None => self.bytes += key_len(tag),
        }
    }

    fn varint(&mut self, value: u64) {
        match &mut self.out {
            Some(out) => encode_varint(value, *out),
            None => self.bytes += encoded_len_varint(value),
        }
    }

    fn number(&mut self, tag: u32, value: impl Into<u64>) {
        let value = value.into();
        if value != 0 {
            self.key(tag, WireType::Varint);
            self.varint(value);
        }
    }

    fn flag(&mut self, tag: u32, value: bool) {
        self.number(tag, value);
    }

    fn string(&mut self, tag: u32, value: &str) {
        self.payload(tag, value.as_bytes());
    }

    fn payload(&mut self, tag: u32, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        self.key(tag, WireType::LengthDelimited);
        self.varint(value.len() as u64);
        match &mut self.out {
            Some(out) => out.extend_from_slice(value),
            None => self.bytes += value.len(),
        }
    }

    /// A message in this one, also if it is empty.
    fn message(&mut self, tag: u32, fields: impl Fn(&mut Message<'_>)) {
        let bytes = count(&fields);
        self.key(tag, WireType::LengthDelimited);
        self.varint(bytes as u64);
        match &mut self.out {
            Some(_) => fields(self),
            None => self.bytes += bytes,
        }
    }

    /// An entry of a map from text to messages.
    fn entry(&mut self, tag: u32, key: &str, fields: impl Fn(&mut Message<'_>)) {
        self.message(tag, |entry| {
            entry.string(1, key);
            entry.message(2, &fields);
        });
    }
}

/// One reply or one push to a single client.
pub(in crate::protocol) fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    record(out, |m| match reply {
        Reply::Error { id, error } => {
            m.number(1, *id);
            m.message(2, |m| error_fields(m, error));
        }
        Reply::Connected { id, result } => {
            m.number(1, *id);
            m.message(5, |m| connected(m, result));
        }
        Reply::Subscribed { id, result } => {
            m.number(1, *id);
            m.message(6, |m| subscribed(m, result));
        }
        Reply::Done { id, what } => {
            m.number(1, *id);
            let tag = match what {
                Done::Unsubscribe => 7,
                Done::Publish => 8,
            };
            m.message(tag, |_| ());
        }
        Reply::Presence { id, members } => {
            m.number(1, *id);
            m.message(9, |m| {
                for member in members {
                    m.entry(1, &member.client, |m| member_fields(m, member));
                }
            });
        }
        Reply::PresenceStats { id, clients, users } => {
            m.number(1, *id);
            m.message(10, |m| {
                m.number(1, *clients as u64);
                m.number(2, *users as u64);
            });
        }
        Reply::History { id, publications, offset, epoch } => {
            m.number(1, *id);
            m.message(11, |m| {
                for publication in publications {
                    m.message(1, |m| publication_fields(m, publication, None));
                }
                m.string(2, epoch);
                m.number(3, *offset);
            });
        }
        Reply::Rpc { id, data } => {
            m.number(1, *id);
            m.message(13, |m| m.payload(1, data));
        }
        Reply::Refreshed { id, client, ttl } => {
            m.number(1, *id);
            m.message(14, |m| {
                m.string(1, client);
                m.string(2, VERSION);
                expiry(m, 3, *ttl);
            });
        }
        Reply::SubRefreshed { id, ttl } => {
            m.number(1, *id);
            m.message(15, |m| expiry(m, 1, *ttl));
        }
        Reply::Ping => (),
        Reply::Message { data } => message(m, data),
        Reply::SubscribedByServer { channel, result } => push(m, |m| {
            m.string(2, channel.as_str());
            m.message(9, |m| {
                m.flag(1, result.recoverable);
                m.string(4, &result.epoch);
                m.number(5, result.offset);
                m.flag(6, result.positioned);
                m.payload(7, &result.data);
            });
        }),
        Reply::RefreshedByServer { ttl } => push(m, |m| m.message(12, |m| expiry(m, 1, *ttl))),
        Reply::UnsubscribedByServer { channel, why } => push(m, |m| {
            m.string(2, channel.as_str());
            m.message(7, |m| {
                m.number(2, why.code);
                m.string(3, &why.reason);
            });
        }),
        Reply::Disconnected { close } => push(m, |m| {
            m.message(11, |m| {
                m.number(1, close.code);
                m.string(2, &close.reason);
            });
        }),
        // Belongs to the raw protocol: `codec` never passes it to this function.
        Reply::Raw { .. } => (),
    });
}

/// One event of a channel, with a delta in place of the payload of a publication if there is one.
pub(in crate::protocol) fn encode_push(event: &Push, delta: Option<&[u8]>, out: &mut Vec<u8>) {
    record(out, |m| {
        push(m, |m| {
            m.string(2, event.channel.as_str());
            match &event.kind {
                PushKind::Publication { publication, .. } => {
                    m.message(4, |m| {
                        publication_fields(m, publication, delta);
                        m.string(10, event.published_in.as_ref().map_or("", Channel::as_str));
                    });
                }
                PushKind::Join(member) => m.message(5, |m| m.message(1, |m| member_fields(m, member))),
                PushKind::Leave(member) => m.message(6, |m| m.message(1, |m| member_fields(m, member))),
            }
        });
    });
}

/// A message to the client itself.
pub(in crate::protocol) fn encode_message(publication: &Publication, out: &mut Vec<u8>) {
    record(out, |m| message(m, &publication.data));
}

fn push(m: &mut Message<'_>, fields: impl Fn(&mut Message<'_>)) {
    m.message(4, fields);
}

fn message(m: &mut Message<'_>, data: &[u8]) {
    push(m, |m| m.message(8, |m| m.payload(1, data)));
}

fn error_fields(m: &mut Message<'_>, error: &ReplyError) {
    m.number(1, error.code);
    m.string(2, &error.message);
    m.flag(3, error.temporary);
}

/// Two fields: whether something expires, and the seconds until then.
fn expiry(m: &mut Message<'_>, tag: u32, ttl: Option<u32>) {
    if let Some(ttl) = ttl {
        m.flag(tag, true);
        m.number(tag + 1, ttl);
    }
}

fn connected(m: &mut Message<'_>, result: &Connected) {
    m.string(1, &result.client);
    m.string(2, VERSION);
    expiry(m, 3, result.ttl);
    m.payload(5, &result.data);
    for (channel, result) in &result.subscriptions {
        m.entry(6, channel.as_str(), |m| subscribed(m, result));
    }
    m.number(7, result.ping);
    m.flag(8, result.pong);
    if let Some(emulation) = &result.emulation {
        m.string(9, &emulation.session);
        m.string(10, &emulation.node);
    }
}

fn subscribed(m: &mut Message<'_>, result: &Subscribed) {
    expiry(m, 1, result.ttl);
    m.flag(3, result.recoverable);
    m.string(6, &result.epoch);
    for publication in &result.publications {
        m.message(7, |m| publication_fields(m, publication, None));
    }
    m.flag(8, result.recovered == Some(true));
    m.number(9, result.offset);
    m.flag(10, result.positioned);
    m.payload(11, &result.data);
    m.flag(12, result.recovered.is_some());
    m.flag(13, result.delta);
}

fn publication_fields(m: &mut Message<'_>, publication: &Publication, delta: Option<&[u8]>) {
    m.payload(4, delta.unwrap_or(&publication.data));
    if let Some(member) = &publication.info {
        m.message(5, |m| member_fields(m, member));
    }
    m.number(6, publication.offset);
    for (name, value) in publication.tags.iter().flat_map(|tags| tags.iter()) {
        m.message(7, |entry| {
            entry.string(1, name);
            entry.string(2, value);
        });
    }
    m.flag(8, delta.is_some());
}

fn member_fields(m: &mut Message<'_>, member: &Member) {
    m.string(1, &member.user);
    m.string(2, &member.client);
    m.payload(3, &member.info);
    m.payload(4, &member.channel_info);
}

#[cfg(test)]
mod tests;
