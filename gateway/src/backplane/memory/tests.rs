//! The contract of a backplane, one test for each sentence.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod occupancy;

use bytes::Bytes;

use super::*;
use crate::backplane::{Idempotency, PublishConditions};
use crate::protocol::command::HistoryQuery;
use crate::protocol::tags::Tags;

const S: fn(u64) -> Duration = Duration::from_secs;
const KEPT: Retention = Retention { size: 3, ttl: Duration::from_secs(60), replicas: 0 };
const NOTHING: Retention = Retention { size: 0, ttl: Duration::from_secs(60), replicas: 0 };

const MOST: Most = Most { publications: 100, bytes: 1 << 20 };

struct Node {
    memory: Memory,
    inboxes: Arc<[Arc<Inbox>]>,
    ids: ConnectionIds,
}

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

fn member(client: &str, user: &str) -> Arc<Member> {
    let (info, channel_info) = (Bytes::new(), Bytes::new());
    Arc::new(Member { client: client.into(), user: user.into(), info, channel_info })
}

fn now<T>(asked: Outcome<T>) -> Result<T, ReplyError> {
    match asked {
        Outcome::Ready(result) => result,
        Outcome::Pending => panic!("memory answers at once"),
    }
}

impl Node {
    fn with(channels_max: usize, history_bytes_max: usize) -> Self {
        let inboxes: Arc<[_]> = (0..3).map(|_| Arc::new(Inbox::new(100).with_bytes_max(1 << 20))).collect();
        let ids = ConnectionIds::new(5);
        let limits = config::Memory {
            channels_max,
            patterns_max: 10,
            unsubscribed_channels_max: channels_max,
            inbox_deliveries_max: 100,
            inbox_bytes_max: 1 << 20,
            outbound_bytes_max: 1 << 20,
            history_bytes_max,
            idempotency_keys_max: 2,
            revocations_max: 1,
        };
        Self { memory: Memory::new(inboxes.clone(), ids, &limits, 1), inboxes, ids }
    }

    fn new() -> Self {
        Self::with(100, 1 << 20)
    }

    fn publish(&self, name: &str, data: &str, retention: Retention, at: u64) -> Result<Position, ReplyError> {
        let (channel, data) = (&channel(name), Bytes::copy_from_slice(data.as_bytes()));
        let new = NewPublication {
            channel,
            data,
            json: true,
            info: None,
            tags: None,
            retention,
            patterns: false,
            skip_history: false,
            conditions: None,
            charge: None,
        };
        Ok(self.memory.put(new, S(at))?.top)
    }

    /// Publishes with an idempotency key that is remembered for ten seconds.
    fn publish_once(
        &self,
        name: &str,
        key: &str,
        retention: Retention,
        at: u64,
    ) -> Result<Position, ReplyError> {
        let (channel, data) = (&channel(name), Bytes::from_static(b"x"));
        let idempotency = Some(Idempotency { key: key.into(), ttl: S(10) });
        let conditions = Some(Box::new(PublishConditions { idempotency, version: None }));
        let new = NewPublication {
            channel,
            data,
            json: true,
            info: None,
            tags: None,
            retention,
            patterns: false,
            skip_history: false,
            conditions,
            charge: None,
        };
        Ok(self.memory.put(new, S(at))?.top)
    }

    /// Publishes with a tag, or past the history.
    fn publish_with(&self, name: &str, value: &str, skip_history: bool) -> Result<Published, ReplyError> {
        let new = NewPublication {
            channel: &channel(name),
            data: Bytes::from_static(b"x"),
            json: true,
            info: None,
            tags: Tags::of(vec![("kind".into(), value.into())]),
            retention: KEPT,
            patterns: false,
            skip_history,
            conditions: None,
            charge: None,
        };
        self.memory.put(new, S(0))
    }

    fn announce(&self, worker: usize, name: &str) -> Result<(), ReplyError> {
        now(self.memory.add_interest(worker, &channel(name), ReplyTo::Nobody))
    }

    fn presence(&self, name: &str) -> Vec<Arc<Member>> {
        now(self.memory.presence(&channel(name), 1 << 20, ReplyTo::Nobody)).unwrap()
    }

