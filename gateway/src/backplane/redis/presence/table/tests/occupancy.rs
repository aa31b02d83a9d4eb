//! Which gateway tells that a channel is occupied or vacated, and when: several gateways and the script, on a
//! real server whose clock is fed.

use std::collections::{BTreeMap, BTreeSet};

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::*;
use crate::backplane::occupancy::OccupancyObserver;
use crate::backplane::redis::format::script;
use crate::backplane::redis::presence::occupancy::RecordReply;
use crate::backplane::redis::tests::Server;
use crate::config::Config;
use crate::mix::mix;

/// The delay until a channel is vacated, in milliseconds.
const DELAY: u64 = 5000;
/// Time after which a gateway is declared dead.
const DEATH: u64 = 3000;

/// Events of channels need an upstream.
const TOLD: &str = "events.upstream = 'told'\nupstreams.told.url = 'http://127.0.0.1:9'";

/// What all gateways have told, in this order.
type Told = Arc<Mutex<Vec<String>>>;

/// The observer of one gateway.
struct Observer(String, Told);

impl OccupancyObserver for Observer {
    fn occupied(&self, channel: &Channel) {
        lock(&self.1).push(format!("{}: {} occupied", self.0, channel.as_str()));
    }

    fn vacated(&self, channel: &Channel) {
        lock(&self.1).push(format!("{}: {} vacated", self.0, channel.as_str()));
    }
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// Carried out, but the reply is lost.
    Unheard,
    /// Not carried out, and without a reply.
    Unsent,
    Refused,
}

struct Gateway {
    table: PresenceTable,
    list: BTreeSet<Channel>,
}

struct World {
    _server: Server,
    connection: MultiplexedConnection,
    script: String,
    settings: &'static str,
    millis: u64,
    /// Replication id of the server.
    id: u64,
    told: Told,
    gateways: BTreeMap<String, Gateway>,
}

fn room(name: &str) -> Channel {
    channel(&format!("room:{name}"))
}

impl World {
    async fn new(settings: &'static str) -> Self {
        let server = Server::start();
        let mut connection = server.connection().await;
        let fed = script::OCCUPANCY.replace("redis.call('TIME')", "{redis.call('GET', 'clock'), '0'}");
        let fed = fed.replace("tonumber(time[1]) * 1000", "tonumber(time[1])");
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(fed).query_async(&mut connection).await;
        let mut world = Self {
            _server: server,
            connection,
            script: load.unwrap(),
            settings,
            millis: 1_700_000_000_000,
            id: 1,
            told: Told::default(),
            gateways: BTreeMap::new(),
        };
        for name in ["a", "b"] {
            world.start(name);
        }
        world
    }

    fn start(&mut self, name: &str) {
        let text = format!("{TOLD}\n{}\n[namespaces.room]\nevents = ['occupied', 'vacated']", self.settings);
        let config = Arc::new(Config::parse(&text, "test").unwrap());
        let observer = Arc::new(Observer(name.to_owned(), self.told.clone()));
        let table = PresenceTable::new(slot_map(1), 1, Teller::new(&config, observer, Arc::default));
        table.begin(0, &self.id.to_string());
        self.gateways.insert(name.to_owned(), Gateway { table, list: BTreeSet::new() });
    }

    fn table(&self, name: &str) -> &PresenceTable {
        &self.gateways[name].table
    }

