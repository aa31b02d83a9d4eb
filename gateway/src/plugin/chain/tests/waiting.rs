//! Tests plugins on the asynchronous pool, and chains that are replaced while one runs.

use super::bench::Script;
use super::*;
use crate::plugin::async_pool::{AsyncInstances, AsyncVerdict, PendingVerdict};

/// An asynchronous pool that answers at once.
struct Away;

impl AsyncInstances for Away {
    fn on_connect(&self, _: Arc<ConnectEvent>, _: Duration) -> PendingVerdict {
        Box::pin(async { answer() })
    }
}

fn answer() -> AsyncVerdict {
    AsyncVerdict {
        verdict: Ok(ConnectVerdict::Pass),
        effects: Vec::new(),
        usage: Usage::default(),
        took: None,
    }
}

/// A plugin that runs on the asynchronous pool if `waits` is set.
struct Waiting {
    factory: bench::ScriptedFactory,
    waits: bool,
}

impl Factory for Waiting {
    fn instantiate(&self, counters: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError> {
        self.factory.instantiate(counters)
    }

    fn about(&self) -> &About {
        self.factory.about()
    }

    fn async_instances(&self, _: &Arc<PluginCounters>) -> Option<Arc<dyn AsyncInstances>> {
        self.waits.then(|| Arc::new(Away) as Arc<dyn AsyncInstances>)
    }
}

/// Plugins by name; those with upper-case names run on the asynchronous pool.
#[derive(Default)]
struct World {
    scripts: BTreeMap<char, Arc<Script>>,
    generation: u64,
}

impl World {
    fn chain(&mut self, names: &str) -> Chain {
        self.generation += 1;
        let links = names.chars().map(|name| {
            let script = self.scripts.entry(name).or_default().clone();
            let waits = name.is_ascii_uppercase();
            let factory = Arc::new(Waiting { factory: bench::ScriptedFactory::new(script), waits });
            let counters = Arc::new(PluginCounters::new(1));
            Link::new(name.to_string().into(), 0, Closed, factory, counters).unwrap()
        });
        Chain::new(self.generation, links.collect())
    }

    /// How often each plugin was called on the worker, in the order of their names.
    fn asked(&self) -> String {
        let asked = |(name, script): (&char, &Arc<Script>)| {
            name.to_string().repeat(std::mem::take(&mut *script.seen.lock().unwrap()).len())
        };
        self.scripts.iter().map(asked).collect()
    }
}

fn authentication() -> Authentication {
    let event = ConnectEvent { client: client(), token: "t".into(), data: Bytes::new(), now: 1, at: 1 };
    Authentication::new(event, Duration::from_secs(1))
}

#[test]
fn who_waits_goes_on_behind_the_plugin_that_has_answered() {
    for (after, asked) in [("aWb", "b"), ("Wab", "ab"), ("Wb", "b"), ("aWcb", "bc")] {
        let mut world = World::default();
        let mut authentication = authentication();
        assert!(matches!(world.chain("aWb").authenticate(&mut authentication), Authenticated::Waits(_)));
        assert_eq!(world.asked(), "a");
        let authenticated = world.chain(after).authentication_answered(1, &mut authentication, answer());
        assert!(matches!(authenticated, Authenticated::Done(Admission::Undecided)), "{after}");
        assert_eq!(world.asked(), asked, "{after}");
    }
}

#[test]
fn no_plugin_is_passed_by_because_it_moved_or_came_meanwhile() {
    for after in ["baWc", "anWb", "abn"] {
        let mut world = World::default();
        let mut authentication = authentication();
        assert!(matches!(world.chain("aWb").authenticate(&mut authentication), Authenticated::Waits(_)));
        world.asked();
        let mut chain = world.chain(after);
        let mut authenticated = chain.authentication_answered(1, &mut authentication, answer());
        if matches!(authenticated, Authenticated::Waits(_)) {
            authenticated = chain.authentication_answered(1, &mut authentication, answer());
        }
        assert!(matches!(authenticated, Authenticated::Done(Admission::Undecided)), "{after}");
        let mut expected: Vec<char> = after.chars().filter(char::is_ascii_lowercase).collect();
        expected.sort_unstable();
        assert_eq!(world.asked(), expected.into_iter().collect::<String>(), "{after}");
    }
}

#[test]
fn a_way_does_not_begin_again_for_ever() {
    let mut world = World::default();
    let mut authentication = authentication();
    assert!(matches!(world.chain("W").authenticate(&mut authentication), Authenticated::Waits(_)));
    for names in ["aW", "baW", "cbaW"] {
        assert!(
            matches!(
                world.chain(names).authentication_answered(1, &mut authentication, answer()),
                Authenticated::Waits(_)
            ),
            "{names}"
        );
    }
    let authenticated = world.chain("dcbaW").authentication_answered(1, &mut authentication, answer());
    assert!(matches!(authenticated, Authenticated::Done(Admission::Failed)), "the client is to come back");
}
