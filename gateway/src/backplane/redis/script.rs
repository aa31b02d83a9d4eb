//! The scripts. Each runs in Redis as a whole or not at all.

/// What every script begins with.
const COMMON: &str = include_str!("script.lua");

/// One atomic step: numbers, keeps and publishes. `verb` is the command that publishes.
pub(super) fn publish(verb: &str) -> String {
    [COMMON, include_str!("publish.lua")].concat().replace("VERB", verb)
}

/// Where a stream stands and what came after a position, read at one moment.
pub(super) fn recover() -> String {
    [COMMON, include_str!("recover.lua")].concat()
}

/// A part of what is kept, and where the stream stands, read at one moment.
pub(super) fn history() -> String {
    [COMMON, include_str!("history.lua")].concat()
}

/// Everything that publishing needs, with a key of its own: whoever cannot do this cannot publish. KEYS[1] is the key,
/// ARGV[1] a topic that nobody listens to.
pub(super) fn probe(verb: &str) -> String {
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
pub(super) struct Scripts {
    /// The command that publishes without a script.
    pub(super) publish_verb: &'static str,
    pub(super) publish: String,
    pub(super) recover: String,
    pub(super) history: String,
    pub(super) probe: String,
    pub(super) presence_write: String,
    pub(super) presence_read: String,
    pub(super) presence_count: String,
    pub(super) presence_take: String,
}
