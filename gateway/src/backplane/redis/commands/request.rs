//! A `Request` to Redis: how it becomes a command, and how its reply is read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};

use crate::backplane::redis::agreement::rules::Effective;
use crate::backplane::redis::format::keys::Keys;
use crate::backplane::redis::format::script::{self, Scripts};
use crate::backplane::redis::format::wire;
use crate::backplane::{
    Count, Idempotency, Most, Page, PublishConditions, Published, Recovery, Repeat, ReplyTo, Response,
    Retention, TOO_MANY_MEMBERS,
};
use crate::charge::Charge;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::ReplyError;
use crate::protocol::command::{HistoryQuery, Position};
use crate::protocol::push::{Member, Publication};

/// How much longer than its publications the position of a stream is kept: subscribers that still listen
/// would take a new stream for a loss.
const POSITION_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A queued request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) what: What,
    pub(crate) reply_to: ReplyTo,
    /// The request fails if it was not sent by then.
    pub(crate) until: Duration,
    /// Room among the pending requests and charge of the publisher, until the response.
    pub(crate) _charges: Charges,
}

/// Charges of the room for requests and of the publisher's account.
pub(crate) type Charges = [Option<Charge>; 2];

#[derive(Debug)]
pub(crate) enum What {
    /// Publish to a channel with history, or with conditions.
    Publish {
        channel: Channel,
        body: Vec<u8>,
        retention: Retention,
        /// It is for the subscribers of patterns, too.
        patterns: bool,
        /// It is kept at no gateway.
        skip_history: bool,
        conditions: Option<Box<PublishConditions>>,
    },
    /// Publish a whole message to the subscribers of a channel without history and conditions, or to every
    /// node.
    Spread {
        to: Option<Channel>,
        message: Vec<u8>,
        /// Whether it is a publication, and not another message to subscribers.
        publication: bool,
        /// It is for the subscribers of patterns, too.
        patterns: bool,
        /// It is kept at no gateway.
        skip_history: bool,
    },
    /// Read a part of a channel's history.
    History { channel: Channel, query: HistoryQuery, most: Most, retention: Retention },
    /// Remove the kept publications of a channel.
    RemoveHistory { channel: Channel },
    /// Read the publications a subscriber missed, or only the newest ones.
    Recover { channel: Channel, since: Option<Position>, latest: bool, most: Most, retention: Retention },
    /// List the members of a channel at these nodes, up to a bound.
    Presence { channel: Channel, nodes: Vec<Box<str>>, bytes_max: usize },
    /// Remove some members of a dead node from a channel: the response lists them, and no other gateway gets
    /// them.
    Take { channel: Channel, node: Box<str> },
    /// Count the members of a channel at these nodes, of which the first is this one. It has this many
    /// connections, and these users that may not have been written.
    Count { channel: Channel, nodes: Vec<Box<str>>, connections: usize, users: Vec<Box<str>> },
}

/// Why a response of Redis is not usable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// An error: its code and message.
    Server(Box<str>, Box<str>),
    /// A response that these scripts never give.
    Nonsense,
}

impl What {
    /// The channel whose shard gets it; `None` for the shared server.
    pub(crate) fn channel(&self) -> Option<&Channel> {
        match self {
            Self::Publish { channel, .. }
            | Self::History { channel, .. }
            | Self::RemoveHistory { channel }
            | Self::Recover { channel, .. }
            | Self::Presence { channel, .. }
            | Self::Take { channel, .. }
            | Self::Count { channel, .. } => Some(channel),
            Self::Spread { to, .. } => to.as_ref(),
        }
    }

    /// A publication that must be kept, although it was sent as one without history.
    fn kept(channel: Channel, message: &[u8], patterns: bool, retention: Retention) -> Self {
        let topic_of_channel = channel.target() == Target::Channel;
        let before = wire::unnumbered((!topic_of_channel).then_some(&channel), b"").len();
        let body = message.get(before..).unwrap_or_default().to_vec();
        Self::Publish { channel, body, retention, patterns, skip_history: false, conditions: None }
    }

