//! Encodes [`Reply`] and [`Push`] as JSON.
//!
//! Written by hand: payloads are already JSON, validated on arrival, and serde would parse each of them once
//! more to embed it.
//!
//! A field with a zero value (0, "", false, an empty list or map) is left out. Exceptions are the fields that
//! the protocol always sends and that client libraries require: `user` and `client` of a client info,
//! `presence`, `num_clients` and `num_users`, and `publications`, `epoch` and `offset` of a history.

use std::fmt::{Display, Write as _};

use crate::protocol::centrifuge::VERSION;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::json;
use crate::protocol::push::{Member, Publication, Push, PushKind, json_text};
use crate::protocol::reply::{Connected, Done, Reply, Subscribed};

/// Writes one object; each field writes its own comma.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

/// How the payload of a publication is written.
#[derive(Debug, Clone, Copy)]
pub(in crate::protocol) enum Data<'a> {
    /// As the JSON that it is.
    Value,
    /// As a string of its JSON, for a client that applies deltas.
    Text,
    /// As a string of this delta, which is UTF-8 because the JSON is.
    Delta(&'a [u8]),
}

/// Adapter that formats numbers into the buffer without a string in between.
struct Append<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Append<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn object(out: &mut Vec<u8>, fields: impl FnOnce(&mut Object<'_>)) {
    out.push(b'{');
    fields(&mut Object { out, empty: true });
    out.push(b'}');
}

/// A JSON string, escaped.
fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
}

impl Object<'_> {
    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn number<N: Display + Default + PartialEq + Copy>(&mut self, key: &str, value: N) {
        if value != N::default() {
            self.number_always(key, value);
        }
    }

    fn string(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.string_always(key, value);
        }
    }

    /// Also zero.
    fn number_always(&mut self, key: &str, value: impl Display) {
        let out = self.key(key);
        write!(Append(out), "{value}").expect("writing to memory cannot fail");
    }

    /// Also an empty one.
    fn string_always(&mut self, key: &str, value: &str) {
        string(self.key(key), value);
    }

    /// A text under a key from outside.
    fn text(&mut self, key: &str, value: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        string(self.out, key);
        self.out.push(b':');
        string(self.out, value);
    }

    fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.key(key).extend_from_slice(b"true");
        }
    }

    /// JSON that was validated on arrival.
    fn json(&mut self, key: &str, value: &[u8]) {
        if !value.is_empty() {
            self.key(key).extend_from_slice(value);
        }
    }

    fn object(&mut self, key: &str, fields: impl FnOnce(&mut Object<'_>)) {
        object(self.key(key), fields);
    }

    /// A list of objects. Empty lists are written too.
    fn list_always<T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
        each: impl Fn(&mut Object<'_>, T),
    ) {
        let out = self.key(key);
        out.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            object(out, |object| each(object, item));
        }
        out.push(b']');
    }

    /// A map from text to objects. Empty maps are written too: `presence` without members is `{}`.
    fn map<K: AsRef<str>, T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = (K, T)>,
        each: impl Fn(&mut Object<'_>, T),
    ) {
        let out = self.key(key);
        out.push(b'{');
        for (index, (name, item)) in items.into_iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            string(out, name.as_ref());
            out.push(b':');
            object(out, |object| each(object, item));
        }
        out.push(b'}');
    }
}

