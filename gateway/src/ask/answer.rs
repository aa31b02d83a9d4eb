//! [`Answer`] is what a backend answers, checked like everything from outside.
//!
//! | answer to | applied | left out with a log line | refused: the answer is wrong |
//! |---|---|---|---|
//! | all | `result`, `error`, `disconnect` | any other field | none of the three |
//! | `connect` | `user`, `expire_at`, `info`, `b64info`, `data`, `b64data`, `channels`, `subs`, `meta` | `caps`, `labels` | |
//! | each of `subs`, `subscribe` | `expire_at`, `info`, `b64info`, `data`, `b64data`, `override` | `allow`, `cache_recover` | `server_tags_filter`: a subscriber would get what the backend hides |
//! | `refresh` | `expired`, `expire_at`, `meta` | `info`, `b64info`, `caps` | |
//! | `sub_refresh` | `expired`, `expire_at` | `info`, `b64info` | |
//! | `publish` | `data`, `b64data`, `skip_history` | `tags`, `delta` | `idempotency_key`, `version`, `version_epoch`: it would be published although the backend says when not |
//! | `rpc`, `send`, `message` | `data`, `b64data` | | |

use bytes::Bytes;
use gateway_plugin_grammar::answer;

use super::Kind;
use super::object::Object;
use crate::protocol::channel::Channel;
use crate::protocol::code::{Close, ReplyError};
use crate::protocol::push::MEMBER_BYTES_MAX;

/// Most bytes of `meta`, which stays with the connection.
const META_BYTES_MAX: usize = 4096;
/// Most bytes of the message of an error.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Most names of unknown fields in a log line.
const LEFT_OUT_MAX: usize = 16;

/// Fields that would change what the others mean.
const REFUSED: [&str; 4] = ["server_tags_filter", "idempotency_key", "version", "version_epoch"];

/// What a backend answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The client is admitted.
    Connected(Box<Connected>),
    /// Whether and how long the connection, or the subscription, may stay.
    Refreshed(Refreshed),
    /// The client may subscribe.
    Subscribed(Box<Subscribed>),
    /// The client may publish.
    Published(Published),
    /// The payload for the client; `None` for none.
    Replied(Option<Bytes>),
    /// The command is refused.
    Error(ReplyError),
    /// The connection ends.
    Disconnect(Close),
}

/// The answer to a client that connects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connected {
    /// Empty for an anonymous client.
    pub user: Box<str>,
    /// Unix time in seconds.
    pub expires_at: Option<u64>,
    /// JSON shown to other clients; empty for none.
    pub info: Bytes,
    /// JSON for the connect reply; empty for none.
    pub data: Bytes,
    /// The channels to subscribe the client to, each once.
    pub channels: Vec<(Channel, Subscribed)>,
    /// JSON that is sent with later questions; empty for none.
    pub meta: Bytes,
}

/// How long something may stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// It must not.
    pub expired: bool,
    /// Unix time in seconds; `None` for as long as it likes.
    pub expires_at: Option<u64>,
    /// JSON that is sent with later questions; empty for the one before.
    pub meta: Bytes,
}

/// The options of a subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscribed {
    /// JSON about the client that members of this channel see; empty for none.
    pub info: Bytes,
    /// JSON for the client; empty for none.
    pub data: Bytes,
    /// Unix time in seconds.
    pub expires_at: Option<u64>,
    /// Settings in place of those of the namespace.
    pub overrides: Overrides,
}

/// Settings of one subscription in place of those of its namespace; `None` for that of the namespace. What a
/// namespace does not have, no subscription can have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Whether the client is listed as a member.
    pub presence: Option<bool>,
    /// Whether others are told that it joins and leaves.
    pub join_leave: Option<bool>,
    /// Whether it is told that others join and leave.
    pub push_join_leave: Option<bool>,
    /// Whether it can recover.
    pub recovery: Option<bool>,
    /// Whether the gateway tracks its position. It does that for every client that can recover.
    pub positioning: Option<bool>,
}

/// How something is published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// In place of the payload of the client.
    pub data: Option<Bytes>,
    /// Whether it is delivered only.
    pub skip_history: bool,
}