    /// Applies the rules in use to the request.
    pub(crate) fn adapt(&mut self, rules: &Effective) {
        match self {
            Self::Publish { channel, retention, skip_history, conditions, .. } => {
                if !*skip_history {
                    rules.retention(channel, retention);
                }
                if let Some(once) = conditions.as_mut().and_then(|conditions| conditions.idempotency.as_mut())
                {
                    once.ttl = rules.key_ttl(channel, once.ttl);
                }
            }
            Self::History { channel, retention, .. } | Self::Recover { channel, retention, .. } => {
                rules.retention(channel, retention);
            }
            Self::Spread { to: Some(channel), message, publication: true, patterns, skip_history: false } => {
                let mut retention = Retention { size: 0, ttl: Duration::ZERO, replicas: 0 };
                rules.retention(channel, &mut retention);
                if retention.size > 0 {
                    *self = Self::kept(channel.clone(), message, *patterns, retention);
                }
            }
            _ => (),
        }
    }

    /// Topic of [`What::Spread`].
    pub(crate) fn topic(to: Option<&Channel>, keys: &Keys) -> String {
        to.map_or_else(|| keys.nodes().to_owned(), |channel| keys.topic(channel))
    }

    /// Maximum bytes of publications or members in its response.
    pub(crate) fn answer_bytes_max(&self) -> usize {
        match self {
            Self::History { most, .. } | Self::Recover { most, since: Some(_), .. } => most.bytes,
            Self::Presence { bytes_max, .. } => *bytes_max,
            _ => 0,
        }
    }

    /// Builds the command. `server` is the identity whose streams continue (see
    /// [`Identity`](crate::backplane::redis::topology::Identity)), `anchor` the key of its anchor, and
    /// `fresh` an epoch for a new stream.
    pub(crate) fn command(
        &self,
        keys: &Keys,
        scripts: &Scripts,
        server: &str,
        anchor: &str,
        fresh: &str,
    ) -> Cmd {
        let with_streams = |sha: &str, channel: &Channel, third: Option<String>, retention: &Retention| {
            let mut command = redis::cmd("EVALSHA");
            command.arg(sha).arg(2 + usize::from(third.is_some()));
            command.arg(keys.stream(channel)).arg(keys.top(channel)).arg(third);
            command.arg(server).arg(fresh).arg(retention.size).arg(millis(retention.ttl));
            command.arg(millis(position_kept(retention))).arg(anchor);
            command
        };
        match self {
            Self::Publish { channel, body, retention, patterns, conditions, .. } => {
                let once = conditions.as_ref().and_then(|conditions| conditions.idempotency.as_ref());
                let shard_index = once.map(|once| keys.once(channel, &once.key));
                let mut command = with_streams(&scripts.publish, channel, shard_index, retention);
                let topic = keys.topic(channel);
                let address = (topic == keys.nodes()).then_some(channel);
                command.arg(body).arg(topic).arg(wire::head(address));
                match keys.feed_topic(channel).filter(|_| *patterns) {
                    Some(feed) => command.arg(feed).arg(wire::head(Some(channel))),
                    None => command.arg("").arg(""),
                };
                if let Some(conditions) = conditions {
                    command.arg(once.map_or(0, |once| millis(once.ttl)));
                    match &conditions.version {
                        Some(version) => command.arg(format!("{:020}", version.number)).arg(&*version.epoch),
                        None => command.arg("").arg(""),
                    };
                }
                command
            }
            Self::Spread { to, message, patterns, .. } => {
                let topic = Self::topic(to.as_ref(), keys);
                let feed = to.as_ref().filter(|_| *patterns).and_then(|channel| keys.feed_topic(channel));
                let Some(feed) = feed else {
                    let mut command = redis::cmd(scripts.publish_verb);
                    command.arg(topic).arg(message);
                    return command;
                };
                let (head, rest) = wire::split(message);
                let mut command = redis::cmd("EVALSHA");
                command.arg(&scripts.spread).arg(1).arg(topic);
                command.arg(head).arg(feed).arg(wire::head(to.as_ref())).arg(rest);
                command
            }
            // The position is another key: what is not kept any more is found to be missing by it.
            Self::RemoveHistory { channel } => {
                let mut command = redis::cmd("UNLINK");
                command.arg(keys.stream(channel));
                command
            }
            Self::Presence { channel, nodes, bytes_max } => {
                let mut command = redis::cmd("EVALSHA");
                command.arg(&scripts.presence_read).arg(nodes.len());
                for node in nodes {
                    command.arg(keys.presence(channel, node));
                }
                command.arg(script::LISTED_MAX.min(bytes_max / script::LISTED_BYTES));
                command
            }
            Self::Take { channel, node } => {
                let mut command = redis::cmd("EVALSHA");
                command.arg(&scripts.presence_take).arg(2);
                command.arg(keys.presence(channel, node)).arg(keys.users(channel, node));
                command.arg(script::TAKEN_MAX);
                command
            }
            Self::Count { channel, nodes, connections, users } => {
                let mut command = redis::cmd("EVALSHA");
                command.arg(&scripts.presence_count).arg(nodes.len() * 2);
                for node in nodes {
                    command.arg(keys.presence(channel, node)).arg(keys.users(channel, node));
                }
                command.arg(*connections);
                for user in users {
                    command.arg(&**user);
                }
                command
            }
            Self::Recover { channel, since, latest, most, retention } => {
                let mut command = with_streams(&scripts.recover, channel, None, retention);
                match since {
                    Some(since) => command.arg(since.offset).arg(&*since.epoch),
                    None => command.arg("").arg(""),
                };
                command.arg(most.publications).arg(most.bytes).arg(u8::from(*latest));
                command
            }
            Self::History { channel, query, most, retention } => {
                let mut command = with_streams(&scripts.history, channel, None, retention);
                match &query.since {
                    Some(since) => command.arg(since.offset).arg(&*since.epoch),
                    None => command.arg("").arg(""),
                };
                let limit = usize::try_from(query.limit).unwrap_or(usize::MAX).min(most.publications);
                command.arg(limit).arg(most.bytes).arg(u8::from(query.reverse));
                command
            }
        }
    }

