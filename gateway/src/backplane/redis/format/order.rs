//! The encoding of orders to connections.

use std::sync::Arc;

use bytes::Bytes;

use crate::backplane::redis::format::wire::fields::{self, Fields, channel, put, put_number, subscription};
use crate::backplane::{Only, Order, Overrides, SubscribeOptions, Why};
use crate::protocol::channel::Channel;
use crate::protocol::code::Close;
use crate::protocol::command::Position;

/// Tags of an order.
pub(crate) mod order_tag {
    pub(crate) const NODE: u8 = 1;
    pub(crate) const ADDRESS: u8 = 2;
    pub(crate) const ORDER: u8 = 3;
    pub(crate) const CODE: u8 = 4;
    pub(crate) const WHY: u8 = 5;
    pub(crate) const REASON: u8 = 6;
    pub(crate) const CHANNEL: u8 = 7;
    pub(crate) const EXPIRES_AT: u8 = 8;
    /// Once for each connection that stays.
    pub(crate) const KEPT: u8 = 9;
    pub(crate) const INFO: u8 = 10;
    pub(crate) const DATA: u8 = 11;
    /// The client's position: its offset, and its epoch if there is one.
    pub(crate) const OFFSET: u8 = 12;
    pub(crate) const EPOCH: u8 = 13;
    /// Each a byte, 0 or 1.
    pub(crate) const PRESENCE: u8 = 14;
    pub(crate) const JOIN_LEAVE: u8 = 15;
    pub(crate) const PUSH_JOIN_LEAVE: u8 = 16;
    pub(crate) const RECOVERY: u8 = 17;
    pub(crate) const POSITIONING: u8 = 18;
    /// Conditions, and the kind of the order for those that meet them.
    pub(crate) const ONLY_USER: u8 = 40;
    pub(crate) const ONLY_SESSION: u8 = 41;
    pub(crate) const ONLY_ORDER: u8 = 42;
}

/// Kinds of orders.
mod kind {
    pub(crate) const CLOSE: u8 = 0;
    pub(crate) const SUBSCRIBE: u8 = 1;
    pub(crate) const UNSUBSCRIBE: u8 = 2;
    pub(crate) const REFRESH: u8 = 3;
    /// A kind of its own: a gateway that skipped the list would close all.
    pub(crate) const CLOSE_OTHERS: u8 = 4;
    /// A kind of its own: a gateway that skipped the options would list a client that is to be hidden, or say
    /// nothing of what the client has missed.
    pub(crate) const SUBSCRIBE_WITH: u8 = 5;
    /// A kind of its own: a gateway that skipped the conditions would concern other connections.
    pub(crate) const ONLY: u8 = 16;
}

/// Encodes an order of a node.
pub(crate) fn put_order(bytes: &mut Vec<u8>, node: u64, address: &Channel, order: &Order) {
    put_number(bytes, order_tag::NODE, node);
    put(bytes, order_tag::ADDRESS, address.as_str().as_bytes());
    let (order, kind_tag) = match order {
        Order::Only(only) => {
            put(bytes, order_tag::ORDER, &[kind::ONLY]);
            for (tag, condition) in
                [(order_tag::ONLY_USER, &only.user), (order_tag::ONLY_SESSION, &only.session)]
            {
                if let Some(condition) = condition {
                    put(bytes, tag, condition.as_bytes());
                }
            }
            (&only.order, order_tag::ONLY_ORDER)
        }
        order => (order, order_tag::ORDER),
    };
    let put_kind = |bytes: &mut Vec<u8>, kind: u8| put(bytes, kind_tag, &[kind]);
    let put_channel =
        |bytes: &mut Vec<u8>, channel: &Channel| put(bytes, order_tag::CHANNEL, channel.as_str().as_bytes());
    match order {
        Order::Close(close, why) => {
            put_kind(bytes, kind::CLOSE);
            put(bytes, order_tag::CODE, &close.code.to_be_bytes());
            let why = match why {
                Why::Shutdown => 0,
                Why::Api => 1,
                Why::Plugin => 2,
            };
            put(bytes, order_tag::WHY, &[why]);
            put(bytes, order_tag::REASON, close.reason.as_bytes());
        }
        Order::CloseOthers { close, kept } => {
            put_kind(bytes, kind::CLOSE_OTHERS);
            put(bytes, order_tag::CODE, &close.code.to_be_bytes());
            put(bytes, order_tag::REASON, close.reason.as_bytes());
            for id in kept.iter() {
                put(bytes, order_tag::KEPT, id.as_bytes());
            }
        }
        Order::Subscribe(channel, None) => {
            put_kind(bytes, kind::SUBSCRIBE);
            put_channel(bytes, channel);
        }
        Order::Subscribe(channel, Some(options)) => {
            put_kind(bytes, kind::SUBSCRIBE_WITH);
            put_channel(bytes, channel);
            put_options(bytes, options);
        }
        Order::Unsubscribe(channel) => {
            put_kind(bytes, kind::UNSUBSCRIBE);
            put_channel(bytes, channel);
        }
        Order::Refresh(expires_at) => {
            put_kind(bytes, kind::REFRESH);
            if let Some(expires_at) = expires_at {
                put_number(bytes, order_tag::EXPIRES_AT, *expires_at);
            }
        }
        // Nothing makes one inside another.
        Order::Only(_) => (),
    }
}