    async fn ask(&mut self, words: &[&str]) -> Value {
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut self.connection).await.unwrap()
    }

    /// Writes all that a gateway has to write, once.
    async fn write(&mut self, name: &str, fate: Fate) -> usize {
        let Self { connection, script, millis, id, gateways, .. } = self;
        let Gateway { table, list } = gateways.get_mut(name).unwrap();
        let listing = table.take_list(ALL);
        list.extend(listing.come.iter().cloned());
        list.retain(|channel| !listing.gone.contains(channel));
        listing.done();
        let mut batch = table.take(0, ALL, ALL);
        let writes = batch.writes.len();
        if writes == 0 || fate == Fate::Unsent {
            return writes;
        }
        let at = Duration::from_millis(*millis);
        if fate == Fate::Refused {
            batch.records_answered(|_| Answer::Refused, at);
            batch.answered(|_| false);
            return writes;
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("SET").arg("clock").arg(*millis).ignore();
        for write in &batch.writes {
            assert!(list.contains(&write.channel), "a record is listed before it is written");
            assert!(!write.of_members, "there are no members");
            let key = format!("occupancy:{{{}}}", write.channel.as_str());
            let record = write.record.as_ref().unwrap();
            pipeline.add_command(record.command(script, &key, name, &id.to_string()));
        }
        let replies: Vec<Value> = pipeline.query_async(connection).await.unwrap();
        if fate == Fate::Answered {
            batch.records_answered(|index| Answer::Reply(RecordReply::read(&replies[index]).unwrap()), at);
            batch.answered(|_| true);
        }
        writes
    }

    /// Writes until there is nothing to write; returns what was told since the last call.
    async fn settle(&mut self) -> Vec<String> {
        let names: Vec<_> = self.gateways.keys().cloned().collect();
        self.settle_at(&names).await
    }

    /// The same at these gateways only.
    async fn settle_at(&mut self, names: &[impl AsRef<str>]) -> Vec<String> {
        for name in names {
            let name = name.as_ref();
            for round in 0.. {
                assert!(round < 10, "{name} writes without an end");
                if self.write(name, Fate::Answered).await == 0 {
                    break;
                }
            }
        }
        std::mem::take(&mut *lock(&self.told))
    }

    fn pass(&mut self, millis: u64) {
        self.millis += millis;
        for gateway in self.gateways.values() {
            gateway.table.tick(Duration::from_millis(self.millis));
        }
    }

    /// Writes, lets time pass, and writes again.
    async fn after(&mut self, millis: u64) -> Vec<String> {
        let mut told = self.settle().await;
        self.pass(millis);
        told.append(&mut self.settle().await);
        told
    }

    /// Takes over what a gateway has left behind. Returns the channels for which that has to be repeated.
    async fn take_over(&mut self, list: &BTreeSet<Channel>, from: &str, by: &str) -> BTreeSet<Channel> {
        let taken: Vec<_> = list
            .iter()
            .map(|channel| (channel.clone(), self.table(by).take_over(channel, from).unwrap()))
            .collect();
        for _ in 0..4 {
            self.write(by, Fate::Answered).await;
        }
        taken.into_iter().filter_map(|(channel, mut done)| done.try_recv().err().map(|_| channel)).collect()
    }

    /// Kills a gateway; another one takes over after its death was noticed.
    async fn kill(&mut self, name: &str, by: &str) {
        let dead = self.gateways.remove(name).unwrap();
        self.pass(DEATH);
        assert_eq!(self.take_over(&dead.list, name, by).await, BTreeSet::new());
    }

    /// A gateway that was declared dead is back, and knows it.
    fn learns_of_its_death(&self, name: &str) {
        self.table(name).distrust_records();
        self.table(name).write_anew_at(|_| true);
    }

    /// Another server has the data from now on.
    fn replace_server(&mut self) {
        self.id += 1;
        for gateway in self.gateways.values() {
            gateway.table.begin(0, &self.id.to_string());
        }
    }
}

#[tokio::test]
async fn the_first_and_the_last_of_all_gateways_are_told_once() {
    let mut world = World::new("").await;
    world.table("a").occupy(0, &room("1"));
    assert_eq!(world.settle().await, ["a: room:1 occupied"]);
    world.table("a").occupy(3, &room("1"));
    world.table("b").occupy(1, &room("1"));
    world.settle().await;
    world.table("a").vacate(0, &room("1"));
    world.table("a").vacate(3, &room("1"));
    assert!(world.after(2 * DELAY).await.is_empty(), "b has a subscriber");
    assert!(world.gateways["a"].list.is_empty() && world.table("a").is_empty());
    world.table("b").vacate(1, &room("1"));
    assert!(world.settle().await.is_empty());
    assert!(world.table("b").is_empty(), "another gateway can wait for the delay");
    assert!(world.after(DELAY - 1).await.is_empty());
    assert_eq!(world.after(1).await, ["b: room:1 vacated"]);
    assert_eq!(world.ask(&["KEYS", "occupancy*"]).await, Value::Array(vec![]));
    assert!(world.gateways["b"].list.is_empty());
}