    /// Reads the reply.
    pub(crate) fn read(&self, reply: Value) -> Result<Response, Refusal> {
        if let Value::ServerError(error) = reply {
            return Err(Refusal::Server(error.code().into(), error.details().unwrap_or_default().into()));
        }
        let answer = match self {
            Self::Spread { .. } => {
                matches!(reply, Value::Int(_)).then(|| Response::Published(Ok(Published::default())))
            }
            Self::Publish { .. } => {
                published(reply, self.once().is_some()).map(|published| Response::Published(Ok(published)))
            }
            Self::RemoveHistory { .. } => {
                matches!(reply, Value::Int(_)).then_some(Response::HistoryRemoved(Ok(())))
            }
            Self::Presence { .. } => match reply {
                Value::Array(members) => Some(Response::Present(Ok(decoded(members)))),
                Value::Nil => {
                    let error = ReplyError::LIMIT_EXCEEDED.because(TOO_MANY_MEMBERS);
                    Some(Response::Present(Err(error)))
                }
                _ => None,
            },
            Self::Take { .. } => match reply {
                Value::Array(members) => Some(Response::Present(Ok(decoded(members)))),
                _ => None,
            },
            Self::Count { .. } => count(reply).map(|count| Response::Counted(Ok(count))),
            Self::Recover { .. } => stands(reply).and_then(|(top, entries)| {
                let missed = match entries {
                    Some(entries) => Some(publications(entries)?),
                    None => None,
                };
                Some(Response::Recovered(Ok(Recovery { missed, top })))
            }),
            Self::History { .. } => stands(reply).and_then(|(top, entries)| {
                Some(Response::History(match entries {
                    Some(entries) => Ok(Page { publications: publications(entries)?, top }),
                    None => Err(ReplyError::UNRECOVERABLE_POSITION),
                }))
            }),
        };
        answer.ok_or(Refusal::Nonsense)
    }

    /// The channel and the idempotency key of a publication.
    pub(crate) fn once(&self) -> Option<(&Channel, &Idempotency)> {
        match self {
            Self::Publish { channel, conditions: Some(conditions), .. } => {
                Some((channel, conditions.idempotency.as_ref()?))
            }
            _ => None,
        }
    }

    /// Number of replicas that must have the write.
    pub(crate) fn replicas(&self) -> u16 {
        match self {
            Self::Publish { retention, .. } if retention.size > 0 => retention.replicas,
            _ => 0,
        }
    }

    /// Whether a node without Redis cannot carry it out.
    pub(crate) fn needs_redis(&self) -> bool {
        !matches!(self, Self::Spread { .. })
    }

