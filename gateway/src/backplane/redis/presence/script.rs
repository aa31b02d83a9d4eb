//! The scripts of presence. Each works on the keys of one channel.

/// Members that are taken out at once when their node is dead.
pub(crate) const TAKEN_MAX: usize = 500;

/// What a node has to say of its members in a channel.
pub(crate) const WRITE: &str = include_str!("../lua/presence_write.lua");

/// The members of some nodes.
pub(crate) const READ: &str = include_str!("../lua/presence_read.lua");

/// How many connections and users there are.
pub(crate) const COUNT: &str = include_str!("../lua/presence_count.lua");

/// Takes members of a dead node out.
pub(crate) const TAKE: &str = include_str!("../lua/presence_take.lua");
