//! `Rule` is one line of the routing table: a condition and an action.

use gateway_plugin_sdk::prelude::*;
use serde_json::Value;

use crate::payload::{Path, Payload};
use crate::template::{Json, Text};

/// As many channel patterns as the gateway takes as interests.
const PATTERNS_MAX: usize = 64;

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) when: When,
    pub(crate) then: Action,
}

/// What a message has to be like. A part that is `None` does not matter.
#[derive(Debug, Default)]
pub(crate) struct When {
    pub(crate) kinds: Option<Vec<Kind>>,
    /// Patterns, of which one has to match.
    pub(crate) channels: Option<Vec<String>>,
    /// A pattern.
    pub(crate) user: Option<String>,
    pub(crate) authenticated: Option<bool>,
    /// Where in the payload, and what has to be there.
    pub(crate) field: Option<(Path, Value)>,
}

/// What becomes of it.
#[derive(Debug)]
pub(crate) enum Action {
    Allow,
    Deny(u32, String),
    Drop,
    /// Sets fields of the payload and goes on to the next rule.
    Rewrite(Vec<(Path, Json)>),
    Route(Vec<Text>),
    Reply(Json),
}

impl When {
    /// `reaches` compares a pattern of the rule with the channel of the event.
    fn matches(
        &self,
        event: &Message<'_>,
        payload: &Payload<'_>,
        reaches: impl Fn(&str, &str) -> bool,
    ) -> bool {
        // The cheap parts first: the payload is parsed for messages that pass all others.
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind()))
            && self.channels.as_ref().is_none_or(|patterns| {
                !event.channel().is_empty() && patterns.iter().any(|p| reaches(p, event.channel()))
            })
            && self.authenticated.is_none_or(|wanted| wanted != event.user().is_empty())
            && self
                .user
                .as_ref()
                .is_none_or(|p| !event.user().is_empty() && address::matches_user(p, event.user()))
            && self
                .field
                .as_ref()
                .is_none_or(|(path, wanted)| payload.get(path).is_some_and(|found| found.is(wanted)))
    }
}

impl Rule {
    /// Whether the rule is about a message. A client may subscribe to a wildcard pattern: whoever refuses
    /// some of its channels refuses the pattern, and whoever allows some of them does not allow the others.
    pub(crate) fn matches(&self, event: &Message<'_>, payload: &Payload<'_>) -> bool {
        match self.then {
            Action::Deny(..) | Action::Drop => self.when.matches(event, payload, address::concerns),
            _ => self.when.matches(event, payload, address::matches),
        }
    }

    /// Every place in the payload that the rule looks at. What it sets is no such place.
    pub(crate) fn each_path(&mut self, path: &mut dyn FnMut(&mut Path)) {
        if let Some((field, _)) = &mut self.when.field {
            path(field);
        }
        match &mut self.then {
            Action::Allow | Action::Deny(..) | Action::Drop => {}
            Action::Rewrite(fields) => fields.iter_mut().for_each(|(_, value)| value.each_path(path)),
            Action::Route(templates) => templates.iter_mut().for_each(|template| template.each_path(path)),
            Action::Reply(value) => value.each_path(path),
        }
    }

    /// Whether the interests keep every message of the rule's kinds from the router that is in no channel of
    /// theirs. One without a channel passes them, and so does a subscription to a wildcard pattern that
    /// reaches one of the channels.
    fn is_kept_to_channels(&self) -> bool {
        use Kind::{Raw, Rpc, Send, SubRefresh, Subscribe};
        let always = |kind: &Kind| !matches!(kind, Rpc | Send | Raw | Subscribe | SubRefresh);
        self.when.kinds.as_ref().is_some_and(|kinds| kinds.iter().all(always))
    }

    fn needs_payload(&self) -> bool {
        self.when.field.is_some()
            || match &self.then {
                Action::Allow | Action::Deny(..) | Action::Drop => false,
                Action::Rewrite(_) => true,
                Action::Route(templates) => templates.iter().any(Text::needs_payload),
                Action::Reply(value) => value.needs_payload(),
            }
    }
}

/// Asks for no more than the rules can use. What the gateway does not hand over, it need not copy.
///
/// Where the interests say the same as every rule, the rules need not ask again.
pub(crate) fn declare(rules: &mut [Rule], interests: &mut Interests) {
    if let Some(kinds) = Interests::union(rules.iter().map(|rule| rule.when.kinds.as_deref())) {
        interests.kinds(kinds);
    }
    // With more patterns than the gateway takes, the router sees all channels and sorts for itself.
    if let Some(patterns) = Interests::union(rules.iter().map(|rule| rule.when.channels.as_deref()))
        && patterns.len() <= PATTERNS_MAX
    {
        for rule in rules.iter_mut().filter(|rule| rule.is_kept_to_channels()) {
            rule.when.channels.take_if(|own| patterns.iter().all(|pattern| own.contains(pattern)));
        }
        interests.channels(patterns);
    }
    if !rules.iter().any(Rule::needs_payload) {
        interests.without_payload();
    }
}
