//! [`Interests`]: the hooks and messages that a plugin wants. The chain checks them before it calls the
//! plugin.

use std::time::Duration;

use gateway_plugin_grammar::{address, wildcard};

use crate::plugin::event::{Kind, Message};
use crate::protocol::channel::Channel;

/// The hooks a plugin implements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Called once per instance.
    pub configure: bool,
    /// A client connects.
    pub on_connect: bool,
    /// A command of an admitted client.
    pub on_message: bool,
    /// A publication leaves towards subscribers.
    pub on_deliver: bool,
    /// A client has disconnected.
    pub on_disconnect: bool,
    /// An interval has passed.
    pub on_timer: bool,
}

impl Hooks {
    /// The names in the plugin interface, in the order of a client's life.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (self.configure, "configure"),
            (self.on_connect, "on-connect"),
            (self.on_message, "on-message"),
            (self.on_deliver, "on-deliver"),
            (self.on_disconnect, "on-disconnect"),
            (self.on_timer, "on-timer"),
        ]
        .into_iter()
        .filter_map(|(implemented, name)| implemented.then_some(name))
    }

    /// Whether nothing is implemented.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// A set of message kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds(u16);

impl Kinds {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// All kinds.
    pub const ALL: Self = {
        let mut bits = 0;
        let mut next = 0;
        while next < Kind::ALL.len() {
            bits |= 1 << Kind::ALL[next] as u32;
            next += 1;
        }
        Self(bits)
    };

    /// The kinds of `numbers` that this version knows: a plugin may name kinds of a later interface.
    pub fn from_numbers(numbers: &[u32]) -> Self {
        Kind::ALL
            .iter()
            .filter(|kind| numbers.contains(&(**kind as u32)))
            .fold(Self::NONE, |set, kind| set.with(*kind))
    }

    /// This set and `kind`.
    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | 1 << kind as u32)
    }

    /// Whether `kind` is in the set.
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u32 != 0
    }
}

/// A pattern of channels or other addresses that can match something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Parses a pattern of a plugin. `None` if no channel could ever match it.
    pub fn parse(text: &str) -> Option<Self> {
        address::is_pattern(text).then(|| Self(text.into()))
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `channel` is meant.
    pub fn matches(&self, channel: &Channel) -> bool {
        channel.is_covered_by(&self.0)
    }

    /// Whether a subscription is meant: to a channel, or to a pattern that may match one.
    pub fn concerns(&self, subscription: &Channel) -> bool {
        wildcard::concerns(&self.0, subscription.as_str())
    }
}

/// The registrations of one instance in `configure`, and the hooks of its binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interests {
    /// The hooks that can be called.
    pub hooks: Hooks,
    /// The kinds that reach `on-message`.
    pub kinds: Kinds,
    /// The channels that reach `on-message`; `None` for all.
    pub channels: Option<Box<[Pattern]>>,
    /// Messages allowed without a call of `on-message`.
    pub permissions: Vec<Permission>,
    /// Whether `on-message` gets the payload.
    pub payload: bool,
    /// Interval of `on-timer`; `None` for never.
    pub timer: Option<Duration>,
    /// Publications for which `on-deliver` is called; `None` for none.
    pub deliver: Option<DeliverInterest>,
}

/// Messages that need no call if an attribute of their connection covers the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// The kinds.
    pub kinds: Kinds,
    /// The attribute: channel patterns with blanks between them.
    pub attribute: Box<str>,
}

/// Publications that an instance wants on their way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverInterest {
    /// The channels.
    pub channels: Box<[Pattern]>,
    /// The attribute by whose values it distinguishes subscribers; `None` if it does not.
    pub class: Option<Box<str>>,
}

impl Interests {
    /// All events of these hooks that need no registration: the default of a plugin.
    pub fn everything(hooks: Hooks) -> Self {
        Self {
            hooks,
            kinds: Kinds::ALL,
            channels: None,
            permissions: Vec::new(),
            payload: true,
            timer: None,
            deliver: None,
        }
    }

    /// Whether a message is allowed without a call, because an attribute of its connection covers its
    /// channel.
    pub fn permit(&self, message: &Message) -> bool {
        let Some(channel) = &message.content.channel else { return false };
        self.permissions.iter().filter(|permission| permission.kinds.contains(message.content.kind)).any(
            |permission| {
                let patterns = message.client.attributes.get(&permission.attribute);
                patterns.is_some_and(|patterns| {
                    patterns.split_ascii_whitespace().any(|pattern| channel.is_covered_by(pattern))
                })
            },
        )
    }

