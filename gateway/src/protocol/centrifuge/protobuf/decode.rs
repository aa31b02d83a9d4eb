//! Decodes records of Protobuf, each after its length, into [`Command`]s.
//!
//! The structs are the request messages of the protocol's schema, as far as `request.rs` knows their fields;
//! the library skips all others. Of a field that is not offered, only whether it is set matters: a map among
//! them is read as bytes, and a list of empty items costs nothing. `connect.subs` is a map of any size, and
//! is decoded entry by entry; so is a filter, node by node, because structs would hold a large tree before
//! its bounds are known.
//!
//! The library merges a message that occurs twice, and takes the last of two values, as the encoding demands.
//! Of two filters the last one counts as well. Only a request that occurs twice is refused, as in JSON: no
//! client sends parts of a request.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use prost::{DecodeError, Message, decode_length_delimiter};

use crate::protocol::centrifuge::request::{
    self, Connect, Fields, History, Payload, Publish, SubRefresh, Subscribe,
};
use crate::protocol::command::{Command, Malformed};
use crate::protocol::emulation::EmulationRequest;
use crate::protocol::filter::{self, InvalidFilter, TagFilter};

/// Takes the next command from a message; `None` at its end. Payloads are slices of the message.
pub(in crate::protocol) fn next_command(message: &mut Bytes) -> Option<Result<Command, Malformed>> {
    message.has_remaining().then(|| request::command(Decoded::of(take_record(message)?)?))
}

/// The fields of an emulation request.
pub(in crate::protocol) fn emulation(body: Bytes) -> Result<EmulationRequest, Malformed> {
    let WireEmulation { node, session, data } = WireEmulation::decode(body)?;
    Ok(EmulationRequest { node: node.into(), session: session.into(), data })
}

/// Takes what follows its own length.
fn take_record(bytes: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = decode_length_delimiter(&mut *bytes)?;
    if len > bytes.len() { Err(Malformed::Syntax) } else { Ok(bytes.split_to(len)) }
}

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self::Syntax
    }
}

/// The tags of the requests in a [`WireCommand`].
const REQUEST_TAGS: RangeInclusive<u32> = 4..=15;

#[derive(Clone, PartialEq, prost::Message)]
struct WireCommand {
    #[prost(uint32, tag = "1")]
    id: u32,
    /// A [`WireConnect`].
    #[prost(bytes = "bytes", optional, tag = "4")]
    connect: Option<Bytes>,
    #[prost(message, optional, tag = "5")]
    subscribe: Option<WireSubscribe>,
    #[prost(message, optional, tag = "6")]
    unsubscribe: Option<WireChannel>,
    #[prost(message, optional, tag = "7")]
    publish: Option<WirePublish>,
    #[prost(message, optional, tag = "8")]
    presence: Option<WireChannel>,
    #[prost(message, optional, tag = "9")]
    presence_stats: Option<WireChannel>,
    #[prost(message, optional, tag = "10")]
    history: Option<WireHistory>,
    #[prost(message, optional, tag = "11")]
    ping: Option<WirePing>,
    #[prost(message, optional, tag = "12")]
    send: Option<WireData>,
    #[prost(message, optional, tag = "13")]
    rpc: Option<WireRpc>,
    #[prost(message, optional, tag = "14")]
    refresh: Option<WireToken>,
    #[prost(message, optional, tag = "15")]
    sub_refresh: Option<WireSubRefresh>,
}

/// The connect request without `subs`, see [`Subs`].
#[derive(Clone, PartialEq, prost::Message)]
struct WireConnect {
    #[prost(string, tag = "1")]
    token: String,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "5")]
    version: String,
    /// One entry of a map.
    #[prost(bytes = "bytes", optional, tag = "6")]
    headers: Option<Bytes>,
}

