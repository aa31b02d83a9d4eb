//! A node whose servers fail at every moment. The list never lacks a channel, and in the end all data is
//! correct.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::mix::mix;

const SERVERS: usize = 3;
const CHANNELS: u64 = 12;
const CLIENTS: u64 = 8;

type Texts = BTreeSet<String>;

struct Scene<'a> {
    presence: &'a PresenceTable,
    random: u64,
    /// The actual members.
    truth: BTreeMap<Channel, Texts>,
    /// The data in Redis.
    members: BTreeMap<Channel, Texts>,
    users: BTreeMap<Channel, Texts>,
    list: BTreeSet<Channel>,
    /// Requests under way.
    batches: [Option<Batch<'a>>; SERVERS],
    listing: Option<Listing<'a>>,
    /// Whether forgotten channels may be in the list only.
    forgotten: bool,
    servers: u64,
}

/// Every client always has the same user.
fn of(client: u64) -> Arc<Member> {
    member(&client.to_string(), ["", "ann", "eve"][client as usize % 3])
}

fn user(client: &str) -> String {
    match client.parse::<usize>().unwrap() % 3 {
        0 => format!("@{client}"),
        rest => format!("#{}", ["", "ann", "eve"][rest]),
    }
}

impl<'a> Scene<'a> {
    fn roll(&mut self, shard_queues: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random) % shard_queues
    }

    fn carry_out(&mut self, write: &Write) {
        let channel = write.channel.clone();
        assert!(write.came.is_empty() || self.list.contains(&channel), "{channel:?} is not listed");
        let members = self.members.entry(channel.clone()).or_default();
        let users = self.users.entry(channel).or_default();
        if write.anew {
            members.clear();
            users.clear();
        }
        members.extend(write.came.iter().map(|member| member.client.to_string()));
        users.extend(write.users_came.iter().map(ToString::to_string));
        members.retain(|client| !write.gone.iter().any(|gone| **gone == **client));
        users.retain(|user| !write.users_gone.iter().any(|gone| **gone == **user));
        self.members.retain(|_, members| !members.is_empty());
        self.users.retain(|_, users| !users.is_empty());
    }

    /// A server carries out a request and answers, carries it out without answering, or does neither.
    fn end_batch(&mut self, server: usize, well: bool) {
        let Some(batch) = self.batches[server].take() else { return };
        let fate = if well { 0 } else { self.roll(4) };
        let carried: Vec<bool> = (0..batch.writes.len()).map(|_| fate < 2 || self.roll(2) == 0).collect();
        for shard_index in (0..batch.writes.len()).filter(|shard_index| carried[*shard_index]) {
            self.carry_out(&batch.writes[shard_index]);
        }
        if fate != 1 {
            batch.answered(|shard_index| carried[shard_index]);
        }
    }

    fn end_listing(&mut self, well: bool) {
        let Some(listing) = self.listing.take() else { return };
        let fate = if well { 0 } else { self.roll(3) };
        if fate < 2 {
            self.list.extend(listing.come.iter().cloned());
            self.list.retain(|channel| !listing.gone.contains(channel));
        }
        if fate == 0 {
            listing.done();
        }
    }

    fn server_loses_everything(&mut self, server: usize) {
        self.end_batch(server, false);
        let presence = self.presence;
        self.members.retain(|channel, _| presence.slot_map.shard_of(channel) != server);
        self.users.retain(|channel, _| presence.slot_map.shard_of(channel) != server);
        self.servers += 1;
        presence.begin(server, &self.servers.to_string());
    }

    /// Members of an unlisted channel would never be found.
    fn check(&self) {
        for channel in self.members.keys() {
            assert!(self.list.contains(channel), "{channel:?} has members and is not listed");
        }
    }

    fn step(&mut self) {
        let presence = self.presence;
        let channel = channel(&format!("room:{}", self.roll(CHANNELS)));
        let client = self.roll(CLIENTS);
        let server = self.roll(SERVERS as u64) as usize;
        match self.roll(100) {
            0..30 => {
                presence.enter(&channel, &of(client));
                self.truth.entry(channel).or_default().insert(client.to_string());
            }
            30..60 => {
                presence.leave(&channel, &of(client));
                self.truth.entry(channel).or_default().remove(&client.to_string());
            }
            60..70 if self.batches[server].is_none() => {
                self.batches[server] = Some(presence.take(server, 3, 9));
            }
            60..80 => self.end_batch(server, false),
            80..86 if self.listing.is_none() => self.listing = Some(presence.take_list(3)),
            80..92 => self.end_listing(false),
            92..94 => self.server_loses_everything(server),
            94 => {
                self.end_batch(server, false);
                presence.sweep(server);
                self.forgotten = true;
            }
            95 => {
                self.end_listing(false);
                presence.sweep_list();
                self.forgotten = true;
            }
            96 if !self.forgotten => {
                // The list is lost during a request.
                self.list.clear();
                presence.list_anew();
                self.end_listing(true);
                self.list_everything();
            }
            97 => self.look(),
            98 => presence.write_anew_at(|channel| presence.slot_map.shard_of(channel) == server),
            _ => presence.compare(&channel, 1, 1),
        }
    }

    fn list_everything(&mut self) {
        loop {
            let listing = self.presence.take_list(2);
            if listing.come.is_empty() && listing.gone.is_empty() {
                return;
            }
            self.listing = Some(listing);
            self.end_listing(true);
        }
    }

    fn look(&mut self) {
        self.list.iter().for_each(|channel| self.presence.know(channel));
        self.forgotten = false;
    }

    /// Ends all failures.
    fn settle(&mut self) {
        (0..SERVERS).for_each(|server| self.end_batch(server, false));
        self.end_listing(false);
        self.look();
        for _ in 0..4 {
            self.list_everything();
            for server in 0..SERVERS {
                loop {
                    let batch = self.presence.take(server, 2, 9);
                    if batch.writes.is_empty() {
                        break;
                    }
                    self.batches[server] = Some(batch);
                    self.end_batch(server, true);
                }
            }
        }
        self.truth.retain(|_, clients| !clients.is_empty());
        assert_eq!(self.members, self.truth);
        let users = |clients: &Texts| clients.iter().map(|client| user(client)).collect();
        let expected: BTreeMap<_, Texts> =
            self.truth.iter().map(|(channel, clients)| (channel.clone(), users(clients))).collect();
        assert_eq!(self.users, expected);
        assert_eq!(self.list, self.truth.keys().cloned().collect());
        assert_eq!(self.presence.is_empty(), self.truth.is_empty());
    }
}

#[test]
fn whatever_fails_the_list_has_everything_and_in_the_end_redis_has_what_is() {
    for seed in 0..300 {
        println!("seed {seed}");
        let presence = presence(SERVERS as u16);
        let mut scene = Scene {
            presence: &presence,
            random: mix(seed),
            truth: BTreeMap::new(),
            members: BTreeMap::new(),
            users: BTreeMap::new(),
            list: BTreeSet::new(),
            batches: [const { None }; SERVERS],
            listing: None,
            forgotten: false,
            servers: 0,
        };
        for _ in 0..400 {
            scene.step();
            scene.check();
        }
        scene.settle();
    }
}
