//! Gives orders to connections for the server API.

use std::sync::Arc;

use super::{Control, Whom, answered, ask};
use crate::backplane::{Only, Order, Response};
use crate::protocol::code::ReplyError;

/// Why it is not known whether all gateways get an order.
const PERHAPS_ORDERED: &str =
    "other gateways may not have got this, so some connections may be as before: try again";

impl Control {
    /// Waits until the backplane has accepted the order.
    pub(super) async fn order(&self, whom: &Whom, order: Order) -> Result<(), ReplyError> {
        let Whom { address, user, session } = whom;
        let order = match user.is_some() || session.is_some() {
            true => Order::Only(Arc::new(Only { user: user.clone(), session: session.clone(), order })),
            false => order,
        };
        let (reply_to, answer) = ask();
        let asked = self.inner.backplane.order_answered(address, &order, reply_to);
        answered(asked, answer, PERHAPS_ORDERED, |answer| match answer {
            Response::Published(result) => {
                Some(result.map(drop).map_err(|error| error.because(PERHAPS_ORDERED)))
            }
            _ => None,
        })
        .await
    }
}
