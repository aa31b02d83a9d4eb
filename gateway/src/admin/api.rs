//! `answer` carries out the methods of the API, in the shapes of Centrifugo's HTTP API, so that its client
//! libraries work; [`call`] does it for other parts of the gateway. `gateway/API.md` describes each method.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use serde::Serialize;
use tokio::task::yield_now;

use super::answer::{
    Answer, Broadcast, Done, History, JSON, Nodes, Nothing, Outcome, Presence, PresenceStats, Published,
    answer as response, json,
};
use super::batch;
use super::explain;
use super::fields::{Failure, Fields, bad_request};
use super::methods::{Call, Named};
use super::plugins::{Plugins, Rollback};
use super::revocations;
use super::subscribe;
use super::survey;
use super::upstreams;
use crate::backplane::Version;
use crate::control::{Conditions, Content, Control, Whom};
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

/// Carries out a method of the API by its name and returns its result in JSON, as `POST /api/METHOD` has it
/// below `result` (for `batch` the whole body). `params` is a JSON object; without bytes it has no fields.
/// Waits for responses of the backplane.
///
/// # Errors
///
/// 104 if there is no such method, 107 if the parameters are malformed, otherwise the error of the method.
/// The same call may succeed later if the error is temporary.
pub(crate) async fn call(control: &Control, method: &str, params: &[u8]) -> Result<Bytes, ReplyError> {
    let why = || ReplyError::METHOD_NOT_FOUND.because(format!("there is no method {method:?}"));
    let named = Named::of(method).ok_or_else(why)?;
    match outcome(control, named, params).await {
        Ok(done) => Ok(done.result()),
        Err(failure) => Err(failure.into()),
    }
}

/// The response to a request. Waits for a change of the plugins, and for pending responses of the backplane.
pub(super) async fn answer(control: &Control, named: Named, body: &[u8]) -> Answer {
    done_or_failed(outcome(control, named, body).await)
}

/// The response with a result or an error.
pub(super) fn done_or_failed(outcome: Result<Done, Failure>) -> Answer {
    match outcome {
        Ok(done) => response(StatusCode::OK, JSON, done.body()),
        Err(failure) => failed(&failure),
    }
}

async fn outcome(control: &Control, named: Named, params: &[u8]) -> Result<Done, Failure> {
    let fields = Fields::parse(params)?;
    match named.available()? {
        Call::Batch => batch::batch(control, fields).await,
        call => perform(control, call, fields).await,
    }
}

/// Carries out a method, except `batch`.
pub(super) async fn perform(control: &Control, call: Call, fields: Fields) -> Result<Done, Failure> {
    let api = Api { control };
    match call {
        Call::Batch => Err(bad_request("a `batch` is no command of another one").into()),
        Call::Publish => done(api.publish(fields).await),
        Call::Broadcast => {
            let results = api.broadcast(fields).await?;
            done(Ok(Broadcast { responses: results.iter().map(Outcome::new).collect() }))
        }
        Call::Disconnect => done(api.disconnect(fields).await),
        Call::Subscribe => done(api.subscribe(fields).await),
        Call::Unsubscribe => done(api.unsubscribe(fields).await),
        Call::Refresh => done(api.refresh(fields).await),
        Call::Presence => {
            done(api.members(fields).await.map(|members| Presence::new(members.iter().map(|m| &**m))))
        }
        Call::PresenceStats => done(api.count(fields).await),
        Call::History => done(api.history(fields).await),
        Call::HistoryRemove => done(api.remove_history(fields).await),
        Call::Info => done(survey::info(control, fields).await),
        Call::Channels => done(survey::channels(control, fields).await),
        Call::Connections => done(survey::connections(control, fields).await),
        Call::Nodes => done(fields.finish().map(|()| Nodes::of(control))),
        Call::Explain => done(explain::last(control, fields)),
        Call::ExplainStart => done(explain::start(control, fields)),
        Call::Plugins => done(fields.finish().map(|()| Plugins::of(control))),
        Call::PluginRollback => done(api.roll_back(fields).await),
        Call::PluginBreaker => done(api.plugin_breaker(fields)),
        Call::Upstreams => done(upstreams::list(control, fields)),
        Call::UpstreamWeights => done(upstreams::set_weights(control, fields)),
        Call::RevokeToken => done(revocations::revoke_token(control, fields).await),
        Call::InvalidateUserTokens => done(revocations::invalidate_user_tokens(control, fields).await),
        Call::BlockUser => done(revocations::block_user(control, fields).await),
        Call::UnblockUser => done(revocations::unblock_user(control, fields).await),
        Call::Revocations => done(revocations::list(control, fields)),
        Call::LiftRevocation => done(revocations::lift(control, fields).await),
    }
}