/// An entry of `connect.subs`.
#[derive(Clone, PartialEq, prost::Message)]
struct WireSub {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(message, optional, tag = "2")]
    subscribe: Option<WireSubscribe>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSubscribe {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(string, tag = "2")]
    token: String,
    #[prost(bool, tag = "3")]
    recover: bool,
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(uint64, tag = "7")]
    offset: u64,
    #[prost(bytes = "bytes", tag = "8")]
    data: Bytes,
    #[prost(bool, tag = "11")]
    join_leave: bool,
    #[prost(string, tag = "12")]
    delta: String,
    /// A filter, which contains itself: see [`filter_node`].
    #[prost(bytes = "bytes", tag = "13")]
    tf: Bytes,
    #[prost(int64, tag = "14")]
    flag: i64,
    #[prost(int32, tag = "15")]
    kind: i32,
    #[prost(int32, tag = "16")]
    phase: i32,
    #[prost(string, tag = "17")]
    cursor: String,
    #[prost(int32, tag = "18")]
    limit: i32,
    #[prost(bool, tag = "19")]
    asc: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireChannel {
    #[prost(string, tag = "1")]
    channel: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePublish {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(string, tag = "4")]
    key: String,
    #[prost(bool, tag = "5")]
    removed: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireHistory {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(int32, tag = "7")]
    limit: i32,
    #[prost(message, optional, tag = "8")]
    since: Option<WirePosition>,
    #[prost(bool, tag = "9")]
    reverse: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePosition {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(string, tag = "2")]
    epoch: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePing {}

#[derive(Clone, PartialEq, prost::Message)]
struct WireData {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRpc {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
    #[prost(string, tag = "2")]
    method: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireToken {
    #[prost(string, tag = "1")]
    token: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireEmulation {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(string, tag = "2")]
    session: String,
    #[prost(bytes = "bytes", tag = "3")]
    data: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSubRefresh {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(string, tag = "2")]
    token: String,
    #[prost(int32, tag = "3")]
    kind: i32,
    /// One item of a list.
    #[prost(bytes = "bytes", optional, tag = "4")]
    track: Option<Bytes>,
    /// One item of a list.
    #[prost(bytes = "bytes", optional, tag = "5")]
    untrack: Option<Bytes>,
}

/// The field of [`Subs`] in a connect request.
const SUBS_TAG: u32 = 3;

/// The entries of `subs` in the bytes of a connect request that was decoded before, one after the other.
struct Subs(Bytes);

impl Subs {
    /// The next entry; the library skips all other fields.
    fn take(&mut self) -> Result<Option<WireSub>, Malformed> {
        while self.0.has_remaining() {
            let (tag, wire_type) = decode_key(&mut self.0)?;
            match (tag, wire_type) {
                (SUBS_TAG, WireType::LengthDelimited) => {
                    return Ok(Some(WireSub::decode(take_record(&mut self.0)?)?));
                }
                (SUBS_TAG, _) => return Err(Malformed::Syntax),
                _ => skip_field(wire_type, tag, &mut self.0, DecodeContext::default())?,
            }
        }
        Ok(None)
    }
}

impl Iterator for Subs {
    type Item = Result<(Cow<'static, str>, Subscribe<'static>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let sub = self.take().transpose()?;
        Some(
            sub.map(|WireSub { channel, subscribe: sub }| {
                (channel.into(), subscribe(sub.unwrap_or_default()))
            }),
        )
    }
}

/// The fields of a command.
struct Decoded {
    wire: WireCommand,
    connect: Option<Connect<'static>>,
    requests: usize,
}

impl Decoded {
    /// Decodes a record field by field, as the library does, and counts the requests.
    fn of(mut record: Bytes) -> Result<Self, Malformed> {
        let (mut wire, mut requests) = (WireCommand::default(), 0);
        while record.has_remaining() {
            let (tag, wire_type) = decode_key(&mut record)?;
            requests += usize::from(REQUEST_TAGS.contains(&tag));
            wire.merge_field(tag, wire_type, &mut record, DecodeContext::default())?;
        }
        let connect = wire.connect.take().map(connect).transpose()?;
        Ok(Self { wire, connect, requests })
    }
}

impl Fields<'static> for Decoded {
    fn id(&self) -> u32 {
        self.wire.id
    }

    fn requests(&self) -> usize {
        self.requests
    }

    fn connect(&mut self) -> Option<Connect<'static>> {
        self.connect.take()
    }

    fn subscribe(&mut self) -> Option<Subscribe<'static>> {
        self.wire.subscribe.take().map(subscribe)
    }

    fn unsubscribe(&mut self) -> Option<Cow<'static, str>> {
        channel(&mut self.wire.unsubscribe)
    }

    fn publish(&mut self) -> Option<Publish<'static>> {
        let wire = self.wire.publish.take()?;
        Some(Publish {
            channel: wire.channel.into(),
            data: Ok(wire.data),
            kind: wire.kind != 0,
            key: !wire.key.is_empty(),
            removed: wire.removed,
        })
    }

    fn presence(&mut self) -> Option<Cow<'static, str>> {
        channel(&mut self.wire.presence)
    }

    fn presence_stats(&mut self) -> Option<Cow<'static, str>> {
        channel(&mut self.wire.presence_stats)
    }

    fn history(&mut self) -> Option<History<'static>> {
        let wire = self.wire.history.take()?;
        Some(History {
            channel: wire.channel.into(),
            limit: wire.limit.into(),
            since: wire.since.map(|since| (since.offset, since.epoch.into())),
            reverse: wire.reverse,
        })
    }

    fn has_ping(&self) -> bool {
        self.wire.ping.is_some()
    }

    fn send(&mut self) -> Option<Payload> {
        Some(Ok(self.wire.send.take()?.data))
    }

    fn rpc(&mut self) -> Option<(Cow<'static, str>, Payload)> {
        let wire = self.wire.rpc.take()?;
        Some((wire.method.into(), Ok(wire.data)))
    }

    fn refresh(&mut self) -> Option<Cow<'static, str>> {
        Some(self.wire.refresh.take()?.token.into())
    }

    fn sub_refresh(&mut self) -> Option<SubRefresh<'static>> {
        let wire = self.wire.sub_refresh.take()?;
        Some(SubRefresh {
            channel: wire.channel.into(),
            token: wire.token.into(),
            kind: wire.kind != 0,
            track: wire.track.is_some(),
            untrack: wire.untrack.is_some(),
        })
    }
}

