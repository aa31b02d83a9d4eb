//! `Leases` decides which gateways are alive, from the leases it has read and when. The clocks of Redis and
//! of other machines play no part: a lease counts from the moment at which this gateway saw it renewed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::backplane::Node;

/// A change found by reading the leases.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A new gateway.
    Came(Node),
    /// A gateway has left, or another gateway has already declared it dead.
    Left(Node),
    /// The lease of a gateway has expired.
    Died(Node),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Leases {
    lease: Duration,
    alive: BTreeMap<Box<str>, Alive>,
    /// The last leases of dead gateways that are still listed.
    dead: BTreeMap<Box<str>, Box<str>>,
    /// Time of the last read.
    read: Option<Duration>,
    /// Time since which the leases have been read without a break.
    steady: Duration,
    /// Number of gateways that died without being seen at the server that holds the leases now.
    unseen: usize,
}

#[derive(Debug)]
struct Alive {
    node: Node,
    lease: Box<str>,
    /// When a renewal was last seen.
    renewed: Duration,
    /// The revision of the rules that it has applied, if stated.
    seen: Option<u64>,
    /// Whether a renewal was seen at the server that holds the leases now.
    is_here: bool,
}

/// The content of a lease.
pub(crate) struct Lease<'a> {
    /// Different at every beat, so that the others notice the renewal.
    pub(crate) beat: u64,
    /// Start time, in Unix time in milliseconds.
    pub(crate) started: u64,
    /// Uptime in milliseconds.
    pub(crate) uptime: u64,
    /// Name for people.
    pub(crate) name: &'a str,
    /// The revision of the rules that it has applied.
    pub(crate) seen: u64,
}

impl Lease<'_> {
    /// Encodes the lease. Readers skip unknown fields.
    pub(crate) fn to_text(&self) -> String {
        let Self { beat, started, uptime, name, seen } = self;
        let version = env!("CARGO_PKG_VERSION");
        json!({"beat": beat, "started": started, "uptime": uptime, "version": version, "name": name, "seen": seen})
            .to_string()
    }
}

impl Leases {
    /// No gateway is known yet. A lease expires if it was not renewed for this long.
    pub(crate) fn new(lease: Duration) -> Self {
        Self {
            lease,
            alive: BTreeMap::new(),
            dead: BTreeMap::new(),
            read: None,
            steady: Duration::ZERO,
            unseen: 0,
        }
    }

