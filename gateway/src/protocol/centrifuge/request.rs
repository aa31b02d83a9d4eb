//! Makes a [`Command`] of the fields of a message, for every encoding: what becomes of each field.
//!
//! Fields that the protocol does not know are ignored, so that client libraries may be newer than the
//! gateway. Each field of the protocol is applied, accepted without effect, or refused; a field that would
//! change the meaning of a command is never ignored. A command with several requests is malformed.
//!
//! | | applied | accepted without effect | refused with error 107 (`type`: 108) unless it has a zero value |
//! |---|---|---|---|
//! | `connect` | `token`, `data`, `subs`; `name` and `version`, which backends see | `flag`, `profile` and `dict`, which offer compression | `headers` |
//! | `subscribe` and each of `connect.subs` | `channel`, `token`, `recover`, `epoch`, `offset`, `data`, `join_leave`; of `flag` the bit 2; `delta`, in namespaces with `delta`; `tf` of `subscribe` alone, in namespaces with `tag_filter` | `positioned` and `recoverable`: the channel decides, and the reply says so; of `flag` the bit 1, which offers numbers for names; other formats of `delta` | `type`, `phase`, `cursor`, `limit`, `asc`; `tf` of `connect.subs` |
//! | `publish` | `channel`, `data` | | `type`, `key`, `removed` |
//! | `history` | `channel`, `limit`, `since`, `reverse` | | |
//! | `sub_refresh` | `channel`, `token` | | `type`, `track`, `untrack` |
//! | `rpc`, `send`, `refresh`, `unsubscribe`, `presence`, `presence_stats` | all | | |
//! | `ping` | | | the command, with error 108 |

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::command::{self, Command, HistoryQuery, Malformed, Position, Request};
use crate::protocol::filter::{InvalidFilter, TagFilter};
use crate::protocol::json::{NotJson, Unfit};

/// A text, borrowed from the message if the encoding permits it.
pub(super) type Text<'a> = Cow<'a, str>;

/// A payload as a slice of the message, empty for none; an error if no receiver should have to parse it.
pub(super) type Payload = Result<Bytes, Unfit>;

/// A decoded command. Each method takes the fields of one request out of it; `None` if it is absent.
pub(super) trait Fields<'a> {
    /// 0 for none.
    fn id(&self) -> u32;
    /// How many requests there are, repeated ones included.
    fn requests(&self) -> usize;
    fn connect(&mut self) -> Option<Connect<'a>>;
    fn subscribe(&mut self) -> Option<Subscribe<'a>>;
    /// The channel.
    fn unsubscribe(&mut self) -> Option<Text<'a>>;
    fn publish(&mut self) -> Option<Publish<'a>>;
    /// The channel.
    fn presence(&mut self) -> Option<Text<'a>>;
    /// The channel.
    fn presence_stats(&mut self) -> Option<Text<'a>>;
    fn history(&mut self) -> Option<History<'a>>;
    fn has_ping(&self) -> bool;
    fn send(&mut self) -> Option<Payload>;
    /// The method and its argument.
    fn rpc(&mut self) -> Option<(Text<'a>, Payload)>;
    /// The token.
    fn refresh(&mut self) -> Option<Text<'a>>;
    fn sub_refresh(&mut self) -> Option<SubRefresh<'a>>;
}

/// The connect request. A `bool` for each field that is refused: whether it is set.
pub(super) struct Connect<'a> {
    pub(super) token: Text<'a>,
    pub(super) data: Payload,
    pub(super) name: Text<'a>,
    pub(super) version: Text<'a>,
    pub(super) headers: bool,
    /// By channel. Decoded one by one, because only those that recover or apply deltas are kept.
    pub(super) subs: Box<dyn Iterator<Item = Result<(Text<'a>, Subscribe<'a>), Malformed>> + 'a>,
}

