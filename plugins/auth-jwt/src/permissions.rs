//! What a token permits: channel patterns, kept as attributes of the connection and looked up with each
//! message.

use gateway_plugin_sdk::{Connect, Interests, Kind, Message, Verdict, address, code};

use crate::Rejected;
use crate::claims::{ClaimPath, Claims};

/// As many patterns as one claim may hold: each is compared with the channel of each message.
const PATTERNS_MAX: usize = 64;

/// All patterns of one claim together, in bytes. A connection has room for 16 KiB of attributes, of every
/// plugin.
const PATTERNS_BYTES_MAX: usize = 2048;

/// Stands for the user in a pattern.
const USER: &str = "{user}";

/// What can be permitted, and the attribute that holds its patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Subscribe,
    Publish,
    Presence,
    History,
}

/// Permissions from claims.
#[derive(Debug)]
pub(crate) struct Permissions {
    /// The claim with the patterns of each action, in the order of [`Action::ALL`].
    pub(crate) claims: [ClaimPath; 4],
    /// Whether what the claims do not permit is denied, or left to the others.
    pub(crate) deny: bool,
}

impl Action {
    pub(crate) const ALL: [Self; 4] = [Self::Subscribe, Self::Publish, Self::Presence, Self::History];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Presence => "presence",
            Self::History => "history",
        }
    }

    const fn attribute(self) -> &'static str {
        match self {
            Self::Subscribe => "auth-jwt.subscribe",
            Self::Publish => "auth-jwt.publish",
            Self::Presence => "auth-jwt.presence",
            Self::History => "auth-jwt.history",
        }
    }

    const fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Subscribe => Some(Self::Subscribe),
            Kind::Publish => Some(Self::Publish),
            Kind::Presence | Kind::PresenceStats => Some(Self::Presence),
            Kind::History => Some(Self::History),
            _ => None,
        }
    }
}

impl Permissions {
    /// The kinds of messages that need a permission.
    pub(crate) const KINDS: [Kind; 5] =
        [Kind::Subscribe, Kind::Publish, Kind::Presence, Kind::PresenceStats, Kind::History];

    /// Lets the gateway look up what is permitted by itself: it asks only about the rest.
    pub(crate) fn declare(interests: &mut Interests, kinds: &[Kind]) {
        for action in Action::ALL {
            let kinds = kinds.iter().copied().filter(|kind| Action::of(*kind) == Some(action));
            interests.permit_by(action.attribute(), kinds);
        }
    }

    /// Gives the connection what the token permits, in place of what one before did.
    pub(crate) fn grant(
        &self,
        claims: &Claims,
        user: &str,
        mut connect: Connect,
    ) -> Result<Connect, Rejected> {
        for (action, path) in Action::ALL.into_iter().zip(&self.claims) {
            let patterns = patterns(claims.texts(path)?, user)
                .map_err(|why| Rejected::Invalid(format!("claim `{path}` {why}")))?;
            connect = connect.attribute(action.attribute(), patterns);
        }
        Ok(connect)
    }

    pub(crate) fn check(&self, event: &Message<'_>) -> Verdict {
        let Some(action) = Action::of(event.kind()) else { return Verdict::next() };
        let patterns = event.attribute(action.attribute()).unwrap_or_default();
        let channel = event.channel();
        if patterns.split_ascii_whitespace().any(|pattern| address::matches(pattern, channel)) {
            return Verdict::allow();
        }
        match self.deny {
            true => Verdict::deny(code::PERMISSION_DENIED, "permission denied"),
            false => Verdict::next(),
        }
    }
}

/// The patterns in one line. None of them holds white space.
fn patterns(patterns: Vec<&str>, user: &str) -> Result<String, String> {
    if patterns.len() > PATTERNS_MAX {
        return Err(format!("has more than {PATTERNS_MAX} channel patterns"));
    }
    let mut line = String::new();
    for pattern in patterns {
        let own;
        let pattern = match pattern.contains(USER) {
            false => pattern,
            // A name that is no part of a channel, or none at all, has no channels of its own: a star in it
            // would even open those of others.
            true if !address::is_part(user) => continue,
            true => {
                own = pattern.replace(USER, user);
                // Nor does a name make an address of a pattern that was written for channels.
                if address::is_direct(&own) && !address::is_direct(pattern) {
                    continue;
                }
                &own
            }
        };
        // White space ends a pattern, so the address of a user with a blank in the name is not one of these.
        if !address::is_pattern(pattern) || pattern.contains(char::is_whitespace) {
            return Err("holds a text that is no channel pattern".into());
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(pattern);
    }
    if line.len() > PATTERNS_BYTES_MAX {
        return Err(format!("is longer than {PATTERNS_BYTES_MAX} bytes"));
    }
    Ok(line)
}