/// One reply or one push to a single client.
pub(in crate::protocol) fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    object(out, |o| match reply {
        Reply::Error { id, error } => {
            o.number("id", *id);
            o.object("error", |o| error_fields(o, error));
        }
        Reply::Connected { id, result } => {
            o.number("id", *id);
            o.object("connect", |o| connected(o, result));
        }
        Reply::Subscribed { id, result } => {
            o.number("id", *id);
            o.object("subscribe", |o| subscribed(o, result));
        }
        Reply::Done { id, what } => {
            o.number("id", *id);
            let key = match what {
                Done::Unsubscribe => "unsubscribe",
                Done::Publish => "publish",
            };
            o.object(key, |_| ());
        }
        Reply::Presence { id, members } => {
            o.number("id", *id);
            o.object("presence", |o| {
                o.map("presence", members.iter().map(|member| (&*member.client, &**member)), member_fields);
            });
        }
        Reply::PresenceStats { id, clients, users } => {
            o.number("id", *id);
            o.object("presence_stats", |o| {
                o.number_always("num_clients", *clients);
                o.number_always("num_users", *users);
            });
        }
        Reply::History { id, publications, offset, epoch } => {
            o.number("id", *id);
            o.object("history", |o| {
                o.list_always("publications", publications, |o, publication| {
                    publication_fields(o, publication, Data::Value)
                });
                o.string_always("epoch", epoch);
                o.number_always("offset", *offset);
            });
        }
        Reply::Rpc { id, data } => {
            o.number("id", *id);
            o.object("rpc", |o| o.json("data", data));
        }
        Reply::Refreshed { id, client, ttl } => {
            o.number("id", *id);
            o.object("refresh", |o| {
                o.string("client", client);
                o.string("version", VERSION);
                expiry(o, *ttl);
            });
        }
        Reply::SubRefreshed { id, ttl } => {
            o.number("id", *id);
            o.object("sub_refresh", |o| expiry(o, *ttl));
        }
        Reply::Ping => (),
        Reply::Message { .. }
        | Reply::SubscribedByServer { .. }
        | Reply::RefreshedByServer { .. }
        | Reply::UnsubscribedByServer { .. }
        | Reply::Disconnected { .. } => o.object("push", |o| event_fields(o, reply)),
        // Belongs to the raw protocol: `codec` never passes it to this function.
        Reply::Raw { .. } => (),
    });
}

/// One event for a single client that only listens.
pub(in crate::protocol) fn encode_event(reply: &Reply, out: &mut Vec<u8>) {
    object(out, |o| event_fields(o, reply));
}

/// One event of a channel.
pub(in crate::protocol) fn encode_push(push: &Push, data: Data<'_>, out: &mut Vec<u8>) {
    object(out, |o| o.object("push", |o| push_fields(o, push, data)));
}

/// One event of a channel, for clients that only listen.
pub(in crate::protocol) fn encode_push_event(push: &Push, data: Data<'_>, out: &mut Vec<u8>) {
    object(out, |o| push_fields(o, push, data));
}

/// A message to the client itself.
pub(in crate::protocol) fn encode_message(publication: &Publication, out: &mut Vec<u8>) {
    object(out, |o| o.object("push", |o| message_fields(o, publication)));
}

/// A message to the client itself, if it only listens.
pub(in crate::protocol) fn encode_message_event(publication: &Publication, out: &mut Vec<u8>) {
    object(out, |o| message_fields(o, publication));
}

/// The fields of the `push` that tells a client about something that it did not ask for. None for a ping, and
/// for a reply: clients that only listen ask for nothing but to connect.
fn event_fields(o: &mut Object<'_>, reply: &Reply) {
    match reply {
        Reply::Connected { result, .. } => o.object("connect", |o| connected(o, result)),
        Reply::Message { data } => o.object("message", |o| o.json("data", data)),
        Reply::SubscribedByServer { channel, result } => {
            o.string("channel", channel.as_str());
            o.object("subscribe", |o| {
                o.flag("recoverable", result.recoverable);
                o.string("epoch", &result.epoch);
                o.number("offset", result.offset);
                o.flag("positioned", result.positioned);
                o.json("data", &result.data);
            });
        }
        Reply::RefreshedByServer { ttl } => o.object("refresh", |o| expiry(o, *ttl)),
        Reply::UnsubscribedByServer { channel, why } => {
            o.string("channel", channel.as_str());
            o.object("unsubscribe", |o| {
                o.number("code", why.code);
                o.string("reason", &why.reason);
            });
        }
        Reply::Disconnected { close } => o.object("disconnect", |o| {
            o.number("code", close.code);
            o.string("reason", &close.reason);
        }),
        Reply::Ping
        | Reply::Raw { .. }
        | Reply::Error { .. }
        | Reply::Subscribed { .. }
        | Reply::Done { .. }
        | Reply::Presence { .. }
        | Reply::PresenceStats { .. }
        | Reply::History { .. }
        | Reply::Rpc { .. }
        | Reply::Refreshed { .. }
        | Reply::SubRefreshed { .. } => (),
    }
}

