//! What the presence table writes, when, and to which shard.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod occupancy;
mod simulation;

use super::*;
use crate::config::RedisServer;

/// A limit larger than any batch.
const ALL: usize = 99_999;

fn slot_map(servers: u16) -> Arc<SlotMap> {
    let server = |port| RedisServer { tls: false, host: "10.0.0.5".into(), port, database: 0 };
    Arc::new(SlotMap::new(&(1..=servers).map(server).collect::<Vec<_>>()))
}

fn presence(servers: u16) -> PresenceTable {
    PresenceTable::new(slot_map(servers), usize::from(servers), None)
}

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

fn member(client: &str, user: &str) -> Arc<Member> {
    let (info, channel_info) = (bytes::Bytes::new(), bytes::Bytes::new());
    Arc::new(Member { client: client.into(), user: user.into(), info, channel_info })
}

/// The next write of the only server, with the list up to date.
fn take(presence: &PresenceTable) -> Write {
    presence.take_list(ALL).done();
    let mut batch = presence.take(0, ALL, ALL);
    assert_eq!(batch.writes.len(), 1);
    let write = batch.writes.pop().unwrap();
    presence.answered(&write, true);
    write
}

fn texts(texts: &[Box<str>]) -> Vec<&str> {
    texts.iter().map(|text| &**text).collect()
}

