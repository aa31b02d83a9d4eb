//! The scripts of presence. Each uses the keys of one channel.

/// Maximum number of members of a dead node that are removed at once.
pub(crate) const TAKEN_MAX: usize = 500;

/// Writes the members of a node in a channel.
pub(crate) const WRITE: &str = include_str!("../lua/presence_write.lua");

/// Reads the members at some nodes.
pub(crate) const READ: &str = include_str!("../lua/presence_read.lua");

/// Counts connections and users.
pub(crate) const COUNT: &str = include_str!("../lua/presence_count.lua");

/// Removes members of a dead node.
pub(crate) const TAKE: &str = include_str!("../lua/presence_take.lua");
