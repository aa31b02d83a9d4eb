//! `answer` carries out the methods of the API, in the shapes of Centrifugo's HTTP API, so that its client
//! libraries work. `gateway/API.md` describes each method.

use std::sync::Arc;

use hyper::StatusCode;
use serde::Serialize;
use tokio::task::yield_now;

use super::answer::{
    Answer, Broadcast, History, Nodes, Nothing, Outcome, Presence, PresenceStats, Published, json,
};
use super::explain;
use super::fields::{Failure, Fields, bad_request};
use super::plugins::{Plugins, Rollback};
use super::subscribe;
use super::survey;
use crate::backplane::Version;
use crate::control::{Conditions, Content, Control};
use crate::plugin::breaker::Hold;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::{CLOSE_REASON_BYTES_MAX, Close, ReplyError};
use crate::protocol::command::HistoryQuery;
use crate::protocol::push::Member;
use crate::protocol::tags::{InvalidTags, Tags};

/// Channels of a broadcast that are published to before other requests get their turn.
const BROADCAST_AT_ONCE: usize = 64;

/// Maximum number of channels of one broadcast.
const BROADCAST_CHANNELS_MAX: usize = 1_000;

/// Maximum number of connections that stay.
const WHITELIST_MAX: usize = 100;

/// Maximum length of `idempotency_key` and `version_epoch`.
const NAME_BYTES_MAX: usize = 256;

/// The closed set of methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Publish,
    Broadcast,
    Disconnect,
    Subscribe,
    Unsubscribe,
    Refresh,
    Presence,
    PresenceStats,
    History,
    Info,
    Channels,
    Connections,
    Nodes,
    Plugins,
    PluginRollback,
    PluginBreaker,
    Explain,
    ExplainStart,
}

impl Call {
    const ALL: [Self; 18] = [
        Self::Publish,
        Self::Broadcast,
        Self::Disconnect,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Refresh,
        Self::Presence,
        Self::PresenceStats,
        Self::History,
        Self::Info,
        Self::Channels,
        Self::Connections,
        Self::Nodes,
        Self::Plugins,
        Self::PluginRollback,
        Self::PluginBreaker,
        Self::Explain,
        Self::ExplainStart,
    ];

    /// The last segment of the path.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Broadcast => "broadcast",
            Self::Disconnect => "disconnect",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Refresh => "refresh",
            Self::Presence => "presence",
            Self::PresenceStats => "presence_stats",
            Self::History => "history",
            Self::Info => "info",
            Self::Channels => "channels",
            Self::Connections => "connections",
            Self::Nodes => "nodes",
            Self::Plugins => "plugins",
            Self::PluginRollback => "plugin_rollback",
            Self::PluginBreaker => "plugin_breaker",
            Self::Explain => "explain",
            Self::ExplainStart => "explain_start",
        }
    }

    /// Finds a method by the last segment of the path.
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|call| call.name() == name)
    }
}

/// Carries out a request. Waits for a change of the plugins, and for pending responses of the backplane.
pub(super) async fn answer(control: &Control, call: Call, body: &[u8]) -> Answer {
    let api = Api { control };
    match Fields::parse(body) {
        Ok(fields) => match call {
            Call::Publish => finish(api.publish(fields).await),
            Call::Broadcast => api.broadcast(fields).await.unwrap_or_else(|failure| failed(&failure)),
            Call::Disconnect => finish(api.disconnect(fields)),
            Call::Subscribe => finish(api.subscribe(fields)),
            Call::Unsubscribe => finish(api.unsubscribe(fields)),
            Call::Refresh => finish(api.refresh(fields)),
            Call::Presence => {
                finish(api.members(fields).await.map(|members| Presence::new(members.iter().map(|m| &**m))))
            }
            Call::PresenceStats => finish(api.count(fields).await),
            Call::History => finish(api.history(fields).await),
            Call::Info => finish(survey::info(control, fields).await),
            Call::Channels => finish(survey::channels(control, fields).await),
            Call::Connections => finish(survey::connections(control, fields).await),
            Call::Nodes => finish(fields.finish().map(|()| Nodes::of(control))),
            Call::Explain => finish(explain::last(control, fields)),
            Call::ExplainStart => finish(explain::start(control, fields)),
            Call::Plugins => finish(fields.finish().map(|()| Plugins::of(control))),
            Call::PluginRollback => finish(api.roll_back(fields).await),
            Call::PluginBreaker => finish(api.plugin_breaker(fields)),
        },
        Err(failure) => failed(&failure),
    }
}