/// The subscribe request. A `bool` for each field that is refused: whether it is set.
pub(super) struct Subscribe<'a> {
    pub(super) channel: Text<'a>,
    pub(super) token: Text<'a>,
    pub(super) recover: bool,
    pub(super) epoch: Text<'a>,
    pub(super) offset: u64,
    pub(super) join_leave: bool,
    pub(super) data: Payload,
    pub(super) flag: i64,
    /// A format; empty for none.
    pub(super) delta: Text<'a>,
    pub(super) tf: Option<Result<TagFilter, InvalidFilter>>,
    pub(super) kind: bool,
    pub(super) phase: bool,
    pub(super) cursor: bool,
    pub(super) limit: bool,
    pub(super) asc: bool,
}

/// The publish request. A `bool` for each field that is refused: whether it is set.
pub(super) struct Publish<'a> {
    pub(super) channel: Text<'a>,
    pub(super) data: Payload,
    pub(super) kind: bool,
    pub(super) key: bool,
    pub(super) removed: bool,
}

/// The history request.
pub(super) struct History<'a> {
    pub(super) channel: Text<'a>,
    pub(super) limit: i64,
    /// Offset and epoch.
    pub(super) since: Option<(u64, Text<'a>)>,
    pub(super) reverse: bool,
}

/// The request to extend a subscription. A `bool` for each field that is refused: whether it is set.
pub(super) struct SubRefresh<'a> {
    pub(super) channel: Text<'a>,
    pub(super) token: Text<'a>,
    pub(super) kind: bool,
    pub(super) track: bool,
    pub(super) untrack: bool,
}

/// The bit of `subscribe.flag` that requests error 112.
const FLAG_REJECT_UNRECOVERED: i64 = 2;

/// Why fields make no request.
enum Invalid {
    /// The client gets an error.
    Refused(ReplyError),
    /// The connection is closed.
    Malformed(Malformed),
}

impl From<ReplyError> for Invalid {
    fn from(error: ReplyError) -> Self {
        Self::Refused(error)
    }
}

impl From<Malformed> for Invalid {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<Unfit> for Invalid {
    fn from(unfit: Unfit) -> Self {
        Self::Refused(ReplyError::BAD_REQUEST.because(format!("a payload is {}", NotJson::from(unfit))))
    }
}

/// The command of these fields.
pub(super) fn command<'a>(mut fields: impl Fields<'a>) -> Result<Command, Malformed> {
    if fields.requests() > 1 {
        return Err(Malformed::SeveralRequests);
    }
    let id = fields.id();
    let (connect, request) = match fields.connect() {
        Some(connect) => (true, self::connect(connect)),
        None => (false, other_request(fields)),
    };
    match request {
        Ok(request) => Ok(Command { id, request }),
        Err(Invalid::Refused(why)) => Ok(Command { id, request: Request::Refused { connect, why } }),
        Err(Invalid::Malformed(malformed)) => Err(malformed),
    }
}

fn connect(fields: Connect<'_>) -> Result<Request, Invalid> {
    offered("connect", [("headers", fields.headers)])?;
    let (mut positions, mut deltas) = (BTreeMap::new(), BTreeSet::new());
    for sub in fields.subs {
        let (name, sub) = sub?;
        is_offered("connect.subs", &sub, sub.tf.is_some())?;
        let delta = is_applied(&sub.delta);
        if !sub.recover && positions.is_empty() && !delta && deltas.is_empty() {
            continue;
        }
        // An invalid channel name has no subscribers.
        let Ok(channel) = Channel::parse(&name) else { continue };
        // The last entry of a channel counts.
        if delta {
            deltas.insert(channel.clone());
        } else {
            deltas.remove(&channel);
        }
        if sub.recover {
            positions.insert(channel, position(sub.offset, sub.epoch));
        } else {
            positions.remove(&channel);
        }
    }
    let (token, data) = (fields.token.into(), fields.data?);
    let (positions, deltas) = (positions.into_iter().collect(), deltas.into_iter().collect());
    let software = command::Software { name: fields.name.into(), version: fields.version.into() };
    Ok(Request::Connect(command::Connect { token, data, positions, deltas, software }))
}

