//! When a single node tells that a channel is occupied or vacated.

use std::sync::Mutex;

use super::*;
use crate::backplane::TICK;
use crate::backplane::occupancy::OccupancyObserver;
use crate::config::Config;
use crate::telemetry::occupancy::OccupancyMetrics;

const DELAY: Duration = Duration::from_secs(5);

/// Events of channels need an upstream.
const TOLD: &str = "events.upstream = 'told'\nupstreams.told.url = 'http://127.0.0.1:9'";

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl OccupancyObserver for Told {
    fn occupied(&self, channel: &Channel) {
        self.0.lock().unwrap().push(format!("{} occupied", channel.as_str()));
    }

    fn vacated(&self, channel: &Channel) {
        self.0.lock().unwrap().push(format!("{} vacated", channel.as_str()));
    }
}

struct Scene {
    node: Node,
    told: Arc<Told>,
    metrics: Arc<OccupancyMetrics>,
    at: Duration,
}

impl Scene {
    fn new(settings: &str) -> Self {
        let text = format!(
            "{TOLD}\n{settings}\n[namespaces.room]\nevents = ['occupied', 'vacated']\n[namespaces.other]"
        );
        let config = Arc::new(Config::parse(&text, "test").unwrap());
        let (told, metrics) = (Arc::new(Told::default()), Arc::new(OccupancyMetrics::default()));
        let teller = Teller::new(&config, told.clone(), || metrics.clone());
        let Node { memory, inboxes, ids } = Node::new();
        Self { node: Node { memory: memory.telling(teller), inboxes, ids }, told, metrics, at: S(100) }
    }

    fn come(&self, worker: usize, name: &str) {
        self.node.announce(worker, name).unwrap();
    }

    fn leave(&self, worker: usize, name: &str) {
        self.node.memory.remove_interest(worker, &channel(name));
    }

    /// Lets time pass; returns what was told since the last call.
    fn after(&mut self, time: Duration) -> Vec<String> {
        let end = self.at + time;
        while self.at < end {
            self.at = (self.at + TICK).min(end);
            self.node.memory.tick(self.at);
        }
        std::mem::take(&mut *self.told.0.lock().unwrap())
    }
}

#[test]
fn the_first_subscriber_occupies_a_channel_and_the_last_one_vacates_it_after_the_delay() {
    let mut scene = Scene::new("");
    scene.after(TICK);
    scene.come(0, "room:a");
    assert_eq!(scene.after(Duration::ZERO), ["room:a occupied"]);
    scene.come(1, "room:a");
    scene.leave(0, "room:a");
    scene.leave(0, "room:a");
    assert_eq!(scene.metrics.channels(), 1);
    assert!(scene.after(2 * DELAY).is_empty(), "another worker has a subscriber");
    scene.leave(1, "room:a");
    assert_eq!(scene.metrics.channels(), 0);
    assert!(scene.after(DELAY).is_empty(), "never before the delay is over");
    assert_eq!(scene.after(2 * TICK), ["room:a vacated"]);
    assert!(scene.after(2 * DELAY).is_empty());
    scene.come(2, "room:a");
    assert_eq!(scene.after(TICK), ["room:a occupied"]);
}

#[test]
fn a_subscriber_that_is_back_within_the_delay_is_no_event() {
    let mut scene = Scene::new("");
    scene.come(0, "room:a");
    assert_eq!(scene.after(TICK), ["room:a occupied"]);
    for _ in 0..5 {
        scene.leave(0, "room:a");
        assert!(scene.after(DELAY - TICK).is_empty());
        scene.come(1, "room:a");
        scene.leave(1, "room:a");
        scene.come(0, "room:a");
    }
    assert!(scene.after(3 * DELAY).is_empty());
    scene.leave(0, "room:a");
    assert_eq!(scene.after(DELAY + 2 * TICK), ["room:a vacated"], "a whole delay after the last one");
}

#[test]
fn nothing_is_told_of_addresses_patterns_and_namespaces_that_do_not_ask_for_it() {
    let mut scene = Scene::new("");
    for name in ["other:a", "plain", "#42", "#room:a"] {
        scene.come(0, name);
        scene.leave(0, name);
    }
    let feed = channel("room:a").feed().unwrap();
    now(scene.node.memory.add_interest(0, &feed, ReplyTo::Nobody)).unwrap();
    scene.node.memory.remove_interest(0, &feed);
    assert!(scene.after(2 * DELAY).is_empty());
    let plain = Arc::new(Config::parse("[namespaces.room]", "test").unwrap());
    assert!(Teller::new(&plain, Arc::new(Told::default()), || panic!("nobody is told")).is_none());
}

#[test]
fn without_a_delay_and_beyond_the_bound_a_channel_is_vacated_at_once() {
    let mut scene = Scene::new("events.vacated_delay = '0s'");
    scene.come(0, "room:a");
    scene.leave(0, "room:a");
    assert_eq!(scene.after(Duration::ZERO), ["room:a occupied", "room:a vacated"]);
    let mut scene = Scene::new("memory.unsubscribed_channels_max = 1");
    for name in ["room:a", "room:b"] {
        scene.come(0, name);
    }
    scene.after(TICK);
    for name in ["room:a", "room:b"] {
        scene.leave(0, name);
    }
    assert_eq!(scene.after(Duration::ZERO), ["room:b vacated"]);
    assert_eq!(scene.after(DELAY + 2 * TICK), ["room:a vacated"]);
}

#[test]
fn a_refused_subscriber_occupies_nothing_and_the_end_waits_for_no_delay() {
    let mut scene = Scene::new("");
    for number in 0..100 {
        scene.come(0, &format!("room:{number}"));
    }
    assert_eq!(scene.after(TICK).len(), 100);
    assert!(scene.node.announce(0, "room:x").is_err(), "the node has as many channels as it may");
    assert!(scene.after(TICK).is_empty());
    scene.leave(0, "room:7");
    scene.node.memory.tell_vacated();
    assert_eq!(scene.after(TICK), ["room:7 vacated"]);
}