/// Bounds of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Whether payloads for the client must be JSON.
    pub json: bool,
    /// Most channels.
    pub channels_max: usize,
}

/// An answer, and the names of fields that were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The answer.
    pub answer: Answer,
    /// Names as the backend has written them, cut.
    pub left_out: Vec<Box<str>>,
}

struct Reader<'a> {
    body: &'a Bytes,
    limits: Limits,
    left_out: Vec<Box<str>>,
}

/// Reads the body of a response to a question of this kind.
///
/// # Errors
///
/// What is wrong with it, without any part of a payload.
pub fn read(kind: Kind, body: &Bytes, limits: Limits) -> Result<Read, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the answer is not UTF-8".to_owned())?;
    let mut whole = Object::read(text).map_err(|error| format!("the answer {error}"))?;
    let mut reader = Reader { body, limits, left_out: Vec::new() };
    // In the order of the reference server.
    let answer = if let Some(disconnect) = whole.object("disconnect")? {
        reader.disconnect(disconnect)?
    } else if let Some(error) = whole.object("error")? {
        reader.error(error)?
    } else if let Some(result) = whole.object("result")? {
        reader.result(kind, result)?
    } else {
        return Err("the answer has none of `result`, `error` and `disconnect`".to_owned());
    };
    for part in ["disconnect", "error", "result"] {
        whole.take(part);
    }
    reader.leave_out(&whole)?;
    Ok(Read { answer, left_out: reader.left_out })
}

