//! A plugin that withholds every third publication and changes every second, each for one of two classes more
//! than for the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway::plugin::counters::PluginCounters;
use gateway::plugin::event::{ConnectEvent, DisconnectEvent, Message, Outgoing};
use gateway::plugin::failure::{Failure, FailurePolicy};
use gateway::plugin::interests::{DeliverInterest, Hooks, Interests, Pattern};
use gateway::plugin::load::{About, Factory, LoadError};
use gateway::plugin::verdict::{ConnectVerdict, DeliverVerdict, Effect, Verdict};
use gateway::plugin::{Chain, Link, Plugin};
use serde_json::{Value, json};

const ATTRIBUTE: &str = "side";
/// Of every other client; the rest has none.
const LEFT: &str = "left";

/// What a client should receive of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Hidden,
    Clear,
    Veiled,
}

fn is_left(index: usize) -> bool {
    index.is_multiple_of(2)
}

/// Of the client with this index.
pub(super) fn attributes(index: usize) -> BTreeMap<Box<str>, Box<str>> {
    is_left(index).then(|| (ATTRIBUTE.into(), LEFT.into())).into_iter().collect()
}

/// Of the publication with this number, for the client with this index.
pub(super) fn of(index: usize, number: u64) -> View {
    for_class(is_left(index), number)
}

fn for_class(left: bool, number: u64) -> View {
    if number.is_multiple_of(3) {
        View::Hidden
    } else if number.is_multiple_of(2) {
        View::Veiled
    } else if left && number.is_multiple_of(5) {
        View::Hidden
    } else {
        View::Clear
    }
}

/// The payload that the client receives in place of the publication with this number.
pub(super) fn veiled(index: usize, number: u64) -> Value {
    json!({ "veiled": number, "class": if is_left(index) { LEFT } else { "" } })
}

/// A chain of this plugin alone.
pub(super) fn chain(worker: usize) -> Chain {
    let hooks = Hooks { on_deliver: true, ..Hooks::default() };
    let about = About {
        name: None,
        version: None,
        sdk: None,
        interface: "0.1".into(),
        hooks,
        requested: Default::default(),
        self_test: None,
    };
    let counters = Arc::new(PluginCounters::new(1));
    let factory = Arc::new(Veil(about, interests(hooks)));
    let link = Link::new("veil".into(), worker, FailurePolicy::Closed, factory, counters);
    Chain::new(1, vec![link.expect("it is made")])
}

fn interests(hooks: Hooks) -> Interests {
    let channels = Pattern::parse("*").into_iter().collect();
    let deliver = DeliverInterest { channels, class: Some(ATTRIBUTE.into()) };
    Interests { deliver: Some(deliver), ..Interests::everything(hooks) }
}

#[derive(Clone)]
struct Veil(About, Interests);

impl Factory for Veil {
    fn instantiate(&self, _: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError> {
        Ok(Box::new(self.clone()))
    }

    fn about(&self) -> &About {
        &self.0
    }
}

impl Plugin for Veil {
    fn interests(&self) -> &Interests {
        &self.1
    }

    fn on_connect(&mut self, _: &ConnectEvent, _: &mut Vec<Effect>) -> Result<ConnectVerdict, Failure> {
        unreachable!("it has no such hook")
    }

    fn on_message(&mut self, _: &mut Message, _: &mut Vec<Effect>) -> Result<Verdict, Failure> {
        unreachable!("it has no such hook")
    }

    fn on_disconnect(&mut self, _: &DisconnectEvent, _: &mut Vec<Effect>) -> Result<(), Failure> {
        unreachable!("it has no such hook")
    }

    fn on_deliver(&mut self, class: &str, outgoing: &Outgoing) -> Result<DeliverVerdict, Failure> {
        let published: Value = serde_json::from_slice(&outgoing.payload).expect("JSON");
        let number = published["n"].as_u64().expect("as it was published, and not a view");
        Ok(match for_class(class == LEFT, number) {
            View::Hidden => DeliverVerdict::Drop,
            View::Clear => DeliverVerdict::Pass,
            View::Veiled => {
                let payload = json!({ "veiled": number, "class": class });
                DeliverVerdict::Replace(payload.to_string().into())
            }
        })
    }
}
