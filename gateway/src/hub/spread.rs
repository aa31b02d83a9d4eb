//! [`Spread`] passes one publication on to the subscribers of its channel.

use std::sync::Arc;

use bytes::Bytes;

use super::class::Classes;
use super::deltas::DeltaState;
use super::signal::Signal;
use super::{Delivered, Filters, Next, Subscriber, Subscribers, Views};
use crate::outbound::Pushed;
use crate::protocol::channel::Channel;
use crate::protocol::command::Position;
use crate::protocol::framing::FrameMaker;
use crate::protocol::push::Following;
use crate::protocol::tags::Tags;

/// A publication on its way to the subscribers of its channel.
pub(super) struct Spread<'a> {
    pub(super) channel: &'a Channel,
    pub(super) offset: u64,
    pub(super) epoch: &'a Arc<str>,
    pub(super) classes: &'a Classes,
    pub(super) maker: &'a FrameMaker,
    /// `None` if nobody applies deltas.
    pub(super) following: Option<Following<'a>>,
}

impl Spread<'_> {
    /// Queues it for the subscribers whose filter accepts its tags.
    pub(super) fn filtered(
        &self,
        subscribers: &mut Subscribers,
        filters: Option<&Filters>,
        tags: Option<&Tags>,
        views: &mut impl Views,
    ) -> Delivered {
        match filters {
            None => self.to(subscribers, views, |_| true),
            Some(filters) => {
                let wanted = |number: u64| filters.get(&number).is_none_or(|filter| filter.wants(tags));
                self.to(subscribers, views, wanted)
            }
        }
    }

    /// Queues it for the subscribers that `wanted` selects by connection number. All others advance their
    /// position too.
    fn to(
        &self,
        subscribers: &mut Subscribers,
        views: &mut impl Views,
        wanted: impl Fn(u64) -> bool,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        for subscriber in subscribers.values_mut() {
            let Subscriber { handle, form, position, delta, .. } = subscriber;
            let next = position.next(self.offset, self.epoch);
            let view = match next {
                Next::Deliver | Next::Hold if wanted(handle.number) => {
                    views.of(handle.class.get(), self.classes)
                }
                Next::Deliver | Next::Hold => {
                    delivered.filtered += 1;
                    None
                }
                Next::Known | Next::Gap => None,
            };
            let frame = view.map(|view| match &self.following {
                Some(following) if *delta == DeltaState::InStep && following.is_of(view) => {
                    following.frame(*form)
                }
                _ => view.frame(*form, self.maker),
            });
            let mut is_sent = false;
            match next {
                Next::Deliver => {
                    if let Some(frame) = frame {
                        let pushed = handle.push(frame);
                        delivered.count(pushed);
                        is_sent = pushed == Pushed::Sent;
                    }
                }
                Next::Hold => {
                    let at = Position { offset: self.offset, epoch: self.epoch.clone() };
                    position.hold(Some(at), frame.unwrap_or(&Bytes::new()));
                }
                Next::Known => (),
                Next::Gap => {
                    delivered.gaps += 1;
                    handle.signal(Signal::Gap(self.channel.clone()));
                }
            }
            if let Some(following) = &self.following {
                delta.pass(is_sent && view.is_some_and(|view| following.is_of(view)));
            }
        }
        delivered
    }
}