fn finish<T: Serialize>(result: Result<T, Failure>) -> Answer {
    match result {
        Ok(result) => json(StatusCode::OK, &Outcome::Result(result)),
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> Answer {
    let (status, error) = match failure {
        Failure::Api(error) => (StatusCode::OK, error.clone()),
        Failure::Malformed(message) => (StatusCode::BAD_REQUEST, bad_request(message.clone())),
    };
    json(status, &Outcome::<()>::new(&Err(error)))
}

struct Api<'a> {
    control: &'a Control,
}

impl Api<'_> {
    async fn publish(&self, mut fields: Fields) -> Result<Published, Failure> {
        let channel = channel(&mut fields)?;
        let content = content(&mut fields)?;
        let conditions = conditions(&mut fields)?;
        fields.finish()?;
        Ok(self.control.publish(&channel, content, &conditions).await?.into())
    }

    async fn broadcast(&self, mut fields: Fields) -> Result<Answer, Failure> {
        let channels: Vec<String> = fields.required("channels")?;
        let content = content(&mut fields)?;
        let conditions = conditions(&mut fields)?;
        fields.finish()?;
        if channels.is_empty() {
            return Err(bad_request("`channels` is empty").into());
        }
        if channels.len() > BROADCAST_CHANNELS_MAX {
            let message = format!(
                "`channels` has {} entries, at most {BROADCAST_CHANNELS_MAX} are accepted",
                channels.len()
            );
            return Err(ReplyError::LIMIT_EXCEEDED.because(message).into());
        }
        // All are published before the first result is awaited.
        let publish = |name: &String| {
            parse_channel(name).map(|channel| self.control.publish(&channel, content.clone(), &conditions))
        };
        let mut under_way = Vec::with_capacity(channels.len());
        for names in channels.chunks(BROADCAST_AT_ONCE) {
            under_way.extend(names.iter().map(publish));
            yield_now().await;
        }
        let mut results = Vec::with_capacity(under_way.len());
        for published in under_way {
            results.push(match published {
                Ok(published) => published.await.map(Published::from),
                Err(error) => Err(error),
            });
        }
        let responses = results.iter().map(Outcome::new).collect();
        Ok(json(StatusCode::OK, &Outcome::Result(Broadcast { responses })))
    }

    fn disconnect(&self, mut fields: Fields) -> Result<Nothing, Failure> {
        let address = address(&mut fields)?;
        let wish = fields.object("disconnect")?;
        let kept = whitelist(&mut fields)?;
        fields.finish()?;
        let close = wish.map_or(Ok(Close::FORCE_DISCONNECT), close)?;
        self.control.disconnect(&address, &close, kept)?;
        Ok(Nothing {})
    }

    fn subscribe(&self, mut fields: Fields) -> Result<Nothing, Failure> {
        let (address, channel) = (address(&mut fields)?, no_address(subscription(&mut fields)?)?);
        let options = subscribe::options(&mut fields)?;
        fields.finish()?;
        self.control.subscribe(&address, &channel, options)?;
        Ok(Nothing {})
    }

    fn unsubscribe(&self, mut fields: Fields) -> Result<Nothing, Failure> {
        let (address, channel) = (address(&mut fields)?, no_address(subscription(&mut fields)?)?);
        fields.finish()?;
        self.control.unsubscribe(&address, &channel)?;
        Ok(Nothing {})
    }

    fn refresh(&self, mut fields: Fields) -> Result<Nothing, Failure> {
        let address = address(&mut fields)?;
        let expired = fields.optional("expired")?.unwrap_or(false);
        let expire_at: Option<u64> = fields.optional("expire_at")?;
        fields.finish()?;
        let expires_at = match expire_at {
            _ if expired => Some(0),
            Some(0) => None,
            Some(seconds) => Some(seconds),
            None => return Err(bad_request("`expire_at` or `expired` is missing").into()),
        };
        self.control.refresh(&address, expires_at)?;
        Ok(Nothing {})
    }

    fn plugin_breaker(&self, mut fields: Fields) -> Result<Nothing, Failure> {
        let name: String = fields.required("name")?;
        let state: String = fields.required("state")?;
        fields.finish()?;
        let hold = match state.as_str() {
            "auto" => Hold::Auto,
            "closed" => Hold::Closed,
            "open" => Hold::Open,
            _ => return Err(bad_request("`state` must be \"open\", \"closed\" or \"auto\"").into()),
        };
        if self.control.hold_breaker(&name, hold) {
            Ok(Nothing {})
        } else {
            Err(bad_request("`name` is not the name of a plugin that is live").into())
        }
    }

    async fn members(&self, mut fields: Fields) -> Result<Vec<Arc<Member>>, Failure> {
        let channel = channel(&mut fields)?;
        fields.finish()?;
        Ok(self.control.presence(&channel).await?)
    }

    async fn count(&self, mut fields: Fields) -> Result<PresenceStats, Failure> {
        let channel = channel(&mut fields)?;
        fields.finish()?;
        let count = self.control.count(&channel).await?;
        Ok(PresenceStats { num_clients: count.connections, num_users: count.users })
    }

    async fn history(&self, mut fields: Fields) -> Result<History, Failure> {
        let channel = channel(&mut fields)?;
        let since = fields.position("since")?;
        let query = HistoryQuery {
            limit: fields.optional("limit")?.unwrap_or(0),
            since,
            reverse: fields.optional("reverse")?.unwrap_or(false),
        };
        fields.finish()?;
        Ok(History::from(&self.control.history(&channel, &query).await?))
    }
}

