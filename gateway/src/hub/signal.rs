//! [`Signal`]: a notification from the rest of a worker to one of its connections.

use crate::backplane::{Order, Why};
use crate::protocol::channel::Channel;
use crate::protocol::code::Close;

/// What the rest of the worker tells a connection. Its driver hands them to the connection core, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A publication did not fit into the outbound queue.
    Slow,
    /// A publication of this channel was missed.
    Gap(Channel),
    /// End it.
    Close(Close, Why),
    /// Others need its place, and it has not said who it is.
    Evicted,
    /// Subscribe it to a channel.
    Subscribe(Channel),
    /// Unsubscribe it from a channel.
    Unsubscribe(Channel),
    /// It expires at this Unix time in seconds, or never.
    Refresh(Option<u64>),
    /// The socket failed while somebody else wrote to it.
    SocketFailed,
}

impl From<Order> for Signal {
    fn from(order: Order) -> Self {
        match order {
            Order::Close(close, why) => Self::Close(close, why),
            Order::Subscribe(channel) => Self::Subscribe(channel),
            Order::Unsubscribe(channel) => Self::Unsubscribe(channel),
            Order::Refresh(expires_at) => Self::Refresh(expires_at),
        }
    }
}
