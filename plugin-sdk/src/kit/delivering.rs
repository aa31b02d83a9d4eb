//! `Delivering` sends one publication to the delivery hook of a plugin under test.

use serde::Serialize;

use super::host::{self, Call, Hook};
use super::{Kit, Outcome, as_json, check, client::Client};
use crate::{Delivery, Plugin, address, event};

/// A delivery that has not started yet.
#[derive(Debug)]
pub struct Delivering<'k, P> {
    kit: &'k mut Kit<P>,
    channel: String,
    class: String,
    publisher: Option<Client>,
    payload: Vec<u8>,
}

impl<'k, P: Plugin> Delivering<'k, P> {
    pub(super) fn new(kit: &'k mut Kit<P>, channel: &str) -> Self {
        Self { kit, channel: channel.to_owned(), class: String::new(), publisher: None, payload: Vec::new() }
    }

    /// Sets the value of the plugin's class attribute for these subscribers. A plugin without a class
    /// attribute does not see it.
    #[must_use]
    pub fn class(mut self, class: &str) -> Self {
        class.clone_into(&mut self.class);
        self
    }

    /// Sets the client that published it.
    #[must_use]
    pub fn publisher(mut self, connection: &str, user: &str) -> Self {
        let mut client = Client::new(0, connection, self.kit.now);
        user.clone_into(&mut client.user);
        self.publisher = Some(client);
        self
    }

    /// What was published.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Sets the payload, as JSON.
    ///
    /// # Panics
    ///
    /// If JSON cannot express the value.
    #[must_use]
    #[track_caller]
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Self {
        self.payload(as_json(value))
    }

    /// Calls the plugin, if its interests cover the channel. If the gateway would deliver nothing, because
    /// receivers may reject the JSON of the answer, the verdict is [`Delivery::Drop`].
    ///
    /// # Panics
    ///
    /// Panics if the answer has more bytes than the limit.
    #[track_caller]
    pub fn send(self) -> Outcome<Delivery> {
        self.try_send().unwrap_or_else(|why| panic!("{why}"))
    }

    /// What the gateway cannot carry out is an error.
    pub(super) fn try_send(self) -> Result<Outcome<Delivery>, String> {
        let asked = self.kit.interests.asked_deliveries();
        let wanted = asked
            .filter(|(patterns, _)| patterns.iter().any(|pattern| address::matches(pattern, &self.channel)));
        let Some((_, attribute)) = wanted else {
            return Ok(Outcome {
                verdict: Delivery::Pass,
                effects: Vec::new(),
                payload: None,
                log: Vec::new(),
                called: false,
            });
        };
        let class = if attribute.is_some() { &*self.class } else { "" };
        let mut call = Call::new(Hook::Deliver, self.kit.now, self.kit.limits, &self.kit.around);
        (call.client, call.channel) = (self.publisher, self.channel);
        let plugin = &mut self.kit.plugin;
        let (verdict, mut call) =
            host::enter(call, || plugin.on_deliver(&event::Outgoing::new(class, &self.payload)));
        let nothing = check::deliver(&verdict, &mut call)
            .map_err(|why| format!("the gateway cannot deliver this: {why}"))?;
        let verdict = if nothing { Delivery::Drop } else { verdict };
        let payload = match &verdict {
            Delivery::Replace(payload) => Some(payload.clone()),
            Delivery::Pass | Delivery::Drop => None,
        };
        Ok(Outcome { verdict, effects: call.effects, payload, log: call.log, called: true })
    }
}