    /// Whether the plugin can allow a message on its own. Whoever is asked about some channels alone has no
    /// say in a subscription to a wildcard pattern that reaches others too: it can refuse that, and not allow
    /// it.
    pub fn may_allow(&self, channel: Option<&Channel>) -> bool {
        match (&self.channels, channel.filter(|channel| channel.is_pattern())) {
            (Some(patterns), Some(wildcard)) => patterns.iter().any(|pattern| pattern.matches(wildcard)),
            _ => true,
        }
    }

    /// The kinds for which `on-message` may have to be called.
    pub fn message_kinds(&self) -> Kinds {
        if self.hooks.on_message { self.kinds } else { Kinds::NONE }
    }

    /// Whether `on-message` is called for this kind and channel. An event without a channel passes the
    /// channel patterns. A subscription to a wildcard pattern concerns every plugin that wants one of the
    /// channels that the pattern may match: it may guard them.
    pub fn wants_message(&self, kind: Kind, channel: Option<&Channel>) -> bool {
        self.hooks.on_message
            && self.kinds.contains(kind)
            && match (&self.channels, channel) {
                (Some(patterns), Some(channel)) => match kind {
                    Kind::Subscribe | Kind::SubRefresh => {
                        patterns.iter().any(|pattern| pattern.concerns(channel))
                    }
                    _ => patterns.iter().any(|pattern| pattern.matches(channel)),
                },
                _ => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> Channel {
        Channel::parse(name).expect("valid")
    }

    #[test]
    fn a_last_star_stands_for_any_rest() {
        for (pattern, name, matches) in [
            ("news", "news", true),
            ("news", "news2", false),
            ("chat:*", "chat:1", true),
            ("chat:*", "chat:", true),
            ("chat:*", "chat", false),
            ("*", "#42", false),
            ("#*", "#42", true),
            ("#*", "news", false),
        ] {
            let parsed = Pattern::parse(pattern).expect(pattern);
            assert_eq!(parsed.matches(&channel(name)), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_that_no_channel_can_match_is_refused() {
        for bad in ["", "a*b", "a b", "**", "#", "{x}*"] {
            assert_eq!(Pattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn kinds_of_a_later_interface_are_left_out() {
        let kinds = Kinds::from_numbers(&[1, 9, 11, 4_000_000_000]);
        assert_eq!(kinds, Kinds::NONE.with(Kind::Publish).with(Kind::Raw));
        assert!(Kind::ALL.iter().all(|kind| Kinds::ALL.contains(*kind)));
    }

    #[test]
    fn a_message_is_wanted_if_hook_kind_and_channel_are() {
        let hooks = Hooks { on_message: true, ..Hooks::default() };
        let mut interests = Interests::everything(hooks);
        assert!(interests.wants_message(Kind::Publish, Some(&channel("a"))));
        interests.channels = Pattern::parse("chat:*").map(|pattern| [pattern].into());
        interests.kinds = Kinds::NONE.with(Kind::Publish).with(Kind::Rpc);
        assert!(interests.wants_message(Kind::Publish, Some(&channel("chat:1"))));
        assert!(!interests.wants_message(Kind::Publish, Some(&channel("a"))));
        assert!(!interests.wants_message(Kind::Subscribe, Some(&channel("chat:1"))));
        assert!(interests.wants_message(Kind::Rpc, None), "an event without a channel always arrives");
        interests.kinds = Kinds::ALL;
        let pattern = |name| Channel::parse_subscription(name).expect("a pattern");
        interests.channels = Pattern::parse("chat:secret*").map(|pattern| [pattern].into());
        for (name, wanted) in [("chat:**", true), ("chat:*", true), ("chat:open.*", false), ("news:*", false)]
        {
            assert_eq!(interests.wants_message(Kind::Subscribe, Some(&pattern(name))), wanted, "{name}");
        }
        for (name, allows) in
            [("chat:**", false), ("chat:*", false), ("chat:secret.*", true), ("chat:secret.a.**", true)]
        {
            assert_eq!(interests.may_allow(Some(&pattern(name))), allows, "{name}");
        }
        assert!(interests.may_allow(None) && interests.may_allow(Some(&channel("news"))));
        interests.kinds = Kinds::NONE.with(Kind::Rpc);
        interests.hooks.on_message = false;
        assert!(!interests.wants_message(Kind::Rpc, None));
        assert_eq!(interests.message_kinds(), Kinds::NONE);
    }
}
