//! Reads `[events]`, and which events of its channels a namespace tells.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Upstream;
use super::read::{Document, Invalid, Section, found};
use super::resolve::{MINUTE, all};

const KINDS: &str = "a list of \"subscribed\", \"unsubscribed\", \"published\", \"occupied\" and \"vacated\"";

/// Which upstream is told what happens at the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// Its name, which is that of an upstream; `None` tells nobody.
    pub upstream: Option<Box<str>>,
    /// Whether it is told of clients that were admitted.
    pub connected: bool,
    /// Whether it is told when they have gone.
    pub disconnected: bool,
    /// How long a channel has to be without subscribers until it is vacated.
    pub vacated_delay: Duration,
}

/// The events of a namespace's channels that the upstream is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChannelEvents {
    /// A client has a subscription.
    pub subscribed: bool,
    /// It has it no more.
    pub unsubscribed: bool,
    /// A publication was accepted.
    pub published: bool,
    /// A channel has its first subscriber.
    pub occupied: bool,
    /// A channel has no subscriber any more.
    pub vacated: bool,
}

/// Reads `[events]`.
pub(super) fn events(document: &Document<'_>, upstreams: &BTreeMap<Box<str>, Upstream>) -> Events {
    let section = document.section("events");
    let accepted = "the name of a table [upstreams.NAME], or \"\"";
    let upstream = section.simple("upstream", &accepted, |value| {
        let name = value.as_str()?;
        Some((!name.is_empty()).then(|| Box::<str>::from(name)))
    });
    let events = Events {
        upstream,
        connected: section.flag("connected"),
        disconnected: section.flag("disconnected"),
        vacated_delay: section.duration("vacated_delay", 0..=10 * MINUTE),
    };
    if let Some(name) = &events.upstream
        && !upstreams.contains_key(name)
    {
        section.conflict(&["upstream"], &format!("{name:?}, which is no upstream"), accepted);
    }
    section.finish();
    events
}

/// Reads the list `events` of a namespace. `told` is whether there is an upstream that is told.
pub(super) fn of_channels(section: &Section<'_, '_>, told: bool) -> ChannelEvents {
    let events = section.value("events", |value| {
        let invalid = |span, found| Invalid { span, found, accepted: KINDS.to_owned() };
        let Some(list) = value.get_ref().as_array() else {
            return Err(vec![invalid(None, found(value.get_ref()))]);
        };
        let mut events = ChannelEvents::default();
        let kinds = list.iter().map(|entry| {
            let kind = match entry.get_ref().as_str() {
                Some("subscribed") => &mut events.subscribed,
                Some("unsubscribed") => &mut events.unsubscribed,
                Some("published") => &mut events.published,
                Some("occupied") => &mut events.occupied,
                Some("vacated") => &mut events.vacated,
                _ => return Err(invalid(Some(entry.span()), found(entry.get_ref()))),
            };
            *kind = true;
            Ok(())
        });
        all(kinds)?;
        Ok(events)
    });
    if events != ChannelEvents::default() && !told {
        section.conflict(
            &["events"],
            "events that nobody is told",
            "[], or this list together with `events.upstream`",
        );
    }
    events
}
