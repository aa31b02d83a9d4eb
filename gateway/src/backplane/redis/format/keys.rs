//! `Keys` builds the names of all keys and topics in Redis. `gateway/REDIS.md` lists them.

use std::time::Duration;

use crate::protocol::channel::{Channel, Target};

/// How long leases are kept in Redis: gateways that return after all have died learn which ones there were.
pub(crate) const NODE_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Name of a gateway in Redis, in the log and in the API.
pub(crate) fn node_name(node: u64) -> String {
    format!("{node:016x}")
}

/// The gateway with this name.
pub(crate) fn node_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name, 16).ok().filter(|node| node_name(*node) == name)
}

/// Builds names with one prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: Box<str>,
    /// Prefix of the topics of channels.
    topics: Box<str>,
    /// The topic of all nodes.
    nodes: Box<str>,
}

impl Keys {
    /// The hash tag of keys shared by all nodes.
    pub(crate) const SHARED: &str = "nodes";

    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
            topics: format!("{prefix}:to:").into(),
            nodes: format!("{prefix}:all:{{{}}}", Self::SHARED).into(),
        }
    }

    /// The Redis stream with the kept publications of a channel.
    pub(crate) fn stream(&self, channel: &Channel) -> String {
        self.of_channel("stream", channel)
    }

    /// The hash with the top of a channel's stream.
    pub(crate) fn top(&self, channel: &Channel) -> String {
        self.of_channel("top", channel)
    }

    /// The key that remembers a publication with an idempotency key.
    pub(crate) fn once(&self, channel: &Channel, key: &str) -> String {
        let mut name = self.of_channel("once", channel);
        name.push(':');
        encode(key, |byte| name.push(char::from(byte)));
        name
    }

    /// The use of a rate limit by all gateways, for one key of a bucket.
    pub(crate) fn limit(&self, bucket: &str, of: &[u8]) -> String {
        let mut key = format!("{}:limit:{{{}}}{{", self.prefix, Self::SHARED);
        encode(bucket, |byte| key.push(char::from(byte)));
        key.push_str("}:");
        encode(of, |byte| key.push(char::from(byte)));
        key
    }

    /// Pattern that matches all keys of a channel and no others: special characters are encoded.
    pub(crate) fn all_of(&self, channel: &Channel) -> String {
        let mut pattern = self.of_channel("*", channel);
        pattern.push('*');
        pattern
    }

    /// Written and deleted to check whether Redis takes writes. Also a topic without subscribers.
    pub(crate) fn probe(&self, tag: &str) -> String {
        format!("{}:probe:{{{tag}}}", self.prefix)
    }

    /// A random value: if the server has lost data, this is gone as well.
    pub(crate) fn anchor(&self, tag: &str) -> String {
        format!("{}:anchor:{{{tag}}}", self.prefix)
    }

    /// A topic with the prefix of channels on which nothing is published: a subscription to it shows that
    /// subscribing is allowed, and that all earlier messages were received.
    pub(crate) fn mark(&self, tag: &str, number: u64) -> String {
        format!("{}mark:{{{tag}}}{number}", self.topics)
    }

    /// The number of a topic made by [`mark`](Self::mark).
    pub(crate) fn marked(&self, topic: &[u8]) -> Option<u64> {
        let name = topic.strip_prefix(self.topics.as_bytes())?.strip_prefix(b"mark:{")?;
        std::str::from_utf8(name).ok()?.split_once('}')?.1.parse().ok()
    }

    /// The hash with the leases of all gateways.
    pub(crate) fn leases(&self) -> String {
        format!("{}:leases:{{{}}}", self.prefix, Self::SHARED)
    }

    /// The hash with gateways that have died or left and whose data must be taken over.
    pub(crate) fn dead(&self) -> String {
        format!("{}:dead:{{{}}}", self.prefix, Self::SHARED)
    }

    /// The hash with the description of each gateway.
    pub(crate) fn rules(&self) -> String {
        format!("{}:rules:{{{}}}", self.prefix, Self::SHARED)
    }

    /// The hash, on each server, with the gateways that use it.
    pub(crate) fn servers(&self) -> String {
        format!("{}:servers:{{{}}}", self.prefix, Self::SHARED)
    }

    /// The hash with the revocations.
    pub(crate) fn revoked(&self) -> String {
        format!("{}:revoked:{{{}}}", self.prefix, Self::SHARED)
    }

    /// Their ids in the order of their last changes.
    pub(crate) fn revoked_order(&self) -> String {
        format!("{}:revoked-order:{{{}}}", self.prefix, Self::SHARED)
    }

    /// The members in a channel at one node.
    pub(crate) fn presence(&self, channel: &Channel, node: &str) -> String {
        format!("{}:{node}", self.of_channel("presence", channel))
    }

    /// The users in a channel at one node.
    pub(crate) fn users(&self, channel: &Channel, node: &str) -> String {
        format!("{}:{node}", self.of_channel("users", channel))
    }

    /// The hash that says whether a channel is occupied.
    pub(crate) fn occupancy(&self, channel: &Channel) -> String {
        self.of_channel("occupancy", channel)
    }

    /// The set of channels in which a node has members, or subscribers if occupancy is told.
    pub(crate) fn presence_of(&self, node: &str) -> String {
        format!("{}:present:{{{}}}:{node}", self.prefix, Self::SHARED)
    }

    /// The hash with the clients of a node, for its takeover.
    pub(crate) fn clients_of(&self, node: &str) -> String {
        format!("{}:clients:{{{}}}:{node}", self.prefix, Self::SHARED)
    }

    /// The topic for publications to a channel or an address.
    pub(crate) fn topic(&self, channel: &Channel) -> String {
        match channel.target() {
            Target::Channel => {
                let mut name = String::from(&*self.topics);
                name.push('{');
                encode(channel.as_str(), |byte| name.push(char::from(byte)));
                name.push('}');
                name
            }
            // The node of a user or a connection is unknown: every node looks it up.
            Target::User(_) | Target::Connection(_) => self.nodes.to_string(),
        }
    }

    /// The topic of all nodes.
    pub(crate) fn nodes(&self) -> &str {
        &self.nodes
    }

    /// The topic for the publications of a channel to subscribers of patterns: that of the feed of its
    /// namespace.
    pub(crate) fn feed_topic(&self, channel: &Channel) -> Option<String> {
        channel.feed().map(|feed| self.topic(&feed))
    }

    /// The channel of a topic made by [`topic`](Self::topic), or the feed.
    pub(crate) fn channel(&self, topic: &[u8]) -> Option<Channel> {
        let name = topic.strip_prefix(self.topics.as_bytes())?;
        let name = name.strip_prefix(b"{")?.strip_suffix(b"}")?;
        Channel::parse_subscription(&decode(name)?).ok()
    }

    /// All keys of a channel have its name as hash tag, so that one script can use them together. Those of
    /// users and connections have the hash tag of the topic of all nodes.
    fn of_channel(&self, kind: &str, channel: &Channel) -> String {
        let name = channel.as_str();
        let mut key = String::with_capacity(self.prefix.len() + kind.len() + name.len() + 16);
        key.push_str(&self.prefix);
        key.push(':');
        key.push_str(kind);
        key.push(':');
        if channel.target() != Target::Channel {
            key.push('{');
            key.push_str(Self::SHARED);
            key.push('}');
        }
        key.push('{');
        encode(name, |byte| key.push(char::from(byte)));
        key.push('}');
        key
    }
}