fn put_options(bytes: &mut Vec<u8>, options: &SubscribeOptions) {
    let SubscribeOptions { info, data, recover, expires_at, overrides } = options;
    for (tag, value) in [(order_tag::INFO, info), (order_tag::DATA, data)] {
        if !value.is_empty() {
            put(bytes, tag, value);
        }
    }
    if let Some(Position { offset, epoch }) = recover {
        put_number(bytes, order_tag::OFFSET, *offset);
        put(bytes, order_tag::EPOCH, epoch.as_bytes());
    }
    if let Some(expires_at) = expires_at {
        put_number(bytes, order_tag::EXPIRES_AT, *expires_at);
    }
    let Overrides { presence, join_leave, push_join_leave, recovery, positioning } = *overrides;
    for (tag, setting) in [
        (order_tag::PRESENCE, presence),
        (order_tag::JOIN_LEAVE, join_leave),
        (order_tag::PUSH_JOIN_LEAVE, push_join_leave),
        (order_tag::RECOVERY, recovery),
        (order_tag::POSITIONING, positioning),
    ] {
        if let Some(setting) = setting {
            put(bytes, tag, &[u8::from(setting)]);
        }
    }
}

/// Reads the fields of an order, which are a part of `message`: the node that gives it, the address of the
/// connections, and what they must do. `None` for invalid bytes, the inner `None` for an unknown kind.
pub(crate) fn read_order(message: &Bytes, bytes: &[u8]) -> Option<Option<(u64, Channel, Order)>> {
    let mut fields = Fields::filling(bytes);
    let (mut node, mut address, mut kind, mut code) = (None, None, None, None);
    let (mut concerned, mut reason, mut why, mut kept) = (None, "", Why::Api, Vec::new());
    let (mut offset, mut epoch, mut options) = (None, "", SubscribeOptions::default());
    let (mut only_kind, mut user, mut session) = (None, None, None);
    while let Some((tag, value)) = fields.next()? {
        let overrides = &mut options.overrides;
        match tag {
            order_tag::NODE => node = Some(fields::number(value)?),
            order_tag::ADDRESS => address = Some(channel(value)?),
            order_tag::ORDER => kind = Some(value),
            order_tag::CODE => code = Some(u16::from_be_bytes(value.try_into().ok()?)),
            order_tag::WHY => {
                why = match value {
                    [0] => Why::Shutdown,
                    [2] => Why::Plugin,
                    // The connection ends for any unknown reason too.
                    _ => Why::Api,
                }
            }
            order_tag::REASON => reason = fields::text(value)?,
            order_tag::CHANNEL => concerned = Some(subscription(value)?),
            order_tag::EXPIRES_AT => options.expires_at = Some(fields::number(value)?),
            order_tag::KEPT => kept.push(Box::from(fields::text(value)?)),
            order_tag::INFO => options.info = message.slice_ref(value),
            order_tag::DATA => options.data = message.slice_ref(value),
            order_tag::OFFSET => offset = Some(fields::number(value)?),
            order_tag::EPOCH => epoch = fields::text(value)?,
            order_tag::PRESENCE => overrides.presence = Some(flag(value)?),
            order_tag::JOIN_LEAVE => overrides.join_leave = Some(flag(value)?),
            order_tag::PUSH_JOIN_LEAVE => overrides.push_join_leave = Some(flag(value)?),
            order_tag::RECOVERY => overrides.recovery = Some(flag(value)?),
            order_tag::POSITIONING => overrides.positioning = Some(flag(value)?),
            order_tag::ONLY_ORDER => only_kind = Some(value),
            order_tag::ONLY_USER => user = Some(Box::from(fields::text(value)?)),
            order_tag::ONLY_SESSION => session = Some(Box::from(fields::text(value)?)),
            _ => (),
        }
    }
    options.recover = offset.map(|offset| Position { offset, epoch: epoch.into() });
    // A code that cannot close a connection would make a broken frame for the client.
    let close = || Some(Close::custom(code?, reason)).filter(|close| (3000..=4999).contains(&close.code));
    let [kind] = kind? else { return Some(None) };
    let only = *kind == kind::ONLY;
    let [kind] = (if only { only_kind? } else { &[*kind][..] }) else { return Some(None) };
    let order = match *kind {
        kind::CLOSE => Order::Close(close()?, why),
        kind::CLOSE_OTHERS => Order::CloseOthers { close: close()?, kept: kept.into() },
        kind::SUBSCRIBE => Order::Subscribe(concerned?, None),
        kind::SUBSCRIBE_WITH => Order::Subscribe(concerned?, Some(Arc::new(options))),
        kind::UNSUBSCRIBE => Order::Unsubscribe(concerned?),
        kind::REFRESH => Order::Refresh(options.expires_at),
        _ => return Some(None),
    };
    let order = if only { Order::Only(Arc::new(Only { user, session, order })) } else { order };
    Some(Some((node?, address?, order)))
}