    /// Offsets and payloads that reached a worker.
    fn arrived(&self, worker: usize) -> Vec<(u64, String)> {
        let mut batch = Vec::new();
        self.inboxes[worker].take(&mut batch);
        let push = |delivery| match delivery {
            Delivery::Push(push) => match &push.kind {
                PushKind::Publication { publication, .. } => {
                    (publication.offset, String::from_utf8(publication.data.to_vec()).unwrap())
                }
                PushKind::Join(member) => (0, format!("join {}", member.client)),
                PushKind::Leave(member) => (0, format!("leave {}", member.client)),
            },
            _ => panic!("not a push"),
        };
        batch.into_iter().map(push).collect()
    }

    fn history(&self, query: &HistoryQuery, at: u64) -> Result<Vec<u64>, u32> {
        let page =
            self.memory.read(history(&channel("a"), query, MOST), S(at)).map_err(|error| error.code)?;
        Ok(page.publications.iter().map(|publication| publication.offset).collect())
    }

    fn recover(&self, offset: u64, epoch: &str, at: u64) -> Option<Vec<u64>> {
        let since = Position { offset, epoch: epoch.into() };
        let Recovery { missed, .. } = self.memory.missed(recovery(&channel("a"), Some(&since), MOST), S(at));
        Some(missed?.iter().map(|publication| publication.offset).collect())
    }
}

fn history<'a>(channel: &'a Channel, query: &'a HistoryQuery, most: Most) -> HistoryRequest<'a> {
    HistoryRequest { channel, query, most, retention: KEPT }
}

fn recovery<'a>(channel: &'a Channel, since: Option<&'a Position>, most: Most) -> RecoverRequest<'a> {
    RecoverRequest { channel, since, latest: false, most, retention: KEPT }
}

#[test]
fn a_publication_reaches_the_workers_that_announced_interest_and_no_other() {
    let node = Node::new();
    node.announce(0, "a").unwrap();
    node.announce(2, "a").unwrap();
    node.publish("a", "1", NOTHING, 0).unwrap();
    node.publish("b", "2", NOTHING, 0).unwrap();
    assert_eq!(node.arrived(0), [(0, "1".into())]);
    assert!(node.arrived(1).is_empty());
    assert_eq!(node.arrived(2), [(0, "1".into())]);
    node.memory.remove_interest(2, &channel("a"));
    node.publish("a", "3", NOTHING, 0).unwrap();
    assert!(node.arrived(2).is_empty());
}

#[test]
fn an_address_of_a_connection_reaches_its_worker() {
    let node = Node::new();
    let id = node.ids.id(ConnectionIds::compose(1, 9), 77);
    node.publish(&format!("@{id}"), "1", KEPT, 0).unwrap();
    assert_eq!(node.arrived(1).len(), 1);
    node.publish("@nobody", "1", KEPT, 0).unwrap();
    assert_eq!(node.memory.channels(), 0, "an address is not kept");
}

#[test]
fn tags_are_kept_with_their_publication_and_count_towards_the_memory() {
    let node = Node::new();
    node.publish_with("a", "one", false).unwrap();
    let all = HistoryQuery { limit: -1, ..HistoryQuery::default() };
    let page = node.memory.read(history(&channel("a"), &all, MOST), S(0)).unwrap();
    let kind = |publication: &Arc<Publication>| {
        publication.tags.as_ref().and_then(|tags| tags.get("kind").map(str::to_owned))
    };
    assert_eq!(kind(&page.publications[0]).as_deref(), Some("one"));
    let start = Position { offset: 0, epoch: page.top.epoch };
    let missed = node.memory.missed(recovery(&channel("a"), Some(&start), MOST), S(0)).missed.unwrap();
    assert_eq!(kind(&missed[0]).as_deref(), Some("one"));
    let bytes = node.memory.history_bytes.load(Ordering::Relaxed);
    node.publish_with("b", &"x".repeat(1003), false).unwrap();
    assert_eq!(node.memory.history_bytes.load(Ordering::Relaxed), 2 * bytes + 1000);
}

