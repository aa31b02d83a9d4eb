//! What plugins make of publications on their way to subscribers: the meeting of the chain with the hub's classes.

use std::sync::Arc;

use bytes::Bytes;

use super::event::Now;
use crate::explain::Picker;
use crate::hub::{self, class::Classes};
use crate::plugin::chain::Chain;
use crate::plugin::event::Outgoing;
use crate::plugin::trace::Trace;
use crate::plugin::verdict::DeliverVerdict;
use crate::protocol::channel::Channel;
use crate::protocol::json;
use crate::protocol::push::{Publication, Push, PushKind};

/// Classes of subscribers that a plugin may tell apart when something is delivered. Each costs a call and a frame; who has
/// more wants to address clients one by one.
const CLASSES_MAX: usize = 64;

/// What the chain makes of one publication, class by class. A plugin is asked once for each class it tells apart, and what
/// it replaced is encoded once.
pub(super) struct Views<'a> {
    chain: &'a mut Chain,
    push: &'a Push,
    publication: &'a Publication,
    epoch: &'a Arc<str>,
    now: Now,
    /// By the number of the class.
    known: Vec<Option<View>>,
    steps: Vec<Step>,
    /// What plugins have replaced the publication with.
    replaced: Vec<Push>,
    /// The explanation, if there is to be one: a look for each class.
    trace: Option<Trace>,
}

/// What a class receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    AsPublished,
    /// The one with this number.
    Replaced(usize),
    Nothing,
}

/// What one plugin has answered.
struct Step {
    plugin: usize,
    class: Box<str>,
    before: View,
    after: View,
}

impl<'a> Views<'a> {
    /// Of a publication that a plugin wants to see. `None` for anything but a publication.
    pub(super) fn of(chain: &'a mut Chain, push: &'a Push, now: Now) -> Option<Self> {
        let PushKind::Publication { publication, epoch } = &push.kind else { return None };
        Some(Self {
            chain,
            push,
            publication,
            epoch,
            now,
            known: Vec::new(),
            steps: Vec::new(),
            replaced: Vec::new(),
            trace: None,
        })
    }

    /// With an explanation, if somebody asks for one.
    pub(super) fn explained(mut self, explain: &Picker) -> Self {
        let publisher = self.publication.info.as_ref().map_or("", |publisher| &*publisher.user);
        if explain.is_on() && explain.pick_delivery(self.now.at, publisher) {
            let outgoing = outgoing(&self.push.channel, self.publication, self.now);
            self.trace = Some(Trace::of_delivery(&outgoing, self.chain.generation(), explain.clock()));
        }
        self
    }

    /// What plugins made of it, if that is to be explained and any was asked.
    pub(super) fn into_explanation(self) -> Option<Trace> {
        self.trace.filter(Trace::was_seen)
    }

    fn find(&mut self, values: &[Box<str>]) -> View {
        let channel = &self.push.channel;
        let mut view = View::AsPublished;
        let mut last = None;
        while view != View::Nothing
            && let Some((plugin, class)) = self.chain.next_deliverer(last, channel, values)
        {
            last = Some(plugin);
            let same = |step: &&Step| step.plugin == plugin && step.before == view && *step.class == *class;
            view = match self.steps.iter().find(same) {
                Some(step) => step.after,
                None => self.ask(plugin, class, view),
            };
        }
        view
    }

    fn ask(&mut self, plugin: usize, class: &str, before: View) -> View {
        let seen = match before {
            View::Replaced(number) => publication_of(&self.replaced[number]).unwrap_or(self.publication),
            View::AsPublished | View::Nothing => self.publication,
        };
        let outgoing = outgoing(&self.push.channel, seen, self.now);
        let asked = self.steps.iter().filter(|step| step.plugin == plugin).count();
        let verdict = if asked < CLASSES_MAX {
            match &mut self.trace {
                None => self.chain.on_deliver(plugin, class, &outgoing),
                Some(trace) => self.chain.on_deliver_traced(plugin, class, &outgoing, trace),
            }
        } else {
            self.chain.too_many_classes(plugin, &outgoing)
        };
        let after = match verdict {
            DeliverVerdict::Pass => before,
            DeliverVerdict::Drop => View::Nothing,
            DeliverVerdict::Replace(payload) => {
                let publication = Arc::new(replace(self.publication, payload));
                let kind = PushKind::Publication { publication, epoch: self.epoch.clone() };
                self.replaced.push(Push::new(self.push.channel.clone(), kind));
                View::Replaced(self.replaced.len() - 1)
            }
        };
        if asked < CLASSES_MAX {
            self.steps.push(Step { plugin, class: class.into(), before, after });
        }
        after
    }
}

impl hub::Views for Views<'_> {
    fn of(&mut self, class: u32, classes: &Classes) -> Option<&Push> {
        let index = class as usize;
        let view = match self.known.get(index) {
            Some(Some(view)) => *view,
            _ => {
                let view = self.find(classes.values(class));
                if self.known.len() <= index {
                    self.known.resize(index + 1, None);
                }
                self.known[index] = Some(view);
                view
            }
        };
        match view {
            View::AsPublished => Some(self.push),
            View::Replaced(number) => Some(&self.replaced[number]),
            View::Nothing => None,
        }
    }
}

/// What a client with these values of the class attributes is to see of a publication that it reads afterwards.
pub(super) fn view(
    chain: &mut Chain,
    channel: &Channel,
    publication: Arc<Publication>,
    values: &[Box<str>],
    now: Now,
) -> Option<Arc<Publication>> {
    let mut view = publication;
    let mut last = None;
    while let Some((plugin, class)) = chain.next_deliverer(last, channel, values) {
        last = Some(plugin);
        match chain.on_deliver(plugin, class, &outgoing(channel, &view, now)) {
            DeliverVerdict::Pass => (),
            DeliverVerdict::Drop => return None,
            DeliverVerdict::Replace(payload) => view = Arc::new(replace(&view, payload)),
        }
    }
    Some(view)
}

fn outgoing(channel: &Channel, publication: &Publication, now: Now) -> Outgoing {
    Outgoing {
        channel: channel.clone(),
        payload: publication.data.clone(),
        publisher: publication.info.clone(),
        now: now.unix,
        at: now.at_millis(),
    }
}

/// The same publication with another payload: it keeps its place in the stream.
fn replace(publication: &Publication, payload: Bytes) -> Publication {
    let (data, json) = match json::compact(payload.clone()) {
        Ok(compact) => (compact, true),
        Err(_) => (payload, false),
    };
    Publication { data, json, offset: publication.offset, info: publication.info.clone() }
}

fn publication_of(push: &Push) -> Option<&Publication> {
    match &push.kind {
        PushKind::Publication { publication, .. } => Some(publication),
        PushKind::Join(_) | PushKind::Leave(_) => None,
    }
}
