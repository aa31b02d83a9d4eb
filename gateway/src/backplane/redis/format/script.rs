//! The Lua scripts. Each runs in Redis atomically.

/// The common beginning of every script.
const COMMON: &str = include_str!("../lua/streams.lua");

/// Numbers, keeps and publishes in one atomic step. `verb` is the publish command.
pub(crate) fn publish(verb: &str) -> String {
    text(verb, "", include_str!("../lua/publish.lua"))
}

/// Publishes to the subscribers of a channel and to those of patterns. Other than the scripts of streams it
/// needs no flags: it writes nothing, and its one key is in the slot of the channel.
pub(crate) fn spread(verb: &str) -> String {
    include_str!("../lua/spread.lua").replace("VERB", verb)
}

/// Reads the top of a stream and the publications after a position, at one moment.
pub(crate) fn recover(verb: &str) -> String {
    text(verb, "allow-oom,", include_str!("../lua/recover.lua"))
}

/// Reads a part of the history and the top of the stream, at one moment.
pub(crate) fn history(verb: &str) -> String {
    text(verb, "allow-oom,", include_str!("../lua/history.lua"))
}

/// In a Cluster a script must declare that it reads a key of another slot, and then also declare by flags
/// what Redis would otherwise find out at run time.
fn text(verb: &str, flags: &str, script: &str) -> String {
    let head = if verb == SHARDED_VERB {
        format!("#!lua flags={flags}allow-cross-slot-keys\n")
    } else {
        String::new()
    };
    [&head, COMMON, script].concat().replace("VERB", verb)
}

/// The publish command in a Cluster.
pub(crate) const SHARDED_VERB: &str = "SPUBLISH";

/// Runs everything that publishing needs, on a probe key: a server or user that fails here cannot publish.
/// KEYS[1] is the key, ARGV[1] a topic without subscribers.
pub(crate) fn probe(verb: &str) -> String {
    const TEXT: &str = "\
redis.call('TIME')
redis.call('XADD', KEYS[1], 'MAXLEN', 1, '*', 'd', '')
redis.call('PEXPIRE', KEYS[1], 60000)
redis.call('VERB', ARGV[1], '')
return 1";
    TEXT.replace("VERB", verb)
}

/// Maximum number of members of a channel that can be listed. More can be counted.
pub(crate) const LISTED_MAX: usize = 65_536;

/// Minimum bytes of a member in a response.
pub(crate) const LISTED_BYTES: usize = 64;

/// Maximum number of members of a dead node that are removed at once.
pub(crate) const TAKEN_MAX: usize = 500;

/// Writes the members of a node in a channel. Each script of presence uses the keys of one channel.
pub(crate) const PRESENCE_WRITE: &str = include_str!("../lua/presence_write.lua");

/// Reads the members at some nodes.
pub(crate) const PRESENCE_READ: &str = include_str!("../lua/presence_read.lua");

/// Counts connections and users.
pub(crate) const PRESENCE_COUNT: &str = include_str!("../lua/presence_count.lua");

/// Removes members of a dead node.
pub(crate) const PRESENCE_TAKE: &str = include_str!("../lua/presence_take.lua");

/// Writes whether a node has subscribers in a channel, and finds out whether the channel becomes occupied or
/// vacated.
pub(crate) const OCCUPANCY: &str = include_str!("../lua/occupancy.lua");

/// The digests by which loaded scripts are called.
#[derive(Debug, Clone)]
pub(crate) struct Scripts {
    /// The command that publishes without a script.
    pub(crate) publish_verb: &'static str,
    pub(crate) publish: String,
    pub(crate) spread: String,
    pub(crate) recover: String,
    pub(crate) history: String,
    pub(crate) probe: String,
    pub(crate) presence_write: String,
    pub(crate) presence_read: String,
    pub(crate) presence_count: String,
    pub(crate) presence_take: String,
    pub(crate) occupancy: String,
}
