//! [`Channel`]: a checked channel name or address. Every receiver of a message is named by one.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest channel name in bytes, and why a text is not a channel name.
pub use gateway_plugin_grammar::address::{BYTES_MAX as CHANNEL_BYTES_MAX, Invalid as InvalidChannel};
use gateway_plugin_grammar::{address, wildcard};

/// A valid address, cheap to clone and never checked again: a channel, a user or a connection. Subscriptions
/// have a pattern in its place, too.
/// [`gateway_plugin_grammar::address`] defines the syntax of each. The first byte distinguishes them, see
/// [`Channel::target`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// The receivers of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// All subscribers of a channel.
    Channel,
    /// All connections of one user.
    User(&'a str),
    /// One connection.
    Connection(&'a str),
}

impl Channel {
    /// Checks a name and copies it.
    ///
    /// # Errors
    ///
    /// If the name is not valid.
    pub fn parse(name: &str) -> Result<Self, InvalidChannel> {
        address::check(name)?;
        Ok(Self(name.into()))
    }

    /// Checks the name of a subscription, which may be a [pattern](gateway_plugin_grammar::wildcard) of
    /// channels, and copies it.
    ///
    /// # Errors
    ///
    /// If the name is not valid.
    pub fn parse_subscription(name: &str) -> Result<Self, InvalidChannel> {
        wildcard::check_subscription(name)?;
        Ok(Self(name.into()))
    }

    /// Whether this is a pattern of channels. It has subscribers, and nothing is published to it.
    pub fn is_pattern(&self) -> bool {
        wildcard::is_wildcard(&self.0)
    }

    /// The *feed* of the namespace of a channel or pattern: the pattern of all its channels. Gateways with
    /// subscribers of patterns get the publications of a namespace by it. `None` without a namespace.
    pub fn feed(&self) -> Option<Self> {
        match self.target() {
            Target::Channel => self.namespace().map(|namespace| Self(format!("{namespace}:**").into())),
            Target::User(_) | Target::Connection(_) => None,
        }
    }

    /// The address of all connections of a user. `None` for an anonymous client, and for names that no client
    /// is admitted with: see [`address::check_user`].
    pub fn of_user(user: &str) -> Option<Self> {
        if user.is_empty() { None } else { Self::parse(&format!("#{user}")).ok() }
    }

    /// The channel of a user in a namespace, such as `personal:#42`. `None` for an anonymous client.
    ///
    /// # Errors
    ///
    /// If the id of the user cannot be a part of a channel.
    pub fn of_user_in(namespace: &str, user: &str) -> Option<Result<Self, InvalidChannel>> {
        if user.is_empty() { None } else { Some(Self::parse(&format!("{namespace}:#{user}"))) }
    }

    /// Whether everything here is for one user or one connection: an address, or a channel such as
    /// `personal:#42`.
    pub fn is_of_one(&self) -> bool {
        match self.target() {
            Target::User(_) | Target::Connection(_) => true,
            Target::Channel => self.0.split_once(':').is_some_and(|(_, name)| name.starts_with('#')),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first colon; `None` if there is no colon.
    pub fn namespace(&self) -> Option<&str> {
        self.0.split_once(':').map(|(namespace, _)| namespace)
    }

    /// Whether a pattern covers this address, see [`address::matches`]: `*` covers only channels.
    pub fn is_covered_by(&self, pattern: &str) -> bool {
        address::matches(pattern, &self.0)
    }

    /// The receivers of this address.
    pub fn target(&self) -> Target<'_> {
        match self.0.as_bytes()[0] {
            b'#' => Target::User(&self.0[1..]),
            b'@' => Target::Connection(&self.0[1..]),
            _ => Target::Channel,
        }
    }
}

impl Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_says_what_an_address_reaches() {
        let parse = |name| Channel::parse(name).expect("valid");
        assert_eq!(parse("chat:1").target(), Target::Channel);
        assert_eq!(parse("#42").target(), Target::User("42"));
        assert_eq!(parse("@c1").target(), Target::Connection("c1"));
        assert_eq!(parse("chat:a:b").namespace(), Some("chat"));
        assert_eq!(parse("news").namespace(), None);
        assert_eq!(Channel::of_user(""), None);
        assert_eq!(Channel::of_user("a\nb"), None);
        let channel = Channel::of_user("jane doe").expect("an address");
        assert_eq!(channel.target(), Target::User("jane doe"));
        assert_eq!(parse("##42").target(), Target::User("#42"));
    }

    #[test]
    fn a_user_has_a_channel_in_a_namespace_if_the_name_permits_it() {
        let of = |user: &str| Channel::of_user_in("inbox", user);
        let channel = of("42").expect("a user").expect("a channel");
        assert_eq!((channel.as_str(), channel.target()), ("inbox:#42", Target::Channel));
        assert!(channel.is_of_one() && Channel::parse("#a:b").is_ok_and(|user| user.is_of_one()));
        assert!(!Channel::parse("inbox:4#2").is_ok_and(|shared| shared.is_of_one()));
        assert_eq!(channel.namespace(), Some("inbox"));
        assert_eq!(of("a:b").expect("a user").expect("a channel").namespace(), Some("inbox"));
        assert_eq!(of(""), None);
        assert_eq!(of("jane doe"), Some(Err(InvalidChannel::Character)));
        assert_eq!(of(&"x".repeat(249)), Some(Err(InvalidChannel::TooLong)));
    }

    #[test]
    fn only_subscriptions_name_patterns() {
        let pattern = Channel::parse_subscription("news:eu.*").expect("a pattern");
        assert!(pattern.is_pattern() && pattern.target() == Target::Channel);
        assert_eq!(Channel::parse("news:eu.*"), Err(InvalidChannel::Character));
        assert_eq!(Channel::parse_subscription("news:eu*"), Err(InvalidChannel::Pattern));
        let channel = Channel::parse_subscription("news:eu.sport").expect("a channel");
        assert!(!channel.is_pattern());
        let feed = |channel: &Channel| channel.feed().map(|feed| feed.to_string());
        assert_eq!((feed(&pattern), feed(&channel)), (Some("news:**".into()), Some("news:**".into())));
        for name in ["news", "#a:b", "#a*b", "@c1"] {
            let address = Channel::parse_subscription(name).expect("valid");
            assert!(!address.is_pattern() && address.feed().is_none(), "{name}");
        }
    }
}