fn flag(value: &[u8]) -> Option<bool> {
    match value {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::format::order::*;

    /// A subscription with every option.
    fn every_option() -> Order {
        let options = SubscribeOptions {
            info: Bytes::from_static(b"{}"),
            data: Bytes::from_static(b"[1]"),
            recover: Some(Position { offset: 7, epoch: "e".into() }),
            expires_at: Some(9),
            overrides: Overrides {
                presence: Some(false),
                join_leave: Some(true),
                push_join_leave: Some(false),
                recovery: Some(true),
                positioning: Some(true),
            },
        };
        Order::Subscribe(Channel::parse("news").unwrap(), Some(Arc::new(options)))
    }

    fn read(order: &Order) -> Option<Option<(u64, Channel, Order)>> {
        let mut bytes = Vec::new();
        put_order(&mut bytes, 5, &Channel::parse("#42").unwrap(), order);
        let message = Bytes::from(bytes);
        read_order(&message, &message)
    }

    #[test]
    fn all_options_come_together_and_each_alone() {
        assert_eq!(read(&every_option()).unwrap().unwrap().2, every_option());
        let news = || Channel::parse("news").unwrap();
        let position = |offset, epoch: &str| Some(Position { offset, epoch: epoch.into() });
        let overridden = |overrides| SubscribeOptions { overrides, ..SubscribeOptions::default() };
        for options in [
            SubscribeOptions::default(),
            SubscribeOptions { info: Bytes::from_static(b"1"), ..SubscribeOptions::default() },
            SubscribeOptions { data: Bytes::from_static(b"1"), ..SubscribeOptions::default() },
            SubscribeOptions { recover: position(0, ""), ..SubscribeOptions::default() },
            SubscribeOptions { recover: position(3, "e"), ..SubscribeOptions::default() },
            SubscribeOptions { expires_at: Some(1), ..SubscribeOptions::default() },
            overridden(Overrides { presence: Some(true), ..Overrides::default() }),
            overridden(Overrides { join_leave: Some(false), ..Overrides::default() }),
            overridden(Overrides { push_join_leave: Some(true), ..Overrides::default() }),
            overridden(Overrides { recovery: Some(false), ..Overrides::default() }),
            overridden(Overrides { positioning: Some(true), ..Overrides::default() }),
        ] {
            let order = Order::Subscribe(news(), Some(Arc::new(options)));
            let (_, _, read) = read(&order).unwrap().unwrap();
            assert_eq!(read, order);
        }
    }

    #[test]
    fn an_order_for_some_comes_with_its_conditions() {
        let news = Channel::parse("news").unwrap();
        for (user, session) in [(Some("42"), None), (None, Some("s")), (Some("42"), Some("s"))] {
            for order in [
                Order::Close(Close::custom(4000, "bye"), Why::Api),
                Order::CloseOthers { close: Close::custom(4000, "bye"), kept: Arc::new(["a".into()]) },
                every_option(),
                Order::Unsubscribe(news.clone()),
                Order::Refresh(Some(9)),
            ] {
                let (user, session) = (user.map(Box::from), session.map(Box::from));
                let order = Order::Only(Arc::new(Only { user, session, order }));
                let (_, _, read) = read(&order).unwrap().unwrap();
                assert_eq!(read, order);
            }
        }
    }

    /// A gateway that knows no options finds a kind that it does not know, and subscribes nobody.
    #[test]
    fn options_make_a_subscription_another_kind_of_order() {
        let kind_of = |order: &Order| {
            let mut bytes = Vec::new();
            put_order(&mut bytes, 5, &Channel::parse("#42").unwrap(), order);
            let (mut fields, mut kind) = (Fields::filling(&bytes), None);
            while let Some((tag, value)) = fields.next().unwrap() {
                if tag == order_tag::ORDER {
                    kind = Some(value[0]);
                }
            }
            kind
        };
        assert_eq!(kind_of(&every_option()), Some(5));
        assert_eq!(kind_of(&Order::Subscribe(Channel::parse("news").unwrap(), None)), Some(1));
    }
}
