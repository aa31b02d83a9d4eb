//! `Interests` selects the commands, channels and publications that a plugin sees.

use std::time::Duration;

use crate::Kind;

/// What a plugin wants to see, said once in [`Plugin::configure`](crate::Plugin::configure).
///
/// A plugin that says nothing sees every message. Each thing it does not ask for is work that the gateway
/// need not do: a message that no plugin wants costs nothing in the chain. Kinds, channels and payload
/// concern [`on_message`](crate::Plugin::on_message) only; [`on_timer`](crate::Plugin::on_timer) and
/// [`on_deliver`](crate::Plugin::on_deliver) have to be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interests {
    kinds: Option<Vec<Kind>>,
    channels: Option<Vec<String>>,
    permissions: Vec<(String, Vec<Kind>)>,
    payload_not_needed: bool,
    timer: Option<Duration>,
    deliver: Option<(Vec<String>, Option<String>)>,
}

impl Interests {
    /// Only these kinds reach [`on_message`](crate::Plugin::on_message).
    pub fn kinds(&mut self, kinds: impl IntoIterator<Item = Kind>) -> &mut Self {
        self.kinds = Some(kinds.into_iter().collect());
        self
    }

    /// Only messages on channels that match one of these patterns reach
    /// [`on_message`](crate::Plugin::on_message).
    ///
    /// A pattern is a channel name in which a last `*` stands for any rest. `*` means channels only; what is
    /// addressed to users and connections is named as such (`#*`, `@*`), see
    /// [`address::matches`](crate::address::matches()). Messages without a channel always arrive.
    pub fn channels<S: Into<String>>(&mut self, patterns: impl IntoIterator<Item = S>) -> &mut Self {
        self.channels = Some(patterns.into_iter().map(Into::into).collect());
        self
    }

    /// Allows messages of these kinds without calling [`on_message`](crate::Plugin::on_message), if the
    /// attribute of the connection, read as channel patterns with blanks between them, covers their channel.
    /// Others reach the hook as ever. `*` covers channels only: an address such as `#42` has to be named as
    /// one. No pattern here can hold a blank.
    ///
    /// For a permission that is granted when a client comes, with
    /// [`Connect::attribute`](crate::Connect::attribute), and that most of its messages need: looking it up
    /// costs the gateway a fraction of a call. A plugin may ask for 16 of them.
    pub fn permit_by(
        &mut self,
        attribute: impl Into<String>,
        kinds: impl IntoIterator<Item = Kind>,
    ) -> &mut Self {
        self.permissions.push((attribute.into(), kinds.into_iter().collect()));
        self
    }

    /// Messages arrive with an empty payload.
    pub fn without_payload(&mut self) -> &mut Self {
        self.payload_not_needed = true;
        self
    }

    /// Runs [`on_timer`](crate::Plugin::on_timer) at this interval, from 100 milliseconds to a day, in whole
    /// milliseconds. A plugin has one timer; one that needs several intervals asks for the shortest and
    /// counts.
    pub fn timer(&mut self, interval: Duration) -> &mut Self {
        self.timer = Some(interval);
        self
    }

    /// Publications in channels that match one of these patterns meet
    /// [`on_deliver`](crate::Plugin::on_deliver) on their way to subscribers, who all receive the same.
    pub fn deliver<S: Into<String>>(&mut self, patterns: impl IntoIterator<Item = S>) -> &mut Self {
        self.deliver = Some((patterns.into_iter().map(Into::into).collect(), None));
        self
    }

    /// The same, but subscribers are told apart by the value that an attribute of their connection has: each
    /// class of them can receive something else. A class costs a call for each publication; more than 64 in
    /// one channel are not served.
    pub fn deliver_by<S: Into<String>>(
        &mut self,
        attribute: impl Into<String>,
        patterns: impl IntoIterator<Item = S>,
    ) -> &mut Self {
        self.deliver = Some((patterns.into_iter().map(Into::into).collect(), Some(attribute.into())));
        self
    }

    /// Everything that one of the rules of a plugin names; `None` if a rule names nothing, because it concerns
    /// everything then.
    ///
    /// ```
    /// use gateway_plugin_sdk::{Interests, Kind};
    ///
    /// let rules = [Some(vec![Kind::Publish]), Some(vec![Kind::Rpc, Kind::Publish])];
    /// let kinds = Interests::union(rules.iter().map(|kinds| kinds.as_deref()));
    /// assert_eq!(kinds, Some(vec![Kind::Publish, Kind::Rpc]));
    /// assert_eq!(Interests::union([Some(&[Kind::Publish][..]), None]), None);
    /// ```
    pub fn union<'p, T: Clone + PartialEq + 'p>(
        parts: impl IntoIterator<Item = Option<&'p [T]>>,
    ) -> Option<Vec<T>> {
        let mut all = Vec::new();
        for part in parts {
            for item in part? {
                if !all.contains(item) {
                    all.push(item.clone());
                }
            }
        }
        Some(all)
    }

    /// The channel patterns asked for with [`deliver`](Self::deliver) or [`deliver_by`](Self::deliver_by),
    /// and the attribute that tells subscribers apart.
    pub fn asked_deliveries(&self) -> Option<(&[String], Option<&str>)> {
        self.deliver.as_ref().map(|(patterns, attribute)| (&**patterns, attribute.as_deref()))
    }

    /// The kinds asked for; `None` for all.
    pub fn asked_kinds(&self) -> Option<&[Kind]> {
        self.kinds.as_deref()
    }

    /// The channel patterns asked for; `None` for all.
    pub fn asked_channels(&self) -> Option<&[String]> {
        self.channels.as_deref()
    }

    /// What was asked for with [`permit_by`](Self::permit_by): attributes and kinds.
    pub fn asked_permissions(&self) -> &[(String, Vec<Kind>)] {
        &self.permissions
    }

    /// The interval asked for.
    pub const fn asked_timer(&self) -> Option<Duration> {
        self.timer
    }

    /// Whether payloads are wanted.
    pub const fn wants_payload(&self) -> bool {
        !self.payload_not_needed
    }
}
