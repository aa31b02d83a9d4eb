//! The names of everything in Redis. `gateway/REDIS.md` lists them.

use crate::protocol::channel::{Channel, Target};

/// Makes names below one prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: Box<str>,
    /// What is for the subscribers of one channel is published below this.
    topics: Box<str>,
    /// What is for every node is published here.
    nodes: Box<str>,
}

impl Keys {
    /// What stands in the braces of keys that all nodes need.
    pub(crate) const HOME: &str = "nodes";

    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
            topics: format!("{prefix}:to:").into(),
            nodes: format!("{prefix}:all:{{{}}}", Self::HOME).into(),
        }
    }

    /// The stream with the kept publications of a channel.
    pub(crate) fn stream(&self, channel: &Channel) -> String {
        self.of_channel("stream", channel)
    }

    /// The hash that says where the stream stands.
    pub(crate) fn top(&self, channel: &Channel) -> String {
        self.of_channel("top", channel)
    }

    /// Where it is remembered what was published to a channel with an idempotency key.
    pub(crate) fn once(&self, channel: &Channel, key: &str) -> String {
        let mut name = self.of_channel("once", channel);
        name.push(':');
        encode(key, |byte| name.push(char::from(byte)));
        name
    }

    /// What gateways have used of a rate limit together, for one key of a bucket.
    pub(crate) fn limit(&self, bucket: &str, of: &[u8]) -> String {
        let mut key = format!("{}:limit:{{{}}}{{", self.prefix, Self::HOME);
        encode(bucket, |byte| key.push(char::from(byte)));
        key.push_str("}:");
        encode(of, |byte| key.push(char::from(byte)));
        key
    }

    /// What all keys of a channel match, whatever they are for, and no others: no part of it has a meaning of its own.
    pub(crate) fn all_of(&self, channel: &Channel) -> String {
        let mut pattern = self.of_channel("*", channel);
        pattern.push('*');
        pattern
    }

    /// Written and forgotten again to find out whether Redis takes writes. Also a topic that nobody listens to.
    pub(crate) fn probe(&self, tag: &str) -> String {
        format!("{}:probe:{{{tag}}}", self.prefix)
    }

    /// Something random that the server lost with everything else if it has lost something.
    pub(crate) fn anchor(&self, tag: &str) -> String {
        format!("{}:anchor:{{{tag}}}", self.prefix)
    }

    /// A topic below that of channels on which nothing is published: subscribing to it shows that this is allowed, and that
    /// everything before it was heard.
    pub(crate) fn mark(&self, tag: &str, number: u64) -> String {
        format!("{}mark:{{{tag}}}{number}", self.topics)
    }

    /// The number of a topic that [`mark`](Self::mark) has made.
    pub(crate) fn marked(&self, topic: &[u8]) -> Option<u64> {
        let name = topic.strip_prefix(self.topics.as_bytes())?.strip_prefix(b"mark:{")?;
        std::str::from_utf8(name).ok()?.split_once('}')?.1.parse().ok()
    }

    /// The hash with the leases of all gateways.
    pub(crate) fn leases(&self) -> String {
        format!("{}:leases:{{{}}}", self.prefix, Self::HOME)
    }

    /// The hash with who has died or gone and left something behind.
    pub(crate) fn dead(&self) -> String {
        format!("{}:dead:{{{}}}", self.prefix, Self::HOME)
    }

    /// The hash with what each gateway says of itself.
    pub(crate) fn rules(&self) -> String {
        format!("{}:rules:{{{}}}", self.prefix, Self::HOME)
    }

    /// The hash, at each server, with the gateways that use it.
    pub(crate) fn servers(&self) -> String {
        format!("{}:servers:{{{}}}", self.prefix, Self::HOME)
    }

    /// The members of one node in a channel.
    pub(crate) fn presence(&self, channel: &Channel, node: &str) -> String {
        format!("{}:{node}", self.of_channel("presence", channel))
    }

    /// The users of one node in a channel.
    pub(crate) fn users(&self, channel: &Channel, node: &str) -> String {
        format!("{}:{node}", self.of_channel("users", channel))
    }

    /// The set of channels in which a node has members.
    pub(crate) fn presence_of(&self, node: &str) -> String {
        format!("{}:present:{{{}}}:{node}", self.prefix, Self::HOME)
    }

    /// The hash with what is to be known of the clients of a node when it has died.
    pub(crate) fn clients_of(&self, node: &str) -> String {
        format!("{}:clients:{{{}}}:{node}", self.prefix, Self::HOME)
    }

    /// Where a publication to a channel or an address is published.
    pub(crate) fn topic(&self, channel: &Channel) -> String {
        match channel.target() {
            Target::Channel => {
                let mut name = String::from(&*self.topics);
                name.push('{');
                encode(channel.as_str(), |byte| name.push(char::from(byte)));
                name.push('}');
                name
            }
            // Which node has a user or a connection is not known: every node looks for itself.
            Target::User(_) | Target::Connection(_) => self.nodes.to_string(),
        }
    }

    /// What is for every node.
    pub(crate) fn nodes(&self) -> &str {
        &self.nodes
    }

    /// The channel of a topic that [`topic`](Self::topic) has made.
    pub(crate) fn channel(&self, topic: &[u8]) -> Option<Channel> {
        let name = topic.strip_prefix(self.topics.as_bytes())?;
        let name = name.strip_prefix(b"{")?.strip_suffix(b"}")?;
        Channel::parse(&decode(name)?).ok()
    }

    /// All keys of a channel have its name as their hash tag: one script can use them together. Those of users and
    /// connections have that of the topic which everything for them is published on.
    fn of_channel(&self, kind: &str, channel: &Channel) -> String {
        let name = channel.as_str();
        let mut key = String::with_capacity(self.prefix.len() + kind.len() + name.len() + 16);
        key.push_str(&self.prefix);
        key.push(':');
        key.push_str(kind);
        key.push(':');
        if channel.target() != Target::Channel {
            key.push('{');
            key.push_str(Self::HOME);
            key.push('}');
        }
        key.push('{');
        encode(name, |byte| key.push(char::from(byte)));
        key.push('}');
        key
    }
}

/// What may stand in a name as it is: nothing that Redis, its patterns or its rules of access give a meaning.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:#@/=+,~".contains(&byte)
}

/// Every other byte becomes `%` and two digits. Different texts stay different.
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