#[test]
fn what_skips_the_history_is_delivered_without_a_number_and_kept_nowhere() {
    let node = Node::new();
    node.publish_with("a", "unheard", true).unwrap();
    assert_eq!(node.memory.channels(), 0, "nobody listens, and nothing is kept");
    node.announce(0, "a").unwrap();
    assert_eq!(node.publish("a", "1", KEPT, 0).unwrap().offset, 1);
    assert_eq!(node.publish_with("a", "skips", true), Ok(Published::default()));
    assert_eq!(node.publish("a", "2", KEPT, 0).unwrap().offset, 2);
    assert_eq!(node.arrived(0), [(1, "1".into()), (0, "x".into()), (2, "2".into())]);
    let all = HistoryQuery { limit: -1, ..HistoryQuery::default() };
    assert_eq!(node.history(&all, 0), Ok(vec![1, 2]));
}

#[test]
fn offsets_rise_by_one_and_workers_see_them_in_order() {
    let node = Node::new();
    node.announce(0, "a").unwrap();
    for n in 1..=5 {
        assert_eq!(node.publish("a", "x", KEPT, 0).unwrap().offset, n);
    }
    let offsets: Vec<_> = node.arrived(0).into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, [1, 2, 3, 4, 5]);
}

#[test]
fn history_is_bounded_in_number_and_age() {
    let node = Node::new();
    (0..5).for_each(|at| drop(node.publish("a", "x", KEPT, at).unwrap()));
    let all = HistoryQuery { limit: -1, ..HistoryQuery::default() };
    assert_eq!(node.history(&all, 5), Ok(vec![3, 4, 5]));
    assert_eq!(node.history(&all, 63), Ok(vec![5]));
    assert_eq!(node.history(&all, 64), Ok(vec![]));
}

#[test]
fn history_is_read_in_pages_and_backwards() {
    let node = Node::new();
    let epoch = node.publish("a", "x", KEPT, 0).unwrap().epoch;
    (0..2).for_each(|_| drop(node.publish("a", "x", KEPT, 0).unwrap()));
    let query = |limit, since: Option<u64>, reverse| {
        let since = since.map(|offset| Position { offset, epoch: epoch.as_ref().into() });
        node.history(&HistoryQuery { limit, since, reverse }, 1)
    };
    assert_eq!(query(0, None, false), Ok(vec![]), "only the position");
    assert_eq!(query(2, None, false), Ok(vec![1, 2]));
    assert_eq!(query(2, Some(2), false), Ok(vec![3]));
    assert_eq!(query(2, None, true), Ok(vec![3, 2]));
    assert_eq!(query(-1, Some(2), true), Ok(vec![1]));
    assert_eq!(query(-1, Some(0), true), Err(107));
    let foreign = Position { offset: 1, epoch: "other".into() };
    assert_eq!(node.history(&HistoryQuery { limit: 1, since: Some(foreign), reverse: false }, 1), Err(112));
}

#[test]
fn recovery_gives_everything_or_says_that_it_cannot() {
    let node = Node::new();
    let epoch = node.publish("a", "x", KEPT, 0).unwrap().epoch;
    (0..4).for_each(|_| drop(node.publish("a", "x", KEPT, 0).unwrap()));
    assert_eq!(node.recover(5, &epoch, 1), Some(vec![]), "nothing was missed");
    assert_eq!(node.recover(3, &epoch, 1), Some(vec![4, 5]));
    assert_eq!(node.recover(2, &epoch, 1), Some(vec![3, 4, 5]));
    assert_eq!(node.recover(1, &epoch, 1), None, "2 is not kept any more");
    assert_eq!(node.recover(6, &epoch, 1), None, "from the future");
    assert_eq!(node.recover(4, "other", 1), None, "another stream");
    assert_eq!(node.recover(4, "", 1), Some(vec![5]), "a client that knows no stream");
    assert_eq!(node.recover(4, &epoch, 61), None, "too old");
    assert_eq!(node.recover(5, &epoch, 61), Some(vec![]));
}