fn other_request<'a>(mut fields: impl Fields<'a>) -> Result<Request, Invalid> {
    let channel = |name: Text<'_>| Channel::parse_subscription(&name);
    Ok(if let Some(subscribe) = fields.subscribe() {
        self::subscribe(subscribe)?
    } else if let Some(name) = fields.unsubscribe() {
        Request::Unsubscribe { channel: channel(name) }
    } else if let Some(Publish { channel: name, data, kind, key, removed }) = fields.publish() {
        offered("publish", [("type", kind), ("key", key), ("removed", removed)])?;
        // Nothing is published to a pattern.
        Request::Publish { data: data?, channel: Channel::parse(&name) }
    } else if let Some(name) = fields.presence() {
        Request::Presence { channel: channel(name) }
    } else if let Some(name) = fields.presence_stats() {
        Request::PresenceStats { channel: channel(name) }
    } else if let Some(History { channel: name, limit, since, reverse }) = fields.history() {
        let since = since.map(|(offset, epoch)| position(offset, epoch));
        Request::History { channel: channel(name), query: HistoryQuery { limit, since, reverse } }
    } else if fields.has_ping() {
        return Err(ReplyError::NOT_AVAILABLE.into());
    } else if let Some(data) = fields.send() {
        // There is no reply that could carry an error.
        Request::Send { data: data.map_err(Malformed::Payload)? }
    } else if let Some((method, data)) = fields.rpc() {
        Request::Rpc { data: data?, method: method.into() }
    } else if let Some(token) = fields.refresh() {
        Request::Refresh { token: token.into() }
    } else if let Some(SubRefresh { channel: name, token, kind, track, untrack }) = fields.sub_refresh() {
        offered("sub_refresh", [("type", kind), ("track", track), ("untrack", untrack)])?;
        Request::SubRefresh { channel: channel(name), token: token.into() }
    } else if fields.id() == 0 {
        Request::Pong
    } else {
        return Err(Malformed::NoRequest.into());
    })
}

fn subscribe(fields: Subscribe<'_>) -> Result<Request, Invalid> {
    is_offered("subscribe", &fields, false)?;
    let filter = fields
        .tf
        .transpose()
        .map_err(|invalid| ReplyError::BAD_REQUEST.because(format!("`tf` of `subscribe` {invalid}")))?;
    Ok(Request::Subscribe(command::Subscribe {
        channel: Channel::parse_subscription(&fields.channel),
        token: fields.token.into(),
        join_leave: fields.join_leave,
        reject_unrecovered: fields.flag & FLAG_REJECT_UNRECOVERED != 0,
        data: fields.data?,
        delta: is_applied(&fields.delta),
        recover: fields.recover.then(|| position(fields.offset, fields.epoch)),
        filter: filter.map(Arc::new),
    }))
}

/// Whether this is the format of the deltas that the gateway makes. A client that names another one is
/// subscribed without deltas.
fn is_applied(delta: &str) -> bool {
    delta == "fossil"
}

fn position(offset: u64, epoch: Text<'_>) -> Position {
    // The default needs no memory.
    Position { offset, epoch: if epoch.is_empty() { Arc::default() } else { epoch.into() } }
}

/// Whether no field is set that is not offered. `tf` is whether the filter is such a field.
fn is_offered(command: &str, fields: &Subscribe<'_>, tf: bool) -> Result<(), ReplyError> {
    let Subscribe { kind, phase, cursor, limit, asc, .. } = *fields;
    offered(
        command,
        [("tf", tf), ("type", kind), ("phase", phase), ("cursor", cursor), ("limit", limit), ("asc", asc)],
    )
}

/// Whether none of these fields is set.
fn offered<const N: usize>(command: &str, fields: [(&str, bool); N]) -> Result<(), ReplyError> {
    fields.into_iter().find(|(_, set)| *set).map_or(Ok(()), |(name, _)| {
        // Belongs to another kind of subscription, with its own commands.
        let error = if name == "type" { ReplyError::NOT_AVAILABLE } else { ReplyError::BAD_REQUEST };
        Err(error.because(format!("`{name}` of `{command}` is not offered here")))
    })
}