    /// Whether it changes something that subscribers see.
    pub(crate) fn publishes(&self) -> bool {
        matches!(self, Self::Publish { .. } | Self::Spread { .. })
    }

    /// The response for a failed request.
    pub(crate) fn failed(&self, error: ReplyError) -> Response {
        match self {
            Self::Publish { .. } | Self::Spread { .. } => Response::Published(Err(error)),
            Self::History { .. } => Response::History(Err(error)),
            Self::Recover { .. } => Response::Recovered(Err(error)),
            Self::Presence { .. } | Self::Take { .. } => Response::Present(Err(error)),
            Self::Count { .. } => Response::Counted(Err(error)),
            Self::RemoveHistory { .. } => Response::HistoryRemoved(Err(error)),
        }
    }
}

/// Decodes members. Invalid ones are left out.
fn decoded(values: Vec<Value>) -> Vec<Arc<Member>> {
    let member = |value| match value {
        Value::BulkString(bytes) => wire::read_member(&bytes.into()),
        _ => None,
    };
    values.into_iter().filter_map(member).collect()
}

/// How long the position of a stream is kept after its last publication.
pub(crate) fn position_kept(retention: &Retention) -> Duration {
    retention.ttl + POSITION_KEPT
}

/// Milliseconds, as the scripts use them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a publish reply. A third part means that nothing was published.
fn published(reply: Value, with_key: bool) -> Option<Published> {
    let Value::Array(mut parts) = reply else { return None };
    let (skipped, repeated, repeat) = match parts.get(2) {
        // The caller knows whether the server was replaced, and decides.
        None => (false, false, with_key.then_some(Repeat::Unsure)),
        Some(Value::Int(1)) => (true, false, None),
        Some(Value::Int(2)) => (false, true, None),
        Some(Value::Int(3)) => (false, true, Some(Repeat::Lost)),
        Some(_) => return None,
    };
    parts.truncate(2);
    let (top, _) = stands(Value::Array(parts))?;
    Some(Published { top, skipped, repeated, repeat })
}

fn count(reply: Value) -> Option<Count> {
    let Value::Array(parts) = reply else { return None };
    let [Value::Int(connections), Value::Int(users)] = parts[..] else { return None };
    Some(Count { connections: usize::try_from(connections).ok()?, users: usize::try_from(users).ok()? })
}

/// Reads a reply that starts with offset and epoch, and may have entries as its third part.
fn stands(reply: Value) -> Option<(Position, Option<Vec<Value>>)> {
    let Value::Array(parts) = reply else { return None };
    let mut parts = parts.into_iter();
    let (Value::Int(offset), Value::BulkString(epoch)) = (parts.next()?, parts.next()?) else { return None };
    let top =
        Position { offset: u64::try_from(offset).ok()?, epoch: Arc::from(std::str::from_utf8(&epoch).ok()?) };
    let entries = match parts.next() {
        Some(Value::Array(entries)) => Some(entries),
        Some(_) => return None,
        None => None,
    };
    Some((top, entries))
}

/// Reads entries of a stream: each has a name and fields, of which `d` is the body.
fn publications(entries: Vec<Value>) -> Option<Vec<Arc<Publication>>> {
    entries.into_iter().map(publication).collect()
}

fn publication(entry: Value) -> Option<Arc<Publication>> {
    let Value::Array(parts) = entry else { return None };
    let [Value::BulkString(name), Value::Array(fields)] = <[Value; 2]>::try_from(parts).ok()? else {
        return None;
    };
    // A later version may store more fields than the body.
    let mut fields = fields.into_iter();
    let body = loop {
        match (fields.next()?, fields.next()?) {
            (Value::BulkString(field), Value::BulkString(body)) if *field == *b"d" => break body,
            _ => (),
        }
    };
    let offset = std::str::from_utf8(&name).ok()?.split('-').next()?.parse().ok()?;
    wire::publication(offset, &Bytes::from(body))
}

