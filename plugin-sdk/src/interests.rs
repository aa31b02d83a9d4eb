//! `Interests` selects the commands, channels and publications that a plugin sees.

use std::time::Duration;

use crate::Kind;

/// The events that a plugin wants to see; it declares them once in
/// [`Plugin::configure`](crate::Plugin::configure).
///
/// By default a plugin sees every message. Each restriction saves work in the gateway: a message that no
/// plugin wants costs nothing in the chain. Kinds, channels and payload apply only to
/// [`on_message`](crate::Plugin::on_message). The gateway runs [`on_timer`](crate::Plugin::on_timer) and
/// [`on_deliver`](crate::Plugin::on_deliver) only if the plugin requests them.
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
    /// A pattern is a channel name in which a final `*` matches any rest. `*` alone matches only channels;
    /// patterns for users and connections begin with their sign (`#*`, `@*`), see
    /// [`address::matches`](crate::address::matches()). The plugin always gets messages without a channel,
    /// and subscriptions to wildcard patterns that may match one of its channels, see
    /// [`address::concerns`](crate::address::concerns()). It may refuse such a pattern; that it allows one
    /// counts only if all that the pattern matches are among its channels.
    pub fn channels<S: Into<String>>(&mut self, patterns: impl IntoIterator<Item = S>) -> &mut Self {
        self.channels = Some(patterns.into_iter().map(Into::into).collect());
        self
    }

    /// Allows messages of these kinds without calling [`on_message`](crate::Plugin::on_message), if an
    /// attribute of the connection, read as channel patterns separated by blanks, matches their channel.
    /// Other messages still reach the hook. `*` alone matches only channels, not an address such as `#42`. A
    /// pattern cannot contain a blank.
    ///
    /// Use it for a permission that the plugin grants at connect, with
    /// [`Connect::attribute`](crate::Connect::attribute), and that most messages of the client need: the
    /// lookup costs a fraction of a call. A plugin may declare 16 of them.
    pub fn permit_by(
        &mut self,
        attribute: impl Into<String>,
        kinds: impl IntoIterator<Item = Kind>,
    ) -> &mut Self {
        self.permissions.push((attribute.into(), kinds.into_iter().collect()));
        self
    }

    /// Passes messages to the plugin without their payload.
    pub fn without_payload(&mut self) -> &mut Self {
        self.payload_not_needed = true;
        self
    }

    /// Runs [`on_timer`](crate::Plugin::on_timer) at this interval, from 100 milliseconds to a day, in whole
    /// milliseconds. A plugin has one timer; if it needs several intervals, it sets the shortest and counts.
    pub fn timer(&mut self, interval: Duration) -> &mut Self {
        self.timer = Some(interval);
        self
    }

    /// Runs [`on_deliver`](crate::Plugin::on_deliver) for publications in channels that match one of these
    /// patterns, on their way to subscribers. All subscribers receive the same result.
    pub fn deliver<S: Into<String>>(&mut self, patterns: impl IntoIterator<Item = S>) -> &mut Self {
        self.deliver = Some((patterns.into_iter().map(Into::into).collect(), None));
        self
    }

    /// Like [`deliver`](Self::deliver), but groups subscribers into classes by the value of an attribute of
    /// their connection: each class can receive a different result. Each class costs a call for each
    /// publication. For classes beyond 64 in one channel, the failure policy of the plugin decides.
    pub fn deliver_by<S: Into<String>>(
        &mut self,
        attribute: impl Into<String>,
        patterns: impl IntoIterator<Item = S>,
    ) -> &mut Self {
        self.deliver = Some((patterns.into_iter().map(Into::into).collect(), Some(attribute.into())));
        self
    }

    /// Everything that one of the rules of a plugin names; `None` if a rule names nothing, because it
    /// concerns everything then.
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

    /// The channel patterns set with [`deliver`](Self::deliver) or [`deliver_by`](Self::deliver_by), and the
    /// attribute that groups subscribers.
    pub fn asked_deliveries(&self) -> Option<(&[String], Option<&str>)> {
        self.deliver.as_ref().map(|(patterns, attribute)| (&**patterns, attribute.as_deref()))
    }

    /// The requested kinds; `None` for all.
    pub fn asked_kinds(&self) -> Option<&[Kind]> {
        self.kinds.as_deref()
    }

    /// The requested channel patterns; `None` for all.
    pub fn asked_channels(&self) -> Option<&[String]> {
        self.channels.as_deref()
    }

    /// The attributes and kinds set with [`permit_by`](Self::permit_by).
    pub fn asked_permissions(&self) -> &[(String, Vec<Kind>)] {
        &self.permissions
    }

    /// The requested interval.
    pub const fn asked_timer(&self) -> Option<Duration> {
        self.timer
    }

    /// Whether the plugin wants payloads.
    pub const fn wants_payload(&self) -> bool {
        !self.payload_not_needed
    }
}
