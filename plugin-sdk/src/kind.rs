//! `Kind` names the commands of a client.

use std::fmt;

/// The kind of a client command.
///
/// Later versions of the gateway may have more kinds: a plugin sees them as [`Kind::Unknown`], and should let
/// them pass unless it has a reason not to.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Publish the payload to the channel.
    Publish,
    /// Subscribe to the channel.
    Subscribe,
    /// Unsubscribe from the channel.
    Unsubscribe,
    /// Call the method with the payload and wait for the result.
    Rpc,
    /// Send the payload, without a reply.
    Send,
    /// List the subscribers of the channel.
    Presence,
    /// Count the subscribers of the channel.
    PresenceStats,
    /// Read the history of the channel.
    History,
    /// A message in raw mode: the payload is the whole message.
    Raw,
    /// Extend the subscription to the channel, which expires, with another credential. See
    /// [`Message::set_subscription_expiry`](crate::Message::set_subscription_expiry).
    SubRefresh,
    /// A kind that this SDK does not know.
    Unknown(u32),
}

impl Kind {
    /// Every kind this SDK knows, in the order of the interface.
    pub const ALL: [Self; 10] = [
        Self::Publish,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Rpc,
        Self::Send,
        Self::Presence,
        Self::PresenceStats,
        Self::History,
        Self::Raw,
        Self::SubRefresh,
    ];

    /// The name in settings and log lines, such as `presence-stats`; `unknown` for [`Kind::Unknown`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Rpc => "rpc",
            Self::Send => "send",
            Self::Presence => "presence",
            Self::PresenceStats => "presence-stats",
            Self::History => "history",
            Self::Raw => "raw",
            Self::SubRefresh => "sub-refresh",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The kind with this [`Kind::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The number of the interface.
    pub const fn number(self) -> u32 {
        match self {
            Self::Publish => 1,
            Self::Subscribe => 2,
            Self::Unsubscribe => 3,
            Self::Rpc => 4,
            Self::Send => 5,
            Self::Presence => 6,
            Self::PresenceStats => 7,
            Self::History => 8,
            Self::Raw => 9,
            Self::SubRefresh => 10,
            Self::Unknown(number) => number,
        }
    }

    /// The kind of a number of the interface.
    pub const fn from_number(number: u32) -> Self {
        match number {
            1..=10 => Self::ALL[number as usize - 1],
            _ => Self::Unknown(number),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(number) => write!(f, "kind {number}"),
            known => f.write_str(known.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_lead_back_to_the_kind() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind.number(), index as u32 + 1);
            assert_eq!(Kind::from_number(kind.number()), kind);
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(Kind::from_number(0), Kind::Unknown(0));
        assert_eq!(Kind::from_number(11), Kind::Unknown(11));
        assert_eq!(Kind::from_name("unknown"), None);
    }
}