fn names(channels: &[Channel]) -> Vec<&str> {
    let mut names: Vec<_> = channels.iter().map(Channel::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_user_goes_with_the_last_connection_and_the_channel_with_the_last_of_all() {
    let (presence, room) = (presence(1), channel("room"));
    presence.enter(&room, &member("1", "ann"));
    presence.enter(&room, &member("2", "ann"));
    assert_eq!((presence.count(&room).0, presence.count(&room).1), (2, 1));
    take(&presence);
    presence.leave(&room, &member("1", "ann"));
    let write = take(&presence);
    assert_eq!((texts(&write.gone), texts(&write.users_gone)), (vec!["1"], vec![]));
    presence.leave(&room, &member("2", "ann"));
    assert_eq!(texts(&take(&presence).users_gone), ["#ann"]);
    let listing = presence.take_list(ALL);
    assert_eq!((names(&listing.come), names(&listing.gone)), (vec![], vec!["room"]));
    assert!(!presence.is_empty(), "the list still has it");
    listing.done();
    assert!(presence.is_empty());
}

#[test]
fn nobody_is_written_before_the_list_has_the_channel() {
    let (presence, room) = (presence(1), channel("room"));
    presence.enter(&room, &member("1", "ann"));
    assert_eq!(presence.take(0, ALL, ALL).writes.len(), 0);
    drop(presence.take_list(ALL));
    assert_eq!(presence.take(0, ALL, ALL).writes.len(), 0, "the list did not answer");
    presence.take_list(ALL).done();
    assert_eq!(presence.take(0, ALL, ALL).writes.len(), 1);
}

#[test]
fn who_comes_to_a_channel_that_the_list_has_is_written_without_the_list() {
    let (presence, room) = (presence(1), channel("room"));
    presence.enter(&room, &member("1", "ann"));
    take(&presence);
    presence.enter(&room, &member("2", "eve"));
    let batch = presence.take(0, ALL, ALL);
    assert_eq!(batch.writes[0].came.len(), 1);
    assert!(!batch.writes[0].anew);
}

#[test]
fn who_comes_while_the_channel_leaves_the_list_waits_until_the_list_has_it_again() {
    let (presence, room) = (presence(1), channel("room"));
    presence.enter(&room, &member("1", "ann"));
    take(&presence);
    presence.leave(&room, &member("1", "ann"));
    take(&presence);
    let leaving = presence.take_list(ALL);
    presence.enter(&room, &member("2", "eve"));
    assert_eq!(presence.take(0, ALL, ALL).writes.len(), 0);
    leaving.done();
    let listing = presence.take_list(ALL);
    assert_eq!(names(&listing.come), ["room"]);
    listing.done();
    assert_eq!(presence.take(0, ALL, ALL).writes.len(), 1);
}

#[test]
fn coming_and_going_before_the_list_hears_of_it_costs_nothing() {
    let (presence, room) = (presence(1), channel("room"));
    for _ in 0..100 {
        presence.enter(&room, &member("1", ""));
        presence.leave(&room, &member("1", ""));
    }
    let listing = presence.take_list(ALL);
    assert_eq!((listing.come.len(), listing.gone.len()), (0, 0));
    assert!(presence.is_empty());
}

#[test]
fn what_could_not_be_written_is_written_as_it_is_by_then() {
    let (presence, room) = (presence(1), channel("room"));
    presence.enter(&room, &member("1", "ann"));
    presence.enter(&room, &member("2", "eve"));
    take(&presence);
    presence.enter(&room, &member("3", "bob"));
    let failed = presence.take(0, ALL, ALL);
    assert_eq!(failed.writes[0].came.len(), 1);
    presence.leave(&room, &member("3", "bob"));
    drop(failed);
    let write = take(&presence);
    assert_eq!(
        (write.came.len(), texts(&write.gone), texts(&write.users_gone)),
        (0, vec!["3"], vec!["#bob"])
    );
}

#[test]
fn users_on_their_way_count_until_the_server_has_answered() {
    let (presence, room) = (presence(1), channel("room"));
    presence.enter(&room, &member("1", "ann"));
    assert_eq!(texts(&presence.count(&room).2), ["#ann"]);
    presence.take_list(ALL).done();
    let batch = presence.take(0, ALL, ALL);
    assert_eq!(texts(&presence.count(&room).2), ["#ann"]);
    batch.answered(|_| true);
    assert!(presence.count(&room).2.is_empty());
}

#[test]
fn a_large_channel_is_written_in_parts_and_anew_if_the_part_that_clears_has_failed() {
    let (presence, room) = (presence(1), channel("room"));
    for number in 0..2500 {
        presence.enter(&room, &member(&number.to_string(), "ann"));
    }
    presence.take_list(ALL).done();
    let parts = |batch: &Batch<'_>| -> Vec<_> {
        batch.writes.iter().map(|write| (write.anew, write.came.len())).collect()
    };
    let batch = presence.take(0, ALL, ALL);
    assert_eq!(parts(&batch), [(true, 1000), (false, 1000), (false, 500)]);
    batch.answered(|part| part != 1);
    let batch = presence.take(0, ALL, ALL);
    assert_eq!(parts(&batch), [(false, 1000)]);
    drop(batch);
    presence.write_anew_at(|_| true);
    presence.take(0, ALL, ALL).answered(|part| part != 0);
    let batch = presence.take(0, ALL, ALL);
    assert_eq!(parts(&batch), [(true, 1000), (false, 1000), (false, 500)]);
}

#[test]
fn a_channel_that_only_the_list_has_is_cleared_and_leaves_the_list() {
    let presence = presence(1);
    presence.know(&channel("room"));
    let write = take(&presence);
    assert!(write.anew && write.came.is_empty());
    assert_eq!(names(&presence.take_list(ALL).gone), ["room"]);
}

#[test]
fn a_server_that_is_another_one_is_told_everything_and_the_others_nothing() {
    let presence = presence(3);
    let all: Vec<_> = (0..30).map(|number| channel(&format!("room:{number}"))).collect();
    for server in 0..3 {
        presence.begin(server, "first");
    }
    all.iter().for_each(|room| presence.enter(room, &member("1", "ann")));
    presence.take_list(ALL).done();
    let mut written = Vec::new();
    for server in 0..3 {
        let batch = presence.take(server, ALL, ALL);
        assert!(batch.writes.iter().all(|write| presence.slot_map.shard_of(&write.channel) == server));
        written.push(batch.writes.len());
        batch.answered(|_| true);
    }
    assert_eq!(written.iter().sum::<usize>(), 30);
    presence.begin(0, "first");
    presence.begin(1, "second");
    let again = |server| presence.take(server, ALL, ALL).writes.len();
    assert_eq!([again(0), again(1), again(2)], [0, written[1], 0]);
}

#[test]
fn where_others_lie_than_are_here_everything_is_written_anew() {
    let (presence, room) = (presence(1), channel("room"));
    presence.enter(&room, &member("1", "ann"));
    presence.enter(&room, &member("2", "ann"));
    take(&presence);
    presence.compare(&room, 2, 1);
    assert!(presence.take(0, ALL, ALL).writes.is_empty());
    presence.enter(&room, &member("3", "eve"));
    presence.compare(&room, 2, 1);
    assert!(!take(&presence).anew, "it is known that the server does not know everybody");
    presence.compare(&room, 3, 1);
    assert!(take(&presence).anew);
}

#[test]
fn an_answer_of_a_list_that_was_lost_meanwhile_says_nothing() {
    let (presence, room) = (presence(1), channel("room"));
    presence.enter(&room, &member("1", "ann"));
    let listing = presence.take_list(ALL);
    presence.list_anew();
    listing.done();
    assert_eq!(presence.take(0, ALL, ALL).writes.len(), 0);
    assert_eq!(names(&presence.take_list(ALL).come), ["room"]);
}

#[test]
fn while_a_server_is_away_only_who_is_there_is_remembered() {
    let presence = presence(3);
    let all: Vec<_> = (0..30).map(|number| channel(&format!("room:{number}"))).collect();
    for room in &all {
        presence.enter(room, &member("stays elsewhere", ""));
        for number in 0..100 {
            presence.enter(room, &member(&number.to_string(), ""));
            presence.leave(room, &member(&number.to_string(), ""));
        }
    }
    presence.take_list(ALL).done();
    let at_one = |room: &&Channel| presence.slot_map.shard_of(room) == 1;
    all.iter().filter(at_one).for_each(|room| presence.leave(room, &member("stays elsewhere", "")));
    presence.sweep(1);
    let known: usize = presence.shards.iter().map(|shard| shard.len()).sum();
    assert_eq!(known, 30 - all.iter().filter(at_one).count());
    presence.sweep(0);
    let batch = presence.take(0, ALL, ALL);
    assert!(batch.writes.iter().all(|write| (write.came.len(), write.gone.len()) == (1, 0)));
}
