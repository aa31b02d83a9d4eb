//! Writes outcomes as JSON in the format of scripts.

use gateway_plugin_script::show;
use serde_json::{Map, Value};

use super::{Answer, Outcome};
use crate::plugin::verdict::{Action, ConnectVerdict, DeliverVerdict, Effect, Refusal, Verdict};
use crate::protocol::channel::Channel;

impl Outcome {
    /// See [`show::outcome`].
    pub fn to_json(&self) -> Map<String, Value> {
        show::outcome(&answer(&self.answer), self.effects.iter().map(effect), self.changed.as_deref())
    }
}

fn answer(answer: &Answer) -> show::Answer<'_> {
    match answer {
        Answer::NotCalled => show::Answer::NotCalled,
        Answer::Done => show::Answer::Done,
        Answer::Connect(verdict) => connect(verdict),
        Answer::Message(verdict) => message(verdict),
        Answer::Deliver(DeliverVerdict::Pass) => show::Answer::Pass,
        Answer::Deliver(DeliverVerdict::Drop) => show::Answer::Drop,
        Answer::Deliver(DeliverVerdict::Replace(payload)) => show::Answer::Replace(payload),
        Answer::Failed(failure) => {
            show::Answer::Failed { cause: failure.cause.as_str(), detail: &failure.detail }
        }
    }
}

fn connect(verdict: &ConnectVerdict) -> show::Answer<'_> {
    match verdict {
        ConnectVerdict::Pass => show::Answer::Pass,
        ConnectVerdict::Refuse(why) => show::Answer::Refuse(refusal(why)),
        ConnectVerdict::Accept(identity) => show::Answer::Accept(show::Identity {
            user: &identity.user,
            expires_at: identity.expires_at,
            info: &identity.info,
            data: &identity.data,
            channels: names(&identity.channels),
            attributes: identity.attributes.iter().map(|(name, value)| (&**name, &**value)).collect(),
        }),
    }
}

fn message(verdict: &Verdict) -> show::Answer<'_> {
    match verdict {
        Verdict::Next => show::Answer::Next,
        Verdict::Allow => show::Answer::Allow,
        Verdict::Drop => show::Answer::Drop,
        Verdict::Deny(why) => show::Answer::Deny(refusal(why)),
        Verdict::Disconnect(why) => show::Answer::Disconnect(refusal(why)),
        Verdict::Replace(payload) => show::Answer::Replace(payload),
        Verdict::Reply(payload) => show::Answer::Reply(payload),
        Verdict::Route(addresses) => show::Answer::Route(names(addresses)),
    }
}

fn effect(effect: &Effect) -> show::Effect<'_> {
    match effect {
        Effect::Publish { address, payload } => show::Effect::Publish(address.as_str(), payload),
        Effect::Subscribe(channel) => show::Effect::Subscribe(channel.as_str()),
        Effect::Unsubscribe(channel) => show::Effect::Unsubscribe(channel.as_str()),
        Effect::Disconnect(why) => show::Effect::Disconnect(refusal(why)),
        Effect::Refresh(expires_at) => show::Effect::Refresh(*expires_at),
        Effect::RefreshSubscription { channel, expiry } => {
            show::Effect::RefreshSubscription(channel.as_str(), expiry.at())
        }
        Effect::SetSubscriptionExpiry(expiry) => show::Effect::SetSubscriptionExpiry(expiry.at()),
        Effect::SetAttribute { name, value } => show::Effect::SetAttribute(name, value),
        Effect::Emit { upstream, payload, .. } => show::Effect::Emit(upstream, payload),
        Effect::Reach { address, action, .. } => match action {
            Action::Subscribe(channel) => show::Effect::SubscribeAddress(address.as_str(), channel.as_str()),
            Action::Unsubscribe(channel) => {
                show::Effect::UnsubscribeAddress(address.as_str(), channel.as_str())
            }
            Action::Refresh(expires_at) => show::Effect::RefreshAddress(address.as_str(), *expires_at),
            Action::Disconnect(why) => show::Effect::DisconnectAddress(address.as_str(), refusal(why)),
        },
    }
}

fn refusal(why: &Refusal) -> show::Refusal<'_> {
    show::Refusal { code: why.code, reason: &why.reason }
}

fn names(channels: &[Channel]) -> Vec<&str> {
    channels.iter().map(Channel::as_str).collect()
}