/// Whether a byte needs no encoding: it means nothing to Redis, its patterns or its ACL rules.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:#@/=+,~".contains(&byte)
}

/// Encodes every other byte as `%` and two hex digits. Different texts stay different.
pub(crate) fn encode(text: impl AsRef<[u8]>, mut push: impl FnMut(u8)) {
    for &byte in text.as_ref() {
        if is_plain(byte) {
            push(byte);
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            push(b'%');
            push(DIGITS[usize::from(byte >> 4)]);
            push(DIGITS[usize::from(byte & 15)]);
        }
    }
}

fn decode(name: &[u8]) -> Option<String> {
    let mut text = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        text.push(match byte {
            b'%' => (digit(bytes.next()?)? << 4 | digit(bytes.next()?)?) as u8,
            byte => *byte,
        });
    }
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::format::keys::*;

    fn channel(name: &str) -> Channel {
        Channel::parse(name).unwrap()
    }

    #[test]
    fn keys_of_a_channel_share_a_hash_tag_that_is_its_name() {
        let keys = Keys::new("gw");
        assert_eq!(keys.stream(&channel("chat:1")), "gw:stream:{chat:1}");
        assert_eq!(keys.top(&channel("chat:1")), "gw:top:{chat:1}");
        assert_eq!(keys.topic(&channel("chat:1")), "gw:to:{chat:1}");
    }

    #[test]
    fn keys_of_buckets_are_at_home() {
        let keys = Keys::new("gw");
        let key = keys.limit("rate-limit/chat}", b"42\0{x}");
        assert_eq!(key, "gw:limit:{nodes}{rate-limit/chat%7D}:42%00%7Bx%7D");
    }

    #[test]
    fn addresses_have_no_topic_of_their_own_and_their_keys_lie_beside_it() {
        let keys = Keys::new("gw");
        assert_eq!(keys.topic(&channel("#42")), "gw:all:{nodes}");
        assert_eq!(keys.topic(&channel("@6c1f")), "gw:all:{nodes}");
        assert_eq!(keys.stream(&channel("#42")), "gw:stream:{nodes}{#42}");
        assert_eq!(keys.stream(&channel("#jane {x}*")), "gw:stream:{nodes}{#jane%20%7Bx%7D%2A}");
    }

    #[test]
    fn every_channel_is_found_by_its_topic_and_has_no_character_with_a_meaning() {
        let keys = Keys::new("gw");
        let printable: String = (0x21..0x7f).map(char::from).filter(|c| !"\"\\*{}#@".contains(*c)).collect();
        for name in ["news", "chat:1", "a?b", "[a-z]", "100%", "%41", &printable] {
            let channel = channel(name);
            let topic = keys.topic(&channel);
            let text = topic.strip_prefix("gw:to:{").unwrap().strip_suffix('}').unwrap();
            assert!(text.bytes().all(|b| is_plain(b) || b == b'%'), "{topic}");
            assert_eq!(keys.channel(topic.as_bytes()), Some(channel));
        }
        assert_ne!(keys.topic(&channel("%41")), keys.topic(&channel("A")));
    }

    #[test]
    fn a_mark_is_no_channel_and_knows_its_number() {
        let keys = Keys::new("gw");
        let mark = keys.mark("57", 3);
        assert_eq!((keys.marked(mark.as_bytes()), keys.channel(mark.as_bytes())), (Some(3), None));
        for name in ["mark:1", "mark"] {
            assert_eq!(keys.marked(keys.topic(&channel(name)).as_bytes()), None);
        }
    }

    #[test]
    fn a_feed_has_a_topic_that_no_channel_has() {
        let keys = Keys::new("gw");
        let topic = keys.feed_topic(&channel("news:eu.sport")).unwrap();
        assert_eq!(topic, "gw:to:{news:%2A%2A}");
        let feed = keys.channel(topic.as_bytes()).unwrap();
        assert!(feed.is_pattern() && feed.as_str() == "news:**");
        assert_eq!(keys.channel(b"gw:to:{news:a%2A}"), None);
        assert!(["news", "#a:b", "@c"].into_iter().all(|name| keys.feed_topic(&channel(name)).is_none()));
    }

    #[test]
    fn foreign_topics_are_no_channels() {
        let keys = Keys::new("gw");
        for topic in
            ["", "gw:to:", "gw:to:{}", "gw:to:{a", "gw:to:a}", "gw:to:{%4}", "gw:to:{%zz}", "other:to:{a}"]
        {
            assert_eq!(keys.channel(topic.as_bytes()), None, "{topic}");
        }
        assert_eq!(keys.channel(b"gw:to:{\xff\xfe}"), None);
    }
}
