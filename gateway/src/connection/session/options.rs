//! What the server API has chosen for single subscriptions, beyond the rules of their namespaces.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxBuildHasher;

use super::Session;
use crate::backplane::{Overrides, SubscribeOptions};
use crate::config::{Namespace, RecoveryMode};
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::push::{MEMBER_BYTES_MAX, Member};

/// The subscriptions with options. Takes no memory while there are none.
#[derive(Default)]
pub(super) struct Chosen(Option<Box<ByChannel>>);

#[derive(Default)]
struct ByChannel(HashMap<Channel, ChosenOptions, FxBuildHasher>);

struct ChosenOptions {
    options: Arc<SubscribeOptions>,
    /// The client as members of this channel see it.
    member: Arc<Member>,
}

/// The rules of one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// The client is listed as a member.
    pub(super) presence: bool,
    /// Others are told that it joins and leaves.
    pub(super) join_leave: bool,
    /// It can recover.
    pub(super) recoverable: bool,
    /// Only the latest publication counts for that.
    pub(super) latest: bool,
    /// Its position is tracked.
    pub(super) positioned: bool,
}

impl Rules {
    /// A pattern has no members and no offsets of its own.
    const OF_PATTERNS: Self =
        Self { presence: false, join_leave: false, recoverable: false, latest: false, positioned: false };

    /// A namespace without history, presence or joins has none for any subscription.
    fn of(namespace: &Namespace, overrides: Overrides) -> Self {
        let both = |rule: bool, setting: Option<bool>| rule && setting.unwrap_or(true);
        let recoverable = both(namespace.recovery, overrides.recovery);
        Self {
            presence: both(namespace.presence, overrides.presence),
            join_leave: both(namespace.join_leave, overrides.join_leave),
            recoverable,
            latest: namespace.recovery_mode == RecoveryMode::Cache,
            positioned: recoverable || both(namespace.recovery, overrides.positioning),
        }
    }
}

impl Chosen {
    fn of(&self, channel: &Channel) -> Option<&ChosenOptions> {
        self.0.as_ref()?.0.get(channel)
    }
}

impl Session {
    /// Remembers the options of a subscription that is about to be made. An error if what members would see
    /// of the client is too large.
    pub(super) fn choose(
        &mut self,
        channel: &Channel,
        options: Option<Arc<SubscribeOptions>>,
    ) -> Result<(), ReplyError> {
        let Some(options) = options else { return Ok(()) };
        let member = if options.info.is_empty() {
            self.member.clone()
        } else {
            let bytes = self.member.user.len() + self.member.info.len() + options.info.len();
            if bytes > MEMBER_BYTES_MAX {
                let why = format!(
                    "user, connection info and channel info have {bytes} bytes; the limit is \
                     {MEMBER_BYTES_MAX}"
                );
                return Err(ReplyError::LIMIT_EXCEEDED.because(why));
            }
            Arc::new(Member { channel_info: options.info.clone(), ..Member::clone(&self.member) })
        };
        let chosen = self.chosen.0.get_or_insert_default();
        chosen.0.insert(channel.clone(), ChosenOptions { options, member });
        Ok(())
    }

    /// Forgets the options of a subscription.
    pub(super) fn forget_chosen(&mut self, channel: &Channel) {
        if let Some(chosen) = &mut self.chosen.0 {
            chosen.0.remove(channel);
            if chosen.0.is_empty() {
                self.chosen.0 = None;
            }
        }
    }

    /// The client as members of a channel see it.
    pub(super) fn member_in(&self, channel: &Channel) -> &Arc<Member> {
        self.chosen.of(channel).map_or(&self.member, |chosen| &chosen.member)
    }

    /// The rules of the client's subscription to a channel.
    pub(super) fn rules_in(&self, namespace: &Namespace, channel: &Channel) -> Rules {
        if channel.is_pattern() {
            return Rules::OF_PATTERNS;
        }
        let overrides = self.chosen.of(channel).map(|chosen| chosen.options.overrides);
        Rules::of(namespace, overrides.unwrap_or_default())
    }

    /// What the client gets with the notice of its subscription.
    pub(super) fn data_in(&self, channel: &Channel) -> Bytes {
        self.chosen.of(channel).map_or_else(Bytes::new, |chosen| chosen.options.data.clone())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::Config;

    fn namespace(rules: &str) -> Namespace {
        let config = Config::parse(&format!("[channel]\nhistory_size = 9\n{rules}"), "test").unwrap();
        Namespace::clone(&config.namespaces.default)
    }

    /// All rules that can be overridden.
    fn rules(all: bool) -> Rules {
        Rules { presence: all, join_leave: all, recoverable: all, latest: false, positioned: all }
    }

    #[test]
    fn a_subscription_without_options_has_the_rules_of_its_namespace() {
        let all = namespace("recovery = true\npresence = true\njoin_leave = true");
        let everything = rules(true);
        assert_eq!(Rules::of(&all, Overrides::default()), everything);
        assert_eq!(Rules::of(&namespace(""), Overrides::default()), rules(false));
        let cache = namespace("recovery = true\nrecovery_mode = 'cache'");
        let expected = Rules { recoverable: true, latest: true, positioned: true, ..rules(false) };
        assert_eq!(Rules::of(&cache, Overrides::default()), expected);
    }

    #[test]
    fn options_take_away_and_never_add() {
        let all = namespace("recovery = true\npresence = true\njoin_leave = true");
        let everything = rules(true);
        let hidden = Overrides { presence: Some(false), join_leave: Some(false), ..Overrides::default() };
        assert_eq!(Rules::of(&all, hidden), Rules { presence: false, join_leave: false, ..everything });
        let stays = Overrides { positioning: Some(false), ..Overrides::default() };
        assert_eq!(Rules::of(&all, stays), everything, "recovery needs the position");
        let live = Overrides { recovery: Some(false), ..Overrides::default() };
        assert_eq!(Rules::of(&all, live), Rules { recoverable: false, ..everything });
        let live = Overrides { recovery: Some(false), positioning: Some(false), ..Overrides::default() };
        assert_eq!(Rules::of(&all, live), Rules { recoverable: false, positioned: false, ..everything });
        let wanted = Overrides {
            presence: Some(true),
            join_leave: Some(true),
            push_join_leave: Some(true),
            recovery: Some(true),
            positioning: Some(true),
        };
        assert_eq!(Rules::of(&namespace(""), wanted), Rules::of(&namespace(""), Overrides::default()));
    }

    #[test]
    fn a_connection_without_options_pays_for_one_pointer() {
        assert_eq!(size_of::<Chosen>(), size_of::<usize>());
    }
}
