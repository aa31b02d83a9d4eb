//! Functions that the exports of the `#[plugin]` macro call.

use std::cell::RefCell;

use crate::bindings::host::gateway::plugin::types;
use crate::bindings::on_deliver::exports::gateway::plugin::on_deliver;
use crate::{
    Connect, Connecting, Delivery, Disconnected, Interests, Kind, Message, Outgoing, Plugin, Timer, Verdict,
    host, settings,
};

/// The one instance of a plugin. A panic traps, and a trapped instance never runs again, so no later call
/// finds a borrow that a panic left open.
#[derive(Debug)]
pub struct Slot<P>(RefCell<Option<P>>);

impl<P: Plugin> Slot<P> {
    pub const fn empty() -> Self {
        Self(RefCell::new(None))
    }

    pub fn configure(&self, text: &str) -> Result<(), String> {
        let mut interests = Interests::default();
        let plugin = P::configure(settings::Config::read(text)?, &mut interests)?;
        host::declare(&interests)?;
        self.0.replace(Some(plugin));
        Ok(())
    }

    pub fn on_connect(&self, connection: u64, token: &str, data: &[u8]) -> types::ConnectVerdict {
        self.with(|plugin| plugin.on_connect(&Connecting::new(connection, token, data))).into()
    }

    pub fn on_message(&self, connection: u64, kind: u32, payload: &[u8]) -> types::Verdict {
        self.with(|plugin| plugin.on_message(&Message::new(connection, Kind::from_number(kind), payload)))
            .into()
    }

    pub fn on_disconnect(&self, connection: u64, code: u32, reason: &str, duration: u64) {
        self.with(|plugin| plugin.on_disconnect(&Disconnected::new(connection, code, reason, duration)));
    }

    pub fn on_deliver(&self, class: &str, payload: &[u8]) -> on_deliver::Delivery {
        self.with(|plugin| plugin.on_deliver(&Outgoing::new(class, payload))).into()
    }

    pub fn on_timer(&self, instance: u32) {
        self.with(|plugin| plugin.on_timer(&Timer::new(instance)));
    }

    fn with<R>(&self, hook: impl FnOnce(&mut P) -> R) -> R {
        match &mut *self.0.borrow_mut() {
            Some(plugin) => hook(plugin),
            None => panic!("a hook was called before `configure` had succeeded"),
        }
    }
}

impl From<Verdict> for types::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Next => Self::Next,
            Verdict::Allow => Self::Allow,
            Verdict::Deny(refusal) => Self::Deny(refusal.into()),
            Verdict::Drop => Self::Drop,
            Verdict::Disconnect(refusal) => Self::Disconnect(refusal.into()),
            Verdict::Replace(payload) => Self::Replace(payload),
            Verdict::Reply(payload) => Self::Reply(payload),
            Verdict::Route(addresses) => Self::Route(addresses),
        }
    }
}

impl From<Delivery> for on_deliver::Delivery {
    fn from(delivery: Delivery) -> Self {
        match delivery {
            Delivery::Pass => Self::Pass,
            Delivery::Drop => Self::Drop,
            Delivery::Replace(payload) => Self::Replace(payload),
        }
    }
}

impl From<Connect> for types::ConnectVerdict {
    fn from(connect: Connect) -> Self {
        match connect {
            Connect::Pass => Self::Pass,
            Connect::Refuse(refusal) => Self::Refuse(refusal.into()),
            Connect::Accept(identity) => Self::Accept(types::Identity {
                user: identity.user,
                expires_at: identity.expires_at,
                info: identity.info,
                data: identity.data,
                channels: identity.channels,
                attributes: identity.attributes,
            }),
        }
    }
}
