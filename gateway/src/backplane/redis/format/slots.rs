//! `SlotMap` maps channels to servers. For independent servers, `gateway/REDIS.md` documents the mapping for
//! other programs too, so it never changes. In a Cluster the servers provide it, and it does change.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::backplane::redis::format::keys::{self, Keys};
use crate::backplane::redis::format::script::SHARDED_VERB;
use crate::config::RedisServer;
use crate::mix::mix;
use crate::protocol::channel::{Channel, Target};

/// Number of slots for channel names, as in Redis Cluster.
pub(crate) const SLOTS: u16 = 16_384;

/// Index of the server of each slot.
#[derive(Debug)]
pub(crate) struct SlotMap {
    /// `None` if there is only one server.
    slots: Option<Box<[AtomicU8]>>,
    /// Whether slots can move from one server to another.
    moving: bool,
    /// The slot of the keys shared by all nodes.
    shared_slot: u16,
}

impl SlotMap {
    /// Independent servers, at most 256: each slot belongs to the server with the highest weight.
    pub(crate) fn new(servers: &[RedisServer]) -> Self {
        let names: Vec<u64> =
            servers.iter().map(|server| fnv(&format!("{server}/{}", server.database))).collect();
        let heaviest = |slot: u16| {
            let shard_index = (0..names.len()).max_by_key(|shard_index| weight(names[*shard_index], slot));
            AtomicU8::new(shard_index.and_then(|shard_index| u8::try_from(shard_index).ok()).unwrap_or(0))
        };
        let slots = (servers.len() > 1).then(|| (0..SLOTS).map(heaviest).collect());
        Self { slots, moving: false, shared_slot: slot(Keys::SHARED) }
    }

    /// A Cluster with an unknown slot map: everything has index 0.
    pub(crate) fn of_cluster() -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU8::new(0)).collect();
        Self { slots: Some(slots), moving: true, shared_slot: slot(Keys::SHARED) }
    }

    /// Whether a channel may move to another server.
    pub(crate) fn are_moving(&self) -> bool {
        self.moving
    }

    /// The publish command: in a Cluster it reaches the subscribers on a slot's server only, instead of all
    /// servers.
    pub(crate) fn publish_verb(&self) -> &'static str {
        if self.moving { SHARDED_VERB } else { "PUBLISH" }
    }

    /// Index of the server of a channel. Users and connections are on the shared server, because any node may
    /// have them.
    pub(crate) fn shard_of(&self, channel: &Channel) -> usize {
        match (&self.slots, channel.target()) {
            (None, _) => 0,
            (Some(slots), Target::Channel) => at(slots, slot(channel.as_str())),
            (Some(slots), Target::User(_) | Target::Connection(_)) => at(slots, self.shared_slot),
        }
    }

    /// Index of the server that holds the keys shared by all nodes.
    pub(crate) fn shared_shard(&self) -> usize {
        self.slots.as_ref().map_or(0, |slots| at(slots, self.shared_slot))
    }

    /// Index of the server of a slot.
    pub(crate) fn shard_of_slot(&self, slot: u16) -> usize {
        self.slots.as_ref().map_or(0, |slots| at(slots, slot))
    }

    /// The lowest slot of a server: [`tag`](Self::tag) of 0 is in it.
    pub(crate) fn lowest_slot(&self, shard_index: usize) -> Option<u16> {
        (0..SLOTS).find(|slot| self.shard_of_slot(*slot) == shard_index)
    }

    /// Assigns a slot to another server.
    pub(crate) fn assign(&self, slot: u16, shard_index: u8) {
        if let Some(slots) = &self.slots {
            slots[usize::from(slot)].store(shard_index, Ordering::Release);
        }
    }

    /// A hash tag in one of the server's slots; `number` selects the slot.
    pub(crate) fn tag(&self, shard_index: usize, number: u64) -> String {
        let owned: Vec<u16> = (0..SLOTS).filter(|slot| self.shard_of_slot(*slot) == shard_index).collect();
        let chosen = owned.get((mix(number) % owned.len().max(1) as u64) as usize);
        // One number of 16384 maps to the slot.
        let in_slot =
            (0..1 << 20).map(|number: u32| number.to_string()).find(|tag| Some(&slot(tag)) == chosen);
        in_slot.unwrap_or_default()
    }
}

