//! Which of several servers has what. `gateway/REDIS.md` says it for other programs too, so it never changes.

use super::keys::{self, Keys};
use crate::config::RedisServer;
use crate::protocol::channel::{Channel, Target};

/// Into how many slots the names of channels are spread, as by Redis Cluster.
const SLOTS: u16 = 16_384;

/// The server of each slot, as its place in the list.
#[derive(Debug)]
pub(super) struct Places {
    /// `None` if there is only one server.
    slots: Option<Box<[u8]>>,
    /// Has what is for all nodes.
    home: usize,
}

impl Places {
    /// At most 256 servers.
    pub(super) fn new(servers: &[RedisServer]) -> Self {
        if servers.len() < 2 {
            return Self { slots: None, home: 0 };
        }
        let names: Vec<u64> =
            servers.iter().map(|server| fnv(&format!("{server}/{}", server.database))).collect();
        let heaviest = |slot: u16| {
            let place = (0..names.len()).max_by_key(|place| weight(names[*place], slot));
            place.and_then(|place| u8::try_from(place).ok()).unwrap_or(0)
        };
        let slots: Box<[u8]> = (0..SLOTS).map(heaviest).collect();
        let home = slots[usize::from(slot(Keys::HOME))].into();
        Self { slots: Some(slots), home }
    }

    /// Where everything of a channel is. What is for users and connections is at home: any node may have them.
    pub(super) fn of(&self, channel: &Channel) -> usize {
        match (&self.slots, channel.target()) {
            (None, _) => 0,
            (Some(slots), Target::Channel) => slots[usize::from(slot(channel.as_str()))].into(),
            (Some(_), Target::User(_) | Target::Connection(_)) => self.home,
        }
    }

    /// Where is what all nodes need.
    pub(super) fn home(&self) -> usize {
        self.home
    }
}

/// The slot that `CLUSTER KEYSLOT` tells of every key with this name in braces.
fn slot(name: &str) -> u16 {
    let mut crc = 0_u16;
    keys::encode(name, |byte| {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    });
    crc % SLOTS
}

/// Whoever weighs most has the slot: without one server the others keep what they have.
fn weight(server: u64, slot: u16) -> u64 {
    super::mix(server ^ u64::from(slot))
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

    use super::*;

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
        // What `CLUSTER KEYSLOT` says of "foo", "123456789" and "a%3Fb".
        for (name, expected) in [("foo", 12_182), ("123456789", 12_739), ("a?b", 4_093)] {
            assert_eq!(slot(name), expected, "{name}");
        }
    }

    #[test]
    fn channels_are_spread_evenly_and_stay_where_they_are_when_a_server_comes_or_goes() {
        let three = servers(&[1, 2, 3]);
        let places = Places::new(&three);
        for place in 0..3 {
            let share = channels().filter(|channel| places.of(channel) == place).count();
            assert!((850..1150).contains(&share), "{share} of 3000");
        }
        let two = servers(&[3, 1]);
        let fewer = Places::new(&two);
        for channel in channels() {
            let before = &three[places.of(&channel)];
            assert!(before.port == 2 || two[fewer.of(&channel)] == *before, "{channel:?} has moved");
        }
    }

    #[test]
    fn the_place_of_a_channel_never_changes() {
        let places = Places::new(&servers(&[1, 2, 3]));
        let found: Vec<_> = channels().take(16).map(|channel| places.of(&channel)).collect();
        assert_eq!(
            found,
            [2, 0, 0, 2, 0, 2, 0, 1, 2, 2, 2, 0, 0, 2, 2, 2],
            "another version of the gateway looks for it elsewhere"
        );
    }

    #[test]
    fn what_is_for_users_and_connections_is_where_all_nodes_look() {
        let places = Places::new(&servers(&[1, 2, 3]));
        for name in ["#42", "#43", "#44", "@6c1f"] {
            assert_eq!(places.of(&Channel::parse(name).unwrap()), places.home());
        }
        assert_eq!(Places::new(&servers(&[1])).home(), 0);
    }
}
