//! [`Deliverers`]: the plugins that see publications on their way to subscribers, and the attributes by which
//! they distinguish subscribers.

use std::sync::Arc;

use super::interests::{DeliverInterest, Pattern};
use super::link::Link;
use crate::protocol::channel::Channel;

/// The plugins of a chain that export `on-deliver` and registered for it. Read once: an instance that
/// replaces a failed one changes nothing here.
#[derive(Debug, Default)]
pub(super) struct Deliverers {
    all: Box<[Deliverer]>,
    /// The class attributes, without duplicates.
    attributes: Arc<[Box<str>]>,
}

#[derive(Debug)]
struct Deliverer {
    /// Its index in the chain.
    link: usize,
    channels: Box<[Pattern]>,
    /// The index of its class attribute in `attributes`.
    class: Option<usize>,
}

impl Deliverers {
    pub(super) fn of(links: &[Link]) -> Self {
        let mut attributes: Vec<Box<str>> = Vec::new();
        let mut all = Vec::new();
        for (link, interests) in links.iter().map(Link::interests).enumerate() {
            let Some(DeliverInterest { channels, class }) = &interests.deliver else { continue };
            if !interests.hooks.on_deliver {
                continue;
            }
            let class = class.as_ref().map(|attribute| {
                attributes.iter().position(|known| known == attribute).unwrap_or_else(|| {
                    attributes.push(attribute.clone());
                    attributes.len() - 1
                })
            });
            all.push(Deliverer { link, channels: channels.clone(), class });
        }
        Self { all: all.into(), attributes: attributes.into() }
    }

    pub(super) fn attributes(&self) -> &Arc<[Box<str>]> {
        &self.attributes
    }

    /// Whether a plugin wants publications in this channel.
    pub(super) fn want(&self, channel: &Channel) -> bool {
        self.all.iter().any(|one| one.wants(channel))
    }

    /// The next plugin after `after` that wants publications in this channel: its index in the chain, and the
    /// class in which it sees a subscriber with these attribute values.
    pub(super) fn next<'a>(
        &self,
        after: Option<usize>,
        channel: &Channel,
        values: &'a [Box<str>],
    ) -> Option<(usize, &'a str)> {
        let mut later = self.all.iter().filter(|one| after.is_none_or(|after| one.link > after));
        let one = later.find(|one| one.wants(channel))?;
        let class = one.class.and_then(|class| values.get(class)).map_or("", |value| value);
        Some((one.link, class))
    }
}

impl Deliverer {
    fn wants(&self, channel: &Channel) -> bool {
        self.channels.iter().any(|pattern| pattern.matches(channel))
    }
}
