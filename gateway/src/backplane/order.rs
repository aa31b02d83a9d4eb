//! What may be ordered of connections, from anywhere.

use crate::protocol::channel::Channel;
use crate::protocol::code::Close;

/// Who wanted a connection to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The process goes down.
    Shutdown,
    /// The server API.
    Api,
    /// A plugin, on the occasion of something else.
    Plugin,
}

/// What may be ordered of connections from anywhere, also by another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// End.
    Close(Close, Why),
    /// Subscribe to a channel.
    Subscribe(Channel),
    /// Unsubscribe from a channel.
    Unsubscribe(Channel),
    /// Expire at this Unix time in seconds, or never.
    Refresh(Option<u64>),
}