#[test]
fn what_is_removed_is_missing_for_those_who_come_back_for_it_and_offsets_go_on() {
    let node = Node::new();
    let remove = || now(node.memory.remove_history(&channel("a"), ReplyTo::Nobody, S(0)));
    assert_eq!(remove(), Ok(()));
    assert_eq!(node.memory.channels(), 0, "nothing was there, and nothing is made");
    let epoch = node.publish("a", "1", KEPT, 0).unwrap().epoch;
    (0..2).for_each(|_| drop(node.publish("a", "x", KEPT, 0).unwrap()));
    let bytes = || node.memory.history_bytes.load(Ordering::Relaxed);
    assert!(bytes() > 0);
    assert_eq!(remove(), Ok(()));
    assert_eq!(bytes(), 0, "its memory is free");
    let all = HistoryQuery { limit: -1, ..HistoryQuery::default() };
    assert_eq!(node.history(&all, 0), Ok(vec![]));
    assert_eq!(node.recover(2, &epoch, 0), None);
    assert_eq!(node.recover(3, &epoch, 0), Some(vec![]), "it has everything");
    let next = Position { offset: 4, epoch: epoch.clone() };
    assert_eq!(node.publish("a", "4", KEPT, 0), Ok(next));
    assert_eq!((node.recover(2, &epoch, 0), node.recover(3, &epoch, 0)), (None, Some(vec![4])));
}

#[test]
fn the_latest_is_what_counts_where_only_it_counts() {
    let node = Node::new();
    let channel = channel("a");
    let latest = |offset, epoch: &str, most, at| {
        let since = Position { offset, epoch: epoch.into() };
        let request = RecoverRequest { latest: true, ..recovery(&channel, Some(&since), most) };
        let missed = node.memory.missed(request, S(at)).missed;
        missed.map(|missed| missed.iter().map(|publication| publication.offset).collect::<Vec<_>>())
    };
    let one = Most { publications: 1, ..MOST };
    assert_eq!(latest(0, "", one, 0), None, "nothing was published");
    let epoch = node.publish("a", "x", KEPT, 0).unwrap().epoch;
    (0..4).for_each(|_| drop(node.publish("a", "x", KEPT, 0).unwrap()));
    for (offset, epoch) in [(0, ""), (1, &*epoch), (4, &*epoch), (9, &*epoch), (5, "other"), (5, "")] {
        assert_eq!(latest(offset, epoch, one, 1), Some(vec![5]), "{offset} {epoch}");
    }
    assert_eq!(latest(5, &epoch, one, 1), Some(vec![]), "it has the latest");
    assert_eq!(latest(1, &epoch, MOST, 1), Some(vec![5, 4, 3]), "newest first, as many as are kept");
    let request = RecoverRequest { latest: true, ..recovery(&channel, None, MOST) };
    assert_eq!(node.memory.missed(request, S(1)).missed, None, "who does not recover gets nothing");
    assert_eq!(latest(1, &epoch, Most { bytes: 1, ..MOST }, 1), Some(vec![5]), "the newest in any case");
    assert_eq!(latest(4, &epoch, one, 61), None, "too old");
    assert_eq!(latest(5, &epoch, one, 61), Some(vec![]));
}

#[test]
fn no_epoch_comes_twice() {
    let node = Node::new();
    let channel = channel("a");
    let epochs: std::collections::HashSet<_> =
        (0..100_000).map(|lives| node.memory.untouched(&channel, lives)).collect();
    assert_eq!(epochs.len(), 100_000);
    assert!(epochs.iter().all(|epoch| epoch.len() == 16 && u64::from_str_radix(epoch, 16).is_ok()));
}

#[test]
fn a_stream_that_was_forgotten_starts_with_a_new_epoch() {
    let node = Node::new();
    let before = node.publish("a", "x", KEPT, 0).unwrap();
    node.memory.sweep(S(59));
    assert_eq!(node.memory.channels(), 1);
    node.memory.sweep(S(60));
    assert_eq!(node.memory.channels(), 0);
    let after = node.publish("a", "x", KEPT, 61).unwrap();
    assert_eq!(after.offset, 1);
    assert_ne!(before.epoch, after.epoch);
    // A subscriber keeps the stream, whatever its age.
    node.announce(0, "a").unwrap();
    node.memory.sweep(S(1000));
    assert_eq!(node.publish("a", "x", KEPT, 1001).unwrap(), Position { offset: 2, epoch: after.epoch });
}