#[tokio::test]
async fn a_subscriber_that_is_back_within_the_delay_is_no_event_wherever_it_comes_back() {
    let mut world = World::new("").await;
    world.table("a").occupy(0, &room("1"));
    world.settle().await;
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "a")] {
        world.table(from).vacate(0, &room("1"));
        assert!(world.after(DELAY - 1).await.is_empty());
        world.table(to).occupy(0, &room("1"));
        assert!(world.after(2 * DELAY).await.is_empty(), "from {from} to {to}");
    }
    world.table("a").occupy(0, &room("2"));
    world.table("a").vacate(0, &room("2"));
    assert!(world.after(2 * DELAY).await.is_empty(), "it was gone before anything was written");
}

#[tokio::test]
async fn what_is_not_told_because_a_reply_is_lost_is_told_after_the_next_one() {
    let mut world = World::new("").await;
    for fate in [Fate::Unsent, Fate::Unheard, Fate::Refused] {
        world.table("a").occupy(0, &room("1"));
        world.write("a", fate).await;
        world.table("b").occupy(0, &room("1"));
        world.write("b", Fate::Answered).await;
        let told = world.settle().await;
        let by = if fate == Fate::Unheard { "a" } else { "b" };
        assert_eq!(told, [format!("{by}: room:1 occupied")], "{fate:?}");
        world.table("b").vacate(0, &room("1"));
        world.table("a").vacate(0, &room("1"));
        world.settle().await;
        world.pass(DELAY);
        world.write("a", fate).await;
        world.write("b", fate).await;
        let told = world.settle().await;
        assert_eq!(told.len(), 1, "{fate:?}: {told:?}");
        assert!(told[0].ends_with("vacated"));
    }
}

#[tokio::test]
async fn a_channel_that_is_occupied_again_before_its_end_was_confirmed_is_told_each_once() {
    let mut world = World::new("").await;
    for fate in [Fate::Answered, Fate::Unheard] {
        world.table("a").occupy(0, &room("1"));
        world.settle().await;
        world.table("a").vacate(0, &room("1"));
        world.settle().await;
        world.pass(DELAY);
        world.write("a", fate).await;
        world.table("b").occupy(0, &room("1"));
        world.write("b", Fate::Answered).await;
        let expected: &[_] = match fate {
            Fate::Answered => &["a: room:1 vacated", "b: room:1 occupied"],
            // What is true now follows what was not heard in time.
            _ => &["b: room:1 occupied", "a: room:1 vacated", "a: room:1 occupied"],
        };
        assert_eq!(world.settle().await, expected);
        world.table("b").vacate(0, &room("1"));
        world.after(DELAY).await;
    }
}

#[tokio::test]
async fn the_end_that_a_dead_gateway_has_not_told_is_told_although_the_channel_is_occupied_again() {
    let mut world = World::new("").await;
    world.table("a").occupy(0, &room("1"));
    world.settle().await;
    world.table("a").vacate(0, &room("1"));
    world.settle().await;
    world.pass(DELAY);
    world.write("a", Fate::Unheard).await;
    world.table("b").occupy(0, &room("1"));
    assert_eq!(world.settle_at(&["b"]).await, ["b: room:1 occupied"]);
    world.kill("a", "b").await;
    assert_eq!(world.settle().await, ["b: room:1 vacated", "b: room:1 occupied"]);
}

#[tokio::test]
async fn what_a_dead_gateway_has_occupied_another_one_vacates_after_the_delay() {
    let mut world = World::new("").await;
    world.table("a").occupy(0, &room("1"));
    world.table("a").occupy(0, &room("2"));
    world.table("b").occupy(0, &room("2"));
    world.settle().await;
    world.kill("a", "b").await;
    assert!(world.after(DELAY - 1).await.is_empty());
    assert_eq!(world.after(1).await, ["b: room:1 vacated"]);
    world.table("b").vacate(0, &room("2"));
    world.settle().await;
    assert_eq!(world.after(DELAY).await, ["b: room:2 vacated"]);
}

#[tokio::test]
async fn a_gateway_that_dies_during_the_delay_or_before_it_tells_is_replaced() {
    let mut world = World::new("").await;
    world.table("a").occupy(0, &room("1"));
    world.settle().await;
    world.table("a").vacate(0, &room("1"));
    world.table("a").occupy(0, &room("2"));
    world.write("a", Fate::Unheard).await;
    world.pass(1000);
    world.kill("a", "b").await;
    assert_eq!(world.settle().await, ["b: room:2 occupied"], "a may not have told it");
    assert_eq!(world.after(1000).await, ["b: room:1 vacated"], "the delay began with the last subscriber");
    assert_eq!(world.after(DELAY).await, ["b: room:2 vacated"]);
}