/// Carries out a command that changes something and that came in another way than as a request. It has `key`
/// as its idempotency key unless it has one of its own. A broadcast fails if it fails for one of its
/// channels, with a temporary error if there is one.
///
/// # Errors
///
/// Why it was not carried out. It may have been, in part, if the error is temporary.
pub(crate) async fn carry_out(
    control: &Control,
    method: &str,
    body: &[u8],
    key: &str,
) -> Result<(), ReplyError> {
    let api = Api { control };
    let carried_out = async {
        let fields = Fields::parse(body)?;
        match Named::of(method).map(Named::available).transpose()? {
            Some(Call::Publish) => api.publish(fields.or_text("idempotency_key", key)).await.map(drop),
            Some(Call::Broadcast) => {
                let results = api.broadcast(fields.or_text("idempotency_key", key)).await?;
                let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
                let first = errors.iter().find(|error| error.temporary).or(errors.first()).cloned();
                first.map_or(Ok(()), |error| Err(error.into()))
            }
            Some(Call::Disconnect) => api.disconnect(fields).await.map(drop),
            Some(Call::Subscribe) => api.subscribe(fields).await.map(drop),
            Some(Call::Unsubscribe) => api.unsubscribe(fields).await.map(drop),
            Some(Call::Refresh) => api.refresh(fields).await.map(drop),
            _ => Err(ReplyError::METHOD_NOT_FOUND.into()),
        }
    };
    let carried_out = carried_out.await.map_err(Failure::into);
    control.events_written().await;
    carried_out
}

fn done<T: Serialize>(result: Result<T, Failure>) -> Result<Done, Failure> {
    Done::of(&result?).map_err(Failure::Api)
}

fn failed(failure: &Failure) -> Answer {
    let status = match failure {
        Failure::Api(_) => StatusCode::OK,
        Failure::Malformed(_) => StatusCode::BAD_REQUEST,
    };
    json(status, &Outcome::<()>::new(&Err(failure.clone().into())))
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

    /// The result for each channel.
    async fn broadcast(&self, mut fields: Fields) -> Result<Vec<Result<Published, ReplyError>>, Failure> {
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
        Ok(results)
    }

    async fn disconnect(&self, mut fields: Fields) -> Result<Nothing, Failure> {
        let whom = whom(&mut fields)?;
        let wish = fields.object("disconnect")?;
        let kept = whitelist(&mut fields)?;
        fields.finish()?;
        let close = wish.map_or(Ok(Close::FORCE_DISCONNECT), close)?;
        self.control.disconnect(&whom, &close, kept).await?;
        Ok(Nothing {})
    }

    async fn subscribe(&self, mut fields: Fields) -> Result<Nothing, Failure> {
        let (whom, channel) = (whom(&mut fields)?, no_address(subscription(&mut fields)?)?);
        let options = subscribe::options(&mut fields)?;
        fields.finish()?;
        self.control.subscribe(&whom, &channel, options).await?;
        Ok(Nothing {})
    }

    async fn unsubscribe(&self, mut fields: Fields) -> Result<Nothing, Failure> {
        let (whom, channel) = (whom(&mut fields)?, no_address(subscription(&mut fields)?)?);
        fields.finish()?;
        self.control.unsubscribe(&whom, &channel).await?;
        Ok(Nothing {})
    }

    async fn refresh(&self, mut fields: Fields) -> Result<Nothing, Failure> {
        let whom = whom(&mut fields)?;
        let expired = fields.optional("expired")?.unwrap_or(false);
        let expire_at: Option<u64> = fields.optional("expire_at")?;
        fields.finish()?;
        let expires_at = match expire_at {
            _ if expired => Some(0),
            Some(0) => None,
            Some(seconds) => Some(seconds),
            None => return Err(bad_request("`expire_at` or `expired` is missing").into()),
        };
        self.control.refresh(&whom, expires_at).await?;
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

    async fn remove_history(&self, mut fields: Fields) -> Result<Nothing, Failure> {
        let channel = channel(&mut fields)?;
        fields.finish()?;
        self.control.remove_history(&channel).await?;
        Ok(Nothing {})
    }

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

/// The connections that a request concerns: those that are all of what it names.
fn whom(fields: &mut Fields) -> Result<Whom, Failure> {
    let user = fields.user()?;
    let client: Option<String> = fields.optional("client")?;
    let session = fields.text("session", NAME_BYTES_MAX)?;
    match (client.filter(|id| !id.is_empty()), user) {
        (Some(client), user) => {
            let address = Channel::parse(&format!("@{client}"));
            let address = address.map_err(|_| bad_request("`client` is not a client id"))?;
            Ok(Whom { address, user, session })
        }
        (None, Some(user)) => {
            let address = Channel::of_user(&user).ok_or_else(|| bad_request("`user` is not a user id"))?;
            Ok(Whom { address, user: None, session })
        }
        (None, None) if session.is_some() => {
            Err(bad_request("`session` needs `user` or `client` with it").into())
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
    let delta = fields.optional("delta")?.unwrap_or(false);
    Ok(Content { data, json, tags, skip_history, delta })
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