#[test]
fn presence_is_who_entered_and_did_not_leave() {
    let node = Node::new();
    node.announce(0, "a").unwrap();
    let (ann, bob) = (member("c1", "ann"), member("c2", ""));
    node.memory.presence_add(&channel("a"), &ann, true, true);
    node.memory.presence_add(&channel("a"), &bob, true, false);
    assert_eq!(node.presence("a").len(), 2);
    node.memory.presence_remove(&channel("a"), &ann, true, true);
    assert_eq!(node.presence("a"), [bob]);
    let arrived: Vec<_> = node.arrived(0).into_iter().map(|(_, what)| what).collect();
    assert_eq!(arrived, ["join c1", "leave c1"]);
}

#[test]
fn users_are_counted_once_and_anonymous_connections_each() {
    let node = Node::new();
    let members = [member("1", "ann"), member("2", "ann"), member("3", ""), member("4", "")];
    let count = || now(node.memory.count(&channel("a"), ReplyTo::Nobody)).unwrap();
    members.iter().for_each(|member| node.memory.presence_add(&channel("a"), member, true, false));
    node.memory.presence_add(&channel("a"), &members[0], true, false);
    assert_eq!(count(), Count { connections: 4, users: 3 });
    for (member, users) in members.iter().zip([3, 2, 1, 0]) {
        node.memory.presence_remove(&channel("a"), member, true, false);
        node.memory.presence_remove(&channel("a"), member, true, false);
        assert_eq!(count().users, users);
    }
    assert_eq!(node.memory.channels(), 0);
}

#[test]
fn so_many_members_that_a_list_is_too_long_are_only_counted() {
    let node = Node::new();
    (0..100)
        .for_each(|n| node.memory.presence_add(&channel("a"), &member(&format!("c{n}"), "ann"), true, false));
    let listed = |bytes_max| now(node.memory.presence(&channel("a"), bytes_max, ReplyTo::Nobody));
    let bytes: usize = listed(1 << 20).unwrap().iter().map(|member| member.bytes()).sum();
    assert_eq!(listed(bytes).unwrap().len(), 100);
    assert_eq!(listed(bytes - 1).unwrap_err().code, 106);
}

#[test]
fn there_are_only_as_many_channels_as_may_be_and_those_without_subscribers_are_counted_apart() {
    let node = Node::with(2, 1 << 20);
    for name in ["kept-1", "kept-2"] {
        node.publish(name, "x", KEPT, 0).unwrap();
    }
    assert_eq!(node.publish("kept-3", "x", KEPT, 0).unwrap_err().code, 106);
    node.publish("kept-3", "x", NOTHING, 0).unwrap();
    for name in ["a", "b"] {
        node.announce(0, name).unwrap();
    }
    assert_eq!(node.announce(0, "c").unwrap_err().code, 106);
    assert_eq!(node.announce(0, "kept-1").unwrap_err().code, 106, "it would be a third with subscribers");
    node.announce(1, "a").unwrap();
    node.publish("a", "x", KEPT, 0).unwrap();
    node.memory.remove_interest(0, &channel("b"));
    node.announce(0, "kept-1").unwrap();
    assert_eq!(node.memory.channels(), 3);
}