impl Reader<'_> {
    fn leave_out(&mut self, object: &Object<'_>) -> Result<(), String> {
        for name in object.left() {
            if REFUSED.contains(&name) {
                return Err(format!("`{name}` is not supported, and must not be left out"));
            }
            let known = self.left_out.iter().any(|left_out| **left_out == *name);
            if self.left_out.len() < LEFT_OUT_MAX && !known {
                self.left_out.push(cut(name, 64).into());
            }
        }
        Ok(())
    }

    fn disconnect(&mut self, mut disconnect: Object<'_>) -> Result<Answer, String> {
        let code: Option<u16> = disconnect.value("code", "a close code")?;
        let Some(code) = code.filter(|code| (3000..=4999).contains(code)) else {
            return Err("`code` of `disconnect` is none of 3000 to 4999".to_owned());
        };
        let reason = disconnect.text("reason")?;
        // Older backends say whether to connect again; the code says that.
        disconnect.take("reconnect");
        self.leave_out(&disconnect)?;
        Ok(Answer::Disconnect(Close::custom(code, &reason)))
    }

    fn error(&mut self, mut error: Object<'_>) -> Result<Answer, String> {
        let code: Option<u32> = error.value("code", "a code")?;
        let Some(code) = code.filter(|code| (100..2000).contains(code)) else {
            return Err("`code` of `error` is none of 100 to 1999".to_owned());
        };
        let message = error.text("message")?;
        let temporary = error.flag("temporary")?;
        self.leave_out(&error)?;
        let known = ReplyError::custom(code, cut(&message, MESSAGE_BYTES_MAX));
        Ok(Answer::Error(ReplyError { temporary: known.temporary || temporary, ..known }))
    }

    fn result(&mut self, kind: Kind, mut result: Object<'_>) -> Result<Answer, String> {
        let answer = match kind {
            Kind::Connect => Answer::Connected(Box::new(self.connected(&mut result)?)),
            Kind::Refresh => {
                let meta = self.meta(&mut result)?;
                Answer::Refreshed(Refreshed { meta, ..refreshed(&mut result)? })
            }
            Kind::SubRefresh => Answer::Refreshed(refreshed(&mut result)?),
            Kind::Subscribe => Answer::Subscribed(Box::new(self.subscribed(&mut result)?)),
            Kind::Publish => Answer::Published(Published {
                data: self.payload(&mut result)?,
                skip_history: result.flag("skip_history")?,
            }),
            Kind::Rpc | Kind::Send | Kind::Message => Answer::Replied(self.payload(&mut result)?),
        };
        self.leave_out(&result)?;
        Ok(answer)
    }

    fn payload(&self, result: &mut Object<'_>) -> Result<Option<Bytes>, String> {
        result.payload(self.body, "data", "b64data", self.limits.json)
    }

    fn meta(&self, result: &mut Object<'_>) -> Result<Bytes, String> {
        let meta = result.json(self.body, "meta", "")?;
        if meta.len() > META_BYTES_MAX {
            return Err(format!("`meta` has {} bytes; at most {META_BYTES_MAX} stay", meta.len()));
        }
        // It must not keep the body in memory for as long as the connection lasts.
        Ok(Bytes::copy_from_slice(&meta))
    }

    fn connected(&mut self, result: &mut Object<'_>) -> Result<Connected, String> {
        let user = result.text("user")?;
        answer::user(&user).map_err(|refused| format!("`user` is refused: {}", refused.reason))?;
        let info = result.json(self.body, "info", "b64info")?;
        let said = user.len() + info.len();
        if said > MEMBER_BYTES_MAX {
            return Err(format!("`user` and `info` have {said} bytes; the limit is {MEMBER_BYTES_MAX}"));
        }
        let expires_at = result.time("expire_at")?;
        let data = result.json(self.body, "data", "b64data")?;
        let meta = self.meta(result)?;
        let channels = self.channels(result)?;
        Ok(Connected { user: user.into(), expires_at, info, data, channels, meta })
    }

    fn channels(&mut self, result: &mut Object<'_>) -> Result<Vec<(Channel, Subscribed)>, String> {
        let max = self.limits.channels_max;
        let mut channels = Vec::new();
        if let Some(subs) = result.take("subs") {
            let subs = Object::with_fields(subs.get(), max).map_err(|error| format!("`subs` {error}"))?;
            for (name, options) in subs.into_fields() {
                let channel = channel(&name, "subs")?;
                let mut options =
                    Object::read(options.get()).map_err(|error| format!("one of `subs` {error}"))?;
                let subscribed = self.subscribed(&mut options)?;
                self.leave_out(&options)?;
                channels.push((channel, subscribed));
            }
        }
        let names: Vec<String> = result.value("channels", "a list of texts")?.unwrap_or_default();
        if channels.len() + names.len() > max {
            return Err(format!("more than {max} channels (limits.channels_per_connection_max)"));
        }
        for name in names {
            channels.push((channel(&name, "channels")?, Subscribed::default()));
        }
        Ok(channels)
    }

    fn subscribed(&mut self, result: &mut Object<'_>) -> Result<Subscribed, String> {
        let info = result.json(self.body, "info", "b64info")?;
        if info.len() > MEMBER_BYTES_MAX {
            let bytes = info.len();
            return Err(format!("`info` of a channel has {bytes} bytes; the limit is {MEMBER_BYTES_MAX}"));
        }
        let data = result.json(self.body, "data", "b64data")?;
        let expires_at = result.time("expire_at")?;
        let overrides = self.overrides(result)?;
        // It stays as long as the subscription.
        Ok(Subscribed { info: Bytes::copy_from_slice(&info), data, expires_at, overrides })
    }

    fn overrides(&mut self, result: &mut Object<'_>) -> Result<Overrides, String> {
        let Some(mut all) = result.object("override")? else { return Ok(Overrides::default()) };
        let mut setting = |name: &str| {
            let Some(mut setting) = all.object(name)? else { return Ok::<_, String>(None) };
            let value = setting.flag("value")?;
            self.leave_out(&setting)?;
            Ok(Some(value))
        };
        let overrides = Overrides {
            presence: setting("presence")?,
            join_leave: setting("join_leave")?,
            push_join_leave: setting("force_push_join_leave")?,
            recovery: setting("force_recovery")?,
            positioning: setting("force_positioning")?,
        };
        self.leave_out(&all)?;
        Ok(overrides)
    }
}

fn refreshed(result: &mut Object<'_>) -> Result<Refreshed, String> {
    let expired = result.flag("expired")?;
    Ok(Refreshed { expired, expires_at: result.time("expire_at")?, meta: Bytes::new() })
}

/// The name may hold the id of a user, so the error does not have it.
fn channel(name: &str, of: &str) -> Result<Channel, String> {
    Channel::parse_subscription(name).map_err(|error| format!("a name in `{of}` is not usable: {error}"))
}

/// The beginning of a text, cut between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests;
