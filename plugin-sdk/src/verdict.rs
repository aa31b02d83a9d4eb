//! The answers of hooks: `Connect`, `Verdict` and `Delivery`.

use serde::Serialize;

use crate::{code, log};

/// A refusal: the code and the reason that the client receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code, see [`code`].
    pub code: u32,
    /// The reason. Keep it short and free of secrets, because the client sees it. A close carries at most 123
    /// bytes of it.
    pub reason: String,
}

/// The answer to a message, from [`Plugin::on_message`](crate::Plugin::on_message).
///
/// The diagram in the [crate documentation](crate) shows the effect of each answer on the rest of the chain.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No opinion: the next plugin decides. If none does, the policy of the channel decides.
    Next,
    /// Permit. Later plugins still run and may refuse; the policy of the channel no longer matters.
    Allow,
    /// Refuse with an error reply. Ends the chain.
    Deny(Refusal),
    /// Discard the message and send the reply of a success. Ends the chain.
    Drop,
    /// Close the connection. Ends the chain.
    Disconnect(Refusal),
    /// Replace the payload and continue.
    Replace(Vec<u8>),
    /// Answer the sender with this payload. Ends the chain.
    Reply(Vec<u8>),
    /// Publish the payload to these addresses and nothing else. Ends the chain.
    Route(Vec<String>),
}

impl Verdict {
    /// See [`Verdict::Next`].
    pub const fn next() -> Self {
        Self::Next
    }

    /// See [`Verdict::Allow`].
    pub const fn allow() -> Self {
        Self::Allow
    }

    /// See [`Verdict::Deny`].
    pub fn deny(code: u32, reason: impl Into<String>) -> Self {
        Self::Deny(Refusal { code, reason: reason.into() })
    }

    /// See [`Verdict::Drop`].
    pub const fn drop() -> Self {
        Self::Drop
    }

    /// See [`Verdict::Disconnect`].
    pub fn disconnect(code: u32, reason: impl Into<String>) -> Self {
        Self::Disconnect(Refusal { code, reason: reason.into() })
    }

    /// See [`Verdict::Replace`].
    pub fn replace(payload: impl Into<Vec<u8>>) -> Self {
        Self::Replace(payload.into())
    }

    /// [`Verdict::Replace`] with a value as JSON.
    ///
    /// If JSON cannot express the value, the call logs an error, and the client gets [`code::INTERNAL`].
    pub fn replace_json(value: &(impl Serialize + ?Sized)) -> Self {
        json(value).map_or_else(Self::Deny, Self::Replace)
    }

    /// See [`Verdict::Reply`].
    pub fn reply(payload: impl Into<Vec<u8>>) -> Self {
        Self::Reply(payload.into())
    }

    /// [`Verdict::Reply`] with a value as JSON.
    ///
    /// If JSON cannot express the value, the call logs an error, and the client gets [`code::INTERNAL`].
    pub fn reply_json(value: &(impl Serialize + ?Sized)) -> Self {
        json(value).map_or_else(Self::Deny, Self::Reply)
    }

    /// See [`Verdict::Route`], and [`address`](crate::address) for the form of an address.
    pub fn route<S: Into<String>>(addresses: impl IntoIterator<Item = S>) -> Self {
        Self::Route(addresses.into_iter().map(Into::into).collect())
    }
}

/// The answer to a publication on its way to the subscribers of one class, from
/// [`Plugin::on_deliver`](crate::Plugin::on_deliver).
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// Deliver it unchanged. The next plugin runs.
    Pass,
    /// Do not deliver it to this class. Ends the chain. The publication keeps its position in the channel's
    /// history, and subscribers do not see a gap.
    Drop,
    /// Deliver this payload. The next plugin sees it. A payload that is not JSON reaches a JSON client as a
    /// string. The gateway delivers nothing if the payload exceeds the limit of publications, or is JSON that
    /// receivers may reject (nested too deeply, or with a lone surrogate).
    Replace(Vec<u8>),
}

impl Delivery {
    /// See [`Delivery::Pass`].
    pub const fn pass() -> Self {
        Self::Pass
    }

    /// See [`Delivery::Drop`].
    pub const fn drop() -> Self {
        Self::Drop
    }

    /// See [`Delivery::Replace`].
    pub fn replace(payload: impl Into<Vec<u8>>) -> Self {
        Self::Replace(payload.into())
    }

    /// [`Delivery::Replace`] with a value as JSON.
    ///
    /// If JSON cannot express the value, the call logs an error, and the gateway delivers nothing.
    pub fn replace_json(value: &(impl Serialize + ?Sized)) -> Self {
        json(value).map_or(Self::Drop, Self::Replace)
    }
}

/// The identity of a client, from the plugin that authenticated it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user; empty for an anonymous client.
    pub user: String,
    /// Unix time in seconds at which the connection expires unless the client refreshes it.
    pub expires_at: Option<u64>,
    /// JSON that other clients see in presence, join, leave and publications; empty for none.
    pub info: Vec<u8>,
    /// JSON for the client in the connect reply; empty for none.
    pub data: Vec<u8>,
    /// Channels that the gateway subscribes the client to.
    pub channels: Vec<String>,
    /// Names and values that later hooks read with [`Context::attribute`](crate::Context::attribute).
    pub attributes: Vec<(String, String)>,
}