#[tokio::test]
async fn a_gateway_that_has_just_written_is_not_taken_over() {
    let mut world = World::new("").await;
    world.table("a").occupy(0, &room("1"));
    world.settle().await;
    let list = world.gateways["a"].list.clone();
    world.pass(100);
    assert_eq!(world.take_over(&list, "a", "b").await, list, "it has to be tried again");
    assert!(world.after(100).await.is_empty());
    world.gateways.remove("a");
    world.pass(DEATH);
    assert!(world.take_over(&list, "a", "b").await.is_empty());
    assert_eq!(world.after(DELAY).await, ["b: room:1 vacated"]);
}

#[tokio::test]
async fn a_gateway_that_was_taken_over_and_is_back_occupies_its_channels_again() {
    let mut world = World::new("").await;
    world.table("a").occupy(0, &room("1"));
    world.settle().await;
    world.pass(DEATH);
    let list = world.gateways["a"].list.clone();
    world.take_over(&list, "a", "b").await;
    world.learns_of_its_death("a");
    assert!(world.after(2 * DELAY).await.is_empty(), "it is back within the delay");
    world.take_over(&list, "a", "b").await;
    assert_eq!(world.after(DELAY).await, ["b: room:1 vacated"]);
    world.learns_of_its_death("a");
    assert_eq!(world.settle().await, ["a: room:1 occupied"]);
}

#[tokio::test]
async fn a_server_without_its_data_makes_events_come_twice_and_loses_none() {
    let mut world = World::new("").await;
    world.table("a").occupy(0, &room("1"));
    world.table("b").occupy(0, &room("1"));
    world.table("a").occupy(0, &room("2"));
    world.settle().await;
    world.table("a").vacate(0, &room("2"));
    world.settle().await;
    world.ask(&["FLUSHALL"]).await;
    world.replace_server();
    assert_eq!(world.settle().await, ["a: room:1 occupied"], "one gateway tells it");
    assert_eq!(world.after(DELAY).await, ["a: room:2 vacated"]);
    world.ask(&["FLUSHALL"]).await;
    world.table("a").vacate(0, &room("1"));
    world.table("b").vacate(0, &room("1"));
    world.settle().await;
    assert_eq!(world.after(DELAY).await.last().unwrap(), "a: room:1 vacated");
}

#[tokio::test]
async fn a_server_that_has_replaced_another_one_is_trusted_by_those_who_know_better() {
    let mut world = World::new("").await;
    world.table("a").occupy(0, &room("1"));
    world.table("a").occupy(0, &room("2"));
    world.settle().await;
    world.replace_server();
    assert!(world.settle().await.is_empty(), "a knows that it is occupied");
    world.replace_server();
    world.table("b").occupy(0, &room("2"));
    world.write("b", Fate::Answered).await;
    assert_eq!(world.settle().await, ["b: room:2 occupied"], "it may have been vacated at the other server");
}

#[tokio::test]
async fn records_are_confirmed_and_those_of_others_expire() {
    let mut world = World::new("").await;
    world.table("a").occupy(0, &room("1"));
    world.table("b").occupy(0, &room("1"));
    world.settle().await;
    for _ in 0..6 {
        world.pass(30_000);
        (0..PresenceTable::SHARDS).for_each(|shard| world.table("a").confirm_occupied(shard, 0));
        world.write("a", Fate::Answered).await;
    }
    world.table("a").vacate(0, &room("1"));
    world.write("a", Fate::Answered).await;
    world.pass(DELAY);
    world.write("a", Fate::Answered).await;
    assert_eq!(world.settle().await, ["a: room:1 vacated"], "b has confirmed nothing for minutes");
}

#[tokio::test]
async fn beyond_the_bound_no_delay_is_waited_for() {
    let mut world = World::new("memory.unsubscribed_channels_max = 1").await;
    let names = ["1", "2", "3"];
    names.iter().for_each(|name| world.table("a").occupy(0, &room(name)));
    world.settle().await;
    for name in names {
        world.table("a").vacate(0, &room(name));
        world.settle().await;
    }
    names.iter().for_each(|name| world.table("b").occupy(0, &room(name)));
    assert_eq!(world.settle().await, ["b: room:2 occupied", "b: room:3 occupied"], "1 was in its delay");
}

