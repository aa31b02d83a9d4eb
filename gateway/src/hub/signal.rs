//! [`Signal`]: a notification from the rest of a worker to one of its connections.

use std::sync::Arc;

use crate::backplane::{Order, SubscribeOptions, Why};
use crate::protocol::channel::Channel;
use crate::protocol::code::Close;

/// A signal to a connection. Its driver passes signals to the connection core, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A publication did not fit into the outbound queue.
    Slow,
    /// A publication in this channel was missed.
    Gap(Channel),
    /// Close the connection.
    Close(Close, Why),
    /// Others need its slot, and it is not admitted yet.
    Evicted,
    /// Subscribe the connection to a channel.
    Subscribe(Channel, Option<Arc<SubscribeOptions>>),
    /// Unsubscribe the connection from a channel.
    Unsubscribe(Channel),
    /// The connection expires at this Unix time in seconds, or never.
    Refresh(Option<u64>),
    /// A message that came in a request of its own exceeds a limit: close the connection.
    Refused(Close),
    /// The socket failed while another task wrote to it.
    SocketFailed,
}

impl From<Order> for Signal {
    fn from(order: Order) -> Self {
        match order {
            Order::Close(close, why) => Self::Close(close, why),
            // The hub has left out those that stay.
            Order::CloseOthers { close, .. } => Self::Close(close, Why::Api),
            Order::Subscribe(channel, options) => Self::Subscribe(channel, options),
            Order::Unsubscribe(channel) => Self::Unsubscribe(channel),
            Order::Refresh(expires_at) => Self::Refresh(expires_at),
            // The hub has left out those that are not meant.
            Order::Only(only) => only.order.clone().into(),
        }
    }
}