fn push_fields(o: &mut Object<'_>, push: &Push, data: Data<'_>) {
    o.string("channel", push.channel.as_str());
    match &push.kind {
        PushKind::Publication { publication, .. } => {
            o.object("pub", |o| {
                publication_fields(o, publication, data);
                o.string("channel", push.published_in.as_ref().map_or("", Channel::as_str));
            });
        }
        PushKind::Join(member) => o.object("join", |o| o.object("info", |o| member_fields(o, member))),
        PushKind::Leave(member) => o.object("leave", |o| o.object("info", |o| member_fields(o, member))),
    }
}

fn message_fields(o: &mut Object<'_>, publication: &Publication) {
    o.object("message", |o| payload(o, publication));
}

/// The payload of a client that does not use JSON may be any bytes. If it is not JSON it is sent as a string.
fn payload(o: &mut Object<'_>, publication: &Publication) {
    if publication.json {
        o.json("data", &publication.data);
    } else {
        o.string_always("data", &json::string_of(&publication.data));
    }
}

fn error_fields(o: &mut Object<'_>, error: &ReplyError) {
    o.number("code", error.code);
    o.string("message", &error.message);
    o.flag("temporary", error.temporary);
}

fn expiry(o: &mut Object<'_>, ttl: Option<u32>) {
    if let Some(ttl) = ttl {
        o.flag("expires", true);
        o.number("ttl", ttl);
    }
}

fn connected(o: &mut Object<'_>, result: &Connected) {
    o.string("client", &result.client);
    o.string("version", VERSION);
    expiry(o, result.ttl);
    o.json("data", &result.data);
    if !result.subscriptions.is_empty() {
        let subscriptions = result.subscriptions.iter().map(|(channel, result)| (channel.as_str(), result));
        o.map("subs", subscriptions, subscribed);
    }
    o.number("ping", result.ping);
    o.flag("pong", result.pong);
    if let Some(emulation) = &result.emulation {
        o.string("session", &emulation.session);
        o.string("node", &emulation.node);
    }
}

fn subscribed(o: &mut Object<'_>, result: &Subscribed) {
    expiry(o, result.ttl);
    o.flag("recoverable", result.recoverable);
    o.string("epoch", &result.epoch);
    if !result.publications.is_empty() {
        let data = if result.delta { Data::Text } else { Data::Value };
        o.list_always("publications", &result.publications, |o, publication| {
            publication_fields(o, publication, data)
        });
    }
    o.flag("recovered", result.recovered == Some(true));
    o.number("offset", result.offset);
    o.flag("positioned", result.positioned);
    o.json("data", &result.data);
    o.flag("was_recovering", result.recovered.is_some());
    o.flag("delta", result.delta);
}

fn publication_fields(o: &mut Object<'_>, publication: &Publication, data: Data<'_>) {
    match data {
        Data::Value => payload(o, publication),
        Data::Text => o.string_always("data", &json_text(&publication.data, publication.json)),
        Data::Delta(delta) => o.string_always("data", &json::string_of(delta)),
    }
    if let Some(member) = &publication.info {
        o.object("info", |o| member_fields(o, member));
    }
    o.number("offset", publication.offset);
    if let Some(tags) = &publication.tags {
        o.object("tags", |o| tags.iter().for_each(|(name, value)| o.text(name, value)));
    }
    o.flag("delta", matches!(data, Data::Delta(_)));
}

fn member_fields(o: &mut Object<'_>, member: &Member) {
    o.string_always("user", &member.user);
    o.string_always("client", &member.client);
    o.json("conn_info", &member.info);
    o.json("chan_info", &member.channel_info);
}

#[cfg(test)]
mod tests;
