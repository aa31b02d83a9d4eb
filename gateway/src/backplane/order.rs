//! [`Order`] is what other workers and other nodes may order connections to do.

use std::sync::Arc;

use crate::protocol::channel::Channel;
use crate::protocol::code::Close;

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
    /// Subscribe to a channel.
    Subscribe(Channel),
    /// Unsubscribe from a channel.
    Unsubscribe(Channel),
    /// Expire at this Unix time in seconds, or never.
    Refresh(Option<u64>),
}
