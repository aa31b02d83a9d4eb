//! Passes orders to the connections of a worker that they concern.

use indexmap::IndexMap;

use super::Hub;
use super::connection_handle::ConnectionHandle;
use crate::backplane::{Only, Order};
use crate::protocol::channel::{Channel, Target};

impl Hub {
    /// Passes an order to every connection of an address, except the one with the number `except`.
    pub fn order(&self, address: &Channel, except: Option<u64>, order: &Order) {
        let (only, order) = match order {
            Order::Only(only) => (Some(&**only), &only.order),
            order => (None, order),
        };
        let stays = |handle: &ConnectionHandle| match order {
            Order::CloseOthers { kept, .. } => kept.iter().any(|id| **id == *handle.id),
            _ => false,
        };
        let is_meant = |handle: &ConnectionHandle| {
            let Some(Only { user, session, .. }) = only else { return true };
            let is_user = |user: &str| {
                let admitted = self.handles.get(&handle.number);
                admitted.is_some_and(|admitted| *admitted.client.borrow().user == *user)
            };
            user.as_deref().is_none_or(is_user)
                && session.as_deref().is_none_or(|session| handle.has_session(session))
        };
        let tell = |handle: &ConnectionHandle| {
            if except != Some(handle.number) && !stays(handle) && is_meant(handle) {
                handle.signal(order.clone().into());
            }
        };
        match address.target() {
            Target::Connection(id) => self.by_id(id).into_iter().for_each(|handle| tell(handle)),
            Target::User(user) => {
                let listening = self.channels.get(address).into_iter().flat_map(IndexMap::values);
                // Connections of other users may subscribe to the user's address too.
                let of_user = |handle: &ConnectionHandle| {
                    self.handles
                        .get(&handle.number)
                        .is_some_and(|admitted| *admitted.client.borrow().user == *user)
                };
                listening.filter(|other| of_user(&other.handle)).for_each(|own| tell(&own.handle));
            }
            Target::Channel => (),
        }
    }
}
