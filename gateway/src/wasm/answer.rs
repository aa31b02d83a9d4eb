//! Checks the return value of a hook before the gateway acts on it.

use super::bindings::exports::gateway::plugin::{on_connect, on_deliver, on_message};
use super::bindings::gateway::plugin::types;
use super::call::State;
use super::output::{Level, cut};
use crate::log_users;
use crate::plugin::failure::{Cause, Failure};
use crate::plugin::verdict::{ConnectVerdict, DeliverVerdict, Identity, Refusal, Verdict};
use crate::protocol::channel::{Channel, InvalidChannel};
use crate::protocol::code::CLOSE_REASON_BYTES_MAX;
use crate::protocol::json::{self, NotJson};
use crate::protocol::push::MEMBER_BYTES_MAX;

use bytes::Bytes;
use gateway_plugin_grammar::answer::{self, Refused};

pub(super) fn verdict(state: &mut State, answer: on_message::Verdict) -> Result<Verdict, Failure> {
    use on_message::Verdict as Answer;
    Ok(match answer {
        Answer::Next => Verdict::Next,
        Answer::Allow => Verdict::Allow,
        Answer::Drop => Verdict::Drop,
        Answer::Deny(why) => {
            let refusal = refusal(state, why)?;
            // The code decides between closing and an error reply, not the verdict that carries it.
            if closes(refusal.code) { Verdict::Disconnect(refusal) } else { Verdict::Deny(refusal) }
        }
        Answer::Disconnect(why) => {
            spend(state, why.reason.len())?;
            Verdict::Disconnect(close(&why).map_err(invalid)?)
        }
        Answer::Replace(payload) => {
            self::payload(state, payload)?.map_or_else(Verdict::Deny, Verdict::Replace)
        }
        Answer::Reply(payload) => self::payload(state, payload)?.map_or_else(Verdict::Deny, Verdict::Reply),
        Answer::Route(addresses) => {
            Verdict::Route(channels(state, &addresses, "addresses", "", Channel::parse)?)
        }
    })
}

pub(super) fn connect_verdict(
    state: &mut State,
    answer: on_connect::ConnectVerdict,
) -> Result<ConnectVerdict, Failure> {
    use on_connect::ConnectVerdict as Answer;
    Ok(match answer {
        Answer::Pass => ConnectVerdict::Pass,
        Answer::Accept(identity) => accept(state, identity)?,
        Answer::Refuse(why) => ConnectVerdict::Refuse(refusal(state, why)?),
    })
}

pub(super) fn deliver_verdict(
    state: &mut State,
    answer: on_deliver::Delivery,
) -> Result<DeliverVerdict, Failure> {
    use on_deliver::Delivery as Answer;
    Ok(match answer {
        Answer::Pass => DeliverVerdict::Pass,
        Answer::Drop => DeliverVerdict::Drop,
        Answer::Replace(payload) => {
            spend(state, payload.len())?;
            DeliverVerdict::Replace(payload.into())
        }
    })
}

/// A refusal that closes the connection, with its reason cut to the size of a close frame.
pub(super) fn close(why: &types::Refusal) -> Result<Refusal, String> {
    if !closes(why.code) {
        return Err(format!("{} is not a close code; they are 3000 to 4999", why.code));
    }
    Ok(Refusal { code: why.code, reason: cut(&why.reason, CLOSE_REASON_BYTES_MAX).into() })
}

fn closes(code: u32) -> bool {
    (3000..=4999).contains(&code)
}

fn refusal(state: &mut State, why: types::Refusal) -> Result<Refusal, Failure> {
    spend(state, why.reason.len())?;
    match why.code {
        100..=1999 => Ok(Refusal { code: why.code, reason: why.reason.into() }),
        code if closes(code) => close(&why).map_err(invalid),
        code => Err(invalid(format!(
            "refused with code {code}; codes are 100 to 1999 for an error, 3000 to 4999 to close"
        ))),
    }
}

/// The refusal that replaces an invalid verdict, with its log line.
fn refused(state: &mut State, why: &Refused) -> Refusal {
    state.log.line(Level::Warn, &why.line);
    let reason = if closes(why.code) { cut(&why.reason, CLOSE_REASON_BYTES_MAX) } else { &why.reason };
    Refusal { code: why.code, reason: reason.into() }
}