/// Reads the reply to [`What::Recover`] without a position: the top of the stream.
pub(crate) fn top(reply: Value) -> Option<Position> {
    stands(reply).map(|(top, _)| top)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeMap;

    use crate::backplane::redis::agreement::description::Description;
    use crate::backplane::redis::commands::request::*;
    use crate::config::Config;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn entry(name: &str, body: &[u8]) -> Value {
        Value::Array(vec![bulk(name), Value::Array(vec![bulk("d"), Value::BulkString(body.into())])])
    }

    fn recover() -> What {
        let retention = Retention { size: 9, ttl: Duration::from_secs(1), replicas: 0 };
        let channel = Channel::parse("a").unwrap();
        let most = Most { publications: 9, bytes: 9 };
        What::Recover { channel, since: None, latest: false, most, retention }
    }

    #[test]
    fn an_answer_without_entries_means_that_something_is_missing() {
        let reply = Value::Array(vec![Value::Int(7), bulk("e")]);
        let Response::Recovered(Ok(recovery)) = recover().read(reply).unwrap() else { panic!() };
        assert_eq!((recovery.top.offset, &*recovery.top.epoch), (7, "e"));
        assert!(recovery.missed.is_none());
        let reply = Value::Array(vec![Value::Int(7), bulk("e"), Value::Array(vec![])]);
        let Response::Recovered(Ok(recovery)) = recover().read(reply).unwrap() else { panic!() };
        assert_eq!(recovery.missed.unwrap().len(), 0);
    }

    #[test]
    fn an_entry_is_named_after_its_offset() {
        let entries = Value::Array(vec![entry("57-1700000000000", &wire::body(b"{}", true, None, None))]);
        let reply = Value::Array(vec![Value::Int(57), bulk("e"), entries]);
        let Response::Recovered(Ok(recovery)) = recover().read(reply).unwrap() else { panic!() };
        assert_eq!(recovery.missed.unwrap()[0].offset, 57);
    }

    #[test]
    fn what_others_keep_is_kept_here_too() {
        let config = |rules: &str| Config::parse(&format!("[namespaces.news]\n{rules}"), "test").unwrap();
        let other = Description::of(&config("history_size = 7\nhistory_ttl = '3s'"), &[]);
        let rules = Effective::of(&config(""), &[&other], &BTreeMap::new());
        let channel = |name| Channel::parse(name).unwrap();
        let body = wire::body(b"{}", true, None, None);
        let message = wire::unnumbered(None, &body);
        let mut what = What::Spread {
            to: Some(channel("news:1")),
            message: message.clone(),
            publication: true,
            patterns: true,
            skip_history: false,
        };
        what.adapt(&rules);
        let What::Publish { body: kept, retention, patterns: true, .. } = what else { panic!() };
        assert_eq!((&kept, retention.size, retention.ttl), (&body, 7, Duration::from_secs(3)));
        let mut other = What::Spread {
            to: Some(channel("elsewhere")),
            message: Vec::new(),
            publication: true,
            patterns: false,
            skip_history: false,
        };
        other.adapt(&rules);
        assert!(matches!(other, What::Spread { .. }));
        let to = Some(channel("news:1"));
        let mut unkept = What::Spread { to, message, publication: true, patterns: false, skip_history: true };
        unkept.adapt(&rules);
        assert!(matches!(unkept, What::Spread { .. }), "no gateway keeps it");
        let (channel, retention) = (channel("news:1"), Retention { size: 0, ..retention });
        let mut unkept = What::Publish {
            channel,
            body: kept,
            retention,
            patterns: false,
            skip_history: true,
            conditions: None,
        };
        unkept.adapt(&rules);
        assert!(matches!(unkept, What::Publish { retention: Retention { size: 0, .. }, .. }));
    }

    #[test]
    fn foreign_content_is_an_error_and_no_panic() {
        let foreign = [
            Value::Nil,
            Value::Int(1),
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(-1), bulk("e")]),
            Value::Array(vec![Value::Int(1), bulk("e"), Value::Int(1)]),
            Value::Array(vec![Value::Int(1), bulk("e"), Value::Array(vec![Value::Nil])]),
            Value::Array(vec![Value::Int(1), bulk("e"), Value::Array(vec![entry("x", b"")])]),
            Value::Array(vec![Value::Int(1), bulk("e"), Value::Array(vec![entry("1-1", b"")])]),
        ];
        for reply in foreign {
            let shown = format!("{reply:?}");
            assert_eq!(recover().read(reply).unwrap_err(), Refusal::Nonsense, "{shown}");
        }
    }
}