#[tokio::test]
async fn while_a_server_is_away_only_what_was_told_is_remembered() {
    let mut world = World::new("").await;
    world.table("a").occupy(0, &room("1"));
    world.settle().await;
    world.table("a").vacate(0, &room("1"));
    world.table("a").occupy(0, &room("2"));
    world.table("a").vacate(0, &room("2"));
    for _ in 0..2 {
        world.table("a").sweep(0);
        world.table("a").sweep_list();
    }
    assert_eq!(world.table("a").shards.iter().map(|shard| shard.len()).sum::<usize>(), 1);
    world.settle().await;
    assert_eq!(world.after(DELAY).await, ["a: room:1 vacated"]);
}

/// A random sequence of subscribers and failures. In the end every channel is told as it is; without failures
/// the events of a channel alternate.
async fn simulate(seed: u64, with_failures: bool) {
    let mut world = World::new("").await;
    let mut random = mix(seed);
    let mut truth = BTreeMap::<Channel, BTreeSet<(String, usize)>>::new();
    let mut told = Vec::new();
    let mut started = 2;
    let mut roll = |below: u64| {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(random) % below
    };
    for _ in 0..150 {
        let names: Vec<_> = world.gateways.keys().cloned().collect();
        let name = names[roll(names.len() as u64) as usize].clone();
        let (channel, worker) = (room(&roll(4).to_string()), roll(2) as usize);
        match roll(if with_failures { 100 } else { 80 }) {
            0..25 => {
                world.table(&name).occupy(worker, &channel);
                truth.entry(channel).or_default().insert((name, worker));
            }
            25..50 => {
                world.table(&name).vacate(worker, &channel);
                truth.entry(channel).or_default().remove(&(name, worker));
            }
            50..70 => drop(world.write(&name, Fate::Answered).await),
            70..80 => world.pass(roll(4000)),
            80..86 => drop(world.write(&name, Fate::Unheard).await),
            86..89 => drop(world.write(&name, Fate::Unsent).await),
            89..91 => drop(world.write(&name, Fate::Refused).await),
            91..93 => world.replace_server(),
            93 => {
                world.ask(&["FLUSHALL"]).await;
                names.iter().for_each(|name| world.learns_of_its_death(name));
            }
            94 => {
                world.ask(&["FLUSHALL"]).await;
                world.replace_server();
            }
            95 => world.learns_of_its_death(&name),
            _ => {
                let by = names.iter().find(|other| **other != name).unwrap().clone();
                world.kill(&name, &by).await;
                truth.values_mut().for_each(|subscribers| subscribers.retain(|(at, _)| *at != name));
                world.start(&format!("gateway-{started}"));
                started += 1;
            }
        }
    }
    for gateway in world.gateways.values() {
        (0..PresenceTable::SHARDS).for_each(|shard| gateway.table.confirm_occupied(shard, 0));
    }
    told.append(&mut world.settle().await);
    for _ in 0..3 {
        told.append(&mut world.after(DELAY).await);
    }
    for (channel, subscribers) in truth {
        let of_channel = format!(" {} ", channel.as_str());
        let events: Vec<_> = told.iter().filter(|event| event.contains(&of_channel)).collect();
        let is = if subscribers.is_empty() { "vacated" } else { "occupied" };
        let last = events.last().map_or("vacated", |event| event.rsplit(' ').next().unwrap());
        assert_eq!(last, is, "seed {seed}: {channel:?} with {subscribers:?}: {events:?}");
        if !with_failures {
            for (index, event) in events.iter().enumerate() {
                let expected = if index % 2 == 0 { "occupied" } else { "vacated" };
                assert!(event.ends_with(expected), "seed {seed}: {events:?}");
            }
        }
    }
}

#[tokio::test]
async fn without_failures_every_event_is_told_once() {
    for seed in 0..15 {
        simulate(seed, false).await;
    }
}

#[tokio::test]
async fn whatever_fails_a_channel_is_told_as_it_is_in_the_end() {
    for seed in 100..140 {
        simulate(seed, true).await;
    }
}