    /// The other gateways that are alive.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &Node> {
        self.alive.values().map(|alive| &alive.node)
    }

    /// The live gateways that have not applied a revision of the rules yet. Gateways that do not report
    /// revisions are left out.
    pub(crate) fn behind(&self, revision: u64) -> impl Iterator<Item = &Node> {
        let behind = move |alive: &&Alive| alive.seen.is_some_and(|seen| seen < revision);
        self.alive.values().filter(behind).map(|alive| &alive.node)
    }

    /// Another server holds the leases from now on. A lease read there may be a copy of one written
    /// elsewhere.
    pub(crate) fn moved(&mut self) {
        self.alive.values_mut().for_each(|alive| alive.is_here = false);
    }

    /// Returns and resets the number of gateways that died without being seen at the current server.
    pub(crate) fn take_unseen(&mut self) -> usize {
        std::mem::take(&mut self.unseen)
    }

    /// Adds back a number that could not be reported.
    pub(crate) fn put_back_unseen(&mut self, count: usize) {
        self.unseen += count;
    }

    /// Whether the leases have ever been read.
    pub(crate) fn have_been_read(&self) -> bool {
        self.read.is_some()
    }

    /// Names and last leases of the dead gateways.
    pub(crate) fn dead(&self) -> Vec<(Box<str>, Box<str>)> {
        self.dead.iter().map(|(name, lease)| (name.clone(), lease.clone())).collect()
    }

    /// Takes in all leases, including that of this gateway, `me`.
    pub(crate) fn hear(&mut self, at: Duration, me: &str, listed: Vec<(Box<str>, Box<str>)>) -> Vec<Change> {
        // No renewal can be seen between reads: after a break, every gateway gets a full lease.
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
                    if let Some((node, seen)) = read(name, lease) {
                        (alive.node, alive.seen) = (node, seen);
                    }
                    alive.lease.clone_from(lease);
                    (alive.renewed, alive.is_here) = (at, true);
                }
                None if self.dead.contains_key(name) => (),
                None => {
                    if let Some((node, seen)) = read(name, lease) {
                        changes.push(Change::Came(node.clone()));
                        let alive = Alive { node, lease: lease.clone(), renewed: at, seen, is_here: true };
                        self.alive.insert(name.clone(), alive);
                    }
                }
            }
        }
        // A Redis that came back without its data lists no gateway for a moment.
        let settled = at.saturating_sub(self.steady) >= self.lease;
        let (lease, dead, unseen) = (self.lease, &mut self.dead, &mut self.unseen);
        self.alive.retain(|name, alive| {
            let is_listed = listed.contains_key(name);
            if is_listed && at.saturating_sub(alive.renewed) >= lease {
                dead.insert(name.clone(), alive.lease.clone());
                *unseen += usize::from(!alive.is_here);
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

/// Decodes a lease: its node, and the revision that it has applied.
fn read(id: &str, lease: &str) -> Option<(Node, Option<u64>)> {
    let lease: Value = serde_json::from_str(lease).ok()?;
    let (number, text) = (|key: &str| lease[key].as_u64(), |key: &str| lease[key].as_str().map(Box::from));
    number("beat")?;
    let (name, version, started) = (text("name")?, text("version")?, number("started")?);
    let node = Node { id: id.into(), name, version, started, uptime: number("uptime")?, differs: Vec::new() };
    Some((node, number("seen")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::membership::leases::*;

    fn lease(beat: u64, name: &str, seen: u64) -> String {
        let name = &format!("{name} here");
        Lease { beat, started: 1_700_000_000_000, uptime: 1000 + beat, name, seen }.to_text()
    }

    /// Time passes, and every live gateway has renewed its lease.
    struct Scene {
        leases: Leases,
        at: u64,
        beat: u64,
    }

    impl Scene {
        fn new() -> Self {
            Self { leases: Leases::new(Duration::from_millis(3000)), at: 10_000, beat: 0 }
        }

        /// A reading `millis` later, in which `renewed` have renewed and `stale` have not since the first
        /// reading.
        fn after(&mut self, millis: u64, renewed: &[&str], stale: &[&str]) -> Vec<String> {
            self.at += millis;
            self.beat += 1;
            let lease = |beat: u64, name: &str| lease(beat, name, 7).into();
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
        let a = Node {
            id: "a".into(),
            name: "a here".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: 1_700_000_000_000,
            uptime: 1009,
            differs: Vec::new(),
        };
        assert_eq!(alive[0], &a, "as it has said with its last beat");
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
        // Frozen for a minute: the others return at different times, and one not at all.
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
        let listed = [
            "",
            "x",
            "1",
            "{}",
            "[]",
            r#"{"beat":1}"#,
            r#"{"beat":"1","name":"a","version":"1","started":1}"#,
        ];
        for lease in listed {
            assert!(leases.hear(Duration::ZERO, "me", vec![(Box::from("a"), Box::from(lease))]).is_empty());
        }
    }

    #[test]
    fn what_the_next_version_says_in_a_lease_is_skipped() {
        let newer = lease(1, "a", 7).replace('{', r#"{"of_tomorrow":[1],"#);
        let (node, seen) = read("a", &newer).unwrap();
        assert_eq!((&*node.name, seen), ("a here", Some(7)));
        let without = lease(1, "a", 7).replace("seen", "unseen");
        assert_eq!(read("a", &without).unwrap().1, None);
    }

    #[test]
    fn who_goes_by_older_rules_is_known_until_it_says_otherwise() {
        let mut leases = Leases::new(Duration::from_secs(3));
        let mut hear = |beat, seen| {
            leases.hear(Duration::from_millis(beat), "me", vec![("a".into(), lease(beat, "a", seen).into())]);
            leases.behind(7).count()
        };
        assert_eq!([hear(1, 6), hear(2, 7), hear(3, 8)], [1, 0, 0]);
    }

    #[test]
    fn who_dies_without_having_come_to_a_new_server_is_told() {
        let mut scene = Scene::new();
        scene.after(0, &["a", "b", "c"], &[]);
        scene.leases.moved();
        for _ in 0..6 {
            scene.after(500, &["a"], &["b"]);
        }
        assert_eq!(scene.leases.alive().count(), 1);
        assert_eq!(scene.leases.take_unseen(), 1, "b, whose lease came along");
        assert_eq!(scene.leases.take_unseen(), 0);
        scene.leases.put_back_unseen(1);
        assert_eq!(scene.leases.take_unseen(), 1, "nobody could be told");
    }
}