/// Admits the client, unless its user name is one that no address can reach.
fn accept(state: &mut State, identity: types::Identity) -> Result<ConnectVerdict, Failure> {
    if let Err(why) = answer::user(&identity.user) {
        return Ok(ConnectVerdict::Refuse(refused(state, &why)));
    }
    Ok(match self::identity(state, identity)? {
        Ok(identity) => ConnectVerdict::Accept(Box::new(identity)),
        Err(refusal) => ConnectVerdict::Refuse(refusal),
    })
}

fn identity(state: &mut State, identity: types::Identity) -> Result<Result<Identity, Refusal>, Failure> {
    let attributes = identity.attributes;
    if attributes.len() > state.limits.effects_max {
        return Err(too_many(state, "attributes"));
    }
    let bytes = attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    spend(state, bytes + identity.user.len())?;
    let said = identity.user.len() + identity.info.len();
    if said > MEMBER_BYTES_MAX {
        return Err(invalid(format!(
            "accepted with a user and `info` of {said} bytes; the limit is {MEMBER_BYTES_MAX}"
        )));
    }
    if attributes.iter().any(|(name, _)| name.is_empty()) {
        return Err(invalid("accepted with an attribute that has no name"));
    }
    let (info, data) =
        match (optional_json(state, identity.info, "info")?, optional_json(state, identity.data, "data")?) {
            (Ok(info), Ok(data)) => (info, data),
            (Err(refusal), _) | (_, Err(refusal)) => return Ok(Err(refusal)),
        };
    Ok(Ok(Identity {
        channels: channels(
            state,
            &identity.channels,
            "channels",
            &identity.user,
            Channel::parse_subscription,
        )?,
        user: identity.user.into(),
        expires_at: identity.expires_at,
        info,
        data,
        attributes: attributes.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
    }))
}

/// Checks JSON of a plugin. Bytes that are not JSON are a failure of the plugin; JSON that receivers cannot
/// read refuses the event and is no failure.
fn checked(state: &mut State, json: Vec<u8>, what: &str) -> Result<Result<Bytes, Refusal>, Failure> {
    spend(state, json.len())?;
    match json::compact(json.into()) {
        Ok(json) => Ok(Ok(json)),
        Err(NotJson::Unfit(unfit)) => Ok(Err(refused(state, &answer::unfit(what, unfit)))),
        Err(error @ NotJson::Syntax(_)) => Err(invalid(format!("answered with {what} that is {error}"))),
    }
}

/// Checks a payload for the client of the event.
fn payload(state: &mut State, payload: Vec<u8>) -> Result<Result<Bytes, Refusal>, Failure> {
    if !state.event.speaks_json() {
        spend(state, payload.len())?;
        return Ok(Ok(payload.into()));
    }
    checked(state, payload, "a payload")
}

/// JSON in every protocol, because other clients see it.
fn optional_json(state: &mut State, bytes: Vec<u8>, what: &str) -> Result<Result<Bytes, Refusal>, Failure> {
    if bytes.is_empty() { Ok(Ok(Bytes::new())) } else { checked(state, bytes, what) }
}

/// The id of `user`, who is being admitted, appears in the error as the log shows user ids.
fn channels(
    state: &mut State,
    names: &[String],
    what: &str,
    user: &str,
    parse: fn(&str) -> Result<Channel, InvalidChannel>,
) -> Result<Vec<Channel>, Failure> {
    if names.len() > state.limits.effects_max {
        return Err(too_many(state, what));
    }
    spend(state, names.iter().map(String::len).sum())?;
    let checked = |name: &String| {
        let message = |error| {
            // Hidden before it is cut and escaped: otherwise the id would not be found.
            let name = log_users::text(name, user);
            format!("{:?} among the {what} is not usable: {error}", cut(&name, 100))
        };
        parse(name).map_err(|error| invalid(message(error)))
    };
    names.iter().map(checked).collect()
}

fn spend(state: &mut State, bytes: usize) -> Result<(), Failure> {
    state.spend(bytes).map_err(|_| {
        let most = state.limits.effect_bytes_max;
        invalid(format!("answer and effects have more than {most} bytes together (effect_bytes_max)"))
    })
}

fn too_many(state: &State, what: &str) -> Failure {
    invalid(format!("more than {} {what} (effects_max)", state.limits.effects_max))
}

fn invalid(message: impl Into<Box<str>>) -> Failure {
    Failure::new(Cause::InvalidAnswer, message)
}
