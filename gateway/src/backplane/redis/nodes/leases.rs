//! Who is alive, judged by what was read and when. The clocks of Redis and of other machines play no part: a lease counts
//! from the moment at which this gateway saw it renewed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::backplane::Node;

/// What one reading of the leases has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A gateway is there.
    Came(Node),
    /// A gateway has said goodbye, or another one found it dead first.
    Left(Node),
    /// A lease has run out.
    Died(Node),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Leases {
    lease: Duration,
    alive: BTreeMap<Box<str>, Alive>,
    /// The last leases of those that have died and are still listed.
    dead: BTreeMap<Box<str>, Box<str>>,
    /// When the leases were read for the last time.
    read: Option<Duration>,
    /// Since when they have been read without a break.
    steady: Duration,
}

#[derive(Debug)]
struct Alive {
    node: Node,
    lease: Box<str>,
    /// When it was seen to have been renewed.
    renewed: Duration,
}

impl Leases {
    /// Nobody is known yet. A lease runs out when it was not renewed for this long.
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, alive: BTreeMap::new(), dead: BTreeMap::new(), read: None, steady: Duration::ZERO }
    }

    /// The others that are alive.
    pub(super) fn alive(&self) -> impl Iterator<Item = &Node> {
        self.alive.values().map(|alive| &alive.node)
    }

    /// Whether it is known who there is.
    pub(super) fn have_been_read(&self) -> bool {
        self.read.is_some()
    }

    /// The names of those that have died, and what their leases were.
    pub(super) fn dead(&self) -> Vec<(Box<str>, Box<str>)> {
        self.dead.iter().map(|(name, lease)| (name.clone(), lease.clone())).collect()
    }

    /// All leases were read, among them that of this gateway, `me`.
    pub(super) fn hear(&mut self, at: Duration, me: &str, listed: Vec<(Box<str>, Box<str>)>) -> Vec<Change> {
        // While nothing was read nobody could be seen to renew: all get a full lease from now on.
        if self.read.is_none_or(|read| at.saturating_sub(read) > self.lease / 2) {
            self.steady = at;
            self.alive.values_mut().for_each(|alive| alive.renewed = at);
        }
        self.read = Some(at);
        let mut changes = Vec::new();
        let listed: BTreeMap<_, _> = listed.into_iter().filter(|(name, _)| **name != *me).collect();
        self.dead.retain(|name, lease| listed.get(name) == Some(lease));
        for (name, lease) in &listed {
            match self.alive.get_mut(name) {
                Some(alive) if alive.lease == *lease => (),
                Some(alive) => {
                    alive.lease.clone_from(lease);
                    alive.renewed = at;
                }
                None if self.dead.contains_key(name) => (),
                None => {
                    if let Some(node) = read(name, lease) {
                        changes.push(Change::Came(node.clone()));
                        let alive = Alive { node, lease: lease.clone(), renewed: at };
                        self.alive.insert(name.clone(), alive);
                    }
                }
            }
        }
        // A Redis that came back without its data lists nobody for a moment.
        let settled = at.saturating_sub(self.steady) >= self.lease;
        let (lease, dead) = (self.lease, &mut self.dead);
        self.alive.retain(|name, alive| {
            let is_listed = listed.contains_key(name);
            if is_listed && at.saturating_sub(alive.renewed) >= lease {
                dead.insert(name.clone(), alive.lease.clone());
                changes.push(Change::Died(alive.node.clone()));
                false
            } else if !is_listed && settled {
                changes.push(Change::Left(alive.node.clone()));
                false
            } else {
                true
            }
        });
        changes
    }
}

