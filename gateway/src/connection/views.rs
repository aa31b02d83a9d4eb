//! [`Views`] runs the chain for a publication on its way to subscribers, once for each of the hub's classes.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Now;
use crate::explain::Picker;
use crate::hub::{self, class::Classes};
use crate::plugin::chain::Chain;
use crate::plugin::event::Outgoing;
use crate::plugin::trace::Trace;
use crate::plugin::verdict::DeliverVerdict;
use crate::protocol::channel::Channel;
use crate::protocol::json::{self, NotJson};
use crate::protocol::push::{Publication, Push, PushKind, payload_bytes};
use crate::protocol::tags::tags_bytes;

/// Classes of subscribers that a plugin may distinguish for one delivery. Each costs a call and a frame;
/// plugins that need more should address clients one by one.
const CLASSES_MAX: usize = 64;

/// Views of one publication, class by class. A plugin is called once for each class that it distinguishes,
/// and its replacement is encoded once.
pub(super) struct Views<'a> {
    chain: &'a mut Chain,
    push: &'a Push,
    publication: &'a Publication,
    epoch: &'a Arc<str>,
    now: Now,
    /// Most bytes of a publication.
    bytes_max: usize,
    /// Indexed by class.
    known: Vec<Option<View>>,
    steps: Vec<Step>,
    /// Replacements by plugins.
    replaced: Vec<Push>,
    /// The trace, if there is one: an entry for each class.
    trace: Option<Trace>,
}

/// The view of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    AsPublished,
    /// The replacement with this index.
    Replaced(usize),
    Nothing,
}

/// The verdict of one plugin.
struct Step {
    plugin: usize,
    class: Box<str>,
    before: View,
    after: View,
}

impl<'a> Views<'a> {
    /// Views of a publication that a plugin wants to see. `None` for any other push.
    pub(super) fn of(chain: &'a mut Chain, push: &'a Push, now: Now, bytes_max: usize) -> Option<Self> {
        let PushKind::Publication { publication, epoch } = &push.kind else { return None };
        Some(Self {
            chain,
            push,
            publication,
            epoch,
            now,
            bytes_max,
            known: Vec::new(),
            steps: Vec::new(),
            replaced: Vec::new(),
            trace: None,
        })
    }

    /// With a trace, if a client or the API requested one.
    pub(super) fn explained(mut self, explain: &Picker) -> Self {
        let publisher = self.publication.info.as_ref().map_or("", |publisher| &*publisher.user);
        if explain.is_on() && explain.pick_delivery(self.now.at, publisher, &self.push.channel) {
            let outgoing = outgoing(&self.push.channel, self.publication, self.now);
            self.trace = Some(Trace::of_delivery(&outgoing, self.chain.generation(), explain.clock()));
        }
        self
    }

    /// The trace, if there is one and a plugin was called.
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
            DeliverVerdict::Replace(payload) => match replace(self.publication, payload, self.bytes_max) {
                Ok(publication) => {
                    let publication = Arc::new(publication);
                    let kind = PushKind::Publication { publication, epoch: self.epoch.clone() };
                    self.replaced.push(Push::new(self.push.channel.clone(), kind));
                    View::Replaced(self.replaced.len() - 1)
                }
                Err(unfit) => {
                    self.chain.unfit_delivery(plugin, &self.push.channel, &unfit);
                    View::Nothing
                }
            },
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

/// The view of a client with these class attributes on a publication that it reads later.
pub(super) fn view(
    chain: &mut Chain,
    channel: &Channel,
    publication: &Arc<Publication>,
    values: &[Box<str>],
    now: Now,
    bytes_max: usize,
) -> Option<Arc<Publication>> {
    let mut view = publication.clone();
    let mut last = None;
    while let Some((plugin, class)) = chain.next_deliverer(last, channel, values) {
        last = Some(plugin);
        match chain.on_deliver(plugin, class, &outgoing(channel, &view, now)) {
            DeliverVerdict::Pass => (),
            DeliverVerdict::Drop => return None,
            DeliverVerdict::Replace(payload) => match replace(publication, payload, bytes_max) {
                Ok(replaced) => view = Arc::new(replaced),
                Err(unfit) => {
                    chain.unfit_delivery(plugin, channel, &unfit);
                    return None;
                }
            },
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

/// Why the payload of a plugin cannot replace a publication. Completes the sentence "a payload that ...".
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Unfit {
    #[error("is JSON {0}")]
    Json(#[from] json::Unfit),
    #[error("has {bytes} bytes, where `limits.publication_bytes_max` is {bytes_max}")]
    TooLarge { bytes: usize, bytes_max: usize },
}

/// The same publication with another payload, at the same position of the stream. The payload must be valid
/// for a publication. The bound is the larger of `bytes_max` and the original size, because another gateway
/// may permit larger publications.
fn replace(publication: &Publication, payload: Bytes, bytes_max: usize) -> Result<Publication, Unfit> {
    let (data, json) = match json::compact(payload.clone()) {
        Ok(compact) => (compact, true),
        Err(NotJson::Unfit(unfit)) => return Err(unfit.into()),
        Err(NotJson::Syntax(_)) => (payload, false),
    };
    let tags = tags_bytes(publication.tags.as_deref());
    let bytes = payload_bytes(&data, json) + tags;
    if bytes > bytes_max.max(payload_bytes(&publication.data, publication.json) + tags) {
        return Err(Unfit::TooLarge { bytes, bytes_max });
    }
    let Publication { offset, info, tags, .. } = publication;
    Ok(Publication { data, json, offset: *offset, info: info.clone(), tags: tags.clone() })
}

fn publication_of(push: &Push) -> Option<&Publication> {
    match &push.kind {
        PushKind::Publication { publication, .. } => Some(publication),
        PushKind::Join(_) | PushKind::Leave(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_published_takes_the_place_of_nothing() {
        let published = |bytes: usize| {
            let data = serde_json::to_vec(&"x".repeat(bytes - 2)).expect("a text").into();
            Publication { data, json: true, offset: 7, info: None, tags: None }
        };
        let replaced = |publication: &Publication, payload: &str| {
            replace(publication, Bytes::copy_from_slice(payload.as_bytes()), 100)
                .map(|replaced| (replaced.json, replaced.offset, replaced.data.len()))
        };
        let small = published(10);
        assert_eq!(replaced(&small, "[1,\n2]"), Ok((true, 7, 5)));
        assert_eq!(replaced(&small, "no JSON"), Ok((false, 7, 7)));
        let deep = format!("{}{}", "[".repeat(121), "]".repeat(121));
        assert_eq!(replaced(&published(300), &deep), Err(json::Unfit::TooDeep.into()));
        assert_eq!(replaced(&small, r#"["\ud800"]"#), Err(json::Unfit::LoneSurrogate.into()));
        let text = "x".repeat(99);
        assert_eq!(replaced(&small, &text), Err(Unfit::TooLarge { bytes: 101, bytes_max: 100 }));
        assert_eq!(replaced(&small, &text[1..]), Ok((false, 7, 98)));
        assert!(replaced(&published(101), &text).is_ok(), "what it replaces has that size");
    }
}
