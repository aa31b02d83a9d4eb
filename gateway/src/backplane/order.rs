//! [`Order`] is what other workers and other nodes may order connections to do.

use std::sync::Arc;

use bytes::Bytes;

use crate::ask::Overrides;
use crate::protocol::channel::Channel;
use crate::protocol::code::Close;
use crate::protocol::command::Position;

/// Who closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The shutdown of the process.
    Shutdown,
    /// The server API.
    Api,
    /// A plugin, while it handled another event.
    Plugin,
}

/// An order to connections, from any worker or node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Close the connection.
    Close(Close, Why),
    /// Close the connection for the server API, unless its id is one of these.
    CloseOthers {
        /// Code and reason.
        close: Close,
        /// The connections that stay.
        kept: Arc<[Box<str>]>,
    },
    /// Subscribe to a channel, mostly with the rules of its namespace.
    Subscribe(Channel, Option<Arc<SubscribeOptions>>),
    /// Unsubscribe from a channel.
    Unsubscribe(Channel),
    /// Expire at this Unix time in seconds, or never.
    Refresh(Option<u64>),
    /// Another order, for some of the connections of the address.
    Only(Arc<Only>),
}

/// An order for those connections of an address that meet every condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Only {
    /// The user of the connection.
    pub user: Option<Box<str>>,
    /// The session of the connection. Only clients whose commands come in requests of their own have one.
    pub session: Option<Box<str>>,
    /// The order for them: none of this kind.
    pub order: Order,
}

/// What the server API wants of a subscription beyond the rules of the channel's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// JSON about the client that members of this channel see; empty for none.
    pub info: Bytes,
    /// JSON for the client, with the notice that it is subscribed; empty for none.
    pub data: Bytes,
    /// The client's position, to send it what it missed since.
    pub recover: Option<Position>,
    /// When the subscription expires, in Unix time in seconds.
    pub expires_at: Option<u64>,
    /// Settings in place of those of the namespace.
    pub overrides: Overrides,
}

impl Order {
    /// Bytes that it counts for on its way to a connection. Most orders are small and count for none.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Subscribe(_, Some(options)) => {
                size_of::<SubscribeOptions>() + options.info.len() + options.data.len()
            }
            Self::Only(only) => only.order.bytes(),
            _ => 0,
        }
    }
}