/// What a lease says: the number of the beat, when the gateway began, its version and its name.
fn read(id: &str, lease: &str) -> Option<Node> {
    let mut parts = lease.splitn(4, ' ');
    let _beat: u64 = parts.next()?.parse().ok()?;
    let started = parts.next()?.parse().ok()?;
    let version = parts.next()?.into();
    Some(Node { id: id.into(), name: parts.next()?.into(), version, started })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// Time goes on, and everybody who is alive has renewed.
    struct Scene {
        leases: Leases,
        at: u64,
        beat: u64,
    }

    impl Scene {
        fn new() -> Self {
            Self { leases: Leases::new(Duration::from_millis(3000)), at: 10_000, beat: 0 }
        }

        /// A reading `millis` later, in which `renewed` have renewed and `stale` have not since the first reading.
        fn after(&mut self, millis: u64, renewed: &[&str], stale: &[&str]) -> Vec<String> {
            self.at += millis;
            self.beat += 1;
            let lease = |beat: u64, name: &str| format!("{beat} 1700000000000 0.1.0 {name} here").into();
            let renewed = renewed.iter().map(|name| (Box::from(*name), lease(self.beat, name)));
            let stale = stale.iter().map(|name| (Box::from(*name), lease(1, name)));
            let changes =
                self.leases.hear(Duration::from_millis(self.at), "me", renewed.chain(stale).collect());
            let show = |change: &Change| match change {
                Change::Came(node) => format!("{} came", node.id),
                Change::Left(node) => format!("{} left", node.id),
                Change::Died(node) => format!("{} died", node.id),
            };
            changes.iter().map(show).collect()
        }
    }

    #[test]
    fn who_renews_lives_and_who_does_not_dies_after_a_lease() {
        let mut scene = Scene::new();
        assert_eq!(scene.after(0, &["me", "a", "b"], &[]), ["a came", "b came"]);
        for _ in 0..5 {
            assert!(scene.after(500, &["me", "a"], &["b"]).is_empty());
        }
        assert_eq!(scene.after(500, &["me", "a"], &["b"]), ["b died"]);
        assert_eq!(scene.leases.dead().len(), 1);
        assert!(scene.after(500, &["me", "a"], &["b"]).is_empty(), "once");
        assert!(scene.after(500, &["me", "a"], &[]).is_empty(), "somebody has buried it");
        assert!(scene.leases.dead().is_empty());
        let alive: Vec<_> = scene.leases.alive().collect();
        assert_eq!(alive.len(), 1);
        let started = 1_700_000_000_000;
        let a = Node { id: "a".into(), name: "a here".into(), version: "0.1.0".into(), started };
        assert_eq!(alive[0], &a);
    }

    #[test]
    fn who_was_taken_for_dead_and_renews_is_alive_again() {
        let mut scene = Scene::new();
        scene.after(0, &["a"], &[]);
        for _ in 0..6 {
            scene.after(500, &[], &["a"]);
        }
        assert_eq!(scene.leases.alive().count(), 0);
        assert_eq!(scene.after(500, &["a"], &[]), ["a came"]);
        assert!(scene.leases.dead().is_empty());
    }

    #[test]
    fn who_says_goodbye_is_gone_at_once() {
        let mut scene = Scene::new();
        for _ in 0..8 {
            scene.after(500, &["a"], &[]);
        }
        assert_eq!(scene.after(500, &[], &[]), ["a left"]);
    }

    #[test]
    fn while_nothing_can_be_read_nobody_dies() {
        let mut scene = Scene::new();
        scene.after(0, &["a", "b", "c"], &[]);
        // Frozen for a minute: the others come back at their own pace, and one not at all.
        assert!(scene.after(60_000, &[], &["a", "b", "c"]).is_empty());
        assert!(scene.after(500, &["a"], &["b", "c"]).is_empty());
        for _ in 0..4 {
            assert!(scene.after(500, &["a", "b"], &["c"]).is_empty());
        }
        assert_eq!(scene.after(500, &["a", "b"], &["c"]), ["c died"], "a full lease later");
    }

    #[test]
    fn a_redis_that_has_lost_its_data_declares_nobody_gone() {
        let mut scene = Scene::new();
        scene.after(0, &["a", "b"], &[]);
        assert!(scene.after(5_000, &[], &[]).is_empty());
        assert!(scene.after(500, &["a"], &[]).is_empty());
        for _ in 0..4 {
            assert!(scene.after(500, &["a"], &[]).is_empty());
        }
        assert_eq!(scene.after(500, &["a"], &[]), ["b left"]);
    }

    #[test]
    fn what_is_no_lease_is_nobody() {
        let mut leases = Leases::new(Duration::from_secs(3));
        let listed =
            ["", "x", "1", "1 2", "1 2 3", "-1 2 3 4"].map(|lease| (Box::from("a"), Box::from(lease)));
        for lease in listed {
            assert!(leases.hear(Duration::ZERO, "me", vec![lease]).is_empty());
        }
        assert!(read("a", "1 2 3 4 5").is_some_and(|node| &*node.name == "4 5"));
        assert_eq!(&*read("a", "1 2 3 4").unwrap().version, "3");
    }
}