/// The answer to a client that connects or refreshes, from [`Plugin::on_connect`](crate::Plugin::on_connect).
///
/// ```
/// use gateway_plugin_sdk::prelude::*;
/// let admit = Connect::accept("42")
///     .channel("news")
///     .info_json(&json!({"color": "teal"}))
///     .attribute("plan", "free")
///     .expires_at(1_900_000_000);
/// ```
///
/// The methods after [`Connect::accept`] describe an identity; on any other answer they change nothing.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connect {
    /// No opinion. If every plugin passes, the gateway's own setting for anonymous clients decides.
    Pass,
    /// Admit the client with this identity. Later plugins still run; the last accept wins.
    Accept(Identity),
    /// Do not admit the client. Ends the chain.
    Refuse(Refusal),
}

impl Connect {
    /// See [`Connect::Pass`].
    pub const fn pass() -> Self {
        Self::Pass
    }

    /// See [`Connect::Accept`]. The user is empty for an anonymous client, or a text that
    /// [`address::check_user`](crate::address::check_user()) accepts: at most 254 bytes, without control
    /// characters. The gateway refuses any other user with 3500, because no address could reach it.
    pub fn accept(user: impl Into<String>) -> Self {
        Self::Accept(Identity { user: user.into(), ..Identity::default() })
    }

    /// See [`Connect::Refuse`].
    pub fn refuse(code: u32, reason: impl Into<String>) -> Self {
        Self::Refuse(Refusal { code, reason: reason.into() })
    }

    /// Adds a channel that the gateway subscribes the client to.
    pub fn channel(self, name: impl Into<String>) -> Self {
        self.channels([name])
    }

    /// Adds channels that the gateway subscribes the client to.
    pub fn channels<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        if let Self::Accept(identity) = &mut self {
            identity.channels.extend(names.into_iter().map(Into::into));
        }
        self
    }

    /// Sets the JSON that other clients see in presence, join, leave and publications.
    ///
    /// If JSON cannot express the value, the call logs an error, and the answer becomes a refusal with
    /// [`code::INTERNAL`].
    pub fn info_json(self, value: &(impl Serialize + ?Sized)) -> Self {
        self.with_json(value, |identity, json| identity.info = json)
    }

    /// Sets the JSON for the client in its connect reply.
    ///
    /// If JSON cannot express the value, the call logs an error, and the answer becomes a refusal with
    /// [`code::INTERNAL`].
    pub fn data_json(self, value: &(impl Serialize + ?Sized)) -> Self {
        self.with_json(value, |identity, json| identity.data = json)
    }

    /// Sets when the connection expires unless the client refreshes it: Unix time in seconds.
    pub fn expires_at(mut self, unix_seconds: u64) -> Self {
        if let Self::Accept(identity) = &mut self {
            identity.expires_at = Some(unix_seconds);
        }
        self
    }

    /// Sets an attribute that later hooks of every plugin read with
    /// [`Context::attribute`](crate::Context::attribute).
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Self::Accept(identity) = &mut self {
            identity.attributes.push((name.into(), value.into()));
        }
        self
    }

    /// Says which token the client came with: its id, of at most 256 bytes, and the Unix time in seconds at
    /// which it was issued. The operator can then revoke it before its end.
    ///
    /// These are the attributes `token.id` and `token.issued`, which no plugin can change later. A token
    /// without an id cannot be revoked by it, and one without a time counts as issued before any time.
    pub fn token(self, id: Option<&str>, issued_at: Option<u64>) -> Self {
        let with_id = match id {
            Some(id) => self.attribute("token.id", id),
            None => self,
        };
        match issued_at {
            Some(seconds) => with_id.attribute("token.issued", seconds.to_string()),
            None => with_id,
        }
    }

    fn with_json(
        mut self,
        value: &(impl Serialize + ?Sized),
        put: impl FnOnce(&mut Identity, Vec<u8>),
    ) -> Self {
        let Self::Accept(identity) = &mut self else { return self };
        match json(value) {
            Ok(bytes) => {
                put(identity, bytes);
                self
            }
            Err(refusal) => Self::Refuse(refusal),
        }
    }
}

fn json(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|error| {
        log::error!("a verdict holds a value that is not expressible as JSON: {error}");
        Refusal { code: code::INTERNAL, reason: "internal server error".into() }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// JSON has no way to write a key that is a list.
    fn inexpressible() -> BTreeMap<Vec<u8>, u8> {
        BTreeMap::from([(vec![1], 2)])
    }

    #[test]
    fn a_value_that_json_cannot_express_becomes_a_refusal() {
        let internal = Refusal { code: 100, reason: "internal server error".into() };
        assert_eq!(Verdict::reply_json(&inexpressible()), Verdict::Deny(internal.clone()));
        assert_eq!(Verdict::replace_json(&inexpressible()), Verdict::Deny(internal.clone()));
        let connect = Connect::accept("42").info_json(&inexpressible()).channel("news");
        assert_eq!(connect, Connect::Refuse(internal));
    }

    #[test]
    fn an_identity_is_built_step_by_step() {
        let Connect::Accept(identity) = Connect::accept("42")
            .channel("a")
            .channels(["b", "c"])
            .info_json(&1)
            .data_json("d")
            .expires_at(7)
            .attribute("k", "v")
        else {
            panic!("not an accept")
        };
        let expected = Identity {
            user: "42".into(),
            expires_at: Some(7),
            info: b"1".to_vec(),
            data: b"\"d\"".to_vec(),
            channels: vec!["a".into(), "b".into(), "c".into()],
            attributes: vec![("k".into(), "v".into())],
        };
        assert_eq!(identity, expected);
    }
}
