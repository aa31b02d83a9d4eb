//! [`Bases`]: the last publication of each channel in which subscribers of this worker apply deltas.
//!
//! A subscriber gets a delta only if the publication before is the last one that it was sent, unchanged. All
//! subscribers of a worker see its publications in the same order, so that one base serves them all.

use std::collections::HashMap;

use crate::protocol::channel::Channel;
use crate::protocol::delta;
use crate::protocol::push::{Base, Publication};

/// Whether a subscriber gets deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeltaState {
    /// It does not apply them.
    Off,
    /// It applies them, but lacks the last publication: the next one is sent in full.
    Behind,
    /// It was sent the last publication.
    InStep,
}

impl DeltaState {
    pub(super) fn of(applies_deltas: bool) -> Self {
        if applies_deltas { Self::Behind } else { Self::Off }
    }

    /// One more publication has passed, which the subscriber was sent as it was published, or not.
    pub(super) fn pass(&mut self, was_sent: bool) {
        if *self != Self::Off {
            *self = if was_sent { Self::InStep } else { Self::Behind };
        }
    }
}

/// The channels in which somebody applies deltas.
#[derive(Debug, Default)]
pub(super) struct Bases {
    channels: HashMap<Channel, Last>,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Last {
    /// How many subscribers apply deltas.
    subscribers: usize,
    /// `None` before the first publication, and after one without a delta to the next.
    pub(super) base: Option<Base>,
}

impl Bases {
    /// One more subscriber of a channel applies deltas.
    pub(super) fn add(&mut self, channel: &Channel) {
        self.channels.entry(channel.clone()).or_default().subscribers += 1;
    }

    /// A subscriber of a channel has gone that was in this state.
    pub(super) fn release(&mut self, channel: &Channel, state: DeltaState) {
        if state != DeltaState::Off
            && let Some(last) = self.channels.get_mut(channel)
        {
            last.subscribers -= 1;
            if last.subscribers == 0 {
                self.bytes -= last.bytes();
                self.channels.remove(channel);
            }
        }
    }

    /// The last publication of a channel. `None` if nobody applies deltas there.
    pub(super) fn of(&self, channel: &Channel) -> Option<&Last> {
        self.channels.get(channel)
    }

    /// Makes a publication the last one of its channel. If there is no room for its payload, the next one is
    /// sent in full.
    pub(super) fn keep(&mut self, channel: &Channel, publication: &Publication) {
        let Some(last) = self.channels.get_mut(channel) else { return };
        self.bytes -= last.bytes();
        let bytes = publication.data.len();
        let fits = (delta::BYTES_MIN..=delta::BYTES_MAX).contains(&bytes);
        let fits = fits && self.bytes + bytes <= delta::KEPT_BYTES_MAX;
        last.base = fits.then(|| Base::of(publication));
        self.bytes += last.bytes();
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.bytes == 0
    }
}

impl Last {
    fn bytes(&self) -> usize {
        self.base.as_ref().map_or(0, Base::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_stay_within_their_bound_and_go_with_the_last_subscriber() {
        let publication = |bytes: usize| Publication {
            data: vec![b'7'; bytes].into(),
            json: true,
            offset: 0,
            info: None,
            tags: None,
        };
        let channels: Vec<_> = (0..100).map(|n| Channel::parse(&format!("c{n}")).expect("a name")).collect();
        let mut bases = Bases::default();
        bases.keep(&channels[0], &publication(1000));
        assert!(bases.is_empty(), "nobody applies deltas there");
        for channel in &channels {
            bases.add(channel);
            bases.add(channel);
            bases.keep(channel, &publication(delta::BYTES_MAX));
            bases.keep(channel, &publication(delta::BYTES_MAX));
        }
        let kept = |bases: &Bases| {
            channels
                .iter()
                .filter(|channel| bases.of(channel).is_some_and(|last| last.base.is_some()))
                .count()
        };
        assert_eq!(kept(&bases), delta::KEPT_BYTES_MAX / delta::BYTES_MAX);
        bases.keep(&channels[0], &publication(delta::BYTES_MAX + 1));
        bases.keep(&channels[1], &publication(delta::BYTES_MIN - 1));
        assert_eq!(kept(&bases), delta::KEPT_BYTES_MAX / delta::BYTES_MAX - 2, "too large, and too small");
        bases.keep(&channels[99], &publication(delta::BYTES_MAX));
        assert_eq!(kept(&bases), delta::KEPT_BYTES_MAX / delta::BYTES_MAX - 1, "there is room again");
        channels.iter().for_each(|channel| bases.release(channel, DeltaState::Behind));
        assert_eq!(kept(&bases), delta::KEPT_BYTES_MAX / delta::BYTES_MAX - 1);
        channels.iter().for_each(|channel| bases.release(channel, DeltaState::Behind));
        assert!(bases.is_empty());
    }
}