impl Api<'_> {
    async fn roll_back(&self, mut fields: Fields) -> Result<Rollback, Failure> {
        let name: String = fields.required("name")?;
        let to: Option<String> = fields.optional("to")?;
        fields.finish()?;
        let done = self.control.rollback(&name, to.as_deref().filter(|to| !to.is_empty())).await;
        Ok(done.map(Rollback::from).map_err(|error| ReplyError::NOT_AVAILABLE.because(error.to_string()))?)
    }
}

fn channel(fields: &mut Fields) -> Result<Channel, Failure> {
    Ok(parse_channel(&fields.required::<String>("channel")?)?)
}

/// The channel or pattern of a subscription.
fn subscription(fields: &mut Fields) -> Result<Channel, Failure> {
    let name = fields.required::<String>("channel")?;
    Ok(Channel::parse_subscription(&name).map_err(|error| bad_request(error.to_string()))?)
}

/// The address of an order.
fn address(fields: &mut Fields) -> Result<Channel, Failure> {
    let user = fields.user()?;
    let client: Option<String> = fields.optional("client")?;
    match (client.filter(|id| !id.is_empty()), user) {
        (Some(client), _) => {
            Ok(Channel::parse(&format!("@{client}"))
                .map_err(|_| bad_request("`client` is not a client id"))?)
        }
        (None, Some(user)) => {
            Ok(Channel::of_user(&user).ok_or_else(|| bad_request("`user` is not a user id"))?)
        }
        (None, None) => Err(bad_request("`user` or `client` is missing").into()),
    }
}

/// The ids of the connections that stay.
fn whitelist(fields: &mut Fields) -> Result<Arc<[Box<str>]>, Failure> {
    let kept: Vec<Box<str>> = fields.filled("whitelist")?.unwrap_or_default();
    if kept.len() > WHITELIST_MAX {
        let message = format!("`whitelist` has {} entries, at most {WHITELIST_MAX} are accepted", kept.len());
        return Err(ReplyError::LIMIT_EXCEEDED.because(message).into());
    }
    if let Some(other) = kept.iter().position(|id| Channel::parse(&format!("@{id}")).is_err()) {
        return Err(bad_request(format!("`whitelist`: the entry {other} is not a client id")).into());
    }
    Ok(kept.into())
}

/// What to publish. The size is checked in the same place for all publishers.
fn content(fields: &mut Fields) -> Result<Content, Failure> {
    let payload = fields.payload("data", "b64data")?;
    let (data, json) = payload.ok_or_else(|| bad_request("`data` or `b64data` is missing"))?;
    let tags = Tags::checked(fields.texts("tags")?).map_err(|invalid| {
        match invalid {
            InvalidTags::TooMany(_) | InvalidTags::TooLarge(_) => ReplyError::LIMIT_EXCEEDED,
            InvalidTags::Unnamed => ReplyError::BAD_REQUEST,
        }
        .because(format!("`tags` {invalid}"))
    })?;
    let skip_history = fields.optional("skip_history")?.unwrap_or(false);
    Ok(Content { data, json, tags, skip_history })
}

fn no_address(channel: Channel) -> Result<Channel, Failure> {
    if channel.target() == Target::Channel {
        Ok(channel)
    } else {
        Err(bad_request("`channel` is the address of a user or a connection").into())
    }
}

fn conditions(fields: &mut Fields) -> Result<Conditions, Failure> {
    let idempotency_key = fields.text("idempotency_key", NAME_BYTES_MAX)?;
    let epoch = fields.text("version_epoch", NAME_BYTES_MAX)?;
    let version = match (fields.optional("version")?.unwrap_or(0), epoch) {
        (0, Some(_)) => {
            return Err(bad_request("`version_epoch` says nothing without a `version` above 0").into());
        }
        (0, None) => None,
        (number, epoch) => Some(Version { number, epoch: epoch.unwrap_or_default() }),
    };
    Ok(Conditions { idempotency_key, version })
}

fn parse_channel(name: &str) -> Result<Channel, ReplyError> {
    Channel::parse(name).map_err(|error| bad_request(error.to_string()))
}

/// The close code and reason for the client.
fn close(mut wish: Fields) -> Result<Close, Failure> {
    let code: u16 = wish.required("code")?;
    let reason: String = wish.optional("reason")?.unwrap_or_default();
    wish.finish()?;
    if !(3_000..=4_999).contains(&code) {
        return Err(bad_request("`disconnect.code` is not between 3000 and 4999").into());
    }
    if reason.len() > CLOSE_REASON_BYTES_MAX {
        let message = format!("`disconnect.reason` is longer than {CLOSE_REASON_BYTES_MAX} bytes");
        return Err(bad_request(message).into());
    }
    Ok(Close::custom(code, &reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_describes_every_method_and_no_other() {
        let page = include_str!("../../API.md");
        let described: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        assert!(described.iter().all(|name| Call::of(name).is_some()), "{described:?}");
        assert_eq!(described.len(), Call::ALL.len(), "{described:?}");
    }
}