#[test]
fn a_channel_that_loses_its_subscribers_where_too_many_wait_is_forgotten_at_once() {
    let node = Node::with(2, 1 << 20);
    node.announce(0, "a").unwrap();
    let before = node.publish("a", "x", KEPT, 0).unwrap();
    for name in ["kept-1", "kept-2"] {
        node.publish(name, "x", KEPT, 0).unwrap();
    }
    node.memory.remove_interest(0, &channel("a"));
    assert_eq!(node.memory.channels(), 2);
    assert_eq!(node.recover(1, &before.epoch, 1), None, "who stood there is told");
    assert_eq!(node.recover(0, &before.epoch, 1), None);
    node.memory.sweep(S(60));
    assert_eq!((node.memory.channels(), node.memory.history_bytes.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn reading_makes_nothing() {
    let node = Node::new();
    let all = HistoryQuery { limit: -1, ..HistoryQuery::default() };
    let position = HistoryQuery::default();
    assert_eq!((node.history(&all, 0), node.history(&position, 0)), (Ok(vec![]), Ok(vec![])));
    assert_eq!(node.recover(3, "other", 0), None);
    assert!(node.presence("a").is_empty());
    for _ in 0..2 {
        node.announce(0, "a").unwrap();
        let top = node.memory.missed(recovery(&channel("a"), None, MOST), S(0)).top;
        assert_eq!(node.recover(0, &top.epoch, 0), Some(vec![]));
        node.memory.remove_interest(0, &channel("a"));
    }
    assert_eq!(node.memory.channels(), 0);
}

#[test]
fn who_was_told_that_nothing_was_published_stands_before_the_first_publication() {
    let node = Node::new();
    let first = node.memory.read(history(&channel("a"), &HistoryQuery::default(), MOST), S(0)).unwrap().top;
    assert_eq!(first.offset, 0);
    for n in 1..=2 {
        assert_eq!(
            node.publish("a", "x", KEPT, 0).unwrap(),
            Position { offset: n, epoch: first.epoch.clone() }
        );
    }
    assert_eq!(node.recover(0, &first.epoch, 1), Some(vec![1, 2]));
    // Once these are forgotten, no client must believe that the following publications are complete.
    node.memory.sweep(S(60));
    assert_eq!(node.recover(0, &first.epoch, 61), None);
    node.publish("a", "x", KEPT, 61).unwrap();
    assert_eq!(node.recover(0, &first.epoch, 62), None);
    assert_eq!(node.recover(1, &first.epoch, 62), None);
}

#[test]
fn a_page_and_a_recovery_end_with_their_bytes() {
    let node = Node::new();
    let big = "x".repeat(1000);
    let epoch = (0..3).map(|_| node.publish("a", &big, KEPT, 0).unwrap().epoch).last().unwrap();
    let read = |bytes, since, reverse| {
        let since = Some(Position { offset: since, epoch: epoch.as_ref().into() });
        let query = HistoryQuery { limit: -1, since, reverse };
        let page = node.memory.read(history(&channel("a"), &query, Most { bytes, ..MOST }), S(1)).unwrap();
        page.publications.iter().map(|one| one.offset).collect::<Vec<_>>()
    };
    assert_eq!(read(2500, 0, false), [1, 2]);
    assert_eq!(read(2500, 2, false), [3]);
    assert_eq!(read(2500, 4, true), [3, 2]);
    assert_eq!(read(10, 1, false), [2], "never nothing where there is something");
    let recover = |bytes| {
        let since = Position { offset: 0, epoch: epoch.as_ref().into() };
        node.memory.missed(recovery(&channel("a"), Some(&since), Most { bytes, ..MOST }), S(1)).missed
    };
    assert_eq!(recover(4000).unwrap().len(), 3);
    assert!(recover(2500).is_none(), "all of it or nothing");
}

#[test]
fn what_a_worker_has_no_room_for_is_not_published() {
    let node = Node::new();
    node.announce(0, "a").unwrap();
    let big = "x".repeat(300_000);
    let published: Vec<_> =
        (0..5).map(|_| node.publish("a", &big, KEPT, 0).map_err(|error| error.code)).collect();
    assert_eq!(published.iter().filter(|done| **done == Err(111)).count(), 2, "a MiB has room for three");
    assert_eq!(node.arrived(0).len(), 3);
    assert_eq!(node.publish("a", "x", KEPT, 0).unwrap().offset, 4, "what was refused has no number");
}

#[test]
fn memory_for_history_is_bounded_and_who_publishes_pays() {
    let node = Node::with(100, 1000);
    let big = "x".repeat(300);
    node.publish("b", &big, KEPT, 0).unwrap();
    for n in 1..=3 {
        assert_eq!(node.publish("a", &big, KEPT, 0).unwrap().offset, n, "it is published all the same");
    }
    let all = HistoryQuery { limit: -1, ..HistoryQuery::default() };
    assert_eq!(node.history(&all, 1), Ok(vec![3]));
    let page = node
        .memory
        .read(history(&channel("b"), &HistoryQuery { limit: 9, ..Default::default() }, MOST), S(1));
    assert_eq!(page.unwrap().publications.len(), 1, "another channel's past stays");
    node.memory.sweep(S(100));
    (0..2).for_each(|_| drop(node.publish("c", &big, KEPT, 100).unwrap()));
}

#[test]
fn a_key_is_remembered_for_as_long_as_it_is_used() {
    let node = Node::new();
    node.announce(1, "live").unwrap();
    let first = node.publish_once("a", "k", KEPT, 0).unwrap();
    node.publish_once("live", "k", NOTHING, 0).unwrap();
    for at in [9, 18] {
        node.memory.sweep(S(at));
        assert_eq!(node.publish_once("a", "k", KEPT, at).unwrap(), first);
        node.publish_once("live", "k", NOTHING, at).unwrap();
    }
    assert_eq!(node.arrived(1).len(), 1);
    assert_eq!(node.publish_once("a", "k", KEPT, 28).unwrap().offset, 2, "forgotten, though not yet swept");
    node.memory.remove_interest(1, &channel("live"));
    node.memory.sweep(S(100));
    assert_eq!(node.memory.channels(), 0);
}

#[test]
fn only_so_many_keys_are_remembered_and_none_is_forgotten_for_a_new_one() {
    let node = Node::new();
    let first = node.publish_once("a", "1", KEPT, 0).unwrap();
    node.publish_once("b", "2", NOTHING, 0).unwrap();
    let refused = node.publish_once("a", "3", KEPT, 1).unwrap_err();
    assert_eq!((refused.code, refused.temporary), (111, true));
    assert_eq!(node.publish_once("a", "1", KEPT, 5).unwrap(), first);
    assert_eq!(node.publish("a", "x", KEPT, 5).unwrap().offset, 2, "what was refused was not published");
    node.memory.sweep(S(11));
    node.publish_once("b", "3", NOTHING, 11).unwrap();
    // An expired key that is replaced counts once.
    node.publish_once("a", "1", KEPT, 16).unwrap();
    node.memory.sweep(S(40));
    for key in ["4", "5"] {
        node.publish_once("a", key, KEPT, 40).unwrap();
    }
    assert_eq!(node.publish_once("a", "6", KEPT, 40).unwrap_err().code, 111);
}

#[test]
fn subscribers_of_patterns_get_marked_publications_of_their_namespace() {
    let node = Node::new();
    let feed = Channel::parse_subscription("news:**").unwrap();
    let publish = |name: &str, patterns| {
        let new = NewPublication {
            channel: &channel(name),
            data: Bytes::from_static(b"x"),
            json: false,
            info: None,
            tags: None,
            retention: KEPT,
            patterns,
            skip_history: false,
            conditions: None,
            charge: None,
        };
        node.memory.put(new, S(0)).unwrap();
    };
    let arrived = |worker: usize| {
        let mut batch = Vec::new();
        node.inboxes[worker].take(&mut batch);
        let shown = |delivery: &Delivery| match delivery {
            Delivery::Push(push) => format!("push {}", push.channel),
            Delivery::Feed(push) => format!("feed {}", push.channel),
            _ => panic!("another delivery"),
        };
        batch.iter().map(shown).collect::<Vec<_>>()
    };
    node.announce(0, "news:1").unwrap();
    publish("news:1", true);
    assert_eq!((arrived(0), arrived(1)), (vec!["push news:1".to_owned()], vec![]));
    for worker in [0, 1] {
        now(node.memory.add_interest(worker, &feed, ReplyTo::Nobody)).unwrap();
    }
    publish("news:1", true);
    publish("news:2", true);
    assert_eq!(arrived(0), ["push news:1", "feed news:1", "feed news:2"]);
    assert_eq!(arrived(1), ["feed news:1", "feed news:2"]);
    publish("other:1", true);
    publish("#news:1", true);
    publish("news:2", false);
    node.memory.remove_interest(0, &feed);
    publish("news:2", true);
    assert_eq!((arrived(0), arrived(1)), (vec![], vec!["feed news:2".to_owned()]));
    node.memory.remove_interest(1, &feed);
    publish("news:2", true);
    assert!(arrived(1).is_empty());
}