fn connect(bytes: Bytes) -> Result<Connect<'static>, DecodeError> {
    let wire = WireConnect::decode(bytes.clone())?;
    Ok(Connect {
        token: wire.token.into(),
        data: Ok(wire.data),
        name: wire.name.into(),
        version: wire.version.into(),
        headers: wire.headers.is_some(),
        subs: Box::new(Subs(bytes)),
    })
}

fn channel(wire: &mut Option<WireChannel>) -> Option<Cow<'static, str>> {
    Some(wire.take()?.channel.into())
}

fn subscribe(wire: WireSubscribe) -> Subscribe<'static> {
    Subscribe {
        channel: wire.channel.into(),
        token: wire.token.into(),
        recover: wire.recover,
        epoch: wire.epoch.into(),
        offset: wire.offset,
        join_leave: wire.join_leave,
        data: Ok(wire.data),
        flag: wire.flag,
        delta: wire.delta.into(),
        tf: (!wire.tf.is_empty()).then(|| filter(wire.tf)),
        kind: wire.kind != 0,
        phase: wire.phase != 0,
        cursor: !wire.cursor.is_empty(),
        limit: wire.limit != 0,
        asc: wire.asc,
    }
}

fn filter(root: Bytes) -> Result<TagFilter, InvalidFilter> {
    let bytes = root.len();
    TagFilter::read(root, bytes, |node, most| filter_node(node, most).unwrap_or(Err(InvalidFilter::Type)))
}

/// The fields of a node of a filter, with at most this many values and children. The outer error is that of
/// the encoding.
fn filter_node(
    mut node: Bytes,
    most: usize,
) -> Result<Result<filter::Fields<'static, Bytes>, InvalidFilter>, Malformed> {
    let mut fields = filter::Fields::default();
    while node.has_remaining() {
        let (tag, wire_type) = decode_key(&mut node)?;
        if !(1..=6).contains(&tag) {
            skip_field(wire_type, tag, &mut node, DecodeContext::default())?;
            continue;
        }
        if wire_type != WireType::LengthDelimited {
            return Err(Malformed::Syntax);
        }
        let value = take_record(&mut node)?;
        if tag > 4 && fields.vals.len() + fields.nodes.len() >= most {
            return Ok(Err(InvalidFilter::TooMany));
        }
        let text = |value: Bytes| match std::str::from_utf8(&value) {
            Ok(text) => Ok(Cow::Owned(text.to_owned())),
            Err(_) => Err(Malformed::Syntax),
        };
        match tag {
            1 => fields.op = text(value)?,
            2 => fields.key = text(value)?,
            3 => fields.cmp = text(value)?,
            4 => fields.val = text(value)?,
            5 => fields.vals.push(text(value)?),
            _ => fields.nodes.push(value),
        }
    }
    Ok(Ok(fields))
}

#[cfg(test)]
mod tests;
