//! Plugins that are asked elsewhere, and chains that are exchanged meanwhile.

use super::bench::Script;
use super::*;
use crate::plugin::elsewhere::{Answered, Answering, Elsewhere};

/// Says at once what it is to say, to those who look.
struct Away;

impl Elsewhere for Away {
    fn on_connect(&self, _: Arc<Hello>, _: Duration) -> Answering {
        Box::pin(async { answer() })
    }
}

fn answer() -> Answered {
    Answered { verdict: Ok(ConnectVerdict::Pass), effects: Vec::new(), usage: Usage::default() }
}

/// A plugin of which `waits` says whether it is asked elsewhere.
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

    fn elsewhere(&self, _: &Arc<PluginCounters>) -> Option<Arc<dyn Elsewhere>> {
        self.waits.then(|| Arc::new(Away) as Arc<dyn Elsewhere>)
    }
}

/// Plugins by their names; those in capital letters are asked elsewhere.
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

    /// How often each plugin was asked here, in the order of their names.
    fn asked(&self) -> String {
        let asked = |(name, script): (&char, &Arc<Script>)| {
            name.to_string().repeat(std::mem::take(&mut *script.seen.lock().unwrap()).len())
        };
        self.scripts.iter().map(asked).collect()
    }
}

fn hello() -> Judging {
    let hello = Hello { client: client(), token: "t".into(), data: Bytes::new(), now: 1, at: 1 };
    Judging::new(hello, Duration::from_secs(1))
}

#[test]
fn who_waits_goes_on_behind_the_plugin_that_has_answered() {
    for (after, asked) in [("aWb", "b"), ("Wab", "ab"), ("Wb", "b"), ("aWcb", "bc")] {
        let mut world = World::default();
        let mut judging = hello();
        assert!(matches!(world.chain("aWb").judge(&mut judging), Judged::Waits(_)));
        assert_eq!(world.asked(), "a");
        let judged = world.chain(after).judge_on(1, &mut judging, answer());
        assert!(matches!(judged, Judged::Done(Admission::Undecided)), "{after}");
        assert_eq!(world.asked(), asked, "{after}");
    }
}

#[test]
fn no_plugin_is_passed_by_because_it_moved_or_came_meanwhile() {
    for after in ["baWc", "anWb", "abn"] {
        let mut world = World::default();
        let mut judging = hello();
        assert!(matches!(world.chain("aWb").judge(&mut judging), Judged::Waits(_)));
        world.asked();
        let mut chain = world.chain(after);
        let mut judged = chain.judge_on(1, &mut judging, answer());
        if matches!(judged, Judged::Waits(_)) {
            judged = chain.judge_on(1, &mut judging, answer());
        }
        assert!(matches!(judged, Judged::Done(Admission::Undecided)), "{after}");
        let mut expected: Vec<char> = after.chars().filter(char::is_ascii_lowercase).collect();
        expected.sort_unstable();
        assert_eq!(world.asked(), expected.into_iter().collect::<String>(), "{after}");
    }
}

#[test]
fn a_way_does_not_begin_again_for_ever() {
    let mut world = World::default();
    let mut judging = hello();
    assert!(matches!(world.chain("W").judge(&mut judging), Judged::Waits(_)));
    for names in ["aW", "baW", "cbaW"] {
        assert!(
            matches!(world.chain(names).judge_on(1, &mut judging, answer()), Judged::Waits(_)),
            "{names}"
        );
    }
    let judged = world.chain("dcbaW").judge_on(1, &mut judging, answer());
    assert!(matches!(judged, Judged::Done(Admission::Failed)), "the client is to come back");
}