fn at(slots: &[AtomicU8], slot: u16) -> usize {
    slots[usize::from(slot)].load(Ordering::Acquire).into()
}

/// The slot of a channel.
pub(crate) fn slot_of(channel: &Channel) -> u16 {
    match channel.target() {
        Target::Channel => slot(channel.as_str()),
        Target::User(_) | Target::Connection(_) => slot(Keys::SHARED),
    }
}

/// The slot that `CLUSTER KEYSLOT` returns for every key with this name in braces.
fn slot(name: &str) -> u16 {
    let mut crc = 0_u16;
    keys::encode(name, |byte| crc = (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)]);
    crc % SLOTS
}

/// The CRC of Redis Cluster, CRC-16/XMODEM, of each byte.
const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The server with the highest weight has the slot: if one server is removed, the others keep their slots.
fn weight(server: u64, slot: u16) -> u64 {
    mix(server ^ u64::from(slot))
}

/// FNV-1a with 64 bits.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::format::slots::*;

    fn servers(ports: &[u16]) -> Vec<RedisServer> {
        let server =
            |port: &u16| RedisServer { tls: false, host: "10.0.0.5".into(), port: *port, database: 0 };
        ports.iter().map(server).collect()
    }

    fn channels() -> impl Iterator<Item = Channel> {
        (0..3000).map(|number| Channel::parse(&format!("chat:{number}")).unwrap())
    }

    #[test]
    fn slots_are_those_of_redis() {
        // The results of `CLUSTER KEYSLOT` for "foo", "123456789" and "a%3Fb".
        for (name, expected) in [("foo", 12_182), ("123456789", 12_739), ("a?b", 4_093)] {
            assert_eq!(slot(name), expected, "{name}");
        }
    }

    #[test]
    fn channels_are_spread_evenly_and_stay_where_they_are_when_a_server_comes_or_goes() {
        let three = servers(&[1, 2, 3]);
        let slot_map = SlotMap::new(&three);
        for shard_index in 0..3 {
            let share = channels().filter(|channel| slot_map.shard_of(channel) == shard_index).count();
            assert!((850..1150).contains(&share), "{share} of 3000");
        }
        let two = servers(&[3, 1]);
        let fewer = SlotMap::new(&two);
        for channel in channels() {
            let before = &three[slot_map.shard_of(&channel)];
            assert!(before.port == 2 || two[fewer.shard_of(&channel)] == *before, "{channel:?} has moved");
        }
    }

    #[test]
    fn the_place_of_a_channel_never_changes() {
        let slot_map = SlotMap::new(&servers(&[1, 2, 3]));
        let found: Vec<_> = channels().take(16).map(|channel| slot_map.shard_of(&channel)).collect();
        assert_eq!(
            found,
            [2, 0, 0, 2, 0, 2, 0, 1, 2, 2, 2, 0, 0, 2, 2, 2],
            "another version of the gateway looks for it elsewhere"
        );
    }

    #[test]
    fn what_is_for_users_and_connections_is_where_all_nodes_look() {
        let slot_map = SlotMap::new(&servers(&[1, 2, 3]));
        for name in ["#42", "#43", "#44", "@6c1f"] {
            assert_eq!(slot_map.shard_of(&Channel::parse(name).unwrap()), slot_map.shared_shard());
        }
        assert_eq!(SlotMap::new(&servers(&[1])).shared_shard(), 0);
    }

    #[test]
    fn a_tag_lies_where_it_is_wanted() {
        let slot_map = SlotMap::of_cluster();
        for number in 5_000..6_000 {
            slot_map.assign(number, 1);
        }
        for number in 1..20 {
            assert!((5_000..6_000).contains(&slot(&slot_map.tag(1, number))));
            assert!(!(5_000..6_000).contains(&slot(&slot_map.tag(0, number))));
        }
        assert_ne!(slot_map.tag(1, 1), slot_map.tag(1, 2), "one that was refused is not tried for ever");
        for lowest in [5_000, 17] {
            slot_map.assign(lowest, 1);
            assert_eq!(
                (slot_map.lowest_slot(1), slot(&slot_map.tag(1, 0))),
                (Some(lowest), lowest),
                "all find the same"
            );
        }
        assert_eq!(slot_map.lowest_slot(2), None);
    }
}
