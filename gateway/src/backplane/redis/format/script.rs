//! The scripts. Each runs in Redis as a whole or not at all.

/// What every script begins with.
const COMMON: &str = include_str!("../lua/streams.lua");

/// One atomic step: numbers, keeps and publishes. `verb` is the command that publishes.
pub(crate) fn publish(verb: &str) -> String {
    text(verb, "", include_str!("../lua/publish.lua"))
}

/// Where a stream stands and what came after a position, read at one moment.
pub(crate) fn recover(verb: &str) -> String {
    text(verb, "allow-oom,", include_str!("../lua/recover.lua"))
}

/// A part of what is kept, and where the stream stands, read at one moment.
pub(crate) fn history(verb: &str) -> String {
    text(verb, "allow-oom,", include_str!("../lua/history.lua"))
}

/// In a Cluster a script has to say that it looks at a key of another slot. There it also has to say with flags what else would
/// be found out as it runs.
fn text(verb: &str, flags: &str, script: &str) -> String {
    let head = if verb == SHARDED_VERB {
        format!("#!lua flags={flags}allow-cross-slot-keys\n")
    } else {
        String::new()
    };
    [&head, COMMON, script].concat().replace("VERB", verb)
}

/// The command that publishes in a Cluster.
pub(crate) const SHARDED_VERB: &str = "SPUBLISH";

/// Everything that publishing needs, with a key of its own: whoever cannot do this cannot publish. KEYS[1] is the key,
/// ARGV[1] a topic that nobody listens to.
pub(crate) fn probe(verb: &str) -> String {
    const TEXT: &str = "\
redis.call('TIME')
redis.call('XADD', KEYS[1], 'MAXLEN', 1, '*', 'd', '')
redis.call('PEXPIRE', KEYS[1], 60000)
redis.call('VERB', ARGV[1], '')
return 1";
    TEXT.replace("VERB", verb)
}

/// The digests that loaded scripts are called by.
#[derive(Debug, Clone)]
pub(crate) struct Scripts {
    /// The command that publishes without a script.
    pub(crate) publish_verb: &'static str,
    pub(crate) publish: String,
    pub(crate) recover: String,
    pub(crate) history: String,
    pub(crate) probe: String,
    pub(crate) presence_write: String,
    pub(crate) presence_read: String,
    pub(crate) presence_count: String,
    pub(crate) presence_take: String,
}
